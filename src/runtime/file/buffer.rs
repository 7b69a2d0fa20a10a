//! A block-aligned, zeroed piece of memory that the kernel may read or write directly.

use std::ops::{Deref, DerefMut};

use super::BLOCK_BYTES;
use super::direct::to_u64;
use crate::sys::{HUGE_PAGE_BYTES, Mapping};

/// Memory aligned to [`BLOCK_BYTES`], zeroed when made, of a length that never changes.
///
/// The bytes do not move when the value moves, which is what lets a ring own the buffer while the
/// kernel works on it.
pub struct AlignedBuffer {
    mapping: Mapping,
    bytes: usize,
}

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
        Self::over(Mapping::new(bytes), bytes)
    }

    fn over(mapping: std::io::Result<Mapping>, bytes: usize) -> Self {
        let Ok(mapping) = mapping else { std::process::abort() };
        assert!(mapping.base().addr().get().is_multiple_of(BLOCK_BYTES));
        assert!(bytes.is_multiple_of(BLOCK_BYTES) && bytes <= mapping.size());
        Self { mapping, bytes }
    }

    /// As [`AlignedBuffer::new`], with every page backed when this returns: for a buffer that lives
    /// as long as the process and must not make it grow. A long one lies in huge pages where the
    /// host has them; writing 1 MiB from these took 200 us where small pages took 280 us.
    #[must_use]
    pub fn resident(bytes: usize) -> Self {
        let Some(bytes) = bytes.max(1).checked_next_multiple_of(BLOCK_BYTES) else {
            std::process::abort()
        };
        let mapping = if is_huge(bytes) { Mapping::new_huge(bytes) } else { Mapping::new(bytes) };
        let mut buffer = Self::over(mapping, bytes);
        // The kernel's zeroes are no pages yet; a page is given at the first write to it.
        buffer.fill(0);
        buffer
    }

    /// Bytes of memory that [`AlignedBuffer::resident`] takes for a buffer of `bytes`.
    #[must_use]
    pub fn resident_bytes(bytes: u64) -> u64 {
        let (block, huge) = (to_u64(BLOCK_BYTES), to_u64(HUGE_PAGE_BYTES));
        let whole = bytes.max(1).saturating_add(block - 1) / block * block;
        if usize::try_from(whole).is_ok_and(is_huge) {
            whole.saturating_add(huge - 1) / huge * huge
        } else {
            whole
        }
    }

    /// Address of the first byte, for the kernel.
    pub(super) fn as_kernel_ptr(&self) -> *const u8 {
        self.mapping.base().as_ptr()
    }
}

/// Whether a buffer of so many bytes is worth huge pages: it fills half of one at least.
const fn is_huge(bytes: usize) -> bool {
    bytes >= HUGE_PAGE_BYTES / 2
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is valid for at least `bytes` (asserted when made), with initialised
        // bytes (mapped zeroed), and the shared borrow of self keeps writers out.
        unsafe { std::slice::from_raw_parts(self.mapping.base().as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; the exclusive borrow of self makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.base().as_ptr(), self.bytes) }
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content may be client data: only the size is shown.
        formatter.debug_struct("AlignedBuffer").field("bytes", &self.bytes).finish()
    }
}
