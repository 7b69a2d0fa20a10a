//! Stops, kills and starts: a receipt that was seen stays true.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::Chain;
use crate::checks::{Checker, verify_ledger};
use crate::load::{HEAVY, Loader, Record};
use crate::node::pause;
use crate::wire::Random;

#[test]
fn a_node_starts_stops_and_starts_again() {
    let chain = Chain::new("starts");
    let mut node = chain.node();
    for _ in 0..3 {
        node.start_ready();
        assert_eq!(chain.connect(&node).status().unwrap().height, 0);
        node.stop();
    }
    assert!(!node.data().join("ready.toml").exists(), "a stopped node is not ready");
}

#[test]
fn receipts_survive_a_graceful_restart() {
    let chain = Arc::new(Chain::new("graceful"));
    let mut node = chain.node();
    let (record, mut checker) = (Arc::new(Record::default()), Checker::default());
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    for _ in 0..3 {
        let loader = Loader::start(&chain, &node, &record, HEAVY);
        record.wait_for_more(2_000);
        loader.finish();
        checker.check(&chain, &node, &record, false);
        node.stop();
        node.start_ready();
        checker.check(&chain, &node, &record, false);
    }
    // The stop comes while much is in flight: what was acknowledged counts, the rest may be lost.
    let loader = Loader::start(&chain, &node, &record, HEAVY);
    record.wait_for_more(1_000);
    node.stop();
    loader.abandon();
    record.with(|promises| promises.refused.clear());
    node.start_ready();
    checker.check(&chain, &node, &record, true);
    node.stop();
    verify_ledger(&chain, node.data());
}

#[test]
fn receipts_survive_kills_under_load() {
    let kills = std::env::var("HUFU_KILLS").map_or(5, |count| count.parse().unwrap());
    let mut random = Random::from_environment();
    let chain = Arc::new(Chain::new("kills"));
    let mut node = chain.node();
    let (record, mut checker) = (Arc::new(Record::default()), Checker::default());
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    for kill in 1..=kills {
        let loader = Loader::start(&chain, &node, &record, HEAVY);
        record.wait_for_more(500);
        pause(Duration::from_millis(random.below(400)));
        node.kill();
        loader.abandon();
        // Some starts are ended in the middle of the recovery as well.
        if kill % 3 == 0 {
            node.start();
            pause(Duration::from_millis(random.below(150)));
            node.kill();
        }
        node.start_ready();
        checker.check(&chain, &node, &record, kill == kills);
    }
    node.stop();
    verify_ledger(&chain, node.data());
    let count = record.count();
    println!("{kills} kills, {count} receipts promised, {} comparisons", checker.compared);
}
