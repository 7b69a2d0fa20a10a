//! Strict reading and writing of canonical bytes.
//!
//! A [`Reader`] walks a slice and hands out references into it; nothing is copied, nothing is
//! skipped, and `finish` insists that nothing is left. Writing is appending the same fixed layouts
//! to a `Vec`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Why bytes are not a canonical encoding. Every variant says where or what, so that a sender can
/// mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("truncated at byte {offset}: {needed} more bytes expected")]
    Truncated {
        /// Where the field begins.
        offset: usize,
        /// How many bytes are missing.
        needed: usize,
    },
    /// Bytes follow the end of the message.
    #[error("{count} bytes follow the end of the message")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// The domain prefix names another kind of message.
    #[error("message kind is {found}, expected {expected}")]
    Kind {
        /// The kind read.
        found: u16,
        /// The kind wanted here.
        expected: u16,
    },
    /// The format version is not one this build reads.
    #[error("format version is {found}, this build reads {expected}")]
    Version {
        /// The version read.
        found: u16,
        /// The version this build reads.
        expected: u16,
    },
    /// A reserved byte is not zero.
    #[error("reserved bytes of {field} are not zero")]
    Reserved {
        /// The field they belong to.
        field: &'static str,
    },
    /// A number or a length lies outside its range.
    #[error("{field} is {found}, allowed is {min}..={max}")]
    Range {
        /// The field.
        field: &'static str,
        /// The value read.
        found: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// A value with more than one encoding is not in its canonical one.
    #[error("{field} is not in canonical form")]
    NotCanonical {
        /// The field.
        field: &'static str,
    },
    /// Two entries of a list have in common what each has for itself alone.
    #[error("{field} is there twice")]
    Repeated {
        /// What they have in common.
        field: &'static str,
    },
    /// A key is no point of the curve.
    #[error("{field} is no point of the SM2 curve")]
    OffCurve {
        /// Whose key it is.
        field: &'static str,
    },
    /// More state keys are named than one message of its kind may name: the same operations fit
    /// several of them.
    #[error("{field} names {found} state keys, allowed are {max}: divide it into several")]
    KeysTooMany {
        /// What names them.
        field: &'static str,
        /// How many were named when counting stopped.
        found: u32,
        /// Most allowed.
        max: u32,
    },
    /// Two lengths or counts that must agree do not.
    #[error("{field} says {stated}, the content says {actual}")]
    Mismatch {
        /// The field.
        field: &'static str,
        /// What it says.
        stated: u64,
        /// What is there.
        actual: u64,
    },
}

/// Walks a byte slice strictly, handing out references into it.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Offset of the next byte.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// The next value of a fixed layout, in place.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn fixed<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &mut self,
    ) -> Result<&'a T, DecodeError> {
        match T::ref_from_prefix(self.rest) {
            Ok((value, rest)) => {
                self.offset += size_of::<T>();
                self.rest = rest;
                Ok(value)
            }
            Err(_) => Err(self.truncated(size_of::<T>())),
        }
    }

    /// The next `count` values of a fixed layout, in place. The caller has bounded `count`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn slice<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &mut self,
        count: usize,
    ) -> Result<&'a [T], DecodeError> {
        match <[T]>::ref_from_prefix_with_elems(self.rest, count) {
            Ok((values, rest)) => {
                self.offset += self.rest.len() - rest.len();
                self.rest = rest;
                Ok(values)
            }
            Err(_) => Err(self.truncated(size_of::<T>().saturating_mul(count))),
        }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(count) {
            Some((bytes, rest)) => {
                self.offset += count;
                self.rest = rest;
                Ok(bytes)
            }
            None => Err(self.truncated(count)),
        }
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] if bytes are left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing { count: self.rest.len() })
        }
    }

    const fn truncated(&self, wanted: usize) -> DecodeError {
        DecodeError::Truncated {
            offset: self.offset,
            needed: wanted.saturating_sub(self.rest.len()),
        }
    }
}

/// Appends a value of a fixed layout.
pub fn put<T: IntoBytes + Immutable + ?Sized>(out: &mut Vec<u8>, value: &T) {
    out.extend_from_slice(value.as_bytes());
}

/// Accepts `found` if it lies in `min..=max`.
///
/// # Errors
/// [`DecodeError::Range`] with the name of the field.
pub fn check_range(field: &'static str, found: u64, min: u64, max: u64) -> Result<(), DecodeError> {
    if (min..=max).contains(&found) {
        Ok(())
    } else {
        Err(DecodeError::Range { field, found, min, max })
    }
}

/// Accepts a count of state keys up to `max`.
///
/// # Errors
/// [`DecodeError::KeysTooMany`] with the name of what names them.
pub fn check_keys(field: &'static str, found: u32, max: u32) -> Result<(), DecodeError> {
    if found <= max { Ok(()) } else { Err(DecodeError::KeysTooMany { field, found, max }) }
}

/// Accepts reserved bytes if all are zero, so that later versions may give them a meaning.
///
/// # Errors
/// [`DecodeError::Reserved`] with the name of the field.
pub fn check_reserved(field: &'static str, bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(DecodeError::Reserved { field }) }
}

/// The length of a slice that a limit has bounded to 32 bits.
///
/// # Panics
/// If the slice is longer than `u32::MAX`: the caller's limit was not kept.
#[must_use]
pub fn length_u32<T>(items: &[T]) -> u32 {
    let length = u32::try_from(items.len());
    assert!(length.is_ok(), "a bounded collection is shorter than 2^32");
    length.unwrap_or(u32::MAX)
}

/// A 32-bit count as an index into memory.
#[must_use]
pub fn index(count: u32) -> usize {
    const _: () = assert!(usize::BITS >= 32, "hufu runs where an index holds 32 bits");
    usize::try_from(count).unwrap_or(usize::MAX)
}
