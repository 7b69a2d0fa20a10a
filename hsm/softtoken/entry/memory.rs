//! Reads and writes of the client's memory.
//!
//! What the functions here rely on is **the client's word**, which PKCS#11 2.40 5 has him give: a
//! pointer that is not NULL points to as many elements as he says, they stay as they are until the
//! call returns, and he has given what is written to nobody else.

use cryptoki_sys::*;
use zeroize::Zeroizing;

use crate::answer::{Answer, size, ulong};
use crate::attributes::{Template, VALUE_BYTES_MAX};
use crate::imitations::{Algorithm, Mode};
use crate::mechanisms::{Call, Parameter};
use crate::module::{Given, Module};
use crate::store::header::PIN_BYTES;

/// Attributes of one template.
const ATTRIBUTES_COUNT_MAX: CK_ULONG = 256;
/// Bytes of one parameter, identities and associated data among them.
const PARAMETER_BYTES_MAX: CK_ULONG = 1 << 20;

/// The elements behind a pointer; none of them needs no pointer.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn slice<'a, T>(start: *const T, count: CK_ULONG) -> Answer<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let count = size(count)?;
    let bytes = count.checked_mul(size_of::<T>()).ok_or(CKR_ARGUMENTS_BAD)?;
    if start.is_null() || !start.is_aligned() || isize::try_from(bytes).is_err() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: not NULL, aligned, not too long; the rest is the client's word.
    Ok(unsafe { std::slice::from_raw_parts(start, count) })
}

/// The bytes behind a pointer that must be there even for no bytes.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn bytes<'a>(start: *const u8, count: CK_ULONG) -> Answer<&'a [u8]> {
    if start.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: the client's word, which is our caller's.
    unsafe { slice(start, count) }
}

/// The bytes of a PIN, which must be there even if they are none. Of one that is too long so many
/// are read that it is seen.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn pin<'a>(start: *const u8, count: CK_ULONG) -> Answer<&'a [u8]> {
    // SAFETY: the client's word, which is our caller's; fewer than he says.
    unsafe { bytes(start, count.min(ulong(*PIN_BYTES.end() + 1))) }
}

/// Whether something can be written there; asked before anything is done that cannot be undone.
pub(super) fn check<T>(place: *mut T) -> Answer<()> {
    if place.is_null() || !place.is_aligned() { Err(CKR_ARGUMENTS_BAD) } else { Ok(()) }
}

/// Writes one value.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn write<T>(place: *mut T, value: T) -> Answer<()> {
    check(place)?;
    // SAFETY: not NULL and aligned; the rest is the client's word.
    unsafe { place.write(value) };
    Ok(())
}

/// Reads one value.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn read<T: Copy>(place: *const T) -> Answer<T> {
    check(place.cast_mut())?;
    // SAFETY: not NULL and aligned; the rest is the client's word.
    Ok(unsafe { place.read() })
}

/// Writes values to a list whose room the client tells and whose size he may ask for
/// (PKCS#11 2.40 5.2).
///
/// # Safety
/// The client's word.
pub(super) unsafe fn write_list<T: Copy>(
    list: *mut T,
    count: *mut CK_ULONG,
    values: &[T],
) -> Answer<()> {
    check(count)?;
    if list.is_null() {
        // A client who asks need not have set the count.
        // SAFETY: the client's word, which is our caller's.
        return unsafe { write(count, ulong(values.len())) };
    }
    // SAFETY: as above.
    let room = unsafe { read(count) }?;
    // SAFETY: as above.
    unsafe { write(count, ulong(values.len())) }?;
    if room < ulong(values.len()) {
        return Err(CKR_BUFFER_TOO_SMALL);
    }
    check(list)?;
    // SAFETY: not NULL, aligned and long enough; the values are ours and lie elsewhere.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), list, values.len()) };
    Ok(())
}

/// Where the bytes of an answer go.
pub(super) struct Output {
    start: *mut u8,
    length: *mut CK_ULONG,
    /// `None` if the client asks for the length.
    pub(super) room: Option<usize>,
}

/// Looks at where an answer goes.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn output(start: *mut u8, length: *mut CK_ULONG) -> Answer<Output> {
    check(length)?;
    if start.is_null() {
        return Ok(Output { start, length, room: None });
    }
    // SAFETY: the client's word, which is our caller's.
    let room = size(unsafe { read(length) }?)?;
    Ok(Output { start, length, room: Some(room) })
}

impl Output {
    /// Writes the answer, or the length it will have.
    ///
    /// # Safety
    /// The client's word.
    pub(super) unsafe fn give(self, given: Given) -> Answer<()> {
        let (told, answer) = match given {
            Given::Bytes(bytes) => {
                // It may be what was decrypted: nothing of it stays here.
                let bytes = Zeroizing::new(bytes);
                if self.room.is_none_or(|room| room < bytes.len()) {
                    return Err(CKR_GENERAL_ERROR);
                }
                // SAFETY: not NULL and with room, by the check before; what we made lies elsewhere.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start, bytes.len()) };
                (bytes.len(), Ok(()))
            }
            Given::Size(size) => (size, Ok(())),
            Given::TooSmall(size) => (size, Err(CKR_BUFFER_TOO_SMALL)),
        };
        // SAFETY: the client's word, which is our caller's.
        unsafe { write(self.length, ulong(told)) }?;
        answer
    }
}

/// The attributes of a template.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn attributes<'a>(
    start: *const CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Answer<&'a [CK_ATTRIBUTE]> {
    if count > ATTRIBUTES_COUNT_MAX {
        return Err(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: the client's word, which is our caller's.
    unsafe { slice(start, count) }
}

/// A template, copied.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn template(start: *const CK_ATTRIBUTE, count: CK_ULONG) -> Answer<Template> {
    // SAFETY: the client's word, which is our caller's.
    let attributes = unsafe { attributes(start, count) }?;
    let mut template = Template::default();
    for attribute in attributes {
        if attribute.ulValueLen > ulong(VALUE_BYTES_MAX) {
            return Err(CKR_ATTRIBUTE_VALUE_INVALID);
        }
        // SAFETY: as above.
        let value = unsafe { slice(attribute.pValue.cast::<u8>(), attribute.ulValueLen) };
        template.push(attribute.type_, value.map_err(|_| CKR_ATTRIBUTE_VALUE_INVALID)?);
    }
    Ok(template)
}

/// A mechanism with its parameter, copied.
///
/// # Safety
/// The client's word.
pub(super) unsafe fn mechanism(module: &Module, place: *const CK_MECHANISM) -> Answer<Call> {
    // SAFETY: the client's word, which is our caller's.
    let mechanism = unsafe { read(place) }?;
    let algorithm = module.algorithm(mechanism.mechanism)?;
    let (start, length) = (mechanism.pParameter, mechanism.ulParameterLen);
    let parameter = if length == 0 {
        Parameter::None
    } else if start.is_null() || length > PARAMETER_BYTES_MAX {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    } else if matches!(algorithm, Algorithm::Block(_, Mode::Gcm)) {
        if length != ulong(size_of::<CK_GCM_PARAMS>()) {
            return Err(CKR_MECHANISM_PARAM_INVALID);
        }
        // SAFETY: as above.
        unsafe { gcm_parameter(start.cast()) }?
    } else {
        // SAFETY: as above.
        Parameter::Bytes(unsafe { slice(start.cast::<u8>(), length) }?.to_vec())
    };
    module.call(mechanism.mechanism, parameter)
}

/// # Safety
/// The client's word.
unsafe fn gcm_parameter(place: *const CK_GCM_PARAMS) -> Answer<Parameter> {
    const BAD: CK_RV = CKR_MECHANISM_PARAM_INVALID;
    // SAFETY: the client's word, which is our caller's.
    let given = unsafe { read(place) }.map_err(|_| BAD)?;
    if given.ulIvLen > PARAMETER_BYTES_MAX || given.ulAADLen > PARAMETER_BYTES_MAX {
        return Err(BAD);
    }
    // SAFETY: as above.
    let nonce = unsafe { slice(given.pIv.cast_const(), given.ulIvLen) }.map_err(|_| BAD)?;
    // SAFETY: as above.
    let associated = unsafe { slice(given.pAAD.cast_const(), given.ulAADLen) }.map_err(|_| BAD)?;
    let (nonce, associated) = (nonce.to_vec(), associated.to_vec());
    Ok(Parameter::Gcm { nonce, associated, tag_bits: given.ulTagBits })
}
