//! Many seeds, on several threads.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use hufu_runtime::clock::monotonic;

use crate::material::{Material, MaterialError};
use crate::run::{Report, run_seed};
use crate::trace::Trace;

/// What many seeds came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds run, count.
    pub seeds: u64,
    /// Seeds that broke a rule.
    pub failures: Vec<Report>,
    /// Virtual nanoseconds of all seeds together.
    pub virtual_nanos: u64,
    /// Nanoseconds that all threads worked.
    pub real_nanos: u64,
    /// Heights of all seeds together, count.
    pub heights: u64,
    /// Events of all seeds together, count.
    pub events: u64,
    /// Transactions whose receipt came, count.
    pub receipts: u64,
}

impl Summary {
    /// Virtual time per time of one thread, in percent.
    #[must_use]
    pub fn speed_percent(&self) -> u64 {
        (self.virtual_nanos / 1_000).saturating_mul(100) / (self.real_nanos / 1_000).max(1)
    }
}

/// Runs the seeds `seeds` of a cluster of `nodes` on `jobs` threads; `each` hears of every report.
/// After a failure no further seed begins if `stops_early`.
///
/// # Errors
/// If a chain of so many nodes cannot be made.
pub fn hunt(
    seeds: core::ops::Range<u64>,
    (nodes, jobs): (usize, usize),
    stops_early: bool,
    each: impl Fn(&Report) + Sync,
) -> Result<Summary, MaterialError> {
    let next = AtomicU64::new(seeds.start);
    let summary = Mutex::new(Summary::default());
    let work = || -> Result<(), MaterialError> {
        let material = Material::new(nodes)?;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(());
            }
            let start = monotonic();
            let report = run_seed(&material, seed, Trace::silent());
            let took = monotonic().as_nanos().saturating_sub(start.as_nanos());
            each(&report);
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.seeds += 1;
            summary.virtual_nanos += report.nanos;
            summary.real_nanos += took;
            summary.heights += report.height;
            summary.events += report.events;
            summary.receipts += u64::try_from(report.transactions.0).unwrap_or(0);
            if report.failure.is_some() {
                summary.failures.push(report);
                if stops_early {
                    next.store(seeds.end, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    Ok(summary.into_inner().unwrap_or_else(PoisonError::into_inner))
}
