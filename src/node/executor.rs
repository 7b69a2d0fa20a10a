//! Executes decided blocks: ledger rules over the state store, then one atomic write.
//!
//! ```text
//! DurableBlock -> Plan -> prefetch (cache, then store) -> execute groups -> merge -> state root
//!              -> one store commit
//!              -> ExecutedBlock (receipts, roots)
//! ```
//!
//! Used by the execute tile, by recovery and by `ledger verify --level replay`: one path, so that a
//! replay repeats exactly what happened. Owned by one thread at a time. It never talks to the
//! network or the log.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use hufu_crypto::{Provider, PublicKey};
use hufu_ledger::bucket::PlaceBytes;
use hufu_ledger::plan::GroupsOutcome;
use hufu_ledger::{
    BlockOutcome, Corrupt, Expired, ExpiryKey, Loaded, Lookup, Place, Plan, Rights, StateChanges,
    StateKey, StateTree, Write,
};
use hufu_storage::block_log::RecordPosition;
use hufu_storage::state_store::{AppliedMark, Family, StateBatch, StateStore};
use hufu_types::codec::{index, length_u32};
use hufu_types::receipt::Failure;
use hufu_types::{Batch, Block, BlockDigest, ChainId, DecodeError, Digest, Genesis, Receipt, TxId};
use zerocopy::IntoBytes;

use crate::messages::{DurableBlock, ExecutedBlock, ExecutedRoots};
use crate::metrics::Metrics;
use crate::state_cache::StateCache;
use crate::state_keys;

mod past;
use past::Past;

/// Why a block cannot be executed. Every one of them stops the node.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The state store failed.
    #[error("state store: {0}")]
    Store(#[from] hufu_storage::Error),
    /// The state store holds what the ledger never wrote.
    #[error("state is damaged: {0}")]
    Corrupt(#[from] Corrupt),
    /// A row of the store's indexes is not what was written.
    #[error("index row is damaged: {0}")]
    Row(#[from] DecodeError),
    /// A block came out of order.
    #[error("block {found} was handed to execution, expected {expected}")]
    OutOfOrder {
        /// Height of the block.
        found: u64,
        /// The next height.
        expected: u64,
    },
    /// The header does not carry the roots this node computed (design.md 3).
    #[error(
        "diverged at height {height}: header carries state root {stated} of height {executed}, this node has {computed}"
    )]
    Diverged {
        /// Height of the block with the other roots.
        height: u64,
        /// The height whose roots differ.
        executed: u64,
        /// What the header carries.
        stated: Digest,
        /// What this node computed.
        computed: Digest,
    },
    /// The state root of the store is not the one it was written with.
    #[error("state of height {height} has root {computed}, the store says {stated}")]
    RootUnmatched {
        /// Height of the state.
        height: u64,
        /// What the applied mark says.
        stated: Digest,
        /// What the rows hash to.
        computed: Digest,
    },
}

/// Runs the groups of a plan; the execute tile hands in one that uses its workers.
pub trait GroupRunner {
    /// Executes every group of the plan once.
    ///
    /// # Errors
    /// [`Corrupt`] as the ledger finds it.
    fn run(
        &mut self,
        plan: &Arc<Plan>,
        loaded: &Arc<Loaded>,
    ) -> Result<Vec<GroupsOutcome>, Corrupt>;
}

/// Executes all groups on the calling thread.
#[derive(Debug, Default)]
pub struct Inline;

impl GroupRunner for Inline {
    fn run(
        &mut self,
        plan: &Arc<Plan>,
        loaded: &Arc<Loaded>,
    ) -> Result<Vec<GroupsOutcome>, Corrupt> {
        let portions = plan.portions(1);
        portions.iter().map(|groups| plan.execute(loaded, groups)).collect()
    }
}

/// See the module.
pub struct Executor {
    chain_id: ChainId,
    log2: u8,
    lag: u64,
    rights: Arc<Rights>,
    provider: Provider,
    store: Arc<StateStore>,
    cache: StateCache<StateKey>,
    /// Records of the state tree. Every change rewrites the row it falls into, so what a block
    /// needs was mostly written by one not long ago.
    nodes: StateCache<Place>,
    tree: StateTree,
    metrics: Arc<Metrics>,
    /// Roots of the last `lag` heights and before them the genesis's, oldest first.
    roots: Vec<ExecutedRoots>,
    past: Past,
    block: BlockDigest,
}

impl Executor {
    /// Opens the state in `store` and checks the top of every bucket against the root it was
    /// written with.
    ///
    /// # Errors
    /// A store that fails or is damaged.
    pub fn open(
        genesis: &Genesis,
        provider: Provider,
        store: Arc<StateStore>,
        cache_bytes: usize,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ExecuteError> {
        let (chain_id, log2) = (genesis.chain_id(), genesis.parameters.state_buckets_log2);
        let tree = load_tree(chain_id, log2, &store, &provider)?;
        let applied = store.applied()?;
        let computed = tree.root();
        if let Some(mark) = &applied
            && mark.state_root != computed
        {
            return Err(ExecuteError::RootUnmatched {
                height: mark.height,
                stated: mark.state_root,
                computed,
            });
        }
        let lag = u64::from(genesis.parameters.certified_lag_heights);
        let genesis_root = StateTree::new(chain_id, log2, &*provider.hasher).root();
        let height = applied.as_ref().map_or(0, |mark| mark.height);
        let roots = recent_roots(&store, height, lag, genesis_root)?;
        Ok(Self {
            chain_id,
            log2,
            lag,
            rights: Arc::new(Rights::new(genesis)),
            provider,
            cache: StateCache::new(cache_bytes / 2),
            nodes: StateCache::new(cache_bytes / 2),
            tree,
            metrics,
            roots,
            past: Past::default(),
            block: applied.map_or(BlockDigest::ZERO, |mark| BlockDigest(mark.block_digest)),
            store,
        })
    }

    /// Height of the last block executed; 0 before the first.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.last_roots().height
    }

    /// Digest of the last block executed; zero before the first.
    #[must_use]
    pub const fn block(&self) -> BlockDigest {
        self.block
    }

    /// Roots after the last block executed.
    #[must_use]
    pub fn last_roots(&self) -> ExecutedRoots {
        let Some(roots) = self.roots.last() else { unreachable!("the genesis has roots") };
        *roots
    }

    /// Roots of the last heights, oldest first; enough to build and check the next header.
    #[must_use]
    pub fn recent_roots(&self) -> &[ExecutedRoots] {
        &self.roots
    }

    /// The tree over the state, for proofs at the height executed last.
    #[must_use]
    pub const fn tree(&self) -> &StateTree {
        &self.tree
    }

    /// The state store.
    #[must_use]
    pub const fn store(&self) -> &Arc<StateStore> {
        &self.store
    }

    /// Executes the next block and writes its results in one commit.
    ///
    /// # Errors
    /// Whatever makes it wrong to go on; the node stops.
    pub fn execute(
        &mut self,
        durable: DurableBlock,
        runner: &mut dyn GroupRunner,
    ) -> Result<ExecutedBlock, ExecuteError> {
        let block = &durable.decided.block;
        let height = block.height();
        let expected = self.height() + 1;
        if height != expected {
            return Err(ExecuteError::OutOfOrder { found: height, expected });
        }
        self.check_roots(block)?;
        let expired = self.expired(height)?;
        let context = hufu_ledger::Context {
            chain_id: self.chain_id,
            height,
            rights: Arc::clone(&self.rights),
        };
        let batches = durable.decided.batches.clone();
        let plan = Arc::new(Plan::new(context, batches, expired, &*self.provider.hasher)?);
        let loaded = Arc::new(self.load(&plan)?);
        let groups = runner.run(&plan, &loaded)?;
        let outcome = plan.merge(&loaded, groups, &*self.provider.hasher);
        assert_eq!(outcome.receipts.len(), index(plan.transactions_count()), "one receipt each");
        let roots = self.commit(&durable, &outcome)?;
        self.publish(&durable, &outcome);
        let decided = durable.decided;
        self.meet_senders(&decided.batches, &outcome.receipts);
        Ok(ExecutedBlock {
            digest: decided.block.digest(),
            block: decided.block,
            certificate: decided.certificate,
            batches: decided.batches,
            receipts: outcome.receipts,
            receipts_tree: outcome.receipts_tree,
            roots,
        })
    }

    /// Tells the verifiers whose signatures are likely to come again: senders that got something
    /// done. A key without an account, which costs nobody anything to make, is not among them.
    fn meet_senders(&self, batches: &[Batch], receipts: &[Receipt]) {
        let places = batches
            .iter()
            .flat_map(|batch| (0..batch.entries().len()).map(move |place| (batch, place)));
        let done =
            places.zip(receipts).filter(|(_, receipt)| matches!(receipt.outcome(), Ok(Ok(()))));
        let senders: Vec<PublicKey> = done
            .filter_map(|((batch, place), _)| Some(batch.transaction(place)?.header().sender))
            .collect();
        self.provider.known_keys.meet(senders.iter());
    }

    /// Compares the roots in the header with what this node computed for that height.
    fn check_roots(&self, block: &Block) -> Result<(), ExecuteError> {
        let header = block.header();
        let executed = block.height().saturating_sub(self.lag);
        let computed = self.roots.iter().find(|roots| roots.height == executed);
        let Some(computed) = computed else { unreachable!("roots of the last heights are kept") };
        let is_equal = header.executed_height.get() == executed
            && header.state_root == computed.state_root
            && header.receipts_root == computed.receipts_root
            && header.receipts_count.get() == computed.receipts_count;
        if is_equal {
            return Ok(());
        }
        Err(ExecuteError::Diverged {
            height: block.height(),
            executed,
            stated: header.state_root,
            computed: computed.state_root,
        })
    }

    fn expired(&self, height: u64) -> Result<Expired, ExecuteError> {
        let prefix = ExpiryKey::prefix(height - 1);
        let chunks = self.store.scan_prefix(Family::Nonces, &prefix)?;
        let chunks = chunks.collect::<Result<Vec<_>, _>>()?;
        let pairs = chunks.iter().map(|(key, value)| (&**key, &**value));
        Ok(Expired::read(height, pairs)?)
    }

    /// The values of the plan's keys, from the cache or the store, and which of its nonces are
    /// used.
    fn load(&mut self, plan: &Plan) -> Result<Loaded, ExecuteError> {
        let keys = plan.stored_keys();
        let mut values: Vec<Option<Box<[u8]>>> = Vec::with_capacity(keys.len());
        let mut missing: Vec<usize> = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let cached = self.cache.get(key).map(Into::into);
            if cached.is_none() {
                missing.push(place);
            }
            values.push(cached);
        }
        let wanted: Vec<_> = missing.iter().map(|&place| keys[place].to_bytes()).collect();
        let found = self.store.multi_get(Family::Accounts, &wanted)?;
        for (&place, value) in missing.iter().zip(found) {
            values[place] = value.map(Into::into);
        }
        Ok(plan.load_values(values, &self.used(plan.nonces())?)?)
    }

    /// Which nonces the rows of the state tree hold.
    fn used(&mut self, nonces: &[StateKey]) -> Result<Vec<bool>, ExecuteError> {
        let hasher = Arc::clone(&self.provider.hasher);
        let lookup = Lookup::new(self.chain_id, self.log2, nonces, &*hasher);
        let mut update = self.tree.update(lookup.changes());
        while !update.wanted().is_empty() {
            let places = update.wanted().to_vec();
            let records = fetch(&self.store, &self.nodes, &places)?;
            update.supply(records.iter().map(Option::as_deref), &*hasher)?;
            // The block will write these rows anew, and wants them once more before.
            let fetched =
                places.into_iter().zip(records).filter_map(|(place, record)| match record {
                    Some(Cow::Owned(record)) => Some((place, record)),
                    _ => None,
                });
            for (place, record) in fetched.collect::<Vec<_>>() {
                self.nodes.insert(place, &record);
            }
        }
        Ok(lookup.held(&update))
    }

    fn commit(
        &mut self,
        durable: &DurableBlock,
        outcome: &BlockOutcome,
    ) -> Result<ExecutedRoots, ExecuteError> {
        let hasher = Arc::clone(&self.provider.hasher);
        let changes = StateChanges::new(self.chain_id, self.log2, &outcome.writes, &*hasher);
        let mut update = self.tree.update(&changes);
        while !update.wanted().is_empty() {
            let records = fetch(&self.store, &self.nodes, update.wanted())?;
            update.supply(records, &*hasher)?;
        }
        let applied = self.tree.apply(&update, &*hasher)?;
        let mut batch = StateBatch::new();
        for Write { key, value, .. } in &outcome.writes {
            let Some(family) = state_keys::family(key) else { continue };
            let bytes = key.to_bytes();
            match value {
                Some(value) => batch.put(family, bytes.as_slice(), value.to_bytes().as_slice()),
                None => batch.delete(family, bytes.as_slice()),
            }
        }
        for (key, chunk) in &outcome.expiry.additions {
            batch.put(Family::Nonces, key.to_bytes(), chunk.as_slice());
        }
        for key in &outcome.expiry.deletions {
            batch.delete(Family::Nonces, key.to_bytes());
        }
        for (place, record) in applied.records() {
            let key = place.to_bytes();
            match record {
                Some(record) => {
                    batch.put(Family::Buckets, key.as_ref(), record);
                    self.nodes.insert(place, record);
                }
                None => {
                    batch.delete(Family::Buckets, key.as_ref());
                    self.nodes.remove(&place);
                }
            }
        }
        let roots = ExecutedRoots {
            height: outcome.height,
            state_root: applied.root,
            receipts_root: outcome.receipts_root(),
            receipts_count: length_u32(&outcome.receipts),
        };
        self.index(&mut batch, durable, outcome, &roots)?;
        let mark = AppliedMark {
            height: outcome.height,
            block_digest: durable.decided.block.digest().0,
            log_position: durable.position,
            replay_from: durable.replay_from,
            state_root: applied.root,
        };
        self.store.commit(batch, &mark)?;
        self.remember(outcome, roots, BlockDigest(mark.block_digest));
        Ok(roots)
    }

    /// Adds what queries look up: the block's place, its receipts and its transactions' places.
    fn index(
        &self,
        batch: &mut StateBatch,
        durable: &DurableBlock,
        outcome: &BlockOutcome,
        roots: &ExecutedRoots,
    ) -> Result<(), ExecuteError> {
        let height = outcome.height.to_be_bytes();
        let row = state_keys::BlockRow {
            roots: *roots,
            position: durable.position,
            bodies: durable.bodies.clone(),
        };
        batch.put(Family::Blocks, height, row.to_bytes());
        let mut receipts = Vec::with_capacity(outcome.receipts.len() * size_of::<Receipt>());
        for receipt in &outcome.receipts {
            receipts.extend_from_slice(receipt.as_bytes());
            if state_keys::is_first_of_its_id(receipt) {
                let place = state_keys::transaction_row(outcome.height, receipt.index.get());
                batch.put(Family::Transactions, receipt.id.as_bytes(), place);
            }
        }
        batch.put(Family::Receipts, height, receipts);
        self.index_late_copies(batch, outcome)
    }

    /// Transactions that left the state as it was are found by their id only if no receipt of that
    /// id came before.
    fn index_late_copies(
        &self,
        batch: &mut StateBatch,
        outcome: &BlockOutcome,
    ) -> Result<(), ExecuteError> {
        let mut known: HashSet<TxId> = HashSet::new();
        let is_late = |receipt: &&Receipt| !state_keys::is_first_of_its_id(receipt);
        if outcome.receipts.iter().any(|receipt| is_late(&receipt)) {
            let first = outcome.receipts.iter().filter(|receipt| !is_late(receipt));
            known.extend(first.map(|receipt| receipt.id));
        }
        for receipt in outcome.receipts.iter().filter(is_late) {
            let is_new = known.insert(receipt.id)
                && self.store.get(Family::Transactions, receipt.id.as_bytes())?.is_none();
            if is_new {
                let place = state_keys::transaction_row(outcome.height, receipt.index.get());
                batch.put(Family::Transactions, receipt.id.as_bytes(), place);
            }
        }
        Ok(())
    }

    /// Brings what is kept in memory up to the state just committed.
    fn remember(&mut self, outcome: &BlockOutcome, roots: ExecutedRoots, block: BlockDigest) {
        for Write { key, value, .. } in &outcome.writes {
            match (key, value) {
                (StateKey::Nonce { .. }, _) => {}
                (_, Some(value)) => self.cache.insert(*key, value.to_bytes().as_slice()),
                (_, None) => self.cache.remove(key),
            }
        }
        self.roots.push(roots);
        let surplus = self.roots.len().saturating_sub(self.kept_heights() + 1);
        self.roots.drain(..surplus);
        self.past.remember(outcome, self.kept_heights());
        self.block = block;
    }

    /// Heights before the last whose roots and changes are kept: the lag.
    fn kept_heights(&self) -> usize {
        index(u32::try_from(self.lag).unwrap_or(u32::MAX))
    }

    fn publish(&self, durable: &DurableBlock, outcome: &BlockOutcome) {
        self.metrics.execute_transactions.add_count(outcome.receipts.len());
        self.metrics.execute_cache_bytes.set_count(self.cache.bytes() + self.nodes.bytes());
        self.metrics.chain_height.set(outcome.height);
        self.metrics.chain_time_millis.set(durable.decided.block.header().time_millis.get());
        if outcome.failures_count > 0 {
            for receipt in &outcome.receipts {
                if let Ok(Err(Failure { code, .. })) = receipt.outcome() {
                    self.metrics.count_failed(code);
                }
            }
        }
    }
}

/// Loads the records at the tops of all buckets and hashes them. What lies below a fork is checked
/// when it is used.
fn load_tree(
    chain_id: ChainId,
    log2: u8,
    store: &StateStore,
    provider: &Provider,
) -> Result<StateTree, ExecuteError> {
    let mut tops = Vec::new();
    let mut from = Some(0_u32);
    while let Some(bucket) = from.take() {
        for entry in store.iterate(Family::Buckets, &bucket.to_be_bytes())? {
            let (key, record) = entry?;
            let place = Place::parse(&key, log2)?;
            if place.depth() > 0 {
                from = place.bucket().checked_add(1);
                break;
            }
            tops.push((place, record));
        }
    }
    Ok(StateTree::load(chain_id, log2, tops, &*provider.hasher)?)
}

/// Records of the state tree at these places, from the cache or the store.
fn fetch<'a>(
    store: &StateStore,
    nodes: &'a StateCache<Place>,
    places: &[Place],
) -> Result<Vec<Option<Cow<'a, [u8]>>>, ExecuteError> {
    let mut records: Vec<Option<Cow<'a, [u8]>>> =
        places.iter().map(|place| nodes.peek(place).map(Cow::Borrowed)).collect();
    let missing = records.iter().zip(places).filter(|(record, _)| record.is_none());
    let keys: Vec<PlaceBytes> = missing.map(|(_, place)| place.to_bytes()).collect();
    let mut found = store.multi_get(Family::Buckets, &keys)?.into_iter();
    for record in records.iter_mut().filter(|record| record.is_none()) {
        *record = found.next().flatten().map(Cow::Owned);
    }
    assert!(found.next().is_none(), "every record found has its place");
    Ok(records)
}

/// Roots of the heights from `height - lag` to `height`, the genesis's standing for everything
/// before the first block.
fn recent_roots(
    store: &StateStore,
    height: u64,
    lag: u64,
    genesis_root: Digest,
) -> Result<Vec<ExecutedRoots>, ExecuteError> {
    let mut roots = Vec::new();
    for height in height.saturating_sub(lag)..=height {
        roots.push(if height == 0 {
            ExecutedRoots {
                height: 0,
                state_root: genesis_root,
                receipts_root: Digest::ZERO,
                receipts_count: 0,
            }
        } else {
            let row = store.get(Family::Blocks, &height.to_be_bytes())?;
            state_keys::BlockRow::parse(height, &row.unwrap_or_default())?.roots
        });
    }
    Ok(roots)
}

/// Where the block record at `position` lies, for messages.
#[must_use]
pub fn describe(position: &RecordPosition) -> String {
    format!("segment {} offset {}", position.segment, position.offset())
}
