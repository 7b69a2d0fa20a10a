//! SM2 signatures over the curve of GB/T 32918.5-2017: verification of many, a verdict for each.
//!
//! ```text
//! verify_many(backend, items, verdicts) --one gate--> avx512 (eight side by side) | portable
//! ```
//!
//! "Valid" always means that this one signature is valid by GB/T 32918.2-2016 7.1 with e given. All
//! that is verified is public, so nothing here is constant time. Refused on the way: r or s outside
//! 1..n, r + s = 0 mod n, a key off the curve, and a sum [s]G + [t]P at infinity, for which other
//! libraries disagree.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod field;
mod point;
#[cfg(test)]
mod tests;
mod verify;

use crate::Backend;
use crate::backend::Instructions;

/// Below this number of items the lanes do not pay.
const LIVE_MIN: usize = 2;

/// What is verified.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// The public key x || y, big-endian.
    pub key: &'a [u8; 64],
    /// e, big-endian; any 32 bytes.
    pub digest: &'a [u8; 32],
    /// r || s, big-endian.
    pub signature: &'a [u8; 64],
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The key's owner signed the digest.
    Valid,
    /// He did not.
    SignatureInvalid,
    /// The key is no point of the curve.
    KeyInvalid,
}

/// Gives each item its verdict; a bad item has no influence on the others.
///
/// # Panics
/// If `items` and `verdicts` differ in length.
pub fn verify_many(backend: Backend, items: &[Item<'_>], verdicts: &mut [Verdict]) {
    assert_eq!(items.len(), verdicts.len(), "one verdict for each item");
    #[cfg(target_arch = "x86_64")]
    if backend.0 == Instructions::Avx512
        && std::is_x86_feature_detected!("avx512ifma")
        && std::is_x86_feature_detected!("avx512vbmi2")
    {
        let parts = items.chunks(avx512::ITEMS).zip(verdicts.chunks_mut(avx512::ITEMS));
        for (items, verdicts) in parts {
            if items.len() < LIVE_MIN {
                verdicts.copy_from_slice(&[verify::verify(&items[0])]);
                continue;
            }
            if items.len() > avx512::ITEMS / 2 {
                // SAFETY: the CPU was asked for AVX-512 F when the back end was made, and for the
                // rest here.
                unsafe { avx512::verify::<2>(items, verdicts) };
            } else {
                // SAFETY: as above.
                unsafe { avx512::verify::<1>(items, verdicts) };
            }
        }
        return;
    }
    for (item, verdict) in items.iter().zip(verdicts) {
        *verdict = verify::verify(item);
    }
}

/// Whether x || y, big-endian, is a point of the curve other than the one at infinity (GB/T
/// 32918.1-2016 6.2.1; the order of every such point is n).
#[must_use]
pub fn is_on_curve(key: &[u8; 64]) -> bool {
    verify::point(key).is_some()
}
