//! The writes of a block, hashed for the state root.
//!
//! ```text
//! key hash   = SM3(prefix kind 13 || key bytes)
//! value hash = SM3(tag kind 14 || value bytes)
//!
//! writes --StateChanges::new--> (key hash, value hash before, value hash after), by bucket
//! ```
//! A value's hash only ever stands beside the hash of its key, which names the chain; without the
//! chain's 32 bytes all values but assets and mandates are one block of SM3. A key's message begins
//! with 13, a value's with 14, a row's or fork's with 15 or 16, and none has the 64 bytes of an
//! inner node: none passes for another. Owner: the execute tile.

use std::ops::Range;

use hufu_crypto::Hasher;
use hufu_types::domain::{DomainPrefix, DomainTag, Kind};
use hufu_types::{ChainId, Digest};
use zerocopy::IntoBytes;

use crate::bucket::{RowEntry, bucket_of};
use crate::key::{KEY_SIZE_MAX, StateKey};
use crate::outcome::Write;
use crate::value::{Nonce, StateValue, VALUE_SIZE_MAX};

/// The message whose digest is the hash of a key.
pub(crate) fn key_message(chain_id: ChainId, key: &[u8], out: &mut Vec<u8>) {
    assert!(!key.is_empty() && key.len() <= KEY_SIZE_MAX, "the bytes of a state key");
    out.extend_from_slice(DomainPrefix::new(Kind::StateKey, chain_id).as_bytes());
    out.extend_from_slice(key);
}

/// The message whose digest is the hash of a value.
pub(crate) fn value_message(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(DomainTag::new(Kind::StateValue).as_bytes());
    out.extend_from_slice(value);
}

/// What the rows must hold for some entries of the state, in the order given.
#[must_use]
pub fn row_entries<V: AsRef<[u8]>>(
    chain_id: ChainId,
    entries: &[(StateKey, V)],
    hasher: &dyn Hasher,
) -> Vec<RowEntry> {
    let (mut messages, mut ends) = (Vec::with_capacity(entries.len() * 128), Vec::new());
    for (key, value) in entries {
        key_message(chain_id, key.to_bytes().as_slice(), &mut messages);
        ends.push(messages.len());
        value_message(value.as_ref(), &mut messages);
        ends.push(messages.len());
    }
    let digests = digest_parts(&messages, &ends, hasher);
    let (pairs, odd) = digests.as_chunks::<2>();
    assert!(odd.is_empty() && pairs.len() == entries.len(), "a key and a value each");
    pairs.iter().map(|&[key, value]| RowEntry { key, value }).collect()
}

/// The hashes of keys, in the order given.
pub(crate) fn key_hashes(chain_id: ChainId, keys: &[StateKey], hasher: &dyn Hasher) -> Vec<Digest> {
    let (mut messages, mut ends) = (Vec::with_capacity(keys.len() * 72), Vec::new());
    for key in keys {
        key_message(chain_id, key.to_bytes().as_slice(), &mut messages);
        ends.push(messages.len());
    }
    digest_parts(&messages, &ends, hasher)
}

/// Digests of parts of one long buffer.
pub(crate) fn digest_parts(bytes: &[u8], ends: &[usize], hasher: &dyn Hasher) -> Vec<Digest> {
    let mut start = 0;
    let messages: Vec<&[u8]> =
        ends.iter().map(|&end| &bytes[core::mem::replace(&mut start, end)..end]).collect();
    assert_eq!(start, bytes.len(), "the parts cover the buffer");
    let mut digests = vec![Digest::ZERO; messages.len()];
    hasher.digest_many(&messages, &mut digests);
    digests
}

/// One hashed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Digest,
    /// Hash of the value that the row must hold; `None`: the row must not hold the key.
    pub(crate) before: Option<Digest>,
    /// Hash of the value after the block; `None`: the entry leaves.
    pub(crate) after: Option<Digest>,
}

/// The hashed writes of a block, by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChanges {
    chain_id: ChainId,
    log2: u8,
    /// Ascending by key hash.
    entries: Vec<Change>,
    /// Touched buckets, ascending, with their part of `entries`.
    buckets: Vec<(u32, Range<usize>)>,
}

impl StateChanges {
    /// Hashes the writes of a block for a tree of 2^`log2` buckets.
    #[must_use]
    pub fn new(chain_id: ChainId, log2: u8, writes: &[Write], hasher: &dyn Hasher) -> Self {
        Self::of_hashes(chain_id, log2, &hashed(chain_id, writes, hasher))
    }

    pub(crate) fn of_hashes(chain_id: ChainId, log2: u8, unsorted: &[Change]) -> Self {
        // Sorting what decides moves a sixth of the bytes that sorting the changes would.
        let lead = |change: &Change| {
            let [a, b, c, d, e, f, g, h, ..] = change.key.0;
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        };
        let mut order: Vec<(u64, usize)> = unsorted.iter().map(lead).zip(0..).collect();
        order.sort_unstable_by(|one, other| {
            let rest = || unsorted[one.1].key.cmp(&unsorted[other.1].key);
            one.0.cmp(&other.0).then_with(rest)
        });
        let entries: Vec<Change> = order.into_iter().map(|(_, place)| unsorted[place]).collect();
        assert!(
            entries.is_sorted_by(|first, second| first.key < second.key),
            "a block writes a key once, and SM3 does not collide"
        );
        let mut buckets: Vec<(u32, Range<usize>)> = Vec::with_capacity(entries.len());
        for (place, change) in entries.iter().enumerate() {
            let bucket = bucket_of(&change.key, log2);
            match buckets.last_mut() {
                Some((last, range)) if *last == bucket => range.end = place + 1,
                _ => buckets.push((bucket, place..place + 1)),
            }
        }
        Self { chain_id, log2, entries, buckets }
    }

    /// The touched buckets, ascending.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.buckets.iter().map(|(bucket, _)| *bucket)
    }

    pub(crate) fn ranges(&self) -> &[(u32, Range<usize>)] {
        &self.buckets
    }

    pub(crate) fn entries(&self) -> &[Change] {
        &self.entries
    }

    pub(crate) const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    pub(crate) const fn log2(&self) -> u8 {
        self.log2
    }
}

/// Keys and values in one list, so that a SIMD hasher fills its lanes in small blocks too.
fn hashed(chain_id: ChainId, writes: &[Write], hasher: &dyn Hasher) -> Vec<Change> {
    let size = writes.len() * (96 + 2 * (4 + VALUE_SIZE_MAX / 2));
    let (mut messages, mut ends) = (Vec::with_capacity(size), Vec::with_capacity(3 * writes.len()));
    for write in writes {
        assert!(write.before.is_some() || write.value.is_some(), "a write changes something");
        let unknown = Some(StateValue::Nonce(Nonce::USED));
        assert!(write.before != unknown, "a nonce whose heights are not known is left alone");
        key_message(chain_id, write.key.to_bytes().as_slice(), &mut messages);
        ends.push(messages.len());
        for value in [write.before, write.value].into_iter().flatten() {
            assert!(value.belongs_to(&write.key), "a value of the key's kind");
            value_message(value.to_bytes().as_slice(), &mut messages);
            ends.push(messages.len());
        }
    }
    let mut digests = digest_parts(&messages, &ends, hasher).into_iter();
    let mut next = || {
        let Some(digest) = digests.next() else { unreachable!("one digest for each message") };
        digest
    };
    let mut hash = |write: &Write| {
        let key = next();
        let mut value = |value: Option<StateValue>| value.map(|_| next());
        let before = value(write.before);
        Change { key, before, after: value(write.value) }
    };
    writes.iter().map(&mut hash).collect()
}
