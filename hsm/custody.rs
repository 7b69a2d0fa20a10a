//! Custody: where a key of the node lives, and what happens when its card does not answer.
//!
//! ```text
//! hsm-only       card ---------------> signature, or a typed error
//! hsm-preferred  card --(not there)--> another key, registered apart, in software; each use told
//! software       software -----------> signature
//! ```
//!
//! An `hsm-only` key has no second place it could sign from: there is no software key in the value,
//! so no error of a card can end in one. An `hsm-preferred` key does not exist twice either: what
//! stands in is a **different key pair** under its own name, which whoever verifies has accepted
//! beforehand, and the signature says which of the two made it. What is signed differs too: the
//! digest e covers the public key (Z, GB/T 32918.2-2016 5.5), so whoever asks says what e is for
//! each key. Votes are never `hsm-preferred`: a validator has one vote key (DB4403/T 9.5-h0).

use std::sync::Arc;

use hufu_crypto::{Digest, PublicKey, Signature, Signer};
use hufu_runtime::clock::Nanos;
use serde::Deserialize;

use crate::{Error, ErrorClass, KeyHandle, Keystore};

/// Where a key is kept, as a configuration says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// In a card, or not at all.
    HsmOnly,
    /// In a card; when that is not there, a key registered apart signs in software.
    HsmPreferred,
    /// In a file of this host.
    Software,
}

impl Custody {
    /// As a configuration says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HsmOnly => "hsm-only",
            Self::HsmPreferred => "hsm-preferred",
            Self::Software => "software",
        }
    }
}

/// Who made a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The card.
    Card,
    /// Software, with the one key there is.
    Software,
    /// Software, with the key that stands in for the card's.
    StandIn,
}

/// A signature and the key that verifies it.
#[derive(Clone, Copy, Debug)]
pub struct Signed {
    /// r || s, verified in software.
    pub signature: Signature,
    /// The key that made it: with a stand-in, not the card's.
    pub key: PublicKey,
    /// Where it was made.
    pub place: Place,
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The card's error; nothing else was tried.
    #[error("{custody} key in the card: {cause}", custody = custody.name())]
    Card {
        /// The key's custody.
        custody: Custody,
        /// What the card said.
        cause: Error,
    },
    /// The card is not there, and the stand-in failed too.
    #[error("the card failed ({card}), and so did the key that stands in: {cause}")]
    StandIn {
        /// What the card said.
        card: Error,
        /// What the software said.
        cause: hufu_crypto::Error,
    },
    /// The software signer failed.
    #[error("software key: {0}")]
    Software(#[source] hufu_crypto::Error),
    /// The key that is to stand in is not registered, or is the card's own.
    #[error("the key that is to stand in for the card's {reason}")]
    NotRegistered {
        /// Why it may not.
        reason: &'static str,
    },
}

/// Told of every signature that did not come from where the key belongs.
pub trait Witness: Send + Sync {
    /// A stand-in signs because of `cause`. Called before the signature is handed out.
    fn stood_in(&self, card_key: &PublicKey, stand_in: &PublicKey, cause: &Error);

    /// The card gave no signature, and nothing stands in for it.
    fn refused(&self, card_key: &PublicKey, cause: &Error);
}

/// A key in a card.
pub struct CardKey {
    store: Arc<dyn Keystore>,
    handle: KeyHandle,
    public: PublicKey,
}

impl CardKey {
    /// The key that `handle` names in `store`.
    ///
    /// # Errors
    /// If it has no public key.
    pub fn new(store: Arc<dyn Keystore>, handle: KeyHandle) -> Result<Self, Error> {
        let public = store.public_key(handle)?;
        Ok(Self { store, handle, public })
    }

    fn sign(&self, digest: &Digest, deadline: Nanos) -> Result<Signature, Error> {
        let mut signature = [Signature([0; 64])];
        let digests = core::slice::from_ref(digest);
        self.store.sign_sm2(self.handle, digests, &mut signature, deadline)?;
        let [signature] = signature;
        Ok(signature)
    }
}

/// A software key that may stand in for one of a card, because it was registered for that.
pub struct StandIn(Box<dyn Signer + Sync>);

impl StandIn {
    /// `signer`'s key must be among `registered` and not be the card's own: a card's key that also
    /// exists in software is no card's key.
    ///
    /// # Errors
    /// [`CustodyError::NotRegistered`].
    pub fn new(
        signer: Box<dyn Signer + Sync>,
        registered: &[PublicKey],
        card: &CardKey,
    ) -> Result<Self, CustodyError> {
        let key = signer.public_key();
        if *key == card.public {
            return Err(CustodyError::NotRegistered { reason: "is that very key" });
        }
        if !registered.contains(key) {
            return Err(CustodyError::NotRegistered { reason: "is not registered" });
        }
        Ok(Self(signer))
    }
}

/// A key of the node with its custody.
pub enum Custodian {
    /// `hsm-only`.
    HsmOnly {
        /// The key.
        card: CardKey,
    },
    /// `hsm-preferred`.
    HsmPreferred {
        /// The key.
        card: CardKey,
        /// What stands in for it.
        stand_in: StandIn,
    },
    /// `software`.
    Software {
        /// The key.
        signer: Box<dyn Signer + Sync>,
    },
}

impl Custodian {
    /// The key that is meant to sign.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        match self {
            Self::HsmOnly { card } | Self::HsmPreferred { card, .. } => &card.public,
            Self::Software { signer } => signer.public_key(),
        }
    }

    /// Where the key is kept.
    #[must_use]
    pub const fn custody(&self) -> Custody {
        match self {
            Self::HsmOnly { .. } => Custody::HsmOnly,
            Self::HsmPreferred { .. } => Custody::HsmPreferred,
            Self::Software { .. } => Custody::Software,
        }
    }

    /// Every key that may sign, the one that is meant to first.
    #[must_use]
    pub fn keys(&self) -> Vec<PublicKey> {
        match self {
            Self::HsmPreferred { card, stand_in } => {
                vec![card.public, *stand_in.0.public_key()]
            }
            Self::HsmOnly { .. } | Self::Software { .. } => vec![*self.public_key()],
        }
    }

    /// Signs by the rules of the key's custody; `digest_of` says what e is for the key that does.
    ///
    /// # Errors
    /// [`CustodyError`]; of an `hsm-only` key always the card's own error.
    pub fn sign(
        &self,
        digest_of: &dyn Fn(&PublicKey) -> Digest,
        deadline: Nanos,
        witness: &dyn Witness,
    ) -> Result<Signed, CustodyError> {
        let (card, stand_in) = match self {
            Self::HsmOnly { card } => (card, None),
            Self::HsmPreferred { card, stand_in } => (card, Some(stand_in)),
            Self::Software { signer } => {
                let key = *signer.public_key();
                let signature = signer.sign(&digest_of(&key)).map_err(CustodyError::Software)?;
                return Ok(Signed { signature, key, place: Place::Software });
            }
        };
        let cause = match card.sign(&digest_of(&card.public), deadline) {
            Ok(signature) => return Ok(Signed { signature, key: card.public, place: Place::Card }),
            Err(cause) => cause,
        };
        match stand_in.filter(|_| may_stand_in(cause.class())) {
            Some(StandIn(signer)) => {
                witness.stood_in(&card.public, signer.public_key(), &cause);
                let key = *signer.public_key();
                match signer.sign(&digest_of(&key)) {
                    Ok(signature) => Ok(Signed { signature, key, place: Place::StandIn }),
                    Err(software) => Err(CustodyError::StandIn { card: cause, cause: software }),
                }
            }
            None => {
                witness.refused(&card.public, &cause);
                Err(CustodyError::Card { custody: self.custody(), cause })
            }
        }
    }
}

/// A card that is away or busy is stood in for. One that answers and is wrong (a PIN refused, a
/// signature that does not verify, a key that is gone) is a matter for people.
const fn may_stand_in(class: ErrorClass) -> bool {
    match class {
        ErrorClass::Session | ErrorClass::Login | ErrorClass::TokenLost | ErrorClass::Throttled => {
            true
        }
        ErrorClass::Permanent => false,
    }
}

#[cfg(test)]
mod tests;
