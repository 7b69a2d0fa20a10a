//! A card in this process, for the tile that must not wait; and sessions that a card ends when they
//! are idle.

use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Digest, PublicKey, Signature, Sm3, Verdict, VerifyItem, software_provider};
use hufu_hsm::group::{Candidate, Line, Signers};
use hufu_hsm::in_process::{CallQueue, InProcess};
use hufu_hsm::pool::CardReport;
use hufu_hsm::{Error, ErrorClass, KeyHandle, Keystore, Profile, Usage};
use hufu_runtime::clock::{Nanos, monotonic};
use hufu_runtime::wake::Parker;
use hufu_softtoken::{Fault, Faults};

use super::token::{Token, path_of, soon, with_each};

fn start(token: &Token, more: &str) -> (InProcess, CallQueue) {
    InProcess::start(token.config(more), software_provider().verifier).unwrap()
}

/// Sleeps as a tile does, until the queue has something or the time is over.
fn park(queue: &dyn Line, until: Nanos) {
    Parker::new().unwrap().park(Some(until), |fds| queue.poll_fds(fds)).unwrap();
}

fn pause(millis: u64) {
    let until = monotonic().after(Duration::from_millis(millis));
    Parker::new().unwrap().wait_until(Some(until), || false).unwrap();
}

/// One signature over the queue.
fn sign(
    queue: &mut CallQueue,
    ticket: u64,
    key: KeyHandle,
    deadline: Nanos,
) -> Result<Signature, Error> {
    queue.submit(ticket, key, &digest(ticket), deadline).unwrap();
    loop {
        let mut found = None;
        queue.poll(&mut |answered, result| {
            assert_eq!(answered, ticket);
            found = Some(result);
        });
        if let Some(found) = found {
            return found;
        }
        park(queue, queue.deadline().unwrap());
    }
}

fn digest(number: u64) -> Digest {
    Sm3::of(&[b"in process", &number.to_le_bytes()])
}

fn verifies(public: &PublicKey, ticket: u64, signature: &Signature) {
    let item = VerifyItem { key: public, digest: digest(ticket), signature };
    assert_eq!(software_provider().verifier.verify(item), Verdict::Valid);
}

fn report(card: &dyn Keystore) -> CardReport {
    card.report().unwrap()
}

#[test]
fn a_card_in_this_process_signs_for_a_tile_and_survives_its_absence() {
    let test = "in_process::a_card_in_this_process_signs_for_a_tile_and_survives_its_absence";
    with_each(test, &["native", "sansec"], |token| {
        token.make_keys();
        let (process, mut queue) = start(token, "deadline_millis = 300\n");
        let card = process.card();
        card.wait_ready(soon()).unwrap();
        let key = card.open_key(&token.key("vote"), Usage::Sign, soon()).unwrap();
        let public = card.public_key(key).unwrap();
        assert_eq!(card.expect_key(&token.key("vote"), Usage::Sign, &public, soon()).unwrap(), key);
        for ticket in 0..200 {
            let signature = sign(&mut queue, ticket, key, soon()).unwrap();
            verifies(&public, ticket, &signature);
        }
        assert_eq!(queue.open_count(), 0);

        token.faults().set(Fault::Removed { millis: 600_000 });
        let refused = sign(&mut queue, 1_000, key, soon()).unwrap_err();
        assert_eq!(refused.class(), ErrorClass::TokenLost, "{refused}");
        token.faults().clear();
        let until = soon();
        while sign(&mut queue, 1_001, key, soon()).is_err() {
            assert!(monotonic() < until, "it never came back");
        }
        // A library that hangs keeps its thread, not the tile.
        token.faults().set(Fault::Hang(true));
        let soon_over = monotonic().after(Duration::from_millis(100));
        let late = sign(&mut queue, 1_002, key, soon_over).unwrap_err();
        assert!(matches!(late, Error::Deadline { .. }), "{late}");
        assert_eq!(queue.open_count(), 1);
        token.faults().clear();
        let signature = sign(&mut queue, 1_003, key, soon()).unwrap();
        verifies(&public, 1_003, &signature);
        let report = report(&**card);
        assert!(report.tokens_lost_total >= 1 && report.sessions_open > 0, "{report:?}");
        assert!(report.return_values.iter().any(|(rv, _)| rv.name().is_some()), "{report:?}");
    });
}

#[test]
fn a_key_that_is_another_than_expected_signs_nothing_in_this_process() {
    let test = "in_process::a_key_that_is_another_than_expected_signs_nothing_in_this_process";
    with_each(test, &["native"], |token| {
        token.make_keys();
        let (process, mut queue) = start(token, "");
        let other = {
            let card = token.card("").unwrap();
            let open = card.open_key(&token.key("open"), Usage::Decrypt, soon()).unwrap();
            card.public_key(open).unwrap()
        };
        // Asked before the card is open, it is found out at the first signature.
        let vote = token.key("vote");
        let key = process.card().expect_key(&vote, Usage::Sign, &other, soon()).unwrap();
        let refused = sign(&mut queue, 1, key, soon()).unwrap_err();
        assert!(matches!(refused, Error::CardChanged { .. }), "{refused}");
        let refused = process.card().expect_key(&vote, Usage::Sign, &other, soon()).unwrap_err();
        assert!(matches!(refused, Error::CardChanged { .. }), "{refused}");
        let candidate =
            Candidate { name: "card-0".to_owned(), line: Box::new(queue), key, gate: None };
        let mut signers = Signers::new(vec![candidate], Duration::from_secs(60));
        signers.ask(&digest(2), monotonic());
        let refused = loop {
            if let Some(result) = signers.poll(monotonic()) {
                break result.unwrap_err();
            }
            let mut parker = Parker::new().unwrap();
            parker.park(signers.deadline(), |fds| signers.poll_fds(fds)).unwrap();
        };
        assert_eq!(refused.class(), ErrorClass::Permanent, "{refused}");
    });
}

#[test]
fn a_pin_that_is_refused_in_this_process_is_tried_once() {
    let test = "in_process::a_pin_that_is_refused_in_this_process_is_tried_once";
    with_each(test, &["native"], |token| {
        let config = token.config("");
        std::fs::write(path_of(&token.folder, "card.pin"), b"00000000").unwrap();
        let (process, _queue) = InProcess::start(config, software_provider().verifier).unwrap();
        for _ in 0..12 {
            let refused = process.card().wait_ready(soon()).unwrap_err();
            assert!(matches!(refused, Error::PinRefused { .. }), "{refused}");
        }
        // Ten attempts lock the token.
        std::fs::write(path_of(&token.folder, "card.pin"), super::token::PIN).unwrap();
        let card = token.card("").unwrap();
        card.warm_up(1, soon()).unwrap();
    });
}

/// The profile of the token, with sessions kept alive every second.
fn with_keep_alive(token: &Token) -> &'static str {
    let mut profile: Profile = token.profile();
    profile.quirks.keep_alive_seconds = 1;
    std::fs::write(path_of(&token.folder, "alive.toml"), profile.to_toml().unwrap()).unwrap();
    "profile_file = \"alive.toml\"\n"
}

#[test]
fn sessions_that_a_card_ends_when_idle_are_kept_alive_or_replaced() {
    let test = "in_process::sessions_that_a_card_ends_when_idle_are_kept_alive_or_replaced";
    with_each(test, &["native"], |token| {
        token.make_keys();
        for is_kept in [true, false] {
            let more = if is_kept { with_keep_alive(token) } else { "" };
            // From here on the token remembers when a session was used.
            let faults: Faults = token.faults();
            faults.set(Fault::Idle { millis: 2_000 });
            let (process, mut queue) = start(token, more);
            let card = Arc::clone(process.card());
            card.wait_ready(soon()).unwrap();
            let key = card.open_key(&token.key("vote"), Usage::Sign, soon()).unwrap();
            let public = card.public_key(key).unwrap();
            // The worker looks after idle sessions by itself; nobody asks the card for anything.
            pause(5_000);
            let signature = sign(&mut queue, 7, key, soon()).unwrap();
            verifies(&public, 7, &signature);
            let report = report(&*card);
            let lost_count = report.sessions_lost_total;
            assert_eq!(lost_count == 0, is_kept, "{lost_count} sessions lost");
            assert!(!is_kept || report.sessions_open == 4, "none was given up");
            faults.clear();
        }
    });
}
