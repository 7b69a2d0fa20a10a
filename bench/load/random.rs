//! The generator's own random numbers: small, seeded and the same on every machine.
//!
//! SplitMix64 (Steele, Lea, Flood 2014) spreads a number; xoshiro256** (Blackman, Vigna 2018) draws
//! sequences. Nothing secret may come from here: keys of a run that matters are drawn by
//! `hufu_crypto::entropy`.

/// Spreads `value` over 64 bits: a bijection, so different values stay different.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A sequence of random numbers that its seed determines.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The sequence of this seed; no two seeds share one.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let second = mix(seed);
        let third = mix(second);
        Self { state: [seed, second, third, mix(third) | 1] }
    }

    /// The next 64 bits.
    pub const fn draw(&mut self) -> u64 {
        let [first, second, third, fourth] = self.state;
        let result = second.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (third_new, fourth_new) = (third ^ first, fourth ^ second);
        self.state = [
            first ^ fourth_new,
            second ^ third_new,
            third_new ^ (second << 17),
            fourth_new.rotate_left(45),
        ];
        result
    }

    /// A number below `bound`; biased by less than bound / 2^64, which no workload notices.
    ///
    /// # Panics
    /// If `bound` is 0: there is no number below it.
    #[must_use]
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a draw needs something to draw from");
        let wide = u128::from(self.draw()) * u128::from(bound);
        let result = u64::try_from(wide >> 64).unwrap_or(0);
        assert!(result < bound, "the product's high half is below the bound");
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_sequence() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            [random.draw(), random.draw(), random.draw()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(0)[1], draw(0)[2]);
    }

    /// First output of SplitMix64 seeded with 0, as its authors publish it.
    #[test]
    fn mixing_is_splitmix() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn draws_below_a_bound_reach_all_of_it_evenly() {
        let mut random = Random::new(7);
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(random.below(10)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(random.below(1), 0);
    }
}
