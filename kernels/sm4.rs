//! SM4 (GB/T 32907-2016) in the modes of GB/T 17964-2021 and RFC 8998: ECB, CTR, CBC, GCM, CCM.
//!
//! ```text
//! Key::new(backend, key) --one gate--> Schedule of that back end: portable | avx2 | avx512
//!     encrypt_blocks, decrypt_blocks, ctr, cbc_*      this file, cbc
//!     gcm::Key                                        gcm on ctr and ghash
//!     ccm::seal, ccm::open                            ccm on ctr
//! ```
//!
//! Everything here is constant time in keys and data, on every back end: nothing is looked up by a
//! secret. Keys overwrite themselves when dropped and are neither printed nor cloned.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod basis;
mod cbc;
pub mod ccm;
pub mod gcm;
mod ghash;
mod portable;
#[cfg(test)]
mod tests;

pub use cbc::CbcStream;

use crate::Backend;
use crate::backend::Instructions;

/// Bytes of a block and of a key.
pub const BLOCK_SIZE: usize = 16;

/// Rounds (GB/T 32907-2016 5).
const ROUNDS: usize = 32;

type Block = [u8; BLOCK_SIZE];

/// FK (GB/T 32907-2016 7.3 a).
const FAMILY_KEY: [u32; 4] = [0xa3b1_bac6, 0x56aa_3350, 0x677d_9197, 0xb270_22dc];

/// CK (GB/T 32907-2016 7.3 b): byte j of word i is 7 (4i + j) mod 256.
#[allow(clippy::cast_possible_truncation, reason = "the standard takes the number mod 256")]
const FIXED_KEY: [u32; ROUNDS] = {
    let mut words = [0; ROUNDS];
    let mut place = 0;
    while place < 4 * ROUNDS {
        words[place / 4] = words[place / 4] << 8 | (7 * place % 256) as u32;
        place += 1;
    }
    words
};

/// The bits of a counter that GCM counts in.
const LAST_WORD: u128 = u32::MAX as u128;

/// Why a mode refuses what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The nonce has a length that the mode does not take.
    NonceLength,
    /// The tag has a length that the mode does not take.
    TagLength,
    /// The data is too long for the mode or for the length of its nonce.
    DataLength,
    /// The tag is not that of this key, nonce, associated data and ciphertext.
    TagWrong,
}

impl core::fmt::Display for Error {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::NonceLength => "nonce has a length this mode does not take",
            Self::TagLength => "tag has a length this mode does not take",
            Self::DataLength => "data is too long for this mode",
            Self::TagWrong => "tag does not belong to this ciphertext",
        })
    }
}

impl core::error::Error for Error {}

/// The round keys in the form of one back end.
#[allow(clippy::large_enum_variant, reason = "nothing is allocated here")]
enum Schedule {
    Portable(portable::Schedule),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Schedule),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Schedule),
}

impl Schedule {
    fn new(backend: Backend, keys: &[u32; ROUNDS]) -> Self {
        match instructions(backend) {
            Instructions::Portable => Self::Portable(portable::Schedule::new(keys)),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => {
                // SAFETY: the CPU was asked for AVX2 and AES.
                Self::Avx2(unsafe { avx2::schedule(keys) })
            }
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                // SAFETY: the CPU was asked for AVX-512 F and BW, GFNI and VPCLMULQDQ.
                Self::Avx512(unsafe { avx512::schedule(keys) })
            }
        }
    }
}

/// Asks the CPU for what SM4 and GHASH need beside that for which the back end is named, and takes
/// the next narrower one if it is missing. All CPUs with GFNI in 512 bits have VPCLMULQDQ, and all
/// with AVX2 have AES and PCLMULQDQ; a virtual machine may hide them.
fn instructions(backend: Backend) -> Instructions {
    #[cfg(target_arch = "x86_64")]
    {
        let mut instructions = backend.0;
        if instructions == Instructions::Avx512
            && !(std::is_x86_feature_detected!("gfni")
                && std::is_x86_feature_detected!("vpclmulqdq"))
        {
            instructions = Backend::avx2().unwrap_or(Backend::PORTABLE).0;
        }
        if instructions == Instructions::Avx2
            && !(std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq"))
        {
            instructions = Instructions::Portable;
        }
        instructions
    }
    #[cfg(not(target_arch = "x86_64"))]
    backend.0
}

/// An expanded key; overwritten when dropped.
pub struct Key {
    schedule: Schedule,
}

impl Key {
    /// Expands a key (GB/T 32907-2016 7.3); constant time.
    #[must_use]
    pub fn new(backend: Backend, key: &[u8; BLOCK_SIZE]) -> Self {
        let mut words = expand(key);
        let schedule = Schedule::new(backend, &words);
        wipe(&mut words);
        Self { schedule }
    }

    /// Encrypts each block for itself, in place (ECB).
    pub fn encrypt_blocks(&self, blocks: &mut [[u8; BLOCK_SIZE]]) {
        self.crypt::<false>(blocks);
    }

    /// Decrypts each block for itself, in place (ECB).
    pub fn decrypt_blocks(&self, blocks: &mut [[u8; BLOCK_SIZE]]) {
        self.crypt::<true>(blocks);
    }

    /// Encrypts or decrypts `data` in place with the key stream that starts at `counter`, a 128-bit
    /// big-endian number that wraps (GB/T 17964-2021 10). Returns the counter of the block behind
    /// the last one that was touched.
    pub fn ctr(&self, counter: &[u8; BLOCK_SIZE], mut data: &mut [u8]) -> [u8; BLOCK_SIZE] {
        let mut counter = u128::from_be_bytes(*counter);
        while !data.is_empty() {
            let (piece, rest) = split_at_wrap(low_word(counter), data);
            self.key_stream(&counter.to_be_bytes(), piece);
            counter = counter.wrapping_add(piece.len().div_ceil(BLOCK_SIZE) as u128);
            data = rest;
        }
        counter.to_be_bytes()
    }

    /// CTR as GCM has it: only the last 32 bits count, and wrap (SP 800-38D 6.5).
    fn ctr32(&self, counter: &Block, mut data: &mut [u8]) -> Block {
        let mut counter = u128::from_be_bytes(*counter);
        while !data.is_empty() {
            let (piece, rest) = split_at_wrap(low_word(counter), data);
            self.key_stream(&counter.to_be_bytes(), piece);
            let next = counter.wrapping_add(piece.len().div_ceil(BLOCK_SIZE) as u128);
            counter = (counter & !LAST_WORD) | (next & LAST_WORD);
            data = rest;
        }
        counter.to_be_bytes()
    }

    /// The gate of whole blocks.
    fn crypt<const DECRYPT: bool>(&self, blocks: &mut [Block]) {
        match &self.schedule {
            Schedule::Portable(schedule) => portable::crypt::<DECRYPT>(schedule, blocks),
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx2(schedule) => {
                // SAFETY: a schedule of this kind is made only where the CPU has what it needs.
                unsafe { avx2::crypt::<DECRYPT>(schedule, blocks) }
            }
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx512(schedule) => {
                // SAFETY: a schedule of this kind is made only where the CPU has what it needs.
                unsafe { avx512::crypt::<DECRYPT>(schedule, blocks) }
            }
        }
    }

    /// The gate of the key stream; the last 32 bits of the counter do not wrap before the last
    /// block.
    fn key_stream(&self, counter: &Block, data: &mut [u8]) {
        match &self.schedule {
            Schedule::Portable(schedule) => portable::key_stream(schedule, counter, data),
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx2(schedule) => {
                // SAFETY: a schedule of this kind is made only where the CPU has what it needs.
                unsafe { avx2::key_stream(schedule, counter, data) }
            }
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx512(schedule) => {
                // SAFETY: a schedule of this kind is made only where the CPU has what it needs.
                unsafe { avx512::key_stream(schedule, counter, data) }
            }
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.forget();
    }
}

impl Key {
    fn forget(&mut self) {
        match &mut self.schedule {
            Schedule::Portable(schedule) => schedule.wipe(),
            #[cfg(target_arch = "x86_64")]
            Schedule::Avx2(schedule) | Schedule::Avx512(schedule) => wipe(schedule),
        }
    }
}

/// The last word of a counter.
#[allow(clippy::cast_possible_truncation, reason = "the last word is what is asked for")]
const fn low_word(counter: u128) -> u32 {
    counter as u32
}

/// The data whose blocks come before the last word of the counter is zero again, and the rest.
fn split_at_wrap(counter: u32, data: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    let blocks = (1_u64 << 32) - u64::from(counter);
    let bytes = usize::try_from(blocks * BLOCK_SIZE as u64).unwrap_or(usize::MAX);
    data.split_at_mut(bytes.min(data.len()))
}

/// The round keys (GB/T 32907-2016 7.3 c).
fn expand(key: &Block) -> [u32; ROUNDS] {
    let (words, _) = key.as_chunks::<4>();
    let mut state: [u32; 4] =
        core::array::from_fn(|word| u32::from_be_bytes(words[word]) ^ FAMILY_KEY[word]);
    let mut keys = [0; ROUNDS];
    for (round, place) in keys.iter_mut().enumerate() {
        let [x1, x2, x3] = [1, 2, 3].map(|next| state[(round + next) % 4]);
        let mixed = portable::substitute(x1 ^ x2 ^ x3 ^ FIXED_KEY[round]);
        state[round % 4] ^= mixed ^ mixed.rotate_left(13) ^ mixed.rotate_left(23);
        *place = state[round % 4];
    }
    wipe(&mut state);
    keys
}

/// Overwrites what was secret.
fn wipe<T: Default + Copy>(values: &mut [T]) {
    values.fill(T::default());
    // What nobody reads again need not be written, unless somebody might read it.
    core::hint::black_box(values);
}

/// Whether two tags are equal; constant time in their bytes.
fn equal(left: &[u8], right: &[u8]) -> bool {
    let different = left.iter().zip(right).fold(0, |found, (left, right)| found | (left ^ right));
    left.len() == right.len() && core::hint::black_box(different) == 0
}

/// Adds the bytes of `right` to those of `left`, as far as both go.
fn xor(left: &mut [u8], right: &[u8]) {
    for (left, right) in left.iter_mut().zip(right) {
        *left ^= right;
    }
}
