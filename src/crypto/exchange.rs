//! SM2 key exchange with confirmation (GB/T 32918.3-2016 6.1).
//!
//! ```text
//! A  Initiator::start ----------- R_A ----------> B  Responder::answer
//! A  Initiator::finish <------- R_B, S_B -------- B
//! A  has the key ---------------- S_A ----------> B  Responder::confirm: has the key
//! ```
//!
//! Each step takes the state before it, so none can be left out, done twice or out of order, and
//! nobody holds a key before the other side has shown that it has the same one. Constant time in
//! private keys and private scalars; those are overwritten when they are dropped, and what hashing
//! leaves of them on the stack after every step.

mod example;
#[cfg(test)]
mod tests;

use hufu_kernels::{Backend, secret};
use zeroize::Zeroizing;

use crate::digest::{Digest, Sm3};
use crate::kdf;
use crate::keys::PublicKey;
use crate::{Drbg, Error, SoftwareSigner};
use hufu_kernels::sm2::{add_points, multiply, multiply_base, scalar_multiply_add};

/// Bytes of an agreed key at most.
pub const AGREED_KEY_SIZE_MAX: usize = 1_024;

/// Draws of a private scalar before giving up; one does not do with a probability of 2^-32.
const DRAWS_MAX: u32 = 128;

/// One side as the other knows it.
#[derive(Clone, Copy, Debug)]
pub struct Party<'a> {
    /// Its public key, not known to be on the curve.
    pub key: &'a PublicKey,
    /// ZA of its identity with that key ([`crate::identity_digest`]).
    pub identity: &'a Digest,
}

/// What B sends back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// R_B.
    pub point: PublicKey,
    /// S_B: B has the key.
    pub confirmation: Digest,
}

/// The key both sides hold, overwritten when it is dropped.
pub type AgreedKey = Zeroizing<Vec<u8>>;

/// A after its first message.
pub struct Initiator {
    backend: Backend,
    own: Own,
}

/// B after its answer: holds the key and gives it out once A has confirmed.
pub struct Responder {
    key: AgreedKey,
    expected: Digest,
}

/// What a side holds of its own.
struct Own {
    /// t = d + x' r mod n (steps A5, B4).
    secret: Zeroizing<[u8; 32]>,
    point: PublicKey,
    identity: Digest,
}

impl Initiator {
    /// Steps A1 to A3: the state of A, and R_A for B.
    ///
    /// # Errors
    /// Those of the generator.
    pub fn start(
        backend: Backend,
        generator: &mut Drbg,
        private: &SoftwareSigner,
        identity: &Digest,
    ) -> Result<(Self, PublicKey), Error> {
        let own = Own::draw(backend, generator, private, identity)?;
        let point = own.point;
        Ok((Self { backend, own }, point))
    }

    /// Steps A4 to A10: the key of `size` bytes, and S_A for B.
    ///
    /// # Errors
    /// [`Error::PublicKeyInvalid`] if B's key or R_B is no point of the curve or they cancel out,
    /// [`Error::ExchangeRefused`] if S_B is wrong, [`Error::AgreedKeySize`].
    pub fn finish(
        self,
        peer: Party<'_>,
        answer: &Answer,
        size: usize,
    ) -> Result<(AgreedKey, Digest), Error> {
        let shared = self.own.shared(self.backend, peer, &answer.point)?;
        let sides = Sides {
            identities: [&self.own.identity, peer.identity],
            points: [&self.own.point, &answer.point],
        };
        let agreed = sides.agree(self.backend, &shared, size);
        secret::wipe_stack();
        let agreed = agreed?;
        // Step A9.
        if !kdf::equal(&agreed.from_b.0, &answer.confirmation.0) {
            return Err(Error::ExchangeRefused);
        }
        Ok((agreed.key, agreed.from_a))
    }
}

impl Responder {
    /// Steps B1 to B8: the state of B, and the answer for A; the key will have `size` bytes.
    ///
    /// # Errors
    /// [`Error::PublicKeyInvalid`] if A's key or R_A is no point of the curve or they cancel out,
    /// [`Error::AgreedKeySize`], and those of the generator.
    pub fn answer(
        backend: Backend,
        generator: &mut Drbg,
        private: &SoftwareSigner,
        identity: &Digest,
        peer: Party<'_>,
        point: &PublicKey,
        size: usize,
    ) -> Result<(Self, Answer), Error> {
        let own = Own::draw(backend, generator, private, identity)?;
        own.answer(backend, peer, point, size)
    }

    /// Step B10: the key, now that A has shown that it has it.
    ///
    /// # Errors
    /// [`Error::ExchangeRefused`] if S_A is wrong.
    pub fn confirm(self, confirmation: &Digest) -> Result<AgreedKey, Error> {
        if kdf::equal(&self.expected.0, &confirmation.0) {
            Ok(self.key)
        } else {
            Err(Error::ExchangeRefused)
        }
    }
}

impl Own {
    fn draw(
        backend: Backend,
        generator: &mut Drbg,
        private: &SoftwareSigner,
        identity: &Digest,
    ) -> Result<Self, Error> {
        let private_bytes = private.private_bytes();
        for _ in 0..DRAWS_MAX {
            let scalar = generator.nonce(&private_bytes, &identity.0)?;
            let own = Self::with(backend, &private_bytes, identity, &scalar);
            secret::wipe_stack();
            if let Some(own) = own {
                return Ok(own);
            }
        }
        Err(Error::NoScalar)
    }

    /// Steps A2, A4 and A5 (B2 to B4) with the private scalar given; `None` if it does not do.
    /// Leaves copies on the stack, which the caller overwrites.
    #[inline(never)]
    fn with(
        backend: Backend,
        private: &[u8; 32],
        identity: &Digest,
        scalar: &[u8; 32],
    ) -> Option<Self> {
        let point = PublicKey(multiply_base(backend, scalar)?);
        let secret = Zeroizing::new(scalar_multiply_add(&reduced_x(&point), scalar, private)?);
        Some(Self { secret, point, identity: *identity })
    }

    /// Steps A6 and A7 (B5 and B6): U = [t](P + [x']R), which V of the other side equals; h is 1.
    /// Leaves copies on the stack, which the caller overwrites.
    #[inline(never)]
    fn shared(
        &self,
        backend: Backend,
        peer: Party<'_>,
        point: &PublicKey,
    ) -> Result<Zeroizing<[u8; 64]>, Error> {
        let sum = multiply(backend, &reduced_x(point), &point.0)
            .and_then(|multiple| add_points(&peer.key.0, &multiple));
        // A sum at infinity would make a key that everyone knows.
        let shared = sum.and_then(|sum| multiply(backend, &self.secret, &sum));
        shared.map(Zeroizing::new).ok_or(Error::PublicKeyInvalid)
    }

    fn answer(
        self,
        backend: Backend,
        peer: Party<'_>,
        point: &PublicKey,
        size: usize,
    ) -> Result<(Responder, Answer), Error> {
        let shared = self.shared(backend, peer, point)?;
        let sides =
            Sides { identities: [peer.identity, &self.identity], points: [point, &self.point] };
        let agreed = sides.agree(backend, &shared, size);
        secret::wipe_stack();
        let agreed = agreed?;
        let answer = Answer { point: self.point, confirmation: agreed.from_b };
        Ok((Responder { key: agreed.key, expected: agreed.from_a }, answer))
    }
}

/// [d]P of one's own d and the other side's P: x || y, the secret that both can compute. Alone it
/// proves nothing: whoever needs to know the other side takes the exchange above. Constant time.
///
/// # Errors
/// [`Error::PublicKeyInvalid`] if P is no point of the curve.
pub fn diffie_hellman(
    backend: Backend,
    private: &SoftwareSigner,
    peer: &PublicKey,
) -> Result<Zeroizing<[u8; 64]>, Error> {
    let shared = shared_with(backend, private, peer);
    secret::wipe_stack();
    shared.ok_or(Error::PublicKeyInvalid)
}

/// Leaves copies on the stack, which the caller overwrites.
#[inline(never)]
fn shared_with(
    backend: Backend,
    private: &SoftwareSigner,
    peer: &PublicKey,
) -> Option<Zeroizing<[u8; 64]>> {
    multiply(backend, &private.private_bytes(), &peer.0).map(Zeroizing::new)
}

/// x' = 2^127 + (x mod 2^127) of a point (step A4: w = 127 for n of 256 bits).
fn reduced_x(point: &PublicKey) -> [u8; 32] {
    let mut number = [0; 32];
    number[16..].copy_from_slice(&point.0[16..32]);
    number[16] |= 0x80;
    number
}

/// What both sides hash, A first.
struct Sides<'a> {
    identities: [&'a Digest; 2],
    points: [&'a PublicKey; 2],
}

/// What both sides have when all went well.
struct Agreed {
    key: AgreedKey,
    /// S_B, which A computes as S_1.
    from_b: Digest,
    /// S_A, which B computes as S_2.
    from_a: Digest,
}

impl Sides<'_> {
    /// Steps A8 to A10 (B7 to B10) without the comparisons. Leaves copies on the stack, which the
    /// caller overwrites.
    #[inline(never)]
    fn agree(&self, backend: Backend, shared: &[u8; 64], size: usize) -> Result<Agreed, Error> {
        if size == 0 || size > AGREED_KEY_SIZE_MAX {
            return Err(Error::AgreedKeySize { bytes: size });
        }
        let [za, zb] = self.identities.map(|digest| digest.0);
        let mut key = Zeroizing::new(vec![0; size]);
        kdf::derive(backend, shared, &[za, zb].concat(), &mut key);
        let (x, y) = shared.split_at(32);
        let [a, b] = self.points.map(|point| point.0);
        let inner = Sm3::of(&[x, &za, &zb, &a, &b]);
        let confirmation = |tag: u8| Sm3::of(&[&[tag], y, &inner.0]);
        Ok(Agreed { key, from_b: confirmation(2), from_a: confirmation(3) })
    }
}

/// The example of the standard, both sides.
pub(crate) fn known_answer(backend: Backend) -> Result<(), ()> {
    example::meet(backend)
}
