//! SM4-GCM (SP 800-38D with SM4, as RFC 8998 3.2.1): authenticated encryption in place.

#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
use super::Schedule;
use super::{BLOCK_SIZE, Block, Error, Key as BlockKey, equal, ghash};
use crate::Backend;

/// Bytes of a whole tag.
pub const TAG_SIZE: usize = 16;

/// Bytes of the shortest tag that is taken (SP 800-38D 5.2.1.2 without the ones for special uses).
pub const TAG_SIZE_MIN: usize = 12;

/// Most bytes of data under one nonce: 2^39 - 256 bits (SP 800-38D 5.2.1.1).
pub const DATA_BYTES_MAX: u64 = (1 << 36) - 32;

/// Most bytes of associated data, and of a nonce: 2^64 - 1 bits, so whole bytes below 2^61.
const OTHER_BYTES_MAX: u64 = (1 << 61) - 1;

/// Bytes that are encrypted, then hashed while they are still close to the CPU: whole blocks.
const PIECE_SIZE: usize = 256 * BLOCK_SIZE;

/// Bytes of the nonce that is not hashed.
const NONCE_SIZE: usize = 12;

/// An expanded key with its hash key; overwritten when dropped.
pub struct Key {
    blocks: BlockKey,
    hash: ghash::Key,
}

impl Key {
    /// Expands a key; constant time.
    #[must_use]
    pub fn new(backend: Backend, key: &[u8; BLOCK_SIZE]) -> Self {
        let blocks = BlockKey::new(backend, key);
        let mut point = [[0; BLOCK_SIZE]];
        blocks.encrypt_blocks(&mut point);
        let hash = ghash::Key::new(backend, &point[0]);
        super::wipe(&mut point);
        Self { blocks, hash }
    }

    /// Encrypts `data` in place and gives the whole tag, which may be cut to [`TAG_SIZE_MIN`] bytes
    /// (SP 800-38D 7.1). The nonce, of any length but zero, must never be used with this key again.
    ///
    /// # Errors
    /// [`Error::NonceLength`] and [`Error::DataLength`]; the data is as it was.
    pub fn seal(
        &self,
        nonce: &[u8],
        associated: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG_SIZE], Error> {
        check_lengths(nonce, associated, data)?;
        let first = self.first_counter(nonce);
        Ok(self.crypt::<false>(&first, associated, data))
    }

    /// Decrypts `data` in place if the tag, of 12 to 16 bytes, belongs to it (SP 800-38D 7.2).
    ///
    /// # Errors
    /// [`Error::TagWrong`], [`Error::TagLength`], [`Error::NonceLength`], [`Error::DataLength`];
    /// the data is zero then.
    pub fn open(
        &self,
        nonce: &[u8],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Error> {
        let opened = self.open_unguarded(nonce, associated, data, tag);
        if opened.is_err() {
            super::wipe(data);
        }
        opened
    }

    /// As [`Self::open`], but leaves the data decrypted when the tag is wrong.
    fn open_unguarded(
        &self,
        nonce: &[u8],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8],
    ) -> Result<(), Error> {
        check_lengths(nonce, associated, data)?;
        if !(TAG_SIZE_MIN..=TAG_SIZE).contains(&tag.len()) {
            return Err(Error::TagLength);
        }
        let first = self.first_counter(nonce);
        let wanted = self.crypt::<true>(&first, associated, data);
        if equal(&wanted[..tag.len()], tag) { Ok(()) } else { Err(Error::TagWrong) }
    }

    /// Encrypts `data`, or decrypts it with `OPEN`, and gives the tag (SP 800-38D 7.1 steps 3 to
    /// 6): the gate of what does both at once.
    fn crypt<const OPEN: bool>(&self, first: &Block, associated: &[u8], data: &mut [u8]) -> Block {
        let mut sum = 0;
        self.hash.update_padded(&mut sum, associated);
        let lengths = lengths(associated, data);
        #[cfg(target_arch = "x86_64")]
        if let (Schedule::Avx512(schedule), ghash::Key::Avx512(powers)) =
            (&self.blocks.schedule, &self.hash)
            && !wraps(first, data.len())
        {
            let ends = [first, &lengths];
            // SAFETY: a schedule of this kind is made only where the CPU has what it needs.
            return unsafe { avx512::crypt::<OPEN>(schedule, powers, ends, sum, data) };
        }
        let mut counter = next(first);
        for piece in data.chunks_mut(PIECE_SIZE) {
            if OPEN {
                self.hash.update_padded(&mut sum, piece);
            }
            counter = self.blocks.ctr32(&counter, piece);
            if !OPEN {
                self.hash.update_padded(&mut sum, piece);
            }
        }
        self.hash.update(&mut sum, &[lengths]);
        let mut tag = sum.to_be_bytes();
        self.blocks.ctr32(first, &mut tag);
        tag
    }

    /// J0 (SP 800-38D 7.1 step 2).
    fn first_counter(&self, nonce: &[u8]) -> Block {
        if nonce.len() == NONCE_SIZE {
            let mut counter = [0; BLOCK_SIZE];
            counter[..NONCE_SIZE].copy_from_slice(nonce);
            counter[BLOCK_SIZE - 1] = 1;
            return counter;
        }
        let mut sum = 0;
        self.hash.update_padded(&mut sum, nonce);
        self.hash.update(&mut sum, &[lengths(&[], nonce)]);
        sum.to_be_bytes()
    }
}

/// Whether the last word of the counter wraps between J0 and the last block of data.
#[cfg(target_arch = "x86_64")]
fn wraps(first: &Block, size: usize) -> bool {
    let place = u64::from(super::low_word(u128::from_be_bytes(*first)));
    place + (size as u64).div_ceil(BLOCK_SIZE as u64) > u64::from(u32::MAX)
}

/// The counter of the first block of data: J0 with its last 32 bits raised by one.
fn next(first: &Block) -> Block {
    let number = u128::from_be_bytes(*first);
    let low = u128::from(super::low_word(number).wrapping_add(1));
    (number & !u128::from(u32::MAX) | low).to_be_bytes()
}

/// The lengths in bits, the last block that is hashed.
fn lengths(associated: &[u8], data: &[u8]) -> Block {
    let bits = |bytes: &[u8]| 8 * bytes.len() as u128;
    ((bits(associated) << 64) | bits(data)).to_be_bytes()
}

fn check_lengths(nonce: &[u8], associated: &[u8], data: &[u8]) -> Result<(), Error> {
    check_numbers([nonce, associated, data].map(|bytes| bytes.len() as u64))
}

fn check_numbers([nonce, associated, data]: [u64; 3]) -> Result<(), Error> {
    if nonce == 0 || nonce > OTHER_BYTES_MAX {
        return Err(Error::NonceLength);
    }
    if associated > OTHER_BYTES_MAX || data > DATA_BYTES_MAX {
        return Err(Error::DataLength);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(check_numbers([1, 0, 0]), Ok(()));
        assert_eq!(check_numbers([0, 0, 0]), Err(Error::NonceLength));
        assert_eq!(check_numbers([OTHER_BYTES_MAX, OTHER_BYTES_MAX, DATA_BYTES_MAX]), Ok(()));
        assert_eq!(check_numbers([OTHER_BYTES_MAX + 1, 0, 0]), Err(Error::NonceLength));
        assert_eq!(check_numbers([12, OTHER_BYTES_MAX + 1, 0]), Err(Error::DataLength));
        assert_eq!(check_numbers([12, 0, DATA_BYTES_MAX + 1]), Err(Error::DataLength));
    }

    #[test]
    fn only_the_last_word_of_the_counter_moves() {
        let mut first = [0xff; BLOCK_SIZE];
        let mut second = first;
        second[12..].fill(0);
        assert_eq!(next(&first), second);
        first[15] = 7;
        assert_eq!(next(&first)[15], 8);
    }
}
