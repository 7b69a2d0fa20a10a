//! Encryption, digests, signatures (PKCS#11 2.40 5.8 to 5.12).

use cryptoki_sys::*;

use super::{memory, with_module};
use crate::answer::Answer;
use crate::mechanisms::Call;
use crate::module::{Given, Kind, Module};

type Bytes = *mut CK_BYTE;
type Length = *mut CK_ULONG;

/// A function that begins an operation with a key.
///
/// # Safety
/// The client's word.
unsafe fn begin(
    mechanism: *mut CK_MECHANISM,
    call: impl FnOnce(&Module, &Call) -> Answer<()>,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let asked = unsafe { memory::mechanism(module, mechanism) }?;
        call(module, &asked)
    })
}

/// A function that takes bytes and gives bytes.
///
/// # Safety
/// The client's word.
unsafe fn transform(
    (input, input_len): (Bytes, CK_ULONG),
    (output, output_len): (Bytes, Length),
    call: impl FnOnce(&Module, &[u8], Option<usize>) -> Answer<Given>,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let input = unsafe { memory::bytes(input, input_len) }?;
        // SAFETY: the client's word.
        let output = unsafe { memory::output(output, output_len) }?;
        let given = call(module, input, output.room)?;
        // SAFETY: the client's word.
        unsafe { output.give(given) }
    })
}

/// A function that takes bytes.
///
/// # Safety
/// The client's word.
unsafe fn feed(
    (input, input_len): (Bytes, CK_ULONG),
    call: impl FnOnce(&Module, &[u8]) -> Answer<()>,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        call(module, unsafe { memory::bytes(input, input_len) }?)
    })
}

/// A function that gives bytes.
///
/// # Safety
/// The client's word.
unsafe fn finish(
    (output, output_len): (Bytes, Length),
    call: impl FnOnce(&Module, Option<usize>) -> Answer<Given>,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let output = unsafe { memory::output(output, output_len) }?;
        let given = call(module, output.room)?;
        // SAFETY: the client's word.
        unsafe { output.give(given) }
    })
}

/// `C_EncryptInit`.
#[unsafe(export_name = "C_EncryptInit")]
pub(super) unsafe extern "C" fn encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe {
        begin(mechanism, |module, call| module.begin_ciphering(session, call, key, Kind::Encrypt))
    }
}

/// `C_Encrypt`.
#[unsafe(export_name = "C_Encrypt")]
pub(super) unsafe extern "C" fn encrypt(
    session: CK_SESSION_HANDLE,
    input: Bytes,
    input_len: CK_ULONG,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    let (from, to) = ((input, input_len), (output, output_len));
    // SAFETY: the client's word.
    unsafe {
        transform(from, to, |module, input, room| {
            module.cipher(session, input, room, Kind::Encrypt)
        })
    }
}

/// `C_EncryptUpdate`.
#[unsafe(export_name = "C_EncryptUpdate")]
pub(super) unsafe extern "C" fn encrypt_update(
    session: CK_SESSION_HANDLE,
    input: Bytes,
    input_len: CK_ULONG,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    let (from, to) = ((input, input_len), (output, output_len));
    // SAFETY: the client's word.
    unsafe {
        transform(from, to, |module, input, room| {
            module.update_ciphering(session, input, room, Kind::Encrypt)
        })
    }
}

/// `C_EncryptFinal`.
#[unsafe(export_name = "C_EncryptFinal")]
pub(super) unsafe extern "C" fn encrypt_final(
    session: CK_SESSION_HANDLE,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe {
        finish((output, output_len), |module, room| {
            module.finish_ciphering(session, room, Kind::Encrypt)
        })
    }
}

/// `C_DecryptInit`.
#[unsafe(export_name = "C_DecryptInit")]
pub(super) unsafe extern "C" fn decrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe {
        begin(mechanism, |module, call| module.begin_ciphering(session, call, key, Kind::Decrypt))
    }
}

/// `C_Decrypt`.
#[unsafe(export_name = "C_Decrypt")]
pub(super) unsafe extern "C" fn decrypt(
    session: CK_SESSION_HANDLE,
    input: Bytes,
    input_len: CK_ULONG,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    let (from, to) = ((input, input_len), (output, output_len));
    // SAFETY: the client's word.
    unsafe {
        transform(from, to, |module, input, room| {
            module.cipher(session, input, room, Kind::Decrypt)
        })
    }
}

/// `C_DecryptUpdate`.
#[unsafe(export_name = "C_DecryptUpdate")]
pub(super) unsafe extern "C" fn decrypt_update(
    session: CK_SESSION_HANDLE,
    input: Bytes,
    input_len: CK_ULONG,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    let (from, to) = ((input, input_len), (output, output_len));
    // SAFETY: the client's word.
    unsafe {
        transform(from, to, |module, input, room| {
            module.update_ciphering(session, input, room, Kind::Decrypt)
        })
    }
}

/// `C_DecryptFinal`.
#[unsafe(export_name = "C_DecryptFinal")]
pub(super) unsafe extern "C" fn decrypt_final(
    session: CK_SESSION_HANDLE,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe {
        finish((output, output_len), |module, room| {
            module.finish_ciphering(session, room, Kind::Decrypt)
        })
    }
}

/// `C_DigestInit`.
#[unsafe(export_name = "C_DigestInit")]
pub(super) unsafe extern "C" fn digest_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe { begin(mechanism, |module, call| module.begin_digest(session, call)) }
}

/// `C_Digest`.
#[unsafe(export_name = "C_Digest")]
pub(super) unsafe extern "C" fn digest(
    session: CK_SESSION_HANDLE,
    input: Bytes,
    input_len: CK_ULONG,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    let (from, to) = ((input, input_len), (output, output_len));
    // SAFETY: the client's word.
    unsafe { transform(from, to, |module, input, room| module.digest(session, Some(input), room)) }
}

/// `C_DigestUpdate`.
#[unsafe(export_name = "C_DigestUpdate")]
pub(super) unsafe extern "C" fn digest_update(
    session: CK_SESSION_HANDLE,
    part: Bytes,
    part_len: CK_ULONG,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe { feed((part, part_len), |module, part| module.update_digest(session, part)) }
}

/// `C_DigestKey`.
#[unsafe(export_name = "C_DigestKey")]
pub(super) unsafe extern "C" fn digest_key(
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    with_module(|module| module.digest_key(session, key))
}

/// `C_DigestFinal`.
#[unsafe(export_name = "C_DigestFinal")]
pub(super) unsafe extern "C" fn digest_final(
    session: CK_SESSION_HANDLE,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe { finish((output, output_len), |module, room| module.digest(session, None, room)) }
}

/// `C_SignInit`.
#[unsafe(export_name = "C_SignInit")]
pub(super) unsafe extern "C" fn sign_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe { begin(mechanism, |module, call| module.begin_signing(session, call, key, Kind::Sign)) }
}

/// `C_Sign`.
#[unsafe(export_name = "C_Sign")]
pub(super) unsafe extern "C" fn sign(
    session: CK_SESSION_HANDLE,
    input: Bytes,
    input_len: CK_ULONG,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    let (from, to) = ((input, input_len), (output, output_len));
    // SAFETY: the client's word.
    unsafe { transform(from, to, |module, input, room| module.sign(session, Some(input), room)) }
}

/// `C_SignUpdate`.
#[unsafe(export_name = "C_SignUpdate")]
pub(super) unsafe extern "C" fn sign_update(
    session: CK_SESSION_HANDLE,
    part: Bytes,
    part_len: CK_ULONG,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe {
        feed((part, part_len), |module, part| module.update_signing(session, part, Kind::Sign))
    }
}

/// `C_SignFinal`.
#[unsafe(export_name = "C_SignFinal")]
pub(super) unsafe extern "C" fn sign_final(
    session: CK_SESSION_HANDLE,
    output: Bytes,
    output_len: Length,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe { finish((output, output_len), |module, room| module.sign(session, None, room)) }
}

/// `C_VerifyInit`.
#[unsafe(export_name = "C_VerifyInit")]
pub(super) unsafe extern "C" fn verify_init(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe {
        begin(mechanism, |module, call| module.begin_signing(session, call, key, Kind::Verify))
    }
}

/// `C_Verify`.
#[unsafe(export_name = "C_Verify")]
pub(super) unsafe extern "C" fn verify(
    session: CK_SESSION_HANDLE,
    data: Bytes,
    data_len: CK_ULONG,
    signature: Bytes,
    signature_len: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let data = unsafe { memory::bytes(data, data_len) }?;
        // SAFETY: the client's word.
        let signature = unsafe { memory::bytes(signature, signature_len) }?;
        module.verify(session, Some(data), signature)
    })
}

/// `C_VerifyUpdate`.
#[unsafe(export_name = "C_VerifyUpdate")]
pub(super) unsafe extern "C" fn verify_update(
    session: CK_SESSION_HANDLE,
    part: Bytes,
    part_len: CK_ULONG,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe {
        feed((part, part_len), |module, part| module.update_signing(session, part, Kind::Verify))
    }
}

/// `C_VerifyFinal`.
#[unsafe(export_name = "C_VerifyFinal")]
pub(super) unsafe extern "C" fn verify_final(
    session: CK_SESSION_HANDLE,
    part: Bytes,
    part_len: CK_ULONG,
) -> CK_RV {
    // SAFETY: the client's word.
    unsafe { feed((part, part_len), |module, part| module.verify(session, None, part)) }
}
