//! What the block log's records mean: the bodies of batches, and decided blocks with their
//! certificates.
//!
//! The log itself knows only numbers and bytes. A batch is recorded before any block may order it;
//! a block is recorded before it is executed, so a replay of the log is the whole history of the
//! node.

use hufu_crypto::Hasher;
use hufu_types::codec::Reader;
use hufu_types::{Block, CommitCertificate, DecodeError};

/// A batch, as in [`hufu_types::batch`].
pub const RECORD_BATCH: u16 = 1;

/// A decided block: [`hufu_types::block`], then its certificate.
pub const RECORD_BLOCK: u16 = 2;

/// The payload of a [`RECORD_BLOCK`].
#[must_use]
pub fn block_record(block: &Block, certificate: &CommitCertificate) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 << 10);
    block.write(&mut out);
    certificate.write(&mut out);
    out
}

/// Reads the payload of a [`RECORD_BLOCK`].
///
/// # Errors
/// What is not canonical, and where; also if block and certificate do not belong together.
pub fn parse_block_record(
    payload: &[u8],
    hasher: &dyn Hasher,
) -> Result<(Block, CommitCertificate), DecodeError> {
    let mut reader = Reader::new(payload);
    let block = Block::read(&mut reader, hasher)?;
    let certificate = CommitCertificate::read(&mut reader)?;
    reader.finish()?;
    if certificate.height != block.height() || certificate.block != block.digest() {
        return Err(DecodeError::NotCanonical { field: "certificate of the block record" });
    }
    Ok((block, certificate))
}
