//! What the sign tile asks for a signature: a key in software, or one in a card behind its agent.
//!
//! ```text
//! sign tile --submit(e)--> desk --poll--> signature, or an error with its class
//! ```
//!
//! The engine waits for one signature at a time, so a desk has one under way. A software key
//! answers within the call; a card answers when it does, and the tile's thread, which may be shared
//! with others, never waits for it.

use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Digest, PublicKey, Signature, Signer};
use hufu_hsm::agent::Submitter;
use hufu_hsm::{Error, KeyHandle, Usage};
use hufu_runtime::clock::Nanos;
use hufu_runtime::wake::PollSet;

use crate::card_key::CardKey;
use crate::cards::{CardError, Cards, NodeCard};
use crate::seeded_signer::SeededSigner;

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
    /// Whether the same signature may be asked for again: the card is away or busy. Anything else
    /// must stop the node.
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
    /// A key in a card.
    Card(Box<CardDesk>),
}

/// A key in a card behind its agent.
pub struct CardDesk {
    /// Keeps the agent.
    _card: Arc<NodeCard>,
    submitter: Submitter,
    handle: KeyHandle,
    public: PublicKey,
    deadline: Duration,
    tickets: u64,
}

impl SigningDesk {
    /// Signs with a key in software.
    #[must_use]
    pub const fn software(signer: Box<dyn Signer>) -> Self {
        Self::Software { signer: SeededSigner::new(signer), made: None }
    }

    /// Waits until the card of the key serves, and finds the key; it must be the one of the key
    /// file.
    ///
    /// # Errors
    /// What keeps the card from being used.
    pub fn card(cards: &mut Cards, key: &CardKey) -> Result<Self, DeskError> {
        let card = cards.card(&key.card)?;
        let handle = card.open_pair(&key.key, Usage::Sign, &key.public)?;
        let submitter = card.take_submitter()?;
        let (public, deadline) = (key.public, card.config().deadline);
        let desk = CardDesk { _card: card, submitter, handle, public, deadline, tickets: 0 };
        Ok(Self::Card(Box::new(desk)))
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
                taken.map_err(|_| CardError::Card(Error::QueueFull { waiting_count: 0 }))?;
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
                        found = Some(result.map_err(|error| CardError::Card(error).into()));
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
