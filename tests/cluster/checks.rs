//! What must hold after every fault: nothing promised is lost, nothing happened twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use hufu_crypto::software_provider;
use hufu_network::client::{Client, TransactionResult};
use hufu_network::message::request::{QueryBlock, QueryTransaction};
use hufu_network::message::{ClientMessage, ServerMessage, WaitFor};
use hufu_types::{BlockDigest, Receipt, RefusalCode, TxId};

use crate::chain::{ACCOUNTS_COUNT, Chain, ISSUED_EACH, asset, person};
use crate::load::Record;
use crate::node::{PATIENCE, TestNode, hufu};

/// Queries without answer at once, below what every node allows.
const QUERIES_IN_FLIGHT: usize = 32;

/// Holds what has been verified so far, so that a later check compares with it.
#[derive(Default)]
pub(crate) struct Checker {
    /// Digest of the block at each height from 1, as first seen.
    blocks: Vec<BlockDigest>,
    receipts_asked: usize,
    certificates: BTreeMap<u64, BlockDigest>,
    /// Receipts compared with what the node says, over all checks.
    pub(crate) compared: u64,
}

impl Checker {
    /// Checks everything; with `all`, asks for every receipt and not only for those since last time
    /// (all of them are found in their blocks each time).
    pub(crate) fn check(&mut self, chain: &Chain, node: &TestNode, record: &Record, all: bool) {
        let mut client = chain.connect(node);
        let height = client.status().unwrap().height;
        drop(client);
        let places = self.read_blocks(chain, node, height);
        record.with(|promises| {
            assert_eq!(promises.refused, [], "transactions in order were refused");
        });
        let receipts = record.with(|promises| promises.receipts.clone());
        for receipt in &receipts {
            let found = places.get(&receipt.id).copied();
            let promised = Some((receipt.height.get(), receipt.index.get()));
            assert_eq!(found, promised, "NOT DURABLE: {:?} was acknowledged", receipt.id);
        }
        let from = if all { 0 } else { self.receipts_asked };
        self.ask_receipts(chain, node, &receipts[from..]);
        self.receipts_asked = receipts.len();
        self.check_proofs(chain, record);
        check_balances(chain, node);
        resubmit(chain, node, record);
    }

    /// Reads every block: the chain of digests is what it was, and every id stands in it once.
    fn read_blocks(
        &mut self,
        chain: &Chain,
        node: &TestNode,
        height: u64,
    ) -> HashMap<TxId, (u64, u32)> {
        let hasher = software_provider().hasher;
        let mut places = HashMap::new();
        let mut found = Vec::new();
        let seen = self.blocks.len() as u64;
        assert!(height >= seen, "NOT DURABLE: height {height} after height {seen} was seen");
        let ask =
            |height| ClientMessage::QueryBlock(QueryBlock { height: Some(height), ids_from: 0 });
        let requests: Vec<_> = (1..=height).map(ask).collect();
        ask_all(chain.connect(node), &requests, &mut |index, answer| {
            let ServerMessage::Block(info) = answer else { panic!("no block: {answer:?}") };
            let height = index as u64 + 1;
            let block = info.parse_block(&*hasher).unwrap();
            assert_eq!(block.height(), height);
            assert_eq!(info.parse_certificate().unwrap().block, block.digest());
            assert_eq!(info.ids.len() as u64, u64::from(info.ids_total), "more than a page");
            found.push((index, block.header().parent, block.digest()));
            for (index, id) in (0..).zip(info.ids) {
                let before = places.insert(id, (height, index));
                assert_eq!(before, None, "{id:?} is in the chain twice");
            }
        });
        found.sort_unstable_by_key(|(index, ..)| *index);
        let mut expected = BlockDigest::ZERO;
        for (index, parent, digest) in found {
            assert_eq!(parent, expected, "block {} has another parent", index + 1);
            expected = digest;
            match self.blocks.get(index) {
                Some(known) => assert_eq!(*known, digest, "block {} has changed", index + 1),
                None => self.blocks.push(digest),
            }
        }
        places
    }

    fn ask_receipts(&mut self, chain: &Chain, node: &TestNode, receipts: &[Receipt]) {
        let ask = |receipt: &Receipt| {
            let query = QueryTransaction { id: receipt.id, with_proof: false };
            ClientMessage::QueryTransaction(query)
        };
        let requests: Vec<_> = receipts.iter().map(ask).collect();
        ask_all(chain.connect(node), &requests, &mut |index, answer| match answer {
            ServerMessage::Transaction(info) => assert_eq!(info.receipt, receipts[index]),
            other => panic!("NOT DURABLE: {:?} is answered with {other:?}", receipts[index].id),
        });
        self.compared += receipts.len() as u64;
    }

    /// The blocks that proofs have shown before the fault are the blocks of after.
    fn check_proofs(&mut self, chain: &Chain, record: &Record) {
        let verifier = software_provider().verifier;
        let proofs = record.with(|promises| std::mem::take(&mut promises.proofs));
        for proof in &proofs {
            let height = proof.receipt.height.get();
            let block = proof.header.digest();
            let known = self.blocks[usize::try_from(height).unwrap() - 1];
            assert_eq!(block, known, "block {height} is not the one a receipt was proven with");
            // One signature check for each block is enough: the paths are checked each time.
            let certificates = &mut self.certificates;
            let mut check = |certificate: &hufu_types::CommitCertificate| {
                if certificates.get(&certificate.height) == Some(&certificate.block) {
                    return Ok(());
                }
                certificate.verify(chain.id(), &chain.genesis.validators, &*verifier)?;
                certificates.insert(certificate.height, certificate.block);
                Ok(())
            };
            proof.verify_with(&chain.genesis, &mut check).unwrap();
        }
    }
}

/// Money only moves in a circle.
fn check_balances(chain: &Chain, node: &TestNode) {
    let mut client = chain.connect(node);
    let mut total = 0;
    for number in 0..ACCOUNTS_COUNT {
        let info = client.account(person(number).address, false).unwrap();
        let held = info.holdings.iter().filter(|holding| holding.asset == asset());
        total += held.map(|holding| holding.balance.get()).sum::<u128>();
    }
    assert_eq!(total, ISSUED_EACH * u128::from(ACCOUNTS_COUNT), "the asset is not conserved");
}

/// What was acknowledged last is not taken a second time.
fn resubmit(chain: &Chain, node: &TestNode, record: &Record) {
    let again = record.with(|promises| promises.latest.clone());
    if again.is_empty() {
        return;
    }
    let mut client: Client = chain.connect(node);
    let results = client.submit(&again, WaitFor::Committed, false).unwrap();
    for result in results {
        let refused = TransactionResult::Refused(RefusalCode::Duplicate);
        assert_eq!(result, refused, "a transaction that is in the chain was handed in again");
    }
}

/// Asks many questions with some of them in flight; `take` gets each answer with its place.
fn ask_all(
    client: Client,
    requests: &[ClientMessage<'_>],
    take: &mut dyn FnMut(usize, ServerMessage<'_>),
) {
    let (mut sender, mut receiver) = client.split();
    let first = sender.last_request() + 1;
    for (chunk_index, chunk) in requests.chunks(QUERIES_IN_FLIGHT).enumerate() {
        for request in chunk {
            sender.send(request).unwrap();
        }
        sender.flush().unwrap();
        let mut missing: HashSet<usize> =
            (chunk_index * QUERIES_IN_FLIGHT..).take(chunk.len()).collect();
        while !missing.is_empty() {
            let got = receiver.receive(PATIENCE, &mut |incoming| {
                let index = usize::try_from(incoming.request - first).unwrap();
                assert!(missing.remove(&index), "one answer for each question");
                take(index, incoming.message);
            });
            assert!(got.unwrap() > 0, "no answer within {PATIENCE:?}");
        }
    }
}

/// `hufu ledger verify` finds nothing wrong with a folder whose node does not run.
pub(crate) fn verify_ledger(chain: &Chain, data: &Path) {
    let genesis = chain.path().join("genesis.toml");
    let mut command = hufu();
    command.args(["ledger", "verify"]).arg(data).arg("--genesis").arg(genesis);
    command.arg("--data-key").arg(chain.data_key(data));
    let output = command.args(["--level", "replay", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "ledger verify: {}\n{said}\n{shown}", output.status);
}
