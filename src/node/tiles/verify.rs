//! The verify tile: digests and SM2 signatures in batches, on every core left to it.
//!
//! ```text
//! ingress --Submitted--> [gather by count or deadline] --verify_many--> mempool (Checked)
//!                           ^                                   \-----> ingress (Status: refused)
//!                           '-- digests of what was admitted <-- mempool
//! peer ----PeerBatch---> [parse] -------> mempool (Parsed)
//! mempool -JudgeChunk--> [verify_many] -> mempool (Judged)
//! ```
//!
//! What peers sent comes before what clients sent: it is closer to its end, and clients are pushed
//! back when there is more to verify than this node can.
//!
//! One tile per verifying core; it owns nothing but the digests of the transactions it verified and
//! the mempool admitted lately. An exact copy of one is refused without verifying it again; copies
//! always arrive at the same tile, because ingress chooses the tile by the signature. What the
//! mempool refused is not remembered: its client may send the same bytes again. The tile never
//! judges anything but form, chain and signature.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{KnownKeysCounts, Provider};
use hufu_mempool::Recent;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_types::{
    Batch, ChainId, DecodeError, Hasher, Identified, RefusalCode, TxDigest, verify_batch,
    verify_identified,
};

use crate::messages::{Checked, FromVerify, JudgeChunk, PeerBatch, Status, Submitted};
use crate::metrics::Metrics;

/// How the tile gathers.
#[derive(Clone, Copy, Debug)]
pub struct VerifyConfig {
    /// Most signatures in one batch, count.
    pub batch_max: usize,
    /// How long the first transaction of a batch waits for others.
    pub batch_deadline: Duration,
    /// How many digests of admitted transactions are remembered, count, at least 1.
    pub remembered_max: u32,
    /// Random, for the memory of the digests.
    pub seed: u64,
}

/// See the module.
pub struct VerifyTile {
    name: String,
    config: VerifyConfig,
    chain_id: ChainId,
    provider: Provider,
    metrics: Arc<Metrics>,
    incoming: Vec<Consumer<Submitted>>,
    admitted: Consumer<TxDigest>,
    chunks: Consumer<JudgeChunk>,
    from_peers: Option<Consumer<PeerBatch>>,
    to_mempool: Producer<FromVerify>,
    to_ingress: Vec<Producer<Status>>,
    gathered: Vec<Submitted>,
    gather_until: Option<Nanos>,
    remembered: Recent<TxDigest, ()>,
    verdicts: VecDeque<FromVerify>,
    refused: VecDeque<Status>,
    /// What the metrics know of the known keys; one tile tells of them for all.
    told: Option<KnownKeysCounts>,
    is_stopping: bool,
}

/// The links of a verify tile.
#[derive(Debug)]
pub struct VerifyLinks {
    /// From each ingress tile.
    pub incoming: Vec<Consumer<Submitted>>,
    /// From the mempool: what it admitted of this tile's transactions.
    pub admitted: Consumer<TxDigest>,
    /// From the mempool: parts of peers' batches to be verified.
    pub chunks: Consumer<JudgeChunk>,
    /// Batches as peers sent them; nothing where there are no peers.
    pub from_peers: Option<Consumer<PeerBatch>>,
    /// To the mempool.
    pub to_mempool: Producer<FromVerify>,
    /// To each ingress tile, in the same order.
    pub to_ingress: Vec<Producer<Status>>,
}

impl VerifyTile {
    /// The tile with this index.
    #[must_use]
    pub fn new(
        index: usize,
        config: VerifyConfig,
        chain_id: ChainId,
        provider: Provider,
        metrics: Arc<Metrics>,
        links: VerifyLinks,
    ) -> Self {
        assert_eq!(
            links.incoming.len(),
            links.to_ingress.len(),
            "every ingress hears of its refusals"
        );
        assert!(config.batch_max > 0, "a batch holds at least one signature");
        Self {
            name: format!("verify-{index}"),
            config,
            chain_id,
            provider,
            metrics,
            incoming: links.incoming,
            admitted: links.admitted,
            chunks: links.chunks,
            from_peers: links.from_peers,
            to_mempool: links.to_mempool,
            to_ingress: links.to_ingress,
            gathered: Vec::with_capacity(config.batch_max),
            gather_until: None,
            remembered: Recent::new(config.remembered_max, config.seed),
            verdicts: VecDeque::with_capacity(config.batch_max),
            refused: VecDeque::with_capacity(config.batch_max),
            told: (index == 0).then(KnownKeysCounts::default),
            is_stopping: false,
        }
    }

    /// Remembers what the mempool admitted. Before anything else, also while links downstream are
    /// full, so that there is always room for what it says.
    fn learn(&mut self) -> bool {
        let Self { admitted, remembered, .. } = self;
        let count = admitted.drain(usize::MAX, |digest| {
            if remembered.get(&digest).is_none() {
                remembered.insert(digest, ());
            }
        });
        count > 0
    }

    /// Passes verdicts on; `false` while a link downstream is full.
    fn deliver(&mut self) -> bool {
        while let Some(verdict) = self.verdicts.pop_front() {
            if let Err(back) = self.to_mempool.try_push(verdict) {
                self.verdicts.push_front(back);
                return false;
            }
        }
        while let Some(status) = self.refused.pop_front() {
            let Some(link) = self.to_ingress.get_mut(usize::from(status.source.ingress)) else {
                continue;
            };
            if let Err(back) = link.try_push(status) {
                self.refused.push_front(back);
                return false;
            }
        }
        true
    }

    /// One piece of what peers sent, the parts that the mempool waits for first; whether there was
    /// one.
    fn serve_peers(&mut self) -> bool {
        if let Some(JudgeChunk { batch, first, count }) = self.chunks.pop() {
            let is_valid = verify_batch(&self.provider, self.chain_id, &batch, first, count);
            self.metrics.verify_signatures.add_count(count);
            self.metrics.verify_batches.add(1);
            self.verdicts.push_back(FromVerify::Judged { digest: batch.digest(), is_valid });
            self.make_tables();
            return true;
        }
        let next = self.from_peers.as_mut().and_then(Consumer::pop);
        let Some(PeerBatch { from, bytes }) = next else { return false };
        let batch = parse(bytes, self.chain_id, &*self.provider.hasher);
        self.verdicts.push_back(FromVerify::Parsed { from, batch });
        true
    }

    fn gather(&mut self, now: Nanos) -> bool {
        let before = self.gathered.len();
        for link in &mut self.incoming {
            let room = self.config.batch_max - self.gathered.len();
            link.drain(room, |submitted| self.gathered.push(submitted));
        }
        if before == 0 && !self.gathered.is_empty() {
            self.gather_until = Some(now.after(self.config.batch_deadline));
        }
        self.gathered.len() > before
    }

    fn is_due(&self, now: Nanos) -> bool {
        !self.gathered.is_empty()
            && (self.is_stopping
                || self.gathered.len() >= self.config.batch_max
                || self.gather_until.is_some_and(|until| now >= until))
    }

    fn verify(&mut self) {
        let (all_sources, transactions): (Vec<_>, Vec<_>) =
            self.gathered.drain(..).map(|one| (one.source, one.transaction)).unzip();
        let identified = Identified::many(&*self.provider.hasher, self.chain_id, transactions);
        let (mut sources, mut fresh) = (Vec::new(), Vec::new());
        for (source, identified) in all_sources.into_iter().zip(identified) {
            if self.remembered.get(&identified.digest()).is_some() {
                self.refused.push_back(Status { source, result: Err(RefusalCode::Duplicate) });
                self.metrics.verify_duplicates.add(1);
            } else {
                sources.push(source);
                fresh.push(identified);
            }
        }
        self.gather_until = None;
        let count = fresh.len();
        let verdicts = verify_identified(&self.provider, self.chain_id, fresh);
        for (source, verdict) in sources.into_iter().zip(verdicts) {
            match verdict {
                Ok(transaction) => {
                    let checked = Checked { transaction, source };
                    self.verdicts.push_back(FromVerify::Checked(checked));
                }
                Err((code, _)) => self.refused.push_back(Status { source, result: Err(code) }),
            }
        }
        self.metrics.verify_signatures.add_count(count);
        self.metrics.verify_batches.add(1);
        self.make_tables();
    }

    /// Makes tables of a few keys that wait for them; whether any did. Once after each batch, so
    /// that a tile that is never idle comes to have them too.
    fn make_tables(&self) -> bool {
        self.provider.known_keys.make(&*self.provider.hasher) > 0
    }

    fn is_finished(&self) -> bool {
        self.is_stopping
            && self.gathered.is_empty()
            && self.verdicts.is_empty()
            && self.refused.is_empty()
            && self.incoming.iter().all(Consumer::is_finished)
    }
}

/// A peer's batch, if it is one of this chain.
fn parse(bytes: Arc<[u8]>, chain_id: ChainId, hasher: &dyn Hasher) -> Result<Batch, DecodeError> {
    let batch = Batch::parse(bytes, hasher)?;
    if batch.header().prefix.chain_id == chain_id {
        Ok(batch)
    } else {
        Err(DecodeError::NotCanonical { field: "chain of a peer's batch" })
    }
}

impl Tile for VerifyTile {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let has_learned = self.learn();
        if !self.deliver() {
            return Ok(Progress::PushedBack);
        }
        if self.serve_peers() {
            self.deliver();
            return Ok(Progress::Busy);
        }
        let has_gathered = self.gather(now);
        if self.is_due(now) {
            self.verify();
            self.deliver();
            return Ok(Progress::Busy);
        }
        if self.is_finished() {
            return Ok(Progress::Done);
        }
        let is_busy = has_gathered || has_learned || self.make_tables();
        Ok(if is_busy { Progress::Busy } else { Progress::Idle })
    }

    fn deadline(&self) -> Option<Nanos> {
        self.gather_until
    }

    fn housekeeping(&mut self, _now: Nanos) {
        let Some(told) = &mut self.told else { return };
        let counts = self.provider.known_keys.counts();
        self.metrics.verify_keys_hit.add(counts.hits - told.hits);
        self.metrics.verify_keys_missed.add(counts.misses - told.misses);
        self.metrics.verify_keys_made.add(counts.made - told.made);
        self.metrics.verify_keys_evicted.add(counts.evicted - told.evicted);
        self.metrics.verify_keys.set(counts.held);
        *told = counts;
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}
