//! Replicas together: what no single part shows.

mod cards;
mod cluster;

use super::*;
use cluster::{Cluster, MILLISECOND, make_batch};

/// Rounds that were begun at this height by this node.
fn rounds(cluster: &Cluster, place: usize, of: u64) -> usize {
    let started = |note: &&Note| matches!(note, Note::RoundStarted { height, .. } if *height == of);
    cluster.nodes[place].notes.iter().filter(started).count()
}

fn proposer(cluster: &Cluster, height: u64) -> Address {
    let place = usize::try_from(height - 1).unwrap();
    cluster.nodes.iter().find_map(|node| node.chain.get(place)).unwrap().block.header().proposer
}

/// Submits batch after batch until all nodes that are up have decided `count` more heights.
fn run_heights(cluster: &mut Cluster, count: u64) {
    for _ in 0..count {
        let target = (0..cluster.nodes.len())
            .filter(|place| cluster.nodes[*place].is_up)
            .map(|place| cluster.height(place))
            .max()
            .unwrap()
            + 1;
        cluster.submit();
        cluster.run_until(|cluster| {
            (0..cluster.nodes.len())
                .all(|place| !cluster.nodes[place].is_up || cluster.height(place) >= target)
        });
    }
}

#[test]
fn four_validators_order_each_batch_once_and_then_rest() {
    let mut cluster = Cluster::new(4);
    let batches: Vec<Batch> = (0..12)
        .map(|_| {
            let batch = cluster.submit();
            cluster.run_for(7 * MILLISECOND);
            batch
        })
        .collect();
    cluster.run_for(2_000 * MILLISECOND);
    let ordered: Vec<BatchDigest> = cluster.nodes[0]
        .chain
        .iter()
        .flat_map(|decided| decided.block.batches().to_vec())
        .collect();
    assert_eq!(ordered, batches.iter().map(Batch::digest).collect::<Vec<_>>());
    let height = cluster.height(0);
    for place in 0..4 {
        assert_eq!(cluster.height(place), height, "all rest at one height");
        let last = cluster.nodes[place].chain.last().unwrap();
        assert!(last.block.batches().is_empty(), "an empty block certifies the last results");
        assert_eq!(cluster.nodes[place].replica.status(cluster.now).stage, "resting");
    }
    let proposers: std::collections::BTreeSet<Address> =
        (1..=height).map(|height| proposer(&cluster, height)).collect();
    assert_eq!(proposers.len(), 4, "everyone has its turn");
}

#[test]
fn a_dead_proposer_costs_one_round_and_is_asked_again_when_it_is_back() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 4);
    cluster.stop(2);
    let dead = cluster.address(2);
    run_heights(&mut cluster, 6);
    let before = cluster.height(0);
    assert_eq!(cluster.nodes[0].replica.chain().absent(), [dead]);
    run_heights(&mut cluster, 12);
    for height in before + 1..=cluster.height(0) {
        assert_eq!(rounds(&cluster, 0, height), 1, "height {height} needs one round");
        assert_ne!(proposer(&cluster, height), dead);
    }
    cluster.start(2);
    run_heights(&mut cluster, 12);
    assert!(cluster.nodes[0].replica.chain().absent().is_empty());
    let last = cluster.height(0);
    assert!((last - 6..=last).any(|height| proposer(&cluster, height) == dead));
    assert_eq!(cluster.height(2), last);
}

#[test]
fn a_validator_that_was_away_takes_over_what_was_decided() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 2);
    cluster.stop(1);
    run_heights(&mut cluster, 100);
    cluster.start(1);
    let (target, before) = (cluster.height(0), cluster.now);
    cluster.run_until(|cluster| cluster.height(1) >= target);
    // Execution takes two milliseconds, the way of a question and its answer as many.
    let took = cluster.now - before;
    assert!(took < 100 * MILLISECOND, "heights wait for each other: {took} ns for a hundred");
    let caught_up =
        cluster.nodes[1].notes.iter().filter(|note| matches!(note, Note::CaughtUp { .. })).count();
    assert!(caught_up >= 95, "{caught_up} heights were taken over");
    run_heights(&mut cluster, 4);
    let digest = |place: usize| cluster.nodes[place].chain.last().unwrap().block.digest();
    assert_eq!(digest(1), digest(0));
}

#[test]
fn two_of_four_stand_still_and_go_on_when_a_third_is_back() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.stop(0);
    cluster.stop(1);
    let height = cluster.height(2);
    cluster.submit();
    cluster.run_for(3_000 * MILLISECOND);
    assert_eq!(cluster.height(2), height, "two are no quorum");
    let status = cluster.nodes[2].replica.status(cluster.now);
    assert_eq!(status.stage, "deciding");
    assert!(!status.missing.is_empty(), "it says who is missing");
    cluster.start(1);
    cluster.run_until(|cluster| (1..4).all(|place| cluster.height(place) > height));
}

#[test]
fn all_validators_may_stop_at_once() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 5);
    for run in 0..3 {
        cluster.submit();
        cluster.run_for((3 + run) * MILLISECOND);
        let height = cluster.height(0);
        (0..4).for_each(|place| cluster.stop(place));
        (0..4).for_each(|place| cluster.start(place));
        cluster.run_until(|cluster| (0..4).all(|place| cluster.height(place) > height));
    }
}

#[test]
fn a_validator_with_other_roots_stops_and_the_others_go_on() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 2);
    cluster.nodes[3].salt = 1;
    for _ in 0..4 {
        cluster.submit();
        cluster.run_for(2_000 * MILLISECOND);
    }
    let error = cluster.nodes[3].error.as_ref();
    assert!(
        matches!(error, Some(Error::Decided(HeaderError::Diverged { .. }))),
        "a diverged node must not vote on: {error:?}"
    );
    assert!(cluster.height(0) > cluster.height(3));
    assert!(cluster.nodes[..3].iter().all(|node| node.error.is_none()));
}

#[test]
fn a_validator_with_other_roots_stops_also_where_it_takes_over_heights() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 2);
    cluster.stop(3);
    run_heights(&mut cluster, 60);
    cluster.nodes[3].salt = 1;
    cluster.start(3);
    cluster.run_until(|cluster| cluster.nodes[3].error.is_some());
    let Some(Error::Decided(HeaderError::Diverged { height, executed })) = cluster.nodes[3].error
    else {
        panic!("{:?}", cluster.nodes[3].error)
    };
    // The first height that was executed otherwise is found by the header after it.
    assert_eq!((height, executed), (4, 3));
    assert!(cluster.height(3) <= 3 + 16, "what was taken over by then is bounded");
}

#[test]
fn a_peer_that_boasts_of_heights_delays_nobody_for_long() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 2);
    let liar = cluster.address(3);
    cluster.cut.extend((0..3).map(|to| (3, to)));
    for place in 0..3 {
        cluster.post(0, place, Input::Tip { from: liar, height: u64::MAX });
    }
    let before = cluster.now;
    run_heights_of(&mut cluster, 3, 8);
    assert!(cluster.now - before < 8_000 * MILLISECOND, "{}", cluster.now - before);
    cluster.run_for(3_000 * MILLISECOND);
    let blamed = Note::Blame(liar, Blame::HeightMissing);
    assert!(cluster.nodes[0].notes.contains(&blamed));
}

/// As [`run_heights`], for the first `nodes` nodes.
fn run_heights_of(cluster: &mut Cluster, nodes: usize, count: u64) {
    for _ in 0..count {
        let target = (0..nodes).map(|place| cluster.height(place)).max().unwrap() + 1;
        cluster.submit();
        cluster.run_until(|cluster| (0..nodes).all(|place| cluster.height(place) >= target));
    }
}

#[test]
fn decided_heights_are_taken_only_if_asked_for_and_proven() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.stop(0);
    run_heights(&mut cluster, 3);
    let height = usize::try_from(cluster.height(1)).unwrap();
    let next = cluster.nodes[1].chain[3].clone();
    cluster.start(0);
    let sender = cluster.address(1);
    cluster.run_for(0);
    // Before anything is asked.
    let (block, certificate) = (next.block.clone(), next.certificate.clone());
    cluster.step(0, Input::Height { from: sender, block, certificate });
    assert!(cluster.nodes[0].notes.contains(&Note::Blame(sender, Blame::HeightUnasked)));
    // Asked for, but one signature is another's.
    cluster.cut.extend([(1, 0), (2, 0), (3, 0)]);
    cluster.step(0, Input::Tip { from: sender, height: u64::try_from(height).unwrap() });
    let mut certificate = next.certificate.clone();
    certificate.signatures[0].signature = certificate.signatures[1].signature;
    cluster.step(0, Input::Height { from: sender, block: next.block, certificate });
    // Certificates that come together are verified together, a moment later.
    cluster.run_for(MILLISECOND);
    assert!(cluster.nodes[0].notes.contains(&Note::Blame(sender, Blame::HeightInvalid)));
    assert_eq!(cluster.height(0), 3, "nothing was taken over");
}

#[test]
fn a_block_that_breaks_a_rule_is_not_voted_for() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.run_for(1_000 * MILLISECOND);
    let height = cluster.height(0) + 1;
    let validators = cluster.nodes[0].replica.chain().validators().clone();
    let byzantine = cluster.place(validators.proposer(height, 0).address());
    let victim = (byzantine + 1) % 4;
    let from = cluster.address(byzantine);
    // It orders what was ordered before.
    let old = cluster.nodes[victim].chain[0].batches[0].clone();
    let provider = hufu_crypto::software_provider();
    let chain = cluster.nodes[victim].replica.chain();
    let header = chain.build(from, &[old.digest()], 1, u64::MAX / 2, &*provider.hasher);
    let mut header = header.unwrap();
    header.time_millis = (chain.tip().block.time_millis + 1).into();
    let block = Block::new(header, vec![old.digest()], &*provider.hasher).unwrap();
    cluster.stop(byzantine);
    cluster.step(victim, Input::PeerUp(from));
    cluster.step(victim, Input::Block { from, round: 0, block });
    cluster.run_for(400 * MILLISECOND);
    let notes = &cluster.nodes[victim].notes;
    assert!(notes.contains(&Note::Judged { height, proposer: from, fault: None }), "{notes:?}");
    assert!(notes.contains(&Note::Blame(from, Blame::BlockInvalid)));
    run_heights(&mut cluster, 2);
    let again = cluster.nodes[victim]
        .chain
        .iter()
        .filter(|decided| decided.block.batches().contains(&old.digest()));
    assert_eq!(again.count(), 1);
}

#[test]
fn blocks_of_one_peer_are_bounded() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 1);
    cluster.run_for(1_000 * MILLISECOND);
    let from = cluster.address(2);
    let height = cluster.height(0);
    for nonce in 0..64 {
        let batch = make_batch(1_000 + nonce, height + 100);
        let provider = hufu_crypto::software_provider();
        let chain = cluster.nodes[0].replica.chain();
        let mut header = chain.build(from, &[batch.digest()], 1, 0, &*provider.hasher).unwrap();
        // Of a height ahead, whose proposers nobody knows yet.
        header.height = (height + 4).into();
        let block = Block::new(header, vec![batch.digest()], &*provider.hasher).unwrap();
        cluster.step(0, Input::Block { from, round: u32::try_from(nonce).unwrap(), block });
    }
    let blame = Note::Blame(from, Blame::BlockUnasked);
    let blamed = cluster.nodes[0].notes.iter().filter(|note| **note == blame).count();
    assert_eq!(blamed, 32, "as many as are kept for one peer, and no more");
}

#[test]
fn who_is_silent_is_named() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.stop(0);
    cluster.stop(3);
    let silent = [cluster.address(0), cluster.address(3)];
    cluster.submit();
    cluster.run_for(1_500 * MILLISECOND);
    let status = cluster.nodes[1].replica.status(cluster.now);
    let named: Vec<Address> = status.missing.iter().map(|(who, _)| *who).collect();
    assert!(silent.iter().all(|who| named.contains(who)), "{status:?}");
    assert!(!named.contains(&cluster.address(1)), "not itself: {status:?}");
}

#[test]
fn a_validator_that_lost_its_disk_follows_until_it_may_vote_again() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 10);
    cluster.submit();
    // In the middle of a height in which it has voted.
    cluster.run_for(4 * MILLISECOND);
    cluster.wipe(2);
    cluster.start(2);
    run_heights(&mut cluster, 5);
    let replica = &cluster.nodes[2].replica;
    assert!(
        replica.is_on_probation(),
        "blocks are younger than its disk by less than clocks differ"
    );
    assert_eq!(replica.counters().signed, 0);
    cluster.run_for(500 * MILLISECOND);
    assert_eq!(cluster.nodes[2].replica.status(cluster.now).stage, "on probation");
    cluster.run_for(5_000 * MILLISECOND);
    run_heights(&mut cluster, 3);
    let replica = &cluster.nodes[2].replica;
    assert!(!replica.is_on_probation());
    run_heights(&mut cluster, 5);
    assert!(cluster.nodes[2].replica.counters().signed > 0, "it votes again");
    // The cluster itself checks that no signer signs two things at one position.
}

/// Found by the simulator: a quorum was at the genesis, so the chain was taken for new, and the
/// wiped validator proposed for height 1 a second time.
#[test]
fn a_disk_lost_before_the_first_block_is_not_a_new_chain() {
    let mut cluster = Cluster::new(4);
    cluster.submit();
    let has_signed =
        |cluster: &Cluster, place: usize| cluster.nodes[place].replica.counters().signed > 0;
    cluster.run_until(|cluster| (0..4).all(|place| has_signed(cluster, place)));
    assert!((0..4).all(|place| cluster.height(place) == 0), "all at height 1, undecided");
    let lost = 2;
    for place in 0..4 {
        if place == lost { cluster.wipe(place) } else { cluster.stop(place) }
    }
    for place in 0..4 {
        cluster.start(place);
    }
    cluster.submit();
    cluster.run_until(|cluster| (0..4).all(|place| cluster.height(place) >= 1));
    let replica = &cluster.nodes[lost].replica;
    assert!(replica.is_on_probation() && replica.counters().signed == 0, "it follows the others");
    cluster.run_for(5_000 * MILLISECOND);
    run_heights(&mut cluster, 5);
    assert!(cluster.nodes[lost].replica.counters().signed > 0, "it votes again");
}

/// Found by the simulator: the block's batches were never asked for, since it has none, and so its
/// decision after the restart found no bodies.
#[test]
fn an_empty_block_out_of_the_vote_log_is_decided() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 1);
    let hasher = hufu_crypto::software_provider().hasher;
    let is_recorded = |cluster: &Cluster, place: usize| {
        cluster.nodes[place].durable.iter().any(|bytes| {
            let record = crate::vote_log::Record::parse(bytes, &*hasher).unwrap();
            matches!(record, crate::vote_log::Record::Block { height: 2, .. })
        })
    };
    cluster.run_until(|cluster| (0..4).all(|place| is_recorded(cluster, place)));
    let undecided = (0..4).find(|place| cluster.height(*place) == 1).unwrap();
    for place in 0..4 {
        cluster.stop(place);
    }
    for place in 0..4 {
        cluster.start(place);
    }
    cluster.run_until(|cluster| (0..4).all(|place| cluster.height(place) >= 2));
    let second = &cluster.nodes[undecided].chain[1];
    assert!(second.block.batches().is_empty(), "the block that certifies the first one");
}

/// One step of a node beside the cluster's clock: what it asks for is only looked at.
fn effects_of(cluster: &mut Cluster, place: usize, input: Input) -> Vec<Effect> {
    let millis = cluster.now / MILLISECOND;
    let time = Time { nanos: cluster.now, wall_millis: 1_000_000 + millis };
    let mut effects = Vec::new();
    cluster.nodes[place].replica.step(time, input, &mut effects).unwrap();
    effects
}

fn needs(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Need { .. })).count()
}

/// A block of this proposer with a batch that nobody has; each number makes another one.
fn block_of(cluster: &Cluster, from: Address, number: u64) -> Block {
    let hasher = hufu_crypto::software_provider().hasher;
    let chain = cluster.nodes[0].replica.chain();
    let batch = make_batch(10_000 + number, chain.height() + 100);
    let mut header = chain.build(from, &[batch.digest()], 1, 0, &*hasher).unwrap();
    header.time_millis = number.into();
    Block::new(header, vec![batch.digest()], &*hasher).unwrap()
}

/// Found in review: blocks with a bad header were judged and forgotten, but what they order was
/// asked for and kept until the height ended, so that one validator could fill the memory of all
/// and use up the room for honest blocks.
#[test]
fn junk_blocks_are_not_asked_for() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.run_for(1_000 * MILLISECOND);
    let chain = cluster.nodes[0].replica.chain();
    let (next, validators) = (chain.next_height(), chain.validators().clone());
    let proposer = |round| validators.proposer(next, round).address();
    let round = (0..4).find(|round| proposer(*round) != cluster.address(0)).unwrap();
    let from = proposer(round);
    let mut asked = 0;
    for number in 0..200 {
        // Without a turn, far ahead of any round, and in its turn.
        for round in [round + 1, round + 4_000, round] {
            let block = block_of(&cluster, from, number);
            asked += needs(&effects_of(&mut cluster, 0, Input::Block { from, round, block }));
        }
    }
    assert_eq!(asked, 2, "one for its turn, and one that proves it two-faced");
}

#[test]
fn a_block_that_waits_is_asked_for_again_when_it_comes_again() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 3);
    cluster.run_for(1_000 * MILLISECOND);
    let chain = cluster.nodes[0].replica.chain();
    let from = chain.validators().proposer(chain.next_height(), 1).address();
    let late = chain.tip().block.time_millis + 1;
    let block = block_of(&cluster, from, late);
    let input = Input::Block { from, round: 1, block };
    assert_eq!(needs(&effects_of(&mut cluster, 0, input.clone())), 1);
    assert_eq!(needs(&effects_of(&mut cluster, 0, input)), 1, "the mempool may have refused it");
}

/// Found in review: a question of the last height that was never answered kept the node from
/// waking up of its own accord, so that with the proposer gone nobody certified the last results.
#[test]
fn a_result_is_certified_by_who_never_heard_of_its_batches() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 2);
    cluster.run_for(1_000 * MILLISECOND);
    for node in &mut cluster.nodes {
        // Longer than everything that happens in a height.
        node.replica.config.interval_nanos = 1_000 * MILLISECOND;
    }
    let next = cluster.height(0) + 1;
    let proposer = cluster.nodes[0].replica.chain().validators().proposer(next, 0).address();
    let place = cluster.place(proposer);
    // Only the proposer has it in its mempool; the others get it with the block.
    let batch = make_batch(7_777, next + 100);
    for other in (0..4).filter(|other| *other != place) {
        cluster.nodes[other].held.insert(batch.digest(), batch.clone());
    }
    cluster.give(place, batch);
    cluster.run_until(|cluster| (0..4).all(|place| cluster.height(place) >= next));
    cluster.cut.extend((0..4).flat_map(|other| [(place, other), (other, place)]));
    cluster.run_for(20 * MILLISECOND);
    for other in (0..4).filter(|other| *other != place) {
        let now = cluster.now;
        let replica = &mut cluster.nodes[other].replica;
        assert_eq!(replica.status(now).stage, "resting");
        replica.timers.clear();
        assert!(replica.deadline(now).is_some(), "node {other} sleeps");
    }
    cluster.run_for(10_000 * MILLISECOND);
    for other in (0..4).filter(|other| *other != place) {
        assert!(cluster.height(other) > next, "node {other} rests with a result uncertified");
    }
}

/// Found in review: the engine was still at the last height it had worked on itself.
#[test]
fn the_first_message_after_catch_up_is_not_lost() {
    let mut cluster = Cluster::new(4);
    run_heights(&mut cluster, 1);
    cluster.stop(1);
    run_heights(&mut cluster, 20);
    cluster.run_for(2_000 * MILLISECOND);
    cluster.start(1);
    let target = cluster.height(0);
    cluster.run_until(|cluster| cluster.height(1) >= target);
    cluster.run_for(2_000 * MILLISECOND);
    let height = cluster.nodes[1].replica.chain().next_height();
    let from = cluster.address(2);
    let step = hufu_types::VoteStep::Prevote;
    let vote = hufu_types::Vote::new(cluster::CHAIN, step, height, 0, None, from);
    let signature = cluster.nodes[0].chain[0].certificate.signatures[0].signature;
    let message = Message::Vote(hufu_types::SignedVote { vote, signature });
    let effects = effects_of(&mut cluster, 1, Input::Message { from, message });
    let refused = Note::Refused(engine::Refusal::HeightFarAhead);
    let is_refused = |effect: &Effect| matches!(effect, Effect::Note(note) if *note == refused);
    assert!(!effects.iter().any(is_refused));
}
