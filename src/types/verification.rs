//! The only place where a transaction becomes verified, and the type that says so.
//!
//! Digests, duplicates and batching are the caller's; the rule of what is valid is here: the right
//! chain, the right suite, and an SM2 signature over e = SM3(ZA || unsigned bytes) that the
//! verifier accepts on its own.

use hufu_crypto::{Digest, Hasher, Provider, PublicKey, Verdict, VerifyItem};

use crate::batch::Batch;
use crate::codes::RefusalCode;
use crate::ids::{ChainId, TxDigest, TxId};
use crate::transaction::{
    SUITE_SM2_SM3, Transaction, TransactionHeader, TransactionView, tx_digest_message,
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
    /// Computes the identifiers of the transactions, side by side.
    #[must_use]
    pub fn many(
        hasher: &dyn Hasher,
        chain_id: ChainId,
        transactions: Vec<Transaction>,
    ) -> Vec<Self> {
        let messages: Vec<&[u8]> = transactions.iter().map(Transaction::unsigned_bytes).collect();
        let mut ids = vec![Digest::ZERO; messages.len()];
        hasher.digest_many(&messages, &mut ids);
        let messages: Vec<_> = transactions
            .iter()
            .zip(&ids)
            .map(|(transaction, id)| tx_digest_message(chain_id, id, transaction.signature()))
            .collect();
        let messages: Vec<&[u8]> = messages.iter().map(<[u8; _]>::as_slice).collect();
        let mut digests = vec![Digest::ZERO; messages.len()];
        hasher.digest_many(&messages, &mut digests);
        let identifiers = ids.into_iter().zip(digests);
        transactions
            .into_iter()
            .zip(identifiers)
            .map(|(transaction, (id, digest))| Self {
                transaction,
                id: TxId(id),
                digest: TxDigest(digest),
            })
            .collect()
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
/// All digests are computed side by side; ZA of keys that the provider knows are not computed.
#[must_use]
pub fn verify_transactions(
    provider: &Provider,
    chain_id: ChainId,
    transactions: Vec<Transaction>,
) -> Vec<Verification> {
    let identified = Identified::many(&*provider.hasher, chain_id, transactions);
    verify_identified(provider, chain_id, identified)
}

/// As [`verify_transactions`], for transactions whose identifiers are known already.
#[must_use]
pub fn verify_identified(
    provider: &Provider,
    chain_id: ChainId,
    transactions: Vec<Identified>,
) -> Vec<Verification> {
    let signed = transactions.iter().map(|Identified { transaction, .. }| {
        (&transaction.header().sender, transaction.unsigned_bytes())
    });
    let digests = signed_digests(provider, &signed.collect::<Vec<_>>());
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
    let signed = views.iter().map(|view| (&view.header().sender, view.unsigned_bytes()));
    let digests = signed_digests(provider, &signed.collect::<Vec<_>>());
    let items: Vec<VerifyItem<'_>> = views
        .iter()
        .zip(digests)
        .map(|(view, digest)| VerifyItem {
            key: &view.header().sender,
            digest,
            signature: view.signature(),
        })
        .collect();
    let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
    provider.verifier.verify_many(&items, &mut verdicts);
    verdicts.iter().all(|verdict| *verdict == Verdict::Valid)
}

/// e = SM3(ZA || bytes) of each key and what it signed.
fn signed_digests(provider: &Provider, signed: &[(&PublicKey, &[u8])]) -> Vec<Digest> {
    let keys: Vec<&PublicKey> = signed.iter().map(|(key, _)| *key).collect();
    let mut identities = vec![Digest::ZERO; keys.len()];
    provider.known_keys.identity_digests(&*provider.hasher, &keys, &mut identities);
    let messages: Vec<Vec<u8>> = identities
        .iter()
        .zip(signed)
        .map(|(identity, (_, bytes))| [identity.as_bytes().as_slice(), bytes].concat())
        .collect();
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let mut digests = vec![Digest::ZERO; messages.len()];
    provider.hasher.digest_many(&messages, &mut digests);
    digests
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
