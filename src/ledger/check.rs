//! The check of a whole stored bucket tree: what `hufu ledger verify` reads.
//!
//! ```text
//! all records, ascending by key --TreeCheck::add--> faults --finish--> tree, counts
//! ```
//! Ascending keys walk each bucket from the top down, so that the forks above a record are at hand:
//! at most 63 of them, and what was read since the last list was hashed. Nothing else is kept.

use hufu_crypto::Hasher;
use hufu_types::{ChainId, Digest};

use crate::bucket::{CHILDREN, Child, Content, HEADER_SIZE, Place, node_message};
use crate::changes::digest_parts;
use crate::corrupt::Corrupt;
use crate::root::{HASHED_SIZE_MAX, StateTree};

/// A fork whose children have not all come yet.
#[derive(Debug)]
struct Open {
    place: Place,
    /// Those that came are empty.
    expected: [Child; CHILDREN],
}

/// Counts of what a check read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeCounts {
    /// Rows.
    pub rows: u64,
    /// Forks.
    pub forks: u64,
    /// Entries of all rows.
    pub entries: u64,
}

/// See the module.
pub struct TreeCheck<'a> {
    hasher: &'a dyn Hasher,
    tree: StateTree,
    /// Forks above the next record, the top first.
    open: Vec<Open>,
    /// Records that are not hashed yet.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    places: Vec<Place>,
    counts: TreeCounts,
    faults: Vec<Corrupt>,
}

impl<'a> TreeCheck<'a> {
    /// A check of the tree of 2^`log2` buckets of a chain.
    #[must_use]
    pub fn new(chain_id: ChainId, log2: u8, hasher: &'a dyn Hasher) -> Self {
        Self {
            hasher,
            tree: StateTree::new(chain_id, log2, hasher),
            open: Vec::new(),
            bytes: Vec::new(),
            ends: Vec::new(),
            places: Vec::new(),
            counts: TreeCounts::default(),
            faults: Vec::new(),
        }
    }

    /// Takes the next record; places ascend.
    pub fn add(&mut self, place: Place, record: &[u8]) {
        assert!(self.places.last().is_none_or(|last| *last < place), "records come in order");
        match Content::parse(&place, record) {
            Ok(Content::Row(entries)) => {
                self.counts.rows += 1;
                self.counts.entries += u64::try_from(entries.len()).unwrap_or(u64::MAX);
            }
            Ok(Content::Fork(_)) => self.counts.forks += 1,
            Err(cause) => return self.faults.push(cause),
        }
        node_message(self.tree.chain_id(), &place, record, &mut self.bytes);
        self.ends.push(self.bytes.len());
        self.places.push(place);
        if self.bytes.len() >= HASHED_SIZE_MAX {
            self.flush();
        }
    }

    /// Faults found since the last call, in the order of places.
    pub fn faults(&mut self) -> Vec<Corrupt> {
        core::mem::take(&mut self.faults)
    }

    /// Ends the check: the tree over what was read, what was read, and the last faults.
    #[must_use]
    pub fn finish(mut self) -> (StateTree, TreeCounts, Vec<Corrupt>) {
        self.flush();
        self.close(0);
        self.tree.rebuild(self.hasher);
        (self.tree, self.counts, self.faults)
    }

    fn flush(&mut self) {
        let digests = digest_parts(&self.bytes, &self.ends, self.hasher);
        let (bytes, ends) = (core::mem::take(&mut self.bytes), core::mem::take(&mut self.ends));
        let places = core::mem::take(&mut self.places);
        let mut start = 0;
        for ((place, end), digest) in places.into_iter().zip(ends).zip(digests) {
            let record = &bytes[core::mem::replace(&mut start, end) + HEADER_SIZE..end];
            let Ok(content) = Content::parse(&place, record) else {
                unreachable!("only canonical records are hashed")
            };
            self.meet(place, content, digest);
        }
    }

    fn meet(&mut self, place: Place, content: Content<'_>, digest: Digest) {
        let above = self.open.iter().take_while(|open| open.place.is_above(&place)).count();
        self.close(above);
        if place.depth() == 0 {
            self.tree.set_leaves([(place.bucket(), digest)]);
        } else {
            self.compare(place, content.count(), digest);
        }
        if let Content::Fork(children) = content {
            self.open.push(Open { place, expected: *children });
        }
    }

    /// Compares a record with what the fork above says of it.
    fn compare(&mut self, place: Place, count: u64, digest: Digest) {
        let above = self.open.last_mut().filter(|open| open.place.depth() + 1 == place.depth());
        let expected = above.map(|open| {
            let nibble = place.nibble_from(&open.place);
            core::mem::replace(&mut open.expected[nibble], Child::EMPTY)
        });
        match expected {
            None | Some(Child::EMPTY) => self.faults.push(Corrupt::NodeOrphaned { place }),
            Some(child) if u64::from(child.count()) == count && child.digest == digest => {}
            Some(_) => self.faults.push(Corrupt::NodeUnmatched { place }),
        }
    }

    /// Closes all open forks but the first `kept`; children that did not come are missing.
    fn close(&mut self, kept: usize) {
        for Open { place, expected } in self.open.drain(kept..).rev() {
            let missing = expected.iter().enumerate().filter(|(_, child)| **child != Child::EMPTY);
            self.faults.extend(
                missing.map(|(nibble, _)| Corrupt::NodeUnmatched { place: place.child(nibble) }),
            );
        }
    }
}
