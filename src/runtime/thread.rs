//! Threads that run tiles, and the group that starts and stops them together.
//!
//! ```text
//! Group::new(handler) -> thread(config) ... waker(thread) binds links ... add(thread, rank, tile)
//!   -> start(): every thread pins itself, starts its tiles, then polls them round robin
//!   -> Running::request_stop(): ranks stop in ascending order -> Running::join()
//! ```
//!
//! A thread spins for the configured time after its last piece of work and then parks in `ppoll` on
//! its eventfd and its tiles' descriptors until the nearest deadline. Several tiles merged on one
//! thread are polled in turn; nothing else changes for them.
//!
//! A tile's `Err` or panic calls the fatal handler, which ends the process in production
//! ([`abort_process`]): a node with a part missing must not go on voting. Should a handler return,
//! as in tests, the thread ends and [`Running::join`] reports the failure.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::placement::CoreSet;
use crate::tile::{Fatal, Tile, TileStats};
use crate::wake::{Parker, Waker};

mod runner;
use runner::{Runner, Slot};

/// How one thread runs.
#[derive(Clone, Debug)]
pub struct ThreadConfig {
    /// Name of the thread; the kernel shows its first 15 bytes.
    pub name: String,
    /// The cores it is pinned to; [`CoreSet::any`] leaves it free.
    pub cores: CoreSet,
    /// How long it polls on after the last piece of work before it parks; zero parks at once.
    pub spin: Duration,
    /// How often `housekeeping` is called, and the longest sleep.
    pub housekeeping: Duration,
}

impl ThreadConfig {
    /// An unpinned thread that does not spin and keeps house ten times a second.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            cores: CoreSet::any(),
            spin: Duration::ZERO,
            housekeeping: Duration::from_millis(100),
        }
    }
}

/// A thread of a [`Group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ThreadId(usize);

/// Why a thread failed.
#[derive(Debug)]
pub enum Cause {
    /// A tile returned an error.
    Fatal(Fatal),
    /// A tile panicked; the text is the panic's message.
    Panic(String),
    /// The thread could not be made, pinned or parked.
    Host(io::Error),
}

/// What ended a thread before its time.
#[derive(Debug)]
pub struct Failure {
    /// The thread's name.
    pub thread: String,
    /// The tile that was running, if one was.
    pub tile: Option<String>,
    /// What went wrong.
    pub cause: Cause,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "thread {}", self.thread)?;
        if let Some(tile) = &self.tile {
            write!(formatter, ", tile {tile}")?;
        }
        match &self.cause {
            Cause::Fatal(fatal) => write!(formatter, ": {fatal}"),
            Cause::Panic(message) => write!(formatter, ": panic: {message}"),
            Cause::Host(error) => write!(formatter, ": {error}"),
        }
    }
}

impl std::error::Error for Failure {}

/// Called on the failing thread, with its tiles still in place.
pub type FatalHandler = Arc<dyn Fn(&Failure) + Send + Sync>;

/// The handler for production: writes the failure to standard error and aborts the process.
#[must_use]
pub fn abort_process() -> FatalHandler {
    Arc::new(|failure| {
        let text = format!("fatal: {failure}\n");
        // Nothing is left to do with an error of the last write before the abort.
        drop(io::stderr().write_all(text.as_bytes()));
        std::process::abort();
    })
}

/// The order in which tiles stop, shared by all threads of a group.
#[derive(Debug)]
pub(crate) struct StopOrder {
    requested: AtomicBool,
    /// Ranks below this index are done.
    rank_index: AtomicUsize,
    /// Per rank, ascending: how many tiles are not done.
    open_counts: Mutex<Vec<usize>>,
    wakers: Vec<Waker>,
}

impl StopOrder {
    /// Whether tiles of the rank with this index must stop now.
    fn reached(&self, rank_index: usize) -> bool {
        self.requested.load(Ordering::Acquire)
            && self.rank_index.load(Ordering::Acquire) >= rank_index
    }

    fn request(&self) {
        self.requested.store(true, Ordering::Release);
        self.wake_all();
    }

    fn tile_done(&self, rank_index: usize) {
        let mut counts = self.open_counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(rank_index) {
            assert!(*count > 0, "a tile of rank index {rank_index} was done twice");
            *count -= 1;
        }
        let done = counts.iter().take_while(|count| **count == 0).count();
        self.rank_index.store(done, Ordering::Release);
        drop(counts);
        self.wake_all();
    }

    fn wake_all(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }
}

struct Planned {
    config: ThreadConfig,
    parker: Parker,
    tiles: Vec<(u16, Box<dyn Tile>)>,
}

/// A set of threads under construction.
pub struct Group {
    threads: Vec<Planned>,
    fatal: FatalHandler,
}

impl fmt::Debug for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.threads.iter().map(|t| t.config.name.as_str()).collect();
        formatter.debug_struct("Group").field("threads", &names).finish_non_exhaustive()
    }
}

impl Group {
    /// An empty group whose failures go to `fatal`.
    #[must_use]
    pub fn new(fatal: FatalHandler) -> Self {
        Self { threads: Vec::new(), fatal }
    }

    /// Plans a thread. It exists from [`start`](Self::start) on.
    ///
    /// # Errors
    /// When no eventfd is left.
    pub fn thread(&mut self, config: ThreadConfig) -> io::Result<ThreadId> {
        let parker = Parker::new()?;
        self.threads.push(Planned { config, parker, tiles: Vec::new() });
        Ok(ThreadId(self.threads.len() - 1))
    }

    /// The waker of a planned thread, to bind link ends to.
    ///
    /// # Panics
    /// When the id belongs to another group.
    #[must_use]
    pub fn waker(&self, thread: ThreadId) -> Waker {
        assert!(thread.0 < self.threads.len(), "{thread:?} belongs to another group");
        self.threads[thread.0].parker.waker()
    }

    /// Puts a tile on a thread. Tiles of one thread are polled in the order they were added. `rank`
    /// orders the stop: a tile is asked to stop when all tiles of lower ranks are done, so give
    /// the source of a flow the lowest.
    ///
    /// # Panics
    /// When the id belongs to another group.
    pub fn add(&mut self, thread: ThreadId, rank: u16, tile: Box<dyn Tile>) {
        assert!(thread.0 < self.threads.len(), "{thread:?} belongs to another group");
        self.threads[thread.0].tiles.push((rank, tile));
    }

    /// Starts all threads and waits until every tile has started.
    ///
    /// # Errors
    /// The first failure of a start; the threads that did start are stopped and joined before.
    pub fn start(self) -> Result<Running, Failure> {
        self.start_with(&mut spawn)
    }

    fn start_with(self, spawn: Spawn<'_>) -> Result<Running, Failure> {
        let mut ranks: Vec<u16> =
            self.threads.iter().flat_map(|t| t.tiles.iter().map(|(rank, _)| *rank)).collect();
        ranks.sort_unstable();
        let mut counts: Vec<(u16, usize)> = Vec::new();
        for rank in ranks {
            match counts.last_mut() {
                Some((last, count)) if *last == rank => *count += 1,
                _ => counts.push((rank, 1)),
            }
        }
        let ranks: Vec<u16> = counts.iter().map(|(rank, _)| *rank).collect();
        let stop = Arc::new(StopOrder {
            requested: AtomicBool::new(false),
            rank_index: AtomicUsize::new(0),
            open_counts: Mutex::new(counts.into_iter().map(|(_, count)| count).collect()),
            wakers: self.threads.iter().map(|planned| planned.parker.waker()).collect(),
        });
        let (report, reports) = mpsc::channel();
        let mut running = Running { stop, threads: Vec::new(), stats: Vec::new() };
        let mut failed = None;
        for planned in self.threads {
            let tiles: Vec<u16> = planned.tiles.iter().map(|(rank, _)| *rank).collect();
            let launched = match failed {
                None => running.launch(planned, &ranks, &self.fatal, &report, spawn),
                Some(failure) => Err(failure),
            };
            failed = launched.err();
            if failed.is_some() {
                // Tiles that never run are over, or those of later ranks would wait for them.
                let places = tiles.iter().map(|rank| place_of(&ranks, *rank));
                places.for_each(|place| running.stop.tile_done(place));
            }
        }
        drop(report);
        failed = reports
            .into_iter()
            .filter_map(Result::err)
            .fold(failed, |first, next| first.or(Some(next)));
        match failed {
            None => Ok(running),
            Some(failure) => {
                running.request_stop();
                drop(running.join());
                Err(failure)
            }
        }
    }
}

/// What a thread does.
type Work = Box<dyn FnOnce() -> Result<(), Failure> + Send>;

/// How a thread of a name is made: the seam at which tests let the host refuse.
type Spawn<'a> = &'a mut dyn FnMut(&str, Work) -> io::Result<JoinHandle<Result<(), Failure>>>;

fn spawn(name: &str, work: Work) -> io::Result<JoinHandle<Result<(), Failure>>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Index of a rank among all ranks, which ascend.
fn place_of(ranks: &[u16], rank: u16) -> usize {
    ranks.partition_point(|other| *other < rank)
}

/// A started group.
#[derive(Debug)]
pub struct Running {
    stop: Arc<StopOrder>,
    threads: Vec<(String, JoinHandle<Result<(), Failure>>)>,
    stats: Vec<Arc<TileStats>>,
}

/// Asks a group to stop; cheap to clone and callable from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<StopOrder>,
}

impl Stopper {
    /// Asks all tiles to stop, rank by rank.
    pub fn request_stop(&self) {
        self.stop.request();
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.stop.requested.load(Ordering::Acquire)
    }
}

impl Running {
    fn launch(
        &mut self,
        planned: Planned,
        ranks: &[u16],
        fatal: &FatalHandler,
        report: &mpsc::Sender<Result<(), Failure>>,
        spawn: Spawn<'_>,
    ) -> Result<(), Failure> {
        let Planned { config, parker, tiles } = planned;
        let name = config.name.clone();
        let slots: Vec<Slot> = tiles
            .into_iter()
            .map(|(rank, tile)| {
                let stats = TileStats::new(tile.name(), &name);
                self.stats.push(Arc::clone(&stats));
                Slot::new(tile, place_of(ranks, rank), stats)
            })
            .collect();
        let runner = Runner::new(config, parker, slots, Arc::clone(&self.stop), Arc::clone(fatal));
        let report = report.clone();
        let work = move || runner.run(move |started| drop(report.send(started)));
        match spawn(&name, Box::new(work)) {
            Ok(handle) => {
                self.threads.push((name, handle));
                Ok(())
            }
            Err(error) => Err(Failure { thread: name, tile: None, cause: Cause::Host(error) }),
        }
    }

    /// Counters of all tiles, in the order of threads and of tiles on them.
    #[must_use]
    pub fn stats(&self) -> &[Arc<TileStats>] {
        &self.stats
    }

    /// A handle that asks this group to stop.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { stop: Arc::clone(&self.stop) }
    }

    /// Asks all tiles to stop, rank by rank.
    pub fn request_stop(&self) {
        self.stop.request();
    }

    /// Whether every thread has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(|(_, handle)| handle.is_finished())
    }

    /// Waits until every thread has ended.
    ///
    /// # Errors
    /// The first failure, when a fatal handler returned.
    pub fn join(self) -> Result<(), Failure> {
        let mut first = Ok(());
        for (name, handle) in self.threads {
            let ended = handle.join().unwrap_or_else(|_| {
                let cause = Cause::Panic("outside a tile".to_owned());
                Err(Failure { thread: name, tile: None, cause })
            });
            if first.is_ok() {
                first = ended;
            }
        }
        first
    }
}

#[cfg(test)]
mod tests;
