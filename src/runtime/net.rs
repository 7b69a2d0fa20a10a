//! The network reactor: TCP without blocking, for one tile.
//!
//! ```text
//! kernel -> [receive buffer per connection] -> received()/consume() -> tile
//! tile   -> send() -> [send buffer per connection] -> kernel
//! ```
//!
//! One [`Reactor`] belongs to one tile and is polled by that tile's thread. Two back ends behave
//! the same: io_uring (multishot accept, multishot receive into a ring of provided buffers,
//! completions deferred to `poll`) and epoll for hosts where io_uring is forbidden.
//!
//! # Bounds and push-back
//! Every buffer is taken at start. A connection whose receive buffer is full is not read any more
//! until the tile consumes, so the peer's TCP window closes; [`Reactor::pause_reading`] does the
//! same at will. A send buffer that is full takes only part of the bytes, and [`Event::Writable`]
//! says when there is room again. A connection over the maximum is accepted, closed and counted.
//!
//! # Life of a connection
//! `Accepted` or `Connected` -> `Received`* -> `EndOfInput`? -> exactly one `Closed`. After
//! `EndOfInput` (the peer shut down its side) sending still works; the tile decides when to close.
//! [`Reactor::close`] flushes what was sent, shuts down, waits for the peer's end of input and
//! gives up after the grace time; [`Reactor::abort`] does not wait. Bytes that arrived before
//! `Closed` stay readable until the next `poll`. A token names one connection for ever: an old one
//! finds nothing.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::clock::Nanos;

mod buffer;
mod epoll;
mod memory;
mod pool;
mod socket;
mod table;
mod uring;

use table::Table;

/// Which back end to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring where the kernel allows it, otherwise epoll.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll.
    Epoll,
}

/// Which back end is in use, and why.
#[derive(Debug)]
pub enum BackendInUse {
    /// io_uring; `is_deferred` tells whether completions wait for `poll` (`DEFER_TASKRUN`).
    Uring {
        /// Whether the kernel took `DEFER_TASKRUN`.
        is_deferred: bool,
    },
    /// epoll; `refused` holds what io_uring answered when it was tried first.
    Epoll {
        /// The error of the io_uring set-up under [`Backend::Auto`].
        refused: Option<io::Error>,
    },
}

/// Bounds of a reactor. All memory they imply is taken by [`Reactor::new`]; pages become resident
/// when they are first used.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which back end to use.
    pub backend: Backend,
    /// The most connections at one time, at most 65,536.
    pub connections_max: u32,
    /// Bytes a connection may hold unread before its reading stops. At least the largest message:
    /// a message that does not fit never becomes complete.
    pub receive_bytes: usize,
    /// Bytes a connection may hold unsent.
    pub send_bytes: usize,
    /// io_uring: number of provided receive buffers, shared by all connections; a power of two, at
    /// most 32,768.
    pub pool_buffers: u16,
    /// io_uring: size of one provided receive buffer.
    pub pool_buffer_bytes: u32,
    /// Length of the kernel's queue of connections not yet accepted.
    pub listen_backlog: u16,
    /// Fixed size of the kernel's receive buffer per socket; `None` lets the kernel tune it.
    pub socket_receive_bytes: Option<u32>,
    /// Fixed size of the kernel's send buffer per socket; `None` lets the kernel tune it.
    pub socket_send_bytes: Option<u32>,
    /// Bytes that the kernel may hold of what a socket has not sent yet; `None` for as many as the
    /// send buffer takes. With a small number what is urgent waits behind little, while bytes under
    /// way to the peer are not limited.
    pub socket_unsent_bytes: Option<u32>,
    /// How long [`Reactor::close`] waits for the flush and the peer's end of input.
    pub close_grace: Duration,
}

impl Default for Config {
    /// 1,024 connections of 256 KiB each way.
    fn default() -> Self {
        Self {
            backend: Backend::Auto,
            connections_max: 1_024,
            receive_bytes: 256 << 10,
            send_bytes: 256 << 10,
            pool_buffers: 1_024,
            pool_buffer_bytes: 4_096,
            listen_backlog: 1_024,
            socket_receive_bytes: None,
            socket_send_bytes: None,
            socket_unsent_bytes: None,
            close_grace: Duration::from_secs(1),
        }
    }
}

/// The most connections a reactor can be configured for.
pub const CONNECTIONS_MAX: u32 = 65_536;

/// Why a reactor was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A bound is out of its range.
    #[error("reactor {key}: {value} is out of range {min}..={max}")]
    Bound {
        /// The field of [`Config`].
        key: &'static str,
        /// What it was.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// The number of provided buffers is not a power of two.
    #[error("reactor pool_buffers: {value} is not a power of two")]
    PoolBuffers {
        /// What it was.
        value: u16,
    },
    /// The host refused the back end or the memory.
    #[error("reactor {what}: {error}")]
    Host {
        /// What was asked of the host.
        what: &'static str,
        /// What it answered.
        error: io::Error,
    },
}

/// Names a listening socket of one reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerToken {
    index: u32,
}

/// Names one connection of one reactor, and never another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnToken {
    slot: u32,
    generation: u32,
}

impl ConnToken {
    /// Place of the connection, below `connections_max`, for tables beside the reactor. The place
    /// is used again after the connection is closed.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// How often the place was used before.
    #[must_use]
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The owner closed or aborted it.
    Requested,
    /// The owner closed it, but the peer did not take the rest within the grace time.
    GraceExpired,
    /// The peer reset it or no longer takes bytes.
    Reset,
    /// The connection could not be made.
    ConnectFailed(io::ErrorKind),
    /// It held provided buffers that others starved for (see [`Stats::overrun`]).
    Overrun,
    /// Another fault of the socket, for example a time-out of the kernel.
    Failed(io::ErrorKind),
}

/// What happened since the last poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer connected to a listener.
    Accepted {
        /// The listener.
        listener: ListenerToken,
        /// The new connection.
        conn: ConnToken,
        /// The peer's address.
        peer_addr: SocketAddr,
    },
    /// A connection asked for by [`Reactor::connect`] is there.
    Connected {
        /// The connection.
        conn: ConnToken,
    },
    /// Bytes arrived: look at [`Reactor::received`].
    Received {
        /// The connection.
        conn: ConnToken,
        /// How many are new.
        bytes: usize,
    },
    /// After a `send` that took only part: at least half of the send buffer is free again.
    Writable {
        /// The connection.
        conn: ConnToken,
        /// How many bytes fit now.
        room: usize,
    },
    /// The peer will send no more.
    EndOfInput {
        /// The connection.
        conn: ConnToken,
    },
    /// The connection is over. Its token finds nothing after the next poll.
    Closed {
        /// The connection.
        conn: ConnToken,
        /// Why.
        reason: CloseReason,
    },
}

/// The token names no connection, or one that is being closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection {slot}/{generation} is gone")]
pub struct Gone {
    /// Place of the connection asked for.
    pub slot: u32,
    /// Its generation.
    pub generation: u32,
}

impl Gone {
    const fn new(conn: ConnToken) -> Self {
        Self { slot: conn.slot, generation: conn.generation }
    }
}

/// Counters of a reactor since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted and handed out.
    pub accepted: u64,
    /// Connections accepted and closed at once because the table was full.
    pub refused_over_max: u64,
    /// Connections that were gone before they could be handed out.
    pub accept_aborted: u64,
    /// Accepts that failed for want of descriptors or memory; retried after a pause.
    pub accept_failed: u64,
    /// Connections closed, for whatever reason.
    pub closed: u64,
    /// Connections that ended by the peer's reset.
    pub reset: u64,
    /// Connections whose grace time ran out.
    pub grace_expired: u64,
    /// Connections closed because all provided buffers were held by unread bytes.
    pub overrun: u64,
    /// Times a receive found no provided buffer and had to be started again.
    pub buffers_exhausted: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes handed to the kernel.
    pub sent_bytes: u64,
}

#[derive(Debug)]
enum Driver {
    Uring(Box<uring::Driver>),
    Epoll(Box<epoll::Driver>),
}

/// The reactor; see the module.
///
/// It may be made and set to listen on one thread and then moved to its tile's thread: the thread
/// of the first `poll` becomes its owner, and the kernel refuses others from then on.
pub struct Reactor {
    driver: Driver,
    table: Table,
    backend: BackendInUse,
}

impl fmt::Debug for Reactor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reactor").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Reactor {
    /// Takes the memory and sets up the back end.
    ///
    /// # Errors
    /// A bound out of range, or a host that refuses the back end or the memory.
    pub fn new(config: Config) -> Result<Self, Error> {
        config.check()?;
        let backend = config.backend;
        let mut refused = None;
        if backend != Backend::Epoll {
            match uring::Driver::new(&config) {
                Ok(driver) => {
                    let in_use = BackendInUse::Uring { is_deferred: driver.is_deferred() };
                    return Self::assemble(config, Driver::Uring(Box::new(driver)), in_use);
                }
                Err(error) if backend == Backend::Uring => {
                    return Err(Error::Host { what: "io_uring", error });
                }
                Err(error) => refused = Some(error),
            }
        }
        let driver = epoll::Driver::new().map_err(|error| Error::Host { what: "epoll", error })?;
        let in_use = BackendInUse::Epoll { refused };
        Self::assemble(config, Driver::Epoll(Box::new(driver)), in_use)
    }

    fn assemble(config: Config, driver: Driver, backend: BackendInUse) -> Result<Self, Error> {
        let host = |error| Error::Host { what: "memory", error };
        let table = Table::new(config).map_err(host)?;
        Ok(Self { driver, table, backend })
    }

    /// The back end in use.
    #[must_use]
    pub const fn backend(&self) -> &BackendInUse {
        &self.backend
    }

    /// Listens on an address; port 0 lets the kernel choose (see [`local_addr`](Self::local_addr)).
    ///
    /// # Errors
    /// An address in use, not ours or not allowed.
    pub fn listen(&mut self, addr: SocketAddr) -> io::Result<ListenerToken> {
        let listener = socket::listen(addr, self.table.config())?;
        if let Driver::Epoll(driver) = &self.driver {
            listener.set_nonblocking(true)?;
            driver.watch_listener(&listener, self.table.next_listener_index())?;
        }
        Ok(self.table.add_listener(listener))
    }

    /// The address a listener is bound to.
    ///
    /// # Errors
    /// When it has been stopped.
    pub fn local_addr(&self, listener: ListenerToken) -> io::Result<SocketAddr> {
        self.table.local_addr(listener)
    }

    /// Stops accepting on a listener; connections it gave stay. Idempotent.
    pub fn stop_listening(&mut self, listener: ListenerToken) {
        self.table.stop_listening(listener);
    }

    /// Begins to connect. `Connected` or `Closed` follows; `send` may be used before.
    ///
    /// # Errors
    /// A full table (`QuotaExceeded`) or no descriptor left. A refusal by the peer is an event.
    pub fn connect(&mut self, addr: SocketAddr) -> io::Result<ConnToken> {
        if self.table.is_full() {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        let (stream, refusal) = socket::connect(addr, self.table.config())?;
        if let Driver::Uring(_) = &self.driver {
            // io_uring answers EAGAIN for a non-blocking socket instead of waiting for it.
            stream.set_nonblocking(false)?;
        }
        let added = self.table.add_connection(stream, table::Phase::Connecting);
        let conn = added.ok_or_else(|| io::Error::from(io::ErrorKind::QuotaExceeded))?;
        if let Some(error) = refusal {
            self.table.fail(conn.slot, &error);
        }
        Ok(conn)
    }

    /// Gives pending work to the kernel, takes in what has happened and appends it to `events`.
    /// Returns how many events were appended. Never blocks. `now` serves the grace times.
    ///
    /// # Errors
    /// When the back end itself fails; a fault of one connection is an event instead.
    pub fn poll(&mut self, now: Nanos, events: &mut Vec<Event>) -> io::Result<usize> {
        let before = events.len();
        self.table.release_dead();
        self.table.expire(now);
        match &mut self.driver {
            Driver::Uring(driver) => driver.poll(&mut self.table, now, events)?,
            Driver::Epoll(driver) => driver.poll(&mut self.table, now, events)?,
        }
        self.table.notify(events);
        Ok(events.len() - before)
    }

    /// Unread bytes of a connection, oldest first; empty when it is gone.
    #[must_use]
    pub fn received(&self, conn: ConnToken) -> &[u8] {
        self.table.received(conn)
    }

    /// Gives back the first `bytes` of what was received, which lets reading go on. Does nothing
    /// for a connection that is gone or being closed.
    ///
    /// # Panics
    /// When more is given back than was received: the caller lost count.
    pub fn consume(&mut self, conn: ConnToken, bytes: usize) {
        self.table.consume(conn, bytes);
        if let Driver::Uring(driver) = &mut self.driver {
            driver.refill(&mut self.table, conn);
        }
    }

    /// Copies bytes into the send buffer, as many as fit; they leave at the next `poll`. When fewer
    /// than all were taken, [`Event::Writable`] follows.
    ///
    /// # Errors
    /// When the connection is gone or being closed.
    pub fn send(&mut self, conn: ConnToken, bytes: &[u8]) -> Result<usize, Gone> {
        self.table.send(conn, bytes)
    }

    /// How many bytes [`send`](Self::send) would take now.
    #[must_use]
    pub fn send_room(&self, conn: ConnToken) -> usize {
        self.table.send_room(conn)
    }

    /// Stops reading from a connection: beyond what has arrived, bytes stay in the kernel and the
    /// peer's window closes. No `Received` is reported until it is resumed.
    pub fn pause_reading(&mut self, conn: ConnToken) {
        self.table.set_paused(conn, true);
    }

    /// Reads again. Bytes that arrived meanwhile are reported at the next poll.
    pub fn resume_reading(&mut self, conn: ConnToken) {
        self.table.set_paused(conn, false);
    }

    /// Closes a connection after what was sent has left, or after the grace time. Unread bytes are
    /// dropped. `Closed` follows.
    pub fn close(&mut self, now: Nanos, conn: ConnToken) {
        self.table.close(now, conn);
    }

    /// Closes a connection without waiting for anything. `Closed` follows.
    pub fn abort(&mut self, conn: ConnToken) {
        self.table.abort(conn);
    }

    /// The next moment at which `poll` has something to do though nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let table = self.table.deadline();
        let driver = match &self.driver {
            Driver::Uring(driver) => driver.deadline(),
            Driver::Epoll(_) => None,
        };
        table.into_iter().chain(driver).min()
    }

    /// How many connections there are, those being closed included.
    #[must_use]
    pub fn connections_count(&self) -> usize {
        self.table.connections_count()
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.table.stats
    }
}

impl Drop for Reactor {
    /// Ends all connections at once. The kernel is done with the buffers before they are freed.
    fn drop(&mut self) {
        if let Driver::Uring(driver) = &mut self.driver {
            driver.shut_down(&mut self.table);
        }
    }
}

impl AsFd for Reactor {
    /// The descriptor that is readable when `poll` has something to take in; for
    /// [`crate::wake::PollSet::readable`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.driver {
            Driver::Uring(driver) => driver.as_fd(),
            Driver::Epoll(driver) => driver.as_fd(),
        }
    }
}

impl Config {
    fn check(&self) -> Result<(), Error> {
        let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let buffer_max = 1_u64 << 30;
        let ranges = [
            ("connections_max", u64::from(self.connections_max), 1, u64::from(CONNECTIONS_MAX)),
            ("receive_bytes", size(self.receive_bytes), 1, buffer_max),
            ("send_bytes", size(self.send_bytes), 1, buffer_max),
            ("pool_buffers", u64::from(self.pool_buffers), 1, 32_768),
            ("pool_buffer_bytes", u64::from(self.pool_buffer_bytes), 64, 1 << 20),
        ];
        for (key, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(Error::Bound { key, value, min, max });
            }
        }
        if !self.pool_buffers.is_power_of_two() {
            return Err(Error::PoolBuffers { value: self.pool_buffers });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
