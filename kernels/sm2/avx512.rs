//! SM2 with AVX-512 IFMA: eight or sixteen independent signatures side by side, a lane each.
//!
//! ```text
//! field   elements in lanes; the compiler checks the ranges
//! point   points in lanes, no case told apart
//! table   multiples of fresh keys and of G
//! known   multiples of keys that come again and again
//! sign    up to 64 signatures side by side, constant time
//! decompress  points by their x
//! ```
//! [t]P by windows of five bits over the odd multiples of each key; [s]G by windows over all their
//! multiples, so that it needs no doublings. What no lane tells apart (z of the sum is 0, which
//! nobody meets by chance, and an x1 that may have been reduced modulo n) is judged by the portable
//! code.

mod decompress;
mod field;
mod known;
mod point;
mod sign;
mod table;

pub(super) use self::decompress::decompress;
pub(super) use self::sign::{SIGNATURES, sign};

use core::arch::x86_64::{__m512i, _mm512_setzero_si512};

pub(super) use self::field::LANES;
use self::field::{Fe, Limbs, Loose, load};
use self::point::{Affine, Point, montgomery};
use self::table::{BaseTable, FreshTable};
use super::digits::Odd;
use super::field::limbs;
use super::known::KeyTable;
use super::point::G;
use super::verify::{self, Parsed};
use super::{Item, Verdict};

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
    let rest: Fe<V, 11> = y.square::<2>().minus(right_side(x)).tight();
    rest.are_zero()
}

/// x^3 - 3x + b.
#[target_feature(enable = "avx512f,avx512ifma")]
fn right_side<const V: usize>(x: &Fe<V, 2>) -> Loose<V, 9> {
    let square: Fe<V, 2> = x.square().tight();
    let cube = square.mul::<2, 2>(x);
    cube.minus::<6, 8>(x.loose().tripled()).plus(Fe::<V, 1>::all(&B).loose())
}

/// The keys, which are below p in every coordinate.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
#[inline]
fn keys<const V: usize>(parsed: &[[Parsed; LANES]; V]) -> Affine<V> {
    let coordinate = |number: usize| {
        words(&parsed.each_ref().map(|lanes| lanes.each_ref().map(|one| one.key[number])))
    };
    Affine { x: Fe::new(coordinate(0)), y: Fe::new(coordinate(1)) }
}

/// Makes the tables of up to eight keys; those of points off the curve come to hold anything.
///
/// # Panics
/// If there are more keys, or not as many tables.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(super) fn make_tables(keys: &[&[u8; 64]], tables: &mut [&mut KeyTable]) {
    assert!(keys.len() <= LANES && keys.len() == tables.len());
    let mut coordinates = [[G; LANES]];
    for (place, key) in coordinates.as_flattened_mut().iter_mut().zip(keys) {
        if verify::point(key).is_some() {
            *place = verify::halves(key).map(limbs);
        }
    }
    let of = |number: usize| {
        words(&coordinates.each_ref().map(|lanes| lanes.each_ref().map(|one| one[number])))
    };
    known::make_tables(&Affine { x: Fe::new(of(0)), y: Fe::new(of(1)) }, tables);
}

/// The verdicts on up to 8 * V items, of which all or none come with the tables of their keys.
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
    let of = |pick: fn(&Parsed) -> [u64; 4]| {
        parsed.each_ref().map(|lanes| lanes.each_ref().map(|one| Odd::new(&pick(one))))
    };
    let of_base = BaseTable::get().choose(&of(|one| one.s));
    let (sum, is_on_curve) = match items.iter().find_map(|item| item.table) {
        Some(any) => {
            let mut tables = [[any; LANES]; V];
            for (table, item) in tables.as_flattened_mut().iter_mut().zip(items) {
                *table = item.table.unwrap_or(any);
            }
            (known::multiply(&tables, &of(|one| one.t)), [[true; LANES]; V])
        }
        None => {
            let keys = keys(&parsed);
            (FreshTable::new(&keys).multiply(&of(|one| one.t)), are_on_curve(&keys))
        }
    };
    let sum: Point<V> = of_base.add_to(sum);
    let x = Fe::new(words(&parsed.each_ref().map(|lanes| lanes.each_ref().map(|one| one.x))));
    let (is_same, is_degenerate) = (sum.have_x(&x), sum.z.are_zero());
    for (lane, (item, verdict)) in items.iter().zip(verdicts).enumerate() {
        if !is_open.as_flattened()[lane] {
            continue;
        }
        *verdict = if !is_on_curve.as_flattened()[lane] {
            Verdict::KeyInvalid
        } else if is_degenerate.as_flattened()[lane]
            || parsed.as_flattened()[lane].has_second_lift()
        {
            verify::verify(item)
        } else if is_same.as_flattened()[lane] {
            Verdict::Valid
        } else {
            Verdict::SignatureInvalid
        };
    }
}
