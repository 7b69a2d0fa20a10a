//! The library's functions, one safe function for each: pointers and lengths are made here from
//! borrowed slices, and what comes back is checked against them.
//!
//! Every call relies on what PKCS#11 promises and no caller can check: that a library reads and
//! writes only where and as far as it was told, and keeps no pointer after it returns. The comments
//! at the calls name what *we* promise: that each pointer is valid for the length that goes with
//! it.

mod crypt;
mod keys;
mod objects;
mod sessions;
mod slots;

pub(super) use crypt::Transform;

use cryptoki_sys as ck;

use crate::error::TriesLeft;
use crate::{Error, ErrorClass, Rv};

/// The function list of a loaded library.
pub(super) struct Functions {
    list: ck::CK_FUNCTION_LIST,
}

/// Who initialised the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// This call did.
    Ours,
    /// It was initialised already, by other code of this process.
    Others,
}

impl Functions {
    /// Checks that the functions no client can do without are there. Others may be missing, and say
    /// so when they are called.
    pub(super) fn new(list: ck::CK_FUNCTION_LIST) -> Result<Self, String> {
        let needed = [
            ("C_Initialize", list.C_Initialize.is_some()),
            ("C_Finalize", list.C_Finalize.is_some()),
            ("C_GetInfo", list.C_GetInfo.is_some()),
            ("C_GetSlotList", list.C_GetSlotList.is_some()),
            ("C_GetSlotInfo", list.C_GetSlotInfo.is_some()),
            ("C_GetTokenInfo", list.C_GetTokenInfo.is_some()),
            ("C_GetMechanismList", list.C_GetMechanismList.is_some()),
            ("C_OpenSession", list.C_OpenSession.is_some()),
            ("C_CloseSession", list.C_CloseSession.is_some()),
            ("C_GetSessionInfo", list.C_GetSessionInfo.is_some()),
            ("C_Login", list.C_Login.is_some()),
            ("C_GetAttributeValue", list.C_GetAttributeValue.is_some()),
            ("C_FindObjectsInit", list.C_FindObjectsInit.is_some()),
            ("C_FindObjects", list.C_FindObjects.is_some()),
            ("C_FindObjectsFinal", list.C_FindObjectsFinal.is_some()),
            ("C_SignInit", list.C_SignInit.is_some()),
            ("C_Sign", list.C_Sign.is_some()),
        ];
        let missing: Vec<_> =
            needed.iter().filter(|(_, is_there)| !is_there).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            Ok(Self { list })
        } else {
            Err(format!("its list of functions lacks {}", missing.join(", ")))
        }
    }

    /// PKCS#11 3.1 `C_Initialize`, with the system's own locks: threads call it at once.
    pub(super) fn initialise(&self) -> Result<Start, Error> {
        const NAME: &str = "C_Initialize";
        let call = there(NAME, self.list.C_Initialize)?;
        let mut arguments =
            ck::CK_C_INITIALIZE_ARGS { flags: ck::CKF_OS_LOCKING_OK, ..Default::default() };
        // SAFETY: the arguments are on this stack; no functions for locks are given.
        let rv = unsafe { call((&raw mut arguments).cast()) };
        if rv == ck::CKR_CRYPTOKI_ALREADY_INITIALIZED {
            return Ok(Start::Others);
        }
        check(NAME, rv).map(|()| Start::Ours)
    }

    /// PKCS#11 3.1 `C_Finalize`.
    pub(super) fn finalise(&self) -> Result<(), Error> {
        const NAME: &str = "C_Finalize";
        let call = there(NAME, self.list.C_Finalize)?;
        // SAFETY: the argument is reserved and null; the last user of the library is here, so that
        // no call of ours is under way.
        let rv = unsafe { call(std::ptr::null_mut()) };
        check(NAME, rv)
    }
}

/// Turns what a function returned into a result.
pub(super) fn check(function: &'static str, rv: ck::CK_RV) -> Result<(), Error> {
    if rv == ck::CKR_OK {
        return Ok(());
    }
    let rv = Rv(rv);
    Err(Error::Call { function, rv, class: rv.class() })
}

/// A function that may be missing in the list.
fn there<F>(function: &'static str, pointer: Option<F>) -> Result<F, Error> {
    let rv = Rv(ck::CKR_FUNCTION_NOT_SUPPORTED);
    pointer.ok_or(Error::Call { function, rv, class: ErrorClass::Permanent })
}

/// A size as the C interface wants it.
pub(super) fn length(size: usize) -> ck::CK_ULONG {
    // No slice is longer than the largest `CK_ULONG`.
    ck::CK_ULONG::try_from(size).unwrap_or(ck::CK_ULONG::MAX)
}

/// A length that a library gave, if it is at most `size_max`.
fn size(what: &'static str, given: ck::CK_ULONG, size_max: usize) -> Result<usize, Error> {
    usize::try_from(given).ok().filter(|size| *size <= size_max).ok_or_else(|| {
        let reason = format!("it gave length {given} where {size_max} is the most");
        Error::AnswerMalformed { what, reason }
    })
}

/// Makes [`Error::PinRefused`] of a refusal of a PIN, with what the token tells of the attempts
/// left.
pub(super) fn refused_pin(
    error: Error,
    tries_left: impl FnOnce() -> Result<TriesLeft, Error>,
) -> Error {
    match error {
        Error::Call { rv: rv @ Rv(0xa0..=0xa4), .. } => {
            let tries_left = match tries_left() {
                Ok(TriesLeft::Unknown) | Err(_) if rv.0 == ck::CKR_PIN_LOCKED => TriesLeft::None,
                Ok(left) => left,
                Err(_) => TriesLeft::Unknown,
            };
            Error::PinRefused { rv, tries_left }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_names_what_it_lacks() {
        let reason = Functions::new(ck::CK_FUNCTION_LIST::default()).err().unwrap();
        assert!(reason.contains("C_Initialize, C_Finalize"), "{reason}");
        assert!(reason.ends_with("C_SignInit, C_Sign"), "{reason}");
    }

    #[test]
    fn lengths_beyond_the_buffer_are_refused() {
        assert_eq!(size("signature", 64, 64).unwrap(), 64);
        let error = size("signature", 65, 64).unwrap_err();
        assert!(matches!(error, Error::AnswerMalformed { what: "signature", .. }));
        assert!(size("signature", ck::CK_UNAVAILABLE_INFORMATION, 64).is_err());
    }

    #[test]
    fn a_refused_pin_says_what_is_left_and_other_errors_stay() {
        let refused = |rv: u64, left: Result<TriesLeft, Error>| {
            refused_pin(check("C_Login", rv).unwrap_err(), || left)
        };
        let left = |error: Error| match error {
            Error::PinRefused { tries_left, .. } => Some(tries_left),
            _ => None,
        };
        assert_eq!(left(refused(0xa0, Ok(TriesLeft::One))), Some(TriesLeft::One));
        assert_eq!(left(refused(0xa4, Ok(TriesLeft::Unknown))), Some(TriesLeft::None));
        assert_eq!(left(refused(0xa4, Err(Error::SignatureWrong))), Some(TriesLeft::None));
        assert_eq!(left(refused(0xa0, Err(Error::SignatureWrong))), Some(TriesLeft::Unknown));
        assert_eq!(left(refused(0x30, Ok(TriesLeft::One))), None);
    }
}
