use cryptoki_sys::{CKA_LABEL, CKA_PRIVATE, CKO_DATA};

use super::header::{Attempt, User};
use super::*;
use crate::attributes::{Occasion, Template};

const ROUNDS: u32 = 1_000;

fn store() -> (tempfile::TempDir, Store, Header, TokenKey) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 0, "HF").unwrap();
    let blank = store.read_header().unwrap();
    assert!(!blank.is_initialised());
    let mut header = blank.initialised([b'x'; 32], b"12345678", ROUNDS, 3).unwrap();
    let Ok(Attempt::Right(key)) = header.attempt(User::So, b"12345678", |_| Ok(())) else {
        panic!("the PIN that was just set")
    };
    header.set_pin(User::Normal, b"1234", &key, ROUNDS, 3).unwrap();
    store.write_header(&header).unwrap();
    (folder, store, header, key)
}

fn object(label: &str, is_closed: bool) -> Object {
    let template =
        Template::default().bytes(CKA_LABEL, label.as_bytes()).flag(CKA_PRIVATE, is_closed);
    Object::born(&template, CKO_DATA, Occasion::Create).unwrap()
}

#[test]
fn objects_come_back_and_are_bound_to_their_place() {
    let (_folder, store, header, key) = store();
    let (first, second) = (StoreId::new().unwrap(), StoreId::new().unwrap());
    store.write_object(&header, &key, first, &object("first", true)).unwrap();
    store.write_object(&header, &key, second, &object("second", true)).unwrap();
    let read = store.read_object(&header, &key, first, true).unwrap();
    assert_eq!(read.get(CKA_LABEL), Some(&b"first"[..]));
    assert_eq!(store.list().unwrap().len(), 2);
    // One under the name of the other.
    std::fs::copy(store.object_path(first, true), store.object_path(second, true)).unwrap();
    let refused = store.read_object(&header, &key, second, true).err().unwrap();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    store.remove_object(first, true).unwrap();
    assert_eq!(store.list().unwrap(), [(second, true)]);
    let next = header.initialised([b'y'; 32], b"12345678", ROUNDS, 3).unwrap();
    assert!(store.begin_life(next).unwrap().is_settled());
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn cut_and_changed_files_are_named() {
    let (_folder, store, header, key) = store();
    let id = StoreId::new().unwrap();
    store.write_object(&header, &key, id, &object("label", true)).unwrap();
    let path = store.object_path(id, true);
    let whole = std::fs::read(&path).unwrap();
    assert!(!whole.windows(5).any(|part| part == b"label"), "the label is on the disk in clear");
    for size in [0, 5, 20, whole.len() - 1] {
        std::fs::write(&path, &whole[..size]).unwrap();
        let refused = store.read_object(&header, &key, id, true).err().unwrap();
        assert!(refused.to_string().contains(path.to_str().unwrap()), "{refused}");
    }
    let token = store.folder().join(TOKEN);
    let whole = std::fs::read(&token).unwrap();
    for (size, flipped) in [(0, 0), (whole.len() - 1, 0), (whole.len(), 9), (whole.len(), 100)] {
        let mut bytes = whole[..size].to_vec();
        if let Some(byte) = bytes.get_mut(flipped) {
            *byte ^= 1;
        }
        std::fs::write(&token, &bytes).unwrap();
        let refused = store.read_header().err().unwrap();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    }
}

/// A checksum is soon made: what it covers is looked at all the same.
#[test]
fn values_that_are_never_written_are_refused() {
    let (_folder, _store, header, _) = store();
    let bytes = header.to_bytes();
    assert!(Header::from_bytes(&bytes).is_ok());
    let size = bytes.len() - 32;
    // The state of the life; whether PINs are set, their attempts and turns.
    let pin_size = 1 + 3 * 4 + 16 + 12 + 16 + 16;
    let (so, user) = (size - 2 * pin_size, size - pin_size);
    for place in [8, so, so + 8, so + 12, user, user + 8, user + 12] {
        let mut changed = bytes[..size].to_vec();
        changed[place] = 0xff;
        let sum = hufu_crypto::Sm3::of(&[&changed]);
        changed.extend_from_slice(&sum.0);
        assert!(Header::from_bytes(&changed).is_err(), "{place}");
    }
}

#[test]
fn wrong_pins_are_counted_before_they_are_known_to_be_wrong() {
    let (_folder, store, mut header, _) = store();
    let mut attempt = |pin: &[u8]| {
        let write = |header: &Header| store.write_header(header);
        header.attempt(User::Normal, pin, write).unwrap()
    };
    assert!(matches!(attempt(b"0000"), Attempt::Wrong));
    assert!(store.read_header().unwrap().tries(User::Normal).is_low);
    assert!(matches!(attempt(b"0000"), Attempt::Wrong));
    assert!(store.read_header().unwrap().tries(User::Normal).is_last);
    assert!(matches!(attempt(b"1234"), Attempt::Right(_)));
    assert!(!store.read_header().unwrap().tries(User::Normal).is_low);
    for _ in 0..2 {
        assert!(matches!(attempt(b"0000"), Attempt::Wrong));
    }
    assert!(matches!(attempt(b"0000"), Attempt::Locked));
    assert!(matches!(attempt(b"1234"), Attempt::Locked));
    assert!(store.read_header().unwrap().tries(User::Normal).is_locked);
    // The power goes right after the counter was written: the attempt has counted all the same.
    let mut header = store.read_header().unwrap();
    let lost = |_: &Header| Err(StoreError::Damaged { path: PathBuf::new(), reason: "power" });
    assert!(header.attempt(User::So, b"12345678", lost).is_err());
}

#[test]
fn a_new_life_opens_nothing_of_the_old_one() {
    let (_folder, store, header, key) = store();
    let id = StoreId::new().unwrap();
    store.write_object(&header, &key, id, &object("a", true)).unwrap();
    let mut next = header.initialised([b'y'; 32], b"12345678", ROUNDS, 3).unwrap();
    assert_eq!(next.serial(), header.serial());
    assert!(store.read_object(&next, &key, id, true).is_err());
    let Ok(Attempt::Right(other)) = next.attempt(User::So, b"12345678", |_| Ok(())) else {
        panic!("the PIN that was just set")
    };
    assert_ne!(*other.0, *key.0);
    assert!(matches!(next.attempt(User::Normal, b"1234", |_| Ok(())).unwrap(), Attempt::Unset));
}

/// Whatever is changed in the clear bytes of an object, reading them gives an object or nothing.
#[test]
fn changed_bytes_of_objects_never_panic() {
    let bytes = object("label", true).to_bytes().to_vec();
    for place in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[place] ^= flip;
            drop(Object::from_bytes(&changed));
        }
    }
}
