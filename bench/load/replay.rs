//! From market events to ledger tasks, and what the ledger must hold afterwards.
//!
//! ```text
//! 1, 2, 3 (orders)      -> notarisation by the order's broker
//! 4, 5    (executions)  -> settlement by the clearing house under the brokers' mandates
//! 6, 7    (market wide) -> notarisation by the clearing house
//! ```
//!
//! Everything follows from the events and the number of brokers, so two runs do the same, and the
//! totals of [`Totals`] are computed from the events alone, without looking at what was signed or
//! sent.

use std::sync::Arc;

use crate::Error;
use crate::cast::ACCOUNTS_COUNT_MIN;
use crate::lobster::{Direction, Event, EventKind};
use crate::random::mix;
use crate::workload::{Action, Role, Task, Trade, Workload};

/// Hours one run may have; bounds nonces and sums.
pub const HOURS_COUNT_MAX: u32 = 10_000;

/// Nanoseconds of one hour.
const HOUR_NANOS: u64 = 3_600_000_000_000;

/// Keeps the draw of a hidden execution's resting side apart from that of its counterparty.
const HIDDEN_SALT: u64 = 0x6869_6464_656e_0001;

/// The broker whose order this is.
#[must_use]
pub fn broker_of(order: u64, accounts: u16) -> u16 {
    assert!(accounts >= ACCOUNTS_COUNT_MIN, "a market has two sides");
    u16::try_from(mix(order) % u64::from(accounts)).unwrap_or(0)
}

/// The trade of an execution at `row` of its hour, from 1.
///
/// The resting side is the order's broker, or drawn from the row when the order is hidden; the
/// other side is drawn from the row among all other brokers. The direction says whether the resting
/// side bought or sold.
#[must_use]
pub fn trade_of(event: &Event, row: u64, accounts: u16) -> Trade {
    assert!(event.kind.is_execution(), "only executions are trades");
    let resting_key = if event.order == 0 { row ^ HIDDEN_SALT } else { event.order };
    let resting = broker_of(resting_key, accounts);
    let distance = 1 + mix(row) % u64::from(accounts - 1);
    let other = (u64::from(resting) + distance) % u64::from(accounts);
    let other = u16::try_from(other).unwrap_or(0);
    assert!(other != resting, "the distance is less than a whole turn");
    let (buyer, seller) = match event.direction {
        Direction::Buy => (resting, other),
        Direction::Sell => (other, resting),
    };
    let cash = u128::from(event.size) * u128::from(event.price);
    Trade { seller, buyer, shares: event.size.into(), cash }
}

/// A market hour, repeated as often as wanted.
#[derive(Clone, Debug)]
pub struct Replay {
    events: Arc<[Event]>,
    accounts: u16,
    hours: u32,
    nonce_base: u64,
    hour: u32,
    position: usize,
}

impl Replay {
    /// `hours` times these events among `accounts` brokers. Nonces begin behind `nonce_base`.
    ///
    /// # Errors
    /// [`Error::Events`] without events, [`Error::AccountsCount`], [`Error::HoursCount`].
    pub fn new(
        events: Arc<[Event]>,
        accounts: u16,
        hours: u32,
        nonce_base: u64,
    ) -> Result<Self, Error> {
        if events.is_empty() {
            return Err(Error::Events);
        }
        if accounts < ACCOUNTS_COUNT_MIN {
            return Err(Error::AccountsCount { found: accounts });
        }
        if !(1..=HOURS_COUNT_MAX).contains(&hours) {
            return Err(Error::HoursCount { found: hours });
        }
        Ok(Self { events, accounts, hours, nonce_base, hour: 0, position: 0 })
    }

    /// What the run moves in all its hours.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::of(&self.events, self.accounts, self.hours)
    }

    fn task(&self, event: &Event, row_in_hour: u64) -> Task {
        let first = self.events.first().map_or(0, |event| event.time_picos);
        let events_count = u64::try_from(self.events.len()).unwrap_or(u64::MAX);
        let row = u64::from(self.hour) * events_count + row_in_hour;
        let (role, action) = match event.kind {
            EventKind::Submission | EventKind::CancellationPartial | EventKind::Deletion => {
                let broker = broker_of(event.order, self.accounts);
                (Role::Broker(broker), Action::Notarise { event: *event, row })
            }
            EventKind::ExecutionVisible | EventKind::ExecutionHidden => {
                let trade = trade_of(event, row_in_hour, self.accounts);
                (Role::ClearingHouse, Action::Settle(trade))
            }
            EventKind::CrossTrade | EventKind::Halt => {
                (Role::ClearingHouse, Action::Notarise { event: *event, row })
            }
        };
        let offset_nanos =
            u64::from(self.hour) * HOUR_NANOS + event.time_picos.saturating_sub(first) / 1_000;
        Task { offset_nanos, role, nonce: self.nonce_base + row, action }
    }
}

impl Iterator for Replay {
    type Item = Task;

    fn next(&mut self) -> Option<Task> {
        if self.hour == self.hours {
            return None;
        }
        let event = *self.events.get(self.position)?;
        self.position += 1;
        let task = self.task(&event, u64::try_from(self.position).unwrap_or(u64::MAX));
        if self.position == self.events.len() {
            self.position = 0;
            self.hour += 1;
        }
        Some(task)
    }
}

impl Workload for Replay {
    fn tasks_count(&self) -> u64 {
        let length = u64::try_from(self.events.len()).unwrap_or(u64::MAX);
        let done = u64::try_from(self.position).unwrap_or(u64::MAX);
        u64::from(self.hours - self.hour) * length - done
    }
}

/// What one broker holds of the two assets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Shares.
    pub shares: u128,
    /// Dollars x 10,000.
    pub cash: u128,
}

/// What a run moves, broker by broker, computed from the events alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Gross amounts each broker gives away.
    pub given: Vec<Holdings>,
    /// Gross amounts each broker receives.
    pub received: Vec<Holdings>,
    /// Events that become notarisations.
    pub notarisations_count: u64,
    /// Events that become settlements.
    pub settlements_count: u64,
}

impl Totals {
    fn of(events: &[Event], accounts: u16, hours: u32) -> Self {
        let brokers = usize::from(accounts);
        let mut given = vec![Holdings::default(); brokers];
        let mut received = vec![Holdings::default(); brokers];
        let (mut settlements_count, mut notarisations_count) = (0, 0);
        let repeat = u128::from(hours);
        for (row, event) in (1_u64..).zip(events) {
            if !event.kind.is_execution() {
                notarisations_count += u64::from(hours);
                continue;
            }
            settlements_count += u64::from(hours);
            let trade = trade_of(event, row, accounts);
            let (seller, buyer) = (usize::from(trade.seller), usize::from(trade.buyer));
            given[seller].shares += trade.shares * repeat;
            received[buyer].shares += trade.shares * repeat;
            given[buyer].cash += trade.cash * repeat;
            received[seller].cash += trade.cash * repeat;
        }
        Self { given, received, notarisations_count, settlements_count }
    }

    /// What each broker is issued: all it will give away, so that no settlement fails in whatever
    /// order the settlements are done; at least 1 of each, as nothing can be issued in the amount
    /// of 0.
    #[must_use]
    pub fn issued(&self) -> Vec<Holdings> {
        let at_least_one =
            |given: &Holdings| Holdings { shares: given.shares.max(1), cash: given.cash.max(1) };
        self.given.iter().map(at_least_one).collect()
    }

    /// What each broker holds when all is settled.
    #[must_use]
    pub fn expected(&self) -> Vec<Holdings> {
        let parts = self.issued().into_iter().zip(&self.given).zip(&self.received);
        parts
            .map(|((issued, given), received)| Holdings {
                shares: issued.shares - given.shares + received.shares,
                cash: issued.cash - given.cash + received.cash,
            })
            .collect()
    }

    /// Compares what the ledger says with what must be; no line means that all is as it must be.
    #[must_use]
    pub fn discrepancies(&self, actual: &[Holdings]) -> Vec<Discrepancy> {
        let expected = self.expected();
        let mut found = Vec::new();
        if actual.len() != expected.len() {
            found.push(Discrepancy::BrokersCount { found: actual.len(), expected: expected.len() });
        }
        for (broker, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            if actual != expected {
                let (actual, expected) = (*actual, *expected);
                found.push(Discrepancy::Holdings { broker, actual, expected });
            }
        }
        let (actual, issued) = (sum(actual), sum(&self.issued()));
        if actual != issued {
            found.push(Discrepancy::Conservation { actual, issued });
        }
        found
    }
}

/// Holdings of all brokers together.
#[must_use]
pub fn sum(holdings: &[Holdings]) -> Holdings {
    holdings.iter().fold(Holdings::default(), |total, part| Holdings {
        shares: total.shares.saturating_add(part.shares),
        cash: total.cash.saturating_add(part.cash),
    })
}

/// One way in which the ledger differs from the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discrepancy {
    /// Not all brokers were asked.
    #[error("{found} brokers answered, expected {expected}")]
    BrokersCount {
        /// How many.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// A broker holds something else.
    #[error(
        "broker {broker} holds {} shares and {} cash, expected {} and {}",
        actual.shares, actual.cash, expected.shares, expected.cash
    )]
    Holdings {
        /// Which broker, from 0.
        broker: usize,
        /// What the ledger says.
        actual: Holdings,
        /// What the model says.
        expected: Holdings,
    },
    /// Something was made or lost.
    #[error(
        "all brokers hold {} shares and {} cash, issued were {} and {}",
        actual.shares, actual.cash, issued.shares, issued.cash
    )]
    Conservation {
        /// What the ledger says.
        actual: Holdings,
        /// What was issued.
        issued: Holdings,
    },
}

#[cfg(test)]
mod tests;
