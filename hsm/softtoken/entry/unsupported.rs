//! Functions that are there, because a list may have no hole, and do nothing: one for each number
//! of arguments.

use cryptoki_sys::{CK_RV, CKR_FUNCTION_NOT_SUPPORTED};

use super::with_module;

/// A function of C has as many arguments as it has: no function of ours stands for several.
macro_rules! unsupported {
    ($($name:ident($($argument:ident)+);)+) => {$(
        #[allow(clippy::too_many_arguments, reason = "as PKCS#11 has them")]
        pub(super) unsafe extern "C" fn $name<$($argument),+>($(_: $argument),+) -> CK_RV {
            with_module(|_| Err(CKR_FUNCTION_NOT_SUPPORTED))
        }
    )+};
}

unsupported! {
    with_1(A);
    with_3(A B C);
    with_5(A B C D E);
    with_6(A B C D E F);
    with_7(A B C D E F G);
    with_8(A B C D E F G H);
    with_9(A B C D E F G H I);
}
