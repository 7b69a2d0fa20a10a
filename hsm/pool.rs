//! Sessions of one token, lent to the threads that call.
//!
//! ```text
//! with_session --> breaker --> free session? room for one more? else wait (bounded, deadline)
//!       ^                           |  opened, logged in once, handles remembered
//!       |                           v
//!       `-- try again <-- by class of the error <-- operation(session, handles)
//! ```
//!
//! A call runs on the caller's thread; there is no hand-over. What follows from an error is decided
//! by its [`ErrorClass`] alone:
//!
//! - session: closes the session, opens another, tries again, a few times at most;
//! - login: logs in once more with the PIN that worked, tries once more;
//! - token lost: closes all, finalises and reloads the library, waits for the token with back-off,
//!   compares the card's identity, tries again within the deadline, twice at most;
//! - throttled: backs off and tries again within the deadline;
//! - permanent: gives up.
//!
//! A PIN that was refused is never tried again: the pool stops. A card that is not the one from
//! before stops it too, as does a wrong signature or a first login that failed with an error that
//! may mean the PIN, until [`Pool::acknowledge`]. A deadline bounds waiting; a call that hangs
//! inside a library is the agent's to end.

mod breaker;
mod handles;
mod identity;
mod lend;
mod metrics;
pub(crate) mod report;
mod source;
mod token;

pub use handles::{Handles, KEYS_MAX, KeyObjects};
pub use identity::difference;
pub use metrics::{BUCKETS_COUNT, Histogram, Metrics, Operation};
pub use report::{CardReport, Latency};
pub use source::Source;
pub use token::{CardPool, TokenOptions, TokenSelector, TokenSource};

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hufu_runtime::clock::Nanos;

use crate::{CardIdentity, Error, ErrorClass, Rv};
use breaker::{Breaker, Health};
use lend::{Lease, State, Stop};

/// Most sessions of one pool.
pub const SESSIONS_MAX: usize = 1_024;

/// How often one call survives the loss of its token.
const LOSSES_MAX: u32 = 2;

/// How often one call survives the loss of its session. Once would do if losses were rare; a card
/// that loses one session in a hundred must not lose one signature in ten thousand.
const SESSIONS_LOST_MAX: u32 = 4;

/// How a pool behaves.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Most sessions, count; the token may allow fewer. From 1 to [`SESSIONS_MAX`].
    pub sessions_max: usize,
    /// Most calls that wait for a session, count.
    pub waiting_max: usize,
    /// Longest wait of one call for a token that is lost. Zero where another card can answer.
    pub lost_wait_max: Duration,
    /// The first and the longest wait between two attempts to reach a lost token, and between two
    /// attempts at an operation that the card has no room for.
    pub backoff: (Duration, Duration),
    /// Failures in a row after which the card is given a rest, count.
    pub failures_max: u32,
    /// The rest.
    pub rest: Duration,
    /// Return values that mean something else on this card than in PKCS#11.
    pub classes: Vec<(Rv, ErrorClass)>,
    /// The card that was acknowledged. Without one, the first that answers is taken for it.
    pub identity: Option<CardIdentity>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            sessions_max: 16,
            waiting_max: 1_024,
            lost_wait_max: Duration::from_secs(30),
            backoff: (Duration::from_millis(20), Duration::from_millis(500)),
            failures_max: 8,
            rest: Duration::from_secs(1),
            classes: Vec::new(),
            identity: None,
        }
    }
}

/// What a pool is like at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// Which load of the library is in use; none while the token is not reached.
    pub generation: Option<u64>,
    /// Sessions that are open.
    pub open_count: usize,
    /// Sessions that are lent.
    pub in_use_count: usize,
    /// Calls that wait.
    pub waiting_count: usize,
    /// Whether the card rests after failures.
    pub is_resting: bool,
    /// Why the pool stopped until somebody acts.
    pub stopped: Option<String>,
}

/// A bounded pool of sessions for one token.
pub struct Pool<S: Source> {
    source: S,
    options: PoolOptions,
    state: Mutex<State<S>>,
    /// A session came back, the token was reached or lost, the pool stopped.
    changed: Condvar,
    /// Nothing notifies it: calls that back off wait here.
    backoff: Condvar,
    /// Held by the one thread that logs in.
    login: Mutex<()>,
    metrics: Metrics,
}

/// One call on its way: until when it waits, and what it has left of its right to try again.
struct Call {
    deadline: Nanos,
    lost_by: Nanos,
    /// The breaker let it through.
    is_admitted: bool,
    /// The last session was broken, and others of its time may be too.
    wants_fresh: bool,
    session_retries: u32,
    login_retries: u32,
    lost_retries: u32,
    pause: Duration,
}

impl Call {
    const fn new(deadline: Nanos, lost_by: Nanos, pause: Duration) -> Self {
        Self {
            deadline,
            lost_by,
            is_admitted: false,
            wants_fresh: false,
            session_retries: SESSIONS_LOST_MAX,
            login_retries: 1,
            lost_retries: LOSSES_MAX,
            pause,
        }
    }
}

const fn take_one(left: &mut u32) -> bool {
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}

impl<S: Source> Pool<S> {
    /// A pool. Nothing is loaded before the first call; [`Pool::warm_up`] makes one.
    pub fn new(source: S, mut options: PoolOptions) -> Self {
        options.sessions_max = options.sessions_max.clamp(1, SESSIONS_MAX);
        let breaker = Breaker::new(options.failures_max.max(1), options.rest);
        let state = State::new(breaker, options.identity.clone());
        Self {
            source,
            options,
            state: Mutex::new(state),
            changed: Condvar::new(),
            backoff: Condvar::new(),
            login: Mutex::new(()),
            metrics: Metrics::default(),
        }
    }

    /// [`Pool::with_session_for`], counted under [`Operation::Other`].
    ///
    /// # Errors
    /// As there.
    pub fn with_session<T>(
        &self,
        deadline: Nanos,
        operation: impl FnMut(&S::Session, &S::Handles) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.with_session_for(Operation::Other, deadline, operation)
    }

    /// Runs `operation` on a session that is logged in. It is called again after a recovery, so it
    /// must be repeatable; handles of objects come from what it is handed and are not kept.
    ///
    /// # Errors
    /// The operation's own, once recovery is exhausted; [`Error::QueueFull`], [`Error::Deadline`],
    /// [`Error::CircuitOpen`]; what keeps the card from being reached; why the pool stopped.
    pub fn with_session_for<T>(
        &self,
        kind: Operation,
        deadline: Nanos,
        mut operation: impl FnMut(&S::Session, &S::Handles) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let started = self.source.now();
        if started >= deadline {
            return Err(Error::Deadline { stage: "before the call" });
        }
        let mut call = Call::new(deadline, self.lost_by(started, deadline), self.options.backoff.0);
        let result = loop {
            let error = match self.lend(&mut call) {
                Ok(lease) => match lease.run(&mut operation) {
                    Ok(value) => {
                        self.answered(lease);
                        break Ok(value);
                    }
                    Err(error) => self.failed(lease, error),
                },
                Err(error) => error,
            };
            if !self.may_try_again(&error, &mut call) {
                self.ended(&error, &call);
                break Err(error);
            }
        };
        self.metrics.took(kind, self.source.now().since(started));
        result
    }

    /// Reaches the token and opens sessions until `count` are there, or as many as may be.
    ///
    /// # Errors
    /// What keeps the card from being reached.
    pub fn warm_up(&self, count: usize, deadline: Nanos) -> Result<(), Error> {
        let mut leases = Vec::new();
        let mut result = Ok(());
        while leases.len() < count && !self.is_full() {
            let mut call = Call::new(deadline, deadline, self.options.backoff.0);
            match self.lend(&mut call) {
                Ok(lease) => leases.push(lease),
                // A token that has no more sessions for us has given what it has.
                Err(error) if error.class() == ErrorClass::Throttled && !leases.is_empty() => break,
                Err(error) => {
                    self.ended(&error, &call);
                    result = Err(error);
                    break;
                }
            }
        }
        leases.into_iter().for_each(|lease| self.answered(lease));
        result
    }

    /// The card that answers.
    ///
    /// # Errors
    /// What keeps it from being reached.
    pub fn identity(&self, deadline: Nanos) -> Result<CardIdentity, Error> {
        self.with_session_for(Operation::Key, deadline, |_, _| Ok(()))?;
        let gone = Error::Deadline { stage: "reaching the card" };
        self.state().identity.clone().ok_or(gone)
    }

    /// The card that answered last, or that was acknowledged.
    pub fn known_identity(&self) -> Option<CardIdentity> {
        self.state().identity.clone()
    }

    /// Goes on after a change of the card (the one that is there now is taken for the right one), a
    /// wrong signature, or a login that failed for a reason the token did not tell, stopped the
    /// pool. A PIN that was refused stays refused.
    pub fn acknowledge(&self) {
        let mut state = self.state();
        match state.stopped {
            Some(Stop::PinRefused { .. }) | None => {}
            Some(Stop::SignatureWrong | Stop::LoginFailed { .. }) => state.stopped = None,
            Some(Stop::CardChanged { .. }) => {
                state.stopped = None;
                // A card that is connected has been compared; the next one is the new one.
                if state.live.is_none() {
                    state.identity = None;
                }
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The token it has sessions of.
    pub const fn source(&self) -> &S {
        &self.source
    }

    /// What it counts.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What it is like now.
    pub fn status(&self) -> PoolStatus {
        let state = self.state();
        PoolStatus {
            generation: state.live.as_ref().map(|live| self.source.generation(&live.connection)),
            open_count: state.open_count,
            in_use_count: state.lent_count,
            waiting_count: state.waiting_count,
            is_resting: state.breaker.is_open(),
            stopped: state.stopped.as_ref().map(|stop| stop.error().to_string()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an error the class that it has on this card, and counts it.
    fn classified(&self, error: Error) -> Error {
        let error = match error {
            Error::Call { function, rv, class } => {
                let own = self.options.classes.iter().find(|(own, _)| *own == rv);
                // Whatever a profile says, nothing about a PIN is ever tried again.
                let is_pin = matches!(rv.0, 0xa0..=0xa4);
                let class = own.filter(|_| !is_pin).map_or(class, |(_, class)| *class);
                Error::Call { function, rv, class }
            }
            other => other,
        };
        self.metrics.failed(&error);
        error
    }

    /// What becomes of the session, of the login and of the token after an error of an operation.
    fn failed(&self, lease: Lease<'_, S>, error: Error) -> Error {
        let error = self.classified(error);
        match error.class() {
            ErrorClass::Session => {
                self.metrics.session_lost();
                self.close(lease, is_stale_handle(&error));
            }
            ErrorClass::Login => {
                self.logged_out(&lease);
                self.give_back(lease);
            }
            ErrorClass::TokenLost => self.lost(lease, &error),
            ErrorClass::Throttled => self.give_back(lease),
            ErrorClass::Permanent => {
                // A wrong signature, or a key that wants the PIN for each use and refused it.
                self.stop_by(&error);
                self.give_back(lease);
            }
        }
        error
    }

    /// Whether a call goes on after `error`; waits where it has to back off.
    fn may_try_again(&self, error: &Error, call: &mut Call) -> bool {
        // What this crate itself found out (too late, too many, stopped) is not tried again; what a
        // library said is, by its class.
        if !call.is_admitted || !matches!(error, Error::Call { .. }) {
            return false;
        }
        let now = self.source.now();
        let is_left = now < call.deadline
            && match error.class() {
                ErrorClass::Session => {
                    call.wants_fresh = true;
                    take_one(&mut call.session_retries)
                }
                ErrorClass::Login => self.source.wants_login() && take_one(&mut call.login_retries),
                ErrorClass::TokenLost => {
                    let is_left = now < call.lost_by && take_one(&mut call.lost_retries);
                    call.lost_by = self.lost_by(now, call.deadline);
                    is_left
                }
                ErrorClass::Throttled => {
                    let pause = call.pause;
                    call.pause = pause.saturating_mul(2).min(self.options.backoff.1);
                    self.back_off(pause, call.deadline)
                }
                ErrorClass::Permanent => false,
            };
        if is_left {
            self.metrics.retried();
        }
        is_left
    }

    /// Until when a call that begins or loses the token `now` waits for it.
    fn lost_by(&self, now: Nanos, deadline: Nanos) -> Nanos {
        now.after(self.options.lost_wait_max).min(deadline)
    }

    /// Waits without a session in hand; false if the deadline leaves no room for it.
    fn back_off(&self, pause: Duration, deadline: Nanos) -> bool {
        let until = self.source.now().after(pause);
        if until >= deadline {
            return false;
        }
        let mut state = self.state();
        loop {
            let now = self.source.now();
            if now >= until {
                return true;
            }
            state = self.source.wait(state, &self.backoff, until.duration_since(now));
        }
    }

    /// Tells the breaker how a call ended that found no session or failed for good.
    fn ended(&self, error: &Error, call: &Call) {
        if !call.is_admitted {
            return;
        }
        let health = match error.class() {
            _ if matches!(error, Error::SignatureWrong | Error::AnswerMalformed { .. }) => {
                Health::Failed
            }
            ErrorClass::Session | ErrorClass::Login | ErrorClass::TokenLost => Health::Failed,
            ErrorClass::Throttled => Health::Unknown,
            ErrorClass::Permanent => Health::Answered,
        };
        let now = self.source.now();
        self.state().breaker.ended(health, now, error);
    }
}

/// Whether it says that a handle names nothing, so that objects must be looked for anew.
const fn is_stale_handle(error: &Error) -> bool {
    // CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID, CKR_UNWRAPPING_KEY_HANDLE_INVALID,
    // CKR_WRAPPING_KEY_HANDLE_INVALID.
    matches!(error, Error::Call { rv: Rv(0x60 | 0x82 | 0xf0 | 0x113), .. })
}

#[cfg(test)]
mod tests;
