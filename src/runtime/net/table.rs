//! The table of connections and listeners that both back ends work on.
//!
//! The table holds what should be: phases, buffers, flags. A back end holds what is under way in
//! the kernel. Every change marks the connection dirty, and the back end brings the two together at
//! the next poll. That one rule replaces a web of callbacks, and it is the same for both back ends.
//!
//! ```text
//! Connecting -> Open -> Flushing -> Draining -> Ending -> Dead -> (free)
//!      \_________\___________\___________________^   Ending waits until the kernel is done with it
//! ```

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::buffer::{ReceiveBuffer, SendBuffer};
use super::memory::Memory;
use super::uring::{Held, KernelOps};
use super::{CloseReason, Config, ConnToken, Event, Gone, ListenerToken, Stats};
use crate::clock::Nanos;

/// How many provided buffers the kernel may fill for one connection before a cancelled multishot
/// receive really stops: the limit of its retry loop. The receive buffer has room for that many
/// beyond its bound, so that stopped readers hold on to no shared buffer.
const POOL_BURST: usize = 32;

/// How long accepting rests after the host ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The place is not in use.
    Free,
    /// The handshake runs.
    Connecting,
    /// Both sides talk.
    Open,
    /// The owner closed; the rest of the send buffer leaves.
    Flushing,
    /// Everything left and our side is shut down; input is discarded until the peer's side ends.
    Draining,
    /// Over; waiting for the kernel's last completions.
    Ending,
    /// Over and reported; unread bytes stay readable until the next poll.
    Dead,
}

/// What the owner is told at the end of a poll.
#[derive(Clone, Copy, Debug, Default)]
struct Notice {
    is_connected: bool,
    new_bytes: usize,
    is_writable: bool,
    is_end_of_input: bool,
    closed: Option<CloseReason>,
}

#[derive(Debug)]
pub(super) struct Connection {
    generation: u32,
    pub(super) phase: Phase,
    pub(super) socket: Option<TcpStream>,
    pub(super) receive: ReceiveBuffer,
    pub(super) send: SendBuffer,
    is_paused: bool,
    /// The peer will send no more, and all it sent is in the receive buffer.
    pub(super) is_input_ended: bool,
    is_send_short: bool,
    is_dirty: bool,
    is_noticed: bool,
    notice: Notice,
    reason: CloseReason,
    grace_ends: Nanos,
    /// io_uring: what the kernel is doing for this connection.
    pub(super) ops: KernelOps,
    /// io_uring: provided buffers whose bytes did not fit the receive buffer.
    pub(super) held: Held,
    /// epoll: the events the kernel is asked for; `None` before registration.
    pub(super) interest: Option<u32>,
    /// epoll: the socket took no more bytes at the last write.
    pub(super) is_send_blocked: bool,
}

impl Connection {
    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether input is thrown away.
    pub(super) const fn is_discarding(&self) -> bool {
        !matches!(self.phase, Phase::Open)
    }
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Option<TcpListener>,
    pub(super) is_stopping: bool,
    pub(super) is_armed: bool,
    pub(super) is_cancelling: bool,
    /// After a failed accept: rest until then.
    pub(super) paused_until: Option<Nanos>,
}

#[derive(Debug)]
pub(super) struct Table {
    config: Config,
    pub(super) connections: Vec<Connection>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    noticed: Vec<u32>,
    dead: Vec<u32>,
    pub(super) listeners: Vec<Listener>,
    pub(super) send_memory: Memory,
    /// No closing connection's grace time ends before this.
    grace_check: Nanos,
    pub(super) stats: Stats,
}

impl Table {
    pub(super) fn new(config: Config) -> io::Result<Self> {
        let places = usize::try_from(config.connections_max).map_err(io::Error::other)?;
        let chunk = usize::try_from(config.pool_buffer_bytes).map_err(io::Error::other)?;
        let send_memory = Memory::new(places.saturating_mul(config.send_bytes))?;
        let receive_capacity = config.receive_bytes.saturating_add(chunk * POOL_BURST);
        let connections = (0..places)
            .map(|place| Connection {
                generation: 0,
                phase: Phase::Free,
                socket: None,
                receive: ReceiveBuffer::new(receive_capacity),
                send: SendBuffer::new(place * config.send_bytes, config.send_bytes),
                is_paused: false,
                is_input_ended: false,
                is_send_short: false,
                is_dirty: false,
                is_noticed: false,
                notice: Notice::default(),
                reason: CloseReason::Requested,
                grace_ends: Nanos::MAX,
                ops: KernelOps::default(),
                held: Held::default(),
                interest: None,
                is_send_blocked: false,
            })
            .collect();
        Ok(Self {
            free: (0..config.connections_max).rev().collect(),
            dirty: Vec::with_capacity(places),
            noticed: Vec::with_capacity(places),
            dead: Vec::with_capacity(places),
            listeners: Vec::new(),
            connections,
            send_memory,
            grace_check: Nanos::MAX,
            stats: Stats::default(),
            config,
        })
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    pub(super) const fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) const fn connections_count(&self) -> usize {
        self.connections.len() - self.free.len() - self.dead.len()
    }

    /// The connection at a place that a back end knows to be in use.
    pub(super) fn at(&mut self, slot: u32) -> &mut Connection {
        &mut self.connections[index(slot)]
    }

    pub(super) fn token(&self, slot: u32) -> ConnToken {
        ConnToken { slot, generation: self.connections[index(slot)].generation }
    }

    /// The place and generation, when the token names a connection that is in use.
    pub(super) fn find(&self, conn: ConnToken) -> Option<&Connection> {
        let found = self.connections.get(index(conn.slot))?;
        let is_same = found.generation == conn.generation && found.phase != Phase::Free;
        is_same.then_some(found)
    }

    // --- connections -----------------------------------------------------------------------------

    pub(super) fn add_connection(&mut self, socket: TcpStream, phase: Phase) -> Option<ConnToken> {
        let slot = self.free.pop()?;
        let connection = self.at(slot);
        assert!(connection.phase == Phase::Free, "place {slot} is in use");
        connection.phase = phase;
        connection.socket = Some(socket);
        self.mark_dirty(slot);
        Some(self.token(slot))
    }

    /// Takes in a socket that a listener gave; over the maximum it is closed and counted.
    pub(super) fn accepted(&mut self, listener: u32, socket: TcpStream, events: &mut Vec<Event>) {
        if self.is_full() {
            self.stats.refused_over_max += 1;
            return;
        }
        let peer = socket
            .peer_addr()
            .and_then(|peer| super::socket::prepare(&socket, &self.config).map(|()| peer));
        let Ok(peer_addr) = peer else {
            self.stats.accept_aborted += 1;
            return;
        };
        let Some(conn) = self.add_connection(socket, Phase::Open) else { return };
        self.stats.accepted += 1;
        events.push(Event::Accepted {
            listener: ListenerToken { index: listener },
            conn,
            peer_addr,
        });
    }

    pub(super) fn connected(&mut self, slot: u32) {
        let connection = self.at(slot);
        if connection.phase == Phase::Connecting {
            connection.phase = Phase::Open;
            connection.notice.is_connected = true;
            self.mark_noticed(slot);
            self.mark_dirty(slot);
        }
    }

    /// Whether the kernel should be reading for this connection.
    pub(super) fn wants_input(&self, slot: u32) -> bool {
        let connection = &self.connections[index(slot)];
        let is_wanted = match connection.phase {
            Phase::Open => {
                !connection.is_paused && connection.receive.len() < self.config.receive_bytes
            }
            Phase::Draining => true,
            _ => false,
        };
        is_wanted && !connection.is_input_ended && connection.held.is_empty()
    }

    /// Counts bytes that a back end put into the receive buffer.
    pub(super) fn input_arrived(&mut self, slot: u32, count: usize) {
        let connection = self.at(slot);
        connection.notice.new_bytes += count;
        self.mark_noticed(slot);
        self.mark_dirty(slot);
    }

    /// The peer has shut down its side, and its last bytes are in the receive buffer.
    pub(super) fn input_ended(&mut self, slot: u32) {
        let connection = self.at(slot);
        if connection.is_input_ended {
            return;
        }
        connection.is_input_ended = true;
        match connection.phase {
            Phase::Open => {
                connection.notice.is_end_of_input = true;
                self.mark_noticed(slot);
            }
            Phase::Draining => self.end(slot, CloseReason::Requested),
            _ => {}
        }
        self.mark_dirty(slot);
    }

    /// Counts bytes that the kernel has taken out of the send buffer.
    pub(super) fn output_taken(&mut self, slot: u32, count: usize) {
        let connection = self.at(slot);
        connection.send.advance(count);
        if connection.is_send_short
            && connection.phase == Phase::Open
            && connection.send.room() >= connection.send.capacity().div_ceil(2)
        {
            connection.is_send_short = false;
            connection.notice.is_writable = true;
            self.mark_noticed(slot);
        }
        self.stats.sent_bytes += u64::try_from(count).unwrap_or(u64::MAX);
        self.mark_dirty(slot);
    }

    /// A fault of the socket ends the connection.
    pub(super) fn fail(&mut self, slot: u32, error: &io::Error) {
        let kind = error.kind();
        let reason = match (self.at(slot).phase, kind) {
            (Phase::Connecting, _) => CloseReason::ConnectFailed(kind),
            (Phase::Flushing | Phase::Draining, _) => CloseReason::Requested,
            (_, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => CloseReason::Reset,
            _ => CloseReason::Failed(kind),
        };
        self.end(slot, reason);
    }

    /// Moves a connection to `Ending`; its first reason counts.
    pub(super) fn end(&mut self, slot: u32, reason: CloseReason) {
        let connection = self.at(slot);
        if matches!(connection.phase, Phase::Free | Phase::Ending | Phase::Dead) {
            return;
        }
        connection.phase = Phase::Ending;
        connection.reason = reason;
        if let Some(socket) = &connection.socket {
            // The peer may have been faster; the socket is closed in any case.
            drop(socket.shutdown(Shutdown::Both));
        }
        self.mark_dirty(slot);
    }

    /// The kernel is done with an ending connection: closes the socket and reports.
    pub(super) fn ended(&mut self, slot: u32) {
        let connection = self.at(slot);
        assert!(connection.phase == Phase::Ending, "{:?} is not ending", connection.phase);
        assert!(connection.held.is_empty(), "provided buffers are still held");
        connection.phase = Phase::Dead;
        connection.socket = None;
        connection.notice.closed = Some(connection.reason);
        let reason = connection.reason;
        self.stats.closed += 1;
        self.stats.reset += u64::from(reason == CloseReason::Reset);
        self.stats.grace_expired += u64::from(reason == CloseReason::GraceExpired);
        self.stats.overrun += u64::from(reason == CloseReason::Overrun);
        self.dead.push(slot);
        self.mark_noticed(slot);
    }

    /// After the flush: shuts down our side, or ends when the peer's side has ended too.
    pub(super) fn flushed(&mut self, slot: u32) {
        let connection = self.at(slot);
        assert!(connection.phase == Phase::Flushing, "{:?} flushes nothing", connection.phase);
        assert!(connection.send.pending() == 0, "unsent bytes are left");
        let shut = connection.socket.as_ref().map_or(Ok(()), |s| s.shutdown(Shutdown::Write));
        if connection.is_input_ended || shut.is_err() {
            self.end(slot, CloseReason::Requested);
        } else {
            connection.phase = Phase::Draining;
            self.mark_dirty(slot);
        }
    }

    // --- the owner's calls -----------------------------------------------------------------------

    pub(super) fn received(&self, conn: ConnToken) -> &[u8] {
        self.find(conn).map_or(&[], |connection| connection.receive.unread())
    }

    pub(super) fn consume(&mut self, conn: ConnToken, count: usize) {
        let phase = self.find(conn).map(|connection| connection.phase);
        // A close, by either side, may have dropped the bytes while the owner looked at them.
        if matches!(phase, Some(Phase::Open | Phase::Ending | Phase::Dead)) {
            self.at(conn.slot).receive.consume(count);
            self.mark_dirty(conn.slot);
        }
    }

    pub(super) fn send(&mut self, conn: ConnToken, bytes: &[u8]) -> Result<usize, Gone> {
        let phase = self.find(conn).map(|connection| connection.phase);
        if !matches!(phase, Some(Phase::Open | Phase::Connecting)) {
            return Err(Gone::new(conn));
        }
        let connection = &mut self.connections[index(conn.slot)];
        let count = connection.send.append(&self.send_memory, bytes);
        connection.is_send_short |= count < bytes.len();
        self.mark_dirty(conn.slot);
        Ok(count)
    }

    pub(super) fn send_room(&self, conn: ConnToken) -> usize {
        let is_open = |c: &&Connection| matches!(c.phase, Phase::Open | Phase::Connecting);
        self.find(conn).filter(is_open).map_or(0, |connection| connection.send.room())
    }

    pub(super) fn set_paused(&mut self, conn: ConnToken, is_paused: bool) {
        if self.find(conn).is_none() {
            return;
        }
        let connection = self.at(conn.slot);
        connection.is_paused = is_paused;
        if !is_paused && (connection.notice.new_bytes > 0 || connection.notice.is_end_of_input) {
            self.mark_noticed(conn.slot);
        }
        self.mark_dirty(conn.slot);
    }

    pub(super) fn close(&mut self, now: Nanos, conn: ConnToken) {
        let grace_ends = now.after(self.config.close_grace);
        match self.find(conn).map(|connection| connection.phase) {
            Some(Phase::Open) => {
                let connection = self.at(conn.slot);
                connection.phase = Phase::Flushing;
                connection.receive.clear();
                connection.notice = Notice::default();
                connection.grace_ends = grace_ends;
                self.grace_check = self.grace_check.min(grace_ends);
                self.mark_dirty(conn.slot);
            }
            // Without a handshake there is nothing to flush to.
            Some(Phase::Connecting) => self.end(conn.slot, CloseReason::Requested),
            _ => {}
        }
    }

    pub(super) fn abort(&mut self, conn: ConnToken) {
        if self.find(conn).is_some() {
            self.end(conn.slot, CloseReason::Requested);
        }
    }

    // --- listeners -------------------------------------------------------------------------------

    pub(super) fn next_listener_index(&self) -> u32 {
        u32::try_from(self.listeners.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn add_listener(&mut self, socket: TcpListener) -> ListenerToken {
        let token = ListenerToken { index: self.next_listener_index() };
        self.listeners.push(Listener {
            socket: Some(socket),
            is_stopping: false,
            is_armed: false,
            is_cancelling: false,
            paused_until: None,
        });
        token
    }

    pub(super) fn local_addr(&self, listener: ListenerToken) -> io::Result<SocketAddr> {
        let listener = self.listeners.get(index(listener.index));
        let socket = listener.and_then(|listener| listener.socket.as_ref());
        socket.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?.local_addr()
    }

    pub(super) fn stop_listening(&mut self, listener: ListenerToken) {
        if let Some(listener) = self.listeners.get_mut(index(listener.index)) {
            listener.is_stopping = true;
        }
    }

    pub(super) fn accept_failed(&mut self, listener: u32, now: Nanos) {
        self.stats.accept_failed += 1;
        if let Some(listener) = self.listeners.get_mut(index(listener)) {
            listener.paused_until = Some(now.after(ACCEPT_PAUSE));
        }
    }

    // --- one poll --------------------------------------------------------------------------------

    /// Gives the places of connections that were reported closed at the last poll to new ones.
    pub(super) fn release_dead(&mut self) {
        while let Some(slot) = self.dead.pop() {
            let connection = self.at(slot);
            assert!(connection.phase == Phase::Dead, "place {slot} is {:?}", connection.phase);
            assert!(connection.ops.is_idle(), "the kernel still works for place {slot}");
            connection.phase = Phase::Free;
            connection.generation = connection.generation.wrapping_add(1);
            connection.receive.clear();
            connection.send.clear();
            connection.is_paused = false;
            connection.is_input_ended = false;
            connection.is_send_short = false;
            connection.notice = Notice::default();
            connection.reason = CloseReason::Requested;
            connection.grace_ends = Nanos::MAX;
            connection.ops = KernelOps::default();
            connection.interest = None;
            connection.is_send_blocked = false;
            self.free.push(slot);
        }
    }

    /// Ends the closing connections whose grace time is over and the rests of listeners.
    pub(super) fn expire(&mut self, now: Nanos) {
        for listener in &mut self.listeners {
            listener.paused_until = listener.paused_until.filter(|until| *until > now);
        }
        if now < self.grace_check {
            return;
        }
        self.grace_check = Nanos::MAX;
        for slot in 0..self.config.connections_max {
            let connection = &self.connections[index(slot)];
            let (phase, grace_ends) = (connection.phase, connection.grace_ends);
            match phase {
                Phase::Flushing if grace_ends <= now => self.end(slot, CloseReason::GraceExpired),
                // Everything was handed over; only the peer's farewell is missing.
                Phase::Draining if grace_ends <= now => self.end(slot, CloseReason::Requested),
                Phase::Flushing | Phase::Draining => {
                    self.grace_check = self.grace_check.min(grace_ends);
                }
                _ => {}
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        let rests = self.listeners.iter().filter_map(|listener| listener.paused_until);
        let next = rests.fold(self.grace_check, Nanos::min);
        (next < Nanos::MAX).then_some(next)
    }

    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let connection = &mut self.connections[index(slot)];
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(slot);
        }
    }

    pub(super) fn take_dirty(&mut self) -> Option<u32> {
        let slot = self.dirty.pop()?;
        self.at(slot).is_dirty = false;
        Some(slot)
    }

    fn mark_noticed(&mut self, slot: u32) {
        let connection = &mut self.connections[index(slot)];
        if !connection.is_noticed {
            connection.is_noticed = true;
            self.noticed.push(slot);
        }
    }

    /// Turns the notices into events, each connection's in the order of its life.
    pub(super) fn notify(&mut self, events: &mut Vec<Event>) {
        let mut noticed = std::mem::take(&mut self.noticed);
        for slot in noticed.drain(..) {
            let conn = self.token(slot);
            let connection = self.at(slot);
            connection.is_noticed = false;
            let notice = &mut connection.notice;
            if std::mem::take(&mut notice.is_connected) {
                events.push(Event::Connected { conn });
            }
            // While reading is paused, news of input waits for the resume or the end.
            if !connection.is_paused || notice.closed.is_some() {
                let bytes = std::mem::take(&mut notice.new_bytes);
                if bytes > 0 {
                    events.push(Event::Received { conn, bytes });
                }
                if std::mem::take(&mut notice.is_end_of_input) {
                    events.push(Event::EndOfInput { conn });
                }
            }
            if std::mem::take(&mut notice.is_writable) && connection.phase == Phase::Open {
                events.push(Event::Writable { conn, room: connection.send.room() });
            }
            if let Some(reason) = notice.closed.take() {
                events.push(Event::Closed { conn, reason });
            }
        }
        // The list goes back with its memory, so that polls do not allocate.
        self.noticed = noticed;
    }
}

/// A place as an index in memory.
pub(super) fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}
