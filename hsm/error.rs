//! What can go wrong with a card, and what to do about it.
//!
//! Every error answers three questions: its [`ErrorClass`] says what this crate does next, the
//! variant says what happened, the message says what an operator does. None carries a PIN, a key or
//! what was to be signed.

use core::fmt;
use std::path::PathBuf;

use crate::keystore::KeyReference;

/// What follows from an error. The pool acts on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The session is gone or out of step: close it, open another, try again a few times.
    Session,
    /// Nobody is logged in any more: log in once more with the PIN that worked before.
    Login,
    /// The token or the device is gone: finalise, reload the library, wait for it to come back.
    TokenLost,
    /// The card has no room for this now: back off, then try again within the deadline.
    Throttled,
    /// Trying again cannot help, or must not happen: a wrong PIN is one attempt fewer.
    Permanent,
}

impl ErrorClass {
    /// All classes.
    pub const ALL: [Self; 5] =
        [Self::Session, Self::Login, Self::TokenLost, Self::Throttled, Self::Permanent];

    /// For metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Login => "login",
            Self::TokenLost => "token_lost",
            Self::Throttled => "throttled",
            Self::Permanent => "permanent",
        }
    }
}

/// A return value of a PKCS#11 function, shown by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rv(pub u64);

/// Why a card did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The library is not there, or the system cannot load it.
    #[error("PKCS#11 library {} cannot be loaded: {cause}", path.display())]
    LibraryLoad {
        /// Where it was looked for.
        path: PathBuf,
        /// What the dynamic linker said: missing, wrong architecture, a missing dependency.
        cause: String,
    },
    /// It loads, and is no PKCS#11 library that can be used.
    #[error("{} is no usable PKCS#11 library: {reason}", path.display())]
    LibraryUnusable {
        /// The library.
        path: PathBuf,
        /// A missing symbol, an empty function list, a version that is not 2.20 to 3.x.
        reason: String,
    },
    /// A function of the library failed.
    #[error("{function} gave {rv}")]
    Call {
        /// Its name in PKCS#11.
        function: &'static str,
        /// What it returned.
        rv: Rv,
        /// What follows, by PKCS#11's meaning or the card's profile.
        class: ErrorClass,
    },
    /// The token refused the PIN. It was tried once and is not tried again.
    #[error(
        "the token refused the PIN ({rv}){}: it was tried once and is not tried again",
        left(.tries_left)
    )]
    PinRefused {
        /// What `C_Login` returned.
        rv: Rv,
        /// What the token tells of the attempts that are left.
        tries_left: TriesLeft,
    },
    /// The agent ended, or had to be ended, while it tried a PIN that had not worked before. Some
    /// libraries crash or hang where they mean "wrong PIN", and each new agent is one more attempt.
    #[error("the card's agent gave no answer about the PIN ({reason}): it is not tried again")]
    PinUnanswered {
        /// How the agent ended.
        reason: String,
    },
    /// The PIN cannot be had from where the configuration says.
    #[error("the PIN cannot be read from {source_name}: {reason}")]
    PinUnreadable {
        /// File, descriptor or credential, by its name; never its content.
        source_name: String,
        /// Missing, empty, too long, or others may read it.
        reason: String,
    },
    /// No slot, or none that fits the configuration.
    #[error("no token fits {wanted}; found: {found}")]
    TokenMissing {
        /// The slot, serial or label that is asked for.
        wanted: String,
        /// What is there instead, one line.
        found: String,
    },
    /// The card is not the one that was there before.
    #[error("the card changed: {field} was {before:?}, is {after:?}; acknowledge it to go on")]
    CardChanged {
        /// Serial, firmware and so on.
        field: &'static str,
        /// Acknowledged before.
        before: String,
        /// Found now.
        after: String,
    },
    /// The file that says which card was there last cannot be used.
    #[error("{}, which says which card is the right one: {reason}", path.display())]
    IdentityFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No profile is known for this library and token, or the one asked for is not for them.
    #[error("profile {profile:?} does not fit this card: {reason}")]
    ProfileMismatch {
        /// Name of the profile, or "none".
        profile: String,
        /// Which of its conditions does not hold, with what was found.
        reason: String,
    },
    /// A profile cannot be read.
    #[error("profile {name}: {reason}")]
    ProfileInvalid {
        /// File or name.
        name: String,
        /// Which key, and what is wrong with it.
        reason: String,
    },
    /// The card does not do what its profile says; it is not used.
    #[error("the card fails the probe of profile {profile:?} at {step}: {reason}")]
    ProbeFailed {
        /// Name of the profile.
        profile: String,
        /// What was tried.
        step: String,
        /// What came back.
        reason: String,
    },
    /// No key by this name.
    #[error("no key with {key} on the token")]
    KeyMissing {
        /// How it was asked for.
        key: KeyReference,
    },
    /// More than one key by this name.
    #[error("{count} keys with {key} on the token: a name must tell one key")]
    KeyAmbiguous {
        /// How it was asked for.
        key: KeyReference,
        /// How many.
        count: usize,
    },
    /// A key that is there and must not be used for this.
    #[error("the key with {key} is not suitable: {reason}")]
    KeyUnsuitable {
        /// How it was asked for.
        key: KeyReference,
        /// Extractable, not sensitive, of another kind, without the usage.
        reason: String,
    },
    /// A number that names no open key of this keystore.
    #[error("key handle {0} is none of this keystore")]
    HandleUnknown(u32),
    /// What the card answered has not the form it should have.
    #[error("{what} from the card is malformed: {reason}")]
    AnswerMalformed {
        /// Signature, public key, wrapped key.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A signature that its own public key does not accept. The card is taken out of service.
    #[error("the card gave a signature that does not verify")]
    SignatureWrong,
    /// What the caller handed in is not for this key: a ciphertext, a wrapped secret.
    #[error("{what} was refused: {reason}")]
    Refused {
        /// What was handed in.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The answer was not there in time.
    #[error("no answer within the deadline ({stage})")]
    Deadline {
        /// Waiting for a session, inside the library, or for the agent.
        stage: &'static str,
    },
    /// More calls wait than the configuration allows.
    #[error("{waiting_count} calls wait for a session already")]
    QueueFull {
        /// How many.
        waiting_count: usize,
    },
    /// The card failed too often lately and is given a rest.
    #[error("the card rests after {failures_count} failures: {last}")]
    CircuitOpen {
        /// In a row.
        failures_count: u32,
        /// The last of them.
        last: String,
    },
    /// The agent process ended, hangs, or cannot be started.
    #[error("HSM agent: {reason}")]
    Agent {
        /// What happened to it.
        reason: String,
    },
    /// The other end of the agent's memory wrote what no agent of ours writes.
    #[error("HSM agent broke the protocol: {reason}")]
    AgentProtocol {
        /// Which field.
        reason: String,
    },
}

/// What a token tells of the attempts at its PIN (`CKF_USER_PIN_COUNT_LOW` and its like).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriesLeft {
    /// It tells nothing.
    Unknown,
    /// Fewer than before.
    Fewer,
    /// One.
    One,
    /// None: it is locked.
    None,
}

/// For the message of [`Error::PinRefused`].
const fn left(tries: &TriesLeft) -> &'static str {
    match tries {
        TriesLeft::Unknown => "",
        TriesLeft::Fewer => ", the token warns of few attempts left",
        TriesLeft::One => ", ONE attempt is left before it locks",
        TriesLeft::None => ", it is LOCKED now",
    }
}

impl Error {
    /// What follows from it.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Call { class, .. } => *class,
            Self::Deadline { .. } | Self::QueueFull { .. } => ErrorClass::Throttled,
            // An agent that broke the protocol has been ended, and another one comes.
            Self::CircuitOpen { .. } | Self::Agent { .. } | Self::AgentProtocol { .. } => {
                ErrorClass::TokenLost
            }
            Self::LibraryLoad { .. }
            | Self::LibraryUnusable { .. }
            | Self::PinRefused { .. }
            | Self::PinUnanswered { .. }
            | Self::PinUnreadable { .. }
            | Self::TokenMissing { .. }
            | Self::CardChanged { .. }
            | Self::IdentityFile { .. }
            | Self::ProfileMismatch { .. }
            | Self::ProfileInvalid { .. }
            | Self::ProbeFailed { .. }
            | Self::KeyMissing { .. }
            | Self::KeyAmbiguous { .. }
            | Self::KeyUnsuitable { .. }
            | Self::HandleUnknown(_)
            | Self::AnswerMalformed { .. }
            | Self::SignatureWrong
            | Self::Refused { .. } => ErrorClass::Permanent,
        }
    }
}

/// Names of return values (PKCS#11 3.1, 5.1), with the class each has where no profile says more.
const RETURN_VALUES: &[(u64, &str, ErrorClass)] = {
    use ErrorClass::{Login, Permanent, Session, Throttled, TokenLost};
    &[
        (0x00, "CKR_OK", Permanent),
        (0x01, "CKR_CANCEL", Permanent),
        (0x02, "CKR_HOST_MEMORY", Throttled),
        (0x03, "CKR_SLOT_ID_INVALID", TokenLost),
        (0x05, "CKR_GENERAL_ERROR", TokenLost),
        (0x06, "CKR_FUNCTION_FAILED", Session),
        (0x07, "CKR_ARGUMENTS_BAD", Permanent),
        (0x08, "CKR_NO_EVENT", Permanent),
        (0x09, "CKR_NEED_TO_CREATE_THREADS", Permanent),
        (0x0a, "CKR_CANT_LOCK", Permanent),
        (0x10, "CKR_ATTRIBUTE_READ_ONLY", Permanent),
        (0x11, "CKR_ATTRIBUTE_SENSITIVE", Permanent),
        (0x12, "CKR_ATTRIBUTE_TYPE_INVALID", Permanent),
        (0x13, "CKR_ATTRIBUTE_VALUE_INVALID", Permanent),
        (0x1b, "CKR_ACTION_PROHIBITED", Permanent),
        (0x20, "CKR_DATA_INVALID", Permanent),
        (0x21, "CKR_DATA_LEN_RANGE", Permanent),
        (0x30, "CKR_DEVICE_ERROR", TokenLost),
        (0x31, "CKR_DEVICE_MEMORY", Throttled),
        (0x32, "CKR_DEVICE_REMOVED", TokenLost),
        (0x40, "CKR_ENCRYPTED_DATA_INVALID", Permanent),
        (0x41, "CKR_ENCRYPTED_DATA_LEN_RANGE", Permanent),
        (0x50, "CKR_FUNCTION_CANCELED", Session),
        (0x51, "CKR_FUNCTION_NOT_PARALLEL", Permanent),
        (0x54, "CKR_FUNCTION_NOT_SUPPORTED", Permanent),
        (0x60, "CKR_KEY_HANDLE_INVALID", Session),
        (0x62, "CKR_KEY_SIZE_RANGE", Permanent),
        (0x63, "CKR_KEY_TYPE_INCONSISTENT", Permanent),
        (0x68, "CKR_KEY_FUNCTION_NOT_PERMITTED", Permanent),
        (0x69, "CKR_KEY_NOT_WRAPPABLE", Permanent),
        (0x6a, "CKR_KEY_UNEXTRACTABLE", Permanent),
        (0x70, "CKR_MECHANISM_INVALID", Permanent),
        (0x71, "CKR_MECHANISM_PARAM_INVALID", Permanent),
        (0x82, "CKR_OBJECT_HANDLE_INVALID", Session),
        (0x90, "CKR_OPERATION_ACTIVE", Session),
        (0x91, "CKR_OPERATION_NOT_INITIALIZED", Session),
        (0xa0, "CKR_PIN_INCORRECT", Permanent),
        (0xa1, "CKR_PIN_INVALID", Permanent),
        (0xa2, "CKR_PIN_LEN_RANGE", Permanent),
        (0xa3, "CKR_PIN_EXPIRED", Permanent),
        (0xa4, "CKR_PIN_LOCKED", Permanent),
        (0xb0, "CKR_SESSION_CLOSED", Session),
        (0xb1, "CKR_SESSION_COUNT", Throttled),
        (0xb3, "CKR_SESSION_HANDLE_INVALID", Session),
        (0xb4, "CKR_SESSION_PARALLEL_NOT_SUPPORTED", Permanent),
        (0xb5, "CKR_SESSION_READ_ONLY", Permanent),
        (0xb6, "CKR_SESSION_EXISTS", Permanent),
        (0xb7, "CKR_SESSION_READ_ONLY_EXISTS", Permanent),
        (0xb8, "CKR_SESSION_READ_WRITE_SO_EXISTS", Permanent),
        (0xc0, "CKR_SIGNATURE_INVALID", Permanent),
        (0xc1, "CKR_SIGNATURE_LEN_RANGE", Permanent),
        (0xd0, "CKR_TEMPLATE_INCOMPLETE", Permanent),
        (0xd1, "CKR_TEMPLATE_INCONSISTENT", Permanent),
        (0xe0, "CKR_TOKEN_NOT_PRESENT", TokenLost),
        (0xe1, "CKR_TOKEN_NOT_RECOGNIZED", TokenLost),
        (0xe2, "CKR_TOKEN_WRITE_PROTECTED", Permanent),
        (0xf0, "CKR_UNWRAPPING_KEY_HANDLE_INVALID", Session),
        (0xf1, "CKR_UNWRAPPING_KEY_SIZE_RANGE", Permanent),
        (0xf2, "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT", Permanent),
        (0x100, "CKR_USER_ALREADY_LOGGED_IN", Permanent),
        (0x101, "CKR_USER_NOT_LOGGED_IN", Login),
        (0x102, "CKR_USER_PIN_NOT_INITIALIZED", Permanent),
        (0x103, "CKR_USER_TYPE_INVALID", Permanent),
        (0x104, "CKR_USER_ANOTHER_ALREADY_LOGGED_IN", Permanent),
        (0x105, "CKR_USER_TOO_MANY_TYPES", Permanent),
        (0x110, "CKR_WRAPPED_KEY_INVALID", Permanent),
        (0x112, "CKR_WRAPPED_KEY_LEN_RANGE", Permanent),
        (0x113, "CKR_WRAPPING_KEY_HANDLE_INVALID", Session),
        (0x114, "CKR_WRAPPING_KEY_SIZE_RANGE", Permanent),
        (0x115, "CKR_WRAPPING_KEY_TYPE_INCONSISTENT", Permanent),
        (0x120, "CKR_RANDOM_SEED_NOT_SUPPORTED", Permanent),
        (0x121, "CKR_RANDOM_NO_RNG", Permanent),
        (0x130, "CKR_DOMAIN_PARAMS_INVALID", Permanent),
        (0x140, "CKR_CURVE_NOT_SUPPORTED", Permanent),
        (0x150, "CKR_BUFFER_TOO_SMALL", Permanent),
        (0x160, "CKR_SAVED_STATE_INVALID", Permanent),
        (0x170, "CKR_INFORMATION_SENSITIVE", Permanent),
        (0x180, "CKR_STATE_UNSAVEABLE", Permanent),
        (0x190, "CKR_CRYPTOKI_NOT_INITIALIZED", TokenLost),
        (0x191, "CKR_CRYPTOKI_ALREADY_INITIALIZED", Permanent),
        (0x1a0, "CKR_MUTEX_BAD", Permanent),
        (0x1a1, "CKR_MUTEX_NOT_LOCKED", Permanent),
        (0x1b0, "CKR_NEW_PIN_MODE", Permanent),
        (0x1b1, "CKR_NEXT_OTP", Permanent),
        (0x1b5, "CKR_EXCEEDED_MAX_ITERATIONS", Permanent),
        (0x1b6, "CKR_FIPS_SELF_TEST_FAILED", Permanent),
        (0x1b7, "CKR_LIBRARY_LOAD_FAILED", Permanent),
        (0x1b8, "CKR_PIN_TOO_WEAK", Permanent),
        (0x1b9, "CKR_PUBLIC_KEY_INVALID", Permanent),
        (0x200, "CKR_FUNCTION_REJECTED", Permanent),
        (0x201, "CKR_TOKEN_RESOURCE_EXCEEDED", Throttled),
        (0x202, "CKR_OPERATION_CANCEL_FAILED", Session),
        (0x203, "CKR_KEY_EXHAUSTED", Permanent),
    ]
};

impl Rv {
    /// `CKR_OK`.
    pub const OK: Self = Self(0);

    /// Its name, if PKCS#11 gives it one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|(_, name, _)| *name)
    }

    /// What follows from it where no profile says more; a value that PKCS#11 does not name is taken
    /// for lasting.
    #[must_use]
    pub fn class(self) -> ErrorClass {
        self.row().map_or(ErrorClass::Permanent, |(_, _, class)| *class)
    }

    fn row(self) -> Option<&'static (u64, &'static str, ErrorClass)> {
        RETURN_VALUES.iter().find(|(value, _, _)| *value == self.0)
    }
}

impl fmt::Display for Rv {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(formatter, "{name} ({:#x})", self.0),
            None if self.0 & 0x8000_0000 != 0 => write!(formatter, "the vendor's {:#x}", self.0),
            None => write!(formatter, "{:#x}, which PKCS#11 does not name", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn return_values_are_in_order_and_named_once() {
        assert!(RETURN_VALUES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (value, name, class) in RETURN_VALUES {
            assert_eq!((Rv(*value).name(), Rv(*value).class()), (Some(*name), *class));
        }
        assert_eq!(Rv(0xa0).to_string(), "CKR_PIN_INCORRECT (0xa0)");
        assert_eq!(Rv(0x8000_0105).to_string(), "the vendor's 0x80000105");
        assert_eq!(Rv(0x7777).class(), ErrorClass::Permanent);
    }

    #[test]
    fn nothing_about_a_pin_is_ever_tried_again() {
        for (value, name, class) in RETURN_VALUES {
            if name.starts_with("CKR_PIN") || name.contains("_PIN_") {
                assert_eq!(*class, ErrorClass::Permanent, "{name} ({value:#x})");
            }
        }
        let refused = Error::PinRefused { rv: Rv(0xa0), tries_left: TriesLeft::One };
        assert_eq!(refused.class(), ErrorClass::Permanent);
        assert!(refused.to_string().contains("ONE attempt"), "{refused}");
    }
}
