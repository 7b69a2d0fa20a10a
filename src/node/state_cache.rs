//! A bounded cache of state values, second-chance replacement (CLOCK).
//!
//! The state store holds the state; this holds what is hot. It is written through, so it never
//! knows anything the store does not, and forgetting an entry is always safe.

use std::collections::HashMap;
use std::hash::Hash;

/// What one entry costs beside its value: slot, map entry, allocation headers; measured, rounded
/// up.
const ENTRY_OVERHEAD_BYTES: usize = 192;

#[derive(Debug)]
struct Slot<K> {
    key: K,
    value: Box<[u8]>,
    was_used: bool,
}

/// See the module.
#[derive(Debug)]
pub struct StateCache<K> {
    bytes_max: usize,
    bytes: usize,
    slots: Vec<Option<Slot<K>>>,
    free: Vec<usize>,
    places: HashMap<K, usize>,
    hand: usize,
}

impl<K: Copy + Eq + Hash> StateCache<K> {
    /// A cache of at most `bytes_max` bytes, overhead included.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            slots: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
            hand: 0,
        }
    }

    /// The value of `key` if it is here.
    pub fn get(&mut self, key: &K) -> Option<&[u8]> {
        let place = *self.places.get(key)?;
        let slot = self.slots.get_mut(place)?.as_mut()?;
        slot.was_used = true;
        Some(&slot.value)
    }

    /// As [`StateCache::get`], for whoever borrows several values together. It leaves no mark of
    /// the use, so it is for what is about to be written anew.
    pub fn peek(&self, key: &K) -> Option<&[u8]> {
        let slot = self.slots.get(*self.places.get(key)?)?.as_ref()?;
        Some(&slot.value)
    }

    /// Keeps `value` for `key`, making room by forgetting what was not used lately.
    pub fn insert(&mut self, key: K, value: &[u8]) {
        self.remove(&key);
        let cost = value.len() + ENTRY_OVERHEAD_BYTES;
        if cost > self.bytes_max {
            return;
        }
        while self.bytes + cost > self.bytes_max {
            self.evict();
        }
        let slot = Some(Slot { key, value: value.into(), was_used: false });
        let place = if let Some(place) = self.free.pop() {
            self.slots[place] = slot;
            place
        } else {
            self.slots.push(slot);
            self.slots.len() - 1
        };
        self.places.insert(key, place);
        self.bytes += cost;
        assert!(self.bytes <= self.bytes_max, "the cache keeps its bound");
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &K) {
        if let Some(place) = self.places.remove(key) {
            self.vacate(place);
        }
    }

    /// Bytes held, overhead included.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn vacate(&mut self, place: usize) {
        if let Some(slot) = self.slots[place].take() {
            self.bytes -= slot.value.len() + ENTRY_OVERHEAD_BYTES;
            self.free.push(place);
        }
    }

    /// Passes over entries used since the hand was here, and forgets the next one.
    fn evict(&mut self) {
        assert!(!self.places.is_empty(), "a cache over its bound holds something");
        loop {
            self.hand = (self.hand + 1) % self.slots.len();
            match &mut self.slots[self.hand] {
                Some(slot) if slot.was_used => slot.was_used = false,
                Some(slot) => {
                    let key = slot.key;
                    self.remove(&key);
                    return;
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_hot_entries_stay() {
        let mut cache = StateCache::new(10 * (ENTRY_OVERHEAD_BYTES + 8));
        cache.insert(0_u64, &[0; 8]);
        for key in 1..1_000_u64 {
            assert_eq!(cache.get(&0), Some(&[0; 8][..]), "used before every insertion");
            cache.insert(key, &key.to_le_bytes());
            assert!(cache.places.contains_key(&key), "the newest is here");
            assert!(cache.bytes() <= 10 * (ENTRY_OVERHEAD_BYTES + 8));
        }
        assert_eq!(cache.places.len(), 10);
        cache.insert(5_000, &[1; 100_000]);
        assert_eq!(cache.get(&5_000), None, "larger than the whole cache");
        cache.remove(&0);
        assert_eq!(cache.get(&0), None);
    }

    #[test]
    fn an_entry_is_replaced_in_place() {
        let mut cache = StateCache::new(1_000);
        cache.insert(1_u8, b"old");
        cache.insert(1_u8, b"newer");
        assert_eq!(cache.get(&1), Some(&b"newer"[..]));
        assert_eq!(cache.bytes(), 5 + ENTRY_OVERHEAD_BYTES);
    }
}
