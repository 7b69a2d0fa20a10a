//! Cloned keys: a copy of a card's key that leaves it, in pieces, and comes into another card.
//!
//! ```text
//! export   fresh secret --derive--> transport key --as the officer--> card: wraps the key
//!             `--split m of n--> shares, each sealed to a custodian  `--> the wrapped key, a file
//! import   m custodians open their shares --join--> secret --derive--> transport key --> card
//!             the wrapped key --unwrapped in the card--> the same public key? --> done
//! ```
//!
//! The key itself is in no memory of this host, at neither end. The secret is, for the moment of
//! the ceremony, since no card gives out a key that was made in it and few take shares in;
//! `decisions/0012-cloned-keys.md` says what that gives up. Whoever holds `needed` shares and the
//! wrapped key holds the key; whoever holds less holds nothing.

mod hex;
mod package;
mod passphrase;
mod share;
mod transport;

pub use package::WrappedKey;
pub use share::{Custodian, Opener, ShareFile};
pub use transport::{Ceremony, Order};

use hufu_crypto::shamir::{self, ShamirError};
use hufu_crypto::{Digest, PublicKey, Sm3, hkdf};
use zeroize::Zeroizing;

use crate::KeyReference;

/// Custodians of one export at most, count.
pub const CUSTODIANS_MAX: usize = 32;

/// Bytes of a file of an export at most.
pub const FILE_BYTES_MAX: usize = 32 << 10;

/// Bytes of the secret that is split.
const SECRET_BYTES: usize = 32;

/// What an export is told apart by: sixteen random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportId([u8; 16]);

impl core::fmt::Display for ExportId {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(&hex::encode(&self.0))
    }
}

/// What every file of one export says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which export.
    pub export: ExportId,
    /// What the key was called on its card.
    pub key: String,
    /// Its public key, of a pair.
    pub public: Option<PublicKey>,
    /// Shares that give the key back, count.
    pub needed: u8,
    /// Shares there are, count.
    pub count: u8,
}

impl Facts {
    /// One encoding, for digests.
    fn update(&self, hasher: &mut Sm3) {
        hasher.update(&self.export.0);
        hasher.update(&(self.key.len() as u64).to_le_bytes());
        hasher.update(self.key.as_bytes());
        hasher.update(&[u8::from(self.public.is_some()), self.needed, self.count]);
        if let Some(public) = &self.public {
            hasher.update(&public.0);
        }
    }
}

/// Why a key is not exported or not imported. None carries a share, a passphrase or a key.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The card, its login or its key.
    #[error(transparent)]
    Card(#[from] crate::Error),
    /// The software's own cryptography.
    #[error(transparent)]
    Crypto(#[from] hufu_crypto::Error),
    /// The counts make no sense, or there are not enough shares, or one twice.
    #[error(transparent)]
    Shares(#[from] ShamirError),
    /// More custodians than anybody can bring together.
    #[error("{count} custodians, {CUSTODIANS_MAX} at most")]
    Custodians {
        /// How many.
        count: usize,
    },
    /// One custodian with two shares is two custodians fewer who must agree.
    #[error("one custodian is there twice, with the key {key}: each has one share")]
    SameCustodian {
        /// His public key.
        key: Box<PublicKey>,
    },
    /// A file is none of ours, or was cut.
    #[error("it is no {what}: {reason}")]
    Malformed {
        /// A share, a wrapped key.
        what: &'static str,
        /// Which field, and what is wrong with it.
        reason: String,
    },
    /// The key was made to stay.
    #[error("the key with {key} was made single-card: it never leaves its card")]
    SingleCard {
        /// How it was asked for.
        key: KeyReference,
    },
    /// Any wrapping key would do, so the export would protect nothing.
    #[error("the key with {key} may leave under any key (CKA_WRAP_WITH_TRUSTED is not set)")]
    Unguarded {
        /// How it was asked for.
        key: KeyReference,
    },
    /// The card has no mechanism that wraps a key, or none it has does.
    #[error("the card wraps no key: {reason}")]
    NoMechanism {
        /// What was tried, and what came of it.
        reason: String,
    },
    /// A share that belongs to another wrapped key.
    #[error("share {index} is of export {found}, the wrapped key is of {expected}")]
    Foreign {
        /// Which share.
        index: u8,
        /// The share's export.
        found: ExportId,
        /// The wrapped key's.
        expected: ExportId,
    },
    /// The share does not open.
    #[error("share {index} does not open: {reason}")]
    Sealed {
        /// Which share.
        index: u8,
        /// Another key or passphrase, or it was changed.
        reason: &'static str,
    },
    /// It opens, and is not what was handed out.
    #[error("share {index} is not the one that was handed out: somebody else made it")]
    NotGenuine {
        /// Which share.
        index: u8,
    },
    /// The secret is right and the rest of the file is not.
    #[error("the file of the wrapped key was changed: its check does not fit the shares")]
    Changed,
    /// Another key came out of the card than went in.
    #[error("the key that came in is {found}, the one that left was {expected}; it was destroyed")]
    OtherKey {
        /// In the card now.
        found: Box<PublicKey>,
        /// In the file.
        expected: Box<PublicKey>,
    },
}

/// What follows from the secret of an export.
struct Secret(Zeroizing<[u8; SECRET_BYTES]>);

impl Secret {
    /// The bytes of the transport key: 16 of SM4, 32 of AES.
    fn transport(&self, form: &str, bytes: usize) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(vec![0; bytes]);
        let info = format!("transport key, {form}");
        hkdf(b"hufu cloned key, format 1", &*self.0, info.as_bytes(), &mut key);
        key
    }

    /// The key of the check over the wrapped key's file.
    fn check(&self) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        hkdf(b"hufu cloned key, format 1", &*self.0, b"check", &mut *key);
        key
    }
}

/// What a share is recognised by without being told. A share is 32 random bytes, so its digest
/// says nothing of it.
fn commitment(export: ExportId, share: &shamir::Share<SECRET_BYTES>) -> Digest {
    const KIND: &[u8] = b"hufu key share commitment, format 1";
    Sm3::of(&[KIND, &export.0, &[share.index], &*share.value])
}

#[cfg(test)]
mod tests;
