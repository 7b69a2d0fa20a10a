//! An account in a state of sixteen buckets, rows and forks, proven by the next block of the small
//! real chain.

use std::collections::BTreeMap;

use hufu_crypto::software_provider;
use hufu_ledger::account::ProvenEntry;
use hufu_ledger::{
    Account, AccountProof, Holding, Mandate, Nonce, StateChanges, StateKey, StateProof, StateTree,
    StateValue, Write,
};
use hufu_types::block::BlockHeader;
use hufu_types::{Address, AssetCode};
use zerocopy::little_endian::U64;

use crate::examples::Chain;

/// The account that is there.
pub const PRESENT: Address = Address([1; 20]);
/// The account that is not.
pub const ABSENT: Address = Address([3; 20]);

/// A state, and the header that carries its root.
#[derive(Clone, Debug)]
pub struct Accounts {
    values: BTreeMap<StateKey, StateValue>,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    tree: StateTree,
    /// Header of height 5, which carries the state root of height 4.
    pub header: BlockHeader,
}

impl Accounts {
    /// One account with two holdings and a mandate, another with one holding, and many nonces.
    ///
    /// # Panics
    /// If the ledger refuses what it is given.
    #[must_use]
    pub fn new(chain: &Chain) -> Self {
        let values: BTreeMap<StateKey, StateValue> = entries().into_iter().collect();
        let used = StateValue::Nonce(Nonce { valid_until: 605, used_at: 5 });
        let nonces = (0..100).map(|nonce| (StateKey::Nonce { sender: PRESENT, nonce }, used));
        let write = |(key, value)| Write { key, before: None, value: Some(value) };
        let writes: Vec<Write> =
            values.iter().map(|(key, value)| (*key, *value)).chain(nonces).map(write).collect();
        let hasher = &*software_provider().hasher;
        let mut tree = StateTree::new(chain.id(), 4, hasher);
        let changes = StateChanges::new(chain.id(), 4, &writes, hasher);
        let applied = tree.apply(&tree.update(&changes), hasher).unwrap();
        let records = applied
            .records()
            .map(|(place, record)| (place.to_bytes().as_ref().to_vec(), record.unwrap().to_vec()));
        let records = records.collect();
        let last = chain.heights.last().unwrap().block.header();
        let header = BlockHeader {
            height: U64::new(5),
            executed_height: U64::new(4),
            state_root: tree.root(),
            ..*last
        };
        Self { values, records, tree, header }
    }

    /// Proves one entry.
    ///
    /// # Panics
    /// If the records are not those of the tree.
    #[must_use]
    pub fn prove(&self, key: &StateKey) -> StateProof {
        let mut prover = self.tree.prove(key);
        while let Some(place) = prover.wanted() {
            prover.supply(&self.records[place.to_bytes().as_ref()]).unwrap();
        }
        prover.finish()
    }

    /// One entry with its proof.
    #[must_use]
    pub fn entry(&self, key: StateKey) -> ProvenEntry {
        ProvenEntry { key, value: self.values.get(&key).copied(), proof: self.prove(&key) }
    }

    /// The account with its proof.
    #[must_use]
    pub fn proof(&self, chain: &Chain, address: Address) -> AccountProof {
        let is_its = |key: &&StateKey| match key {
            StateKey::Holding(owner, _) | StateKey::Mandate { owner, .. } => *owner == address,
            _ => false,
        };
        let others = self.values.keys().filter(is_its).copied();
        let keys = [StateKey::Account(address)].into_iter().chain(others);
        let entries = keys.map(|key| self.entry(key)).collect();
        let certificate = chain.certificate(&self.header);
        AccountProof { address, header: self.header, certificate, entries }
    }
}

fn entries() -> Vec<(StateKey, StateValue)> {
    let other = Address([2; 20]);
    let [bond, gold] = [*b"BOND", *b"GOLD"].map(|name| {
        let mut code = [0; 16];
        code[..4].copy_from_slice(&name);
        AssetCode(code)
    });
    let account = |holdings_count, mandates_count| {
        let closed_at = None;
        StateValue::Account(Account { opened_at: 3, closed_at, holdings_count, mandates_count })
    };
    let holding = |balance, frozen| StateValue::Holding(Holding { balance, frozen });
    let granted = Mandate { limit: 5, expires_at: 700, granted_at: 4 };
    vec![
        (StateKey::Account(PRESENT), account(2, 1)),
        (StateKey::Account(other), account(1, 0)),
        (StateKey::Holding(PRESENT, bond), holding(7, true)),
        (StateKey::Holding(PRESENT, gold), holding(1 << 90, false)),
        (StateKey::Holding(other, gold), holding(9, false)),
        (
            StateKey::Mandate { owner: PRESENT, agent: other, asset: gold },
            StateValue::Mandate(granted),
        ),
    ]
}
