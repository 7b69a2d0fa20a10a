use hufu_types::receipt::Failure;
use hufu_types::{ChainId, Digest, FailureCode, TxDigest, TxId};

use super::*;
use crate::random::Random;

const NOW: Nanos = Nanos::from_nanos(1_000_000);

fn id(place: u32) -> TxId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&place.to_le_bytes());
    TxId(Digest(bytes))
}

fn receipt(place: u32) -> Receipt {
    Receipt::new(ChainId::ZERO, 1, 0, id(place), TxDigest::ZERO, Ok(()))
}

fn tracker(count: u32) -> Tracker {
    let mut tracker = Tracker::new().unwrap();
    for place in 0..count {
        assert_eq!(tracker.add(id(place), Some(Nanos::from_nanos(500_000)), false), place);
    }
    tracker
}

/// Sends the next `count` new transactions as frame `request`.
fn send(tracker: &mut Tracker, request: u64, count: usize) -> Vec<u32> {
    let mut places = Vec::new();
    tracker.take_new(count, NOW, &mut places);
    tracker.submitted(request, &places);
    places
}

fn resend(tracker: &mut Tracker, request: u64) -> Vec<u32> {
    let mut places = Vec::new();
    tracker.take_queued(usize::MAX, &mut places);
    tracker.submitted(request, &places);
    places
}

#[test]
fn receipts_find_their_transactions_and_latency_runs_from_the_schedule() {
    let mut tracker = tracker(5);
    assert_eq!(send(&mut tracker, 1, 3), [0, 1, 2]);
    assert_eq!(send(&mut tracker, 2, 9), [3, 4]);
    assert_eq!(tracker.next_due(), None);
    assert_eq!((tracker.flying(), tracker.unfinished()), (5, 5));
    for position in 0..3 {
        tracker.status(1, position, None, NOW);
        assert!(tracker.receipt(1, position, &receipt(position), NOW));
    }
    assert!(tracker.receipt(2, 1, &receipt(4), NOW));
    assert_eq!((tracker.flying(), tracker.finished(), tracker.unfinished()), (1, 4, 1));
    let failure = Failure { code: FailureCode::AssetUnknown, operation: Some(0) };
    let failed = Receipt::new(ChainId::ZERO, 1, 0, id(3), TxDigest::ZERO, Err(failure));
    assert!(tracker.receipt(2, 0, &failed, NOW));
    let (counts, latency) = tracker.finish();
    assert_eq!((counts.committed, counts.failed_count(), counts.unanswered), (4, 1, 0));
    assert_eq!(counts.failed["asset_unknown"], 1);
    assert!(!counts.is_clean());
    assert_eq!((latency.len(), latency.max() / 1_000), (5, 500));
}

#[test]
fn refusals_are_last_words_and_expired_ones_are_named() {
    let mut tracker = tracker(3);
    send(&mut tracker, 1, 3);
    tracker.status(1, 0, Some(RefusalCode::SignatureInvalid), NOW);
    tracker.status(1, 1, None, NOW);
    tracker.status(1, 1, Some(RefusalCode::Expired), NOW);
    tracker.status(1, 2, Some(RefusalCode::Duplicate), NOW);
    assert_eq!(tracker.unfinished(), 0);
    assert_eq!((tracker.finished(), tracker.forget_done()), (2, 0));
    assert_eq!(tracker.take_expired(), [(1, Nanos::from_nanos(500_000))]);
    assert_eq!(tracker.forget_done(), 3);
    let (counts, _) = tracker.finish();
    assert_eq!((counts.refused_count(), counts.unanswered), (2, 0));
    assert_eq!(counts.refused["duplicate"], 1, "a first copy that is a duplicate is a refusal");
}

#[test]
fn overload_sends_again_and_is_no_last_word() {
    let mut tracker = tracker(2);
    send(&mut tracker, 1, 2);
    tracker.status(1, 1, Some(RefusalCode::Overloaded), NOW);
    assert_eq!((tracker.last_overload(), tracker.has_queued()), (Some(NOW), true));
    assert_eq!(resend(&mut tracker, 2), [1]);
    assert!(tracker.receipt(2, 0, &receipt(1), NOW));
    assert!(tracker.receipt(1, 0, &receipt(0), NOW));
    let (counts, _) = tracker.finish();
    assert_eq!((counts.overloaded, counts.committed), (1, 2));
    assert!(counts.is_clean());
}

#[test]
fn a_lost_connection_is_made_good_exactly_once() {
    let mut tracker = tracker(4);
    send(&mut tracker, 1, 4);
    assert!(tracker.receipt(1, 0, &receipt(0), NOW));
    tracker.connection_lost();
    assert_eq!((tracker.flying(), tracker.has_queued()), (0, true));
    assert_eq!(resend(&mut tracker, 1), [1, 2, 3], "request ids begin anew");
    tracker.status(1, 0, Some(RefusalCode::Duplicate), NOW);
    tracker.status(1, 1, Some(RefusalCode::Duplicate), NOW);
    tracker.status(1, 2, None, NOW);
    assert!(tracker.receipt(1, 2, &receipt(3), NOW));
    let waited = tracker.take_wait().unwrap();
    assert_eq!(waited, 1);
    tracker.waits(2, waited);
    assert_eq!(tracker.waiting(), 1);
    assert!(tracker.receipt(2, 0, &receipt(1), NOW));
    // The other one was not known after all.
    let waited = tracker.take_wait().unwrap();
    tracker.waits(3, waited);
    tracker.error(3, ErrorCode::TooManyInFlight, NOW);
    let waited = tracker.take_wait().unwrap();
    tracker.waits(4, waited);
    tracker.error(4, ErrorCode::NotFound, NOW);
    assert_eq!(resend(&mut tracker, 5), [2]);
    assert!(tracker.receipt(5, 0, &receipt(2), NOW));
    assert_eq!((tracker.unfinished(), tracker.waiting(), tracker.flying()), (0, 0, 0));
    let (counts, _) = tracker.finish();
    assert_eq!((counts.committed, counts.resubmitted, counts.duplicates), (4, 3, 2));
    assert!(counts.is_clean());
}

#[test]
fn answers_out_of_place_are_counted_and_change_nothing() {
    let mut tracker = tracker(2);
    send(&mut tracker, 1, 2);
    assert!(!tracker.receipt(9, 0, &receipt(0), NOW), "no such request");
    assert!(!tracker.receipt(1, 2, &receipt(0), NOW), "no such position");
    assert!(!tracker.receipt(1, 0, &receipt(1), NOW), "another transaction's receipt");
    tracker.error(1, ErrorCode::NotFound, NOW);
    assert!(tracker.receipt(1, 0, &receipt(0), NOW));
    assert!(!tracker.receipt(1, 0, &receipt(0), NOW), "a second receipt");
    tracker.status(1, 0, Some(RefusalCode::Expired), NOW);
    let (counts, _) = tracker.finish();
    assert_eq!((counts.answers_foreign, counts.receipts_repeated), (5, 1));
    assert_eq!((counts.committed, counts.unanswered), (1, 1));
    assert!(!counts.is_clean());
}

/// Whatever the node answers and however often it dies, every transaction ends with one last word.
#[test]
fn every_transaction_has_one_last_word_in_any_weather() {
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let mut tracker = tracker(200);
        let mut request = 0;
        let mut flying: Vec<(u64, u32, u32, bool)> = Vec::new();
        while tracker.unfinished() > 0 {
            tracker.forget_done();
            request += 1;
            let mut places = Vec::new();
            match random.below(4) {
                0 => tracker.take_queued(7, &mut places),
                1 => tracker.take_new(7, NOW, &mut places),
                2 => {
                    if let Some(place) = tracker.take_wait() {
                        tracker.waits(request, place);
                        flying.push((request, 0, place, true));
                    }
                }
                _ => {}
            }
            if !places.is_empty() {
                tracker.submitted(request, &places);
                let sent = (0_u32..).zip(&places);
                flying.extend(sent.map(|(position, place)| (request, position, *place, false)));
            }
            if random.below(40) == 0 {
                tracker.connection_lost();
                flying.clear();
            }
            if !flying.is_empty() {
                let count = u64::try_from(flying.len()).unwrap();
                let pick = usize::try_from(random.below(count)).unwrap();
                let (request, position, place, is_wait) = flying.swap_remove(pick);
                match random.below(if is_wait { 4 } else { 3 }) {
                    0 => tracker.status(request, position, Some(RefusalCode::Overloaded), NOW),
                    1 => tracker.status(request, position, Some(RefusalCode::Duplicate), NOW),
                    3 => tracker.error(request, ErrorCode::NotFound, NOW),
                    _ => assert!(tracker.receipt(request, position, &receipt(place), NOW)),
                }
            }
            let in_flight = flying.iter().filter(|(.., is_wait)| !is_wait).count();
            assert_eq!(
                (tracker.flying(), tracker.waiting()),
                (in_flight, flying.len() - in_flight)
            );
        }
        let (counts, latency) = tracker.finish();
        assert_eq!(counts.committed + counts.refused_count(), 200, "seed {seed}");
        assert_eq!(latency.len(), counts.committed);
        assert_eq!((counts.answers_foreign, counts.receipts_repeated), (0, 0), "seed {seed}");
    }
}

#[test]
fn what_is_late_goes_first_and_keeps_its_time() {
    let mut tracker = tracker(2);
    let late = tracker.add(id(2), Some(Nanos::from_nanos(1_000)), true);
    let future = tracker.add(id(3), Some(NOW.after(std::time::Duration::from_secs(1))), false);
    let mut places = Vec::new();
    tracker.take_queued(9, &mut places);
    assert_eq!(places, [late]);
    tracker.take_new(9, NOW, &mut places);
    assert_eq!(places, [late, 0, 1], "what is not due yet waits");
    tracker.submitted(1, &places);
    assert!(tracker.receipt(1, 0, &receipt(2), NOW));
    assert_eq!(tracker.forget_done(), 0, "those before it are under way");
    assert_eq!((future, tracker.end(), tracker.next_due().is_some()), (3, 4, true));
    let (_, latency) = tracker.finish();
    assert_eq!(latency.max() / 1_000, 999, "from when it was due first");
}

#[test]
fn what_is_done_is_forgotten_and_its_second_receipt_is_not() {
    let mut tracker = tracker(3);
    send(&mut tracker, 1, 3);
    assert!(tracker.receipt(1, 0, &receipt(0), NOW));
    assert!(tracker.receipt(1, 1, &receipt(1), NOW));
    assert_eq!(tracker.forget_done(), 2);
    assert!(!tracker.receipt(1, 0, &receipt(0), NOW));
    tracker.connection_lost();
    assert_eq!(resend(&mut tracker, 1), [2]);
    assert!(tracker.receipt(1, 0, &receipt(2), NOW));
    let (counts, _) = tracker.finish();
    assert_eq!((counts.committed, counts.receipts_repeated), (3, 1));
}
