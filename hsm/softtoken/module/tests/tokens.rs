use super::*;

#[test]
fn a_token_is_initialised_and_begun_anew() {
    let card = Card::new("native");
    let session = card.user();
    card.pair(session);
    let slot = card.module.slot(0).unwrap();
    assert_eq!(slot.init_token(SO_PIN, [b'y'; 32]), Err(CKR_SESSION_EXISTS));
    card.module.close_session(session).unwrap();
    assert_eq!(slot.init_token(b"00000000", [b'y'; 32]), Err(CKR_PIN_INCORRECT));
    let before = slot.token_info().unwrap();
    assert_ne!(before.flags & CKF_SO_PIN_COUNT_LOW, 0);
    slot.init_token(SO_PIN, [b'y'; 32]).unwrap();
    let after = slot.token_info().unwrap();
    assert_eq!((after.label, after.serialNumber), ([b'y'; 32], before.serialNumber));
    assert_eq!(after.flags & (CKF_USER_PIN_INITIALIZED | CKF_SO_PIN_COUNT_LOW), 0);
    let session = card.module.open_session(0, true).unwrap();
    assert_eq!(card.find(session, &new()), []);
    let refused = card.module.login(session, CKU_USER, PIN);
    assert_eq!(refused, Err(CKR_USER_PIN_NOT_INITIALIZED));
}

#[test]
fn nothing_opens_before_the_token_is_initialised() {
    let folder = tempfile::tempdir().unwrap();
    let module = Module::open(config(folder.path(), "native")).unwrap();
    assert_eq!(module.open_session(0, true), Err(CKR_TOKEN_NOT_RECOGNIZED));
    assert_eq!(module.open_session(1, true), Err(CKR_SLOT_ID_INVALID));
    let slot = module.slot(0).unwrap();
    assert_eq!(slot.token_info().unwrap().flags & CKF_TOKEN_INITIALIZED, 0);
    assert_eq!(slot.init_token(b"123", [b' '; 32]), Err(CKR_PIN_LEN_RANGE));
    assert_eq!(slot.init_token(&[b'1'; 65], [b' '; 32]), Err(CKR_PIN_LEN_RANGE));
}

#[test]
fn wrong_pins_lock_also_across_processes() {
    let card = Card::new("native");
    let session = card.module.open_session(0, true).unwrap();
    let login = |module: &Module, session, pin| module.login(session, CKU_USER, pin);
    let flags = || card.module.slot(0).unwrap().token_info().unwrap().flags;
    assert_eq!(login(&card.module, session, b"0000"), Err(CKR_PIN_INCORRECT));
    assert_ne!(flags() & CKF_USER_PIN_COUNT_LOW, 0);
    let other = card.other();
    let elsewhere = other.open_session(0, true).unwrap();
    assert_eq!(login(&other, elsewhere, b"0000"), Err(CKR_PIN_INCORRECT));
    assert_ne!(flags() & CKF_USER_PIN_FINAL_TRY, 0);
    assert_eq!(login(&card.module, session, b""), Err(CKR_PIN_LOCKED));
    assert_eq!(login(&other, elsewhere, PIN), Err(CKR_PIN_LOCKED));
    assert_ne!(flags() & CKF_USER_PIN_LOCKED, 0);
    // The SO gives the user another PIN.
    card.module.login(session, CKU_SO, SO_PIN).unwrap();
    card.module.slot(0).unwrap().init_pin(b"4321").unwrap();
    assert_eq!(login(&other, elsewhere, b"4321"), Ok(()));
}

#[test]
fn pins_are_changed_by_those_whose_they_are() {
    let card = Card::new("native");
    let session = card.user();
    let set = |session, old: &[u8], new: &[u8]| {
        let (session, slot) = card.module.session(session)?;
        slot.set_pin(&session, old, new)
    };
    card.pair(session);
    assert_eq!(set(session, b"0000", b"5678"), Err(CKR_PIN_INCORRECT));
    assert_eq!(set(session, PIN, b"567"), Err(CKR_PIN_LEN_RANGE));
    assert_eq!(set(session, PIN, b"5678"), Ok(()));
    assert_eq!(card.module.slot(0).unwrap().init_pin(b"9999"), Err(CKR_USER_NOT_LOGGED_IN));
    card.module.slot(0).unwrap().logout().unwrap();
    assert_eq!(card.module.login(session, CKU_USER, PIN), Err(CKR_PIN_INCORRECT));
    card.module.login(session, CKU_USER, b"5678").unwrap();
    assert_eq!(card.find(session, &new().number(CKA_CLASS, CKO_PRIVATE_KEY)).len(), 1);
    let read_only = card.module.open_session(0, false).unwrap();
    assert_eq!(set(read_only, b"5678", b"0000"), Err(CKR_SESSION_READ_ONLY));
}

#[test]
fn logins_and_sessions_follow_the_states() {
    let card = Card::new("native");
    let rw = card.module.open_session(0, true).unwrap();
    let ro = card.module.open_session(0, false).unwrap();
    let state = |session| card.module.session_info(session).unwrap().state;
    assert_eq!((state(rw), state(ro)), (CKS_RW_PUBLIC_SESSION, CKS_RO_PUBLIC_SESSION));
    let login = |user, pin| card.module.login(rw, user, pin);
    assert_eq!(login(CKU_SO, SO_PIN), Err(CKR_SESSION_READ_ONLY_EXISTS));
    assert_eq!(login(7, PIN), Err(CKR_USER_TYPE_INVALID));
    login(CKU_USER, PIN).unwrap();
    assert_eq!((state(rw), state(ro)), (CKS_RW_USER_FUNCTIONS, CKS_RO_USER_FUNCTIONS));
    assert_eq!(login(CKU_USER, PIN), Err(CKR_USER_ALREADY_LOGGED_IN));
    assert_eq!(login(CKU_SO, SO_PIN), Err(CKR_USER_ANOTHER_ALREADY_LOGGED_IN));
    let slot = card.module.slot(0).unwrap();
    slot.logout().unwrap();
    assert_eq!(slot.logout(), Err(CKR_USER_NOT_LOGGED_IN));
    card.module.close_session(ro).unwrap();
    assert_eq!(card.module.close_session(ro), Err(CKR_SESSION_HANDLE_INVALID));
    login(CKU_SO, SO_PIN).unwrap();
    assert_eq!(state(rw), CKS_RW_SO_FUNCTIONS);
    assert_eq!(card.module.open_session(0, false), Err(CKR_SESSION_READ_WRITE_SO_EXISTS));
    // The last session logs out.
    card.module.close_session(rw).unwrap();
    assert!(card.module.open_session(0, false).is_ok());
}

#[test]
fn sessions_run_out_and_come_back() {
    let card = Card::new("native");
    let open: Vec<_> = (0..8).map(|_| card.module.open_session(0, false).unwrap()).collect();
    assert_eq!(card.module.open_session(0, false), Err(CKR_SESSION_COUNT));
    let info = card.module.slot(0).unwrap().token_info().unwrap();
    assert_eq!((info.ulMaxSessionCount, info.ulSessionCount, info.ulRwSessionCount), (8, 8, 0));
    card.module.close_session(open[3]).unwrap();
    let next = card.module.open_session(0, true).unwrap();
    assert!(!open.contains(&next), "a handle is never used again");
    card.module.close_all_sessions(0).unwrap();
    assert_eq!(card.module.session_info(next).err(), Some(CKR_SESSION_HANDLE_INVALID));
}

#[test]
fn private_objects_are_not_there_before_login_nor_after_logout() {
    let card = Card::new("native");
    let session = card.user();
    let [public, private] = card.pair(session);
    let inside = new().number(CKA_CLASS, CKO_SECRET_KEY).number(CKA_KEY_TYPE, native::KEY_SM4);
    let inside = card.module.create_object(session, &inside.bytes(CKA_VALUE, &[1; 16])).unwrap();
    card.module.begin_signing(session, &card.call(native::SM2), private, Kind::Sign).unwrap();
    card.module.slot(0).unwrap().logout().unwrap();
    assert_eq!(card.find(session, &new()), [public]);
    for handle in [private, inside] {
        let missing = card.module.object(session, handle).err();
        assert_eq!(missing, Some(CKR_OBJECT_HANDLE_INVALID));
    }
    let ended = card.module.sign(session, Some(&[1; 32]), Some(64));
    assert_eq!(ended, Err(CKR_OPERATION_NOT_INITIALIZED));
    let private = new().number(CKA_CLASS, CKO_DATA).flag(CKA_PRIVATE, true);
    let refused = card.module.create_object(session, &private);
    assert_eq!(refused, Err(CKR_USER_NOT_LOGGED_IN));
    card.module.login(session, CKU_USER, PIN).unwrap();
    assert_eq!(card.find(session, &new()).len(), 2, "the session's own key is gone");
}

#[test]
fn the_so_sees_no_private_object() {
    let card = Card::new("native");
    let session = card.user();
    let [public, _] = card.pair(session);
    card.module.slot(0).unwrap().logout().unwrap();
    card.module.login(session, CKU_SO, SO_PIN).unwrap();
    assert_eq!(card.find(session, &new()), [public]);
}

#[test]
fn objects_are_made_changed_copied_and_removed() {
    let card = Card::new("native");
    let session = card.user();
    let make = |template: &Template| card.module.create_object(session, template);
    let class = |class| new().number(CKA_CLASS, class);
    for (template, wanted) in [
        (new(), CKR_TEMPLATE_INCOMPLETE),
        (class(CKO_HW_FEATURE), CKR_ATTRIBUTE_VALUE_INVALID),
        (class(CKO_SECRET_KEY), CKR_TEMPLATE_INCOMPLETE),
        (class(CKO_SECRET_KEY).number(CKA_KEY_TYPE, CKK_AES), CKR_TEMPLATE_INCOMPLETE),
        (class(CKO_CERTIFICATE), CKR_TEMPLATE_INCOMPLETE),
        (class(CKO_DATA).flag(CKA_TRUSTED, true), CKR_ATTRIBUTE_TYPE_INVALID),
        (class(CKO_PUBLIC_KEY).number(CKA_KEY_TYPE, CKK_RSA), CKR_TEMPLATE_INCONSISTENT),
        (class(CKO_PUBLIC_KEY).number(CKA_KEY_TYPE, CKK_EC), CKR_TEMPLATE_INCOMPLETE),
    ] {
        assert_eq!(make(&template), Err(wanted));
    }
    let certificate = class(CKO_CERTIFICATE)
        .number(CKA_CERTIFICATE_TYPE, CKC_X_509)
        .bytes(CKA_VALUE, b"certificate")
        .flag(CKA_TOKEN, true)
        .bytes(CKA_LABEL, b"first");
    let first = make(&certificate).unwrap();
    let second = new().bytes(CKA_LABEL, b"second");
    let copy = card.module.copy_object(session, first, &second).unwrap();
    assert_eq!(card.find(session, &second), [copy]);
    let third = new().bytes(CKA_LABEL, b"third");
    card.module.change_object(session, copy, &third).unwrap();
    let other = card.other();
    let elsewhere = other.open_session(0, true).unwrap();
    assert_eq!(find(&other, elsewhere, &third).len(), 1, "the change is on the disk");
    assert_eq!(find(&other, elsewhere, &second), []);
    let read = |handle| {
        let object = card.module.object(session, handle).unwrap();
        [CKA_VALUE, CKA_UNIQUE_ID].map(|it| object.read(it, card.module.dialect()).unwrap())
    };
    assert_eq!(read(first)[0], read(copy)[0]);
    assert_ne!(read(first)[1], read(copy)[1], "each object has an identifier of its own");
    card.module.destroy_object(session, copy).unwrap();
    let again = card.module.destroy_object(session, copy);
    assert_eq!(again, Err(CKR_OBJECT_HANDLE_INVALID));
    let kept = make(&class(CKO_DATA).flag(CKA_DESTROYABLE, false)).unwrap();
    assert_eq!(card.module.destroy_object(session, kept), Err(CKR_ACTION_PROHIBITED));
}

#[test]
fn nobody_but_the_so_makes_a_key_trusted() {
    let card = Card::new("native");
    let session = card.user();
    let trusted = new().flag(CKA_TRUSTED, true).flag(CKA_WRAP, true);
    let call = card.call(native::SM4_KEY_GEN);
    let refused = card.module.generate_key(session, &call, &trusted);
    assert_eq!(refused, Err(CKR_ATTRIBUTE_READ_ONLY));
    let shown = new().flag(CKA_PRIVATE, false).flag(CKA_TOKEN, true).flag(CKA_WRAP, true);
    let key = card.module.generate_key(session, &call, &shown).unwrap();
    let trust = new().flag(CKA_TRUSTED, true);
    let refused = card.module.change_object(session, key, &trust);
    assert_eq!(refused, Err(CKR_ATTRIBUTE_READ_ONLY));
    card.module.slot(0).unwrap().logout().unwrap();
    // Private or not, a secret cannot be read from the disk before a login.
    assert_eq!(card.find(session, &new()), []);
    card.module.login(session, CKU_SO, SO_PIN).unwrap();
    let [key] = card.find(session, &new())[..] else { panic!("the SO sees it") };
    card.module.change_object(session, key, &trust).unwrap();
    assert_eq!(card.find(session, &trust), [key]);
}

#[test]
fn read_only_sessions_write_nothing_to_the_token() {
    let card = Card::new("native");
    let session = card.user();
    let [public, _] = card.pair(session);
    let read_only = card.module.open_session(0, false).unwrap();
    let data = new().number(CKA_CLASS, CKO_DATA);
    let token = data.clone().flag(CKA_TOKEN, true);
    assert_eq!(card.module.create_object(read_only, &token), Err(CKR_SESSION_READ_ONLY));
    let label = new().bytes(CKA_LABEL, b"a");
    let refused = card.module.change_object(read_only, public, &label);
    assert_eq!(refused, Err(CKR_SESSION_READ_ONLY));
    assert_eq!(card.module.destroy_object(read_only, public), Err(CKR_SESSION_READ_ONLY));
    let own = card.module.create_object(read_only, &data).unwrap();
    assert!(card.module.object(session, own).is_ok());
    card.module.close_session(read_only).unwrap();
    assert!(card.module.object(session, own).is_err(), "it lived as long as its session");
}

#[test]
fn processes_see_what_others_change() {
    let card = Card::new("native");
    let session = card.user();
    let other = card.other();
    let elsewhere = other.open_session(0, true).unwrap();
    other.login(elsewhere, CKU_USER, PIN).unwrap();
    let [public, private] = card.pair(session);
    let template = new().number(CKA_CLASS, CKO_PRIVATE_KEY);
    let found = find(&other, elsewhere, &template);
    assert_eq!(found.len(), 1);
    let label = new().bytes(CKA_LABEL, b"name");
    other.change_object(elsewhere, found[0], &label).unwrap();
    assert_eq!(card.find(session, &label), [private], "the handle stays");
    card.module.destroy_object(session, private).unwrap();
    assert_eq!(other.object(elsewhere, found[0]).err(), Some(CKR_OBJECT_HANDLE_INVALID));
    card.module.destroy_object(session, public).unwrap();
    // The token begins anew: the other process's sessions are those of another token.
    card.module.close_session(session).unwrap();
    card.module.slot(0).unwrap().init_token(SO_PIN, [b'z'; 32]).unwrap();
    other.slot(0).unwrap().token_info().unwrap();
    assert_eq!(other.session_info(elsewhere).err(), Some(CKR_SESSION_HANDLE_INVALID));
}

#[test]
fn damage_is_an_error_and_never_a_missing_key() {
    let card = Card::new("native");
    let session = card.user();
    card.pair(session);
    let objects = card.folder.path().join("slot-00/objects");
    let private = std::fs::read_dir(&objects)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|it| it == "closed"))
        .unwrap();
    let whole = std::fs::read(&private).unwrap();
    std::fs::write(&private, &whole[..whole.len() / 2]).unwrap();
    let other = card.other();
    let elsewhere = other.open_session(0, true).unwrap();
    assert_eq!(other.login(elsewhere, CKU_USER, PIN), Err(CKR_DEVICE_ERROR));
    assert_eq!(other.session_info(elsewhere).unwrap().state, CKS_RW_PUBLIC_SESSION);
    std::fs::write(&private, &whole).unwrap();
    assert_eq!(other.login(elsewhere, CKU_USER, PIN), Ok(()));
    std::fs::write(card.folder.path().join("slot-00/token"), b"x").unwrap();
    let third = card.other();
    assert_eq!(third.open_session(0, true), Err(CKR_TOKEN_NOT_RECOGNIZED));
    assert_eq!(third.slot(0).unwrap().token_info().err(), Some(CKR_TOKEN_NOT_RECOGNIZED));
}

#[test]
fn nothing_secret_is_on_the_disk() {
    let card = Card::new("native");
    let session = card.user();
    let value = [0xa7; 16];
    let secret = new()
        .number(CKA_CLASS, CKO_SECRET_KEY)
        .number(CKA_KEY_TYPE, native::KEY_SM4)
        .flag(CKA_TOKEN, true)
        .bytes(CKA_VALUE, &value);
    card.module.create_object(session, &secret).unwrap();
    card.module.create_object(session, &secret.flag(CKA_PRIVATE, false)).unwrap();
    let mut folders = vec![card.folder.path().to_owned()];
    let mut files_count = 0;
    let mut endings = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            files_count += 1;
            let bytes = std::fs::read(entry.path()).unwrap();
            for secret in [&value[..], SO_PIN] {
                assert!(!bytes.windows(secret.len()).any(|part| part == secret));
            }
            endings.extend(entry.path().extension().map(std::ffi::OsStr::to_owned));
        }
    }
    assert!(files_count >= 4, "{files_count}");
    assert_eq!(endings, ["closed", "closed"], "both are sealed with the token's key");
}
