//! The waiters against a plain list.

use hufu_types::{Digest, Strength, TxId};
use proptest::prelude::*;

use super::{Hope, Waiter, Waiters};

#[derive(Clone, Debug)]
enum Step {
    Add { id: u8, until: u64, is_certified: bool, is_asked: bool },
    Deliver { id: u8, is_certified: bool },
    Take { id: u8, request: u64 },
    Learn { id: u8, request: u64, is_included: bool },
    Expire { height: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, 0..20_u64, any::<bool>(), any::<bool>()).prop_map(
            |(id, until, is_certified, is_asked)| Step::Add { id, until, is_certified, is_asked }
        ),
        3 => (0..6_u8, any::<bool>())
            .prop_map(|(id, is_certified)| Step::Deliver { id, is_certified }),
        1 => (0..6_u8, 0..120_u64).prop_map(|(id, request)| Step::Take { id, request }),
        2 => (0..6_u8, 0..120_u64, any::<bool>())
            .prop_map(|(id, request, is_included)| Step::Learn { id, request, is_included }),
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
                Step::Add { id, until, is_certified, is_asked } => {
                    let waiter = Waiter {
                        id: name(id),
                        request,
                        position: 0,
                        until,
                        strength: strength(is_certified),
                        with_proof: false,
                        is_submission: false,
                        hope: if is_asked { Hope::Asked } else { Hope::Open },
                    };
                    waiters.add(waiter);
                    model.push(waiter);
                }
                Step::Deliver { id, is_certified } => {
                    let (id, strength) = (name(id), strength(is_certified));
                    let mut found = Vec::new();
                    while waiters.peek(&id, strength).is_some() {
                        found.extend(waiters.take(&id, strength));
                    }
                    let goes = |one: &Waiter| one.id == id && one.strength <= strength;
                    let gone = split_off(&mut model, goes);
                    prop_assert_eq!(sorted(found), sorted(gone));
                    for waiter in model.iter_mut().filter(|waiter| waiter.id == id) {
                        waiter.hope = Hope::Included;
                    }
                }
                Step::Take { id, request } => {
                    let goes = |one: &Waiter| (one.id, one.request) == (name(id), request);
                    let gone = split_off(&mut model, goes);
                    prop_assert_eq!(waiters.take_wait(&name(id), request), gone.first().copied());
                }
                Step::Learn { id, request, is_included } => {
                    let hope = if is_included { Hope::Included } else { Hope::Open };
                    waiters.learn(&name(id), request, hope);
                    let key = (name(id), request, Hope::Asked);
                    for one in model.iter_mut().filter(|one| (one.id, one.request, one.hope) == key)
                    {
                        one.hope = hope;
                    }
                }
                Step::Expire { height } => {
                    let found = waiters.take_expired(height);
                    let goes = |one: &Waiter| one.hope == Hope::Open && one.until <= height;
                    prop_assert_eq!(sorted(found), sorted(split_off(&mut model, goes)));
                }
            }
            prop_assert_eq!(waiters.count(), model.len());
        }
    }
}
