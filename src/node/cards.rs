//! The cards of one node: for each card's file one agent, whichever keys of the node live there.
//!
//! ```text
//! key file --names--> card.toml --> Cards --the first time--> agent, started here or by others,
//!                                     |                       or the library in this process
//!                                     `--> NodeCard: a keystore for threads that may wait,
//!                                                    a line for the one tile that must not
//! ```
//!
//! A vendor's library wants to be loaded once, and a token has few sessions: so the vote key and
//! the data key of one card share its agent. The registry is used while the node starts; what it
//! handed out keeps the agents, which end when the last user of a card is gone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hufu_crypto::PublicKey;
use hufu_hsm::agent::{Agent, AgentState, AgentStatus};
use hufu_hsm::card::deadline_in;
use hufu_hsm::config::{CardConfig, CardMode, ConfigError};
use hufu_hsm::group::Line;
use hufu_hsm::in_process::{InProcess, InProcessCard};
use hufu_hsm::pool::CardReport;
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{CardIdentity, Error, ErrorClass, KeyHandle, Keystore, Usage};
use hufu_runtime::clock::{Nanos, monotonic};

use crate::kernels;

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
    /// The card has another token than the key's name asks for.
    #[error("the key is to be on token {wanted:?}, and card {card:?} has token {found:?}")]
    OtherToken {
        /// What the card is called.
        card: String,
        /// What the key's name says.
        wanted: String,
        /// What the card has.
        found: String,
    },
    /// Two cards are called the same, and logs and metrics would mix them.
    #[error("{} and {} are both called {name:?}", first.display(), second.display())]
    SameName {
        /// What both files say.
        name: String,
        /// One of the files.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Another tile signs with this card.
    #[error("card {card:?} signs for another tile already: each needs a card of its own")]
    Taken {
        /// What the card is called.
        card: String,
    },
    /// Whoever waits for the card has been told to stop.
    #[error("nobody waits for card {card:?} any more")]
    Interrupted {
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
            // Nothing is tried again on the way to the end.
            Self::Interrupted { .. }
            | Self::Config(_)
            | Self::OtherKey { .. }
            | Self::OtherToken { .. }
            | Self::SameName { .. }
            | Self::Taken { .. }
            | Self::Host(_) => false,
        }
    }

    /// Whether somebody has to put right what was set up, before a node may start with other cards
    /// alone. A PIN that was refused is among it: each start would be one more attempt.
    #[must_use]
    pub const fn is_setup(&self) -> bool {
        match self {
            Self::Card(error) => matches!(
                error,
                Error::PinRefused { .. }
                    | Error::PinUnreadable { .. }
                    | Error::ProfileMismatch { .. }
                    | Error::ProfileInvalid { .. }
                    | Error::KeyMissing { .. }
                    | Error::KeyAmbiguous { .. }
                    | Error::KeyUnsuitable { .. }
            ),
            Self::Host(_) | Self::Interrupted { .. } => false,
            Self::Config(_)
            | Self::OtherKey { .. }
            | Self::OtherToken { .. }
            | Self::SameName { .. }
            | Self::Taken { .. } => true,
        }
    }
}

/// One card that the node uses.
pub struct NodeCard {
    file: PathBuf,
    config: CardConfig,
    service: Service,
    line: Mutex<Option<Box<dyn Line>>>,
    is_stopped: StopCheck,
}

/// Says whether whoever waits for cards has been told to stop.
pub type StopCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// How long a card is waited for between two looks whether anybody still wants it.
const STOP_LOOK: Duration = Duration::from_millis(100);

impl std::fmt::Debug for NodeCard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NodeCard").field("file", &self.file).finish_non_exhaustive()
    }
}

/// In which process its library runs.
enum Service {
    /// Started by this node, or by others.
    Agent(Agent),
    InProcess(InProcess),
}

/// How a card does, for metrics.
#[derive(Clone, Debug)]
pub struct CardStatus {
    /// Its agent, if it has one.
    pub agent: Option<AgentStatus>,
    /// What its pool counted, as far as that is known.
    pub report: Option<CardReport>,
}

impl NodeCard {
    fn start(file: PathBuf, config: CardConfig, cards: &Cards) -> Result<Self, CardError> {
        let program = cards.program.clone();
        let (service, line): (_, Box<dyn Line>) = match &config.mode {
            CardMode::InProcess => {
                let verifier = kernels::provider().verifier;
                let (process, queue) = InProcess::start(config.clone(), verifier)?;
                (Service::InProcess(process), Box::new(queue))
            }
            CardMode::Agent | CardMode::Connect { .. } => {
                let (agent, submitter) = Agent::start(config.agent(program, &file))?;
                (Service::Agent(agent), Box::new(submitter))
            }
        };
        let (line, is_stopped) = (Mutex::new(Some(line)), Arc::clone(&cards.is_stopped));
        Ok(Self { file, config, service, line, is_stopped })
    }

    /// What its file says.
    #[must_use]
    pub const fn config(&self) -> &CardConfig {
        &self.config
    }

    /// Its keys, for threads that may wait. Good as long as this card is.
    #[must_use]
    pub fn keystore(&self) -> Arc<dyn Keystore> {
        match &self.service {
            Service::Agent(agent) => Arc::new(agent.client().clone()),
            Service::InProcess(process) => Arc::<InProcessCard>::clone(process.card()),
        }
    }

    /// Signing without waiting. There is one for each card, for one tile.
    ///
    /// # Errors
    /// [`CardError::Taken`] for whoever comes second.
    pub fn take_line(&self) -> Result<Box<dyn Line>, CardError> {
        let taken = self.line.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.ok_or_else(|| CardError::Taken { card: self.config.name.clone() })
    }

    /// Waits until the card serves.
    ///
    /// # Errors
    /// Why it does not, when the deadline has passed, or at once if it never will by itself.
    pub fn wait_ready(&self, deadline: Nanos) -> Result<(), CardError> {
        loop {
            let now = monotonic();
            let step = now.after(STOP_LOOK).min(deadline);
            let ready = match &self.service {
                Service::Agent(agent) => agent.client().wait_ready(step),
                Service::InProcess(process) => process.card().wait_ready(step),
            };
            let ready = ready.map_err(CardError::Card);
            let may_wait = ready.as_ref().is_err_and(CardError::may_pass);
            if !may_wait || now >= deadline {
                return ready;
            }
            if (self.is_stopped)() {
                return Err(CardError::Interrupted { card: self.config.name.clone() });
            }
        }
    }

    /// The label of its token, once it serves. Never waits.
    #[must_use]
    pub fn token_label(&self) -> Option<String> {
        self.identity().map(|identity| identity.token_label)
    }

    /// Who it is, once it serves. Never waits.
    #[must_use]
    pub fn identity(&self) -> Option<CardIdentity> {
        match &self.service {
            Service::Agent(agent) => {
                let status = agent.client().status();
                status.identity.filter(|_| status.state == AgentState::Serving)
            }
            Service::InProcess(process) => process.card().known_identity(),
        }
    }

    /// How it does now, as far as that is known without waiting.
    #[must_use]
    pub fn status(&self) -> CardStatus {
        match &self.service {
            Service::Agent(agent) => {
                let mut status = agent.client().status();
                let report = status.report.take();
                CardStatus { agent: Some(status), report }
            }
            Service::InProcess(process) => {
                CardStatus { agent: None, report: process.card().report() }
            }
        }
    }

    /// Waits until the card serves, looks whether it has the token that the key's name asks for,
    /// and opens the key.
    ///
    /// # Errors
    /// What keeps the card or the key from being used.
    pub fn open_key(&self, key: &KeyUri, usage: Usage) -> Result<KeyHandle, CardError> {
        let until = deadline_in(START_TIME);
        self.wait_ready(until)?;
        let keystore = self.keystore();
        let found = keystore.identity(until)?.token_label;
        if let Some(wanted) = key.token.as_ref().filter(|wanted| **wanted != found) {
            let (card, wanted) = (self.config.name.clone(), wanted.clone());
            return Err(CardError::OtherToken { card, wanted, found });
        }
        Ok(keystore.open_key(&key.key, usage, until)?)
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
        let found = self.keystore().public_key(handle)?;
        if found != *expected {
            let (found, expected) = (Box::new(found), Box::new(*expected));
            return Err(CardError::OtherKey { card: self.config.name.clone(), found, expected });
        }
        Ok(handle)
    }

    /// A handle for a key of a card that is away: it is opened when the card comes, and must then
    /// have this public key.
    ///
    /// # Errors
    /// If the card has come meanwhile, and what it says of the key.
    pub fn expect_pair(
        &self,
        key: &KeyUri,
        usage: Usage,
        expected: &PublicKey,
    ) -> Result<KeyHandle, CardError> {
        let until = deadline_in(START_TIME);
        Ok(match &self.service {
            Service::Agent(agent) => agent.client().expect_key(&key.key, usage, expected, until),
            Service::InProcess(process) => {
                process.card().expect_key(&key.key, usage, expected, until)
            }
        }?)
    }
}

/// See the module.
pub struct Cards {
    program: PathBuf,
    is_stopped: StopCheck,
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
    pub fn with_program(program: PathBuf) -> Self {
        Self { program, is_stopped: Arc::new(|| false), open: Vec::new() }
    }

    /// The same, and nobody waits for a card any more once `is_stopped` says so.
    #[must_use]
    pub fn until(self, is_stopped: StopCheck) -> Self {
        Self { is_stopped, ..self }
    }

    /// The card of this file. Its agent is started if it is asked for the first time; nobody waits
    /// for it here, so that several cards become ready side by side.
    ///
    /// # Errors
    /// If its file is at fault, or the host has no room for an agent.
    pub fn card(&mut self, file: &Path) -> Result<Arc<NodeCard>, CardError> {
        self.find(file, false)
    }

    fn find(&mut self, file: &Path, waits_for_token: bool) -> Result<Arc<NodeCard>, CardError> {
        // A file that is not there is told of by whoever reads it.
        let file = file.canonicalize().or_else(|_| std::path::absolute(file))?;
        if let Some(card) = self.open.iter().find(|card| card.file == file) {
            return Ok(Arc::clone(card));
        }
        let config = CardConfig::load(&file)?;
        // A token that was there before is away; one that never was is a mistake in the file.
        let waits_for_token = waits_for_token || config.identity_file.exists();
        let config = CardConfig { waits_for_token, ..config };
        if let Some(other) = self.open.iter().find(|card| card.config.name == config.name) {
            let (name, first) = (config.name, other.file.clone());
            return Err(CardError::SameName { name, first, second: file });
        }
        let card = Arc::new(NodeCard::start(file, config, self)?);
        self.open.push(Arc::clone(&card));
        Ok(card)
    }

    /// The same for a card beside others with the same key: its token is waited for if it is not
    /// there, also the first time, unless the card was asked for alone before.
    ///
    /// # Errors
    /// As [`Cards::card`].
    pub fn card_of_several(&mut self, file: &Path) -> Result<Arc<NodeCard>, CardError> {
        self.find(file, true)
    }

    /// Ends the agents of cards that nobody keeps: their keys were needed for the start alone.
    pub fn let_go(&mut self) {
        self.open.retain(|card| Arc::strong_count(card) > 1);
    }

    /// All cards that were asked for and not let go of, in their order.
    #[must_use]
    pub fn all(&self) -> &[Arc<NodeCard>] {
        &self.open
    }
}
