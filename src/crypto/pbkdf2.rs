//! PBKDF2 with HMAC-SM3 (RFC 8018 5.2, GM/T 0091-2020): a key from a passphrase, made dear for
//! whoever tries passphrases.

use hufu_kernels::secret::wipe_stack;
use zeroize::Zeroizing;

use crate::hmac::Hmac;

/// Bytes of one block of output.
const BLOCK_SIZE: usize = 32;

/// Fills `out` with key bytes from a passphrase; `iterations` HMACs for each 32 bytes. Constant
/// time in the passphrase, but for its length.
///
/// # Panics
/// If there are no iterations, which callers check.
pub fn pbkdf2(passphrase: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
    assert!(iterations > 0, "there is a first iteration");
    derive(passphrase, salt, iterations, out);
    wipe_stack();
}

/// Leaves copies on the stack, which the caller overwrites.
#[inline(never)]
fn derive(passphrase: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
    let begun = Hmac::new(passphrase);
    for (number, piece) in (1_u32..).zip(out.chunks_mut(BLOCK_SIZE)) {
        let mut first = begun.clone();
        first.update(salt);
        first.update(&number.to_be_bytes());
        let mut last = Zeroizing::new(first.finish().0);
        let mut block = last.clone();
        for _ in 1..iterations {
            let mut next = begun.clone();
            next.update(&*last);
            *last = next.finish().0;
            for (byte, other) in block.iter_mut().zip(&*last) {
                *byte ^= other;
            }
        }
        piece.copy_from_slice(&block[..piece.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(passphrase: &[u8], salt: &[u8], iterations: u32, size: usize) -> String {
        let mut out = vec![0; size];
        pbkdf2(passphrase, salt, iterations, &mut out);
        out.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Derived with OpenSSL 3.0: `openssl kdf -keylen N -kdfopt digest:SM3 -kdfopt pass:P
    /// -kdfopt hexsalt:S -kdfopt iter:I -binary PBKDF2`.
    #[test]
    fn the_answers_of_openssl() {
        let salt: Vec<u8> = (0..16).collect();
        assert_eq!(derived(b"password", &salt, 1_000, 16), VECTORS[0]);
        assert_eq!(derived(b"password", &salt, 1_001, 16), VECTORS[1]);
        let long: Vec<u8> = b"0123456789".repeat(7);
        assert_eq!(derived(&long, &salt, 1_000, 80), VECTORS[2]);
    }

    const VECTORS: [&str; 3] = [
        "304c324b5c73584d3af229f224b9c0c2",
        "5099118e430506a271cd9d07ffb1e4fe",
        "2a6c40e7391928bf2913a35b7f13548002ab37b114c423253889ca002bcfdf2e6a5c0c02fb69bdda\
         c5ed76e4834bc8e536c91842df772d8135c528f2c85ae81ac7446adb43736d1299348a80572a4d4b",
    ];

    #[test]
    #[should_panic(expected = "first iteration")]
    fn no_iteration_is_our_own_mistake() {
        pbkdf2(b"p", b"salt", 0, &mut [0; 16]);
    }
}
