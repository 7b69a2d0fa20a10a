//! Four nodes and a bad network, then the rules one by one.

mod holding;

use hufu_crypto::software_provider;
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::{BatchBuilder, Digest};

use super::*;
use crate::tests::{CHAIN, sized_transaction, transaction};

fn address(number: u8) -> Address {
    Address([number; 20])
}

fn batch(origin: u8, sequence: u64) -> Batch {
    lasting(origin, sequence, 100)
}

/// A batch that may be ordered up to this height.
fn lasting(origin: u8, sequence: u64, valid_until: u64) -> Batch {
    let mut builder = BatchBuilder::new(CHAIN, address(origin));
    builder.push(&transaction(origin, sequence, valid_until, 1));
    builder.seal(sequence, &*software_provider().hasher)
}

/// A batch of nearly a mebibyte.
fn large(origin: u8, sequence: u64) -> Batch {
    let mut builder = BatchBuilder::new(CHAIN, address(origin));
    for nonce in 0..13 {
        builder.push(&sized_transaction(origin, 100 * sequence + nonce, 100, 1, 1_024));
    }
    builder.seal(sequence, &*software_provider().hasher)
}

fn block(number: u8) -> BlockDigest {
    BlockDigest(Digest([number; 32]))
}

fn node(number: u8) -> Dissemination {
    configured(DisseminationConfig::default(), number)
}

fn configured(config: DisseminationConfig, number: u8) -> Dissemination {
    // Alone it is a quorum, so that what it holds it proposes; who else holds what has tests of its
    // own.
    let power = |one| if one == number { 7 } else { 1 };
    let validators = (1..=4).map(|one| (address(one), power(one)));
    Dissemination::new(config, address(number), validators, OrderedBatches::new(1))
}

/// A node like three others.
fn equal(number: u8) -> Dissemination {
    let validators = (1..=4).map(|one| (address(one), 1));
    let config = DisseminationConfig::default();
    Dissemination::new(config, address(number), validators, OrderedBatches::new(1))
}

fn proposed(node: &Dissemination, height: u64) -> Vec<(u8, u64)> {
    let proposed = node.propose(height, &ProposalLimits::default());
    let place = |batch: &Batch| (batch.header().origin.0[0], batch.header().sequence.get());
    proposed.iter().map(place).collect()
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
    AskBodies(u64),
    NoBodies(u64),
    Hold(Vec<BatchDigest>),
}

/// Four nodes; mail is lost, doubled and reordered, links end and come back.
struct Network {
    nodes: Vec<Dissemination>,
    mail: Vec<(usize, usize, Mail)>,
    judged: Vec<BTreeMap<BatchDigest, u32>>,
    available: Vec<BTreeSet<BlockDigest>>,
    durable: Vec<BTreeSet<BlockDigest>>,
    /// Bodies of height 1, which everybody but node 4 has.
    bodies: Vec<Batch>,
    seed: u64,
    now: u64,
    loss: u64,
}

impl Network {
    fn new(seed: u64) -> Self {
        let mut nodes: Vec<Dissemination> = (1..=4).map(equal).collect();
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
            bodies: Vec::new(),
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
                Effect::AskBodies { peer, height } => (peer, Mail::AskBodies(height)),
                Effect::Hold { peer: Some(peer), digests } => (peer, Mail::Hold(digests)),
                Effect::Hold { peer: None, digests } => {
                    for to in (0..4).filter(|to| *to != from) {
                        self.post(from, to, Mail::Hold(digests.clone()));
                    }
                    continue;
                }
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
            self.post(from, Self::place(to), mail);
        }
    }

    fn post(&mut self, from: usize, to: usize, mail: Mail) {
        if self.random(100) < self.loss {
            return;
        }
        self.mail.push((from, to, mail.clone()));
        if self.random(100) < 10 {
            self.mail.push((from, to, mail));
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
            // The first node has no history.
            Mail::AskBodies(height) if to == 0 => self.post(to, from, Mail::NoBodies(height)),
            Mail::AskBodies(_) => {
                for batch in self.bodies.clone() {
                    self.post(to, from, Mail::Batch(batch));
                }
            }
            Mail::NoBodies(height) => self.nodes[to].no_bodies(self.now, peer, height),
            Mail::Hold(digests) => self.nodes[to].held(peer, &digests),
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
    assert_eq!(proposed(&node, 1), []);
}

#[test]
fn nobody_pushes_for_others_or_more_than_his_share() {
    let small = DisseminationConfig {
        origin_bytes_max: u64::from(BATCH_SIZE_MAX),
        ..DisseminationConfig::default()
    };
    let mut node = configured(small, 1);
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
    let turns = [(2, 0), (3, 0), (4, 0), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2)];
    assert_eq!(proposed(&node, 1), turns);
    assert_eq!(proposed(&node, 2)[0], (3, 0), "another origin is first at the next height");
    let usual = ProposalLimits::default();
    let size = size_of_batch(&batch(2, 0));
    for limits in [
        ProposalLimits { batches_max: 2, ..usual },
        ProposalLimits { transactions_max: 2, ..usual },
        ProposalLimits { keys_max: 2 * batch(2, 0).keys_count(), ..usual },
        ProposalLimits { bytes_max: 3 * size - 1, ..usual },
    ] {
        assert_eq!(node.propose(1, &limits).len(), 2, "{limits:?}");
    }
    let tiny = ProposalLimits { transactions_max: 0, keys_max: 0, bytes_max: 0, ..usual };
    assert_eq!(node.propose(1, &tiny).len(), 1, "a large first batch goes alone");
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
    assert_eq!(proposed(&node, 2), [], "nothing is ordered twice");
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

#[test]
fn decided_bodies_are_fetched_from_whoever_has_them() {
    for seed in 0..40 {
        let mut network = Network::new(seed);
        let all: Vec<Batch> = (0..20).map(|number| batch(number % 4 + 1, number.into())).collect();
        let digests: Vec<BatchDigest> = all.iter().map(Batch::digest).collect();
        // Some it has, some an undecided block of another digest made it ask for.
        for batch in &all[..4] {
            hold(&mut network.nodes[3], batch);
        }
        assert!(network.nodes[3].need(0, 1, block(2), &digests[3..8], address(1)));
        network.nodes[3].need_decided(0, 1, block(1), &digests, address(1));
        let undecided = effects(&mut network.nodes[3]);
        let asked = undecided.iter().filter(|one| matches!(one, Effect::AskBodies { .. })).count();
        assert_eq!(asked, 1, "one question for all: {undecided:?}");
        network.post(3, 0, Mail::AskBodies(1));
        network.bodies = all.clone();
        for _ in 0..20_000 {
            if network.durable[3].contains(&block(1)) {
                break;
            }
            network.event();
        }
        assert!(network.durable[3].contains(&block(1)), "seed {seed}");
        assert!(network.judged[3].values().all(|count| *count == 1), "judged once");
        let bodies = network.nodes[3].bodies(&block(1)).unwrap();
        assert_eq!(bodies.iter().map(Batch::digest).collect::<Vec<_>>(), digests);
        network.nodes[3].tick(network.now + 3_600_000_000_000);
        assert_eq!(asks(&mut network.nodes[3]), [], "nothing is asked for any more");
        network.nodes[3].ordered(1, &digests);
        assert!(network.nodes[3].bodies(&block(1)).is_none(), "the height is over");
        assert_eq!(proposed(&network.nodes[3], 2), []);
    }
}

fn asks(node: &mut Dissemination) -> Vec<(u8, Option<u64>)> {
    let asked = |effect: Effect| match effect {
        Effect::Ask { peer, .. } => Some((peer.0[0], None)),
        Effect::AskBodies { peer, height } => Some((peer.0[0], Some(height))),
        _ => None,
    };
    node.effects().filter_map(asked).collect()
}

#[test]
fn bodies_are_asked_of_the_holder_then_of_the_others_in_turn() {
    let mut node = node(1);
    (2..=4).for_each(|peer| node.peer_up(0, address(peer)));
    let missing = [batch(2, 1), batch(2, 2)];
    node.need_decided(0, 5, block(1), &missing.each_ref().map(Batch::digest), address(3));
    assert_eq!(asks(&mut node), [(3, Some(5))]);
    node.no_bodies(1, address(4), 5);
    node.no_bodies(1, address(3), 6);
    assert_eq!(asks(&mut node), [], "it was not asked that");
    node.no_bodies(1, address(3), 5);
    assert_eq!(asks(&mut node), [(2, Some(5))]);
    let due = node.deadline().unwrap();
    node.tick(due);
    assert_eq!(asks(&mut node), [(4, Some(5))]);
    node.no_bodies(due + 1, address(4), 5);
    let heights = |node: &mut Dissemination| -> Vec<(u8, Option<u64>)> {
        asks(node).into_iter().filter(|(_, height)| height.is_some()).collect()
    };
    assert_eq!(heights(&mut node), [], "everybody was asked: the next round waits");
    node.tick(due + 1 + DisseminationConfig::default().ask_nanos);
    assert_eq!(heights(&mut node), [(3, Some(5))]);
    node.peer_down(due + 2, address(3));
    assert_eq!(heights(&mut node), [(2, Some(5))]);
    node.received(address(2), missing[0].clone());
    let due = node.deadline().unwrap();
    node.tick(due);
    assert_eq!(heights(&mut node), [], "whoever is sending is not passed over");
    node.tick(due + DisseminationConfig::default().ask_nanos);
    assert_eq!(heights(&mut node), [(4, Some(5))], "it has stopped");
    node.received(address(2), missing[1].clone());
    assert_eq!(node.deadline(), None);
}

#[test]
fn a_block_is_told_of_again() {
    let mut node = node(1);
    let one = batch(2, 1);
    hold(&mut node, &one);
    for _ in 0..2 {
        assert!(node.need(0, 1, block(1), &[one.digest()], address(2)));
        let told = effects(&mut node);
        assert!(matches!(&told[..], [Effect::Available(_), Effect::Durable(_)]), "{told:?}");
        assert_eq!(node.bodies(&block(1)).unwrap().len(), 1);
    }
    node.need_decided(0, 1, block(1), &[one.digest()], address(2));
    assert!(matches!(&effects(&mut node)[..], [Effect::Available(_), Effect::Durable(_)]));
    node.need_decided(0, 1, block(2), &[], address(2));
    assert!(matches!(&effects(&mut node)[..], [Effect::Available(_), Effect::Durable(_)]));
}

#[test]
fn nothing_is_proposed_that_a_block_may_not_order() {
    let mut node = node(1);
    let most = 3 + TX_VALIDITY_HEIGHTS_MAX;
    for (sequence, valid_until) in [(0, 2), (1, 3), (2, most), (3, most + 1), (4, 50)] {
        hold(&mut node, &lasting(2, sequence, valid_until));
    }
    hold(&mut node, &lasting(3, 0, 50));
    assert_eq!(proposed(&node, 2), [(2, 0), (3, 0), (2, 1)], "2 must not pass by its third batch");
    assert_eq!(proposed(&node, 3), [(3, 0), (2, 1), (2, 2)], "none of the first is valid");
    node.ordered(1, &[lasting(2, 1, 3).digest()]);
    assert_eq!(proposed(&node, 3), [(3, 0), (2, 2)], "its second was ordered");
    assert_eq!(proposed(&node, 4), [(2, 2), (3, 0), (2, 3), (2, 4)]);
}

#[test]
fn what_no_block_may_order_any_more_leaves() {
    let mut node = node(1);
    let (short, long) = (lasting(2, 0, 2), lasting(2, 1, 3));
    hold(&mut node, &short);
    hold(&mut node, &long);
    node.sealed(lasting(1, 0, 2));
    node.ordered(1, &[]);
    assert!(node.get(&short.digest()).is_some());
    node.ordered(2, &[]);
    assert!(node.get(&short.digest()).is_none() && node.get(&long.digest()).is_some());
    assert_eq!(node.pushed[&address(2)], size_of_batch(&long));
    assert_eq!(node.lanes.len(), 1, "the own one has left too");
    node.durable(lasting(1, 0, 2).digest());
    assert_eq!(proposed(&node, 3), [(2, 1)]);
    drop(effects(&mut node));
    node.received(address(2), short.clone());
    assert!(matches!(&effects(&mut node)[..], [Effect::Blame(_, Blame::Late)]));
    node.restored(short);
    assert_eq!(node.entries.len(), 1);
}

#[test]
fn what_was_ordered_is_taken_only_where_a_block_wants_it() {
    let mut node = node(1);
    let old = batch(2, 1);
    node.ordered(1, &[old.digest()]);
    for sender in [2, 3] {
        node.received(address(sender), old.clone());
        assert!(matches!(&effects(&mut node)[..], [Effect::Blame(_, Blame::Replayed)]));
    }
    node.restored(old.clone());
    assert!(node.entries.is_empty(), "neither from the disk");
    // The proposer is not honest; what the node makes of the block is not decided here.
    assert!(node.need(0, 2, block(1), &[old.digest()], address(3)));
    node.received(address(3), old.clone());
    node.judged(old.digest(), true);
    node.durable(old.digest());
    assert!(node.bodies(&block(1)).is_some());
    assert_eq!(proposed(&node, 2), [], "it is given, and not proposed");
    node.ordered(2, &[]);
    assert!(node.entries.is_empty() && node.fetched.is_empty(), "it leaves with the height");
}

/// What may come for a proposer's blocks is counted before it comes.
#[test]
fn a_proposer_makes_nobody_fetch_more_than_its_share() {
    let config = DisseminationConfig {
        proposer_bytes_max: BLOCK_SIZE_MAX.into(),
        ..DisseminationConfig::default()
    };
    let mut node = configured(config, 1);
    let missing = |number: u64| -> Vec<BatchDigest> {
        (0..16).map(|sequence| batch(3, 16 * number + sequence).digest()).collect()
    };
    for number in 0..2 {
        assert!(node.need(0, 1, block(number), &missing(number.into()), address(2)));
    }
    assert!(!node.need(0, 1, block(2), &missing(2), address(2)), "48 MiB may come");
    assert!(node.need(0, 1, block(2), &missing(2), address(3)), "another one has his own share");
    assert!(node.need(0, 1, block(1), &missing(1), address(2)), "it is waited for already");
    let here = batch(3, 99);
    hold(&mut node, &here);
    assert!(node.need(0, 1, block(3), &[here.digest()], address(2)), "nothing must be fetched");
    node.need_decided(0, 1, block(4), &missing(4), address(2));
    assert!(node.is_wanted(&missing(4)[0]), "what is decided is always fetched");
    node.need_decided(0, 1, block(0), &missing(0), address(2));
    assert!(node.need(0, 2, block(5), &missing(5), address(2)), "who was decided is not charged");
    assert!(!node.need(0, 2, block(6), &missing(6), address(2)));
    node.ordered(1, &[]);
    assert!(node.need(0, 2, block(6), &missing(6), address(2)), "the height is over");
}

#[test]
fn a_block_of_too_many_bytes_is_refused_while_they_come() {
    let mut node = node(1);
    let batches: Vec<Batch> = (0..36).map(|sequence| large(3, sequence)).collect();
    let size = size_of_batch(&batches[0]);
    let fit = usize::try_from(u64::from(BLOCK_SIZE_MAX) / size).unwrap();
    assert!((32..35).contains(&fit), "{size} bytes each");
    let digests: Vec<BatchDigest> = batches.iter().map(Batch::digest).collect();
    assert!(node.need(0, 1, block(1), &digests, address(2)));
    for batch in &batches[..fit] {
        node.received(address(2), batch.clone());
    }
    assert!(effects(&mut node).iter().all(|one| matches!(one, Effect::Judge(_))));
    node.received(address(2), batches[fit].clone());
    assert!(matches!(&effects(&mut node)[..], [Effect::Invalid(_)]));
    assert!(node.wants.is_empty());
    assert!(node.need(0, 1, block(1), &digests, address(2)));
    assert!(matches!(&effects(&mut node)[..], [Effect::Invalid(_)]), "said again");
    let others = |number: u64| -> Vec<BatchDigest> {
        (0..32).map(|sequence| batch(4, 32 * number + sequence).digest()).collect()
    };
    assert!(node.need(0, 1, block(2), &others(0), address(2)));
    assert!(!node.need(0, 1, block(3), &others(1), address(2)), "the first stays charged");
}

/// What an undecided block made the node fetch stays if its origin might have pushed it.
#[test]
fn what_was_fetched_for_nothing_stays_within_its_origins_share() {
    let config = DisseminationConfig {
        origin_bytes_max: u64::from(BATCH_SIZE_MAX),
        ..DisseminationConfig::default()
    };
    let mut node = configured(config, 1);
    let [first, second] = [0, 1].map(|sequence| large(3, sequence));
    let digests = [first.digest(), second.digest()];
    assert!(node.need(0, 1, block(1), &digests, address(2)));
    for batch in [&first, &second] {
        node.received(address(2), batch.clone());
        node.judged(batch.digest(), true);
        node.durable(batch.digest());
    }
    assert_eq!(proposed(&node, 1), [(3, 0), (3, 1)]);
    assert_eq!(node.pushed.get(&address(3)), None, "nobody pushed it");
    node.ordered(1, &[]);
    assert_eq!(proposed(&node, 2).len(), 1, "one fits the share");
    assert_eq!(node.pushed[&address(3)], size_of_batch(&first));
    node.ordered(2, &digests);
    assert_eq!(node.pushed[&address(3)], 0);
    assert!(node.expiry.is_empty() && node.lanes.is_empty() && node.fetched.is_empty());
}

/// The bookkeeping agrees with what is held, whatever happens in whatever order.
#[test]
fn the_books_are_kept() {
    for seed in 1..60_u64 {
        let mut node = node(1);
        let mut random = seed;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            (random >> 33) % below
        };
        for step in 0..400 {
            let (origin, sequence) = (u8::try_from(next(4)).unwrap() + 1, next(12));
            let height = node.next_height();
            let one = lasting(origin, sequence, 1 + next(3) * 20);
            let digest = one.digest();
            let number = u8::try_from(step % 250).unwrap();
            match next(9) {
                0 if origin == 1 && !node.is_late(&one) && node.get(&digest).is_none() => {
                    if !node.entries.contains_key(&digest) && !node.window.contains(&digest) {
                        node.sealed(one);
                    }
                }
                0 | 1 => node.received(address(origin), one),
                2 => node.received(address(3), one),
                3 => node.judged(digest, true),
                4 => node.judged(digest, next(4) > 0),
                5 => node.durable(digest),
                6 => drop(node.need(0, height + next(2), block(number), &[digest], address(2))),
                7 => node.need_decided(0, height, block(number), &[digest], address(2)),
                _ if node.entries.contains_key(&digest) && !node.window.contains(&digest) => {
                    node.ordered(height, &[digest]);
                }
                _ => node.ordered(height, &[]),
            }
            drop(effects(&mut node));
            let unordered = || node.entries.values().filter(|entry| entry.ordered.is_none());
            assert_eq!(node.lanes.values().flatten().count(), unordered().count());
            assert_eq!(node.expiry.len(), unordered().count());
            for origin in (1..=4).map(address) {
                let of = |entry: &&Entry| entry.batch.header().origin == origin;
                let pushed = unordered().filter(of).filter(|entry| !entry.is_fetched);
                let bytes: u64 = pushed.map(|entry| size_of_batch(&entry.batch)).sum();
                assert_eq!(node.pushed.get(&origin).copied().unwrap_or(0), bytes);
            }
            assert!(unordered().all(|entry| !node.is_late(&entry.batch) || entry.is_fetched));
            assert!(node.fetched.iter().all(|digest| node.entries.contains_key(digest)));
            for batch in node.propose(node.next_height(), &ProposalLimits::default()) {
                assert!(!node.window.contains(&batch.digest()) && !node.is_late(&batch));
            }
        }
    }
}

/// Found by the simulator: its disk was destroyed, a peer sent back what it had sealed before, and
/// a client submitted the same transaction again.
#[test]
fn what_was_sealed_on_a_lost_disk_is_not_taken_twice() {
    let mut node = node(1);
    let own = batch(1, 7);
    assert!(node.need(0, 1, block(1), &[own.digest()], address(2)));
    node.received(address(2), own.clone());
    node.judged(own.digest(), true);
    node.durable(own.digest());
    drop(effects(&mut node));
    node.sealed(own.clone());
    assert!(effects(&mut node).is_empty(), "it is here already");
    assert_eq!(proposed(&node, 1), [(1, 7)]);
    node.ordered(1, &[own.digest()]);
    (2..=20).for_each(|height| node.ordered(height, &[]));
    drop(effects(&mut node));
    node.sealed(own);
    assert!(effects(&mut node).is_empty(), "it is ordered already");
    assert!(proposed(&node, 21).is_empty());
}

#[test]
fn blocks_of_one_proposer_leave_room_for_those_of_others() {
    let mut node = node(1);
    let here = batch(3, 1);
    hold(&mut node, &here);
    for number in 0..2_000_u32 {
        let junk = BlockDigest(hufu_crypto::Sm3::of(&[&number.to_le_bytes()]));
        let _is_taken = node.need(0, 1, junk, &[here.digest()], address(2));
    }
    assert!(node.need(0, 1, block(1), &[here.digest()], address(3)));
}

#[test]
fn the_same_missing_batches_are_charged_once() {
    let mut node = node(1);
    let missing: Vec<BatchDigest> = (0..32).map(|number| batch(3, number).digest()).collect();
    // Round after round the same proposer tries again with what it has.
    for number in 0..6 {
        assert!(node.need(0, 1, block(number), &missing, address(2)), "block {number}");
    }
}

/// The one that decided went away between certificate and bodies: nobody else is that far, and
/// nobody gets that far without this validator's vote.
#[test]
fn bodies_that_nobody_has_as_a_height_are_asked_for_one_by_one() {
    let mut node = equal(1);
    (2..=4).for_each(|peer| node.peer_up(0, address(peer)));
    let missing = batch(2, 1);
    node.need_decided(0, 5, block(1), &[missing.digest()], address(2));
    node.peer_down(1, address(2));
    assert_eq!(asks(&mut node), [(2, Some(5)), (3, Some(5))]);
    node.no_bodies(2, address(3), 5);
    assert_eq!(asks(&mut node), [(4, Some(5))]);
    node.no_bodies(3, address(4), 5);
    let asked = asks(&mut node);
    assert!(matches!(asked[..], [(3 | 4, None)]), "{asked:?}");
    node.received(address(asked[0].0), missing.clone());
    node.judged(missing.digest(), true);
    node.durable(missing.digest());
    let effects = effects(&mut node);
    assert!(effects.iter().any(|one| matches!(one, Effect::Durable(_))), "{effects:?}");
}

#[test]
fn nobody_goes_round_in_circles_while_the_last_peer_is_down() {
    let mut node = equal(1);
    (2..=3).for_each(|peer| node.peer_up(0, address(peer)));
    assert!(node.need(0, 1, block(1), &[batch(2, 1).digest()], address(2)));
    assert_eq!(asks(&mut node), [(2, None)]);
    node.absent(1, address(2), &[batch(2, 1).digest()]);
    assert_eq!(asks(&mut node), [(3, None)]);
    node.absent(2, address(3), &[batch(2, 1).digest()]);
    assert_eq!(asks(&mut node), [], "both were asked: the next round waits");
    node.tick(node.deadline().unwrap());
    assert_eq!(asks(&mut node), [(2, None)]);
}

/// A block of a height ahead may order what no block of that height may; its batches leave, and
/// whoever is told that it is available asks for them.
#[test]
fn a_block_whose_batches_have_left_is_not_called_available() {
    let mut node = node(1);
    let early = lasting(3, 1, 1);
    hold(&mut node, &early);
    assert!(node.need(0, 3, block(1), &[early.digest()], address(2)));
    assert!(node.bodies(&block(1)).is_some());
    drop(effects(&mut node));
    node.ordered(1, &[]);
    assert!(node.bodies(&block(1)).is_none());
    assert!(node.need(0, 3, block(1), &[early.digest()], address(2)));
    let effects = effects(&mut node);
    assert!(!effects.iter().any(|one| matches!(one, Effect::Available(_))), "{effects:?}");
}
