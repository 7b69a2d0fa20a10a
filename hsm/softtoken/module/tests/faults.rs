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

#[test]
fn idle_sessions_are_gone() {
    let card = Card::new("native");
    let session = card.user();
    let faults = card.faults();
    faults.set(Fault::Idle { millis: 3_600_000 });
    assert!(card.module.session_info(session).is_ok());
    assert!(card.module.session_info(session).is_ok());
    faults.set(Fault::Idle { millis: 1 });
    crate::faults::sleep_micros(2_000);
    assert_eq!(card.module.session_info(session).err(), Some(CKR_SESSION_HANDLE_INVALID));
}

/// Four clients sign while sessions are lost, calls are refused and the device is pulled out: each
/// begins again where it must, every signature is made in the end, and none is wrong.
#[test]
fn nothing_is_lost_and_nothing_is_wrong_under_faults() {
    let card = Card::new("native");
    let session = card.user();
    let [public, _] = card.pair(session);
    let key = card.public_key(session, public);
    let faults = card.faults();
    faults.set(Fault::SessionLost { one_in: 23 });
    faults.set(Fault::Throttled { one_in: 17 });
    let template = new().number(CKA_CLASS, CKO_PRIVATE_KEY);
    let begin = || loop {
        let Ok(session) = card.module.open_session(0, false) else { continue };
        let login = card.module.login(session, CKU_USER, PIN);
        let found = || {
            card.module.begin_find(session, &template)?;
            card.module.find(session, 1)
        };
        match (login, found()) {
            (Ok(()) | Err(CKR_USER_ALREADY_LOGGED_IN), Ok(found)) if found.len() == 1 => {
                return (session, found[0]);
            }
            // The device went, or another thread's last session did and logged all out.
            _ => card.module.close_session(session).unwrap_or(()),
        }
    };
    let client = |number: u8| {
        let (mut session, mut private) = begin();
        let mut signed = 0_u8;
        while signed < 100 {
            let digest = [number ^ signed; 32];
            match card.sign(session, native::SM2, private, &digest) {
                Ok(signature) => {
                    assert!(is_valid(&key, Digest(digest), &signature));
                    signed += 1;
                }
                Err(CKR_HOST_MEMORY) => {}
                Err(_) => {
                    card.module.close_session(session).unwrap_or(());
                    (session, private) = begin();
                }
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = [0, 1, 2, 3].map(|number| scope.spawn(move || client(number)));
        while faults.calls_count() < 150 {
            std::thread::yield_now();
        }
        faults.set(Fault::Removed { millis: 60_000 });
        std::thread::yield_now();
        faults.set(Fault::Removed { millis: 0 });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert!(faults.calls_count() > 400);
}
