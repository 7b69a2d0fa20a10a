//! Signing without waiting, for the one tile that must not wait.
//!
//! ```text
//! tile: submit(ticket, key, e) -> ring        poll: slots answered -> verified together -> tile
//! ```
//!
//! Calls go in with a ticket and come out of a poll, each exactly once. What wakes the tile is a
//! socket of which the agent holds the other end only (an eventfd shared with foreign code could
//! be made blocking from there), and an eventfd of the supervisor's. An agent that wakes more often
//! than it was asked is ended, so that none keeps the tile from sleeping.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hufu_crypto::{Digest, PublicKey, Signature, Verdict, VerifyItem};
use hufu_runtime::clock::Nanos;
use hufu_runtime::wake::PollSet;

use super::os;
use super::protocol::{BODY_BYTES_MAX, Op};
use super::ring::{Body, Place, Waited};
use super::shared::{Generation, Shared, UNVERIFIED, header};
use crate::error::Error;
use crate::keystore::KeyHandle;

/// No more calls may be under way: poll first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many signatures are under way as the agent's memory has room for")]
pub struct Full;

/// A signature that is under way.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    digest: Digest,
    public: PublicKey,
    /// On the host's clock.
    latest: u64,
    generation: Arc<Generation>,
    place: Place,
}

/// A signature that came back and is yet to be verified.
#[derive(Debug)]
struct Signed {
    ticket: u64,
    digest: Digest,
    public: PublicKey,
    generation: Arc<Generation>,
    signature: Signature,
}

/// What becomes of a ticket.
type Outcome = (u64, Result<Signature, Error>);

/// Signing without waiting, for the one tile that owns this.
#[derive(Debug)]
pub struct Submitter {
    shared: Arc<Shared>,
    pending: Vec<Pending>,
    /// Tickets whose fate was known at once.
    decided: VecDeque<Outcome>,
    current: Option<Arc<Generation>>,
    changes_seen: u64,
    polls_count: u64,
    is_waker_closed: bool,
}

/// Polls between two looks at the agent's waker when its flag is down, count.
const POLLS_PER_LOOK: u64 = 1_024;

impl Submitter {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let room = usize::try_from(shared.config.reserved_count).unwrap_or(0);
        Self {
            shared,
            pending: Vec::with_capacity(room),
            decided: VecDeque::with_capacity(room),
            current: None,
            changes_seen: u64::MAX,
            polls_count: 0,
            is_waker_closed: false,
        }
    }

    /// Asks for a signature of `digest`. Every ticket that was taken comes out of
    /// [`Submitter::poll`] exactly once; a card that is not there fails it there.
    ///
    /// # Errors
    /// [`Full`]; the ticket was not taken.
    pub fn submit(
        &mut self,
        ticket: u64,
        key: KeyHandle,
        digest: &Digest,
        deadline: Nanos,
    ) -> Result<(), Full> {
        if self.pending.len() + self.decided.len() >= self.pending.capacity() {
            return Err(Full);
        }
        let found = self.shared.generation().and_then(|generation| {
            let handle = generation.handle(key)?;
            Ok((generation, handle, self.shared.public_key(key)?))
        });
        let (generation, handle, public) = match found {
            Ok(found) => found,
            Err(error) => {
                self.decided.push_back((ticket, Err(error)));
                return Ok(());
            }
        };
        let latest = self.shared.latest(deadline);
        // All slots are with calls that were given up and whose answers are still to come.
        let Some(place) = generation.line.take(0) else {
            let waiting_count = generation.line.open_count();
            self.decided.push_back((ticket, Err(Error::QueueFull { waiting_count })));
            return Ok(());
        };
        let header = header(Op::Sign, handle, latest, true);
        generation.asked_count.fetch_add(1, Ordering::Relaxed);
        generation.line.request(&place, header, digest.as_bytes());
        let digest = *digest;
        self.pending.push(Pending { ticket, digest, public, latest, generation, place });
        Ok(())
    }

    /// Hands over what has become of tickets; says how many. Never waits.
    pub fn poll(&mut self, mut each: impl FnMut(u64, Result<Signature, Error>)) -> usize {
        self.clear_wakers();
        let mut count = self.decided.len();
        self.decided.drain(..).for_each(|(ticket, outcome)| each(ticket, outcome));
        if self.pending.is_empty() {
            return count;
        }
        let mut signed = Vec::new();
        let mut index = 0;
        let now = os::host_nanos();
        while let Some(pending) = self.pending.get(index) {
            let looked = pending.generation.line.look(&pending.place);
            if looked.is_none() && now < pending.latest {
                index += 1;
                continue;
            }
            let pending = self.pending.swap_remove(index);
            count += 1;
            match settle(&self.shared, pending, looked) {
                Ok(found) => signed.push(found),
                Err((ticket, error)) => each(ticket, Err(error)),
            }
        }
        verify(&self.shared, &signed, &mut each);
        count
    }

    /// Until when a poll is worth while though nothing woke the tile.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let latest = self.pending.iter().map(|pending| pending.latest).min();
        if self.decided.is_empty() { latest.map(os::from_host) } else { Some(Nanos::ZERO) }
    }

    /// Signatures that are under way or decided, count.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.pending.len() + self.decided.len()
    }

    /// Adds what must wake the tile; to be called from its `poll_fds`.
    pub fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        fds.readable(self.shared.tile_event.descriptor());
        if let Some(current) = &self.current
            && !self.is_waker_closed
        {
            fds.readable(&current.waker);
        }
    }

    fn clear_wakers(&mut self) {
        self.shared.tile_event.clear();
        let changes = self.shared.changes_count.load(Ordering::Acquire);
        if changes != self.changes_seen {
            self.changes_seen = changes;
            self.current = self.shared.generation().ok();
            self.is_waker_closed = false;
        }
        self.polls_count = self.polls_count.wrapping_add(1);
        let Some(current) = &self.current else { return };
        // The flag saves a system call. An agent that wakes without it is found out now and then.
        let is_due = current.line.is_signalled() || self.polls_count.is_multiple_of(POLLS_PER_LOOK);
        if !is_due {
            return;
        }
        match os::drain(current.waker.as_fd()) {
            Ok(0) => {
                // Dead, or as good as: what it says from here on is seen at the deadlines.
                self.is_waker_closed = true;
                return;
            }
            Ok(_) => {}
            Err(_) => return,
        }
        // An agent of ours raises the flag before it sends the byte, and once for each call.
        let woken_count = current.woken_count.fetch_add(1, Ordering::Relaxed) + 1;
        let is_ours = woken_count <= current.asked_count.load(Ordering::Relaxed);
        if !is_ours || !current.line.is_signalled() {
            drop(self.shared.condemn(current, "it wakes the tile without a reason"));
        }
        current.line.take_signal();
    }
}

/// What a call that needs no more waiting came to.
fn settle(
    shared: &Shared,
    pending: Pending,
    looked: Option<Waited>,
) -> Result<Signed, (u64, Error)> {
    let Pending { ticket, digest, public, generation, place, .. } = pending;
    let outcome = match looked {
        None | Some(Waited::Late) => {
            generation.line.abandon(place);
            Err(Error::Deadline { stage: "waiting for the agent" })
        }
        Some(Waited::Ended) => {
            generation.line.release(place, false);
            Err(shared.failure(&generation))
        }
        Some(Waited::Answered) => {
            let taken = take_signature(shared, &generation, &place);
            generation.line.release(place, false);
            taken
        }
    };
    match outcome {
        Ok(signature) => Ok(Signed { ticket, digest, public, generation, signature }),
        Err(error) => Err((ticket, error)),
    }
}

fn take_signature(
    shared: &Shared,
    generation: &Generation,
    place: &Place,
) -> Result<Signature, Error> {
    let mut body: Body = [0; BODY_BYTES_MAX];
    let size = shared.take_answer(generation, place, Op::Sign, &mut body)?;
    let bytes = body.get(..size).and_then(|body| body.try_into().ok());
    let wrong = || shared.condemn(generation, &format!("Sign: an answer of {size} bytes"));
    bytes.map(Signature).ok_or_else(wrong)
}

/// Verifies all that came back in one go, and hands over those that hold.
fn verify(
    shared: &Shared,
    signed: &[Signed],
    each: &mut impl FnMut(u64, Result<Signature, Error>),
) {
    let items: Vec<VerifyItem<'_>> = signed
        .iter()
        .map(|one| VerifyItem { key: &one.public, digest: one.digest, signature: &one.signature })
        .collect();
    for (one, verdict) in signed.iter().zip(shared.verify(&items)) {
        if verdict == Verdict::Valid {
            each(one.ticket, Ok(one.signature));
        } else {
            each(one.ticket, Err(shared.condemn(&one.generation, UNVERIFIED)));
        }
    }
}
