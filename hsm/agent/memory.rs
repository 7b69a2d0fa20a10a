//! The memory that node and agent share: a sealed memfd, seen as atomic words.
//!
//! The node makes it, seals its size and maps it; the agent gets the descriptor, checks seals and
//! size, and maps it too. From then on each side believes nothing it reads there (`ring`).
//!
//! # Why this is sound
//! The other process may write any word at any time. All access goes through [`AtomicU32`], for
//! which that is no data race, and no reference to anything else is ever made. The size cannot
//! change (`F_SEAL_SHRINK`, `F_SEAL_GROW`), so no access can meet a page that is gone.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// What must be sealed before either side maps the memory.
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Mapped words, shared with another process.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<AtomicU32>,
    words_count: usize,
    descriptor: OwnedFd,
}

// SAFETY: the mapping is atomic words only, and stays until the value is dropped.
unsafe impl Send for Memory {}
// SAFETY: as above; atomic words may be used by any number of threads.
unsafe impl Sync for Memory {}

impl Memory {
    /// New zeroed memory of this many words, sealed.
    pub(crate) fn create(words_count: usize) -> io::Result<Self> {
        assert!(words_count > 0, "memory without a word");
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let name = c"hufu-hsm-agent";
        // SAFETY: the name is a constant that ends with a zero byte.
        let mut fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_NOEXEC_SEAL) };
        if fd < 0 {
            // Kernels before 6.3 do not know the flag that forbids to run what is inside.
            // SAFETY: as above.
            fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        }
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        let bytes = words_count.checked_mul(size_of::<AtomicU32>());
        let bytes = bytes.and_then(|bytes| libc::off_t::try_from(bytes).ok());
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the call takes no pointer.
        check(unsafe { libc::ftruncate(descriptor.as_raw_fd(), bytes) })?;
        // SAFETY: as above.
        check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
        Self::map(descriptor, words_count)
    }

    /// Maps what the other side made, after looking whether it is what it should be.
    pub(crate) fn adopt(descriptor: OwnedFd, words_count: usize) -> io::Result<Self> {
        let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        // SAFETY: the call takes no pointer.
        let seals = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GET_SEALS) })?;
        let size = file_size(&descriptor)?;
        if seals & SEALS != SEALS {
            return wrong(format!("memory without its seals ({seals:#x})"));
        }
        if words_count == 0 || Some(size) != words_count.checked_mul(4) {
            return wrong(format!("memory of {size} bytes instead of {words_count} words"));
        }
        Self::map(descriptor, words_count)
    }

    fn map(descriptor: OwnedFd, words_count: usize) -> io::Result<Self> {
        let size = words_count * size_of::<AtomicU32>();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_POPULATE;
        let fd = descriptor.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // What is unwrapped passes through here: neither swap nor a core file nor a child gets it.
        // Each is a wish that a host may refuse.
        for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
            // SAFETY: the range is the mapping just made; the advice changes no byte of it.
            let _advised = unsafe { libc::madvise(base, size, advice) };
        }
        // SAFETY: as above.
        let _locked = unsafe { libc::mlock(base, size) };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { base, words_count, descriptor })
    }

    /// All words. The other process may change each of them at any time.
    pub(crate) fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is page-aligned, `words_count` words long, lives as long as `self`,
        // and any bits are a valid atomic word.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words_count) }
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let size = self.words_count * size_of::<AtomicU32>();
        // SAFETY: the mapping was made by `map` with this size, and no borrow of it is left.
        let answer = unsafe { libc::munmap(self.base.as_ptr().cast(), size) };
        assert_eq!(answer, 0, "unmapping {size} bytes failed");
    }
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Bytes of the file behind a descriptor.
fn file_size(descriptor: &OwnedFd) -> io::Result<usize> {
    let mut about = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: `about` is a valid place for the answer on this stack.
    check(unsafe { libc::fstat(descriptor.as_raw_fd(), about.as_mut_ptr()) })?;
    // SAFETY: all zeroes is a valid value, and the kernel has filled it.
    let about = unsafe { about.assume_init() };
    usize::try_from(about.st_size).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn both_sides_see_the_same_words() {
        let ours = Memory::create(4_096).unwrap();
        let theirs = Memory::adopt(ours.as_fd().try_clone_to_owned().unwrap(), 4_096).unwrap();
        ours.words()[4_095].store(7, Ordering::Release);
        assert_eq!(theirs.words()[4_095].load(Ordering::Acquire), 7);
        assert_eq!(theirs.words().len(), 4_096);
    }

    #[test]
    fn the_size_is_sealed_and_checked() {
        let memory = Memory::create(1_024).unwrap();
        let file = std::fs::File::from(memory.as_fd().try_clone_to_owned().unwrap());
        assert!(file.set_len(0).is_err() && file.set_len(8_192).is_err());
        let fd = || memory.as_fd().try_clone_to_owned().unwrap();
        assert!(Memory::adopt(fd(), 1_023).is_err() && Memory::adopt(fd(), 0).is_err());
        let unsealed = tempfile::tempfile().unwrap();
        unsealed.set_len(4_096).unwrap();
        assert!(Memory::adopt(unsealed.into(), 1_024).is_err());
    }
}
