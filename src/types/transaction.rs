//! Transactions: header, operations, signature.
//!
//! ```text
//! offset  size  field
//!      0    36  domain prefix: kind 1, version, chain id
//!     36     1  suite (1 = SM2 with SM3)
//!     37     3  reserved, zero
//!     40    64  sender's public key
//!    104     8  nonce, unique per sender inside the validity window
//!    112     8  valid until: last height at which it may be included
//!    120     2  operations count, 1..=1,024
//!    122     2  reserved, zero
//!    124     4  operations size in bytes
//!    128     …  operations
//!      …    64  SM2 signature over e = SM3(ZA || all bytes before it)
//! ```

use core::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Address, Digest, PublicKey, Signature, Sm3};

use crate::codec::{
    DecodeError, Reader, check_keys, check_range, check_reserved, index, length_u32, put,
};
use crate::domain::{DomainPrefix, Kind};
use crate::ids::{ChainId, TxDigest, TxId};
use crate::limits::{TX_KEYS_COUNT_MAX, TX_OPERATIONS_COUNT_MAX, TX_SIZE_MAX};
use crate::operation::{NONCE_KEYS_COUNT, Operation};

/// The suite of SM2 signatures over SM3 digests, the only one of today.
pub const SUITE_SM2_SM3: u8 = 1;

/// Fixed first part of a transaction.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct TransactionHeader {
    /// Kind, version, chain.
    pub prefix: DomainPrefix,
    /// Signature suite.
    pub suite: u8,
    reserved: [u8; 3],
    /// The sender's key.
    pub sender: PublicKey,
    /// Chosen by the sender; unique inside the validity window, in any order.
    pub nonce: U64,
    /// Last height at which the transaction may be included.
    pub valid_until: U64,
    operations_count: U16,
    reserved_operations: [u8; 2],
    operations_size: U32,
}

/// Size of the fixed first part in bytes.
pub const TRANSACTION_HEADER_SIZE: usize = size_of::<TransactionHeader>();

const _: () = assert!(TRANSACTION_HEADER_SIZE == 128, "the layout above is what clients implement");

/// A canonical transaction read in place. Canonical says nothing of its signature or of the state.
#[derive(Clone, Copy)]
pub struct TransactionView<'a> {
    bytes: &'a [u8],
    header: &'a TransactionHeader,
    operations: &'a [u8],
    signature: &'a Signature,
    keys_count: u32,
}

impl<'a> TransactionView<'a> {
    /// Reads exactly one transaction, every operation included.
    ///
    /// # Errors
    /// What is not canonical, and where; [`DecodeError::KeysTooMany`] for one that is, but asks for
    /// more work than a transaction may.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut view = Self::split(bytes, 0)?;
        let mut inner = Reader::new(view.operations);
        view.keys_count = NONCE_KEYS_COUNT;
        for _ in 0..view.operations_count() {
            view.keys_count += Operation::read(&mut inner)?.keys_count();
            check_keys("transaction", view.keys_count, TX_KEYS_COUNT_MAX)?;
        }
        inner.finish()?;
        Ok(view)
    }

    /// Finds the parts without reading the operations: for bytes that [`TransactionView::parse`]
    /// has read before and found to name `keys_count` keys.
    pub(crate) fn split(bytes: &'a [u8], keys_count: u32) -> Result<Self, DecodeError> {
        check_range("transaction size", length_u32(bytes).into(), 0, TX_SIZE_MAX.into())?;
        let mut reader = Reader::new(bytes);
        let header: &TransactionHeader = reader.fixed()?;
        header.prefix.expect(Kind::Transaction)?;
        check_reserved("transaction", &header.reserved)?;
        check_reserved("transaction operations", &header.reserved_operations)?;
        let count = header.operations_count.get();
        check_range("operations count", count.into(), 1, TX_OPERATIONS_COUNT_MAX.into())?;
        let operations = reader.bytes(index(header.operations_size.get()))?;
        let signature: &Signature = reader.fixed()?;
        reader.finish()?;
        Ok(Self { bytes, header, operations, signature, keys_count })
    }

    /// All bytes, signature included.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes under the signature.
    #[must_use]
    pub fn unsigned_bytes(&self) -> &'a [u8] {
        let end = self.bytes.len() - Signature::SIZE;
        self.bytes.split_at(end).0
    }

    /// The fixed first part.
    #[must_use]
    pub const fn header(&self) -> &'a TransactionHeader {
        self.header
    }

    /// The signature.
    #[must_use]
    pub const fn signature(&self) -> &'a Signature {
        self.signature
    }

    /// Address of the sender.
    #[must_use]
    pub fn sender(&self) -> Address {
        self.header.sender.address()
    }

    /// How many operations follow the header.
    #[must_use]
    pub const fn operations_count(&self) -> u16 {
        self.header.operations_count.get()
    }

    /// State keys that the transaction may touch, its nonce included, each mention counted.
    #[must_use]
    pub const fn keys_count(&self) -> u32 {
        self.keys_count
    }

    /// The operations in order.
    pub fn operations(&self) -> impl Iterator<Item = Operation<'a>> + use<'a> {
        let mut reader = Reader::new(self.operations);
        // `parse` has read every operation once, so none is lost to an error here.
        core::iter::from_fn(move || Operation::read(&mut reader).ok())
    }

    /// SM3 of the unsigned bytes.
    #[must_use]
    pub fn id(&self) -> TxId {
        TxId(Sm3::of(&[self.unsigned_bytes()]))
    }
}

impl fmt::Debug for TransactionView<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TransactionView")
            .field("id", &self.id())
            .field("sender", &self.sender())
            .field("operations", &self.operations_count())
            .finish_non_exhaustive()
    }
}

/// The digest of all bytes of a transaction, from its id and signature, which together determine
/// them.
#[must_use]
pub fn tx_digest(chain_id: ChainId, id: &TxId, signature: &Signature) -> TxDigest {
    TxDigest(Sm3::of(&[&tx_digest_message(chain_id, &id.0, signature)]))
}

/// Bytes that are hashed to the digest of a transaction.
const TX_DIGEST_MESSAGE_SIZE: usize = size_of::<DomainPrefix>() + 32 + Signature::SIZE;

/// What [`tx_digest`] hashes, for those who hash many at once.
pub(crate) fn tx_digest_message(
    chain_id: ChainId,
    id: &Digest,
    signature: &Signature,
) -> [u8; TX_DIGEST_MESSAGE_SIZE] {
    let prefix = DomainPrefix::new(Kind::TransactionDigest, chain_id);
    let mut message = [0; TX_DIGEST_MESSAGE_SIZE];
    let (first, rest) = message.split_at_mut(size_of::<DomainPrefix>());
    let (second, third) = rest.split_at_mut(32);
    first.copy_from_slice(prefix.as_bytes());
    second.copy_from_slice(id.as_bytes());
    third.copy_from_slice(signature.as_bytes());
    message
}

/// A canonical transaction that owns its bytes; cheap to move, parsed once.
#[derive(Clone, PartialEq, Eq)]
pub struct Transaction {
    bytes: Box<[u8]>,
    keys_count: u32,
}

impl Transaction {
    /// Takes bytes that are exactly one canonical transaction.
    ///
    /// # Errors
    /// As [`TransactionView::parse`].
    pub fn parse(bytes: Box<[u8]>) -> Result<Self, DecodeError> {
        let keys_count = TransactionView::parse(&bytes)?.keys_count();
        Ok(Self { bytes, keys_count })
    }

    /// The transaction read in place; its operations are not checked again.
    ///
    /// # Panics
    /// Never: `parse` has read the same bytes.
    #[must_use]
    pub fn view(&self) -> TransactionView<'_> {
        let view = TransactionView::split(&self.bytes, self.keys_count);
        let Ok(view) = view else { unreachable!("a transaction has its parts") };
        view
    }

    /// All bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// State keys that the transaction may touch, its nonce included, each mention counted.
    #[must_use]
    pub const fn keys_count(&self) -> u32 {
        self.keys_count
    }

    /// The fixed first part.
    #[must_use]
    pub fn header(&self) -> &TransactionHeader {
        self.view().header()
    }

    /// The bytes under the signature.
    #[must_use]
    pub fn unsigned_bytes(&self) -> &[u8] {
        self.view().unsigned_bytes()
    }

    /// The signature.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        self.view().signature()
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Transaction")
            .field("size", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Builds the unsigned bytes of a transaction, then joins them with a signature.
#[derive(Clone, Debug)]
pub struct TransactionBuilder {
    bytes: Vec<u8>,
    operations_count: u16,
}

impl TransactionBuilder {
    /// A transaction of `sender` on `chain_id`, without operations yet.
    #[must_use]
    pub fn new(chain_id: ChainId, sender: PublicKey, nonce: u64, valid_until: u64) -> Self {
        let header = TransactionHeader {
            prefix: DomainPrefix::new(Kind::Transaction, chain_id),
            suite: SUITE_SM2_SM3,
            reserved: [0; 3],
            sender,
            nonce: U64::new(nonce),
            valid_until: U64::new(valid_until),
            operations_count: U16::ZERO,
            reserved_operations: [0; 2],
            operations_size: U32::ZERO,
        };
        let mut bytes = Vec::with_capacity(TRANSACTION_HEADER_SIZE + 256);
        put(&mut bytes, &header);
        Self { bytes, operations_count: 0 }
    }

    /// Adds an operation.
    #[must_use]
    pub fn operation(mut self, operation: Operation<'_>) -> Self {
        operation.write(&mut self.bytes);
        self.operations_count = self.operations_count.saturating_add(1);
        self
    }

    /// The bytes to sign: e = SM3(ZA || these).
    #[must_use]
    pub fn unsigned(mut self) -> Vec<u8> {
        let size = length_u32(&self.bytes[TRANSACTION_HEADER_SIZE..]);
        self.bytes[120..122].copy_from_slice(&self.operations_count.to_le_bytes());
        self.bytes[124..128].copy_from_slice(&size.to_le_bytes());
        self.bytes
    }

    /// The digest e that the sender signs, for its default identity.
    #[must_use]
    pub fn signing_digest(unsigned: &[u8], sender: &PublicKey) -> Digest {
        let za = hufu_crypto::identity_digest(hufu_crypto::IDENTITY_DEFAULT, sender);
        hufu_crypto::message_digest(&za, unsigned)
    }

    /// Unsigned bytes and signature joined.
    ///
    /// # Errors
    /// What is not canonical in the values the builder was given.
    pub fn join(mut unsigned: Vec<u8>, signature: &Signature) -> Result<Transaction, DecodeError> {
        put(&mut unsigned, signature);
        Transaction::parse(unsigned.into_boxed_slice())
    }
}
