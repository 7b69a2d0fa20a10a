//! Receipts with their proof: verifiable by anyone who holds the genesis, offline.
//!
//! ```text
//! tx digest --path--> batch root --batch header--> batch digest
//!           --path--> transactions root in header h --certificate--> validators
//! receipt   --path--> receipts root in header h+d   --certificate--> validators   (certified only)
//! ```

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Digest, Signature, Verifier};

use crate::batch::BatchHeader;
use crate::block::BlockHeader;
use crate::certificate::{CertificateError, CommitCertificate};
use crate::codec::{DecodeError, Reader, check_range, check_reserved, length_u32, put};
use crate::domain::{DomainPrefix, Kind};
use crate::genesis::Genesis;
use crate::ids::ChainId;
use crate::limits::{BLOCK_BATCHES_COUNT_MAX, MERKLE_PATH_COUNT_MAX};
use crate::merkle::root_from_path;
use crate::receipt::{Receipt, Strength};
use crate::transaction::tx_digest;

/// What a certified receipt carries beyond a committed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedPart {
    /// Header of height h+d.
    pub header: BlockHeader,
    /// Its certificate.
    pub certificate: CommitCertificate,
    /// From the receipt up to that header's receipts root.
    pub path: Vec<Digest>,
}

/// A receipt with everything needed to prove it from the genesis alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptProof {
    /// The receipt. `Committed` proves that its transaction is in the block; code and index only
    /// `Certified` proves.
    pub receipt: Receipt,
    /// The transaction's signature, which ties its id to the digest of all its bytes.
    pub signature: Signature,
    /// Header of the receipt's height.
    pub header: BlockHeader,
    /// Its certificate.
    pub certificate: CommitCertificate,
    /// Header of the batch the transaction came in.
    pub batch: BatchHeader,
    /// Place of the batch in the block.
    pub batch_index: u32,
    /// Transactions in the batches before it.
    pub transactions_before: u32,
    /// From the transaction up to the batch's root.
    pub batch_path: Vec<Digest>,
    /// From the batch up to the header's transactions root.
    pub block_path: Vec<Digest>,
    /// Proof of the result.
    pub certified: Option<CertifiedPart>,
}

/// Why a receipt is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The bytes are no receipt with proof.
    #[error("receipt is not canonical: {0}")]
    Decode(#[from] DecodeError),
    /// It is a receipt of another chain.
    #[error("receipt is of chain {found}, the genesis of chain {expected}")]
    WrongChain {
        /// Chain of the receipt.
        found: ChainId,
        /// Chain of the genesis.
        expected: ChainId,
    },
    /// A certificate proves nothing.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Two parts of the proof do not belong together.
    #[error("{what} does not belong to this receipt")]
    Unrelated {
        /// Which part.
        what: &'static str,
    },
    /// A Merkle path does not lead to its root.
    #[error("the path does not lead to the {root}")]
    PathWrong {
        /// Which root.
        root: &'static str,
    },
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ProofHeader {
    prefix: DomainPrefix,
    strength: u8,
    reserved: [u8; 3],
    batch_index: U32,
    transactions_before: U32,
}

impl ReceiptProof {
    /// How much it proves.
    #[must_use]
    pub const fn strength(&self) -> Strength {
        if self.certified.is_some() { Strength::Certified } else { Strength::Committed }
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1_024);
        let header = ProofHeader {
            prefix: DomainPrefix::new(Kind::ReceiptProof, self.receipt.prefix.chain_id),
            strength: self.strength() as u8,
            reserved: [0; 3],
            batch_index: U32::new(self.batch_index),
            transactions_before: U32::new(self.transactions_before),
        };
        put(&mut out, &header);
        put(&mut out, &self.receipt);
        put(&mut out, &self.signature);
        put(&mut out, &self.header);
        self.certificate.write(&mut out);
        put(&mut out, &self.batch);
        write_path(&mut out, &self.batch_path);
        write_path(&mut out, &self.block_path);
        if let Some(certified) = &self.certified {
            put(&mut out, &certified.header);
            certified.certificate.write(&mut out);
            write_path(&mut out, &certified.path);
        }
        out
    }

    /// Reads exactly one receipt with proof.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: &ProofHeader = reader.fixed()?;
        header.prefix.expect(Kind::ReceiptProof)?;
        check_reserved("receipt proof", &header.reserved)?;
        check_range("receipt strength", header.strength.into(), 1, 2)?;
        let batch_index = header.batch_index.get();
        check_range("batch index", batch_index.into(), 0, (BLOCK_BATCHES_COUNT_MAX - 1).into())?;
        let receipt: Receipt = *reader.fixed()?;
        receipt.check()?;
        let proof = Self {
            receipt,
            signature: *reader.fixed()?,
            header: read_header(&mut reader)?,
            certificate: CommitCertificate::read(&mut reader)?,
            batch: *reader.fixed()?,
            batch_index,
            transactions_before: header.transactions_before.get(),
            batch_path: read_path(&mut reader)?,
            block_path: read_path(&mut reader)?,
            certified: if header.strength == Strength::Certified as u8 {
                Some(CertifiedPart {
                    header: read_header(&mut reader)?,
                    certificate: CommitCertificate::read(&mut reader)?,
                    path: read_path(&mut reader)?,
                })
            } else {
                None
            },
        };
        reader.finish()?;
        proof.batch.prefix.expect(Kind::Batch)?;
        if header.prefix.chain_id != proof.receipt.prefix.chain_id {
            return Err(DecodeError::NotCanonical { field: "chain of the receipt" });
        }
        Ok(proof)
    }

    /// Proves the receipt from the genesis: certificates, paths, and that all parts belong
    /// together.
    ///
    /// # Errors
    /// The first reason why it is not proven.
    pub fn verify(
        &self,
        genesis: &Genesis,
        verifier: &dyn Verifier,
    ) -> Result<Strength, ProofError> {
        self.verify_with(genesis, &mut |certificate| {
            certificate.verify(genesis.chain_id(), &genesis.validators, verifier)
        })
    }

    /// As [`ReceiptProof::verify`], asking `check` for each certificate, so that a verifier of many
    /// receipts may remember the certificates it has verified.
    ///
    /// # Errors
    /// The first reason why it is not proven.
    pub fn verify_with(
        &self,
        genesis: &Genesis,
        check: &mut dyn FnMut(&CommitCertificate) -> Result<(), CertificateError>,
    ) -> Result<Strength, ProofError> {
        let expected = genesis.chain_id();
        let chains =
            [self.receipt.prefix.chain_id, self.header.prefix.chain_id, self.batch.prefix.chain_id];
        if let Some(&found) = chains.iter().find(|&&chain| chain != expected) {
            return Err(ProofError::WrongChain { found, expected });
        }
        self.verify_inclusion(check)?;
        if let Some(certified) = &self.certified {
            self.verify_result(certified, genesis, check)?;
        }
        Ok(self.strength())
    }

    fn verify_inclusion(
        &self,
        check: &mut dyn FnMut(&CommitCertificate) -> Result<(), CertificateError>,
    ) -> Result<(), ProofError> {
        if self.header.height != self.receipt.height {
            return Err(ProofError::Unrelated { what: "block header" });
        }
        let (chain_id, id) = (self.receipt.prefix.chain_id, &self.receipt.id);
        if self.receipt.digest != tx_digest(chain_id, id, &self.signature) {
            return Err(ProofError::Unrelated { what: "signature" });
        }
        check_certifies(&self.certificate, &self.header)?;
        check(&self.certificate)?;
        let place = self.receipt.index.get().checked_sub(self.transactions_before);
        let place = place.ok_or(ProofError::Unrelated { what: "batch" })?;
        let count = self.batch.transactions_count.get();
        let root =
            root_from_path(self.receipt.digest.0, place.into(), count.into(), &self.batch_path)
                .ok_or(ProofError::PathWrong { root: "batch's transactions" })?;
        let (batch, batches) = (self.batch.digest(&root), self.header.batches_count.get());
        let found =
            root_from_path(batch.0, self.batch_index.into(), batches.into(), &self.block_path);
        if found == Some(self.header.transactions_root) {
            Ok(())
        } else {
            Err(ProofError::PathWrong { root: "transactions root" })
        }
    }

    fn verify_result(
        &self,
        certified: &CertifiedPart,
        genesis: &Genesis,
        check: &mut dyn FnMut(&CommitCertificate) -> Result<(), CertificateError>,
    ) -> Result<(), ProofError> {
        let header = &certified.header;
        let lag = u64::from(genesis.parameters.certified_lag_heights);
        let related = header.prefix.chain_id == self.header.prefix.chain_id
            && header.executed_height == self.receipt.height
            && header.height.get().checked_sub(lag) == Some(self.receipt.height.get());
        if !related {
            return Err(ProofError::Unrelated { what: "certifying header" });
        }
        check_certifies(&certified.certificate, header)?;
        check(&certified.certificate)?;
        let (place, count) = (self.receipt.index.get(), header.receipts_count.get());
        let found =
            root_from_path(self.receipt.leaf(), place.into(), count.into(), &certified.path);
        if found == Some(header.receipts_root) {
            Ok(())
        } else {
            Err(ProofError::PathWrong { root: "receipts root" })
        }
    }
}

fn check_certifies(
    certificate: &CommitCertificate,
    header: &BlockHeader,
) -> Result<(), ProofError> {
    if certificate.is_of(header) {
        Ok(())
    } else {
        Err(ProofError::Unrelated { what: "certificate" })
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<BlockHeader, DecodeError> {
    let header: BlockHeader = *reader.fixed()?;
    header.prefix.expect(Kind::BlockHeader)?;
    Ok(header)
}

fn write_path(out: &mut Vec<u8>, path: &[Digest]) {
    let count = u16::try_from(length_u32(path)).unwrap_or(u16::MAX);
    put(out, &U16::new(count));
    put(out, path);
}

fn read_path(reader: &mut Reader<'_>) -> Result<Vec<Digest>, DecodeError> {
    let count = reader.fixed::<U16>()?.get();
    let max = u64::try_from(MERKLE_PATH_COUNT_MAX).unwrap_or(u64::MAX);
    check_range("path length", count.into(), 0, max)?;
    Ok(reader.slice::<Digest>(usize::from(count))?.to_vec())
}
