//! SM3 (GB/T 32905-2016): one stream, and many streams side by side.
//!
//! ```text
//! Sm3                          one message in pieces               portable
//! digest_many(backend, ..)     messages of any lengths     lanes -> avx512 (16) | avx2 (8)
//! digest_pairs(backend, ..)    64-byte Merkle pairs; the second block is the same for all of
//!                              them, so its schedule is a constant
//! ```

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod portable;
#[cfg(test)]
mod tests;

use crate::backend::{Backend, Instructions};

/// Bytes of a block (GB/T 32905-2016 5.3.1).
pub const BLOCK_SIZE: usize = 64;

/// Bytes of a digest.
pub const DIGEST_SIZE: usize = 32;

type Block = [u8; BLOCK_SIZE];
type Bytes32 = [u8; DIGEST_SIZE];

/// Bytes of the message length at the end of the padding (GB/T 32905-2016 5.2).
const LENGTH_SIZE: usize = 8;

/// The initial value (GB/T 32905-2016 4.1).
const INITIAL: [u32; 8] = [
    0x7380_166f,
    0x4914_b2b9,
    0x1724_42d7,
    0xda8a_0600,
    0xa96f_30bc,
    0x1631_38aa,
    0xe38d_ee4d,
    0xb0fb_0e4e,
];

/// T_j <<< j (GB/T 32905-2016 4.2 and 5.3.3).
const ROUND: [u32; 64] = {
    let mut table = [0_u32; 64];
    let (mut first, mut later) = (0x79cc_4519_u32, 0x7a87_9d8a_u32);
    let mut j = 0;
    while j < 64 {
        table[j] = if j < 16 { first } else { later };
        first = first.rotate_left(1);
        later = later.rotate_left(1);
        j += 1;
    }
    table
};

/// P0 (GB/T 32905-2016 4.4).
const fn p0(x: u32) -> u32 {
    x ^ x.rotate_left(9) ^ x.rotate_left(17)
}

/// P1 (GB/T 32905-2016 4.4).
const fn p1(x: u32) -> u32 {
    x ^ x.rotate_left(15) ^ x.rotate_left(23)
}

/// Expands the sixteen words of a block (GB/T 32905-2016 5.3.2, step b).
const fn expand(mut words: [u32; 68]) -> [u32; 68] {
    let mut j = 16;
    while j < 68 {
        let mixed = words[j - 16] ^ words[j - 9] ^ words[j - 3].rotate_left(15);
        words[j] = p1(mixed) ^ words[j - 13].rotate_left(7) ^ words[j - 6];
        j += 1;
    }
    words
}

/// The words of the block that pads a message of 64 bytes: a one bit, zeros, the length 512.
const PAIR_PADDING: [u32; 68] = {
    let mut words = [0; 68];
    words[0] = 1 << 31;
    words[15] = 512;
    expand(words)
};

/// The last one or two blocks of a message: what is behind its whole blocks, padded.
struct Tail {
    blocks: [Block; 2],
    count: usize,
}

impl Tail {
    /// `rest` is what the whole blocks leave, `size` counts all bytes of the message.
    fn new(rest: &[u8], size: usize) -> Self {
        assert!(rest.len() < BLOCK_SIZE, "whole blocks were taken off");
        assert!(rest.len() == size % BLOCK_SIZE, "the end of that message");
        let count = if rest.len() + 1 + LENGTH_SIZE <= BLOCK_SIZE { 1 } else { 2 };
        let mut blocks = [[0; BLOCK_SIZE]; 2];
        blocks[0][..rest.len()].copy_from_slice(rest);
        blocks[0][rest.len()] = 0x80;
        // The standard bounds a message to 2^64 - 1 bits; no slice comes near.
        let bits = (size as u64).wrapping_mul(8);
        blocks[count - 1][BLOCK_SIZE - LENGTH_SIZE..].copy_from_slice(&bits.to_be_bytes());
        Self { blocks, count }
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks[..self.count]
    }
}

/// The digest of a state (GB/T 32905-2016 5.4).
fn digest_of(state: &[u32; 8]) -> Bytes32 {
    let mut digest = [0; DIGEST_SIZE];
    for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

/// One message in pieces: `new`, any number of `update`, `finish`.
#[derive(Clone)]
pub struct Sm3 {
    state: [u32; 8],
    /// What came behind the last whole block; the first `size % 64` bytes count.
    rest: Block,
    size: usize,
}

impl Default for Sm3 {
    fn default() -> Self {
        Self::new()
    }
}

impl Sm3 {
    /// A hasher that has seen no bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: INITIAL, rest: [0; BLOCK_SIZE], size: 0 }
    }

    /// Adds bytes to the message.
    pub fn update(&mut self, mut bytes: &[u8]) {
        let held = self.size % BLOCK_SIZE;
        self.size += bytes.len();
        if held > 0 {
            let taken = bytes.len().min(BLOCK_SIZE - held);
            let (first, others) = bytes.split_at(taken);
            self.rest[held..held + taken].copy_from_slice(first);
            if held + taken < BLOCK_SIZE {
                return;
            }
            portable::compress(&mut self.state, &[self.rest]);
            bytes = others;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        portable::compress(&mut self.state, blocks);
        self.rest[..rest.len()].copy_from_slice(rest);
    }

    /// Forgets all bytes seen, and overwrites what was kept of them: for those that hash secrets.
    pub fn wipe(&mut self) {
        *self = Self::new();
        // What nobody reads again need not be written, unless somebody might read it.
        core::hint::black_box(self);
    }

    /// The digest of all bytes seen.
    #[must_use]
    pub fn finish(mut self) -> [u8; DIGEST_SIZE] {
        let tail = Tail::new(&self.rest[..self.size % BLOCK_SIZE], self.size);
        portable::compress(&mut self.state, tail.blocks());
        digest_of(&self.state)
    }
}

/// `digests[i]` becomes SM3(`messages[i]`); lengths may differ.
///
/// # Panics
/// If the two slices differ in length.
pub fn digest_many(backend: Backend, messages: &[&[u8]], digests: &mut [[u8; DIGEST_SIZE]]) {
    assert!(messages.len() == digests.len(), "one digest for each message");
    if backend != Backend::PORTABLE && messages.iter().all(|message| message.len() == BLOCK_SIZE) {
        return digest_blocks(backend, messages, digests);
    }
    match backend.0 {
        Instructions::Portable => portable::digest_many(messages, digests),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => lanes::digest_many(messages, digests, |states, parts, count| {
            // SAFETY: a back end of this kind is made only where the CPU has AVX2.
            unsafe { avx2::compress(states, parts, count) }
        }),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if messages.len() <= avx512::LANES => {
            lanes::digest_many(messages, digests, |states, parts, count| {
                // SAFETY: a back end of this kind is made only where the CPU has AVX-512 F and BW.
                unsafe { avx512::compress::<{ avx512::LANES }, 1>(states, parts, count) }
            });
        }
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => lanes::digest_many(messages, digests, |states, parts, count| {
            // SAFETY: a back end of this kind is made only where the CPU has AVX-512 F and BW.
            unsafe { avx512::compress::<{ 2 * avx512::LANES }, 2>(states, parts, count) }
        }),
    }
}

/// Messages that are gathered to be hashed as pairs, count.
const GATHERED: usize = 64;

/// Messages of 64 bytes, wherever they lie: all of them are padded by the same block.
fn digest_blocks(backend: Backend, messages: &[&[u8]], digests: &mut [Bytes32]) {
    let mut blocks = [[0; BLOCK_SIZE]; GATHERED];
    for (messages, digests) in messages.chunks(GATHERED).zip(digests.chunks_mut(GATHERED)) {
        for (block, message) in blocks.iter_mut().zip(messages) {
            block.copy_from_slice(message);
        }
        digest_pairs(backend, &blocks[..messages.len()], digests);
    }
}

/// `parents[i]` becomes SM3(`pairs[i]`): the inner nodes of a Merkle tree.
///
/// # Panics
/// If the two slices differ in length.
pub fn digest_pairs(
    backend: Backend,
    pairs: &[[u8; BLOCK_SIZE]],
    parents: &mut [[u8; DIGEST_SIZE]],
) {
    assert!(pairs.len() == parents.len(), "one parent for each pair");
    match backend.0 {
        Instructions::Portable => portable::digest_pairs(pairs, parents),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => lanes::digest_pairs(pairs, parents, |pairs, states| {
            // SAFETY: a back end of this kind is made only where the CPU has AVX2.
            unsafe { avx2::digest_pairs(pairs, states) }
        }),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 if pairs.len() <= avx512::LANES => {
            lanes::digest_pairs(pairs, parents, |pairs, states| {
                // SAFETY: a back end of this kind is made only where the CPU has AVX-512 F and BW.
                unsafe { avx512::digest_pairs::<{ avx512::LANES }, 1>(pairs, states) }
            });
        }
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => lanes::digest_pairs(pairs, parents, |pairs, states| {
            // SAFETY: a back end of this kind is made only where the CPU has AVX-512 F and BW.
            unsafe { avx512::digest_pairs::<{ 2 * avx512::LANES }, 2>(pairs, states) }
        }),
    }
}
