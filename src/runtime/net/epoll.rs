//! The epoll back end, for hosts where io_uring is forbidden.
//!
//! Level-triggered: what is not taken in at one poll is reported again at the next, so a budget per
//! connection cannot lose anything. Interest is changed only when it differs from what the kernel
//! has.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::table::{Phase, Table, index};
use super::{ConnToken, Event};
use crate::clock::Nanos;
use crate::sys::check;

/// Most readiness events taken in by one poll.
const READY_MAX: usize = 512;
/// Most bytes read from one connection by one poll, so that one fast peer starves nobody.
const READ_BUDGET: usize = 128 << 10;
/// Most bytes asked of the kernel by one read.
const READ_MAX: usize = 64 << 10;
/// Most connections accepted from one listener by one poll.
const ACCEPT_BUDGET: usize = 256;
/// Marks a listener's events; connections have their place and generation.
const LISTENER: u64 = 1 << 63;

const READABLE: u32 = bits(libc::EPOLLIN);
const WRITABLE: u32 = bits(libc::EPOLLOUT);
const BROKEN: u32 = bits(libc::EPOLLERR);
const HUNG_UP: u32 = bits(libc::EPOLLHUP);

/// The kernel's flags are small positive numbers in a signed type.
const fn bits(flag: libc::c_int) -> u32 {
    flag.unsigned_abs()
}

pub(super) struct Driver {
    epoll: OwnedFd,
    ready: Vec<libc::epoll_event>,
    /// Takes in what a closing connection still receives.
    discard: Box<[u8]>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Epoll").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Driver {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        let ready = Vec::with_capacity(READY_MAX);
        Ok(Self { epoll, ready, discard: vec![0; READ_MAX].into_boxed_slice() })
    }

    pub(super) fn watch_listener(&self, listener: &TcpListener, place: u32) -> io::Result<()> {
        let data = LISTENER | u64::from(place);
        self.control(libc::EPOLL_CTL_ADD, listener.as_raw_fd(), READABLE, data)
    }

    pub(super) fn poll(
        &mut self,
        table: &mut Table,
        now: Nanos,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        self.settle_listeners(table)?;
        self.settle_all(table)?;
        self.wait()?;
        let ready = std::mem::take(&mut self.ready);
        for event in &ready {
            let (data, flags) = (event.u64, event.events);
            if data & LISTENER != 0 {
                accept(table, u32::try_from(data & !LISTENER).unwrap_or(u32::MAX), now, events);
            } else {
                self.on_ready(table, token(data), flags);
            }
        }
        self.ready = ready;
        // What the readiness changed (more room, a finished flush) takes effect at once.
        self.settle_listeners(table)?;
        self.settle_all(table)
    }

    fn wait(&mut self) -> io::Result<()> {
        self.ready.clear();
        let room = libc::c_int::try_from(READY_MAX).map_err(io::Error::other)?;
        let fd = self.epoll.as_raw_fd();
        // SAFETY: the vector's memory has room for `room` entries, and the kernel writes no more.
        let answer = unsafe { libc::epoll_wait(fd, self.ready.as_mut_ptr(), room, 0) };
        let count = match check(answer) {
            Ok(count) => usize::try_from(count).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        assert!(count <= READY_MAX, "the kernel reported {count} events");
        // SAFETY: the kernel has just written the first `count` entries, and they fit.
        unsafe { self.ready.set_len(count) };
        Ok(())
    }

    fn on_ready(&mut self, table: &mut Table, conn: ConnToken, flags: u32) {
        // An event of this batch may be older than the end of its connection.
        let Some(phase) = table.find(conn).map(|connection| connection.phase) else { return };
        let slot = conn.slot;
        if phase == Phase::Connecting {
            finish_connect(table, slot);
            return;
        }
        if flags & WRITABLE != 0 {
            table.at(slot).is_send_blocked = false;
            table.mark_dirty(slot);
        }
        let is_final = flags & (BROKEN | HUNG_UP) != 0;
        if table.wants_input(slot) {
            if flags & READABLE != 0 || is_final {
                self.read(table, slot);
            }
        } else if is_final && matches!(phase, Phase::Open | Phase::Flushing) {
            // Nobody reads, so the fault is asked for; a level-triggered one would come for ever.
            let fault = table.at(slot).socket.as_ref().and_then(|s| s.take_error().ok().flatten());
            let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
            table.fail(slot, &fault.unwrap_or_else(gone));
        }
    }

    fn read(&mut self, table: &mut Table, slot: u32) {
        let mut budget = READ_BUDGET;
        while budget > 0 && table.wants_input(slot) {
            let bound = table.config().receive_bytes;
            let connection = table.at(slot);
            let Some(mut socket) = connection.socket.as_ref() else { return };
            let is_discarding = connection.is_discarding();
            let target = if is_discarding {
                &mut self.discard[..]
            } else {
                let wanted = bound.saturating_sub(connection.receive.len()).min(READ_MAX);
                &mut connection.receive.spare(wanted)[..wanted]
            };
            let wanted = target.len();
            match socket.read(target) {
                Ok(0) => return table.input_ended(slot),
                Ok(count) => {
                    if !is_discarding {
                        connection.receive.filled(count);
                        table.input_arrived(slot, count);
                    }
                    table.stats.received_bytes += u64::try_from(count).unwrap_or(u64::MAX);
                    budget = budget.saturating_sub(count);
                    if count < wanted {
                        // The socket is most likely empty; if not, the next poll hears of it.
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return table.fail(slot, &error),
            }
        }
    }

    /// Brings the kernel in line with the table for every connection that changed.
    fn settle_all(&self, table: &mut Table) -> io::Result<()> {
        while let Some(slot) = table.take_dirty() {
            self.settle(table, slot)?;
        }
        Ok(())
    }

    fn settle(&self, table: &mut Table, slot: u32) -> io::Result<()> {
        write(table, slot);
        let connection = table.at(slot);
        if connection.phase == Phase::Flushing && connection.send.pending() == 0 {
            table.flushed(slot);
        }
        match table.at(slot).phase {
            // Closing the socket takes it out of the epoll set, since nothing duplicated it.
            Phase::Ending => table.ended(slot),
            Phase::Free | Phase::Dead => {}
            _ => self.update_interest(table, slot)?,
        }
        Ok(())
    }

    fn update_interest(&self, table: &mut Table, slot: u32) -> io::Result<()> {
        let input = if table.wants_input(slot) { READABLE } else { 0 };
        let conn = table.token(slot);
        let connection = table.at(slot);
        let is_waiting = connection.is_send_blocked || connection.phase == Phase::Connecting;
        let wanted = input | if is_waiting { WRITABLE } else { 0 };
        let data = (u64::from(conn.slot) << 32) | u64::from(conn.generation);
        let operation = match connection.interest {
            Some(interest) if interest == wanted => return Ok(()),
            Some(_) => libc::EPOLL_CTL_MOD,
            None => libc::EPOLL_CTL_ADD,
        };
        connection.interest = Some(wanted);
        self.control(operation, connection.fd(), wanted, data)
    }

    /// A stopped listener is closed, a resting one is not watched.
    fn settle_listeners(&self, table: &mut Table) -> io::Result<()> {
        for (place, listener) in table.listeners.iter_mut().enumerate() {
            let Some(socket) = &listener.socket else { continue };
            if listener.is_stopping {
                listener.socket = None;
                continue;
            }
            // `is_cancelling` means here: taken out of the watch.
            if listener.paused_until.is_some() != listener.is_cancelling {
                listener.is_cancelling = !listener.is_cancelling;
                let wanted = if listener.is_cancelling { 0 } else { READABLE };
                let data = LISTENER | u64::try_from(place).map_err(io::Error::other)?;
                self.control(libc::EPOLL_CTL_MOD, socket.as_raw_fd(), wanted, data)?;
            }
        }
        Ok(())
    }

    fn control(&self, operation: i32, fd: RawFd, interest: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest, u64: data };
        let epoll = self.epoll.as_raw_fd();
        // SAFETY: `event` lives on this stack for the length of the call.
        check(unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) }).map(drop)
    }
}

fn token(data: u64) -> ConnToken {
    let slot = u32::try_from(data >> 32).unwrap_or(u32::MAX);
    ConnToken { slot, generation: u32::try_from(data & u64::from(u32::MAX)).unwrap_or(0) }
}

fn accept(table: &mut Table, place: u32, now: Nanos, events: &mut Vec<Event>) {
    for _ in 0..ACCEPT_BUDGET {
        let listener = table.listeners.get(index(place));
        let Some(socket) = listener.and_then(|listener| listener.socket.as_ref()) else { return };
        match socket.accept() {
            Ok((stream, _)) => match stream.set_nonblocking(true) {
                Ok(()) => table.accepted(place, stream, events),
                Err(_) => table.stats.accept_aborted += 1,
            },
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return,
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::ConnectionAborted => table.stats.accept_aborted += 1,
                _ => return table.accept_failed(place, now),
            },
        }
    }
}

fn finish_connect(table: &mut Table, slot: u32) {
    let connection = table.at(slot);
    let Some(socket) = &connection.socket else { return };
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => table.fail(slot, &error),
        Ok(None) if is_still_connecting(socket) => {}
        Ok(None) => table.connected(slot),
    }
}

fn is_still_connecting(socket: &TcpStream) -> bool {
    socket.peer_addr().is_err_and(|error| error.kind() == io::ErrorKind::NotConnected)
}

/// Writes what the send buffer holds until the socket takes no more.
fn write(table: &mut Table, slot: u32) {
    loop {
        let connection = &table.connections[index(slot)];
        let is_sending = matches!(connection.phase, Phase::Open | Phase::Flushing);
        if !is_sending || connection.is_send_blocked || connection.send.pending() == 0 {
            return;
        }
        let Some(mut socket) = connection.socket.as_ref() else { return };
        let (offset, len) = connection.send.front();
        // SAFETY: with epoll the kernel touches this memory only inside `write` below, and this
        // function has the table for itself.
        let bytes = unsafe { table.send_memory.slice(offset, len) };
        match socket.write(bytes) {
            Ok(count) => table.output_taken(slot, count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                table.at(slot).is_send_blocked = true;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return table.fail(slot, &error),
        }
    }
}
