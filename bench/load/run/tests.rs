use std::sync::Arc;

use super::fake_node::{FakeNode, Faults};
use super::*;
use crate::feed::SIGNINGS_COUNT_MAX;
use crate::lobster::Event;
use crate::replay::Replay;
use crate::synthetic::SyntheticHour;
use crate::tracker::Counts;
use hufu_types::ChainId;

struct Outcome {
    result: RunResult,
    committed: usize,
}

/// A whole run of `count` events over three connections, holdings compared with the model.
fn run(count: u64, pace: Pace, faults: Faults) -> Outcome {
    let node = FakeNode::start(faults);
    let cast = Cast::derive(&[4; 32], 8).unwrap();
    let events: Arc<[Event]> = SyntheticHour::new(1, count).collect::<Vec<_>>().into();
    let mut replay = Replay::new(events, 8, 1, 0).unwrap();
    let totals = replay.totals();
    let options = options(&node, pace);
    let run = Run::new(&cast, &options, &Silent);
    run.set_up(&totals.issued()).unwrap();
    assert_eq!(run.holdings().unwrap(), totals.issued());
    let set_up = node.committed();
    let result = run.load(&mut replay).unwrap();
    if result.counts.refused.is_empty() {
        assert_eq!(totals.discrepancies(&run.holdings().unwrap()), []);
    }
    Outcome { result, committed: node.committed() - set_up }
}

fn options(node: &FakeNode, pace: Pace) -> RunOptions {
    let mut send = SendOptions::new(node.address, ChainId::ZERO);
    send.connections_count = 3;
    send.frame_transactions_count_max = 16;
    RunOptions {
        send,
        pace,
        block_interval: Duration::from_millis(50),
        observed: Vec::new(),
        receipts: None,
    }
}

#[test]
fn a_run_commits_everything_exactly_once_and_holdings_are_the_models() {
    let Outcome { result, committed } = run(6_000, Pace::Max, Faults::default());
    assert_eq!((result.counts.committed, committed), (6_000, 6_000));
    assert!(result.is_exactly_once(), "{result:?}");
    assert_eq!(result.latency.count, 6_000);
    assert!(result.latency.max_nanos >= result.latency.p50_nanos);
    assert!(result.committed_per_second() > 0 && result.signing_nanos > 0);
    assert_eq!((result.height_first, result.height_last, result.windows), (7, 7, 1));
}

#[test]
fn several_nodes_share_a_load_and_come_to_one_height() {
    let first = FakeNode::start(Faults { drop_every: Some(40), ..Faults::default() });
    let others = [first.beside(), first.beside()];
    let cast = Cast::derive(&[4; 32], 8).unwrap();
    let events: Arc<[Event]> = SyntheticHour::new(1, 2_000).collect::<Vec<_>>().into();
    let mut replay = Replay::new(events, 8, 1, 0).unwrap();
    let totals = replay.totals();
    let mut options = options(&first, Pace::Max);
    options.send.nodes.extend(others.iter().map(|node| node.address));
    // Fewer connections than nodes: each has one all the same.
    options.send.connections_count = 1;
    let run = Run::new(&cast, &options, &Silent);
    let set_up = run.set_up(&totals.issued()).unwrap();
    assert_eq!(u64::try_from(first.committed()).unwrap(), set_up);
    let result = run.load(&mut replay).unwrap();
    assert!(result.is_exactly_once(), "{result:?}");
    assert_eq!(first.committed() - usize::try_from(set_up).unwrap(), 2_000);
    assert_eq!(totals.discrepancies(&run.holdings().unwrap()), []);
    let heights: Vec<u64> = result.tips.iter().map(|tip| tip.height).collect();
    assert_eq!((heights, result.height_last), (vec![7, 7, 7], 7));
}

#[test]
fn dropped_connections_lose_and_repeat_nothing() {
    let faults = Faults { drop_every: Some(10), ..Faults::default() };
    let Outcome { result, committed } = run(1_500, Pace::Max, faults);
    assert_eq!((result.counts.committed, committed), (1_500, 1_500));
    assert!(result.is_exactly_once(), "{result:?}");
    let Counts { reconnects, resubmitted, duplicates, .. } = result.counts;
    assert!(reconnects > 3 && resubmitted > 0, "{reconnects} {resubmitted}");
    assert!(duplicates > 0, "what was committed unseen was known to the node");
}

#[test]
fn overloaded_transactions_are_sent_again() {
    let faults = Faults { overload_every: Some(100), ..Faults::default() };
    let Outcome { result, committed } = run(600, Pace::Max, faults);
    assert_eq!(committed, 600);
    assert!(result.is_exactly_once() && result.counts.overloaded > 0, "{result:?}");
}

#[test]
fn expired_transactions_are_signed_again() {
    let faults = Faults { expired_first: 40, ..Faults::default() };
    let Outcome { result, committed } = run(500, Pace::Max, faults);
    assert_eq!((committed, result.resigned, result.windows), (500, 40, 2));
    assert!(result.is_exactly_once(), "{result:?}");
}

#[test]
fn a_chain_that_refuses_for_ever_ends_the_run_with_counts() {
    let faults = Faults { expired_first: u64::MAX, ..Faults::default() };
    let Outcome { result, committed } = run(20, Pace::Max, faults);
    assert_eq!((committed, result.counts.refused["expired"]), (0, 20));
    assert!(!result.is_exactly_once());
    assert_eq!(result.windows, u64::from(SIGNINGS_COUNT_MAX));
    assert_eq!(result.resigned, 20 * u64::from(SIGNINGS_COUNT_MAX - 1));
}

#[test]
fn a_schedule_is_kept() {
    for pace in [Pace::PerSecond(2_000), Pace::Recorded(2_000)] {
        let Outcome { result, .. } = run(400, pace, Faults::default());
        assert!(result.is_exactly_once());
        // 400 at 2,000 a second last 0.2 s; 400 synthetic events span the hour: 1.8 s at 2,000
        // times.
        let least = if pace == Pace::PerSecond(2_000) { 190_000_000 } else { 1_000_000_000 };
        assert!(result.sending_nanos > least, "{pace:?}: {}", result.sending_nanos);
        assert_eq!((result.latency.count, result.windows), (400, 1));
    }
}

/// Runs with few in flight, so that a stall keeps what is due from being sent.
fn run_stalled(count: u64, rate: u64, faults: Faults) -> RunResult {
    let node = FakeNode::start(faults);
    let cast = Cast::derive(&[4; 32], 8).unwrap();
    let events: Arc<[Event]> = SyntheticHour::new(1, count).collect::<Vec<_>>().into();
    let mut replay = Replay::new(events, 8, 1, 0).unwrap();
    let totals = replay.totals();
    let mut options = options(&node, Pace::PerSecond(rate));
    options.send.in_flight_count_max = 4;
    let run = Run::new(&cast, &options, &Silent);
    run.set_up(&totals.issued()).unwrap();
    let result = run.load(&mut replay).unwrap();
    assert!(result.is_exactly_once(), "{result:?}");
    result
}

#[test]
fn a_stall_is_charged_to_all_that_was_due_meanwhile() {
    let faults = Faults { stall: Some((1, Duration::from_secs(1))), ..Faults::default() };
    let result = run_stalled(1_000, 1_000, faults);
    // All were due within the second, evenly: the median waited for half of it.
    assert!(result.latency.p50_nanos > 400_000_000, "{result:?}");
    assert!(result.latency.p99_nanos > 900_000_000, "{result:?}");
}

#[test]
fn a_transaction_signed_again_is_charged_from_its_first_time() {
    let stall = Some((1, Duration::from_millis(800)));
    let faults = Faults { stall, expired_first: 60, ..Faults::default() };
    let result = run_stalled(100, 1_000, faults);
    assert_eq!(result.resigned, 60);
    assert!(result.latency.p50_nanos > 600_000_000, "{result:?}");
}

#[test]
fn nothing_of_a_slow_schedule_expires() {
    // 600 heights last 0.6 s here, the schedule 1.5 s.
    let faults = Faults { height_millis: Some(1), ..Faults::default() };
    let node = FakeNode::start(faults);
    let cast = Cast::derive(&[4; 32], 8).unwrap();
    let events: Arc<[Event]> = SyntheticHour::new(1, 300).collect::<Vec<_>>().into();
    let mut replay = Replay::new(events, 8, 1, 0).unwrap();
    let totals = replay.totals();
    let mut options = options(&node, Pace::PerSecond(200));
    options.block_interval = Duration::from_millis(1);
    let run = Run::new(&cast, &options, &Silent);
    run.set_up(&totals.issued()).unwrap();
    let result = run.load(&mut replay).unwrap();
    assert!(result.is_exactly_once(), "{result:?}");
    assert_eq!(result.resigned, 0);
    assert!((180..=210).contains(&result.committed_per_second()), "{result:?}");
}

#[test]
fn a_second_receipt_is_a_flaw() {
    let faults = Faults { repeat_every: Some(50), ..Faults::default() };
    let Outcome { result, .. } = run(400, Pace::Max, faults);
    let Counts { receipts_repeated, answers_foreign, .. } = result.counts;
    assert!(receipts_repeated + answers_foreign > 0);
    assert!(!result.is_exactly_once());
}

#[test]
fn a_silent_node_ends_the_run() {
    let node = FakeNode::start(Faults { is_silent: true, ..Faults::default() });
    let cast = Cast::derive(&[4; 32], 2).unwrap();
    let events: Arc<[Event]> = SyntheticHour::new(1, 10).collect::<Vec<_>>().into();
    let mut replay = Replay::new(events, 2, 1, 0).unwrap();
    let mut options = options(&node, Pace::Max);
    options.send.stall_wait = Duration::from_millis(200);
    let failed = Run::new(&cast, &options, &Silent).load(&mut replay);
    assert!(matches!(failed, Err(Error::Stalled { .. })), "{failed:?}");
}

#[test]
fn an_absent_node_is_named() {
    let node = FakeNode::start(Faults::default());
    let address = node.address;
    let mut options = options(&node, Pace::Max);
    drop(node);
    options.send.reconnect_wait = Duration::from_millis(100);
    let cast = Cast::derive(&[4; 32], 2).unwrap();
    let failed = Run::new(&cast, &options, &Silent).holdings();
    assert!(matches!(failed, Err(Error::Unreachable { node, .. }) if node == address));
}

#[test]
fn receipts_asked_with_proof_must_come_with_it() {
    let node = FakeNode::start(Faults::default());
    let cast = Cast::derive(&[4; 32], 2).unwrap();
    let events: Arc<[Event]> = SyntheticHour::new(1, 1).collect::<Vec<_>>().into();
    let mut replay = Replay::new(events, 2, 1, 0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(&node, Pace::Max);
    options.receipts = Some(folder.path().join("receipts"));
    let failed = Run::new(&cast, &options, &Silent).load(&mut replay);
    assert!(matches!(failed, Err(Error::Receipts(_))), "{failed:?}");
}
