//! The last so many keys, each with a value, in memory that is taken at the start and never grows.
//!
//! ```text
//! ring:   (key, value) (key, value) …      a full ring gives the oldest place to the next entry
//!              ^
//! table:  . 7 . . 2 9 . .                  places in the ring, open addressing, at most half full
//! ```
//! A table of the standard library would not do: where entries come and go it leaves marks behind
//! and doubles its memory to be rid of them. Here an entry leaves without a mark, because those
//! behind it move up.

use core::hash::{BuildHasher, Hash};

use hufu_types::codec::index;
use hufu_types::resident;

use crate::hashing::SeededState;

/// See the module.
pub struct Recent<K, V> {
    state: SeededState,
    ring: Vec<(K, V)>,
    entries_max: usize,
    /// Where the oldest entry of a full ring lies.
    oldest: usize,
    /// [`FREE`], or one more than a place in the ring.
    table: Vec<u32>,
}

const FREE: u32 = 0;

impl<K: Copy + Default + Eq + Hash, V: Copy + Default> Recent<K, V> {
    /// A memory of at most `entries_max` entries, 1..=2^30; `seed` is random and known to nobody
    /// else, because keys are chosen by others.
    #[must_use]
    pub fn new(entries_max: u32, seed: u64) -> Self {
        assert!(entries_max > 0, "a memory of nothing recognises nothing");
        let slots = index(slots_count(entries_max));
        let entries_max = index(entries_max);
        assert!(slots >= 2 * entries_max, "half of the table stays free, so every search ends");
        let mut ring = resident::filled((K::default(), V::default()), entries_max);
        ring.clear();
        Self {
            state: SeededState::new(seed),
            ring,
            entries_max,
            oldest: 0,
            table: resident::filled(FREE, slots),
        }
    }

    /// Bytes that a memory of `entries_max` entries takes.
    #[must_use]
    pub fn memory_bytes(entries_max: u32) -> u64 {
        let entry = u64::try_from(size_of::<(K, V)>()).unwrap_or(u64::MAX);
        let table = u64::from(slots_count(entries_max)) * u64::from(u32::BITS / 8);
        u64::from(entries_max).saturating_mul(entry).saturating_add(table)
    }

    /// The value kept with `key`, unless it is forgotten.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let place = self.place_at(self.find(key))?;
        self.ring.get(place).map(|(_, value)| value)
    }

    /// Keeps `value` with `key`, which counts as the newest from here on. Returns the entry of
    /// another key that had to be forgotten for it.
    pub fn insert(&mut self, key: K, value: V) -> Option<(K, V)> {
        let (place, forgotten) = if self.ring.len() < self.entries_max {
            self.ring.push((key, value));
            (self.ring.len() - 1, None)
        } else {
            let place = self.oldest;
            self.oldest = (place + 1) % self.entries_max;
            // A key that was inserted again has its entry further on, and this one is nobody's.
            let gone = self.ring[place];
            let forgotten = (self.unlink(place) && gone.0 != key).then_some(gone);
            self.ring[place] = (key, value);
            (place, forgotten)
        };
        let slot = self.find(&key);
        let number = u32::try_from(place + 1);
        assert!(number.is_ok(), "places are counted in 32 bits");
        self.table[slot] = number.unwrap_or(FREE);
        forgotten
    }

    /// Takes the entry at `place` out of the table; `false` if it is not in it.
    fn unlink(&mut self, place: usize) -> bool {
        let slot = self.find(&self.ring[place].0);
        if self.place_at(slot) != Some(place) {
            return false;
        }
        // Whoever stands behind the hole and was pushed past it moves up, or would not be found.
        let (mut hole, mut next) = (slot, self.after(slot));
        while let Some(other) = self.place_at(next) {
            let home = self.home(&self.ring[other].0);
            if self.distance(home, next) >= self.distance(hole, next) {
                self.table[hole] = self.table[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.table[hole] = FREE;
        true
    }

    /// The slot of `key`, or the free one where it would go.
    fn find(&self, key: &K) -> usize {
        let mut slot = self.home(key);
        while let Some(place) = self.place_at(slot) {
            if self.ring[place].0 == *key {
                break;
            }
            slot = self.after(slot);
        }
        slot
    }

    fn place_at(&self, slot: usize) -> Option<usize> {
        self.table[slot].checked_sub(1).map(index)
    }

    fn home(&self, key: &K) -> usize {
        let slots = u64::try_from(self.table.len()).unwrap_or(u64::MAX);
        usize::try_from(self.state.hash_one(key) & (slots - 1)).unwrap_or(usize::MAX)
    }

    const fn after(&self, slot: usize) -> usize {
        (slot + 1) & (self.table.len() - 1)
    }

    /// How many steps a search goes from slot `from` to slot `to`.
    const fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.table.len() - 1)
    }
}

/// The smallest power of two that leaves half of the table free.
const fn slots_count(entries_max: u32) -> u32 {
    assert!(entries_max <= 1 << 30, "places and slots are counted in 32 bits");
    (2 * entries_max).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a search of the table finds, for every key.
    fn known(recent: &Recent<u64, u32>) -> Vec<Option<u32>> {
        (0..40).map(|key| recent.get(&key).copied()).collect()
    }

    #[test]
    fn the_oldest_is_forgotten_and_nothing_else() {
        let mut recent = Recent::new(3, 1);
        let forgotten: Vec<Option<(u64, u32)>> = [(1, 10), (2, 20), (3, 30), (2, 21), (4, 40)]
            .map(|(key, value)| recent.insert(key, value))
            .to_vec();
        assert_eq!(forgotten, [None, None, None, Some((1, 10)), None]);
        assert_eq!(known(&recent)[..5], [None, None, Some(21), Some(30), Some(40)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        #[test]
        fn it_equals_a_list_and_never_grows(
            entries_max in 1..9_u32,
            seed in any::<u64>(),
            keys in proptest::collection::vec(0..40_u64, 0..300),
        ) {
            let mut recent = Recent::new(entries_max, seed);
            let reserved = (recent.ring.capacity(), recent.table.capacity());
            let mut list: Vec<(u64, u32)> = Vec::new();
            for (value, key) in (0..).zip(keys) {
                let full = list.len() == index(entries_max);
                let gone = full.then(|| list.remove(0));
                list.push((key, value));
                let is_newest = |(other, _): &(u64, u32)| list.iter().all(|(one, _)| one != other);
                prop_assert_eq!(recent.insert(key, value), gone.filter(is_newest));
                for other in 0..40 {
                    let newest = list.iter().rev().find(|(one, _)| *one == other);
                    prop_assert_eq!(recent.get(&other), newest.map(|(_, value)| value));
                }
                let used = recent.table.iter().filter(|slot| **slot != FREE).count();
                prop_assert!(used <= list.len(), "what is forgotten leaves no mark");
            }
            prop_assert_eq!((recent.ring.capacity(), recent.table.capacity()), reserved);
        }
    }
}
