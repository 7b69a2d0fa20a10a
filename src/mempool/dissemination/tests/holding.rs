//! Who holds what: what is told, what is proposed, what is pushed again.

use super::*;

/// What a node tells of what it holds, and whom.
fn told(node: &mut Dissemination) -> Vec<(Option<Address>, usize)> {
    let told = effects(node).into_iter().filter_map(|effect| match effect {
        Effect::Hold { peer, digests } => Some((peer, digests.len())),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_batch_is_proposed_when_a_quorum_holds_it() {
    let mut node = equal(1);
    (2..=4).for_each(|peer| node.peer_up(0, address(peer)));
    let one = batch(2, 1);
    node.received(address(2), one.clone());
    node.held(address(2), &[one.digest()]);
    node.held(address(2), &[one.digest()]);
    node.judged(one.digest(), true);
    drop(effects(&mut node));
    node.durable(one.digest());
    assert_eq!(told(&mut node), [(None, 1)], "all are told once it is on disk here");
    assert!(node.has_coming());
    assert_eq!(proposed(&node, 1), [], "two of four hold it, however often one says so");
    node.held(address(9), &[one.digest()]);
    assert_eq!(proposed(&node, 1), [], "who is no validator does not count");
    node.held(address(3), &[one.digest()]);
    assert_eq!(proposed(&node, 1), [(2, 1)]);
    assert!(!node.has_coming());
}

#[test]
fn what_peers_held_before_it_came_counts_when_it_comes() {
    let mut node = equal(1);
    let one = batch(2, 1);
    node.held(address(2), &[one.digest()]);
    node.held(address(3), &[one.digest()]);
    hold(&mut node, &one);
    assert_eq!(proposed(&node, 1), [(2, 1)]);
    // What is not here is remembered for so many batches only.
    let many: Vec<BatchDigest> = (0..5_000_u32)
        .map(|number| BatchDigest(hufu_crypto::Sm3::of(&[&number.to_le_bytes()])))
        .collect();
    let two = batch(2, 2);
    node.held(address(3), &[two.digest()]);
    node.held(address(4), &[two.digest()]);
    node.held(address(3), &many);
    hold(&mut node, &two);
    assert_eq!(proposed(&node, 1), [(2, 1)], "one that was pushed out must be told again");
    node.held(address(3), &[two.digest()]);
    assert_eq!(proposed(&node, 1), [(2, 1), (2, 2)]);
}

#[test]
fn what_is_held_is_told_to_who_comes_and_again_while_no_block_orders_it() {
    let mut node = equal(1);
    hold(&mut node, &batch(2, 1));
    assert_eq!(node.deadline(), None, "there is nobody to tell");
    node.peer_up(5, address(3));
    assert_eq!(told(&mut node), [(Some(address(3)), 1)]);
    node.tick(5);
    assert_eq!(told(&mut node), []);
    let again = node.deadline().unwrap();
    assert!(again > 5);
    node.tick(again - 1);
    assert_eq!(told(&mut node), []);
    node.tick(again);
    assert_eq!(told(&mut node), [(None, 1)]);
    node.ordered(1, &[batch(2, 1).digest()]);
    node.tick(again + 1);
    assert_eq!((told(&mut node), node.deadline()), (vec![], None));
}

/// Bulk for a peer that takes less than there is is dropped. Without a second push the batch would
/// never be held by a quorum, and block its origin's lane until it expires.
#[test]
fn an_own_batch_that_a_peer_does_not_hold_is_pushed_again() {
    let pushed = |node: &mut Dissemination| -> Vec<u8> {
        let sent = effects(node).into_iter().filter_map(|effect| match effect {
            Effect::Send { peer, .. } => Some(peer.0[0]),
            _ => None,
        });
        sent.collect()
    };
    let mut node = equal(1);
    (2..=4).for_each(|peer| node.peer_up(0, address(peer)));
    node.sealed(batch(1, 1));
    node.durable(batch(1, 1).digest());
    assert_eq!(pushed(&mut node), [2, 3, 4]);
    node.held(address(3), &[batch(1, 1).digest()]);
    node.tick(0);
    node.tick(node.deadline().unwrap());
    assert_eq!(pushed(&mut node), [], "they may be verifying it");
    node.tick(node.deadline().unwrap());
    assert_eq!(pushed(&mut node), [2, 4]);
    node.held(address(2), &[batch(1, 1).digest()]);
    node.held(address(4), &[batch(1, 1).digest()]);
    node.tick(node.deadline().unwrap());
    assert_eq!(pushed(&mut node), []);
}

/// Its origin sent it, and the power went before it was written there. Those who got it are too few
/// to propose it, nobody pushes it again, and what its origin sealed since would wait until it
/// expires.
#[test]
fn a_batch_that_its_origin_has_lost_holds_nobody_up() {
    let mut node = equal(1);
    let (lost, new) = (batch(2, 1), batch(2, 9));
    (2..=4).for_each(|peer| node.peer_up(0, address(peer)));
    hold(&mut node, &lost);
    hold(&mut node, &new);
    (3..=4).for_each(|peer| node.held(address(peer), &[new.digest()]));
    assert_eq!(proposed(&node, 1), [], "its origin has not said yet what it holds");
    node.held(address(2), &[new.digest()]);
    assert_eq!(proposed(&node, 1), [(2, 9)]);
    assert!(!node.has_coming(), "nobody waits for it");
    node.held(address(2), &[lost.digest()]);
    assert_eq!(proposed(&node, 1), [], "its origin has it, and the others will");
    assert!(node.has_coming());
    node.held(address(3), &[lost.digest()]);
    assert_eq!(proposed(&node, 1), [(2, 1), (2, 9)]);
}
