//! Tables of multiples, and the digits that choose from them.
//!
//! A scalar is written with digits that are odd and signed, so that none is zero and every lane
//! adds at every step. Only odd scalars can be written so: of t and n - t, of which one is odd, the
//! odd one is taken, and all its digits change their sign when it is the second.

use core::arch::x86_64::{__m512i, __mmask8, _mm512_setzero_si512, _mm512_storeu_si512};
use std::sync::OnceLock;

use super::super::field::sub_limbs;
use super::super::point::{Affine as PortableAffine, Jacobian};
use super::super::verify::N;
use super::field::{Fe, LANES, join, load, store, transpose};
use super::point::{Affine, Entry, Multiple, ONE, Point, montgomery};

/// Bits of a scalar that are written with digits.
const BITS: usize = 256;

/// Bits and count of the windows of a fresh key, and its multiples.
const KEY_WINDOW: usize = 5;
const KEY_DIGITS: usize = BITS.div_ceil(KEY_WINDOW);
const KEY_MULTIPLES: usize = 1 << (KEY_WINDOW - 1);

/// The same of G, whose multiples stand ready for every window, so that no doublings are needed.
const BASE_WINDOW: usize = 12;
const BASE_DIGITS: usize = BITS.div_ceil(BASE_WINDOW);
const BASE_MULTIPLES: usize = 1 << (BASE_WINDOW - 1);

/// An odd number below 2^256, words from the lowest, and whether it stands for its opposite.
#[derive(Clone, Copy)]
pub(super) struct Odd {
    /// Half of it, with bit 255 set: bit i says whether 2^i is added or taken away.
    signs: [u64; 5],
    is_negative: bool,
}

impl Odd {
    /// Of a scalar in 1..n.
    pub(super) fn new(scalar: &[u64; 4]) -> Self {
        let is_negative = scalar[0] & 1 == 0;
        let [a, b, c, d] = if is_negative { sub_limbs(&N, scalar).0 } else { *scalar };
        let signs = [a >> 1 | b << 63, b >> 1 | c << 63, c >> 1 | d << 63, d >> 1 | 1 << 63, 0];
        Self { signs, is_negative }
    }

    /// The digit of the `count` bits from `place` up: the place of its odd number in a table, and
    /// whether it is negative.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "masked to at most sixteen bits")]
    fn digit(&self, place: usize, count: usize) -> (usize, bool) {
        let (word, shift) = (place / 64, place % 64);
        let wide = u128::from(self.signs[word + 1]) << 64 | u128::from(self.signs[word]);
        let bits = (wide >> shift) as usize & ((1 << count) - 1);
        let half = 1 << (count - 1);
        if bits >= half {
            (bits - half, self.is_negative)
        } else {
            (half - 1 - bits, !self.is_negative)
        }
    }
}

/// One digit of each lane.
struct Digits<const V: usize> {
    places: [[usize; LANES]; V],
    negative: [__mmask8; V],
}

impl<const V: usize> Digits<V> {
    /// Digit `number` of windows of `window` bits; the highest has as many as are left.
    #[inline]
    fn new(scalars: &[[Odd; LANES]; V], number: usize, window: usize) -> Self {
        let place = window * number;
        let count = window.min(BITS - place);
        let mut digits = Self { places: [[0; LANES]; V], negative: [0; V] };
        for (v, scalars) in scalars.iter().enumerate() {
            for (lane, scalar) in scalars.iter().enumerate() {
                let (place, is_negative) = scalar.digit(place, count);
                digits.places[v][lane] = place;
                digits.negative[v] |= u8::from(is_negative) << lane;
            }
        }
        digits
    }
}

/// Five values of five limbs.
const MULTIPLE_WORDS: usize = 25;
/// What of them is turned with [`transpose`]; the last word stands apart.
const TURNED_WORDS: usize = MULTIPLE_WORDS - 1;

/// P, 3P, 5P ... of the keys, each lane's apart, so that a lookup reads lines of memory and not
/// words.
pub(super) struct KeyTable<const V: usize> {
    turned: [[[[u64; TURNED_WORDS]; KEY_MULTIPLES]; LANES]; V],
    last: [[[u64; LANES]; KEY_MULTIPLES]; V],
}

impl<const V: usize> KeyTable<V> {
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn new(key: &Affine<V>) -> Self {
        let mut table = Self {
            turned: [[[[0; TURNED_WORDS]; KEY_MULTIPLES]; LANES]; V],
            last: [[[0; LANES]; KEY_MULTIPLES]; V],
        };
        let mut multiple = key.to_point();
        let twice = multiple.double().to_multiple();
        for place in 0..KEY_MULTIPLES {
            if place > 0 {
                multiple = multiple.add(&twice);
            }
            table.put(place, &multiple.to_multiple());
        }
        table
    }

    #[target_feature(enable = "avx512f")]
    fn put(&mut self, place: usize, multiple: &Multiple<V>) {
        let point = &multiple.point;
        let limbs = [&point.x.0, &point.y.0, &point.z.0, &multiple.zz.0, &multiple.zzz.0];
        for v in 0..V {
            let mut words = [_mm512_setzero_si512(); MULTIPLE_WORDS];
            for (word, limb) in words.iter_mut().zip(limbs.into_iter().flatten()) {
                *word = limb[v];
            }
            let (turned, _) = words.as_chunks::<LANES>();
            for (at, rows) in turned.iter().enumerate() {
                for (lane, row) in transpose(*rows).into_iter().enumerate() {
                    let words = &mut self.turned[v][lane][place].as_chunks_mut::<LANES>().0[at];
                    // SAFETY: eight words are the 64 bytes that are written.
                    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast::<__m512i>(), row) };
                }
            }
            self.last[v][place] = store(words[TURNED_WORDS]);
        }
    }

    /// The multiple that each lane's digit asks for.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn get(&self, digits: &Digits<V>) -> Multiple<V> {
        let mut limbs = [[[_mm512_setzero_si512(); V]; 5]; 5];
        for v in 0..V {
            let places = &digits.places[v];
            let mut words = [_mm512_setzero_si512(); MULTIPLE_WORDS];
            for at in 0..TURNED_WORDS / LANES {
                let mut rows = [_mm512_setzero_si512(); LANES];
                for (lane, row) in rows.iter_mut().enumerate() {
                    let row_words = &self.turned[v][lane][places[lane]].as_chunks::<LANES>().0[at];
                    *row = load(row_words);
                }
                words[at * LANES..][..LANES].copy_from_slice(&transpose(rows));
            }
            let last: [u64; LANES] = core::array::from_fn(|lane| self.last[v][places[lane]][lane]);
            words[TURNED_WORDS] = load(&last);
            for (limb, word) in limbs.as_flattened_mut().iter_mut().zip(words) {
                limb[v] = word;
            }
        }
        let [x, y, z, zz, zzz] = limbs;
        let y = Fe::<V, 4>(y).negate_where(digits.negative).tight();
        Multiple { point: Point { x: Fe(x), y, z: Fe(z) }, zz: Fe(zz), zzz: Fe(zzz) }
    }

    /// [t]P.
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn multiply(&self, scalars: &[[Odd; LANES]; V]) -> Point<V> {
        let mut sum = self.get(&Digits::new(scalars, KEY_DIGITS - 1, KEY_WINDOW)).point;
        for number in (0..KEY_DIGITS - 1).rev() {
            for _ in 0..KEY_WINDOW {
                sum = sum.double();
            }
            sum = sum.add(&self.get(&Digits::new(scalars, number, KEY_WINDOW)));
        }
        sum
    }
}

/// The odd multiples of G for each window.
pub(super) struct BaseTable(Vec<Entry>);

impl BaseTable {
    /// 2.7 MB, made at first use.
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    pub(super) fn get() -> &'static Self {
        static TABLE: OnceLock<BaseTable> = OnceLock::new();
        TABLE.get_or_init(|| Self::new())
    }

    /// The rows of eight windows side by side, a lane each.
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    fn new() -> Self {
        let mut table = vec![Entry([0; 8]); BASE_DIGITS * BASE_MULTIPLES];
        let mut power = Jacobian::from(PortableAffine::generator());
        for rows in table.chunks_mut(LANES * BASE_MULTIPLES) {
            let mut firsts = [Entry([0; 8]); LANES];
            for first in &mut firsts {
                *first = Entry::new(power);
                for _ in 0..BASE_WINDOW {
                    power = power.double();
                }
            }
            let first = Affine::<1>::load([firsts.each_ref()]).to_point();
            let twice = first.double().to_multiple();
            let mut multiples = vec![first; BASE_MULTIPLES];
            for place in 1..BASE_MULTIPLES {
                multiples[place] = multiples[place - 1].add(&twice);
            }
            normalise(&multiples, |place, entries| {
                for (row, entry) in rows.chunks_mut(BASE_MULTIPLES).zip(entries) {
                    row[place] = entry;
                }
            });
        }
        Self(table)
    }

    /// Adds [s]G to `sum`.
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    pub(super) fn add<const V: usize>(
        &self,
        mut sum: Point<V>,
        scalars: &[[Odd; LANES]; V],
    ) -> Point<V> {
        for (number, row) in self.0.chunks(BASE_MULTIPLES).enumerate() {
            let digits = Digits::new(scalars, number, BASE_WINDOW);
            let mut entries = [[&row[0]; LANES]; V];
            for (entries, places) in entries.iter_mut().zip(&digits.places) {
                for (entry, place) in entries.iter_mut().zip(places) {
                    *entry = &row[*place];
                }
            }
            sum = sum.add_affine(&Affine::load(entries).negate_where(digits.negative));
        }
        sum
    }
}

impl Entry {
    /// Of a point that is not at infinity.
    fn new(point: Jacobian) -> Self {
        let Some(affine) = point.to_affine() else {
            unreachable!("a multiple of a point other than 0 modulo n is not at infinity")
        };
        let (x, y) = affine.coordinates();
        let mut words = [0; 8];
        words[..4].copy_from_slice(&join(&montgomery(x)));
        words[4..].copy_from_slice(&join(&montgomery(y)));
        Self(words)
    }
}

/// The points with z = 1, by one inversion for all that stand in a lane; none is at infinity.
#[target_feature(enable = "avx512f,avx512ifma")]
fn normalise(points: &[Point<1>], mut put: impl FnMut(usize, [Entry; LANES])) {
    let Some(first) = points.first() else { return };
    // The product of the z of all points up to each.
    let mut product: Fe<1, 2> = first.z.mul::<1, 2>(&Fe::all(&ONE)).tight();
    let mut products = vec![product; points.len()];
    for (place, point) in points.iter().enumerate().skip(1) {
        product = product.mul(&point.z).tight();
        products[place] = product;
    }
    let mut inverse = product.invert();
    for (place, point) in points.iter().enumerate().rev() {
        let own: Fe<1, 2> = match place.checked_sub(1) {
            Some(before) => inverse.mul(&products[before]).tight(),
            None => inverse,
        };
        inverse = inverse.mul(&point.z).tight();
        let square: Fe<1, 2> = own.square().tight();
        let cube: Fe<1, 2> = square.mul(&own).tight();
        let x: Fe<1, 2> = point.x.mul(&square).tight();
        let y: Fe<1, 2> = point.y.mul(&cube).tight();
        put(place, entries(x, y));
    }
}

/// The points as entries of tables, a lane each.
#[target_feature(enable = "avx512f")]
#[inline]
fn entries(x: Fe<1, 2>, y: Fe<1, 2>) -> [Entry; LANES] {
    let ([[x0], [x1], [x2], [x3]], [[y0], [y1], [y2], [y3]]) =
        (x.reduced().to_words(), y.reduced().to_words());
    transpose([x0, x1, x2, x3, y0, y1, y2, y3]).map(|row| Entry(store(row)))
}
