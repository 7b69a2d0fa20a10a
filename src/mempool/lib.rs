#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

mod batches;
mod counters;
pub mod dissemination;
mod hashing;
mod memory;
mod pool;
mod recent;
#[cfg(test)]
mod tests;

pub use counters::{MempoolCounters, SealReason};
pub use dissemination::{Blame, Dissemination, DisseminationConfig, ProposalLimits};
pub use pool::{Mempool, MempoolConfig};
pub use recent::Recent;
