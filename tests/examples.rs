//! One fixed value of every type that is stored, sent or signed, and a small real chain.
//!
//! Keys are fixed and nonces follow from them (RFC 6979), so every byte is the same on every
//! machine: conformance pins the hashes, and the property tests begin from these values.

use hufu_crypto::{
    Address, Digest, Provider, Signature, Signer as _, Sm3, SoftwareSigner, software_provider,
};
use hufu_types::block::BlockHeader;
use hufu_types::merkle::MerkleTree;
use hufu_types::operation::{
    AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, RevokeMandateBody, SupplyBody,
};
use hufu_types::receipt::{Failure, Outcome};
use hufu_types::vote::signing_digest;
use hufu_types::{
    AssetCode, Batch, BatchBuilder, Block, BlockDigest, CertifiedPart, ChainId, CommitCertificate,
    CommitSignature, DomainPrefix, FailureCode, Genesis, Kind, Leg, Operation, OperationKind,
    Parameters, Proposal, Receipt, ReceiptProof, SignedProposal, SignedVote, Strength, Transaction,
    TransactionBuilder, Validator, ValidatorSet, Verified, Vote, VoteStep, verify_transactions,
};
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64, U128};

const SHARE: AssetCode = AssetCode(*b"AAPL\0\0\0\0\0\0\0\0\0\0\0\0");
const CASH: AssetCode = AssetCode(*b"USD\0\0\0\0\0\0\0\0\0\0\0\0\0");
const SELLER: Address = Address([0x11; 20]);
const BUYER: Address = Address([0x22; 20]);

static ACCOUNT: AccountBody = AccountBody { address: SELLER };
static ASSET: CreateAssetBody = CreateAssetBody::new(CASH, BUYER, 4, u128::MAX);
static SUPPLY: SupplyBody = SupplyBody { asset: SHARE, account: SELLER, amount: U128::new(1_000) };
static LEGS: [Leg; 2] = [
    Leg { asset: SHARE, from: SELLER, to: BUYER, amount: U128::new(100) },
    Leg { asset: CASH, from: BUYER, to: SELLER, amount: U128::new(100 * 5_853_300) },
];
static GRANT: GrantMandateBody = GrantMandateBody {
    agent: BUYER,
    asset: CASH,
    limit: U128::new(1 << 100),
    expires_at: U64::new(10_000),
};
static REVOKE: RevokeMandateBody = RevokeMandateBody { agent: BUYER, asset: CASH };
static HOLDING: HoldingBody = HoldingBody { asset: SHARE, account: SELLER };
static NOTARISED: Digest = Digest([0x5a; 32]);

/// The seed of every signature of the examples.
///
/// # Panics
/// If `number` is 0 or 255, which make no private key.
#[must_use]
pub fn signer(number: u8) -> SoftwareSigner {
    SoftwareSigner::repeatable(&[number; 32]).unwrap()
}

/// One operation of each kind, with its name.
#[must_use]
pub fn operations() -> Vec<(&'static str, Operation<'static>)> {
    let all = vec![
        ("open_account", Operation::OpenAccount(&ACCOUNT)),
        ("close_account", Operation::CloseAccount(&ACCOUNT)),
        ("create_asset", Operation::CreateAsset(&ASSET)),
        ("issue_asset", Operation::IssueAsset(&SUPPLY)),
        ("redeem_asset", Operation::RedeemAsset(&SUPPLY)),
        ("transfer", Operation::Transfer(&LEGS[0])),
        ("settle", Operation::Settle(&LEGS)),
        ("grant_mandate", Operation::GrantMandate(&GRANT)),
        ("revoke_mandate", Operation::RevokeMandate(&REVOKE)),
        ("notarise", Operation::Notarise { digest: &NOTARISED, memo: b"order 1 of AAPL" }),
        ("freeze_holding", Operation::FreezeHolding(&HOLDING)),
        ("unfreeze_holding", Operation::UnfreezeHolding(&HOLDING)),
    ];
    // Kinds are numbered from 1 without a gap; the last one names their count.
    assert_eq!(all.len(), usize::from(OperationKind::UnfreezeHolding as u16), "one of each kind");
    all
}

/// Two validators of equal power, one lag, sixteen buckets.
///
/// # Panics
/// If the fixed values are no genesis.
#[must_use]
pub fn genesis() -> Genesis {
    let validator = |name: &str, number| Validator {
        name: name.to_owned(),
        key: *signer(number).public_key(),
        link_key: *signer(number + 100).public_key(),
        power: 1,
    };
    let validators = ValidatorSet::new(vec![validator("one", 1), validator("two", 2)]).unwrap();
    let parameters =
        Parameters { certified_lag_heights: 1, block_interval_millis: 50, state_buckets_log2: 4 };
    let openers = vec![SELLER, BUYER];
    Genesis::new(
        "example-chain".to_owned(),
        1_340_285_400_000,
        parameters,
        validators,
        openers,
        vec![BUYER],
    )
    .unwrap()
}

/// A signed transaction with these operations.
///
/// # Panics
/// If the operations are not canonical.
#[must_use]
pub fn transaction(chain_id: ChainId, nonce: u64, operations: &[Operation<'_>]) -> Transaction {
    let sender = signer(3);
    let mut builder = TransactionBuilder::new(chain_id, *sender.public_key(), nonce, 600);
    for operation in operations {
        builder = builder.operation(*operation);
    }
    let unsigned = builder.unsigned();
    let digest = TransactionBuilder::signing_digest(&unsigned, sender.public_key());
    TransactionBuilder::join(unsigned, &sender.sign(&digest).unwrap()).unwrap()
}

/// The transactions, verified.
///
/// # Panics
/// If one of them is not valid.
#[must_use]
pub fn verified(
    provider: &Provider,
    chain_id: ChainId,
    transactions: Vec<Transaction>,
) -> Vec<Verified<Transaction>> {
    let verdicts = verify_transactions(provider, chain_id, transactions);
    verdicts.into_iter().map(Result::unwrap).collect()
}

/// One height of the chain: the block, its bodies, its certificate and its results.
#[derive(Clone, Debug)]
pub struct Height {
    /// The block.
    pub block: Block,
    /// The batches it orders.
    pub batches: Vec<Batch>,
    /// Both validators' precommits.
    pub certificate: CommitCertificate,
    /// What became of its transactions.
    pub receipts: Vec<Receipt>,
}

/// A chain of three blocks: five transactions in two batches, one transaction, none.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What it begins with.
    pub genesis: Genesis,
    /// Heights 1, 2 and 3.
    pub heights: Vec<Height>,
}

impl Chain {
    /// Builds it; signatures are real.
    ///
    /// # Panics
    /// If the types refuse what they were given.
    #[must_use]
    pub fn new() -> Self {
        let genesis = genesis();
        let mut chain = Self { genesis, heights: Vec::new() };
        for counts in [&[3_u64, 2][..], &[1], &[]] {
            let height = chain.next(counts);
            chain.heights.push(height);
        }
        chain
    }

    /// The id of the chain.
    #[must_use]
    pub fn id(&self) -> ChainId {
        self.genesis.chain_id()
    }

    /// The height after the last, with one batch of so many transactions for each of `counts`.
    fn next(&self, counts: &[u64]) -> Height {
        let (id, provider) = (self.id(), software_provider());
        let number = self.heights.len() as u64 + 1;
        let origin = signer(1).public_key().address();
        let mut builder = BatchBuilder::new(id, origin);
        let mut batches = Vec::new();
        for (sequence, count) in (1..).zip(counts) {
            let operations = operations();
            let made = (0..*count).map(|index| {
                let (_, operation) = operations[index as usize];
                transaction(id, 1_000 * number + 10 * sequence + index, &[operation])
            });
            for transaction in verified(&provider, id, made.collect()) {
                builder.push(&transaction);
            }
            batches.push(builder.seal(100 * number + sequence, &*provider.hasher));
        }
        let block = self.block(number, &batches);
        let certificate = self.certificate(block.header());
        let entries = batches.iter().flat_map(Batch::entries);
        let receipts = (0..).zip(entries).map(|(index, entry)| {
            Receipt::new(id, number, index, entry.id, entry.digest, outcome(index))
        });
        Height { receipts: receipts.collect(), block, batches, certificate }
    }

    fn block(&self, number: u64, batches: &[Batch]) -> Block {
        let (id, provider) = (self.id(), software_provider());
        let parent = self.heights.last();
        let executed: &[Receipt] = parent.map_or(&[], |height| &height.receipts);
        let leaves = executed.iter().map(Receipt::leaf).collect();
        let digests: Vec<_> = batches.iter().map(Batch::digest).collect();
        let transactions: usize = batches.iter().map(|batch| batch.entries().len()).sum();
        let header = BlockHeader {
            prefix: DomainPrefix::new(Kind::BlockHeader, id),
            height: U64::new(number),
            time_millis: U64::new(self.genesis.time_millis + 50 * number),
            parent: parent.map_or(BlockDigest::ZERO, |height| height.block.digest()),
            proposer: signer(1).public_key().address(),
            batches_count: U32::new(digests.len() as u32),
            transactions_count: U32::new(transactions as u32),
            transactions_root: Block::transactions_root(&digests, &*provider.hasher),
            executed_height: U64::new(number - 1),
            state_root: Sm3::of(&[b"state", &number.to_le_bytes()]),
            receipts_root: MerkleTree::new(leaves, &*provider.hasher).root(),
            receipts_count: U32::new(executed.len() as u32),
            validators: self.genesis.validators.digest(id),
            present: 1.into(),
        };
        Block::new(header, digests, &*provider.hasher).unwrap()
    }

    /// The precommits of both validators for a block of this chain.
    ///
    /// # Panics
    /// If a signature cannot be made.
    #[must_use]
    pub fn certificate(&self, header: &BlockHeader) -> CommitCertificate {
        let (height, block) = (header.height.get(), header.digest());
        let sign = |number| {
            let signed = precommit(self.id(), height, block, number);
            CommitSignature { validator: signed.vote.validator, signature: signed.signature }
        };
        let mut signatures = vec![sign(1), sign(2)];
        signatures.sort_by_key(|signed| signed.validator);
        CommitCertificate { height, round: 2, block, signatures }
    }

    /// The receipt at `index` of the block at `height`, with its proof.
    ///
    /// # Panics
    /// If there is no such receipt, or the next height does not exist for [`Strength::Certified`].
    #[must_use]
    pub fn proof(&self, height: u64, index: u32, strength: Strength) -> ReceiptProof {
        let provider = software_provider();
        let at = &self.heights[height as usize - 1];
        let (mut batch_index, mut before) = (0_usize, 0_u32);
        while index - before >= at.batches[batch_index].entries().len() as u32 {
            before += at.batches[batch_index].entries().len() as u32;
            batch_index += 1;
        }
        let batch = &at.batches[batch_index];
        let place = (index - before) as usize;
        let digests = at.batches.iter().map(|batch| batch.digest().0).collect();
        let certified = (strength == Strength::Certified).then(|| {
            let next = &self.heights[height as usize];
            let leaves = at.receipts.iter().map(Receipt::leaf).collect();
            let tree = MerkleTree::new(leaves, &*provider.hasher);
            CertifiedPart {
                header: *next.block.header(),
                certificate: next.certificate.clone(),
                path: tree.path(index as usize).unwrap(),
            }
        });
        ReceiptProof {
            receipt: at.receipts[index as usize],
            signature: *batch.transaction(place).unwrap().signature(),
            header: *at.block.header(),
            certificate: at.certificate.clone(),
            batch: *batch.header(),
            batch_index: batch_index as u32,
            transactions_before: before,
            batch_path: batch.tree(&*provider.hasher).path(place).unwrap(),
            block_path: MerkleTree::new(digests, &*provider.hasher).path(batch_index).unwrap(),
            certified,
        }
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

/// Successes and failures in turn.
fn outcome(index: u32) -> Outcome {
    match index % 3 {
        0 => Ok(()),
        1 => Err(Failure { code: FailureCode::BalanceInsufficient, operation: Some(0) }),
        _ => Err(Failure { code: FailureCode::Expired, operation: None }),
    }
}

/// The precommit of the validator with this key number, in round 2.
///
/// # Panics
/// If the signature cannot be made.
#[must_use]
pub fn precommit(chain_id: ChainId, height: u64, block: BlockDigest, number: u8) -> SignedVote {
    let validator = signer(number);
    let address = validator.public_key().address();
    let vote = Vote::new(chain_id, VoteStep::Precommit, height, 2, Some(block), address);
    let digest = signing_digest(vote.as_bytes(), validator.public_key());
    SignedVote { vote, signature: validator.sign(&digest).unwrap() }
}

/// A prevote for nil with a signature that is only bytes.
#[must_use]
pub fn prevote_for_nil(chain_id: ChainId) -> SignedVote {
    let vote = Vote::new(chain_id, VoteStep::Prevote, 7, 0, None, SELLER);
    SignedVote { vote, signature: Signature([0x77; 64]) }
}

/// Proposals without and with a proof of lock, with signatures that are only bytes.
#[must_use]
pub fn proposals(chain_id: ChainId) -> [SignedProposal; 2] {
    let block = BlockDigest(Digest([0x33; 32]));
    [None, Some(4)].map(|lock| SignedProposal {
        proposal: Proposal::new(chain_id, 7, 5, block, lock, SELLER),
        signature: Signature([0x88; 64]),
    })
}
