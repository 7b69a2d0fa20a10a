//! Functions that are there, because a list may have no hole, and do nothing: one for each number
//! of arguments.

use cryptoki_sys::{CK_RV, CKR_FUNCTION_NOT_SUPPORTED};

pub(super) unsafe extern "C" fn with_1<A>(_: A) -> CK_RV {
    CKR_FUNCTION_NOT_SUPPORTED
}

pub(super) unsafe extern "C" fn with_3<A, B, C>(_: A, _: B, _: C) -> CK_RV {
    CKR_FUNCTION_NOT_SUPPORTED
}

pub(super) unsafe extern "C" fn with_5<A, B, C, D, E>(_: A, _: B, _: C, _: D, _: E) -> CK_RV {
    CKR_FUNCTION_NOT_SUPPORTED
}

pub(super) unsafe extern "C" fn with_6<A, B, C, D, E, F>(
    _: A,
    _: B,
    _: C,
    _: D,
    _: E,
    _: F,
) -> CK_RV {
    CKR_FUNCTION_NOT_SUPPORTED
}

pub(super) unsafe extern "C" fn with_7<A, B, C, D, E, F, G>(
    _: A,
    _: B,
    _: C,
    _: D,
    _: E,
    _: F,
    _: G,
) -> CK_RV {
    CKR_FUNCTION_NOT_SUPPORTED
}

pub(super) unsafe extern "C" fn with_8<A, B, C, D, E, F, G, H>(
    _: A,
    _: B,
    _: C,
    _: D,
    _: E,
    _: F,
    _: G,
    _: H,
) -> CK_RV {
    CKR_FUNCTION_NOT_SUPPORTED
}

#[allow(clippy::too_many_arguments, reason = "as PKCS#11 has them")]
pub(super) unsafe extern "C" fn with_9<A, B, C, D, E, F, G, H, I>(
    _: A,
    _: B,
    _: C,
    _: D,
    _: E,
    _: F,
    _: G,
    _: H,
    _: I,
) -> CK_RV {
    CKR_FUNCTION_NOT_SUPPORTED
}
