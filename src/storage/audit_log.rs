//! The audit log: who did what to this node, in a chain that shows any later change.
//!
//! ```text
//! {"sequence":7,"unix_nanos":...,"actor":"sign","action":"key.used","subject":"0x...",
//!  "outcome":"done","details":{"prevotes":12,...},"durable":6,"previous":"<digest of 6>",
//!  "digest":"<of this>"}
//! ```
//!
//! A record is one line of JSON in one encoding, so that an auditor reads it with any tool and a
//! second spelling of the same record is refused. Its digest is SM3 over the chain's domain and
//! every byte before the digest; the next record repeats it. From time to time a **seal** signs the
//! chain so far: records under a seal cannot be changed, left out or put elsewhere by anybody
//! without the node's audit key, not even by the host's administrator. What follows the last seal
//! is protected by the chain alone, and cutting the file behind a seal shows only to who knows a
//! later one: ship seals away (DB4403/T 5.2, 10.2).
//!
//! Files of at most [`FILE_BYTES_MAX`] follow each other in one folder, `audit-00000001.jsonl` and
//! so on; the chain runs through all of them, and the first record of each says whose it is. An
//! open looks at the last file alone, [`verify`] at all of them.
//!
//! **After a crash**: a record says how many records before it were durable when it was written,
//! and no more than [`UNSYNCED_BYTES_MAX`] are ever written without a sync. So whatever is wrong
//! at the end, and nothing later proves that it was ever durable, is what a power cut leaves
//! behind: it is cut off, and a record says how many bytes it had. Anything else is damage.
//!
//! Owned by one thread of one process, which a lock sees to. Nothing secret is ever handed in here,
//! and nothing here looks for it.

mod record;
#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};

use hufu_crypto::{Digest, IDENTITY_DEFAULT, Provider, PublicKey, Signature, Signer};
use hufu_crypto::{Verdict, VerifyItem, identity_digest, message_digest};
use hufu_runtime::clock::UnixNanos;
use hufu_runtime::file::{AppendFile, DirectIo, FileError, FileSystem};
use hufu_runtime::process::{FileLock, LockError, lock_file};

pub use record::{Detail, Event, Outcome, Record, RecordFault};
pub use verify::{Seals, Verified, verify};

/// Bytes of one file at most; the next record begins another.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of one record at most, line end included.
pub const RECORD_BYTES_MAX: usize = 8 << 10;

/// Bytes of records that are written and not synced, at most: more is never lost by a power cut,
/// and a tail that is longer is none.
pub const UNSYNCED_BYTES_MAX: u64 = 64 << 10;

const _: () = assert!(
    8 * RECORD_BYTES_MAX as u64 <= UNSYNCED_BYTES_MAX && UNSYNCED_BYTES_MAX < FILE_BYTES_MAX,
    "several records go to the disk together, and all of them are in one file"
);

/// Held by whoever writes the log.
const LOCK: &str = "lock";

/// Actions that the log itself writes: the first record of the first file and of every other one,
/// and the others.
const BEGIN: &str = "audit.begin";
const CONTINUE: &str = "audit.continue";
const SEAL: &str = "audit.seal";
const RECOVER: &str = "audit.recover";
const SELF: &str = "audit";

/// Why the audit log cannot be written or is not what was written. Each is fatal for a node.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The operating system refused a file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no room for the next record. Everything acknowledged is safe.
    #[error("disk full: no room in {} for an audit record; free space", folder.display())]
    DiskFull {
        /// The folder of the log.
        folder: PathBuf,
    },
    /// A record is not what was written, or one is missing.
    #[error("{}, line {line}: {fault}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        fault: RecordFault,
    },
    /// A file of the sequence is missing.
    #[error("{} is missing: the audit log has a hole", path.display())]
    FileMissing {
        /// The file.
        path: PathBuf,
    },
    /// The chain belongs to another node.
    #[error("{} was begun for {found}, expected {expected}", path.display())]
    OtherOwner {
        /// The first file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// Who opened it.
        expected: String,
    },
    /// A record that does not fit into a line.
    #[error("audit record of {bytes} bytes for {action}, at most {RECORD_BYTES_MAX}")]
    Oversized {
        /// What it was about.
        action: String,
        /// Its size.
        bytes: usize,
    },
    /// The seal could not be signed.
    #[error("audit log cannot be sealed: {0}")]
    Seal(#[source] hufu_crypto::Error),
    /// Another process writes it.
    #[error("audit log {} is being written by another process", folder.display())]
    Locked {
        /// Its folder.
        folder: PathBuf,
    },
    /// An earlier write failed: what is on the disk is not known any more.
    #[error("audit log {} takes no more records after an error", folder.display())]
    Stopped {
        /// Its folder.
        folder: PathBuf,
    },
}

/// Whose an audit log is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// This one's and nobody else's: a node's, by its address.
    Only(&'a str),
    /// Whoever began it; this one's if nobody did.
    Anyone(&'a str),
}

impl Owner<'_> {
    const fn name(&self) -> &str {
        match self {
            Self::Only(name) | Self::Anyone(name) => name,
        }
    }
}

/// The audit log of one node, open for writing.
pub struct AuditLog {
    folder: PathBuf,
    system: FileSystem,
    owner: String,
    file: AppendFile,
    file_number: u32,
    sequence: u64,
    previous: Digest,
    /// The last record that is known to be on the disk.
    durable: u64,
    unsealed_count: u64,
    unsynced_bytes: u64,
    torn_bytes: u64,
    bytes_written: u64,
    /// Lines that are not in the file yet.
    pending: Vec<u8>,
    has_failed: bool,
    _lock: Option<FileLock>,
}

impl AuditLog {
    /// Opens the log in `folder`, which is made if it is not there, or begins it.
    ///
    /// Every record of the last file is checked. An end that was being written when the machine
    /// stopped is cut off, and a record says how many bytes it had.
    ///
    /// # Errors
    /// If the folder cannot be read or written, if another process writes it, or if it holds
    /// anything but an unbroken chain of the owner.
    pub fn open(folder: &Path, owner: Owner<'_>, now: UnixNanos) -> Result<Self, AuditError> {
        let system = FileSystem::new(DirectIo::Never);
        system.make_folder(folder)?;
        let lock = lock_file(&folder.join(LOCK)).map_err(|error| match error {
            LockError::Held { .. } => AuditError::Locked { folder: folder.to_owned() },
            LockError::Host { path, error: source } => {
                AuditError::File(FileError::Io { operation: "lock", path, source })
            }
        })?;
        let mut log = Self::open_on(&system, folder, owner, now)?;
        log._lock = Some(lock);
        Ok(log)
    }

    fn open_on(
        system: &FileSystem,
        folder: &Path,
        owner: Owner<'_>,
        now: UnixNanos,
    ) -> Result<Self, AuditError> {
        system.make_folder(folder)?;
        let found = verify::scan_last(system, folder)?;
        let path = file_path(folder, found.last_file);
        if let (Owner::Only(expected), Some(other)) = (owner, &found.owner)
            && other != expected
        {
            let (found, expected) = (other.clone(), expected.to_owned());
            return Err(AuditError::OtherOwner { path, found, expected });
        }
        let mut file = AppendFile::open(system, &path)?;
        system.sync_dir(folder)?;
        if found.torn_bytes > 0 {
            file.cut(found.last_file_bytes)?;
        } else {
            // A process that was killed may have left records in memory alone.
            file.sync_data()?;
        }
        assert!(file.bytes() == found.last_file_bytes, "it ends with its last whole record");
        let mut log = Self {
            folder: folder.to_owned(),
            system: system.clone(),
            owner: found.owner.unwrap_or_else(|| owner.name().to_owned()),
            file,
            file_number: found.last_file,
            sequence: found.records_count,
            previous: found.last,
            durable: found.records_count,
            unsealed_count: found.unsealed_count,
            unsynced_bytes: 0,
            torn_bytes: found.torn_bytes,
            bytes_written: 0,
            pending: Vec::with_capacity(RECORD_BYTES_MAX),
            has_failed: false,
            _lock: None,
        };
        log.recover(now)?;
        Ok(log)
    }

    /// Writes what a log says of itself when it is opened.
    fn recover(&mut self, now: UnixNanos) -> Result<(), AuditError> {
        if self.file.bytes() == 0 {
            self.write_head(now)?;
        }
        if self.torn_bytes > 0 {
            let (owner, bytes) = (self.owner.clone(), self.torn_bytes);
            self.write(now, &Event::new(SELF, RECOVER, owner).with("torn_bytes", bytes))?;
        }
        self.sync()
    }

    /// Appends a record and gives its sequence number; it is durable after [`AuditLog::sync`].
    ///
    /// # Errors
    /// As [`AuditLog::sync`], and [`AuditError::Oversized`].
    pub fn append(&mut self, now: UnixNanos, event: &Event<'_>) -> Result<u64, AuditError> {
        assert!(event.actor != SELF, "the log's own records are the log's to write");
        self.write(now, event)?;
        Ok(self.sequence)
    }

    /// Makes all records appended so far durable.
    ///
    /// # Errors
    /// If the file cannot be written: the log takes no more records.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        self.flush()?;
        if self.durable == self.sequence {
            return Ok(());
        }
        self.has_failed = true;
        self.file.sync_data().map_err(|error| self.failed(error))?;
        self.has_failed = false;
        self.durable = self.sequence;
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// Records in the log; the number of the last.
    #[must_use]
    pub const fn records_count(&self) -> u64 {
        self.sequence
    }

    /// Digest of the last record.
    #[must_use]
    pub const fn last(&self) -> &Digest {
        &self.previous
    }

    /// Records that no seal covers yet, count.
    #[must_use]
    pub const fn unsealed_count(&self) -> u64 {
        self.unsealed_count
    }

    /// Bytes that were cut off when the log was opened.
    #[must_use]
    pub const fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Bytes written since the log was opened.
    #[must_use]
    pub const fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    /// Signs the chain so far and makes it durable, with the seal.
    ///
    /// # Errors
    /// [`AuditError::Seal`] if the signer fails: then no seal is written. Else as
    /// [`AuditLog::sync`].
    pub fn seal(&mut self, now: UnixNanos, signer: &dyn Signer) -> Result<(), AuditError> {
        // What is sealed is durable before the seal is: a seal never outlives what it covers.
        self.sync()?;
        let digest = seal_digest(self.sequence, &self.previous, signer.public_key());
        let signature = signer.sign(&digest).map_err(AuditError::Seal)?;
        let (key, signature) = (hex(&signer.public_key().0), hex(&signature.0));
        let event = Event::new(SELF, SEAL, "log").with("key", key).with("signature", signature);
        self.write(now, &event)?;
        self.sync()?;
        self.unsealed_count = 0;
        Ok(())
    }

    fn write(&mut self, now: UnixNanos, event: &Event<'_>) -> Result<(), AuditError> {
        // With the longest numbers: what fits like this fits wherever it comes to stand.
        let bytes = record::encode(u64::MAX, now, event, u64::MAX, &self.previous).0.len();
        if bytes > RECORD_BYTES_MAX {
            let action = event.action.to_owned();
            return Err(AuditError::Oversized { action, bytes });
        }
        let end = self.file.bytes() + length(&self.pending);
        if end > 0 && end + u64::try_from(bytes).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
            self.begin_file(now)?;
        }
        self.write_line(now, event)
    }

    fn write_line(&mut self, now: UnixNanos, event: &Event<'_>) -> Result<(), AuditError> {
        if self.unsynced_bytes + length(&self.pending) + RECORD_ROOM > UNSYNCED_BYTES_MAX {
            self.sync()?;
        }
        let sequence = self.sequence + 1;
        let (line, digest) = record::encode(sequence, now, event, self.durable, &self.previous);
        self.pending.extend_from_slice(line.as_bytes());
        self.bytes_written += length(line.as_bytes());
        self.sequence = sequence;
        self.previous = digest;
        self.unsealed_count += 1;
        if self.pending.len() >= RECORD_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    /// The first record of a file says whose it is.
    fn write_head(&mut self, now: UnixNanos) -> Result<(), AuditError> {
        let action = if self.sequence == 0 { BEGIN } else { CONTINUE };
        let owner = self.owner.clone();
        self.write_line(now, &Event::new(SELF, action, owner))
    }

    fn flush(&mut self) -> Result<(), AuditError> {
        if self.has_failed {
            return Err(AuditError::Stopped { folder: self.folder.clone() });
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        self.has_failed = true;
        let appended = self.file.append(&self.pending);
        appended.map_err(|error| self.failed(error))?;
        self.has_failed = false;
        self.unsynced_bytes += length(&self.pending);
        self.pending.clear();
        Ok(())
    }

    fn failed(&self, error: FileError) -> AuditError {
        if error.is_disk_full() {
            return AuditError::DiskFull { folder: self.folder.clone() };
        }
        AuditError::File(error)
    }

    /// The file before is durable before the next has a name.
    fn begin_file(&mut self, now: UnixNanos) -> Result<(), AuditError> {
        self.sync()?;
        let number = self.file_number + 1;
        self.has_failed = true;
        self.file = AppendFile::open(&self.system, &file_path(&self.folder, number))?;
        self.system.sync_dir(&self.folder)?;
        self.has_failed = false;
        self.file_number = number;
        assert!(self.file.bytes() == 0, "a file that nobody wrote before");
        self.write_head(now)
    }
}

/// Room that is kept for one record.
const RECORD_ROOM: u64 = RECORD_BYTES_MAX as u64;

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// What a seal signs: the number and digest of the last record before it, under a domain of its
/// own and the default identity.
fn seal_digest(sequence: u64, last: &Digest, key: &PublicKey) -> Digest {
    let mut message = b"hufu audit seal 1\n".to_vec();
    message.extend_from_slice(&sequence.to_be_bytes());
    message.extend_from_slice(&last.0);
    message_digest(&identity_digest(IDENTITY_DEFAULT, key), &message)
}

/// Whether `signature` is a seal of `key` over the record `sequence` with digest `last`.
fn is_seal(
    provider: &Provider,
    key: &PublicKey,
    signature: &Signature,
    sequence: u64,
    last: &Digest,
) -> bool {
    let digest = seal_digest(sequence, last, key);
    let verdict = provider.verifier.verify(VerifyItem { key, digest, signature });
    verdict == Verdict::Valid
}

fn file_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("audit-{number:08}.jsonl"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}
