//! Seeded choices for tests that try many cases: the same on every machine unless asked otherwise.
//!
//! `HUFU_SEED=N` begins elsewhere, `HUFU_SEED=random` at a place that is printed;
//! `HUFU_CASES_FACTOR=N` tries N times as many cases (`make fuzz`).

use std::env;

/// Where the cases of all tests begin.
const SEED: u64 = 0x6875_6675;

/// The numbers of the cases to try, each a seed of its own; printed so that a failure can be
/// repeated.
///
/// # Panics
/// If the environment asks for something that is no number.
#[must_use]
pub fn cases(count: u64) -> std::ops::Range<u64> {
    let factor = env::var("HUFU_CASES_FACTOR").map_or(1, |text| text.parse().unwrap());
    let first = match env::var("HUFU_SEED") {
        Err(_) => SEED,
        Ok(text) if text == "random" => {
            let mut bytes = [0; 4];
            hufu_crypto::entropy::fill(&mut bytes).unwrap();
            u64::from(u32::from_le_bytes(bytes)) << 24
        }
        Ok(text) => text.parse().unwrap(),
    };
    eprintln_seed(first);
    first..first + count * factor
}

#[allow(clippy::print_stderr, reason = "the test's output is where the seed is looked for")]
fn eprintln_seed(first: u64) {
    eprintln!("repeat with HUFU_SEED={first}");
}

/// A stream of numbers from a seed (SplitMix64); good enough to choose cases with, and nothing
/// else.
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    /// The stream of one case.
    #[must_use]
    pub const fn new(case: u64) -> Self {
        Self(case)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`.
    ///
    /// # Panics
    /// If `end` is zero.
    pub const fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "there is no number below zero");
        (self.number() % end as u64) as usize
    }

    /// The next bytes.
    pub fn bytes<const SIZE: usize>(&mut self) -> [u8; SIZE] {
        core::array::from_fn(|_| self.number() as u8)
    }
}
