//! A token that does what a test's script says and writes down what it is asked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hufu_runtime::clock::{Nanos, monotonic};

use crate::error::TriesLeft;
use crate::pool::{Handles, Pool, PoolOptions, Source};
use crate::{CardIdentity, Error, Rv};

pub(super) const SESSION_HANDLE_INVALID: u64 = 0xb3;
pub(super) const KEY_HANDLE_INVALID: u64 = 0x60;
pub(super) const USER_NOT_LOGGED_IN: u64 = 0x101;
pub(super) const DEVICE_REMOVED: u64 = 0x32;
pub(super) const DEVICE_MEMORY: u64 = 0x31;
pub(super) const SESSION_COUNT: u64 = 0xb1;
pub(super) const DATA_INVALID: u64 = 0x20;

pub(super) fn call(rv: u64) -> Error {
    Error::Call { function: "C_Sign", rv: Rv(rv), class: Rv(rv).class() }
}

pub(super) fn rv_of(error: &Error) -> u64 {
    match error {
        Error::Call { rv, .. } => rv.0,
        other => panic!("{other}"),
    }
}

#[derive(Clone, Default)]
pub(super) struct Token(Arc<Shared>);

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    /// The clock, where the test has one thread; else the real one.
    now: AtomicU64,
    has_threads: AtomicBool,
}

/// What happens next; where nothing is scripted, all goes well.
#[derive(Default)]
pub(super) struct Script {
    pub(super) connects: VecDeque<Error>,
    pub(super) opens: VecDeque<Error>,
    pub(super) logins: VecDeque<Error>,
    pub(super) asks: VecDeque<Error>,
    pub(super) serial: Option<&'static str>,
    pub(super) sessions_max: Option<usize>,
    pub(super) needs_no_login: bool,
    pub(super) is_logged_in: bool,
    pub(super) is_spoiled: bool,
    pub(super) log: Vec<String>,
    pub(super) open_count: usize,
    pub(super) open_count_max: usize,
    sessions: u64,
    generation: u64,
}

pub(super) struct Connection {
    token: Token,
    generation: u64,
}

pub(super) struct Session {
    token: Token,
    pub(super) number: u64,
    pub(super) is_busy: AtomicBool,
    _connection: Arc<()>,
}

impl Token {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn with_threads() -> Self {
        let token = Self::default();
        token.0.has_threads.store(true, Ordering::Relaxed);
        token
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked since the last question.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.script().log)
    }

    pub(super) fn pass(&self, millis: u64) {
        self.0.now.fetch_add(millis * 1_000_000, Ordering::Relaxed);
    }

    /// Milliseconds since the test began.
    pub(super) fn millis(&self) -> u64 {
        self.now().as_nanos() / 1_000_000
    }

    pub(super) fn pool(&self, options: PoolOptions) -> Pool<Self> {
        Pool::new(self.clone(), options)
    }
}

/// One session, short waits, no rest within the test.
pub(super) fn options() -> PoolOptions {
    PoolOptions {
        sessions_max: 1,
        waiting_max: 8,
        lost_wait_max: Duration::from_secs(10),
        backoff: (Duration::from_millis(10), Duration::from_millis(80)),
        failures_max: 100,
        rest: Duration::from_secs(1),
        ..PoolOptions::default()
    }
}

pub(super) fn refused() -> Error {
    Error::PinRefused { rv: Rv(0xa0), tries_left: TriesLeft::One }
}

pub(super) fn at(millis: u64) -> Nanos {
    Nanos::from_nanos(millis * 1_000_000)
}

impl Source for Token {
    type Connection = Connection;
    type Session = Session;
    type Handles = Handles;

    fn connect(&self) -> Result<Connection, Error> {
        let mut script = self.script();
        assert_eq!(script.open_count, 0, "a library is loaded anew with sessions of the old open");
        if let Some(error) = script.connects.pop_front() {
            script.log.push("no token".to_owned());
            return Err(error);
        }
        script.generation += 1;
        script.is_logged_in = false;
        let generation = script.generation;
        script.log.push(format!("load {generation}"));
        drop(script);
        Ok(Connection { token: self.clone(), generation })
    }

    fn identity(&self, _connection: &Connection) -> Result<CardIdentity, Error> {
        Ok(CardIdentity {
            library_manufacturer: "Tally".to_owned(),
            library_version: (1, 0),
            token_label: "node".to_owned(),
            token_manufacturer: "Tally".to_owned(),
            token_model: "T1".to_owned(),
            token_serial: self.script().serial.unwrap_or("0001").to_owned(),
            firmware_version: (1, 0),
            hardware_version: (1, 0),
        })
    }

    fn sessions_max(&self, _connection: &Connection) -> Result<Option<usize>, Error> {
        Ok(self.script().sessions_max)
    }

    fn generation(&self, connection: &Connection) -> u64 {
        connection.generation
    }

    fn open(&self, connection: &Connection) -> Result<Session, Error> {
        let mut script = self.script();
        assert_eq!(connection.generation, script.generation, "a stale connection is used");
        if let Some(error) = script.opens.pop_front() {
            script.log.push("no session".to_owned());
            return Err(error);
        }
        script.sessions += 1;
        script.open_count += 1;
        script.open_count_max = script.open_count_max.max(script.open_count);
        let number = script.sessions;
        script.log.push(format!("open {number}"));
        drop(script);
        let is_busy = AtomicBool::new(false);
        Ok(Session { token: self.clone(), number, is_busy, _connection: Arc::default() })
    }

    fn wants_login(&self) -> bool {
        !self.script().needs_no_login
    }

    fn is_logged_in(&self, _session: &Session) -> Result<bool, Error> {
        let mut script = self.script();
        script.asks.pop_front().map_or(Ok(script.is_logged_in), Err)
    }

    fn login(&self, session: &Session) -> Result<(), Error> {
        let mut script = self.script();
        script.log.push(format!("login {}", session.number));
        if let Some(error) = script.logins.pop_front() {
            return Err(error);
        }
        script.is_logged_in = true;
        Ok(())
    }

    fn is_spoiled(&self, _session: &Session) -> bool {
        self.script().is_spoiled
    }

    fn now(&self) -> Nanos {
        if self.0.has_threads.load(Ordering::Relaxed) {
            return monotonic();
        }
        Nanos::from_nanos(self.0.now.load(Ordering::Relaxed))
    }

    fn wait<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: &Condvar,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        if self.0.has_threads.load(Ordering::Relaxed) {
            return condition.wait_timeout(guard, timeout).unwrap().0;
        }
        // Nobody else is there to change anything, so that the time is all that passes.
        self.0.now.fetch_add(u64::try_from(timeout.as_nanos()).unwrap(), Ordering::Relaxed);
        guard
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let text = format!("unload {}", self.generation);
        self.token.script().log.push(text);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut script = self.token.script();
        script.open_count -= 1;
        let text = format!("close {}", self.number);
        script.log.push(text);
        if script.open_count == 0 {
            script.is_logged_in = false;
        }
    }
}

/// An operation that fails as scripted, then succeeds; it writes down the session it ran on.
pub(super) fn failing(errors: &[u64]) -> impl FnMut(&Session, &Handles) -> Result<u64, Error> {
    let mut errors: VecDeque<u64> = errors.iter().copied().collect();
    move |session, _handles| {
        session.token.script().log.push(format!("use {}", session.number));
        match errors.pop_front() {
            Some(rv) => {
                if rv == USER_NOT_LOGGED_IN {
                    session.token.script().is_logged_in = false;
                }
                Err(call(rv))
            }
            None => Ok(session.number),
        }
    }
}
