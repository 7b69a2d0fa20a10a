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

use hufu_hsm::agent::Agent;
use hufu_hsm::card::deadline_in;
use hufu_hsm::config::{CardConfig, ConfigError};
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{ErrorClass, KeyHandle, Keystore, Usage};
use hufu_runtime::clock::Nanos;

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

/// Why a card cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// Its file is at fault.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// The host refused something.
    #[error(transparent)]
    Host(#[from] std::io::Error),
    /// The card or its agent failed.
    #[error(transparent)]
    Card(#[from] hufu_hsm::Error),
}

impl CardError {
    /// Whether trying again may help: the card is away or busy.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Card(error) => !matches!(error.class(), ErrorClass::Permanent),
            Self::Host(_) => true,
            Self::File(_) => false,
        }
    }
}

/// See the module.
pub struct CardSession {
    keystore: Arc<dyn Keystore>,
    /// Ends when this is dropped.
    _agent: Option<Agent>,
}

impl CardSession {
    /// Starts an agent for the card of this file and waits until it serves.
    ///
    /// # Errors
    /// What keeps the card from being used.
    pub fn open(file: &Path) -> Result<Self, CardError> {
        let config = CardConfig::load(file)?;
        let program = std::env::current_exe()?;
        let (agent, _) = Agent::start(config.agent(program, &std::path::absolute(file)?))?;
        agent.client().wait_ready(deadline_in(PATIENCE))?;
        Ok(Self { keystore: Arc::new(agent.client().clone()), _agent: Some(agent) })
    }

    /// A session with a card that others keep open, and that serves.
    #[must_use]
    pub fn on(keystore: Arc<dyn Keystore>) -> Self {
        Self { keystore, _agent: None }
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
