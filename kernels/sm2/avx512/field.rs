//! The field in lanes: `V` vectors of eight elements each, one element a lane.
//!
//! Five limbs of 52 bits in Montgomery form with R = 2^260. Since p = -1 mod 2^52, the factor of a
//! step of the reduction is the lowest limb itself; since two of the limbs of p + 1 are 2^52 - 1,
//! two of the four products of a step are a subtraction and an addition. A product is 70 multiply
//! and add instructions, a square 50.
//!
//! # Ranges, which the compiler checks
//! | type | limbs | value |
//! |---|---|---|
//! | `Fe<V, K>` | 0 <= limb < 2^52 | below K * p, K <= 16 |
//! | `Loose<V, K>` | -2^62 < limb < 2^62 | 0 <= value < K * p, K <= 32 |
//!
//! The multiplier takes 52 bits of a limb and ignores the rest, so only an [`Fe`] can be
//! multiplied. A product of values below A * p and B * p is below (A * B / 16 + 1) * p, because the
//! reduction adds less than p and R is more than 16 p. Every operation asserts at compile time that
//! the bound of its result follows from those of its operands; debug builds look at the limbs too.
//!
//! One product waits about 70 cycles for its own carries and takes 35 cycles of the multipliers, so
//! two vectors are worked on side by side wherever there are so many signatures.

#![allow(clippy::needless_range_loop, reason = "an index runs through several arrays of vectors")]

use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_and_si512, _mm512_cmplt_epi64_mask,
    _mm512_loadu_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_blend_epi64,
    _mm512_mask_sub_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_shrdi_epi64, _mm512_shuffle_i64x2, _mm512_slli_epi64, _mm512_srai_epi64,
    _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi64, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};

use super::super::field::P;

/// Elements in a vector.
pub(in super::super) const LANES: usize = 8;

pub(super) const LIMB_BITS: u32 = 52;
pub(super) const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;

pub(super) type Limbs = [u64; 5];

/// Limbs of 52 bits of a number of four limbs of 64.
pub(super) const fn split(a: &[u64; 4]) -> Limbs {
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

/// `count` * p, its highest limb above 52 bits where need be.
pub(super) const fn times_p(count: u32) -> Limbs {
    let p = split(&P);
    let mut limbs = [0; 5];
    let mut carry = 0;
    let mut at = 0;
    while at < 5 {
        let sum = p[at] * count as u64 + carry;
        carry = if at < 4 { sum >> LIMB_BITS } else { 0 };
        limbs[at] = if at < 4 { sum & LIMB_MASK } else { sum };
        at += 1;
    }
    limbs
}

/// 2^520 mod p: brings a value into Montgomery form.
const R2: Limbs =
    [0x200_0000_0300, 0xf_ffff_fff0_0000, 0x1_0000_0002, 0x2000_0000_1000, 0x400_0000];

/// Multiplies two values below A * p and B * p: what the result is below, in p.
const fn product_bound(a: u32, b: u32) -> u32 {
    (a * b).div_ceil(16) + 1
}

/// Elements that can be multiplied.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Fe<const V: usize, const K: u32>(pub(super) [[__m512i; V]; 5]);

/// Sums and products before their carries.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Loose<const V: usize, const K: u32>([[__m512i; V]; 5]);

/// Every value a lane.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn broadcast(value: u64) -> __m512i {
    _mm512_set1_epi64(value.cast_signed())
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn load(lanes: &[u64; LANES]) -> __m512i {
    // SAFETY: eight words are the 64 bytes that are read, at any alignment.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn store(vector: __m512i) -> [u64; LANES] {
    let mut lanes = [0; LANES];
    // SAFETY: eight words are the 64 bytes that are written, at any alignment.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), vector) };
    lanes
}

/// Word w of vector v comes to be word v of vector w.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn transpose(rows: [__m512i; 8]) -> [__m512i; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    // Pairs of words, then of 128 bits, then of 256.
    let (ab, ab1) = (_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let (cd, cd1) = (_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
    let (ef, ef1) = (_mm512_unpacklo_epi64(e, f), _mm512_unpackhi_epi64(e, f));
    let (gh, gh1) = (_mm512_unpacklo_epi64(g, h), _mm512_unpackhi_epi64(g, h));
    // Columns 0, 4 and 2, 6 of rows a to d, and so on.
    let even = _mm512_shuffle_i64x2::<0b10_00_10_00>(ab, cd);
    let even2 = _mm512_shuffle_i64x2::<0b11_01_11_01>(ab, cd);
    let odd = _mm512_shuffle_i64x2::<0b10_00_10_00>(ab1, cd1);
    let odd2 = _mm512_shuffle_i64x2::<0b11_01_11_01>(ab1, cd1);
    let even_h = _mm512_shuffle_i64x2::<0b10_00_10_00>(ef, gh);
    let even2_h = _mm512_shuffle_i64x2::<0b11_01_11_01>(ef, gh);
    let odd_h = _mm512_shuffle_i64x2::<0b10_00_10_00>(ef1, gh1);
    let odd2_h = _mm512_shuffle_i64x2::<0b11_01_11_01>(ef1, gh1);
    [
        _mm512_shuffle_i64x2::<0b10_00_10_00>(even, even_h),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(odd, odd_h),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(even2, even2_h),
        _mm512_shuffle_i64x2::<0b10_00_10_00>(odd2, odd2_h),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(even, even_h),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(odd, odd_h),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(even2, even2_h),
        _mm512_shuffle_i64x2::<0b11_01_11_01>(odd2, odd2_h),
    ]
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

/// The columns of a square before their carries, in two halves from the lowest: the products of two
/// different limbs, once, then twice that and the squares. Written out, since the compiler keeps
/// arrays in registers only where it need not unroll nested loops over them.
#[target_feature(enable = "avx512f,avx512ifma")]
#[inline]
fn columns([a0, a1, a2, a3, a4]: [__m512i; 5]) -> ([__m512i; 5], [__m512i; 5]) {
    let zero = _mm512_setzero_si512();
    let t1 = _mm512_madd52lo_epu64(zero, a0, a1);
    let t2 = _mm512_madd52hi_epu64(zero, a0, a1);
    let t3 = _mm512_madd52hi_epu64(zero, a0, a2);
    let t4 = _mm512_madd52hi_epu64(zero, a0, a3);
    let t5 = _mm512_madd52hi_epu64(zero, a0, a4);
    let t6 = _mm512_madd52hi_epu64(zero, a1, a4);
    let t7 = _mm512_madd52hi_epu64(zero, a2, a4);
    let t8 = _mm512_madd52hi_epu64(zero, a3, a4);
    let t2 = _mm512_madd52lo_epu64(t2, a0, a2);
    let t3 = _mm512_madd52lo_epu64(t3, a0, a3);
    let t4 = _mm512_madd52lo_epu64(t4, a0, a4);
    let t5 = _mm512_madd52lo_epu64(t5, a1, a4);
    let t6 = _mm512_madd52lo_epu64(t6, a2, a4);
    let t7 = _mm512_madd52lo_epu64(t7, a3, a4);
    let t3 = _mm512_madd52lo_epu64(t3, a1, a2);
    let t4 = _mm512_madd52hi_epu64(t4, a1, a2);
    let t5 = _mm512_madd52hi_epu64(t5, a1, a3);
    let t6 = _mm512_madd52hi_epu64(t6, a2, a3);
    let t4 = _mm512_madd52lo_epu64(t4, a1, a3);
    let t5 = _mm512_madd52lo_epu64(t5, a2, a3);
    let twice = |t| _mm512_add_epi64(t, t);
    (
        [
            _mm512_madd52lo_epu64(zero, a0, a0),
            _mm512_madd52hi_epu64(twice(t1), a0, a0),
            _mm512_madd52lo_epu64(twice(t2), a1, a1),
            _mm512_madd52hi_epu64(twice(t3), a1, a1),
            _mm512_madd52lo_epu64(twice(t4), a2, a2),
        ],
        [
            _mm512_madd52hi_epu64(twice(t5), a2, a2),
            _mm512_madd52lo_epu64(twice(t6), a3, a3),
            _mm512_madd52hi_epu64(twice(t7), a3, a3),
            _mm512_madd52lo_epu64(twice(t8), a4, a4),
            _mm512_madd52hi_epu64(zero, a4, a4),
        ],
    )
}

impl<const V: usize, const K: u32> Fe<V, K> {
    /// The same element in every lane; below p, in Montgomery form.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn all(limbs: &Limbs) -> Self {
        const { assert!(K >= 1) };
        let mut all = [[_mm512_setzero_si512(); V]; 5];
        for (row, limb) in all.iter_mut().zip(limbs) {
            *row = [broadcast(*limb); V];
        }
        Self(all)
    }

    /// The elements of four words each that stand in the rows: word w of lane l of vector v is lane
    /// l of `words[w][v]`. Values below 2^256, which is less than 2 p.
    #[target_feature(enable = "avx512f,avx512vbmi2")]
    #[inline]
    pub(super) fn from_words(words: [[__m512i; V]; 4]) -> Self {
        const { assert!(K >= 2) };
        let mask = broadcast(LIMB_MASK);
        let mut limbs = [[_mm512_setzero_si512(); V]; 5];
        for v in 0..V {
            let [a, b, c, d] = [words[0][v], words[1][v], words[2][v], words[3][v]];
            limbs[0][v] = _mm512_and_si512(a, mask);
            limbs[1][v] = _mm512_and_si512(_mm512_shrdi_epi64::<52>(a, b), mask);
            limbs[2][v] = _mm512_and_si512(_mm512_shrdi_epi64::<40>(b, c), mask);
            limbs[3][v] = _mm512_and_si512(_mm512_shrdi_epi64::<28>(c, d), mask);
            limbs[4][v] = _mm512_srli_epi64::<16>(d);
        }
        Self(limbs)
    }

    /// The same value with a bound that is not as narrow.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn widen<const C: u32>(self) -> Fe<V, C> {
        const { assert!(C >= K) };
        Fe(self.0)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn loose(self) -> Loose<V, K> {
        Loose(self.0)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn plus<const B: u32, const C: u32>(self, other: Fe<V, B>) -> Loose<V, C> {
        self.loose().plus(other.loose())
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn minus<const B: u32, const C: u32>(self, other: Fe<V, B>) -> Loose<V, C> {
        self.loose().minus(other.loose())
    }

    /// a * b / R.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn mul<const B: u32, const C: u32>(&self, other: &Fe<V, B>) -> Loose<V, C> {
        const { assert!(C >= product_bound(K, B)) };
        let a = &self.0;
        let zero = _mm512_setzero_si512();
        let mut t = [[zero; 5]; V];
        for b in &other.0 {
            for v in 0..V {
                let (b, t) = (b[v], &mut t[v]);
                let low = _mm512_madd52lo_epu64(t[0], a[0][v], b);
                let t1 = _mm512_madd52lo_epu64(t[1], a[1][v], b);
                let t2 = _mm512_madd52lo_epu64(t[2], a[2][v], b);
                let t3 = _mm512_madd52lo_epu64(t[3], a[3][v], b);
                let t4 = _mm512_madd52lo_epu64(t[4], a[4][v], b);
                let t1 = _mm512_madd52hi_epu64(t1, a[0][v], b);
                let t2 = _mm512_madd52hi_epu64(t2, a[1][v], b);
                let t3 = _mm512_madd52hi_epu64(t3, a[2][v], b);
                let t4 = _mm512_madd52hi_epu64(t4, a[3][v], b);
                let t5 = _mm512_madd52hi_epu64(zero, a[4][v], b);
                *t = step(low, [t1, t2, t3, t4, t5]);
            }
        }
        Loose::of(t)
    }

    /// a * a / R.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    pub(super) fn square<const C: u32>(&self) -> Loose<V, C> {
        const { assert!(C >= product_bound(K, K)) };
        let zero = _mm512_setzero_si512();
        let (mut low, mut high) = ([[zero; 5]; V], [[zero; 5]; V]);
        for v in 0..V {
            (low[v], high[v]) = columns(self.0.map(|limb| limb[v]));
        }
        for at in 0..5 {
            for v in 0..V {
                let [first, second, third, fourth, fifth] = low[v];
                low[v] = step(first, [second, third, fourth, fifth, high[v][at]]);
            }
        }
        Loose::of(low)
    }

    /// Where the mask is set, the negated element.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn negate_where(self, masks: [__mmask8; V]) -> Loose<V, K> {
        self.loose().negate_where(masks)
    }

    /// The limbs of every lane.
    #[target_feature(enable = "avx512f")]
    pub(super) fn to_lanes(self) -> [[Limbs; LANES]; V] {
        let mut lanes = [[[0; 5]; LANES]; V];
        for (at, limb) in self.0.iter().enumerate() {
            for (vector, lanes) in limb.iter().zip(&mut lanes) {
                for (word, lane) in store(*vector).into_iter().zip(lanes) {
                    lane[at] = word;
                }
            }
        }
        lanes
    }

    /// Which lanes are 0 modulo p.
    #[target_feature(enable = "avx512f")]
    pub(super) fn are_zero(self) -> [[bool; LANES]; V] {
        self.to_lanes().map(|lanes| lanes.map(|value| (0..K).any(|count| value == times_p(count))))
    }
}

impl<const V: usize> Fe<V, 2> {
    /// Values below 2^256 that are not in Montgomery form yet.
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    #[inline]
    pub(super) fn new(values: [[__m512i; V]; 4]) -> Self {
        Fe::<V, 2>::from_words(values).mul(&Fe::<V, 1>::all(&R2)).tight()
    }

    /// 2^`count` times squared.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn squared(&self, count: u32) -> Self {
        let mut power = *self;
        for _ in 0..count {
            power = power.square().tight();
        }
        power
    }

    /// a to the powers of 30 and 32 bits of ones, and of what p - 2 and p + 1 begin with: 31 ones,
    /// a zero, 128 ones.
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn powers(&self) -> [Self; 3] {
        // a^(2^k - 1) has k ones in its exponent.
        let ones2: Self = self.squared(1).mul(self).tight();
        let ones3: Self = ones2.squared(1).mul(self).tight();
        let ones6: Self = ones3.squared(3).mul(&ones3).tight();
        let ones12: Self = ones6.squared(6).mul(&ones6).tight();
        let ones15: Self = ones12.squared(3).mul(&ones3).tight();
        let ones30: Self = ones15.squared(15).mul(&ones15).tight();
        let ones31: Self = ones30.squared(1).mul(self).tight();
        let ones32: Self = ones31.squared(1).mul(self).tight();
        let mut high: Self = ones31.squared(33).mul(&ones32).tight();
        for _ in 0..3 {
            high = high.squared(32).mul(&ones32).tight();
        }
        [ones30, ones32, high]
    }

    /// 1 / a, and 0 for 0: a^(p - 2), the same steps whatever a is.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn invert(&self) -> Self {
        let [ones30, ones32, high] = self.powers();
        // p - 2 is fffffffe ffffffff ffffffff ffffffff ffffffff 00000000 ffffffff fffffffd.
        let power: Self = high.squared(64).mul(&ones32).tight();
        let power: Self = power.squared(30).mul(&ones30).tight();
        power.squared(2).mul(self).tight()
    }

    /// A square root of a if it has one, or anything: a^((p + 1) / 4), the same steps whatever a
    /// is.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn root(&self) -> Self {
        let [_, _, high] = self.powers();
        // p + 1 is fffffffe ffffffff ffffffff ffffffff ffffffff 00000001 00000000 00000000.
        let power: Self = high.squared(32).mul(self).tight();
        power.squared(62)
    }

    /// The same below p.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn reduced(self) -> Fe<V, 1> {
        let less = {
            let mut t = self.0;
            for (limb, p) in t.iter_mut().zip(const { split(&P) }) {
                for vector in limb {
                    *vector = _mm512_sub_epi64(*vector, broadcast(p));
                }
            }
            Loose::<V, 16>(t).carried()
        };
        let mut out = self.0;
        for v in 0..V {
            let is_below = _mm512_cmplt_epi64_mask(less[4][v], _mm512_setzero_si512());
            for (limb, less) in out.iter_mut().zip(&less) {
                limb[v] = _mm512_mask_blend_epi64(is_below, less[v], limb[v]);
            }
        }
        Fe(out)
    }
}

impl<const V: usize> Fe<V, 1> {
    /// Words of 64 bits, from the lowest: what [`Fe::from_words`] reads.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn to_words(self) -> [[__m512i; V]; 4] {
        let mut words = [[_mm512_setzero_si512(); V]; 4];
        for v in 0..V {
            let [a, b, c, d, e] = self.0.map(|limb| limb[v]);
            words[0][v] = _mm512_or_si512(a, _mm512_slli_epi64::<52>(b));
            words[1][v] = _mm512_or_si512(_mm512_srli_epi64::<12>(b), _mm512_slli_epi64::<40>(c));
            words[2][v] = _mm512_or_si512(_mm512_srli_epi64::<24>(c), _mm512_slli_epi64::<28>(d));
            words[3][v] = _mm512_or_si512(_mm512_srli_epi64::<36>(d), _mm512_slli_epi64::<16>(e));
        }
        words
    }
}

impl<const V: usize, const K: u32> Loose<V, K> {
    /// From the vectors' limbs.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn of(vectors: [[__m512i; 5]; V]) -> Self {
        let mut limbs = [[_mm512_setzero_si512(); V]; 5];
        for (v, vector) in vectors.iter().enumerate() {
            for (limb, word) in limbs.iter_mut().zip(vector) {
                limb[v] = *word;
            }
        }
        Self(limbs)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn plus<const B: u32, const C: u32>(self, other: Loose<V, B>) -> Loose<V, C> {
        const { assert!(C >= K + B) };
        let mut t = self.0;
        for (limb, other) in t.iter_mut().zip(other.0) {
            for (vector, other) in limb.iter_mut().zip(other) {
                *vector = _mm512_add_epi64(*vector, other);
            }
        }
        Loose(t)
    }

    /// The difference, with so many p more that it is not negative.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn minus<const B: u32, const C: u32>(self, other: Loose<V, B>) -> Loose<V, C> {
        const { assert!(C >= K + B) };
        let multiple = const { times_p(B) };
        let mut t = self.0;
        for ((limb, other), multiple) in t.iter_mut().zip(other.0).zip(multiple) {
            for (vector, other) in limb.iter_mut().zip(other) {
                let more = _mm512_add_epi64(*vector, broadcast(multiple));
                *vector = _mm512_sub_epi64(more, other);
            }
        }
        Loose(t)
    }

    /// Where the mask is set, the negated element: K p less the value, which is not 0.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn negate_where(self, masks: [__mmask8; V]) -> Self {
        let multiple = const { times_p(K) };
        let mut t = self.0;
        for (limb, multiple) in t.iter_mut().zip(multiple) {
            for (vector, mask) in limb.iter_mut().zip(masks) {
                let all = broadcast(multiple);
                *vector = _mm512_mask_sub_epi64(*vector, mask, all, *vector);
            }
        }
        Self(t)
    }

    /// 2^S times the value.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn shifted<const S: u32, const C: u32>(self) -> Loose<V, C> {
        const { assert!(C >= K << S) };
        let mut t = self.0;
        for limb in &mut t {
            for vector in limb {
                *vector = _mm512_slli_epi64::<S>(*vector);
            }
        }
        Loose(t)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn tripled<const C: u32>(self) -> Loose<V, C> {
        const { assert!(C >= 3 * K) };
        let mut t = self.0;
        for limb in &mut t {
            for vector in limb {
                *vector = _mm512_add_epi64(*vector, _mm512_slli_epi64::<1>(*vector));
            }
        }
        Loose(t)
    }

    /// Limbs of 52 bits but for the highest, which has the sign; the value stays as it is.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn carried(&self) -> [[__m512i; V]; 5] {
        let mask = broadcast(LIMB_MASK);
        let mut out = self.0;
        for v in 0..V {
            let t0 = self.0[0][v];
            let t1 = _mm512_add_epi64(self.0[1][v], _mm512_srai_epi64::<LIMB_BITS>(t0));
            let t2 = _mm512_add_epi64(self.0[2][v], _mm512_srai_epi64::<LIMB_BITS>(t1));
            let t3 = _mm512_add_epi64(self.0[3][v], _mm512_srai_epi64::<LIMB_BITS>(t2));
            let t4 = _mm512_add_epi64(self.0[4][v], _mm512_srai_epi64::<LIMB_BITS>(t3));
            out[0][v] = _mm512_and_si512(t0, mask);
            out[1][v] = _mm512_and_si512(t1, mask);
            out[2][v] = _mm512_and_si512(t2, mask);
            out[3][v] = _mm512_and_si512(t3, mask);
            out[4][v] = t4;
        }
        out
    }

    /// Carries from limb to limb.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn tight(self) -> Fe<V, K> {
        const { assert!(K <= 16, "16 p is less than 2^260") };
        let out = self.carried();
        self.check(&out);
        Fe(out)
    }

    /// The same modulo p, below 2 p: what the highest limb holds above 2^256, `above` times, comes
    /// back as 2^224 + 2^96 - 2^64 + 1 times as much. The other limbs are far below 2^208 together,
    /// so what stays is above -2^218, and negative only where nothing came back to outweigh it.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn folded(self) -> Fe<V, 2> {
        const { assert!(K <= 32) };
        let mut t = self.0;
        for v in 0..V {
            let highest = t[4][v];
            let above = _mm512_srai_epi64::<48>(highest);
            t[0][v] = _mm512_add_epi64(t[0][v], above);
            let second = _mm512_add_epi64(t[1][v], _mm512_slli_epi64::<44>(above));
            t[1][v] = _mm512_sub_epi64(second, _mm512_slli_epi64::<12>(above));
            let below = _mm512_and_si512(highest, broadcast((1 << 48) - 1));
            t[4][v] = _mm512_add_epi64(below, _mm512_slli_epi64::<16>(above));
        }
        Loose::<V, 2>(t).tight()
    }

    /// In debug builds: the limbs that come out are limbs, and the value is below its bound.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn check(&self, out: &[[__m512i; V]; 5]) {
        if !cfg!(debug_assertions) {
            return;
        }
        for limb in &self.0 {
            for word in limb.iter().flat_map(|vector| store(*vector)) {
                debug_assert!(word.cast_signed().unsigned_abs() < 1 << 62, "a loose limb");
            }
        }
        let bound = const { times_p(K) };
        for limbs in Fe::<V, K>(*out).to_lanes().as_flattened() {
            debug_assert!(limbs.iter().all(|limb| *limb <= LIMB_MASK), "limbs of 52 bits");
            debug_assert!(limbs.iter().rev().lt(bound.iter().rev()), "below {K} p");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::verify::N;
    use super::*;

    #[test]
    fn limbs_of_52_bits_are_those_of_64() {
        for a in [P, N, [u64::MAX; 4], [1, 2, 3, 4]] {
            assert_eq!(join(&split(&a)), a);
        }
    }
}
