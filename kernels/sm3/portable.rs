//! SM3 on 32-bit words: the meaning of the other back ends, and the way for one stream.
//!
//! One stream is a chain: each round waits for the one before, six operations in a row. All else is
//! done beside the chain: the words of the schedule are computed four rounds before they are
//! wanted, each in the place of the one sixteen rounds before it.

use super::{BLOCK_SIZE, Block, Bytes32, INITIAL, PAIR_PADDING, ROUND, Tail, digest_of, p0, p1};

/// CF (GB/T 32905-2016 5.3.3) over all blocks, one after the other.
pub(super) fn compress(state: &mut [u32; 8], blocks: &[Block]) {
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        rounds(state, core::array::from_fn(|word| u32::from_be_bytes(words[word])));
    }
}

/// SM3 of every message, one after the other.
pub(super) fn digest_many(messages: &[&[u8]], digests: &mut [Bytes32]) {
    for (message, digest) in messages.iter().zip(digests) {
        let (blocks, rest) = message.as_chunks::<BLOCK_SIZE>();
        let mut state = INITIAL;
        compress(&mut state, blocks);
        compress(&mut state, Tail::new(rest, message.len()).blocks());
        *digest = digest_of(&state);
    }
}

/// SM3 of messages of exactly one block; the padding's schedule is a constant.
pub(super) fn digest_pairs(pairs: &[Block], parents: &mut [Bytes32]) {
    for (pair, parent) in pairs.iter().zip(parents) {
        let mut state = INITIAL;
        compress(&mut state, core::slice::from_ref(pair));
        padding_rounds(&mut state);
        *parent = digest_of(&state);
    }
}

/// The 64 rounds over a block, and the state added at the end.
#[inline]
fn rounds(state: &mut [u32; 8], mut words: [u32; 16]) {
    let before = *state;
    four_rounds::<0>(state, &mut words);
    four_rounds::<4>(state, &mut words);
    four_rounds::<8>(state, &mut words);
    four_rounds::<12>(state, &mut words);
    four_rounds::<16>(state, &mut words);
    four_rounds::<20>(state, &mut words);
    four_rounds::<24>(state, &mut words);
    four_rounds::<28>(state, &mut words);
    four_rounds::<32>(state, &mut words);
    four_rounds::<36>(state, &mut words);
    four_rounds::<40>(state, &mut words);
    four_rounds::<44>(state, &mut words);
    four_rounds::<48>(state, &mut words);
    four_rounds::<52>(state, &mut words);
    four_rounds::<56>(state, &mut words);
    four_rounds::<60>(state, &mut words);
    add(state, &before);
}

/// The same over the block that pads a pair.
#[inline]
fn padding_rounds(state: &mut [u32; 8]) {
    let before = *state;
    let mut j = 0;
    while j < 64 {
        let pair = |j: usize| [PAIR_PADDING[j], PAIR_PADDING[j] ^ PAIR_PADDING[j + 4]];
        let late = j >= 16;
        round::<0>(state, late, ROUND[j], pair(j));
        round::<1>(state, late, ROUND[j + 1], pair(j + 1));
        round::<2>(state, late, ROUND[j + 2], pair(j + 2));
        round::<3>(state, late, ROUND[j + 3], pair(j + 3));
        j += 4;
    }
    add(state, &before);
}

#[inline(always)]
fn add(state: &mut [u32; 8], before: &[u32; 8]) {
    for (word, added) in state.iter_mut().zip(before) {
        *word ^= added;
    }
}

/// Rounds J to J + 3, after which every word of the state is back in its place.
#[inline(always)]
fn four_rounds<const J: usize>(state: &mut [u32; 8], words: &mut [u32; 16]) {
    let mut pair = |j: usize| {
        if j + 4 >= 16 {
            expand(words, j + 4);
        }
        let word = words[j % 16];
        [word, word ^ words[(j + 4) % 16]]
    };
    round::<0>(state, J >= 16, ROUND[J], pair(J));
    round::<1>(state, J >= 16, ROUND[J + 1], pair(J + 1));
    round::<2>(state, J >= 16, ROUND[J + 2], pair(J + 2));
    round::<3>(state, J >= 16, ROUND[J + 3], pair(J + 3));
}

/// Puts word `new` in the place of the one sixteen before it (GB/T 32905-2016 5.3.2, step b).
#[inline(always)]
const fn expand(words: &mut [u32; 16], new: usize) {
    let mixed = words[new % 16] ^ words[(new - 9) % 16] ^ words[(new - 3) % 16].rotate_left(15);
    words[new % 16] = p1(mixed) ^ words[(new - 13) % 16].rotate_left(7) ^ words[(new - 6) % 16];
}

/// One round (GB/T 32905-2016 5.3.3), the `TURN`th of four. Instead of moving eight words on, their
/// names turn: what the standard calls the new A is written into D, and the new E into H.
#[inline(always)]
fn round<const TURN: usize>(
    state: &mut [u32; 8],
    late: bool,
    constant: u32,
    [word, mixed]: [u32; 2],
) {
    let place = |name: usize| (name + 4 - TURN) % 4;
    let [a, b, c, d] = [place(0), place(1), place(2), place(3)];
    let [e, f, g, h] = [a + 4, b + 4, c + 4, d + 4];
    let a12 = state[a].rotate_left(12);
    let ss1 = a12.wrapping_add(state[e]).wrapping_add(constant).rotate_left(7);
    let (ff, gg) = if late {
        (majority(state[a], state[b], state[c]), choice(state[e], state[f], state[g]))
    } else {
        (state[a] ^ state[b] ^ state[c], state[e] ^ state[f] ^ state[g])
    };
    let tt1 = state[d].wrapping_add(mixed).wrapping_add(ff).wrapping_add(ss1 ^ a12);
    let tt2 = state[h].wrapping_add(word).wrapping_add(gg).wrapping_add(ss1);
    state[b] = state[b].rotate_left(9);
    state[d] = tt1;
    state[f] = state[f].rotate_left(19);
    state[h] = p0(tt2);
}

/// FF_j for j >= 16 (GB/T 32905-2016 4.3): the majority of three bits.
const fn majority(x: u32, y: u32, z: u32) -> u32 {
    (x & y) | (z & (x | y))
}

/// GG_j for j >= 16 (GB/T 32905-2016 4.3): y where x is one, else z.
const fn choice(x: u32, y: u32, z: u32) -> u32 {
    z ^ (x & (y ^ z))
}
