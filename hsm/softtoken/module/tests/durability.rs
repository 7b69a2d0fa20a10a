//! The power goes, the disk is full, a process is killed, files are forged: what then holds.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;
use crate::attributes::Occasion;
use crate::object::Object;
use crate::store::header::Attempt;
use crate::store::{Store, power};

impl Card {
    fn store(&self) -> Store {
        Store::open(self.folder.path(), 0, "HF").unwrap()
    }

    fn token(&self) -> PathBuf {
        self.folder.path().join("slot-00")
    }
}

fn flags(module: &Module) -> CK_FLAGS {
    module.slot(0).unwrap().token_info().unwrap().flags
}

/// A process that is killed between the counter's write and its end has counted for the others.
#[test]
fn attempts_of_a_killed_process_count() {
    let card = Card::new("native");
    let session = card.module.open_session(0, true).unwrap();
    let store = card.store();
    let mut header = store.read_header().unwrap();
    let attempt = header.attempt(User::Normal, b"0000", |header| store.write_header(header));
    assert!(matches!(attempt, Ok(Attempt::Wrong)));
    assert_eq!(card.module.login(session, CKU_USER, b"0000"), Err(CKR_PIN_INCORRECT));
    assert_ne!(flags(&card.module) & CKF_USER_PIN_FINAL_TRY, 0, "two of three attempts are gone");
}

/// What cannot be written was no attempt: neither does it lock, nor is it tried for nothing.
#[test]
fn a_full_disk_locks_no_pin() {
    let card = Card::new("native");
    let session = card.module.open_session(0, true).unwrap();
    let in_the_way = card.token().join("token.new");
    std::fs::create_dir(&in_the_way).unwrap();
    for pin in [PIN, b"0000", PIN, PIN] {
        assert_eq!(card.module.login(session, CKU_USER, pin), Err(CKR_DEVICE_ERROR));
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(flags(&card.module) & CKF_USER_PIN_COUNT_LOW, 0);
    assert_eq!(card.module.login(session, CKU_USER, PIN), Ok(()));
}

/// The power goes at every single step of an attempt with a wrong PIN: either nothing was tried,
/// or the attempt has counted.
#[test]
fn no_attempt_is_free_of_charge() {
    for step in 0.. {
        let card = Card::new("native");
        let session = card.module.open_session(0, true).unwrap();
        power::fails_after(step);
        let answer = card.module.login(session, CKU_USER, b"0000");
        let was_out = power::comes_back();
        let counted = flags(&card.other()) & CKF_USER_PIN_COUNT_LOW != 0;
        assert!(counted || answer == Err(CKR_DEVICE_ERROR), "step {step}: {answer:#x?}");
        if !was_out {
            assert_eq!(answer, Err(CKR_PIN_INCORRECT));
            assert!(step > 3, "{step} steps were tried");
            break;
        }
    }
}

/// The power goes at every single step of a change: afterwards everything is as it was before, or
/// as it is after, for this process and for others, and the token works.
#[test]
fn changes_are_whole_whenever_the_power_goes() {
    type Change = fn(&Card, CK_SESSION_HANDLE, CK_OBJECT_HANDLE) -> Answer<()>;
    let label = || new().bytes(CKA_LABEL, b"changed");
    let changes: [(&str, Change); 4] = [
        ("generate", |card, session, _| {
            let token = new().flag(CKA_TOKEN, true);
            let call = card.call(native::SM2_KEY_PAIR_GEN);
            card.module.generate_pair(session, &call, &token, &token).map(drop)
        }),
        ("change", |card, session, key| {
            card.module.change_object(session, key, &new().bytes(CKA_LABEL, b"changed"))
        }),
        ("destroy", |card, session, key| card.module.destroy_object(session, key)),
        ("set the PIN", |card, session, _| {
            let (session, slot) = card.module.session(session)?;
            slot.set_pin(&session, PIN, b"5678")
        }),
    ];
    for (name, change) in changes {
        for step in 0.. {
            let card = Card::new("native");
            let session = card.user();
            let [_, key] = card.pair(session);
            let others = card.other();
            let elsewhere = others.open_session(0, true).unwrap();
            others.login(elsewhere, CKU_USER, PIN).unwrap();
            power::fails_after(step);
            let answer = change(&card, session, key);
            let was_out = power::comes_back();
            let count = |module: &Module, session| {
                let class = |class| new().number(CKA_CLASS, class);
                [class(CKO_PRIVATE_KEY), class(CKO_PUBLIC_KEY), label()]
                    .map(|template| find(module, session, &template).len())
            };
            // Before anybody else changes anything, which would tell them to look.
            let counts = [count(&card.module, session), count(&others, elsewhere)];
            let third = card.other();
            let fresh = third.open_session(0, true).unwrap();
            let pins = [PIN, b"5678"].map(|pin| third.login(fresh, CKU_USER, pin));
            assert!(pins.contains(&Ok(())), "{name} {step}: {pins:x?}");
            assert_eq!(counts, [count(&third, fresh); 2], "{name} {step}");
            if name == "generate" {
                assert_eq!(counts[0][0], counts[0][1], "{step}: half a pair");
                assert!(!card.token().join("together").exists());
            }
            if !was_out {
                assert_eq!(answer, Ok(()), "{name}");
                assert!(step > 1, "{name}: {step} steps were tried");
                break;
            }
            assert_eq!(answer, Err(CKR_DEVICE_ERROR), "{name} {step}");
            assert_eq!(card.pair(session).len(), 2, "{name} {step}: the token goes on");
        }
    }
}

/// The power goes at every step of `C_InitToken`: the token is the old one with all its keys, or
/// the new one with none.
#[test]
fn a_token_begins_anew_or_not_at_all() {
    for step in 0.. {
        let card = Card::new("native");
        let session = card.user();
        card.pair(session);
        card.module.close_session(session).unwrap();
        power::fails_after(step);
        let answer = card.module.slot(0).unwrap().init_token(SO_PIN, [b'y'; 32]);
        let was_out = power::comes_back();
        for module in [&card.other(), &card.module] {
            let session = module.open_session(0, true).unwrap();
            let is_new = module.slot(0).unwrap().token_info().unwrap().label == [b'y'; 32];
            if is_new {
                let refused = module.login(session, CKU_USER, PIN);
                assert_eq!(refused, Err(CKR_USER_PIN_NOT_INITIALIZED), "step {step}");
                let objects = std::fs::read_dir(card.token().join("objects")).unwrap();
                assert_eq!(objects.count(), 0, "step {step}");
            } else {
                assert_eq!(module.login(session, CKU_USER, PIN), Ok(()), "step {step}");
                assert_eq!(find(module, session, &new()).len(), 2, "step {step}");
            }
        }
        if !was_out {
            assert_eq!(answer, Ok(()));
            assert!(step > 6, "{step} steps were tried");
            break;
        }
    }
}

/// Half written files are no burden to a disk that is full.
#[test]
fn what_could_not_be_written_is_taken_away() {
    let card = Card::new("native");
    let session = card.user();
    let objects = card.token().join("objects");
    let id = crate::store::StoreId::new().unwrap();
    let key = card.store().read_header().unwrap().public_key();
    // The name it would get is a folder's that is not empty.
    std::fs::create_dir_all(objects.join(format!("{}.open", id.text())).join("x")).unwrap();
    let data = new().number(CKA_CLASS, CKO_DATA).flag(CKA_TOKEN, true);
    let object = Object::born(&data, CKO_DATA, Occasion::Create).unwrap();
    let header = card.store().read_header().unwrap();
    assert!(card.store().write_object(&header, &key, id, &object).is_err());
    let left = std::fs::read_dir(&objects).unwrap();
    assert_eq!(left.count(), 1);
    std::fs::remove_dir_all(objects.join(format!("{}.open", id.text()))).unwrap();
    assert!(card.module.create_object(session, &data).is_ok());
}

/// Who can write to the store but knows no PIN plants no key: a file that anyone can seal holds
/// nothing secret.
#[test]
fn planted_keys_are_refused() {
    let card = Card::new("native");
    let store = card.store();
    let header = store.read_header().unwrap();
    let planted = new()
        .number(CKA_KEY_TYPE, CKK_AES)
        .flag(CKA_PRIVATE, false)
        .flag(CKA_TOKEN, true)
        .flag(CKA_WRAP, true)
        .flag(CKA_TRUSTED, true)
        .bytes(CKA_VALUE, &[7; 16]);
    let planted = Object::born(&planted, CKO_SECRET_KEY, Occasion::Create).unwrap();
    let id = crate::store::StoreId::new().unwrap();
    store.write_as(&header, &header.public_key(), id, &planted, false).unwrap();
    let other = card.other();
    let opened = other.open_session(0, true).and_then(|session| {
        other.login(session, CKU_USER, PIN)?;
        other.begin_find(session, &new())?;
        other.find(session, 10)
    });
    assert_eq!(opened, Err(CKR_DEVICE_ERROR));
}

/// A token file is not made anew beside the objects of one that is gone.
#[test]
fn a_missing_token_file_is_damage() {
    let card = Card::new("native");
    let session = card.user();
    card.pair(session);
    std::fs::remove_file(card.token().join("token")).unwrap();
    let other = card.other();
    assert_eq!(other.open_session(0, true), Err(CKR_TOKEN_NOT_RECOGNIZED));
    assert_eq!(
        other.slot(0).unwrap().init_token(SO_PIN, [b'z'; 32]),
        Err(CKR_TOKEN_NOT_RECOGNIZED)
    );
}

/// Nothing is read or written through links, nor in a folder that others write to.
#[test]
fn links_and_open_folders_are_refused() {
    let card = Card::new("native");
    let elsewhere = tempfile::tempdir().unwrap();
    let (token, moved) = (card.token().join("token"), elsewhere.path().join("token"));
    std::fs::rename(&token, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &token).unwrap();
    assert_eq!(card.other().open_session(0, true), Err(CKR_TOKEN_NOT_RECOGNIZED));
    std::fs::rename(&moved, &token).unwrap();
    assert!(card.other().open_session(0, true).is_ok());
    for name in ["lock", "control"] {
        let (place, moved) = (card.token().join(name), elsewhere.path().join(name));
        std::fs::rename(&place, &moved).unwrap();
        std::os::unix::fs::symlink(&moved, &place).unwrap();
        assert!(Module::open(config(card.folder.path(), "native")).is_err(), "{name}");
        std::fs::rename(&moved, &place).unwrap();
    }
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(card.token(), mode(0o770)).unwrap();
    let refused = Module::open(config(card.folder.path(), "native")).err().unwrap();
    assert!(refused.to_string().contains("slot-00"), "{refused}");
    std::fs::set_permissions(card.token(), mode(0o700)).unwrap();
    assert!(card.other().open_session(0, true).is_ok());
}

/// A child that was forked while the store was locked, and lives on, does not keep it locked.
#[test]
fn a_lock_is_not_inherited() {
    let card = Card::new("native");
    let lock = card.store().lock().unwrap();
    let inherited = lock.duplicate();
    let another = std::fs::File::open(card.token().join("lock")).unwrap();
    assert!(another.try_lock().is_err());
    drop(lock);
    assert!(another.try_lock().is_ok(), "the lock is still held");
    drop(inherited);
}
