//! From a PIN to a key: PBKDF2 (RFC 8018 5.2) with HMAC-SM3, one block of output.

use hufu_crypto::pbkdf2;
use zeroize::Zeroizing;

/// 16 bytes that follow from the PIN, and from nothing that is quicker than `rounds` turns.
pub(super) fn derive(pin: &[u8], salt: &[u8; 16], rounds: u32) -> Zeroizing<[u8; 16]> {
    let mut key = Zeroizing::new([0; 16]);
    // The count is read from the store; none is a store that opens nothing.
    pbkdf2(pin, salt, rounds.max(1), &mut *key);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

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
