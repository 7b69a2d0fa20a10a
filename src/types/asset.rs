//! The code that names an asset.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Name of an asset: 1 to 16 characters of `A-Z 0-9 . -`, then zero bytes. Room for an ISIN, a
/// currency or a ticker.
///
/// A value read in place from bytes may hold anything; [`AssetCode::is_canonical`] is checked by
/// whoever decodes.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct AssetCode(pub [u8; 16]);

impl AssetCode {
    /// The code with this text, or `None` if the text is no asset code.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut code = [0; 16];
        code.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        let code = Self(code);
        (code.is_canonical() && code.text_length() == text.len()).then_some(code)
    }

    /// Whether the bytes are the one encoding of a code.
    #[must_use]
    pub fn is_canonical(&self) -> bool {
        let length = self.text_length();
        let allowed = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-');
        length > 0
            && self.0.iter().take(length).all(allowed)
            && self.0.iter().skip(length).all(|&byte| byte == 0)
    }

    fn text_length(&self) -> usize {
        self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len())
    }
}

impl fmt::Display for AssetCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.iter().take(self.text_length());
        formatter.write_str(&String::from_utf8_lossy(&text.copied().collect::<Vec<u8>>()))
    }
}

impl fmt::Debug for AssetCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_one_encoding() {
        for good in ["A", "USD", "US0378331005", "ABCDEFGHIJKLMNOP", "A.B-C"] {
            assert_eq!(AssetCode::new(good).unwrap().to_string(), good);
        }
        for bad in ["", "usd", "A B", "ABCDEFGHIJKLMNOPQ", "A\0", "Ä"] {
            assert_eq!(AssetCode::new(bad), None, "{bad:?}");
        }
        let mut hole = AssetCode::new("USD").unwrap();
        hole.0[5] = b'X';
        assert!(!hole.is_canonical());
    }
}
