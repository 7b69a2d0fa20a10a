//! Many threads, few sessions.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use hufu_runtime::clock::{Nanos, monotonic};

use super::scripted::{
    DEVICE_MEMORY, DEVICE_REMOVED, KEY_HANDLE_INVALID, SESSION_HANDLE_INVALID, Token,
    USER_NOT_LOGGED_IN, call, failing, options, refused,
};
use crate::Error;
use crate::pool::PoolOptions;

fn soon() -> Nanos {
    monotonic().after(Duration::from_secs(60))
}

#[test]
fn more_calls_than_sessions_wait_and_no_more_than_may() {
    let token = Token::with_threads();
    let pool = token.pool(PoolOptions { waiting_max: 1, ..options() });
    let (held, is_held) = mpsc::channel();
    let (release, is_released) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| {
            pool.with_session(soon(), move |session, _| {
                held.send(()).unwrap();
                is_released.recv().unwrap();
                Ok(session.number)
            })
        });
        is_held.recv().unwrap();
        let late = pool.with_session(monotonic(), failing(&[])).unwrap_err();
        assert!(matches!(late, Error::Deadline { .. }), "{late}");
        let waiter = scope.spawn(|| pool.with_session(soon(), failing(&[])));
        while pool.status().waiting_count == 0 {
            std::thread::yield_now();
        }
        assert_eq!(pool.metrics().waiting_count(), 1);
        let full = pool.with_session(soon(), failing(&[])).unwrap_err();
        assert!(matches!(full, Error::QueueFull { waiting_count: 1 }), "{full}");
        release.send(()).unwrap();
        assert_eq!(holder.join().unwrap().unwrap(), 1);
        assert_eq!(waiter.join().unwrap().unwrap(), 1);
    });
    assert_eq!(pool.metrics().queue_refused_total(), 1);
    assert_eq!((pool.metrics().waiting_count(), pool.metrics().in_use_count()), (0, 0));
}

#[test]
fn threads_that_call_at_once_try_a_wrong_pin_once() {
    let token = Token::with_threads();
    token.script().logins.extend([refused(), refused(), refused(), refused()]);
    let pool = token.pool(PoolOptions { sessions_max: 4, ..options() });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let error = pool.with_session(soon(), failing(&[])).unwrap_err();
                assert!(matches!(error, Error::PinRefused { .. }), "{error}");
            });
        }
    });
    assert_eq!(token.script().logins.len(), 3);
}

#[test]
fn an_operation_that_panics_does_not_keep_its_session() {
    let token = Token::with_threads();
    let pool = token.pool(options());
    let panicked = std::thread::scope(|scope| {
        scope
            .spawn(|| pool.with_session(soon(), |_, _| -> Result<(), Error> { panic!("test") }))
            .join()
    });
    assert!(panicked.is_err());
    assert_eq!(pool.with_session(soon(), failing(&[])).unwrap(), 2);
    assert_eq!(pool.status().in_use_count, 0);
}

#[test]
fn under_failures_of_all_classes_each_call_ends_once_and_sessions_have_one_user() {
    const THREADS: u64 = 6;
    const CALLS: u64 = 400;
    let token = Token::with_threads();
    let backoff = (Duration::from_micros(50), Duration::from_micros(400));
    let pool =
        token.pool(PoolOptions { sessions_max: 3, failures_max: u32::MAX, backoff, ..options() });
    let (done, uses, seeds) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(1));
    let one_call = || {
        let mut failed = false;
        pool.with_session(soon(), |session, _| {
            uses.fetch_add(1, Ordering::Relaxed);
            let was_busy = session.is_busy.swap(true, Ordering::Relaxed);
            assert!(!was_busy, "two threads use one session");
            std::thread::yield_now();
            session.is_busy.store(false, Ordering::Relaxed);
            let seed = seeds.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let error = match (seed >> 40) % 40 {
                0 => SESSION_HANDLE_INVALID,
                1 => KEY_HANDLE_INVALID,
                2 => USER_NOT_LOGGED_IN,
                3 => DEVICE_REMOVED,
                4 => DEVICE_MEMORY,
                _ => 0,
            };
            // One failure a call, so that each call has the right to be repeated.
            if error != 0 && !failed {
                failed = true;
                return Err(call(error));
            }
            Ok(())
        })
        .unwrap();
        done.fetch_add(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..CALLS).for_each(|_| one_call()));
        }
    });
    assert_eq!(done.into_inner(), usize::try_from(THREADS * CALLS).unwrap());
    assert!(uses.into_inner() > usize::try_from(THREADS * CALLS).unwrap());
    assert!(token.script().open_count_max <= 3);
    let status = pool.status();
    assert_eq!((status.in_use_count, status.waiting_count), (0, 0));
    assert!(pool.metrics().tokens_lost_total() > 0);
    drop(pool);
    assert_eq!(token.script().open_count, 0);
}
