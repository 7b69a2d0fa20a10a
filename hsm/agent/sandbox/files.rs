//! Files, ports and signals, as far as the kernel's landlock goes.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use super::{Outcome, SandboxConfig};

/// The newest landlock whose meaning was read: files, TCP, ioctl of devices, scopes.
const KNOWN: ABI = ABI::V6;

/// Threads of this process, count.
pub(super) fn threads_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Restricts this thread and all it starts to what the configuration names.
pub(super) fn restrict(config: &SandboxConfig) -> Outcome {
    match restricted(config) {
        Ok((RulesetStatus::FullyEnforced, version)) => Outcome::Applied(version),
        Ok((RulesetStatus::PartiallyEnforced, version)) => {
            Outcome::Missing(format!("in part: the kernel has {version}, {KNOWN:?} is wanted"))
        }
        Ok((RulesetStatus::NotEnforced, version)) => {
            Outcome::Missing(format!("the kernel has no landlock: {version}"))
        }
        Err(error) => Outcome::Missing(error.to_string()),
    }
}

fn restricted(config: &SandboxConfig) -> Result<(RulesetStatus, String), RulesetError> {
    let read = AccessFs::from_read(KNOWN);
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?;
    if config.tcp_ports.is_some() {
        ruleset = ruleset.handle_access(AccessNet::from_all(KNOWN))?;
    }
    let mut scope: BitFlags<Scope> = Scope::Signal.into();
    if !config.may_use_abstract_sockets {
        scope |= Scope::AbstractUnixSocket;
    }
    // Paths that are not there are left out: what cannot be opened needs no rule.
    let mut created = ruleset
        .scope(scope)?
        .create()?
        .add_rules(path_beneath_rules(&config.readable, read))?
        .add_rules(path_beneath_rules(&config.writable, writing()))?
        .add_rules(path_beneath_rules(&config.devices, device))?;
    for port in config.tcp_ports.iter().flatten() {
        created = created.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    let status = created.restrict_self()?;
    let version = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => format!("landlock {effective_abi:?}"),
        LandlockStatus::NotEnabled => "not enabled".to_owned(),
        LandlockStatus::NotImplemented => "not built in".to_owned(),
    };
    Ok((status.ruleset, version))
}

/// All that a token store needs, without making devices or links, and without running anything.
fn writing() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}
