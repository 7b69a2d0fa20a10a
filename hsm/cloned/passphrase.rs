//! From a passphrase to the key of a share: PBKDF2 with HMAC-SM3 (`crypto/pbkdf2.rs`).

use hufu_crypto::{Sm4Key, pbkdf2};
use zeroize::Zeroizing;

use crate::pin::Pin;

/// Rounds of new shares: about half a second.
pub(super) const ROUNDS: u32 = 400_000;

/// Rounds that a share's file may ask for: a hostile one must not keep the host busy for long.
pub(super) const ROUNDS_MAX: u32 = 4_000_000;

/// Bytes of a salt.
pub(super) const SALT_BYTES: usize = 16;

/// The SM4 key that follows from a passphrase. It seals one thing only: each has its own salt.
pub(super) fn key(passphrase: &Pin, salt: &[u8; SALT_BYTES], rounds: u32) -> Sm4Key {
    let mut key = Zeroizing::new([0; 16]);
    pbkdf2(passphrase.bytes(), salt, rounds, &mut *key);
    Sm4Key::from_bytes(&key)
}
