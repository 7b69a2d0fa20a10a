//! Return values and numbers of PKCS#11, as the rest of this crate handles them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys::{CK_RV, CK_ULONG, CKR_ARGUMENTS_BAD};

/// What an operation gives, or the return value that says why not.
pub(crate) type Answer<T> = Result<T, CK_RV>;

/// A count or size as PKCS#11 has them; on the platforms of this crate both have 64 bits.
pub(crate) fn ulong(size: usize) -> CK_ULONG {
    CK_ULONG::try_from(size).unwrap_or(CK_ULONG::MAX)
}

/// A size that a client gives.
pub(crate) fn size(value: CK_ULONG) -> Answer<usize> {
    usize::try_from(value).map_err(|_| CKR_ARGUMENTS_BAD)
}

/// The content of a lock. Who panicked with it held answered with `CKR_GENERAL_ERROR`; everything
/// behind these locks is whole between any two statements, so that others go on.
pub(crate) fn locked<T: ?Sized>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
