//! SM4 of sixteen blocks in a group of four 512-bit vectors, one for each word, and up to four
//! groups at once, with the S-box by GFNI in the basis of [`super::basis`].
//!
//! A round is two inversions with a map behind them and eight simple operations for sixteen blocks.
//! Bytes keep the order they have in memory, so a rotation to the left of the standard is one to
//! the right of the vector's words.

use core::arch::x86_64::{
    __m512i, _mm_storeu_si128, _mm512_add_epi32, _mm512_cvtsi512_si32, _mm512_extracti32x4_epi32,
    _mm512_gf2p8affine_epi64_epi8, _mm512_gf2p8affineinv_epi64_epi8, _mm512_loadu_si512,
    _mm512_mask_blend_epi32, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_ror_epi32,
    _mm512_set1_epi32, _mm512_set1_epi64, _mm512_set4_epi32, _mm512_setr_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_ternarylogic_epi32,
    _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

use super::basis::{INTO, KEY_CONSTANT, OUT, U, V};
use super::{BLOCK_SIZE, Block, ROUNDS};

/// Blocks of a group.
pub(super) const LANES: usize = 16;

/// Bytes of a group.
const GROUP_SIZE: usize = LANES * BLOCK_SIZE;

/// Bytes of a vector.
const VECTOR_SIZE: usize = 64;

/// Groups that a pass works on at most: with more, the words do not fit the registers.
pub(super) const GROUPS_MAX: usize = 4;

/// Bytes that a pass works on at most.
pub(super) const PASS_SIZE: usize = GROUPS_MAX * GROUP_SIZE;

/// Truth table of `vpternlogd` for the sum of three.
const XOR: i32 = 0b1001_0110;

/// The round keys in the basis, their bytes in the order of memory.
pub(super) type Schedule = [u32; ROUNDS];

/// The four words of a group's blocks. Block 4e + q stands in 32-bit element 4q + e, which is where
/// [`turned`] finds and leaves consecutive blocks.
pub(super) type Group = [__m512i; 4];

/// The round keys of this back end; constant time.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
pub(super) fn schedule(keys: &[u32; ROUNDS]) -> Schedule {
    let mut schedule = keys.map(u32::swap_bytes);
    for half in schedule.as_chunks_mut::<LANES>().0 {
        // SAFETY: sixteen words are 64 bytes; the load asks for no alignment.
        let words = unsafe { _mm512_loadu_si512(half.as_ptr().cast()) };
        let constant = _mm512_set1_epi32(i32::from_ne_bytes([KEY_CONSTANT; 4]));
        let words = _mm512_xor_si512(into_basis(words), constant);
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(half.as_mut_ptr().cast(), words) };
    }
    schedule
}

/// Encrypts any number of blocks in place, or decrypts them with `DECRYPT`.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
pub(super) fn crypt<const DECRYPT: bool>(schedule: &Schedule, blocks: &mut [Block]) {
    if let [block] = blocks {
        return crypt_one::<DECRYPT>(schedule, block);
    }
    for blocks in blocks.chunks_mut(GROUPS_MAX * LANES) {
        let data = blocks.as_flattened_mut();
        match data.len().div_ceil(GROUP_SIZE) {
            1 => crypt_groups::<1, DECRYPT>(schedule, data),
            2 => crypt_groups::<2, DECRYPT>(schedule, data),
            _ => crypt_groups::<GROUPS_MAX, DECRYPT>(schedule, data),
        }
    }
}

/// One block, the same in all lanes: what a chain of blocks waits for.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn crypt_one<const DECRYPT: bool>(schedule: &Schedule, block: &mut Block) {
    let mut groups = [[_mm512_setzero_si512(); 4]];
    let (words, _) = block.as_chunks_mut::<4>();
    for (vector, word) in groups[0].iter_mut().zip(words.iter()) {
        *vector = into_basis(_mm512_set1_epi32(i32::from_ne_bytes(*word)));
    }
    rounds::<1, DECRYPT>(schedule, &mut groups, |_| {});
    for (word, vector) in words.iter_mut().rev().zip(groups[0]) {
        *word = _mm512_cvtsi512_si32(out_of_basis(vector)).to_ne_bytes();
    }
}

#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn crypt_groups<const GROUPS: usize, const DECRYPT: bool>(schedule: &Schedule, data: &mut [u8]) {
    let mut groups = [[_mm512_setzero_si512(); 4]; GROUPS];
    for (index, group) in groups.iter_mut().enumerate() {
        for (place, vector) in group.iter_mut().enumerate() {
            *vector = load(data, 4 * index + place);
        }
        *group = turned(group);
        for words in group {
            *words = into_basis(*words);
        }
    }
    rounds::<GROUPS, DECRYPT>(schedule, &mut groups, |_| {});
    for (index, group) in groups.iter().enumerate() {
        for (place, vector) in finished(group).into_iter().enumerate() {
            store(data, 4 * index + place, vector);
        }
    }
}

/// Adds the key stream from `counter` on to the data; the last 32 bits do not wrap on the way.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
pub(super) fn key_stream(schedule: &Schedule, counter: &Block, data: &mut [u8]) {
    let mut counters = Counters::new(counter);
    for data in data.chunks_mut(PASS_SIZE) {
        match data.len().div_ceil(GROUP_SIZE) {
            1 => add(data, &streams::<1>(schedule, counters.take(), |_| {})),
            2 => add(data, &streams::<2>(schedule, counters.take(), |_| {})),
            _ => add(data, &streams::<GROUPS_MAX>(schedule, counters.take(), |_| {})),
        }
    }
}

/// The encrypted counters. In each of the steps 0..8 on the way, `beside` can do work of its own
/// that does not wait for this one.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
pub(super) fn streams<const GROUPS: usize>(
    schedule: &Schedule,
    mut groups: [Group; GROUPS],
    beside: impl FnMut(usize),
) -> [Group; GROUPS] {
    rounds::<GROUPS, false>(schedule, &mut groups, beside);
    for group in &mut groups {
        *group = finished(group);
    }
    groups
}

/// Adds encrypted counters to the data, as far as it goes.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
pub(super) fn add<const GROUPS: usize>(data: &mut [u8], streams: &[Group; GROUPS]) {
    for (index, stream) in streams.as_flattened().iter().enumerate() {
        let vector = load(data, index);
        store(data, index, _mm512_xor_si512(vector, *stream));
    }
}

/// Counters of consecutive blocks, in the basis.
#[derive(Clone, Copy)]
pub(super) struct Counters {
    fixed: [__m512i; 3],
    /// The last words of the next group, as numbers.
    last: __m512i,
}

impl Counters {
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    pub(super) fn new(counter: &Block) -> Self {
        let (words, _) = counter.as_chunks::<4>();
        let mut fixed = [_mm512_setzero_si512(); 3];
        for (vector, word) in fixed.iter_mut().zip(words) {
            *vector = into_basis(_mm512_set1_epi32(i32::from_ne_bytes(*word)));
        }
        let first = _mm512_set1_epi32(i32::from_be_bytes(words[3]));
        let places = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        Self { fixed, last: _mm512_add_epi32(first, places) }
    }

    /// The next groups.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    pub(super) fn take<const GROUPS: usize>(&mut self) -> [Group; GROUPS] {
        let mut groups = [[_mm512_setzero_si512(); 4]; GROUPS];
        for group in &mut groups {
            *group = self.next();
        }
        groups
    }

    /// Puts another block in the place of the last one.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    pub(super) fn put_last(groups: &mut [Group], block: &Block) {
        let Some(group) = groups.last_mut() else { return };
        for (vector, word) in group.iter_mut().zip(block.as_chunks::<4>().0) {
            let word = into_basis(_mm512_set1_epi32(i32::from_ne_bytes(*word)));
            *vector = _mm512_mask_blend_epi32(1 << (LANES - 1), *vector, word);
        }
    }

    /// The last block of what was encrypted.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn last_block(streams: &[Group]) -> Block {
        let mut block = [0; BLOCK_SIZE];
        let Some([.., vector]) = streams.last() else { return block };
        let quarter = _mm512_extracti32x4_epi32::<3>(*vector);
        // SAFETY: a block has 128 bits; the store asks for no alignment.
        unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), quarter) };
        block
    }

    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    fn next(&mut self) -> Group {
        let [first, second, third] = self.fixed;
        let swap = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
        let last = into_basis(_mm512_shuffle_epi8(self.last, swap));
        self.last = _mm512_add_epi32(self.last, _mm512_set1_epi32(16));
        [first, second, third, last]
    }
}

/// All rounds (GB/T 32907-2016 7.1, 7.2 and 6.1).
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn rounds<const GROUPS: usize, const DECRYPT: bool>(
    schedule: &Schedule,
    groups: &mut [Group; GROUPS],
    mut beside: impl FnMut(usize),
) {
    for four in 0..ROUNDS / 4 {
        let first = if DECRYPT { ROUNDS - 4 - 4 * four } else { 4 * four };
        let mut keys = [_mm512_setzero_si512(); 4];
        for (turn, key) in keys.iter_mut().enumerate() {
            let place = if DECRYPT { 3 - turn } else { turn };
            *key = _mm512_set1_epi32(schedule[first + place].cast_signed());
        }
        for turn in 0..4 {
            for group in groups.iter_mut() {
                let [x1, x2, x3] = [1, 2, 3].map(|next| group[(turn + next) % 4]);
                group[turn] = round(group[turn], x1, x2, x3, keys[turn]);
            }
        }
        beside(four);
    }
}

/// One round: the new word in the place of the oldest.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn round(x0: __m512i, x1: __m512i, x2: __m512i, x3: __m512i, key: __m512i) -> __m512i {
    // The newest word comes last, as it is the one that is waited for.
    let mixed = _mm512_xor_si512(xor3(x1, x2, key), x3);
    let first = _mm512_set1_epi64(U.map.matrix().cast_signed());
    let second = _mm512_set1_epi64(V.map.matrix().cast_signed());
    let u = _mm512_gf2p8affineinv_epi64_epi8::<{ U.constant as i32 }>(mixed, first);
    let v = _mm512_gf2p8affineinv_epi64_epi8::<{ V.constant as i32 }>(mixed, second);
    let by24 = _mm512_ror_epi32::<24>(_mm512_xor_si512(u, v));
    let sum = xor3(x0, u, _mm512_ror_epi32::<8>(v));
    xor3(sum, _mm512_ror_epi32::<16>(v), by24)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<XOR>(a, b, c)
}

/// The blocks of a group after the last round: the words in reverse order, out of the basis.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn finished(&[x0, x1, x2, x3]: &Group) -> Group {
    let mut words = [x3, x2, x1, x0];
    for word in &mut words {
        *word = out_of_basis(*word);
    }
    turned(&words)
}

/// Out of the basis.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn out_of_basis(words: __m512i) -> __m512i {
    let matrix = _mm512_set1_epi64(OUT.matrix().cast_signed());
    _mm512_gf2p8affine_epi64_epi8::<0>(words, matrix)
}

/// Into the basis.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn into_basis(words: __m512i) -> __m512i {
    let matrix = _mm512_set1_epi64(INTO.matrix().cast_signed());
    _mm512_gf2p8affine_epi64_epi8::<0>(words, matrix)
}

/// Exchanges 32-bit element i of vector j with element j of vector i in each quarter; its own
/// inverse.
#[target_feature(enable = "avx512f")]
#[inline]
fn turned(&[x0, x1, x2, x3]: &Group) -> Group {
    let (low01, high01) = (_mm512_unpacklo_epi32(x0, x1), _mm512_unpackhi_epi32(x0, x1));
    let (low23, high23) = (_mm512_unpacklo_epi32(x2, x3), _mm512_unpackhi_epi32(x2, x3));
    [
        _mm512_unpacklo_epi64(low01, low23),
        _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(high01, high23),
        _mm512_unpackhi_epi64(high01, high23),
    ]
}

/// Vector `index` of the data, with zeros where there is none.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn load(data: &[u8], index: usize) -> __m512i {
    let data = data.get(VECTOR_SIZE * index..).unwrap_or_default();
    if data.len() >= VECTOR_SIZE {
        // SAFETY: the slice has 64 bytes or more; the load asks for no alignment.
        return unsafe { _mm512_loadu_si512(data.as_ptr().cast()) };
    }
    // Nothing is read of an empty slice, but to suppress the fault of its address takes thousands
    // of cycles.
    if data.is_empty() {
        return _mm512_setzero_si512();
    }
    // SAFETY: only the bytes that the slice has are read.
    unsafe { _mm512_maskz_loadu_epi8(first_bytes(data.len()), data.as_ptr().cast()) }
}

/// Puts a vector where [`load`] took it from.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn store(data: &mut [u8], index: usize, vector: __m512i) {
    let data = data.get_mut(VECTOR_SIZE * index..).unwrap_or_default();
    if data.len() >= VECTOR_SIZE {
        // SAFETY: the slice has 64 bytes or more; the store asks for no alignment.
        return unsafe { _mm512_storeu_si512(data.as_mut_ptr().cast(), vector) };
    }
    if data.is_empty() {
        return;
    }
    let mask = first_bytes(data.len());
    // SAFETY: only bytes that the slice has are written.
    unsafe { _mm512_mask_storeu_epi8(data.as_mut_ptr().cast(), mask, vector) }
}

/// The mask of the first `count` bytes, fewer than 64, of a vector.
const fn first_bytes(count: usize) -> u64 {
    (1 << count) - 1
}
