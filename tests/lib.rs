#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_lossless,
    reason = "used by tests only: a value that does not fit is to stop the test"
)]

pub mod accounts;
pub mod examples;
pub mod seed;
