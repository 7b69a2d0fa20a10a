//! Parking a thread and waking it again, without a lost wake-up.
//!
//! ```text
//! thread:  announce()  ->  look for work once more  ->  park(): ppoll(eventfd + fds, timeout)
//! others:  publish work  ->  wake(): write the eventfd only if the thread has announced itself
//! ```
//!
//! # Why no wake-up is lost
//! The sleeper stores `parked = true`, then a sequentially consistent fence, then looks for work.
//! The waker publishes work, then the same kind of fence, then loads `parked`. Sequentially
//! consistent fences are totally ordered. If the sleeper's fence comes first, the waker's load sees
//! `parked = true` and the eventfd is written; if the waker's fence comes first, the sleeper's look
//! sees the work. Without the fences each side's store may still sit in its store buffer while its
//! load runs, both would see the old value, and the thread would sleep on top of work.
//!
//! The eventfd stays readable until the sleeper drains it, so a write between the look and the
//! `ppoll` ends that `ppoll` at once. Only one waker pays for the write: it takes the flag down
//! with a swap. A waker that is late writes into the next sleep, which then ends early; the thread
//! looks, finds nothing and parks again.
//!
//! An awake thread costs its wakers one fence and one load, and no system call.

use std::fs::File;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crate::clock::{self, Nanos};
use crate::sys;

#[derive(Debug)]
struct Shared {
    parked: AtomicBool,
    event: File,
}

/// Wakes one thread. Cheap to clone; any thread may hold one.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

impl Waker {
    /// Wakes the thread if it is parked or about to park. Call it **after** the work is published.
    #[inline]
    pub fn wake(&self) {
        // Orders the caller's publication before the load below; see the module's reasoning.
        fence(Ordering::SeqCst);
        if self.shared.parked.load(Ordering::Relaxed) {
            self.wake_parked();
        }
    }

    #[cold]
    fn wake_parked(&self) {
        if !self.shared.parked.swap(false, Ordering::AcqRel) {
            return;
        }
        let written = (&self.shared.event).write(&1_u64.to_ne_bytes());
        // A counter at its maximum refuses the write, but it is readable, which is all that counts.
        let full = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        assert!(
            written.is_ok() || written.as_ref().is_err_and(full),
            "eventfd refused: {written:?}"
        );
    }
}

/// The sleeping side, owned by the one thread that parks on it.
#[derive(Debug)]
pub struct Parker {
    shared: Arc<Shared>,
    fds: Vec<libc::pollfd>,
}

impl Parker {
    /// Makes a parker with its eventfd.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = sys::eventfd()?;
        let shared = Arc::new(Shared { parked: AtomicBool::new(false), event });
        Ok(Self { shared, fds: Vec::with_capacity(8) })
    }

    /// A handle that wakes the owner of this parker.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker { shared: Arc::clone(&self.shared) }
    }

    /// Says that this thread is about to park. Afterwards the caller **must** look for work once
    /// more, and then either [`retract`](Self::retract) or [`park`](Self::park).
    pub fn announce(&self) {
        self.shared.parked.store(true, Ordering::Relaxed);
        // Orders the store above before the caller's last look; see the module's reasoning.
        fence(Ordering::SeqCst);
    }

    /// Takes the announcement back, because the last look found work.
    pub fn retract(&self) {
        self.shared.parked.store(false, Ordering::Relaxed);
    }

    /// Sleeps until a wake-up, a ready descriptor of `fill`, the deadline or a signal. Spurious
    /// returns are allowed, so the caller looks for work afterwards in any case.
    ///
    /// # Errors
    /// When `ppoll` fails, which only a wrong descriptor can cause.
    pub fn park<'a>(
        &mut self,
        deadline: Option<Nanos>,
        fill: impl FnOnce(&mut PollSet<'_, 'a>),
    ) -> io::Result<()> {
        self.fds.clear();
        self.fds.push(sys::readable(&self.shared.event));
        fill(&mut PollSet { fds: &mut self.fds, borrowed: PhantomData });
        let timeout = deadline.map(|deadline| deadline.duration_since(clock::monotonic()));
        let slept = sys::ppoll(&mut self.fds, timeout);
        self.retract();
        if self.fds.first().is_some_and(|event| event.revents != 0) {
            self.drain();
        }
        slept.map(drop)
    }

    /// Sleeps until `ready` says yes or the deadline is over; for threads that run no tiles.
    /// `ready` is asked after every wake-up. Returns its last answer.
    ///
    /// # Errors
    /// As [`park`](Self::park).
    pub fn wait_until(
        &mut self,
        deadline: Option<Nanos>,
        mut ready: impl FnMut() -> bool,
    ) -> io::Result<bool> {
        loop {
            self.announce();
            if ready() {
                self.retract();
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| clock::monotonic() >= deadline) {
                self.retract();
                return Ok(false);
            }
            self.park(deadline, |_| ())?;
        }
    }

    fn drain(&self) {
        let mut count = [0; 8];
        let read = (&self.shared.event).read(&mut count);
        // Whoever wrote has written; an empty counter only means that the poll was spurious.
        let empty = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        assert!(read.is_ok() || read.as_ref().is_err_and(empty), "eventfd unreadable: {read:?}");
    }
}

/// Collects the descriptors that must end a sleep. Filled anew before each sleep.
#[derive(Debug)]
pub struct PollSet<'set, 'fd> {
    fds: &'set mut Vec<libc::pollfd>,
    borrowed: PhantomData<BorrowedFd<'fd>>,
}

impl<'fd> PollSet<'_, 'fd> {
    /// Adds a descriptor: the sleep ends when it is readable (or broken).
    pub fn readable(&mut self, fd: &'fd impl AsFd) {
        self.fds.push(sys::readable(&fd.as_fd().as_raw_fd()));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadline_ends_the_sleep() {
        let mut parker = Parker::new().unwrap();
        let before = clock::monotonic();
        let deadline = before.after(Duration::from_millis(20));
        assert!(!parker.wait_until(Some(deadline), || false).unwrap());
        assert!(clock::monotonic() >= deadline);
    }

    #[test]
    fn wake_between_announce_and_park_is_not_lost() {
        let mut parker = Parker::new().unwrap();
        let waker = parker.waker();
        parker.announce();
        waker.wake();
        // Without the wake-up this would sleep for ever, and the test would hang.
        parker.park(None, |_| ()).unwrap();
    }

    #[test]
    fn wake_without_announcement_writes_nothing() {
        let parker = Parker::new().unwrap();
        parker.waker().wake();
        let mut fds = [sys::readable(&parker.shared.event)];
        assert_eq!(sys::ppoll(&mut fds, Some(Duration::ZERO)).unwrap(), 0);
    }

    #[test]
    fn a_ready_descriptor_ends_the_sleep() {
        let mut parker = Parker::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        parker.announce();
        parker.park(None, |fds| fds.readable(&reader)).unwrap();
    }

    #[test]
    fn two_threads_take_turns_without_losing_one() {
        const TURNS: u64 = 50_000;
        let turn = Arc::new(AtomicU64::new(0));
        let mut parkers = [Parker::new().unwrap(), Parker::new().unwrap()];
        let wakers = [parkers[0].waker(), parkers[1].waker()];
        std::thread::scope(|scope| {
            for (index, parker) in parkers.iter_mut().enumerate() {
                let (turn, other) = (Arc::clone(&turn), wakers[1 - index].clone());
                scope.spawn(move || {
                    let mine = u64::try_from(index).unwrap();
                    for round in 0..TURNS {
                        let expected = round * 2 + mine;
                        let ready = || turn.load(Ordering::Acquire) == expected;
                        assert!(parker.wait_until(None, ready).unwrap());
                        turn.store(expected + 1, Ordering::Release);
                        other.wake();
                    }
                });
            }
        });
        assert_eq!(turn.load(Ordering::Acquire), TURNS * 2);
    }
}
