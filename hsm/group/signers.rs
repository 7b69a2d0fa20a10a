//! Several cards with one key, for the one tile that must not wait.
//!
//! ```text
//! ask(e) --> the card in service with the fewest calls under way --> signature
//!              | fails, or is silent for a while: the next one as well
//!              ` nobody in service: all that are away at once
//! a card that is away is also asked now and then for what another one signs, until it answers
//! ```
//!
//! It costs no thread and no hand-over: cards are asked over their [`Line`]s on the caller's own
//! thread. All cards are asked for a signature of the very same digest, so that it does not matter
//! which answers first; what comes later is dropped, and shows only that its card is well. A call
//! that was given up is never waited for.
//!
//! A card that answers with a permanent error is out until the node starts anew: somebody has to
//! look at it. The last one's permanent error is the caller's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use hufu_crypto::{Digest, Signature};
use hufu_runtime::clock::Nanos;
use hufu_runtime::wake::PollSet;

use super::MEMBERS_MAX;
use crate::agent::{Full, Submitter, errors};
use crate::{Error, ErrorClass, KeyHandle};

/// How long a card that failed is left alone before it is asked besides another one, at first and
/// at most.
const TRIAL_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a card may be silent before another one is asked as well, at most; less where half of
/// the time is. Cards sign within a few milliseconds, some over a network within tens; one whose
/// token was pulled out may keep a call for all of its time, waiting for it to come back.
const SECOND_AFTER: Duration = Duration::from_millis(200);

/// Signing without waiting at one card, which is behind an agent or has a thread of this process.
pub trait Line: Send {
    /// Asks for a signature; every ticket that was taken comes out of [`Line::poll`] once.
    ///
    /// # Errors
    /// [`Full`]; the ticket was not taken.
    fn submit(
        &mut self,
        ticket: u64,
        key: KeyHandle,
        digest: &Digest,
        deadline: Nanos,
    ) -> Result<(), Full>;

    /// Hands over what has become of tickets. Never waits.
    fn poll(&mut self, each: &mut dyn FnMut(u64, Result<Signature, Error>));

    /// Until when a poll is worth while though nothing woke the tile.
    fn deadline(&self) -> Option<Nanos>;

    /// Calls under way, count.
    fn open_count(&self) -> usize;

    /// Adds what must wake the tile.
    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>);
}

impl Line for Submitter {
    fn submit(
        &mut self,
        ticket: u64,
        key: KeyHandle,
        digest: &Digest,
        deadline: Nanos,
    ) -> Result<(), Full> {
        Self::submit(self, ticket, key, digest, deadline)
    }

    fn poll(&mut self, each: &mut dyn FnMut(u64, Result<Signature, Error>)) {
        Self::poll(self, each);
    }

    fn deadline(&self) -> Option<Nanos> {
        Self::deadline(self)
    }

    fn open_count(&self) -> usize {
        Self::open_count(self)
    }

    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        Self::poll_fds(self, fds);
    }
}

/// Where a card of a group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is asked in its turn.
    Serving,
    /// It failed, and is tried again.
    Away,
    /// It failed for good, and is not asked until the node starts anew.
    Out,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Serving, Self::Away, Self::Out];

    /// For metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Away => "away",
            Self::Out => "out",
        }
    }
}

/// What one card of a group did, readable from any thread.
#[derive(Debug)]
pub struct MemberCounts {
    name: String,
    standing: AtomicU8,
    signed: AtomicU64,
    failed: AtomicU64,
}

impl MemberCounts {
    /// What the card is called.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let place = usize::from(self.standing.load(Ordering::Relaxed));
        Standing::ALL.get(place).copied().unwrap_or(Standing::Out)
    }

    /// Signatures it gave, those that came too late to be used included.
    #[must_use]
    pub fn signed_total(&self) -> u64 {
        self.signed.load(Ordering::Relaxed)
    }

    /// Calls that it failed.
    #[must_use]
    pub fn failed_total(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn set(&self, standing: Standing) {
        let place = Standing::ALL.iter().position(|one| *one == standing).unwrap_or(0);
        self.standing.store(u8::try_from(place).unwrap_or(u8::MAX), Ordering::Relaxed);
    }
}

/// Says whether a card that was away may serve: nothing while that cannot be known yet.
pub type Gate = Box<dyn FnMut() -> Option<Result<(), Error>> + Send>;

/// One card that joins a group.
pub struct Candidate {
    /// What it is called.
    pub name: String,
    /// How it is asked.
    pub line: Box<dyn Line>,
    /// The key in it.
    pub key: KeyHandle,
    /// Of a card that is away when the group begins: whether it may join.
    pub gate: Option<Gate>,
}

/// A card that has come to stand elsewhere, for the log.
#[derive(Debug)]
pub struct Change {
    /// What the card is called.
    pub card: String,
    /// Where it stands now.
    pub standing: Standing,
    /// Why, unless it serves.
    pub reason: Option<String>,
}

struct Member {
    line: Box<dyn Line>,
    key: KeyHandle,
    gate: Option<Gate>,
    counts: Arc<MemberCounts>,
    /// Of a card that is away: when it is tried, and the pause after that.
    trial: (Nanos, Duration),
    /// The last ticket it was asked for, and whether that is still under way.
    ticket: u64,
    is_asked: bool,
}

/// The signature that is asked for.
struct Asked {
    digest: Digest,
    until: Nanos,
    /// When another card is asked as well.
    second_at: Option<Nanos>,
    /// What the last card said that failed.
    failure: Option<Error>,
}

/// See the module.
pub struct Signers {
    members: Vec<Member>,
    deadline: Duration,
    asked: Option<Asked>,
    ticket: u64,
    /// The last permanent error, for when nobody is left.
    fault: Option<Error>,
    changes: Vec<Change>,
}

impl Signers {
    /// These cards; a signature may take `deadline`.
    ///
    /// # Panics
    /// If there is none or more than [`MEMBERS_MAX`], which the configuration's check excludes.
    #[must_use]
    pub fn new(candidates: Vec<Candidate>, deadline: Duration) -> Self {
        assert!((1..=MEMBERS_MAX).contains(&candidates.len()), "a group has members");
        let members = candidates.into_iter().map(|candidate| {
            let Candidate { name, line, key, gate } = candidate;
            let counts = Arc::new(MemberCounts {
                name,
                standing: AtomicU8::new(0),
                signed: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            });
            counts.set(if gate.is_some() { Standing::Away } else { Standing::Serving });
            let trial = (Nanos::ZERO, TRIAL_PAUSE.0);
            Member { line, key, gate, counts, trial, ticket: 0, is_asked: false }
        });
        let members = members.collect();
        let (asked, fault, changes) = (None, None, Vec::new());
        Self { members, deadline, asked, ticket: 0, fault, changes }
    }

    /// What the cards did, in their order.
    #[must_use]
    pub fn counts(&self) -> Vec<Arc<MemberCounts>> {
        self.members.iter().map(|member| Arc::clone(&member.counts)).collect()
    }

    /// Cards that have come to stand elsewhere since this was asked last.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Asks for a signature of `digest`. What was asked for before is given up.
    pub fn ask(&mut self, digest: &Digest, now: Nanos) {
        self.ticket += 1;
        self.members.iter_mut().for_each(|member| member.is_asked = false);
        let until = now.after(self.deadline);
        self.asked = Some(Asked { digest: *digest, until, second_at: None, failure: None });
        self.ask_next(now);
        // A card that is away shows by a signature that nobody needs whether it is back.
        for place in 0..self.members.len() {
            let is_due = self.stands(place, Standing::Away) && self.members[place].trial.0 <= now;
            if is_due && self.is_untried(place) {
                self.submit(place, now);
            }
        }
    }

    /// What became of the signature that was asked for, once it is known. Never waits.
    pub fn poll(&mut self, now: Nanos) -> Option<Result<Signature, Error>> {
        let mut found = None;
        for place in 0..self.members.len() {
            let mut answers = Vec::new();
            let collect = &mut |ticket, result| answers.push((ticket, result));
            self.members[place].line.poll(collect);
            for (ticket, result) in answers {
                let is_current = self.asked.is_some() && ticket == self.ticket;
                if is_current {
                    self.members[place].is_asked = false;
                }
                match result {
                    Ok(signature) => {
                        self.served(place);
                        found = found.or(is_current.then_some(signature));
                    }
                    Err(error) => self.failed(place, error, is_current, now),
                }
            }
        }
        if found.is_some() {
            self.asked = None;
            return found.map(Ok);
        }
        let asked = self.asked.as_ref()?;
        let is_slow = asked.second_at.is_some_and(|at| at <= now);
        if is_slow || !self.is_anyone_asked() {
            self.ask_next(now);
        }
        if self.is_anyone_asked() {
            return None;
        }
        let failure = self.asked.take()?.failure;
        Some(Err(failure.unwrap_or_else(|| self.nobody())))
    }

    /// Until when a poll is worth while though nothing woke the tile.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        let lines = self.members.iter().filter_map(|member| member.line.deadline()).min();
        let Some(asked) = &self.asked else { return lines };
        if !self.is_anyone_asked() {
            return Some(Nanos::ZERO);
        }
        [lines, asked.second_at].into_iter().flatten().min()
    }

    /// Adds what must wake the tile.
    pub fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        self.members.iter().for_each(|member| member.line.poll_fds(fds));
    }

    /// Asks the best card that was not asked for this signature: of those in service the one with
    /// the fewest calls under way, each in its turn, so that none is a spare of which nobody
    /// knows whether it works. Where there is none, all that are away are asked.
    fn ask_next(&mut self, now: Nanos) {
        let count = self.members.len();
        let first = usize::try_from(self.ticket).unwrap_or(0) % count;
        loop {
            let untried = (0..count).map(|step| (first + step) % count);
            let serving = untried
                .filter(|place| self.stands(*place, Standing::Serving) && self.is_untried(*place));
            let Some(place) = serving.min_by_key(|place| self.members[*place].line.open_count())
            else {
                break;
            };
            if self.submit(place, now) {
                let has_others = (0..count)
                    .any(|place| !self.stands(place, Standing::Out) && self.is_untried(place));
                if let Some(asked) = &mut self.asked {
                    let silence = (asked.until.duration_since(now) / 2).min(SECOND_AFTER);
                    asked.second_at = has_others.then(|| now.after(silence));
                }
                return;
            }
        }
        if let Some(asked) = &mut self.asked {
            asked.second_at = None;
        }
        for place in 0..count {
            if self.stands(place, Standing::Away) && self.is_untried(place) {
                self.submit(place, now);
            }
        }
    }

    /// Asks one card; whether it was asked.
    fn submit(&mut self, place: usize, now: Nanos) -> bool {
        let Some(asked) = &self.asked else { return false };
        let (digest, until) = (asked.digest, asked.until);
        let ticket = self.ticket;
        let member = &mut self.members[place];
        member.ticket = ticket;
        let refused = match member.gate.as_mut().map(|gate| gate()) {
            Some(None) => Some(Error::Agent { reason: "it has not come up yet".to_owned() }),
            Some(Some(Err(error))) => Some(error),
            Some(Some(Ok(()))) => {
                member.gate = None;
                None
            }
            None => None,
        };
        let refused = refused.or_else(|| {
            let taken = member.line.submit(ticket, member.key, &digest, until);
            let waiting_count = member.line.open_count();
            // An agent that never answers keeps the places of what was given up.
            taken.is_err().then_some(Error::QueueFull { waiting_count })
        });
        match refused {
            None => {
                member.is_asked = true;
                true
            }
            Some(error) => {
                self.failed(place, error, true, now);
                false
            }
        }
    }

    fn served(&mut self, place: usize) {
        let member = &mut self.members[place];
        member.counts.signed.fetch_add(1, Ordering::Relaxed);
        member.trial.1 = TRIAL_PAUSE.0;
        if self.stands(place, Standing::Away) {
            self.stand(place, Standing::Serving, None);
        }
    }

    /// Takes note that a card failed, and of why if somebody waits for that very signature.
    fn failed(&mut self, place: usize, error: Error, is_current: bool, now: Nanos) {
        let member = &mut self.members[place];
        member.counts.failed.fetch_add(1, Ordering::Relaxed);
        let (_, pause) = member.trial;
        member.trial = (now.after(pause), pause.saturating_mul(2).min(TRIAL_PAUSE.1));
        let standing = if error.class() == ErrorClass::Permanent {
            self.fault = Some(errors::again(&error));
            Standing::Out
        } else {
            Standing::Away
        };
        if !self.stands(place, standing) && !self.stands(place, Standing::Out) {
            self.stand(place, standing, Some(error.to_string()));
        }
        if is_current && let Some(asked) = &mut self.asked {
            // What may pass is the better answer while another card may come back.
            let is_better = asked.failure.is_none() || error.class() != ErrorClass::Permanent;
            if is_better {
                asked.failure = Some(error);
            }
        }
    }

    fn stand(&mut self, place: usize, standing: Standing, reason: Option<String>) {
        let counts = &self.members[place].counts;
        counts.set(standing);
        self.changes.push(Change { card: counts.name.clone(), standing, reason });
    }

    fn stands(&self, place: usize, standing: Standing) -> bool {
        self.members[place].counts.standing() == standing
    }

    fn is_untried(&self, place: usize) -> bool {
        self.members[place].ticket != self.ticket
    }

    fn is_anyone_asked(&self) -> bool {
        self.members.iter().any(|member| member.is_asked)
    }

    /// Every card is out.
    fn nobody(&self) -> Error {
        let none = Error::Agent { reason: "no card was asked".to_owned() };
        self.fault.as_ref().map_or(none, errors::again)
    }
}

#[cfg(test)]
mod tests;
