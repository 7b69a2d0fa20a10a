//! The sign tile's side of the audit: what it signed, told once a second, and what became of its
//! key.
//!
//! ```text
//! sign tile --signed(intent)--> tally, chain --after the interval--> Event --> audit tile
//! ```
//!
//! The chain is SM3 over everything signed since the start, one step for each signature, so that
//! the vote log, which holds the same bytes, can be held against it ([`super::compare`]). A crash
//! loses the tally of the last interval; the vote log has what it was about. What the link has no
//! room for waits here, and the tile signs nothing meanwhile: no record is ever dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hufu_consensus::SignIntent;
use hufu_crypto::{Address, Digest, Sm3};
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::Producer;
use hufu_runtime::tile::Fatal;
use hufu_storage::audit_log::Event;

use super::events::{self, Used, place_of};
use crate::metrics::Metrics;
use crate::signing_desk::DeskError;

/// Separates these digests from all others.
const DOMAIN: &[u8] = b"hufu audit signatures 1\n";

/// How long the last words of a node may take to be durable.
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);

/// How often it is looked whether they are.
const LAST_WORDS_LOOK: Duration = Duration::from_millis(5);

/// The chain behind one more signature: over what was signed before it, and the bytes signed.
#[must_use]
pub fn signed_digest(before: &Digest, bytes: &[u8]) -> Digest {
    Sm3::of(&[DOMAIN, &before.0, bytes])
}

/// What was signed since the last record.
struct Tally {
    used: Used,
    due: Nanos,
}

/// See the module. Owned by the sign tile.
pub struct SignAudit {
    key: Address,
    interval: Duration,
    metrics: Arc<Metrics>,
    outgoing: Producer<Event<'static>>,
    /// How many of the events of this link are durable.
    recorded: Arc<AtomicU64>,
    pushed: u64,
    chain: Digest,
    tally: Option<Tally>,
    /// No more than one call of the tile makes: it calls nothing while something waits here.
    waiting: VecDeque<Event<'static>>,
    last_words: Option<LastWords>,
}

/// Why the node stops, which it does once that is on record.
struct LastWords {
    error: DeskError,
    /// When it stops all the same.
    until: Nanos,
    /// When it is looked again whether they are.
    look_at: Nanos,
}

impl SignAudit {
    /// For the tile that signs with this key; tells what it signed after each `interval`.
    #[must_use]
    pub fn new(
        key: Address,
        interval: Duration,
        metrics: Arc<Metrics>,
        outgoing: Producer<Event<'static>>,
        recorded: Arc<AtomicU64>,
    ) -> Self {
        Self {
            key,
            interval,
            metrics,
            outgoing,
            recorded,
            pushed: 0,
            chain: Digest::ZERO,
            tally: None,
            waiting: VecDeque::new(),
            last_words: None,
        }
    }

    /// These bytes were signed.
    pub fn signed(&mut self, intent: &SignIntent, now: Nanos) {
        self.chain = signed_digest(&self.chain, intent.bytes());
        let (position, due) = (intent.position(), now.after(self.interval));
        let used = Used { first: position, last: position, counts: [0; 3], chain: self.chain };
        let tally = self.tally.get_or_insert(Tally { used, due });
        tally.used.counts[place_of(position.step)] += 1;
        tally.used.last = position;
        tally.used.chain = self.chain;
    }

    /// The card gives no signature and is asked again.
    pub fn away(&mut self, error: &DeskError) {
        self.waiting.push_back(events::card_away(self.key, events::reason(error)));
    }

    /// The card signs again.
    pub fn back(&mut self, away: Duration) {
        let millis = u64::try_from(away.as_millis()).unwrap_or(u64::MAX);
        self.waiting.push_back(events::card_back(self.key, millis));
    }

    /// The card will give no signature until the node starts anew.
    pub fn refused(&mut self, error: &DeskError) {
        self.close_tally();
        let refused = events::key_refused(self.key, error.outcome(), events::reason(error));
        self.waiting.push_back(refused);
    }

    /// There will be no signature: the node stops with this error once it is on record.
    pub fn ends(&mut self, error: DeskError, now: Nanos) {
        self.refused(&error);
        self.last_words =
            Some(LastWords { error, until: now.after(LAST_WORDS_TIME), look_at: now });
    }

    /// Hands on what waits and is due; `false` while the audit has no room, or the node is about to
    /// stop: then the tile does nothing else.
    ///
    /// # Errors
    /// The error of [`SignAudit::ends`], once it is on record.
    pub fn poll(&mut self, now: Nanos) -> Result<bool, Fatal> {
        if self.tally.as_ref().is_some_and(|tally| now >= tally.due) {
            self.close_tally();
        }
        let has_room = self.push();
        let is_recorded = has_room && self.recorded.load(Ordering::Acquire) >= self.pushed;
        if let Some(words) = self.last_words.take_if(|words| is_recorded || now >= words.until) {
            return Err(words.error.into());
        }
        if let Some(words) = &mut self.last_words {
            words.look_at = now.after(LAST_WORDS_LOOK);
        }
        Ok(has_room && self.last_words.is_none())
    }

    /// Hands on everything, due or not; whether all of it is gone.
    pub fn finish(&mut self) -> bool {
        self.close_tally();
        self.push()
    }

    /// When [`SignAudit::poll`] has something to do though nothing happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        match &self.last_words {
            Some(words) => Some(words.look_at),
            None => self.tally.as_ref().map(|tally| tally.due),
        }
    }

    fn close_tally(&mut self) {
        if let Some(tally) = self.tally.take() {
            self.waiting.push_back(events::used(self.key, &tally.used));
        }
    }

    /// Whether nothing waits any more.
    fn push(&mut self) -> bool {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(event) = self.outgoing.try_push(event) {
                self.waiting.push_front(event);
                self.metrics.audit_pushed_back.add(1);
                return false;
            }
            self.pushed += 1;
        }
        true
    }
}
