//! SM4 of eight blocks in a group of four 256-bit vectors, one for each word, and eight groups at
//! once, with the S-box by the AES instructions in the basis of [`super::basis`].
//!
//! The last round of AES without a key moves bytes and puts each through the S-box of AES. What is
//! linear in that box is undone in the maps to u and v, which are two look-ups by half a byte each
//! in a register (`vpshufb`, whose time does not depend on what is looked up); the moves are undone
//! by the shuffles that rotate u and v anyway. Bytes keep the order they have in memory, so a
//! rotation to the left of the standard is one to the right of the vector's words.

use core::arch::x86_64::{
    __m256i, _mm_aesenclast_si128, _mm_loadu_si128, _mm_setzero_si128, _mm256_add_epi32,
    _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_extract_epi32,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_set_m128i, _mm256_set1_epi8,
    _mm256_set1_epi32, _mm256_setr_epi32, _mm256_setzero_si256, _mm256_shuffle_epi8,
    _mm256_srli_epi16, _mm256_storeu_si256, _mm256_unpackhi_epi32, _mm256_unpackhi_epi64,
    _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use super::basis::{INTO, KEY_CONSTANT, OUT, U, V};
use super::{BLOCK_SIZE, Block, ROUNDS, xor};

/// Blocks of a group.
const LANES: usize = 8;

/// Bytes of a group.
const GROUP_SIZE: usize = LANES * BLOCK_SIZE;

/// Bytes of a vector.
const VECTOR_SIZE: usize = 32;

/// Groups that a pass works on at most: each waits long for its S-box, and eight of them fill the
/// time although their words do not fit the registers.
const GROUPS_MAX: usize = 8;

/// Bytes of a pass.
const PASS_SIZE: usize = GROUPS_MAX * GROUP_SIZE;

/// The round keys in the basis, their bytes in the order of memory.
pub(super) type Schedule = [u32; ROUNDS];

/// The four words of a group's blocks. Block 2e + q stands in 32-bit element 4q + e, which is where
/// [`turned`] finds and leaves consecutive blocks.
type Group = [__m256i; 4];

/// Two tables of sixteen bytes, for the lower and the upper half of a byte.
type Tables = [[u8; 16]; 2];

const INTO_TABLES: Tables = INTO.alone().nibble_tables();
const OUT_TABLES: Tables = OUT.alone().nibble_tables();
const U_TABLES: Tables = U.of_aes_sbox().nibble_tables();
const V_TABLES: Tables = V.of_aes_sbox().nibble_tables();

/// Where the bytes of the AES round's result lie, read with the words turned by 0 to 3 bytes to the
/// right: byte i of column c comes out of column c - i.
const TURNS: [[u8; 16]; 4] = {
    let mut turns = [[0; 16]; 4];
    let mut place = 0;
    while place < 64 {
        let (turn, column, row) = (place / 16, place / 4 % 4, (place % 4 + place / 16) % 4);
        turns[turn][place % 16] = COLUMNS[(column + 4 - row) % 4] + ROWS[row];
        place += 1;
    }
    turns
};
const COLUMNS: [u8; 4] = [0, 4, 8, 12];
const ROWS: [u8; 4] = [0, 1, 2, 3];

/// The round keys of this back end; constant time.
#[target_feature(enable = "avx2,aes")]
pub(super) fn schedule(keys: &[u32; ROUNDS]) -> Schedule {
    let mut schedule = keys.map(u32::swap_bytes);
    for eight in schedule.as_chunks_mut::<LANES>().0 {
        // SAFETY: eight words are 32 bytes; the load asks for no alignment.
        let words = unsafe { _mm256_loadu_si256(eight.as_ptr().cast()) };
        let constant = _mm256_set1_epi8(KEY_CONSTANT.cast_signed());
        let words = _mm256_xor_si256(mapped(&INTO_TABLES, words), constant);
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(eight.as_mut_ptr().cast(), words) };
    }
    schedule
}

/// Encrypts any number of blocks in place, or decrypts them with `DECRYPT`.
#[target_feature(enable = "avx2,aes")]
pub(super) fn crypt<const DECRYPT: bool>(schedule: &Schedule, blocks: &mut [Block]) {
    if let [block] = blocks {
        return crypt_one::<DECRYPT>(schedule, block);
    }
    let (passes, rest) = blocks.as_flattened_mut().as_chunks_mut::<PASS_SIZE>();
    for pass in passes {
        crypt_groups::<GROUPS_MAX, DECRYPT>(schedule, pass);
    }
    if rest.is_empty() {
        return;
    }
    let mut pass = [0; PASS_SIZE];
    pass[..rest.len()].copy_from_slice(rest);
    match rest.len().div_ceil(GROUP_SIZE) {
        1 => crypt_groups::<1, DECRYPT>(schedule, &mut pass),
        2 => crypt_groups::<2, DECRYPT>(schedule, &mut pass),
        3 | 4 => crypt_groups::<4, DECRYPT>(schedule, &mut pass),
        _ => crypt_groups::<GROUPS_MAX, DECRYPT>(schedule, &mut pass),
    }
    rest.copy_from_slice(&pass[..rest.len()]);
}

/// One block, the same in all lanes: what a chain of blocks waits for.
#[target_feature(enable = "avx2,aes")]
#[inline]
fn crypt_one<const DECRYPT: bool>(schedule: &Schedule, block: &mut Block) {
    let mut groups = [[_mm256_setzero_si256(); 4]];
    let (words, _) = block.as_chunks_mut::<4>();
    for (vector, word) in groups[0].iter_mut().zip(words.iter()) {
        *vector = mapped(&INTO_TABLES, _mm256_set1_epi32(i32::from_ne_bytes(*word)));
    }
    rounds::<1, DECRYPT>(schedule, &mut groups);
    for (word, vector) in words.iter_mut().rev().zip(groups[0]) {
        *word = _mm256_extract_epi32::<0>(mapped(&OUT_TABLES, vector)).to_ne_bytes();
    }
}

#[target_feature(enable = "avx2,aes")]
#[inline]
fn crypt_groups<const GROUPS: usize, const DECRYPT: bool>(
    schedule: &Schedule,
    data: &mut [u8; PASS_SIZE],
) {
    let mut groups = [[_mm256_setzero_si256(); 4]; GROUPS];
    let (vectors, _) = data.as_chunks_mut::<VECTOR_SIZE>();
    for (vector, place) in groups.as_flattened_mut().iter_mut().zip(vectors.iter()) {
        *vector = load(place);
    }
    for group in &mut groups {
        *group = turned(group);
        for words in group {
            *words = mapped(&INTO_TABLES, *words);
        }
    }
    rounds::<GROUPS, DECRYPT>(schedule, &mut groups);
    for (group, places) in groups.iter().zip(vectors.as_chunks_mut::<4>().0) {
        for (vector, place) in finished(group).into_iter().zip(places) {
            store(place, vector);
        }
    }
}

/// Adds the key stream from `counter` on to the data; the last 32 bits do not wrap on the way.
#[target_feature(enable = "avx2,aes")]
pub(super) fn key_stream(schedule: &Schedule, counter: &Block, data: &mut [u8]) {
    let mut counters = Counters::new(counter);
    let (passes, rest) = data.as_chunks_mut::<PASS_SIZE>();
    for pass in passes {
        add::<GROUPS_MAX>(schedule, &mut counters, pass);
    }
    if rest.is_empty() {
        return;
    }
    let mut stream = [0; PASS_SIZE];
    match rest.len().div_ceil(GROUP_SIZE) {
        1 => add::<1>(schedule, &mut counters, &mut stream),
        2 => add::<2>(schedule, &mut counters, &mut stream),
        3 | 4 => add::<4>(schedule, &mut counters, &mut stream),
        _ => add::<GROUPS_MAX>(schedule, &mut counters, &mut stream),
    }
    xor(rest, &stream);
}

/// Adds the next part of the key stream to a pass, or to its first groups.
#[target_feature(enable = "avx2,aes")]
#[inline]
fn add<const GROUPS: usize>(
    schedule: &Schedule,
    counters: &mut Counters,
    data: &mut [u8; PASS_SIZE],
) {
    let mut groups = [[_mm256_setzero_si256(); 4]; GROUPS];
    for group in &mut groups {
        *group = counters.next();
    }
    rounds::<GROUPS, false>(schedule, &mut groups);
    let (vectors, _) = data.as_chunks_mut::<VECTOR_SIZE>();
    for (group, places) in groups.iter().zip(vectors.as_chunks_mut::<4>().0) {
        for (stream, place) in finished(group).into_iter().zip(places) {
            let vector = load(place);
            store(place, _mm256_xor_si256(vector, stream));
        }
    }
}

/// Counters of consecutive blocks, in the basis.
struct Counters {
    fixed: [__m256i; 3],
    /// The last words of the next group, as numbers.
    last: __m256i,
}

impl Counters {
    #[target_feature(enable = "avx2,aes")]
    #[inline]
    fn new(counter: &Block) -> Self {
        let (words, _) = counter.as_chunks::<4>();
        let mut fixed = [_mm256_setzero_si256(); 3];
        for (vector, word) in fixed.iter_mut().zip(words) {
            *vector = mapped(&INTO_TABLES, _mm256_set1_epi32(i32::from_ne_bytes(*word)));
        }
        let first = _mm256_set1_epi32(i32::from_be_bytes(words[3]));
        let places = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        Self { fixed, last: _mm256_add_epi32(first, places) }
    }

    #[target_feature(enable = "avx2,aes")]
    #[inline]
    fn next(&mut self) -> Group {
        const SWAP: [u8; 16] = [3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12];
        let [first, second, third] = self.fixed;
        let last = mapped(&INTO_TABLES, _mm256_shuffle_epi8(self.last, both(&SWAP)));
        self.last = _mm256_add_epi32(self.last, _mm256_set1_epi32(8));
        [first, second, third, last]
    }
}

/// All rounds (GB/T 32907-2016 7.1, 7.2 and 6.1).
#[target_feature(enable = "avx2,aes")]
#[inline]
fn rounds<const GROUPS: usize, const DECRYPT: bool>(
    schedule: &Schedule,
    groups: &mut [Group; GROUPS],
) {
    for four in 0..ROUNDS / 4 {
        for turn in 0..4 {
            let round = 4 * four + turn;
            let key = schedule[if DECRYPT { ROUNDS - 1 - round } else { round }];
            let key = _mm256_set1_epi32(key.cast_signed());
            for group in groups.iter_mut() {
                let [x1, x2, x3] = [1, 2, 3].map(|next| group[(turn + next) % 4]);
                group[turn] = step(group[turn], x1, x2, x3, key);
            }
        }
    }
}

/// One round: the new word in the place of the oldest.
#[target_feature(enable = "avx2,aes")]
#[inline]
fn step(x0: __m256i, x1: __m256i, x2: __m256i, x3: __m256i, key: __m256i) -> __m256i {
    // The newest word comes last, as it is the one that is waited for.
    let mixed = _mm256_xor_si256(_mm256_xor_si256(_mm256_xor_si256(x1, x2), key), x3);
    let [low, high] = [_mm256_castsi256_si128(mixed), _mm256_extracti128_si256::<1>(mixed)]
        .map(|half| _mm_aesenclast_si128(half, _mm_setzero_si128()));
    let boxed = _mm256_set_m128i(high, low);
    let (u, v) = (mapped(&U_TABLES, boxed), mapped(&V_TABLES, boxed));
    let [straight, by8, by16, by24] = &TURNS;
    let sum = _mm256_xor_si256(x0, _mm256_shuffle_epi8(u, both(straight)));
    let first = _mm256_xor_si256(sum, _mm256_shuffle_epi8(v, both(by8)));
    let second = _mm256_shuffle_epi8(v, both(by16));
    let third = _mm256_shuffle_epi8(_mm256_xor_si256(u, v), both(by24));
    _mm256_xor_si256(first, _mm256_xor_si256(second, third))
}

/// The image of every byte under the map of these tables.
#[target_feature(enable = "avx2,aes")]
#[inline]
fn mapped(tables: &Tables, bytes: __m256i) -> __m256i {
    let lower = _mm256_set1_epi8(0x0f);
    let low = _mm256_and_si256(bytes, lower);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), lower);
    let low = _mm256_shuffle_epi8(both(&tables[0]), low);
    let high = _mm256_shuffle_epi8(both(&tables[1]), high);
    _mm256_xor_si256(low, high)
}

/// These bytes in both halves.
#[target_feature(enable = "avx2")]
#[inline]
fn both(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: sixteen bytes are 128 bits; the load asks for no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// The blocks of a group after the last round: the words in reverse order, out of the basis.
#[target_feature(enable = "avx2,aes")]
#[inline]
fn finished(&[x0, x1, x2, x3]: &Group) -> Group {
    let mut words = [x3, x2, x1, x0];
    for word in &mut words {
        *word = mapped(&OUT_TABLES, *word);
    }
    turned(&words)
}

/// Exchanges 32-bit element i of vector j with element j of vector i in each half; its own inverse.
#[target_feature(enable = "avx2")]
#[inline]
fn turned(&[x0, x1, x2, x3]: &Group) -> Group {
    let (low01, high01) = (_mm256_unpacklo_epi32(x0, x1), _mm256_unpackhi_epi32(x0, x1));
    let (low23, high23) = (_mm256_unpacklo_epi32(x2, x3), _mm256_unpackhi_epi32(x2, x3));
    [
        _mm256_unpacklo_epi64(low01, low23),
        _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23),
        _mm256_unpackhi_epi64(high01, high23),
    ]
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8; VECTOR_SIZE]) -> __m256i {
    // SAFETY: these are 32 bytes; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(bytes: &mut [u8; VECTOR_SIZE], vector: __m256i) {
    // SAFETY: these are 32 bytes; the store asks for no alignment.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}
