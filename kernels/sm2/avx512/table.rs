//! Tables of multiples, chosen from by the digits of [`Odd`].

use core::arch::x86_64::{
    __m512i, __mmask8, _MM_HINT_T0, _mm_prefetch, _mm512_setzero_si512, _mm512_storeu_si512,
};
use std::sync::OnceLock;

use super::super::digits::{BITS, Odd};
use super::super::known::Entry;
use super::super::point::{Affine as PortableAffine, Jacobian};
use super::field::{Fe, LANES, load, store, transpose};
use super::point::{Affine, Multiple, ONE, Point};
use super::words;

/// Bits and count of the windows of a fresh key, and its multiples.
const KEY_WINDOW: usize = 5;
const KEY_DIGITS: usize = BITS.div_ceil(KEY_WINDOW);
const KEY_MULTIPLES: usize = 1 << (KEY_WINDOW - 1);

/// The same of G, whose multiples stand ready for every window, so that no doublings are needed.
const BASE_WINDOW: usize = 12;
const BASE_DIGITS: usize = BITS.div_ceil(BASE_WINDOW);
const BASE_MULTIPLES: usize = 1 << (BASE_WINDOW - 1);

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
pub(super) struct FreshTable<const V: usize> {
    turned: [[[[u64; TURNED_WORDS]; KEY_MULTIPLES]; LANES]; V],
    last: [[[u64; LANES]; KEY_MULTIPLES]; V],
}

impl<const V: usize> FreshTable<V> {
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
            let mut firsts = ([[0; 4]; LANES], [[0; 4]; LANES]);
            for (x, y) in firsts.0.iter_mut().zip(&mut firsts.1) {
                let Some(first) = power.to_affine() else {
                    unreachable!("a multiple of G by a power of 2 is not at infinity")
                };
                (*x, *y) = first.coordinates();
                for _ in 0..BASE_WINDOW {
                    power = power.double();
                }
            }
            let [x, y] = [firsts.0, firsts.1].map(|values| Fe::new(words(&[values])));
            let first = Affine { x, y }.to_point();
            let twice = first.double().to_multiple();
            let mut multiples = vec![first; BASE_MULTIPLES];
            for place in 1..BASE_MULTIPLES {
                multiples[place] = multiples[place - 1].add(&twice);
            }
            let mut products = vec![first.x; BASE_MULTIPLES];
            normalise(&multiples, &mut products, |place, points| {
                for (row, entry) in rows.chunks_mut(BASE_MULTIPLES).zip(entries(points)) {
                    row[place] = entry;
                }
            });
        }
        Self(table)
    }

    /// The multiples of G that each window of the scalars asks for. Their lines of memory are on
    /// the way from here on.
    #[target_feature(enable = "avx512f")]
    pub(super) fn choose<const V: usize>(&self, scalars: &[[Odd; LANES]; V]) -> Chosen<'_, V> {
        let mut chosen = [(([[&self.0[0]; LANES]; V]), [0; V]); BASE_DIGITS];
        for (number, row) in self.0.chunks(BASE_MULTIPLES).enumerate() {
            let digits = Digits::new(scalars, number, BASE_WINDOW);
            let (entries, negative) = &mut chosen[number];
            *negative = digits.negative;
            let places = digits.places.as_flattened();
            for (entry, place) in entries.as_flattened_mut().iter_mut().zip(places) {
                *entry = &row[*place];
                _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref::<Entry>(entry).cast());
            }
        }
        Chosen(chosen)
    }
}

/// The entries of each window of G and which of them are negative.
pub(super) struct Chosen<'t, const V: usize>(
    [([[&'t Entry; LANES]; V], [__mmask8; V]); BASE_DIGITS],
);

impl<const V: usize> Chosen<'_, V> {
    /// Adds [s]G to `sum`.
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    pub(super) fn add_to(&self, mut sum: Point<V>) -> Point<V> {
        for (entries, negative) in &self.0 {
            sum = sum.add_signed(&Affine::load(entries), *negative);
        }
        sum
    }
}

/// The points with z = 1, by one inversion for all that stand in a lane; none is at infinity.
/// `products` has room for as many elements as there are points.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn normalise(
    points: &[Point<1>],
    products: &mut [Fe<1, 2>],
    mut put: impl FnMut(usize, Affine<1>),
) {
    assert!(points.len() == products.len(), "one product for each point");
    // The product of the z of all points up to each.
    let mut product: Fe<1, 2> = Fe::<1, 1>::all(&ONE).widen();
    for (place, point) in products.iter_mut().zip(points) {
        product = product.mul(&point.z).tight();
        *place = product;
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
        put(place, Affine { x: point.x.mul(&square).tight(), y: point.y.mul(&cube).tight() });
    }
}

/// The points as entries of tables, a lane each.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn entries(points: Affine<1>) -> [Entry; LANES] {
    let ([[x0], [x1], [x2], [x3]], [[y0], [y1], [y2], [y3]]) =
        (points.x.reduced().to_words(), points.y.reduced().to_words());
    transpose([x0, x1, x2, x3, y0, y1, y2, y3]).map(|row| Entry(store(row)))
}
