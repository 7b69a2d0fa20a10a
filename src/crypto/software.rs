//! The software provider: the kernels verify and hash, RustCrypto's `sm2` signs.
//!
//! Signing is constant time (RFC 6979 nonces); verification is for public data. Digests are made
//! side by side with the widest instructions of this CPU.

use std::sync::Arc;

use hufu_kernels::sm2 as kernel;
use hufu_kernels::{Backend, sm3};
use sm2::dsa::signature::hazmat::PrehashSigner;
use sm2::elliptic_curve::sec1::ToSec1Point;
use sm2::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use zeroize::Zeroizing;

use crate::cipher::SoftwareCipher;
use crate::digest::Digest;
use crate::keys::{PublicKey, Signature};
use crate::provider::{Hasher, Provider, Signer, Verdict, Verifier, VerifyItem};
use crate::{Error, entropy};

/// `sm2` wants an identity to build its keys although hufu always hands it e; this one is never
/// hashed into a signature.
const IDENTITY_UNUSED: &str = "";

/// The provider without any device, on the widest instructions this CPU has.
#[must_use]
pub fn software_provider() -> Provider {
    software_provider_on(Backend::best())
}

/// The provider without any device, on a back end of the caller's choice: every back end gives
/// the same answers.
#[must_use]
pub fn software_provider_on(backend: Backend) -> Provider {
    Provider {
        name: "software",
        verifier: Arc::new(SoftwareVerifier(backend)),
        hasher: Arc::new(SoftwareHasher(backend)),
        cipher: Arc::new(SoftwareCipher(backend)),
    }
}

struct SoftwareVerifier(Backend);

/// Items handed to the kernel at once, count: enough to fill any number of lanes, and little enough
/// for the stack.
const ITEMS_PER_CALL: usize = 64;

impl Verifier for SoftwareVerifier {
    fn verify_many(&self, items: &[VerifyItem<'_>], verdicts: &mut [Verdict]) {
        assert_eq!(items.len(), verdicts.len(), "one verdict for each item");
        let Some(first) = items.first() else { return };
        let mut asked = [kernel_item(first); ITEMS_PER_CALL];
        let mut found = [kernel::Verdict::SignatureInvalid; ITEMS_PER_CALL];
        let parts = items.chunks(ITEMS_PER_CALL).zip(verdicts.chunks_mut(ITEMS_PER_CALL));
        for (items, verdicts) in parts {
            for (place, item) in asked.iter_mut().zip(items) {
                *place = kernel_item(item);
            }
            let found = &mut found[..items.len()];
            kernel::verify_many(self.0, &asked[..items.len()], found);
            for (verdict, found) in verdicts.iter_mut().zip(found) {
                *verdict = match found {
                    kernel::Verdict::Valid => Verdict::Valid,
                    kernel::Verdict::SignatureInvalid => Verdict::SignatureInvalid,
                    kernel::Verdict::KeyInvalid => Verdict::KeyInvalid,
                };
            }
        }
    }
}

const fn kernel_item<'a>(item: &'a VerifyItem<'a>) -> kernel::Item<'a> {
    kernel::Item { key: &item.key.0, digest: &item.digest.0, signature: &item.signature.0 }
}

/// Whether the key is a point of the SM2 curve other than the one at infinity (GB/T 32918.1-2016
/// 6.2.1), as every verifier asks of a key before it looks at a signature. Variable time.
#[must_use]
pub fn is_curve_point(key: &PublicKey) -> bool {
    kernel::is_on_curve(&key.0)
}

struct SoftwareHasher(Backend);

impl Hasher for SoftwareHasher {
    fn digest_many(&self, messages: &[&[u8]], digests: &mut [Digest]) {
        sm3::digest_many(self.0, messages, zerocopy::transmute_mut!(digests));
    }

    fn digest_pairs(&self, pairs: &[[Digest; 2]], parents: &mut [Digest]) {
        sm3::digest_pairs(
            self.0,
            zerocopy::transmute_ref!(pairs),
            zerocopy::transmute_mut!(parents),
        );
    }
}

/// An SM2 private key held in memory, neither printed nor cloned; what it holds of the key is
/// overwritten when it is dropped. Copies that moving it and the arithmetic of signing leave on the
/// stack are not: a key that must never lie in a host's memory belongs in a card.
pub struct SoftwareSigner {
    /// Overwrites itself.
    secret: sm2::SecretKey,
    signing: Signing,
    public: PublicKey,
}

/// The form of the key that signs. `sm2` does not overwrite it, so its owner does.
struct Signing(sm2::dsa::SigningKey);

impl Signing {
    /// Puts a key that is no secret, d = 1, in the place of this one.
    fn wipe(&mut self) {
        let mut one = [0; 32];
        one[31] = 1;
        if let Ok(known) = sm2::dsa::SigningKey::from_slice(IDENTITY_UNUSED, &one) {
            self.0 = known;
        }
        // What nobody reads again need not be written, unless somebody might read it.
        core::hint::black_box(&mut self.0);
    }
}

impl Drop for Signing {
    fn drop(&mut self) {
        self.wipe();
    }
}

impl SoftwareSigner {
    /// A fresh key from operating-system entropy (GB/T 32918.1-2016 6.1).
    ///
    /// # Errors
    /// [`Error::Entropy`] when the operating system has none.
    pub fn generate() -> Result<Self, Error> {
        loop {
            let mut bytes = Zeroizing::new([0; 32]);
            entropy::fill(&mut *bytes)?;
            // A draw out of range (probability 2^-32) is drawn again, never reduced: reducing would
            // bias the key.
            if let Ok(signer) = Self::from_bytes(&bytes) {
                return Ok(signer);
            }
        }
    }

    /// The key with the given big-endian scalar.
    ///
    /// # Errors
    /// [`Error::PrivateKeyRange`] unless the scalar is in 1..=n-2.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, Error> {
        let secret = sm2::SecretKey::from_slice(bytes).map_err(|_| Error::PrivateKeyRange)?;
        Self::from_secret(secret)
    }

    /// The key of an unencrypted PKCS#8 PEM text.
    ///
    /// # Errors
    /// [`Error::PrivateKeyEncoding`] for any other text.
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, Error> {
        let secret = sm2::SecretKey::from_pkcs8_pem(text).map_err(|_| Error::PrivateKeyEncoding)?;
        Self::from_secret(secret)
    }

    /// This key as an unencrypted PKCS#8 PEM text, zeroised when dropped.
    ///
    /// # Errors
    /// [`Error::PrivateKeyEncoding`] if the encoder refuses.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, Error> {
        self.secret.to_pkcs8_pem(LineEnding::LF).map_err(|_| Error::PrivateKeyEncoding)
    }

    /// Signs e without verifying the result: for clients, whose node verifies it at once anyway.
    /// Constant time.
    ///
    /// # Errors
    /// [`Error::Signing`] when the signature could not be made.
    pub fn sign_unverified(&self, digest: &Digest) -> Result<Signature, Error> {
        let made: sm2::dsa::Signature =
            self.signing.0.sign_prehash(&digest.0).map_err(|_| Error::Signing)?;
        Ok(Signature(made.to_bytes().into()))
    }

    fn from_secret(secret: sm2::SecretKey) -> Result<Self, Error> {
        // 1 + d must have an inverse (GB/T 32918.2-2016 6.1 step A6): d = n - 1 is no private key.
        if bool::from((*secret.to_nonzero_scalar() + sm2::Scalar::ONE).is_zero()) {
            return Err(Error::PrivateKeyRange);
        }
        let signing = sm2::dsa::SigningKey::new(IDENTITY_UNUSED, &secret)
            .map_err(|_| Error::PrivateKeyRange)?;
        let point = secret.public_key().to_sec1_point(false);
        let mut public = [0; 64];
        let coordinates = point.as_bytes().get(1..).ok_or(Error::PrivateKeyRange)?;
        public.copy_from_slice(coordinates);
        Ok(Self { secret, signing: Signing(signing), public: PublicKey(public) })
    }
}

impl Signer for SoftwareSigner {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, digest: &Digest) -> Result<Signature, Error> {
        let signature = self.sign_unverified(digest)?;
        let item = VerifyItem { key: &self.public, digest: *digest, signature: &signature };
        match SoftwareVerifier(Backend::best()).verify(item) {
            Verdict::Valid => Ok(signature),
            Verdict::KeyInvalid | Verdict::SignatureInvalid => Err(Error::SignatureRejected),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_key_is_no_secret_any_more() {
        let mut signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        assert_eq!(<[u8; 32]>::from(signer.signing.0.to_bytes()), [7; 32]);
        signer.signing.wipe();
        let mut one = [0; 32];
        one[31] = 1;
        assert_eq!(<[u8; 32]>::from(signer.signing.0.to_bytes()), one);
        let refused = signer.sign(&Digest([3; 32]));
        assert!(matches!(refused, Err(Error::SignatureRejected)), "no longer the key's own");
    }
}
