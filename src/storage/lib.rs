#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod audit_log;
pub mod block_log;
pub mod data_dir;
mod error;
pub mod keyring;
pub mod state_store;
pub mod vote_log;
mod widths;

pub use error::{Error, Stage, Whose};
