#![doc = include_str!("README.md")]
//!
//! # Where the `unsafe` is
//! In `sys`, `net::{memory, pool, socket, epoll, uring}` and `file`; the crates above forbid it.
//! This crate holds no rule of the ledger and knows no message.

pub mod clock;
pub mod file;
pub mod link;
pub mod net;
pub mod placement;
pub mod process;
pub mod sim;
mod sys;
pub mod thread;
pub mod tile;
pub mod wake;
