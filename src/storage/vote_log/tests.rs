use std::os::unix::fs::FileExt;

use hufu_crypto::software_provider;
use hufu_runtime::file::{DirectIo, Fault, FaultOperation, FaultPlan};
use hufu_runtime::sim::disk::SimDisk;

use super::*;
use crate::keyring::ring;

fn options(folder: &std::path::Path) -> VoteLogOptions {
    let mut options = VoteLogOptions::new(folder, Digest([3; 32]), software_provider().hasher);
    options.keys = Some(ring(&[1]));
    options.segment_bytes = 256 << 10;
    options
}

fn seal(height: u64) -> Seal {
    Seal { height, log_sequence: height * 3 }
}

fn kinds(records: &[VoteRecord]) -> Vec<u16> {
    records.iter().map(|record| record.kind).collect()
}

#[test]
fn what_was_synced_comes_back_split_at_the_newest_seal() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut votes, recovery, _) = VoteLog::open(&options).unwrap();
    assert_eq!(recovery, VoteRecovery::default());
    for height in 1..=5_u16 {
        votes.append(height * 10, b"intent").unwrap();
        votes.sync().unwrap();
        votes.append(height * 10 + 1, b"vote").unwrap();
        let durable = votes.seal(seal(u64::from(height))).unwrap();
        assert_eq!(durable, votes.durable());
    }
    let position = votes.append(60, &[9; 65_536]).unwrap();
    assert!(!votes.durable().covers(&position));
    assert!(votes.sync().unwrap().covers(&position));
    drop(votes);
    let (mut votes, recovery, report) = VoteLog::open(&options).unwrap();
    assert!(!report.sealed && report.torn.is_none());
    assert_eq!(recovery.seal, Some(seal(5)));
    assert_eq!(kinds(&recovery.sealed), [40, 41, 50, 51]);
    assert_eq!(kinds(&recovery.open), [60]);
    assert_eq!(recovery.open[0].payload, [9; 65_536]);
    assert_eq!(votes.recover().unwrap(), recovery);
    votes.close().unwrap();
    let report = VoteLog::verify(&options).unwrap();
    assert!(report.is_clean() && report.sealed && report.records_count == 16);
}

#[test]
fn recovery_spans_segments_and_a_lost_unsynced_record_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    for round in 0..3_u64 {
        let (mut votes, recovery, _) = VoteLog::open(&options).unwrap();
        assert_eq!(recovery.seal, round.checked_sub(1).map(|last| seal(last * 40 + 39)));
        for height in round * 40..round * 40 + 40 {
            votes.append(1, &vec![1; 30_000]).unwrap();
            votes.sync().unwrap();
            votes.seal(seal(height)).unwrap();
        }
        votes.append(2, b"never synced").unwrap();
    }
    let (_, recovery, report) = VoteLog::open(&options).unwrap();
    assert!(report.segments_count > 10);
    assert_eq!((recovery.sealed.len(), recovery.open.len()), (2, 0));
}

#[test]
fn old_segments_are_used_again_when_the_option_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.heights_kept = Some(3);
    let files = || std::fs::read_dir(folder.path()).unwrap().count();
    let (mut votes, ..) = VoteLog::open(&options).unwrap();
    for height in 0..200 {
        votes.append(7, &vec![u8::try_from(height % 250).unwrap(); 20_000]).unwrap();
        votes.seal(seal(height)).unwrap();
        assert!(files() <= 8, "{} files at height {height}", files());
        if height % 33 == 32 {
            drop(votes);
            let (again, recovery, _) = VoteLog::open(&options).unwrap();
            assert_eq!((recovery.seal, recovery.sealed.len()), (Some(seal(height)), 2));
            votes = again;
        }
    }
    votes.close().unwrap();
    let report = VoteLog::verify(&options).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn every_flipped_byte_of_an_acknowledged_vote_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.file_system = FileSystem::new(DirectIo::Never);
    let (mut votes, ..) = VoteLog::open(&options).unwrap();
    votes.append(1, &[5; 300]).unwrap();
    votes.sync().unwrap();
    votes.append(2, &[6; 300]).unwrap();
    let durable = votes.sync().unwrap();
    drop(votes);
    options.known_durable = durable.get();
    let path = folder.path().join("0000000000.log");
    let whole = std::fs::read(&path).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(4096);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for index in 0..used {
        let offset = u64::try_from(index).unwrap();
        file.write_all_at(&[whole[index] ^ (1 << (index % 8))], offset).unwrap();
        assert!(!VoteLog::verify(&options).unwrap().faults.is_empty(), "byte {index}");
        if index % 256 == 0 {
            assert!(matches!(VoteLog::open(&options), Err(Error::Corrupted { .. })));
        }
        file.write_all_at(&whole[index..=index], offset).unwrap();
    }
}

#[test]
fn a_failed_sync_ends_the_vote_log() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Arc::new(FaultPlan::default());
    let mut options = options(folder.path());
    options.file_system = FileSystem::with_faults(DirectIo::WherePossible, Arc::clone(&plan));
    let (mut votes, ..) = VoteLog::open(&options).unwrap();
    votes.append(1, b"kept").unwrap();
    votes.sync().unwrap();
    plan.arm(FaultOperation::Sync, 0, Fault::Error(5));
    votes.append(2, b"unknown").unwrap();
    assert!(votes.sync().is_err());
    assert!(matches!(votes.append(3, b"refused"), Err(Error::Stopped { .. })));
    assert!(matches!(votes.sync(), Err(Error::Stopped { .. })));
    drop(votes);
    let (_, recovery, _) = VoteLog::open(&options).unwrap();
    assert_eq!(recovery.open[0].payload, b"kept");
}

#[test]
fn options_that_forget_what_recovery_needs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = options(folder.path());
    wrong.heights_kept = Some(1);
    assert!(matches!(VoteLog::open(&wrong), Err(Error::Option { key: "heights_kept", .. })));
    wrong.heights_kept = None;
    wrong.heights_recovered = 0;
    assert!(matches!(VoteLog::open(&wrong), Err(Error::Option { .. })));
}

#[test]
fn a_sync_is_one_write_and_one_fdatasync_and_segments_are_prepared_between() {
    let disk = SimDisk::new();
    let mut options = options(std::path::Path::new("/votes"));
    options.file_system =
        FileSystem::simulated(DirectIo::WherePossible, disk.clone(), Arc::default());
    let (mut votes, ..) = VoteLog::open(&options).unwrap();
    let (mut rotations, mut prepared) = (0, 0);
    for height in 1..=200 {
        votes.append(1, &[3; 9_000]).unwrap();
        let before = disk.operations();
        votes.sync().unwrap();
        match disk.operations() - before {
            2 => {}
            // Header, sync, rename, sync of the folder: the segment itself was ready.
            6 => rotations += 1,
            other => panic!("height {height}: {other} operations for one sync"),
        }
        let before = disk.operations();
        while votes.prepare().unwrap() {}
        prepared += disk.operations() - before;
    }
    assert!(rotations > 5 && prepared > rotations, "{rotations} {prepared}");
}

#[test]
fn the_newest_seal_is_found_without_opening_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let (mut votes, ..) = VoteLog::open(&options).unwrap();
    assert_eq!(VoteLog::last_seal(&options).unwrap(), None);
    for height in 1..=30 {
        votes.append(1, &vec![1; 30_000]).unwrap();
        votes.seal(seal(height)).unwrap();
    }
    for _more in 0..20 {
        votes.append(1, &vec![1; 30_000]).unwrap();
        votes.sync().unwrap();
    }
    assert_eq!(VoteLog::last_seal(&options).unwrap(), Some(seal(30)));
}
