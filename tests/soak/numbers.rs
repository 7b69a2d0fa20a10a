//! Numbers that look random and follow from the number of a round (SplitMix64): the same round is
//! the same input on every machine.

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
