//! What goes wrong in a run, and when: all of it follows from the seed, and ends at the healing.

use crate::byzantine::Vices;
use crate::network::Conditions;
use crate::random::Random;

const MILLISECOND: u64 = 1_000_000;

/// How a node goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process is killed; what it wrote is there.
    Kill,
    /// The power goes: of what was not synced, a part is there.
    Power,
    /// The power goes in the middle of the disk operation after this many.
    Torn(u64),
    /// The process is killed when it is about to sign: what it meant to sign is durable, and it may
    /// have been signed or not.
    Signing,
    /// The disk is destroyed; an empty one takes its place.
    Wipe,
}

/// One fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Crash {
        place: usize,
        crash: Crash,
        down_nanos: u64,
    },
    Cut {
        from: usize,
        to: usize,
        nanos: u64,
    },
    /// The card with a node's key signs nothing for this long; a crash of the node changes nothing
    /// about that.
    Card {
        place: usize,
        nanos: u64,
    },
    Weather(Conditions),
}

/// Everything that a run is made of beside the nodes.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The node that breaks rules, if any, and how.
    pub(crate) byzantine: Option<(usize, Vices)>,
    pub(crate) faults: Vec<(u64, Fault)>,
    /// When everything is well again, nanoseconds.
    pub(crate) heal_at: u64,
    /// Transactions before the healing and after it, counts.
    pub(crate) transactions: (usize, usize),
    pub(crate) clocks_ahead_millis: Vec<u64>,
}

impl Profile {
    /// The profile of a seed.
    #[must_use]
    pub fn of(seed: u64, nodes: usize) -> Self {
        let mut random = Random::stream(seed, "profile");
        let heal_at = random.between(2_500, 5_000) * MILLISECOND;
        let byzantine = random
            .chance(500)
            .then(|| (random.index(nodes), Vices::draw(&mut random)))
            .filter(|_| nodes >= 4);
        let mut faults = Vec::new();
        if random.chance(500) {
            let weather = Conditions {
                loss: if random.chance(600) { random.between(1, 120) } else { 0 },
                duplicates: if random.chance(500) { random.between(1, 100) } else { 0 },
                slow: if random.chance(500) { random.between(1, 80) } else { 0 },
                reorders: random.chance(400),
            };
            let at = random.between(0, heal_at / 2);
            faults.push((at, Fault::Weather(weather)));
        }
        if random.chance(450) {
            for _ in 0..random.between(1, 3) {
                cut(&mut random, nodes, heal_at, &mut faults);
            }
        }
        if random.chance(600) {
            for _ in 0..random.between(1, 4) {
                let place = random.index(nodes);
                faults.push(crash(&mut random, place, heal_at));
            }
        }
        // One disk may be destroyed where nobody else breaks rules; a second one would be too many.
        let mut may_wipe = nodes >= 4 && byzantine.is_none();
        if random.chance(120) {
            // The power of the whole rack, and not every disk survives it.
            let at = random.between(300 * MILLISECOND, heal_at);
            let lost = (may_wipe && random.chance(400)).then(|| random.index(nodes));
            may_wipe &= lost.is_none();
            for place in 0..nodes {
                let down_nanos = random.between(50, 900) * MILLISECOND;
                let crash = if lost == Some(place) { Crash::Wipe } else { Crash::Power };
                faults.push((at, Fault::Crash { place, crash, down_nanos }));
            }
        }
        if may_wipe && random.chance(150) {
            let (place, down_nanos) = (random.index(nodes), random.between(50, 900) * MILLISECOND);
            let at = random.between(300 * MILLISECOND, heal_at);
            faults.push((at, Fault::Crash { place, crash: Crash::Wipe, down_nanos }));
        }
        let early = usize::try_from(random.between(20, 70)).unwrap_or(20);
        let clocks_ahead_millis = (0..nodes).map(|_| random.below(300)).collect();
        cards(&mut Random::stream(seed, "cards"), nodes, heal_at, &mut faults);
        Self { byzantine, faults, heal_at, transactions: (early, 8), clocks_ahead_millis }
    }
}

fn crash(random: &mut Random, place: usize, heal_at: u64) -> (u64, Fault) {
    let at = random.between(100 * MILLISECOND, heal_at);
    let down_nanos = random.between(20, 1_500) * MILLISECOND;
    let crash = match random.below(5) {
        0 => Crash::Kill,
        1 => Crash::Power,
        2 => Crash::Signing,
        _ => Crash::Torn(random.below(12)),
    };
    (at, Fault::Crash { place, crash, down_nanos })
}

/// Cards that are away, each on its own or all of them: one card that signs for everybody.
fn cards(random: &mut Random, nodes: usize, heal_at: u64, faults: &mut Vec<(u64, Fault)>) {
    let mut add = |random: &mut Random, place: usize, at: u64| {
        let nanos = random.between(20, 2_500) * MILLISECOND;
        let nanos = nanos.min(heal_at.saturating_sub(at));
        faults.push((at, Fault::Card { place, nanos }));
    };
    if random.chance(400) {
        for _ in 0..random.between(1, 4) {
            let (place, at) = (random.index(nodes), random.between(0, heal_at));
            add(random, place, at);
        }
    }
    if random.chance(100) {
        let at = random.between(0, heal_at);
        (0..nodes).for_each(|place| add(random, place, at));
    }
}

/// One direction, both directions, or everything to and from a node.
fn cut(random: &mut Random, nodes: usize, heal_at: u64, faults: &mut Vec<(u64, Fault)>) {
    let at = random.between(0, heal_at);
    let nanos = random.between(100, 2_500) * MILLISECOND;
    let from = random.index(nodes);
    let to = (from + 1 + random.index(nodes.saturating_sub(1))) % nodes;
    let mut add = |from: usize, to: usize| {
        if from != to {
            faults.push((at, Fault::Cut { from, to, nanos }));
        }
    };
    match random.below(4) {
        0 | 1 => add(from, to),
        2 => {
            add(from, to);
            add(to, from);
        }
        _ => {
            for other in 0..nodes {
                add(from, other);
                add(other, from);
            }
        }
    }
}
