//! Up to 64 signatures side by side, in constant time (GB/T 32918.2-2016 6.1 steps A4 to A6).
//!
//! ```text
//! nonces -> odd digits -> a multiple of G for each digit -> sums in pairs, pairs of pairs ...
//!        (the table read whole, by permutations)        (affine, one inversion for each level)
//!                                                        -> the rest one by one, projective
//!        -> x of [k]G, by one inversion -> r and s, lane by lane in portable code
//! ```
//! The digits are those of [`multiply`](super::super::multiply): odd, signed, no doublings. What is
//! summed up has no order, so it is summed as a tree: the sums of a level do not wait for each
//! other and share one inversion, across all signatures. A sum of affine points then costs 5M + 1S,
//! where projective coordinates want 8M + 3S.
//!
//! # Why no case is told apart
//! Every node of the tree is the sum of the digits a..b of one nonce k with their powers, and what
//! is added is such a low part L of digits a..b and a high part H of digits b..c. H is a multiple
//! of 2^(W*b), not 0, and |L| < 2^(W*b): so H + L and H - L are not 0, as integers. They are below
//! 2^(W*c), which is below n, unless c is the end; and then they are positive and below 2n, so that
//! n divides them only if they are n. But they are multiples of 2^(W*a) and n is odd: only for a =
//! 0 is that possible, which is the sum of everything. It is k, not n; but H - L is n for one k.
//! That last sum is projective: its z then is 0, and the lane is signed by the portable code.
//! Nobody meets this nonce by chance, and when he does, all that is told is that he has.
//!
//! # Constant time
//! All loops run over public numbers; the nonces' digits only choose by permutations of registers
//! and masks. Which lane is 0 is asked once, at the end, as above.

use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_and_si512, _mm512_loadu_si512, _mm512_mask_blend_epi64,
    _mm512_mask_xor_epi64, _mm512_or_si512, _mm512_permutex_epi64, _mm512_permutex2var_epi64,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shuffle_i64x2, _mm512_sllv_epi64,
    _mm512_srlv_epi64, _mm512_test_epi64_mask, _mm512_testn_epi64_mask,
};
use std::sync::OnceLock;

use super::super::field::Fe as PortableFe;
use super::super::multiply::{BaseRows, Odd};
use super::super::scalar::Scalar;
use super::super::sign::{SignItem, finish, parse_nonce, sign_one};
use super::field::{Fe, LANES, broadcast, split, store};
use super::point::{Affine, ONE};
use super::words;
use crate::secret::wipe_stack_deep;

/// Most signatures side by side.
pub(in super::super) const SIGNATURES: usize = 2 * LANES * GROUPS_MAX;
const GROUPS_MAX: usize = 4;

/// Bits of a digit, digits of a nonce, and multiples of G for each digit.
const WINDOW: usize = 6;
const DIGITS: usize = 43;
const MULTIPLES: usize = 1 << (WINDOW - 1);
const ROW_VECTORS: usize = MULTIPLES / LANES;

/// The multiples for one digit: word w of x || y of each, side by side.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Row([[u64; MULTIPLES]; 8]);

/// 88 KB, made at first use.
fn table() -> &'static [Row; DIGITS] {
    static TABLE: OnceLock<Box<[Row; DIGITS]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Box::new([Row([[0; MULTIPLES]; 8]); DIGITS]);
        for (row, points) in table.iter_mut().zip(BaseRows::<MULTIPLES>::new()) {
            for (place, point) in points.iter().enumerate() {
                let words = [point.x, point.y].map(to_lanes_form);
                for (row, word) in row.0.iter_mut().zip(words.as_flattened()) {
                    row[place] = *word;
                }
            }
        }
        table
    })
}

/// From Montgomery form with R = 2^256 to that with 2^260: 2^4 times as much.
fn to_lanes_form(mut element: PortableFe) -> [u64; 4] {
    for _ in 0..4 {
        element = element.double();
    }
    element.montgomery()
}

/// What is summed up, and the products of a level's divisors up to each.
struct Workspace<const V: usize, const GROUPS: usize> {
    points: [[Affine<V>; GROUPS]; DIGITS],
    products: [[Fe<V, 2>; GROUPS]; DIGITS.div_ceil(2)],
}

/// Numbers of four words, from the lowest, one a lane.
type Words<const V: usize> = [[[u64; LANES]; V]; 4];

/// Signs up to [`SIGNATURES`] items.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(in super::super) fn sign(items: &[SignItem<'_>], signatures: &mut [Option<[u8; 64]>]) {
    if items.len() <= LANES {
        sign_lanes::<1, 1, 0>(items, signatures);
    } else if items.len() <= 2 * LANES {
        sign_lanes::<2, 1, 0>(items, signatures);
    } else if items.len() <= 4 * LANES {
        sign_lanes::<2, 2, 1>(items, signatures);
    } else {
        sign_lanes::<2, GROUPS_MAX, 2>(items, signatures);
    }
}

/// Signs up to 8 * V * GROUPS items; `LEVELS` of the tree are summed with affine points.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
fn sign_lanes<const V: usize, const GROUPS: usize, const LEVELS: usize>(
    items: &[SignItem<'_>],
    signatures: &mut [Option<[u8; 64]>],
) {
    let nothing = Fe([[_mm512_setzero_si512(); V]; 5]);
    let mut workspace = Workspace {
        points: [[Affine { x: nothing, y: nothing }; GROUPS]; DIGITS],
        products: [[nothing; GROUPS]; DIGITS.div_ceil(2)],
    };
    sign_with::<V, GROUPS, LEVELS>(&mut workspace, items, signatures);
    for point in workspace.points.as_flattened_mut() {
        *point = Affine { x: nothing, y: nothing };
    }
    for product in workspace.products.as_flattened_mut() {
        *product = nothing;
    }
    core::hint::black_box(&mut workspace);
    // What is kept of each group takes less than 16 KB, and so does the rest.
    wipe_stack_deep(GROUPS + 1);
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
#[inline(never)]
fn sign_with<const V: usize, const GROUPS: usize, const LEVELS: usize>(
    workspace: &mut Workspace<V, GROUPS>,
    items: &[SignItem<'_>],
    signatures: &mut [Option<[u8; 64]>],
) {
    let lanes_count = V * LANES;
    assert!(items.len() <= GROUPS * lanes_count && items.len() == signatures.len());
    let mut nonces = [(Scalar::ONE, 0); SIGNATURES];
    let mut odd = [[[[1, 0, 0, 0]; LANES]; V]; GROUPS];
    let places = odd.as_flattened_mut().as_flattened_mut();
    for ((item, nonce), odd) in items.iter().zip(&mut nonces).zip(places) {
        *nonce = parse_nonce(item.nonce);
        // The opposite of a multiple has the same x.
        *odd = Odd::new(&nonce.0).limbs;
    }
    choose(&mut workspace.points, &odd.each_ref().map(|group| words(group)));
    for level in 0..LEVELS {
        add_pairs(workspace, 1 << level);
    }
    let (x, is_degenerate) = sum_rest(&workspace.points, 1 << LEVELS);
    for (group, (items, signatures)) in
        items.chunks(lanes_count).zip(signatures.chunks_mut(lanes_count)).enumerate()
    {
        for (place, (item, signature)) in items.iter().zip(signatures).enumerate() {
            let (v, lane) = (place / LANES, place % LANES);
            let (nonce, is_usable) = &nonces[group * lanes_count + place];
            let x = x[group].map(|word| word[v][lane]);
            *signature = if is_degenerate[group][v] >> lane & 1 == 1 {
                sign_one(item)
            } else {
                finish(item, nonce, *is_usable, x)
            };
        }
    }
}

/// The multiple of every digit.
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn choose<const V: usize, const GROUPS: usize>(
    points: &mut [[Affine<V>; GROUPS]; DIGITS],
    odd: &[[[__m512i; V]; 4]; GROUPS],
) {
    for (number, (row, points)) in table().iter().zip(points).enumerate() {
        for (odd, point) in odd.iter().zip(points) {
            let mut places = [_mm512_setzero_si512(); V];
            let mut negative = [0; V];
            for v in 0..V {
                (places[v], negative[v]) = digit(&odd.map(|word| word[v]), number);
            }
            *point = get(row, places).negate_where(negative);
        }
    }
}

/// Digit `number` of odd numbers below 2^256, words from the lowest: the place of its odd number in
/// a table, and which are negative.
#[target_feature(enable = "avx512f")]
#[inline]
fn digit(odd: &[__m512i; 4], number: usize) -> (__m512i, __mmask8) {
    let half = broadcast(1 << (WINDOW - 1));
    let first = WINDOW * number + 1;
    let (word, shift) = (first / 64, (first % 64) as u64);
    // A shift by 64 gives 0.
    let low = _mm512_srlv_epi64(odd[word], broadcast(shift));
    let high = odd.get(word + 1).copied().unwrap_or(_mm512_setzero_si512());
    let high = _mm512_sllv_epi64(high, broadcast(64 - shift));
    let bits = _mm512_or_si512(low, high);
    // The digit is 2 * bits + 1 - 2^W, but 2 * bits + 1 where it is the highest.
    let is_highest = number == DIGITS - 1;
    let negative = if is_highest { 0 } else { _mm512_testn_epi64_mask(bits, half) };
    let place = _mm512_mask_xor_epi64(bits, negative, bits, _mm512_set1_epi64(-1));
    (_mm512_and_si512(place, broadcast((1 << (WINDOW - 1)) - 1)), negative)
}

/// The multiples at these places; every one of the row is read.
#[target_feature(enable = "avx512f,avx512vbmi2")]
#[inline]
fn get<const V: usize>(row: &Row, places: [__m512i; V]) -> Affine<V> {
    let mut words = [[_mm512_setzero_si512(); V]; 8];
    for (word, entries) in words.iter_mut().zip(&row.0) {
        let mut vectors = [_mm512_setzero_si512(); ROW_VECTORS];
        for (vector, entries) in vectors.iter_mut().zip(entries.as_chunks::<LANES>().0) {
            // SAFETY: eight words are the 64 bytes that are read.
            *vector = unsafe { _mm512_loadu_si512(entries.as_ptr().cast()) };
        }
        for (word, place) in word.iter_mut().zip(places) {
            // The permutation takes four bits of a place; the mask has the next.
            let upper = _mm512_test_epi64_mask(place, broadcast(2 * LANES as u64));
            let [a, b, c, d] = vectors;
            let low = _mm512_permutex2var_epi64(a, place, b);
            let high = _mm512_permutex2var_epi64(c, place, d);
            *word = _mm512_mask_blend_epi64(upper, low, high);
        }
    }
    let [x0, x1, x2, x3, y0, y1, y2, y3] = words;
    Affine { x: Fe::from_words([x0, x1, x2, x3]), y: Fe::from_words([y0, y1, y2, y3]) }
}

/// Adds to every second of the points that stand `stride` apart the next; they are distinct.
#[target_feature(enable = "avx512f,avx512ifma")]
fn add_pairs<const V: usize, const GROUPS: usize>(
    workspace: &mut Workspace<V, GROUPS>,
    stride: usize,
) {
    let Workspace { points, products } = workspace;
    let mut product = [Fe::<V, 1>::all(&ONE).widen::<2>(); GROUPS];
    let firsts = (0..DIGITS - stride).step_by(2 * stride);
    for (first, before) in firsts.clone().zip(products.iter_mut()) {
        *before = product;
        for group in 0..GROUPS {
            let (low, high) = (&points[first][group], &points[first + stride][group]);
            let run: Fe<V, 4> = high.x.minus(low.x).tight();
            product[group] = product[group].mul(&run).tight();
        }
    }
    let mut inverse = invert_all(&product);
    for (first, before) in firsts.zip(products.iter()).rev() {
        for group in 0..GROUPS {
            let (low, high) = (points[first][group], points[first + stride][group]);
            let run: Fe<V, 4> = high.x.minus(low.x).tight();
            let rise: Fe<V, 4> = high.y.minus(low.y).tight();
            let own: Fe<V, 2> = inverse[group].mul(&before[group]).tight();
            inverse[group] = inverse[group].mul(&run).tight();
            let slope: Fe<V, 2> = rise.mul(&own).tight();
            let x = slope.square::<2>().minus::<2, 4>(low.x.loose()).minus::<2, 6>(high.x.loose());
            let x = x.folded();
            let rest: Fe<V, 4> = low.x.minus(x).tight();
            let y = slope.mul::<4, 2>(&rest).minus::<2, 4>(low.y.loose()).folded();
            points[first][group] = Affine { x, y };
        }
    }
}

/// x of the sums of the points that stand `stride` apart, below p and in words; and which sums were
/// not to be had.
#[target_feature(enable = "avx512f,avx512ifma")]
fn sum_rest<const V: usize, const GROUPS: usize>(
    points: &[[Affine<V>; GROUPS]; DIGITS],
    stride: usize,
) -> ([Words<V>; GROUPS], [[__mmask8; V]; GROUPS]) {
    let highest = (DIGITS - 1) / stride * stride;
    let mut sums = points[highest].map(|point| point.to_point());
    for first in (0..highest).step_by(stride).rev() {
        for (sum, point) in sums.iter_mut().zip(&points[first]) {
            *sum = sum.add_affine(point);
        }
    }
    let mut is_degenerate = [[0; V]; GROUPS];
    let mut z = [Fe::<V, 1>::all(&ONE).widen::<2>(); GROUPS];
    for group in 0..GROUPS {
        let Fe(mut limbs) = sums[group].z.loose().folded().reduced();
        for v in 0..V {
            let all = limbs
                .iter()
                .fold(_mm512_setzero_si512(), |all, limb| _mm512_or_si512(all, limb[v]));
            is_degenerate[group][v] = _mm512_testn_epi64_mask(all, all);
            for (limb, one) in limbs.iter_mut().zip(ONE) {
                let mask = is_degenerate[group][v];
                limb[v] = _mm512_mask_blend_epi64(mask, limb[v], broadcast(one));
            }
        }
        z[group] = Fe(limbs);
    }
    let inverse = invert_all(&z);
    let mut out = [[[[0; LANES]; V]; 4]; GROUPS];
    for group in 0..GROUPS {
        let square: Fe<V, 2> = inverse[group].square().tight();
        let x: Fe<V, 2> = sums[group].x.mul(&square).tight();
        // Out of Montgomery form.
        let x: Fe<V, 2> = x.mul(&Fe::<V, 1>::all(&[1, 0, 0, 0, 0])).tight();
        out[group] = x.reduced().to_words().map(|word| word.map(|vector| store(vector)));
    }
    (out, is_degenerate)
}

/// 1 / a of all; none is 0.
#[target_feature(enable = "avx512f,avx512ifma")]
fn invert_all<const V: usize, const GROUPS: usize>(
    elements: &[Fe<V, 2>; GROUPS],
) -> [Fe<V, 2>; GROUPS] {
    let mut inverses = *elements;
    let mut product = elements[0];
    for (before, element) in inverses.iter_mut().zip(elements).skip(1) {
        *before = product;
        product = product.mul(element).tight();
    }
    let mut inverse = invert_vectors(&product);
    for (before, element) in inverses.iter_mut().zip(elements).skip(1).rev() {
        *before = before.mul(&inverse).tight();
        inverse = inverse.mul(element).tight();
    }
    inverses[0] = inverse;
    inverses
}

/// [`invert_all`] of the lanes of `V` vectors.
#[target_feature(enable = "avx512f,avx512ifma")]
fn invert_vectors<const V: usize>(elements: &Fe<V, 2>) -> Fe<V, 2> {
    let vector = |v: usize| Fe::<1, 2>(elements.0.map(|limb| [limb[v]]));
    if V == 1 {
        let Fe(limbs) = invert_lanes(&vector(0));
        return Fe(limbs.map(|[limb]| [limb; V]));
    }
    const { assert!(V <= 2) };
    let (first, second) = (vector(0), vector(1));
    let inverse = invert_lanes(&first.mul::<2, 2>(&second).tight());
    let inverses: [Fe<1, 2>; 2] = [inverse.mul(&second).tight(), inverse.mul(&first).tight()];
    let mut out = *elements;
    for (at, limb) in out.0.iter_mut().enumerate() {
        for (vector, inverse) in limb.iter_mut().zip(&inverses) {
            [*vector] = inverse.0[at];
        }
    }
    out
}

/// [`invert_all`] of eight lanes: the product of all of them is inverted in portable code, which
/// has the shorter wait.
#[target_feature(enable = "avx512f,avx512ifma")]
fn invert_lanes(elements: &Fe<1, 2>) -> Fe<1, 2> {
    let swapped4 = Fe(elements.0.map(|[a]| [_mm512_shuffle_i64x2::<0b01_00_11_10>(a, a)]));
    let four: Fe<1, 2> = elements.mul::<2, 2>(&swapped4).tight();
    let swapped2 = Fe(four.0.map(|[a]| [_mm512_shuffle_i64x2::<0b10_11_00_01>(a, a)]));
    let two: Fe<1, 2> = four.mul::<2, 2>(&swapped2).tight();
    let swapped1 = Fe(two.0.map(|[a]| [_mm512_permutex_epi64::<0b10_11_00_01>(a)]));
    let one: Fe<1, 2> = two.mul::<2, 2>(&swapped1).tight();
    // The same product in every lane.
    let product = one.reduced().to_words().map(|[word]| store(word)[0]);
    let mut inverse = PortableFe::from_montgomery(product).invert();
    // The product is a * 2^260, which the portable code takes for 16 a; the inverse is to be
    // 2^260 / a and comes as 2^256 / 16 a.
    for _ in 0..8 {
        inverse = inverse.double();
    }
    let inverse = Fe::<1, 1>::all(&split(&inverse.montgomery())).widen::<2>();
    let inverse: Fe<1, 2> = inverse.mul(&swapped1).tight();
    let inverse: Fe<1, 2> = inverse.mul(&swapped2).tight();
    inverse.mul(&swapped4).tight()
}
