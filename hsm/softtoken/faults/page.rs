//! One page of a file, mapped and shared between processes, seen as atomic words.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

const PAGE_SIZE: usize = 4096;
const WORDS_COUNT: usize = PAGE_SIZE / size_of::<AtomicU64>();

/// The mapped page; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Page {
    words: NonNull<[AtomicU64; WORDS_COUNT]>,
}

// SAFETY: the page is reached through atomic words only, from any thread.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// Maps the file, which is made of zeros if it is not there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        // Never shorter than it was: another process may have it mapped.
        if file.metadata()?.len() < PAGE_SIZE as u64 {
            file.set_len(PAGE_SIZE as u64)?;
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping, where the kernel likes, of a file that is open and long enough.
        let mapped =
            unsafe { libc::mmap(std::ptr::null_mut(), PAGE_SIZE, access, libc::MAP_SHARED, fd, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(mapped.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { words })
    }

    /// A word of the page.
    pub(super) fn word(&self, place: usize) -> &AtomicU64 {
        // SAFETY: mapped until drop, aligned to a page, and every bit pattern is a u64.
        let words = unsafe { self.words.as_ref() };
        &words[place]
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the mapping of `open`, which nobody else unmaps.
        let failed = unsafe { libc::munmap(self.words.as_ptr().cast(), PAGE_SIZE) };
        debug_assert_eq!(failed, 0, "a mapping of ours can be unmapped");
    }
}
