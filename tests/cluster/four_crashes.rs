//! Validators of four that are killed, stopped for a while, or lose their disks, under load.

use std::fs;

use serde_json::Value;

use crate::four::Four;
use crate::load::Loader;
use crate::node::wait_until;

/// Receipts between two faults, count.
const SOME: usize = 300;

/// Milliseconds without a decision after which the chain is taken to stand still: a hundred block
/// intervals.
const STILL_MILLIS: u64 = 3_000;

#[test]
fn one_of_four_is_killed_and_comes_back() {
    let mut four = Four::new("kill-one").open();
    let mut loaders = four.load(&[0, 1, 2, 3]);
    for victim in [1, 3] {
        four.record.wait_for_more(SOME);
        four.kill(&[victim]);
        loaders.remove(victim).abandon();
        four.record.wait_for_more(SOME);
        four.start(&[victim]);
        loaders.insert(victim, four.load(&[victim]).remove(0));
        four.wait_heights(victim, 5);
    }
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

#[test]
fn all_four_are_killed_and_come_back() {
    let all = [0, 1, 2, 3];
    let mut four = Four::new("kill-all").open();
    for _ in 0..2 {
        let loaders = four.load(&all);
        four.record.wait_for_more(SOME);
        four.kill(&all);
        loaders.into_iter().for_each(Loader::abandon);
        four.start(&all);
    }
    let loaders = four.load(&all);
    four.record.wait_for_more(SOME);
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

/// Whether a node says that it waits for both that are down. It also rests where the heights before
/// are closed and no batch is held by a quorum, so that there is nothing to propose.
fn stands_still(explained: &Value) -> bool {
    let missing = explained["missing"].as_array().unwrap();
    let waits_for = |name| missing.iter().any(|one| one["validator"] == name);
    let is_waiting = waits_for("node-2") && waits_for("node-3");
    explained["stage_millis"].as_u64().unwrap() >= STILL_MILLIS
        && (explained["stage"] == "resting" || is_waiting)
}

#[test]
fn two_of_four_are_down_and_the_chain_waits_for_them() {
    let mut four = Four::new("two-down").open();
    let mut loaders = four.load(&[0, 1, 2, 3]);
    four.record.wait_for_more(SOME);
    four.kill(&[2, 3]);
    loaders.drain(2..).for_each(Loader::abandon);
    wait_until("a chain that stands still, and says for whom it waits", || {
        [0, 1].iter().all(|index| stands_still(&four.explain(*index)))
    });
    let (tips, count) = ([four.tip(0), four.tip(1)], four.record.count());
    assert!(tips[0].abs_diff(tips[1]) <= 1, "{tips:?}: nobody is more than a height ahead");
    four.start(&[2, 3]);
    four.record.wait_for_more(SOME);
    assert!(four.record.count() >= count + SOME);
    loaders.extend(four.load(&[2, 3]));
    four.record.wait_for_more(SOME);
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

#[test]
fn the_proposer_is_stopped_for_a_while() {
    let four = Four::new("stopped").open();
    let loaders = four.load(&[0, 1, 2, 3]);
    for _ in 0..2 {
        four.record.wait_for_more(SOME);
        let mut proposer = None;
        wait_until("a proposer", || {
            let name = four.explain(0)["proposer"]["validator"].as_str().map(str::to_owned);
            proposer = name.and_then(|name| name.strip_prefix("node-")?.parse::<usize>().ok());
            proposer.is_some()
        });
        let proposer = proposer.unwrap();
        four.nodes[proposer].signal("STOP");
        four.record.wait_for_more(SOME);
        let other = (proposer + 1) % four.nodes.len();
        four.wait_heights(other, 10);
        let reached = four.tip(other);
        four.nodes[proposer].signal("CONT");
        wait_until("the stopped node with the others", || four.tip(proposer) > reached);
    }
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

#[test]
fn a_node_whose_disk_is_lost_follows_and_then_votes_again() {
    let mut four = Four::new("wiped").open();
    let loaders = four.load(&[0, 1]);
    four.record.wait_for_more(SOME);
    four.kill(&[3]);
    fs::remove_dir_all(four.nodes[3].data()).unwrap();
    four.record.wait_for_more(SOME);
    four.start(&[3]);
    wait_until("probation", || four.explain(3)["stage"] == "on probation");
    wait_until("heights taken over from peers", || {
        four.metrics(3).get("hufu_consensus_heights_caught_up_total") > 0
    });
    let count = four.signed(3);
    if four.explain(3)["stage"] == "on probation" {
        assert_eq!(count, 0, "a node on probation has signed");
    }
    // Probation ends with a block whose time is beyond doubt later than the loss.
    wait_until("votes of the node that came back", || four.signed(3) > 0);
    wait_until("the end of probation", || four.explain(3)["stage"] != "on probation");
    four.wait_heights(3, 10);
    let more = four.load(&[3]);
    four.record.wait_for_more(SOME);
    loaders.into_iter().chain(more).for_each(Loader::finish);
    four.finish();
}
