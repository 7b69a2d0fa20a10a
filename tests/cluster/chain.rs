//! A chain of one or more validators in a temporary folder, and the people who use it.

use std::fs;
use std::path::{Path, PathBuf};

use hufu_crypto::{Signer, SoftwareSigner, software_provider};
use hufu_network::client::{Client, ClientConfig, TransactionResult};
use hufu_network::message::WaitFor;
use hufu_node::data_key::{self, DATA_KEY_FILE};
use hufu_node::recovery::StorageOptions;
use hufu_node::{genesis_file, keys_file};
use hufu_runtime::clock;
use hufu_types::genesis::{Genesis, Parameters, Validator, ValidatorSet};
use hufu_types::operation::{AccountBody, CreateAssetBody, Leg, SupplyBody};
use hufu_types::{
    Address, AssetCode, ChainId, Digest, Operation, PublicKey, Receipt, Transaction,
    TransactionBuilder,
};
use tempfile::TempDir;
use zerocopy::little_endian::U128;

use crate::node::{PATIENCE, TestNode};

/// Accounts that hold the asset, count.
pub(crate) const ACCOUNTS_COUNT: u8 = 8;

/// What each of them is given at the beginning.
pub(crate) const ISSUED_EACH: u128 = 1_000_000_000;

/// Heights a transaction of the tests stays valid: close to the limit of 600, so that a slow
/// machine does not let it expire.
pub(crate) const VALIDITY_HEIGHTS: u64 = 580;

/// Keys and genesis of a chain, with the folder that holds them.
pub(crate) struct Chain {
    pub(crate) folder: TempDir,
    pub(crate) genesis: Genesis,
}

impl Chain {
    /// Makes a chain of one validator, whose operator opens accounts and creates assets.
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("hufu-cluster-").tempdir().unwrap();
        let validator = make_keys(folder.path(), "node-0");
        Self::begin(name, folder, vec![validator], 20)
    }

    /// Makes a chain of several validators, each with its keys in a folder of its own.
    pub(crate) fn of(name: &str, validators_count: usize) -> Self {
        Self::with(name, validators_count, |_, _| None)
    }

    /// As [`Chain::of`]; where `vote_key` makes another vote key for a node in its folder, that one
    /// counts.
    pub(crate) fn with(
        name: &str,
        validators_count: usize,
        vote_key: impl Fn(&Path, usize) -> Option<PublicKey>,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("hufu-cluster-").tempdir().unwrap();
        let make = |index| {
            let node = format!("node-{index}");
            let path = folder.path().join(&node);
            fs::create_dir(&path).unwrap();
            let validator = make_keys(&path, &node);
            let key = vote_key(&path, index).unwrap_or(validator.key);
            Validator { key, ..validator }
        };
        let validators = (0..validators_count).map(make).collect();
        Self::begin(name, folder, validators, 50)
    }

    fn begin(
        name: &str,
        folder: TempDir,
        validators: Vec<Validator>,
        block_interval_millis: u32,
    ) -> Self {
        let validators = ValidatorSet::new(validators).unwrap();
        let parameters =
            Parameters { certified_lag_heights: 1, block_interval_millis, state_buckets_log2: 10 };
        let operator = vec![operator().address];
        let now = clock::wall().as_millis();
        let genesis =
            Genesis::new(name.to_owned(), now, parameters, validators, operator.clone(), operator);
        let genesis = genesis.unwrap();
        fs::write(folder.path().join("genesis.toml"), genesis_file::write(&genesis)).unwrap();
        Self { folder, genesis }
    }

    pub(crate) fn id(&self) -> ChainId {
        self.genesis.chain_id()
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The data key of the node that keeps its data there: the one that opens it.
    pub(crate) fn data_key(&self, data: &Path) -> PathBuf {
        let (found, _) = self.find_key(data);
        found
    }

    /// What the folder of a node that does not run is read with.
    pub(crate) fn storage(&self, data: &Path) -> StorageOptions {
        let (_, options) = self.find_key(data);
        options
    }

    fn find_key(&self, data: &Path) -> (PathBuf, StorageOptions) {
        let folders = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let folders = std::iter::once(self.path().to_owned()).chain(folders);
        let provider = software_provider();
        let files = folders.map(|folder| folder.join(DATA_KEY_FILE)).filter(|file| file.exists());
        let mut opened = files.filter_map(|file| {
            let keys = data_key::load(&file, &provider).unwrap();
            let options = StorageOptions::new(data, self.id(), &provider).with_keys(Some(keys));
            options.check_keys().is_ok().then_some((file, options))
        });
        opened.next().expect("a node of this chain has written the folder")
    }

    /// A node that keeps its data in the chain's folder.
    pub(crate) fn node(&self) -> TestNode {
        self.node_in(&self.path().join("data"), "")
    }

    /// A node that keeps its data elsewhere, with more lines of configuration.
    pub(crate) fn node_in(&self, data: &Path, more: &str) -> TestNode {
        TestNode::new(self.configure("hufu.toml", data, more), data.to_owned(), self.path())
    }

    /// Writes a configuration and returns its path.
    pub(crate) fn configure(&self, file: &str, data: &Path, more: &str) -> PathBuf {
        let text = format!(
            "[node]\nname = \"node-0\"\ndata_dir = \"{}\"\ngenesis = \"genesis.toml\"\n\
             key = \"vote.pem\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[placement]\n\
             cores = \"none\"\n{more}\n",
            data.display()
        );
        let text = if more.contains("[client]") {
            text
        } else {
            format!("{text}[client]\nlisten = \"127.0.0.1:0\"\n")
        };
        let path = self.path().join(file);
        fs::write(&path, text).unwrap();
        path
    }

    /// A connection that says hello for this chain.
    pub(crate) fn connect(&self, node: &TestNode) -> Client {
        let config = ClientConfig {
            chain_id: Some(self.id()),
            connect_timeout: PATIENCE,
            call_timeout: PATIENCE,
        };
        Client::connect(node.client_address(), &config).unwrap()
    }

    /// Opens the accounts, creates the asset, gives each account its share.
    pub(crate) fn open_market(&self, client: &mut Client) {
        let operator = operator();
        let valid_until = client.status().unwrap().height + VALIDITY_HEIGHTS;
        let begin = |nonce: u64| {
            TransactionBuilder::new(self.id(), operator.key(), u64::MAX - nonce, valid_until)
        };
        let people: Vec<Person> = (0..ACCOUNTS_COUNT).map(person).collect();
        let opened = people.iter().fold(begin(0), |builder, person| {
            builder.operation(Operation::OpenAccount(&AccountBody { address: person.address }))
        });
        let created = CreateAssetBody::new(asset(), operator.address, 2, u128::MAX);
        let opened = opened.operation(Operation::CreateAsset(&created));
        let receipt = commit(client, &operator.sign(opened));
        assert_eq!(receipt.outcome().unwrap(), Ok(()));
        let issued = people.iter().fold(begin(1), |builder, person| {
            let amount = U128::new(ISSUED_EACH);
            let body = SupplyBody { asset: asset(), account: person.address, amount };
            builder.operation(Operation::IssueAsset(&body))
        });
        let receipt = commit(client, &operator.sign(issued));
        assert_eq!(receipt.outcome().unwrap(), Ok(()));
    }

    /// Moves one from the first to the second.
    pub(crate) fn payment(
        &self,
        [from, to]: [&Person; 2],
        nonce: u64,
        valid_until: u64,
    ) -> Transaction {
        let amount = U128::new(1);
        let leg = Leg { asset: asset(), from: from.address, to: to.address, amount };
        let builder = TransactionBuilder::new(self.id(), from.key(), nonce, valid_until);
        from.sign(builder.operation(Operation::Transfer(&leg)))
    }

    /// A transaction of the load: half of them notarise, half of them move money in a circle.
    pub(crate) fn ordinary(&self, people: &[Person], nonce: u64, valid_until: u64) -> Transaction {
        let place = usize::try_from(nonce).unwrap() % people.len();
        let (from, to) = (&people[place], &people[(place + 1) % people.len()]);
        let builder = TransactionBuilder::new(self.id(), from.key(), nonce, valid_until);
        let builder = if (nonce / u64::from(ACCOUNTS_COUNT)).is_multiple_of(2) {
            let digest = Digest([nonce.to_le_bytes()[0]; 32]);
            builder.operation(Operation::Notarise { digest: &digest, memo: &nonce.to_le_bytes() })
        } else {
            let (from, to) = (from.address, to.address);
            let leg = Leg { asset: asset(), from, to, amount: U128::new(1) };
            builder.operation(Operation::Transfer(&leg))
        };
        from.sign(builder)
    }
}

/// Makes the vote key, the link key, the audit key and the data key of a validator in a folder.
pub(crate) fn make_keys(folder: &Path, name: &str) -> Validator {
    let make = |file| *keys_file::create(&folder.join(file)).unwrap().public_key();
    let (key, link_key) = (make("vote.pem"), make("link.pem"));
    make("audit.pem");
    data_key::create(&folder.join(DATA_KEY_FILE)).unwrap();
    Validator { name: name.to_owned(), key, link_key, power: 1 }
}

/// Somebody with a key.
pub(crate) struct Person {
    pub(crate) signer: SoftwareSigner,
    pub(crate) address: Address,
}

impl Person {
    fn new(scalar: [u8; 32]) -> Self {
        let signer = SoftwareSigner::from_bytes(&scalar).unwrap();
        let address = signer.public_key().address();
        Self { signer, address }
    }

    pub(crate) fn key(&self) -> hufu_types::PublicKey {
        *self.signer.public_key()
    }

    pub(crate) fn sign(&self, builder: TransactionBuilder) -> Transaction {
        let unsigned = builder.unsigned();
        let digest = TransactionBuilder::signing_digest(&unsigned, &self.key());
        let signature = self.signer.sign_unverified(&digest).unwrap();
        TransactionBuilder::join(unsigned, &signature).unwrap()
    }
}

/// Who opens accounts, creates the asset and is its authority.
pub(crate) fn operator() -> Person {
    Person::new([0x11; 32])
}

/// The holder with this number.
pub(crate) fn person(number: u8) -> Person {
    let mut scalar = [0x22; 32];
    scalar[31] = number;
    Person::new(scalar)
}

pub(crate) fn asset() -> AssetCode {
    AssetCode::new("GOLD").unwrap()
}

/// Submits a transaction that must be included, and returns its receipt.
pub(crate) fn commit(client: &mut Client, transaction: &Transaction) -> Receipt {
    match submit(client, transaction) {
        TransactionResult::Receipt { receipt, .. } => receipt,
        other => panic!("not included: {other:?}"),
    }
}

/// Submits a transaction and waits for the last word.
pub(crate) fn submit(client: &mut Client, transaction: &Transaction) -> TransactionResult {
    let one = std::slice::from_ref(transaction);
    client.submit(one, WaitFor::Committed, false).unwrap().remove(0)
}
