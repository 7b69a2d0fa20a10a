//! The `cryptoki` crate as a second client of the same token: each sees what the other made.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism as TheirMechanism;
use cryptoki::object::{Attribute as Theirs, AttributeType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use hufu_hsm::pkcs11::codes as ck;
use hufu_hsm::pkcs11::{Attribute, Library, User};

use crate::token::with_softhsm;
use crate::token::{
    ECDSA, LABEL, P256, USER_PIN, generate_pair, pin, private_key, slot, user_session,
};

#[test]
fn each_client_uses_the_keys_the_other_made() {
    with_softhsm("second_client::each_client_uses_the_keys_the_other_made", |path| {
        let session = user_session(path);
        let (ours_public, ours_private) = generate_pair(&session, "ours");
        let mut signature = [0; 64];
        session.sign(&ECDSA, ours_private, &[7; 32], &mut signature).unwrap();
        let point = session.attributes(ours_public, &[ck::CKA_EC_POINT]).unwrap();
        drop(session);

        let their_signature = {
            let context = Pkcs11::new(path).unwrap();
            context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
            let slots = context.get_slots_with_initialized_token().unwrap();
            assert_eq!(context.get_token_info(slots[0]).unwrap().label(), LABEL);
            let theirs = context.open_rw_session(slots[0]).unwrap();
            let text = String::from_utf8(USER_PIN.to_vec()).unwrap();
            theirs.login(UserType::User, Some(&AuthPin::from(text))).unwrap();
            let wanted = [Theirs::Class(ObjectClass::PUBLIC_KEY), Theirs::Label(b"ours".to_vec())];
            let found = theirs.find_objects(&wanted).unwrap();
            assert_eq!(found.len(), 1);
            theirs.verify(&TheirMechanism::Ecdsa, found[0], &[7; 32], &signature).unwrap();
            let seen = theirs.get_attributes(found[0], &[AttributeType::EcPoint]).unwrap();
            assert_eq!(seen, [Theirs::EcPoint(point[0].bytes().unwrap().to_vec())]);
            let public = [
                Theirs::Token(true),
                Theirs::EcParams(P256.to_vec()),
                Theirs::Label(b"theirs".to_vec()),
            ];
            let private =
                [Theirs::Token(true), Theirs::Sensitive(true), Theirs::Label(b"theirs".to_vec())];
            let (_, key) = theirs
                .generate_key_pair(&TheirMechanism::EccKeyPairGen, &public, &private)
                .unwrap();
            theirs.sign(&TheirMechanism::Ecdsa, key, &[9; 32]).unwrap()
        };

        let library = Library::load(path).unwrap();
        let session = library.open_session(slot(&library), false).unwrap();
        session.login(User::User, &pin(USER_PIN)).unwrap();
        let public = [
            Attribute::number(ck::CKA_CLASS, ck::CKO_PUBLIC_KEY),
            Attribute::text(ck::CKA_LABEL, "theirs"),
        ];
        let public = session.find(&public, 2).unwrap();
        assert!(session.verify(&ECDSA, public[0], &[9; 32], &their_signature).unwrap());
        let private = private_key(&session, "theirs").unwrap();
        session.sign(&ECDSA, private, &[8; 32], &mut signature).unwrap();
        assert!(session.verify(&ECDSA, public[0], &[8; 32], &signature).unwrap());
    });
}
