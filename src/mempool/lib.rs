#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

mod batches;
mod counters;
pub mod dissemination;
mod hashing;
mod memory;
mod pool;
#[cfg(test)]
mod tests;

pub use batches::{ProposalLimits, Proposed};
pub use counters::{MempoolCounters, SealReason};
pub use hashing::SeededState;
pub use pool::{Mempool, MempoolConfig};
