//! What a block did: receipts, writes, changes of the expiry index; and the proof that no asset
//! leaked.
//!
//! ```text
//! GroupsOutcome, in any order --Plan::merge--> receipts --> receipts tree
//!                                         \--> writes by key --> state store, StateChanges
//!                                         \--> expiry additions and deletions --> state store
//!                                         \--> conservation asserted
//! ```

use std::collections::BTreeMap;

use hufu_crypto::Hasher;
use hufu_types::codec::{index, length_u32};
use hufu_types::merkle::MerkleTree;
use hufu_types::receipt::Outcome;
use hufu_types::{Address, AssetCode, Digest, Receipt};
use zerocopy::IntoBytes;

use crate::expiry::{ExpiryChanges, ExpiryEntry};
use crate::key::StateKey;
use crate::plan::{GroupsOutcome, Loaded, Plan};
use crate::value::StateValue;

/// One change of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// What changes.
    pub key: StateKey,
    /// Its value before the block as it was executed; `None` if there was none. The state root
    /// accepts the write only if it says the same.
    pub before: Option<StateValue>,
    /// Its value after the block; `None` when it leaves the state.
    pub value: Option<StateValue>,
}

/// The addresses each transaction of a block names, for the filters of event streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    addresses: Vec<Address>,
    ends: Vec<u32>,
}

impl Touched {
    /// The addresses that transaction `at` names, its sender included: ascending, each once. Empty
    /// behind the last.
    #[must_use]
    pub fn of(&self, at: u32) -> &[Address] {
        let Some(&end) = self.ends.get(index(at)) else { return &[] };
        let start = at.checked_sub(1).and_then(|before| self.ends.get(index(before)));
        &self.addresses[index(start.copied().unwrap_or(0))..index(end)]
    }

    pub(crate) fn begin(&mut self, sender: Address) {
        self.addresses.push(sender);
    }

    pub(crate) fn push(&mut self, address: Address) {
        self.addresses.push(address);
    }

    pub(crate) fn end(&mut self) {
        let start = index(self.ends.last().copied().unwrap_or(0));
        assert!(start < self.addresses.len(), "a transaction names at least its sender");
        self.addresses[start..].sort_unstable();
        let mut kept = start + 1;
        for next in start + 1..self.addresses.len() {
            if self.addresses[next] != self.addresses[kept - 1] {
                self.addresses[kept] = self.addresses[next];
                kept += 1;
            }
        }
        self.addresses.truncate(kept);
        self.ends.push(length_u32(&self.addresses));
    }
}

/// The result of a block.
#[derive(Clone, Debug)]
pub struct BlockOutcome {
    /// Height of the block.
    pub height: u64,
    /// One for each transaction, in the order of the block.
    pub receipts: Vec<Receipt>,
    /// The tree over the receipts' leaves; its root goes into the header of height h+d.
    pub receipts_tree: MerkleTree,
    /// Changes of the state, ascending by key and each key once.
    pub writes: Vec<Write>,
    /// Changes of the index of nonces to expire.
    pub expiry: ExpiryChanges,
    /// The addresses each transaction names.
    pub touched: Touched,
    /// Transactions that failed.
    pub failures_count: u32,
}

impl BlockOutcome {
    /// Merkle root over the receipts; zero without transactions.
    #[must_use]
    pub fn receipts_root(&self) -> Digest {
        self.receipts_tree.root()
    }
}

impl Plan {
    /// Joins what the groups gave into the result of the block, the same for every distribution of
    /// the groups.
    ///
    /// # Panics
    /// If a transaction was executed twice or not at all, or an asset was not conserved: both are
    /// bugs of ours.
    #[must_use]
    pub fn merge(
        &self,
        loaded: &Loaded,
        outcomes: Vec<GroupsOutcome>,
        hasher: &dyn Hasher,
    ) -> BlockOutcome {
        let mut results = vec![None; index(self.transactions_count())];
        let mut written = Vec::with_capacity(outcomes.iter().map(|part| part.writes.len()).sum());
        for part in outcomes {
            for (at, outcome) in part.outcomes {
                let twice = results[index(at)].replace(outcome);
                assert!(twice.is_none(), "a transaction is executed once");
            }
            written.extend(part.writes);
        }
        written.sort_unstable_by_key(|(slot, _)| *slot);
        assert!(written.is_sorted_by(|first, second| first.0 < second.0), "one write for a key");
        assert_conserved(self, loaded, &written);
        let inserted = written.iter().filter_map(|(slot, value)| self.inserted(*slot, *value));
        let expiry = ExpiryChanges::new(self.context().height, self.expired(), inserted.collect());
        let receipts = self.receipts(&results);
        let failures = results.iter().filter(|result| matches!(result, Some(Err(_)))).count();
        BlockOutcome {
            height: self.context().height,
            receipts_tree: receipts_tree(&receipts, hasher),
            receipts,
            writes: self.writes(loaded, &written),
            expiry,
            touched: self.touched().clone(),
            failures_count: u32::try_from(failures).unwrap_or(u32::MAX),
        }
    }

    /// Adds to the groups' writes the expired nonces that no transaction touched. Those are deleted
    /// as the expiry index has them, without a look at the state: the state root refuses the block
    /// if the nonce is not there with just these heights.
    fn writes(&self, loaded: &Loaded, written: &[(u32, Option<StateValue>)]) -> Vec<Write> {
        let mut writes = Vec::with_capacity(written.len() + self.expired().count());
        writes.extend(written.iter().map(|&(slot, value)| {
            let before = loaded.stored[index(slot)];
            Write { key: self.key(slot), before, value }
        }));
        let expired = self.expired().nonces();
        let untouched = expired.filter(|(key, _)| self.keys().binary_search(key).is_err());
        writes.extend(untouched.map(|(key, nonce)| {
            let before = Some(StateValue::Nonce(nonce));
            Write { key, before, value: None }
        }));
        // Two ascending runs; the stable sort merges them.
        writes.sort_by_key(|write| write.key);
        assert!(
            writes.is_sorted_by(|first, second| first.key < second.key),
            "a key is written once, by a group or by expiry"
        );
        writes
    }

    fn inserted(&self, slot: u32, value: Option<StateValue>) -> Option<(u64, ExpiryEntry)> {
        let (StateKey::Nonce { sender, nonce }, Some(StateValue::Nonce(value))) =
            (self.key(slot), value)
        else {
            return None;
        };
        Some((value.valid_until, ExpiryEntry::new(sender, nonce)))
    }

    fn receipts(&self, results: &[Option<Outcome>]) -> Vec<Receipt> {
        let (chain_id, height) = (self.context().chain_id, self.context().height);
        let receipts = (0_u32..).zip(results).zip(self.entries());
        let receipts: Vec<Receipt> = receipts
            .map(|((at, result), entry)| {
                let Some(outcome) = *result else { unreachable!("transaction {at} was executed") };
                Receipt::new(chain_id, height, at, entry.id, entry.digest, outcome)
            })
            .collect();
        assert_eq!(receipts.len(), results.len(), "one receipt for each transaction");
        receipts
    }
}

fn receipts_tree(receipts: &[Receipt], hasher: &dyn Hasher) -> MerkleTree {
    let messages: Vec<&[u8]> = receipts.iter().map(IntoBytes::as_bytes).collect();
    let mut leaves = vec![Digest::ZERO; messages.len()];
    hasher.digest_many(&messages, &mut leaves);
    let tree = MerkleTree::new(leaves, hasher);
    assert_eq!(tree.leaves_count(), receipts.len(), "one leaf for each receipt");
    tree
}

/// A signed sum of amounts that cannot overflow: how often 2^128 was passed, and the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    carries: i64,
    rest: u128,
}

impl Sum {
    fn change(&mut self, before: u128, after: u128) {
        let (rest, carry) = self.rest.overflowing_add(after);
        let (rest, borrow) = rest.overflowing_sub(before);
        self.rest = rest;
        self.carries += i64::from(carry) - i64::from(borrow);
    }
}

/// Asserts that the holdings of every asset changed by as much as its supply did.
fn assert_conserved(plan: &Plan, loaded: &Loaded, written: &[(u32, Option<StateValue>)]) {
    let mut sums: BTreeMap<AssetCode, (Sum, Sum)> = BTreeMap::new();
    for &(slot, after) in written {
        let before = loaded.stored[index(slot)];
        match plan.key(slot) {
            StateKey::Holding(_, asset) => {
                sums.entry(asset).or_default().0.change(amount(before), amount(after));
            }
            StateKey::Asset(asset) => {
                assert!(after.is_some(), "an asset never leaves the state");
                sums.entry(asset).or_default().1.change(amount(before), amount(after));
            }
            StateKey::Account(_) | StateKey::Mandate { .. } | StateKey::Nonce { .. } => {}
        }
    }
    for (asset, (holdings, supply)) in sums {
        assert_eq!(holdings, supply, "holdings of {asset} changed by as much as its supply");
    }
}

fn amount(value: Option<StateValue>) -> u128 {
    match value {
        Some(StateValue::Holding(holding)) => holding.balance,
        Some(StateValue::Asset(asset)) => asset.supply,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_tell_a_whole_turn_from_nothing() {
        let mut sum = Sum::default();
        sum.change(0, u128::MAX);
        sum.change(0, 1);
        assert_eq!(sum, Sum { carries: 1, rest: 0 });
        sum.change(u128::MAX, 0);
        sum.change(1, 0);
        assert_eq!(sum, Sum::default());
        sum.change(1, 0);
        assert_eq!(sum, Sum { carries: -1, rest: u128::MAX });
    }

    #[test]
    fn touched_addresses_are_listed_once_for_each_transaction() {
        let address = |byte| Address([byte; 20]);
        let mut touched = Touched::default();
        touched.begin(address(9));
        [3, 9, 1, 3].into_iter().for_each(|byte| touched.push(address(byte)));
        touched.end();
        touched.begin(address(9));
        touched.end();
        assert_eq!(touched.of(0), [address(1), address(3), address(9)]);
        assert_eq!(touched.of(1), [address(9)]);
        assert_eq!(touched.of(2), []);
    }
}
