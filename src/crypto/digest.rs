//! SM3 digests (GB/T 32905-2016): the value type and the streaming hasher.
//!
//! Everyone who hashes goes through here, so that one place decides which code computes SM3.

use core::fmt;

use hufu_kernels::sm3;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 32-byte SM3 digest (GB/T 32905-2016 5.4).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Thirty-two zero bytes: stands for "nothing", such as the parent of the first block.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest as bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads 64 hexadecimal digits, with or without `0x`.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        decode_hex(text, &mut bytes)?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(formatter, &self.0)
    }
}

/// Streaming SM3 (GB/T 32905-2016): `new`, any number of `update`, `finish`.
#[derive(Clone, Default)]
pub struct Sm3(sm3::Sm3);

impl Sm3 {
    /// A hasher that has seen no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes` to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes seen.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest(self.0.finish())
    }

    /// The digest of all bytes seen; leaves nothing of them.
    pub(crate) fn finish_and_wipe(&mut self) -> Digest {
        Digest(core::mem::take(&mut self.0).finish())
    }

    /// Forgets all bytes seen, and overwrites what was kept of them.
    pub(crate) fn wipe(&mut self) {
        self.0.wipe();
    }

    /// The digest of the parts, one after the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Digest {
        let mut hasher = Self::new();
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn write_hex(formatter: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
}

/// Reads exactly `2 * out.len()` hexadecimal digits, with or without `0x`; `None` for anything
/// else.
pub fn decode_hex(text: &str, out: &mut [u8]) -> Option<()> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    if digits.len() != out.len().checked_mul(2)? {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = (hex_value(high)? << 4) | hex_value(low)?;
    }
    Some(())
}

const fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GB/T 32905-2016 annex A.1 and A.2.
    #[test]
    fn sm3_equals_the_examples_of_the_standard() {
        let abc = "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0";
        assert_eq!(Sm3::of(&[b"abc"]).to_string(), abc);
        let long = "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732";
        assert_eq!(Sm3::of(&[&b"abcd".repeat(16)]).to_string(), long);
        assert_eq!(Sm3::of(&[b"a", b"", b"bc"]).to_string(), abc, "parts are concatenated");
    }

    #[test]
    fn hexadecimal_is_strict_about_length_and_digits() {
        let digest = Sm3::of(&[b"abc"]);
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex(&format!("0x{digest}")), Some(digest));
        assert_eq!(Digest::from_hex("66"), None);
        assert_eq!(Digest::from_hex(&"g".repeat(64)), None);
    }
}
