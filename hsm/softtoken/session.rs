//! Sessions, and the operations that are going on in them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cryptoki_sys::*;

use crate::mechanisms::ciphering::Ciphering;
use crate::mechanisms::hashing::Hasher;
use crate::mechanisms::signing::Signing;

/// One session. Its operations have a lock of their own, so that two sessions compute at once.
pub(crate) struct Session {
    pub(crate) handle: CK_SESSION_HANDLE,
    /// Which of the module's slots.
    pub(crate) slot: usize,
    pub(crate) is_rw: bool,
    closed: AtomicBool,
    /// When it was last used, where somebody commanded to look.
    pub(crate) used: AtomicU64,
    pub(crate) operations: Mutex<Operations>,
}

/// What is going on in a session: at most one of each kind.
#[derive(Default)]
pub(crate) struct Operations {
    /// Handles that were found and not yet asked for, last first.
    pub(crate) find: Option<Vec<CK_OBJECT_HANDLE>>,
    pub(crate) digest: Option<Active<Hasher>>,
    pub(crate) sign: Option<Active<Signing>>,
    pub(crate) verify: Option<Active<Signing>>,
    pub(crate) encrypt: Option<Active<Ciphering>>,
    pub(crate) decrypt: Option<Active<Ciphering>>,
}

/// An operation that was begun.
pub(crate) struct Active<T> {
    pub(crate) work: T,
    /// The slot's epoch when it was begun: it ends with a logout or a removal.
    pub(crate) epoch: u64,
    /// `CKA_ALWAYS_AUTHENTICATE`: nothing comes before a `C_Login` for it.
    pub(crate) waits_for_login: bool,
    /// A part was handed in.
    pub(crate) has_parts: bool,
}

impl<T> Active<T> {
    pub(crate) const fn new(work: T, epoch: u64, waits_for_login: bool) -> Self {
        Self { work, epoch, waits_for_login, has_parts: false }
    }
}

impl Session {
    pub(crate) fn new(handle: CK_SESSION_HANDLE, slot: usize, is_rw: bool) -> Self {
        let operations = Mutex::new(Operations::default());
        Self {
            handle,
            slot,
            is_rw,
            closed: AtomicBool::new(false),
            used: AtomicU64::new(0),
            operations,
        }
    }

    /// Who still holds it sees that it is over; what is being computed is finished.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Operations {
    /// The operations that wait for a login of their own now have it.
    pub(crate) fn authenticate(&mut self) -> bool {
        let mut any = false;
        let mut allow = |waits: &mut bool| any |= std::mem::take(waits);
        for signing in [&mut self.sign, &mut self.verify].into_iter().flatten() {
            allow(&mut signing.waits_for_login);
        }
        for ciphering in [&mut self.encrypt, &mut self.decrypt].into_iter().flatten() {
            allow(&mut ciphering.waits_for_login);
        }
        any
    }
}
