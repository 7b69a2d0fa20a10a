//! `pkcs11:` URIs (RFC 7512), by which configurations and command lines name keys in cards.
//!
//! ```text
//! pkcs11:object=vote            the key with this label
//! pkcs11:id=%01%02              the key with this CKA_ID
//! pkcs11:x-index=3              the third container, where a vendor counts keys
//! pkcs11:token=hufu;object=vote the same, on a token of this label only
//! ```
//!
//! Of RFC 7512's attributes those are read that say which key and which token. A PIN in a URI
//! (`pin-value`, `pin-source`) is refused: PINs come from the card's own file.

use crate::keystore::KeyReference;

/// A key, and the token it should be on if the URI says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUri {
    /// The key.
    pub key: KeyReference,
    /// `CK_TOKEN_INFO.label`.
    pub token: Option<String>,
}

/// What is wrong with a URI. It shows no value, since somebody may have put a PIN there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Another scheme.
    #[error("it does not begin with \"pkcs11:\"")]
    Scheme,
    /// An attribute without a value or name, or with one that is not encoded as it should be.
    #[error("attribute {0:?} is not written as RFC 7512 says")]
    Attribute(String),
    /// An attribute that comes twice.
    #[error("attribute {0:?} comes twice")]
    Twice(String),
    /// A PIN.
    #[error("{0:?} does not belong here: the PIN comes from where the card's file says")]
    Pin(String),
    /// An attribute that is not read here.
    #[error("attribute {0:?} is not known; known are object, id, x-index, token and type")]
    Unknown(String),
    /// No key, or more than one way to name it.
    #[error("it names the key by {0} of object, id and x-index; there must be one")]
    Key(usize),
}

/// Whether a text is meant to be such a URI.
#[must_use]
pub fn is_uri(text: &str) -> bool {
    text.starts_with("pkcs11:")
}

impl core::fmt::Display for KeyUri {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("pkcs11:")?;
        if let Some(token) = &self.token {
            formatter.write_str("token=")?;
            encode(formatter, token.as_bytes())?;
            formatter.write_str(";")?;
        }
        match &self.key {
            KeyReference::Label(label) => {
                formatter.write_str("object=")?;
                encode(formatter, label.as_bytes())
            }
            KeyReference::Id(id) => {
                formatter.write_str("id=")?;
                id.iter().try_for_each(|byte| write!(formatter, "%{byte:02X}"))
            }
            KeyReference::Index(index) => write!(formatter, "x-index={index}"),
        }
    }
}

/// Letters, digits and what RFC 3986 leaves alone as they are, the rest percent-encoded.
fn encode(formatter: &mut core::fmt::Formatter<'_>, bytes: &[u8]) -> core::fmt::Result {
    bytes.iter().try_for_each(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            write!(formatter, "{}", char::from(*byte))
        }
        other => write!(formatter, "%{other:02X}"),
    })
}

impl core::str::FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = text.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if let Some((name, _)) = query.split('&').find_map(|part| part.split_once('=')) {
            return Err(if name.starts_with("pin-") {
                UriError::Pin(name.to_owned())
            } else {
                UriError::Unknown(name.to_owned())
            });
        }
        let mut keys = Vec::new();
        let mut token = None;
        let mut seen: Vec<&str> = Vec::new();
        for attribute in path.split(';').filter(|part| !part.is_empty()) {
            let (name, value) =
                attribute.split_once('=').ok_or_else(|| UriError::Attribute(shown(attribute)))?;
            if seen.contains(&name) {
                return Err(UriError::Twice(name.to_owned()));
            }
            seen.push(name);
            let malformed = || UriError::Attribute(name.to_owned());
            let bytes = decode(value).filter(|bytes| !bytes.is_empty()).ok_or_else(malformed)?;
            let utf8 = || String::from_utf8(bytes.clone()).map_err(|_| malformed());
            match name {
                "object" => keys.push(KeyReference::Label(utf8()?)),
                "id" => keys.push(KeyReference::Id(bytes)),
                "x-index" => {
                    let index = utf8()?.parse().map_err(|_| malformed())?;
                    keys.push(KeyReference::Index(index));
                }
                "token" => token = Some(utf8()?),
                // A pair is named by either of its halves.
                "type" if ["private", "public", "secret-key"].contains(&utf8()?.as_str()) => {}
                "type" => return Err(malformed()),
                pin if pin.starts_with("pin-") => return Err(UriError::Pin(name.to_owned())),
                _ => return Err(UriError::Unknown(shown(name))),
            }
        }
        let count = keys.len();
        match keys.pop().filter(|_| count == 1) {
            Some(key) => Ok(Self { key, token }),
            None => Err(UriError::Key(count)),
        }
    }
}

/// The first characters of what may be anything.
fn shown(text: &str) -> String {
    text.chars().take(16).collect()
}

/// Percent-encoded bytes; `None` where the encoding is broken.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_first_chunk::<2>()?;
        let digits = core::str::from_utf8(digits).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_label_id_or_index() {
        let key = |text: &str| text.parse::<KeyUri>().unwrap();
        assert_eq!(key("pkcs11:object=vote").key, KeyReference::Label("vote".to_owned()));
        assert_eq!(key("pkcs11:id=%01%fFa").key, KeyReference::Id(vec![1, 255, b'a']));
        assert_eq!(key("pkcs11:x-index=3").key, KeyReference::Index(3));
        let both = key("pkcs11:token=my%20card;object=%E7%A5%A8;type=private");
        assert_eq!(both.token.as_deref(), Some("my card"));
        assert_eq!(both.key, KeyReference::Label("票".to_owned()));
        for text in ["pkcs11:object=vote", "pkcs11:id=%01%FFa", "pkcs11:x-index=3"] {
            assert_eq!(key(&key(text).to_string()), key(text));
        }
        assert_eq!(key(&both.to_string()), both);
        assert!(is_uri("pkcs11:object=vote") && !is_uri("vote.pem"));
    }

    #[test]
    fn what_names_no_key_or_brings_a_pin_is_refused_without_showing_it() {
        let cases = [
            ("file:vote.pem", "pkcs11:"),
            ("pkcs11:", "by 0 of"),
            ("pkcs11:token=a", "by 0 of"),
            ("pkcs11:object=a;id=%01", "by 2 of"),
            ("pkcs11:object=a;object=b", "twice"),
            ("pkcs11:object", "RFC 7512"),
            ("pkcs11:object=", "RFC 7512"),
            ("pkcs11:id=%0", "RFC 7512"),
            ("pkcs11:id=%+1", "RFC 7512"),
            ("pkcs11:object=%ff", "RFC 7512"),
            ("pkcs11:x-index=-1", "RFC 7512"),
            ("pkcs11:object=a;type=cert", "RFC 7512"),
            ("pkcs11:object=a;colour=red", "colour"),
            ("pkcs11:object=a?pin-value=123456", "pin-value"),
            ("pkcs11:object=a;pin-value=123456", "pin-value"),
            ("pkcs11:object=a?module-path=x", "module-path"),
        ];
        for (text, reason) in cases {
            let refused = text.parse::<KeyUri>().unwrap_err().to_string();
            assert!(refused.contains(reason) && !refused.contains("123456"), "{text}: {refused}");
        }
    }
}
