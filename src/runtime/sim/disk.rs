//! A disk in memory that keeps apart what was written and what was synced.
//!
//! ```text
//! FileSystem::simulated -> writes, names  (seen at once; waiting)
//!                       -> sync_data of a file, sync_dir of a folder  (on the platter)
//! kill  = SimDisk::revive      all that was written is still there, synced or not
//! power = SimDisk::cut_power   of what was not synced, a seeded part is there
//! ```
//!
//! The rules are the strictest that POSIX allows, stricter than any one file system:
//! - what was written and not synced is lost or kept, each write on its own, whole, up to a sector,
//!   or sector by sector;
//! - a new name, a rename and a removal are lost or kept, each on its own, until their folder was
//!   synced; syncing a file does not make its name durable;
//! - a failed sync of a file in the page cache leaves pages that read well and are never written:
//!   a later sync of them succeeds and means nothing.
//!
//! A test owns it, beside the [`FileSystem`](crate::file::FileSystem) made from it. It stops on
//! command after a number of operations, so that a crash can be put between any two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// A change of a file's bytes that is not synced.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Size(usize),
}

#[derive(Debug, Default)]
struct Inode {
    /// What reads see.
    seen: Vec<u8>,
    /// What is on the platter.
    durable: Vec<u8>,
    waiting: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(u64),
    Folder,
}

/// A change of a name that is not synced.
#[derive(Debug, Clone)]
enum NameChange {
    Set(PathBuf, Entry),
    Move { from: PathBuf, to: PathBuf, entry: Entry },
    Remove(PathBuf),
}

impl NameChange {
    /// Whether syncing `folder` makes it durable.
    fn is_in(&self, folder: &Path) -> bool {
        match self {
            Self::Set(path, _) | Self::Remove(path) => path.parent() == Some(folder),
            Self::Move { from, to, .. } => {
                from.parent() == Some(folder) || to.parent() == Some(folder)
            }
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Self::Set(path, entry) => drop(names.insert(path, entry)),
            Self::Move { to, entry, .. } => {
                // Also where the name before `from` was not lost: a file has one name.
                names.retain(|_, other| *other != entry);
                names.insert(to, entry);
            }
            Self::Remove(path) => drop(names.remove(&path)),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    seen: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    waiting: Vec<NameChange>,
    operations: u64,
    /// The operation at which everything stops.
    stop_at: Option<u64>,
    stopped: bool,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk with power.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Changing operations and syncs so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets `operations` more operations succeed; the one after them and all later ones fail with
    /// `EIO`. What that one was to write may have reached the disk; a sync did nothing.
    pub fn stop_after(&self, operations: u64) {
        let mut state = self.state();
        state.stop_at = Some(state.operations + operations);
    }

    /// Whether the stop asked for has come.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// A killed process is started again: all that it wrote is there, synced or not.
    pub fn revive(&self) {
        let mut state = self.state();
        state.stopped = false;
        state.stop_at = None;
    }

    /// The power goes and comes back: of what was not synced, the seed decides what is there.
    pub fn cut_power(&self, seed: u64) {
        let mut state = self.state();
        let mut chance = Chance(seed);
        for inode in state.inodes.values_mut() {
            for change in std::mem::take(&mut inode.waiting) {
                survive(change, &mut inode.durable, &mut chance);
            }
            inode.seen.clone_from(&inode.durable);
        }
        for change in std::mem::take(&mut state.waiting) {
            if chance.below(2) == 0 {
                change.apply(&mut state.durable);
            }
        }
        // A name whose folder is gone cannot be reached.
        let folders: BTreeSet<PathBuf> = state.durable.keys().cloned().collect();
        state.durable.retain(|path, _| {
            path.ancestors().skip(1).all(|parent| is_root(parent) || folders.contains(parent))
        });
        state.seen = state.durable.clone();
        state.stopped = false;
        state.stop_at = None;
    }

    /// Changes bytes of a file from outside, durably, as a failing disk does. False where there
    /// are no such bytes.
    #[must_use]
    pub fn overwrite(&self, path: &Path, offset: usize, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let Some(Entry::File(number)) = state.seen.get(path).copied() else { return false };
        let Some(inode) = state.inodes.get_mut(&number) else { return false };
        let images = [&mut inode.seen, &mut inode.durable];
        images.into_iter().all(|image| {
            let target = image.get_mut(offset..offset.saturating_add(bytes.len()));
            target.map(|target| target.copy_from_slice(bytes)).is_some()
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- what `file` asks for --------------------------------------------------------------------

    pub(crate) fn open(&self, path: &Path) -> io::Result<SimFile> {
        let state = self.state();
        state.check()?;
        match state.seen.get(path) {
            Some(Entry::File(number)) => Ok(SimFile { disk: self.clone(), number: *number }),
            Some(Entry::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn create(&self, path: &Path) -> io::Result<SimFile> {
        let mut state = self.state();
        state.check()?;
        state.check_parent(path)?;
        if state.seen.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.inode_next;
        state.inode_next += 1;
        state.inodes.insert(number, Inode::default());
        state.rename_with(NameChange::Set(path.to_path_buf(), Entry::File(number)))?;
        Ok(SimFile { disk: self.clone(), number })
    }

    pub(crate) fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check()?;
        state.check_parent(path)?;
        if state.seen.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.rename_with(NameChange::Set(path.to_path_buf(), Entry::Folder))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check()?;
        state.check_parent(to)?;
        let Some(entry @ Entry::File(_)) = state.seen.get(from).copied() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        state.rename_with(NameChange::Move { from, to, entry })
    }

    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check()?;
        match state.seen.get(path) {
            Some(Entry::File(_)) => state.rename_with(NameChange::Remove(path.to_path_buf())),
            Some(Entry::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.check()?;
        if !is_root(folder) && state.seen.get(folder) != Some(&Entry::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.count()?;
        for change in std::mem::take(&mut state.waiting) {
            if change.is_in(folder) {
                change.apply(&mut state.durable);
            } else {
                state.waiting.push(change);
            }
        }
        Ok(())
    }

    /// True for a folder, false for a file, `None` where there is nothing.
    pub(crate) fn kind(&self, path: &Path) -> io::Result<Option<bool>> {
        let state = self.state();
        state.check()?;
        if is_root(path) {
            return Ok(Some(true));
        }
        Ok(state.seen.get(path).map(|entry| *entry == Entry::Folder))
    }

    pub(crate) fn names(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        state.check()?;
        if !is_root(folder) && state.seen.get(folder) != Some(&Entry::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.seen.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.cloned().collect())
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        if self.stopped { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    /// Counts an operation; fails if everything stops at it.
    fn count(&mut self) -> io::Result<()> {
        self.stopped = self.stop_at == Some(self.operations);
        self.operations += 1;
        self.check()
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let exists = is_root(parent) || self.seen.get(parent) == Some(&Entry::Folder);
        if exists { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn rename_with(&mut self, change: NameChange) -> io::Result<()> {
        change.clone().apply(&mut self.seen);
        self.waiting.push(change);
        self.count()
    }
}

/// A file of a [`SimDisk`].
#[derive(Debug)]
pub(crate) struct SimFile {
    disk: SimDisk,
    number: u64,
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.disk.state();
        state.check()?;
        let inode = state.inodes.get_mut(&self.number);
        inode.map(work).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn bytes(&self) -> io::Result<u64> {
        self.with(|inode| u64::try_from(inode.seen.len()).unwrap_or(u64::MAX))
    }

    /// Bytes from `offset` on; fewer than asked for at the end of the file.
    pub(crate) fn read_at(&self, target: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = position(offset)?;
        self.with(|inode| {
            let found = inode.seen.get(offset..).unwrap_or_default();
            let count = found.len().min(target.len());
            for (to, from) in target.iter_mut().zip(found) {
                *to = *from;
            }
            count
        })
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let offset = position(offset)?;
        self.change(Change::Write { offset, bytes: bytes.to_vec() })?;
        Ok(bytes.len())
    }

    pub(crate) fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::Size(position(bytes)?))
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.with(|inode| {
            apply(&change, &mut inode.seen);
            inode.waiting.push(change);
        })?;
        self.disk.state().count()
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.state().check()?;
        self.disk.state().count()?;
        self.with(|inode| {
            for change in std::mem::take(&mut inode.waiting) {
                apply(&change, &mut inode.durable);
            }
        })
    }

    /// What a failed sync of pages does: they pass for written from here on.
    pub(crate) fn forget_waiting(&self) -> io::Result<()> {
        self.with(|inode| inode.waiting.clear())
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_beyond| io::ErrorKind::InvalidInput.into())
}

fn is_root(path: &Path) -> bool {
    path.parent().is_none()
}

fn apply(change: &Change, image: &mut Vec<u8>) {
    match change {
        Change::Write { offset, bytes } => write_into(image, *offset, bytes),
        Change::Size(size) => image.resize(*size, 0),
    }
}

fn write_into(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    if let Some(target) = image.get_mut(offset..end) {
        target.copy_from_slice(bytes);
    }
}

/// Lets the part of a change that the chance picks reach the platter.
fn survive(change: Change, durable: &mut Vec<u8>, chance: &mut Chance) {
    let Change::Write { offset, bytes } = change else {
        if chance.below(2) == 0 {
            apply(&change, durable);
        }
        return;
    };
    let sectors = bytes.len().div_ceil(SECTOR_BYTES);
    let fate = chance.below(4);
    let cut = chance.below(u64::try_from(sectors).unwrap_or(u64::MAX).saturating_add(1));
    for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
        let is_kept = match fate {
            0 => false,
            1 => true,
            2 => u64::try_from(index).is_ok_and(|index| index < cut),
            _ => chance.below(2) == 0,
        };
        if is_kept {
            write_into(durable, offset + index * SECTOR_BYTES, sector);
        }
    }
}

/// Numbers that follow from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0);
        self.next() % end
    }
}

#[cfg(test)]
mod tests;
