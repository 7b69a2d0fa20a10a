//! SM4 behind the seam: authenticated encryption for what the node stores, and the other modes for
//! the command line and for what other systems send.
//!
//! ```text
//! Provider.cipher --sm4_gcm(key)--> Aead --seal, open--> ciphertext and Tag
//! ecb_*, ctr, cbc_*, ccm_*, gcm_* with a Backend and a key: one call, one message
//! ```
//!
//! Constant time in keys and data.

use std::sync::Arc;

use hufu_kernels::Backend;
use hufu_kernels::secret::wipe_stack;
use hufu_kernels::sm4::{self as kernel, ccm, gcm};
use zeroize::Zeroizing;

use crate::Error;

pub use hufu_kernels::sm4::{BLOCK_SIZE, CbcStream};

/// An SM4 key; overwritten when dropped, neither printed nor cloned.
pub struct Sm4Key(Zeroizing<[u8; BLOCK_SIZE]>);

impl Sm4Key {
    /// The key of these bytes, of which the caller overwrites his copy.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; BLOCK_SIZE]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    fn expanded(&self, backend: Backend) -> kernel::Key {
        kernel::Key::new(backend, &self.0)
    }
}

/// What proves that a ciphertext and its associated data are those that were sealed. It is public;
/// only [`Aead::open`] compares it, in constant time.
#[derive(Clone, Copy, Debug)]
pub struct Tag(pub [u8; gcm::TAG_SIZE]);

/// Authenticated encryption in place under one key.
pub trait Aead: Send + Sync {
    /// Encrypts `data`. The nonce must never be used with this key again: two messages under one
    /// nonce give away both and the power to forge.
    ///
    /// # Panics
    /// If the data is longer than 2^36 - 32 bytes, which no caller holds in memory.
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> Tag;

    /// Decrypts `data` if the tag belongs to it, to the nonce and to `associated`.
    ///
    /// # Errors
    /// [`Error::CiphertextRejected`]; `data` is zero then.
    fn open(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), Error>;
}

/// Makes ciphers for keys that the host holds.
pub trait Cipher: Send + Sync {
    /// SM4-GCM (GB/T 32907-2016 in the mode of RFC 8998 3.2.1).
    fn sm4_gcm(&self, key: &Sm4Key) -> Arc<dyn Aead>;
}

/// Ciphers of the kernels.
pub(crate) struct SoftwareCipher(pub(crate) Backend);

impl Cipher for SoftwareCipher {
    fn sm4_gcm(&self, key: &Sm4Key) -> Arc<dyn Aead> {
        let made = expanded_gcm(self.0, key);
        // What moving the expanded key to the heap has left behind.
        wipe_stack();
        made
    }
}

#[inline(never)]
fn expanded_gcm(backend: Backend, key: &Sm4Key) -> Arc<dyn Aead> {
    Arc::new(SoftwareGcm(gcm::Key::new(backend, &key.0)))
}

struct SoftwareGcm(gcm::Key);

impl Aead for SoftwareGcm {
    fn seal(&self, nonce: &[u8; 12], associated: &[u8], data: &mut [u8]) -> Tag {
        let sealed = self.0.seal(nonce, associated, data);
        assert!(sealed.is_ok(), "data fits the counter of GCM");
        // Never taken, by the assertion: a tag that nothing opens.
        Tag(sealed.unwrap_or_default())
    }

    fn open(
        &self,
        nonce: &[u8; 12],
        associated: &[u8],
        data: &mut [u8],
        tag: &Tag,
    ) -> Result<(), Error> {
        self.0.open(nonce, associated, data, &tag.0).map_err(error_of)
    }
}

fn error_of(refused: kernel::Error) -> Error {
    match refused {
        kernel::Error::TagWrong => Error::CiphertextRejected,
        other => Error::CipherInput { cause: other },
    }
}

/// The whole blocks of `data`.
fn whole_blocks(data: &mut [u8]) -> Result<&mut [[u8; BLOCK_SIZE]], Error> {
    let size = data.len();
    let (blocks, rest) = data.as_chunks_mut::<BLOCK_SIZE>();
    if rest.is_empty() { Ok(blocks) } else { Err(Error::CipherBlocks { size }) }
}

/// Encrypts each block for itself, in place. ECB shows which blocks are equal: only for keys and
/// for other systems that want it.
///
/// # Errors
/// [`Error::CipherBlocks`] unless `data` is whole blocks.
pub fn ecb_encrypt(backend: Backend, key: &Sm4Key, data: &mut [u8]) -> Result<(), Error> {
    let blocks = whole_blocks(data)?;
    key.expanded(backend).encrypt_blocks(blocks);
    Ok(())
}

/// Decrypts what [`ecb_encrypt`] made.
///
/// # Errors
/// [`Error::CipherBlocks`] unless `data` is whole blocks.
pub fn ecb_decrypt(backend: Backend, key: &Sm4Key, data: &mut [u8]) -> Result<(), Error> {
    let blocks = whole_blocks(data)?;
    key.expanded(backend).decrypt_blocks(blocks);
    Ok(())
}

/// Encrypts or decrypts `data` of any length in place with the key stream from `counter` on, a
/// 128-bit big-endian number (GB/T 17964-2021 10). Nothing tells whether the data is genuine.
pub fn ctr(backend: Backend, key: &Sm4Key, counter: &[u8; BLOCK_SIZE], data: &mut [u8]) {
    key.expanded(backend).ctr(counter, data);
}

/// Encrypts whole blocks as a chain (GB/T 17964-2021 6); for other lengths see [`pad`].
///
/// # Errors
/// [`Error::CipherBlocks`] unless `data` is whole blocks.
pub fn cbc_encrypt(
    backend: Backend,
    key: &Sm4Key,
    vector: &[u8; BLOCK_SIZE],
    data: &mut [u8],
) -> Result<(), Error> {
    let blocks = whole_blocks(data)?;
    key.expanded(backend).cbc_encrypt(&mut { *vector }, blocks);
    Ok(())
}

/// Decrypts what [`cbc_encrypt`] made; padding, if there is any, is still there. Nothing tells
/// whether the data is genuine.
///
/// # Errors
/// [`Error::CipherBlocks`] unless `data` is whole blocks.
pub fn cbc_decrypt(
    backend: Backend,
    key: &Sm4Key,
    vector: &[u8; BLOCK_SIZE],
    data: &mut [u8],
) -> Result<(), Error> {
    let blocks = whole_blocks(data)?;
    key.expanded(backend).cbc_decrypt(&mut { *vector }, blocks);
    Ok(())
}

/// Encrypts every stream as a chain of its own, side by side: many times faster than one after the
/// other.
pub fn cbc_encrypt_many(backend: Backend, key: &Sm4Key, streams: &mut [CbcStream<'_>]) {
    key.expanded(backend).cbc_encrypt_many(streams);
}

/// Adds 1 to 16 bytes, each saying how many they are, up to whole blocks (PKCS#7, RFC 5652 6.3).
pub fn pad(data: &mut Vec<u8>) {
    let added = BLOCK_SIZE - data.len() % BLOCK_SIZE;
    data.resize(data.len() + added, added.to_le_bytes()[0]);
}

/// Takes off what [`pad`] added; constant time in the bytes, but not in how many it takes off.
///
/// Who can send ciphertexts and learn whether padding was right can read messages. So there is one
/// error for all that is wrong, the data is empty and overwritten then, and a protocol must check a
/// MAC over the ciphertext first.
///
/// # Errors
/// [`Error::CiphertextRejected`].
pub fn unpad(data: &mut Vec<u8>) -> Result<(), Error> {
    match padding_size(data) {
        Some(size) => {
            data.truncate(data.len() - size);
            Ok(())
        }
        None => {
            zeroize::Zeroize::zeroize(data);
            Err(Error::CiphertextRejected)
        }
    }
}

/// The bytes of padding, if it is right; looks at all bytes of the last block in any case.
fn padding_size(data: &[u8]) -> Option<usize> {
    let (blocks, rest) = data.as_chunks::<BLOCK_SIZE>();
    let block = blocks.last().filter(|_| rest.is_empty())?;
    let size = block[BLOCK_SIZE - 1];
    // All ones where the condition holds: the borrow of a subtraction, spread over the byte.
    let below = |left: u16, right: u16| left.wrapping_sub(right).to_be_bytes()[0];
    let mut wrong = below(u16::from(size), 1) | below(16, u16::from(size));
    for (from_end, byte) in (0_u16..).zip(block.iter().rev()) {
        wrong |= below(from_end, u16::from(size)) & (byte ^ size);
    }
    (core::hint::black_box(wrong) == 0).then_some(usize::from(size))
}

/// SM4-GCM of one message with a nonce of any length but zero; gives the whole tag, which may be
/// cut to 12 bytes. The nonce must never be used with this key again.
///
/// # Errors
/// [`Error::CipherInput`]; `data` is as it was.
pub fn gcm_seal(
    backend: Backend,
    key: &Sm4Key,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
) -> Result<[u8; 16], Error> {
    gcm::Key::new(backend, &key.0).seal(nonce, associated, data).map_err(error_of)
}

/// Decrypts what [`gcm_seal`] made, with a tag of 12 to 16 bytes.
///
/// # Errors
/// [`Error::CiphertextRejected`], [`Error::CipherInput`]; `data` is zero then.
pub fn gcm_open(
    backend: Backend,
    key: &Sm4Key,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
    tag: &[u8],
) -> Result<(), Error> {
    gcm::Key::new(backend, &key.0).open(nonce, associated, data, tag).map_err(error_of)
}

/// SM4-CCM of one message (SP 800-38C, RFC 8998 3.2.2) with a nonce of 7 to 13 bytes. The first
/// `tag_size` bytes of the result, an even number from 4 to 16, are the tag. The nonce must never
/// be used with this key again.
///
/// # Errors
/// [`Error::CipherInput`]; `data` is as it was.
pub fn ccm_seal(
    backend: Backend,
    key: &Sm4Key,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
    tag_size: usize,
) -> Result<[u8; 16], Error> {
    ccm::seal(&key.expanded(backend), nonce, associated, data, tag_size).map_err(error_of)
}

/// Decrypts what [`ccm_seal`] made; the length of `tag` is the tag size.
///
/// # Errors
/// [`Error::CiphertextRejected`], [`Error::CipherInput`]; `data` is zero then.
pub fn ccm_open(
    backend: Backend,
    key: &Sm4Key,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
    tag: &[u8],
) -> Result<(), Error> {
    ccm::open(&key.expanded(backend), nonce, associated, data, tag).map_err(error_of)
}
