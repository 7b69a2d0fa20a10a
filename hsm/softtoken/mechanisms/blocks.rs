//! AES and SM4 in their modes, whole blocks or whole messages at a time.
//!
//! SM4 is that of `hufu-crypto`, AES that of RustCrypto; the modes of AES stand here.

use aes::cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};
use aes::{Aes128, Aes192, Aes256};
use cryptoki_sys::*;
use ghash::GHash;
use ghash::universal_hash::UniversalHash as _;
use hufu_crypto::{Backend, Sm4Key, cipher};
use zeroize::Zeroize as _;

use crate::answer::Answer;
use crate::imitations::Block;

pub(crate) const BLOCK_SIZE: usize = 16;

/// An expanded key; each of them overwrites itself.
pub(crate) enum BlockKey {
    Sm4(Sm4Key),
    Aes128(Box<Aes128>),
    Aes192(Box<Aes192>),
    Aes256(Box<Aes256>),
}

/// Applies a function of `aes` to each block.
macro_rules! each_block {
    ($cipher:expr, $function:ident, $data:expr) => {
        $data.as_chunks_mut::<BLOCK_SIZE>().0.iter_mut().for_each(|block| {
            $cipher.$function(block.into());
        })
    };
}

impl BlockKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// `CKR_KEY_SIZE_RANGE`.
    pub(crate) fn new(block: Block, key: &[u8]) -> Answer<Self> {
        const BAD: CK_RV = CKR_KEY_SIZE_RANGE;
        match (block, key.len()) {
            (Block::Sm4, 16) => Ok(Self::Sm4(Sm4Key::from_bytes(key.try_into().map_err(|_| BAD)?))),
            (Block::Aes, 16) => {
                Ok(Self::Aes128(Box::new(Aes128::new_from_slice(key).map_err(|_| BAD)?)))
            }
            (Block::Aes, 24) => {
                Ok(Self::Aes192(Box::new(Aes192::new_from_slice(key).map_err(|_| BAD)?)))
            }
            (Block::Aes, 32) => {
                Ok(Self::Aes256(Box::new(Aes256::new_from_slice(key).map_err(|_| BAD)?)))
            }
            _ => Err(BAD),
        }
    }

    /// Encrypts each block for itself.
    ///
    /// # Errors
    /// `CKR_DATA_LEN_RANGE` unless there are whole blocks.
    pub(crate) fn ecb_encrypt(&self, data: &mut [u8]) -> Answer<()> {
        whole(data, CKR_DATA_LEN_RANGE)?;
        match self {
            Self::Sm4(key) => {
                return cipher::ecb_encrypt(Backend::best(), key, data)
                    .map_err(|_| CKR_FUNCTION_FAILED);
            }
            Self::Aes128(key) => each_block!(key, encrypt_block, data),
            Self::Aes192(key) => each_block!(key, encrypt_block, data),
            Self::Aes256(key) => each_block!(key, encrypt_block, data),
        }
        Ok(())
    }

    /// Decrypts each block for itself.
    ///
    /// # Errors
    /// `CKR_ENCRYPTED_DATA_LEN_RANGE` unless there are whole blocks.
    pub(crate) fn ecb_decrypt(&self, data: &mut [u8]) -> Answer<()> {
        whole(data, CKR_ENCRYPTED_DATA_LEN_RANGE)?;
        match self {
            Self::Sm4(key) => {
                return cipher::ecb_decrypt(Backend::best(), key, data)
                    .map_err(|_| CKR_FUNCTION_FAILED);
            }
            Self::Aes128(key) => each_block!(key, decrypt_block, data),
            Self::Aes192(key) => each_block!(key, decrypt_block, data),
            Self::Aes256(key) => each_block!(key, decrypt_block, data),
        }
        Ok(())
    }

    /// Encrypts a chain of blocks; `vector` becomes the last.
    ///
    /// # Errors
    /// As [`BlockKey::ecb_encrypt`].
    pub(crate) fn cbc_encrypt(&self, vector: &mut [u8; 16], data: &mut [u8]) -> Answer<()> {
        whole(data, CKR_DATA_LEN_RANGE)?;
        if let Self::Sm4(key) = self {
            cipher::cbc_encrypt(Backend::best(), key, vector, data)
                .map_err(|_| CKR_FUNCTION_FAILED)?;
            *vector = data.last_chunk().copied().unwrap_or(*vector);
            return Ok(());
        }
        for block in data.as_chunks_mut::<BLOCK_SIZE>().0 {
            xor(block, vector);
            self.ecb_encrypt(block)?;
            *vector = *block;
        }
        Ok(())
    }

    /// Decrypts a chain of blocks; `vector` becomes the last one of the ciphertext.
    ///
    /// # Errors
    /// As [`BlockKey::ecb_decrypt`].
    pub(crate) fn cbc_decrypt(&self, vector: &mut [u8; 16], data: &mut [u8]) -> Answer<()> {
        whole(data, CKR_ENCRYPTED_DATA_LEN_RANGE)?;
        if let Self::Sm4(key) = self {
            let last = data.last_chunk().copied().unwrap_or(*vector);
            cipher::cbc_decrypt(Backend::best(), key, vector, data)
                .map_err(|_| CKR_FUNCTION_FAILED)?;
            *vector = last;
            return Ok(());
        }
        for block in data.as_chunks_mut::<BLOCK_SIZE>().0 {
            let before = *block;
            self.ecb_decrypt(block)?;
            xor(block, vector);
            *vector = before;
        }
        Ok(())
    }

    /// Adds the key stream that begins `skipped` bytes after that of `counter`.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) fn ctr(&self, counter: u128, skipped: usize, data: &mut [u8]) -> Answer<()> {
        let blocks = skipped / BLOCK_SIZE;
        let inside = skipped % BLOCK_SIZE;
        let first = counter.wrapping_add(blocks as u128);
        let mut stream = vec![0; (inside + data.len()).next_multiple_of(BLOCK_SIZE)];
        for (place, block) in stream.as_chunks_mut::<BLOCK_SIZE>().0.iter_mut().enumerate() {
            *block = first.wrapping_add(place as u128).to_be_bytes();
        }
        self.ecb_encrypt(&mut stream)?;
        xor(data, &stream[inside..]);
        stream.zeroize();
        Ok(())
    }

    /// GCM of one message (SP 800-38D 7.1); the first `tag_size` bytes of the result are the tag.
    ///
    /// # Errors
    /// `CKR_MECHANISM_PARAM_INVALID` for an empty nonce.
    pub(crate) fn gcm_seal(&self, nonce: &[u8], bound: &[u8], data: &mut [u8]) -> Answer<[u8; 16]> {
        const BAD: CK_RV = CKR_MECHANISM_PARAM_INVALID;
        if let Self::Sm4(key) = self {
            return cipher::gcm_seal(Backend::best(), key, nonce, bound, data).map_err(|_| BAD);
        }
        let start = self.gcm_start(nonce)?;
        self.gcm_stream(start, data)?;
        self.gcm_tag(start, bound, data)
    }

    /// Opens what [`BlockKey::gcm_seal`] sealed.
    ///
    /// # Errors
    /// `CKR_ENCRYPTED_DATA_INVALID`; `data` is not what was sealed then.
    pub(crate) fn gcm_open(
        &self,
        nonce: &[u8],
        bound: &[u8],
        data: &mut [u8],
        tag: &[u8],
    ) -> Answer<()> {
        const BAD: CK_RV = CKR_ENCRYPTED_DATA_INVALID;
        if let Self::Sm4(key) = self {
            return cipher::gcm_open(Backend::best(), key, nonce, bound, data, tag)
                .map_err(|_| BAD);
        }
        let start = self.gcm_start(nonce)?;
        let right = self.gcm_tag(start, bound, data)?;
        let differing = right.iter().zip(tag).fold(0, |all, (a, b)| all | (a ^ b));
        if core::hint::black_box(differing) != 0 {
            return Err(BAD);
        }
        self.gcm_stream(start, data)
    }

    fn hash_key(&self) -> Answer<GHash> {
        let mut key = [0; BLOCK_SIZE];
        self.ecb_encrypt(&mut key)?;
        Ok(GHash::new((&key).into()))
    }

    /// J0.
    fn gcm_start(&self, nonce: &[u8]) -> Answer<[u8; 16]> {
        if nonce.is_empty() {
            return Err(CKR_MECHANISM_PARAM_INVALID);
        }
        if let Ok(nonce) = <[u8; 12]>::try_from(nonce) {
            let mut start = [0; 16];
            start[..12].copy_from_slice(&nonce);
            start[15] = 1;
            return Ok(start);
        }
        let mut hash = self.hash_key()?;
        hash.update_padded(nonce);
        hash.update(&[lengths(0, nonce.len()).into()]);
        Ok(hash.finalize().into())
    }

    /// The counter runs in the last 32 bits.
    fn gcm_stream(&self, start: [u8; 16], data: &mut [u8]) -> Answer<()> {
        let mut stream = vec![0; data.len().next_multiple_of(BLOCK_SIZE)];
        let mut counter = start;
        let (_, last) = counter.split_at_mut(12);
        let first = u32::from_be_bytes(last.try_into().map_err(|_| CKR_GENERAL_ERROR)?);
        for (place, block) in (1_u32..).zip(stream.as_chunks_mut::<BLOCK_SIZE>().0) {
            *block = start;
            block[12..].copy_from_slice(&first.wrapping_add(place).to_be_bytes());
        }
        self.ecb_encrypt(&mut stream)?;
        xor(data, &stream);
        stream.zeroize();
        Ok(())
    }

    fn gcm_tag(&self, start: [u8; 16], bound: &[u8], data: &[u8]) -> Answer<[u8; 16]> {
        let mut hash = self.hash_key()?;
        hash.update_padded(bound);
        hash.update_padded(data);
        hash.update(&[lengths(bound.len(), data.len()).into()]);
        let mut tag = start;
        self.ecb_encrypt(&mut tag)?;
        let sum: [u8; 16] = hash.finalize().into();
        xor(&mut tag, &sum);
        Ok(tag)
    }
}

/// The two lengths in bits.
fn lengths(bound: usize, data: usize) -> [u8; 16] {
    ((bound as u128 * 8) << 64 | (data as u128 * 8)).to_be_bytes()
}

fn xor(data: &mut [u8], other: &[u8]) {
    data.iter_mut().zip(other).for_each(|(byte, other)| *byte ^= other);
}

const fn whole(data: &[u8], bad: CK_RV) -> Answer<()> {
    if data.len().is_multiple_of(BLOCK_SIZE) { Ok(()) } else { Err(bad) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(digit).collect()
    }

    /// SP 800-38A F.1.1, F.2.1, F.5.1; the GCM paper's test cases 4 and 6.
    #[test]
    fn known_answers_of_aes() {
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
        let text = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let key = BlockKey::new(Block::Aes, &key).unwrap();
        let mut data = text.clone();
        key.ecb_encrypt(&mut data).unwrap();
        assert_eq!(data, hex("3ad77bb40d7a3660a89ecaf32466ef97f5d3d58503b9699de785895a96fdbaaf"));
        key.ecb_decrypt(&mut data).unwrap();
        assert_eq!(data, text);
        let vector: [u8; 16] = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        key.cbc_encrypt(&mut { vector }, &mut data).unwrap();
        assert_eq!(data, hex("7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2"));
        key.cbc_decrypt(&mut { vector }, &mut data).unwrap();
        assert_eq!(data, text);
        let counter = 0xf0f1_f2f3_f4f5_f6f7_f8f9_fafb_fcfd_feff;
        key.ctr(counter, 0, &mut data[..7]).unwrap();
        key.ctr(counter, 7, &mut data[7..]).unwrap();
        assert_eq!(data, hex("874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"));
    }

    #[test]
    fn known_answers_of_aes_gcm() {
        let key = BlockKey::new(Block::Aes, &hex("feffe9928665731c6d6a8f9467308308")).unwrap();
        let text = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let bound = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let long = hex(concat!(
            "9313225df88406e555909c5aff5269aa6a7a9538534f7da1e4c303d2a318a728",
            "c3c0c95156809539fcf0e2429a6b525416aedbf5a0de6a57a637b39b"
        ));
        let cases = [
            (hex("cafebabefacedbaddecaf888"), "5bc94fbc3221a5db94fae95ae7121a47"),
            (long, "619cc5aefffe0bfa462af43c1699d050"),
        ];
        for (nonce, tag) in cases {
            let mut data = text.clone();
            let made = key.gcm_seal(&nonce, &bound, &mut data).unwrap();
            assert_eq!(made.to_vec(), hex(tag));
            assert_ne!(data, text);
            key.gcm_open(&nonce, &bound, &mut data, &made[..12]).unwrap();
            assert_eq!(data, text);
            key.gcm_seal(&nonce, &bound, &mut data).unwrap();
            let refused = key.gcm_open(&nonce, &bound[1..], &mut data, &made);
            assert_eq!(refused, Err(CKR_ENCRYPTED_DATA_INVALID));
        }
    }

    #[test]
    fn keys_have_their_sizes() {
        for (block, size) in [(Block::Sm4, 32), (Block::Sm4, 15), (Block::Aes, 20)] {
            assert_eq!(BlockKey::new(block, &vec![0; size]).err(), Some(CKR_KEY_SIZE_RANGE));
        }
    }

    /// GB/T 32907-2016 A.1, and the modes against those of `hufu-crypto` in one piece.
    #[test]
    fn sm4_is_sm4() {
        let bytes = hex("0123456789abcdeffedcba9876543210");
        let key = BlockKey::new(Block::Sm4, &bytes).unwrap();
        let mut data = bytes.clone();
        key.ecb_encrypt(&mut data).unwrap();
        assert_eq!(data, hex("681edf34d206965e86b3e94f536e4246"));
        let sm4 = Sm4Key::from_bytes(&bytes.clone().try_into().unwrap());
        let (mut pieces, mut whole) = (vec![5; 64], vec![5; 64]);
        let mut vector = [9; 16];
        key.cbc_encrypt(&mut vector, &mut pieces[..16]).unwrap();
        key.cbc_encrypt(&mut vector, &mut pieces[16..]).unwrap();
        cipher::cbc_encrypt(Backend::best(), &sm4, &[9; 16], &mut whole).unwrap();
        assert_eq!(pieces, whole);
        let mut vector = [9; 16];
        key.cbc_decrypt(&mut vector, &mut pieces[..32]).unwrap();
        key.cbc_decrypt(&mut vector, &mut pieces[32..]).unwrap();
        assert_eq!(pieces, [5; 64]);
        cipher::ctr(Backend::best(), &sm4, &[0xff; 16], &mut pieces);
        key.ctr(u128::MAX, 0, &mut pieces[..21]).unwrap();
        key.ctr(u128::MAX, 21, &mut pieces[21..]).unwrap();
        assert_eq!(pieces, [5; 64]);
    }
}
