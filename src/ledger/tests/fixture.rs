//! A small world for tests: people by number, operations by value, a store in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use hufu_crypto::{Signer, SoftwareSigner};
use hufu_types::operation::{
    AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, Operation, RevokeMandateBody,
    SupplyBody,
};
use hufu_types::receipt::Outcome;
use hufu_types::{
    Address, AssetCode, Batch, BatchHeader, ChainId, Digest, DomainPrefix, Genesis, Kind, Leg,
    Parameters, PublicKey, Signature, TransactionBuilder, TransactionView, Validator, ValidatorSet,
};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64, U128};

use crate::{
    Applied, BlockOutcome, Context, Corrupt, Expired, ExpiryKey, Loaded, Place, Plan, Rights,
    StateChanges, StateKey, StateProof, StateTree, StateValue, TreeCheck, TreeCounts,
};

/// Opens accounts.
pub(crate) const OPENER: u8 = 0;
/// Creates assets, and is the authority of those the tests create.
pub(crate) const ISSUER: u8 = 1;

pub(crate) const BUCKETS_LOG2: u8 = 4;

pub(crate) fn key(person: u8) -> PublicKey {
    PublicKey([person + 1; 64])
}

pub(crate) fn address(person: u8) -> Address {
    key(person).address()
}

pub(crate) fn asset(number: u8) -> AssetCode {
    AssetCode::new(["USD", "CNY", "ACME", "NONE"][usize::from(number % 4)]).unwrap()
}

/// One movement, by numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) asset: u8,
    pub(crate) from: u8,
    pub(crate) to: u8,
    pub(crate) amount: u128,
}

impl Move {
    fn leg(self) -> Leg {
        Leg {
            asset: asset(self.asset),
            from: address(self.from),
            to: address(self.to),
            amount: U128::new(self.amount),
        }
    }
}

/// An operation, by numbers.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Open(u8),
    Close(u8),
    Create { asset: u8, authority: u8, cap: u128 },
    Issue { asset: u8, account: u8, amount: u128 },
    Redeem { asset: u8, account: u8, amount: u128 },
    Transfer(Move),
    Settle(Vec<Move>),
    Grant { agent: u8, asset: u8, limit: u128, expires_at: u64 },
    Revoke { agent: u8, asset: u8 },
    Notarise,
    Freeze { asset: u8, account: u8 },
    Unfreeze { asset: u8, account: u8 },
}

impl Act {
    pub(crate) fn write(&self, builder: TransactionBuilder) -> TransactionBuilder {
        let supply = |number, account, amount| SupplyBody {
            asset: asset(number),
            account: address(account),
            amount: U128::new(amount),
        };
        let holding =
            |number, account| HoldingBody { asset: asset(number), account: address(account) };
        match *self {
            Self::Open(person) => {
                builder.operation(Operation::OpenAccount(&AccountBody { address: address(person) }))
            }
            Self::Close(person) => builder
                .operation(Operation::CloseAccount(&AccountBody { address: address(person) })),
            Self::Create { asset: number, authority, cap } => {
                let body = CreateAssetBody::new(asset(number), address(authority), 2, cap);
                builder.operation(Operation::CreateAsset(&body))
            }
            Self::Issue { asset, account, amount } => {
                builder.operation(Operation::IssueAsset(&supply(asset, account, amount)))
            }
            Self::Redeem { asset, account, amount } => {
                builder.operation(Operation::RedeemAsset(&supply(asset, account, amount)))
            }
            Self::Transfer(movement) => builder.operation(Operation::Transfer(&movement.leg())),
            Self::Settle(ref moves) => {
                let legs: Vec<Leg> = moves.iter().map(|movement| movement.leg()).collect();
                builder.operation(Operation::Settle(&legs))
            }
            Self::Grant { agent, asset: number, limit, expires_at } => {
                let body = GrantMandateBody {
                    agent: address(agent),
                    asset: asset(number),
                    limit: U128::new(limit),
                    expires_at: U64::new(expires_at),
                };
                builder.operation(Operation::GrantMandate(&body))
            }
            Self::Revoke { agent, asset: number } => {
                let body = RevokeMandateBody { agent: address(agent), asset: asset(number) };
                builder.operation(Operation::RevokeMandate(&body))
            }
            Self::Notarise => {
                builder.operation(Operation::Notarise { digest: &Digest::ZERO, memo: b"memo" })
            }
            Self::Freeze { asset, account } => {
                builder.operation(Operation::FreezeHolding(&holding(asset, account)))
            }
            Self::Unfreeze { asset, account } => {
                builder.operation(Operation::UnfreezeHolding(&holding(asset, account)))
            }
        }
    }
}

/// A transaction, by numbers.
#[derive(Clone, Debug)]
pub(crate) struct Tx {
    pub(crate) sender: u8,
    pub(crate) nonce: u64,
    pub(crate) valid_until: u64,
    pub(crate) acts: Vec<Act>,
}

impl Tx {
    fn bytes(&self, chain_id: ChainId) -> Vec<u8> {
        let builder =
            TransactionBuilder::new(chain_id, key(self.sender), self.nonce, self.valid_until);
        let builder = self.acts.iter().fold(builder, |builder, act| act.write(builder));
        // The ledger executes what verification let pass and looks at no signature.
        let signature = Signature([9; 64]);
        TransactionBuilder::join(builder.unsigned(), &signature).unwrap().bytes().to_vec()
    }
}

pub(crate) fn genesis() -> Genesis {
    let signer = SoftwareSigner::from_bytes(&[100; 32]).unwrap();
    let link = SoftwareSigner::from_bytes(&[101; 32]).unwrap();
    let (key, link_key) = (*signer.public_key(), *link.public_key());
    let validator = Validator { name: "one".into(), key, link_key, power: 1 };
    let parameters = Parameters {
        certified_lag_heights: 1,
        block_interval_millis: 100,
        state_buckets_log2: BUCKETS_LOG2,
    };
    let validators = ValidatorSet::new(vec![validator]).unwrap();
    let (openers, issuers) = (vec![address(OPENER)], vec![address(ISSUER)]);
    Genesis::new("test".into(), 1, parameters, validators, openers, issuers).unwrap()
}

/// Joins transactions into one batch; its signatures are never looked at here.
pub(crate) fn batch(chain_id: ChainId, transactions: &[Vec<u8>]) -> Batch {
    let (mut body, mut last_height) = (Vec::new(), 0);
    for bytes in transactions {
        let view = TransactionView::parse(bytes).unwrap();
        last_height = last_height.max(view.header().valid_until.get());
        body.extend_from_slice(U32::new(u32::try_from(bytes.len()).unwrap()).as_bytes());
        body.extend_from_slice(bytes);
    }
    let header = BatchHeader {
        prefix: DomainPrefix::new(Kind::Batch, chain_id),
        origin: address(100),
        sequence: U64::new(1),
        last_height: U64::new(last_height),
        transactions_count: U32::new(u32::try_from(transactions.len()).unwrap()),
        transactions_size: U32::new(u32::try_from(body.len()).unwrap()),
    };
    let bytes = [header.as_bytes(), &body].concat();
    Batch::parse(bytes.into(), &*hufu_crypto::software_provider().hasher).unwrap()
}

impl Plan {
    /// Decodes the values of the plan's keys from a whole state.
    pub(crate) fn load(&self, state: &BTreeMap<StateKey, Vec<u8>>) -> Result<Loaded, Corrupt> {
        let used: Vec<bool> = self.nonces().iter().map(|key| state.contains_key(key)).collect();
        self.load_values(self.stored_keys().iter().map(|key| state.get(key)), &used)
    }
}

/// A node's store in memory, and everything a block passes through.
pub(crate) struct Store {
    pub(crate) chain_id: ChainId,
    pub(crate) height: u64,
    pub(crate) rights: Arc<Rights>,
    pub(crate) state: BTreeMap<StateKey, Vec<u8>>,
    pub(crate) expiry: BTreeMap<[u8; 20], Vec<u8>>,
    /// The bucket tree, by stored key.
    pub(crate) records: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) tree: StateTree,
    pub(crate) provider: hufu_crypto::Provider,
    nonce: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self::with_buckets(BUCKETS_LOG2)
    }

    pub(crate) fn with_buckets(log2: u8) -> Self {
        let (genesis, provider) = (genesis(), hufu_crypto::software_provider());
        let chain_id = genesis.chain_id();
        Self {
            chain_id,
            height: 0,
            rights: Arc::new(Rights::new(&genesis)),
            state: BTreeMap::new(),
            expiry: BTreeMap::new(),
            records: BTreeMap::new(),
            tree: StateTree::new(chain_id, log2, &*provider.hasher),
            provider,
            nonce: 1 << 32,
        }
    }

    pub(crate) fn plan(&self, batches: Vec<Batch>) -> Plan {
        self.try_plan(batches).unwrap()
    }

    pub(crate) fn try_plan(&self, batches: Vec<Batch>) -> Result<Plan, Corrupt> {
        let height = self.height + 1;
        let prefix = ExpiryKey::prefix(height - 1);
        let chunks = self.expiry.iter().filter(|(key, _)| key.starts_with(&prefix));
        let chunks = chunks.map(|(key, value)| (key.as_slice(), value.as_slice()));
        let context = Context { chain_id: self.chain_id, height, rights: self.rights.clone() };
        let expired = Expired::read(height, chunks).unwrap();
        Plan::new(context, batches, expired, &*self.provider.hasher)
    }

    pub(crate) fn batches(&self, transactions: &[Tx]) -> Vec<Batch> {
        let bytes: Vec<Vec<u8>> = transactions.iter().map(|tx| tx.bytes(self.chain_id)).collect();
        bytes.chunks(3).map(|bytes| batch(self.chain_id, bytes)).collect()
    }

    /// Executes a block in one portion and stores it.
    pub(crate) fn block(&mut self, transactions: &[Tx]) -> BlockOutcome {
        self.execute(self.batches(transactions))
    }

    fn execute(&mut self, batches: Vec<Batch>) -> BlockOutcome {
        let plan = self.plan(batches);
        let loaded = plan.load(&self.state).unwrap();
        let groups: Vec<u32> = (0..plan.groups_count()).collect();
        let part = plan.execute(&loaded, &groups).unwrap();
        let outcome = plan.merge(&loaded, vec![part], &*self.provider.hasher);
        let applied = self.commit(&outcome).unwrap();
        assert_eq!(applied.root, self.tree.root());
        outcome
    }

    pub(crate) fn commit(&mut self, outcome: &BlockOutcome) -> Result<Applied, Corrupt> {
        let hasher = self.provider.hasher.clone();
        let changes = StateChanges::new(self.chain_id, self.tree.log2(), &outcome.writes, &*hasher);
        let applied = self.apply(&changes)?;
        for write in &outcome.writes {
            match write.value {
                Some(value) => {
                    self.state.insert(write.key, value.to_bytes().as_slice().to_vec());
                }
                None => assert!(self.state.remove(&write.key).is_some(), "deletes what is there"),
            }
        }
        for key in &outcome.expiry.deletions {
            assert!(self.expiry.remove(&key.to_bytes()).is_some());
        }
        for (key, value) in &outcome.expiry.additions {
            assert!(self.expiry.insert(key.to_bytes(), value.clone()).is_none());
        }
        self.height = outcome.height;
        Ok(applied)
    }

    /// Brings the bucket tree up to some changes.
    pub(crate) fn apply(&mut self, changes: &StateChanges) -> Result<Applied, Corrupt> {
        let hasher = &*self.provider.hasher;
        let mut update = self.tree.update(changes);
        while !update.wanted().is_empty() {
            assert!(update.wanted().is_sorted_by(|first, second| first < second));
            let records: Vec<_> = update
                .wanted()
                .iter()
                .map(|place| self.records.get(place.to_bytes().as_ref()).cloned())
                .collect();
            update.supply(records, hasher)?;
        }
        let applied = self.tree.apply(&update, hasher)?;
        for (place, record) in applied.records() {
            let key = place.to_bytes().as_ref().to_vec();
            match record {
                Some(record) => drop(self.records.insert(key, record.to_vec())),
                None => assert!(self.records.remove(&key).is_some(), "deletes what is there"),
            }
        }
        Ok(applied)
    }

    pub(crate) fn prove(&self, key: &StateKey) -> Result<StateProof, Corrupt> {
        let mut prover = self.tree.prove(key);
        while let Some(place) = prover.wanted() {
            let record = self.records.get(place.to_bytes().as_ref());
            prover.supply(record.map_or(&[], Vec::as_slice))?;
        }
        Ok(prover.finish())
    }

    /// The tree as a node loads it at its start.
    pub(crate) fn load(&self) -> Result<StateTree, Corrupt> {
        let log2 = self.tree.log2();
        let records = self.records.iter();
        let places = records.map(|(key, record)| (Place::parse(key, log2).unwrap(), record));
        let tops = places.filter(|(place, _)| place.depth() == 0);
        StateTree::load(self.chain_id, log2, tops, &*self.provider.hasher)
    }

    /// What a check of all records finds, and the root it ends with.
    pub(crate) fn check(&self) -> (Vec<Corrupt>, TreeCounts, Digest) {
        let mut check = TreeCheck::new(self.chain_id, self.tree.log2(), &*self.provider.hasher);
        for (key, record) in &self.records {
            check.add(Place::parse(key, self.tree.log2()).unwrap(), record);
        }
        let mut faults = check.faults();
        let (tree, counts, last) = check.finish();
        faults.extend(last);
        (faults, counts, tree.root())
    }

    /// Executes a block of one transaction with a fresh nonce.
    pub(crate) fn run(&mut self, sender: u8, acts: &[Act]) -> Outcome {
        self.nonce += 1;
        let valid_until = self.height + 10;
        let tx = Tx { sender, nonce: self.nonce, valid_until, acts: acts.to_vec() };
        self.block(&[tx]).receipts[0].outcome().unwrap()
    }

    /// Executes a block of one transaction with the operations that `fill` adds.
    pub(crate) fn run_built(
        &mut self,
        sender: u8,
        fill: impl FnOnce(TransactionBuilder) -> TransactionBuilder,
    ) -> Outcome {
        self.nonce += 1;
        let (nonce, valid_until) = (self.nonce, self.height + 10);
        let builder = TransactionBuilder::new(self.chain_id, key(sender), nonce, valid_until);
        let unsigned = fill(builder).unsigned();
        let transaction = TransactionBuilder::join(unsigned, &Signature([9; 64])).unwrap();
        let batch = batch(self.chain_id, &[transaction.bytes().to_vec()]);
        self.execute(vec![batch]).receipts[0].outcome().unwrap()
    }

    pub(crate) fn value(&self, key: StateKey) -> Option<StateValue> {
        self.state.get(&key).map(|bytes| StateValue::parse(&key, bytes).unwrap())
    }

    pub(crate) fn balance(&self, person: u8, number: u8) -> u128 {
        match self.value(StateKey::Holding(address(person), asset(number))) {
            Some(StateValue::Holding(holding)) => holding.balance,
            _ => 0,
        }
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (Vec<u8>, &Vec<u8>)> {
        self.state.iter().map(|(key, value)| (key.to_bytes().as_slice().to_vec(), value))
    }
}
