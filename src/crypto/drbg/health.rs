//! Tests of what a source of entropy gives: GM/T 0105-2021 annex D, SP 800-90B 4.4.
//!
//! The operating system tests its noise itself; what can be told from outside is a source that is
//! stuck, broken or replaced by something that is none. The claim tested is modest, four bits of
//! entropy in a byte, so that a good source never fails in practice: what a test refuses by
//! mistake has a probability of 2^-64 (repetitions) and far less (proportion) for true randomness.

use zeroize::Zeroizing;

use crate::Error;
use crate::entropy::Entropy;

/// Bytes examined before anything is drawn (SP 800-90B 4.3 item 4).
const START_SIZE: usize = 1_024;

/// Equal bytes in a row that no source with four bits of entropy in a byte gives but with
/// probability 2^-30, count: 1 + 30 / 4, rounded up (SP 800-90B 4.4.1).
const REPETITIONS_MAX: u32 = 9;

/// Bytes of a window of the adaptive proportion test (SP 800-90B 4.4.2).
const WINDOW_SIZE: u32 = 512;

/// How often the first byte of a window comes in it, count: a binomial count of 512 with
/// probability 2^-4 reaches it with probability below 2^-30 (SP 800-90B 4.4.2).
const PROPORTION_MAX: u32 = 71;

/// The tests of one source, which go on over all it gives.
pub(super) struct Watch {
    last: Option<u8>,
    repetitions: u32,
    /// The byte counted in this window, how often it came, and how many bytes the window has seen.
    counted: u8,
    found: u32,
    seen: u32,
}

impl Watch {
    /// Examines the first bytes of a source, which are used for nothing else.
    pub(super) fn start(source: &dyn Entropy) -> Result<Self, Error> {
        let mut watch = Self { last: None, repetitions: 0, counted: 0, found: 0, seen: 0 };
        let mut first = Zeroizing::new([0; START_SIZE]);
        source.fill(&mut *first)?;
        watch.examine(&*first)?;
        Ok(watch)
    }

    /// Examines bytes on their way to the generator. After an error the watch stays suspicious:
    /// the test goes on where it stood.
    pub(super) fn examine(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for &byte in bytes {
            self.repetitions = if self.last == Some(byte) { self.repetitions + 1 } else { 1 };
            self.last = Some(byte);
            if self.repetitions >= REPETITIONS_MAX {
                return Err(Error::EntropyUnhealthy { test: "repetition count" });
            }
            if self.seen == 0 {
                (self.counted, self.found) = (byte, 0);
            }
            self.found += u32::from(byte == self.counted);
            self.seen = (self.seen + 1) % WINDOW_SIZE;
            if self.found >= PROPORTION_MAX {
                return Err(Error::EntropyUnhealthy { test: "adaptive proportion" });
            }
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Single bytes of seeds.
        zeroize::Zeroize::zeroize(&mut self.counted);
        zeroize::Zeroize::zeroize(&mut self.last);
    }
}
