use super::*;

#[test]
fn a_removed_device_comes_back_with_nothing_open() {
    let card = Card::new("native");
    let session = card.user();
    let [_, private] = card.pair(session);
    assert_eq!(card.module.slot_event(), None);
    card.faults().set(Fault::Removed { millis: 60_000 });
    assert_eq!(card.module.slot_event(), Some(0));
    assert_eq!(card.module.slot_ids(true), []);
    assert_eq!(card.module.slot_ids(false), [0]);
    assert_eq!(card.module.slot_info(0).unwrap().flags & CKF_TOKEN_PRESENT, 0);
    let gone = card.sign(session, native::SM2, private, &[1; 32]);
    assert_eq!(gone, Err(CKR_DEVICE_REMOVED));
    assert_eq!(card.module.open_session(0, true), Err(CKR_TOKEN_NOT_PRESENT));
    let info = card.module.slot(0).unwrap().token_info();
    assert_eq!(info.err(), Some(CKR_TOKEN_NOT_PRESENT));
    card.faults().clear();
    assert_eq!(card.module.slot_event(), Some(0));
    let lost = card.sign(session, native::SM2, private, &[1; 32]);
    assert_eq!(lost, Err(CKR_SESSION_HANDLE_INVALID));
    let session = card.module.open_session(0, true).unwrap();
    assert_eq!(card.find(session, &new().number(CKA_CLASS, CKO_PRIVATE_KEY)), []);
    card.module.login(session, CKU_USER, PIN).unwrap();
    let found = card.find(session, &new().number(CKA_CLASS, CKO_PRIVATE_KEY));
    assert!(card.sign(session, native::SM2, found[0], &[1; 32]).is_ok());
}

/// Nobody looked while it was away, and it is noticed all the same.
#[test]
fn a_short_removal_is_not_overlooked() {
    let card = Card::new("native");
    let session = card.user();
    card.faults().set(Fault::Removed { millis: 60_000 });
    card.faults().set(Fault::Removed { millis: 0 });
    assert_eq!(card.module.session_info(session).err(), Some(CKR_SESSION_HANDLE_INVALID));
}

#[test]
fn one_in_so_many_operations_is_struck() {
    let card = Card::new("native");
    let session = card.user();
    let [public, private] = card.pair(session);
    let key = card.public_key(session, public);
    let faults = card.faults();
    let strikes = |wanted: CK_RV| {
        let answers = (0..9).map(|_| card.sign(session, native::SM2, private, &[1; 32]));
        answers.filter(|answer| answer.as_ref().err() == Some(&wanted)).count()
    };
    faults.set(Fault::Throttled { one_in: 3 });
    assert_eq!(strikes(CKR_HOST_MEMORY), 3);
    faults.clear();
    for kind in [Garbage::WrongDer, Garbage::FlippedBit, Garbage::Short] {
        faults.set(Fault::Garbage { kind, one_in: 2 });
        let wrong = (0..4).filter(|_| {
            let signature = card.sign(session, native::SM2, private, &[1; 32]);
            !signature.is_ok_and(|it| it.len() == 64 && is_valid(&key, Digest([1; 32]), &it))
        });
        assert_eq!(wrong.count(), 2, "{kind:?}");
    }
    faults.clear();
    faults.set(Fault::OutOfSessions(true));
    assert_eq!(card.module.open_session(0, true), Err(CKR_SESSION_COUNT));
    faults.clear();
    faults.set(Fault::SessionLost { one_in: 1 });
    let lost = card.sign(session, native::SM2, private, &[1; 32]);
    assert_eq!(lost, Err(CKR_SESSION_HANDLE_INVALID));
    assert_eq!(card.module.session_info(session).err(), Some(CKR_SESSION_HANDLE_INVALID));
}

#[test]
fn a_hanging_token_answers_when_it_is_let_go() {
    let card = Card::new("native");
    let session = card.user();
    let faults = card.faults();
    faults.set(Fault::Hang(true));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| card.module.session_info(session).map(|info| info.state));
        for _ in 0..100 {
            std::thread::yield_now();
            assert!(!thread.is_finished());
        }
        faults.set(Fault::Hang(false));
        assert_eq!(thread.join().unwrap(), Ok(CKS_RW_USER_FUNCTIONS));
    });
}
