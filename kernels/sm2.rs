//! SM2 over the curve of GB/T 32918.5-2017: verification and signing of many, multiples of points.
//!
//! ```text
//! verify_many(backend, items, verdicts) --one gate--> avx512 (eight side by side) | portable
//! sign_many(backend, items, signatures) --one gate--> avx512 (up to 64 side by side) | portable
//! ```
//!
//! "Valid" always means that this one signature is valid by GB/T 32918.2-2016 7.1 with e given. All
//! that is verified is public, so verification is not constant time; everything that takes a
//! private key, a nonce or another secret scalar is, and leaves none of it on the stack. Refused on
//! the way: r or s outside 1..n, r + s = 0 mod n, a key off the curve, and a sum [s]G + [t]P at
//! infinity, for which other libraries disagree.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod digits;
mod field;
mod known;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod multiply;
mod point;
mod scalar;
mod sign;
#[cfg(test)]
mod tests;
mod verify;

pub use self::known::{KeyTable, tables_many};
pub use self::sign::{PrivateKey, SignItem};
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
    verify::verify_many(items, verdicts);
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

/// Signs each item (GB/T 32918.2-2016 6.1 steps A4 to A6). Constant time.
///
/// `None` where the nonce cannot be used and another must be drawn: it is 0 or not below n, or
/// r = 0, r + k = n or s = 0 follows from it. The signatures are not verified.
///
/// # Panics
/// If `items` and `signatures` differ in length.
pub fn sign_many(backend: Backend, items: &[SignItem<'_>], signatures: &mut [Option<[u8; 64]>]) {
    assert_eq!(items.len(), signatures.len(), "one signature for each item");
    #[cfg(target_arch = "x86_64")]
    if has_lanes(backend) {
        let parts = items.chunks(avx512::SIGNATURES).zip(signatures.chunks_mut(avx512::SIGNATURES));
        for (items, signatures) in parts {
            // One alone is not worth the lanes.
            if items.len() == 1 {
                sign::sign_many(items, signatures);
            } else {
                // SAFETY: the CPU was asked for what the lanes need.
                unsafe { avx512::sign(items, signatures) };
            }
        }
        return;
    }
    sign::sign_many(items, signatures);
}

/// \[scalar\]P of a point x || y, all big-endian. Constant time in the scalar.
///
/// `None` unless the scalar is in 1..n and P is a point of the curve. One multiple has no lanes to
/// fill: every back end computes it in the portable way.
#[must_use]
pub fn multiply(_backend: Backend, scalar: &[u8; 32], point: &[u8; 64]) -> Option<[u8; 64]> {
    sign::multiply_point(scalar, point)
}

/// \[scalar\]G, big-endian; `None` unless the scalar is in 1..n. Constant time.
#[must_use]
pub fn multiply_base(_backend: Backend, scalar: &[u8; 32]) -> Option<[u8; 64]> {
    sign::multiply_base(scalar)
}

/// P + Q of two points x || y, big-endian; `None` unless both are points of the curve and the sum
/// is not at infinity. Variable time, public data only.
#[must_use]
pub fn add_points(p: &[u8; 64], q: &[u8; 64]) -> Option<[u8; 64]> {
    sign::add_points(p, q)
}

/// a * b + c mod n, big-endian; `None` unless all three are below n. Constant time.
#[must_use]
pub fn scalar_multiply_add(a: &[u8; 32], b: &[u8; 32], c: &[u8; 32]) -> Option<[u8; 32]> {
    sign::scalar_multiply_add(a, b, c)
}

/// The points with these x, big-endian, and an odd y or an even one (GB/T 32918.1-2016 A.5.2);
/// `None` where there is none. Variable time, public data only.
///
/// # Panics
/// If `items` and `points` differ in length.
pub fn decompress_many(
    backend: Backend,
    items: &[(&[u8; 32], bool)],
    points: &mut [Option<[u8; 64]>],
) {
    assert_eq!(items.len(), points.len(), "one point for each item");
    #[cfg(target_arch = "x86_64")]
    if has_lanes(backend) && items.len() > 1 {
        const SIDE_BY_SIDE: usize = 2 * avx512::LANES;
        for (items, points) in items.chunks(SIDE_BY_SIDE).zip(points.chunks_mut(SIDE_BY_SIDE)) {
            // SAFETY: the CPU was asked for what the lanes need.
            unsafe { avx512::decompress(items, points) };
        }
        return;
    }
    for ((x, is_odd), point) in items.iter().zip(points) {
        *point = sign::decompress(x, *is_odd);
    }
}
