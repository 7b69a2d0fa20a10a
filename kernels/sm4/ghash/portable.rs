//! Multiplication in GF(2^128) by integer multiplications of masked words: no table, constant time.
//!
//! Of each factor only every fifth bit is kept. Where the product of two such words has a bit of
//! the result, it counts at most thirteen products of bits there, which fit in the five places up
//! to the next: the lowest bit of the count is the sum in GF(2), and no carry reaches a neighbour.

use super::Block;

/// Bits that are five places apart.
const EVERY_FIFTH: u64 = 0x1084_2108_4210_8421;
const EVERY_FIFTH_WIDE: u128 = 0x2108_4210_8421_0842_1084_2108_4210_8421;
/// Classes of places modulo five.
const CLASSES: usize = 5;

/// A word in five parts, each with every fifth bit of it.
type Parts = [u64; CLASSES];

/// H and what multiplying by it wants again and again.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct Point {
    low: Parts,
    high: Parts,
    both: Parts,
}

impl Point {
    pub(super) fn new(point: u128) -> Self {
        let [low, high] = halves(point);
        Self { low: parts(low), high: parts(high), both: parts(low ^ high) }
    }
}

/// `sum` becomes (sum + block) H, for one block after the other.
pub(super) fn update(point: &Point, sum: &mut u128, blocks: &[Block]) {
    for block in blocks {
        *sum = multiply(point, *sum ^ u128::from_be_bytes(*block));
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the number is taken apart")]
const fn halves(number: u128) -> [u64; 2] {
    [number as u64, (number >> 64) as u64]
}

fn parts(word: u64) -> Parts {
    core::array::from_fn(|class| word & (EVERY_FIFTH << class))
}

/// The product in the field, of Karatsuba's three products of halves.
fn multiply(point: &Point, factor: u128) -> u128 {
    let [low, high] = halves(factor);
    let product_low = carryless(&parts(low), &point.low);
    let product_high = carryless(&parts(high), &point.high);
    let middle = carryless(&parts(low ^ high), &point.both) ^ product_low ^ product_high;
    let (low, high) = (product_low ^ (middle << 64), product_high ^ (middle >> 64));
    reduce(low << 1, (high << 1) | (low >> 127))
}

/// Folds the coefficients of x^128 and above, which stand in `low`, into `high`:
/// x^128 = x^7 + x^2 + x + 1. What they push beyond x^127 is folded once more, first.
const fn reduce(low: u128, high: u128) -> u128 {
    let low = low ^ (low << 127) ^ (low << 126) ^ (low << 121);
    high ^ low ^ (low >> 1) ^ (low >> 2) ^ (low >> 7)
}

/// The product of two words as polynomials over GF(2).
fn carryless(left: &Parts, right: &Parts) -> u128 {
    let mut product = 0;
    for class in 0..CLASSES {
        let mut sum = 0;
        for (place, left) in left.iter().enumerate() {
            let right = right[(class + CLASSES - place) % CLASSES];
            sum ^= u128::from(*left) * u128::from(right);
        }
        product |= sum & (EVERY_FIFTH_WIDE << class);
    }
    product
}
