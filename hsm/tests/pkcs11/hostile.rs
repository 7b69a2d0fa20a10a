//! Libraries that lie: each lie is an error, never a crash and never believed.

use std::path::{Path, PathBuf};
use std::process::Command;

use hufu_hsm::error::TriesLeft;
use hufu_hsm::pin::PinSource;
use hufu_hsm::pkcs11::codes as ck;
use hufu_hsm::pkcs11::{AttributeValue, FOUND_MAX, Library, Mechanism, Unload, User};
use hufu_hsm::{Error, ErrorClass, Rv};

use crate::token::{in_own_process, pin};

/// Builds `hostile.c` with one lie; none where there is no compiler.
fn build(folder: &Path, lie: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pkcs11/hostile.c");
    let library = folder.join(format!("{lie}.so"));
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", &format!("-DLIE_{lie}"), "-o"])
        .args([&library, &source])
        .status();
    match status {
        Ok(status) => {
            assert!(status.success(), "hostile.c does not compile");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no C compiler: {error}");
            None
        }
    }
}

#[test]
fn libraries_without_what_is_needed_are_refused_with_the_reason() {
    let test = "hostile::libraries_without_what_is_needed_are_refused_with_the_reason";
    in_own_process(test, |folder| {
        for (lie, wanted) in [
            ("SYMBOL", "no symbol C_GetFunctionList"),
            ("VERSION", "2.11"),
            ("FUNCTIONS", "lacks C_Initialize, C_Sign"),
            ("LIST", "empty list"),
            ("ERROR", "CKR_DEVICE_ERROR"),
            ("ALIGNMENT", "empty list"),
            ("SHORT", "PKCS#11 1.0"),
        ] {
            let Some(path) = build(folder, lie) else { return };
            let error = Library::load(&path).unwrap_err();
            assert!(matches!(error, Error::LibraryUnusable { .. }), "{lie}: {error}");
            assert!(error.to_string().contains(wanted), "{lie}: {error}");
        }
        let Some(path) = build(folder, "INITIALISE") else { return };
        for _ in 0..2 {
            let error = Library::load(&path).unwrap_err();
            assert!(matches!(error, Error::Call { function: "C_Initialize", .. }), "{error}");
        }
        let path = build(folder, "INTERFACE").unwrap();
        assert!(Library::load(&path).is_ok(), "the old way is tried where the new gives nothing");
    });
}

#[test]
fn answers_that_cannot_be_are_errors() {
    in_own_process("hostile::answers_that_cannot_be_are_errors", |folder| {
        let Some(path) = build(folder, "SLOTS") else { return };
        let library = Library::load(&path).unwrap();
        let info = library.info().unwrap();
        assert!(info.manufacturer.starts_with("bad\\u{1b}[2J\\n\\xff"), "{info:?}");
        assert!(!info.description.chars().any(char::is_control));
        let malformed = |error: &Error| matches!(error, Error::AnswerMalformed { .. });
        assert!(malformed(&library.slots().unwrap_err()));
        assert!(malformed(&library.mechanisms(7).unwrap_err()));
        let session = library.open_session(7, true).unwrap();
        let mut out = [0; 64];
        let sign = session.sign(&Mechanism::bare(ck::CKM_ECDSA), 1, &[7; 32], &mut out);
        assert!(malformed(&sign.unwrap_err()));
        assert!(malformed(&session.find(&[], 3).unwrap_err()));
        assert_eq!(session.find(&[], usize::MAX).unwrap().len(), FOUND_MAX, "an endless search");
        let value = |object| session.attributes(object, &[ck::CKA_LABEL]);
        assert!(malformed(&value(1).unwrap_err()), "longer than its place");
        assert!(malformed(&value(2).unwrap_err()), "longer than is ever taken");
        assert_eq!(value(3).unwrap(), [AttributeValue::Unknown]);
        // The token's flags cannot be read here: what is left is unknown, not an error of its own.
        let refused = session.login(User::User, &pin(b"1234")).unwrap_err();
        assert!(
            matches!(refused, Error::PinRefused { tries_left: TriesLeft::Unknown, .. }),
            "{refused}"
        );
        assert!(session.set_pin(&pin(b"1234"), &pin(b"5678")).is_err());
        assert!(session.generate_key(&Mechanism::bare(1), &[]).is_err());
    });
}

#[test]
fn a_library_that_would_not_be_finalised_is_finalised_the_next_time() {
    let test = "hostile::a_library_that_would_not_be_finalised_is_finalised_the_next_time";
    in_own_process(test, |folder| {
        let Some(path) = build(folder, "FINALISE") else { return };
        let asked = |library: &Library| library.info().unwrap().version.0;
        // Kept in memory, it remembers how often it was asked, and that it is initialised.
        let library = Library::load_with(&path, Unload::KeepMapped).unwrap();
        assert_eq!((asked(&library), asked(&library)), (0, 1));
        drop(library);
        let left = Library::load_with(&path, Unload::KeepMapped).unwrap();
        assert_eq!(asked(&left), 2);
        drop(left);
        // Were it still initialised, it would be taken for another client's, and so for ever.
        let other = cryptoki::context::Pkcs11::new(&path).unwrap();
        let flags = cryptoki::context::CInitializeFlags::OS_LOCKING_OK;
        other.initialize(cryptoki::context::CInitializeArgs::new(flags)).unwrap();
    });
}

#[test]
fn a_library_that_would_not_be_finalised_is_not_taken_away_under_its_threads() {
    let test = "hostile::a_library_that_would_not_be_finalised_is_not_taken_away_under_its_threads";
    in_own_process(test, |folder| {
        let Some(path) = build(folder, "FINALISE") else { return };
        for asked in 0..3 {
            let library = Library::load(&path).unwrap();
            assert_eq!(library.info().unwrap().version.0, asked, "its memory is as it was");
        }
    });
}

#[test]
fn a_pin_is_typed_at_the_pad_of_a_token_that_has_one_and_nobody_is_asked_twice() {
    let test =
        "hostile::a_pin_is_typed_at_the_pad_of_a_token_that_has_one_and_nobody_is_asked_twice";
    in_own_process(test, |folder| {
        let Some(path) = build(folder, "PAD") else { return };
        let library = Library::load(&path).unwrap();
        let session = library.open_session(7, true).unwrap();
        let at_the_pad = PinSource::Pad.read().unwrap();
        let refused = session.login(User::User, &pin(b"1234")).unwrap_err();
        assert!(matches!(refused, Error::PinRefused { rv: Rv(0xa0), .. }), "{refused}");
        // "Cancel" is no lost session, which would be opened and logged in again.
        let refused = session.login(User::User, &at_the_pad).unwrap_err();
        assert!(matches!(refused, Error::PinRefused { rv: Rv(0x50), .. }), "{refused}");
        assert_eq!(refused.class(), ErrorClass::Permanent);
        session.login(User::User, &at_the_pad).unwrap();
    });
}

#[test]
fn a_library_of_2_20_is_used_and_its_token_without_a_pad_is_never_asked_for_one() {
    let test =
        "hostile::a_library_of_2_20_is_used_and_its_token_without_a_pad_is_never_asked_for_one";
    in_own_process(test, |folder| {
        let Some(path) = build(folder, "OLD") else { return };
        let library = Library::load(&path).unwrap();
        assert_eq!(library.slots().unwrap(), [7]);
        let session = library.open_session(7, true).unwrap();
        let pad = PinSource::Pad.read().unwrap();
        let of_pad = |refused: &Error| matches!(refused, Error::PinUnreadable { .. });
        for refused in [
            session.login(User::User, &pad).unwrap_err(),
            session.init_pin(&pad).unwrap_err(),
            session.set_pin(&pad, &pad).unwrap_err(),
            library.init_token(7, &pad, "any").unwrap_err(),
        ] {
            assert!(of_pad(&refused), "{refused}");
            assert!(refused.to_string().contains("PIN pad"), "{refused}");
        }
        // What a library lacks is an error when it is called, not before.
        let refused = session.random(&mut [0; 8]).unwrap_err();
        assert!(refused.to_string().contains("CKR_FUNCTION_NOT_SUPPORTED"), "{refused}");
    });
}

#[test]
fn a_library_that_is_unmapped_starts_from_nothing() {
    in_own_process("hostile::a_library_that_is_unmapped_starts_from_nothing", |folder| {
        let Some(path) = build(folder, "NOTHING") else { return };
        for _ in 0..3 {
            let library = Library::load(&path).unwrap();
            assert_eq!(library.info().unwrap().version.0, 0);
        }
    });
}
