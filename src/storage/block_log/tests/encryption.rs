//! What is on the disk of an encrypted log: nothing in clear, nothing that can be moved, and
//! another answer for damage, forgery and another key.

use std::collections::BTreeSet;

use super::super::format::GroupHeader;
use super::*;

/// Words that are looked for on the disk.
const CANARY: &[u8] = b"the memo of a client, in clear";

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// A record that holds the canary now and then.
fn canary(bytes: usize) -> Vec<u8> {
    let mut record = payload(1, bytes);
    for target in record.chunks_exact_mut(4_000) {
        target[..CANARY.len()].copy_from_slice(CANARY);
    }
    record
}

/// Groups of one block up to several steps.
fn large(folder: &Path) -> LogOptions {
    let mut options = small(folder);
    options.segment_bytes = 1 << 20;
    options.group_bytes_max = 256 << 10;
    options.record_bytes_max = 300 << 10;
    options
}

fn write_all(options: &LogOptions) -> Vec<(RecordPosition, u16, Vec<u8>)> {
    let (mut log, _) = open(options);
    let sizes = [30, 5_000, 65_280, 65_272, 65_273, 131_072, 130_000, 250_000, 300 << 10, 1];
    let mut expected = Vec::new();
    for (index, size) in sizes.into_iter().cycle().take(24).enumerate() {
        let bytes = canary(size);
        let position = append(&mut log, 7, &bytes);
        expected.push((position, 7, bytes));
        if index % 3 == 2 {
            log.flush().unwrap();
        }
    }
    log.close().unwrap();
    expected
}

#[test]
fn nothing_is_on_the_disk_in_clear_and_everything_comes_back() {
    for keys in [None, Some(ring(&[1]))] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = large(folder.path());
        options.keys = keys;
        let expected = write_all(&options);
        let is_seen = groups(&options)
            .iter()
            .map(|(segment, ..)| *segment)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .any(|segment| contains(&stored(folder.path(), segment), CANARY));
        assert_eq!(is_seen, options.keys.is_none());
        let (mut reader, _) = LogReader::open(options.clone()).unwrap();
        assert_eq!(read_all(&mut reader), expected);
        // Back and forth in the same window, where groups are decrypted already.
        for (position, _, bytes) in expected.iter().rev().chain(&expected) {
            assert_eq!(reader.read(position).unwrap().payload, bytes);
        }
        assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
    }
}

#[test]
fn the_same_records_never_give_the_same_bytes() {
    let bodies = || {
        let folder = tempfile::tempdir().unwrap();
        let options = small(folder.path());
        let (mut log, _) = open(&options);
        append(&mut log, 7, &payload(1, 9_000));
        log.close().unwrap();
        let (segment, start, bytes) = groups(&options)[1];
        let (start, bytes) = (usize::try_from(start).unwrap(), usize::try_from(bytes).unwrap());
        stored(folder.path(), segment)[start + 256..start + bytes].to_vec()
    };
    let (first, second) = (bodies(), bodies());
    let equal = first.iter().zip(&second).filter(|(first, second)| first == second).count();
    assert!(first.len() == second.len() && equal < first.len() / 64, "{equal}");
}

/// A copy of a data folder, or one that was put back, goes on at the same place under the same
/// epoch: what the two write there has nothing in common.
#[test]
fn two_lives_of_one_folder_do_not_share_a_keystream() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(folder.path());
    open(&options).0.close().unwrap();
    let kept = stored(folder.path(), 0);
    let epochs = || {
        let listing = super::super::segment::Listing::read(&options.file_system, folder.path());
        listing.unwrap().epochs.last().copied().unwrap()
    };
    let claimed = epochs();
    let mut lives = Vec::new();
    for _life in 0..2 {
        std::fs::write(segment_file(folder.path(), 0), &kept).unwrap();
        let name = |epoch: u64| folder.path().join(format!("{epoch:020}.epoch"));
        std::fs::rename(name(epochs()), name(claimed)).unwrap();
        let (mut log, _) = open(&options);
        append(&mut log, 7, &[0; 9_000]);
        log.flush().unwrap();
        drop(log);
        let all = groups(&options);
        let (_, start, bytes) = *all.last().unwrap();
        let (start, bytes) = (usize::try_from(start).unwrap(), usize::try_from(bytes).unwrap());
        lives.push(stored(folder.path(), 0)[start..start + bytes].to_vec());
    }
    let (first, second) = (&lives[0], &lives[1]);
    assert_eq!(first[16..40], second[16..40], "segment, flags, epoch and sequence are the same");
    let equal = first[256..].iter().zip(&second[256..]).filter(|(one, two)| one == two).count();
    assert!(equal < first.len() / 64, "{equal} bytes of zeroes are encrypted alike");
}

#[test]
fn another_key_is_no_damage_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let options = large(folder.path());
    let expected = write_all(&options);
    let before = stored(folder.path(), 0);
    let with = |keys| LogOptions { keys, ..options.clone() };
    for options in [with(Some(ring(&[2]))), with(Some(ring(&[3, 2])))] {
        let refused = BlockLog::open(options.clone()).unwrap_err();
        assert!(matches!(refused, Error::KeyUnknown { .. }), "{refused}");
        assert_eq!((refused.whose(), refused.stage()), (crate::Whose::Host, crate::Stage::Open));
        assert!(matches!(LogReader::open(options.clone()), Err(Error::KeyUnknown { .. })));
        assert!(matches!(verify(&options, &mut |_, _| {}), Err(Error::KeyUnknown { .. })));
    }
    let refused = BlockLog::open(with(None)).unwrap_err();
    assert!(matches!(refused, Error::KeyMissing { .. }), "{refused}");
    assert!(refused.to_string().contains(&crate::keyring::show_id(ring(&[1]).current())));
    assert!(before == stored(folder.path(), 0), "refusals change nothing");
    let plain = tempfile::tempdir().unwrap();
    let (kept, folder) = (with(None), plain.path().to_owned());
    open(&LogOptions { folder: folder.clone(), ..kept }).0.close().unwrap();
    let refused = BlockLog::open(LogOptions { folder, ..options.clone() }).unwrap_err();
    assert!(matches!(refused, Error::NotEncrypted { .. }), "{refused}");
    // A new key for what is new, the old one for what was.
    let rotated = with(Some(ring(&[2, 1])));
    let (mut log, _) = open(&rotated);
    let position = append(&mut log, 9, b"under the new key");
    log.flush().unwrap();
    let all = read_all(&mut log.reader());
    assert_eq!(all[..expected.len()], expected);
    assert_eq!(all.last().unwrap().0, position);
    drop(log);
    let refused = LogReader::open(options).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::KeyUnknown { .. }), "{refused}");
}

/// Writes a group's header anew so that every checksum and hash fits its changed bytes, as somebody
/// can who has the disk and not the key.
fn forge(options: &LogOptions, place: (u32, u64, u64), change: impl Fn(&mut Vec<u8>)) {
    let (segment, start, bytes) = place;
    let path = segment_file(&options.folder, segment);
    let mut file = std::fs::read(&path).unwrap();
    let seed = crc32c::crc32c(&file[112..128]);
    let (start, bytes) = (usize::try_from(start).unwrap(), usize::try_from(bytes).unwrap());
    let mut group = file[start..start + bytes].to_vec();
    change(&mut group);
    let root = super::super::tree::stored_root(&group[256..], &*options.hasher);
    let body = crc32c::crc32c(&group[256..]).to_le_bytes();
    group[12..16].copy_from_slice(&body);
    group[104..136].copy_from_slice(&root.0);
    let checksum = crc32c::crc32c_append(seed, &group[12..256]).to_le_bytes();
    group[8..12].copy_from_slice(&checksum);
    assert!(GroupHeader::decode(options.kind, seed, &group).is_ok(), "a forgery that fits");
    file[start..start + bytes].copy_from_slice(&group);
    std::fs::write(&path, &file).unwrap();
}

#[test]
fn what_fits_every_checksum_and_does_not_open_is_a_forgery() {
    let changes: [fn(&mut Vec<u8>); 8] = [
        |group| group[256] ^= 1,
        |group| {
            let middle = group.len() / 2;
            group[middle] ^= 0x80;
        },
        |group| *group.last_mut().unwrap() ^= 1,
        // The salt, and the tag.
        |group| group[75] ^= 1,
        |group| group[95] ^= 1,
        // The bytes of the records, and how many they are: neither is cut short in silence.
        |group| group[48] ^= 1,
        |group| group[56] ^= 1,
        // That it opens or seals the log.
        |group| group[20] ^= 1,
    ];
    for change in changes {
        let folder = tempfile::tempdir().unwrap();
        let options = large(folder.path());
        write_all(&options);
        // The last group is that of the seal: nothing vouches for it, and still it is no torn tail.
        let all = groups(&options);
        let last = *all.last().unwrap();
        let before = stored(folder.path(), last.0);
        forge(&options, last, change);
        let refused = BlockLog::open(options.clone()).unwrap_err();
        let Error::Corrupted { damage, offset, .. } = &refused else { panic!("{refused}") };
        assert_eq!((*damage, *offset), (Damage::Tag, last.1));
        let report = verify(&options, &mut |_, _| {}).unwrap();
        assert!(report.faults.iter().any(|fault| fault.damage == Damage::Tag), "{report:?}");
        assert!(report.torn.is_none());
        std::fs::write(segment_file(folder.path(), last.0), before).unwrap();
        assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
        // One with steps, in the middle: only its successors know that its header is another.
        let long = *all.iter().find(|(_, _, bytes)| *bytes > 200 << 10).unwrap();
        forge(&options, long, change);
        let report = verify(&options, &mut |_, _| {}).unwrap();
        let found = report.faults.iter().any(|fault| {
            (fault.segment, fault.offset, fault.damage) == (long.0, long.1, Damage::Tag)
        });
        assert!(found, "{report:?}");
    }
}

/// Whoever has no key can still write a group in clear; an encrypted log has none.
#[test]
fn a_group_in_clear_is_none_of_an_encrypted_log() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(folder.path());
    let (mut log, _) = open(&options);
    for index in 0..3 {
        append(&mut log, 7, &payload(index, 500));
        log.flush().unwrap();
    }
    drop(log);
    let second = groups(&options)[2];
    forge(&options, second, |group| {
        // No suite, key, salt or tag, and no record, which is whole in clear.
        group[60] = 0;
        group[64..104].fill(0);
        group[48..52].copy_from_slice(&0_u32.to_le_bytes());
        group[56..60].copy_from_slice(&0_u32.to_le_bytes());
        group[256..].fill(0);
    });
    let report = verify(&options, &mut |_, _| {}).unwrap();
    let fault = report.faults.iter().find(|fault| fault.offset == second.1);
    assert!(fault.is_some_and(|fault| fault.damage == Damage::HeaderFields), "{report:?}");
}

/// The body of one group under the header of another: checksums can be made to fit, the key cannot.
#[test]
fn a_group_does_not_open_at_another_place() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(folder.path());
    let (mut log, _) = open(&options);
    for index in 0..2 {
        append(&mut log, 7, &payload(index, 3_000));
        log.flush().unwrap();
    }
    drop(log);
    let all = groups(&options);
    let (first, second) = (all[1], all[2]);
    let file = stored(folder.path(), 0);
    let at = |place: (u32, u64, u64)| usize::try_from(place.1).unwrap();
    let moved = file[at(first)..at(first) + usize::try_from(first.2).unwrap()].to_vec();
    forge(&options, second, |group| {
        group[256..].copy_from_slice(&moved[256..]);
        // Salt and tag come along.
        group[72..104].copy_from_slice(&moved[72..104]);
    });
    let refused = BlockLog::open(options.clone()).unwrap_err();
    assert!(matches!(refused, Error::Corrupted { damage: Damage::Tag, .. }), "{refused}");
}

/// All bytes that a group has: a torn tail is known for one without a look at the key.
#[test]
fn a_torn_tail_is_cut_and_what_is_behind_it_is_never_decrypted() {
    let folder = tempfile::tempdir().unwrap();
    let options = large(folder.path());
    write_all(&options);
    let (segment, start, bytes) = *groups(&options).last().unwrap();
    let file = stored(folder.path(), segment);
    for cut in [256, 4_000] {
        std::fs::write(segment_file(folder.path(), segment), &file).unwrap();
        let zeroes = vec![0; usize::try_from(bytes).unwrap() - cut];
        overwrite(folder.path(), segment, start + cut as u64, &zeroes);
        let (_, report) = LogReader::open(options.clone()).unwrap();
        assert_eq!(report.torn.map(|torn| (torn.segment, torn.offset)), Some((segment, start)));
        assert_eq!(report.torn.unwrap().damage, Damage::BodyChecksum);
    }
}

/// The bytes that this format gives to records, computed by another program from OpenSSL's SM3 and
/// SM4: a build that gives others does not read what is on the disks of today.
#[test]
fn the_bytes_of_an_encrypted_group_are_those_of_the_format() {
    use super::super::cipher::{GroupCipher, GroupName};
    use super::super::format::{GroupBody, GroupPlace};
    use super::super::tree::GrowingTree;
    let (keys, hasher) = (ring(&[1]), software_provider().hasher);
    let golden = [
        (3_000, "04fab6f6b65f0b2ea50e5329c697b78f357b25982694eb9e92be41fdd8331709"),
        (140_000, "a0a27ac7bbc642b0477bb633d0382362c388ef0f9031fb115392efd8a8cbabdc"),
    ];
    for (bytes, expected) in golden {
        let (kind, flags, previous) = (LogKind::Block, 0, Digest([5; 32]));
        let (segment, offset, epoch, sequence) = (3, 8_192, 2, 77);
        let chain = [7; 32];
        let name = GroupName { kind, chain, segment, offset, epoch, sequence, flags };
        let mut cipher = GroupCipher::with_salt(&keys, &name, [9; 16]);
        let record = super::super::format::RecordHeader::new(7, crate::widths::length(bytes));
        let mut group = vec![0; 256];
        group.extend_from_slice(zerocopy::IntoBytes::as_bytes(&record));
        group.extend_from_slice(&payload(1, bytes));
        let filled = group.len();
        group.resize(256 << 10, 0);
        let stored = cipher.grow(&mut group, filled);
        let mut tree = GrowingTree::new(group.len());
        tree.grow(&group, stored, &*hasher);
        let body = GroupBody::seal(&mut group, (filled - 256, 1), Some(cipher), tree, &*hasher);
        let durable = 76;
        let place =
            GroupPlace { kind, seed: 1, segment, flags, epoch, sequence, durable, previous };
        GroupHeader::encode(&mut group, &body, &place);
        group.truncate(crate::widths::index(body.padded_bytes));
        let found = hufu_crypto::Sm3::of(&[&group]).to_string();
        assert_eq!((group.len(), found.as_str()), (group.len(), expected), "{bytes} bytes");
    }
}
