//! The only place where hufu asks the operating system for randomness.
//!
//! Everything random in the product (keys, nonces, identifiers) starts here, so that the simulator
//! can stand in with a seed and a reviewer has one file to read.

use crate::Error;

/// Fills `bytes` from the operating system's random source (`getrandom(2)`).
///
/// # Errors
/// [`Error::Entropy`] when the operating system refuses; the caller must not go on with the bytes.
pub fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|cause| Error::Entropy { cause: cause.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        fill(&mut first).unwrap();
        fill(&mut second).unwrap();
        assert_ne!(first, second);
        assert_ne!(first, [0; 32]);
    }
}
