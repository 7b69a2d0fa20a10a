//! Reading a chain from its first record to its last.

use std::path::Path;

use hufu_crypto::{Digest, Provider, PublicKey, Signature};
use hufu_runtime::file::{AppendFile, DirectIo, FileError, FileSystem};

use super::record::{Record, RecordFault, decode};
use super::{AuditError, BEGIN, RECORD_BYTES_MAX, SEAL, SELF, file_path, next_line};

/// How seals are checked.
#[derive(Clone, Copy)]
pub struct Seals<'a> {
    /// What verifies.
    pub provider: &'a Provider,
    /// The audit keys of the node, one of which every seal must be of.
    pub keys: &'a [PublicKey],
}

/// An unbroken chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whose log it is; `None` if there is no record.
    pub owner: Option<String>,
    /// Records, count; the number of the last.
    pub records_count: u64,
    /// Seals among them, count.
    pub seals_count: u64,
    /// Records behind the last seal, count: only the chain protects them.
    pub unsealed_count: u64,
    /// Digest of the last record, for whoever keeps it elsewhere.
    pub last: Digest,
    /// Bytes behind the last whole record: it was being written when the machine stopped.
    pub torn_bytes: u64,
    /// Files, count.
    pub(super) files_count: u32,
    /// Bytes of whole records in the last.
    pub(super) last_file_bytes: u64,
}

/// Checks every record and seal of the log in `folder`, and hands each record to `visit`.
///
/// # Errors
/// The first thing that is wrong, with file and line.
pub fn verify(
    folder: &Path,
    seals: Seals<'_>,
    mut visit: impl FnMut(&Record),
) -> Result<Verified, AuditError> {
    scan_with(folder, Some(seals), &mut visit)
}

/// As [`verify`]; without keys, a seal's signature is not looked at.
pub(super) fn scan(folder: &Path, seals: Option<Seals<'_>>) -> Result<Verified, AuditError> {
    scan_with(folder, seals, &mut |_| {})
}

fn scan_with(
    folder: &Path,
    seals: Option<Seals<'_>>,
    visit: &mut dyn FnMut(&Record),
) -> Result<Verified, AuditError> {
    let files_count = count_files(folder)?;
    let mut found = Verified {
        owner: None,
        records_count: 0,
        seals_count: 0,
        unsealed_count: 0,
        last: Digest::ZERO,
        torn_bytes: 0,
        files_count,
        last_file_bytes: 0,
    };
    for number in 1..=files_count {
        scan_file(folder, number, seals, &mut found, visit)?;
    }
    Ok(found)
}

/// Files follow each other from 1 on without a hole; other names are not ours to judge.
fn count_files(folder: &Path) -> Result<u32, AuditError> {
    let names = FileSystem::new(DirectIo::Never).names(folder)?;
    let numbers = names.iter().filter_map(|name| {
        let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
        (digits.len() == 8).then(|| digits.parse::<u32>().ok())?
    });
    let numbers: Vec<u32> = numbers.collect();
    let count = numbers.iter().copied().max().unwrap_or(0);
    match (1..=count).find(|number| !numbers.contains(number)) {
        Some(missing) => Err(AuditError::FileMissing { path: file_path(folder, missing) }),
        None => Ok(count),
    }
}

fn scan_file(
    folder: &Path,
    number: u32,
    seals: Option<Seals<'_>>,
    found: &mut Verified,
    visit: &mut dyn FnMut(&Record),
) -> Result<(), AuditError> {
    let path = file_path(folder, number);
    let mut reader = AppendFile::read(&path)?;
    let mut line = Vec::with_capacity(RECORD_BYTES_MAX);
    let mut line_number = 0;
    found.last_file_bytes = 0;
    loop {
        let read = next_line(&mut reader, &mut line).map_err(|source| {
            AuditError::File(FileError::Io { operation: "read", path: path.clone(), source })
        })?;
        let Some(is_whole) = read else { return Ok(()) };
        line_number += 1;
        let broken = |fault| AuditError::Broken { path: path.clone(), line: line_number, fault };
        let bytes = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if line.len() > RECORD_BYTES_MAX {
            return Err(broken(RecordFault::TooLong));
        }
        if !is_whole {
            // Only what was written last can be torn, and a torn record can be no whole one.
            if number != found.files_count {
                return Err(broken(RecordFault::CutOff));
            }
            found.torn_bytes = bytes;
            return Ok(());
        }
        let (record, digest) = decode(&line, found.records_count, &found.last).map_err(broken)?;
        check(&record, seals, found).map_err(broken)?;
        visit(&record);
        found.records_count = record.sequence;
        found.last = digest;
        found.last_file_bytes += bytes;
    }
}

/// What the log's own records mean.
fn check(
    record: &Record,
    seals: Option<Seals<'_>>,
    found: &mut Verified,
) -> Result<(), RecordFault> {
    let is_own = record.actor == SELF;
    let begins = is_own && record.action == BEGIN;
    if begins != (record.sequence == 1) {
        return Err(RecordFault::Form);
    }
    if begins {
        found.owner = Some(record.subject.clone());
    }
    if is_own && record.action == SEAL {
        if let Some(seals) = seals {
            check_seal(record, seals, found)?;
        }
        found.seals_count += 1;
        found.unsealed_count = 0;
    } else {
        found.unsealed_count += 1;
    }
    Ok(())
}

fn check_seal(record: &Record, seals: Seals<'_>, found: &Verified) -> Result<(), RecordFault> {
    let bytes = |name: &str| -> Option<[u8; 64]> {
        let text = record.text(name)?;
        let (high, low) = text.split_at_checked(64)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&Digest::from_hex(high)?.0);
        bytes[32..].copy_from_slice(&Digest::from_hex(low)?.0);
        Some(bytes)
    };
    let key = PublicKey(bytes("key").ok_or(RecordFault::Seal("it names no key"))?);
    let signature = Signature(bytes("signature").ok_or(RecordFault::Seal("it has no signature"))?);
    if !seals.keys.contains(&key) {
        return Err(RecordFault::Seal("its key is none of the node's audit keys"));
    }
    let (sequence, last) = (found.records_count, &found.last);
    if !super::is_seal(seals.provider, &key, &signature, sequence, last) {
        return Err(RecordFault::Seal("its signature is wrong"));
    }
    Ok(())
}
