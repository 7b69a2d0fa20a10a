//! The power of four validators fails at once, under load, and one of the disks does not come back.
//!
//! ```text
//! four nodes under load -> power of all disks cut -> three disks as they were, an empty one
//!   -> all start -> new load, the empty one follows and votes again -> all that must hold
//! ```
//! A quorum has written what was promised before anybody heard of it, so three of four disks hold
//! all of it, whichever is lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hufu_storage::data_dir::DataDir;

use crate::disk::{VolatileDisk, unavailable};
use crate::four::{self, Four};
use crate::load::Loader;
use crate::logs;
use crate::node::{TestNode, pause, wait_until};
use crate::wire::Random;

/// Receipts before the cut and after it, count.
const SOME: usize = 400;

/// Size of each disk, whose load is light.
const DISK_MIB: u64 = 128;

/// Longest time between enough receipts and the cut, in milliseconds: some heights, far fewer than
/// the five seconds after which ext4 makes earlier writes durable by itself.
const MOMENT_MILLIS_MAX: u64 = 1_000;

/// Longest time for which nodes go on without their disks, in milliseconds.
const BLACKOUT_MILLIS_MAX: u64 = 50;

#[test]
fn receipts_survive_a_power_cut_of_all_four_and_the_loss_of_one_disk() {
    if let Some(reason) = unavailable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let mut random = Random::from_environment();
    let mut disks: Vec<VolatileDisk> =
        (0..four::COUNT).map(|_| VolatileDisk::new(DISK_MIB)).collect();
    let mut four = Four::on("power-four", |_, index| disks[index].path().join("data")).open();
    let all = [0, 1, 2, 3];

    let loaders = four.load(&all);
    four.record.wait_for_more(SOME);
    pause(Duration::from_millis(random.below(MOMENT_MILLIS_MAX)));
    VolatileDisk::cut_all(&disks);
    // Nodes that go on acknowledge nothing any more, or are found out below.
    pause(Duration::from_millis(random.below(BLACKOUT_MILLIS_MAX)));
    four.kill(&all);
    loaders.into_iter().for_each(Loader::abandon);
    let promised = four.record.count();

    disks.iter_mut().for_each(VolatileDisk::restore);
    let lost = choose(&four, &mut random);
    keep_votes(&mut four, lost);
    disks[lost].replace(DISK_MIB);
    four.start(&all);
    let loaders = four.load(&all);
    four.record.wait_for_more(SOME);
    // It begins with nothing. Probation ends with a block that is young enough, which needs a load.
    wait_until("heights taken over by the node with the new disk", || {
        four.metrics(lost).get("hufu_consensus_heights_caught_up_total") > 0
    });
    wait_until("votes of the node with the new disk", || four.signed(lost) > 0);
    four.record.wait_for_more(SOME);
    loaders.into_iter().for_each(Loader::finish);
    println!("{promised} receipts before the cut, the disk of node-{lost} is lost");
    four.finish();
}

/// Whose disk is lost: in half of the runs that of the node that proposed last.
fn choose(four: &Four, random: &mut Random) -> usize {
    let drawn = usize::try_from(random.below(2 * four::COUNT as u64)).unwrap();
    if drawn < four::COUNT {
        return drawn;
    }
    let folders: Vec<&Path> = four.nodes.iter().map(TestNode::data).collect();
    let last = logs::read_votes(&four.chain, &folders).last_proposer();
    let last = last.expect("NOT DURABLE: no disk holds a proposal");
    let name = &four.chain.genesis.validators.get(&last).unwrap().name;
    println!("{name} proposed last");
    name.strip_prefix("node-").unwrap().parse().unwrap()
}

/// What a node has signed is on the disk it loses; a copy knows whether it signs anything else.
fn keep_votes(four: &mut Four, lost: usize) {
    let copy = four.chain.path().join("votes-of-the-lost-disk");
    fs::create_dir(&copy).unwrap();
    let votes = DataDir::vote_log_in(four.nodes[lost].data());
    let copied = Command::new("cp").arg("-a").arg(votes).arg(&copy).status().unwrap();
    assert!(copied.success(), "NOT DURABLE: node-{lost} has signed, and has no vote log: {copied}");
    four.witnesses.push(copy);
}
