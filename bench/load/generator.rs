//! Sends signed transactions over several connections and gathers the last word on each.
//!
//! ```text
//! SignedChunk -> shares, one per connection -> writer --frames--> node
//!                          Tracker <- reader <--statuses, receipts--/
//! ```
//!
//! The loop is open: at a given rate a transaction is due at its place in the schedule, whether or
//! not earlier ones were answered, and its latency runs from then, so that a stalled node cannot
//! hide its stall (no coordinated omission). At full speed a transaction is due when it is sent,
//! and the bounded number in flight pushes back.
//!
//! A lost connection is made again and everything unanswered is sent again; the node knows a
//! transaction by its id, and what it knows already is waited for. Two threads per connection, a
//! writer and a reader, share one [`Tracker`].

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
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
use crate::sign::SignedChunk;
use crate::tracker::{Counts, Tracker, latencies};

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
    /// Client addresses of the nodes; connections go round robin.
    pub nodes: Vec<SocketAddr>,
    /// The chain; a node of another one is refused.
    pub chain_id: ChainId,
    /// Connections, all nodes together.
    pub connections_count: u16,
    /// Transactions in flight on one connection at most; the node may allow fewer.
    pub in_flight_count_max: u32,
    /// Transactions in one frame at most; the node may allow fewer.
    pub frame_transactions_count_max: u32,
    /// Which receipt is waited for.
    pub strength: Strength,
    /// How long a node may be away before the run is given up; restarts of nodes fit in.
    pub reconnect_wait: Duration,
    /// How long a node may be silent while it owes answers before the run is given up.
    pub stall_wait: Duration,
}

impl SendOptions {
    /// Two connections to one node with as much in flight as keeps a fast node busy.
    #[must_use]
    pub fn new(node: SocketAddr, chain_id: ChainId) -> Self {
        Self {
            nodes: vec![node],
            chain_id,
            connections_count: 2,
            in_flight_count_max: 8_192,
            frame_transactions_count_max: 256,
            strength: Strength::Committed,
            reconnect_wait: Duration::from_secs(60),
            stall_wait: Duration::from_secs(60),
        }
    }
}

/// Outcome of sending one chunk.
#[derive(Debug)]
pub struct Sent {
    /// What became of the transactions.
    pub counts: Counts,
    /// Latencies in nanoseconds, of everything that has a receipt.
    pub latency: Histogram<u64>,
    /// From the first due transaction to the last answer.
    pub elapsed: Duration,
    /// Indices into the chunk of transactions whose last height had passed.
    pub expired: Vec<usize>,
}

/// One connection's part of a chunk: every `step`-th transaction from `first` on.
struct Share<'a> {
    chunk: &'a SignedChunk,
    offsets: &'a [u64],
    pace: Pace,
    options: &'a SendOptions,
    receipts: Option<&'a ReceiptFile>,
    valid_until: u64,
    node: SocketAddr,
    start: Nanos,
    first: usize,
    step: usize,
    state: Mutex<Shared>,
    changed: Condvar,
}

struct Shared {
    tracker: Tracker,
    is_down: bool,
    fault: Option<Error>,
}

/// Sends a whole chunk and returns when every transaction has its last word. `offsets` are the
/// recorded times of the transactions in nanoseconds, `valid_until` their last valid height;
/// `progress` hears how many are done.
///
/// # Errors
/// [`Error::Unreachable`], [`Error::Stalled`], [`Error::Thread`] or what writing receipts brings.
pub fn send(
    chunk: &SignedChunk,
    offsets: &[u64],
    valid_until: u64,
    pace: Pace,
    options: &SendOptions,
    receipts: Option<&ReceiptFile>,
    progress: &dyn Fn(u64),
) -> Result<Sent, Error> {
    assert!(offsets.len() == chunk.count(), "one time for each transaction");
    let shares = divide(chunk, offsets, valid_until, pace, options, receipts)?;
    let start = shares.first().map_or_else(monotonic, |share| share.start);
    thread::scope(|scope| {
        let mut handles = Vec::with_capacity(shares.len());
        for (number, share) in shares.iter().enumerate() {
            let named = thread::Builder::new().name(format!("load-send-{number}"));
            let run = move || share.run();
            handles.push(named.spawn_scoped(scope, run).map_err(Error::Thread)?);
        }
        while handles.iter().any(|handle| !handle.is_finished()) {
            progress(done_count(&shares));
            thread::park_timeout(NAP_MAX);
        }
        Ok::<_, Error>(())
    })?;
    progress(done_count(&shares));
    gather(shares, start)
}

fn divide<'a>(
    chunk: &'a SignedChunk,
    offsets: &'a [u64],
    valid_until: u64,
    pace: Pace,
    options: &'a SendOptions,
    receipts: Option<&'a ReceiptFile>,
) -> Result<Vec<Share<'a>>, Error> {
    if options.nodes.is_empty() || options.connections_count == 0 {
        return Err(Error::Nodes);
    }
    let step = usize::from(options.connections_count).min(chunk.count().max(1));
    let start = monotonic();
    let mut shares = Vec::with_capacity(step);
    for (first, node) in (0..step).zip(options.nodes.iter().cycle()) {
        let ids = chunk.iter().skip(first).step_by(step).map(|signed| signed.id);
        let state = Shared { tracker: Tracker::new(ids)?, is_down: false, fault: None };
        shares.push(Share {
            chunk,
            offsets,
            pace,
            options,
            receipts,
            valid_until,
            node: *node,
            start,
            first,
            step,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
    }
    Ok(shares)
}

fn done_count(shares: &[Share<'_>]) -> u64 {
    let done: usize = shares.iter().map(|share| share.lock().tracker.done()).sum();
    u64::try_from(done).unwrap_or(u64::MAX)
}

fn gather(shares: Vec<Share<'_>>, start: Nanos) -> Result<Sent, Error> {
    let mut sent = Sent {
        counts: Counts::default(),
        latency: latencies()?,
        elapsed: Duration::ZERO,
        expired: Vec::new(),
    };
    for share in shares {
        let (first, step) = (share.first, share.step);
        let state = share.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(fault) = state.fault {
            return Err(fault);
        }
        sent.elapsed = sent.elapsed.max(state.tracker.last_answer().duration_since(start));
        let (counts, latency, expired) = state.tracker.finish();
        sent.counts.add(&counts);
        let added = sent.latency.add(&latency);
        assert!(added.is_ok(), "all histograms have the same bounds");
        sent.expired.extend(expired.into_iter().map(|place| first + index(place) * step));
    }
    Ok(sent)
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

    /// Connects and sends until all is done; a fault is left in the state.
    fn run(&self) {
        while self.lock().tracker.unfinished() > 0 {
            let client = match self.connect() {
                Ok(client) => client,
                Err(fault) => {
                    self.lock().fault = Some(fault);
                    return;
                }
            };
            if let Err(fault) = self.converse(client) {
                self.lock().fault = Some(fault);
                return;
            }
            let mut state = self.lock();
            if state.tracker.unfinished() > 0 {
                state.tracker.connection_lost();
            }
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
    fn converse(&self, client: Client) -> Result<(), Error> {
        {
            let mut state = self.lock();
            state.is_down = false;
            state.tracker.connected(monotonic());
        }
        let (mut sender, receiver) = client.split();
        thread::scope(|scope| {
            let named = thread::Builder::new().name(format!("load-read-{}", self.first));
            let reader = named.spawn_scoped(scope, || self.read(receiver));
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
                Step::Wait(place) => {
                    let id = self.signed(place).map(|signed| signed.id);
                    let wait = Wait {
                        id: id.ok_or(WriteError::Down)?,
                        until_height: self.valid_until,
                        strength: self.options.strength,
                        with_proof: self.receipts.is_some(),
                    };
                    sender.send(&ClientMessage::Wait(wait))?;
                    sender.flush()?;
                }
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
            if state.tracker.unfinished() == 0 {
                return Ok(Step::Finish);
            }
            if state.is_down {
                return Ok(Step::Down);
            }
            let now = monotonic();
            self.check_stall(&state.tracker, now)?;
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
                let due_count = self.due_count(tracker.next(), room - places.len(), now);
                tracker.take_new(due_count, places, |place| self.due(place, now));
                self.fit(sender, places, tracker);
                if !places.is_empty() {
                    tracker.submitted(request, places);
                    return Ok(Step::Submit);
                }
            }
            let nap = self.nap(tracker, window, calm_at, now);
            let (woken, _) =
                self.changed.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner);
            state = woken;
        }
    }

    fn check_stall(&self, tracker: &Tracker, now: Nanos) -> Result<(), WriteError> {
        let owed = tracker.flying() + tracker.waiting();
        let silence = now.duration_since(tracker.last_answer());
        if owed > 0 && silence > self.options.stall_wait {
            let fault = Error::Stalled { node: self.node, owed, silence };
            return Err(WriteError::Run(fault));
        }
        Ok(())
    }

    /// Usual transactions fit a frame by far; of large ones, those that do not fit are sent with
    /// the next frame.
    fn fit(&self, sender: &ClientSender, places: &mut Vec<u32>, tracker: &mut Tracker) {
        let sizes = places.iter().filter_map(|place| self.signed(*place));
        let fitting = sender.frame_count(sizes.map(|signed| signed.bytes.len()));
        tracker.put_back(places.drain(fitting..));
    }

    fn nap(&self, tracker: &Tracker, window: usize, calm_at: Nanos, now: Nanos) -> Duration {
        if now < calm_at {
            return calm_at.duration_since(now);
        }
        let next = tracker.next().filter(|_| tracker.flying() < window);
        next.map_or(NAP_MAX, |place| self.due(place, now).duration_since(now).min(NAP_MAX))
    }

    /// When the transaction at `place` is to be sent.
    fn due(&self, place: usize, now: Nanos) -> Nanos {
        let position = self.first + place * self.step;
        let after = |nanos: u64| self.start.after(Duration::from_nanos(nanos));
        match self.pace {
            Pace::Max => now,
            Pace::PerSecond(rate) => {
                let position = u128::try_from(position).unwrap_or(u128::MAX);
                let nanos = position.saturating_mul(1_000_000_000) / u128::from(rate.max(1));
                after(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
            Pace::Recorded(speed) => {
                let offset = self.offsets.get(position).copied().unwrap_or(0);
                let first = self.offsets.first().copied().unwrap_or(0);
                after(offset.saturating_sub(first) / speed.max(1))
            }
        }
    }

    /// How many transactions from `next` on are due, up to `max`.
    fn due_count(&self, next: Option<usize>, max: usize, now: Nanos) -> usize {
        let Some(next) = next else { return 0 };
        match self.pace {
            Pace::Max => max,
            Pace::PerSecond(_) | Pace::Recorded(_) => {
                let places = next..next.saturating_add(max);
                places.take_while(|place| self.due(*place, now) <= now).count()
            }
        }
    }

    fn signed(&self, place: u32) -> Option<crate::sign::Signed<'_>> {
        self.chunk.get(self.first + index(place) * self.step)
    }

    fn submit(&self, sender: &mut ClientSender, places: &[u32]) -> Result<(), WriteError> {
        let frame = places.iter().filter_map(|place| self.signed(*place));
        let wait = match self.options.strength {
            Strength::Committed => WaitFor::Committed,
            Strength::Certified => WaitFor::Certified,
        };
        sender.submit(frame.map(|signed| signed.bytes), wait, self.receipts.is_some())?;
        Ok(sender.flush()?)
    }

    /// Reads answers until all is done or the connection is down.
    fn read(&self, mut receiver: ClientReceiver) -> Result<(), Error> {
        let mut fault = None;
        loop {
            let received = receiver.receive(NAP_MAX, &mut |incoming| {
                if let Err(error) = self.take(&incoming) {
                    fault.get_or_insert(error);
                }
            });
            let mut state = self.lock();
            state.is_down |= received.is_err() || fault.is_some();
            let is_over = state.is_down || state.tracker.unfinished() == 0;
            drop(state);
            self.changed.notify_all();
            if is_over {
                return fault.map_or(Ok(()), Err);
            }
        }
    }

    fn take(&self, incoming: &Incoming<'_>) -> Result<(), Error> {
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
