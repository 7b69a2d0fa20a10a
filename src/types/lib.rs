#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod asset;
pub mod batch;
pub mod block;
pub mod certificate;
pub mod codec;
pub mod codes;
pub mod domain;
pub mod genesis;
pub mod ids;
pub mod limits;
pub mod merkle;
pub mod operation;
pub mod ordering;
pub mod planted;
pub mod proof;
pub mod receipt;
pub mod resident;
pub mod transaction;
pub mod verification;
pub mod vote;

pub use asset::AssetCode;
pub use batch::{Batch, BatchBuilder, BatchHeader};
pub use block::{Block, BlockHeader};
pub use certificate::{CertificateError, CommitCertificate, CommitSignature};
pub use codec::DecodeError;
pub use codes::{FailureCode, RefusalCode};
pub use domain::{DomainPrefix, Kind};
pub use genesis::{Genesis, Parameters, Validator, ValidatorSet};
pub use hufu_crypto::{Address, Digest, Hasher, PublicKey, Signature};
pub use ids::{BatchDigest, BlockDigest, ChainId, TxDigest, TxId};
pub use operation::{Leg, Operation, OperationKind};
pub use ordering::{OrderedBatches, OrderingError, check_batch, check_batches};
pub use proof::{CertifiedPart, ProofError, ReceiptProof};
pub use receipt::{Receipt, Strength};
pub use transaction::{Transaction, TransactionBuilder, TransactionHeader, TransactionView};
pub use verification::{
    Identified, Verified, verify_batch, verify_identified, verify_transactions,
};
pub use vote::{Proposal, SignedProposal, SignedVote, Vote, VoteStep};
