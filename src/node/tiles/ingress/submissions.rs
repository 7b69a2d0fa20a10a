//! Transactions on their way from connections to the verify tiles.
//!
//! ```text
//! connection A: [tile 0: ...] [tile 1: ...]  \
//! connection B: [tile 0: ...] [tile 1: ...]  --quantum by quantum, in turn--> verify[0], verify[1]
//! ```
//!
//! Each connection keeps what it has for each verify tile. For each tile the connections that have
//! something for it stand in a ring; the first may hand over a quantum, then the next has its turn.
//! A tile that is full stops its own ring only.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use hufu_runtime::link::Producer;
use hufu_runtime::net::ConnToken;
use hufu_types::codec::index;

use super::{Connection, find};
use crate::messages::Submitted;

/// Transactions that one connection hands to one verify tile before the next has its turn, count:
/// a fraction of what a link holds, so that all are served while it is drained once.
const QUANTUM: usize = 64;

/// Bytes of transactions that wait for their verdict between here and the mempool: links count
/// items, and items may be large.
pub(super) const VERIFYING_BYTES_MAX: usize = 32 << 20;

/// What one connection has for each verify tile.
#[derive(Debug, Default)]
pub(super) struct Held {
    queues: Vec<VecDeque<Submitted>>,
    count: usize,
}

impl Held {
    /// Whether nothing is held.
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The ring of one verify tile.
#[derive(Debug)]
struct Ring {
    link: Producer<Submitted>,
    /// Connections that have something for the tile; one that is gone is met as a token that names
    /// nobody.
    order: VecDeque<ConnToken>,
    /// What is left of the quantum of the first.
    quantum: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Submissions {
    rings: Vec<Ring>,
    spread: RandomState,
    /// Bytes handed over without a verdict.
    verifying_bytes: usize,
}

impl Submissions {
    pub(super) fn new(links: Vec<Producer<Submitted>>, spread: RandomState) -> Self {
        assert!(!links.is_empty(), "somebody verifies");
        let ring = |link| Ring { link, order: VecDeque::new(), quantum: QUANTUM };
        Self { rings: links.into_iter().map(ring).collect(), spread, verifying_bytes: 0 }
    }

    /// Which verify tile gets a transaction: the same for the same signature, so that copies meet;
    /// spread evenly whatever the signature's bytes are.
    fn tile_of(&self, submitted: &Submitted) -> usize {
        let hash = self.spread.hash_one(submitted.transaction.signature().0);
        let count = u64::try_from(self.rings.len()).unwrap_or(1);
        usize::try_from(hash % count).unwrap_or(0)
    }

    /// Gives a transaction into the keeping of its connection until its turn comes.
    pub(super) fn hold(&mut self, connection: &mut Connection, submitted: Submitted) {
        let tile = self.tile_of(&submitted);
        let held = &mut connection.held;
        held.queues.resize_with(self.rings.len(), VecDeque::new);
        let queue = &mut held.queues[tile];
        if queue.is_empty() {
            self.rings[tile].order.push_back(connection.token);
        }
        queue.push_back(submitted);
        held.count += 1;
    }

    /// A verdict came for a transaction of this size.
    pub(super) fn judged(&mut self, size: u32) {
        let is_counted = self.verifying_bytes >= index(size);
        assert!(is_counted, "each transaction has one verdict");
        self.verifying_bytes -= index(size);
    }

    /// Hands over what the verify tiles have room for; says whether that was anything. A connection
    /// that has nothing left may go on with its input.
    pub(super) fn pass_on(&mut self, connections: &mut [Option<Connection>]) -> bool {
        let mut has_worked = false;
        let Self { rings, verifying_bytes, .. } = self;
        for (tile, ring) in rings.iter_mut().enumerate() {
            while let Some(&first) = ring.order.front() {
                let Some(connection) = find(connections, first) else {
                    ring.next_turn(false);
                    continue;
                };
                let Held { queues, count } = &mut connection.held;
                let queue = &mut queues[tile];
                let mut due = std::iter::from_fn(|| {
                    let has_room = *verifying_bytes < VERIFYING_BYTES_MAX;
                    let submitted = if has_room { queue.pop_front() } else { None }?;
                    *verifying_bytes += index(submitted.source.size);
                    Some(submitted)
                })
                .take(ring.quantum);
                let passed = ring.link.push_batch(&mut due);
                has_worked |= passed > 0;
                *count -= passed;
                ring.quantum -= passed;
                if queue.is_empty() {
                    connection.is_dirty |= *count == 0;
                    ring.next_turn(false);
                } else if ring.quantum == 0 {
                    ring.next_turn(true);
                } else {
                    break;
                }
            }
        }
        has_worked
    }

    /// Whether anything waits for room.
    pub(super) fn is_pushed_back(&self) -> bool {
        self.rings.iter().any(|ring| !ring.order.is_empty())
    }
}

impl Ring {
    /// The first has had its turn; it comes again after all others if it has more.
    fn next_turn(&mut self, has_more: bool) {
        let first = self.order.pop_front();
        self.order.extend(first.filter(|_| has_more));
        self.quantum = QUANTUM;
    }
}
