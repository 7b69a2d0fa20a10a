//! The only place where a transaction becomes verified, and the type that says so.
//!
//! Digests, duplicates and batching are the caller's; the rule of what is valid is here: the right
//! chain, the right suite, and an SM2 signature over e = SM3(ZA || unsigned bytes) that the
//! verifier accepts on its own.

use hufu_crypto::{
    Digest, IDENTITY_DEFAULT, Provider, Verdict, VerifyItem, identity_digest, message_digest,
};

use crate::batch::Batch;
use crate::codes::RefusalCode;
use crate::ids::{ChainId, TxDigest, TxId};
use crate::transaction::{
    SUITE_SM2_SM3, Transaction, TransactionHeader, TransactionView, tx_digest,
};

/// Something whose signature was verified individually; only this module makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    id: TxId,
    digest: TxDigest,
}

impl<T> Verified<T> {
    /// The verified thing.
    pub const fn get(&self) -> &T {
        &self.inner
    }

    /// The thing itself, without its proof.
    pub fn into_inner(self) -> T {
        self.inner
    }
}

impl Verified<Transaction> {
    /// The transaction's id.
    #[must_use]
    pub const fn id(&self) -> TxId {
        self.id
    }

    /// The digest of all its bytes.
    #[must_use]
    pub const fn digest(&self) -> TxDigest {
        self.digest
    }
}

/// Why a transaction may not be included, from its header alone.
#[must_use]
pub fn check_header(transaction: &Transaction, chain_id: ChainId) -> Option<RefusalCode> {
    header_refusal(transaction.header(), chain_id)
}

fn header_refusal(header: &TransactionHeader, chain_id: ChainId) -> Option<RefusalCode> {
    if header.prefix.chain_id != chain_id {
        return Some(RefusalCode::WrongChain);
    }
    (header.suite != SUITE_SM2_SM3).then_some(RefusalCode::SuiteUnknown)
}

/// Why `valid_until` does not fit a chain whose next block has the height `height`.
#[must_use]
pub fn check_validity(valid_until: u64, height: u64) -> Option<RefusalCode> {
    if valid_until < height {
        return Some(RefusalCode::Expired);
    }
    let furthest = height.saturating_add(crate::limits::TX_VALIDITY_HEIGHTS_MAX);
    (valid_until > furthest).then_some(RefusalCode::ValidityTooLong)
}

/// A canonical transaction with its identifiers, not verified yet: enough to recognise an exact
/// copy of a verified one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    transaction: Transaction,
    id: TxId,
    digest: TxDigest,
}

impl Identified {
    /// Computes the identifiers of `transaction`.
    #[must_use]
    pub fn new(transaction: Transaction, chain_id: ChainId) -> Self {
        let view = transaction.view();
        let id = view.id();
        let digest = tx_digest(chain_id, &id, view.signature());
        Self { transaction, id, digest }
    }

    /// The transaction, of which nothing but its form is known.
    #[must_use]
    pub const fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// SM3 of the unsigned bytes.
    #[must_use]
    pub const fn id(&self) -> TxId {
        self.id
    }

    /// The digest of all bytes.
    #[must_use]
    pub const fn digest(&self) -> TxDigest {
        self.digest
    }
}

/// The verdict on one transaction.
pub type Verification = Result<Verified<Transaction>, (RefusalCode, Transaction)>;

/// Verifies a batch: outcome `i` belongs to `transactions[i]`, and a bad one never spoils its
/// neighbours.
///
/// ZA is computed per item; a provider that keeps keys in a cache keeps it there.
#[must_use]
pub fn verify_transactions(
    provider: &Provider,
    chain_id: ChainId,
    transactions: Vec<Transaction>,
) -> Vec<Verification> {
    let identified = transactions.into_iter().map(|one| Identified::new(one, chain_id)).collect();
    verify_identified(provider, chain_id, identified)
}

/// As [`verify_transactions`], for transactions whose identifiers are known already.
#[must_use]
pub fn verify_identified(
    provider: &Provider,
    chain_id: ChainId,
    transactions: Vec<Identified>,
) -> Vec<Verification> {
    let digests: Vec<Digest> = transactions
        .iter()
        .map(|Identified { transaction, .. }| {
            let za = identity_digest(IDENTITY_DEFAULT, &transaction.header().sender);
            message_digest(&za, transaction.unsigned_bytes())
        })
        .collect();
    let items: Vec<VerifyItem<'_>> = transactions
        .iter()
        .zip(&digests)
        .map(|(Identified { transaction, .. }, digest)| VerifyItem {
            key: &transaction.header().sender,
            digest: *digest,
            signature: transaction.signature(),
        })
        .collect();
    let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
    provider.verifier.verify_many(&items, &mut verdicts);
    drop(items);
    let judged = transactions.into_iter().zip(verdicts);
    judged.map(|(identified, verdict)| judge(identified, verdict, chain_id)).collect()
}

/// Whether `count` transactions of a batch from its `first` on are all valid; they are verified in
/// place, each on its own. What lies behind the batch's last transaction is not valid.
#[must_use]
pub fn verify_batch(
    provider: &Provider,
    chain_id: ChainId,
    batch: &Batch,
    first: usize,
    count: usize,
) -> bool {
    let places = first..first.saturating_add(count);
    let views: Option<Vec<TransactionView<'_>>> =
        places.map(|place| batch.transaction(place)).collect();
    let Some(views) = views else { return false };
    let is_refused = |view: &TransactionView<'_>| header_refusal(view.header(), chain_id).is_some();
    if views.iter().any(is_refused) {
        return false;
    }
    let items: Vec<VerifyItem<'_>> = views
        .iter()
        .map(|view| {
            let za = identity_digest(IDENTITY_DEFAULT, &view.header().sender);
            let digest = message_digest(&za, view.unsigned_bytes());
            VerifyItem { key: &view.header().sender, digest, signature: view.signature() }
        })
        .collect();
    let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
    provider.verifier.verify_many(&items, &mut verdicts);
    verdicts.iter().all(|verdict| *verdict == Verdict::Valid)
}

fn judge(identified: Identified, verdict: Verdict, chain_id: ChainId) -> Verification {
    let Identified { transaction, id, digest } = identified;
    if let Some(refusal) = check_header(&transaction, chain_id) {
        return Err((refusal, transaction));
    }
    match verdict {
        Verdict::Valid => Ok(Verified { inner: transaction, id, digest }),
        Verdict::KeyInvalid => Err((RefusalCode::KeyInvalid, transaction)),
        Verdict::SignatureInvalid => Err((RefusalCode::SignatureInvalid, transaction)),
    }
}
