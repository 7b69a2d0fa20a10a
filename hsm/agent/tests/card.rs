//! A card in software for the agent's process, with faults on command: the first letters of a
//! digest say what goes wrong.

use std::path::PathBuf;
use std::time::Duration;

use hufu_crypto::encryption::Ciphertext;
use hufu_crypto::{Backend, Digest, PublicKey, Signature, Signer, Sm3, SoftwareSigner, entropy};
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::wake::Parker;

use crate::error::{Error, Rv};
use crate::keystore::{CardIdentity, KeyHandle, KeyReference, Keystore, Usage, WRAPPED_BYTES_MAX};

/// Keys 0 and 1 sign, 2 decrypts, 3 wraps.
pub(super) struct SoftCard {
    pairs: Vec<std::sync::Mutex<SoftwareSigner>>,
    publics: Vec<PublicKey>,
    serial: &'static str,
    is_first_gone: bool,
}

impl SoftCard {
    /// `how` is what changes from the second start on, and the file that tells which start it is.
    pub(super) fn new(how: &str) -> Self {
        let (change, marker) = how.split_once('@').unwrap_or(("", ""));
        let is_again = !marker.is_empty() && {
            let marker = PathBuf::from(marker);
            let is_there = marker.exists();
            std::fs::write(marker, b"x").unwrap();
            is_there
        };
        let first = if is_again && change == "key-changes" { 9 } else { 1 };
        let signers: Vec<SoftwareSigner> =
            [first, 2, 3].map(|byte| SoftwareSigner::from_bytes(&[byte; 32]).unwrap()).into();
        Self {
            publics: signers.iter().map(|signer| *signer.public_key()).collect(),
            pairs: signers.into_iter().map(std::sync::Mutex::new).collect(),
            serial: if is_again && change == "serial-changes" { "0002" } else { "0001" },
            is_first_gone: is_again && change == "key-goes",
        }
    }

    fn pair(&self, key: KeyHandle) -> Result<&std::sync::Mutex<SoftwareSigner>, Error> {
        self.pairs.get(usize::try_from(key.0).unwrap()).ok_or(Error::HandleUnknown(key.0))
    }

    fn fault(&self, digest: &Digest) -> Result<(), Error> {
        let wait = |until| {
            Parker::new().unwrap().wait_until(until, || false).unwrap();
        };
        match &digest.0[..4] {
            b"HANG" => wait(None),
            b"SLOW" => wait(Some(clock::monotonic().after(Duration::from_millis(300)))),
            b"DIE!" => std::process::abort(),
            b"RV\0\0" => {
                let rv = Rv(u64::from(digest.0[28]));
                return Err(Error::Call { function: "C_Sign", rv, class: rv.class() });
            }
            _ => {}
        }
        Ok(())
    }
}

impl Keystore for SoftCard {
    fn identity(&self, _deadline: Nanos) -> Result<CardIdentity, Error> {
        Ok(CardIdentity {
            library_manufacturer: "hufu tests".to_owned(),
            library_version: (1, 2),
            token_label: "软卡".to_owned(),
            token_manufacturer: String::new(),
            token_model: "soft".to_owned(),
            token_serial: self.serial.to_owned(),
            firmware_version: (3, 4),
            hardware_version: (0, 255),
        })
    }

    fn open_key(
        &self,
        key: &KeyReference,
        usage: Usage,
        _deadline: Nanos,
    ) -> Result<KeyHandle, Error> {
        match (key, usage) {
            (KeyReference::Label(label), Usage::Sign)
                if label == "sign-1" && !self.is_first_gone =>
            {
                Ok(KeyHandle(0))
            }
            (KeyReference::Label(label), Usage::Sign) if label == "sign-2" => Ok(KeyHandle(1)),
            (KeyReference::Index(7), Usage::Decrypt) => Ok(KeyHandle(2)),
            (KeyReference::Id(id), Usage::Wrap) if id == &[9] => Ok(KeyHandle(3)),
            _ => Err(Error::KeyMissing { key: key.clone() }),
        }
    }

    fn public_key(&self, key: KeyHandle) -> Result<PublicKey, Error> {
        let found = self.publics.get(usize::try_from(key.0).unwrap());
        found.copied().ok_or(Error::HandleUnknown(key.0))
    }

    fn sign_sm2(
        &self,
        key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        _deadline: Nanos,
    ) -> Result<(), Error> {
        self.fault(&digests[0])?;
        let pair = self.pair(key)?.lock().unwrap();
        let items: Vec<_> = digests.iter().map(|digest| (&*pair, *digest)).collect();
        SoftwareSigner::sign_many_unverified(&items, signatures).unwrap();
        Ok(())
    }

    fn sm2_decrypt(
        &self,
        key: KeyHandle,
        ciphertext: &[u8],
        plaintext: &mut [u8],
        _deadline: Nanos,
    ) -> Result<usize, Error> {
        let refused = |reason: String| Error::Refused { what: "ciphertext", reason };
        let sealed = Ciphertext::from_bytes(ciphertext).map_err(|e| refused(e.to_string()))?;
        let text = self.pair(key)?.lock().unwrap().decrypt(Backend::best(), &sealed);
        let text = text.map_err(|error| refused(error.to_string()))?;
        plaintext[..text.len()].copy_from_slice(&text);
        Ok(text.len())
    }

    fn wrap(
        &self,
        _key: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        _deadline: Nanos,
    ) -> Result<usize, Error> {
        for (to, from) in wrapped.iter_mut().zip(secret) {
            *to = from ^ 0xa5;
        }
        wrapped[32..64].copy_from_slice(Sm3::of(&[&secret[..]]).as_bytes());
        Ok(64)
    }

    fn unwrap(
        &self,
        _key: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        _deadline: Nanos,
    ) -> Result<(), Error> {
        for (to, from) in secret.iter_mut().zip(wrapped) {
            *to = from ^ 0xa5;
        }
        if wrapped.len() == 64 && &wrapped[32..] == Sm3::of(&[&secret[..]]).as_bytes() {
            return Ok(());
        }
        Err(Error::Refused { what: "wrapped secret", reason: "changed".to_owned() })
    }

    fn random(&self, bytes: &mut [u8], _deadline: Nanos) -> Result<(), Error> {
        entropy::fill(bytes).unwrap();
        Ok(())
    }
}
