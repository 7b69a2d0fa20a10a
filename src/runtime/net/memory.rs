//! Page-aligned memory that the kernel may read or write behind Rust's back.
//!
//! It is mapped once, never moves and never grows. It is reached through raw pointers, and a slice
//! is made only of the part that the caller knows to be its own at that time.

use std::io;
use std::ptr::NonNull;

#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    size: usize,
    is_leaked: bool,
}

// SAFETY: the mapping belongs to this value alone, and every access goes through a method that
// states who may touch which part.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps `size` zeroed bytes; pages become resident when first touched.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        let size = size.max(1);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { base, size, is_leaked: false })
    }

    /// Keeps the mapping for ever, because the kernel may still use it.
    pub(super) const fn leak(&mut self) {
        self.is_leaked = true;
    }

    /// Pointer to the byte at `offset`, with at least `len` bytes behind it.
    pub(super) fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.size), "{offset}+{len} is outside {}", self.size);
        // SAFETY: the offset was just checked to lie inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// The bytes of a part.
    ///
    /// # Safety
    /// Nobody, the kernel included, may write to this part while the slice lives.
    pub(super) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        let pointer = self.pointer(offset, len);
        // SAFETY: the part is mapped and initialised (by zeroes at least), and the caller promises
        // that nobody writes to it.
        unsafe { std::slice::from_raw_parts(pointer, len) }
    }

    /// Copies bytes to `offset`.
    ///
    /// # Safety
    /// Nobody, the kernel included, may read or write this part at the same time.
    pub(super) unsafe fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let pointer = self.pointer(offset, bytes.len());
        // SAFETY: the target is mapped for this length and, by the caller's promise, not in use;
        // no safe slice of it can exist beside `bytes`, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        // SAFETY: the mapping was made by `new` with this size, and its owner has made sure that
        // the kernel is done with it.
        let answer = unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
        assert_eq!(answer, 0, "unmapping {} bytes failed", self.size);
    }
}
