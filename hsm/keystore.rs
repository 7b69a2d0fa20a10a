//! The seam: what hufu asks of keys that live in a card.
//!
//! A [`Keystore`] is a card, several cards with the same key, or an agent process in front of them.
//! A call blocks until the answer is there, the deadline has passed, or it is certain that there
//! will be none; a tile that must not wait gives its calls to threads of its own. What a card
//! says is never believed: public keys are checked to be points of the curve, signatures are
//! verified in software before they leave this crate.

use hufu_crypto::{Digest, PublicKey, Signature};
use hufu_runtime::clock::Nanos;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::pool::CardReport;

/// How a configuration names a key in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyReference {
    /// `CKA_LABEL`, exactly.
    Label(String),
    /// `CKA_ID`, exactly.
    Id(Vec<u8>),
    /// The number of a key container, where a vendor's tokens are filled by number; its profile
    /// says how the number becomes an attribute.
    Index(u32),
}

impl core::fmt::Display for KeyReference {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Label(label) => write!(formatter, "label {label:?}"),
            Self::Id(id) => {
                formatter.write_str("id ")?;
                id.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
            Self::Index(index) => write!(formatter, "index {index}"),
        }
    }
}

/// What a key is for. A key of the one use is refused for the other (GM/T 0054: separate pairs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// An SM2 pair that signs.
    Sign,
    /// An SM2 pair that decrypts.
    Decrypt,
    /// An SM4 key that wraps data keys.
    Wrap,
}

/// A key opened in a [`Keystore`]: a number that stays good while the keystore lives, through
/// reconnections, reloads of the library and restarts of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHandle(pub u32);

/// Which card this is. A change of any field between two loads is noticed and refused until it is
/// acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardIdentity {
    /// `CK_INFO.manufacturerID` of the library.
    pub library_manufacturer: String,
    /// `CK_INFO.libraryVersion`, major and minor.
    pub library_version: (u8, u8),
    /// `CK_TOKEN_INFO.label`.
    pub token_label: String,
    /// `CK_TOKEN_INFO.manufacturerID`.
    pub token_manufacturer: String,
    /// `CK_TOKEN_INFO.model`.
    pub token_model: String,
    /// `CK_TOKEN_INFO.serialNumber`.
    pub token_serial: String,
    /// `CK_TOKEN_INFO.firmwareVersion`, major and minor.
    pub firmware_version: (u8, u8),
    /// `CK_TOKEN_INFO.hardwareVersion`, major and minor.
    pub hardware_version: (u8, u8),
}

/// Most digests of one call of [`Keystore::sign_sm2`], count.
pub const SIGN_MANY_MAX: usize = 64;

/// Most bytes of one call of [`Keystore::random`].
pub const BULK_BYTES_MAX: usize = 4_096;

/// Bytes of a wrapped data key at most.
pub const WRAPPED_BYTES_MAX: usize = 256;

/// Keys in a card, in this process or behind an agent. Shared between threads; several calls run
/// at once on as many sessions as the pool has.
///
/// `deadline` is on the monotonic clock of `runtime`. A call that cannot be finished by then gives
/// [`Error::Deadline`]; a library's own call that hangs cannot be cut short in the same process,
/// which is one of the reasons for the agent.
pub trait Keystore: Send + Sync {
    /// The card that answers; of a group, the first that is in service.
    ///
    /// # Errors
    /// If no card answers in time.
    fn identity(&self, deadline: Nanos) -> Result<CardIdentity, Error>;

    /// Finds the key, checks that it is alone, of the right kind and fit for `usage`, and gives it
    /// a number.
    ///
    /// # Errors
    /// [`Error::KeyMissing`], [`Error::KeyAmbiguous`], [`Error::KeyUnsuitable`], or what keeps the
    /// card from answering.
    fn open_key(
        &self,
        key: &KeyReference,
        usage: Usage,
        deadline: Nanos,
    ) -> Result<KeyHandle, Error>;

    /// The public key of an SM2 pair, checked to be on the curve.
    ///
    /// # Errors
    /// If the handle is none of this keystore, or of a key without a public one.
    fn public_key(&self, key: KeyHandle) -> Result<PublicKey, Error>;

    /// `signatures[i]` becomes an SM2 signature of the digest e `digests[i]`, verified in software.
    ///
    /// # Errors
    /// What the card said, by class; then none of the signatures may be used.
    ///
    /// # Panics
    /// If the slices differ in length or hold more than [`SIGN_MANY_MAX`].
    fn sign_sm2(
        &self,
        key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        deadline: Nanos,
    ) -> Result<(), Error>;

    /// The plaintext of `C1 || C3 || C2` (GB/T 32918.4-2016), written to `plaintext`; its length.
    ///
    /// # Errors
    /// [`Error::Refused`] where the ciphertext is not one for this key.
    fn sm2_decrypt(
        &self,
        key: KeyHandle,
        ciphertext: &[u8],
        plaintext: &mut [u8],
        deadline: Nanos,
    ) -> Result<usize, Error>;

    /// Encrypts a 32-byte secret under the card's key, with integrity; the length written to
    /// `wrapped`, [`WRAPPED_BYTES_MAX`] at most. The form is the profile's and carries its name.
    ///
    /// # Errors
    /// What the card said.
    fn wrap(
        &self,
        key: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        deadline: Nanos,
    ) -> Result<usize, Error>;

    /// What [`Keystore::wrap`] wrapped.
    ///
    /// # Errors
    /// [`Error::Refused`] where it was wrapped by another key, or changed.
    fn unwrap(
        &self,
        key: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        deadline: Nanos,
    ) -> Result<(), Error>;

    /// Fills `bytes`, [`BULK_BYTES_MAX`] at most, from the card's generator.
    ///
    /// # Errors
    /// What the card said.
    fn random(&self, bytes: &mut [u8], deadline: Nanos) -> Result<(), Error>;

    /// What it counts, where one card is behind it and has said so.
    fn report(&self) -> Option<CardReport> {
        None
    }

    /// Uses sessions that would be closed for being idle, where the card closes such sessions.
    /// Asked for often by whoever has a thread that may wait; costs nothing while nothing is due.
    fn tend(&self) {}
}
