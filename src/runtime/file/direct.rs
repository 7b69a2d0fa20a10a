//! Files written past the page cache where the file system allows it.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::{Fault, FaultOperation, FaultPlan};
use super::{AlignedBuffer, BLOCK_BYTES, FileError};
use crate::sim::disk::{SimDisk, SimFile};

/// Whether files bypass the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectIo {
    /// `O_DIRECT` where the file system takes it, the page cache elsewhere.
    #[default]
    WherePossible,
    /// Always through the page cache: for file systems on which `O_DIRECT` misbehaves. Slower.
    Never,
}

/// How files are opened: on which disk, with or without the page cache, with which faults armed.
#[derive(Debug, Clone, Default)]
pub struct FileSystem {
    direct: DirectIo,
    faults: Option<Arc<FaultPlan>>,
    /// `None` is the host.
    disk: Option<SimDisk>,
}

impl FileSystem {
    /// The host's file system.
    #[must_use]
    pub fn new(direct: DirectIo) -> Self {
        Self { direct, faults: None, disk: None }
    }

    /// The host's file system with faults armed by a test.
    #[must_use]
    pub fn with_faults(direct: DirectIo, faults: Arc<FaultPlan>) -> Self {
        Self { direct, faults: Some(faults), disk: None }
    }

    /// A disk in memory. `direct` decides what a failed sync leaves behind, as on a host.
    #[must_use]
    pub fn simulated(direct: DirectIo, disk: SimDisk, faults: Arc<FaultPlan>) -> Self {
        Self { direct, faults: Some(faults), disk: Some(disk) }
    }

    /// Opens a file for reading.
    pub fn open_read(&self, path: &Path) -> Result<DirectFile, FileError> {
        self.open(path, Access::Read)
    }

    /// Opens an existing file for reading and writing.
    pub fn open_write(&self, path: &Path) -> Result<DirectFile, FileError> {
        self.open(path, Access::Write)
    }

    /// Creates a file that must not exist yet, readable by the owner only.
    pub fn create(&self, path: &Path) -> Result<DirectFile, FileError> {
        self.open(path, Access::Create)
    }

    /// Renames within a file system. Durable only after [`FileSystem::sync_dir`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        let renamed = match &self.disk {
            Some(disk) => disk.rename(from, to),
            None => std::fs::rename(from, to),
        };
        renamed.map_err(|source| FileError::io("rename", from, source))
    }

    /// Removes a file. Durable only after [`FileSystem::sync_dir`].
    pub fn remove(&self, path: &Path) -> Result<(), FileError> {
        let removed = match &self.disk {
            Some(disk) => disk.remove(path),
            None => std::fs::remove_file(path),
        };
        removed.map_err(|source| FileError::io("remove", path, source))
    }

    /// Makes the names inside a folder durable.
    pub fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        let failed = |source| FileError::io("fsync", path, source);
        self.strike_sync().map_err(failed)?;
        match &self.disk {
            Some(disk) => disk.sync_dir(path).map_err(failed),
            None => {
                let opened = File::open(path);
                let folder = opened.map_err(|source| FileError::io("open", path, source))?;
                if cfg!(hufu_planted_bug = "no_fsync") {
                    return Ok(());
                }
                folder.sync_all().map_err(failed)
            }
        }
    }

    /// Whether a folder or a file is there.
    pub fn exists(&self, path: &Path) -> Result<bool, FileError> {
        let found = match &self.disk {
            Some(disk) => disk.kind(path).map(|kind| kind.is_some()),
            None => path.try_exists(),
        };
        found.map_err(|source| FileError::io("stat", path, source))
    }

    /// The names inside a folder, in order; names that are no Unicode are left out.
    pub fn names(&self, folder: &Path) -> Result<Vec<String>, FileError> {
        let failed = |source| FileError::io("list", folder, source);
        let mut names = Vec::new();
        if let Some(disk) = &self.disk {
            for path in disk.names(folder).map_err(failed)? {
                names.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
            }
        } else {
            for entry in std::fs::read_dir(folder).map_err(failed)? {
                names.extend(entry.map_err(failed)?.file_name().into_string().ok());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes a folder and all folders above it that are missing; durable when this returns, also
    /// where an earlier process made it and was killed before it could say so.
    pub fn make_folder(&self, path: &Path) -> Result<(), FileError> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if !self.exists(path)? {
            if let Some(parent) = parent {
                self.make_folder(parent)?;
            }
            let made = match &self.disk {
                Some(disk) => disk.make_folder(path),
                None => std::fs::create_dir(path),
            };
            match made {
                // Another process was faster; whether it is a folder shows when it is used.
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
                other => other.map_err(|source| FileError::io("mkdir", path, source))?,
            }
        }
        match parent {
            Some(parent) => self.sync_dir(parent),
            None if path.has_root() => Ok(()),
            None => self.sync_dir(Path::new(".")),
        }
    }

    /// The bytes of a small file; `None` where there is no file.
    ///
    /// Reads one byte more than `bytes_max` at most, so that a caller sees that a file is longer.
    pub fn read_small(&self, path: &Path, bytes_max: usize) -> Result<Option<Vec<u8>>, FileError> {
        let opened = match self.open_medium(path, Access::Read) {
            Ok(opened) => opened,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::io("open", path, source)),
        };
        let mut bytes = vec![0; bytes_max.saturating_add(1)];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match opened.read_at(rest, to_u64(done)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(FileError::io("read", path, source)),
            }
        }
        bytes.truncate(done);
        Ok(Some(bytes))
    }

    /// Puts a small file in place of another or of none, durably: whoever looks later finds the old
    /// bytes or the new ones, whole. The file beside it that this needs ends in `.new`.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), FileError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        if self.exists(&new)? {
            self.remove(&new)?;
        }
        let created = self.open_medium(&new, Access::Create);
        let medium = created.map_err(|source| FileError::io("create", &new, source))?;
        let file = DirectFile { medium, path: new, direct: false, faults: self.clone() };
        file.write_bytes(0, bytes)?;
        file.sync_data()?;
        self.rename(&file.path, path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    /// Bytes an unprivileged process may still write to the file system that holds `path`.
    pub fn available_bytes(&self, path: &Path) -> Result<u64, FileError> {
        if self.disk.is_some() {
            return Ok(u64::MAX);
        }
        let failed = |source| FileError::io("statvfs", path, source);
        let name = c_path(path).map_err(failed)?;
        let mut stats = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `name` ends in a zero byte and `stats` is valid for one `statvfs` to be written.
        let result = unsafe { libc::statvfs(name.as_ptr(), stats.as_mut_ptr()) };
        if result != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: all-zero bytes are a valid `statvfs`, and the call above filled it.
        let stats = unsafe { stats.assume_init() };
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }

    fn strike_sync(&self) -> io::Result<()> {
        match self.faults.as_ref().and_then(|plan| plan.strike(FaultOperation::Sync)) {
            Some(Fault::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Torn { .. }) => Err(io::Error::from_raw_os_error(libc::EIO)),
            None => Ok(()),
        }
    }

    fn open(&self, path: &Path, access: Access) -> Result<DirectFile, FileError> {
        let operation = if access == Access::Create { "create" } else { "open" };
        let opened = self.open_medium(path, access);
        let medium = opened.map_err(|source| FileError::io(operation, path, source))?;
        let direct = self.direct == DirectIo::WherePossible
            && match &medium {
                Medium::Host(file) => accepts_direct(file) && set_direct(file).is_ok(),
                Medium::Simulated(_) => true,
            };
        Ok(DirectFile { medium, path: path.to_path_buf(), direct, faults: self.clone() })
    }

    /// The disk in memory, if it is not the host's.
    pub(super) const fn disk(&self) -> Option<&SimDisk> {
        self.disk.as_ref()
    }

    pub(super) fn open_medium(&self, path: &Path, access: Access) -> io::Result<Medium> {
        if let Some(disk) = &self.disk {
            let create = access == Access::Create;
            let file = if create { disk.create(path) } else { disk.open(path) };
            return file.map(Medium::Simulated);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read);
        options.create_new(access == Access::Create).mode(0o600);
        options.open(path).map(Medium::Host)
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// And to read.
    Write,
    /// To write and read a file that is not there yet.
    Create,
}

/// Where a file's bytes are.
#[derive(Debug)]
pub(super) enum Medium {
    Host(File),
    Simulated(SimFile),
}

impl Medium {
    pub(super) fn read_at(&self, target: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Host(file) => file.read_at(target, offset),
            Self::Simulated(file) => file.read_at(target, offset),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Host(file) => file.write_at(bytes, offset),
            Self::Simulated(file) => file.write_at(bytes, offset),
        }
    }
}

/// One file, read and written in whole blocks.
#[derive(Debug)]
pub struct DirectFile {
    medium: Medium,
    path: PathBuf,
    direct: bool,
    faults: FileSystem,
}

impl DirectFile {
    /// A file that is opened already, through the page cache.
    pub(super) fn buffered(medium: Medium, path: &Path, system: &FileSystem) -> Self {
        Self { medium, path: path.to_path_buf(), direct: false, faults: system.clone() }
    }

    /// True when reads and writes bypass the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Where the file was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn bytes(&self) -> Result<u64, FileError> {
        let bytes = match &self.medium {
            Medium::Host(file) => file.metadata().map(|data| data.len()),
            Medium::Simulated(file) => file.bytes(),
        };
        bytes.map_err(|source| self.failed("stat", source))
    }

    /// Reads `bytes` at `offset` into the start of `buffer`; all of them or an error.
    pub fn read(
        &self,
        offset: u64,
        buffer: &mut AlignedBuffer,
        bytes: usize,
    ) -> Result<(), FileError> {
        let mut done = 0;
        let Some(target) = buffer.get_mut(..bytes) else {
            return Err(self.unaligned("read", offset, bytes));
        };
        self.check_aligned("read", offset, bytes)?;
        while let Some(rest) = target.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.medium.read_at(rest, offset + to_u64(done)) {
                Ok(0) => {
                    return Err(FileError::EndOfFile { path: self.path.clone(), offset, bytes });
                }
                Ok(count) => done += count,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed("read", source)),
            }
        }
        assert!(done == bytes);
        Ok(())
    }

    /// Writes the first `bytes` of `buffer` at `offset`; all of them or an error.
    ///
    /// Not durable before [`DirectFile::sync_data`].
    pub fn write(
        &self,
        offset: u64,
        buffer: &AlignedBuffer,
        bytes: usize,
    ) -> Result<(), FileError> {
        self.check_aligned("write", offset, bytes)?;
        if bytes > buffer.len() {
            return Err(self.unaligned("write", offset, bytes));
        }
        match self.strike(FaultOperation::Write) {
            None => self.write_rest(offset, buffer, 0, bytes),
            Some(Fault::Error(errno)) => {
                Err(self.failed("write", io::Error::from_raw_os_error(errno)))
            }
            Some(Fault::Torn { bytes: torn }) => {
                self.write_torn(offset, buffer, torn.min(bytes))?;
                Err(self.failed("write", io::Error::from_raw_os_error(libc::EIO)))
            }
        }
    }

    /// Makes all writes that returned before this call durable. A failure is final.
    pub fn sync_data(&self) -> Result<(), FileError> {
        if let Err(source) = self.faults.strike_sync() {
            self.sync_failed()?;
            return Err(self.failed("fdatasync", source));
        }
        self.sync_unstruck()
    }

    /// Sets the size of the file.
    pub fn set_bytes(&self, bytes: u64) -> Result<(), FileError> {
        let set = match &self.medium {
            Medium::Host(file) => file.set_len(bytes),
            Medium::Simulated(file) => file.set_bytes(bytes),
        };
        set.map_err(|source| self.failed("truncate", source))
    }

    /// Reserves room for `bytes` from the start, so that a full disk shows now and not later.
    ///
    /// Where the file system cannot reserve, nothing happens; writing the file ahead then reserves.
    pub fn allocate(&self, bytes: u64) -> Result<(), FileError> {
        if let Some(Fault::Error(errno)) = self.strike(FaultOperation::Allocate) {
            return Err(self.failed("fallocate", io::Error::from_raw_os_error(errno)));
        }
        let Medium::Host(file) = &self.medium else { return Ok(()) };
        let Ok(length) = libc::off_t::try_from(bytes) else {
            return Err(self.failed("fallocate", io::Error::from_raw_os_error(libc::EFBIG)));
        };
        loop {
            // SAFETY: a plain system call on a descriptor that `file` keeps open.
            let result = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) };
            if result == 0 {
                return Ok(());
            }
            let source = io::Error::last_os_error();
            match source.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(()),
                _ => return Err(self.failed("fallocate", source)),
            }
        }
    }

    /// The kernel's number of the file; `None` on a simulated disk.
    pub(super) fn descriptor(&self) -> Option<RawFd> {
        match &self.medium {
            Medium::Host(file) => Some(file.as_raw_fd()),
            Medium::Simulated(_) => None,
        }
    }

    pub(super) fn strike(&self, operation: FaultOperation) -> Option<Fault> {
        self.faults.faults.as_ref().and_then(|plan| plan.strike(operation))
    }

    /// Writes whole blocks of the first `torn` bytes, as a power cut in the middle would.
    pub(super) fn write_torn(
        &self,
        offset: u64,
        buffer: &AlignedBuffer,
        torn: usize,
    ) -> Result<(), FileError> {
        self.write_rest(offset, buffer, 0, torn - torn % BLOCK_BYTES)
    }

    /// Writes `buffer[done..bytes]` to `offset + done`.
    pub(super) fn write_rest(
        &self,
        offset: u64,
        buffer: &AlignedBuffer,
        done: usize,
        bytes: usize,
    ) -> Result<(), FileError> {
        let rest = buffer.get(done..bytes).unwrap_or_default();
        self.write_bytes(offset + to_u64(done), rest)
    }

    pub(super) fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.medium.write_at(rest, offset + to_u64(done)) {
                Ok(0) => return Err(self.failed("write", io::ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed("write", source)),
            }
        }
        assert!(done == bytes.len());
        Ok(())
    }

    /// The sync itself, after the fault plan was asked.
    pub(super) fn sync_unstruck(&self) -> Result<(), FileError> {
        if cfg!(hufu_planted_bug = "no_fsync") {
            return Ok(());
        }
        let synced = match &self.medium {
            Medium::Host(file) => file.sync_data(),
            Medium::Simulated(file) => file.sync(),
        };
        synced.map_err(|source| self.failed("fdatasync", source))
    }

    /// Lets a sync that fails on purpose leave behind what a real one does: pages that read well
    /// and are never written. A disk that was written directly keeps its cache.
    pub(super) fn sync_failed(&self) -> Result<(), FileError> {
        match &self.medium {
            Medium::Simulated(file) if !self.direct => {
                file.forget_waiting().map_err(|source| self.failed("fdatasync", source))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn failed(&self, operation: &'static str, source: io::Error) -> FileError {
        FileError::io(operation, &self.path, source)
    }

    pub(super) fn check_aligned(
        &self,
        operation: &'static str,
        offset: u64,
        bytes: usize,
    ) -> Result<(), FileError> {
        let aligned =
            bytes.is_multiple_of(BLOCK_BYTES) && offset.is_multiple_of(to_u64(BLOCK_BYTES));
        if aligned { Ok(()) } else { Err(self.unaligned(operation, offset, bytes)) }
    }

    fn unaligned(&self, operation: &'static str, offset: u64, bytes: usize) -> FileError {
        FileError::Unaligned { operation, path: self.path.clone(), offset, bytes }
    }
}

/// Asks the file system whether direct I/O in 4 KiB blocks works for this file.
///
/// Kernels before 6.1 do not say; then the attempt to set the flag decides.
fn accepts_direct(file: &File) -> bool {
    let mut stats = MaybeUninit::<libc::statx>::zeroed();
    let (target, flags) = (stats.as_mut_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the name is empty and ends in a zero byte, the descriptor is open, and `target` is
    // valid for one `statx` to be written.
    let result =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_DIOALIGN, target) };
    if result != 0 {
        return true;
    }
    // SAFETY: all-zero bytes are a valid `statx`, and the call above filled it.
    let stats = unsafe { stats.assume_init() };
    if stats.stx_mask & libc::STATX_DIOALIGN == 0 {
        return true;
    }
    let fits = |align: u32| align != 0 && usize::try_from(align).is_ok_and(|a| a <= BLOCK_BYTES);
    fits(stats.stx_dio_mem_align) && fits(stats.stx_dio_offset_align)
}

fn set_direct(file: &File) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that `file` keeps open.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above; the argument is the flag word just read, with one flag added.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_DIRECT) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_zero_inside| io::Error::from(io::ErrorKind::InvalidInput))
}

/// `usize` to `u64`: lossless on every target this crate builds for.
pub(super) fn to_u64(value: usize) -> u64 {
    const { assert!(usize::BITS <= u64::BITS) };
    u64::try_from(value).unwrap_or(u64::MAX)
}
