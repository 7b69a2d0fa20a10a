//! The bytes of a data key file.
//!
//! ```text
//! keys in clear, version 1                                 little-endian
//! "HUFUDKEY"  version u32  count u32
//! key         id u64  zero 40  material 32  zero 32        count times
//! check       SM3 of all the above
//!
//! keys wrapped by a card, version 2
//! "HUFUDKEY"  version u32  count u32
//! wrapping    kind u32 = 1  sizes u32 of: a wrapped key, the card's path, the URI
//! card        path of the card's file, UTF-8; relative to the folder of this file
//! uri         the wrapping key, as `KeyUri` writes it
//! key         id u64  wrapped                              count times
//! check       SM3 of all the above
//! ```
//!
//! The form of a wrapped key is the card layer's and carries its own integrity, under the key that
//! is inside. The id follows from the key, so what another card or key made of it is known.

use std::path::PathBuf;

use hufu_crypto::Sm3;
use hufu_hsm::keystore::WRAPPED_BYTES_MAX;
use hufu_hsm::uri::KeyUri;
use hufu_storage::keyring::{DATA_KEY_BYTES, DataKey};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::{Zeroize, Zeroizing};

use super::KEYS_COUNT_MAX;
use crate::card_key::CardPlace;
use crate::keys_file::KEY_FILE_SIZE_MAX;

const MAGIC: [u8; 8] = *b"HUFUDKEY";
const VERSION_CLEAR: u32 = 1;
const VERSION_WRAPPED: u32 = 2;

/// The only kind of wrapping: an SM4 key in a card, through `Keystore::wrap`.
const WRAPPING_CARD: u32 = 1;

/// Bytes of the path of a card's file at most.
const CARD_PATH_BYTES_MAX: usize = 4_096;

/// Bytes of the wrapping key's URI at most.
const URI_BYTES_MAX: usize = 1_024;

/// Bytes of the check at the end.
pub(super) const CHECK_BYTES: usize = 32;

const _: () = assert!(
    16 + 16
        + CARD_PATH_BYTES_MAX as u64
        + URI_BYTES_MAX as u64
        + KEYS_COUNT_MAX as u64 * (8 + WRAPPED_BYTES_MAX as u64)
        + (CHECK_BYTES as u64)
        < KEY_FILE_SIZE_MAX,
    "the largest file is read"
);

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredHeader {
    magic: [u8; 8],
    version: U32,
    keys_count: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredKey {
    id: U64,
    reserved: [u8; 40],
    material: [u8; DATA_KEY_BYTES],
    material_reserved: [u8; 32],
}

impl Drop for StoredKey {
    fn drop(&mut self) {
        self.material.zeroize();
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct StoredWrapping {
    kind: U32,
    wrapped_bytes: U32,
    card_bytes: U32,
    uri_bytes: U32,
}

/// A data key itself, in one place of the heap, so that moving it leaves no copy behind;
/// overwritten when dropped.
pub(super) struct Secret(Box<[u8; DATA_KEY_BYTES]>);

impl Secret {
    /// The one that `fill` writes.
    pub(super) fn filled<E>(
        fill: impl FnOnce(&mut [u8; DATA_KEY_BYTES]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut secret = Self(Box::new([0; DATA_KEY_BYTES]));
        fill(&mut secret.0).map(|()| secret)
    }

    /// A copy of these bytes, of which the caller overwrites his.
    fn of(bytes: &[u8; DATA_KEY_BYTES]) -> Self {
        let mut secret = Self(Box::new([0; DATA_KEY_BYTES]));
        secret.0.copy_from_slice(bytes);
        secret
    }

    pub(super) const fn bytes(&self) -> &[u8; DATA_KEY_BYTES] {
        &self.0
    }

    /// What headers name it by.
    pub(super) fn id(&self) -> u64 {
        DataKey::id_of(&self.0)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What a data key file holds, the current key first; one at least, and none twice.
pub(super) enum Stored {
    /// The keys themselves.
    Clear(Vec<Secret>),
    /// What only a card opens.
    Wrapped(Wrapped),
}

/// Keys that are wrapped by one key of one card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrapped {
    /// By which; the card's path is as the file has it.
    pub(super) by: CardPlace,
    pub(super) keys: Vec<WrappedKey>,
}

/// A wrapped data key, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrappedKey {
    pub(super) id: u64,
    pub(super) wrapped: Vec<u8>,
}

impl Stored {
    /// The ids, the current key's first.
    pub(super) fn ids(&self) -> Vec<u64> {
        match self {
            Self::Clear(keys) => keys.iter().map(Secret::id).collect(),
            Self::Wrapped(wrapped) => wrapped.keys.iter().map(|key| key.id).collect(),
        }
    }
}

/// The file of keys in clear.
pub(super) fn encode_clear(secrets: &[Secret]) -> Zeroizing<Vec<u8>> {
    let bytes = size_of::<StoredHeader>() + secrets.len() * size_of::<StoredKey>() + CHECK_BYTES;
    // The buffer has its full size at once: a buffer that grew would leave copies behind.
    let mut file = Zeroizing::new(Vec::with_capacity(bytes));
    file.extend_from_slice(header(VERSION_CLEAR, secrets.len()).as_bytes());
    for secret in secrets {
        let key = StoredKey {
            id: U64::new(secret.id()),
            reserved: [0; 40],
            material: *secret.bytes(),
            material_reserved: [0; 32],
        };
        file.extend_from_slice(key.as_bytes());
    }
    let check = Sm3::of(&[&file]);
    file.extend_from_slice(&check.0);
    assert!(file.len() == bytes, "the buffer did not grow");
    file
}

/// The file of wrapped keys.
///
/// # Errors
/// What of it does not fit; what is given is then not what a card or an operator should give.
pub(super) fn encode_wrapped(wrapped: &Wrapped) -> Result<Vec<u8>, &'static str> {
    let card = wrapped.by.card.to_str().ok_or("the path of the card's file is not UTF-8")?;
    let uri = wrapped.by.key.to_string();
    let size = wrapped.keys.first().map_or(0, |key| key.wrapped.len());
    if wrapped.keys.iter().any(|key| key.wrapped.len() != size) {
        return Err("the card wrapped its keys to different lengths");
    }
    let word = |size: usize| U32::new(u32::try_from(size).unwrap_or(u32::MAX));
    let wrapping = StoredWrapping {
        kind: U32::new(WRAPPING_CARD),
        wrapped_bytes: word(size),
        card_bytes: word(card.len()),
        uri_bytes: word(uri.len()),
    };
    let mut file = header(VERSION_WRAPPED, wrapped.keys.len()).as_bytes().to_vec();
    file.extend_from_slice(wrapping.as_bytes());
    file.extend_from_slice(card.as_bytes());
    file.extend_from_slice(uri.as_bytes());
    for key in &wrapped.keys {
        file.extend_from_slice(&key.id.to_le_bytes());
        file.extend_from_slice(&key.wrapped);
    }
    let check = Sm3::of(&[&file]);
    file.extend_from_slice(&check.0);
    match decode(&file)? {
        Stored::Wrapped(read) if read == *wrapped => Ok(file),
        _ => Err("what is written is not read as it is meant"),
    }
}

fn header(version: u32, keys_count: usize) -> StoredHeader {
    StoredHeader {
        magic: MAGIC,
        version: U32::new(version),
        keys_count: U32::new(u32::try_from(keys_count).unwrap_or(u32::MAX)),
    }
}

/// Reads a file; no other bytes mean the same.
///
/// # Errors
/// What is wrong with it, for [`crate::keys_file::KeyFileError::DataKey`].
pub(super) fn decode(content: &[u8]) -> Result<Stored, &'static str> {
    let (header, rest) =
        StoredHeader::ref_from_prefix(content).map_err(|_| "it is none, or cut off")?;
    if header.magic != MAGIC {
        return Err("it is none");
    }
    let version = header.version.get();
    if version != VERSION_CLEAR && version != VERSION_WRAPPED {
        return Err("it has a format version that this build does not read");
    }
    let (body, check) = rest.split_last_chunk::<CHECK_BYTES>().ok_or("it is cut off")?;
    let checked = content.len() - CHECK_BYTES;
    if content.get(..checked).is_none_or(|checked| Sm3::of(&[checked]).0 != *check) {
        return Err("its check differs: it is damaged");
    }
    let count = header.keys_count.get();
    if !(1..=KEYS_COUNT_MAX).contains(&count) {
        return Err("its count of keys is wrong");
    }
    let count = usize::try_from(count).map_err(|_| "its count of keys is wrong")?;
    let stored = if version == VERSION_CLEAR {
        Stored::Clear(clear(body, count)?)
    } else {
        Stored::Wrapped(wrapped(body, count)?)
    };
    let ids = stored.ids();
    let is_twice = |(place, id): (usize, &u64)| ids.iter().take(place).any(|other| other == id);
    if ids.iter().enumerate().any(is_twice) {
        return Err("its fields contradict each other");
    }
    Ok(stored)
}

fn clear(body: &[u8], count: usize) -> Result<Vec<Secret>, &'static str> {
    let keys = <[StoredKey]>::ref_from_bytes(body).map_err(|_| "it is damaged")?;
    if keys.len() != count {
        return Err("its count of keys is wrong");
    }
    let mut secrets = Vec::with_capacity(count);
    for key in keys {
        let is_canonical = key.reserved == [0; 40]
            && key.material_reserved == [0; 32]
            && key.id.get() == DataKey::id_of(&key.material);
        if !is_canonical {
            return Err("its fields contradict each other");
        }
        secrets.push(Secret::of(&key.material));
    }
    Ok(secrets)
}

fn wrapped(body: &[u8], count: usize) -> Result<Wrapped, &'static str> {
    let (wrapping, rest) = StoredWrapping::ref_from_prefix(body).map_err(|_| "it is cut off")?;
    if wrapping.kind.get() != WRAPPING_CARD {
        return Err("its keys are wrapped in a way that this build does not know");
    }
    let size = |word: U32, max: usize| {
        let size = usize::try_from(word.get()).ok().filter(|size| (1..=max).contains(size));
        size.ok_or("its sizes are wrong")
    };
    let wrapped_bytes = size(wrapping.wrapped_bytes, WRAPPED_BYTES_MAX)?;
    let card_bytes = size(wrapping.card_bytes, CARD_PATH_BYTES_MAX)?;
    let uri_bytes = size(wrapping.uri_bytes, URI_BYTES_MAX)?;
    let (card, rest) = rest.split_at_checked(card_bytes).ok_or("its sizes are wrong")?;
    let (uri, rest) = rest.split_at_checked(uri_bytes).ok_or("its sizes are wrong")?;
    if rest.len() != count * (8 + wrapped_bytes) {
        return Err("its count of keys is wrong");
    }
    let card = std::str::from_utf8(card).map_err(|_| "the path of its card is not UTF-8")?;
    let uri = std::str::from_utf8(uri).map_err(|_| "the URI of its key is not UTF-8")?;
    let key: KeyUri = uri.parse().map_err(|_| "it names no key in a card")?;
    if key.to_string() != uri || card.contains('\0') {
        return Err("its fields contradict each other");
    }
    let keys = rest.chunks_exact(8 + wrapped_bytes).filter_map(|key| {
        let (id, wrapped) = key.split_first_chunk()?;
        Some(WrappedKey { id: u64::from_le_bytes(*id), wrapped: wrapped.to_vec() })
    });
    Ok(Wrapped { by: CardPlace { card: PathBuf::from(card), key }, keys: keys.collect() })
}
