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
    pub(crate) find: Option<Active<Vec<CK_OBJECT_HANDLE>>>,
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
    /// Ends the operations that the flags name, as `C_SessionCancel` has them; whether there were
    /// any.
    pub(crate) fn end(&mut self, flags: CK_FLAGS) -> bool {
        let has = |flag: CK_FLAGS| flags & flag != 0;
        [
            has(CKF_FIND_OBJECTS) && self.find.take().is_some(),
            has(CKF_DIGEST) && self.digest.take().is_some(),
            has(CKF_SIGN) && self.sign.take().is_some(),
            has(CKF_VERIFY) && self.verify.take().is_some(),
            has(CKF_ENCRYPT) && self.encrypt.take().is_some(),
            has(CKF_DECRYPT) && self.decrypt.take().is_some(),
        ]
        .contains(&true)
    }

    /// Whether an operation of this epoch waits for a login of its own.
    pub(crate) fn wait_for_login(&mut self, epoch: u64) -> bool {
        self.waiting().into_iter().flatten().any(|(waits, begun)| *waits && begun == epoch)
    }

    /// The operations that wait for a login of their own now have it.
    pub(crate) fn authenticate(&mut self) {
        self.waiting().into_iter().flatten().for_each(|(waits, _)| *waits = false);
    }

    /// Those that may wait: whether they do, and the epoch they were begun in. What needs no secret
    /// never waits.
    fn waiting(&mut self) -> [Option<(&mut bool, u64)>; 2] {
        [
            self.sign.as_mut().map(|it| (&mut it.waits_for_login, it.epoch)),
            self.decrypt.as_mut().map(|it| (&mut it.waits_for_login, it.epoch)),
        ]
    }
}
