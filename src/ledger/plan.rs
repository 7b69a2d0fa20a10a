//! The plan of a block: which entries it may touch, and which of its transactions are independent.
//!
//! ```text
//! batches, expired nonces --Plan::new--> keys() --the tile prefetches--> load_values() --> Loaded
//!                                    \-> portions(n) --execute(), on any worker--> merge()
//! ```
//!
//! Two transactions fall into one group when one of them may write what the other may touch,
//! directly or through others. Inside a group the order of the block holds; between groups there is
//! nothing to order. A plan owns what it needs, so that workers share it behind an `Arc`. Owner:
//! the execute tile. It never reads the state by itself.

use std::sync::Arc;

use hufu_crypto::Hasher;
use hufu_types::batch::BatchEntry;
use hufu_types::codec::{index, length_u32};
use hufu_types::receipt::Outcome;
use hufu_types::{Address, Batch, ChainId, Digest, Genesis, TransactionView};

use crate::corrupt::Corrupt;
use crate::declare::{Access, declare, touched};
use crate::execute::Run;
use crate::expiry::Expired;
use crate::key::StateKey;
use crate::outcome::Touched;
use crate::value::{Nonce, StateValue};

/// The rights that the genesis gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    openers: Vec<Address>,
    issuers: Vec<Address>,
}

impl Rights {
    /// The rights that `genesis` gives.
    #[must_use]
    pub fn new(genesis: &Genesis) -> Self {
        let (openers, issuers) = (genesis.account_openers.clone(), genesis.asset_issuers.clone());
        assert!(openers.is_sorted(), "a genesis keeps its openers ascending");
        assert!(issuers.is_sorted(), "a genesis keeps its issuers ascending");
        Self { openers, issuers }
    }

    /// Whether `address` may open and close accounts.
    #[must_use]
    pub(crate) fn opens_accounts(&self, address: &Address) -> bool {
        self.openers.binary_search(address).is_ok()
    }

    /// Whether `address` may create assets.
    #[must_use]
    pub(crate) fn creates_assets(&self, address: &Address) -> bool {
        self.issuers.binary_search(address).is_ok()
    }
}

/// What a block is executed in, besides the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The chain.
    pub chain_id: ChainId,
    /// Height of the block, from 1.
    pub height: u64,
    /// The rights of the genesis.
    pub rights: Arc<Rights>,
}

/// The decoded values of a plan's keys as they were before the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// By slot.
    pub(crate) stored: Vec<Option<StateValue>>,
}

/// What the execution of some groups gave; opaque, to be handed to [`Plan::merge`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct GroupsOutcome {
    /// Transaction and outcome, in any order.
    pub(crate) outcomes: Vec<(u32, Outcome)>,
    /// Slot and its value after the block, where it differs from the one before it; in any order.
    pub(crate) writes: Vec<(u32, Option<StateValue>)>,
}

/// Where a slot's value lives while its group is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The only group that touches it; [`SHARED`] if no transaction writes it.
    pub(crate) group: u32,
    /// Its number among the group's slots.
    pub(crate) local: u32,
}

/// Group of the slots that are only read.
pub(crate) const SHARED: u32 = u32::MAX;

const NONE: u32 = u32::MAX;

/// A list of lists in two allocations.
#[derive(Clone, Debug)]
struct Lists {
    starts: Vec<u32>,
    items: Vec<u32>,
}

impl Lists {
    /// Sorts the positions of `list_of` into `count` lists; positions of no list are [`NONE`].
    fn new(count: u32, list_of: &[u32]) -> Self {
        let mut starts = vec![0_u32; index(count) + 1];
        list_of.iter().filter(|&&list| list != NONE).for_each(|&list| starts[index(list) + 1] += 1);
        for list in 0..index(count) {
            starts[list + 1] += starts[list];
        }
        let mut next = starts.clone();
        let mut items = vec![0; index(starts[index(count)])];
        for (position, &list) in (0_u32..).zip(list_of).filter(|&(_, &list)| list != NONE) {
            items[index(next[index(list)])] = position;
            next[index(list)] += 1;
        }
        assert_eq!(next[..index(count)], starts[1..], "every list is filled to its end");
        Self { starts, items }
    }

    fn get(&self, list: u32) -> &[u32] {
        let list = index(list);
        &self.items[index(self.starts[list])..index(self.starts[list + 1])]
    }
}

/// The plan of one block.
#[derive(Clone, Debug)]
pub struct Plan {
    context: Context,
    batches: Vec<Batch>,
    /// Batch and position of each transaction.
    places: Vec<(u32, u32)>,
    senders: Vec<Address>,
    expired: Expired,
    touched: Touched,
    /// By slot, ascending.
    keys: Vec<StateKey>,
    /// By slot: where its value lives.
    homes: Vec<Place>,
    /// The slots that each transaction declares, in the order of `declare.rs`.
    slots: Vec<u32>,
    slots_starts: Vec<u32>,
    groups_count: u32,
    groups_transactions: Lists,
    groups_slots: Lists,
}

impl Plan {
    /// Plans the block of `context` with these batches in order; `expired` was read for the same
    /// height.
    ///
    /// The signatures of the transactions have been verified, or are by whoever reads the outcome:
    /// no rule looks at them.
    ///
    /// # Errors
    /// [`Corrupt::ChainWrong`] if a batch is of another chain.
    pub fn new(
        context: Context,
        batches: Vec<Batch>,
        expired: Expired,
        hasher: &dyn Hasher,
    ) -> Result<Self, Corrupt> {
        assert!(context.height > 0, "blocks are numbered from 1");
        assert_eq!(expired.valid_until() + 1, context.height, "nonces expired for this height");
        let is_foreign = |batch: &&Batch| batch.header().prefix.chain_id != context.chain_id;
        if let Some(foreign) = batches.iter().find(is_foreign) {
            return Err(Corrupt::ChainWrong { batch: foreign.digest() });
        }
        let places = places(&batches);
        let views: Vec<TransactionView<'_>> =
            places.iter().map(|&place| transaction(&batches, place)).collect();
        let senders = senders(&views, hasher);
        let mut declared = Declared::new(&views);
        for (view, sender) in views.iter().zip(&senders) {
            declared.add(*sender, view);
        }
        drop(views);
        let Declared { mentions, writes, slots_starts, touched } = declared;
        let Keys { keys, written, slots } = Keys::new(mentions, &writes);
        let groups_of = group(&written, &slots, &slots_starts);
        let groups_count = groups_of.iter().max().map_or(0, |&last| last + 1);
        let groups_transactions = Lists::new(groups_count, &groups_of);
        let slot_groups = slot_groups(&written, &slots, &slots_starts, &groups_of);
        let groups_slots = Lists::new(groups_count, &slot_groups);
        let homes = homes(&slot_groups, groups_count);
        Ok(Self {
            context,
            batches,
            places,
            senders,
            expired,
            touched,
            keys,
            homes,
            slots,
            slots_starts,
            groups_count,
            groups_transactions,
            groups_slots,
        })
    }

    /// The keys of all that the transactions may touch, ascending and each once.
    #[must_use]
    pub fn keys(&self) -> &[StateKey] {
        &self.keys
    }

    /// The keys whose values execution needs, ascending; the nonces are not among them.
    #[must_use]
    pub fn stored_keys(&self) -> &[StateKey] {
        &self.keys[..self.nonces_start()]
    }

    /// The nonces of which execution needs to know whether they are used, ascending.
    #[must_use]
    pub fn nonces(&self) -> &[StateKey] {
        &self.keys[self.nonces_start()..]
    }

    fn nonces_start(&self) -> usize {
        // Nonces are the last kind in the order of keys.
        self.keys.partition_point(|key| !matches!(key, StateKey::Nonce { .. }))
    }

    /// Transactions in the block.
    #[must_use]
    pub fn transactions_count(&self) -> u32 {
        length_u32(&self.places)
    }

    /// Independent groups, at most one for each transaction.
    #[must_use]
    pub const fn groups_count(&self) -> u32 {
        self.groups_count
    }

    /// Decodes values that come in the order of [`Plan::stored_keys`], and takes what the rows say
    /// of each of [`Plan::nonces`].
    ///
    /// # Errors
    /// [`Corrupt`] if a value is not one the ledger wrote there, or the rows lack a nonce of the
    /// expiry index.
    pub fn load_values<V: AsRef<[u8]>>(
        &self,
        values: impl IntoIterator<Item = Option<V>>,
        used: &[bool],
    ) -> Result<Loaded, Corrupt> {
        let (keys, nonces) = (self.stored_keys(), self.nonces());
        let mut stored = Vec::with_capacity(self.keys.len());
        for (key, value) in keys.iter().zip(values) {
            stored.push(value.map(|bytes| StateValue::parse(key, bytes.as_ref())).transpose()?);
        }
        assert_eq!(stored.len(), keys.len(), "the caller fetched a value for every key");
        assert_eq!(used.len(), nonces.len(), "the caller looked up every nonce");
        for (key, &is_used) in nonces.iter().zip(used) {
            let nonce = self.expired.check(key, is_used)?;
            stored.push(is_used.then_some(StateValue::Nonce(nonce.unwrap_or(Nonce::USED))));
        }
        Ok(Loaded { stored })
    }

    /// Deals all groups out to `count` workers, evenly by what they touch; portions may be empty.
    #[must_use]
    pub fn portions(&self, count: usize) -> Vec<Vec<u32>> {
        assert!(count > 0, "somebody must execute the block");
        let mut portions = vec![(0_usize, Vec::new()); count];
        let mut groups: Vec<(usize, u32)> = (0..self.groups_count)
            .map(|group| {
                let transactions = self.groups_transactions.get(group);
                let slots: usize = transactions.iter().map(|&at| self.slots_of(at).len()).sum();
                (slots + transactions.len(), group)
            })
            .collect();
        // The heaviest first, each to the worker with the least so far.
        groups.sort_unstable_by(|first, second| second.cmp(first));
        for (weight, group) in groups {
            let least = portions.iter_mut().min_by_key(|(load, _)| *load);
            let Some((load, portion)) = least else { continue };
            *load += weight;
            portion.push(group);
        }
        portions.into_iter().map(|(_, portion)| portion).collect()
    }

    /// Executes some groups. Pure: the result depends on the arguments alone, and groups may be
    /// executed anywhere, in any order and any distribution.
    ///
    /// # Errors
    /// [`Corrupt`] if the state contradicts itself.
    pub fn execute(&self, loaded: &Loaded, groups: &[u32]) -> Result<GroupsOutcome, Corrupt> {
        assert_eq!(loaded.stored.len(), self.keys.len(), "loaded for this plan");
        assert!(groups.iter().all(|&group| group < self.groups_count), "groups of this plan");
        Run::new(self, loaded).execute(groups)
    }

    pub(crate) const fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) const fn expired(&self) -> &Expired {
        &self.expired
    }

    pub(crate) const fn touched(&self) -> &Touched {
        &self.touched
    }

    pub(crate) fn transaction(&self, at: u32) -> TransactionView<'_> {
        transaction(&self.batches, self.places[index(at)])
    }

    pub(crate) fn sender(&self, at: u32) -> Address {
        self.senders[index(at)]
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &BatchEntry> {
        self.batches.iter().flat_map(Batch::entries)
    }

    pub(crate) fn slots_of(&self, at: u32) -> &[u32] {
        let at = index(at);
        &self.slots[index(self.slots_starts[at])..index(self.slots_starts[at + 1])]
    }

    pub(crate) fn key(&self, slot: u32) -> StateKey {
        self.keys[index(slot)]
    }

    pub(crate) fn home(&self, slot: u32) -> Place {
        self.homes[index(slot)]
    }

    pub(crate) fn group_transactions(&self, group: u32) -> &[u32] {
        self.groups_transactions.get(group)
    }

    pub(crate) fn group_slots(&self, group: u32) -> &[u32] {
        self.groups_slots.get(group)
    }

    /// The value of `slot` when the block's first transaction begins: expired nonces have left by
    /// then.
    pub(crate) fn initial(&self, loaded: &Loaded, slot: u32) -> Option<StateValue> {
        let stored = loaded.stored[index(slot)]?;
        let leaves =
            matches!(stored, StateValue::Nonce(_)) && self.expired.contains(&self.key(slot));
        (!leaves).then_some(stored)
    }
}

fn places(batches: &[Batch]) -> Vec<(u32, u32)> {
    let mut places = Vec::with_capacity(batches.iter().map(|batch| batch.entries().len()).sum());
    for (batch, content) in (0_u32..).zip(batches) {
        let count = length_u32(content.entries());
        assert!(count > 0, "a batch has no encoding without transactions");
        places.extend((0..count).map(|position| (batch, position)));
    }
    places
}

fn transaction(batches: &[Batch], (batch, position): (u32, u32)) -> TransactionView<'_> {
    let view = batches[index(batch)].transaction(index(position));
    let Some(view) = view else { unreachable!("a batch has read its transactions once") };
    view
}

/// The address of every sender: one digest for each transaction, many at a time.
fn senders(views: &[TransactionView<'_>], hasher: &dyn Hasher) -> Vec<Address> {
    let keys: Vec<&[u8]> = views.iter().map(|view| view.header().sender.0.as_slice()).collect();
    let mut digests = vec![Digest::ZERO; keys.len()];
    hasher.digest_many(&keys, &mut digests);
    let senders: Vec<Address> = digests.iter().map(Address::from_key_digest).collect();
    assert_eq!(senders.len(), views.len(), "one sender for each transaction");
    senders
}

/// The keys that all transactions declare, in the order in which they are mentioned.
struct Declared {
    /// Key and number of the mention.
    mentions: Vec<(StateKey, u32)>,
    /// By mention: whether it may write.
    writes: Vec<bool>,
    slots_starts: Vec<u32>,
    touched: Touched,
}

/// The keys of a block in order, each once.
struct Keys {
    keys: Vec<StateKey>,
    /// By slot: whether any transaction may write it.
    written: Vec<bool>,
    /// By mention: the slot of its key.
    slots: Vec<u32>,
}

impl Declared {
    fn new(views: &[TransactionView<'_>]) -> Self {
        let most: u32 = views.iter().map(TransactionView::keys_count).sum();
        Self {
            mentions: Vec::with_capacity(index(most)),
            writes: Vec::with_capacity(index(most)),
            slots_starts: vec![0],
            touched: Touched::default(),
        }
    }

    fn add(&mut self, sender: Address, view: &TransactionView<'_>) {
        let (nonce, before) = (view.header().nonce.get(), self.mentions.len());
        self.visit(StateKey::Nonce { sender, nonce }, Access::Write);
        self.touched.begin(sender);
        for operation in view.operations() {
            declare(sender, &operation, &mut |key, access| self.visit(key, access));
            touched(&operation, &mut |address| self.touched.push(address));
        }
        self.touched.end();
        let declared = self.mentions.len() - before;
        assert!(declared <= index(view.keys_count()), "form checks bound what is declared");
        self.slots_starts.push(length_u32(&self.mentions));
    }

    fn visit(&mut self, key: StateKey, access: Access) {
        self.mentions.push((key, length_u32(&self.mentions)));
        self.writes.push(access == Access::Write);
    }
}

impl Keys {
    /// Gives every key a slot; slots ascend with their keys. Sorting takes no longer for keys that
    /// somebody chose with care, as a table of hashes would.
    fn new(mut mentions: Vec<(StateKey, u32)>, writes: &[bool]) -> Self {
        assert_eq!(mentions.len(), writes.len(), "every mention says whether it writes");
        mentions.sort_unstable();
        let (mut keys, mut written) = (Vec::new(), Vec::new());
        let mut slots = vec![NONE; mentions.len()];
        for (key, mention) in mentions {
            if keys.last() != Some(&key) {
                keys.push(key);
                written.push(false);
            }
            let slot = keys.len() - 1;
            written[slot] |= writes[index(mention)];
            slots[index(mention)] = length_u32(&keys) - 1;
        }
        assert!(keys.is_sorted_by(|first, second| first < second), "every key has one slot");
        assert!(!slots.contains(&NONE), "every mention has a slot");
        Self { keys, written, slots }
    }
}

/// The group of each transaction, numbered by their first transactions.
fn group(written: &[bool], slots: &[u32], starts: &[u32]) -> Vec<u32> {
    let count = length_u32(starts) - 1;
    let mut parents: Vec<u32> = (0..count).collect();
    let mut first_of_slot = vec![NONE; written.len()];
    for (at, bounds) in (0_u32..).zip(starts.windows(2)) {
        for &slot in &slots[index(bounds[0])..index(bounds[1])] {
            if !written[index(slot)] {
                continue;
            }
            let first = &mut first_of_slot[index(slot)];
            if *first == NONE {
                *first = at;
            } else {
                join(&mut parents, *first, at);
            }
        }
    }
    let mut groups = vec![NONE; index(count)];
    let mut next = 0;
    for at in 0..count {
        let root = find(&mut parents, at);
        assert!(root <= at, "the root of a group is its first transaction");
        if root == at {
            groups[index(at)] = next;
            next += 1;
        } else {
            groups[index(at)] = groups[index(root)];
        }
    }
    assert!(!groups.contains(&NONE), "every transaction has a group");
    groups
}

fn find(parents: &mut [u32], mut at: u32) -> u32 {
    while parents[index(at)] != at {
        parents[index(at)] = parents[index(parents[index(at)])];
        at = parents[index(at)];
    }
    at
}

fn join(parents: &mut [u32], first: u32, second: u32) {
    let (first, second) = (find(parents, first), find(parents, second));
    let (low, high) = (first.min(second), first.max(second));
    parents[index(high)] = low;
}

/// The group of each slot that may be written; [`NONE`] for the others.
fn slot_groups(written: &[bool], slots: &[u32], starts: &[u32], groups_of: &[u32]) -> Vec<u32> {
    let mut slot_groups = vec![NONE; written.len()];
    for (&group, bounds) in groups_of.iter().zip(starts.windows(2)) {
        for &slot in &slots[index(bounds[0])..index(bounds[1])] {
            let owner = &mut slot_groups[index(slot)];
            if written[index(slot)] {
                assert!(*owner == NONE || *owner == group, "one group owns what is written");
                *owner = group;
            }
        }
    }
    slot_groups
}

fn homes(slot_groups: &[u32], groups_count: u32) -> Vec<Place> {
    const _: () = assert!(NONE == SHARED, "a slot without an owner is shared");
    let mut next = vec![0_u32; index(groups_count)];
    let place = |&group: &u32| {
        let Some(next) = next.get_mut(index(group)) else { return Place { group, local: 0 } };
        let local = *next;
        *next += 1;
        Place { group, local }
    };
    let homes: Vec<Place> = slot_groups.iter().map(place).collect();
    assert_eq!(homes.len(), slot_groups.len(), "one place for each slot");
    homes
}
