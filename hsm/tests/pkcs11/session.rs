//! Sessions of a token that behaves.

use hufu_hsm::pkcs11::codes as ck;
use hufu_hsm::pkcs11::{Attribute, AttributeValue, CallStyle, Library, Mechanism, User};
use hufu_hsm::{Error, ErrorClass, Rv};

use crate::token::with_softhsm;
use crate::token::{
    ECDSA, P256, USER_PIN, generate_pair, initialise, pin, private_key, user_session,
};

#[test]
fn a_pair_made_in_the_token_signs_and_is_found_and_stays_inside() {
    with_softhsm("session::a_pair_made_in_the_token_signs_and_is_found_and_stays_inside", |path| {
        let session = user_session(path);
        let (public, private) = generate_pair(&session, "vote");
        let mut signature = [0; 128];
        for style in [CallStyle::OneCall, CallStyle::LengthFirst] {
            session.set_call_style(style);
            let size = session.sign(&ECDSA, private, &[7; 32], &mut signature).unwrap();
            assert_eq!(size, 64);
            assert!(session.verify(&ECDSA, public, &[7; 32], &signature[..size]).unwrap());
            assert!(!session.verify(&ECDSA, public, &[8; 32], &signature[..size]).unwrap());
            assert!(!session.verify(&ECDSA, public, &[7; 32], &signature[..63]).unwrap());
        }
        assert_eq!(private_key(&session, "vote"), Some(private));
        assert_eq!(private_key(&session, "votes"), None);
        let kinds =
            [ck::CKA_VALUE, ck::CKA_EXTRACTABLE, ck::CKA_LABEL, ck::CKA_MODULUS, ck::CKA_CLASS];
        let values = session.attributes(private, &kinds).unwrap();
        assert_eq!(values[0], AttributeValue::Sensitive);
        assert_eq!(values[1].bool(), Some(false));
        assert_eq!(values[2].bytes(), Some(&b"vote"[..]));
        assert_eq!(values[3], AttributeValue::Unknown);
        assert_eq!(values[4].number(), Some(ck::CKO_PRIVATE_KEY));
        let point = session.attributes(public, &[ck::CKA_EC_POINT, ck::CKA_EC_PARAMS]).unwrap();
        assert_eq!(point[0].bytes().map(<[u8]>::len), Some(67));
        assert_eq!(point[1].bytes(), Some(P256));
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_said_so() {
    with_softhsm("session::a_wrong_pin_is_tried_once_and_said_so", |path| {
        let library = Library::load(path).unwrap();
        let slot = initialise(&library);
        let session = library.open_session(slot, true).unwrap();
        let refused = session.login(User::User, &pin(b"87654320")).unwrap_err();
        assert!(matches!(refused, Error::PinRefused { rv: Rv(ck::CKR_PIN_INCORRECT), .. }));
        assert_eq!(refused.class(), ErrorClass::Permanent);
        assert!(!refused.to_string().contains("8765"), "{refused}");
        session.login(User::User, &pin(USER_PIN)).unwrap();
        session.login(User::User, &pin(USER_PIN)).unwrap();
        let state = session.info().unwrap().state;
        assert_eq!(state, ck::CKS_RW_USER_FUNCTIONS);
        session.set_pin(&pin(USER_PIN), &pin(b"11223344")).unwrap();
        let refused = session.set_pin(&pin(USER_PIN), &pin(b"55667788")).unwrap_err();
        assert!(matches!(refused, Error::PinRefused { .. }), "{refused}");
        session.logout().unwrap();
        session.login(User::User, &pin(b"11223344")).unwrap();
    });
}

#[test]
fn errors_have_the_class_that_says_what_to_do() {
    with_softhsm("session::errors_have_the_class_that_says_what_to_do", |path| {
        let session = user_session(path);
        let (_, private) = generate_pair(&session, "vote");
        let mut signature = [0; 64];
        let mut class = |mechanism: u64, key: u64| {
            let mechanism = Mechanism::bare(mechanism);
            session.sign(&mechanism, key, &[7; 32], &mut signature).unwrap_err().class()
        };
        assert_eq!(class(ck::CKM_ECDSA, 4_711), ErrorClass::Session);
        assert_eq!(class(0x8000_8105, private), ErrorClass::Permanent);
        assert!(!session.is_spoiled());
        let short = session.sign(&ECDSA, private, &[7; 32], &mut signature[..63]).unwrap_err();
        assert!(matches!(short, Error::Call { rv: Rv(ck::CKR_BUFFER_TOO_SMALL), .. }), "{short}");
        assert!(session.is_spoiled(), "the operation is still under way");
        let busy = session.sign(&ECDSA, private, &[7; 32], &mut signature).unwrap_err();
        assert_eq!(busy.class(), ErrorClass::Session, "{busy}");
        let other = session.library().open_session(session.slot(), true).unwrap();
        session.logout().unwrap();
        let logged_out = other.sign(&ECDSA, private, &[7; 32], &mut signature).unwrap_err();
        assert!(
            matches!(logged_out.class(), ErrorClass::Login | ErrorClass::Session),
            "{logged_out}"
        );
    });
}

#[test]
fn symmetric_keys_encrypt_wrap_and_unwrap_and_objects_change_and_go() {
    let test = "session::symmetric_keys_encrypt_wrap_and_unwrap_and_objects_change_and_go";
    with_softhsm(test, |path| {
        let session = user_session(path);
        let template = [
            Attribute::bool(ck::CKA_TOKEN, false),
            Attribute::bool(ck::CKA_ENCRYPT, true),
            Attribute::bool(ck::CKA_DECRYPT, true),
            Attribute::bool(ck::CKA_WRAP, true),
            Attribute::bool(ck::CKA_UNWRAP, true),
            Attribute::bool(ck::CKA_EXTRACTABLE, true),
            Attribute::number(ck::CKA_VALUE_LEN, 32),
        ];
        let generate = Mechanism::bare(ck::CKM_AES_KEY_GEN);
        let [outer, inner] = [(); 2].map(|()| session.generate_key(&generate, &template).unwrap());
        let cbc = Mechanism::with(ck::CKM_AES_CBC_PAD, &[9; 16]);
        let (mut sealed, mut opened) = ([0; 64], [0; 64]);
        let size = session.encrypt(&cbc, inner, b"settled", &mut sealed).unwrap();
        assert_eq!(size, 16);
        let wrap = Mechanism::bare(ck::CKM_AES_KEY_WRAP);
        let mut wrapped = [0; 64];
        let wrapped_size = session.wrap_key(&wrap, outer, inner, &mut wrapped).unwrap();
        assert_eq!(wrapped_size, 40);
        session.destroy_object(inner).unwrap();
        assert!(session.decrypt(&cbc, inner, &sealed[..size], &mut opened).is_err());
        let template = [
            Attribute::number(ck::CKA_CLASS, ck::CKO_SECRET_KEY),
            Attribute::number(ck::CKA_KEY_TYPE, ck::CKK_AES),
            Attribute::bool(ck::CKA_DECRYPT, true),
        ];
        let wrapped = &wrapped[..wrapped_size];
        let back = session.unwrap_key(&wrap, outer, wrapped, &template).unwrap();
        let opened_size = session.decrypt(&cbc, back, &sealed[..size], &mut opened).unwrap();
        assert_eq!(&opened[..opened_size], b"settled");
        session.set_attributes(back, &[Attribute::text(ck::CKA_LABEL, "data key")]).unwrap();
        let label = session.attributes(back, &[ck::CKA_LABEL]).unwrap();
        assert_eq!(label[0].bytes(), Some(&b"data key"[..]));
        let mut digest = [0; 32];
        let sha = Mechanism::bare(ck::CKM_SHA256);
        assert_eq!(session.digest(&sha, b"abc", &mut digest).unwrap(), 32);
        assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
    });
}

#[test]
fn more_objects_than_one_answer_holds_are_all_found() {
    with_softhsm("session::more_objects_than_one_answer_holds_are_all_found", |path| {
        let session = user_session(path);
        let label = "x".repeat(2_000);
        for _ in 0..150 {
            let template = [
                Attribute::number(ck::CKA_CLASS, ck::CKO_DATA),
                Attribute::bool(ck::CKA_TOKEN, false),
                Attribute::text(ck::CKA_LABEL, &label),
            ];
            session.create_object(&template).unwrap();
        }
        let template = [Attribute::number(ck::CKA_CLASS, ck::CKO_DATA)];
        for (asked, found) in [(0, 0), (1, 1), (64, 64), (65, 65), (150, 150), (1_000, 150)] {
            assert_eq!(session.find(&template, asked).unwrap().len(), found);
        }
        let first = session.find(&template, 1).unwrap()[0];
        let values = session.attributes(first, &[ck::CKA_LABEL]).unwrap();
        assert_eq!(values[0].bytes(), Some(label.as_bytes()), "longer than the usual place");
        let (mut one, mut other) = ([0; 64], [0; 64]);
        session.random(&mut one).unwrap();
        session.random(&mut other).unwrap();
        assert_ne!(one, other);
    });
}
