//! Signatures, portable and in constant time (GB/T 32918.2-2016 6.1, steps A4 to A6 with k given).
//!
//! ```text
//! (x1, y1) = [k]G;  r = e + x1 mod n;  s = (1 + d)^-1 * (k - r * d) = (1 + d)^-1 * (k + r) - r
//! ```
//! The second form of s wants one product and no d. Points are divided by their z for many
//! signatures at once. What is told by a branch is only, at the end, that a nonce cannot be used;
//! it is then thrown away.

use super::field::limbs;
use super::multiply;
use super::point::{Affine, Jacobian};
use super::scalar::Scalar;
use super::verify;
use crate::Backend;
use crate::secret::{mask, wipe_stack};

/// Signatures that share a division.
const CHUNK: usize = 16;

/// An SM2 private key d in the form that signs, with its public key; overwritten when dropped.
///
/// It holds (1 + d)^-1, as secret as d itself, and not d.
pub struct PrivateKey {
    /// (1 + d)^-1 mod n in Montgomery form.
    inverse: Scalar,
    public: [u8; 64],
}

impl PrivateKey {
    /// The key of the big-endian number d; `None` unless it is in 1..=n-2 (GB/T 32918.1-2016 6.1).
    /// Constant time but for that.
    #[must_use]
    pub fn new(_backend: Backend, d: &[u8; 32]) -> Option<Self> {
        let key = Self::derive(d);
        wipe_stack();
        key
    }

    #[inline(never)]
    fn derive(d: &[u8; 32]) -> Option<Self> {
        let (d, is_below) = Scalar::parse(d);
        let next = d.add(&Scalar::ONE);
        if is_below & (d.is_zero() ^ 1) & (next.is_zero() ^ 1) == 0 {
            return None;
        }
        let point = multiply::base(&d);
        let public = point.divide(&point.z.invert()).to_bytes();
        Some(Self { inverse: next.to_montgomery().invert_montgomery(), public })
    }

    /// The public key [d]G as x || y, big-endian.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 64] {
        &self.public
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.inverse.wipe();
    }
}

/// What is signed.
#[derive(Clone, Copy)]
pub struct SignItem<'a> {
    /// The key that signs.
    pub key: &'a PrivateKey,
    /// e, big-endian; any 32 bytes.
    pub digest: &'a [u8; 32],
    /// k, big-endian; secret, and never used for another signature.
    pub nonce: &'a [u8; 32],
}

/// Signs one item; see [`sign_many`].
pub(super) fn sign_one(item: &SignItem<'_>) -> Option<[u8; 64]> {
    let mut signature = [None];
    sign_many(core::slice::from_ref(item), &mut signature);
    let [signature] = signature;
    signature
}

/// Signs each item; `None` where the nonce cannot be used and another must be drawn.
pub(super) fn sign_many(items: &[SignItem<'_>], signatures: &mut [Option<[u8; 64]>]) {
    for (items, signatures) in items.chunks(CHUNK).zip(signatures.chunks_mut(CHUNK)) {
        match items.len() {
            1 => sign_chunk::<1>(items, signatures),
            _ => sign_chunk::<CHUNK>(items, signatures),
        }
    }
    wipe_stack();
}

/// Signs up to `COUNT` items with one division.
#[inline(never)]
fn sign_chunk<const COUNT: usize>(items: &[SignItem<'_>], signatures: &mut [Option<[u8; 64]>]) {
    let mut nonces = [(Scalar::ONE, 0); COUNT];
    let mut points = [Jacobian::from(Affine::generator()); COUNT];
    for ((nonce, point), item) in nonces.iter_mut().zip(&mut points).zip(items) {
        *nonce = parse_nonce(item.nonce);
        *point = multiply::base(&nonce.0);
    }
    let inverses = multiply::invert_many(&points.each_ref().map(|point| point.z));
    for (place, (item, signature)) in items.iter().zip(signatures).enumerate() {
        let x = points[place].x.mul(&inverses[place].square());
        let (nonce, is_usable) = &nonces[place];
        *signature = finish(item, nonce, *is_usable, x.to_limbs());
    }
}

/// The nonce, and 1 if it is in 1..n; otherwise 1 and 0.
pub(super) fn parse_nonce(nonce: &[u8; 32]) -> (Scalar, u64) {
    let (value, is_below) = Scalar::parse(nonce);
    let is_usable = is_below & (value.is_zero() ^ 1);
    (Scalar::select(mask(is_usable), &Scalar::ONE, &value), is_usable)
}

/// Steps A5 and A6 with x1, which is below p and so below 2n.
pub(super) fn finish(
    item: &SignItem<'_>,
    nonce: &Scalar,
    is_usable: u64,
    x: [u64; 4],
) -> Option<[u8; 64]> {
    let r = Scalar::reduce(item.digest).add(&Scalar::reduce_limbs(x));
    let sum = nonce.add(&r);
    let s = item.key.inverse.montgomery(&sum).sub(&r);
    let is_zero = r.is_zero() | sum.is_zero() | s.is_zero();
    if is_usable & (is_zero ^ 1) == 0 {
        return None;
    }
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r.to_bytes());
    signature[32..].copy_from_slice(&s.to_bytes());
    Some(signature)
}

/// [scalar]P; see [`super::multiply`].
pub(super) fn multiply_point(scalar: &[u8; 32], point: &[u8; 64]) -> Option<[u8; 64]> {
    let product = checked_multiple(scalar, &verify::point(point)?);
    wipe_stack();
    product
}

#[inline(never)]
fn checked_multiple(scalar: &[u8; 32], point: &Affine) -> Option<[u8; 64]> {
    let (scalar, is_usable) = parse_nonce(scalar);
    let product = multiply::point(&scalar, point);
    let product = product.divide(&product.z.invert()).to_bytes();
    (is_usable == 1).then_some(product)
}

/// [scalar]G; see [`super::multiply_base`].
pub(super) fn multiply_base(scalar: &[u8; 32]) -> Option<[u8; 64]> {
    let product = checked_base(scalar);
    wipe_stack();
    product
}

#[inline(never)]
fn checked_base(scalar: &[u8; 32]) -> Option<[u8; 64]> {
    let (scalar, is_usable) = parse_nonce(scalar);
    let product = multiply::base(&scalar);
    let product = product.divide(&product.z.invert()).to_bytes();
    (is_usable == 1).then_some(product)
}

/// a * b + c mod n; see [`super::scalar_multiply_add`].
pub(super) fn scalar_multiply_add(a: &[u8; 32], b: &[u8; 32], c: &[u8; 32]) -> Option<[u8; 32]> {
    let sum = checked_multiply_add(a, b, c);
    wipe_stack();
    sum
}

#[inline(never)]
fn checked_multiply_add(a: &[u8; 32], b: &[u8; 32], c: &[u8; 32]) -> Option<[u8; 32]> {
    let [(a, a_below), (b, b_below), (c, c_below)] = [a, b, c].map(Scalar::parse);
    let sum = a.mul(&b).add(&c).to_bytes();
    (a_below & b_below & c_below == 1).then_some(sum)
}

/// The sum of two points; see [`super::add_points`].
pub(super) fn add_points(p: &[u8; 64], q: &[u8; 64]) -> Option<[u8; 64]> {
    let sum = Jacobian::from(verify::point(p)?).add_affine(&verify::point(q)?);
    Some(sum.to_affine()?.to_bytes())
}

/// The point with this x; see [`super::decompress_many`].
pub(super) fn decompress(x: &[u8; 32], is_odd: bool) -> Option<[u8; 64]> {
    Some(Affine::decompress(limbs(x), is_odd)?.to_bytes())
}

#[cfg(test)]
mod tests;
