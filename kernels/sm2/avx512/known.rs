//! Tables of known keys: made for eight keys at once, read for eight or sixteen.

use core::arch::x86_64::{__mmask8, _MM_HINT_T0, _mm_prefetch};

use super::super::digits::{CHOOSING_ROWS, COLUMNS, Column, Odd, ROWS};
use super::super::known::{Entry, HALF_COLUMNS, HALVES, KeyTable, POINTS, STEP};
use super::field::{Fe, LANES};
use super::point::{Affine, ONE, Point};
use super::table::{entries, normalise};

/// Makes the tables of up to eight keys, which are points of the curve.
///
/// No sum here meets an exceptional case: all are multiples of P by different numbers that are far
/// below n and neither equal nor opposite: the sums of a table are odd multiples of 2^(16 half),
/// what is added to them even ones.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn make_tables(key: &Affine<1>, tables: &mut [&mut KeyTable]) {
    // 2^(32 row + 16 half) P.
    let mut powers = [[key.to_point(); HALVES]; ROWS];
    let mut power = key.to_point();
    for place in powers.as_flattened_mut() {
        *place = power;
        for _ in 0..STEP {
            power = power.double();
        }
    }
    // Twice the points of the rows that choose, as affine points.
    let mut twice = [[power; HALVES]; CHOOSING_ROWS];
    for (twice, power) in twice.as_flattened_mut().iter_mut().zip(powers.as_flattened()) {
        *twice = power.double();
    }
    let one: Fe<1, 2> = Fe::<1, 1>::all(&ONE).widen();
    let mut steps = [[*key; HALVES]; CHOOSING_ROWS];
    let mut products = [one; HALVES * CHOOSING_ROWS];
    normalise(twice.as_flattened(), &mut products, |place, step| {
        steps.as_flattened_mut()[place] = step;
    });
    for half in 0..HALVES {
        let steps = steps.each_ref().map(|row| row[half]);
        // All rows but the highest negative.
        let mut sum = powers[CHOOSING_ROWS][half];
        for row in &powers[..CHOOSING_ROWS] {
            sum = sum.add(&row[half].negate().to_multiple());
        }
        fill(sum, &steps, half, tables);
    }
}

/// Writes one half of the tables: from `first` on, whose choosing rows are all negative.
#[target_feature(enable = "avx512f,avx512ifma")]
fn fill(
    first: Point<1>,
    steps: &[Affine<1>; CHOOSING_ROWS],
    half: usize,
    tables: &mut [&mut KeyTable],
) {
    let mut sums = [first; POINTS];
    for place in 1_usize..POINTS {
        // The same with its lowest positive row negative stands there already.
        let (before, row) = (place & (place - 1), place.trailing_zeros());
        sums[place] = sums[before].add_affine(&steps[row as usize]);
    }
    let mut products = [steps[0].x; POINTS];
    normalise(&sums, &mut products, |place, points| {
        for (table, entry) in tables.iter_mut().zip(entries(points)) {
            table.points[half][place] = entry;
        }
    });
}

/// What the columns of `number` ask for.
#[target_feature(enable = "avx512f,avx512vbmi2")]
#[inline]
fn column<const V: usize>(
    tables: &[[&KeyTable; LANES]; V],
    columns: &[[[Column; COLUMNS]; LANES]; V],
    half: usize,
    number: usize,
) -> (Affine<V>, [__mmask8; V]) {
    let mut chosen: [[&Entry; LANES]; V] = tables.map(|lanes| lanes.map(|one| &one.points[0][0]));
    let mut negative: [__mmask8; V] = [0; V];
    for v in 0..V {
        for lane in 0..LANES {
            let Column { place, is_negative } = columns[v][lane][half * HALF_COLUMNS + number];
            chosen[v][lane] = &tables[v][lane].points[half][usize::from(place)];
            negative[v] |= u8::from(is_negative) << lane;
        }
    }
    (Affine::load(&chosen), negative)
}

/// [t]P by the tables of the keys.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
pub(super) fn multiply<const V: usize>(
    tables: &[[&KeyTable; LANES]; V],
    scalars: &[[Odd; LANES]; V],
) -> Point<V> {
    let columns = scalars.each_ref().map(|lanes| lanes.each_ref().map(Odd::columns));
    // With many keys the tables lie far away in memory: all lines are asked for before the first is
    // waited for.
    for (tables, columns) in tables.as_flattened().iter().zip(columns.as_flattened()) {
        for (number, column) in columns.iter().enumerate() {
            let half = &tables.points[number / HALF_COLUMNS];
            let entry = &half[usize::from(column.place)];
            _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(entry).cast());
        }
    }
    let mut number = HALF_COLUMNS - 1;
    let (first, negative) = column(tables, &columns, 0, number);
    let mut sum = first.negate_where(negative).to_point();
    loop {
        let (point, negative) = column(tables, &columns, 1, number);
        sum = sum.add_signed(&point, negative);
        if number == 0 {
            return sum;
        }
        number -= 1;
        let (point, negative) = column(tables, &columns, 0, number);
        sum = sum.double().add_signed(&point, negative);
    }
}
