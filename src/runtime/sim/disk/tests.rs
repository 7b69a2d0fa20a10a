use std::sync::Arc;

use super::*;
use crate::file::{AlignedBuffer, DirectIo, Fault, FaultOperation, FaultPlan, FileSystem};

const BLOCK: usize = 4096;

fn system(disk: &SimDisk, direct: DirectIo) -> (FileSystem, Arc<FaultPlan>) {
    let plan = Arc::new(FaultPlan::default());
    (FileSystem::simulated(direct, disk.clone(), Arc::clone(&plan)), plan)
}

fn filled(byte: u8) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new(2 * BLOCK);
    buffer.fill(byte);
    buffer
}

fn bytes_of(system: &FileSystem, path: &Path) -> Option<Vec<u8>> {
    system.read_small(path, 4 * BLOCK).unwrap()
}

/// What a power cut can leave of `work`, over many seeds.
fn outcomes<T: Ord>(work: impl Fn(&FileSystem), look: impl Fn(&FileSystem) -> T) -> BTreeSet<T> {
    let one = |seed| {
        let disk = SimDisk::new();
        let (system, _) = system(&disk, DirectIo::WherePossible);
        system.make_folder(Path::new("/log")).unwrap();
        work(&system);
        disk.cut_power(seed);
        look(&system)
    };
    (0..200).map(one).collect()
}

#[test]
fn what_was_synced_survives_and_what_was_not_is_lost_kept_or_torn() {
    let path = Path::new("/log/a");
    let begin = |system: &FileSystem| {
        let file = system.create(path).unwrap();
        file.write(0, &filled(1), 2 * BLOCK).unwrap();
        file.sync_data().unwrap();
        system.sync_dir(Path::new("/log")).unwrap();
        file
    };
    let synced = outcomes(|system| drop(begin(system)), |system| bytes_of(system, path));
    assert_eq!(synced.into_iter().collect::<Vec<_>>(), [Some(vec![1; 2 * BLOCK])]);
    let torn = outcomes(
        |system| begin(system).write(0, &filled(2), 2 * BLOCK).unwrap(),
        |system| bytes_of(system, path).unwrap(),
    );
    assert!(torn.contains(&vec![1; 2 * BLOCK]) && torn.contains(&vec![2; 2 * BLOCK]));
    assert!(torn.len() > 20, "prefixes and single sectors too");
    for bytes in &torn {
        assert_eq!(bytes.len(), 2 * BLOCK);
        assert!(bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|b| *b == sector[0])));
    }
    let sizes = outcomes(
        |system| begin(system).set_bytes(4 * 4096).unwrap(),
        |system| bytes_of(system, path).unwrap().len(),
    );
    assert_eq!(sizes.into_iter().collect::<Vec<_>>(), [2 * BLOCK, 4 * BLOCK]);
}

#[test]
fn names_are_lost_until_their_folder_is_synced() {
    let (folder, old, new) = (Path::new("/log"), Path::new("/log/old"), Path::new("/log/new"));
    let names = |system: &FileSystem| system.names(folder).unwrap().concat();
    let make = |system: &FileSystem| {
        let file = system.create(old).unwrap();
        file.write(0, &filled(1), BLOCK).unwrap();
        file.sync_data().unwrap();
    };
    let list = |found: BTreeSet<String>| found.into_iter().collect::<Vec<_>>();
    assert_eq!(list(outcomes(make, names)), ["", "old"]);
    let renamed = |system: &FileSystem| {
        make(system);
        system.sync_dir(folder).unwrap();
        system.rename(old, new).unwrap();
    };
    assert_eq!(list(outcomes(renamed, names)), ["new", "old"]);
    let removed = |system: &FileSystem| {
        make(system);
        system.sync_dir(folder).unwrap();
        system.remove(old).unwrap();
    };
    assert_eq!(list(outcomes(removed, names)), ["", "old"]);
    let all_synced = |system: &FileSystem| {
        renamed(system);
        system.sync_dir(folder).unwrap();
    };
    assert_eq!(list(outcomes(all_synced, names)), ["new"]);
}

#[test]
fn a_killed_process_loses_nothing_and_the_power_cut_after_it_does() {
    let disk = SimDisk::new();
    let (system, _) = system(&disk, DirectIo::WherePossible);
    system.make_folder(Path::new("/log")).unwrap();
    let before = disk.operations();
    disk.stop_after(1);
    let file = system.create(Path::new("/log/a")).unwrap();
    assert!(file.write(0, &filled(1), BLOCK).is_err() && disk.has_stopped());
    assert!(file.sync_data().is_err() && system.names(Path::new("/log")).is_err());
    assert_eq!(disk.operations(), before + 2);
    disk.revive();
    assert_eq!(bytes_of(&system, Path::new("/log/a")).unwrap(), vec![1; BLOCK]);
    let lost = (0..64).any(|seed| {
        disk.cut_power(seed);
        bytes_of(&system, Path::new("/log/a")).is_none()
    });
    assert!(lost, "neither name nor bytes were synced");
}

#[test]
fn a_failed_sync_of_pages_leaves_them_clean_and_unwritten() {
    for (direct, survives) in [(DirectIo::Never, false), (DirectIo::WherePossible, true)] {
        let disk = SimDisk::new();
        let (system, plan) = system(&disk, direct);
        system.make_folder(Path::new("/log")).unwrap();
        let file = system.create(Path::new("/log/a")).unwrap();
        system.sync_dir(Path::new("/log")).unwrap();
        file.write(0, &filled(1), BLOCK).unwrap();
        plan.arm(FaultOperation::Sync, 0, Fault::Error(libc::EIO));
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(bytes_of(&system, Path::new("/log/a")).unwrap(), vec![1; BLOCK]);
        disk.cut_power(1);
        assert_eq!(bytes_of(&system, Path::new("/log/a")).unwrap().len() == BLOCK, survives);
    }
}

#[test]
fn a_small_file_is_replaced_whole_or_not_at_all_wherever_it_stops() {
    let path = Path::new("/data/deep/identity");
    let mut seen = BTreeSet::new();
    for stop in 0..20 {
        for seed in 0..24 {
            let disk = SimDisk::new();
            let (system, _) = system(&disk, DirectIo::WherePossible);
            system.make_folder(path.parent().unwrap()).unwrap();
            system.replace(path, b"old").unwrap();
            disk.stop_after(stop);
            let is_done = system.replace(path, &[7; 5000]).is_ok();
            disk.cut_power(seed);
            let found = bytes_of(&system, path).unwrap();
            assert!(found == b"old" || found == [7; 5000], "stop {stop} seed {seed}");
            assert!(!is_done || found == [7; 5000], "replaced, and then lost");
            system.replace(path, b"newest").unwrap();
            seen.insert((is_done, found.len()));
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(false, 3), (false, 5000), (true, 5000)]);
}

#[test]
fn same_seed_same_disk() {
    let run = |seed| {
        let disk = SimDisk::new();
        let (system, _) = system(&disk, DirectIo::WherePossible);
        system.make_folder(Path::new("/log")).unwrap();
        let file = system.create(Path::new("/log/a")).unwrap();
        system.sync_dir(Path::new("/log")).unwrap();
        file.write(0, &filled(3), 2 * BLOCK).unwrap();
        disk.cut_power(seed);
        bytes_of(&system, Path::new("/log/a")).unwrap()
    };
    for seed in 0..50 {
        assert_eq!(run(seed), run(seed));
    }
}
