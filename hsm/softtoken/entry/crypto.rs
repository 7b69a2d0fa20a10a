//! Encryption, digests, signatures (PKCS#11 2.40 5.8 to 5.12).
//!
//! Twenty functions of C in four shapes: each row below is one of them, its name and what is done.
//! A function that C calls by name cannot be made by a function of Rust, so that a macro writes its
//! frame; what the frame does is in the function that stands with it.

use cryptoki_sys::*;

use super::{memory, with_module};
use crate::answer::Answer;
use crate::mechanisms::Call;
use crate::module::{Given, Kind, Module};

type Session = CK_SESSION_HANDLE;
type Bytes = *mut CK_BYTE;
type Length = *mut CK_ULONG;

/// A function that begins an operation, or ends the one that `flag` names if there is no mechanism
/// (PKCS#11 3.0 5.8.1).
///
/// # Safety
/// The client's word.
unsafe fn begin(
    session: Session,
    mechanism: *mut CK_MECHANISM,
    flag: CK_FLAGS,
    operation: impl FnOnce(&Module, &Call) -> Answer<()>,
) -> CK_RV {
    with_module(|module| {
        if mechanism.is_null() {
            return module.abandon(session, flag);
        }
        // SAFETY: the client's word.
        let call = unsafe { memory::mechanism(module, mechanism) }?;
        operation(module, &call)
    })
}

macro_rules! begins {
    ($($name:literal $function:ident $flag:ident => $operation:expr;)+) => {$(
        #[doc = concat!("`", $name, "`.")]
        #[unsafe(export_name = $name)]
        pub(super) unsafe extern "C" fn $function(
            session: Session,
            mechanism: *mut CK_MECHANISM,
            key: CK_OBJECT_HANDLE,
        ) -> CK_RV {
            let operation: fn(&Module, Session, &Call, CK_OBJECT_HANDLE) -> _ = $operation;
            let operation = |module: &Module, call: &Call| operation(module, session, call, key);
            // SAFETY: the client's word.
            unsafe { begin(session, mechanism, $flag, operation) }
        }
    )+};
}

begins! {
    "C_EncryptInit" encrypt_init CKF_ENCRYPT =>
        |module, session, call, key| module.begin_ciphering(session, call, key, Kind::Encrypt);
    "C_DecryptInit" decrypt_init CKF_DECRYPT =>
        |module, session, call, key| module.begin_ciphering(session, call, key, Kind::Decrypt);
    "C_SignInit" sign_init CKF_SIGN =>
        |module, session, call, key| module.begin_signing(session, call, key, Kind::Sign);
    "C_VerifyInit" verify_init CKF_VERIFY =>
        |module, session, call, key| module.begin_signing(session, call, key, Kind::Verify);
}

/// A function that gives bytes, for bytes it takes or those that came before.
///
/// # Safety
/// The client's word.
unsafe fn transform(
    input: Option<(Bytes, CK_ULONG)>,
    (output, output_len): (Bytes, Length),
    operation: impl FnOnce(&Module, &[u8], Option<usize>) -> Answer<Given>,
) -> CK_RV {
    with_module(|module| {
        let (start, count) = input.unwrap_or((std::ptr::null_mut(), 0));
        // SAFETY: the client's word.
        let input = unsafe { memory::slice(start, count) }?;
        // SAFETY: the client's word.
        let output = unsafe { memory::output(output, output_len) }?;
        let given = operation(module, input, output.room)?;
        // SAFETY: the client's word.
        unsafe { output.give(given) }
    })
}

macro_rules! transforms {
    ($($name:literal $function:ident => $operation:expr;)+) => {$(
        #[doc = concat!("`", $name, "`.")]
        #[unsafe(export_name = $name)]
        pub(super) unsafe extern "C" fn $function(
            session: Session,
            input: Bytes,
            input_len: CK_ULONG,
            output: Bytes,
            output_len: Length,
        ) -> CK_RV {
            let operation: fn(&Module, Session, &[u8], Option<usize>) -> _ = $operation;
            let operation = |module: &Module, input: &[u8], room| {
                operation(module, session, input, room)
            };
            // SAFETY: the client's word.
            unsafe { transform(Some((input, input_len)), (output, output_len), operation) }
        }
    )+};
}

transforms! {
    "C_Encrypt" encrypt =>
        |module, session, input, room| module.cipher(session, Some(input), room, Kind::Encrypt);
    "C_EncryptUpdate" encrypt_update =>
        |module, session, input, room| module.update_ciphering(session, input, room, Kind::Encrypt);
    "C_Decrypt" decrypt =>
        |module, session, input, room| module.cipher(session, Some(input), room, Kind::Decrypt);
    "C_DecryptUpdate" decrypt_update =>
        |module, session, input, room| module.update_ciphering(session, input, room, Kind::Decrypt);
    "C_Digest" digest => |module, session, input, room| module.digest(session, Some(input), room);
    "C_Sign" sign => |module, session, input, room| module.sign(session, Some(input), room);
}

macro_rules! finishes {
    ($($name:literal $function:ident => $operation:expr;)+) => {$(
        #[doc = concat!("`", $name, "`.")]
        #[unsafe(export_name = $name)]
        pub(super) unsafe extern "C" fn $function(
            session: Session,
            output: Bytes,
            output_len: Length,
        ) -> CK_RV {
            let operation: fn(&Module, Session, Option<usize>) -> _ = $operation;
            let operation = |module: &Module, _: &[u8], room| operation(module, session, room);
            // SAFETY: the client's word.
            unsafe { transform(None, (output, output_len), operation) }
        }
    )+};
}

finishes! {
    "C_EncryptFinal" encrypt_final =>
        |module, session, room| module.cipher(session, None, room, Kind::Encrypt);
    "C_DecryptFinal" decrypt_final =>
        |module, session, room| module.cipher(session, None, room, Kind::Decrypt);
    "C_DigestFinal" digest_final => |module, session, room| module.digest(session, None, room);
    "C_SignFinal" sign_final => |module, session, room| module.sign(session, None, room);
}

macro_rules! feeds {
    ($($name:literal $function:ident => $operation:expr;)+) => {$(
        #[doc = concat!("`", $name, "`.")]
        #[unsafe(export_name = $name)]
        pub(super) unsafe extern "C" fn $function(
            session: Session,
            input: Bytes,
            input_len: CK_ULONG,
        ) -> CK_RV {
            let operation: fn(&Module, Session, &[u8]) -> _ = $operation;
            with_module(|module| {
                // SAFETY: the client's word.
                operation(module, session, unsafe { memory::slice(input, input_len) }?)
            })
        }
    )+};
}

feeds! {
    "C_DigestUpdate" digest_update => |module, session, part| module.update_digest(session, part);
    "C_SignUpdate" sign_update =>
        |module, session, part| module.update_signing(session, part, Kind::Sign);
    "C_VerifyUpdate" verify_update =>
        |module, session, part| module.update_signing(session, part, Kind::Verify);
    "C_VerifyFinal" verify_final =>
        |module, session, signature| module.verify(session, None, signature);
}

/// `C_DigestInit`.
#[unsafe(export_name = "C_DigestInit")]
pub(super) unsafe extern "C" fn digest_init(
    session: Session,
    mechanism: *mut CK_MECHANISM,
) -> CK_RV {
    let operation = |module: &Module, call: &Call| module.begin_digest(session, call);
    // SAFETY: the client's word.
    unsafe { begin(session, mechanism, CKF_DIGEST, operation) }
}

/// `C_DigestKey`.
#[unsafe(export_name = "C_DigestKey")]
pub(super) unsafe extern "C" fn digest_key(session: Session, key: CK_OBJECT_HANDLE) -> CK_RV {
    with_module(|module| module.digest_key(session, key))
}

/// `C_Verify`.
#[unsafe(export_name = "C_Verify")]
pub(super) unsafe extern "C" fn verify(
    session: Session,
    data: Bytes,
    data_len: CK_ULONG,
    signature: Bytes,
    signature_len: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let data = unsafe { memory::slice(data, data_len) }?;
        // SAFETY: the client's word.
        let signature = unsafe { memory::slice(signature, signature_len) }?;
        module.verify(session, Some(data), signature)
    })
}
