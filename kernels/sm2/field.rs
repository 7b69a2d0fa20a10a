//! The prime field of the SM2 curve, portable: four 64-bit limbs, Montgomery form.
//!
//! p = 2^256 - 2^224 - 2^96 + 2^64 - 1 (GB/T 32918.5-2017 A.2). Since p = -1 mod 2^64, the
//! Montgomery factor -1/p mod 2^64 is 1, and since p is sparse, a step of the reduction is
//! additions of shifted words and no multiplication.
//!
//! # Ranges
//! Every [`Fe`] is below p, going in and coming out, so that equal values have equal limbs.
//!
//! # Time
//! The arithmetic and `select` are constant time: carries are added, never asked for, and what is
//! chosen is chosen by masks. What answers with a `bool` or an `Option` is for public data only.

use crate::secret::{are_zero, mask, select_four};

/// A field element a, held as a * 2^256 mod p; limbs from the lowest, all of it below p.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fe([u64; 4]);

/// p, limbs from the lowest.
pub(super) const P: [u64; 4] =
    [0xffff_ffff_ffff_ffff, 0xffff_ffff_0000_0000, 0xffff_ffff_ffff_ffff, 0xffff_fffe_ffff_ffff];

/// 2^512 mod p: brings a value into Montgomery form.
const R2: Fe = Fe([
    0x0000_0002_0000_0003,
    0x0000_0002_ffff_ffff,
    0x0000_0001_0000_0001,
    0x0000_0004_0000_0002,
]);

/// a + b + carry; the carry is 0 or 1. On x86-64 by the instruction's own name: the compiler makes
/// half as many more instructions of the chain below.
#[inline(always)]
fn add_carry(a: u64, b: u64, carry: bool) -> (u64, bool) {
    #[cfg(target_arch = "x86_64")]
    {
        let mut sum = 0;
        let over = core::arch::x86_64::_addcarry_u64(u8::from(carry), a, b, &mut sum);
        (sum, over != 0)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let (sum, over) = a.overflowing_add(b);
        let (sum, again) = sum.overflowing_add(u64::from(carry));
        (sum, over | again)
    }
}

/// a - b - borrow.
#[inline(always)]
fn sub_borrow(a: u64, b: u64, borrow: bool) -> (u64, bool) {
    #[cfg(target_arch = "x86_64")]
    {
        let mut rest = 0;
        let under = core::arch::x86_64::_subborrow_u64(u8::from(borrow), a, b, &mut rest);
        (rest, under != 0)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let (rest, under) = a.overflowing_sub(b);
        let (rest, again) = rest.overflowing_sub(u64::from(borrow));
        (rest, under | again)
    }
}

/// a * b as (low, high).
#[inline(always)]
fn multiply(a: u64, b: u64) -> (u64, u64) {
    multiply_add(a, b, 0, 0)
}

/// a * b + c + d as (low, high); cannot overflow.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
pub(super) fn multiply_add(a: u64, b: u64, c: u64, d: u64) -> (u64, u64) {
    let wide = u128::from(a) * u128::from(b) + u128::from(c) + u128::from(d);
    (wide as u64, (wide >> 64) as u64)
}

/// Limbs from the lowest of 32 big-endian bytes.
pub(super) fn limbs(bytes: &[u8; 32]) -> [u64; 4] {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_be_bytes(word)
    };
    [word(24), word(16), word(8), word(0)]
}

/// 32 big-endian bytes of limbs from the lowest.
pub(super) fn bytes(limbs: &[u64; 4]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (word, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(limbs.iter().rev()) {
        *word = limb.to_be_bytes();
    }
    bytes
}

/// a + b and whether it left 2^256. Always inlined: in a crate that is compiled in parts the
/// compiler left some calls to it, for a twelfth of a verification's time.
#[inline(always)]
pub(super) fn add_limbs(a: &[u64; 4], b: &[u64; 4]) -> ([u64; 4], bool) {
    let (s0, c) = add_carry(a[0], b[0], false);
    let (s1, c) = add_carry(a[1], b[1], c);
    let (s2, c) = add_carry(a[2], b[2], c);
    let (s3, c) = add_carry(a[3], b[3], c);
    ([s0, s1, s2, s3], c)
}

/// a - b mod 2^256 and whether b is larger.
#[inline(always)]
pub(super) fn sub_limbs(a: &[u64; 4], b: &[u64; 4]) -> ([u64; 4], bool) {
    let (d0, c) = sub_borrow(a[0], b[0], false);
    let (d1, c) = sub_borrow(a[1], b[1], c);
    let (d2, c) = sub_borrow(a[2], b[2], c);
    let (d3, c) = sub_borrow(a[3], b[3], c);
    ([d0, d1, d2, d3], c)
}

/// a, or a - p where that does not go below zero; `carry` stands for 2^256 more.
#[inline(always)]
fn reduce_once(a: [u64; 4], carry: bool) -> Fe {
    let (less, is_below) = sub_limbs(&a, &P);
    let keep = u64::from(is_below & !carry).wrapping_neg();
    Fe(select_four(keep, &less, &a))
}

/// a + p mod 2^256 if there was a borrow: 2^256 - p, which has two words of one bit and one of 32,
/// is taken away, for less than masking p and adding it takes.
#[inline(always)]
fn add_p_if(a: [u64; 4], borrow: bool) -> [u64; 4] {
    let one = u64::from(borrow);
    let top = one << 32;
    sub_limbs(&a, &[one, top.wrapping_sub(one), 0, top]).0
}

/// a * b, row by row: the low halves of a row's products and their high halves are a chain of
/// carries each.
#[inline(always)]
fn product(a: &[u64; 4], b: &[u64; 4]) -> [u64; 8] {
    let (t0, high0) = multiply(a[0], b[0]);
    let (low1, high1) = multiply(a[1], b[0]);
    let (low2, high2) = multiply(a[2], b[0]);
    let (low3, high3) = multiply(a[3], b[0]);
    let (t1, carry) = add_carry(low1, high0, false);
    let (t2, carry) = add_carry(low2, high1, carry);
    let (t3, carry) = add_carry(low3, high2, carry);
    let (t4, _) = add_carry(high3, 0, carry);
    let (t1, [t2, t3, t4, t5]) = add_row([t1, t2, t3, t4], a, b[1]);
    let (t2, [t3, t4, t5, t6]) = add_row([t2, t3, t4, t5], a, b[2]);
    let (t3, [t4, t5, t6, t7]) = add_row([t3, t4, t5, t6], a, b[3]);
    [t0, t1, t2, t3, t4, t5, t6, t7]
}

/// t + a * b as the lowest word and the four above it; cannot overflow.
#[inline(always)]
fn add_row(t: [u64; 4], a: &[u64; 4], b: u64) -> (u64, [u64; 4]) {
    let (low0, high0) = multiply(a[0], b);
    let (low1, high1) = multiply(a[1], b);
    let (low2, high2) = multiply(a[2], b);
    let (low3, high3) = multiply(a[3], b);
    let (t0, carry) = add_carry(t[0], low0, false);
    let (t1, carry) = add_carry(t[1], low1, carry);
    let (t2, carry) = add_carry(t[2], low2, carry);
    let (t3, carry) = add_carry(t[3], low3, carry);
    let (high3, _) = add_carry(high3, 0, carry);
    let (t1, carry) = add_carry(t1, high0, false);
    let (t2, carry) = add_carry(t2, high1, carry);
    let (t3, carry) = add_carry(t3, high2, carry);
    let (t4, _) = add_carry(high3, 0, carry);
    (t0, [t1, t2, t3, t4])
}

/// a^2.
#[inline(always)]
fn square(a: &[u64; 4]) -> [u64; 8] {
    // The products of two different limbs, then twice that, then the squares.
    let (t1, c) = multiply_add(a[0], a[1], 0, 0);
    let (t2, c) = multiply_add(a[0], a[2], c, 0);
    let (t3, t4) = multiply_add(a[0], a[3], c, 0);
    let (t3, c) = multiply_add(a[1], a[2], t3, 0);
    let (t4, t5) = multiply_add(a[1], a[3], t4, c);
    let (t5, t6) = multiply_add(a[2], a[3], t5, 0);
    let (t1, carry) = add_carry(t1, t1, false);
    let (t2, carry) = add_carry(t2, t2, carry);
    let (t3, carry) = add_carry(t3, t3, carry);
    let (t4, carry) = add_carry(t4, t4, carry);
    let (t5, carry) = add_carry(t5, t5, carry);
    let (t6, carry) = add_carry(t6, t6, carry);
    let t7 = u64::from(carry);
    let (t0, high) = multiply_add(a[0], a[0], 0, 0);
    let (t1, c) = add_carry(t1, high, false);
    let (low, high) = multiply_add(a[1], a[1], 0, 0);
    let (t2, c) = add_carry(t2, low, c);
    let (t3, c) = add_carry(t3, high, c);
    let (low, high) = multiply_add(a[2], a[2], 0, 0);
    let (t4, c) = add_carry(t4, low, c);
    let (t5, c) = add_carry(t5, high, c);
    let (low, high) = multiply_add(a[3], a[3], 0, 0);
    let (t6, c) = add_carry(t6, low, c);
    let (t7, _) = add_carry(t7, high, c);
    [t0, t1, t2, t3, t4, t5, t6, t7]
}

/// t - u, or p * 2^256 more where that is negative, for products t and u of numbers below p.
#[inline(always)]
fn difference(t: [u64; 8], u: [u64; 8]) -> [u64; 8] {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = t;
    let [u0, u1, u2, u3, u4, u5, u6, u7] = u;
    let (t0, borrow) = sub_borrow(t0, u0, false);
    let (t1, borrow) = sub_borrow(t1, u1, borrow);
    let (t2, borrow) = sub_borrow(t2, u2, borrow);
    let (t3, borrow) = sub_borrow(t3, u3, borrow);
    let (t4, borrow) = sub_borrow(t4, u4, borrow);
    let (t5, borrow) = sub_borrow(t5, u5, borrow);
    let (t6, borrow) = sub_borrow(t6, u6, borrow);
    let (t7, borrow) = sub_borrow(t7, u7, borrow);
    let [t4, t5, t6, t7] = add_p_if([t4, t5, t6, t7], borrow);
    [t0, t1, t2, t3, t4, t5, t6, t7]
}

/// (t + m * p) / 2^64 for the number t of the words m, a, b, c: its lowest word is cleared and
/// dropped. Without it, m * p is
/// ```text
/// m * (2^192 - 2^160 - 2^32 + 1) = m * 2^192 - (m << 160) - m * (2^32 - 1)
/// ```
/// that is, m comes to be the highest word, and of the rest one number is made that is taken away.
/// For t below 2^256 the result is too: it is below (2^256 + (2^64 - 1) * p) / 2^64 < p + 2^161.
#[inline(always)]
fn clear([m, a, b, c]: [u64; 4]) -> [u64; 4] {
    let (low, high) = (m << 32, m >> 32);
    let (times_ones, borrow) = sub_borrow(low, m, false);
    let (times_ones_high, _) = sub_borrow(high, 0, borrow);
    sub_limbs(&[a, b, c, m], &[times_ones, times_ones_high, low, high]).0
}

/// (t / 2^256) mod p for t below p * 2^256. The low half alone is made a multiple of 2^256 in four
/// steps; what then stands in its place is at most p, being below p + 1:
/// ```text
/// low = (t mod 2^256 + q * p) / 2^256,  q < 2^256;   t / 2^256 = t >> 256 + low  (mod p)
/// ```
/// p less than this sum is the difference of two numbers that are at most p, the first below it, so
/// that one p more where it is negative makes it right.
#[inline(always)]
fn reduce(t: [u64; 8]) -> Fe {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = t;
    let high = [t4, t5, t6, t7];
    debug_assert!(sub_limbs(&high, &P).1, "below p * 2^256");
    let low = clear(clear(clear(clear([t0, t1, t2, t3]))));
    let (less, is_above) = sub_limbs(&P, &low);
    debug_assert!(!is_above, "at most p");
    let (rest, borrow) = sub_limbs(&high, &less);
    Fe(add_p_if(rest, borrow))
}

impl Fe {
    pub(super) const ZERO: Self = Self([0; 4]);

    /// 2^256 mod p.
    pub(super) const ONE: Self = Self([1, 0xffff_ffff, 0, 0x1_0000_0000]);

    /// The element with these limbs; `None` unless they are below p.
    pub(super) fn from_limbs(limbs: [u64; 4]) -> Option<Self> {
        if !sub_limbs(&limbs, &P).1 {
            return None;
        }
        Some(Self(limbs).mul(&R2))
    }

    /// Limbs of the value, out of Montgomery form.
    pub(super) fn to_limbs(self) -> [u64; 4] {
        let [a, b, c, d] = self.0;
        reduce([a, b, c, d, 0, 0, 0, 0]).0
    }

    /// The limbs as they are held, in Montgomery form, and back; the form is below p.
    pub(super) const fn montgomery(self) -> [u64; 4] {
        self.0
    }

    pub(super) const fn from_montgomery(limbs: [u64; 4]) -> Self {
        Self(limbs)
    }

    pub(super) fn is_zero(&self) -> bool {
        let [a, b, c, d] = self.0;
        (a | b | c | d) == 0
    }

    #[inline(always)]
    pub(super) fn add(&self, other: &Self) -> Self {
        let (sum, carry) = add_limbs(&self.0, &other.0);
        reduce_once(sum, carry)
    }

    #[inline(always)]
    pub(super) fn double(&self) -> Self {
        self.add(self)
    }

    #[inline(always)]
    pub(super) fn sub(&self, other: &Self) -> Self {
        let (rest, borrow) = sub_limbs(&self.0, &other.0);
        Self(add_p_if(rest, borrow))
    }

    pub(super) fn negate(&self) -> Self {
        Self::ZERO.sub(self)
    }

    #[inline(always)]
    pub(super) fn mul(&self, other: &Self) -> Self {
        reduce(product(&self.0, &other.0))
    }

    /// a * b - c * d, reduced once.
    #[inline(always)]
    pub(super) fn difference_of_products(a: &Self, b: &Self, c: &Self, d: &Self) -> Self {
        reduce(difference(product(&a.0, &b.0), product(&c.0, &d.0)))
    }

    /// a * b - c^2, reduced once.
    #[inline(always)]
    pub(super) fn product_less_square(a: &Self, b: &Self, c: &Self) -> Self {
        reduce(difference(product(&a.0, &b.0), square(&c.0)))
    }

    #[inline(always)]
    pub(super) fn square(&self) -> Self {
        reduce(square(&self.0))
    }

    /// self^(2^count).
    fn square_times(&self, count: u32) -> Self {
        (0..count).fold(*self, |power, _| power.square())
    }

    /// What the chains below have in common: self to the powers of 30, 31 and 32 bits of ones, and
    /// of the 160 bits of p + 1 or p - 2 that are highest: 31 ones, a zero, 128 ones.
    fn powers(&self) -> (Self, Self, Self) {
        let ones2 = self.square().mul(self);
        let ones3 = ones2.square().mul(self);
        let ones6 = ones3.square_times(3).mul(&ones3);
        let ones12 = ones6.square_times(6).mul(&ones6);
        let ones15 = ones12.square_times(3).mul(&ones3);
        let ones30 = ones15.square_times(15).mul(&ones15);
        let ones31 = ones30.square().mul(self);
        let ones32 = ones31.square().mul(self);
        let high = ones31.square_times(33).mul(&ones32);
        let high = high.square_times(32).mul(&ones32);
        let high = high.square_times(32).mul(&ones32);
        (ones30, ones32, high.square_times(32).mul(&ones32))
    }

    /// 1 / self, or 0 for 0: self^(p-2). Constant time; 255 squarings and 15 products.
    pub(super) fn invert(&self) -> Self {
        let (ones30, ones32, high) = self.powers();
        // 32 zeros, 62 ones, a zero, a one.
        let power = high.square_times(64).mul(&ones32);
        power.square_times(30).mul(&ones30).square_times(2).mul(self)
    }

    /// A square root of self if it has one, or anything: self^((p+1)/4). Constant time.
    pub(super) fn root(&self) -> Self {
        let (_, _, high) = self.powers();
        // 31 zeros, a one, 62 zeros.
        high.square_times(32).mul(self).square_times(62)
    }

    /// Half of the value.
    #[inline(always)]
    pub(super) fn halve(&self) -> Self {
        // p is odd: an odd value becomes even by adding it.
        let odd = (self.0[0] & 1).wrapping_neg();
        let (sum, carry) = add_limbs(&self.0, &[P[0] & odd, P[1] & odd, P[2] & odd, P[3] & odd]);
        Self([
            sum[0] >> 1 | sum[1] << 63,
            sum[1] >> 1 | sum[2] << 63,
            sum[2] >> 1 | sum[3] << 63,
            sum[3] >> 1 | u64::from(carry) << 63,
        ])
    }

    /// `set` where the mask is all ones, `unset` where it is 0.
    #[inline(always)]
    pub(super) const fn select(mask: u64, unset: &Self, set: &Self) -> Self {
        Self(select_four(mask, &unset.0, &set.0))
    }

    /// The negative where the mask is all ones.
    #[inline(always)]
    pub(super) fn negate_if(&self, mask: u64) -> Self {
        Self::select(mask, self, &self.negate())
    }

    /// All ones if this is 0, else 0.
    #[inline(always)]
    pub(super) fn zero_mask(&self) -> u64 {
        mask(are_zero(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Numbers;

    /// t mod p bit by bit: slow, and nothing like the code it checks.
    fn remainder(t: &[u64; 8]) -> [u64; 4] {
        let mut rest = [0; 4];
        for bit in (0..512).rev() {
            let (twice, carry) = add_limbs(&rest, &rest);
            // Twice a number below p is even: the bit finds its place.
            let twice = [twice[0] | t[bit / 64] >> (bit % 64) & 1, twice[1], twice[2], twice[3]];
            let (less, is_below) = sub_limbs(&twice, &P);
            rest = if carry || !is_below { less } else { twice };
        }
        rest
    }

    /// The result times 2^256 is what was reduced, and it is below p.
    fn check(low: [u64; 4], high: [u64; 4]) {
        let [a, b, c, d] = low;
        let [e, f, g, h] = high;
        let t = [a, b, c, d, e, f, g, h];
        let Fe(limbs @ [e, f, g, h]) = reduce(t);
        assert!(sub_limbs(&limbs, &P).1, "{t:x?}");
        assert_eq!(remainder(&[0, 0, 0, 0, e, f, g, h]), remainder(&t), "{t:x?}");
    }

    fn word(numbers: &mut Numbers) -> u64 {
        match numbers.next() % 8 {
            0 => 0,
            1 => u64::MAX,
            2 => 0xffff_ffff_0000_0000,
            3 => 0x0000_0000_ffff_ffff,
            4 => 1,
            _ => numbers.next(),
        }
    }

    #[test]
    fn what_is_reduced_comes_out_below_p() {
        let mut numbers = Numbers(7);
        let by = |number: u64| sub_limbs(&P, &[number, 0, 0, 0]).0;
        // A low half of p leaves p after the four steps, the most there is.
        let lows = [P, by(1), by(2), add_limbs(&P, &[1, 0, 0, 0]).0, [0; 4], [u64::MAX; 4]];
        let highs = [by(1), by(2), [0; 4], [1, 0, 0, 0], [u64::MAX, u64::MAX, u64::MAX, 0]];
        for low in lows {
            for high in highs {
                check(low, high);
            }
        }
        for round in 0..4_000_usize {
            let low = core::array::from_fn(|_| word(&mut numbers));
            let high = core::array::from_fn(|_| word(&mut numbers));
            let high = if sub_limbs(&high, &P).1 { high } else { by(1) };
            check(low, high);
            check(lows[round % lows.len()], high);
            check(low, highs[round % highs.len()]);
        }
    }

    #[test]
    fn differences_of_the_largest_products_are_right() {
        let minus_one = Fe(sub_limbs(&P, &[1, 0, 0, 0]).0);
        let edges = [Fe::ZERO, Fe([1, 0, 0, 0]), Fe::ONE, minus_one, Fe([u64::MAX, 0, 0, 0])];
        for a in edges {
            for b in edges {
                for c in edges {
                    let expected = a.mul(&b).sub(&c.square());
                    assert_eq!(Fe::product_less_square(&a, &b, &c), expected);
                    assert_eq!(Fe::difference_of_products(&a, &b, &c, &c), expected);
                    assert_eq!(c.mul(&c), c.square());
                }
            }
        }
    }
}
