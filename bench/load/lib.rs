#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::time::Duration;

pub mod cast;
mod feed;
pub mod generator;
pub mod lobster;
pub mod random;
pub mod receipts;
pub mod replay;
pub mod report;
pub mod run;
pub mod setup;
pub mod sign;
pub mod synthetic;
pub mod tracker;
pub mod usage;
pub mod verification;
pub mod workload;

pub use cast::{Actor, Cast};
pub use generator::{Pace, SendOptions};
pub use lobster::{Event, LobsterError};
pub use receipts::{ReceiptFile, ReceiptReader};
pub use replay::{Discrepancy, Holdings, Replay, Totals};
pub use report::{Latency, RunResult, Tip};
pub use run::{Observed, Observer, Run, RunOptions, Stage};
pub use sign::{Signed, SignedChunk};
pub use synthetic::SyntheticHour;
pub use tracker::{Answer, Counts};
pub use usage::{Sample, Usage};
pub use workload::{Action, Role, Scheduled, Task, Trade, Workload};

/// What keeps a load from being made or run. What the chain answers is counted, never an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input file is at fault.
    #[error(transparent)]
    Lobster(#[from] LobsterError),
    /// Keys or signatures could not be made.
    #[error(transparent)]
    Crypto(#[from] hufu_crypto::Error),
    /// Too few or too many brokers.
    #[error(
        "{found} accounts, allowed are {}..={}",
        cast::ACCOUNTS_COUNT_MIN,
        cast::ACCOUNTS_COUNT_MAX
    )]
    AccountsCount {
        /// How many were asked for.
        found: u16,
    },
    /// Too few or too many hours.
    #[error("{found} hours, allowed are 1..={}", replay::HOURS_COUNT_MAX)]
    HoursCount {
        /// How many were asked for.
        found: u32,
    },
    /// There is nothing to replay.
    #[error("there are no events to replay")]
    Events,
    /// There is nobody to send to.
    #[error("no node or no connection to send over")]
    Nodes,
    /// A node does not take connections, or is not the one expected.
    #[error("node {node}: {error}")]
    Unreachable {
        /// Which node.
        node: SocketAddr,
        /// The last reason.
        error: hufu_network::ClientError,
    },
    /// A node owes answers and gives none.
    #[error("node {node} owes {owed} answers and has been silent for {silence:?}")]
    Stalled {
        /// Which node.
        node: SocketAddr,
        /// How many answers are due.
        owed: usize,
        /// For how long.
        silence: Duration,
    },
    /// A request between loads failed.
    #[error(transparent)]
    Client(#[from] hufu_network::ClientError),
    /// A set-up transaction did not succeed, so no load can.
    #[error("{}: transaction {number} of the phase: {reason}", phase.text())]
    SetUp {
        /// In which phase.
        phase: setup::Phase,
        /// Which transaction of the phase, from 1.
        number: usize,
        /// What the node said of it.
        reason: String,
    },
    /// A transaction made here is not canonical: a fault of this crate.
    #[error("a transaction made here is not canonical: {0}")]
    NotCanonical(#[from] hufu_types::DecodeError),
    /// Receipts cannot be written.
    #[error(transparent)]
    Receipts(#[from] receipts::ReceiptFileError),
    /// The operating system gives no thread.
    #[error("no thread to be had: {0}")]
    Thread(std::io::Error),
    /// The bounds of the latency histogram are none: a fault of this crate.
    #[error("latency histogram: {cause}")]
    Histogram {
        /// What the histogram says.
        cause: String,
    },
}
