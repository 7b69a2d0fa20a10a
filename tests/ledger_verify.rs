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
#[path = "ledger_verify/maker.rs"]
mod maker;
#[path = "ledger_verify/order.rs"]
mod order;
#[path = "ledger_verify/start.rs"]
mod start;
#[path = "ledger_verify/state.rs"]
mod state;

use self::maker::Maker;
use self::state::Raw;

const HEIGHTS: u64 = 9;
const BUCKETS_LOG2: u8 = 4;
const SEGMENT_BYTES: u64 = 48 << 10;
/// Short enough that the first nonces leave the state before the end.
const VALID_HEIGHTS: u64 = 4;

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
