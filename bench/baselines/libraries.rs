//! The libraries from outside, each behind the same few functions.

use cipher::{BlockCipherEncrypt as _, KeyInit as _, KeyIvInit as _, StreamCipher as _};
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;
use libsm::sm2::ecc::Point as LibsmPoint;
use libsm::sm2::signature::{SigCtx, Signature as LibsmSignature};
use num_bigint::BigUint;
use sm2::dsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use sm2::elliptic_curve::PrimeField as _;
use sm2::elliptic_curve::sec1::ToSec1Point as _;

/// The DER text of a signature r || s.
pub fn der(signature: &[u8; 64]) -> Vec<u8> {
    let mut content = Vec::with_capacity(70);
    for number in signature.as_chunks::<32>().0 {
        let zeros = number.iter().take_while(|byte| **byte == 0).count().min(31);
        let digits = &number[zeros..];
        let is_high = digits[0] >= 0x80;
        content.extend([2, digits.len() as u8 + u8::from(is_high)]);
        content.extend(is_high.then_some(0));
        content.extend_from_slice(digits);
    }
    [&[0x30, content.len() as u8], content.as_slice()].concat()
}

fn uncompressed(key: &[u8; 64]) -> [u8; 65] {
    let mut sec1 = [4; 65];
    sec1[1..].copy_from_slice(key);
    sec1
}

/// RustCrypto's `sm2`.
pub struct RustCrypto(sm2::dsa::VerifyingKey);

impl RustCrypto {
    /// `None` if the key is no point of the curve.
    pub fn new(key: &[u8; 64]) -> Option<Self> {
        sm2::dsa::VerifyingKey::from_sec1_bytes("1234567812345678", &uncompressed(key))
            .ok()
            .map(Self)
    }

    /// Whether r || s over e is valid.
    pub fn verify(&self, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        sm2::dsa::Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_prehash(digest, &signature).is_ok())
    }
}

/// RustCrypto's signing key.
pub fn rustcrypto_signer(d: &[u8; 32]) -> Option<sm2::dsa::SigningKey> {
    sm2::dsa::SigningKey::from_slice("1234567812345678", d).ok()
}

/// A signature by RustCrypto over e.
pub fn rustcrypto_sign(key: &sm2::dsa::SigningKey, digest: &[u8; 32]) -> Option<[u8; 64]> {
    let signature: sm2::dsa::Signature = key.sign_prehash(digest).ok()?;
    signature.to_bytes().as_slice().try_into().ok()
}

/// [scalar]P by RustCrypto.
pub fn rustcrypto_multiply(scalar: &[u8; 32], point: &[u8; 64]) -> Option<[u8; 64]> {
    let scalar = Option::<sm2::Scalar>::from(sm2::Scalar::from_repr((*scalar).into()))?;
    let point = sm2::PublicKey::from_sec1_bytes(&uncompressed(point)).ok()?;
    let product = (sm2::ProjectivePoint::from(*point.as_affine()) * scalar).to_affine();
    product.to_sec1_point(false).as_bytes().get(1..)?.try_into().ok()
}

/// Counter mode by RustCrypto, in place.
pub fn rustcrypto_ctr(key: &[u8; 16], counter: &[u8; 16], data: &mut [u8]) {
    ctr::Ctr128BE::<sm4::Sm4>::new(key.into(), counter.into()).apply_keystream(data);
}

/// GCM by RustCrypto's block cipher, counter mode and GHASH, as its AEAD joins them.
pub struct RustCryptoGcm {
    key: [u8; 16],
    hash: GHash,
}

impl RustCryptoGcm {
    /// Expands the key.
    pub fn new(key: &[u8; 16]) -> Self {
        let mut point = [0; 16].into();
        sm4::Sm4::new(key.into()).encrypt_block(&mut point);
        Self { key: *key, hash: GHash::new(&point) }
    }

    /// Encrypts in place and gives the tag; no associated data.
    pub fn seal(&self, nonce: &[u8; 12], data: &mut [u8]) -> [u8; 16] {
        let mut first = [0; 16];
        first[..12].copy_from_slice(nonce);
        first[15] = 1;
        let mut stream = ctr::Ctr32BE::<sm4::Sm4>::new(&self.key.into(), &first.into());
        let mut tag = [0; 16];
        stream.apply_keystream(&mut tag);
        stream.apply_keystream(data);
        let mut hash = self.hash.clone();
        hash.update_padded(data);
        let mut lengths = [0; 16];
        lengths[8..].copy_from_slice(&(8 * data.len() as u64).to_be_bytes());
        hash.update(&[lengths.into()]);
        for (byte, hashed) in tag.iter_mut().zip(hash.finalize()) {
            *byte ^= hashed;
        }
        tag
    }
}

/// libsm: its context, and a key of it.
pub struct Libsm {
    context: SigCtx,
    key: LibsmPoint,
}

impl Libsm {
    /// `None` if the key is refused.
    pub fn new(key: &[u8; 64]) -> Option<Self> {
        let context = SigCtx::new();
        let key = context.load_pubkey(&uncompressed(key)).ok()?;
        Some(Self { context, key })
    }

    /// Whether r || s over e is valid.
    pub fn verify(&self, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        let signature = LibsmSignature::new(&signature[..32], &signature[32..]);
        self.context.verify_raw(digest, &self.key, &signature).unwrap_or(false)
    }

    /// Signs e; whether it could.
    pub fn sign(&self, d: &BigUint, digest: &[u8; 32]) -> bool {
        self.context.sign_raw(digest, d).is_ok()
    }
}

/// Bytes that look random, for a library that wants a source of them; for measuring only.
pub struct Source(pub hufu_soak::Numbers);

impl efficient_sm2::SecureRandom for Source {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.next().to_le_bytes()[3];
        }
    }
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
