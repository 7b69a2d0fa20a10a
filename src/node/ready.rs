//! The file `ready.toml` of a data folder: where a running node can be reached, once it can.
//!
//! ```text
//! node run: bound, recovered --> DATA/ready.toml --> localnet, scripts, tests
//! ```
//!
//! A node that binds port 0 learns its ports from the system; this file tells them on. It appears
//! whole or not at all (written beside and renamed), only when the node takes transactions, and is
//! removed at a graceful stop. After a crash an old one may be left, so it names its process.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Name of the file in the data folder.
pub const READY_FILE: &str = "ready.toml";

/// Where a node can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The node's process.
    pub pid: u32,
    /// Client side, with the port that was bound.
    pub client: SocketAddr,
    /// Metrics and health, with the port that was bound.
    pub admin: SocketAddr,
}

impl Ready {
    /// Writes the file; to be called once, when the node is ready.
    ///
    /// # Errors
    /// When the data folder cannot be written.
    pub fn announce(&self, data_dir: &Path) -> io::Result<()> {
        let Self { pid, client, admin } = self;
        let text = format!("client = \"{client}\"\nadmin = \"{admin}\"\npid = {pid}\n");
        let beside = data_dir.join("ready.toml.new");
        fs::write(&beside, text)?;
        fs::rename(beside, path_in(data_dir))
    }

    /// Removes the file; to be called when the node begins to stop, and before it starts.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn withdraw(data_dir: &Path) -> io::Result<()> {
        match fs::remove_file(path_in(data_dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads the file; `None` while it is not there.
    ///
    /// # Errors
    /// When it cannot be read or says something else.
    pub fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path_in(data_dir)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "not a ready file");
        parse(&text).map(Some).ok_or_else(odd)
    }
}

fn parse(text: &str) -> Option<Ready> {
    let table: toml::Table = text.parse().ok()?;
    let address = |key: &str| table.get(key)?.as_str()?.parse().ok();
    let pid = u32::try_from(table.get("pid")?.as_integer()?).ok()?;
    Some(Ready { pid, client: address("client")?, admin: address("admin")? })
}

fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join(READY_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_read_until_it_is_withdrawn() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Ready::read(folder.path()).unwrap(), None);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let ready = Ready { pid: 7, client: address(1), admin: address(2) };
        ready.announce(folder.path()).unwrap();
        assert_eq!(Ready::read(folder.path()).unwrap(), Some(ready));
        Ready::withdraw(folder.path()).unwrap();
        Ready::withdraw(folder.path()).unwrap();
        assert_eq!(Ready::read(folder.path()).unwrap(), None);
        fs::write(folder.path().join(READY_FILE), "pid = 1").unwrap();
        assert!(Ready::read(folder.path()).is_err());
    }
}
