//! Sorts items into the lanes: those with tables and those without each fill their own, whatever
//! their order.

use super::avx512::{self, LANES};
use super::{Item, Verdict, verify};

/// Items side by side.
const WIDTH: usize = 2 * LANES;

/// Below this number of items without tables the lanes do not pay.
const FRESH_MIN: usize = 2;

/// Items of one sort that wait for their lanes to fill.
struct Waiting<'a> {
    items: [Item<'a>; WIDTH],
    places: [usize; WIDTH],
    count: usize,
}

impl<'a> Waiting<'a> {
    fn push(&mut self, place: usize, item: Item<'a>, verdicts: &mut [Verdict]) {
        (self.items[self.count], self.places[self.count]) = (item, place);
        self.count += 1;
        if self.count == WIDTH {
            self.judge(verdicts);
        }
    }

    /// Writes the verdicts of all that wait to their places.
    fn judge(&mut self, verdicts: &mut [Verdict]) {
        let items = &self.items[..self.count];
        let mut found = [Verdict::SignatureInvalid; WIDTH];
        let found = &mut found[..self.count];
        match items {
            [] => {}
            [item] if item.table.is_none() && self.count < FRESH_MIN => {
                found[0] = verify::verify(item);
            }
            few if few.len() <= LANES => {
                // SAFETY: whoever calls the lanes has asked the CPU for what they need.
                unsafe { avx512::verify::<1>(few, found) };
            }
            many => {
                // SAFETY: as above.
                unsafe { avx512::verify::<2>(many, found) };
            }
        }
        for (place, verdict) in self.places.iter().zip(found) {
            verdicts[*place] = *verdict;
        }
        self.count = 0;
    }
}

/// The verdicts on items with tables and without, in lanes.
pub(super) fn verify_many(items: &[Item<'_>], verdicts: &mut [Verdict]) {
    let Some(first) = items.first() else { return };
    let none = || Waiting { items: [*first; WIDTH], places: [0; WIDTH], count: 0 };
    let (mut known, mut fresh) = (none(), none());
    for (place, item) in items.iter().enumerate() {
        let waiting = if item.table.is_some() { &mut known } else { &mut fresh };
        waiting.push(place, *item, verdicts);
    }
    known.judge(verdicts);
    fresh.judge(verdicts);
}
