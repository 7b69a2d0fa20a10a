//! A block-aligned, zeroed piece of memory that the kernel may read or write directly.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::BLOCK_BYTES;

/// Memory aligned to [`BLOCK_BYTES`], zeroed when made, of a length that never changes.
///
/// The bytes do not move when the value moves, which is what lets a ring own the buffer while the
/// kernel works on it.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the buffer owns its mapping alone; no other value points into it.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared access only reads, exclusive access needs `&mut`, as for `Vec<u8>`.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// Takes at least `bytes` (rounded up to whole blocks, at least one) of zeroed memory.
    ///
    /// The memory is a mapping of its own: pages that are never touched are never backed, so a
    /// buffer for the longest possible group costs only what the groups really need.
    ///
    /// Ends the process when the memory is not there or `bytes` is beyond the address space:
    /// buffers are taken at start, from checked limits.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let blocks = bytes.div_ceil(BLOCK_BYTES).max(1);
        let Some(bytes) = blocks.checked_mul(BLOCK_BYTES) else { std::process::abort() };
        assert!(bytes >= BLOCK_BYTES);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing
        // that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            std::process::abort();
        }
        let Some(start) = NonNull::new(start.cast::<u8>()) else { std::process::abort() };
        assert!(start.addr().get().is_multiple_of(BLOCK_BYTES));
        Self { start, bytes }
    }

    /// Address of the first byte, for the kernel.
    pub(super) fn as_kernel_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` is valid for `bytes` initialised bytes (mapped zeroed), and
        // the shared borrow of self keeps writers out.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; the exclusive borrow of self makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from `mmap` with this very length and is unmapped only here.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        assert!(result == 0, "a mapping made by mmap can be unmapped");
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content may be client data: only the size is shown.
        formatter.debug_struct("AlignedBuffer").field("bytes", &self.bytes).finish()
    }
}
