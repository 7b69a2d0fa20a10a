//! Clients that take more than their share: all transactions, all places, all the time of a stop.
//! Everybody else is served all the while.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hufu_network::client::{Client, ClientConfig};
use hufu_network::codes::ErrorCode;
use hufu_network::message::{ClientMessage, WaitFor};
use hufu_runtime::clock::monotonic;
use hufu_types::{Operation, Signature, TransactionBuilder};

use crate::chain::{ACCOUNTS_COUNT, Chain, VALIDITY_HEIGHTS, commit, operator, person};
use crate::node::{PATIENCE, TestNode, wait_until};
use crate::wire::{Metrics, RawConnection, hello, message};

/// Transactions in one frame of the flood, count.
const FLOOD_FRAME_COUNT: u64 = 2_000;

/// Clients that ask something while the flood runs, count.
const PROBES_COUNT: usize = 12;

/// Sends well-formed transactions with signatures of nobody, as fast as they are taken.
fn flood(chain: &Chain, client: Client, stop: &AtomicBool) {
    let (mut sender, mut receiver) = client.split();
    let operator = operator();
    let mut nonce = 1 << 50;
    while !stop.load(Ordering::Relaxed) {
        let made: Vec<_> = (nonce..nonce + FLOOD_FRAME_COUNT)
            .map(|nonce| {
                let key = operator.key();
                let builder = TransactionBuilder::new(chain.id(), key, nonce, VALIDITY_HEIGHTS);
                let operation = Operation::Notarise { digest: &chain.id().0, memo: b"flood" };
                let unsigned = builder.operation(operation).unsigned();
                TransactionBuilder::join(unsigned, &Signature([0x5a; 64])).unwrap()
            })
            .collect();
        nonce += FLOOD_FRAME_COUNT;
        let bytes = made.iter().map(hufu_types::Transaction::bytes);
        sender.submit(bytes, WaitFor::Nothing, false).unwrap();
        sender.flush().unwrap();
        receiver.receive(Duration::ZERO, &mut |_| ()).unwrap();
    }
}

#[test]
fn a_flood_of_one_client_starves_nobody() {
    let chain = Arc::new(Chain::new("flood"));
    let mut node = chain.node();
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let stop = Arc::new(AtomicBool::new(false));
    let flooding = {
        let (chain, stop, client) = (Arc::clone(&chain), Arc::clone(&stop), chain.connect(&node));
        let builder = std::thread::Builder::new().name("flood".to_owned());
        builder.spawn(move || flood(&chain, client, &stop)).unwrap()
    };
    let paused = |node: &TestNode| Metrics::of(node).get("hufu_ingress_reads_paused_total");
    wait_until("the flood to be pushed back", || paused(&node) > 0);
    let people: Vec<_> = (0..ACCOUNTS_COUNT).map(person).collect();
    for probe in 0..PROBES_COUNT {
        let began = monotonic();
        let mut honest = chain.connect(&node);
        honest.ping().unwrap();
        let height = honest.status().unwrap().height;
        honest.block(Some(1), 0).unwrap();
        honest.account(people[0].address, false).unwrap();
        let asked = monotonic();
        let nonce = (1 << 40) + u64::try_from(probe).unwrap();
        let transaction = chain.ordinary(&people, nonce, height + VALIDITY_HEIGHTS);
        assert_eq!(commit(&mut honest, &transaction).outcome().unwrap(), Ok(()));
        let millis = |from, to: hufu_runtime::clock::Nanos| to.duration_since(from).as_millis();
        println!("answers {} ms, receipt {} ms", millis(began, asked), millis(asked, monotonic()));
    }
    stop.store(true, Ordering::Relaxed);
    flooding.join().unwrap();
    let refused = "hufu_transactions_refused_total{reason=\"signature_invalid\"}";
    assert!(Metrics::of(&node).get(refused) > 0);
    node.stop();
}

#[test]
fn silent_clients_make_room_for_those_who_come() {
    let chain = Chain::new("places");
    let places = "[client]\nlisten = \"127.0.0.1:0\"\nconnections_max = 4";
    let mut node = chain.node_in(&chain.path().join("data"), places);
    node.start_ready();
    let silent: Vec<_> = (0..4).map(|_| RawConnection::greeted(&node, chain.id())).collect();
    let config = ClientConfig {
        chain_id: Some(chain.id()),
        connect_timeout: PATIENCE,
        call_timeout: PATIENCE,
    };
    let mut late = None;
    wait_until("a place", || {
        late = Client::connect(node.client_address(), &config).ok();
        late.is_some()
    });
    late.unwrap().ping().unwrap();
    let longest = silent.into_iter().next().unwrap();
    assert_eq!(longest.ending(), Some(ErrorCode::IdleTimeout));
    node.stop();
}

/// A client that pings and reads no answer, until no buffer on the way takes any more.
fn ping_and_never_read(node: &TestNode, chain: &Chain) -> TcpStream {
    let mut stream = TcpStream::connect(node.client_address()).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    stream.write_all(&hello(chain.id())).unwrap();
    let mut request = 0;
    loop {
        let mut bytes = Vec::new();
        for _ in 0..10_000 {
            request += 1;
            bytes.extend(message(&ClientMessage::Ping, request));
        }
        if let Err(error) = stream.write_all(&bytes) {
            assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
            return stream;
        }
    }
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_a_stop() {
    let chain = Chain::new("stop");
    let mut node = chain.node();
    node.start_ready();
    let unread = ping_and_never_read(&node, &chain);
    node.stop();
    drop(unread);
}

#[test]
fn the_same_signal_again_ends_the_process_at_once() {
    let chain = Chain::new("again");
    let mut node = chain.node();
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let height = client.status().unwrap().height;
    let unread = ping_and_never_read(&node, &chain);
    node.ask_to_stop();
    wait_until("the stop to begin", || node.log().contains("stopping"));
    node.ask_to_stop();
    let status = node.wait_end();
    assert_eq!(status.signal(), Some(15), "{status}");
    drop(unread);
    node.start_ready();
    let status = chain.connect(&node).status().unwrap();
    assert!(status.height >= height, "what was promised is there");
    node.stop();
}

#[test]
fn after_a_restart_the_node_tells_the_state_of_its_tip() {
    let chain = Chain::new("tip");
    let mut node = chain.node();
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    node.stop();
    node.start_ready();
    let mut client = chain.connect(&node);
    let status = client.status().unwrap();
    let metrics = Metrics::of(&node);
    assert!(status.height > 0 && metrics.get("hufu_chain_height") >= status.height);
    assert!(status.time_millis > 0 && metrics.get("hufu_chain_time_milliseconds") > 0);
    // A page beyond the last id is an empty page.
    let block = client.block(Some(1), 999).unwrap();
    assert_eq!((block.ids_from, block.ids.len()), (block.ids_total, 0));
    node.stop();
}
