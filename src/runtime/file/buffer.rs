//! A block-aligned, zeroed piece of memory that the kernel may read or write directly.

use std::ops::{Deref, DerefMut};

use super::BLOCK_BYTES;
use crate::sys::Mapping;

/// Memory aligned to [`BLOCK_BYTES`], zeroed when made, of a length that never changes.
///
/// The bytes do not move when the value moves, which is what lets a ring own the buffer while the
/// kernel works on it.
pub struct AlignedBuffer(Mapping);

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
        let Ok(mapping) = Mapping::new(bytes) else { std::process::abort() };
        assert!(mapping.base().addr().get().is_multiple_of(BLOCK_BYTES));
        Self(mapping)
    }

    /// As [`AlignedBuffer::new`], with every page backed when this returns: for a buffer that lives as
    /// long as the process and must not make it grow.
    #[must_use]
    pub fn resident(bytes: usize) -> Self {
        let mut buffer = Self::new(bytes);
        // The kernel's zeroes are no pages yet; a page is given at the first write to it.
        buffer.fill(0);
        buffer
    }

    /// Address of the first byte, for the kernel.
    pub(super) fn as_kernel_ptr(&self) -> *const u8 {
        self.0.base().as_ptr()
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is valid for its size, with initialised bytes (mapped zeroed), and
        // the shared borrow of self keeps writers out.
        unsafe { std::slice::from_raw_parts(self.0.base().as_ptr(), self.0.size()) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; the exclusive borrow of self makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.0.base().as_ptr(), self.0.size()) }
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content may be client data: only the size is shown.
        formatter.debug_struct("AlignedBuffer").field("bytes", &self.0.size()).finish()
    }
}
