//! How an agent does, for metrics, logs and `hufu hsm status`.

use crate::keystore::CardIdentity;
use crate::pool::CardReport;

/// Where an agent stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AgentState {
    /// Not started, or between an end and the next start.
    #[default]
    Waiting,
    /// The process runs and opens its card.
    Starting,
    /// Calls are served.
    Serving,
    /// It was killed, and has not ended yet.
    Ending,
    /// It said that trying again cannot help (a wrong PIN, another card); nobody starts it again.
    Refused,
    /// Asked to stop, and over.
    Stopped,
}

impl AgentState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Starting, Self::Serving, Self::Ending, Self::Refused, Self::Stopped];

    /// For metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Ending => "ending",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }
}

/// A reading of everything that is known about one agent.
#[derive(Clone, Debug, Default)]
pub struct AgentStatus {
    /// Where it stands.
    pub state: AgentState,
    /// Its process, while there is one.
    pub process: Option<u32>,
    /// The card it found at its first start; every later one must have the same.
    pub identity: Option<CardIdentity>,
    /// Calls it runs at once.
    pub workers_count: u32,
    /// What it said of its sandbox, a line each.
    pub notes: Vec<String>,
    /// Processes started.
    pub starts_count: u64,
    /// Processes killed: they hung, or broke the protocol.
    pub kills_count: u64,
    /// Calls under way.
    pub open_calls_count: usize,
    /// What the card of the present process counted, or of the last one; of about a second ago.
    pub report: Option<CardReport>,
    /// Why the last process ended, or was not started.
    pub last_failure: Option<String>,
}

impl AgentStatus {
    /// Whether nothing but an operator's act brings it back.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self.state, AgentState::Refused | AgentState::Stopped)
    }
}
