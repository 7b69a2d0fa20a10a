//! From a PIN to a key: PBKDF2 (RFC 8018 5.2) with HMAC-SM3, one block of output.

use hufu_crypto::Sm3;
use zeroize::Zeroizing;

const BLOCK_SIZE: usize = 64;

/// HMAC-SM3 under one key, whose two pads are hashed once.
struct Mac {
    inner: Sm3,
    outer: Sm3,
}

impl Drop for Mac {
    fn drop(&mut self) {
        // What was hashed of the PIN is as good as the PIN.
        (self.inner, self.outer) = (Sm3::new(), Sm3::new());
        core::hint::black_box(self);
    }
}

impl Mac {
    fn new(key: &[u8]) -> Self {
        let mut padded = Zeroizing::new([0; BLOCK_SIZE]);
        if key.len() > BLOCK_SIZE {
            padded[..32].copy_from_slice(&Sm3::of(&[key]).0);
        } else {
            padded[..key.len()].copy_from_slice(key);
        }
        let start = |mask: u8| {
            let pad = Zeroizing::new(padded.map(|byte| byte ^ mask));
            let mut hasher = Sm3::new();
            hasher.update(&*pad);
            hasher
        };
        Self { inner: start(0x36), outer: start(0x5c) }
    }

    fn of(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut inner = self.inner.clone();
        parts.iter().for_each(|part| inner.update(part));
        let mut outer = self.outer.clone();
        outer.update(&inner.finish().0);
        outer.finish().0
    }
}

/// 16 bytes that follow from the PIN, and from nothing that is quicker than `rounds` turns.
pub(super) fn derive(pin: &[u8], salt: &[u8; 16], rounds: u32) -> Zeroizing<[u8; 16]> {
    let mac = Mac::new(pin);
    let mut turn = Zeroizing::new(mac.of(&[salt, &1_u32.to_be_bytes()]));
    let mut sum = turn.clone();
    for _ in 1..rounds {
        *turn = mac.of(&[&*turn]);
        for (sum, turn) in sum.iter_mut().zip(turn.iter()) {
            *sum ^= turn;
        }
    }
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(&sum[..16]);
    key
}

#[cfg(test)]
mod tests {
    use hufu_crypto::hmac;

    use super::*;

    #[test]
    fn the_mac_is_hmac_sm3() {
        for key in [&b""[..], b"key", &[9; 64], &[9; 65], &[9; 200]] {
            assert_eq!(Mac::new(key).of(&[b"a", b"bc"]), hmac(key, &[b"abc"]).0);
        }
    }

    /// Checked against OpenSSL 3.0: `openssl kdf -keylen 16 -kdfopt digest:SM3 -kdfopt pass:1234
    /// -kdfopt hexsalt:000102030405060708090a0b0c0d0e0f -kdfopt iter:1000 PBKDF2`.
    #[test]
    fn the_derivation_is_pbkdf2() {
        let salt = core::array::from_fn(|place| u8::try_from(place).unwrap());
        let derived = derive(b"1234", &salt, 1_000);
        let text: String = derived.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "9710e989a0ade6433b2fea18eb03edc0");
        assert_ne!(*derived, *derive(b"1234", &salt, 999));
        assert_ne!(*derived, *derive(b"1235", &salt, 1_000));
    }
}
