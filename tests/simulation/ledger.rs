//! The state of one node, in memory, under the ledger's rules: what the execute tile does over the
//! state store.
//!
//! It lives and dies with its node and is built again from the block log, as after a restart with
//! an empty state store. The path of a block is the node's: plan, load, execute, merge, tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use hufu_consensus::header::ExecutedRoots;
use hufu_ledger::{
    BlockOutcome, Context, Corrupt, Expired, ExpiryKey, Lookup, Plan, Rights, StateChanges,
    StateKey, StateTree, Totals, audit,
};
use hufu_types::codec::length_u32;
use hufu_types::{Batch, Digest};

use crate::material::Material;

/// See the module.
pub(crate) struct Ledger {
    rights: Arc<Rights>,
    height: u64,
    state: BTreeMap<StateKey, Vec<u8>>,
    expiry: BTreeMap<[u8; 20], Vec<u8>>,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    tree: StateTree,
}

impl Ledger {
    pub(crate) fn new(material: &Material) -> Self {
        let log2 = material.genesis.parameters.state_buckets_log2;
        Self {
            rights: Arc::new(Rights::new(&material.genesis)),
            height: 0,
            state: BTreeMap::new(),
            expiry: BTreeMap::new(),
            records: BTreeMap::new(),
            tree: StateTree::new(material.chain_id, log2, &*material.provider.hasher),
        }
    }

    pub(crate) const fn height(&self) -> u64 {
        self.height
    }

    /// The roots before the first block.
    pub(crate) fn genesis_roots(material: &Material) -> ExecutedRoots {
        let state_root = Self::new(material).tree.root();
        ExecutedRoots { height: 0, state_root, receipts_root: Digest::ZERO, receipts_count: 0 }
    }

    /// Executes the next block.
    pub(crate) fn execute(
        &mut self,
        material: &Material,
        batches: &[Batch],
    ) -> Result<(BlockOutcome, ExecutedRoots), Corrupt> {
        let hasher = &*material.provider.hasher;
        let height = self.height + 1;
        let prefix = ExpiryKey::prefix(height - 1);
        let chunks = self.expiry.iter().filter(|(key, _)| key.starts_with(&prefix));
        let chunks = chunks.map(|(key, value)| (key.as_slice(), value.as_slice()));
        let expired = Expired::read(height, chunks)?;
        let context =
            Context { chain_id: material.chain_id, height, rights: Arc::clone(&self.rights) };
        let plan = Plan::new(context, batches.to_vec(), expired, hasher)?;
        let used = self.used(material, plan.nonces())?;
        let values = plan.stored_keys().iter().map(|key| self.state.get(key));
        let loaded = plan.load_values(values, &used)?;
        let portions = plan.portions(1);
        let groups: Result<Vec<_>, Corrupt> =
            portions.iter().map(|groups| plan.execute(&loaded, groups)).collect();
        let outcome = plan.merge(&loaded, groups?, hasher);
        let roots = self.commit(material, &outcome)?;
        Ok((outcome, roots))
    }

    /// Which nonces the rows of the state tree hold.
    fn used(&self, material: &Material, nonces: &[StateKey]) -> Result<Vec<bool>, Corrupt> {
        let hasher = &*material.provider.hasher;
        let lookup = Lookup::new(material.chain_id, self.tree.log2(), nonces, hasher);
        let mut update = self.tree.update(lookup.changes());
        while !update.wanted().is_empty() {
            let places = update.wanted();
            let records: Vec<_> = places
                .iter()
                .map(|place| self.records.get(place.to_bytes().as_ref()).cloned())
                .collect();
            update.supply(records, hasher)?;
        }
        Ok(lookup.held(&update))
    }

    fn commit(
        &mut self,
        material: &Material,
        outcome: &BlockOutcome,
    ) -> Result<ExecutedRoots, Corrupt> {
        let hasher = &*material.provider.hasher;
        let changes =
            StateChanges::new(material.chain_id, self.tree.log2(), &outcome.writes, hasher);
        let mut update = self.tree.update(&changes);
        while !update.wanted().is_empty() {
            let places = update.wanted();
            let records: Vec<_> = places
                .iter()
                .map(|place| self.records.get(place.to_bytes().as_ref()).cloned())
                .collect();
            update.supply(records, hasher)?;
        }
        let applied = self.tree.apply(&update, hasher)?;
        for (place, record) in applied.records() {
            let key = place.to_bytes().as_ref().to_vec();
            match record {
                Some(record) => drop(self.records.insert(key, record.to_vec())),
                None => drop(self.records.remove(&key)),
            }
        }
        for write in &outcome.writes {
            match write.value {
                Some(value) => {
                    self.state.insert(write.key, value.to_bytes().as_slice().to_vec());
                }
                None => drop(self.state.remove(&write.key)),
            }
        }
        for key in &outcome.expiry.deletions {
            self.expiry.remove(&key.to_bytes());
        }
        for (key, value) in &outcome.expiry.additions {
            self.expiry.insert(key.to_bytes(), value.clone());
        }
        self.height = outcome.height;
        Ok(ExecutedRoots {
            height: outcome.height,
            state_root: applied.root,
            receipts_root: outcome.receipts_root(),
            receipts_count: length_u32(&outcome.receipts),
        })
    }

    /// Adds up the whole state.
    pub(crate) fn audit(&self) -> Result<Totals, String> {
        let entries =
            self.state.iter().map(|(key, value)| (key.to_bytes().as_slice().to_vec(), value));
        audit(entries).map_err(|error| error.to_string())
    }
}
