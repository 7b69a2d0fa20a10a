//! `hufu hsm bench`: signatures of one card, by threads.
//!
//! Each thread signs one digest after the other through the pool that a node uses, so that the
//! figures are a node's: session lent, card asked, answer read, signature verified in software.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use hufu_crypto::{Signature, Sm3};
use hufu_hsm::card::{Card, deadline_in};
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{Error, KeyHandle, Keystore, Usage};
use hufu_runtime::clock::{Nanos, monotonic};
use serde_json::{Value, json};

use super::super::CliError;
use super::CardFile;
use super::card::{check_token, load};
use super::error::fault;
use crate::kernels;
use crate::output::Output;

/// The longest latency that is told apart.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

#[derive(Debug, Args)]
#[command(
    after_help = "Measured with 1, 2, 4 ... threads up to --threads, --seconds each. What is \
    signed are SM3 digests of texts that nothing else signs, so the signatures are good for \
    nothing; still take a key made for the purpose. Run it while nothing else uses the card. The \
    vendor's library runs in this process; through the agent of a node a signature takes some \
    microseconds more."
)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    card: CardFile,
    /// The key that signs.
    #[arg(long, value_name = "URI", value_parser = super::key)]
    key: KeyUri,
    /// Most threads that sign at once; sessions_max of the card's file if it is not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Time of each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// One measurement.
struct Figure {
    threads: u32,
    seconds: f64,
    latencies: Histogram<u64>,
}

pub(super) fn run(bench: &Bench, output: Output) -> Result<(), CliError> {
    let config = load(&bench.card.path)?;
    let place = bench.card.path.display();
    let told = |error: Error| fault(&error, &place);
    let card = Card::open(&config, kernels::provider().verifier).map_err(told)?;
    let most = bench.threads.unwrap_or(config.sessions_max).min(256);
    let sessions_count = usize::try_from(config.sessions_max.min(most)).unwrap_or(1);
    let patience = Duration::from_secs(60);
    card.warm_up(sessions_count, deadline_in(patience)).map_err(told)?;
    let identity = card.identity(deadline_in(patience)).map_err(told)?;
    check_token(&bench.key, &identity)?;
    let key = card.open_key(&bench.key.key, Usage::Sign, deadline_in(patience)).map_err(told)?;
    let sessions_count = card.status().open_count;
    output.note(format!("{sessions_count} sessions, each signature verified in software"));
    if !output.is_json() {
        output.print("threads  signatures/s       p50       p95       p99     p99.9  (us)");
    }
    let mut figures = Vec::new();
    for threads in steps(most) {
        let time = Duration::from_secs(bench.seconds.into());
        let figure = measure(&card, key, threads, time, config.deadline).map_err(told)?;
        if !output.is_json() {
            output.print(figure.text());
        }
        figures.push(figure.to_json());
    }
    if output.is_json() {
        let profile = &card.profile().name;
        output.print(json!({ "card": config.name, "profile": profile,
            "sessions": sessions_count, "figures": figures }));
    }
    Ok(())
}

/// 1, 2, 4 and so on, and `most`.
fn steps(most: u32) -> Vec<u32> {
    let doubled = std::iter::successors(Some(1_u32), |count| count.checked_mul(2));
    let mut steps: Vec<u32> = doubled.take_while(|count| *count < most).collect();
    steps.push(most);
    steps
}

fn measure(
    card: &Card,
    key: KeyHandle,
    threads: u32,
    time: Duration,
    deadline: Duration,
) -> Result<Figure, Error> {
    let start = monotonic();
    let end = start.after(time);
    let results: Vec<Result<Histogram<u64>, Error>> = std::thread::scope(|scope| {
        let sign = |number| move || sign_until(card, key, number, end, deadline);
        let running: Vec<_> = (0..threads).map(|number| scope.spawn(sign(number))).collect();
        let gone = || Err(Error::Agent { reason: "a thread of the bench ended".to_owned() });
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| gone())).collect()
    });
    let seconds = monotonic().duration_since(start).as_secs_f64();
    let mut latencies = new_histogram()?;
    for result in results {
        let failed =
            |cause: hdrhistogram::AdditionError| Error::Agent { reason: cause.to_string() };
        latencies.add(result?).map_err(failed)?;
    }
    Ok(Figure { threads, seconds, latencies })
}

fn new_histogram() -> Result<Histogram<u64>, Error> {
    let failed = |cause: hdrhistogram::CreationError| Error::Agent { reason: cause.to_string() };
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).map_err(failed)
}

fn sign_until(
    card: &Card,
    key: KeyHandle,
    thread: u32,
    end: Nanos,
    deadline: Duration,
) -> Result<Histogram<u64>, Error> {
    let mut latencies = new_histogram()?;
    let mut signature = [Signature([0; Signature::SIZE])];
    let mut now = monotonic();
    for number in 0_u64.. {
        let digest = Sm3::of(&[b"hufu hsm bench", &thread.to_le_bytes(), &number.to_le_bytes()]);
        card.sign_sm2(key, &[digest], &mut signature, now.after(deadline))?;
        let done = monotonic();
        latencies.saturating_record(done.since(now));
        now = done;
        if now >= end {
            break;
        }
    }
    Ok(latencies)
}

impl Figure {
    /// Signatures in a second.
    fn rate(&self) -> f64 {
        let millis = Duration::from_millis(self.latencies.len());
        millis.as_secs_f64() * 1_000.0 / self.seconds
    }

    fn micros(&self, quantile: f64) -> f64 {
        Duration::from_nanos(self.latencies.value_at_quantile(quantile)).as_secs_f64() * 1e6
    }

    fn text(&self) -> String {
        let [p50, p95, p99, p999] = [0.5, 0.95, 0.99, 0.999].map(|quantile| self.micros(quantile));
        format!(
            "{:7}  {:12.0}  {p50:8.1}  {p95:8.1}  {p99:8.1}  {p999:8.1}",
            self.threads,
            self.rate()
        )
    }

    fn to_json(&self) -> Value {
        json!({
            "threads": self.threads,
            "seconds": self.seconds,
            "signatures": self.latencies.len(),
            "signatures_per_second": self.rate(),
            "p50_micros": self.micros(0.5),
            "p95_micros": self.micros(0.95),
            "p99_micros": self.micros(0.99),
            "p999_micros": self.micros(0.999),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::steps;

    #[test]
    fn threads_are_doubled_up_to_the_most() {
        assert_eq!(steps(1), [1]);
        assert_eq!(steps(2), [1, 2]);
        assert_eq!(steps(6), [1, 2, 4, 6]);
        assert_eq!(steps(8), [1, 2, 4, 8]);
    }
}
