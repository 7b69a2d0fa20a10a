//! The expiry index: which nonces leave the state at which height.
//!
//! It is the one place where nonces are stored with their heights; the rows of the state root hold
//! their hashes. Its form follows from what it holds: the nonces with the same two heights,
//! ascending, in chunks of which all but the last are full.
//!
//! ```text
//! key    20: valid until u64, used at u64, chunk u32 from 0, all big-endian
//! value    : 1..=2,048 x (sender 20, nonce u64 big-endian), ascending
//!
//! before block h:  scan keys with the prefix valid until = h-1  -->  Expired::read  -->  Plan
//! with block h:    BlockOutcome::expiry  -->  put `additions`, delete `deletions`
//! ```
//!
//! A transaction with last height v is in at a height of at most v, so the chunks for v are
//! complete once block v is executed, and all of them are deleted with block v+1. The state root
//! accepts that deletion only if the state holds each nonce with the two heights of its chunk, so
//! an index that lies about a nonce stops the node before it forgets one.

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_types::Address;
use hufu_types::codec::{DecodeError, Reader, check_range, length_u32};

use crate::corrupt::Corrupt;
use crate::key::StateKey;
use crate::value::Nonce;

/// Nonces in one chunk, count: a value of 56 KiB, far from what a database calls large.
pub const CHUNK_COUNT_MAX: usize = 2_048;

/// Key of one chunk of the index.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct ExpiryKey {
    valid_until: U64,
    used_at: U64,
    chunk: U32,
}

/// One nonce of a chunk.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub(crate) struct ExpiryEntry {
    sender: Address,
    nonce: U64,
}

impl ExpiryEntry {
    pub(crate) const fn new(sender: Address, nonce: u64) -> Self {
        Self { sender, nonce: U64::new(nonce) }
    }

    pub(crate) const fn key(&self) -> StateKey {
        StateKey::Nonce { sender: self.sender, nonce: self.nonce.get() }
    }
}

impl ExpiryKey {
    /// What the keys of all chunks for nonces with this last height begin with.
    #[must_use]
    pub const fn prefix(valid_until: u64) -> [u8; 8] {
        valid_until.to_be_bytes()
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 20] {
        zerocopy::transmute!(*self)
    }

    /// Reads exactly one key.
    ///
    /// # Errors
    /// [`Corrupt::Expiry`] for another number of bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new(bytes);
        let key = reader.fixed::<Self>().copied();
        key.and_then(|key| reader.finish().map(|()| key))
            .map_err(|cause| Corrupt::Expiry { valid_until: 0, cause })
    }

    /// Last valid height of the chunk's nonces.
    #[must_use]
    pub const fn valid_until(&self) -> u64 {
        self.valid_until.get()
    }

    const fn nonce(&self) -> Nonce {
        Nonce { valid_until: self.valid_until.get(), used_at: self.used_at.get() }
    }
}

/// Reads the entries of one chunk.
fn read_chunk<'a>(key: &ExpiryKey, value: &'a [u8]) -> Result<&'a [ExpiryEntry], DecodeError> {
    let count = value.len() / size_of::<ExpiryEntry>();
    let mut reader = Reader::new(value);
    let entries: &[ExpiryEntry] = reader.slice(count)?;
    reader.finish()?;
    let in_range = (1..=CHUNK_COUNT_MAX).contains(&count);
    if !in_range || !entries.is_sorted_by(|first, second| first < second) {
        return Err(DecodeError::NotCanonical { field: "expiry chunk" });
    }
    let Nonce { valid_until, used_at } = key.nonce();
    check_range("height at which a nonce was used", used_at, 1, valid_until)?;
    Ok(entries)
}

/// The entries of the state that one stored chunk stands for, ascending by key: what an audit of
/// the whole state reads nonces from.
///
/// # Errors
/// [`Corrupt::Expiry`] if the chunk is not canonical.
pub fn chunk_nonces(key: &ExpiryKey, value: &[u8]) -> Result<Vec<(StateKey, Nonce)>, Corrupt> {
    let entries = read_chunk(key, value)
        .map_err(|cause| Corrupt::Expiry { valid_until: key.valid_until(), cause })?;
    Ok(entries.iter().map(|entry| (entry.key(), key.nonce())).collect())
}

/// The nonces that leave the state with one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    valid_until: u64,
    /// With the height at which each was used; ascending, without duplicates.
    entries: Vec<(ExpiryEntry, u64)>,
    chunks: Vec<ExpiryKey>,
    last_chunk_count: usize,
}

impl Expired {
    /// Reads the chunks found for `height - 1`, which leave the state with the block at `height`.
    ///
    /// # Errors
    /// [`Corrupt::Expiry`] if a chunk is missing, not canonical, not of that height, or names a
    /// nonce again.
    pub fn read<'a>(
        height: u64,
        chunks: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, Corrupt> {
        assert!(height > 0, "blocks are numbered from 1");
        let mut expired = Self { valid_until: height - 1, ..Self::default() };
        for (key, value) in chunks {
            let key = ExpiryKey::parse(key)?;
            expired
                .add(key, value)
                .map_err(|cause| Corrupt::Expiry { valid_until: expired.valid_until, cause })?;
        }
        expired.entries.sort_unstable();
        if !expired.entries.is_sorted_by(|first, second| first.0 < second.0) {
            let cause = DecodeError::NotCanonical { field: "nonce listed twice" };
            return Err(Corrupt::Expiry { valid_until: expired.valid_until, cause });
        }
        Ok(expired)
    }

    fn add(&mut self, key: ExpiryKey, value: &[u8]) -> Result<(), DecodeError> {
        if key.valid_until() != self.valid_until {
            let (stated, actual) = (key.valid_until(), self.valid_until);
            return Err(DecodeError::Mismatch { field: "expiry height", stated, actual });
        }
        let entries = read_chunk(&key, value)?;
        let (used_at, count) = (key.nonce().used_at, entries.len());
        self.check_next(key, entries)?;
        self.entries.extend(entries.iter().map(|&entry| (entry, used_at)));
        self.chunks.push(key);
        self.last_chunk_count = count;
        Ok(())
    }

    /// Chunks come in the order of their keys; all of one height of use but the last are full, and
    /// none is missing.
    fn check_next(&self, key: ExpiryKey, entries: &[ExpiryEntry]) -> Result<(), DecodeError> {
        let is_next = match self.chunks.last().zip(self.entries.last()) {
            Some((last, (entry, used_at))) if *used_at == key.used_at.get() => {
                let is_full = self.last_chunk_count == CHUNK_COUNT_MAX;
                let next = last.chunk.get().checked_add(1);
                is_full && next == Some(key.chunk.get()) && entries.first() > Some(entry)
            }
            Some((_, (_, used_at))) => *used_at < key.used_at.get() && key.chunk.get() == 0,
            None => key.chunk.get() == 0,
        };
        let cause = DecodeError::NotCanonical { field: "sequence of expiry chunks" };
        if is_next { Ok(()) } else { Err(cause) }
    }

    /// How many nonces leave.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.entries.len()
    }

    /// Last valid height of all of them.
    pub(crate) const fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// Their keys in the state, ascending.
    pub fn keys(&self) -> impl Iterator<Item = StateKey> + '_ {
        self.entries.iter().map(|(entry, _)| entry.key())
    }

    /// The entries that the state must have, ascending by key.
    pub fn nonces(&self) -> impl Iterator<Item = (StateKey, Nonce)> + '_ {
        let valid_until = self.valid_until;
        let entries = self.entries.iter();
        entries.map(move |(entry, used_at)| (entry.key(), Nonce { valid_until, used_at: *used_at }))
    }

    /// Whether the entry leaves the state with the block.
    #[must_use]
    pub fn contains(&self, key: &StateKey) -> bool {
        self.find(key).is_some()
    }

    /// What the state must have under `key`; `None` if it does not leave with the block.
    fn find(&self, key: &StateKey) -> Option<Nonce> {
        let StateKey::Nonce { sender, nonce } = *key else { return None };
        let entry = ExpiryEntry::new(sender, nonce);
        let place = self.entries.binary_search_by_key(&entry, |(entry, _)| *entry).ok()?;
        let (_, used_at) = self.entries.get(place)?;
        Some(Nonce { valid_until: self.valid_until, used_at: *used_at })
    }

    /// What the index says of a nonce, `None` if it does not leave with the block; the rows must
    /// hold what leaves.
    pub(crate) fn check(&self, key: &StateKey, is_used: bool) -> Result<Option<Nonce>, Corrupt> {
        match self.find(key) {
            Some(_) if !is_used => {
                Err(Corrupt::ExpiryUnmatched { key: *key, valid_until: self.valid_until })
            }
            found => Ok(found),
        }
    }

    pub(crate) fn chunks(&self) -> &[ExpiryKey] {
        &self.chunks
    }
}

/// What a block changes in the expiry index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpiryChanges {
    /// Chunks to store, ascending by key.
    pub additions: Vec<(ExpiryKey, Vec<u8>)>,
    /// Chunks to delete: all that were read for this block.
    pub deletions: Vec<ExpiryKey>,
}

impl ExpiryChanges {
    /// The changes of the block at `height` that removes `expired` and inserts `inserted`: (last
    /// height, nonce).
    pub(crate) fn new(
        height: u64,
        expired: &Expired,
        mut inserted: Vec<(u64, ExpiryEntry)>,
    ) -> Self {
        assert_eq!(expired.valid_until() + 1, height, "what expires was read for this height");
        inserted.sort_unstable();
        let mut additions = Vec::new();
        for same in inserted.chunk_by(|first, second| first.0 == second.0) {
            let Some(&(valid_until, _)) = same.first() else { continue };
            assert!(valid_until >= height, "a nonce outlives the block that inserts it");
            for (chunk, part) in (0_u32..).zip(same.chunks(CHUNK_COUNT_MAX)) {
                let key = ExpiryKey {
                    valid_until: U64::new(valid_until),
                    used_at: U64::new(height),
                    chunk: U32::new(chunk),
                };
                let mut value = Vec::with_capacity(part.len() * size_of::<ExpiryEntry>());
                part.iter().for_each(|(_, entry)| value.extend_from_slice(entry.as_bytes()));
                additions.push((key, value));
            }
        }
        assert!(length_u32(&additions) <= length_u32(&inserted), "no chunk is empty");
        Self { additions, deletions: expired.chunks().to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_read_back_at_its_height() {
        let entry = |number: u64| ExpiryEntry::new(Address([3; 20]), number);
        let count = CHUNK_COUNT_MAX as u64 + 5;
        let mut inserted: Vec<_> = (0..count).rev().map(|number| (20, entry(number))).collect();
        inserted.push((12, entry(count)));
        let none = Expired::read(10, []).unwrap();
        let changes = ExpiryChanges::new(10, &none, inserted);
        assert_eq!(changes.additions.len(), 3, "one chunk for height 12, two for 20");
        assert!(changes.deletions.is_empty());
        let stored: Vec<_> =
            changes.additions.iter().map(|(key, value)| (key.to_bytes(), value)).collect();
        assert!(stored.is_sorted());
        let chunks = || {
            let of_20 = stored.iter().filter(|(key, _)| key.starts_with(&ExpiryKey::prefix(20)));
            of_20.map(|(key, value)| (key.as_slice(), value.as_slice()))
        };
        let expired = Expired::read(21, chunks()).unwrap();
        assert_eq!(expired.count() as u64, count);
        assert!(expired.keys().is_sorted());
        assert!(expired.contains(&entry(7).key()) && !expired.contains(&entry(count).key()));
        assert_eq!(ExpiryChanges::new(21, &expired, Vec::new()).deletions.len(), 2);
        assert!(Expired::read(20, chunks()).is_err(), "chunks of another height");
        assert!(Expired::read(21, chunks().chain(chunks())).is_err(), "a nonce listed twice");
        assert!(Expired::read(21, chunks().skip(1)).is_err(), "the first chunk is missing");
        let nonces: Vec<_> = expired.nonces().collect();
        assert_eq!(nonces.first(), Some(&(entry(0).key(), Nonce { valid_until: 20, used_at: 10 })));
        let nonce = Nonce { valid_until: 20, used_at: 10 };
        assert_eq!(expired.check(&entry(3).key(), true), Ok(Some(nonce)));
        assert!(expired.check(&entry(3).key(), false).is_err(), "the rows lack it");
        assert_eq!(expired.check(&entry(count).key(), true), Ok(None), "it stays");
    }

    #[test]
    fn chunks_are_read_strictly() {
        let key = |used_at: u64, chunk: u32| {
            let (valid_until, used_at) = (U64::new(9), U64::new(used_at));
            ExpiryKey { valid_until, used_at, chunk: U32::new(chunk) }.to_bytes()
        };
        let good = [[1; 28], [2; 28]].concat();
        let read = |key: &[u8], value: &[u8]| Expired::read(10, [(key, value)]);
        let first = key(3, 0);
        assert_eq!(read(&first, &good).unwrap().count(), 2);
        assert!(read(&first, &[[2; 28], [1; 28]].concat()).is_err(), "not ascending");
        assert!(read(&first, &good[1..]).is_err() && read(&first, &[]).is_err());
        assert!(read(&first[1..], &good).is_err());
        assert!(read(&key(3, 1), &good).is_err(), "begins with its second chunk");
        assert!(read(&key(10, 0), &good).is_err(), "used after its last height");
        assert!(read(&key(0, 0), &good).is_err(), "used before the first block");
        let more = [3; 28].as_slice();
        let two = |second: [u8; 20]| {
            Expired::read(10, [(&first[..], good.as_slice()), (&second[..], more)])
        };
        assert_eq!(two(key(4, 0)).unwrap().count(), 3);
        assert!(two(key(3, 1)).is_err(), "behind a chunk that is not full");
        assert!(two(key(2, 0)).is_err(), "heights of use ascend");
    }

    /// What the index holds follows from the nonces of the state alone.
    #[test]
    fn the_index_is_the_same_however_the_nonces_came() {
        let entry = |number: u64| ExpiryEntry::new(Address([3; 20]), number);
        let none = Expired::read(10, []).unwrap();
        let count = 2 * CHUNK_COUNT_MAX as u64 + 1;
        let ascending: Vec<_> = (0..count).map(|number| (12 + number % 2, entry(number))).collect();
        let descending: Vec<_> = ascending.iter().rev().copied().collect();
        let changes = ExpiryChanges::new(10, &none, ascending);
        assert_eq!(changes, ExpiryChanges::new(10, &none, descending));
        let full = |(_, value): &&(ExpiryKey, Vec<u8>)| value.len() == 28 * CHUNK_COUNT_MAX;
        assert_eq!(
            (changes.additions.len(), changes.additions.iter().filter(full).count()),
            (3, 2)
        );
    }
}
