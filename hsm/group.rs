//! Several cards with the same keys, as one keystore.
//!
//! ```text
//! call --> the member with the fewest calls under way --> answer
//!              | away or busy: the next, within the deadline
//!              ` wrong in any way: out of the group until the node starts anew
//! ```
//!
//! A card joins with a key only after it has shown that it is the same key: of a pair, the public
//! key is compared; a secret key must unwrap what another member wrapped. One that was away when a
//! key was opened joins when it is first needed and back.
//!
//! [`Group`] is for threads that may wait, [`Signers`] for the tile that must not.

mod signers;

pub use signers::{Candidate, Change, Gate, Line, MemberCounts, Signers, Standing};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hufu_crypto::{Digest, PublicKey, Signature};
use hufu_runtime::clock::{Nanos, monotonic};
use zeroize::Zeroizing;

use crate::keystore::WRAPPED_BYTES_MAX;
use crate::{CardIdentity, Error, ErrorClass, KeyHandle, KeyReference, Keystore, Usage};

/// Most cards of one group, count.
pub const MEMBERS_MAX: usize = 16;

/// Several cards with the same keys.
pub struct Group {
    members: Vec<Member>,
    keys: RwLock<Vec<Arc<GroupKey>>>,
}

struct Member {
    name: String,
    store: Arc<dyn Keystore>,
    /// Calls under way, count.
    calls_count: AtomicUsize,
    /// Why it is out of the group.
    out: Mutex<Option<String>>,
}

struct GroupKey {
    reference: KeyReference,
    usage: Usage,
    proof: Proof,
    /// Its number in each member that has joined with it.
    handles: Vec<Mutex<Option<KeyHandle>>>,
}

/// What shows that a member's key is the same.
enum Proof {
    Public(PublicKey),
    /// A secret that the first member wrapped.
    Wrapped {
        secret: Zeroizing<[u8; 32]>,
        wrapped: Vec<u8>,
    },
}

/// A member as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// What its configuration calls it.
    pub name: String,
    /// Calls under way, count.
    pub calls_count: usize,
    /// Why it is out of the group.
    pub out: Option<String>,
}

impl Group {
    /// The cards of these names; none has joined yet.
    ///
    /// # Panics
    /// If there is none or more than [`MEMBERS_MAX`], which the configuration's check excludes.
    #[must_use]
    pub fn new(members: Vec<(String, Arc<dyn Keystore>)>) -> Self {
        assert!((1..=MEMBERS_MAX).contains(&members.len()), "a group has members");
        let member = |(name, store)| Member {
            name,
            store,
            calls_count: AtomicUsize::new(0),
            out: Mutex::new(None),
        };
        Self { members: members.into_iter().map(member).collect(), keys: RwLock::default() }
    }

    /// All members as they are now.
    #[must_use]
    pub fn members(&self) -> Vec<MemberStatus> {
        let status = |member: &Member| MemberStatus {
            name: member.name.clone(),
            calls_count: member.calls_count.load(Ordering::Relaxed),
            out: member.out().clone(),
        };
        self.members.iter().map(status).collect()
    }

    /// Those that are in, the one with the fewest calls under way first.
    fn in_order(&self) -> Vec<usize> {
        let is_in = |place: &usize| self.members[*place].out().is_none();
        let mut places: Vec<usize> = (0..self.members.len()).filter(is_in).collect();
        places.sort_by_key(|place| self.members[*place].calls_count.load(Ordering::Relaxed));
        places
    }

    fn key(&self, key: KeyHandle) -> Result<Arc<GroupKey>, Error> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let found = usize::try_from(key.0).ok().and_then(|index| keys.get(index));
        found.cloned().ok_or(Error::HandleUnknown(key.0))
    }

    /// Calls members in their order until one answers. Each but the last is given half of the time
    /// that is left, so that there is some for the next.
    fn call<T>(
        &self,
        deadline: Nanos,
        mut operation: impl FnMut(usize, Nanos) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut last = None;
        let order = self.in_order();
        for (tried, place) in order.iter().enumerate() {
            let now = monotonic();
            if tried > 0 && now >= deadline {
                break;
            }
            let half = deadline.duration_since(now) / 2;
            let until = if tried + 1 < order.len() { now.after(half) } else { deadline };
            let member = &self.members[*place];
            member.calls_count.fetch_add(1, Ordering::Relaxed);
            let result = operation(*place, until);
            member.calls_count.fetch_sub(1, Ordering::Relaxed);
            match result {
                Ok(value) => return Ok(value),
                // Not the card's fault: another would say the same.
                Err(error) if is_callers(&error) => return Err(error),
                Err(error) => {
                    if error.class() == ErrorClass::Permanent {
                        member.out().get_or_insert_with(|| error.to_string());
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    fn nobody(&self) -> Error {
        let reasons: Vec<String> = self
            .members()
            .into_iter()
            .filter_map(|member| Some(format!("{}: {}", member.name, member.out?)))
            .collect();
        let failures_count = u32::try_from(reasons.len()).unwrap_or(u32::MAX);
        Error::CircuitOpen { failures_count, last: reasons.join("; ") }
    }

    /// The number of the key in a member, which joins with it if it has not yet.
    fn joined(&self, key: &GroupKey, place: usize, deadline: Nanos) -> Result<KeyHandle, Error> {
        let mut handle = key.handles[place].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = *handle {
            return Ok(handle);
        }
        let store = &*self.members[place].store;
        let found = store.open_key(&key.reference, key.usage, deadline)?;
        let differs = |before: String, after: String| Error::CardChanged {
            field: "the group's key",
            before,
            after,
        };
        match &key.proof {
            Proof::Public(expected) => {
                let public = store.public_key(found)?;
                if public != *expected {
                    return Err(differs(expected.to_string(), public.to_string()));
                }
            }
            Proof::Wrapped { secret, wrapped } => {
                let mut opened = Zeroizing::new([0; 32]);
                let result = store.unwrap(found, wrapped, &mut opened, deadline);
                let is_refused = matches!(result, Err(Error::Refused { .. }));
                if is_refused || (result.is_ok() && *opened != **secret) {
                    return Err(differs(self.members[0].name.clone(), "another key".to_owned()));
                }
                result?;
            }
        }
        *handle = Some(found);
        Ok(found)
    }

    /// What others must show, from the first member that answers.
    fn proof(
        &self,
        reference: &KeyReference,
        usage: Usage,
        deadline: Nanos,
    ) -> Result<(Proof, usize, KeyHandle), Error> {
        self.call(deadline, |place, until| {
            let store = &*self.members[place].store;
            let handle = store.open_key(reference, usage, until)?;
            let proof = match usage {
                Usage::Sign | Usage::Decrypt => Proof::Public(store.public_key(handle)?),
                Usage::Wrap => {
                    let mut secret = Zeroizing::new([0; 32]);
                    store.random(&mut *secret, until)?;
                    let mut wrapped = [0; WRAPPED_BYTES_MAX];
                    let size = store.wrap(handle, &secret, &mut wrapped, until)?;
                    Proof::Wrapped { secret, wrapped: wrapped[..size].to_vec() }
                }
            };
            Ok((proof, place, handle))
        })
    }

    fn number_of(&self, reference: &KeyReference, usage: Usage) -> Option<KeyHandle> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let place =
            keys.iter().position(|key| key.reference == *reference && key.usage == usage)?;
        u32::try_from(place).ok().map(KeyHandle)
    }

    fn with_key<T>(
        &self,
        key: KeyHandle,
        deadline: Nanos,
        mut operation: impl FnMut(&dyn Keystore, KeyHandle, Nanos) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let key = self.key(key)?;
        self.call(deadline, |place, until| {
            let handle = self.joined(&key, place, until)?;
            operation(&*self.members[place].store, handle, until)
        })
    }
}

impl Member {
    fn out(&self) -> MutexGuard<'_, Option<String>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the caller's bytes are at fault, and not the card.
const fn is_callers(error: &Error) -> bool {
    matches!(error, Error::Refused { .. } | Error::HandleUnknown(_))
}

impl Keystore for Group {
    fn identity(&self, deadline: Nanos) -> Result<CardIdentity, Error> {
        self.call(deadline, |place, until| self.members[place].store.identity(until))
    }

    fn open_key(
        &self,
        reference: &KeyReference,
        usage: Usage,
        deadline: Nanos,
    ) -> Result<KeyHandle, Error> {
        if let Some(handle) = self.number_of(reference, usage) {
            return Ok(handle);
        }
        let (proof, first, handle) = self.proof(reference, usage, deadline)?;
        let handles =
            (0..self.members.len()).map(|place| Mutex::new((place == first).then_some(handle)));
        let key = Arc::new(GroupKey {
            reference: reference.clone(),
            usage,
            proof,
            handles: handles.collect(),
        });
        for place in self.in_order() {
            // One that is away joins later; one with another key never does.
            if let Err(error) = self.joined(&key, place, deadline)
                && error.class() == ErrorClass::Permanent
            {
                self.members[place].out().get_or_insert_with(|| error.to_string());
            }
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.push(key);
        Ok(KeyHandle(u32::try_from(keys.len() - 1).unwrap_or(u32::MAX)))
    }

    fn public_key(&self, key: KeyHandle) -> Result<PublicKey, Error> {
        let key = self.key(key)?;
        match &key.proof {
            Proof::Public(public) => Ok(*public),
            Proof::Wrapped { .. } => Err(Error::KeyUnsuitable {
                key: key.reference.clone(),
                reason: "a key that wraps has no public one".to_owned(),
            }),
        }
    }

    fn sign_sm2(
        &self,
        key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        deadline: Nanos,
    ) -> Result<(), Error> {
        self.with_key(key, deadline, |store, handle, until| {
            store.sign_sm2(handle, digests, signatures, until)
        })
    }

    fn sm2_decrypt(
        &self,
        key: KeyHandle,
        ciphertext: &[u8],
        plaintext: &mut [u8],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        self.with_key(key, deadline, |store, handle, until| {
            store.sm2_decrypt(handle, ciphertext, plaintext, until)
        })
    }

    fn wrap(
        &self,
        key: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        self.with_key(key, deadline, |store, handle, until| {
            store.wrap(handle, secret, wrapped, until)
        })
    }

    fn unwrap(
        &self,
        key: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        deadline: Nanos,
    ) -> Result<(), Error> {
        self.with_key(key, deadline, |store, handle, until| {
            store.unwrap(handle, wrapped, secret, until)
        })
    }

    fn random(&self, bytes: &mut [u8], deadline: Nanos) -> Result<(), Error> {
        self.call(deadline, |place, until| self.members[place].store.random(bytes, until))
    }
}

#[cfg(test)]
mod tests;
