//! The waiters against a plain list.

use hufu_types::{Digest, Strength, TxId};
use proptest::prelude::*;

use super::{Waiter, Waiters};

#[derive(Clone, Debug)]
enum Step {
    Add { id: u8, until: u64, is_certified: bool },
    Deliver { id: u8, is_certified: bool },
    Drop { id: u8 },
    Expire { height: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, 0..20_u64, any::<bool>())
            .prop_map(|(id, until, is_certified)| Step::Add { id, until, is_certified }),
        3 => (0..6_u8, any::<bool>())
            .prop_map(|(id, is_certified)| Step::Deliver { id, is_certified }),
        1 => (0..6_u8).prop_map(|id| Step::Drop { id }),
        1 => (0..20_u64).prop_map(|height| Step::Expire { height }),
    ]
}

fn strength(is_certified: bool) -> Strength {
    if is_certified { Strength::Certified } else { Strength::Committed }
}

fn name(id: u8) -> TxId {
    TxId(Digest([id; 32]))
}

fn sorted(waiters: impl IntoIterator<Item = Waiter>) -> Vec<u64> {
    let mut requests: Vec<u64> = waiters.into_iter().map(|waiter| waiter.request).collect();
    requests.sort_unstable();
    requests
}

fn split_off(model: &mut Vec<Waiter>, goes: impl Fn(&Waiter) -> bool) -> Vec<Waiter> {
    let (gone, left) = model.drain(..).partition(|waiter| goes(waiter));
    *model = left;
    gone
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn waiters_equal_a_plain_list(steps in proptest::collection::vec(steps(), 0..120)) {
        let (mut waiters, mut model) = (Waiters::default(), Vec::<Waiter>::new());
        for (request, step) in (1..).zip(steps) {
            match step {
                Step::Add { id, until, is_certified } => {
                    let waiter = Waiter {
                        id: name(id),
                        request,
                        position: 0,
                        until,
                        strength: strength(is_certified),
                        with_proof: false,
                        is_submission: true,
                        is_committed: false,
                    };
                    waiters.add(waiter);
                    model.push(waiter);
                }
                Step::Deliver { id, is_certified } => {
                    let (id, strength) = (name(id), strength(is_certified));
                    let mut found = Vec::new();
                    while waiters.peek(&id, strength).is_some() {
                        found.extend(waiters.take(&id, Some(strength)));
                    }
                    let goes = |one: &Waiter| one.id == id && one.strength <= strength;
                    let gone = split_off(&mut model, goes);
                    prop_assert_eq!(sorted(found), sorted(gone));
                    for waiter in model.iter_mut().filter(|waiter| waiter.id == id) {
                        waiter.is_committed = true;
                    }
                }
                Step::Drop { id } => {
                    let id = name(id);
                    let mut found = Vec::new();
                    while let Some(waiter) = waiters.take(&id, None) {
                        found.push(waiter);
                    }
                    let gone = split_off(&mut model, |waiter| waiter.id == id);
                    prop_assert_eq!(sorted(found), sorted(gone));
                }
                Step::Expire { height } => {
                    let found = waiters.take_expired(height);
                    let goes = |waiter: &Waiter| !waiter.is_committed && waiter.until <= height;
                    prop_assert_eq!(sorted(found), sorted(split_off(&mut model, goes)));
                }
            }
            prop_assert_eq!(waiters.count(), model.len());
        }
    }
}
