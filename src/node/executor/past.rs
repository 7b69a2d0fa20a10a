//! A step back to the state whose root the last header carries, for proofs while the chain rests.
//!
//! ```text
//! height h: transactions    h+1 .. h+d: empty, only nonces expire    rest: nothing certifies h+d
//! state of h+d --expired nonces put back--> state of h --proofs--> --taken out again--> h+d
//! ```
//! Empty blocks change no account; they take expired nonces out of the rows, and so change the
//! root. What they took out is kept for d blocks, if it is little. Nothing is stored meanwhile.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use hufu_ledger::{BlockOutcome, Place, StateChanges, StateKey, StateProof, Write};
use hufu_storage::state_store::Family;

use super::{ExecuteError, Executor};

/// Nonces that an empty block may take out to be put back, count: a step of a few milliseconds.
const EXPIRED_COUNT_MAX: usize = 2_048;

/// What a step back has put in the place of stored records; `None`: nothing is there.
type Records = HashMap<Place, Option<Vec<u8>>>;

/// What the last blocks took out of the state.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Of the last d blocks, oldest first; `None` of one with transactions, or with too much.
    steps: VecDeque<Option<Vec<Write>>>,
    /// During a step back.
    records: Records,
}

impl Past {
    /// Takes note of a block.
    pub(super) fn remember(&mut self, outcome: &BlockOutcome, lag: usize) {
        let is_empty = outcome.receipts.is_empty() && outcome.writes.len() <= EXPIRED_COUNT_MAX;
        self.steps.push_back(is_empty.then(|| outcome.writes.clone()));
        let surplus = self.steps.len().saturating_sub(lag);
        self.steps.drain(..surplus);
    }

    /// Everything that the last d blocks took out; `None` if they did more, or it is not known.
    fn taken_out(&self, lag: usize) -> Option<Vec<Write>> {
        if self.steps.len() < lag {
            return None;
        }
        let steps = self.steps.iter().map(Option::as_deref);
        let writes = steps.collect::<Option<Vec<&[Write]>>>()?.concat();
        // A nonce that is used once more after it has expired would stand here twice.
        let is_expiry = |write: &Write| {
            matches!(write.key, StateKey::Nonce { .. })
                && write.before.is_some()
                && write.value.is_none()
        };
        writes.iter().all(is_expiry).then_some(writes)
    }
}

impl Executor {
    /// Works on the state whose root the header of the last height carries, if the blocks since
    /// then were empty; `None` if they were not, or it is not known.
    ///
    /// # Errors
    /// Those of `work`, and a store that fails or is damaged.
    pub fn at_certified<T>(
        &mut self,
        work: impl FnOnce(&Self) -> Result<T, ExecuteError>,
    ) -> Result<Option<T>, ExecuteError> {
        let lag = self.kept_heights();
        let Some(taken_out) = self.past.taken_out(lag) else { return Ok(None) };
        let put_back: Vec<Write> = taken_out
            .iter()
            .map(|write| Write { key: write.key, before: write.value, value: write.before })
            .collect();
        let (newest, certified) = (self.last_roots().state_root, self.roots.first());
        let certified = certified.map(|roots| roots.state_root);
        self.past.records = self.change_tree(&put_back)?;
        assert_eq!(Some(self.tree.root()), certified, "the state of d heights ago");
        let done = work(self);
        self.change_tree(&taken_out)?;
        self.past.records.clear();
        assert_eq!(self.tree.root(), newest, "the state of before");
        done.map(Some)
    }

    /// Changes the tree in memory alone; gives the records that would be stored.
    fn change_tree(&mut self, writes: &[Write]) -> Result<Records, ExecuteError> {
        let hasher = Arc::clone(&self.provider.hasher);
        let changes = StateChanges::new(self.chain_id, self.log2, writes, &*hasher);
        let mut update = self.tree.update(&changes);
        while !update.wanted().is_empty() {
            let places = update.wanted().iter();
            let records = places.map(|place| self.record(place)).collect::<Result<Vec<_>, _>>()?;
            update.supply(records, &*hasher)?;
        }
        let applied = self.tree.apply(&update, &*hasher)?;
        let records = applied.records();
        Ok(records.map(|(place, record)| (place, record.map(<[u8]>::to_vec))).collect())
    }

    /// The record of the state tree at a place, as the tree in memory has it.
    fn record(&self, place: &Place) -> Result<Option<Cow<'_, [u8]>>, ExecuteError> {
        if let Some(record) = self.past.records.get(place) {
            return Ok(record.as_deref().map(Cow::Borrowed));
        }
        if let Some(record) = self.nodes.peek(place) {
            return Ok(Some(Cow::Borrowed(record)));
        }
        let stored = self.store.get(Family::Buckets, place.to_bytes().as_ref())?;
        Ok(stored.map(Cow::Owned))
    }

    /// Proves what the state holds under a key, or that it holds nothing there.
    ///
    /// # Errors
    /// A store that fails or is damaged.
    pub fn prove(&self, key: &StateKey) -> Result<StateProof, ExecuteError> {
        let mut prover = self.tree.prove(key);
        while let Some(place) = prover.wanted() {
            prover.supply(self.record(&place)?.as_deref().unwrap_or_default())?;
        }
        Ok(prover.finish())
    }
}
