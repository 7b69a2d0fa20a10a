//! Dead, deaf and double-dealing validators, slow disks, full queues.

use hufu_crypto::Signer as _;
use hufu_types::vote::signing_digest;
use hufu_types::{Digest, SignedVote, Vote, VoteStep};
use zerocopy::IntoBytes as _;

use super::super::*;
use super::cluster::{Cluster, key};
use crate::message::Message;
use crate::vote_log::{BlockVerdict, Evidence};

/// A prevote by the validator at `place` for a block nobody has.
fn forged_prevote(cluster: &Cluster, place: usize, height: u64, signs_with: usize) -> SignedVote {
    let (validator, signer) = (cluster.address(place), key(signs_with));
    let block = Some(BlockDigest(Digest([0xee; 32])));
    let vote = Vote::new(cluster.chain_id, VoteStep::Prevote, height, 0, block, validator);
    let digest = signing_digest(vote.as_bytes(), signer.public_key());
    SignedVote { vote, signature: signer.sign(&digest).unwrap() }
}

fn is_precommit_of(address: Address, message: &Message) -> bool {
    let mut votes = message.votes().iter().map(|signed| signed.vote);
    votes.any(|vote| vote.validator == address && vote.step() == VoteStep::Precommit)
}

#[test]
fn one_dead_of_four_costs_rounds_but_not_progress() {
    let mut cluster = Cluster::new(4);
    cluster.stop(2, false);
    cluster.run_to(6);
    cluster.check();
    let rounds: Vec<u32> = cluster.nodes[0].decided.iter().map(|decision| decision.round).collect();
    assert!(rounds.contains(&0) && rounds.contains(&1), "{rounds:?}");
    assert!(rounds.iter().all(|round| *round <= 1), "the next proposer is alive: {rounds:?}");
}

#[test]
fn an_absent_proposer_is_not_waited_for() {
    let mut cluster = Cluster::new(4);
    cluster.stop(2, false);
    let absent = [cluster.address(2)];
    cluster.validators = Validators::with_absent(cluster.validators.set().clone(), &absent);
    // Height 1 was announced with everyone in the schedule.
    cluster.run_to(8);
    cluster.check();
    assert!(cluster.nodes[0].decided.iter().skip(1).all(|decision| decision.round == 0));
}

#[test]
fn two_of_four_down_is_a_standstill_and_their_return_ends_it() {
    let mut cluster = Cluster::new(4);
    cluster.run_to(1);
    cluster.stop(1, false);
    cluster.stop(2, true);
    for _ in 0..3_000 {
        cluster.event();
    }
    let stuck = cluster.nodes[0].decided.len().max(cluster.nodes[3].decided.len());
    assert!(stuck <= 2, "two of four decide nothing new");
    cluster.bring_up(1);
    cluster.bring_up(2);
    cluster.run_to(stuck + 3);
    cluster.check();
}

#[test]
fn thirty_percent_loss_and_random_crashes_end_in_agreement() {
    for seed in 1..=6 {
        let mut cluster = Cluster::seeded(4, seed);
        cluster.loss_per_mille = 300;
        for _ in 0..4 {
            for _ in 0..150 {
                cluster.event();
            }
            let place = usize::try_from(cluster.random(4)).unwrap();
            cluster.restart(place, seed % 2 == 0);
        }
        cluster.loss_per_mille = 0;
        let height = cluster.nodes.iter().map(|node| node.decided.len()).max().unwrap();
        cluster.run_to(height + 2);
        cluster.check();
    }
}

#[test]
fn same_seed_same_run() {
    let run = || {
        let mut cluster = Cluster::seeded(4, 77);
        cluster.loss_per_mille = 100;
        cluster.run_to(3);
        (cluster.published, cluster.now)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_double_voter_comes_back_as_evidence_and_in_the_log() {
    let mut cluster = Cluster::new(4);
    let double = forged_prevote(&cluster, 3, 1, 3);
    for place in 0..3 {
        cluster.nodes[place].inbox.push_back(Input::Vote(double));
    }
    cluster.run_to(2);
    cluster.check();
    let culprit = cluster.address(3);
    let reporters = cluster.nodes.iter().take(3).filter(|node| {
        let decision = &node.decided[0];
        decision.evidence.iter().any(|evidence| evidence.validator() == culprit)
    });
    assert!(reporters.count() >= 1, "someone saw both votes");
    let logged = cluster.nodes[0]
        .durable
        .iter()
        .map(|bytes| Record::parse(bytes, &*hufu_crypto::software_provider().hasher).unwrap());
    let logged: Vec<Evidence> = logged
        .filter_map(|record| match record {
            Record::Evidence(evidence) => Some(evidence),
            _ => None,
        })
        .collect();
    assert_eq!(logged, cluster.nodes[0].decided[0].evidence);
}

#[test]
fn a_vote_with_another_keys_signature_counts_for_nothing() {
    let mut cluster = Cluster::new(4);
    let forged = forged_prevote(&cluster, 3, 1, 2);
    for place in 0..3 {
        cluster.nodes[place].inbox.push_back(Input::Vote(forged));
    }
    cluster.run_to(2);
    cluster.check();
    for node in &cluster.nodes {
        assert!(node.decided[0].evidence.is_empty());
        assert!(!node.durable.contains(&Record::Vote(forged).to_bytes()));
    }
}

#[test]
fn a_precommit_and_a_decision_wait_for_the_batches() {
    let mut cluster = Cluster::new(4);
    cluster.nodes[0].withholds_batches = true;
    // If it is the first proposer, it waits with its proposal; the others go on in either case.
    cluster.run_until(|cluster| cluster.nodes[1].decided.len() >= 3);
    let own = cluster.address(0);
    let tells = |cluster: &Cluster| {
        let own_messages = cluster.published.iter().filter(|(place, _)| *place == 0);
        own_messages
            .filter(|(_, message)| {
                is_precommit_of(own, message)
                    && message.votes().iter().any(|signed| signed.vote.block().is_some())
            })
            .count()
    };
    assert_eq!(tells(&cluster), 0);
    assert!(cluster.nodes[0].decided.is_empty());
    assert!(!cluster.nodes[0].waiting_batches.is_empty());
    // However often the rebroadcast timer fires, what waits does not pile up.
    let held = |cluster: &Cluster| cluster.nodes[0].engine.gate.held_count();
    let before = held(&cluster);
    assert!(before >= 1);
    let height = cluster.nodes[0].engine.height();
    for round in 0..10 {
        let id = TimerId { height, round: round % 2, kind: TimerKind::Rebroadcast };
        cluster.feed(0, Input::TimerFired(id));
    }
    assert!(held(&cluster) <= before + 1, "{before} became {}", held(&cluster));
    cluster.hand_over_batches(0);
    cluster.run_to(5);
    assert!(tells(&cluster) > 0);
    cluster.check();
}

#[test]
fn a_full_queue_gives_messages_back_and_loses_none() {
    let mut cluster = Cluster::new(4);
    let node = &mut cluster.nodes[0];
    let mut effects = Vec::new();
    let input = node.inbox.pop_front().unwrap();
    node.engine.step(0, input, &mut effects).unwrap();
    // Time out round 0: the engine wants to prevote nil and is held up for as long as the signer
    // takes.
    let propose = TimerId { height: 1, round: 0, kind: TimerKind::Propose };
    node.engine.step(0, Input::TimerFired(propose), &mut effects).unwrap();
    assert!(node.engine.awaits_durable().is_some());
    let vote = forged_prevote(&cluster, 3, 1, 3);
    let node = &mut cluster.nodes[0];
    let before = node.engine.room();
    for _ in 0..before {
        effects.clear();
        node.engine.step(0, Input::Vote(vote), &mut effects).unwrap();
        assert!(effects.is_empty());
    }
    assert_eq!(node.engine.room(), 0);
    node.engine.step(0, Input::Vote(vote), &mut effects).unwrap();
    let [Effect::Refused { reason: Refusal::QueueFull, input: Some(input) }] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert!(matches!(**input, Input::Vote(back) if back == vote));
    assert_eq!(node.engine.counters().refused[Refusal::QueueFull as usize], 1);
}

#[test]
fn nothing_is_signed_before_its_record_is_durable_and_failure_stops_the_engine() {
    let mut cluster = Cluster::new(1);
    let block = cluster.build(0, 1);
    let digest = block.digest();
    let node = &mut cluster.nodes[0];
    let mut effects = Vec::new();
    let input = node.inbox.pop_front().unwrap();
    node.engine.step(0, input, &mut effects).unwrap();
    node.engine.step(0, Input::BlockBuilt { round: 0, block }, &mut effects).unwrap();
    let asks =
        |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Sign { .. }));
    let appends = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::AppendVoteLog { .. })).count()
    };
    assert_eq!(appends(&effects), 0, "a proposal waits for the batches of its block");
    let durable = Input::BatchesDurable { height: 1, block: digest };
    node.engine.step(0, durable, &mut effects).unwrap();
    assert_eq!(appends(&effects), 2, "the block and the intent");
    node.engine.step(0, Input::VoteLogDurable(LogTicket(1)), &mut effects).unwrap();
    assert!(!asks(&effects));
    assert_eq!(node.engine.awaits_durable(), Some(LogTicket(2)));
    node.engine.step(0, Input::VoteLogDurable(LogTicket(2)), &mut effects).unwrap();
    assert!(asks(&effects));
    let failed = Input::SignFailed { ticket: SignTicket(1) };
    assert!(matches!(node.engine.step(0, failed, &mut effects), Err(Error::SignFailed { .. })));
    let late = Input::VoteLogDurable(LogTicket(2));
    assert!(matches!(node.engine.step(0, late, &mut effects), Err(Error::Stopped)));
}

#[test]
fn a_decision_from_a_peer_needs_a_whole_certificate() {
    let mut ahead = Cluster::new(4);
    ahead.run_to(1);
    let Decision { certificate, block, .. } = ahead.nodes[0].decided[0].clone();
    let mut cluster = Cluster::new(4);
    let node = &mut cluster.nodes[1];
    let mut effects = Vec::new();
    let input = node.inbox.pop_front().unwrap();
    node.engine.step(0, input, &mut effects).unwrap();
    let mut thin = certificate.clone();
    thin.signatures.truncate(2);
    let mut forged = certificate.clone();
    forged.signatures[1].signature = forged.signatures[0].signature;
    for certificate in [thin, forged] {
        effects.clear();
        let synced = Input::Synced { certificate, block: block.clone() };
        node.engine.step(0, synced, &mut effects).unwrap();
        let refused = Refusal::CertificateInvalid;
        assert!(matches!(&effects[..], [Effect::Refused { reason, .. }] if *reason == refused));
    }
    effects.clear();
    let synced = Input::Synced { certificate: certificate.clone(), block: block.clone() };
    node.engine.step(0, synced, &mut effects).unwrap();
    assert_eq!(node.engine.awaits_durable(), None, "the block log gets the certificate");
    let digest = block.digest();
    let decided = |effects: &[Effect]| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Decided(decision) if decision.block == block))
    };
    assert!(!decided(&effects), "the batches are not durable yet");
    let durable = Input::BatchesDurable { height: 1, block: digest };
    node.engine.step(0, durable, &mut effects).unwrap();
    assert!(decided(&effects));
}

#[test]
fn what_is_not_for_this_height_or_chain_is_refused_and_counted() {
    let mut cluster = Cluster::new(4);
    cluster.run_to(2);
    let height = cluster.nodes[0].engine.height();
    let far = forged_prevote(&cluster, 3, height + HEIGHTS_AHEAD_COUNT_MAX + 1, 3);
    let passed = forged_prevote(&cluster, 3, 1, 3);
    let validator = cluster.address(3);
    let foreign = Vote::new(ChainId::ZERO, VoteStep::Prevote, height, 0, None, validator);
    let foreign = SignedVote { vote: foreign, signature: passed.signature };
    let node = &mut cluster.nodes[0];
    for (vote, expected) in [
        (far, Refusal::HeightFarAhead),
        (passed, Refusal::HeightPassed),
        (foreign, Refusal::WrongChain),
    ] {
        let mut effects = Vec::new();
        node.engine.step(0, Input::Vote(vote), &mut effects).unwrap();
        assert!(matches!(&effects[..], [Effect::Refused { reason, .. }] if *reason == expected));
        assert!(node.engine.counters().refused[expected as usize] >= 1);
    }
}

#[test]
fn an_observer_follows_and_signs_nothing() {
    let mut cluster = Cluster::new(4);
    cluster.stop(3, false);
    cluster.nodes[3].signer = key(9);
    cluster.bring_up(3);
    cluster.run_to(4);
    cluster.check();
    assert!(cluster.signed.keys().all(|(place, _)| *place != 3));
    assert!(cluster.published.iter().all(|(place, _)| *place != 3));
}

/// One validator may propose as many blocks as it likes: it takes two places a round, and the next
/// rounds, honest blocks and decisions from peers still find theirs.
#[test]
fn a_proposer_of_many_blocks_fills_nothing_that_others_need() {
    let mut ahead = Cluster::new(4);
    ahead.run_to(1);
    let Decision { certificate, block, .. } = ahead.nodes[0].decided[0].clone();
    let mut cluster = Cluster::new(4);
    let proposer = cluster.address(3);
    let blocks: Vec<_> = (0..40).map(|salt| cluster.build(3, salt)).collect();
    let node = &mut cluster.nodes[1];
    let input = node.inbox.pop_front().unwrap();
    node.engine.step(0, input, &mut Vec::new()).unwrap();
    let mut refusals = Vec::new();
    for round in [0, 5, ROUNDS_AHEAD_COUNT_MAX, ROUNDS_AHEAD_COUNT_MAX + 1, u32::MAX] {
        for block in &blocks {
            let verdict = BlockVerdict::Valid(block.clone());
            let input = Input::BlockReceived { height: 1, round, proposer, verdict };
            let mut effects = Vec::new();
            node.engine.step(0, input, &mut effects).unwrap();
            refusals.extend(effects.iter().filter_map(|effect| match effect {
                Effect::Refused { reason, .. } => Some(*reason),
                _ => None,
            }));
        }
    }
    let count = |reason| refusals.iter().filter(|found| **found == reason).count();
    assert_eq!(count(Refusal::BlockSurplus), 3 * (40 - ROUND_BLOCKS_COUNT_MAX));
    assert_eq!(count(Refusal::RoundFarAhead), 2 * 40);
    assert_eq!(refusals.len(), 3 * (40 - ROUND_BLOCKS_COUNT_MAX) + 2 * 40);
    let mut effects = Vec::new();
    node.engine.step(0, Input::Synced { certificate, block }, &mut effects).unwrap();
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Refused { .. })));
}
