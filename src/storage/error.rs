//! Everything that can go wrong on this host's disk. Each of these is fatal for the node.

use std::path::PathBuf;

use hufu_runtime::file::FileError;

use crate::block_log::Damage;

/// Whose fault an error is, in the words of all crates of hufu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The machine, its disk, or what an operator did to the data folder.
    Host,
    /// hufu itself, or the code that calls this crate.
    Bug,
}

/// What was being done when an error appeared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Opening or recovering.
    Open,
    /// Reading.
    Read,
    /// Making something durable.
    Write,
}

/// An error of the logs, the state store or the data folder.
///
/// None of them may be retried: the tile that meets one reports it and the process ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no room for the next segment. Everything acknowledged is safe.
    #[error(
        "disk full: segment {segment} needs {needed_bytes} bytes in {}, {available_bytes} free; \
         free space and start again", folder.display()
    )]
    DiskFull {
        /// The segment that could not be prepared.
        segment: u32,
        /// Its size in bytes.
        needed_bytes: u64,
        /// The folder of the log.
        folder: PathBuf,
        /// Bytes an unprivileged process may still write there.
        available_bytes: u64,
    },
    /// Bytes that were acknowledged as durable are not what was written.
    #[error("log {} is damaged: segment {segment} offset {offset}: {damage}", folder.display())]
    Corrupted {
        /// The folder of the log.
        folder: PathBuf,
        /// The segment with the damage.
        segment: u32,
        /// Offset of the damaged group or header in the segment, in bytes.
        offset: u64,
        /// What is wrong there.
        damage: Damage,
    },
    /// The folder belongs to another chain.
    #[error("{} belongs to chain {found}, expected {expected}", path.display())]
    OtherChain {
        /// The file that says so.
        path: PathBuf,
        /// The chain found, in hexadecimal.
        found: String,
        /// The chain expected, in hexadecimal.
        expected: String,
    },
    /// The folder belongs to another node.
    #[error("{} belongs to node {found}, expected {expected}", path.display())]
    OtherNode {
        /// The file that says so.
        path: PathBuf,
        /// The address found, in hexadecimal.
        found: String,
        /// The address expected, in hexadecimal.
        expected: String,
    },
    /// The folder was written in a format this build does not read.
    #[error("{} has format version {found}, this build reads {expected}", path.display())]
    OtherVersion {
        /// The file that says so.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The version this build reads and writes.
        expected: u32,
    },
    /// It is encrypted, and nobody has given a data key.
    #[error(
        "{} is encrypted with data key {found:016x} and no data key is given; name its key file",
        path.display()
    )]
    KeyMissing {
        /// The file or folder.
        path: PathBuf,
        /// The key it names.
        found: u64,
    },
    /// It is encrypted with another data key than those at hand.
    #[error(
        "{} is encrypted with data key {found:016x}, the key file has {known}; put the key file of \
         this data folder back",
        path.display()
    )]
    KeyUnknown {
        /// The file or folder.
        path: PathBuf,
        /// The key it names.
        found: u64,
        /// The keys there are.
        known: String,
    },
    /// It is stored in clear, and encryption is asked for.
    #[error(
        "{} is stored in clear, and encryption is asked for; begin with an empty data folder, or \
         set storage.encryption to \"none\"",
        path.display()
    )]
    NotEncrypted {
        /// The file or folder.
        path: PathBuf,
    },
    /// The identity file is not one, or was damaged.
    #[error("{} is not an identity file or is damaged: {reason}", path.display())]
    IdentityDamaged {
        /// The identity file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The folder holds data but no identity.
    #[error("{} holds data but no identity file; it is not a data folder of hufu", path.display())]
    IdentityMissing {
        /// The data folder.
        path: PathBuf,
    },
    /// Another process has the data folder open.
    #[error("{} is locked by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The state store refused an operation.
    #[error("state store {operation}: {cause}")]
    Database {
        /// What was asked, for example `commit`.
        operation: &'static str,
        /// What the database said.
        cause: String,
    },
    /// A value of the state store is not what was written.
    #[error("state store value is damaged: family {family} key 0x{key}")]
    ValueDamaged {
        /// Name of the family.
        family: &'static str,
        /// The key, in hexadecimal.
        key: String,
    },
    /// An option is outside its range.
    #[error("option {key} = {value}: {rule}")]
    Option {
        /// Name of the option.
        key: &'static str,
        /// The value given.
        value: u64,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A record is longer than the log was opened for.
    #[error("record of {bytes} bytes, at most {bytes_max} fit")]
    RecordTooLong {
        /// Length of the record.
        bytes: u64,
        /// Longest record, from the options.
        bytes_max: u32,
    },
    /// The position given does not name a durable record of this log.
    #[error("no durable record at segment {segment} offset {offset} sequence {sequence}")]
    NoSuchRecord {
        /// Segment asked for.
        segment: u32,
        /// Offset asked for, in bytes.
        offset: u64,
        /// Group sequence asked for.
        sequence: u64,
    },
    /// An earlier error stopped this log; it takes nothing more.
    #[error("the log in {} stopped after an earlier error", folder.display())]
    Stopped {
        /// The folder of the log.
        folder: PathBuf,
    },
    /// The operating system gave no entropy for the salt of a new log.
    #[error(transparent)]
    Entropy(#[from] hufu_crypto::Error),
}

impl Error {
    /// Whose fault this is.
    #[must_use]
    pub fn whose(&self) -> Whose {
        match self {
            Self::Option { .. } | Self::RecordTooLong { .. } | Self::NoSuchRecord { .. } => {
                Whose::Bug
            }
            _ => Whose::Host,
        }
    }

    /// Whether doing the same again can help: never without an operator.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        false
    }

    /// What was being done.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::DiskFull { .. } | Self::RecordTooLong { .. } | Self::Stopped { .. } => {
                Stage::Write
            }
            Self::File(error) if error.is_disk_full() => Stage::Write,
            Self::Corrupted { .. } | Self::NoSuchRecord { .. } | Self::ValueDamaged { .. } => {
                Stage::Read
            }
            Self::Database { operation: "commit" | "flush" | "checkpoint", .. } => Stage::Write,
            Self::Database { operation: "get" | "iterate", .. } => Stage::Read,
            Self::File(FileError::Io { operation: "write" | "fdatasync" | "fsync", .. }) => {
                Stage::Write
            }
            Self::File(FileError::Io { operation: "read", .. }) => Stage::Read,
            _ => Stage::Open,
        }
    }
}
