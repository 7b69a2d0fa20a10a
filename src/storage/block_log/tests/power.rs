//! Lives of a log on a disk that forgets what was not synced: it is killed or loses power after any
//! operation, its syncs fail, and what it acknowledged is still there.
//!
//! What an open hands out counts as acknowledged too, for whoever reads it builds on it.

use std::collections::BTreeMap;

use hufu_runtime::sim::disk::SimDisk;

use super::super::format::GroupHeader;
use super::super::segment::Listing;
use super::*;

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A log's disk and what the log said, over all its lives.
struct Lives {
    chance: Chance,
    disk: SimDisk,
    plan: Arc<FaultPlan>,
    options: LogOptions,
    /// Everything appended that may be there: position, and number of its payload.
    offered: Vec<(RecordPosition, usize, usize)>,
    acknowledged: DurableSequence,
    /// Groups before this one may be gone, for the log was told that nobody needs them.
    needed_from: u64,
    next: usize,
    /// Every group header that ever was on the disk, by epoch and sequence.
    headers: BTreeMap<(u64, u64), Vec<u8>>,
}

/// Why a life ended before its time.
fn is_death(error: &Error) -> bool {
    matches!(error, Error::File(_) | Error::Stopped { .. })
}

impl Lives {
    fn new(seed: u64) -> Self {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9).wrapping_add(seed));
        let (disk, plan) = (SimDisk::new(), Arc::new(FaultPlan::default()));
        let direct = [DirectIo::WherePossible, DirectIo::Never][usize::from(chance.below(2) == 0)];
        let mut options = small(Path::new("/data/deep/log"));
        options.file_system = FileSystem::simulated(direct, disk.clone(), Arc::clone(&plan));
        options.depth = u32::try_from(1 + chance.below(3)).unwrap();
        options.segment_bytes = [24 << 10, 40 << 10][usize::from(chance.below(2) == 0)];
        options.group_bytes_max = 8 << 10;
        options.record_bytes_max = 12 << 10;
        Self {
            chance,
            disk,
            plan,
            options,
            offered: Vec::new(),
            acknowledged: DurableSequence(0),
            needed_from: 0,
            next: 0,
            headers: BTreeMap::new(),
        }
    }

    /// One life: opens, looks, writes, and ends by a kill, a power cut or a close.
    fn live(&mut self, seed: u64) {
        if self.chance.below(4) > 0 {
            self.disk.stop_after(self.chance.below(60));
        }
        if self.chance.below(4) == 0 {
            let skip = u32::try_from(self.chance.below(12)).unwrap();
            self.plan.arm(FaultOperation::Sync, skip, Fault::Error(5));
        }
        match self.open_and_write() {
            Ok(()) => {}
            Err(error) if is_death(&error) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
        self.disk.revive();
        self.note_headers(seed);
        if self.chance.below(2) == 0 {
            self.disk.cut_power(self.chance.below(u64::MAX));
        }
    }

    fn open_and_write(&mut self) -> Result<(), Error> {
        let (mut log, _) = BlockLog::open(self.options.clone())?;
        let claimed = Listing::read(&self.options.file_system, &self.options.folder)?.epochs;
        let used = self.headers.keys().map(|(epoch, _)| *epoch).max().unwrap_or(0);
        assert!(claimed.last().is_some_and(|epoch| *epoch > used), "an epoch is used twice");
        self.check(&log)?;
        for _step in 0..self.chance.below(40) {
            match self.chance.below(8) {
                0 => drop(log.flush()?),
                1 => drop(log.prepare()?),
                2 => {
                    let durable = log.durable().get();
                    let keep = self.chance.below(6);
                    self.needed_from = self.needed_from.max(durable.saturating_sub(keep));
                    log.recycle_before(self.needed_from)?;
                }
                3 | 4 => drop(log.poll()?),
                _ => self.append(&mut log)?,
            }
            self.acknowledged = self.acknowledged.max(log.durable());
        }
        if self.chance.below(3) == 0 {
            self.acknowledged = log.close()?;
        }
        Ok(())
    }

    fn append(&mut self, log: &mut BlockLog) -> Result<(), Error> {
        let bytes = usize::try_from(self.chance.below(9_000)).unwrap();
        let record = payload(self.next, bytes);
        loop {
            match log.append(7, &[&record])? {
                Appended::Placed(position) => {
                    self.offered.push((position, self.next, bytes));
                    self.next += 1;
                    return Ok(());
                }
                Appended::Full => drop(log.poll()?),
            }
        }
    }

    /// What was acknowledged is there, what was not may be, and nothing else is.
    fn check(&mut self, log: &BlockLog) -> Result<(), Error> {
        let mut reader = log.reader();
        let mut seen = Vec::new();
        while let Some(record) = reader.next()? {
            seen.push((record.position, record.payload.to_vec()));
        }
        let first = seen.first().map_or(self.acknowledged.get() + 1, |(first, _)| first.sequence);
        let gone = self.offered.partition_point(|(position, ..)| position.sequence < first);
        assert!(
            self.offered[..gone].iter().all(|(position, ..)| position.sequence < self.needed_from
                || position.sequence > self.acknowledged.get()),
            "records nobody gave up are gone"
        );
        let expected = &self.offered[gone..];
        assert!(seen.len() <= expected.len(), "records that nobody appended");
        for ((position, bytes), (offered, number, length)) in seen.iter().zip(expected) {
            assert_eq!(position, offered);
            assert!(*bytes == payload(*number, *length), "another record at {position:?}");
        }
        let lost = expected[seen.len()..].first();
        assert!(
            lost.is_none_or(|(position, ..)| !self.acknowledged.covers(position)),
            "acknowledged up to {:?}, and lost from {lost:?}",
            self.acknowledged
        );
        self.offered.truncate(gone + seen.len());
        self.acknowledged = log.durable();
        Ok(())
    }

    /// An (epoch, sequence) names one group for ever.
    fn note_headers(&mut self, seed: u64) {
        let (system, folder) = (&self.options.file_system, &self.options.folder);
        if !system.exists(folder).unwrap() {
            return;
        }
        for segment in Listing::read(system, folder).unwrap().logs {
            let path = segment_file(folder, segment);
            let bytes = system.read_small(&path, 64 << 10).unwrap().unwrap();
            let Some(seed_bytes) = bytes.get(112..128) else { continue };
            for block in bytes.chunks_exact(BLOCK).skip(1) {
                let crc = crc32c::crc32c(seed_bytes);
                let Ok(header) = GroupHeader::decode(LogKind::Block, crc, block) else { continue };
                let name = (header.epoch.get(), header.sequence.get());
                let header = block[..256].to_vec();
                let before = self.headers.entry(name).or_insert_with(|| header.clone());
                assert!(*before == header, "seed {seed}: {name:?} names two groups");
            }
        }
    }

    /// The last life: everything is there, the log is whole, and a clean stop survives a power cut.
    fn end(mut self, seed: u64) {
        self.plan.disarm();
        let (mut log, _) = BlockLog::open(self.options.clone()).unwrap();
        self.check(&log).unwrap();
        self.append(&mut log).unwrap();
        log.close().unwrap();
        self.disk.cut_power(seed);
        let report = verify(&self.options, &mut |_, _| {}).unwrap();
        assert!(report.is_clean() && report.sealed, "seed {seed}: {report:?}");
        self.acknowledged = DurableSequence(report.last_sequence);
        let (log, _) = BlockLog::open(self.options.clone()).unwrap();
        self.check(&log).unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_kills_power_cuts_and_failed_syncs() {
    for seed in 0..SEEDS {
        let mut lives = Lives::new(seed);
        for _life in 0..8 {
            lives.live(seed);
        }
        lives.end(seed);
    }
}

/// Enough that each sync of the log, taken out by hand, fails the test in more than one seed.
const SEEDS: u64 = 1_000;
