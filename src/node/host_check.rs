//! What must hold before a node starts: one table of rules, one line a rule.
//!
//! Run by `hufu node check`, by service managers before a start, and by whoever installs a node.
//! `hufu node run` begins with those of its rules that speak of the configuration. It needs no
//! privilege and changes nothing: sockets are bound and given back, nothing is written.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use hufu_crypto::{Provider, PublicKey};
use hufu_hsm::pin::PinSource;
use hufu_runtime::clock;
use hufu_runtime::file::{Backend, FileRing, FileSystem, RingOptions};
use hufu_runtime::placement::available_cores;
use hufu_storage::Error as StorageError;
use hufu_storage::data_dir::DataDir;
use hufu_types::limits::HEADER_TIME_AHEAD_MILLIS_MAX;
use hufu_types::{Address, Genesis};
use serde_json::{Value, json};

use crate::config::{Cores, LogBackend, NodeConfig, ReactorChoice};
use crate::data_key::Description;
use crate::keys_file::NodeKey;
use crate::recovery::StorageOptions;
use crate::{data_key, encrypted_key, kernels, keys_file};

/// File descriptors a node needs beside those of its clients, count.
const OPEN_FILES_RESERVE: u64 = 512;

/// Segments of the block log a disk must have room for before a node starts, count.
const SEGMENTS_ROOM_MIN: u64 = 4;

/// How a rule fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host keeps the rule.
    Kept,
    /// The node runs, but someone may want to know.
    Noted,
    /// The node will not run, or not well.
    Broken,
}

/// One rule with what was found and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// How it fared.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when the rule is kept.
    pub remedy: &'static str,
}

impl Finding {
    const fn kept(rule: &'static str, found: String) -> Self {
        Self { rule, verdict: Verdict::Kept, found, remedy: "" }
    }

    const fn noted(rule: &'static str, found: String, remedy: &'static str) -> Self {
        Self { rule, verdict: Verdict::Noted, found, remedy }
    }

    const fn broken(rule: &'static str, found: String, remedy: &'static str) -> Self {
        Self { rule, verdict: Verdict::Broken, found, remedy }
    }

    /// The finding as a JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let verdict = match self.verdict {
            Verdict::Kept => "ok",
            Verdict::Noted => "note",
            Verdict::Broken => "broken",
        };
        json!({
            "rule": self.rule,
            "verdict": verdict,
            "found": self.found,
            "remedy": self.remedy,
        })
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = match self.verdict {
            Verdict::Kept => "ok    ",
            Verdict::Noted => "note  ",
            Verdict::Broken => "BROKEN",
        };
        write!(formatter, "{word}  {:14} {}", self.rule, self.found)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(formatter, "; {}", self.remedy) }
    }
}

/// A rule: what it looks at and what it says.
type Rule = fn(&NodeConfig, &Genesis) -> Finding;

/// Rules of the configuration and what it names: broken, they stay so until somebody mends a file.
const CONFIGURATION_RULES: &[Rule] = &[identity, data_key_rule, validators, genesis_time, cores];

/// Rules of the host and the data folder, which the start itself meets again.
const HOST_RULES: &[Rule] = &[
    passphrase,
    data_folder,
    processor,
    memory,
    open_files,
    disk_room,
    log_backend,
    client_port,
    admin_port,
    peer_port,
];

/// Checks every rule; changes nothing.
#[must_use]
pub fn check(config: &NodeConfig, genesis: &Genesis) -> Vec<Finding> {
    CONFIGURATION_RULES.iter().chain(HOST_RULES).map(|rule| rule(config, genesis)).collect()
}

/// The rules of the configuration that are broken, for a start.
#[must_use]
pub fn broken_configuration(config: &NodeConfig, genesis: &Genesis) -> Vec<Finding> {
    let findings = CONFIGURATION_RULES.iter().map(|rule| rule(config, genesis));
    findings.filter(|finding| finding.verdict == Verdict::Broken).collect()
}

fn identity(config: &NodeConfig, genesis: &Genesis) -> Finding {
    let rule = "identity";
    match own_address(config) {
        Err(error) => Finding::broken(rule, error.to_string(), error.remedy()),
        Ok(address) => match genesis.validators.get(&address) {
            Some(validator) => {
                let name = &validator.name;
                Finding::kept(rule, format!("{address} is validator {name}"))
            }
            None => {
                let found = format!("node.key {address} is no validator of {}", genesis.chain_name);
                Finding::broken(rule, found, "use the key of a validator of the genesis")
            }
        },
    }
}

fn own_address(config: &NodeConfig) -> Result<Address, keys_file::KeyFileError> {
    keys_file::open(&config.node.key)?.public_key().map(PublicKey::address)
}

/// Whether the passphrase opens the keys that are under one. The start does the same, and a node
/// must not learn at its next start that the passphrase is gone.
fn passphrase(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "passphrase";
    let link = config.peer.as_ref().map(|peer| ("peer.key_file", &peer.key_file));
    let own = [("node.key", &config.node.key), ("audit.key_file", &config.audit.key_file)];
    let files = own.into_iter().chain(link);
    let mut clear = Vec::new();
    let mut locked = Vec::new();
    for (named, path) in files {
        match keys_file::open(path) {
            Ok(NodeKey::Software(_)) => clear.push(named),
            Ok(NodeKey::Encrypted(key)) => locked.push((named, key)),
            // What is wrong with a file is said by the rules of the configuration.
            Ok(NodeKey::Card(_)) | Err(_) => {}
        }
    }
    let Some(source) = config.node.passphrase.as_ref().filter(|_| !locked.is_empty()) else {
        if clear.is_empty() {
            return Finding::kept(rule, "no key needs one".to_owned());
        }
        let found = format!("{} in clear", clear.join(", "));
        return Finding::noted(
            rule,
            found,
            "run `hufu keys encrypt` on them, or keep them in cards",
        );
    };
    if let PinSource::Descriptor(number) = source {
        return Finding::kept(rule, format!("descriptor {number} is read at the start"));
    }
    let opened = encrypted_key::passphrase(source).and_then(|passphrase| {
        locked.iter().try_for_each(|(_, key)| key.open(&passphrase).map(drop))
    });
    match opened {
        Err(error) => Finding::broken(rule, error.to_string(), error.remedy()),
        Ok(()) => {
            let names: Vec<&str> = locked.iter().map(|(named, _)| *named).collect();
            Finding::kept(rule, format!("{source} opens {}", names.join(", ")))
        }
    }
}

fn data_key_rule(config: &NodeConfig, genesis: &Genesis) -> Finding {
    let (rule, provider) = ("data key", kernels::provider());
    let described = config.storage.key_file().map(data_key::describe).transpose();
    let described = match described {
        Ok(described) => described,
        Err(error) => return Finding::broken(rule, error.to_string(), error.remedy()),
    };
    if let Err(error) = check_data_keys(config, genesis, &provider, described.as_ref()) {
        let remedy = "put back the data key and storage.encryption that the data folder began with";
        return Finding::broken(rule, error, remedy);
    }
    match described {
        Some(described) => {
            let ids = described.shown_ids();
            let by = described.wrapped_by;
            let by = by.map_or_else(String::new, |by| format!(", wrapped by {by}"));
            Finding::kept(rule, format!("{ids}, SM4-GCM{by}"))
        }
        None => {
            let remedy = "set storage.encryption to \"sm4-gcm\" wherever data matters";
            Finding::noted(rule, "none, data is stored in clear".to_owned(), remedy)
        }
    }
}

/// Whether what is in the data folder is encrypted with these keys. Keys in a card are not fetched
/// for that: their ids say enough, and a check must not cost an attempt at a PIN.
fn check_data_keys(
    config: &NodeConfig,
    genesis: &Genesis,
    provider: &Provider,
    described: Option<&Description>,
) -> Result<(), String> {
    let options = StorageOptions::new(&config.node.data_dir, genesis.chain_id(), provider);
    let told = |error: &hufu_storage::Error| error.to_string();
    match (described, config.storage.key_file()) {
        (Some(described), _) if described.wrapped_by.is_some() => {
            match options.with_keys(None).check_keys() {
                Err(StorageError::KeyMissing { found, .. }) if described.ids.contains(&found) => {
                    Ok(())
                }
                Err(StorageError::KeyMissing { path, found }) => {
                    let known = described.shown_ids();
                    Err(told(&StorageError::KeyUnknown { path, found, known }))
                }
                other => other.map_err(|error| told(&error)),
            }
        }
        (Some(_), Some(path)) => {
            let keys = data_key::load(path, provider).map_err(|error| error.to_string())?;
            options.with_keys(Some(keys)).check_keys().map_err(|error| told(&error))
        }
        _ => options.with_keys(None).check_keys().map_err(|error| told(&error)),
    }
}

fn validators(config: &NodeConfig, genesis: &Genesis) -> Finding {
    let (rule, count) = ("validators", genesis.validators.count());
    match &config.peer {
        Some(peer) => {
            let found = format!("{count} in the genesis, {} peers", peer.addresses.len());
            Finding::kept(rule, found)
        }
        None if count == 1 => Finding::kept(rule, "1 in the genesis".to_owned()),
        None => {
            let found = format!("{count} in the genesis, and no [peer]");
            Finding::broken(rule, found, "add section [peer] with the other validators")
        }
    }
}

fn genesis_time(_config: &NodeConfig, genesis: &Genesis) -> Finding {
    let rule = "genesis time";
    match ahead_of_clock(genesis.time_millis) {
        None => Finding::kept(rule, "is past".to_owned()),
        Some(seconds) => {
            let found = format!("{seconds} s ahead of this host's clock");
            Finding::broken(
                rule,
                found,
                "set the clock, or make a genesis with a time that is past",
            )
        }
    }
}

/// By how many seconds a time is further ahead of this host's clock than a header's may be; a chain
/// that begins there would carry that time on.
#[must_use]
pub fn ahead_of_clock(time_millis: u64) -> Option<u64> {
    let ahead = time_millis.saturating_sub(clock::wall().as_millis());
    (ahead > HEADER_TIME_AHEAD_MILLIS_MAX).then_some(ahead / 1_000)
}

fn data_folder(config: &NodeConfig, genesis: &Genesis) -> Finding {
    let (rule, path) = ("data folder", &config.node.data_dir);
    if !path.exists() {
        return Finding::kept(rule, format!("{} is made at the first start", path.display()));
    }
    match DataDir::identity_of(path) {
        Ok(identity) if identity.chain != genesis.chain_id().0 => {
            let found = format!("{} belongs to chain {}", path.display(), identity.chain);
            Finding::broken(rule, found, "name the folder of this chain, or a new one")
        }
        Ok(identity) if own_address(config).is_ok_and(|address| address != identity.node) => {
            let found = format!("{} belongs to node {}", path.display(), identity.node);
            Finding::broken(rule, found, "name the folder of this node, or use its key")
        }
        Ok(_) => Finding::kept(rule, format!("{} belongs to this node", path.display())),
        Err(_) if is_empty(path) => Finding::kept(rule, format!("{} is empty", path.display())),
        Err(error) => {
            let remedy = "name a data folder of hufu, or a new one";
            Finding::broken(rule, error.to_string(), remedy)
        }
    }
}

fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn cores(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "cores";
    let available = match available_cores() {
        Ok(available) => available,
        Err(cause) => return Finding::broken(rule, cause.to_string(), "look at the host"),
    };
    if let Cores::List(wanted) = &config.placement.cores {
        let has = |core: &&usize| !available.cores().contains(core);
        if let Some(missing) = wanted.cores().iter().find(has) {
            let found = format!("core {missing} is not available, {available} are");
            return Finding::broken(rule, found, "mend placement.cores or the CPU set");
        }
    }
    let count = available.cores().len();
    if count < 4 {
        let found = format!("{count} available");
        return Finding::noted(rule, found, "tiles share threads; 4 or more give each its own");
    }
    Finding::kept(rule, format!("{count} available"))
}

fn processor(_config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "processor";
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("avx512ifma", std::is_x86_feature_detected!("avx512ifma")),
            ("gfni", std::is_x86_feature_detected!("gfni")),
        ];
        let present: Vec<&str> =
            features.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name).collect();
        let (present, backend) = (present.join(", "), kernels::backend().name());
        Finding::kept(rule, format!("x86-64 with {present}; kernels: {backend}"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let found = std::env::consts::ARCH.to_owned();
        Finding::noted(rule, found, "signatures are verified without SIMD")
    }
}

fn memory(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    let Some(kibibytes): Option<u64> = kibibytes else {
        return Finding::noted(rule, "the host does not tell".to_owned(), "check it by hand");
    };
    let (available, wanted) = (kibibytes.saturating_mul(1_024), config.limits.memory_bytes);
    let found =
        format!("{} MiB available, {} MiB planned", mebibytes(available), mebibytes(wanted));
    if available < wanted {
        Finding::broken(rule, found, "free memory, or lower limits.memory_bytes")
    } else {
        Finding::kept(rule, found)
    }
}

const fn mebibytes(bytes: u64) -> u64 {
    bytes / (1_024 * 1_024)
}

fn open_files(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "open files";
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next()).unwrap_or("unknown");
    let wanted = u64::from(config.client.connections_max) + OPEN_FILES_RESERVE;
    match soft.parse::<u64>() {
        Ok(limit) if limit < wanted => {
            let found = format!("limit is {limit}, {wanted} may be needed");
            Finding::broken(rule, found, "raise it (LimitNOFILE=, ulimit -n)")
        }
        _ => Finding::kept(rule, format!("limit is {soft}, {wanted} may be needed")),
    }
}

fn disk_room(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "disk";
    let folder = config.node.data_dir.ancestors().find(|folder| folder.is_dir());
    let folder = folder.unwrap_or(Path::new("/"));
    let wanted = config.log.segment_bytes.saturating_mul(SEGMENTS_ROOM_MIN);
    match FileSystem::default().available_bytes(folder) {
        Err(error) => Finding::broken(rule, error.to_string(), "look at the file system"),
        Ok(bytes) => {
            let found = format!(
                "{} MiB free at {}, {} MiB needed to start",
                mebibytes(bytes),
                folder.display(),
                mebibytes(wanted)
            );
            if bytes < wanted {
                Finding::broken(rule, found, "free space, or move node.data_dir")
            } else {
                Finding::kept(rule, found)
            }
        }
    }
}

fn log_backend(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "io_uring";
    let demanded =
        config.log.backend == LogBackend::Uring || config.client.reactor == ReactorChoice::Uring;
    match FileRing::new(RingOptions { backend: Backend::Uring, depth: 1 }) {
        Ok(_) => Finding::kept(rule, "available".to_owned()),
        Err(error) if demanded => {
            let remedy = "allow io_uring (kernel.io_uring_disabled), or configure \"auto\"";
            Finding::broken(rule, error.to_string(), remedy)
        }
        Err(error) => Finding::noted(rule, error.to_string(), "epoll and pwrite are used instead"),
    }
}

fn client_port(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    port("client port", config.client.listen)
}

fn admin_port(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    port("admin port", config.admin.listen)
}

fn peer_port(config: &NodeConfig, _genesis: &Genesis) -> Finding {
    let rule = "peer port";
    match &config.peer {
        Some(peer) => port(rule, peer.listen),
        None => Finding::kept(rule, "not needed, the chain has one validator".to_owned()),
    }
}

fn port(rule: &'static str, address: SocketAddr) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Finding::kept(rule, "the system picks one".to_owned()),
        Ok(_) => Finding::kept(rule, format!("{address} is free")),
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => {
            let found = format!("{address} is in use");
            Finding::broken(rule, found, "stop what uses it, or configure another port")
        }
        Err(cause) => {
            Finding::broken(rule, format!("{address}: {cause}"), "configure another address")
        }
    }
}

#[cfg(test)]
mod tests;
