//! The ingress tile: client sockets, sessions, push-back.
//!
//! ```text
//! socket <-> reactor <-> ServerSession --Submitted--> verify
//!                        ^   ^      \--Question--> execute, query --Answer--> here
//!   verify, mempool --Status   ExecutedBlock-- execute
//! ```
//!
//! It owns the sockets and sessions of its clients. A frame is decoded once. When a verify tile has
//! no room, requests stay in their sessions, sessions stop reading, and TCP tells the clients. It
//! never looks at state or signatures.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::Provider;
use hufu_network::channel::PlainChannel;
use hufu_network::codes::ErrorCode;
use hufu_network::message::answer::{NodeState, StatusInfo};
use hufu_network::message::event::{Cursor, SubscribeStart};
use hufu_network::session::{Push, Request, ServerSession, SessionConfig};
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::net::{ConnToken, Event, ListenerToken, Reactor};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::PollSet;
use hufu_types::verification::check_header;
use hufu_types::{Address, BlockDigest, ChainId, Digest};

use crate::messages::{
    Answer, AnswerBody, Asker, Executed, Query, Question, Source, Status, Submitted,
};
use crate::metrics::Metrics;
use crate::tiles::verify::verify_tile_of;

mod connection;
use connection::{BlockDelivery, Connection, Feed};

/// Blocks kept for live subscriptions and certified receipts, count.
const RECENT_BLOCKS_MAX: usize = 16;

/// Time a client has for its hello.
const HELLO_WAIT: Duration = Duration::from_secs(5);

/// Time that clients have to get their last receipts when the node stops.
const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// Requests taken from one connection in one turn, so that none starves the others.
const REQUESTS_PER_TURN_MAX: usize = 8;

/// The links of an ingress tile.
#[derive(Debug)]
pub struct IngressLinks {
    /// To each verify tile.
    pub to_verify: Vec<Producer<Submitted>>,
    /// Refusals from each verify tile, then verdicts of the mempool.
    pub statuses: Vec<Consumer<Status>>,
    /// Executed blocks.
    pub executed: Consumer<Executed>,
    /// Questions about accounts.
    pub to_execute: Producer<Question>,
    /// Questions that need the disk.
    pub to_query: Producer<Question>,
    /// Answers of both.
    pub answers: Vec<Consumer<Answer>>,
}

/// What an ingress tile is told about the node it belongs to.
#[derive(Clone, Debug)]
pub struct IngressConfig {
    /// Number of this tile among the ingress tiles.
    pub index: u16,
    /// What one connection may do.
    pub session: SessionConfig,
    /// The chain.
    pub chain_id: ChainId,
    /// The node.
    pub node: Address,
    /// Heights between a block and its certifying header.
    pub lag: u64,
    /// The last height executed before the start.
    pub height: u64,
    /// Digest of its block.
    pub block: BlockDigest,
    /// State root after it.
    pub state_root: Digest,
    /// The last blocks, which no header certifies yet: whoever waits for that after a restart gets
    /// it with the header to come.
    pub uncertified: Vec<Executed>,
}

/// See the module.
pub struct IngressTile {
    name: String,
    config: IngressConfig,
    provider: Provider,
    metrics: Arc<Metrics>,
    reactor: Reactor,
    listener: ListenerToken,
    links: IngressLinks,
    connections: Vec<Option<Connection>>,
    /// Transactions taken out of their session for which no verify tile has room.
    held: VecDeque<Submitted>,
    questions: VecDeque<(bool, Question)>,
    recent: VecDeque<Executed>,
    height: u64,
    time_millis: u64,
    started: Nanos,
    events: Vec<Event>,
    drain_until: Option<Nanos>,
    is_stopping: bool,
}

impl IngressTile {
    /// A tile that serves the clients of `listener`.
    #[must_use]
    pub fn new(
        config: IngressConfig,
        provider: Provider,
        metrics: Arc<Metrics>,
        reactor: Reactor,
        listener: ListenerToken,
        links: IngressLinks,
    ) -> Self {
        assert!(!links.to_verify.is_empty(), "somebody verifies");
        let (height, recent) = (config.height, config.uncertified.clone().into());
        Self {
            name: format!("ingress-{}", config.index),
            config,
            provider,
            metrics,
            reactor,
            listener,
            links,
            connections: Vec::new(),
            held: VecDeque::new(),
            questions: VecDeque::new(),
            recent,
            height,
            time_millis: 0,
            started: clock::monotonic(),
            events: Vec::new(),
            drain_until: None,
            is_stopping: false,
        }
    }

    fn connection(&mut self, token: ConnToken) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(usize::try_from(token.slot()).ok()?)?.as_mut()?;
        (connection.token == token).then_some(connection)
    }

    fn take_events(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let mut events = std::mem::take(&mut self.events);
        self.reactor.poll(now, &mut events)?;
        let has_worked = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Accepted { conn, .. } => self.accept(conn, now),
                Event::Received { conn, .. }
                | Event::Writable { conn, .. }
                | Event::Connected { conn } => {
                    self.mark(conn);
                }
                // A client that has said all may still read its receipts; without any to come it is
                // let go.
                Event::EndOfInput { conn } => {
                    if let Some(connection) = self.connection(conn) {
                        connection.is_input_over = true;
                        connection.is_dirty = true;
                    }
                }
                Event::Closed { conn, .. } => self.forget(conn),
            }
        }
        self.events = events;
        Ok(has_worked)
    }

    fn accept(&mut self, token: ConnToken, now: Nanos) {
        let slot = usize::try_from(token.slot()).unwrap_or(usize::MAX);
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        let channel = Box::new(PlainChannel::new());
        let session = ServerSession::new(
            self.config.session,
            self.config.chain_id,
            self.config.node,
            channel,
        );
        self.connections[slot] = Some(Connection::new(token, session, now));
        self.metrics.ingress_connections_accepted.add(1);
    }

    fn forget(&mut self, token: ConnToken) {
        let metrics = Arc::clone(&self.metrics);
        if let Some(connection) = self.connection(token) {
            connection.publish(&metrics);
            let slot = usize::try_from(token.slot()).unwrap_or(usize::MAX);
            self.connections[slot] = None;
        }
    }

    fn mark(&mut self, token: ConnToken) {
        if let Some(connection) = self.connection(token) {
            connection.is_dirty = true;
        }
    }

    fn take_statuses(&mut self) -> bool {
        let mut has_worked = false;
        for link in 0..self.links.statuses.len() {
            while let Some(Status { source, result }) = self.links.statuses[link].pop() {
                has_worked = true;
                let Some(connection) = self.connection(source.connection) else { continue };
                match result {
                    Ok(id) => connection.session.accepted(&source.ticket, id),
                    Err(code) => connection.session.refused(&source.ticket, code),
                }
                connection.is_dirty = true;
            }
        }
        has_worked
    }

    /// Takes blocks before statuses are looked at for the last time: whoever is in a block was
    /// admitted before.
    fn take_executed(&mut self) -> bool {
        let mut blocks = Vec::new();
        while let Some(executed) = self.links.executed.pop() {
            blocks.push(executed);
        }
        let has_worked = self.take_statuses() || !blocks.is_empty();
        for executed in blocks {
            self.hand_out(executed);
        }
        has_worked
    }

    fn hand_out(&mut self, executed: Executed) {
        self.height = executed.block.height();
        self.time_millis = executed.block.header().time_millis.get();
        self.config.block = executed.digest;
        self.config.state_root = executed.roots.state_root;
        let certified = executed.block.header().executed_height.get();
        let earlier = self.recent.iter().find(|block| block.block.height() == certified);
        let certified = earlier
            .map(|earlier| BlockDelivery::certified(Arc::clone(earlier), Arc::clone(&executed)));
        let committed = BlockDelivery::committed(Arc::clone(&executed));
        self.recent.push_back(executed);
        if self.recent.len() > RECENT_BLOCKS_MAX {
            self.recent.pop_front();
        }
        for connection in self.connections.iter_mut().flatten() {
            let mut keeps_up = connection.enqueue(&committed);
            if let Some(certified) = &certified {
                keeps_up &= connection.enqueue(certified);
            }
            if !keeps_up {
                connection.session.close(ErrorCode::SlowConsumer, "receipts were left unread");
            }
            connection.is_dirty = true;
        }
    }

    fn take_answers(&mut self) -> bool {
        let mut has_worked = false;
        for link in 0..self.links.answers.len() {
            while let Some(answer) = self.links.answers[link].pop() {
                has_worked = true;
                if let Some(connection) = self.connection(answer.asker.connection) {
                    connection.is_dirty = true;
                    // A client that does not read waits for itself, never for others.
                    if let Err(answer) = connection.keep_if_full(answer) {
                        answer_to(connection, answer);
                    }
                }
            }
        }
        has_worked
    }

    /// Passes held transactions and questions on; `false` while one has no room.
    fn pass_on(&mut self) -> bool {
        while let Some(submitted) = self.held.pop_front() {
            let tile =
                verify_tile_of(submitted.transaction.signature(), self.links.to_verify.len());
            if let Err(back) = self.links.to_verify[tile].try_push(submitted) {
                self.held.push_front(back);
                return false;
            }
        }
        while let Some((is_account, question)) = self.questions.pop_front() {
            let link =
                if is_account { &mut self.links.to_execute } else { &mut self.links.to_query };
            if let Err(back) = link.try_push(question) {
                self.questions.push_front((is_account, back));
                return false;
            }
        }
        true
    }

    /// Lets connections go on that were left alone while transactions were pushed back.
    fn unblock(&mut self) {
        for connection in self.connections.iter_mut().flatten().filter(|one| one.is_blocked) {
            connection.is_blocked = false;
            connection.is_dirty |= !self.is_stopping;
        }
    }

    /// Serves every connection that something happened to.
    fn serve(&mut self, now: Nanos) -> bool {
        let mut has_worked = false;
        for slot in 0..self.connections.len() {
            let Some(mut connection) = self.connections[slot].take_if(|one| one.is_dirty) else {
                continue;
            };
            connection.is_dirty = false;
            has_worked = true;
            self.serve_one(&mut connection, now);
            self.connections[slot] = Some(connection);
        }
        has_worked
    }

    fn serve_one(&mut self, connection: &mut Connection, now: Nanos) {
        let token = connection.token;
        self.take_input(connection);
        connection.deliver(&*self.provider.hasher);
        if let Feed::Wants(height) = connection.feed(&self.recent, self.height)
            && !connection.is_history_asked
        {
            connection.is_history_asked = true;
            let asker = Asker { connection: token, request: 0 };
            self.questions.push_back((false, Question { asker, query: Query::History { height } }));
        }
        self.transmit(connection);
        while let Some(answer) = connection.next_kept() {
            answer_to(connection, answer);
            self.transmit(connection);
        }
        let session = &connection.session;
        let is_over = connection.is_input_over && session.transactions_in_flight() == 0;
        if (session.is_closing() || is_over) && !session.has_output() {
            self.reactor.close(now, token);
        }
    }

    fn transmit(&mut self, connection: &mut Connection) {
        loop {
            let out = connection.session.transmit();
            if out.is_empty() {
                break;
            }
            match self.reactor.send(connection.token, out) {
                Ok(0) | Err(_) => break,
                Ok(count) => connection.session.transmitted(count),
            }
        }
    }

    /// Moves bytes into the session and requests out of it, as long as there is room downstream.
    fn take_input(&mut self, connection: &mut Connection) {
        for turn in 0..REQUESTS_PER_TURN_MAX {
            let bytes = self.reactor.received(connection.token);
            let offered = bytes.len();
            let taken = connection.session.receive(bytes);
            self.reactor.consume(connection.token, taken);
            if !self.held.is_empty() || self.is_stopping {
                // Taken up again when the verify tiles have room; see `unblock`.
                connection.is_blocked = true;
                return;
            }
            let Some(request) = connection.session.next_request(self.height) else {
                // Bytes that did not fit are offered again once the session has handed out what it
                // holds.
                connection.is_dirty |= taken > 0 && taken < offered;
                return;
            };
            self.take_request(connection, request);
            connection.is_dirty = turn + 1 == REQUESTS_PER_TURN_MAX;
        }
    }

    fn take_request(&mut self, connection: &mut Connection, request: Request) {
        let asker = |request| Asker { connection: connection.token, request };
        match request {
            Request::Submit(submit) => {
                for submission in submit.submissions {
                    if let Some(code) = check_header(&submission.transaction, self.config.chain_id)
                    {
                        connection.session.refused(&submission.ticket, code);
                        continue;
                    }
                    let (ingress, connection) = (self.config.index, connection.token);
                    let source = Source { ingress, connection, ticket: submission.ticket };
                    self.held.push_back(Submitted { transaction: submission.transaction, source });
                }
                self.pass_on();
            }
            Request::Wait(wait) => {
                self.questions
                    .push_back((false, Question { asker: asker(0), query: Query::Wait(wait) }));
            }
            Request::Status { request } => {
                let status = self.status();
                if connection.session.answer_status(request, status) == Push::Full {
                    connection.session.answer_error(
                        request,
                        ErrorCode::Overloaded,
                        "no room for the answer",
                    );
                }
            }
            Request::Account { request, query } => {
                let question = Question { asker: asker(request), query: Query::Account(query) };
                self.questions.push_back((true, question));
            }
            Request::Block { request, query } => {
                let question = Question { asker: asker(request), query: Query::Block(query) };
                self.questions.push_back((false, question));
            }
            Request::Transaction { request, query } => {
                let question = Question { asker: asker(request), query: Query::Transaction(query) };
                self.questions.push_back((false, question));
            }
            Request::Subscribe { subscription, start, .. } => {
                let begin = match start {
                    SubscribeStart::Now => Cursor::start_of(self.height + 1),
                    SubscribeStart::At(cursor) => cursor.max(Cursor::start_of(1)),
                };
                connection.session.subscribed(subscription, begin);
                connection.is_dirty = true;
            }
        }
    }

    fn status(&self) -> StatusInfo {
        let uptime = clock::monotonic().duration_since(self.started);
        StatusInfo {
            height: self.height,
            certified_height: self.height.saturating_sub(self.config.lag),
            oldest_height: 1.min(self.height),
            time_millis: self.time_millis,
            uptime_seconds: uptime.as_secs(),
            pending_bytes: self.metrics.mempool_bytes.get(),
            pending_transactions: u32::try_from(self.metrics.mempool_transactions.get())
                .unwrap_or(u32::MAX),
            peers_count: 0,
            state: if self.is_stopping { NodeState::Stopping } else { NodeState::Running },
            block: self.config.block,
            state_root: self.config.state_root,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Lets clients go once they have their last words, or their time is over.
    fn drain(&mut self, now: Nanos) -> bool {
        let Some(until) = self.drain_until else { return false };
        let in_flight =
            self.connections.iter().flatten().any(|one| one.session.transactions_in_flight() > 0);
        if in_flight && now < until {
            return false;
        }
        for connection in self.connections.iter_mut().flatten() {
            connection.session.close(ErrorCode::Stopping, "the node is stopping");
            connection.is_dirty = true;
        }
        self.drain_until = None;
        true
    }
}

/// Hands an answer to the session that asked.
fn answer_to(connection: &mut Connection, answer: Answer) {
    let request = answer.asker.request;
    let session = &mut connection.session;
    let pushed = match answer.body {
        AnswerBody::Account(info) => session.answer_account(request, *info),
        AnswerBody::Block(info) => session.answer_block(request, *info),
        AnswerBody::Transaction(info) => session.answer_transaction(request, *info),
        AnswerBody::Receipt { strength, receipt, proof } => {
            // The session had room when the answer was taken, and a wait is one receipt.
            let _delivery = session.deliver(strength, &receipt, &mut || proof.clone());
            Push::Taken
        }
        AnswerBody::History(executed) => {
            connection.is_history_asked = false;
            connection.history = Some(executed);
            Push::Taken
        }
        AnswerBody::NotYet(_) => Push::Taken,
        AnswerBody::NotFound if request == 0 => {
            connection.is_history_asked = false;
            Push::Taken
        }
        AnswerBody::NotFound => {
            session.answer_error(
                request,
                ErrorCode::NotFound,
                "there is no such thing on this chain",
            );
            Push::Taken
        }
    };
    if pushed == Push::Full {
        session.answer_error(request, ErrorCode::Overloaded, "no room for the answer");
    }
    connection.is_dirty = true;
}

impl Tile for IngressTile {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let mut has_worked = self.take_events(now)?;
        has_worked |= self.take_executed();
        has_worked |= self.take_answers();
        let has_room = self.pass_on();
        if has_room {
            self.unblock();
        }
        has_worked |= self.drain(now);
        has_worked |= self.serve(now);
        if has_worked {
            // What was put into send buffers leaves now, not after the next wake-up.
            self.take_events(now)?;
            return Ok(Progress::Busy);
        }
        if self.is_stopping
            && self.drain_until.is_none()
            && self.held.is_empty()
            && self.reactor.connections_count() == 0
        {
            return Ok(Progress::Done);
        }
        Ok(if has_room { Progress::Idle } else { Progress::PushedBack })
    }

    fn deadline(&self) -> Option<Nanos> {
        self.reactor.deadline().into_iter().chain(self.drain_until).min()
    }

    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        fds.readable(&self.reactor);
    }

    fn housekeeping(&mut self, now: Nanos) {
        let stats = self.reactor.stats();
        self.metrics.ingress_connections.set_count(self.reactor.connections_count());
        self.metrics.ingress_connections_refused.publish(stats.refused_over_max);
        let metrics = Arc::clone(&self.metrics);
        for connection in self.connections.iter_mut().flatten() {
            connection.publish(&metrics);
            connection.session.housekeeping();
            let is_late = now.duration_since(connection.accepted_at) > HELLO_WAIT;
            if is_late && !connection.session.is_greeted() && !connection.session.is_closing() {
                connection.session.close(ErrorCode::IdleTimeout, "no hello came");
            }
            connection.is_dirty |= connection.session.has_output();
        }
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        self.reactor.stop_listening(self.listener);
        self.drain_until = Some(clock::monotonic().after(DRAIN_WAIT));
    }
}
