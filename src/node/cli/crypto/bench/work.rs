//! The work that is measured: one closure for each line of the table.

use hufu_crypto::cipher::{self, Sm4Key};
use hufu_crypto::exchange::diffie_hellman;
use hufu_crypto::{
    Backend, Digest, Drbg, Error, PublicKey, Signature, Signer as _, Sm3, SoftwareSigner, Verdict,
    VerifyItem, entropy, software_provider_on,
};
use hufu_kernels::sm2::{self, KeyTable, tables_many};

/// Signatures verified or made by one call, each of another key where keys are fresh.
const SIGNATURES: u32 = 256;

/// Known keys of which all have a table, count.
const KNOWN_KEYS: u32 = 1_024;

/// Bytes of a long message.
const LONG: u32 = 16 * 1_024;

/// Messages side by side.
const STREAMS: u32 = 16;

/// Messages of 64 bytes in one call.
const SHORT_MESSAGES: u32 = 1_024;

/// Work to measure.
pub(super) struct Work {
    pub(super) name: &'static str,
    /// Items of one call, count.
    pub(super) items: u32,
    /// Bytes of an item; zero where bytes are not the point.
    pub(super) bytes: u32,
    pub(super) call: Box<dyn FnMut()>,
}

impl Work {
    fn new(name: &'static str, (items, bytes): (u32, u32), call: impl FnMut() + 'static) -> Self {
        Self { name, items, bytes, call: Box::new(call) }
    }
}

/// All work on one back end, always in the same order.
pub(super) fn workloads(backend: Backend) -> Result<Vec<Work>, Error> {
    let mut works = signatures(backend)?;
    works.extend(agreement(backend)?);
    works.extend(digests(backend));
    works.extend(ciphers(backend));
    works.extend(randomness()?);
    Ok(works)
}

/// Signatures, each by a key of its own over a digest of its own.
struct Signed {
    keys: Vec<PublicKey>,
    digests: Vec<Digest>,
    signatures: Vec<Signature>,
}

impl Signed {
    fn new(backend: Backend, count: u32) -> Result<Self, Error> {
        let mut signed = Self { keys: Vec::new(), digests: Vec::new(), signatures: Vec::new() };
        for number in 0..count {
            let signer = SoftwareSigner::generate()?.on(backend);
            let digest = Sm3::of(&[&number.to_be_bytes()]);
            signed.signatures.push(signer.sign_unverified(&digest)?);
            signed.keys.push(*signer.public_key());
            signed.digests.push(digest);
        }
        Ok(signed)
    }

    fn items(&self) -> Vec<VerifyItem<'_>> {
        let parts = self.keys.iter().zip(&self.digests).zip(&self.signatures);
        parts
            .map(|((key, digest), signature)| VerifyItem { key, digest: *digest, signature })
            .collect()
    }
}

fn signatures(backend: Backend) -> Result<Vec<Work>, Error> {
    let verifier = software_provider_on(backend).verifier;
    let signed = Signed::new(backend, SIGNATURES)?;
    let single = Signed::new(backend, SIGNATURES)?;
    let single_verifier = std::sync::Arc::clone(&verifier);
    let signer = SoftwareSigner::generate()?.on(backend);
    let one = SoftwareSigner::generate()?.on(backend);
    let digests = signed.digests.clone();
    let mut made = vec![Signature([0; 64]); digests.len()];
    Ok(vec![
        Work::new("SM2 verify, fresh keys", (SIGNATURES, 0), move || {
            let items = signed.items();
            let mut verdicts = vec![Verdict::KeyInvalid; items.len()];
            verifier.verify_many(&items, &mut verdicts);
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Valid), "all are good");
        }),
        known_keys(backend)?,
        Work::new("SM2 verify, one at a time", (SIGNATURES, 0), move || {
            for item in single.items() {
                assert!(single_verifier.verify(item) == Verdict::Valid, "all are good");
            }
        }),
        Work::new("SM2 sign", (SIGNATURES, 0), move || {
            let items: Vec<(&SoftwareSigner, Digest)> =
                digests.iter().map(|digest| (&signer, *digest)).collect();
            let signed = SoftwareSigner::sign_many_unverified(&items, &mut made);
            assert!(signed.is_ok(), "a good key signs");
        }),
        Work::new("SM2 sign, one at a time", (1, 0), move || {
            let signed = one.sign_unverified(&Digest::ZERO);
            assert!(signed.is_ok(), "a good key signs");
        }),
    ])
}

/// Verification with the tables of all keys at hand, the keys in an order that no cache foresees.
fn known_keys(backend: Backend) -> Result<Work, Error> {
    let signed = Signed::new(backend, KNOWN_KEYS)?;
    let mut tables = vec![KeyTable::empty(); signed.keys.len()];
    let keys: Vec<&[u8; 64]> = signed.keys.iter().map(|key| &key.0).collect();
    tables_many(backend, &keys, &mut tables.iter_mut().collect::<Vec<&mut KeyTable>>());
    let mut order: Vec<usize> = (0..tables.len()).collect();
    // By digest: as good as shuffled, and the same in every run.
    order.sort_by_key(|place| signed.digests[*place]);
    let mut verdicts = vec![sm2::Verdict::KeyInvalid; order.len()];
    Ok(Work::new("SM2 verify, 1024 known keys", (KNOWN_KEYS, 0), move || {
        let items: Vec<sm2::Item<'_>> = order
            .iter()
            .map(|place| sm2::Item {
                key: &signed.keys[*place].0,
                digest: &signed.digests[*place].0,
                signature: &signed.signatures[*place].0,
                table: Some(&tables[*place]),
            })
            .collect();
        sm2::verify_many(backend, &items, &mut verdicts);
        assert!(verdicts.iter().all(|verdict| *verdict == sm2::Verdict::Valid), "all are good");
    }))
}

fn agreement(backend: Backend) -> Result<Vec<Work>, Error> {
    let (own, other) = (SoftwareSigner::generate()?, SoftwareSigner::generate()?);
    let key = *other.public_key();
    Ok(vec![Work::new("SM2 ECDH", (1, 0), move || {
        let shared = diffie_hellman(backend, &own, &key);
        assert!(shared.is_ok(), "two good keys agree");
    })])
}

fn digests(backend: Backend) -> Vec<Work> {
    let hasher = software_provider_on(backend).hasher;
    let pair_hasher = std::sync::Arc::clone(&hasher);
    let stream = vec![0x5a; size(LONG)];
    let long = vec![stream.clone(); size(STREAMS)];
    let long_hasher = std::sync::Arc::clone(&hasher);
    let short = vec![[0x5a; 64]; size(SHORT_MESSAGES)];
    let pairs = vec![[Digest([0x5a; 32]); 2]; size(SHORT_MESSAGES)];
    vec![
        Work::new("SM3, one stream of 16 KiB", (1, LONG), move || {
            std::hint::black_box(Sm3::of(&[&stream]));
        }),
        Work::new("SM3, 16 streams of 16 KiB", (STREAMS, LONG), move || {
            let messages: Vec<&[u8]> = long.iter().map(Vec::as_slice).collect();
            let mut digests = [Digest::ZERO; 16];
            long_hasher.digest_many(&messages, &mut digests);
            std::hint::black_box(digests);
        }),
        Work::new("SM3, messages of 64 B", (SHORT_MESSAGES, 64), move || {
            let messages: Vec<&[u8]> = short.iter().map(<[u8; 64]>::as_slice).collect();
            let mut digests = vec![Digest::ZERO; messages.len()];
            hasher.digest_many(&messages, &mut digests);
            std::hint::black_box(digests);
        }),
        Work::new("SM3, Merkle pairs", (SHORT_MESSAGES, 64), move || {
            let mut parents = vec![Digest::ZERO; pairs.len()];
            pair_hasher.digest_pairs(&pairs, &mut parents);
            std::hint::black_box(parents);
        }),
    ]
}

fn ciphers(backend: Backend) -> Vec<Work> {
    let key = || Sm4Key::from_bytes(&[7; 16]);
    let aead = software_provider_on(backend).cipher.sm4_gcm(&key());
    let [mut counted, mut chained, mut sealed] = [(); 3].map(|()| vec![0x5a; size(LONG)]);
    let (counter_key, chain_key) = (key(), key());
    vec![
        Work::new("SM4-CTR, 16 KiB", (1, LONG), move || {
            cipher::ctr(backend, &counter_key, &[0; 16], &mut counted);
        }),
        Work::new("SM4-GCM, 16 KiB", (1, LONG), move || {
            std::hint::black_box(aead.seal(&[0; 12], &[], &mut sealed));
        }),
        Work::new("SM4-CBC decrypt, 16 KiB", (1, LONG), move || {
            let done = cipher::cbc_decrypt(backend, &chain_key, &[0; 16], &mut chained);
            assert!(done.is_ok(), "whole blocks");
        }),
    ]
}

fn randomness() -> Result<Vec<Work>, Error> {
    let mut generator = Drbg::new(entropy::system(), "hufu crypto bench")?;
    Ok(vec![Work::new("random bytes, 32 B", (1, 32), move || {
        let drawn = generator.fill(&mut [0; 32]);
        assert!(drawn.is_ok(), "the source does not run dry");
    })])
}

/// A count as a size in memory.
fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
