//! A keystore in memory that signs, gives random numbers and does nothing else, for what is about
//! everything around it.

use hufu_crypto::{Digest, PublicKey, Signature};
use hufu_hsm::keystore::WRAPPED_BYTES_MAX;
use hufu_hsm::{CardIdentity, Error, KeyHandle, KeyReference, Keystore, Usage};
use hufu_runtime::clock::Nanos;

/// What it does where it does anything.
pub(crate) trait SignsOnly: Send + Sync {
    /// The one key.
    fn public(&self) -> PublicKey;

    /// Signs, or does what else the test is about.
    fn sign(&self, digests: &[Digest], signatures: &mut [Signature]);

    /// Makes random numbers, where any are asked for.
    fn fill(&self, _bytes: &mut [u8]) -> Result<(), Error> {
        none("random numbers")
    }
}

/// A [`SignsOnly`] as a keystore with a card of this label.
pub(crate) struct SigningCard<S>(pub(crate) &'static str, pub(crate) S);

fn none<T>(what: &'static str) -> Result<T, Error> {
    Err(Error::Refused { what, reason: "this card only signs".to_owned() })
}

impl<S: SignsOnly> Keystore for SigningCard<S> {
    fn identity(&self, _deadline: Nanos) -> Result<CardIdentity, Error> {
        Ok(CardIdentity {
            library_manufacturer: "tests".to_owned(),
            library_version: (1, 0),
            token_label: self.0.to_owned(),
            token_manufacturer: String::new(),
            token_model: String::new(),
            token_serial: "1".to_owned(),
            firmware_version: (0, 0),
            hardware_version: (0, 0),
        })
    }

    fn open_key(&self, _: &KeyReference, _: Usage, _: Nanos) -> Result<KeyHandle, Error> {
        Ok(KeyHandle(0))
    }

    fn public_key(&self, _key: KeyHandle) -> Result<PublicKey, Error> {
        Ok(self.1.public())
    }

    fn sign_sm2(
        &self,
        _key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        _deadline: Nanos,
    ) -> Result<(), Error> {
        self.1.sign(digests, signatures);
        Ok(())
    }

    fn sm2_decrypt(&self, _: KeyHandle, _: &[u8], _: &mut [u8], _: Nanos) -> Result<usize, Error> {
        none("ciphertext")
    }

    fn wrap(
        &self,
        _: KeyHandle,
        _: &[u8; 32],
        _: &mut [u8; WRAPPED_BYTES_MAX],
        _: Nanos,
    ) -> Result<usize, Error> {
        none("secret")
    }

    fn unwrap(&self, _: KeyHandle, _: &[u8], _: &mut [u8; 32], _: Nanos) -> Result<(), Error> {
        none("wrapped secret")
    }

    fn random(&self, bytes: &mut [u8], _deadline: Nanos) -> Result<(), Error> {
        self.1.fill(bytes)
    }
}
