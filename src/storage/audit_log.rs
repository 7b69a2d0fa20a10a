//! The audit log: who did what to this node, in a chain that shows any later change.
//!
//! ```text
//! {"sequence":7,"unix_nanos":...,"actor":"node","action":"key.used","subject":"vote key",
//!  "outcome":"done","details":{"count":12,...},"previous":"<digest of 6>","digest":"<of this>"}
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
//! so on; the chain runs through all of them. Owned by one thread. Nothing secret is ever handed in
//! here, and nothing here looks for it.

mod record;
#[cfg(test)]
mod tests;
mod verify;

use std::io::BufRead;
use std::path::{Path, PathBuf};

use hufu_crypto::{Digest, IDENTITY_DEFAULT, Provider, PublicKey, Signature, Signer};
use hufu_crypto::{Verdict, VerifyItem, identity_digest, message_digest};
use hufu_runtime::clock::UnixNanos;
use hufu_runtime::file::{AppendFile, DirectIo, FileError, FileSystem};

pub use record::{Detail, Event, Outcome, Record, RecordFault};
pub use verify::{Seals, Verified, verify};

/// Bytes of one file at most; the next record begins another.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Bytes of one record at most, line end included.
pub const RECORD_BYTES_MAX: usize = 8 << 10;

/// Actions that the log itself writes.
const BEGIN: &str = "audit.begin";
const SEAL: &str = "audit.seal";
const RECOVER: &str = "audit.recover";
const SELF: &str = "audit";

/// Why the audit log cannot be written or is not what was written. Each is fatal for a node.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The operating system refused a file operation.
    #[error(transparent)]
    File(#[from] FileError),
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
}

/// The audit log of one node, open for writing.
pub struct AuditLog {
    folder: PathBuf,
    file: AppendFile,
    file_number: u32,
    file_bytes: u64,
    sequence: u64,
    previous: Digest,
    unsealed_count: u64,
    /// Lines that are not in the file yet.
    pending: Vec<u8>,
}

impl AuditLog {
    /// Opens the log in `folder`, which exists, or begins it for `owner` (the node's address).
    ///
    /// Every record that is there is checked. A last line without its end was being written when
    /// the machine stopped: it is cut off, and a record says how many bytes it had.
    ///
    /// # Errors
    /// If the folder cannot be read or written, or holds anything but an unbroken chain of `owner`.
    pub fn open(folder: &Path, owner: &str, now: UnixNanos) -> Result<Self, AuditError> {
        let found = verify::scan(folder, None)?;
        let number = found.files_count.max(1);
        let path = file_path(folder, number);
        let file = AppendFile::open(&path)?;
        let system = FileSystem::new(DirectIo::Never);
        system.sync_dir(folder)?;
        let mut log = Self {
            folder: folder.to_owned(),
            file,
            file_number: number,
            file_bytes: found.last_file_bytes,
            sequence: found.records_count,
            previous: found.last,
            unsealed_count: found.unsealed_count,
            pending: Vec::with_capacity(RECORD_BYTES_MAX),
        };
        if found.torn_bytes > 0 {
            log.file.cut(found.last_file_bytes)?;
        }
        match found.owner {
            None => log.write(now, &Event::new(SELF, BEGIN, owner))?,
            Some(found) if found == owner => {}
            Some(found) => {
                let path = file_path(folder, 1);
                return Err(AuditError::OtherOwner { path, found, expected: owner.to_owned() });
            }
        }
        if found.torn_bytes > 0 {
            let cut = Event::new(SELF, RECOVER, owner).with("torn_bytes", found.torn_bytes);
            log.write(now, &cut)?;
        }
        log.sync()?;
        Ok(log)
    }

    /// Appends a record and gives its sequence number; it is durable after [`AuditLog::sync`].
    ///
    /// # Errors
    /// As [`AuditLog::sync`], and [`AuditError::Oversized`].
    pub fn append(&mut self, now: UnixNanos, event: &Event<'_>) -> Result<u64, AuditError> {
        self.write(now, event)?;
        Ok(self.sequence)
    }

    /// Makes all records appended so far durable.
    ///
    /// # Errors
    /// If the file cannot be written: the log must not be used again.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        self.flush()?;
        self.file.sync_data()?;
        Ok(())
    }

    /// Records that no seal covers yet, count.
    #[must_use]
    pub const fn unsealed_count(&self) -> u64 {
        self.unsealed_count
    }

    /// Signs the chain so far and makes it durable, with the seal.
    ///
    /// # Errors
    /// [`AuditError::Seal`] if the signer fails: then nothing is written. Else as
    /// [`AuditLog::sync`].
    pub fn seal(&mut self, now: UnixNanos, signer: &dyn Signer) -> Result<(), AuditError> {
        let digest = seal_digest(self.sequence, &self.previous, signer.public_key());
        let signature = signer.sign(&digest).map_err(AuditError::Seal)?;
        let (key, signature) = (hex(&signer.public_key().0), hex(&signature.0));
        let event = Event::new(SELF, SEAL, "log").with("key", &*key).with("signature", &*signature);
        self.write(now, &event)?;
        self.sync()?;
        self.unsealed_count = 0;
        Ok(())
    }

    fn write(&mut self, now: UnixNanos, event: &Event<'_>) -> Result<(), AuditError> {
        let sequence = self.sequence + 1;
        let (line, digest) = record::encode(sequence, now, event, &self.previous);
        if line.len() > RECORD_BYTES_MAX {
            let action = event.action.to_owned();
            return Err(AuditError::Oversized { action, bytes: line.len() });
        }
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.file_bytes + bytes > FILE_BYTES_MAX {
            self.begin_file()?;
        }
        self.pending.extend_from_slice(line.as_bytes());
        self.file_bytes += bytes;
        self.sequence = sequence;
        self.previous = digest;
        self.unsealed_count += 1;
        if self.pending.len() >= RECORD_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), AuditError> {
        self.file.append(&self.pending)?;
        self.pending.clear();
        Ok(())
    }

    /// The file before is durable before the next has a name.
    fn begin_file(&mut self) -> Result<(), AuditError> {
        self.sync()?;
        self.file_number += 1;
        self.file = AppendFile::open(&file_path(&self.folder, self.file_number))?;
        FileSystem::new(DirectIo::Never).sync_dir(&self.folder)?;
        self.file_bytes = 0;
        Ok(())
    }
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

/// The next line with its end; `None` at the end of the file.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Option<bool>> {
    use std::io::Read as _;
    line.clear();
    let most = u64::try_from(RECORD_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    if reader.by_ref().take(most).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.last() == Some(&b'\n')))
}
