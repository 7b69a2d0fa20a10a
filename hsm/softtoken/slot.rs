//! One slot with its token: who is logged in, which sessions are open, which objects there are.
//!
//! ```text
//! Module --enter--> State (locked) --reads, writes--> Store
//!                   noticed on the way in: the device is gone or was, another process changed it
//! ```
//!
//! The lock is never held while a key computes; a login derives its key under it, as a card does
//! nothing else during a login either.

mod objects;
mod pins;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cryptoki_sys::*;

use crate::answer::{Answer, locked, ulong};
use crate::config::{Config, complain};
use crate::faults::Faults;
use crate::imitations::Dialect;
use crate::object::Object;
use crate::session::Session;
use crate::store::header::{Header, PIN_BYTES, User};
use crate::store::{Store, StoreError, StoreId, StoreLock, TokenKey};

pub(crate) use objects::Found;

/// What all slots of a module share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) dialect: &'static Dialect,
    /// The next handle of an object or a session.
    handles: Arc<AtomicU64>,
}

/// A slot. It is there for as long as the module is; its token may not be.
pub(crate) struct Slot {
    pub(crate) index: usize,
    pub(crate) shared: Shared,
    pub(crate) faults: Faults,
    store: Store,
    /// Counts logouts, removals and new lives of the token.
    epoch: AtomicU64,
    /// How many commanded removals were acted on.
    removals_seen: AtomicU64,
    /// How many changes of presence `C_WaitForSlotEvent` has told.
    pub(crate) events_seen: AtomicU64,
    state: Mutex<State>,
}

pub(crate) struct State {
    /// Between `C_Finalize` and the next `C_Initialize`: what was under way then changes nothing.
    is_shut: bool,
    /// `None` if the token's file cannot be read.
    header: Option<Header>,
    generation: u64,
    sessions: BTreeMap<CK_SESSION_HANDLE, Arc<Session>>,
    login: Option<(User, TokenKey)>,
    objects: BTreeMap<CK_OBJECT_HANDLE, Entry>,
}

/// An object and where it lives.
struct Entry {
    object: Arc<Object>,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Until this session closes.
    Session(CK_SESSION_HANDLE),
    Token(StoreId),
}

impl Shared {
    pub(crate) fn new(config: Arc<Config>, dialect: &'static Dialect) -> Self {
        Self { config, dialect, handles: Arc::new(AtomicU64::new(1)) }
    }

    /// A handle that nothing had before.
    pub(crate) fn handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed)
    }

    /// The return value for what the store did not do; the reason goes to the operator.
    pub(crate) fn refuse(&self, error: &StoreError) -> CK_RV {
        if self.config.messages {
            complain(&error.to_string());
        }
        CKR_DEVICE_ERROR
    }
}

impl Slot {
    /// The slot with this number, and its token in the store.
    pub(crate) fn open(index: usize, shared: &Shared) -> Result<Self, StoreError> {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let store = Store::open(&shared.config.store, number, shared.dialect.serial_start)?;
        let faults = Faults::of_folder(store.folder()).map_err(|cause| StoreError::Io {
            path: store.folder().to_owned(),
            doing: "cannot map the control page",
            cause,
        })?;
        let slot = Self {
            index,
            shared: shared.clone(),
            store,
            epoch: AtomicU64::new(0),
            removals_seen: AtomicU64::new(faults.removals_count()),
            events_seen: AtomicU64::new(faults.events_count()),
            state: Mutex::new(State {
                is_shut: false,
                header: None,
                generation: u64::MAX,
                sessions: BTreeMap::new(),
                login: None,
                objects: BTreeMap::new(),
            }),
            faults,
        };
        Ok(slot)
    }

    /// Whether the device can be reached.
    pub(crate) fn is_present(&self) -> bool {
        !self.faults.is_removed()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// What must hold before anything of the token is used; cheap where nothing happened.
    ///
    /// # Errors
    /// `gone` while the device is away.
    pub(crate) fn check_presence(&self, gone: CK_RV) -> Answer<()> {
        self.faults.wait_while_hanging();
        let removals = self.faults.removals_count();
        if self.removals_seen.load(Ordering::Acquire) != removals {
            let mut state = locked(&self.state);
            // Whoever comes first does it, and those who wait for the lock find it done.
            if self.removals_seen.swap(removals, Ordering::AcqRel) != removals {
                self.forget(&mut state);
            }
        }
        if self.faults.is_removed() { Err(gone) } else { Ok(()) }
    }

    /// Closes all sessions and logs out, as when the device is pulled out.
    fn forget(&self, state: &mut State) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        state.sessions.values().for_each(|session| session.close());
        state.sessions.clear();
        state.login = None;
        state.objects.clear();
        state.generation = u64::MAX;
    }

    /// Ends everything, at `C_Finalize`.
    pub(crate) fn shut(&self) {
        let mut state = locked(&self.state);
        state.is_shut = true;
        self.forget(&mut state);
    }

    /// Begins again, at the next `C_Initialize`.
    pub(crate) fn reopen(&self) {
        locked(&self.state).is_shut = false;
        self.events_seen.store(self.faults.events_count(), Ordering::Release);
    }

    /// The state, up to date with the store.
    fn enter(&self) -> Answer<MutexGuard<'_, State>> {
        self.check_presence(CKR_TOKEN_NOT_PRESENT)?;
        let mut state = locked(&self.state);
        if state.is_shut {
            return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
        }
        let generation = self.faults.generation();
        if state.generation != generation {
            let _lock = self.store.lock().map_err(|error| self.shared.refuse(&error))?;
            self.reload(&mut state)?;
            state.generation = generation;
        }
        Ok(state)
    }

    /// As [`Slot::enter`], with the store locked: what follows changes it.
    fn enter_to_write(&self) -> Answer<(MutexGuard<'_, State>, StoreLock)> {
        let mut state = self.enter()?;
        let lock = self.store.lock().map_err(|error| self.shared.refuse(&error))?;
        let generation = self.faults.generation();
        // Counters are counted on from what the disk says, whoever wrote it, and told or not.
        let on_disk = self.store.read_header().ok().map(Header::to_bytes);
        if state.generation != generation || on_disk != state.header.map(Header::to_bytes) {
            self.reload(&mut state)?;
            state.generation = generation;
        }
        Ok((state, lock))
    }

    /// As [`Slot::enter_to_write`], for a session that is open: another thread may have closed it
    /// since it was looked up, and what it leaves behind now nobody would take away.
    ///
    /// # Errors
    /// `CKR_SESSION_HANDLE_INVALID`.
    fn enter_session(&self, session: &Session) -> Answer<(MutexGuard<'_, State>, StoreLock)> {
        let entered = self.enter_to_write()?;
        if session.is_closed() { Err(CKR_SESSION_HANDLE_INVALID) } else { Ok(entered) }
    }

    /// Changes the store, which is locked, and then what is known of it.
    ///
    /// The other processes are told before: they wait for the lock and read what came of it, even
    /// if this process ends in the middle. If the store fails, so does this one at its next call.
    fn alter<T>(
        &self,
        state: &mut State,
        change: impl FnOnce(&Store, &mut State) -> Result<T, StoreError>,
    ) -> Answer<T> {
        let before = self.faults.generation();
        let generation = self.faults.content_changed();
        let changed = change(&self.store, state).map_err(|error| self.shared.refuse(&error))?;
        if state.generation == before {
            state.generation = generation;
        }
        Ok(changed)
    }

    /// Reads the token's file, and the objects that may be seen now.
    fn reload(&self, state: &mut State) -> Answer<()> {
        let header = match self.store.settled_header() {
            Ok(header) => header,
            Err(error) => {
                self.shared.refuse(&error);
                state.header = None;
                return Ok(());
            }
        };
        if state.header.as_ref().is_some_and(|before| before.life() != header.life()) {
            self.forget(state);
        }
        state.header = Some(header);
        self.reload_objects(state)
    }

    /// The token's file; for an initialised token.
    fn header(state: &State) -> Answer<&Header> {
        let header = state.header.as_ref().ok_or(CKR_TOKEN_NOT_RECOGNIZED)?;
        if header.is_initialised() { Ok(header) } else { Err(CKR_TOKEN_NOT_RECOGNIZED) }
    }

    /// Opens a session; `handle` is its own.
    ///
    /// # Errors
    /// As `C_OpenSession`.
    pub(crate) fn open_session(&self, is_rw: bool) -> Answer<Arc<Session>> {
        let mut state = self.enter()?;
        Self::header(&state)?;
        if !is_rw && matches!(state.login, Some((User::So, _))) {
            return Err(CKR_SESSION_READ_WRITE_SO_EXISTS);
        }
        let max = self.shared.config.sessions_count_max;
        if ulong(state.sessions.len()) >= max.into() || self.faults.is_out_of_sessions() {
            return Err(CKR_SESSION_COUNT);
        }
        let session = Arc::new(Session::new(self.shared.handle(), self.index, is_rw));
        state.sessions.insert(session.handle, Arc::clone(&session));
        Ok(session)
    }

    /// Closes a session and what lived in it; the last one logs out.
    pub(crate) fn close_session(&self, session: &Session) {
        let mut state = locked(&self.state);
        session.close();
        state.sessions.remove(&session.handle);
        state.objects.retain(|_, entry| entry.place != Place::Session(session.handle));
        if state.sessions.is_empty() && state.login.is_some() {
            self.log_out(&mut state);
        }
    }

    /// Closes all sessions of this process.
    pub(crate) fn close_all_sessions(&self) {
        let mut state = locked(&self.state);
        state.sessions.values().for_each(|session| session.close());
        state.sessions.clear();
        state.objects.retain(|_, entry| matches!(entry.place, Place::Token(_)));
        self.log_out(&mut state);
    }

    /// Nobody is logged in any more: private objects and what was going on are gone.
    fn log_out(&self, state: &mut State) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        state.login = None;
        state.objects.retain(|_, entry| match entry.place {
            Place::Session(_) => !entry.object.flag(CKA_PRIVATE),
            Place::Token(_) => !entry.object.is_closed(),
        });
    }

    /// `CKS_*` of a session.
    pub(crate) fn session_state(&self, session: &Session) -> CK_STATE {
        match (&locked(&self.state).login, session.is_rw) {
            (Some((User::So, _)), _) => CKS_RW_SO_FUNCTIONS,
            (Some((User::Normal, _)), true) => CKS_RW_USER_FUNCTIONS,
            (Some((User::Normal, _)), false) => CKS_RO_USER_FUNCTIONS,
            (None, true) => CKS_RW_PUBLIC_SESSION,
            (None, false) => CKS_RO_PUBLIC_SESSION,
        }
    }

    /// What `C_GetTokenInfo` tells.
    ///
    /// # Errors
    /// `CKR_TOKEN_NOT_PRESENT`, `CKR_TOKEN_NOT_RECOGNIZED`, `CKR_DEVICE_ERROR`.
    pub(crate) fn token_info(&self) -> Answer<CK_TOKEN_INFO> {
        let state = self.enter()?;
        let header = state.header.as_ref().ok_or(CKR_TOKEN_NOT_RECOGNIZED)?;
        let dialect = self.shared.dialect;
        let rw_count = state.sessions.values().filter(|session| session.is_rw).count();
        let max = self.shared.config.sessions_count_max.into();
        let unknown = CK_UNAVAILABLE_INFORMATION;
        Ok(CK_TOKEN_INFO {
            label: *header.label(),
            manufacturerID: padded(dialect.manufacturer),
            model: padded(dialect.model),
            serialNumber: *header.serial(),
            flags: token_flags(header),
            ulMaxSessionCount: max,
            ulSessionCount: ulong(state.sessions.len()),
            ulMaxRwSessionCount: max,
            ulRwSessionCount: ulong(rw_count),
            ulMaxPinLen: ulong(*PIN_BYTES.end()),
            ulMinPinLen: ulong(*PIN_BYTES.start()),
            ulTotalPublicMemory: unknown,
            ulFreePublicMemory: unknown,
            ulTotalPrivateMemory: unknown,
            ulFreePrivateMemory: unknown,
            hardwareVersion: CK_VERSION { major: 1, minor: 0 },
            firmwareVersion: version(dialect.firmware_version),
            utcTime: [b' '; 16],
        })
    }
}

fn token_flags(header: &Header) -> CK_FLAGS {
    let mut flags = CKF_RNG | CKF_LOGIN_REQUIRED;
    let mut add = |condition: bool, flag: CK_FLAGS| flags |= if condition { flag } else { 0 };
    let (so, user) = (header.tries(User::So), header.tries(User::Normal));
    add(header.is_initialised(), CKF_TOKEN_INITIALIZED);
    add(user.is_set, CKF_USER_PIN_INITIALIZED);
    add(user.is_low, CKF_USER_PIN_COUNT_LOW);
    add(user.is_last, CKF_USER_PIN_FINAL_TRY);
    add(user.is_locked, CKF_USER_PIN_LOCKED);
    add(so.is_low, CKF_SO_PIN_COUNT_LOW);
    add(so.is_last, CKF_SO_PIN_FINAL_TRY);
    add(so.is_locked, CKF_SO_PIN_LOCKED);
    flags
}

/// Text with blanks behind it, as PKCS#11 has it.
pub(crate) fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [b' '; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(place, byte)| *place = byte);
    bytes
}

pub(crate) const fn version((major, minor): (u8, u8)) -> CK_VERSION {
    CK_VERSION { major, minor }
}
