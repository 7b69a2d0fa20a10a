//! Four nodes and a bad network, then the rules one by one.

use hufu_crypto::software_provider;
use hufu_types::{BatchBuilder, Digest};

use super::*;
use crate::tests::{CHAIN, transaction};

const LIMITS: ProposalLimits =
    ProposalLimits { batches_max: 64, transactions_max: 1_000_000, bytes_max: 1 << 40 };

fn address(number: u8) -> Address {
    Address([number; 20])
}

fn batch(origin: u8, sequence: u64) -> Batch {
    let mut builder = BatchBuilder::new(CHAIN, address(origin));
    builder.push(&transaction(origin, sequence, 100, 1));
    builder.seal(sequence, &*software_provider().hasher)
}

fn block(number: u8) -> BlockDigest {
    BlockDigest(Digest([number; 32]))
}

fn node(number: u8) -> Dissemination {
    Dissemination::new(DisseminationConfig::default(), address(number), (1..=4).map(address))
}

fn effects(node: &mut Dissemination) -> Vec<Effect> {
    node.effects().collect()
}

/// Takes a peer's batch to the disk.
fn hold(node: &mut Dissemination, batch: &Batch) {
    node.received(batch.header().origin, batch.clone());
    node.judged(batch.digest(), true);
    node.durable(batch.digest());
    drop(effects(node));
}

/// What one node sends another.
#[derive(Clone, Debug)]
enum Mail {
    Batch(Batch),
    Ask(Vec<BatchDigest>),
    Lack(Vec<BatchDigest>),
}

/// Four nodes; mail is lost, doubled and reordered, links end and come back.
struct Network {
    nodes: Vec<Dissemination>,
    mail: Vec<(usize, usize, Mail)>,
    judged: Vec<BTreeMap<BatchDigest, u32>>,
    available: Vec<BTreeSet<BlockDigest>>,
    durable: Vec<BTreeSet<BlockDigest>>,
    seed: u64,
    now: u64,
    loss: u64,
}

impl Network {
    fn new(seed: u64) -> Self {
        let mut nodes: Vec<Dissemination> = (1..=4).map(node).collect();
        for (place, node) in nodes.iter_mut().enumerate() {
            for peer in (0..4).filter(|peer| *peer != place) {
                node.peer_up(0, address(u8::try_from(peer).unwrap() + 1));
            }
        }
        Self {
            nodes,
            mail: Vec::new(),
            judged: vec![BTreeMap::new(); 4],
            available: vec![BTreeSet::new(); 4],
            durable: vec![BTreeSet::new(); 4],
            seed,
            now: 0,
            loss: 30,
        }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        (self.seed >> 33) % below.max(1)
    }

    fn place(address: Address) -> usize {
        usize::from(address.0[0]) - 1
    }

    fn act(&mut self, from: usize) {
        for effect in effects(&mut self.nodes[from]) {
            let (to, mail) = match effect {
                Effect::Send { peer, batch } => (peer, Mail::Batch(batch)),
                Effect::Ask { peer, digests } => (peer, Mail::Ask(digests)),
                Effect::Lack { peer, digests } => (peer, Mail::Lack(digests)),
                Effect::Judge(batch) => {
                    *self.judged[from].entry(batch.digest()).or_default() += 1;
                    self.nodes[from].judged(batch.digest(), true);
                    self.act(from);
                    continue;
                }
                Effect::Store(batch) => {
                    self.nodes[from].durable(batch.digest());
                    self.act(from);
                    continue;
                }
                Effect::Available(block) => {
                    assert!(self.available[from].insert(block), "said once");
                    continue;
                }
                Effect::Durable(block) => {
                    assert!(self.available[from].contains(&block), "valid before durable");
                    assert!(self.durable[from].insert(block), "said once");
                    continue;
                }
                Effect::Invalid(block) => panic!("{block} is valid"),
                Effect::Blame(peer, blame) => {
                    // A batch that was asked for and came twice, by way of two peers, is nobody's
                    // fault; the first was taken, and the second found it here.
                    panic!("{peer} is honest: {blame:?}")
                }
            };
            if self.random(100) < self.loss {
                continue;
            }
            self.mail.push((from, Self::place(to), mail.clone()));
            if self.random(100) < 10 {
                self.mail.push((from, Self::place(to), mail));
            }
        }
    }

    /// Delivers one piece of mail or, without any, lets time pass.
    fn event(&mut self) {
        if self.mail.is_empty() {
            let next = self.nodes.iter().filter_map(Dissemination::deadline).min();
            self.now = next.unwrap_or(self.now).max(self.now);
            for place in 0..4 {
                self.nodes[place].tick(self.now);
                self.act(place);
            }
            return;
        }
        let count = u64::try_from(self.mail.len()).unwrap();
        let picked = usize::try_from(self.random(count)).unwrap();
        let (from, to, mail) = self.mail.swap_remove(picked);
        let peer = address(u8::try_from(from).unwrap() + 1);
        match mail {
            Mail::Batch(batch) => self.nodes[to].received(peer, batch),
            Mail::Ask(digests) => self.nodes[to].wanted(peer, &digests),
            Mail::Lack(digests) => self.nodes[to].absent(self.now, peer, &digests),
        }
        self.act(to);
    }
}

#[test]
fn what_a_block_orders_reaches_everybody_and_is_judged_once() {
    for seed in 0..40 {
        let mut network = Network::new(seed);
        let mut digests = Vec::new();
        for sequence in 0..6 {
            for origin in 1..=4 {
                let batch = batch(origin, sequence);
                digests.push(batch.digest());
                let place = usize::from(origin) - 1;
                network.nodes[place].sealed(batch);
                network.act(place);
            }
        }
        for place in 0..4 {
            let proposer = address(u8::try_from(seed % 4).unwrap() + 1);
            assert!(network.nodes[place].need(network.now, 1, block(1), &digests, proposer));
            network.act(place);
        }
        for _ in 0..20_000 {
            if network.durable.iter().all(|blocks| blocks.contains(&block(1))) {
                break;
            }
            network.event();
        }
        for place in 0..4 {
            assert!(network.durable[place].contains(&block(1)), "seed {seed}, node {place}");
            let counts = &network.judged[place];
            assert!(counts.values().all(|count| *count == 1), "judged once");
            assert_eq!(counts.len(), 18, "its own are known to be valid");
        }
    }
}

#[test]
fn an_invalid_batch_is_refused_with_its_block_and_its_senders_are_blamed() {
    let mut node = node(1);
    let bad = batch(2, 1);
    node.peer_up(0, address(3));
    assert!(node.need(0, 1, block(1), &[bad.digest()], address(3)));
    drop(effects(&mut node));
    node.received(address(3), bad.clone());
    assert!(matches!(&effects(&mut node)[..], [Effect::Judge(_)]));
    node.judged(bad.digest(), false);
    let blamed: Vec<_> = effects(&mut node);
    let [Effect::Blame(sender, _), Effect::Blame(origin, _), Effect::Invalid(refused)] =
        &blamed[..]
    else {
        panic!("{blamed:?}");
    };
    assert_eq!((*sender, *origin, *refused), (address(3), address(2), block(1)));
    assert!(node.need(0, 1, block(2), &[bad.digest()], address(3)));
    assert!(matches!(&effects(&mut node)[..], [Effect::Invalid(_)]), "known to be bad");
    node.received(address(2), bad);
    assert!(
        matches!(&effects(&mut node)[..], [Effect::Blame(_, Blame::Invalid)]),
        "not judged again"
    );
    assert!(node.propose(1, &LIMITS).is_empty());
}

#[test]
fn nobody_pushes_for_others_or_more_than_his_share() {
    let small = DisseminationConfig {
        origin_bytes_max: u64::from(BATCH_SIZE_MAX),
        ..DisseminationConfig::default()
    };
    let mut node = Dissemination::new(small, address(1), (1..=4).map(address));
    node.received(address(3), batch(2, 1));
    assert!(matches!(&effects(&mut node)[..], [Effect::Blame(_, Blame::Unasked)]));
    node.received(address(9), batch(9, 1));
    assert!(matches!(&effects(&mut node)[..], [Effect::Blame(_, Blame::OriginUnknown)]));
    let size = size_of_batch(&batch(2, 1));
    let fit = u64::from(BATCH_SIZE_MAX) / size;
    for sequence in 0..fit {
        node.received(address(2), batch(2, sequence));
    }
    assert!(effects(&mut node).iter().all(|effect| matches!(effect, Effect::Judge(_))));
    let surplus = batch(2, fit);
    node.received(address(2), surplus.clone());
    assert!(matches!(&effects(&mut node)[..], [Effect::Blame(_, Blame::Surplus)]));
    node.received(address(3), batch(3, 1));
    assert!(matches!(&effects(&mut node)[..], [Effect::Judge(_)]), "others still find room");
    assert!(node.need(0, 1, block(1), &[surplus.digest()], address(2)));
    node.received(address(2), surplus);
    assert!(matches!(&effects(&mut node)[..], [Effect::Judge(_)]), "what a block orders is taken");
}

/// Proposer first, then everybody in turn; a peer that is gone or has nothing is passed over.
#[test]
fn missing_batches_are_asked_for_in_turn() {
    let mut node = node(1);
    let wanted = batch(4, 1).digest();
    assert!(node.need(0, 1, block(1), &[wanted], address(3)));
    assert!(effects(&mut node).is_empty() && node.deadline().is_none(), "nobody to ask");
    node.peer_up(5, address(2));
    let asked = |node: &mut Dissemination| {
        effects(node)
            .iter()
            .map(|effect| match effect {
                Effect::Ask { peer, digests } => (*peer, digests.len()),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(asked(&mut node), [(address(2), 1)]);
    node.peer_up(6, address(3));
    node.peer_up(6, address(4));
    assert!(asked(&mut node).is_empty(), "one at a time");
    node.absent(7, address(4), &[wanted]);
    assert!(asked(&mut node).is_empty(), "it was not asked");
    node.absent(7, address(2), &[wanted]);
    assert_eq!(asked(&mut node), [(address(4), 1)]);
    let later = node.deadline().unwrap();
    node.tick(later - 1);
    assert!(asked(&mut node).is_empty());
    node.tick(later);
    assert_eq!(asked(&mut node), [(address(3), 1)]);
    node.peer_down(later + 1, address(3));
    assert_eq!(asked(&mut node), [(address(2), 1)]);
    node.wanted(address(2), &[wanted]);
    assert!(matches!(&effects(&mut node)[..], [Effect::Lack { .. }]));
}

#[test]
fn proposals_take_every_origin_in_turn_and_keep_its_order() {
    let mut node = node(1);
    for sequence in 0..3 {
        for origin in 2..=4 {
            hold(&mut node, &batch(origin, sequence));
        }
    }
    // Its predecessor is not on disk yet, so neither may leave.
    node.sealed(batch(1, 0));
    node.sealed(batch(1, 1));
    node.durable(batch(1, 1).digest());
    let order = |height| {
        let proposed = node.propose(height, &LIMITS);
        let place = |batch: &Batch| (batch.header().origin.0[0], batch.header().sequence.get());
        proposed.iter().map(place).collect::<Vec<_>>()
    };
    let turns = [(2, 0), (3, 0), (4, 0), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2)];
    assert_eq!(order(1), turns);
    assert_eq!(order(2)[0], (3, 0), "another origin is first at the next height");
    let two = ProposalLimits { transactions_max: 2, ..LIMITS };
    assert_eq!(node.propose(1, &two).len(), 2);
}

#[test]
fn ordered_batches_are_kept_for_a_while_and_asked_for_no_more() {
    let mut node = node(1);
    node.peer_up(0, address(2));
    let (first, second) = (batch(2, 1), batch(2, 2));
    hold(&mut node, &first);
    assert!(node.need(0, 1, block(1), &[second.digest()], address(2)));
    drop(effects(&mut node));
    node.ordered(1, &[first.digest()]);
    assert!(node.deadline().is_none(), "the block that wanted it is of a height that is over");
    assert!(node.propose(2, &LIMITS).is_empty(), "nothing is ordered twice");
    for height in 2..=9 {
        assert!(node.get(&first.digest()).is_some(), "kept at height {height}");
        node.ordered(height, &[]);
    }
    node.ordered(10, &[]);
    assert!(node.get(&first.digest()).is_none());
    node.wanted(address(2), &[first.digest()]);
    assert!(matches!(&effects(&mut node)[..], [Effect::Lack { .. }]));
}

#[test]
fn a_link_that_comes_back_brings_the_own_batches() {
    let mut node = node(1);
    node.sealed(batch(1, 0));
    node.sealed(batch(1, 1));
    node.ordered(1, &[batch(1, 0).digest()]);
    drop(effects(&mut node));
    node.peer_up(0, address(2));
    let sent = effects(&mut node);
    assert!(
        matches!(&sent[..], [Effect::Send { batch, .. }] if batch.header().sequence.get() == 1)
    );
}
