//! GCM with key stream and hash side by side: the hash of 64 blocks is computed in the steps of a
//! pass over 64 counters, so that the multiplications run while the rounds wait for each other.
//!
//! ```text
//! seal:  stream 0 | stream 1 + hash of 0 | .. | stream of the rest and of J0 + hash of n-1 | rest
//! open:  stream 0 + hash of 0 | stream 1 + hash of 1 | ..  | stream of the rest and of J0  | rest
//! ```

use super::super::avx512::{Counters, GROUPS_MAX, LANES, PASS_SIZE, Schedule, add, streams};
use super::super::ghash::avx512::{Powers, Products};
use super::super::{BLOCK_SIZE, Block};

/// Blocks of a pass.
const PASS_BLOCKS: usize = PASS_SIZE / BLOCK_SIZE;

/// Encrypts `data` in place, or decrypts it with `OPEN`, and gives the tag. `sum` is the hash of
/// the associated data, `lengths` the block that is hashed last; the last 32 bits of the counter do
/// not wrap on the way from J0, `first`, to the last block.
#[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
pub(super) fn crypt<const OPEN: bool>(
    schedule: &Schedule,
    powers: &Powers,
    [first, lengths]: [&Block; 2],
    mut sum: u128,
    data: &mut [u8],
) -> Block {
    let mut counters = Counters::new(&super::next(first));
    let (passes, rest) = data.as_chunks_mut::<PASS_SIZE>();
    let mut sealed: Option<&[u8; PASS_SIZE]> = None;
    for pass in passes {
        let mut products = Products::new();
        let hashed = if OPEN { Some(&*pass) } else { sealed };
        let stream = streams::<GROUPS_MAX>(schedule, counters.take(), |step| {
            if let Some(hashed) = hashed {
                powers.step(&mut products, sum, hashed, step);
            }
        });
        if hashed.is_some() {
            sum = products.sum();
        }
        add(pass, &stream);
        sealed = Some(pass);
    }
    let tail =
        Tail { schedule, powers, counters, first, lengths, sealed: sealed.filter(|_| !OPEN) };
    match rest.len().div_ceil(BLOCK_SIZE) / LANES {
        0 => tail.crypt::<1, OPEN>(sum, rest),
        1 => tail.crypt::<2, OPEN>(sum, rest),
        2 | 3 => tail.crypt::<GROUPS_MAX, OPEN>(sum, rest),
        _ => tail.crypt::<5, OPEN>(sum, rest),
    }
}

/// What comes behind the whole passes.
struct Tail<'a> {
    schedule: &'a Schedule,
    powers: &'a Powers,
    counters: Counters,
    first: &'a Block,
    lengths: &'a Block,
    /// The last pass, when it is not hashed yet.
    sealed: Option<&'a [u8; PASS_SIZE]>,
}

impl Tail<'_> {
    /// The rest of the data, and the tag. The last lane of the last group has room for J0.
    #[target_feature(enable = "avx512f,avx512bw,gfni,vpclmulqdq")]
    #[inline]
    fn crypt<const GROUPS: usize, const OPEN: bool>(
        mut self,
        mut sum: u128,
        rest: &mut [u8],
    ) -> Block {
        let mut products = Products::new();
        let mut groups = self.counters.take::<GROUPS>();
        Counters::put_last(&mut groups, self.first);
        let stream = streams::<GROUPS>(self.schedule, groups, |step| {
            if let Some(sealed) = self.sealed {
                self.powers.step(&mut products, sum, sealed, step);
            }
        });
        if self.sealed.is_some() {
            sum = products.sum();
        }
        // The rest with zeros up to a whole block, and the lengths behind it.
        let mut hashed = [[0; BLOCK_SIZE]; PASS_BLOCKS + 1];
        let blocks = rest.len().div_ceil(BLOCK_SIZE);
        hashed[blocks] = *self.lengths;
        if OPEN {
            hashed.as_flattened_mut()[..rest.len()].copy_from_slice(rest);
        }
        add(rest, &stream);
        if !OPEN {
            hashed.as_flattened_mut()[..rest.len()].copy_from_slice(rest);
        }
        self.powers.update(&mut sum, &hashed[..=blocks]);
        let mut tag = sum.to_be_bytes();
        super::super::xor(&mut tag, &Counters::last_block(&stream));
        tag
    }
}
