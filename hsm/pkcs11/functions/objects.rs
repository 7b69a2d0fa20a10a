//! Objects: found, read, made, changed and destroyed.

use cryptoki_sys as ck;

use super::{Functions, check, length, size, there};
use crate::Error;
use crate::pkcs11::template::{Attribute, raw};

impl Functions {
    /// PKCS#11 3.1 `C_FindObjectsInit`.
    pub(crate) fn find_start(&self, session: u64, template: &[Attribute]) -> Result<(), Error> {
        const NAME: &str = "C_FindObjectsInit";
        let call = there(NAME, self.list.C_FindObjectsInit)?;
        let mut template = raw(template);
        let count = length(template.len());
        // SAFETY: the template is here for the call, and what it points to is borrowed.
        let rv = unsafe { call(session, template.as_mut_ptr(), count) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_FindObjects`: how many handles were written to `found`.
    pub(crate) fn find_next(&self, session: u64, found: &mut [u64]) -> Result<usize, Error> {
        const NAME: &str = "C_FindObjects";
        let call = there(NAME, self.list.C_FindObjects)?;
        let mut count = 0;
        // SAFETY: the place for handles is borrowed for the call, as long as its length says.
        let rv = unsafe { call(session, found.as_mut_ptr(), length(found.len()), &raw mut count) };
        check(NAME, rv)?;
        size("the list of objects", count, found.len())
    }

    /// PKCS#11 3.1 `C_FindObjectsFinal`.
    pub(crate) fn find_end(&self, session: u64) -> Result<(), Error> {
        const NAME: &str = "C_FindObjectsFinal";
        let call = there(NAME, self.list.C_FindObjectsFinal)?;
        // SAFETY: the call takes no pointer.
        let rv = unsafe { call(session) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_GetAttributeValue` for one attribute: what was returned, and the length that
    /// the library gave, `CK_UNAVAILABLE_INFORMATION` where there is no value. Without a place for
    /// the value, its length is asked for.
    pub(crate) fn attribute(
        &self,
        session: u64,
        object: u64,
        kind: u64,
        place: Option<&mut [u8]>,
    ) -> Result<(ck::CK_RV, u64), Error> {
        const NAME: &str = "C_GetAttributeValue";
        let call = there(NAME, self.list.C_GetAttributeValue)?;
        let (value, size) = match place {
            Some(place) => (place.as_mut_ptr().cast(), place.len()),
            None => (std::ptr::null_mut(), 0),
        };
        let mut raw = ck::CK_ATTRIBUTE { type_: kind, pValue: value, ulValueLen: length(size) };
        // SAFETY: the attribute is on this stack; its place is null or borrowed for the call, as
        // long as its length says.
        let rv = unsafe { call(session, object, &raw mut raw, 1) };
        Ok((rv, raw.ulValueLen))
    }

    /// PKCS#11 3.1 `C_SetAttributeValue`.
    pub(crate) fn set_attributes(
        &self,
        session: u64,
        object: u64,
        template: &[Attribute],
    ) -> Result<(), Error> {
        const NAME: &str = "C_SetAttributeValue";
        let call = there(NAME, self.list.C_SetAttributeValue)?;
        let mut template = raw(template);
        let count = length(template.len());
        // SAFETY: the template is here for the call, and what it points to is borrowed.
        let rv = unsafe { call(session, object, template.as_mut_ptr(), count) };
        check(NAME, rv)
    }

    /// PKCS#11 3.1 `C_CreateObject`.
    pub(crate) fn create_object(&self, session: u64, template: &[Attribute]) -> Result<u64, Error> {
        const NAME: &str = "C_CreateObject";
        let call = there(NAME, self.list.C_CreateObject)?;
        let mut template = raw(template);
        let count = length(template.len());
        let mut object = ck::CK_INVALID_HANDLE;
        // SAFETY: the template and the place for the answer are here for the call, and what the
        // template points to is borrowed.
        let rv = unsafe { call(session, template.as_mut_ptr(), count, &raw mut object) };
        check(NAME, rv).map(|()| object)
    }

    /// PKCS#11 3.1 `C_DestroyObject`.
    pub(crate) fn destroy_object(&self, session: u64, object: u64) -> Result<(), Error> {
        const NAME: &str = "C_DestroyObject";
        let call = there(NAME, self.list.C_DestroyObject)?;
        // SAFETY: the call takes no pointer.
        let rv = unsafe { call(session, object) };
        check(NAME, rv)
    }
}
