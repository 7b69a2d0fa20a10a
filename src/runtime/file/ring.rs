//! Groups of bytes made durable in order: write, then fdatasync, up to `depth` groups at a time.
//!
//! ```text
//! sync                              pwrite, fdatasync on the caller's thread, in `submit`
//! io_uring, several in flight       write -> fdatasync, linked in the kernel
//! io_uring, one in flight
//!   below 128 KiB                   as sync: what it could save is less than a wake-up more
//!   below 512 KiB                   write in the kernel, fdatasync by the caller, in `poll`
//!   longer                          linked: the caller has more to do meanwhile than the disk
//! ```
//! A linked sync goes through a worker thread of the kernel. With several groups in flight that
//! cost is hidden, and with a long one it is less than what the caller does meanwhile; with a
//! shorter one it stands between two writes, and the caller's own call is faster.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use super::direct::DirectFile;
use super::fault::{Fault, FaultOperation};
use super::uring::{Half, Started, Uring};
use super::{AlignedBuffer, FileError};
use crate::sys;

/// Groups that may be in flight, at most. More gained nothing in `facts/storage.md`.
pub(super) const DEPTH_MAX: u32 = 64;

/// Bytes of a group from which on the kernel writes it even at a depth of 1.
const KERNEL_BYTES_MIN: u32 = 128 << 10;

/// Bytes of a group from which on its sync is linked even at a depth of 1.
const LINKED_BYTES_MIN: u32 = 512 << 10;

/// What failed when the kernel does not take part any more.
const ENTER: &str = "io_uring_enter";

/// How a ring reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring where the host allows it, otherwise the calling thread.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// pwrite and fdatasync on the calling thread.
    Sync,
}

/// What a ring is made with.
#[derive(Debug, Clone, Copy)]
pub struct RingOptions {
    /// How the disk is reached.
    pub backend: Backend,
    /// Groups in flight at most, 1..=64. Other values are moved into this range.
    pub depth: u32,
}

/// Names one group that was handed to a ring. Tokens count up from 0 in order of submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(u64);

/// A group that is durable, with its buffer given back.
#[must_use]
#[derive(Debug)]
pub struct Completion {
    /// What [`FileRing::submit`] returned for the group.
    pub token: Token,
    /// The caller's buffer; the kernel is done with it.
    pub buffer: AlignedBuffer,
}

/// A group the ring did not take, with its buffer given back.
#[derive(Debug)]
pub struct Refused {
    /// Why. `None` means that the ring is full: reap completions and offer the group again.
    pub error: Option<FileError>,
    /// The caller's buffer, unchanged.
    pub buffer: AlignedBuffer,
}

/// One group between submission and completion.
struct Flight {
    token: u64,
    file: Arc<DirectFile>,
    offset: u64,
    bytes: u32,
    buffer: AlignedBuffer,
    write: Option<i32>,
    sync: Option<i32>,
    /// Whether the kernel syncs it behind its write; otherwise whoever finds it written does.
    is_linked: bool,
    /// Set when the group failed before the kernel had it, or in the path without a kernel ring.
    error: Option<FileError>,
}

impl Flight {
    fn is_finished(&self) -> bool {
        self.write.is_some() && self.sync.is_some()
    }
}

enum Engine {
    Sync,
    Uring(Box<Uring>),
}

/// Makes groups durable, in order, and says so in order.
///
/// Any failure is final: completions after it are not reported and later work is refused, because
/// after a failed fdatasync nobody knows what the disk holds.
pub struct FileRing {
    engine: Engine,
    event: File,
    flights: VecDeque<Flight>,
    token_next: u64,
    depth: u32,
    failed: bool,
}

impl FileRing {
    /// Makes a ring. With [`Backend::Auto`] a host without io_uring gets the other back end;
    /// [`FileRing::backend`] says which one it became.
    pub fn new(options: RingOptions) -> Result<Self, FileError> {
        let depth = options.depth.clamp(1, DEPTH_MAX);
        let engine = match options.backend {
            Backend::Sync => Engine::Sync,
            Backend::Uring => Engine::Uring(Box::new(Uring::new(depth)?)),
            Backend::Auto => {
                Uring::new(depth).map_or(Engine::Sync, |uring| Engine::Uring(Box::new(uring)))
            }
        };
        let capacity = usize::try_from(depth).unwrap_or(1);
        Ok(Self {
            engine,
            event: sys::eventfd()
                .map_err(|source| FileError::io("eventfd", Path::new("eventfd"), source))?,
            flights: VecDeque::with_capacity(capacity),
            token_next: 0,
            depth,
            failed: false,
        })
    }

    /// The back end in use: [`Backend::Uring`] or [`Backend::Sync`], never `Auto`.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.engine {
            Engine::Sync => Backend::Sync,
            Engine::Uring(_) => Backend::Uring,
        }
    }

    /// Groups handed in and not yet returned.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// True when a group for `file` would be taken now.
    ///
    /// A file in the page cache gets one group at a time: with two, the sync of the later group
    /// may be the one that is told about a failed write of the earlier group, and the earlier one
    /// would then be reported durable.
    #[must_use]
    pub fn has_room(&self, file: &DirectFile) -> bool {
        let depth = if file.is_direct() { self.depth } else { 1 };
        !self.failed && self.flights.len() < usize::try_from(depth).unwrap_or(1)
    }

    /// Descriptor that turns readable when [`FileRing::poll`] has something to return.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        match &self.engine {
            Engine::Sync => self.event.as_fd(),
            Engine::Uring(uring) => uring.descriptor(),
        }
    }

    /// Starts to make the first `bytes` of `buffer` durable at `offset` of `file`.
    ///
    /// With [`Backend::Sync`], and for a short group alone, the work is done before this returns;
    /// the completion still comes from [`FileRing::poll`], so that callers have one way to learn of
    /// it, and to be asked at once: the descriptor of io_uring tells nothing of such a group.
    pub fn submit(
        &mut self,
        file: &Arc<DirectFile>,
        offset: u64,
        buffer: AlignedBuffer,
        bytes: u32,
    ) -> Result<Token, Refused> {
        if self.failed {
            return Err(Refused { error: Some(FileError::RingFailed), buffer });
        }
        if !self.has_room(file) {
            return Err(Refused { error: None, buffer });
        }
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        if let Err(error) = file.check_aligned("write", offset, length.min(buffer.len() + 1)) {
            return Err(Refused { error: Some(error), buffer });
        }
        let token = self.token_next;
        self.token_next += 1;
        self.flights.push_back(Flight {
            token,
            file: Arc::clone(file),
            offset,
            bytes,
            buffer,
            write: None,
            sync: None,
            is_linked: self.depth > 1 || bytes >= LINKED_BYTES_MIN,
            error: None,
        });
        self.start_last();
        Ok(Token(token))
    }

    /// Appends the groups that became durable, in the order of submission, to `out`. With io_uring
    /// this is where a group gets synced that is written and not linked.
    pub fn poll(&mut self, out: &mut Vec<Completion>) -> Result<usize, FileError> {
        if self.failed {
            return Err(FileError::RingFailed);
        }
        self.reap();
        // A failure of any group, also a later one, stops every report from here on.
        if let Some(error) = self.flights.iter_mut().find_map(finished_error) {
            self.failed = true;
            return Err(error);
        }
        let mut count = 0;
        while self.flights.front().is_some_and(Flight::is_finished) {
            if let Some(flight) = self.flights.pop_front() {
                assert!(flight.error.is_none());
                out.push(Completion { token: Token(flight.token), buffer: flight.buffer });
                count += 1;
            }
        }
        Ok(count)
    }

    /// As [`FileRing::poll`], but waits for the oldest group. Returns 0 only with none in flight.
    pub fn wait(&mut self, out: &mut Vec<Completion>) -> Result<usize, FileError> {
        loop {
            let count = self.poll(out)?;
            if count > 0 || self.flights.is_empty() {
                return Ok(count);
            }
            if let Engine::Uring(uring) = &mut self.engine
                && let Err(source) = uring.enter(1)
            {
                self.failed = true;
                let file = self.flights.front().map(|flight| Arc::clone(&flight.file));
                return Err(file.map_or(FileError::RingFailed, |file| file.failed(ENTER, source)));
            }
        }
    }

    /// Starts the group at the back of the queue; a failure is kept there for the next poll.
    fn start_last(&mut self) {
        let Some(flight) = self.flights.back_mut() else { return };
        let verdict = flight.file.strike(FaultOperation::Write);
        let sync_verdict = flight.file.strike(FaultOperation::Sync);
        if verdict.is_some() || sync_verdict.is_some() {
            fail_on_purpose(flight, verdict, sync_verdict);
            signal(&self.event);
            return;
        }
        let is_short = !flight.is_linked && flight.bytes < KERNEL_BYTES_MIN;
        // A simulated disk is no file of the kernel's.
        let (Engine::Uring(uring), Some(descriptor), false) =
            (&mut self.engine, flight.file.descriptor(), is_short)
        else {
            run_inline(flight, 0);
            if matches!(self.engine, Engine::Sync) {
                signal(&self.event);
            }
            return;
        };
        let (token, bytes, linked) = (flight.token, flight.bytes, flight.is_linked);
        match uring.start(token, descriptor, flight.offset, &flight.buffer, bytes, linked) {
            Started::Whole => {}
            // Nothing of it will ever complete, so nobody may wait for it.
            Started::Nothing(source) => {
                let error = flight.file.failed(ENTER, source);
                finish(flight, Some(error));
            }
            // The rest of the pair sits in the submission queue, and a sync that was cut off from
            // its write may still be carried out and succeed. The group is not marked as finished,
            // so that a drop waits for it or leaks its buffer.
            Started::Part(source) => flight.error = Some(flight.file.failed(ENTER, source)),
        }
    }

    fn reap(&mut self) {
        let Engine::Uring(uring) = &mut self.engine else {
            clear(&self.event);
            return;
        };
        let flights = &mut self.flights;
        uring.reap(|token, half, result| note(flights, token, half, result));
        flights.iter_mut().for_each(judge);
    }

    /// Waits until the kernel is done with every buffer. False when it cannot be known.
    fn drain(&mut self) -> bool {
        loop {
            self.reap();
            if self.flights.iter().all(Flight::is_finished) {
                return true;
            }
            let Engine::Uring(uring) = &mut self.engine else { return true };
            if uring.enter(1).is_err() {
                return false;
            }
        }
    }
}

impl Drop for FileRing {
    fn drop(&mut self) {
        if !self.drain() {
            // The kernel may still read these buffers: leaking them is the only safe way out.
            let flights: Vec<Flight> = self.flights.drain(..).collect();
            let _leaked: &'static mut [Flight] = flights.leak();
        }
    }
}

impl std::fmt::Debug for FileRing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("FileRing")
            .field("backend", &self.backend())
            .field("depth", &self.depth)
            .field("in_flight", &self.flights.len())
            .field("failed", &self.failed)
            .finish()
    }
}

/// Takes down what the kernel said about one half of a group.
fn note(flights: &mut VecDeque<Flight>, token: u64, half: Half, result: i32) {
    let first = flights.front().map_or(token, |flight| flight.token);
    let index = token.checked_sub(first).and_then(|index| usize::try_from(index).ok());
    let Some(flight) = index.and_then(|index| flights.get_mut(index)) else { return };
    assert!(flight.token == token);
    match half {
        Half::Write => flight.write = Some(result),
        Half::Sync => flight.sync = Some(result),
    }
}

/// Takes the error of a group out, if it has one.
fn finished_error(flight: &mut Flight) -> Option<FileError> {
    flight.error.take()
}

/// Decides what the finished halves mean, and syncs a group that is written and not linked.
fn judge(flight: &mut Flight) {
    let Some(write) = flight.write else { return };
    if flight.error.is_some() {
        if !flight.is_linked {
            // Nothing more will come of it, so nobody may wait for it.
            flight.sync.get_or_insert(-libc::ECANCELED);
        }
        return;
    }
    match (reached(flight, write), flight.sync) {
        (_, None) if flight.is_linked => {}
        (Err(error), _) => finish(flight, Some(error)),
        (Ok(bytes), Some(sync)) if bytes == flight.bytes => {
            if sync < 0 {
                let source = io::Error::from_raw_os_error(-sync);
                flight.error = Some(flight.file.failed("fdatasync", source));
            }
        }
        // A short or interrupted write is no failure, but it cancelled its sync: finish it here.
        (Ok(bytes), _) => run_inline(flight, usize::try_from(bytes).unwrap_or(0)),
    }
}

/// How many bytes of the group the kernel wrote, by what it said of the write.
fn reached(flight: &Flight, write: i32) -> Result<u32, FileError> {
    match write {
        interrupted if interrupted == -libc::EINTR || interrupted == -libc::EAGAIN => Ok(0),
        failed if failed < 0 => {
            Err(flight.file.failed("write", io::Error::from_raw_os_error(-failed)))
        }
        written => Ok(u32::try_from(written).unwrap_or(0)),
    }
}

/// Writes what is missing of the group and syncs it on this thread.
fn run_inline(flight: &mut Flight, done: usize) {
    let bytes = usize::try_from(flight.bytes).unwrap_or(usize::MAX);
    let result = flight
        .file
        .write_rest(flight.offset, &flight.buffer, done, bytes)
        .and_then(|()| flight.file.sync_unstruck());
    finish(flight, result.err());
}

fn fail_on_purpose(flight: &mut Flight, write: Option<Fault>, sync: Option<Fault>) {
    let bytes = usize::try_from(flight.bytes).unwrap_or(0);
    let (operation, errno, reached) = match (write, sync) {
        (Some(Fault::Error(errno)), _) => ("write", errno, 0),
        (Some(Fault::Torn { bytes: torn }), _) => ("write", libc::EIO, torn.min(bytes)),
        (None, Some(Fault::Error(errno))) => ("fdatasync", errno, bytes),
        (None, _) => ("fdatasync", libc::EIO, bytes),
    };
    let written = flight.file.write_torn(flight.offset, &flight.buffer, reached);
    let synced = if operation == "fdatasync" { flight.file.sync_failed() } else { Ok(()) };
    let error = written
        .and(synced)
        .err()
        .unwrap_or_else(|| flight.file.failed(operation, io::Error::from_raw_os_error(errno)));
    finish(flight, Some(error));
}

fn finish(flight: &mut Flight, error: Option<FileError>) {
    flight.write = Some(i32::try_from(flight.bytes).unwrap_or(i32::MAX));
    flight.sync = Some(0);
    flight.error = error;
}

/// Makes the event descriptor readable. A full counter already is, so the result does not matter.
fn signal(mut event: &File) {
    let _written = event.write(&1_u64.to_ne_bytes());
}

/// Makes the event descriptor unreadable until the next signal.
fn clear(mut event: &File) {
    let _read = event.read(&mut [0; 8]);
}

#[cfg(test)]
mod tests;
