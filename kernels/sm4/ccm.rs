//! SM4-CCM (SP 800-38C with SM4, as RFC 8998 3.2.2): authenticated encryption in place.
//!
//! The tag is a chain of blocks, each encrypted after the one before: CCM is as slow as one block
//! at a time. Where speed matters there is [`super::gcm`].

use super::{BLOCK_SIZE, Block, Error, Key, equal, xor};

/// Bytes of the longest tag.
pub const TAG_SIZE_MAX: usize = 16;

/// Bytes of the first block that are neither nonce nor length of the data.
const FLAGS_SIZE: usize = 1;

/// Bytes of the length of associated data below [`SHORT_BYTES_END`].
const SHORT_BYTES_END: u64 = 0xff00;

/// Encrypts `data` in place and gives a tag of `tag_size` bytes, zeros behind it (SP 800-38C 6.1).
/// The nonce must never be used with this key again.
///
/// # Errors
/// [`Error::TagLength`] unless `tag_size` is even and 4..=16, [`Error::NonceLength`] unless the
/// nonce has 7 to 13 bytes, [`Error::DataLength`] if the nonce leaves too little place for the
/// length of the data; the data is as it was.
pub fn seal(
    key: &Key,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
    tag_size: usize,
) -> Result<[u8; TAG_SIZE_MAX], Error> {
    check(nonce, data.len() as u64, tag_size)?;
    let mut tag = mac(key, nonce, associated, data, tag_size);
    mask(key, nonce, &mut tag, data);
    tag[tag_size..].fill(0);
    Ok(tag)
}

/// Decrypts `data` in place if the tag belongs to it (SP 800-38C 6.2).
///
/// # Errors
/// [`Error::TagWrong`], and those of [`seal`]; the data is zero then.
pub fn open(
    key: &Key,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
    tag: &[u8],
) -> Result<(), Error> {
    let opened = open_if_right(key, nonce, associated, data, tag);
    if opened.is_err() {
        super::wipe(data);
    }
    opened
}

fn open_if_right(
    key: &Key,
    nonce: &[u8],
    associated: &[u8],
    data: &mut [u8],
    tag: &[u8],
) -> Result<(), Error> {
    check(nonce, data.len() as u64, tag.len())?;
    let mut given = [0; TAG_SIZE_MAX];
    given[..tag.len()].copy_from_slice(tag);
    // The tag is over what was encrypted, so decrypting comes first; `open` leaves nothing of it.
    mask(key, nonce, &mut given, data);
    let wanted = mac(key, nonce, associated, data, tag.len());
    if equal(&wanted[..tag.len()], &given[..tag.len()]) { Ok(()) } else { Err(Error::TagWrong) }
}

/// The conditions of SP 800-38C 5.3 and A.1.
fn check(nonce: &[u8], data_bytes: u64, tag_size: usize) -> Result<(), Error> {
    if !(7..=13).contains(&nonce.len()) {
        return Err(Error::NonceLength);
    }
    if !((4..=TAG_SIZE_MAX).contains(&tag_size) && tag_size.is_multiple_of(2)) {
        return Err(Error::TagLength);
    }
    let length_bits = 8 * length_size(nonce);
    if length_bits < 64 && data_bytes >> length_bits != 0 {
        return Err(Error::DataLength);
    }
    Ok(())
}

/// q, the bytes of the length of the data.
const fn length_size(nonce: &[u8]) -> usize {
    BLOCK_SIZE - FLAGS_SIZE - nonce.len()
}

/// Adds S0 to the tag and the key stream behind it to the data (SP 800-38C A.3).
fn mask(key: &Key, nonce: &[u8], tag: &mut Block, data: &mut [u8]) {
    let mut counter = [0; BLOCK_SIZE];
    counter[0] = low_byte(length_size(nonce) - 1);
    counter[FLAGS_SIZE..][..nonce.len()].copy_from_slice(nonce);
    let counter = key.ctr(&counter, tag);
    key.ctr(&counter, data);
}

/// The chained blocks of nonce, associated data and data (SP 800-38C A.2), encrypted.
fn mac(key: &Key, nonce: &[u8], associated: &[u8], data: &[u8], tag_size: usize) -> Block {
    let has_associated = usize::from(!associated.is_empty());
    let mut first = (data.len() as u128).to_be_bytes();
    first[0] = low_byte(64 * has_associated + 8 * ((tag_size - 2) / 2) + length_size(nonce) - 1);
    first[FLAGS_SIZE..][..nonce.len()].copy_from_slice(nonce);
    let mut chain = Chain { key, sum: [0; BLOCK_SIZE], filled: 0 };
    chain.add(&first);
    if has_associated == 1 {
        let size = associated.len() as u64;
        let bytes = size.to_be_bytes();
        if size < SHORT_BYTES_END {
            chain.add(&bytes[6..]);
        } else if size < 1 << 32 {
            chain.add(&[0xff, 0xfe]);
            chain.add(&bytes[4..]);
        } else {
            chain.add(&[0xff, 0xff]);
            chain.add(&bytes);
        }
        chain.add(associated);
        chain.close();
    }
    chain.add(data);
    chain.close();
    chain.sum
}

const fn low_byte(flags: usize) -> u8 {
    flags.to_le_bytes()[0]
}

/// CBC-MAC of pieces of any length.
struct Chain<'k> {
    key: &'k Key,
    sum: Block,
    /// Bytes added to the sum since it was last encrypted.
    filled: usize,
}

impl Chain<'_> {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_SIZE - self.filled));
            xor(&mut self.sum[self.filled..], piece);
            self.filled += piece.len();
            if self.filled == BLOCK_SIZE {
                self.encrypt();
            }
            bytes = rest;
        }
    }

    /// Fills the block that was begun with zeros.
    fn close(&mut self) {
        if self.filled > 0 {
            self.encrypt();
        }
    }

    fn encrypt(&mut self) {
        self.key.encrypt_blocks(core::slice::from_mut(&mut self.sum));
        self.filled = 0;
    }
}
