//! Who has which batch verified and on disk. A validator proposes what a quorum holds: then nobody
//! has to fetch or verify anything before it votes, however much is still being verified elsewhere.
//!
//! What a peer says of itself is believed: a liar only makes a proposal wait for those who hold its
//! batches.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use hufu_types::{Address, Batch, BatchDigest};

use super::{Dissemination, Effect, Stage};

/// Digests that one peer holds and that are not here yet, count; the oldest are forgotten first,
/// and told again later.
const EARLY_COUNT_MAX: usize = 4_096;

/// Batches of one origin that are told of at once, count; the oldest, which are proposed first.
const LANE_TOLD_COUNT_MAX: usize = 256;

/// Nanoseconds after which batches that are held and not ordered are told of again: what was told
/// may be lost with a link.
const TELL_AGAIN_NANOS: u64 = 1_000_000_000;

/// Own batches that are pushed again to one peer at once, count; the oldest, behind which the
/// others wait.
const PUSHED_AGAIN_COUNT_MAX: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Holders {
    of: BTreeMap<BatchDigest, BTreeSet<Address>>,
    early: BTreeMap<Address, VecDeque<BatchDigest>>,
    /// When to tell again, once the time is known.
    tell_at: Option<u64>,
    /// Whether there may be something to tell.
    pub(super) has_held: bool,
    /// Own batches that all peers were told of when they were last told again: by the next time
    /// whoever got them holds them.
    own_told: BTreeSet<BatchDigest>,
}

impl Holders {
    /// The batch is here from now on and not ordered.
    pub(super) fn begin(&mut self, digest: BatchDigest) {
        let mut holders = BTreeSet::new();
        for (peer, early) in &mut self.early {
            if let Some(place) = early.iter().position(|one| *one == digest) {
                early.remove(place);
                holders.insert(*peer);
            }
        }
        self.of.insert(digest, holders);
    }

    pub(super) fn forget(&mut self, digest: &BatchDigest) {
        self.of.remove(digest);
    }
}

impl Dissemination {
    /// A peer says which batches it has verified and on disk.
    pub fn held(&mut self, from: Address, digests: &[BatchDigest]) {
        if !self.validators.contains_key(&from) {
            return;
        }
        for digest in digests {
            if let Some(holders) = self.holders.of.get_mut(digest) {
                holders.insert(from);
            } else if !self.window.contains(digest) {
                let early = self.holders.early.entry(from).or_default();
                if early.len() >= EARLY_COUNT_MAX {
                    early.pop_front();
                }
                if !early.contains(digest) {
                    early.push_back(*digest);
                }
            }
        }
    }

    /// Whether validators with more than two thirds of the power hold this batch, which is held
    /// here.
    pub(super) fn is_held_by_quorum(&self, digest: &BatchDigest) -> bool {
        let others = self.holders.of.get(digest).into_iter().flatten();
        let holders = others.filter(|peer| **peer != self.own).chain([&self.own]);
        let power: u64 = holders.filter_map(|holder| self.validators.get(holder)).sum();
        let total: u64 = self.validators.values().sum();
        power.saturating_mul(3) > total.saturating_mul(2)
    }

    /// Whether its origin has lost this batch, which too few hold: it went down before it had
    /// written what it had sent, for it holds a later one and says so of all in their order. It
    /// pushes the lost one to nobody, so its lane must not wait for it.
    pub(super) fn is_lost(&self, batch: &Batch) -> bool {
        let (digest, header) = (batch.digest(), batch.header());
        let holds = |digest: &BatchDigest| {
            self.holders.of.get(digest).is_some_and(|of| of.contains(&header.origin))
        };
        if header.origin == self.own || holds(&digest) || self.is_held_by_quorum(&digest) {
            return false;
        }
        let place = (header.sequence.get(), digest);
        let lane = self.lanes.get(&header.origin);
        let mut later = lane.into_iter().flat_map(|lane| lane.range((Excluded(place), Unbounded)));
        later.any(|(_, digest)| holds(digest))
    }

    /// A batch has become durable here.
    pub(super) fn tell_held(&mut self, digest: BatchDigest) {
        let is_ordered = self.entries.get(&digest).is_none_or(|entry| entry.ordered.is_some());
        if is_ordered {
            return;
        }
        self.holders.has_held = true;
        if self.up.is_empty() {
            return;
        }
        if let Some(Effect::Hold { peer: None, digests }) = self.effects.last_mut() {
            digests.push(digest);
        } else {
            self.effects.push(Effect::Hold { peer: None, digests: vec![digest] });
        }
    }

    /// Every batch is ordered or gone.
    pub(super) fn nothing_to_tell(&mut self) {
        self.holders.has_held = false;
        self.holders.tell_at = None;
        self.holders.own_told.clear();
    }

    /// Tells a peer, or all, of what is held here and not ordered.
    pub(super) fn tell_all_held(&mut self, peer: Option<Address>) {
        let is_held = |digest: &BatchDigest| {
            self.entries.get(digest).is_some_and(|entry| entry.stage == Stage::Held)
        };
        let of_lane = |lane: &BTreeSet<(u64, BatchDigest)>| {
            let held = lane.iter().map(|(_, digest)| *digest).filter(is_held);
            held.take(LANE_TOLD_COUNT_MAX).collect::<Vec<BatchDigest>>()
        };
        let digests: Vec<BatchDigest> = self.lanes.values().flat_map(of_lane).collect();
        self.holders.has_held = !digests.is_empty();
        if !digests.is_empty() {
            self.effects.push(Effect::Hold { peer, digests });
        }
    }

    /// Tells all peers again of what no block orders.
    pub(super) fn tell_again(&mut self, now: u64) {
        if !self.holders.has_held || self.up.is_empty() {
            return;
        }
        let tell_at = *self.holders.tell_at.get_or_insert(now.saturating_add(TELL_AGAIN_NANOS));
        if tell_at <= now {
            self.push_again();
            self.tell_all_held(None);
            let next = now.saturating_add(TELL_AGAIN_NANOS);
            self.holders.tell_at = self.holders.has_held.then_some(next);
        }
    }

    /// Pushes own batches again to peers that do not say that they hold them: bulk that found no
    /// room was dropped, and nobody asks for a batch that no block orders.
    fn push_again(&mut self) {
        let Self { lanes, entries, holders, up, effects, own, .. } = self;
        let lane = lanes.get(own).into_iter().flatten().take(LANE_TOLD_COUNT_MAX);
        let entries = lane.filter_map(|(_, digest)| entries.get(digest));
        let held: Vec<_> = entries.filter(|entry| entry.stage == Stage::Held).collect();
        for peer in up.iter() {
            let lacks = |entry: &&&super::Entry| {
                let digest = entry.batch.digest();
                let says = holders.of.get(&digest).is_some_and(|of| of.contains(peer));
                holders.own_told.contains(&digest) && !says
            };
            for entry in held.iter().filter(lacks).take(PUSHED_AGAIN_COUNT_MAX) {
                effects.push(Effect::Send { peer: *peer, batch: entry.batch.clone() });
            }
        }
        holders.own_told = held.iter().map(|entry| entry.batch.digest()).collect();
    }

    /// When [`Dissemination::tell_again`] has something to do.
    pub(super) fn tell_deadline(&self) -> Option<u64> {
        // Before the first tick there is no time to count from: it is asked for at once.
        let is_waiting = self.holders.has_held && !self.up.is_empty();
        is_waiting.then(|| self.holders.tell_at.unwrap_or(0))
    }
}
