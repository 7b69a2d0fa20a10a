//! SM2 with AVX-512 IFMA: eight or sixteen independent signatures side by side, a lane each.
//!
//! ```text
//! field   elements in lanes; the compiler checks the ranges
//! point   points in lanes, no case told apart
//! table   digits of scalars, and the multiples they choose from
//! sign    up to 64 signatures side by side, constant time
//! ```
//! [t]P by windows of five bits over the odd multiples of each key; [s]G by windows over all their
//! multiples, so that it needs no doublings. What no lane tells apart (z of the sum is 0, which
//! nobody meets by chance, and an x1 that may have been reduced modulo n) is judged by the portable
//! code.

mod field;
mod point;
mod sign;
mod table;

pub(super) use self::sign::{SIGNATURES, sign};

use core::arch::x86_64::{__m512i, _mm512_setzero_si512};

use self::field::{Fe, LANES, Limbs, load};
use self::point::{Affine, Point, montgomery};
use self::table::{BaseTable, KeyTable, Odd};
use super::verify::{self, Parsed};
use super::{Item, Verdict};

/// Signatures side by side.
pub(super) const ITEMS: usize = 2 * LANES;

/// b of the curve in Montgomery form.
const B: Limbs = montgomery(super::point::B);

/// Numbers of four words, one a lane.
#[target_feature(enable = "avx512f")]
#[inline]
fn words<const V: usize>(values: &[[[u64; 4]; LANES]; V]) -> [[__m512i; V]; 4] {
    let mut words = [[_mm512_setzero_si512(); V]; 4];
    for (v, values) in values.iter().enumerate() {
        for (at, word) in words.iter_mut().enumerate() {
            word[v] = load(&values.map(|value| value[at]));
        }
    }
    words
}

/// Which points lie on the curve.
#[target_feature(enable = "avx512f,avx512ifma")]
fn are_on_curve<const V: usize>(points: &Affine<V>) -> [[bool; LANES]; V] {
    let Affine { x, y } = points;
    let square: Fe<V, 2> = x.square().tight();
    let cube = square.mul::<2, 2>(x);
    let right: Fe<V, 9> =
        cube.minus::<6, 8>(x.loose().tripled()).plus(Fe::<V, 1>::all(&B).loose()).tight();
    let rest: Fe<V, 11> = y.square::<2>().minus(right.loose()).tight();
    rest.are_zero()
}

/// The verdicts on up to 8 * V items.
///
/// # Panics
/// If there are more, or not as many verdicts.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(super) fn verify<const V: usize>(items: &[Item<'_>], verdicts: &mut [Verdict]) {
    assert!(items.len() <= V * LANES && items.len() == verdicts.len());
    // Lanes without an item that gets so far work on G.
    let mut parsed = [[Parsed::IDLE; LANES]; V];
    let mut is_open = [[false; LANES]; V];
    let lanes = parsed.as_flattened_mut().iter_mut().zip(is_open.as_flattened_mut());
    for ((item, verdict), (parsed, is_open)) in items.iter().zip(verdicts.iter_mut()).zip(lanes) {
        match verify::parse(item) {
            Ok(good) => (*parsed, *is_open) = (good, true),
            Err(bad) => *verdict = bad,
        }
    }
    if is_open == [[false; LANES]; V] {
        return;
    }
    let key = Affine {
        x: Fe::new(words(&parsed.each_ref().map(|lanes| lanes.each_ref().map(|one| one.key[0])))),
        y: Fe::new(words(&parsed.each_ref().map(|lanes| lanes.each_ref().map(|one| one.key[1])))),
    };
    let of = |pick: fn(&Parsed) -> [u64; 4]| {
        parsed.each_ref().map(|lanes| lanes.each_ref().map(|one| Odd::new(&pick(one))))
    };
    let is_on_curve = are_on_curve(&key);
    let sum = KeyTable::new(&key).multiply(&of(|one| one.t));
    let sum: Point<V> = BaseTable::get().add(sum, &of(|one| one.s));
    let x = Fe::new(words(&parsed.each_ref().map(|lanes| lanes.each_ref().map(|one| one.x))));
    let (is_same, is_degenerate) = (sum.have_x(&x), sum.z.are_zero());
    for (lane, (item, verdict)) in items.iter().zip(verdicts).enumerate() {
        if !is_open.as_flattened()[lane] {
            continue;
        }
        let parsed = &parsed.as_flattened()[lane];
        *verdict = if !is_on_curve.as_flattened()[lane] {
            Verdict::KeyInvalid
        } else if is_degenerate.as_flattened()[lane] || parsed.has_second_lift() {
            verify::verify(item)
        } else if is_same.as_flattened()[lane] {
            Verdict::Valid
        } else {
            Verdict::SignatureInvalid
        };
    }
}
