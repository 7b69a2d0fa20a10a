//! The layer over PKCS#11 against libraries that are not ours: SoftHSM2 as a token that behaves,
//! and a library written to misbehave.
//!
//! SoftHSM2 finds its configuration through the environment, and a library is loaded once in a
//! process, so each test runs in a process of its own with a token of its own.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what a test's helper cannot do fails the test; a test that is skipped says so"
)]

mod hostile;
mod library;
mod pins;
mod pool;
mod second_client;
mod session;
mod token;
