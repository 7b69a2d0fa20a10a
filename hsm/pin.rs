//! PINs: where they come from, and how they live in this process.
//!
//! A PIN comes from a file, a descriptor inherited from whoever started the process, or a systemd
//! credential. It never comes from the command line or from the value of an environment variable,
//! which any process of the same user can read. In memory it has a page of its own that is not
//! swapped, not dumped and not inherited, and it is overwritten when it is dropped. It has no
//! `Debug`, no `Clone` and no comparison, and no error carries any part of it.

mod memory;

use core::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Error;
use memory::Page;

/// Most bytes of a PIN, which is more than any card takes.
pub const PIN_BYTES_MAX: usize = 255;

/// The variable in which systemd names the folder of a service's credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// A PIN. One copy, in locked memory, gone when dropped; or none, where somebody types it at the
/// token's own pad.
pub struct Pin {
    /// `None` with a pad.
    page: Option<Page>,
    size: usize,
}

/// Where a PIN is read from. It names the place and can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSource {
    /// A file of this user's that nobody else may read; not a symbolic link.
    File(PathBuf),
    /// A descriptor that whoever started the process left open. It is read to its end; a pipe can
    /// be read once only.
    Descriptor(i32),
    /// A systemd credential (`LoadCredential=`, `LoadCredentialEncrypted=`) by its name.
    Credential(String),
    /// The token's own pad (`CKF_PROTECTED_AUTHENTICATION_PATH`): somebody types it there whenever
    /// the library asks, at each login.
    Pad,
}

impl fmt::Display for PinSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "file {path:?}"),
            Self::Descriptor(number) => write!(formatter, "descriptor {number}"),
            Self::Credential(name) => write!(formatter, "credential {name:?}"),
            Self::Pad => formatter.write_str("the token's PIN pad"),
        }
    }
}

impl PinSource {
    /// Reads the PIN.
    ///
    /// # Errors
    /// [`Error::PinUnreadable`] with the name of the source and what is wrong with it.
    pub fn read(&self) -> Result<Pin, Error> {
        let read = match self {
            Self::File(path) => open_private(path).and_then(read_to_end),
            Self::Descriptor(number) => {
                memory::inherited(*number).map_err(|error| error.to_string()).and_then(read_to_end)
            }
            Self::Credential(name) => open_credential(name).and_then(read_to_end),
            Self::Pad => Ok(Pin::at_the_pad()),
        };
        read.map_err(|reason| Error::PinUnreadable { source_name: self.to_string(), reason })
    }
}

impl Pin {
    /// Reads a PIN to the end of `source`, which errors call by `source_name`; a newline at its
    /// end is not part of it.
    ///
    /// # Errors
    /// [`Error::PinUnreadable`] if there is nothing, too much, a zero byte, or no end.
    pub fn from_reader(source: impl Read, source_name: &str) -> Result<Self, Error> {
        let source_name = source_name.to_owned();
        read_to_end(source).map_err(|reason| Error::PinUnreadable { source_name, reason })
    }

    /// No PIN: somebody types it at the token's pad.
    #[must_use]
    pub const fn at_the_pad() -> Self {
        Self { page: None, size: 0 }
    }

    /// Whether somebody types it at the token's pad.
    #[must_use]
    pub const fn is_at_the_pad(&self) -> bool {
        self.page.is_none()
    }

    /// The bytes: for the library, or for deriving the key of what a passphrase opens; none with a
    /// pad.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.page.as_ref().and_then(|page| page.bytes().get(..self.size)).unwrap_or(&[])
    }
}

/// Reads straight into locked memory, so that no other copy of the PIN is ever made.
fn read_to_end(mut source: impl Read) -> Result<Pin, String> {
    let mut page = Page::new().map_err(|error| format!("no memory for it: {error}"))?;
    let mut size = 0;
    loop {
        // Two bytes more than a PIN may have: a newline of two bytes may follow it.
        let room = page.bytes_mut().get_mut(size..PIN_BYTES_MAX + 3).unwrap_or(&mut []);
        if room.is_empty() {
            return Err(too_long());
        }
        match source.read(room) {
            Ok(0) => break,
            Ok(count) => size += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let mut bytes = page.bytes().get(..size).unwrap_or(&[]);
    bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if bytes.len() > PIN_BYTES_MAX {
        return Err(too_long());
    }
    if bytes.contains(&0) {
        return Err("it holds a zero byte, so it is no PIN".to_owned());
    }
    let size = bytes.len();
    Ok(Pin { page: Some(page), size })
}

fn too_long() -> String {
    format!("it is longer than {PIN_BYTES_MAX} bytes")
}

/// Opens a file that only this user may read.
fn open_private(path: &Path) -> Result<File, String> {
    let (file, metadata) = open_regular(path)?;
    if metadata.uid() != memory::effective_user() {
        return Err(format!("it belongs to user {}, not to this one", metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return Err(format!("others may read it (mode {mode:o}): make it 0600"));
    }
    Ok(file)
}

/// Opens a credential. Its folder is systemd's and closed to others; systemd lets the service in by
/// an access list, which shows as rights of the group, so only rights of all others are refused.
fn open_credential(name: &str) -> Result<File, String> {
    let is_plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    if !is_plain {
        return Err("a credential's name is one file name, without a slash".to_owned());
    }
    let folder = std::env::var_os(CREDENTIALS_VARIABLE)
        .ok_or_else(|| format!("{CREDENTIALS_VARIABLE} is not set: systemd gave no credentials"))?;
    let (file, metadata) = open_regular(&Path::new(&folder).join(name))?;
    let owner = metadata.uid();
    if owner != 0 && owner != memory::effective_user() {
        return Err(format!("it belongs to user {owner}, neither to this one nor to root"));
    }
    if metadata.mode() & 0o007 != 0 {
        return Err(format!("all may read it (mode {:o})", metadata.mode() & 0o777));
    }
    Ok(file)
}

/// Opens a regular file without following a link in its place; what is checked is what is read.
fn open_regular(path: &Path) -> Result<(File, std::fs::Metadata), String> {
    // Without `O_NONBLOCK`, opening a pipe that nobody writes to would wait for ever.
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => "it is a symbolic link".to_owned(),
        _ => error.to_string(),
    })?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err("it is no regular file".to_owned()) }
}

#[cfg(test)]
mod tests;
