//! Scalars as digits that are odd and signed, so that none is zero and every step adds.
//!
//! Only odd scalars can be written so: of t and n - t, of which one is odd, the odd one is taken,
//! and all digits change their sign when it is the second.
//!
//! # Windows
//! A digit is the sum of +-2^k over the bits k of its window: an odd number.
//!
//! # The comb
//! All 256 bits are laid out in eight rows of 32, row by row; each of the 32 columns asks for a sum
//! of +-2^(32 row) P. Of these sums a table holds the 128 that have the highest row positive; the
//! others are their opposites.
//!
//! Variable time: for public data only.

use super::field::sub_limbs;
use super::verify::N;

/// Bits of a scalar that are written with digits.
pub(super) const BITS: usize = 256;

/// Rows of the comb, and of them those whose sign chooses in a table.
pub(super) const ROWS: usize = 8;
pub(super) const CHOOSING_ROWS: usize = ROWS - 1;
pub(super) const COLUMNS: usize = BITS / ROWS;

/// What a column asks for: the place of its point in the half's table, and whether the opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) place: u8,
    pub(super) is_negative: bool,
}

/// An odd number below 2^256, words from the lowest, and whether it stands for its opposite.
#[derive(Clone, Copy)]
pub(super) struct Odd {
    /// Half of it, with bit 255 set: bit i says whether 2^i is added or taken away.
    signs: [u64; 5],
    is_negative: bool,
}

impl Odd {
    /// Of a scalar in 1..n.
    pub(super) fn new(scalar: &[u64; 4]) -> Self {
        let is_negative = scalar[0] & 1 == 0;
        let [a, b, c, d] = if is_negative { sub_limbs(&N, scalar).0 } else { *scalar };
        let signs = [a >> 1 | b << 63, b >> 1 | c << 63, c >> 1 | d << 63, d >> 1 | 1 << 63, 0];
        Self { signs, is_negative }
    }

    /// The digit of the `count` bits from `place` up: the place of its odd number in a table, and
    /// whether it is negative.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "masked to at most sixteen bits")]
    pub(super) fn digit(&self, place: usize, count: usize) -> (usize, bool) {
        let (word, shift) = (place / 64, place % 64);
        let wide = u128::from(self.signs[word + 1]) << 64 | u128::from(self.signs[word]);
        let bits = (wide >> shift) as usize & ((1 << count) - 1);
        let half = 1 << (count - 1);
        if bits >= half {
            (bits - half, self.is_negative)
        } else {
            (half - 1 - bits, !self.is_negative)
        }
    }

    /// What each column of the comb of a known key asks for.
    #[inline]
    pub(super) fn columns(&self) -> [Column; COLUMNS] {
        let mut columns = [Column { place: 0, is_negative: false }; COLUMNS];
        for (part, columns) in columns.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // Byte `part` of each of the eight rows, which are half words.
            let mut square = 0;
            for (pair, word) in self.signs[..4].iter().enumerate() {
                let (even, odd) = (word >> (8 * part) & 0xff, word >> (8 * part + 32) & 0xff);
                square |= even << (16 * pair) | odd << (16 * pair + 8);
            }
            for (column, bits) in columns.iter_mut().zip(turned(square).to_le_bytes()) {
                let is_positive = bits >> CHOOSING_ROWS == 1;
                let place = if is_positive { bits } else { !bits } & ((1 << CHOOSING_ROWS) - 1);
                *column = Column { place, is_negative: is_positive == self.is_negative };
            }
        }
        columns
    }
}

/// Bit j of byte i comes to be bit i of byte j (H. S. Warren, Hacker's Delight, 7-3).
const fn turned(mut square: u64) -> u64 {
    let swap = (square ^ square >> 7) & 0x00aa_00aa_00aa_00aa;
    square ^= swap ^ swap << 7;
    let swap = (square ^ square >> 14) & 0x0000_cccc_0000_cccc;
    square ^= swap ^ swap << 14;
    let swap = (square ^ square >> 28) & 0x0000_0000_f0f0_f0f0;
    square ^ swap ^ swap << 28
}
