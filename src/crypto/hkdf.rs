//! HKDF with SM3 (RFC 5869): keys from a secret that is long enough but not a key itself, or many
//! keys from one.

use hufu_kernels::secret::wipe_stack;
use zeroize::Zeroizing;

use crate::hmac::Hmac;

/// Bytes of a digest of SM3.
const DIGEST_SIZE: usize = 32;

/// Most bytes that one derivation gives (RFC 5869 2.3).
pub const OUTPUT_BYTES_MAX: usize = 255 * DIGEST_SIZE;

/// Fills `out` with key bytes from `secret`. The salt need not be secret and may be empty; `info`
/// says what the key is for, and other words give an unrelated key. Constant time in the secret,
/// but for its length.
///
/// # Panics
/// If `out` is longer than [`OUTPUT_BYTES_MAX`], which only our own mistake can bring about.
pub fn hkdf(salt: &[u8], secret: &[u8], info: &[u8], out: &mut [u8]) {
    assert!(out.len() <= OUTPUT_BYTES_MAX, "one derivation gives 8,160 bytes at most");
    derive(salt, secret, info, out);
    wipe_stack();
}

/// Leaves copies on the stack, which the caller overwrites.
#[inline(never)]
fn derive(salt: &[u8], secret: &[u8], info: &[u8], out: &mut [u8]) {
    // An absent salt is 32 zero bytes (RFC 5869 2.2), and HMAC fills a key up with zeros anyway.
    let mut extract = Hmac::new(salt);
    extract.update(secret);
    let key = Zeroizing::new(extract.finish().0);
    let begun = Hmac::new(&*key);
    let mut block = Zeroizing::new([0; DIGEST_SIZE]);
    for (counter, piece) in (1_u8..=u8::MAX).zip(out.chunks_mut(DIGEST_SIZE)) {
        let mut expand = begun.clone();
        if counter > 1 {
            expand.update(&*block);
        }
        expand.update(info);
        expand.update(&[counter]);
        *block = expand.finish().0;
        piece.copy_from_slice(&block[..piece.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_output_is_the_start_of_a_longer_one() {
        let mut longest = vec![0; OUTPUT_BYTES_MAX];
        hkdf(b"salt", b"secret", b"info", &mut longest);
        for size in [0, 1, 31, 32, 33, 64, 100, OUTPUT_BYTES_MAX] {
            let mut out = vec![0; size];
            hkdf(b"salt", b"secret", b"info", &mut out);
            assert_eq!(out, longest[..size]);
        }
    }

    #[test]
    fn every_input_matters_and_no_salt_is_a_salt_of_zeros() {
        let derived = |salt: &[u8], secret: &[u8], info: &[u8]| {
            let mut out = [0; 40];
            hkdf(salt, secret, info, &mut out);
            out
        };
        let first = derived(b"salt", b"secret", b"info");
        assert_ne!(first, derived(b"salz", b"secret", b"info"));
        assert_ne!(first, derived(b"salt", b"secreu", b"info"));
        assert_ne!(first, derived(b"salt", b"secret", b"inf"));
        assert_eq!(derived(b"", b"secret", b""), derived(&[0; 32], b"secret", b""));
    }

    #[test]
    #[should_panic(expected = "at most")]
    fn more_than_one_derivation_gives_is_our_own_mistake() {
        hkdf(b"", b"", b"", &mut [0; OUTPUT_BYTES_MAX + 1]);
    }
}
