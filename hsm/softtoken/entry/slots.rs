//! Slots and tokens (PKCS#11 2.40 5.5).

use std::os::raw::c_void;

use cryptoki_sys::*;

use super::{memory, with_module};
use crate::faults::sleep_micros;
use crate::mechanisms;

/// Between two looks for an event.
const EVENT_WAIT_MICROS: u64 = 10_000;

/// `C_GetSlotList`.
#[unsafe(export_name = "C_GetSlotList")]
pub(super) unsafe extern "C" fn get_slot_list(
    with_token: CK_BBOOL,
    list: *mut CK_SLOT_ID,
    count: *mut CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        let ids = module.slot_ids(with_token != CK_FALSE);
        // SAFETY: the client's word.
        unsafe { memory::write_list(list, count, &ids) }
    })
}

/// `C_GetSlotInfo`.
#[unsafe(export_name = "C_GetSlotInfo")]
pub(super) unsafe extern "C" fn get_slot_info(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> CK_RV {
    with_module(|module| {
        memory::check(info)?;
        // SAFETY: the client's word.
        unsafe { memory::write(info, module.slot_info(slot)?) }
    })
}

/// `C_GetTokenInfo`.
#[unsafe(export_name = "C_GetTokenInfo")]
pub(super) unsafe extern "C" fn get_token_info(
    slot: CK_SLOT_ID,
    info: *mut CK_TOKEN_INFO,
) -> CK_RV {
    with_module(|module| {
        memory::check(info)?;
        // SAFETY: the client's word.
        unsafe { memory::write(info, module.slot(slot)?.token_info()?) }
    })
}

/// `C_GetMechanismList`.
#[unsafe(export_name = "C_GetMechanismList")]
pub(super) unsafe extern "C" fn get_mechanism_list(
    slot: CK_SLOT_ID,
    list: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        memory::check(count)?;
        module.slot(slot)?.check_presence(CKR_TOKEN_NOT_PRESENT)?;
        let codes: Vec<_> = module.dialect().all_codes().map(|(code, _)| *code).collect();
        // SAFETY: the client's word.
        unsafe { memory::write_list(list, count, &codes) }
    })
}

/// `C_GetMechanismInfo`.
#[unsafe(export_name = "C_GetMechanismInfo")]
pub(super) unsafe extern "C" fn get_mechanism_info(
    slot: CK_SLOT_ID,
    code: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    with_module(|module| {
        memory::check(info)?;
        module.slot(slot)?.check_presence(CKR_TOKEN_NOT_PRESENT)?;
        // SAFETY: the client's word.
        unsafe { memory::write(info, mechanisms::info(module.algorithm(code)?)) }
    })
}

/// `C_InitToken`.
#[unsafe(export_name = "C_InitToken")]
pub(super) unsafe extern "C" fn init_token(
    slot: CK_SLOT_ID,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
    label: *mut CK_UTF8CHAR,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let pin = unsafe { memory::pin(pin, pin_len) }?;
        // SAFETY: the client's word: a label has 32 bytes.
        let label = unsafe { memory::bytes(label, 32) }?;
        let label = label.try_into().map_err(|_| CKR_ARGUMENTS_BAD)?;
        module.slot(slot)?.init_token(pin, label)
    })
}

/// `C_InitPIN`.
#[unsafe(export_name = "C_InitPIN")]
pub(super) unsafe extern "C" fn init_pin(
    session: CK_SESSION_HANDLE,
    pin: *mut CK_UTF8CHAR,
    pin_len: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        let (_session, slot) = module.session(session)?;
        // SAFETY: the client's word.
        slot.init_pin(unsafe { memory::pin(pin, pin_len) }?)
    })
}

/// `C_SetPIN`.
#[unsafe(export_name = "C_SetPIN")]
pub(super) unsafe extern "C" fn set_pin(
    session: CK_SESSION_HANDLE,
    old: *mut CK_UTF8CHAR,
    old_len: CK_ULONG,
    new: *mut CK_UTF8CHAR,
    new_len: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        let (session, slot) = module.session(session)?;
        // SAFETY: the client's word.
        let old = unsafe { memory::pin(old, old_len) }?;
        // SAFETY: the client's word.
        let new = unsafe { memory::pin(new, new_len) }?;
        slot.set_pin(&session, old, new)
    })
}

/// `C_WaitForSlotEvent`.
#[unsafe(export_name = "C_WaitForSlotEvent")]
pub(super) unsafe extern "C" fn wait_for_slot_event(
    flags: CK_FLAGS,
    slot: *mut CK_SLOT_ID,
    reserved: *mut c_void,
) -> CK_RV {
    with_module(|module| {
        memory::check(slot)?;
        if !reserved.is_null() {
            return Err(CKR_ARGUMENTS_BAD);
        }
        let life = module.lives();
        loop {
            if let Some(changed) = module.slot_event() {
                // SAFETY: the client's word.
                return unsafe { memory::write(slot, changed) };
            }
            if flags & CKF_DONT_BLOCK != 0 {
                return Err(CKR_NO_EVENT);
            }
            // Another thread may finalise while this one waits.
            if module.lives() != life {
                return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
            }
            sleep_micros(EVENT_WAIT_MICROS);
        }
    })
}
