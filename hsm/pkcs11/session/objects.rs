//! Objects of a token, through a session.

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use super::Session;
use crate::Error;
use crate::pkcs11::functions::check;
use crate::pkcs11::template::{ATTRIBUTE_BYTES_MAX, Attribute, AttributeValue};

/// Most objects of one [`Session::find`].
pub const FOUND_MAX: usize = 65_536;

/// Handles asked for at once.
const FOUND_AT_ONCE: usize = 64;

/// Bytes in which most attributes fit, so that one call is enough for them.
const USUAL_BYTES: usize = 512;

impl Session {
    /// Handles of the objects that fit `template`, `count_max` at most (and [`FOUND_MAX`]). Who
    /// must know that there is one only asks for two.
    ///
    /// # Errors
    /// What the library says.
    pub fn find(&self, template: &[Attribute], count_max: usize) -> Result<Vec<u64>, Error> {
        self.functions().find_start(self.handle, template)?;
        let found = self.found(count_max.min(FOUND_MAX));
        // A search that is left open makes the next one fail, so it is ended after an error too.
        let end = self.functions().find_end(self.handle);
        if end.is_err() {
            self.is_spoiled.set(true);
        }
        let found = found?;
        end.map(|()| found)
    }

    fn found(&self, count_max: usize) -> Result<Vec<u64>, Error> {
        let mut found = Vec::new();
        let mut place = [ck::CK_INVALID_HANDLE; FOUND_AT_ONCE];
        while found.len() < count_max {
            let wanted = FOUND_AT_ONCE.min(count_max - found.len());
            let place = place.get_mut(..wanted).unwrap_or(&mut []);
            let count = self.functions().find_next(self.handle, place)?;
            if count == 0 {
                break;
            }
            found.extend(place.iter().take(count));
        }
        Ok(found)
    }

    /// What `object` tells of each of `kinds`, in their order (PKCS#11 3.1 `C_GetAttributeValue`).
    /// Each is asked for alone: of several at once, the return value does not say which of them is
    /// sensitive and which unknown.
    ///
    /// # Errors
    /// What the library says, or [`Error::AnswerMalformed`] for a value longer than
    /// [`ATTRIBUTE_BYTES_MAX`].
    pub fn attributes(&self, object: u64, kinds: &[u64]) -> Result<Vec<AttributeValue>, Error> {
        kinds.iter().map(|kind| self.attribute(object, *kind)).collect()
    }

    fn attribute(&self, object: u64, kind: u64) -> Result<AttributeValue, Error> {
        let mut place = Zeroizing::new([0_u8; USUAL_BYTES]);
        let (rv, size) =
            self.functions().attribute(self.handle, object, kind, Some(place.as_mut_slice()))?;
        if rv != ck::CKR_BUFFER_TOO_SMALL {
            return attribute_value(rv, size, place.as_slice());
        }
        let (rv, size) = self.functions().attribute(self.handle, object, kind, None)?;
        check("C_GetAttributeValue", rv)?;
        let size = usize::try_from(size).ok().filter(|size| *size <= ATTRIBUTE_BYTES_MAX);
        let size = size.ok_or_else(|| {
            let reason = format!("it is longer than {ATTRIBUTE_BYTES_MAX} bytes");
            Error::AnswerMalformed { what: "an attribute", reason }
        })?;
        let mut place = Zeroizing::new(vec![0; size]);
        let (rv, size) =
            self.functions().attribute(self.handle, object, kind, Some(place.as_mut_slice()))?;
        attribute_value(rv, size, place.as_slice())
    }

    /// PKCS#11 3.1 `C_CreateObject`.
    ///
    /// # Errors
    /// What the library says.
    pub fn create_object(&self, template: &[Attribute]) -> Result<u64, Error> {
        self.functions().create_object(self.handle, template)
    }

    /// PKCS#11 3.1 `C_DestroyObject`.
    ///
    /// # Errors
    /// What the library says.
    pub fn destroy_object(&self, object: u64) -> Result<(), Error> {
        self.functions().destroy_object(self.handle, object)
    }

    /// PKCS#11 3.1 `C_SetAttributeValue`.
    ///
    /// # Errors
    /// What the library says.
    pub fn set_attributes(&self, object: u64, template: &[Attribute]) -> Result<(), Error> {
        self.functions().set_attributes(self.handle, object, template)
    }
}

/// What the answer to one question says.
fn attribute_value(rv: ck::CK_RV, size: u64, place: &[u8]) -> Result<AttributeValue, Error> {
    match rv {
        ck::CKR_ATTRIBUTE_SENSITIVE => return Ok(AttributeValue::Sensitive),
        ck::CKR_ATTRIBUTE_TYPE_INVALID => return Ok(AttributeValue::Unknown),
        _ => check("C_GetAttributeValue", rv)?,
    }
    // Some libraries say CKR_OK and no value where they should say that it is unknown.
    if size == ck::CK_UNAVAILABLE_INFORMATION {
        return Ok(AttributeValue::Unknown);
    }
    let value = usize::try_from(size).ok().and_then(|size| place.get(..size));
    value.map(|value| AttributeValue::Value(value.to_vec())).ok_or_else(|| {
        let reason = format!("it gave length {size} where {} is the most", place.len());
        Error::AnswerMalformed { what: "an attribute", reason }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_about_an_attribute_is_believed_within_its_place_only() {
        let place = [7_u8; 4];
        let of = |rv, size| attribute_value(rv, size, &place);
        assert_eq!(of(ck::CKR_OK, 2).unwrap(), AttributeValue::Value(vec![7, 7]));
        assert_eq!(of(ck::CKR_OK, 0).unwrap(), AttributeValue::Value(vec![]));
        assert_eq!(of(ck::CKR_ATTRIBUTE_SENSITIVE, 2).unwrap(), AttributeValue::Sensitive);
        assert_eq!(of(ck::CKR_ATTRIBUTE_TYPE_INVALID, 9).unwrap(), AttributeValue::Unknown);
        assert_eq!(of(ck::CKR_OK, u64::MAX).unwrap(), AttributeValue::Unknown);
        assert!(of(ck::CKR_OK, 5).is_err());
        assert!(of(ck::CKR_DEVICE_ERROR, 2).is_err());
    }
}
