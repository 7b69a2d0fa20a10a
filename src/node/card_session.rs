//! A card that a node or a command uses for a short while: its data keys are unwrapped, and it is
//! left alone again.
//!
//! ```text
//! card.toml --open--> agent of its own --ready--> keystore --dropped--> the agent ends
//! ```
//!
//! The vendor's library runs in the agent's sandbox, for a command as for a node: what works here
//! works at the start of the node too. A PIN that is refused was tried once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hufu_hsm::card::deadline_in;
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{KeyHandle, Keystore, Usage};
use hufu_runtime::clock::Nanos;

use crate::cards::{CardError, Cards, NodeCard};

/// How long an agent and its card may take until they serve, and for everything that is asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// A key in a card as a file names it: the card's file, and the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// The file that describes the card.
    pub card: PathBuf,
    /// The key in it.
    pub key: KeyUri,
}

impl std::fmt::Display for KeyPlace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of card {}", self.key, self.card.display())
    }
}

/// See the module.
pub struct CardSession {
    keystore: Arc<dyn Keystore>,
    /// Its agent ends with its last user.
    _card: Option<Arc<NodeCard>>,
}

impl CardSession {
    /// Starts an agent for the card of this file and waits until it serves.
    ///
    /// # Errors
    /// What keeps the card from being used.
    pub fn open(file: &Path) -> Result<Self, CardError> {
        Self::of(&mut Cards::new()?, file)
    }

    /// The same with another binary as the agent's.
    ///
    /// # Errors
    /// As [`CardSession::open`].
    pub fn open_with(program: &Path, file: &Path) -> Result<Self, CardError> {
        Self::of(&mut Cards::with_program(program.to_owned()), file)
    }

    /// The same with the cards of a node, which may have its agent already.
    ///
    /// # Errors
    /// As [`CardSession::open`].
    pub fn of(cards: &mut Cards, file: &Path) -> Result<Self, CardError> {
        let card = cards.card(file)?;
        card.wait_ready(deadline_in(PATIENCE))?;
        Ok(Self { keystore: card.keystore(), _card: Some(card) })
    }

    /// A session with a card that others keep open, and that serves.
    #[must_use]
    pub fn on(keystore: Arc<dyn Keystore>) -> Self {
        Self { keystore, _card: None }
    }

    /// Finds a key, on the token that its URI names if it names one.
    ///
    /// # Errors
    /// What the card says.
    pub fn key(&self, key: &KeyUri, usage: Usage) -> Result<KeyHandle, CardError> {
        if let Some(wanted) = &key.token {
            let found = self.keystore.identity(Self::deadline())?.token_label;
            if found != *wanted {
                let (wanted, found) = (format!("token {wanted:?}"), format!("token {found:?}"));
                return Err(hufu_hsm::Error::TokenMissing { wanted, found }.into());
            }
        }
        Ok(self.keystore.open_key(&key.key, usage, Self::deadline())?)
    }

    /// What the card is asked through.
    #[must_use]
    pub fn keystore(&self) -> &dyn Keystore {
        &*self.keystore
    }

    /// Until when a call that begins now may take.
    #[must_use]
    pub fn deadline() -> Nanos {
        deadline_in(PATIENCE)
    }
}

/// Opens the card of a file: [`CardSession::open`] but in tests.
pub type OpenCard<'a> = &'a dyn Fn(&Path) -> Result<CardSession, CardError>;
