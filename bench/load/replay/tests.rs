use std::collections::HashSet;

use super::*;
use crate::lobster::parse_line;
use crate::synthetic::SyntheticHour;

fn synthetic(count: u64) -> Arc<[Event]> {
    SyntheticHour::new(5, count).collect::<Vec<_>>().into()
}

fn event(line: &str) -> Event {
    parse_line(line.as_bytes(), 1).unwrap()
}

/// A ledger of its own: applies the tasks one by one and never lets a holding go below zero.
fn apply(tasks: impl Iterator<Item = Task>, issued: Vec<Holdings>) -> Vec<Holdings> {
    let mut ledger = issued;
    for task in tasks {
        if let Action::Settle(trade) = task.action {
            let (seller, buyer) = (usize::from(trade.seller), usize::from(trade.buyer));
            assert_ne!(seller, buyer);
            ledger[seller].shares = ledger[seller].shares.checked_sub(trade.shares).unwrap();
            ledger[buyer].cash = ledger[buyer].cash.checked_sub(trade.cash).unwrap();
            ledger[buyer].shares += trade.shares;
            ledger[seller].cash += trade.cash;
        }
    }
    ledger
}

#[test]
fn the_direction_says_who_rested() {
    let buy = event("34200,4,16113575,10,5853300,1");
    let sell = event("34200,4,16113575,10,5853300,-1");
    let resting = broker_of(16_113_575, 64);
    let (bought, sold) = (trade_of(&buy, 3, 64), trade_of(&sell, 3, 64));
    assert_eq!((bought.buyer, sold.seller), (resting, resting));
    assert_eq!(bought.seller, sold.buyer);
    assert_eq!((bought.shares, bought.cash), (10, 58_533_000));
}

#[test]
fn hidden_executions_are_spread_over_the_brokers() {
    let hidden = event("34200,5,0,100,5857900,-1");
    let sellers: HashSet<u16> = (1..=2_000).map(|row| trade_of(&hidden, row, 64).seller).collect();
    assert_eq!(sellers.len(), 64);
    let buyers: HashSet<u16> = (1..=2_000).map(|row| trade_of(&hidden, row, 64).buyer).collect();
    assert_eq!(buyers.len(), 64);
}

#[test]
fn two_brokers_trade_with_each_other() {
    let replay = Replay::new(synthetic(2_000), 2, 1, 0).unwrap();
    let totals = replay.totals();
    assert_eq!(apply(replay, totals.issued()), totals.expected());
}

#[test]
fn each_event_is_one_task_signed_by_the_right_role() {
    let events = synthetic(20_000);
    let replay = Replay::new(Arc::clone(&events), 64, 1, 0).unwrap();
    assert_eq!(replay.tasks_count(), 20_000);
    let tasks: Vec<Task> = replay.clone().collect();
    assert_eq!(tasks.len(), 20_000);
    for (task, event) in tasks.iter().zip(events.iter()) {
        match task.action {
            Action::Settle(_) => {
                assert!(event.kind.is_execution());
                assert_eq!(task.role, Role::ClearingHouse);
            }
            Action::Notarise { event: noted, row } => {
                assert_eq!(noted, *event);
                assert_eq!(task.role, Role::Broker(broker_of(event.order, 64)));
                assert_eq!(task.nonce, row);
            }
        }
    }
    let totals = replay.totals();
    assert_eq!(totals.notarisations_count + totals.settlements_count, 20_000);
    assert!(tasks.is_sorted_by_key(|task| task.offset_nanos));
    assert_eq!(tasks[0].offset_nanos, 0);
}

#[test]
fn halts_are_notarised_by_the_clearing_house() {
    let events: Arc<[Event]> = vec![event("1,7,0,0,-1,-1"), event("2,6,-1,500,100,1")].into();
    let tasks: Vec<Task> = Replay::new(events, 2, 1, 0).unwrap().collect();
    assert!(tasks.iter().all(|task| task.role == Role::ClearingHouse));
    assert!(tasks.iter().all(|task| matches!(task.action, Action::Notarise { .. })));
}

#[test]
fn hours_repeat_with_fresh_nonces_and_shifted_times() {
    let replay = Replay::new(synthetic(3_000), 8, 4, 1_000_000).unwrap();
    assert_eq!(replay.tasks_count(), 12_000);
    let tasks: Vec<Task> = replay.clone().collect();
    let nonces: HashSet<u64> = tasks.iter().map(|task| task.nonce).collect();
    assert_eq!(nonces.len(), 12_000);
    assert_eq!((tasks[0].nonce, tasks[11_999].nonce), (1_000_001, 1_012_000));
    assert_eq!(tasks[3_000].offset_nanos, HOUR_NANOS);
    let totals = replay.totals();
    assert_eq!(totals.notarisations_count + totals.settlements_count, 12_000);
    assert_eq!(apply(replay, totals.issued()), totals.expected());
}

#[test]
fn issued_holdings_last_in_any_order_and_nothing_is_lost() {
    let replay = Replay::new(synthetic(20_000), 16, 2, 0).unwrap();
    let totals = replay.totals();
    let forwards = apply(replay.clone(), totals.issued());
    let mut tasks: Vec<Task> = replay.collect();
    tasks.reverse();
    let backwards = apply(tasks.into_iter(), totals.issued());
    assert_eq!(forwards, backwards);
    assert_eq!(totals.discrepancies(&forwards), []);
    assert_eq!(sum(&forwards), sum(&totals.issued()));
}

#[test]
fn every_difference_is_found() {
    let replay = Replay::new(synthetic(2_000), 4, 1, 0).unwrap();
    let totals = replay.totals();
    let good = totals.expected();
    let mut moved = good.clone();
    moved[0].shares -= 1;
    moved[1].shares += 1;
    assert_eq!(totals.discrepancies(&moved).len(), 2, "conserved, but in the wrong places");
    let mut lost = good.clone();
    lost[2].cash -= 1;
    assert!(matches!(
        totals.discrepancies(&lost)[..],
        [Discrepancy::Holdings { broker: 2, .. }, Discrepancy::Conservation { .. }]
    ));
    assert!(matches!(
        totals.discrepancies(&good[..3])[0],
        Discrepancy::BrokersCount { found: 3, expected: 4 }
    ));
}

#[test]
fn impossible_runs_are_refused() {
    let events = synthetic(10);
    assert!(matches!(Replay::new(Vec::new().into(), 2, 1, 0), Err(Error::Events)));
    assert!(matches!(
        Replay::new(Arc::clone(&events), 1, 1, 0),
        Err(Error::AccountsCount { found: 1 })
    ));
    for hours in [0, HOURS_COUNT_MAX + 1] {
        assert!(matches!(
            Replay::new(Arc::clone(&events), 2, hours, 0),
            Err(Error::HoursCount { .. })
        ));
    }
}
