//! The seam: what hufu asks of a cryptographic back end.
//!
//! A [`Provider`] is a value made once at start and handed to the tiles. RustCrypto, the SIMD
//! kernels and cards differ only behind these traits.

use crate::Error;
use crate::cipher::Cipher;
use crate::digest::Digest;
use crate::entropy::Entropy;
use crate::keys::{PublicKey, Signature};

/// One signature to verify: e = SM3(ZA || M) with the key and the signature that claims to be over
/// it.
#[derive(Clone, Copy, Debug)]
pub struct VerifyItem<'a> {
    /// The signer's public key, not known to be on the curve.
    pub key: &'a PublicKey,
    /// The digest e.
    pub digest: Digest,
    /// The signature r || s.
    pub signature: &'a Signature,
}

/// What a verifier says of one item. Only [`Verdict::Valid`] lets anything pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Every step of GB/T 32918.2-2016 7.1 holds, and [s]G + [t]P is not the point at infinity.
    Valid,
    /// The key is not a point of the curve.
    KeyInvalid,
    /// r, s or t out of range, the point at infinity, or R differs from r.
    SignatureInvalid,
}

/// Verifies SM2 signatures in batches: many independent signatures, a verdict for each.
pub trait Verifier: Send + Sync {
    /// Writes the verdict of `items[i]` to `verdicts[i]`; variable time, public data only.
    ///
    /// # Panics
    /// If the two slices differ in length, which only our own mistake can bring about.
    fn verify_many(&self, items: &[VerifyItem<'_>], verdicts: &mut [Verdict]);

    /// The verdict of one item; for the places where there is only one.
    fn verify(&self, item: VerifyItem<'_>) -> Verdict {
        let mut verdicts = [Verdict::SignatureInvalid];
        self.verify_many(&[item], &mut verdicts);
        verdicts[0]
    }
}

/// Signs with one SM2 private key, wherever it lives.
pub trait Signer: Send {
    /// The key that verifies what this signer signs.
    fn public_key(&self) -> &PublicKey;

    /// Signs e and has verified the result in software (design.md 3, "A vote"); constant time.
    ///
    /// # Errors
    /// [`Error::Signing`] when the provider fails, [`Error::SignatureRejected`] when what came back
    /// is wrong.
    fn sign(&self, digest: &Digest) -> Result<Signature, Error>;

    /// `signatures[i]` becomes a signature of `digests[i]`, all of them verified as in
    /// [`Signer::sign`]; constant time. A provider that signs many at once overrides this.
    ///
    /// # Errors
    /// As [`Signer::sign`]; no signature must then be used.
    ///
    /// # Panics
    /// If the two slices differ in length, which only our own mistake can bring about.
    fn sign_many(&self, digests: &[Digest], signatures: &mut [Signature]) -> Result<(), Error> {
        assert_eq!(digests.len(), signatures.len(), "one signature for each digest");
        for (digest, signature) in digests.iter().zip(signatures) {
            *signature = self.sign(digest)?;
        }
        Ok(())
    }

    /// Seeds afresh what the signer draws nonces from, which its owner asks for when the last seed
    /// is [`SECONDS_PER_SEED`](crate::drbg::SECONDS_PER_SEED) old; this crate knows no clock. A
    /// card sees to its own generator.
    ///
    /// # Errors
    /// [`Error::Entropy`] and [`Error::EntropyUnhealthy`]; nothing more must be signed then.
    fn reseed(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Computes many SM3 digests at once, so that a SIMD back end can run them side by side.
pub trait Hasher: Send + Sync {
    /// `digests[i]` becomes SM3(`messages[i]`); lengths may differ.
    ///
    /// # Panics
    /// If the two slices differ in length.
    fn digest_many(&self, messages: &[&[u8]], digests: &mut [Digest]);

    /// `parents[i]` becomes SM3(left || right) of `pairs[i]`: the inner nodes of a Merkle tree.
    ///
    /// # Panics
    /// If the two slices differ in length.
    fn digest_pairs(&self, pairs: &[[Digest; 2]], parents: &mut [Digest]);
}

/// The back ends a node runs with; chosen at run time, cheap to clone.
#[derive(Clone)]
pub struct Provider {
    /// Name for logs and `hufu doctor`.
    pub name: &'static str,
    /// Signature verification.
    pub verifier: std::sync::Arc<dyn Verifier>,
    /// Digests.
    pub hasher: std::sync::Arc<dyn Hasher>,
    /// Seeds of the random bit generators.
    pub entropy: std::sync::Arc<dyn Entropy>,
    /// Encryption with keys that the host holds.
    pub cipher: std::sync::Arc<dyn Cipher>,
    /// Public keys that the verifier knows; it may know none.
    pub known_keys: std::sync::Arc<crate::known_keys::KnownKeys>,
}

impl core::fmt::Debug for Provider {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Provider").field("name", &self.name).finish_non_exhaustive()
    }
}
