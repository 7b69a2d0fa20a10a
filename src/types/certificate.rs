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
        let verdicts = Self::verify_many(&[self], chain_id, validators, verifier);
        verdicts.into_iter().next().unwrap_or(Ok(()))
    }

    /// Verifies several certificates with one call of the verifier, each as [`Self::verify`] does;
    /// one verdict for each.
    #[must_use]
    pub fn verify_many(
        certificates: &[&Self],
        chain_id: ChainId,
        validators: &ValidatorSet,
        verifier: &dyn Verifier,
    ) -> Vec<Result<(), CertificateError>> {
        let mut items = Vec::new();
        let prepared: Vec<Result<usize, CertificateError>> = certificates
            .iter()
            .map(|certificate| {
                let own = certificate.items(chain_id, validators)?;
                items.extend(own);
                Ok(certificate.signatures.len())
            })
            .collect();
        let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
        verifier.verify_many(&items, &mut verdicts);
        let mut verdicts = verdicts.into_iter();
        let judge = |(certificate, prepared): (&&Self, Result<usize, CertificateError>)| {
            let own = prepared?;
            let own: Vec<Verdict> = verdicts.by_ref().take(own).collect();
            certificate.judge(&own, validators)
        };
        certificates.iter().zip(prepared).map(judge).collect()
    }

    /// What is to be verified, once all signers are known and in order.
    fn items<'a>(
        &'a self,
        chain_id: ChainId,
        validators: &'a ValidatorSet,
    ) -> Result<Vec<VerifyItem<'a>>, CertificateError> {
        let height = self.height;
        if !self.signatures.is_sorted_by(|first, second| first.validator < second.validator) {
            return Err(CertificateError::OrderWrong { height });
        }
        let mut items = Vec::with_capacity(self.signatures.len());
        for signed in &self.signatures {
            let unknown =
                CertificateError::ValidatorUnknown { height, validator: signed.validator };
            let validator = validators.get(&signed.validator).ok_or(unknown)?;
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
        Ok(items)
    }

    /// What the verdicts on its signatures, one each, make of it.
    fn judge(
        &self,
        verdicts: &[Verdict],
        validators: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        let height = self.height;
        assert_eq!(verdicts.len(), self.signatures.len(), "a verdict for each signature");
        if let Some(bad) = verdicts.iter().position(|verdict| *verdict != Verdict::Valid) {
            let validator =
                self.signatures.get(bad).map_or(Address::ZERO, |signed| signed.validator);
            return Err(CertificateError::SignatureInvalid { height, validator });
        }
        let signers = self.signatures.iter();
        let known = signers.filter_map(|signed| validators.get(&signed.validator));
        let found = known.map(|validator| validator.power).sum();
        if validators.is_quorum(found) {
            Ok(())
        } else {
            let total = validators.power_total();
            Err(CertificateError::QuorumMissing { height, found, total })
        }
    }
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Digest, Signer as _, SoftwareSigner, software_provider};

    use super::*;
    use crate::genesis::Validator;

    const CHAIN: ChainId = ChainId(Digest([9; 32]));

    fn signers() -> (Vec<SoftwareSigner>, ValidatorSet) {
        let key = |byte| SoftwareSigner::from_bytes(&[byte; 32]).unwrap();
        let mut signers: Vec<_> = (1..5).map(key).collect();
        signers.sort_by_key(|signer| signer.public_key().address());
        let validators = signers.iter().zip(101..).map(|(signer, link)| Validator {
            name: format!("v{link}"),
            key: *signer.public_key(),
            link_key: *key(link).public_key(),
            power: 1,
        });
        let set = ValidatorSet::new(validators.collect()).unwrap();
        (signers, set)
    }

    fn certificate(height: u64, signers: &[SoftwareSigner]) -> CommitCertificate {
        let block = BlockDigest(Digest([7; 32]));
        let sign = |signer: &SoftwareSigner| {
            let (key, validator) = (signer.public_key(), signer.public_key().address());
            let vote = Vote::new(CHAIN, VoteStep::Precommit, height, 0, Some(block), validator);
            let digest = signing_digest(vote.as_bytes(), key);
            CommitSignature { validator, signature: signer.sign(&digest).unwrap() }
        };
        let signatures = signers.iter().map(sign).collect();
        CommitCertificate { height, round: 0, block, signatures }
    }

    #[test]
    fn certificates_verified_together_are_judged_one_by_one() {
        let (signers, set) = signers();
        let good = certificate(5, &signers[..3]);
        let few = certificate(6, &signers[..2]);
        let mut forged = certificate(7, &signers);
        forged.signatures[1].signature = forged.signatures[2].signature;
        let mut shuffled = certificate(8, &signers);
        shuffled.signatures.swap(0, 1);
        let stranger = SoftwareSigner::from_bytes(&[77; 32]).unwrap();
        let foreign = certificate(9, &[stranger]);
        let last = certificate(10, &signers);
        let all = [&good, &few, &forged, &shuffled, &foreign, &last];
        let verifier = software_provider().verifier;
        let verdicts = CommitCertificate::verify_many(&all, CHAIN, &set, &*verifier);
        let alone = all.map(|certificate| certificate.verify(CHAIN, &set, &*verifier));
        assert_eq!(verdicts, alone);
        use CertificateError as E;
        assert!(matches!(
            alone,
            [
                Ok(()),
                Err(E::QuorumMissing { height: 6, found: 2, total: 4 }),
                Err(E::SignatureInvalid { height: 7, .. }),
                Err(E::OrderWrong { height: 8 }),
                Err(E::ValidatorUnknown { height: 9, .. }),
                Ok(())
            ]
        ));
        assert_eq!(CommitCertificate::verify_many(&[], CHAIN, &set, &*verifier), []);
    }
}
