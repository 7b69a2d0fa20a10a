//! Tables of public keys that come again and again: with one, a verification has 15 doublings
//! instead of 255.
//!
//! The comb of [`digits`](super::digits) has 32 columns. Its left and its right half have tables of
//! their own, so that two columns share each of the 15 doublings:
//!
//! ```text
//! [t]P = sum over c in 0..16 of 2^c * (table[0][column c] + table[1][column c + 16])
//! ```
//! Adding the columns in pairs of affine points with one inversion for 64 signatures was measured:
//! the points leave the first cache, and nothing is won.
//!
//! table[1] holds 2^16 times the points of table[0]. 256 points of 64 bytes are 16 KB a key.

use std::sync::OnceLock;

use super::digits::{BITS, CHOOSING_ROWS, COLUMNS, Column, Odd, ROWS};
use super::point::{Affine, Jacobian};
use super::verify;
use crate::Backend;
use crate::backend::Instructions;

/// Columns that share doublings with those of the other half.
pub(super) const HALF_COLUMNS: usize = COLUMNS / HALVES;
pub(super) const HALVES: usize = 2;
/// Points of each half's table.
pub(super) const POINTS: usize = 1 << CHOOSING_ROWS;

/// x and y of one point, four words each from the lowest, in the Montgomery form of the back end
/// that made it. It fills a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Entry(pub(super) [u64; 8]);

/// The multiples of one public key that [`verify_many`](super::verify_many) can use; 16 KB. Made by
/// a back end for itself.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct KeyTable {
    pub(super) points: [[Entry; POINTS]; HALVES],
    key: [u8; 64],
    /// Who can read it; nobody before it is made.
    maker: Option<Instructions>,
}

impl KeyTable {
    /// A table of no key.
    #[must_use]
    pub const fn empty() -> Self {
        Self { points: [[Entry([0; 8]); POINTS]; HALVES], key: [0; 64], maker: None }
    }

    /// Whether its points are in the form of the portable code: made by a back end that works on
    /// one signature at a time.
    pub(super) fn is_portable(&self) -> bool {
        self.maker.is_some_and(|maker| !super::has_lanes(Backend(maker)))
    }

    /// Whether it holds the multiples of this key for this back end.
    #[must_use]
    pub fn is_of(&self, backend: Backend, key: &[u8; 64]) -> bool {
        self.maker == Some(backend.0) && self.key == *key
    }
}

/// Makes the tables of the keys; a key off the curve gets a table that is of no key. One costs
/// about as much as two verifications without it where eight are made at once.
///
/// # Panics
/// If `keys` and `tables` differ in length.
pub fn tables_many(backend: Backend, keys: &[&[u8; 64]], tables: &mut [&mut KeyTable]) {
    assert_eq!(keys.len(), tables.len(), "one table for each key");
    for (key, table) in keys.iter().zip(tables.iter_mut()) {
        (table.key, table.maker) = (**key, verify::point(key).map(|_| backend.0));
    }
    #[cfg(target_arch = "x86_64")]
    if super::has_lanes(backend) {
        const LANES: usize = super::avx512::LANES;
        for (keys, tables) in keys.chunks(LANES).zip(tables.chunks_mut(LANES)) {
            // SAFETY: the CPU was asked for what the lanes need.
            unsafe { super::avx512::make_tables(keys, tables) };
        }
        return;
    }
    for (key, table) in keys.iter().zip(tables) {
        if let Some(key) = verify::point(key) {
            make(&key, &mut table.points);
        }
    }
}

/// Doublings between the rows of one half's comb and those of the other.
pub(super) const STEP: usize = BITS / ROWS / HALVES;

/// Makes the table of a key, portable.
fn make(key: &Affine, table: &mut [[Entry; POINTS]; HALVES]) {
    // 2^(32 row + 16 half) P.
    let mut power = Jacobian::from(*key);
    let mut powers = [[power; HALVES]; ROWS];
    for place in powers.as_flattened_mut() {
        *place = power;
        for _ in 0..STEP {
            power = power.double();
        }
    }
    for (half, table) in table.iter_mut().enumerate() {
        // All rows but the highest negative.
        let mut first = powers[CHOOSING_ROWS][half];
        let mut steps = [first; CHOOSING_ROWS];
        for (step, row) in steps.iter_mut().zip(&powers) {
            first = first.add(&row[half].negate());
            *step = row[half].double();
        }
        let mut sums = [first; POINTS];
        for place in 1_usize..POINTS {
            // The same with its lowest positive row negative stands there already.
            let (before, row) = (place & (place - 1), place.trailing_zeros());
            sums[place] = sums[before].add(&steps[row as usize]);
        }
        let mut affine = [*key; POINTS];
        Jacobian::normalise(&sums, &mut affine);
        *table = affine.map(Entry::of);
    }
}

/// [t]P by the table of P, portable.
pub(super) fn multiply(table: &KeyTable, t: &[u64; 4]) -> Jacobian {
    let columns = Odd::new(t).columns();
    let mut sum = Jacobian::INFINITY;
    for number in (0..HALF_COLUMNS).rev() {
        sum.double_times(1);
        for (half, points) in table.points.iter().enumerate() {
            let Column { place, is_negative } = columns[half * HALF_COLUMNS + number];
            sum.accumulate(&points[usize::from(place)].point(), is_negative);
        }
    }
    sum
}

/// Bits of the windows of G, and the count of its odd multiples in each.
const BASE_WINDOW: usize = 8;
const BASE_MULTIPLES: usize = 1 << (BASE_WINDOW - 1);
const BASE_DIGITS: usize = BITS / BASE_WINDOW;

/// `sum` + [s]G without a doubling, portable; the table of 256 KB is made at first use.
pub(super) fn add_base(mut sum: Jacobian, s: &[u64; 4]) -> Jacobian {
    static TABLE: OnceLock<Vec<Affine>> = OnceLock::new();
    let table = TABLE.get_or_init(base_table);
    let scalar = Odd::new(s);
    for (number, row) in table.chunks(BASE_MULTIPLES).enumerate() {
        let (place, is_negative) = scalar.digit(number * BASE_WINDOW, BASE_WINDOW);
        sum.accumulate(&row[place], is_negative);
    }
    sum
}

/// The odd multiples of 2^(8 * window) G.
fn base_table() -> Vec<Affine> {
    let mut table = vec![Affine::generator(); BASE_DIGITS * BASE_MULTIPLES];
    let mut power = Jacobian::from(Affine::generator());
    for row in table.chunks_mut(BASE_MULTIPLES) {
        let twice = power.double();
        let mut multiples = [power; BASE_MULTIPLES];
        for place in 1..BASE_MULTIPLES {
            multiples[place] = multiples[place - 1].add(&twice);
        }
        Jacobian::normalise(&multiples, row);
        for _ in 0..BASE_WINDOW {
            power = power.double();
        }
    }
    table
}

impl Entry {
    fn of(point: Affine) -> Self {
        let (x, y) = point.montgomery();
        let mut words = [0; 8];
        words[..4].copy_from_slice(&x);
        words[4..].copy_from_slice(&y);
        Self(words)
    }

    fn point(&self) -> Affine {
        let [a, b, c, d, e, f, g, h] = self.0;
        Affine::from_montgomery([a, b, c, d], [e, f, g, h])
    }
}
