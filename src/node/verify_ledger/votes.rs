//! The records of the vote log: each parses, the guard's rule holds over all of them, and what was
//! decided is what the block log holds.

use hufu_consensus::{Guard, Record};
use hufu_storage::block_log::Damage;
use hufu_storage::vote_log::{KIND_SEAL, Seal, VoteLog};

use super::chain::Chain;
use super::logs::FIRST_SEGMENT;
use super::{Check, Part};
use crate::config::VOTE_HEIGHTS_KEPT_MIN;
use crate::executor::describe;

/// Reads the whole vote log; the guard is rebuilt from nothing, over all heights ever voted on.
pub(super) fn verify(check: &mut Check<'_>, chain: &Chain) {
    let mut reader = match VoteLog::reader(&check.options.vote_log) {
        Ok((reader, _)) => reader,
        Err(error) => return stopped(check, &error),
    };
    let mut votes = Votes { guard: Guard::new(), sealed: 0, seals: 0 };
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                check.report.counts.vote_records += 1;
                check.progress("vote log, records", check.report.counts.vote_records, 0);
                if check.is_interrupted {
                    return;
                }
                if let Err(what) = votes.record(check, chain, record.kind, record.payload) {
                    check.report.fault(Part::VoteLog, describe(&record.position), what);
                }
            }
            Ok(None) => return votes.judge_beginning(check),
            Err(error) => return stopped(check, &error),
        }
    }
}

/// Records behind damage cannot be reached; the damage itself is found byte by byte.
fn stopped(check: &mut Check<'_>, error: &hufu_storage::Error) {
    if check.report.faults.iter().all(|fault| fault.part != Part::VoteLog) {
        check.report.fault(Part::VoteLog, "reading", error);
    }
    check.report.notices.push(format!("vote-log records behind the damage were not read: {error}"));
}

struct Votes {
    guard: Guard,
    sealed: u64,
    /// Seals seen, count.
    seals: u64,
}

impl Votes {
    fn record(
        &mut self,
        check: &mut Check<'_>,
        chain: &Chain,
        kind: u16,
        payload: &[u8],
    ) -> Result<(), String> {
        if kind == KIND_SEAL {
            return self.seal(payload);
        }
        let record =
            Record::parse(payload, &*check.provider.hasher).map_err(|cause| cause.to_string())?;
        match &record {
            Record::SignIntent(intent) => {
                check.report.counts.sign_intents += 1;
                self.guard.admit(intent).map(|_| ()).map_err(|cause| cause.to_string())
            }
            Record::Decided(certificate) => {
                let (height, decided) = (certificate.height, certificate.block);
                match chain.at(height).filter(|block| *block != decided) {
                    Some(block) => Err(format!(
                        "decided {decided} at height {height}, the block log holds {block}"
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn seal(&mut self, payload: &[u8]) -> Result<(), String> {
        let height = Seal::parse(payload).ok_or("seal is not one")?.height;
        if height <= self.sealed {
            return Err(format!("height {height} is sealed after height {}", self.sealed));
        }
        self.sealed = height;
        self.seals += 1;
        Ok(())
    }

    /// A node uses the oldest files of its vote log again, but never the newest heights.
    fn judge_beginning(&self, check: &mut Check<'_>) {
        let folder = &check.options.vote_log.folder;
        let has_beginning = folder.join(FIRST_SEGMENT).exists();
        let is_there = self.seals > 0 || self.guard.last().is_some();
        if is_there && !has_beginning && self.seals < VOTE_HEIGHTS_KEPT_MIN {
            check.report.fault(Part::VoteLog, "segment 0 offset 0", Damage::Missing);
        }
    }
}
