//! Health: the state of the node and whether every tile still beats.

use std::fmt::Write;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hufu_runtime::clock;
use hufu_runtime::tile::TileStats;

/// A tile that has not made a round for this long hangs; housekeeping alone makes ten rounds a
/// second.
const HEARTBEAT_LATE: Duration = Duration::from_secs(10);

/// What the node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NodeState {
    /// Opening its files and links.
    Starting = 0,
    /// Replaying its log.
    Recovering = 1,
    /// Taking transactions.
    Ready = 2,
    /// Finishing what it has before it stops.
    Draining = 3,
}

impl NodeState {
    /// The word for people and metrics.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Recovering => "recovering",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// Shared between the node and its admin plane.
#[derive(Debug, Default)]
pub struct Health {
    state: AtomicU8,
    tiles: OnceLock<Vec<Arc<TileStats>>>,
}

impl Health {
    /// Says what the node is doing now.
    pub fn set(&self, state: NodeState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// What the node is doing.
    #[must_use]
    pub fn state(&self) -> NodeState {
        match self.state.load(Ordering::Acquire) {
            0 => NodeState::Starting,
            1 => NodeState::Recovering,
            2 => NodeState::Ready,
            _ => NodeState::Draining,
        }
    }

    /// Watches the heartbeats of these tiles from now on. Once only.
    pub fn watch(&self, tiles: Vec<Arc<TileStats>>) {
        let is_first = self.tiles.set(tiles).is_ok();
        assert!(is_first, "the tiles are known once");
    }

    /// Whether every tile still makes its rounds. A draining node's tiles end one after the other.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state() == NodeState::Draining || self.late_tiles().is_empty()
    }

    /// Whether the node takes transactions.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state() == NodeState::Ready && self.is_live()
    }

    /// One line for each check.
    #[must_use]
    pub fn checks(&self) -> String {
        let mut out = format!("state: {}\n", self.state().text());
        for name in self.late_tiles() {
            // Writing to a string cannot fail.
            writeln!(out, "tile {name}: no heartbeat for {} s", HEARTBEAT_LATE.as_secs())
                .unwrap_or_default();
        }
        out
    }

    fn late_tiles(&self) -> Vec<&str> {
        let now = clock::monotonic();
        let is_late = |tile: &&Arc<TileStats>| {
            tile.heartbeat() > 0 && now.duration_since(tile.heartbeat_at()) > HEARTBEAT_LATE
        };
        let tiles = self.tiles.get().map_or(&[][..], Vec::as_slice);
        tiles.iter().filter(is_late).map(|tile| tile.tile()).collect()
    }
}
