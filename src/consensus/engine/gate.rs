//! The gate: effects wait here until what they promise is on disk.
//!
//! ```text
//! effect -> [ record durable? batches durable? ] -> driver
//! ```
//!
//! Kept inside the engine so that no driver can get the order wrong: what a driver receives, it may
//! act on at once.

use std::collections::{BTreeSet, VecDeque};

use hufu_types::BlockDigest;

use super::Effect;
use crate::durable::{LogCursor, LogTicket};

/// Effects held at once, count. Beyond it the disk is not keeping up at all, and the engine stops.
pub const EFFECTS_HELD_COUNT_MAX: usize = 8_192;

/// Blocks whose batches are known to be durable, count.
pub const BLOCKS_DURABLE_COUNT_MAX: usize = 4_096;

struct Held {
    log: LogTicket,
    batches: Option<(u64, BlockDigest)>,
    effect: Effect,
}

/// Effects that wait, and what is known to be durable.
#[derive(Default)]
pub(super) struct Gate {
    held: VecDeque<Held>,
    blocks: BTreeSet<(u64, BlockDigest)>,
}

impl Gate {
    /// Whether the batches of this block are durable here.
    pub(super) fn has_batches(&self, height: u64, block: BlockDigest) -> bool {
        self.blocks.contains(&(height, block))
    }

    /// Takes note that the batches of this block are durable here; `false` when too many are noted
    /// already.
    #[must_use]
    pub(super) fn batches_durable(&mut self, height: u64, block: BlockDigest) -> bool {
        if self.blocks.len() >= BLOCKS_DURABLE_COUNT_MAX {
            return false;
        }
        self.blocks.insert((height, block));
        true
    }

    /// Holds an effect until `log` and, if named, the batches of a block are durable; `false` when
    /// the gate is full.
    #[must_use]
    pub(super) fn hold(
        &mut self,
        log: LogTicket,
        batches: Option<(u64, BlockDigest)>,
        effect: Effect,
    ) -> bool {
        if let Effect::Publish(message) = &effect
            && self
                .held
                .iter()
                .any(|held| matches!(&held.effect, Effect::Publish(same) if same == message))
        {
            // Told again by the rebroadcast timer while it still waits for batches: once is enough.
            return true;
        }
        if self.held.len() >= EFFECTS_HELD_COUNT_MAX {
            return false;
        }
        self.held.push_back(Held { log, batches, effect });
        true
    }

    /// Lets go of everything whose conditions hold. Order is kept among effects, but one that waits
    /// for batches, which may take a fetch from a peer, does not hold up those behind it.
    pub(super) fn release(&mut self, log: &LogCursor, out: &mut Vec<Effect>) {
        let held = std::mem::take(&mut self.held);
        for effect in held {
            let logged = effect.log <= log.durable();
            let stored =
                effect.batches.is_none_or(|(height, block)| self.has_batches(height, block))
                    || hufu_types::planted!("precommitted_before_batches");
            if logged && stored {
                out.push(effect.effect);
            } else {
                self.held.push_back(effect);
            }
        }
    }

    /// The last record that an effect waits for.
    pub(super) fn awaited(&self) -> Option<LogTicket> {
        self.held.iter().map(|held| held.log).max()
    }

    /// Drops what only heights below `height` need: their block is durable and they are over.
    pub(super) fn prune(&mut self, height: u64) {
        self.blocks = self.blocks.split_off(&(height, BlockDigest::ZERO));
        self.held.retain(|held| held.batches.is_none_or(|(waiting, _)| waiting >= height));
    }

    #[cfg(test)]
    pub(super) fn held_count(&self) -> usize {
        self.held.len()
    }
}
