use std::sync::OnceLock;

use hufu_crypto::{SoftwareSigner, software_provider};
use hufu_runtime::file::{Fault, FaultOperation, FaultPlan};
use hufu_runtime::sim::disk::SimDisk;

use super::*;

fn at(seconds: u64) -> UnixNanos {
    UnixNanos::from_nanos(seconds * 1_000_000_000)
}

fn event(subject: &str) -> Event<'_> {
    Event::new("sign", "key.used", subject).with("count", 3).with("from", "height 7")
}

/// A log of one begin, five records, a seal and two more.
fn written(folder: &Path, signer: &SoftwareSigner) {
    let mut log = AuditLog::open(folder, Owner::Only("0xaa"), at(1)).unwrap();
    for number in 0..5 {
        log.append(at(2 + number), &event("vote key")).unwrap();
    }
    log.seal(at(8), signer).unwrap();
    assert_eq!(log.unsealed_count(), 0);
    log.append(at(9), &event("two").outcome(Outcome::Refused)).unwrap();
    log.append(at(9), &event("\"three\"\n\u{1b}[31m")).unwrap();
    log.sync().unwrap();
}

fn checked(folder: &Path, keys: &[PublicKey]) -> Result<Verified, AuditError> {
    static PROVIDER: OnceLock<Provider> = OnceLock::new();
    let provider = PROVIDER.get_or_init(software_provider);
    verify(folder, 1, Seals { provider, keys }, |_| {})
}

#[test]
fn what_was_written_verifies_and_goes_on_after_a_stop() {
    let folder = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::generate().unwrap();
    written(folder.path(), &signer);
    let found = checked(folder.path(), &[*signer.public_key()]).unwrap();
    assert_eq!((found.records_count, found.seals_count, found.unsealed_count), (9, 1, 2));
    assert_eq!((found.owner.as_deref(), found.torn_bytes), (Some("0xaa"), 0));

    let mut log = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(20)).unwrap();
    assert_eq!(log.append(at(21), &event("after")).unwrap(), 10);
    log.seal(at(22), &signer).unwrap();
    drop(log);
    let mut subjects = Vec::new();
    let provider = software_provider();
    let seals = Seals { provider: &provider, keys: &[*signer.public_key()] };
    let found = verify(folder.path(), 1, seals, |record| subjects.push(record.subject.clone()));
    assert_eq!((found.unwrap().seals_count, subjects.len()), (2, 11));
    assert_eq!(subjects[8], "\"three\"\n\u{1b}[31m", "read as it was handed in");
    let text = std::fs::read_to_string(file_path(folder.path(), 1)).unwrap();
    assert!(!text.contains('\u{1b}') && text.lines().count() == 11, "a line each, no controls");
    let other = AuditLog::open(folder.path(), Owner::Only("0xbb"), at(30)).err().unwrap();
    assert!(matches!(other, AuditError::OtherOwner { .. }), "{other}");
}

#[test]
fn a_flipped_bit_of_any_byte_is_found_and_every_missing_doubled_or_moved_line() {
    let folder = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::generate().unwrap();
    written(folder.path(), &signer);
    let keys = [*signer.public_key()];
    let path = file_path(folder.path(), 1);
    let good = std::fs::read(&path).unwrap();
    // Only of what was synced last nobody can tell whether it ever was.
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    let provable = lines[..7].concat().len();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let found = checked(folder.path(), &keys);
        let is_torn = matches!(&found, Ok(found) if found.torn_bytes > 0);
        assert!(found.is_err() || is_torn, "{what}");
        is_torn
    };
    // Each byte, and each bit of a byte in turn.
    for bit in (0..good.len()).map(|byte| byte * 8 + byte % 8) {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let is_torn = refused(&flipped, &format!("bit {bit}"));
        assert!(!is_torn || bit / 8 >= provable, "bit {bit}: only the end may look torn");
    }
    for number in 0..lines.len() - 1 {
        let mut fewer = lines.clone();
        fewer.remove(number);
        assert!(!refused(&fewer.concat(), &format!("without line {number}")));
        let mut doubled = lines.clone();
        doubled.insert(number, lines[number]);
        assert!(!refused(&doubled.concat(), &format!("line {number} twice")));
        let mut moved = lines.clone();
        moved.swap(number, number + 1);
        assert!(!refused(&moved.concat(), &format!("line {number} later")));
    }
    let spaced = String::from_utf8(good).unwrap().replacen("\"sequence\":1", "\"sequence\": 1", 1);
    refused(spaced.as_bytes(), "another spelling");
}

/// Everything behind `line` is written anew by somebody without the audit key.
fn rewritten_from(folder: &Path, line: usize) -> Vec<u8> {
    let text = std::fs::read_to_string(file_path(folder, 1)).unwrap();
    let (mut previous, mut bytes) = (Digest::ZERO, Vec::new());
    for (number, old) in text.split_inclusive('\n').enumerate() {
        let sequence = u64::try_from(number).unwrap();
        let mut record: Record = serde_json::from_str(old).unwrap();
        if number == line {
            record.subject = "forged".to_owned();
        }
        let details = record.details.iter().map(|(name, detail)| (name.as_str(), detail.clone()));
        let event = Event {
            actor: &record.actor,
            action: &record.action,
            subject: record.subject.as_str().into(),
            outcome: record.outcome,
            details: details.collect(),
        };
        let now = UnixNanos::from_nanos(record.unix_nanos);
        let (new, digest) = record::encode(sequence + 1, now, &event, record.durable, &previous);
        bytes.extend_from_slice(new.as_bytes());
        previous = digest;
    }
    bytes
}

#[test]
fn a_chain_written_anew_without_the_audit_key_breaks_at_its_seal() {
    let folder = tempfile::tempdir().unwrap();
    let signer = SoftwareSigner::generate().unwrap();
    written(folder.path(), &signer);
    let keys = [*signer.public_key()];
    let path = file_path(folder.path(), 1);
    let good = std::fs::read(&path).unwrap();
    for line in 1..6 {
        let forged = rewritten_from(folder.path(), line);
        std::fs::write(&path, forged).unwrap();
        let found = checked(folder.path(), &keys).unwrap_err();
        assert!(
            matches!(found, AuditError::Broken { line: 7, fault: RecordFault::Seal(_), .. }),
            "{found}"
        );
        std::fs::write(&path, &good).unwrap();
    }
    // Behind the last seal only the chain protects, as the module says.
    std::fs::write(&path, rewritten_from(folder.path(), 7)).unwrap();
    assert_eq!(checked(folder.path(), &keys).unwrap().unsealed_count, 2);
    std::fs::write(&path, &good).unwrap();
    let other = [*SoftwareSigner::generate().unwrap().public_key()];
    let found = checked(folder.path(), &other).unwrap_err().to_string();
    assert!(found.contains("none of the node's audit keys"), "{found}");
}

#[test]
fn a_torn_last_line_is_cut_off_and_told_and_nothing_else_is() {
    let signer = SoftwareSigner::generate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), &signer);
    let path = file_path(folder.path(), 1);
    let good = std::fs::read(&path).unwrap();
    let last = good[..good.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for length in [last + 1, last + 100, good.len() - 1] {
        std::fs::write(&path, &good[..length]).unwrap();
        let mut log = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(50)).unwrap();
        log.append(at(51), &event("next")).unwrap();
        log.sync().unwrap();
        let mut records = Vec::new();
        let provider = software_provider();
        let seals = Seals { provider: &provider, keys: &[*signer.public_key()] };
        verify(folder.path(), 1, seals, |record| records.push(record.clone())).unwrap();
        let cut = &records[8];
        let torn = u64::try_from(length - last).unwrap();
        assert_eq!((cut.action.as_str(), cut.sequence), (RECOVER, 9));
        assert_eq!(cut.detail("torn_bytes"), Some(&Detail::Number(torn)));
        assert_eq!(records[9].subject, "next");
    }
}

#[test]
fn the_chain_runs_through_files_and_a_missing_file_is_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(1)).unwrap();
    for _ in 0..3 {
        log.append(at(2), &event("one")).unwrap();
        // As if the file were full.
        log.begin_file(at(2)).unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let found = checked(folder.path(), &[]).unwrap();
    assert_eq!((found.records_count, found.files_count), (7, 4));
    let log = AuditLog::open(folder.path(), Owner::Anyone("0xbb"), at(3)).unwrap();
    assert_eq!((log.sequence, log.file_number, log.owner.as_str()), (7, 4, "0xaa"));
    drop(log);
    // A file that was begun, and the machine stopped.
    std::fs::write(file_path(folder.path(), 5), "").unwrap();
    assert_eq!(checked(folder.path(), &[]).unwrap().records_count, 7);
    let other = AuditLog::open(folder.path(), Owner::Only("0xbb"), at(3)).err().unwrap();
    assert!(matches!(other, AuditError::OtherOwner { .. }), "{other}");
    let log = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(3)).unwrap();
    assert_eq!((log.sequence, log.file_number), (8, 5));
    drop(log);
    // The end of a file that another follows is no tear.
    let second = file_path(folder.path(), 2);
    let good = std::fs::read(&second).unwrap();
    std::fs::write(&second, &good[..good.len() - 1]).unwrap();
    assert!(matches!(
        checked(folder.path(), &[]),
        Err(AuditError::Broken { fault: RecordFault::CutOff, .. })
    ));
    std::fs::remove_file(&second).unwrap();
    assert!(matches!(checked(folder.path(), &[]), Err(AuditError::FileMissing { .. })));
    // Whoever has put older files elsewhere says so; the node goes on by itself.
    std::fs::remove_file(file_path(folder.path(), 1)).unwrap();
    assert!(matches!(checked(folder.path(), &[]), Err(AuditError::FileMissing { .. })));
    let provider = software_provider();
    let seals = Seals { provider: &provider, keys: &[] };
    let found = verify(folder.path(), 3, seals, |_| {}).unwrap();
    assert_eq!((found.first_record, found.records_count), (5, 8));
    assert!(AuditLog::open(folder.path(), Owner::Only("0xaa"), at(3)).is_ok());
}

#[test]
fn a_full_file_is_followed_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(1)).unwrap();
    log.file.cut(0).unwrap();
    log.file.append(&vec![b' '; usize::try_from(FILE_BYTES_MAX).unwrap() - 600]).unwrap();
    for _ in 0..3 {
        log.append(at(2), &event("one")).unwrap();
    }
    log.sync().unwrap();
    let size = |number| std::fs::metadata(file_path(folder.path(), number)).unwrap().len();
    assert!(size(1) <= FILE_BYTES_MAX, "{}", size(1));
    assert!(size(2) > 0 && log.file_number == 2);
    let text = std::fs::read_to_string(file_path(folder.path(), 2)).unwrap();
    assert!(text.contains("\"audit.continue\",\"subject\":\"0xaa\""), "{text}");
}

#[test]
fn one_process_writes_and_an_error_is_final() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(1)).unwrap();
    let second = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(1)).err().unwrap();
    assert!(matches!(second, AuditError::Locked { .. }), "{second}");
    log.append(at(2), &event("one")).unwrap();
    log.sync().unwrap();
    drop(log);
    for operation in [FaultOperation::Write, FaultOperation::Sync] {
        let plan = std::sync::Arc::new(FaultPlan::default());
        let system = FileSystem::with_faults(DirectIo::Never, std::sync::Arc::clone(&plan));
        let owner = Owner::Only("0xaa");
        let mut log = AuditLog::open_on(&system, folder.path(), owner, at(3)).unwrap();
        plan.arm(operation, 0, Fault::Error(5));
        log.append(at(4), &event("lost")).unwrap();
        assert!(matches!(log.sync(), Err(AuditError::File(_))));
        assert!(matches!(log.sync(), Err(AuditError::Stopped { .. })), "{operation:?}");
        drop(log);
        let owner = Owner::Only("0xaa");
        let mut log = AuditLog::open_on(&system, folder.path(), owner, at(5)).unwrap();
        plan.arm(operation, 0, Fault::Error(28));
        log.append(at(6), &event("too much")).unwrap();
        assert!(matches!(log.sync(), Err(AuditError::DiskFull { .. })), "{operation:?}");
    }
}

/// What a run acknowledged before it ended: records under a seal, and records.
#[derive(Default)]
struct Acknowledged {
    sealed: u64,
    synced: u64,
}

/// Writes until the disk stops.
fn run(system: &FileSystem, signer: &SoftwareSigner, known: &mut Acknowledged) {
    let folder = Path::new("/audit");
    let mut write = || -> Result<(), AuditError> {
        let mut log = AuditLog::open_on(system, folder, Owner::Only("0xaa"), at(1))?;
        for number in 0..24 {
            log.append(at(number), &event("a key in a card, and what became of it"))?;
            match number % 8 {
                2 | 5 => {
                    log.sync()?;
                    known.synced = log.records_count();
                }
                7 => {
                    log.seal(at(number), signer)?;
                    (known.sealed, known.synced) = (log.records_count(), log.records_count());
                }
                _ => {}
            }
            if number == 12 {
                log.begin_file(at(number))?;
            }
        }
        Ok(())
    };
    drop(write());
}

/// The power goes between any two operations, twice; whatever a seal or a sync acknowledged is
/// there, the chain is whole and the log opens and goes on.
#[test]
fn no_power_cut_loses_what_was_acknowledged_and_every_torn_end_is_recognised() {
    let provider = software_provider();
    let signer = SoftwareSigner::generate().unwrap();
    let keys = [*signer.public_key()];
    let (mut torn_count, mut ends) = (0, 0);
    for stop in 0.. {
        let mut has_stopped = false;
        for seed in 0..10 {
            let disk = SimDisk::new();
            let system =
                FileSystem::simulated(DirectIo::Never, disk.clone(), std::sync::Arc::default());
            let mut known = Acknowledged::default();
            for life in 0..2_u64 {
                disk.stop_after(stop);
                run(&system, &signer, &mut known);
                has_stopped |= disk.has_stopped();
                disk.cut_power(seed * 2 + life);
                let what = format!("stop {stop} seed {seed} life {life}");
                if !system.exists(Path::new("/audit")).unwrap() {
                    assert_eq!(known.synced, 0, "{what}");
                    continue;
                }
                let seals = Seals { provider: &provider, keys: &keys };
                let mut sealed = 0;
                let found = verify::verify_on(&system, Path::new("/audit"), 1, seals, &mut |it| {
                    if it.action == SEAL {
                        sealed = it.sequence;
                    }
                });
                let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(found.records_count >= known.synced, "{what}: {found:?}");
                assert!(sealed >= known.sealed, "{what}: {found:?}");
                torn_count += u64::from(found.torn_bytes > 0);
                ends += 1;
            }
        }
        if !has_stopped {
            break;
        }
    }
    assert!(torn_count > 50 && ends > 500, "{torn_count} torn of {ends}");
}

#[test]
fn texts_from_outside_are_cut_and_a_record_that_is_too_large_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = AuditLog::open(folder.path(), Owner::Only("0xaa"), at(1)).unwrap();
    let long = "长".repeat(600);
    log.append(at(2), &event(&long)).unwrap();
    let names: Vec<String> = (0..40).map(|number| format!("detail {number}")).collect();
    let mut large = event("large");
    for name in &names {
        large = large.with(name, &*long);
    }
    let refused = log.append(at(3), &large).unwrap_err();
    assert!(matches!(refused, AuditError::Oversized { .. }), "{refused}");
    log.append(at(4), &event("next")).unwrap();
    log.sync().unwrap();
    let mut subjects = Vec::new();
    let provider = software_provider();
    let seals = Seals { provider: &provider, keys: &[] };
    let found = verify(folder.path(), 1, seals, |record| subjects.push(record.subject.clone()));
    assert_eq!(found.unwrap().records_count, 3);
    assert_eq!(subjects[1].chars().count(), 513, "cut, and the cut is marked");
    assert_eq!(subjects[2], "next");
}
