//! The cache never changes a verdict, holds no more than it may, and lets in nobody met once.

use super::*;
use crate::{
    Provider, Signature, Signer, SoftwareSigner, Verdict, VerifyItem, identity_digest,
    software_provider_with,
};

fn signers(count: u8) -> Vec<SoftwareSigner> {
    (1..=count).map(|number| SoftwareSigner::from_bytes(&[number; 32]).unwrap()).collect()
}

/// A valid item and its copy with a flipped bit for each signer; what the provider says of them.
fn verify(provider: &Provider, signers: &[SoftwareSigner]) {
    let signed: Vec<(Digest, Signature)> = signers
        .iter()
        .map(|signer| (Digest(signer.public_key().0[..32].try_into().unwrap()), signer))
        .map(|(digest, signer)| (digest, signer.sign(&digest).unwrap()))
        .collect();
    let mut items = Vec::new();
    let mut others: Vec<Signature> = signed.iter().map(|(_, signature)| *signature).collect();
    for (place, other) in others.iter_mut().enumerate() {
        other.0[place % 64] ^= 1;
    }
    for ((signer, (digest, signature)), other) in signers.iter().zip(&signed).zip(&others) {
        let key = signer.public_key();
        items.push(VerifyItem { key, digest: *digest, signature });
        items.push(VerifyItem { key, digest: *digest, signature: other });
    }
    let mut verdicts = vec![Verdict::KeyInvalid; items.len()];
    provider.verifier.verify_many(&items, &mut verdicts);
    for pair in verdicts.chunks(2) {
        assert_eq!(pair, [Verdict::Valid, Verdict::SignatureInvalid]);
    }
}

fn meet(provider: &Provider, signers: &[SoftwareSigner]) {
    provider.known_keys.meet(signers.iter().map(SoftwareSigner::public_key));
}

fn make_all(provider: &Provider) -> usize {
    core::iter::repeat_with(|| provider.known_keys.make(&*provider.hasher))
        .take_while(|count| *count > 0)
        .sum()
}

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

/// The plan of a node's memory counts every byte that is taken, and few that are not.
#[test]
fn the_memory_that_is_planned_is_what_is_taken() {
    for count in [4_u32, 100, 3_585, 4_096] {
        let cache = KnownKeys::new(Backend::PORTABLE, usize::try_from(count).unwrap());
        let (slots, waiting) = (cache.slots.read().unwrap(), cache.waiting.lock().unwrap());
        // Of eight buckets seven are used at most; each has a byte of its own.
        let buckets = (slots.places.capacity() * 8).div_ceil(7).next_power_of_two();
        let taken = slots.slots.capacity() * (size_of::<Slot>() + size_of::<KeyTable>() + 16)
            + buckets * (size_of::<(PublicKey, usize)>() + 1)
            + waiting.keys.capacity() * size_of::<PublicKey>()
            + waiting.met.capacity() * size_of::<u64>();
        let (planned, taken) = (KnownKeys::memory_size(count), taken as u64);
        assert!(planned >= taken, "{count}: {planned} planned, {taken} taken");
        assert!(planned < taken + taken / 8, "{count}: {planned} planned, {taken} taken");
    }
    assert_eq!(KnownKeys::memory_size(0), 0);
    let none = KnownKeys::new(Backend::PORTABLE, 0);
    let waiting = none.waiting.lock().unwrap();
    assert_eq!((waiting.keys.capacity(), waiting.met.capacity()), (0, 0));
}

#[test]
fn a_key_met_twice_is_known_and_judged_as_before() {
    let signers = signers(20);
    for backend in backends() {
        let provider = software_provider_with(backend, 32);
        meet(&provider, &signers);
        assert_eq!(make_all(&provider), 0, "once is not enough");
        verify(&provider, &signers);
        meet(&provider, &signers[..13]);
        assert_eq!(make_all(&provider), 13);
        let counts = provider.known_keys.counts();
        assert_eq!((counts.held, counts.hits, counts.misses), (13, 0, 40));
        verify(&provider, &signers);
        let counts = provider.known_keys.counts();
        assert_eq!((counts.hits, counts.misses), (26, 54), "known and fresh in one batch");
        meet(&provider, &signers[..13]);
        meet(&provider, &signers[..13]);
        assert_eq!(make_all(&provider), 0, "who is known waits for nothing");
    }
}

#[test]
fn it_holds_no_more_than_it_may_and_keeps_what_is_used() {
    let signers = signers(40);
    let provider = software_provider_with(Backend::best(), 8);
    let make = |signers: &[SoftwareSigner]| {
        meet(&provider, signers);
        meet(&provider, signers);
        make_all(&provider)
    };
    assert_eq!(make(&signers[..8]), 8);
    for round in signers[8..].chunks(4) {
        // The first four are asked for all the time and stay.
        verify(&provider, &signers[..4]);
        assert_eq!(make(round), 4);
        let counts = provider.known_keys.counts();
        assert_eq!(counts.held, 8);
        assert_eq!(counts.made - counts.evicted, counts.held);
    }
    let before = provider.known_keys.counts();
    verify(&provider, &signers[..4]);
    let after = provider.known_keys.counts();
    assert_eq!((after.hits - before.hits, after.misses), (8, before.misses));
    verify(&provider, &signers);
}

#[test]
fn the_digest_of_an_identity_is_the_same_known_or_not() {
    let signers = signers(12);
    let provider = software_provider_with(Backend::best(), 8);
    meet(&provider, &signers[..5]);
    meet(&provider, &signers[..5]);
    assert_eq!(make_all(&provider), 5);
    let keys: Vec<&PublicKey> = signers.iter().map(SoftwareSigner::public_key).collect();
    let mut digests = vec![Digest::ZERO; keys.len()];
    provider.known_keys.identity_digests(&*provider.hasher, &keys, &mut digests);
    for (key, digest) in keys.iter().zip(digests) {
        assert_eq!(digest, identity_digest(IDENTITY_DEFAULT, key));
    }
}

#[test]
fn what_is_no_key_is_never_known() {
    let provider = software_provider_with(Backend::best(), 8);
    let bad = PublicKey([7; 64]);
    for _ in 0..3 {
        provider.known_keys.meet([&bad].into_iter());
    }
    assert_eq!(make_all(&provider), 0);
    assert_eq!(provider.known_keys.counts().held, 0);
    let item = VerifyItem { key: &bad, digest: Digest::ZERO, signature: &Signature([1; 64]) };
    assert_eq!(provider.verifier.verify(item), Verdict::KeyInvalid);
}

#[test]
fn a_table_in_use_does_not_give_way() {
    let signers = signers(12);
    let provider = software_provider_with(Backend::best(), 8);
    let make = |signers: &[SoftwareSigner]| {
        meet(&provider, signers);
        meet(&provider, signers);
        make_all(&provider)
    };
    assert_eq!(make(&signers[..8]), 8);
    let mut tables = [const { None }; 8];
    provider.known_keys.tables(signers.iter().map(SoftwareSigner::public_key), &mut tables);
    assert!(tables.iter().all(Option::is_some));
    assert_eq!(make(&signers[8..]), 0, "all are held");
    let counts = provider.known_keys.counts();
    assert_eq!((counts.held, counts.evicted), (8, 0));
    drop(tables);
    assert_eq!(make(&signers[8..]), 4);
    assert_eq!(provider.known_keys.counts().evicted, 4);
}

#[test]
fn tables_in_use_are_left_alone_while_others_make_theirs() {
    let signers = signers(30);
    let provider = software_provider_with(Backend::best(), 8);
    std::thread::scope(|scope| {
        for part in signers.chunks(10) {
            let provider = &provider;
            scope.spawn(move || {
                for _ in 0..20 {
                    meet(provider, part);
                    provider.known_keys.make(&*provider.hasher);
                    verify(provider, part);
                }
            });
        }
    });
    let counts = provider.known_keys.counts();
    assert!(counts.hits > 0 && counts.held <= 8);
    assert_eq!(counts.made - counts.evicted, counts.held);
}

#[test]
fn a_cache_of_no_keys_knows_none() {
    let signers = signers(3);
    let provider = software_provider_with(Backend::best(), 0);
    meet(&provider, &signers);
    meet(&provider, &signers);
    assert_eq!(make_all(&provider), 0);
    verify(&provider, &signers);
    assert_eq!(provider.known_keys.counts(), KnownKeysCounts::default());
}
