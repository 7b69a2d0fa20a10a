//! What a tile is: one job, polled by the one thread it lives on.
//!
//! ```text
//! start() once -> poll(now) over and over -> stop() once -> poll(now) until Progress::Done
//! ```
//!
//! A tile shares nothing. It holds its ends of links, does a bounded piece of work at each `poll`
//! and never blocks; the runner in [`crate::thread`] parks the thread for it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Nanos;
use crate::wake::PollSet;

/// What a `poll` achieved. The runner decides from it whether to go on, spin or park.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Work was done, and there may be more: poll again at once.
    Busy,
    /// There was nothing to do.
    Idle,
    /// There is work, but a link downstream is full. The thread may park: the consumer wakes it.
    PushedBack,
    /// The tile has finished and is dropped, which closes its links. The answer to `stop`.
    Done,
}

/// Why a tile cannot go on. It ends the process: a node never runs with a part missing.
///
/// Made from any error by `?`. It is deliberately not an `Error` itself: nobody handles it but the
/// fatal handler.
pub struct Fatal(Box<dyn Error + Send + Sync>);

impl<E: Error + Send + Sync + 'static> From<E> for Fatal {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl Fatal {
    /// A fatal fault described by text alone.
    #[must_use]
    pub fn message(text: &str) -> Self {
        Self(text.into())
    }

    /// The error underneath.
    #[must_use]
    pub fn error(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Display for Fatal {
    /// The error and all its causes, joined by colons.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Fatal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// One job of the node.
pub trait Tile: Send {
    /// Name for threads, metrics and logs, for example `verify-1`. Constant.
    fn name(&self) -> &str;

    /// Called once on the tile's own thread, before the first `poll`.
    ///
    /// # Errors
    /// What keeps the tile from starting; the whole group then does not start.
    fn start(&mut self) -> Result<(), Fatal> {
        Ok(())
    }

    /// Does a bounded piece of work without blocking. `now` was read just before.
    ///
    /// Report [`Progress::Busy`] whenever something was done: the thread parks only after a round
    /// in which no tile was busy, and after polling each tile once more. After
    /// [`Progress::PushedBack`] the next poll must try the full link again (see [`crate::link`]).
    ///
    /// # Errors
    /// What makes it wrong to go on; the fatal handler ends the process.
    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal>;

    /// The next moment at which the tile wants to be polled though nothing happened.
    fn deadline(&self) -> Option<Nanos> {
        None
    }

    /// Adds the descriptors that must wake the thread. Asked before each sleep.
    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        let _: &mut PollSet<'_, 'a> = fds;
    }

    /// Called at the housekeeping interval: publish counters, expire what is old.
    fn housekeeping(&mut self, now: Nanos) {
        let _: Nanos = now;
    }

    /// Asks the tile to finish: stop taking in new work, pass on what it has, then report
    /// [`Progress::Done`]. Called once, when every tile of a lower rank is done.
    fn stop(&mut self);
}

/// Counters of one tile, written by its thread alone and readable by any.
///
/// Busy, waiting and pushed-back time add up to the time since the start.
#[derive(Debug)]
#[repr(align(128))]
pub struct TileStats {
    tile: String,
    thread: String,
    pub(crate) polls: AtomicU64,
    pub(crate) busy_nanos: AtomicU64,
    pub(crate) waiting_nanos: AtomicU64,
    pub(crate) pushed_back_nanos: AtomicU64,
    pub(crate) pushed_back: AtomicU64,
    pub(crate) heartbeat: AtomicU64,
    pub(crate) heartbeat_nanos: AtomicU64,
}

impl TileStats {
    pub(crate) fn new(tile: &str, thread: &str) -> Arc<Self> {
        Arc::new(Self {
            tile: tile.to_owned(),
            thread: thread.to_owned(),
            polls: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
            waiting_nanos: AtomicU64::new(0),
            pushed_back_nanos: AtomicU64::new(0),
            pushed_back: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            heartbeat_nanos: AtomicU64::new(0),
        })
    }

    /// The tile's name.
    #[must_use]
    pub fn tile(&self) -> &str {
        &self.tile
    }

    /// The name of the thread it runs on.
    #[must_use]
    pub fn thread(&self) -> &str {
        &self.thread
    }

    /// How often the tile was polled.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Time spent in polls that did work.
    #[must_use]
    pub fn busy_nanos(&self) -> u64 {
        self.busy_nanos.load(Ordering::Relaxed)
    }

    /// Time without work: parked, spinning, or while other tiles of the thread ran.
    #[must_use]
    pub fn waiting_nanos(&self) -> u64 {
        self.waiting_nanos.load(Ordering::Relaxed)
    }

    /// Time with work but no room downstream.
    #[must_use]
    pub fn pushed_back_nanos(&self) -> u64 {
        self.pushed_back_nanos.load(Ordering::Relaxed)
    }

    /// How many polls ended pushed back.
    #[must_use]
    pub fn pushed_back(&self) -> u64 {
        self.pushed_back.load(Ordering::Relaxed)
    }

    /// Grows with every round of the thread. A parked thread still makes a round at each
    /// housekeeping interval, so a count that stands still means a tile that hangs.
    #[must_use]
    pub fn heartbeat(&self) -> u64 {
        self.heartbeat.load(Ordering::Relaxed)
    }

    /// When the last round began.
    #[must_use]
    pub fn heartbeat_at(&self) -> Nanos {
        Nanos::from_nanos(self.heartbeat_nanos.load(Ordering::Relaxed))
    }
}

/// Adds to a counter that only the calling thread writes: a load and a store, no locked add.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}
