//! One node of a loaded network is killed, started again and watched until it is level, and what
//! that does to the others and to the node is measured.
//!
//! ```text
//! load begins --kill_after--> kill -9 (and its data removed) --restart--> started -> level
//! |<----- before ----->|<----------------- dead ----------------->|<-- catching up -->|
//!   headers of the chain and answers of the load                    metrics of the node
//! ```
//!
//! The load goes to the other nodes from its beginning, so that no client of it is cut off. Rates
//! of the chain are those of its headers: their times, heights and counts of transactions.

use std::fmt;
use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hufu_load::{Answer, Sample, Usage};
use hufu_runtime::clock::{self, Nanos};
use serde::Serialize;

use super::child::Nodes;
use super::compare::Held;
use super::folder::{Folder, name};
use crate::cli::CliError;
use crate::ready::Ready;

/// When the killed node is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// So long after it was killed, or when the load is over if that comes first.
    After(Duration),
    /// When the load is over.
    AtEnd,
}

/// What is done to the last node.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// How long after the load began it is killed.
    pub kill_after: Duration,
    /// When it is started again.
    pub restart: Restart,
    /// Whether it loses its data before that.
    pub wipe: bool,
}

/// The load's first moments, of which no rate is taken.
const WARM_UP: Duration = Duration::from_secs(2);

/// The first moments without the node, of which no rate is taken: others learn that it is absent.
const SETTLING: Duration = Duration::from_secs(5);

/// Pause between two looks at the node's metrics.
const SIGHTING_PAUSE: Duration = Duration::from_millis(100);

/// How long the node may take to be level.
const LEVEL_PATIENCE: Duration = Duration::from_secs(300);

/// Stages of the node's CPU time that are shown, the largest first, count.
const STAGES_SHOWN_COUNT: usize = 6;

/// Heights by which a node may be behind another that works on the next one, and level with it.
const LEVEL_HEIGHTS_COUNT: u64 = 2;

/// A moment on both clocks: answers are timed by the one, headers by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    at: Nanos,
    wall_millis: u64,
}

impl Mark {
    fn now() -> Self {
        Self { at: clock::monotonic(), wall_millis: clock::wall().as_millis() }
    }

    fn after(self, wait: Duration) -> Self {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self { at: self.at.after(wait), wall_millis: self.wall_millis.saturating_add(millis) }
    }

    fn seconds_since(self, earlier: Self) -> f64 {
        self.at.duration_since(earlier.at).as_secs_f64()
    }
}

/// Where the node was at one moment.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    at: Mark,
    height: u64,
    transactions: u64,
    caught_up: u64,
    /// Height of a node that was there all the time.
    others: u64,
}

/// When a load began; whoever sends it says so once.
pub(super) type Began = Arc<OnceLock<Nanos>>;

/// See the module.
pub(super) struct Course {
    outage: Outage,
    index: u16,
    began: Began,
    start: Option<Mark>,
    killed: Option<Mark>,
    load_ended: Option<Mark>,
    restarted: Option<Mark>,
    ready: Option<(Mark, Ready)>,
    /// Up to the one in which it is level.
    sightings: Vec<Sighting>,
    /// Whether it has been at the height of a node that rests, when the load was over.
    is_resting: bool,
    /// The first and the last sample of the node after its start.
    samples: Option<(Sample, Sample)>,
    next_sighting: Nanos,
}

impl Course {
    /// The outage of the node with this index.
    pub(super) fn new(outage: Outage, index: u16, began: Began) -> Self {
        Self {
            outage,
            index,
            began,
            start: None,
            killed: None,
            load_ended: None,
            restarted: None,
            ready: None,
            sightings: Vec::new(),
            is_resting: false,
            samples: None,
            next_sighting: Nanos::ZERO,
        }
    }

    /// Does what is due. `Some` once the node is level and the load over: where it is reached now.
    ///
    /// # Errors
    /// If the node cannot be started, or is not level in time.
    pub(super) fn step(
        &mut self,
        nodes: &mut Nodes,
        folder: &Folder,
        witness: &Ready,
        is_loaded: bool,
    ) -> Result<Option<Ready>, CliError> {
        let now = Mark::now();
        if self.start.is_none() && self.began.get().is_some() {
            self.start = Some(now);
        }
        if is_loaded && self.load_ended.is_none() {
            self.load_ended = Some(now);
        }
        let Some(killed) = self.killed else {
            let is_due = self
                .start
                .is_some_and(|start| is_loaded || now.at >= start.after(self.outage.kill_after).at);
            if is_due {
                nodes.kill(self.index);
                self.killed = Some(now);
            }
            return Ok(None);
        };
        let Some(restarted) = self.restarted else {
            let is_due = match self.outage.restart {
                Restart::After(wait) => now.at >= killed.after(wait).at,
                Restart::AtEnd => false,
            };
            if is_due || is_loaded {
                self.restart(nodes, folder)?;
            }
            return Ok(None);
        };
        self.watch(nodes, witness, now, is_loaded)?;
        if self.is_resting {
            return Ok(self.ready.map(|(_, ready)| ready));
        }
        if self.is_level() && !is_loaded {
            return Ok(None);
        }
        if now.at >= restarted.after(LEVEL_PATIENCE).at {
            let what = format!("not level {LEVEL_PATIENCE:?} after its start");
            return Err(CliError::failed(what, name(self.index), "look at its log"));
        }
        Ok(None)
    }

    fn restart(&mut self, nodes: &mut Nodes, folder: &Folder) -> Result<(), CliError> {
        let data = folder.data_dir(self.index);
        if self.outage.wipe {
            fs::remove_dir_all(&data)
                .map_err(|cause| CliError::file(cause, &data, "check the folder and its disk"))?;
        }
        nodes.restart(folder, self.index)?;
        self.restarted = Some(Mark::now());
        Ok(())
    }

    fn watch(
        &mut self,
        nodes: &Nodes,
        witness: &Ready,
        now: Mark,
        is_loaded: bool,
    ) -> Result<(), CliError> {
        if self.ready.is_none() {
            self.ready = nodes.ready(self.index)?.map(|ready| (now, ready));
        }
        let Some((_, ready)) = self.ready.filter(|_| now.at >= self.next_sighting) else {
            return Ok(());
        };
        if self.is_level() && !is_loaded {
            return Ok(());
        }
        self.next_sighting = now.at.after(SIGHTING_PAUSE);
        let seen = |node: &Ready| {
            let remedy = "look at the logs of the nodes";
            let sample = Sample::take(node.admin, Some(node.pid));
            sample.map_err(|cause| CliError::failed(cause, name(self.index), remedy))
        };
        let (others, sample) = (seen(witness)?, seen(&ready)?);
        self.is_resting = is_loaded && sample.height() >= others.height();
        if self.is_level() {
            return Ok(());
        }
        self.sightings.push(Sighting {
            at: Mark::now(),
            height: sample.height(),
            transactions: sample.transactions_executed(),
            caught_up: sample.heights_caught_up(),
            others: others.height(),
        });
        let first = self.samples.take().map_or_else(|| sample.clone(), |(first, _)| first);
        self.samples = Some((first, sample));
        Ok(())
    }

    fn is_level(&self) -> bool {
        let last = self.sightings.last();
        last.is_some_and(|last| last.height + LEVEL_HEIGHTS_COUNT >= last.others)
    }

    /// The figures, from the chain's headers and the load's answers.
    pub(super) fn report(&self, chain: &[Held], answers: &[Answer]) -> Report {
        let killed = self.killed.or(self.load_ended);
        let end = self.load_ended.into_iter().chain(self.restarted).min_by_key(|mark| mark.at);
        let before = span(self.start.map(|start| start.after(WARM_UP)), killed);
        let dead = span(killed.map(|killed| killed.after(SETTLING)), end);
        let figures = |span| Figures::of(span, chain, answers);
        let before = before.and_then(figures);
        let catch_up = self.catch_up(before.as_ref());
        Report {
            node: name(self.index),
            wiped: self.outage.wipe,
            under_load: self.restarted.is_some_and(|mark| Some(mark) < self.load_ended),
            before,
            dead: dead.and_then(figures),
            catch_up,
        }
    }

    fn catch_up(&self, live: Option<&Figures>) -> Option<CatchUp> {
        let (first, last) = (self.sightings.first()?, self.sightings.last()?);
        let (restarted, (ready, _)) = (self.restarted?, self.ready?);
        let seconds = last.at.seconds_since(first.at);
        let heights = last.height.saturating_sub(first.height);
        let transactions = last.transactions.saturating_sub(first.transactions);
        let (heights_rate, transactions_rate) =
            (rate(heights, seconds), rate(transactions, seconds));
        let usage = self.samples.as_ref().map(|(first, last)| Usage::between(first, last));
        let usage = usage.unwrap_or_default();
        Some(CatchUp {
            cores: Duration::from_nanos(usage.cpu_nanos).as_secs_f64() / seconds.max(0.001),
            usage,
            ready_seconds: ready.seconds_since(restarted),
            level_seconds: last.at.seconds_since(restarted),
            behind_heights: first.others.saturating_sub(first.height),
            heights,
            heights_from_peers: last.caught_up,
            transactions,
            heights_per_second: heights_rate,
            transactions_per_second: transactions_rate,
            heights_ratio: live.map(|live| ratio(heights_rate, live.heights_per_second)),
            transactions_ratio: live
                .map(|live| ratio(transactions_rate, live.transactions_per_second)),
            others_heights_per_second: rate(last.others.saturating_sub(first.others), seconds),
        })
    }
}

impl PartialOrd for Mark {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.at.cmp(&other.at))
    }
}

fn span(from: Option<Mark>, to: Option<Mark>) -> Option<(Mark, Mark)> {
    from.zip(to).filter(|(from, to)| from < to)
}

#[allow(clippy::cast_precision_loss, clippy::as_conversions, reason = "counts of one run")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(0.001)
}

fn ratio(part: f64, whole: f64) -> f64 {
    part / whole.max(0.001)
}

/// What the network did in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    seconds: f64,
    heights_per_second: f64,
    transactions_per_second: f64,
    /// Between the times of two headers.
    height_millis_median: u64,
    height_millis_max: u64,
    p50_nanos: u64,
    p99_nanos: u64,
}

impl Figures {
    /// `None` where there is too little to measure.
    fn of((from, to): (Mark, Mark), chain: &[Held], answers: &[Answer]) -> Option<Self> {
        let is_within = |held: &&Held| {
            held.time_millis >= from.wall_millis && held.time_millis < to.wall_millis
        };
        let held: Vec<&Held> = chain.iter().filter(is_within).collect();
        let (first, rest) = held.split_first()?;
        let last = rest.last()?;
        let mut gaps: Vec<u64> = held
            .windows(2)
            .filter_map(|pair| match pair {
                [one, next] => Some(next.time_millis.saturating_sub(one.time_millis)),
                _ => None,
            })
            .collect();
        gaps.sort_unstable();
        let due = answers.iter().filter(|answer| answer.due >= from.at && answer.due < to.at);
        let mut waits: Vec<u64> = due.map(|answer| answer.at.since(answer.due)).collect();
        waits.sort_unstable();
        let millis = last.time_millis.saturating_sub(first.time_millis);
        let seconds = Duration::from_millis(millis).as_secs_f64();
        let transactions = rest.iter().map(|held| u64::from(held.transactions_count)).sum();
        Some(Self {
            seconds,
            heights_per_second: rate(u64::try_from(rest.len()).ok()?, seconds),
            transactions_per_second: rate(transactions, seconds),
            height_millis_median: quantile(&gaps, 50),
            height_millis_max: quantile(&gaps, 100),
            p50_nanos: quantile(&waits, 50),
            p99_nanos: quantile(&waits, 99),
        })
    }
}

/// The value of ascending `values` that so many of a hundred do not exceed.
fn quantile(values: &[u64], percent: usize) -> u64 {
    let place = (values.len() * percent).div_ceil(100).saturating_sub(1);
    values.get(place).copied().unwrap_or(0)
}

/// How the node came back.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CatchUp {
    /// From its start until it says that it takes transactions.
    ready_seconds: f64,
    /// From its start until it is level.
    level_seconds: f64,
    /// By how many heights it was behind when it was first seen.
    behind_heights: u64,
    /// From then until it was level.
    heights: u64,
    heights_from_peers: u64,
    transactions: u64,
    heights_per_second: f64,
    transactions_per_second: f64,
    /// Of the rate before the outage; `None` where that is not known.
    heights_ratio: Option<f64>,
    transactions_ratio: Option<f64>,
    /// What the others decided meanwhile.
    others_heights_per_second: f64,
    /// Cores that the node kept busy.
    cores: f64,
    /// What it used.
    usage: Usage,
}

/// What an outage did.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    node: String,
    wiped: bool,
    /// Whether the load went on when the node was started again.
    under_load: bool,
    before: Option<Figures>,
    dead: Option<Figures>,
    catch_up: Option<CatchUp>,
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |nanos| Duration::from_nanos(nanos).as_secs_f64() * 1_000.0;
        write!(
            out,
            "{:.2} heights/s, {:.0} tx/s, p50 {:.1} ms, p99 {:.1} ms; a height {} ms, longest {} ms",
            self.heights_per_second,
            self.transactions_per_second,
            millis(self.p50_nanos),
            millis(self.p99_nanos),
            self.height_millis_median,
            self.height_millis_max,
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = if self.wiped { " with its data" } else { "" };
        writeln!(out, "{} was lost{lost} and came back", self.node)?;
        for (what, figures) in [("before it", &self.before), ("without it", &self.dead)] {
            if let Some(figures) = figures {
                writeln!(out, "{what:<14}{figures}")?;
            }
        }
        let Some(catch_up) = &self.catch_up else { return Ok(()) };
        let times = |ratio: Option<f64>| {
            ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.1}x the live rate)"))
        };
        writeln!(
            out,
            "catching up   {:.1} heights/s{}, {:.0} tx/s{}, {}",
            catch_up.heights_per_second,
            times(catch_up.heights_ratio),
            catch_up.transactions_per_second,
            times(catch_up.transactions_ratio),
            if self.under_load {
                format!(
                    "under load; the others {:.1} heights/s",
                    catch_up.others_heights_per_second
                )
            } else {
                "with the load over".to_owned()
            },
        )?;
        writeln!(
            out,
            "              {} heights behind, ready after {:.1} s, level after {:.1} s; {} heights, \
             {} from peers, {} transactions",
            catch_up.behind_heights,
            catch_up.ready_seconds,
            catch_up.level_seconds,
            catch_up.heights,
            catch_up.heights_from_peers,
            catch_up.transactions,
        )?;
        let micros = |nanos: u64| nanos.checked_div(catch_up.transactions).unwrap_or(0) / 1_000;
        let stages = catch_up.usage.stages.iter().take(STAGES_SHOWN_COUNT);
        let stages: Vec<String> =
            stages.map(|stage| format!("{} {}", stage.stage, micros(stage.cpu_nanos))).collect();
        let (cores, cpu) = (catch_up.cores, micros(catch_up.usage.cpu_nanos));
        writeln!(out, "              {cores:.2} cores, {cpu} us/tx: {}", stages.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use hufu_types::{BlockDigest, Digest};

    use super::*;

    fn mark(millis: u64) -> Mark {
        Mark { at: Nanos::from_nanos(millis * 1_000_000), wall_millis: 1_000_000 + millis }
    }

    fn held(millis: u64) -> Held {
        Held {
            block: BlockDigest(Digest([1; 32])),
            state_root: Digest([2; 32]),
            time_millis: 1_000_000 + millis,
            transactions_count: 40,
        }
    }

    #[test]
    fn figures_are_those_of_the_span() {
        let chain: Vec<Held> = [0, 50, 100, 150, 250, 300, 900].map(held).to_vec();
        let answer = |due: u64, wait: u64| Answer {
            due: Nanos::from_nanos(due * 1_000_000),
            at: Nanos::from_nanos((due + wait) * 1_000_000),
        };
        let answers = [answer(10, 999), answer(60, 7), answer(70, 9), answer(350, 999)];
        let figures = Figures::of((mark(50), mark(301)), &chain, &answers).unwrap();
        assert!((figures.heights_per_second - 16.0).abs() < 0.001, "{figures}");
        assert!((figures.transactions_per_second - 640.0).abs() < 0.001, "{figures}");
        assert_eq!((figures.height_millis_median, figures.height_millis_max), (50, 100));
        assert_eq!((figures.p50_nanos, figures.p99_nanos), (7_000_000, 9_000_000));
        assert!(Figures::of((mark(301), mark(800)), &chain, &answers).is_none());
    }
}
