//! The way of a transaction through the verify and the mempool tile, with the test in the place of
//! every other tile.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Signer, SoftwareSigner, software_provider};
use hufu_mempool::{Blame, Dissemination, DisseminationConfig, Mempool, MempoolConfig};
use hufu_network::WaitFor;
use hufu_network::session::Ticket;
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer, link};
use hufu_runtime::net::{Backend, Config, Reactor};
use hufu_runtime::tile::{Progress, Tile};
use hufu_storage::block_log::RecordPosition;
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::{
    Address, Batch, BatchBuilder, BatchDigest, BlockDigest, ChainId, Digest, Operation,
    OrderedBatches, RefusalCode, Transaction, TransactionBuilder, verify_transactions,
};

use super::mempool::{MempoolLinks, MempoolPeers, MempoolTile};
use super::persist_log::UnorderedBatches;
use super::verify::{VerifyConfig, VerifyLinks, VerifyTile};
use crate::messages::{
    MempoolAnswer, MempoolRequest, PeerBatch, PeerBatches, SealedBatch, SendBatches, Source,
    Status, Submitted,
};
use crate::metrics::Metrics;

const CHAIN: ChainId = ChainId(Digest([7; 32]));
const BATCH_WAIT_NANOS: u64 = 50;
const VERIFY_CONFIG: VerifyConfig =
    VerifyConfig { batch_max: 1, batch_deadline: Duration::ZERO, remembered_max: 64, seed: 1 };

/// Validator 1 is a quorum alone, so that what it holds it proposes.
fn power(number: u8) -> (Address, u64) {
    (address(number), if number == 1 { 7 } else { 1 })
}

/// What validator 1 of four holds at the beginning.
fn dissemination() -> Dissemination {
    let (config, validators) = (DisseminationConfig::default(), (1..=4).map(power));
    Dissemination::new(config, address(1), validators, OrderedBatches::new(1))
}

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
    answers: Consumer<MempoolAnswer>,
    from_peer: Producer<PeerBatch>,
    said: Producer<PeerBatches>,
    sent: Consumer<SendBatches>,
    /// What peers were told that is held, whom and how much.
    held: Vec<String>,
    height: u64,
    now: u64,
}

impl Tiles {
    /// `told_max` is how many admissions the verify tile has room to hear of at once.
    fn new(pending_max: u32, told_max: usize) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (submit, incoming) = link("submit", 16);
        let (to_mempool, from_verify) = link("checked", 16);
        let (to_judge, chunks) = link("chunks", 2);
        let (from_peer, from_peers) = link("peer batches", 16);
        let (said, heard) = link("said", 16);
        let (outgoing, sent) = link("sent", 2);
        let (to_verify, admitted) = link("admitted", told_max);
        let (to_ingress, refused) = link("refused", 16);
        let (to_client, answered) = link("answered", 16);
        let (to_log, sealed) = link("sealed", 16);
        let (durable, made_durable) = link("durable", 16);
        let (requests, requested) = link("requests", 16);
        let (to_consensus, answers) = link("answers", 16);
        let verify = VerifyTile::new(
            0,
            VERIFY_CONFIG,
            CHAIN,
            software_provider(),
            Arc::clone(&metrics),
            VerifyLinks {
                incoming: vec![incoming],
                admitted,
                chunks,
                from_peers: Some(from_peers),
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
            from_verify: vec![from_verify],
            to_verify: vec![to_verify],
            to_judge: vec![to_judge],
            to_ingress: vec![to_client],
            to_log,
            durable: made_durable,
            requests: requested,
            to_consensus,
            peers: Some(MempoolPeers { incoming: heard, outgoing }),
        };
        let pool = Mempool::new(config, CHAIN, address(1), hasher, 1, 1, 1);
        let mempool = MempoolTile::new(pool, dissemination(), Arc::clone(&metrics), links);
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
            answers,
            from_peer,
            said,
            sent,
            held: Vec::new(),
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

    /// Lets both tiles work until neither has anything to do.
    fn run(&mut self) {
        for _ in 0..64 {
            poll(&mut self.verify, self.now);
            poll(&mut self.mempool, self.now);
        }
    }

    /// What a peer sends, through both tiles.
    fn receive(&mut self, from: u8, bytes: &[u8]) {
        let sent = PeerBatch { from: address(from), bytes: bytes.into() };
        self.from_peer.try_push(sent).unwrap();
        self.run();
    }

    fn ask(&mut self, request: MempoolRequest) -> Vec<String> {
        self.requests.try_push(request).unwrap();
        self.run();
        self.told()
    }

    /// What consensus was told: the kind of each answer and its batches.
    fn told(&mut self) -> Vec<String> {
        let names = |batches: &[Batch]| batches.iter().map(name).collect::<String>();
        std::iter::from_fn(|| self.answers.pop())
            .map(|answer| match answer {
                MempoolAnswer::Candidates(found) => format!("candidates {}", names(&found.batches)),
                MempoolAnswer::Available { batches, .. } => {
                    format!("available {}", names(&batches))
                }
                MempoolAnswer::Durable { batches, .. } => format!("durable {}", names(&batches)),
                MempoolAnswer::Invalid { .. } => "invalid".to_owned(),
            })
            .collect()
    }

    /// What peers were sent.
    fn sent(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            self.run();
            let Some(sent) = self.sent.pop() else { return all };
            all.push(match sent {
                SendBatches::Batch { to, batch } => format!("{} batch {}", to.0[0], name(&batch)),
                SendBatches::Ask { to, digests } => format!("{} ask {}", to.0[0], digests.len()),
                SendBatches::Lack { to, digests } => format!("{} lack {}", to.0[0], digests.len()),
                SendBatches::AskBodies { to, height } => format!("{} bodies {height}", to.0[0]),
                SendBatches::Hold { to, digests } => {
                    let to = to.map_or_else(|| "all".to_owned(), |to| to.0[0].to_string());
                    self.held.push(format!("{to} hold {}", digests.len()));
                    continue;
                }
            });
        }
    }

    /// The log writes everything it was given.
    fn write(&mut self) -> Vec<Batch> {
        let mut written = Vec::new();
        while let Some(SealedBatch { batch }) = self.sealed.pop() {
            self.durable.try_push(batch.digest()).unwrap();
            written.push(batch);
            self.run();
        }
        written
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

fn address(number: u8) -> Address {
    Address([number; 20])
}

/// Origin and sequence.
fn name(batch: &Batch) -> String {
    format!("[{}-{}]", batch.header().origin.0[0], batch.header().sequence)
}

/// A batch of another validator with these transactions.
fn batch(origin: u8, sequence: u64, transactions: &[Transaction]) -> Batch {
    let provider = software_provider();
    let mut builder = BatchBuilder::new(CHAIN, address(origin));
    for verified in verify_transactions(&provider, CHAIN, transactions.to_vec()) {
        builder.push(&verified.unwrap());
    }
    builder.seal(sequence, &*provider.hasher)
}

fn block(number: u8) -> BlockDigest {
    BlockDigest(Digest([number; 32]))
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

#[test]
fn a_peers_batch_is_verified_once_written_and_proposed() {
    let mut tiles = Tiles::new(16, 16);
    // More than two parts, so that their verdicts have to be joined.
    let transactions: Vec<Transaction> = (0..600).map(|nonce| transaction(nonce, 10)).collect();
    let theirs = batch(2, 1, &transactions);
    let need = |height| MempoolRequest::Need {
        height,
        block: block(1),
        batches: vec![theirs.digest()],
        proposer: address(2),
    };
    assert_eq!(tiles.ask(need(1)), [""; 0]);
    let propose = MempoolRequest::Propose { height: 1, round: 0, allow_empty: false };
    assert_eq!(tiles.ask(propose.clone()), [""; 0]);
    tiles.receive(2, theirs.bytes());
    assert_eq!(tiles.counted(), (600, 0));
    assert_eq!(tiles.told(), ["available [2-1]"]);
    tiles.receive(2, theirs.bytes());
    assert_eq!(tiles.counted(), (600, 0), "a copy is not looked at");
    assert_eq!(tiles.write().len(), 1);
    assert_eq!(tiles.told(), ["durable [2-1]", "candidates [2-1]"]);
    assert_eq!(tiles.ask(need(1)), ["available [2-1]", "durable [2-1]"], "whenever it is asked");
    tiles.ask(MempoolRequest::Decided { height: 1, batches: vec![theirs.digest()] });
    let copy = tiles.submit(&transactions[599]);
    assert_eq!(copy, Err(RefusalCode::Duplicate), "the chain has it");
    let propose = MempoolRequest::Propose { height: 2, round: 0, allow_empty: true };
    assert_eq!(tiles.ask(propose), ["candidates "], "nothing is ordered twice");
    assert_eq!(tiles.metrics.mempool_batches_judged.get(), 1);
    assert!(Blame::ALL.iter().all(|blame| tiles.metrics.blamed(*blame) == 0));
}

#[test]
fn bad_batches_of_peers_are_refused_and_counted() {
    let mut tiles = Tiles::new(16, 16);
    let good: Vec<Transaction> = (0..300).map(|nonce| transaction(nonce, 10)).collect();
    let theirs = batch(2, 1, &good);
    // The last byte is of the last signature.
    let mut bytes = theirs.bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let bad = Batch::parse(bytes.into(), &*software_provider().hasher).unwrap();
    let (batches, proposer) = (vec![bad.digest()], address(3));
    let need = MempoolRequest::Need { height: 1, block: block(1), batches, proposer };
    assert_eq!(tiles.ask(need), [""; 0]);
    tiles.receive(3, bad.bytes());
    assert_eq!(tiles.told(), ["invalid"]);
    let (header, elsewhere) = (size_of::<hufu_types::BatchHeader>(), 4);
    for malformed in [&theirs.bytes()[..header + 9], b"", b"batch"] {
        tiles.receive(2, malformed);
    }
    let mut foreign = theirs.bytes().to_vec();
    foreign[elsewhere] ^= 1;
    tiles.receive(2, &foreign);
    tiles.receive(4, theirs.bytes());
    let counted = |blame| tiles.metrics.blamed(blame);
    assert_eq!(counted(Blame::Invalid), 2, "the sender and the origin");
    assert_eq!((counted(Blame::Malformed), counted(Blame::Unasked)), (4, 1));
    assert_eq!(tiles.write().len(), 0, "nothing of it is written");
    assert_eq!(tiles.counted(), (300, 0));
}

/// A whole batch of another chain is canonical, and still nothing for this one.
#[test]
fn a_batch_of_another_chain_is_malformed() {
    let mut tiles = Tiles::new(16, 16);
    let mut bytes = batch(2, 1, &[transaction(1, 10)]).bytes().to_vec();
    bytes[4] ^= 1;
    bytes[size_of::<hufu_types::BatchHeader>() + 4 + 4] ^= 1;
    assert!(Batch::parse(bytes.as_slice().into(), &*software_provider().hasher).is_ok());
    tiles.receive(2, &bytes);
    assert_eq!(tiles.metrics.blamed(Blame::Malformed), 1);
    assert_eq!(tiles.metrics.mempool_batches_received.get(), 1);
}

#[test]
fn peers_are_sent_what_is_sealed_and_asked_for_what_is_missing() {
    let mut tiles = Tiles::new(16, 16);
    for peer in 2..=4 {
        tiles.said.try_push(PeerBatches::Up(address(peer))).unwrap();
    }
    assert_eq!(tiles.submit(&transaction(1, 10)), Ok(()));
    tiles.now += BATCH_WAIT_NANOS;
    // The link holds two; the rest waits, and so does every client.
    poll(&mut tiles.mempool, tiles.now);
    tiles.verify(&transaction(2, 10));
    poll(&mut tiles.mempool, tiles.now);
    assert!(tiles.answered.is_empty(), "nothing is admitted while peers take nothing");
    assert_eq!(tiles.sent(), ["2 batch [1-1]", "3 batch [1-1]", "4 batch [1-1]"]);
    assert_eq!(tiles.judge(), Ok(()));
    let sealed = tiles.sealed.pop().unwrap().batch;
    let wanted = PeerBatches::Wanted {
        from: address(3),
        digests: vec![sealed.digest(), BatchDigest(Digest([9; 32]))],
    };
    tiles.said.try_push(wanted).unwrap();
    assert_eq!(tiles.sent(), ["3 batch [1-1]", "3 lack 1"]);
    let [first, second] = [1, 2].map(|number| batch(2, number, &[transaction(9 + number, 10)]));
    let batches = vec![first.digest(), second.digest()];
    let need = MempoolRequest::Need {
        height: 1,
        block: block(1),
        batches: batches.clone(),
        proposer: address(3),
    };
    assert_eq!(tiles.ask(need), [""; 0]);
    assert_eq!(tiles.sent(), ["3 ask 2"]);
    tiles
        .said
        .try_push(PeerBatches::Absent { from: address(3), digests: batches.clone() })
        .unwrap();
    assert_eq!(tiles.sent(), ["2 ask 2"]);
    let deadline = tiles.mempool.deadline().unwrap();
    tiles.now = DisseminationConfig::default().ask_nanos + BATCH_WAIT_NANOS;
    assert!(deadline.as_nanos() <= tiles.now, "the tile wants to be woken");
    assert_eq!(tiles.sent()[0], "4 ask 2", "2 did not answer in time");
    let holder = address(4);
    let need = MempoolRequest::NeedDecided { height: 1, block: block(2), batches, holder };
    tiles.ask(need);
    assert_eq!(tiles.sent(), ["4 bodies 1"]);
    tiles.said.try_push(PeerBatches::NoBodies { from: holder, height: 1 }).unwrap();
    assert_eq!(tiles.sent(), ["2 bodies 1"]);
    tiles.receive(4, first.bytes());
    tiles.receive(2, second.bytes());
    assert_eq!(tiles.told(), ["available [2-1][2-2]"; 2]);
    tiles.said.try_push(PeerBatches::Down(address(2))).unwrap();
    assert_eq!(tiles.sent(), [""; 0], "there is nothing to ask any more");
    assert_eq!(tiles.held, [""; 0]);
    let written = tiles.write().len();
    assert_eq!(tiles.sent(), [""; 0]);
    assert!(written >= 2, "both came to the disk");
    assert_eq!(tiles.held, vec!["all hold 1"; written], "everybody is told of each");
}

#[test]
fn batches_that_no_block_orders_hold_no_replay_back_for_ever() {
    let at = |sequence| RecordPosition { sequence, segment: 0, group_offset: 0, record_offset: 0 };
    let lasting = |nonce, last_height| batch(2, nonce, &[transaction(nonce, last_height)]);
    let (short, long, ordered) = (lasting(1, 5), lasting(2, 7), lasting(3, 5));
    let mut unordered = UnorderedBatches::default();
    unordered.insert(&short, at(1));
    unordered.insert(&long, at(2));
    unordered.insert(&ordered, at(3));
    assert_eq!(unordered.remove(&ordered.digest()), Some(at(3)));
    assert_eq!((unordered.remove_expired(4), unordered.oldest()), (None, Some(at(1))));
    unordered.insert(&short, at(4));
    assert_eq!(unordered.oldest(), Some(at(2)), "it was written again");
    assert_eq!(unordered.remove_expired(6), Some(short.digest()));
    assert_eq!(unordered.remove_expired(6), None);
    assert_eq!(unordered.digests().collect::<Vec<_>>(), [long.digest()]);
    assert_eq!(unordered.remove_expired(7), Some(long.digest()));
    assert_eq!((unordered.oldest(), unordered.remove_expired(u64::MAX)), (None, None));
}
