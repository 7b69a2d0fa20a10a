//! The cards of one node: for each card's file one agent, whichever keys of the node live there.
//!
//! ```text
//! key file --names--> card.toml --> Cards --the first time--> agent, a process of its own
//!                                     `--> NodeCard: a keystore for threads that may wait,
//!                                                    a submitter for the one tile that must not
//! ```
//!
//! A vendor's library wants to be loaded once, and a token has few sessions: so the vote key and
//! the data key of one card share its agent. The registry is used while the node starts; what it
//! handed out keeps the agents, which end when the last user of a card is gone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hufu_crypto::PublicKey;
use hufu_hsm::agent::{Agent, Submitter};
use hufu_hsm::card::deadline_in;
use hufu_hsm::config::{CardConfig, ConfigError};
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{Error, ErrorClass, KeyHandle, Keystore, Usage};

/// How long an agent and its card may take to be ready when a node starts.
pub const START_TIME: Duration = Duration::from_secs(60);

/// Why a card, or a key in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The card or its agent failed.
    #[error("key in the card: {0}")]
    Card(#[from] Error),
    /// The card's own file is at fault.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The key in the card is another one.
    #[error("the key in card {card:?} is {found}, the key file says {expected}")]
    OtherKey {
        /// What the card is called.
        card: String,
        /// What it has.
        found: Box<PublicKey>,
        /// What the key file says.
        expected: Box<PublicKey>,
    },
    /// Another tile signs with this card.
    #[error("card {card:?} signs for another tile already: each needs a card of its own")]
    Taken {
        /// What the card is called.
        card: String,
    },
    /// The host refused something.
    #[error("{0}")]
    Host(#[from] std::io::Error),
}

impl CardError {
    /// Whether the same may be asked for again: the card is away or busy.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Card(error) => !matches!(error.class(), ErrorClass::Permanent),
            Self::Config(_) | Self::OtherKey { .. } | Self::Taken { .. } | Self::Host(_) => false,
        }
    }
}

/// One card that the node uses, with its agent.
pub struct NodeCard {
    file: PathBuf,
    config: CardConfig,
    agent: Agent,
    submitter: Mutex<Option<Submitter>>,
}

impl NodeCard {
    /// What its file says.
    #[must_use]
    pub const fn config(&self) -> &CardConfig {
        &self.config
    }

    /// Its keys, for threads that may wait.
    #[must_use]
    pub fn keystore(&self) -> Arc<dyn Keystore> {
        Arc::new(self.agent.client().clone())
    }

    /// Signing without waiting. There is one for each agent, for one tile.
    ///
    /// # Errors
    /// [`CardError::Taken`] for whoever comes second.
    pub fn take_submitter(&self) -> Result<Submitter, CardError> {
        let taken = self.submitter.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| CardError::Taken { card: self.config.name.clone() })
    }

    /// Waits until the card serves, looks whether it has the token that the key's name asks for,
    /// and opens the key.
    ///
    /// # Errors
    /// What keeps the card or the key from being used.
    pub fn open_key(&self, key: &KeyUri, usage: Usage) -> Result<KeyHandle, CardError> {
        let until = deadline_in(START_TIME);
        let client = self.agent.client();
        client.wait_ready(until)?;
        let found = client.identity(until)?.token_label;
        if let Some(wanted) = key.token.as_ref().filter(|wanted| **wanted != found) {
            let (wanted, found) = (format!("token {wanted:?}"), format!("token {found:?}"));
            return Err(Error::TokenMissing { wanted, found }.into());
        }
        Ok(client.open_key(&key.key, usage, until)?)
    }

    /// The same for the one of a pair that its key file describes: it must have this public key.
    ///
    /// # Errors
    /// As [`NodeCard::open_key`]; [`CardError::OtherKey`].
    pub fn open_pair(
        &self,
        key: &KeyUri,
        usage: Usage,
        expected: &PublicKey,
    ) -> Result<KeyHandle, CardError> {
        let handle = self.open_key(key, usage)?;
        let found = self.agent.client().public_key(handle)?;
        if found != *expected {
            let (found, expected) = (Box::new(found), Box::new(*expected));
            return Err(CardError::OtherKey { card: self.config.name.clone(), found, expected });
        }
        Ok(handle)
    }
}

/// See the module.
pub struct Cards {
    program: PathBuf,
    open: Vec<Arc<NodeCard>>,
}

impl Cards {
    /// No card yet; agents are started from the binary of this process.
    ///
    /// # Errors
    /// If the system does not say which that is.
    pub fn new() -> Result<Self, CardError> {
        Ok(Self::with_program(std::env::current_exe()?))
    }

    /// The same with another binary as the agent's.
    #[must_use]
    pub const fn with_program(program: PathBuf) -> Self {
        Self { program, open: Vec::new() }
    }

    /// The card of this file. Its agent is started if it is asked for the first time; nobody waits
    /// for it here, so that several cards become ready side by side.
    ///
    /// # Errors
    /// If its file is at fault, or the host has no room for an agent.
    pub fn card(&mut self, file: &Path) -> Result<Arc<NodeCard>, CardError> {
        // A file that is not there is told of by whoever reads it.
        let file = file.canonicalize().or_else(|_| std::path::absolute(file))?;
        if let Some(card) = self.open.iter().find(|card| card.file == file) {
            return Ok(Arc::clone(card));
        }
        let config = CardConfig::load(&file)?;
        let (agent, submitter) = Agent::start(config.agent(self.program.clone(), &file))?;
        let submitter = Mutex::new(Some(submitter));
        let card = Arc::new(NodeCard { file, config, agent, submitter });
        self.open.push(Arc::clone(&card));
        Ok(card)
    }

    /// All cards that were asked for, in their order.
    #[must_use]
    pub fn all(&self) -> &[Arc<NodeCard>] {
        &self.open
    }
}
