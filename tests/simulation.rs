//! The simulator's share of `make test`: five hundred fixed seeds, and that a seed is a run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says how fast it was")]

use std::num::NonZero;

use hufu_simulation::{Material, Trace, hunt, run_seed};

const SEEDS: u64 = 500;

#[test]
fn no_rule_is_broken_in_five_hundred_seeds() {
    let jobs = std::thread::available_parallelism().map_or(1, NonZero::get);
    let summary = hunt(0..SEEDS, (4, jobs), false, |_| {}).unwrap();
    let failures: Vec<String> = summary
        .failures
        .iter()
        .filter_map(|report| Some(format!("seed {}: {}", report.seed, report.failure.as_ref()?)))
        .collect();
    let speed = summary.speed_percent();
    println!(
        "{} seeds: {} heights, {} receipts, {}.{:02} times real time on one of {jobs} threads",
        summary.seeds,
        summary.heights,
        summary.receipts,
        speed / 100,
        speed % 100
    );
    assert!(
        failures.is_empty(),
        "replay with `hufu-simulation replay SEED --trace`: {failures:#?}"
    );
    assert_eq!(summary.seeds, SEEDS);
    assert!(summary.heights > 10 * SEEDS && summary.receipts > 20 * SEEDS, "the seeds do work");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let (first, second) = (Material::new(4).unwrap(), Material::new(4).unwrap());
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..6 {
        let before = run_seed(&first, seed, Trace::silent());
        // A trace that is read changes nothing.
        let after = run_seed(&second, seed, Trace::printing(|_| {}));
        assert_eq!((before.hash, before.events), (after.hash, after.events), "seed {seed}");
        hashes.insert(before.hash);
    }
    assert_eq!(hashes.len(), 6, "other seeds are other runs");
}

#[test]
fn seven_validators_run_too() {
    let material = Material::new(7).unwrap();
    for seed in 0..3 {
        let report = run_seed(&material, seed, Trace::silent());
        assert_eq!(report.failure, None, "seed {seed}");
    }
}
