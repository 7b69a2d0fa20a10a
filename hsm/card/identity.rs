//! Which card was there last: a small file beside the card's configuration.
//!
//! A card that was swapped, or whose firmware or library was changed, is a thing that somebody
//! should have decided. The first card that is met is written down; another one is refused until
//! an operator takes the file away or runs `hufu hsm acknowledge`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::pool::difference;
use crate::{CardIdentity, Error};

/// Bytes of the file at most.
const FILE_BYTES_MAX: usize = 16 << 10;

/// The card of the file, which `found` must be; or `found`, written down, if there is no file.
///
/// # Errors
/// [`Error::CardChanged`], or [`Error::IdentityFile`] if the file cannot be read or written.
pub fn known_or_first(path: &Path, found: &CardIdentity) -> Result<CardIdentity, Error> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            acknowledge(path, found)?;
            return Ok(found.clone());
        }
        Err(cause) => return Err(faulty(path, &cause.to_string())),
    };
    if text.len() > FILE_BYTES_MAX {
        return Err(faulty(path, "it is too long"));
    }
    let known: CardIdentity =
        toml::from_str(&text).map_err(|cause| faulty(path, cause.message()))?;
    match difference(&known, found) {
        Some(error) => Err(error),
        None => Ok(known),
    }
}

/// Writes down that this is the card, durably, in the place of what was there.
///
/// # Errors
/// [`Error::IdentityFile`] if it cannot be written.
pub fn acknowledge(path: &Path, card: &CardIdentity) -> Result<(), Error> {
    let text = toml::to_string(card).map_err(|cause| faulty(path, &cause.to_string()))?;
    let fresh = path.with_extension("identity.new");
    let written = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, path)?;
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        File::open(folder.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    written().map_err(|cause| faulty(path, &cause.to_string()))
}

fn faulty(path: &Path, reason: &str) -> Error {
    Error::IdentityFile { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(serial: &str) -> CardIdentity {
        CardIdentity {
            library_manufacturer: "三未 \"信安\"".to_owned(),
            library_version: (2, 1),
            token_label: "hufu".to_owned(),
            token_manufacturer: String::new(),
            token_model: "T1".to_owned(),
            token_serial: serial.to_owned(),
            firmware_version: (3, 4),
            hardware_version: (5, 6),
        }
    }

    #[test]
    fn the_first_card_is_remembered_and_another_is_refused_until_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card-0.identity");
        assert_eq!(known_or_first(&path, &card("1")).unwrap(), card("1"));
        assert_eq!(known_or_first(&path, &card("1")).unwrap(), card("1"));
        let refused = known_or_first(&path, &card("2")).unwrap_err();
        assert!(matches!(refused, Error::CardChanged { .. }), "{refused}");
        acknowledge(&path, &card("2")).unwrap();
        assert_eq!(known_or_first(&path, &card("2")).unwrap(), card("2"));
        assert!(known_or_first(&path, &card("1")).is_err());
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_new_card() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card-0.identity");
        for text in ["", "token_serial = 1", "no toml", &"#".repeat(FILE_BYTES_MAX + 1)] {
            std::fs::write(&path, text).unwrap();
            let refused = known_or_first(&path, &card("1")).unwrap_err();
            assert!(matches!(refused, Error::IdentityFile { .. }), "{refused}");
        }
    }
}
