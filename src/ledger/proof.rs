//! Proofs that the state holds a value under a key, or none, verifiable offline against a state
//! root.
//!
//! A proof is the row at the place of the key, the forks above it and the path from the bucket to
//! the root. The row shows the entry or its absence, because it is complete and sorted; where the
//! last fork has nothing in the key's direction, the row is empty.
//!
//! ```text
//! offset  size  field
//!      0     4  bucket
//!      4     2  forks, at most (256 - k) / 4
//!      6     2  siblings of the path: k
//!      8     4  entries of the row, at most 64
//!     12  576f  forks, the bucket's top first: 16 x (count u32, digest)
//!      …   64n  entries: key hash, value hash
//!      …   32k  siblings, lowest first
//! ```
//! No proof is larger than [`STATE_PROOF_SIZE_MAX`], whatever the state holds.

use hufu_types::codec::{DecodeError, Reader, check_range, index, length_u32, put};
use hufu_types::limits::{
    ROW_ENTRIES_COUNT_MAX, STATE_BUCKETS_LOG2_MAX, STATE_BUCKETS_LOG2_MIN, STATE_FORKS_COUNT_MAX,
    STATE_PROOF_SIZE_MAX,
};
use hufu_types::merkle::root_from_path;
use hufu_types::{ChainId, Digest};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::Sm3;

use crate::bucket::{
    CHILD_SIZE, CHILDREN, Child, Content, HEADER_SIZE, Place, ROW_ENTRY_SIZE, RowEntry, bucket_of,
    fork_message, is_fork, is_row, node_message, row_message,
};
use crate::changes::{key_message, value_message};
use crate::corrupt::Corrupt;
use crate::key::StateKey;
use crate::root::StateTree;

type Fork = [Child; CHILDREN];

/// A proof about one key; see the module for its encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateProof {
    bucket: u32,
    forks: Vec<Fork>,
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
    /// The row is not sorted, is too long or holds entries of other places.
    #[error("row of the state proof is not canonical")]
    RowWrong,
    /// A fork is none, or does not lead to what lies below it.
    #[error("fork {depth} of the state proof does not lead to the row")]
    ForkWrong {
        /// Its number, the bucket's top being 0.
        depth: u8,
    },
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
    forks_count: U16,
    siblings_count: U16,
    entries_count: U32,
}

const _: () = assert!(
    (size_of::<ProofHeader>()
        + STATE_FORKS_COUNT_MAX as usize * CHILDREN * CHILD_SIZE
        + ROW_ENTRIES_COUNT_MAX as usize * ROW_ENTRY_SIZE
        + STATE_BUCKETS_LOG2_MAX as usize * size_of::<Digest>())
        == STATE_PROOF_SIZE_MAX as usize,
    "the limit that everybody shares is the size of the largest proof"
);

fn key_hash(chain_id: ChainId, key: &StateKey) -> Digest {
    let mut message = Vec::with_capacity(96);
    key_message(chain_id, key.to_bytes().as_slice(), &mut message);
    Sm3::of(&[&message])
}

fn value_hash(value: &[u8]) -> Digest {
    let mut message = Vec::with_capacity(96);
    value_message(value, &mut message);
    Sm3::of(&[&message])
}

/// A proof in the making: it asks for records until it has a row.
#[derive(Clone, Debug)]
#[must_use]
pub struct Prover<'a> {
    tree: &'a StateTree,
    key: Digest,
    /// The next record and what is known of it; `None` when the proof is complete.
    wanted: Option<(Place, Child)>,
    forks: Vec<Fork>,
    row: Vec<RowEntry>,
}

impl StateTree {
    /// Begins the proof for `key`, whether the state holds it or not.
    pub fn prove(&self, key: &StateKey) -> Prover<'_> {
        self.prove_hash(key_hash(self.chain_id(), key))
    }

    /// Begins the proof for the key with this hash.
    pub(crate) fn prove_hash(&self, key: Digest) -> Prover<'_> {
        let bucket = bucket_of(&key, self.log2());
        let Some(digest) = self.bucket_digest(bucket) else {
            unreachable!("a key hash names a bucket")
        };
        let stated = Child { digest, ..Child::EMPTY };
        let wanted = Some((Place::top(bucket, self.log2()), stated));
        let wanted = wanted.filter(|_| digest != Digest::ZERO);
        Prover { tree: self, key, wanted, forks: Vec::new(), row: Vec::new() }
    }
}

impl Prover<'_> {
    /// The place whose record is needed next; `None` when the proof is complete.
    #[must_use]
    pub fn wanted(&self) -> Option<Place> {
        self.wanted.map(|(place, _)| place)
    }

    /// Takes the record stored for [`Prover::wanted`], empty if there is none.
    ///
    /// # Errors
    /// [`Corrupt`] if it is not the one this tree stands for.
    pub fn supply(&mut self, record: &[u8]) -> Result<(), Corrupt> {
        let Some((place, stated)) = self.wanted.take() else { return Ok(()) };
        let mut message = Vec::with_capacity(HEADER_SIZE + record.len());
        node_message(self.tree.chain_id(), &place, record, &mut message);
        if Sm3::of(&[&message]) != stated.digest {
            return Err(Corrupt::NodeUnmatched { place });
        }
        let content = Content::parse(&place, record)?;
        if stated.count() > 0 && content.count() != stated.count().into() {
            return Err(Corrupt::Node { place });
        }
        match content {
            Content::Row(row) => self.row.extend_from_slice(row),
            Content::Fork(children) => {
                let nibble = place.nibble(&self.key);
                let below = Some((place.child(nibble), children[nibble]));
                self.wanted = below.filter(|(_, child)| child.count() > 0);
                self.forks.push(*children);
            }
        }
        Ok(())
    }

    /// The proof, when nothing more is wanted.
    #[must_use]
    pub fn finish(self) -> StateProof {
        assert!(self.wanted.is_none(), "a proof ends with a row");
        let bucket = bucket_of(&self.key, self.tree.log2());
        let Some(path) = self.tree.path(bucket) else { unreachable!("a key hash names a bucket") };
        StateProof { bucket, forks: self.forks, row: self.row, path }
    }
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
        let hash = key_hash(chain_id, key);
        self.verify_hash(chain_id, log2, &hash, value.map(value_hash), root)
    }

    /// [`StateProof::verify`] on the hashes of key and value.
    pub(crate) fn verify_hash(
        &self,
        chain_id: ChainId,
        log2: u8,
        key: &Digest,
        value: Option<Digest>,
        root: &Digest,
    ) -> Result<(), StateProofError> {
        let in_range = (STATE_BUCKETS_LOG2_MIN..=STATE_BUCKETS_LOG2_MAX).contains(&log2);
        if !in_range || self.bucket != bucket_of(key, log2) {
            return Err(StateProofError::Unrelated);
        }
        let leaf = self.leaf(chain_id, Place::top(self.bucket, log2), key)?;
        let found = self.row.binary_search_by_key(key, |entry| entry.key).ok();
        let found = found.and_then(|place| self.row.get(place)).map(|entry| entry.value);
        if found != value {
            return Err(StateProofError::ValueWrong);
        }
        let reached = root_from_path(leaf, self.bucket.into(), 1 << log2, &self.path);
        if reached == Some(*root) { Ok(()) } else { Err(StateProofError::PathWrong) }
    }

    /// The digest of the bucket that follows from row and forks.
    fn leaf(&self, chain_id: ChainId, top: Place, key: &Digest) -> Result<Digest, StateProofError> {
        let mut places = vec![top];
        for (depth, fork) in (0_u8..).zip(&self.forks) {
            let place = places.last().copied().filter(|place| is_fork(place, fork));
            let place = place.ok_or(StateProofError::ForkWrong { depth })?;
            places.push(place.child(place.nibble(key)));
        }
        let mut below = Child::EMPTY;
        let mut message = Vec::with_capacity(HEADER_SIZE + self.row.as_bytes().len() + 4);
        if let Some(place) = places.pop().filter(|_| !self.row.is_empty()) {
            if !is_row(&place, &self.row) {
                return Err(StateProofError::RowWrong);
            }
            row_message(chain_id, &place, &self.row, &mut message);
            below = Child::new(length_u32(&self.row), Sm3::of(&[&message]));
        }
        assert_eq!(places.len(), self.forks.len(), "a place for each fork");
        for (fork, place) in self.forks.iter().zip(places).rev() {
            let wrong = StateProofError::ForkWrong { depth: place.depth() };
            if fork[place.nibble(key)] != below {
                return Err(wrong);
            }
            message.clear();
            fork_message(chain_id, &place, fork, &mut message);
            let count = fork.iter().map(Child::count).try_fold(0, u32::checked_add);
            below = Child::new(count.ok_or(wrong)?, Sm3::of(&[&message]));
        }
        Ok(below.digest)
    }

    /// The canonical bytes, at most [`STATE_PROOF_SIZE_MAX`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let short = |count: usize| U16::new(u16::try_from(count).unwrap_or(u16::MAX));
        let header = ProofHeader {
            bucket: U32::new(self.bucket),
            forks_count: short(self.forks.len()),
            siblings_count: short(self.path.len()),
            entries_count: U32::new(length_u32(&self.row)),
        };
        let mut out = Vec::with_capacity(4_096);
        put(&mut out, &header);
        put(&mut out, self.forks.as_slice());
        put(&mut out, self.row.as_slice());
        put(&mut out, self.path.as_slice());
        assert!(out.len() <= index(STATE_PROOF_SIZE_MAX), "whoever asks for a proof can read it");
        out
    }

    /// Reads exactly one proof.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: &ProofHeader = reader.fixed()?;
        let (forks, siblings) = (header.forks_count.get(), header.siblings_count.get());
        let entries = header.entries_count.get();
        check_range("state proof forks", forks.into(), 0, STATE_FORKS_COUNT_MAX.into())?;
        check_range("state proof entries", entries.into(), 0, ROW_ENTRIES_COUNT_MAX.into())?;
        let (min, max) = (STATE_BUCKETS_LOG2_MIN.into(), STATE_BUCKETS_LOG2_MAX.into());
        check_range("state proof siblings", siblings.into(), min, max)?;
        let proof = Self {
            bucket: header.bucket.get(),
            forks: reader.slice(usize::from(forks))?.to_vec(),
            row: reader.slice(index(entries))?.to_vec(),
            path: reader.slice(usize::from(siblings))?.to_vec(),
        };
        reader.finish()?;
        Ok(proof)
    }
}
