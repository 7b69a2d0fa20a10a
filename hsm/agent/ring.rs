//! How calls and answers pass through the shared memory.
//!
//! ```text
//! caller --take a slot, write the request--> ring of slot numbers --> a worker of the agent
//! caller <--the slot's state word---------- answer in the same slot <--'
//! ```
//!
//! A call has one **slot** for its whole life: request and answer in places of fixed size, and a
//! state word. The **ring** carries slot numbers from node to agent in order. Answers need no ring
//! of their own: every caller waits for the state of its own slot, so that no caller wakes, or
//! depends on, another one; who polls many calls at once looks at as many words.
//!
//! The ring has one producer and one consumer, the two **processes**. Inside each, a small lock
//! stands before it (a number is pushed or popped under it, no system call and no copy of a body),
//! because a ring for each client thread would make every worker look into all of them, and would
//! have to be made and taken down with threads the agent knows nothing of. It cannot be full: it
//! has a place for each slot, and a slot is in it once.
//!
//! # Why nothing is read half-written
//! The writer of a request stores its words, then the state `REQUESTED` (release), then the ring's
//! entry, then the ring's tail (release). The reader loads the tail (acquire) and the state
//! (acquire) before the words. An answer is published by the state `ANSWERED` (release), which the
//! caller loads (acquire) before it reads a word. All words are atomic, so that a writer that does
//! not keep to this makes values wrong, never behaviour undefined; the values are copied once and
//! the copy is checked.
//!
//! # Why no wake-up is lost
//! As in `hufu_runtime::wake`: the sleeper announces itself, fences, looks once more and only then
//! sleeps; the other side publishes, fences and then looks for an announcement. Sequentially
//! consistent fences have one order, so at least one of the two sees the other. The futex compares
//! the word once more in the kernel, so that a change between the look and the sleep ends it.
//! A worker that spins announces that too (`SPINNING`), and nobody is woken for what it will find;
//! it takes the announcement down and fences before its last look, so the same holds for it. Who
//! takes a call and sees more of them wakes one more sleeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use zerocopy::{FromBytes, IntoBytes};

use super::memory::Memory;
use super::os;
use super::pace::{Met, Pace};
use super::protocol::{AnswerHeader, BODY_BYTES_MAX, Op, RequestHeader};

/// Slots of one agent at least and at most, count.
pub(crate) const SLOTS_COUNT_MIN: u32 = 4;
pub(crate) const SLOTS_COUNT_MAX: u32 = 1_024;

/// Words that one core writes and others read stand this far apart, so that no cache line (and no
/// pair of lines that a CPU fetches together) is written from both sides.
const APART: usize = 32;

/// Where the next slot number goes; written by the node.
const TAIL: usize = 0;
/// Workers that sleep on [`TAIL`]; written by the agent.
const SLEEPERS: usize = APART;
/// Whether one worker spins on [`TAIL`]; written by the agent.
const SPINNING: usize = APART + 1;
/// Grows while the agent's main thread lives.
const HEARTBEAT: usize = 2 * APART;
/// Whether a byte that wakes the node's tile is under way; both sides swap it.
const SIGNALLED: usize = 3 * APART;
/// The ring's entries.
const RING: usize = 4 * APART;

const HEADER_WORDS: usize = size_of::<RequestHeader>() / 4;
const BODY_WORDS: usize = BODY_BYTES_MAX / 4;
const REQUEST: usize = APART;
const ANSWER: usize = REQUEST + HEADER_WORDS + BODY_WORDS;
/// Words of one slot: state and announcement on a line of their own, request, answer.
const SLOT_WORDS: usize = (ANSWER + HEADER_WORDS + BODY_WORDS).next_multiple_of(APART);
/// In a slot: its state.
const STATE: usize = 0;
/// In a slot: whether the caller sleeps on the state.
const WAITING: usize = 1;

const _: () = assert!(size_of::<RequestHeader>() == size_of::<AnswerHeader>());
const _: () = assert!(BODY_BYTES_MAX.is_multiple_of(4), "bodies are whole words");

const REQUESTED: u32 = 1;
const ANSWERED: u32 = 2;
/// Written by the node alone, when the agent has ended.
const FAILED: u32 = 3;

/// The longest sleep without a look, whoever should have woken the sleeper.
#[cfg(not(test))]
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// In tests a wake-up that is lost must not be mended by the next look.
#[cfg(test)]
const SLEEP_MAX: Duration = Duration::from_secs(600);

/// The shortest sleep with an alarm, in nanoseconds: less than it takes to fall asleep is none.
const SLEEP_MIN: u64 = 3_000;

/// Looks between two readings of the clock while spinning, count.
const LOOKS_PER_READING: u32 = 32;

/// What the other side wrote and should not have: the field and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nonsense(pub(crate) String);

fn nonsense<T>(what: &str, value: impl std::fmt::Display) -> Result<T, Nonsense> {
    Err(Nonsense(format!("{what} is {value}")))
}

/// Where everything lies, from the number of slots alone.
#[derive(Clone, Copy, Debug)]
struct Layout {
    slots_count: u32,
    ring_mask: u32,
}

impl Layout {
    fn new(slots_count: u32) -> Self {
        assert!((SLOTS_COUNT_MIN..=SLOTS_COUNT_MAX).contains(&slots_count), "{slots_count} slots");
        Self { slots_count, ring_mask: slots_count.next_power_of_two() - 1 }
    }

    fn slots_at(self) -> usize {
        RING + (size(self.ring_mask) + 1).next_multiple_of(APART)
    }

    fn words_count(self) -> usize {
        self.slots_at() + size(self.slots_count) * SLOT_WORDS
    }

    fn entry(self, position: u32) -> usize {
        RING + size(position & self.ring_mask)
    }

    fn slot(self, index: u32) -> usize {
        assert!(index < self.slots_count, "slot {index} of {}", self.slots_count);
        self.slots_at() + size(index) * SLOT_WORDS
    }
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn store_bytes(words: &[AtomicU32], bytes: &[u8]) {
    assert!(bytes.len() <= words.len() * 4, "{} bytes in {} words", bytes.len(), words.len());
    for (word, part) in words.iter().zip(bytes.chunks(4)) {
        let mut padded = [0; 4];
        padded[..part.len()].copy_from_slice(part);
        word.store(u32::from_le_bytes(padded), Ordering::Relaxed);
    }
}

fn load_bytes(words: &[AtomicU32], bytes: &mut [u8]) {
    assert!(bytes.len() <= words.len() * 4, "{} bytes of {} words", bytes.len(), words.len());
    for (word, part) in words.iter().zip(bytes.chunks_mut(4)) {
        part.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..part.len()]);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body as it is copied out of the memory.
pub(crate) type Body = [u8; BODY_BYTES_MAX];

/// The node's side of one agent's memory. It ends with that agent; the next one gets new memory,
/// so that nothing an agent wrote outlives it.
#[derive(Debug)]
pub(crate) struct NodeEnd {
    memory: Memory,
    layout: Layout,
    producer: Mutex<Producer>,
    /// By slot: until when its call must be answered, on the host's clock; 0 with none.
    due: Box<[AtomicU64]>,
    next_request: AtomicU64,
    condemned: OnceLock<String>,
    ended: OnceLock<String>,
}

#[derive(Debug)]
struct Producer {
    tail: u32,
    free: Vec<u32>,
    /// Slots whose callers gave up, and whose answers are still to come.
    abandoned: Vec<u32>,
}

/// A slot that belongs to a call; to be given back by [`NodeEnd::release`] or
/// [`NodeEnd::abandon`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Place {
    index: u32,
    request: u64,
}

/// How a caller waits.
#[derive(Debug)]
pub(crate) struct Habit<'a> {
    /// For what.
    pub(crate) op: Op,
    /// What was learnt of such calls.
    pub(crate) pace: &'a Pace,
    /// How long it spins at most; not at all where this is nothing.
    pub(crate) spin: Duration,
}

/// How waiting for an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Answered,
    /// Not by the deadline; the call may still be running.
    Late,
    /// The agent is gone: [`NodeEnd::ended`] says why.
    Ended,
}

impl NodeEnd {
    pub(crate) fn create(slots_count: u32) -> io::Result<Self> {
        let layout = Layout::new(slots_count);
        let memory = Memory::create(layout.words_count())?;
        let producer = Producer {
            tail: 0,
            free: (0..slots_count).rev().collect(),
            abandoned: Vec::with_capacity(size(slots_count)),
        };
        Ok(Self {
            memory,
            layout,
            producer: Mutex::new(producer),
            due: (0..slots_count).map(|_| AtomicU64::new(0)).collect(),
            next_request: AtomicU64::new(1),
            condemned: OnceLock::new(),
            ended: OnceLock::new(),
        })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        &self.memory.words()[at]
    }

    fn slot(&self, index: u32) -> &[AtomicU32] {
        let at = self.layout.slot(index);
        &self.memory.words()[at..at + SLOT_WORDS]
    }

    /// A slot for a call, if more than `reserved_count` are left.
    pub(crate) fn take(&self, reserved_count: u32) -> Option<Place> {
        let mut producer = locked(&self.producer);
        if producer.free.len() <= size(reserved_count) {
            self.reclaim(&mut producer);
        }
        if producer.free.len() <= size(reserved_count) {
            return None;
        }
        let index = producer.free.pop()?;
        Some(Place { index, request: self.next_request.fetch_add(1, Ordering::Relaxed) })
    }

    fn reclaim(&self, producer: &mut Producer) {
        let Producer { free, abandoned, .. } = producer;
        abandoned.retain(|index| {
            let is_over = self.slot(*index)[STATE].load(Ordering::Acquire) == ANSWERED;
            if is_over {
                self.wipe(*index);
                free.push(*index);
            }
            !is_over
        });
    }

    /// Writes the request and hands it to the agent. `header` gets the request's number.
    pub(crate) fn request(&self, place: &Place, mut header: RequestHeader, body: &[u8]) {
        assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes", body.len());
        header.request.set(place.request);
        header.body_size.set(u32::try_from(body.len()).unwrap_or(u32::MAX));
        let slot = self.slot(place.index);
        self.due[size(place.index)].store(header.deadline.get().max(1), Ordering::Relaxed);
        store_bytes(&slot[REQUEST..REQUEST + HEADER_WORDS], header.as_bytes());
        store_bytes(&slot[REQUEST + HEADER_WORDS..ANSWER], body);
        slot[WAITING].store(0, Ordering::Relaxed);
        slot[STATE].store(REQUESTED, Ordering::Release);
        let mut producer = locked(&self.producer);
        let tail = producer.tail;
        self.word(self.layout.entry(tail)).store(place.index, Ordering::Relaxed);
        producer.tail = tail.wrapping_add(1);
        self.word(TAIL).store(producer.tail, Ordering::Release);
        drop(producer);
        // From here on the module's reasoning about wake-ups holds.
        fence(Ordering::SeqCst);
        let spins = self.word(SPINNING).load(Ordering::Relaxed) != 0;
        if !spins && self.word(SLEEPERS).load(Ordering::Relaxed) != 0 {
            os::futex_wake(self.word(TAIL), 1);
        }
    }

    /// Whether the answer is there, or will never be. Never waits.
    pub(crate) fn look(&self, place: &Place) -> Option<Waited> {
        let state = self.slot(place.index)[STATE].load(Ordering::Acquire);
        if state == ANSWERED {
            return Some(Waited::Answered);
        }
        if state != REQUESTED {
            // Only `end` writes anything else on this side, and it says so before it does.
            self.condemn(&format!("state of a slot is {state}"));
            return Some(Waited::Ended);
        }
        self.ended.get().map(|_| Waited::Ended)
    }

    /// Waits for the answer: asleep for as long as it takes usually, then spinning, then asleep,
    /// until `deadline` on the host's clock.
    pub(crate) fn wait(&self, place: &Place, deadline: u64, habit: &Habit<'_>) -> Waited {
        let start = os::host_nanos();
        let elapsed = || os::host_nanos().saturating_sub(start);
        let sleep = habit.pace.sleep(habit.op, habit.spin).filter(|_| !habit.spin.is_zero());
        let alarm = start.saturating_add(sleep.map_or(0, nanos)).min(deadline);
        if alarm.saturating_sub(start) >= SLEEP_MIN {
            let waited = self.sleep(place, alarm, true);
            if let Some(waited) = waited.or_else(|| self.look(place)) {
                habit.pace.learn(habit.op, Met::Asleep, habit.spin, elapsed());
                return waited;
            }
        }
        if sleep.is_some() {
            let awake = elapsed();
            let spin_until = start.saturating_add(awake).saturating_add(nanos(habit.spin));
            if let Some(waited) = self.spin(place, spin_until.min(deadline)) {
                let ended = elapsed();
                let met = Met::Awake(ended.saturating_sub(awake));
                habit.pace.learn(habit.op, met, habit.spin, ended);
                return waited;
            }
        }
        let waited = self.sleep(place, deadline, false);
        if waited.is_some() && !habit.spin.is_zero() {
            let met = if sleep.is_some() { Met::After } else { Met::Asleep };
            habit.pace.learn(habit.op, met, habit.spin, elapsed());
        }
        waited.unwrap_or(Waited::Late)
    }

    /// Looks again and again; nothing if there is no answer by then.
    fn spin(&self, place: &Place, until: u64) -> Option<Waited> {
        loop {
            for _ in 0..LOOKS_PER_READING {
                if let Some(waited) = self.look(place) {
                    return Some(waited);
                }
                std::hint::spin_loop();
            }
            if os::host_nanos() >= until {
                return None;
            }
        }
    }

    /// Sleeps until the agent wakes it or `until` is there; nothing if there is no answer by then.
    fn sleep(&self, place: &Place, until: u64, is_exact: bool) -> Option<Waited> {
        let slot = self.slot(place.index);
        if is_exact {
            os::wake_on_time();
        }
        slot[WAITING].store(1, Ordering::Relaxed);
        let waited = loop {
            fence(Ordering::SeqCst);
            if let Some(waited) = self.look(place) {
                break Some(waited);
            }
            let now = os::host_nanos();
            if now >= until {
                break None;
            }
            let limit = Duration::from_nanos(until - now).min(SLEEP_MAX);
            os::futex_wait(&slot[STATE], REQUESTED, limit);
        };
        // Whoever is awake needs nobody to wake it.
        slot[WAITING].store(0, Ordering::Relaxed);
        waited
    }

    /// Copies the answer of a call that was answered, checked for everything but its body's
    /// meaning.
    pub(crate) fn answer(
        &self,
        place: &Place,
        op: u16,
        body: &mut Body,
    ) -> Result<AnswerHeader, Nonsense> {
        let slot = self.slot(place.index);
        let mut bytes = [0; size_of::<AnswerHeader>()];
        load_bytes(&slot[ANSWER..ANSWER + HEADER_WORDS], &mut bytes);
        let Ok(header) = AnswerHeader::read_from_bytes(&bytes) else {
            return nonsense("header", "unreadable");
        };
        if header.request.get() != place.request {
            return nonsense("request of an answer", header.request);
        }
        if header.op.get() != op {
            return nonsense("operation of an answer", header.op);
        }
        if header.status.get() > AnswerHeader::STATUS_MAX {
            return nonsense("status of an answer", header.status);
        }
        if header.reserved != [0; 16] {
            return nonsense("reserved part of an answer", "used");
        }
        let count = size(header.body_size.get());
        let Some(body) = body.get_mut(..count) else {
            return nonsense("size of an answer", count);
        };
        load_bytes(&slot[ANSWER + HEADER_WORDS..SLOT_WORDS], body);
        Ok(header)
    }

    /// Gives back the slot of a call that is over; `is_secret` wipes what passed through it.
    #[allow(clippy::needless_pass_by_value, reason = "whoever gives a slot back has it no more")]
    pub(crate) fn release(&self, place: Place, is_secret: bool) {
        let Place { index, .. } = place;
        if is_secret {
            self.wipe(index);
        }
        self.due[size(index)].store(0, Ordering::Relaxed);
        let mut producer = locked(&self.producer);
        assert!(producer.free.len() < size(self.layout.slots_count), "a slot is given back once");
        producer.free.push(index);
    }

    fn wipe(&self, index: u32) {
        self.due[size(index)].store(0, Ordering::Relaxed);
        for word in &self.slot(index)[REQUEST..] {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Leaves the slot to an answer that nobody waits for any more; it is used again after that.
    #[allow(clippy::needless_pass_by_value, reason = "whoever gives a slot back has it no more")]
    pub(crate) fn abandon(&self, place: Place) {
        let Place { index, .. } = place;
        locked(&self.producer).abandoned.push(index);
    }

    /// By how much the worst call is past its deadline without an answer, in nanoseconds.
    pub(crate) fn overdue_nanos(&self, now: u64) -> u64 {
        let late = |(index, due): (u32, &AtomicU64)| {
            let due = due.load(Ordering::Relaxed);
            let is_open = due != 0 && due < now;
            let state = &self.slot(index)[STATE];
            // Whatever else an agent writes there is no answer either.
            if is_open && state.load(Ordering::Acquire) != ANSWERED { now - due } else { 0 }
        };
        (0..self.layout.slots_count).zip(&self.due).map(late).max().unwrap_or(0)
    }

    /// Calls that have a slot, count.
    pub(crate) fn open_count(&self) -> usize {
        size(self.layout.slots_count).saturating_sub(locked(&self.producer).free.len())
    }

    /// Says that the agent broke the protocol. Its supervisor kills it.
    pub(crate) fn condemn(&self, reason: &str) {
        if self.ended.get().is_none() {
            self.condemned.get_or_init(|| reason.to_owned());
        }
    }

    /// What the agent did that no agent of ours does.
    pub(crate) fn condemned(&self) -> Option<&str> {
        self.condemned.get().map(String::as_str)
    }

    /// Fails all calls that wait: no answer will come any more.
    pub(crate) fn end(&self, reason: &str) {
        self.ended.get_or_init(|| reason.to_owned());
        for index in 0..self.layout.slots_count {
            let state = &self.slot(index)[STATE];
            if state.load(Ordering::Relaxed) != ANSWERED {
                state.store(FAILED, Ordering::Release);
            }
            os::futex_wake(state, i32::MAX);
        }
    }

    /// Why the agent is gone.
    pub(crate) fn ended(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// A number that changes while the agent's main thread lives.
    pub(crate) fn heartbeat(&self) -> u32 {
        self.word(HEARTBEAT).load(Ordering::Relaxed)
    }

    /// Whether bytes that wake the tile are under way or there.
    pub(crate) fn is_signalled(&self) -> bool {
        self.word(SIGNALLED).load(Ordering::Relaxed) != 0
    }

    /// Takes the signal down; what was published before it is seen after this.
    pub(crate) fn take_signal(&self) {
        self.word(SIGNALLED).swap(0, Ordering::AcqRel);
    }

    #[cfg(test)]
    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }
}

/// The agent's side.
#[derive(Debug)]
pub(crate) struct AgentEnd {
    memory: Memory,
    layout: Layout,
    head: Mutex<u32>,
    spin: Duration,
}

/// A request taken out of the ring. Its body is in the buffer that [`AgentEnd::next`] was given.
#[derive(Debug)]
pub(crate) struct Job {
    index: u32,
    pub(crate) header: RequestHeader,
    pub(crate) body_size: usize,
}

impl AgentEnd {
    pub(crate) fn adopt(descriptor: OwnedFd, slots_count: u32, spin: Duration) -> io::Result<Self> {
        if !(SLOTS_COUNT_MIN..=SLOTS_COUNT_MAX).contains(&slots_count) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{slots_count} slots")));
        }
        let layout = Layout::new(slots_count);
        let memory = Memory::adopt(descriptor, layout.words_count())?;
        Ok(Self { memory, layout, head: Mutex::new(0), spin })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        &self.memory.words()[at]
    }

    fn slot(&self, index: u32) -> &[AtomicU32] {
        let at = self.layout.slot(index);
        &self.memory.words()[at..at + SLOT_WORDS]
    }

    /// The next slot number and whether more wait, or the tail up to which there is nothing.
    fn pop(&self) -> Result<Result<(u32, bool), u32>, Nonsense> {
        let mut head = locked(&self.head);
        let tail = self.word(TAIL).load(Ordering::Acquire);
        let count = tail.wrapping_sub(*head);
        if count == 0 {
            return Ok(Err(tail));
        }
        if count > self.layout.slots_count {
            return nonsense("tail of the ring", tail);
        }
        let index = self.word(self.layout.entry(*head)).load(Ordering::Relaxed);
        *head = head.wrapping_add(1);
        if index >= self.layout.slots_count {
            return nonsense("slot number", index);
        }
        Ok(Ok((index, count > 1)))
    }

    /// Takes the next request, waiting for one up to `limit`: spinning first if no other worker
    /// does, then asleep.
    pub(crate) fn next(&self, limit: Duration, body: &mut Body) -> Result<Option<Job>, Nonsense> {
        let start = os::host_nanos();
        let give_up = start.saturating_add(nanos(limit));
        let spin_until = start.saturating_add(nanos(self.spin)).min(give_up);
        loop {
            let seen = match self.pop()? {
                Ok((index, is_more)) => {
                    if is_more && self.word(SLEEPERS).load(Ordering::Relaxed) != 0 {
                        os::futex_wake(self.word(TAIL), 1);
                    }
                    return self.read(index, body).map(Some);
                }
                Err(seen) => seen,
            };
            let now = os::host_nanos();
            if now >= give_up {
                return Ok(None);
            }
            if now < spin_until && self.spin(seen, spin_until) {
                continue;
            }
            self.word(SLEEPERS).fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.word(TAIL).load(Ordering::Acquire) == seen {
                let limit = Duration::from_nanos(give_up - now).min(SLEEP_MAX);
                os::futex_wait(self.word(TAIL), seen, limit);
            }
            self.word(SLEEPERS).fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Spins until the tail moves or the time is over. `false` where another worker spins already.
    fn spin(&self, seen: u32, until: u64) -> bool {
        let spinning = self.word(SPINNING);
        if spinning.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return false;
        }
        let tail = self.word(TAIL);
        while os::host_nanos() < until {
            let moved = (0..LOOKS_PER_READING).any(|_| {
                std::hint::spin_loop();
                tail.load(Ordering::Relaxed) != seen
            });
            if moved {
                break;
            }
        }
        spinning.store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        true
    }

    fn read(&self, index: u32, body: &mut Body) -> Result<Job, Nonsense> {
        let slot = self.slot(index);
        let state = slot[STATE].load(Ordering::Acquire);
        if state != REQUESTED {
            return nonsense("state of a slot", state);
        }
        let mut bytes = [0; size_of::<RequestHeader>()];
        load_bytes(&slot[REQUEST..REQUEST + HEADER_WORDS], &mut bytes);
        let Ok(header) = RequestHeader::read_from_bytes(&bytes) else {
            return nonsense("header", "unreadable");
        };
        if header.reserved.get() != 0 {
            return nonsense("reserved part of a request", header.reserved);
        }
        let body_size = size(header.body_size.get());
        let Some(body) = body.get_mut(..body_size) else {
            return nonsense("size of a request", body_size);
        };
        load_bytes(&slot[REQUEST + HEADER_WORDS..ANSWER], body);
        Ok(Job { index, header, body_size })
    }

    /// Publishes the answer to a request.
    pub(crate) fn answer(&self, job: &Job, status: u16, body: &[u8]) {
        self.answer_as(job, status, body, |_| ());
    }

    /// The same with a last word on the header, which only a rogue has.
    pub(crate) fn answer_as(
        &self,
        job: &Job,
        status: u16,
        body: &[u8],
        change: impl FnOnce(&mut AnswerHeader),
    ) {
        assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes", body.len());
        let mut header = AnswerHeader {
            request: job.header.request,
            op: job.header.op,
            status: status.into(),
            body_size: u32::try_from(body.len()).unwrap_or(u32::MAX).into(),
            reserved: [0; 16],
        };
        change(&mut header);
        let slot = self.slot(job.index);
        store_bytes(&slot[ANSWER..ANSWER + HEADER_WORDS], header.as_bytes());
        store_bytes(&slot[ANSWER + HEADER_WORDS..SLOT_WORDS], body);
        slot[STATE].store(ANSWERED, Ordering::Release);
        fence(Ordering::SeqCst);
        if slot[WAITING].load(Ordering::Relaxed) != 0 {
            os::futex_wake(&slot[STATE], 1);
        }
    }

    /// Says that a call which the node's tile polls was answered. True where a byte must be sent
    /// to wake the tile: none is under way.
    pub(crate) fn signal(&self) -> bool {
        self.word(SIGNALLED).swap(1, Ordering::AcqRel) == 0
    }

    /// Says that the main thread lives.
    pub(crate) fn beat(&self) {
        self.word(HEARTBEAT).fetch_add(1, Ordering::Relaxed);
    }

    /// All words, and where the state of a job stands: what a rogue agent writes over.
    #[cfg(test)]
    pub(crate) fn exposed(&self, job: &Job) -> (&[AtomicU32], usize) {
        (self.memory.words(), self.layout.slot(job.index) + STATE)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
pub(crate) mod tests;
