//! SM3 of sixteen streams in 512-bit vectors, or of thirty-two in two sets of them: lane l of every
//! vector belongs to stream l of its set.
//!
//! A round is 19 vector operations and the schedule 5.7 more, since `vprold` rotates and
//! `vpternlogd` joins any three words in one step. Each round waits for five of them in a row;
//! where an operation takes two cycles and four can begin in one, that is ten cycles a round
//! whatever else there is, and the rounds of a second set run in the same time. The words of the
//! schedule stay in registers: word j takes the place of word j - 16, four rounds before it is
//! wanted.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_load_si512, _mm512_loadu_si512, _mm512_rol_epi32,
    _mm512_set1_epi32, _mm512_set4_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_shuffle_i32x4, _mm512_store_si512, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::lanes::States;
use super::{Block, INITIAL, PAIR_PADDING, ROUND};

/// Streams of a set.
pub(super) const LANES: usize = 16;

/// Truth tables of `vpternlogd`, by (x, y, z) = bits 2, 1, 0 of the index.
const XOR: i32 = 0b1001_0110;
const MAJORITY: i32 = 0b1110_1000;
const CHOICE: i32 = 0b1100_1010;

/// The working state, and the sixteen words of the schedule that are wanted next.
type State = [__m512i; 8];
type Words = [__m512i; 16];

/// Runs the first `count` blocks of each part through the lane of the same number, in `SETS` sets
/// of sixteen.
///
/// # Panics
/// If a part is shorter than that.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn compress<const L: usize, const SETS: usize>(
    states: &mut States<L>,
    parts: &[&[Block]; L],
    count: usize,
) {
    let (sets, rest) = parts.as_chunks::<LANES>();
    assert!(sets.len() == SETS && rest.is_empty(), "sets of sixteen lanes");
    let mut state = load::<L, SETS>(states);
    for block in 0..count {
        let mut words = [[_mm512_setzero_si512(); LANES]; SETS];
        for (words, parts) in words.iter_mut().zip(sets) {
            for (row, part) in words.iter_mut().zip(parts) {
                *row = load_block(&part[block]);
            }
            *words = transposed(words);
        }
        rounds::<SETS, false>(&mut state, &mut words);
    }
    store(states, &state);
}

/// Sets the states to those of the padded messages of one block each.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn digest_pairs<const L: usize, const SETS: usize>(
    pairs: &[Block; L],
    states: &mut States<L>,
) {
    let (sets, rest) = pairs.as_chunks::<LANES>();
    assert!(sets.len() == SETS && rest.is_empty(), "sets of sixteen lanes");
    let mut state = [[_mm512_setzero_si512(); 8]; SETS];
    let mut words = [[_mm512_setzero_si512(); LANES]; SETS];
    for ((state, words), pairs) in state.iter_mut().zip(&mut words).zip(sets) {
        for (vector, word) in state.iter_mut().zip(INITIAL) {
            *vector = broadcast(word);
        }
        for (row, pair) in words.iter_mut().zip(pairs) {
            *row = load_block(pair);
        }
        *words = transposed(words);
    }
    rounds::<SETS, true>(&mut state, &mut words);
    padding_rounds(&mut state);
    store(states, &state);
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load<const L: usize, const SETS: usize>(states: &States<L>) -> [State; SETS] {
    let mut state = [[_mm512_setzero_si512(); 8]; SETS];
    for (word, row) in states.0.iter().enumerate() {
        for (state, lanes) in state.iter_mut().zip(row.as_chunks::<LANES>().0) {
            // SAFETY: the lanes are 64 bytes and, by the alignment of `States`, on a multiple of
            // 64.
            state[word] = unsafe { _mm512_load_si512(lanes.as_ptr().cast()) };
        }
    }
    state
}

#[target_feature(enable = "avx512f")]
#[inline]
fn store<const L: usize, const SETS: usize>(states: &mut States<L>, state: &[State; SETS]) {
    for (word, row) in states.0.iter_mut().enumerate() {
        for (state, lanes) in state.iter().zip(row.as_chunks_mut::<LANES>().0) {
            // SAFETY: the lanes are 64 bytes and, by the alignment of `States`, on a multiple of
            // 64.
            unsafe { _mm512_store_si512(lanes.as_mut_ptr().cast(), state[word]) }
        }
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

/// The rounds of one block in every set. There is an instance for each place of use, `PAIRS` or
/// not, so that it becomes a part of that place and the state need not go through memory.
#[target_feature(enable = "avx512f")]
#[inline]
fn rounds<const SETS: usize, const PAIRS: bool>(
    state: &mut [State; SETS],
    words: &mut [Words; SETS],
) {
    align_frame();
    let before = *state;
    let mut turned = Turned::new(state);
    four_rounds::<XOR, XOR, 0, false, SETS>(&mut turned, words, 0);
    four_rounds::<XOR, XOR, 4, false, SETS>(&mut turned, words, 4);
    four_rounds::<XOR, XOR, 8, false, SETS>(&mut turned, words, 8);
    four_rounds::<XOR, XOR, 12, true, SETS>(&mut turned, words, 12);
    for j in [16, 32, 48] {
        four_rounds::<MAJORITY, CHOICE, 0, true, SETS>(&mut turned, words, j);
        four_rounds::<MAJORITY, CHOICE, 4, true, SETS>(&mut turned, words, j + 4);
        four_rounds::<MAJORITY, CHOICE, 8, true, SETS>(&mut turned, words, j + 8);
        four_rounds::<MAJORITY, CHOICE, 12, true, SETS>(&mut turned, words, j + 12);
    }
    *state = turned.added_to(&before);
}

/// Puts a vector on the stack of the caller, into which this is inlined. The compiler aligns the
/// frame then, and with it the places of vectors that the registers have no room for: unaligned,
/// each of them takes two loads.
#[target_feature(enable = "avx512f")]
#[inline]
fn align_frame() {
    core::hint::black_box(&mut _mm512_setzero_si512());
}

/// The rounds of the block that pads a pair, whose schedule is a constant.
#[target_feature(enable = "avx512f")]
#[inline]
fn padding_rounds<const SETS: usize>(state: &mut [State; SETS]) {
    let before = *state;
    let mut turned = Turned::new(state);
    for j in (0..16).step_by(4) {
        four_padding_rounds::<XOR, XOR, SETS>(&mut turned, j);
    }
    for j in (16..64).step_by(4) {
        four_padding_rounds::<MAJORITY, CHOICE, SETS>(&mut turned, j);
    }
    *state = turned.added_to(&before);
}

/// Rounds `j` to `j + 3`, for which word j stands at `PLACE`, after which every word of the state
/// is back in its place; with `EXPAND` the words from `j + 4` on are computed first.
#[target_feature(enable = "avx512f")]
#[inline]
fn four_rounds<
    const FF: i32,
    const GG: i32,
    const PLACE: usize,
    const EXPAND: bool,
    const SETS: usize,
>(
    turned: &mut Turned<SETS>,
    words: &mut [Words; SETS],
    j: usize,
) {
    if EXPAND {
        for words in words.iter_mut() {
            expand::<PLACE>(words);
        }
    }
    let word = |set: usize, round: usize| {
        let word = words[set][PLACE + round];
        (word, _mm512_xor_si512(word, words[set][(PLACE + round + 4) % 16]))
    };
    turned.round::<FF, GG, 0>(ROUND[j], |set| word(set, 0));
    turned.round::<FF, GG, 1>(ROUND[j + 1], |set| word(set, 1));
    turned.round::<FF, GG, 2>(ROUND[j + 2], |set| word(set, 2));
    turned.round::<FF, GG, 3>(ROUND[j + 3], |set| word(set, 3));
}

#[target_feature(enable = "avx512f")]
#[inline]
fn four_padding_rounds<const FF: i32, const GG: i32, const SETS: usize>(
    turned: &mut Turned<SETS>,
    j: usize,
) {
    let word = |j: usize| {
        let mixed = PAIR_PADDING[j] ^ PAIR_PADDING[j + 4];
        (broadcast(PAIR_PADDING[j]), broadcast(mixed))
    };
    turned.round::<FF, GG, 0>(ROUND[j], |_| word(j));
    turned.round::<FF, GG, 1>(ROUND[j + 1], |_| word(j + 1));
    turned.round::<FF, GG, 2>(ROUND[j + 2], |_| word(j + 2));
    turned.round::<FF, GG, 3>(ROUND[j + 3], |_| word(j + 3));
}

/// Puts words j + 4 to j + 7 in the place of words j - 12 to j - 9, where word j stands at `PLACE`
/// (GB/T 32905-2016 5.3.2, step b).
#[target_feature(enable = "avx512f")]
#[inline]
fn expand<const PLACE: usize>(words: &mut Words) {
    for new in PLACE + 4..PLACE + 8 {
        let ago = |places: usize| words[(new + 16 - places) % 16];
        let turned = _mm512_rol_epi32::<15>(ago(3));
        let mixed = _mm512_ternarylogic_epi32::<XOR>(ago(16), ago(9), turned);
        let (by15, by23) = (_mm512_rol_epi32::<15>(mixed), _mm512_rol_epi32::<23>(mixed));
        let p1 = _mm512_ternarylogic_epi32::<XOR>(mixed, by15, by23);
        let turned = _mm512_rol_epi32::<7>(ago(13));
        words[new % 16] = _mm512_ternarylogic_epi32::<XOR>(p1, turned, ago(6));
    }
}

/// The working states on their way through the rounds. Instead of moving eight words on, their
/// names turn: what the standard calls the new A is written into D, and the new E into H.
struct Turned<const SETS: usize> {
    state: [State; SETS],
    /// A <<< 12, which is there before the E of the same round is.
    a12: [__m512i; SETS],
}

impl<const SETS: usize> Turned<SETS> {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new(state: &[State; SETS]) -> Self {
        let mut a12 = [_mm512_setzero_si512(); SETS];
        for set in 0..SETS {
            a12[set] = _mm512_rol_epi32::<12>(state[set][0]);
        }
        Self { state: *state, a12 }
    }

    /// One round (GB/T 32905-2016 5.3.3), the `TURN`th of four; `word` gives W and W' of a set.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn round<const FF: i32, const GG: i32, const TURN: usize>(
        &mut self,
        constant: u32,
        word: impl Fn(usize) -> (__m512i, __m512i),
    ) {
        let place = |name: usize| (name + 4 - TURN) % 4;
        let [a, b, c, d] = [place(0), place(1), place(2), place(3)];
        let [e, f, g, h] = [a + 4, b + 4, c + 4, d + 4];
        for set in 0..SETS {
            let (state, a12) = (self.state[set], self.a12[set]);
            let (word, mixed) = word(set);
            let sum = _mm512_add_epi32(_mm512_add_epi32(a12, state[e]), broadcast(constant));
            let ss1 = _mm512_rol_epi32::<7>(sum);
            let ss2 = _mm512_xor_si512(ss1, a12);
            let ff = _mm512_ternarylogic_epi32::<FF>(state[a], state[b], state[c]);
            let gg = _mm512_ternarylogic_epi32::<GG>(state[e], state[f], state[g]);
            let tt1 = _mm512_add_epi32(_mm512_add_epi32(state[d], mixed), ff);
            let tt1 = _mm512_add_epi32(tt1, ss2);
            let tt2 = _mm512_add_epi32(_mm512_add_epi32(state[h], word), gg);
            let tt2 = _mm512_add_epi32(tt2, ss1);
            let (by9, by17) = (_mm512_rol_epi32::<9>(tt2), _mm512_rol_epi32::<17>(tt2));
            self.a12[set] = _mm512_rol_epi32::<12>(tt1);
            let state = &mut self.state[set];
            state[d] = tt1;
            state[h] = _mm512_ternarylogic_epi32::<XOR>(tt2, by9, by17);
            state[b] = _mm512_rol_epi32::<9>(state[b]);
            state[f] = _mm512_rol_epi32::<19>(state[f]);
        }
    }

    /// The states after the last round (GB/T 32905-2016 5.3.3).
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn added_to(&self, before: &[State; SETS]) -> [State; SETS] {
        let mut state = *before;
        for (state, turned) in state.iter_mut().zip(&self.state) {
            for (word, turned) in state.iter_mut().zip(turned) {
                *word = _mm512_xor_si512(*word, *turned);
            }
        }
        state
    }
}
