//! Public keys that come again and again: a bounded cache of their tables of multiples and of ZA.
//!
//! ```text
//! execute --meet(senders of a block)--> waiting --make (verify tiles, between batches)--> slots
//! verify  --verify_many, identity_digests------------------------------------------------> slots
//! ```
//! A verification with a table costs a third to a quarter of one without, a table about as much as
//! three verifications. So a key waits for a table only when it was met twice, and who meets keys
//! says only those whose transactions got something done on the ledger: nobody can fill the cache
//! with keys made for it. Keys that were not asked for longest are evicted (second chance).
//!
//! All memory is taken when the cache is made. What it holds changes how long a verdict takes and
//! never the verdict. It is shared by all tiles that verify; a lock is held for lookups alone, and
//! tables are made outside of it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hufu_kernels::Backend;
use hufu_kernels::sm2::{KeyTable, tables_many};

use crate::digest::Digest;
use crate::keys::{IDENTITY_DEFAULT, PublicKey, identity_digests};
use crate::provider::Hasher;

/// Most keys that wait for their tables, count; keys met while so many wait are not remembered.
const WAITING_MAX: usize = 1_024;

/// Keys remembered as met once, count; a power of two.
const MET_COUNT: usize = 1 << 16;

/// Tables made at once, count: a lane each.
const MADE_AT_ONCE: usize = 8;

/// What the cache did since the node started, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownKeysCounts {
    /// Signatures verified with a table.
    pub hits: u64,
    /// Signatures verified without.
    pub misses: u64,
    /// Tables made.
    pub made: u64,
    /// Tables that gave way to others.
    pub evicted: u64,
    /// Keys that have a table now.
    pub held: u64,
}

struct Slot {
    key: PublicKey,
    identity_digest: Digest,
    /// Nothing while it is being made.
    table: Option<Arc<KeyTable>>,
    was_used: AtomicBool,
}

struct Slots {
    places: HashMap<PublicKey, usize>,
    slots: Vec<Slot>,
    /// The slot looked at next when one must give way.
    hand: usize,
}

struct Waiting {
    keys: VecDeque<PublicKey>,
    /// Fingerprints of keys met once or waiting, each at the place it says itself; a newer one
    /// takes the place of an older.
    met: Vec<u64>,
}

/// See the module.
pub struct KnownKeys {
    backend: Backend,
    count_max: usize,
    slots: RwLock<Slots>,
    waiting: Mutex<Waiting>,
    fingerprints: RandomState,
    hits: AtomicU64,
    misses: AtomicU64,
    made: AtomicU64,
    evicted: AtomicU64,
}

impl KnownKeys {
    /// Bytes that one key takes: its table with the counters in front, its slot, and its place in
    /// the map, which has up to 16 buckets for 7 keys.
    const KEY_SIZE: u64 = {
        let table = size_of::<KeyTable>() + align_of::<KeyTable>() + 2 * size_of::<usize>();
        (table + size_of::<Slot>() + 3 * PublicKey::SIZE) as u64
    };

    /// Bytes of the list of keys that wait for a table and of the fingerprints of those met once.
    const WAITING_SIZE: u64 =
        (WAITING_MAX * size_of::<PublicKey>() + MET_COUNT * size_of::<u64>()) as u64;

    /// Bytes that a cache of `count_max` keys takes, all of them when it is made.
    #[must_use]
    pub const fn memory_size(count_max: u32) -> u64 {
        if count_max == 0 { 0 } else { count_max as u64 * Self::KEY_SIZE + Self::WAITING_SIZE }
    }

    /// A cache of `count_max` keys at most, none with 0, for verifiers on `backend`.
    #[must_use]
    pub fn new(backend: Backend, count_max: usize) -> Self {
        let slot = |_| Slot {
            key: PublicKey([0; PublicKey::SIZE]),
            identity_digest: Digest::ZERO,
            table: Some(Arc::new(KeyTable::empty())),
            was_used: AtomicBool::new(false),
        };
        let slots = Slots {
            places: HashMap::with_capacity(count_max),
            slots: (0..count_max).map(slot).collect(),
            hand: 0,
        };
        let (waiting_max, met_count) =
            if count_max > 0 { (WAITING_MAX, MET_COUNT) } else { (0, 0) };
        let keys = VecDeque::with_capacity(waiting_max);
        Self {
            backend,
            count_max,
            slots: RwLock::new(slots),
            waiting: Mutex::new(Waiting { keys, met: vec![0; met_count] }),
            fingerprints: RandomState::new(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            made: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
        }
    }

    /// Tells of keys whose owners have accounts and signed something valid. Those met for the
    /// second time wait for a table from here on. Cheap; makes no table.
    pub fn meet<'a>(&self, keys: impl Iterator<Item = &'a PublicKey>) {
        if self.count_max == 0 {
            return;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.filter(|key| !slots.places.contains_key(*key)) {
            let (place, [once, twice]) = self.fingerprint(key);
            let met = waiting.met[place];
            if met == once && waiting.keys.len() < WAITING_MAX {
                waiting.met[place] = twice;
                waiting.keys.push_back(*key);
            } else if met != twice {
                waiting.met[place] = once;
            }
        }
    }

    /// Where it is remembered that the key was met, and what stands there when it was met once and
    /// when it waits; neither is 0, which stands for nobody.
    fn fingerprint(&self, key: &PublicKey) -> (usize, [u64; 2]) {
        let hash = self.fingerprints.hash_one(key) | 3;
        let place = usize::try_from(hash >> 2).unwrap_or_default() % MET_COUNT;
        (place, [hash, hash & !1])
    }

    /// Makes the tables of up to eight keys that wait, and gives their count. For tiles that
    /// verify, between batches: it takes about as long as 24 verifications.
    pub fn make(&self, hasher: &dyn Hasher) -> usize {
        let keys: Vec<PublicKey> = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let count = waiting.keys.len().min(MADE_AT_ONCE);
            let keys: Vec<PublicKey> = waiting.keys.drain(..count).collect();
            for key in &keys {
                waiting.met[self.fingerprint(key).0] = 0;
            }
            keys
        };
        if keys.is_empty() {
            return 0;
        }
        let mut taken = self.take(&keys);
        let (keys, mut tables): (Vec<_>, Vec<_>) = taken
            .iter_mut()
            .filter_map(|(key, _, table)| Some((&key.0, Arc::get_mut(table)?)))
            .unzip();
        tables_many(self.backend, &keys, &mut tables);
        let keys: Vec<&PublicKey> = taken.iter().map(|(key, ..)| key).collect();
        let mut digests = vec![Digest::ZERO; keys.len()];
        identity_digests(hasher, IDENTITY_DEFAULT, &keys, &mut digests);
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let mut count = 0;
        for ((key, place, table), identity_digest) in taken.into_iter().zip(digests) {
            let is_key = table.is_of(self.backend, &key.0);
            // Another tile may have made it meanwhile.
            if is_key && !slots.places.contains_key(&key) {
                slots.places.insert(key, place);
                count += 1;
            }
            let was_used = AtomicBool::new(false);
            slots.slots[place] = Slot { key, identity_digest, table: Some(table), was_used };
        }
        self.made.fetch_add(count, Ordering::Relaxed);
        usize::try_from(count).unwrap_or_default()
    }

    /// Slots for the keys, out of everybody's sight; fewer where all are in use.
    fn take(&self, keys: &[PublicKey]) -> Vec<(PublicKey, usize, Arc<KeyTable>)> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            let Some((place, table)) = slots.evict() else { break };
            let old = slots.slots[place].key;
            // A slot whose key stands elsewhere, or nowhere, takes nothing away.
            if slots.places.get(&old) == Some(&place) {
                slots.places.remove(&old);
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
            taken.push((*key, place, table));
        }
        taken
    }

    /// The tables of the keys that have one; `tables[i]` belongs to `keys[i]`.
    pub(crate) fn tables<'a>(
        &self,
        keys: impl Iterator<Item = &'a PublicKey>,
        tables: &mut [Option<Arc<KeyTable>>],
    ) {
        if self.count_max == 0 {
            return;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let (mut hits, mut misses) = (0, 0);
        for (key, table) in keys.zip(tables) {
            *table = slots.find(key).and_then(|slot| slot.table.clone());
            *if table.is_some() { &mut hits } else { &mut misses } += 1;
        }
        drop(slots);
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(misses, Ordering::Relaxed);
    }

    /// ZA of the keys with the default identity: from the cache, or made side by side.
    ///
    /// # Panics
    /// If the two slices differ in length.
    pub fn identity_digests(
        &self,
        hasher: &dyn Hasher,
        keys: &[&PublicKey],
        digests: &mut [Digest],
    ) {
        assert_eq!(keys.len(), digests.len(), "one digest for each key");
        let mut missing = Vec::new();
        {
            let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
            for (place, (key, digest)) in keys.iter().zip(digests.iter_mut()).enumerate() {
                match slots.find(key) {
                    Some(slot) => *digest = slot.identity_digest,
                    None => missing.push(place),
                }
            }
        }
        let others: Vec<&PublicKey> = missing.iter().map(|place| keys[*place]).collect();
        let mut made = vec![Digest::ZERO; others.len()];
        identity_digests(hasher, IDENTITY_DEFAULT, &others, &mut made);
        for (place, digest) in missing.into_iter().zip(made) {
            digests[place] = digest;
        }
    }

    /// What it did and holds; no count ever falls but that of the keys held.
    #[must_use]
    pub fn counts(&self) -> KnownKeysCounts {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        KnownKeysCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            made: self.made.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            held: slots.places.len() as u64,
        }
    }
}

impl Slots {
    fn find(&self, key: &PublicKey) -> Option<&Slot> {
        let slot = &self.slots[*self.places.get(key)?];
        // Written only when it changes: the line is shared by all who verify.
        if !slot.was_used.load(Ordering::Relaxed) {
            slot.was_used.store(true, Ordering::Relaxed);
        }
        Some(slot)
    }

    /// The next slot that was not used since the hand came by and whose table nobody holds.
    fn evict(&mut self) -> Option<(usize, Arc<KeyTable>)> {
        for _ in 0..2 * self.slots.len() {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[place];
            let is_held = slot.table.as_ref().is_none_or(|table| Arc::strong_count(table) > 1);
            if is_held || core::mem::take(slot.was_used.get_mut()) {
                continue;
            }
            return slot.table.take().map(|table| (place, table));
        }
        None
    }
}

#[cfg(test)]
mod tests;
