//! Every transaction signature and every commit certificate, on all cores.

use hufu_crypto::Provider;
use hufu_storage::block_log::RecordPosition;
use hufu_types::verification::verify_transactions;
use hufu_types::{Batch, ChainId, CommitCertificate, Transaction, ValidatorSet};
use rayon::prelude::*;

use super::chain::BlockAtHand;
use super::{Check, Part};
use crate::executor::describe;

/// Transactions gathered before all cores set to work on them.
const PENDING_COUNT: usize = 16_384;
/// Transactions verified by one core at a time.
const JOB_COUNT: usize = 64;

/// See the module.
pub(super) struct Signatures {
    chain_id: ChainId,
    validators: ValidatorSet,
    provider: Provider,
    batches: Vec<(RecordPosition, u64, Batch)>,
    certificates: Vec<(String, CommitCertificate)>,
    pending: usize,
}

/// Transactions of one batch, from a place on.
struct Job<'a> {
    position: RecordPosition,
    height: u64,
    batch: &'a Batch,
    first: usize,
}

impl Signatures {
    pub(super) fn new(check: &Check<'_>) -> Self {
        Self {
            chain_id: check.genesis.chain_id(),
            validators: check.genesis.validators.clone(),
            provider: check.provider.clone(),
            batches: Vec::new(),
            certificates: Vec::new(),
            pending: 0,
        }
    }

    /// Takes the signatures of a block; works when enough have come together.
    pub(super) fn take(&mut self, check: &mut Check<'_>, at_hand: &BlockAtHand) {
        let (durable, decided) = (&at_hand.durable, &at_hand.durable.decided);
        for (batch, position) in decided.batches.iter().zip(&durable.bodies) {
            self.pending += batch.entries().len();
            self.batches.push((*position, decided.block.height(), batch.clone()));
        }
        self.certificates.push((at_hand.place.clone(), decided.certificate.clone()));
        if self.pending >= PENDING_COUNT || self.certificates.len() >= PENDING_COUNT {
            self.flush(check);
        }
    }

    /// Verifies all that was taken.
    pub(super) fn flush(&mut self, check: &mut Check<'_>) {
        let jobs: Vec<Job<'_>> = self
            .batches
            .iter()
            .flat_map(|(position, height, batch)| {
                let firsts = (0..batch.entries().len()).step_by(JOB_COUNT);
                firsts.map(|first| Job { position: *position, height: *height, batch, first })
            })
            .collect();
        let bad: Vec<(String, String)> =
            jobs.par_iter().flat_map_iter(|job| self.judge(job)).collect();
        for (place, what) in bad {
            check.report.fault(Part::BlockLog, place, what);
        }
        let verify = |(place, certificate): &(String, CommitCertificate)| {
            let verified =
                certificate.verify(self.chain_id, &self.validators, &*self.provider.verifier);
            verified.err().map(|error| (place.clone(), error))
        };
        let bad: Vec<_> = self.certificates.par_iter().filter_map(verify).collect();
        for (place, error) in bad {
            check.report.fault(Part::BlockLog, place, error);
        }
        check.report.counts.signatures += u64::try_from(self.pending).unwrap_or(u64::MAX);
        check.report.counts.certificates +=
            u64::try_from(self.certificates.len()).unwrap_or(u64::MAX);
        self.batches.clear();
        self.certificates.clear();
        self.pending = 0;
    }

    /// Those of a job that do not verify: place and reason.
    fn judge(&self, job: &Job<'_>) -> Vec<(String, String)> {
        let last = (job.first + JOB_COUNT).min(job.batch.entries().len());
        let parse = |place| {
            let view = job.batch.transaction(place)?;
            Transaction::parse(view.bytes().into()).ok()
        };
        let transactions: Option<Vec<Transaction>> = (job.first..last).map(parse).collect();
        let Some(transactions) = transactions else {
            unreachable!("a batch that was parsed has all its transactions")
        };
        let verdicts = verify_transactions(&self.provider, self.chain_id, transactions);
        let known = &self.provider.known_keys;
        let valid = verdicts.iter().flatten();
        known.meet(valid.map(|verified| &verified.get().header().sender));
        known.make(&*self.provider.hasher);
        let entries = &job.batch.entries()[job.first..last];
        let judged = verdicts.into_iter().zip(entries);
        let bad =
            judged.filter_map(|(verdict, entry)| verdict.err().map(|(code, _)| (entry.id, code)));
        bad.map(|(id, code)| {
            let what = format!("transaction {id} of height {}: {}", job.height, code.text());
            (describe(&job.position), what)
        })
        .collect()
    }
}
