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

/// Whether files bypass the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirectIo {
    /// `O_DIRECT` where the file system takes it, the page cache elsewhere.
    #[default]
    WherePossible,
    /// Always through the page cache. Slower; a power-cut test needs it, because a loop device
    /// keeps what was written directly even without a sync.
    Never,
}

/// How files are opened: with or without the page cache, and with which faults armed.
#[derive(Debug, Clone, Default)]
pub struct FileSystem {
    direct: DirectIo,
    faults: Option<Arc<FaultPlan>>,
}

impl FileSystem {
    /// The host's file system.
    #[must_use]
    pub fn new(direct: DirectIo) -> Self {
        Self { direct, faults: None }
    }

    /// The host's file system with faults armed by a test.
    #[must_use]
    pub fn with_faults(direct: DirectIo, faults: Arc<FaultPlan>) -> Self {
        Self { direct, faults: Some(faults) }
    }

    /// Opens a file for reading.
    pub fn open_read(&self, path: &Path) -> Result<DirectFile, FileError> {
        self.open(path, OpenOptions::new().read(true), "open")
    }

    /// Opens an existing file for reading and writing.
    pub fn open_write(&self, path: &Path) -> Result<DirectFile, FileError> {
        self.open(path, OpenOptions::new().read(true).write(true), "open")
    }

    /// Creates a file that must not exist yet, readable by the owner only.
    pub fn create(&self, path: &Path) -> Result<DirectFile, FileError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        self.open(path, &mut options, "create")
    }

    /// Renames within a file system. Durable only after [`FileSystem::sync_dir`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        std::fs::rename(from, to).map_err(|source| FileError::io("rename", from, source))
    }

    /// Removes a file. Durable only after [`FileSystem::sync_dir`].
    pub fn remove(&self, path: &Path) -> Result<(), FileError> {
        std::fs::remove_file(path).map_err(|source| FileError::io("remove", path, source))
    }

    /// Makes the names inside a folder durable.
    pub fn sync_dir(&self, path: &Path) -> Result<(), FileError> {
        let folder = File::open(path).map_err(|source| FileError::io("open", path, source))?;
        self.strike_sync().map_err(|source| FileError::io("fsync", path, source))?;
        if cfg!(hufu_planted_bug = "no_fsync") {
            return Ok(());
        }
        folder.sync_all().map_err(|source| FileError::io("fsync", path, source))
    }

    /// Bytes an unprivileged process may still write to the file system that holds `path`.
    pub fn available_bytes(&self, path: &Path) -> Result<u64, FileError> {
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

    fn open(
        &self,
        path: &Path,
        options: &mut OpenOptions,
        operation: &'static str,
    ) -> Result<DirectFile, FileError> {
        let failed = |source| FileError::io(operation, path, source);
        let file = options.open(path).map_err(failed)?;
        let direct = self.direct == DirectIo::WherePossible
            && accepts_direct(&file)
            && set_direct(&file).is_ok();
        Ok(DirectFile { file, path: path.to_path_buf(), direct, faults: self.clone() })
    }
}

/// One file, read and written in whole blocks.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    path: PathBuf,
    direct: bool,
    faults: FileSystem,
}

impl DirectFile {
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
        self.file.metadata().map(|data| data.len()).map_err(|source| self.failed("stat", source))
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
            match self.file.read_at(rest, offset + to_u64(done)) {
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
        self.faults.strike_sync().map_err(|source| self.failed("fdatasync", source))?;
        self.sync_unstruck()
    }

    /// Sets the size of the file.
    pub fn set_bytes(&self, bytes: u64) -> Result<(), FileError> {
        self.file.set_len(bytes).map_err(|source| self.failed("truncate", source))
    }

    /// Reserves room for `bytes` from the start, so that a full disk shows now and not later.
    ///
    /// Where the file system cannot reserve, nothing happens; writing the file ahead then reserves.
    pub fn allocate(&self, bytes: u64) -> Result<(), FileError> {
        if let Some(Fault::Error(errno)) = self.strike(FaultOperation::Allocate) {
            return Err(self.failed("fallocate", io::Error::from_raw_os_error(errno)));
        }
        let Ok(length) = libc::off_t::try_from(bytes) else {
            return Err(self.failed("fallocate", io::Error::from_raw_os_error(libc::EFBIG)));
        };
        loop {
            // SAFETY: a plain system call on a descriptor that `self.file` keeps open.
            let result = unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, length) };
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

    pub(super) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
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
        mut done: usize,
        bytes: usize,
    ) -> Result<(), FileError> {
        while let Some(rest) = buffer.get(done..bytes).filter(|rest| !rest.is_empty()) {
            match self.file.write_at(rest, offset + to_u64(done)) {
                Ok(0) => return Err(self.failed("write", io::ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed("write", source)),
            }
        }
        assert!(done >= bytes);
        Ok(())
    }

    /// The sync itself, after the fault plan was asked.
    pub(super) fn sync_unstruck(&self) -> Result<(), FileError> {
        if cfg!(hufu_planted_bug = "no_fsync") {
            return Ok(());
        }
        self.file.sync_data().map_err(|source| self.failed("fdatasync", source))
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
