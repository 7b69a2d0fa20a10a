//! HMAC with SM3 (RFC 2104, GB/T 15852.2-2012 7): proves that a message came from who has the key.
//!
//! Constant time in the key, but for its length.

use core::fmt;

use zeroize::Zeroizing;

use crate::digest::{Digest, Sm3};

/// Bytes of a block of SM3, over which the key is spread.
const BLOCK_SIZE: usize = 64;

/// What the two hashes begin with (RFC 2104 2).
const INNER_PAD: u8 = 0x36;
const OUTER_PAD: u8 = 0x5c;

/// HMAC of one message in pieces: `new`, any number of `update`, `finish`. What it holds is worth
/// as much as the key: overwritten when dropped, never printed.
#[derive(Clone)]
pub struct Hmac {
    inner: Sm3,
    outer: Sm3,
}

impl Hmac {
    /// Begins with a key of any length; one longer than 64 bytes is hashed first.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        let mut block = Zeroizing::new([0; BLOCK_SIZE]);
        if key.len() > BLOCK_SIZE {
            let digest = Zeroizing::new(Sm3::of(&[key]).0);
            block[..digest.len()].copy_from_slice(&*digest);
        } else {
            block[..key.len()].copy_from_slice(key);
        }
        let begun = |pad: u8| {
            let mut hasher = Sm3::new();
            hasher.update(&*Zeroizing::new(block.map(|byte| byte ^ pad)));
            hasher
        };
        Self { inner: begun(INNER_PAD), outer: begun(OUTER_PAD) }
    }

    /// Adds bytes to the message.
    pub fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
    }

    /// The MAC of all bytes seen. Compare it with one that was received by [`Hmac::verify`] only.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        let inner = self.inner.finish_and_wipe();
        self.outer.update(&inner.0);
        self.outer.finish_and_wipe()
    }

    /// Whether the MAC of all bytes seen is `expected`; constant time.
    #[must_use]
    pub fn verify(self, expected: &Digest) -> bool {
        let pairs = self.finish().0.into_iter().zip(expected.0);
        let different = pairs.fold(0, |found, (left, right)| found | (left ^ right));
        core::hint::black_box(different) == 0
    }
}

impl Drop for Hmac {
    fn drop(&mut self) {
        self.inner.wipe();
        self.outer.wipe();
    }
}

impl fmt::Debug for Hmac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Hmac")
    }
}

/// HMAC-SM3 of the parts, one after the other.
#[must_use]
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> Digest {
    let mut hmac = Hmac::new(key);
    for part in parts {
        hmac.update(part);
    }
    hmac.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GM/T 0042-2015 D.3.
    #[test]
    fn the_examples_of_the_standard() {
        let key: Vec<u8> = (1..=32).collect();
        let message = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        let wanted = "ca05e144ed05d1857840d1f318a4a8669e559fc8391f414485bfdf7bb408963a";
        assert_eq!(hmac(&key, &[message, message]).to_string(), wanted);
        let key: Vec<u8> = (1..=37).collect();
        let wanted = "220bf579ded555393f0159f66c99877822a3ecf610d1552154b41d44b94db3ae";
        assert_eq!(hmac(&key, &[&[0xcd; 50]]).to_string(), wanted);
    }

    #[test]
    fn keys_longer_than_a_block_are_hashed() {
        let key = [7; 65];
        assert_eq!(hmac(&key, &[b"m"]), hmac(&Sm3::of(&[&key]).0, &[b"m"]));
        assert_ne!(hmac(&key[..64], &[b"m"]), hmac(&Sm3::of(&[&key[..64]]).0, &[b"m"]));
    }

    #[test]
    fn only_the_right_mac_verifies() {
        let right = hmac(b"key", &[b"message"]);
        let mut begun = Hmac::new(b"key");
        begun.update(b"message");
        assert!(begun.clone().verify(&right));
        for bit in 0..256 {
            let mut wrong = right;
            wrong.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!begun.clone().verify(&wrong), "bit {bit}");
        }
    }
}
