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
mod digits;
mod field;
mod known;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod point;
#[cfg(test)]
mod tests;
mod verify;

pub use self::known::{KeyTable, tables_many};
use crate::Backend;
use crate::backend::Instructions;

/// What is verified.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    /// The public key x || y, big-endian.
    pub key: &'a [u8; 64],
    /// e, big-endian; any 32 bytes.
    pub digest: &'a [u8; 32],
    /// r || s, big-endian.
    pub signature: &'a [u8; 64],
    /// The multiples of the key, if they stand ready.
    pub table: Option<&'a KeyTable>,
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
/// If `items` and `verdicts` differ in length, or an item comes with the table of another key or of
/// another back end.
pub fn verify_many(backend: Backend, items: &[Item<'_>], verdicts: &mut [Verdict]) {
    assert_eq!(items.len(), verdicts.len(), "one verdict for each item");
    for item in items {
        let is_own = item.table.is_none_or(|table| table.is_of(backend, item.key));
        assert!(is_own, "a table serves its own key and the back end that made it");
    }
    #[cfg(target_arch = "x86_64")]
    if has_lanes(backend) {
        lanes::verify_many(items, verdicts);
        return;
    }
    for (item, verdict) in items.iter().zip(verdicts) {
        *verdict = verify::verify(item);
    }
}

/// Whether the back end works in lanes: AVX-512 IFMA is asked for beyond what makes the back end.
fn has_lanes(backend: Backend) -> bool {
    #[cfg(target_arch = "x86_64")]
    if backend.0 == Instructions::Avx512 {
        return std::is_x86_feature_detected!("avx512ifma")
            && std::is_x86_feature_detected!("avx512vbmi2");
    }
    false
}

/// Whether x || y, big-endian, is a point of the curve other than the one at infinity (GB/T
/// 32918.1-2016 6.2.1; the order of every such point is n).
#[must_use]
pub fn is_on_curve(key: &[u8; 64]) -> bool {
    verify::point(key).is_some()
}
