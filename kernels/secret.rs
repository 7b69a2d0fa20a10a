//! What code with secrets needs: choices by masks instead of branches, and wiping.
//!
//! A mask is a word that is all ones for yes and 0 for no. [`mask`] hides from the compiler which
//! of the two it is, so that it cannot turn the selection that follows into a branch.

/// All ones for 1, none for 0; any other bit is a mistake.
#[inline(always)]
pub(crate) fn mask(bit: u64) -> u64 {
    debug_assert!(bit <= 1);
    core::hint::black_box(bit).wrapping_neg()
}

/// 1 if the word is 0, else 0. Constant time.
#[inline(always)]
pub(crate) const fn is_zero(word: u64) -> u64 {
    // The highest bit of a number or of its negative is set unless it is 0.
    (word | word.wrapping_neg()) >> 63 ^ 1
}

/// 1 if all words are 0, else 0. Constant time.
#[inline(always)]
pub(crate) const fn are_zero(words: &[u64; 4]) -> u64 {
    is_zero(words[0] | words[1] | words[2] | words[3])
}

/// `set` where the mask is all ones, `unset` where it is 0. Constant time.
#[inline(always)]
pub(crate) const fn select(mask: u64, unset: u64, set: u64) -> u64 {
    unset ^ (mask & (unset ^ set))
}

/// [`select`] of four words.
#[inline(always)]
pub(crate) const fn select_four(mask: u64, unset: &[u64; 4], set: &[u64; 4]) -> [u64; 4] {
    [
        select(mask, unset[0], set[0]),
        select(mask, unset[1], set[1]),
        select(mask, unset[2], set[2]),
        select(mask, unset[3], set[3]),
    ]
}

/// Writes `nothing` over a secret, in a way the compiler may not leave out.
pub(crate) fn wipe<T: Copy>(secret: &mut T, nothing: T) {
    *secret = nothing;
    // What nobody reads again need not be written, unless somebody might read it.
    core::hint::black_box(secret);
}

/// Bytes of the stack that [`wipe_stack`] overwrites: more than the portable functions use.
const STACK_SIZE: usize = 16 * 1024;

/// Overwrites the part of the stack that the functions called just before have used, where the
/// compiler may have put any of their values.
///
/// The caller must have called what had the secrets as a function of its own, not inlined.
pub fn wipe_stack() {
    wipe_stack_deep(1);
}

/// [`wipe_stack`] for `count` times as much stack.
#[inline(never)]
pub(crate) fn wipe_stack_deep(count: usize) {
    let mut stack = [0_u64; STACK_SIZE / size_of::<u64>()];
    core::hint::black_box(&mut stack);
    if count > 1 {
        wipe_stack_deep(count - 1);
        // Used again, so that the next part could not take the place of this one.
        core::hint::black_box(&mut stack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_choose() {
        assert_eq!((mask(0), mask(1)), (0, u64::MAX));
        for word in [1, 2, 1 << 63, u64::MAX] {
            assert_eq!(is_zero(word), 0);
            assert_eq!(are_zero(&[0, 0, word, 0]), 0);
        }
        assert_eq!((is_zero(0), are_zero(&[0; 4])), (1, 1));
        assert_eq!(select_four(mask(0), &[1, 2, 3, 4], &[5, 6, 7, 8]), [1, 2, 3, 4]);
        assert_eq!(select_four(mask(1), &[1, 2, 3, 4], &[5, 6, 7, 8]), [5, 6, 7, 8]);
    }

    #[test]
    fn what_is_wiped_is_gone() {
        let mut secret = [7_u64; 4];
        wipe(&mut secret, [0; 4]);
        assert_eq!(secret, [0; 4]);
    }
}
