//! A card whose library runs in the node's own process, by configuration (`mode = "in-process"`).
//!
//! ```text
//! threads that may wait -- InProcessCard (a Keystore) -----------------------> Card
//! the one tile that must not -- CallQueue --ring--> worker, a thread of its own --^
//!                               `<-- ring, eventfd --'
//! ```
//!
//! It saves a process and some microseconds a call, and gives up what the agent is for: a crash of
//! the library ends the node, one that hangs holds the worker (and the end of the node) for as long
//! as it likes, and the library may read whatever the node may. The rules are the agent's: the
//! card is opened again with back-off while it is away, a permanent error is remembered and the
//! PIN tried no more, and a key must have the public key that is expected of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hufu_crypto::{Digest, PublicKey, Signature, Verifier};
use hufu_runtime::clock::{Nanos, monotonic};
use hufu_runtime::link::{Consumer, Producer, link};
use hufu_runtime::thread::{Group, Running, ThreadConfig, abort_process};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::{Parker, PollSet};

use crate::agent::{Event, Full, errors};
use crate::card::Card;
use crate::config::CardConfig;
use crate::group::Line;
use crate::keystore::WRAPPED_BYTES_MAX;
use crate::pool::CardReport;
use crate::{CardIdentity, Error, ErrorClass, KeyHandle, KeyReference, Keystore, Usage};

/// Calls of one [`CallQueue`] that may be under way at once, count.
const CALLS_COUNT_MAX: usize = 32;

/// Keys of one card at most, count.
const KEYS_COUNT_MAX: usize = 64;

/// Between two attempts to open a card that is away, at first and at most.
const OPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How long a card may take to open its sessions.
const OPEN_TIME: Duration = Duration::from_secs(30);

/// How often idle sessions are looked after.
const TEND_PAUSE: Duration = Duration::from_millis(250);

/// How long the worker may take to end before it is left behind.
const STOP_TIME: Duration = Duration::from_secs(4);

/// See the module.
pub struct InProcessCard {
    config: CardConfig,
    verifier: Arc<dyn Verifier>,
    opened: Mutex<Opened>,
    keys: Mutex<Vec<Key>>,
}

/// How far the card is.
enum Opened {
    /// Not opened, or away: why, when it is tried again, and the pause after that.
    Not(Option<Error>, Nanos, Duration),
    Yes(Arc<Card>),
    /// Trying again cannot help.
    Refused(Error),
}

/// A key as the configuration names it.
struct Key {
    reference: KeyReference,
    usage: Usage,
    /// What its public key must be.
    public: Option<PublicKey>,
    /// The card's own number, once the key was found.
    handle: Option<KeyHandle>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl InProcessCard {
    /// A card of this file. Nothing is loaded before it is first used or tended.
    #[must_use]
    pub fn new(config: CardConfig, verifier: Arc<dyn Verifier>) -> Self {
        let opened = Mutex::new(Opened::Not(None, Nanos::ZERO, OPEN_PAUSE.0));
        Self { config, verifier, opened, keys: Mutex::default() }
    }

    /// Waits until the card is open.
    ///
    /// # Errors
    /// Why it is not, when the deadline has passed, or at once if trying again cannot help.
    pub fn wait_ready(&self, deadline: Nanos) -> Result<(), Error> {
        let mut parker =
            Parker::new().map_err(|error| Error::Agent { reason: error.to_string() })?;
        loop {
            let error = match self.card() {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            let now = monotonic();
            if error.class() == ErrorClass::Permanent || now >= deadline {
                return Err(error);
            }
            let step = now.after(OPEN_PAUSE.0).min(deadline);
            let waited = parker.wait_until(Some(step), || false);
            waited.map_err(|error| Error::Agent { reason: error.to_string() })?;
        }
    }

    /// Which card it is, if it is open. Never waits.
    #[must_use]
    pub fn known_identity(&self) -> Option<CardIdentity> {
        match self.opened.try_lock().as_deref() {
            Ok(Opened::Yes(card)) => card.known_identity(),
            _ => None,
        }
    }

    /// A handle for a key that must have this public key; it is looked for when it is first used,
    /// and now if the card is open.
    ///
    /// # Errors
    /// [`Error::CardChanged`] where the key is another one, or what keeps it from being opened.
    pub fn expect_key(
        &self,
        key: &KeyReference,
        usage: Usage,
        public: &PublicKey,
        deadline: Nanos,
    ) -> Result<KeyHandle, Error> {
        let handle = self.add(key, usage, Some(*public))?;
        if matches!(&*locked(&self.opened), Opened::Yes(_)) {
            self.found(handle, deadline)?;
        }
        Ok(handle)
    }

    /// The card if it is open; opens it if that is due. One thread does, others wait for it.
    fn card(&self) -> Result<Arc<Card>, Error> {
        let mut opened = locked(&self.opened);
        match &*opened {
            Opened::Yes(card) => return Ok(Arc::clone(card)),
            Opened::Refused(error) => return Err(errors::again(error)),
            Opened::Not(Some(error), at, _) if monotonic() < *at => {
                return Err(errors::again(error));
            }
            Opened::Not(..) => {}
        }
        match self.open() {
            Ok(card) => {
                let card = Arc::new(card);
                *opened = Opened::Yes(Arc::clone(&card));
                Ok(card)
            }
            Err(error) => {
                let told = errors::again(&error);
                *opened = match &*opened {
                    Opened::Not(_, _, pause) if error.class() != ErrorClass::Permanent => {
                        let next = pause.saturating_mul(2).min(OPEN_PAUSE.1);
                        Opened::Not(Some(error), monotonic().after(*pause), next)
                    }
                    _ => Opened::Refused(error),
                };
                Err(told)
            }
        }
    }

    fn open(&self) -> Result<Card, Error> {
        let card = Card::open(&self.config, Arc::clone(&self.verifier))?;
        let count = usize::try_from(self.config.sessions_max).unwrap_or(1);
        card.warm_up(count, monotonic().after(OPEN_TIME))?;
        Ok(card)
    }

    /// Our number of a key, a new one if it has none.
    fn add(
        &self,
        reference: &KeyReference,
        usage: Usage,
        public: Option<PublicKey>,
    ) -> Result<KeyHandle, Error> {
        let mut keys = locked(&self.keys);
        let known = keys.iter().position(|key| key.reference == *reference && key.usage == usage);
        let place = match known {
            Some(place) => place,
            None if keys.len() >= KEYS_COUNT_MAX => {
                let reason = format!("{KEYS_COUNT_MAX} keys are open already");
                return Err(Error::KeyUnsuitable { key: reference.clone(), reason });
            }
            None => {
                keys.push(Key { reference: reference.clone(), usage, public, handle: None });
                keys.len() - 1
            }
        };
        if let (Some(key), Some(expected)) = (keys.get_mut(place), public) {
            match key.public {
                Some(before) if before != expected => return Err(changed(&before, &expected)),
                _ => key.public = Some(expected),
            }
        }
        drop(keys);
        Ok(KeyHandle(u32::try_from(place).unwrap_or(u32::MAX)))
    }

    /// The card and its own number of a key, which is looked for if it was not found yet.
    fn found(&self, key: KeyHandle, deadline: Nanos) -> Result<(Arc<Card>, KeyHandle), Error> {
        let index = usize::try_from(key.0).unwrap_or(usize::MAX);
        let known = {
            let keys = locked(&self.keys);
            let key = keys.get(index).ok_or(Error::HandleUnknown(key.0))?;
            (key.reference.clone(), key.usage, key.public, key.handle)
        };
        let card = self.card()?;
        let (reference, usage, expected, handle) = known;
        if let Some(handle) = handle {
            return Ok((card, handle));
        }
        let handle = card.open_key(&reference, usage, deadline)?;
        let found = if usage == Usage::Wrap { None } else { Some(card.public_key(handle)?) };
        if let (Some(expected), Some(found)) = (expected, found)
            && expected != found
        {
            return Err(changed(&expected, &found));
        }
        if let Some(key) = locked(&self.keys).get_mut(index) {
            (key.handle, key.public) = (Some(handle), found);
        }
        Ok((card, handle))
    }
}

fn changed(before: &PublicKey, after: &PublicKey) -> Error {
    let (before, after) = (before.to_string(), after.to_string());
    Error::CardChanged { field: "the public key", before, after }
}

impl Keystore for InProcessCard {
    fn identity(&self, deadline: Nanos) -> Result<CardIdentity, Error> {
        self.card()?.identity(deadline)
    }

    fn open_key(
        &self,
        key: &KeyReference,
        usage: Usage,
        deadline: Nanos,
    ) -> Result<KeyHandle, Error> {
        // A name that is wrong takes no place.
        self.card()?.open_key(key, usage, deadline)?;
        let handle = self.add(key, usage, None)?;
        self.found(handle, deadline).map(|_| handle)
    }

    fn public_key(&self, key: KeyHandle) -> Result<PublicKey, Error> {
        let keys = locked(&self.keys);
        let found = usize::try_from(key.0).ok().and_then(|index| keys.get(index));
        let found = found.ok_or(Error::HandleUnknown(key.0))?;
        found.public.ok_or_else(|| Error::KeyUnsuitable {
            key: found.reference.clone(),
            reason: "it has no public key".to_owned(),
        })
    }

    fn sign_sm2(
        &self,
        key: KeyHandle,
        digests: &[Digest],
        signatures: &mut [Signature],
        deadline: Nanos,
    ) -> Result<(), Error> {
        let (card, key) = self.found(key, deadline)?;
        card.sign_sm2(key, digests, signatures, deadline)
    }

    fn sm2_decrypt(
        &self,
        key: KeyHandle,
        ciphertext: &[u8],
        plaintext: &mut [u8],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        let (card, key) = self.found(key, deadline)?;
        card.sm2_decrypt(key, ciphertext, plaintext, deadline)
    }

    fn wrap(
        &self,
        key: KeyHandle,
        secret: &[u8; 32],
        wrapped: &mut [u8; WRAPPED_BYTES_MAX],
        deadline: Nanos,
    ) -> Result<usize, Error> {
        let (card, key) = self.found(key, deadline)?;
        card.wrap(key, secret, wrapped, deadline)
    }

    fn unwrap(
        &self,
        key: KeyHandle,
        wrapped: &[u8],
        secret: &mut [u8; 32],
        deadline: Nanos,
    ) -> Result<(), Error> {
        let (card, key) = self.found(key, deadline)?;
        card.unwrap(key, wrapped, secret, deadline)
    }

    fn random(&self, bytes: &mut [u8], deadline: Nanos) -> Result<(), Error> {
        self.card()?.random(bytes, deadline)
    }

    fn report(&self) -> Option<CardReport> {
        // While one thread opens the card there is nothing to tell, and nobody waits for it here.
        let card = match self.opened.try_lock().as_deref() {
            Ok(Opened::Yes(card)) => Arc::clone(card),
            _ => return None,
        };
        card.report()
    }

    /// Opens the card too, if it is away and that is due.
    fn tend(&self) {
        if let Ok(card) = self.card() {
            card.tend();
        }
    }
}

/// A signature that is asked for.
struct Job {
    ticket: u64,
    key: KeyHandle,
    digest: Digest,
    deadline: Nanos,
}

/// What became of it.
type Outcome = (u64, Result<Signature, Error>);

/// Signing without waiting, for the one tile that owns this; see [`Line`].
pub struct CallQueue {
    jobs: Producer<Job>,
    outcomes: Consumer<Outcome>,
    event: Arc<Event>,
    /// Tickets that nobody has heard of yet, with their deadlines.
    waiting: Vec<(u64, Nanos)>,
    /// Calls that the worker has or gets, those that were given up included.
    open_count: usize,
}

/// The thread that calls the library for a [`CallQueue`].
struct Worker {
    name: String,
    card: Arc<InProcessCard>,
    jobs: Consumer<Job>,
    outcomes: Producer<Outcome>,
    event: Arc<Event>,
    held: Option<Outcome>,
    is_stopping: bool,
}

/// A card of this process with the thread that signs with it; the thread ends with this.
pub struct InProcess {
    card: Arc<InProcessCard>,
    running: Option<Running>,
}

impl InProcess {
    /// Starts the thread, which opens the card and opens it again while it is away.
    ///
    /// # Errors
    /// If the host has no room for a thread.
    pub fn start(
        config: CardConfig,
        verifier: Arc<dyn Verifier>,
    ) -> Result<(Self, CallQueue), Error> {
        let host = |reason: String| Error::Agent { reason };
        let name = format!("hsm-{}", config.name);
        let card = Arc::new(InProcessCard::new(config, verifier));
        let (jobs, incoming) = link(&format!("{name}-calls"), CALLS_COUNT_MAX);
        let (outgoing, outcomes) = link(&format!("{name}-answers"), CALLS_COUNT_MAX);
        let event = Arc::new(Event::new().map_err(|error| host(error.to_string()))?);
        let mut thread = ThreadConfig::new(&name);
        thread.housekeeping = TEND_PAUSE;
        let mut group = Group::new(abort_process());
        let id = group.thread(thread).map_err(|error| host(error.to_string()))?;
        incoming.bind(&group.waker(id));
        let worker = Worker {
            name,
            card: Arc::clone(&card),
            jobs: incoming,
            outcomes: outgoing,
            event: Arc::clone(&event),
            held: None,
            is_stopping: false,
        };
        group.add(id, 0, Box::new(worker));
        let running = Some(group.start().map_err(|failure| host(failure.to_string()))?);
        Ok((
            Self { card, running },
            CallQueue { jobs, outcomes, event, waiting: Vec::new(), open_count: 0 },
        ))
    }

    /// The keystore.
    #[must_use]
    pub const fn card(&self) -> &Arc<InProcessCard> {
        &self.card
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.request_stop();
        let end = monotonic().after(STOP_TIME);
        let Ok(mut parker) = Parker::new() else { return };
        while !running.is_finished() && monotonic() < end {
            let step = monotonic().after(Duration::from_millis(5));
            if parker.wait_until(Some(step), || running.is_finished()).is_err() {
                break;
            }
        }
        if running.is_finished() {
            // The failure of a thread has been through the fatal handler already.
            drop(running.join());
        }
    }
}

impl Tile for Worker {
    fn name(&self) -> &str {
        &self.name
    }

    /// Waits inside the library: this thread is there for it.
    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        if let Some(outcome) = self.held.take() {
            self.hand_over(outcome);
            if self.held.is_some() {
                return Ok(Progress::PushedBack);
            }
        }
        let Some(job) = self.jobs.pop() else {
            return Ok(if self.is_stopping { Progress::Done } else { Progress::Idle });
        };
        let mut signature = [Signature([0; Signature::SIZE])];
        let result = if self.is_stopping || now >= job.deadline {
            Err(Error::Deadline { stage: "waiting for the card's thread" })
        } else {
            let digest = std::slice::from_ref(&job.digest);
            self.card.sign_sm2(job.key, digest, &mut signature, job.deadline)
        };
        let [signature] = signature;
        self.hand_over((job.ticket, result.map(|()| signature)));
        Ok(Progress::Busy)
    }

    fn housekeeping(&mut self, _now: Nanos) {
        self.card.tend();
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

impl Worker {
    fn hand_over(&mut self, outcome: Outcome) {
        self.held = self.outcomes.try_push(outcome).err();
        self.event.set();
    }
}

impl Line for CallQueue {
    fn submit(
        &mut self,
        ticket: u64,
        key: KeyHandle,
        digest: &Digest,
        deadline: Nanos,
    ) -> Result<(), Full> {
        // As many as both rings hold, so that the worker never waits for room.
        if self.open_count >= CALLS_COUNT_MAX {
            return Err(Full);
        }
        let job = Job { ticket, key, digest: *digest, deadline };
        self.jobs.try_push(job).map_err(|_| Full)?;
        self.open_count += 1;
        self.waiting.push((ticket, deadline));
        Ok(())
    }

    fn poll(&mut self, each: &mut dyn FnMut(u64, Result<Signature, Error>)) {
        self.event.clear();
        while let Some((ticket, result)) = self.outcomes.pop() {
            self.open_count = self.open_count.saturating_sub(1);
            let place = self.waiting.iter().position(|(waiting, _)| *waiting == ticket);
            // What was given up is answered already.
            if let Some(place) = place {
                self.waiting.swap_remove(place);
                each(ticket, result);
            }
        }
        let now = monotonic();
        // A library that hangs never answers.
        self.waiting.retain(|(ticket, deadline)| {
            let is_late = now >= *deadline;
            if is_late {
                each(*ticket, Err(Error::Deadline { stage: "inside the library" }));
            }
            !is_late
        });
    }

    fn deadline(&self) -> Option<Nanos> {
        self.waiting.iter().map(|(_, deadline)| *deadline).min()
    }

    fn open_count(&self) -> usize {
        self.open_count
    }

    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        fds.readable(self.event.descriptor());
    }
}
