//! Executed blocks on their way to the clients who wait for receipts.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use hufu_crypto::Hasher;
use hufu_network::codes::ErrorCode;
use hufu_network::session::Delivery;
use hufu_types::Strength;
use hufu_types::codec::index;

use super::Connection;
use crate::messages::Executed;
use crate::proofs::ProofSource;

/// Deliveries that one connection may leave unread, count; a client that does not read is
/// disconnected.
const DELIVERIES_MAX: usize = 256;

/// Bytes of the blocks in them. All connections share blocks and line them up in one order, so
/// that together they keep hardly more than the one that is furthest behind.
pub(super) const PENDING_BYTES_MAX: usize = 64 << 20;

/// Deliveries that a client may be behind whatever their size: the last two blocks.
const DELIVERIES_MIN: usize = 4;

/// A block whose receipts are handed out at one strength; shared by all connections.
#[derive(Debug)]
pub(super) struct BlockDelivery {
    strength: Strength,
    executed: Executed,
    certifier: Option<Executed>,
    bytes: usize,
    source: OnceLock<ProofSource>,
}

impl BlockDelivery {
    /// The committed receipts of a block.
    #[must_use]
    pub(super) fn committed(executed: Executed) -> Arc<Self> {
        Self::new(Strength::Committed, executed, None)
    }

    /// The receipts of a block, certified by a later one.
    #[must_use]
    pub(super) fn certified(executed: Executed, certifier: Executed) -> Arc<Self> {
        Self::new(Strength::Certified, executed, Some(certifier))
    }

    fn new(strength: Strength, executed: Executed, certifier: Option<Executed>) -> Arc<Self> {
        let bytes = executed.memory_bytes();
        let source = OnceLock::new();
        Arc::new(Self { strength, executed, certifier, bytes, source })
    }

    fn prove(&self, place: u32, hasher: &dyn Hasher) -> Vec<u8> {
        let source =
            self.source.get_or_init(|| ProofSource::new(Arc::clone(&self.executed), hasher));
        let proof = source.prove(place, self.certifier.as_deref());
        proof.map(|proof| proof.to_bytes()).unwrap_or_default()
    }
}

struct Pending {
    delivery: Arc<BlockDelivery>,
    next: u32,
}

/// What one connection has not been handed yet.
#[derive(Default)]
pub(super) struct Receipts {
    pending: VecDeque<Pending>,
    bytes: usize,
}

impl Connection {
    /// Lines a block up for delivery. A client that has left too much unread is disconnected.
    pub(super) fn enqueue(&mut self, delivery: &Arc<BlockDelivery>) {
        let Receipts { pending, bytes } = &mut self.receipts;
        if self.session.waiters_count() == 0 && pending.is_empty() {
            if delivery.strength == Strength::Committed {
                self.session.advance(delivery.executed.block.height());
            }
            return;
        }
        *bytes += delivery.bytes;
        pending.push_back(Pending { delivery: Arc::clone(delivery), next: 0 });
        let is_far_behind = *bytes > PENDING_BYTES_MAX && pending.len() > DELIVERIES_MIN;
        if is_far_behind || pending.len() > DELIVERIES_MAX {
            self.session.close(ErrorCode::SlowConsumer, "receipts were left unread");
        }
    }

    /// Hands out receipts until all are, or the session is full.
    pub(super) fn deliver(&mut self, hasher: &dyn Hasher) {
        let Receipts { pending, bytes } = &mut self.receipts;
        if self.session.is_closing() {
            pending.clear();
            *bytes = 0;
        }
        while let Some(Pending { delivery, next }) = pending.front_mut() {
            let receipts = &delivery.executed.receipts;
            while let Some(receipt) = receipts.get(index(*next)) {
                let place = *next;
                let mut proof = || delivery.prove(place, hasher);
                if self.session.deliver(delivery.strength, receipt, &mut proof) == Delivery::Full {
                    return;
                }
                *next += 1;
            }
            if delivery.strength == Strength::Committed {
                self.session.advance(delivery.executed.block.height());
            }
            *bytes -= delivery.bytes;
            pending.pop_front();
        }
    }
}
