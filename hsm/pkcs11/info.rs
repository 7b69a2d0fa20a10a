//! What a library, a slot, a token, a mechanism and a session say of themselves.

use cryptoki_sys as ck;

use crate::error::TriesLeft;

/// `CK_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryInfo {
    /// Version of PKCS#11 that it says it speaks.
    pub cryptoki_version: (u8, u8),
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub description: String,
    /// Its own version.
    pub version: (u8, u8),
}

/// `CK_SLOT_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotInfo {
    /// What it is.
    pub description: String,
    /// Who made it.
    pub manufacturer: String,
    /// `CKF_TOKEN_PRESENT` and its like.
    pub flags: u64,
    /// Of the reader.
    pub hardware_version: (u8, u8),
    /// Of the reader.
    pub firmware_version: (u8, u8),
}

/// `CK_TOKEN_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Given when the token was initialised.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its serial number.
    pub serial: String,
    /// `CKF_LOGIN_REQUIRED`, `CKF_USER_PIN_LOCKED` and their like.
    pub flags: u64,
    /// Most sessions, where the token tells a number.
    pub sessions_max: Option<u64>,
    /// Most sessions that may write, where the token tells a number.
    pub write_sessions_max: Option<u64>,
    /// Bytes of a PIN, from and to.
    pub pin_bytes: (u64, u64),
    /// Of the card.
    pub hardware_version: (u8, u8),
    /// Of the card.
    pub firmware_version: (u8, u8),
}

impl TokenInfo {
    /// What the flags tell of the attempts left at the user's PIN.
    #[must_use]
    pub const fn user_tries_left(&self) -> TriesLeft {
        self.tries_left(
            ck::CKF_USER_PIN_LOCKED,
            ck::CKF_USER_PIN_FINAL_TRY,
            ck::CKF_USER_PIN_COUNT_LOW,
        )
    }

    /// What the flags tell of the attempts left at the security officer's PIN.
    #[must_use]
    pub const fn officer_tries_left(&self) -> TriesLeft {
        self.tries_left(ck::CKF_SO_PIN_LOCKED, ck::CKF_SO_PIN_FINAL_TRY, ck::CKF_SO_PIN_COUNT_LOW)
    }

    const fn tries_left(&self, locked: u64, last: u64, low: u64) -> TriesLeft {
        if self.flags & locked != 0 {
            TriesLeft::None
        } else if self.flags & last != 0 {
            TriesLeft::One
        } else if self.flags & low != 0 {
            TriesLeft::Fewer
        } else {
            TriesLeft::Unknown
        }
    }
}

/// `CK_MECHANISM_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MechanismInfo {
    /// Smallest key, in the unit of the mechanism.
    pub key_size_min: u64,
    /// Largest key.
    pub key_size_max: u64,
    /// `CKF_SIGN`, `CKF_HW` and their like.
    pub flags: u64,
}

/// `CK_SESSION_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The slot of the session.
    pub slot: u64,
    /// `CKS_RO_PUBLIC_SESSION` and its like.
    pub state: u64,
    /// `CKF_RW_SESSION` and its like.
    pub flags: u64,
    /// The device's own error code.
    pub device_error: u64,
}

impl From<&ck::CK_INFO> for LibraryInfo {
    fn from(raw: &ck::CK_INFO) -> Self {
        Self {
            cryptoki_version: version(raw.cryptokiVersion),
            manufacturer: text(&raw.manufacturerID),
            description: text(&raw.libraryDescription),
            version: version(raw.libraryVersion),
        }
    }
}

impl From<&ck::CK_SLOT_INFO> for SlotInfo {
    fn from(raw: &ck::CK_SLOT_INFO) -> Self {
        Self {
            description: text(&raw.slotDescription),
            manufacturer: text(&raw.manufacturerID),
            flags: raw.flags,
            hardware_version: version(raw.hardwareVersion),
            firmware_version: version(raw.firmwareVersion),
        }
    }
}

impl From<&ck::CK_TOKEN_INFO> for TokenInfo {
    fn from(raw: &ck::CK_TOKEN_INFO) -> Self {
        Self {
            label: text(&raw.label),
            manufacturer: text(&raw.manufacturerID),
            model: text(&raw.model),
            serial: text(&raw.serialNumber),
            flags: raw.flags,
            sessions_max: told(raw.ulMaxSessionCount),
            write_sessions_max: told(raw.ulMaxRwSessionCount),
            pin_bytes: (raw.ulMinPinLen, raw.ulMaxPinLen),
            hardware_version: version(raw.hardwareVersion),
            firmware_version: version(raw.firmwareVersion),
        }
    }
}

impl From<&ck::CK_MECHANISM_INFO> for MechanismInfo {
    fn from(raw: &ck::CK_MECHANISM_INFO) -> Self {
        Self { key_size_min: raw.ulMinKeySize, key_size_max: raw.ulMaxKeySize, flags: raw.flags }
    }
}

impl From<&ck::CK_SESSION_INFO> for SessionInfo {
    fn from(raw: &ck::CK_SESSION_INFO) -> Self {
        Self {
            slot: raw.slotID,
            state: raw.state,
            flags: raw.flags,
            device_error: raw.ulDeviceError,
        }
    }
}

const fn version(raw: ck::CK_VERSION) -> (u8, u8) {
    (raw.major, raw.minor)
}

/// A limit that is a number: neither "no limit" nor "not known".
fn told(limit: u64) -> Option<u64> {
    let is_number = limit != ck::CK_EFFECTIVELY_INFINITE && limit != ck::CK_UNAVAILABLE_INFORMATION;
    is_number.then_some(limit)
}

/// Text of a fixed field: padded with blanks by the standard, with zeroes by some. What is not
/// UTF-8 or would change a terminal is escaped.
fn text(raw: &[u8]) -> String {
    let end = raw.iter().rposition(|byte| !matches!(byte, b' ' | 0)).map_or(0, |last| last + 1);
    let raw = raw.get(..end).unwrap_or(&[]);
    let mut shown = String::new();
    for part in raw.utf8_chunks() {
        for character in part.valid().chars() {
            if character.is_control() {
                shown.extend(character.escape_default());
            } else {
                shown.push(character);
            }
        }
        part.invalid().iter().for_each(|byte| shown.push_str(&format!("\\x{byte:02x}")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_trimmed_and_cannot_change_a_terminal() {
        assert_eq!(text(b"SoftHSM project                 "), "SoftHSM project");
        assert_eq!(text(b"card\0\0\0\0"), "card");
        assert_eq!(text(b"        "), "");
        assert_eq!(text("三未信安 card  ".as_bytes()), "三未信安 card");
        assert_eq!(text(b"a\x1b[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(text(b"a\xff\xfeb"), "a\\xff\\xfeb");
    }

    #[test]
    fn limits_that_are_no_numbers_are_none() {
        assert_eq!((told(0), told(u64::MAX), told(16)), (None, None, Some(16)));
    }

    #[test]
    fn flags_tell_the_attempts_left() {
        let raw = |flags| ck::CK_TOKEN_INFO { flags, ..Default::default() };
        let of = |flags| {
            let info = TokenInfo::from(&raw(flags));
            (info.user_tries_left(), info.officer_tries_left())
        };
        assert_eq!(of(0), (TriesLeft::Unknown, TriesLeft::Unknown));
        assert_eq!(of(ck::CKF_USER_PIN_COUNT_LOW), (TriesLeft::Fewer, TriesLeft::Unknown));
        let last = ck::CKF_USER_PIN_COUNT_LOW | ck::CKF_USER_PIN_FINAL_TRY;
        assert_eq!(of(last | ck::CKF_SO_PIN_LOCKED), (TriesLeft::One, TriesLeft::None));
        assert_eq!(of(last | ck::CKF_USER_PIN_LOCKED), (TriesLeft::None, TriesLeft::Unknown));
    }
}
