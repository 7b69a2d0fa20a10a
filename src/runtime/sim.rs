//! Deterministic twins of what the host offers: same seed, same run.
//!
//! ```text
//! simulator, tests -> twin (seeded, in memory) -> the very types that the node uses
//! ```
//!
//! A twin stands behind the same type as the real thing, so that the layers above cannot tell and
//! need no seam of their own. Nothing here reads a clock, starts a thread or touches the host.

pub mod disk;
