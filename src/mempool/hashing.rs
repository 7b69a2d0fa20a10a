//! A cheap keyed hasher for keys that hold at least eight bytes an SM3 or a curve point has made
//! uniform.
//!
//! # Why it is sound against chosen keys
//!
//! Clients choose transactions, so they can grind digests.
//! Unkeyed, a table of 2^20 buckets would need only 2^20 trials for each key of one long chain.
//! Here every eight-byte word goes through a multiplication to 128 bits, folded, with a secret word
//! from the seed on each side; the seed is fresh per process and never leaves it. Without it nobody
//! can tell which bucket a key goes to, and what he learns from latency is one node's bucket of one
//! key. The only collisions that need no seed are keys whose words are all equal, which for digests
//! and curve points means breaking SM3 or sending the same transaction again. The first word alone
//! would leave 64 bits to grind: 2^32 trials for the first pair, so the first two words are hashed,
//! and 128 equal bits are out of reach.
//!
//! The order of a table is never observed, so the seed changes no behaviour.

use core::hash::{BuildHasher, Hasher};

/// Two odd words from the fraction of the golden ratio and of the square root of three; they only
/// spread the seed.
const SPREAD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// Makes hashers keyed by a secret seed.
#[derive(Clone, Copy)]
pub(crate) struct SeededState {
    words: [u64; 2],
}

impl SeededState {
    /// A state from a seed that only this process knows.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        let first = fold(seed ^ SPREAD[0], SPREAD[1]);
        Self { words: [first, fold(first ^ SPREAD[1], seed | 1)] }
    }
}

impl core::fmt::Debug for SeededState {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("SeededState")
    }
}

impl BuildHasher for SeededState {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.words[0], secret: self.words[1], words_left: HASHED_WORDS }
    }
}

/// Words of each byte string that are hashed; see the module's reasoning.
const HASHED_WORDS: u8 = 2;

/// Hashes the first sixteen bytes of a byte string, and whole integers.
pub(crate) struct KeyedHasher {
    state: u64,
    secret: u64,
    words_left: u8,
}

impl KeyedHasher {
    fn word(&mut self, word: u64) {
        self.state = fold(self.state ^ word, self.secret).wrapping_add(SPREAD[0]);
    }
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words.iter().take(usize::from(self.words_left)) {
            self.words_left -= 1;
            self.word(u64::from_le_bytes(*word));
        }
        if words.is_empty() {
            for byte in rest {
                self.word(u64::from(*byte));
            }
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.word(number);
    }

    fn write_usize(&mut self, _length: usize) {
        // The length of a fixed array tells nothing.
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// The two halves of the 128-bit product, one over the other.
fn fold(left: u64, right: u64) -> u64 {
    let (low, high) = left.carrying_mul(right, 0);
    low ^ high
}
