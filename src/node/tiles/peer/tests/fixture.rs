//! Validators' peer tiles on real sockets in one thread, with the test in the place of every other
//! tile.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hufu_consensus::Message;
use hufu_crypto::{SoftwareSigner, software_provider};
use hufu_runtime::clock::monotonic;
use hufu_runtime::link::link;
use hufu_runtime::net::Backend;
use hufu_types::domain::{DomainPrefix, Kind};
use hufu_types::merkle::MerkleTree;
use hufu_types::{
    Batch, BatchBuilder, BatchDigest, Block, BlockHeader, CommitCertificate, CommitSignature,
    Digest, Operation, Signature, SignedVote, TransactionBuilder, Vote, VoteStep,
    verify_transactions,
};

use super::super::*;
use crate::messages::{AnswerBody, Executed, ExecutedBlock, ExecutedRoots};

pub(super) const CHAIN: ChainId = ChainId(Digest([7; 32]));

/// Who waits longer than this waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn key(number: u8) -> SoftwareSigner {
    SoftwareSigner::from_bytes(&[number; 32]).unwrap()
}

pub(super) fn address(number: u8) -> Address {
    Address([number; 20])
}

pub(super) fn keys() -> Arc<PeerKeys> {
    Arc::new((1..=4).map(|number| (address(number), *key(number).public_key())).collect())
}

/// Room in the links of a node.
#[derive(Clone, Copy)]
pub(super) struct Depths {
    pub(super) consensus: usize,
    pub(super) mempool: usize,
    pub(super) verify: usize,
}

impl Default for Depths {
    fn default() -> Self {
        Self { consensus: 4_096, mempool: 64, verify: 64 }
    }
}

/// How a node is made.
pub(super) struct Plan {
    pub(super) config: PeerConfig,
    pub(super) signer: SoftwareSigner,
    pub(super) depths: Depths,
    pub(super) backend: Backend,
    pub(super) listen: SocketAddr,
}

impl Plan {
    /// Validator `number`, on a port of the kernel's choice.
    pub(super) fn new(number: u8) -> Self {
        let mut config = PeerConfig::new(CHAIN, address(number), keys(), number.into());
        config.backoff_min = Duration::from_millis(1);
        config.backoff_max = Duration::from_millis(20);
        // A host that is busy elsewhere for seconds fails no test.
        config.link.idle_nanos = 60_000_000_000;
        config.link.handshake_nanos = 60_000_000_000;
        Self {
            config,
            signer: key(number),
            depths: Depths::default(),
            backend: Backend::Auto,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }

    pub(super) fn dialling(mut self, peer: u8, socket: SocketAddr) -> Self {
        self.config.sockets.insert(address(peer), socket);
        self
    }

    pub(super) fn start(self) -> Node {
        let backend = self.backend;
        let mut reactor = Reactor::new(net::Config { backend, ..self.config.reactor() }).unwrap();
        let listener = reactor.listen(self.listen).unwrap();
        let socket = reactor.local_addr(listener).unwrap();
        let (consensus, from_consensus) = link("consensus-peer", 4_096);
        let (to_consensus, messages) = link("peer-consensus", self.depths.consensus);
        let (mempool, from_mempool) = link("mempool-peer", 4_096);
        let (to_mempool, requests) = link("peer-mempool", self.depths.mempool);
        let (to_verify, batches): (Vec<_>, Vec<_>) =
            (0..2).map(|_| link("peer-verify", self.depths.verify)).unzip();
        let (to_query, questions) = link("peer-query", 4);
        let (query, answers) = link("query-peer", 4);
        let links = PeerLinks {
            from_consensus,
            to_consensus,
            from_mempool,
            to_mempool,
            to_verify,
            to_query,
            answers,
        };
        let metrics = Arc::new(Metrics::default());
        let signer = Box::new(self.signer);
        let (provider, counters) = (software_provider(), Arc::clone(&metrics));
        let tile = PeerTile::new(self.config, provider, signer, counters, reactor, listener, links);
        Node {
            tile,
            metrics,
            socket,
            consensus: Some(consensus),
            messages,
            mempool: Some(mempool),
            requests,
            batches,
            questions,
            query,
            seen: Vec::new(),
            asked: Vec::new(),
            is_done: false,
        }
    }
}

/// A peer tile and the far ends of its links.
pub(super) struct Node {
    pub(super) tile: PeerTile,
    pub(super) metrics: Arc<Metrics>,
    pub(super) socket: SocketAddr,
    pub(super) consensus: Option<Producer<ToPeer>>,
    pub(super) messages: Consumer<FromPeer>,
    pub(super) mempool: Option<Producer<SendBatches>>,
    pub(super) requests: Consumer<PeerBatches>,
    pub(super) batches: Vec<Consumer<PeerBatch>>,
    pub(super) questions: Consumer<Question>,
    pub(super) query: Producer<Answer>,
    /// What consensus and the mempool were told so far.
    pub(super) seen: Vec<FromPeer>,
    pub(super) asked: Vec<PeerBatches>,
    pub(super) is_done: bool,
}

impl Node {
    /// One turn, without taking anything out of the links.
    pub(super) fn turn(&mut self, now: Nanos) {
        if !self.is_done {
            self.is_done = self.tile.poll(now).unwrap() == Progress::Done;
        }
    }

    /// Takes what consensus and the mempool are told.
    pub(super) fn listen(&mut self) {
        self.seen.extend(std::iter::from_fn(|| self.messages.pop()));
        self.asked.extend(std::iter::from_fn(|| self.requests.pop()));
    }

    pub(super) fn say(&mut self, command: ToPeer) {
        assert!(self.consensus.as_mut().unwrap().try_push(command).is_ok());
    }

    pub(super) fn send(&mut self, command: SendBatches) {
        assert!(self.mempool.as_mut().unwrap().try_push(command).is_ok());
    }

    pub(super) fn answer(&mut self, question: Question, body: AnswerBody) {
        let answer = Answer { asker: question.asker, body };
        assert!(self.query.try_push(answer).is_ok());
    }

    pub(super) fn batch(&mut self) -> Option<PeerBatch> {
        self.batches.iter_mut().find_map(Consumer::pop)
    }

    pub(super) fn votes(&self) -> usize {
        let is_vote = |one: &&FromPeer| matches!(one, FromPeer::Message { .. });
        self.seen.iter().filter(is_vote).count()
    }

    pub(super) fn has_seen(&self, wanted: &FromPeer) -> bool {
        self.seen.contains(wanted)
    }
}

/// Several nodes and what time it is for them.
pub(super) struct Net {
    pub(super) nodes: Vec<Node>,
    /// How far the nodes' time is ahead.
    pub(super) ahead: Duration,
    /// The time of the last turn.
    pub(super) turned_at: Nanos,
}

impl Net {
    pub(super) fn new(nodes: Vec<Node>) -> Self {
        Self { nodes, ahead: Duration::ZERO, turned_at: Nanos::ZERO }
    }

    /// Validators 1, which dials, and 2 with an open link.
    pub(super) fn pair() -> Self {
        Self::pair_of(Plan::new(1), Plan::new(2))
    }

    pub(super) fn pair_of(one: Plan, two: Plan) -> Self {
        let two = two.start();
        let one = one.dialling(2, two.socket).start();
        let mut net = Self::new(vec![one, two]);
        net.until_up();
        net
    }

    pub(super) fn until_up(&mut self) {
        self.until("the link", |net| {
            net.nodes[0].has_seen(&FromPeer::Up(address(2)))
                && net.nodes[1].has_seen(&FromPeer::Up(address(1)))
        });
    }

    pub(super) fn now(&self) -> Nanos {
        monotonic().after(self.ahead)
    }

    pub(super) fn turn(&mut self) {
        for place in 0..self.nodes.len() {
            self.turned_at = self.now();
            self.nodes[place].turn(self.turned_at);
            self.nodes[place].listen();
        }
    }

    pub(super) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let give_up = monotonic().after(PATIENCE);
        while !is_so(self) {
            let last = |node: &Node| node.seen.iter().rev().take(4).cloned().collect::<Vec<_>>();
            let last: Vec<_> = self.nodes.iter().map(last).collect();
            assert!(monotonic() < give_up, "{what} does not come; last {last:?}");
            self.turn();
            std::thread::yield_now();
        }
    }

    /// Turns until there is something.
    pub(super) fn until_some<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let mut found = None;
        self.until(what, |net| {
            found = look(net);
            found.is_some()
        });
        found.unwrap()
    }
}

pub(super) fn vote(height: u64, validator: u8) -> Message {
    let block = Some(BlockDigest(Digest([3; 32])));
    let vote = Vote::new(CHAIN, VoteStep::Prevote, height, 0, block, address(validator));
    Message::Vote(SignedVote { vote, signature: Signature([5; 64]) })
}

/// About a megabyte that is a batch.
pub(super) fn large_batch() -> Batch {
    batch_of(8, 400)
}

pub(super) fn batch_of(transactions: u64, operations: usize) -> Batch {
    let (signer, provider) = (key(9), software_provider());
    let public = *signer.public_key();
    let make = |nonce| {
        let operation = Operation::Notarise { digest: &Digest([5; 32]), memo: &[b'a'; 256] };
        let builder = TransactionBuilder::new(CHAIN, public, nonce, 500);
        let builder = (0..operations).fold(builder, |builder, _| builder.operation(operation));
        let unsigned = builder.unsigned();
        let digest = TransactionBuilder::signing_digest(&unsigned, &public);
        TransactionBuilder::join(unsigned, &signer.sign(&digest).unwrap()).unwrap()
    };
    let verified = verify_transactions(&provider, CHAIN, (0..transactions).map(make).collect());
    let mut builder = BatchBuilder::new(CHAIN, address(1));
    for transaction in verified {
        builder.push(&transaction.unwrap());
    }
    builder.seal(1, &*provider.hasher)
}

/// A decided and executed block of a height.
pub(super) fn executed(height: u64, batches: Vec<Batch>) -> Executed {
    let hasher = software_provider().hasher;
    let digests: Vec<BatchDigest> = batches.iter().map(Batch::digest).collect();
    let header = BlockHeader {
        prefix: DomainPrefix::new(Kind::BlockHeader, CHAIN),
        height: height.into(),
        time_millis: (1_000 * height).into(),
        parent: BlockDigest(Digest::ZERO),
        proposer: address(1),
        batches_count: u32::try_from(batches.len()).unwrap().into(),
        transactions_count: 0.into(),
        transactions_root: Block::transactions_root(&digests, &*hasher),
        executed_height: (height - 1).into(),
        state_root: Digest::ZERO,
        receipts_root: Digest::ZERO,
        receipts_count: 0.into(),
        validators: Digest::ZERO,
        present: 0.into(),
    };
    let block = Block::new(header, digests, &*hasher).unwrap();
    let digest = block.digest();
    let signature = CommitSignature { validator: address(1), signature: Signature([4; 64]) };
    let certificate =
        CommitCertificate { height, round: 2, block: digest, signatures: vec![signature] };
    let (state_root, receipts_root) = (Digest::ZERO, Digest::ZERO);
    let roots = ExecutedRoots { height, state_root, receipts_root, receipts_count: 0 };
    let receipts_tree = MerkleTree::new(Vec::new(), &*hasher);
    let receipts = Vec::new();
    let parts =
        ExecutedBlock { block, digest, certificate, batches, receipts, receipts_tree, roots };
    Arc::new(parts)
}
