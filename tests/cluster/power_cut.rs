//! Power cuts under load: an acknowledged receipt is on the disk, not in a cache.
//!
//! `make power-cut-planted` runs this test on a binary that never syncs; it must fail there with
//! "NOT DURABLE", which proves that the disk under it forgets and the checks see.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::Chain;
use crate::checks::{Checker, verify_ledger};
use crate::disk::{VolatileDisk, unavailable};
use crate::four::{self, Four};
use crate::load::{HEAVY, Loader, Record};
use crate::node::{pause, wait_until};
use crate::wire::Random;

/// Size of the disk for the first cuts, and for each more.
const DISK_MIB: u64 = 256;
const DISK_MIB_EACH: u64 = 16;

/// Longest time between enough receipts and the cut, in milliseconds. Shorter than the five seconds
/// after which ext4 writes its journal by itself, which would make earlier writes durable.
const MOMENT_MILLIS_MAX: u64 = 1_500;

/// Size of the disk of each of four, whose load is light.
const DISK_EACH_MIB: u64 = 128;

#[test]
fn receipts_survive_a_power_cut_of_four_nodes_and_the_loss_of_a_disk() {
    if let Some(reason) = unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let mut disks: Vec<VolatileDisk> =
        (0..four::COUNT).map(|_| VolatileDisk::new(DISK_EACH_MIB)).collect();
    let mut four = Four::on("power-four", |_, index| disks[index].path().join("data")).open();
    let all = [0, 1, 2, 3];
    let loaders = four.load(&all);
    four.record.wait_for_more(400);
    disks.iter().for_each(VolatileDisk::cut);
    four.kill(&all);
    loaders.into_iter().for_each(Loader::abandon);
    disks.iter_mut().for_each(VolatileDisk::restore);
    // A new disk in the place of the fourth: three of four are a quorum and hold everything.
    std::fs::remove_dir_all(four.nodes[3].data()).unwrap();
    four.start(&all);
    let loaders = four.load(&all);
    four.record.wait_for_more(400);
    // The node with the new disk votes again once a block is young enough, which needs a load.
    wait_until("the end of probation", || {
        four.metrics(3).get("hufu_sign_signatures_made_total") > 0
            && four.explain(3)["stage"] != "on probation"
    });
    loaders.into_iter().for_each(Loader::finish);
    four.finish();
}

#[test]
fn receipts_survive_power_cuts_under_load() {
    if let Some(reason) = unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let cuts: u64 = std::env::var("HUFU_CUTS").map_or(3, |count| count.parse().unwrap());
    let mut random = Random::from_environment();
    let mut disk = VolatileDisk::new(DISK_MIB + cuts * DISK_MIB_EACH);
    let chain = Arc::new(Chain::new("power"));
    let mut node = chain.node_in(&disk.path().join("data"), "[log]\nsegment_bytes = 16777216");
    let (record, mut checker) = (Arc::new(Record::default()), Checker::default());
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    for cut in 1..=cuts {
        let loader = Loader::start(&chain, &node, &record, HEAVY);
        record.wait_for_more(400);
        pause(Duration::from_millis(random.below(MOMENT_MILLIS_MAX)));
        disk.cut();
        // A node that goes on without power acknowledges nothing any more, or is found out below.
        pause(Duration::from_millis(random.below(50)));
        node.kill();
        loader.abandon();
        disk.restore();
        node.start();
        let promised = record.count();
        assert!(
            node.wait_ready(),
            "NOT DURABLE: after power cut {cut} the node does not start; {promised} promised"
        );
        checker.check(&chain, &node, &record, cut == cuts);
    }
    node.stop();
    verify_ledger(&chain, node.data());
    let count = record.count();
    println!("{cuts} power cuts, {count} receipts promised, {} comparisons", checker.compared);
}
