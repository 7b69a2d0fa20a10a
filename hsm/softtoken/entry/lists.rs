//! The lists of functions, and the three functions that a client finds by name.

use cryptoki_sys::*;

use super::{crypto, general, guard, keys, memory, objects, sessions, slots, unsupported};

/// PKCS#11 3.0, of which 2.40 is the beginning. Messages are not supported.
static LIST_3_0: CK_FUNCTION_LIST_3_0 = CK_FUNCTION_LIST_3_0 {
    version: CK_VERSION { major: 3, minor: 0 },
    C_Initialize: Some(general::initialize),
    C_Finalize: Some(general::finalize),
    C_GetInfo: Some(general::get_info),
    C_GetFunctionList: Some(get_function_list),
    C_GetSlotList: Some(slots::get_slot_list),
    C_GetSlotInfo: Some(slots::get_slot_info),
    C_GetTokenInfo: Some(slots::get_token_info),
    C_GetMechanismList: Some(slots::get_mechanism_list),
    C_GetMechanismInfo: Some(slots::get_mechanism_info),
    C_InitToken: Some(slots::init_token),
    C_InitPIN: Some(slots::init_pin),
    C_SetPIN: Some(slots::set_pin),
    C_OpenSession: Some(sessions::open_session),
    C_CloseSession: Some(sessions::close_session),
    C_CloseAllSessions: Some(sessions::close_all_sessions),
    C_GetSessionInfo: Some(sessions::get_session_info),
    C_GetOperationState: Some(unsupported::with_3),
    C_SetOperationState: Some(unsupported::with_5),
    C_Login: Some(sessions::login),
    C_Logout: Some(sessions::logout),
    C_CreateObject: Some(objects::create_object),
    C_CopyObject: Some(objects::copy_object),
    C_DestroyObject: Some(objects::destroy_object),
    C_GetObjectSize: Some(objects::get_object_size),
    C_GetAttributeValue: Some(objects::get_attribute_value),
    C_SetAttributeValue: Some(objects::set_attribute_value),
    C_FindObjectsInit: Some(objects::find_objects_init),
    C_FindObjects: Some(objects::find_objects),
    C_FindObjectsFinal: Some(objects::find_objects_final),
    C_EncryptInit: Some(crypto::encrypt_init),
    C_Encrypt: Some(crypto::encrypt),
    C_EncryptUpdate: Some(crypto::encrypt_update),
    C_EncryptFinal: Some(crypto::encrypt_final),
    C_DecryptInit: Some(crypto::decrypt_init),
    C_Decrypt: Some(crypto::decrypt),
    C_DecryptUpdate: Some(crypto::decrypt_update),
    C_DecryptFinal: Some(crypto::decrypt_final),
    C_DigestInit: Some(crypto::digest_init),
    C_Digest: Some(crypto::digest),
    C_DigestUpdate: Some(crypto::digest_update),
    C_DigestKey: Some(crypto::digest_key),
    C_DigestFinal: Some(crypto::digest_final),
    C_SignInit: Some(crypto::sign_init),
    C_Sign: Some(crypto::sign),
    C_SignUpdate: Some(crypto::sign_update),
    C_SignFinal: Some(crypto::sign_final),
    C_SignRecoverInit: Some(unsupported::with_3),
    C_SignRecover: Some(unsupported::with_5),
    C_VerifyInit: Some(crypto::verify_init),
    C_Verify: Some(crypto::verify),
    C_VerifyUpdate: Some(crypto::verify_update),
    C_VerifyFinal: Some(crypto::verify_final),
    C_VerifyRecoverInit: Some(unsupported::with_3),
    C_VerifyRecover: Some(unsupported::with_5),
    C_DigestEncryptUpdate: Some(unsupported::with_5),
    C_DecryptDigestUpdate: Some(unsupported::with_5),
    C_SignEncryptUpdate: Some(unsupported::with_5),
    C_DecryptVerifyUpdate: Some(unsupported::with_5),
    C_GenerateKey: Some(keys::generate_key),
    C_GenerateKeyPair: Some(keys::generate_key_pair),
    C_WrapKey: Some(keys::wrap_key),
    C_UnwrapKey: Some(keys::unwrap_key),
    C_DeriveKey: Some(unsupported::with_6),
    C_SeedRandom: Some(keys::seed_random),
    C_GenerateRandom: Some(keys::generate_random),
    C_GetFunctionStatus: Some(general::not_parallel),
    C_CancelFunction: Some(general::not_parallel),
    C_WaitForSlotEvent: Some(slots::wait_for_slot_event),
    C_GetInterfaceList: Some(get_interface_list),
    C_GetInterface: Some(get_interface),
    C_LoginUser: Some(sessions::login_user),
    C_SessionCancel: Some(sessions::session_cancel),
    C_MessageEncryptInit: Some(unsupported::with_3),
    C_EncryptMessage: Some(unsupported::with_9),
    C_EncryptMessageBegin: Some(unsupported::with_5),
    C_EncryptMessageNext: Some(unsupported::with_8),
    C_MessageEncryptFinal: Some(unsupported::with_1),
    C_MessageDecryptInit: Some(unsupported::with_3),
    C_DecryptMessage: Some(unsupported::with_9),
    C_DecryptMessageBegin: Some(unsupported::with_5),
    C_DecryptMessageNext: Some(unsupported::with_8),
    C_MessageDecryptFinal: Some(unsupported::with_1),
    C_MessageSignInit: Some(unsupported::with_3),
    C_SignMessage: Some(unsupported::with_7),
    C_SignMessageBegin: Some(unsupported::with_3),
    C_SignMessageNext: Some(unsupported::with_7),
    C_MessageSignFinal: Some(unsupported::with_1),
    C_MessageVerifyInit: Some(unsupported::with_3),
    C_VerifyMessage: Some(unsupported::with_7),
    C_VerifyMessageBegin: Some(unsupported::with_3),
    C_VerifyMessageNext: Some(unsupported::with_7),
    C_MessageVerifyFinal: Some(unsupported::with_1),
};

/// PKCS#11 2.40.
static LIST: CK_FUNCTION_LIST = {
    const {
        let size_2_40 = size_of::<CK_FUNCTION_LIST>();
        let added_first = std::mem::offset_of!(CK_FUNCTION_LIST_3_0, C_GetInterfaceList);
        let last = std::mem::offset_of!(CK_FUNCTION_LIST, C_WaitForSlotEvent);
        let last_3_0 = std::mem::offset_of!(CK_FUNCTION_LIST_3_0, C_WaitForSlotEvent);
        assert!(size_2_40 == added_first && last == last_3_0, "3.0 adds functions at the end");
    }
    // SAFETY: as PKCS#11 3.0 has it and is asserted above, the one list begins with the other.
    let mut list = unsafe { (&raw const LIST_3_0).cast::<CK_FUNCTION_LIST>().read() };
    list.version = CK_VERSION { major: 2, minor: 40 };
    list
};

/// The name of both interfaces, ended with a zero.
const NAME: &[u8] = b"PKCS 11\0";

/// An interface, which only has pointers to what never changes.
struct Interface(CK_INTERFACE);

// SAFETY: name and list are constants that nobody writes to.
unsafe impl Sync for Interface {}

/// The first is the default.
static INTERFACES: [Interface; 2] = [
    Interface(CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut(),
        pFunctionList: (&raw const LIST_3_0).cast_mut().cast(),
        flags: 0,
    }),
    Interface(CK_INTERFACE {
        pInterfaceName: NAME.as_ptr().cast_mut(),
        pFunctionList: (&raw const LIST).cast_mut().cast(),
        flags: 0,
    }),
];
/// Which version each of them has.
const VERSIONS: [(u8, u8); 2] = [(3, 0), (2, 40)];

/// `C_GetFunctionList`.
// SAFETY: nothing else of this process's own code has this name.
#[unsafe(export_name = "C_GetFunctionList")]
pub(super) unsafe extern "C" fn get_function_list(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    guard(|| {
        // SAFETY: the client's word.
        unsafe { memory::write(list, (&raw const LIST).cast_mut()) }
    })
}

/// `C_GetInterfaceList` of PKCS#11 3.0.
// SAFETY: as above.
#[unsafe(export_name = "C_GetInterfaceList")]
pub(super) unsafe extern "C" fn get_interface_list(
    list: *mut CK_INTERFACE,
    count: *mut CK_ULONG,
) -> CK_RV {
    guard(|| {
        let interfaces: Vec<_> = INTERFACES.iter().map(|interface| interface.0).collect();
        // SAFETY: the client's word.
        unsafe { memory::write_list(list, count, &interfaces) }
    })
}

/// `C_GetInterface` of PKCS#11 3.0.
// SAFETY: as above.
#[unsafe(export_name = "C_GetInterface")]
pub(super) unsafe extern "C" fn get_interface(
    name: *mut CK_UTF8CHAR,
    version: *mut CK_VERSION,
    interface: *mut *mut CK_INTERFACE,
    flags: CK_FLAGS,
) -> CK_RV {
    guard(|| {
        memory::check(interface)?;
        let wanted = if version.is_null() {
            None
        } else {
            // SAFETY: the client's word.
            let version = unsafe { memory::read(version) }?;
            Some((version.major, version.minor))
        };
        // SAFETY: the client's word: NULL, or a text that ends with a zero.
        let is_ours = name.is_null() || unsafe { is_our_name(name) };
        let fits = |found: &(u8, u8)| wanted.is_none_or(|wanted| wanted == *found);
        let place = VERSIONS.iter().position(fits).filter(|_| is_ours && flags == 0);
        let found = &INTERFACES[place.ok_or(CKR_FUNCTION_FAILED)?];
        // SAFETY: the client's word.
        unsafe { memory::write(interface, (&raw const found.0).cast_mut()) }
    })
}

/// Compares byte by byte, and never reads beyond the zero that ends the text.
///
/// # Safety
/// The client's word: a text that ends with a zero.
unsafe fn is_our_name(name: *const u8) -> bool {
    NAME.iter().enumerate().all(|(place, byte)| {
        // SAFETY: all bytes before were those of our name, so that none of them was the end.
        let found = unsafe { name.wrapping_add(place).read() };
        found == *byte
    })
}
