//! What a run shows: one value for JSON, one table for people.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use hufu_network::message::answer::StatusInfo;
use serde::Serialize;

use crate::tracker::{Answer, Counts};
use crate::usage::{STAGE_VERIFY, Usage};

/// Latencies in nanoseconds from the scheduled time to the receipt, over everything that has a
/// receipt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Receipts measured.
    pub count: u64,
    /// Half of them took at most this.
    pub p50_nanos: u64,
    /// Nine of ten.
    pub p90_nanos: u64,
    /// 99 of 100.
    pub p99_nanos: u64,
    /// 999 of 1,000.
    pub p999_nanos: u64,
    /// All.
    pub max_nanos: u64,
}

impl Latency {
    /// The percentiles of a histogram.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            count: histogram.len(),
            p50_nanos: histogram.value_at_quantile(0.5),
            p90_nanos: histogram.value_at_quantile(0.9),
            p99_nanos: histogram.value_at_quantile(0.99),
            p999_nanos: histogram.value_at_quantile(0.999),
            max_nanos: histogram.max(),
        }
    }
}

/// Where a node is: its last block and the state behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tip {
    /// Height.
    pub height: u64,
    /// Digest of the block.
    pub block: String,
    /// Root of the state.
    pub state_root: String,
}

impl Tip {
    pub(crate) fn of(status: &StatusInfo) -> Self {
        let StatusInfo { height, block, state_root, .. } = status;
        Self { height: *height, block: block.to_string(), state_root: state_root.to_string() }
    }
}

/// Result of a whole load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RunResult {
    /// Tasks of the workload.
    pub tasks_count: u64,
    /// Last words and what happened on the way.
    pub counts: Counts,
    /// Tasks signed once more because their last valid height had passed.
    pub resigned: u64,
    /// Windows of sending; one where there is a schedule.
    pub windows: u64,
    /// Time of all windows, from the first due transaction to the last answer of each.
    pub sending_nanos: u64,
    /// Time spent signing: between the windows, or meanwhile where there is a schedule.
    pub signing_nanos: u64,
    /// By how much the latest transaction was signed after it was due first, which its latency
    /// includes: more than nothing says that this machine did not keep the schedule, whatever the
    /// node did.
    pub signing_late_nanos: u64,
    /// Height before the load.
    pub height_first: u64,
    /// Height after it.
    pub height_last: u64,
    /// Latencies.
    pub latency: Latency,
    /// Where each node was at the end.
    pub tips: Vec<Tip>,
    /// What each node used in the sending windows; none where they could not be asked.
    pub usages: Vec<Usage>,
    /// Tasks sent in the windows that `usages` cover.
    pub usage_tasks: u64,
    /// Receipts with proof written to the file; `None` without a file.
    pub receipts_written: Option<u64>,
    /// When each transaction was due and answered, if the run kept that.
    #[serde(skip)]
    pub answers: Vec<Answer>,
}

impl RunResult {
    /// Transactions committed a second while sending.
    #[must_use]
    pub fn committed_per_second(&self) -> u64 {
        let product = u128::from(self.counts.committed) * 1_000_000_000;
        let rate = product.checked_div(u128::from(self.sending_nanos)).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// Whether every task was committed with success exactly once.
    #[must_use]
    pub fn is_exactly_once(&self) -> bool {
        self.counts.is_clean() && self.counts.committed == self.tasks_count
    }

    /// CPU time outside the verify stage in nanoseconds a transaction and node: what each
    /// transaction costs a node, in the mean of all nodes; `None` where it is not known.
    #[must_use]
    pub fn cpu_nanos_outside_verify(&self) -> Option<u64> {
        let outside = self.usages.iter().map(outside_verify);
        let nodes_count = u64::try_from(self.usages.len()).unwrap_or(u64::MAX);
        outside.sum::<u64>().checked_div(nodes_count.saturating_mul(self.usage_tasks))
    }

    /// The table for people; lines of at most 80 columns.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::default();
        table.row("tasks", &self.tasks_count.to_string());
        table.row("committed", &self.counts.committed.to_string());
        for (codes, what) in [(&self.counts.failed, "failed"), (&self.counts.refused, "refused")] {
            for (code, count) in codes {
                table.row(&format!("{what}: {code}"), &count.to_string());
            }
        }
        for (what, count) in [
            ("without answer", self.counts.unanswered),
            ("receipts repeated", self.counts.receipts_repeated),
            ("answers out of place", self.counts.answers_foreign),
            ("sent again: overloaded", self.counts.overloaded),
            ("sent again: connection lost", self.counts.resubmitted),
            ("of these known to the node", self.counts.duplicates),
            ("reconnects", self.counts.reconnects),
            ("signed again: expired", self.resigned),
        ] {
            if count > 0 {
                table.row(what, &count.to_string());
            }
        }
        table.row("committed/s", &self.committed_per_second().to_string());
        table.row(
            "sending / signing",
            &format!(
                "{} s / {} s",
                fixed(self.sending_nanos, 1_000_000_000),
                fixed(self.signing_nanos, 1_000_000_000)
            ),
        );
        if self.signing_late_nanos > 0 {
            let late = format!("{} ms", fixed(self.signing_late_nanos, 1_000_000));
            table.row("signing behind schedule", &late);
        }
        let blocks = self.height_last.saturating_sub(self.height_first);
        table.row("heights", &format!("{} .. {} ({blocks})", self.height_first, self.height_last));
        self.latency_rows(&mut table);
        if !self.usages.is_empty() {
            self.usage_rows(&mut table);
        }
        if let Some(count) = self.receipts_written {
            table.row("receipts written", &count.to_string());
        }
        table.text
    }

    fn latency_rows(&self, table: &mut Table) {
        let Latency { p50_nanos, p90_nanos, p99_nanos, p999_nanos, max_nanos, .. } = self.latency;
        for (name, nanos) in [
            ("latency p50", p50_nanos),
            ("latency p90", p90_nanos),
            ("latency p99", p99_nanos),
            ("latency p99.9", p999_nanos),
            ("latency max", max_nanos),
        ] {
            table.row(name, &format!("{} ms", fixed(nanos, 1_000_000)));
        }
    }

    /// One column for each node while they fit the line, else the least and the most.
    fn usage_rows(&self, table: &mut Table) {
        let row = |table: &mut Table, name: &str, of: &dyn Fn(&Usage) -> u64| {
            let per_task = |usage| of(usage).checked_div(self.usage_tasks).unwrap_or(0);
            let nanos: Vec<u64> = self.usages.iter().map(per_task).collect();
            table.row(name, &format!("{} us/tx", spread(&nanos, 1_000)));
        };
        row(table, "node CPU", &|usage| usage.cpu_nanos);
        let mut stages: Vec<&str> = Vec::new();
        for stage in self.usages.iter().flat_map(|usage| &usage.stages) {
            if !stages.contains(&stage.stage.as_str()) {
                stages.push(&stage.stage);
            }
        }
        for stage in stages {
            row(table, &format!("  {stage}"), &|usage| usage.stage_nanos(stage));
        }
        row(table, &format!("node CPU outside {STAGE_VERIFY}"), &outside_verify);
        if let Some(mean) = self.cpu_nanos_outside_verify().filter(|_| self.usages.len() > 1) {
            table.row("  in the mean", &format!("{} us/tx", fixed(mean, 1_000)));
        }
        let sum = |of: &dyn Fn(&Usage) -> u64| self.usages.iter().map(of).sum::<u64>();
        let nodes_count = u64::try_from(self.usages.len()).unwrap_or(u64::MAX);
        let bytes_per_task = |bytes: u64| {
            bytes.checked_div(self.usage_tasks.saturating_mul(nodes_count)).unwrap_or(0)
        };
        let bytes = sum(&|usage| usage.log_bytes);
        table.row(
            "block log",
            &format!(
                "{} MB in {} groups, {} B/tx",
                fixed(bytes, 1_000_000),
                sum(&|usage| usage.log_groups),
                bytes_per_task(bytes)
            ),
        );
        if self.usages.iter().all(|usage| usage.disk_bytes.is_some()) {
            let bytes = sum(&|usage| usage.disk_bytes.unwrap_or(0));
            let size = fixed(bytes, 1_000_000);
            table.row("disk writes", &format!("{size} MB, {} B/tx", bytes_per_task(bytes)));
        }
        let resident: Vec<u64> = self.usages.iter().map(|usage| usage.resident_bytes).collect();
        table.row("resident memory", &format!("{} MB", spread(&resident, 1_000_000)));
    }
}

fn outside_verify(usage: &Usage) -> u64 {
    usage.cpu_nanos.saturating_sub(usage.verify_nanos())
}

/// Values of several nodes that stand beside each other in a line.
const COLUMNS_COUNT_MAX: usize = 4;

/// The value of each node, or of many nodes the least and the most, in units of `unit`.
fn spread(values: &[u64], unit: u64) -> String {
    if values.len() <= COLUMNS_COUNT_MAX {
        let shown: Vec<String> = values.iter().map(|value| fixed(*value, unit)).collect();
        return shown.join(" ");
    }
    let (least, most) = (values.iter().min(), values.iter().max());
    let shown = |value: Option<&u64>| fixed(value.copied().unwrap_or(0), unit);
    format!("{} .. {}", shown(least), shown(most))
}

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn row(&mut self, name: &str, value: &str) {
        let written = writeln!(self.text, "{name:<30} {value:>24}");
        assert!(written.is_ok(), "a string takes what is written to it");
    }
}

/// `value` in units of `unit`, with two decimals, rounded down.
fn fixed(value: u64, unit: u64) -> String {
    assert!(unit > 0, "units are constants");
    let hundredths = u128::from(value % unit) * 100 / u128::from(unit);
    format!("{}.{hundredths:02}", value / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Stage;

    fn result() -> RunResult {
        RunResult {
            tasks_count: 1_000,
            counts: Counts { committed: 1_000, ..Counts::default() },
            sending_nanos: 500_000_000,
            usage_tasks: 1_000,
            usages: vec![Usage {
                cpu_nanos: 310_000_000,
                stages: vec![Stage { stage: "verify".to_owned(), cpu_nanos: 292_500_000 }],
                ..Usage::default()
            }],
            ..RunResult::default()
        }
    }

    #[test]
    fn rates_and_shares_follow_from_the_counts() {
        let result = result();
        assert_eq!(result.committed_per_second(), 2_000);
        assert_eq!(result.cpu_nanos_outside_verify(), Some(17_500));
        assert!(result.is_exactly_once());
        assert_eq!(RunResult::default().committed_per_second(), 0);
    }

    #[test]
    fn any_flaw_makes_it_not_exactly_once() {
        let flaws: [fn(&mut RunResult); 6] = [
            |result| result.counts.committed -= 1,
            |result| result.counts.unanswered = 1,
            |result| result.counts.receipts_repeated = 1,
            |result| result.counts.answers_foreign = 1,
            |result| *result.counts.failed.entry("nonce_used".to_owned()).or_default() += 1,
            |result| *result.counts.refused.entry("duplicate".to_owned()).or_default() += 1,
        ];
        for flaw in flaws {
            let mut result = result();
            flaw(&mut result);
            assert!(!result.is_exactly_once());
        }
    }

    #[test]
    fn the_table_has_the_figures() {
        let table = result().table();
        for line in
            ["committed/s 2000", "node CPU outside verify 17.50 us/tx", "verify 292.50 us/tx"]
        {
            let found = table
                .lines()
                .any(|row| row.split_whitespace().collect::<Vec<_>>().join(" ") == line);
            assert!(found, "{line} is not in\n{table}");
        }
        assert!(!table.contains("reconnects"), "what did not happen takes no line");
        assert!(table.lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn every_node_has_its_column_while_they_fit() {
        let mut result = result();
        let mut second = result.usages[0].clone();
        second.cpu_nanos = 330_000_000;
        result.usages.push(second.clone());
        assert_eq!(result.cpu_nanos_outside_verify(), Some((17_500 + 37_500) / 2));
        let has = |result: &RunResult, line: &str| {
            let table = result.table();
            let squeeze = |row: &str| row.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(table.lines().any(|row| squeeze(row) == line), "{line} is not in\n{table}");
            assert!(table.lines().all(|line| line.len() <= 80));
        };
        has(&result, "node CPU 310.00 330.00 us/tx");
        has(&result, "node CPU outside verify 17.50 37.50 us/tx");
        has(&result, "in the mean 27.50 us/tx");
        result.usages.resize(16, second);
        has(&result, "node CPU 310.00 .. 330.00 us/tx");
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(fixed(17_509, 1_000), "17.50");
        assert_eq!(fixed(9, 1_000), "0.00");
        assert_eq!(fixed(u64::MAX, 1_000), "18446744073709551.61");
    }

    #[test]
    fn percentiles_come_from_the_histogram() {
        let mut histogram = crate::tracker::latencies().unwrap();
        for value in 1..=1_000_u64 {
            histogram.record(value * 1_000_000).unwrap();
        }
        let latency = Latency::of(&histogram);
        let near = |found: u64, expected: u64| found.abs_diff(expected) <= expected / 500;
        assert!(near(latency.p50_nanos, 500_000_000) && near(latency.p99_nanos, 990_000_000));
        assert!(near(latency.p999_nanos, 999_000_000) && near(latency.max_nanos, 1_000_000_000));
        assert_eq!(Latency::of(&crate::tracker::latencies().unwrap()), Latency::default());
    }
}
