//! GHASH by PCLMULQDQ, eight blocks with one reduction.
//!
//! ```text
//! (((sum + b0) H + b1) H + ..) H  =  (sum + b0) H^8 + b1 H^7 + .. + b7 H
//! ```
//!
//! Products are summed unreduced. The mirrored product of two words is one place too low, which is
//! made good by keeping H^k x^-1 in place of H^k.

use core::arch::x86_64::{
    __m128i, _mm_bslli_si128, _mm_bsrli_si128, _mm_clmulepi64_si128, _mm_loadu_si128,
    _mm_set1_epi64x, _mm_setzero_si128, _mm_shuffle_epi32, _mm_storeu_si128, _mm_xor_si128,
};

use super::super::Block;
use super::point_over_x;

/// Blocks with one reduction.
const LANES: usize = 8;

/// H^8 x^-1, .. H x^-1: mirrored numbers.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct Powers([u128; LANES]);

impl Powers {
    #[target_feature(enable = "avx2,pclmulqdq")]
    pub(super) fn new(point: u128) -> Self {
        let first = point_over_x(point);
        let mut powers = [0; LANES];
        let mut power = first;
        for place in powers.iter_mut().rev() {
            *place = power;
            let mut products = Products::new();
            products.add(power, first);
            power = products.reduced();
        }
        Self(powers)
    }

    /// Hashes blocks behind what `sum` has seen.
    #[target_feature(enable = "avx2,pclmulqdq")]
    pub(super) fn update(&self, sum: &mut u128, blocks: &[Block]) {
        for blocks in blocks.chunks(LANES) {
            let mut products = Products::new();
            for (block, power) in blocks.iter().zip(&self.0[LANES - blocks.len()..]) {
                products.add(u128::from_be_bytes(*block) ^ core::mem::take(sum), *power);
            }
            *sum = products.reduced();
        }
    }
}

/// Sums of products, not yet reduced: of low words, of a low and a high one, of high words.
struct Products {
    low: __m128i,
    middle: __m128i,
    high: __m128i,
}

impl Products {
    #[target_feature(enable = "avx2,pclmulqdq")]
    #[inline]
    fn new() -> Self {
        let zero = _mm_setzero_si128();
        Self { low: zero, middle: zero, high: zero }
    }

    #[target_feature(enable = "avx2,pclmulqdq")]
    #[inline]
    fn add(&mut self, left: u128, right: u128) {
        let (left, right) = (vector_of(left), vector_of(right));
        let low = _mm_clmulepi64_si128::<0x00>(left, right);
        let high = _mm_clmulepi64_si128::<0x11>(left, right);
        let one = _mm_clmulepi64_si128::<0x01>(left, right);
        let other = _mm_clmulepi64_si128::<0x10>(left, right);
        self.low = _mm_xor_si128(self.low, low);
        self.high = _mm_xor_si128(self.high, high);
        self.middle = _mm_xor_si128(self.middle, _mm_xor_si128(one, other));
    }

    /// The sum reduced modulo x^128 + x^7 + x^2 + x + 1: twice the lower 64 bits, which stand for
    /// the highest powers, are folded upwards with x^127 + x^126 + x^121, mirrored.
    #[target_feature(enable = "avx2,pclmulqdq")]
    #[inline]
    fn reduced(&self) -> u128 {
        let low = _mm_xor_si128(self.low, _mm_bslli_si128::<8>(self.middle));
        let high = _mm_xor_si128(self.high, _mm_bsrli_si128::<8>(self.middle));
        let fold = _mm_set1_epi64x((0b1100_0010_u64 << 56).cast_signed());
        let once = _mm_clmulepi64_si128::<0x00>(low, fold);
        let low = _mm_xor_si128(_mm_shuffle_epi32::<SWAP_HALVES>(low), once);
        let twice = _mm_clmulepi64_si128::<0x00>(low, fold);
        let low = _mm_shuffle_epi32::<SWAP_HALVES>(low);
        let sum = _mm_xor_si128(_mm_xor_si128(high, low), twice);
        let mut number = 0;
        // SAFETY: the number has 128 bits; the store asks for no alignment.
        unsafe { _mm_storeu_si128((&raw mut number).cast(), sum) };
        number
    }
}

/// The 64-bit halves, exchanged.
const SWAP_HALVES: i32 = 0b01_00_11_10;

#[target_feature(enable = "avx2,pclmulqdq")]
#[inline]
fn vector_of(number: u128) -> __m128i {
    // SAFETY: the number has 128 bits; the load asks for no alignment.
    unsafe { _mm_loadu_si128((&raw const number).cast()) }
}
