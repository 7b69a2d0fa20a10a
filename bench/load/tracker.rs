//! What became of each transaction of one connection: exactly one last word for each.
//!
//! ```text
//! Idle --submitted--> Flying --receipt--> Done
//!                       |--refused: overloaded--> Queued (sent again), otherwise --> Done
//!                       |--refused: expired--> Done (given back, to be signed once more)
//!                       |--connection lost--> Queued (sent again)
//!                                               |--refused: duplicate--> Waiting --receipt--> Done
//! ```
//!
//! A plain state machine without sockets or threads: the generator's writer and reader share one
//! behind a lock. A transaction is known by its place among all that were ever given to the
//! connection, a frame by its request id, so an answer finds its transaction without a search.
//! Places whose predecessors are all done are forgotten, so that a long run keeps no more than what
//! is under way.

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

/// When a transaction was due and when its receipt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it was due, or first sent where no schedule said when.
    pub due: Nanos,
    /// When its receipt came.
    pub at: Nanos,
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
    /// `None` until it is first sent, where no schedule says when that is to be.
    due: Option<Nanos>,
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
    /// Place of the first of `items`; all before it are done.
    base: usize,
    items: VecDeque<Item>,
    /// Never sent, in the order they are to be.
    fresh: VecDeque<u32>,
    frames: HashMap<u64, Frame>,
    /// Emptied lists of places, kept for the next frames.
    spare: Vec<Vec<u32>>,
    queued: VecDeque<u32>,
    to_wait: VecDeque<u32>,
    flying: usize,
    waiting: usize,
    unfinished: usize,
    finished: u64,
    expired: Vec<(u32, Nanos)>,
    counts: Counts,
    latency: Histogram<u64>,
    /// Each receipt, where the run wants to look at parts of its time.
    answers: Option<Vec<Answer>>,
    last_answer: Nanos,
    silent_since: Nanos,
    last_overload: Option<Nanos>,
}

impl Tracker {
    /// A connection without transactions.
    ///
    /// # Errors
    /// [`Error::Histogram`], which has no reason to happen.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            base: 0,
            items: VecDeque::new(),
            fresh: VecDeque::new(),
            frames: HashMap::new(),
            spare: Vec::new(),
            queued: VecDeque::new(),
            to_wait: VecDeque::new(),
            flying: 0,
            waiting: 0,
            unfinished: 0,
            finished: 0,
            expired: Vec::new(),
            counts: Counts::default(),
            latency: latencies()?,
            answers: None,
            last_answer: Nanos::ZERO,
            silent_since: Nanos::ZERO,
            last_overload: None,
        })
    }

    /// Keeps when each transaction was due and answered from here on: sixteen bytes each.
    pub fn keep_answers(&mut self) {
        self.answers = Some(Vec::new());
    }

    /// What was kept since then.
    #[must_use]
    pub fn take_answers(&mut self) -> Vec<Answer> {
        self.answers.take().unwrap_or_default()
    }

    /// Adds a transaction and returns its place. `due` is when it is or was to be sent, from which
    /// its latency runs; without it that is the moment it is first sent. What `is_late` goes before
    /// all that was never sent.
    pub fn add(&mut self, id: hufu_types::TxId, due: Option<Nanos>, is_late: bool) -> u32 {
        let place = u32::try_from(self.end()).unwrap_or(u32::MAX);
        assert!(place < u32::MAX, "a run has fewer than four thousand million transactions");
        let state = if is_late { State::Queued } else { State::Idle };
        self.items.push_back(Item { state, is_resubmitted: false, due, id });
        self.unfinished += 1;
        if is_late {
            self.queued.push_back(place);
        } else {
            self.fresh.push_back(place);
        }
        place
    }

    /// The place that the next transaction gets.
    #[must_use]
    pub fn end(&self) -> usize {
        self.base + self.items.len()
    }

    /// Forgets what nobody asks for any more and returns the first place that is still known.
    /// Nothing is forgotten while expired transactions wait to be taken.
    pub fn forget_done(&mut self) -> usize {
        if self.expired.is_empty() {
            while self.items.front().is_some_and(|item| item.state == State::Done) {
                self.items.pop_front();
                self.base += 1;
            }
        }
        self.base
    }

    /// Transactions that are to be sent or answered.
    #[must_use]
    pub const fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Transactions with a last word.
    #[must_use]
    pub const fn finished(&self) -> u64 {
        self.finished
    }

    /// Transactions committed.
    #[must_use]
    pub const fn committed(&self) -> u64 {
        self.counts.committed
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

    /// When the next transaction that was never sent is to be; [`Nanos::ZERO`] for at once.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        let item = self.item(*self.fresh.front()?)?;
        Some(item.due.unwrap_or(Nanos::ZERO))
    }

    fn item(&self, place: u32) -> Option<&Item> {
        self.items.get(index(place).checked_sub(self.base)?)
    }

    fn item_mut(&mut self, place: u32) -> &mut Item {
        let known = index(place).checked_sub(self.base).and_then(|at| self.items.get_mut(at));
        let Some(item) = known else { unreachable!("what is not done is not forgotten") };
        item
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

    /// Since when the node has been silent although it owes answers.
    #[must_use]
    pub const fn silent_since(&self) -> Nanos {
        self.silent_since
    }

    /// Notes that the node owes nothing or the connection is fresh: silence is counted from now on.
    pub const fn owes_nothing(&mut self, now: Nanos) {
        self.silent_since = now;
    }

    const fn answered(&mut self, now: Nanos) {
        (self.last_answer, self.silent_since) = (now, now);
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

    /// Moves up to `max` transactions that were never sent and are due into `places`.
    pub fn take_new(&mut self, max: usize, now: Nanos, places: &mut Vec<u32>) {
        for _ in 0..max {
            if self.next_due().is_none_or(|due| due > now) {
                return;
            }
            let Some(place) = self.fresh.pop_front() else { return };
            self.item_mut(place).due.get_or_insert(now);
            places.push(place);
        }
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
            let item = self.item_mut(*place);
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
        let is_known = self.item(place).is_some_and(|item| item.state == State::Waiting);
        assert!(is_known, "only known ones are waited for");
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
        let item = self.item_mut(place);
        let before = std::mem::replace(&mut item.state, state);
        match before {
            State::Flying => self.flying -= 1,
            State::Waiting => self.waiting -= 1,
            State::Idle | State::Queued | State::Done => {}
        }
        self.unfinished -= usize::from(state == State::Done);
    }

    fn finish_one(&mut self, place: u32) {
        self.finished += 1;
        self.land(place, State::Done);
    }

    /// Takes a status; `None` says that the node took the transaction.
    pub fn status(
        &mut self,
        request: u64,
        position: u32,
        refusal: Option<RefusalCode>,
        now: Nanos,
    ) {
        self.answered(now);
        let Some(place) = self.place(request, position) else {
            self.counts.answers_foreign += 1;
            return;
        };
        let Some(code) = refusal else { return };
        let known = self.item(place).map(|item| (item.state, item.is_resubmitted, item.due));
        let (state, is_resubmitted, due) = known.unwrap_or((State::Done, false, None));
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
                // Refused for its age, it was not and will not be included: no last word yet.
                self.expired.push((place, due.unwrap_or(now)));
                self.land(place, State::Done);
            }
            _ => self.refuse(place, code),
        }
        self.close(request);
    }

    fn refuse(&mut self, place: u32, code: RefusalCode) {
        *self.counts.refused.entry(code.text().to_owned()).or_default() += 1;
        self.finish_one(place);
    }

    /// Takes a receipt; true when it is the first of its transaction.
    pub fn receipt(&mut self, request: u64, position: u32, receipt: &Receipt, now: Nanos) -> bool {
        self.answered(now);
        let Some(place) = self.place(request, position) else {
            self.counts.answers_foreign += 1;
            return false;
        };
        let known = self.item(place).copied();
        let Some(item) = known.filter(|item| item.state != State::Done) else {
            self.counts.receipts_repeated += 1;
            return false;
        };
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
        let due = item.due.unwrap_or(now);
        self.latency.saturating_record(now.since(due));
        if let Some(answers) = &mut self.answers {
            answers.push(Answer { due, at: now });
        }
        self.finish_one(place);
        self.close(request);
        true
    }

    /// Takes an error that ends a request but not the connection, such as one wait too many.
    pub fn error(&mut self, request: u64, code: ErrorCode, now: Nanos) {
        self.answered(now);
        let Some(place) = self.place(request, 0) else {
            self.counts.answers_foreign += 1;
            return;
        };
        if self.item(place).is_none_or(|item| item.state != State::Waiting) {
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
        for (place, item) in (self.base..).zip(&mut self.items) {
            if matches!(item.state, State::Flying | State::Waiting) {
                item.state = State::Queued;
                item.is_resubmitted = true;
                self.counts.resubmitted += 1;
                self.queued.push_back(u32::try_from(place).unwrap_or(u32::MAX));
            }
        }
    }

    /// Takes the transactions that were refused because their last height had passed: where they
    /// are and when they were due. They have no last word here; whoever takes them sees to it.
    pub fn take_expired(&mut self) -> Vec<(u32, Nanos)> {
        std::mem::take(&mut self.expired)
    }

    /// Ends the connection's part: counts and latencies.
    #[must_use]
    pub fn finish(mut self) -> (Counts, Histogram<u64>) {
        let unanswered = self.unfinished + self.expired.len();
        self.counts.unanswered = u64::try_from(unanswered).unwrap_or(u64::MAX);
        (self.counts, self.latency)
    }
}

fn index(place: u32) -> usize {
    hufu_types::codec::index(place)
}

#[cfg(test)]
mod tests;
