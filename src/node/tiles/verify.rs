//! The verify tile: digests and SM2 signatures in batches, on every core left to it.
//!
//! ```text
//! ingress --Submitted--> [gather by count or deadline] --verify_many--> mempool (Checked)
//!                                                               \-----> ingress (Status: refused)
//! ```
//!
//! One tile per verifying core; it owns nothing but the digests of the bytes it has verified
//! lately. An exact copy of a verified transaction is refused without verifying it again; copies
//! always arrive at the same tile, because ingress chooses the tile by the signature. It never
//! judges anything but form, chain and signature.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::Provider;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_types::{ChainId, Identified, RefusalCode, verify_identified};

use crate::messages::{Checked, Status, Submitted};
use crate::metrics::Metrics;
use crate::recent::RecentDigests;

/// How the tile gathers.
#[derive(Clone, Copy, Debug)]
pub struct VerifyConfig {
    /// Most signatures in one batch, count.
    pub batch_max: usize,
    /// How long the first transaction of a batch waits for others.
    pub batch_deadline: Duration,
    /// How many verified digests are remembered, count.
    pub remembered_max: usize,
}

/// See the module.
pub struct VerifyTile {
    name: String,
    config: VerifyConfig,
    chain_id: ChainId,
    provider: Provider,
    metrics: Arc<Metrics>,
    incoming: Vec<Consumer<Submitted>>,
    to_mempool: Producer<Checked>,
    to_ingress: Vec<Producer<Status>>,
    gathered: Vec<Submitted>,
    gather_until: Option<Nanos>,
    remembered: RecentDigests,
    checked: VecDeque<Checked>,
    refused: VecDeque<Status>,
    is_stopping: bool,
}

/// The links of a verify tile.
#[derive(Debug)]
pub struct VerifyLinks {
    /// From each ingress tile.
    pub incoming: Vec<Consumer<Submitted>>,
    /// To the mempool.
    pub to_mempool: Producer<Checked>,
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
            to_mempool: links.to_mempool,
            to_ingress: links.to_ingress,
            gathered: Vec::with_capacity(config.batch_max),
            gather_until: None,
            remembered: RecentDigests::new(config.remembered_max),
            checked: VecDeque::with_capacity(config.batch_max),
            refused: VecDeque::with_capacity(config.batch_max),
            is_stopping: false,
        }
    }

    /// Passes verdicts on; `false` while a link downstream is full.
    fn deliver(&mut self) -> bool {
        while let Some(checked) = self.checked.pop_front() {
            if let Err(back) = self.to_mempool.try_push(checked) {
                self.checked.push_front(back);
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
        let (mut sources, mut fresh) = (Vec::new(), Vec::new());
        for Submitted { transaction, source } in self.gathered.drain(..) {
            let identified = Identified::new(transaction, self.chain_id);
            if self.remembered.contains(&identified.digest()) {
                self.refused.push_back(Status { source, result: Err(RefusalCode::Duplicate) });
                self.metrics.verify_duplicates.add(1);
            } else {
                sources.push(source);
                fresh.push(identified);
            }
        }
        self.gather_until = None;
        let count = fresh.len();
        for (source, verdict) in sources.into_iter().zip(self.judge(fresh)) {
            match verdict {
                Ok(checked) => self.checked.push_back(Checked { transaction: checked, source }),
                Err(result) => self.refused.push_back(Status { source, result: Err(result) }),
            }
        }
        self.metrics.verify_signatures.add_count(count);
        self.metrics.verify_batches.add(1);
    }

    fn judge(
        &mut self,
        fresh: Vec<Identified>,
    ) -> Vec<Result<hufu_types::Verified<hufu_types::Transaction>, RefusalCode>> {
        let mut verdicts = Vec::with_capacity(fresh.len());
        for verdict in verify_identified(&self.provider, self.chain_id, fresh) {
            verdicts.push(match verdict {
                Ok(verified) => {
                    self.remembered.insert(verified.digest());
                    Ok(verified)
                }
                Err((code, _)) => Err(code),
            });
        }
        verdicts
    }

    fn is_finished(&self) -> bool {
        self.is_stopping
            && self.gathered.is_empty()
            && self.checked.is_empty()
            && self.refused.is_empty()
            && self.incoming.iter().all(Consumer::is_finished)
    }
}

impl Tile for VerifyTile {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        if !self.deliver() {
            return Ok(Progress::PushedBack);
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
        Ok(if has_gathered { Progress::Busy } else { Progress::Idle })
    }

    fn deadline(&self) -> Option<Nanos> {
        self.gather_until
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}
