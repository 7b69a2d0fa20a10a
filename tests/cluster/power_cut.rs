//! Power cuts under load: an acknowledged receipt is on the disk, not in a cache.
//!
//! `make power-cut-planted` runs this test on a binary that never syncs; it must fail there with
//! "NOT DURABLE", which proves that the disk under it forgets and the checks see.

use std::sync::Arc;
use std::time::Duration;

use crate::chain::Chain;
use crate::checks::{Checker, verify_ledger};
use crate::disk::{VolatileDisk, unavailable};
use crate::load::{HEAVY, Loader, Record};
use crate::node::pause;
use crate::wire::Random;

/// Size of the disk for the first cuts, and for each more.
const DISK_MIB: u64 = 256;
const DISK_MIB_EACH: u64 = 16;

/// Longest time between enough receipts and the cut, in milliseconds. Shorter than the five seconds
/// after which ext4 writes its journal by itself, which would make earlier writes durable.
const MOMENT_MILLIS_MAX: u64 = 1_500;

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
