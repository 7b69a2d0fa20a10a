//! The copy of the genesis in a node's data folder: all that `hufu ledger verify` needs beside it.
//!
//! ```text
//! node run --keep--> genesis.bin (canonical bytes) --read--> ledger verify
//! ```
//!
//! Its SM3 is the chain id that the folder's identity names, so it needs no checksum of its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use hufu_runtime::file::FileSystem;
use hufu_types::Genesis;

/// Name of the copy in the data folder.
pub const GENESIS_COPY: &str = "genesis.bin";

/// Bytes read at most; the largest genesis there can be is far below.
const GENESIS_SIZE_MAX: u64 = 1 << 20;

/// The bytes of the copy; `None` if there is none.
///
/// # Errors
/// What the host said.
pub fn read(folder: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(folder.join(GENESIS_COPY)) {
        Ok(file) => {
            file.take(GENESIS_SIZE_MAX).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Keeps a copy of `genesis` in the data folder, whole or not at all; does nothing where it is
/// there already.
///
/// # Errors
/// What the host said.
pub fn keep(folder: &Path, genesis: &Genesis) -> io::Result<()> {
    let bytes = genesis.to_bytes();
    if read(folder)?.as_ref() == Some(&bytes) {
        return Ok(());
    }
    FileSystem::default().replace(&folder.join(GENESIS_COPY), &bytes).map_err(io::Error::other)
}
