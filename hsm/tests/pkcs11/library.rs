//! Libraries that load, that do not, and that are no libraries.

use std::path::Path;

use hufu_hsm::pkcs11::Library;
use hufu_hsm::pkcs11::codes as ck;
use hufu_hsm::{Error, ErrorClass, Rv};

use crate::token::{LABEL, OFFICER_PIN, in_own_process, initialise, pin, slot, with_softhsm};

#[test]
fn a_library_tells_what_it_is() {
    with_softhsm("library::a_library_tells_what_it_is", |path| {
        let library = Library::load(path).unwrap();
        let info = library.info().unwrap();
        assert_eq!(info.manufacturer, "SoftHSM");
        assert!(info.cryptoki_version >= (2, 40), "{info:?}");
        let slot = initialise(&library);
        let token = library.token_info(slot).unwrap();
        assert_eq!((token.label.as_str(), token.model.as_str()), (LABEL, "SoftHSM v2"));
        assert_eq!(token.serial.len(), 16);
        assert_ne!(token.flags & ck::CKF_USER_PIN_INITIALIZED, 0);
        assert_eq!(library.slot_info(slot).unwrap().manufacturer, "SoftHSM project");
        let mechanisms = library.mechanisms(slot).unwrap();
        assert!(mechanisms.contains(&ck::CKM_ECDSA));
        let ecdsa = library.mechanism_info(slot, ck::CKM_ECDSA).unwrap();
        assert_ne!(ecdsa.flags & ck::CKF_SIGN, 0);
        let missing = library.mechanism_info(slot, 0x8000_8001).unwrap_err();
        assert!(matches!(missing, Error::Call { rv: Rv(ck::CKR_MECHANISM_INVALID), .. }));
        let nowhere = library.token_info(4_711).unwrap_err();
        assert_eq!(nowhere.class(), ErrorClass::TokenLost, "{nowhere}");
    });
}

#[test]
fn a_library_is_loaded_once_and_anew_when_all_have_left_it() {
    with_softhsm("library::a_library_is_loaded_once_and_anew_when_all_have_left_it", |path| {
        let first = Library::load(path).unwrap();
        let slot = initialise(&first);
        let again = Library::load(path).unwrap();
        assert!(std::sync::Arc::ptr_eq(&first, &again));
        let session = first.open_session(slot, false).unwrap();
        drop((first, again));
        // The session still holds the library, so that it works.
        session.info().unwrap();
        assert_eq!(session.library().generation(), 1);
        drop(session);
        for generation in 2..6 {
            let library = Library::load(path).unwrap();
            assert_eq!(library.generation(), generation);
            library.open_session(self::slot(&library), false).unwrap().info().unwrap();
        }
    });
}

#[test]
fn threads_that_load_and_leave_at_once_share_or_wait() {
    with_softhsm("library::threads_that_load_and_leave_at_once_share_or_wait", |path| {
        initialise(&Library::load(path).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let library = Library::load(path).unwrap();
                        library.open_session(slot(&library), false).unwrap().info().unwrap();
                    }
                });
            }
        });
    });
}

#[test]
fn what_the_system_cannot_load_says_why() {
    in_own_process("library::what_the_system_cannot_load_says_why", |folder| {
        let cause = |path: &Path| match Library::load(path).unwrap_err() {
            Error::LibraryLoad { path: named, cause } => {
                assert_eq!(named.file_name(), path.file_name());
                cause
            }
            other => panic!("{other}"),
        };
        let missing = folder.join("missing.so");
        assert!(cause(&missing).contains("No such file"), "{}", cause(&missing));
        let text = folder.join("text.so");
        std::fs::write(&text, "this is no library, though long enough to be looked at\n".repeat(4))
            .unwrap();
        assert!(cause(&text).contains("invalid ELF header"), "{}", cause(&text));
        let other = folder.join("other.so");
        std::fs::write(&other, elf_header_of_another_machine()).unwrap();
        assert!(cause(&other).contains("ELF"), "{}", cause(&other));
        assert!(!cause(&other).contains('\n'));
    });
}

/// The header of a 32-bit library, which a 64-bit process cannot load.
fn elf_header_of_another_machine() -> Vec<u8> {
    let mut header = vec![0x7f, b'E', b'L', b'F', 1, 1, 1];
    header.resize(4_096, 0);
    header[16] = 3;
    header[18] = 3;
    header[20] = 1;
    header
}

#[test]
fn a_token_wants_the_officers_pin_before_it_is_emptied() {
    with_softhsm("library::a_token_wants_the_officers_pin_before_it_is_emptied", |path| {
        let library = Library::load(path).unwrap();
        let slot = initialise(&library);
        let refused = library.init_token(slot, &pin(b"00000000"), "other").unwrap_err();
        assert!(matches!(refused, Error::PinRefused { .. }), "{refused}");
        assert_eq!(library.token_info(slot).unwrap().label, LABEL);
        let long = library.init_token(slot, &pin(OFFICER_PIN), &"x".repeat(33)).unwrap_err();
        assert!(matches!(long, Error::Refused { .. }), "{long}");
        library.init_token(slot, &pin(OFFICER_PIN), "国密令牌").unwrap();
        assert_eq!(library.token_info(slot).unwrap().label, "国密令牌");
    });
}
