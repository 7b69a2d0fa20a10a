//! The state root: a dense binary Merkle tree over 2^k buckets of hashed entries.
//!
//! ```text
//! key hash     = see `changes.rs`                                 its top k bits name the bucket
//! bucket digest= see `bucket.rs`: a row, or forks above rows; zero if the bucket is empty
//! root         = binary Merkle tree over the 2^k bucket digests, parent = SM3(left || right)
//!
//! writes --StateChanges::new--> StateTree::update --the tile fetches what is wanted--> apply
//!        --> records to store, root
//! ```
//! A row's message is at least 112 bytes and a fork's 620, so none passes for an inner node; k is
//! in the genesis, so the shape of the tree is fixed.
//!
//! All inner nodes stay in memory, 2^(k+1) digests taken at start (4 MiB for k = 16, 64 MiB for k =
//! 20). Rows and forks live in the state store. Everything is hashed in lists, so that a SIMD
//! hasher fills its lanes. Owner: the execute tile.

use hufu_crypto::Hasher;
use hufu_types::codec::index;
use hufu_types::limits::{STATE_BUCKETS_LOG2_MAX, STATE_BUCKETS_LOG2_MIN};
use hufu_types::{ChainId, Digest};

use crate::bucket::{Content, Place, node_message};
use crate::changes::{StateChanges, digest_parts};
use crate::corrupt::Corrupt;
use crate::update::{Built, StateUpdate};

/// What [`StateTree::apply`] gave: the records to store, and the root.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Applied {
    built: Built,
    /// The state root after the block.
    pub root: Digest,
}

impl Applied {
    /// The changed records, each place once; `None` is to be deleted.
    pub fn records(&self) -> impl Iterator<Item = (Place, Option<&[u8]>)> {
        self.built.records()
    }
}

/// The inner nodes of the state root, all in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateTree {
    chain_id: ChainId,
    log2: u8,
    /// Node 1 is the root, node n has the children 2n and 2n+1, the buckets begin at 2^k; node 0 is
    /// unused. By pairs: pair n holds the children of node n.
    pairs: Vec<Pair>,
}

/// Two siblings in one cache line: a block's changes are spread over the whole tree, so that its
/// time goes into fetching lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
struct Pair([Digest; 2]);

const _: () = assert!(size_of::<Pair>() == 64, "siblings fill their line");

impl StateTree {
    /// The tree over an empty state, with 2^`log2` buckets; `log2` is the genesis's choice.
    #[must_use]
    pub fn new(chain_id: ChainId, log2: u8, hasher: &dyn Hasher) -> Self {
        assert!(log2 >= STATE_BUCKETS_LOG2_MIN, "a genesis keeps the lower limit");
        assert!(log2 <= STATE_BUCKETS_LOG2_MAX, "a genesis keeps the upper limit");
        let mut pairs = vec![Pair([Digest::ZERO; 2]); 1 << log2];
        let mut empty = Digest::ZERO;
        for level in (0..log2).rev() {
            let mut parent = [Digest::ZERO];
            hasher.digest_pairs(&[[empty, empty]], &mut parent);
            empty = parent[0];
            match level {
                0 => pairs[0].0[1] = empty,
                _ => pairs[1 << (level - 1)..1 << level].fill(Pair([empty; 2])),
            }
        }
        Self { chain_id, log2, pairs }
    }

    /// The tree over the stored records at depth 0, in any order; buckets that do not come are
    /// empty.
    ///
    /// # Errors
    /// [`Corrupt::Node`] if a record is not canonical or lies deeper.
    pub fn load<R: AsRef<[u8]>>(
        chain_id: ChainId,
        log2: u8,
        records: impl IntoIterator<Item = (Place, R)>,
        hasher: &dyn Hasher,
    ) -> Result<Self, Corrupt> {
        let mut tree = Self::new(chain_id, log2, hasher);
        let (mut bytes, mut ends, mut buckets) = (Vec::new(), Vec::new(), Vec::new());
        for (place, record) in records {
            if place.depth() > 0 {
                return Err(Corrupt::Node { place });
            }
            Content::parse(&place, record.as_ref())?;
            node_message(chain_id, &place, record.as_ref(), &mut bytes);
            ends.push(bytes.len());
            buckets.push(place.bucket());
            if bytes.len() >= HASHED_SIZE_MAX {
                tree.set_leaves(buckets.drain(..).zip(digest_parts(&bytes, &ends, hasher)));
                bytes.clear();
                ends.clear();
            }
        }
        tree.set_leaves(buckets.into_iter().zip(digest_parts(&bytes, &ends, hasher)));
        tree.rebuild(hasher);
        Ok(tree)
    }

    /// The state root.
    #[must_use]
    pub fn root(&self) -> Digest {
        *self.node(1)
    }

    /// Number of buckets.
    #[must_use]
    pub fn buckets_count(&self) -> u32 {
        1 << self.log2
    }

    /// The digest of one bucket; `None` behind the last.
    #[must_use]
    pub(crate) fn bucket_digest(&self, bucket: u32) -> Option<Digest> {
        let node = index(bucket.checked_add(self.buckets_count())?);
        self.pairs.get(node / 2).map(|pair| pair.0[node % 2])
    }

    /// Begins to apply a block's changes; what is [`StateUpdate::wanted`] must be fetched next.
    pub fn update<'a>(&self, changes: &'a StateChanges) -> StateUpdate<'a> {
        assert_eq!(changes.log2(), self.log2, "changes hashed for a tree of this size");
        assert_eq!(changes.chain_id(), self.chain_id, "changes hashed for this chain");
        let leaf = |bucket: u32| *self.node((1 << self.log2) + index(bucket));
        StateUpdate::new(changes, leaf, self.root())
    }

    /// Applies an update that wants nothing more.
    ///
    /// # Errors
    /// [`Corrupt::EntryUnmatched`] if a row says something else than a change about what was there;
    /// the tree is unchanged then.
    pub fn apply(
        &mut self,
        update: &StateUpdate<'_>,
        hasher: &dyn Hasher,
    ) -> Result<Applied, Corrupt> {
        let mut built = update.build(self.root())?;
        let mut leaves = built.hash(hasher);
        leaves.sort_unstable_by_key(|(bucket, _)| *bucket);
        let buckets: Vec<u32> = leaves.iter().map(|(bucket, _)| *bucket).collect();
        self.set_leaves(leaves);
        self.update_parents(&buckets, hasher);
        Ok(Applied { built, root: self.root() })
    }

    /// The siblings from a bucket up to the root, lowest first; `None` if there is no such bucket.
    #[must_use]
    pub fn path(&self, bucket: u32) -> Option<Vec<Digest>> {
        let mut node = index(bucket.checked_add(self.buckets_count())?);
        self.pairs.get(node / 2)?;
        let mut path = Vec::with_capacity(usize::from(self.log2));
        while node > 1 {
            path.push(*self.node(node ^ 1));
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

    fn node(&self, node: usize) -> &Digest {
        &self.pairs[node / 2].0[node % 2]
    }

    fn set(&mut self, node: usize, digest: Digest) {
        self.pairs[node / 2].0[node % 2] = digest;
    }

    pub(crate) fn set_leaves(&mut self, leaves: impl IntoIterator<Item = (u32, Digest)>) {
        for (bucket, digest) in leaves {
            self.set((1 << self.log2) + index(bucket), digest);
        }
    }

    /// Computes the ancestors of some buckets, a level at a time.
    fn update_parents(&mut self, buckets: &[u32], hasher: &dyn Hasher) {
        assert!(buckets.is_sorted(), "so that equal parents are neighbours");
        let mut level: Vec<usize> =
            buckets.iter().map(|&bucket| (1 << self.log2) + index(bucket)).collect();
        let mut pairs = Vec::with_capacity(level.len());
        let mut parents = Vec::with_capacity(level.len());
        for _ in 0..self.log2 {
            level.iter_mut().for_each(|node| *node /= 2);
            level.dedup();
            pairs.clear();
            pairs.extend(level.iter().map(|&node| self.pairs[node].0));
            parents.clear();
            parents.resize(pairs.len(), Digest::ZERO);
            hasher.digest_pairs(&pairs, &mut parents);
            for (&node, &parent) in level.iter().zip(&parents) {
                self.set(node, parent);
            }
        }
        assert!(level.is_empty() || level == [1], "all paths end at the root");
    }

    /// Computes all inner nodes.
    pub(crate) fn rebuild(&mut self, hasher: &dyn Hasher) {
        for level in (0..self.log2).rev() {
            let first = 1 << level;
            for start in (first..2 * first).step_by(REBUILT_COUNT_MAX) {
                let end = (start + REBUILT_COUNT_MAX).min(2 * first);
                let pairs: Vec<[Digest; 2]> =
                    self.pairs[start..end].iter().map(|pair| pair.0).collect();
                let mut parents = vec![Digest::ZERO; pairs.len()];
                hasher.digest_pairs(&pairs, &mut parents);
                (start..).zip(parents).for_each(|(node, parent)| self.set(node, parent));
            }
        }
    }
}

/// Inner nodes hashed at a time while loading.
const REBUILT_COUNT_MAX: usize = 4_096;

/// Bytes of records hashed at a time while loading or checking.
pub(crate) const HASHED_SIZE_MAX: usize = 1 << 20;
