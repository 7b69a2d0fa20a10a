//! The state root: a dense binary Merkle tree over 2^k buckets of hashed entries.
//!
//! ```text
//! key hash     = SM3(prefix kind 10 || key bytes)                 its top k bits name the bucket
//! value hash   = SM3(value bytes)
//! row          = (key hash 32, value hash 32) of all entries of the bucket, ascending by key hash
//! bucket digest= zero if the row is empty,
//!                else SM3(prefix kind 10 || bucket u32 || entries u32 || row)
//! root         = binary Merkle tree over the 2^k bucket digests, parent = SM3(left || right)
//!
//! writes --StateChanges::new--> buckets() --the tile fetches their rows--> StateTree::apply
//!        --> rows to store, root
//! ```
//! A bucket's message is at least 108 bytes, a key's 53 to 93 and never 64, so none passes for
//! another or for an inner node; k is in the genesis, so the shape of the tree is fixed.
//!
//! All inner nodes stay in memory, 2^(k+1) digests taken at start (4 MiB for k = 16, 64 MiB for k =
//! 20). Rows live in the state store. Everything is hashed in lists, so that a SIMD hasher fills
//! its lanes. Owner: the execute tile.

use std::ops::Range;

use hufu_crypto::Hasher;
use hufu_types::codec::{index, length_u32};
use hufu_types::domain::{DomainPrefix, Kind};
use hufu_types::limits::{STATE_BUCKETS_LOG2_MAX, STATE_BUCKETS_LOG2_MIN};
use hufu_types::{ChainId, Digest};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::corrupt::Corrupt;
use crate::key::{KEY_SIZE_MAX, StateKey};
use crate::outcome::Write;

/// One entry of a bucket's row.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RowEntry {
    /// Hash of the entry's key.
    pub key: Digest,
    /// Hash of its value.
    pub value: Digest,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct BucketHeader {
    prefix: DomainPrefix,
    bucket: U32,
    count: U32,
}

pub(crate) const BUCKET_HEADER_SIZE: usize = size_of::<BucketHeader>();

/// Bytes of one entry of a row.
pub const ROW_ENTRY_SIZE: usize = size_of::<RowEntry>();

const _: () = assert!(BUCKET_HEADER_SIZE == 44 && ROW_ENTRY_SIZE == 64, "as documented above");

impl BucketHeader {
    pub(crate) fn new(chain_id: ChainId, bucket: u32, entries: &[RowEntry]) -> Self {
        let prefix = DomainPrefix::new(Kind::StateBucket, chain_id);
        Self { prefix, bucket: U32::new(bucket), count: U32::new(length_u32(entries)) }
    }
}

/// The message whose digest is the hash of a key.
pub(crate) fn key_message(chain_id: ChainId, key: &[u8], out: &mut Vec<u8>) {
    assert!(!key.is_empty() && key.len() <= KEY_SIZE_MAX, "the bytes of a state key");
    out.extend_from_slice(DomainPrefix::new(Kind::StateBucket, chain_id).as_bytes());
    out.extend_from_slice(key);
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
        messages.extend_from_slice(value.as_ref());
        ends.push(messages.len());
    }
    let digests = digest_parts(&messages, &ends, hasher);
    let (pairs, odd) = digests.as_chunks::<2>();
    assert!(odd.is_empty() && pairs.len() == entries.len(), "a key and a value each");
    pairs.iter().map(|&[key, value]| RowEntry { key, value }).collect()
}

/// The bucket of a key hash in a tree of 2^`log2` buckets.
#[must_use]
pub fn bucket_of(key: &Digest, log2: u8) -> u32 {
    assert!(log2 <= STATE_BUCKETS_LOG2_MAX, "a genesis keeps the limit");
    let [first, second, third, fourth, ..] = key.0;
    u32::from_be_bytes([first, second, third, fourth]) >> (32 - u32::from(log2))
}

/// Reads a row: entries that belong into the bucket, strictly ascending.
///
/// # Errors
/// [`Corrupt::Row`] for anything else.
pub fn read_row(bucket: u32, log2: u8, row: &[u8]) -> Result<&[RowEntry], Corrupt> {
    let entries = <[RowEntry]>::ref_from_bytes(row).map_err(|_| Corrupt::Row { bucket })?;
    let sorted = entries.is_sorted_by(|first, second| first.key < second.key);
    let ends = [entries.first(), entries.last()].into_iter().flatten();
    if sorted && ends.into_iter().all(|entry| bucket_of(&entry.key, log2) == bucket) {
        Ok(entries)
    } else {
        Err(Corrupt::Row { bucket })
    }
}

/// Digests of parts of one long buffer.
fn digest_parts(bytes: &[u8], ends: &[usize], hasher: &dyn Hasher) -> Vec<Digest> {
    let mut start = 0;
    let messages: Vec<&[u8]> =
        ends.iter().map(|&end| &bytes[core::mem::replace(&mut start, end)..end]).collect();
    assert_eq!(start, bytes.len(), "the parts cover the buffer");
    let mut digests = vec![Digest::ZERO; messages.len()];
    hasher.digest_many(&messages, &mut digests);
    digests
}

/// The hashed writes of a block, by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChanges {
    chain_id: ChainId,
    log2: u8,
    /// Key hash and value hash (`None`: the entry leaves), ascending by key hash.
    entries: Vec<(Digest, Option<Digest>)>,
    /// Touched buckets, ascending, with their part of `entries`.
    buckets: Vec<(u32, Range<usize>)>,
}

impl StateChanges {
    /// Hashes the writes of a block for a tree of 2^`log2` buckets.
    #[must_use]
    pub fn new(chain_id: ChainId, log2: u8, writes: &[Write], hasher: &dyn Hasher) -> Self {
        let (mut keys, mut keys_ends) = (Vec::with_capacity(writes.len() * 72), Vec::new());
        let (mut values, mut values_ends) = (Vec::with_capacity(writes.len() * 16), Vec::new());
        for write in writes {
            key_message(chain_id, write.key.to_bytes().as_slice(), &mut keys);
            keys_ends.push(keys.len());
            if let Some(value) = write.value {
                assert!(value.belongs_to(&write.key), "a value of the key's kind");
                values.extend_from_slice(value.to_bytes().as_slice());
                values_ends.push(values.len());
            }
        }
        let keys = digest_parts(&keys, &keys_ends, hasher);
        let mut values = digest_parts(&values, &values_ends, hasher).into_iter();
        let value_of = |write: &Write| write.value.and_then(|_| values.next());
        let values: Vec<Option<Digest>> = writes.iter().map(value_of).collect();
        let mut entries: Vec<(Digest, Option<Digest>)> = keys.into_iter().zip(values).collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        assert!(
            entries.is_sorted_by(|first, second| first.0 < second.0),
            "a block writes a key once, and SM3 does not collide"
        );
        let mut buckets: Vec<(u32, Range<usize>)> = Vec::new();
        for (place, (key, _)) in entries.iter().enumerate() {
            let bucket = bucket_of(key, log2);
            match buckets.last_mut() {
                Some((last, range)) if *last == bucket => range.end = place + 1,
                _ => buckets.push((bucket, place..place + 1)),
            }
        }
        Self { chain_id, log2, entries, buckets }
    }

    /// The buckets whose rows [`StateTree::apply`] needs, ascending.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.buckets.iter().map(|(bucket, _)| *bucket)
    }
}

/// What [`StateTree::apply`] gave: the rows to store, and the root.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Applied {
    /// Messages of all changed buckets, header and row.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    buckets: Vec<u32>,
    /// The state root after the block.
    pub root: Digest,
}

impl Applied {
    /// The changed rows, ascending by bucket; an empty row is to be deleted.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut start = 0;
        self.buckets.iter().zip(&self.ends).map(move |(&bucket, &end)| {
            let message = &self.bytes[core::mem::replace(&mut start, end)..end];
            (bucket, &message[BUCKET_HEADER_SIZE..])
        })
    }
}

/// The inner nodes of the state root, all in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTree {
    chain_id: ChainId,
    log2: u8,
    /// Node 1 is the root, node n has the children 2n and 2n+1, the buckets begin at 2^k; node 0 is
    /// unused.
    nodes: Vec<Digest>,
}

impl StateTree {
    /// The tree over an empty state, with 2^`log2` buckets; `log2` is the genesis's choice.
    #[must_use]
    pub fn new(chain_id: ChainId, log2: u8, hasher: &dyn Hasher) -> Self {
        assert!(log2 >= STATE_BUCKETS_LOG2_MIN, "a genesis keeps the lower limit");
        assert!(log2 <= STATE_BUCKETS_LOG2_MAX, "a genesis keeps the upper limit");
        let mut nodes = vec![Digest::ZERO; 2 << log2];
        let mut empty = Digest::ZERO;
        for level in (0..log2).rev() {
            let mut parent = [Digest::ZERO];
            hasher.digest_pairs(&[[empty, empty]], &mut parent);
            empty = parent[0];
            nodes[1 << level..2 << level].fill(empty);
        }
        Self { chain_id, log2, nodes }
    }

    /// The tree over stored rows, in any order; buckets that do not come are empty.
    ///
    /// # Errors
    /// [`Corrupt::Row`] if a row is not canonical.
    pub fn load<R: AsRef<[u8]>>(
        chain_id: ChainId,
        log2: u8,
        rows: impl IntoIterator<Item = (u32, R)>,
        hasher: &dyn Hasher,
    ) -> Result<Self, Corrupt> {
        let mut tree = Self::new(chain_id, log2, hasher);
        let (mut bytes, mut ends, mut buckets) = (Vec::new(), Vec::new(), Vec::new());
        for (bucket, row) in rows {
            if bucket >= tree.buckets_count() || row.as_ref().is_empty() {
                return Err(Corrupt::Row { bucket });
            }
            let entries = read_row(bucket, log2, row.as_ref())?;
            bytes.extend_from_slice(BucketHeader::new(chain_id, bucket, entries).as_bytes());
            bytes.extend_from_slice(row.as_ref());
            ends.push(bytes.len());
            buckets.push(bucket);
            if bytes.len() >= LOAD_SIZE_MAX {
                tree.set_leaves(&buckets, &bytes, &ends, hasher);
                bytes.clear();
                ends.clear();
                buckets.clear();
            }
        }
        tree.set_leaves(&buckets, &bytes, &ends, hasher);
        tree.rebuild(hasher);
        Ok(tree)
    }

    /// The state root.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.nodes[1]
    }

    /// Number of buckets.
    #[must_use]
    pub fn buckets_count(&self) -> u32 {
        1 << self.log2
    }

    /// The digest of one bucket; `None` behind the last.
    #[must_use]
    pub fn bucket_digest(&self, bucket: u32) -> Option<Digest> {
        self.leaves().get(index(bucket)).copied()
    }

    /// Applies a block's changes to the current rows of its buckets, which come in the order of
    /// [`StateChanges::buckets`], empty where nothing is stored.
    ///
    /// # Errors
    /// [`Corrupt`] if a row is not canonical or lacks an entry that leaves; the tree is unchanged
    /// then.
    pub fn apply<R: AsRef<[u8]>>(
        &mut self,
        changes: &StateChanges,
        rows: impl IntoIterator<Item = R>,
        hasher: &dyn Hasher,
    ) -> Result<Applied, Corrupt> {
        assert_eq!(changes.log2, self.log2, "changes hashed for a tree of this size");
        assert_eq!(changes.chain_id, self.chain_id, "changes hashed for this chain");
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(changes.buckets.len()));
        let mut row_entries = Vec::new();
        for ((bucket, range), row) in changes.buckets.iter().zip(rows) {
            let row = read_row(*bucket, self.log2, row.as_ref())?;
            row_entries.clear();
            if !join_row(row, &changes.entries[range.clone()], &mut row_entries) {
                return Err(Corrupt::RowUnmatched { bucket: *bucket });
            }
            let header = BucketHeader::new(self.chain_id, *bucket, &row_entries);
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(row_entries.as_bytes());
            ends.push(bytes.len());
        }
        assert_eq!(ends.len(), changes.buckets.len(), "the caller fetched a row for every bucket");
        let buckets: Vec<u32> = changes.buckets().collect();
        self.set_leaves(&buckets, &bytes, &ends, hasher);
        self.update_parents(&buckets, hasher);
        Ok(Applied { bytes, ends, buckets, root: self.root() })
    }

    /// The siblings from a bucket up to the root, lowest first; `None` if there is no such bucket.
    #[must_use]
    pub fn path(&self, bucket: u32) -> Option<Vec<Digest>> {
        let mut node = index(bucket.checked_add(self.buckets_count())?);
        self.nodes.get(node)?;
        let mut path = Vec::with_capacity(usize::from(self.log2));
        while node > 1 {
            path.push(self.nodes[node ^ 1]);
            node /= 2;
        }
        assert_eq!(path.len(), usize::from(self.log2), "the tree is dense");
        Some(path)
    }

    /// Logarithm of the number of buckets.
    #[must_use]
    pub const fn log2(&self) -> u8 {
        self.log2
    }

    /// The chain whose state it is the tree of.
    #[must_use]
    pub const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    fn leaves(&self) -> &[Digest] {
        &self.nodes[1 << self.log2..]
    }

    fn set_leaves(&mut self, buckets: &[u32], bytes: &[u8], ends: &[usize], hasher: &dyn Hasher) {
        assert_eq!(buckets.len(), ends.len(), "one message for each bucket");
        let digests = digest_parts(bytes, ends, hasher);
        let mut start = 0;
        for ((&bucket, &digest), &end) in buckets.iter().zip(&digests).zip(ends) {
            let empty = end - core::mem::replace(&mut start, end) == BUCKET_HEADER_SIZE;
            self.nodes[(1 << self.log2) + index(bucket)] =
                if empty { Digest::ZERO } else { digest };
        }
    }

    /// Computes the ancestors of some buckets, a level at a time.
    fn update_parents(&mut self, buckets: &[u32], hasher: &dyn Hasher) {
        assert!(buckets.is_sorted(), "so that equal parents are neighbours");
        let mut level: Vec<usize> =
            buckets.iter().map(|&bucket| (1 << self.log2) + index(bucket)).collect();
        let (mut pairs, mut parents) = (Vec::new(), Vec::new());
        for _ in 0..self.log2 {
            level.iter_mut().for_each(|node| *node /= 2);
            level.dedup();
            pairs.clear();
            pairs
                .extend(level.iter().map(|&node| [self.nodes[2 * node], self.nodes[2 * node + 1]]));
            parents.clear();
            parents.resize(pairs.len(), Digest::ZERO);
            hasher.digest_pairs(&pairs, &mut parents);
            for (&node, &parent) in level.iter().zip(&parents) {
                self.nodes[node] = parent;
            }
        }
        assert!(level.is_empty() || level == [1], "all paths end at the root");
    }

    /// Computes all inner nodes.
    fn rebuild(&mut self, hasher: &dyn Hasher) {
        for level in (0..self.log2).rev() {
            let (above, below) = self.nodes.split_at_mut(2 << level);
            let (pairs, odd) = below[..2 << level].as_chunks::<2>();
            assert!(odd.is_empty(), "a level below the root is even");
            hasher.digest_pairs(pairs, &mut above[1 << level..]);
        }
    }
}

/// Bytes of rows hashed at a time while loading.
const LOAD_SIZE_MAX: usize = 1 << 20;

/// Joins a row with the changes of its bucket; false if an entry that leaves is not there.
fn join_row(
    row: &[RowEntry],
    changes: &[(Digest, Option<Digest>)],
    out: &mut Vec<RowEntry>,
) -> bool {
    let mut row = row.iter().peekable();
    for &(key, value) in changes {
        while let Some(entry) = row.next_if(|entry| entry.key < key) {
            out.push(*entry);
        }
        let found = row.next_if(|entry| entry.key == key).is_some();
        match value {
            Some(value) => out.push(RowEntry { key, value }),
            None if found => {}
            None => return false,
        }
    }
    out.extend(row);
    true
}
