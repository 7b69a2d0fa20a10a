//! SM4 of sixteen blocks side by side in 64-bit words, one word for each bit of a byte.
//!
//! Nothing is looked up: the S-box is computed with gates over the bits of 64 bytes at once, so no
//! load and no branch depends on a key or on data. Constant time.
//!
//! ```text
//! bit 16b + k of plane p of word w  =  bit p of byte b (least first) of word w of block k
//! ```
//!
//! A rotation of a 32-bit word by r bits is then a renaming of planes and a rotation of each plane
//! by 16 for every byte it moves.

use super::{BLOCK_SIZE, Block, ROUNDS, wipe, xor};

/// Blocks side by side.
pub(super) const LANES: usize = 16;

/// The bits of one word of all blocks.
type Planes = [u64; 8];

/// The round keys: as words, for a block that comes alone, and each bit spread over sixteen blocks.
pub(super) struct Schedule {
    words: [u32; ROUNDS],
    planes: [Planes; ROUNDS],
}

/// The lowest bit of each byte of a word.
const LOW_BITS: u32 = 0x0101_0101;

/// A^-1(c): the constant before the inversion, moved through the affine map in front of it into the
/// round keys.
const KEY_CONSTANT: u32 = 0x7575_7575;

impl Schedule {
    pub(super) fn new(words: &[u32; ROUNDS]) -> Self {
        let mut planes = [[0; 8]; ROUNDS];
        for (planes, key) in planes.iter_mut().zip(words) {
            for (bit, plane) in planes.iter_mut().enumerate() {
                let bits = u64::from(((key ^ KEY_CONSTANT) >> bit) & LOW_BITS);
                let apart = (bits & 1)
                    | (bits & (1 << 8)) << 8
                    | (bits & (1 << 16)) << 16
                    | (bits & (1 << 24)) << 24;
                *plane = apart * 0xffff;
            }
        }
        Self { words: *words, planes }
    }

    /// Overwrites the keys.
    pub(super) fn wipe(&mut self) {
        wipe(&mut self.words);
        wipe(self.planes.as_flattened_mut());
    }

    /// Whether they were overwritten.
    #[cfg(test)]
    pub(super) fn is_wiped(&self) -> bool {
        self.words == [0; ROUNDS] && self.planes == [[0; 8]; ROUNDS]
    }
}

/// The S-box at each byte of a word (GB/T 32907-2016 6.2 a), for the key expansion.
pub(super) fn substitute(word: u32) -> u32 {
    let word = word ^ KEY_CONSTANT;
    let mut planes = core::array::from_fn(|bit| u64::from((word >> bit) & LOW_BITS));
    sbox(&mut planes);
    let low_bits = u64::from(LOW_BITS);
    let both = planes.iter().enumerate().map(|(bit, plane)| (plane & low_bits) << bit);
    let word = both.fold(0, |word, bits| word | bits);
    let [b0, b1, b2, b3, ..] = word.to_le_bytes();
    u32::from_le_bytes([b0, b1, b2, b3])
}

/// Encrypts any number of blocks in place, or decrypts them with `DECRYPT`.
pub(super) fn crypt<const DECRYPT: bool>(schedule: &Schedule, blocks: &mut [Block]) {
    if let [block] = blocks {
        return crypt_one::<DECRYPT>(&schedule.words, block);
    }
    let (full, rest) = blocks.as_chunks_mut::<LANES>();
    for blocks in full {
        crypt_lanes::<DECRYPT>(schedule, blocks);
    }
    if !rest.is_empty() {
        let mut lanes = [[0; BLOCK_SIZE]; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        crypt_lanes::<DECRYPT>(schedule, &mut lanes);
        rest.copy_from_slice(&lanes[..rest.len()]);
    }
}

/// One block, of which only the four bytes of a word can go through the gates together.
fn crypt_one<const DECRYPT: bool>(keys: &[u32; ROUNDS], block: &mut Block) {
    let (words, _) = block.as_chunks_mut::<4>();
    let mut state: [u32; 4] = core::array::from_fn(|word| u32::from_be_bytes(words[word]));
    for round in 0..ROUNDS {
        let key = keys[if DECRYPT { ROUNDS - 1 - round } else { round }];
        let [x1, x2, x3] = [1, 2, 3].map(|next| state[(round + next) % 4]);
        let mixed = substitute(x1 ^ x2 ^ x3 ^ key);
        let by2 = mixed.rotate_left(2);
        state[round % 4] ^=
            mixed ^ by2 ^ by2.rotate_left(8) ^ by2.rotate_left(16) ^ mixed.rotate_left(24);
    }
    for (place, word) in words.iter_mut().zip(state.iter().rev()) {
        *place = word.to_be_bytes();
    }
}

/// Adds the key stream from `counter` on to the data; the last 32 bits do not wrap on the way.
pub(super) fn key_stream(schedule: &Schedule, counter: &Block, data: &mut [u8]) {
    let mut counter = u128::from_be_bytes(*counter);
    for piece in data.chunks_mut(LANES * BLOCK_SIZE) {
        let mut stream = [[0; BLOCK_SIZE]; LANES];
        for block in &mut stream {
            *block = counter.to_be_bytes();
            counter = counter.wrapping_add(1);
        }
        crypt_lanes::<false>(schedule, &mut stream);
        xor(piece, stream.as_flattened());
    }
}

/// Sixteen blocks in place.
pub(super) fn crypt_lanes<const DECRYPT: bool>(schedule: &Schedule, blocks: &mut [Block; LANES]) {
    let mut state: [Planes; 4] = core::array::from_fn(|word| load(blocks, word));
    for four in 0..ROUNDS / 4 {
        for turn in 0..4 {
            let round = 4 * four + turn;
            let keys = &schedule.planes[if DECRYPT { ROUNDS - 1 - round } else { round }];
            let [x1, x2, x3] = [1, 2, 3].map(|next| &state[(turn + next) % 4]);
            let mut mixed = core::array::from_fn(|bit| x1[bit] ^ x2[bit] ^ x3[bit] ^ keys[bit]);
            sbox(&mut mixed);
            diffuse(&mut state[turn], &mixed);
        }
    }
    for (word, planes) in state.iter().rev().enumerate() {
        store(blocks, word, planes);
    }
}

/// Word `word` of all blocks.
fn load(blocks: &[Block; LANES], word: usize) -> Planes {
    let mut planes = core::array::from_fn(|k| {
        let [low, high] = [k, k + 8].map(|block| {
            let (words, _) = blocks[block].as_chunks::<4>();
            spread(u32::from_be_bytes(words[word]))
        });
        low | (high << 8)
    });
    transpose(&mut planes);
    planes
}

/// Puts the planes back into word `word` of all blocks.
fn store(blocks: &mut [Block; LANES], word: usize, planes: &Planes) {
    let mut rows = *planes;
    transpose(&mut rows);
    for (k, row) in rows.into_iter().enumerate() {
        for (block, bits) in [(k, row), (k + 8, row >> 8)] {
            blocks[block].as_chunks_mut::<4>().0[word] = gather(bits).to_be_bytes();
        }
    }
}

/// The bytes of a word at the even bytes of the result.
const fn spread(word: u32) -> u64 {
    let halves = (word as u64 | ((word as u64) << 16)) & 0x0000_ffff_0000_ffff;
    (halves | (halves << 8)) & 0x00ff_00ff_00ff_00ff
}

/// The even bytes: the inverse of [`spread`].
#[allow(clippy::cast_possible_truncation, reason = "the upper half was folded into the lower one")]
const fn gather(bits: u64) -> u32 {
    let bytes = bits & 0x00ff_00ff_00ff_00ff;
    let halves = (bytes | (bytes >> 8)) & 0x0000_ffff_0000_ffff;
    (halves | (halves >> 16)) as u32
}

/// Exchanges bit p of byte j of word k with bit k of byte j of word p; its own inverse.
fn transpose(words: &mut Planes) {
    swap::<1, 0x5555_5555_5555_5555>(words);
    swap::<2, 0x3333_3333_3333_3333>(words);
    swap::<4, 0x0f0f_0f0f_0f0f_0f0f>(words);
}

/// Exchanges the upper bits of one word with the lower ones of the word `BY` places on.
fn swap<const BY: usize, const LOW: u64>(words: &mut Planes) {
    for first in (0..8).filter(|index| index & BY == 0) {
        let (low, high) = (words[first], words[first + BY]);
        words[first] = (low & LOW) | ((high & LOW) << BY);
        words[first + BY] = ((low >> BY) & LOW) | (high & !LOW);
    }
}

/// Adds L of `mixed` (GB/T 32907-2016 6.2 b) to `word`. With R = B <<< 2, whose bytes stay bytes,
/// L(B) = B + R + (R + (R + B <<< 8) <<< 8) <<< 8.
#[inline(always)]
fn diffuse(word: &mut Planes, mixed: &Planes) {
    for bit in 0..8 {
        let same = mixed[bit];
        let by2 = if bit < 2 { mixed[bit + 6].rotate_left(16) } else { mixed[bit - 2] };
        let by8 = by2 ^ same.rotate_left(16);
        let by8 = by2 ^ by8.rotate_left(16);
        word[bit] ^= same ^ by2 ^ by8.rotate_left(16);
    }
}

/// The S-box at 64 bytes, but for the constant before the inversion, which is in the round keys:
/// S(x) = A inv(A x + c) + c with the inversion in the field of x^8 + x^7 + x^6 + x^5 + x^4 + x^2 +
/// 1.
///
/// Inversion is done in a tower of fields: GF(4) = GF(2)[w]/(w^2 + w + 1), GF(16) = GF(4)[z]/(z^2 +
/// z + w), GF(256) = GF(16)[y]/(y^2 + y + w z + 1). A and the way into the tower are one map, and
/// so are the way back and the second A.
#[inline(always)]
fn sbox(planes: &mut Planes) {
    let (low, high) = into_tower(planes);
    let sum = add(low, high);
    // (h y + l)^-1 = (h y + h + l) / norm, norm = l (h + l) + (w z + 1) h^2.
    let norm = add(multiply(low, sum), scaled_square(high));
    let inverse = invert(norm);
    out_of_tower(planes, multiply(sum, inverse), multiply(high, inverse));
}

/// An element of GF(16), lowest coordinate first; of GF(4) in its halves.
type Nibble = [u64; 4];
type Pair = [u64; 2];

#[inline(always)]
fn into_tower([x0, x1, x2, x3, x4, x5, x6, x7]: &Planes) -> (Nibble, Nibble) {
    let (t0, t1, t2) = (x0 ^ x6, x1 ^ x2, x4 ^ x5);
    let t3 = t0 ^ t1;
    ([t0 ^ t2, x1 ^ t2, *x5, x5 ^ t3], [x4 ^ t3, *x6, x2 ^ x7, t3 ^ x3 ^ t2])
}

#[inline(always)]
fn out_of_tower(planes: &mut Planes, [x0, x1, x2, x3]: Nibble, [x4, x5, x6, x7]: Nibble) {
    let (t0, t1, t2) = (x0 ^ x4, x1 ^ x3, x6 ^ x7);
    let bits = [
        x0 ^ x2,
        x6 ^ t0,
        x4 ^ x1 ^ x2,
        x0 ^ t2,
        x5 ^ t1,
        x7 ^ t1,
        t0 ^ x1 ^ x5,
        x2 ^ t0 ^ t1 ^ t2,
    ];
    // c = 0xd3.
    for (bit, plane) in planes.iter_mut().enumerate() {
        *plane = if (0xd3 >> bit) & 1 == 1 { !bits[bit] } else { bits[bit] };
    }
}

#[inline(always)]
fn add(a: Nibble, b: Nibble) -> Nibble {
    core::array::from_fn(|bit| a[bit] ^ b[bit])
}

/// (w z + 1) a^2.
#[inline(always)]
fn scaled_square([a0, a1, a2, a3]: Nibble) -> Nibble {
    let odd = a1 ^ a3;
    [a0 ^ a2 ^ odd, odd, a1, a0]
}

/// The product in GF(16).
#[inline(always)]
fn multiply([a0, a1, a2, a3]: Nibble, [b0, b1, b2, b3]: Nibble) -> Nibble {
    let low = multiply_pair([a0, a1], [b0, b1]);
    let high = multiply_pair([a2, a3], [b2, b3]);
    let both = multiply_pair([a0 ^ a2, a1 ^ a3], [b0 ^ b2, b1 ^ b3]);
    // w (h1 w + h0) = (h0 + h1) w + h1.
    [low[0] ^ high[1], low[1] ^ high[0] ^ high[1], both[0] ^ low[0], both[1] ^ low[1]]
}

/// The product in GF(4).
#[inline(always)]
fn multiply_pair([a0, a1]: Pair, [b0, b1]: Pair) -> Pair {
    let low = a0 & b0;
    [low ^ (a1 & b1), ((a0 ^ a1) & (b0 ^ b1)) ^ low]
}

/// The inverse in GF(16), and 0 for 0: as above, one floor down, where inverting is squaring.
#[inline(always)]
fn invert([a0, a1, a2, a3]: Nibble) -> Nibble {
    let (low, high) = ([a0, a1], [a2, a3]);
    let sum = [a0 ^ a2, a1 ^ a3];
    let product = multiply_pair(low, sum);
    // norm = l (h + l) + w h^2, and w (h1 w + h0)^2 = h0 w + h1.
    let norm = [product[0] ^ high[1], product[1] ^ high[0]];
    let inverse = [norm[0] ^ norm[1], norm[1]];
    let (low, high) = (multiply_pair(sum, inverse), multiply_pair(high, inverse));
    [low[0], low[1], high[0], high[1]]
}
