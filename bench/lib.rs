#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use hufu_crypto::{Provider, SoftwareSigner, software_provider};
use hufu_ledger::{BlockOutcome, Context, Expired, Plan, Rights, StateKey};
use hufu_load::setup::{Phase, sign_phase};
use hufu_load::sign::unsigned_bytes;
use hufu_load::{Cast, Holdings, Role, SignedChunk, Task};
use hufu_types::{
    Address, Batch, BatchBuilder, ChainId, Genesis, Parameters, Transaction, TransactionBuilder,
    Validator, ValidatorSet, Verified, verify_transactions,
};

/// Last valid height of every transaction made here; within 600 of every height used here.
const VALID_UNTIL: u64 = 500;

/// What was prepared, or the end of the benchmark with the reason.
///
/// # Panics
/// If the preparation failed: there is nothing to measure then.
pub fn must<T, E: Display>(prepared: Result<T, E>) -> T {
    match prepared {
        Ok(value) => value,
        #[allow(clippy::panic, reason = "a benchmark that cannot be prepared has no other way out")]
        Err(error) => panic!("cannot prepare the benchmark: {error}"),
    }
}

/// A chain in memory after the set-up of a run: accounts, assets, holdings and mandates.
#[derive(Debug)]
pub struct Chain {
    provider: Provider,
    id: ChainId,
    cast: Cast,
    rights: Arc<Rights>,
    state: BTreeMap<StateKey, Vec<u8>>,
    height: u64,
}

impl Chain {
    /// A chain with `accounts` brokers that own enough for every benchmark.
    ///
    /// # Panics
    /// If the set-up does not succeed.
    #[must_use]
    pub fn new(accounts: u16) -> Self {
        let cast = must(Cast::derive(&[7; 32], accounts));
        let genesis = genesis(*cast.operator().address());
        let mut chain = Self {
            provider: software_provider(),
            id: genesis.chain_id(),
            rights: Arc::new(Rights::new(&genesis)),
            cast,
            state: BTreeMap::new(),
            height: 0,
        };
        let rich = Holdings { shares: 1 << 60, cash: 1 << 80 };
        let issued = vec![rich; usize::from(accounts)];
        for phase in Phase::ALL {
            let mut chunk = SignedChunk::new();
            let (id, cast) = (chain.id, &chain.cast);
            must(sign_phase(phase, cast, &issued, id, VALID_UNTIL, &mut chunk));
            let parsed = chunk.iter().map(|signed| must(Transaction::parse(signed.bytes.into())));
            let batches = chain.batches(parsed.collect());
            let outcome = chain.execute(&batches);
            assert!(outcome.failures_count == 0, "the set-up succeeds");
            chain.commit(&outcome);
        }
        chain
    }

    /// The chain's id.
    #[must_use]
    pub const fn id(&self) -> ChainId {
        self.id
    }

    /// The keys.
    #[must_use]
    pub const fn cast(&self) -> &Cast {
        &self.cast
    }

    /// The back end.
    #[must_use]
    pub const fn provider(&self) -> &Provider {
        &self.provider
    }

    /// The transactions of these tasks, signed.
    #[must_use]
    pub fn transactions(&self, tasks: &[Task]) -> Vec<Transaction> {
        let signed = tasks.iter().map(|task| {
            let unsigned = unsigned_bytes(task, &self.cast, self.id, VALID_UNTIL);
            self.join(unsigned, task.role)
        });
        signed.collect()
    }

    /// A transaction of `role` with the operations that `fill` adds.
    pub fn transaction(
        &self,
        role: Role,
        nonce: u64,
        fill: impl FnOnce(TransactionBuilder) -> TransactionBuilder,
    ) -> Transaction {
        let sender = *self.cast.actor(role).public_key();
        let builder = TransactionBuilder::new(self.id, sender, nonce, VALID_UNTIL);
        self.join(fill(builder).unsigned(), role)
    }

    fn join(&self, unsigned: Vec<u8>, role: Role) -> Transaction {
        let signature = must(self.cast.actor(role).sign(&unsigned));
        must(TransactionBuilder::join(unsigned, &signature))
    }

    /// Verified, as batches take them.
    #[must_use]
    pub fn verified(&self, transactions: Vec<Transaction>) -> Vec<Verified<Transaction>> {
        let verdicts = verify_transactions(&self.provider, self.id, transactions);
        verdicts.into_iter().map(|verdict| must(verdict.map_err(|(code, _)| code))).collect()
    }

    /// The transactions in as many batches as needed.
    #[must_use]
    pub fn batches(&self, transactions: Vec<Transaction>) -> Vec<Batch> {
        let mut builder = BatchBuilder::new(self.id, Address::ZERO);
        let mut batches = Vec::new();
        for transaction in self.verified(transactions) {
            if !builder.fits(&transaction) {
                batches.push(builder.seal(count(&batches), &*self.provider.hasher));
            }
            builder.push(&transaction);
        }
        batches.push(builder.seal(count(&batches), &*self.provider.hasher));
        batches
    }

    /// Executes a block of these batches on the state as it is, which stays as it is.
    ///
    /// # Panics
    /// If the state is corrupt, which a state made here is not.
    #[must_use]
    pub fn execute(&self, batches: &[Batch]) -> BlockOutcome {
        let height = self.height + 1;
        let context = Context { chain_id: self.id, height, rights: Arc::clone(&self.rights) };
        let expired = must(Expired::read(height, []));
        let hasher = &*self.provider.hasher;
        let plan = must(Plan::new(context, batches.to_vec(), expired, hasher));
        let values = plan.stored_keys().iter().map(|key| self.state.get(key));
        let used: Vec<bool> =
            plan.nonces().iter().map(|key| self.state.contains_key(key)).collect();
        let loaded = must(plan.load_values(values, &used));
        let portions = plan.portions(1);
        let outcomes = portions.iter().map(|groups| must(plan.execute(&loaded, groups)));
        plan.merge(&loaded, outcomes.collect(), hasher)
    }

    fn commit(&mut self, outcome: &BlockOutcome) {
        self.height = outcome.height;
        for write in &outcome.writes {
            match write.value {
                Some(value) => {
                    self.state.insert(write.key, value.to_bytes().as_slice().to_vec());
                }
                None => {
                    self.state.remove(&write.key);
                }
            }
        }
    }
}

fn genesis(operator: Address) -> Genesis {
    let signer = must(SoftwareSigner::generate());
    let key = *hufu_crypto::Signer::public_key(&signer);
    let link_key = *hufu_crypto::Signer::public_key(&must(SoftwareSigner::generate()));
    let validator = Validator { name: "node-1".to_owned(), key, link_key, power: 1 };
    let parameters =
        Parameters { certified_lag_heights: 1, block_interval_millis: 50, state_buckets_log2: 16 };
    must(Genesis::new(
        "bench".to_owned(),
        1,
        parameters,
        must(ValidatorSet::new(vec![validator])),
        vec![operator],
        vec![operator],
    ))
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use hufu_load::{Replay, SyntheticHour};

    use super::*;

    #[test]
    fn what_is_measured_succeeds() {
        let chain = Chain::new(8);
        let events = SyntheticHour::new(1, 300).collect::<Vec<_>>().into();
        let tasks: Vec<Task> = Replay::new(events, 8, 1, 0).unwrap().collect();
        let batches = chain.batches(chain.transactions(&tasks));
        let outcome = chain.execute(&batches);
        assert_eq!((outcome.receipts.len(), outcome.failures_count), (300, 0));
        let again = chain.execute(&batches);
        assert_eq!((outcome.receipts, outcome.writes), (again.receipts, again.writes));
    }
}
