//! Keys and random numbers (PKCS#11 2.40 5.13, 5.14).

use cryptoki_sys::*;

use super::{memory, with_handle, with_module};
use crate::answer::{size, ulong};
use crate::module::Module;

/// Bytes of a wrapped key: the longest secret is half a kilobyte.
const WRAPPED_BYTES_MAX: CK_ULONG = 4_096;

/// `C_GenerateKey`.
#[unsafe(export_name = "C_GenerateKey")]
pub(super) unsafe extern "C" fn generate_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let make = |module: &Module| {
        // SAFETY: the client's word.
        let call = unsafe { memory::mechanism(module, mechanism) }?;
        // SAFETY: the client's word.
        module.generate_key(session, &call, &unsafe { memory::template(template, count) }?)
    };
    // SAFETY: the client's word.
    unsafe { with_handle(key, make) }
}

/// `C_GenerateKeyPair`.
#[unsafe(export_name = "C_GenerateKeyPair")]
pub(super) unsafe extern "C" fn generate_key_pair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: *mut CK_OBJECT_HANDLE,
    private_key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    with_module(|module| {
        memory::check(public_key)?;
        memory::check(private_key)?;
        // SAFETY: the client's word.
        let call = unsafe { memory::mechanism(module, mechanism) }?;
        // SAFETY: the client's word.
        let public = unsafe { memory::template(public, public_count) }?;
        // SAFETY: the client's word.
        let private = unsafe { memory::template(private, private_count) }?;
        let [made_public, made_private] =
            module.generate_pair(session, &call, &public, &private)?;
        // SAFETY: the client's word.
        unsafe { memory::write(public_key, made_public) }?;
        // SAFETY: the client's word.
        unsafe { memory::write(private_key, made_private) }
    })
}

/// `C_WrapKey`.
#[unsafe(export_name = "C_WrapKey")]
pub(super) unsafe extern "C" fn wrap_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    wrapping: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    wrapped_len: *mut CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let call = unsafe { memory::mechanism(module, mechanism) }?;
        // SAFETY: the client's word.
        let output = unsafe { memory::output(wrapped, wrapped_len) }?;
        let given = module.wrap(session, &call, wrapping, key, output.room)?;
        // SAFETY: the client's word.
        unsafe { output.give(given) }
    })
}

/// `C_UnwrapKey`.
#[unsafe(export_name = "C_UnwrapKey")]
pub(super) unsafe extern "C" fn unwrap_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    unwrapping: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    wrapped_len: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let make = |module: &Module| {
        // SAFETY: the client's word.
        let call = unsafe { memory::mechanism(module, mechanism) }?;
        // SAFETY: the client's word; more than a key can be is not looked at.
        let wrapped = unsafe { memory::bytes(wrapped, wrapped_len.min(WRAPPED_BYTES_MAX + 1)) }?;
        if ulong(wrapped.len()) > WRAPPED_BYTES_MAX {
            return Err(CKR_WRAPPED_KEY_LEN_RANGE);
        }
        // SAFETY: the client's word.
        let template = unsafe { memory::template(template, count) }?;
        module.unwrap(session, &call, unwrapping, wrapped, &template)
    };
    // SAFETY: the client's word.
    unsafe { with_handle(key, make) }
}

/// `C_SeedRandom`: the generator is the operating system's.
#[unsafe(export_name = "C_SeedRandom")]
pub(super) unsafe extern "C" fn seed_random(
    session: CK_SESSION_HANDLE,
    seed: *mut CK_BYTE,
    seed_len: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        module.session(session)?;
        // SAFETY: the client's word.
        unsafe { memory::bytes(seed, seed_len) }?;
        Err(CKR_RANDOM_SEED_NOT_SUPPORTED)
    })
}

/// `C_GenerateRandom`.
#[unsafe(export_name = "C_GenerateRandom")]
pub(super) unsafe extern "C" fn generate_random(
    session: CK_SESSION_HANDLE,
    bytes: *mut CK_BYTE,
    count: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        memory::check(bytes)?;
        let mut drawn = zeroize::Zeroizing::new(Vec::new());
        drawn.resize(random_size(count)?, 0);
        module.random(session, &mut drawn)?;
        // SAFETY: not NULL and with room by the client's word; what was drawn is ours.
        unsafe { std::ptr::copy_nonoverlapping(drawn.as_ptr(), bytes, drawn.len()) };
        Ok(())
    })
}

/// A count of random bytes that can be had in one call.
fn random_size(count: CK_ULONG) -> crate::answer::Answer<usize> {
    let count = size(count)?;
    if count <= crate::module::RANDOM_BYTES_MAX { Ok(count) } else { Err(CKR_ARGUMENTS_BAD) }
}
