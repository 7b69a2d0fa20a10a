//! The way of a transaction through the verify and the mempool tile, with the test in the place of
//! every other tile.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Signer, SoftwareSigner, software_provider};
use hufu_mempool::{Mempool, MempoolConfig};
use hufu_network::WaitFor;
use hufu_network::session::Ticket;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer, link};
use hufu_runtime::net::{Backend, Config, Reactor};
use hufu_runtime::tile::{Progress, Tile};
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::{
    Address, BatchDigest, ChainId, Digest, Operation, RefusalCode, Transaction, TransactionBuilder,
};

use super::mempool::{MempoolLinks, MempoolTile};
use super::verify::{VerifyConfig, VerifyLinks, VerifyTile};
use crate::messages::{MempoolRequest, SealedBatch, Source, Status, Submitted};
use crate::metrics::Metrics;

const CHAIN: ChainId = ChainId(Digest([7; 32]));
const BATCH_WAIT_NANOS: u64 = 50;

/// A verify and a mempool tile, and the far ends of their links.
struct Tiles {
    verify: VerifyTile,
    mempool: MempoolTile,
    metrics: Arc<Metrics>,
    source: Source,
    submit: Producer<Submitted>,
    refused: Consumer<Status>,
    answered: Consumer<Status>,
    sealed: Consumer<SealedBatch>,
    durable: Producer<BatchDigest>,
    requests: Producer<MempoolRequest>,
    height: u64,
    now: u64,
}

impl Tiles {
    /// `told_max` is how many admissions the verify tile has room to hear of at once.
    fn new(pending_max: u32, told_max: usize) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (submit, incoming) = link("submit", 16);
        let (to_mempool, checked) = link("checked", 16);
        let (to_verify, admitted) = link("admitted", told_max);
        let (to_ingress, refused) = link("refused", 16);
        let (to_client, answered) = link("answered", 16);
        let (to_log, sealed) = link("sealed", 16);
        let (durable, made_durable) = link("durable", 16);
        let (requests, requested) = link("requests", 16);
        let (to_consensus, _) = link("candidates", 16);
        let verify = VerifyTile::new(
            0,
            VerifyConfig {
                batch_max: 1,
                batch_deadline: Duration::ZERO,
                remembered_max: 64,
                seed: 1,
            },
            CHAIN,
            software_provider(),
            Arc::clone(&metrics),
            VerifyLinks {
                incoming: vec![incoming],
                admitted,
                to_mempool,
                to_ingress: vec![to_ingress],
            },
        );
        let config = MempoolConfig {
            pending_transactions_max: pending_max,
            batch_wait_nanos: BATCH_WAIT_NANOS,
            ..MempoolConfig::default()
        };
        let hasher = software_provider().hasher;
        let links = MempoolLinks {
            checked: vec![checked],
            to_verify: vec![to_verify],
            to_ingress: vec![to_client],
            to_log,
            durable: made_durable,
            requests: requested,
            to_consensus,
        };
        let pool = Mempool::new(config, CHAIN, Address([1; 20]), hasher, 1, 1, 1);
        let mempool = MempoolTile::new(pool, Vec::new(), Arc::clone(&metrics), links);
        Self {
            verify,
            mempool,
            metrics,
            source: source(),
            submit,
            refused,
            answered,
            sealed,
            durable,
            requests,
            height: 1,
            now: 0,
        }
    }

    /// Submits a transaction and runs it through both tiles.
    fn submit(&mut self, transaction: &Transaction) -> Result<(), RefusalCode> {
        self.verify(transaction);
        self.judge()
    }

    fn verify(&mut self, transaction: &Transaction) {
        let submitted = Submitted { transaction: transaction.clone(), source: self.source };
        self.submit.try_push(submitted).unwrap();
        poll(&mut self.verify, self.now);
    }

    /// What either tile says about the oldest transaction it was not asked about yet.
    fn judge(&mut self) -> Result<(), RefusalCode> {
        poll(&mut self.mempool, self.now);
        let status = self.refused.pop().or_else(|| self.answered.pop()).unwrap();
        status.result.map(|_| ())
    }

    /// A block orders everything that was admitted.
    fn decide(&mut self) {
        self.now += BATCH_WAIT_NANOS;
        poll(&mut self.mempool, self.now);
        let mut batches = Vec::new();
        while let Some(sealed) = self.sealed.pop() {
            batches.push(sealed.batch.digest());
            self.durable.try_push(sealed.batch.digest()).unwrap();
        }
        let decided = MempoolRequest::Decided { height: self.height, batches };
        self.requests.try_push(decided).unwrap();
        poll(&mut self.mempool, self.now);
        self.height += 1;
    }

    /// Signatures verified and copies recognised without that.
    fn counted(&self) -> (u64, u64) {
        (self.metrics.verify_signatures.get(), self.metrics.verify_duplicates.get())
    }
}

fn poll(tile: &mut impl Tile, now: u64) {
    let progress = tile.poll(Nanos::from_nanos(now)).unwrap();
    assert_ne!(progress, Progress::Done, "nobody has stopped it");
}

/// A connection that nobody answers to.
fn source() -> Source {
    let config = Config { backend: Backend::Epoll, connections_max: 1, ..Config::default() };
    let mut reactor = Reactor::new(config).unwrap();
    let connection = reactor.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))).unwrap();
    let ticket = Ticket {
        request: 1,
        valid_until: 1,
        position: 0,
        wait: WaitFor::Nothing,
        with_proof: false,
    };
    Source { ingress: 0, connection, ticket, size: 0 }
}

fn transaction(nonce: u64, valid_until: u64) -> Transaction {
    let signer = SoftwareSigner::from_bytes(&[9; 32]).unwrap();
    let builder = TransactionBuilder::new(CHAIN, *signer.public_key(), nonce, valid_until)
        .operation(Operation::Notarise { digest: &Digest([1; 32]), memo: b"" });
    let unsigned = builder.unsigned();
    let digest = TransactionBuilder::signing_digest(&unsigned, signer.public_key());
    TransactionBuilder::join(unsigned, &signer.sign(&digest).unwrap()).unwrap()
}

fn spoilt(transaction: &Transaction) -> Transaction {
    let mut signature = *transaction.signature();
    signature.0[63] ^= 1;
    TransactionBuilder::join(transaction.unsigned_bytes().to_vec(), &signature).unwrap()
}

#[test]
fn what_was_refused_for_now_may_come_again() {
    let mut tiles = Tiles::new(1, 16);
    let (first, second) = (transaction(1, 10), transaction(2, 10));
    let far = transaction(3, 2 + TX_VALIDITY_HEIGHTS_MAX);
    assert_eq!(tiles.submit(&first), Ok(()));
    for _ in 0..2 {
        assert_eq!(tiles.submit(&second), Err(RefusalCode::Overloaded));
        assert_eq!(tiles.submit(&far), Err(RefusalCode::ValidityTooLong));
    }
    tiles.decide();
    assert_eq!(tiles.submit(&second), Ok(()), "the block has made room");
    tiles.decide();
    assert_eq!(tiles.submit(&far), Ok(()), "the window has reached it");
    tiles.decide();
    assert_eq!(tiles.counted(), (7, 0));
    for decided in [&first, &second, &far] {
        assert_eq!(tiles.submit(decided), Err(RefusalCode::Duplicate));
    }
    assert_eq!(tiles.counted(), (7, 3), "exact copies are not verified again");
}

#[test]
fn a_copy_with_a_bad_signature_stands_in_nobodys_way() {
    let mut tiles = Tiles::new(16, 16);
    let honest = transaction(1, 10);
    let bad = spoilt(&honest);
    assert_eq!(tiles.submit(&bad), Err(RefusalCode::SignatureInvalid));
    assert_eq!(tiles.submit(&honest), Ok(()));
    assert_eq!(tiles.submit(&bad), Err(RefusalCode::SignatureInvalid), "as before");
    assert_eq!(tiles.submit(&honest), Err(RefusalCode::Duplicate));
    assert_eq!(tiles.counted(), (3, 1));
}

#[test]
fn copies_that_are_verified_side_by_side_are_admitted_once() {
    let mut tiles = Tiles::new(16, 16);
    let twice = transaction(1, 10);
    tiles.verify(&twice);
    tiles.verify(&twice);
    assert_eq!(tiles.judge(), Ok(()));
    assert_eq!(tiles.judge(), Err(RefusalCode::Duplicate));
    assert_eq!(tiles.counted(), (2, 0), "nothing was admitted while they were verified");
}

#[test]
fn admissions_without_room_are_dropped_and_counted() {
    let mut tiles = Tiles::new(16, 1);
    let two = [transaction(1, 10), transaction(2, 10)];
    two.iter().for_each(|one| tiles.verify(one));
    assert_eq!([tiles.judge(), tiles.judge()], [Ok(()), Ok(())]);
    assert_eq!(tiles.metrics.mempool_untold.get(), 1);
    for one in &two {
        assert_eq!(tiles.submit(one), Err(RefusalCode::Duplicate));
    }
    assert_eq!(tiles.counted(), (3, 1), "the pool recognises the one it could not tell");
}
