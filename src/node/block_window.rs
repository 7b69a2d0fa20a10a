//! The last executed blocks in memory, bounded by count and by bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::messages::Executed;

/// Blocks of one window, count; enough for clients that ask right after their receipts.
const BLOCKS_MAX: usize = 16;

/// Bytes of the blocks of one window. Windows of several tiles share blocks, so that together they
/// hold little more.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;

/// See the module.
#[derive(Debug)]
pub struct BlockWindow {
    blocks: VecDeque<(Executed, usize)>,
    bytes: usize,
    kept_min: usize,
}

impl BlockWindow {
    /// An empty window that keeps the last `kept_min` blocks whatever their size.
    #[must_use]
    pub fn new(kept_min: usize) -> Self {
        assert!((1..=BLOCKS_MAX).contains(&kept_min), "a window holds what it must keep");
        Self { blocks: VecDeque::with_capacity(BLOCKS_MAX + 1), bytes: 0, kept_min }
    }

    /// Adds a block and lets go of the oldest that do not fit any more.
    pub fn push(&mut self, block: Executed) {
        let bytes = block.memory_bytes();
        self.bytes += bytes;
        self.blocks.push_back((block, bytes));
        while self.blocks.len() > self.kept_min
            && (self.blocks.len() > BLOCKS_MAX || self.bytes > WINDOW_BYTES_MAX)
            && let Some((_, bytes)) = self.blocks.pop_front()
        {
            self.bytes -= bytes;
        }
    }

    /// The block of this height, if it is held.
    #[must_use]
    pub fn find(&self, height: u64) -> Option<&Executed> {
        self.blocks.iter().map(|(block, _)| block).find(|block| block.block.height() == height)
    }

    /// The block of this height for one who keeps it.
    #[must_use]
    pub fn get(&self, height: u64) -> Option<Executed> {
        self.find(height).map(Arc::clone)
    }
}
