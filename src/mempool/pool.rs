//! The mempool itself: admission, the open batch, and what is pending until a block orders it.

use std::collections::VecDeque;
use std::sync::Arc;

use hufu_types::limits::{BATCH_SIZE_MAX, BATCH_TRANSACTIONS_COUNT_MAX};
use hufu_types::transaction::TransactionHeader;
use hufu_types::verification::check_validity;
use hufu_types::{
    Address, Batch, BatchBuilder, BatchDigest, ChainId, Hasher, RefusalCode, Transaction, Verified,
};

use crate::batches::{Batches, Waiting};
use crate::counters::{MempoolCounters, SealReason};
use crate::memory::{Memory, NonceKey};

/// Bytes a transaction adds to a batch beside its own.
const TRANSACTION_OVERHEAD_BYTES: u64 = 4;

/// What one node's mempool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Most transactions admitted and not decided.
    pub pending_transactions_max: u32,
    /// Most bytes of them.
    pub pending_bytes_max: u64,
    /// Most transactions remembered, decided ones included, at least as many as may be pending and
    /// at most [`Self::REMEMBERED_MAX`]; the oldest are forgotten first. Their memory is taken
    /// at the start: see [`Self::memory_bytes`].
    pub remembered_transactions_max: u32,
    /// A batch is sealed at this many transactions, 1..=[`BATCH_TRANSACTIONS_COUNT_MAX`].
    pub batch_transactions_max: u32,
    /// A batch is sealed when the next transaction would make it larger than this, 131,072 +
    /// 4,096..=[`BATCH_SIZE_MAX`].
    pub batch_bytes_max: u32,
    /// A batch is sealed this long after its first transaction.
    pub batch_wait_nanos: u64,
}

impl Default for MempoolConfig {
    /// 131,072 pending of 64 MiB together, as many remembered as is usual for them, full-sized
    /// batches after at most 5 ms.
    fn default() -> Self {
        let pending_transactions_max = 131_072;
        Self {
            pending_transactions_max,
            pending_bytes_max: 64 * 1_024 * 1_024,
            remembered_transactions_max: Self::usual_memory(pending_transactions_max),
            batch_transactions_max: BATCH_TRANSACTIONS_COUNT_MAX,
            batch_bytes_max: BATCH_SIZE_MAX,
            batch_wait_nanos: 5_000_000,
        }
    }
}

impl MempoolConfig {
    /// Transactions a mempool can remember, count: their places are counted in 32 bits.
    pub const REMEMBERED_MAX: u32 = 1 << 30;

    /// Fewest transactions that [`Self::usual_memory`] remembers, count: 32 MiB, some minutes of
    /// thousands of transactions a second.
    const REMEMBERED_USUAL_MIN: u32 = 524_288;

    /// How many transactions to remember where `pending` of them may be pending: those, and as many
    /// that were decided lately.
    #[must_use]
    pub fn usual_memory(pending: u32) -> u32 {
        let both =
            pending.saturating_mul(2).clamp(Self::REMEMBERED_USUAL_MIN, Self::REMEMBERED_MAX);
        both.max(pending)
    }

    /// Bytes of what such a mempool takes at its start and of the batches it may hold.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        Memory::bytes(self.remembered_transactions_max).saturating_add(self.pending_bytes_max)
    }

    /// What is wrong with the values, if anything: the key and the range it must lie in.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, u64, u64)> {
        let batch_bytes_min = hufu_types::limits::TX_SIZE_MAX + 4_096;
        let pending = self.pending_transactions_max;
        let ranges: [(&'static str, u64, u64, u64); 5] = [
            ("pending_transactions_max", pending.into(), 1, Self::REMEMBERED_MAX.into()),
            ("pending_bytes_max", self.pending_bytes_max, BATCH_SIZE_MAX.into(), 1 << 40),
            (
                "remembered_transactions_max",
                self.remembered_transactions_max.into(),
                pending.into(),
                Self::REMEMBERED_MAX.into(),
            ),
            (
                "batch_transactions_max",
                self.batch_transactions_max.into(),
                1,
                BATCH_TRANSACTIONS_COUNT_MAX.into(),
            ),
            (
                "batch_bytes_max",
                self.batch_bytes_max.into(),
                batch_bytes_min.into(),
                BATCH_SIZE_MAX.into(),
            ),
        ];
        let fault = ranges.into_iter().find(|(_, found, min, max)| !(min..=max).contains(&found));
        fault.map(|(key, _, min, max)| (key, min, max))
    }
}

/// Verified transactions on their way into batches, and what is pending until blocks order them.
pub struct Mempool {
    config: MempoolConfig,
    hasher: Arc<dyn Hasher>,
    memory: Memory,
    builder: BatchBuilder,
    /// When the first transaction of the open batch came; `None` while it is empty.
    opened_at: Option<u64>,
    next_sequence: u64,
    batches: Batches,
    sealed: VecDeque<Batch>,
    pending_transactions: u64,
    pending_bytes: u64,
    counters: MempoolCounters,
}

impl Mempool {
    /// An empty mempool of the validator `origin`. `next_height` is that of the block to come,
    /// `next_sequence` is larger than that of any batch this validator ever sealed, and `seed` is
    /// random and known to nobody else.
    ///
    /// # Panics
    /// If [`MempoolConfig::fault`] finds one: the node's configuration is checked before.
    #[must_use]
    pub fn new(
        config: MempoolConfig,
        chain_id: ChainId,
        origin: Address,
        hasher: Arc<dyn Hasher>,
        next_height: u64,
        next_sequence: u64,
        seed: u64,
    ) -> Self {
        assert_eq!(config.fault(), None, "the configuration was checked");
        assert!(next_height > 0, "height 0 is the genesis");
        Self {
            config,
            hasher,
            memory: Memory::new(config.remembered_transactions_max, next_height, seed),
            builder: BatchBuilder::new(chain_id, origin),
            opened_at: None,
            next_sequence,
            batches: Batches::new(seed),
            sealed: VecDeque::new(),
            pending_transactions: 0,
            pending_bytes: 0,
            counters: MempoolCounters::default(),
        }
    }

    /// Admits a verified transaction into the open batch. `now` is a monotonic reading in
    /// nanoseconds. May seal up to two batches: the one it had no room in, and its own if that is
    /// full now; see [`Mempool::take_sealed`].
    ///
    /// # Errors
    /// Why it is refused; nothing of it is kept.
    pub fn admit(
        &mut self,
        transaction: &Verified<Transaction>,
        now: u64,
    ) -> Result<(), RefusalCode> {
        let header = transaction.get().header();
        let (key, valid_until) = (NonceKey::of(header), header.valid_until.get());
        let size = batch_bytes(transaction);
        if let Some(code) = self.refusal(&key, valid_until, size) {
            self.counters.count_refusal(code);
            return Err(code);
        }
        if !self.has_room(transaction) {
            self.seal(SealReason::Full);
        }
        self.builder.push(transaction);
        self.opened_at.get_or_insert(now);
        self.keep(key, valid_until);
        self.pending_transactions += 1;
        self.pending_bytes += size;
        self.counters.transactions_admitted += 1;
        let count_max = hufu_types::codec::index(self.config.batch_transactions_max);
        if self.builder.count() >= count_max {
            self.seal(SealReason::Full);
        }
        Ok(())
    }

    fn refusal(&self, key: &NonceKey, valid_until: u64, size: u64) -> Option<RefusalCode> {
        if let Some(code) = check_validity(valid_until, self.memory.next_height()) {
            return Some(code);
        }
        if self.memory.knows(key) {
            return Some(RefusalCode::Duplicate);
        }
        // Only what is pending may refuse: it leaves with the blocks it asks for itself. Nothing
        // asks for the blocks that a memory would wait for.
        let is_full = self.pending_transactions >= self.config.pending_transactions_max.into()
            || self.pending_bytes.saturating_add(size) > self.config.pending_bytes_max;
        is_full.then_some(RefusalCode::Overloaded)
    }

    fn keep(&mut self, key: NonceKey, valid_until: u64) {
        let has_forgotten = self.memory.remember(key, valid_until);
        self.counters.transactions_forgotten += u64::from(has_forgotten);
    }

    fn has_room(&self, transaction: &Verified<Transaction>) -> bool {
        let size_max = hufu_types::codec::index(self.config.batch_bytes_max);
        let more = transaction.get().bytes().len() + size_of::<u32>();
        let is_within = self.builder.size() + more <= size_max;
        self.builder.count() == 0 || (is_within && self.builder.fits(transaction))
    }

    /// When the open batch is due, by the clock of [`Mempool::admit`]; `None` while it is empty.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.opened_at.map(|opened| opened.saturating_add(self.config.batch_wait_nanos))
    }

    /// Seals the open batch if it is due; whether it did.
    pub fn poll(&mut self, now: u64) -> bool {
        let is_due = self.deadline().is_some_and(|deadline| now >= deadline);
        is_due && self.seal(SealReason::Due)
    }

    /// Seals the open batch because a proposal is wanted and nothing else is there; whether there
    /// was one.
    pub fn seal_now(&mut self) -> bool {
        self.seal(SealReason::Demanded)
    }

    /// The oldest batch that was sealed and not taken yet: it goes to the log and to the peers. To
    /// be drained after every call that may seal.
    pub fn take_sealed(&mut self) -> Option<Batch> {
        self.sealed.pop_front()
    }

    fn seal(&mut self, reason: SealReason) -> bool {
        if self.opened_at.take().is_none() {
            return false;
        }
        assert!(self.builder.count() > 0, "an open batch holds a transaction");
        let batch = self.builder.seal(self.next_sequence, &*self.hasher);
        self.next_sequence += 1;
        self.batches.add(&batch);
        assert_eq!(self.builder.count(), 0, "the next batch begins empty");
        if batch.header().last_height.get() < self.memory.next_height() {
            // It stayed open while all of its transactions expired.
            self.expire();
            return false;
        }
        self.sealed.push_back(batch);
        self.counters.count_seal(reason);
        true
    }

    /// A block with these batches was decided, whoever proposed it. Own batches among them leave,
    /// and so do those that no later block may order, counted as expired; the nonces of what can no
    /// longer be included are free again.
    ///
    /// # Panics
    /// If `height` is not the next one: blocks are decided in order.
    pub fn decided(&mut self, batches: &[BatchDigest], height: u64) {
        assert_eq!(height, self.memory.next_height(), "blocks are decided in order");
        for digest in batches {
            let Some(left) = self.batches.remove(digest) else { continue };
            self.leave(&left);
            self.counters.batches_decided += 1;
        }
        self.memory.advance(height + 1);
        self.expire();
    }

    /// Lets go of own batches that the next block may not order any more.
    fn expire(&mut self) {
        while let Some(left) = self.batches.remove_expired(self.memory.next_height() - 1) {
            self.leave(&left);
            self.counters.batches_expired += 1;
            self.counters.transactions_expired += u64::from(left.transactions_count);
        }
    }

    fn leave(&mut self, left: &Waiting) {
        let left_transactions = u64::from(left.transactions_count);
        assert!(left_transactions <= self.pending_transactions, "what leaves was pending");
        assert!(left.bytes <= self.pending_bytes, "what leaves was pending");
        self.pending_transactions -= left_transactions;
        self.pending_bytes -= left.bytes;
    }

    /// Remembers a transaction that is included already, in the order of the chain: at start those
    /// of the validity window, later those of other validators' batches.
    pub fn remember(&mut self, header: &TransactionHeader) {
        let (key, valid_until) = (NonceKey::of(header), header.valid_until.get());
        let is_within = check_validity(valid_until, self.memory.next_height()).is_none();
        // A nonce that is remembered already is what was to be achieved.
        if is_within && !self.memory.knows(&key) {
            self.keep(key, valid_until);
        }
    }

    /// Takes back an own batch that was durable and not decided when the node stopped, and
    /// remembers its transactions. What is durable is taken whatever the limits say today; while
    /// more is pending than they allow, [`Mempool::admit`] refuses.
    ///
    /// `false`, and nothing changes, if a batch of its number waits already, if its number is one
    /// this mempool will give out, or if no later block may order it.
    #[must_use]
    pub fn restore(&mut self, batch: &Batch) -> bool {
        let header = batch.header();
        let is_given_out = header.sequence.get() < self.next_sequence;
        let is_expired = header.last_height.get() < self.memory.next_height();
        if !is_given_out || is_expired || self.batches.holds(batch) {
            return false;
        }
        for position in 0..batch.entries().len() {
            if let Some(view) = batch.transaction(position) {
                self.remember(view.header());
            }
        }
        self.batches.add(batch);
        self.pending_transactions += u64::from(header.transactions_count.get());
        self.pending_bytes += u64::from(header.transactions_size.get());
        true
    }

    /// Whether this is an own batch that is pending.
    #[must_use]
    pub fn holds(&self, digest: &BatchDigest) -> bool {
        self.batches.contains(digest)
    }

    /// Whether nothing is pending: no transaction in the open batch, no batch undecided.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending_transactions == 0
    }

    /// Transactions admitted and not decided.
    #[must_use]
    pub const fn pending_transactions(&self) -> u64 {
        self.pending_transactions
    }

    /// Bytes they take in batches.
    #[must_use]
    pub const fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Batches sealed and not decided.
    #[must_use]
    pub fn batches_count(&self) -> usize {
        self.batches.count()
    }

    /// Height of the block to come.
    #[must_use]
    pub const fn next_height(&self) -> u64 {
        self.memory.next_height()
    }

    /// What the mempool has seen and done.
    #[must_use]
    pub const fn counters(&self) -> &MempoolCounters {
        &self.counters
    }
}

/// Bytes a transaction takes in a batch.
fn batch_bytes(transaction: &Verified<Transaction>) -> u64 {
    let size = u64::from(hufu_types::codec::length_u32(transaction.get().bytes()));
    size + TRANSACTION_OVERHEAD_BYTES
}
