//! Durable files: the only place of hufu that writes and syncs the logs.
//!
//! ```text
//! storage (block log, vote log) -> FileRing -> io_uring: write -> fdatasync, linked
//!                                          \-> pwrite, then fdatasync on the calling thread
//!                               -> DirectFile: headers, recovery, reading
//! ```
//!
//! The persist tiles own these values; nothing here starts a thread. What this module never does:
//! retry a failed write or sync, tell a caller "durable" after any failure, or let the kernel
//! touch memory that was freed (a buffer belongs to the ring while its group is in flight).
//!
//! [`FileSystem`] is how files are opened; a [`FaultPlan`] attached to it makes writes, syncs and
//! allocations fail on purpose, and a [`SimDisk`](crate::sim::disk::SimDisk) in its place loses
//! what was not synced, so that the layers above need no seam of their own for tests.

mod append;
mod buffer;
mod direct;
mod fault;
mod ring;
#[cfg(test)]
mod tests;
mod uring;

use std::path::{Path, PathBuf};

pub use append::{AppendFile, AppendReader};
pub use buffer::AlignedBuffer;
pub use direct::{DirectFile, DirectIo, FileSystem};
pub use fault::{Fault, FaultOperation, FaultPlan};
pub use ring::{Backend, Completion, FileRing, Refused, RingOptions, Token};

/// Alignment, in bytes, of every buffer, offset and length that reaches a log file.
///
/// 4 KiB is at least the logical block size of every disk this node is built for.
pub const BLOCK_BYTES: usize = 4096;

/// What can go wrong with a file of this host. None of these is retried.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused an operation.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was asked, for example `write`.
        operation: &'static str,
        /// The file or folder it was asked for.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// An offset or length is not a multiple of [`BLOCK_BYTES`], or lies outside the buffer.
    #[error("{operation} {}: offset {offset} length {bytes} is not block aligned", path.display())]
    Unaligned {
        /// What was asked.
        operation: &'static str,
        /// The file it was asked for.
        path: PathBuf,
        /// Offset in the file, in bytes.
        offset: u64,
        /// Length, in bytes.
        bytes: usize,
    },
    /// The file ended before the bytes asked for.
    #[error("read {}: file ends inside {bytes} bytes at offset {offset}", path.display())]
    EndOfFile {
        /// The file read.
        path: PathBuf,
        /// Offset in the file, in bytes.
        offset: u64,
        /// Length, in bytes.
        bytes: usize,
    },
    /// io_uring was demanded by the configuration and this host does not allow it.
    #[error("io_uring is not available here: {source}")]
    RingUnavailable {
        /// What `io_uring_setup` said.
        source: std::io::Error,
    },
    /// An earlier write or sync failed; the ring takes no work after that.
    #[error("an earlier write or sync of this log failed; it takes no more work")]
    RingFailed,
}

impl FileError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { operation, path: path.to_path_buf(), source }
    }

    /// True when the file system had no room left.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}
