//! `hufu ledger verify` on a real chain: what is damaged is found, at the level that promises it,
//! and what is whole is called clean.
//!
//! The chain is made by the node's own parts (recovery, logs, execution), without sockets, so that
//! its folder is that of a node that was stopped. Most damage is one flipped bit.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hufu_consensus::replica::Chain;
use hufu_consensus::{BlockVerdict, Record, SignIntent};
use hufu_crypto::{Hasher, Provider, Signer, SoftwareSigner, software_provider};
use hufu_ledger::StateKey;
use hufu_ledger::bucket::bucket_of;
use hufu_ledger::changes::row_entries;
use hufu_node::executor::Inline;
use hufu_node::genesis_copy;
use hufu_node::messages::{DecidedBlock, DurableBlock};
use hufu_node::metrics::Metrics;
use hufu_node::proofs::receipts_tree;
use hufu_node::records::{RECORD_BATCH, RECORD_BLOCK, block_record};
use hufu_node::recovery::{Recovered, StorageOptions, recover};
use hufu_node::state_keys::{BlockRow, parse_receipts, parse_transaction_row};
use hufu_node::verify_ledger::{Level, Part, Report, VerifyError, verify};
use hufu_storage::block_log::{Appended, BlockLog, RecordPosition};
use hufu_storage::data_dir::{DataDir, Identity};
use hufu_storage::keyring::{DataKey, Keyring};
use hufu_storage::state_store::Family;
use hufu_storage::vote_log::Seal;
use hufu_types::codec::length_u32;
use hufu_types::operation::{AccountBody, CreateAssetBody, Operation, SupplyBody};
use hufu_types::receipt::Failure;
use hufu_types::{
    Address, AssetCode, Batch, BatchBuilder, BatchHeader, Block, CommitCertificate,
    CommitSignature, Digest, FailureCode, Genesis, Leg, Parameters, Proposal, Receipt, Signature,
    SignedProposal, SignedVote, Transaction, TransactionBuilder, Validator, ValidatorSet, Vote,
    VoteStep, verify_transactions, vote,
};
use zerocopy::IntoBytes;

#[path = "ledger_verify/encryption.rs"]
mod encryption;
#[path = "ledger_verify/order.rs"]
mod order;
#[path = "ledger_verify/start.rs"]
mod start;

const HEIGHTS: u64 = 9;
const BUCKETS_LOG2: u8 = 4;
const SEGMENT_BYTES: u64 = 48 << 10;
/// Short enough that the first nonces leave the state before the end.
const VALID_HEIGHTS: u64 = 4;

/// Key and value as RocksDB holds them.
type Entry = (Box<[u8]>, Box<[u8]>);

/// The lowest byte of a number.
fn low(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// What a chain is made with besides honest things.
#[derive(Clone, Copy, Default)]
struct Crooked {
    transaction_signature: bool,
    certificate_signature: bool,
    second_vote: bool,
    /// All nonces lie in one bucket of the state and stay to the end.
    ground: bool,
    /// Orders transactions again behind their last valid height.
    late_copy: bool,
    /// Orders transactions of the height before again, while their nonces are still remembered.
    early_copy: bool,
    /// Late copies come in a batch without anything that is still valid.
    passed_batch: bool,
    /// Orders a batch of the height before again.
    repeated_batch: bool,
    /// A batch of the beginning that no block ordered while one might.
    expired_batch: bool,
    /// Ends as a killed process does.
    killed: bool,
    /// The heights are not sealed in the vote log.
    unsealed: bool,
    /// A batch of the beginning is ordered by no block, so that every replay begins there.
    stray_batch: bool,
    /// Stored in clear.
    plain: bool,
}

/// The data key of a node of these tests; none for one that stores in clear.
fn keys(is_plain: bool) -> Option<Keyring> {
    (!is_plain).then(|| Keyring::new(DataKey::new(&[9; 32]), Vec::new(), &software_provider()))
}

/// A data folder with a chain in it.
struct Folder {
    temporary: tempfile::TempDir,
    is_plain: bool,
}

impl Folder {
    fn new(crooked: Crooked) -> Self {
        let folder = Self { temporary: tempfile::tempdir().unwrap(), is_plain: crooked.plain };
        Maker::open(&folder.path(), crooked).make();
        folder
    }

    fn path(&self) -> PathBuf {
        self.temporary.path().join("data")
    }

    fn copy(&self) -> Self {
        let copy = Self { temporary: tempfile::tempdir().unwrap(), is_plain: self.is_plain };
        copy_all(&self.path(), &copy.path());
        copy
    }

    fn verify(&self, level: Level) -> Report {
        verify(&self.path(), level, None, keys(self.is_plain), &mut |_, _, _| true).unwrap()
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All files below a folder with what is in them.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// Stands in for the tiles of a node with one validator.
struct Maker {
    signer: SoftwareSigner,
    address: Address,
    genesis: Genesis,
    provider: Provider,
    recovered: Recovered,
    chain: Chain,
    crooked: Crooked,
    replay_from: Option<RecordPosition>,
    /// The first batch of the height before.
    earlier: Option<Batch>,
    _folder: DataDir,
}

fn genesis(signer: &SoftwareSigner) -> Genesis {
    let key = *signer.public_key();
    let link_key = *SoftwareSigner::from_bytes(&[99; 32]).unwrap().public_key();
    let validator = Validator { name: "node-0".to_owned(), key, link_key, power: 1 };
    let parameters = Parameters {
        certified_lag_heights: 1,
        block_interval_millis: 10,
        state_buckets_log2: BUCKETS_LOG2,
    };
    let validators = ValidatorSet::new(vec![validator]).unwrap();
    let all = vec![key.address()];
    Genesis::new("test".to_owned(), 1_000, parameters, validators, all.clone(), all).unwrap()
}

fn small(path: &Path, genesis: &Genesis, provider: &Provider) -> StorageOptions {
    let mut options = StorageOptions::new(path, genesis.chain_id(), provider);
    options.log.segment_bytes = SEGMENT_BYTES;
    options.log.group_bytes_max = 16 << 10;
    options.log.record_bytes_max = 24 << 10;
    options.vote_log.segment_bytes = 256 << 10;
    options.with_keys(keys(false))
}

impl Maker {
    fn open(path: &Path, crooked: Crooked) -> Self {
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let (genesis, provider) = (genesis(&signer), software_provider());
        let address = signer.public_key().address();
        let identity = Identity { chain: genesis.chain_id().0, node: address };
        let folder = DataDir::open(path, &identity).unwrap();
        genesis_copy::keep(path, &genesis).unwrap();
        let options = small(path, &genesis, &provider).with_keys(keys(crooked.plain));
        let metrics = Arc::new(Metrics::default());
        let recovered = recover(&genesis, &provider, &metrics, options, &mut |_| true).unwrap();
        let roots = recovered.executor.recent_roots().to_vec();
        let (set, ordered) = (genesis.validators.clone(), recovered.ordered.clone());
        let chain = Chain::new(genesis.chain_id(), 1, set, recovered.tip, roots, ordered);
        Self {
            signer,
            address,
            genesis,
            provider,
            recovered,
            chain,
            crooked,
            replay_from: None,
            earlier: None,
            _folder: folder,
        }
    }

    fn make(mut self) {
        if self.crooked.stray_batch {
            let batch = self.batches(HEIGHTS + 1).remove(0);
            self.replay_from = Some(self.append(RECORD_BATCH, batch.bytes()));
        }
        if self.crooked.expired_batch {
            let batch = self.batch(1 << 40, vec![self.transaction(1, 40)]);
            self.append(RECORD_BATCH, batch.bytes());
        }
        for height in 1..=HEIGHTS {
            // An empty block now and then, as an idle chain makes them.
            let mut batches = if height == 5 { Vec::new() } else { self.batches(height) };
            let earlier = core::mem::replace(&mut self.earlier, batches.first().cloned());
            if self.crooked.repeated_batch && height == HEIGHTS {
                batches.extend(earlier);
            }
            self.block(height, batches);
        }
        let Recovered { executor, log, vote_log, .. } = self.recovered;
        executor.store().flush().unwrap();
        if !self.crooked.killed {
            log.close().unwrap();
            vote_log.close().unwrap();
        }
    }

    fn batches(&self, height: u64) -> Vec<Batch> {
        let hasher = &*self.provider.hasher;
        let mut batches = Vec::new();
        for part in 0..2 {
            let transactions = (0..6).map(|number| self.transaction(height, part * 6 + number));
            batches.push(self.batch(height * 2 + part, transactions.collect()));
        }
        let copied = match (self.crooked.late_copy, self.crooked.early_copy) {
            _ if height < HEIGHTS => None,
            (true, _) => Some(2),
            (_, true) => Some(HEIGHTS - 1),
            _ => None,
        };
        if let Some(copied) = copied {
            let mut again: Vec<_> = (0..6).map(|number| self.transaction(copied, number)).collect();
            if !self.crooked.passed_batch {
                // As long as one of a batch is valid, a block may order the batch.
                again.push(self.transaction(height, 40));
            }
            batches.push(self.batch(height * 2 + 2, again));
        }
        if self.crooked.transaction_signature && height == 3 {
            let mut bytes = batches[1].bytes().to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            batches[1] = Batch::parse(bytes.into(), hasher).unwrap();
        }
        batches
    }

    fn batch(&self, sequence: u64, transactions: Vec<Transaction>) -> Batch {
        let chain = self.genesis.chain_id();
        let mut builder = BatchBuilder::new(chain, self.address);
        let checked = verify_transactions(&self.provider, chain, transactions);
        checked.iter().for_each(|one| builder.push(one.as_ref().unwrap()));
        builder.seal(sequence, &*self.provider.hasher)
    }

    /// Opens accounts and creates an asset at height 1, issues it at height 2, then moves it.
    fn transaction(&self, height: u64, number: u64) -> Transaction {
        let account = |number: u64| AccountBody { address: Address([low(number) + 1; 20]) };
        let asset = AssetCode::new("BOND").unwrap();
        let (one, other) = (account(number), account((number + 1) % 12));
        let create = CreateAssetBody::new(asset, self.address, 2, 1 << 40);
        let supply = SupplyBody { asset, account: one.address, amount: 1_000.into() };
        let leg = Leg { asset, from: self.address, to: other.address, amount: 1.into() };
        let digest = Digest([low(number); 32]);
        let notarise = Operation::Notarise { digest: &digest, memo: &[low(height); 200] };
        let until = height + if self.crooked.ground { HEIGHTS } else { VALID_HEIGHTS } - 1;
        let key = *self.signer.public_key();
        let nonce = self.nonce(height << 8 | number);
        let builder = TransactionBuilder::new(self.genesis.chain_id(), key, nonce, until);
        let builder = match (height, number) {
            (1, 0) => builder
                .operation(Operation::CreateAsset(&create))
                .operation(Operation::OpenAccount(&one)),
            (1, _) => builder.operation(Operation::OpenAccount(&one)),
            (2, _) => builder.operation(Operation::IssueAsset(&supply)),
            // Fails, because the sender holds nothing: failures have receipts too.
            (_, 3) => builder.operation(Operation::Transfer(&leg)),
            _ => builder.operation(notarise),
        };
        let unsigned = builder.unsigned();
        let signature =
            self.signer.sign(&TransactionBuilder::signing_digest(&unsigned, &key)).unwrap();
        TransactionBuilder::join(unsigned, &signature).unwrap()
    }

    /// A nonce of its own for each number.
    fn nonce(&self, number: u64) -> u64 {
        if !self.crooked.ground {
            return number;
        }
        let is_ground = |nonce: &u64| {
            let key = StateKey::Nonce { sender: self.address, nonce: *nonce };
            let hasher = &*self.provider.hasher;
            let hashed = row_entries(self.genesis.chain_id(), &[(key, [])], hasher);
            bucket_of(&hashed[0].key, BUCKETS_LOG2) == 0
        };
        (number << 20..(number + 1) << 20).find(is_ground).unwrap()
    }

    fn append(&mut self, kind: u16, payload: &[u8]) -> RecordPosition {
        let log: &mut BlockLog = &mut self.recovered.log;
        loop {
            match log.append(kind, &[payload]).unwrap() {
                Appended::Placed(position) => return position,
                Appended::Full => drop(log.flush().unwrap()),
            }
        }
    }

    fn block(&mut self, height: u64, batches: Vec<Batch>) {
        let mut bodies = Vec::new();
        for batch in &batches {
            bodies.push(self.append(RECORD_BATCH, batch.bytes()));
            self.recovered.log.flush().unwrap();
        }
        let digests: Vec<_> = batches.iter().map(Batch::digest).collect();
        let hasher: &dyn Hasher = &*self.provider.hasher;
        let count: u32 = batches.iter().map(|batch| length_u32(batch.entries())).sum();
        let clock = 5_000 + height;
        let header = self.chain.build(self.address, &digests, count, clock, hasher).unwrap();
        let block = Block::new(header, digests, hasher).unwrap();
        let certificate = self.vote(&block);
        let payload = block_record(&block, &certificate);
        let position = self.append(RECORD_BLOCK, &payload);
        self.recovered.log.flush().unwrap();
        self.chain.decided(&block, clock).unwrap();
        let decided = DecidedBlock { block, certificate, batches };
        let replay_from = self.replay_from.unwrap_or(position);
        let durable = DurableBlock { decided, position, bodies, replay_from };
        let executed = self.recovered.executor.execute(durable, &mut Inline).unwrap();
        self.chain.executed(executed.roots).unwrap();
        if self.crooked.unsealed {
            return;
        }
        let log_sequence = self.recovered.log.durable().get();
        self.recovered.vote_log.seal(Seal { height, log_sequence }).unwrap();
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.signer.sign(&vote::signing_digest(message, self.signer.public_key())).unwrap()
    }

    fn remember(&mut self, record: &Record) {
        self.recovered.vote_log.append(1, &record.to_bytes()).unwrap();
        self.recovered.vote_log.sync().unwrap();
    }

    /// Proposal, prevote, precommit and decision, each on record before it is used.
    fn vote(&mut self, block: &Block) -> CommitCertificate {
        let (chain, height, digest) = (self.genesis.chain_id(), block.height(), block.digest());
        let proposal = Proposal::new(chain, height, 0, digest, None, self.address);
        self.remember(&Record::SignIntent(SignIntent::Proposal(proposal)));
        let entry = hufu_consensus::vote_log::BlockEntry {
            round: 0,
            proposer: self.address,
            synced: false,
            verdict: BlockVerdict::Valid(block.clone()),
        };
        self.remember(&Record::Block { height, entry });
        let signature = self.sign(proposal.as_bytes());
        self.remember(&Record::OwnProposal(SignedProposal { proposal, signature }));
        let mut last = Signature([0; 64]);
        for step in [VoteStep::Prevote, VoteStep::Precommit] {
            let vote = Vote::new(chain, step, height, 0, Some(digest), self.address);
            self.remember(&Record::SignIntent(SignIntent::Vote(vote)));
            last = self.sign(vote.as_bytes());
            self.remember(&Record::OwnVote(SignedVote { vote, signature: last }));
        }
        if self.crooked.second_vote && height == 4 {
            let vote = Vote::new(chain, VoteStep::Precommit, height, 0, None, self.address);
            self.remember(&Record::SignIntent(SignIntent::Vote(vote)));
        }
        if self.crooked.certificate_signature && height == 6 {
            last.0[40] ^= 4;
        }
        let signatures = vec![CommitSignature { validator: self.address, signature: last }];
        let certificate = CommitCertificate { height, round: 0, block: digest, signatures };
        self.remember(&Record::Decided(certificate.clone()));
        certificate
    }
}

/// Whether a node can start from a folder, and why not.
fn recovery_of(path: &Path) -> Result<(), String> {
    let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let (genesis, provider) = (genesis(&signer), software_provider());
    let options = small(path, &genesis, &provider);
    let metrics = Arc::new(Metrics::default());
    let recovered = recover(&genesis, &provider, &metrics, options, &mut |_| true);
    recovered.map(|_| ()).map_err(|error| error.to_string())
}

/// Flips one bit of a file, runs a check, and puts the bit back.
fn with_flipped<T>(path: &Path, offset: u64, bit: u8, check: impl FnOnce() -> T) -> T {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let flip = || {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        byte[0] ^= 1 << bit;
        file.write_all_at(&byte, offset).unwrap();
    };
    flip();
    let result = check();
    flip();
    result
}

fn files(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        names.filter(|path| is_wanted(path.file_name().unwrap().to_str().unwrap())).collect();
    found.sort();
    found
}

#[track_caller]
fn assert_clean(report: &Report) {
    assert!(report.is_clean(), "{report}");
    assert!(report.notices.is_empty(), "{report}");
}

#[track_caller]
fn assert_found(report: &Report, part: Part, words: &str) {
    let found = report.faults.iter().any(|fault| {
        fault.part == part && format!("{} {}", fault.place, fault.what).contains(words)
    });
    assert!(found, "{words:?} is not in\n{report}");
}

#[test]
fn a_whole_chain_is_clean_at_every_level_and_nothing_is_changed() {
    let folder = Folder::new(Crooked::default());
    let before = contents(&folder.path());
    for level in [Level::Hashes, Level::Signatures, Level::Replay] {
        let report = folder.verify(level);
        assert_clean(&report);
        assert_eq!((report.height, report.applied_height), (HEIGHTS, HEIGHTS));
        let counts = report.counts;
        assert_eq!((counts.blocks, counts.batches, counts.transactions), (HEIGHTS, 16, 96));
        assert_eq!((counts.receipts, counts.accounts, counts.assets), (96, 12, 1));
        assert_eq!(counts.sign_intents, 3 * HEIGHTS);
        assert!(counts.expiring_nonces > 0 && counts.expiring_nonces < 96, "some have expired");
        let signed = level >= Level::Signatures;
        assert_eq!(counts.signatures, if signed { 96 } else { 0 });
        assert_eq!(counts.certificates, if signed { HEIGHTS } else { 0 });
        assert_eq!(counts.replayed, if level == Level::Replay { HEIGHTS } else { 0 });
        assert!(counts.segments > 1, "the chain fills more than one segment");
    }
    assert!(before == contents(&folder.path()), "a verification changes nothing");
}

#[test]
fn one_flipped_bit_anywhere_in_the_logs_is_found_by_hashes() {
    let folder = Folder::new(Crooked::default());
    for (name, part) in [("log", Part::BlockLog), ("votes", Part::VoteLog)] {
        let segments = files(&folder.path().join(name), |name| name.ends_with(".log"));
        assert!(!segments.is_empty());
        let mut flips: u64 = 0;
        for segment in &segments {
            let bytes = fs::read(segment).unwrap();
            for (number, block) in (0_u64..).zip(bytes.chunks(4_096)) {
                if block.iter().all(|byte| *byte == 0) {
                    continue;
                }
                // Header fields, checksums, records, padding: spread over the block, another bit
                // each time.
                for place in
                    [number % 8, 8 + number % 240, 256 + number % 64, 2_000 - number, 4_095]
                {
                    let (offset, bit) = (number * 4_096 + place, (place % 8) as u8);
                    let report =
                        with_flipped(segment, offset, bit, || folder.verify(Level::Hashes));
                    let found = report.faults.iter().any(|fault| fault.part == part);
                    assert!(found, "{} offset {offset} bit {bit}: {report}", segment.display());
                    flips += 1;
                }
            }
        }
        assert!(flips > 100, "{flips} flips in {name}");
    }
    assert_clean(&folder.verify(Level::Hashes));
}

#[test]
fn one_flipped_bit_in_any_class_of_stored_values_is_found_by_hashes() {
    for plain in [false, true] {
        flip_values(&Folder::new(Crooked { plain, ..Crooked::default() }));
    }
}

fn flip_values(whole: &Folder) {
    for family in Family::ALL {
        let entries: Vec<Entry> = {
            let copy = whole.copy();
            let store = Raw::open(&copy);
            store.entries(family)
        };
        let step = entries.len().div_ceil(6).max(1);
        for (number, (key, value)) in entries.iter().enumerate().step_by(step) {
            let folder = whole.copy();
            let mut value = value.to_vec();
            let place = (number * 7 + 5) % value.len();
            value[place] ^= 1 << (number % 8);
            Raw::open(&folder).put(family, key, &value);
            let report = folder.verify(Level::Hashes);
            assert!(!report.is_clean(), "{} key {key:02x?} byte {place}", family.name());
            let words = match family {
                _ if !whole.is_plain => "value is damaged: family",
                Family::Accounts => "the row of bucket",
                // What the index no longer says of a nonce, a row still does.
                Family::Nonces | Family::Buckets => "bucket",
                _ => "value is damaged: family",
            };
            assert_found(&report, Part::State, words);
        }
        // An entry that is gone, and one that was never there.
        if let Some((key, value)) = entries.first() {
            let folder = whole.copy();
            Raw::open(&folder).delete(family, key);
            assert!(!folder.verify(Level::Hashes).is_clean(), "{} first entry gone", family.name());
            let folder = whole.copy();
            let mut key = key.to_vec();
            *key.last_mut().unwrap() ^= 0x55;
            Raw::open(&folder).put(family, &key, value);
            if family != Family::Metadata {
                let report = folder.verify(Level::Hashes);
                assert!(!report.is_clean(), "{} entry {key:02x?} added", family.name());
            }
        }
    }
    let report = whole.verify(Level::Hashes);
    assert_clean(&report);
}

/// Somebody has ground nonces into one bucket, so that it forks: what lies below a fork is checked
/// as well as what lies at the top.
#[test]
fn damage_in_any_record_of_a_bucket_that_forks_is_found_by_hashes() {
    // In clear, so that the test can write records that are whole.
    let crooked = Crooked { ground: true, plain: true, ..Crooked::default() };
    let whole = Folder::new(crooked);
    let report = whole.verify(Level::Replay);
    assert_clean(&report);
    assert!(report.counts.bucket_forks > 0 && report.counts.bucket_rows > 8, "{report}");
    let reopened = Maker::open(&whole.copy().path(), crooked);
    assert_eq!(reopened.recovered.executor.height(), HEIGHTS, "a start finds the tops again");
    let records = Raw::open(&whole.copy()).entries(Family::Buckets);
    let below: Vec<&Entry> = records.iter().filter(|(key, _)| key.len() > 4).collect();
    let fork = records.iter().find(|(_, record)| record.len() == 576).unwrap();
    for (number, (key, record)) in below.iter().copied().step_by(4).chain([fork]).enumerate() {
        let mut flipped = record.to_vec();
        let place = (number * 29 + 11) % flipped.len();
        flipped[place] ^= 1 << (number % 8);
        let folder = whole.copy();
        Raw::open(&folder).put(Family::Buckets, key, &flipped);
        assert_found(&folder.verify(Level::Hashes), Part::State, "bucket 0");
        let folder = whole.copy();
        Raw::open(&folder).delete(Family::Buckets, key);
        assert_found(&folder.verify(Level::Hashes), Part::State, "bucket 0");
    }
    let folder = whole.copy();
    let (key, record) = below[0];
    Raw::open(&folder).put(Family::Buckets, &[key, [0].as_slice()].concat(), record);
    let report = folder.verify(Level::Hashes);
    assert_found(&report, Part::State, "bucket 0 path");
}

#[test]
fn one_flipped_bit_in_a_table_file_is_found_by_hashes() {
    let folder = Folder::new(Crooked::default());
    let values: Vec<Box<[u8]>> = {
        let copy = folder.copy();
        let store = Raw::open(&copy);
        let families = [Family::Accounts, Family::Nonces, Family::Buckets, Family::Receipts];
        families.iter().flat_map(|family| store.entries(*family)).map(|(_, value)| value).collect()
    };
    let mut flips = 0;
    for table in files(&folder.path().join("state"), |name| name.ends_with(".sst")) {
        let bytes = fs::read(&table).unwrap();
        let wanted = values.iter().filter(|value| value.len() >= 24).step_by(5);
        for value in wanted {
            let Some(at) = bytes.windows(value.len()).position(|window| window == &**value) else {
                continue;
            };
            let offset = (at + flips % value.len()) as u64;
            let report = with_flipped(&table, offset, [0, 1, 2, 3, 4, 5, 6, 7][flips % 8], || {
                folder.verify(Level::Hashes)
            });
            assert!(!report.is_clean(), "{} offset {offset}", table.display());
            flips += 1;
        }
    }
    assert!(flips >= 10, "{flips} flips");
    assert_clean(&folder.verify(Level::Hashes));
}

#[test]
fn flipped_bits_in_identity_and_genesis_are_found() {
    let folder = Folder::new(Crooked::default());
    let genesis = genesis(&SoftwareSigner::from_bytes(&[7; 32]).unwrap());
    let path = folder.path();
    for name in ["identity", "genesis.bin"] {
        for offset in 0..fs::metadata(path.join(name)).unwrap().len() {
            let (without, with) =
                with_flipped(&path.join(name), offset, (offset % 8) as u8, || {
                    if offset % 16 != 0 {
                        return (
                            verify(&path, Level::Hashes, None, keys(false), &mut |_, _, _| true),
                            None,
                        );
                    }
                    let given = verify(
                        &path,
                        Level::Hashes,
                        Some(genesis.clone()),
                        keys(false),
                        &mut |_, _, _| true,
                    );
                    (
                        verify(&path, Level::Hashes, None, keys(false), &mut |_, _, _| true),
                        Some(given.unwrap()),
                    )
                });
            assert!(without.is_err() || !without.unwrap().is_clean(), "{name} byte {offset}");
            if let Some(report) = with {
                assert_found(&report, Part::Identity, "");
            }
        }
    }
    assert_clean(&folder.verify(Level::Hashes));
}

#[test]
fn signatures_that_do_not_verify_are_found_by_signatures() {
    let crooked =
        Crooked { transaction_signature: true, certificate_signature: true, ..Crooked::default() };
    let folder = Folder::new(crooked);
    assert_clean(&folder.verify(Level::Hashes));
    let report = folder.verify(Level::Signatures);
    assert_eq!(report.faults_count, 2, "{report}");
    assert_found(&report, Part::BlockLog, "of height 3");
    assert_found(&report, Part::BlockLog, "certificate of height 6");
}

#[test]
fn a_batch_with_another_chain_in_it_stops_recovery_and_is_found() {
    let whole = Folder::new(Crooked::default());
    // In the batch alone, in its transaction alone, and in both.
    let body = size_of::<BatchHeader>() + 4;
    let header = "chain of a batch's transaction";
    for (places, words) in [
        (&[4][..], header),
        (&[body + 4][..], header),
        (&[4, body + 4][..], "batch is of another chain"),
    ] {
        let folder = whole.copy();
        assert_eq!(recovery_of(&folder.path()), Ok(()));
        let mut maker = Maker::open(&folder.path(), Crooked::default());
        let (chain, hasher) = (maker.genesis.chain_id(), Arc::clone(&maker.provider.hasher));
        let mut builder = BatchBuilder::new(chain, maker.address);
        let transaction = maker.transaction(HEIGHTS, 40);
        let checked = verify_transactions(&maker.provider, chain, vec![transaction]);
        builder.push(checked[0].as_ref().unwrap());
        let mut bytes = builder.seal(1 << 40, &*hasher).bytes().to_vec();
        places.iter().for_each(|&place| bytes[place] ^= 1);
        maker.append(RECORD_BATCH, &bytes);
        maker.recovered.log.flush().unwrap();
        drop(maker);
        let refused = recovery_of(&folder.path()).unwrap_err();
        assert!(refused.contains(words), "{refused}");
        let report = folder.verify(Level::Replay);
        assert_eq!(report.faults_count, 1, "{report}");
        assert_found(&report, Part::BlockLog, words);
    }
}

#[test]
fn a_second_vote_on_record_breaks_the_guards_rule() {
    let folder = Folder::new(Crooked { second_vote: true, ..Crooked::default() });
    let report = folder.verify(Level::Hashes);
    assert_eq!(report.faults_count, 1, "{report}");
    assert_found(&report, Part::VoteLog, "second message at height 4");
}

#[test]
fn a_wrong_result_that_no_header_certifies_yet_is_found_by_replay() {
    // In clear, so that the test can write what looks whole.
    let folder = Folder::new(Crooked { plain: true, ..Crooked::default() });
    let (key, hasher) = (HEIGHTS.to_be_bytes(), software_provider().hasher);
    let store = Raw::open(&folder);
    let mut receipts = parse_receipts(&store.get(Family::Receipts, &key)).unwrap();
    let first = receipts[0];
    let failure = Failure { code: FailureCode::ALL[0], operation: None };
    receipts[0] =
        Receipt::new(first.prefix.chain_id, HEIGHTS, 0, first.id, first.digest, Err(failure));
    let mut row = BlockRow::parse(HEIGHTS, &store.get(Family::Blocks, &key)).unwrap();
    row.roots.receipts_root = receipts_tree(&receipts, &*hasher).root();
    let bytes: Vec<u8> = receipts.iter().flat_map(|receipt| receipt.as_bytes().to_vec()).collect();
    store.put_checked(Family::Receipts, &key, &bytes);
    store.put_checked(Family::Blocks, &key, &row.to_bytes());
    drop(store);
    assert_clean(&folder.verify(Level::Signatures));
    let report = folder.verify(Level::Replay);
    assert_found(&report, Part::State, "replay: receipts differ");
    assert_found(&report, Part::State, "blocks key");
}

#[test]
fn a_torn_tail_is_named_and_is_no_fault_but_damage_before_it_is() {
    let folder = Folder::new(Crooked { killed: true, ..Crooked::default() });
    assert_clean(&folder.verify(Level::Replay));
    let segments = files(&folder.path().join("log"), |name| name.ends_with(".log"));
    let last = segments.last().unwrap();
    let bytes = fs::read(last).unwrap();
    let used =
        bytes.chunks(4_096).rposition(|block| block.iter().any(|byte| *byte != 0)).unwrap() as u64;
    let torn = with_flipped(last, (used + 1) * 4_096 + 9, 3, || folder.verify(Level::Hashes));
    assert!(torn.is_clean() && torn.notices.len() == 1, "{torn}");
    // The last block's group is vouched for by the state that was built from it.
    let damaged = with_flipped(last, used * 4_096 + 300, 3, || folder.verify(Level::Hashes));
    assert!(!damaged.is_clean(), "{damaged}");
}

#[test]
fn folders_that_cannot_be_looked_at_are_refused_with_the_reason() {
    let folder = Folder::new(Crooked::default());
    let path = folder.path();
    let run = |genesis: Option<Genesis>| {
        verify(&path, Level::Hashes, genesis, keys(false), &mut |_, _, _| true)
    };
    let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let identity =
        Identity { chain: genesis(&signer).chain_id().0, node: signer.public_key().address() };
    let held = DataDir::open(&path, &identity).unwrap();
    let locked = run(None).unwrap_err();
    assert!(matches!(locked, VerifyError::Storage(hufu_storage::Error::Locked { .. })), "{locked}");
    assert!(locked.remedy().contains("stop the node"));
    drop(held);
    let other = Genesis { time_millis: 2_000, ..genesis(&signer) };
    assert!(matches!(run(Some(other)), Err(VerifyError::OtherChain { .. })));
    fs::remove_file(path.join("genesis.bin")).unwrap();
    assert!(matches!(run(None), Err(VerifyError::GenesisMissing(_))));
    assert_clean(&run(Some(genesis(&signer))).unwrap());
    fs::remove_file(path.join("votes/0000000000.log")).unwrap();
    let headless = run(Some(genesis(&signer))).unwrap();
    assert_found(&headless, Part::VoteLog, "segment 0");
    let nowhere = verify(&path.join("no"), Level::Hashes, None, keys(false), &mut |_, _, _| true);
    assert!(matches!(nowhere, Err(VerifyError::NoFolder(_))));
}

/// The state store as RocksDB sees it, so that a test can write what the node never would.
struct Raw {
    db: rocksdb::DB,
}

impl Raw {
    fn open(folder: &Folder) -> Self {
        let names = Family::ALL.map(Family::name);
        let all = std::iter::once("default").chain(names);
        let options = rocksdb::Options::default();
        let db = rocksdb::DB::open_cf(&options, folder.path().join("state"), all).unwrap();
        Self { db }
    }

    fn entries(&self, family: Family) -> Vec<Entry> {
        let handle = self.db.cf_handle(family.name()).unwrap();
        self.db.iterator_cf(handle, rocksdb::IteratorMode::Start).map(Result::unwrap).collect()
    }

    /// A value without the checksum behind it.
    fn get(&self, family: Family, key: &[u8]) -> Vec<u8> {
        let handle = self.db.cf_handle(family.name()).unwrap();
        let mut value = self.db.get_cf(handle, key).unwrap().unwrap();
        value.truncate(value.len() - if family.has_checksums() { 4 } else { 0 });
        value
    }

    fn put(&self, family: Family, key: &[u8], value: &[u8]) {
        self.db.put_cf(self.db.cf_handle(family.name()).unwrap(), key, value).unwrap();
        self.db.flush_cf(self.db.cf_handle(family.name()).unwrap()).unwrap();
    }

    /// Puts a value with the checksum that the store would give it.
    fn put_checked(&self, family: Family, key: &[u8], value: &[u8]) {
        let seed = crc32c::crc32c(family.name().as_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c_append(seed, key), value);
        self.put(family, key, &[value, checksum.to_le_bytes().as_slice()].concat());
    }

    fn delete(&self, family: Family, key: &[u8]) {
        self.db.delete_cf(self.db.cf_handle(family.name()).unwrap(), key).unwrap();
        self.db.flush_cf(self.db.cf_handle(family.name()).unwrap()).unwrap();
    }
}
