//! An ingress tile with real sockets, and the test in the place of every other tile and of time.

mod fixture;

use std::time::Duration;

use hufu_network::codes::ErrorCode;
use hufu_network::message::event::{Cursor, Filter, Subscribe, SubscribeStart};
use hufu_network::message::request::{QueryBlock, Wait};
use hufu_network::message::{ClientMessage, WaitFor};
use hufu_runtime::tile::Tile;
use hufu_types::{Digest, RefusalCode, Strength, TxId};

use crate::block_window::{BlockWindow, WINDOW_BYTES_MAX};
use crate::messages::{AnswerBody, Query};
use fixture::{Node, Seen, block, submit};

const ID: TxId = TxId(Digest([1; 32]));

fn wait(until_height: u64, strength: Strength) -> ClientMessage<'static> {
    ClientMessage::Wait(Wait { id: ID, until_height, strength, with_proof: false })
}

fn subscribe(height: u64, index: u32) -> ClientMessage<'static> {
    let start = SubscribeStart::At(Cursor { height, index });
    ClientMessage::Subscribe(Subscribe { start, filter: Filter::All, credits: 10 })
}

#[test]
fn a_flood_of_one_connection_starves_nobody() {
    let mut node = Node::new(4, 128);
    let mut flood = node.greeted();
    for frame in 0..3 {
        flood.send(&submit(1 + frame, 1_000 * frame, 1_000, WaitFor::Nothing));
    }
    node.until("the link is full", |node| node.to_verify.len() == 128);
    // Nothing leaves verification, and still everybody is heard.
    let mut honest = node.greeted();
    honest.say(&ClientMessage::Ping, 1);
    honest.say(&ClientMessage::QueryStatus, 2);
    honest.send(&submit(3, 5_000, 10, WaitFor::Nothing));
    assert_eq!(honest.next(&mut node), Seen::Pong(1));
    assert_eq!(honest.next(&mut node), Seen::Status { request: 2, height: 0, time: 0 });
    node.turns(4);
    // What the link held before comes first, then both have their turn.
    let mut before = 0;
    let mut honest_left = 10;
    while honest_left > 0 {
        let submitted = node.until_some("a transaction", |node| node.to_verify.pop());
        before += 1;
        honest_left -= u32::from(submitted.source.ticket.request == 3);
        node.turns(1);
    }
    assert!(before <= 128 + 2 * 64 + 10, "{before} of the flood were served before");
    assert!(node.metric("hufu_ingress_reads_paused_total") > 0, "the flood was pushed back");
}

#[test]
fn connections_hand_over_in_turn_whatever_the_rhythm_of_the_link() {
    let mut node = Node::new(4, 96);
    let mut clients: Vec<_> = (0..3).map(|_| node.greeted()).collect();
    for (place, client) in (0..).zip(&mut clients) {
        client.send(&submit(place + 1, 10_000 * place, 2_000, WaitFor::Nothing));
    }
    node.until("all frames are taken", |node| {
        node.ingress.connections.iter().flatten().all(|one| !one.held.is_empty())
    });
    for _ in 0..96 {
        node.to_verify.pop();
    }
    let mut served = [0_i64; 3];
    for _ in 0..20 {
        for _ in 0..65 {
            let submitted = node.until_some("a transaction", |node| node.to_verify.pop());
            served[usize::try_from(submitted.source.ticket.request).unwrap() - 1] += 1;
        }
        node.turns(1);
    }
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(most - least <= 96 + 2 * 64, "{served:?}");
}

#[test]
fn what_was_asked_before_the_end_of_input_is_answered() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    for frame in 0..3 {
        client.send(&submit(1 + frame, 1_000 * frame, 100, WaitFor::Nothing));
    }
    client.say(&ClientMessage::QueryBlock(QueryBlock { height: Some(1), ids_from: 0 }), 9);
    client.end_input();
    let mut refused = 0;
    while refused < 300 {
        let submitted = node.until_some("a transaction", |node| node.to_verify.pop());
        refused += 1;
        node.judge(&submitted, Err(RefusalCode::SignatureInvalid));
    }
    let question = node.until_some("a question", |node| node.questions.pop());
    node.answer(question.asker, AnswerBody::NotFound);
    let seen = client.ending(&mut node);
    let statuses: usize = seen.iter().map(Seen::statuses).sum();
    assert_eq!(statuses, 300);
    assert_eq!(seen.last(), Some(&Seen::Error(9, ErrorCode::NotFound)), "then the end");
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    client.ask_until_full(&mut node);
    node.ingress.stop();
    node.pass(Duration::from_secs(1));
    assert!(!node.is_done, "it has some time for its last words");
    node.pass(Duration::from_secs(10));
    node.until("the end of the tile", |node| node.is_done);
}

#[test]
fn a_client_that_does_not_read_loses_its_place() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    client.ask_until_full(&mut node);
    node.pass(Duration::from_secs(50));
    assert_eq!(node.ingress.reactor.connections_count(), 1);
    node.pass(Duration::from_secs(15));
    node.pass(Duration::from_secs(5));
    node.until("the end of the connection", |node| node.ingress.reactor.connections_count() == 0);
    assert_eq!(node.metric("hufu_ingress_errors_answered_total{code=\"slow_consumer\"}"), 1);
    assert_eq!(node.metric("hufu_ingress_connections_faulted_total"), 0);
}

#[test]
fn the_silent_make_room_for_those_who_come() {
    let mut node = Node::new(2, 8);
    let (mut busy, mut silent) = (node.greeted(), node.greeted());
    let mut early = node.connect();
    let refused = early.ending(&mut node);
    assert_eq!(refused, [Seen::Error(0, ErrorCode::ConnectionsFull)], "both have just spoken");
    node.pass(Duration::from_secs(2));
    busy.say(&ClientMessage::Ping, 1);
    assert_eq!(busy.next(&mut node), Seen::Pong(1));
    let mut late = node.greeted();
    assert_eq!(silent.ending(&mut node), [Seen::Error(0, ErrorCode::IdleTimeout)]);
    late.say(&subscribe(1, 0), 1);
    assert_eq!(late.next(&mut node), Seen::Subscribed(1, Cursor { height: 1, index: 0 }));
    // One that waits for events keeps its place longer than one that waits for nothing.
    node.pass(Duration::from_secs(30));
    let mut third = node.greeted();
    assert_eq!(busy.ending(&mut node), [Seen::Error(0, ErrorCode::IdleTimeout)]);
    third.say(&ClientMessage::Ping, 1);
    assert_eq!(third.next(&mut node), Seen::Pong(1));
    assert_eq!(node.metric("hufu_ingress_connections_refused_total"), 1);
}

#[test]
fn whoever_asks_nothing_is_let_go() {
    let mut node = Node::new(4, 8);
    let (mut subscriber, mut silent) = (node.greeted(), node.greeted());
    let mut mute = node.connect();
    subscriber.say(&subscribe(1, 0), 1);
    assert!(matches!(subscriber.next(&mut node), Seen::Subscribed(..)));
    node.pass(Duration::from_secs(6));
    assert_eq!(mute.ending(&mut node), [Seen::Error(0, ErrorCode::IdleTimeout)], "no hello");
    node.pass(Duration::from_secs(300));
    assert_eq!(silent.ending(&mut node), [Seen::Error(0, ErrorCode::IdleTimeout)]);
    node.hand_out(block(1, &[]));
    assert_eq!(subscriber.next(&mut node), Seen::Events(1, vec![Cursor { height: 1, index: 0 }]));
}

#[test]
fn a_wait_that_comes_after_the_block_gets_the_certified_receipt() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    node.hand_out(block(1, &[ID]));
    client.say(&wait(1, Strength::Certified), 1);
    client.say(&wait(2, Strength::Certified), 2);
    let first = node.until_some("the question", |node| node.questions.pop());
    node.until_some("the question", |node| node.questions.pop());
    // The first is answered before the certifying block, the second not at all.
    assert_eq!(first.asker.request, 1, "an answer finds the wait it was made for");
    let Query::Wait(asked) = first.query else { panic!("{first:?}") };
    node.answer(first.asker, AnswerBody::NotCertified(asked));
    node.turns(2);
    node.hand_out(block(2, &[]));
    let seen = client.next(&mut node);
    let expected = vec![(1, Strength::Certified), (2, Strength::Certified)];
    let Seen::Receipts(mut found) = seen else { panic!("{seen:?}") };
    found.sort_unstable_by_key(|(request, _)| *request);
    assert_eq!(found, expected);
}

#[test]
fn a_wait_that_comes_too_late_is_answered_on_a_resting_chain() {
    let mut node = Node::new(4, 8);
    node.hand_out(block(1, &[]));
    let mut client = node.greeted();
    client.say(&wait(1, Strength::Committed), 1);
    let question = node.until_some("the question", |node| node.questions.pop());
    let Query::Wait(wait) = question.query else { panic!("{question:?}") };
    // The query tile has not heard of block 1 yet, but has looked into the store that holds it.
    node.answer(question.asker, AnswerBody::NotIncluded { wait, height: 0 });
    assert_eq!(client.next(&mut node), Seen::Statuses(vec![(1, Some(RefusalCode::Expired))]));
}

#[test]
fn subscriptions_go_on_behind_any_cursor_of_the_past() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    client.say(&subscribe(1, 99), 1);
    assert!(matches!(client.next(&mut node), Seen::Subscribed(1, _)));
    client.say(&subscribe(5_000, 0), 2);
    assert_eq!(client.next(&mut node), Seen::Error(2, ErrorCode::CursorAhead));
    node.hand_out(block(1, &[]));
    node.hand_out(block(2, &[]));
    assert_eq!(client.next(&mut node), Seen::Events(1, vec![Cursor { height: 2, index: 0 }]));
}

#[test]
fn history_is_asked_for_once_and_given_to_all() {
    let mut node = Node::new(4, 8);
    for height in 1..=20 {
        node.hand_out(block(height, &[]));
    }
    node.turns(4);
    let mut clients = [node.greeted(), node.greeted()];
    for client in &mut clients {
        client.say(&subscribe(3, 0), 1);
        assert!(matches!(client.next(&mut node), Seen::Subscribed(1, _)));
    }
    let mut asked = Vec::new();
    for height in [3, 4] {
        let question = node.until_some("a question", |node| node.questions.pop());
        let Query::History { height: wanted } = question.query else { panic!("{question:?}") };
        asked.push(wanted);
        node.turns(2);
        assert!(node.questions.is_empty(), "nobody asks twice");
        let answer =
            if height == 3 { AnswerBody::History(block(3, &[])) } else { AnswerBody::NoHistory(4) };
        node.answer(question.asker, answer);
        for client in &mut clients {
            let expected = if height == 3 {
                Seen::Events(1, vec![Cursor { height: 3, index: 0 }])
            } else {
                Seen::Ended(1, Some(ErrorCode::CursorGone))
            };
            assert_eq!(client.next(&mut node), expected);
        }
    }
    assert_eq!(asked, [3, 4]);
}

#[test]
fn a_refusal_counts_though_its_client_has_left() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    client.send(&submit(1, 0, 2, WaitFor::Nothing));
    let first = node.until_some("a transaction", |node| node.to_verify.pop());
    let second = node.until_some("a transaction", |node| node.to_verify.pop());
    node.judge(&first, Err(RefusalCode::SignatureInvalid));
    client.reset(&mut node);
    node.until("the end of the connection", |node| node.ingress.reactor.connections_count() == 0);
    node.judge(&second, Err(RefusalCode::SignatureInvalid));
    node.turns(2);
    let name = "hufu_transactions_refused_total{reason=\"signature_invalid\"}";
    assert_eq!(node.metric(name), 2);
}

#[test]
fn after_a_restart_the_status_is_that_of_the_tip() {
    let mut node = Node::restarted(12, 1_700_000_000_000);
    let mut client = node.greeted();
    client.say(&ClientMessage::QueryStatus, 1);
    let expected = Seen::Status { request: 1, height: 12, time: 1_700_000_000_000 };
    assert_eq!(client.next(&mut node), expected);
    node.ingress.housekeeping(node.now);
    assert_eq!(node.metric("hufu_query_requests_answered_total"), 1);
}

/// Ids of a block that fills a third of what a window holds.
fn many_ids() -> Vec<TxId> {
    let each = size_of::<hufu_types::Receipt>() + 2 * size_of::<Digest>();
    let count = WINDOW_BYTES_MAX / 3 / each;
    (0..u32::try_from(count).unwrap())
        .map(|number| {
            let mut id = [9; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            TxId(Digest(id))
        })
        .collect()
}

#[test]
fn blocks_in_memory_are_bounded_by_bytes() {
    let ids = many_ids();
    let (mut window, mut narrow) = (BlockWindow::new(1), BlockWindow::new(4));
    for height in 1..=5 {
        let block = block(height, &ids);
        window.push(std::sync::Arc::clone(&block));
        narrow.push(block);
    }
    let held = |window: &BlockWindow| (1..=5).filter(|h| window.find(*h).is_some()).count();
    assert!(held(&window) <= 3, "{} blocks", held(&window));
    assert!(window.find(5).is_some() && window.find(1).is_none());
    assert_eq!(held(&narrow), 4, "what must be kept is kept");
}

#[test]
fn a_slow_reader_pins_few_large_blocks() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    client.say(&wait(9, Strength::Committed), 1);
    node.until_some("the question", |node| node.questions.pop());
    client.ask_until_full(&mut node);
    node.hand_out(block(1, &[ID]));
    let (name, ids) = ("hufu_ingress_errors_answered_total{code=\"slow_consumer\"}", many_ids());
    let mut height = 1;
    while node.metric(name) == 0 {
        height += 1;
        assert!(height < 8, "the client pins every block");
        node.hand_out(block(height, &ids));
    }
    assert!(height > 2, "a block may be behind another");
}

#[test]
fn an_account_that_does_not_fit_is_an_error() {
    let mut node = Node::new(4, 8);
    let mut client = node.greeted();
    let address = hufu_types::Address([4; 20]);
    let query = hufu_network::message::request::QueryAccount { address, with_proof: false };
    client.say(&ClientMessage::QueryAccount(query), 1);
    let question = node.until_some("the question", |node| node.accounts.pop());
    node.answer(question.asker, AnswerBody::TooLarge);
    assert_eq!(client.next(&mut node), Seen::Error(1, ErrorCode::AnswerTooLarge));
}
