//! One token behind its library, used by its profile: a [`Keystore`] in this process.
//!
//! ```text
//! card.toml -> library, token -> who is it? -> the profile that fits -> pool of sessions
//!   open_key -> found, judged, its mechanism proven by signatures that verify
//!   sign_sm2 -> session -> card -> read by the profile's form -> verified in software -> r || s
//! ```
//!
//! A handle names a key by what it is called, not by where it was: after a reload the key is looked
//! for again, and must have the public key that it had before.

pub mod identity;
pub mod keys;
pub mod operations;

pub use keys::{FoundKey, KeyClass, KeyName};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hufu_crypto::{Digest, OwnKey, PublicKey, Signature, Verifier};
use hufu_runtime::clock::{Nanos, monotonic};

use crate::config::CardConfig;
use crate::forms::Oddity;
use crate::keystore::{BULK_BYTES_MAX, SIGN_MANY_MAX, WRAPPED_BYTES_MAX};
use crate::pin::Pin;
use crate::pkcs11::{CallStyle, Session, Unload};
use crate::pool::{
    CardPool, CardReport, Handles, KEYS_MAX, KeyObjects, Metrics, Operation, PoolOptions,
    PoolStatus, TokenOptions, TokenSource,
};
use crate::probe;
use crate::profile::{Decrypt, LengthQuery, Profile, Sign};
use crate::{CardIdentity, Error, KeyHandle, KeyReference, Keystore, Usage};

/// One card.
pub struct Card {
    name: String,
    profile: Profile,
    pool: CardPool,
    verifier: Arc<dyn Verifier>,
    keys: RwLock<Vec<Arc<OpenKey>>>,
    /// Signatures that were read leniently, count, and the last oddity.
    oddities: Mutex<(u64, Option<Oddity>)>,
    /// When idle sessions were used last, nanoseconds.
    tended: AtomicU64,
}

/// A key that was found, judged and proven.
struct OpenKey {
    reference: KeyReference,
    usage: Usage,
    /// Of a pair: checks what it signs.
    own: Option<OwnKey>,
    sign: Option<Sign>,
    decrypt: Option<Decrypt>,
    wants_pin: bool,
}

impl Card {
    /// Loads the library, finds the token, chooses its profile and reads the PIN. Nobody has logged
    /// in yet; [`Card::warm_up`] does.
    ///
    /// The first card that is ever met under this configuration is written to its identity file;
    /// from then on it must be that one.
    ///
    /// # Errors
    /// What is wrong with library, token, profile or PIN; [`Error::CardChanged`].
    pub fn open(config: &CardConfig, verifier: Arc<dyn Verifier>) -> Result<Self, Error> {
        let mut token = TokenOptions {
            library: config.module.clone(),
            token: config.token.clone(),
            is_read_write: false,
            call_style: CallStyle::OneCall,
            unload: Unload::default(),
            sessions_max: None,
        };
        let found = TokenSource::new(token.clone(), None).look()?;
        let known = identity::known_or_first(&config.identity_file, &found)?;
        let profile = Profile::choose_or_fit(&config.profiles()?, &found)?;
        token.call_style = match profile.quirks.length_query {
            LengthQuery::Never => CallStyle::OneCall,
            LengthQuery::Always => CallStyle::LengthFirst,
        };
        if profile.quirks.keep_mapped {
            token.unload = Unload::KeepMapped;
        }
        let of_profile = usize::try_from(profile.quirks.sessions_max).unwrap_or(usize::MAX);
        token.sessions_max = (of_profile > 0).then_some(of_profile);
        let options = PoolOptions {
            sessions_max: usize::try_from(config.sessions_max).unwrap_or(1),
            waiting_max: usize::try_from(config.waiting_max).unwrap_or(1),
            lost_wait_max: config.deadline,
            failures_max: config.failures_max,
            rest: config.rest,
            classes: profile.own_classes(),
            identity: Some(known),
            ..PoolOptions::default()
        };
        let pool = CardPool::new(TokenSource::new(token, Some(config.pin.read()?)), options);
        let name = config.name.clone();
        let (keys, oddities) = (RwLock::default(), Mutex::default());
        let tended = AtomicU64::new(monotonic().as_nanos());
        Ok(Self { name, profile, pool, verifier, keys, oddities, tended })
    }

    /// Logs in and opens sessions until there are as many as may be, at most `count`.
    ///
    /// # Errors
    /// What keeps the card from being used.
    pub fn warm_up(&self, count: usize, deadline: Nanos) -> Result<(), Error> {
        self.pool.warm_up(count, deadline)
    }

    /// What the configuration calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The profile it is used by.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Which card it was when it was last reached, or is to be.
    #[must_use]
    pub fn known_identity(&self) -> Option<CardIdentity> {
        self.pool.known_identity()
    }

    /// What its pool is like now.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        self.pool.status()
    }

    /// What its pool counts.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        self.pool.metrics()
    }

    /// Signatures that were not encoded as they should be, count, and what the last had wrong.
    #[must_use]
    pub fn oddities(&self) -> (u64, Option<Oddity>) {
        *self.oddities.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, key: KeyHandle, usage: Usage) -> Result<Arc<OpenKey>, Error> {
        let found = self.known(key)?;
        if found.usage != usage {
            return Err(Error::KeyUnsuitable {
                key: found.reference.clone(),
                reason: format!("it was opened for {:?}, not for {usage:?}", found.usage),
            });
        }
        Ok(found)
    }

    fn known(&self, key: KeyHandle) -> Result<Arc<OpenKey>, Error> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let found = usize::try_from(key.0).ok().and_then(|index| keys.get(index));
        found.cloned().ok_or(Error::HandleUnknown(key.0))
    }

    fn number_of(&self, reference: &KeyReference, usage: Usage) -> Option<KeyHandle> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let place =
            keys.iter().position(|key| key.reference == *reference && key.usage == usage)?;
        u32::try_from(place).ok().map(KeyHandle)
    }

    /// The key on the token in this generation of the library; it is what it was.
    fn object(
        &self,
        session: &Session,
        handles: &Handles,
        handle: KeyHandle,
        key: &OpenKey,
    ) -> Result<FoundKey, Error> {
        let public = key.own.as_ref().map(|own| *own.public_key());
        let objects = handles.get_or_find(handle, || {
            let found = keys::find(session, &self.profile, &key.reference, key.usage)?;
            if found.public != public {
                let show =
                    |key: Option<PublicKey>| key.map_or_else(String::new, |key| key.to_string());
                let (before, after) = (show(public), show(found.public));
                return Err(Error::CardChanged { field: "the public key", before, after });
            }
            Ok(KeyObjects { key: found.object, public: None })
        })?;
        Ok(FoundKey { object: objects.key, public, wants_pin: key.wants_pin })
    }

    fn pin(&self) -> Option<&Pin> {
        self.pool.source().pin()
    }

    /// Finds the key and proves on the card that it does what it is for.
    fn prove(
        &self,
        session: &Session,
        reference: &KeyReference,
        usage: Usage,
    ) -> Result<OpenKey, Error> {
        let found = keys::find(session, &self.profile, reference, usage)?;
        let (mut sign, mut decrypt) = (None, None);
        match usage {
            Usage::Sign => {
                let verifier = &*self.verifier;
                sign = Some(probe::prove(session, &self.profile, &found, self.pin(), verifier)?);
            }
            Usage::Decrypt => {
                decrypt = Some(probe::prove_decrypt(session, &self.profile, &found, self.pin())?);
            }
            Usage::Wrap => {
                let mut secret = [0; 32];
                session.random(&mut secret)?;
                let mut wrapped = [0; WRAPPED_BYTES_MAX];
                // It unwraps what it wrapped, and compares.
                operations::wrap(session, &self.profile, reference, &found, &secret, &mut wrapped)?;
            }
        }
        let own = found.public.map(OwnKey::new);
        let (reference, wants_pin) = (reference.clone(), found.wants_pin);
        Ok(OpenKey { reference, usage, own, sign, decrypt, wants_pin })
    }

    fn note(&self, oddity: Option<Oddity>) {
        if oddity.is_some() {
            let mut oddities = self.oddities.lock().unwrap_or_else(PoisonError::into_inner);
            *oddities = (oddities.0 + 1, oddity);
        }
    }
}

impl Keystore for Card {
    fn identity(&self, deadline: Nanos) -> Result<CardIdentity, Error> {
        self.pool.identity(deadline)
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
        let key = self.pool.with_session_for(Operation::Key, deadline, |session, _| {
            self.prove(session, reference, usage)
        })?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= KEYS_MAX {
            let reason = format!("{KEYS_MAX} keys are open already");
            return Err(Error::KeyUnsuitable { key: reference.clone(), reason });
        }
        // Two threads may have proven it at once; either number is good.
        keys.push(Arc::new(key));
        Ok(KeyHandle(u32::try_from(keys.len() - 1).unwrap_or(u32::MAX)))
    }

    fn public_key(&self, key: KeyHandle) -> Result<PublicKey, Error> {
        let found = self.known(key)?;
        let reason = "a key that wraps has no public one".to_owned();
        let none = Error::KeyUnsuitable { key: found.reference.clone(), reason };
        found.own.as_ref().map(|own| *own.public_key()).ok_or(none)
    }

    fn sign_sm2(
        &self,
        key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        deadline: Nanos,
    ) -> Result<(), Error> {
        assert_eq!(digests.len(), signatures.len(), "one signature for each digest");
        assert!(digests.len() <= SIGN_MANY_MAX, "no more than the agent's slots hold");
        let open = self.opened(key, Usage::Sign)?;
        let (Some(sign), Some(own)) = (&open.sign, &open.own) else {
            return Err(Error::HandleUnknown(key.0));
        };
        self.pool.with_session_for(Operation::Sign, deadline, |session, handles| {
            let object = self.object(session, handles, key, &open)?;
            for (digest, signature) in digests.iter().zip(signatures.iter_mut()) {
                let made = operations::sign(session, sign, &object, self.pin(), digest)?;
                *signature = made.0;
                self.note(made.1);
            }
            own.check_many(digests, signatures).map_err(|_| Error::SignatureWrong)
        })
    }

    fn sm2_decrypt(
        &self,
        key: KeyHandle,
        ciphertext: &[u8],
        plaintext: &mut [u8],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        let open = self.opened(key, Usage::Decrypt)?;
        let Some(decrypt) = &open.decrypt else { return Err(Error::HandleUnknown(key.0)) };
        self.pool.with_session_for(Operation::Decrypt, deadline, |session, handles| {
            let object = self.object(session, handles, key, &open)?;
            operations::decrypt(session, decrypt, &object, self.pin(), ciphertext, plaintext)
        })
    }

    fn wrap(
        &self,
        key: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        let open = self.opened(key, Usage::Wrap)?;
        self.pool.with_session_for(Operation::Cipher, deadline, |session, handles| {
            let object = self.object(session, handles, key, &open)?;
            let (profile, name) = (&self.profile, &open.reference);
            operations::wrap(session, profile, name, &object, secret, wrapped)
        })
    }

    fn unwrap(
        &self,
        key: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        deadline: Nanos,
    ) -> Result<(), Error> {
        let open = self.opened(key, Usage::Wrap)?;
        self.pool.with_session_for(Operation::Cipher, deadline, |session, handles| {
            let object = self.object(session, handles, key, &open)?;
            let (profile, name) = (&self.profile, &open.reference);
            operations::unwrap(session, profile, name, &object, wrapped, secret)
        })
    }

    fn random(&self, bytes: &mut [u8], deadline: Nanos) -> Result<(), Error> {
        assert!(bytes.len() <= BULK_BYTES_MAX, "no more than the agent's slots hold");
        self.pool.with_session_for(Operation::Random, deadline, |session, _| session.random(bytes))
    }

    fn report(&self) -> Option<CardReport> {
        Some(CardReport::new(&self.pool.status(), self.pool.metrics(), self.oddities().0))
    }

    fn tend(&self) {
        let pause = Duration::from_secs(self.profile.quirks.keep_alive_seconds.into());
        if pause.is_zero() {
            return;
        }
        let (now, before) = (monotonic(), self.tended.load(Ordering::Relaxed));
        if now < Nanos::from_nanos(before).after(pause) {
            return;
        }
        let relaxed = Ordering::Relaxed;
        // One of the threads that ask at once does it.
        if self.tended.compare_exchange(before, now.as_nanos(), relaxed, relaxed).is_ok() {
            self.pool.keep_alive();
        }
    }
}

/// The moment `wait` from now.
#[must_use]
pub fn deadline_in(wait: Duration) -> Nanos {
    monotonic().after(wait)
}
