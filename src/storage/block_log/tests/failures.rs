//! The disk refuses: writes, syncs, room.

use super::*;

fn faulty(folder: &Path, depth: u32) -> (LogOptions, Arc<FaultPlan>) {
    let plan = Arc::new(FaultPlan::default());
    let mut options = small(folder);
    options.depth = depth;
    options.file_system = FileSystem::with_faults(DirectIo::WherePossible, Arc::clone(&plan));
    (options, plan)
}

#[test]
fn a_failed_write_or_sync_stops_the_log_and_loses_nothing_acknowledged() {
    let faults = [
        (FaultOperation::Write, Fault::Error(5)),
        (FaultOperation::Write, Fault::Torn { bytes: 4096 }),
        (FaultOperation::Write, Fault::Torn { bytes: 8192 }),
        (FaultOperation::Sync, Fault::Error(5)),
    ];
    for backend in [Backend::Sync, Backend::Uring] {
        for (operation, fault) in faults {
            for depth in [1, 2] {
                let folder = tempfile::tempdir().unwrap();
                if direct(folder.path(), backend, depth).is_none() {
                    continue;
                }
                let (mut options, plan) = faulty(folder.path(), depth);
                options.backend = backend;
                let (mut log, _) = open(&options);
                let mut acknowledged = Vec::new();
                for index in 0..3 {
                    acknowledged.push(append(&mut log, 1, &payload(index, 9_000)));
                    log.flush().unwrap();
                }
                plan.arm(operation, 0, fault);
                append(&mut log, 1, &payload(9, 9_000));
                assert!(matches!(log.flush(), Err(Error::File(FileError::Io { .. }))));
                assert!(matches!(log.poll(), Err(Error::Stopped { .. })));
                assert!(matches!(log.append(1, &[b"no"]), Err(Error::Stopped { .. })));
                drop(log);
                let (log, _) = open(&options);
                let records = read_all(&mut log.reader());
                assert!(records.len() >= 3);
                for (record, position) in records.iter().zip(&acknowledged) {
                    assert_eq!(record.0, *position);
                }
                log.close().unwrap();
                assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
            }
        }
    }
}

#[test]
fn no_room_for_the_next_segment_is_said_before_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let (options, plan) = faulty(folder.path(), 1);
    let (mut log, _) = open(&options);
    let mut written = 0;
    plan.arm(FaultOperation::Allocate, 0, Fault::Error(28));
    let error = loop {
        append(&mut log, 1, &payload(written, 3_000));
        match log.poll() {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100);
    };
    let full = matches!(error, Error::DiskFull { segment: 2, needed_bytes: 65_536, .. });
    assert!(full, "{error}");
    assert!(error.to_string().contains("free space and start again"), "{error}");
    drop(log);
    let (mut log, report) = open(&options);
    assert!(report.torn.is_none());
    assert!(read_all(&mut log.reader()).len() >= written);
    append(&mut log, 1, b"goes on");
    log.close().unwrap();
    assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
}

/// A small file system in memory that is unmounted with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kibibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kibibytes}k"), "hufu-test"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                println!("skipped: cannot mount a tmpfs here: {other:?}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_stops_the_log_and_freed_space_lets_it_go_on() {
    let Some(disk) = SmallDisk::mount(300) else { return };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 100 << 10]).unwrap();
    let options = small(&disk.0.path().join("log"));
    let (mut log, _) = open(&options);
    let mut acknowledged = Vec::new();
    let error = loop {
        let position = append(&mut log, 1, &payload(acknowledged.len(), 5_000));
        match log.flush().and_then(|_| log.poll()) {
            Ok(_) => acknowledged.push(position),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 1_000);
    };
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    println!("{error}");
    drop(log);
    let again = BlockLog::open(options.clone());
    assert!(matches!(again, Err(Error::DiskFull { .. })), "still full: {again:?}");
    std::fs::remove_file(&ballast).unwrap();
    let (mut log, _) = open(&options);
    let records = read_all(&mut log.reader());
    assert!(acknowledged.iter().all(|position| records.iter().any(|seen| seen.0 == *position)));
    append(&mut log, 2, b"goes on");
    log.close().unwrap();
    assert!(verify(&options, &mut |_, _| {}).unwrap().is_clean());
}
