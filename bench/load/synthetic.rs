//! A seeded synthetic trading hour of the shape of the real one.
//!
//! Same number of events, same proportions of types, arrivals in bursts, prices on a random walk,
//! and an order book that makes sense: what is cancelled, deleted or executed was submitted before
//! and is still there.

use crate::lobster::{Direction, Event, EventKind, SECOND_PICOS};
use crate::random::Random;

/// Events of the real hour.
pub const EVENTS_COUNT: u64 = 91_997;

/// Events of types 1 to 5 among [`EVENTS_COUNT`] of the real hour, in order.
const WEIGHTS: [(EventKind, u64); 5] = [
    (EventKind::Submission, 44_256),
    (EventKind::CancellationPartial, 469),
    (EventKind::Deletion, 41_004),
    (EventKind::ExecutionVisible, 4_067),
    (EventKind::ExecutionHidden, 2_201),
];

/// The hour begins at 09:30.
const START_PICOS: u64 = 34_200 * SECOND_PICOS;

/// One hour.
const HOUR_PICOS: u64 = 3_600 * SECOND_PICOS;

/// Orders the synthetic book holds at most; beyond them one is deleted, as participants would.
const BOOK_ORDERS_COUNT_MAX: usize = 20_000;

/// Dollars x 10,000: where the walk begins and between what it stays.
const PRICE_START: u64 = 5_853_300;
const PRICE_MIN: u64 = 5_000_000;
const PRICE_MAX: u64 = 7_000_000;

/// One cent.
const TICK: u64 = 100;

/// Common order sizes in shares; round lots are most frequent, as in the real hour.
const SIZES: [u64; 8] = [100, 100, 100, 100, 50, 18, 200, 300];

const _: () = assert!(PRICE_MIN < PRICE_START && PRICE_START < PRICE_MAX, "the walk begins inside");

#[derive(Clone, Copy, Debug)]
struct Order {
    id: u64,
    size: u64,
    price: u64,
    direction: Direction,
}

/// Iterates over the events of one synthetic hour.
#[derive(Clone, Debug)]
pub struct SyntheticHour {
    random: Random,
    book: Vec<Order>,
    left_count: u64,
    time_picos: u64,
    price: u64,
    order_next: u64,
}

impl SyntheticHour {
    /// The hour of this seed with as many events as wanted; [`EVENTS_COUNT`] is the real hour's.
    #[must_use]
    pub fn new(seed: u64, events_count: u64) -> Self {
        Self {
            random: Random::new(seed),
            book: Vec::with_capacity(BOOK_ORDERS_COUNT_MAX),
            left_count: events_count,
            time_picos: START_PICOS,
            price: PRICE_START,
            order_next: 16_000_000,
        }
    }

    /// Three of four events follow the one before within 200 microseconds, the others after a
    /// pause, so that bursts of four on average stand apart. The pause is what is left of the hour,
    /// shared out among the bursts to come.
    fn advance(&mut self) {
        let gap = if self.random.below(4) > 0 {
            SECOND_PICOS / 1_000_000 * self.random.below(200)
        } else {
            let rest = (START_PICOS + HOUR_PICOS).saturating_sub(self.time_picos);
            let mean = rest / (self.left_count / 4 + 2);
            self.random.below(2 * mean + 1)
        };
        // Whole nanoseconds, as the exchange's clock has them.
        self.time_picos += gap / 1_000 * 1_000;
    }

    fn draw_kind(&mut self) -> EventKind {
        let mut place = self.random.below(EVENTS_COUNT);
        let drawn = WEIGHTS.iter().find(|(_, weight)| {
            let hit = place < *weight;
            place = place.saturating_sub(*weight);
            hit
        });
        let kind = drawn.map_or(EventKind::Submission, |(kind, _)| *kind);
        match kind {
            EventKind::ExecutionHidden => kind,
            _ if self.book.is_empty() => EventKind::Submission,
            EventKind::Submission if self.book.len() >= BOOK_ORDERS_COUNT_MAX => {
                EventKind::Deletion
            }
            _ => kind,
        }
    }

    fn walk_price(&mut self) {
        let step = TICK * self.random.below(6);
        self.price = if self.random.below(2) == 0 {
            (self.price + step).min(PRICE_MAX)
        } else {
            (self.price - step).max(PRICE_MIN)
        };
    }

    fn draw_direction(&mut self) -> Direction {
        if self.random.below(2) == 0 { Direction::Buy } else { Direction::Sell }
    }

    fn draw_size(&mut self) -> u64 {
        let count = u64::try_from(SIZES.len()).unwrap_or(1);
        let place = usize::try_from(self.random.below(count)).unwrap_or(0);
        SIZES.get(place).copied().unwrap_or(1)
    }

    fn submit(&mut self) -> Order {
        let direction = self.draw_direction();
        let away = TICK * self.random.below(40);
        let price = match direction {
            Direction::Buy => self.price - away,
            Direction::Sell => self.price + away,
        };
        self.order_next += 1 + self.random.below(30);
        let order = Order { id: self.order_next, size: self.draw_size(), price, direction };
        self.book.push(order);
        order
    }

    /// Takes up to `size` shares, or all, off a random order of the book; says what was taken.
    fn take(&mut self, size: Option<u64>) -> Order {
        assert!(!self.book.is_empty(), "draw_kind submits when the book is empty");
        let count = u64::try_from(self.book.len()).unwrap_or(1);
        let place = usize::try_from(self.random.below(count)).unwrap_or(0);
        let order = self.book[place];
        let taken = size.map_or(order.size, |size| size.min(order.size));
        if taken == order.size {
            self.book.swap_remove(place);
        } else {
            self.book[place].size -= taken;
        }
        Order { size: taken, ..order }
    }
}

impl Iterator for SyntheticHour {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.left_count = self.left_count.checked_sub(1)?;
        self.advance();
        let kind = self.draw_kind();
        let order = match kind {
            EventKind::CancellationPartial => {
                let size = 1 + self.random.below(20);
                self.take(Some(size))
            }
            EventKind::Deletion => self.take(None),
            EventKind::ExecutionVisible => {
                self.walk_price();
                let size = self.draw_size();
                self.take(Some(size))
            }
            EventKind::ExecutionHidden => {
                self.walk_price();
                let (size, direction) = (self.draw_size(), self.draw_direction());
                Order { id: 0, size, price: self.price, direction }
            }
            EventKind::Submission | EventKind::CrossTrade | EventKind::Halt => self.submit(),
        };
        Some(Event {
            time_picos: self.time_picos,
            kind,
            order: order.id,
            size: order.size,
            price: order.price,
            direction: order.direction,
            halt: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::lobster::parse_line;

    #[test]
    fn a_seed_determines_the_hour() {
        let hour = |seed| SyntheticHour::new(seed, 5_000).collect::<Vec<_>>();
        assert_eq!(hour(1), hour(1));
        assert_ne!(hour(1), hour(2));
        assert_eq!(hour(3).len(), 5_000);
    }

    #[test]
    fn the_shape_is_that_of_the_real_hour() {
        let events: Vec<_> = SyntheticHour::new(42, EVENTS_COUNT).collect();
        assert_eq!(events.len(), 91_997);
        for (kind, weight) in WEIGHTS {
            let count = events.iter().filter(|event| event.kind == kind).count();
            let count = u64::try_from(count).unwrap();
            let slack = weight / 10 + 60;
            assert!(count.abs_diff(weight) < slack, "{kind:?}: {count}, expected about {weight}");
        }
        let span = events.last().unwrap().time_picos - events[0].time_picos;
        let minutes = span / SECOND_PICOS / 60;
        assert!((50..=61).contains(&minutes), "{minutes} minutes");
        let gaps = events.windows(2).map(|pair| pair[1].time_picos - pair[0].time_picos);
        let close = gaps.filter(|gap| *gap < SECOND_PICOS / 1_000).count();
        assert!(close > events.len() / 2, "most events come in bursts: {close}");
    }

    #[test]
    fn every_event_is_a_line_of_the_format_and_refers_to_what_is_in_the_book() {
        let mut book: HashMap<u64, u64> = HashMap::new();
        let mut time_last = 0;
        for (row, event) in SyntheticHour::new(9, 30_000).enumerate() {
            let line = event.to_string();
            assert_eq!(parse_line(line.as_bytes(), 1).unwrap(), event, "{line}");
            assert!(event.time_picos >= time_last);
            time_last = event.time_picos;
            match event.kind {
                EventKind::Submission => assert_eq!(book.insert(event.order, event.size), None),
                EventKind::ExecutionHidden => assert_eq!(event.order, 0),
                _ => {
                    let size = book.get_mut(&event.order).expect("the order is in the book");
                    assert!(event.size <= *size, "row {row}");
                    *size -= event.size;
                    if *size == 0 {
                        book.remove(&event.order);
                    }
                }
            }
        }
    }
}
