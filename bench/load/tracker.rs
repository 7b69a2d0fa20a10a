//! What became of each transaction of one connection's share: exactly one last word for each.
//!
//! ```text
//! Idle --submitted--> Flying --receipt--> Done
//!                       |--refused: overloaded--> Queued (sent again), otherwise --> Done
//!                       |--connection lost--> Queued (sent again)
//!                                               |--refused: duplicate--> Waiting --receipt--> Done
//! ```
//!
//! A plain state machine without sockets or threads: the generator's writer and reader share one
//! behind a lock. A transaction is known by its place in the share, a frame by its request id, so
//! an answer finds its transaction without a search.

use std::collections::{BTreeMap, HashMap, VecDeque};

use hdrhistogram::Histogram;
use hufu_network::ErrorCode;
use hufu_runtime::clock::Nanos;
use hufu_types::{Receipt, RefusalCode};
use serde::Serialize;

use crate::Error;

/// Longest latency the histogram tells apart: one hour.
const LATENCY_NANOS_MAX: u64 = 3_600_000_000_000;

/// Significant digits of the histogram: better than 0.1 %.
const LATENCY_DIGITS: u8 = 3;

/// An empty histogram of latencies in nanoseconds.
///
/// # Errors
/// [`Error::Histogram`] if the bounds above were no bounds of a histogram.
pub fn latencies() -> Result<Histogram<u64>, Error> {
    Histogram::new_with_bounds(1_000, LATENCY_NANOS_MAX, LATENCY_DIGITS)
        .map_err(|cause| Error::Histogram { cause: cause.to_string() })
}

/// What is counted on the way. Every transaction has one last word: `committed + failed + refused +
/// unanswered`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Receipts of success.
    pub committed: u64,
    /// Receipts of failure, by code.
    pub failed: BTreeMap<String, u64>,
    /// Refused before inclusion for good, by code.
    pub refused: BTreeMap<String, u64>,
    /// Transactions without a last word.
    pub unanswered: u64,
    /// Times the node was too busy and the transaction was sent again.
    pub overloaded: u64,
    /// Times a transaction was sent again after its connection was lost.
    pub resubmitted: u64,
    /// Of those, how many the node knew already.
    pub duplicates: u64,
    /// Connections lost and made again.
    pub reconnects: u64,
    /// Second receipts for one transaction; any is a fault of the node.
    pub receipts_repeated: u64,
    /// Receipts that name another transaction or chain, or answers to what was never asked; any is
    /// a fault of the node.
    pub answers_foreign: u64,
}

impl Counts {
    /// All failures together.
    #[must_use]
    pub fn failed_count(&self) -> u64 {
        self.failed.values().sum()
    }

    /// All refusals together.
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Whether each transaction has exactly one receipt, of success, and no answer was out of
    /// place.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty()
            && self.refused.is_empty()
            && self.unanswered == 0
            && self.receipts_repeated == 0
            && self.answers_foreign == 0
    }

    /// Adds the counts of another share or window.
    pub fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        for (mine, others) in
            [(&mut self.failed, &other.failed), (&mut self.refused, &other.refused)]
        {
            for (code, count) in others {
                *mine.entry(code.clone()).or_default() += count;
            }
        }
        self.unanswered += other.unanswered;
        self.overloaded += other.overloaded;
        self.resubmitted += other.resubmitted;
        self.duplicates += other.duplicates;
        self.reconnects += other.reconnects;
        self.receipts_repeated += other.receipts_repeated;
        self.answers_foreign += other.answers_foreign;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Flying,
    Waiting,
    Queued,
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    state: State,
    is_resubmitted: bool,
    due: Nanos,
    id: hufu_types::TxId,
}

/// The transactions of one frame that have no last word yet.
#[derive(Debug)]
struct Frame {
    places: Vec<u32>,
    left: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Tracker {
    items: Vec<Item>,
    frames: HashMap<u64, Frame>,
    /// Emptied lists of places, kept for the next frames.
    spare: Vec<Vec<u32>>,
    queued: VecDeque<u32>,
    to_wait: VecDeque<u32>,
    next: usize,
    flying: usize,
    waiting: usize,
    done: usize,
    expired: Vec<u32>,
    counts: Counts,
    latency: Histogram<u64>,
    last_answer: Nanos,
    last_overload: Option<Nanos>,
}

impl Tracker {
    /// A share whose transactions have these ids.
    ///
    /// # Errors
    /// [`Error::Histogram`], which has no reason to happen.
    pub fn new(ids: impl Iterator<Item = hufu_types::TxId>) -> Result<Self, Error> {
        let item = |id| Item { state: State::Idle, is_resubmitted: false, due: Nanos::ZERO, id };
        Ok(Self {
            items: ids.map(item).collect(),
            frames: HashMap::new(),
            spare: Vec::new(),
            queued: VecDeque::new(),
            to_wait: VecDeque::new(),
            next: 0,
            flying: 0,
            waiting: 0,
            done: 0,
            expired: Vec::new(),
            counts: Counts::default(),
            latency: latencies()?,
            last_answer: Nanos::ZERO,
            last_overload: None,
        })
    }

    /// Transactions without a last word.
    #[must_use]
    pub const fn unfinished(&self) -> usize {
        self.items.len() - self.done
    }

    /// Transactions with a last word.
    #[must_use]
    pub const fn done(&self) -> usize {
        self.done
    }

    /// Transactions sent and not answered.
    #[must_use]
    pub const fn flying(&self) -> usize {
        self.flying
    }

    /// Waits sent and not answered.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Place of the next transaction that was never sent.
    #[must_use]
    pub fn next(&self) -> Option<usize> {
        (self.next < self.items.len()).then_some(self.next)
    }

    /// When the node last answered anything.
    #[must_use]
    pub const fn last_answer(&self) -> Nanos {
        self.last_answer
    }

    /// When the node last said that it was overloaded.
    #[must_use]
    pub const fn last_overload(&self) -> Option<Nanos> {
        self.last_overload
    }

    /// Whether transactions are to be sent again.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Notes that the connection is fresh, so that silence is counted from now on.
    pub const fn connected(&mut self, now: Nanos) {
        self.last_answer = now;
    }

    /// Moves up to `max` transactions to be sent again into `places`.
    pub fn take_queued(&mut self, max: usize, places: &mut Vec<u32>) {
        let count = max.min(self.queued.len());
        places.extend(self.queued.drain(..count));
    }

    /// The next transaction to be waited for.
    pub fn take_wait(&mut self) -> Option<u32> {
        self.to_wait.pop_front()
    }

    /// Gives the next `count` transactions that were never sent; `due` says when each should have
    /// been.
    pub fn take_new(&mut self, count: usize, places: &mut Vec<u32>, due: impl Fn(usize) -> Nanos) {
        let end = (self.next + count).min(self.items.len());
        for place in self.next..end {
            self.items[place].due = due(place);
            places.push(u32::try_from(place).unwrap_or(u32::MAX));
        }
        self.next = end;
    }

    /// Takes back places that did not fit the frame; they go first next time.
    pub fn put_back(&mut self, places: impl DoubleEndedIterator<Item = u32>) {
        for place in places.rev() {
            self.queued.push_front(place);
        }
    }

    /// Notes that the frame `request` carries these transactions. To be called before the frame is
    /// sent.
    pub fn submitted(&mut self, request: u64, places: &[u32]) {
        for place in places {
            let item = &mut self.items[index(*place)];
            let is_fresh = matches!(item.state, State::Idle | State::Queued);
            assert!(is_fresh, "a transaction flies once at a time");
            item.state = State::Flying;
        }
        self.flying += places.len();
        self.open(request, places);
    }

    /// Notes that the frame `request` waits for this transaction. To be called before the frame is
    /// sent.
    pub fn waits(&mut self, request: u64, place: u32) {
        assert!(self.items[index(place)].state == State::Waiting, "only known ones are waited for");
        self.waiting += 1;
        self.open(request, &[place]);
    }

    fn open(&mut self, request: u64, places: &[u32]) {
        let mut list = self.spare.pop().unwrap_or_default();
        list.extend_from_slice(places);
        let earlier = self.frames.insert(request, Frame { left: places.len(), places: list });
        assert!(earlier.is_none(), "request ids grow");
    }

    fn place(&self, request: u64, position: u32) -> Option<u32> {
        self.frames.get(&request)?.places.get(index(position)).copied()
    }

    /// Takes one transaction out of its frame.
    fn close(&mut self, request: u64) {
        let Some(frame) = self.frames.get_mut(&request) else { return };
        assert!(frame.left > 0, "a frame is forgotten with its last transaction");
        frame.left -= 1;
        if frame.left == 0
            && let Some(mut frame) = self.frames.remove(&request)
        {
            frame.places.clear();
            self.spare.push(frame.places);
        }
    }

    fn land(&mut self, place: u32, state: State) {
        let item = &mut self.items[index(place)];
        match item.state {
            State::Flying => self.flying -= 1,
            State::Waiting => self.waiting -= 1,
            State::Idle | State::Queued | State::Done => {}
        }
        item.state = state;
        self.done += usize::from(state == State::Done);
    }

    /// Takes a status; `None` says that the node took the transaction.
    pub fn status(
        &mut self,
        request: u64,
        position: u32,
        refusal: Option<RefusalCode>,
        now: Nanos,
    ) {
        self.last_answer = now;
        let Some(place) = self.place(request, position) else {
            self.counts.answers_foreign += 1;
            return;
        };
        let Some(code) = refusal else { return };
        let Item { state, is_resubmitted, .. } = self.items[index(place)];
        if !matches!(state, State::Flying | State::Waiting) {
            self.counts.answers_foreign += 1;
            return;
        }
        let was_waiting = state == State::Waiting;
        match code {
            RefusalCode::Duplicate if is_resubmitted && !was_waiting => {
                self.counts.duplicates += 1;
                self.land(place, State::Waiting);
                self.to_wait.push_back(place);
            }
            RefusalCode::Overloaded | RefusalCode::Stopping if was_waiting => {
                // The state stays; only the request is over.
                self.waiting -= 1;
                self.to_wait.push_back(place);
                self.last_overload = Some(now);
            }
            RefusalCode::Overloaded | RefusalCode::Stopping => {
                self.counts.overloaded += 1;
                self.last_overload = Some(now);
                self.land(place, State::Queued);
                self.queued.push_back(place);
            }
            RefusalCode::Expired => {
                self.expired.push(place);
                self.refuse(place, code);
            }
            _ => self.refuse(place, code),
        }
        self.close(request);
    }

    fn refuse(&mut self, place: u32, code: RefusalCode) {
        *self.counts.refused.entry(code.text().to_owned()).or_default() += 1;
        self.land(place, State::Done);
    }

    /// Takes a receipt; true when it is the first of its transaction.
    pub fn receipt(&mut self, request: u64, position: u32, receipt: &Receipt, now: Nanos) -> bool {
        self.last_answer = now;
        let Some(place) = self.place(request, position) else {
            self.counts.answers_foreign += 1;
            return false;
        };
        let item = self.items[index(place)];
        if item.state == State::Done {
            self.counts.receipts_repeated += 1;
            return false;
        }
        let is_awaited = matches!(item.state, State::Flying | State::Waiting);
        if !is_awaited || item.id != receipt.id {
            self.counts.answers_foreign += 1;
            return false;
        }
        match receipt.outcome() {
            Ok(Ok(())) => self.counts.committed += 1,
            Ok(Err(failure)) => {
                *self.counts.failed.entry(failure.code.text().to_owned()).or_default() += 1;
            }
            Err(_) => {
                self.counts.answers_foreign += 1;
                return false;
            }
        }
        self.latency.saturating_record(now.since(item.due));
        self.land(place, State::Done);
        self.close(request);
        true
    }

    /// Takes an error that ends a request but not the connection, such as one wait too many.
    pub fn error(&mut self, request: u64, code: ErrorCode, now: Nanos) {
        self.last_answer = now;
        let Some(place) = self.place(request, 0) else {
            self.counts.answers_foreign += 1;
            return;
        };
        if self.items[index(place)].state != State::Waiting {
            self.counts.answers_foreign += 1;
            return;
        }
        if code == ErrorCode::NotFound {
            self.land(place, State::Queued);
            self.queued.push_back(place);
        } else {
            self.waiting -= 1;
            self.to_wait.push_back(place);
            self.last_overload = Some(now);
        }
        self.close(request);
    }

    /// Forgets all frames: what flew or waited is sent again over the next connection.
    pub fn connection_lost(&mut self) {
        self.counts.reconnects += 1;
        self.frames.clear();
        self.to_wait.clear();
        (self.flying, self.waiting) = (0, 0);
        for (place, item) in (0_u32..).zip(&mut self.items) {
            if matches!(item.state, State::Flying | State::Waiting) {
                item.state = State::Queued;
                item.is_resubmitted = true;
                self.counts.resubmitted += 1;
                self.queued.push_back(place);
            }
        }
    }

    /// Ends the share: counts, latencies, and the places of transactions refused because their last
    /// height had passed.
    #[must_use]
    pub fn finish(mut self) -> (Counts, Histogram<u64>, Vec<u32>) {
        self.counts.unanswered = u64::try_from(self.unfinished()).unwrap_or(u64::MAX);
        (self.counts, self.latency, self.expired)
    }
}

fn index(place: u32) -> usize {
    hufu_types::codec::index(place)
}

#[cfg(test)]
mod tests;
