//! The module as safe Rust: what `entry/` calls once it has looked at pointers and lengths, and
//! what the tool and the tests call directly.
//!
//! ```text
//! entry/ --> Module --session--> Slot (state, store, faults)
//!               '--Call, key---> mechanisms/
//! ```

mod keys;
mod operations;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cryptoki_sys::*;

use crate::answer::{Answer, ulong};
use crate::attributes::Template;
use crate::config::Config;
use crate::faults::sleep_micros;
use crate::imitations::{Algorithm, Dialect, by_name};
use crate::mechanisms::{Call, Parameter};
use crate::session::Session;
use crate::slot::{Shared, Slot, padded, version};
use crate::store::StoreError;
use crate::store::header::User;

pub(crate) use operations::{Given, Kind};

/// Why a module cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Bytes of one call of `C_GenerateRandom`.
pub(crate) const RANDOM_BYTES_MAX: usize = 1 << 20;

/// An initialised module: all slots, all sessions.
pub(crate) struct Module {
    shared: Shared,
    slots: Vec<Slot>,
    sessions: RwLock<HashMap<CK_SESSION_HANDLE, Arc<Session>>>,
    /// How often it was shut: who waits for an event waits in one life only.
    lives: AtomicU64,
}

impl Module {
    /// The module of a configuration; makes the folders of tokens that are missing.
    pub(crate) fn open(config: Config) -> Result<Self, OpenError> {
        config.check()?;
        let dialect = by_name(&config.imitation).unwrap_or(&crate::imitations::native::DIALECT);
        let count = usize::try_from(config.slots_count).unwrap_or(1);
        let shared = Shared::new(Arc::new(config), dialect);
        let slots: Result<Vec<_>, _> = (0..count).map(|index| Slot::open(index, &shared)).collect();
        Ok(Self {
            shared,
            slots: slots?,
            sessions: RwLock::new(HashMap::new()),
            lives: AtomicU64::new(0),
        })
    }

    pub(crate) const fn dialect(&self) -> &'static Dialect {
        self.shared.dialect
    }

    /// Closes all sessions, logs out everywhere, forgets all keys.
    pub(crate) fn shut(&self) {
        self.lives.fetch_add(1, Ordering::AcqRel);
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.slots.iter().for_each(Slot::shut);
    }

    /// Begins again what was shut.
    pub(crate) fn reopen(&self) {
        self.slots.iter().for_each(Slot::reopen);
    }

    /// Numbers of the slots; all of them have a token unless it was removed.
    pub(crate) fn slot_ids(&self, with_token: bool) -> Vec<CK_SLOT_ID> {
        let shown = self.slots.iter().filter(|slot| !with_token || slot.is_present());
        shown.map(|slot| ulong(slot.index)).collect()
    }

    /// The slot with this number.
    ///
    /// # Errors
    /// `CKR_SLOT_ID_INVALID`.
    pub(crate) fn slot(&self, id: CK_SLOT_ID) -> Answer<&Slot> {
        let index = usize::try_from(id).map_err(|_| CKR_SLOT_ID_INVALID)?;
        self.slots.get(index).ok_or(CKR_SLOT_ID_INVALID)
    }

    /// What `C_GetInfo` tells.
    pub(crate) fn info(&self) -> CK_INFO {
        let dialect = self.dialect();
        CK_INFO {
            cryptokiVersion: CK_VERSION { major: 3, minor: 0 },
            manufacturerID: padded(dialect.manufacturer),
            flags: 0,
            libraryDescription: padded(dialect.library),
            libraryVersion: version(dialect.library_version),
        }
    }

    /// What `C_GetSlotInfo` tells.
    ///
    /// # Errors
    /// `CKR_SLOT_ID_INVALID`.
    pub(crate) fn slot_info(&self, id: CK_SLOT_ID) -> Answer<CK_SLOT_INFO> {
        let slot = self.slot(id)?;
        let dialect = self.dialect();
        let present = if slot.is_present() { CKF_TOKEN_PRESENT } else { 0 };
        Ok(CK_SLOT_INFO {
            slotDescription: padded(&format!("{} slot {id}", dialect.library)),
            manufacturerID: padded(dialect.manufacturer),
            flags: present | CKF_REMOVABLE_DEVICE,
            hardwareVersion: CK_VERSION { major: 1, minor: 0 },
            firmwareVersion: version(dialect.firmware_version),
        })
    }

    /// How often it was shut.
    pub(crate) fn lives(&self) -> u64 {
        self.lives.load(Ordering::Acquire)
    }

    /// A slot whose presence changed since it was last asked.
    pub(crate) fn slot_event(&self) -> Option<CK_SLOT_ID> {
        let changed = self.slots.iter().find(|slot| {
            let now = slot.faults.events_count();
            slot.events_seen.swap(now, Ordering::AcqRel) != now
        });
        changed.map(|slot| ulong(slot.index))
    }

    /// Opens a session.
    ///
    /// # Errors
    /// As `C_OpenSession`.
    pub(crate) fn open_session(&self, id: CK_SLOT_ID, is_rw: bool) -> Answer<CK_SESSION_HANDLE> {
        let session = self.slot(id)?.open_session(is_rw)?;
        let handle = session.handle;
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        // What a removal or another thread closed is swept out when the table would grow.
        if sessions.len() == sessions.capacity() {
            sessions.retain(|_, session| !session.is_closed());
        }
        sessions.insert(handle, session);
        Ok(handle)
    }

    /// The session with this handle and its slot, whose device is there.
    ///
    /// # Errors
    /// `CKR_DEVICE_REMOVED`, `CKR_SESSION_HANDLE_INVALID`.
    pub(crate) fn session(&self, handle: CK_SESSION_HANDLE) -> Answer<(Arc<Session>, &Slot)> {
        let (session, slot) = self.any_session(handle)?;
        slot.check_presence(CKR_DEVICE_REMOVED)?;
        if slot.faults.outlives(&session.used) {
            slot.close_session(&session);
        }
        if session.is_closed() { Err(CKR_SESSION_HANDLE_INVALID) } else { Ok((session, slot)) }
    }

    /// As [`Module::session`], closed by a removal or not.
    fn any_session(&self, handle: CK_SESSION_HANDLE) -> Answer<(Arc<Session>, &Slot)> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let session = Arc::clone(sessions.get(&handle).ok_or(CKR_SESSION_HANDLE_INVALID)?);
        drop(sessions);
        let slot = self.slots.get(session.slot).ok_or(CKR_SESSION_HANDLE_INVALID)?;
        Ok((session, slot))
    }

    /// Closes a session.
    ///
    /// # Errors
    /// `CKR_SESSION_HANDLE_INVALID`.
    pub(crate) fn close_session(&self, handle: CK_SESSION_HANDLE) -> Answer<()> {
        let (session, slot) = self.any_session(handle)?;
        let was_open = !session.is_closed();
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        slot.close_session(&session);
        if was_open { Ok(()) } else { Err(CKR_SESSION_HANDLE_INVALID) }
    }

    /// Closes all sessions with a slot.
    ///
    /// # Errors
    /// `CKR_SLOT_ID_INVALID`.
    pub(crate) fn close_all_sessions(&self, id: CK_SLOT_ID) -> Answer<()> {
        let slot = self.slot(id)?;
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.slot != slot.index);
        drop(sessions);
        slot.close_all_sessions();
        Ok(())
    }

    /// What `C_GetSessionInfo` tells.
    ///
    /// # Errors
    /// As [`Module::session`].
    pub(crate) fn session_info(&self, handle: CK_SESSION_HANDLE) -> Answer<CK_SESSION_INFO> {
        let (session, slot) = self.session(handle)?;
        let rw = if session.is_rw { CKF_RW_SESSION } else { 0 };
        Ok(CK_SESSION_INFO {
            slotID: ulong(slot.index),
            state: slot.session_state(&session),
            flags: CKF_SERIAL_SESSION | rw,
            ulDeviceError: 0,
        })
    }

    /// `C_Login`.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn login(
        &self,
        handle: CK_SESSION_HANDLE,
        user: CK_USER_TYPE,
        pin: &[u8],
    ) -> Answer<()> {
        let (session, slot) = self.session(handle)?;
        match user {
            CKU_SO => slot.login(&session, User::So, pin),
            CKU_USER => slot.login(&session, User::Normal, pin),
            CKU_CONTEXT_SPECIFIC => slot.authenticate(&session, pin),
            _ => Err(CKR_USER_TYPE_INVALID),
        }
    }

    /// A mechanism as this vendor has it.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`.
    pub(crate) fn call(&self, code: CK_MECHANISM_TYPE, parameter: Parameter) -> Answer<Call> {
        let algorithm = self.algorithm(code)?;
        Ok(Call { code, algorithm, parameter })
    }

    /// What a code means.
    ///
    /// # Errors
    /// `CKR_MECHANISM_INVALID`.
    pub(crate) fn algorithm(&self, code: CK_MECHANISM_TYPE) -> Answer<Algorithm> {
        self.dialect().algorithm(code).ok_or(CKR_MECHANISM_INVALID)
    }

    /// A template with key types in our own codes.
    fn localised(&self, template: &Template) -> Answer<Template> {
        let mut ours = Template::default();
        for (attribute, value) in template.iter() {
            let key_type = template.get_number(CKA_KEY_TYPE)?;
            match key_type {
                Some(theirs) if attribute == CKA_KEY_TYPE => {
                    ours.push(attribute, &self.dialect().key_type_in(theirs).to_ne_bytes());
                }
                _ => ours.push(attribute, value),
            }
        }
        Ok(ours)
    }

    /// What an operation with a key waits for and runs into, by configuration and on command.
    /// Gives the number of the operation.
    fn strain(&self, session: &Session, slot: &Slot) -> Answer<u64> {
        let call = slot.faults.count_call();
        let micros = slot.faults.latency_micros().max(self.shared.config.latency_micros);
        if micros > 0 {
            sleep_micros(micros);
        }
        if slot.faults.loses_session(call) {
            slot.close_session(session);
            return Err(CKR_SESSION_HANDLE_INVALID);
        }
        if slot.faults.throttles(call) { Err(self.dialect().throttled) } else { Ok(call) }
    }

    /// Random bytes.
    ///
    /// # Errors
    /// As `C_GenerateRandom`.
    pub(crate) fn random(&self, handle: CK_SESSION_HANDLE, bytes: &mut [u8]) -> Answer<()> {
        let (session, slot) = self.session(handle)?;
        self.strain(&session, slot)?;
        crate::mechanisms::generate::random(bytes)
    }
}

#[cfg(test)]
mod tests;
