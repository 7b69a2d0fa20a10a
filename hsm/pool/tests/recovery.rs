//! What follows from an error, class by class.

use super::scripted::{
    DATA_INVALID, DEVICE_MEMORY, DEVICE_REMOVED, KEY_HANDLE_INVALID, SESSION_COUNT,
    SESSION_HANDLE_INVALID, Token, USER_NOT_LOGGED_IN, at, call, failing, options, refused, rv_of,
};
use crate::pool::{KeyObjects, Operation, PoolOptions};
use crate::{Error, ErrorClass, KeyHandle, Rv};
use std::time::Duration;

#[test]
fn a_session_is_opened_and_logged_in_once_and_used_again() {
    let token = Token::new();
    let pool = token.pool(options());
    for _ in 0..3 {
        assert_eq!(pool.with_session(at(1_000), failing(&[])).unwrap(), 1);
    }
    assert_eq!(token.log(), ["load 1", "open 1", "login 1", "use 1", "use 1", "use 1"]);
    drop(pool);
    assert_eq!(token.log(), ["unload 1", "close 1"]);
}

#[test]
fn a_broken_session_is_replaced_and_the_operation_tried_again_a_few_times() {
    let token = Token::new();
    let pool = token.pool(options());
    pool.with_session(at(1_000), failing(&[])).unwrap();
    token.log();
    assert_eq!(pool.with_session(at(1_000), failing(&[SESSION_HANDLE_INVALID])).unwrap(), 2);
    // The last session of a token takes the login with it.
    assert_eq!(token.log(), ["use 1", "close 1", "open 2", "login 2", "use 2"]);
    assert_eq!(pool.with_session(at(1_000), failing(&[SESSION_HANDLE_INVALID; 4])).unwrap(), 6);
    token.log();
    let error = pool.with_session(at(1_000), failing(&[SESSION_HANDLE_INVALID; 5])).unwrap_err();
    assert_eq!(rv_of(&error), SESSION_HANDLE_INVALID);
    let log = token.log();
    assert_eq!(log[..6], ["use 6", "close 6", "open 7", "login 7", "use 7", "close 7"]);
    assert_eq!(log.iter().filter(|line| line.starts_with("use")).count(), 5, "{log:?}");
    assert_eq!(pool.status().open_count, 0);
    assert_eq!(pool.metrics().sessions_lost_total(), 1 + 4 + 5);
    assert_eq!(pool.metrics().retried_total(), 1 + 4 + 4);
}

#[test]
fn after_a_broken_session_no_other_of_its_time_is_tried() {
    let token = Token::new();
    let pool = token.pool(PoolOptions { sessions_max: 3, ..options() });
    pool.warm_up(3, at(1_000)).unwrap();
    token.log();
    pool.with_session(at(1_000), failing(&[SESSION_HANDLE_INVALID])).unwrap();
    let log = token.log();
    assert_eq!(log[..2], ["use 3", "close 3"]);
    assert!(log.contains(&"open 4".to_owned()) && log.last().unwrap() == "use 4", "{log:?}");
    assert_eq!(pool.status().open_count, 2);
}

#[test]
fn a_lost_login_is_made_good_once_with_the_pin_that_worked() {
    let token = Token::new();
    let pool = token.pool(options());
    pool.with_session(at(1_000), failing(&[])).unwrap();
    token.log();
    pool.with_session(at(1_000), failing(&[USER_NOT_LOGGED_IN])).unwrap();
    assert_eq!(token.log(), ["use 1", "login 1", "use 1"]);
    let twice = [USER_NOT_LOGGED_IN, USER_NOT_LOGGED_IN];
    let error = pool.with_session(at(1_000), failing(&twice)).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Login);
    assert_eq!(token.log(), ["use 1", "login 1", "use 1"]);
    assert_eq!(pool.metrics().logins_total(), 3);
}

#[test]
fn without_a_pin_a_lost_login_is_an_error() {
    let token = Token::new();
    token.script().needs_no_login = true;
    let pool = token.pool(options());
    let error = pool.with_session(at(1_000), failing(&[USER_NOT_LOGGED_IN])).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Login);
    assert_eq!(token.log(), ["load 1", "open 1", "use 1"]);
}

#[test]
fn a_pin_that_was_refused_is_never_tried_again() {
    for worked_before in [false, true] {
        let token = Token::new();
        let pool = token.pool(options());
        if worked_before {
            pool.with_session(at(1_000), failing(&[])).unwrap();
        }
        token.script().logins.push_back(refused());
        let error = pool.with_session(at(1_000), failing(&[USER_NOT_LOGGED_IN])).unwrap_err();
        assert!(matches!(error, Error::PinRefused { .. }), "{error}");
        let logins = |log: Vec<String>| log.iter().filter(|line| line.starts_with("login")).count();
        assert_eq!(logins(token.log()), 1 + usize::from(worked_before));
        for _ in 0..3 {
            let error = pool.with_session(at(9_000), failing(&[])).unwrap_err();
            assert!(matches!(error, Error::PinRefused { .. }), "{error}");
            pool.acknowledge();
            token.pass(2_000);
        }
        assert_eq!(token.log(), Vec::<String>::new());
        assert!(pool.status().stopped.unwrap().contains("ONE attempt"));
    }
}

#[test]
fn a_first_login_that_fails_unclearly_is_not_repeated_on_the_token_s_account() {
    // A general error, a failed function, a broken device and a vendor's own code may all mean
    // that the PIN is wrong.
    for rv in [0x05, 0x06, 0x30, 0x54, 0x102, 0x8000_0105] {
        let token = Token::new();
        let classes = vec![(Rv(0x8000_0105), ErrorClass::Session)];
        let pool = token.pool(PoolOptions { classes, ..options() });
        token.script().logins.push_back(call(rv));
        for _ in 0..3 {
            let error = pool.with_session(at(9_000), failing(&[])).unwrap_err();
            assert_eq!((error.class(), rv_of(&error)), (ErrorClass::Permanent, rv));
        }
        let logins = token.log().iter().filter(|line| line.starts_with("login")).count();
        assert_eq!(logins, 1, "{rv:#x}");
        pool.acknowledge();
        pool.with_session(at(9_000), failing(&[])).unwrap();
        // Whoever opens sessions ahead is told the same: an agent whose error may pass is started
        // again, and tries the PIN again.
        let token = Token::new();
        let classes = vec![(Rv(0x8000_0105), ErrorClass::Session)];
        let pool = token.pool(PoolOptions { classes, ..options() });
        token.script().logins.push_back(call(rv));
        let error = pool.warm_up(1, at(9_000)).unwrap_err();
        assert_eq!((error.class(), rv_of(&error)), (ErrorClass::Permanent, rv));
    }
    // These say that the PIN was not looked at, and a PIN that worked once is known to be right.
    for (rv, worked_before) in
        [(0x32, false), (0xb3, false), (0x31, false), (0x05, true), (0x06, true)]
    {
        let token = Token::new();
        let pool = token.pool(options());
        if worked_before {
            pool.with_session(at(9_000), failing(&[])).unwrap();
            token.script().is_logged_in = false;
            pool.keep_alive();
        }
        token.script().logins.push_back(call(rv));
        pool.with_session(at(9_000), failing(&[])).unwrap();
        assert!(token.script().logins.is_empty());
    }
}

#[test]
fn a_key_that_refuses_the_pin_of_each_use_stops_the_pool() {
    let token = Token::new();
    let pool = token.pool(options());
    let mut uses = 0;
    for _ in 0..3 {
        let error = pool.with_session(at(9_000), |_, _| {
            uses += 1;
            Err::<(), _>(refused())
        });
        assert!(matches!(error.unwrap_err(), Error::PinRefused { .. }));
    }
    assert_eq!(uses, 1);
}

#[test]
fn a_call_that_is_late_already_does_not_reach_the_card() {
    let token = Token::new();
    let pool = token.pool(options());
    token.pass(100);
    let error = pool.with_session(at(100), failing(&[])).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    assert_eq!(token.log(), Vec::<String>::new());
}

#[test]
fn a_lost_token_is_waited_for_with_growing_pauses_and_found_again() {
    let token = Token::new();
    let pool = token.pool(options());
    pool.with_session(at(1_000), failing(&[])).unwrap();
    token.log();
    for _ in 0..5 {
        token.script().connects.push_back(call(0xe0));
    }
    token.script().connects.push_back(Error::TokenMissing {
        wanted: "the token".to_owned(),
        found: "nothing".to_owned(),
    });
    assert_eq!(pool.with_session(at(9_000), failing(&[DEVICE_REMOVED])).unwrap(), 2);
    let log = token.log();
    assert_eq!(log[..3], ["use 1", "close 1", "unload 1"]);
    assert_eq!(log[3..9], ["no token"; 6]);
    assert_eq!(log[9..], ["load 2", "open 2", "login 2", "use 2"]);
    // 10 + 20 + 40 + 80 + 80 + 80: doubled, up to the longest.
    assert_eq!(token.millis(), 310);
    assert_eq!(pool.metrics().tokens_lost_total(), 1);
    assert_eq!(pool.metrics().connected_total(), 2);
    assert_eq!(pool.status().generation, Some(2));
}

#[test]
fn a_token_that_stays_away_is_an_error_of_its_own_in_time() {
    let token = Token::new();
    let pool = token.pool(options());
    pool.with_session(at(1_000), failing(&[])).unwrap();
    token.script().connects.extend((0..1_000).map(|_| call(0xe0)));
    let error = pool.with_session(at(500), failing(&[DEVICE_REMOVED])).unwrap_err();
    assert_eq!((error.class(), rv_of(&error)), (ErrorClass::TokenLost, 0xe0));
    assert_eq!(token.millis(), 500);
    // Another call that may wait for 10 s only, whatever its deadline.
    let error = pool.with_session(at(60_000), failing(&[])).unwrap_err();
    assert_eq!(error.class(), ErrorClass::TokenLost);
    token.script().connects.clear();
    assert_eq!(pool.with_session(at(60_000), failing(&[])).unwrap(), 2);
}

#[test]
fn where_another_card_can_answer_nobody_waits_for_a_lost_one() {
    let token = Token::new();
    let pool = token.pool(PoolOptions { lost_wait_max: Duration::ZERO, ..options() });
    pool.with_session(at(1_000), failing(&[])).unwrap();
    token.script().connects.extend([call(0xe0)]);
    let error = pool.with_session(at(9_000), failing(&[DEVICE_REMOVED])).unwrap_err();
    assert_eq!((rv_of(&error), token.millis()), (DEVICE_REMOVED, 0));
    // The first later call asks once, the next is turned away until a pause is over.
    let error = pool.with_session(at(9_000), failing(&[])).unwrap_err();
    assert_eq!((rv_of(&error), token.millis()), (0xe0, 0));
    pool.with_session(at(9_000), failing(&[])).unwrap_err();
    token.pass(10);
    assert_eq!(pool.with_session(at(9_000), failing(&[])).unwrap(), 2);
}

#[test]
fn a_token_that_fails_after_each_reload_is_given_up() {
    let token = Token::new();
    let pool = token.pool(options());
    let always = [DEVICE_REMOVED; 9];
    let error = pool.with_session(at(9_000), failing(&always)).unwrap_err();
    assert_eq!(rv_of(&error), DEVICE_REMOVED);
    let uses = token.log().iter().filter(|line| line.starts_with("use")).count();
    assert_eq!(uses, 3, "the call and two more");
    assert!(token.millis() > 0, "reloads are not made without rest");
}

#[test]
fn another_card_in_the_slot_is_refused_before_it_gets_the_pin_until_acknowledged() {
    let token = Token::new();
    let pool = token.pool(options());
    pool.with_session(at(1_000), failing(&[])).unwrap();
    token.log();
    token.script().serial = Some("0002");
    let error = pool.with_session(at(9_000), failing(&[DEVICE_REMOVED])).unwrap_err();
    assert!(matches!(error, Error::CardChanged { .. }), "{error}");
    assert_eq!(token.log(), ["use 1", "close 1", "unload 1", "load 2", "unload 2"]);
    let error = pool.with_session(at(9_000), failing(&[])).unwrap_err();
    assert!(matches!(error, Error::CardChanged { .. }), "{error}");
    assert_eq!(token.log(), Vec::<String>::new());
    pool.acknowledge();
    assert_eq!(pool.identity(at(9_000)).unwrap().token_serial, "0002");
    pool.with_session(at(9_000), failing(&[])).unwrap();
}

#[test]
fn a_card_that_is_not_the_acknowledged_one_is_refused_at_the_first_call() {
    let token = Token::new();
    let pool = token.pool(options());
    let identity = pool.identity(at(1_000)).unwrap();
    drop(pool);
    token.script().serial = Some("0002");
    let pool = token.pool(PoolOptions { identity: Some(identity), ..options() });
    let error = pool.with_session(at(1_000), failing(&[])).unwrap_err();
    assert!(error.to_string().contains("\"0001\", is \"0002\""), "{error}");
}

#[test]
fn a_card_without_room_is_asked_again_after_growing_pauses_until_the_deadline() {
    let token = Token::new();
    let pool = token.pool(options());
    pool.with_session(at(1_000), failing(&[DEVICE_MEMORY; 4])).unwrap();
    assert_eq!(token.millis(), 150, "10 + 20 + 40 + 80");
    assert_eq!(token.log().iter().filter(|line| *line == "use 1").count(), 5);
    let error = pool.with_session(at(400), failing(&[DEVICE_MEMORY; 99])).unwrap_err();
    assert_eq!(rv_of(&error), DEVICE_MEMORY);
    assert_eq!(token.millis(), 380, "no pause that would end after the deadline");
    assert_eq!(pool.status().open_count, 1, "the session is as good as before");
}

#[test]
fn what_is_permanent_is_tried_once() {
    let token = Token::new();
    let pool = token.pool(options());
    let error = pool.with_session(at(1_000), failing(&[DATA_INVALID])).unwrap_err();
    assert_eq!(rv_of(&error), DATA_INVALID);
    assert_eq!(token.log(), ["load 1", "open 1", "login 1", "use 1"]);
    pool.with_session(at(1_000), failing(&[])).unwrap();
    assert_eq!(token.log(), ["use 1"]);
}

#[test]
fn a_profile_gives_return_values_another_meaning_but_never_to_those_of_a_pin() {
    let token = Token::new();
    let classes = vec![
        (Rv(0x8000_0105), ErrorClass::Session),
        (Rv(DATA_INVALID), ErrorClass::TokenLost),
        (Rv(0xa0), ErrorClass::Session),
    ];
    let pool = token.pool(PoolOptions { classes, ..options() });
    assert_eq!(pool.with_session(at(1_000), failing(&[0x8000_0105])).unwrap(), 2);
    assert_eq!(pool.with_session(at(1_000), failing(&[DATA_INVALID])).unwrap(), 3);
    assert_eq!(pool.status().generation, Some(2));
    token.log();
    let error = pool.with_session(at(1_000), failing(&[0xa0])).unwrap_err();
    assert_eq!((error.class(), token.log()), (ErrorClass::Permanent, vec!["use 3".to_owned()]));
}

#[test]
fn a_card_that_fails_again_and_again_rests_and_gets_one_trial() {
    let token = Token::new();
    let pool = token.pool(PoolOptions { failures_max: 2, ..options() });
    let broken = [SESSION_HANDLE_INVALID; 5];
    for _ in 0..2 {
        pool.with_session(at(9_000), failing(&broken)).unwrap_err();
    }
    token.log();
    let error = pool.with_session(at(9_000), failing(&[])).unwrap_err();
    assert!(matches!(error, Error::CircuitOpen { failures_count: 2, .. }), "{error}");
    assert!(pool.status().is_resting);
    assert_eq!(token.log(), Vec::<String>::new(), "the card is left alone");
    token.pass(1_000);
    pool.with_session(at(9_000), failing(&broken)).unwrap_err();
    pool.with_session(at(9_000), failing(&[])).unwrap_err();
    token.pass(1_000);
    pool.with_session(at(9_000), failing(&[])).unwrap();
    assert!(!pool.status().is_resting);
    assert_eq!(pool.metrics().circuit_refused_total(), 2);
}

#[test]
fn a_signature_that_does_not_verify_takes_the_card_out_of_service() {
    let token = Token::new();
    let pool = token.pool(options());
    let wrong = pool.with_session(at(1_000), |_, _| Err::<(), _>(Error::SignatureWrong));
    assert!(matches!(wrong.unwrap_err(), Error::SignatureWrong));
    let error = pool.with_session(at(1_000), failing(&[])).unwrap_err();
    assert!(matches!(error, Error::SignatureWrong), "{error}");
    pool.acknowledge();
    pool.with_session(at(1_000), failing(&[])).unwrap();
    assert_eq!(pool.identity(at(1_000)).unwrap().token_serial, "0001");
}

#[test]
fn a_session_with_an_operation_left_under_way_is_not_used_again() {
    let token = Token::new();
    let pool = token.pool(options());
    token.script().is_spoiled = true;
    pool.with_session(at(1_000), failing(&[])).unwrap();
    assert_eq!(token.log(), ["load 1", "open 1", "login 1", "use 1", "close 1"]);
    token.script().is_spoiled = false;
    assert_eq!(pool.with_session(at(1_000), failing(&[])).unwrap(), 2);
}

#[test]
fn handles_are_looked_up_once_and_again_when_they_may_have_changed() {
    let token = Token::new();
    let pool = token.pool(options());
    let mut lookups = 0;
    let mut sign = |errors: &[u64]| {
        let mut fail = failing(errors);
        pool.with_session_for(Operation::Sign, at(9_000), |session, handles| {
            handles.get_or_find(KeyHandle(1), || {
                lookups += 1;
                Ok(KeyObjects { key: session.number, public: None })
            })?;
            fail(session, handles)
        })
        .unwrap();
        lookups
    };
    assert_eq!(sign(&[]), 1);
    assert_eq!(sign(&[]), 1);
    assert_eq!(sign(&[KEY_HANDLE_INVALID]), 2);
    assert_eq!(sign(&[USER_NOT_LOGGED_IN]), 3);
    assert_eq!(sign(&[DEVICE_REMOVED]), 4);
    assert_eq!(sign(&[DEVICE_MEMORY]), 4);
    assert_eq!(pool.metrics().latency(Operation::Sign).count(), 6);
}

#[test]
fn what_cannot_be_reached_at_the_start_is_said_at_once() {
    let token = Token::new();
    let pool = token.pool(options());
    let missing = || Error::LibraryLoad { path: "/lib/card.so".into(), cause: "none".to_owned() };
    token.script().connects.push_back(missing());
    let error = pool.with_session(at(9_000), failing(&[])).unwrap_err();
    assert!(matches!(error, Error::LibraryLoad { .. }), "{error}");
    assert_eq!(token.millis(), 0);
    assert_eq!(pool.with_session(at(9_000), failing(&[])).unwrap(), 1);
}

#[test]
fn a_token_with_fewer_sessions_than_it_told_is_used_with_those() {
    let token = Token::new();
    let pool = token.pool(PoolOptions { sessions_max: 4, ..options() });
    pool.with_session(at(1_000), failing(&[])).unwrap();
    token.script().opens.push_back(call(SESSION_COUNT));
    pool.warm_up(4, at(1_000)).unwrap();
    assert_eq!(pool.status().open_count, 1);
    pool.with_session(at(1_000), failing(&[])).unwrap();
    assert_eq!(token.script().open_count_max, 1);
    // After a rest it may have more again.
    pool.warm_up(4, at(1_000)).unwrap();
    assert_eq!(pool.status().open_count, 1);
    token.pass(1_000);
    pool.warm_up(4, at(9_000)).unwrap();
    assert_eq!(pool.status().open_count, 4);
}

#[test]
fn idle_sessions_are_asked_after_and_dead_ones_closed() {
    let token = Token::new();
    let pool = token.pool(PoolOptions { sessions_max: 3, ..options() });
    assert_eq!(pool.keep_alive(), 0);
    pool.warm_up(3, at(1_000)).unwrap();
    assert_eq!(pool.keep_alive(), 3);
    token.log();
    token.script().asks.push_back(call(SESSION_HANDLE_INVALID));
    assert_eq!(pool.keep_alive(), 2);
    assert_eq!(token.log(), ["close 1"], "the one idle longest");
    assert_eq!(pool.status().open_count, 2);
    token.script().is_logged_in = false;
    assert_eq!(pool.keep_alive(), 2);
    pool.with_session(at(1_000), failing(&[])).unwrap();
    assert_eq!(token.log()[0][..5], *"login");
    token.script().asks.push_back(call(DEVICE_REMOVED));
    assert_eq!(pool.keep_alive(), 0);
    assert_eq!(pool.status().generation, None);
}

#[test]
fn the_token_s_own_limit_counts() {
    let token = Token::new();
    token.script().sessions_max = Some(2);
    let pool = token.pool(PoolOptions { sessions_max: 4, ..options() });
    pool.warm_up(4, at(1_000)).unwrap();
    assert_eq!(pool.status().open_count, 2);
}

/// What is left of a call's right to be repeated, as the documentation tells it.
struct Model {
    session: u32,
    login: u32,
    lost: u32,
}

impl Model {
    /// Whether the call goes on after this error; throttling is bounded by the deadline alone.
    fn goes_on(&mut self, rv: u64) -> bool {
        let left = match Rv(rv).class() {
            ErrorClass::Session => &mut self.session,
            ErrorClass::Login => &mut self.login,
            ErrorClass::TokenLost => &mut self.lost,
            ErrorClass::Throttled => return true,
            ErrorClass::Permanent => return false,
        };
        let goes_on = *left > 0;
        *left = left.saturating_sub(1);
        goes_on
    }
}

#[test]
fn any_run_of_errors_ends_as_the_rules_say() {
    const ERRORS: [u64; 8] = [
        SESSION_HANDLE_INVALID,
        KEY_HANDLE_INVALID,
        USER_NOT_LOGGED_IN,
        USER_NOT_LOGGED_IN,
        DEVICE_REMOVED,
        DEVICE_REMOVED,
        DEVICE_MEMORY,
        DATA_INVALID,
    ];
    let token = Token::new();
    let pool = token.pool(PoolOptions { failures_max: u32::MAX, ..options() });
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed >> 33).unwrap() % bound
    };
    let (mut succeeded, mut failed) = (0, 0);
    for _ in 0..2_000 {
        let errors: Vec<u64> = (0..next(6)).map(|_| ERRORS[next(ERRORS.len())]).collect();
        let mut model = Model { session: 4, login: 1, lost: 2 };
        let end = errors.iter().position(|rv| !model.goes_on(*rv));
        token.log();
        let deadline = at(token.millis() + 60_000);
        let result = pool.with_session(deadline, failing(&errors));
        let uses = token.log().iter().filter(|line| line.starts_with("use")).count();
        match (end, result) {
            (None, Ok(_)) => {
                assert_eq!(uses, errors.len() + 1, "{errors:x?}");
                succeeded += 1;
            }
            (Some(index), Err(error)) => {
                assert_eq!((rv_of(&error), uses), (errors[index], index + 1), "{errors:x?}");
                failed += 1;
            }
            (end, result) => panic!("{errors:x?}: {end:?}, {result:?}"),
        }
        let status = pool.status();
        assert!(status.open_count <= 1 && status.in_use_count == 0, "{status:?}");
        assert_eq!(status.open_count, token.script().open_count);
    }
    assert!(succeeded > 300 && failed > 300, "{succeeded} and {failed}");
}
