//! Conversions between the widths of integers, each lossless or an assertion.
//!
//! Stored lengths are `u32` and offsets `u64`; `usize` is for indexing memory only.

/// A length stored in 32 bits as an index.
pub(crate) fn index(value: u32) -> usize {
    const { assert!(usize::BITS >= u32::BITS) };
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A length in memory as an offset in a file.
pub(crate) fn offset(value: usize) -> u64 {
    const { assert!(usize::BITS <= u64::BITS) };
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A length that was checked against a 32-bit limit before.
pub(crate) fn length(value: usize) -> u32 {
    assert!(u32::try_from(value).is_ok());
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// An offset inside a segment, which is always below 4 GiB.
pub(crate) fn short(value: u64) -> u32 {
    assert!(u32::try_from(value).is_ok());
    u32::try_from(value).unwrap_or(u32::MAX)
}
