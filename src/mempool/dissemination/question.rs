//! Whom to ask for something that is missing: one holder at a time, the next one when it does not
//! answer.

use std::collections::{BTreeMap, BTreeSet};

use hufu_types::Address;

/// Something missing, and who may have it.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// The likeliest first; asked in turn, again and again.
    holders: Vec<Address>,
    next: usize,
    asked: Option<Address>,
    ask_at: u64,
}

impl Question {
    /// To be asked at once of `first`, if it is up, then of everybody else but this validator.
    pub(super) fn new(
        now: u64,
        first: Address,
        own: Address,
        validators: &BTreeMap<Address, u64>,
    ) -> Self {
        let first = validators.contains_key(&first).then_some(&first);
        let others = validators.keys().filter(|peer| Some(*peer) != first);
        let holders = first.into_iter().chain(others).filter(|peer| **peer != own);
        Self { holders: holders.copied().collect(), next: 0, asked: None, ask_at: now }
    }

    pub(super) const fn is_due(&self, now: u64) -> bool {
        self.ask_at <= now
    }

    pub(super) const fn ask_at(&self) -> u64 {
        self.ask_at
    }

    /// Whom to ask now; nobody while nobody is up, and while the one that was asked is still
    /// sending what it was asked for.
    pub(super) fn turn(
        &mut self,
        now: u64,
        ask_nanos: u64,
        up: &BTreeSet<Address>,
        answering: &BTreeSet<Address>,
    ) -> Option<Address> {
        if self.asked.is_some_and(|peer| answering.contains(&peer)) {
            self.ask_at = now.saturating_add(ask_nanos);
            return None;
        }
        let count = self.holders.len();
        let mut turns = (0..count).map(|turn| (self.next + turn) % count);
        // With nobody up the question waits for the first peer that comes.
        let place = turns.find(|place| up.contains(&self.holders[*place]))?;
        self.next = (place + 1) % count;
        self.asked = Some(self.holders[place]);
        self.ask_at = now.saturating_add(ask_nanos);
        self.asked
    }

    /// The peer does not have it: the next one may be asked at once. `true` if it was the last one
    /// that is up.
    pub(super) fn absent(&mut self, now: u64, from: Address, up: &BTreeSet<Address>) -> bool {
        if self.asked != Some(from) {
            return false;
        }
        self.asked = None;
        // Once all that are up have been asked, asking again at once would only go round in
        // circles.
        let is_last =
            self.next == 0 || !self.holders[self.next..].iter().any(|one| up.contains(one));
        if is_last {
            self.next = 0;
        } else {
            self.ask_at = now;
        }
        is_last
    }

    /// The peer cannot answer any more.
    pub(super) fn peer_down(&mut self, now: u64, peer: Address) {
        if self.asked == Some(peer) {
            self.asked = None;
            self.ask_at = now;
        }
    }
}
