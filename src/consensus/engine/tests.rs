//! Whole validators in memory, driven one effect at a time: real keys, real signatures, no network,
//! no disk.

mod cluster;
mod crashes;
mod faults;

use cluster::Cluster;

#[test]
fn one_validator_decides_heights() {
    let mut cluster = Cluster::new(1);
    cluster.run_to(5);
    cluster.check();
    let decided = &cluster.nodes[0].decided;
    assert!(decided.iter().all(|decision| decision.round == 0));
    // Three signatures a height, each with a sign intent, and nothing verified twice.
    let counters = cluster.nodes[0].engine.counters();
    let heights = u64::try_from(decided.len()).unwrap();
    assert!(counters.signed >= 3 * heights && counters.signed <= 3 * (heights + 1));
    assert_eq!(counters.verdicts_asked, counters.verdicts_known, "own signatures are known good");
}

#[test]
fn four_validators_agree_in_one_round_and_verify_each_vote_once() {
    let mut cluster = Cluster::new(4);
    cluster.run_to(6);
    cluster.check();
    for node in &cluster.nodes {
        assert!(node.decided.iter().all(|decision| decision.round == 0));
        let counters = node.engine.counters();
        let verified = counters.verdicts_asked - counters.verdicts_known;
        let heights = u64::try_from(node.decided.len()).unwrap() + 1;
        // A proposal and two votes of each of the three others.
        assert!(verified <= 7 * heights, "{verified} verified in {heights} heights");
    }
}

#[test]
fn syncs_of_the_vote_log_a_height_are_few() {
    let mut cluster = Cluster::new(1);
    cluster.run_to(10);
    // Proposal, prevote and precommit each need their intent on disk, and nothing needs more.
    assert!(cluster.nodes[0].syncs_count <= 3 * 10 + 3, "{}", cluster.nodes[0].syncs_count);
}
