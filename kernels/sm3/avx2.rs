//! SM3 of eight streams in 256-bit vectors: lane l of every vector belongs to stream l.
//!
//! AVX2 has neither a rotation nor a three-way logic operation: a rotation is two shifts and an or,
//! so a round costs about twice the operations of `avx512` for half the streams.

use core::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_load_si256, _mm256_loadu_si256,
    _mm256_or_si256, _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_setr_epi32,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_store_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32,
    _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::lanes::States;
use super::{Block, INITIAL, PAIR_PADDING, ROUND};

/// Streams side by side.
const LANES: usize = 8;

type Words = [__m256i; 68];

/// Runs the first `count` blocks of each part through the lane of the same number.
///
/// # Panics
/// If a part is shorter than that.
#[target_feature(enable = "avx2")]
pub(super) fn compress(states: &mut States<LANES>, parts: &[&[Block]; LANES], count: usize) {
    let mut state = load(states);
    for block in 0..count {
        let mut words = [_mm256_setzero_si256(); 68];
        for half in 0..2 {
            let mut rows = [_mm256_setzero_si256(); LANES];
            for (row, part) in rows.iter_mut().zip(parts) {
                *row = load_half(&part[block], half);
            }
            words[half * LANES..][..LANES].copy_from_slice(&transposed(&rows));
        }
        rounds::<true>(&mut state, &mut words);
    }
    store(states, &state);
}

/// Sets the states to those of the padded messages of one block each.
#[target_feature(enable = "avx2")]
pub(super) fn digest_pairs(pairs: &[Block; LANES], states: &mut States<LANES>) {
    let mut state = [_mm256_setzero_si256(); 8];
    for (vector, word) in state.iter_mut().zip(INITIAL) {
        *vector = broadcast(word);
    }
    let mut words = [_mm256_setzero_si256(); 68];
    for half in 0..2 {
        let mut rows = [_mm256_setzero_si256(); LANES];
        for (row, pair) in rows.iter_mut().zip(pairs) {
            *row = load_half(pair, half);
        }
        words[half * LANES..][..LANES].copy_from_slice(&transposed(&rows));
    }
    rounds::<true>(&mut state, &mut words);
    for (vector, word) in words.iter_mut().zip(PAIR_PADDING) {
        *vector = broadcast(word);
    }
    rounds::<false>(&mut state, &mut words);
    store(states, &state);
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(states: &States<LANES>) -> [__m256i; 8] {
    let mut state = [_mm256_setzero_si256(); 8];
    for (vector, row) in state.iter_mut().zip(&states.0) {
        // SAFETY: the row is 32 bytes and, by the alignment of `States`, on a multiple of 32.
        *vector = unsafe { _mm256_load_si256(row.as_ptr().cast()) };
    }
    state
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(states: &mut States<LANES>, state: &[__m256i; 8]) {
    for (row, vector) in states.0.iter_mut().zip(state) {
        // SAFETY: the row is 32 bytes and, by the alignment of `States`, on a multiple of 32.
        unsafe { _mm256_store_si256(row.as_mut_ptr().cast(), *vector) }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn broadcast(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

/// Eight of the sixteen big-endian words of a block.
#[target_feature(enable = "avx2")]
#[inline]
fn load_half(block: &Block, half: usize) -> __m256i {
    let swap = _mm256_setr_epi32(
        0x0001_0203,
        0x0405_0607,
        0x0809_0a0b,
        0x0c0d_0e0f,
        0x0001_0203,
        0x0405_0607,
        0x0809_0a0b,
        0x0c0d_0e0f,
    );
    let bytes = &block.as_chunks::<32>().0[half];
    // SAFETY: the half is 32 bytes; the load asks for no alignment.
    let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
    _mm256_shuffle_epi8(bytes, swap)
}

/// Vector w of the result holds word w of every row.
#[target_feature(enable = "avx2")]
#[inline]
fn transposed(rows: &[__m256i; 8]) -> [__m256i; 8] {
    // After two steps, half h of `quads[4g + k]` holds word 4h + k of rows 4g .. 4g + 3.
    let mut quads = [_mm256_setzero_si256(); 8];
    for group in [0, 4] {
        let [first, second, third, fourth] =
            [rows[group], rows[group + 1], rows[group + 2], rows[group + 3]];
        let (low, high) =
            (_mm256_unpacklo_epi32(first, second), _mm256_unpackhi_epi32(first, second));
        let (low_next, high_next) =
            (_mm256_unpacklo_epi32(third, fourth), _mm256_unpackhi_epi32(third, fourth));
        quads[group] = _mm256_unpacklo_epi64(low, low_next);
        quads[group + 1] = _mm256_unpackhi_epi64(low, low_next);
        quads[group + 2] = _mm256_unpacklo_epi64(high, high_next);
        quads[group + 3] = _mm256_unpackhi_epi64(high, high_next);
    }
    const LOW_HALVES: i32 = 0x20;
    const HIGH_HALVES: i32 = 0x31;
    let mut words = [_mm256_setzero_si256(); 8];
    for k in 0..4 {
        words[k] = _mm256_permute2x128_si256::<LOW_HALVES>(quads[k], quads[4 + k]);
        words[4 + k] = _mm256_permute2x128_si256::<HIGH_HALVES>(quads[k], quads[4 + k]);
    }
    words
}

/// The rounds of one block; with `EXPAND` the first sixteen words are there and the others are
/// computed on the way, four rounds ahead of the ones that want them.
#[target_feature(enable = "avx2")]
#[inline]
fn rounds<const EXPAND: bool>(state: &mut [__m256i; 8], words: &mut Words) {
    let mut turned = *state;
    for j in (0..16).step_by(4) {
        if EXPAND {
            expand_four(words, j + 16);
        }
        four_rounds::<true>(&mut turned, words, j);
    }
    for j in (16..52).step_by(4) {
        if EXPAND {
            expand_four(words, j + 16);
        }
        four_rounds::<false>(&mut turned, words, j);
    }
    for j in (52..64).step_by(4) {
        four_rounds::<false>(&mut turned, words, j);
    }
    for (word, added) in state.iter_mut().zip(turned) {
        *word = _mm256_xor_si256(*word, added);
    }
}

/// Words `j` to `j + 3` of the schedule (GB/T 32905-2016 5.3.2, step b).
#[target_feature(enable = "avx2")]
#[inline]
fn expand_four(words: &mut Words, j: usize) {
    for j in j..j + 4 {
        let turned = rotated::<15, 17>(words[j - 3]);
        let mixed = xor3(words[j - 16], words[j - 9], turned);
        let p1 = xor3(mixed, rotated::<15, 17>(mixed), rotated::<23, 9>(mixed));
        words[j] = xor3(p1, rotated::<7, 25>(words[j - 13]), words[j - 6]);
    }
}

/// Four rounds, after which every word is back in its place.
#[target_feature(enable = "avx2")]
#[inline]
fn four_rounds<const EARLY: bool>(state: &mut [__m256i; 8], words: &Words, j: usize) {
    let [a, b, c, d, e, f, g, h] = state;
    round::<EARLY>([*a, *c, *e, *g], b, d, f, h, words, j);
    round::<EARLY>([*d, *b, *h, *f], a, c, e, g, words, j + 1);
    round::<EARLY>([*c, *a, *g, *e], d, b, h, f, words, j + 2);
    round::<EARLY>([*b, *d, *f, *h], c, a, g, e, words, j + 3);
}

/// One round (GB/T 32905-2016 5.3.3); `EARLY` are the first sixteen. Instead of moving eight words
/// on, the caller turns their names: what the standard calls the new A is written into D, and the
/// new E into H.
#[target_feature(enable = "avx2")]
#[inline]
fn round<const EARLY: bool>(
    [a, c, e, g]: [__m256i; 4],
    b: &mut __m256i,
    d: &mut __m256i,
    f: &mut __m256i,
    h: &mut __m256i,
    words: &Words,
    j: usize,
) {
    let a12 = rotated::<12, 20>(a);
    let sum = _mm256_add_epi32(_mm256_add_epi32(e, broadcast(ROUND[j])), a12);
    let ss1 = rotated::<7, 25>(sum);
    let ss2 = _mm256_xor_si256(ss1, a12);
    let ff = if EARLY { xor3(a, *b, c) } else { majority(a, *b, c) };
    let gg = if EARLY { xor3(e, *f, g) } else { choice(e, *f, g) };
    let mixed = _mm256_xor_si256(words[j], words[j + 4]);
    let tt1 = _mm256_add_epi32(_mm256_add_epi32(ff, _mm256_add_epi32(*d, mixed)), ss2);
    let tt2 = _mm256_add_epi32(_mm256_add_epi32(gg, _mm256_add_epi32(*h, words[j])), ss1);
    *b = rotated::<9, 23>(*b);
    *d = tt1;
    *f = rotated::<19, 13>(*f);
    *h = xor3(tt2, rotated::<9, 23>(tt2), rotated::<17, 15>(tt2));
}

/// Every word rotated left by `LEFT`; `RIGHT` is 32 - `LEFT`.
#[target_feature(enable = "avx2")]
#[inline]
fn rotated<const LEFT: i32, const RIGHT: i32>(x: __m256i) -> __m256i {
    const { assert!(LEFT + RIGHT == 32, "both shifts make one rotation") };
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(x), _mm256_srli_epi32::<RIGHT>(x))
}

#[target_feature(enable = "avx2")]
#[inline]
fn xor3(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_xor_si256(_mm256_xor_si256(x, y), z)
}

/// FF_j for j >= 16 (GB/T 32905-2016 4.3): the majority of three bits.
#[target_feature(enable = "avx2")]
#[inline]
fn majority(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_and_si256(x, y), _mm256_and_si256(z, _mm256_or_si256(x, y)))
}

/// GG_j for j >= 16 (GB/T 32905-2016 4.3): y where x is one, else z.
#[target_feature(enable = "avx2")]
#[inline]
fn choice(x: __m256i, y: __m256i, z: __m256i) -> __m256i {
    _mm256_xor_si256(z, _mm256_and_si256(x, _mm256_xor_si256(y, z)))
}
