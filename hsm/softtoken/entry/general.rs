//! Initialising, finalising, and what the library says of itself (PKCS#11 2.40 5.4).

use std::os::raw::c_void;

use cryptoki_sys::*;

use super::{guard, memory, running, start, stop, with_module};
use crate::answer::Answer;
use crate::config::{Config, complain};

/// Locks come from the operating system only: a client that forbids it cannot be served.
fn check_arguments(arguments: &CK_C_INITIALIZE_ARGS) -> Answer<()> {
    if !arguments.pReserved.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let given = [
        arguments.CreateMutex.is_some(),
        arguments.DestroyMutex.is_some(),
        arguments.LockMutex.is_some(),
        arguments.UnlockMutex.is_some(),
    ];
    let (any, all) = (given.contains(&true), !given.contains(&false));
    if any && !all {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let system = arguments.flags & CKF_OS_LOCKING_OK != 0;
    if any && !system { Err(CKR_CANT_LOCK) } else { Ok(()) }
}

/// Whether the process runs with other rights than whoever started it, as a set-user-ID program
/// does: its environment is not its own, and a file named there is not read for him.
fn is_privileged() -> bool {
    // SAFETY: tells one of the values that the kernel handed over at start; takes no pointer.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// `C_Initialize`.
#[unsafe(export_name = "C_Initialize")]
pub(super) unsafe extern "C" fn initialize(arguments: *mut c_void) -> CK_RV {
    guard(|| {
        if !arguments.is_null() {
            // SAFETY: the client's word.
            let arguments = unsafe { memory::read(arguments.cast::<CK_C_INITIALIZE_ARGS>()) }?;
            check_arguments(&arguments)?;
        }
        if running(&super::CURRENT).is_some() {
            return Err(CKR_CRYPTOKI_ALREADY_INITIALIZED);
        }
        if is_privileged() {
            complain("a program with more rights than its caller takes no file from him");
            return Err(CKR_GENERAL_ERROR);
        }
        let config = Config::from_environment().map_err(|error| {
            // Said in any case: without a configuration nobody can have asked for silence.
            complain(&error.to_string());
            CKR_GENERAL_ERROR
        })?;
        start(config)
    })
}

/// `C_Finalize`.
#[unsafe(export_name = "C_Finalize")]
pub(super) unsafe extern "C" fn finalize(reserved: *mut c_void) -> CK_RV {
    guard(|| if reserved.is_null() { stop() } else { Err(CKR_ARGUMENTS_BAD) })
}

/// `C_GetInfo`.
#[unsafe(export_name = "C_GetInfo")]
pub(super) unsafe extern "C" fn get_info(info: *mut CK_INFO) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        unsafe { memory::write(info, module.info()) }
    })
}

/// `C_GetFunctionStatus` and `C_CancelFunction`, which are of the past (PKCS#11 2.40 5.15).
pub(super) unsafe extern "C" fn not_parallel(_session: CK_SESSION_HANDLE) -> CK_RV {
    with_module(|_| Err(CKR_FUNCTION_NOT_PARALLEL))
}
