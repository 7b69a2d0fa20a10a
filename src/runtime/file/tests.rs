use std::sync::Arc;

use super::*;

const BLOCK: u64 = 4096;

fn filled(byte: u8, blocks: usize) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new(blocks * BLOCK_BYTES);
    buffer.fill(byte);
    buffer
}

/// A ring of the back end, or a message and `None` where io_uring is forbidden.
fn ring(backend: Backend, depth: u32) -> Option<FileRing> {
    match FileRing::new(RingOptions { backend, depth }) {
        Ok(ring) => Some(ring),
        Err(FileError::RingUnavailable { source }) => {
            println!("skipped: io_uring is not permitted here: {source}");
            None
        }
        Err(other) => panic!("ring: {other}"),
    }
}

fn file(file_system: &FileSystem, folder: &tempfile::TempDir, bytes: u64) -> Arc<DirectFile> {
    let file = file_system.create(&folder.path().join("file")).unwrap();
    file.allocate(bytes).unwrap();
    file.set_bytes(bytes).unwrap();
    Arc::new(file)
}

#[test]
fn buffers_are_aligned_zeroed_and_rounded_up() {
    for bytes in [0, 1, 4096, 4097, 1 << 20] {
        let buffer = AlignedBuffer::new(bytes);
        assert_eq!(buffer.as_ptr().addr() % BLOCK_BYTES, 0);
        assert_eq!(buffer.len(), bytes.div_ceil(BLOCK_BYTES).max(1) * BLOCK_BYTES);
        assert!(buffer.iter().all(|byte| *byte == 0));
    }
}

#[test]
fn resident_buffers_have_all_their_pages() {
    use std::os::unix::fs::FileExt;
    let map = std::fs::File::open("/proc/self/pagemap").unwrap();
    let present = |buffer: &AlignedBuffer| {
        let mut entries = vec![0; buffer.len() / BLOCK_BYTES * 8];
        let first = buffer.as_ptr().addr() / BLOCK_BYTES * 8;
        map.read_exact_at(&mut entries, first as u64).unwrap();
        // Bit 63 of an entry: the page is present.
        entries.as_chunks::<8>().0.iter().filter(|entry| entry[7] & 0x80 != 0).count()
    };
    for bytes in [1, 4096, 5000, 1 << 20, (1 << 20) + 1, 3 << 20, (8 << 20) + 4096] {
        let mut buffer = AlignedBuffer::resident(bytes);
        assert_eq!(buffer.as_ptr().addr() % BLOCK_BYTES, 0);
        assert_eq!(buffer.len(), bytes.next_multiple_of(BLOCK_BYTES));
        assert_eq!(present(&buffer), buffer.len() / BLOCK_BYTES, "{bytes}");
        let taken = AlignedBuffer::resident_bytes(bytes as u64);
        assert!(taken >= buffer.len() as u64 && taken < (buffer.len() + (2 << 20)) as u64);
        assert!(buffer.iter().all(|byte| *byte == 0));
        buffer.fill(7);
    }
    assert_eq!(present(&AlignedBuffer::new(1 << 20)), 0, "or this test would say nothing");
    assert_eq!(AlignedBuffer::resident_bytes(1 << 20), 2 << 20);
    assert_eq!(AlignedBuffer::resident_bytes(64 << 10), 64 << 10);
}

#[test]
fn files_read_back_what_was_written_with_and_without_the_page_cache() {
    for direct in [DirectIo::WherePossible, DirectIo::Never] {
        let folder = tempfile::tempdir().unwrap();
        let file = file(&FileSystem::new(direct), &folder, 4 * BLOCK);
        assert!(direct == DirectIo::WherePossible || !file.is_direct());
        println!("direct I/O in {}: {}", folder.path().display(), file.is_direct());
        file.write(BLOCK, &filled(7, 2), 2 * BLOCK_BYTES).unwrap();
        file.sync_data().unwrap();
        let mut back = AlignedBuffer::new(4 * BLOCK_BYTES);
        file.read(0, &mut back, 4 * BLOCK_BYTES).unwrap();
        assert!(back[..BLOCK_BYTES].iter().all(|byte| *byte == 0));
        assert!(back[BLOCK_BYTES..3 * BLOCK_BYTES].iter().all(|byte| *byte == 7));
        let end = file.read(3 * BLOCK, &mut back, 2 * BLOCK_BYTES);
        assert!(matches!(end, Err(FileError::EndOfFile { .. })), "{end:?}");
        let odd = file.read(1, &mut back, BLOCK_BYTES);
        assert!(matches!(odd, Err(FileError::Unaligned { .. })), "{odd:?}");
        let long = file.write(0, &filled(1, 1), 2 * BLOCK_BYTES);
        assert!(matches!(long, Err(FileError::Unaligned { .. })), "{long:?}");
    }
}

#[test]
fn groups_complete_in_order_and_reach_the_file() {
    for (backend, depth) in
        [(Backend::Sync, 1), (Backend::Sync, 4), (Backend::Uring, 1), (Backend::Uring, 4)]
    {
        let Some(mut ring) = ring(backend, depth) else { continue };
        assert_eq!(ring.backend(), backend);
        let folder = tempfile::tempdir().unwrap();
        let file = file(&FileSystem::default(), &folder, 64 * BLOCK);
        let (mut done, mut submitted) = (Vec::new(), 0_u64);
        while done.len() < 64 {
            while submitted < 64 && ring.has_room(&file) {
                let byte = u8::try_from(submitted + 1).unwrap();
                ring.submit(&file, submitted * BLOCK, filled(byte, 1), 4096).unwrap();
                submitted += 1;
            }
            assert!(ring.in_flight() <= 4);
            ring.wait(&mut done).unwrap();
        }
        assert!(done.windows(2).all(|pair| pair[0].token < pair[1].token));
        assert_eq!(ring.in_flight(), 0);
        assert_eq!(ring.wait(&mut done).unwrap(), 0);
        let mut back = AlignedBuffer::new(64 * BLOCK_BYTES);
        file.read(0, &mut back, 64 * BLOCK_BYTES).unwrap();
        for (index, block) in back.chunks(BLOCK_BYTES).enumerate() {
            assert!(block.iter().all(|byte| usize::from(*byte) == index + 1), "block {index}");
        }
    }
}

#[test]
fn groups_of_every_length_are_durable_one_at_a_time_and_in_no_one_elses_place() {
    for backend in [Backend::Sync, Backend::Uring] {
        let Some(mut ring) = ring(backend, 1) else { continue };
        let folder = tempfile::tempdir().unwrap();
        // One block, and both sides of the lengths at which another way is taken.
        let lengths = [1, 31, 32, 33, 127, 128, 129, 256];
        let file = file(&FileSystem::default(), &folder, lengths.iter().sum::<u64>() * BLOCK);
        let mut offset = 0;
        for (number, blocks) in (1_u8..).zip(lengths) {
            let buffer = filled(number, usize::try_from(blocks).unwrap());
            let bytes = u32::try_from(blocks * BLOCK).unwrap();
            ring.submit(&file, offset, buffer, bytes).unwrap();
            assert!(!ring.has_room(&file), "{blocks} blocks are on their way");
            let mut done = Vec::new();
            assert_eq!(ring.wait(&mut done).unwrap(), 1);
            assert_eq!(u64::try_from(done[0].buffer.len()).unwrap(), blocks * BLOCK);
            offset += blocks * BLOCK;
        }
        let mut back = AlignedBuffer::new(usize::try_from(offset).unwrap());
        file.read(0, &mut back, usize::try_from(offset).unwrap()).unwrap();
        let mut rest = &back[..];
        for (number, blocks) in (1_u8..).zip(lengths) {
            let (group, behind) = rest.split_at(usize::try_from(blocks * BLOCK).unwrap());
            assert!(group.iter().all(|byte| *byte == number), "{blocks} blocks");
            rest = behind;
        }
    }
}

#[test]
fn a_full_ring_gives_the_buffer_back() {
    let Some(mut ring) = ring(Backend::Sync, 1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = file(&FileSystem::default(), &folder, 8 * BLOCK);
    ring.submit(&file, 0, filled(1, 1), 4096).unwrap();
    let refused = ring.submit(&file, BLOCK, filled(2, 1), 4096).unwrap_err();
    assert!(refused.error.is_none());
    assert_eq!(refused.buffer[0], 2);
    let mut done = Vec::new();
    assert_eq!(ring.poll(&mut done).unwrap(), 1);
    ring.submit(&file, BLOCK, refused.buffer, 4096).unwrap();
}

#[test]
fn a_cached_file_gets_one_group_at_a_time() {
    let Some(mut ring) = ring(Backend::Uring, 4) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = file(&FileSystem::new(DirectIo::Never), &folder, 8 * BLOCK);
    ring.submit(&file, 0, filled(1, 1), 4096).unwrap();
    assert!(!ring.has_room(&file));
    let mut done = Vec::new();
    assert_eq!(ring.wait(&mut done).unwrap(), 1);
    assert!(ring.has_room(&file));
}

#[test]
fn descriptor_turns_readable_when_a_group_is_durable() {
    let ways = [(Backend::Sync, 1, 1), (Backend::Uring, 1, 64), (Backend::Uring, 2, 1)];
    for (backend, depth, blocks) in ways {
        let Some(mut ring) = ring(backend, depth) else { continue };
        let folder = tempfile::tempdir().unwrap();
        let file = file(&FileSystem::default(), &folder, 64 * BLOCK);
        ring.submit(&file, 0, filled(1, blocks), u32::try_from(blocks).unwrap() * 4096).unwrap();
        let mut poll = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&ring.descriptor()),
            events: libc::POLLIN,
            revents: 0,
        };
        let mut done = Vec::new();
        while done.is_empty() {
            // SAFETY: `poll` is one valid `pollfd`; the descriptor is open.
            let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
            assert_eq!(ready, 1, "{backend:?}: the descriptor stayed silent");
            ring.poll(&mut done).unwrap();
        }
    }
}

#[test]
fn any_failure_is_final_and_hides_later_groups() {
    let faults = [
        (FaultOperation::Write, Fault::Error(libc::EIO)),
        (FaultOperation::Write, Fault::Torn { bytes: BLOCK_BYTES }),
        (FaultOperation::Sync, Fault::Error(libc::EIO)),
    ];
    for backend in [Backend::Sync, Backend::Uring] {
        for (operation, fault) in faults {
            let Some(mut ring) = ring(backend, 4) else { continue };
            let plan = Arc::new(FaultPlan::default());
            let system = FileSystem::with_faults(DirectIo::WherePossible, Arc::clone(&plan));
            let folder = tempfile::tempdir().unwrap();
            let file = file(&system, &folder, 8 * BLOCK);
            plan.arm(operation, 1, fault);
            let mut done = Vec::new();
            ring.submit(&file, 0, filled(1, 2), 8192).unwrap();
            assert_eq!(ring.wait(&mut done).unwrap(), 1);
            ring.submit(&file, 2 * BLOCK, filled(2, 2), 8192).unwrap();
            if ring.has_room(&file) {
                ring.submit(&file, 4 * BLOCK, filled(3, 2), 8192).unwrap();
            }
            let failed = ring.wait(&mut done);
            assert!(matches!(failed, Err(FileError::Io { .. })), "{failed:?}");
            assert_eq!(done.len(), 1, "nothing after a failure is reported durable");
            assert!(matches!(ring.poll(&mut done), Err(FileError::RingFailed)));
            assert!(!ring.has_room(&file));
            let refused = ring.submit(&file, 0, filled(4, 1), 4096).unwrap_err();
            assert!(matches!(refused.error, Some(FileError::RingFailed)));
        }
    }
}

#[test]
fn a_read_only_file_fails_the_linked_write_and_cancels_its_sync() {
    for backend in [Backend::Sync, Backend::Uring] {
        let Some(mut ring) = ring(backend, 2) else { continue };
        let folder = tempfile::tempdir().unwrap();
        let path = file(&FileSystem::default(), &folder, 8 * BLOCK).path().to_path_buf();
        let file = Arc::new(FileSystem::default().open_read(&path).unwrap());
        ring.submit(&file, 0, filled(1, 1), 4096).unwrap();
        let failed = ring.wait(&mut Vec::new()).unwrap_err();
        assert!(failed.to_string().contains("write"), "{failed}");
    }
}

#[test]
fn a_ring_dropped_with_groups_in_flight_lets_them_finish() {
    let Some(mut ring) = ring(Backend::Uring, 8) else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = file(&FileSystem::default(), &folder, 1024 * BLOCK);
    for index in 0..4 {
        if ring.has_room(&file) {
            ring.submit(&file, index * 256 * BLOCK, filled(9, 256), 1 << 20).unwrap();
        }
    }
    drop(ring);
    let mut back = AlignedBuffer::new(BLOCK_BYTES);
    file.read(0, &mut back, BLOCK_BYTES).unwrap();
    assert!(back.iter().all(|byte| *byte == 9));
}

#[test]
fn a_full_disk_is_recognised() {
    let plan = Arc::new(FaultPlan::default());
    let system = FileSystem::with_faults(DirectIo::WherePossible, Arc::clone(&plan));
    let folder = tempfile::tempdir().unwrap();
    let file = system.create(&folder.path().join("file")).unwrap();
    plan.arm(FaultOperation::Allocate, 0, Fault::Error(libc::ENOSPC));
    assert!(file.allocate(BLOCK).unwrap_err().is_disk_full());
    assert!(system.available_bytes(folder.path()).unwrap() > 0);
    let absurd = file.allocate(1 << 62).unwrap_err();
    assert!(matches!(absurd, FileError::Io { operation: "fallocate", .. }), "{absurd}");
}
