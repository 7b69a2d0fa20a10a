//! Errors of commands: what went wrong, where, and what to do about it.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE};
use crate::config::Faults;
use crate::data_key::DataKeyError;
use crate::keys_file::KeyFileError;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum CliError {
    /// A file an operator wrote is faulty.
    Config(Faults),
    /// The arguments make no sense together.
    Usage {
        /// What is wrong with them.
        what: String,
        /// How they would make sense.
        remedy: String,
    },
    /// The command or check failed.
    Failed {
        /// What failed.
        what: String,
        /// Where: a file, an address, a transaction.
        place: String,
        /// What to do about it.
        remedy: String,
    },
    /// A configuration is at fault in a way that only shows when it is used.
    Misconfigured {
        /// What is at fault.
        what: String,
        /// Where.
        place: String,
        /// What to do about it.
        remedy: String,
    },
    /// The check failed and has printed its findings as its result.
    Reported,
    /// Someone interrupted; everything that was started has been stopped.
    Interrupted,
}

impl CliError {
    /// A failure at a place.
    pub fn failed(
        what: impl fmt::Display,
        place: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::Failed {
            what: what.to_string(),
            place: place.to_string(),
            remedy: remedy.to_string(),
        }
    }

    /// A failure at a file.
    pub fn file(what: impl fmt::Display, path: &Path, remedy: impl fmt::Display) -> Self {
        Self::failed(what, path.display(), remedy)
    }

    /// A configuration that is at fault, at a place.
    pub fn misconfigured(
        what: impl fmt::Display,
        place: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        let [what, place, remedy] = [what.to_string(), place.to_string(), remedy.to_string()];
        Self::Misconfigured { what, place, remedy }
    }

    /// Arguments that make no sense.
    pub fn usage(what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self::Usage { what: what.to_string(), remedy: remedy.to_string() }
    }

    /// A key file that is not used. A passphrase that is wrong or not there is what somebody set up
    /// wrongly, as a PIN is.
    #[must_use]
    pub fn key(error: &KeyFileError, path: &Path) -> Self {
        match error {
            KeyFileError::Passphrase | KeyFileError::PassphraseUnreadable { .. } => {
                Self::misconfigured(error, path.display(), error.remedy())
            }
            _ => Self::file(error, path, error.remedy()),
        }
    }

    /// Data keys that are not used: their file, or what was set up of the card that wraps them.
    #[must_use]
    pub fn data_key(error: &DataKeyError, path: &Path) -> Self {
        match error {
            DataKeyError::Card { .. } if error.is_permanent() => {
                Self::misconfigured(error, path.display(), error.remedy())
            }
            _ => Self::file(error, path, error.remedy()),
        }
    }

    /// What failed, in one line.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::Config(faults) => format!("{} faults of a configuration", faults.faults.len()),
            Self::Usage { what, .. }
            | Self::Failed { what, .. }
            | Self::Misconfigured { what, .. } => what.clone(),
            Self::Reported => "the check failed".to_owned(),
            Self::Interrupted => "interrupted".to_owned(),
        }
    }

    /// The process's exit code (design.md 6).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Misconfigured { .. } => EXIT_CONFIG,
            Self::Usage { .. } => EXIT_USAGE,
            Self::Failed { .. } | Self::Reported => EXIT_FAILED,
            Self::Interrupted => EXIT_INTERRUPTED,
        }
    }

    /// The error as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let error = match self {
            Self::Config(faults) => faults.to_json(),
            Self::Usage { what, remedy } => json!({ "what": what, "remedy": remedy }),
            Self::Failed { what, place, remedy } | Self::Misconfigured { what, place, remedy } => {
                json!({ "what": what, "where": place, "remedy": remedy })
            }
            Self::Reported => json!({ "what": "the check failed" }),
            Self::Interrupted => json!({ "what": "interrupted" }),
        };
        json!({ "error": error, "exit_code": self.exit_code() })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(faults) => write!(formatter, "error: {faults}"),
            Self::Usage { what, remedy } => write!(formatter, "error: {what}\n  do: {remedy}"),
            Self::Failed { what, place, remedy } | Self::Misconfigured { what, place, remedy } => {
                write!(formatter, "error: {what}\n  at: {place}\n  do: {remedy}")
            }
            Self::Reported => write!(formatter, "error: the check failed"),
            Self::Interrupted => write!(formatter, "interrupted; nothing is left running"),
        }
    }
}

impl From<Faults> for CliError {
    fn from(faults: Faults) -> Self {
        Self::Config(faults)
    }
}
