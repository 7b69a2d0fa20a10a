//! Validators whose cards are away.

use super::cluster::{Cluster, MILLISECOND};
use super::{Note, run_heights, run_heights_of};

/// Heights that this node took over from others.
fn taken_over(cluster: &Cluster, place: usize) -> usize {
    let notes = cluster.nodes[place].notes.iter();
    notes.filter(|note| matches!(note, Note::CaughtUp { .. })).count()
}

#[test]
fn a_validator_whose_card_is_away_follows_and_votes_again_when_it_is_back() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 4);
    let before = cluster.height(0);
    cluster.take_card(1);
    // All four, the one without its card too, reach each height before the next is asked for.
    run_heights(&mut cluster, 20);
    assert!(cluster.nodes[1].replica.is_without_signer());
    let status = cluster.nodes[1].replica.status(cluster.now);
    assert!(status.signer_late_nanos.is_some(), "people are told");
    assert!(taken_over(&cluster, 1) >= 19, "it follows");
    assert_eq!(cluster.signed_above(1, before + 1), 0, "nothing was signed in its place");
    assert_eq!(cluster.nodes[0].replica.chain().absent(), [cluster.address(1)]);
    cluster.return_card(1);
    let back = cluster.height(0);
    run_heights(&mut cluster, 8);
    assert!(!cluster.nodes[1].replica.is_without_signer());
    assert!(cluster.signed_above(1, back) >= 8, "it votes again");
    assert!(cluster.nodes[0].replica.chain().absent().is_empty());
    assert!(cluster.nodes.iter().all(|node| node.error.is_none()));
}

#[test]
fn while_the_chain_needs_its_vote_a_late_signature_still_counts() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.stop(3);
    run_heights(&mut cluster, 2);
    cluster.take_card(1);
    let height = cluster.height(0);
    cluster.submit();
    cluster.run_for(5_000 * MILLISECOND);
    assert!(cluster.height(0) <= height + 1, "two of four are no quorum");
    assert!(cluster.nodes[1].replica.is_without_signer());
    assert!(cluster.nodes[1].replica.has_room(), "the links of peers are not held up");
    cluster.return_card(1);
    let height = cluster.height(0);
    cluster.submit();
    cluster.run_until(|cluster| (0..3).all(|place| cluster.height(place) > height));
}

#[test]
fn a_card_that_comes_and_goes_costs_votes_and_nothing_else() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 2);
    for _ in 0..12 {
        cluster.take_card(2);
        run_heights(&mut cluster, 3);
        cluster.return_card(2);
        run_heights(&mut cluster, 2);
    }
    assert!(taken_over(&cluster, 2) >= 24);
    assert!(cluster.nodes.iter().all(|node| node.error.is_none()));
}

#[test]
fn a_crash_while_the_card_is_away_changes_nothing() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.take_card(1);
    // In the middle of a height: the intent is on record and unsigned.
    cluster.submit();
    cluster.run_for(5 * MILLISECOND);
    cluster.stop(1);
    cluster.start(1);
    run_heights(&mut cluster, 10);
    // And while it follows.
    cluster.stop(1);
    run_heights_of(&mut cluster, 1, 3);
    cluster.start(1);
    run_heights(&mut cluster, 10);
    assert!(cluster.nodes[1].replica.is_without_signer());
    cluster.return_card(1);
    let back = cluster.height(0);
    run_heights(&mut cluster, 4);
    assert!(cluster.signed_above(1, back) > 0);
    assert!(cluster.nodes.iter().all(|node| node.error.is_none()));
}

#[test]
fn a_validator_alone_may_stop_while_its_card_is_away() {
    let mut cluster = Cluster::new(1);
    run_heights(&mut cluster, 2);
    cluster.take_card(0);
    cluster.submit();
    cluster.run_for(100 * MILLISECOND);
    assert!(cluster.nodes[0].replica.must_finish(), "a signature may take a moment");
    cluster.run_for(400 * MILLISECOND);
    assert!(!cluster.nodes[0].replica.must_finish(), "nobody waits for a card that is away");
    let height = cluster.height(0);
    cluster.return_card(0);
    cluster.run_until(|cluster| cluster.height(0) > height);
}
