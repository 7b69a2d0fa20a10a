//! SM3 on 32-bit words: the meaning of the other back ends, and the way for one stream.

use super::{
    BLOCK_SIZE, Block, Bytes32, INITIAL, PAIR_PADDING, ROUND, Tail, digest_of, expand, p0,
};

/// CF (GB/T 32905-2016 5.3.3) over all blocks, one after the other.
pub(super) fn compress(state: &mut [u32; 8], blocks: &[Block]) {
    for block in blocks {
        let mut words = [0; 68];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*bytes);
        }
        rounds(state, &expand(words));
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
        rounds(&mut state, &PAIR_PADDING);
        *parent = digest_of(&state);
    }
}

/// The 64 rounds over an expanded block, and the state added at the end.
#[inline]
fn rounds(state: &mut [u32; 8], words: &[u32; 68]) {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    let mut j = 0;
    while j < 16 {
        let mixed = |x: u32, y: u32, z: u32| x ^ y ^ z;
        round(j, words, mixed(a, b, c), mixed(e, f, g), (a, &mut b, &mut d), (e, &mut f, &mut h));
        round(
            j + 1,
            words,
            mixed(d, a, b),
            mixed(h, e, f),
            (d, &mut a, &mut c),
            (h, &mut e, &mut g),
        );
        round(
            j + 2,
            words,
            mixed(c, d, a),
            mixed(g, h, e),
            (c, &mut d, &mut b),
            (g, &mut h, &mut f),
        );
        round(
            j + 3,
            words,
            mixed(b, c, d),
            mixed(f, g, h),
            (b, &mut c, &mut a),
            (f, &mut g, &mut e),
        );
        j += 4;
    }
    while j < 64 {
        round(j, words, ff(a, b, c), gg(e, f, g), (a, &mut b, &mut d), (e, &mut f, &mut h));
        round(j + 1, words, ff(d, a, b), gg(h, e, f), (d, &mut a, &mut c), (h, &mut e, &mut g));
        round(j + 2, words, ff(c, d, a), gg(g, h, e), (c, &mut d, &mut b), (g, &mut h, &mut f));
        round(j + 3, words, ff(b, c, d), gg(f, g, h), (b, &mut c, &mut a), (f, &mut g, &mut e));
        j += 4;
    }
    for (word, added) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word ^= added;
    }
}

/// One round. Instead of moving eight words on, the caller turns their names: what the standard
/// calls the new A is written into D, and the new E into H.
#[inline(always)]
fn round(
    j: usize,
    words: &[u32; 68],
    mixed_abc: u32,
    mixed_efg: u32,
    (a, b, d): (u32, &mut u32, &mut u32),
    (e, f, h): (u32, &mut u32, &mut u32),
) {
    let a12 = a.rotate_left(12);
    let ss1 = a12.wrapping_add(e).wrapping_add(ROUND[j]).rotate_left(7);
    let ss2 = ss1 ^ a12;
    let tt1 = mixed_abc.wrapping_add(*d).wrapping_add(ss2).wrapping_add(words[j] ^ words[j + 4]);
    let tt2 = mixed_efg.wrapping_add(*h).wrapping_add(ss1).wrapping_add(words[j]);
    *b = b.rotate_left(9);
    *d = tt1;
    *f = f.rotate_left(19);
    *h = p0(tt2);
}

/// FF_j for j >= 16 (GB/T 32905-2016 4.3): the majority of three bits.
const fn ff(x: u32, y: u32, z: u32) -> u32 {
    (x & y) | (z & (x | y))
}

/// GG_j for j >= 16 (GB/T 32905-2016 4.3): y where x is one, else z.
const fn gg(x: u32, y: u32, z: u32) -> u32 {
    z ^ (x & (y ^ z))
}
