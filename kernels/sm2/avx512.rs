//! SM2 verification of eight signatures side by side with AVX-512 IFMA: lane l of every vector
//! belongs to item l.
//!
//! # The field
//! Five limbs of 52 bits in Montgomery form with R = 2^260. Since p = -1 mod 2^52, the factor of a
//! step of the reduction is the lowest limb itself; since two of the limbs of p + 1 are 2^52 - 1,
//! two of the four products of a step are a subtraction and an addition. A product is 70 multiply
//! and add instructions.
//!
//! Every [`Fe8`] has limbs below 2^52, the highest below 2^49, and is below 2^256 + 2^253, which is
//! less than 2p: going in and coming out of every function here. A value is therefore 0 modulo p
//! when it is 0 or p.
//!
//! # The curve
//! [t]P by fixed windows of five bits with odd signed digits over a table of the sixteen odd
//! multiples of each key; [s]G by windows of eight bits over a table of all their multiples, so
//! that it needs no doublings. An odd digit is never zero; an even scalar is made odd by adding n.
//! No case is told apart on the way: where two points to be added are equal, opposite or infinite,
//! z becomes 0 and stays so to the end, and that lane, which nobody meets by chance, is judged by
//! the portable code. So is one whose x1 may have been reduced modulo n.

use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_and_si512, _mm512_i64gather_epi64,
    _mm512_loadu_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_blend_epi64,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srai_epi64,
    _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi64,
};
use std::sync::OnceLock;

use super::field::{P, add_limbs, sub_limbs};
use super::point::{Affine, Jacobian};
use super::verify::{self, N, Parsed};
use super::{Item, Verdict};

/// Signatures side by side.
pub(super) const LANES: usize = 8;

const LIMB_BITS: u32 = 52;
const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;

/// Bits and count of the windows of a key, and its table.
const KEY_WINDOW: usize = 5;
const KEY_DIGITS: usize = 52;
const KEY_MULTIPLES: usize = 1 << (KEY_WINDOW - 1);
/// The same of G. The highest digit is always 1.
const BASE_WINDOW: usize = 8;
const BASE_DIGITS: usize = 33;
const BASE_MULTIPLES: usize = 1 << (BASE_WINDOW - 1);

type Limbs = [u64; 5];

/// Limbs of 52 bits of a number of four limbs of 64.
const fn split(a: &[u64; 4]) -> Limbs {
    [
        a[0] & LIMB_MASK,
        (a[0] >> 52 | a[1] << 12) & LIMB_MASK,
        (a[1] >> 40 | a[2] << 24) & LIMB_MASK,
        (a[2] >> 28 | a[3] << 36) & LIMB_MASK,
        a[3] >> 16,
    ]
}

/// The limbs of `split`, put together again; the number is below 2^256.
#[cfg(test)]
const fn join(a: &Limbs) -> [u64; 4] {
    [a[0] | a[1] << 52, a[1] >> 12 | a[2] << 40, a[2] >> 24 | a[3] << 28, a[3] >> 36 | a[4] << 16]
}

/// `count` * p with limbs so large that `factor` times any limb of an [`Fe8`] can be subtracted
/// without a borrow; `count` is at least 4 * `factor`.
const fn padding(count: u64, factor: u64) -> Limbs {
    let p = split(&P);
    let borrowed = factor << 1;
    let mut limbs = [0; 5];
    let mut carry = 0;
    let mut at = 0;
    while at < 5 {
        let sum = p[at] * count + carry;
        carry = if at < 4 { sum >> LIMB_BITS } else { 0 };
        limbs[at] = if at < 4 { sum & LIMB_MASK } else { sum };
        at += 1;
    }
    let mut at = 0;
    while at < 4 {
        limbs[at] += borrowed << LIMB_BITS;
        limbs[at + 1] -= borrowed;
        at += 1;
    }
    limbs
}

const PADDING_4: Limbs = padding(4, 1);
const PADDING_8: Limbs = padding(8, 2);
const PADDING_32: Limbs = padding(32, 8);

/// 2^520 mod p: brings a value into Montgomery form.
const R2: Limbs =
    [0x200_0000_0300, 0xf_ffff_fff0_0000, 0x1_0000_0002, 0x2000_0000_1000, 0x400_0000];

#[derive(Clone, Copy)]
struct Fe8([__m512i; 5]);

/// x, y, z of eight points.
#[derive(Clone, Copy)]
struct Point8 {
    x: Fe8,
    y: Fe8,
    z: Fe8,
}

/// A point of a key's table: with the powers of z that every addition wants.
#[derive(Clone, Copy)]
#[repr(C)]
struct Multiple8 {
    point: Point8,
    zz: Fe8,
    zzz: Fe8,
}

/// Every value a lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(value: u64) -> __m512i {
    _mm512_set1_epi64(value.cast_signed())
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(lanes: &[u64; LANES]) -> __m512i {
    // SAFETY: eight words are the 64 bytes that are read, at any alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(vector: __m512i) -> [u64; LANES] {
    let mut lanes = [0; LANES];
    // SAFETY: eight words are the 64 bytes that are written, at any alignment.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), vector) };
    lanes
}

/// The words at `offsets`, in words from the beginning of `table`.
#[target_feature(enable = "avx512f")]
#[inline]
fn gather(table: &[u64], offsets: __m512i) -> __m512i {
    debug_assert!(
        store(offsets).iter().all(|at| usize::try_from(*at).is_ok_and(|at| at < table.len()))
    );
    // SAFETY: all offsets lie within the table: they are made of digits below the table's length
    // and of the numbers of limbs and lanes, which the callers' tables have.
    unsafe { _mm512_i64gather_epi64::<8>(offsets, table.as_ptr().cast()) }
}

impl Fe8 {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn all(limbs: &Limbs) -> Self {
        Self([
            broadcast(limbs[0]),
            broadcast(limbs[1]),
            broadcast(limbs[2]),
            broadcast(limbs[3]),
            broadcast(limbs[4]),
        ])
    }

    /// Values that are not in Montgomery form yet.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn new(values: &[[u64; 4]; LANES]) -> Self {
        let values = values.each_ref().map(split);
        let mut raw = [_mm512_setzero_si512(); 5];
        for (at, limb) in raw.iter_mut().enumerate() {
            *limb = load(&values.map(|value| value[at]));
        }
        Self(raw).mul(&Self::all(&R2))
    }

    /// Limbs from [`Fe8`]'s limbs of up to 62 bits without a sign, of a value that is not reduced:
    /// what lies above 2^256 comes back as 2^224 + 2^96 - 2^64 + 1 times as much.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn fold(t: [__m512i; 5]) -> Self {
        let above = _mm512_srli_epi64::<48>(t[4]);
        let top = _mm512_and_si512(t[4], broadcast((1 << 48) - 1));
        let t0 = _mm512_add_epi64(t[0], above);
        let t1 = _mm512_add_epi64(t[1], _mm512_slli_epi64::<44>(above));
        let t1 = _mm512_sub_epi64(t1, _mm512_slli_epi64::<12>(above));
        let t4 = _mm512_add_epi64(top, _mm512_slli_epi64::<16>(above));
        Self::carry([t0, t1, t[2], t[3], t4])
    }

    /// Limbs below 2^52 from limbs with a sign, of a value that is in range.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn carry(t: [__m512i; 5]) -> Self {
        let mask = broadcast(LIMB_MASK);
        let [t0, t1, t2, t3, t4] = t;
        let t1 = _mm512_add_epi64(t1, _mm512_srai_epi64::<LIMB_BITS>(t0));
        let t2 = _mm512_add_epi64(t2, _mm512_srai_epi64::<LIMB_BITS>(t1));
        let t3 = _mm512_add_epi64(t3, _mm512_srai_epi64::<LIMB_BITS>(t2));
        let t4 = _mm512_add_epi64(t4, _mm512_srai_epi64::<LIMB_BITS>(t3));
        Self([
            _mm512_and_si512(t0, mask),
            _mm512_and_si512(t1, mask),
            _mm512_and_si512(t2, mask),
            _mm512_and_si512(t3, mask),
            t4,
        ])
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn add(&self, other: &Self) -> Self {
        let (a, b) = (&self.0, &other.0);
        Self::fold([
            _mm512_add_epi64(a[0], b[0]),
            _mm512_add_epi64(a[1], b[1]),
            _mm512_add_epi64(a[2], b[2]),
            _mm512_add_epi64(a[3], b[3]),
            _mm512_add_epi64(a[4], b[4]),
        ])
    }

    /// self - 2^S * other, with the padding that is made for it.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn sub_shifted<const S: u32>(&self, other: &Self, padding: &Limbs) -> Self {
        let mut t = self.0;
        for at in 0..5 {
            let less = _mm512_slli_epi64::<S>(other.0[at]);
            t[at] = _mm512_sub_epi64(_mm512_add_epi64(t[at], broadcast(padding[at])), less);
        }
        Self::fold(t)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn sub(&self, other: &Self) -> Self {
        self.sub_shifted::<0>(other, &PADDING_4)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn negate(&self) -> Self {
        Self([_mm512_setzero_si512(); 5]).sub(self)
    }

    /// 2^S times the value.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn shifted<const S: u32>(&self) -> Self {
        let mut t = self.0;
        for limb in &mut t {
            *limb = _mm512_slli_epi64::<S>(*limb);
        }
        Self::fold(t)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn triple(&self) -> Self {
        let mut t = self.0;
        for limb in &mut t {
            *limb = _mm512_add_epi64(*limb, _mm512_slli_epi64::<1>(*limb));
        }
        Self::fold(t)
    }

    /// One step of the reduction: what makes the lowest limb a multiple of 2^52, and its carry.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn step(low: __m512i, t: [__m512i; 5]) -> [__m512i; 5] {
        let limbs = const { split(&P) };
        // Of p + 1: the lowest limb is 0, the next one more than that of p, two are 2^52 - 1.
        let (second, highest) = (broadcast(limbs[1] + 1), broadcast(limbs[4]));
        let factor = _mm512_and_si512(low, broadcast(LIMB_MASK));
        let carry = _mm512_srai_epi64::<LIMB_BITS>(low);
        let [t1, t2, t3, t4, t5] = t;
        [
            _mm512_madd52lo_epu64(_mm512_add_epi64(t1, carry), factor, second),
            _mm512_madd52hi_epu64(_mm512_sub_epi64(t2, factor), factor, second),
            t3,
            _mm512_madd52lo_epu64(_mm512_add_epi64(t4, factor), factor, highest),
            _mm512_madd52hi_epu64(t5, factor, highest),
        ]
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn mul(&self, other: &Self) -> Self {
        let a = &self.0;
        let zero = _mm512_setzero_si512();
        let mut t = [zero; 5];
        for b in other.0 {
            let low = _mm512_madd52lo_epu64(t[0], a[0], b);
            let t1 = _mm512_madd52lo_epu64(t[1], a[1], b);
            let t2 = _mm512_madd52lo_epu64(t[2], a[2], b);
            let t3 = _mm512_madd52lo_epu64(t[3], a[3], b);
            let t4 = _mm512_madd52lo_epu64(t[4], a[4], b);
            let t1 = _mm512_madd52hi_epu64(t1, a[0], b);
            let t2 = _mm512_madd52hi_epu64(t2, a[1], b);
            let t3 = _mm512_madd52hi_epu64(t3, a[2], b);
            let t4 = _mm512_madd52hi_epu64(t4, a[3], b);
            let t5 = _mm512_madd52hi_epu64(zero, a[4], b);
            t = Self::step(low, [t1, t2, t3, t4, t5]);
        }
        Self::carry(t)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn square(&self) -> Self {
        let a = &self.0;
        let zero = _mm512_setzero_si512();
        // The products of two different limbs, once, then twice that and the squares.
        let mut t = [zero; 10];
        for i in 0..5 {
            for j in i + 1..5 {
                t[i + j] = _mm512_madd52lo_epu64(t[i + j], a[i], a[j]);
                t[i + j + 1] = _mm512_madd52hi_epu64(t[i + j + 1], a[i], a[j]);
            }
        }
        for limb in &mut t {
            *limb = _mm512_add_epi64(*limb, *limb);
        }
        for i in 0..5 {
            t[2 * i] = _mm512_madd52lo_epu64(t[2 * i], a[i], a[i]);
            t[2 * i + 1] = _mm512_madd52hi_epu64(t[2 * i + 1], a[i], a[i]);
        }
        let mut low = [t[0], t[1], t[2], t[3], t[4]];
        for next in [t[5], t[6], t[7], t[8], t[9]] {
            let [first, second, third, fourth, fifth] = low;
            low = Self::step(first, [second, third, fourth, fifth, next]);
        }
        Self::carry(low)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn select(mask: __mmask8, unset: &Self, set: &Self) -> Self {
        let mut chosen = unset.0;
        for (at, limb) in chosen.iter_mut().enumerate() {
            *limb = _mm512_mask_blend_epi64(mask, *limb, set.0[at]);
        }
        Self(chosen)
    }

    /// The lanes' limbs.
    #[target_feature(enable = "avx512f")]
    fn to_lanes(self) -> [Limbs; LANES] {
        let limbs = self.0.map(|limb| store(limb));
        core::array::from_fn(|lane| limbs.map(|limb| limb[lane]))
    }

    /// Which lanes are 0 modulo p.
    #[target_feature(enable = "avx512f")]
    fn are_zero(self) -> [bool; LANES] {
        self.to_lanes().map(|value| value == [0; 5] || value == const { split(&P) })
    }
}

impl Point8 {
    /// Twice the points; "dbl-2001-b" with 2yz multiplied out.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn double(&self) -> Self {
        let Self { x, y, z } = self;
        let delta = z.square();
        let gamma = y.square();
        let beta = x.mul(&gamma);
        let alpha = x.sub(&delta).mul(&x.add(&delta)).triple();
        let z3 = y.mul(z).shifted::<1>();
        let beta4 = beta.shifted::<2>();
        let x3 = alpha.square().sub_shifted::<1>(&beta4, &PADDING_8);
        let gammas = gamma.square();
        let y3 = alpha.mul(&beta4.sub(&x3)).sub_shifted::<3>(&gammas, &PADDING_32);
        Self { x: x3, y: y3, z: z3 }
    }

    /// The sums with points of a table.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&self, other: &Multiple8) -> Self {
        let zz = self.z.square();
        let (u1, u2) = (self.x.mul(&other.zz), other.point.x.mul(&zz));
        let s1 = self.y.mul(&other.zzz);
        let s2 = other.point.y.mul(&zz.mul(&self.z));
        let h = u2.sub(&u1);
        let z = self.z.mul(&other.point.z).mul(&h);
        Self::sum(&u1, &s1, &h, &s2.sub(&s1), z)
    }

    /// The sums with points whose z is 1.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add_affine(&self, x: &Fe8, y: &Fe8) -> Self {
        let zz = self.z.square();
        let h = x.mul(&zz).sub(&self.x);
        let r = y.mul(&zz.mul(&self.z)).sub(&self.y);
        let z = self.z.mul(&h);
        Self::sum(&self.x, &self.y, &h, &r, z)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn sum(x: &Fe8, y: &Fe8, h: &Fe8, r: &Fe8, z: Fe8) -> Self {
        let hh = h.square();
        let hhh = hh.mul(h);
        let v = x.mul(&hh);
        let x3 = r.square().sub(&hhh).sub_shifted::<1>(&v, &PADDING_8);
        let y3 = r.mul(&v.sub(&x3)).sub(&y.mul(&hhh));
        Self { x: x3, y: y3, z }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn to_multiple(self) -> Multiple8 {
        let zz = self.z.square();
        Multiple8 { point: self, zz, zzz: zz.mul(&self.z) }
    }
}

/// P, 3P, 5P ... of eight keys.
struct KeyTable([Multiple8; KEY_MULTIPLES]);

/// Words of a vector, and of one entry of a [`KeyTable`]: five values of five limbs.
const LANE_WORDS: u64 = 8;
const MULTIPLE_WORDS: u64 = 25 * LANE_WORDS;
const TABLE_WORDS: usize = size_of::<KeyTable>() / size_of::<u64>();

impl KeyTable {
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn new(x: Fe8, y: Fe8) -> Self {
        let one = Fe8::new(&[[1, 0, 0, 0]; LANES]);
        let first = Point8 { x, y, z: one };
        let twice = first.double().to_multiple();
        let mut multiple = first;
        let mut table = [first.to_multiple(); KEY_MULTIPLES];
        for place in &mut table[1..] {
            multiple = multiple.add(&twice);
            *place = multiple.to_multiple();
        }
        Self(table)
    }

    /// The multiple that each lane's digit asks for.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn get(&self, digits: &Digits8) -> Multiple8 {
        // SAFETY: the table is made of vectors of eight words and nothing else, one after another.
        let words: &[u64] =
            unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), TABLE_WORDS) };
        let entries = load(&digits.places.map(|place| u64::from(place) * MULTIPLE_WORDS));
        let first = _mm512_add_epi64(entries, load(&[0, 1, 2, 3, 4, 5, 6, 7]));
        let field = |number: u64| {
            let mut limbs = [first; 5];
            for (limb, at) in limbs.iter_mut().zip(number * 5..) {
                *limb = gather(words, _mm512_add_epi64(first, broadcast(at * LANE_WORDS)));
            }
            Fe8(limbs)
        };
        let y = field(1);
        let y = Fe8::select(digits.negative, &y, &y.negate());
        let point = Point8 { x: field(0), y, z: field(2) };
        Multiple8 { point, zz: field(3), zzz: field(4) }
    }
}

/// One digit of each lane: the place of its odd multiple in a table, and which are negative.
struct Digits8 {
    places: [u8; LANES],
    negative: __mmask8,
}

/// Digit `number` of odd scalars below 2^257, with windows of `W` bits: one of the odd numbers
/// -(2^W - 1) ..= 2^W - 1. The sum of all digits times 2^(W * number) is the scalar.
fn digits<const W: usize>(scalars: &[Odd; LANES], number: usize, is_highest: bool) -> Digits8 {
    let half = 1 << (W - 1);
    let mut digits = Digits8 { places: [0; LANES], negative: 0 };
    for (lane, scalar) in scalars.iter().enumerate() {
        let bits = scalar.bits::<W>(W * number + 1);
        digits.places[lane] = if is_highest {
            bits
        } else if bits >= half {
            bits - half
        } else {
            digits.negative |= 1 << lane;
            half - 1 - bits
        };
    }
    digits
}

/// An odd number below 2^257, limbs from the lowest.
#[derive(Clone, Copy)]
struct Odd([u64; 5]);

impl Odd {
    /// The scalar, or n more if it is even: the same multiple of any point.
    fn new(scalar: &[u64; 4]) -> Self {
        if scalar[0] & 1 == 1 {
            let [a, b, c, d] = *scalar;
            return Self([a, b, c, d, 0]);
        }
        let ([a, b, c, d], carry) = add_limbs(scalar, &N);
        Self([a, b, c, d, u64::from(carry)])
    }

    /// `W` bits, at most 8, from `place` up.
    #[allow(clippy::cast_possible_truncation, reason = "masked to at most eight bits")]
    fn bits<const W: usize>(&self, place: usize) -> u8 {
        let (limb, shift) = (place / 64, place % 64);
        let low = self.0[limb] >> shift;
        let high = match self.0.get(limb + 1) {
            Some(high) if shift > 0 => high << (64 - shift),
            _ => 0,
        };
        ((low | high) & ((1 << W) - 1)) as u8
    }
}

/// Limbs of x and y of (2 * place + 1) * 2^(8 * digit) * G, in Montgomery form.
type BaseTable = [[[u64; 10]; BASE_MULTIPLES]; BASE_DIGITS];

/// 338 KB, made at first use.
fn base_table() -> &'static BaseTable {
    static TABLE: OnceLock<Box<BaseTable>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Box::new([[[0; 10]; BASE_MULTIPLES]; BASE_DIGITS]);
        let mut power = Jacobian::from(Affine::generator());
        for row in table.iter_mut() {
            let twice = power.double();
            let mut multiple = power;
            for entry in row.iter_mut() {
                *entry = base_entry(multiple);
                multiple = multiple.add(&twice);
            }
            for _ in 0..BASE_WINDOW {
                power = power.double();
            }
        }
        table
    })
}

fn base_entry(point: Jacobian) -> [u64; 10] {
    let Some(affine) = point.to_affine() else {
        unreachable!("a multiple of G below n is not at infinity")
    };
    let (x, y) = affine.coordinates();
    let mut entry = [0; 10];
    entry[..5].copy_from_slice(&split(&times_r(x)));
    entry[5..].copy_from_slice(&split(&times_r(y)));
    entry
}

/// a * 2^260 mod p.
fn times_r(mut a: [u64; 4]) -> [u64; 4] {
    for _ in 0..260 {
        let (sum, carry) = add_limbs(&a, &a);
        let (less, is_below) = sub_limbs(&sum, &P);
        a = if carry || !is_below { less } else { sum };
    }
    a
}

/// Adds [s]G to `sum`.
#[target_feature(enable = "avx512f,avx512ifma")]
fn add_base(mut sum: Point8, scalars: &[Odd; LANES]) -> Point8 {
    let table = base_table();
    for (number, row) in table.iter().enumerate() {
        let digits = digits::<BASE_WINDOW>(scalars, number, number == BASE_DIGITS - 1);
        let words = row.as_flattened();
        let first = load(&digits.places.map(|place| u64::from(place) * 10));
        let field = |number: u64| {
            let mut limbs = [first; 5];
            for (limb, at) in limbs.iter_mut().zip(number * 5..) {
                *limb = gather(words, _mm512_add_epi64(first, broadcast(at)));
            }
            Fe8(limbs)
        };
        let (x, y) = (field(0), field(1));
        let y = Fe8::select(digits.negative, &y, &y.negate());
        sum = sum.add_affine(&x, &y);
    }
    sum
}

/// [s]G + [t]P.
#[target_feature(enable = "avx512f,avx512ifma")]
fn add_multiples(parsed: &[Parsed; LANES]) -> Point8 {
    let x = Fe8::new(&parsed.each_ref().map(|one| one.key[0]));
    let y = Fe8::new(&parsed.each_ref().map(|one| one.key[1]));
    let table = KeyTable::new(x, y);
    let scalars = parsed.each_ref().map(|one| Odd::new(&one.t));
    let highest = digits::<KEY_WINDOW>(&scalars, KEY_DIGITS - 1, true);
    let mut sum = table.get(&highest).point;
    for number in (0..KEY_DIGITS - 1).rev() {
        for _ in 0..KEY_WINDOW {
            sum = sum.double();
        }
        sum = sum.add(&table.get(&digits::<KEY_WINDOW>(&scalars, number, false)));
    }
    add_base(sum, &parsed.each_ref().map(|one| Odd::new(&one.s)))
}

/// The verdicts on up to eight items.
///
/// # Panics
/// If there are more, or not as many verdicts.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn verify(items: &[Item<'_>], verdicts: &mut [Verdict]) {
    assert!(items.len() <= LANES && items.len() == verdicts.len());
    // Lanes without an item that gets so far work on G.
    let mut parsed = [Parsed::IDLE; LANES];
    let mut is_open = [false; LANES];
    for (lane, (item, verdict)) in items.iter().zip(verdicts.iter_mut()).enumerate() {
        match verify::parse(item) {
            Ok(good) => (parsed[lane], is_open[lane]) = (good, true),
            Err(bad) => *verdict = bad,
        }
    }
    if is_open == [false; LANES] {
        return;
    }
    let sum = add_multiples(&parsed);
    let x = Fe8::new(&parsed.each_ref().map(|one| one.x));
    let is_same = x.mul(&sum.z.square()).sub(&sum.x).are_zero();
    let is_degenerate = sum.z.are_zero();
    for (lane, (item, verdict)) in items.iter().zip(verdicts).enumerate() {
        if !is_open[lane] {
            continue;
        }
        *verdict = if is_degenerate[lane] || parsed[lane].has_second_lift() {
            verify::verify(item)
        } else if is_same[lane] {
            Verdict::Valid
        } else {
            Verdict::SignatureInvalid
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limbs_of_52_bits_are_those_of_64() {
        for a in [P, N, [u64::MAX; 4], [1, 2, 3, 4]] {
            assert_eq!(join(&split(&a)), a);
        }
    }
}
