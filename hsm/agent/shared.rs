//! What client, submitter and supervisor of one agent have in common: the agent in service, the
//! keys that are open, and one call from there and back.
//!
//! The agent runs foreign code, so nothing it says is believed: answers are checked against their
//! requests, public keys against the curve and against those seen before, and every signature is
//! verified here once more. Whatever is wrong ends the agent.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use hufu_crypto::{
    Backend, Provider, PublicKey, Verdict, VerifyItem, is_curve_point, software_provider_with,
};
use hufu_runtime::clock::{self, Nanos};

use super::config::AgentConfig;
use super::pace::Pace;
use super::protocol::{self, AnswerHeader, Malformed, Op, RequestHeader};
use super::ring::{Body, Habit, NodeEnd, Nonsense, Place, Waited};
use super::status::AgentStatus;
use super::{errors, os};
use crate::error::Error;
use crate::keystore::{KeyHandle, KeyReference, Usage};

/// Keys that one agent's client keeps open at most, count.
pub const KEYS_COUNT_MAX: usize = 64;

/// What is said of an agent whose signature does not hold. The card's own are verified in the
/// agent, which answers `SignatureWrong`; one that went wrong after that is the agent's doing.
pub(crate) const UNVERIFIED: &str = "Sign: a signature that does not verify";

/// One life of the agent: its memory, and what it calls the keys.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) line: NodeEnd,
    /// How long its answers take.
    pace: Pace,
    /// Becomes readable when the agent has answered a polled call.
    pub(crate) waker: OwnedFd,
    /// By key handle of ours: the agent's own number, or why there is none.
    pub(crate) handles: Mutex<Vec<Result<u32, Error>>>,
    /// Calls that the tile polls for, and how often the agent woke it: never more than once each.
    pub(crate) asked_count: AtomicU64,
    pub(crate) woken_count: AtomicU64,
}

impl Generation {
    pub(crate) fn new(line: NodeEnd, waker: OwnedFd) -> Self {
        Self {
            line,
            pace: Pace::default(),
            waker,
            handles: Mutex::new(Vec::new()),
            asked_count: AtomicU64::new(0),
            woken_count: AtomicU64::new(0),
        }
    }

    pub(crate) fn handle(&self, key: KeyHandle) -> Result<u32, Error> {
        let handles = locked(&self.handles);
        match usize::try_from(key.0).ok().and_then(|index| handles.get(index)) {
            None => Err(Error::HandleUnknown(key.0)),
            Some(Ok(handle)) => Ok(*handle),
            Some(Err(error)) => Err(errors::again(error)),
        }
    }

    pub(crate) fn handles_count(&self) -> usize {
        locked(&self.handles).len()
    }

    pub(crate) fn add_handle(&self, handle: Result<u32, Error>) {
        locked(&self.handles).push(handle);
    }

    /// Why no answer will come.
    fn failure(&self) -> Error {
        if let Some(reason) = self.line.condemned() {
            return Error::AgentProtocol { reason: reason.to_owned() };
        }
        Error::Agent { reason: self.line.ended().unwrap_or("ended").to_owned() }
    }
}

/// A key as the configuration names it, and what its public key was when it was first opened.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) reference: KeyReference,
    pub(crate) usage: Usage,
    pub(crate) public: Option<PublicKey>,
}

#[derive(Debug)]
pub(crate) enum Service {
    Up(Arc<Generation>),
    Down(Error),
}

/// An eventfd of this process alone, with a flag that saves reading it when nothing came.
#[derive(Debug)]
pub(crate) struct Event {
    file: File,
    is_set: AtomicBool,
}

impl Event {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { file: os::event()?, is_set: AtomicBool::new(false) })
    }

    pub(crate) fn set(&self) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            // A counter at its maximum refuses, and is readable, which is all that counts.
            drop((&self.file).write(&1_u64.to_ne_bytes()));
        }
    }

    /// What was published before a [`Event::set`] is seen after this. The flag stays up between a
    /// setter's two steps, so that the descriptor is not left readable with the flag down.
    pub(crate) fn clear(&self) {
        let is_read = || (&self.file).read(&mut [0; 8]).is_ok();
        if self.is_set.load(Ordering::Relaxed) && is_read() {
            self.is_set.swap(false, Ordering::AcqRel);
        }
    }

    pub(crate) const fn descriptor(&self) -> &File {
        &self.file
    }
}

/// What client, submitter and supervisor have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: AgentConfig,
    pub(crate) service: Mutex<Service>,
    pub(crate) service_changed: Condvar,
    pub(crate) changes_count: AtomicU64,
    /// Locked before `service` and a generation's handles where more than one is needed.
    keys: Mutex<Vec<Key>>,
    provider: Provider,
    pub(crate) supervisor_event: Event,
    pub(crate) tile_event: Event,
    pub(crate) status: Mutex<AgentStatus>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(config: AgentConfig) -> Result<Arc<Self>, Error> {
        config.check()?;
        let host = |error: std::io::Error| Error::Agent { reason: error.to_string() };
        Ok(Arc::new(Self {
            config,
            service: Mutex::new(Service::Down(Error::Agent { reason: "not started".to_owned() })),
            service_changed: Condvar::new(),
            changes_count: AtomicU64::new(0),
            keys: Mutex::new(Vec::new()),
            provider: software_provider_with(Backend::best(), KEYS_COUNT_MAX),
            supervisor_event: Event::new().map_err(host)?,
            tile_event: Event::new().map_err(host)?,
            status: Mutex::new(AgentStatus::default()),
        }))
    }

    pub(crate) fn keys(&self) -> MutexGuard<'_, Vec<Key>> {
        locked(&self.keys)
    }

    /// Changes what new calls meet, and wakes whoever waits for a change.
    pub(crate) fn set_service(&self, service: Service) {
        *locked(&self.service) = service;
        self.changes_count.fetch_add(1, Ordering::AcqRel);
        self.service_changed.notify_all();
        self.tile_event.set();
    }

    pub(crate) fn generation(&self) -> Result<Arc<Generation>, Error> {
        match &*locked(&self.service) {
            Service::Up(generation) => Ok(Arc::clone(generation)),
            Service::Down(error) => Err(errors::again(error)),
        }
    }

    /// Ends an agent that broke the protocol, and says so.
    pub(crate) fn condemn(&self, generation: &Generation, reason: &str) -> Error {
        generation.line.condemn(reason);
        self.supervisor_event.set();
        Error::AgentProtocol { reason: reason.to_owned() }
    }

    /// The failure of a generation that answers no more; its supervisor is told if it does not
    /// know.
    pub(crate) fn failure(&self, generation: &Generation) -> Error {
        if generation.line.condemned().is_some() {
            self.supervisor_event.set();
        }
        generation.failure()
    }

    /// Checks an answer that is there and copies its body: its size.
    pub(crate) fn take_answer(
        &self,
        generation: &Generation,
        place: &Place,
        op: Op,
        body: &mut Body,
    ) -> Result<usize, Error> {
        let header = generation.line.answer(place, op.number(), body);
        let header = header
            .map_err(|Nonsense(what)| self.condemn(generation, &format!("{op:?}: {what}")))?;
        let size = usize::try_from(header.body_size.get()).unwrap_or(usize::MAX);
        if header.status.get() == AnswerHeader::DONE {
            return Ok(size);
        }
        match errors::from_bytes(body.get(..size).unwrap_or_default()) {
            Ok(error) => Err(error),
            Err(Malformed(what)) => {
                Err(self.condemn(generation, &format!("{op:?}: an error that is {what}")))
            }
        }
    }

    pub(crate) fn latest(&self, deadline: Nanos) -> u64 {
        os::to_host(deadline.min(clock::monotonic().after(self.config.call_time_max)))
    }

    /// One call from there and back.
    pub(crate) fn call(
        &self,
        generation: &Generation,
        (op, key): (Op, u32),
        request: &[u8],
        deadline: Nanos,
        answer: &mut Body,
    ) -> Result<usize, Error> {
        const LATE: Error = Error::Deadline { stage: "waiting for the agent" };
        let line = &generation.line;
        let latest = self.latest(deadline);
        if os::host_nanos() >= latest {
            return Err(LATE);
        }
        let Some(place) = line.take(self.config.reserved_count) else {
            return Err(Error::QueueFull { waiting_count: line.open_count() });
        };
        line.request(&place, header(op, key, latest, false), request);
        let habit = Habit { op, pace: &generation.pace, spin: self.config.spin };
        match line.wait(&place, latest, &habit) {
            Waited::Late => {
                line.abandon(place);
                Err(LATE)
            }
            Waited::Ended => {
                line.release(place, op.is_secret());
                Err(self.failure(generation))
            }
            Waited::Answered => {
                let taken = self.take_answer(generation, &place, op, answer);
                line.release(place, op.is_secret());
                taken
            }
        }
    }

    /// Remembers a key that the agent has just opened, and gives it a handle of ours.
    pub(crate) fn remember(
        &self,
        generation: &Arc<Generation>,
        key: &Key,
        handle: u32,
    ) -> Result<KeyHandle, Error> {
        let mut keys = self.keys();
        if let Some(known) = place_of(&keys, key) {
            return Ok(known);
        }
        let is_current = match &*locked(&self.service) {
            Service::Up(current) => Arc::ptr_eq(current, generation),
            Service::Down(_) => false,
        };
        if !is_current {
            let reason = "the agent ended while the key was opened".to_owned();
            return Err(Error::Agent { reason });
        }
        let handles_count = generation.handles_count();
        assert_eq!(keys.len(), handles_count, "a handle for each key");
        let place = self.add(&mut keys, key)?;
        generation.add_handle(Ok(handle));
        Ok(place)
    }

    /// Gives a key a handle that no agent has opened yet: the next one opens it before it comes
    /// into service. Nothing while one is in service, which must be asked itself.
    pub(crate) fn expect(&self, key: &Key) -> Result<Option<KeyHandle>, Error> {
        let mut keys = self.keys();
        if let Some(known) = place_of(&keys, key) {
            return Ok(Some(known));
        }
        // An agent comes into service with the keys locked, so none does in between.
        if matches!(&*locked(&self.service), Service::Up(_)) {
            return Ok(None);
        }
        self.add(&mut keys, key).map(Some)
    }

    fn add(&self, keys: &mut Vec<Key>, key: &Key) -> Result<KeyHandle, Error> {
        if keys.len() >= KEYS_COUNT_MAX {
            let reason = format!("{KEYS_COUNT_MAX} keys are open already");
            return Err(Error::KeyUnsuitable { key: key.reference.clone(), reason });
        }
        keys.push(key.clone());
        let known_keys = &self.provider.known_keys;
        if let Some(public) = &key.public {
            // Met twice it gets a table: it signs for as long as this node runs.
            known_keys.meet([public].into_iter());
            known_keys.meet([public].into_iter());
            known_keys.make(&*self.provider.hasher);
        }
        Ok(handle_of(keys.len() - 1))
    }

    /// The agent's number of a key and its public key, as far as they make sense.
    pub(crate) fn read_opened(
        &self,
        generation: &Generation,
        usage: Usage,
        body: &[u8],
    ) -> Result<(u32, Option<PublicKey>), Error> {
        let (handle, public) = protocol::read_opened(body)
            .map_err(|Malformed(what)| self.condemn(generation, &format!("OpenKey: {what}")))?;
        if public.is_some() != (usage != Usage::Wrap) {
            return Err(self.condemn(generation, "OpenKey: a key of another kind"));
        }
        if public.as_ref().is_some_and(|public| !is_curve_point(public)) {
            return Err(self.condemn(generation, "OpenKey: a public key not on the curve"));
        }
        Ok((handle, public))
    }

    pub(crate) fn public_key(&self, key: KeyHandle) -> Result<PublicKey, Error> {
        let keys = self.keys();
        let found = usize::try_from(key.0).ok().and_then(|index| keys.get(index));
        let Some(found) = found else { return Err(Error::HandleUnknown(key.0)) };
        found.public.ok_or_else(|| Error::KeyUnsuitable {
            key: found.reference.clone(),
            reason: "it has no public key".to_owned(),
        })
    }

    /// Verifies what came over the ring.
    pub(crate) fn verify(&self, items: &[VerifyItem<'_>]) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::SignatureInvalid; items.len()];
        self.provider.verifier.verify_many(items, &mut verdicts);
        verdicts
    }
}

impl Key {
    pub(crate) fn is(&self, reference: &KeyReference, usage: Usage) -> bool {
        self.usage == usage && self.reference == *reference
    }
}

fn place_of(keys: &[Key], key: &Key) -> Option<KeyHandle> {
    keys.iter().position(|other| key.is(&other.reference, other.usage)).map(handle_of)
}

pub(crate) fn handle_of(index: usize) -> KeyHandle {
    KeyHandle(u32::try_from(index).unwrap_or(u32::MAX))
}

pub(crate) fn header(op: Op, key: u32, deadline: u64, is_polled: bool) -> RequestHeader {
    RequestHeader {
        request: 0.into(),
        deadline: deadline.into(),
        op: op.number().into(),
        is_polled: u16::from(is_polled).into(),
        key: key.into(),
        body_size: 0.into(),
        reserved: 0.into(),
    }
}
