//! The store's indexes (families blocks, receipts, transactions) against the blocks of the log.

use std::collections::VecDeque;

use hufu_consensus::header::ExecutedRoots;
use hufu_storage::state_store::Family;
use hufu_types::codec::{index, length_u32};
use hufu_types::{Batch, Digest, Receipt, TxId};

use super::chain::{BlockAtHand, Chain};
use super::{Check, Part, State};
use crate::proofs::receipts_tree;
use crate::state_keys::{BlockRow, parse_receipts, parse_transaction_row};

/// See the module.
pub(super) struct Index {
    /// Roots of the last heights as the store knows them, oldest first.
    recent: VecDeque<ExecutedRoots>,
    /// Rows of the family transactions that name exactly the place where the log has them.
    matched: u64,
}

impl Index {
    pub(super) fn new(genesis: ExecutedRoots) -> Self {
        Self { recent: VecDeque::from([genesis]), matched: 0 }
    }

    /// Roots after `height`, if the store's row of it was good.
    pub(super) fn roots(&self, height: u64) -> Option<ExecutedRoots> {
        self.recent.iter().find(|roots| roots.height == height).copied()
    }

    /// Checks all rows that speak of one block. Above the applied height there must be none.
    pub(super) fn block(
        &mut self,
        check: &mut Check<'_>,
        state: Option<&State>,
        at_hand: &BlockAtHand,
    ) {
        let Some(state) = state else { return };
        let height = at_hand.durable.decided.block.height();
        if height > state.height() {
            return;
        }
        let Some(row) = block_row(check, state, at_hand) else { return };
        let roots = row.roots;
        self.recent.push_back(ExecutedRoots {
            height,
            state_root: roots.state_root,
            receipts_root: roots.receipts_root,
            receipts_count: roots.receipts_count,
        });
        let kept = index(check.genesis.parameters.certified_lag_heights) + 1;
        let surplus = self.recent.len().saturating_sub(kept);
        self.recent.drain(..surplus);
        receipts(check, state, at_hand, &row);
        self.transactions(check, state, at_hand);
    }

    /// Every transaction is found by its id, at this place or at that of another copy of it.
    fn transactions(&mut self, check: &mut Check<'_>, state: &State, at_hand: &BlockAtHand) {
        let height = at_hand.durable.decided.block.height();
        let entries = at_hand.durable.decided.batches.iter().flat_map(Batch::entries);
        let mut ids: Vec<(TxId, u32)> = entries.map(|entry| entry.id).zip(0..).collect();
        ids.sort_unstable();
        let keys: Vec<[u8; 32]> = ids.iter().map(|(id, _)| *id.as_bytes()).collect();
        let rows = match state.store.multi_get(Family::Transactions, &keys) {
            Ok(rows) => rows,
            Err(error) => return check.store_fault(&error),
        };
        for ((id, place), row) in ids.into_iter().zip(rows) {
            let found = row.map(|row| parse_transaction_row(&row));
            let what = match found {
                Some(Ok(found)) if found == (height, place) => {
                    self.matched += 1;
                    continue;
                }
                Some(Ok((other, at))) if is_at(state, other, at, &id) => continue,
                Some(Ok((other, at))) => {
                    format!("names height {other} place {at}, where it is not")
                }
                Some(Err(cause)) => cause.to_string(),
                None => format!("is missing; the log has it at height {height} place {place}"),
            };
            check.report.fault(Part::State, format!("transactions key {id}"), what);
        }
    }

    /// After an unbroken chain: nothing in the indexes that the log does not have.
    pub(super) fn finish(&self, check: &mut Check<'_>, state: &State, chain: &Chain) {
        let (tip, applied) = (length_u32(&chain.digests).into(), state.height());
        if applied > tip {
            let what = format!("the state is of height {applied}, the log ends at height {tip}");
            check.report.fault(Part::BlockLog, "end", what);
        }
        if let Some(mark) = state.mark.filter(|mark| mark.height > 0)
            && let Some(digest) = chain.at(mark.height)
        {
            if digest.0 != mark.block_digest {
                let what = format!("names another block of height {} than the log", mark.height);
                check.report.fault(Part::State, "applied mark", what);
            }
            let root = self.roots(mark.height).map(|roots| roots.state_root);
            if root.is_some_and(|root| root != mark.state_root) {
                let what = "has another state root than the row of its block";
                check.report.fault(Part::State, "applied mark", what);
            }
        }
        for family in [Family::Blocks, Family::Receipts] {
            surplus_heights(check, state, family);
        }
        self.surplus_transactions(check, state);
    }

    fn surplus_transactions(&self, check: &mut Check<'_>, state: &State) {
        let rows = match state.store.iterate(Family::Transactions, &[]) {
            Ok(rows) => rows.filter(Result::is_ok).count(),
            Err(error) => return check.store_fault(&error),
        };
        if u64::try_from(rows).unwrap_or(u64::MAX) == self.matched {
            return;
        }
        // Rare, so that reading the receipts of each row's height again does not matter.
        let Ok(rows) = state.store.iterate(Family::Transactions, &[]) else { return };
        for (key, row) in rows.flatten() {
            let id = <[u8; 32]>::try_from(&*key).map(|bytes| TxId(Digest(bytes)));
            let named = parse_transaction_row(&row);
            let is_there = match (id, named) {
                (Ok(id), Ok((height, at))) => is_at(state, height, at, &id),
                _ => false,
            };
            if !is_there {
                let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                let what = "names a place where the log does not have it";
                check.report.fault(Part::State, format!("transactions key 0x{key}"), what);
            }
        }
    }
}

/// The row of a block, if it is there and canonical; its places must be those of the log.
fn block_row(check: &mut Check<'_>, state: &State, at_hand: &BlockAtHand) -> Option<BlockRow> {
    let height = at_hand.durable.decided.block.height();
    let place = format!("blocks key height {height}");
    let row = match state.store.get(Family::Blocks, &height.to_be_bytes()) {
        Ok(Some(row)) => row,
        Ok(None) => {
            check.report.fault(Part::State, place, "is missing");
            return None;
        }
        Err(error) => {
            check.store_fault(&error);
            return None;
        }
    };
    let row = match BlockRow::parse(height, &row) {
        Ok(row) => row,
        Err(cause) => {
            check.report.fault(Part::State, place, cause);
            return None;
        }
    };
    if row.position != at_hand.durable.position {
        let what = format!("names another place in the log than {}", at_hand.place);
        check.report.fault(Part::State, &place, what);
    }
    if row.bodies != at_hand.durable.bodies {
        check.report.fault(Part::State, &place, "names other places of its batches than the log");
    }
    Some(row)
}

/// The receipts of a block are of its transactions, in order, and hash to the row's root.
fn receipts(check: &mut Check<'_>, state: &State, at_hand: &BlockAtHand, row: &BlockRow) {
    let height = at_hand.durable.decided.block.height();
    let stored = match state.store.get(Family::Receipts, &height.to_be_bytes()) {
        Ok(stored) => stored,
        Err(error) => return check.store_fault(&error),
    };
    let receipts = stored.map(|stored| parse_receipts(&stored));
    let what = match receipts {
        None => "is missing".to_owned(),
        Some(Err(cause)) => cause.to_string(),
        Some(Ok(receipts)) => {
            check.report.counts.receipts += u64::from(length_u32(&receipts));
            let root = receipts_tree(&receipts, &*check.provider.hasher).root();
            let stated = row.roots.receipts_count;
            if length_u32(&receipts) != stated || root != row.roots.receipts_root {
                "count and root are not those of the row of the block".to_owned()
            } else if let Some(at) = misplaced(check, at_hand, &receipts) {
                format!("receipt {at} is not of the transaction at that place")
            } else {
                return;
            }
        }
    };
    check.report.fault(Part::State, format!("receipts key height {height}"), what);
}

/// The first receipt that is not of its transaction, or the place where one is missing.
fn misplaced(check: &Check<'_>, at_hand: &BlockAtHand, receipts: &[Receipt]) -> Option<usize> {
    let (chain_id, decided) = (check.genesis.chain_id(), &at_hand.durable.decided);
    let entries: Vec<_> = decided.batches.iter().flat_map(Batch::entries).collect();
    let pairs = receipts.iter().zip(&entries);
    let wrong = pairs.zip(0_u32..).position(|((receipt, entry), place)| {
        receipt.prefix.chain_id != chain_id
            || receipt.height.get() != decided.block.height()
            || receipt.index.get() != place
            || receipt.id != entry.id
            || receipt.digest != entry.digest
    });
    let shorter = receipts.len().min(entries.len());
    wrong.or_else(|| (receipts.len() != entries.len()).then_some(shorter))
}

/// Whether the receipt at a place is that of the transaction `id`.
fn is_at(state: &State, height: u64, at: u32, id: &TxId) -> bool {
    let stored = state.store.get(Family::Receipts, &height.to_be_bytes()).ok().flatten();
    let receipts = stored.and_then(|stored| parse_receipts(&stored).ok()).unwrap_or_default();
    receipts.get(index(at)).is_some_and(|receipt| receipt.id == *id)
}

/// Rows of heights that were never applied.
fn surplus_heights(check: &mut Check<'_>, state: &State, family: Family) {
    let applied = state.height();
    let rows = match state.store.iterate(family, &[]) {
        Ok(rows) => rows,
        Err(error) => return check.store_fault(&error),
    };
    // Values that cannot be read were found one by one; here only the keys count.
    for (key, _) in rows.flatten() {
        let height = <[u8; 8]>::try_from(&*key).map(u64::from_be_bytes);
        if !height.is_ok_and(|height| (1..=applied).contains(&height)) {
            let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let place = format!("{} key 0x{key}", family.name());
            check.report.fault(Part::State, place, "is of no height that was applied");
        }
    }
}
