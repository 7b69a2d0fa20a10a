//! Every byte of the block log and the vote log, and what their ends mean together.

use hufu_storage::block_log::{self, Damage, VerifyReport};
use hufu_storage::vote_log::VoteLog;

use super::{Check, Part, Report, State};

/// File of the segment that every log begins with.
pub(super) const FIRST_SEGMENT: &str = "0000000000.log";

/// How both logs end; judged last, so that real faults are listed before it.
pub(super) struct Tails {
    ends: Vec<(Part, VerifyReport)>,
}

/// Checks both logs byte by byte.
pub(super) fn verify(check: &mut Check<'_>, state: Option<&State>) -> Tails {
    let known = state.map_or(0, known_durable).max(sealed_sequence(check));
    check.options.log.known_durable = known;
    let mut ends = Vec::new();
    let (progress, is_interrupted) = (&mut check.progress, &mut check.is_interrupted);
    let checked = block_log::verify(&check.options.log, &mut |done, total| {
        *is_interrupted |= !progress("block log, segments", done.into(), total.into());
    });
    if let Some(report) = take(check, Part::BlockLog, checked) {
        check.report.counts.segments = report.segments_count.into();
        check.report.counts.groups = report.groups_count;
        check.report.counts.bytes = report.bytes_count;
        check.report.counts.records = report.records_count;
        ends.push((Part::BlockLog, report));
    }
    let checked = VoteLog::verify(&check.options.vote_log);
    if let Some(report) = take(check, Part::VoteLog, checked) {
        check.report.counts.vote_bytes = report.bytes_count;
        ends.push((Part::VoteLog, report));
    }
    Tails { ends }
}

/// The last group that the state store proves to have been durable: that of the last block applied.
fn known_durable(state: &State) -> u64 {
    state.mark.as_ref().map_or(0, |mark| mark.log_position.sequence)
}

/// The last group that the vote log vouches for. Its own damage is found in its turn.
fn sealed_sequence(check: &Check<'_>) -> u64 {
    let last = VoteLog::last_seal(&check.options.vote_log).ok().flatten();
    last.map_or(0, |seal| seal.log_sequence)
}

fn take(
    check: &mut Check<'_>,
    part: Part,
    checked: Result<VerifyReport, hufu_storage::Error>,
) -> Option<VerifyReport> {
    let folder = match part {
        Part::VoteLog => &check.options.vote_log.folder,
        _ => &check.options.log.folder,
    };
    match checked {
        Ok(report) => {
            // A node removes nothing from its block log, so it begins with its first segment. What
            // the vote log may lack is judged where its seals are counted.
            let is_whole = part == Part::BlockLog && report.segments_count > 0;
            if is_whole && !folder.join(FIRST_SEGMENT).exists() {
                check.report.fault(part, "segment 0 offset 0", Damage::Missing);
            }
            for fault in &report.faults {
                let place = format!("segment {} offset {}", fault.segment, fault.offset);
                check.report.fault(part, place, fault.damage);
            }
            Some(report)
        }
        Err(error) => {
            check.report.fault(part, "opening", error);
            None
        }
    }
}

impl Tails {
    /// A torn tail is what a crash leaves behind. A node that stops cleanly seals both logs, so
    /// bytes behind a log whose sister is sealed were damaged later.
    pub(super) fn judge(&self, report: &mut Report) {
        let any_sealed = self.ends.iter().any(|(_, end)| end.sealed && end.groups_count > 0);
        for (part, end) in &self.ends {
            let Some(torn) = &end.torn else { continue };
            let place = format!("segment {} offset {}", torn.segment, torn.offset);
            if any_sealed {
                let what = format!("{}, although the node was stopped cleanly", torn.damage);
                report.fault(*part, place, what);
            } else {
                let what = "a tail that nothing vouches for, as a crash leaves it; the next start cuts it off";
                report.notices.push(format!("{place} of the {part:?}: {what} ({})", torn.damage));
            }
        }
    }
}
