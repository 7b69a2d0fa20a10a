//! Numbers modulo the order n of the base point, in constant time: what private keys and nonces are
//! made of.
//!
//! # Ranges
//! Every [`Scalar`] is below n, going in and coming out. Products are Montgomery's, with R = 2^256;
//! which values are in Montgomery form, each function says. No branch and no load depends on a
//! value.

use super::field::{add_limbs, limbs, multiply_add, sub_limbs};
use super::verify::N;
use crate::secret::{are_zero, mask, select_four, wipe};

/// A number below n, limbs from the lowest.
#[derive(Clone, Copy)]
pub(super) struct Scalar([u64; 4]);

/// -1/n mod 2^64.
const FACTOR: u64 = {
    // Newton's iteration: each step doubles the number of right bits; 1 is right to one.
    let mut inverse = 1_u64;
    let mut step = 0;
    while step < 6 {
        inverse = inverse.wrapping_mul(2_u64.wrapping_sub(N[0].wrapping_mul(inverse)));
        step += 1;
    }
    inverse.wrapping_neg()
};

/// 2^512 mod n: brings a number into Montgomery form.
const R2: Scalar = Scalar([
    0x9011_92af_7c11_4f20,
    0x3464_504a_de6f_a2fa,
    0x620f_c84c_3aff_e0d4,
    0x1eb5_e412_a22b_3d3b,
]);

impl Scalar {
    pub(super) const ZERO: Self = Self([0; 4]);
    pub(super) const ONE: Self = Self([1, 0, 0, 0]);

    /// The number of 32 big-endian bytes, and 1 if it is below n; otherwise 0 and 0.
    pub(super) fn parse(bytes: &[u8; 32]) -> (Self, u64) {
        let value = limbs(bytes);
        let is_below = u64::from(sub_limbs(&value, &N).1);
        (Self(select_four(mask(is_below), &[0; 4], &value)), is_below)
    }

    /// The number of 32 big-endian bytes modulo n; 2^256 is less than 2n.
    pub(super) fn reduce(bytes: &[u8; 32]) -> Self {
        Self::reduce_limbs(limbs(bytes))
    }

    /// The number modulo n.
    pub(super) fn reduce_limbs(limbs: [u64; 4]) -> Self {
        reduce_once(limbs, false)
    }

    /// Limbs from the lowest.
    pub(super) const fn limbs(&self) -> &[u64; 4] {
        &self.0
    }

    pub(super) fn to_bytes(self) -> [u8; 32] {
        super::field::bytes(&self.0)
    }

    /// 1 if this is 0, else 0.
    pub(super) const fn is_zero(&self) -> u64 {
        are_zero(&self.0)
    }

    /// `set` where the mask is all ones.
    pub(super) const fn select(mask: u64, unset: &Self, set: &Self) -> Self {
        Self(select_four(mask, &unset.0, &set.0))
    }

    pub(super) fn add(&self, other: &Self) -> Self {
        let (sum, carry) = add_limbs(&self.0, &other.0);
        reduce_once(sum, carry)
    }

    pub(super) fn sub(&self, other: &Self) -> Self {
        let (rest, borrow) = sub_limbs(&self.0, &other.0);
        let back = select_four(mask(u64::from(borrow)), &[0; 4], &N);
        Self(add_limbs(&rest, &back).0)
    }

    pub(super) fn negate(&self) -> Self {
        Self::ZERO.sub(self)
    }

    /// self * other / 2^256: the product of a number in Montgomery form with one that is not.
    pub(super) fn montgomery(&self, other: &Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        let (mut t, mut over) = ([0; 4], 0);
        for digit in *a {
            let (t0, c) = multiply_add(digit, b[0], t[0], 0);
            let (t1, c) = multiply_add(digit, b[1], t[1], c);
            let (t2, c) = multiply_add(digit, b[2], t[2], c);
            let (t3, c) = multiply_add(digit, b[3], t[3], c);
            let (t4, above) = multiply_add(1, over, c, 0);
            // The multiple of n that clears the lowest limb.
            let m = t0.wrapping_mul(FACTOR);
            let (_, c) = multiply_add(m, N[0], t0, 0);
            let (t1, c) = multiply_add(m, N[1], t1, c);
            let (t2, c) = multiply_add(m, N[2], t2, c);
            let (t3, c) = multiply_add(m, N[3], t3, c);
            let (t4, c) = multiply_add(1, t4, c, 0);
            t = [t1, t2, t3, t4];
            // What has been summed up is below 2n, so this is 0 or 1.
            over = above.wrapping_add(c);
        }
        reduce_once(t, over != 0)
    }

    /// The Montgomery form of the number.
    pub(super) fn to_montgomery(self) -> Self {
        self.montgomery(&R2)
    }

    /// self * other, neither in Montgomery form.
    pub(super) fn mul(&self, other: &Self) -> Self {
        self.to_montgomery().montgomery(other)
    }

    /// 1 / self, or 0 for 0; in Montgomery form if the number is: self^(n-2) by windows of four
    /// bits, whose values are those of n and no secret.
    pub(super) fn invert_montgomery(&self) -> Self {
        let (exponent, _) = sub_limbs(&N, &[2, 0, 0, 0]);
        let mut powers = [Self::ONE.to_montgomery(); 16];
        for place in 1..powers.len() {
            powers[place] = powers[place - 1].montgomery(self);
        }
        let mut power = powers[0];
        for window in (0..64).rev() {
            for _ in 0..4 {
                power = power.montgomery(&power);
            }
            let digit = exponent[window / 16] >> (window % 16 * 4) & 15;
            power = power.montgomery(&powers[usize::try_from(digit).unwrap_or(0)]);
        }
        power
    }

    pub(super) fn wipe(&mut self) {
        wipe(self, Self::ZERO);
    }
}

/// a, or a - n where that does not go below zero; `carry` stands for 2^256 more.
#[inline(always)]
fn reduce_once(a: [u64; 4], carry: bool) -> Scalar {
    let (less, is_below) = sub_limbs(&a, &N);
    Scalar(select_four(mask(u64::from(is_below & !carry)), &less, &a))
}
