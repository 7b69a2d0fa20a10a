//! The table of all keys of `hufu.toml`: it drives parsing, `config show` and `config schema`.
//!
//! Meanings and defaults are not here but in `default.toml`, which is what operators read. A new
//! key is a row here, a commented line there, and a field in [`super::NodeConfig`].

use hufu_network::limits::{PEER_CONSENSUS_SIZE_MAX, SUBMIT_TRANSACTIONS_COUNT_MAX};
use hufu_types::limits::{BATCH_SIZE_MAX, BLOCK_SIZE_MAX, NAME_SIZE_MAX, TX_VALIDITY_HEIGHTS_MAX};

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer of `min..=max`, a multiple of `step`.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
        /// Every value is a multiple of this.
        step: u64,
    },
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A path, relative to the folder of the configuration file.
    Path,
    /// A node's name.
    Name,
    /// The name of a systemd credential.
    Credential,
    /// An address and port on loopback; port 0 lets the system pick.
    Loopback,
    /// An address and port on loopback that others must know: not port 0.
    LoopbackKnown,
    /// A table of such addresses by name.
    Addresses,
    /// `auto`, `none`, or a list of cores.
    Cores,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// The section, without brackets.
    pub section: &'static str,
    /// The key in its section.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
}

impl KeySpec {
    /// Section and key as messages name them.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

impl Kind {
    /// The rule for values, in words.
    #[must_use]
    pub fn rule(&self) -> String {
        match self {
            Self::Integer { min, max, step: 1 } => format!("must be an integer of {min}..={max}"),
            Self::Integer { min, max, step } => {
                format!("must be a multiple of {step} in {min}..={max}")
            }
            Self::Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("must be one of {}", quoted.join(", "))
            }
            Self::Path => "must be a path, not empty".to_owned(),
            Self::Name => format!("must be 1 to {NAME_SIZE_MAX} characters of a-z, 0-9 and \"-\""),
            Self::Credential => {
                "must be the name of a file, without a slash and no dot in front".to_owned()
            }
            Self::Loopback => {
                "must be a loopback address with a port, because channels are not encrypted yet"
                    .to_owned()
            }
            Self::LoopbackKnown => {
                "must be a loopback address, because channels are not encrypted yet, with a port \
                 that is not 0, because peers must know it"
                    .to_owned()
            }
            Self::Addresses => {
                "must be a table with a line NAME = \"IP:PORT\" for each other validator".to_owned()
            }
            Self::Cores => {
                "must be \"auto\", \"none\", or a list of cores below 1024 as \"0,2-5\" or [0, 2]"
                    .to_owned()
            }
        }
    }
}

const KIB: u64 = 1_024;
const MIB: u64 = 1_024 * KIB;
const GIB: u64 = 1_024 * MIB;

const fn integer(section: &'static str, name: &'static str, min: u64, max: u64) -> KeySpec {
    KeySpec { section, name, kind: Kind::Integer { min, max, step: 1 } }
}

const fn blocks(section: &'static str, name: &'static str, min: u64, max: u64) -> KeySpec {
    KeySpec { section, name, kind: Kind::Integer { min, max, step: 4_096 } }
}

const fn key(section: &'static str, name: &'static str, kind: Kind) -> KeySpec {
    KeySpec { section, name, kind }
}

/// Largest choice of a timeout: an hour. Beyond it a stuck network looks like a stopped one.
const TIMEOUT_MILLIS_MAX: u64 = 3_600_000;

/// All keys, in the order of `default.toml`.
pub const KEYS: &[KeySpec] = &[
    key("node", "name", Kind::Name),
    key("node", "data_dir", Kind::Path),
    key("node", "genesis", Kind::Path),
    key("node", "key", Kind::Path),
    key("node", "passphrase_file", Kind::Path),
    key("node", "passphrase_credential", Kind::Credential),
    integer("node", "passphrase_descriptor", 0, 1_023),
    key("client", "listen", Kind::Loopback),
    integer("client", "connections_max", 1, 65_536),
    integer(
        "client",
        "in_flight_transactions_max",
        SUBMIT_TRANSACTIONS_COUNT_MAX as u64,
        1_048_576,
    ),
    integer("client", "receive_buffer_bytes", MIB + 64 * KIB, 64 * MIB),
    integer("client", "send_buffer_bytes", 64 * KIB, 64 * MIB),
    key("client", "reactor", Kind::Choice(&["auto", "uring", "epoll"])),
    key("peer", "listen", Kind::LoopbackKnown),
    key("peer", "key_file", Kind::Path),
    key("peer", "addresses", Kind::Addresses),
    integer("peer", "control_bytes_max", 128 * KIB, GIB),
    integer("peer", "bulk_bytes_max", BATCH_SIZE_MAX as u64, 64 * GIB),
    integer("peer", "held_bytes_max", BATCH_SIZE_MAX as u64, 64 * GIB),
    integer("peer", "origin_bytes_max", BATCH_SIZE_MAX as u64, 64 * GIB),
    integer("peer", "proposer_bytes_max", BLOCK_SIZE_MAX as u64, 64 * GIB),
    integer("peer", "handshake_timeout_millis", 100, TIMEOUT_MILLIS_MAX),
    integer("peer", "ping_interval_millis", 10, TIMEOUT_MILLIS_MAX / 2),
    integer("peer", "idle_timeout_millis", 20, TIMEOUT_MILLIS_MAX),
    integer("peer", "back_off_min_millis", 1, TIMEOUT_MILLIS_MAX),
    integer("peer", "back_off_max_millis", 1, TIMEOUT_MILLIS_MAX),
    integer("peer", "ask_interval_millis", 1, TIMEOUT_MILLIS_MAX),
    integer("peer", "heights_kept", 1, TX_VALIDITY_HEIGHTS_MAX),
    key("admin", "listen", Kind::Loopback),
    key("placement", "cores", Kind::Cores),
    integer("placement", "ingress_count", 1, 64),
    integer("placement", "verify_count", 0, 256),
    integer("placement", "execute_workers", 0, 256),
    key("placement", "merge", Kind::Choice(&["auto", "never", "always"])),
    integer("placement", "spin_micros", 0, 1_000_000),
    integer("verify", "batch_max", 1, 4_096),
    integer("verify", "batch_deadline_micros", 0, 1_000_000),
    integer("verify", "known_keys_max", 0, 1_048_576),
    integer("mempool", "transactions_max", 1_024, 16_777_216),
    integer("mempool", "bytes_max", 4 * BATCH_SIZE_MAX as u64, 64 * GIB),
    integer("mempool", "batch_deadline_millis", 1, 10_000),
    key("storage", "encryption", Kind::Choice(&["sm4-gcm", "none"])),
    key("storage", "key_file", Kind::Path),
    key("audit", "folder", Kind::Path),
    key("audit", "key_file", Kind::Path),
    integer("audit", "signatures_interval_millis", 100, 60_000),
    integer("audit", "seal_interval_millis", 1_000, 3_600_000),
    blocks("log", "segment_bytes", 16 * MIB, 4 * GIB - 4 * KIB),
    blocks("log", "group_bytes_max", 4 * KIB, 8 * MIB),
    integer("log", "depth", 1, 4),
    key("log", "backend", Kind::Choice(&["auto", "uring", "sync"])),
    integer("log", "vote_heights_kept", VOTE_HEIGHTS_KEPT_MIN, 100_000_000),
    integer("state", "cache_bytes", 2 * MIB, 1_024 * GIB),
    integer("state", "write_buffer_bytes", MIB, 64 * GIB),
    integer("consensus", "timeout_propose_millis", 1, TIMEOUT_MILLIS_MAX),
    integer("consensus", "timeout_prevote_millis", 1, TIMEOUT_MILLIS_MAX),
    integer("consensus", "timeout_precommit_millis", 1, TIMEOUT_MILLIS_MAX),
    integer("consensus", "timeout_delta_millis", 0, TIMEOUT_MILLIS_MAX),
    integer("consensus", "timeout_max_millis", 1, TIMEOUT_MILLIS_MAX),
    integer("limits", "memory_bytes", 512 * MIB, 16_384 * GIB),
    key("logging", "level", Kind::Choice(&["error", "warn", "info", "debug"])),
    key("logging", "format", Kind::Choice(&["text", "json"])),
];

/// Keys that have no default and may be left out.
pub(super) const OPTIONAL_KEYS: &[(&str, &str)] = &[
    ("node", "passphrase_file"),
    ("node", "passphrase_credential"),
    ("node", "passphrase_descriptor"),
];

/// Sections that a file may leave out as a whole, keys without default included.
pub(super) const OPTIONAL_SECTIONS: &[&str] = &["peer"];

/// A vote log whose beginning was used again holds the seals of at least so many heights.
pub const VOTE_HEIGHTS_KEPT_MIN: u64 = 16;

const _: () = assert!(
    MIB >= BATCH_SIZE_MAX as u64,
    "a receive buffer holds a frame that fills a whole batch"
);

const _: () = assert!(
    128 * KIB >= 2 * PEER_CONSENSUS_SIZE_MAX as u64,
    "the smallest choice of control bytes holds the largest consensus message twice"
);

/// The key with this section and name.
#[must_use]
pub(super) fn find(section: &str, name: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|spec| spec.section == section && spec.name == name)
}

/// All sections, each once, in the order of the table.
pub(super) fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter().map(|spec| spec.section).filter(move |section| {
        let new = *section != last;
        last = section;
        new
    })
}
