//! The ring itself: set-up, submission and completion, with the operation encoded in the user data.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use io_uring::{EnterFlags, IoUring, cqueue, squeue};

use crate::sys;

/// Submissions that one entry into the kernel can carry.
const SUBMISSIONS: u32 = 512;
/// Completions the ring holds before the kernel keeps them back.
const COMPLETIONS: u32 = 8_192;
/// Completions taken over at one time.
pub(super) const BATCH_MAX: usize = 1_024;

/// Which operation a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Accept,
    CancelAccept,
    Receive,
    Send,
    Connect,
    Cancel,
}

impl Op {
    const ALL: [Self; 6] =
        [Self::Accept, Self::CancelAccept, Self::Receive, Self::Send, Self::Connect, Self::Cancel];

    const fn code(self) -> u64 {
        match self {
            Self::Accept => 0,
            Self::CancelAccept => 1,
            Self::Receive => 2,
            Self::Send => 3,
            Self::Connect => 4,
            Self::Cancel => 5,
        }
    }

    /// The user data of this operation for a place in the table.
    pub(super) fn tag(self, slot: u32) -> u64 {
        (self.code() << 32) | u64::from(slot)
    }

    fn read(tag: u64) -> Option<(Self, u32)> {
        let op = Self::ALL.into_iter().find(|op| op.code() == tag >> 32)?;
        Some((op, u32::try_from(tag & u64::from(u32::MAX)).ok()?))
    }
}

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) op: Op,
    pub(super) slot: u32,
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the operation goes on.
    pub(super) fn has_more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// A last completion without a buffer, as the kernel would give it.
    #[cfg(test)]
    pub(super) const fn for_test(op: Op, slot: u32, result: i32) -> Self {
        Self { op, slot, result, flags: 0 }
    }

    /// The provided buffer that came with it.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// # The descriptor to sleep on
/// With `DEFER_TASKRUN` the kernel does not wake a sleeper on the ring's own descriptor when work
/// is put off for this thread, only when a completion is posted, and nothing posts it while the
/// thread sleeps (seen as hangs on 6.18). A registered eventfd is signalled in both cases, so that
/// is what the thread sleeps on. It is drained before the work is taken in: a signal that comes
/// later leaves it readable, at the price of one sleep that ends early.
pub(super) struct Ring {
    ring: IoUring,
    signal: File,
    /// Completions were seen since the signal was last drained, so it may be readable.
    is_signalled: bool,
    is_deferred: bool,
    is_enabled: bool,
    /// Operations submitted whose last completion has not come.
    under_way: usize,
}

impl Ring {
    /// Sets up a disabled ring with the best flags the kernel takes.
    ///
    /// `SINGLE_ISSUER` is not given up: it came with the same kernel as multishot receive, so its
    /// refusal tells that the kernel is too old for this back end.
    pub(super) fn new() -> io::Result<Self> {
        let mut refused = None;
        for is_deferred in [true, false] {
            let mut builder = IoUring::builder();
            builder.setup_r_disabled().setup_single_issuer().setup_taskrun_flag();
            builder.setup_clamp().setup_cqsize(COMPLETIONS).dontfork();
            if is_deferred {
                builder.setup_defer_taskrun();
            } else {
                builder.setup_coop_taskrun();
            }
            match builder.build(SUBMISSIONS) {
                Ok(ring) => return Self::with_signal(ring, is_deferred),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| io::Error::from(io::ErrorKind::Unsupported)))
    }

    fn with_signal(ring: IoUring, is_deferred: bool) -> io::Result<Self> {
        let signal = sys::eventfd()?;
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        let (is_signalled, is_enabled, under_way) = (false, false, 0);
        Ok(Self { ring, signal, is_signalled, is_deferred, is_enabled, under_way })
    }

    /// Empties the signal if it may be readable. To be called before work is taken in.
    pub(super) fn drain_signal(&mut self) -> io::Result<()> {
        let is_working = self.ring.submission().taskrun() || !self.ring.completion().is_empty();
        if !self.is_signalled && !is_working {
            return Ok(());
        }
        self.is_signalled = false;
        match (&self.signal).read(&mut [0; 8]) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) const fn is_deferred(&self) -> bool {
        self.is_deferred
    }

    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Makes the calling thread the owner, at the first call.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        if !self.is_enabled {
            self.ring.submitter().register_enable_rings()?;
            self.is_enabled = true;
        }
        Ok(())
    }

    /// Whether an operation fits without an entry into the kernel.
    fn is_full(&mut self) -> bool {
        self.ring.submission().is_full()
    }

    /// Queues an operation. Returns false when the kernel takes no more at the moment.
    ///
    /// # Safety
    /// What the operation points to must stay valid, and what the kernel writes to must stay
    /// untouched, until its last completion.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<bool> {
        if self.is_full() {
            self.submit()?;
            if self.is_full() {
                return Ok(false);
            }
        }
        // SAFETY: the caller answers for the operation's memory.
        let pushed = unsafe { self.ring.submission().push(entry) };
        if pushed.is_ok() {
            self.under_way += 1;
        }
        Ok(pushed.is_ok())
    }

    /// Gives queued operations to the kernel and lets it run deferred work, if there is any of
    /// either; otherwise costs no system call.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        let queue = self.ring.submission();
        let is_needed = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        let count = u32::try_from(queue.len()).map_err(io::Error::other)?;
        drop(queue);
        if !is_needed {
            return Ok(());
        }
        let flags = EnterFlags::GETEVENTS.bits();
        let submitter = self.ring.submitter();
        // SAFETY: the flags fit the absent argument, and the queued operations' memory was
        // answered for when they were pushed.
        match unsafe { submitter.enter::<libc::sigset_t>(count, 0, flags, None) } {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // A signal, or completions must be taken in first: the caller comes back.
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes over up to a batch of completions.
    pub(super) fn complete(&mut self, batch: &mut Vec<Completion>) {
        batch.clear();
        let queue = self.ring.completion();
        for entry in queue.take(BATCH_MAX) {
            let read = Op::read(entry.user_data());
            assert!(read.is_some(), "completion of an unknown operation {:#x}", entry.user_data());
            let Some((op, slot)) = read else { continue };
            let completion = Completion { op, slot, result: entry.result(), flags: entry.flags() };
            if !completion.has_more() {
                self.under_way -= 1;
            }
            batch.push(completion);
        }
        self.is_signalled |= !batch.is_empty();
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}
