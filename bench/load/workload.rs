//! What a load is made of: tasks that are independent of keys, chain and time of signing.
//!
//! ```text
//! Workload (replay, synthetic hour, ...) -> Task -> sign (keys, chain, last height) -> generator
//! ```

use std::borrow::Borrow;

use hufu_runtime::clock::Nanos;

use crate::lobster::Event;

/// Who signs a task; [`crate::cast::Cast`] holds the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Opens accounts, creates and issues assets; the genesis names it.
    Operator,
    /// Settles trades under the brokers' mandates; holds nothing.
    ClearingHouse,
    /// A broker, from 0.
    Broker(u16),
}

/// One trade to settle: shares from seller to buyer, cash from buyer to seller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// Broker who delivers the shares.
    pub seller: u16,
    /// Broker who pays; never the seller.
    pub buyer: u16,
    /// Shares, at least 1.
    pub shares: u128,
    /// Dollars x 10,000, at least 1.
    pub cash: u128,
}

/// What a task asks of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts the SM3 digest of the event's canonical line and row on record.
    Notarise {
        /// The event.
        event: Event,
        /// Its row over all hours, from 1.
        row: u64,
    },
    /// Delivery versus payment.
    Settle(Trade),
}

/// One transaction to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// When the recorded event happened, in nanoseconds from the first one.
    pub offset_nanos: u64,
    /// Who signs.
    pub role: Role,
    /// The transaction's nonce; no two tasks of a run share one.
    pub nonce: u64,
    /// What it does.
    pub action: Action,
}

/// A task with its place in the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The task.
    pub task: Task,
    /// When it is or was to be sent first, however often it is signed; `None` while that is not
    /// known, as at full speed before it is sent.
    pub due: Option<Nanos>,
    /// How often it was signed and then expired.
    pub signings_count: u32,
}

impl Borrow<Task> for Scheduled {
    fn borrow(&self) -> &Task {
        &self.task
    }
}

/// A source of tasks in the order they are to be sent.
pub trait Workload: Iterator<Item = Task> {
    /// Tasks still to come.
    fn tasks_count(&self) -> u64;
}
