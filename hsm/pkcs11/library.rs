//! A library in this process: loaded once, shared, finalised and closed when its last user is gone.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use cryptoki_sys as ck;

use super::functions::{Functions, Start, refused_pin};
use super::linker::{Linked, Unload, link};
use super::{LibraryInfo, MechanismInfo, Session, SlotInfo, TokenInfo};
use crate::Error;
use crate::pin::{Pin, PinSource};

/// A loaded and initialised PKCS#11 library.
///
/// One path is loaded once: a second load of it shares the first. Finalising one that others use
/// would pull it away under their calls, so that happens when the last [`Arc`] is gone; a load of
/// the same path waits until it is done.
pub struct Library {
    // Dropped in this order: finalised, taken out of memory, struck off the list of loaded ones.
    running: Running,
    place: Place,
    generation: u64,
}

/// A library between `C_Initialize` and `C_Finalize`.
struct Running {
    linked: Linked,
    path: PathBuf,
    /// Somebody else in this process who initialised it also finalises it.
    is_ours: bool,
}

impl Running {
    fn start(linked: Linked, path: PathBuf) -> Result<Self, Error> {
        let started = linked.functions.initialise()?;
        // One that would not be finalised the last time may still be as we left it.
        let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
        let was_left = unfinished.contains(&path);
        unfinished.retain(|left| *left != path);
        Ok(Self { linked, path, is_ours: started == Start::Ours || was_left })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_ours && self.linked.functions.finalise().is_err() {
            // Its threads may run on, and what they hold be in use: without its code under them
            // they would take this process with them.
            self.linked.keep_mapped();
            let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
            unfinished.push(std::mem::take(&mut self.path));
        }
    }
}

/// Libraries that we initialised and that refused to be finalised.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Counts loads.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Everything loaded, being loaded or being closed in this process.
static LOADED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
static LOADED_CHANGED: Condvar = Condvar::new();

struct Entry {
    path: PathBuf,
    /// Dead while somebody loads or closes it.
    library: Weak<Library>,
}

/// The right to load one path; given back when dropped.
struct Place {
    path: PathBuf,
}

enum Claim {
    Shared(Arc<Library>),
    Mine(Place),
}

fn loaded() -> MutexGuard<'static, Vec<Entry>> {
    LOADED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Finds the library if it is loaded, or makes the caller the one who loads it; waits while another
/// thread loads or closes it.
fn claim(path: &Path) -> Claim {
    let mut entries = loaded();
    loop {
        let Some(entry) = entries.iter().find(|entry| entry.path == path) else {
            entries.push(Entry { path: path.to_owned(), library: Weak::new() });
            return Claim::Mine(Place { path: path.to_owned() });
        };
        if let Some(library) = entry.library.upgrade() {
            return Claim::Shared(library);
        }
        entries = LOADED_CHANGED.wait(entries).unwrap_or_else(PoisonError::into_inner);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        loaded().retain(|entry| entry.path != self.path);
        LOADED_CHANGED.notify_all();
    }
}

impl Library {
    /// Loads and initialises the library at `path`, or shares it if this process has it already.
    ///
    /// # Errors
    /// [`Error::LibraryLoad`] if the system cannot load it, [`Error::LibraryUnusable`] if it is no
    /// PKCS#11 library of 2.20 to 3.x with all functions that are needed, or what `C_Initialize`
    /// said.
    pub fn load(path: &Path) -> Result<Arc<Self>, Error> {
        Self::load_with(path, Unload::default())
    }

    /// [`Library::load`] for a library that must stay in memory, or not. Of several loads that
    /// share one library the first decides.
    ///
    /// # Errors
    /// As there.
    pub fn load_with(path: &Path, unload: Unload) -> Result<Arc<Self>, Error> {
        let canonical = path.canonicalize().map_err(|error| Error::LibraryLoad {
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
        let place = match claim(&canonical) {
            Claim::Shared(library) => return Ok(library),
            Claim::Mine(place) => place,
        };
        let running = Running::start(link(&canonical, unload)?, canonical.clone())?;
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed) + 1;
        let library = Arc::new(Self { running, place, generation });
        let mut entries = loaded();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.path == canonical) {
            entry.library = Arc::downgrade(&library);
        }
        drop(entries);
        LOADED_CHANGED.notify_all();
        Ok(library)
    }

    /// Which load in this process this is, counted from 1. Handles of one load mean nothing in
    /// another.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Where it was loaded from, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// PKCS#11 3.1 `C_GetInfo`.
    ///
    /// # Errors
    /// What the library says.
    pub fn info(&self) -> Result<LibraryInfo, Error> {
        self.functions().library_info().map(|raw| LibraryInfo::from(&raw))
    }

    /// Slots with a token in them, in the library's order (PKCS#11 3.1 `C_GetSlotList`).
    ///
    /// # Errors
    /// What the library says, or [`Error::AnswerMalformed`] if there are unbelievably many.
    pub fn slots(&self) -> Result<Vec<u64>, Error> {
        self.functions().slots()
    }

    /// PKCS#11 3.1 `C_GetSlotInfo`.
    ///
    /// # Errors
    /// What the library says.
    pub fn slot_info(&self, slot: u64) -> Result<SlotInfo, Error> {
        self.functions().slot_info(slot).map(|raw| SlotInfo::from(&raw))
    }

    /// PKCS#11 3.1 `C_GetTokenInfo`.
    ///
    /// # Errors
    /// What the library says.
    pub fn token_info(&self, slot: u64) -> Result<TokenInfo, Error> {
        self.functions().token_info(slot).map(|raw| TokenInfo::from(&raw))
    }

    /// Codes of the token's mechanisms (PKCS#11 3.1 `C_GetMechanismList`).
    ///
    /// # Errors
    /// What the library says, or [`Error::AnswerMalformed`] if there are unbelievably many.
    pub fn mechanisms(&self, slot: u64) -> Result<Vec<u64>, Error> {
        self.functions().mechanisms(slot)
    }

    /// PKCS#11 3.1 `C_GetMechanismInfo`.
    ///
    /// # Errors
    /// What the library says.
    pub fn mechanism_info(&self, slot: u64, code: u64) -> Result<MechanismInfo, Error> {
        self.functions().mechanism_info(slot, code).map(|raw| MechanismInfo::from(&raw))
    }

    /// Opens a session (PKCS#11 3.1 `C_OpenSession`).
    ///
    /// # Errors
    /// What the library says.
    pub fn open_session(
        self: &Arc<Self>,
        slot: u64,
        is_read_write: bool,
    ) -> Result<Session, Error> {
        Session::open(self, slot, is_read_write)
    }

    /// Closes all sessions that this process has with a token, as it must before the token is
    /// initialised (PKCS#11 3.1 `C_CloseAllSessions`). Whoever uses one learns that it is gone.
    ///
    /// # Errors
    /// What the library says.
    pub fn close_all_sessions(&self, slot: u64) -> Result<(), Error> {
        self.functions().close_all_sessions(slot)
    }

    /// Initialises a token, which destroys what it holds (PKCS#11 3.1 `C_InitToken`).
    ///
    /// # Errors
    /// [`Error::PinRefused`] if the token is initialised already and the security officer's PIN is
    /// another; [`Error::Refused`] if the label is longer than 32 bytes; what the library says.
    pub fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), Error> {
        self.check_pad(slot, so_pin)?;
        let padded = padded_label(label)?;
        let result = self.functions().init_token(slot, so_pin.bytes(), padded);
        let left = || self.token_info(slot).map(|info| info.officer_tries_left());
        result.map_err(|error| refused_pin(error, left))
    }

    /// A PIN that is typed at the pad needs a token with one: any other takes NULL for a PIN, and
    /// may count it as a wrong one.
    pub(super) fn check_pad(&self, slot: u64, pin: &Pin) -> Result<(), Error> {
        if !pin.is_at_the_pad() {
            return Ok(());
        }
        if self.token_info(slot)?.flags & ck::CKF_PROTECTED_AUTHENTICATION_PATH != 0 {
            return Ok(());
        }
        let reason = "the token has none (CKF_PROTECTED_AUTHENTICATION_PATH is not set)";
        let source_name = PinSource::Pad.to_string();
        Err(Error::PinUnreadable { source_name, reason: reason.to_owned() })
    }

    pub(super) const fn functions(&self) -> &Functions {
        &self.running.linked.functions
    }
}

/// A label as `C_InitToken` wants it: 32 bytes, padded with blanks.
fn padded_label(label: &str) -> Result<[u8; 32], Error> {
    let mut padded = [b' '; 32];
    let Some(place) = padded.get_mut(..label.len()) else {
        let reason = format!("{} bytes; a token's label has 32 at most", label.len());
        return Err(Error::Refused { what: "the token's label", reason });
    };
    place.copy_from_slice(label.as_bytes());
    Ok(padded)
}

impl core::fmt::Debug for Library {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Library")
            .field("path", &self.place.path)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
