//! From a passphrase to a key: PBKDF2 (RFC 8018 5.2) with HMAC-SM3.

use hufu_crypto::{Hmac, Sm4Key};
use zeroize::Zeroizing;

use crate::pin::Pin;

/// Rounds of new shares: about half a second.
pub(super) const ROUNDS: u32 = 400_000;

/// Rounds that a share's file may ask for: a hostile one must not keep the host busy for long.
pub(super) const ROUNDS_MAX: u32 = 4_000_000;

/// Bytes of a salt.
pub(super) const SALT_BYTES: usize = 16;

/// Bytes of a block of the derivation.
const BLOCK_BYTES: usize = 32;

/// The SM4 key that follows from a passphrase. It seals one thing only: each has its own salt.
pub(super) fn key(passphrase: &Pin, salt: &[u8; SALT_BYTES], rounds: u32) -> Sm4Key {
    let derived = derive(passphrase.bytes(), salt, rounds);
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(&derived[..16]);
    Sm4Key::from_bytes(&key)
}

/// The first block of PBKDF2.
fn derive(passphrase: &[u8], salt: &[u8], rounds: u32) -> Zeroizing<[u8; BLOCK_BYTES]> {
    let begun = Hmac::new(passphrase);
    let of = |parts: &[&[u8]]| {
        let mut mac = begun.clone();
        parts.iter().for_each(|part| mac.update(part));
        Zeroizing::new(mac.finish().0)
    };
    let mut turn = of(&[salt, &1_u32.to_be_bytes()]);
    let mut sum = turn.clone();
    for _ in 1..rounds {
        turn = of(&[&*turn]);
        for (sum, turn) in sum.iter_mut().zip(turn.iter()) {
            *sum ^= turn;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked against OpenSSL 3.0: `openssl kdf -keylen 16 -kdfopt digest:SM3 -kdfopt pass:1234
    /// -kdfopt hexsalt:000102030405060708090a0b0c0d0e0f -kdfopt iter:1000 PBKDF2`.
    #[test]
    fn the_derivation_is_pbkdf2() {
        let salt: [u8; 16] = core::array::from_fn(|place| u8::try_from(place).unwrap());
        let derived = derive(b"1234", &salt, 1_000);
        let text: String = derived.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "9710e989a0ade6433b2fea18eb03edc0");
        assert_ne!(*derived, *derive(b"1234", &salt, 999));
        assert_ne!(*derived, *derive(b"1235", &salt, 1_000));
    }
}
