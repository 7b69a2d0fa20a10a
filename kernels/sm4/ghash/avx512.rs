//! GHASH of four blocks in a 512-bit vector by VPCLMULQDQ, 64 blocks with one reduction.
//!
//! ```text
//! (((sum + b0) H + b1) H + ..) H  =  (sum + b0) H^64 + b1 H^63 + .. + b63 H
//! ```
//!
//! Products are summed unreduced. The mirrored product of two words is one place too low, which is
//! made good by keeping H^k x^-1 in place of H^k.

use core::arch::x86_64::{
    __m128i, __m512i, _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128, _mm512_bslli_epi128,
    _mm512_bsrli_epi128, _mm512_castsi512_si128, _mm512_clmulepi64_epi128,
    _mm512_extracti32x4_epi32, _mm512_loadu_si512, _mm512_maskz_loadu_epi64, _mm512_set1_epi64,
    _mm512_set4_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_epi32,
    _mm512_storeu_si512, _mm512_ternarylogic_epi32, _mm512_xor_si512, _mm512_zextsi128_si512,
};

use super::super::{BLOCK_SIZE, Block};
use super::point_over_x;

/// Blocks with one reduction.
pub(in super::super) const LANES: usize = 64;

/// Blocks of a vector.
const VECTOR: usize = 4;

/// Truth table of `vpternlogd` for the sum of three.
const XOR: i32 = 0b1001_0110;

/// H^64 x^-1, .. H x^-1: mirrored numbers, in the order of memory.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(in super::super) struct Powers([u128; LANES]);

impl Default for Powers {
    fn default() -> Self {
        Self([0; LANES])
    }
}

/// Sums of products, not yet reduced: of low words, of a low and a high one, of high words.
pub(in super::super) struct Products {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Powers {
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    pub(super) fn new(point: u128) -> Self {
        let first = point_over_x(point);
        let mut powers = [0; LANES];
        let mut power = first;
        let step = vector_of([first; VECTOR]);
        // H, H^2, H^3, H^4 one after the other, then four at a time.
        for place in powers.iter_mut().rev().take(VECTOR) {
            *place = power;
            power = number_of(_mm512_castsi512_si128(reduced(&product(
                vector_of([power; VECTOR]),
                step,
            ))));
        }
        let fourth = vector_of([powers[LANES - VECTOR]; VECTOR]);
        let mut vector = load_powers(&powers, LANES - VECTOR);
        for place in (0..LANES - VECTOR).step_by(VECTOR).rev() {
            let products = product(vector, fourth);
            vector = reduced(&products);
            let (target, _) = powers[place..].as_chunks_mut::<VECTOR>();
            // SAFETY: four numbers of 128 bits are 64 bytes; the store asks for no alignment.
            unsafe { _mm512_storeu_si512(target[0].as_mut_ptr().cast(), vector) };
        }
        Self(powers)
    }

    /// Hashes blocks behind what `sum` has seen.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    pub(in super::super) fn update(&self, sum: &mut u128, blocks: &[Block]) {
        for blocks in blocks.chunks(LANES) {
            let mut products = Products::new();
            let unused = LANES - blocks.len();
            for first in (0..blocks.len()).step_by(VECTOR) {
                let rest = &blocks[first..];
                let carried = if first == 0 { *sum } else { 0 };
                if rest.len() >= VECTOR {
                    let powers = load_powers(&self.0, unused + first);
                    products.add(load(rest), powers, carried);
                    continue;
                }
                // Two words for each block that there is.
                let mask = (1 << (2 * rest.len())) - 1;
                // SAFETY: only the blocks that the slice has are read.
                let vector = unsafe { _mm512_maskz_loadu_epi64(mask, rest.as_ptr().cast()) };
                let powers = self.0[unused + first..].as_ptr();
                // SAFETY: as many powers are left as there are blocks, and only those are read.
                let powers = unsafe { _mm512_maskz_loadu_epi64(mask, powers.cast()) };
                products.add(mirrored(vector), powers, carried);
            }
            *sum = products.sum();
        }
    }

    /// One of the eight steps that hash 64 blocks behind what `sum` has seen.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    pub(in super::super) fn step(
        &self,
        products: &mut Products,
        sum: u128,
        bytes: &[u8; LANES * BLOCK_SIZE],
        step: usize,
    ) {
        let (blocks, _) = bytes.as_chunks::<BLOCK_SIZE>();
        let first = 2 * VECTOR * step;
        let carried = if step == 0 { sum } else { 0 };
        products.add(load(&blocks[first..]), load_powers(&self.0, first), carried);
        let second = first + VECTOR;
        products.add(load(&blocks[second..]), load_powers(&self.0, second), 0);
    }
}

impl Products {
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(in super::super) fn new() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, middle: zero, high: zero }
    }

    /// Adds the products of four blocks, the first of them after `carried` was added to it.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    fn add(&mut self, blocks: __m512i, powers: __m512i, carried: u128) {
        let blocks = _mm512_xor_si512(blocks, first_of(carried));
        let low = _mm512_clmulepi64_epi128::<0x00>(blocks, powers);
        let high = _mm512_clmulepi64_epi128::<0x11>(blocks, powers);
        let one = _mm512_clmulepi64_epi128::<0x01>(blocks, powers);
        let other = _mm512_clmulepi64_epi128::<0x10>(blocks, powers);
        self.low = _mm512_xor_si512(self.low, low);
        self.high = _mm512_xor_si512(self.high, high);
        self.middle = _mm512_ternarylogic_epi32::<XOR>(self.middle, one, other);
    }

    /// The sum of all products, reduced.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    pub(in super::super) fn sum(&self) -> u128 {
        let vector = reduced(self);
        let [first, second, third, fourth] = [
            _mm512_castsi512_si128(vector),
            _mm512_extracti32x4_epi32::<1>(vector),
            _mm512_extracti32x4_epi32::<2>(vector),
            _mm512_extracti32x4_epi32::<3>(vector),
        ];
        number_of(_mm_xor_si128(_mm_xor_si128(first, second), _mm_xor_si128(third, fourth)))
    }
}

/// The unreduced products of four pairs.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn product(left: __m512i, right: __m512i) -> Products {
    let mut products = Products::new();
    products.add(left, right, 0);
    products
}

/// The sums of each quarter, reduced modulo x^128 + x^7 + x^2 + x + 1: twice the lower 64 bits,
/// which stand for the highest powers, are folded upwards with x^127 + x^126 + x^121, mirrored.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn reduced(products: &Products) -> __m512i {
    let low = _mm512_xor_si512(products.low, _mm512_bslli_epi128::<8>(products.middle));
    let high = _mm512_xor_si512(products.high, _mm512_bsrli_epi128::<8>(products.middle));
    let fold = _mm512_set1_epi64((0b1100_0010_u64 << 56).cast_signed());
    let once = _mm512_clmulepi64_epi128::<0x00>(low, fold);
    let low = _mm512_xor_si512(_mm512_shuffle_epi32::<SWAP_HALVES>(low), once);
    let twice = _mm512_clmulepi64_epi128::<0x00>(low, fold);
    let low = _mm512_shuffle_epi32::<SWAP_HALVES>(low);
    _mm512_ternarylogic_epi32::<XOR>(high, low, twice)
}

/// The 64-bit halves of each quarter, exchanged.
const SWAP_HALVES: i32 = 0b01_00_11_10;

/// Four blocks as mirrored numbers.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
#[inline]
fn load(blocks: &[Block]) -> __m512i {
    assert!(blocks.len() >= VECTOR, "a whole vector");
    // SAFETY: four blocks are 64 bytes; the load asks for no alignment.
    mirrored(unsafe { _mm512_loadu_si512(blocks.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn mirrored(blocks: __m512i) -> __m512i {
    let swap = _mm512_set4_epi32(0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f);
    _mm512_shuffle_epi8(blocks, swap)
}

/// Four powers from this place on.
#[target_feature(enable = "avx512f")]
#[inline]
fn load_powers(powers: &[u128; LANES], place: usize) -> __m512i {
    assert!(place + VECTOR <= LANES, "a whole vector");
    // SAFETY: four numbers are left from there on; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(powers[place..].as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn number_of(vector: __m128i) -> u128 {
    let mut number = 0;
    // SAFETY: the number has 128 bits; the store asks for no alignment.
    unsafe { _mm_storeu_si128((&raw mut number).cast(), vector) };
    number
}

/// This number in the first quarter, zero in the others.
#[target_feature(enable = "avx512f")]
#[inline]
fn first_of(number: u128) -> __m512i {
    // SAFETY: the number has 128 bits; the load asks for no alignment.
    _mm512_zextsi128_si512(unsafe { _mm_loadu_si128((&raw const number).cast()) })
}

#[target_feature(enable = "avx512f")]
#[inline]
fn vector_of(numbers: [u128; VECTOR]) -> __m512i {
    // SAFETY: four numbers of 128 bits are 64 bytes; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(numbers.as_ptr().cast()) }
}
