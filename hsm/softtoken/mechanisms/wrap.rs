//! Keys that leave and come in, encrypted: AES key wrap, and the modes of block ciphers.

use std::sync::Arc;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::Call;
use super::blocks::{BLOCK_SIZE, BlockKey};
use super::ciphering::{Ciphering, Direction};
use crate::answer::Answer;
use crate::imitations::{Algorithm, Block, Mode};
use crate::keys::Prepared;

/// RFC 3394 2.2.3.1.
const VALUE: [u8; 8] = [0xa6; 8];
/// RFC 5649 3, without the length.
const VALUE_PADDED: [u8; 4] = [0xa6, 0x59, 0x59, 0xa6];

/// Encrypts the bytes of a key.
///
/// # Errors
/// If the mechanism does not wrap, or not keys of this size.
pub(crate) fn wrap(call: &Call, key: &Arc<Prepared>, secret: &[u8]) -> Answer<Vec<u8>> {
    match call.algorithm {
        Algorithm::AesKeyWrap { padded } => {
            let key = wrapping_key(call, key, CKR_WRAPPING_KEY_TYPE_INCONSISTENT)?;
            if padded { wrap_padded(&key, secret) } else { wrap_plain(&key, VALUE, secret) }
        }
        // A stream can be cut and flipped at will.
        Algorithm::Block(_, Mode::Ctr) => Err(CKR_MECHANISM_INVALID),
        Algorithm::Block(..) => {
            let ciphering = Ciphering::start(call, Arc::clone(key), Direction::Encrypt)
                .map_err(|refused| rename(refused, CKR_WRAPPING_KEY_TYPE_INCONSISTENT))?;
            let mut filled = Zeroizing::new(Vec::with_capacity(secret.len() + BLOCK_SIZE));
            filled.extend_from_slice(secret);
            if fills(call.algorithm) {
                filled.resize(secret.len().next_multiple_of(BLOCK_SIZE), 0);
            }
            ciphering.whole(&filled).map_err(|refused| rename(refused, CKR_KEY_SIZE_RANGE))
        }
        _ => Err(CKR_MECHANISM_INVALID),
    }
}

/// Decrypts the bytes of a key.
///
/// # Errors
/// If the mechanism does not wrap, or these are not bytes it wrapped with this key.
pub(crate) fn unwrap(
    call: &Call,
    key: &Arc<Prepared>,
    wrapped: &[u8],
) -> Answer<Zeroizing<Vec<u8>>> {
    match call.algorithm {
        Algorithm::AesKeyWrap { padded } => {
            let key = wrapping_key(call, key, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT)?;
            if padded {
                unwrap_padded(&key, wrapped)
            } else {
                let (value, secret) = unwrap_plain(&key, wrapped)?;
                if value == VALUE { Ok(secret) } else { Err(CKR_WRAPPED_KEY_INVALID) }
            }
        }
        Algorithm::Block(_, Mode::Ctr) => Err(CKR_MECHANISM_INVALID),
        Algorithm::Block(..) => {
            let ciphering = Ciphering::start(call, Arc::clone(key), Direction::Decrypt)
                .map_err(|refused| rename(refused, CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT))?;
            let secret = ciphering.whole(wrapped);
            secret.map(Zeroizing::new).map_err(|refused| rename(refused, CKR_WRAPPED_KEY_INVALID))
        }
        _ => Err(CKR_MECHANISM_INVALID),
    }
}

/// Whether the mechanism fills a key up with zeros to whole blocks (PKCS#11 2.40, AES-ECB and
/// AES-CBC, wrapping), so that what comes out does not say where it ends.
pub(crate) const fn fills(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::Block(_, Mode::Ecb | Mode::Cbc))
}

/// The secret without its filling, if it has `size` bytes and the filling is one.
///
/// # Errors
/// `CKR_WRAPPED_KEY_LEN_RANGE` if more than a filling would be cut off; `CKR_WRAPPED_KEY_INVALID`
/// if it is not of zeros. Otherwise a key could be taken in piece by piece, each piece so short
/// that it can be guessed.
pub(crate) fn without_filling(
    algorithm: Algorithm,
    secret: &[u8],
    size: Option<usize>,
) -> Answer<&[u8]> {
    let Some(size) = size else { return Ok(secret) };
    let fits = if fills(algorithm) {
        size.checked_next_multiple_of(BLOCK_SIZE) == Some(secret.len())
    } else {
        size == secret.len()
    };
    let (secret, filling) =
        secret.split_at_checked(size).filter(|_| fits).ok_or(CKR_WRAPPED_KEY_LEN_RANGE)?;
    let is_zero = filling.iter().fold(0, |all, byte| all | byte) == 0;
    if is_zero { Ok(secret) } else { Err(CKR_WRAPPED_KEY_INVALID) }
}

/// The return value that wrapping has for what encryption calls otherwise.
const fn rename(refused: CK_RV, key: CK_RV) -> CK_RV {
    match refused {
        CKR_KEY_TYPE_INCONSISTENT | CKR_KEY_SIZE_RANGE | CKR_DATA_LEN_RANGE => key,
        CKR_ENCRYPTED_DATA_INVALID => CKR_WRAPPED_KEY_INVALID,
        CKR_ENCRYPTED_DATA_LEN_RANGE => CKR_WRAPPED_KEY_LEN_RANGE,
        other => other,
    }
}

fn wrapping_key(call: &Call, key: &Prepared, bad: CK_RV) -> Answer<BlockKey> {
    if call.parameter != super::Parameter::None {
        return Err(CKR_MECHANISM_PARAM_INVALID);
    }
    let Prepared::Secret(secret) = key else { return Err(bad) };
    BlockKey::new(Block::Aes, secret)
}

/// RFC 3394 2.2.1.
fn wrap_plain(key: &BlockKey, value: [u8; 8], secret: &[u8]) -> Answer<Vec<u8>> {
    if secret.len() < 16 || !secret.len().is_multiple_of(8) {
        return Err(CKR_KEY_SIZE_RANGE);
    }
    let mut value = value;
    let mut parts = secret.to_vec();
    let mut step = 0_u64;
    for _ in 0..6 {
        for part in parts.as_chunks_mut::<8>().0 {
            step += 1;
            let mut block = [0; 16];
            block[..8].copy_from_slice(&value);
            block[8..].copy_from_slice(part);
            key.ecb_encrypt(&mut block)?;
            let (high, low) = halves(block);
            value = (u64::from_be_bytes(high) ^ step).to_be_bytes();
            *part = low;
        }
    }
    Ok([&value[..], &parts].concat())
}

/// RFC 3394 2.2.2; the value is the caller's to check.
fn unwrap_plain(key: &BlockKey, wrapped: &[u8]) -> Answer<([u8; 8], Zeroizing<Vec<u8>>)> {
    let (value, parts) = wrapped.split_first_chunk::<8>().ok_or(CKR_WRAPPED_KEY_LEN_RANGE)?;
    if parts.len() < 16 || !parts.len().is_multiple_of(8) {
        return Err(CKR_WRAPPED_KEY_LEN_RANGE);
    }
    let mut value = *value;
    let mut parts = Zeroizing::new(parts.to_vec());
    let mut step = 6 * (parts.len() as u64 / 8);
    for _ in 0..6 {
        for part in parts.as_chunks_mut::<8>().0.iter_mut().rev() {
            let mut block = [0; 16];
            let masked = u64::from_be_bytes(value) ^ step;
            block[..8].copy_from_slice(&masked.to_be_bytes());
            block[8..].copy_from_slice(part);
            key.ecb_decrypt(&mut block)?;
            (value, *part) = halves(block);
            step -= 1;
        }
    }
    Ok((value, parts))
}

/// RFC 5649 4.1.
fn wrap_padded(key: &BlockKey, secret: &[u8]) -> Answer<Vec<u8>> {
    let size = u32::try_from(secret.len()).map_err(|_| CKR_KEY_SIZE_RANGE)?;
    if size == 0 {
        return Err(CKR_KEY_SIZE_RANGE);
    }
    let mut value = [0; 8];
    value[..4].copy_from_slice(&VALUE_PADDED);
    value[4..].copy_from_slice(&size.to_be_bytes());
    let mut padded = Zeroizing::new(vec![0; secret.len().next_multiple_of(8)]);
    padded[..secret.len()].copy_from_slice(secret);
    if padded.len() > 8 {
        return wrap_plain(key, value, &padded);
    }
    let mut block = [&value[..], &padded].concat();
    key.ecb_encrypt(&mut block)?;
    Ok(block)
}

/// RFC 5649 4.2.
fn unwrap_padded(key: &BlockKey, wrapped: &[u8]) -> Answer<Zeroizing<Vec<u8>>> {
    let (value, mut secret) = if let Ok(mut block) = <[u8; 16]>::try_from(wrapped) {
        key.ecb_decrypt(&mut block)?;
        let (value, secret) = halves(block);
        (value, Zeroizing::new(secret.to_vec()))
    } else {
        unwrap_plain(key, wrapped)?
    };
    let size = value.last_chunk().map_or(0, |size| u32::from_be_bytes(*size));
    let size = usize::try_from(size).map_err(|_| CKR_WRAPPED_KEY_INVALID)?;
    let fits = size > 0 && size.next_multiple_of(8) == secret.len();
    let good = value.starts_with(&VALUE_PADDED)
        && fits
        && secret.iter().skip(size).fold(0, |all, byte| all | byte) == 0;
    if !good {
        return Err(CKR_WRAPPED_KEY_INVALID);
    }
    secret.truncate(size);
    Ok(secret)
}

fn halves(block: [u8; 16]) -> ([u8; 8], [u8; 8]) {
    let whole = u128::from_be_bytes(block);
    let half = |shift: u32| {
        let bytes = (whole >> shift).to_be_bytes();
        core::array::from_fn(|place| bytes[8 + place])
    };
    (half(64), half(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanisms::Parameter;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    fn wraps(padded: bool, key: &str) -> (Call, Arc<Prepared>) {
        let algorithm = Algorithm::AesKeyWrap { padded };
        let call = Call { code: 0, algorithm, parameter: Parameter::None };
        (call, Arc::new(Prepared::Secret(Zeroizing::new(hex(key)))))
    }

    /// RFC 3394 4.1, RFC 5649 6.
    #[test]
    fn known_answers() {
        let (call, key) = wraps(false, "000102030405060708090a0b0c0d0e0f");
        let secret = hex("00112233445566778899aabbccddeeff");
        let wrapped = wrap(&call, &key, &secret).unwrap();
        assert_eq!(wrapped, hex("1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"));
        assert_eq!(*unwrap(&call, &key, &wrapped).unwrap(), secret);
        let (call, key) = wraps(true, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8");
        for (secret, wanted) in [
            (
                "c37b7e6492584340bed12207808941155068f738",
                "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
            ),
            ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
        ] {
            let wrapped = wrap(&call, &key, &hex(secret)).unwrap();
            assert_eq!(wrapped, hex(wanted));
            assert_eq!(*unwrap(&call, &key, &wrapped).unwrap(), hex(secret));
        }
    }

    #[test]
    fn changed_and_cut_keys_are_refused() {
        for padded in [false, true] {
            let (call, key) = wraps(padded, "000102030405060708090a0b0c0d0e0f");
            let mut wrapped = wrap(&call, &key, &[5; 32]).unwrap();
            wrapped[20] ^= 1;
            assert_eq!(unwrap(&call, &key, &wrapped).err(), Some(CKR_WRAPPED_KEY_INVALID));
            for size in [0, 7, 23] {
                let refused = unwrap(&call, &key, &wrapped[..size]).err();
                assert_eq!(refused, Some(CKR_WRAPPED_KEY_LEN_RANGE));
            }
        }
        let (call, key) = wraps(false, "000102030405060708090a0b0c0d0e0f");
        assert_eq!(wrap(&call, &key, &[5; 20]), Err(CKR_KEY_SIZE_RANGE));
    }

    #[test]
    fn block_modes_wrap_too() {
        let algorithm = Algorithm::Block(Block::Sm4, Mode::CbcPad);
        let parameter = Parameter::Bytes(vec![1; 16]);
        let call = Call { code: 0, algorithm, parameter };
        let key = Arc::new(Prepared::Secret(Zeroizing::new(vec![9; 16])));
        let wrapped = wrap(&call, &key, &[0x55; 16]).unwrap();
        assert_eq!(wrapped.len(), 32);
        assert_eq!(*unwrap(&call, &key, &wrapped).unwrap(), [0x55; 16]);
        let refused = unwrap(&call, &key, &wrapped[..16]).err();
        assert_eq!(refused, Some(CKR_WRAPPED_KEY_INVALID));
    }
}
