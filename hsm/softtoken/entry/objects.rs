//! Objects (PKCS#11 2.40 5.7).

use cryptoki_sys::*;

use super::{memory, with_handle, with_module};
use crate::answer::{Answer, size, ulong};
use crate::imitations::Dialect;
use crate::module::Module;
use crate::object::Object;

/// `C_CreateObject`.
#[unsafe(export_name = "C_CreateObject")]
pub(super) unsafe extern "C" fn create_object(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let make = |module: &Module| {
        // SAFETY: the client's word.
        module.create_object(session, &unsafe { memory::template(template, count) }?)
    };
    // SAFETY: the client's word.
    unsafe { with_handle(object, make) }
}

/// `C_CopyObject`.
#[unsafe(export_name = "C_CopyObject")]
pub(super) unsafe extern "C" fn copy_object(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    copy: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    let make = |module: &Module| {
        // SAFETY: the client's word.
        module.copy_object(session, object, &unsafe { memory::template(template, count) }?)
    };
    // SAFETY: the client's word.
    unsafe { with_handle(copy, make) }
}

/// `C_DestroyObject`.
#[unsafe(export_name = "C_DestroyObject")]
pub(super) unsafe extern "C" fn destroy_object(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
) -> CK_RV {
    with_module(|module| module.destroy_object(session, object))
}

/// `C_GetObjectSize`.
#[unsafe(export_name = "C_GetObjectSize")]
pub(super) unsafe extern "C" fn get_object_size(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    bytes: *mut CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        memory::check(bytes)?;
        // SAFETY: the client's word.
        unsafe { memory::write(bytes, module.object_size(session, object)?) }
    })
}

/// `C_GetAttributeValue`: each attribute gets an answer, and the worst of them is returned.
#[unsafe(export_name = "C_GetAttributeValue")]
pub(super) unsafe extern "C" fn get_attribute_value(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        let object = module.object(session, object)?;
        // SAFETY: the client's word.
        let count = unsafe { memory::attributes(template, count) }?.len();
        let mut worst = Ok(());
        for place in 0..count {
            let attribute = template.wrapping_add(place);
            // SAFETY: the client's word: one of the attributes he has counted.
            let answer = unsafe { read_attribute(&object, module.dialect(), attribute) };
            worst = worst.and(answer);
        }
        worst
    })
}

/// # Safety
/// The client's word.
unsafe fn read_attribute(
    object: &Object,
    dialect: &Dialect,
    place: *mut CK_ATTRIBUTE,
) -> Answer<()> {
    // SAFETY: the client's word, which is our caller's.
    let mut attribute = unsafe { memory::read(place) }?;
    let room = size(attribute.ulValueLen);
    let value = object.read(attribute.type_, dialect);
    let answer = match &value {
        Err(refused) => Err(*refused),
        Ok(_) if attribute.pValue.is_null() => Ok(()),
        Ok(value) if room.is_ok_and(|room| room < value.len()) => Err(CKR_BUFFER_TOO_SMALL),
        Ok(value) => {
            let to = attribute.pValue.cast::<u8>();
            // SAFETY: not NULL and with room by the client's word; the value is ours.
            unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to, value.len()) };
            Ok(())
        }
    };
    attribute.ulValueLen = match (&value, answer) {
        (Ok(value), Ok(())) => ulong(value.len()),
        _ => CK_UNAVAILABLE_INFORMATION,
    };
    // SAFETY: the client's word, which is our caller's.
    unsafe { memory::write(place, attribute) }?;
    answer
}

/// `C_SetAttributeValue`.
#[unsafe(export_name = "C_SetAttributeValue")]
pub(super) unsafe extern "C" fn set_attribute_value(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let template = unsafe { memory::template(template, count) }?;
        module.change_object(session, object, &template)
    })
}

/// `C_FindObjectsInit`.
#[unsafe(export_name = "C_FindObjectsInit")]
pub(super) unsafe extern "C" fn find_objects_init(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        // SAFETY: the client's word.
        let template = unsafe { memory::template(template, count) }?;
        module.begin_find(session, &template)
    })
}

/// `C_FindObjects`.
#[unsafe(export_name = "C_FindObjects")]
pub(super) unsafe extern "C" fn find_objects(
    session: CK_SESSION_HANDLE,
    objects: *mut CK_OBJECT_HANDLE,
    count_max: CK_ULONG,
    count: *mut CK_ULONG,
) -> CK_RV {
    with_module(|module| {
        memory::check(objects)?;
        memory::check(count)?;
        let found = module.find(session, size(count_max)?)?;
        for (place, handle) in found.iter().enumerate() {
            // SAFETY: the client's word: there are `count_max` of them, and no more were found.
            unsafe { memory::write(objects.wrapping_add(place), *handle) }?;
        }
        // SAFETY: the client's word.
        unsafe { memory::write(count, ulong(found.len())) }
    })
}

/// `C_FindObjectsFinal`.
#[unsafe(export_name = "C_FindObjectsFinal")]
pub(super) unsafe extern "C" fn find_objects_final(session: CK_SESSION_HANDLE) -> CK_RV {
    with_module(|module| module.finish_find(session))
}
