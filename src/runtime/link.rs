//! Links: bounded single-producer single-consumer queues between tiles.
//!
//! ```text
//! tile A --Producer--> [ ring of `depth` items ] --Consumer--> tile B
//!          full: the item comes back, A keeps it and reports `Progress::PushedBack`
//!          push wakes B's thread if it is parked; a pop from a full ring wakes A's thread
//! ```
//!
//! A link never drops and never grows. The one exception is the end: when the consumer is gone
//! (its tile is done), pushes into a full ring are discarded and counted, so that a tile upstream
//! of a stopped one can finish.
//!
//! # No lost wake-up towards the producer
//! A pop must not cost a system call when the producer merely idles, so the producer says when it
//! really waits for room: on a full ring it stores `starved = true`, then a sequentially consistent
//! fence, then tries once more. The consumer frees room, then the same fence, then loads `starved`.
//! By the argument of [`crate::wake`] either the second try finds the room or the consumer sees the
//! flag and calls the waker; the waker repeats the same argument with the thread's `parked` flag,
//! whose last look is the tile's next `poll`, which pushes again. Therefore **a tile that was
//! pushed back tries again at every `poll`**, or at least asks [`Producer::free`].

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crate::wake::Waker;

/// Keeps the two ends' counters on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Padded<T>(T);

#[derive(Debug, Default)]
struct ProducerSide {
    pushed: AtomicU64,
    full: AtomicU64,
    discarded: AtomicU64,
    closed: AtomicBool,
    starved: AtomicBool,
    waker: OnceLock<Waker>,
}

#[derive(Debug, Default)]
struct ConsumerSide {
    popped: AtomicU64,
    closed: AtomicBool,
    waker: OnceLock<Waker>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    depth: usize,
    producer: Padded<ProducerSide>,
    consumer: Padded<ConsumerSide>,
}

/// Makes a link. `name` appears in metrics; `depth` is the most items it holds.
///
/// # Panics
/// When `depth` is 0: such a link could never carry anything.
#[must_use]
pub fn link<T>(name: &str, depth: usize) -> (Producer<T>, Consumer<T>) {
    assert!(depth > 0, "link {name} has no room");
    let (sender, receiver) = rtrb::RingBuffer::new(depth);
    let shared = Arc::new(Shared {
        name: name.to_owned(),
        depth,
        producer: Padded::default(),
        consumer: Padded::default(),
    });
    let producer = Producer { ring: sender, shared: Arc::clone(&shared), pushed: 0 };
    (producer, Consumer { ring: receiver, shared, popped: 0 })
}

/// The sending end; owned by one tile.
pub struct Producer<T> {
    ring: rtrb::Producer<T>,
    shared: Arc<Shared>,
    pushed: u64,
}

impl<T> Producer<T> {
    /// Names the thread this end lives on, to be woken when room appears. Once only, before the
    /// thread starts; a second call has no effect.
    pub fn bind(&self, waker: &Waker) {
        self.shared.producer.0.waker.get_or_init(|| waker.clone());
    }

    /// Pushes one item and wakes the consumer's thread if it is parked. Never blocks.
    ///
    /// # Errors
    /// Gives the item back when the ring is full: keep it and report `Progress::PushedBack`.
    #[inline]
    pub fn try_push(&mut self, item: T) -> Result<(), T> {
        match self.ring.push(item) {
            Ok(()) => {
                self.published(1);
                Ok(())
            }
            Err(rtrb::PushError::Full(item)) => self.push_when_full(item),
        }
    }

    #[cold]
    fn push_when_full(&mut self, item: T) -> Result<(), T> {
        if self.make_starved_and_count_room() > 0 {
            return match self.ring.push(item) {
                Ok(()) => {
                    self.published(1);
                    Ok(())
                }
                Err(rtrb::PushError::Full(item)) => Err(item),
            };
        }
        if self.shared.consumer.0.closed.load(Ordering::Acquire) {
            let discarded = &self.shared.producer.0.discarded;
            discarded.store(discarded.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return Ok(());
        }
        let full = &self.shared.producer.0.full;
        full.store(full.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Err(item)
    }

    /// Pushes items from `items` until it ends or the ring is full, with one wake-up for all.
    /// Returns how many went in; an item is taken from the iterator only when there is room for it.
    /// A ring without room asks for the wake-up, as [`try_push`](Self::try_push) does.
    pub fn push_batch(&mut self, items: &mut impl Iterator<Item = T>) -> usize {
        let room = self.free();
        let Ok(chunk) = self.ring.write_chunk_uninit(room) else { return 0 };
        let count = chunk.fill_from_iter(items);
        if count > 0 {
            self.published(count);
        }
        count
    }

    /// How many items fit now; room never shrinks but by this end's pushes. When the answer is 0
    /// the consumer will wake this thread once there is room.
    pub fn free(&mut self) -> usize {
        let room = self.ring.slots();
        if room > 0 { room } else { self.make_starved_and_count_room() }
    }

    /// Whether the consumer is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.consumer.0.closed.load(Ordering::Acquire)
    }

    /// The counters of this link.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        LinkStats { shared: Arc::clone(&self.shared) }
    }

    fn make_starved_and_count_room(&self) -> usize {
        self.shared.producer.0.starved.store(true, Ordering::Relaxed);
        // Orders the store above before the load of the ring's head; see the module's reasoning.
        fence(Ordering::SeqCst);
        self.ring.slots()
    }

    #[inline]
    fn published(&mut self, count: usize) {
        self.pushed = self.pushed.wrapping_add(count_u64(count));
        self.shared.producer.0.pushed.store(self.pushed, Ordering::Relaxed);
        if let Some(waker) = self.shared.consumer.0.waker.get() {
            waker.wake();
        }
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.shared.producer.0.closed.store(true, Ordering::Release);
        if let Some(waker) = self.shared.consumer.0.waker.get() {
            waker.wake();
        }
    }
}

/// The receiving end; owned by one tile.
pub struct Consumer<T> {
    ring: rtrb::Consumer<T>,
    shared: Arc<Shared>,
    popped: u64,
}

impl<T> Consumer<T> {
    /// Names the thread this end lives on, to be woken when items appear. Once only, before the
    /// thread starts; a second call has no effect.
    pub fn bind(&self, waker: &Waker) {
        self.shared.consumer.0.waker.get_or_init(|| waker.clone());
    }

    /// Takes the oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        let item = self.ring.pop().ok()?;
        self.freed(1);
        Some(item)
    }

    /// Looks at the oldest item without taking it.
    #[inline]
    #[must_use]
    pub fn peek(&self) -> Option<&T> {
        self.ring.peek().ok()
    }

    /// Takes up to `max` items in order and hands each to `take`; their room is freed together,
    /// with one wake-up. Bound `max` by the room downstream. Returns how many were taken.
    pub fn drain(&mut self, max: usize, mut take: impl FnMut(T)) -> usize {
        let count = self.ring.slots().min(max);
        if count == 0 {
            return 0;
        }
        let Ok(chunk) = self.ring.read_chunk(count) else { return 0 };
        for item in chunk {
            take(item);
        }
        self.freed(count);
        count
    }

    /// How many items wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.slots()
    }

    /// Whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether the producer is gone **and** everything it pushed was taken: nothing will come.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        // The flag first: what was pushed before it was raised is then visible to the second look.
        self.shared.producer.0.closed.load(Ordering::Acquire) && self.ring.slots() == 0
    }

    /// The counters of this link.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        LinkStats { shared: Arc::clone(&self.shared) }
    }

    #[inline]
    fn freed(&mut self, count: usize) {
        self.popped = self.popped.wrapping_add(count_u64(count));
        self.shared.consumer.0.popped.store(self.popped, Ordering::Relaxed);
        self.wake_starved_producer();
    }

    #[inline]
    fn wake_starved_producer(&self) {
        // Orders the ring's head, stored by the pop, before the load; see the module's reasoning.
        fence(Ordering::SeqCst);
        let producer = &self.shared.producer.0;
        if producer.starved.load(Ordering::Relaxed)
            && producer.starved.swap(false, Ordering::AcqRel)
            && let Some(waker) = producer.waker.get()
        {
            waker.wake();
        }
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.shared.consumer.0.closed.store(true, Ordering::Release);
        self.wake_starved_producer();
    }
}

/// The counters of a link, for metrics; readable from any thread.
#[derive(Clone, Debug)]
pub struct LinkStats {
    shared: Arc<Shared>,
}

impl LinkStats {
    /// The link's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The most items the link holds.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.shared.depth
    }

    /// Items pushed since the start.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.shared.producer.0.pushed.load(Ordering::Relaxed)
    }

    /// Items popped since the start.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.shared.consumer.0.popped.load(Ordering::Relaxed)
    }

    /// How often a push met a full ring.
    #[must_use]
    pub fn full(&self) -> u64 {
        self.shared.producer.0.full.load(Ordering::Relaxed)
    }

    /// Items discarded because the consumer was gone.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.shared.producer.0.discarded.load(Ordering::Relaxed)
    }

    /// Items waiting, to within what the two ends do meanwhile.
    #[must_use]
    pub fn queued(&self) -> u64 {
        let popped = self.popped();
        self.pushed().saturating_sub(popped)
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Producer").field("link", &self.shared.name).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Consumer").field("link", &self.shared.name).finish_non_exhaustive()
    }
}

fn count_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
