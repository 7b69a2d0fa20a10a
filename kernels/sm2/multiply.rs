//! Multiples of points by secret scalars, portable, in constant time.
//!
//! # How
//! A scalar k in 1..n is made odd: if it is even, n - k stands in and the result is negated. An odd
//! number below 2^256 is a sum of digits d(i) * 2^(W*i), every digit odd and below 2^W either way,
//! the highest positive; so no digit is ever 0 and every scalar takes the same additions. [`base`]
//! adds one point of a table for each digit and doubles nothing; [`point`] doubles W times between
//! additions. An entry of a table is read by reading all of them and masking all but one.
//!
//! # Why additions of distinct points will do
//! Both start with the highest digit. Write V(i) for the sum of the digits from i up, each with its
//! power; then |k - V(i)| < 2^(W*i), and V(i) >= 2^(W*i) > 0. The addition of digit i joins the
//! multiples V(i+1) and a = d(i) * 2^(W*i) of one point of the prime order n, with
//! |a| < 2^(W*(i+1)) <= V(i+1). They are opposite only if n divides V(i+1) + a, equal only if n
//! divides V(i+1) - a. Both numbers are positive and at most 2^256 in the first addition, below
//! n + 2^253 in all others: less than 2n. So they would have to be n, which is odd; but they are
//! multiples of 2^(W*i): impossible for i > 0. In the last addition V(0) is k, not n, but equal
//! points can be met, for one k or none: that addition is complete, for all k at the same price.

use std::sync::OnceLock;

use super::field::Fe;
use super::point::{Affine, Jacobian, Multiple};
use super::scalar::Scalar;
use crate::secret::mask;

/// Bits of a digit, digits and multiples for each digit of the base point.
const BASE_WINDOW: usize = 6;
const BASE_DIGITS: usize = 43;
const BASE_MULTIPLES: usize = 1 << (BASE_WINDOW - 1);

/// The same of any other point; the highest digit is always 1.
const POINT_WINDOW: usize = 5;
const POINT_DIGITS: usize = 52;
const POINT_MULTIPLES: usize = 1 << (POINT_WINDOW - 1);

/// A scalar in 1..n made odd.
pub(super) struct Odd {
    pub(super) limbs: [u64; 4],
    /// All ones if n - k stands in for k.
    is_negated: u64,
}

/// One digit: the place of its odd number in a table, and all ones if it is negative.
struct Digit {
    place: u64,
    is_negative: u64,
}

impl Odd {
    pub(super) fn new(scalar: &Scalar) -> Self {
        let is_negated = mask(scalar.limbs()[0] & 1 ^ 1);
        let odd = Scalar::select(is_negated, scalar, &scalar.negate());
        Self { limbs: *odd.limbs(), is_negated }
    }

    /// Digit `number` of windows of `W` bits.
    #[inline(always)]
    fn digit<const W: usize>(&self, number: usize, is_highest: bool) -> Digit {
        let (limb, shift) = ((W * number + 1) / 64, (W * number + 1) % 64);
        let low = self.limbs.get(limb).map_or(0, |limb| limb >> shift);
        let high = match self.limbs.get(limb + 1) {
            Some(high) if shift > 0 => high << (64 - shift),
            _ => 0,
        };
        let bits = (low | high) & ((1 << W) - 1);
        if is_highest {
            return Digit { place: bits, is_negative: 0 };
        }
        // The digit is 2 * bits + 1 - 2^W.
        let is_negative = mask(bits >> (W - 1) ^ 1);
        Digit { place: (bits ^ is_negative) & ((1 << (W - 1)) - 1), is_negative }
    }
}

/// The entry at `place`, every one of them read. Not inlined: the compiler uses vectors for it only
/// where the result goes to memory.
#[inline(never)]
#[allow(clippy::cast_possible_truncation, reason = "a place in a table is small")]
fn scan<const COUNT: usize>(table: &[[u64; 8]; COUNT], place: u64) -> [u64; 8] {
    let place = place as u32;
    let mut bits = [0_u32; COUNT];
    for (number, bit) in (0_u32..).zip(&mut bits) {
        *bit = (number ^ place).wrapping_sub(1) >> 31;
    }
    // A compiler that knows what the bits are made of branches on them, and has done so.
    let bits = core::hint::black_box(bits);
    let mut chosen = [0; 8];
    for (bit, entry) in bits.iter().zip(table) {
        let mask = u64::from(*bit).wrapping_neg();
        for (word, other) in chosen.iter_mut().zip(entry) {
            *word |= other & mask;
        }
    }
    chosen
}

/// x and y of a point as a table holds them.
fn entry(point: &Affine) -> [u64; 8] {
    let mut words = [0; 8];
    let (x, y) = point.montgomery();
    words[..4].copy_from_slice(&x);
    words[4..].copy_from_slice(&y);
    words
}

/// The point of a digit, every one of the table read.
#[inline(always)]
fn chosen<const COUNT: usize>(table: &[[u64; 8]; COUNT], digit: &Digit) -> Affine {
    let [a, b, c, d, e, f, g, h] = scan(table, digit.place);
    let Affine { x, y } = Affine::from_montgomery([a, b, c, d], [e, f, g, h]);
    Affine { x, y: y.negate_if(digit.is_negative) }
}

/// x and y of (2 * place + 1) * 2^(W * digit) * G.
type BaseTable = [[[u64; 8]; BASE_MULTIPLES]; BASE_DIGITS];

/// 88 KB, made at first use.
fn base_table() -> &'static BaseTable {
    static TABLE: OnceLock<Box<BaseTable>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Box::new([[[0; 8]; BASE_MULTIPLES]; BASE_DIGITS]);
        for (row, points) in table.iter_mut().zip(BaseRows::<BASE_MULTIPLES>::new()) {
            for (entry, point) in row.iter_mut().zip(points) {
                *entry = self::entry(&point);
            }
        }
        table
    })
}

/// The rows of a table for the digits of [`Odd`], from the lowest and without end: all
/// (2 * place + 1) * 2^(W * digit) * G, for windows of W bits with 2^(W-1) `MULTIPLES`.
pub(super) struct BaseRows<const MULTIPLES: usize>(Jacobian);

impl<const MULTIPLES: usize> BaseRows<MULTIPLES> {
    pub(super) fn new() -> Self {
        Self(Jacobian::from(Affine::generator()))
    }
}

impl<const MULTIPLES: usize> Iterator for BaseRows<MULTIPLES> {
    type Item = [Affine; MULTIPLES];

    fn next(&mut self) -> Option<Self::Item> {
        let twice = self.0.double();
        let mut multiple = self.0;
        let multiples: [Jacobian; MULTIPLES] = core::array::from_fn(|_| {
            let this = multiple;
            multiple = multiple.add(&twice);
            this
        });
        // After 2^(W-1) steps of 2 from 1 comes 2^W + 1.
        self.0 = multiple.add(&self.0.negate());
        let mut affine = [Affine::generator(); MULTIPLES];
        Jacobian::normalise(&multiples, &mut affine);
        Some(affine)
    }
}

/// 1 / a of each element, none of which may be 0, by one inversion. Constant time.
pub(super) fn invert_many<const COUNT: usize>(elements: &[Fe; COUNT]) -> [Fe; COUNT] {
    let mut inverses = [Fe::ONE; COUNT];
    let mut product = Fe::ONE;
    for (before, element) in inverses.iter_mut().zip(elements) {
        *before = product;
        product = product.mul(element);
    }
    let mut inverse = product.invert();
    for (before, element) in inverses.iter_mut().zip(elements).rev() {
        *before = before.mul(&inverse);
        inverse = inverse.mul(element);
    }
    inverses
}

/// [k]G for k in 1..n; never infinity. Constant time.
pub(super) fn base(scalar: &Scalar) -> Jacobian {
    let odd = Odd::new(scalar);
    let table = base_table();
    let get = |number: usize, is_highest: bool| {
        let digit = odd.digit::<BASE_WINDOW>(number, is_highest);
        chosen(&table[number], &digit)
    };
    let mut sum = Jacobian::from(get(BASE_DIGITS - 1, true));
    for number in (1..BASE_DIGITS - 1).rev() {
        sum = sum.add_affine_distinct(&get(number, false));
    }
    sum = sum.add_complete(&Jacobian::from(get(0, false)).to_multiple());
    Jacobian { y: sum.y.negate_if(odd.is_negated), ..sum }
}

/// P, 3P, 5P ... over one z.
///
/// 2P is added again and again with its z made that of the sum (see [`Affine::add_with`]): 2P and
/// an odd multiple below 30P are distinct and not opposite, the order being n. The factors from z
/// to z then bring all to the last: that costs less than reading a z and its powers for each.
struct PointTable {
    /// x and y.
    points: [[u64; 8]; POINT_MULTIPLES],
    z: Fe,
    zz: Fe,
    zzz: Fe,
}

impl PointTable {
    fn new(point: &Affine) -> Self {
        let (mut twice, first) = point.double_with();
        let mut points = [first; POINT_MULTIPLES];
        let mut ratios = [Fe::ONE; POINT_MULTIPLES];
        let (mut last, mut z) = (first, point.y);
        for (place, ratio) in points.iter_mut().zip(&mut ratios).skip(1) {
            *ratio = twice.add_with(&mut last);
            *place = last;
            z = z.mul(ratio);
        }
        // From each z to the last; dividing by the inverse of a factor is multiplying by it.
        let mut factor = Fe::ONE;
        for (point, ratio) in points.iter_mut().zip(&ratios).rev() {
            *point = point.divide(&factor);
            factor = factor.mul(ratio);
        }
        let zz = z.square();
        Self { points: points.map(|point| entry(&point)), z, zz, zzz: zz.mul(&z) }
    }

    #[inline(always)]
    fn get(&self, digit: &Digit) -> Multiple {
        let Affine { x, y } = chosen(&self.points, digit);
        Multiple { point: Jacobian { x, y, z: self.z }, zz: self.zz, zzz: self.zzz }
    }
}

/// [k]P for k in 1..n; never infinity. Constant time in k; P need not be public either.
pub(super) fn point(scalar: &Scalar, point: &Affine) -> Jacobian {
    let odd = Odd::new(scalar);
    let table = PointTable::new(point);
    let mut sum = table.get(&odd.digit::<POINT_WINDOW>(POINT_DIGITS - 1, true)).point;
    for number in (0..POINT_DIGITS - 1).rev() {
        sum.double_times(POINT_WINDOW);
        let multiple = table.get(&odd.digit::<POINT_WINDOW>(number, false));
        sum = if number > 0 { sum.add_distinct(&multiple) } else { sum.add_complete(&multiple) };
    }
    Jacobian { y: sum.y.negate_if(odd.is_negated), ..sum }
}
