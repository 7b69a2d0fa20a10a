//! The SM3 Merkle root over the stored bytes of a group.
//!
//! ```text
//! buffer:  [ header 256 B | 3,840 B ][ 4 KiB ][ 4 KiB ] ... [ records, then zeroes ]
//! leaves:                 [   0    ][   1   ][   2   ] ... [       last           ]
//! ```
//! Leaves are 4 KiB: one long SM3 would bind the whole log to the speed of one sequential hash,
//! while leaves are independent and go to as many lanes as the provider's hasher has. The first
//! leaf lacks the group header, which the hash chain covers. No leaf is 64 bytes long, so none can
//! pass for an inner node.
//!
//! A writer does not wait for the end of the group: [`GrowingTree`] takes leaves as they fill,
//! while the device is busy with the group before, so that little is left between the last record
//! and the write. Encryption goes the same way: a step is encrypted in place when it is full, and
//! then hashed. What is stored is what is hashed, with or without a key.

use hufu_crypto::{Digest, Hasher};

use super::format::{BLOCK, GROUP_HEADER_BYTES, STEP_BYTES};

/// Leaves hashed together while a group fills: as many as the widest hasher has lanes.
const STEP_LEAVES: usize = 16;

const _: () = assert!(STEP_BYTES == STEP_LEAVES * BLOCK);
const _: () = assert!(GROUP_HEADER_BYTES < BLOCK && BLOCK - GROUP_HEADER_BYTES != 64);

/// Checksum and leaves of a group as far as it has grown.
pub(super) struct GrowingTree {
    leaves: Vec<Digest>,
    checksum: u32,
}

impl GrowingTree {
    /// The tree of a group that has no bytes yet and may have `bytes_max`, header included.
    pub(super) fn new(bytes_max: usize) -> Self {
        assert!(bytes_max.is_multiple_of(BLOCK) && bytes_max > 0);
        Self { leaves: Vec::with_capacity(bytes_max / BLOCK), checksum: 0 }
    }

    /// Takes what is final of a group: its first `filled` bytes, header included, which will not
    /// change any more. Takes whole steps only, so it costs nothing to call it too often.
    pub(super) fn grow(&mut self, buffer: &[u8], filled: usize, hasher: &dyn Hasher) {
        assert!(filled <= buffer.len());
        let waiting = (filled / BLOCK).saturating_sub(self.leaves.len());
        let count = waiting - waiting % STEP_LEAVES;
        if count > 0 {
            self.take(buffer, count, hasher);
        }
    }

    /// Takes what is left of a group that has its padding, and ends it: checksum and root.
    pub(super) fn finish(
        mut self,
        buffer: &[u8],
        padded: usize,
        hasher: &dyn Hasher,
    ) -> (u32, Digest) {
        assert!(padded.is_multiple_of(BLOCK) && padded <= buffer.len());
        assert!(self.leaves.len() <= padded / BLOCK, "only final blocks were taken");
        self.take(buffer, padded / BLOCK - self.leaves.len(), hasher);
        assert!(self.leaves.len() == padded / BLOCK && padded > 0);
        (self.checksum, hufu_types::merkle::root(self.leaves, hasher))
    }

    fn take(&mut self, buffer: &[u8], count: usize, hasher: &dyn Hasher) {
        let done = self.leaves.len();
        let bytes = (done * BLOCK).max(GROUP_HEADER_BYTES)..(done + count) * BLOCK;
        let stored = buffer.get(bytes).unwrap_or_default();
        self.checksum = crc32c::crc32c_append(self.checksum, stored);
        self.leaves.resize(done + count, Digest::ZERO);
        let digests = self.leaves.get_mut(done..).unwrap_or_default();
        hasher.digest_many(&split(stored, done == 0), digests);
    }
}

/// Root over `stored`, the bytes of a group behind its header, padding included.
pub(crate) fn stored_root(stored: &[u8], hasher: &dyn Hasher) -> Digest {
    assert!((stored.len() + GROUP_HEADER_BYTES).is_multiple_of(BLOCK));
    assert!(!stored.is_empty());
    let leaves = split(stored, true);
    let mut digests = vec![Digest::ZERO; leaves.len()];
    hasher.digest_many(&leaves, &mut digests);
    hufu_types::merkle::root(digests, hasher)
}

/// The leaves of stored bytes, which begin behind the group's header or with a later block.
fn split(stored: &[u8], is_first: bool) -> Vec<&[u8]> {
    let first = if is_first { stored.len().min(BLOCK - GROUP_HEADER_BYTES) } else { 0 };
    let (first, rest) = stored.split_at(first);
    let mut leaves = Vec::with_capacity(1 + rest.len() / BLOCK);
    leaves.extend(Some(first).filter(|first| !first.is_empty()));
    leaves.extend(rest.chunks(BLOCK));
    leaves
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Whatever pieces a group grows in, it ends with the checksum and root of the whole.
        #[test]
        fn a_group_that_grew_equals_the_same_group_at_once(
            blocks in 1..70_usize,
            pieces in proptest::collection::vec(1..40_000_usize, 0..40),
            seed in any::<u8>(),
        ) {
            let provider = hufu_crypto::software_provider();
            let padded = blocks * BLOCK;
            let mut whole = vec![0; padded];
            for (index, byte) in whole.iter_mut().enumerate() {
                *byte = u8::try_from((index * 7 + index / 251) % 251).unwrap() ^ seed;
            }
            // What is behind the filled part is not final: it holds something else until it is.
            let mut buffer = vec![0xee; padded];
            let mut tree = GrowingTree::new(padded);
            let mut filled = GROUP_HEADER_BYTES;
            for piece in pieces {
                let end = (filled + piece).min(padded);
                buffer[filled..end].copy_from_slice(&whole[filled..end]);
                filled = end;
                tree.grow(&buffer, filled, &*provider.hasher);
                let taken = tree.leaves.len();
                prop_assert!(taken <= filled / BLOCK && filled / BLOCK < taken + STEP_LEAVES);
            }
            buffer[filled..].copy_from_slice(&whole[filled..]);
            let stored = &whole[GROUP_HEADER_BYTES..];
            let expected = (crc32c::crc32c(stored), stored_root(stored, &*provider.hasher));
            prop_assert_eq!(tree.finish(&buffer, padded, &*provider.hasher), expected);
        }
    }
}
