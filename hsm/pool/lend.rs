//! Who has which session: lending, opening, giving back, and the way back to a lost token.
//!
//! One lock guards the bookkeeping; no call into a library is made while it is held. Sessions that
//! are opened or closed count as lent meanwhile, so that "nobody holds one" is certain before a
//! library is loaded anew.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use hufu_runtime::clock::Nanos;

use super::breaker::Breaker;
use super::identity::difference;
use super::{Call, Pool, Source};
use crate::error::TriesLeft;
use crate::{CardIdentity, Error, ErrorClass, Rv};

/// A reached token. All its sessions are closed and it is dropped before the next one is reached.
pub(super) struct Live<S: Source> {
    pub(super) connection: S::Connection,
}

/// The bookkeeping of a pool.
pub(super) struct State<S: Source> {
    pub(super) live: Option<Arc<Live<S>>>,
    /// Idle sessions, the one used last at the back.
    free: VecDeque<S::Session>,
    /// Sessions of `live`, those being opened included.
    pub(super) open_count: usize,
    /// Leases of this and of earlier connections.
    pub(super) lent_count: usize,
    pub(super) waiting_count: usize,
    /// Most sessions with this connection: what it told, or fewer where it had no more to give.
    sessions_max: usize,
    sessions_told: usize,
    /// When one more is asked for again.
    raise_at: Nanos,
    handles: Arc<S::Handles>,
    is_logged_in: bool,
    /// Counts logins, so that one loss of the login is noticed once.
    login_epoch: u64,
    /// The token took the PIN once.
    is_pin_known: bool,
    is_connecting: bool,
    was_connected: bool,
    next_connect: Nanos,
    connect_pause: Duration,
    loss: Option<(&'static str, Rv)>,
    pub(super) identity: Option<CardIdentity>,
    pub(super) stopped: Option<Stop>,
    pub(super) breaker: Breaker,
}

/// Why a pool serves no more until somebody acts.
pub(super) enum Stop {
    PinRefused {
        rv: Rv,
        tries_left: TriesLeft,
    },
    /// A login failed, and it cannot be told from a refusal of the PIN.
    LoginFailed {
        rv: Rv,
    },
    CardChanged {
        field: &'static str,
        before: String,
        after: String,
    },
    SignatureWrong,
}

impl Stop {
    pub(super) fn error(&self) -> Error {
        match self {
            Self::PinRefused { rv, tries_left } => {
                Error::PinRefused { rv: *rv, tries_left: *tries_left }
            }
            Self::LoginFailed { rv } => {
                Error::Call { function: "C_Login", rv: *rv, class: ErrorClass::Permanent }
            }
            Self::CardChanged { field, before, after } => {
                let (before, after) = (before.clone(), after.clone());
                Error::CardChanged { field, before, after }
            }
            Self::SignatureWrong => Error::SignatureWrong,
        }
    }

    /// The errors that stop a pool, wherever they come from.
    pub(super) fn by(error: &Error) -> Option<Self> {
        match error {
            Error::PinRefused { rv, tries_left } => {
                Some(Self::PinRefused { rv: *rv, tries_left: *tries_left })
            }
            Error::CardChanged { field, before, after } => {
                let (before, after) = (before.clone(), after.clone());
                Some(Self::CardChanged { field, before, after })
            }
            Error::SignatureWrong => Some(Self::SignatureWrong),
            _ => None,
        }
    }

    /// Whether a failed login stops the pool. Some libraries say "general error" or a code of their
    /// own where they mean "wrong PIN", and the next attempt may be the one that locks the token.
    /// So a PIN that never worked is tried again only after errors that a token cannot mean by it.
    fn by_login(error: &Error, is_pin_known: bool) -> Option<Self> {
        match error {
            Error::Call { rv, class, .. } => {
                let is_final = *class == ErrorClass::Permanent
                    || !is_pin_known && !LOGIN_NOT_REACHED.contains(&rv.0);
                is_final.then_some(Self::LoginFailed { rv: *rv })
            }
            other => Self::by(other),
        }
    }
}

/// `CK_RV`s of a login that did not get as far as the PIN: no memory, no device, no session, no
/// token, no library.
const LOGIN_NOT_REACHED: [u64; 8] = [0x02, 0x31, 0x32, 0xb0, 0xb3, 0xe0, 0xe1, 0x190];

impl<S: Source> State<S> {
    pub(super) fn new(breaker: Breaker, identity: Option<CardIdentity>) -> Self {
        Self {
            live: None,
            free: VecDeque::new(),
            open_count: 0,
            lent_count: 0,
            waiting_count: 0,
            sessions_max: 0,
            sessions_told: 0,
            raise_at: Nanos::ZERO,
            handles: Arc::default(),
            is_logged_in: false,
            login_epoch: 0,
            is_pin_known: false,
            is_connecting: false,
            was_connected: false,
            next_connect: Nanos::ZERO,
            connect_pause: Duration::ZERO,
            loss: None,
            identity,
            stopped: None,
            breaker,
        }
    }

    fn is_live(&self, live: &Arc<Live<S>>) -> bool {
        self.live.as_ref().is_some_and(|now| Arc::ptr_eq(now, live))
    }

    /// What to say of a token that is away.
    fn loss_error(&self) -> Error {
        let (function, rv) = self.loss.unwrap_or(("C_GetSlotList", TOKEN_NOT_PRESENT));
        Error::Call { function, rv, class: ErrorClass::TokenLost }
    }
}

const TOKEN_NOT_PRESENT: Rv = Rv(0xe0);

/// A session in the hands of one caller. Dropped without being given back (the caller panicked), it
/// is closed.
pub(super) struct Lease<'a, S: Source> {
    pool: &'a Pool<S>,
    live: Option<Arc<Live<S>>>,
    session: Option<S::Session>,
    handles: Arc<S::Handles>,
    login_epoch: u64,
}

impl<S: Source> Lease<'_, S> {
    pub(super) fn run<T>(
        &self,
        operation: &mut impl FnMut(&S::Session, &S::Handles) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.ask(|session| operation(session, &self.handles))
    }

    fn ask<T>(&self, question: impl FnOnce(&S::Session) -> Result<T, Error>) -> Result<T, Error> {
        match &self.session {
            Some(session) => question(session),
            None => Err(self.pool.state().loss_error()),
        }
    }
}

impl<S: Source> Drop for Lease<'_, S> {
    fn drop(&mut self) {
        let live = self.live.take();
        if live.is_none() && self.session.is_none() {
            return;
        }
        drop(self.session.take());
        let mut state = self.pool.state();
        if live.as_ref().is_some_and(|live| state.is_live(live)) {
            state.open_count -= 1;
        }
        drop(state);
        drop(live);
        self.pool.returned();
    }
}

/// What a caller does next.
enum Step<S: Source> {
    /// Takes this session.
    Take(S::Session),
    /// Opens one, in the place of the one it closes or as one more.
    Open(Option<S::Session>),
    /// Reaches the token.
    Connect,
    /// Waits for a change, or until then.
    Wait(Nanos, Waiting),
}

/// What a caller waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Session,
    Token,
}

impl<S: Source> Pool<S> {
    /// A session that is logged in, in time for `call`.
    pub(super) fn lend(&self, call: &mut Call) -> Result<Lease<'_, S>, Error> {
        let mut state = self.state();
        self.admit(&mut state, call)?;
        let lease = loop {
            if let Some(stop) = &state.stopped {
                return Err(stop.error());
            }
            match self.step(&mut state, call) {
                Step::Take(session) => break self.leased(&mut state, Some(session)),
                Step::Open(replaced) => {
                    let lease = self.leased(&mut state, None);
                    drop(state);
                    drop(replaced);
                    return self.opened(lease?);
                }
                Step::Connect => {
                    drop(state);
                    self.reach()?;
                    state = self.state();
                }
                Step::Wait(until, what) => state = self.wait(state, until, call, what)?,
            }
        };
        let must_log_in = self.source.wants_login() && !state.is_logged_in;
        drop(state);
        let mut lease = lease?;
        if must_log_in {
            self.log_in(&mut lease)?;
        }
        Ok(lease)
    }

    /// Whether a call would have to wait for another caller's session.
    pub(super) fn is_full(&self) -> bool {
        let mut state = self.state();
        state.live.is_some() && state.free.is_empty() && !self.has_room(&mut state)
    }

    fn admit(&self, state: &mut State<S>, call: &mut Call) -> Result<(), Error> {
        if !call.is_admitted {
            let admitted = state.breaker.admit(|| self.source.now());
            admitted.inspect_err(|_| self.metrics.circuit_refused())?;
            call.is_admitted = true;
        }
        Ok(())
    }

    fn step(&self, state: &mut State<S>, call: &Call) -> Step<S> {
        if state.live.is_some() {
            return match state.free.pop_back() {
                Some(session) if call.wants_fresh => Step::Open(Some(session)),
                Some(session) => Step::Take(session),
                None if self.has_room(state) => {
                    state.open_count += 1;
                    Step::Open(None)
                }
                None => Step::Wait(Nanos::MAX, Waiting::Session),
            };
        }
        // The library is loaded anew only when nobody holds a session of the load before.
        if state.is_connecting || state.lent_count > 0 {
            return Step::Wait(Nanos::MAX, Waiting::Token);
        }
        if self.source.now() < state.next_connect {
            return Step::Wait(state.next_connect, Waiting::Token);
        }
        state.is_connecting = true;
        Step::Connect
    }

    /// Whether one more session may be opened. Where the token had no more to give, other programs
    /// may have given some back since.
    fn has_room(&self, state: &mut State<S>) -> bool {
        if state.open_count < state.sessions_max {
            return true;
        }
        let may_rise = state.open_count < state.sessions_told;
        if may_rise && self.source.now() >= state.raise_at {
            state.sessions_max = state.open_count + 1;
            return true;
        }
        false
    }

    /// Asks after each idle session, the one idle longest first, so that none is closed for being
    /// idle and none that is dead is lent: how many are well.
    pub fn keep_alive(&self) -> usize {
        let idle_count = self.state().free.len();
        let mut well_count = 0;
        for _ in 0..idle_count {
            let mut state = self.state();
            let Some(session) = state.free.pop_front() else { break };
            let lease = self.leased(&mut state, Some(session));
            drop(state);
            let Ok(lease) = lease else { break };
            let asked = lease.ask(|session| {
                self.source.touch(session)?;
                self.source.is_logged_in(session)
            });
            match asked {
                Ok(is_logged_in) => {
                    if !is_logged_in {
                        self.logged_out(&lease);
                    }
                    well_count += 1;
                    self.give_back(lease);
                }
                Err(error) => drop(self.failed(lease, error)),
            }
        }
        well_count
    }

    fn leased(
        &self,
        state: &mut State<S>,
        session: Option<S::Session>,
    ) -> Result<Lease<'_, S>, Error> {
        let live = Arc::clone(state.live.as_ref().ok_or_else(|| state.loss_error())?);
        state.lent_count += 1;
        self.metrics.lent(state.lent_count);
        let handles = Arc::clone(&state.handles);
        let login_epoch = state.login_epoch;
        Ok(Lease { pool: self, live: Some(live), session, handles, login_epoch })
    }

    /// Waits until something changed, `until` at the longest; an error once `call` is late.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State<S>>,
        until: Nanos,
        call: &Call,
        what: Waiting,
    ) -> Result<MutexGuard<'a, State<S>>, Error> {
        let now = self.source.now();
        let is_lost = what == Waiting::Token && state.was_connected;
        let by = if is_lost { call.lost_by } else { call.deadline };
        if now >= by {
            return Err(match what {
                Waiting::Token if state.was_connected => state.loss_error(),
                Waiting::Token => Error::Deadline { stage: "reaching the token" },
                Waiting::Session => Error::Deadline { stage: "waiting for a session" },
            });
        }
        if state.waiting_count >= self.options.waiting_max {
            self.metrics.queue_refused();
            return Err(Error::QueueFull { waiting_count: state.waiting_count });
        }
        state.waiting_count += 1;
        self.metrics.waits(state.waiting_count);
        let timeout = until.min(by).duration_since(now);
        let mut state = self.source.wait(state, &self.changed, timeout);
        state.waiting_count -= 1;
        self.metrics.waits(state.waiting_count);
        Ok(state)
    }

    /// Reaches the token and says so to all who wait. Before the first success an error is an
    /// error; later it means that the token is still away, but for a card that changed.
    fn reach(&self) -> Result<(), Error> {
        let result = self.connect().map_err(|error| self.classified(error));
        let mut state = self.state();
        state.is_connecting = false;
        let result = match result {
            Ok((connection, identity, sessions_max)) => {
                state.live = Some(Arc::new(Live { connection }));
                state.identity = Some(identity);
                (state.sessions_max, state.sessions_told) = (sessions_max, sessions_max);
                state.open_count = 0;
                state.handles = Arc::default();
                state.is_logged_in = false;
                state.was_connected = true;
                self.metrics.connected();
                Ok(())
            }
            Err(error) => {
                if state.stopped.is_none() {
                    state.stopped = Stop::by(&error);
                }
                if state.was_connected && state.stopped.is_none() {
                    if let Error::Call { function, rv, .. } = &error {
                        state.loss = Some((function, *rv));
                    }
                    Ok(())
                } else {
                    Err(error)
                }
            }
        };
        // The next attempt is due after a pause that grows until an operation succeeds: a token
        // that comes back for a moment only must not be reloaded without rest.
        let (first, longest) = self.options.backoff;
        state.connect_pause = state.connect_pause.saturating_mul(2).clamp(first, longest);
        state.next_connect = self.source.now().after(state.connect_pause);
        drop(state);
        self.changed.notify_all();
        result
    }

    fn connect(&self) -> Result<(S::Connection, CardIdentity, usize), Error> {
        let connection = self.source.connect()?;
        let identity = self.source.identity(&connection)?;
        let before = self.state().identity.clone();
        if let Some(error) = before.and_then(|before| difference(&before, &identity)) {
            return Err(error);
        }
        let told = self.source.sessions_max(&connection)?.unwrap_or(usize::MAX);
        Ok((connection, identity, told.clamp(1, self.options.sessions_max)))
    }

    /// Opens the session that a lease has room for, and logs in if the token forgot that.
    fn opened<'a>(&'a self, mut lease: Lease<'a, S>) -> Result<Lease<'a, S>, Error> {
        let Some(live) = lease.live.clone() else { return Err(self.state().loss_error()) };
        let opened = self.source.open(&live.connection);
        drop(live);
        let session = match opened {
            Ok(session) => session,
            Err(error) => return Err(self.not_opened(lease, error)),
        };
        self.metrics.opened();
        if self.source.wants_login() {
            match self.source.is_logged_in(&session) {
                Ok(true) => {}
                Ok(false) => self.logged_out(&lease),
                Err(error) => {
                    lease.session = Some(session);
                    return Err(self.failed(lease, error));
                }
            }
        }
        lease.session = Some(session);
        self.log_in(&mut lease).map(|()| lease)
    }

    /// A token that has no session left for us, while we have some, allows fewer than it told.
    fn not_opened(&self, lease: Lease<'_, S>, error: Error) -> Error {
        let error = self.classified(error);
        if error.class() == ErrorClass::TokenLost {
            self.lost(lease, &error);
            return error;
        }
        let mut state = self.state();
        let is_ours = lease.live.as_ref().is_some_and(|live| state.is_live(live));
        if error.class() == ErrorClass::Throttled && is_ours && state.open_count > 1 {
            state.sessions_max = state.open_count - 1;
            state.raise_at = self.source.now().after(self.options.rest);
        }
        drop(state);
        drop(lease);
        error
    }

    /// Logs in, once for all sessions; who comes second finds it done.
    fn log_in(&self, lease: &mut Lease<'_, S>) -> Result<(), Error> {
        if !self.source.wants_login() {
            return Ok(());
        }
        let gate = self.login.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        if let Some(stop) = &state.stopped {
            return Err(stop.error());
        }
        let is_ours = lease.live.as_ref().is_some_and(|live| state.is_live(live));
        if !is_ours {
            return Err(state.loss_error());
        }
        if !state.is_logged_in {
            drop(state);
            let result = lease.ask(|session| self.source.login(session));
            let result = result.map_err(|error| self.classified(error));
            state = self.state();
            if let Err(error) = result {
                let stop = Stop::by_login(&error, state.is_pin_known);
                state.stopped = state.stopped.take().or(stop);
                // Whoever asks, an agent's node before all, must not take it for one that passes:
                // it would start over, with one more attempt at the PIN.
                let said = state.stopped.as_ref().map(Stop::error);
                drop(state);
                self.changed.notify_all();
                self.failed_login(lease, &error);
                return Err(said.unwrap_or(error));
            }
            self.metrics.logged_in();
            (state.is_logged_in, state.is_pin_known) = (true, true);
            state.login_epoch += 1;
            state.handles = Arc::default();
        }
        lease.login_epoch = state.login_epoch;
        lease.handles = Arc::clone(&state.handles);
        drop(state);
        drop(gate);
        Ok(())
    }

    /// A login that failed other than by its PIN: the session goes, or the token with it.
    fn failed_login(&self, lease: &Lease<'_, S>, error: &Error) {
        if error.class() == ErrorClass::TokenLost
            && let Some(live) = lease.live.clone()
        {
            self.forget(&live, error);
        }
    }

    /// Takes note that nobody is logged in any more, if that was not noticed before.
    pub(super) fn logged_out(&self, lease: &Lease<'_, S>) {
        let mut state = self.state();
        if lease.live.as_ref().is_some_and(|live| state.is_live(live))
            && lease.login_epoch == state.login_epoch
        {
            state.is_logged_in = false;
        }
    }

    /// Puts the session of a call back that the card answered.
    pub(super) fn answered(&self, lease: Lease<'_, S>) {
        let mut state = self.state();
        state.breaker.answered();
        (state.connect_pause, state.next_connect) = (Duration::ZERO, Nanos::ZERO);
        state.loss = None;
        self.put_back(state, lease);
    }

    /// Puts a session back that is none the worse for an error.
    pub(super) fn give_back(&self, lease: Lease<'_, S>) {
        self.put_back(self.state(), lease);
    }

    /// A session that is spoiled, or of an earlier connection, is closed instead.
    fn put_back(&self, mut state: MutexGuard<'_, State<S>>, mut lease: Lease<'_, S>) {
        let is_spoiled = lease.session.as_ref().is_none_or(|one| self.source.is_spoiled(one));
        let is_ours = lease.live.as_ref().is_some_and(|live| state.is_live(live));
        if is_spoiled || !is_ours {
            drop(state);
            drop(lease);
            return;
        }
        state.free.extend(lease.session.take());
        state.lent_count -= 1;
        self.metrics.lent(state.lent_count);
        let is_waited_for = state.waiting_count > 0;
        // The state holds the connection too, so that this is not its end.
        drop(lease.live.take());
        drop(state);
        if is_waited_for {
            self.changed.notify_one();
        }
    }

    /// Closes a session; with it go the handles, if they turned out to be stale.
    pub(super) fn close(&self, lease: Lease<'_, S>, are_handles_stale: bool) {
        if are_handles_stale {
            let mut state = self.state();
            if Arc::ptr_eq(&state.handles, &lease.handles) {
                state.handles = Arc::default();
            }
        }
        drop(lease);
    }

    /// Lets go of a lost token: all its sessions are closed, and the library with them.
    pub(super) fn lost(&self, lease: Lease<'_, S>, error: &Error) {
        if let Some(live) = lease.live.clone() {
            self.forget(&live, error);
        }
        drop(lease);
    }

    fn forget(&self, live: &Arc<Live<S>>, error: &Error) {
        let mut state = self.state();
        if !state.is_live(live) {
            return;
        }
        self.metrics.token_lost();
        let gone = (state.live.take(), std::mem::take(&mut state.free));
        state.open_count = 0;
        state.is_logged_in = false;
        if let Error::Call { function, rv, .. } = error {
            state.loss = Some((function, *rv));
        }
        drop(state);
        // Closed outside the lock, while the caller's lease keeps others from loading anew.
        drop(gone);
        self.changed.notify_all();
    }

    pub(super) fn stop_by(&self, error: &Error) {
        if let Some(stop) = Stop::by(error) {
            self.state().stopped.get_or_insert(stop);
            self.changed.notify_all();
        }
    }

    /// A lease is gone for good.
    fn returned(&self) {
        let mut state = self.state();
        state.lent_count -= 1;
        self.metrics.lent(state.lent_count);
        drop(state);
        self.changed.notify_all();
    }
}
