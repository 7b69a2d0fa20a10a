//! The ingress tile: client sockets, sessions, push-back.
//!
//! ```text
//! socket <-> reactor <-> ServerSession --Submitted--> verify
//!                        ^   ^      \--Question--> execute, query --Answer--> here
//!   verify, mempool --Status   ExecutedBlock-- execute
//! ```
//!
//! It owns the sockets and sessions of its clients. A frame is decoded once. It never looks at
//! state or signatures. One file for each part of a turn:
//!
//! | file | what |
//! |---|---|
//! | `lifetime` | connections come, fall silent, make room for others, and end |
//! | `requests` | bytes in, requests out, answers that need nobody else |
//! | `submissions` | transactions on their way to verification, a fair share for each connection |
//! | `answers` | what execution and queries answer |
//! | `receipts` | executed blocks to those who wait |
//! | `events` | executed blocks to those who subscribed |
//!
//! # Fairness
//! What a connection asks for waits on that connection. A turn serves every connection that has
//! something, from a place that moves on; transactions leave in quanta, one connection after the
//! other. When verification has no room, a connection keeps the transactions of one submit frame
//! and leaves the next frame unread, so that TCP tells that client alone; hellos, pings and queries
//! of all others are served at every turn.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::sync::Arc;

use hufu_crypto::Provider;
use hufu_network::session::SessionConfig;
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::net::{ConnToken, Event, ListenerToken, Reactor};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::PollSet;
use hufu_types::codec::index;
use hufu_types::{Address, BlockDigest, ChainId, Digest};

use crate::block_window::{BlockWindow, WINDOW_BYTES_MAX};
use crate::messages::{Answer, Executed, Question, Status, Submitted};
use crate::metrics::Metrics;

mod answers;
mod connection;
mod events;
mod lifetime;
mod receipts;
mod requests;
mod submissions;
#[cfg(test)]
mod tests;

use connection::Connection;
use events::History;
pub use lifetime::SPARE_CONNECTIONS;
use receipts::BlockDelivery;
use submissions::{Submissions, VERIFYING_BYTES_MAX};

/// Transactions taken out of all sessions in one turn, count; bounds how long others wait for it.
const TRANSACTIONS_PER_TURN_MAX: usize = 8_192;

/// Items taken from one link in one turn, count.
const ITEMS_PER_TURN_MAX: usize = 4_096;

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
    /// Connections served at once, count. The reactor has room for [`SPARE_CONNECTIONS`] more,
    /// which are told that there is no place for them.
    pub connections_max: u32,
    /// What one connection may do.
    pub session: SessionConfig,
    /// Chooses the verify tile of a transaction by its signature. The same for all ingress tiles,
    /// unknown to clients: they cannot aim at one tile.
    pub spread: RandomState,
    /// The chain.
    pub chain_id: ChainId,
    /// The node.
    pub node: Address,
    /// Heights between a block and its certifying header.
    pub lag: u64,
    /// The last height executed before the start.
    pub height: u64,
    /// Time of its block, Unix milliseconds.
    pub time_millis: u64,
    /// Digest of its block.
    pub block: BlockDigest,
    /// State root after it.
    pub state_root: Digest,
    /// The last blocks, which no header certifies yet: whoever waits for that after a restart gets
    /// it with the header to come.
    pub uncertified: Vec<Executed>,
}

/// Bytes that an ingress tile takes beside the buffers of its reactor: its sessions, the
/// transactions it has handed to verification, and blocks for slow readers and subscribers.
#[must_use]
pub fn memory_bytes_max(connections_max: u32, session: &SessionConfig) -> u64 {
    let fixed = VERIFYING_BYTES_MAX + receipts::PENDING_BYTES_MAX + 2 * WINDOW_BYTES_MAX;
    let connection = connection::memory_bytes_max(session);
    let widen = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    widen(fixed) + u64::from(connections_max).saturating_mul(widen(connection))
}

/// See the module.
pub struct IngressTile {
    name: String,
    config: IngressConfig,
    provider: Provider,
    metrics: Arc<Metrics>,
    reactor: Reactor,
    listener: ListenerToken,
    statuses: Vec<Consumer<Status>>,
    executed: Consumer<Executed>,
    answers: Vec<Consumer<Answer>>,
    /// With where it leads and what waits for room there.
    to_execute: (Producer<Question>, VecDeque<Question>),
    to_query: (Producer<Question>, VecDeque<Question>),
    connections: Vec<Option<Connection>>,
    /// The place whose connection is served first in the next turn.
    first_place: usize,
    submissions: Submissions,
    recent: BlockWindow,
    history: History,
    time_millis: u64,
    height: u64,
    started: Nanos,
    events: Vec<Event>,
    /// Connections the reactor has refused so far, as far as they are in the metrics.
    refused_published: u64,
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
        let mut recent = BlockWindow::new(index(u32::try_from(config.lag).unwrap_or(1)) + 1);
        config.uncertified.iter().for_each(|block| recent.push(Arc::clone(block)));
        Self {
            name: format!("ingress-{}", config.index),
            submissions: Submissions::new(links.to_verify, config.spread.clone()),
            provider,
            metrics,
            reactor,
            listener,
            statuses: links.statuses,
            executed: links.executed,
            answers: links.answers,
            to_execute: (links.to_execute, VecDeque::new()),
            to_query: (links.to_query, VecDeque::new()),
            connections: Vec::new(),
            first_place: 0,
            recent,
            history: History::new(),
            time_millis: config.time_millis,
            height: config.height,
            config,
            started: clock::monotonic(),
            events: Vec::new(),
            refused_published: 0,
            drain_until: None,
            is_stopping: false,
        }
    }

    fn connection(&mut self, token: ConnToken) -> Option<&mut Connection> {
        find(&mut self.connections, token)
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
                    if let Some(connection) = self.connection(conn) {
                        connection.is_dirty = true;
                    }
                }
                // A client that has said all may still read what it is owed; then it is let go.
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

    fn take_statuses(&mut self) -> bool {
        let mut has_worked = false;
        for link in &mut self.statuses {
            for _ in 0..ITEMS_PER_TURN_MAX {
                let Some(Status { source, result }) = link.pop() else { break };
                has_worked = true;
                self.submissions.judged(source.size);
                match (find(&mut self.connections, source.connection), result) {
                    (Some(connection), result) => {
                        match result {
                            Ok(id) => connection.session.accepted(&source.ticket, id),
                            Err(code) => connection.session.refused(&source.ticket, code),
                        }
                        connection.is_dirty = true;
                    }
                    (None, Err(code)) => self.metrics.count_refused(code, 1),
                    (None, Ok(_)) => {}
                }
            }
        }
        has_worked
    }

    /// Takes blocks before statuses are looked at for the last time: whoever is in a block was
    /// admitted before.
    fn take_executed(&mut self) -> bool {
        let mut blocks = Vec::new();
        while let Some(executed) = self.executed.pop() {
            blocks.push(executed);
        }
        let mut has_worked = self.take_statuses() || !blocks.is_empty();
        while !blocks.is_empty() && self.take_statuses() {
            has_worked = true;
        }
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
        let certified = self
            .recent
            .get(certified)
            .map(|earlier| BlockDelivery::certified(earlier, Arc::clone(&executed)));
        let committed = BlockDelivery::committed(Arc::clone(&executed));
        self.recent.push(executed);
        for connection in self.connections.iter_mut().flatten() {
            // What the block certifies goes first: the height it adds may end waits.
            let certified = certified.iter();
            for delivery in certified.chain([&committed]) {
                connection.enqueue(delivery);
            }
            connection.is_dirty = true;
        }
    }

    /// Serves every connection that something happened to, from a place that moves on.
    fn serve(&mut self, now: Nanos) -> bool {
        let (mut has_worked, mut room) = (false, TRANSACTIONS_PER_TURN_MAX);
        let (count, first) = (self.connections.len(), self.first_place);
        let mut next_first = first + 1;
        for place in (0..count).map(|step| (first + step) % count) {
            let Some(mut connection) = self.connections[place].take_if(|one| one.is_dirty) else {
                continue;
            };
            connection.is_dirty = false;
            has_worked = true;
            let had_room = room > 0;
            self.serve_one(&mut connection, now, &mut room);
            if had_room && room == 0 {
                next_first = place + 1;
            }
            self.connections[place] = Some(connection);
        }
        self.first_place = if next_first < count { next_first } else { 0 };
        has_worked
    }

    fn serve_one(&mut self, connection: &mut Connection, now: Nanos, room: &mut usize) {
        self.take_input(connection, now, room);
        connection.deliver(&*self.provider.hasher);
        self.feed(connection);
        self.transmit(connection, now);
        while let Some(answer) = connection.next_kept() {
            connection.answer(answer);
            self.transmit(connection, now);
        }
        if connection.is_over() {
            self.reactor.close(now, connection.token);
        }
    }

    fn transmit(&mut self, connection: &mut Connection, now: Nanos) {
        loop {
            let out = connection.session.transmit();
            if out.is_empty() {
                connection.stuck_since = None;
                return;
            }
            match self.reactor.send(connection.token, out) {
                Ok(0) | Err(_) => {
                    connection.stuck_since.get_or_insert(now);
                    return;
                }
                Ok(count) => {
                    connection.session.transmitted(count);
                    connection.stuck_since = None;
                }
            }
        }
    }
}

/// The connection that a token names, if it is still there.
fn find(connections: &mut [Option<Connection>], token: ConnToken) -> Option<&mut Connection> {
    let connection = connections.get_mut(index(token.slot()))?.as_mut()?;
    (connection.token == token).then_some(connection)
}

impl Tile for IngressTile {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let mut has_worked = self.take_events(now)?;
        has_worked |= self.take_executed();
        has_worked |= self.take_answers();
        has_worked |= self.drain(now);
        has_worked |= self.submissions.pass_on(&mut self.connections);
        has_worked |= self.serve(now);
        has_worked |= self.submissions.pass_on(&mut self.connections);
        let has_room = self.pass_questions() && !self.submissions.is_pushed_back();
        if has_worked {
            // What was put into send buffers leaves now, not after the next wake-up.
            self.take_events(now)?;
            return Ok(Progress::Busy);
        }
        if self.is_stopping && self.drain_until.is_none() && self.reactor.connections_count() == 0 {
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
        let refused = self.reactor.stats().refused_over_max;
        self.metrics.ingress_connections_refused.add(refused - self.refused_published);
        self.refused_published = refused;
        self.metrics.ingress_connections.set_count(self.reactor.connections_count());
        self.watch(now);
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        self.reactor.stop_listening(self.listener);
        self.drain_until = Some(clock::monotonic().after(lifetime::DRAIN_WAIT));
    }
}
