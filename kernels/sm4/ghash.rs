//! GHASH (SP 800-38D 6.4): a polynomial over GF(2^128) at the point H; constant time.
//!
//! A block is a number whose highest bit is the coefficient of x^0: products come out mirrored and
//! one place too low.

mod portable;

use super::{BLOCK_SIZE, Block, wipe};

/// The hash key H in the form of one back end; overwritten when dropped.
pub(super) struct Key {
    point: portable::Point,
}

impl Key {
    /// The key for H, the encrypted zero block.
    pub(super) fn new(point: &Block) -> Self {
        Self { point: portable::Point::new(u128::from_be_bytes(*point)) }
    }

    /// Hashes bytes, with zeros up to a whole block, behind what `sum` has seen.
    pub(super) fn update_padded(&self, sum: &mut u128, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        self.update(sum, blocks);
        if !rest.is_empty() {
            let mut block = [0; BLOCK_SIZE];
            block[..rest.len()].copy_from_slice(rest);
            self.update(sum, &[block]);
        }
    }

    /// Hashes blocks behind what `sum` has seen: the gate.
    pub(super) fn update(&self, sum: &mut u128, blocks: &[Block]) {
        portable::update(&self.point, sum, blocks);
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        wipe(core::slice::from_mut(&mut self.point));
    }
}
