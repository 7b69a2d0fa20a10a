//! Sessions and logins (PKCS#11 2.40 5.6).

use std::os::raw::c_void;

use cryptoki_sys::*;

use super::{memory, with_module};

/// `C_OpenSession`. Nothing is ever notified.
#[unsafe(export_name = "C_OpenSession")]
pub(super) unsafe extern "C" fn open_session(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _application: *mut c_void,
    _notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    with_module(|module| {
        memory::check(session)?;
        if flags & CKF_SERIAL_SESSION == 0 {
            return Err(CKR_SESSION_PARALLEL_NOT_SUPPORTED);
        }
        let handle = module.open_session(slot, flags & CKF_RW_SESSION != 0)?;
        // SAFETY: the client's word.
        unsafe { memory::write(session, handle) }
    })
}

/// `C_CloseSession`.
#[unsafe(export_name = "C_CloseSession")]
pub(super) unsafe extern "C" fn close_session(session: CK_SESSION_HANDLE) -> CK_RV {
    with_module(|module| module.close_session(session))
}

/// `C_CloseAllSessions`.
#[unsafe(export_name = "C_CloseAllSessions")]
pub(super) unsafe extern "C" fn close_all_sessions(slot: CK_SLOT_ID) -> CK_RV {
    with_module(|module| module.close_all_sessions(slot))
}

/// `C_GetSessionInfo`.
#[unsafe(export_name = "C_GetSessionInfo")]
pub(super) unsafe extern "C" fn get_session_info(
    session: CK_SESSION_HANDLE,
    info: *mut CK_SESSION_INFO,
) -> CK_RV {
    with_module(|module| {
        memory::check(info)?;
        // SAFETY: the client's word.
        unsafe { memory::write(info, module.session_info(session)?) }
    })
}

/// `C_Login`.
#[unsafe(export_name = "C_Login")]
pub(super) unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        module.login(session, user, unsafe { memory::pin(pin, pin_len) }?)
    })
}

/// `C_LoginUser` of PKCS#11 3.0, for tokens whose users have no names.
#[unsafe(export_name = "C_LoginUser")]
pub(super) unsafe extern "C" fn login_user(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
    _name: *mut CK_UTF8CHAR,
    name_len: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        if name_len != 0 {
            return Err(CKR_ARGUMENTS_BAD);
        }
        // SAFETY: the client's word.
        module.login(session, user, unsafe { memory::pin(pin, pin_len) }?)
    })
}

/// `C_Logout`.
#[unsafe(export_name = "C_Logout")]
pub(super) unsafe extern "C" fn logout(session: CK_SESSION_HANDLE) -> CK_RV {
    with_module(|module| module.session(session)?.1.logout())
}

/// `C_SessionCancel` of PKCS#11 3.0.
#[unsafe(export_name = "C_SessionCancel")]
pub(super) unsafe extern "C" fn session_cancel(
    session: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
) -> CK_RV {
    with_module(|module| module.cancel(session, flags))
}
