//! A secret split into shares, of which any `needed` give it back and fewer tell nothing (Shamir,
//! "How to Share a Secret", Communications of the ACM 22(11), 1979).
//!
//! ```text
//! secret byte = f(0), f of degree needed - 1 with random coefficients over GF(2^8)
//! share i     = f(i), i = 1, 2, ...            any `needed` of them --Lagrange at 0--> secret byte
//! ```
//!
//! The field is that of AES (FIPS 197 4.2: x^8 + x^4 + x^3 + x + 1). Everything is constant time in
//! secret, coefficients and shares: products are shifts and masks without a table. Indices and
//! counts are public. Shares carry no integrity: who keeps them must see that they are genuine.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::drbg::Drbg;
use crate::{Entropy, Error};

/// The field's polynomial without x^8 (FIPS 197 4.2).
const POLYNOMIAL: u8 = 0x1b;

/// Bytes that one draw of the generator gives at most in here.
const DRAW_BYTES: usize = 256;

/// One share. It tells nothing alone; `needed` of them are the secret, so each is treated as one:
/// no `Debug`, no copy, overwritten when dropped.
pub struct Share<const BYTES: usize> {
    /// Where the polynomials are taken: 1 to 255, public.
    pub index: u8,
    /// Their values.
    pub value: Zeroizing<[u8; BYTES]>,
}

/// Why a secret is not split or not joined.
#[derive(Debug, thiserror::Error)]
pub enum ShamirError {
    /// One share that is enough would be the secret, and more cannot be needed than there are.
    #[error("{needed} of {count} shares: at least 2 are needed, and no more than there are")]
    Counts {
        /// Shares that are to give the secret.
        needed: u8,
        /// Shares there are to be.
        count: u8,
    },
    /// The secret does not follow from so few.
    #[error("{given} shares, {needed} are needed")]
    TooFew {
        /// How many there are.
        given: usize,
        /// How many there must be.
        needed: u8,
    },
    /// The same share twice.
    #[error("share {index} is there twice")]
    Duplicate {
        /// Which.
        index: u8,
    },
    /// At 0 stands the secret, and no share.
    #[error("a share has index 0")]
    Zero,
    /// There is no randomness.
    #[error(transparent)]
    Generator(#[from] Error),
}

/// Splits `secret` into `count` shares with the indices 1, 2, ..., of which any `needed` give it
/// back. Constant time in the secret.
///
/// # Errors
/// [`ShamirError::Counts`], and what the source of entropy says.
pub fn split<const BYTES: usize>(
    secret: &[u8; BYTES],
    needed: u8,
    count: u8,
    source: Arc<dyn Entropy>,
) -> Result<Vec<Share<BYTES>>, ShamirError> {
    if needed < 2 || needed > count {
        return Err(ShamirError::Counts { needed, count });
    }
    let mut generator = Drbg::new(source, "hufu shamir")?;
    // Coefficients of x, x^2, ...; the secret is that of 1.
    let mut coefficients = Vec::with_capacity(usize::from(needed) - 1);
    for _ in 1..needed {
        let mut drawn = Zeroizing::new([0; BYTES]);
        for part in drawn.chunks_mut(DRAW_BYTES) {
            generator.fill(part)?;
        }
        coefficients.push(drawn);
    }
    let share = |index| Share { index, value: value_at(secret, &coefficients, index) };
    Ok((1..=count).map(share).collect())
}

/// The polynomials' values at `index`, by Horner's rule. Constant time in all but the index.
fn value_at<const BYTES: usize>(
    secret: &[u8; BYTES],
    coefficients: &[Zeroizing<[u8; BYTES]>],
    index: u8,
) -> Zeroizing<[u8; BYTES]> {
    let mut value = Zeroizing::new([0; BYTES]);
    for coefficient in coefficients.iter().rev() {
        for (value, coefficient) in value.iter_mut().zip(coefficient.iter()) {
            *value = product(*value ^ coefficient, index);
        }
    }
    for (value, secret) in value.iter_mut().zip(secret) {
        *value ^= secret;
    }
    value
}

/// The secret that `shares` are of. With shares that are not genuine another secret comes out, and
/// nothing here can tell. Constant time in the shares' values.
///
/// # Errors
/// [`ShamirError::TooFew`], [`ShamirError::Duplicate`], [`ShamirError::Zero`].
pub fn join<const BYTES: usize>(
    needed: u8,
    shares: &[Share<BYTES>],
) -> Result<Zeroizing<[u8; BYTES]>, ShamirError> {
    for (place, share) in shares.iter().enumerate() {
        if share.index == 0 {
            return Err(ShamirError::Zero);
        }
        if shares.iter().take(place).any(|earlier| earlier.index == share.index) {
            return Err(ShamirError::Duplicate { index: share.index });
        }
    }
    let used = shares.get(..usize::from(needed));
    let used = used.ok_or(ShamirError::TooFew { given: shares.len(), needed })?;
    let mut secret = Zeroizing::new([0; BYTES]);
    for share in used {
        let weight = weight_at_zero(share.index, used.iter().map(|share| share.index));
        for (secret, value) in secret.iter_mut().zip(share.value.iter()) {
            *secret ^= product(*value, weight);
        }
    }
    Ok(secret)
}

/// Lagrange's coefficient of `index` at 0: the product of j / (j - index) over the other indices j.
/// Of public numbers only.
fn weight_at_zero(index: u8, all: impl Iterator<Item = u8>) -> u8 {
    let others = all.filter(|other| *other != index);
    others.fold(1, |weight, other| product(weight, product(other, inverse(other ^ index))))
}

/// The product in the field. Constant time.
fn product(left: u8, right: u8) -> u8 {
    let (mut sum, mut left) = (0, left);
    for place in 0..8 {
        // All ones where the bit is set; hidden from a compiler that would make a branch of it.
        let take = core::hint::black_box(0_u8.wrapping_sub((right >> place) & 1));
        sum ^= left & take;
        let reduce = core::hint::black_box(0_u8.wrapping_sub(left >> 7));
        left = (left << 1) ^ (POLYNOMIAL & reduce);
    }
    sum
}

/// 1 / number, which is its 254th power; 0 for 0. Constant time.
fn inverse(number: u8) -> u8 {
    let mut power = number;
    // 254 is 11111110 in binary: six times square and multiply, then one square.
    for _ in 0..6 {
        power = product(product(power, power), number);
    }
    product(power, power)
}

#[cfg(test)]
mod tests;
