//! Reading a chain from its first record to its last.

use std::io::{BufRead, Read};
use std::path::Path;

use hufu_crypto::{Digest, Provider, PublicKey, Signature};
use hufu_runtime::file::{AppendFile, DirectIo, FileError, FileSystem};

use super::record::{Record, RecordFault, before, decode, parse};
use super::{AuditError, BEGIN, CONTINUE, RECORD_BYTES_MAX, SEAL, SELF, UNSYNCED_BYTES_MAX};
use super::{file_path, length};

/// What every record begins with.
const RECORD_START: &[u8] = b"{\"sequence\":";

/// How seals are checked.
#[derive(Clone, Copy)]
pub struct Seals<'a> {
    /// What verifies.
    pub provider: &'a Provider,
    /// The audit keys of the node, one of which every seal must be of. Without any, each seal must
    /// be of the key that it names, which proves nothing about whose that is.
    pub keys: &'a [PublicKey],
}

/// An unbroken chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whose log it is; `None` if there is no record.
    pub owner: Option<String>,
    /// The number of the last record, which is their count if none was left out.
    pub records_count: u64,
    /// The first record looked at: 1 unless older files are elsewhere.
    pub first_record: u64,
    /// Seals among them, count.
    pub seals_count: u64,
    /// The keys that sealed, in the order in which they came.
    pub seal_keys: Vec<PublicKey>,
    /// Records behind the last seal, count: only the chain protects them.
    pub unsealed_count: u64,
    /// Digest of the last record, for whoever keeps it elsewhere.
    pub last: Digest,
    /// Bytes behind the last whole record: they were being written when the machine stopped.
    pub torn_bytes: u64,
    /// Files looked at, count.
    pub files_count: u32,
    /// Number of the last file.
    pub(super) last_file: u32,
    /// Bytes of whole records in the last.
    pub(super) last_file_bytes: u64,
}

impl Verified {
    fn nothing() -> Self {
        Self {
            owner: None,
            records_count: 0,
            first_record: 1,
            seals_count: 0,
            seal_keys: Vec::new(),
            unsealed_count: 0,
            last: Digest::ZERO,
            torn_bytes: 0,
            files_count: 0,
            last_file: 1,
            last_file_bytes: 0,
        }
    }
}

/// Checks every record and seal of the log in `folder`, from the file with the number `first_file`
/// on, and hands each record to `visit`. A node may be writing it: what it adds meanwhile may be
/// looked at or not.
///
/// # Errors
/// The first thing that is wrong, with file and line.
pub fn verify(
    folder: &Path,
    first_file: u32,
    seals: Seals<'_>,
    mut visit: impl FnMut(&Record),
) -> Result<Verified, AuditError> {
    let system = FileSystem::new(DirectIo::Never);
    verify_on(&system, folder, first_file, seals, &mut visit)
}

pub(super) fn verify_on(
    system: &FileSystem,
    folder: &Path,
    first_file: u32,
    seals: Seals<'_>,
    visit: &mut dyn FnMut(&Record),
) -> Result<Verified, AuditError> {
    let Some((_, last)) = files(system, folder, first_file)? else {
        return Ok(Verified::nothing());
    };
    Scan { system, folder, last, seals: Some(seals), visit }.run(first_file)
}

/// The end of the chain, from the last file that has a whole record on. What is older is not looked
/// at, nor are signatures.
pub(super) fn scan_last(system: &FileSystem, folder: &Path) -> Result<Verified, AuditError> {
    let Some((first, last)) = files(system, folder, 0)? else { return Ok(Verified::nothing()) };
    let mut scan = Scan { system, folder, last, seals: None, visit: &mut |_| {} };
    // A file is begun when the one before it is on the disk: at most one has no record yet.
    let from = if last > first && scan.head(last)?.is_none() { last - 1 } else { last };
    scan.run(from)
}

/// The numbers of the first and the last file, which follow each other without a hole. The first is
/// `first_file`, or any where that is 0. Other names are not ours to judge.
fn files(
    system: &FileSystem,
    folder: &Path,
    first_file: u32,
) -> Result<Option<(u32, u32)>, AuditError> {
    let names = system.names(folder)?;
    let numbers = names.iter().filter_map(|name| {
        let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
        (digits.len() == 8).then(|| digits.parse::<u32>().ok())?
    });
    let numbers: Vec<u32> = numbers.filter(|number| *number >= first_file.max(1)).collect();
    let Some(last) = numbers.iter().copied().max() else { return Ok(None) };
    let found = numbers.iter().copied().min().unwrap_or(last);
    let first = if first_file == 0 { found } else { first_file };
    match (first..=last).find(|number| !numbers.contains(number)) {
        Some(missing) => Err(AuditError::FileMissing { path: file_path(folder, missing) }),
        None => Ok(Some((first, last))),
    }
}

/// A line that is no record of the chain.
struct BrokenLine {
    fault: RecordFault,
    line: u64,
}

struct Scan<'a> {
    system: &'a FileSystem,
    folder: &'a Path,
    /// Number of the last file.
    last: u32,
    seals: Option<Seals<'a>>,
    visit: &'a mut dyn FnMut(&Record),
}

impl Scan<'_> {
    fn run(&mut self, from: u32) -> Result<Verified, AuditError> {
        let mut found = Verified::nothing();
        if from > 1 {
            // What came before is believed to the first record that follows it.
            let Some(head) = self.head(from)? else {
                return Err(AuditError::FileMissing { path: file_path(self.folder, from - 1) });
            };
            (found.records_count, found.last) = head;
            found.first_record = found.records_count + 1;
        }
        for number in from..=self.last {
            self.file(number, &mut found)?;
            found.files_count += 1;
        }
        found.last_file = self.last;
        Ok(found)
    }

    /// Number and digest of the record before the first of a file; `None` where that is not whole.
    fn head(&self, number: u32) -> Result<Option<(u64, Digest)>, AuditError> {
        let path = file_path(self.folder, number);
        let mut reader = AppendFile::read(self.system, &path)?;
        let mut line = Vec::new();
        let read = next_line(&mut reader, &mut line).map_err(|source| read_failed(&path, source));
        let is_whole = read?.unwrap_or(false);
        let record = if is_whole { parse(&line).ok() } else { None };
        Ok(record.and_then(|(record, _)| before(&record)))
    }

    fn file(&mut self, number: u32, found: &mut Verified) -> Result<(), AuditError> {
        let path = file_path(self.folder, number);
        let mut reader = AppendFile::read(self.system, &path)?;
        found.last_file_bytes = 0;
        let mut line = Vec::with_capacity(RECORD_BYTES_MAX);
        let broken = self
            .records(&mut reader, &mut line, found)
            .map_err(|source| read_failed(&path, source))?;
        let Some(BrokenLine { fault, line: line_number }) = broken else { return Ok(()) };
        // A power cut makes no whole record: one that is there and does not belong was put there.
        if number == self.last && parse(&line).is_err() {
            let torn = torn_bytes(&mut reader, line, found.records_count);
            if let Some(torn) = torn.map_err(|source| read_failed(&path, source))? {
                found.torn_bytes = torn;
                return Ok(());
            }
        }
        Err(AuditError::Broken { path, line: line_number, fault })
    }

    /// Reads records to the end of the file, or to the first line that is none.
    fn records(
        &mut self,
        reader: &mut impl BufRead,
        line: &mut Vec<u8>,
        found: &mut Verified,
    ) -> std::io::Result<Option<BrokenLine>> {
        let mut line_number = 0;
        while let Some(is_whole) = next_line(reader, line)? {
            line_number += 1;
            let read = if line.len() > RECORD_BYTES_MAX {
                Err(RecordFault::TooLong)
            } else if is_whole {
                decode(line, found.records_count, &found.last)
            } else {
                Err(RecordFault::CutOff)
            };
            let checked = read.and_then(|(record, digest)| {
                check(&record, line_number == 1, self.seals, found)?;
                Ok((record, digest))
            });
            match checked {
                Ok((record, digest)) => {
                    (self.visit)(&record);
                    found.records_count = record.sequence;
                    found.last = digest;
                    found.last_file_bytes += length(line);
                }
                Err(fault) => return Ok(Some(BrokenLine { fault, line: line_number })),
            }
        }
        Ok(None)
    }
}

/// How many bytes there are from `line`, the first that is no record, to the end, if a power cut
/// may have left them: they are no more than may be written at once, and no record among them says
/// that the one which is missing was ever on the disk.
fn torn_bytes(
    reader: &mut impl BufRead,
    mut line: Vec<u8>,
    records_count: u64,
) -> std::io::Result<Option<u64>> {
    reader.by_ref().take(UNSYNCED_BYTES_MAX + 1).read_to_end(&mut line)?;
    if length(&line) > UNSYNCED_BYTES_MAX {
        return Ok(None);
    }
    let proves = |start: usize| {
        let rest = line.get(start..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let record = parse(rest.get(..end).unwrap_or_default());
        record.is_ok_and(|(record, _)| record.durable > records_count)
    };
    let mut starts = line.windows(RECORD_START.len()).enumerate();
    let is_proven = starts.any(|(place, bytes)| bytes == RECORD_START && proves(place));
    Ok((!is_proven).then(|| length(&line)))
}

fn read_failed(path: &Path, source: std::io::Error) -> AuditError {
    AuditError::File(FileError::Io { operation: "read", path: path.to_owned(), source })
}

/// The next line with its end; `None` at the end of the file.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Option<bool>> {
    line.clear();
    let most = u64::try_from(RECORD_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    if reader.by_ref().take(most).read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.last() == Some(&b'\n')))
}

/// What the log's own records mean.
fn check(
    record: &Record,
    is_first_of_file: bool,
    seals: Option<Seals<'_>>,
    found: &mut Verified,
) -> Result<(), RecordFault> {
    let is_own = record.actor == SELF;
    let (begins, goes_on) = (is_own && record.action == BEGIN, is_own && record.action == CONTINUE);
    if begins != (record.sequence == 1) || (begins || goes_on) != is_first_of_file {
        return Err(RecordFault::Form);
    }
    if is_first_of_file {
        let is_same = found.owner.as_ref().is_none_or(|owner| *owner == record.subject);
        if !is_same {
            return Err(RecordFault::Owner);
        }
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

fn check_seal(record: &Record, seals: Seals<'_>, found: &mut Verified) -> Result<(), RecordFault> {
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
    if !seals.keys.is_empty() && !seals.keys.contains(&key) {
        return Err(RecordFault::Seal("its key is none of the node's audit keys"));
    }
    let (sequence, last) = (found.records_count, &found.last);
    if !super::is_seal(seals.provider, &key, &signature, sequence, last) {
        return Err(RecordFault::Seal("its signature is wrong"));
    }
    if !found.seal_keys.contains(&key) {
        found.seal_keys.push(key);
    }
    Ok(())
}
