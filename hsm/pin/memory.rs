//! Memory that is not swapped, not dumped and not inherited, and the two calls about descriptors
//! and users that `std` does not offer.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;

use zeroize::Zeroize;

/// Bytes asked of the kernel, which gives whole pages.
const PAGE_BYTES: usize = 4_096;

/// A page of its own for one secret.
pub(super) struct Page {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone and is reached through borrows of it only.
unsafe impl Send for Page {}
// SAFETY: shared borrows only read.
unsafe impl Sync for Page {}

impl Page {
    /// A zeroed page. Where the host allows no locked memory it is used all the same: a node with a
    /// low limit must still reach its card.
    pub(super) fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses the place, so that no other mapping is touched.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range was mapped above. A refusal leaves the page as it is.
        unsafe { libc::mlock(base, PAGE_BYTES) };
        for advice in [libc::MADV_DONTDUMP, libc::MADV_WIPEONFORK] {
            // SAFETY: the range was mapped above, and neither advice changes its content here.
            unsafe { libc::madvise(base, PAGE_BYTES, advice) };
        }
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::other("the kernel mapped address zero"))?;
        Ok(Self { base })
    }

    pub(super) const fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is this long, readable, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), PAGE_BYTES) }
    }

    pub(super) const fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; writable, and borrowed by nobody else.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), PAGE_BYTES) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        // SAFETY: the range was mapped by `new`, and nothing borrows it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), PAGE_BYTES) };
    }
}

/// The user whose rights this process has.
pub(super) fn effective_user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// A descriptor of our own for what `number` names, which no program started later inherits.
pub(super) fn inherited(number: i32) -> io::Result<File> {
    // SAFETY: the call takes no pointer and makes a new descriptor, or fails.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call takes no pointer; the descriptor's owner loses nothing but its inheritance.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}
