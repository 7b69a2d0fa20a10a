//! Frames that no honest client sends, on real sockets: each has its code and its counter, the
//! connection is closed, and everybody else is served all the while.

use std::sync::Arc;

use hufu_network::codes::ErrorCode;
use hufu_network::limits::{FRAME_BODY_SIZE_MAX, SUBMIT_TRANSACTIONS_COUNT_MAX};
use hufu_network::message::ClientMessage;
use hufu_network::message::request::{Hello, QueryAccount};
use hufu_types::ChainId;

use crate::chain::{Chain, VALIDITY_HEIGHTS, person};
use crate::checks::Checker;
use crate::load::{LIGHT, Loader, Record};
use crate::node::{TestNode, wait_until};
use crate::wire::{Metrics, Random, RawConnection, hello, message};

/// Mutated conversations that are tried, count.
const MUTATIONS_COUNT: u64 = 150;

/// A frame from its parts, right or wrong.
fn frame(size: u32, kind: u16, version: u8, flags: u8, request: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = size.to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend([version, flags]);
    bytes.extend(request.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn good_size(kind: u16, body: &[u8]) -> Vec<u8> {
    frame(u32::try_from(body.len()).unwrap(), kind, 1, 0, 1, body)
}

/// The body of a submit frame, right or wrong.
fn submit(wait: u8, with_proof: u8, reserved: u8, count: u32, transactions: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![wait, with_proof, reserved, 0];
    body.extend(count.to_le_bytes());
    for transaction in transactions {
        body.extend(u32::try_from(transaction.len()).unwrap().to_le_bytes());
        body.extend(*transaction);
    }
    good_size(2, &body)
}

/// What may be said before the hello was accepted, and the answer.
fn before_the_hello(chain: ChainId) -> Vec<(&'static str, Vec<u8>, ErrorCode)> {
    let good = hello(chain);
    let with = |place: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[place] = value;
        bytes
    };
    let versions = Hello { version_min: 7, version_max: 9, ..Hello::new(Some(chain)) };
    let descending = Hello { version_min: 2, version_max: 1, ..Hello::new(Some(chain)) };
    let of = |body: Hello| message(&ClientMessage::Hello(body), 0);
    let web = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    vec![
        ("another protocol", web, ErrorCode::FrameVersionUnknown),
        ("another magic", with(16, b'X'), ErrorCode::BadMagic),
        ("another frame version", with(6, 2), ErrorCode::FrameVersionUnknown),
        ("flags", with(7, 1), ErrorCode::Malformed),
        ("no hello first", message(&ClientMessage::Ping, 1), ErrorCode::HelloMisplaced),
        ("a hello with a request id", with(8, 1), ErrorCode::RequestIdInvalid),
        ("later versions only", of(versions), ErrorCode::VersionUnsupported),
        ("versions the wrong way round", of(descending), ErrorCode::Malformed),
        ("reserved bytes", with(28, 1), ErrorCode::Malformed),
        (
            "another chain",
            of(Hello::new(Some(ChainId(hufu_types::Digest([9; 32]))))),
            ErrorCode::WrongChain,
        ),
        ("a hello that is too long", frame(49, 1, 1, 0, 0, &[]), ErrorCode::Oversized),
        ("a hello that is too short", frame(47, 1, 1, 0, 0, &[]), ErrorCode::Malformed),
    ]
}

/// What may be said after it, and the answer.
fn after_the_hello(chain: ChainId, good: &[u8]) -> Vec<(&'static str, Vec<u8>, ErrorCode)> {
    let too_large = FRAME_BODY_SIZE_MAX + 1;
    let too_many = SUBMIT_TRANSACTIONS_COUNT_MAX + 1;
    let query = QueryAccount { address: person(0).address, with_proof: false };
    let mut odd_query = message(&ClientMessage::QueryAccount(query), 1);
    let last = odd_query.len() - 1;
    odd_query[last] = 1;
    let mut behind = submit(1, 0, 0, 1, &[good]);
    behind.extend([0; 4]);
    let longer = u32::try_from(behind.len() - 16).unwrap().to_le_bytes();
    behind[..4].copy_from_slice(&longer);
    let mut inner = submit(1, 0, 0, 1, &[good]);
    inner[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    let repeated = [message(&ClientMessage::Ping, 5), message(&ClientMessage::Ping, 5)].concat();
    use ErrorCode::{HelloMisplaced, Malformed, Oversized, RequestIdInvalid, UnknownKind};
    vec![
        ("a second hello", hello(chain), HelloMisplaced),
        ("a body over the limit", frame(too_large, 2, 1, 0, 1, &[]), Oversized),
        ("a body of 4 GiB", frame(u32::MAX, 2, 1, 0, 1, &[]), Oversized),
        ("a ping with a body", frame(1, 11, 1, 0, 1, &[0]), Oversized),
        ("a body under the limit", frame(3, 2, 1, 0, 1, &[0; 3]), Malformed),
        ("a kind of nobody", frame(0, 12, 1, 0, 1, &[]), UnknownKind),
        ("a kind of the node", frame(88, 0x8001, 1, 0, 1, &[0; 88]), UnknownKind),
        ("a request id again", repeated, RequestIdInvalid),
        ("request id 0", message(&ClientMessage::Ping, 0), RequestIdInvalid),
        ("no transactions", submit(1, 0, 0, 0, &[]), Malformed),
        ("too many transactions", submit(1, 0, 0, too_many, &[good]), Malformed),
        ("fewer transactions than counted", submit(1, 0, 0, 2, &[good]), Malformed),
        ("bytes after the last transaction", behind, Malformed),
        ("a transaction beyond the frame", inner, Malformed),
        ("an unknown wait", submit(3, 0, 0, 1, &[good]), Malformed),
        ("an unknown flag", submit(1, 2, 0, 1, &[good]), Malformed),
        ("a proof without a wait", submit(0, 1, 0, 1, &[good]), Malformed),
        ("reserved bytes of a submit", submit(1, 0, 1, 1, &[good]), Malformed),
        ("reserved bytes of a query", odd_query, Malformed),
        ("a wait of no strength", good_size(3, &[0; 48]), Malformed),
        ("a subscription of nothing", good_size(8, &[9; 48]), Malformed),
    ]
}

#[test]
fn broken_frames_are_named_counted_and_the_rest_is_served() {
    let chain = Arc::new(Chain::new("frames"));
    let mut node = chain.node();
    node.start_ready();
    let mut client = chain.connect(&node);
    chain.open_market(&mut client);
    let record = Arc::new(Record::default());
    let loader = Loader::start(&chain, &node, &record, LIGHT);
    let good = chain.ordinary(&[person(0), person(1)], 1 << 40, VALIDITY_HEIGHTS);

    let early = before_the_hello(chain.id());
    let late = after_the_hello(chain.id(), good.bytes());
    let count = early.len() + late.len();
    for (is_greeted, cases) in [(false, early), (true, late)] {
        for (what, bytes, expected) in cases {
            let (name, faults) = (
                format!("errors_answered_total{{code=\"{expected}\"}}"),
                "connections_faulted_total",
            );
            let read = |name: &str| Metrics::of(&node).get(&format!("hufu_ingress_{name}"));
            let before = (read(&name), read(faults));
            let mut connection = if is_greeted {
                RawConnection::greeted(&node, chain.id())
            } else {
                RawConnection::open(&node)
            };
            connection.send(&bytes);
            assert_eq!(connection.ending(), Some(expected), "{what}");
            wait_until("the counter", || {
                read(&name) == before.0 + 1 && read(faults) == before.1 + 1
            });
        }
    }
    println!("{count} broken frames");
    truncated(&chain, &node, good.bytes());
    mutated(&chain, &node, good.bytes());
    record.wait_for_more(1_000);
    loader.finish();
    client.ping().unwrap();
    Checker::default().check(&chain, &node, &record, true);
    node.stop();
}

/// A frame whose rest never comes is no frame: nothing is answered, nothing is kept.
fn truncated(chain: &Chain, node: &TestNode, good: &[u8]) {
    let whole = submit(1, 0, 0, 1, &[good]);
    for size in [1, 4, 15, 16, 17, whole.len() / 2, whole.len() - 1] {
        let mut connection = RawConnection::greeted(node, chain.id());
        connection.send(&whole[..size]);
        connection.end_input();
        assert_eq!(connection.ending(), None, "{size} bytes of a frame");
    }
}

/// Whatever the bytes are, the node answers or closes; it never hangs on them and never ends.
fn mutated(chain: &Chain, node: &TestNode, good: &[u8]) {
    let mut random = Random::from_environment();
    let query = QueryAccount { address: person(0).address, with_proof: true };
    let whole = [
        hello(chain.id()),
        submit(1, 0, 0, 2, &[good, good]),
        message(&ClientMessage::QueryAccount(query), 2),
        message(&ClientMessage::QueryStatus, 3),
    ]
    .concat();
    for _ in 0..MUTATIONS_COUNT {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let place = usize::try_from(random.below(bytes.len() as u64)).unwrap();
            match random.below(3) {
                0 => bytes[place] ^= 1 << random.below(8),
                1 => bytes[place] = random.next().to_le_bytes()[0],
                _ => bytes.truncate(place.max(1)),
            }
        }
        let mut connection = RawConnection::open(node);
        connection.send(&bytes);
        connection.end_input();
        // The end must come; which one depends on what the bytes have become.
        connection.ending();
    }
}

#[test]
fn a_connection_without_hello_is_closed() {
    let chain = Chain::new("silent");
    let mut node = chain.node();
    node.start_ready();
    let silent = RawConnection::open(&node);
    let mut half = RawConnection::open(&node);
    half.send(&hello(chain.id())[..20]);
    assert_eq!(silent.ending(), Some(ErrorCode::IdleTimeout));
    assert_eq!(half.ending(), Some(ErrorCode::IdleTimeout));
    chain.connect(&node).ping().unwrap();
    node.stop();
}
