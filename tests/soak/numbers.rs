//! Numbers that look random and follow from the number of a round (SplitMix64): the same round is
//! the same input on every machine.

use std::io::Write as _;

/// The numbers of the cases a test tries: `count` of them, `HUFU_CASES_FACTOR` times as many where
/// that is set (`make fuzz`), from `HUFU_SEED` on, which may be `random`. Printed, so that a
/// failure can be repeated.
///
/// # Panics
/// If the environment asks for something that is no number.
#[must_use]
pub fn cases(count: u64) -> std::ops::Range<u64> {
    let number = |name: &str, otherwise: u64| match std::env::var(name) {
        Err(_) => otherwise,
        Ok(text) if text == "random" => {
            let mut bytes = [0; 4];
            hufu_crypto::entropy::fill(&mut bytes).unwrap();
            u64::from(u32::from_le_bytes(bytes)) << 24
        }
        Ok(text) => text.parse().unwrap(),
    };
    let (first, factor) = (number("HUFU_SEED", 0), number("HUFU_CASES_FACTOR", 1));
    drop(writeln!(std::io::stderr(), "repeat with HUFU_SEED={first}"));
    first..first + count * factor
}

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The stream of a round.
    #[must_use]
    pub fn of_round(round: u64) -> Self {
        // Neighbouring rounds begin far from each other.
        let mut first = Self(round ^ 0x6875_6675_736f_616b);
        Self(first.next())
    }

    /// The next number.
    #[allow(clippy::should_implement_trait, reason = "a stream without an end is no iterator")]
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`, which is not 0.
    pub const fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `count` times.
    pub const fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of these.
    pub const fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// The next bytes.
    pub fn array<const SIZE: usize>(&mut self) -> [u8; SIZE] {
        core::array::from_fn(|_| self.next() as u8)
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(count).collect()
    }

    /// 32 bytes whose limbs are edges half of the time.
    pub fn edged(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for limb in bytes.as_chunks_mut::<8>().0 {
            let value = match self.below(10) {
                0 | 1 => 0,
                2 | 3 => u64::MAX,
                4 => 0xffff_ffff_0000_0000,
                5 => 0x0000_0000_ffff_ffff,
                6 => 1 << self.below(64),
                _ => self.next(),
            };
            *limb = value.to_be_bytes();
        }
        bytes
    }

    /// The items in another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
