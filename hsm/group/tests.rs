use std::time::Duration;

use hufu_crypto::{Signer, SoftwareSigner};

use super::*;
use crate::Rv;

/// A card in memory: its keys, the errors it gives before it answers, and what it was asked.
struct Scripted {
    key: SoftwareSigner,
    wrapping: u8,
    errors: Mutex<Vec<Error>>,
    signed: AtomicUsize,
}

impl Scripted {
    fn with(seed: u8, errors: Vec<Error>) -> Arc<Self> {
        let key = SoftwareSigner::from_bytes(&[seed; 32]).unwrap();
        let (errors, signed) = (Mutex::new(errors), AtomicUsize::new(0));
        Arc::new(Self { key, wrapping: seed, errors, signed })
    }

    fn next(&self) -> Result<(), Error> {
        self.errors.lock().unwrap().pop().map_or(Ok(()), Err)
    }

    fn signed(&self) -> usize {
        self.signed.load(Ordering::Relaxed)
    }
}

impl Keystore for Scripted {
    fn identity(&self, _: Nanos) -> Result<CardIdentity, Error> {
        Err(Error::SignatureWrong)
    }

    fn open_key(&self, _: &KeyReference, _: Usage, _: Nanos) -> Result<KeyHandle, Error> {
        self.next().map(|()| KeyHandle(u32::from(self.wrapping)))
    }

    fn public_key(&self, _: KeyHandle) -> Result<PublicKey, Error> {
        Ok(*self.key.public_key())
    }

    fn sign_sm2(
        &self,
        key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        _: Nanos,
    ) -> Result<(), Error> {
        assert_eq!(key, KeyHandle(u32::from(self.wrapping)), "each member by its own number");
        self.next()?;
        self.signed.fetch_add(digests.len(), Ordering::Relaxed);
        self.key.sign_many(digests, signatures).unwrap();
        Ok(())
    }

    fn sm2_decrypt(&self, _: KeyHandle, _: &[u8], _: &mut [u8], _: Nanos) -> Result<usize, Error> {
        Err(Error::Refused { what: "ciphertext", reason: "any".to_owned() })
    }

    fn wrap(
        &self,
        _: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        _: Nanos,
    ) -> Result<usize, Error> {
        wrapped[0] = self.wrapping;
        wrapped[1..33].copy_from_slice(secret);
        Ok(33)
    }

    fn unwrap(
        &self,
        _: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        _: Nanos,
    ) -> Result<(), Error> {
        if wrapped[0] != self.wrapping {
            return Err(Error::Refused { what: "wrapped secret", reason: "any".to_owned() });
        }
        secret.copy_from_slice(&wrapped[1..]);
        Ok(())
    }

    fn random(&self, bytes: &mut [u8], _: Nanos) -> Result<(), Error> {
        bytes.fill(self.wrapping);
        Ok(())
    }
}

fn call(class: ErrorClass) -> Error {
    Error::Call { function: "C_Sign", rv: Rv(0x30), class }
}

fn group(members: &[Arc<Scripted>]) -> Group {
    let named = |(number, member): (usize, &Arc<Scripted>)| {
        let store: Arc<dyn Keystore> = Arc::<Scripted>::clone(member);
        (format!("card-{number}"), store)
    };
    Group::new(members.iter().enumerate().map(named).collect())
}

fn vote() -> KeyReference {
    KeyReference::Label("vote".to_owned())
}

fn soon() -> Nanos {
    monotonic().after(Duration::from_secs(60))
}

fn sign(group: &Group, key: KeyHandle) -> Result<(), Error> {
    let mut signature = [Signature([0; 64])];
    group.sign_sm2(key, &[Digest([1; 32])], &mut signature, soon())
}

#[test]
fn a_card_that_is_away_or_busy_is_passed_over_and_comes_back() {
    for class in ErrorClass::ALL {
        let members = [Scripted::with(3, Vec::new()), Scripted::with(3, Vec::new())];
        let group = group(&members);
        let key = group.open_key(&vote(), Usage::Sign, soon()).unwrap();
        members[0].errors.lock().unwrap().push(call(class));
        sign(&group, key).unwrap();
        assert_eq!((members[0].signed(), members[1].signed()), (0, 1), "{class:?}");
        sign(&group, key).unwrap();
        let is_out = group.members()[0].out.is_some();
        assert_eq!(is_out, class == ErrorClass::Permanent, "wrong is out, away is not");
        assert_eq!(members[0].signed(), usize::from(!is_out), "{class:?}");
    }
}

#[test]
fn the_error_of_the_last_card_is_told_when_none_answers() {
    let members = [Scripted::with(3, Vec::new()), Scripted::with(3, Vec::new())];
    let group = group(&members);
    let key = group.open_key(&vote(), Usage::Sign, soon()).unwrap();
    for member in &members {
        member.errors.lock().unwrap().push(call(ErrorClass::TokenLost));
    }
    let refused = sign(&group, key).unwrap_err();
    assert_eq!(refused.class(), ErrorClass::TokenLost);
    sign(&group, key).unwrap();
    for member in &members {
        member.errors.lock().unwrap().push(Error::SignatureWrong);
    }
    assert!(matches!(sign(&group, key), Err(Error::SignatureWrong)));
    let nobody = sign(&group, key).unwrap_err().to_string();
    assert!(nobody.contains("card-0") && nobody.contains("card-1"), "{nobody}");
}

#[test]
fn a_card_with_another_key_never_joins() {
    for usage in [Usage::Sign, Usage::Wrap] {
        let members = [Scripted::with(3, Vec::new()), Scripted::with(4, Vec::new())];
        let group = group(&members);
        let key = group.open_key(&vote(), usage, soon()).unwrap();
        let out = group.members()[1].out.clone().unwrap();
        assert!(out.contains("the group's key"), "{out}");
        if usage == Usage::Sign {
            members[0].errors.lock().unwrap().push(call(ErrorClass::TokenLost));
            assert!(sign(&group, key).is_err() && members[1].signed() == 0);
        }
    }
}

#[test]
fn a_card_that_was_away_at_the_start_joins_when_it_is_needed() {
    let away = || vec![call(ErrorClass::TokenLost), call(ErrorClass::TokenLost)];
    let members = [Scripted::with(3, Vec::new()), Scripted::with(3, away())];
    let group = group(&members);
    let key = group.open_key(&vote(), Usage::Sign, soon()).unwrap();
    members[0].errors.lock().unwrap().push(call(ErrorClass::TokenLost));
    assert!(sign(&group, key).is_err(), "neither is there");
    members[0].errors.lock().unwrap().push(call(ErrorClass::TokenLost));
    sign(&group, key).unwrap();
    assert_eq!(members[1].signed(), 1);
    // One that comes back with another key has become another card.
    let members = [Scripted::with(3, Vec::new()), Scripted::with(4, away())];
    let group = super::tests::group(&members);
    let key = group.open_key(&vote(), Usage::Sign, soon()).unwrap();
    members[1].errors.lock().unwrap().clear();
    members[0].errors.lock().unwrap().push(call(ErrorClass::TokenLost));
    assert!(sign(&group, key).is_err() && members[1].signed() == 0);
}

#[test]
fn what_the_caller_got_wrong_is_told_at_once_and_blames_no_card() {
    let members = [Scripted::with(3, Vec::new()), Scripted::with(3, Vec::new())];
    let group = group(&members);
    let key = group.open_key(&vote(), Usage::Decrypt, soon()).unwrap();
    let refused = group.sm2_decrypt(key, &[0], &mut [0; 8], soon());
    assert!(matches!(refused, Err(Error::Refused { .. })));
    assert!(matches!(group.public_key(KeyHandle(9)), Err(Error::HandleUnknown(9))));
    assert!(group.members().iter().all(|member| member.out.is_none()));
}

#[test]
fn calls_go_where_the_fewest_are_under_way() {
    let members = [Scripted::with(3, Vec::new()), Scripted::with(3, Vec::new())];
    let group = group(&members);
    let key = group.open_key(&vote(), Usage::Sign, soon()).unwrap();
    group.members[0].calls_count.store(2, Ordering::Relaxed);
    sign(&group, key).unwrap();
    assert_eq!((members[0].signed(), members[1].signed()), (0, 1));
    group.members[1].calls_count.store(3, Ordering::Relaxed);
    sign(&group, key).unwrap();
    assert_eq!((members[0].signed(), members[1].signed()), (1, 1));
    let wrapping = group.open_key(&vote(), Usage::Wrap, soon()).unwrap();
    let (mut wrapped, mut secret) = ([0; WRAPPED_BYTES_MAX], [0; 32]);
    let size = group.wrap(wrapping, &[7; 32], &mut wrapped, soon()).unwrap();
    group.unwrap(wrapping, &wrapped[..size], &mut secret, soon()).unwrap();
    assert_eq!(secret, [7; 32]);
}
