//! The link between two validators: who is there, consensus messages first, bulk in parts.
//!
//! ```text
//!   smaller address (dials)                 larger address (accepts)
//!     Hello: chain, versions, address, nonce -->
//!                                           <-- Hello
//!     Proof: signature over both hellos      -->
//!                                           <-- Proof
//!     ............................. open .............................
//!   control: consensus, blocks, tips, requests, keep-alive      leaves first
//!   bulk:    batches, decided heights, in parts of 64 KiB       one part at a time
//! ```
//! A [`PeerLink`] is one end of one connection without its socket: bytes in, events out; messages
//! in, bytes out. No I/O and no clock: time is an argument. Owned by the peer tile. Every byte of
//! the other end is judged before memory is spent on it, and everything held is bounded by
//! [`LinkConfig`].

mod codes;
mod hello;
mod link;
mod outbox;
mod parts;
#[cfg(test)]
mod tests;

pub use codes::{BulkKind, PeerCode, PeerKind};
pub use hello::{PEER_MAGIC, PEER_VERSIONS, PeerHello};
pub use link::{LinkConfig, LinkCounters, LinkEvent, LinkIdentity, LinkSetup, PeerKeys, PeerLink};
