//! GHASH (SP 800-38D 6.4): a polynomial over GF(2^128) at the point H; constant time.
//!
//! A block is a number whose highest bit is the coefficient of x^0: products come out mirrored and
//! one place too low.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod portable;

use super::{BLOCK_SIZE, Block, instructions, wipe};
use crate::Backend;
use crate::backend::Instructions;

/// The hash key H in the form of one back end; overwritten when dropped.
#[allow(clippy::large_enum_variant, reason = "nothing is allocated here")]
pub(super) enum Key {
    Portable(portable::Point),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Powers),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Powers),
}

impl Key {
    /// The key for H, the encrypted zero block.
    pub(super) fn new(backend: Backend, point: &Block) -> Self {
        let point = u128::from_be_bytes(*point);
        match instructions(backend) {
            Instructions::Portable => Self::Portable(portable::Point::new(point)),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => {
                // SAFETY: the CPU was asked for AVX2 and PCLMULQDQ.
                Self::Avx2(unsafe { avx2::Powers::new(point) })
            }
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => {
                // SAFETY: the CPU was asked for AVX-512 F and BW, GFNI and VPCLMULQDQ.
                Self::Avx512(unsafe { avx512::Powers::new(point) })
            }
        }
    }

    /// Hashes bytes, with zeros up to a whole block, behind what `sum` has seen.
    pub(super) fn update_padded(&self, sum: &mut u128, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_SIZE>();
        self.update(sum, blocks);
        if !rest.is_empty() {
            let mut block = [0; BLOCK_SIZE];
            block[..rest.len()].copy_from_slice(rest);
            self.update(sum, &[block]);
        }
    }

    /// Hashes blocks behind what `sum` has seen: the gate.
    pub(super) fn update(&self, sum: &mut u128, blocks: &[Block]) {
        match self {
            Self::Portable(point) => portable::update(point, sum, blocks),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(powers) => {
                // SAFETY: powers of this kind are made only where the CPU has what it needs.
                unsafe { powers.update(sum, blocks) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(powers) => {
                // SAFETY: powers of this kind are made only where the CPU has what it needs.
                unsafe { powers.update(sum, blocks) }
            }
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        match self {
            Self::Portable(point) => wipe(core::slice::from_mut(point)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(powers) => wipe(core::slice::from_mut(powers)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(powers) => wipe(core::slice::from_mut(powers)),
        }
    }
}

/// H x^-1: mirrored products with it are in their place. Constant time.
#[cfg(target_arch = "x86_64")]
const fn point_over_x(point: u128) -> u128 {
    // Where x^0 is one, the polynomial of the field is added, whose x^0 is one too; what is left
    // is divided by x, which shifts a mirrored number up.
    let odd = (point >> 127).wrapping_neg();
    (point << 1) ^ (odd & ((0b1100_0010 << 120) | 1))
}
