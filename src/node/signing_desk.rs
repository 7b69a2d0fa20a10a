//! What the sign tile asks for a signature: a key in software, or one in a card or in several.
//!
//! ```text
//! sign tile --submit(e)--> desk --poll--> signature, or an error with its class
//! ```
//!
//! The engine waits for one signature at a time, so a desk has one under way. A software key
//! answers within the call; a card answers when it does, and the tile's thread, which may be shared
//! with others, never waits for it. Several cards that hold the same key stand in for each other
//! ([`hufu_hsm::group::Signers`]): the validator votes while one of them answers.

use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Digest, PublicKey, Signature, Signer};
use hufu_hsm::card::deadline_in;
use hufu_hsm::custody::Custody;
use hufu_hsm::group::{Candidate, Change, MemberCounts, Signers, Standing};
use hufu_hsm::{CardIdentity, Error, Usage};
use hufu_runtime::clock::{Nanos, monotonic};
use hufu_runtime::wake::PollSet;
use hufu_storage::audit_log::Outcome;

use crate::audit::events::outcome_of;
use crate::card_key::{CardKey, CardPlace};
use crate::cards::{CardError, Cards, NodeCard, START_TIME};
use crate::log;
use crate::seeded_signer::SeededSigner;

/// How long a node that starts waits for the other cards of a key when one is there.
const JOIN_TIME: Duration = Duration::from_secs(10);

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The software signer failed.
    #[error("software key: {0}")]
    Software(#[from] hufu_crypto::Error),
    /// The card or its agent failed, or the card's key is another one.
    #[error(transparent)]
    Card(#[from] CardError),
}

impl DeskError {
    /// What it means for an audit.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Card(CardError::Card(error)) => outcome_of(error),
            Self::Card(CardError::OtherKey { .. } | CardError::OtherToken { .. }) => {
                Outcome::Refused
            }
            Self::Card(_) | Self::Software(_) => Outcome::Failed,
        }
    }

    /// Whether it is the card that gives no signature.
    #[must_use]
    pub const fn is_of_card(&self) -> bool {
        matches!(self, Self::Card(_))
    }

    /// Whether the same signature may be asked for again: the card is away or busy. Anything else
    /// keeps a node from starting.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Card(error) => error.may_pass(),
            Self::Software(_) => false,
        }
    }
}

/// See the module.
pub enum SigningDesk {
    /// A key in software.
    Software {
        /// Signs.
        signer: SeededSigner,
        /// Made, and not fetched yet.
        made: Option<Signature>,
    },
    /// A key in cards.
    Card(Box<CardDesk>),
}

/// What an audit says of a key's place, by name.
pub type Facts = Vec<(&'static str, String)>;

/// A key in one card or several.
pub struct CardDesk {
    signers: Signers,
    public: PublicKey,
    /// Keeps the agents; dropped after what asks them.
    cards: Vec<Arc<NodeCard>>,
    facts: Vec<Facts>,
}

impl SigningDesk {
    /// Signs with a key in software.
    #[must_use]
    pub const fn software(signer: Box<dyn Signer>) -> Self {
        Self::Software { signer: SeededSigner::new(signer), made: None }
    }

    /// Waits until a card that holds the key serves, a little for the others, and finds the key in
    /// each; it must be the one of the key file. A card that is away joins when it comes; one
    /// that is not the card from before, or cannot be loaded, is left out with an alarm.
    ///
    /// # Errors
    /// What keeps all of them from being used; what was set up wrongly at any of them: a PIN that
    /// is refused, another key, another token.
    pub fn card(cards: &mut Cards, key: &CardKey) -> Result<Self, DeskError> {
        let places = key.places();
        let opened = places.iter().map(|place| match places.len() {
            1 => cards.card(&place.card),
            _ => cards.card_of_several(&place.card),
        });
        let opened = opened.collect::<Result<Vec<_>, _>>()?;
        let mut ready = wait_for_one(&opened);
        if opened.len() > 1 {
            let until = deadline_in(JOIN_TIME);
            ready = opened.iter().map(|card| card.wait_ready(until)).collect();
        }
        let mut deadline = Duration::ZERO;
        let (mut candidates, mut users, mut failure) = (Vec::new(), Vec::new(), None);
        let mut facts = Vec::new();
        let mut joined_count = 0_u32;
        for ((card, place), ready) in opened.into_iter().zip(&places).zip(ready) {
            let found = ready.and_then(|()| card.open_pair(&place.key, Usage::Sign, &key.public));
            let (handle, gate) = match found {
                Ok(handle) => {
                    joined_count += 1;
                    if let Some(identity) = card.identity() {
                        let (name, key) = (&card.config().name, place.key.to_string());
                        facts.push(card_facts(name, &identity, &key));
                    }
                    (handle, None)
                }
                Err(error) if error.is_setup() || places.len() == 1 => return Err(error.into()),
                Err(error) => {
                    report_absent(&card, &error);
                    let is_lost = !error.may_pass();
                    failure = Some(error);
                    if is_lost {
                        continue;
                    }
                    let handle = card.expect_pair(&place.key, Usage::Sign, &key.public)?;
                    (handle, Some(gate(&card, place)))
                }
            };
            let (name, line) = (card.config().name.clone(), card.take_line()?);
            deadline = deadline.max(card.config().deadline);
            candidates.push(Candidate { name, line, key: handle, gate });
            users.push(card);
        }
        if let Some(error) = failure.filter(|_| joined_count == 0) {
            return Err(error.into());
        }
        let names: Vec<&str> = users.iter().map(|card| card.config().name.as_str()).collect();
        let fields = [("cards", names.join(",")), ("ready", joined_count.to_string())];
        log::info("the vote key is in cards", &fields);
        let signers = Signers::new(candidates, deadline);
        Ok(Self::Card(Box::new(CardDesk { signers, public: key.public, cards: users, facts })))
    }

    /// What the cards of the key did; nothing for a key in software.
    #[must_use]
    pub fn card_counts(&self) -> Vec<Arc<MemberCounts>> {
        match self {
            Self::Software { .. } => Vec::new(),
            Self::Card(desk) => desk.signers.counts(),
        }
    }

    /// Where the key is, for the audit: each place that is known by now.
    #[must_use]
    pub fn facts(&self) -> Vec<Facts> {
        match self {
            Self::Software { .. } => vec![vec![("custody", Custody::Software.name().to_owned())]],
            Self::Card(desk) => desk.facts.clone(),
        }
    }

    /// The key that verifies what is signed here.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        match self {
            Self::Software { signer, .. } => signer.public_key(),
            Self::Card(desk) => &desk.public,
        }
    }

    /// Asks for a signature of e. A software signer must have been polled for the one before; a
    /// card gives that one up.
    ///
    /// # Errors
    /// What the software signer says; all errors of a card come with [`SigningDesk::poll`].
    pub fn submit(&mut self, digest: &Digest, now: Nanos) -> Result<(), DeskError> {
        match self {
            Self::Software { signer, made } => {
                assert!(made.is_none(), "one signature at a time");
                *made = Some(signer.sign(digest, now)?);
            }
            Self::Card(desk) => desk.signers.ask(digest, now),
        }
        Ok(())
    }

    /// What became of the signature that was asked for, once it is known.
    pub fn poll(&mut self) -> Option<Result<Signature, DeskError>> {
        match self {
            Self::Software { made, .. } => made.take().map(Ok),
            Self::Card(desk) => {
                let found = desk.signers.poll(monotonic());
                let changes = desk.signers.take_changes();
                // Of a card alone the sign tile says what it means for the validator.
                if desk.cards.len() > 1 {
                    changes.iter().for_each(report_change);
                }
                found.map(|result| result.map_err(|error| CardError::Card(error).into()))
            }
        }
    }

    /// Until when a poll is worth while though nothing woke the tile.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        match self {
            Self::Software { made, .. } => made.as_ref().map(|_| Nanos::ZERO),
            Self::Card(desk) => desk.signers.deadline(),
        }
    }

    /// Adds what must wake the tile.
    pub fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        if let Self::Card(desk) = self {
            desk.signers.poll_fds(fds);
        }
    }
}

/// Waits until one of the cards serves, or none ever will; how each stands then.
fn wait_for_one(cards: &[Arc<NodeCard>]) -> Vec<Result<(), CardError>> {
    let end = deadline_in(START_TIME);
    loop {
        let now = monotonic();
        let step = if cards.len() == 1 { end } else { now.after(Duration::from_millis(100)) };
        let ready: Vec<_> = cards.iter().map(|card| card.wait_ready(step.min(end))).collect();
        let may_wait = |one: &Result<(), CardError>| one.as_ref().is_err_and(CardError::may_pass);
        if ready.iter().any(Result::is_ok) || !ready.iter().any(may_wait) || now >= end {
            return ready;
        }
    }
}

/// Lets a card that was away join when it serves and has the token that the key's name asks for.
fn gate(card: &Arc<NodeCard>, place: &CardPlace) -> hufu_hsm::group::Gate {
    let (card, token) = (Arc::clone(card), place.key.token.clone());
    Box::new(move || {
        let found = card.token_label()?;
        Some(match &token {
            Some(wanted) if *wanted != found => {
                let (wanted, found) = (format!("token {wanted:?}"), format!("token {found:?}"));
                Err(Error::TokenMissing { wanted, found })
            }
            _ => Ok(()),
        })
    })
}

fn report_absent(card: &NodeCard, error: &CardError) {
    let fields: [(&str, &str); 2] = [("card", &card.config().name), ("reason", &error.to_string())];
    if error.may_pass() {
        log::warn("a card is away; it joins when it comes", &fields);
    } else {
        log::error("a card is left out until the node starts anew", &fields);
    }
}

fn report_change(change: &Change) {
    let reason = change.reason.as_deref().unwrap_or("");
    let fields: [(&str, &str); 2] = [("card", &change.card), ("reason", reason)];
    match change.standing {
        Standing::Serving => log::info("a card signs again", &fields[..1]),
        Standing::Away => log::warn("a card gives no signatures", &fields),
        Standing::Out => log::error("a card is out until the node starts anew", &fields),
    }
}

/// Which card and key it is, for the audit; a key's name has no PIN.
fn card_facts(card: &str, identity: &CardIdentity, key: &str) -> Facts {
    let version = |(major, minor): (u8, u8)| format!("{major}.{minor}");
    vec![
        ("custody", Custody::HsmOnly.name().to_owned()),
        ("card", card.to_owned()),
        ("token", identity.token_label.clone()),
        ("serial", identity.token_serial.clone()),
        ("model", identity.token_model.clone()),
        ("firmware", version(identity.firmware_version)),
        ("library", version(identity.library_version)),
        ("key", key.to_owned()),
    ]
}
