//! Cards of every vendor, as the soft token imitates them, used by the profiles that ship.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]

#[path = "softtoken/cloned.rs"]
mod cloned;
#[path = "softtoken/in_process.rs"]
mod in_process;
#[path = "../benches/losses/soak.rs"]
mod soak;
#[path = "softtoken/token.rs"]
mod token;

use hufu_crypto::{
    Backend, Digest, Drbg, IDENTITY_DEFAULT, Signature, Sm3, Sm4Key, Verdict, VerifyItem, cipher,
    encryption, entropy, identity_digest, message_digest, software_provider,
};
use hufu_hsm::card::{Card, keys, operations};
use hufu_hsm::forms::SignInput;
use hufu_hsm::keystore::WRAPPED_BYTES_MAX;
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::{Attribute, GcmParameter, Mechanism, codes};
use hufu_hsm::probe::{draft, prove};
use hufu_hsm::profile::Sign;
use hufu_hsm::{Error, Keystore, Profile, Usage};
use hufu_softtoken::{Fault, Faults, Garbage};
use soak::Soak;
use token::{IMITATIONS, PIN, Token, soon, with_each};

fn sign(token: &Token, card: &dyn Keystore, count: usize) -> Result<(), Error> {
    let key = card.open_key(&token.key("vote"), Usage::Sign, soon())?;
    let public = card.public_key(key)?;
    let verifier = software_provider().verifier;
    for number in 0..count {
        let digest = Sm3::of(&[b"test", &number.to_le_bytes()]);
        let mut signature = [Signature([0; 64])];
        card.sign_sm2(key, &[digest], &mut signature, soon())?;
        let item = VerifyItem { key: &public, digest, signature: &signature[0] };
        assert_eq!(verifier.verify(item), Verdict::Valid);
    }
    Ok(())
}

#[test]
fn every_vendors_card_signs_decrypts_and_wraps_by_the_profile_that_fits_it() {
    with_each(
        "every_vendors_card_signs_decrypts_and_wraps_by_the_profile_that_fits_it",
        &IMITATIONS,
        |token| {
            token.make_keys();
            let card = token.card("").unwrap();
            assert_eq!(*card.profile(), token.profile(), "chosen by what the card says of itself");
            sign(token, &card, 600).unwrap();

            let wrapping = card.open_key(&token.key("data"), Usage::Wrap, soon()).unwrap();
            let (mut wrapped, mut secret) = ([0; WRAPPED_BYTES_MAX], [0; 32]);
            let size = card.wrap(wrapping, &[0x5a; 32], &mut wrapped, soon()).unwrap();
            let wrapped = &mut wrapped[..size];
            assert!(!wrapped.windows(4).any(|bytes| bytes == [0x5a; 4]));
            card.unwrap(wrapping, wrapped, &mut secret, soon()).unwrap();
            assert_eq!(secret, [0x5a; 32]);
            for bit in 0..wrapped.len() * 8 {
                wrapped[bit / 8] ^= 1 << (bit % 8);
                let refused = card.unwrap(wrapping, wrapped, &mut secret, soon());
                assert!(matches!(refused, Err(Error::Refused { .. })), "bit {bit}");
                assert_eq!(secret, [0; 32]);
                wrapped[bit / 8] ^= 1 << (bit % 8);
            }
            let mut random = [0; 64];
            card.random(&mut random, soon()).unwrap();
            assert_ne!(random, [0; 64]);

            if token.profile().sm2.decrypt.is_empty() {
                return;
            }
            let open = card.open_key(&token.key("open"), Usage::Decrypt, soon()).unwrap();
            let key = card.public_key(open).unwrap();
            let mut generator = Drbg::new(entropy::system(), "test").unwrap();
            let sealed =
                encryption::encrypt(Backend::best(), &mut generator, &key, b"a session key");
            let mut plaintext = [0; 64];
            let sealed = sealed.unwrap().to_bytes();
            let size = card.sm2_decrypt(open, &sealed, &mut plaintext, soon()).unwrap();
            assert_eq!(&plaintext[..size], b"a session key");
        },
    );
}

#[test]
fn a_draft_for_each_card_is_equal_in_effect_to_the_profile_that_ships() {
    with_each(
        "a_draft_for_each_card_is_equal_in_effect_to_the_profile_that_ships",
        &IMITATIONS,
        |token| {
            token.make_keys();
            let identity = {
                let card = token.card("").unwrap();
                card.identity(soon()).unwrap()
            };
            let (library, session) = token.session();
            let verifier = software_provider().verifier;
            let pin = Pin::from_reader(PIN, "test").unwrap();
            // Without the profile it is to be equal to: nothing may be looked up in it.
            let shipped = token.profile();
            let mut others = Profile::shipped().unwrap();
            others.retain(|profile| *profile != shipped);
            let drafted =
                draft(&library, &session, Some(&pin), &identity, &others, &*verifier).unwrap();
            let found = keys::find(&session, &shipped, &token.key("vote"), Usage::Sign).unwrap();
            let used = prove(&session, &shipped, &found, Some(&pin), &*verifier).unwrap();
            let is_used = |sign: &Sign| {
                sign.mechanism == used.mechanism && sign.input == SignInput::PrehashedE
            };
            assert!(drafted.profile.sm2.sign.iter().any(is_used), "{drafted:#?}");
            assert_eq!(drafted.profile.sm2.key_type, shipped.sm2.key_type);
            assert_eq!(drafted.profile.sm3, shipped.sm3);
            let (sm4, known) = (drafted.profile.sm4.unwrap(), shipped.sm4.unwrap());
            assert_eq!((sm4.key_type, sm4.generate), (known.key_type, known.generate));
            assert!(sm4.ecb.is_none_or(|code| known.ecb == Some(code)), "{sm4:x?}");
            assert_eq!(sm4.cbc, known.cbc);
            let codes = |profile: &Profile| {
                let mut codes: Vec<u64> =
                    profile.sm2.decrypt.iter().map(|decrypt| decrypt.mechanism).collect();
                codes.dedup();
                codes
            };
            assert_eq!(codes(&drafted.profile), codes(&shipped), "{:#?}", drafted.remarks);
            drop((session, library));

            // And the card is used by it, from a file as an operator would keep it.
            let path = token::path_of(&token.folder, "drafted.toml");
            std::fs::write(path, drafted.profile.to_toml().unwrap()).unwrap();
            let card = token.card("profile_file = \"drafted.toml\"").unwrap();
            sign(token, &card, 100).unwrap();
        },
    );
}

/// Every mechanism of a profile that is SM2 signs a message for the identity it can sign for, the
/// one in its parameter where it takes one.
#[test]
fn messages_are_signed_for_the_identity_that_is_handed_over() {
    const NAME: &str = "messages_are_signed_for_the_identity_that_is_handed_over";
    with_each(NAME, &IMITATIONS, |token| {
        token.make_keys();
        let (_library, session) = token.session();
        let (profile, verifier) = (token.profile(), software_provider().verifier);
        let found = keys::find(&session, &profile, &token.key("vote"), Usage::Sign).unwrap();
        let key = found.public.unwrap();
        let proven = prove(&session, &profile, &found, None, &*verifier).unwrap();
        let mut signed = 0;
        for sign in &profile.sm2.sign {
            // Of several readings of one code, the probe says which is right.
            let is_e = sign.input == SignInput::PrehashedE;
            if is_e && *sign != proven || token.imitation != "native" && !is_e {
                continue;
            }
            for identity in [IDENTITY_DEFAULT, b"ALICE123@YAHOO.COM"] {
                let made =
                    operations::sign_message(&session, sign, &found, None, identity, b"a message");
                let knows = identity == IDENTITY_DEFAULT
                    || !matches!(sign.input, SignInput::MessageWithDefaultZ);
                let Ok((signature, _)) = made else {
                    assert!(!knows && matches!(made, Err(Error::Refused { .. })), "{sign:?}");
                    continue;
                };
                let digest = message_digest(&identity_digest(identity, &key), b"a message");
                let item = VerifyItem { key: &key, digest, signature: &signature };
                assert_eq!(verifier.verify(item), Verdict::Valid, "{sign:?}");
                signed += 1;
            }
        }
        assert_eq!(signed, if token.imitation == "native" { 6 } else { 2 });
    });
}

/// A parameter that has pointers in it: what the card seals, software opens, and back.
#[test]
fn gcm_of_the_card_is_gcm_of_the_software() {
    with_each("gcm_of_the_card_is_gcm_of_the_software", &["native", "koal", "westone"], |token| {
        let (_library, session) = token.session();
        let key_type = token.profile().sm4.unwrap().key_type;
        let code = match token.imitation.as_str() {
            "westone" => 0x8000_0045,
            _ => token.profile().sm4.unwrap().gcm.unwrap(),
        };
        let object = session
            .create_object(&[
                Attribute::number(codes::CKA_CLASS, codes::CKO_SECRET_KEY),
                Attribute::number(codes::CKA_KEY_TYPE, key_type),
                Attribute::bool(codes::CKA_ENCRYPT, true),
                Attribute::bool(codes::CKA_DECRYPT, true),
                Attribute::bytes(codes::CKA_VALUE, &[7; 16]),
            ])
            .unwrap();
        let (backend, key) = (Backend::best(), Sm4Key::from_bytes(&[7; 16]));
        for associated in [&b""[..], b"what is said beside it"] {
            let (mut nonce, text) = ([9; 12], b"what is hidden".as_slice());
            let mut wanted = text.to_vec();
            let tag = cipher::gcm_seal(backend, &key, &nonce, associated, &mut wanted).unwrap();
            wanted.extend_from_slice(&tag);
            let gcm = GcmParameter::new(&mut nonce, associated, 16);
            let mechanism = Mechanism::gcm(code, gcm);
            let mut sealed = [0; 64];
            let size = session.encrypt(&mechanism, object, text, &mut sealed).unwrap();
            assert_eq!(sealed[..size], wanted);
            let mut opened = [0; 64];
            let size = session.decrypt(&mechanism, object, &wanted, &mut opened).unwrap();
            assert_eq!(&opened[..size], text);
            wanted[0] ^= 1;
            assert!(session.decrypt(&mechanism, object, &wanted, &mut opened).is_err());
        }
    });
}

#[test]
fn a_profile_for_another_card_is_refused_before_a_key_is_used() {
    with_each(
        "a_profile_for_another_card_is_refused_before_a_key_is_used",
        &["sansec", "koal"],
        |token| {
            token.make_keys();
            let refused = token.card("profile = \"luna\"").err().unwrap();
            assert!(matches!(refused, Error::ProfileMismatch { .. }), "{refused}");
            // One that claims to be for this card and has another's codes.
            let mut wrong = token.profile();
            for sign in &mut wrong.sm2.sign {
                sign.mechanism =
                    if token.imitation == "sansec" { 0x8000_8100 } else { 0x8000_7777 };
            }
            let path = token::path_of(&token.folder, "wrong.toml");
            std::fs::write(path, wrong.to_toml().unwrap()).unwrap();
            let card = token.card("profile_file = \"wrong.toml\"").unwrap();
            let refused = sign(token, &card, 1).unwrap_err();
            assert!(matches!(refused, Error::ProbeFailed { .. }), "{refused}");
            if token.imitation == "sansec" {
                assert!(refused.to_string().contains("without Z"), "{refused}");
            }
        },
    );
}

#[test]
fn a_wrong_pin_is_tried_once() {
    with_each("a_wrong_pin_is_tried_once", &["native"], |token| {
        token.make_keys();
        let config = token.config("");
        std::fs::write(token::path_of(&token.folder, "card.pin"), "00000000").unwrap();
        let verifier = software_provider().verifier;
        let card = hufu_hsm::card::Card::open(&config, verifier).unwrap();
        for _ in 0..20 {
            let refused = sign(token, &card, 1).unwrap_err();
            assert!(matches!(refused, Error::PinRefused { .. }), "{refused}");
        }
        drop(card);
        // The token locks after ten; the right one still opens it.
        sign(token, &token.card("").unwrap(), 1).unwrap();
    });
}

#[test]
fn a_key_that_can_be_carried_off_or_is_for_something_else_is_refused() {
    with_each(
        "a_key_that_can_be_carried_off_or_is_for_something_else_is_refused",
        &["native"],
        |token| {
            token.make_keys();
            let card = token.card("").unwrap();
            let refused = card.open_key(&token.key("open"), Usage::Sign, soon()).unwrap_err();
            assert!(refused.to_string().contains("CKA_SIGN"), "{refused}");
            let refused = card.open_key(&token.key("nobody"), Usage::Sign, soon()).unwrap_err();
            assert!(matches!(refused, Error::KeyMissing { .. }), "{refused}");
            token.make_keys();
            let card = token.card("").unwrap();
            let refused = card.open_key(&token.key("vote"), Usage::Sign, soon()).unwrap_err();
            assert!(matches!(refused, Error::KeyAmbiguous { count: 2, .. }), "{refused}");
            let key = hufu_hsm::KeyHandle(3);
            let refused = card.sign_sm2(key, &[Digest([0; 32])], &mut [Signature([0; 64])], soon());
            assert!(matches!(refused, Err(Error::HandleUnknown(3))));
        },
    );
}

/// Signatures by several threads while something goes wrong; all of them are made and right.
fn sign_through(token: &Token, card: &Card, fault: impl FnOnce(&Faults)) {
    sign(token, card, 1).unwrap();
    fault(&token.faults());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| sign(token, card, 200).unwrap());
        }
    });
    token.faults().clear();
}

#[test]
fn signatures_survive_lost_sessions_a_busy_card_and_one_that_is_pulled_out() {
    with_each(
        "signatures_survive_lost_sessions_a_busy_card_and_one_that_is_pulled_out",
        &["native", "tass", "luna"],
        |token| {
            token.make_keys();
            // A vendor's own word for "busy" is known from its profile alone.
            let mut profile = token.profile();
            if token.imitation == "luna" {
                profile.return_values.throttled = vec![0x8000_0021];
            }
            let path = token::path_of(&token.folder, "own.toml");
            std::fs::write(path, profile.to_toml().unwrap()).unwrap();
            let more = "profile_file = \"own.toml\"\nsessions_max = 3\ndeadline_millis = 60000\nfailures_max = 1000";
            let card = token.card(more).unwrap();
            sign_through(token, &card, |faults| faults.set(Fault::SessionLost { one_in: 20 }));
            sign_through(token, &card, |faults| faults.set(Fault::Throttled { one_in: 20 }));
            sign_through(token, &card, |faults| faults.set(Fault::Removed { millis: 300 }));
            let metrics = card.metrics();
            assert!(metrics.tokens_lost_total() > 0 && metrics.sessions_lost_total() > 0);
        },
    );
}

/// The small sister of `cargo bench --bench losses`.
#[test]
fn two_thousand_signatures_survive_lost_sessions_and_a_card_that_is_away_for_a_while() {
    const NAME: &str =
        "two_thousand_signatures_survive_lost_sessions_and_a_card_that_is_away_for_a_while";
    with_each(NAME, &["native"], |token| {
        token.make_keys();
        let card = token.card("deadline_millis = 60000\nfailures_max = 1000").unwrap();
        let key = card.open_key(&token.key("vote"), Usage::Sign, soon()).unwrap();
        let faults = token.faults();
        let order = Soak {
            card: &card,
            key,
            faults: &faults,
            threads_count: 3,
            signatures_count: 2_000,
            lost_one_in: 100,
            away: std::time::Duration::from_millis(300),
        };
        let report = soak::soak(&order).unwrap();
        let counts = (report.right_count, report.wrong_count, report.failed_count);
        assert_eq!(counts, (2_000, 0, 0), "{:?}", report.last_error);
        // What was to go wrong went wrong.
        assert!(card.metrics().sessions_lost_total() >= 10);
        assert!(card.metrics().tokens_lost_total() > 0);
        assert!(report.recovery < std::time::Duration::from_secs(30), "{:?}", report.recovery);
        assert_eq!(report.nanos.len(), 2_000);
    });
}

#[test]
fn a_wrong_signature_never_leaves_and_takes_the_card_out_of_service() {
    with_each(
        "a_wrong_signature_never_leaves_and_takes_the_card_out_of_service",
        &["native"],
        |token| {
            token.make_keys();
            for kind in [Garbage::FlippedBit, Garbage::Short, Garbage::WrongDer] {
                let card = token.card("").unwrap();
                sign(token, &card, 1).unwrap();
                token.faults().set(Fault::Garbage { kind, one_in: 1 });
                let refused = sign(token, &card, 1).unwrap_err();
                token.faults().clear();
                let is_wrong = matches!(refused, Error::SignatureWrong);
                assert!(is_wrong || matches!(refused, Error::AnswerMalformed { .. }), "{refused}");
                assert_eq!(kind == Garbage::FlippedBit, is_wrong, "{kind:?}");
                // A wrong signature is a matter for people; a malformed one is an error.
                assert_eq!(sign(token, &card, 1).is_err(), is_wrong, "{kind:?}");
            }
        },
    );
}
