//! Real processes of the binary `hufu` under real faults: restarts, kills, power cuts, full disks,
//! damaged folders, and everything a client can send that it should not.
//!
//! ```text
//! chain (keys, genesis) -> node (one process) <- load (receipts seen) -> checks (nothing lost)
//!                          ^ signals, SIGKILL, disks that lose what was not synced
//! ```
//!
//! The modules `four*` do the same to four validators at once, with a network of their own where
//! packets are to be lost.
//!
//! A receipt that a test has seen is written into a record outside of the node's reach. After every
//! fault the node must answer with the same receipt, under the same block, and nothing twice.
//!
//! `HUFU_BINARY` names another binary, `HUFU_KILLS` and `HUFU_CUTS` ask for more of the same,
//! `HUFU_FAULT_SEED` repeats the moments of an earlier run.
#![forbid(unsafe_code)]

#[cfg(test)]
mod account_proofs;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod bad_frames;
#[cfg(test)]
mod bad_transactions;
#[cfg(test)]
mod chain;
#[cfg(test)]
mod checks;
#[cfg(test)]
mod crowds;
#[cfg(test)]
mod data_folder;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod four;
#[cfg(test)]
mod four_cards;
#[cfg(test)]
mod four_crashes;
#[cfg(test)]
mod four_links;
#[cfg(test)]
mod four_power;
#[cfg(test)]
mod four_strangers;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod load;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod node;
#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod slow_reader;
#[cfg(test)]
mod wire;
