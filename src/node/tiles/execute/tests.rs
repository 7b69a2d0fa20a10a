//! Proven accounts: answered at rest, between two blocks, and not at all.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hufu_crypto::{Provider, Signer, SoftwareSigner, software_provider_with};
use hufu_ledger::{AccountProof, ProvenAccount};
use hufu_network::message::answer::AccountState;
use hufu_network::message::request::QueryAccount;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer, link};
use hufu_runtime::net::{Backend, Config, ConnToken, Reactor};
use hufu_runtime::tile::{Progress, Tile};
use hufu_storage::block_log::RecordPosition;
use hufu_storage::state_store::{StateStore, StateStoreOptions};
use hufu_types::operation::AccountBody;
use hufu_types::vote::{VoteStep, signing_digest};
use hufu_types::{
    Address, Batch, BatchBuilder, Block, BlockDigest, BlockHeader, CommitCertificate,
    CommitSignature, DomainPrefix, Genesis, Kind, Operation, Parameters, Transaction,
    TransactionBuilder, Validator, ValidatorSet, Vote, verify_transactions,
};
use zerocopy::IntoBytes;

use super::*;
use crate::executor::Executor;
use crate::messages::{AnswerBody, Asker, DecidedBlock};
use crate::metrics::Metrics;

const POSITION: RecordPosition =
    RecordPosition { sequence: 1, segment: 1, group_offset: 0, record_offset: 0 };
const NEW: Address = Address([5; 20]);

/// An execute tile, and the test in the place of every other one.
struct Rig {
    tile: ExecuteTile,
    genesis: Genesis,
    signer: SoftwareSigner,
    provider: Provider,
    connection: ConnToken,
    blocks: Producer<DurableBlock>,
    questions: Producer<Question>,
    roots: Consumer<ExecutedRoots>,
    results: Consumer<Executed>,
    answers: Consumer<Answer>,
    last: Vec<ExecutedRoots>,
    parent: BlockDigest,
    now: u64,
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (provider, signer) = (
            software_provider_with(hufu_crypto::Backend::best(), 8),
            SoftwareSigner::from_bytes(&[7; 32]).unwrap(),
        );
        let key = *signer.public_key();
        let link_key = *SoftwareSigner::from_bytes(&[8; 32]).unwrap().public_key();
        let one = Validator { name: "one".to_owned(), key, link_key, power: 1 };
        let validators = ValidatorSet::new(vec![one]).unwrap();
        let parameters = Parameters {
            certified_lag_heights: 1,
            block_interval_millis: 50,
            state_buckets_log2: 4,
        };
        let named = vec![key.address()];
        let genesis =
            Genesis::new("test".to_owned(), 1_000, parameters, validators, named.clone(), named);
        let genesis = genesis.unwrap();
        let store = StateStore::open(&StateStoreOptions::new(folder.path())).unwrap();
        let metrics = Arc::new(Metrics::default());
        let executor =
            Executor::open(&genesis, provider.clone(), Arc::new(store), 1 << 20, metrics).unwrap();
        let last = executor.recent_roots().to_vec();
        let (blocks, to_execute) = link("blocks", 4);
        let (questions, asked) = link("questions", 512);
        let (to_consensus, roots) = link("roots", 4);
        let (to_query, results) = link("results", 16);
        let (to_ingress, answers) = link("answers", 512);
        let links = ExecuteLinks {
            blocks: to_execute,
            questions: vec![asked],
            to_consensus,
            results: vec![to_query],
            answers: vec![to_ingress],
            workers: Vec::new(),
        };
        let config = Config { backend: Backend::Epoll, connections_max: 1, ..Config::default() };
        let mut reactor = Reactor::new(config).unwrap();
        let connection = reactor.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).unwrap();
        Self {
            tile: ExecuteTile::new(executor, None, links),
            genesis,
            signer,
            provider,
            connection,
            blocks,
            questions,
            roots,
            results,
            answers,
            last,
            parent: BlockDigest::ZERO,
            now: 0,
            _folder: folder,
        }
    }

    fn poll(&mut self) {
        while self.tile.poll(Nanos::from_nanos(self.now)).unwrap() == Progress::Busy {}
    }

    /// Opens an account, or does what fails, in a transaction of its own.
    fn opening(&self, nonce: u64, address: Address) -> Transaction {
        self.opening_until(500, nonce, address)
    }

    fn opening_until(&self, valid_until: u64, nonce: u64, address: Address) -> Transaction {
        let key = *self.signer.public_key();
        let body = AccountBody { address };
        let builder = TransactionBuilder::new(self.genesis.chain_id(), key, nonce, valid_until)
            .operation(Operation::OpenAccount(&body));
        let unsigned = builder.unsigned();
        let digest = TransactionBuilder::signing_digest(&unsigned, &key);
        TransactionBuilder::join(unsigned, &self.signer.sign(&digest).unwrap()).unwrap()
    }

    /// Decides and executes the next block.
    fn block(&mut self, transactions: Vec<Transaction>) {
        let (id, address) = (self.genesis.chain_id(), self.signer.public_key().address());
        let hasher = Arc::clone(&self.provider.hasher);
        let height = self.last.last().unwrap().height + 1;
        let is_empty = transactions.is_empty();
        let mut builder = BatchBuilder::new(id, address);
        for verified in verify_transactions(&self.provider, id, transactions) {
            builder.push(&verified.unwrap());
        }
        let batches: Vec<Batch> =
            if is_empty { Vec::new() } else { vec![builder.seal(height, &*hasher)] };
        let digests: Vec<_> = batches.iter().map(Batch::digest).collect();
        let count: usize = batches.iter().map(|batch| batch.entries().len()).sum();
        let roots = *self.last.iter().find(|roots| roots.height == height - 1).unwrap();
        let header = BlockHeader {
            prefix: DomainPrefix::new(Kind::BlockHeader, id),
            height: height.into(),
            time_millis: (1_000 + height).into(),
            parent: self.parent,
            proposer: address,
            batches_count: u32::try_from(digests.len()).unwrap().into(),
            transactions_count: u32::try_from(count).unwrap().into(),
            transactions_root: Block::transactions_root(&digests, &*hasher),
            executed_height: roots.height.into(),
            state_root: roots.state_root,
            receipts_root: roots.receipts_root,
            receipts_count: roots.receipts_count.into(),
            validators: self.genesis.validators.digest(id),
            present: 0.into(),
        };
        let block = Block::new(header, digests, &*hasher).unwrap();
        let certificate = self.certificate(&header);
        self.parent = block.digest();
        let bodies = vec![POSITION; batches.len()];
        let decided = DecidedBlock { block, certificate, batches };
        let durable = DurableBlock { decided, position: POSITION, bodies, replay_from: POSITION };
        self.blocks.try_push(durable).unwrap();
        self.poll();
        self.last.push(self.roots.pop().unwrap());
        self.results.pop().unwrap();
    }

    fn certificate(&self, header: &BlockHeader) -> CommitCertificate {
        let (height, block, key) = (header.height.get(), header.digest(), self.signer.public_key());
        let id = self.genesis.chain_id();
        let vote = Vote::new(id, VoteStep::Precommit, height, 0, Some(block), key.address());
        let signature = self.signer.sign(&signing_digest(vote.as_bytes(), key)).unwrap();
        let signatures = vec![CommitSignature { validator: key.address(), signature }];
        CommitCertificate { height, round: 0, block, signatures }
    }

    fn ask(&mut self, address: Address, with_proof: bool) {
        let query = Query::Account(QueryAccount { address, with_proof });
        let asker = Asker { connection: self.connection, request: 1 };
        self.questions.try_push(Question { asker, query }).unwrap();
        self.poll();
    }

    /// The oldest answer, which must be an account that the genesis proves.
    fn proven(&mut self) -> (u64, AccountState, ProvenAccount) {
        let answer = self.answers.pop().unwrap();
        let AnswerBody::Account(info) = answer.body else { panic!("{:?}", answer.body) };
        let proof = AccountProof::parse(&info.proof).unwrap();
        let proven = proof.verify(&self.genesis, &*self.provider.verifier).unwrap();
        assert_eq!((proven.height, proven.address), (info.height, info.address));
        (info.height, info.state, proven)
    }
}

#[test]
fn a_proof_is_of_the_state_it_was_asked_at_and_comes_with_the_header_of_that_state() {
    let mut rig = Rig::new();
    rig.block(vec![rig.opening(1, Address([1; 20]))]);
    rig.ask(NEW, true);
    assert!(rig.answers.pop().is_none(), "no header carries the root of height 1");
    rig.ask(NEW, false);
    assert!(matches!(rig.answers.pop().unwrap().body, AnswerBody::Account(_)), "nothing to prove");
    // The block that certifies height 1 opens the account.
    rig.block(vec![rig.opening(2, NEW)]);
    let (height, state, proven) = rig.proven();
    assert_eq!((height, state, proven.account), (1, AccountState::Unknown, None));
    rig.ask(NEW, true);
    assert!(rig.answers.pop().is_none(), "height 2 waits for height 3");
    rig.block(Vec::new());
    let (height, state, proven) = rig.proven();
    assert_eq!((height, state), (2, AccountState::Open));
    assert_eq!(proven.account.unwrap().account.opened_at, 2);
    assert!(rig.answers.pop().is_none(), "one answer each");
}

#[test]
fn a_chain_at_rest_proves_at_once() {
    let mut rig = Rig::new();
    rig.block(vec![rig.opening(1, NEW)]);
    rig.block(Vec::new());
    rig.ask(NEW, true);
    let (height, state, _) = rig.proven();
    assert_eq!((height, state), (1, AccountState::Open));
    assert_eq!(rig.tile.deadline(), None, "nobody waits");
}

#[test]
fn a_chain_at_rest_proves_although_nonces_expired_in_its_last_block() {
    let mut rig = Rig::new();
    let many = (10..60).map(|nonce| rig.opening_until(2, nonce, Address([1; 20]))).collect();
    rig.block(many);
    rig.block(vec![rig.opening(1, NEW)]);
    // The last block takes fifty nonces out of the rows: its root is not the one it carries.
    rig.block(Vec::new());
    assert_ne!(rig.last[2].state_root, rig.last[3].state_root);
    for _ in 0..2 {
        rig.ask(NEW, true);
        let (height, state, proven) = rig.proven();
        assert_eq!((height, state), (2, AccountState::Open));
        assert_eq!(proven.account.unwrap().account.opened_at, 2);
    }
    // The step back has left nothing behind: the next blocks find the state that they expect.
    rig.block(vec![rig.opening(2, Address([6; 20])), rig.opening(3, Address([7; 20]))]);
    rig.ask(NEW, true);
    assert!(rig.answers.pop().is_none(), "a block with transactions is not stepped over");
    rig.block(Vec::new());
    assert_eq!(rig.proven().0, 4);
}

#[test]
fn without_a_header_the_wait_ends() {
    let mut rig = Rig::new();
    rig.block(vec![rig.opening(1, NEW)]);
    rig.now = 1_000;
    rig.ask(NEW, true);
    let until = Nanos::from_nanos(1_000).after(CERTIFY_WAIT);
    assert_eq!(rig.tile.deadline(), Some(until));
    rig.now = until.as_nanos() - 1;
    rig.poll();
    assert!(rig.answers.pop().is_none());
    rig.now += 1;
    rig.poll();
    assert!(matches!(rig.answers.pop().unwrap().body, AnswerBody::Uncertified));
    assert_eq!(rig.tile.deadline(), None);
    rig.block(Vec::new());
    assert!(rig.answers.pop().is_none(), "it has had its answer");
}

#[test]
fn no_more_proofs_wait_than_there_is_room_for() {
    let mut rig = Rig::new();
    rig.block(vec![rig.opening(1, NEW)]);
    for _ in 0..accounts::WAITING_COUNT_MAX {
        rig.ask(NEW, true);
    }
    assert!(rig.answers.pop().is_none());
    rig.ask(NEW, true);
    assert!(matches!(rig.answers.pop().unwrap().body, AnswerBody::Overloaded));
    rig.block(Vec::new());
    for _ in 0..accounts::WAITING_COUNT_MAX {
        assert_eq!(rig.proven().0, 1);
    }
    rig.block(vec![rig.opening(2, NEW)]);
    rig.ask(NEW, true);
    assert!(rig.answers.pop().is_none(), "there is room again");
}

#[test]
fn only_a_sender_that_got_something_done_twice_becomes_known() {
    let mut rig = Rig::new();
    let made = |rig: &Rig| rig.provider.known_keys.make(&*rig.provider.hasher);
    let (first, second) = (Address([1; 20]), Address([2; 20]));
    rig.block(vec![rig.opening(1, first)]);
    assert_eq!(made(&rig), 0, "once is not enough");
    rig.block(vec![rig.opening(2, first)]);
    assert_eq!(made(&rig), 0, "the account exists: nothing was done");
    rig.block(vec![rig.opening(3, second)]);
    assert_eq!(made(&rig), 1);
    assert_eq!(rig.provider.known_keys.counts().held, 1);
}
