//! What must hold after a run, each a line with its verdict.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitStatus;
use std::time::Duration;

use hufu_load::{Discrepancy, RunResult};
use hufu_runtime::process::Signals;
use serde_json::{Value, json};

use super::child::{Stopped, run_own};
use super::folder::Folder;
use crate::cli::CliError;
use crate::output::Output;

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

    /// The node still says that it is alive and ready.
    pub(super) fn healthy(&mut self, admin: SocketAddr) {
        let faults = ["/livez", "/readyz"].into_iter().filter_map(|path| {
            let status = status_of(admin, path);
            match status {
                Ok(status) if status.split(' ').nth(1) == Some("200") => None,
                Ok(status) => Some(format!("{path} answers {status:?}")),
                Err(cause) => Some(format!("{path} does not answer: {cause}")),
            }
        });
        let faults = faults.collect();
        self.add("node healthy after the load".to_owned(), faults);
    }

    /// The node ended as it was asked to.
    pub(super) fn graceful(&mut self, status: ExitStatus) {
        let faults = if status.success() { Vec::new() } else { vec![status.to_string()] };
        self.add("graceful stop with exit code 0".to_owned(), faults);
    }

    /// Another process of this binary finds nothing wrong.
    pub(super) fn verifier(
        &mut self,
        what: &str,
        folder: &Folder,
        arguments: &[String],
        signals: &Signals,
    ) -> Result<(), CliError> {
        let name = arguments.first().map_or("verifier", String::as_str);
        let result = folder.path().join(format!("{name}-verify.json"));
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
