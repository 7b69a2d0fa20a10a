use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::*;
use crate::Rv;

/// One card as a test steers it: what was asked, and the answers that are to come.
#[derive(Default)]
struct Card {
    asked: Vec<(u64, Nanos)>,
    answers: VecDeque<(u64, Result<Signature, Error>)>,
    open_count: usize,
    is_full: bool,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Card>>);

impl Scripted {
    fn with<T>(&self, act: impl FnOnce(&mut Card) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tickets asked for since this was called last.
    fn asked(&self) -> Vec<u64> {
        self.with(|card| card.asked.drain(..).map(|(ticket, _)| ticket).collect())
    }

    fn answer(&self, ticket: u64, result: Result<Signature, Error>) {
        self.with(|card| {
            card.open_count = card.open_count.saturating_sub(1);
            card.answers.push_back((ticket, result));
        });
    }
}

impl Line for Scripted {
    fn submit(
        &mut self,
        ticket: u64,
        _: KeyHandle,
        digest: &Digest,
        deadline: Nanos,
    ) -> Result<(), Full> {
        assert_eq!(*digest, DIGEST);
        self.with(|card| {
            if card.is_full {
                return Err(Full);
            }
            card.asked.push((ticket, deadline));
            card.open_count += 1;
            Ok(())
        })
    }

    fn poll(&mut self, each: &mut dyn FnMut(u64, Result<Signature, Error>)) {
        let answers = self.with(|card| std::mem::take(&mut card.answers));
        answers.into_iter().for_each(|(ticket, result)| each(ticket, result));
    }

    fn deadline(&self) -> Option<Nanos> {
        None
    }

    fn open_count(&self) -> usize {
        self.with(|card| card.open_count)
    }

    fn poll_fds<'a>(&'a self, _: &mut PollSet<'_, 'a>) {}
}

const DIGEST: Digest = Digest([7; 32]);

fn at(millis: u64) -> Nanos {
    Nanos::from_nanos(millis * 1_000_000)
}

fn signature(byte: u8) -> Signature {
    Signature([byte; 64])
}

fn gone() -> Error {
    Error::Call { function: "C_Sign", rv: Rv(0x32), class: ErrorClass::TokenLost }
}

fn signers(cards: &[Scripted]) -> Signers {
    let candidate = |(number, card): (usize, &Scripted)| Candidate {
        name: format!("card-{number}"),
        line: Box::new(card.clone()),
        key: KeyHandle(0),
        gate: None,
    };
    let candidates = cards.iter().enumerate().map(candidate).collect();
    Signers::new(candidates, Duration::from_millis(1_000))
}

/// Cards `a` and `b`, named by whose turn it is with the next ticket.
fn two() -> (Signers, Scripted, Scripted) {
    let cards = [Scripted::default(), Scripted::default()];
    let signers = signers(&cards);
    let [a, b] = cards;
    (signers, b, a)
}

#[test]
fn cards_that_serve_are_asked_in_turn_and_the_one_with_less_to_do_first() {
    let (mut signers, a, b) = two();
    for ticket in 1..=4 {
        signers.ask(&DIGEST, at(0));
        let (turn, other) = if ticket % 2 == 1 { (&a, &b) } else { (&b, &a) };
        assert_eq!((turn.asked(), other.asked()), (vec![ticket], vec![]));
        assert!(signers.poll(at(1)).is_none());
        turn.answer(ticket, Ok(signature(1)));
        assert_eq!(signers.poll(at(1)).unwrap().unwrap(), signature(1));
        assert!(signers.poll(at(1)).is_none() && signers.deadline().is_none());
    }
    a.with(|card| card.open_count = 2);
    signers.ask(&DIGEST, at(0));
    assert_eq!((a.asked(), b.asked()), (vec![], vec![5]));
    let counts = signers.counts();
    assert_eq!((counts[0].signed_total(), counts[1].signed_total()), (2, 2));
    assert!(signers.take_changes().is_empty());
}

#[test]
fn a_card_that_fails_is_passed_over_at_once_and_comes_back_by_a_signature_nobody_needs() {
    let (mut signers, a, b) = two();
    signers.ask(&DIGEST, at(0));
    assert_eq!(a.asked(), [1]);
    a.answer(1, Err(gone()));
    assert!(signers.poll(at(1)).is_none());
    assert_eq!(b.asked(), [1], "within the same poll");
    b.answer(1, Ok(signature(2)));
    assert_eq!(signers.poll(at(2)).unwrap().unwrap(), signature(2));
    let changes = signers.take_changes();
    assert_eq!((changes.len(), changes[0].standing), (1, Standing::Away));
    assert_eq!(changes[0].card, "card-1");
    assert!(changes[0].reason.as_ref().unwrap().contains("CKR_DEVICE_REMOVED"));

    // Left alone for a while, then asked besides the other one.
    signers.ask(&DIGEST, at(50));
    assert_eq!((a.asked(), b.asked()), (vec![], vec![2]));
    b.answer(2, Ok(signature(3)));
    assert!(signers.poll(at(60)).unwrap().is_ok());
    signers.ask(&DIGEST, at(101));
    assert_eq!((a.asked(), b.asked()), (vec![3], vec![3]));
    b.answer(3, Ok(signature(4)));
    assert_eq!(signers.poll(at(102)).unwrap().unwrap(), signature(4));
    a.answer(3, Ok(signature(5)));
    assert!(signers.poll(at(103)).is_none(), "too late to be used");
    let changes = signers.take_changes();
    assert_eq!((changes.len(), changes[0].standing), (1, Standing::Serving));
    let counts = signers.counts();
    assert_eq!((counts[1].signed_total(), counts[1].failed_total()), (1, 1));
}

#[test]
fn a_card_that_is_silent_is_helped_by_another_and_its_answer_still_counts() {
    let (mut signers, a, b) = two();
    signers.ask(&DIGEST, at(0));
    assert_eq!(signers.deadline(), Some(at(200)));
    assert!(signers.poll(at(199)).is_none());
    assert!(b.asked().is_empty());
    assert!(signers.poll(at(200)).is_none());
    assert_eq!((a.asked(), b.asked()), (vec![1], vec![1]));
    assert_eq!(signers.deadline(), None, "nobody else is left to ask");
    a.answer(1, Ok(signature(9)));
    assert_eq!(signers.poll(at(600)).unwrap().unwrap(), signature(9));
    b.answer(1, Err(gone()));
    assert!(signers.poll(at(601)).is_none(), "what was given up fails nobody");
    assert_eq!(signers.counts()[0].standing(), Standing::Away);
}

#[test]
fn when_no_card_serves_all_that_are_away_are_asked_and_what_may_pass_is_told() {
    let (mut signers, a, b) = two();
    for (ticket, now) in [(1, 0), (2, 1)] {
        signers.ask(&DIGEST, at(now));
        a.answer(ticket, Err(gone()));
        assert!(signers.poll(at(now)).is_none() || ticket == 2);
        b.answer(ticket, Err(gone()));
        let refused = signers.poll(at(now)).unwrap().unwrap_err();
        assert_eq!(refused.class(), ErrorClass::TokenLost);
        assert_eq!((a.asked(), b.asked()), (vec![ticket], vec![ticket]));
    }
    signers.ask(&DIGEST, at(2));
    b.answer(3, Ok(signature(1)));
    assert!(signers.poll(at(2)).unwrap().is_ok());
    // One that is out for good does not hide that the other may come back.
    signers.ask(&DIGEST, at(3));
    b.answer(4, Err(gone()));
    assert!(signers.poll(at(3)).is_none());
    a.answer(4, Err(Error::SignatureWrong));
    let refused = signers.poll(at(3)).unwrap().unwrap_err();
    assert_eq!(refused.class(), ErrorClass::TokenLost, "{refused}");
}

#[test]
fn a_card_that_fails_for_good_is_out_and_the_last_ones_error_is_the_callers() {
    let (mut signers, a, b) = two();
    signers.ask(&DIGEST, at(0));
    a.answer(1, Err(Error::SignatureWrong));
    assert!(signers.poll(at(0)).is_none());
    b.answer(1, Ok(signature(1)));
    assert!(signers.poll(at(0)).unwrap().is_ok());
    assert_eq!(signers.counts()[1].standing(), Standing::Out);
    a.asked();
    for ticket in 2..6 {
        signers.ask(&DIGEST, at(ticket * 10_000));
        assert!(a.asked().is_empty(), "never again");
        b.answer(ticket, Ok(signature(1)));
        assert!(signers.poll(at(ticket * 10_000)).unwrap().is_ok());
    }
    signers.ask(&DIGEST, at(0));
    b.answer(6, Err(Error::SignatureWrong));
    assert!(matches!(signers.poll(at(0)), Some(Err(Error::SignatureWrong))));
    signers.ask(&DIGEST, at(0));
    assert_eq!(signers.deadline(), Some(Nanos::ZERO));
    assert!(matches!(signers.poll(at(0)), Some(Err(Error::SignatureWrong))));
}

#[test]
fn a_card_without_room_is_passed_over_and_alone_it_is_busy() {
    let (mut signers, a, b) = two();
    a.with(|card| card.is_full = true);
    signers.ask(&DIGEST, at(0));
    assert_eq!(b.asked(), [1]);
    let one = Scripted::default();
    let mut signers = super::tests::signers(std::slice::from_ref(&one));
    one.with(|card| card.is_full = true);
    signers.ask(&DIGEST, at(0));
    let refused = signers.poll(at(0)).unwrap().unwrap_err();
    assert!(matches!(refused, Error::QueueFull { .. }), "{refused}");
}

#[test]
fn a_card_that_is_away_at_the_start_joins_only_through_its_gate() {
    for outcome in [None, Some(Ok(())), Some(Err(Error::SignatureWrong))] {
        let (near, far) = (Scripted::default(), Scripted::default());
        let is_well = matches!(outcome, Some(Ok(())));
        let standing = match &outcome {
            None => Standing::Away,
            Some(Ok(())) => Standing::Serving,
            Some(Err(_)) => Standing::Out,
        };
        let mut outcome = Some(outcome);
        let gate: Gate = Box::new(move || outcome.take().unwrap_or(None));
        let candidate = |card: &Scripted, gate| Candidate {
            name: "card".to_owned(),
            line: Box::new(card.clone()),
            key: KeyHandle(0),
            gate,
        };
        let candidates = vec![candidate(&far, Some(gate)), candidate(&near, None)];
        let mut signers = Signers::new(candidates, Duration::from_secs(1));
        assert_eq!(signers.counts()[0].standing(), Standing::Away);
        signers.ask(&DIGEST, at(0));
        assert_eq!((near.asked(), far.asked().len()), (vec![1], usize::from(is_well)));
        if is_well {
            far.answer(1, Ok(signature(1)));
        }
        near.answer(1, Ok(signature(2)));
        assert!(signers.poll(at(1)).unwrap().is_ok());
        assert_eq!(signers.counts()[0].standing(), standing);
    }
}
