//! A load of notarisations and transfers with many in flight, and the record of what was promised.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hufu_network::client::{Client, ClientError};
use hufu_network::codes::ErrorCode;
use hufu_network::message::{ServerMessage, WaitFor};
use hufu_types::{Receipt, ReceiptProof, RefusalCode, Transaction};

use crate::chain::{ACCOUNTS_COUNT, Chain, Person, VALIDITY_HEIGHTS, person};
use crate::node::{PATIENCE, TestNode, wait_until};

/// Transactions of one submit frame, count.
const FRAME_COUNT: usize = 32;

/// Transactions without their last word at once, count: a load that keeps the whole node at work.
pub(crate) const HEAVY: usize = 2_048;

/// And one that only must be served, beside what a test does.
pub(crate) const LIGHT: usize = 64;

/// Every frame with this many before it asks for proofs.
const PROOF_EVERY: u64 = 16;

/// What the tests were promised, across all restarts of the node.
#[derive(Default)]
pub(crate) struct Record {
    inner: Mutex<Promises>,
    grown: Condvar,
}

#[derive(Default)]
pub(crate) struct Promises {
    /// Every receipt seen, in the order it came.
    pub(crate) receipts: Vec<Receipt>,
    /// The last transactions acknowledged.
    pub(crate) latest: Vec<Transaction>,
    /// Some receipts came with a proof, which holds the header of their block.
    pub(crate) proofs: Vec<ReceiptProof>,
    /// Refusals of transactions that were in order.
    pub(crate) refused: Vec<RefusalCode>,
    next_nonce: u64,
}

impl Record {
    pub(crate) fn with<T>(&self, use_it: impl FnOnce(&mut Promises) -> T) -> T {
        use_it(&mut self.inner.lock().unwrap())
    }

    pub(crate) fn count(&self) -> usize {
        self.with(|promises| promises.receipts.len())
    }

    /// Waits until this many more receipts have come than there were.
    pub(crate) fn wait_for_more(&self, more: usize) {
        let wanted = self.count() + more;
        let guard = self.inner.lock().unwrap();
        let enough = |promises: &mut Promises| promises.receipts.len() < wanted;
        let (guard, waited) = self.grown.wait_timeout_while(guard, PATIENCE, enough).unwrap();
        let count = guard.receipts.len();
        drop(guard);
        assert!(!waited.timed_out(), "{count} receipts came, {wanted} were awaited");
    }
}

/// A thread that submits until it is told to stop or its connection ends.
pub(crate) struct Loader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), ClientError>>,
}

impl Loader {
    pub(crate) fn start(
        chain: &Arc<Chain>,
        node: &TestNode,
        record: &Arc<Record>,
        in_flight_max: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = chain.connect(node);
        let (chain, record, flag) = (Arc::clone(chain), Arc::clone(record), Arc::clone(&stop));
        let builder = std::thread::Builder::new().name("loader".to_owned());
        let run = move || {
            let result = load(&chain, client, &record, &flag, in_flight_max);
            record.grown.notify_all();
            result
        };
        Self { stop, thread: builder.spawn(run).unwrap() }
    }

    /// Waits for everything in flight, then ends the load; the connection must have lasted.
    pub(crate) fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        wait_until("the last word on everything in flight", || self.thread.is_finished());
        self.thread.join().unwrap().unwrap();
    }

    /// Waits for the end of a load whose node is gone.
    pub(crate) fn abandon(self) {
        self.stop.store(true, Ordering::Relaxed);
        // Whether the last read met the end of the connection is a matter of moments.
        drop(self.thread.join().unwrap());
    }
}

fn load(
    chain: &Chain,
    client: Client,
    record: &Record,
    stop: &AtomicBool,
    in_flight_max: usize,
) -> Result<(), ClientError> {
    let people: Vec<Person> = (0..ACCOUNTS_COUNT).map(person).collect();
    let mut height = client.welcome().height;
    let (mut sender, mut receiver) = client.split();
    let mut in_flight: HashMap<(u64, u32), Transaction> = HashMap::new();
    let mut frames = 0_u64;
    let mut is_farewell = false;
    loop {
        let is_stopping = stop.load(Ordering::Relaxed) || is_farewell;
        if is_stopping && in_flight.is_empty() && !is_farewell {
            return Ok(());
        }
        let has_room = in_flight.len() + FRAME_COUNT <= in_flight_max && !is_stopping;
        if has_room {
            let first = record.with(|promises| {
                promises.next_nonce += FRAME_COUNT as u64;
                promises.next_nonce - FRAME_COUNT as u64
            });
            let nonces = first..first + FRAME_COUNT as u64;
            let until = height + VALIDITY_HEIGHTS;
            let made: Vec<Transaction> =
                nonces.map(|nonce| chain.ordinary(&people, nonce, until)).collect();
            let with_proof = frames.is_multiple_of(PROOF_EVERY);
            frames += 1;
            let bytes = made.iter().map(Transaction::bytes);
            let request = sender.submit(bytes, WaitFor::Committed, with_proof)?;
            in_flight.extend((0..).map(|place| (request, place)).zip(made));
            sender.flush()?;
        }
        let patience = if has_room { Duration::ZERO } else { Duration::from_millis(50) };
        receiver.receive(patience, &mut |incoming| match incoming.message {
            ServerMessage::Statuses(entries) => {
                for entry in entries {
                    if let Some(code) = entry.refusal() {
                        in_flight.remove(&(entry.request(), entry.position()));
                        record.with(|promises| promises.refused.push(code));
                    }
                }
            }
            ServerMessage::Receipts(receipts) => {
                for entry in receipts.entries() {
                    let transaction = in_flight.remove(&(entry.request, entry.position));
                    height = height.max(entry.receipt.height.get());
                    record.with(|promises| {
                        promises.take(*entry.receipt, entry.proof, transaction.unwrap());
                    });
                }
                record.grown.notify_all();
            }
            // The last receipts come before the node closes the connection.
            ServerMessage::Error(error) if error.code == ErrorCode::Stopping => is_farewell = true,
            ref other => panic!("nobody asked for {other:?}"),
        })?;
    }
}

impl Promises {
    fn take(&mut self, receipt: Receipt, proof: &[u8], transaction: Transaction) {
        self.receipts.push(receipt);
        if self.latest.len() == 64 {
            self.latest.remove(0);
        }
        self.latest.push(transaction);
        if !proof.is_empty() {
            self.proofs.push(ReceiptProof::parse(proof).unwrap());
        }
    }
}
