//! Signs the tasks of a run and hands them to the generator: in windows at full speed, just ahead
//! of their time where there is a schedule.
//!
//! ```text
//! full speed   [ sign a chunk on all cores, nothing sent ] -> [ send until all is answered ] ...
//! schedule     sign what is due in a moment -> generator        (sending goes on meanwhile)
//!              expired -> sign once more, due when it first was -^
//! ```
//!
//! There is one schedule for the whole run, and nothing that the node does moves it: a transaction
//! is due at its place, and what that costs is in its latency, whether it waited for the node, for
//! those in flight, or for being signed again. At full speed rates and latencies are those of the
//! windows; signing time is told apart, because a client of a real chain signs on its own machine.

use std::thread;
use std::time::Duration;

use hufu_runtime::clock::{Nanos, monotonic};
use hufu_types::RefusalCode;
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;

use crate::Error;
use crate::cast::Cast;
use crate::generator::{Generator, Pace, Parcel};
use crate::report::RunResult;
use crate::run::{Observer, RunOptions, Stage};
use crate::sign::SignedChunk;
use crate::usage::{Sample, Usage};
use crate::workload::{Scheduled, Task, Workload};

/// Tasks signed and not answered at most: one hour of the market. Some 40 MB of signed bytes.
const BACKLOG_TASKS_COUNT_MAX: usize = 100_000;

/// Tasks of the first window at full speed, while the chain's speed is not known.
const WINDOW_TASKS_COUNT_FIRST: usize = 30_000;

/// Tasks of a window at least: what one frame of the protocol takes.
const WINDOW_TASKS_COUNT_MIN: usize = 256;

/// How far ahead of its time a transaction is signed at most.
const AHEAD_MAX: Duration = Duration::from_secs(1);

/// The part of a signature's least life that may pass before its transaction is due.
const AHEAD_LIVES_DIVISOR: u32 = 4;

/// How long the feeder sleeps at most: what comes due meanwhile is signed together.
const NAP_MAX: Duration = Duration::from_millis(10);

/// And at least, so that signing goes by handfuls at any rate.
const NAP_MIN: Duration = Duration::from_millis(1);

/// Heights by which a last valid height stays below the largest one allowed: the stages of a node
/// learn of a new height one after the other, and a node may lie behind the one that told it.
const VALIDITY_MARGIN_HEIGHTS: u64 = 100;

/// How often a task is signed at most; a chain on which it expires each time will not take it.
pub(crate) const SIGNINGS_COUNT_MAX: u32 = 10;

/// Feeds one run; see the module.
pub(crate) struct Feed<'a> {
    cast: &'a Cast,
    options: &'a RunOptions,
    observer: &'a dyn Observer,
    workload: &'a mut dyn Workload,
    tasks_count: u64,
    result: RunResult,
}

/// Tasks in the order of their times.
struct Schedule {
    pace: Pace,
    start: Nanos,
    /// Time of the first task in the record.
    first_offset: Option<u64>,
    position: u64,
    /// The next task, looked at and not yet taken.
    next: Option<Scheduled>,
}

impl<'a> Feed<'a> {
    pub(crate) fn new(
        cast: &'a Cast,
        options: &'a RunOptions,
        observer: &'a dyn Observer,
        workload: &'a mut dyn Workload,
    ) -> Self {
        let tasks_count = workload.tasks_count();
        let result = RunResult { tasks_count, ..RunResult::default() };
        Self { cast, options, observer, workload, tasks_count, result }
    }

    /// Hands over all tasks and returns when every one has its last word.
    pub(crate) fn run(&mut self, generator: &Generator<'_>) -> Result<(), Error> {
        match self.options.pace {
            Pace::Max => self.windows(generator),
            pace @ (Pace::PerSecond(_) | Pace::Recorded(_)) => self.schedule(generator, pace),
        }
    }

    /// What is known of the run beside counts and latencies.
    pub(crate) fn finish(self) -> RunResult {
        self.result
    }

    fn windows(&mut self, generator: &Generator<'_>) -> Result<(), Error> {
        let mut size = WINDOW_TASKS_COUNT_FIRST;
        let mut again = Vec::new();
        loop {
            let mut tasks = std::mem::take(&mut again);
            let room = size.saturating_sub(tasks.len());
            tasks.extend((&mut *self.workload).take(room).map(|task| Scheduled {
                task,
                due: None,
                signings_count: 0,
            }));
            if tasks.is_empty() {
                return Ok(());
            }
            let sent_count = count(tasks.len());
            let parcel = self.sign(generator, tasks, true)?;
            let (before, started) = (self.sample(), monotonic());
            generator.feed(parcel);
            while generator.unfinished() > 0 {
                generator.check()?;
                self.report(generator);
                thread::park_timeout(NAP_MAX);
            }
            self.end_window(generator, started, before, sent_count);
            again = self.expired(generator);
            self.report(generator);
            size = self.window_size(generator.committed());
        }
    }

    fn schedule(&mut self, generator: &Generator<'_>, pace: Pace) -> Result<(), Error> {
        let (ahead, before) = (self.ahead(), self.sample());
        let start = monotonic().after(ahead);
        let mut schedule = Schedule { pace, start, first_offset: None, position: 0, next: None };
        loop {
            generator.check()?;
            let unfinished = generator.unfinished();
            let mut tasks = self.expired(generator);
            let horizon = monotonic().after(ahead);
            let room = BACKLOG_TASKS_COUNT_MAX.saturating_sub(unfinished);
            while tasks.len() < room
                && let Some(due) = schedule.take(horizon, self.workload)
            {
                tasks.push(due);
            }
            if !tasks.is_empty() {
                let parcel = self.sign(generator, tasks, false)?;
                self.note_lateness(&parcel);
                generator.feed(parcel);
            } else if unfinished == 0 && schedule.peek(self.workload).is_none() {
                break;
            }
            self.report(generator);
            let until = schedule.peek(self.workload).and_then(|task| task.due);
            let nap = until.map_or(NAP_MAX, |due| due.duration_since(monotonic().after(ahead)));
            thread::park_timeout(nap.clamp(NAP_MIN, NAP_MAX));
        }
        self.end_window(generator, start, before, self.tasks_count);
        Ok(())
    }

    /// Signs tasks as late as they may be; `is_shown` if nothing else goes on meanwhile.
    fn sign(
        &mut self,
        generator: &Generator<'_>,
        tasks: Vec<Scheduled>,
        is_shown: bool,
    ) -> Result<Parcel, Error> {
        let (started, total) = (monotonic(), count(tasks.len()));
        let progress = |done| {
            if is_shown {
                self.observer.progress(Stage::Signing, done, total);
            }
        };
        let validity = TX_VALIDITY_HEIGHTS_MAX - VALIDITY_MARGIN_HEIGHTS;
        let valid_until = generator.height().saturating_add(validity);
        let mut chunk = SignedChunk::new();
        chunk.sign(self.cast, self.options.send.chain_id, valid_until, &tasks, &progress)?;
        self.result.signing_nanos += monotonic().since(started);
        Ok(Parcel { chunk, tasks, valid_until })
    }

    /// What expired and is worth signing once more; the rest was refused for good.
    fn expired(&mut self, generator: &Generator<'_>) -> Vec<Scheduled> {
        let mut again = Vec::new();
        for task in generator.take_expired() {
            let signings_count = task.signings_count + 1;
            if signings_count < SIGNINGS_COUNT_MAX {
                self.result.resigned += 1;
                again.push(Scheduled { signings_count, ..task });
            } else {
                let code = RefusalCode::Expired.text().to_owned();
                *self.result.counts.refused.entry(code).or_default() += 1;
            }
        }
        again
    }

    fn note_lateness(&mut self, parcel: &Parcel) {
        let fresh = parcel.tasks.iter().filter(|task| task.signings_count == 0);
        let due = fresh.filter_map(|task| task.due).min();
        let late = due.map_or(0, |due| monotonic().since(due));
        self.result.signing_late_nanos = self.result.signing_late_nanos.max(late);
    }

    fn end_window(
        &mut self,
        generator: &Generator<'_>,
        started: Nanos,
        before: Option<Vec<Sample>>,
        tasks_count: u64,
    ) {
        self.result.windows += 1;
        self.result.sending_nanos += generator.last_answer().since(started);
        if let Some((before, after)) = before.zip(self.sample()) {
            self.result.usage_tasks += tasks_count;
            self.result.usages.resize(after.len(), Usage::default());
            let spans = before.iter().zip(&after);
            for (sum, (before, after)) in self.result.usages.iter_mut().zip(spans) {
                sum.add(&Usage::between(before, after));
            }
        }
    }

    fn report(&self, generator: &Generator<'_>) {
        let done = generator.finished() + self.result.counts.refused_count();
        self.observer.progress(Stage::Sending, done, self.tasks_count);
    }

    /// A node that is just being started again has no sample to give; the window is then left out
    /// of the usage of all.
    fn sample(&self) -> Option<Vec<Sample>> {
        let samples = self.options.observed.iter().map(|node| {
            let with_threads = Sample::take(node.admin, node.pid);
            with_threads.or_else(|_| Sample::take(node.admin, None)).ok()
        });
        samples.collect::<Option<Vec<_>>>().filter(|samples| !samples.is_empty())
    }

    /// The least time that the heights last in which a signature is valid.
    fn signature_life(&self) -> Duration {
        let heights = u32::try_from(TX_VALIDITY_HEIGHTS_MAX).unwrap_or(u32::MAX);
        self.options.block_interval.max(Duration::from_millis(1)).saturating_mul(heights)
    }

    fn ahead(&self) -> Duration {
        AHEAD_MAX.min(self.signature_life() / AHEAD_LIVES_DIVISOR)
    }

    /// What the chain takes in half the time that signatures last, as fast as it was so far.
    fn window_size(&self, committed: u64) -> usize {
        let product = u128::from(committed) * (self.signature_life() / 2).as_nanos();
        let size = product.checked_div(u128::from(self.result.sending_nanos)).unwrap_or(0);
        let size = usize::try_from(size).unwrap_or(BACKLOG_TASKS_COUNT_MAX);
        size.clamp(WINDOW_TASKS_COUNT_MIN, BACKLOG_TASKS_COUNT_MAX)
    }
}

impl Schedule {
    fn peek(&mut self, workload: &mut dyn Workload) -> Option<Scheduled> {
        if self.next.is_none() {
            let task = workload.next()?;
            let due = Some(self.due(&task));
            self.position += 1;
            self.next = Some(Scheduled { task, due, signings_count: 0 });
        }
        self.next
    }

    /// The next task, if it is due before `horizon`.
    fn take(&mut self, horizon: Nanos, workload: &mut dyn Workload) -> Option<Scheduled> {
        let is_near = self.peek(workload)?.due.is_none_or(|due| due <= horizon);
        if is_near { self.next.take() } else { None }
    }

    /// When the next task is to be sent, from its place in the run alone.
    fn due(&mut self, task: &Task) -> Nanos {
        let nanos = match self.pace {
            Pace::Max => 0,
            Pace::PerSecond(rate) => {
                let nanos = u128::from(self.position) * 1_000_000_000 / u128::from(rate.max(1));
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
            Pace::Recorded(speed) => {
                let first = *self.first_offset.get_or_insert(task.offset_nanos);
                task.offset_nanos.saturating_sub(first) / speed.max(1)
            }
        };
        self.start.after(Duration::from_nanos(nanos))
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
