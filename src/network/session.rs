//! The server's side of one client connection: bytes in, typed requests out; answers in, bytes out.
//! No I/O, no clock.
//!
//! ```text
//! socket --receive--> [plain] --next_request--> node
//!                        |
//!          paused while too much is in flight, and TCP tells the client
//!
//! node --accepted, refused, deliver, answer_*, push_event--> [frames] --transmit--> socket
//!                                                               |
//!                                        full, and the producer keeps what it has
//! ```
//! One session per connection, owned by the `ingress` tile that owns the socket. Everything it
//! holds is bounded by [`SessionConfig`]. It never reads a clock, never blocks, and trusts no byte
//! it is given.

mod counters;
mod outcomes;
mod outgoing;
mod subscriptions;
#[cfg(test)]
mod tests;
mod waiters;

use hufu_types::codec::index;
use hufu_types::limits::TX_SIZE_MAX;
use hufu_types::{Address, ChainId, DecodeError, RefusalCode, Transaction};

use crate::channel::Channel;
use crate::codes::ErrorCode;
use crate::frame::{self, Direction, Frame, FrameKind};
use crate::limits::{FRAME_BODY_SIZE_MAX, FRAME_HEADER_SIZE, SUBMIT_TRANSACTIONS_COUNT_MAX};
use crate::message::answer::{
    AccountInfo, BlockInfo, ErrorInfo, StatusInfo, TransactionInfo, Welcome,
};
use crate::message::event::{Filter, Subscribe, SubscribeStart};
use crate::message::request::{Hello, MAGIC, QueryAccount, QueryBlock, QueryTransaction, Wait};
use crate::message::submit::{RECEIPT_ENTRY_SIZE, StatusEntry, SubmitView};
use crate::message::{ClientMessage, ServerMessage, WaitFor};

pub use counters::SessionCounters;
use outgoing::Outgoing;
pub use subscriptions::SubscriptionState;
use subscriptions::Subscriptions;
use waiters::{Hope, Waiter, Waiters};

/// Bytes a session takes in beyond one whole frame before it wants requests to be taken out.
const RECEIVE_SLACK_BYTES: usize = 64 * 1_024;

/// Most plain bytes a session holds undecoded.
const PLAIN_BYTES_MAX: usize =
    FRAME_HEADER_SIZE + FRAME_BODY_SIZE_MAX as usize + RECEIVE_SLACK_BYTES;

/// What a node allows one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Most transactions without their last word; at least what one submit frame holds.
    pub transactions_in_flight_max: u32,
    /// Most waits and, apart from them, most queries without answer.
    pub requests_in_flight_max: u32,
    /// Most subscriptions.
    pub subscriptions_max: u32,
    /// Bytes of answers the session holds for a client before it calls itself full. One answer more
    /// may stand on top.
    pub outgoing_bytes_max: u32,
}

impl Default for SessionConfig {
    /// 16,384 transactions, 64 requests, 4 subscriptions, 4 MiB.
    fn default() -> Self {
        Self {
            transactions_in_flight_max: 16_384,
            requests_in_flight_max: 64,
            subscriptions_max: 4,
            outgoing_bytes_max: 4 * 1_024 * 1_024,
        }
    }
}

impl SessionConfig {
    /// What is wrong with the values, if anything: the key and the smallest value it may have.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, u64)> {
        // A receipt and two statuses for everything in flight fit, so that only proofs can fill the
        // buffer before it is sent.
        let per_transaction = RECEIPT_ENTRY_SIZE + 2 * size_of::<StatusEntry>();
        let answers = u64::from(self.transactions_in_flight_max)
            .saturating_mul(u64::try_from(per_transaction).unwrap_or(u64::MAX));
        let faults: [(&'static str, u64, u64); 3] = [
            (
                "transactions_in_flight_max",
                self.transactions_in_flight_max.into(),
                SUBMIT_TRANSACTIONS_COUNT_MAX.into(),
            ),
            ("requests_in_flight_max", self.requests_in_flight_max.into(), 1),
            ("outgoing_bytes_max", self.outgoing_bytes_max.into(), answers),
        ];
        faults.into_iter().find(|(_, found, min)| found < min).map(|(key, _, min)| (key, min))
    }
}

/// Goes with a transaction through the node and comes back with its verdict; says what its client
/// waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Request id of the submit frame.
    pub request: u64,
    /// Last height at which the transaction may be included.
    pub valid_until: u64,
    /// Place in the submit frame, from 0.
    pub position: u32,
    /// What the client waits for.
    pub wait: WaitFor,
    /// Whether the receipt comes with its proof.
    pub with_proof: bool,
}

/// A canonical transaction on its way to verification.
#[derive(Debug)]
pub struct Submission {
    /// To be handed back with the verdict.
    pub ticket: Ticket,
    /// The transaction.
    pub transaction: Transaction,
}

/// Transactions of one submit frame; those that are not canonical are refused already.
#[derive(Debug)]
pub struct SubmitRequest {
    /// Request id of the frame.
    pub request: u64,
    /// The canonical ones in order.
    pub submissions: Vec<Submission>,
}

/// What a client wants of the node. Each is answered exactly once, through the session.
#[derive(Debug)]
pub enum Request {
    /// Verify and admit: [`ServerSession::accepted`] or [`ServerSession::refused`] for each.
    Submit(SubmitRequest),
    /// Answer with [`ServerSession::answer_wait`], [`ServerSession::wait_for_certificate`] or
    /// [`ServerSession::wait_for_inclusion`]. The session waits for blocks to come already.
    Wait {
        /// Request id.
        request: u64,
        /// What is waited for.
        wait: Wait,
    },
    /// Answer with [`ServerSession::answer_status`].
    Status {
        /// Request id.
        request: u64,
    },
    /// Answer with [`ServerSession::answer_account`].
    Account {
        /// Request id.
        request: u64,
        /// What is asked.
        query: QueryAccount,
    },
    /// Answer with [`ServerSession::answer_block`].
    Block {
        /// Request id.
        request: u64,
        /// What is asked.
        query: QueryBlock,
    },
    /// Answer with [`ServerSession::answer_transaction`].
    Transaction {
        /// Request id.
        request: u64,
        /// What is asked.
        query: QueryTransaction,
    },
    /// Answer with [`ServerSession::subscribed`], or [`ServerSession::end_subscription`] if the
    /// cursor is gone.
    Subscribe {
        /// Request id, which names the subscription from here on.
        subscription: u64,
        /// Where to begin.
        start: SubscribeStart,
        /// Which events.
        filter: Filter,
    },
}

/// Whether the session took an answer or an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Push {
    /// Taken, or the connection is closing and nobody will miss it.
    Taken,
    /// The outgoing buffer is full: keep it and try again after the client has taken some.
    Full,
    /// The subscription has no credit; try again when [`ServerSession::subscriptions`] names it.
    NoCredit,
    /// The subscription is not open, or the event lies before its cursor: drop it.
    Stale,
}

/// What became of a receipt handed to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// Nobody here waits for it, or all who did have it now.
    Done,
    /// The outgoing buffer is full: hand the same receipt in again after the client has taken some.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waiting for the hello.
    Greeting,
    /// In conversation.
    Open,
    /// Only sending what is left.
    Closing,
}

/// One client connection, without its socket.
pub struct ServerSession {
    config: SessionConfig,
    chain_id: ChainId,
    node: Address,
    channel: Box<dyn Channel>,
    phase: Phase,
    plain: Vec<u8>,
    start: usize,
    last_request: u64,
    transactions_in_flight: u32,
    waits_in_flight: u32,
    queries: Vec<u64>,
    /// Submit frames stay unread.
    holds_submits: bool,
    /// A whole frame is there that could not be taken when it was looked at last.
    is_paused: bool,
    /// Receipts up to this height were delivered, or there was nobody yet to wait for them.
    advanced: u64,
    out: Outgoing,
    waiters: Waiters,
    subscriptions: Subscriptions,
    counters: SessionCounters,
}

enum Step {
    /// Everything whole is handled.
    Wait,
    /// A frame is there for which there is no room yet.
    Paused,
    /// A frame was handled here.
    Handled(usize),
    /// A frame became a request.
    Yield(usize, Request),
    /// The connection cannot go on.
    Fault(ErrorCode, u64, String),
}

impl ServerSession {
    /// The session of a connection that was just accepted.
    ///
    /// # Panics
    /// If [`SessionConfig::fault`] finds one: the node's configuration is checked before.
    #[must_use]
    pub fn new(
        config: SessionConfig,
        chain_id: ChainId,
        node: Address,
        channel: Box<dyn Channel>,
    ) -> Self {
        assert_eq!(config.fault(), None, "the configuration was checked");
        Self {
            config,
            chain_id,
            node,
            channel,
            phase: Phase::Greeting,
            plain: Vec::new(),
            start: 0,
            last_request: 0,
            transactions_in_flight: 0,
            waits_in_flight: 0,
            queries: Vec::new(),
            holds_submits: false,
            is_paused: false,
            advanced: 0,
            out: Outgoing::new(index(config.outgoing_bytes_max)),
            waiters: Waiters::default(),
            subscriptions: Subscriptions::new(config.subscriptions_max),
            counters: SessionCounters::default(),
        }
    }

    /// Takes bytes from the socket; returns how many. Fewer than given means: stop reading, take
    /// requests out, try again.
    pub fn receive(&mut self, wire: &[u8]) -> usize {
        if self.phase == Phase::Closing {
            return wire.len();
        }
        if self.start > 0 {
            self.plain.drain(..self.start);
            self.start = 0;
        }
        let room = PLAIN_BYTES_MAX.saturating_sub(self.plain.len()).min(wire.len());
        let (offered, _) = wire.split_at(room);
        match self.channel.receive(offered, &mut self.plain) {
            Ok(taken) => {
                self.counters.bytes_received += widen(taken);
                self.out.channel_speaks(&mut *self.channel);
                taken
            }
            Err(fault) => {
                self.close(ErrorCode::ChannelFailed, &fault.to_string());
                wire.len()
            }
        }
    }

    /// The next request, or `None` until more bytes or more room are there. `height` is what the
    /// node has executed.
    ///
    /// Frames that need nothing of the node (hello, ping, credit, end of a subscription) are
    /// answered on the way.
    pub fn next_request(&mut self, height: u64) -> Option<Request> {
        loop {
            if self.phase == Phase::Closing {
                return None;
            }
            let plain = core::mem::take(&mut self.plain);
            let step = self.step(plain.get(self.start..).unwrap_or_default(), height);
            self.plain = plain;
            match step {
                Step::Wait => {
                    self.is_paused = false;
                    return None;
                }
                Step::Paused => {
                    self.counters.pauses += u64::from(!self.is_paused);
                    self.is_paused = true;
                    return None;
                }
                Step::Handled(size) => {
                    self.is_paused = false;
                    self.start += size;
                }
                Step::Yield(size, request) => {
                    self.is_paused = false;
                    self.start += size;
                    return Some(request);
                }
                Step::Fault(code, request, text) => {
                    self.fail(code, request, &text);
                    return None;
                }
            }
        }
    }

    /// Leaves submit frames unread, and what comes after them, until it is called with `false`: for
    /// an owner that has no room for their transactions.
    pub const fn hold_submits(&mut self, holds: bool) {
        self.holds_submits = holds;
    }

    /// Whether a whole frame is there that could not be taken when it was looked at last.
    #[must_use]
    pub const fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether everything that was asked in whole frames has its answer, once
    /// [`ServerSession::next_request`] gives none: a client that sends no more may be let go.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        !self.is_paused
            && self.transactions_in_flight == 0
            && self.waits_in_flight == 0
            && self.queries.is_empty()
    }

    /// Whether the client waits for something: a transaction, a wait, a query or the events of a
    /// subscription.
    #[must_use]
    pub const fn is_expectant(&self) -> bool {
        !self.is_settled() || self.subscriptions.count() > 0
    }

    fn step(&mut self, bytes: &[u8], height: u64) -> Step {
        let frame = match frame::split(bytes, Direction::FromClient) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Step::Wait,
            Err(fault) => {
                let (code, request) = fault.code();
                return Step::Fault(code, request, fault.to_string());
            }
        };
        if self.out.is_full() || self.has_no_room(&frame) {
            return Step::Paused;
        }
        let message = match ClientMessage::decode(&frame) {
            Ok(message) => message,
            Err(fault) => {
                return Step::Fault(ErrorCode::Malformed, frame.request, fault.to_string());
            }
        };
        self.counters.frames_received += 1;
        match (self.phase, &message) {
            (Phase::Greeting, ClientMessage::Hello(hello)) => self.greet(&frame, hello, height),
            (Phase::Greeting, _) | (_, ClientMessage::Hello(_)) => {
                let text = "a hello is the first frame and no other";
                Step::Fault(ErrorCode::HelloMisplaced, frame.request, text.to_owned())
            }
            _ if frame.request <= self.last_request => {
                let text = format!("request id {} follows {}", frame.request, self.last_request);
                Step::Fault(ErrorCode::RequestIdInvalid, frame.request, text)
            }
            _ => {
                self.last_request = frame.request;
                self.handle(&frame, message)
            }
        }
    }

    /// Whether a submit frame must wait. It is looked at whenever something happens to the
    /// connection, so only its count is read; all of it is read once, when there is room.
    fn has_no_room(&self, frame: &Frame<'_>) -> bool {
        if self.phase != Phase::Open || frame.kind != FrameKind::Submit {
            return false;
        }
        let room = self.config.transactions_in_flight_max - self.transactions_in_flight;
        let Some(count) = SubmitView::stated_count(frame.body) else { return false };
        self.holds_submits || count > room
    }

    fn greet(&mut self, frame: &Frame<'_>, hello: &Hello, height: u64) -> Step {
        let fault = |code, text: String| Step::Fault(code, 0, text);
        if hello.magic != MAGIC {
            return fault(ErrorCode::BadMagic, "this is a hufu node".to_owned());
        }
        if frame.request != 0 {
            return fault(ErrorCode::RequestIdInvalid, "a hello has request id 0".to_owned());
        }
        let Some(version) = hello.common_version() else {
            let (min, max) = crate::message::request::PROTOCOL_VERSIONS;
            return fault(ErrorCode::VersionUnsupported, format!("this node speaks {min}..={max}"));
        };
        if hello.chain_id.is_some_and(|chain_id| chain_id != self.chain_id) {
            return fault(ErrorCode::WrongChain, format!("this is chain {}", self.chain_id));
        }
        self.phase = Phase::Open;
        self.advanced = height;
        let welcome = Welcome {
            version,
            frame_body_size_max: FRAME_BODY_SIZE_MAX,
            submit_transactions_max: SUBMIT_TRANSACTIONS_COUNT_MAX,
            transactions_in_flight_max: self.config.transactions_in_flight_max,
            requests_in_flight_max: self.config.requests_in_flight_max,
            subscriptions_max: self.config.subscriptions_max,
            chain_id: self.chain_id,
            node: self.node,
            height,
        };
        self.out.message(0, &ServerMessage::Welcome(welcome));
        Step::Handled(frame.size())
    }

    fn handle(&mut self, frame: &Frame<'_>, message: ClientMessage<'_>) -> Step {
        let (request, size) = (frame.request, frame.size());
        let asked = match message {
            ClientMessage::Submit(view) => {
                return Step::Yield(size, self.take_submit(request, &view));
            }
            ClientMessage::Wait(wait) => return self.take_wait(request, size, wait),
            ClientMessage::Subscribe(body) => return self.take_subscribe(request, size, body),
            ClientMessage::Credit(body) => {
                if let Err(code) = self.subscriptions.credit(&body) {
                    self.answer_error(request, code, "no credit was granted");
                }
                return Step::Handled(size);
            }
            ClientMessage::Unsubscribe(body) => {
                self.out.flush_events();
                match self.subscriptions.remove(body.subscription) {
                    Some(end) => self.out.message(request, &ServerMessage::SubscriptionEnded(end)),
                    None => self.answer_error(request, ErrorCode::SubscriptionUnknown, ""),
                }
                return Step::Handled(size);
            }
            ClientMessage::Ping => {
                self.out.message(request, &ServerMessage::Pong);
                return Step::Handled(size);
            }
            ClientMessage::QueryStatus => Request::Status { request },
            ClientMessage::QueryAccount(query) => Request::Account { request, query },
            ClientMessage::QueryBlock(query) => Request::Block { request, query },
            ClientMessage::QueryTransaction(query) => Request::Transaction { request, query },
            ClientMessage::Hello(_) => return Step::Handled(size),
        };
        if self.queries.len() >= index(self.config.requests_in_flight_max) {
            self.answer_error(request, ErrorCode::TooManyInFlight, "too many queries");
            return Step::Handled(size);
        }
        self.queries.push(request);
        Step::Yield(size, asked)
    }

    /// One allocation for the list and one for each transaction: the box that is the transaction
    /// from here to its batch.
    fn take_submit(&mut self, request: u64, view: &SubmitView<'_>) -> Request {
        let (wait, with_proof) = (view.wait(), view.with_proof());
        self.counters.transactions_received += u64::from(view.count());
        self.transactions_in_flight += view.count();
        let mut submissions = Vec::with_capacity(index(view.count()));
        for (position, bytes) in (0..view.count()).zip(view.transactions()) {
            let mut ticket = Ticket { request, valid_until: 0, position, wait, with_proof };
            if bytes.len() > index(TX_SIZE_MAX) {
                self.refused(&ticket, RefusalCode::Oversized);
                continue;
            }
            match Transaction::parse(bytes.into()) {
                Ok(transaction) => {
                    ticket.valid_until = transaction.header().valid_until.get();
                    submissions.push(Submission { ticket, transaction });
                }
                Err(DecodeError::KeysTooMany { .. }) => {
                    self.refused(&ticket, RefusalCode::Oversized);
                }
                Err(_) => self.refused(&ticket, RefusalCode::Malformed),
            }
        }
        Request::Submit(SubmitRequest { request, submissions })
    }

    fn take_wait(&mut self, request: u64, size: usize, wait: Wait) -> Step {
        if self.waits_in_flight >= self.config.requests_in_flight_max {
            self.answer_error(request, ErrorCode::TooManyInFlight, "too many waits");
            return Step::Handled(size);
        }
        self.waits_in_flight += 1;
        self.waiters.add(Waiter {
            id: wait.id,
            request,
            position: 0,
            until: wait.until_height,
            strength: wait.strength,
            with_proof: wait.with_proof,
            is_submission: false,
            hope: Hope::Asked,
        });
        Step::Yield(size, Request::Wait { request, wait })
    }

    fn take_subscribe(&mut self, request: u64, size: usize, body: Subscribe) -> Step {
        if !self.subscriptions.add(request, &body) {
            self.answer_error(request, ErrorCode::TooManyInFlight, "too many subscriptions");
            return Step::Handled(size);
        }
        let Subscribe { start, filter, .. } = body;
        Step::Yield(size, Request::Subscribe { subscription: request, start, filter })
    }

    /// Answers a status query.
    pub fn answer_status(&mut self, request: u64, info: StatusInfo) -> Push {
        self.answer(request, &ServerMessage::Status(info))
    }

    /// Answers an account query.
    pub fn answer_account(&mut self, request: u64, info: AccountInfo) -> Push {
        self.answer(request, &ServerMessage::Account(info))
    }

    /// Answers a block query.
    pub fn answer_block(&mut self, request: u64, info: BlockInfo) -> Push {
        self.answer(request, &ServerMessage::Block(info))
    }

    /// Answers a transaction query.
    pub fn answer_transaction(&mut self, request: u64, info: TransactionInfo) -> Push {
        self.answer(request, &ServerMessage::Transaction(info))
    }

    fn answer(&mut self, request: u64, message: &ServerMessage<'_>) -> Push {
        if self.phase != Phase::Open {
            return Push::Taken;
        }
        if self.out.is_full() {
            return Push::Full;
        }
        if self.forget_query(request) {
            self.counters.answers_sent += 1;
            self.out.message(request, message);
        }
        Push::Taken
    }

    fn forget_query(&mut self, request: u64) -> bool {
        let place = self.queries.iter().position(|query| *query == request);
        place.map(|place| self.queries.swap_remove(place)).is_some()
    }

    /// Answers a request with an error that leaves the connection open. Always fits: errors are
    /// small, and there is one per frame at most.
    pub fn answer_error(&mut self, request: u64, code: ErrorCode, text: &str) {
        if self.phase != Phase::Open {
            return;
        }
        assert!(!code.closes(), "an error that closes goes through close()");
        self.forget_query(request);
        self.counters.count_error(code);
        let text = text.to_owned();
        self.out.message(request, &ServerMessage::Error(ErrorInfo { code, text }));
    }

    /// Says why, and ends the conversation once that is sent.
    pub fn close(&mut self, code: ErrorCode, text: &str) {
        self.fail(code, 0, text);
    }

    fn fail(&mut self, code: ErrorCode, request: u64, text: &str) {
        if self.phase == Phase::Closing {
            return;
        }
        self.counters.count_error(code);
        let text = text.to_owned();
        self.out.message(request, &ServerMessage::Error(ErrorInfo { code, text }));
        self.out.flush(&mut *self.channel);
        self.out.farewell(&mut *self.channel);
        self.phase = Phase::Closing;
        self.plain = Vec::new();
        self.start = 0;
        self.waiters = Waiters::default();
        self.subscriptions = Subscriptions::new(0);
        self.queries = Vec::new();
        (self.transactions_in_flight, self.waits_in_flight) = (0, 0);
        self.is_paused = false;
    }

    /// Bytes for the socket, all that are there. Tell how many it took with
    /// [`ServerSession::transmitted`].
    pub fn transmit(&mut self) -> &[u8] {
        if self.phase != Phase::Closing {
            self.out.flush(&mut *self.channel);
        }
        self.out.wire()
    }

    /// The socket took `count` bytes of what [`ServerSession::transmit`] gave.
    pub fn transmitted(&mut self, count: usize) {
        self.counters.bytes_sent += widen(count);
        self.out.sent(count);
    }

    /// Whether anything is there to transmit.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.out.queued() > 0
    }

    /// Whether the outgoing buffer is full: producers keep what they have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.out.is_full()
    }

    /// Whether the conversation is over; once [`ServerSession::has_output`] is false too, the
    /// socket is to be closed.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Whether the hello was answered; a connection without one is closed after a while by its
    /// owner.
    #[must_use]
    pub fn is_greeted(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Transactions without their last word.
    #[must_use]
    pub const fn transactions_in_flight(&self) -> u32 {
        self.transactions_in_flight
    }

    /// What the session has seen and done.
    #[must_use]
    pub const fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    /// Now and then: gives memory of past peaks back and tells subscribers how far filters have
    /// skipped.
    pub fn housekeeping(&mut self) {
        self.out.shrink();
        if self.start == self.plain.len() {
            self.plain.clear();
            self.start = 0;
            self.plain.shrink_to(RECEIVE_SLACK_BYTES);
        }
        self.announce_progress();
    }
}

fn widen(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
