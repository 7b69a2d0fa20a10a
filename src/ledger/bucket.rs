//! What is inside a bucket: a canonical trie of rows and forks.
//!
//! ```text
//! key hash  | k bits: the bucket | 4 bits | 4 bits | ...            big-endian, highest bit first
//!
//! depth 0     row, or fork ─┬─ 0: nothing
//!                           ├─ 1: row of entries whose next 4 bits are 1
//! depth 1                   └─ 2: fork ─┬─ ...
//!
//! row   at most 64 entries (key hash 32, value hash 32), ascending by key hash
//! fork  more than 64 entries: 16 x (count u32, digest 32), both zero where nothing is
//!
//! record (stored)   row: count u32, entries       fork: the 16 children, 576 bytes
//! key of a record   bucket u32 big-endian, one byte for each 4 bits of the path
//! digest            SM3(prefix kind 15 row, 16 fork || bucket u32 || depth u32 || record)
//! digest of a bucket: that of its node at depth 0, zero if it is empty
//! ```
//! Whether a place is a row or a fork follows from the number of its entries, so the trie and its
//! digests follow from the set of entries alone. No row can be ground beyond 64 entries, and a
//! change costs one row and the forks above it. Depth ends with the key hash, at (256 - k) / 4.

use core::cmp::Ordering;
use core::fmt;

use hufu_types::codec::{DecodeError, index, length_u32};
use hufu_types::domain::{DomainPrefix, Kind};
use hufu_types::limits::{
    FORK_CHILDREN_COUNT, ROW_ENTRIES_COUNT_MAX, STATE_BUCKETS_LOG2_MAX, STATE_BUCKETS_LOG2_MIN,
    STATE_FORKS_COUNT_MAX,
};
use hufu_types::{ChainId, Digest};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::corrupt::Corrupt;

/// Children of a fork.
pub(crate) const CHILDREN: usize = FORK_CHILDREN_COUNT as usize;

/// Bits of a key hash.
const KEY_BITS: usize = 8 * size_of::<Digest>();

/// Bytes of the longest key of a record.
pub const PLACE_SIZE_MAX: usize = 4 + STATE_FORKS_COUNT_MAX as usize;

/// One entry of a row.
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

/// What a fork knows of one of its children.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Child {
    pub(crate) count: U32,
    /// Digest of the child; zero if there is none.
    pub digest: Digest,
}

impl Child {
    /// No child.
    pub const EMPTY: Self = Self { count: U32::ZERO, digest: Digest::ZERO };

    /// A child with so many entries, and its digest.
    #[must_use]
    pub const fn new(count: u32, digest: Digest) -> Self {
        assert!(count > 0, "an empty child is Child::EMPTY");
        Self { count: U32::new(count), digest }
    }

    /// Entries below it.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count.get()
    }

    fn is_canonical(&self) -> bool {
        (self.count() == 0) == (self.digest == Digest::ZERO)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct NodeHeader {
    prefix: DomainPrefix,
    bucket: U32,
    depth: U32,
}

pub(crate) const HEADER_SIZE: usize = size_of::<NodeHeader>();
pub(crate) const CHILD_SIZE: usize = size_of::<Child>();
/// Bytes of one entry of a row.
pub const ROW_ENTRY_SIZE: usize = size_of::<RowEntry>();
const ROW_COUNT_SIZE: usize = size_of::<U32>();
const FORK_SIZE: usize = CHILDREN * CHILD_SIZE;

const _: () = assert!(HEADER_SIZE == 44 && ROW_ENTRY_SIZE == 64 && CHILD_SIZE == 36, "as above");
const _: () = assert!(
    FORK_SIZE % ROW_ENTRY_SIZE != ROW_COUNT_SIZE,
    "the size of a record tells a row from a fork"
);

/// A place in the trie of a bucket: the first bits that its key hashes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The shared bits, then zeros.
    start: Digest,
    log2: u8,
    depth: u8,
}

/// The key of a record, held in place.
#[derive(Clone, Copy, Debug)]
pub struct PlaceBytes {
    bytes: [u8; PLACE_SIZE_MAX],
    size: usize,
}

impl AsRef<[u8]> for PlaceBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// Forks from the top of a bucket down to a row at most, in a tree of 2^`log2` buckets.
#[must_use]
pub fn forks_count_max(log2: u8) -> u8 {
    assert!(log2 >= STATE_BUCKETS_LOG2_MIN, "a genesis keeps the lower limit");
    assert!(log2 <= STATE_BUCKETS_LOG2_MAX, "a genesis keeps the upper limit");
    u8::MAX / 4 - (log2 - 1) / 4
}

const _: () = assert!(
    (u8::MAX / 4 - (STATE_BUCKETS_LOG2_MIN - 1) / 4) as u32 == STATE_FORKS_COUNT_MAX
        && (u8::MAX / 4 - (STATE_BUCKETS_LOG2_MAX - 1) / 4) as u32
            == (256 - STATE_BUCKETS_LOG2_MAX as u32) / 4,
    "whole 4-bit steps behind the bits of the bucket"
);

/// The bucket of a key hash in a tree of 2^`log2` buckets.
#[must_use]
pub fn bucket_of(key: &Digest, log2: u8) -> u32 {
    assert!(log2 <= STATE_BUCKETS_LOG2_MAX, "a genesis keeps the limit");
    let [first, second, third, fourth, ..] = key.0;
    u32::from_be_bytes([first, second, third, fourth]) >> (32 - u32::from(log2))
}

/// The first `bits` of a key hash, then zeros.
fn masked(key: &Digest, bits: usize) -> Digest {
    let mut start = *key;
    let (whole, rest) = (bits / 8, bits % 8);
    if let Some(byte) = start.0.get_mut(whole) {
        *byte &= !(u8::MAX >> rest);
    }
    start.0.iter_mut().skip(whole + 1).for_each(|byte| *byte = 0);
    start
}

impl Place {
    /// The top of a bucket in a tree of 2^`log2` buckets.
    #[must_use]
    pub fn top(bucket: u32, log2: u8) -> Self {
        assert!(bucket >> log2 == 0, "a bucket of a tree of this size");
        let mut start = Digest::ZERO;
        start.0[..4].copy_from_slice(&(bucket << (32 - u32::from(log2))).to_be_bytes());
        Self { start, log2, depth: 0 }
    }

    /// The bucket it is in.
    #[must_use]
    pub fn bucket(&self) -> u32 {
        bucket_of(&self.start, self.log2)
    }

    /// Forks above it.
    #[must_use]
    pub const fn depth(&self) -> u8 {
        self.depth
    }

    /// The place below this one, in the direction of 4 bits.
    #[must_use]
    pub fn child(&self, nibble: usize) -> Self {
        assert!(nibble < CHILDREN, "a fork has sixteen children");
        assert!(self.depth < forks_count_max(self.log2), "keys are told apart before their end");
        let (byte, shift) = self.next_bits();
        let bits = (u16::try_from(nibble).unwrap_or(0) << shift).to_be_bytes();
        let mut child = Self { depth: self.depth + 1, ..*self };
        child.start.0[byte] |= bits[0];
        if let Some(second) = child.start.0.get_mut(byte + 1) {
            *second |= bits[1];
        }
        child
    }

    /// The direction in which `key` lies below this place.
    #[must_use]
    pub fn nibble(&self, key: &Digest) -> usize {
        let (byte, shift) = self.next_bits();
        let pair = [key.0[byte], key.0.get(byte + 1).copied().unwrap_or(0)];
        usize::from((u16::from_be_bytes(pair) >> shift) & 0xf)
    }

    /// Where in a key hash the 4 bits below this place are: byte, and shift in it and the next one.
    fn next_bits(&self) -> (usize, usize) {
        let bits = self.bits();
        assert!(bits + 4 <= KEY_BITS, "there are bits left to fork on");
        (bits / 8, 12 - bits % 8)
    }

    fn bits(&self) -> usize {
        usize::from(self.log2) + 4 * usize::from(self.depth)
    }

    /// Whether `key` belongs here or below.
    #[must_use]
    pub fn contains(&self, key: &Digest) -> bool {
        // Nearly all rows are at the top of their bucket.
        bucket_of(key, self.log2) == self.bucket()
            && (self.depth == 0 || self.order(key) == Ordering::Equal)
    }

    /// Where `key` lies beside this place: before it, in or below it, behind it.
    #[must_use]
    pub fn order(&self, key: &Digest) -> Ordering {
        masked(key, self.bits()).cmp(&self.start)
    }

    /// Whether `other` lies below this place.
    #[must_use]
    pub fn is_above(&self, other: &Self) -> bool {
        self.depth < other.depth && self.contains(&other.start)
    }

    /// The direction from `above` to this place.
    pub(crate) fn nibble_from(&self, above: &Self) -> usize {
        assert!(above.is_above(self), "a place on the way to this one");
        above.nibble(&self.start)
    }

    /// The key of its record.
    #[must_use]
    pub fn to_bytes(&self) -> PlaceBytes {
        let mut bytes = [0; PLACE_SIZE_MAX];
        bytes[..4].copy_from_slice(&self.bucket().to_be_bytes());
        let mut above = Self { depth: 0, ..*self };
        for byte in bytes.iter_mut().skip(4).take(usize::from(self.depth)) {
            *byte = u8::try_from(above.nibble(&self.start)).unwrap_or(u8::MAX);
            above.depth += 1;
        }
        PlaceBytes { bytes, size: 4 + usize::from(self.depth) }
    }

    /// Reads the key of a record of a tree of 2^`log2` buckets.
    ///
    /// # Errors
    /// [`Corrupt::Key`] for anything that [`Place::to_bytes`] does not write.
    pub fn parse(bytes: &[u8], log2: u8) -> Result<Self, Corrupt> {
        let place = |bytes: &[u8]| {
            let (bucket, path) = bytes.split_first_chunk::<4>()?;
            let bucket = Some(u32::from_be_bytes(*bucket)).filter(|bucket| bucket >> log2 == 0)?;
            let mut place = Self::top(bucket, log2);
            for &nibble in path {
                let nibble = Some(usize::from(nibble)).filter(|nibble| *nibble < CHILDREN)?;
                if place.depth == forks_count_max(log2) {
                    return None;
                }
                place = place.child(nibble);
            }
            Some(place)
        };
        let cause = DecodeError::NotCanonical { field: "place in a bucket" };
        place(bytes).ok_or(Corrupt::Key { cause })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "bucket {}", self.bucket())?;
        let key = self.to_bytes();
        let path = key.as_ref().get(4..).unwrap_or_default();
        if !path.is_empty() {
            formatter.write_str(" path ")?;
        }
        path.iter().try_for_each(|nibble| write!(formatter, "{nibble:x}"))
    }
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// All entries here, at most 64, ascending.
    Row(&'a [RowEntry]),
    /// More entries than a row takes.
    Fork(&'a [Child; CHILDREN]),
}

impl<'a> Content<'a> {
    /// Reads the record stored for `place`.
    ///
    /// # Errors
    /// [`Corrupt::Node`] for anything that is not the one form of a set of entries there.
    pub fn parse(place: &Place, record: &'a [u8]) -> Result<Self, Corrupt> {
        Self::read(place, record).ok_or(Corrupt::Node { place: *place })
    }

    fn read(place: &Place, record: &'a [u8]) -> Option<Self> {
        if record.len() == FORK_SIZE {
            let children = <[Child; CHILDREN]>::ref_from_bytes(record).ok()?;
            return is_fork(place, children).then_some(Self::Fork(children));
        }
        let (count, entries) = record.split_first_chunk::<ROW_COUNT_SIZE>()?;
        let entries = <[RowEntry]>::ref_from_bytes(entries).ok()?;
        let is_whole = u32::from_le_bytes(*count) == length_u32(entries);
        let is_canonical = is_whole && !entries.is_empty() && is_row(place, entries);
        is_canonical.then_some(Self::Row(entries))
    }

    /// A record that [`Content::parse`] has accepted for its place.
    pub(crate) fn again(record: &'a [u8]) -> Self {
        if let Ok(children) = <[Child; CHILDREN]>::ref_from_bytes(record) {
            return Self::Fork(children);
        }
        let entries = record.get(ROW_COUNT_SIZE..).map(<[RowEntry]>::ref_from_bytes);
        let Some(Ok(entries)) = entries else { unreachable!("a record that was read before") };
        Self::Row(entries)
    }

    /// Entries here and below.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Row(entries) => length_u32(entries).into(),
            Self::Fork(children) => total(children),
        }
    }
}

pub(crate) fn total(children: &[Child; CHILDREN]) -> u64 {
    children.iter().map(|child| u64::from(child.count())).sum()
}

/// Whether these are the entries of a row at `place`; none are, too.
pub(crate) fn is_row(place: &Place, entries: &[RowEntry]) -> bool {
    let sorted = entries.is_sorted_by(|first, second| first.key < second.key);
    let is_inside = |entry: Option<&RowEntry>| entry.is_none_or(|one| place.contains(&one.key));
    let ends_inside =
        is_inside(entries.first()) && is_inside(entries.get(1..).and_then(<[_]>::last));
    entries.len() <= index(ROW_ENTRIES_COUNT_MAX) && sorted && ends_inside
}

/// Whether these are the children of a fork at `place`.
pub(crate) fn is_fork(place: &Place, children: &[Child; CHILDREN]) -> bool {
    let total = total(children);
    place.depth < forks_count_max(place.log2)
        && total > ROW_ENTRIES_COUNT_MAX.into()
        && u32::try_from(total).is_ok()
        && children.iter().all(Child::is_canonical)
}

/// Appends the message whose digest is that of the node with this record.
pub(crate) fn node_message(chain_id: ChainId, place: &Place, record: &[u8], out: &mut Vec<u8>) {
    let kind = if record.len() == FORK_SIZE { Kind::StateFork } else { Kind::StateRow };
    out.extend_from_slice(header(chain_id, place, kind).as_bytes());
    out.extend_from_slice(record);
}

/// Appends the message of a row, which ends with its record.
pub(crate) fn row_message(
    chain_id: ChainId,
    place: &Place,
    entries: &[RowEntry],
    out: &mut Vec<u8>,
) {
    assert!(!entries.is_empty(), "an empty row is not stored");
    out.extend_from_slice(header(chain_id, place, Kind::StateRow).as_bytes());
    out.extend_from_slice(&length_u32(entries).to_le_bytes());
    out.extend_from_slice(entries.as_bytes());
}

/// Appends the message of a fork, which ends with its record.
pub(crate) fn fork_message(
    chain_id: ChainId,
    place: &Place,
    children: &[Child; CHILDREN],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(header(chain_id, place, Kind::StateFork).as_bytes());
    out.extend_from_slice(children.as_bytes());
}

fn header(chain_id: ChainId, place: &Place, kind: Kind) -> NodeHeader {
    let prefix = DomainPrefix::new(kind, chain_id);
    let (bucket, depth) = (U32::new(place.bucket()), U32::new(place.depth.into()));
    NodeHeader { prefix, bucket, depth }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_one_key_in_their_own_order() {
        let mut byte = 7_u8;
        let key = Digest([0; 32].map(|_: u8| {
            byte = byte.wrapping_mul(17).wrapping_add(51);
            byte
        }));
        for log2 in STATE_BUCKETS_LOG2_MIN..=STATE_BUCKETS_LOG2_MAX {
            let mut place = Place::top(bucket_of(&key, log2), log2);
            let deepest = forks_count_max(log2);
            assert_eq!(usize::from(deepest), (256 - usize::from(log2)) / 4);
            loop {
                let stored = place.to_bytes();
                assert_eq!(Place::parse(stored.as_ref(), log2), Ok(place));
                assert_eq!(stored.as_ref().len(), 4 + usize::from(place.depth()));
                assert!(place.contains(&key), "{place}");
                assert_eq!(place.bucket(), bucket_of(&key, log2));
                if place.depth() == deepest {
                    break;
                }
                let below = place.child(place.nibble(&key));
                assert!(place.is_above(&below) && !below.is_above(&place));
                assert_eq!(below.nibble_from(&place), place.nibble(&key));
                let beside = place.child(15 - place.nibble(&key));
                assert!(!beside.contains(&key));
                let order = beside.to_bytes().as_ref().cmp(below.to_bytes().as_ref());
                assert_eq!(order, beside.cmp(&below), "keys of one depth ascend with places");
                assert_eq!(below.order(&beside.start), beside.start.cmp(&below.start));
                place = below;
            }
            let longer = [place.to_bytes().as_ref(), &[0]].concat();
            assert!(Place::parse(&longer, log2).is_err(), "behind the end of the key hash");
        }
        assert!(Place::parse(&[0, 0, 0, 16], 4).is_err(), "no such bucket");
        assert!(Place::parse(&[0, 0, 0, 1, 16], 4).is_err(), "no such direction");
        assert!(Place::parse(&[0, 0, 1], 4).is_err());
        let place = Place::parse(&[0, 0, 0, 9, 3, 15], 4).unwrap();
        assert_eq!(place.to_string(), "bucket 9 path 3f");
    }

    #[test]
    fn records_are_read_strictly() {
        let place = Place::top(1, 4);
        let entry = |number: u8| RowEntry {
            key: Digest(core::array::from_fn(|at| if at == 0 { 0x10 } else { number })),
            value: Digest([number; 32]),
        };
        let row = |entries: &[RowEntry]| {
            [length_u32(entries).to_le_bytes().as_slice(), entries.as_bytes()].concat()
        };
        let entries: Vec<RowEntry> = (1..=65).map(entry).collect();
        for count in [1, 2, 8, 9, 64] {
            let record = row(&entries[..count]);
            let content = Content::parse(&place, &record);
            assert_eq!(content, Ok(Content::Row(&entries[..count])));
            let mut miscounted = record.clone();
            miscounted[0] ^= 1;
            assert!(Content::parse(&place, &miscounted).is_err());
            assert!(Content::parse(&place, &record[1..]).is_err());
            assert!(Content::parse(&Place::top(2, 4), &record).is_err(), "of another bucket");
        }
        assert!(Content::parse(&place, &row(&entries)).is_err(), "too long");
        assert!(Content::parse(&place, &row(&[])).is_err(), "empty");
        assert!(Content::parse(&place, &[]).is_err());
        assert!(Content::parse(&place, &row(&[entries[1], entries[0]])).is_err());
        assert!(Content::parse(&place, &row(&[entries[0], entries[0]])).is_err());

        let mut children = [Child::EMPTY; CHILDREN];
        children[3] = Child::new(60, Digest([1; 32]));
        assert!(Content::parse(&place, children.as_bytes()).is_err(), "fits a row");
        children[9] = Child::new(5, Digest([2; 32]));
        let content = Content::parse(&place, children.as_bytes()).unwrap();
        assert_eq!((content, content.count()), (Content::Fork(&children), 65));
        children[5].digest = Digest([3; 32]);
        assert!(Content::parse(&place, children.as_bytes()).is_err(), "no entries, a digest");
        children[5] = Child::new(u32::MAX, Digest([3; 32]));
        assert!(Content::parse(&place, children.as_bytes()).is_err(), "too many to count");
    }
}
