//! The client against a session behind a real socket on this host.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{Builder, JoinHandle};

use hufu_types::{Digest, Receipt, TransactionView};

use super::*;
use crate::frame;
use crate::message::event::{Cursor, Event, EventContent, Filter, SubscribeStart};
use crate::samples::{self, CHAIN, id_of, receipt, transaction};
use crate::session::{Delivery, Push, Request, ServerSession, SessionConfig};

/// Height that the test's node stands at; its events end there.
const HEIGHT: u64 = 40;

/// A node with one connection: it admits everything but every tenth nonce, and executes at once.
struct Node {
    session: ServerSession,
    socket: TcpStream,
    input: Vec<u8>,
}

impl Node {
    fn serve(listener: &TcpListener, config: SessionConfig) {
        let (socket, _) = listener.accept().unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let channel = Box::new(PlainChannel::new());
        let session = ServerSession::new(config, CHAIN, Address([1; 20]), channel);
        let mut node = Self { session, socket, input: Vec::new() };
        while node.turn() {}
    }

    /// Reads, handles, writes; `false` at the end of the connection.
    fn turn(&mut self) -> bool {
        let mut buffer = [0; 64 * 1_024];
        if self.input.is_empty() {
            match self.socket.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) => assert!(
                    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                    "{error}"
                ),
            }
        }
        let taken = self.session.receive(&self.input);
        self.input.drain(..taken);
        while let Some(request) = self.session.next_request(HEIGHT) {
            self.handle(request);
        }
        self.feed_events();
        while self.session.has_output() {
            let bytes = self.session.transmit().to_vec();
            self.socket.write_all(&bytes).unwrap();
            self.session.transmitted(bytes.len());
        }
        !self.session.is_closing()
    }

    fn handle(&mut self, request: Request) {
        let session = &mut self.session;
        match request {
            Request::Submit(submit) => {
                for one in submit.submissions {
                    if one.transaction.header().nonce.get().is_multiple_of(10) {
                        session.refused(&one.ticket, RefusalCode::Duplicate);
                        continue;
                    }
                    let id = quick_id(&one.transaction);
                    session.accepted(&one.ticket, id);
                    deliver(session, &receipt(HEIGHT, 0, id));
                }
            }
            Request::Wait { request, wait } => {
                if wait.id == TxId(Digest([0xee; 32])) {
                    session.wait_for_inclusion(request, &wait.id, wait.until_height);
                } else {
                    let receipt = receipt(HEIGHT, 0, wait.id);
                    session.answer_wait(request, Strength::Committed, &receipt, &[]);
                }
            }
            Request::Status { request } => {
                assert_eq!(session.answer_status(request, samples::status_info()), Push::Taken);
            }
            Request::Account { request, query } => {
                let info = AccountInfo {
                    height: HEIGHT,
                    address: query.address,
                    state: crate::message::answer::AccountState::Unknown,
                    holdings: Vec::new(),
                    mandates: Vec::new(),
                    proof: Vec::new(),
                };
                assert_eq!(session.answer_account(request, info), Push::Taken);
            }
            Request::Block { request, .. } => {
                let info = samples::block_info(vec![TxId(Digest([1; 32]))]);
                assert_eq!(session.answer_block(request, info), Push::Taken);
            }
            Request::Transaction { request, .. } => {
                session.answer_error(request, ErrorCode::NotFound, "no such transaction");
            }
            Request::Subscribe { subscription, start, .. } => match start {
                SubscribeStart::Now => session.subscribed(subscription, Cursor::start_of(HEIGHT)),
                SubscribeStart::At(cursor) if cursor.height == 0 => {
                    session.end_subscription(subscription, ErrorCode::CursorGone);
                }
                SubscribeStart::At(cursor) => session.subscribed(subscription, cursor),
            },
        }
    }

    /// Three transactions and a block at every height.
    fn feed_events(&mut self) {
        let states: Vec<_> = self.session.subscriptions().collect();
        for state in states {
            let mut next = state.next;
            while next.height <= HEIGHT {
                let event = event_at(next);
                if self.session.push_event(state.subscription, &event) != Push::Taken {
                    break;
                }
                next = following(next);
            }
        }
    }
}

/// A name that costs no hash, as good as an id for a node that executes nothing.
fn quick_id(transaction: &Transaction) -> TxId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&transaction.header().nonce.get().to_le_bytes());
    TxId(Digest(id))
}

fn deliver(session: &mut ServerSession, receipt: &Receipt) {
    for strength in [Strength::Committed, Strength::Certified] {
        let delivery = session.deliver(strength, receipt, &mut || vec![strength as u8; 10]);
        assert_eq!(delivery, Delivery::Done);
    }
}

fn event_at(cursor: Cursor) -> Event {
    if cursor.index < 3 {
        samples::transaction_event(cursor.height, cursor.index)
    } else {
        samples::block_event(cursor.height, cursor.index)
    }
}

fn following(cursor: Cursor) -> Cursor {
    if cursor.index < 3 { cursor.next() } else { Cursor::start_of(cursor.height + 1) }
}

fn start(config: SessionConfig) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || Node::serve(&listener, config);
    (address, Builder::new().name("node".to_owned()).spawn(serve).unwrap())
}

fn connect() -> (Client, JoinHandle<()>) {
    let (address, node) = start(SessionConfig::default());
    let config = ClientConfig { chain_id: Some(CHAIN), ..ClientConfig::default() };
    (Client::connect(address, &config).unwrap(), node)
}

#[test]
fn transactions_get_their_last_word() {
    let (mut client, node) = connect();
    assert_eq!((client.welcome().chain_id, client.welcome().height), (CHAIN, HEIGHT));
    let transactions: Vec<Transaction> = (1..=25).map(|nonce| transaction(nonce, 50)).collect();
    for (wait, with_proof) in
        [(WaitFor::Nothing, false), (WaitFor::Committed, false), (WaitFor::Certified, true)]
    {
        let results = client.submit(&transactions, wait, with_proof).unwrap();
        for (transaction, result) in transactions.iter().zip(results) {
            let id = quick_id(transaction);
            let is_tenth = transaction.header().nonce.get().is_multiple_of(10);
            let expected = match wait.strength() {
                _ if is_tenth => TransactionResult::Refused(RefusalCode::Duplicate),
                None => TransactionResult::Taken,
                Some(strength) => TransactionResult::Receipt {
                    receipt: receipt(HEIGHT, 0, id),
                    strength,
                    proof: if with_proof { vec![strength as u8; 10] } else { Vec::new() },
                },
            };
            assert_eq!(result, expected);
        }
    }
    assert!(client.submit(&[], WaitFor::Committed, false).unwrap().is_empty());
    drop(client);
    node.join().unwrap();
}

#[test]
fn many_frames_keep_within_what_the_node_takes() {
    let small = SessionConfig { transactions_in_flight_max: 4_096, ..SessionConfig::default() };
    let (address, node) = start(small);
    let mut client = Client::connect(address, &ClientConfig::default()).unwrap();
    let transactions: Vec<Transaction> =
        (0..9_000).map(|place| transaction(10 * place + 1, 50)).collect();
    let results = client.submit(&transactions, WaitFor::Committed, false).unwrap();
    assert_eq!(results.len(), 9_000);
    for (transaction, result) in transactions.iter().zip(results) {
        let TransactionResult::Receipt { receipt, .. } = result else { panic!("{result:?}") };
        assert_eq!(receipt.id, quick_id(transaction));
    }
    drop(client);
    node.join().unwrap();
}

#[test]
fn queries_and_waits_are_answered() {
    let (mut client, node) = connect();
    client.ping().unwrap();
    assert_eq!(client.status().unwrap(), samples::status_info());
    assert_eq!(client.account(Address([4; 20]), true).unwrap().address, Address([4; 20]));
    assert_eq!(client.block(Some(3), 0).unwrap().ids.len(), 1);
    let missing = client.transaction(TxId(Digest([1; 32])), false);
    assert!(matches!(missing, Err(ClientError::Refused { code: ErrorCode::NotFound, .. })));
    let id = id_of(&transaction(1, 50));
    let result = client.wait(id, Strength::Committed, true, 50).unwrap();
    assert!(matches!(result, TransactionResult::Receipt { receipt, .. } if receipt.id == id));
    let never = client.wait(TxId(Digest([0xee; 32])), Strength::Committed, false, 50).unwrap();
    assert_eq!(never, TransactionResult::Refused(RefusalCode::Expired));
    drop(client);
    node.join().unwrap();
}

#[test]
fn events_resume_without_loss_or_duplicate() {
    let (mut expected, mut at) = (Vec::new(), Cursor::start_of(30));
    while at.height <= HEIGHT {
        expected.push(event_at(at));
        at = following(at);
    }
    let (mut seen, mut from) = (Vec::new(), Cursor::start_of(30));
    let patience = Duration::from_secs(20);
    // Each connection takes a few events more than its credit, leaves some unread, and another one
    // goes on.
    while seen.len() < expected.len() {
        let (mut client, node) = connect();
        let (name, begins) = client.subscribe(SubscribeStart::At(from), Filter::All, 5).unwrap();
        assert_eq!(begins, from);
        for _ in 0..13.min(expected.len() - seen.len()) {
            let (of, event) = client.next_event(patience).unwrap().unwrap();
            assert_eq!(of, name);
            seen.push(event);
        }
        from = client.resume_at(name).unwrap();
        assert_eq!(client.unsubscribe(name).unwrap(), from);
        drop(client);
        node.join().unwrap();
    }
    assert_eq!(seen, expected);
    assert!(matches!(seen.last().unwrap().content, EventContent::Block(_)));
}

#[test]
fn a_cursor_that_is_gone_is_an_error() {
    let (mut client, node) = connect();
    let start = SubscribeStart::At(Cursor::default());
    let refused = client.subscribe(start, Filter::All, 5);
    assert!(matches!(refused, Err(ClientError::Refused { code: ErrorCode::CursorGone, .. })));
    client.ping().unwrap();
    drop(client);
    node.join().unwrap();
}

#[test]
fn connections_that_cannot_be_are_refused() {
    let (address, node) = start(SessionConfig::default());
    let config =
        ClientConfig { chain_id: Some(ChainId(Digest([9; 32]))), ..ClientConfig::default() };
    let refused = Client::connect(address, &config).map(|_| ());
    assert!(matches!(refused, Err(ClientError::Refused { code: ErrorCode::WrongChain, .. })));
    node.join().unwrap();
    let closed = Client::connect(address, &config).map(|_| ());
    assert!(matches!(closed, Err(ClientError::Connect { .. })));
    let far = SocketAddr::from(([192, 0, 2, 1], 1));
    let plain = Client::connect(far, &config).map(|_| ());
    assert!(matches!(plain, Err(ClientError::NotLoopback { .. })));
}

#[test]
fn the_two_halves_work_in_two_threads() {
    const COUNT: usize = 100_000;
    let (client, node) = connect();
    let (mut sender, mut receiver) = client.split();
    let transactions: Vec<Transaction> =
        (0..500).map(|place| transaction(10 * place + 1, 50)).collect();
    let sending = move || {
        for _ in 0..COUNT / 500 {
            let frame = transactions.iter().map(Transaction::bytes);
            sender.submit(frame, WaitFor::Committed, false).unwrap();
        }
        sender.flush().unwrap();
        sender
    };
    let began = monotonic();
    let sending = Builder::new().name("sender".to_owned()).spawn(sending).unwrap();
    let mut last = vec![0_u32; COUNT];
    let mut receipts = 0;
    while receipts < COUNT {
        let handle = &mut |incoming: Incoming<'_>| match incoming.message {
            ServerMessage::Statuses(entries) => {
                assert!(entries.iter().all(|entry| entry.refusal().is_none()));
            }
            ServerMessage::Receipts(view) => {
                for entry in view.entries() {
                    let place = (entry.request - 1) * 500 + u64::from(entry.position);
                    last[usize::try_from(place).unwrap()] += 1;
                    receipts += 1;
                }
            }
            other => panic!("{other:?}"),
        };
        assert!(receiver.receive(Duration::from_secs(20), handle).unwrap() > 0);
    }
    let took = monotonic().duration_since(began);
    assert!(last.iter().all(|count| *count == 1), "each transaction has one receipt");
    println!("{COUNT} transactions there and back in {took:?}, both ends on this host");
    sending.join().unwrap().finish().unwrap();
    let end = receiver.receive(Duration::from_secs(20), &mut |_| ());
    assert!(matches!(end, Err(ClientError::Closed)));
    node.join().unwrap();
}

#[test]
fn a_transaction_is_read_from_its_frame_within_ten_microseconds() {
    let bytes = transaction(1, 50).bytes().to_vec();
    let frame =
        samples::raw_submit_frame(1, &vec![bytes.as_slice(); 500], WaitFor::Committed, false);
    let began = monotonic();
    let mut parsed = 0;
    for _ in 0..200 {
        let frame = frame::split(&frame, frame::Direction::FromClient).unwrap().unwrap();
        let ClientMessage::Submit(view) = ClientMessage::decode(&frame).unwrap() else {
            panic!("a submit frame")
        };
        for bytes in view.transactions() {
            parsed += usize::from(TransactionView::parse(std::hint::black_box(bytes)).is_ok());
        }
    }
    let nanos = monotonic().since(began) / 100_000;
    assert_eq!(parsed, 100_000);
    assert!(nanos < 10_000, "{nanos} ns leave no room for 100,000 transactions a second");
    println!("{nanos} ns to split and parse a transaction");
}
