//! The io_uring back end.
//!
//! ```text
//! table says what should be --settle--> submissions --kernel--> completions --handle--> table
//! ```
//!
//! One multishot accept per listener, one multishot receive per reading connection into the shared
//! [`Pool`], at most one send per connection from its own ring. The kernel runs its part of the
//! work inside `poll` (`SINGLE_ISSUER`, `DEFER_TASKRUN`), so nothing interrupts the tile in
//! between; the ring is set up disabled and belongs to the thread of the first `poll`.
//!
//! # Memory that the kernel uses
//! It reads send memory and writes provided buffers. Both are mapped at start and freed by nothing
//! but the drop of the reactor. A place in the table is used again only when no operation of its
//! last connection is under way ([`KernelOps::is_idle`]), so a late completion meets the connection
//! it belongs to. On drop the driver cancels everything and waits; if the kernel does not let go,
//! the memory is leaked rather than freed under it.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::{opcode, types};

use super::pool::{GROUP, Pool};
use super::table::{Phase, Table, index};
use super::{CloseReason, Config, ConnToken, Event};
use crate::clock::Nanos;
use crate::sys;

mod ring;
use ring::{Completion, Op, Ring};

/// How often one poll goes around submit and complete, so that it stays bounded.
const TURNS_MAX: usize = 4;
/// How long others may starve before the largest holder of provided buffers is closed.
const OVERRUN_GRACE: Duration = Duration::from_millis(100);
/// How long the drop waits for the kernel before it leaks the memory instead.
const DROP_TURNS_MAX: usize = 200;
const DROP_WAIT: Duration = Duration::from_millis(10);

/// What the kernel is doing for one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KernelOps {
    is_receiving: bool,
    is_cancelling: bool,
    is_sending: bool,
    is_connecting: bool,
    /// The last receive found no provided buffer; it starts again when one is back.
    is_starved: bool,
}

impl KernelOps {
    /// Whether no completion can come any more.
    pub(super) const fn is_idle(self) -> bool {
        !(self.is_receiving || self.is_cancelling || self.is_sending || self.is_connecting)
    }
}

/// Provided buffers whose bytes wait for room in their connection's receive buffer, in order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    first: u16,
    last: u16,
    count: u16,
    /// The peer's end of input came behind these bytes.
    is_end_behind: bool,
    /// The socket failed behind these bytes, which are the owner's before it hears of that.
    failure_behind: Option<io::ErrorKind>,
}

impl Held {
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A held buffer's place in its connection's list.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    len: usize,
    next: u16,
}

pub(super) struct Driver {
    // The ring first: closing it comes before the pool's memory is unmapped.
    ring: Ring,
    pool: Pool,
    links: Box<[Link]>,
    starved: Vec<u32>,
    /// Since when a connection starves while every provided buffer is held.
    starving_since: Option<Nanos>,
    batch: Vec<Completion>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let under_way = self.ring.under_way();
        formatter.debug_struct("Uring").field("under_way", &under_way).finish_non_exhaustive()
    }
}

impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Driver {
    pub(super) fn new(config: &Config) -> io::Result<Self> {
        let ring = Ring::new()?;
        let pool = Pool::new(config.pool_buffers, config.pool_buffer_bytes)?;
        pool.register(&ring.submitter())?;
        let links = vec![Link::default(); usize::from(config.pool_buffers)].into_boxed_slice();
        let (starved, batch) = (Vec::new(), Vec::with_capacity(ring::BATCH_MAX));
        Ok(Self { ring, pool, links, starved, starving_since: None, batch })
    }

    pub(super) const fn is_deferred(&self) -> bool {
        self.ring.is_deferred()
    }

    /// When the overrun rule must be looked at again.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.starving_since.map(|since| since.after(OVERRUN_GRACE))
    }

    pub(super) fn poll(
        &mut self,
        table: &mut Table,
        now: Nanos,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        self.ring.enable()?;
        self.ring.drain_signal()?;
        for _ in 0..TURNS_MAX {
            if !self.turn(table, now, events)? {
                return Ok(());
            }
        }
        // What the last completions changed must be under way before the thread may park.
        self.settle(table)?;
        self.ring.submit()
    }

    /// Goes once around; says whether anything was completed.
    fn turn(&mut self, table: &mut Table, now: Nanos, events: &mut Vec<Event>) -> io::Result<bool> {
        self.settle(table)?;
        self.ring.submit()?;
        let mut batch = std::mem::take(&mut self.batch);
        self.ring.complete(&mut batch);
        for completion in &batch {
            self.handle(table, completion, now, events);
        }
        let is_any = !batch.is_empty();
        self.batch = batch;
        self.feed_starved(table, now);
        Ok(is_any)
    }

    // --- from the kernel to the table ------------------------------------------------------------

    fn handle(
        &mut self,
        table: &mut Table,
        completion: &Completion,
        now: Nanos,
        events: &mut Vec<Event>,
    ) {
        let slot = completion.slot;
        match completion.op {
            Op::Accept => return on_accept(table, completion, now, events),
            Op::CancelAccept => table.listeners[index(slot)].is_cancelling = false,
            Op::Receive => self.on_receive(table, completion),
            Op::Send => on_send(table, completion),
            Op::Connect => on_connect(table, slot),
            Op::Cancel => table.at(slot).ops.is_cancelling = false,
        }
        if completion.op != Op::CancelAccept {
            table.mark_dirty(slot);
        }
    }

    fn on_receive(&mut self, table: &mut Table, completion: &Completion) {
        let slot = completion.slot;
        if !completion.has_more() {
            table.at(slot).ops.is_receiving = false;
        }
        let count = usize::try_from(completion.result).unwrap_or(0);
        if let Some(buffer) = completion.buffer() {
            self.pool.taken(buffer, count);
            self.take_in(table, slot, buffer, count);
        }
        if completion.result > 0 {
            return;
        }
        match completion.result.checked_neg().unwrap_or(i32::MAX) {
            0 if table.at(slot).held.is_empty() => table.input_ended(slot),
            0 => table.at(slot).held.is_end_behind = true,
            libc::ENOBUFS => {
                table.stats.buffers_exhausted += 1;
                table.at(slot).ops.is_starved = true;
                self.starved.push(slot);
            }
            // Ours, or nothing lost: the receive is started again if it is still wanted.
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            errno => {
                let error = io::Error::from_raw_os_error(errno);
                let held = &mut table.at(slot).held;
                if held.is_empty() {
                    table.fail(slot, &error);
                } else {
                    held.failure_behind = Some(error.kind());
                }
            }
        }
    }

    /// Moves the bytes of a provided buffer to their connection, or keeps them in it while the
    /// connection has no room.
    fn take_in(&mut self, table: &mut Table, slot: u32, buffer: u16, count: usize) {
        table.stats.received_bytes += u64::try_from(count).unwrap_or(u64::MAX);
        let connection = table.at(slot);
        if count == 0 || connection.is_discarding() {
            self.pool.give_back(buffer);
        } else if connection.held.is_empty() && connection.receive.room() >= count {
            connection.receive.append(self.pool.bytes(buffer, count));
            self.pool.give_back(buffer);
            table.input_arrived(slot, count);
        } else {
            self.links[usize::from(buffer)] = Link { len: count, next: 0 };
            let held = &mut connection.held;
            if held.is_empty() {
                held.first = buffer;
            } else {
                self.links[usize::from(held.last)].next = buffer;
            }
            held.last = buffer;
            held.count += 1;
        }
    }

    /// Moves held bytes on after the owner has made room. A connection that is being closed gets
    /// none: its owner was promised to hear of no more input.
    pub(super) fn refill(&mut self, table: &mut Table, conn: ConnToken) {
        let slot = conn.slot;
        while table.find(conn).is_some_and(|connection| connection.phase == Phase::Open) {
            let connection = table.at(slot);
            let held = connection.held;
            if held.is_empty() {
                return;
            }
            let link = self.links[usize::from(held.first)];
            if connection.receive.room() < link.len {
                return;
            }
            connection.receive.append(self.pool.bytes(held.first, link.len));
            self.pool.give_back(held.first);
            connection.held.first = link.next;
            connection.held.count -= 1;
            let is_last = connection.held.is_empty();
            table.input_arrived(slot, link.len);
            if is_last {
                table.at(slot).held = Held::default();
                come_behind(table, slot, held);
            }
        }
    }

    /// Gives back what a closing connection holds.
    fn drop_held(&mut self, table: &mut Table, slot: u32) {
        let mut held = std::mem::take(&mut table.at(slot).held);
        while !held.is_empty() {
            let next = self.links[usize::from(held.first)].next;
            self.pool.give_back(held.first);
            held.first = next;
            held.count -= 1;
        }
        come_behind(table, slot, held);
    }

    /// Starts the receives again that found no buffer. When unread bytes hold all buffers for too
    /// long, the connection that holds most is closed, so that one stopped reader starves nobody.
    fn feed_starved(&mut self, table: &mut Table, now: Nanos) {
        if self.pool.available() > 0 {
            self.starving_since = None;
            for slot in self.starved.drain(..) {
                table.at(slot).ops.is_starved = false;
                table.mark_dirty(slot);
            }
            return;
        }
        if !self.starved.iter().any(|slot| table.wants_input(*slot)) {
            self.starving_since = None;
            return;
        }
        let since = *self.starving_since.get_or_insert(now);
        if now >= since.after(OVERRUN_GRACE) {
            self.starving_since = None;
            let places = 0..table.config().connections_max;
            if let Some(slot) = places.max_by_key(|slot| table.at(*slot).held.count) {
                table.end(slot, CloseReason::Overrun);
            }
        }
    }

    // --- from the table to the kernel ------------------------------------------------------------

    /// Submits what is missing in the kernel for every listener and every changed connection.
    fn settle(&mut self, table: &mut Table) -> io::Result<()> {
        for place in 0..table.listeners.len() {
            self.settle_listener(table, place)?;
        }
        while let Some(slot) = table.take_dirty() {
            if !self.settle_connection(table, slot)? {
                // The kernel wants its completions taken in first; the rest follows after that.
                table.mark_dirty(slot);
                return Ok(());
            }
        }
        Ok(())
    }

    fn settle_listener(&mut self, table: &mut Table, place: usize) -> io::Result<()> {
        let slot = u32::try_from(place).map_err(io::Error::other)?;
        let listener = &mut table.listeners[place];
        let Some(socket) = &listener.socket else { return Ok(()) };
        if listener.is_stopping {
            if listener.is_armed && !listener.is_cancelling {
                let cancel = opcode::AsyncCancel::new(Op::Accept.tag(slot)).build();
                let cancel = cancel.user_data(Op::CancelAccept.tag(slot));
                // SAFETY: a cancel points to no memory.
                listener.is_cancelling = unsafe { self.ring.push(&cancel) }?;
            } else if !listener.is_armed && !listener.is_cancelling {
                listener.socket = None;
            }
        } else if !listener.is_armed && listener.paused_until.is_none() {
            let fd = types::Fd(socket.as_raw_fd());
            let accept = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
            let accept = accept.user_data(Op::Accept.tag(slot));
            // SAFETY: a multishot accept is given no memory; the descriptor is closed only after
            // its last completion.
            listener.is_armed = unsafe { self.ring.push(&accept) }?;
        }
        Ok(())
    }

    /// Returns false when the kernel takes no more operations at the moment.
    fn settle_connection(&mut self, table: &mut Table, slot: u32) -> io::Result<bool> {
        let phase = table.at(slot).phase;
        if !matches!(phase, Phase::Open | Phase::Dead) {
            self.drop_held(table, slot);
        }
        match table.at(slot).phase {
            Phase::Free | Phase::Dead => Ok(true),
            Phase::Connecting => self.settle_connect(table, slot),
            Phase::Ending => self.settle_end(table, slot),
            Phase::Open | Phase::Flushing | Phase::Draining => {
                if !self.settle_send(table, slot)? {
                    return Ok(false);
                }
                let connection = table.at(slot);
                if connection.phase == Phase::Flushing && connection.send.pending() == 0 {
                    // It is dirty again now, so its new phase is settled in this very loop.
                    table.flushed(slot);
                }
                self.settle_receive(table, slot)
            }
        }
    }

    fn settle_connect(&mut self, table: &mut Table, slot: u32) -> io::Result<bool> {
        let connection = table.at(slot);
        if connection.ops.is_connecting {
            return Ok(true);
        }
        let fd = types::Fd(connection.fd());
        let writable = u32::from(libc::POLLOUT.unsigned_abs());
        let poll = opcode::PollAdd::new(fd, writable).build().user_data(Op::Connect.tag(slot));
        // SAFETY: a poll points to no memory.
        connection.ops.is_connecting = unsafe { self.ring.push(&poll) }?;
        Ok(connection.ops.is_connecting)
    }

    fn settle_receive(&mut self, table: &mut Table, slot: u32) -> io::Result<bool> {
        let is_wanted = table.wants_input(slot);
        let connection = table.at(slot);
        let ops = connection.ops;
        if is_wanted && !ops.is_receiving && !ops.is_starved && connection.phase != Phase::Ending {
            let fd = types::Fd(connection.fd());
            let receive = opcode::RecvMulti::new(fd, GROUP).build();
            let receive = receive.user_data(Op::Receive.tag(slot));
            // SAFETY: the kernel writes only into buffers that the pool has given it, and the pool
            // outlives the operation.
            connection.ops.is_receiving = unsafe { self.ring.push(&receive) }?;
            return Ok(connection.ops.is_receiving);
        }
        if !is_wanted && ops.is_receiving {
            return self.cancel(table, slot, Op::Receive);
        }
        Ok(true)
    }

    fn settle_send(&mut self, table: &mut Table, slot: u32) -> io::Result<bool> {
        let connection = &table.connections[index(slot)];
        let is_sending_phase = matches!(connection.phase, Phase::Open | Phase::Flushing);
        if connection.ops.is_sending || connection.send.pending() == 0 || !is_sending_phase {
            return Ok(true);
        }
        let (offset, len) = connection.send.front();
        let bytes = table.send_memory.pointer(offset, len).cast_const();
        let len = u32::try_from(len).map_err(io::Error::other)?;
        let send = opcode::Send::new(types::Fd(connection.fd()), bytes, len);
        let send = send.flags(libc::MSG_NOSIGNAL).build().user_data(Op::Send.tag(slot));
        // SAFETY: the bytes are pending in the send ring, so nothing overwrites them until the
        // completion takes them off, and the memory lives until the reactor's drop.
        let is_pushed = unsafe { self.ring.push(&send) }?;
        table.at(slot).ops.is_sending = is_pushed;
        Ok(is_pushed)
    }

    /// Cancels what is under way for an ending connection, one operation after the other.
    fn settle_end(&mut self, table: &mut Table, slot: u32) -> io::Result<bool> {
        let ops = table.at(slot).ops;
        if ops.is_idle() {
            table.ended(slot);
            return Ok(true);
        }
        if ops.is_receiving {
            self.cancel(table, slot, Op::Receive)
        } else if ops.is_connecting {
            self.cancel(table, slot, Op::Connect)
        } else if ops.is_sending {
            self.cancel(table, slot, Op::Send)
        } else {
            Ok(true)
        }
    }

    fn cancel(&mut self, table: &mut Table, slot: u32, op: Op) -> io::Result<bool> {
        let connection = table.at(slot);
        if connection.ops.is_cancelling {
            return Ok(true);
        }
        let cancel = opcode::AsyncCancel::new(op.tag(slot)).build();
        let cancel = cancel.user_data(Op::Cancel.tag(slot));
        // SAFETY: a cancel points to no memory.
        connection.ops.is_cancelling = unsafe { self.ring.push(&cancel) }?;
        Ok(connection.ops.is_cancelling)
    }

    /// Ends everything and waits for the kernel. When the kernel does not let go, the memory it may
    /// still use is leaked.
    pub(super) fn shut_down(&mut self, table: &mut Table) {
        if self.try_shut_down(table).is_err() || self.ring.under_way() > 0 {
            self.pool.leak();
            table.send_memory.leak();
        }
    }

    fn try_shut_down(&mut self, table: &mut Table) -> io::Result<()> {
        for slot in 0..table.config().connections_max {
            table.end(slot, CloseReason::Requested);
        }
        for listener in &mut table.listeners {
            listener.is_stopping = true;
        }
        let mut events = Vec::new();
        for _ in 0..DROP_TURNS_MAX {
            if self.ring.under_way() == 0 {
                break;
            }
            self.ring.drain_signal()?;
            if !self.turn(table, Nanos::ZERO, &mut events)? {
                let mut ready = [sys::readable(&self.ring.as_fd())];
                sys::ppoll(&mut ready, Some(DROP_WAIT))?;
            }
        }
        Ok(())
    }
}

/// What happened to a connection behind the bytes that were held, now that they are gone.
fn come_behind(table: &mut Table, slot: u32, held: Held) {
    if let Some(kind) = held.failure_behind {
        table.fail(slot, &io::Error::from(kind));
    } else if held.is_end_behind {
        table.input_ended(slot);
    }
}

fn on_accept(table: &mut Table, completion: &Completion, now: Nanos, events: &mut Vec<Event>) {
    let place = completion.slot;
    let listener = &mut table.listeners[index(place)];
    if !completion.has_more() {
        listener.is_armed = false;
    }
    let is_stopping = listener.is_stopping;
    match completion.result {
        fd if fd >= 0 => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
            let socket = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
            if !is_stopping {
                table.accepted(place, socket, events);
            }
        }
        error => match error.checked_neg().unwrap_or(i32::MAX) {
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            libc::ECONNABORTED => table.stats.accept_aborted += 1,
            _ => table.accept_failed(place, now),
        },
    }
}

fn on_send(table: &mut Table, completion: &Completion) {
    let slot = completion.slot;
    table.at(slot).ops.is_sending = false;
    match usize::try_from(completion.result) {
        Ok(count) => table.output_taken(slot, count),
        Err(_) => match completion.result.checked_neg().unwrap_or(i32::MAX) {
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            errno => table.fail(slot, &io::Error::from_raw_os_error(errno)),
        },
    }
}

fn on_connect(table: &mut Table, slot: u32) {
    let connection = table.at(slot);
    connection.ops.is_connecting = false;
    if connection.phase != Phase::Connecting {
        return;
    }
    let Some(socket) = &connection.socket else { return };
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => table.fail(slot, &error),
        Ok(None) if socket.peer_addr().is_ok() => table.connected(slot),
        // Woken without an answer: the next settling waits again.
        Ok(None) => {}
    }
}

#[cfg(test)]
mod tests;
