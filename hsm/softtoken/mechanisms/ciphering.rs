//! Encryption and decryption, in one part or in many.
//!
//! Nothing is lost by asking too early: sizes are told before anything is computed, and `finish`
//! changes nothing, so that a client with too small a buffer comes again.

use std::sync::Arc;

use cryptoki_sys::*;
use hufu_crypto::encryption::{Ciphertext, encrypt};
use hufu_crypto::{Backend, Drbg, PublicKey, cipher, entropy};
use zeroize::Zeroizing;

use super::blocks::{BLOCK_SIZE, BlockKey};
use super::{Call, KEPT_BYTES_MAX, Parameter};
use crate::answer::{Answer, size};
use crate::imitations::{Algorithm, CipherForm, Mode};
use crate::keys::Prepared;

/// 04, C1 and C3.
const SM2_HEAD_SIZE: usize = 97;
/// What DER adds to them at most: two signs, five headers of up to five bytes.
const SM2_DER_SIZE: usize = 30;

/// Bytes of one part: what memory is taken for at once, in a process that is not ours.
const PART_BYTES_MAX: usize = 256 << 20;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

/// Encryption or decryption that is going on.
#[derive(Clone)]
pub(crate) struct Ciphering {
    direction: Direction,
    method: Method,
    /// Bytes that no output was given for yet; overwritten when dropped.
    kept: Zeroizing<Vec<u8>>,
}

#[derive(Clone)]
enum Method {
    Blocks { key: Arc<BlockKey>, mode: Mode, vector: [u8; 16] },
    Counter { key: Arc<BlockKey>, counter: u128, done: usize, bytes_max: usize },
    Gcm { key: Arc<BlockKey>, nonce: Vec<u8>, associated: Vec<u8>, tag_size: usize },
    Sm2 { key: Arc<Prepared>, form: CipherForm },
}

impl Ciphering {
    /// Begins with a key that [`crate::keys::prepare`] made.
    ///
    /// # Errors
    /// If the mechanism does not encrypt, its parameter is none of its kind, or the key is of
    /// another type.
    pub(crate) fn start(call: &Call, key: Arc<Prepared>, direction: Direction) -> Answer<Self> {
        let method = match (call.algorithm, &*key) {
            (Algorithm::Block(block, mode), Prepared::Secret(secret)) => {
                let key = Arc::new(BlockKey::new(block, secret)?);
                block_method(mode, key, &call.parameter)?
            }
            (Algorithm::Sm2Encrypt(form), Prepared::Sm2(_) | Prepared::Sm2Public(_)) => {
                if call.parameter != Parameter::None {
                    return Err(CKR_MECHANISM_PARAM_INVALID);
                }
                Method::Sm2 { key, form }
            }
            (Algorithm::Block(..) | Algorithm::Sm2Encrypt(_), _) => {
                return Err(CKR_KEY_TYPE_INCONSISTENT);
            }
            _ => return Err(CKR_MECHANISM_INVALID),
        };
        Ok(Self { direction, method, kept: Zeroizing::new(Vec::new()) })
    }

    fn encrypts(&self) -> bool {
        self.direction == Direction::Encrypt
    }

    const fn bad_length(&self) -> CK_RV {
        match self.direction {
            Direction::Encrypt => CKR_DATA_LEN_RANGE,
            Direction::Decrypt => CKR_ENCRYPTED_DATA_LEN_RANGE,
        }
    }

    /// Bytes that the next part of so many gives, exactly.
    pub(crate) fn update_size(&self, more: usize) -> usize {
        let all = self.kept.len() + more;
        match &self.method {
            // The last block may be padding.
            Method::Blocks { mode: Mode::CbcPad, .. } if !self.encrypts() => {
                all.saturating_sub(1) / BLOCK_SIZE * BLOCK_SIZE
            }
            Method::Blocks { .. } => all / BLOCK_SIZE * BLOCK_SIZE,
            Method::Counter { .. } => more,
            Method::Gcm { .. } | Method::Sm2 { .. } => 0,
        }
    }

    /// Takes a part and gives what can be given.
    ///
    /// # Errors
    /// Where more is kept than there is room for, or a counter would come twice.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Answer<Vec<u8>> {
        let ready = self.update_size(bytes.len());
        let bad = self.bad_length();
        let encrypts = self.encrypts();
        if bytes.len() > PART_BYTES_MAX {
            return Err(bad);
        }
        if let Method::Counter { key, counter, done, bytes_max } = &mut self.method {
            let after = done.checked_add(bytes.len()).filter(|after| after <= bytes_max);
            let after = after.ok_or(bad)?;
            let mut data = bytes.to_vec();
            key.ctr(*counter, *done, &mut data)?;
            *done = after;
            return Ok(data);
        }
        if self.kept.len() + bytes.len() > KEPT_BYTES_MAX + ready {
            return Err(bad);
        }
        self.kept.extend_from_slice(bytes);
        let Method::Blocks { key, mode, vector } = &mut self.method else { return Ok(Vec::new()) };
        let mut data = self.kept[..ready].to_vec();
        let rest = Zeroizing::new(self.kept[ready..].to_vec());
        match (*mode, encrypts) {
            (Mode::Ecb, true) => key.ecb_encrypt(&mut data)?,
            (Mode::Ecb, false) => key.ecb_decrypt(&mut data)?,
            (_, true) => key.cbc_encrypt(vector, &mut data)?,
            (_, false) => key.cbc_decrypt(vector, &mut data)?,
        }
        self.kept = rest;
        Ok(data)
    }

    /// What is still to be given after the last part.
    ///
    /// # Errors
    /// If what came is not whole, not padded, or not genuine.
    pub(crate) fn finish(&self) -> Answer<Vec<u8>> {
        match &self.method {
            Method::Counter { .. } => Ok(Vec::new()),
            Method::Blocks { key, mode: Mode::CbcPad, vector } => {
                let mut data = self.kept.to_vec();
                if self.encrypts() {
                    cipher::pad(&mut data);
                    key.cbc_encrypt(&mut { *vector }, &mut data)?;
                } else {
                    if data.len() != BLOCK_SIZE {
                        return Err(CKR_ENCRYPTED_DATA_LEN_RANGE);
                    }
                    key.cbc_decrypt(&mut { *vector }, &mut data)?;
                    cipher::unpad(&mut data).map_err(|_| CKR_ENCRYPTED_DATA_INVALID)?;
                }
                Ok(data)
            }
            Method::Blocks { .. } if self.kept.is_empty() => Ok(Vec::new()),
            Method::Blocks { .. } => Err(self.bad_length()),
            Method::Gcm { key, nonce, associated, tag_size } => {
                let mut data = self.kept.to_vec();
                if self.encrypts() {
                    let tag = key.gcm_seal(nonce, associated, &mut data)?;
                    data.extend_from_slice(&tag[..*tag_size]);
                    return Ok(data);
                }
                let text_size =
                    data.len().checked_sub(*tag_size).ok_or(CKR_ENCRYPTED_DATA_LEN_RANGE)?;
                let tag = data.split_off(text_size);
                key.gcm_open(nonce, associated, &mut data, &tag)?;
                Ok(data)
            }
            Method::Sm2 { key, form } if self.encrypts() => sm2_encrypt(key, *form, &self.kept),
            Method::Sm2 { key, form } => sm2_decrypt(key, *form, &self.kept),
        }
    }

    /// At most so many bytes come of `more` more and of finishing.
    pub(crate) fn finish_size_max(&self, more: usize) -> usize {
        let all = self.kept.len() + more;
        let added = match &self.method {
            _ if !self.encrypts() => 0,
            Method::Blocks { mode: Mode::CbcPad, .. } => BLOCK_SIZE - all % BLOCK_SIZE,
            Method::Blocks { .. } | Method::Counter { .. } => 0,
            Method::Gcm { tag_size, .. } => *tag_size,
            Method::Sm2 { form: CipherForm::Raw, .. } => SM2_HEAD_SIZE,
            Method::Sm2 { form: CipherForm::Der, .. } => SM2_HEAD_SIZE + SM2_DER_SIZE,
        };
        all + added
    }

    /// All in one part; this operation stays as it is.
    ///
    /// # Errors
    /// As [`Ciphering::update`] and [`Ciphering::finish`].
    pub(crate) fn whole(&self, bytes: &[u8]) -> Answer<Vec<u8>> {
        let mut copy = self.clone();
        let given = Zeroizing::new(copy.update(bytes)?);
        let rest = Zeroizing::new(copy.finish()?);
        Ok([&given[..], &rest].concat())
    }
}

fn block_method(mode: Mode, key: Arc<BlockKey>, parameter: &Parameter) -> Answer<Method> {
    const BAD: CK_RV = CKR_MECHANISM_PARAM_INVALID;
    let counter_size = size_of::<CK_AES_CTR_PARAMS>();
    match (mode, parameter) {
        (Mode::Ecb, Parameter::None) => Ok(Method::Blocks { key, mode, vector: [0; 16] }),
        (Mode::Cbc | Mode::CbcPad, Parameter::Bytes(vector)) => {
            let vector = vector.as_slice().try_into().map_err(|_| BAD)?;
            Ok(Method::Blocks { key, mode, vector })
        }
        (Mode::Ctr, Parameter::Bytes(bytes)) if bytes.len() == counter_size => {
            let (bits, counter) = bytes.split_first_chunk::<8>().ok_or(BAD)?;
            let bits = u32::try_from(u64::from_ne_bytes(*bits)).map_err(|_| BAD)?;
            if !(1..=128).contains(&bits) {
                return Err(BAD);
            }
            let counter = u128::from_be_bytes(*counter.first_chunk().ok_or(BAD)?);
            // Blocks until the counter's own bits are at their end: no carry goes beyond them.
            let left = if bits == 128 { u128::MAX } else { (1 << bits) - counter % (1 << bits) };
            let bytes_max = usize::try_from(left).unwrap_or(usize::MAX).saturating_mul(BLOCK_SIZE);
            Ok(Method::Counter { key, counter, done: 0, bytes_max })
        }
        (Mode::Gcm, Parameter::Gcm { nonce, associated, tag_bits }) => {
            let tag_bits = size(*tag_bits)?;
            let good = matches!(tag_bits, 96 | 104 | 112 | 120 | 128) && !nonce.is_empty();
            let (nonce, associated) = (nonce.clone(), associated.clone());
            if !good {
                return Err(BAD);
            }
            Ok(Method::Gcm { key, nonce, associated, tag_size: tag_bits / 8 })
        }
        _ => Err(BAD),
    }
}

fn sm2_encrypt(key: &Prepared, form: CipherForm, text: &[u8]) -> Answer<Vec<u8>> {
    let key = PublicKey(key.point().ok_or(CKR_KEY_TYPE_INCONSISTENT)?);
    // One generator for each call: encryption to a public key is no path that must be fast here.
    let mut generator =
        Drbg::new(entropy::system(), "hufu softtoken").map_err(|_| CKR_FUNCTION_FAILED)?;
    let made =
        encrypt(Backend::best(), &mut generator, &key, text).map_err(|_| CKR_DATA_LEN_RANGE)?;
    Ok(match form {
        CipherForm::Raw => made.to_bytes(),
        CipherForm::Der => made.to_der(),
    })
}

fn sm2_decrypt(key: &Prepared, form: CipherForm, bytes: &[u8]) -> Answer<Vec<u8>> {
    const BAD: CK_RV = CKR_ENCRYPTED_DATA_INVALID;
    let Prepared::Sm2(signer) = key else { return Err(CKR_KEY_TYPE_INCONSISTENT) };
    let ciphertext = match form {
        CipherForm::Raw => Ciphertext::from_bytes(bytes),
        CipherForm::Der => Ciphertext::from_der(bytes),
    };
    let ciphertext = ciphertext.map_err(|_| BAD)?;
    let text = signer.decrypt(Backend::best(), &ciphertext).map_err(|_| BAD)?;
    Ok(text.to_vec())
}

#[cfg(test)]
mod tests;
