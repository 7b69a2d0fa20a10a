//! Page-aligned memory that the kernel may read or write behind Rust's back.
//!
//! It is mapped once, never moves and never grows. It is reached through raw pointers, and a slice
//! is made only of the part that the caller knows to be its own at that time.

use std::io;

use crate::sys::Mapping;

#[derive(Debug)]
pub(super) struct Memory(Mapping);

impl Memory {
    /// Maps `size` zeroed bytes; pages become resident when first touched.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        Mapping::new(size).map(Self)
    }

    /// Keeps the mapping for ever, because the kernel may still use it.
    pub(super) const fn leak(&mut self) {
        self.0.leak();
    }

    /// Pointer to the byte at `offset`, with at least `len` bytes behind it.
    pub(super) fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        let end = offset.checked_add(len);
        let size = self.0.size();
        assert!(end.is_some_and(|end| end <= size), "{offset}+{len} is outside {size}");
        // SAFETY: the offset was just checked to lie inside the mapping.
        unsafe { self.0.base().as_ptr().add(offset) }
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
