//! Changes how a data key file keeps its keys: wraps them by a card, by another one, or no more;
//! puts a fresh key in front.
//!
//! ```text
//! open the old file -> FILE.new: durable, read back, opened -> FILE.new becomes FILE, durable
//! ```
//!
//! The old file stays what it is until the new one has proven that it opens the same keys, so that
//! no crash and no failing card leaves a node without them ([`crate::replace_file`]).

use std::path::Path;

use super::stored::{self, Secret, Stored};
use super::{DataKeyError, KEYS_COUNT_MAX, Unwrapper, fresh, read, secrets};
use crate::card_key::CardPlace;
use crate::keys_file::KeyFileError;
use crate::opened_key::OpenKey;
use crate::replace_file::{self, Old};

/// How the keys of a file are to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// In clear.
    Clear,
    /// Wrapped by this key. A relative path of the card is relative to the folder of the file.
    Wrapped(CardPlace),
}

/// Keeps the keys of the file at `path` in another way. `moved` is where the file of the card that
/// wraps them now lies, if it is not where they say.
///
/// # Errors
/// What keeps either card or file from being used; the file is then as it was.
pub fn rewrap(
    path: &Path,
    keeping: &Keeping,
    moved: Option<&Path>,
    open: OpenKey<'_>,
) -> Result<(), DataKeyError> {
    let mut stored = read(path)?;
    if let (Stored::Wrapped(wrapped), Some(moved)) = (&mut stored, moved) {
        moved.clone_into(&mut wrapped.by.card);
    }
    let was_clear = matches!(stored, Stored::Clear(_));
    let secrets = secrets(path, stored, open)?;
    replace(path, keeping, &secrets, was_clear, open)
}

/// Puts a fresh key in front of those of the file at `path`, kept as they are: what the node writes
/// from its next start on is encrypted with it. Gives its id.
///
/// # Errors
/// As [`rewrap`], and [`DataKeyError::Full`].
pub fn rotate(path: &Path, open: OpenKey<'_>) -> Result<u64, DataKeyError> {
    let stored = read(path)?;
    let most = usize::try_from(KEYS_COUNT_MAX).unwrap_or(usize::MAX);
    if stored.ids().len() >= most {
        return Err(DataKeyError::Full);
    }
    let keeping = match &stored {
        Stored::Clear(_) => Keeping::Clear,
        Stored::Wrapped(wrapped) => Keeping::Wrapped(wrapped.by.clone()),
    };
    let fresh = fresh()?;
    let id = fresh.id();
    let mut all = vec![fresh];
    all.extend(secrets(path, stored, open)?);
    // The old keys are in the new file too, so there is nothing to overwrite.
    replace(path, &keeping, &all, false, open)?;
    Ok(id)
}

fn replace(
    path: &Path,
    keeping: &Keeping,
    secrets: &[Secret],
    was_clear: bool,
    open: OpenKey<'_>,
) -> Result<(), DataKeyError> {
    match keeping {
        Keeping::Clear => {
            let content = stored::encode_clear(secrets);
            replace_file::replace(path, &content, Old::Dropped, |new| prove_clear(new, secrets))
        }
        Keeping::Wrapped(by) => {
            let card = Unwrapper::open(path, by, open)?;
            let old = if was_clear { Old::Erased } else { Old::Dropped };
            let content = card.wrap(by, secrets)?;
            replace_file::replace(path, &content, old, |new| card.prove(new, secrets))
        }
    }
}

fn prove_clear(new: &Path, secrets: &[Secret]) -> Result<(), DataKeyError> {
    let is_same = match read(new)? {
        Stored::Clear(read) => {
            read.len() == secrets.len()
                && read.iter().zip(secrets).all(|(one, two)| one.bytes() == two.bytes())
        }
        Stored::Wrapped(_) => false,
    };
    let changed = KeyFileError::DataKey { reason: "it is not read as it was written" };
    if is_same { Ok(()) } else { Err(changed.into()) }
}
