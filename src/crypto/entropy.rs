//! The only place where hufu asks the operating system for randomness.
//!
//! ```text
//! getrandom(2) --> Entropy --> Drbg (one for each owner) --> keys, nonces
//! ```
//!
//! Everything random in the product (keys, nonces, identifiers) starts here, so that the simulator
//! can stand in with a seed and a reviewer has one file to read.

use std::sync::Arc;

use crate::Error;

/// A source of seeds: the operating system, or what stands in for it in a simulation.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with fresh randomness.
    ///
    /// # Errors
    /// [`Error::Entropy`] when there is none; the caller must not go on with the bytes.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Error>;
}

/// The operating system's random source.
struct System;

impl Entropy for System {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
        fill(bytes)
    }
}

/// The operating system's random source as a value of the seam.
#[must_use]
pub fn system() -> Arc<dyn Entropy> {
    Arc::new(System)
}

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
        system().fill(&mut second).unwrap();
        assert_ne!(first, second);
        assert_ne!(first, [0; 32]);
    }
}
