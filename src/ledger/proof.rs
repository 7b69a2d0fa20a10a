//! Proofs that the state holds a value under a key, or none, verifiable offline against a state
//! root.
//!
//! A proof is the whole row of the key's bucket and the path from the bucket to the root: the row
//! shows the entry or its absence, because it is complete and sorted.
//!
//! ```text
//! offset  size  field
//!      0     4  bucket
//!      4     4  entries of the row, at most 65,536
//!      8     2  siblings of the path: k
//!     10     2  reserved, zero
//!     12    64n entries: key hash, value hash
//!      …    32k siblings, lowest first
//! ```

use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, index, length_u32, put};
use hufu_types::limits::{STATE_BUCKETS_LOG2_MAX, STATE_BUCKETS_LOG2_MIN};
use hufu_types::merkle::root_from_path;
use hufu_types::{ChainId, Digest};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::Sm3;

use crate::corrupt::Corrupt;
use crate::key::StateKey;
use crate::root::{BucketHeader, RowEntry, StateTree, bucket_of, key_message, read_row};

/// Entries of the row of a proof, count: 4 MiB, far beyond what a chain that chose its k well has
/// in one bucket.
pub const PROOF_ENTRIES_COUNT_MAX: u32 = 65_536;

/// A proof about one key; see the module for its encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateProof {
    bucket: u32,
    row: Vec<RowEntry>,
    path: Vec<Digest>,
}

/// Why a proof does not prove what it is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateProofError {
    /// The bytes are no proof.
    #[error("state proof is not canonical: {0}")]
    Decode(#[from] DecodeError),
    /// The proof is of another bucket than the key's, or of a tree of another size.
    #[error("state proof is of another bucket or another tree")]
    Unrelated,
    /// The row is not sorted or holds entries of other buckets.
    #[error("row of the state proof is not canonical")]
    RowWrong,
    /// The row holds another value for the key, or holds it when it should not, or lacks it.
    #[error("the state holds something else under this key")]
    ValueWrong,
    /// The path does not lead to the root.
    #[error("the path does not lead to the state root")]
    PathWrong,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ProofHeader {
    bucket: U32,
    entries_count: U32,
    siblings_count: U16,
    reserved: [u8; 2],
}

/// The bucket of `key` in a tree of 2^`log2` buckets, whose row [`StateTree::prove`] needs.
#[must_use]
pub fn bucket_of_key(chain_id: ChainId, log2: u8, key: &StateKey) -> u32 {
    bucket_of(&key_hash(chain_id, key), log2)
}

fn key_hash(chain_id: ChainId, key: &StateKey) -> Digest {
    let mut message = Vec::with_capacity(96);
    key_message(chain_id, key.to_bytes().as_slice(), &mut message);
    Sm3::of(&[&message])
}

impl StateTree {
    /// The proof for `key`, whether the state holds it or not; `row` is the stored row of
    /// [`bucket_of_key`], empty if there is none.
    ///
    /// # Errors
    /// [`Corrupt`] if the row is not the one this tree was built over.
    pub fn prove(&self, key: &StateKey, row: &[u8]) -> Result<StateProof, Corrupt> {
        let bucket = bucket_of_key(self.chain_id(), self.log2(), key);
        let row = read_row(bucket, self.log2(), row)?.to_vec();
        if self.bucket_digest(bucket) != Some(row_digest(self.chain_id(), bucket, &row)) {
            return Err(Corrupt::RowUnmatched { bucket });
        }
        let Some(path) = self.path(bucket) else { unreachable!("a key hash names a bucket") };
        Ok(StateProof { bucket, row, path })
    }
}

fn row_digest(chain_id: ChainId, bucket: u32, row: &[RowEntry]) -> Digest {
    if row.is_empty() {
        return Digest::ZERO;
    }
    Sm3::of(&[BucketHeader::new(chain_id, bucket, row).as_bytes(), row.as_bytes()])
}

impl StateProof {
    /// Proves that the state with this root holds exactly `value` under `key`; `None`: that it
    /// holds nothing there.
    ///
    /// # Errors
    /// The first reason why that is not proven.
    pub fn verify(
        &self,
        chain_id: ChainId,
        log2: u8,
        key: &StateKey,
        value: Option<&[u8]>,
        root: &Digest,
    ) -> Result<(), StateProofError> {
        let log2_max = log2.clamp(STATE_BUCKETS_LOG2_MIN, STATE_BUCKETS_LOG2_MAX);
        let hash = key_hash(chain_id, key);
        if log2_max != log2 || self.bucket != bucket_of(&hash, log2) {
            return Err(StateProofError::Unrelated);
        }
        read_row(self.bucket, log2, self.row.as_bytes()).map_err(|_| StateProofError::RowWrong)?;
        let found = self.row.binary_search_by_key(&hash, |entry| entry.key).ok();
        let found = found.and_then(|place| self.row.get(place)).map(|entry| entry.value);
        if found != value.map(|bytes| Sm3::of(&[bytes])) {
            return Err(StateProofError::ValueWrong);
        }
        let leaf = row_digest(chain_id, self.bucket, &self.row);
        let reached = root_from_path(leaf, self.bucket.into(), 1 << log2, &self.path);
        if reached == Some(*root) { Ok(()) } else { Err(StateProofError::PathWrong) }
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = ProofHeader {
            bucket: U32::new(self.bucket),
            entries_count: U32::new(length_u32(&self.row)),
            siblings_count: U16::new(u16::try_from(self.path.len()).unwrap_or(u16::MAX)),
            reserved: [0; 2],
        };
        let mut out = Vec::with_capacity(12 + 64 * self.row.len() + 32 * self.path.len());
        put(&mut out, &header);
        put(&mut out, self.row.as_slice());
        put(&mut out, self.path.as_slice());
        out
    }

    /// Reads exactly one proof.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: &ProofHeader = reader.fixed()?;
        check_reserved("state proof", &header.reserved)?;
        let (entries, siblings) = (header.entries_count.get(), header.siblings_count.get());
        check_range("state proof entries", entries.into(), 0, PROOF_ENTRIES_COUNT_MAX.into())?;
        let (min, max) = (STATE_BUCKETS_LOG2_MIN.into(), STATE_BUCKETS_LOG2_MAX.into());
        check_range("state proof siblings", siblings.into(), min, max)?;
        let proof = Self {
            bucket: header.bucket.get(),
            row: reader.slice(index(entries))?.to_vec(),
            path: reader.slice(usize::from(siblings))?.to_vec(),
        };
        reader.finish()?;
        Ok(proof)
    }
}
