//! Flipped bytes, torn tails, missing pieces.

use super::*;

/// A closed log of three segments whose groups have headers, records, padding and a full end.
fn closed_log(folder: &Path) -> LogOptions {
    closed_log_with(folder, Some(ring(&[1])))
}

fn closed_log_with(folder: &Path, keys: Option<crate::keyring::Keyring>) -> LogOptions {
    let mut options = LogOptions { keys, ..small(folder) };
    options.segment_bytes = 20 << 10;
    options.group_bytes_max = 8 << 10;
    options.record_bytes_max = 6_000;
    let (mut log, _) = open(&options);
    for index in 0..6 {
        append(&mut log, 3, &payload(index, 2_000 + index * 700));
        log.flush().unwrap();
    }
    log.close().unwrap();
    assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
    options
}

#[test]
fn every_flipped_byte_of_a_closed_log_is_found_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let options = closed_log(folder.path());
    let groups = groups(&options);
    let seal = *groups.last().unwrap();
    let last = seal.0;
    assert!(last >= 2 && groups.len() >= 8);
    for segment in 0..=last {
        let bytes = stored(folder.path(), segment);
        for (index, byte) in bytes.iter().enumerate() {
            let offset = u64::try_from(index).unwrap();
            let group = groups.iter().find(|(at, start, bytes)| {
                *at == segment && (*start..start + bytes).contains(&offset)
            });
            if group.is_none() && offset >= 4096 && index % 61 != 0 {
                // The unused end holds nothing committed; a sample of it is enough.
                continue;
            }
            overwrite(folder.path(), segment, offset, &[byte ^ (1 << (index % 8))]);
            let report = verify(&options, &mut |_, _| {}).unwrap();
            let opened = LogReader::open(options.clone());
            let place = match group {
                Some((_, start, _)) => *start,
                None => offset - offset % 4096,
            };
            let tail = segment == last && offset >= seal.1;
            if tail {
                // The seal, or what follows it: nothing later can vouch for these bytes.
                let torn = report.torn.unwrap();
                assert_eq!((torn.segment, report.faults.len()), (segment, 0));
                assert!(!report.sealed && !opened.unwrap().1.sealed);
            } else {
                let fault = report.faults[0];
                assert_eq!((fault.segment, fault.offset), (segment, place), "{report:?}");
                assert_eq!(report.faults.len(), 1, "one flip, one fault: {report:?}");
                match opened {
                    Err(Error::Corrupted { segment: named, offset: at, .. }) => {
                        assert_eq!((named, at), (segment, place));
                    }
                    // The unused end of a full segment holds nothing and is not read at open.
                    Ok(_) => assert!(group.is_none() && place > 0),
                    Err(other) => panic!("{other}"),
                }
            }
            overwrite(folder.path(), segment, offset, &[*byte]);
        }
    }
    assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
}

#[test]
fn a_checksum_made_to_fit_does_not_hide_a_changed_byte() {
    // Whoever changes a payload and repairs both CRCs still meets the Merkle root; whoever repairs
    // the root too meets the chain of the next header, or before it a tag that he cannot make.
    for (keys, damage) in [(None, Damage::Chain), (Some(ring(&[1])), Damage::Tag)] {
        let folder = tempfile::tempdir().unwrap();
        let options = closed_log_with(folder.path(), keys);
        let (segment, start, bytes) = groups(&options)[1];
        let whole = stored(folder.path(), segment);
        let (from, to) = (usize::try_from(start).unwrap(), usize::try_from(start + bytes).unwrap());
        let seed = crc32c::crc32c(&whole[112..128]);
        let repair = |group: &mut Vec<u8>| {
            let body = crc32c::crc32c(&group[256..]).to_le_bytes();
            group[12..16].copy_from_slice(&body);
            let header = crc32c::crc32c_append(seed, &group[12..256]).to_le_bytes();
            group[8..12].copy_from_slice(&header);
        };
        let mut group = whole[from..to].to_vec();
        let before = group.clone();
        repair(&mut group);
        assert_eq!(group, before, "the layout is as this test believes");
        group[300] ^= 1;
        repair(&mut group);
        overwrite(folder.path(), segment, start, &group);
        let report = verify(&options, &mut |_, _| {}).unwrap();
        assert_eq!(report.faults[0].damage, Damage::BodyRoot);
        let root = super::super::tree::stored_root(&group[256..], &*options.hasher);
        group[104..136].copy_from_slice(root.as_bytes());
        repair(&mut group);
        overwrite(folder.path(), segment, start, &group);
        let report = verify(&options, &mut |_, _| {}).unwrap();
        assert_eq!(report.faults[0].damage, damage);
    }
}

#[test]
fn a_tail_cut_at_any_byte_recovers_to_the_group_before() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(folder.path());
    let (mut log, _) = open(&options);
    let first = append(&mut log, 1, b"first");
    log.flush().unwrap();
    append(&mut log, 2, &payload(5, 6_000));
    log.flush().unwrap();
    drop(log);
    let (segment, start, bytes) = *groups(&options).last().unwrap();
    let whole = stored(folder.path(), segment);
    let from = usize::try_from(start).unwrap();
    let used = from + usize::try_from(bytes).unwrap();
    let content = whole[from..used].iter().rposition(|byte| *byte != 0).unwrap();
    for cut in 0..=content {
        let mut torn = whole[from..used].to_vec();
        torn[cut..].fill(0);
        overwrite(folder.path(), segment, start, &torn);
        let (mut reader, report) = LogReader::open(options.clone()).unwrap();
        let records = read_all(&mut reader);
        assert_eq!((records.len(), records[0].0), (1, first), "cut at {cut}");
        assert_eq!(report.torn.is_some(), torn.iter().any(|byte| *byte != 0), "cut at {cut}");
        let seen = verify(&options, &mut |_, _| {}).unwrap();
        assert_eq!((seen.faults.len(), seen.torn), (0, report.torn), "cut at {cut}");
        if cut % 512 == 0 {
            // Writing goes on, and nothing of the torn group is left.
            let (mut log, opened) = open(&options);
            assert_eq!(opened.torn, report.torn);
            append(&mut log, 4, b"after the cut");
            log.close().unwrap();
            let seen = verify(&options, &mut |_, _| {}).unwrap();
            assert!(seen.is_clean() && seen.records_count == 2, "{seen:?}");
        }
        overwrite(folder.path(), segment, 0, &whole);
    }
}

/// A log with two groups handed to the device together: neither vouches for the other.
fn two_in_flight(folder: &Path) -> (LogOptions, RecordPosition) {
    let mut options = direct(folder, Backend::Sync, 2).unwrap();
    options.known_durable = 0;
    let (mut log, _) = open(&options);
    let first = append(&mut log, 1, b"acknowledged");
    log.flush().unwrap();
    append(&mut log, 2, &payload(1, 16_100));
    append(&mut log, 2, &payload(2, 16_100));
    append(&mut log, 2, b"closes the group before");
    let _progress = log.poll().unwrap();
    drop(log);
    (options, first)
}

#[test]
fn a_hole_in_front_of_a_complete_group_in_flight_is_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    if !FileSystem::default().create(&folder.path().join("probe")).unwrap().is_direct() {
        println!("skipped: no direct I/O in {}", folder.path().display());
        return;
    }
    let (options, first) = two_in_flight(folder.path());
    let groups = groups(&options);
    let (segment, start, _) = groups[2];
    assert_eq!(groups.len(), 4, "open, first, and two in flight");
    let (_, report) = LogReader::open(options.clone()).unwrap();
    assert!(report.torn.is_none() && report.last_sequence == 4);
    overwrite(folder.path(), segment, start, &[0; BLOCK]);
    let (mut reader, report) = LogReader::open(options.clone()).unwrap();
    let torn = report.torn.unwrap();
    assert_eq!((torn.segment, torn.offset, torn.sequence), (segment, start, 3));
    assert_eq!(read_all(&mut reader).last().unwrap().0, first);
    // With the sequence known from elsewhere the same bytes are damage.
    let mut knowing = options.clone();
    knowing.known_durable = 3;
    let refused = BlockLog::open(knowing.clone()).unwrap_err();
    assert!(matches!(refused, Error::Corrupted { offset, .. } if offset == start), "{refused}");
    assert!(!verify(&knowing, &mut |_, _| {}).unwrap().faults.is_empty());
    // After recovery the complete group behind the hole is gone for good.
    let (mut log, report) = open(&options);
    assert_eq!(report.torn, Some(torn));
    append(&mut log, 3, b"new");
    log.close().unwrap();
    let seen = verify(&options, &mut |_, _| {}).unwrap();
    assert!(seen.is_clean() && seen.records_count == 2, "{seen:?}");
}

#[test]
fn a_hole_in_acknowledged_groups_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(folder.path());
    let (mut log, _) = open(&options);
    for index in 0..3 {
        append(&mut log, 1, &payload(index, 5_000));
        log.flush().unwrap();
    }
    drop(log);
    let (segment, start, _) = groups(&options)[2];
    overwrite(folder.path(), segment, start, &[0; BLOCK]);
    let refused = BlockLog::open(options.clone()).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains(&format!("segment {segment} offset {start}")), "{text}");
    assert_eq!(refused.whose(), crate::Whose::Host);
    let report = verify(&options, &mut |_, _| {}).unwrap();
    assert_eq!((report.faults[0].segment, report.faults[0].offset), (segment, start));
}

#[test]
fn a_payload_that_looks_like_a_group_header_fools_nobody() {
    use super::super::format::{FLAG_OPEN, GroupBody, GroupHeader, GroupPlace};
    use super::super::tree::GrowingTree;
    let folder = tempfile::tempdir().unwrap();
    let mut options = small(folder.path());
    // Only a log in clear stores what clients send as they sent it.
    options.keys = None;
    let (mut log, _) = open(&options);
    let mut fake = vec![0; BLOCK];
    let body = GroupBody::seal(&mut fake, (0, 0), None, GrowingTree::new(BLOCK), &*options.hasher);
    let place = GroupPlace {
        kind: LogKind::Block,
        seed: crc32c::crc32c(&[0; 16]),
        segment: 0,
        flags: FLAG_OPEN,
        epoch: 1,
        sequence: 100,
        durable: 99,
        previous: Digest::ZERO,
    };
    GroupHeader::encode(&mut fake, &body, &place);
    // The record begins at byte 264 of its group, so that the fake header fills its second block.
    let record = [vec![1; BLOCK - 264], fake].concat();
    append(&mut log, 1, &record);
    log.flush().unwrap();
    drop(log);
    let (segment, start, _) = *groups(&options).last().unwrap();
    assert_eq!(
        &stored(folder.path(), segment)[usize::try_from(start).unwrap() + BLOCK..][..8],
        b"HUFUBLKG"
    );
    overwrite(folder.path(), segment, start, &[0; 512]);
    let (_, report) = LogReader::open(options).unwrap();
    assert_eq!(report.torn.unwrap().offset, start);
}

#[test]
fn pieces_that_are_missing_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let options = closed_log(folder.path());
    let middle = segment_file(folder.path(), 1);
    let kept = std::fs::read(&middle).unwrap();
    std::fs::remove_file(&middle).unwrap();
    let refused = BlockLog::open(options.clone()).unwrap_err();
    assert!(matches!(refused, Error::Corrupted { segment: 1, damage: Damage::Missing, .. }));
    assert_eq!(verify(&options, &mut |_, _| {}).unwrap().faults[0].damage, Damage::Missing);
    std::fs::write(&middle, &kept[..kept.len() - BLOCK]).unwrap();
    let refused = BlockLog::open(options.clone()).unwrap_err();
    assert!(matches!(refused, Error::Corrupted { segment: 1, damage: Damage::Truncated, .. }));
    assert_eq!(verify(&options, &mut |_, _| {}).unwrap().faults[0].damage, Damage::Truncated);
    std::fs::write(&middle, &kept).unwrap();

    // The last segment gone: only a sequence known from elsewhere tells.
    let sequence = verify(&options, &mut |_, _| {}).unwrap().last_sequence;
    let listing = super::super::segment::Listing::read(&options.file_system, folder.path());
    let last = *listing.unwrap().logs.last().unwrap();
    std::fs::remove_file(segment_file(folder.path(), last)).unwrap();
    let mut knowing = options;
    knowing.known_durable = sequence;
    let refused = BlockLog::open(knowing.clone()).unwrap_err();
    let Error::Corrupted { damage: Damage::EndsEarly { known, .. }, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(known, sequence);
    assert!(!verify(&knowing, &mut |_, _| {}).unwrap().is_clean());
    let empty = tempfile::tempdir().unwrap();
    knowing.folder = empty.path().to_path_buf();
    assert!(matches!(BlockLog::open(knowing), Err(Error::Corrupted { .. })));
}

#[test]
fn a_stray_segment_far_away_is_one_gap() {
    let folder = tempfile::tempdir().unwrap();
    let options = closed_log(folder.path());
    let last = groups(&options).last().unwrap().0;
    let stray = segment_file(folder.path(), u32::MAX);
    std::fs::copy(segment_file(folder.path(), 0), &stray).unwrap();
    let report = verify(&options, &mut |_, _| {}).unwrap();
    let found: Vec<_> = report.faults.iter().map(|fault| (fault.segment, fault.damage)).collect();
    let expected = [(last + 1, Damage::Missing), (u32::MAX, Damage::Segment { found: 0 })];
    assert_eq!(found, expected, "one fault for the gap, and no overflow");
    let refused = BlockLog::open(options).unwrap_err();
    let Error::Corrupted { segment, damage: Damage::Missing, .. } = refused else {
        panic!("{refused}");
    };
    assert_eq!(segment, last + 1);
}
