//! The pool over a real library whose sessions, login and very initialisation are taken away by
//! another client of the same process.

use std::path::Path;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cryptoki::context::Pkcs11;
use hufu_hsm::pkcs11::codes as ck;
use hufu_hsm::pkcs11::{Attribute, CallStyle, Library, Session, Unload};
use hufu_hsm::pool::{
    CardPool, Handles, KeyObjects, Operation, Pool, PoolOptions, TokenOptions, TokenSelector,
    TokenSource,
};
use hufu_hsm::{Error, ErrorClass, KeyHandle};
use hufu_runtime::clock::{Nanos, monotonic};

use crate::token::{
    ECDSA, LABEL, USER_PIN, generate_pair, initialise, initialise_as, pin, slot, user_session,
    with_softhsm,
};

fn soon() -> Nanos {
    monotonic().after(Duration::from_secs(20))
}

/// A pool over the token with one key, and the bytes of its PIN.
fn pool_with(path: &Path, sessions_max: usize, user_pin: &[u8]) -> CardPool {
    pool_of(path, LABEL, sessions_max, user_pin)
}

fn pool_of(path: &Path, label: &str, sessions_max: usize, user_pin: &[u8]) -> CardPool {
    let token = TokenOptions {
        library: path.to_owned(),
        token: TokenSelector::Label(label.to_owned()),
        is_read_write: false,
        call_style: CallStyle::OneCall,
        unload: Unload::Unmap,
        sessions_max: Some(sessions_max),
    };
    let backoff = (Duration::from_millis(1), Duration::from_millis(20));
    let options = PoolOptions { failures_max: u32::MAX, backoff, ..PoolOptions::default() };
    Pool::new(TokenSource::new(token, Some(pin(user_pin))), options)
}

/// The pair of the test, looked for as rarely as the pool allows.
fn vote_key(session: &Session, handles: &Handles) -> Result<KeyObjects, Error> {
    handles.get_or_find(KeyHandle(0), || {
        let find = |class| {
            let template =
                [Attribute::number(ck::CKA_CLASS, class), Attribute::text(ck::CKA_LABEL, "vote")];
            session.find(&template, 2)
        };
        let (private, public) = (find(ck::CKO_PRIVATE_KEY)?, find(ck::CKO_PUBLIC_KEY)?);
        match private.as_slice() {
            [key] => Ok(KeyObjects { key: *key, public: public.first().copied() }),
            _ => Err(Error::KeyMissing { key: hufu_hsm::KeyReference::Label("vote".to_owned()) }),
        }
    })
}

/// Signs and has the token verify.
fn sign(pool: &CardPool, digest: &[u8; 32]) -> Result<(), Error> {
    pool.with_session_for(Operation::Sign, soon(), |session, handles| {
        let key = vote_key(session, handles)?;
        let mut signature = [0; 64];
        let size = session.sign(&ECDSA, key.key, digest, &mut signature)?;
        assert_eq!(size, 64);
        assert!(session.verify(&ECDSA, key.public.unwrap(), digest, &signature)?);
        Ok(())
    })
}

fn with_pool(test: &str, sessions_max: usize, body: impl FnOnce(&Path, &CardPool)) {
    with_softhsm(test, |path| {
        generate_pair(&user_session(path), "vote");
        body(path, &pool_with(path, sessions_max, USER_PIN));
    });
}

/// What another part of the process may do at any time.
fn take_sessions_away(path: &Path) {
    let library = Library::load(path).unwrap();
    library.close_all_sessions(slot(&library)).unwrap();
}

#[test]
fn signatures_go_on_when_sessions_login_and_library_are_taken_away() {
    let test = "pool::signatures_go_on_when_sessions_login_and_library_are_taken_away";
    with_pool(test, 2, |path, pool| {
        pool.warm_up(2, soon()).unwrap();
        assert_eq!(pool.status().open_count, 2);
        sign(pool, &[1; 32]).unwrap();
        let metrics = pool.metrics();
        assert_eq!(metrics.logins_total(), 1);

        take_sessions_away(path);
        sign(pool, &[2; 32]).unwrap();
        assert!(metrics.sessions_lost_total() >= 1);
        assert_eq!(metrics.logins_total(), 2, "closing the last session logged out");

        pool.with_session(soon(), |session, _| session.logout()).unwrap();
        sign(pool, &[3; 32]).unwrap();
        assert_eq!(metrics.logins_total(), 3);

        let before = pool.status().generation.unwrap();
        Pkcs11::new(path).unwrap().finalize().unwrap();
        sign(pool, &[4; 32]).unwrap();
        assert_eq!(pool.status().generation, Some(before + 1), "the library was loaded anew");
        assert_eq!((metrics.tokens_lost_total(), metrics.connected_total()), (1, 2));
        assert_eq!(metrics.errors_total(ErrorClass::TokenLost), 1);
        let (by_rv, _) = metrics.errors_by_rv();
        let gone = by_rv.iter().find(|(rv, _)| rv.0 == ck::CKR_CRYPTOKI_NOT_INITIALIZED);
        assert_eq!(gone.map(|(_, count)| *count), Some(1));
    });
}

#[test]
fn threads_share_sessions_under_losses_and_no_signature_is_lost() {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let test = "pool::threads_share_sessions_under_losses_and_no_signature_is_lost";
    with_pool(test, 3, |path, pool| {
        // SoftHSM2 itself does not survive that a session is closed under a call that uses it, so
        // sessions are taken away between calls.
        let gate = RwLock::new(());
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (done, gate) = (&done, &gate);
                scope.spawn(move || {
                    for number in 0..EACH {
                        let mut digest = [0; 32];
                        digest[..8].copy_from_slice(&number.to_le_bytes());
                        digest[8] = u8::try_from(thread).unwrap();
                        let open = gate.read().unwrap();
                        sign(pool, &digest).unwrap();
                        drop(open);
                        // One loss for each hundred signatures, and one reload.
                        match done.fetch_add(1, Ordering::Relaxed) {
                            1_000 => {
                                let _closed = gate.write().unwrap();
                                Pkcs11::new(path).unwrap().finalize().unwrap();
                            }
                            count if count % 100 == 50 => {
                                let _closed = gate.write().unwrap();
                                take_sessions_away(path);
                            }
                            _ => {}
                        }
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), THREADS * EACH);
        let metrics = pool.metrics();
        assert!(metrics.sessions_lost_total() >= 10, "{}", metrics.sessions_lost_total());
        assert_eq!((metrics.tokens_lost_total(), metrics.in_use_count()), (1, 0));
        assert!(pool.status().open_count <= 3);
    });
}

#[test]
fn a_wrong_pin_reaches_the_token_once() {
    with_softhsm("pool::a_wrong_pin_reaches_the_token_once", |path| {
        let library = Library::load(path).unwrap();
        let slot = initialise(&library);
        let pool = pool_with(path, 4, b"00000000");
        for _ in 0..5 {
            let error = sign(&pool, &[1; 32]).unwrap_err();
            assert!(matches!(error, Error::PinRefused { .. }), "{error}");
        }
        assert_eq!(pool.metrics().errors_by_rv().0, [(hufu_hsm::Rv(ck::CKR_PIN_INCORRECT), 1)]);
        let session = library.open_session(slot, false).unwrap();
        session.login(hufu_hsm::pkcs11::User::User, &pin(USER_PIN)).unwrap();
    });
}

#[test]
fn a_token_that_is_not_there_is_told_with_what_is() {
    with_softhsm("pool::a_token_that_is_not_there_is_told_with_what_is", |path| {
        let library = Library::load(path).unwrap();
        initialise(&library);
        let token = TokenOptions {
            library: path.to_owned(),
            token: TokenSelector::Serial("4711".to_owned()),
            is_read_write: false,
            call_style: CallStyle::OneCall,
            unload: Unload::Unmap,
            sessions_max: None,
        };
        let pool = Pool::new(TokenSource::new(token, None), PoolOptions::default());
        let error = pool.with_session(soon(), |_, _| Ok(())).unwrap_err().to_string();
        assert!(error.contains("serial number \"4711\"") && error.contains(LABEL), "{error}");
    });
}

#[test]
fn a_token_that_was_emptied_is_another_card() {
    with_pool("pool::a_token_that_was_emptied_is_another_card", 1, |path, pool| {
        sign(pool, &[1; 32]).unwrap();
        let identity = pool.identity(soon()).unwrap();
        assert_eq!((identity.token_label.as_str(), identity.token_serial.len()), (LABEL, 16));
        // Nobody may hold a session of a token that is emptied.
        Pkcs11::new(path).unwrap().finalize().unwrap();
        let folder = std::env::var("SOFTHSM2_CONF").unwrap();
        let tokens = Path::new(&folder).parent().unwrap().join("tokens");
        std::fs::remove_dir_all(&tokens).unwrap();
        std::fs::create_dir(&tokens).unwrap();
        let briefly = monotonic().after(Duration::from_millis(200));
        let lost = pool.with_session(briefly, |session, _| session.info()).unwrap_err();
        assert_eq!(lost.class(), ErrorClass::TokenLost, "{lost}");
        initialise(&Library::load(path).unwrap());
        let changed = sign(pool, &[2; 32]).unwrap_err();
        assert!(matches!(changed, Error::CardChanged { .. }), "{changed}");
        pool.acknowledge();
        let missing = sign(pool, &[2; 32]).unwrap_err();
        assert!(matches!(missing, Error::KeyMissing { .. }), "{missing}");
        assert_ne!(pool.identity(soon()).unwrap().token_serial, identity.token_serial);
    });
}

#[test]
fn a_lost_token_does_not_take_another_of_the_same_library_with_it() {
    let test = "pool::a_lost_token_does_not_take_another_of_the_same_library_with_it";
    with_softhsm(test, |path| {
        let library = Library::load(path).unwrap();
        initialise_as(&library, "one");
        initialise_as(&library, "other");
        drop(library);
        let [one, other] = ["one", "other"].map(|label| pool_of(path, label, 1, USER_PIN));
        let ask = |pool: &CardPool| pool.with_session(soon(), |session, _| session.info());
        let before = ask(&other).unwrap();
        ask(&one).unwrap();
        let mut is_lost = false;
        one.with_session(soon(), |session, _| {
            if std::mem::replace(&mut is_lost, true) {
                return session.info();
            }
            let rv = hufu_hsm::Rv(ck::CKR_DEVICE_REMOVED);
            Err(Error::Call { function: "C_Sign", rv, class: rv.class() })
        })
        .unwrap();
        assert_eq!(one.metrics().connected_total(), 2);
        // The other one's sessions hold the library, so that it was not finalised under them.
        assert_eq!(one.status().generation, other.status().generation);
        assert_eq!(ask(&other).unwrap(), before);
        assert_eq!(other.metrics().connected_total(), 1);
    });
}
