//! The keys of a run: operator, clearing house and brokers.
//!
//! Real SM2 keys, derived from one seed so that a run can be repeated, and signing the same bytes
//! in each. Whoever knows the seed has
//! the keys: they are for chains that exist to be measured or shown.

use std::fmt;

use hufu_crypto::{
    Address, Backend, Digest, IDENTITY_DEFAULT, PublicKey, Signature, Signer as _, Sm3,
    SoftwareSigner, entropy, identity_digest, message_digest,
};

use crate::Error;
use crate::workload::Role;

/// Fewest brokers: a trade has two sides.
pub const ACCOUNTS_COUNT_MIN: u16 = 2;

/// Most brokers of one run.
pub const ACCOUNTS_COUNT_MAX: u16 = 10_000;

/// Separates these keys from anything else that is derived from the same seed.
const DERIVATION: &[u8] = b"hufu-load key 1";

/// One key with what is computed from it once.
pub struct Actor {
    signer: SoftwareSigner,
    identity: Digest,
    address: Address,
}

impl Actor {
    fn new(signer: SoftwareSigner) -> Self {
        let identity = identity_digest(IDENTITY_DEFAULT, signer.public_key());
        let address = signer.public_key().address();
        Self { signer, identity, address }
    }

    /// The actor's address.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// The actor's key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        self.signer.public_key()
    }

    /// What signs, and ZA: what it signs is SM3(ZA || unsigned bytes).
    pub(crate) const fn signing(&self) -> (&SoftwareSigner, &Digest) {
        (&self.signer, &self.identity)
    }

    /// Signs the unsigned bytes of a transaction. Constant time.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the signature could not be made.
    pub fn sign(&self, unsigned: &[u8]) -> Result<Signature, Error> {
        let digest = message_digest(&self.identity, unsigned);
        Ok(self.signer.sign_unverified(&digest)?)
    }
}

impl fmt::Debug for Actor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Actor").field(&self.address).finish()
    }
}

/// Everybody who signs in a run.
#[derive(Debug)]
pub struct Cast {
    operator: Actor,
    clearing_house: Actor,
    brokers: Vec<Actor>,
    backend: Backend,
}

impl Cast {
    /// The cast of this seed with `accounts` brokers.
    ///
    /// # Errors
    /// [`Error::AccountsCount`] outside of the limits above.
    pub fn derive(seed: &[u8; 32], accounts: u16) -> Result<Self, Error> {
        if !(ACCOUNTS_COUNT_MIN..=ACCOUNTS_COUNT_MAX).contains(&accounts) {
            return Err(Error::AccountsCount { found: accounts });
        }
        let brokers = (0..accounts).map(|index| derive_actor(seed, 2, index));
        Ok(Self {
            operator: derive_actor(seed, 0, 0)?,
            clearing_house: derive_actor(seed, 1, 0)?,
            brokers: brokers.collect::<Result<_, _>>()?,
            backend: Backend::best(),
        })
    }

    /// The cast on a back end of the caller's choice instead of the best: what it signs is the
    /// same.
    #[must_use]
    pub fn on(self, backend: Backend) -> Self {
        let on = |actor: Actor| Actor { signer: actor.signer.on(backend), ..actor };
        Self {
            operator: on(self.operator),
            clearing_house: on(self.clearing_house),
            brokers: self.brokers.into_iter().map(on).collect(),
            backend,
        }
    }

    /// What the cast computes with.
    #[must_use]
    pub const fn backend(&self) -> Backend {
        self.backend
    }

    /// A cast that nobody can guess: its seed is drawn from the operating system and forgotten.
    ///
    /// # Errors
    /// As [`Cast::derive`], and [`Error::Crypto`] without entropy.
    pub fn generate(accounts: u16) -> Result<Self, Error> {
        let mut seed = [0; 32];
        entropy::fill(&mut seed)?;
        Self::derive(&seed, accounts)
    }

    /// Who opens accounts and issues assets; the genesis must name this address for both.
    #[must_use]
    pub const fn operator(&self) -> &Actor {
        &self.operator
    }

    /// Who settles.
    #[must_use]
    pub const fn clearing_house(&self) -> &Actor {
        &self.clearing_house
    }

    /// All brokers.
    #[must_use]
    pub fn brokers(&self) -> &[Actor] {
        &self.brokers
    }

    /// Number of brokers.
    #[must_use]
    pub fn accounts_count(&self) -> u16 {
        u16::try_from(self.brokers.len()).unwrap_or(ACCOUNTS_COUNT_MAX)
    }

    /// The actor who plays a role.
    ///
    /// # Panics
    /// If the workload names a broker the cast does not have, which only our own mistake can bring
    /// about.
    #[must_use]
    pub fn actor(&self, role: Role) -> &Actor {
        match role {
            Role::Operator => &self.operator,
            Role::ClearingHouse => &self.clearing_house,
            Role::Broker(index) => {
                let index = usize::from(index);
                assert!(index < self.brokers.len(), "the workload and the cast have one size");
                &self.brokers[index]
            }
        }
    }
}

fn derive_actor(seed: &[u8; 32], part: u8, index: u16) -> Result<Actor, Error> {
    for attempt in 0..=u8::MAX {
        let scalar = Sm3::of(&[DERIVATION, seed, &[part], &index.to_le_bytes(), &[attempt]]);
        // A digest out of the scalar's range (probability 2^-32) is passed over, as a fresh draw
        // would be.
        if let Ok(signer) = SoftwareSigner::repeatable(scalar.as_bytes()) {
            return Ok(Actor::new(signer));
        }
    }
    Err(Error::Crypto(hufu_crypto::Error::PrivateKeyRange))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_actor_computes_on_the_back_end_of_the_cast() {
        let cast = || Cast::derive(&[1; 32], 3).unwrap();
        assert_eq!(cast().backend(), Backend::best());
        for backend in [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()] {
            let Some(backend) = backend else { continue };
            let cast = cast().on(backend);
            assert_eq!(cast.backend(), backend);
            let few = [cast.operator(), cast.clearing_house()];
            for actor in few.into_iter().chain(cast.brokers()) {
                assert_eq!(actor.signing().0.backend(), backend);
            }
        }
    }

    #[test]
    fn a_seed_determines_distinct_keys() {
        let (first, again) =
            (Cast::derive(&[1; 32], 5).unwrap(), Cast::derive(&[1; 32], 5).unwrap());
        let other = Cast::derive(&[2; 32], 5).unwrap();
        let all = |cast: &Cast| {
            let mut addresses = vec![*cast.operator().address(), *cast.clearing_house().address()];
            addresses.extend(cast.brokers().iter().map(|broker| *broker.address()));
            addresses
        };
        assert_eq!(all(&first), all(&again));
        let distinct: HashSet<Address> = all(&first).into_iter().chain(all(&other)).collect();
        assert_eq!(distinct.len(), 14);
        assert_ne!(
            all(&Cast::generate(2).unwrap()),
            all(&Cast::generate(2).unwrap()),
            "generated casts differ"
        );
    }

    #[test]
    fn a_run_needs_two_sides_and_has_a_limit() {
        for bad in [0, 1, ACCOUNTS_COUNT_MAX + 1] {
            assert!(matches!(Cast::derive(&[0; 32], bad), Err(Error::AccountsCount { .. })));
        }
    }

    #[test]
    fn signatures_verify() {
        let cast = Cast::derive(&[3; 32], 2).unwrap();
        let actor = cast.actor(Role::Broker(1));
        let signature = actor.sign(b"message").unwrap();
        let digest =
            message_digest(&identity_digest(IDENTITY_DEFAULT, actor.public_key()), b"message");
        let item =
            hufu_crypto::VerifyItem { key: actor.public_key(), digest, signature: &signature };
        let verdict = hufu_crypto::software_provider().verifier.verify(item);
        assert_eq!(verdict, hufu_crypto::Verdict::Valid);
    }
}
