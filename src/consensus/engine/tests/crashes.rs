//! Crashes at every place where a crash can fall between two effects.

use super::cluster::{Cluster, CrashPlan};

/// Effects of node 0 in a run without crashes.
fn effects_count(validators: usize, heights: usize) -> u64 {
    let mut cluster = Cluster::new(validators);
    cluster.run_to(heights);
    cluster.nodes[0].effects_count
}

fn crash(validators: usize, heights: usize, plan: CrashPlan) {
    let mut cluster = Cluster::new(validators);
    cluster.crash = Some(plan);
    cluster.run_to(heights);
    assert_eq!(cluster.crashes_count, 1, "the crash at effect {} happened", plan.at);
    cluster.check();
}

#[test]
fn a_single_validator_survives_a_crash_at_every_effect() {
    let effects = effects_count(1, 3);
    assert!(effects > 60, "a run has places to crash at");
    for at in 1..=effects {
        for keeps_unsynced in [false, true] {
            crash(1, 3, CrashPlan { node: 0, at, keeps_unsynced });
        }
    }
}

#[test]
fn one_of_four_survives_a_crash_at_every_effect() {
    let effects = effects_count(4, 2);
    assert!(effects > 60, "a run has places to crash at");
    for at in 1..=effects {
        crash(4, 2, CrashPlan { node: 0, at, keeps_unsynced: at % 2 == 0 });
    }
}

#[test]
fn a_crash_during_recovery_is_survived_too() {
    let effects = effects_count(1, 2);
    for first in (1..=effects).step_by(3) {
        for second in 1..=24 {
            let mut cluster = Cluster::new(1);
            cluster.crash = Some(CrashPlan { node: 0, at: first, keeps_unsynced: false });
            cluster.run_until(|cluster| cluster.crashes_count == 1);
            let at = first + second;
            cluster.crash = Some(CrashPlan { node: 0, at, keeps_unsynced: true });
            cluster.run_to(4);
            cluster.check();
        }
    }
}

#[test]
fn all_four_crash_at_once() {
    for events in (10..400).step_by(26) {
        let mut cluster = Cluster::new(4);
        for _ in 0..events {
            cluster.event();
        }
        for place in 0..4 {
            cluster.restart(place, place % 2 == 0);
        }
        let height = cluster.nodes.iter().map(|node| node.decided.len()).max().unwrap();
        cluster.run_to(height + 2);
        cluster.check();
    }
}
