//! What an agent gives up before it loads a vendor's library.
//!
//! ```text
//! one thread -> environment, umask, memory limits -> user -> capabilities -> no new privileges
//!            -> files (landlock) -> system calls (seccomp) -> load the library
//! ```
//!
//! The library is code that nobody here has read, with a PIN and a session to a card. It may
//! compute and talk to its card; it may not start programs, look into other processes, change the
//! host, or read and write files that nobody named. What a kernel cannot do is reported, never
//! passed over: [`SandboxReport`] goes to the node's log and into `hufu hsm status`.
//!
//! It must be entered while the process has one thread, since most of it holds for the calling
//! thread and those it starts later.

mod files;
mod privileges;
mod syscalls;

use std::ffi::OsString;
use std::path::PathBuf;

use hufu_runtime::process;

use crate::error::Error;

/// What a library needs beside its card; everything else is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Variables of the environment that stay, by name.
    pub environment: Vec<OsString>,
    /// User and group to become, where the process starts as root.
    pub user: Option<(u32, u32)>,
    /// Capabilities that stay, by number (`capabilities(7)`).
    pub capabilities: Vec<u8>,
    /// Files and folders that may be read and, where they are programs or libraries, mapped.
    pub readable: Vec<PathBuf>,
    /// Files and folders that may be read and written: token stores, lock files.
    pub writable: Vec<PathBuf>,
    /// Devices that may be used in every way, `/dev/...`.
    pub devices: Vec<PathBuf>,
    /// TCP ports that may be connected to, for cards in the network: with none of them there is no
    /// socket of the network at all, with some there is UDP for names too; `None` restricts none.
    pub tcp_ports: Option<Vec<u16>>,
    /// Whether sockets with abstract names may be connected to.
    pub may_use_abstract_sockets: bool,
    /// Whether the library may start programs and other processes, which outlive an agent that is
    /// killed. Few do, and most of those should not.
    pub may_execute: bool,
}

impl Default for SandboxConfig {
    /// For a library in the system's folders with its card on the bus.
    fn default() -> Self {
        let readable = READABLE.iter().map(PathBuf::from).collect();
        Self {
            environment: ["LANG", "TZ"].map(OsString::from).to_vec(),
            user: None,
            capabilities: Vec::new(),
            readable,
            writable: Vec::new(),
            devices: ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"]
                .map(PathBuf::from)
                .to_vec(),
            tcp_ports: Some(Vec::new()),
            may_use_abstract_sockets: false,
            may_execute: false,
        }
    }
}

/// What every program reads that loads libraries and asks about its host.
const READABLE: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/passwd",
    "/etc/group",
    "/usr/share/zoneinfo",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/bus/pci",
    "/sys/bus/usb",
    "/sys/devices",
];

/// How one step went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; how far, where that differs from host to host.
    Applied(String),
    /// The host or its kernel does not do it: the process runs with less protection.
    Missing(String),
}

/// What was given up, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxReport {
    /// Name of each step and how it went, in order.
    pub steps: Vec<(&'static str, Outcome)>,
}

impl SandboxReport {
    /// A line for each step, for logs.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |(name, outcome): &(&str, Outcome)| match outcome {
            Outcome::Applied(how) if how.is_empty() => format!("{name}: applied"),
            Outcome::Applied(how) => format!("{name}: applied ({how})"),
            Outcome::Missing(why) => format!("{name}: MISSING ({why})"),
        };
        self.steps.iter().map(line).collect()
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.steps.iter().all(|(_, outcome)| matches!(outcome, Outcome::Applied(_)))
    }

    fn note(&mut self, name: &'static str, outcome: Outcome) {
        self.steps.push((name, outcome));
    }
}

/// Gives up everything that `config` does not name. `node` is the process that this one must not
/// outlive ([`super::Endpoint::node`]); nothing for an agent that others started.
///
/// # Errors
/// If the process has more than one thread, or something fails that every kernel can do: then it
/// must not load the library.
pub fn enter(config: &SandboxConfig, node: Option<u32>) -> Result<SandboxReport, Error> {
    let host = |what: &str, error: std::io::Error| Error::Agent {
        reason: format!("sandbox, {what}: {error}"),
    };
    let threads_count = files::threads_count().map_err(|error| host("threads", error))?;
    if threads_count != 1 {
        let reason = format!("sandbox: entered with {threads_count} threads, there must be one");
        return Err(Error::Agent { reason });
    }
    let mut report = SandboxReport::default();
    let removed_count = privileges::clean_environment(&config.environment);
    report.note("environment", Outcome::Applied(format!("{removed_count} variables removed")));
    privileges::restrict_file_modes();
    report.note("umask 077", Outcome::Applied(String::new()));
    report.note("memory locked", privileges::lock_memory());
    report.note("bounding set", privileges::drop_bounding_set(&config.capabilities));
    if let Some((user, group)) = config.user {
        privileges::become_user(user, group).map_err(|error| host("user", error))?;
        report.note("user", Outcome::Applied(format!("{user}:{group}")));
    }
    privileges::drop_capabilities(&config.capabilities)
        .map_err(|error| host("capabilities", error))?;
    report.note("capabilities", Outcome::Applied(format!("{} kept", config.capabilities.len())));
    // After the change of user, which sets the flag anew.
    process::forbid_core_dumps().map_err(|error| host("core dumps", error))?;
    report.note("no core dumps", Outcome::Applied(String::new()));
    privileges::forbid_new_privileges().map_err(|error| host("no new privileges", error))?;
    report.note("no new privileges", Outcome::Applied(String::new()));
    if let Some(node) = node {
        // The change of user and capabilities has also cleared this.
        process::die_with_parent(node).map_err(|error| host("parent", error))?;
        report.note("dies with its node", Outcome::Applied(String::new()));
    }
    report.note("files and network", files::restrict(config));
    for (name, outcome) in syscalls::restrict(config) {
        report.note(name, outcome);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused_before_anything_is_changed() {
        let before = std::env::vars_os().count();
        let entered = std::thread::scope(|scope| {
            scope.spawn(|| enter(&SandboxConfig::default(), None)).join().unwrap()
        });
        let error = entered.unwrap_err();
        assert!(error.to_string().contains("threads"), "{error}");
        assert_eq!(std::env::vars_os().count(), before);
    }

    #[test]
    fn what_is_missing_shows() {
        let mut report = SandboxReport::default();
        report.note("a", Outcome::Applied(String::new()));
        assert!(report.is_complete());
        report.note("b", Outcome::Missing("kernel 4".to_owned()));
        assert!(!report.is_complete());
        assert_eq!(report.lines(), ["a: applied", "b: MISSING (kernel 4)"]);
    }
}
