//! What the sign tile asks for a signature: a key in software, or one in a card behind its agent.
//!
//! ```text
//! sign tile --submit(e)--> desk --poll--> signature, or an error with its class
//! ```
//!
//! The engine waits for one signature at a time, so a desk has one under way. A software key
//! answers within the call; a card answers when it does, and the tile's thread, which may be shared
//! with others, never waits for it.

use std::time::Duration;

use hufu_crypto::{Digest, PublicKey, Signature, Signer};
use hufu_hsm::agent::{Agent, Submitter};
use hufu_hsm::card::deadline_in;
use hufu_hsm::config::CardConfig;
use hufu_hsm::custody::Custody;
use hufu_hsm::{CardIdentity, ErrorClass, KeyHandle, Keystore, Usage};
use hufu_runtime::clock::Nanos;
use hufu_runtime::wake::PollSet;
use hufu_storage::audit_log::Outcome;

use crate::audit::events::outcome_of;
use crate::card_key::CardKey;
use crate::seeded_signer::SeededSigner;

/// How long an agent and its card may take to be ready when a node starts.
const START_TIME: Duration = Duration::from_secs(60);

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// The software signer failed.
    #[error("software key: {0}")]
    Software(#[from] hufu_crypto::Error),
    /// The card or its agent failed.
    #[error("key in the card: {0}")]
    Card(#[from] hufu_hsm::Error),
    /// The card's own file is at fault.
    #[error("{0}")]
    Config(#[from] hufu_hsm::config::ConfigError),
    /// The key in the card is another one.
    #[error("the key in the card is {found}, the key file says {expected}")]
    OtherKey {
        /// What the card has.
        found: Box<PublicKey>,
        /// What the key file says.
        expected: Box<PublicKey>,
    },
    /// The host refused something.
    #[error("{0}")]
    Host(#[from] std::io::Error),
}

impl DeskError {
    /// What it means for an audit.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Card(error) => outcome_of(error),
            Self::OtherKey { .. } => Outcome::Refused,
            Self::Software(_) | Self::Config(_) | Self::Host(_) => Outcome::Failed,
        }
    }

    /// Whether the same signature may be asked for again: the card is away or busy. Anything else
    /// must stop the node.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Card(error) => !matches!(error.class(), ErrorClass::Permanent),
            Self::Software(_) | Self::Config(_) | Self::OtherKey { .. } | Self::Host(_) => false,
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
    /// A key in a card.
    Card(Box<CardDesk>),
}

/// A key in a card behind an agent, which ends with this.
pub struct CardDesk {
    /// Keeps the agent's supervisor.
    _agent: Agent,
    submitter: Submitter,
    handle: KeyHandle,
    public: PublicKey,
    deadline: Duration,
    tickets: u64,
    facts: Vec<(&'static str, String)>,
}

impl SigningDesk {
    /// Signs with a key in software.
    #[must_use]
    pub const fn software(signer: Box<dyn Signer>) -> Self {
        Self::Software { signer: SeededSigner::new(signer), made: None }
    }

    /// Starts the agent for the card, waits until it serves, and finds the key; it must be the one
    /// of the key file.
    ///
    /// # Errors
    /// What keeps the card from being used.
    pub fn card(key: &CardKey) -> Result<Self, DeskError> {
        let config = CardConfig::load(&key.card)?;
        let program = std::env::current_exe()?;
        let card = std::path::absolute(&key.card)?;
        let (agent, submitter) = Agent::start(config.agent(program, &card))?;
        agent.client().wait_ready(deadline_in(START_TIME))?;
        let until = deadline_in(START_TIME);
        let identity = agent.client().identity(until)?;
        let found = &identity.token_label;
        if let Some(wanted) = key.key.token.as_ref().filter(|wanted| *wanted != found) {
            let (wanted, found) = (format!("token {wanted:?}"), format!("token {found:?}"));
            return Err(hufu_hsm::Error::TokenMissing { wanted, found }.into());
        }
        let handle = agent.client().open_key(&key.key.key, Usage::Sign, until)?;
        let found = agent.client().public_key(handle)?;
        if found != key.public {
            let (found, expected) = (Box::new(found), Box::new(key.public));
            return Err(DeskError::OtherKey { found, expected });
        }
        let (public, deadline) = (key.public, config.deadline);
        let facts = card_facts(&config.name, &identity, &key.key.to_string());
        let desk =
            CardDesk { _agent: agent, submitter, handle, public, deadline, tickets: 0, facts };
        Ok(Self::Card(Box::new(desk)))
    }

    /// Where the key is, for the audit.
    #[must_use]
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Software { .. } => vec![("custody", Custody::Software.name().to_owned())],
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

    /// Asks for a signature of e; nothing may be under way.
    ///
    /// # Errors
    /// What the software signer says, or that the agent has no place left, which may pass; all
    /// other errors of a card come with [`SigningDesk::poll`].
    pub fn submit(&mut self, digest: &Digest, now: Nanos) -> Result<(), DeskError> {
        match self {
            Self::Software { signer, made } => {
                assert!(made.is_none(), "one signature at a time");
                *made = Some(signer.sign(digest, now)?);
            }
            Self::Card(desk) => {
                desk.tickets += 1;
                let until = now.after(desk.deadline);
                let taken = desk.submitter.submit(desk.tickets, desk.handle, digest, until);
                // An agent that never answers keeps the places of what was given up.
                taken.map_err(|_| hufu_hsm::Error::QueueFull { waiting_count: 0 })?;
            }
        }
        Ok(())
    }

    /// What became of the signature that was asked for, once it is known.
    pub fn poll(&mut self) -> Option<Result<Signature, DeskError>> {
        match self {
            Self::Software { made, .. } => made.take().map(Ok),
            Self::Card(desk) => {
                let (mut found, asked) = (None, desk.tickets);
                desk.submitter.poll(|ticket, result| {
                    if ticket == asked {
                        found = Some(result.map_err(DeskError::Card));
                    }
                });
                found
            }
        }
    }

    /// Until when a poll is worth while though nothing woke the tile.
    #[must_use]
    pub fn deadline(&self) -> Option<Nanos> {
        match self {
            Self::Software { made, .. } => made.as_ref().map(|_| Nanos::ZERO),
            Self::Card(desk) => desk.submitter.deadline(),
        }
    }

    /// Adds what must wake the tile.
    pub fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        if let Self::Card(desk) = self {
            desk.submitter.poll_fds(fds);
        }
    }
}

/// Which card and key it is, for the audit; a key's name has no PIN.
fn card_facts(card: &str, identity: &CardIdentity, key: &str) -> Vec<(&'static str, String)> {
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
