//! How an agent is started and what it may take.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::ring::{SLOTS_COUNT_MAX, SLOTS_COUNT_MIN};
use crate::error::Error;

/// How long caller and worker spin where nothing else is said: what a host with other work can
/// spare for each call.
pub const SPIN_SHORT: Duration = Duration::from_micros(20);

/// Where the agent's process comes from.
#[derive(Clone, Debug)]
pub enum AgentSource {
    /// The supervisor starts it, and it dies with the supervisor's thread.
    Start {
        /// What is run: the node's own binary.
        program: PathBuf,
        /// Its arguments. Nothing secret: every user of the host can read them.
        arguments: Vec<OsString>,
        /// The whole environment of the agent; nothing is inherited.
        environment: Vec<(OsString, OsString)>,
    },
    /// Others run it, and it listens ([`super::Listener`]).
    Connect {
        /// Its socket.
        path: PathBuf,
        /// The user it must run as.
        user: u32,
    },
}

impl std::fmt::Display for AgentSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { program, .. } => {
                write!(formatter, "{} cannot be started", program.display())
            }
            Self::Connect { path, .. } => {
                write!(formatter, "{} cannot be reached", path.display())
            }
        }
    }
}

/// One agent: what is run, and the limits on it. Durations are of this process's clock.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the card, for threads and logs.
    pub name: String,
    /// Where the process comes from.
    pub source: AgentSource,
    /// Calls that may be under way at once, count.
    pub slots_count: u32,
    /// Of these, how many belong to [`super::Submitter`], and all it may use: neither other callers
    /// nor the tile that signs votes can starve each other.
    pub reserved_count: u32,
    /// How long a caller spins for its answer at most, about when it is to be expected by the calls
    /// before; it sleeps before and after that. Not at all where this is nothing.
    pub spin: Duration,
    /// How long an idle worker of the agent spins for the next call before it sleeps; one does.
    pub worker_spin: Duration,
    /// From the start of the process to its card being open.
    pub start_time: Duration,
    /// From the word to stop to the end of the process.
    pub stop_time: Duration,
    /// How long after its deadline a call without an answer proves that the agent hangs.
    pub grace: Duration,
    /// How long the agent's main thread may be silent.
    pub silence_time: Duration,
    /// The longest that any call waits, whatever its deadline.
    pub call_time_max: Duration,
    /// Wait before the second restart in a row; it doubles from one to the next. The first is at
    /// once.
    pub restart_wait_min: Duration,
    /// The longest wait before a restart.
    pub restart_wait_max: Duration,
    /// How long an agent must have served for its end to be the first one again.
    pub health_time: Duration,
}

impl AgentConfig {
    /// The usual limits around an agent.
    #[must_use]
    pub fn new(name: &str, source: AgentSource) -> Self {
        Self {
            name: name.to_owned(),
            source,
            slots_count: 128,
            reserved_count: 32,
            spin: SPIN_SHORT,
            worker_spin: SPIN_SHORT,
            // Less than a node waits for its card at its start, so that it hears why there is none.
            start_time: Duration::from_secs(50),
            stop_time: Duration::from_secs(5),
            grace: Duration::from_secs(1),
            silence_time: Duration::from_secs(10),
            call_time_max: Duration::from_secs(60),
            restart_wait_min: Duration::from_millis(100),
            restart_wait_max: Duration::from_secs(10),
            health_time: Duration::from_secs(60),
        }
    }

    /// Whether the limits fit together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let slots = SLOTS_COUNT_MIN..=SLOTS_COUNT_MAX;
        let reason = if !slots.contains(&self.slots_count) {
            format!("{} slots; there must be {slots:?}", self.slots_count)
        } else if !(1..self.slots_count).contains(&self.reserved_count) {
            format!("{} of {} slots are reserved", self.reserved_count, self.slots_count)
        } else if self.grace.is_zero() || self.silence_time.is_zero() {
            "a hang needs time to be told from work".to_owned()
        } else if self.restart_wait_min.is_zero() || self.restart_wait_max.is_zero() {
            "restarts in a row need time between them".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::Agent { reason: format!("configuration of {:?}: {reason}", self.name) })
    }
}
