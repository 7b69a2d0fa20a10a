//! Which card was there last: a small file beside the card's configuration.
//!
//! A card that was swapped, or whose firmware or library was changed, is a thing that somebody
//! should have decided. The first card that is met is written down; another one is refused until
//! an operator takes the file away or runs `hufu hsm acknowledge`.
//!
//! An agent makes the file, empty, before it enters its sandbox ([`place`]), so that the library
//! may write to this one file and not to the folder, in which the node's configuration may lie.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::Path;

use crate::pool::difference;
use crate::{CardIdentity, Error};

/// Bytes of the file at most.
const FILE_BYTES_MAX: usize = 16 << 10;

/// The card of the file, which `found` must be; or `found`, written down, if there is no file or an
/// empty one.
///
/// # Errors
/// [`Error::CardChanged`], or [`Error::IdentityFile`] if the file cannot be read or written.
pub fn known_or_first(path: &Path, found: &CardIdentity) -> Result<CardIdentity, Error> {
    let Some(known) = known(path)? else {
        first(path, found)?;
        return Ok(found.clone());
    };
    match difference(&known, found) {
        Some(error) => Err(error),
        None => Ok(known),
    }
}

/// The card of the file; nothing if there is no file or an empty one.
///
/// # Errors
/// [`Error::IdentityFile`] if the file cannot be read.
pub fn known(path: &Path) -> Result<Option<CardIdentity>, Error> {
    let told = |cause: std::io::Error| faulty(path, &cause.to_string());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(told(cause)),
    };
    let mut text = String::new();
    let most = u64::try_from(FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    file.take(most).read_to_string(&mut text).map_err(told)?;
    if text.len() > FILE_BYTES_MAX {
        return Err(faulty(path, "it is too long"));
    }
    if text.is_empty() {
        return Ok(None);
    }
    toml::from_str(&text).map(Some).map_err(|cause| faulty(path, cause.message()))
}

/// Makes the file, empty, for the first card that will be met; it belongs to `owner`, where the
/// process is about to become another user. True if there is no card in it yet.
///
/// # Errors
/// [`Error::IdentityFile`] if it cannot be made or read.
pub fn place(path: &Path, owner: Option<(u32, u32)>) -> Result<bool, Error> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let made = options.open(path).and_then(|file| match owner {
        Some((user, group)) => fchown(&file, Some(user), Some(group)),
        None => Ok(()),
    });
    match made {
        Ok(()) => Ok(true),
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => {
            known(path).map(|card| card.is_none())
        }
        Err(cause) => Err(faulty(path, &cause.to_string())),
    }
}

/// Writes the first card into the empty file that is there, or makes the file.
fn first(path: &Path, card: &CardIdentity) -> Result<(), Error> {
    let mut options = OpenOptions::new();
    match options.write(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(mut file) => {
            let written = text_of(path, card)?;
            let written = file.write_all(written.as_bytes()).and_then(|()| file.sync_all());
            written.map_err(|cause| faulty(path, &cause.to_string()))
        }
        Err(cause) if cause.kind() == ErrorKind::NotFound => acknowledge(path, card),
        Err(cause) => Err(faulty(path, &cause.to_string())),
    }
}

fn text_of(path: &Path, card: &CardIdentity) -> Result<String, Error> {
    toml::to_string(card).map_err(|cause| faulty(path, &cause.to_string()))
}

/// Writes down that this is the card, durably, in the place of what was there.
///
/// # Errors
/// [`Error::IdentityFile`] if it cannot be written.
pub fn acknowledge(path: &Path, card: &CardIdentity) -> Result<(), Error> {
    let text = text_of(path, card)?;
    let fresh = path.with_extension("identity.new");
    let written = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.custom_flags(libc::O_NOFOLLOW).open(&fresh)?;
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

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
    fn a_place_is_made_for_the_first_card_and_only_for_that() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card-0.identity");
        assert!(place(&path, None).unwrap() && place(&path, None).unwrap());
        assert_eq!(known(&path).unwrap(), None);
        let before = std::fs::metadata(&path).unwrap();
        assert_eq!((before.len(), before.permissions().mode() & 0o777), (0, 0o600));
        assert_eq!(known_or_first(&path, &card("1")).unwrap(), card("1"));
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(before.ino(), after.ino(), "a sandbox lets nobody put another in its place");
        assert!(!place(&path, None).unwrap());
        assert!(known_or_first(&path, &card("2")).is_err());
        assert!(place(&folder.path().join("nowhere/card-0.identity"), None).is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("target"), &link).unwrap();
        assert!(place(&link, None).unwrap() && known_or_first(&link, &card("1")).is_err());
        assert!(!folder.path().join("target").exists(), "nothing is made where a link leads");
    }

    #[test]
    fn a_damaged_file_is_an_error_and_no_new_card() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card-0.identity");
        for text in ["\n", "token_serial = 1", "no toml", &"#".repeat(FILE_BYTES_MAX + 1)] {
            std::fs::write(&path, text).unwrap();
            let refused = known_or_first(&path, &card("1")).unwrap_err();
            assert!(matches!(refused, Error::IdentityFile { .. }), "{refused}");
        }
    }
}
