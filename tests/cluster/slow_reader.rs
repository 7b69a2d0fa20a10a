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

/// What each of them may cost: its two buffers of 1 MiB each by default, and one answer on top.
const BYTES_EACH: u64 = 4 << 20;

/// What honest work and the allocator may add meanwhile.
const BYTES_OTHER: u64 = 96 << 20;

/// Sends requests for as long as the node takes them.
fn ask_and_never_read(node: &TestNode, chain: &Chain, ids: &[TxId]) -> TcpStream {
    let mut stream = TcpStream::connect(node.client_address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut bytes = hello(chain.id());
    let start = SubscribeStart::At(Cursor { height: 1, index: 0 });
    let subscribe = Subscribe { start, filter: Filter::All, credits: 65_536 };
    bytes.extend(message(&ClientMessage::Subscribe(subscribe), 1));
    let mut request = 2;
    // More than the buffers of both sides of the socket and of the node hold together.
    for round in 0..20_000 {
        let id = ids[round % ids.len()];
        let query = QueryTransaction { id, with_proof: true };
        bytes.extend(message(&ClientMessage::QueryTransaction(query), request));
        let query = QueryBlock { height: Some(1), ids_from: 0 };
        bytes.extend(message(&ClientMessage::QueryBlock(query), request + 1));
        request += 2;
        if bytes.len() > 16_384 {
            match stream.write_all(&bytes) {
                Ok(()) => bytes.clear(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break;
                }
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
                    break;
                }
            }
        }
    }
    stream
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
