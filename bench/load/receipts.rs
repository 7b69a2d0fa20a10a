//! Receipts with their proofs in a file, for verification by anyone who holds the genesis.
//!
//! ```text
//! size u32 little-endian, then as many bytes of a canonical ReceiptProof; and so on to the end
//! ```
//!
//! A file of one receipt may be its bytes alone: they begin with their kind and version, which as a
//! size would be more than any receipt has, so the first four bytes tell one from the other.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hufu_network::limits::RECEIPT_PROOF_SIZE_MAX;
use hufu_types::codec::index;

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

/// Reads a file of receipts one by one, as bytes that nobody has looked at; the first error ends
/// it.
#[derive(Debug)]
pub struct ReceiptReader {
    path: PathBuf,
    file: BufReader<File>,
    /// The four bytes that come next.
    ahead: Option<[u8; 4]>,
    count: u64,
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
        let mut reader = Self { path: path.to_owned(), file, ahead: None, count: 0 };
        reader.look_ahead()?;
        Ok(reader)
    }

    /// Whether the file is one receipt alone.
    #[must_use]
    pub fn is_single(&self) -> bool {
        let size = self.ahead.map_or(0, u32::from_le_bytes);
        self.count == 0 && size > RECEIPT_PROOF_SIZE_MAX
    }

    /// Reads the next size; nothing at the end of the file, and an error inside of a size.
    fn look_ahead(&mut self) -> Result<(), ReceiptFileError> {
        let mut size = Vec::with_capacity(4);
        let read = (&mut self.file).take(4).read_to_end(&mut size);
        let whole = match <[u8; 4]>::try_from(size.as_slice()) {
            Ok(size) => Ok(Some(size)),
            Err(_) if size.is_empty() => Ok(None),
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let failed = |cause| ReceiptFileError::Io { path: self.path.clone(), cause };
        self.ahead = read.and(whole).map_err(failed)?;
        Ok(())
    }

    fn read(&mut self, size: [u8; 4]) -> Result<Vec<u8>, ReceiptFileError> {
        let failed = |cause| ReceiptFileError::Io { path: self.path.clone(), cause };
        let (number, found) = (self.count + 1, u32::from_le_bytes(size));
        let mut bytes = Vec::new();
        if self.is_single() {
            bytes.extend(size);
            let most = u64::from(RECEIPT_PROOF_SIZE_MAX);
            (&mut self.file).take(most).read_to_end(&mut bytes).map_err(failed)?;
            self.ahead = None;
        } else if found > RECEIPT_PROOF_SIZE_MAX {
            return Err(ReceiptFileError::Size { number, found });
        } else {
            bytes.resize(index(found), 0);
            self.file.read_exact(&mut bytes).map_err(failed)?;
            self.look_ahead()?;
        }
        self.count = number;
        Ok(bytes)
    }
}

impl Iterator for ReceiptReader {
    type Item = Result<Vec<u8>, ReceiptFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read(self.ahead?);
        if read.is_err() {
            self.ahead = None;
        }
        Some(read)
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
    fn what_is_written_is_read_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipts");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            ReceiptReader::open(&path)?.collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(read(b"").unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(read(b"\x03\0\0\0abc\x02\0\0\0de").unwrap(), [&b"abc"[..], b"de"]);
        for short in [&b"\x03\0"[..], b"\x03\0\0\0ab", b"\x03\0\0\0abc\x02\0"] {
            assert!(matches!(read(short), Err(ReceiptFileError::Io { .. })), "{short:?}");
        }
        let large = b"\x01\0\0\0a\xff\xff\xff\xff";
        assert!(matches!(read(large), Err(ReceiptFileError::Size { number: 2, .. })));
        let absent = folder.path().join("absent");
        assert!(matches!(ReceiptReader::open(&absent), Err(ReceiptFileError::Io { .. })));
    }

    #[test]
    fn a_receipt_alone_needs_no_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipt");
        std::fs::write(&path, b"\x0b\0\x01\0and the rest").unwrap();
        let reader = ReceiptReader::open(&path).unwrap();
        assert!(reader.is_single());
        let read: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!(read, [b"\x0b\0\x01\0and the rest"]);
    }
}
