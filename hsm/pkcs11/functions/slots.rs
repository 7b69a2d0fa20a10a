//! What the library, its slots, tokens and mechanisms are.

use cryptoki_sys as ck;

use super::{Functions, check, length, size, there};
use crate::Error;

/// Most slots of a library, and most mechanisms of a token, that are believed.
const LIST_COUNT_MAX: usize = 4_096;

/// How often a list that grew between two calls is asked for.
const LIST_ATTEMPTS_MAX: usize = 4;

impl Functions {
    /// PKCS#11 3.1 `C_GetInfo`.
    pub(crate) fn library_info(&self) -> Result<ck::CK_INFO, Error> {
        const NAME: &str = "C_GetInfo";
        let call = there(NAME, self.list.C_GetInfo)?;
        let mut info = ck::CK_INFO::default();
        // SAFETY: the place for the answer is on this stack.
        let rv = unsafe { call(&raw mut info) };
        check(NAME, rv).map(|()| info)
    }

    /// PKCS#11 3.1 `C_GetSlotList`, slots with a token only.
    pub(crate) fn slots(&self) -> Result<Vec<u64>, Error> {
        const NAME: &str = "C_GetSlotList";
        let call = there(NAME, self.list.C_GetSlotList)?;
        list(NAME, "the list of slots", |place, count| {
            // SAFETY: the place is null or holds as many numbers as `count` says.
            unsafe { call(ck::CK_TRUE, place, count) }
        })
    }

    /// PKCS#11 3.1 `C_GetSlotInfo`.
    pub(crate) fn slot_info(&self, slot: u64) -> Result<ck::CK_SLOT_INFO, Error> {
        const NAME: &str = "C_GetSlotInfo";
        let call = there(NAME, self.list.C_GetSlotInfo)?;
        let mut info = ck::CK_SLOT_INFO {
            slotDescription: [0; 64],
            manufacturerID: [0; 32],
            flags: 0,
            hardwareVersion: ck::CK_VERSION::default(),
            firmwareVersion: ck::CK_VERSION::default(),
        };
        // SAFETY: the place for the answer is on this stack.
        let rv = unsafe { call(slot, &raw mut info) };
        check(NAME, rv).map(|()| info)
    }

    /// PKCS#11 3.1 `C_GetTokenInfo`.
    pub(crate) fn token_info(&self, slot: u64) -> Result<ck::CK_TOKEN_INFO, Error> {
        const NAME: &str = "C_GetTokenInfo";
        let call = there(NAME, self.list.C_GetTokenInfo)?;
        let mut info = ck::CK_TOKEN_INFO::default();
        // SAFETY: the place for the answer is on this stack.
        let rv = unsafe { call(slot, &raw mut info) };
        check(NAME, rv).map(|()| info)
    }

    /// PKCS#11 3.1 `C_GetMechanismList`.
    pub(crate) fn mechanisms(&self, slot: u64) -> Result<Vec<u64>, Error> {
        const NAME: &str = "C_GetMechanismList";
        let call = there(NAME, self.list.C_GetMechanismList)?;
        list(NAME, "the list of mechanisms", |place, count| {
            // SAFETY: the place is null or holds as many numbers as `count` says.
            unsafe { call(slot, place, count) }
        })
    }

    /// PKCS#11 3.1 `C_GetMechanismInfo`.
    pub(crate) fn mechanism_info(
        &self,
        slot: u64,
        code: u64,
    ) -> Result<ck::CK_MECHANISM_INFO, Error> {
        const NAME: &str = "C_GetMechanismInfo";
        let call = there(NAME, self.list.C_GetMechanismInfo)?;
        let mut info = ck::CK_MECHANISM_INFO::default();
        // SAFETY: the place for the answer is on this stack.
        let rv = unsafe { call(slot, code, &raw mut info) };
        check(NAME, rv).map(|()| info)
    }

    /// PKCS#11 3.1 `C_InitToken`; the label is padded with blanks.
    pub(crate) fn init_token(
        &self,
        slot: u64,
        so_pin: &[u8],
        mut label: [u8; 32],
    ) -> Result<(), Error> {
        const NAME: &str = "C_InitToken";
        let call = there(NAME, self.list.C_InitToken)?;
        let pin = super::sessions::pin_pointer(so_pin);
        // SAFETY: the PIN is borrowed for the call or NULL for the pad, the label is on this
        // stack, 32 bytes long.
        let rv = unsafe { call(slot, pin, length(so_pin.len()), label.as_mut_ptr()) };
        check(NAME, rv)
    }
}

/// Asks for a list's length, then for the list; again, a bounded number of times, where it grew
/// in between.
fn list(
    name: &'static str,
    what: &'static str,
    mut call: impl FnMut(*mut ck::CK_ULONG, *mut ck::CK_ULONG) -> ck::CK_RV,
) -> Result<Vec<u64>, Error> {
    for _attempt in 0..LIST_ATTEMPTS_MAX {
        let mut count = 0;
        check(name, call(std::ptr::null_mut(), &raw mut count))?;
        let mut items = vec![0; size(what, count, LIST_COUNT_MAX)?];
        if items.is_empty() {
            return Ok(items);
        }
        let rv = call(items.as_mut_ptr(), &raw mut count);
        if rv != ck::CKR_BUFFER_TOO_SMALL {
            check(name, rv)?;
            items.truncate(size(what, count, items.len())?);
            return Ok(items);
        }
    }
    Err(Error::AnswerMalformed { what, reason: "it grew at each call".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers like a library: `counts` to the questions for the length, `given` numbers then.
    fn asked(counts: &[u64], given: u64, rv: ck::CK_RV) -> (Result<Vec<u64>, Error>, usize) {
        let mut calls = 0;
        let result = list("C_GetSlotList", "the list", |place, count| {
            let is_question = place.is_null();
            // SAFETY: `list` hands in a place for one number.
            let count = unsafe { &mut *count };
            if is_question {
                *count = counts[(calls / 2).min(counts.len() - 1)];
                calls += 1;
                return ck::CKR_OK;
            }
            calls += 1;
            *count = given;
            if calls / 2 < counts.len() { ck::CKR_BUFFER_TOO_SMALL } else { rv }
        });
        (result, calls)
    }

    #[test]
    fn a_list_that_grew_is_asked_again_and_no_longer_than_bounded() {
        assert_eq!(asked(&[2], 2, ck::CKR_OK).0.unwrap(), [0, 0]);
        assert_eq!(asked(&[2], 1, ck::CKR_OK).0.unwrap(), [0], "a slot went in between");
        let (grown, calls) = asked(&[1, 2, 3], 3, ck::CKR_OK);
        assert_eq!((grown.unwrap().len(), calls), (3, 6));
        let (endless, calls) = asked(&[1; 9], 1, ck::CKR_OK);
        assert!(endless.is_err());
        assert_eq!(calls, 2 * LIST_ATTEMPTS_MAX);
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        assert!(asked(&[u64::MAX], 0, ck::CKR_OK).0.is_err());
        assert!(asked(&[4_097], 0, ck::CKR_OK).0.is_err());
        assert!(asked(&[2], 3, ck::CKR_OK).0.is_err(), "more than there was room for");
        assert!(asked(&[0], 0, ck::CKR_OK).0.unwrap().is_empty());
        assert!(asked(&[2], 2, ck::CKR_DEVICE_ERROR).0.is_err());
    }
}
