//! A text file that only grows: audit records, one to a line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::FileError;

/// Only its owner reads and writes it.
const MODE: u32 = 0o600;

/// A file that is written at its end only, through the page cache.
///
/// What was appended is durable after [`AppendFile::sync_data`]; an error of either is final.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    path: PathBuf,
}

impl AppendFile {
    /// Opens the file, or makes it with mode 0600. Its name is durable only after the folder was
    /// synced ([`super::FileSystem::sync_dir`]). A symbolic link is refused.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)
            .map_err(|source| failed("open", path, source))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// The file from its start, for reading line by line.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn read(path: &Path) -> Result<BufReader<File>, FileError> {
        let file = File::open(path).map_err(|source| failed("open", path, source))?;
        Ok(BufReader::with_capacity(64 << 10, file))
    }

    /// Bytes in the file.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn bytes(&self) -> Result<u64, FileError> {
        let data = self.file.metadata().map_err(|source| self.failed("stat", source))?;
        Ok(data.len())
    }

    /// Writes all of `bytes` at the end; they are not durable yet.
    ///
    /// # Errors
    /// What the operating system said; part of them may be in the file.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(|source| failed("append to", &self.path, source))
    }

    /// Makes everything appended so far durable. A failure is final.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn sync_data(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(|source| self.failed("fdatasync", source))
    }

    /// Cuts the file to its first `bytes`, durably: what follows was never acknowledged.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn cut(&self, bytes: u64) -> Result<(), FileError> {
        self.file.set_len(bytes).map_err(|source| self.failed("truncate", source))?;
        self.sync_data()
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> FileError {
        failed(operation, &self.path, source)
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> FileError {
    FileError::Io { operation, path: path.to_owned(), source }
}
