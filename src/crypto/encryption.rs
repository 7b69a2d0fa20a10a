//! SM2 encryption to a public key (GB/T 32918.4-2016), in the order C1 || C3 || C2.
//!
//! ```text
//! encrypt: k -> C1 = [k]G; (x2, y2) = [k]P; C2 = M xor KDF(x2 || y2); C3 = SM3(x2 || M || y2)
//! decrypt: (x2, y2) = [d]C1; M = C2 xor KDF(x2 || y2); nothing is given out unless C3 is right
//! ```
//!
//! For keys and short texts. Constant time in k and d and in what is encrypted, but for its size. A
//! recipient learns that a ciphertext was refused and never why, so nobody can ask him bit by bit.

#[cfg(test)]
mod tests;

use hufu_kernels::{Backend, secret};
use zeroize::Zeroizing;

use crate::der::{self, CipherParts, DerError, DerFault};
use crate::digest::{Sm3, decode_hex};
use crate::kdf;
use crate::keys::PublicKey;
use crate::{Drbg, Error, SoftwareSigner};
use hufu_kernels::sm2::{multiply, multiply_base};

/// Bytes of a plaintext at most: whoever has more encrypts it with SM4 and the key with SM2.
pub const PLAINTEXT_SIZE_MAX: usize = 16 << 20;

/// Bytes in front of C2 in the plain form: the mark of an uncompressed point, C1, C3.
const HEAD_SIZE: usize = 1 + 64 + 32;

/// The mark of an uncompressed point (GB/T 32918.1-2016 4.2.9).
const UNCOMPRESSED: u8 = 4;

/// Draws of k before giving up: one does not do with a probability of 2^-32, or 2^-8 for a
/// plaintext of a single byte.
const DRAWS_MAX: u32 = 128;

/// A ciphertext. That it came from anyone in particular is not said: SM2 encryption signs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ciphertext {
    /// C1, not known to be on the curve.
    point: [u8; 64],
    /// C3.
    hash: [u8; 32],
    /// C2, as long as the plaintext.
    text: Vec<u8>,
}

impl Ciphertext {
    /// Bytes of the plaintext.
    #[must_use]
    pub fn plaintext_size(&self) -> usize {
        self.text.len()
    }

    /// 04 || x1 || y1 || C3 || C2 (GB/T 32918.4-2016 6.1 step A8).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[UNCOMPRESSED], self.point.as_slice(), &self.hash, &self.text].concat()
    }

    /// Reads 04 || x1 || y1 || C3 || C2.
    ///
    /// # Errors
    /// [`Error::CiphertextEncoding`] if a part is missing or the point is not uncompressed,
    /// [`Error::PlaintextSize`] if nothing or too much is encrypted.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let cut = DerError { part: "C1, C3 and C2", fault: DerFault::CutShort };
        let (head, text) =
            bytes.split_at_checked(HEAD_SIZE).ok_or(Error::CiphertextEncoding(cut))?;
        let (mark, head) = head.split_at(1);
        if mark != [UNCOMPRESSED] {
            let fault = DerFault::Tag { found: mark[0], expected: UNCOMPRESSED };
            return Err(Error::CiphertextEncoding(DerError { part: "C1", fault }));
        }
        let mut parts = CipherParts { point: [0; 64], hash: [0; 32], text };
        parts.point.copy_from_slice(&head[..64]);
        parts.hash.copy_from_slice(&head[64..]);
        Self::from_parts(&parts)
    }

    /// The DER text of GM/T 0009-2012 7.2.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        der::write_cipher(&CipherParts { point: self.point, hash: self.hash, text: &self.text })
    }

    /// Reads the DER text of GM/T 0009-2012 7.2.
    ///
    /// # Errors
    /// [`Error::CiphertextEncoding`] with what is wrong, [`Error::PlaintextSize`] if nothing or too
    /// much is encrypted.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        Self::from_parts(&der::read_cipher(der).map_err(Error::CiphertextEncoding)?)
    }

    fn from_parts(parts: &CipherParts<'_>) -> Result<Self, Error> {
        check_size(parts.text.len())?;
        Ok(Self { point: parts.point, hash: parts.hash, text: parts.text.to_vec() })
    }
}

/// Encrypts to the holder of the private key of `key`.
///
/// # Errors
/// [`Error::PlaintextSize`] unless there are 1 to [`PLAINTEXT_SIZE_MAX`] bytes,
/// [`Error::PublicKeyInvalid`] if the key is no point of the curve, and those of the generator.
pub fn encrypt(
    backend: Backend,
    generator: &mut Drbg,
    key: &PublicKey,
    plaintext: &[u8],
) -> Result<Ciphertext, Error> {
    check_size(plaintext.len())?;
    if !crate::is_curve_point(key) {
        return Err(Error::PublicKeyInvalid);
    }
    // Hedged: a generator whose state came twice would otherwise encrypt two texts with one pad.
    let bound = Zeroizing::new(Sm3::of(&[plaintext]).0);
    let whose = Sm3::of(&[&key.0]);
    for _ in 0..DRAWS_MAX {
        let scalar = generator.nonce(&bound, &whose.0)?;
        let ciphertext = encrypt_with(backend, &scalar, key, plaintext);
        secret::wipe_stack();
        if let Some(ciphertext) = ciphertext {
            return Ok(ciphertext);
        }
    }
    Err(Error::NoScalar)
}

/// GB/T 32918.4-2016 6.1 steps A2 to A8 with the k given; `None` if it does not do. Leaves copies
/// on the stack, which the caller overwrites.
#[inline(never)]
fn encrypt_with(
    backend: Backend,
    scalar: &[u8; 32],
    key: &PublicKey,
    plaintext: &[u8],
) -> Option<Ciphertext> {
    // Step A2. Step A3 asks whether [h]P is at infinity: h is 1, and no public key is.
    let point = multiply_base(backend, scalar)?;
    // Step A4.
    let shared = Zeroizing::new(multiply(backend, scalar, &key.0)?);
    // Steps A5 and A6.
    let mut text = Zeroizing::new(plaintext.to_vec());
    if !apply_pad(backend, &shared, &mut text) {
        return None;
    }
    let text = core::mem::take(&mut *text);
    // Step A7.
    Some(Ciphertext { point, hash: check_value(&shared, plaintext), text })
}

impl SoftwareSigner {
    /// Decrypts what was encrypted to this key's public key (GB/T 32918.4-2016 7.1).
    ///
    /// # Errors
    /// [`Error::CiphertextRejected`] whatever is wrong with it: nothing of the plaintext is given
    /// out before C3 is right.
    pub fn decrypt(
        &self,
        backend: Backend,
        ciphertext: &Ciphertext,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let decrypted = decrypt_with(backend, &self.private_bytes(), ciphertext);
        secret::wipe_stack();
        decrypted
    }
}

/// Leaves copies on the stack, which the caller overwrites.
#[inline(never)]
fn decrypt_with(
    backend: Backend,
    private: &[u8; 32],
    ciphertext: &Ciphertext,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Steps B1 to B3: a C1 that is no point of the curve has no multiple.
    let shared = multiply(backend, private, &ciphertext.point).ok_or(Error::CiphertextRejected)?;
    let shared = Zeroizing::new(shared);
    // Steps B4 and B5.
    let mut text = Zeroizing::new(ciphertext.text.clone());
    let is_padded = apply_pad(backend, &shared, &mut text);
    // Step B6.
    let is_right = kdf::equal(&check_value(&shared, &text), &ciphertext.hash);
    if is_padded & is_right { Ok(text) } else { Err(Error::CiphertextRejected) }
}

/// Adds KDF(x2 || y2) to `text`; false if all of it is zero, which would hide nothing.
fn apply_pad(backend: Backend, shared: &[u8; 64], text: &mut [u8]) -> bool {
    let mut pad = Zeroizing::new(vec![0; text.len()]);
    kdf::derive(backend, shared, &[], &mut pad);
    let mut any = 0;
    for (byte, pad) in text.iter_mut().zip(pad.iter()) {
        *byte ^= pad;
        any |= pad;
    }
    core::hint::black_box(any) != 0
}

/// C3 = SM3(x2 || M || y2).
fn check_value(shared: &[u8; 64], plaintext: &[u8]) -> [u8; 32] {
    let (x, y) = shared.split_at(32);
    Sm3::of(&[x, plaintext, y]).0
}

const fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes == 0 || bytes > PLAINTEXT_SIZE_MAX {
        return Err(Error::PlaintextSize { bytes });
    }
    Ok(())
}

/// C3 and C2 of GB/T 32918.5-2017 annex C.2, made and opened again, and refused when changed.
pub(crate) fn known_answer(
    backend: Backend,
    private: &[u8; 32],
    scalar: &[u8; 32],
    key: &PublicKey,
) -> Result<(), ()> {
    const HASH: &str = "59983c18f809e262923c53aec295d30383b54e39d609d160afcb1908d0bd8766";
    const TEXT: &str = "21886ca989ca9c7d58087307ca93092d651efa";
    let plaintext = b"encryption standard";
    let (mut hash, mut text) = ([0; 32], [0; 19]);
    decode_hex(HASH, &mut hash).and_then(|()| decode_hex(TEXT, &mut text)).ok_or(())?;
    let mut made = encrypt_with(backend, scalar, key, plaintext).ok_or(())?;
    let opened = decrypt_with(backend, private, &made).map_err(drop)?;
    let is_right = made.hash == hash && made.text == text && opened.as_slice() == plaintext;
    made.hash[0] ^= 1;
    let is_refused = decrypt_with(backend, private, &made).is_err();
    if is_right && is_refused { Ok(()) } else { Err(()) }
}
