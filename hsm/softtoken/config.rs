//! The configuration: a TOML file that `HUFU_SOFTTOKEN_CONF` names, since PKCS#11 hands a library
//! nothing at start.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The environment variable with the file's path.
pub const ENVIRONMENT: &str = "HUFU_SOFTTOKEN_CONF";

/// Slots at most.
const SLOTS_COUNT_MAX: u32 = 64;
/// Sessions of one token in one process at most.
const SESSIONS_COUNT_MAX: u32 = 65_536;
/// Turns of the key derivation: fewer are for tests, more make each login slower than a card's.
pub(crate) const PIN_ROUNDS: std::ops::RangeInclusive<u32> = 1_000..=10_000_000;
/// Attempts at a PIN before it locks.
pub(crate) const PIN_TRIES: std::ops::RangeInclusive<u32> = 1..=100;
/// Longest added latency: ten seconds.
const LATENCY_MICROS_MAX: u64 = 10_000_000;

/// What a file says. Unknown keys are refused; only `store` must be there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of the tokens, one folder each; made if it is missing.
    pub store: PathBuf,
    /// Slots, each with one token.
    #[serde(default = "slots_count")]
    pub slots_count: u32,
    /// Whose codes, forms and quirks the module has: `native` or the name of an imitation.
    #[serde(default = "imitation")]
    pub imitation: String,
    /// Sessions of one token in one process.
    #[serde(default = "sessions_count_max")]
    pub sessions_count_max: u32,
    /// Added to each operation with a key, and to each random number.
    #[serde(default)]
    pub latency_micros: u64,
    /// Turns of the derivation of a key from a PIN, for PINs set from now on.
    #[serde(default = "pin_rounds")]
    pub pin_rounds: u32,
    /// Attempts at a PIN before it locks.
    #[serde(default = "pin_tries_max")]
    pub pin_tries_max: u32,
    /// Says on stderr why a return value was given where the value alone does not tell.
    #[serde(default)]
    pub messages: bool,
}

const fn slots_count() -> u32 {
    1
}

fn imitation() -> String {
    "native".to_owned()
}

const fn sessions_count_max() -> u32 {
    256
}

const fn pin_rounds() -> u32 {
    600_000
}

const fn pin_tries_max() -> u32 {
    10
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The variable is not set.
    #[error("set {ENVIRONMENT} to the path of a configuration file")]
    Unset,
    /// The file cannot be read.
    #[error("{}: {cause}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is no TOML, lacks a key, or has one too many.
    #[error("{}: {cause}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and what.
        cause: Box<toml::de::Error>,
    },
    /// A value is out of its range.
    #[error("{key}: {rule}")]
    Range {
        /// Which key.
        key: &'static str,
        /// What it must be.
        rule: String,
    },
}

impl Config {
    /// The configuration with the defaults and this store.
    #[must_use]
    pub fn new(store: &Path) -> Self {
        Self {
            store: store.to_owned(),
            slots_count: slots_count(),
            imitation: imitation(),
            sessions_count_max: sessions_count_max(),
            latency_micros: 0,
            pin_rounds: pin_rounds(),
            pin_tries_max: pin_tries_max(),
            messages: false,
        }
    }

    /// The file that the environment names.
    ///
    /// # Errors
    /// If it is not named, or as [`Config::read`].
    pub fn from_environment() -> Result<Self, ConfigError> {
        let path = std::env::var_os(ENVIRONMENT).ok_or(ConfigError::Unset)?;
        Self::read(Path::new(&path))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, is no TOML, or a key is missing, unknown or out of range.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?;
        let config: Self = toml::from_str(&text).map_err(|cause| ConfigError::Malformed {
            path: path.to_owned(),
            cause: Box::new(cause),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Whether every value is in its range.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let range = |good: bool, key, rule: String| {
            if good { Ok(()) } else { Err(ConfigError::Range { key, rule }) }
        };
        let between = |from: u64, to: u64| format!("must be from {from} to {to}");
        range(self.store.is_absolute(), "store", "must be an absolute path".to_owned())?;
        let slots = (1..=SLOTS_COUNT_MAX).contains(&self.slots_count);
        range(slots, "slots_count", between(1, SLOTS_COUNT_MAX.into()))?;
        let sessions = (1..=SESSIONS_COUNT_MAX).contains(&self.sessions_count_max);
        range(sessions, "sessions_count_max", between(1, SESSIONS_COUNT_MAX.into()))?;
        let latency = self.latency_micros <= LATENCY_MICROS_MAX;
        range(latency, "latency_micros", between(0, LATENCY_MICROS_MAX))?;
        let (from, to) = (PIN_ROUNDS.start(), PIN_ROUNDS.end());
        let rounds = PIN_ROUNDS.contains(&self.pin_rounds);
        range(rounds, "pin_rounds", between((*from).into(), (*to).into()))?;
        let (from, to) = (PIN_TRIES.start(), PIN_TRIES.end());
        let tries = PIN_TRIES.contains(&self.pin_tries_max);
        range(tries, "pin_tries_max", between((*from).into(), (*to).into()))?;
        let known = crate::imitations::by_name(&self.imitation).is_some();
        let names = crate::imitations::names().join(", ");
        range(known, "imitation", format!("must be one of {names}"))
    }
}

/// Writes one line to stderr, where an operator looks when a client shows him a number only.
pub(crate) fn complain(text: &str) {
    let line = format!("hufu_softtoken: {text}\n");
    // Who has closed stderr does not want to know.
    drop(std::io::stderr().write_all(line.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("softtoken.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_store_must_be_there() {
        let config = read("store = \"/x\"").unwrap();
        assert_eq!(
            (config.slots_count, config.imitation.as_str(), config.messages),
            (1, "native", false)
        );
        assert!(read("slots_count = 1").unwrap_err().contains("store"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let bad = [
            ("store = \"x\"", "absolute"),
            ("store = \"/x\"\nslot = 1", "slot"),
            ("store = \"/x\"\nslots_count = 0", "slots_count"),
            ("store = \"/x\"\nslots_count = 65", "slots_count"),
            ("store = \"/x\"\nsessions_count_max = 0", "sessions_count_max"),
            ("store = \"/x\"\nlatency_micros = 10000001", "latency_micros"),
            ("store = \"/x\"\npin_rounds = 999", "pin_rounds"),
            ("store = \"/x\"\npin_tries_max = 0", "pin_tries_max"),
            ("store = \"/x\"\nimitation = \"acme\"", "sansec"),
            ("store = ", "softtoken.toml"),
        ];
        for (text, wanted) in bad {
            let error = read(text).unwrap_err();
            assert!(error.contains(wanted), "{text:?} gave {error:?}");
        }
        let missing = Config::read(Path::new("/nonexistent/a.toml")).unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/a.toml"), "{missing}");
    }
}
