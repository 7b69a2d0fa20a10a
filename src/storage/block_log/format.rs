//! The bytes of a log: segment header, group header, records.
//!
//! ```text
//! segment:  [ header 4 KiB ][ group ][ group ] ... [ zeroes up to the fixed size ]
//! group:    [ header 256 B ][ record ][ record ] ... [ tags ][ zeroes up to 4 KiB ]
//! record:   [ kind u16 ][ flags u16 ][ length u32 ][ payload ]
//! ```
//!
//! Everything is little-endian. What finds a flipped bit, byte range by byte range:
//!
//! | bytes | covered by |
//! |---|---|
//! | segment header, padding included | its CRC-32C |
//! | group header | its CRC-32C, and the SM3 of it that the next group holds |
//! | payload, tags and padding of a group | CRC-32C and SM3 Merkle root in the group header |
//! | unused end of a segment | must be zero (not in a recycled segment) |
//!
//! A log is encrypted as a whole or not at all; [`super::cipher`] says how. Checksum, root and
//! chain are those of the stored bytes, so that they tell a torn tail from damage without any key,
//! and a group that they vouch for and that does not open is a forgery. The order of checks is the
//! same everywhere: header, place, checksum, root, key, tag, records.
//!
//! The CRC of a group header starts from a secret salt of the log, so that no client can place
//! bytes in a payload that look like a group header to recovery.

use hufu_crypto::{Digest, Hasher, Sm3};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::LogKind;
use super::cipher::{Encrypted, GroupCipher, GroupSizes};
use super::tree::{GrowingTree, stored_root};
use crate::widths;

/// Version of the layout in this file.
pub(crate) const FORMAT_VERSION: u32 = crate::data_dir::DATA_FORMAT_VERSION;
/// Size of a block of the device and of everything that is written.
pub(crate) const BLOCK: usize = hufu_runtime::file::BLOCK_BYTES;
/// Bytes before the first group of a segment.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 4096;
/// Bytes of a group before its first record.
pub(crate) const GROUP_HEADER_BYTES: usize = 256;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Bytes of a step: a group that fills is encrypted and hashed in pieces of this size, counted from
/// its header on, while they are in the cache of its core.
pub(crate) const STEP_BYTES: usize = 64 << 10;
/// Bytes of an authentication tag.
pub(crate) const TAG_BYTES: usize = 16;
/// Longest group there can be: one record of 8 MiB.
pub(crate) const GROUP_BYTES_MAX: usize = (8 << 20) + BLOCK;

const _: () = assert!(SEGMENT_HEADER_BYTES == 4096 && BLOCK == 4096, "headers fill one block");
const _: () = assert!(size_of::<GroupHeader>() == GROUP_HEADER_BYTES);
const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES);
const _: () = assert!(GROUP_BYTES_MAX.is_multiple_of(BLOCK));

/// Group flag: written on a clean stop; nothing was lost if it is the last group.
pub(crate) const FLAG_SEAL: u32 = 1;
/// Group flag: written at each open, the first group of a new epoch.
pub(crate) const FLAG_OPEN: u32 = 2;
/// Segment flag: the file was part of an older segment, so its unused end is not zero.
pub(crate) const FLAG_RECYCLED: u32 = 1;
/// Suite of a group that is stored in clear.
const SUITE_PLAIN: u8 = 0;
/// Suite of a group whose records are encrypted by SM4-GCM.
const SUITE_SM4_GCM: u8 = 1;

/// What is wrong with the bytes at a place of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The first bytes are not those of a group or segment of this kind of log.
    #[error("no header here")]
    Magic,
    /// The checksum of a group or segment header does not match.
    #[error("header checksum differs")]
    HeaderChecksum,
    /// A reserved field is set, or lengths contradict each other.
    #[error("header fields contradict each other")]
    HeaderFields,
    /// The header says that it belongs to another segment.
    #[error("header belongs to segment {found}")]
    Segment {
        /// What the header says.
        found: u32,
    },
    /// The header has another sequence number than its place demands.
    #[error("group sequence {found}, expected {expected}")]
    Sequence {
        /// What the header says.
        found: u64,
        /// What the place demands.
        expected: u64,
    },
    /// The header does not continue the epoch of the group before.
    #[error("group epoch {found} after epoch {previous}")]
    Epoch {
        /// What the header says.
        found: u64,
        /// Epoch of the group before.
        previous: u64,
    },
    /// The hash of the previous header in this header differs from that header.
    #[error("hash chain is broken")]
    Chain,
    /// The fast checksum of payload and padding does not match.
    #[error("body checksum differs")]
    BodyChecksum,
    /// The SM3 Merkle root of payload and padding does not match.
    #[error("body Merkle root differs")]
    BodyRoot,
    /// The bytes are whole, but not what was encrypted for this place: somebody has put them there.
    #[error("authentication tag differs")]
    Tag,
    /// The records do not fill the payload, or the padding is not zero.
    #[error("records contradict the group header")]
    Records,
    /// The file is shorter than its header says.
    #[error("file is shorter than its segment")]
    Truncated,
    /// A segment between two others is not there.
    #[error("segment is missing")]
    Missing,
    /// Bytes behind the last group of a full segment are not zero.
    #[error("bytes behind the last group are not zero")]
    UnusedEnd,
    /// The log ends before a group that is known to have been durable.
    #[error("log ends at group {last}, group {known} was durable")]
    EndsEarly {
        /// Last group found.
        last: u64,
        /// Group known to have been durable.
        known: u64,
    },
}

/// First 4 KiB of a segment. The rest of the block is zero and covered by the checksum.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    magic: [u8; 8],
    checksum: U32,
    pub(crate) version: U32,
    pub(crate) chain: [u8; 32],
    pub(crate) segment: U32,
    pub(crate) flags: U32,
    pub(crate) segment_bytes: U64,
    pub(crate) epoch: U64,
    pub(crate) first_sequence: U64,
    pub(crate) previous: Digest,
    pub(crate) salt: [u8; 16],
    pub(crate) key_id: U64,
}

/// What a segment header is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentFacts {
    pub(crate) kind: LogKind,
    pub(crate) chain: [u8; 32],
    pub(crate) segment: u32,
    pub(crate) recycled: bool,
    pub(crate) segment_bytes: u64,
    pub(crate) epoch: u64,
    pub(crate) first_sequence: u64,
    pub(crate) previous: Digest,
    pub(crate) salt: [u8; 16],
    /// The data key of its first group, 0 in a log that is stored in clear.
    pub(crate) key_id: u64,
}

impl SegmentFacts {
    /// Writes the header into `block`, which must be one block long.
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert!(block.len() == BLOCK);
        assert!(self.first_sequence > 0);
        let mut header = SegmentHeader {
            magic: self.kind.segment_magic(),
            checksum: U32::ZERO,
            version: U32::new(FORMAT_VERSION),
            chain: self.chain,
            segment: U32::new(self.segment),
            flags: U32::new(if self.recycled { FLAG_RECYCLED } else { 0 }),
            segment_bytes: U64::new(self.segment_bytes),
            epoch: U64::new(self.epoch),
            first_sequence: U64::new(self.first_sequence),
            previous: self.previous,
            salt: self.salt,
            key_id: U64::new(self.key_id),
        };
        block.fill(0);
        write_front(block, &header);
        header.checksum = U32::new(crc32c::crc32c(block.get(12..).unwrap_or_default()));
        write_front(block, &header);
    }

    /// Reads a header; the chain is compared by the caller, who knows how to say it.
    pub(crate) fn decode(kind: LogKind, segment: u32, block: &[u8]) -> Result<Self, Damage> {
        let Ok((header, _zeroes)) = SegmentHeader::read_from_prefix(block) else {
            return Err(Damage::Truncated);
        };
        if header.magic != kind.segment_magic() {
            return Err(Damage::Magic);
        }
        if crc32c::crc32c(block.get(12..).unwrap_or_default()) != header.checksum.get() {
            return Err(Damage::HeaderChecksum);
        }
        if header.segment.get() != segment {
            return Err(Damage::Segment { found: header.segment.get() });
        }
        let bytes = header.segment_bytes.get();
        let fields_fit = header.first_sequence.get() > 0
            && header.flags.get() & !FLAG_RECYCLED == 0
            && bytes > SEGMENT_HEADER_BYTES
            && bytes <= u64::from(u32::MAX)
            && bytes.is_multiple_of(widths::offset(BLOCK));
        if !fields_fit {
            return Err(Damage::HeaderFields);
        }
        Ok(Self {
            kind,
            chain: header.chain,
            segment,
            recycled: header.flags.get() & FLAG_RECYCLED != 0,
            segment_bytes: bytes,
            epoch: header.epoch.get(),
            first_sequence: header.first_sequence.get(),
            previous: header.previous,
            salt: header.salt,
            key_id: header.key_id.get(),
        })
    }

    /// The version field of a block that looks like a segment header, checked or not.
    pub(crate) fn peek_version(kind: LogKind, block: &[u8]) -> Option<u32> {
        let (header, _rest) = SegmentHeader::ref_from_prefix(block).ok()?;
        (header.magic == kind.segment_magic()).then(|| header.version.get())
    }

    /// Where the checksums of this log's group headers start from.
    pub(crate) fn seed(&self) -> u32 {
        crc32c::crc32c(&self.salt)
    }
}

/// First 256 bytes of a group.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct GroupHeader {
    magic: [u8; 8],
    checksum: U32,
    body_checksum: U32,
    pub(crate) segment: U32,
    pub(crate) flags: U32,
    pub(crate) epoch: U64,
    pub(crate) sequence: U64,
    /// Highest sequence that was known durable when this group was handed to the device.
    pub(crate) durable: U64,
    pub(crate) payload_bytes: U32,
    pub(crate) padded_bytes: U32,
    pub(crate) records_count: U32,
    suite: u8,
    reserved_a: [u8; 3],
    key_id: U64,
    salt: [u8; 16],
    tag: [u8; TAG_BYTES],
    root: Digest,
    previous: Digest,
    reserved_b: [u8; 88],
}

/// The parts of a group header that are known once its records are in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupBody {
    pub(crate) payload_bytes: u32,
    pub(crate) padded_bytes: u32,
    pub(crate) records_count: u32,
    checksum: u32,
    root: Digest,
    encrypted: Option<Encrypted>,
}

/// The parts of a group header that are known when it is handed to the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupPlace {
    pub(crate) kind: LogKind,
    pub(crate) seed: u32,
    pub(crate) segment: u32,
    pub(crate) flags: u32,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    pub(crate) durable: u64,
    pub(crate) previous: Digest,
}

/// Whole steps of a group with `payload` bytes of records; each has a tag if it is encrypted.
pub(crate) fn steps_count(payload: usize) -> usize {
    (GROUP_HEADER_BYTES + payload) / STEP_BYTES
}

/// Whole blocks a group with `payload` bytes of records takes, in bytes.
pub(crate) fn padded_bytes(payload: usize, is_encrypted: bool) -> usize {
    let tags = if is_encrypted { steps_count(payload) * TAG_BYTES } else { 0 };
    let padded = (GROUP_HEADER_BYTES + payload + tags).next_multiple_of(BLOCK);
    assert!(padded >= BLOCK);
    padded
}

impl GroupBody {
    /// Zeroes the padding behind the records, encrypts what is not, and ends the tree that grew
    /// with them.
    pub(super) fn seal(
        buffer: &mut [u8],
        (payload, records_count): (usize, u32),
        cipher: Option<GroupCipher>,
        tree: GrowingTree,
        hasher: &dyn Hasher,
    ) -> Self {
        let padded = padded_bytes(payload, cipher.is_some());
        assert!(padded <= buffer.len());
        assert!(records_count == 0 || payload > 0);
        buffer.get_mut(GROUP_HEADER_BYTES + payload..padded).unwrap_or_default().fill(0);
        let (payload_bytes, padded_bytes) = (widths::length(payload), widths::length(padded));
        let sizes = GroupSizes::new(payload_bytes, padded_bytes, records_count);
        let encrypted = cipher.map(|cipher| cipher.finish(buffer, &sizes));
        let (checksum, root) = tree.finish(buffer, padded, hasher);
        Self { payload_bytes, padded_bytes, records_count, checksum, root, encrypted }
    }
}

impl GroupHeader {
    /// Writes the header of a sealed body into its buffer; returns the hash the next group holds.
    pub(crate) fn encode(buffer: &mut [u8], body: &GroupBody, place: &GroupPlace) -> Digest {
        assert!(place.durable < place.sequence);
        assert!(buffer.len() >= widths::index(body.padded_bytes));
        let mut header = Self::new_zeroed();
        header.magic = place.kind.group_magic();
        header.body_checksum = U32::new(body.checksum);
        header.segment = U32::new(place.segment);
        header.flags = U32::new(place.flags);
        header.epoch = U64::new(place.epoch);
        header.sequence = U64::new(place.sequence);
        header.durable = U64::new(place.durable);
        header.payload_bytes = U32::new(body.payload_bytes);
        header.padded_bytes = U32::new(body.padded_bytes);
        header.records_count = U32::new(body.records_count);
        header.suite = SUITE_PLAIN;
        if let Some(encrypted) = body.encrypted {
            header.suite = SUITE_SM4_GCM;
            header.key_id = U64::new(encrypted.key_id);
            (header.salt, header.tag) = (encrypted.salt, encrypted.tag);
        }
        header.root = body.root;
        header.previous = place.previous;
        header.checksum = U32::new(header.expected_checksum(place.seed));
        write_front(buffer, &header);
        header.hash()
    }

    /// Reads a header that is consistent in itself, wherever it lies.
    pub(crate) fn decode(kind: LogKind, seed: u32, bytes: &[u8]) -> Result<Self, Damage> {
        let Ok((header, _body)) = Self::read_from_prefix(bytes) else {
            return Err(Damage::Truncated);
        };
        if header.magic != kind.group_magic() {
            return Err(Damage::Magic);
        }
        if header.expected_checksum(seed) != header.checksum.get() {
            return Err(Damage::HeaderChecksum);
        }
        let padded = widths::index(header.padded_bytes.get());
        let is_plain = header.suite == SUITE_PLAIN
            && header.key_id.get() == 0
            && header.salt == [0; 16]
            && header.tag == [0; TAG_BYTES];
        let is_encrypted = header.suite == SUITE_SM4_GCM && header.key_id.get() != 0;
        let fields_fit = (is_plain || is_encrypted)
            && header.reserved_a == [0; 3]
            && header.reserved_b == [0; 88]
            && header.flags.get() & !(FLAG_SEAL | FLAG_OPEN) == 0
            && header.durable.get() < header.sequence.get()
            && padded <= GROUP_BYTES_MAX
            && widths::index(header.payload_bytes.get()) <= GROUP_BYTES_MAX
            && padded_bytes(widths::index(header.payload_bytes.get()), is_encrypted) == padded;
        if fields_fit { Ok(header) } else { Err(Damage::HeaderFields) }
    }

    /// Checks that the group belongs where it was found.
    pub(crate) fn check_place(
        &self,
        segment: u32,
        sequence: u64,
        chain: &ChainLink,
    ) -> Result<(), Damage> {
        if self.segment.get() != segment {
            return Err(Damage::Segment { found: self.segment.get() });
        }
        if self.sequence.get() != sequence {
            return Err(Damage::Sequence { found: self.sequence.get(), expected: sequence });
        }
        let (found, previous) = (self.epoch.get(), chain.epoch);
        let opens = self.flags.get() & FLAG_OPEN != 0;
        if found < previous || (found != previous && !opens) {
            return Err(Damage::Epoch { found, previous });
        }
        if self.previous != chain.hash { Err(Damage::Chain) } else { Ok(()) }
    }

    /// Checks the stored bytes of the whole group, header included.
    ///
    /// With a hasher the Merkle root is checked too, not only the fast checksum.
    pub(crate) fn check_body(
        &self,
        group: &[u8],
        hasher: Option<&dyn Hasher>,
    ) -> Result<(), Damage> {
        let padded = widths::index(self.padded_bytes.get());
        let Some(stored) = group.get(GROUP_HEADER_BYTES..padded) else {
            return Err(Damage::Truncated);
        };
        if crc32c::crc32c(stored) != self.body_checksum.get() {
            return Err(Damage::BodyChecksum);
        }
        if hasher.is_some_and(|hasher| stored_root(stored, hasher) != self.root) {
            return Err(Damage::BodyRoot);
        }
        Ok(())
    }

    /// Checks the records of a group that is not encrypted, or is not any more.
    pub(crate) fn check_records(&self, group: &[u8]) -> Result<(), Damage> {
        let payload = widths::index(self.payload_bytes.get());
        let tags = if self.encrypted().is_some() { steps_count(payload) * TAG_BYTES } else { 0 };
        let records = group.get(GROUP_HEADER_BYTES..GROUP_HEADER_BYTES + payload);
        let padding = group.get(GROUP_HEADER_BYTES + payload + tags..);
        let (Some(mut rest), Some(padding)) = (records, padding) else {
            return Err(Damage::Records);
        };
        let mut count = 0_u32;
        while !rest.is_empty() {
            let (_header, _payload, behind) = split_record(rest).ok_or(Damage::Records)?;
            rest = behind;
            count = count.saturating_add(1);
        }
        let exact = count == self.records_count.get() && padding.iter().all(|byte| *byte == 0);
        if exact { Ok(()) } else { Err(Damage::Records) }
    }

    /// How the group is encrypted, if it is.
    pub(crate) fn encrypted(&self) -> Option<Encrypted> {
        let is_encrypted = self.suite == SUITE_SM4_GCM;
        let (key_id, salt, tag) = (self.key_id.get(), self.salt, self.tag);
        is_encrypted.then_some(Encrypted { key_id, salt, tag })
    }

    /// The sizes that its tag covers.
    pub(crate) fn sizes(&self) -> GroupSizes {
        let (payload, padded) = (self.payload_bytes.get(), self.padded_bytes.get());
        GroupSizes::new(payload, padded, self.records_count.get())
    }

    /// What the next group must continue.
    pub(crate) fn link(&self) -> ChainLink {
        ChainLink { hash: self.hash(), epoch: self.epoch.get() }
    }

    /// The link this group itself claims to continue, where nothing before it can be compared.
    pub(crate) fn own_link(&self) -> ChainLink {
        ChainLink { hash: self.previous, epoch: self.epoch.get() }
    }

    /// SM3 of the 256 header bytes.
    fn hash(&self) -> Digest {
        Sm3::of(&[self.as_bytes()])
    }

    fn expected_checksum(&self, seed: u32) -> u32 {
        crc32c::crc32c_append(seed, self.as_bytes().get(12..).unwrap_or_default())
    }
}

/// What a group must continue: the hash of the header before it, and its epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainLink {
    pub(crate) hash: Digest,
    pub(crate) epoch: u64,
}

/// First bytes of a record.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHeader {
    pub(crate) kind: U16,
    flags: U16,
    length: U32,
}

impl RecordHeader {
    pub(crate) fn new(kind: u16, length: u32) -> Self {
        Self { kind: U16::new(kind), flags: U16::ZERO, length: U32::new(length) }
    }
}

/// Splits one record off the front: header, payload, what follows. `None` when it does not fit.
pub(crate) fn split_record(bytes: &[u8]) -> Option<(RecordHeader, &[u8], &[u8])> {
    let (header, rest) = RecordHeader::read_from_prefix(bytes).ok()?;
    if header.flags.get() != 0 {
        return None;
    }
    let (payload, behind) = rest.split_at_checked(widths::index(header.length.get()))?;
    Some((header, payload, behind))
}

fn write_front<T: IntoBytes + Immutable>(target: &mut [u8], value: &T) {
    let written = value.write_to_prefix(target);
    assert!(written.is_ok(), "buffers are at least one block long");
}
