//! The C interface as a client sees it: through its list of functions.

use std::os::raw::c_void;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;
use crate::answer::ulong;
use crate::imitations::native;

/// Calls a function of the list.
macro_rules! call {
    ($function:ident $(, $argument:expr)* $(,)?) => {{
        let function = list().$function.unwrap();
        // SAFETY: the arguments of the tests are NULL, or as PKCS#11 wants them.
        unsafe { function($($argument),*) }
    }};
}

mod border;
mod monkey;
mod stress;

fn list() -> &'static CK_FUNCTION_LIST {
    let mut list = null_mut();
    // SAFETY: the list is ours to write to.
    let found = unsafe { lists::get_function_list(&raw mut list) };
    assert_eq!(found, CKR_OK);
    // SAFETY: the module's own list, which stays.
    unsafe { list.as_ref() }.unwrap()
}

/// The one module of a process, for one test at a time.
struct Client {
    session: CK_SESSION_HANDLE,
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

fn config(folder: &tempfile::TempDir) -> Config {
    let mut config = Config::new(folder.path());
    config.pin_rounds = 1_000;
    config
}

impl Client {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        start(config(&folder)).unwrap();
        let (mut so_pin, mut pin, mut label) = (*b"12345678", *b"1234", [b' '; 32]);
        let (so, user) = (so_pin.as_mut_ptr(), pin.as_mut_ptr());
        assert_eq!(call!(C_InitToken, 0, so, 8, label.as_mut_ptr()), CKR_OK);
        let client = Self { session: open(CKF_RW_SESSION), folder, _alone: alone };
        assert_eq!(call!(C_Login, client.session, CKU_SO, so, 8), CKR_OK);
        assert_eq!(call!(C_InitPIN, client.session, user, 4), CKR_OK);
        assert_eq!(call!(C_Logout, client.session), CKR_OK);
        assert_eq!(call!(C_Login, client.session, CKU_USER, user, 4), CKR_OK);
        client
    }

    fn pair(&self) -> [CK_OBJECT_HANDLE; 2] {
        let mut yes = CK_TRUE;
        let mut flag = |type_| CK_ATTRIBUTE { type_, pValue: (&raw mut yes).cast(), ulValueLen: 1 };
        let (mut public, mut private) = ([flag(CKA_VERIFY)], [flag(CKA_SIGN)]);
        let mut mechanism = plain(native::SM2_KEY_PAIR_GEN);
        let mut keys = [0; 2];
        let answer = call!(
            C_GenerateKeyPair,
            self.session,
            &raw mut mechanism,
            public.as_mut_ptr(),
            1,
            private.as_mut_ptr(),
            1,
            &raw mut keys[0],
            &raw mut keys[1],
        );
        assert_eq!(answer, CKR_OK);
        keys
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A test may have finalised.
        stop().unwrap_or(());
    }
}

fn open(flags: CK_FLAGS) -> CK_SESSION_HANDLE {
    let mut session = 0;
    let flags = CKF_SERIAL_SESSION | flags;
    assert_eq!(call!(C_OpenSession, 0, flags, null_mut(), None, &raw mut session), CKR_OK);
    session
}

const fn plain(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: null_mut(), ulParameterLen: 0 }
}

/// Every call gave what it should.
fn check(rows: &[(&str, CK_RV)], wanted: CK_RV) {
    for (name, found) in rows {
        assert_eq!(*found, wanted, "{name} gave {found:#x}, not {wanted:#x}");
    }
}

#[test]
fn nothing_works_before_initialisation() {
    let client = Client::new();
    assert_eq!(call!(C_Finalize, null_mut()), CKR_OK);
    let session = client.session;
    let (mut number, mut bytes) = (0, [0; 64]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let m: *mut CK_MECHANISM = &mut plain(native::SM2);
    let rows = [
        ("C_Finalize", call!(C_Finalize, null_mut())),
        ("C_GetInfo", call!(C_GetInfo, null_mut())),
        ("C_GetSlotList", call!(C_GetSlotList, 0, null_mut(), n)),
        ("C_GetSlotInfo", call!(C_GetSlotInfo, 0, null_mut())),
        ("C_GetTokenInfo", call!(C_GetTokenInfo, 0, null_mut())),
        ("C_GetMechanismList", call!(C_GetMechanismList, 0, null_mut(), n)),
        ("C_GetMechanismInfo", call!(C_GetMechanismInfo, 0, 0, null_mut())),
        ("C_InitToken", call!(C_InitToken, 0, b, 4, b)),
        ("C_InitPIN", call!(C_InitPIN, session, b, 4)),
        ("C_SetPIN", call!(C_SetPIN, session, b, 4, b, 4)),
        ("C_OpenSession", call!(C_OpenSession, 0, 4, null_mut(), None, n)),
        ("C_CloseSession", call!(C_CloseSession, session)),
        ("C_CloseAllSessions", call!(C_CloseAllSessions, 0)),
        ("C_GetSessionInfo", call!(C_GetSessionInfo, session, null_mut())),
        ("C_Login", call!(C_Login, session, CKU_USER, b, 4)),
        ("C_Logout", call!(C_Logout, session)),
        ("C_CreateObject", call!(C_CreateObject, session, null_mut(), 0, n)),
        ("C_CopyObject", call!(C_CopyObject, session, 1, null_mut(), 0, n)),
        ("C_DestroyObject", call!(C_DestroyObject, session, 1)),
        ("C_GetObjectSize", call!(C_GetObjectSize, session, 1, n)),
        ("C_GetAttributeValue", call!(C_GetAttributeValue, session, 1, null_mut(), 0)),
        ("C_SetAttributeValue", call!(C_SetAttributeValue, session, 1, null_mut(), 0)),
        ("C_FindObjectsInit", call!(C_FindObjectsInit, session, null_mut(), 0)),
        ("C_FindObjects", call!(C_FindObjects, session, n, 1, n)),
        ("C_FindObjectsFinal", call!(C_FindObjectsFinal, session)),
        ("C_EncryptInit", call!(C_EncryptInit, session, m, 1)),
        ("C_Encrypt", call!(C_Encrypt, session, b, 1, b, n)),
        ("C_DecryptInit", call!(C_DecryptInit, session, m, 1)),
        ("C_DigestInit", call!(C_DigestInit, session, m)),
        ("C_Digest", call!(C_Digest, session, b, 1, b, n)),
        ("C_SignInit", call!(C_SignInit, session, m, 1)),
        ("C_Sign", call!(C_Sign, session, b, 1, b, n)),
        ("C_VerifyInit", call!(C_VerifyInit, session, m, 1)),
        ("C_Verify", call!(C_Verify, session, b, 1, b, 1)),
        ("C_GenerateKey", call!(C_GenerateKey, session, m, null_mut(), 0, n)),
        ("C_WrapKey", call!(C_WrapKey, session, m, 1, 1, b, n)),
        ("C_UnwrapKey", call!(C_UnwrapKey, session, m, 1, b, 1, null_mut(), 0, n)),
        ("C_SeedRandom", call!(C_SeedRandom, session, b, 1)),
        ("C_GenerateRandom", call!(C_GenerateRandom, session, b, 1)),
        ("C_GetFunctionStatus", call!(C_GetFunctionStatus, session)),
        ("C_WaitForSlotEvent", call!(C_WaitForSlotEvent, CKF_DONT_BLOCK, n, null_mut())),
    ];
    check(&rows, CKR_CRYPTOKI_NOT_INITIALIZED);
}

#[test]
fn null_pointers_are_refused() {
    let client = Client::new();
    let s = client.session;
    let [public, _] = client.pair();
    let (mut number, mut bytes) = (64, [0; 64]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let (no, none) = (null_mut(), null_mut());
    let rows = [
        ("C_GetInfo", call!(C_GetInfo, null_mut())),
        ("C_GetSlotList", call!(C_GetSlotList, 0, null_mut(), none)),
        ("C_GetSlotInfo", call!(C_GetSlotInfo, 0, null_mut())),
        ("C_GetTokenInfo", call!(C_GetTokenInfo, 0, null_mut())),
        ("C_GetMechanismList", call!(C_GetMechanismList, 0, null_mut(), none)),
        ("C_GetMechanismInfo", call!(C_GetMechanismInfo, 0, native::SM2, null_mut())),
        ("C_InitToken pin", call!(C_InitToken, 0, no, 8, b)),
        ("C_InitToken label", call!(C_InitToken, 0, b, 8, no)),
        ("C_InitPIN", call!(C_InitPIN, s, no, 4)),
        ("C_SetPIN old", call!(C_SetPIN, s, no, 4, b, 4)),
        ("C_SetPIN new", call!(C_SetPIN, s, b, 4, no, 4)),
        ("C_OpenSession", call!(C_OpenSession, 0, 4, null_mut(), None, none)),
        ("C_GetSessionInfo", call!(C_GetSessionInfo, s, null_mut())),
        ("C_Login", call!(C_Login, s, CKU_USER, no, 4)),
        ("C_CreateObject template", call!(C_CreateObject, s, null_mut(), 1, n)),
        ("C_CreateObject handle", call!(C_CreateObject, s, null_mut(), 0, none)),
        ("C_CopyObject template", call!(C_CopyObject, s, public, null_mut(), 1, n)),
        ("C_CopyObject handle", call!(C_CopyObject, s, public, null_mut(), 0, none)),
        ("C_GetObjectSize", call!(C_GetObjectSize, s, public, none)),
        ("C_GetAttributeValue", call!(C_GetAttributeValue, s, public, null_mut(), 1)),
        ("C_SetAttributeValue", call!(C_SetAttributeValue, s, public, null_mut(), 1)),
        ("C_FindObjectsInit", call!(C_FindObjectsInit, s, null_mut(), 1)),
        ("C_FindObjects handles", call!(C_FindObjects, s, none, 1, n)),
        ("C_FindObjects count", call!(C_FindObjects, s, n, 1, none)),
    ];
    check(&rows, CKR_ARGUMENTS_BAD);
}

#[test]
fn null_pointers_are_refused_by_operations() {
    let client = Client::new();
    let s = client.session;
    let [public, private] = client.pair();
    let (mut number, mut bytes) = (64, [0; 64]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let (no, none) = (null_mut(), null_mut());
    let rows = [
        ("C_EncryptInit", call!(C_EncryptInit, s, null_mut(), public)),
        ("C_Encrypt data", call!(C_Encrypt, s, no, 1, b, n)),
        ("C_Encrypt length", call!(C_Encrypt, s, b, 1, b, none)),
        ("C_EncryptUpdate data", call!(C_EncryptUpdate, s, no, 1, b, n)),
        ("C_EncryptUpdate length", call!(C_EncryptUpdate, s, b, 1, b, none)),
        ("C_EncryptFinal", call!(C_EncryptFinal, s, b, none)),
        ("C_DecryptInit", call!(C_DecryptInit, s, null_mut(), private)),
        ("C_Decrypt data", call!(C_Decrypt, s, no, 1, b, n)),
        ("C_Decrypt length", call!(C_Decrypt, s, b, 1, b, none)),
        ("C_DecryptUpdate data", call!(C_DecryptUpdate, s, no, 1, b, n)),
        ("C_DecryptUpdate length", call!(C_DecryptUpdate, s, b, 1, b, none)),
        ("C_DecryptFinal", call!(C_DecryptFinal, s, b, none)),
        ("C_DigestInit", call!(C_DigestInit, s, null_mut())),
        ("C_Digest data", call!(C_Digest, s, no, 1, b, n)),
        ("C_Digest length", call!(C_Digest, s, b, 1, b, none)),
        ("C_DigestUpdate", call!(C_DigestUpdate, s, no, 1)),
        ("C_DigestFinal", call!(C_DigestFinal, s, b, none)),
        ("C_SignInit", call!(C_SignInit, s, null_mut(), private)),
        ("C_Sign data", call!(C_Sign, s, no, 1, b, n)),
        ("C_Sign length", call!(C_Sign, s, b, 1, b, none)),
        ("C_SignUpdate", call!(C_SignUpdate, s, no, 1)),
        ("C_SignFinal", call!(C_SignFinal, s, b, none)),
        ("C_VerifyInit", call!(C_VerifyInit, s, null_mut(), public)),
        ("C_Verify data", call!(C_Verify, s, no, 1, b, 64)),
        ("C_Verify signature", call!(C_Verify, s, b, 1, no, 64)),
        ("C_VerifyUpdate", call!(C_VerifyUpdate, s, no, 1)),
        ("C_VerifyFinal", call!(C_VerifyFinal, s, no, 64)),
    ];
    check(&rows, CKR_ARGUMENTS_BAD);
}

#[test]
fn null_pointers_are_refused_where_keys_are_made() {
    let client = Client::new();
    let s = client.session;
    let (mut number, mut bytes) = (64, [0; 64]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let m: *mut CK_MECHANISM = &mut plain(native::SM2);
    let (no, none) = (null_mut(), null_mut());
    let aes: *mut CK_MECHANISM = &mut plain(CKM_AES_KEY_WRAP);
    let rows = [
        ("C_GenerateKey mechanism", call!(C_GenerateKey, s, null_mut(), null_mut(), 0, n)),
        ("C_GenerateKey template", call!(C_GenerateKey, s, m, null_mut(), 1, n)),
        ("C_GenerateKey handle", call!(C_GenerateKey, s, m, null_mut(), 0, none)),
        ("C_WrapKey mechanism", call!(C_WrapKey, s, null_mut(), 1, 1, b, n)),
        ("C_WrapKey length", call!(C_WrapKey, s, aes, 1, 1, b, none)),
        ("C_UnwrapKey data", call!(C_UnwrapKey, s, aes, 1, no, 1, null_mut(), 0, n)),
        ("C_UnwrapKey template", call!(C_UnwrapKey, s, aes, 1, b, 1, null_mut(), 1, n)),
        ("C_UnwrapKey handle", call!(C_UnwrapKey, s, aes, 1, b, 1, null_mut(), 0, none)),
        ("C_SeedRandom", call!(C_SeedRandom, s, no, 1)),
        ("C_GenerateRandom", call!(C_GenerateRandom, s, no, 1)),
        ("C_WaitForSlotEvent", call!(C_WaitForSlotEvent, CKF_DONT_BLOCK, none, null_mut())),
        ("C_Finalize", call!(C_Finalize, n.cast())),
    ];
    check(&rows, CKR_ARGUMENTS_BAD);
    let half = call!(
        C_GenerateKeyPair,
        s,
        &mut plain(native::SM2_KEY_PAIR_GEN),
        null_mut(),
        0,
        null_mut(),
        0,
        n,
        none,
    );
    assert_eq!(half, CKR_ARGUMENTS_BAD);
}

#[test]
fn unknown_sessions_are_refused() {
    let _client = Client::new();
    let (mut number, mut bytes) = (64, [0; 64]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let m: *mut CK_MECHANISM = &mut plain(native::SM2);
    let mut info = CK_SESSION_INFO { slotID: 0, state: 0, flags: 0, ulDeviceError: 0 };
    let s = 999_999;
    let rows = [
        ("C_CloseSession", call!(C_CloseSession, s)),
        ("C_GetSessionInfo", call!(C_GetSessionInfo, s, &raw mut info)),
        ("C_InitPIN", call!(C_InitPIN, s, b, 4)),
        ("C_SetPIN", call!(C_SetPIN, s, b, 4, b, 4)),
        ("C_Login", call!(C_Login, s, CKU_USER, b, 4)),
        ("C_Logout", call!(C_Logout, s)),
        ("C_CreateObject", call!(C_CreateObject, s, null_mut(), 0, n)),
        ("C_CopyObject", call!(C_CopyObject, s, 1, null_mut(), 0, n)),
        ("C_DestroyObject", call!(C_DestroyObject, s, 1)),
        ("C_GetObjectSize", call!(C_GetObjectSize, s, 1, n)),
        ("C_GetAttributeValue", call!(C_GetAttributeValue, s, 1, null_mut(), 0)),
        ("C_SetAttributeValue", call!(C_SetAttributeValue, s, 1, null_mut(), 0)),
        ("C_FindObjectsInit", call!(C_FindObjectsInit, s, null_mut(), 0)),
        ("C_FindObjects", call!(C_FindObjects, s, n, 1, n)),
        ("C_FindObjectsFinal", call!(C_FindObjectsFinal, s)),
        ("C_EncryptInit", call!(C_EncryptInit, s, m, 1)),
        ("C_Encrypt", call!(C_Encrypt, s, b, 1, b, n)),
        ("C_EncryptUpdate", call!(C_EncryptUpdate, s, b, 1, b, n)),
        ("C_EncryptFinal", call!(C_EncryptFinal, s, b, n)),
        ("C_DecryptInit", call!(C_DecryptInit, s, m, 1)),
        ("C_Decrypt", call!(C_Decrypt, s, b, 1, b, n)),
        ("C_DecryptUpdate", call!(C_DecryptUpdate, s, b, 1, b, n)),
        ("C_DecryptFinal", call!(C_DecryptFinal, s, b, n)),
        ("C_DigestInit", call!(C_DigestInit, s, &mut plain(native::SM3))),
        ("C_Digest", call!(C_Digest, s, b, 1, b, n)),
        ("C_DigestUpdate", call!(C_DigestUpdate, s, b, 1)),
        ("C_DigestKey", call!(C_DigestKey, s, 1)),
        ("C_DigestFinal", call!(C_DigestFinal, s, b, n)),
        ("C_SignInit", call!(C_SignInit, s, m, 1)),
        ("C_Sign", call!(C_Sign, s, b, 1, b, n)),
        ("C_SignUpdate", call!(C_SignUpdate, s, b, 1)),
        ("C_SignFinal", call!(C_SignFinal, s, b, n)),
        ("C_VerifyInit", call!(C_VerifyInit, s, m, 1)),
        ("C_Verify", call!(C_Verify, s, b, 1, b, 64)),
        ("C_VerifyUpdate", call!(C_VerifyUpdate, s, b, 1)),
        ("C_VerifyFinal", call!(C_VerifyFinal, s, b, 64)),
        ("C_GenerateKey", call!(C_GenerateKey, s, m, null_mut(), 0, n)),
        ("C_WrapKey", call!(C_WrapKey, s, m, 1, 1, b, n)),
        ("C_UnwrapKey", call!(C_UnwrapKey, s, m, 1, b, 1, null_mut(), 0, n)),
        ("C_SeedRandom", call!(C_SeedRandom, s, b, 1)),
        ("C_GenerateRandom", call!(C_GenerateRandom, s, b, 1)),
    ];
    check(&rows, CKR_SESSION_HANDLE_INVALID);
}

#[test]
fn unknown_objects_and_slots_are_refused() {
    let client = Client::new();
    let (mut number, mut bytes) = (64, [0; 64]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let m: *mut CK_MECHANISM = &mut plain(native::SM2);
    let s = client.session;
    let rows = [
        ("C_CopyObject", call!(C_CopyObject, s, 999, null_mut(), 0, n)),
        ("C_DestroyObject", call!(C_DestroyObject, s, 999)),
        ("C_GetObjectSize", call!(C_GetObjectSize, s, 999, n)),
        ("C_GetAttributeValue", call!(C_GetAttributeValue, s, 999, null_mut(), 0)),
        ("C_SetAttributeValue", call!(C_SetAttributeValue, s, 999, null_mut(), 0)),
    ];
    check(&rows, CKR_OBJECT_HANDLE_INVALID);
    let rows = [
        ("C_SignInit", call!(C_SignInit, s, m, 999)),
        ("C_VerifyInit", call!(C_VerifyInit, s, m, 999)),
        ("C_EncryptInit", call!(C_EncryptInit, s, &mut plain(native::SM2_ENCRYPT), 999)),
        ("C_DecryptInit", call!(C_DecryptInit, s, &mut plain(native::SM2_ENCRYPT), 999)),
    ];
    check(&rows, CKR_KEY_HANDLE_INVALID);
    let mut slot = CK_MECHANISM_INFO { ulMinKeySize: 0, ulMaxKeySize: 0, flags: 0 };
    let rows = [
        ("C_GetMechanismList", call!(C_GetMechanismList, 1, null_mut(), n)),
        ("C_GetMechanismInfo", call!(C_GetMechanismInfo, 1, native::SM2, &raw mut slot)),
        ("C_OpenSession", call!(C_OpenSession, 1, 4, null_mut(), None, n)),
        ("C_CloseAllSessions", call!(C_CloseAllSessions, 1)),
        ("C_InitToken", call!(C_InitToken, 1, b, 4, b)),
    ];
    check(&rows, CKR_SLOT_ID_INVALID);
}

#[test]
fn operations_must_be_begun() {
    let client = Client::new();
    let s = client.session;
    let (mut number, mut bytes) = (64, [0; 64]);
    let (n, b) = (&raw mut number, bytes.as_mut_ptr());
    let rows = [
        ("C_FindObjects", call!(C_FindObjects, s, n, 1, n)),
        ("C_FindObjectsFinal", call!(C_FindObjectsFinal, s)),
        ("C_Encrypt", call!(C_Encrypt, s, b, 1, b, n)),
        ("C_EncryptUpdate", call!(C_EncryptUpdate, s, b, 1, b, n)),
        ("C_EncryptFinal", call!(C_EncryptFinal, s, b, n)),
        ("C_Decrypt", call!(C_Decrypt, s, b, 1, b, n)),
        ("C_DecryptUpdate", call!(C_DecryptUpdate, s, b, 1, b, n)),
        ("C_DecryptFinal", call!(C_DecryptFinal, s, b, n)),
        ("C_Digest", call!(C_Digest, s, b, 1, b, n)),
        ("C_DigestUpdate", call!(C_DigestUpdate, s, b, 1)),
        ("C_DigestFinal", call!(C_DigestFinal, s, b, n)),
        ("C_Sign", call!(C_Sign, s, b, 1, b, n)),
        ("C_SignUpdate", call!(C_SignUpdate, s, b, 1)),
        ("C_SignFinal", call!(C_SignFinal, s, b, n)),
        ("C_Verify", call!(C_Verify, s, b, 1, b, 64)),
        ("C_VerifyUpdate", call!(C_VerifyUpdate, s, b, 1)),
        ("C_VerifyFinal", call!(C_VerifyFinal, s, b, 64)),
    ];
    check(&rows, CKR_OPERATION_NOT_INITIALIZED);
}

/// No function of either list is missing, and what is not supported says so.
#[test]
fn the_lists_have_no_hole() {
    let client = Client::new();
    let s = client.session;
    let (n, b) = (null_mut(), null_mut());
    let m: *mut CK_MECHANISM = &mut plain(native::SM2);
    let rows = [
        ("C_GetOperationState", call!(C_GetOperationState, s, b, n)),
        ("C_SetOperationState", call!(C_SetOperationState, s, b, 0, 0, 0)),
        ("C_SignRecoverInit", call!(C_SignRecoverInit, s, m, 1)),
        ("C_SignRecover", call!(C_SignRecover, s, b, 0, b, n)),
        ("C_VerifyRecoverInit", call!(C_VerifyRecoverInit, s, m, 1)),
        ("C_VerifyRecover", call!(C_VerifyRecover, s, b, 0, b, n)),
        ("C_DigestEncryptUpdate", call!(C_DigestEncryptUpdate, s, b, 0, b, n)),
        ("C_DecryptDigestUpdate", call!(C_DecryptDigestUpdate, s, b, 0, b, n)),
        ("C_SignEncryptUpdate", call!(C_SignEncryptUpdate, s, b, 0, b, n)),
        ("C_DecryptVerifyUpdate", call!(C_DecryptVerifyUpdate, s, b, 0, b, n)),
        ("C_DeriveKey", call!(C_DeriveKey, s, m, 1, null_mut(), 0, n)),
    ];
    check(&rows, CKR_FUNCTION_NOT_SUPPORTED);
    assert_eq!(call!(C_GetFunctionStatus, s), CKR_FUNCTION_NOT_PARALLEL);
    assert_eq!(call!(C_CancelFunction, s), CKR_FUNCTION_NOT_PARALLEL);
    let words = |list: *const u64, bytes: usize| {
        // SAFETY: a list of functions of this module, read as words; its first is the version.
        unsafe { std::slice::from_raw_parts(list, bytes / 8) }.to_vec()
    };
    let mut interfaces =
        [CK_INTERFACE { pInterfaceName: null_mut(), pFunctionList: null_mut(), flags: 0 }; 2];
    let mut count = 2;
    // SAFETY: room for two, of which the client tells.
    let answer = unsafe { lists::get_interface_list(interfaces.as_mut_ptr(), &raw mut count) };
    assert_eq!((answer, count), (CKR_OK, 2));
    let sizes = [size_of::<CK_FUNCTION_LIST_3_0>(), size_of::<CK_FUNCTION_LIST>()];
    for (interface, size) in interfaces.iter().zip(sizes) {
        let words = words(interface.pFunctionList.cast_const().cast(), size);
        assert!(words.iter().all(|word| *word != 0));
    }
}

#[test]
fn interfaces_are_found_by_name_and_version() {
    let find = |name: *mut u8, version: Option<(u8, u8)>, flags| {
        let mut version = version.map(|(major, minor)| CK_VERSION { major, minor });
        let version = version.as_mut().map_or(null_mut(), std::ptr::from_mut);
        let mut found = null_mut();
        // SAFETY: a name that ends with a zero or none, a version or none, and room for a pointer.
        let answer = unsafe { lists::get_interface(name, version, &raw mut found, flags) };
        if answer != CKR_OK {
            return Err(answer);
        }
        // SAFETY: an interface of this module.
        let interface = unsafe { found.read() };
        // SAFETY: every list begins with its version.
        let version = unsafe { interface.pFunctionList.cast::<CK_VERSION>().read() };
        Ok((version.major, version.minor))
    };
    let ours = c"PKCS 11".as_ptr().cast_mut().cast();
    let others = c"Vendor X".as_ptr().cast_mut().cast();
    assert_eq!(find(null_mut(), None, 0), Ok((3, 0)));
    assert_eq!(find(ours, None, 0), Ok((3, 0)));
    assert_eq!(find(ours, Some((2, 40)), 0), Ok((2, 40)));
    assert_eq!(find(ours, Some((3, 1)), 0), Err(CKR_FUNCTION_FAILED));
    assert_eq!(find(ours, None, CKF_INTERFACE_FORK_SAFE), Err(CKR_FUNCTION_FAILED));
    assert_eq!(find(others, None, 0), Err(CKR_FUNCTION_FAILED));
    assert_eq!(find(c"PKCS".as_ptr().cast_mut().cast(), None, 0), Err(CKR_FUNCTION_FAILED));
}

unsafe extern "C" fn create(_: *mut *mut c_void) -> CK_RV {
    CKR_OK
}

unsafe extern "C" fn touch(_: *mut c_void) -> CK_RV {
    CKR_OK
}

#[test]
fn arguments_of_initialisation_are_checked() {
    let client = Client::new();
    let callbacks = |all: bool, flags| CK_C_INITIALIZE_ARGS {
        CreateMutex: Some(create),
        DestroyMutex: Some(touch),
        LockMutex: Some(touch),
        UnlockMutex: all.then_some(touch as unsafe extern "C" fn(*mut c_void) -> CK_RV),
        flags,
        pReserved: null_mut(),
    };
    let none = CK_C_INITIALIZE_ARGS {
        CreateMutex: None,
        DestroyMutex: None,
        LockMutex: None,
        UnlockMutex: None,
        flags: 0,
        pReserved: null_mut(),
    };
    let reserved = CK_C_INITIALIZE_ARGS { pReserved: (&raw const none).cast_mut().cast(), ..none };
    // What is right meets a module that is initialised.
    let cases = [
        (none, CKR_CRYPTOKI_ALREADY_INITIALIZED),
        (callbacks(true, CKF_OS_LOCKING_OK), CKR_CRYPTOKI_ALREADY_INITIALIZED),
        (callbacks(true, 0), CKR_CANT_LOCK),
        (callbacks(false, CKF_OS_LOCKING_OK), CKR_ARGUMENTS_BAD),
        (reserved, CKR_ARGUMENTS_BAD),
    ];
    for (mut arguments, wanted) in cases {
        assert_eq!(call!(C_Initialize, (&raw mut arguments).cast()), wanted);
    }
    assert_eq!(call!(C_Initialize, null_mut()), CKR_CRYPTOKI_ALREADY_INITIALIZED);
    // Finalised and initialised again, what was there is there, and nobody is logged in.
    let before = client.session;
    assert_eq!(call!(C_Finalize, null_mut()), CKR_OK);
    assert_eq!(call!(C_Finalize, null_mut()), CKR_CRYPTOKI_NOT_INITIALIZED);
    start(config(&client.folder)).unwrap();
    assert_eq!(call!(C_CloseSession, before), CKR_SESSION_HANDLE_INVALID);
    let session = open(0);
    assert_eq!(call!(C_Logout, session), CKR_USER_NOT_LOGGED_IN);
}

#[test]
fn lengths_are_asked_and_small_buffers_refused() {
    let client = Client::new();
    let [_, private] = client.pair();
    let s = client.session;
    let mechanism: *mut CK_MECHANISM = &mut plain(native::SM2);
    assert_eq!(call!(C_SignInit, s, mechanism, private), CKR_OK);
    let (mut data, mut signature) = ([1; 32], [0; 100]);
    let (d, to) = (data.as_mut_ptr(), signature.as_mut_ptr());
    let mut length = 0;
    let n = &raw mut length;
    let mut sign = |to, room: CK_ULONG| {
        length = room;
        (call!(C_Sign, s, d, 32, to, n), length)
    };
    assert_eq!(sign(null_mut(), 0), (CKR_OK, 64));
    assert_eq!(sign(to, 63), (CKR_BUFFER_TOO_SMALL, 64));
    assert_eq!(sign(to, 100), (CKR_OK, 64));
    assert_eq!(sign(to, 100).0, CKR_OPERATION_NOT_INITIALIZED);
    assert_eq!(signature[64..], [0; 36], "nothing beyond the length was written");
    // Mechanisms are a list whose length is asked in the same way.
    let mut count = 0;
    assert_eq!(call!(C_GetMechanismList, 0, null_mut(), &raw mut count), CKR_OK);
    let mut codes = vec![0; usize::try_from(count).unwrap()];
    count -= 1;
    let list = codes.as_mut_ptr();
    assert_eq!(call!(C_GetMechanismList, 0, list, &raw mut count), CKR_BUFFER_TOO_SMALL);
    assert_eq!(call!(C_GetMechanismList, 0, list, &raw mut count), CKR_OK);
    assert!(codes.contains(&native::SM2));
}

#[test]
fn attributes_are_answered_one_by_one() {
    let client = Client::new();
    let [_, private] = client.pair();
    let mut class = 0_u64;
    let mut small = [0_u8; 2];
    let ask =
        |type_, place: *mut c_void, room| CK_ATTRIBUTE { type_, pValue: place, ulValueLen: room };
    let mut attributes = [
        ask(CKA_CLASS, (&raw mut class).cast(), 8),
        ask(CKA_VALUE, null_mut(), 0),
        ask(CKA_EC_PARAMS, null_mut(), 0),
        ask(CKA_EC_PARAMS, small.as_mut_ptr().cast(), 2),
        ask(CKA_MODULUS, null_mut(), 0),
    ];
    let answer = call!(C_GetAttributeValue, client.session, private, attributes.as_mut_ptr(), 5);
    assert_eq!(answer, CKR_ATTRIBUTE_SENSITIVE);
    let lengths = attributes.map(|attribute| attribute.ulValueLen);
    let unknown = CK_UNAVAILABLE_INFORMATION;
    assert_eq!(lengths, [8, unknown, 10, unknown, unknown]);
    assert_eq!((class, small), (CKO_PRIVATE_KEY, [0; 2]));
}

/// A child of a fork has no module until it initialises one, whatever its parent was doing.
#[test]
fn a_forked_child_initialises_anew() {
    let client = Client::new();
    // SAFETY: the child calls this module only and ends at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let before = call!(C_CloseSession, client.session) == CKR_CRYPTOKI_NOT_INITIALIZED;
        let started = start(config(&client.folder)).is_ok();
        let mut session = 0;
        let opened =
            call!(C_OpenSession, 0, CKF_SERIAL_SESSION, null_mut(), None, &raw mut session);
        let code = i32::from(!(before && started && opened == CKR_OK));
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: our own child, and a status of ours.
    let ended = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((ended, status), (child, 0));
    assert_eq!(call!(C_CloseSession, client.session), CKR_OK);
}

#[test]
fn unwinding_stops_at_the_border() {
    assert_eq!(guard(|| panic!("on purpose")), CKR_GENERAL_ERROR);
}
