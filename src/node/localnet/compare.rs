//! Whether the nodes of a network hold the same chain: their block logs side by side, height by
//! height, when they have stopped.
//!
//! A header carries the state root of some heights before it, so equal headers are equal states;
//! the states behind the last headers are compared by what the nodes said at the end.

use std::collections::BTreeSet;

use hufu_crypto::Provider;
use hufu_load::Tip;
use hufu_storage::block_log::{LogOptions, LogReader};
use hufu_types::{BlockDigest, Digest};

use super::folder::name;
use crate::records::{RECORD_BLOCK, parse_block_record};

/// What one node's log holds of a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    /// Digest of the block.
    pub block: BlockDigest,
    /// State root that its header carries.
    pub state_root: Digest,
    /// Unix time of its header.
    pub time_millis: u64,
    /// Transactions that it orders.
    pub transactions_count: u32,
}

/// The blocks of a stopped node's log, from height 1 on.
pub(super) fn read(options: LogOptions, provider: &Provider) -> Result<Vec<Held>, String> {
    let (mut reader, _) = LogReader::open(options).map_err(|error| error.to_string())?;
    let mut blocks: Vec<Held> = Vec::new();
    while let Some(record) = reader.next().map_err(|error| error.to_string())? {
        if record.kind != RECORD_BLOCK {
            continue;
        }
        let (block, _) = parse_block_record(record.payload, &*provider.hasher)
            .map_err(|error| format!("block behind height {}: {error}", blocks.len()))?;
        let expected = u64::try_from(blocks.len()).unwrap_or(u64::MAX).saturating_add(1);
        if block.height() != expected {
            return Err(format!("height {} follows {}", block.height(), expected - 1));
        }
        let header = block.header();
        blocks.push(Held {
            block: block.digest(),
            state_root: header.state_root,
            time_millis: header.time_millis.get(),
            transactions_count: header.transactions_count.get(),
        });
    }
    Ok(blocks)
}

/// How the chains differ; nothing when every height up to `height_min` is there and the same on
/// all nodes, and whatever lies behind is the same where several have it.
pub(super) fn differences(chains: &[Vec<Held>], height_min: u64) -> Vec<String> {
    let mut faults = Vec::new();
    for (index, chain) in (0_u16..).zip(chains) {
        let height = u64::try_from(chain.len()).unwrap_or(u64::MAX);
        if height < height_min {
            faults.push(format!("{} ends at height {height} of {height_min}", name(index)));
        }
    }
    let longest = chains.iter().map(Vec::len).max().unwrap_or(0);
    let differs = (0..longest).find(|place| {
        let held: BTreeSet<&Held> = chains.iter().filter_map(|chain| chain.get(*place)).collect();
        held.len() > 1
    });
    if let Some(place) = differs {
        for (index, chain) in (0_u16..).zip(chains) {
            if let Some(Held { block, state_root, .. }) = chain.get(place) {
                let (node, height) = (name(index), place + 1);
                faults.push(format!("height {height}: {node} has {block}, state {state_root}"));
            }
        }
    }
    faults
}

/// How the ends of the nodes differ; nothing when all were at one height with one block and state.
pub(super) fn tip_differences(tips: &[Tip]) -> Vec<String> {
    if tips.iter().all(|tip| tips.first() == Some(tip)) {
        return Vec::new();
    }
    let told = (0_u16..).zip(tips).map(|(index, tip)| {
        let Tip { height, block, state_root } = tip;
        format!("{} is at height {height}, block {block}, state {state_root}", name(index))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(block: u8, root: u8) -> Held {
        Held {
            block: BlockDigest(Digest([block; 32])),
            state_root: Digest([root; 32]),
            time_millis: 0,
            transactions_count: 0,
        }
    }

    #[test]
    fn equal_chains_do_not_differ() {
        let chain = vec![held(1, 1), held(2, 2), held(3, 3)];
        let shorter = chain[..2].to_vec();
        assert_eq!(differences(&[chain.clone(), shorter, chain.clone()], 2), [""; 0]);
        assert_eq!(differences(&[chain], 3), [""; 0]);
    }

    #[test]
    fn a_missing_height_another_block_and_another_state_are_found() {
        let chain = vec![held(1, 1), held(2, 2), held(3, 3)];
        let short = differences(&[chain.clone(), chain[..2].to_vec()], 3);
        assert_eq!(short, ["node-1 ends at height 2 of 3"]);
        for other in [held(9, 2), held(2, 9)] {
            let mut forked = chain.clone();
            forked[1] = other;
            let found = differences(&[chain.clone(), forked, chain.clone()], 3);
            assert_eq!(found.len(), 3, "{found:?}");
            assert!(found.iter().all(|fault| fault.starts_with("height 2: node-")), "{found:?}");
        }
        // A fork behind the height that all must have is one too.
        let mut forked = chain.clone();
        forked[2] = held(9, 9);
        assert_eq!(differences(&[chain.clone(), forked], 2).len(), 2);
    }

    #[test]
    fn ends_that_differ_are_told() {
        let tip =
            |height, root: &str| Tip { height, block: "b".to_owned(), state_root: root.to_owned() };
        assert_eq!(tip_differences(&[tip(7, "r"), tip(7, "r")]), [""; 0]);
        for other in [tip(8, "r"), tip(7, "s")] {
            let found = tip_differences(&[tip(7, "r"), other]);
            assert_eq!(found.len(), 2, "{found:?}");
        }
    }
}
