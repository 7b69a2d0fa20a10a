//! The software signer: an SM2 private key in memory, and the nonces of its signatures.
//!
//! ```text
//! digests --> nonces: SM3(fresh randomness || d || e) --> kernels, in lanes --> verified --> out
//! ```
//!
//! # Nonces
//! Who learns a nonce, or sees one used for two digests, has the key. Every nonce is therefore
//! hedged: SM3 of 32 bytes of the generator, of d and of e. As long as the generator is good,
//! nobody can guess it; should it ever repeat itself (a restored machine, a broken source), the
//! nonce still belongs to one key and one digest, as that of RFC 6979 does. A [`repeatable`] signer
//! is one whose randomness always repeats.
//!
//! [`repeatable`]: SoftwareSigner::repeatable

use std::sync::{Arc, Mutex, PoisonError};

use hufu_kernels::sm2 as kernel;
use hufu_kernels::{Backend, secret, sm3};
use sm2::pkcs8::{DecodePrivateKey, EncodePrivateKey, LineEnding};
use zeroize::{Zeroize, Zeroizing};

use crate::digest::Digest;
use crate::keys::{PublicKey, Signature};
use crate::own_key::OwnKey;
use crate::provider::Signer;
use crate::{Drbg, Entropy, Error, entropy};

/// Signatures made at once, count: enough to fill any number of lanes, and little enough for the
/// stack.
const ITEMS_PER_CALL: usize = 64;

/// Nonces tried for one signature, and draws for one key, count: each fails with probability 2^-32,
/// so that none is found only where something is broken.
const TRIES_MAX: u8 = 8;

/// Bytes hashed to a nonce, and what sets them apart from anything else that is hashed.
const NONCE_DOMAIN: &[u8; 16] = b"hufu sm2 nonce 1";
const NONCE_MESSAGE_SIZE: usize = 16 + 32 + 32 + 32 + 1;

/// An SM2 private key held in memory, neither printed nor cloned, and overwritten when it is
/// dropped; moving it moves no secret. A key that must never lie in a host's memory belongs in a
/// card.
pub struct SoftwareSigner {
    secret: Box<Secret>,
    nonces: Nonces,
    /// The public key, which checks what was signed.
    own: OwnKey,
    backend: Backend,
}

struct Secret {
    /// Big-endian; for key files, encryption and key exchange.
    d: [u8; 32],
    /// Overwrites itself.
    key: kernel::PrivateKey,
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.d.zeroize();
    }
}

/// Where the randomness of nonces comes from.
enum Nonces {
    /// The signer's own generator. One signature waits for another only where threads share a
    /// signer.
    Drawn(Mutex<Generator>),
    /// Zeros.
    Repeatable,
}

/// A generator and where its seeds come from.
struct Generator {
    source: Arc<dyn Entropy>,
    /// Seeded when it is first asked.
    drbg: Option<Drbg>,
}

impl Generator {
    /// The generator, seeded: afresh if that `is_due` or it never was.
    fn seeded(&mut self, is_due: bool) -> Result<&mut Drbg, Error> {
        match &mut self.drbg {
            Some(drbg) => {
                if is_due {
                    drbg.reseed()?;
                }
                Ok(drbg)
            }
            none => Ok(none.insert(Drbg::new(Arc::clone(&self.source), "hufu sm2 signer")?)),
        }
    }
}

impl Nonces {
    /// From seeds of `source`.
    fn drawn_from(source: Arc<dyn Entropy>) -> Self {
        Self::Drawn(Mutex::new(Generator { source, drbg: None }))
    }

    /// The randomness of the next call.
    fn draw(&self) -> Result<Zeroizing<[u8; 32]>, Error> {
        let mut drawn = Zeroizing::new([0; 32]);
        if let Self::Drawn(generator) = self {
            let mut generator = generator.lock().unwrap_or_else(PoisonError::into_inner);
            generator.seeded(false)?.fill(&mut *drawn)?;
        }
        Ok(drawn)
    }

    fn reseed(&self) -> Result<(), Error> {
        if let Self::Drawn(generator) = self {
            let mut generator = generator.lock().unwrap_or_else(PoisonError::into_inner);
            generator.seeded(true)?;
        }
        Ok(())
    }
}

/// SM3(domain || randomness || d || e || number of the try) for each item; constant time.
fn draw_nonces(
    items: &[(&SoftwareSigner, Digest)],
    attempt: u8,
    nonces: &mut [[u8; 32]],
) -> Result<(), Error> {
    let mut messages = Zeroizing::new([[0; NONCE_MESSAGE_SIZE]; ITEMS_PER_CALL]);
    let mut last: Option<(&SoftwareSigner, Zeroizing<[u8; 32]>)> = None;
    for (message, (signer, digest)) in messages.iter_mut().zip(items) {
        // Neighbours of one signer share a draw: they differ in e, or are the same signature.
        let drawn = match last.take() {
            Some((before, drawn)) if core::ptr::eq(before, *signer) => drawn,
            _ => signer.nonces.draw()?,
        };
        let (domain, rest) = message.split_at_mut(NONCE_DOMAIN.len());
        domain.copy_from_slice(NONCE_DOMAIN);
        rest[..32].copy_from_slice(&*drawn);
        rest[32..64].copy_from_slice(&signer.secret.d);
        rest[64..96].copy_from_slice(&digest.0);
        rest[96] = attempt;
        last = Some((signer, drawn));
    }
    let Some((first, _)) = items.first() else { return Ok(()) };
    let mut parts: [&[u8]; ITEMS_PER_CALL] = [&[]; ITEMS_PER_CALL];
    for (part, message) in parts.iter_mut().zip(messages.iter()) {
        *part = message;
    }
    sm3::digest_many(first.backend, &parts[..items.len()], nonces);
    Ok(())
}

impl SoftwareSigner {
    /// A fresh key from operating-system entropy (GB/T 32918.1-2016 6.1).
    ///
    /// # Errors
    /// As [`SoftwareSigner::generate_from`].
    pub fn generate() -> Result<Self, Error> {
        Self::generate_from(entropy::system())
    }

    /// A fresh key from a generator that is seeded from `source`, as that of its nonces will be
    /// (GB/T 32918.1-2016 6.1).
    ///
    /// # Errors
    /// Those of [`Drbg::new`]; [`Error::NoScalar`] when no draw is a key.
    pub fn generate_from(source: Arc<dyn Entropy>) -> Result<Self, Error> {
        let mut generator = Drbg::new(Arc::clone(&source), "hufu sm2 key")?;
        let mut bytes = Zeroizing::new([0; 32]);
        for _ in 0..TRIES_MAX {
            generator.fill(&mut *bytes)?;
            // A draw out of range (probability 2^-32) is drawn again, never reduced: reducing would
            // bias the key.
            if let Ok(signer) = Self::from_bytes(&bytes) {
                return Ok(signer.seeded_by(source));
            }
        }
        Err(Error::NoScalar)
    }

    /// The key with the given big-endian scalar.
    ///
    /// # Errors
    /// [`Error::PrivateKeyRange`] unless the scalar is in 1..=n-2 (GB/T 32918.1-2016 6.1).
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, Error> {
        Self::build(bytes, Nonces::drawn_from(entropy::system()))
    }

    /// A signer that signs the same digest with the same bytes in every run: for simulations and
    /// loads that must repeat. Its nonces are no easier to guess than its key.
    ///
    /// # Errors
    /// As [`SoftwareSigner::from_bytes`].
    pub fn repeatable(bytes: &[u8; 32]) -> Result<Self, Error> {
        Self::build(bytes, Nonces::Repeatable)
    }

    /// The key of an unencrypted PKCS#8 PEM text.
    ///
    /// # Errors
    /// [`Error::PrivateKeyEncoding`] for any other text, [`Error::PrivateKeyRange`] for d = n - 1.
    pub fn from_pkcs8_pem(text: &str) -> Result<Self, Error> {
        let secret = sm2::SecretKey::from_pkcs8_pem(text).map_err(|_| Error::PrivateKeyEncoding)?;
        let bytes = Zeroizing::new(secret.to_bytes().into());
        Self::from_bytes(&bytes)
    }

    /// This key as an unencrypted PKCS#8 PEM text, zeroised when dropped.
    ///
    /// # Errors
    /// [`Error::PrivateKeyEncoding`] if the encoder refuses.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, Error> {
        let secret = sm2::SecretKey::from_slice(&*self.private_bytes())
            .map_err(|_| Error::PrivateKeyEncoding)?;
        secret.to_pkcs8_pem(LineEnding::LF).map_err(|_| Error::PrivateKeyEncoding)
    }

    /// The signer on a back end of the caller's choice instead of the best.
    #[must_use]
    pub fn on(mut self, backend: Backend) -> Self {
        self.own = OwnKey::on(*self.own.public_key(), backend);
        self.backend = backend;
        self
    }

    /// The back end it signs on.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// The signer with the seeds of its nonces from `source` instead of the operating system, as
    /// that of a [`Provider`](crate::Provider) is; a [`repeatable`](Self::repeatable) one has none.
    #[must_use]
    pub fn seeded_by(mut self, source: Arc<dyn Entropy>) -> Self {
        if let Nonces::Drawn(_) = self.nonces {
            self.nonces = Nonces::drawn_from(source);
        }
        self
    }

    /// Signs e without verifying the result: for clients, whose node verifies it at once anyway.
    /// Constant time.
    ///
    /// # Errors
    /// [`Error::Entropy`] without randomness, [`Error::Signing`] when no signature could be made.
    pub fn sign_unverified(&self, digest: &Digest) -> Result<Signature, Error> {
        let mut signature = [Signature([0; 64])];
        Self::sign_many_unverified(&[(self, *digest)], &mut signature)?;
        let [signature] = signature;
        Ok(signature)
    }

    /// `signatures[i]` becomes that of the digest of `items[i]` by its signer, without verifying:
    /// for clients with many keys. Constant time; on the back end of the first signer.
    ///
    /// # Errors
    /// As [`SoftwareSigner::sign_unverified`]; no signature must then be used.
    ///
    /// # Panics
    /// If the two slices differ in length.
    pub fn sign_many_unverified(
        items: &[(&Self, Digest)],
        signatures: &mut [Signature],
    ) -> Result<(), Error> {
        assert_eq!(items.len(), signatures.len(), "one signature for each item");
        let parts = items.chunks(ITEMS_PER_CALL).zip(signatures.chunks_mut(ITEMS_PER_CALL));
        for (items, signatures) in parts {
            sign_part(items, signatures)?;
        }
        Ok(())
    }

    /// d, big-endian, for what else this crate does with the key.
    pub(crate) fn private_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.secret.d)
    }

    fn build(bytes: &[u8; 32], nonces: Nonces) -> Result<Self, Error> {
        let built = Self::build_secret(bytes);
        secret::wipe_stack();
        let secret = built.ok_or(Error::PrivateKeyRange)?;
        let backend = Backend::best();
        let own = OwnKey::on(PublicKey(*secret.key.public_key()), backend);
        Ok(Self { secret, nonces, own, backend })
    }

    /// Leaves copies on the stack, which the caller overwrites.
    #[inline(never)]
    fn build_secret(bytes: &[u8; 32]) -> Option<Box<Secret>> {
        let key = kernel::PrivateKey::new(Backend::best(), bytes)?;
        Some(Box::new(Secret { d: *bytes, key }))
    }
}

/// Signs up to [`ITEMS_PER_CALL`] items.
fn sign_part(
    items: &[(&SoftwareSigner, Digest)],
    signatures: &mut [Signature],
) -> Result<(), Error> {
    let mut made = [None; ITEMS_PER_CALL];
    let made = &mut made[..items.len()];
    try_nonces(items, 0, made)?;
    for ((item, made), signature) in items.iter().zip(made).zip(signatures) {
        let mut attempt = 1;
        while made.is_none() && attempt < TRIES_MAX {
            try_nonces(core::slice::from_ref(item), attempt, core::slice::from_mut(made))?;
            attempt += 1;
        }
        *signature = Signature((*made).ok_or(Error::Signing)?);
    }
    Ok(())
}

/// Signs with the nonces of this try; `None` where they cannot be used.
fn try_nonces(
    items: &[(&SoftwareSigner, Digest)],
    attempt: u8,
    made: &mut [Option<[u8; 64]>],
) -> Result<(), Error> {
    let Some((first, _)) = items.first() else { return Ok(()) };
    let mut nonces = Zeroizing::new([[0; 32]; ITEMS_PER_CALL]);
    draw_nonces(items, attempt, &mut nonces[..items.len()])?;
    let item = |place: usize| {
        let (signer, digest) = &items[place];
        kernel::SignItem { key: &signer.secret.key, digest: &digest.0, nonce: &nonces[place] }
    };
    let mut asked = [item(0); ITEMS_PER_CALL];
    for (place, asked) in asked.iter_mut().enumerate().take(items.len()) {
        *asked = item(place);
    }
    kernel::sign_many(first.backend, &asked[..items.len()], made);
    Ok(())
}

impl Signer for SoftwareSigner {
    fn public_key(&self) -> &PublicKey {
        self.own.public_key()
    }

    fn sign(&self, digest: &Digest) -> Result<Signature, Error> {
        let mut signature = [Signature([0; 64])];
        self.sign_many(core::slice::from_ref(digest), &mut signature)?;
        let [signature] = signature;
        Ok(signature)
    }

    fn sign_many(&self, digests: &[Digest], signatures: &mut [Signature]) -> Result<(), Error> {
        assert_eq!(digests.len(), signatures.len(), "one signature for each digest");
        let parts = digests.chunks(ITEMS_PER_CALL).zip(signatures.chunks_mut(ITEMS_PER_CALL));
        for (digests, signatures) in parts {
            let mut items = [(self, Digest::ZERO); ITEMS_PER_CALL];
            for (item, digest) in items.iter_mut().zip(digests) {
                item.1 = *digest;
            }
            sign_part(&items[..digests.len()], signatures)?;
            self.own.check_many(digests, signatures)?;
        }
        Ok(())
    }

    fn reseed(&self) -> Result<(), Error> {
        self.nonces.reseed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn a_signature_that_its_key_does_not_accept_is_not_released() {
        let mut signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        signer.own = OwnKey::new(*SoftwareSigner::from_bytes(&[8; 32]).unwrap().public_key());
        let refused = signer.sign(&Digest([3; 32]));
        assert!(matches!(refused, Err(Error::SignatureRejected)));
    }

    /// Counts what is asked of it, and gives nothing once it is told so.
    #[derive(Default)]
    struct Watched {
        asked: AtomicU64,
        is_empty: core::sync::atomic::AtomicBool,
    }

    impl Entropy for Watched {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.is_empty.load(Ordering::Relaxed) {
                return Err(Error::Entropy { cause: "the source is empty".to_owned() });
            }
            entropy::fill(bytes)
        }
    }

    #[test]
    fn seeds_come_from_the_source_that_the_signer_was_given() {
        let source = Arc::new(Watched::default());
        let asked = || source.asked.load(Ordering::Relaxed);
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let signer = signer.seeded_by(Arc::<Watched>::clone(&source));
        assert_eq!(asked(), 0, "nothing is asked before it is needed");
        signer.sign(&Digest([3; 32])).unwrap();
        let first = asked();
        assert!(first > 0, "the first signature seeds the generator");
        signer.sign_many(&[Digest([3; 32]); 9], &mut [Signature([0; 64]); 9]).unwrap();
        assert_eq!(asked(), first, "one seed lasts for many signatures");
        signer.reseed().unwrap();
        assert_eq!(asked(), first + 1, "a fresh seed is drawn when it is asked for");

        source.is_empty.store(true, Ordering::Relaxed);
        assert!(matches!(signer.reseed(), Err(Error::Entropy { .. })));
        signer.sign(&Digest([3; 32])).unwrap();
        let unseeded = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let unseeded = unseeded.seeded_by(Arc::<Watched>::clone(&source));
        assert!(matches!(unseeded.sign(&Digest([3; 32])), Err(Error::Entropy { .. })));
        assert!(SoftwareSigner::generate_from(Arc::<Watched>::clone(&source)).is_err());
    }

    #[test]
    fn a_key_comes_from_the_source_and_not_from_one_that_is_stuck() {
        struct Zeros;
        impl Entropy for Zeros {
            fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
                bytes.fill(0);
                Ok(())
            }
        }
        let source = Arc::new(Watched::default());
        let asked = || source.asked.load(Ordering::Relaxed);
        let made = SoftwareSigner::generate_from(Arc::<Watched>::clone(&source)).unwrap();
        let for_the_key = asked();
        assert!(for_the_key > 0);
        made.sign(&Digest([3; 32])).unwrap();
        assert!(asked() > for_the_key, "and so do its nonces");
        let refused = SoftwareSigner::generate_from(Arc::new(Zeros)).err();
        assert!(matches!(refused, Some(Error::EntropyUnhealthy { .. })), "{refused:?}");
    }

    #[test]
    fn reseeding_changes_nothing_for_a_signer_that_repeats() {
        let signer = SoftwareSigner::repeatable(&[7; 32]).unwrap().seeded_by(entropy::system());
        let before = signer.sign(&Digest([3; 32])).unwrap();
        signer.reseed().unwrap();
        assert_eq!(signer.sign(&Digest([3; 32])).unwrap(), before);
    }

    /// A nonce differs with each of randomness, key, digest and try.
    #[test]
    fn nonces_are_hedged() {
        let signers = [
            SoftwareSigner::from_bytes(&[7; 32]).unwrap(),
            SoftwareSigner::repeatable(&[7; 32]).unwrap(),
            SoftwareSigner::repeatable(&[8; 32]).unwrap(),
        ];
        let mut all = Vec::new();
        for attempt in 0..2 {
            for signer in &signers {
                let items = [(signer, Digest([1; 32])), (signer, Digest([2; 32]))];
                let mut nonces = [[0; 32]; 2];
                draw_nonces(&items, attempt, &mut nonces).unwrap();
                all.extend(nonces);
                let mut again = [[0; 32]; 2];
                draw_nonces(&items, attempt, &mut again).unwrap();
                match signer.nonces {
                    Nonces::Repeatable => assert_eq!(again, nonces),
                    Nonces::Drawn(_) => all.extend(again),
                }
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((count, all.len()), (16, 16));
        // The randomness of one signer is not that of its neighbour, which may have none.
        let items = [(&signers[1], Digest([1; 32])), (&signers[0], Digest([1; 32]))];
        let [mut before, mut again] = [[[0; 32]; 2]; 2];
        draw_nonces(&items, 0, &mut before).unwrap();
        draw_nonces(&items, 0, &mut again).unwrap();
        assert!(before[0] == again[0] && before[1] != again[1]);
    }
}
