//! Receipts with their proofs in a file, for verification by anyone who holds the genesis.
//!
//! ```text
//! size u32 little-endian, then as many bytes of a canonical ReceiptProof; and so on to the end
//! ```

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hufu_network::limits::RECEIPT_PROOF_SIZE_MAX;
use hufu_types::ReceiptProof;
use hufu_types::codec::{DecodeError, index};

/// Why receipts cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptFileError {
    /// The file system is at fault.
    #[error("receipts in {}: {cause}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A receipt came without the proof that was asked for.
    #[error("receipt {number} came without its proof")]
    ProofMissing {
        /// Which one, from 1.
        number: u64,
    },
    /// The file holds a size no receipt has.
    #[error("receipt {number}: size {found} bytes, at most {RECEIPT_PROOF_SIZE_MAX} are allowed")]
    Size {
        /// Which one, from 1.
        number: u64,
        /// The size.
        found: u32,
    },
    /// A receipt of the file is not canonical.
    #[error("receipt {number}: {cause}")]
    Decode {
        /// Which one, from 1.
        number: u64,
        /// What is not canonical.
        cause: DecodeError,
    },
}

/// A file of receipts being written; all connections share it.
#[derive(Debug)]
pub struct ReceiptFile {
    path: PathBuf,
    inner: Mutex<(BufWriter<File>, u64)>,
}

impl ReceiptFile {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// [`ReceiptFileError::Io`].
    pub fn create(path: &Path) -> Result<Self, ReceiptFileError> {
        let created = File::create(path);
        let file =
            created.map_err(|cause| ReceiptFileError::Io { path: path.to_owned(), cause })?;
        let inner = Mutex::new((BufWriter::with_capacity(1 << 18, file), 0));
        Ok(Self { path: path.to_owned(), inner })
    }

    /// Appends one receipt.
    ///
    /// # Errors
    /// [`ReceiptFileError::Io`], [`ReceiptFileError::ProofMissing`] or [`ReceiptFileError::Size`].
    pub fn write(&self, proof: &[u8]) -> Result<(), ReceiptFileError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, count) = &mut *inner;
        let number = *count + 1;
        if proof.is_empty() {
            return Err(ReceiptFileError::ProofMissing { number });
        }
        let size = u32::try_from(proof.len()).unwrap_or(u32::MAX);
        if size > RECEIPT_PROOF_SIZE_MAX {
            return Err(ReceiptFileError::Size { number, found: size });
        }
        let written = file.write_all(&size.to_le_bytes()).and_then(|()| file.write_all(proof));
        written.map_err(|cause| ReceiptFileError::Io { path: self.path.clone(), cause })?;
        *count = number;
        Ok(())
    }

    /// Writes everything out and tells how many receipts there are.
    ///
    /// # Errors
    /// [`ReceiptFileError::Io`].
    pub fn finish(self) -> Result<u64, ReceiptFileError> {
        let (mut file, count) = self.inner.into_inner().unwrap_or_else(PoisonError::into_inner);
        let path = self.path;
        file.flush().map_err(|cause| ReceiptFileError::Io { path, cause })?;
        Ok(count)
    }
}

/// Reads a file of receipts one by one; the first error ends it.
#[derive(Debug)]
pub struct ReceiptReader {
    path: PathBuf,
    file: BufReader<File>,
    count: u64,
    ended: bool,
}

impl ReceiptReader {
    /// Opens a file.
    ///
    /// # Errors
    /// [`ReceiptFileError::Io`].
    pub fn open(path: &Path) -> Result<Self, ReceiptFileError> {
        let opened = File::open(path);
        let file = opened.map_err(|cause| ReceiptFileError::Io { path: path.to_owned(), cause })?;
        let file = BufReader::with_capacity(1 << 18, file);
        Ok(Self { path: path.to_owned(), file, count: 0, ended: false })
    }

    fn read(&mut self) -> Result<Option<ReceiptProof>, ReceiptFileError> {
        let number = self.count + 1;
        let failed = |cause| ReceiptFileError::Io { path: self.path.clone(), cause };
        let mut size = [0; 4];
        let first = self.file.read(&mut size).map_err(failed)?;
        if first == 0 {
            return Ok(None);
        }
        let rest = size.get_mut(first..).unwrap_or_default();
        self.file.read_exact(rest).map_err(failed)?;
        let found = u32::from_le_bytes(size);
        if found > RECEIPT_PROOF_SIZE_MAX {
            return Err(ReceiptFileError::Size { number, found });
        }
        let mut bytes = vec![0; index(found)];
        self.file.read_exact(&mut bytes).map_err(failed)?;
        self.count = number;
        let proof = ReceiptProof::parse(&bytes);
        proof.map(Some).map_err(|cause| ReceiptFileError::Decode { number, cause })
    }
}

impl Iterator for ReceiptReader {
    type Item = Result<ReceiptProof, ReceiptFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_framed_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipts");
        let file = ReceiptFile::create(&path).unwrap();
        file.write(b"abc").unwrap();
        file.write(b"de").unwrap();
        assert!(matches!(file.write(b""), Err(ReceiptFileError::ProofMissing { number: 3 })));
        let large = vec![0; index(RECEIPT_PROOF_SIZE_MAX) + 1];
        assert!(matches!(file.write(&large), Err(ReceiptFileError::Size { number: 3, .. })));
        assert_eq!(file.finish().unwrap(), 2);
        assert_eq!(std::fs::read(&path).unwrap(), b"\x03\0\0\0abc\x02\0\0\0de");
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipts");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            ReceiptReader::open(&path).unwrap().collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(read(b"").unwrap(), []);
        assert!(matches!(read(b"\x03\0"), Err(ReceiptFileError::Io { .. })));
        assert!(matches!(read(b"\x03\0\0\0ab"), Err(ReceiptFileError::Io { .. })));
        assert!(matches!(read(b"\x03\0\0\0abc"), Err(ReceiptFileError::Decode { number: 1, .. })));
        assert!(matches!(read(b"\xff\xff\xff\xff"), Err(ReceiptFileError::Size { number: 1, .. })));
        let absent = folder.path().join("absent");
        assert!(matches!(ReceiptReader::open(&absent), Err(ReceiptFileError::Io { .. })));
    }
}
