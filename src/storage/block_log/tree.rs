//! The SM3 Merkle root over the stored bytes of a group.
//!
//! Leaves are 4 KiB: one long SM3 would bind the whole log to the speed of one sequential hash,
//! while leaves are independent and go to as many lanes as the provider's hasher has. The first
//! leaf lacks the group header, which the hash chain covers. No leaf is 64 bytes long, so none can
//! pass for an inner node.

use hufu_crypto::{Digest, Hasher};

use super::format::{BLOCK, GROUP_HEADER_BYTES};

/// Root over `stored`, the bytes of a group behind its header, padding included.
pub(crate) fn stored_root(stored: &[u8], hasher: &dyn Hasher) -> Digest {
    const { assert!(BLOCK - GROUP_HEADER_BYTES != 64) };
    assert!((stored.len() + GROUP_HEADER_BYTES).is_multiple_of(BLOCK));
    assert!(!stored.is_empty());
    let first = stored.len().min(BLOCK - GROUP_HEADER_BYTES);
    let (first, rest) = stored.split_at(first);
    let mut leaves = Vec::with_capacity(1 + rest.len() / BLOCK);
    leaves.push(first);
    leaves.extend(rest.chunks(BLOCK));
    let mut digests = vec![Digest::ZERO; leaves.len()];
    hasher.digest_many(&leaves, &mut digests);
    hufu_types::merkle::root(digests, hasher)
}
