//! The data key file: what everything in the data folder is encrypted with.
//!
//! ```text
//! data.key --in clear------------------------------------> keyring
//!          `-wrapped--> card's agent --unwrap--> id fits --^
//! ```
//!
//! The first key encrypts what is new, the others read what is older. A file holds its keys in
//! clear, or wrapped by a key that never leaves its card; then it says which card and key, and is
//! of no use without them. The id of a key follows from the key, so a damaged file, another card
//! and another key never pass for the right one. The file is made once, exclusively, with mode
//! 0600, and read under the rules of [`crate::keys_file`]; [`replace`] changes how its keys are
//! kept. Without it the data folder is of no use to anybody: keep a copy of it, apart from copies
//! of the folder.

pub mod replace;
mod stored;
#[cfg(test)]
mod tests;

use std::path::Path;

use hufu_crypto::{Drbg, Provider};
use hufu_hsm::keystore::WRAPPED_BYTES_MAX;
use hufu_storage::keyring::{DataKey, Keyring, show_id};

use crate::card_key::CardPlace;
use crate::cards::CardError;
use crate::kernels;
use crate::keys_file::{KeyFileError, read_private, write_new};
use crate::opened_key::{OpenKey, OpenedKey};
use stored::{Secret, Stored, Wrapped, WrappedKey};

/// Name of the file where the configuration names no other.
pub const DATA_KEY_FILE: &str = "data.key";

/// Keys of one file at most: one rotation a year for the life of a machine.
pub const KEYS_COUNT_MAX: u32 = 32;

/// Why data keys are not used or not made. No variant carries any of their bytes.
#[derive(Debug, thiserror::Error)]
pub enum DataKeyError {
    /// The file is at fault.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The card that wraps the keys cannot be used: it is away, refuses the PIN, is another one
    /// than before, has no such key.
    #[error("data keys are wrapped by {by}: {cause}")]
    Card {
        /// By which key they are, or were to be.
        by: Box<CardPlace>,
        /// What is wrong.
        cause: CardError,
    },
    /// What is wrapped was not wrapped by this key, or was changed.
    #[error("data key {id} was not wrapped by {by}, or was changed: {cause}")]
    NotWrapped {
        /// Its id.
        id: String,
        /// What was to open it.
        by: Box<CardPlace>,
        /// What the card layer says.
        cause: hufu_hsm::Error,
    },
    /// The card made other bytes of it than those that were wrapped.
    #[error("data key {id}: {by} makes another key of it, {found}")]
    OtherKey {
        /// Its id.
        id: String,
        /// What opened it.
        by: Box<CardPlace>,
        /// The id of what came out.
        found: String,
    },
    /// There is no place for another key.
    #[error("the file holds {KEYS_COUNT_MAX} data keys already, there is no place for another")]
    Full,
}

impl DataKeyError {
    /// What an operator does about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::File(error) => error.remedy(),
            Self::Card { cause, .. } if cause.may_pass() => {
                "look whether the card is there and its driver runs, then try again; `hufu hsm \
                 status --card FILE` says how it does"
            }
            Self::Card { .. } => {
                "`hufu hsm status --card FILE` says what is wrong with it; each attempt at a PIN \
                 counts"
            }
            Self::NotWrapped { .. } => {
                "use the card that wrapped it, or put a copy of the file back"
            }
            Self::OtherKey { .. } => {
                "have the card examined, and put a copy of the file back: nothing is opened with \
                 another key"
            }
            Self::Full => "set a node up anew: it fetches everything and needs one key only",
        }
    }

    /// Whether trying again changes nothing, so that no service manager must start the node again.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Card { cause, .. } => !cause.may_pass(),
            Self::File(_) | Self::NotWrapped { .. } | Self::OtherKey { .. } | Self::Full => true,
        }
    }
}

/// What can be said of a data key file without its card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The ids of its keys, the current one's first.
    pub ids: Vec<u64>,
    /// Which key wraps them; none where they are in clear.
    pub wrapped_by: Option<CardPlace>,
}

impl Description {
    /// The ids as messages show them.
    #[must_use]
    pub fn shown_ids(&self) -> String {
        self.ids.iter().map(|id| show_id(*id)).collect::<Vec<_>>().join(", ")
    }
}

/// Makes a fresh data key in clear in a new file of mode 0600, durable when this returns; gives its
/// id.
///
/// # Errors
/// If the file exists or cannot be made durable; a file that was begun is removed.
pub fn create(path: &Path) -> Result<u64, KeyFileError> {
    let secret = fresh()?;
    let id = secret.id();
    write_new(path, &stored::encode_clear(&[secret]))?;
    Ok(id)
}

/// Makes a fresh data key that is wrapped by the key of this place, in a new file of mode 0600 that
/// was read back and opened when this returns; gives its id. A relative path of the card is
/// relative to the folder of the file.
///
/// # Errors
/// If the card does not wrap it, or as [`create`]; a file that was begun is removed.
pub fn create_wrapped(path: &Path, by: &CardPlace, open: OpenKey<'_>) -> Result<u64, DataKeyError> {
    let secret = fresh()?;
    let (id, secrets) = (secret.id(), [secret]);
    let card = Unwrapper::open(path, by, open)?;
    write_new(path, &card.wrap(by, &secrets)?)?;
    if let Err(error) = card.prove(path, &secrets) {
        // The file is new and opens nothing; the error that is reported is the first one.
        drop(std::fs::remove_file(path));
        return Err(error);
    }
    Ok(id)
}

fn fresh() -> Result<Secret, KeyFileError> {
    let mut generator = Drbg::new(kernels::provider().entropy, "hufu data key")?;
    Ok(Secret::filled(|bytes| generator.fill(bytes))?)
}

/// Reads the data keys from a file that only its owner may use; where a card wraps them, through
/// an agent of its own, which has ended when this returns.
///
/// # Errors
/// If the file is not safe to use or holds no keys of this build, or what keeps the card from
/// opening them.
pub fn load(path: &Path, provider: &Provider) -> Result<Keyring, DataKeyError> {
    load_by(path, provider, &OpenedKey::alone)
}

/// As [`load`], with cards that `open` opens.
///
/// # Errors
/// As [`load`].
pub fn load_by(
    path: &Path,
    provider: &Provider,
    open: OpenKey<'_>,
) -> Result<Keyring, DataKeyError> {
    let secrets = secrets(path, read(path)?, open)?;
    let mut keys = secrets.iter().map(|secret| DataKey::new(secret.bytes()));
    let none = KeyFileError::DataKey { reason: "it has no key" };
    let current = keys.next().ok_or(none)?;
    let older = keys.collect();
    Ok(Keyring::new(current, older, provider))
}

/// What can be said of a file without its card.
///
/// # Errors
/// If the file is not safe to use or holds no keys of this build.
pub fn describe(path: &Path) -> Result<Description, KeyFileError> {
    let stored = read(path)?;
    let ids = stored.ids();
    let wrapped_by = match stored {
        Stored::Clear(_) => None,
        Stored::Wrapped(wrapped) => Some(wrapped.by),
    };
    Ok(Description { ids, wrapped_by })
}

fn read(path: &Path) -> Result<Stored, KeyFileError> {
    let content = read_private(path)?;
    stored::decode(&content).map_err(|reason| KeyFileError::DataKey { reason })
}

/// The keys themselves.
fn secrets(path: &Path, stored: Stored, open: OpenKey<'_>) -> Result<Vec<Secret>, DataKeyError> {
    match stored {
        Stored::Clear(secrets) => Ok(secrets),
        Stored::Wrapped(wrapped) => Unwrapper::open(path, &wrapped.by, open)?.unwrap(&wrapped),
    }
}

/// A card that wraps and unwraps data keys by one of its keys.
struct Unwrapper {
    key: OpenedKey,
    by: CardPlace,
}

impl Unwrapper {
    /// Opens the card that the data key file at `path` names, and finds the key.
    fn open(path: &Path, by: &CardPlace, open: OpenKey<'_>) -> Result<Self, DataKeyError> {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let by = CardPlace { card: folder.join(&by.card), key: by.key.clone() };
        match open(&by) {
            Ok(key) => Ok(Self { key, by }),
            Err(cause) => Err(DataKeyError::Card { by: Box::new(by), cause }),
        }
    }

    fn failed(&self, cause: hufu_hsm::Error) -> DataKeyError {
        DataKeyError::Card { by: Box::new(self.by.clone()), cause: cause.into() }
    }

    /// The file of these keys, which says that they are wrapped by `by`: this card's key, by the
    /// path that is to be written.
    fn wrap(&self, by: &CardPlace, secrets: &[Secret]) -> Result<Vec<u8>, DataKeyError> {
        let mut keys = Vec::with_capacity(secrets.len());
        for secret in secrets {
            let mut wrapped = [0; WRAPPED_BYTES_MAX];
            let deadline = OpenedKey::deadline();
            let size =
                self.key.keystore().wrap(self.key.handle(), secret.bytes(), &mut wrapped, deadline);
            let size = size.map_err(|cause| self.failed(cause))?;
            let wrapped = wrapped.get(..size).unwrap_or_default().to_vec();
            keys.push(WrappedKey { id: secret.id(), wrapped });
        }
        let file = stored::encode_wrapped(&Wrapped { by: by.clone(), keys });
        Ok(file.map_err(|reason| KeyFileError::DataKey { reason })?)
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<Secret>, DataKeyError> {
        wrapped.keys.iter().map(|key| self.unwrap_one(key)).collect()
    }

    fn unwrap_one(&self, key: &WrappedKey) -> Result<Secret, DataKeyError> {
        let (id, by) = (show_id(key.id), Box::new(self.by.clone()));
        let deadline = OpenedKey::deadline();
        let unwrapped = Secret::filled(|secret| {
            self.key.keystore().unwrap(self.key.handle(), &key.wrapped, secret, deadline)
        });
        match unwrapped {
            Ok(secret) if secret.id() == key.id => Ok(secret),
            Ok(other) => Err(DataKeyError::OtherKey { id, by, found: show_id(other.id()) }),
            Err(cause @ hufu_hsm::Error::Refused { .. }) => {
                Err(DataKeyError::NotWrapped { id, by, cause })
            }
            Err(cause) => Err(self.failed(cause)),
        }
    }

    /// Reads the file at `path`, which was wrapped by this card, and opens it again.
    fn prove(&self, path: &Path, secrets: &[Secret]) -> Result<(), DataKeyError> {
        let changed = KeyFileError::DataKey { reason: "it is not read as it was written" };
        let Stored::Wrapped(wrapped) = read(path)? else { return Err(changed.into()) };
        let opened = self.unwrap(&wrapped)?;
        let is_same = opened.len() == secrets.len()
            && opened.iter().zip(secrets).all(|(one, two)| one.bytes() == two.bytes());
        if is_same { Ok(()) } else { Err(changed.into()) }
    }
}
