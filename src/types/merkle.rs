//! The one Merkle tree of hufu: roots and inclusion proofs over a list of leaf digests.
//!
//! A parent is SM3(left || right), exactly 64 bytes; a node without a sibling moves up unchanged.
//! Leaves are digests of messages that begin with a domain prefix and are never 64 bytes long, so a
//! leaf cannot pass for an inner node; the number of leaves always stands beside the root in what
//! is signed, so the shape of the tree is fixed. The root of no leaves is [`Digest::ZERO`].

use hufu_crypto::{Digest, Hasher, Sm3};

use crate::limits::MERKLE_PATH_COUNT_MAX;

/// All levels of a tree, leaves first; kept by whoever must give out proofs.
#[derive(Clone, Debug, Default)]
pub struct MerkleTree {
    levels: Vec<Vec<Digest>>,
}

impl MerkleTree {
    /// Builds the tree over `leaves`, a level at a time so that a SIMD hasher sees whole levels.
    #[must_use]
    pub fn new(leaves: Vec<Digest>, hasher: &dyn Hasher) -> Self {
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let (pairs, odd) = level.as_chunks::<2>();
            let mut parents = vec![Digest::ZERO; pairs.len()];
            hasher.digest_pairs(pairs, &mut parents);
            parents.extend_from_slice(odd);
            assert!(parents.len() < level.len(), "every level is shorter than the one below");
            levels.push(parents);
        }
        Self { levels }
    }

    /// The root; [`Digest::ZERO`] without leaves.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(Digest::ZERO)
    }

    /// Number of leaves.
    #[must_use]
    pub fn leaves_count(&self) -> usize {
        self.levels.first().map_or(0, Vec::len)
    }

    /// The siblings from the leaf at `index` up to the root, or `None` if there is no such leaf.
    #[must_use]
    pub fn path(&self, index: usize) -> Option<Vec<Digest>> {
        if index >= self.leaves_count() {
            return None;
        }
        let mut path = Vec::new();
        let mut index = index;
        for level in &self.levels {
            if let Some(sibling) = level.get(index ^ 1) {
                path.push(*sibling);
            }
            index /= 2;
        }
        Some(path)
    }
}

/// The root over `leaves` when no proofs are wanted.
#[must_use]
pub fn root(leaves: Vec<Digest>, hasher: &dyn Hasher) -> Digest {
    MerkleTree::new(leaves, hasher).root()
}

/// The root that follows from `leaf` at `index` of `count` leaves by `path`; `None` if the path
/// does not have the one length and shape that position has.
#[must_use]
pub fn root_from_path(leaf: Digest, index: u64, count: u64, path: &[Digest]) -> Option<Digest> {
    if index >= count || path.len() > MERKLE_PATH_COUNT_MAX {
        return None;
    }
    let (mut node, mut index, mut width) = (leaf, index, count);
    let mut siblings = path.iter();
    while width > 1 {
        if index ^ 1 < width {
            let sibling = siblings.next()?;
            let (left, right) = if index & 1 == 0 { (&node, sibling) } else { (sibling, &node) };
            node = Sm3::of(&[left.as_bytes(), right.as_bytes()]);
        }
        index /= 2;
        width = width.div_ceil(2);
    }
    siblings.next().is_none().then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Digest> {
        (0..count).map(|number| Sm3::of(&[&[number]])).collect()
    }

    #[test]
    fn every_leaf_of_every_small_tree_proves_and_nothing_else_does() {
        let provider = hufu_crypto::software_provider();
        for count in 1..=33_u8 {
            let tree = MerkleTree::new(leaves(count), &*provider.hasher);
            for (index, leaf) in leaves(count).into_iter().enumerate() {
                let path = tree.path(index).unwrap();
                let (place, total) = (index as u64, u64::from(count));
                assert_eq!(root_from_path(leaf, place, total, &path), Some(tree.root()));
                assert_ne!(root_from_path(Digest::ZERO, place, total, &path), Some(tree.root()));
                let mut longer = path.clone();
                longer.push(Digest::ZERO);
                assert_eq!(root_from_path(leaf, place, total, &longer), None);
                if count > 1 {
                    let other = (place + 1) % total;
                    assert_ne!(root_from_path(leaf, other, total, &path), Some(tree.root()));
                }
            }
            assert_eq!(tree.path(usize::from(count)), None);
        }
        assert_eq!(MerkleTree::new(Vec::new(), &*provider.hasher).root(), Digest::ZERO);
    }
}
