//! The random bit generator: SM3 Hash_DRBG of GM/T 0105-2021 (NIST SP 800-90A 10.1.1 with SM3).
//!
//! ```text
//! Entropy --seed, tested for health--> Drbg --fill----> keys, nonces of signatures
//!                                           '-nonce---> ephemeral scalars of SM2, hedged
//! ```
//!
//! **One generator has one owner.** It is neither `Clone` nor shared: everyone who draws has an
//! own one, seeded on its own and bound to a name, so no lock lies on a path that signs. hufu
//! never forks without running another program, which starts afresh; and should two processes or
//! a restored machine ever hold the same state, hedged nonces are safe all the same: they are
//! bound to the private key and the digest, so one nonce never serves two messages.
//!
//! The two norms differ in one place, the order of what a reseed hashes; it is GM/T 0105's here.
//! GM/T 0105 gives 32 bytes a request at most: longer draws are several requests. Its interval
//! between seeds is counted in requests ([`REQUESTS_PER_SEED`]), which is kept here, and in time
//! ([`SECONDS_PER_SEED`]), which is the owner's to keep with [`Drbg::reseed`]: this crate knows no
//! clock. A command that draws for less than that and ends needs none.
//!
//! Constant time: no branch and no address depends on the state. The state is overwritten when it
//! is dropped, and what hashing leaves on the stack after every draw.

mod health;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use hufu_kernels::{secret, sm3};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Error;
use crate::digest::{Digest, Sm3};
use crate::entropy::Entropy;

/// Bytes of V and of C: seedlen of a hash of 256 bits is 440 bits (SP 800-90A table 2).
const STATE_SIZE: usize = 55;

/// Requests between two seeds, count: the limit of GM/T 0105-2021 for its second level of
/// security, a thousandth of that for the first.
pub const REQUESTS_PER_SEED: u64 = 1_024;

/// Seconds between two seeds: the other limit of GM/T 0105-2021 for its second level of security, a
/// tenth of that for the first. Its keeping is the owner's.
pub const SECONDS_PER_SEED: u64 = 60;

/// Bytes of a seed: half of the entropy claimed for them ([`health`]) is the 256 bits of security
/// the generator has.
const SEED_SIZE: usize = 128;

/// A generator with its source of seeds, its state overwritten when it is dropped.
pub struct Drbg {
    source: Arc<dyn Entropy>,
    watch: health::Watch,
    state: State,
}

/// The working state (SP 800-90A 10.1.1.1).
#[derive(Zeroize, ZeroizeOnDrop)]
struct State {
    v: [u8; STATE_SIZE],
    c: [u8; STATE_SIZE],
    /// Requests served since the last seed, and one.
    requests: u64,
}

impl Drbg {
    /// A generator seeded from `source`; `name` says whose it is, so that two owners that got the
    /// same seed by mistake still draw different numbers (the personalisation string).
    ///
    /// # Errors
    /// [`Error::Entropy`] when the source has none, [`Error::EntropyUnhealthy`] when what it gives
    /// fails the tests at start.
    pub fn new(source: Arc<dyn Entropy>, name: &str) -> Result<Self, Error> {
        let mut watch = health::Watch::start(&*source)?;
        // The entropy input and the nonce of SP 800-90A 8.6.7 in one draw.
        let seed = draw(&*source, &mut watch)?;
        let state = State::seeded(&[&*seed, name.as_bytes()]);
        secret::wipe_stack();
        Ok(Self { source, watch, state })
    }

    /// Mixes a fresh seed into the state (GM/T 0105-2021, reseeding).
    ///
    /// # Errors
    /// As [`Drbg::new`]; the state stays as it was.
    pub fn reseed(&mut self) -> Result<(), Error> {
        let seed = draw(&*self.source, &mut self.watch)?;
        self.state = State::seeded(&[&[1], &*seed, &self.state.v]);
        secret::wipe_stack();
        Ok(())
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// As [`Drbg::reseed`], when a new seed is due; the bytes must not be used then.
    pub fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        for part in bytes.chunks_mut(sm3::DIGEST_SIZE) {
            let drawn = self.request(&[])?;
            part.copy_from_slice(&drawn[..part.len()]);
        }
        Ok(())
    }

    /// A secret number for one use of `private` with `digest`, hedged: bound to both, so that a
    /// state that comes twice gives the same number for the same use only, as RFC 6979 would. It
    /// may be out of the range of scalars (probability 2^-32): draw another then.
    ///
    /// # Errors
    /// As [`Drbg::fill`].
    pub fn nonce(
        &mut self,
        private: &[u8; 32],
        digest: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, Error> {
        self.request(&[private, digest])
    }

    /// 32 bytes, after a new seed if one is due.
    fn request(&mut self, additional: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>, Error> {
        if self.state.requests > REQUESTS_PER_SEED {
            self.reseed()?;
        }
        let drawn = self.state.generate(additional);
        secret::wipe_stack();
        Ok(drawn)
    }
}

/// A seed that has passed the tests of health.
fn draw(
    source: &dyn Entropy,
    watch: &mut health::Watch,
) -> Result<Zeroizing<[u8; SEED_SIZE]>, Error> {
    let mut seed = Zeroizing::new([0; SEED_SIZE]);
    source.fill(&mut *seed)?;
    watch.examine(&*seed)?;
    Ok(seed)
}

impl State {
    /// SP 800-90A 10.1.1.2 and 10.1.1.3, from what each of them hashes. Leaves copies on the stack.
    #[inline(never)]
    fn seeded(material: &[&[u8]]) -> Self {
        let mut state = Self { v: [0; STATE_SIZE], c: [0; STATE_SIZE], requests: 1 };
        derive(&mut state.v, material);
        derive(&mut state.c, &[&[0], &state.v]);
        state
    }

    /// SP 800-90A 10.1.1.4 for 256 bits. Leaves copies on the stack.
    #[inline(never)]
    fn generate(&mut self, additional: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        if !additional.is_empty() {
            // Step 2.
            let mixed = Zeroizing::new(hash(&[2], &self.v, additional));
            add(&mut self.v, &*mixed);
        }
        // Step 3: Hashgen makes 256 bits of one hash.
        let drawn = Zeroizing::new(hash(&[], &self.v, &[]));
        // Steps 4 to 6.
        let mixed = Zeroizing::new(hash(&[3], &self.v, &[]));
        add(&mut self.v, &*mixed);
        add(&mut self.v, &self.c);
        add(&mut self.v, &self.requests.to_be_bytes());
        self.requests += 1;
        drawn
    }
}

fn hash(tag: &[u8], state: &[u8], additional: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sm3::new();
    hasher.update(tag);
    hasher.update(state);
    for part in additional {
        hasher.update(part);
    }
    hasher.finish().0
}

/// Hash_df for 440 bits (SP 800-90A 10.3.1): counter || bits wanted || material.
fn derive(out: &mut [u8; STATE_SIZE], material: &[&[u8]]) {
    const BITS: u32 = 440;
    const { assert!(STATE_SIZE * 8 == 440, "the bits of what is derived") };
    for (counter, part) in (1_u8..).zip(out.chunks_mut(sm3::DIGEST_SIZE)) {
        let mut hasher = Sm3::new();
        hasher.update(&[counter]);
        hasher.update(&BITS.to_be_bytes());
        for piece in material {
            hasher.update(piece);
        }
        let digest = Zeroizing::new(hasher.finish().0);
        part.copy_from_slice(&digest[..part.len()]);
    }
}

/// `sum` += `number` mod 2^440, both big-endian; the time depends on their sizes only.
fn add(sum: &mut [u8; STATE_SIZE], number: &[u8]) {
    let mut carry = 0;
    let mut digits = number.iter().rev();
    for byte in sum.iter_mut().rev() {
        let total = u16::from(*byte) + u16::from(*digits.next().unwrap_or(&0)) + carry;
        let [high, low] = total.to_be_bytes();
        (*byte, carry) = (low, u16::from(high));
    }
}

/// The first draws of a generator with a known seed (see the tests for where they come from).
pub(crate) fn known_answer() -> Result<(), ()> {
    /// SM3 of a counter, block by block.
    struct Counted(std::sync::atomic::AtomicU32);
    impl Entropy for Counted {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
            for part in bytes.chunks_mut(32) {
                let number = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                part.copy_from_slice(&Sm3::of(&[&number.to_be_bytes()]).0[..part.len()]);
            }
            Ok(())
        }
    }
    const DRAWN: &str = "3fa378a6f0a1331c4aebf9ef9818136ff577637221a9aa9328b05079dd492191";
    const NONCE: &str = "6f7ca0ad75beb7418bdde9cd623bb72c5f4e99121d0ef84b84b14ac1f53e7c46";
    let mut drbg = Drbg::new(Arc::new(Counted(0.into())), "test").map_err(drop)?;
    let mut drawn = [0; 32];
    drbg.fill(&mut drawn).map_err(drop)?;
    let nonce = drbg.nonce(&[7; 32], &[9; 32]).map_err(drop)?;
    let is_right = Digest::from_hex(DRAWN) == Some(Digest(drawn))
        && Digest::from_hex(NONCE) == Some(Digest(*nonce));
    if is_right { Ok(()) } else { Err(()) }
}
