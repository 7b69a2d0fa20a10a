//! The wrapped key as a file: what the card gave, and what the shares must fit.

use hufu_crypto::shamir;
use hufu_crypto::{Digest, Hmac, Sm3};
use serde::{Deserialize, Serialize};

use super::share::{Opener, ShareFile, public_key};
use super::{CloneError, ExportId, FILE_BYTES_MAX, Facts, Secret, commitment, hex};
use crate::Usage;
use crate::profile::WrapForm;

const FORMAT: &str = "hufu cloned key, format 1";

/// A key as it left its card, wrapped. Without enough shares it is of no use to anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Which key, and how many shares it takes.
    pub facts: Facts,
    /// What the key is for.
    pub usage: Usage,
    /// Name of the profile of the card it left.
    pub profile: String,
    /// How it is wrapped.
    pub(super) form: WrapForm,
    /// First value or nonce, where the form has one.
    pub(super) start: Vec<u8>,
    pub(super) wrapped: Vec<u8>,
    /// Of a key without a public one: a secret it wrapped, which it must unwrap again.
    pub(super) proof: Vec<u8>,
    /// Of every share, in their order.
    pub(super) commitments: Vec<Digest>,
    pub(super) check: Digest,
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
    usage: WrittenUsage,
    profile: String,
    form: WrapForm,
    start: String,
    wrapped: String,
    proof: String,
    commitments: Vec<String>,
    check: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WrittenUsage {
    Sign,
    Decrypt,
    Wrap,
}

impl WrappedKey {
    /// With the check that whoever has the secret can make.
    pub(super) fn checked(mut self, secret: &Secret) -> Self {
        self.check = self.check_by(secret).finish();
        self
    }

    fn check_by(&self, secret: &Secret) -> Hmac {
        let mut hasher = Sm3::new();
        self.facts.update(&mut hasher);
        let usage = match self.usage {
            Usage::Sign => 1,
            Usage::Decrypt => 2,
            Usage::Wrap => 3,
        };
        hasher.update(&[usage]);
        let parts = [self.profile.as_bytes(), self.form.name().as_bytes(), &self.start];
        for part in parts.into_iter().chain([&self.wrapped[..], &self.proof]) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        self.commitments.iter().for_each(|commitment| hasher.update(&commitment.0));
        let mut hmac = Hmac::new(&*secret.check());
        hmac.update(&hasher.finish().0);
        hmac
    }

    /// The secret that the shares give, if they are those of this key, genuine and enough, and the
    /// file is as it was written.
    pub(super) fn open(&self, shares: &[(&ShareFile, Opener<'_>)]) -> Result<Secret, CloneError> {
        let expected = self.facts.export;
        for (place, (share, _)) in shares.iter().enumerate() {
            let (index, found) = (share.index, share.facts.export);
            if found != expected {
                return Err(CloneError::Foreign { index, found, expected });
            }
            if share.facts != self.facts {
                let reason = "it does not fit the file of the wrapped key";
                return Err(CloneError::Sealed { index, reason });
            }
            if shares.iter().take(place).any(|(earlier, _)| earlier.index == index) {
                return Err(shamir::ShamirError::Duplicate { index }.into());
            }
        }
        let (given, needed) = (shares.len(), self.facts.needed);
        if given < usize::from(needed) {
            return Err(shamir::ShamirError::TooFew { given, needed }.into());
        }
        let mut opened = Vec::with_capacity(given);
        for (share, opener) in shares {
            let index = share.index;
            let share = share.open(*opener)?;
            let known = self.commitments.get(usize::from(index).saturating_sub(1));
            if known != Some(&commitment(expected, &share)) {
                return Err(CloneError::NotGenuine { index });
            }
            opened.push(share);
        }
        let secret = Secret(shamir::join(needed, &opened)?);
        if self.check_by(&secret).verify(&self.check) {
            Ok(secret)
        } else {
            Err(CloneError::Changed)
        }
    }

    /// As it is kept.
    ///
    /// # Errors
    /// [`CloneError::Malformed`] if it cannot be written down.
    pub fn to_text(&self) -> Result<String, CloneError> {
        let facts = &self.facts;
        let written = Written {
            format: FORMAT.to_owned(),
            export: facts.export.to_string(),
            key: facts.key.clone(),
            public_key: facts.public.map(|key| key.to_string()),
            needed: facts.needed,
            count: facts.count,
            usage: match self.usage {
                Usage::Sign => WrittenUsage::Sign,
                Usage::Decrypt => WrittenUsage::Decrypt,
                Usage::Wrap => WrittenUsage::Wrap,
            },
            profile: self.profile.clone(),
            form: self.form,
            start: hex::encode(&self.start),
            wrapped: hex::encode(&self.wrapped),
            proof: hex::encode(&self.proof),
            commitments: self.commitments.iter().map(|one| hex::encode(&one.0)).collect(),
            check: hex::encode(&self.check.0),
        };
        let text = toml::to_string(&written).map_err(|cause| malformed(cause.to_string()))?;
        Ok(format!("# A key that left its card, wrapped: of no use without its shares.\n{text}"))
    }

    /// Reads what [`WrappedKey::to_text`] wrote.
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
        if written.needed < 2 || written.needed > written.count {
            return Err(malformed("needed and count do not fit together".to_owned()));
        }
        let commitments: Option<Vec<Digest>> =
            written.commitments.iter().map(|text| hex::decode_exactly(text).map(Digest)).collect();
        let commitments = commitments
            .filter(|all| all.len() == usize::from(written.count))
            .ok_or_else(|| field("commitments"))?;
        let bytes = |name: &str, text: &str| hex::decode(text).ok_or_else(|| field(name));
        let usage = match written.usage {
            WrittenUsage::Sign => Usage::Sign,
            WrittenUsage::Decrypt => Usage::Decrypt,
            WrittenUsage::Wrap => Usage::Wrap,
        };
        let public =
            public_key(written.public_key.as_deref()).ok_or_else(|| field("public_key"))?;
        if public.is_some() == (usage == Usage::Wrap) {
            return Err(field("public_key"));
        }
        let export = hex::decode_exactly(&written.export).ok_or_else(|| field("export"))?;
        let (needed, count) = (written.needed, written.count);
        Ok(Self {
            facts: Facts { export: ExportId(export), key: written.key, public, needed, count },
            usage,
            profile: written.profile,
            form: written.form,
            start: bytes("start", &written.start)?,
            wrapped: bytes("wrapped", &written.wrapped)?,
            proof: bytes("proof", &written.proof)?,
            commitments,
            check: Digest(hex::decode_exactly(&written.check).ok_or_else(|| field("check"))?),
        })
    }
}

const fn malformed(reason: String) -> CloneError {
    CloneError::Malformed { what: "wrapped key", reason }
}
