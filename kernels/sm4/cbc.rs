//! SM4-CBC (GB/T 17964-2021 6): whole blocks, without padding.
//!
//! Encrypting one stream is a chain, each block after the one before. Streams side by side are what
//! fills the lanes; decrypting has no chain at all.

use super::{BLOCK_SIZE, Block, Key, xor};

/// Blocks that are decrypted, and streams that are encrypted, at a time.
const LANES: usize = 64;

/// One chain of blocks to encrypt.
pub struct CbcStream<'d> {
    /// The initial vector; when the stream is done, its last block, which continues the chain.
    pub chain: [u8; BLOCK_SIZE],
    /// What is encrypted in place.
    pub blocks: &'d mut [[u8; BLOCK_SIZE]],
}

impl Key {
    /// Encrypts blocks in place. `chain` is the initial vector, and after that the last block.
    pub fn cbc_encrypt(&self, chain: &mut [u8; BLOCK_SIZE], blocks: &mut [[u8; BLOCK_SIZE]]) {
        for block in blocks {
            xor(block, chain);
            self.encrypt_blocks(core::slice::from_mut(block));
            *chain = *block;
        }
    }

    /// Decrypts blocks in place. `chain` is the initial vector, and after that the last block that
    /// was there.
    pub fn cbc_decrypt(&self, chain: &mut [u8; BLOCK_SIZE], blocks: &mut [[u8; BLOCK_SIZE]]) {
        let mut before = [[0; BLOCK_SIZE]; LANES];
        for blocks in blocks.chunks_mut(LANES) {
            let before = &mut before[..blocks.len()];
            before.copy_from_slice(blocks);
            self.decrypt_blocks(blocks);
            xor(&mut blocks[0], chain);
            let (later, earlier) = (blocks[1..].as_flattened_mut(), before.as_flattened());
            xor(later, earlier);
            *chain = before[before.len() - 1];
        }
    }

    /// Encrypts every stream in place, side by side; lengths may differ.
    pub fn cbc_encrypt_many(&self, streams: &mut [CbcStream<'_>]) {
        let mut coming = 0..streams.len();
        let mut lanes = [Lane::default(); LANES];
        let mut chains = [[0; BLOCK_SIZE]; LANES];
        let mut live = 0;
        while live < LANES && enter(streams, &mut coming, &mut lanes[live], &mut chains[live]) {
            live += 1;
        }
        while live > 0 {
            for (chain, lane) in chains.iter_mut().zip(&lanes[..live]) {
                xor(chain, &streams[lane.stream].blocks[lane.done]);
            }
            self.encrypt_blocks(&mut chains[..live]);
            for (chain, lane) in chains.iter().zip(&mut lanes[..live]) {
                streams[lane.stream].blocks[lane.done] = *chain;
                lane.done += 1;
            }
            // From behind, so that the last lane, which takes the place of one that is left empty,
            // has been looked at.
            for index in (0..live).rev() {
                let lane = &mut lanes[index];
                let stream = &mut streams[lane.stream];
                if lane.done < stream.blocks.len() {
                    continue;
                }
                stream.chain = chains[index];
                if !enter(streams, &mut coming, lane, &mut chains[index]) {
                    live -= 1;
                    lanes[index] = lanes[live];
                    chains[index] = chains[live];
                }
            }
        }
    }
}

/// A stream on its way through a lane.
#[derive(Clone, Copy, Default)]
struct Lane {
    /// Its place in the list.
    stream: usize,
    /// Blocks of it that are done.
    done: usize,
}

/// Lets the next stream that has a block into the lane; false if there is none.
fn enter(
    streams: &[CbcStream<'_>],
    coming: &mut core::ops::Range<usize>,
    lane: &mut Lane,
    chain: &mut Block,
) -> bool {
    let Some(stream) = coming.find(|&stream| !streams[stream].blocks.is_empty()) else {
        return false;
    };
    *lane = Lane { stream, done: 0 };
    *chain = streams[stream].chain;
    true
}
