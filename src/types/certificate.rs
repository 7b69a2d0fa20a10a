//! Commit certificates: a quorum of individual precommit signatures for one block.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Address, Signature, Verdict, Verifier, VerifyItem};

use crate::block::BlockHeader;
use crate::codec::{DecodeError, Reader, check_range, check_reserved, index, length_u32, put};
use crate::genesis::ValidatorSet;
use crate::ids::{BlockDigest, ChainId};
use crate::limits::{ROUNDS_COUNT_MAX, VALIDATORS_COUNT_MAX};
use crate::vote::{Vote, VoteStep, signing_digest};

/// Bytes of the largest certificate: one signature of each validator of the largest set.
pub const CERTIFICATE_SIZE_MAX: usize =
    size_of::<CertificateHeader>() + VALIDATORS_COUNT_MAX as usize * size_of::<CommitSignature>();

/// Fixed first part of a certificate.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct CertificateHeader {
    height: U64,
    round: U32,
    signatures_count: U32,
    block: BlockDigest,
    reserved: [u8; 4],
}

/// One validator's signature over its precommit.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct CommitSignature {
    /// The validator.
    pub validator: Address,
    /// Its signature over the precommit for the certificate's height, round and block.
    pub signature: Signature,
}

/// Proof that more than two thirds of the voting power precommitted one block in one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitCertificate {
    /// Height of the block.
    pub height: u64,
    /// Round in which it was decided.
    pub round: u32,
    /// The block.
    pub block: BlockDigest,
    /// Signatures by ascending validator address, one each.
    pub signatures: Vec<CommitSignature>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// A signer is not in the validator set.
    #[error("certificate of height {height}: {validator} is no validator")]
    ValidatorUnknown {
        /// The certificate's height.
        height: u64,
        /// Who is unknown.
        validator: Address,
    },
    /// Signers are not in strictly ascending order.
    #[error("certificate of height {height}: signers are not in ascending order")]
    OrderWrong {
        /// The certificate's height.
        height: u64,
    },
    /// A signature does not verify.
    #[error("certificate of height {height}: signature of {validator} does not verify")]
    SignatureInvalid {
        /// The certificate's height.
        height: u64,
        /// Whose signature.
        validator: Address,
    },
    /// The signers' power is not more than two thirds.
    #[error("certificate of height {height}: voting power {found} of {total} is no quorum")]
    QuorumMissing {
        /// The certificate's height.
        height: u64,
        /// Power of the signers.
        found: u64,
        /// Power of the whole set.
        total: u64,
    },
}

impl CommitCertificate {
    /// Reads the next certificate.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: CertificateHeader = *reader.fixed()?;
        check_reserved("certificate", &header.reserved)?;
        check_range("certificate round", header.round.get().into(), 0, ROUNDS_COUNT_MAX.into())?;
        let count = header.signatures_count.get();
        check_range("certificate signatures count", count.into(), 1, VALIDATORS_COUNT_MAX.into())?;
        let signatures = reader.slice::<CommitSignature>(index(count))?.to_vec();
        Ok(Self {
            height: header.height.get(),
            round: header.round.get(),
            block: header.block,
            signatures,
        })
    }

    /// Appends the encoding.
    pub fn write(&self, out: &mut Vec<u8>) {
        let header = CertificateHeader {
            height: U64::new(self.height),
            round: U32::new(self.round),
            signatures_count: U32::new(length_u32(&self.signatures)),
            block: self.block,
            reserved: [0; 4],
        };
        put(out, &header);
        put(out, self.signatures.as_slice());
    }

    /// Whether it is about the block with this header.
    #[must_use]
    pub fn is_of(&self, header: &BlockHeader) -> bool {
        self.height == header.height.get() && self.block == header.digest()
    }

    /// Verifies every signature individually and the quorum.
    ///
    /// # Errors
    /// The first reason why the certificate proves nothing.
    pub fn verify(
        &self,
        chain_id: ChainId,
        validators: &ValidatorSet,
        verifier: &dyn Verifier,
    ) -> Result<(), CertificateError> {
        let height = self.height;
        if !self.signatures.is_sorted_by(|first, second| first.validator < second.validator) {
            return Err(CertificateError::OrderWrong { height });
        }
        let mut power: u64 = 0;
        let mut items = Vec::with_capacity(self.signatures.len());
        for signed in &self.signatures {
            let unknown =
                CertificateError::ValidatorUnknown { height, validator: signed.validator };
            let validator = validators.get(&signed.validator).ok_or(unknown)?;
            power += validator.power;
            let vote = Vote::new(
                chain_id,
                VoteStep::Precommit,
                height,
                self.round,
                Some(self.block),
                signed.validator,
            );
            let digest = signing_digest(vote.as_bytes(), &validator.key);
            items.push(VerifyItem { key: &validator.key, digest, signature: &signed.signature });
        }
        let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
        verifier.verify_many(&items, &mut verdicts);
        if let Some(bad) = verdicts.iter().position(|verdict| *verdict != Verdict::Valid) {
            let validator =
                self.signatures.get(bad).map_or(Address::ZERO, |signed| signed.validator);
            return Err(CertificateError::SignatureInvalid { height, validator });
        }
        let total = validators.power_total();
        if validators.is_quorum(power) {
            Ok(())
        } else {
            Err(CertificateError::QuorumMissing { height, found: power, total })
        }
    }
}
