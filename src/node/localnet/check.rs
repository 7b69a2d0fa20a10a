//! What must hold after a run, each a line with its verdict.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitStatus;
use std::time::Duration;

use hufu_load::{Discrepancy, RunResult, Sample, Tip};
use hufu_runtime::process::Signals;
use serde_json::{Value, json};

use super::card_faults;
use super::child::{Stopped, run_own};
use super::compare::{self, Held};
use super::folder::{Folder, name};
use super::load::Loaded;
use crate::cli::CliError;
use crate::output::Output;
use crate::ready::Ready;

/// Discrepancies that are listed; all are counted.
const DISCREPANCIES_LISTED_MAX: usize = 10;

/// How long a node's admin plane may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer about health at most.
const ANSWER_SIZE_MAX: u64 = 64 * 1_024;

/// One thing that was checked.
struct Check {
    what: String,
    /// Empty when it holds.
    faults: Vec<String>,
}

/// All that was checked.
pub(super) struct Checks {
    checks: Vec<Check>,
    output: Output,
}

impl Checks {
    pub(super) const fn new(output: Output) -> Self {
        Self { checks: Vec::new(), output }
    }

    /// Whether any check has failed.
    pub(super) fn have_failed(&self) -> bool {
        self.checks.iter().any(|check| !check.faults.is_empty())
    }

    /// Every task has exactly one receipt, of success.
    pub(super) fn exactly_once(&mut self, result: &RunResult, tasks_count: u64) {
        let mut faults = Vec::new();
        if !result.is_exactly_once() {
            let counts = &result.counts;
            faults.push(format!(
                "{} of {} committed, {} failed, {} refused, {} without answer, {} repeated",
                counts.committed,
                result.tasks_count,
                counts.failed_count(),
                counts.refused_count(),
                counts.unanswered,
                counts.receipts_repeated,
            ));
        }
        if result.tasks_count != tasks_count {
            faults.push(format!("{} tasks were sent, not {tasks_count}", result.tasks_count));
        }
        self.add(format!("{tasks_count} events committed exactly once"), faults);
    }

    /// The ledger agrees with the independent model, and nothing was made or lost.
    pub(super) fn holdings(&mut self, discrepancies: &[Discrepancy]) {
        let listed = discrepancies.iter().take(DISCREPANCIES_LISTED_MAX);
        let mut faults: Vec<String> = listed.map(ToString::to_string).collect();
        if discrepancies.len() > faults.len() {
            faults.push(format!("and {} more", discrepancies.len() - faults.len()));
        }
        self.add("totals conserved, holdings equal the model's".to_owned(), faults);
    }

    /// All nodes came to one height, block and state.
    pub(super) fn one_tip(&mut self, tips: &[Tip]) {
        let height = tips.iter().map(|tip| tip.height).max().unwrap_or(0);
        let what = format!("all nodes at height {height} with one block and state root");
        self.add(what, compare::tip_differences(tips));
    }

    /// The logs of all nodes hold the same blocks and roots at every height.
    pub(super) fn one_chain(&mut self, chains: Result<&[Vec<Held>], &String>, height_min: u64) {
        let faults = match chains {
            Ok(chains) => compare::differences(chains, height_min),
            Err(fault) => vec![fault.clone()],
        };
        let what =
            format!("same block and state root on all nodes at each of {height_min} heights");
        self.add(what, faults);
    }

    /// Every node has verified each of the transactions once; one that was sent or signed again may
    /// have been verified again.
    pub(super) fn verified_once(&mut self, ready: &[Ready], loaded: &Loaded) {
        let result = &loaded.result;
        let counts = &result.counts;
        let once = loaded.set_up_count.saturating_add(result.tasks_count);
        let again = counts.overloaded + counts.resubmitted + result.resigned;
        let faults = (0..).zip(ready).filter_map(|(index, node)| {
            let place = name(index);
            match Sample::take(node.admin, None) {
                Ok(sample) => verification_fault(&place, sample.signatures_verified(), once, again),
                Err(cause) => Some(format!("{place}: {cause}")),
            }
        });
        let faults = faults.collect();
        self.add(format!("each node verified each of {once} transactions once"), faults);
    }

    /// The nodes still say that they are alive and ready.
    pub(super) fn healthy(&mut self, ready: &[Ready]) {
        let mut faults = Vec::new();
        for (index, node) in (0..).zip(ready) {
            for path in ["/livez", "/readyz"] {
                match status_of(node.admin, path) {
                    Ok(status) if status.split(' ').nth(1) == Some("200") => {}
                    Ok(status) => {
                        faults.push(format!("{}: {path} answers {status:?}", name(index)));
                    }
                    Err(cause) => {
                        faults.push(format!("{}: {path} does not answer: {cause}", name(index)));
                    }
                }
            }
        }
        self.add("nodes healthy after the load".to_owned(), faults);
    }

    /// The nodes ended as they were asked to.
    pub(super) fn graceful(&mut self, ends: &[ExitStatus]) {
        let failed = (0..).zip(ends).filter(|(_, status)| !status.success());
        let faults = failed.map(|(index, status)| format!("{}: {status}", name(index))).collect();
        self.add("graceful stop with exit code 0".to_owned(), faults);
    }

    /// While a card was away the chain went on, and nothing was signed in its place.
    pub(super) fn cards(&mut self, report: Option<&card_faults::Report>) {
        if let Some(report) = report {
            let faults = if report.is_good() { Vec::new() } else { vec![report.to_string()] };
            let what = "the chain went on without the cards, and nothing signed for them";
            self.add(what.to_owned(), faults);
        }
    }

    /// Another process of this binary finds nothing wrong.
    pub(super) fn verifier(
        &mut self,
        what: &str,
        folder: &Folder,
        arguments: &[String],
        signals: &Signals,
    ) -> Result<(), CliError> {
        let file = format!("verification-{}.json", self.checks.len());
        let result = folder.path().join(file);
        let spinner = self.output.spinner("verifying");
        let status = run_own(arguments, &result, folder.path(), signals);
        spinner.finish_and_clear();
        let status = status.map_err(|stopped| match stopped {
            Stopped::Interrupted => CliError::Interrupted,
            Stopped::Host(cause) => CliError::file(cause, &result, "check the folder's disk"),
            other => CliError::file(format!("{other:?}"), &result, "report this"),
        })?;
        let faults = if status.success() {
            Vec::new()
        } else {
            let text = std::fs::read_to_string(&result).unwrap_or_default();
            vec![format!("{status}: {}", text.trim())]
        };
        self.add(what.to_owned(), faults);
        Ok(())
    }

    /// The checks as a JSON list.
    pub(super) fn to_json(&self) -> Value {
        let checks = self.checks.iter().map(
            |check| json!({ "check": check.what, "holds": check.faults.is_empty(), "faults": check.faults }),
        );
        checks.collect()
    }

    fn add(&mut self, what: String, faults: Vec<String>) {
        self.checks.push(Check { what, faults });
    }
}

impl fmt::Display for Checks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let verdict = if check.faults.is_empty() { "ok    " } else { "FAILED" };
            writeln!(formatter, "{verdict}  {}", check.what)?;
            for fault in &check.faults {
                writeln!(formatter, "        {fault}")?;
            }
        }
        Ok(())
    }
}

/// What is wrong with how many signatures a node has verified: `once`, or up to `again` more.
fn verification_fault(node: &str, verified: u64, once: u64, again: u64) -> Option<String> {
    let allowed = once..=once.saturating_add(again);
    let expected =
        if again == 0 { once.to_string() } else { format!("{once} to {}", once + again) };
    (!allowed.contains(&verified)).then(|| format!("{node}: {verified}, expected {expected}"))
}

/// The first line of an answer of the admin plane.
fn status_of(admin: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, ANSWER_PATIENCE)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_SIZE_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_verified_twice_or_never_is_found() {
        let fault = |verified, again| verification_fault("node-1", verified, 100, again);
        assert_eq!(fault(100, 0), None);
        assert_eq!(fault(105, 5), None);
        assert_eq!(fault(101, 0).unwrap(), "node-1: 101, expected 100");
        assert_eq!(fault(106, 5).unwrap(), "node-1: 106, expected 100 to 105");
        assert!(fault(99, 5).is_some());
    }

    #[test]
    fn one_fault_fails_the_whole_and_is_shown() {
        let output = Output::new(true);
        let mut checks = Checks::new(output);
        checks.one_chain(Ok(&[Vec::new(), Vec::new()]), 0);
        assert!(!checks.have_failed());
        checks.one_chain(Ok(&[Vec::new(), Vec::new()]), 1);
        assert!(checks.have_failed());
        assert!(checks.to_string().contains("node-1 ends at height 0 of 1"), "{checks}");
        assert_eq!(checks.to_json()[1]["holds"], false);
    }
}
