//! What must always hold, checked while a run goes on and at its end.

use std::collections::BTreeMap;

use hufu_consensus::Message;
use hufu_consensus::guard::{Position, SignIntent};
use hufu_consensus::header::ExecutedRoots;
use hufu_types::receipt::Failure as TransactionFailure;
use hufu_types::{
    Batch, BatchDigest, Block, BlockDigest, FailureCode, Receipt, TxId, VoteStep,
    verify_transactions,
};

use crate::material::Material;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{oracle}: {detail}")]
pub struct Failure {
    /// Which rule.
    pub oracle: &'static str,
    /// What happened.
    pub detail: String,
}

impl Failure {
    pub(crate) fn new(oracle: &'static str, detail: impl Into<String>) -> Self {
        Self { oracle, detail: detail.into() }
    }
}

/// What one height came to, on whichever honest node was first.
struct Canonical {
    block: BlockDigest,
    roots: Option<ExecutedRoots>,
}

/// What a node told a client.
struct Acknowledged {
    height: u64,
    receipt: Receipt,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Oracles {
    chain: BTreeMap<u64, Canonical>,
    genesis: Option<ExecutedRoots>,
    /// The node that may break rules.
    pub(crate) byzantine: Option<usize>,
    /// Everything that a key of an honest node signed, over all its lives.
    signed: BTreeMap<(usize, Position), Vec<u8>>,
    ordered: BTreeMap<BatchDigest, u64>,
    receipts: BTreeMap<TxId, Receipt>,
    acknowledged: BTreeMap<TxId, Acknowledged>,
}

impl Oracles {
    pub(crate) fn new(genesis: ExecutedRoots, byzantine: Option<usize>) -> Self {
        Self { genesis: Some(genesis), byzantine, ..Self::default() }
    }

    /// The highest height that any honest node decided.
    pub(crate) fn height(&self) -> u64 {
        self.chain.last_key_value().map_or(0, |(height, _)| *height)
    }

    /// An honest node decided a block.
    pub(crate) fn decided(&mut self, place: usize, block: &Block) -> Result<(), Failure> {
        let (height, digest) = (block.height(), block.digest());
        let first = self.chain.entry(height).or_insert(Canonical { block: digest, roots: None });
        if first.block == digest {
            return Ok(());
        }
        let text = format!("node {place} decides {digest} at height {height}, not {}", first.block);
        Err(Failure::new("agreement", text))
    }

    /// An honest node is about to sign.
    pub(crate) fn signs(&mut self, place: usize, intent: &SignIntent) -> Result<(), Failure> {
        let position = intent.position();
        let before = self.signed.entry((place, position)).or_insert(intent.bytes().to_vec());
        if before == intent.bytes() {
            return Ok(());
        }
        Err(Failure::new("no double sign", format!("node {place} signs twice at {position}")))
    }

    /// An honest node executed the next block.
    pub(crate) fn executed(
        &mut self,
        material: &Material,
        place: usize,
        (block, batches): (&Block, &[Batch]),
        receipts: &[Receipt],
        roots: ExecutedRoots,
    ) -> Result<(), Failure> {
        let height = block.height();
        self.decided(place, block)?;
        if let Some(Canonical { roots: Some(first), .. }) = self.chain.get(&height) {
            if *first == roots {
                return Ok(());
            }
            let text = format!("node {place} has other roots at height {height}");
            return Err(Failure::new("equal roots", text));
        }
        self.check_header(block)?;
        self.check_batches(material, block, batches)?;
        self.check_receipts(receipts)?;
        if let Some(canonical) = self.chain.get_mut(&height) {
            canonical.roots = Some(roots);
        }
        Ok(())
    }

    /// The header certifies the roots that its chain came to.
    fn check_header(&self, block: &Block) -> Result<(), Failure> {
        let header = block.header();
        let of = header.executed_height.get();
        let expected = if of == 0 {
            self.genesis
        } else {
            self.chain.get(&of).and_then(|canonical| canonical.roots)
        };
        let is_equal = expected.is_some_and(|roots| {
            roots.state_root == header.state_root
                && roots.receipts_root == header.receipts_root
                && roots.receipts_count == header.receipts_count.get()
        });
        if is_equal {
            return Ok(());
        }
        let text = format!("header of height {} has other roots of height {of}", block.height());
        Err(Failure::new("certified roots", text))
    }

    /// What was ordered: once, in time, and signed by its senders.
    fn check_batches(
        &mut self,
        material: &Material,
        block: &Block,
        batches: &[Batch],
    ) -> Result<(), Failure> {
        let height = block.height();
        for batch in batches {
            let digest = batch.digest();
            if let Some(before) = self.ordered.insert(digest, height) {
                let text = format!("a batch of height {before} is ordered again at {height}");
                return Err(Failure::new("ordered once", text));
            }
            let last = batch.header().last_height.get();
            if last < height {
                let text = format!("a batch that ends at {last} is ordered at {height}");
                return Err(Failure::new("ordered in time", text));
            }
            if !is_valid(material, batch) {
                let text = format!("height {height} orders a bad signature");
                return Err(Failure::new("signatures", text));
            }
        }
        Ok(())
    }

    /// Each transaction takes effect once.
    fn check_receipts(&mut self, receipts: &[Receipt]) -> Result<(), Failure> {
        for receipt in receipts {
            let code = receipt.outcome().map_err(|error| {
                Failure::new("receipts", format!("a receipt is not canonical: {error}"))
            })?;
            let is_void = matches!(
                code,
                Err(TransactionFailure { code: FailureCode::NonceUsed | FailureCode::Expired, .. })
            );
            if is_void {
                continue;
            }
            if let Some(before) = self.receipts.insert(receipt.id, *receipt) {
                let (first, second) = (before.height.get(), receipt.height.get());
                let text = format!("a transaction takes effect at heights {first} and {second}");
                return Err(Failure::new("exactly once", text));
            }
        }
        Ok(())
    }

    /// A node tells a client the receipt of its transaction.
    pub(crate) fn acknowledges(&mut self, receipt: &Receipt) {
        let (height, receipt) = (receipt.height.get(), *receipt);
        self.acknowledged.entry(receipt.id).or_insert(Acknowledged { height, receipt });
    }

    /// Every receipt that a client was told is in this chain, which an honest node has at the end.
    pub(crate) fn check_durability(
        &self,
        place: usize,
        receipts: &BTreeMap<TxId, Receipt>,
        height: u64,
    ) -> Result<(), Failure> {
        for (id, told) in &self.acknowledged {
            if receipts.get(id) != Some(&told.receipt) {
                let at = told.height;
                let text = format!("node {place} at {height} lost receipt {id} of height {at}");
                return Err(Failure::new("durability", text));
            }
        }
        Ok(())
    }
}

/// Whether every transaction of the batch is signed by its sender.
pub(crate) fn is_valid(material: &Material, batch: &Batch) -> bool {
    let transactions = (0..batch.entries().len()).filter_map(|place| {
        let bytes = batch.transaction(place)?.bytes();
        hufu_types::Transaction::parse(bytes.into()).ok()
    });
    let verdicts =
        verify_transactions(&material.provider, material.chain_id, transactions.collect());
    verdicts.len() == batch.entries().len() && verdicts.iter().all(Result::is_ok)
}

/// The blocks for which a message of ours carries a precommit of `place`'s own.
pub(crate) fn own_precommits(
    message: &Message,
    own: hufu_types::Address,
) -> impl Iterator<Item = (u64, BlockDigest)> {
    let votes: Vec<_> = match message {
        Message::Vote(signed) => vec![*signed],
        Message::Votes(bundle) => bundle.votes().to_vec(),
        Message::Proposal(_) => Vec::new(),
    };
    votes.into_iter().filter_map(move |signed| {
        let vote = signed.vote;
        let is_own = vote.validator == own && vote.step() == VoteStep::Precommit;
        is_own.then_some(()).and(vote.block()).map(|block| (vote.height.get(), block))
    })
}
