//! SM3 of sixteen streams in 512-bit vectors: lane l of every vector belongs to stream l.
//!
//! A round is 19 vector operations and the schedule 5.7 more, since `vprold` rotates and
//! `vpternlogd` joins any three words in one step: about 25 operations for 16 x 64 bytes a round,
//! which two vector units do in 0.8 cycles a byte.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_load_si512, _mm512_loadu_si512, _mm512_rol_epi32,
    _mm512_set1_epi32, _mm512_set4_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_shuffle_i32x4, _mm512_store_si512, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::lanes::States;
use super::{Block, INITIAL, PAIR_PADDING, ROUND};

/// Streams side by side.
const LANES: usize = 16;

/// Truth tables of `vpternlogd`, by (x, y, z) = bits 2, 1, 0 of the index.
const XOR: i32 = 0b1001_0110;
const MAJORITY: i32 = 0b1110_1000;
const CHOICE: i32 = 0b1100_1010;

type Words = [__m512i; 68];

/// Runs the first `count` blocks of each part through the lane of the same number.
///
/// # Panics
/// If a part is shorter than that.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn compress(states: &mut States<LANES>, parts: &[&[Block]; LANES], count: usize) {
    let mut state = load(states);
    for block in 0..count {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, part) in rows.iter_mut().zip(parts) {
            *row = load_block(&part[block]);
        }
        let mut words = [_mm512_setzero_si512(); 68];
        words[..LANES].copy_from_slice(&transposed(&rows));
        rounds::<true>(&mut state, &mut words);
    }
    store(states, &state);
}

/// Sets the states to those of the padded messages of one block each.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn digest_pairs(pairs: &[Block; LANES], states: &mut States<LANES>) {
    let mut state = [_mm512_setzero_si512(); 8];
    for (vector, word) in state.iter_mut().zip(INITIAL) {
        *vector = broadcast(word);
    }
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, pair) in rows.iter_mut().zip(pairs) {
        *row = load_block(pair);
    }
    let mut words = [_mm512_setzero_si512(); 68];
    words[..LANES].copy_from_slice(&transposed(&rows));
    rounds::<true>(&mut state, &mut words);
    for (vector, word) in words.iter_mut().zip(PAIR_PADDING) {
        *vector = broadcast(word);
    }
    rounds::<false>(&mut state, &mut words);
    store(states, &state);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(states: &States<LANES>) -> [__m512i; 8] {
    let mut state = [_mm512_setzero_si512(); 8];
    for (vector, row) in state.iter_mut().zip(&states.0) {
        // SAFETY: the row is 64 bytes and, by the alignment of `States`, on a multiple of 64.
        *vector = unsafe { _mm512_load_si512(row.as_ptr().cast()) };
    }
    state
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store(states: &mut States<LANES>, state: &[__m512i; 8]) {
    for (row, vector) in states.0.iter_mut().zip(state) {
        // SAFETY: the row is 64 bytes and, by the alignment of `States`, on a multiple of 64.
        unsafe { _mm512_store_si512(row.as_mut_ptr().cast(), *vector) }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

/// The sixteen big-endian words of a block.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load_block(block: &Block) -> __m512i {
    let swap = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    // SAFETY: a block is 64 bytes; the load asks for no alignment.
    let bytes = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
    _mm512_shuffle_epi8(bytes, swap)
}

/// Vector w of the result holds word w of every row.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // After two steps, quarter q of `quads[4g + k]` holds word 4q + k of rows 4g .. 4g + 3.
    let mut quads = [_mm512_setzero_si512(); 16];
    for group in (0..16).step_by(4) {
        let [first, second, third, fourth] =
            [rows[group], rows[group + 1], rows[group + 2], rows[group + 3]];
        let (low, high) =
            (_mm512_unpacklo_epi32(first, second), _mm512_unpackhi_epi32(first, second));
        let (low_next, high_next) =
            (_mm512_unpacklo_epi32(third, fourth), _mm512_unpackhi_epi32(third, fourth));
        quads[group] = _mm512_unpacklo_epi64(low, low_next);
        quads[group + 1] = _mm512_unpackhi_epi64(low, low_next);
        quads[group + 2] = _mm512_unpacklo_epi64(high, high_next);
        quads[group + 3] = _mm512_unpackhi_epi64(high, high_next);
    }
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut words = [_mm512_setzero_si512(); 16];
    for k in 0..4 {
        let [first, second, third, fourth] = [quads[k], quads[4 + k], quads[8 + k], quads[12 + k]];
        let even = _mm512_shuffle_i32x4::<EVEN>(first, second);
        let even_next = _mm512_shuffle_i32x4::<EVEN>(third, fourth);
        let odd = _mm512_shuffle_i32x4::<ODD>(first, second);
        let odd_next = _mm512_shuffle_i32x4::<ODD>(third, fourth);
        words[k] = _mm512_shuffle_i32x4::<EVEN>(even, even_next);
        words[4 + k] = _mm512_shuffle_i32x4::<EVEN>(odd, odd_next);
        words[8 + k] = _mm512_shuffle_i32x4::<ODD>(even, even_next);
        words[12 + k] = _mm512_shuffle_i32x4::<ODD>(odd, odd_next);
    }
    words
}

/// The rounds of one block; with `EXPAND` the first sixteen words are there and the others are
/// computed on the way, four rounds ahead of the ones that want them.
#[target_feature(enable = "avx512f")]
#[inline]
fn rounds<const EXPAND: bool>(state: &mut [__m512i; 8], words: &mut Words) {
    let mut turned = *state;
    for j in (0..16).step_by(4) {
        if EXPAND {
            expand_four(words, j + 16);
        }
        four_rounds::<XOR, XOR>(&mut turned, words, j);
    }
    for j in (16..52).step_by(4) {
        if EXPAND {
            expand_four(words, j + 16);
        }
        four_rounds::<MAJORITY, CHOICE>(&mut turned, words, j);
    }
    for j in (52..64).step_by(4) {
        four_rounds::<MAJORITY, CHOICE>(&mut turned, words, j);
    }
    for (word, added) in state.iter_mut().zip(turned) {
        *word = _mm512_xor_si512(*word, added);
    }
}

/// Words `j` to `j + 3` of the schedule (GB/T 32905-2016 5.3.2, step b).
#[target_feature(enable = "avx512f")]
#[inline]
fn expand_four(words: &mut Words, j: usize) {
    for j in j..j + 4 {
        let turned = _mm512_rol_epi32::<15>(words[j - 3]);
        let mixed = _mm512_ternarylogic_epi32::<XOR>(words[j - 16], words[j - 9], turned);
        let (by15, by23) = (_mm512_rol_epi32::<15>(mixed), _mm512_rol_epi32::<23>(mixed));
        let p1 = _mm512_ternarylogic_epi32::<XOR>(mixed, by15, by23);
        let turned = _mm512_rol_epi32::<7>(words[j - 13]);
        words[j] = _mm512_ternarylogic_epi32::<XOR>(p1, turned, words[j - 6]);
    }
}

/// Four rounds, after which every word is back in its place.
#[target_feature(enable = "avx512f")]
#[inline]
fn four_rounds<const FF: i32, const GG: i32>(state: &mut [__m512i; 8], words: &Words, j: usize) {
    let [a, b, c, d, e, f, g, h] = state;
    round::<FF, GG>([*a, *c, *e, *g], b, d, f, h, words, j);
    round::<FF, GG>([*d, *b, *h, *f], a, c, e, g, words, j + 1);
    round::<FF, GG>([*c, *a, *g, *e], d, b, h, f, words, j + 2);
    round::<FF, GG>([*b, *d, *f, *h], c, a, g, e, words, j + 3);
}

/// One round (GB/T 32905-2016 5.3.3). Instead of moving eight words on, the caller turns their
/// names: what the standard calls the new A is written into D, and the new E into H.
#[target_feature(enable = "avx512f")]
#[inline]
fn round<const FF: i32, const GG: i32>(
    [a, c, e, g]: [__m512i; 4],
    b: &mut __m512i,
    d: &mut __m512i,
    f: &mut __m512i,
    h: &mut __m512i,
    words: &Words,
    j: usize,
) {
    let a12 = _mm512_rol_epi32::<12>(a);
    let sum = _mm512_add_epi32(_mm512_add_epi32(e, broadcast(ROUND[j])), a12);
    let ss1 = _mm512_rol_epi32::<7>(sum);
    let ss2 = _mm512_xor_si512(ss1, a12);
    let ff = _mm512_ternarylogic_epi32::<FF>(a, *b, c);
    let gg = _mm512_ternarylogic_epi32::<GG>(e, *f, g);
    let mixed = _mm512_xor_si512(words[j], words[j + 4]);
    let tt1 = _mm512_add_epi32(_mm512_add_epi32(ff, _mm512_add_epi32(*d, mixed)), ss2);
    let tt2 = _mm512_add_epi32(_mm512_add_epi32(gg, _mm512_add_epi32(*h, words[j])), ss1);
    *b = _mm512_rol_epi32::<9>(*b);
    *d = tt1;
    *f = _mm512_rol_epi32::<19>(*f);
    let (by9, by17) = (_mm512_rol_epi32::<9>(tt2), _mm512_rol_epi32::<17>(tt2));
    *h = _mm512_ternarylogic_epi32::<XOR>(tt2, by9, by17);
}
