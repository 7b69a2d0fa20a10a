//! Sends signed transactions over several connections and gathers the last word on each. With
//! several nodes, each broker talks to one of them, as [`node_of`] says.
//!
//! ```text
//! Parcel -> its part of each connection -> writer --frames--> node
//!                          Tracker <- reader <--statuses, receipts--/
//! ```
//!
//! The loop is open: where a schedule says when a transaction is due it is sent then, whether or
//! not earlier ones were answered, and its latency runs from then, so that a stalled node cannot
//! hide its stall (no coordinated omission). Without one it is due when it is sent, and the bounded
//! number in flight pushes back.
//!
//! The connections last for the whole run, whoever feeds them: [`Generator::feed`] may be called
//! while earlier parcels are under way. A lost connection is made again and everything unanswered
//! is sent again; the node knows a transaction by its id, and what it knows already is waited for.
//! Two threads per connection, a writer and a reader, share one [`Tracker`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use hufu_network::message::request::Wait;
use hufu_network::{
    Client, ClientConfig, ClientError, ClientMessage, ClientReceiver, ClientSender, Incoming,
    ServerMessage, WaitFor,
};
use hufu_runtime::clock::{Nanos, monotonic};
use hufu_types::codec::index;
use hufu_types::{ChainId, Strength};

use crate::Error;
use crate::receipts::ReceiptFile;
use crate::sign::{Signed, SignedChunk};
use crate::tracker::{Answer, Counts, Tracker, latencies};
use crate::workload::{Role, Scheduled, Task};

/// Longest sleep of a thread that waits for the other or for the schedule.
const NAP_MAX: Duration = Duration::from_millis(50);

/// Pause after the node said that it is overloaded.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(5);

/// Pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How fast transactions are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the node takes them.
    Max,
    /// Transactions a second, evenly spaced, all connections together.
    PerSecond(u64),
    /// At the times recorded in the input, this many times as fast.
    Recorded(u64),
}

/// How a load is sent.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// Client addresses of the nodes; [`node_of`] says who talks to which.
    pub nodes: Vec<SocketAddr>,
    /// The chain; a node of another one is refused.
    pub chain_id: ChainId,
    /// Connections, all nodes together, which have them in turn; each has at least one.
    pub connections_count: u16,
    /// Transactions in flight on one connection at most; the node may allow fewer.
    pub in_flight_count_max: u32,
    /// Transactions in one frame at most; the node may allow fewer.
    pub frame_transactions_count_max: u32,
    /// Which receipt is waited for.
    pub strength: Strength,
    /// Whether the time of each answer is kept, for looks at parts of the run.
    pub keeps_answers: bool,
    /// How long a node may be away before the run is given up; restarts of nodes fit in.
    pub reconnect_wait: Duration,
    /// How long a node may be silent while it owes answers before the run is given up.
    pub stall_wait: Duration,
}

impl SendOptions {
    /// Two connections to one node with as much in flight as keeps a fast node busy.
    #[must_use]
    pub fn new(node: SocketAddr, chain_id: ChainId) -> Self {
        Self::over(vec![node], chain_id)
    }

    /// The same for several nodes.
    #[must_use]
    pub const fn over(nodes: Vec<SocketAddr>, chain_id: ChainId) -> Self {
        Self {
            nodes,
            chain_id,
            connections_count: 2,
            in_flight_count_max: 8_192,
            frame_transactions_count_max: 256,
            strength: Strength::Committed,
            keeps_answers: false,
            reconnect_wait: Duration::from_secs(60),
            stall_wait: Duration::from_secs(60),
        }
    }
}

/// Signed transactions to be sent, with what is known of each.
#[derive(Debug)]
pub struct Parcel {
    /// The bytes.
    pub chunk: SignedChunk,
    /// What was signed and when it is due, in the order of the chunk.
    pub tasks: Vec<Scheduled>,
    /// Last valid height of all of them.
    pub valid_until: u64,
}

/// Which of `nodes_count` nodes gets a task: a broker's own always the same one, as a real broker
/// talks to one node; those of the clearing house each in turn, since no settlement needs another.
#[must_use]
pub fn node_of(task: &Task, nodes_count: usize) -> usize {
    assert!(nodes_count > 0, "somebody takes transactions");
    let number = match task.role {
        Role::Operator => 0,
        Role::Broker(number) => u64::from(number),
        Role::ClearingHouse => task.nonce,
    };
    let count = u64::try_from(nodes_count).unwrap_or(u64::MAX);
    usize::try_from(number % count).unwrap_or(0)
}

/// One connection's part of a parcel.
struct Part {
    parcel: Arc<Parcel>,
    /// Indices in the parcel.
    indices: Vec<u32>,
    /// Place in the tracker of the part's first transaction.
    place: usize,
    /// Place behind its last.
    end: usize,
}

impl Part {
    /// Index in the parcel of the transaction at `place`.
    fn at(&self, place: usize) -> Option<usize> {
        let index = self.indices.get(place.checked_sub(self.place)?)?;
        Some(hufu_types::codec::index(*index))
    }
}

/// The connections of a run; see the module.
pub struct Generator<'a> {
    shares: Vec<Share<'a>>,
    /// Transactions fed to each node, so that its connections take turns in small parcels too.
    fed: Vec<AtomicUsize>,
    height: AtomicU64,
}

/// One connection and all that it was given.
struct Share<'a> {
    options: &'a SendOptions,
    receipts: Option<&'a ReceiptFile>,
    node: SocketAddr,
    number: usize,
    state: Mutex<Shared>,
    changed: Condvar,
}

struct Shared {
    tracker: Tracker,
    parts: VecDeque<Part>,
    is_down: bool,
    /// Nothing more is coming.
    is_over: bool,
    /// Nobody wants what is still under way.
    is_abandoned: bool,
    fault: Option<Error>,
}

impl Shared {
    fn part(&self, place: u32) -> Option<&Part> {
        let place = index(place);
        let number = self.parts.partition_point(|part| part.end <= place);
        self.parts.get(number).filter(|part| part.place <= place)
    }

    /// The parcel that holds the transaction at `place`, and its index there.
    fn locate(&self, place: u32) -> Option<(&Arc<Parcel>, usize)> {
        let part = self.part(place)?;
        Some((&part.parcel, part.at(index(place))?))
    }

    fn signed(&self, place: u32) -> Option<Signed<'_>> {
        let (parcel, at) = self.locate(place)?;
        parcel.chunk.get(at)
    }
}

impl<'a> Generator<'a> {
    /// Prepares the connections; `height` is that of the chain.
    ///
    /// # Errors
    /// [`Error::Nodes`] without node or connection.
    pub fn new(
        options: &'a SendOptions,
        receipts: Option<&'a ReceiptFile>,
        height: u64,
    ) -> Result<Self, Error> {
        if options.nodes.is_empty() || options.connections_count == 0 {
            return Err(Error::Nodes);
        }
        let nodes_count = options.nodes.len();
        let count = usize::from(options.connections_count).max(nodes_count);
        let mut shares = Vec::with_capacity(count);
        for (number, node) in (0..count).zip(options.nodes.iter().cycle()) {
            let mut tracker = Tracker::new()?;
            if options.keeps_answers {
                tracker.keep_answers();
            }
            let state = Shared {
                tracker,
                parts: VecDeque::new(),
                is_down: false,
                is_over: false,
                is_abandoned: false,
                fault: None,
            };
            shares.push(Share {
                options,
                receipts,
                node: *node,
                number,
                state: Mutex::new(state),
                changed: Condvar::new(),
            });
        }
        let fed = (0..nodes_count).map(|_| AtomicUsize::new(0)).collect();
        Ok(Self { shares, fed, height: AtomicU64::new(height) })
    }

    /// Starts the connections, lets `feed` hand them parcels, and returns when every transaction
    /// has its last word; at once when `feed` fails.
    ///
    /// # Errors
    /// What `feed` brings, or what a connection does: [`Error::Unreachable`], [`Error::Stalled`],
    /// [`Error::Thread`], [`Error::Receipts`].
    pub fn run<T>(&self, feed: impl FnOnce(&Self) -> Result<T, Error>) -> Result<T, Error> {
        let fed = thread::scope(|scope| {
            for share in &self.shares {
                let named = thread::Builder::new().name(format!("load-send-{}", share.number));
                let run = move || share.run(&self.height);
                if let Err(cause) = named.spawn_scoped(scope, run) {
                    self.end(true);
                    return Err(Error::Thread(cause));
                }
            }
            let fed = feed(self);
            self.end(fed.is_err());
            fed
        })?;
        self.check()?;
        Ok(fed)
    }

    fn end(&self, is_abandoned: bool) {
        for share in &self.shares {
            let mut state = share.lock();
            state.is_over = true;
            state.is_abandoned |= is_abandoned;
            drop(state);
            share.changed.notify_all();
        }
    }

    /// Hands a parcel to the connections, each its part.
    pub fn feed(&self, parcel: Parcel) {
        let count = parcel.chunk.count();
        assert!(count == parcel.tasks.len(), "one task for each transaction");
        let lists = self.divide(&parcel.tasks);
        let parcel = Arc::new(parcel);
        for (share, indices) in self.shares.iter().zip(lists) {
            let mut state = share.lock();
            let known = state.tracker.forget_done();
            while state.parts.front().is_some_and(|part| part.end <= known) {
                state.parts.pop_front();
            }
            let place = state.tracker.end();
            for at in indices.iter().map(|at| index(*at)) {
                if let Some((signed, task)) = parcel.chunk.get(at).zip(parcel.tasks.get(at)) {
                    state.tracker.add(signed.id, task.due, task.signings_count > 0);
                }
            }
            let end = state.tracker.end();
            if end > place {
                let parcel = Arc::clone(&parcel);
                assert!(end - place == indices.len(), "every index is one of the parcel's");
                state.parts.push_back(Part { parcel, indices, place, end });
            }
            drop(state);
            share.changed.notify_all();
        }
    }

    /// Indices of the tasks that each connection gets; a node's connections are those whose number
    /// leaves the node's when divided by the count of nodes, and take turns.
    fn divide(&self, tasks: &[Scheduled]) -> Vec<Vec<u32>> {
        let nodes_count = self.fed.len();
        let mut lists = vec![Vec::new(); self.shares.len()];
        for (at, task) in (0_u32..).zip(tasks) {
            let node = node_of(&task.task, nodes_count);
            let connections_count = (self.shares.len() - node).div_ceil(nodes_count);
            let turn = self.fed[node].fetch_add(1, Ordering::Relaxed);
            lists[node + turn % connections_count * nodes_count].push(at);
        }
        lists
    }

    /// The fault of a connection, if one has any; none of the run's transactions can be relied on
    /// then.
    ///
    /// # Errors
    /// The fault.
    pub fn check(&self) -> Result<(), Error> {
        let fault = self.shares.iter().find_map(|share| share.lock().fault.take());
        fault.map_or(Ok(()), Err)
    }

    /// Transactions fed that are to be sent or answered.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.shares.iter().map(|share| share.lock().tracker.unfinished()).sum()
    }

    /// Transactions with a last word.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.shares.iter().map(|share| share.lock().tracker.finished()).sum()
    }

    /// Transactions committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.shares.iter().map(|share| share.lock().tracker.committed()).sum()
    }

    /// When a node last answered anything.
    #[must_use]
    pub fn last_answer(&self) -> Nanos {
        let answers = self.shares.iter().map(|share| share.lock().tracker.last_answer());
        answers.max().unwrap_or(Nanos::ZERO)
    }

    /// The chain's height, as far as the nodes have told.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.height.load(Ordering::Relaxed)
    }

    /// Takes the transactions that were refused because their last height had passed, with the
    /// times they were due at.
    #[must_use]
    pub fn take_expired(&self) -> Vec<Scheduled> {
        let mut expired = Vec::new();
        for share in &self.shares {
            let mut state = share.lock();
            for (place, due) in state.tracker.take_expired() {
                let located = state.locate(place);
                let task = located.and_then(|(parcel, at)| parcel.tasks.get(at)).copied();
                expired.extend(task.map(|task| Scheduled { due: Some(due), ..task }));
            }
        }
        expired
    }

    /// When each transaction was due and answered, if that is kept; connection by connection.
    #[must_use]
    pub fn take_answers(&self) -> Vec<Answer> {
        self.shares.iter().flat_map(|share| share.lock().tracker.take_answers()).collect()
    }

    /// Counts and latencies of everything.
    ///
    /// # Errors
    /// [`Error::Histogram`], which has no reason to happen.
    pub fn finish(self) -> Result<(Counts, Histogram<u64>), Error> {
        let (mut counts, mut latency) = (Counts::default(), latencies()?);
        for share in self.shares {
            let state = share.state.into_inner().unwrap_or_else(PoisonError::into_inner);
            let (part, part_latency) = state.tracker.finish();
            counts.add(&part);
            let added = latency.add(&part_latency);
            assert!(added.is_ok(), "all histograms have the same bounds");
        }
        Ok((counts, latency))
    }
}

/// What a writer does next.
enum Step {
    Submit,
    Wait(u32),
    Finish,
    Down,
}

impl Share<'_> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // The process ends at a panic, so a poisoned lock is met in tests only.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects and sends until nothing more is coming and all is done; a fault is left in the
    /// state.
    fn run(&self, height: &AtomicU64) {
        while self.wait_for_work() {
            let conversed = self.connect().and_then(|client| self.converse(client, height));
            let mut state = self.lock();
            if let Err(fault) = conversed {
                state.fault = Some(fault);
                return;
            }
            if state.tracker.unfinished() > 0 {
                state.tracker.connection_lost();
            }
        }
    }

    /// Sleeps without a connection until there is something to send; false when nothing more is
    /// coming.
    fn wait_for_work(&self) -> bool {
        let mut state = self.lock();
        loop {
            let has_work = state.tracker.unfinished() > 0;
            if state.is_abandoned || (state.is_over && !has_work) {
                return false;
            }
            if has_work {
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn connect(&self) -> Result<Client, Error> {
        let config = ClientConfig {
            chain_id: Some(self.options.chain_id),
            call_timeout: self.options.stall_wait,
            ..ClientConfig::default()
        };
        connect(self.node, &config, self.options.reconnect_wait)
    }

    /// One connection from hello to its end.
    fn converse(&self, client: Client, height: &AtomicU64) -> Result<(), Error> {
        height.fetch_max(client.welcome().height, Ordering::Relaxed);
        {
            let mut state = self.lock();
            state.is_down = false;
            state.tracker.owes_nothing(monotonic());
        }
        let (mut sender, receiver) = client.split();
        thread::scope(|scope| {
            let named = thread::Builder::new().name(format!("load-read-{}", self.number));
            let reader = named.spawn_scoped(scope, || self.read(receiver, height));
            let reader = reader.map_err(Error::Thread)?;
            let written = self.write(&mut sender);
            if written.is_ok() {
                // The node closes its side too; until then the reader takes what is on its way.
                drop(sender.finish());
            }
            self.lock().is_down = true;
            let read = reader.join().unwrap_or(Ok(()));
            match written {
                Ok(()) | Err(WriteError::Down) => read,
                Err(WriteError::Run(fault)) => Err(fault),
            }
        })
    }

    /// Writes frames until all is done or the connection is down.
    fn write(&self, sender: &mut ClientSender) -> Result<(), WriteError> {
        let welcome = *sender.welcome();
        let window = self.options.in_flight_count_max.min(welcome.transactions_in_flight_max);
        let frame = self.options.frame_transactions_count_max.min(welcome.submit_transactions_max);
        let (window, frame) = (index(window).max(1), index(frame.min(window)).max(1));
        let waits_max = index(welcome.requests_in_flight_max);
        let mut places = Vec::with_capacity(frame);
        loop {
            places.clear();
            match self.next_step(sender, window, frame, waits_max, &mut places)? {
                Step::Submit => self.submit(sender, &places)?,
                Step::Wait(place) => self.ask(sender, place)?,
                Step::Finish => return Ok(()),
                Step::Down => return Err(WriteError::Down),
            }
        }
    }

    /// Decides under the lock and notes what is about to be sent, sleeping while there is nothing
    /// to do.
    fn next_step(
        &self,
        sender: &ClientSender,
        window: usize,
        frame: usize,
        waits_max: usize,
        places: &mut Vec<u32>,
    ) -> Result<Step, WriteError> {
        let request = sender.last_request() + 1;
        let mut state = self.lock();
        loop {
            if state.is_abandoned || (state.is_over && state.tracker.unfinished() == 0) {
                return Ok(Step::Finish);
            }
            if state.is_down {
                return Ok(Step::Down);
            }
            let now = monotonic();
            self.check_stall(&mut state.tracker, now)?;
            let tracker = &mut state.tracker;
            let calm_at =
                tracker.last_overload().map_or(Nanos::ZERO, |at| at.after(OVERLOAD_PAUSE));
            if now >= calm_at {
                if tracker.waiting() < waits_max
                    && let Some(place) = tracker.take_wait()
                {
                    tracker.waits(request, place);
                    return Ok(Step::Wait(place));
                }
                let room = frame.min(window.saturating_sub(tracker.flying()));
                tracker.take_queued(room, places);
                tracker.take_new(room - places.len(), now, places);
                fit(sender, places, &mut state);
                if !places.is_empty() {
                    state.tracker.submitted(request, places);
                    return Ok(Step::Submit);
                }
            }
            let nap = nap(&state.tracker, window, calm_at, now);
            let (woken, _) =
                self.changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner);
            state = woken;
        }
    }

    fn check_stall(&self, tracker: &mut Tracker, now: Nanos) -> Result<(), WriteError> {
        let owed = tracker.flying() + tracker.waiting();
        if owed == 0 {
            tracker.owes_nothing(now);
        }
        let silence = now.duration_since(tracker.silent_since());
        if silence > self.options.stall_wait {
            let fault = Error::Stalled { node: self.node, owed, silence };
            return Err(WriteError::Run(fault));
        }
        Ok(())
    }

    fn ask(&self, sender: &mut ClientSender, place: u32) -> Result<(), WriteError> {
        let state = self.lock();
        let signed = state.signed(place).zip(state.part(place));
        let (signed, part) = signed.ok_or(WriteError::Down)?;
        let wait = Wait {
            id: signed.id,
            until_height: part.parcel.valid_until,
            strength: self.options.strength,
            with_proof: self.receipts.is_some(),
        };
        drop(state);
        sender.send(&ClientMessage::Wait(wait))?;
        Ok(sender.flush()?)
    }

    fn submit(&self, sender: &mut ClientSender, places: &[u32]) -> Result<(), WriteError> {
        let wait = match self.options.strength {
            Strength::Committed => WaitFor::Committed,
            Strength::Certified => WaitFor::Certified,
        };
        // The parcels are taken along, so that the lock is not held while the socket is written to.
        let mut frame = Vec::with_capacity(places.len());
        {
            let state = self.lock();
            let located = places.iter().filter_map(|place| state.locate(*place));
            frame.extend(located.map(|(parcel, at)| (Arc::clone(parcel), at)));
        }
        let signed = frame.iter().filter_map(|(parcel, at)| parcel.chunk.get(*at));
        sender.submit(signed.map(|signed| signed.bytes), wait, self.receipts.is_some())?;
        Ok(sender.flush()?)
    }

    /// Reads answers until all is done or the connection is down.
    fn read(&self, mut receiver: ClientReceiver, height: &AtomicU64) -> Result<(), Error> {
        let mut fault = None;
        loop {
            let received = receiver.receive(NAP_MAX, &mut |incoming| {
                if let Err(error) = self.take(&incoming, height) {
                    fault.get_or_insert(error);
                }
            });
            let mut state = self.lock();
            state.is_down |= received.is_err() || fault.is_some();
            let is_done = state.is_over && state.tracker.unfinished() == 0;
            let is_over = state.is_down || state.is_abandoned || is_done;
            drop(state);
            self.changed.notify_all();
            if is_over {
                return fault.map_or(Ok(()), Err);
            }
        }
    }

    fn take(&self, incoming: &Incoming<'_>, height: &AtomicU64) -> Result<(), Error> {
        let now = monotonic();
        let mut state = self.lock();
        match &incoming.message {
            ServerMessage::Statuses(entries) => {
                for entry in *entries {
                    let (request, position) = (entry.request(), entry.position());
                    state.tracker.status(request, position, entry.refusal(), now);
                }
            }
            ServerMessage::Receipts(receipts) => {
                for entry in receipts.entries() {
                    let (request, position) = (entry.request, entry.position);
                    height.fetch_max(entry.receipt.height.get(), Ordering::Relaxed);
                    let is_first = state.tracker.receipt(request, position, entry.receipt, now);
                    if let Some(file) = self.receipts.filter(|_| is_first) {
                        file.write(entry.proof)?;
                    }
                }
            }
            ServerMessage::Error(error) if error.code.closes() => state.is_down = true,
            ServerMessage::Error(error) => state.tracker.error(incoming.request, error.code, now),
            _ => {}
        }
        Ok(())
    }
}

/// Usual transactions fit a frame by far; of large ones, those that do not fit are sent with the
/// next frame.
fn fit(sender: &ClientSender, places: &mut Vec<u32>, state: &mut Shared) {
    let sizes = places.iter().filter_map(|place| state.signed(*place));
    let fitting = sender.frame_count(sizes.map(|signed| signed.bytes.len()));
    state.tracker.put_back(places.drain(fitting..));
}

fn nap(tracker: &Tracker, window: usize, calm_at: Nanos, now: Nanos) -> Duration {
    if now < calm_at {
        return calm_at.duration_since(now);
    }
    let next = tracker.next_due().filter(|_| tracker.flying() < window);
    next.map_or(NAP_MAX, |due| due.duration_since(now).min(NAP_MAX))
}

/// Why a writer ends before all is done.
enum WriteError {
    /// The connection is of no use any more.
    Down,
    /// The run is.
    Run(Error),
}

impl From<ClientError> for WriteError {
    fn from(_: ClientError) -> Self {
        Self::Down
    }
}

/// Connects, trying again while the node is away, for at most `wait`.
///
/// # Errors
/// [`Error::Unreachable`] with the last reason; at once if the node is of another chain.
pub fn connect(node: SocketAddr, config: &ClientConfig, wait: Duration) -> Result<Client, Error> {
    let deadline = monotonic().after(wait);
    loop {
        let error = match Client::connect(node, config) {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let is_final = match &error {
            ClientError::NotLoopback { .. } => true,
            ClientError::Refused { code, .. } => code.closes() && !is_passing(*code),
            _ => false,
        };
        if is_final || monotonic() >= deadline {
            return Err(Error::Unreachable { node, error });
        }
        thread::park_timeout(RECONNECT_PAUSE);
    }
}

/// Whether a refusal to talk may pass, as that of a node which is stopping to be started again.
fn is_passing(code: hufu_network::ErrorCode) -> bool {
    use hufu_network::ErrorCode::{IdleTimeout, SlowConsumer, Stopping};
    matches!(code, Stopping | SlowConsumer | IdleTimeout)
}

#[cfg(test)]
mod tests;
