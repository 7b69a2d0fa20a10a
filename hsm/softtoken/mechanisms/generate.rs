//! New keys, from the operating system's randomness.

use cryptoki_sys::*;
use hufu_crypto::{SoftwareSigner, entropy};
use p256::ecdsa::SigningKey;
use zeroize::Zeroizing;

use crate::answer::Answer;

/// Random bytes.
///
/// # Errors
/// `CKR_RANDOM_NO_RNG`.
pub(crate) fn random(bytes: &mut [u8]) -> Answer<()> {
    entropy::fill(bytes).map_err(|_| CKR_RANDOM_NO_RNG)
}

/// A secret of so many bytes.
///
/// # Errors
/// `CKR_RANDOM_NO_RNG`.
pub(crate) fn secret(size: usize) -> Answer<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; size]);
    random(&mut bytes)?;
    Ok(bytes)
}

/// The private scalar of a new pair; what is out of range (once in 2^32) is drawn again.
///
/// # Errors
/// `CKR_RANDOM_NO_RNG`.
pub(crate) fn scalar(is_sm2: bool) -> Answer<Zeroizing<[u8; 32]>> {
    loop {
        let mut bytes = Zeroizing::new([0; 32]);
        random(&mut *bytes)?;
        let good = if is_sm2 {
            SoftwareSigner::from_bytes(&bytes).is_ok()
        } else {
            SigningKey::from_slice(&*bytes).is_ok()
        };
        if good {
            return Ok(bytes);
        }
    }
}
