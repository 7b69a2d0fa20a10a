//! Clients that ask for much and read nothing: they wait for themselves, nobody waits for them.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use hufu_network::message::ClientMessage;
use hufu_network::message::event::{Cursor, Filter, Subscribe, SubscribeStart};
use hufu_network::message::request::{QueryBlock, QueryTransaction};
use hufu_types::TxId;

use crate::chain::Chain;
use crate::checks::Checker;
use crate::load::{LIGHT, Loader, Record};
use crate::node::TestNode;
use crate::wire::{Metrics, hello, message};

/// Clients that do not read, count.
const SLOW_COUNT: usize = 8;

/// Questions of one round, and rounds after which every buffer on the way must have been full.
const ROUND_COUNT: usize = 16;
const ROUNDS_MAX: usize = 40_000;

/// What each of them may cost: a receive and a send buffer of 1 MiB by default, 4 MiB of answers
/// kept, one answer of up to 1 MiB on top.
const BYTES_EACH: u64 = 8 << 20;

/// What honest work adds meanwhile: the caches and the write buffer of the state fill up.
const BYTES_OTHER: u64 = 128 << 20;

/// Sends requests until the node takes no more of them, or has closed.
fn ask_and_never_read(node: &TestNode, chain: &Chain, ids: &[TxId]) -> TcpStream {
    let mut stream = TcpStream::connect(node.client_address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let start = SubscribeStart::At(Cursor { height: 1, index: 0 });
    let subscribe = Subscribe { start, filter: Filter::All, credits: 65_536 };
    stream.write_all(&hello(chain.id())).unwrap();
    stream.write_all(&message(&ClientMessage::Subscribe(subscribe), 1)).unwrap();
    let mut request = 2;
    for round in 0..ROUNDS_MAX {
        let mut bytes = Vec::new();
        for place in 0..ROUND_COUNT {
            let id = ids[(round * ROUND_COUNT + place) % ids.len()];
            let query = QueryTransaction { id, with_proof: true };
            bytes.extend(message(&ClientMessage::QueryTransaction(query), request));
            let query = QueryBlock { height: Some(2 + place as u64), ids_from: 0 };
            bytes.extend(message(&ClientMessage::QueryBlock(query), request + 1));
            bytes.extend(message(&ClientMessage::QueryStatus, request + 2));
            request += 3;
        }
        if let Err(error) = stream.write_all(&bytes) {
            let ends = [
                ErrorKind::WouldBlock,
                ErrorKind::TimedOut,
                ErrorKind::ConnectionReset,
                ErrorKind::BrokenPipe,
            ];
            assert!(ends.contains(&error.kind()), "{error}");
            return stream;
        }
    }
    panic!("the node takes requests of a client that reads no answer, without end");
}

#[test]
fn slow_readers_hold_up_nobody_and_cost_little() {
    let chain = Arc::new(Chain::new("slow"));
    let mut node = chain.node();
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    let record = Arc::new(Record::default());
    let loader = Loader::start(&chain, &node, &record, LIGHT);
    record.wait_for_more(3_000);
    let ids: Vec<TxId> = record.with(|all| all.receipts.iter().map(|one| one.id).collect());
    let resident = || Metrics::of(&node).get("hufu_process_resident_bytes");
    let before = resident();
    let mut slow = Vec::new();
    for _ in 0..SLOW_COUNT {
        slow.push(ask_and_never_read(&node, &chain, &ids));
        // Each kind of question is answered to others, and the load goes on.
        let mut honest = chain.connect(&node);
        assert!(honest.status().unwrap().height > 0);
        honest.transaction(ids[0], true).unwrap();
        honest.block(Some(1), 0).unwrap();
        honest.account(crate::chain::person(0).address, false).unwrap();
        record.wait_for_more(300);
    }
    let grown = resident().saturating_sub(before);
    let most = BYTES_EACH * SLOW_COUNT as u64 + BYTES_OTHER;
    assert!(grown < most, "{grown} bytes more for {SLOW_COUNT} clients that do not read");
    println!("{} MiB more for {SLOW_COUNT} clients that do not read", grown >> 20);
    drop(slow);
    loader.finish();
    Checker::default().check(&chain, &node, &record, true);
    node.stop();
}
