//! `card.toml`: one card, its library, its PIN and how it is used. Read by the agent, or by the
//! node where the library is loaded in its process; it holds no secret.
//!
//! ```toml
//! name = "card-0"
//! module = "/usr/lib/libvendor.so"
//! token_label = "hufu"             # or token_serial = "...", or slot = 0
//! pin_file = "card-0.pin"          # or pin_credential = "...", or pin_descriptor = 3, or
//!                                  # pin_pad = true: somebody types it at the card
//! ```
//!
//! Relative paths are relative to the folder of the file; a table `[sandbox]` says what the library
//! needs beside its card where an agent loads it. `mode` says in which process that is: in an agent
//! that the node starts, in one that others run (`connect`), or in the node's own (`in-process`).
//! Every fault is told at once.

mod sandbox;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::agent::sandbox::SandboxConfig;
use crate::agent::{AgentConfig, AgentSource};
use crate::pin::PinSource;
use crate::pool::TokenSelector;
use crate::profile::PROFILE_BYTES_MAX;
use crate::{Error, Profile};

/// Bytes of a card's file at most.
const FILE_BYTES_MAX: usize = 64 << 10;

/// Sessions of one card at most, count.
const SESSIONS_MAX: u32 = 1_024;

/// Calls that may wait for a session at most, count.
const WAITING_MAX: u32 = 65_536;

/// Which profile a card is used by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileChoice {
    /// The one that is for this library and token.
    Matching,
    /// One that is compiled in, by its name; it must be for this card all the same.
    Named(String),
    /// One in a file.
    File(PathBuf),
}

/// In which process a card's library runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CardMode {
    /// In an agent that the node starts and ends.
    Agent,
    /// In an agent that others run, systemd before all: `hufu hsm agent --listen`.
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// The user it runs as; another one is not believed.
        user: u32,
    },
    /// In the process of the node itself, which then crashes and hangs with it.
    InProcess,
}

/// One card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardConfig {
    /// For logs, metrics and the audit log.
    pub name: String,
    /// The vendor's library.
    pub module: PathBuf,
    /// In which process it runs.
    pub mode: CardMode,
    /// Which of its tokens.
    pub token: TokenSelector,
    /// Which profile.
    pub profile: ProfileChoice,
    /// Where the PIN comes from.
    pub pin: PinSource,
    /// Sessions at most, count; the token and the profile may allow fewer.
    pub sessions_max: u32,
    /// Calls that may wait for a session, count.
    pub waiting_max: u32,
    /// How long a call may take, waiting included.
    pub deadline: Duration,
    /// Failures in a row after which the card rests, count.
    pub failures_max: u32,
    /// How long it rests.
    pub rest: Duration,
    /// Where it is kept which card was there last.
    pub identity_file: PathBuf,
    /// What the library may touch, where an agent loads it; see [`CardConfig::agent_sandbox`].
    pub sandbox: SandboxConfig,
    /// The whole environment of its agent.
    pub environment: BTreeMap<String, String>,
}

/// The file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    module: PathBuf,
    mode: Option<String>,
    socket: Option<PathBuf>,
    socket_user: Option<u32>,
    token_label: Option<String>,
    token_serial: Option<String>,
    slot: Option<u64>,
    profile: Option<String>,
    profile_file: Option<PathBuf>,
    pin_file: Option<PathBuf>,
    pin_credential: Option<String>,
    pin_descriptor: Option<i32>,
    #[serde(default)]
    pin_pad: bool,
    #[serde(default = "four")]
    sessions_max: u32,
    #[serde(default = "two_hundred_and_fifty_six")]
    waiting_max: u32,
    #[serde(default = "two_thousand")]
    deadline_millis: u32,
    #[serde(default = "eight")]
    failures_max: u32,
    #[serde(default = "two_thousand")]
    rest_millis: u32,
    identity_file: Option<PathBuf>,
    #[serde(default)]
    sandbox: sandbox::Written,
}

const fn four() -> u32 {
    4
}

const fn eight() -> u32 {
    8
}

const fn two_hundred_and_fifty_six() -> u32 {
    256
}

const fn two_thousand() -> u32 {
    2_000
}

/// A file that is refused, with everything that is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", path.display(), faults.join("; "))]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// One text for each fault: key, value, rule.
    pub faults: Vec<String>,
}

impl CardConfig {
    /// How the agent for this card is started: `program`, which is told to serve the card of
    /// `file`; or where it is reached, if others run it.
    #[must_use]
    pub fn agent(&self, program: PathBuf, file: &Path) -> AgentConfig {
        if let CardMode::Connect { socket, user } = &self.mode {
            let source = AgentSource::Connect { path: socket.clone(), user: *user };
            return AgentConfig::new(&self.name, source);
        }
        let arguments = ["hsm", "agent", "--card"].map(OsString::from);
        let arguments = arguments.into_iter().chain([file.as_os_str().to_owned()]).collect();
        let environment = self.environment.iter();
        let environment = environment.map(|(name, value)| (name.into(), value.into())).collect();
        AgentConfig::new(&self.name, AgentSource::Start { program, arguments, environment })
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`] with all faults; for a file that is no TOML or has an unknown key, with the
    /// first.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let refused = |fault: String| ConfigError { path: path.to_owned(), faults: vec![fault] };
        let text = read_text(path, FILE_BYTES_MAX).map_err(|cause| refused(cause.to_string()))?;
        Self::parse(&text, path)
    }

    /// Reads `text`, which stands in the file `path`.
    ///
    /// # Errors
    /// As [`CardConfig::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let refused = |faults| ConfigError { path: path.to_owned(), faults };
        if text.len() > FILE_BYTES_MAX {
            return Err(refused(vec![format!("{} bytes, at most {FILE_BYTES_MAX}", text.len())]));
        }
        // The error's own text would show the line, and somebody may have put a PIN there.
        let written: Written = toml::from_str(text).map_err(|cause| {
            let before = cause.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            refused(vec![format!("line {line}: {}", without_value(cause.message()))])
        })?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let mut faults = Vec::new();
        let config = written.check(folder, &mut faults);
        match config.filter(|_| faults.is_empty()) {
            Some(config) => Ok(config),
            None => Err(refused(faults)),
        }
    }

    /// The profile this card is to be used by; whether it fits is asked when the card is there.
    ///
    /// # Errors
    /// [`Error::ProfileInvalid`] if it cannot be read, [`Error::ProfileMismatch`] if there is none.
    pub fn profiles(&self) -> Result<Vec<Profile>, Error> {
        match &self.profile {
            ProfileChoice::Matching => Profile::shipped(),
            ProfileChoice::Named(name) => {
                let mut profiles = Profile::shipped()?;
                let known: Vec<String> =
                    profiles.iter().map(|profile| profile.name.clone()).collect();
                profiles.retain(|profile| profile.name == *name);
                if profiles.is_empty() {
                    let reason = format!("there is none of this name; there are {known:?}");
                    return Err(Error::ProfileMismatch { profile: name.clone(), reason });
                }
                Ok(profiles)
            }
            ProfileChoice::File(path) => {
                let name = path.display().to_string();
                let text = read_text(path, PROFILE_BYTES_MAX).map_err(|cause| {
                    Error::ProfileInvalid { name: name.clone(), reason: cause.to_string() }
                })?;
                Ok(vec![Profile::parse(&name, &text)?])
            }
        }
    }
}

impl Written {
    fn check(self, folder: &Path, faults: &mut Vec<String>) -> Option<CardConfig> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=32).contains(&self.name.len()) || !self.name.bytes().all(is_name) {
            faults.push(format!("name {:?}: 1 to 32 of a-z, 0-9 and \"-\"", self.name));
        }
        let tokens = [
            self.token_label.map(TokenSelector::Label),
            self.token_serial.map(TokenSelector::Serial),
            self.slot.map(TokenSelector::Slot),
        ];
        let pins = [
            self.pin_file.map(|file| PinSource::File(folder.join(file))),
            self.pin_credential.map(PinSource::Credential),
            self.pin_descriptor.map(PinSource::Descriptor),
            self.pin_pad.then_some(PinSource::Pad),
        ];
        let profiles = [
            self.profile.map(|name| match name.as_str() {
                "matching" => ProfileChoice::Matching,
                _ => ProfileChoice::Named(name),
            }),
            self.profile_file.map(|file| ProfileChoice::File(folder.join(file))),
        ];
        let mode = self.mode.as_deref();
        let mode = mode_of(mode, self.socket.map(|path| folder.join(path)), self.socket_user);
        let mode = mode.map_err(|fault| faults.push(fault)).ok();
        if mode == Some(CardMode::InProcess) && self.sandbox != sandbox::Written::default() {
            faults.push("sandbox: no library in the node's own process has one".to_owned());
        }
        let token = one_of(tokens, "token_label, token_serial or slot", faults);
        let pin = one_of(pins, "pin_file, pin_credential, pin_descriptor or pin_pad", faults);
        let profile = match profiles {
            [None, None] => Some(ProfileChoice::Matching),
            some => one_of(some, "profile or profile_file", faults),
        };
        let numbers = [
            ("sessions_max", self.sessions_max, SESSIONS_MAX),
            ("waiting_max", self.waiting_max, WAITING_MAX),
            ("deadline_millis", self.deadline_millis, 600_000),
            ("failures_max", self.failures_max, 1_000),
            ("rest_millis", self.rest_millis, 600_000),
        ];
        for (key, value, most) in numbers {
            if !(1..=most).contains(&value) {
                faults.push(format!("{key} = {value}: 1 to {most}"));
            }
        }
        let identity_file =
            self.identity_file.unwrap_or_else(|| PathBuf::from(format!("{}.identity", self.name)));
        let environment = self.sandbox.environment.clone();
        let sandbox = self.sandbox.check(folder, faults);
        Some(CardConfig {
            module: folder.join(self.module),
            mode: mode?,
            token: token?,
            profile: profile?,
            pin: pin?,
            sessions_max: self.sessions_max,
            waiting_max: self.waiting_max,
            deadline: Duration::from_millis(self.deadline_millis.into()),
            failures_max: self.failures_max,
            rest: Duration::from_millis(self.rest_millis.into()),
            identity_file: folder.join(identity_file),
            sandbox,
            environment,
            name: self.name,
        })
    }
}

/// The text of a file, of which no more is read than it may have: whatever the path leads to.
fn read_text(path: &Path, bytes_max: usize) -> io::Result<String> {
    let mut text = String::new();
    let most = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(most).read_to_string(&mut text)?;
    if text.len() > bytes_max {
        return Err(io::Error::other(format!("it is longer than {bytes_max} bytes")));
    }
    Ok(text)
}

/// What serde says of a value of the wrong kind, without the value: somebody may have put a PIN
/// where its file's name should be.
fn without_value(message: &str) -> String {
    let kind = |found: &str| found.split([' ', '`', '"']).next().unwrap_or_default().to_owned();
    for said in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) =
            message.strip_prefix(said).and_then(|rest| rest.rsplit_once(", expected "))
        {
            return format!("{said}{}, expected {expected}", kind(found));
        }
    }
    message.to_owned()
}

/// What `mode` means, and that the keys of a socket are there where it has one.
fn mode_of(
    mode: Option<&str>,
    socket: Option<PathBuf>,
    user: Option<u32>,
) -> Result<CardMode, String> {
    let plain = match mode.unwrap_or("agent") {
        "agent" => CardMode::Agent,
        "in-process" => CardMode::InProcess,
        "connect" => {
            return match (socket, user) {
                (Some(socket), Some(user)) => Ok(CardMode::Connect { socket, user }),
                _ => Err("mode = \"connect\": needs socket and socket_user".to_owned()),
            };
        }
        other => return Err(format!("mode = {other:?}: \"agent\", \"connect\" or \"in-process\"")),
    };
    if socket.is_some() || user.is_some() {
        return Err("socket and socket_user: only with mode = \"connect\"".to_owned());
    }
    Ok(plain)
}

/// The one that is there.
fn one_of<T, const COUNT: usize>(
    choices: [Option<T>; COUNT],
    names: &str,
    faults: &mut Vec<String>,
) -> Option<T> {
    let mut given: Vec<T> = choices.into_iter().flatten().collect();
    if given.len() != 1 {
        faults.push(format!("{names}: one of them, {} given", given.len()));
        return None;
    }
    given.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"card-0\"\nmodule = \"/usr/lib/libvendor.so\"\n\
                        token_label = \"hufu\"\npin_file = \"card.pin\"\n";

    fn parse(text: &str) -> Result<CardConfig, ConfigError> {
        CardConfig::parse(text, Path::new("/etc/hufu/card.toml"))
    }

    #[test]
    fn paths_are_relative_to_the_file_and_the_rest_has_defaults() {
        let config = parse(GOOD).unwrap();
        assert_eq!(config.module, Path::new("/usr/lib/libvendor.so"));
        assert_eq!(config.pin, PinSource::File("/etc/hufu/card.pin".into()));
        assert_eq!(config.identity_file, Path::new("/etc/hufu/card-0.identity"));
        assert_eq!((config.sessions_max, config.waiting_max), (4, 256));
        assert_eq!(config.profile, ProfileChoice::Matching);
        let other = GOOD.replace("token_label = \"hufu\"", "slot = 2\nprofile_file = \"my.toml\"");
        let config = parse(&other).unwrap();
        assert_eq!(config.token, TokenSelector::Slot(2));
        assert_eq!(config.profile, ProfileChoice::File("/etc/hufu/my.toml".into()));
    }

    #[test]
    fn the_library_runs_where_the_mode_says() {
        let mode = |lines: &str| parse(&format!("{GOOD}{lines}"));
        assert_eq!(parse(GOOD).unwrap().mode, CardMode::Agent);
        assert_eq!(mode("mode = \"in-process\"\n").unwrap().mode, CardMode::InProcess);
        let config = mode("mode = \"connect\"\nsocket = \"a.sock\"\nsocket_user = 7\n").unwrap();
        let socket = PathBuf::from("/etc/hufu/a.sock");
        assert_eq!(config.mode, CardMode::Connect { socket: socket.clone(), user: 7 });
        let source = config.agent("/bin/hufu".into(), Path::new("card.toml")).source;
        assert!(
            matches!(&source, AgentSource::Connect { path, user: 7 } if *path == socket),
            "{source}"
        );
        let refused = [
            ("mode = \"thread\"\n", "in-process"),
            ("mode = \"connect\"\nsocket = \"a\"\n", "socket_user"),
            ("socket_user = 7\n", "only with mode"),
            ("mode = \"in-process\"\n[sandbox]\nmay_execute = true\n", "sandbox"),
        ];
        for (lines, wanted) in refused {
            let refused = mode(lines).unwrap_err().to_string();
            assert!(refused.contains(wanted), "{lines}: {refused}");
        }
    }

    #[test]
    fn a_pin_is_typed_at_the_pad_only_where_the_file_says_so() {
        let at_the_pad = GOOD.replace("pin_file = \"card.pin\"", "pin_pad = true");
        assert_eq!(parse(&at_the_pad).unwrap().pin, PinSource::Pad);
        let both = parse(&format!("{GOOD}pin_pad = true\n")).unwrap_err().to_string();
        assert!(both.contains("pin_pad") && both.contains("2 given"), "{both}");
        let none = GOOD.replace("pin_file = \"card.pin\"", "pin_pad = false");
        assert!(parse(&none).unwrap_err().to_string().contains("0 given"));
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let text = GOOD.replace("card-0", "Card 0").replace("pin_file = \"card.pin\"", "")
            + "slot = 1\nsessions_max = 0\ndeadline_millis = 700000\nprofile = \"sansec\"\n\
               profile_file = \"my.toml\"\n";
        let refused = parse(&text).unwrap_err();
        let wanted = ["name", "token_label", "pin_file", "sessions_max", "deadline", "profile or"];
        assert_eq!(refused.faults.len(), wanted.len(), "{refused}");
        for part in wanted {
            assert!(refused.to_string().contains(part), "{part}: {refused}");
        }
    }

    #[test]
    fn an_unknown_key_and_a_pin_in_the_file_are_refused() {
        for key in ["pin = \"1234\"", "sessions = 3"] {
            let refused = parse(&format!("{GOOD}{key}\n")).unwrap_err().to_string();
            let name = key.split(' ').next().unwrap();
            assert!(refused.contains(&format!("unknown field `{name}`")), "{refused}");
            assert!(refused.contains("line 5") && !refused.contains("1234"), "{refused}");
        }
        assert!(parse("name = ").is_err() && parse("").is_err());
        // Where the file of the PIN should be named, somebody wrote the PIN.
        for (line, kind) in [("pin_file = 31415926", "integer"), ("slot = \"31415926\"", "string")]
        {
            let text = GOOD.replace("pin_file = \"card.pin\"", line);
            let refused =
                parse(&text.replace("token_label = \"hufu\"", "")).unwrap_err().to_string();
            assert!(refused.contains(kind) && !refused.contains("31415926"), "{refused}");
        }
    }

    #[test]
    fn no_more_is_read_than_a_file_may_have() {
        let refused = CardConfig::load(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(refused.contains("longer than"), "{refused}");
        let endless = parse(&format!("{GOOD}profile_file = \"/dev/zero\"\n")).unwrap();
        assert!(endless.profiles().unwrap_err().to_string().contains("longer than"));
    }

    #[test]
    fn profiles_are_found_by_name_or_file() {
        let named = |line: &str| parse(&format!("{GOOD}{line}\n")).unwrap().profiles();
        assert_eq!(named("profile = \"sansec\"").unwrap()[0].name, "sansec");
        assert!(named("profile = \"matching\"").unwrap().len() > 1);
        let refused = named("profile = \"nobody\"").unwrap_err().to_string();
        assert!(refused.contains("nobody") && refused.contains("tass"), "{refused}");
        let refused = named("profile_file = \"/nowhere/my.toml\"").unwrap_err().to_string();
        assert!(refused.contains("/nowhere/my.toml"), "{refused}");
    }
}
