//! The io_uring side of a file ring: one write per group, with one linked fdatasync or without.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::{IoUring, opcode, squeue, types};

use super::{AlignedBuffer, FileError};

/// Which half of a group a completion belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// The write of the group's bytes.
    Write,
    /// The fdatasync linked behind it.
    Sync,
}

/// What became of a group that was handed over.
#[derive(Debug)]
pub(super) enum Started {
    /// The kernel has all of it: the write alone, or both halves linked.
    Whole,
    /// Nothing of it reached the submission queue.
    Nothing(io::Error),
    /// It is in the submission queue, and the kernel has not taken all of it.
    Part(io::Error),
}

/// A ring that carries writes, and syncs linked to them.
pub(super) struct Uring {
    ring: IoUring,
}

impl Uring {
    /// Sets up a ring for `depth` groups, or says why the host does not allow it.
    pub(super) fn new(depth: u32) -> Result<Self, FileError> {
        // Two entries a group; the completion queue is twice that, so it can never overflow.
        let ring = IoUring::builder().dontfork().build((depth * 2).next_power_of_two());
        match ring {
            Ok(ring) => Ok(Self { ring }),
            Err(source) => Err(FileError::RingUnavailable { source }),
        }
    }

    /// Hands one group to the kernel, its sync too if that is `linked`.
    ///
    /// The caller keeps `buffer` and the file alive and untouched until [`Uring::reap`] has
    /// returned every half of `token` that was handed over.
    pub(super) fn start(
        &mut self,
        token: u64,
        descriptor: RawFd,
        offset: u64,
        buffer: &AlignedBuffer,
        bytes: u32,
        linked: bool,
    ) -> Started {
        assert!(buffer.len() >= usize::try_from(bytes).unwrap_or(usize::MAX));
        let descriptor = types::Fd(descriptor);
        let write = opcode::Write::new(descriptor, buffer.as_kernel_ptr(), bytes)
            .offset(offset)
            .build()
            .flags(if linked { squeue::Flags::IO_LINK } else { squeue::Flags::empty() })
            .user_data(token * 2);
        let sync = if cfg!(hufu_planted_bug = "no_fsync") {
            opcode::Nop::new().build()
        } else {
            opcode::Fsync::new(descriptor).flags(types::FsyncFlags::DATASYNC).build()
        };
        let pair = [write, sync.user_data(token * 2 + 1)];
        let entries = if linked { &pair[..] } else { &pair[..1] };
        let mut queue = self.ring.submission();
        // SAFETY: the write reads `bytes` bytes of `buffer`, which is at least that long
        // (asserted above). `FileRing` owns buffer and file until all halves are reaped, and its
        // drop waits for them or leaks the buffer, so the kernel never reads freed memory.
        let pushed = unsafe { queue.push_multiple(entries) };
        drop(queue);
        if pushed.is_err() {
            return Started::Nothing(io::Error::from_raw_os_error(libc::EBUSY));
        }
        self.submit(0).map_or_else(Started::Part, |taken| judge_taken(taken, entries.len()))
    }

    /// Gives every completion that is there to `each`: token, half, result as the kernel gave it.
    pub(super) fn reap(&mut self, mut each: impl FnMut(u64, Half, i32)) {
        for entry in self.ring.completion() {
            let half = if entry.user_data() % 2 == 0 { Half::Write } else { Half::Sync };
            each(entry.user_data() / 2, half, entry.result());
        }
    }

    /// Enters the kernel and waits until at least `want` completions are there.
    pub(super) fn enter(&mut self, want: usize) -> io::Result<()> {
        self.submit(want).map(|_taken| ())
    }

    /// Hands over what is in the submission queue; returns how many entries the kernel took.
    fn submit(&mut self, want: usize) -> io::Result<usize> {
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(taken) => return Ok(taken),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Becomes readable when a completion is there.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps its descriptor open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

/// Tells whether the kernel took what was handed over as one.
///
/// When it takes the write alone, the link ends there: the sync goes in later as a request of its
/// own and may be finished before the write is.
fn judge_taken(taken: usize, offered: usize) -> Started {
    if taken == offered {
        return Started::Whole;
    }
    let cause = format!("the kernel took {taken} of {offered} requests");
    Started::Part(io::Error::other(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_did_not_take_as_one_is_a_failure() {
        assert!(matches!(judge_taken(2, 2), Started::Whole));
        assert!(matches!(judge_taken(1, 1), Started::Whole));
        for (taken, offered) in [(0, 2), (1, 2), (3, 2), (0, 1), (2, 1)] {
            assert!(matches!(judge_taken(taken, offered), Started::Part(_)), "{taken}");
        }
    }
}
