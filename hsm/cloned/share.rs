//! Shares as files: each sealed to its custodian, and good for one export only.
//!
//! The header is in clear, so that a custodian sees what he keeps; its digest is sealed with the
//! share, so that a header that was changed does not open.

use hufu_crypto::encryption::{self, Ciphertext};
use hufu_crypto::shamir::Share;
use hufu_crypto::{Backend, Digest, Drbg, PublicKey, Signer as _, Sm3, SoftwareSigner, cipher};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::passphrase::{self, ROUNDS, ROUNDS_MAX, SALT_BYTES};
use super::{CloneError, ExportId, FILE_BYTES_MAX, Facts, SECRET_BYTES, hex};
use crate::pin::Pin;

const FORMAT: &str = "hufu key share, format 1";

/// The nonce of the one thing that a passphrase's key seals; its salt is drawn for it.
const NONCE: [u8; 12] = [0; 12];

/// Bytes of a digest.
const DIGEST_BYTES: usize = 32;

/// To whom a share is sealed.
#[derive(Clone, Copy)]
pub enum Custodian<'a> {
    /// The holder of an SM2 key.
    Key(PublicKey),
    /// Who knows a passphrase.
    Passphrase(&'a Pin),
}

/// With what a custodian opens his share.
#[derive(Clone, Copy)]
pub enum Opener<'a> {
    /// His private key.
    Key(&'a SoftwareSigner),
    /// His passphrase.
    Passphrase(&'a Pin),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Lock {
    Key(PublicKey),
    Passphrase { salt: [u8; SALT_BYTES], rounds: u32 },
}

/// One share as its custodian keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareFile {
    /// Of what it is a share.
    pub facts: Facts,
    /// Which one, from 1.
    pub index: u8,
    lock: Lock,
    pub(super) sealed: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: String,
    export: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    needed: u8,
    count: u8,
    index: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    custodian: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    salt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rounds: Option<u32>,
    sealed: String,
}

impl ShareFile {
    /// Seals a share to its custodian.
    pub(super) fn seal(
        facts: Facts,
        share: &Share<SECRET_BYTES>,
        custodian: Custodian<'_>,
        generator: &mut Drbg,
    ) -> Result<Self, CloneError> {
        let (mut salt, rounds) = ([0; SALT_BYTES], ROUNDS);
        generator.fill(&mut salt)?;
        let lock = match custodian {
            Custodian::Key(key) => Lock::Key(key),
            Custodian::Passphrase(_) => Lock::Passphrase { salt, rounds },
        };
        let mut file = Self { facts, index: share.index, lock, sealed: Vec::new() };
        let header = file.header();
        file.sealed = match custodian {
            Custodian::Key(key) => {
                let mut text = Zeroizing::new([0; DIGEST_BYTES + SECRET_BYTES]);
                text[..DIGEST_BYTES].copy_from_slice(&header.0);
                text[DIGEST_BYTES..].copy_from_slice(&*share.value);
                encryption::encrypt(Backend::best(), generator, &key, &*text)?.to_bytes()
            }
            Custodian::Passphrase(passphrase) => {
                let key = passphrase::key(passphrase, &salt, rounds);
                let mut text = share.value.clone();
                let tag = cipher::gcm_seal(Backend::best(), &key, &NONCE, &header.0, &mut *text)?;
                [&text[..], &tag].concat()
            }
        };
        Ok(file)
    }

    /// Whether a passphrase opens it; else the private key of [`ShareFile::custodian`].
    #[must_use]
    pub const fn wants_passphrase(&self) -> bool {
        matches!(self.lock, Lock::Passphrase { .. })
    }

    /// To whose key it is sealed.
    #[must_use]
    pub const fn custodian(&self) -> Option<&PublicKey> {
        match &self.lock {
            Lock::Key(key) => Some(key),
            Lock::Passphrase { .. } => None,
        }
    }

    /// The share.
    pub(super) fn open(&self, opener: Opener<'_>) -> Result<Share<SECRET_BYTES>, CloneError> {
        let closed = |reason| CloneError::Sealed { index: self.index, reason };
        let header = self.header();
        let mut value = Zeroizing::new([0; SECRET_BYTES]);
        match (&self.lock, opener) {
            (Lock::Key(key), Opener::Key(signer)) => {
                if signer.public_key() != key {
                    return Err(closed("it is sealed to another custodian's key"));
                }
                let wrong = "it was changed";
                let sealed = Ciphertext::from_bytes(&self.sealed).map_err(|_| closed(wrong))?;
                let opened = signer.decrypt(Backend::best(), &sealed);
                let opened = opened.map_err(|_| closed(wrong))?;
                let (digest, share) = opened.split_at_checked(DIGEST_BYTES).ok_or(closed(wrong))?;
                if digest != header.0 || share.len() != SECRET_BYTES {
                    return Err(closed(wrong));
                }
                value.copy_from_slice(share);
            }
            (Lock::Passphrase { salt, rounds }, Opener::Passphrase(passphrase)) => {
                let wrong = "the passphrase is another one, or it was changed";
                let (text, tag) =
                    self.sealed.split_at_checked(SECRET_BYTES).ok_or(closed(wrong))?;
                value.copy_from_slice(text);
                let key = passphrase::key(passphrase, salt, *rounds);
                // A tag that was cut short is easier to guess.
                let is_whole = tag.len() == 16;
                cipher::gcm_open(Backend::best(), &key, &NONCE, &header.0, &mut *value, tag)
                    .ok()
                    .filter(|()| is_whole)
                    .ok_or(closed(wrong))?;
            }
            (Lock::Key(_), Opener::Passphrase(_)) => {
                return Err(closed("it wants its custodian's private key"));
            }
            (Lock::Passphrase { .. }, Opener::Key(_)) => {
                return Err(closed("it wants a passphrase"));
            }
        }
        Ok(Share { index: self.index, value })
    }

    /// Digest of all that is in clear.
    fn header(&self) -> Digest {
        let mut hasher = Sm3::new();
        hasher.update(FORMAT.as_bytes());
        self.facts.update(&mut hasher);
        match &self.lock {
            Lock::Key(key) => {
                hasher.update(&[self.index, 1]);
                hasher.update(&key.0);
            }
            Lock::Passphrase { salt, rounds } => {
                hasher.update(&[self.index, 2]);
                hasher.update(salt);
                hasher.update(&rounds.to_le_bytes());
            }
        }
        hasher.finish()
    }

    /// As it is kept.
    ///
    /// # Errors
    /// [`CloneError::Malformed`] if it cannot be written down.
    pub fn to_text(&self) -> Result<String, CloneError> {
        let (custodian, salt, rounds) = match &self.lock {
            Lock::Key(key) => (Some(key.to_string()), None, None),
            Lock::Passphrase { salt, rounds } => (None, Some(hex::encode(salt)), Some(*rounds)),
        };
        let facts = &self.facts;
        let written = Written {
            format: FORMAT.to_owned(),
            export: facts.export.to_string(),
            key: facts.key.clone(),
            public_key: facts.public.map(|key| key.to_string()),
            needed: facts.needed,
            count: facts.count,
            index: self.index,
            custodian,
            salt,
            rounds,
            sealed: hex::encode(&self.sealed),
        };
        let text = toml::to_string(&written).map_err(|cause| malformed(cause.to_string()))?;
        Ok(format!(
            "# One of {} shares of a key, of which {} give it back. Keep it apart from the others.\n\
             {text}",
            facts.count, facts.needed
        ))
    }

    /// Reads what [`ShareFile::to_text`] wrote.
    ///
    /// # Errors
    /// [`CloneError::Malformed`] with the field.
    pub fn parse(text: &str) -> Result<Self, CloneError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(malformed(format!("{} bytes", text.len())));
        }
        let written: Written = toml::from_str(text)
            .map_err(|cause: toml::de::Error| malformed(cause.message().to_owned()))?;
        let field = |name: &str| malformed(format!("{name} is not as it was written"));
        if written.format != FORMAT {
            return Err(malformed(format!("its format is {:?}", written.format)));
        }
        let lock = match (&written.custodian, &written.salt, written.rounds) {
            (Some(key), None, None) => {
                Lock::Key(PublicKey::from_hex(key).ok_or_else(|| field("custodian"))?)
            }
            (None, Some(salt), Some(rounds @ 1..=ROUNDS_MAX)) => {
                let salt = hex::decode_exactly(salt).ok_or_else(|| field("salt"))?;
                Lock::Passphrase { salt, rounds }
            }
            _ => return Err(malformed("custodian, or salt and rounds".to_owned())),
        };
        let is_one = (1..=written.count).contains(&written.index);
        if written.needed < 2 || written.needed > written.count || !is_one {
            return Err(malformed("needed, count and index do not fit together".to_owned()));
        }
        let facts = Facts {
            export: ExportId(hex::decode_exactly(&written.export).ok_or_else(|| field("export"))?),
            key: written.key,
            public: public_key(written.public_key.as_deref()).ok_or_else(|| field("public_key"))?,
            needed: written.needed,
            count: written.count,
        };
        let sealed = hex::decode(&written.sealed).ok_or_else(|| field("sealed"))?;
        Ok(Self { facts, index: written.index, lock, sealed })
    }
}

/// A public key that may be missing; `None` if it is there and none.
pub(super) fn public_key(text: Option<&str>) -> Option<Option<PublicKey>> {
    match text {
        None => Some(None),
        Some(text) => PublicKey::from_hex(text).filter(hufu_crypto::is_curve_point).map(Some),
    }
}

const fn malformed(reason: String) -> CloneError {
    CloneError::Malformed { what: "share of a key", reason }
}
