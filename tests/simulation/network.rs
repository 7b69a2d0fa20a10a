//! The network between the nodes: links that lose, delay, double and reorder, and that end.
//!
//! A link is a connection of two nodes; what it carries comes in order within its lane (control or
//! bulk) unless reordering is on. A frame that is lost, or a cut that lasts, ends the link some
//! time later, as it would a TCP connection: what was under way is lost and both ends begin anew.

use crate::random::Random;
use crate::wire::Wire;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;

/// Nanoseconds a byte takes on a link: 100 MB/s.
const BYTE_NANOS: u64 = 10;

/// How the network is at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    /// Frames lost, of a thousand.
    pub(crate) loss: u64,
    /// Frames doubled, of a thousand.
    pub(crate) duplicates: u64,
    /// Frames that take much longer, of a thousand.
    pub(crate) slow: u64,
    /// Whether frames of a lane overtake each other.
    pub(crate) reorders: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    last: [u64; 2],
    /// How many cuts are on this direction.
    cuts: u32,
    /// Whether it has lost something since the link began.
    is_dirty: bool,
}

/// What becomes of a frame.
#[derive(Debug, Default)]
pub(crate) struct Route {
    /// When it arrives; twice if it is doubled, never if it is lost.
    pub(crate) arrivals: Vec<u64>,
    /// The link is to end and begin anew after this many nanoseconds.
    pub(crate) reset_in: Option<u64>,
}

/// See the module.
pub(crate) struct Network {
    pub(crate) conditions: Conditions,
    random: Random,
    nodes: usize,
    lanes: Vec<Lane>,
    is_up: Vec<bool>,
    epochs: Vec<u32>,
}

impl Network {
    pub(crate) fn new(nodes: usize, random: Random) -> Self {
        let pairs = nodes * nodes;
        Self {
            conditions: Conditions::default(),
            random,
            nodes,
            lanes: vec![Lane::default(); pairs],
            is_up: vec![false; pairs],
            epochs: vec![0; pairs],
        }
    }

    fn lane(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }

    fn pair(&self, first: usize, second: usize) -> usize {
        first.min(second) * self.nodes + first.max(second)
    }

    /// Number of the connection of two nodes; a frame of an earlier one is lost.
    pub(crate) fn epoch(&self, first: usize, second: usize) -> Option<u32> {
        let pair = self.pair(first, second);
        self.is_up[pair].then_some(self.epochs[pair])
    }

    pub(crate) fn is_cut(&self, first: usize, second: usize) -> bool {
        let directions = [self.lane(first, second), self.lane(second, first)];
        directions.into_iter().any(|lane| self.lanes[lane].cuts > 0)
    }

    pub(crate) fn is_dirty(&self, first: usize, second: usize) -> bool {
        let directions = [self.lane(first, second), self.lane(second, first)];
        directions.into_iter().any(|lane| self.lanes[lane].is_dirty)
    }

    /// Opens the link; `false` if it is open or cut.
    pub(crate) fn open(&mut self, first: usize, second: usize) -> bool {
        let pair = self.pair(first, second);
        if self.is_up[pair] || self.is_cut(first, second) {
            return false;
        }
        self.is_up[pair] = true;
        self.epochs[pair] += 1;
        for lane in [self.lane(first, second), self.lane(second, first)] {
            self.lanes[lane].last = [0, 0];
            self.lanes[lane].is_dirty = false;
        }
        true
    }

    /// Ends the link; `false` if it is not open.
    pub(crate) fn close(&mut self, first: usize, second: usize) -> bool {
        let pair = self.pair(first, second);
        core::mem::replace(&mut self.is_up[pair], false)
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        let lane = self.lane(from, to);
        self.lanes[lane].cuts += 1;
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        let lane = self.lane(from, to);
        self.lanes[lane].cuts = self.lanes[lane].cuts.saturating_sub(1);
    }

    /// All conditions are good from here on.
    pub(crate) fn heal(&mut self) {
        self.conditions = Conditions::default();
        self.lanes.iter_mut().for_each(|lane| lane.cuts = 0);
    }

    /// Decides what becomes of a frame sent now.
    pub(crate) fn route(&mut self, now: u64, from: usize, to: usize, wire: &Wire) -> Route {
        let mut route = Route::default();
        let lane = self.lane(from, to);
        if self.lanes[lane].cuts > 0 || self.random.chance(self.conditions.loss) {
            if !core::mem::replace(&mut self.lanes[lane].is_dirty, true) {
                route.reset_in = Some(self.random.between(200, 1_200) * MILLISECOND);
            }
            return route;
        }
        let count = if self.random.chance(self.conditions.duplicates) { 2 } else { 1 };
        for _ in 0..count {
            route.arrivals.push(self.arrival(now, lane, wire));
        }
        route
    }

    fn arrival(&mut self, now: u64, lane: usize, wire: &Wire) -> u64 {
        let mut delay = self.random.between(100, 1_500) * MICROSECOND;
        if self.random.chance(self.conditions.slow) {
            delay += self.random.between(5, 400) * MILLISECOND;
        }
        if let Wire::Batch(bytes) = wire {
            delay += BYTE_NANOS * u64::try_from(bytes.len()).unwrap_or(0);
        }
        let last = &mut self.lanes[lane].last[usize::from(wire.is_bulk())];
        let at = now + delay;
        if self.conditions.reorders {
            return at;
        }
        *last = at.max(*last + 1);
        *last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> Network {
        let mut network = Network::new(3, Random::stream(1, "network"));
        assert!(network.open(0, 1));
        network
    }

    #[test]
    fn frames_of_a_lane_come_in_order_unless_they_overtake() {
        for reorders in [false, true] {
            let mut network = network();
            network.conditions = Conditions { slow: 300, reorders, ..Conditions::default() };
            let arrivals: Vec<u64> = (0..200)
                .flat_map(|height| network.route(height, 0, 1, &Wire::Tip { height }).arrivals)
                .collect();
            assert_eq!(arrivals.len(), 200);
            assert_eq!(arrivals.is_sorted(), !reorders);
        }
    }

    #[test]
    fn what_is_lost_ends_the_link_once() {
        let mut network = network();
        network.cut(0, 1);
        let wire = Wire::Tip { height: 1 };
        let (first, second) = (network.route(0, 0, 1, &wire), network.route(1, 0, 1, &wire));
        assert!(first.arrivals.is_empty() && second.arrivals.is_empty());
        assert!(first.reset_in.is_some() && second.reset_in.is_none());
        assert_eq!(network.route(1, 1, 0, &wire).arrivals.len(), 1, "the other way is open");
        assert!(network.close(0, 1) && !network.open(0, 1), "not while it is cut");
        network.mend(0, 1);
        assert!(network.open(1, 0) && network.epoch(0, 1) == Some(2));
        assert!(!network.is_dirty(0, 1), "a new link has lost nothing");
    }

    #[test]
    fn healed_is_healed() {
        let mut network = network();
        network.conditions = Conditions { loss: 1_000, ..Conditions::default() };
        assert!(network.route(0, 0, 1, &Wire::Tip { height: 1 }).arrivals.is_empty());
        network.cut(0, 2);
        network.heal();
        assert_eq!(network.route(0, 0, 1, &Wire::Tip { height: 1 }).arrivals.len(), 1);
        assert!(!network.is_cut(0, 2));
    }
}
