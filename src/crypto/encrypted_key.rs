//! Private keys under a passphrase: PKCS#8 `EncryptedPrivateKeyInfo` with the algorithms of the
//! Chinese norms, as GmSSL, Tongsuo and younger OpenSSL read and write them.
//!
//! ```text
//! SEQUENCE {
//!   SEQUENCE { PBES2, SEQUENCE {
//!     SEQUENCE { PBKDF2, SEQUENCE { salt, iterations, [key length], SEQUENCE { HMAC-SM3 } } }
//!     SEQUENCE { SM4-CBC, vector } } }
//!   OCTET STRING the PKCS#8 key, padded and encrypted }
//! ```
//! (RFC 5958 3, RFC 8018 A.4, GM/T 0091-2020.) CBC protects no integrity: what comes out must be an
//! SM2 key, and whoever knows the public key compares it.

use sm2::pkcs8::{LineEnding, SecretDocument};
use zeroize::Zeroizing;

use crate::cipher::{self, BLOCK_SIZE, Sm4Key};
use crate::der::{self, INTEGER, OCTET_STRING, SEQUENCE, write_element, write_integer};
use crate::pbkdf2::pbkdf2;
use crate::{Backend, Drbg, Error, SoftwareSigner};

/// Iterations of a key that is read: below, a passphrase protects nothing; above, a hostile file
/// would keep a node busy for many seconds.
pub const ITERATIONS_MIN: u32 = 1_000;
/// See [`ITERATIONS_MIN`]: some seconds on a slow core.
pub const ITERATIONS_MAX: u32 = 4_000_000;

/// Iterations of a key that is written: a fifth of a second to half a second on one core.
pub const ITERATIONS: u32 = 600_000;

const _: () =
    assert!(ITERATIONS_MIN <= ITERATIONS && ITERATIONS <= ITERATIONS_MAX, "is read again");

/// Bytes of a salt that is written; others may be read.
const SALT_SIZE: usize = 16;
const SALT_SIZES: core::ops::RangeInclusive<usize> = 8..=64;

/// Bytes of an encrypted key at most; ours has 160.
const ENCRYPTED_SIZE_MAX: usize = 4_096;

const LABEL: &str = "ENCRYPTED PRIVATE KEY";
const CLEAR_LABEL: &str = "PRIVATE KEY";

const OBJECT: u8 = 0x06;
const NULL: u8 = 0x05;

/// 1.2.840.113549.1.5.13.
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
/// 1.2.840.113549.1.5.12.
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
/// 1.2.156.10197.1.401.2.
const HMAC_SM3: &[u8] = &[0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x83, 0x11, 2];
/// 1.2.156.10197.1.104.2.
const SM4_CBC: &[u8] = &[0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x68, 2];

/// Whether a PEM text says that it is a key under a passphrase.
#[must_use]
pub fn is_encrypted_pem(text: &str) -> bool {
    text.trim_start().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

impl SoftwareSigner {
    /// The key of a PKCS#8 PEM text under a passphrase.
    ///
    /// # Errors
    /// [`Error::EncryptedKey`], [`Error::EncryptedKeyAlgorithm`], [`Error::EncryptedKeyIterations`]
    /// before anything is computed; [`Error::Passphrase`] if it does not open the key.
    pub fn from_encrypted_pem(text: &str, passphrase: &[u8]) -> Result<Self, Error> {
        let (label, document) =
            SecretDocument::from_pem(text).map_err(|_| Error::PrivateKeyEncoding)?;
        if label != LABEL {
            return Err(Error::PrivateKeyEncoding);
        }
        let sealed = Sealed::read(document.as_bytes())?;
        let mut key = Zeroizing::new(sealed.text.to_vec());
        let derived = derive(passphrase, sealed.salt, sealed.iterations);
        cipher::cbc_decrypt(Backend::best(), &derived, sealed.vector, &mut key)?;
        // One error for all that can be wrong inside: there is nothing more to be told.
        cipher::unpad(&mut key).map_err(|_| Error::Passphrase)?;
        let document = SecretDocument::try_from(key.as_slice()).map_err(|_| Error::Passphrase)?;
        let pem = document.to_pem(CLEAR_LABEL, LineEnding::LF).map_err(|_| Error::Passphrase)?;
        Self::from_pkcs8_pem(&pem).map_err(|_| Error::Passphrase)
    }

    /// This key as a PKCS#8 PEM text under a passphrase, with salt and vector from `random`.
    ///
    /// # Errors
    /// Those of the generator; [`Error::EncryptedKeyIterations`] outside what is read again.
    pub fn to_encrypted_pem(
        &self,
        passphrase: &[u8],
        iterations: u32,
        random: &mut Drbg,
    ) -> Result<String, Error> {
        check_iterations(iterations)?;
        let broken = |_| Error::PrivateKeyEncoding;
        let (_, document) = SecretDocument::from_pem(&self.to_pkcs8_pem()?).map_err(broken)?;
        let (mut salt, mut vector) = ([0; SALT_SIZE], [0; BLOCK_SIZE]);
        random.fill(&mut salt)?;
        random.fill(&mut vector)?;
        // Room for the padding at once: a buffer that grew would leave a copy behind.
        let mut text = Zeroizing::new(Vec::with_capacity(document.as_bytes().len() + BLOCK_SIZE));
        text.extend_from_slice(document.as_bytes());
        cipher::pad(&mut text);
        let derived = derive(passphrase, &salt, iterations);
        cipher::cbc_encrypt(Backend::best(), &derived, &vector, &mut text)?;
        let sealed = Sealed { salt: &salt, iterations, vector: &vector, text: &text };
        let document = SecretDocument::try_from(sealed.write().as_slice()).map_err(broken)?;
        let pem = document.to_pem(LABEL, LineEnding::LF).map_err(broken)?;
        Ok(pem.as_str().to_owned())
    }
}

fn derive(passphrase: &[u8], salt: &[u8], iterations: u32) -> Sm4Key {
    let mut key = Zeroizing::new([0; BLOCK_SIZE]);
    pbkdf2(passphrase, salt, iterations, &mut *key);
    Sm4Key::from_bytes(&key)
}

const fn check_iterations(iterations: u32) -> Result<(), Error> {
    if iterations < ITERATIONS_MIN || iterations > ITERATIONS_MAX {
        return Err(Error::EncryptedKeyIterations { found: iterations });
    }
    Ok(())
}

/// What is written about an encrypted key, and the key.
struct Sealed<'a> {
    salt: &'a [u8],
    iterations: u32,
    vector: &'a [u8; BLOCK_SIZE],
    text: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn read(der: &'a [u8]) -> Result<Self, Error> {
        let mut whole = only(der, SEQUENCE, "encrypted key")?;
        let mut scheme = element(&mut whole, SEQUENCE, "encryption algorithm")?;
        let text = element(&mut whole, OCTET_STRING, "encrypted data")?;
        ended(whole, "encrypted key")?;
        object(&mut scheme, PBES2, "encryption algorithm")?;
        let mut scheme_parts = only(scheme, SEQUENCE, "parameters of PBES2")?;
        let mut derivation = element(&mut scheme_parts, SEQUENCE, "key derivation")?;
        let mut encryption = element(&mut scheme_parts, SEQUENCE, "encryption scheme")?;
        ended(scheme_parts, "parameters of PBES2")?;
        object(&mut derivation, PBKDF2, "key derivation")?;
        let (salt, iterations) = read_derivation(derivation)?;
        object(&mut encryption, SM4_CBC, "encryption scheme")?;
        let vector = only(encryption, OCTET_STRING, "vector")?;
        let is_whole = !text.is_empty() && text.len().is_multiple_of(BLOCK_SIZE);
        let vector = vector.try_into().ok().filter(|_| is_whole);
        let Some(vector) = vector.filter(|_| text.len() <= ENCRYPTED_SIZE_MAX) else {
            return Err(Error::EncryptedKeyAlgorithm { part: "sizes" });
        };
        Ok(Self { salt, iterations, vector, text })
    }

    fn write(&self) -> Vec<u8> {
        let prf = sequence(&[(OBJECT, HMAC_SM3), (NULL, &[])]);
        let mut parameters = Vec::new();
        write_element(&mut parameters, OCTET_STRING, self.salt);
        write_integer(&mut parameters, &self.iterations.to_be_bytes());
        parameters.extend_from_slice(&prf);
        let derivation = sequence(&[(OBJECT, PBKDF2), (SEQUENCE, &parameters)]);
        let encryption = sequence(&[(OBJECT, SM4_CBC), (OCTET_STRING, self.vector)]);
        let scheme = [derivation, encryption].concat();
        let mut whole = sequence(&[(OBJECT, PBES2), (SEQUENCE, &scheme)]);
        write_element(&mut whole, OCTET_STRING, self.text);
        sequence_of(&whole)
    }
}

/// Salt and iterations of PBKDF2.
fn read_derivation(parameters: &[u8]) -> Result<(&[u8], u32), Error> {
    let mut parts = only(parameters, SEQUENCE, "parameters of PBKDF2")?;
    let salt = element(&mut parts, OCTET_STRING, "salt")?;
    let iterations = number(integer(&mut parts, "iterations")?);
    if !SALT_SIZES.contains(&salt.len()) {
        return Err(Error::EncryptedKeyAlgorithm { part: "salt" });
    }
    check_iterations(iterations)?;
    // GmSSL writes the length of the key, others do not.
    if parts.first() == Some(&INTEGER) && number(integer(&mut parts, "key length")?) != 16 {
        return Err(Error::EncryptedKeyAlgorithm { part: "key length" });
    }
    // Left out it is HMAC-SHA-1, which is not read.
    let absent = Error::EncryptedKeyAlgorithm { part: "pseudorandom function" };
    if parts.is_empty() {
        return Err(absent);
    }
    let mut prf = element(&mut parts, SEQUENCE, "pseudorandom function")?;
    ended(parts, "parameters of PBKDF2")?;
    object(&mut prf, HMAC_SM3, "pseudorandom function")?;
    if !prf.is_empty() && !only(prf, NULL, "pseudorandom function")?.is_empty() {
        return Err(absent);
    }
    Ok((salt, iterations))
}

/// Takes the name of an algorithm, which must be this one.
fn object(rest: &mut &[u8], wanted: &[u8], part: &'static str) -> Result<(), Error> {
    let found = element(rest, OBJECT, part)?;
    if found == wanted { Ok(()) } else { Err(Error::EncryptedKeyAlgorithm { part }) }
}

/// A number of 32 bits; what is larger is the largest.
fn number(digits: [u8; 32]) -> u32 {
    let (high, low) = digits.split_at(28);
    let low = low.try_into().map_or(u32::MAX, u32::from_be_bytes);
    if high.iter().all(|digit| *digit == 0) { low } else { u32::MAX }
}

fn sequence(elements: &[(u8, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (tag, element) in elements {
        write_element(&mut content, *tag, element);
    }
    sequence_of(&content)
}

fn sequence_of(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 4);
    write_element(&mut out, SEQUENCE, content);
    out
}

fn element<'a>(rest: &mut &'a [u8], tag: u8, part: &'static str) -> Result<&'a [u8], Error> {
    der::element(rest, tag, part).map_err(Error::EncryptedKey)
}

fn only<'a>(der: &'a [u8], tag: u8, part: &'static str) -> Result<&'a [u8], Error> {
    der::only(der, tag, part).map_err(Error::EncryptedKey)
}

fn ended(rest: &[u8], part: &'static str) -> Result<(), Error> {
    der::ended(rest, part).map_err(Error::EncryptedKey)
}

fn integer(rest: &mut &[u8], part: &'static str) -> Result<[u8; 32], Error> {
    der::integer(rest, part).map_err(Error::EncryptedKey)
}
