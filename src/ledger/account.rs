//! An account with its proof: verifiable by anyone who holds the genesis, offline.
//!
//! ```text
//! account, each holding, each mandate --state proof--> state root of height h
//!     in header h+d --certificate--> validators of the genesis
//! ```
//! The account's own value counts its holdings and mandates, so that a proof which leaves one out
//! is none.
//!
//! ```text
//! offset  size  field
//!      0    36  prefix: kind 18, version 1, chain
//!     36    20  address
//!     56     4  entries of the state: the account, then holdings by ascending asset, then mandates
//!               by ascending agent and asset
//!     60   252  header of height h+d
//!    312     …  its certificate
//!      …     …  entries: key size u16, value size u16 (0: the state holds nothing there), proof
//!               size u32, key, value, state proof
//! ```
//! No account with proof is larger than [`ACCOUNT_PROOF_SIZE_MAX`].

use hufu_crypto::Verifier;
use hufu_types::certificate::{CERTIFICATE_SIZE_MAX, CertificateError};
use hufu_types::codec::{DecodeError, Reader, check_range, index, length_u32, put};
use hufu_types::limits::ACCOUNT_PROOF_SIZE_MAX;
use hufu_types::{Address, BlockHeader, ChainId, CommitCertificate, DomainPrefix, Genesis, Kind};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::corrupt::Corrupt;
use crate::key::{KEY_SIZE_MAX, StateKey};
use crate::proof::{StateProof, StateProofError};
use crate::query::{AccountQuery, MandateQuery};
use crate::value::{StateValue, VALUE_SIZE_MAX};

/// Bytes before the entries, at most.
const HEAD_SIZE_MAX: usize = size_of::<Head>() + size_of::<BlockHeader>() + CERTIFICATE_SIZE_MAX;

/// Entries in one proof, count: each has a header and a state proof.
const ENTRIES_COUNT_MAX: u32 = ACCOUNT_PROOF_SIZE_MAX / 64;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    prefix: DomainPrefix,
    address: Address,
    entries_count: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EntryHead {
    key_size: U16,
    value_size: U16,
    proof_size: U32,
}

/// What the state holds under one key, with its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenEntry {
    /// The key.
    pub key: StateKey,
    /// The value; `None` when the state holds nothing there.
    pub value: Option<StateValue>,
    /// The proof of that.
    pub proof: StateProof,
}

/// An account with everything needed to prove it from the genesis alone; see the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountProof {
    /// The account.
    pub address: Address,
    /// The header that carries the state root.
    pub header: BlockHeader,
    /// Its certificate.
    pub certificate: CommitCertificate,
    /// The account, its holdings, its mandates.
    pub entries: Vec<ProvenEntry>,
}

/// What an [`AccountProof`] proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenAccount {
    /// Height whose state it is.
    pub height: u64,
    /// The account.
    pub address: Address,
    /// What the state held; `None`: no account was ever opened.
    pub account: Option<AccountQuery>,
}

/// Why an account is not proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountProofError {
    /// The bytes are no account with proof.
    #[error("account proof is not canonical: {0}")]
    Decode(#[from] DecodeError),
    /// It is of another chain.
    #[error("account proof is of chain {found}, the genesis of chain {expected}")]
    WrongChain {
        /// Chain of the proof.
        found: ChainId,
        /// Chain of the genesis.
        expected: ChainId,
    },
    /// The certificate proves nothing.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Two parts do not belong together.
    #[error("{what} does not belong to this account")]
    Unrelated {
        /// Which part.
        what: &'static str,
    },
    /// Holdings or mandates are missing, or there are too many.
    #[error("the account counts {counted} {what}, the proof has {found}")]
    Incomplete {
        /// Of what.
        what: &'static str,
        /// How many the account says.
        counted: u64,
        /// How many are proven.
        found: u64,
    },
    /// The state is not proven to hold an entry.
    #[error("{key}: {cause}")]
    State {
        /// The entry.
        key: StateKey,
        /// Why.
        cause: StateProofError,
    },
}

/// The entries of an account with their state proofs, while the header that carries the state root
/// is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountEntries {
    address: Address,
    count: u32,
    bytes: Vec<u8>,
}

impl AccountEntries {
    /// No entries yet.
    #[must_use]
    pub const fn new(address: Address) -> Self {
        Self { address, count: 0, bytes: Vec::new() }
    }

    /// Adds what the state holds under the next key. `false`: there is no room for it, and no proof
    /// of this account.
    #[must_use]
    pub fn push(&mut self, key: &StateKey, value: Option<&[u8]>, proof: &StateProof) -> bool {
        let before = self.bytes.len();
        write_entry(&mut self.bytes, key, value.unwrap_or_default(), proof);
        let has_room = HEAD_SIZE_MAX + self.bytes.len() <= index(ACCOUNT_PROOF_SIZE_MAX);
        if has_room {
            self.count += 1;
        } else {
            self.bytes.truncate(before);
        }
        has_room
    }

    /// Bytes of the entries.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The canonical bytes of the [`AccountProof`] with the header that carries the state root.
    #[must_use]
    pub fn certify(&self, header: &BlockHeader, certificate: &CommitCertificate) -> Vec<u8> {
        assert!(certificate.is_of(header), "a header with its own certificate");
        let mut out = Vec::with_capacity(HEAD_SIZE_MAX + self.bytes.len());
        write_head(&mut out, self.address, self.count, header, certificate);
        put(&mut out, self.bytes.as_slice());
        assert!(out.len() <= index(ACCOUNT_PROOF_SIZE_MAX), "every entry was measured");
        out
    }
}

fn write_head(
    out: &mut Vec<u8>,
    address: Address,
    entries_count: u32,
    header: &BlockHeader,
    certificate: &CommitCertificate,
) {
    let prefix = DomainPrefix::new(Kind::AccountProof, header.prefix.chain_id);
    put(out, &Head { prefix, address, entries_count: U32::new(entries_count) });
    put(out, header);
    certificate.write(out);
}

fn write_entry(out: &mut Vec<u8>, key: &StateKey, value: &[u8], proof: &StateProof) {
    let (key, proof) = (key.to_bytes(), proof.to_bytes());
    let short = |bytes: &[u8]| U16::new(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    let head = EntryHead {
        key_size: short(key.as_slice()),
        value_size: short(value),
        proof_size: U32::new(length_u32(&proof)),
    };
    put(out, &head);
    for part in [key.as_slice(), value, &proof] {
        put(out, part);
    }
}

impl AccountProof {
    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_SIZE_MAX);
        let count = length_u32(&self.entries);
        write_head(&mut out, self.address, count, &self.header, &self.certificate);
        for ProvenEntry { key, value, proof } in &self.entries {
            let value = value.as_ref().map(StateValue::to_bytes);
            write_entry(&mut out, key, value.as_ref().map_or(&[], AsRef::as_ref), proof);
        }
        out
    }

    /// Reads exactly one account with proof.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (size, size_max) = (length(bytes.len()), ACCOUNT_PROOF_SIZE_MAX.into());
        check_range("account proof size", size, 0, size_max)?;
        let mut reader = Reader::new(bytes);
        let head: &Head = reader.fixed()?;
        head.prefix.expect(Kind::AccountProof)?;
        let count = head.entries_count.get();
        check_range("entries of an account proof", count.into(), 1, ENTRIES_COUNT_MAX.into())?;
        let header: BlockHeader = *reader.fixed()?;
        header.prefix.expect(Kind::BlockHeader)?;
        if header.prefix.chain_id != head.prefix.chain_id {
            return Err(DecodeError::NotCanonical { field: "chain of the account proof" });
        }
        let certificate = CommitCertificate::read(&mut reader)?;
        let entries = (0..count).map(|_| ProvenEntry::read(&mut reader));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        Ok(Self { address: head.address, header, certificate, entries })
    }

    /// Proves the account from the genesis: certificate, state root, every entry, and that none is
    /// left out.
    ///
    /// # Errors
    /// The first reason why it is not proven.
    pub fn verify(
        &self,
        genesis: &Genesis,
        verifier: &dyn Verifier,
    ) -> Result<ProvenAccount, AccountProofError> {
        self.verify_with(genesis, &mut |certificate| {
            certificate.verify(genesis.chain_id(), &genesis.validators, verifier)
        })
    }

    /// As [`AccountProof::verify`], asking `check` for the certificate.
    ///
    /// # Errors
    /// The first reason why it is not proven.
    pub fn verify_with(
        &self,
        genesis: &Genesis,
        check: &mut dyn FnMut(&CommitCertificate) -> Result<(), CertificateError>,
    ) -> Result<ProvenAccount, AccountProofError> {
        let (found, expected) = (self.header.prefix.chain_id, genesis.chain_id());
        if found != expected {
            return Err(AccountProofError::WrongChain { found, expected });
        }
        if !self.certificate.is_of(&self.header) {
            return Err(AccountProofError::Unrelated { what: "certificate" });
        }
        check(&self.certificate)?;
        let height = self.header.executed_height.get();
        let lag = u64::from(genesis.parameters.certified_lag_heights);
        if height != self.header.height.get().saturating_sub(lag) {
            return Err(AccountProofError::Unrelated { what: "header" });
        }
        let log2 = genesis.parameters.state_buckets_log2;
        for ProvenEntry { key, value, proof } in &self.entries {
            let bytes = value.as_ref().map(StateValue::to_bytes);
            let bytes = bytes.as_ref().map(AsRef::as_ref);
            let proven = proof.verify(expected, log2, key, bytes, &self.header.state_root);
            proven.map_err(|cause| AccountProofError::State { key: *key, cause })?;
        }
        Ok(ProvenAccount { height, address: self.address, account: self.account()? })
    }

    /// The account that the entries make up, if they are all of it and nothing else.
    fn account(&self) -> Result<Option<AccountQuery>, AccountProofError> {
        let unrelated = AccountProofError::Unrelated { what: "entry" };
        let (first, others) = self.entries.split_first().ok_or(unrelated)?;
        if first.key != StateKey::Account(self.address) {
            return Err(unrelated);
        }
        if !self.entries.is_sorted_by(|before, after| before.key < after.key) {
            return Err(unrelated);
        }
        let account = match first.value {
            Some(StateValue::Account(account)) => account,
            None if others.is_empty() => return Ok(None),
            _ => return Err(unrelated),
        };
        let (address, mut holdings, mut mandates) = (self.address, Vec::new(), Vec::new());
        for entry in others {
            match (entry.key, entry.value) {
                (StateKey::Holding(owner, asset), Some(StateValue::Holding(holding)))
                    if owner == address =>
                {
                    holdings.push((asset, holding));
                }
                (StateKey::Mandate { owner, agent, asset }, Some(StateValue::Mandate(mandate)))
                    if owner == address =>
                {
                    mandates.push(MandateQuery { agent, asset, mandate });
                }
                _ => return Err(unrelated),
            }
        }
        let of_holdings = (account.holdings_count.into(), length_u32(&holdings).into());
        let of_mandates = (account.mandates_count.into(), length_u32(&mandates).into());
        for (what, (counted, found)) in [("holdings", of_holdings), ("mandates", of_mandates)] {
            if counted != found {
                return Err(AccountProofError::Incomplete { what, counted, found });
            }
        }
        Ok(Some(AccountQuery { address, account, holdings, mandates }))
    }
}

impl ProvenEntry {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let head: EntryHead = *reader.fixed()?;
        let (key_size, value_size) = (head.key_size.get().into(), head.value_size.get().into());
        check_range("size of a state key", key_size, 1, length(KEY_SIZE_MAX))?;
        check_range("size of a state value", value_size, 0, length(VALUE_SIZE_MAX))?;
        let key = StateKey::parse(reader.bytes(head.key_size.get().into())?).map_err(cause)?;
        let value = reader.bytes(head.value_size.get().into())?;
        let value = match value {
            [] => None,
            bytes => Some(StateValue::parse(&key, bytes).map_err(cause)?),
        };
        let proof = StateProof::parse(reader.bytes(index(head.proof_size.get()))?)?;
        Ok(Self { key, value, proof })
    }
}

fn length(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

/// What is wrong with bytes that did not come from the store.
fn cause(corrupt: Corrupt) -> DecodeError {
    match corrupt {
        Corrupt::Key { cause } | Corrupt::Value { cause, .. } => cause,
        _ => unreachable!("keys and values are read here, and nothing else"),
    }
}
