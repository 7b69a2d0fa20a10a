//! A block's changes on their way into the state root.
//!
//! ```text
//! StateTree::update(changes) --> wanted() --> the tile fetches --> supply()   until none is wanted
//!                            --> StateTree::apply --> records to store, root
//! ```
//! A record is used only if it has the digest that the node above it, in the end the tree in
//! memory, says. Every change says what was there before, and the rows must agree: what the block
//! was executed on is thereby what the last root stands for.
//!
//! Fetching goes down a depth at a time and hashing comes up a depth at a time, both in lists, so
//! that a SIMD hasher fills its lanes. Owner: the execute tile.

use std::ops::Range;

use hufu_crypto::Hasher;
use hufu_types::codec::index;
use hufu_types::limits::ROW_ENTRIES_COUNT_MAX;
use hufu_types::{ChainId, Digest};

use crate::bucket::{
    CHILD_SIZE, CHILDREN, Child, Content, HEADER_SIZE, Place, RowEntry, fork_message, node_message,
    row_message,
};
use crate::changes::{Change, StateChanges, digest_parts};
use crate::corrupt::Corrupt;

/// A node as it was before the block.
#[derive(Clone, Debug)]
struct Before {
    place: Place,
    /// Its part of the changes; empty for a row that joins a fork's entries into one row.
    changes: Range<usize>,
    /// What the node above says. At depth 0 that is no count.
    stated: Child,
    /// Its message among the fetched ones; empty where nothing is.
    message: Range<usize>,
    /// Entries after the block, if the changes are true.
    after: u64,
    /// Of a fork: the children that the block touches, and if it becomes a row all that there are.
    children: Range<usize>,
}

/// What one block changes in the tree, while the nodes it needs are fetched.
#[derive(Clone, Debug)]
#[must_use]
pub struct StateUpdate<'a> {
    changes: &'a StateChanges,
    root: Digest,
    nodes: Vec<Before>,
    /// Messages of the fetched nodes.
    bytes: Vec<u8>,
    wanted: Vec<Place>,
    /// The places of `wanted` among `nodes`.
    wanted_nodes: Vec<usize>,
}

impl<'a> StateUpdate<'a> {
    pub(crate) fn new(
        changes: &'a StateChanges,
        leaf: impl Fn(u32) -> Digest,
        root: Digest,
    ) -> Self {
        let touched = changes.ranges().len();
        let mut update = Self {
            changes,
            root,
            nodes: Vec::with_capacity(touched),
            bytes: Vec::with_capacity(touched * (HEADER_SIZE + 2 * size_of::<RowEntry>())),
            wanted: Vec::with_capacity(touched),
            wanted_nodes: Vec::with_capacity(touched),
        };
        for (bucket, range) in changes.ranges() {
            let stated = Child { digest: leaf(*bucket), ..Child::EMPTY };
            update.meet(Place::top(*bucket, changes.log2()), stated, range.clone());
        }
        update
    }

    /// The places whose records are needed next, ascending; none when the update is complete.
    #[must_use]
    pub fn wanted(&self) -> &[Place] {
        &self.wanted
    }

    /// Takes the records of [`StateUpdate::wanted`], in that order, `None` where nothing is stored.
    ///
    /// # Errors
    /// [`Corrupt`] if a record is not the one that the tree stands for.
    pub fn supply<R: AsRef<[u8]>>(
        &mut self,
        records: impl IntoIterator<Item = Option<R>>,
        hasher: &dyn Hasher,
    ) -> Result<(), Corrupt> {
        let known = self.bytes.len();
        let mut ends = Vec::with_capacity(self.wanted.len());
        for (&at, record) in self.wanted_nodes.iter().zip(records) {
            let (node, start) = (&mut self.nodes[at], self.bytes.len());
            let record = record.ok_or(Corrupt::NodeUnmatched { place: node.place })?;
            let chain_id = self.changes.chain_id();
            node_message(chain_id, &node.place, record.as_ref(), &mut self.bytes);
            node.message = start..self.bytes.len();
            ends.push(self.bytes.len() - known);
        }
        assert_eq!(ends.len(), self.wanted.len(), "the caller fetched every record");
        let digests = digest_parts(&self.bytes[known..], &ends, hasher);
        self.wanted.clear();
        let fetched = core::mem::take(&mut self.wanted_nodes);
        for (&at, digest) in fetched.iter().zip(&digests) {
            let Before { place, stated, .. } = self.nodes[at];
            if stated.digest != *digest {
                return Err(Corrupt::NodeUnmatched { place });
            }
            self.open(at)?;
        }
        Ok(())
    }

    /// Reads a fetched node and asks for what is needed of the nodes below it.
    fn open(&mut self, at: usize) -> Result<(), Corrupt> {
        let Before { place, stated, ref changes, ref message, .. } = self.nodes[at];
        let (changes, message) = (changes.clone(), message.clone());
        let content =
            Content::parse(&place, &self.bytes[message.start + HEADER_SIZE..message.end])?;
        let count = content.count();
        if stated.count() > 0 && count != stated.count().into() {
            return Err(Corrupt::Node { place });
        }
        let after = self.count_after(count, &changes);
        self.nodes[at].after = after;
        let Content::Fork(children) = content else { return Ok(()) };
        let (children, becomes_row) = (*children, after <= ROW_ENTRIES_COUNT_MAX.into());
        let first = self.nodes.len();
        let mut start = changes.start;
        for (nibble, child) in children.into_iter().enumerate() {
            let rest = &self.changes.entries()[start..changes.end];
            let own = rest.partition_point(|change| place.nibble(&change.key) <= nibble);
            let own = start..start + own;
            start = own.end;
            if !own.is_empty() || (becomes_row && child.count() > 0) {
                self.meet(place.child(nibble), child, own);
            }
        }
        assert_eq!(start, changes.end, "every change lies below one child");
        self.nodes[at].children = first..self.nodes.len();
        Ok(())
    }

    fn meet(&mut self, place: Place, stated: Child, changes: Range<usize>) {
        let after = self.count_after(stated.count().into(), &changes);
        if stated.digest != Digest::ZERO {
            self.wanted.push(place);
            self.wanted_nodes.push(self.nodes.len());
        }
        self.nodes.push(Before { place, changes, stated, message: 0..0, after, children: 0..0 });
    }

    /// Entries after the block, if the changes are true; where they are not, [`join`] finds it.
    fn count_after(&self, count: u64, changes: &Range<usize>) -> u64 {
        let changes = &self.changes.entries()[changes.clone()];
        let new = changes.iter().filter(|change| change.before.is_none()).count();
        let gone = changes.iter().filter(|change| change.after.is_none()).count();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        count.saturating_add(number(new)).saturating_sub(number(gone))
    }

    /// The hashes of those keys of `changes` that the rows hold as they were, ascending.
    pub(crate) fn held(&self, changes: &StateChanges) -> Vec<Digest> {
        assert!(core::ptr::eq(self.changes, changes), "begun with these changes");
        assert!(self.wanted.is_empty(), "asked when everything was fetched");
        let mut held = Vec::with_capacity(16);
        for node in &self.nodes {
            let Some(Content::Row(row)) = self.content(node) else { continue };
            let keys = self.changes.entries()[node.changes.clone()].iter().map(|change| change.key);
            held.extend(keys.filter(|key| row.binary_search_by(|one| one.key.cmp(key)).is_ok()));
        }
        held.sort_unstable();
        held
    }

    fn content(&self, node: &Before) -> Option<Content<'_>> {
        Some(Content::again(self.bytes[node.message.clone()].get(HEADER_SIZE..)?))
    }

    /// Checks all changes against the rows and writes the messages of the nodes after the block.
    pub(crate) fn build(&self, root: Digest) -> Result<Built, Corrupt> {
        assert_eq!(self.root, root, "applied to the tree it was begun on");
        assert!(self.wanted.is_empty(), "applied when everything was fetched");
        let count = self.changes.ranges().len();
        let mut built = Built::new(self.changes.chain_id(), count, self.bytes.len());
        let mut scratch = Scratch::default();
        for node in &self.nodes[..count] {
            self.settle(node, 0, &mut built, &mut scratch)?;
        }
        Ok(built)
    }

    /// Writes what becomes of one node; `above` is where its digest goes in the fork above it.
    /// Recursion ends with the depth of the trie, at most 63.
    fn settle(
        &self,
        node: &Before,
        above: usize,
        built: &mut Built,
        scratch: &mut Scratch,
    ) -> Result<(), Corrupt> {
        match self.content(node) {
            Some(Content::Fork(children)) if node.after > ROW_ENTRIES_COUNT_MAX.into() => {
                let mut children = *children;
                let below = &self.nodes[node.children.clone()];
                for child in below {
                    let nibble = child.place.nibble_from(&node.place);
                    children[nibble] = counted(child.after);
                }
                let start = built.fork(&node.place, &children, above);
                for child in below {
                    let above = start + CHILD_SIZE * child.place.nibble_from(&node.place);
                    self.settle(child, above, built, scratch)?;
                }
            }
            content => {
                let Scratch { gathered, joined } = scratch;
                gathered.clear();
                let row = match content {
                    Some(Content::Row(row)) => row,
                    Some(Content::Fork(_)) => {
                        self.gather(node, built, gathered);
                        gathered
                    }
                    None => &[],
                };
                join(&node.place, row, &self.changes.entries()[node.changes.clone()], joined)?;
                assert_eq!(u64::try_from(joined.len()).ok(), Some(node.after), "changes are true");
                if joined.is_empty() {
                    built.vanish(&node.place);
                } else {
                    built.subtree(&node.place, joined, above);
                }
            }
        }
        Ok(())
    }

    /// Collects the entries below a fork that becomes a row; the records below it leave.
    fn gather(&self, node: &Before, built: &mut Built, entries: &mut Vec<RowEntry>) {
        for child in &self.nodes[node.children.clone()] {
            match self.content(child) {
                Some(Content::Row(row)) => entries.extend_from_slice(row),
                Some(Content::Fork(_)) => self.gather(child, built, entries),
                None => continue,
            }
            built.deleted.push(child.place);
        }
    }
}

/// A child whose digest is to come.
fn counted(count: u64) -> Child {
    match u32::try_from(count) {
        Ok(0) => Child::EMPTY,
        Ok(count) => Child::new(count, Digest::ZERO),
        Err(_) => unreachable!("no state has 2^32 entries in one bucket"),
    }
}

/// Memory that is kept from bucket to bucket.
#[derive(Default)]
struct Scratch {
    gathered: Vec<RowEntry>,
    joined: Vec<RowEntry>,
}

/// Joins a row with its changes, all of which must agree with it about what was there.
fn join(
    place: &Place,
    row: &[RowEntry],
    changes: &[Change],
    joined: &mut Vec<RowEntry>,
) -> Result<(), Corrupt> {
    joined.clear();
    let mut row = row.iter().peekable();
    for &Change { key, before, after } in changes {
        while let Some(entry) = row.next_if(|entry| entry.key < key) {
            joined.push(*entry);
        }
        let found = row.next_if(|entry| entry.key == key).map(|entry| entry.value);
        if found != before {
            return Err(Corrupt::EntryUnmatched { place: *place, key });
        }
        joined.extend(after.map(|value| RowEntry { key, value }));
    }
    joined.extend(row);
    Ok(())
}

/// Messages of nodes at one depth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Level {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    places: Vec<Place>,
    /// Where in the messages of the depth above each digest goes.
    above: Vec<usize>,
}

/// The nodes that a block leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Built {
    chain_id: ChainId,
    levels: Vec<Level>,
    deleted: Vec<Place>,
    /// Buckets without entries after the block.
    emptied: Vec<u32>,
}

impl Built {
    /// Room for the tops of `count` buckets with `size` bytes of records; most stay as long as they
    /// are.
    fn new(chain_id: ChainId, count: usize, size: usize) -> Self {
        let top = Level {
            bytes: Vec::with_capacity(size),
            ends: Vec::with_capacity(count),
            places: Vec::with_capacity(count),
            above: Vec::with_capacity(count),
        };
        Self { chain_id, levels: vec![top], deleted: Vec::new(), emptied: Vec::new() }
    }

    fn level(&mut self, place: &Place, above: usize) -> &mut Level {
        let depth = usize::from(place.depth());
        if self.levels.len() <= depth {
            self.levels.resize_with(depth + 1, Level::default);
        }
        let level = &mut self.levels[depth];
        level.places.push(*place);
        level.above.push(above);
        level
    }

    fn row(&mut self, place: &Place, entries: &[RowEntry], above: usize) {
        assert!(entries.len() <= index(ROW_ENTRIES_COUNT_MAX), "more make a fork");
        let (chain_id, level) = (self.chain_id, self.level(place, above));
        row_message(chain_id, place, entries, &mut level.bytes);
        level.ends.push(level.bytes.len());
    }

    /// Returns where the children begin in the messages of this depth.
    fn fork(&mut self, place: &Place, children: &[Child; CHILDREN], above: usize) -> usize {
        let (chain_id, level) = (self.chain_id, self.level(place, above));
        let start = level.bytes.len() + HEADER_SIZE;
        fork_message(chain_id, place, children, &mut level.bytes);
        level.ends.push(level.bytes.len());
        assert_eq!(level.bytes.len() - start, CHILDREN * CHILD_SIZE, "children end the message");
        start
    }

    /// The canonical trie of a place's entries.
    fn subtree(&mut self, place: &Place, entries: &[RowEntry], above: usize) {
        if entries.len() <= index(ROW_ENTRIES_COUNT_MAX) {
            return self.row(place, entries, above);
        }
        let parts =
            || entries.chunk_by(|one, next| place.nibble(&one.key) == place.nibble(&next.key));
        let mut children = [Child::EMPTY; CHILDREN];
        for part in parts() {
            let Some(first) = part.first() else { continue };
            let count = u64::try_from(part.len()).unwrap_or(u64::MAX);
            children[place.nibble(&first.key)] = counted(count);
        }
        let start = self.fork(place, &children, above);
        for part in parts() {
            let Some(first) = part.first() else { continue };
            let nibble = place.nibble(&first.key);
            self.subtree(&place.child(nibble), part, start + CHILD_SIZE * nibble);
        }
    }

    /// Nothing is left at a place where something was.
    fn vanish(&mut self, place: &Place) {
        self.deleted.push(*place);
        if place.depth() == 0 {
            self.emptied.push(place.bucket());
        }
    }

    /// Hashes all nodes, the deepest first, and returns the new leaves of the dense tree.
    pub(crate) fn hash(&mut self, hasher: &dyn Hasher) -> Vec<(u32, Digest)> {
        let mut digests = Vec::new();
        for depth in (0..self.levels.len()).rev() {
            let (upper, lower) = self.levels.split_at_mut(depth);
            let Some(level) = lower.first() else { continue };
            digests = digest_parts(&level.bytes, &level.ends, hasher);
            let Some(upper) = upper.last_mut() else { continue };
            for (&at, digest) in level.above.iter().zip(&digests) {
                let place = at + CHILD_SIZE - size_of::<Digest>();
                let stated = &mut upper.bytes[place..at + CHILD_SIZE];
                assert_eq!(stated, Digest::ZERO.as_bytes(), "one digest for each child");
                stated.copy_from_slice(digest.as_bytes());
            }
        }
        let tops = self.levels.first().map_or(&[][..], |level| &level.places);
        let full = tops.iter().map(Place::bucket).zip(digests);
        full.chain(self.emptied.iter().map(|&bucket| (bucket, Digest::ZERO))).collect()
    }

    /// The records to store, and places whose records leave.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Place, Option<&[u8]>)> {
        let stored = self.levels.iter().flat_map(|level| {
            let mut start = 0;
            level.places.iter().zip(&level.ends).map(move |(&place, &end)| {
                let message = &level.bytes[core::mem::replace(&mut start, end)..end];
                (place, message.get(HEADER_SIZE..))
            })
        });
        stored.chain(self.deleted.iter().map(|&place| (place, None)))
    }
}
