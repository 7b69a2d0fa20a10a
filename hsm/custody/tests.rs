use std::sync::Mutex;

use hufu_crypto::{
    IDENTITY_DEFAULT, SoftwareSigner, Verdict, VerifyItem, identity_digest, message_digest,
    software_provider,
};

use super::*;
use crate::error::TriesLeft;
use crate::keystore::{CardIdentity, WRAPPED_BYTES_MAX};
use crate::{KeyReference, Rv, Usage};

/// A card that fails with the next of a list of errors, and signs when the list is empty.
struct Failing {
    key: SoftwareSigner,
    errors: Mutex<Vec<Error>>,
}

impl Keystore for Failing {
    fn identity(&self, _: Nanos) -> Result<CardIdentity, Error> {
        Err(Error::SignatureWrong)
    }

    fn open_key(&self, _: &KeyReference, _: Usage, _: Nanos) -> Result<KeyHandle, Error> {
        Ok(KeyHandle(0))
    }

    fn public_key(&self, _: KeyHandle) -> Result<PublicKey, Error> {
        Ok(*self.key.public_key())
    }

    fn sign_sm2(
        &self,
        _: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        _: Nanos,
    ) -> Result<(), Error> {
        if let Some(error) = self.errors.lock().unwrap().pop() {
            return Err(error);
        }
        self.key.sign_many(digests, signatures).unwrap();
        Ok(())
    }

    fn sm2_decrypt(&self, _: KeyHandle, _: &[u8], _: &mut [u8], _: Nanos) -> Result<usize, Error> {
        Err(Error::SignatureWrong)
    }

    fn wrap(
        &self,
        _: KeyHandle,
        _: &[u8; 32],
        _: &mut [u8; WRAPPED_BYTES_MAX],
        _: Nanos,
    ) -> Result<usize, Error> {
        Err(Error::SignatureWrong)
    }

    fn unwrap(&self, _: KeyHandle, _: &[u8], _: &mut [u8; 32], _: Nanos) -> Result<(), Error> {
        Err(Error::SignatureWrong)
    }

    fn random(&self, _: &mut [u8], _: Nanos) -> Result<(), Error> {
        Err(Error::SignatureWrong)
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Witness for Told {
    fn stood_in(&self, card_key: &PublicKey, stand_in: &PublicKey, cause: &Error) {
        assert_ne!(card_key, stand_in);
        self.0.lock().unwrap().push(format!("stood in: {cause}"));
    }

    fn refused(&self, _: &PublicKey, cause: &Error) {
        self.0.lock().unwrap().push(format!("refused: {cause}"));
    }
}

/// A signer whose generator has no entropy.
struct Dry(SoftwareSigner);

impl Signer for Dry {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    fn sign(&self, _: &Digest) -> Result<Signature, hufu_crypto::Error> {
        Err(hufu_crypto::Error::Signing)
    }
}

/// One error of each class and kind that a signature can meet.
fn errors() -> Vec<Error> {
    let call = |rv: u64, class| Error::Call { function: "C_Sign", rv: Rv(rv), class };
    let reason = || "any".to_owned();
    let mut errors: Vec<Error> =
        ErrorClass::ALL.into_iter().map(|class| call(0x30, class)).collect();
    errors.extend([
        Error::PinRefused { rv: Rv(0xa0), tries_left: TriesLeft::One },
        Error::TokenMissing { wanted: reason(), found: reason() },
        Error::CardChanged { field: "serial", before: reason(), after: reason() },
        Error::HandleUnknown(0),
        Error::AnswerMalformed { what: "signature", reason: reason() },
        Error::SignatureWrong,
        Error::Deadline { stage: "session" },
        Error::QueueFull { waiting_count: 9 },
        Error::CircuitOpen { failures_count: 3, last: reason() },
        Error::Agent { reason: reason() },
        Error::AgentProtocol { reason: reason() },
    ]);
    errors
}

fn card(errors: Vec<Error>) -> CardKey {
    let key = SoftwareSigner::generate().unwrap();
    let store = Arc::new(Failing { key, errors: Mutex::new(errors) });
    CardKey::new(store, KeyHandle(0)).unwrap()
}

/// e of one message, which covers the key.
fn digest_of(key: &PublicKey) -> Digest {
    message_digest(&identity_digest(IDENTITY_DEFAULT, key), b"any message")
}

fn is_of(signed: &Signed, key: &PublicKey) -> bool {
    let item = VerifyItem { key, digest: digest_of(key), signature: &signed.signature };
    software_provider().verifier.verify(item) == Verdict::Valid
}

#[test]
fn no_error_of_a_card_becomes_a_signature_of_an_hsm_only_key() {
    for error in errors() {
        let text = error.to_string();
        let told = Told::default();
        let key = Custodian::HsmOnly { card: card(vec![error]) };
        let refused = key.sign(&digest_of, Nanos::MAX, &told).unwrap_err();
        assert!(matches!(refused, CustodyError::Card { custody: Custody::HsmOnly, .. }));
        assert!(refused.to_string().contains(&text), "{refused}");
        assert_eq!(*told.0.lock().unwrap(), [format!("refused: {text}")]);
        // When the card is back, so is the key.
        let signed = key.sign(&digest_of, Nanos::MAX, &told).unwrap();
        assert_eq!((signed.place, signed.key), (Place::Card, *key.public_key()));
        assert!(is_of(&signed, key.public_key()));
    }
}

#[test]
fn a_stand_in_signs_under_its_own_key_and_only_for_a_card_that_is_away() {
    for error in errors() {
        let (class, text) = (error.class(), error.to_string());
        let told = Told::default();
        let signer = SoftwareSigner::generate().unwrap();
        let other = *signer.public_key();
        let card = card(vec![error]);
        let stand_in = StandIn::new(Box::new(signer), &[other], &card).unwrap();
        let key = Custodian::HsmPreferred { card, stand_in };
        assert_eq!(key.keys(), [*key.public_key(), other]);
        let signed = key.sign(&digest_of, Nanos::MAX, &told);
        if class == ErrorClass::Permanent {
            assert!(matches!(signed, Err(CustodyError::Card { .. })), "{text}");
            assert_eq!(*told.0.lock().unwrap(), [format!("refused: {text}")]);
        } else {
            let signed = signed.unwrap();
            assert_eq!((signed.place, signed.key), (Place::StandIn, other));
            assert!(is_of(&signed, &other) && !is_of(&signed, key.public_key()));
            assert_eq!(*told.0.lock().unwrap(), [format!("stood in: {text}")]);
        }
        let signed = key.sign(&digest_of, Nanos::MAX, &told).unwrap();
        assert_eq!(signed.place, Place::Card, "the card goes first whenever it answers");
    }
}

#[test]
fn a_stand_in_is_registered_and_is_not_the_cards_own_key() {
    let card = card(Vec::new());
    let signer = || SoftwareSigner::from_bytes(&[9; 32]).unwrap();
    let key = *signer().public_key();
    let refused = StandIn::new(Box::new(signer()), &[card.public], &card).err().unwrap();
    assert!(refused.to_string().contains("not registered"), "{refused}");
    let twin = CardKey {
        store: Arc::new(Failing { key: signer(), errors: Mutex::default() }),
        handle: KeyHandle(0),
        public: key,
    };
    let refused = StandIn::new(Box::new(signer()), &[key], &twin).err().unwrap();
    assert!(refused.to_string().contains("that very key"), "{refused}");
}

#[test]
fn a_software_key_signs_in_software_and_nobody_is_told() {
    let told = Told::default();
    let signer = SoftwareSigner::generate().unwrap();
    let key = Custodian::Software { signer: Box::new(signer) };
    let signed = key.sign(&digest_of, Nanos::ZERO, &told).unwrap();
    assert_eq!((signed.place, signed.key), (Place::Software, *key.public_key()));
    assert!(is_of(&signed, key.public_key()) && told.0.lock().unwrap().is_empty());
}

/// The software's own failures are told with the card's, and are nobody's signature.
#[test]
fn a_software_key_that_fails_is_an_error_in_each_custody() {
    let told = Told::default();
    let dry = || Box::new(Dry(SoftwareSigner::from_bytes(&[9; 32]).unwrap()));
    let key = Custodian::Software { signer: dry() };
    let refused = key.sign(&digest_of, Nanos::MAX, &told).unwrap_err();
    assert!(matches!(refused, CustodyError::Software(_)), "{refused}");
    let card = card(vec![Error::Agent { reason: "it ended".to_owned() }]);
    let stand_in = StandIn::new(dry(), &[*dry().public_key()], &card).unwrap();
    let key = Custodian::HsmPreferred { card, stand_in };
    let refused = key.sign(&digest_of, Nanos::MAX, &told).unwrap_err();
    assert!(matches!(refused, CustodyError::StandIn { .. }), "{refused}");
    assert!(refused.to_string().contains("it ended"), "{refused}");
    assert_eq!(key.sign(&digest_of, Nanos::MAX, &told).unwrap().place, Place::Card);
}
