//! Who waits for which receipt. Bounded by the session's limits on transactions and waits in
//! flight.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use hufu_types::{Strength, TxId};

/// What is known of the transaction that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hope {
    /// The node is still to say whether it was included before the wait began. Until then the wait
    /// does not expire.
    Asked,
    /// It is not included, and may be up to the height at which the wait expires.
    Open,
    /// It is included, and the receipt asked for comes with a later header. The wait does not
    /// expire.
    Included,
}

/// One who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) id: TxId,
    pub(super) request: u64,
    pub(super) position: u32,
    /// The wait ends when this height has passed without the transaction.
    pub(super) until: u64,
    pub(super) strength: Strength,
    pub(super) with_proof: bool,
    /// Whether it came from a submit frame, not from a wait.
    pub(super) is_submission: bool,
    pub(super) hope: Hope,
}

/// Ends a chain of slots.
const NONE: u32 = u32::MAX;

struct Slot {
    /// `None` while the slot is free.
    waiter: Option<Waiter>,
    /// Next waiter for the same transaction, or next free slot.
    next: u32,
}

/// Waiters by transaction: a map to the first of a chain of slots, so that adding one allocates
/// nothing at a steady size.
///
/// The map's hasher is keyed per process: ids are chosen by clients.
pub(super) struct Waiters {
    first: HashMap<TxId, u32>,
    slots: Vec<Slot>,
    free: u32,
    count: usize,
    /// No waiter that may expire does so before this height has passed; a lower bound.
    earliest: u64,
}

impl Default for Waiters {
    fn default() -> Self {
        Self { first: HashMap::new(), slots: Vec::new(), free: NONE, count: 0, earliest: u64::MAX }
    }
}

impl Waiters {
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self, waiter: Waiter) {
        if waiter.hope == Hope::Open {
            self.earliest = self.earliest.min(waiter.until);
        }
        let place = self.free_slot();
        let next = self.first.insert(waiter.id, place).unwrap_or(NONE);
        if let Some(slot) = self.slot(place) {
            *slot = Slot { waiter: Some(waiter), next };
        }
        self.count += 1;
    }

    /// Whether anyone waits for `id` at `strength` or less, and if so whether the first such wants
    /// the proof. Notes for the others that the transaction is included.
    pub(super) fn peek(&mut self, id: &TxId, strength: Strength) -> Option<bool> {
        let mut place = *self.first.get(id)?;
        let mut found = None;
        while let Some(slot) = self.slot(place) {
            let next = slot.next;
            if let Some(waiter) = &mut slot.waiter {
                if waiter.strength <= strength {
                    found = found.or(Some(waiter.with_proof));
                } else {
                    waiter.hope = Hope::Included;
                }
            }
            place = next;
        }
        found
    }

    /// Takes out the first who waits for `id` at `strength` or less.
    pub(super) fn take(&mut self, id: &TxId, strength: Strength) -> Option<Waiter> {
        self.take_first(id, |waiter| waiter.strength <= strength)
    }

    /// Takes out the wait for `id` that came with this request.
    pub(super) fn take_wait(&mut self, id: &TxId, request: u64) -> Option<Waiter> {
        self.take_first(id, |waiter| waiter.request == request && !waiter.is_submission)
    }

    /// Takes out the wait that came with this request, if it has expired at `height`.
    pub(super) fn take_overdue(&mut self, id: &TxId, request: u64, height: u64) -> Option<Waiter> {
        self.take_first(id, |waiter| {
            (waiter.request, waiter.is_submission, waiter.hope) == (request, false, Hope::Open)
                && waiter.until <= height
        })
    }

    /// Notes what the node says of a transaction that was asked for. What a block has said since
    /// then stands.
    pub(super) fn learn(&mut self, id: &TxId, request: u64, hope: Hope) {
        let mut place = self.first.get(id).copied().unwrap_or(NONE);
        let mut opened = None;
        while let Some(slot) = self.slot(place) {
            place = slot.next;
            if let Some(waiter) = &mut slot.waiter
                && (waiter.request, waiter.hope) == (request, Hope::Asked)
            {
                waiter.hope = hope;
                opened = Some(waiter.until).filter(|_| hope == Hope::Open);
            }
        }
        self.earliest = self.earliest.min(opened.unwrap_or(u64::MAX));
    }

    /// Takes out all whose transaction can no longer be included once `height` is executed. Looks
    /// at every waiter, but only at heights at which one may expire.
    pub(super) fn take_expired(&mut self, height: u64) -> Vec<Waiter> {
        if height < self.earliest {
            return Vec::new();
        }
        let waiting = self.slots.iter().filter_map(|slot| slot.waiter);
        let (expired, left): (Vec<Waiter>, Vec<Waiter>) = waiting
            .filter(|waiter| waiter.hope == Hope::Open)
            .partition(|waiter| waiter.until <= height);
        self.earliest = left.iter().map(|waiter| waiter.until).min().unwrap_or(u64::MAX);
        expired.into_iter().filter_map(|waiter| self.take_exactly(&waiter)).collect()
    }

    fn take_exactly(&mut self, wanted: &Waiter) -> Option<Waiter> {
        self.take_first(&wanted.id, |waiter| waiter == wanted)
    }

    fn take_first(&mut self, id: &TxId, is_wanted: impl Fn(&Waiter) -> bool) -> Option<Waiter> {
        let mut before = NONE;
        let mut place = *self.first.get(id)?;
        while let Some(slot) = self.slot(place) {
            let next = slot.next;
            if let Some(waiter) = slot.waiter.filter(&is_wanted) {
                self.unlink(id, before, place);
                return Some(waiter);
            }
            before = place;
            place = next;
        }
        None
    }

    fn unlink(&mut self, id: &TxId, before: u32, place: u32) {
        let free = self.free;
        let Some(slot) = self.slot(place) else { return };
        slot.waiter = None;
        let next = core::mem::replace(&mut slot.next, free);
        self.free = place;
        self.count -= 1;
        if before != NONE {
            if let Some(slot) = self.slot(before) {
                slot.next = next;
            }
        } else if next != NONE {
            self.first.insert(*id, next);
        } else {
            self.first.remove(id);
        }
    }

    fn free_slot(&mut self) -> u32 {
        let place = self.free;
        if let Some(slot) = self.slot(place) {
            self.free = slot.next;
            return place;
        }
        let place = hufu_types::codec::length_u32(&self.slots);
        self.slots.push(Slot { waiter: None, next: NONE });
        place
    }

    fn slot(&mut self, place: u32) -> Option<&mut Slot> {
        self.slots.get_mut(hufu_types::codec::index(place))
    }
}
