//! The loop of one thread.
//!
//! Time is read once at the start of a round and once after each tile that did work: an idle poll
//! is not measured, its cost counts as waiting. Each tile's time line is cut at its polls; what
//! lies between two polls is waiting or pushed back, as the earlier poll said.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Cause, Failure, FatalHandler, StopOrder, ThreadConfig};
use crate::clock::{self, Nanos};
use crate::placement;
use crate::tile::{Fatal, Progress, Tile, TileStats, add};
use crate::wake::Parker;

/// A tile and what the runner knows of it.
pub(super) struct Slot {
    tile: Box<dyn Tile>,
    rank_index: usize,
    stats: Arc<TileStats>,
    is_stopping: bool,
    is_done: bool,
    was_pushed_back: bool,
    /// Up to here the tile's time is accounted for.
    accounted: Nanos,
}

impl Slot {
    pub(super) fn new(tile: Box<dyn Tile>, rank_index: usize, stats: Arc<TileStats>) -> Self {
        Self {
            tile,
            rank_index,
            stats,
            is_stopping: false,
            is_done: false,
            was_pushed_back: false,
            accounted: Nanos::ZERO,
        }
    }
}

pub(super) struct Runner {
    config: ThreadConfig,
    parker: Parker,
    slots: Vec<Slot>,
    stop: Arc<StopOrder>,
    fatal: FatalHandler,
    /// The slot being run, so that a panic can be laid at the right door.
    current: Option<usize>,
    housekeeping_at: Nanos,
}

impl Runner {
    pub(super) fn new(
        config: ThreadConfig,
        parker: Parker,
        slots: Vec<Slot>,
        stop: Arc<StopOrder>,
        fatal: FatalHandler,
    ) -> Self {
        let housekeeping_at = Nanos::ZERO;
        Self { config, parker, slots, stop, fatal, current: None, housekeeping_at }
    }

    /// Runs until every tile is done. `report` hears once whether the start succeeded; a failure
    /// there is the caller's to handle, one after it goes to the fatal handler.
    pub(super) fn run(mut self, report: impl FnOnce(Result<(), Failure>)) -> Result<(), Failure> {
        match self.guarded(Self::start) {
            Ok(()) => report(Ok(())),
            Err(failure) => {
                self.abandon();
                report(Err(failure));
                return Ok(());
            }
        }
        let ended = self.guarded(Self::poll_until_done);
        if let Err(failure) = &ended {
            (self.fatal)(failure);
            // Only a handler that returns, as in tests, comes here: let the other threads stop.
            self.abandon();
        }
        ended
    }

    /// Runs `work`, turning a panic into a failure with the tile's name on it.
    fn guarded(&mut self, work: fn(&mut Self) -> Result<(), Cause>) -> Result<(), Failure> {
        // After a panic the tiles are never polled again, so a broken invariant harms nobody.
        let result = catch_unwind(AssertUnwindSafe(|| work(self)));
        let cause = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(cause)) => cause,
            Err(payload) => Cause::Panic(panic_message(&*payload)),
        };
        let slot = self.current.and_then(|index| self.slots.get(index));
        let tile = slot.map(|slot| slot.stats.tile().to_owned());
        Err(Failure { thread: self.config.name.clone(), tile, cause })
    }

    /// Counts all remaining tiles as done, so that the stop order can pass them.
    fn abandon(&mut self) {
        for slot in self.slots.drain(..) {
            self.stop.tile_done(slot.rank_index);
        }
    }

    fn start(&mut self) -> Result<(), Cause> {
        placement::pin_current_thread(&self.config.cores).map_err(Cause::Host)?;
        for index in 0..self.slots.len() {
            self.current = Some(index);
            self.slots[index].tile.start().map_err(Cause::Fatal)?;
        }
        self.current = None;
        let now = clock::monotonic();
        self.housekeeping_at = now.after(self.config.housekeeping);
        for slot in &mut self.slots {
            slot.accounted = now;
        }
        Ok(())
    }

    fn poll_until_done(&mut self) -> Result<(), Cause> {
        let mut spin_until = Nanos::ZERO;
        while !self.slots.is_empty() {
            let (is_busy, now) = self.round().map_err(Cause::Fatal)?;
            if is_busy {
                spin_until = now.after(self.config.spin);
                continue;
            }
            if now < spin_until {
                std::hint::spin_loop();
                continue;
            }
            self.parker.announce();
            // The last look: what was published before a waker could see the announcement is
            // found here (see `crate::wake`).
            let (is_busy, now) = self.round().map_err(Cause::Fatal)?;
            if is_busy || self.slots.is_empty() {
                self.parker.retract();
                spin_until = now.after(self.config.spin);
                continue;
            }
            self.park()?;
        }
        Ok(())
    }

    fn park(&mut self) -> Result<(), Cause> {
        let deadlines = self.slots.iter().filter_map(|slot| slot.tile.deadline());
        let deadline = deadlines.fold(self.housekeeping_at, Nanos::min);
        let slots = &self.slots;
        self.parker
            .park(Some(deadline), |fds| {
                for slot in slots {
                    slot.tile.poll_fds(fds);
                }
            })
            .map_err(Cause::Host)
    }

    /// Polls every tile once. Says whether one was busy, and the last reading of the clock.
    fn round(&mut self) -> Result<(bool, Nanos), Fatal> {
        let mut now = clock::monotonic();
        let keeps_house = now >= self.housekeeping_at;
        if keeps_house {
            self.housekeeping_at = now.after(self.config.housekeeping);
        }
        let mut is_any_busy = false;
        let mut is_any_done = false;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            self.current = Some(index);
            if !slot.is_stopping && self.stop.reached(slot.rank_index) {
                slot.is_stopping = true;
                slot.tile.stop();
                is_any_busy = true;
            }
            let progress = slot.poll(&mut now)?;
            is_any_busy |= matches!(progress, Progress::Busy | Progress::Done);
            is_any_done |= progress == Progress::Done;
            slot.is_done = progress == Progress::Done;
            if keeps_house {
                slot.tile.housekeeping(now);
            }
        }
        self.current = None;
        if is_any_done {
            self.drop_done();
        }
        Ok((is_any_busy, now))
    }

    /// Drops the tiles that are done, which closes their links, before the next rank may stop.
    fn drop_done(&mut self) {
        let mut index = 0;
        while let Some(slot) = self.slots.get(index) {
            if slot.is_done {
                let rank_index = self.slots.remove(index).rank_index;
                self.stop.tile_done(rank_index);
            } else {
                index += 1;
            }
        }
    }
}

impl Slot {
    /// Polls the tile and accounts for its time; moves `now` on when work was done.
    fn poll(&mut self, now: &mut Nanos) -> Result<Progress, Fatal> {
        let gap = now.since(self.accounted);
        let idle = if self.was_pushed_back {
            &self.stats.pushed_back_nanos
        } else {
            &self.stats.waiting_nanos
        };
        add(idle, gap);
        self.accounted = *now;
        self.stats.heartbeat_nanos.store(now.as_nanos(), Ordering::Relaxed);
        let progress = self.tile.poll(*now)?;
        add(&self.stats.polls, 1);
        add(&self.stats.heartbeat, 1);
        self.was_pushed_back = progress == Progress::PushedBack;
        match progress {
            Progress::Busy | Progress::Done => {
                let after = clock::monotonic();
                add(&self.stats.busy_nanos, after.since(*now));
                self.accounted = after;
                *now = after;
            }
            Progress::PushedBack => add(&self.stats.pushed_back, 1),
            Progress::Idle => {}
        }
        Ok(progress)
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
