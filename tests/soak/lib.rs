#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_lossless,
    reason = "used by tests only: what does not fit is to stop the test"
)]

pub mod cases;
pub mod ciphers;
pub mod decoders;
pub mod digests;
pub mod numbers;
pub mod record;
pub mod signatures;
pub mod timing;

pub use cases::{Case, Cases};
pub use numbers::Numbers;
pub use record::{Counts, Disagreement, Record};

use hufu_kernels::Backend;

/// Every back end that this CPU has; the first is portable.
#[must_use]
pub fn backends() -> Vec<Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten().collect()
}

/// One round of everything, from its number alone.
///
/// # Errors
/// The first disagreement.
pub fn round(number: u64, counts: &mut Counts) -> Result<(), Disagreement> {
    let mut numbers = Numbers::of_round(number);
    signatures::verify(&mut numbers, counts)?;
    signatures::sign(&mut numbers, counts)?;
    signatures::multiply(&mut numbers, counts)?;
    digests::compare(&mut numbers, counts)?;
    ciphers::compare(&mut numbers, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_back_ends_agree() {
        let mut counts = Counts::default();
        for number in numbers::cases(12) {
            if let Err(found) = round(number, &mut counts) {
                panic!("round {number}: {found}");
            }
        }
        assert!(counts.sum("portable") > 10_000 && counts.sum("rustcrypto") > 1_000, "{counts}");
    }

    #[test]
    fn a_planted_disagreement_is_seen() {
        let mut cases = Cases::new(Numbers::of_round(1)).take(64).collect::<Vec<_>>();
        let mut counts = Counts::default();
        let number = cases.iter().position(|case| case.expected == Some(true)).unwrap();
        signatures::against_expectation(&cases, &mut counts).unwrap();
        cases[number].signature[40] ^= 4;
        let found = signatures::against_expectation(&cases, &mut counts).unwrap_err();
        assert!(found.to_string().contains(cases[number].kind), "{found}");
    }

    #[test]
    fn every_kind_of_case_is_met() {
        let mut kinds = std::collections::BTreeMap::<&str, [usize; 3]>::new();
        for case in Cases::new(Numbers::of_round(2)).take(6_000) {
            let place = case.expected.map_or(2, usize::from);
            kinds.entry(case.kind).or_default()[place] += 1;
        }
        for kind in cases::KINDS {
            assert!(kinds.contains_key(kind), "{kind} of {kinds:?}");
        }
        assert_eq!(kinds.len(), cases::KINDS.len(), "{kinds:?}");
    }
}
