//! Encryption of a group: in place, step by step, while it fills.
//!
//! ```text
//! buffer:  [ header | step 0 ][ step 1 ] ... [ rest of the records | tags of the steps | zeroes ]
//!            clear    tag 0     tag 1          tag in the header
//! ```
//!
//! A whole step, 64 KiB, is encrypted as soon as it is full, and then hashed; the device may have
//! the group before meanwhile. What is left is encrypted when the group ends, and with it the tags
//! of the steps, so that the one tag in the header vouches for every byte. A short group, and most
//! are, has no steps and nothing but that tag.
//!
//! Each group has a key of its own, made from 128 random bits of its header and from its place. So
//! the nonces can be the numbers of the steps, whatever was written at that place before, and no
//! group opens at another place or in another log.

use std::sync::Arc;

use hufu_crypto::{Aead, Tag};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, IntoBytes, KnownLayout, Unaligned};

use super::LogKind;
use super::format::{GROUP_HEADER_BYTES, STEP_BYTES, TAG_BYTES, steps_count};
use crate::error::Error;
use crate::keyring::Keyring;
use crate::widths;

/// Which group it is: its key opens no other.
#[derive(Clone, Copy)]
pub(crate) struct GroupName {
    pub(crate) kind: LogKind,
    pub(crate) chain: [u8; 32],
    pub(crate) segment: u32,
    pub(crate) offset: u64,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) flags: u32,
}

#[derive(IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredName {
    magic: [u8; 8],
    chain: [u8; 32],
    segment: U32,
    flags: U32,
    offset: U64,
    epoch: U64,
    sequence: U64,
}

impl GroupName {
    fn stored(&self) -> StoredName {
        StoredName {
            magic: self.kind.group_magic(),
            chain: self.chain,
            segment: U32::new(self.segment),
            flags: U32::new(self.flags),
            offset: U64::new(self.offset),
            epoch: U64::new(self.epoch),
            sequence: U64::new(self.sequence),
        }
    }
}

/// What the last tag covers beside the bytes.
#[derive(Clone, Copy, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct GroupSizes {
    version: U16,
    payload_bytes: U32,
    padded_bytes: U32,
    records_count: U32,
}

impl GroupSizes {
    pub(crate) fn new(payload_bytes: u32, padded_bytes: u32, records_count: u32) -> Self {
        Self {
            version: U16::new(1),
            payload_bytes: U32::new(payload_bytes),
            padded_bytes: U32::new(padded_bytes),
            records_count: U32::new(records_count),
        }
    }

    fn payload(&self) -> usize {
        widths::index(self.payload_bytes.get())
    }

    fn padded(&self) -> usize {
        widths::index(self.padded_bytes.get())
    }
}

/// What a header says of the encryption of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encrypted {
    pub(crate) key_id: u64,
    pub(crate) salt: [u8; 16],
    pub(crate) tag: [u8; TAG_BYTES],
}

/// Encrypts a group that fills.
pub(super) struct GroupCipher {
    aead: Arc<dyn Aead>,
    key_id: u64,
    salt: [u8; 16],
    tags: Vec<Tag>,
}

impl GroupCipher {
    /// Draws the key of a new group.
    pub(super) fn begin(keys: &Keyring, name: &GroupName) -> Result<Self, Error> {
        let mut salt = [0; 16];
        hufu_crypto::entropy::fill(&mut salt)?;
        Ok(Self::with_salt(keys, name, salt))
    }

    /// The same with a salt that was drawn: never twice with one.
    pub(super) fn with_salt(keys: &Keyring, name: &GroupName, salt: [u8; 16]) -> Self {
        let aead = keys.new_group(&salt, name.stored().as_bytes());
        Self { aead, key_id: keys.current(), salt, tags: Vec::new() }
    }

    /// Encrypts the steps that the first `filled` bytes of the group complete; returns how many of
    /// its first bytes are as they will be stored.
    pub(super) fn grow(&mut self, buffer: &mut [u8], filled: usize) -> usize {
        assert!(filled <= buffer.len());
        while (self.tags.len() + 1) * STEP_BYTES <= filled {
            let step = self.tags.len();
            let bytes = buffer.get_mut(step_start(step)..(step + 1) * STEP_BYTES);
            let tag = self.aead.seal(&nonce(step), &[], bytes.unwrap_or_default());
            self.tags.push(tag);
        }
        self.tags.len() * STEP_BYTES
    }

    /// Ends the group: stores the tags behind its records and encrypts what is left. What is behind
    /// them must be zero.
    pub(super) fn finish(self, buffer: &mut [u8], sizes: &GroupSizes) -> Encrypted {
        let (payload, padded, steps) = (sizes.payload(), sizes.padded(), self.tags.len());
        assert!(steps == steps_count(payload) && padded <= buffer.len());
        let mut at = GROUP_HEADER_BYTES + payload;
        for tag in &self.tags {
            let target = buffer.get_mut(at..at + TAG_BYTES).unwrap_or_default();
            target.copy_from_slice(&tag.0);
            at += TAG_BYTES;
        }
        assert!(at <= padded);
        let rest = buffer.get_mut(step_start(steps)..padded).unwrap_or_default();
        assert!(!rest.is_empty());
        let tag = self.aead.seal(&nonce(steps), sizes.as_bytes(), rest);
        Encrypted { key_id: self.key_id, salt: self.salt, tag: tag.0 }
    }
}

/// Decrypts a stored group in place. False when it is not what was encrypted under this key, here;
/// then its bytes are of no use any more. `None` when the key is not there.
pub(super) fn open(
    keys: &Keyring,
    name: &GroupName,
    (sizes, encrypted): (&GroupSizes, &Encrypted),
    group: &mut [u8],
) -> Option<bool> {
    let aead = keys.group(encrypted.key_id, &encrypted.salt, name.stored().as_bytes())?;
    let (payload, steps) = (sizes.payload(), steps_count(sizes.payload()));
    assert!(group.len() == sizes.padded());
    let (whole, rest) = group.split_at_mut_checked(step_start(steps))?;
    let tag = Tag(encrypted.tag);
    if aead.open(&nonce(steps), sizes.as_bytes(), rest, &tag).is_err() {
        return Some(false);
    }
    let tags_start = GROUP_HEADER_BYTES + payload - step_start(steps);
    for step in 0..steps {
        let at = tags_start + step * TAG_BYTES;
        let tag = rest.get(at..).and_then(|tags| tags.first_chunk::<TAG_BYTES>());
        let bytes = whole.get_mut(step_start(step)..(step + 1) * STEP_BYTES);
        let (Some(tag), Some(bytes)) = (tag, bytes) else { return Some(false) };
        if aead.open(&nonce(step), &[], bytes, &Tag(*tag)).is_err() {
            return Some(false);
        }
    }
    Some(true)
}

/// Where the encrypted bytes of a step begin: the header of the group is none of them.
fn step_start(step: usize) -> usize {
    (step * STEP_BYTES).max(GROUP_HEADER_BYTES)
}

/// The number of the step. It repeats from group to group, and the key does not.
fn nonce(step: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    for (byte, number) in nonce.iter_mut().zip(widths::length(step).to_le_bytes()) {
        *byte = number;
    }
    nonce
}
