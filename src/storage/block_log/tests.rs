//! Tests of the log: round trips, every flipped byte, torn tails, failures of the disk.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hufu_crypto::{Digest, software_provider};
use hufu_runtime::file::{
    Backend, DirectIo, Fault, FaultOperation, FaultPlan, FileError, FileSystem,
};

use super::*;
use crate::Error;
use crate::keyring::ring;

mod damage;
mod encryption;
mod failures;
mod model;
mod power;

const CHAIN: Digest = Digest([7; 32]);
const BLOCK: usize = 4096;

/// Small segments and groups, on the page cache: for tests that open a log thousands of times.
fn small(folder: &Path) -> LogOptions {
    let mut options = LogOptions::new(folder, LogKind::Block, CHAIN, software_provider().hasher);
    options.keys = Some(ring(&[1]));
    options.segment_bytes = 64 << 10;
    options.group_bytes_max = 16 << 10;
    options.record_bytes_max = 24 << 10;
    options.backend = Backend::Sync;
    options.file_system = FileSystem::new(DirectIo::Never);
    options
}

/// The same past the page cache, with a choice of back end. `None` where io_uring is forbidden.
fn direct(folder: &Path, backend: Backend, depth: u32) -> Option<LogOptions> {
    let mut options = small(folder);
    options.file_system = FileSystem::default();
    (options.backend, options.depth) = (backend, depth);
    let ring = hufu_runtime::file::RingOptions { backend, depth };
    match hufu_runtime::file::FileRing::new(ring) {
        Ok(_ring) => Some(options),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn open(options: &LogOptions) -> (BlockLog, RecoveryReport) {
    BlockLog::open(options.clone()).unwrap()
}

/// Appends, polling while the log is full.
fn append(log: &mut BlockLog, kind: u16, payload: &[u8]) -> RecordPosition {
    loop {
        match log.append(kind, &[payload]).unwrap() {
            Appended::Placed(position) => return position,
            Appended::Full => {
                assert!(!log.has_room(payload.len()));
                let _progress = log.poll().unwrap();
            }
        }
    }
}

/// Bytes that differ from record to record.
fn payload(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|index| u8::try_from((seed * 31 + index * 7 + index / 251) % 251).unwrap())
        .collect()
}

/// Everything a reader sees.
fn read_all(reader: &mut LogReader) -> Vec<(RecordPosition, u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        all.push((record.position, record.kind, record.payload.to_vec()));
    }
    all
}

fn segment_file(folder: &Path, segment: u32) -> PathBuf {
    super::segment::path(folder, segment, super::segment::State::Log)
}

/// Changes bytes of a segment file from outside.
fn overwrite(folder: &Path, segment: u32, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(segment_file(folder, segment)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

fn stored(folder: &Path, segment: u32) -> Vec<u8> {
    std::fs::read(segment_file(folder, segment)).unwrap()
}

/// The places of all groups of a log that is whole: segment, offset, bytes.
fn groups(options: &LogOptions) -> Vec<(u32, u64, u64)> {
    let mut found = Vec::new();
    for segment in
        super::segment::Listing::read(&options.file_system, &options.folder).unwrap().logs
    {
        let mut scan = super::scan::SegmentScan::open(
            &options.file_system,
            &options.folder,
            options.kind,
            options.chain_and_keys(),
            segment,
            super::scan::SegmentScan::new_window(),
        )
        .unwrap();
        let mut at = 4096;
        while let Ok(Ok(header)) = scan.header(at) {
            let bytes = u64::from(header.padded_bytes.get());
            found.push((segment, at, bytes));
            at += bytes;
        }
    }
    found
}

#[test]
fn records_come_back_in_order_and_by_position_on_every_back_end() {
    let ways = [(Backend::Sync, 1), (Backend::Sync, 3), (Backend::Uring, 1), (Backend::Uring, 4)];
    for (backend, depth) in ways {
        let folder = tempfile::tempdir().unwrap();
        let Some(options) = direct(folder.path(), backend, depth) else { continue };
        let (mut log, report) = open(&options);
        assert!(report.sealed && report.torn.is_none() && report.last_sequence == 0);
        assert_eq!(log.backend(), backend);
        let sizes = [0, 1, 100, 4088, 4096, 9000, 16_000, 20_000, 24 << 10];
        let mut expected = Vec::new();
        for index in 0..120_usize {
            let bytes = payload(index, sizes[index % sizes.len()]);
            let kind = u16::try_from(index).unwrap();
            let position = append(&mut log, kind, &bytes);
            expected.push((position, kind, bytes));
        }
        let durable = log.flush().unwrap();
        assert!(expected.iter().all(|(position, _, _)| durable.covers(position)));
        assert!(expected.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(read_all(&mut log.reader()), expected);
        let mut reader = log.reader();
        for (position, kind, bytes) in expected.iter().rev() {
            let stored = RecordPosition::from_bytes(&position.to_bytes());
            let record = reader.read(&stored).unwrap();
            assert_eq!((record.kind, record.payload), (*kind, bytes.as_slice()));
        }
        assert!(log.counters().segments_total > 3);
        log.close().unwrap();

        let (mut log, report) = open(&options);
        assert!(report.sealed && report.torn.is_none());
        let position = append(&mut log, 9, b"after reopening");
        log.flush().unwrap();
        expected.push((position, 9, b"after reopening".to_vec()));
        drop(log);
        let (mut reader, report) = LogReader::open(options.clone()).unwrap();
        assert!(!report.sealed, "a log dropped without close has no seal");
        assert_eq!(read_all(&mut reader), expected);
        let report = verify(&options, &mut |_, _| {}).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.records_count, 121);
    }
}

#[test]
fn reading_begins_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&small(folder.path()));
    let mut reader = log.reader();
    assert!(reader.next().unwrap().is_none());
    let positions: Vec<_> =
        (0..300).map(|index| append(&mut log, 1, &payload(index, 700))).collect();
    log.flush().unwrap();
    for index in [0, 1, 17, 150, 298] {
        reader.seek(Start::At(positions[index])).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().position, positions[index]);
        reader.seek(Start::After(positions[index])).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().position, positions[index + 1]);
    }
    reader.seek(Start::After(positions[299])).unwrap();
    assert!(reader.next().unwrap().is_none());
    let later = append(&mut log, 2, b"later");
    assert!(reader.next().unwrap().is_none(), "not durable, not seen");
    log.flush().unwrap();
    assert_eq!(reader.next().unwrap().unwrap().position, later);
    reader.seek(Start::Beginning).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().position, positions[0]);
}

#[test]
fn positions_that_name_no_record_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&small(folder.path()));
    let good = append(&mut log, 1, b"one");
    append(&mut log, 1, b"two");
    let mut reader = log.reader();
    let unseen = reader.read(&good).unwrap_err();
    assert!(matches!(unseen, Error::NoSuchRecord { .. }), "{unseen}");
    log.flush().unwrap();
    assert_eq!(reader.read(&good).unwrap().payload, b"one");
    let wrong = [
        RecordPosition { record_offset: good.record_offset + 1, ..good },
        RecordPosition { record_offset: 0, ..good },
        RecordPosition { record_offset: u32::MAX, ..good },
        RecordPosition { sequence: good.sequence + 1, ..good },
        RecordPosition { segment: 9, ..good },
        RecordPosition { segment: u32::MAX, ..good },
        RecordPosition { group_offset: 1, ..good },
        RecordPosition { group_offset: u32::MAX, ..good },
        RecordPosition { group_offset: 0, ..good },
    ];
    for position in wrong {
        assert!(reader.read(&position).is_err(), "{position:?}");
        assert_eq!(reader.read(&good).unwrap().payload, b"one");
    }
}

#[test]
fn positions_inside_a_loaded_group_that_name_no_record_move_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&small(folder.path()));
    let first = append(&mut log, 1, b"one");
    let second = append(&mut log, 1, b"two");
    log.flush().unwrap();
    let third = append(&mut log, 1, b"next group");
    log.flush().unwrap();
    for offset in [0, 1, 255] {
        let wrong = RecordPosition { record_offset: offset, ..first };
        let mut reader = log.reader();
        assert_eq!(reader.read(&first).unwrap().payload, b"one");
        let refused = reader.read(&wrong);
        assert!(matches!(refused, Err(Error::NoSuchRecord { .. })), "{offset}");
        assert_eq!(reader.next().unwrap().unwrap().position, second, "{offset}");
        for start in [Start::At(wrong), Start::After(wrong)] {
            assert!(matches!(reader.seek(start), Err(Error::NoSuchRecord { .. })), "{offset}");
        }
    }
    // Behind the last record of its group: not the first record of the next one.
    let behind = RecordPosition { record_offset: second.record_offset + 11, ..second };
    for beyond in [behind, RecordPosition { record_offset: 4_000, ..second }] {
        let mut reader = log.reader();
        reader.seek(Start::At(beyond)).unwrap();
        assert!(matches!(reader.next(), Err(Error::NoSuchRecord { .. })), "{beyond:?}");
        let after = log.reader().seek(Start::After(beyond));
        assert!(matches!(after, Err(Error::NoSuchRecord { .. })), "{beyond:?}");
    }
    let mut reader = log.reader();
    reader.seek(Start::After(second)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().position, third);
}

#[test]
fn a_reader_follows_a_writer_on_another_thread() {
    for (backend, depth) in [(Backend::Sync, 1), (Backend::Uring, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let Some(options) = direct(folder.path(), backend, depth) else { continue };
        let (mut log, _) = open(&options);
        let mut reader = log.reader();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for index in 0..2_000 {
                    append(&mut log, 5, &payload(index, index % 3_000));
                }
                log.flush().unwrap();
            });
            let mut seen = 0;
            while seen < 2_000 {
                if let Some(record) = reader.next().unwrap() {
                    assert_eq!(record.payload, payload(seen, seen % 3_000));
                    seen += 1;
                } else {
                    std::thread::yield_now();
                }
            }
        });
    }
}

#[test]
fn records_collect_while_a_group_is_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&small(folder.path()));
    let first = append(&mut log, 1, b"a");
    assert!(log.poll().unwrap().advanced, "an idle device takes a group at once");
    assert!(log.durable().covers(&first));
    let many: Vec<_> = (0..50).map(|_| append(&mut log, 1, b"b")).collect();
    assert!(many.iter().all(|position| position.sequence == many[0].sequence));
    let progress = log.poll().unwrap();
    assert!(progress.durable.covers(&many[49]) && progress.idle);
    assert!(!log.poll().unwrap().advanced);
}

/// With io_uring the next group fills and is hashed while the device has one, also a long one, and
/// also where only one may be in flight.
#[test]
fn the_next_group_fills_while_the_device_has_one() {
    for kib in [128, 1_024_u32] {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut options) = direct(folder.path(), Backend::Auto, 1) else { continue };
        options.group_bytes_max = kib << 10;
        options.record_bytes_max = (kib << 10) - 512;
        options.segment_bytes = 16 << 20;
        let (mut log, _) = open(&options);
        if log.backend() != Backend::Uring || !log.is_direct() {
            println!("skipped: no io_uring or no O_DIRECT here");
            return;
        }
        let record = payload(usize::try_from(kib).unwrap(), (kib << 10) as usize - 512);
        // The thread may be held up until the device is done, but not every time.
        let is_seen_in_flight = (0..100).any(|_| {
            let first = append(&mut log, 1, &record);
            let progress = log.poll().unwrap();
            let is_in_flight = !progress.durable.covers(&first);
            let second = append(&mut log, 1, &record);
            assert!(first.sequence < second.sequence, "the next group takes records");
            let _durable = log.flush().unwrap();
            is_in_flight
        });
        assert!(is_seen_in_flight, "a poll does not wait for {kib} KiB to be written");
        let count = read_all(&mut log.reader()).len();
        assert!(count >= 2 && count.is_multiple_of(2));
        drop(log);
        assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
    }
}

#[test]
fn the_memory_a_log_takes_is_what_it_says() {
    for (depth, group, record) in [(1, 1 << 20, 8 << 20), (4, 64 << 10, 60 << 10), (2, 4096, 9_000)]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut options = small(folder.path());
        (options.depth, options.group_bytes_max, options.record_bytes_max) = (depth, group, record);
        options.segment_bytes = 16 << 20;
        let (log, _) = open(&options);
        let said = LogOptions::memory_bytes(depth, group, record);
        let taken = log.buffer_bytes();
        assert!(taken > 0 && taken <= said, "{taken} taken, {said} said");
        assert!(said - taken <= (u64::from(depth) + 4) * (2 << 20), "{taken} taken, {said} said");
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let wrong: [fn(&mut LogOptions); 8] = [
        |options| options.depth = 0,
        |options| options.depth = 5,
        |options| options.group_bytes_max = 5_000,
        |options| options.group_bytes_max = 16 << 20,
        |options| options.record_bytes_max = 0,
        |options| options.record_bytes_max = 9 << 20,
        |options| options.segment_bytes = 24 << 10,
        |options| options.segments_checked_at_open = 0,
    ];
    for change in wrong {
        let mut options = small(folder.path());
        change(&mut options);
        assert!(matches!(BlockLog::open(options), Err(Error::Option { .. })));
    }
    let mut log = open(&small(folder.path())).0;
    let long = log.append(1, &[&[0; 20_000], &[0; 20_000]]);
    assert!(matches!(long, Err(Error::RecordTooLong { bytes: 40_000, .. })));
    append(&mut log, 1, b"a record too long does not stop the log");
    log.flush().unwrap();
}

#[test]
fn a_log_of_another_chain_kind_or_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(folder.path());
    open(&options).0.close().unwrap();
    let mut other = options.clone();
    other.chain = Digest([8; 32]);
    assert!(matches!(BlockLog::open(other), Err(Error::OtherChain { .. })));
    let mut other = options.clone();
    other.kind = LogKind::Vote;
    let refused = BlockLog::open(other).unwrap_err();
    assert!(matches!(refused, Error::Corrupted { damage: Damage::Magic, .. }), "{refused}");
    // A whole header of another version: the checksum is right, the version is not.
    let mut header = stored(folder.path(), 0)[..BLOCK].to_vec();
    header[12] = 99;
    let checksum = crc32c::crc32c(&header[12..]);
    header[8..12].copy_from_slice(&checksum.to_le_bytes());
    overwrite(folder.path(), 0, 0, &header);
    assert!(matches!(BlockLog::open(options), Err(Error::OtherVersion { found: 99, .. })));
}

#[test]
fn segments_ready_at_open_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = small(folder.path());
    options.segments_ready_at_open = 3;
    let (mut log, _) = open(&options);
    let ready = super::segment::Listing::read(&options.file_system, folder.path()).unwrap().ready;
    assert_eq!(ready.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    for index in 0..40 {
        append(&mut log, 1, &payload(index, 12_000));
    }
    log.close().unwrap();
    assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
}
