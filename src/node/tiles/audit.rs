//! The audit tile: writes what must be on record, and seals it.
//!
//! ```text
//! sign --Event--> audit --> audit log (one line each, synced at once; a seal from time to time)
//! ```
//!
//! The only writer of the node's audit log. It waits for the disk and so shares its thread with
//! nobody who must not. What comes is durable before the next is taken; a full link pushes back to
//! whoever is audited. Any error ends the node: what is not on record must not happen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::link::Consumer;
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_storage::audit_log::Event;

use crate::audit::{NodeAudit, events};
use crate::metrics::Metrics;

/// Most records that one sync makes durable.
const EVENTS_PER_SYNC: usize = 64;

/// Where events come from, and who hears how many of them are durable.
pub struct AuditSource {
    /// The events.
    pub incoming: Consumer<Event<'static>>,
    /// How many of them are durable.
    pub recorded: Arc<AtomicU64>,
}

/// See the module.
pub struct AuditTile {
    audit: NodeAudit,
    name: String,
    seal_interval: Duration,
    sources: Vec<AuditSource>,
    metrics: Arc<Metrics>,
    /// When the oldest record without a seal gets one.
    seal_at: Option<Nanos>,
    sealed_at: Nanos,
    is_stopping: bool,
}

impl AuditTile {
    /// A tile that writes the log of the node with this name and seals each record within
    /// `seal_interval`.
    #[must_use]
    pub fn new(
        audit: NodeAudit,
        name: String,
        seal_interval: Duration,
        sources: Vec<AuditSource>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (seal_at, sealed_at, is_stopping) = (None, clock::monotonic(), false);
        Self { audit, name, seal_interval, sources, metrics, seal_at, sealed_at, is_stopping }
    }

    /// Takes in what waits and makes it durable; whether there was anything.
    fn take(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let mut has_any = false;
        for source in &mut self.sources {
            let mut taken = 0_u64;
            let mut failed = None;
            source.incoming.drain(EVENTS_PER_SYNC, |event| {
                if failed.is_none() {
                    failed = self.audit.record(&event).err();
                    taken += 1;
                }
            });
            if let Some(error) = failed {
                return Err(error.into());
            }
            if taken > 0 {
                has_any = true;
                self.audit.sync()?;
                source.recorded.fetch_add(taken, Ordering::Release);
                self.metrics.audit_records.add(taken);
            }
        }
        if has_any {
            self.seal_at.get_or_insert(now.after(self.seal_interval));
        }
        Ok(has_any)
    }

    fn seal(&mut self, now: Nanos) -> Result<(), Fatal> {
        self.audit.seal()?;
        (self.seal_at, self.sealed_at) = (None, now);
        self.publish(now);
        Ok(())
    }

    fn publish(&self, now: Nanos) {
        self.metrics.audit_seals.publish(self.audit.seals_count());
        self.metrics.audit_bytes.publish(self.audit.log().bytes_written());
        self.metrics.audit_unsealed.set(self.audit.log().unsealed_count());
        let age = now.duration_since(self.sealed_at).as_millis();
        self.metrics.audit_seal_age_millis.set(u64::try_from(age).unwrap_or(u64::MAX));
    }
}

impl Tile for AuditTile {
    fn name(&self) -> &'static str {
        "audit"
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        if self.take(now)? {
            return Ok(Progress::Busy);
        }
        if self.is_stopping && self.sources.iter().all(|source| source.incoming.is_finished()) {
            let height = self.metrics.chain_height.get();
            self.audit.record(&events::stopped(&self.name, height))?;
            self.metrics.audit_records.add(1);
            self.seal(now)?;
            return Ok(Progress::Done);
        }
        if self.seal_at.is_some_and(|due| now >= due) {
            self.seal(now)?;
            return Ok(Progress::Busy);
        }
        Ok(Progress::Idle)
    }

    fn deadline(&self) -> Option<Nanos> {
        self.seal_at
    }

    fn housekeeping(&mut self, now: Nanos) {
        self.publish(now);
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}
