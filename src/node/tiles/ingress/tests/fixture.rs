//! The node around an ingress tile, and clients on real sockets that never wait.

use std::hash::RandomState;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Sm3, software_provider};
use hufu_network::codes::ErrorCode;
use hufu_network::frame::{self, Direction};
use hufu_network::message::event::Cursor;
use hufu_network::message::request::Hello;
use hufu_network::message::submit::SubmitView;
use hufu_network::message::{ClientMessage, ServerMessage, WaitFor};
use hufu_network::session::SessionConfig;
use hufu_runtime::clock::{Nanos, monotonic};
use hufu_runtime::link::{Consumer, Producer, link};
use hufu_runtime::net::{Backend, Config, Reactor};
use hufu_runtime::tile::{Progress, Tile};
use hufu_types::domain::{DomainPrefix, Kind};
use hufu_types::merkle::MerkleTree;
use hufu_types::{
    Address, Block, BlockDigest, BlockHeader, ChainId, CommitCertificate, Digest, Operation,
    PublicKey, Receipt, RefusalCode, Signature, Strength, TransactionBuilder, TxDigest, TxId,
};

use crate::messages::{
    Answer, AnswerBody, Asker, Executed, ExecutedBlock, ExecutedRoots, Question, Status, Submitted,
};
use crate::metrics::Metrics;
use crate::tiles::ingress::{IngressConfig, IngressLinks, IngressTile, SPARE_CONNECTIONS};

const CHAIN: ChainId = ChainId(Digest([7; 32]));

/// Who waits longer than this waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tile, the far ends of its links, and its time.
pub(super) struct Node {
    pub(super) ingress: IngressTile,
    pub(super) to_verify: Consumer<Submitted>,
    pub(super) accounts: Consumer<Question>,
    pub(super) questions: Consumer<Question>,
    pub(super) now: Nanos,
    pub(super) is_done: bool,
    statuses: Producer<Status>,
    blocks: Producer<Executed>,
    answers: Producer<Answer>,
    metrics: Arc<Metrics>,
    address: SocketAddr,
}

impl Node {
    /// A new chain; `verify_depth` is the room of the one verify tile.
    pub(super) fn new(connections_max: u32, verify_depth: usize) -> Self {
        Self::with(connections_max, verify_depth, 0, 0)
    }

    /// A chain that stands at `height`.
    pub(super) fn restarted(height: u64, time_millis: u64) -> Self {
        Self::with(4, 8, height, time_millis)
    }

    fn with(connections_max: u32, verify_depth: usize, height: u64, time_millis: u64) -> Self {
        let mut reactor = Reactor::new(Config {
            backend: Backend::Epoll,
            connections_max: connections_max + SPARE_CONNECTIONS,
            ..Config::default()
        })
        .unwrap();
        let listener = reactor.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = reactor.local_addr(listener).unwrap();
        let (verify, to_verify) = link("verify", verify_depth);
        let (statuses, judged) = link("statuses", 4_096);
        let (blocks, executed) = link("blocks", 64);
        let (to_execute, accounts) = link("accounts", 16);
        let (to_query, questions) = link("questions", 16);
        let (answers, answered) = link("answers", 16);
        let config = IngressConfig {
            index: 0,
            connections_max,
            session: SessionConfig {
                transactions_in_flight_max: 4_096,
                outgoing_bytes_max: 1 << 20,
                ..SessionConfig::default()
            },
            spread: RandomState::new(),
            chain_id: CHAIN,
            node: Address([1; 20]),
            lag: 1,
            height,
            time_millis,
            block: BlockDigest(Digest::ZERO),
            state_root: Digest::ZERO,
            uncertified: Vec::new(),
        };
        let links = IngressLinks {
            to_verify: vec![verify],
            statuses: vec![judged],
            executed,
            to_execute,
            to_query,
            answers: vec![answered],
        };
        let metrics = Arc::new(Metrics::default());
        let counters = Arc::clone(&metrics);
        let tile =
            IngressTile::new(config, software_provider(), counters, reactor, listener, links);
        Self {
            ingress: tile,
            to_verify,
            accounts,
            questions,
            now: monotonic(),
            is_done: false,
            statuses,
            blocks,
            answers,
            metrics,
            address,
        }
    }

    /// One turn of the tile, at the time of the test.
    pub(super) fn turn(&mut self) {
        self.now = self.now.after(Duration::from_micros(1));
        if !self.is_done {
            self.is_done = self.ingress.poll(self.now).unwrap() == Progress::Done;
        }
    }

    pub(super) fn turns(&mut self, count: usize) {
        (0..count).for_each(|_| self.turn());
    }

    /// Lets time pass for the tile.
    pub(super) fn pass(&mut self, time: Duration) {
        self.turns(2);
        self.now = self.now.after(time);
        self.turns(2);
        self.ingress.housekeeping(self.now);
        self.turns(2);
    }

    pub(super) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        self.until_some(what, |node| is_so(node).then_some(()));
    }

    /// Turns until there is something.
    pub(super) fn until_some<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        let deadline = monotonic().after(PATIENCE);
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(monotonic() < deadline, "{what} does not come");
            self.turn();
            std::thread::yield_now();
        }
    }

    pub(super) fn judge(&mut self, submitted: &Submitted, result: Result<TxId, RefusalCode>) {
        let status = Status { source: submitted.source, result };
        self.statuses.try_push(status).unwrap();
        self.turn();
    }

    pub(super) fn answer(&mut self, asker: Asker, body: AnswerBody) {
        self.answers.try_push(Answer { asker, body }).unwrap();
    }

    pub(super) fn hand_out(&mut self, block: Executed) {
        self.blocks.try_push(block).unwrap();
        self.turn();
    }

    pub(super) fn metric(&mut self, name: &str) -> u64 {
        self.ingress.housekeeping(self.now);
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }

    pub(super) fn connect(&mut self) -> Client {
        let before = self.metrics.ingress_connections_accepted.get()
            + self.metrics.ingress_connections_refused.get();
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        self.until("the connection", |node| {
            node.metrics.ingress_connections_accepted.get()
                + node.metrics.ingress_connections_refused.get()
                > before
        });
        Client { stream, received: Vec::new(), is_over: false }
    }

    pub(super) fn greeted(&mut self) -> Client {
        let mut client = self.connect();
        client.say(&ClientMessage::Hello(Hello::new(Some(CHAIN))), 0);
        assert_eq!(client.next(self), Seen::Welcome);
        client
    }
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Welcome,
    Pong(u64),
    Status { request: u64, height: u64, time: u64 },
    Statuses(Vec<(u64, Option<RefusalCode>)>),
    Receipts(Vec<(u64, Strength)>),
    Subscribed(u64, Cursor),
    Events(u64, Vec<Cursor>),
    Ended(u64, Option<ErrorCode>),
    Error(u64, ErrorCode),
    Other,
}

impl Seen {
    pub(super) fn statuses(&self) -> usize {
        if let Self::Statuses(entries) = self { entries.len() } else { 0 }
    }

    fn of(request: u64, message: &ServerMessage<'_>) -> Self {
        match message {
            ServerMessage::Welcome(_) => Self::Welcome,
            ServerMessage::Pong => Self::Pong(request),
            ServerMessage::Status(info) => {
                Self::Status { request, height: info.height, time: info.time_millis }
            }
            ServerMessage::Statuses(entries) => {
                Self::Statuses(entries.iter().map(|one| (one.request(), one.refusal())).collect())
            }
            ServerMessage::Receipts(view) => {
                Self::Receipts(view.entries().map(|one| (one.request, one.strength)).collect())
            }
            ServerMessage::Subscribed(cursor) => Self::Subscribed(request, *cursor),
            ServerMessage::Events(view) => {
                Self::Events(request, view.events().map(|event| event.cursor).collect())
            }
            ServerMessage::SubscriptionEnded(end) => Self::Ended(request, end.reason),
            ServerMessage::Error(error) => Self::Error(request, error.code),
            _ => Self::Other,
        }
    }
}

pub(super) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    is_over: bool,
}

impl Client {
    /// Sends bytes that fit the buffers on the way.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(super) fn say(&mut self, message: &ClientMessage<'_>, request: u64) {
        let mut bytes = Vec::new();
        message.encode(request, &mut bytes);
        self.send(&bytes);
    }

    pub(super) fn end_input(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Closes once there are unread bytes in the buffer, which the other side sees as a reset.
    pub(super) fn reset(self, node: &mut Node) {
        node.until("bytes", |_| self.stream.peek(&mut [0]).is_ok_and(|count| count > 0));
    }

    /// Pings, and reads nothing, until no ping fits any buffer any more.
    pub(super) fn ask_until_full(&mut self, node: &mut Node) {
        let (mut bytes, mut request) = (Vec::new(), 1_000);
        let mut turns_in_vain = 0;
        while turns_in_vain < 200 {
            while bytes.len() < 64 << 10 {
                request += 1;
                ClientMessage::Ping.encode(request, &mut bytes);
            }
            match self.stream.write(&bytes) {
                Ok(count) => {
                    bytes.drain(..count);
                    turns_in_vain = 0;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    turns_in_vain += 1;
                }
            }
            node.turn();
        }
    }

    /// The next thing the client is told.
    pub(super) fn next(&mut self, node: &mut Node) -> Seen {
        node.until_some("a message", |_| {
            self.fill();
            let message = self.take();
            assert!(message.is_some() || !self.is_over, "the node has closed the connection");
            message
        })
    }

    /// Everything until the node closes.
    pub(super) fn ending(&mut self, node: &mut Node) -> Vec<Seen> {
        let mut seen = Vec::new();
        node.until_some("the end of the connection", |_| {
            self.fill();
            seen.extend(std::iter::from_fn(|| self.take()));
            self.is_over.then_some(())
        });
        seen
    }

    fn take(&mut self) -> Option<Seen> {
        let frame = frame::split(&self.received, Direction::FromServer).unwrap()?;
        let seen = Seen::of(frame.request, &ServerMessage::decode(&frame).unwrap());
        let size = frame.size();
        self.received.drain(..size);
        Some(seen)
    }

    fn fill(&mut self) {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.is_over = true,
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.is_over = true,
            Err(error) => panic!("{error} on {}", self.stream.as_raw_fd()),
        }
    }
}

/// A submit frame of canonical transactions that nobody has signed.
pub(super) fn submit(request: u64, first_nonce: u64, count: u64, wait: WaitFor) -> Vec<u8> {
    let transactions: Vec<Vec<u8>> = (first_nonce..first_nonce + count)
        .map(|nonce| {
            let builder = TransactionBuilder::new(CHAIN, PublicKey([3; 64]), nonce, 500);
            let operation = Operation::Notarise { digest: &Digest([5; 32]), memo: b"a memo" };
            let unsigned = builder.operation(operation).unsigned();
            TransactionBuilder::join(unsigned, &Signature([9; 64])).unwrap().bytes().to_vec()
        })
        .collect();
    let mut body = vec![wait as u8, 0, 0, 0];
    body.extend(u32::try_from(count).unwrap().to_le_bytes());
    for transaction in &transactions {
        body.extend(u32::try_from(transaction.len()).unwrap().to_le_bytes());
        body.extend(transaction);
    }
    let view = SubmitView::parse(&body).unwrap();
    let mut bytes = Vec::new();
    ClientMessage::Submit(view).encode(request, &mut bytes);
    bytes
}

/// The executed block of a height that certifies the one before. One with receipts is for those who
/// wait, not for subscribers: its batches are left out.
pub(super) fn block(height: u64, ids: &[TxId]) -> Executed {
    let hasher = software_provider().hasher;
    let header = BlockHeader {
        prefix: DomainPrefix::new(Kind::BlockHeader, CHAIN),
        height: height.into(),
        time_millis: (1_000 * height).into(),
        parent: BlockDigest(Digest::ZERO),
        proposer: Address([1; 20]),
        batches_count: 0.into(),
        transactions_count: 0.into(),
        transactions_root: Digest::ZERO,
        executed_height: (height - 1).into(),
        state_root: Digest::ZERO,
        receipts_root: Digest::ZERO,
        receipts_count: 0.into(),
        validators: Digest::ZERO,
        present: 0.into(),
    };
    let block = Block::new(header, Vec::new(), &*hasher).unwrap();
    let receipts: Vec<Receipt> = (0..)
        .zip(ids)
        .map(|(place, id)| {
            let digest = TxDigest(Sm3::of(&[id.as_bytes()]));
            Receipt::new(CHAIN, height, place, *id, digest, Ok(()))
        })
        .collect();
    let digest = block.digest();
    let certificate = CommitCertificate { height, round: 0, block: digest, signatures: Vec::new() };
    let roots = ExecutedRoots {
        height,
        state_root: Digest::ZERO,
        receipts_root: Digest::ZERO,
        receipts_count: 0,
    };
    let receipts_tree = MerkleTree::new(receipts.iter().map(Receipt::leaf).collect(), &*hasher);
    let batches = Vec::new();
    let parts =
        ExecutedBlock { block, digest, certificate, batches, receipts, receipts_tree, roots };
    Arc::new(parts)
}
