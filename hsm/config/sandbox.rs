//! What a card's library needs beside its card, as `card.toml` says it; the agent gets that and
//! nothing else.
//!
//! ```toml
//! [sandbox]
//! environment = { VENDOR_CONFIG = "/etc/vendor.conf" }    # the whole environment of the agent
//! readable = ["/etc/vendor.conf"]   # files and folders that it reads
//! writable = ["/var/lib/vendor"]    # and writes: token stores, lock files
//! devices = ["/dev/vendor0"]
//! tcp_ports = [8008]                # of a card in the network; "any" for all
//! user = 998                        # to become, where the process starts as root; with `group`
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{CardConfig, ProfileChoice};
use crate::Error;
use crate::agent::sandbox::SandboxConfig;
use crate::card::identity;
use crate::pin::PinSource;

/// The highest capability there is room for (`capabilities(7)`: 64 bits).
const CAPABILITY_MAX: u8 = 63;

/// The variable in which systemd names the folder of a service's credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// The table, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    pub(super) environment: BTreeMap<String, String>,
    readable: Vec<PathBuf>,
    writable: Vec<PathBuf>,
    devices: Vec<PathBuf>,
    tcp_ports: Ports,
    may_use_abstract_sockets: bool,
    may_execute: bool,
    user: Option<u32>,
    group: Option<u32>,
    capabilities: Vec<u8>,
}

/// Ports that may be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Ports {
    These(Vec<u16>),
    Word(String),
}

impl Default for Ports {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

impl Written {
    /// The table as a sandbox that adds to what every library has.
    pub(super) fn check(self, folder: &Path, faults: &mut Vec<String>) -> SandboxConfig {
        let mut sandbox = SandboxConfig::default();
        let is_name = |name: &String| !name.is_empty() && !name.contains(['=', '\0']);
        for name in self.environment.keys().filter(|name| !is_name(name)) {
            faults.push(format!("sandbox.environment {name:?} is no name of a variable"));
        }
        sandbox.environment.extend(self.environment.into_keys().map(OsString::from));
        let joined = |paths: Vec<PathBuf>| paths.into_iter().map(|path| folder.join(path));
        sandbox.readable.extend(joined(self.readable));
        sandbox.writable.extend(joined(self.writable));
        sandbox.devices.extend(joined(self.devices));
        sandbox.tcp_ports = match self.tcp_ports {
            Ports::These(ports) => Some(ports),
            Ports::Word(word) => {
                if word != "any" {
                    faults.push(format!("sandbox.tcp_ports = {word:?}: numbers, or \"any\""));
                }
                None
            }
        };
        sandbox.may_use_abstract_sockets = self.may_use_abstract_sockets;
        sandbox.may_execute = self.may_execute;
        sandbox.user = match (self.user, self.group) {
            (Some(user), Some(group)) => Some((user, group)),
            (None, None) => None,
            _ => {
                faults.push("sandbox.user and sandbox.group: both or neither".to_owned());
                None
            }
        };
        for number in self.capabilities.iter().filter(|number| **number > CAPABILITY_MAX) {
            faults.push(format!("sandbox.capabilities {number}: 0 to {CAPABILITY_MAX}"));
        }
        sandbox.capabilities = self.capabilities;
        sandbox
    }
}

impl CardConfig {
    /// What this card's agent may touch: what the file says, its library, its PIN, and the file
    /// that says which card it was. That one may be written only where no card is in it yet; it is
    /// made here if it is not there, so that nothing else of its folder need be writable.
    ///
    /// # Errors
    /// [`Error::PinUnreadable`] where the PIN is to come from a descriptor: an agent is handed
    /// none. [`Error::IdentityFile`] if that file cannot be made or read.
    pub fn agent_sandbox(&self) -> Result<SandboxConfig, Error> {
        let mut sandbox = self.sandbox.clone();
        let module = self.module.canonicalize().unwrap_or_else(|_| self.module.clone());
        // What it was linked with often lies beside it.
        sandbox.readable.push(folder_of(&module));
        if let ProfileChoice::File(path) = &self.profile {
            sandbox.readable.push(path.clone());
        }
        match &self.pin {
            PinSource::File(path) => sandbox.readable.push(path.clone()),
            PinSource::Credential(_) => {
                sandbox.environment.push(CREDENTIALS_VARIABLE.into());
                sandbox.readable.extend(std::env::var_os(CREDENTIALS_VARIABLE).map(PathBuf::from));
            }
            // The library asks for it, through the reader.
            PinSource::Pad => {}
            PinSource::Descriptor(_) => {
                let reason = "an agent holds no descriptor of who started it: use pin_file or \
                              pin_credential";
                let source_name = self.pin.to_string();
                return Err(Error::PinUnreadable { source_name, reason: reason.to_owned() });
            }
        }
        if identity::place(&self.identity_file, sandbox.user)? {
            sandbox.writable.push(self.identity_file.clone());
        } else {
            sandbox.readable.push(self.identity_file.clone());
        }
        Ok(sandbox)
    }
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    folder.unwrap_or_else(|| Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"card-0\"\nmodule = \"/opt/vendor/lib.so\"\nslot = 0\n";

    const CARD: &str = "library_manufacturer = \"\"\nlibrary_version = [1, 0]\n\
        token_label = \"a\"\ntoken_manufacturer = \"\"\ntoken_model = \"\"\ntoken_serial = \"1\"\n\
        firmware_version = [1, 0]\nhardware_version = [1, 0]\n";

    fn parse(more: &str, folder: &Path) -> Result<CardConfig, super::super::ConfigError> {
        CardConfig::parse(&format!("{GOOD}{more}"), &folder.join("card.toml"))
    }

    #[test]
    fn an_agent_may_touch_what_the_file_names_and_what_it_needs_itself() {
        let folder = tempfile::tempdir().unwrap();
        let text = "pin_file = \"pin\"\n[sandbox]\nenvironment = { VENDOR = \"v\" }\n\
                    writable = [\"store\"]\ntcp_ports = [8008]\n";
        let config = parse(text, folder.path()).unwrap();
        let sandbox = config.agent_sandbox().unwrap();
        assert!(sandbox.environment.contains(&"VENDOR".into()));
        assert_eq!(sandbox.tcp_ports, Some(vec![8008]));
        for path in ["/opt/vendor", folder.path().join("pin").to_str().unwrap()] {
            assert!(sandbox.readable.contains(&path.into()), "{path}: {sandbox:?}");
        }
        let before = [folder.path().join("store"), config.identity_file.clone()];
        assert_eq!(sandbox.writable, before, "the first card is written down, and nothing else");
        std::fs::write(&config.identity_file, CARD).unwrap();
        let sandbox = config.agent_sandbox().unwrap();
        assert_eq!(sandbox.writable, before[..1], "another one is not");
        assert!(sandbox.readable.contains(&config.identity_file));
    }

    #[test]
    fn another_user_is_both_user_and_group() {
        let with =
            |text: &str| parse(&format!("pin_file = \"pin\"\n[sandbox]\n{text}"), Path::new("/"));
        assert_eq!(with("user = 998\ngroup = 997\n").unwrap().sandbox.user, Some((998, 997)));
        assert!(with("group = 997\n").unwrap_err().to_string().contains("both or neither"));
    }

    #[test]
    fn faults_of_the_table_are_told_with_the_others() {
        let text = "pin_descriptor = 3\n[sandbox]\nenvironment = { \"A=1\" = \"\" }\nuser = 1\n\
                    tcp_ports = \"all\"\ncapabilities = [64]\n";
        let refused = parse(text, Path::new("/etc/hufu")).unwrap_err();
        assert_eq!(refused.faults.len(), 4, "{refused}");
        assert!(parse("pin_file = \"pin\"\n[sandbox]\nroot = true\n", Path::new("/")).is_err());
        let config = parse("pin_descriptor = 3\n", Path::new("/etc/hufu")).unwrap();
        assert!(config.agent_sandbox().unwrap_err().to_string().contains("descriptor 3"));
        let any = parse("slot = 0\n", Path::new("/")).is_err();
        assert!(any, "a key that comes twice");
    }
}
