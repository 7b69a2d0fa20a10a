//! Receipts: what became of one transaction, and the leaf by which it is proven.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Digest, Sm3};

use crate::codec::{DecodeError, check_reserved};
use crate::codes::FailureCode;
use crate::domain::{DomainPrefix, Kind};
use crate::ids::{ChainId, TxDigest, TxId};

/// How much a receipt proves (design.md 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Strength {
    /// Ordered by a certificate, durable and executed on the answering node; inclusion is proven.
    Committed = 1,
    /// The result is proven too, against the receipts root that the header of h+d carries.
    Certified = 2,
}

/// Marks a receipt whose transaction did not fail in a particular operation.
const OPERATION_NONE: u16 = u16::MAX;

/// What became of one transaction. Its SM3 is a leaf of the receipts root of its height.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Receipt {
    /// Kind, version, chain.
    pub prefix: DomainPrefix,
    /// Height of the block.
    pub height: U64,
    /// Place among the transactions of the block, from 0.
    pub index: U32,
    code: U16,
    failed_operation: U16,
    /// The transaction.
    pub id: TxId,
    /// All its bytes.
    pub digest: TxDigest,
}

/// What execution says of a transaction: done, or the reason and the operation that failed.
pub type Outcome = Result<(), Failure>;

/// A failure with the operation it happened in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub code: FailureCode,
    /// Place of the operation in the transaction, from 0; `None` when the transaction failed as a
    /// whole.
    pub operation: Option<u16>,
}

impl Receipt {
    /// The receipt of the transaction at `index` of the block at `height`.
    #[must_use]
    pub fn new(
        chain_id: ChainId,
        height: u64,
        index: u32,
        id: TxId,
        digest: TxDigest,
        outcome: Outcome,
    ) -> Self {
        let (code, operation) = match outcome {
            Ok(()) => (0, OPERATION_NONE),
            Err(failure) => (failure.code.number(), failure.operation.unwrap_or(OPERATION_NONE)),
        };
        Self {
            prefix: DomainPrefix::new(Kind::Receipt, chain_id),
            height: U64::new(height),
            index: U32::new(index),
            code: U16::new(code),
            failed_operation: U16::new(operation),
            id,
            digest,
        }
    }

    /// What became of the transaction.
    ///
    /// # Errors
    /// [`DecodeError::Range`] for a code this build does not know.
    pub fn outcome(&self) -> Result<Outcome, DecodeError> {
        let number = self.code.get();
        if number == 0 {
            return Ok(Ok(()));
        }
        let max = FailureCode::ALL.last().map_or(0, |code| code.number());
        let unknown = DecodeError::Range {
            field: "failure code",
            found: number.into(),
            min: 0,
            max: max.into(),
        };
        let code = FailureCode::from_number(number).ok_or(unknown)?;
        let operation = self.failed_operation.get();
        Ok(Err(Failure { code, operation: (operation != OPERATION_NONE).then_some(operation) }))
    }

    /// Accepts canonical values only; to be called on every receipt that came from outside.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.prefix.expect(Kind::Receipt)?;
        if self.outcome()?.is_ok() {
            // A success names no operation, so that each outcome has one encoding.
            let filler = (!self.failed_operation.get()).to_le_bytes();
            check_reserved("operation of a receipt of success", &filler)?;
        }
        Ok(())
    }

    /// The leaf of the receipts root.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        Sm3::of(&[self.as_bytes()])
    }
}
