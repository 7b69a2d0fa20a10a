//! Key exchange against the standard's example, between every pair of back ends, and against an
//! attacker in the middle.

use super::*;
use crate::{Signer as _, entropy, identity_digest};

fn hex<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    crate::digest::decode_hex(text, &mut bytes).unwrap();
    bytes
}

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

fn generator() -> Drbg {
    Drbg::new(entropy::system(), "test").unwrap()
}

#[test]
fn the_example_of_the_standard_is_met_by_both_sides() {
    for backend in backends() {
        assert_eq!(known_answer(backend), Ok(()), "{}", backend.name());
    }
}

/// Two sides with fresh keys.
struct Pair {
    private: [SoftwareSigner; 2],
    identities: [Digest; 2],
}

impl Pair {
    fn new() -> Self {
        let private = [(); 2].map(|()| SoftwareSigner::generate().unwrap());
        let names: [&[u8]; 2] = [b"ALICE123@YAHOO.COM", b"BILL456@YAHOO.COM"];
        let identities =
            [0, 1].map(|side| identity_digest(names[side], private[side].public_key()));
        Self { private, identities }
    }

    fn party(&self, side: usize) -> Party<'_> {
        Party { key: self.private[side].public_key(), identity: &self.identities[side] }
    }

    fn start(&self, backend: Backend) -> (Initiator, PublicKey) {
        let (private, identity) = (&self.private[0], &self.identities[0]);
        Initiator::start(backend, &mut generator(), private, identity).unwrap()
    }

    fn answer(
        &self,
        backend: Backend,
        peer: Party<'_>,
        point: &PublicKey,
        size: usize,
    ) -> Result<(Responder, Answer), Error> {
        let (private, identity) = (&self.private[1], &self.identities[1]);
        Responder::answer(backend, &mut generator(), private, identity, peer, point, size)
    }
}

#[test]
fn both_sides_hold_the_same_key_on_any_back_end() {
    let pair = Pair::new();
    let mut keys = Vec::new();
    for (first, size) in backends().zip([16, 100, AGREED_KEY_SIZE_MAX]) {
        for second in backends() {
            let (initiator, point) = pair.start(first);
            let (responder, answer) = pair.answer(second, pair.party(0), &point, size).unwrap();
            let (key, confirmation) = initiator.finish(pair.party(1), &answer, size).unwrap();
            assert_eq!(key.len(), size);
            assert_eq!(*responder.confirm(&confirmation).unwrap(), *key);
            keys.push(key[..16].to_vec());
        }
    }
    let count = keys.len();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), count, "every run has a key of its own");
}

#[test]
fn whatever_is_changed_on_the_way_is_noticed() {
    let (pair, best) = (Pair::new(), Backend::best());
    let other = SoftwareSigner::generate().unwrap();
    let refuse = |result: Option<Error>, what: &str| {
        assert!(matches!(result, Some(Error::ExchangeRefused)), "{what}: {result:?}");
    };
    let (initiator, point) = pair.start(best);
    let (_, mut answer) = pair.answer(best, pair.party(0), &point, 16).unwrap();
    answer.confirmation.0[31] ^= 1;
    refuse(initiator.finish(pair.party(1), &answer, 16).err(), "S_B");

    let (initiator, point) = pair.start(best);
    let (_, mut answer) = pair.answer(best, pair.party(0), &point, 16).unwrap();
    answer.point = *other.public_key();
    refuse(initiator.finish(pair.party(1), &answer, 16).err(), "R_B");

    let (initiator, _) = pair.start(best);
    let (responder, answer) = pair.answer(best, pair.party(0), other.public_key(), 16).unwrap();
    refuse(initiator.finish(pair.party(1), &answer, 16).err(), "R_A");
    refuse(responder.confirm(&answer.confirmation).err(), "S_B sent back as S_A");

    let (initiator, point) = pair.start(best);
    let (_, answer) = pair.answer(best, pair.party(0), &point, 16).unwrap();
    let imposter = Party { key: other.public_key(), ..pair.party(1) };
    refuse(initiator.finish(imposter, &answer, 16).err(), "key of B");

    let (initiator, point) = pair.start(best);
    let (_, answer) = pair.answer(best, pair.party(0), &point, 16).unwrap();
    let renamed = Party { identity: &Digest::ZERO, ..pair.party(1) };
    refuse(initiator.finish(renamed, &answer, 16).err(), "identity of B");
}

#[test]
fn points_that_are_none_and_keys_of_no_size_are_refused() {
    let (pair, best) = (Pair::new(), Backend::best());
    for bad in [PublicKey([0; 64]), PublicKey([7; 64]), PublicKey([0xff; 64])] {
        let refused = pair.answer(best, pair.party(0), &bad, 16).err();
        assert!(matches!(refused, Some(Error::PublicKeyInvalid)), "R_A {bad}");
        let (_, point) = pair.start(best);
        let imposter = Party { key: &bad, ..pair.party(0) };
        let refused = pair.answer(best, imposter, &point, 16).err();
        assert!(matches!(refused, Some(Error::PublicKeyInvalid)), "key {bad}");
        let (initiator, _) = pair.start(best);
        let answer = Answer { point: bad, confirmation: Digest::ZERO };
        let refused = initiator.finish(pair.party(1), &answer, 16).err();
        assert!(matches!(refused, Some(Error::PublicKeyInvalid)), "R_B {bad}");
    }
    for size in [0, AGREED_KEY_SIZE_MAX + 1] {
        let (_, point) = pair.start(best);
        let refused = pair.answer(best, pair.party(0), &point, size).err();
        assert!(matches!(refused, Some(Error::AgreedKeySize { bytes }) if bytes == size));
    }
}

/// An R_A with P_A + [x']R_A at infinity would give a key that everyone can compute.
#[test]
fn a_point_that_cancels_the_key_is_refused() {
    let (pair, best) = (Pair::new(), Backend::best());
    // P_A = -[x']R_A for an R_A of the attacker's choice.
    let (_, point) = pair.start(best);
    let mut key = multiply(best, &reduced_x(&point), &point.0).unwrap();
    negate(&mut key);
    let key = PublicKey(key);
    assert!(crate::is_curve_point(&key));
    let attacker = Party { key: &key, ..pair.party(0) };
    let refused = pair.answer(best, attacker, &point, 16).err();
    assert!(matches!(refused, Some(Error::PublicKeyInvalid)));
}

/// y becomes p - y.
fn negate(point: &mut [u8; 64]) {
    let prime: [u8; 32] = hex("FFFFFFFEFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF00000000FFFFFFFFFFFFFFFF");
    let mut borrow = 0;
    for (digit, prime) in point[32..].iter_mut().zip(prime).rev() {
        let (first, under) = prime.overflowing_sub(*digit);
        let (difference, again) = first.overflowing_sub(borrow);
        (*digit, borrow) = (difference, u8::from(under | again));
    }
}

#[test]
fn diffie_hellman_is_the_same_from_both_sides() {
    let [a, b] = Pair::new().private;
    for backend in backends() {
        let shared = diffie_hellman(backend, &a, b.public_key()).unwrap();
        assert_eq!(*shared, *diffie_hellman(Backend::PORTABLE, &b, a.public_key()).unwrap());
        assert!(crate::is_curve_point(&PublicKey(*shared)));
        let refused = diffie_hellman(backend, &a, &PublicKey([1; 64])).err();
        assert!(matches!(refused, Some(Error::PublicKeyInvalid)));
    }
}
