//! A signer whose nonces never come of an old seed.
//!
//! ```text
//! tile --sign(digest, now)--> seed older than a minute? --yes--> reseed --> sign
//! ```
//!
//! `crypto` counts its draws and knows no clock; GM/T 0105-2021 wants both limits kept. So the
//! tiles that sign (votes and proposals, proofs of links) hold their signer in here, and say what
//! time it is. The question is asked just before a signature and costs a comparison: a tile that
//! sleeps wakes for nothing, and nothing is ever signed from a seed that is too old.

use std::time::Duration;

use hufu_crypto::drbg::SECONDS_PER_SEED;
use hufu_crypto::{Digest, Error, PublicKey, Signature, Signer};
use hufu_runtime::clock::Nanos;

/// How long a seed lasts.
const SEED_LIFETIME: Duration = Duration::from_secs(SECONDS_PER_SEED);

/// See the module.
pub struct SeededSigner {
    signer: Box<dyn Signer>,
    /// Nothing before the first signature: who held the signer before may have drawn from it.
    seeded_at: Option<Nanos>,
}

impl SeededSigner {
    /// Signs with `signer`.
    #[must_use]
    pub const fn new(signer: Box<dyn Signer>) -> Self {
        Self { signer, seeded_at: None }
    }

    /// The key that verifies what this signer signs.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.signer.public_key()
    }

    /// Signs e, with a fresh seed if one is due.
    ///
    /// # Errors
    /// Those of [`Signer::sign`] and [`Signer::reseed`]. A seed that failed is due the next time
    /// too.
    pub fn sign(&mut self, digest: &Digest, now: Nanos) -> Result<Signature, Error> {
        let age = self.seeded_at.map(|seeded_at| now.duration_since(seeded_at));
        if age.is_none_or(|age| age >= SEED_LIFETIME) {
            self.signer.reseed()?;
            self.seeded_at = Some(now);
        }
        self.signer.sign(digest)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use hufu_crypto::{Entropy, SoftwareSigner, entropy};

    use super::*;

    /// Counts the seeds drawn from it, or has none.
    #[derive(Default)]
    struct Source {
        draws: AtomicU64,
        is_empty: AtomicBool,
    }

    impl Entropy for Source {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
            if self.is_empty.load(Ordering::Relaxed) {
                return Err(Error::Entropy { cause: "empty".to_owned() });
            }
            self.draws.fetch_add(1, Ordering::Relaxed);
            entropy::fill(bytes)
        }
    }

    fn seconds(count: u64) -> Nanos {
        Nanos::ZERO.after(Duration::from_secs(count))
    }

    #[test]
    fn a_seed_lasts_a_minute_and_no_longer() {
        let source = Arc::new(Source::default());
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let signer = signer.seeded_by(Arc::<Source>::clone(&source));
        let mut signer = SeededSigner::new(Box::new(signer));
        let mut draws_after = |at: Nanos| {
            signer.sign(&Digest([3; 32]), at).unwrap();
            source.draws.load(Ordering::Relaxed)
        };
        let first = draws_after(seconds(1_000));
        let almost = Nanos::from_nanos(seconds(1_060).as_nanos() - 1);
        for at in [seconds(1_000), seconds(1_030), almost] {
            assert_eq!(draws_after(at), first, "{at:?}");
        }
        assert_eq!(draws_after(seconds(1_060)), first + 1);
        assert_eq!(draws_after(seconds(1_119)), first + 1, "counted from the last seed");
        assert_eq!(draws_after(seconds(1_120)), first + 2);
        assert_eq!(
            draws_after(seconds(90_000)),
            first + 3,
            "once, however long nothing was signed"
        );
    }

    #[test]
    fn nothing_is_signed_while_a_seed_is_due_and_cannot_be_had() {
        let source = Arc::new(Source::default());
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let signer = signer.seeded_by(Arc::<Source>::clone(&source));
        let mut signer = SeededSigner::new(Box::new(signer));
        let digest = Digest([3; 32]);
        signer.sign(&digest, seconds(0)).unwrap();
        source.is_empty.store(true, Ordering::Relaxed);
        signer.sign(&digest, seconds(59)).unwrap();
        for at in [60, 61, 200] {
            let refused = signer.sign(&digest, seconds(at));
            assert!(matches!(refused, Err(Error::Entropy { .. })), "{at}");
        }
        source.is_empty.store(false, Ordering::Relaxed);
        signer.sign(&digest, seconds(201)).unwrap();
    }
}
