//! The tests' cluster: replicas with logs that lose what was not synced, a network with a delay, a
//! mempool that has every batch everywhere at once, and a made-up execution.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hufu_crypto::{Digest, Signer as _, Sm3, SoftwareSigner, software_provider};
use hufu_types::verification::verify_transactions;
use hufu_types::vote::signing_digest;
use hufu_types::{
    Batch, BatchBuilder, BlockDigest, ChainId, Operation, TransactionBuilder, Validator,
};

use super::super::*;
use crate::durable::SignTicket;
use crate::engine::Timeouts;
use crate::guard::{Position, SignIntent};

pub(super) const CHAIN: ChainId = ChainId(Digest([42; 32]));
pub(super) const MILLISECOND: u64 = 1_000_000;
const EPOCH_MILLIS: u64 = 1_000_000;

/// Events of a run, count: far above what any test needs, so that a standstill ends as a failure.
const EVENTS_COUNT_MAX: u64 = 400_000;

pub(super) struct Node {
    pub(super) replica: Replica,
    signer: SoftwareSigner,
    pub(super) is_up: bool,
    /// Its card is away: it signs nothing.
    is_card_away: bool,
    /// What it was asked to sign meanwhile.
    unsigned: Option<(SignTicket, SignIntent)>,
    /// Bodies that are here.
    pub(super) held: BTreeMap<hufu_types::BatchDigest, Batch>,
    waiting: VecDeque<Batch>,
    question: Option<(u64, bool)>,
    unsynced: VecDeque<(LogTicket, Vec<u8>)>,
    pub(super) durable: Vec<Vec<u8>>,
    pub(super) chain: Vec<Decided>,
    pub(super) roots: Vec<ExecutedRoots>,
    pub(super) notes: Vec<Note>,
    pub(super) error: Option<Error>,
    /// Makes its execution come to something else.
    pub(super) salt: u8,
    due: Option<u64>,
    pub(super) probation: Option<u64>,
    /// The height that peers are told of when a link opens.
    announced: Option<u64>,
}

pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    pub(super) set: ValidatorSet,
    pub(super) now: u64,
    mail: BTreeMap<(u64, u64), (usize, Input)>,
    sequence: u64,
    /// Links that are cut, by sender and receiver.
    pub(super) cut: BTreeSet<(usize, usize)>,
    /// Everything any signer was ever made to sign.
    signed: BTreeMap<(usize, Position), Vec<u8>>,
    nonce: u64,
}

fn key(place: usize) -> SoftwareSigner {
    let mut scalar = [7; 32];
    scalar[31] = u8::try_from(place).unwrap() + 1;
    SoftwareSigner::repeatable(&scalar).unwrap()
}

fn link_key(place: usize) -> SoftwareSigner {
    let mut scalar = [8; 32];
    scalar[31] = u8::try_from(place).unwrap() + 1;
    SoftwareSigner::repeatable(&scalar).unwrap()
}

impl Cluster {
    pub(super) fn new(count: usize) -> Self {
        // Places follow addresses, so that a place is a bit of a header.
        let mut keys: Vec<SoftwareSigner> = (0..count).map(key).collect();
        keys.sort_by_key(|key| key.public_key().address());
        let validators = keys.iter().enumerate().map(|(place, key)| Validator {
            name: format!("v{place}"),
            key: *key.public_key(),
            link_key: *link_key(place).public_key(),
            power: 1,
        });
        let set = ValidatorSet::new(validators.collect()).unwrap();
        let nodes = keys.into_iter().map(|signer| Node {
            replica: replica(&set, &signer, &[], &[], Some(EPOCH_MILLIS)),
            signer,
            is_up: true,
            is_card_away: false,
            unsigned: None,
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            question: None,
            unsynced: VecDeque::new(),
            durable: Vec::new(),
            chain: Vec::new(),
            roots: vec![executed(None, None, 0)],
            notes: Vec::new(),
            error: None,
            salt: 0,
            due: Some(0),
            probation: Some(EPOCH_MILLIS),
            announced: None,
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            set,
            now: 0,
            mail: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            signed: BTreeMap::new(),
            nonce: 0,
        };
        for place in 0..count {
            cluster.greet(place);
        }
        cluster
    }

    pub(super) fn address(&self, place: usize) -> Address {
        self.nodes[place].signer.public_key().address()
    }

    pub(super) fn place(&self, address: Address) -> usize {
        (0..self.nodes.len()).find(|place| self.address(*place) == address).unwrap()
    }

    pub(super) fn height(&self, place: usize) -> u64 {
        u64::try_from(self.nodes[place].chain.len()).unwrap()
    }

    pub(super) fn post(&mut self, delay: u64, to: usize, input: Input) {
        self.sequence += 1;
        self.mail.insert((self.now + delay, self.sequence), (to, input));
    }

    /// Opens the links between this node and all others that are up.
    fn greet(&mut self, place: usize) {
        for other in 0..self.nodes.len() {
            if other != place && self.nodes[other].is_up {
                let (own, others) = (self.address(place), self.address(other));
                let announced = [place, other].map(|node| self.nodes[node].announced);
                self.post(0, other, Input::PeerUp(own));
                self.post(0, place, Input::PeerUp(others));
                for (to, from, height) in
                    [(other, own, announced[0]), (place, others, announced[1])]
                {
                    if let Some(height) = height {
                        self.post(MILLISECOND, to, Input::Tip { from, height });
                    }
                }
            }
        }
    }

    /// A batch of one transaction, everywhere at once.
    pub(super) fn submit(&mut self) -> Batch {
        self.nonce += 1;
        let batch = make_batch(self.nonce, self.height(0) + 500);
        for place in 0..self.nodes.len() {
            self.give(place, batch.clone());
        }
        batch
    }

    pub(super) fn give(&mut self, place: usize, batch: Batch) {
        let node = &mut self.nodes[place];
        node.held.insert(batch.digest(), batch.clone());
        node.waiting.push_back(batch);
        self.answer_question(place);
    }

    fn answer_question(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        let Some((height, allow_empty)) = node.question else { return };
        if node.waiting.is_empty() && !allow_empty {
            return;
        }
        node.question = None;
        let batches = node.waiting.iter().take(4).cloned().collect();
        self.post(0, place, Input::Candidates { height, batches });
    }

    pub(super) fn stop(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        node.is_up = false;
        node.announced = None;
        node.unsynced.clear();
        node.unsigned = None;
        node.question = None;
        self.mail.retain(|_, (to, _)| *to != place);
        let address = self.address(place);
        for other in 0..self.nodes.len() {
            if other != place {
                self.post(0, other, Input::PeerDown(address));
            }
        }
    }

    pub(super) fn start(&mut self, place: usize) {
        let set = self.set.clone();
        let node = &mut self.nodes[place];
        node.replica = replica(&set, &node.signer, &node.durable, &node.chain, node.probation);
        node.is_up = true;
        node.due = Some(0);
        self.greet(place);
    }

    /// Takes a node's card away.
    pub(super) fn take_card(&mut self, place: usize) {
        self.nodes[place].is_card_away = true;
    }

    /// Gives a node its card back, which signs what it was asked for meanwhile.
    pub(super) fn return_card(&mut self, place: usize) {
        self.nodes[place].is_card_away = false;
        if let Some((ticket, intent)) = self.nodes[place].unsigned.take() {
            self.sign(place, ticket, &intent);
        }
    }

    /// How often this node's key has signed at heights above `height`.
    pub(super) fn signed_above(&self, place: usize, height: u64) -> usize {
        let signed = self.signed.keys();
        signed.filter(|(of, position)| *of == place && position.height > height).count()
    }

    fn sign(&mut self, place: usize, ticket: SignTicket, intent: &SignIntent) {
        let node = &mut self.nodes[place];
        if node.is_card_away {
            assert!(node.unsigned.is_none(), "one signature at a time");
            node.unsigned = Some((ticket, *intent));
            return;
        }
        let digest = signing_digest(intent.bytes(), node.signer.public_key());
        let signature = node.signer.sign(&digest).unwrap();
        let before = self.signed.insert((place, intent.position()), intent.bytes().to_vec());
        assert!(before.is_none_or(|bytes| bytes == intent.bytes()), "double sign");
        self.post(MILLISECOND / 4, place, Input::Signed { ticket, signature });
    }

    /// Takes a node's disk away; what its signer signed stays signed.
    pub(super) fn wipe(&mut self, place: usize) {
        self.stop(place);
        let now = EPOCH_MILLIS + self.now / MILLISECOND;
        let node = &mut self.nodes[place];
        node.durable.clear();
        node.chain.clear();
        node.held.clear();
        node.roots.truncate(1);
        node.probation = Some(now);
    }

    pub(super) fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..EVENTS_COUNT_MAX {
            if done(self) {
                return;
            }
            assert!(self.event(), "nothing is left to happen at {} ms", self.now / MILLISECOND);
        }
        panic!("no end after {EVENTS_COUNT_MAX} events");
    }

    /// Runs for this long.
    pub(super) fn run_for(&mut self, nanos: u64) {
        let end = self.now + nanos;
        for _ in 0..EVENTS_COUNT_MAX {
            match self.next_time() {
                Some(time) if time <= end => assert!(self.event()),
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("busy without end");
    }

    fn next_time(&self) -> Option<u64> {
        let mail = self.mail.keys().next().map(|(time, _)| *time);
        let ups = self.nodes.iter().filter(|node| node.is_up && node.error.is_none());
        mail.into_iter().chain(ups.filter_map(|node| node.due)).min()
    }

    fn event(&mut self) -> bool {
        let Some(time) = self.next_time() else { return false };
        self.now = self.now.max(time);
        let first = self.mail.first_key_value().map(|(key, _)| *key);
        if let Some(key) = first.filter(|(at, _)| *at <= self.now) {
            let (to, input) = self.mail.remove(&key).unwrap();
            if self.nodes[to].is_up {
                self.step(to, input);
            }
            return true;
        }
        let due = (0..self.nodes.len()).find(|place| {
            let node = &self.nodes[*place];
            node.is_up && node.error.is_none() && node.due.is_some_and(|due| due <= self.now)
        });
        self.step(due.unwrap(), Input::Tick);
        true
    }

    pub(super) fn step(&mut self, place: usize, input: Input) {
        let time = Time { nanos: self.now, wall_millis: EPOCH_MILLIS + self.now / MILLISECOND };
        let node = &mut self.nodes[place];
        if node.error.is_some() {
            return;
        }
        let mut effects = Vec::new();
        if let Err(error) = node.replica.step(time, input, &mut effects) {
            node.error = Some(error);
            return;
        }
        node.due = node.replica.deadline(self.now);
        for effect in effects {
            self.act(place, effect);
        }
    }

    fn act(&mut self, place: usize, effect: Effect) {
        let own = self.address(place);
        match effect {
            Effect::AppendVoteLog { ticket, record } => {
                self.nodes[place].unsynced.push_back((ticket, record));
            }
            Effect::SyncVoteLog(ticket) => {
                let node = &mut self.nodes[place];
                while let Some((_, record)) = node.unsynced.pop_front_if(|(of, _)| *of <= ticket) {
                    node.durable.push(record);
                }
                self.post(MILLISECOND / 2, place, Input::VoteLogDurable(ticket));
            }
            Effect::SealVoteLog(_) => {}
            Effect::EndProbation => self.nodes[place].probation = None,
            Effect::Sign { ticket, intent } => self.sign(place, ticket, intent.get()),
            Effect::Publish(message) => {
                for to in 0..self.nodes.len() {
                    self.send(place, to, Input::Message { from: own, message: message.clone() });
                }
            }
            Effect::Send { to, message } => {
                let to = self.place(to);
                self.send(place, to, Input::Message { from: own, message });
            }
            Effect::SendBlock { to, round, block } => {
                for to in to.map_or(0..self.nodes.len(), |to| self.place(to)..self.place(to) + 1) {
                    self.send(place, to, Input::Block { from: own, round, block: block.clone() });
                }
            }
            Effect::AnnounceTip { height, .. } => {
                self.nodes[place].announced = Some(height);
                for to in 0..self.nodes.len() {
                    self.send(place, to, Input::Tip { from: own, height });
                }
            }
            Effect::AskHeights { to, from, count } => self.serve(place, to, from, count),
            Effect::Propose { height, allow_empty, .. } => {
                self.nodes[place].question = Some((height, allow_empty));
                self.answer_question(place);
            }
            Effect::Need { block, batches, .. } | Effect::NeedDecided { block, batches, .. } => {
                let held = &self.nodes[place].held;
                let found: Option<Vec<Batch>> =
                    batches.iter().map(|digest| held.get(digest).cloned()).collect();
                if let Some(batches) = found {
                    self.post(0, place, Input::Available { block, batches: batches.clone() });
                    self.post(MILLISECOND, place, Input::Durable { block, batches });
                }
            }
            Effect::Ordered { batches, .. } => {
                self.nodes[place].waiting.retain(|batch| !batches.contains(&batch.digest()));
            }
            Effect::Write(decided) => self.write(place, *decided),
            Effect::Note(note) => self.nodes[place].notes.push(note),
        }
    }

    fn send(&mut self, from: usize, to: usize, input: Input) {
        if from != to && !self.cut.contains(&(from, to)) {
            self.post(MILLISECOND, to, input);
        }
    }

    fn serve(&mut self, place: usize, to: Address, from: u64, count: u32) {
        let peer = self.place(to);
        if self.cut.contains(&(place, peer)) || !self.nodes[peer].is_up {
            return;
        }
        for height in from..from + u64::from(count) {
            let place_of = usize::try_from(height - 1).unwrap();
            if let Some(decided) = self.nodes[peer].chain.get(place_of).cloned() {
                for batch in &decided.batches {
                    self.nodes[place].held.insert(batch.digest(), batch.clone());
                }
                let (block, certificate) = (decided.block, decided.certificate);
                self.send(peer, place, Input::Height { from: to, block, certificate });
            }
        }
    }

    fn write(&mut self, place: usize, decided: Decided) {
        let height = decided.block.height();
        assert_eq!(height, self.height(place) + 1, "blocks are written in order");
        for other in &self.nodes {
            if let Some(same) = other.chain.get(usize::try_from(height - 1).unwrap()) {
                assert_eq!(same.block.digest(), decided.block.digest(), "agreement");
            }
        }
        let node = &mut self.nodes[place];
        let roots = executed(node.roots.last().copied(), Some(&decided), node.salt);
        node.roots.push(roots);
        node.chain.push(decided);
        self.post(MILLISECOND, place, Input::HeightDurable(height));
        self.post(2 * MILLISECOND, place, Input::Executed(roots));
    }
}

/// A made-up execution: each state is the digest of the one before and the block.
fn executed(before: Option<ExecutedRoots>, decided: Option<&Decided>, salt: u8) -> ExecutedRoots {
    let state = before.map_or(Digest::ZERO, |roots| roots.state_root);
    let block = decided.map_or(BlockDigest::ZERO, |decided| decided.block.digest());
    let count = decided.map_or(0, |decided| decided.block.header().transactions_count.get());
    let receipts = if count == 0 { Digest::ZERO } else { Digest([1; 32]) };
    ExecutedRoots {
        height: before.map_or(0, |roots| roots.height + 1),
        state_root: Sm3::of(&[state.as_bytes(), block.0.as_bytes(), &[salt]]),
        receipts_root: receipts,
        receipts_count: count,
    }
}

fn replica(
    set: &ValidatorSet,
    signer: &SoftwareSigner,
    records: &[Vec<u8>],
    chain: &[Decided],
    probation: Option<u64>,
) -> Replica {
    let provider = software_provider();
    let mut tip = Tip::genesis(EPOCH_MILLIS - 1);
    let mut ordered = OrderedBatches::new(1);
    let mut roots = vec![executed(None, None, 0)];
    for decided in chain {
        let header = decided.block.header();
        let height = header.height.get();
        let has_receipts = header.transactions_count.get() > 0;
        tip = Tip {
            block: crate::header::Parent::of(header),
            last_receipts_height: if has_receipts { height } else { tip.last_receipts_height },
            present: Some(header.present.get()),
            present_before: tip.present,
        };
        ordered.insert(height, decided.block.batches());
        roots.push(executed(roots.last().copied(), Some(decided), 0));
    }
    let records = records.iter().map(Vec::as_slice);
    let log = RecoveredLog::read(records, tip.block.height, &*provider.hasher).unwrap();
    let config = Config {
        engine: engine::Config {
            chain_id: CHAIN,
            address: signer.public_key().address(),
            timeouts: Timeouts::default(),
            provider,
        },
        certified_lag_heights: 1,
        interval_nanos: 10 * MILLISECOND,
        catch_up: CatchUpConfig::default(),
    };
    let roots = roots.split_off(roots.len().saturating_sub(2));
    let validators = set.clone();
    Replica::new(config, Start { validators, tip, roots, ordered, log, probation })
}

pub(super) fn make_batch(nonce: u64, valid_until: u64) -> Batch {
    let provider = software_provider();
    let signer = SoftwareSigner::from_bytes(&[9; 32]).unwrap();
    let key = *signer.public_key();
    let leg = hufu_types::Leg {
        asset: hufu_types::AssetCode::new("USD").unwrap(),
        from: Address([1; 20]),
        to: Address([2; 20]),
        amount: 1.into(),
    };
    let unsigned = TransactionBuilder::new(CHAIN, key, nonce, valid_until)
        .operation(Operation::Transfer(&leg))
        .unsigned();
    let digest = TransactionBuilder::signing_digest(&unsigned, &key);
    let transaction = TransactionBuilder::join(unsigned, &signer.sign(&digest).unwrap()).unwrap();
    let verified = verify_transactions(&provider, CHAIN, vec![transaction]);
    let mut builder = BatchBuilder::new(CHAIN, Address([3; 20]));
    builder.push(verified.first().unwrap().as_ref().unwrap());
    builder.seal(nonce, &*provider.hasher)
}
