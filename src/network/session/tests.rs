//! Sessions: handshake, limits, push-back, waiters, subscriptions; and that no bytes bring one
//! down.

use std::collections::BTreeSet;

use hufu_types::{Address, ChainId, Digest, RefusalCode, Strength, Transaction, TxId};
use proptest::prelude::*;

use super::*;
use crate::channel::PlainChannel;
use crate::frame::split;
use crate::message::event::{Credit, Cursor, Unsubscribe};
use crate::message::request::PROTOCOL_VERSIONS;
use crate::samples::{self, CHAIN, id_of, receipt, submit_frame, transaction};

fn small() -> SessionConfig {
    SessionConfig {
        transactions_in_flight_max: 4_096,
        requests_in_flight_max: 2,
        subscriptions_max: 2,
        outgoing_bytes_max: 4_096 * 200,
    }
}

fn session(config: SessionConfig) -> ServerSession {
    ServerSession::new(config, CHAIN, Address([1; 20]), Box::new(PlainChannel::new()))
}

fn encode(request: u64, message: &ClientMessage<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(request, &mut bytes);
    bytes
}

fn feed(session: &mut ServerSession, bytes: &[u8]) {
    assert_eq!(session.receive(bytes), bytes.len(), "the session has room");
}

/// Takes everything the session has to say.
fn drain(session: &mut ServerSession) -> Vec<u8> {
    let bytes = session.transmit().to_vec();
    session.transmitted(bytes.len());
    bytes
}

/// Reads frames as a client does.
fn read(bytes: &[u8], mut handle: impl FnMut(u64, ServerMessage<'_>)) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let frame = split(rest, Direction::FromServer).unwrap().expect("whole frames");
        handle(frame.request, ServerMessage::decode(&frame).unwrap());
        rest = &rest[frame.size()..];
    }
}

fn errors(session: &mut ServerSession) -> Vec<(u64, ErrorCode)> {
    let mut found = Vec::new();
    read(&drain(session), |request, message| {
        if let ServerMessage::Error(error) = message {
            found.push((request, error.code));
        }
    });
    found
}

fn statuses(session: &mut ServerSession) -> Vec<(u64, u32, Option<RefusalCode>)> {
    let mut found = Vec::new();
    read(&drain(session), |_, message| {
        if let ServerMessage::Statuses(entries) = message {
            let of = |entry: &StatusEntry| (entry.request(), entry.position(), entry.refusal());
            found.extend(entries.iter().map(of));
        }
    });
    found
}

fn open(config: SessionConfig) -> ServerSession {
    let mut session = session(config);
    feed(&mut session, &encode(0, &ClientMessage::Hello(Hello::new(Some(CHAIN)))));
    assert!(session.next_request(9).is_none());
    let mut welcomed = false;
    read(&drain(&mut session), |_, message| {
        let ServerMessage::Welcome(welcome) = message else { panic!("a welcome") };
        assert_eq!((welcome.version, welcome.height), (PROTOCOL_VERSIONS.1, 9));
        welcomed = true;
    });
    assert!(welcomed && session.is_greeted());
    session
}

fn submitted(session: &mut ServerSession) -> Vec<Submission> {
    match session.next_request(9) {
        Some(Request::Submit(submit)) => submit.submissions,
        other => panic!("a submit request, not {other:?}"),
    }
}

fn no_proof() -> Vec<u8> {
    panic!("nobody wants a proof")
}

fn transactions(count: u64) -> Vec<Transaction> {
    (1..=count).map(|nonce| transaction(nonce, 20)).collect()
}

#[test]
fn a_wrong_hello_is_answered_and_closes() {
    let good = Hello::new(None);
    let (_, newest) = PROTOCOL_VERSIONS;
    let later = Hello { version_min: newest + 1, version_max: newest + 2, ..good };
    let cases = [
        (
            encode(0, &ClientMessage::Hello(Hello { magic: *b"GET / HT", ..good })),
            ErrorCode::BadMagic,
        ),
        (encode(0, &ClientMessage::Hello(later)), ErrorCode::VersionUnsupported),
        (
            encode(0, &ClientMessage::Hello(Hello::new(Some(ChainId(Digest([8; 32])))))),
            ErrorCode::WrongChain,
        ),
        (encode(3, &ClientMessage::Hello(good)), ErrorCode::RequestIdInvalid),
        (encode(1, &ClientMessage::Ping), ErrorCode::HelloMisplaced),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), ErrorCode::FrameVersionUnknown),
    ];
    for (bytes, code) in cases {
        let mut session = session(small());
        feed(&mut session, &bytes);
        assert!(session.next_request(9).is_none());
        assert!(session.is_closing());
        let found: Vec<ErrorCode> =
            errors(&mut session).into_iter().map(|(_, code)| code).collect();
        assert_eq!(found, [code]);
        let count = session.counters().errors().find(|(other, _)| *other == code);
        assert_eq!(count, Some((code, 1)));
    }
    let wide = Hello { version_min: 0, version_max: u16::MAX, ..good };
    assert_eq!(wide.common_version(), Some(newest));
}

#[test]
fn a_malformed_transaction_in_a_good_frame_is_only_refused() {
    let mut session = open(small());
    let good = transaction(1, 20);
    let mut bad = good.bytes().to_vec();
    bad[37] = 1;
    let large = vec![0; index(TX_SIZE_MAX) + 1];
    let greedy = samples::greedy_transaction();
    assert!(greedy.len() < index(TX_SIZE_MAX), "it is the keys that are too many");
    let bodies = [good.bytes(), &bad, &[], &large, good.bytes(), &greedy];
    feed(&mut session, &samples::raw_submit_frame(1, &bodies, WaitFor::Nothing, false));
    let taken = submitted(&mut session);
    assert_eq!(taken.iter().map(|one| one.ticket.position).collect::<Vec<_>>(), [0, 4]);
    for one in &taken {
        assert_eq!(one.transaction, good);
        session.accepted(&one.ticket, id_of(&one.transaction));
    }
    let malformed = Some(RefusalCode::Malformed);
    let expected = [
        (1, 1, malformed),
        (1, 2, malformed),
        (1, 3, Some(RefusalCode::Oversized)),
        (1, 5, Some(RefusalCode::Oversized)),
        (1, 0, None),
        (1, 4, None),
    ];
    assert_eq!(statuses(&mut session), expected);
    assert_eq!((session.transactions_in_flight(), session.waiters_count()), (0, 0));
    assert!(!session.is_closing());
}

#[test]
fn broken_framing_closes_after_the_error() {
    let mut session = open(small());
    let mut frame = submit_frame(1, &transactions(2), WaitFor::Nothing, false);
    frame[20] = 3; // The count says three.
    feed(&mut session, &frame);
    assert!(session.next_request(9).is_none());
    assert_eq!(errors(&mut session), [(1, ErrorCode::Malformed)]);
    assert!(session.is_closing() && !session.has_output());
    feed(&mut session, &encode(2, &ClientMessage::Ping));
    assert!(session.next_request(9).is_none() && !session.has_output());
}

#[test]
fn request_ids_must_grow() {
    let mut session = open(small());
    feed(&mut session, &encode(5, &ClientMessage::Ping));
    feed(&mut session, &encode(5, &ClientMessage::Ping));
    assert!(session.next_request(9).is_none());
    assert_eq!(errors(&mut session), [(5, ErrorCode::RequestIdInvalid)]);
}

#[test]
fn what_does_not_fit_in_flight_waits() {
    let mut session = open(small());
    let many = transactions(3_000);
    feed(&mut session, &submit_frame(1, &many, WaitFor::Nothing, false));
    let first = submitted(&mut session);
    feed(&mut session, &submit_frame(2, &many[..1_097], WaitFor::Nothing, false));
    assert!(session.next_request(9).is_none(), "3,000 and 1,097 are one too many");
    assert_eq!(session.counters().pauses, 1);
    session.refused(&first[0].ticket, RefusalCode::Duplicate);
    assert_eq!(submitted(&mut session).len(), 1_097);
    session.refused(&first[1].ticket, RefusalCode::Duplicate);
    assert_eq!(session.transactions_in_flight(), 4_095);
}

#[test]
fn input_beyond_a_frame_is_not_taken() {
    let mut session = open(small());
    let header = FrameHeaderBytes::submit(FRAME_BODY_SIZE_MAX);
    feed(&mut session, &header.0);
    let taken = session.receive(&vec![0; 2 * index(FRAME_BODY_SIZE_MAX)]);
    assert_eq!(taken, PLAIN_BYTES_MAX - FRAME_HEADER_SIZE);
}

struct FrameHeaderBytes(Vec<u8>);

impl FrameHeaderBytes {
    fn submit(size: u32) -> Self {
        let mut bytes = Vec::new();
        hufu_types::codec::put(
            &mut bytes,
            &frame::FrameHeader::new(crate::frame::FrameKind::Submit, 1, size),
        );
        Self(bytes)
    }
}

#[test]
fn receipts_reach_those_who_wait_for_their_strength() {
    let mut session = open(small());
    let one = transactions(1);
    let id = id_of(&one[0]);
    feed(&mut session, &submit_frame(1, &one, WaitFor::Certified, true));
    let wait = Wait { id, until_height: 20, strength: Strength::Committed, with_proof: false };
    feed(&mut session, &encode(2, &ClientMessage::Wait(wait)));
    let taken = submitted(&mut session);
    session.accepted(&taken[0].ticket, id);
    assert!(
        matches!(session.next_request(9), Some(Request::Wait { wait: found, .. }) if found == wait)
    );
    assert_eq!(session.waiters_count(), 2);
    let receipt = receipt(10, 0, id);
    assert_eq!(session.deliver(Strength::Committed, &receipt, &mut no_proof), Delivery::Done);
    session.advance(20);
    assert_eq!(session.waiters_count(), 1, "an included transaction does not expire");
    let mut asked = 0;
    let mut proof = || {
        asked += 1;
        vec![7; 30]
    };
    assert_eq!(session.deliver(Strength::Certified, &receipt, &mut proof), Delivery::Done);
    assert_eq!(asked, 1);
    let mut found = Vec::new();
    read(&drain(&mut session), |_, message| match message {
        ServerMessage::Statuses(entries) => assert_eq!(entries[0].refusal(), None),
        ServerMessage::Receipts(view) => found
            .extend(view.entries().map(|entry| (entry.request, entry.strength, entry.proof.len()))),
        other => panic!("{other:?}"),
    });
    assert_eq!(found, [(2, Strength::Committed, 0), (1, Strength::Certified, 30)]);
    assert_eq!((session.waiters_count(), session.transactions_in_flight()), (0, 0));
}

#[test]
fn waits_end_when_the_transaction_can_no_longer_come() {
    let mut session = open(small());
    feed(&mut session, &submit_frame(1, &transactions(2), WaitFor::Committed, false));
    let taken = submitted(&mut session);
    let ids: Vec<TxId> = taken.iter().map(|one| id_of(&one.transaction)).collect();
    for (one, id) in taken.iter().zip(&ids) {
        session.accepted(&one.ticket, *id);
    }
    session.advance(19);
    assert_eq!(session.waiters_count(), 2);
    session.advance(20);
    let expired = Some(RefusalCode::Expired);
    let expected = [(1, 0, None), (1, 1, None), (1, 0, expired), (1, 1, expired)];
    assert_eq!(statuses(&mut session), expected);
    assert_eq!((session.waiters_count(), session.transactions_in_flight()), (0, 0));
}

fn wait_frame(request: u64, id: TxId, until: u64, strength: Strength, proof: bool) -> Vec<u8> {
    let wait = Wait { id, until_height: until, strength, with_proof: proof };
    encode(request, &ClientMessage::Wait(wait))
}

/// Request, strength and size of the proof of every receipt, and the refusals among the statuses.
fn last_words(session: &mut ServerSession) -> (Vec<(u64, Strength, usize)>, Vec<u64>) {
    let (mut receipts, mut refused) = (Vec::new(), Vec::new());
    read(&drain(session), |_, message| match message {
        ServerMessage::Receipts(view) => {
            let of = view.entries().map(|one| (one.request, one.strength, one.proof.len()));
            receipts.extend(of);
        }
        ServerMessage::Statuses(entries) => {
            refused.extend(entries.iter().filter(|one| one.refusal().is_some()).map(|one| {
                assert_eq!(one.refusal(), Some(RefusalCode::Expired));
                one.request()
            }));
        }
        other => panic!("{other:?}"),
    });
    (receipts, refused)
}

#[test]
fn a_wait_does_not_expire_before_the_node_has_looked() {
    let mut session = open(small());
    let id = TxId(Digest([1; 32]));
    feed(&mut session, &wait_frame(1, id, 9, Strength::Certified, false));
    feed(&mut session, &wait_frame(2, id, 9, Strength::Committed, false));
    while session.next_request(9).is_some() {}
    session.advance(10);
    assert_eq!(session.waiters_count(), 2, "the transaction may be in a block before the wait");
    session.wait_for_certificate(1, &id);
    session.answer_wait(2, Strength::Committed, &receipt(9, 0, id), &[]);
    session.advance(11);
    assert_eq!(last_words(&mut session), (vec![(2, Strength::Committed, 0)], vec![]));
    assert!(!session.is_settled(), "an included transaction does not expire");
    let certified = session.deliver(Strength::Certified, &receipt(9, 0, id), &mut no_proof);
    assert_eq!(certified, Delivery::Done);
    assert_eq!(last_words(&mut session), (vec![(1, Strength::Certified, 0)], vec![]));
    assert!(session.is_settled());
}

#[test]
fn a_wait_that_is_too_late_ends_without_another_block() {
    let mut session = open(small());
    let id = TxId(Digest([1; 32]));
    feed(&mut session, &wait_frame(1, id, 9, Strength::Committed, false));
    feed(&mut session, &wait_frame(2, id, 10, Strength::Committed, false));
    while session.next_request(9).is_some() {}
    session.wait_for_inclusion(2, &id, 9);
    session.wait_for_inclusion(1, &id, 9);
    assert_eq!(last_words(&mut session), (vec![], vec![1]));
    session.advance(10);
    assert_eq!(last_words(&mut session), (vec![], vec![2]));
    // The node has looked at height 9, and height 10 came before it said so.
    feed(&mut session, &wait_frame(3, id, 10, Strength::Committed, false));
    assert!(session.next_request(9).is_some());
    session.wait_for_inclusion(3, &id, 9);
    assert_eq!(last_words(&mut session), (vec![], vec![3]));
    assert!(session.is_settled());
}

#[test]
fn an_answer_serves_the_wait_it_was_made_for() {
    let mut session = open(small());
    let id = TxId(Digest([1; 32]));
    feed(&mut session, &wait_frame(1, id, 20, Strength::Committed, false));
    feed(&mut session, &wait_frame(2, id, 20, Strength::Committed, true));
    while session.next_request(9).is_some() {}
    let receipt = receipt(8, 0, id);
    session.answer_wait(1, Strength::Committed, &receipt, &[]);
    assert_eq!(last_words(&mut session), (vec![(1, Strength::Committed, 0)], vec![]));
    session.answer_wait(2, Strength::Committed, &receipt, &[7; 30]);
    session.answer_wait(2, Strength::Committed, &receipt, &[7; 30]);
    assert_eq!(last_words(&mut session), (vec![(2, Strength::Committed, 30)], vec![]));
    assert!(session.is_settled());
}

#[test]
fn held_submits_stop_nothing_before_them() {
    let mut session = open(small());
    session.hold_submits(true);
    feed(&mut session, &encode(1, &ClientMessage::Ping));
    feed(&mut session, &submit_frame(2, &transactions(1), WaitFor::Nothing, false));
    for _ in 0..3 {
        assert!(session.next_request(9).is_none());
    }
    assert_eq!(session.counters().pauses, 1, "counted when it begins");
    let mut pongs = 0;
    read(&drain(&mut session), |_, message| pongs += u32::from(message == ServerMessage::Pong));
    assert_eq!((pongs, session.is_settled()), (1, false));
    session.hold_submits(false);
    let taken = submitted(&mut session);
    session.refused(&taken[0].ticket, RefusalCode::Duplicate);
    assert!(session.next_request(9).is_none() && session.is_settled());
}

/// A large frame waits through many looks at its connection: none of them reads all of it.
#[test]
fn a_held_submit_is_read_when_its_turn_comes_and_not_before() {
    let mut session = open(small());
    session.hold_submits(true);
    let mut frame = submit_frame(1, &transactions(1), WaitFor::Nothing, false);
    // The size of its only transaction, which says more than there is.
    frame[FRAME_HEADER_SIZE + 8] ^= 1;
    feed(&mut session, &frame);
    for _ in 0..3 {
        assert!(session.next_request(9).is_none());
    }
    assert!(session.is_paused() && !session.is_closing());
    session.hold_submits(false);
    assert!(session.next_request(9).is_none());
    assert!(session.is_closing());
    // One whose count no frame may have is not waited with.
    let mut session = open(small());
    session.hold_submits(true);
    let mut frame = submit_frame(1, &transactions(1), WaitFor::Nothing, false);
    frame[FRAME_HEADER_SIZE + 4..FRAME_HEADER_SIZE + 8].fill(0xff);
    feed(&mut session, &frame);
    assert!(session.next_request(9).is_none() && session.is_closing());
}

#[test]
fn refusals_are_counted_after_the_end() {
    let mut session = open(small());
    feed(&mut session, &submit_frame(1, &transactions(1), WaitFor::Nothing, false));
    let taken = submitted(&mut session);
    session.close(ErrorCode::SlowConsumer, "");
    session.refused(&taken[0].ticket, RefusalCode::SignatureInvalid);
    assert_eq!(session.counters().refusals().map(|(_, count)| count).sum::<u64>(), 1);
}

#[test]
fn waits_and_queries_beyond_the_limit_are_refused() {
    let mut session = open(small());
    let id = TxId(Digest([1; 32]));
    let wait = Wait { id, until_height: 20, strength: Strength::Committed, with_proof: false };
    for request in 1..=3 {
        feed(&mut session, &encode(request, &ClientMessage::Wait(wait)));
    }
    for request in 4..=6 {
        feed(&mut session, &encode(request, &ClientMessage::QueryStatus));
    }
    let mut yielded = 0;
    while session.next_request(9).is_some() {
        yielded += 1;
    }
    assert_eq!(yielded, 4);
    let too_many = ErrorCode::TooManyInFlight;
    assert_eq!(errors(&mut session), [(3, too_many), (6, too_many)]);
    assert_eq!(session.answer_status(4, samples::status_info()), Push::Taken);
    feed(&mut session, &encode(7, &ClientMessage::QueryStatus));
    assert!(matches!(session.next_request(9), Some(Request::Status { request: 7 })));
}

#[test]
fn a_full_buffer_pushes_back_and_loses_nothing() {
    let mut session = open(small());
    feed(&mut session, &submit_frame(1, &transactions(100), WaitFor::Committed, true));
    let taken = submitted(&mut session);
    let ids: Vec<TxId> = taken.iter().map(|one| id_of(&one.transaction)).collect();
    for (one, id) in taken.iter().zip(&ids) {
        session.accepted(&one.ticket, *id);
    }
    let (mut seen, mut fills, mut next) = (BTreeSet::new(), 0, 0);
    while next < ids.len() {
        let receipt = receipt(10, u32::try_from(next).unwrap(), ids[next]);
        match session.deliver(Strength::Committed, &receipt, &mut || vec![1; 40_000]) {
            Delivery::Done => next += 1,
            Delivery::Full => {
                fills += 1;
                feed(&mut session, &encode(1 + fills, &ClientMessage::Ping));
                assert!(session.next_request(9).is_none() && !session.is_settled());
                take_positions(&mut session, &mut seen);
                assert!(!session.is_full());
            }
        }
    }
    take_positions(&mut session, &mut seen);
    assert!(fills >= 4, "4 MB do not fit 0.8 MB: {fills}");
    assert_eq!(seen.len(), 100);
    assert_eq!(session.transactions_in_flight(), 0);
}

fn take_positions(session: &mut ServerSession, seen: &mut BTreeSet<u32>) {
    read(&drain(session), |_, message| {
        if let ServerMessage::Receipts(view) = message {
            for entry in view.entries() {
                assert!(seen.insert(entry.position), "each receipt comes once");
            }
        }
    });
}

#[test]
fn statuses_of_many_frames_are_coalesced() {
    let mut session = open(small());
    for (request, one) in (1_u64..).zip(transactions(50)) {
        feed(&mut session, &submit_frame(request, &[one], WaitFor::Nothing, false));
        let taken = submitted(&mut session);
        session.accepted(&taken[0].ticket, id_of(&taken[0].transaction));
    }
    let bytes = drain(&mut session);
    let frame = split(&bytes, Direction::FromServer).unwrap().unwrap();
    assert_eq!((frame.size(), frame.body.len()), (bytes.len(), 50 * 16));
}

fn subscribe(session: &mut ServerSession, request: u64, credits: u32) {
    let body = Subscribe { start: SubscribeStart::Now, filter: Filter::All, credits };
    feed(session, &encode(request, &ClientMessage::Subscribe(body)));
    let asked = session.next_request(9);
    assert!(
        matches!(asked, Some(Request::Subscribe { subscription, .. }) if subscription == request)
    );
    session.subscribed(request, Cursor::start_of(10));
}

fn event_cursors(session: &mut ServerSession) -> (Vec<Cursor>, Option<Cursor>) {
    let (mut cursors, mut next) = (Vec::new(), None);
    read(&drain(session), |_, message| {
        if let ServerMessage::Events(view) = message {
            cursors.extend(view.events().map(|event| event.cursor));
            next = Some(view.next());
        }
    });
    (cursors, next)
}

#[test]
fn subscriptions_get_what_they_have_credit_for() {
    let mut session = open(small());
    subscribe(&mut session, 1, 2);
    let at = |height, index| Cursor { height, index };
    let (first, second) = (samples::transaction_event(10, 0), samples::transaction_event(10, 1));
    assert_eq!(session.push_event(1, &samples::transaction_event(9, 0)), Push::Stale);
    assert_eq!(session.push_event(1, &first), Push::Taken);
    assert_eq!(session.push_event(1, &first), Push::Stale, "never twice");
    assert_eq!(session.push_event(1, &second), Push::Taken);
    let block = samples::block_event(10, 2);
    assert_eq!(session.push_event(1, &block), Push::NoCredit);
    assert_eq!(session.subscriptions().count(), 0);
    let (cursors, next) = event_cursors(&mut session);
    assert_eq!((cursors, next), (vec![at(10, 0), at(10, 1)], Some(at(10, 2))));
    let credit = Credit { subscription: 1, events: 5 };
    feed(&mut session, &encode(2, &ClientMessage::Credit(credit)));
    assert!(session.next_request(9).is_none());
    let state = session.subscriptions().next().unwrap();
    assert_eq!((state.next, state.credits), (at(10, 2), 5));
    assert_eq!(session.push_event(1, &block), Push::Taken);
    assert_eq!(session.subscriptions().next().unwrap().next, at(11, 0));
    session.skip_to(1, at(40, 0));
    session.housekeeping();
    let (cursors, next) = event_cursors(&mut session);
    assert_eq!((cursors, next), (vec![at(10, 2)], Some(at(40, 0))));
    feed(&mut session, &encode(3, &ClientMessage::Unsubscribe(Unsubscribe { subscription: 1 })));
    assert!(session.next_request(9).is_none());
    read(&drain(&mut session), |request, message| {
        let ServerMessage::SubscriptionEnded(end) = message else { panic!("{message:?}") };
        assert_eq!((request, end.reason, end.next), (3, None, at(40, 0)));
    });
    assert_eq!(session.push_event(1, &samples::transaction_event(50, 0)), Push::Stale);
}

#[test]
fn subscriptions_have_limits() {
    let mut session = open(small());
    subscribe(&mut session, 1, 1);
    subscribe(&mut session, 2, 1);
    let body = Subscribe { start: SubscribeStart::Now, filter: Filter::All, credits: 1 };
    feed(&mut session, &encode(3, &ClientMessage::Subscribe(body)));
    let over = Credit { subscription: 1, events: crate::limits::CREDITS_MAX };
    feed(&mut session, &encode(4, &ClientMessage::Credit(over)));
    let unknown = Credit { subscription: 3, events: 1 };
    feed(&mut session, &encode(5, &ClientMessage::Credit(unknown)));
    feed(&mut session, &encode(6, &ClientMessage::Unsubscribe(Unsubscribe { subscription: 3 })));
    assert!(session.next_request(9).is_none());
    let expected = [
        (3, ErrorCode::TooManyInFlight),
        (4, ErrorCode::CreditExceeded),
        (5, ErrorCode::SubscriptionUnknown),
        (6, ErrorCode::SubscriptionUnknown),
    ];
    assert_eq!(errors(&mut session), expected);
    session.end_subscription(2, ErrorCode::CursorGone);
    read(&drain(&mut session), |request, message| {
        let ServerMessage::SubscriptionEnded(end) = message else { panic!("{message:?}") };
        assert_eq!((request, end.reason), (2, Some(ErrorCode::CursorGone)));
    });
    subscribe(&mut session, 7, 1);
}

#[test]
fn configurations_are_judged() {
    assert_eq!(SessionConfig::default().fault(), None);
    assert_eq!(small().fault(), None);
    let few = SessionConfig { transactions_in_flight_max: 4_095, ..small() };
    assert_eq!(few.fault(), Some(("transactions_in_flight_max", 4_096)));
    let tight = SessionConfig { outgoing_bytes_max: 4_096, ..small() };
    assert_eq!(tight.fault().map(|(key, _)| key), Some("outgoing_bytes_max"));
}

/// A stream of good frames behind a hello.
fn stream() -> Vec<u8> {
    let mut bytes = encode(0, &ClientMessage::Hello(Hello::new(None)));
    bytes.extend(submit_frame(1, &transactions(3), WaitFor::Committed, false));
    bytes.extend(encode(2, &ClientMessage::QueryStatus));
    bytes.extend(submit_frame(3, &transactions(1), WaitFor::Nothing, false));
    bytes.extend(encode(4, &ClientMessage::Ping));
    bytes
}

/// What a session makes of a stream that comes in pieces of these sizes.
fn outcome(bytes: &[u8], sizes: &[usize]) -> (Vec<String>, bool, Vec<u8>) {
    let mut session = session(small());
    let (mut requests, mut rest, mut sizes) = (Vec::new(), bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let piece = (*sizes.next().unwrap()).min(rest.len());
        let taken = session.receive(&rest[..piece]);
        rest = &rest[taken..];
        while let Some(request) = session.next_request(9) {
            requests.push(format!("{request:?}"));
        }
    }
    (requests, session.is_closing(), drain(&mut session))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn pieces_do_not_matter(sizes in proptest::collection::vec(1..300_usize, 1..20)) {
        prop_assert_eq!(outcome(&stream(), &sizes), outcome(&stream(), &[100_000]));
    }

    #[test]
    fn damaged_streams_never_panic_and_say_one_error(
        place in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = stream();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let end = end.index(bytes.len() + 1);
        let (_, is_closing, said) = outcome(&bytes[..end], &[1_000]);
        let mut closing_errors = 0;
        read(&said, |_, message| {
            if let ServerMessage::Error(error) = message {
                closing_errors += u32::from(error.code.closes());
            }
        });
        prop_assert_eq!(closing_errors, u32::from(is_closing));
    }

    #[test]
    fn random_bytes_after_the_hello_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0..13_u8,
    ) {
        let mut session = open(small());
        let mut frame = vec![u8::try_from(bytes.len()).unwrap(), 0, 0, 0, kind, 0, 1, 0];
        frame.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(&bytes);
        feed(&mut session, &frame);
        while session.next_request(9).is_some() {}
        read(&drain(&mut session), |_, _| ());
    }
}
