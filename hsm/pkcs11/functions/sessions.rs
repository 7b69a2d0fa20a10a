//! Sessions, logins and PINs.

use cryptoki_sys as ck;

use super::{Functions, check, length, there};
use crate::Error;

impl Functions {
    /// PKCS#11 3.1 `C_OpenSession`, without a callback.
    pub(crate) fn open_session(&self, slot: u64, is_read_write: bool) -> Result<u64, Error> {
        const NAME: &str = "C_OpenSession";
        let call = there(NAME, self.list.C_OpenSession)?;
        let write = if is_read_write { ck::CKF_RW_SESSION } else { 0 };
        let mut session = ck::CK_INVALID_HANDLE;
        let flags = ck::CKF_SERIAL_SESSION | write;
        // SAFETY: the place for the answer is on this stack; no callback is given.
        let rv = unsafe { call(slot, flags, std::ptr::null_mut(), None, &raw mut session) };
        check(NAME, rv).map(|()| session)
    }

    /// PKCS#11 3.1 `C_CloseSession`. What it says is of no use: the session is forgotten either
    /// way.
    pub(crate) fn close_session(&self, session: u64) {
        if let Some(call) = self.list.C_CloseSession {
            // SAFETY: the call takes no pointer.
            unsafe { call(session) };
        }
    }

    /// PKCS#11 3.1 `C_CloseAllSessions`.
    pub(crate) fn close_all_sessions(&self, slot: u64) -> Result<(), Error> {
        const NAME: &str = "C_CloseAllSessions";
        let call = there(NAME, self.list.C_CloseAllSessions)?;
        // SAFETY: the call takes no pointer.
        let rv = unsafe { call(slot) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_GetSessionInfo`.
    pub(crate) fn session_info(&self, session: u64) -> Result<ck::CK_SESSION_INFO, Error> {
        const NAME: &str = "C_GetSessionInfo";
        let call = there(NAME, self.list.C_GetSessionInfo)?;
        let mut info = ck::CK_SESSION_INFO::default();
        // SAFETY: the place for the answer is on this stack.
        let rv = unsafe { call(session, &raw mut info) };
        check(NAME, rv).map(|()| info)
    }

    /// PKCS#11 3.1 `C_Login`.
    pub(crate) fn login(&self, session: u64, user: u64, pin: &[u8]) -> Result<(), Error> {
        const NAME: &str = "C_Login";
        let call = there(NAME, self.list.C_Login)?;
        // SAFETY: the PIN is borrowed for the call, which only reads it, or NULL for the pad.
        let rv = unsafe { call(session, user, pin_pointer(pin), length(pin.len())) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_Logout`.
    pub(crate) fn logout(&self, session: u64) -> Result<(), Error> {
        const NAME: &str = "C_Logout";
        let call = there(NAME, self.list.C_Logout)?;
        // SAFETY: the call takes no pointer.
        let rv = unsafe { call(session) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_InitPIN`.
    pub(crate) fn init_pin(&self, session: u64, pin: &[u8]) -> Result<(), Error> {
        const NAME: &str = "C_InitPIN";
        let call = there(NAME, self.list.C_InitPIN)?;
        // SAFETY: the PIN is borrowed for the call, which only reads it, or NULL for the pad.
        let rv = unsafe { call(session, pin_pointer(pin), length(pin.len())) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_SetPIN`.
    pub(crate) fn set_pin(&self, session: u64, old: &[u8], new: &[u8]) -> Result<(), Error> {
        const NAME: &str = "C_SetPIN";
        let call = there(NAME, self.list.C_SetPIN)?;
        let (old_bytes, new_bytes) = (pin_pointer(old), pin_pointer(new));
        // SAFETY: both PINs are borrowed for the call, which only reads them, or NULL for the pad.
        let rv =
            unsafe { call(session, old_bytes, length(old.len()), new_bytes, length(new.len())) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_GenerateRandom`.
    pub(crate) fn random(&self, session: u64, bytes: &mut [u8]) -> Result<(), Error> {
        const NAME: &str = "C_GenerateRandom";
        let call = there(NAME, self.list.C_GenerateRandom)?;
        // SAFETY: the bytes are borrowed for writing for the call, as many as their length says.
        let rv = unsafe { call(session, bytes.as_mut_ptr(), length(bytes.len())) };
        check(NAME, rv)
    }
}

/// Where a PIN is. Without one it is typed at the token's pad, which is what NULL asks for
/// (PKCS#11 3.1 5.6.8); a PIN of no bytes is never had from anywhere.
pub(super) const fn pin_pointer(pin: &[u8]) -> *mut u8 {
    if pin.is_empty() { std::ptr::null_mut() } else { pin.as_ptr().cast_mut() }
}
