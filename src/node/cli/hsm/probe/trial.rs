//! A profile tried on a card: everything it says, with keys of the card or made for the session.

use hufu_hsm::card::{FoundKey, KeyClass, KeyName, keys, operations};
use hufu_hsm::keystore::WRAPPED_BYTES_MAX;
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::Session;
use hufu_hsm::probe;
use hufu_hsm::profile::{Decrypt, Sign};
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{Error, KeyReference, Profile, Usage};
use serde_json::{Value, json};

use super::super::keygen::make;
use crate::kernels;

/// What keys that are made for trying are called; they go with the session.
const TRIAL: KeyName<'static> = KeyName { label: "hufu probe", id: b"hufu probe", is_kept: false };

/// What was shown to work.
pub(super) struct Proven {
    profile: String,
    key: String,
    sign: Sign,
    decrypt: Option<Decrypt>,
    wraps: bool,
}

/// Proves the profile on `key`, or on trial keys.
pub(super) fn prove(
    session: &Session,
    profile: &Profile,
    key: Option<&KeyUri>,
    pin: &Pin,
) -> Result<Proven, Error> {
    let trial = |usage| make(session, profile, &TRIAL, usage, KeyClass::SingleCard);
    let name = key.map_or_else(|| "a trial pair".to_owned(), |uri| uri.key.to_string());
    let signer = match key {
        Some(uri) => keys::find(session, profile, &uri.key, Usage::Sign)?,
        None => trial(Usage::Sign)?,
    };
    let verifier = kernels::provider().verifier;
    let sign = probe::prove(session, profile, &signer, Some(pin), &*verifier)?;
    let mut proven =
        Proven { profile: profile.name.clone(), key: name, sign, decrypt: None, wraps: false };
    if key.is_some() {
        return Ok(proven);
    }
    if !profile.sm2.decrypt.is_empty() {
        let opener = trial(Usage::Decrypt)?;
        proven.decrypt = Some(probe::prove_decrypt(session, profile, &opener, Some(pin))?);
    }
    if profile.sm4.is_some() {
        wrap_once(session, profile, &trial(Usage::Wrap)?)?;
        proven.wraps = true;
    }
    Ok(proven)
}

/// Wraps a secret and unwraps it again, changed and unchanged.
fn wrap_once(session: &Session, profile: &Profile, key: &FoundKey) -> Result<(), Error> {
    let reference = KeyReference::Label(TRIAL.label.to_owned());
    let (mut secret, mut wrapped) = ([0; 32], [0; WRAPPED_BYTES_MAX]);
    session.random(&mut secret)?;
    // It unwraps what it wrapped, and compares.
    operations::wrap(session, profile, &reference, key, &secret, &mut wrapped).map(drop)
}

impl Proven {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "profile": self.profile,
            "key": self.key,
            "sign": format!("{:#x}", self.sign.mechanism),
            "decrypt": self.decrypt.map(|decrypt| format!("{:#x}", decrypt.mechanism)),
            "wrap": self.wraps,
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "  sign       {:#x} signs e with {}; its signatures verify",
            self.sign.mechanism, self.key
        )];
        if let Some(decrypt) = &self.decrypt {
            let code = decrypt.mechanism;
            lines.push(format!("  decrypt    {code:#x} decrypts what software encrypted"));
        }
        if self.wraps {
            lines.push("  wrap       an SM4 key wraps and unwraps a secret".to_owned());
        }
        lines
    }
}
