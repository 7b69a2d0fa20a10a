//! What the kernel can answer and no test can make it answer, fed in by hand.

use super::*;
use crate::file::{BLOCK_BYTES, FileSystem};

const BLOCK: u32 = 4096;

fn file(folder: &tempfile::TempDir) -> Arc<DirectFile> {
    let file = FileSystem::default().create(&folder.path().join("file")).unwrap();
    file.set_bytes(16 * u64::from(BLOCK)).unwrap();
    Arc::new(file)
}

/// Groups of two blocks as they stand when the kernel has them.
fn in_flight(file: &Arc<DirectFile>, count: u64) -> VecDeque<Flight> {
    let flight = |token| {
        let mut buffer = AlignedBuffer::new(2 * BLOCK_BYTES);
        buffer.fill(u8::try_from(token + 1).unwrap());
        Flight {
            token,
            file: Arc::clone(file),
            offset: token * 2 * u64::from(BLOCK),
            bytes: 2 * BLOCK,
            buffer,
            write: None,
            sync: None,
            is_linked: true,
            error: None,
        }
    };
    (0..count).map(flight).collect()
}

/// A ring whose flights are answered by hand.
fn ring(flights: VecDeque<Flight>) -> FileRing {
    let mut ring = FileRing::new(RingOptions { backend: Backend::Sync, depth: 4 }).unwrap();
    ring.token_next = flights.back().map_or(0, |flight| flight.token + 1);
    ring.flights = flights;
    ring
}

fn answer(ring: &mut FileRing, token: u64, write: i32, sync: i32) {
    note(&mut ring.flights, token, Half::Write, write);
    note(&mut ring.flights, token, Half::Sync, sync);
    ring.flights.iter_mut().for_each(judge);
}

#[test]
fn a_short_write_is_finished_and_synced_on_this_thread() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    for reached in [0, 4096] {
        let mut ring = ring(in_flight(&file, 1));
        // The kernel cancels the linked sync of a short write.
        answer(&mut ring, 0, reached, -libc::ECANCELED);
        let mut done = Vec::new();
        assert_eq!(ring.poll(&mut done).unwrap(), 1, "{reached} bytes written");
        let mut back = AlignedBuffer::new(2 * BLOCK_BYTES);
        file.read(0, &mut back, 2 * BLOCK_BYTES).unwrap();
        let from = usize::try_from(reached).unwrap();
        assert!(back[from..].iter().all(|byte| *byte == 1), "the rest is written");
    }
}

#[test]
fn an_interrupted_write_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    for errno in [libc::EINTR, libc::EAGAIN] {
        let mut ring = ring(in_flight(&file, 1));
        answer(&mut ring, 0, -errno, -libc::ECANCELED);
        assert_eq!(ring.poll(&mut Vec::new()).unwrap(), 1);
    }
}

#[test]
fn failures_the_kernel_reports_are_named_and_final() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let whole = 2 * 4096;
    let cases = [
        (-libc::EIO, -libc::ECANCELED, "write"),
        (-libc::ENOSPC, -libc::ECANCELED, "write"),
        (-libc::ECANCELED, -libc::ECANCELED, "write"),
        (whole, -libc::EIO, "fdatasync"),
        (whole, -libc::ECANCELED, "fdatasync"),
        (whole, -libc::EINTR, "fdatasync"),
    ];
    for (write, sync, named) in cases {
        let mut ring = ring(in_flight(&file, 1));
        answer(&mut ring, 0, write, sync);
        let mut done = Vec::new();
        let failed = ring.poll(&mut done).unwrap_err();
        assert!(
            matches!(&failed, FileError::Io { operation, .. } if *operation == named),
            "{write} {sync}: {failed}"
        );
        assert!(done.is_empty());
        assert!(matches!(ring.poll(&mut done), Err(FileError::RingFailed)));
    }
}

#[test]
fn a_failed_group_hides_the_groups_behind_it_and_those_before_it_not_yet_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let whole = 2 * 4096;
    for failing in 0..3 {
        let mut ring = ring(in_flight(&file, 3));
        for token in (0..3).filter(|token| *token != failing) {
            answer(&mut ring, token, whole, 0);
        }
        answer(&mut ring, failing, whole, -libc::EIO);
        let mut done = Vec::new();
        assert!(matches!(ring.poll(&mut done), Err(FileError::Io { .. })));
        assert!(done.is_empty(), "group {failing} failed");
    }
}

#[test]
fn one_half_of_a_group_is_not_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let mut ring = ring(in_flight(&file, 2));
    // A later group is whole; the first has only its sync, as one that was cut off from its write.
    answer(&mut ring, 1, 2 * 4096, 0);
    note(&mut ring.flights, 0, Half::Sync, 0);
    ring.flights.iter_mut().for_each(judge);
    assert_eq!(ring.poll(&mut Vec::new()).unwrap(), 0);
    note(&mut ring.flights, 0, Half::Write, 2 * 4096);
    ring.flights.iter_mut().for_each(judge);
    assert_eq!(ring.poll(&mut Vec::new()).unwrap(), 2);
}

#[test]
fn a_group_the_kernel_never_had_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let mut ring = ring(in_flight(&file, 1));
    let error = file.failed(ENTER, io::Error::from_raw_os_error(libc::EBUSY));
    finish(&mut ring.flights[0], Some(error));
    let failed = ring.wait(&mut Vec::new()).unwrap_err();
    assert!(failed.to_string().starts_with("io_uring_enter"), "{failed}");
    drop(ring);
}

#[test]
fn a_group_that_is_not_linked_is_synced_once_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let whole = 2 * 4096;
    for (write, named) in
        [(whole, None), (4096, None), (-libc::EINTR, None), (-libc::EIO, Some("write"))]
    {
        let mut ring = ring(in_flight(&file, 1));
        ring.flights[0].is_linked = false;
        ring.flights.iter_mut().for_each(judge);
        assert_eq!(ring.poll(&mut Vec::new()).unwrap(), 0, "not written, not durable");
        note(&mut ring.flights, 0, Half::Write, write);
        ring.flights.iter_mut().for_each(judge);
        let polled = ring.poll(&mut Vec::new());
        match named {
            None => assert_eq!(polled.unwrap(), 1, "{write}"),
            Some(named) => {
                let failed = polled.unwrap_err();
                let is_named =
                    matches!(&failed, FileError::Io { operation, .. } if *operation == named);
                assert!(is_named, "{write}: {failed}");
            }
        }
    }
}

#[test]
fn a_group_that_was_taken_late_and_is_not_linked_keeps_no_drop_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let file = file(&folder);
    let mut ring = ring(in_flight(&file, 1));
    ring.flights[0].is_linked = false;
    ring.flights[0].error = Some(file.failed(ENTER, io::Error::from_raw_os_error(libc::EBUSY)));
    note(&mut ring.flights, 0, Half::Write, 2 * 4096);
    ring.flights.iter_mut().for_each(judge);
    assert!(ring.flights[0].is_finished(), "its drop would wait for a sync nobody asked for");
    assert!(ring.poll(&mut Vec::new()).unwrap_err().to_string().starts_with("io_uring_enter"));
}
