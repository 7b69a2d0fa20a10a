use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hufu_consensus::{Record as VoteRecord, SignIntent};
use hufu_crypto::{Digest, Provider, Signer as _, SoftwareSigner, software_provider};
use hufu_hsm::error::TriesLeft;
use hufu_hsm::{Error, Rv};
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::link;
use hufu_runtime::tile::{Progress, Tile};
use hufu_storage::audit_log::{Record, Seals, verify};
use hufu_storage::vote_log::{Seal, VoteLog, VoteLogOptions};
use hufu_types::vote::{Proposal, SignedVote, Vote, VoteStep};
use hufu_types::{BlockDigest, ChainId};

use super::compare::{Compared, Comparison, Disagreement, Votes};
use super::*;
use crate::metrics::Metrics;
use crate::signing_desk::DeskError;
use crate::tiles::audit::{AuditSource, AuditTile};

const CHAIN: ChainId = ChainId(Digest([7; 32]));
const INTERVAL: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Nanos {
    Nanos::from_nanos(millis * 1_000_000)
}

fn vote(height: u64, step: VoteStep, block: u8) -> SignIntent {
    let block = Some(BlockDigest(Digest([block; 32])));
    SignIntent::Vote(Vote::new(CHAIN, step, height, 0, block, Address([1; 20])))
}

fn proposal(height: u64) -> SignIntent {
    let block = BlockDigest(Digest([9; 32]));
    SignIntent::Proposal(Proposal::new(CHAIN, height, 0, block, None, Address([1; 20])))
}

/// What a validator signs at a height.
fn of_height(height: u64) -> [SignIntent; 3] {
    [proposal(height), vote(height, VoteStep::Prevote, 9), vote(height, VoteStep::Precommit, 9)]
}

/// An audit log with its tile and the sign tile's side of it, run by hand.
struct Desk {
    folder: tempfile::TempDir,
    sealed_by: PublicKey,
    metrics: Arc<Metrics>,
    sign: Option<SignAudit>,
    tile: AuditTile,
}

impl Desk {
    fn begin(depth: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::in_folder(folder, SoftwareSigner::generate().unwrap(), depth)
    }

    fn in_folder(folder: tempfile::TempDir, signer: SoftwareSigner, depth: usize) -> Self {
        let (metrics, recorded) = (Arc::new(Metrics::default()), Arc::new(AtomicU64::new(0)));
        let sealed_by = *signer.public_key();
        let mut audit = NodeAudit::open(folder.path(), Address([1; 20]), Box::new(signer)).unwrap();
        let address = Address([1; 20]);
        let started = events::Started {
            name: "node-0",
            chain: "chain".to_owned(),
            vote_key: address,
            audit_key: sealed_by.address(),
            link_key: None,
            kernels: "portable",
        };
        audit.record(&events::started(&started)).unwrap();
        audit.sync().unwrap();
        let (outgoing, incoming) = link("sign-audit", depth);
        let counted = (Arc::clone(&metrics), Arc::clone(&recorded));
        let sign = SignAudit::new(address, INTERVAL, counted.0, outgoing, counted.1);
        let source = AuditSource { incoming, recorded };
        let every = Duration::from_secs(10);
        let name = "node-0".to_owned();
        let tile = AuditTile::new(audit, name, every, vec![source], Arc::clone(&metrics));
        Self { folder, sealed_by, metrics, sign: Some(sign), tile }
    }

    fn sign(&mut self) -> &mut SignAudit {
        self.sign.as_mut().unwrap()
    }

    /// Both sides work until neither has anything to do.
    fn run(&mut self, now: Nanos) {
        let _has_room = self.sign().poll(now).unwrap_or(false);
        while self.tile.poll(now).unwrap() == Progress::Busy {}
    }

    /// Stops both in order.
    fn stop(mut self) -> (tempfile::TempDir, PublicKey) {
        while !self.sign().finish() {
            let _progress = self.tile.poll(at(0)).unwrap();
        }
        drop(self.sign.take());
        self.tile.stop();
        while self.tile.poll(at(0)).unwrap() != Progress::Done {}
        (self.folder, self.sealed_by)
    }
}

fn records(folder: &Path, key: PublicKey) -> Vec<Record> {
    let provider: Provider = software_provider();
    let mut records = Vec::new();
    let seals = Seals { provider: &provider, keys: &[key] };
    verify(folder, 1, seals, |record| records.push(record.clone())).unwrap();
    records
}

fn actions(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.action.as_str()).collect()
}

#[test]
fn what_was_signed_is_told_once_an_interval_and_sealed_within_its_time() {
    let mut desk = Desk::begin(4);
    for height in 1..=3 {
        for intent in of_height(height) {
            desk.sign().signed(&intent, at(height));
        }
    }
    assert_eq!(desk.sign().deadline(), Some(at(1_001)));
    desk.run(at(1_000));
    assert_eq!(desk.metrics.audit_records.get(), 0, "not due");
    desk.run(at(1_001));
    assert_eq!((desk.metrics.audit_records.get(), desk.metrics.audit_seals.get()), (1, 0));
    assert_eq!(desk.sign().deadline(), None);
    assert_eq!(desk.tile.deadline(), Some(at(11_001)));
    desk.run(at(11_000));
    assert_eq!(desk.metrics.audit_seals.get(), 0);
    desk.run(at(11_001));
    assert_eq!((desk.metrics.audit_seals.get(), desk.metrics.audit_unsealed.get()), (1, 0));
    desk.sign().signed(&proposal(4), at(12_000));
    let (folder, key) = desk.stop();
    let found = records(folder.path(), key);
    let all = [
        "audit.begin",
        "node.started",
        "key.used",
        "audit.seal",
        "key.used",
        "node.stopped",
        "audit.seal",
    ];
    assert_eq!(actions(&found), all);
    let used = events::parse_used(&found[2]).unwrap();
    assert_eq!((used.first, used.last), (proposal(1).position(), of_height(3)[2].position()));
    assert_eq!(used.counts, [3, 3, 3]);
    let all = (1..=3).flat_map(of_height);
    let chain = all.fold(Digest::ZERO, |chain, intent| signed_digest(&chain, intent.bytes()));
    assert_eq!(used.chain, chain);
}

#[test]
fn a_full_link_stops_the_signer_and_loses_nothing() {
    let mut desk = Desk::begin(2);
    let away = || DeskError::Card(Error::Deadline { stage: "test" }.into());
    for number in 0..2 {
        desk.sign().away(&away());
        assert!(desk.sign().poll(at(number)).unwrap());
    }
    desk.sign().back(Duration::from_millis(7));
    assert!(!desk.sign().poll(at(3)).unwrap(), "nothing is signed while a record waits");
    assert!(desk.metrics.audit_pushed_back.get() > 0);
    desk.run(at(4));
    assert!(desk.sign().poll(at(5)).unwrap());
    let (folder, key) = desk.stop();
    let found = records(folder.path(), key);
    assert_eq!(actions(&found)[2..5], ["card.away", "card.away", "card.back"]);
    assert_eq!(found[4].number("away_millis"), Some(7));
}

/// A node ends when why it ends is on the disk, or cannot be brought there.
#[test]
fn the_reason_of_an_end_is_on_record_before_it() {
    let refused = || {
        let tries_left = TriesLeft::One;
        DeskError::Card(Error::PinRefused { rv: Rv(0xa0), tries_left }.into())
    };
    let mut desk = Desk::begin(4);
    desk.sign().signed(&proposal(1), at(1));
    desk.sign().ends(refused(), at(1));
    assert!(!desk.sign().poll(at(2)).unwrap(), "it is not durable yet");
    assert!(desk.sign().deadline().is_some());
    while desk.tile.poll(at(3)).unwrap() == Progress::Busy {}
    let ended = desk.sign().poll(at(4)).err().unwrap();
    assert!(ended.to_string().contains("ONE attempt"), "{ended}");
    let found = records(desk.folder.path(), desk.sealed_by);
    assert_eq!(actions(&found)[2..], ["key.used", "key.refused"]);
    assert_eq!(found[3].outcome, hufu_storage::audit_log::Outcome::Refused);

    let mut desk = Desk::begin(4);
    desk.sign().ends(refused(), at(1));
    assert!(!desk.sign().poll(at(1_000)).unwrap());
    assert!(desk.sign().poll(at(2_001)).is_err(), "a disk that hangs does not keep it alive");
}

/// What a card says for good is on record, and ends no node.
#[test]
fn a_card_that_refuses_is_on_record_and_the_signer_goes_on() {
    let mut desk = Desk::begin(4);
    desk.sign().signed(&proposal(1), at(1));
    desk.sign().refused(&DeskError::Card(Error::SignatureWrong.into()));
    for millis in [2, 1_000, 10_000] {
        assert!(desk.sign().poll(at(millis)).unwrap(), "there is nothing to wait for");
        while desk.tile.poll(at(millis)).unwrap() == Progress::Busy {}
    }
    let found = records(desk.folder.path(), desk.sealed_by);
    assert_eq!(actions(&found)[2..], ["key.used", "key.refused"]);
}

#[test]
fn a_log_that_cannot_be_written_ends_the_node() {
    let mut desk = Desk::begin(4);
    desk.sign().away(&DeskError::Card(Error::Deadline { stage: "x" }.into()));
    let (outgoing, incoming) = link("more", 4);
    let mut outgoing = outgoing;
    let large = "x".repeat(500);
    let mut event = hufu_storage::audit_log::Event::new("test", "test.large", "x");
    for name in
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q"]
    {
        event = event.with(name, large.clone());
    }
    outgoing.try_push(event).unwrap();
    let recorded = Arc::new(AtomicU64::new(0));
    let folder = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::generate().unwrap();
    let audit = NodeAudit::open(folder.path(), Address([1; 20]), Box::new(signer)).unwrap();
    let source = AuditSource { incoming, recorded: Arc::clone(&recorded) };
    let (name, every) = ("node-0".to_owned(), Duration::from_secs(1));
    let mut tile = AuditTile::new(audit, name, every, vec![source], Arc::default());
    assert!(tile.poll(at(1)).is_err());
    assert_eq!(recorded.load(Ordering::Acquire), 0);
}

fn vote_log(folder: &Path) -> VoteLogOptions {
    let mut options = VoteLogOptions::new(folder, CHAIN.0, software_provider().hasher);
    options.segment_bytes = 256 << 10;
    options
}

/// Writes the intents, those that `is_signed` says with what was signed.
fn write_votes(log: &mut VoteLog, intents: &[SignIntent], is_signed: impl Fn(usize) -> bool) {
    for (place, intent) in intents.iter().enumerate() {
        log.append(1, &VoteRecord::SignIntent(*intent).to_bytes()).unwrap();
        if let (SignIntent::Vote(vote), true) = (intent, is_signed(place)) {
            let signature = hufu_crypto::Signature([3; 64]);
            let own = SignedVote { vote: *vote, signature };
            log.append(1, &VoteRecord::OwnVote(own).to_bytes()).unwrap();
        }
    }
    log.sync().unwrap();
}

fn compare(votes: &Path, audit: &Path, key: PublicKey) -> Compared {
    let votes = Votes::read(&vote_log(votes), &*software_provider().hasher).unwrap();
    let mut comparison = Comparison::new(votes);
    for record in records(audit, key) {
        comparison.record(&record);
    }
    comparison.finish()
}

/// An audit of these runs: each signs these, an interval for each list.
fn audited(runs: &[&[&[SignIntent]]]) -> (tempfile::TempDir, PublicKey) {
    let mut folder = Some(tempfile::tempdir().unwrap());
    let mut key = None;
    for run in runs {
        let signer = SoftwareSigner::from_bytes(&[5; 32]).unwrap();
        let mut desk = Desk::in_folder(folder.take().unwrap(), signer, 8);
        for (place, intents) in (0..).zip(*run) {
            for intent in *intents {
                desk.sign().signed(intent, at(place * 2_000));
            }
            desk.run(at(place * 2_000 + 1_500));
        }
        let (left, by) = desk.stop();
        (folder, key) = (Some(left), Some(by));
    }
    (folder.unwrap(), key.unwrap())
}

#[test]
fn signatures_agree_with_the_vote_log_and_every_change_of_either_is_found() {
    let (one, two, three) = (of_height(1), of_height(2), of_height(3));
    let votes = tempfile::tempdir().unwrap();
    let (mut log, ..) = VoteLog::open(&vote_log(votes.path())).unwrap();
    write_votes(&mut log, &[one, two, three].concat(), |_| true);
    log.close().unwrap();
    let (audit, key) = audited(&[&[&one, &[two[0]], &[two[1], two[2]]], &[&three]]);
    let found = compare(votes.path(), audit.path(), key);
    let agreed = Compared { records_count: 4, signatures_count: 9, ..Compared::default() };
    assert_eq!(found, agreed);

    // Another message at one place.
    let other = [two[0], vote(2, VoteStep::Prevote, 8), two[2]];
    let (audit, key) = audited(&[&[&one, &other], &[&three]]);
    let found = compare(votes.path(), audit.path(), key);
    assert!(
        matches!(found.disagreements[..], [Disagreement::Other { signed: 3, held: 3, .. }]),
        "{found:?}"
    );
    // One that is told twice, one that is not told at all.
    let (audit, key) = audited(&[&[&[one[0], one[1], one[1], one[2]], &two, &three]]);
    let found = compare(votes.path(), audit.path(), key);
    assert!(
        matches!(found.disagreements[..], [Disagreement::Other { signed: 4, .. }]),
        "{found:?}"
    );
    let (audit, key) = audited(&[&[&one, &three]]);
    let found = compare(votes.path(), audit.path(), key);
    let untold = |found: &Disagreement| matches!(found, Disagreement::Untold { .. });
    assert!(found.disagreements.len() == 3 && found.disagreements.iter().all(untold), "{found:?}");
    // What was signed in between belongs to the tally that a crash took with it.
    let (audit, key) = audited(&[&[&one], &[&three]]);
    let found = compare(votes.path(), audit.path(), key);
    assert_eq!((found.untold_count, found.disagreements.len()), (3, 0), "{found:?}");
}

#[test]
fn what_was_admitted_and_not_signed_may_be_missing_and_nothing_else() {
    let (one, two) = (of_height(1), of_height(2));
    let votes = tempfile::tempdir().unwrap();
    let (mut log, ..) = VoteLog::open(&vote_log(votes.path())).unwrap();
    // The precommit of height 1 was admitted when the machine stopped.
    write_votes(&mut log, &[one, two].concat(), |place| place != 2);
    log.close().unwrap();
    // The next run signs the prevote once more, and goes on with height 2.
    let (audit, key) = audited(&[&[&one[..2]], &[&[one[1], two[0], two[1], two[2]]]]);
    let found = compare(votes.path(), audit.path(), key);
    assert_eq!((found.disagreements.len(), found.signatures_count), (0, 6), "{found:?}");
    // A vote that is there was signed: it may not be missing.
    let (audit, key) = audited(&[&[&[one[0], two[0], two[1], two[2]]]]);
    let found = compare(votes.path(), audit.path(), key);
    assert!(matches!(found.disagreements[..], [Disagreement::Other { .. }]), "{found:?}");
}

#[test]
fn heights_that_the_vote_log_forgot_are_counted_and_not_compared() {
    let votes = tempfile::tempdir().unwrap();
    let mut options = vote_log(votes.path());
    options.heights_kept = Some(2);
    let (mut log, ..) = VoteLog::open(&options).unwrap();
    let mut desk = Desk::begin(8);
    for height in 1..=400 {
        write_votes(&mut log, &of_height(height), |_| true);
        log.seal(Seal { height, log_sequence: height }).unwrap();
        for intent in of_height(height) {
            desk.sign().signed(&intent, at(height * 2_000));
        }
        desk.run(at(height * 2_000 + 1_500));
    }
    log.close().unwrap();
    let (audit, key) = desk.stop();
    let found = compare(votes.path(), audit.path(), key);
    assert!(found.older_count > 0 && found.records_count > 2, "{found:?}");
    assert_eq!(found.older_count + found.records_count, 400);
    assert_eq!((found.disagreements.len(), found.untold_count), (0, 0), "{found:?}");
}

#[test]
fn reasons_name_files_without_their_folders() {
    let said = "/home/alice/keys/a.pem: cannot (\"/b c/d\") be read, 1/2";
    assert_eq!(events::reason(&said), "a.pem: cannot (\"b c/d\") be read, 1/2");
}
