//! The configuration of one node: `hufu.toml` as a typed tree.
//!
//! ```text
//! default.toml + hufu.toml --walk with the table of keys--> NodeConfig, or every fault at once
//! ```
//!
//! Read by `hufu node run`, `node check` and `config check`; nothing else parses the file. Ranges
//! are checked while parsing, so a [`NodeConfig`] holds no value its node could not run with. It
//! holds paths of secrets, never a secret.

mod audit;
mod document;
mod faults;
mod files;
mod peer;
mod reader;
mod schema;
mod table;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hufu_crypto::KnownKeys;
use hufu_hsm::pin::PinSource;
use hufu_mempool::{MempoolConfig, Recent};
use hufu_network::SessionConfig;
use hufu_runtime::placement::CoreSet;
use hufu_storage::block_log::{LogOptions, RECORD_BYTES_MAX};
use hufu_storage::state_store::StateStoreOptions;
use hufu_storage::vote_log::VoteLogOptions;
use hufu_types::TxDigest;

pub use audit::AuditConfig;
pub(crate) use document::{Document, Table, as_unsigned, nearest, show};
pub use faults::{Fault, Faults};
pub use peer::PeerConfig;
pub use reader::DEFAULT_TOML;
pub use schema::{effective, schema};
pub use table::{KEYS, KeySpec, Kind, VOTE_HEIGHTS_KEPT_MIN};

use crate::log;
use crate::tiles::{execute, ingress};
use reader::Reader;

/// Everything one node is told by its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Who the node is.
    pub node: Identity,
    /// The client side.
    pub client: Client,
    /// The links to the other validators; a chain of one has none.
    pub peer: Option<PeerConfig>,
    /// The admin plane.
    pub admin: Admin,
    /// Which tile runs where.
    pub placement: Placement,
    /// Signature verification.
    pub verify: Verify,
    /// Pending transactions.
    pub mempool: Mempool,
    /// Encryption of what is stored.
    pub storage: Storage,
    /// The audit log.
    pub audit: AuditConfig,
    /// The block log.
    pub log: BlockLog,
    /// The state store.
    pub state: State,
    /// The consensus engine's patience.
    pub consensus: Consensus,
    /// What the node may use of its host.
    pub limits: Limits,
    /// Log lines.
    pub logging: Logging,
}

/// `[node]`: who the node is. No key has a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name in logs and metrics.
    pub name: String,
    /// Folder of everything the node stores.
    pub data_dir: PathBuf,
    /// The chain's genesis.
    pub genesis: PathBuf,
    /// The private vote key.
    pub key: PathBuf,
    /// Where the passphrase of encrypted keys is.
    pub passphrase: Option<PinSource>,
}

/// `[client]`: the socket clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Loopback address; port 0 lets the system pick.
    pub listen: SocketAddr,
    /// Connections at once, count.
    pub connections_max: u32,
    /// Transactions of one connection that wait for an answer, count.
    pub in_flight_transactions_max: u32,
    /// Bytes kept for what one connection sends.
    pub receive_buffer_bytes: u32,
    /// Bytes kept for answers one connection has not read.
    pub send_buffer_bytes: u32,
    /// How sockets are driven.
    pub reactor: ReactorChoice,
}

impl Client {
    /// What one connection may do; its outgoing buffer grows with what may be in flight.
    #[must_use]
    pub fn session(&self) -> SessionConfig {
        let mut session = SessionConfig {
            transactions_in_flight_max: self.in_flight_transactions_max,
            ..SessionConfig::default()
        };
        if let Some(("outgoing_bytes_max", min)) = session.fault() {
            session.outgoing_bytes_max = u32::try_from(min).unwrap_or(u32::MAX);
        }
        session
    }
}

/// How sockets are driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReactorChoice {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or the node does not start.
    Uring,
    /// epoll.
    Epoll,
}

/// `[admin]`: metrics and health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Loopback address; port 0 lets the system pick.
    pub listen: SocketAddr,
}

/// `[placement]`: which tile runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Cores the tiles may use.
    pub cores: Cores,
    /// Ingress tiles, count, at least 1.
    pub ingress_count: u32,
    /// Verify tiles, count; 0 for one on each core that is left.
    pub verify_count: u32,
    /// Workers of the execute tile, count; 0 for one for every eight cores that verify.
    pub execute_workers: u32,
    /// Whether tiles share threads.
    pub merge: MergeChoice,
    /// How long a thread of its own polls after its last piece of work.
    pub spin: Duration,
}

/// Cores the tiles may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// All that the process may run on.
    Auto,
    /// No pinning.
    None,
    /// Exactly these, at least one.
    List(CoreSet),
}

/// Whether tiles share threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeChoice {
    /// When there are fewer cores than tiles.
    Auto,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// `[verify]`: signature verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// Signatures verified together, count.
    pub batch_max: u32,
    /// How long the first signature of a batch waits for company.
    pub batch_deadline: Duration,
    /// Public keys whose multiples are kept at most, count.
    pub known_keys_max: u32,
}

impl Verify {
    /// Digests of admitted transactions that all verify tiles together remember, count: those of
    /// some seconds.
    const REMEMBERED_DIGESTS_MAX: u32 = 131_072;

    /// How many of them each of `tiles_count` tiles remembers; every tile has its share of the
    /// transactions too.
    #[must_use]
    pub fn remembered_digests(&self, tiles_count: usize) -> u32 {
        let tiles_count = u32::try_from(tiles_count.max(1)).unwrap_or(u32::MAX);
        (Self::REMEMBERED_DIGESTS_MAX / tiles_count).max(1)
    }

    /// Bytes that the memory of digests and the known keys take, all tiles together; a tile rounds
    /// its table of digests up.
    fn memory_bytes(&self) -> u64 {
        let digests = 2 * Recent::<TxDigest, ()>::memory_bytes(Self::REMEMBERED_DIGESTS_MAX);
        digests + KnownKeys::memory_size(self.known_keys_max)
    }
}

/// `[mempool]`: pending transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mempool {
    /// Pending at most, count.
    pub transactions_max: u32,
    /// Pending at most, bytes.
    pub bytes_max: u64,
    /// How long the first transaction of a batch waits for company.
    pub batch_deadline: Duration,
}

impl Mempool {
    /// The mempool that this asks for. Its memory follows from what may be pending, so that no
    /// value an operator can state is at odds with one he cannot.
    #[must_use]
    pub fn pool(&self) -> MempoolConfig {
        MempoolConfig {
            pending_transactions_max: self.transactions_max,
            pending_bytes_max: self.bytes_max,
            remembered_transactions_max: MempoolConfig::usual_memory(self.transactions_max),
            batch_wait_nanos: u64::try_from(self.batch_deadline.as_nanos()).unwrap_or(u64::MAX),
            ..MempoolConfig::default()
        }
    }
}

/// `[storage]`: encryption of what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// How logs and state are encrypted.
    pub encryption: Encryption,
    /// The data key.
    pub key_file: PathBuf,
}

impl Storage {
    /// The data key's file, if anything is encrypted.
    #[must_use]
    pub fn key_file(&self) -> Option<&Path> {
        (self.encryption == Encryption::Sm4Gcm).then_some(&*self.key_file)
    }
}

/// How logs and state are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// SM4-GCM under the data key.
    Sm4Gcm,
    /// Stored in clear: for measuring what encryption costs, and nothing else.
    None,
}

/// `[log]`: the block log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockLog {
    /// Bytes of one segment, a multiple of 4,096.
    pub segment_bytes: u64,
    /// Bytes at which a group is closed, a multiple of 4,096.
    pub group_bytes_max: u32,
    /// Groups on their way at once, 1..=4.
    pub depth: u32,
    /// How the disk is reached.
    pub backend: LogBackend,
    /// Decided heights whose votes are kept, count.
    pub vote_heights_kept: u32,
}

/// How the disk is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogBackend {
    /// What measured best at the depth, where the kernel allows it.
    Auto,
    /// io_uring.
    Uring,
    /// `pwrite` and `fdatasync`.
    Sync,
}

/// `[state]`: the state store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Bytes of its read cache.
    pub cache_bytes: u64,
    /// Bytes of changes gathered in memory.
    pub write_buffer_bytes: u64,
}

impl State {
    /// Half of the cache keeps decoded values, half keeps blocks of the store's files.
    #[must_use]
    pub fn cache_half_bytes(&self) -> usize {
        usize::try_from(self.cache_bytes / 2).unwrap_or(usize::MAX)
    }
}

/// `[consensus]`: the engine's timeouts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consensus {
    /// Wait for a proposal in round 0.
    pub timeout_propose: Duration,
    /// Wait for more prevotes in round 0.
    pub timeout_prevote: Duration,
    /// Wait for more precommits in round 0.
    pub timeout_precommit: Duration,
    /// By how much each further round waits longer.
    pub timeout_delta: Duration,
    /// No wait is longer.
    pub timeout_max: Duration,
}

/// `[limits]`: what the node may use of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory to plan with.
    pub memory_bytes: u64,
}

/// `[logging]`: the lines on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// Least important lines written.
    pub level: log::Level,
    /// Text or JSON.
    pub format: log::Format,
}

const REACTORS: &[(&str, ReactorChoice)] = &[
    ("auto", ReactorChoice::Auto),
    ("uring", ReactorChoice::Uring),
    ("epoll", ReactorChoice::Epoll),
];
const MERGES: &[(&str, MergeChoice)] =
    &[("auto", MergeChoice::Auto), ("never", MergeChoice::Never), ("always", MergeChoice::Always)];
const ENCRYPTIONS: &[(&str, Encryption)] =
    &[("sm4-gcm", Encryption::Sm4Gcm), ("none", Encryption::None)];
const LOG_BACKENDS: &[(&str, LogBackend)] =
    &[("auto", LogBackend::Auto), ("uring", LogBackend::Uring), ("sync", LogBackend::Sync)];

impl NodeConfig {
    /// Reads a configuration and the facts about the files it names: the keys' permissions, whether
    /// the genesis is there and names the peers, whether the data folder can be one.
    ///
    /// # Errors
    /// Every fault of the file.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let text =
            std::fs::read_to_string(path).map_err(|cause| Faults::unreadable(path, &cause))?;
        let folder = folder_of(path).map_err(|cause| Faults::unreadable(path, &cause))?;
        let (config, mut faults) = Self::walk(&text, &folder);
        faults.extend(files::check(&config, &text));
        Faults::or(path, faults, config)
    }

    /// Reads a configuration without looking at the files it names. `path` is for messages;
    /// relative paths become relative to `folder`.
    ///
    /// # Errors
    /// Every fault of the text.
    pub fn parse(text: &str, path: &Path, folder: &Path) -> Result<Self, Faults> {
        let (config, faults) = Self::walk(text, folder);
        Faults::or(path, faults, config)
    }

    fn walk(text: &str, folder: &Path) -> (Self, Vec<Fault>) {
        let mut reader = Reader::new(text, folder);
        let config = Self::read(&mut reader);
        config.check_relations(&mut reader);
        (config, reader.finish().0)
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            node: Identity {
                name: reader.name("node", "name"),
                data_dir: reader.path("node", "data_dir"),
                genesis: reader.path("node", "genesis"),
                key: reader.path("node", "key"),
                passphrase: passphrase(reader),
            },
            client: Client {
                listen: reader.loopback("client", "listen"),
                connections_max: reader.integer_u32("client", "connections_max"),
                in_flight_transactions_max: reader
                    .integer_u32("client", "in_flight_transactions_max"),
                receive_buffer_bytes: reader.integer_u32("client", "receive_buffer_bytes"),
                send_buffer_bytes: reader.integer_u32("client", "send_buffer_bytes"),
                reactor: reader.choice("client", "reactor", REACTORS, ReactorChoice::Auto),
            },
            peer: PeerConfig::read(reader),
            admin: Admin { listen: reader.loopback("admin", "listen") },
            placement: Placement {
                cores: reader.cores("placement", "cores"),
                ingress_count: reader.integer_u32("placement", "ingress_count"),
                verify_count: reader.integer_u32("placement", "verify_count"),
                execute_workers: reader.integer_u32("placement", "execute_workers"),
                merge: reader.choice("placement", "merge", MERGES, MergeChoice::Auto),
                spin: Duration::from_micros(reader.integer("placement", "spin_micros")),
            },
            verify: Verify {
                batch_max: reader.integer_u32("verify", "batch_max"),
                batch_deadline: Duration::from_micros(
                    reader.integer("verify", "batch_deadline_micros"),
                ),
                known_keys_max: reader.integer_u32("verify", "known_keys_max"),
            },
            mempool: Mempool {
                transactions_max: reader.integer_u32("mempool", "transactions_max"),
                bytes_max: reader.integer("mempool", "bytes_max"),
                batch_deadline: Self::millis(reader, "mempool", "batch_deadline_millis"),
            },
            storage: Storage {
                encryption: reader.choice("storage", "encryption", ENCRYPTIONS, Encryption::Sm4Gcm),
                key_file: reader.path("storage", "key_file"),
            },
            audit: AuditConfig::read(reader),
            log: BlockLog {
                segment_bytes: reader.integer("log", "segment_bytes"),
                group_bytes_max: reader.integer_u32("log", "group_bytes_max"),
                depth: reader.integer_u32("log", "depth"),
                backend: reader.choice("log", "backend", LOG_BACKENDS, LogBackend::Auto),
                vote_heights_kept: reader.integer_u32("log", "vote_heights_kept"),
            },
            state: State {
                cache_bytes: reader.integer("state", "cache_bytes"),
                write_buffer_bytes: reader.integer("state", "write_buffer_bytes"),
            },
            consensus: Consensus {
                timeout_propose: Self::millis(reader, "consensus", "timeout_propose_millis"),
                timeout_prevote: Self::millis(reader, "consensus", "timeout_prevote_millis"),
                timeout_precommit: Self::millis(reader, "consensus", "timeout_precommit_millis"),
                timeout_delta: Self::millis(reader, "consensus", "timeout_delta_millis"),
                timeout_max: Self::millis(reader, "consensus", "timeout_max_millis"),
            },
            limits: Limits { memory_bytes: reader.integer("limits", "memory_bytes") },
            logging: Logging {
                level: reader.choice("logging", "level", log::LEVELS, log::Level::Info),
                format: reader.choice("logging", "format", log::FORMATS, log::Format::Text),
            },
        }
    }

    fn millis(reader: &mut Reader<'_>, section: &'static str, name: &'static str) -> Duration {
        Duration::from_millis(reader.integer(section, name))
    }

    /// Bytes the buffers and caches of this configuration may take together.
    #[must_use]
    pub fn memory_planned_bytes(&self) -> u64 {
        let client = &self.client;
        let connection =
            u64::from(client.receive_buffer_bytes) + u64::from(client.send_buffer_bytes);
        let connections = u64::from(client.connections_max) + u64::from(ingress::SPARE_CONNECTIONS);
        let sessions = ingress::memory_bytes_max(client.connections_max, &client.session());
        let clients = (connection * connections).saturating_add(sessions);
        let log =
            LogOptions::memory_bytes(self.log.depth, self.log.group_bytes_max, RECORD_BYTES_MAX);
        let state = &self.state;
        // Half of the cache is the node's own; see [`State::cache_half_bytes`].
        let half = state.cache_bytes / 2;
        let store = StateStoreOptions::memory_bytes(half, state.write_buffer_bytes);
        u64::from(self.placement.ingress_count).saturating_mul(clients)
            + self.mempool.pool().memory_bytes()
            + self.verify.memory_bytes()
            + execute::memory_bytes()
            + log
            + VoteLogOptions::memory_bytes()
            + (state.cache_bytes - half)
            + store
            + self.peer.as_ref().map_or(0, PeerConfig::memory_bytes)
    }

    /// Checks each relation whose own keys are good, whatever else is wrong.
    fn check_relations(&self, reader: &mut Reader<'_>) {
        let (client, admin) = (self.client.listen, self.admin.listen);
        if client == admin && client.port() != 0 {
            let (keys, rule) = (["admin.listen", "client.listen"], "is also client.listen");
            reader.relation(&keys, &admin.to_string(), rule, "choose another port");
        }
        if let Some(peer) = &self.peer {
            peer.check_relations(reader, [client, admin]);
        }
        let planned = self.memory_planned_bytes();
        if planned > self.limits.memory_bytes {
            let rule = format!("is less than the {planned} bytes of all buffers and caches");
            let remedy = "raise it, or lower client.connections_max, mempool.bytes_max, \
                          mempool.transactions_max, state.cache_bytes or the bytes of [peer]";
            let value = self.limits.memory_bytes.to_string();
            reader.relation(&MEMORY_KEYS, &value, &rule, remedy);
        }
        let timeouts = [
            ("consensus.timeout_propose_millis", self.consensus.timeout_propose),
            ("consensus.timeout_prevote_millis", self.consensus.timeout_prevote),
            ("consensus.timeout_precommit_millis", self.consensus.timeout_precommit),
        ];
        for (path, timeout) in timeouts {
            if timeout > self.consensus.timeout_max {
                let rule = "is more than consensus.timeout_max_millis";
                let (keys, value) =
                    ([path, "consensus.timeout_max_millis"], timeout.as_millis().to_string());
                reader.relation(&keys, &value, rule, "lower it, or raise the maximum");
            }
        }
    }
}

/// Where the passphrase of encrypted keys is: named in one way at most.
fn passphrase(reader: &mut Reader<'_>) -> Option<PinSource> {
    let sources = [
        reader.optional_path("node", "passphrase_file").map(PinSource::File),
        reader.optional_credential("node", "passphrase_credential").map(PinSource::Credential),
        reader.optional_descriptor("node", "passphrase_descriptor").map(PinSource::Descriptor),
    ];
    let mut named = sources.into_iter().flatten();
    let source = named.next()?;
    if let Some(second) = named.next() {
        let keys =
            ["node.passphrase_file", "node.passphrase_credential", "node.passphrase_descriptor"];
        let rule = format!("names the passphrase too, after {source}");
        let (at, value) = match &second {
            PinSource::Credential(name) => (keys[1], name.clone()),
            other => (keys[2], other.to_string()),
        };
        reader.relation(&[at], &value, &rule, "keep one of the three keys");
    }
    Some(source)
}

/// The limit of memory, and all that must fit it (see [`NodeConfig::memory_planned_bytes`]).
const MEMORY_KEYS: [&str; 16] = [
    "limits.memory_bytes",
    "client.connections_max",
    "client.receive_buffer_bytes",
    "client.send_buffer_bytes",
    "mempool.bytes_max",
    "log.group_bytes_max",
    "log.depth",
    "state.cache_bytes",
    "state.write_buffer_bytes",
    "peer.addresses",
    "peer.control_bytes_max",
    "peer.bulk_bytes_max",
    "peer.held_bytes_max",
    "peer.origin_bytes_max",
    "peer.proposer_bytes_max",
    "peer.heights_kept",
];

/// The folder a file lies in, absolute.
fn folder_of(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    Ok(absolute.parent().map(Path::to_owned).unwrap_or(absolute))
}
