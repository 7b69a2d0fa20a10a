//! A text file that only grows: audit records, one to a line.

use std::fs::OpenOptions;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::FileError;
use super::direct::{Access, DirectFile, FileSystem, Medium, to_u64};
use super::fault::{Fault, FaultOperation};

/// Only its owner reads and writes it.
const MODE: u32 = 0o600;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A file that is written at its end only, through the page cache, by one writer.
///
/// What was appended is durable after [`AppendFile::sync_data`]; an error of either is final.
#[derive(Debug)]
pub struct AppendFile {
    file: DirectFile,
    end: u64,
}

impl AppendFile {
    /// Opens the file, or makes it with mode 0600. Its name is durable only after the folder was
    /// synced ([`FileSystem::sync_dir`]). A symbolic link is refused.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open(system: &FileSystem, path: &Path) -> Result<Self, FileError> {
        let opened = match system.disk() {
            Some(disk) => disk.open(path).or_else(|_| disk.create(path)).map(Medium::Simulated),
            None => OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(MODE)
                .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
                .open(path)
                .map(Medium::Host),
        };
        let medium = opened.map_err(|source| FileError::io("open", path, source))?;
        let file = DirectFile::buffered(medium, path, system);
        let end = file.bytes()?;
        Ok(Self { file, end })
    }

    /// The file from its start, for reading line by line.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn read(system: &FileSystem, path: &Path) -> Result<BufReader<AppendReader>, FileError> {
        let opened = system.open_medium(path, Access::Read);
        let medium = opened.map_err(|source| FileError::io("open", path, source))?;
        Ok(BufReader::with_capacity(READ_BYTES, AppendReader { medium, offset: 0 }))
    }

    /// Bytes in the file.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.end
    }

    /// Writes all of `bytes` at the end; they are not durable yet.
    ///
    /// # Errors
    /// What the operating system said; part of them may be in the file.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        match self.file.strike(FaultOperation::Write) {
            None => self.file.write_bytes(self.end, bytes)?,
            Some(Fault::Error(errno)) => {
                return Err(self.file.failed("append to", io::Error::from_raw_os_error(errno)));
            }
            Some(Fault::Torn { bytes: torn }) => {
                let written = bytes.get(..torn).unwrap_or(bytes);
                self.file.write_bytes(self.end, written)?;
                return Err(self.file.failed("append to", io::Error::from_raw_os_error(libc::EIO)));
            }
        }
        self.end += to_u64(bytes.len());
        Ok(())
    }

    /// Makes everything appended so far durable. A failure is final.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn sync_data(&self) -> Result<(), FileError> {
        self.file.sync_data()
    }

    /// Cuts the file to its first `bytes`, durably: what follows was never acknowledged.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn cut(&mut self, bytes: u64) -> Result<(), FileError> {
        self.file.set_bytes(bytes)?;
        self.sync_data()?;
        self.end = bytes;
        Ok(())
    }
}

/// Reads an [`AppendFile`] from its start to its end.
#[derive(Debug)]
pub struct AppendReader {
    medium: Medium,
    offset: u64,
}

impl Read for AppendReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let count = self.medium.read_at(target, self.offset)?;
        self.offset += to_u64(count);
        Ok(count)
    }
}
