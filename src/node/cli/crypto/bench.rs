//! `hufu crypto bench`: what this machine does, one core, every back end in turn.
//!
//! Each figure is the median of interleaved rounds, so that a machine with other work to do is the
//! same for all. There are no hardware counters to read everywhere: cycles are time multiplied by a
//! frequency that a chain of dependent additions shows, before and after.

mod work;

use std::time::Duration;

use clap::Args;
use hufu_crypto::{Backend, Error};
use hufu_runtime::clock::monotonic;
use serde_json::{Value, json};

use self::work::{Work, workloads};
use super::super::CliError;
use crate::kernels;
use crate::output::Output;

/// Time of one round of one figure.
const ROUND: Duration = Duration::from_millis(30);

/// Steps of the chain that shows the frequency: each is an exclusive or and an addition that wait
/// for each other, a cycle each. Short, so that some chain is not interrupted on a busy machine.
const CHAIN_STEPS: u32 = 500_000;
/// Chains for one reading, count.
const CHAINS: u32 = 20;
const CYCLES_PER_STEP: f64 = 2.0;

#[derive(Debug, Args)]
#[command(
    after_help = "HUFU_KERNELS names the only back end to measure. Run it on a machine that does \
    nothing else."
)]
pub(in crate::cli) struct Bench {
    /// Rounds of 30 ms each; the median is printed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

/// One line of the table.
struct Figure {
    work: Work,
    backend: Backend,
    /// Calls in a round of about [`ROUND`].
    calls: u32,
    /// Seconds of one call, one for each round.
    seconds: Vec<f64>,
}

impl Figure {
    fn new(work: Work, backend: Backend) -> Self {
        Self { work, backend, calls: 1, seconds: Vec::new() }
    }

    /// Finds how often the work fits a round, which warms up what it needs as well.
    fn prepare(&mut self) {
        while self.time() < ROUND.as_secs_f64() && self.calls < u32::MAX / 2 {
            self.calls *= 2;
        }
    }

    /// Seconds of a round.
    fn time(&mut self) -> f64 {
        let start = monotonic();
        for _ in 0..self.calls {
            (self.work.call)();
        }
        monotonic().duration_since(start).as_secs_f64()
    }

    fn measure(&mut self) {
        let seconds = self.time() / f64::from(self.calls);
        self.seconds.push(seconds);
    }

    /// Seconds of one item.
    fn median(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN) / f64::from(self.work.items)
    }

    fn to_json(&self, frequency: f64) -> Value {
        let seconds = self.median();
        let bytes = f64::from(self.work.bytes);
        json!({
            "work": self.work.name,
            "backend": self.backend.name(),
            "items_per_second": (1.0 / seconds).round(),
            "bytes_per_second": (self.work.bytes > 0).then(|| (bytes / seconds).round()),
            "cycles_per_item": (seconds * frequency).round(),
            "cycles_per_byte": (self.work.bytes > 0).then(|| seconds * frequency / bytes),
        })
    }

    fn to_line(&self, frequency: f64) -> String {
        let seconds = self.median();
        let (name, backend) = (self.work.name, self.backend.name());
        let (rate, cycles) = (1.0 / seconds, seconds * frequency);
        let mut line = format!("{name:28} {backend:9} {rate:>12.0} {cycles:>12.0}");
        if self.work.bytes > 0 {
            let bytes = f64::from(self.work.bytes);
            let (speed, each) = (bytes / seconds / 1e6, cycles / bytes);
            line.push_str(&format!(" {speed:>10.0} {each:>10.2}"));
        }
        line
    }
}

pub(super) fn run(bench: &Bench, output: Output) -> Result<(), CliError> {
    let backends =
        if kernels::is_forced() { vec![kernels::backend()] } else { kernels::available() };
    let mut figures = figures(&backends).map_err(|error| {
        CliError::failed(error, "preparing the work", "run `hufu crypto selftest`")
    })?;
    let bar = output.bar(u64::from(bench.rounds) + 1, "measuring");
    figures.iter_mut().for_each(Figure::prepare);
    bar.inc(1);
    let mut frequencies = vec![frequency()];
    for _ in 0..bench.rounds {
        figures.iter_mut().for_each(Figure::measure);
        frequencies.push(frequency());
        bar.inc(1);
    }
    bar.finish_and_clear();
    let frequency = frequencies.into_iter().fold(f64::NAN, f64::max);
    let value = json!({
        "processor": processor(),
        "frequency_hz": frequency.round(),
        "rounds": bench.rounds,
        "results": figures.iter().map(|figure| figure.to_json(frequency)).collect::<Vec<Value>>(),
    });
    let mut lines = vec![
        format!(
            "{}, {:.2} GHz, one core, medians of {} rounds",
            processor(),
            frequency / 1e9,
            bench.rounds
        ),
        format!(
            "{:28} {:9} {:>12} {:>12} {:>10} {:>10}",
            "work", "back end", "items/s", "cycles/item", "MB/s", "cycles/B"
        ),
    ];
    lines.extend(figures.iter().map(|figure| figure.to_line(frequency)));
    output.result(&value, lines.join("\n"));
    Ok(())
}

/// All figures, the back ends of each work side by side.
fn figures(backends: &[Backend]) -> Result<Vec<Figure>, Error> {
    let mut columns = Vec::new();
    for backend in backends {
        columns.push((*backend, workloads(*backend)?.into_iter()));
    }
    let mut figures = Vec::new();
    while let Some(row) = columns
        .iter_mut()
        .map(|(backend, works)| works.next().map(|work| Figure::new(work, *backend)))
        .collect::<Option<Vec<Figure>>>()
    {
        if row.is_empty() {
            break;
        }
        figures.extend(row);
    }
    Ok(figures)
}

/// Cycles a second: the most that any chain shows, for other work on the machine only ever makes
/// one look slower.
fn frequency() -> f64 {
    (0..CHAINS).map(|_| frequency_of_chain()).fold(f64::NAN, f64::max)
}

/// Cycles a second, by a chain of which each step waits for the one before.
fn frequency_of_chain() -> f64 {
    let (mut value, mask, step) = std::hint::black_box((1_u64, 0x55_u64, 3_u64));
    let start = monotonic();
    for _ in 0..CHAIN_STEPS {
        value = (value ^ mask).wrapping_add(step);
    }
    std::hint::black_box(value);
    let seconds = monotonic().duration_since(start).as_secs_f64();
    f64::from(CHAIN_STEPS) * CYCLES_PER_STEP / seconds
}

/// What the processor calls itself.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    let name = line.map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frequency_is_one_of_a_processor() {
        let found = frequency();
        assert!(found > 1e8 && found < 1e10, "{found} Hz");
    }

    /// Every work runs on every back end; how fast is not a test's to judge.
    #[test]
    fn every_work_runs_on_every_back_end() {
        let backends = kernels::available();
        let figures = figures(&backends).unwrap();
        assert_eq!(figures.len() % backends.len(), 0);
        assert!(figures.len() >= 10 * backends.len());
        for mut figure in figures {
            figure.measure();
            assert!(figure.median() > 0.0, "{}", figure.work.name);
            let line = figure.to_line(1e9);
            assert!(line.contains(figure.backend.name()), "{line}");
        }
    }
}
