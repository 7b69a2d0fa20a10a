//! The key derivation function of SM2 (GB/T 32918.4-2016 5.4.3): SM3(Z || 1) || SM3(Z || 2) || ...

use hufu_kernels::{Backend, sm3};
use zeroize::Zeroizing;

/// Bytes of x2 || y2, which Z begins with wherever SM2 derives.
pub(crate) const POINT_SIZE: usize = 64;

/// Digests made side by side, count.
const DIGESTS_PER_CALL: usize = 16;

/// Bytes derived at most: what encryption and key exchange allow lies far below the 2^32 - 1
/// digests of the norm.
pub(crate) const DERIVED_SIZE_MAX: usize = 1 << 30;

/// Fills `out` with KDF(`secret` || `shared`); the time depends on sizes only.
///
/// # Panics
/// If `out` is larger than [`DERIVED_SIZE_MAX`], which callers check.
pub(crate) fn derive(backend: Backend, secret: &[u8; POINT_SIZE], shared: &[u8], out: &mut [u8]) {
    assert!(out.len() <= DERIVED_SIZE_MAX, "the counter does not come round");
    let size = POINT_SIZE + shared.len();
    let mut message = Zeroizing::new(vec![0; size + 4]);
    message[..POINT_SIZE].copy_from_slice(secret);
    message[POINT_SIZE..size].copy_from_slice(shared);
    let mut messages = Zeroizing::new(vec![message.to_vec(); DIGESTS_PER_CALL]);
    let mut digests = Zeroizing::new([[0; sm3::DIGEST_SIZE]; DIGESTS_PER_CALL]);
    let mut counter = 1_u32;
    for part in out.chunks_mut(DIGESTS_PER_CALL * sm3::DIGEST_SIZE) {
        let count = part.len().div_ceil(sm3::DIGEST_SIZE);
        for message in messages.iter_mut().take(count) {
            message[size..].copy_from_slice(&counter.to_be_bytes());
            counter += 1;
        }
        let mut inputs: [&[u8]; DIGESTS_PER_CALL] = [&[]; DIGESTS_PER_CALL];
        for (input, message) in inputs.iter_mut().zip(messages.iter()) {
            *input = message;
        }
        sm3::digest_many(backend, &inputs[..count], &mut digests[..count]);
        part.copy_from_slice(&digests.as_flattened()[..part.len()]);
    }
}

/// Whether two byte strings are equal, in a time that depends on their sizes only.
pub(crate) fn equal(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let different = left.iter().zip(right).fold(0, |found, (a, b)| found | (a ^ b));
    core::hint::black_box(different) == 0
}
