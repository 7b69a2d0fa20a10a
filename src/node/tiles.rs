//! Tiles: one job, one file. What each owns and which links join them stands in
//! [`crate::topology`].

pub mod audit;
pub mod consensus;
pub mod execute;
pub mod ingress;
pub mod mempool;
pub mod peer;
pub mod persist_log;
pub mod persist_vote;
pub mod query;
pub mod sign;
pub mod verify;

#[cfg(test)]
mod tests;
