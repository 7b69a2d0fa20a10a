//! The folder of a local network: keys, genesis, configurations, logs, receipts.
//!
//! ```text
//! D/genesis.toml  D/node-I/{hufu.toml, vote.pem or vote.key, link.pem, audit.pem, data.key}
//! D/node-I/{data/, log}
//! D/receipts.bin  D/*.json
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hufu_crypto::Signer;
use hufu_runtime::clock;
use hufu_runtime::placement::available_cores;
use hufu_types::genesis::{Genesis, Parameters, Validator, ValidatorSet};
use hufu_types::{ChainId, Strength};
use tempfile::TempDir;

use super::load::Load;
use super::{Options, cards, ports};
use crate::cli::CliError;
use crate::data_key::{self, DATA_KEY_FILE};
use crate::output::Output;
use crate::{genesis_file, keys_file};

/// Least time between two blocks: short enough for quick receipts, long enough for full blocks.
pub(super) const BLOCK_INTERVAL_MILLIS: u32 = 50;

/// Key file of a vote key in software.
const KEY_FILE: &str = "vote.pem";

/// Key file of the key that seals the audit log.
const AUDIT_KEY_FILE: &str = "audit.pem";

/// Buckets of the state root, as a logarithm.
const STATE_BUCKETS_LOG2: u8 = 16;

/// A folder that was made for one network.
pub(super) struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
    chain_id: ChainId,
    receipts: Option<PathBuf>,
}

impl Folder {
    /// Makes the folder and everything the nodes need.
    pub(super) fn make(options: &Options, load: &Load) -> Result<Self, CliError> {
        let (path, temporary) = match &options.folder {
            Some(path) => (prepare(path)?, None),
            None => {
                let made = tempfile::Builder::new().prefix("hufu-localnet-").tempdir();
                let made = made.map_err(|cause| {
                    CliError::file(cause, &std::env::temp_dir(), "give --dir, or set TMPDIR")
                })?;
                (made.path().to_owned(), Some(made))
            }
        };
        let receipts = options.receipts.clone().unwrap_or_else(|| path.join("receipts.bin"));
        let receipts = options.with_receipts.then_some(receipts);
        let mut folder = Self { path, temporary, chain_id: ChainId::ZERO, receipts };
        folder.chain_id = folder.write(options, load)?;
        Ok(folder)
    }

    fn write(&self, options: &Options, load: &Load) -> Result<ChainId, CliError> {
        let nodes_count = options.nodes_count;
        let key = if options.with_cards { cards::KEY_FILE } else { KEY_FILE };
        let ports = ports::pick(nodes_count).map_err(|cause| {
            let remedy = "free TCP ports on 127.0.0.1 below the range the system picks from";
            CliError::failed(cause, "ports for the links between nodes", remedy)
        })?;
        let cores = available_cores().map_or(1, |cores| cores.cores().len());
        let validators = (0..nodes_count)
            .map(|index| self.write_node(index, key, &configuration(index, key, &ports, cores)));
        let validators = validators.collect::<Result<_, _>>()?;
        let genesis = genesis_of(load, validators).map_err(|error| {
            CliError::failed(error, "the genesis of the local network", "report this")
        })?;
        let path = self.genesis();
        fs::write(&path, genesis_file::write(&genesis)).map_err(|cause| failed(cause, &path))?;
        Ok(genesis.chain_id())
    }

    /// Makes a node's folder, keys and configuration; returns who it is.
    fn write_node(
        &self,
        index: u16,
        key_file: &str,
        configuration: &str,
    ) -> Result<Validator, CliError> {
        let node = self.node(index);
        fs::create_dir_all(&node).map_err(|cause| failed(cause, &node))?;
        let key = |file| {
            let path = node.join(file);
            let made = keys_file::create(&path).map_err(|error| CliError::key(&error, &path))?;
            Ok::<_, CliError>(*made.public_key())
        };
        let link_key = key("link.pem")?;
        key(AUDIT_KEY_FILE)?;
        let key = if key_file == KEY_FILE {
            let path = self.data_key(index);
            data_key::create(&path).map_err(|error| CliError::key(&error, &path))?;
            key(KEY_FILE)?
        } else {
            let key = cards::make(&node, index)?;
            cards::wrap_data_key(&node, index)?;
            key
        };
        let path = node.join("hufu.toml");
        fs::write(&path, configuration).map_err(|cause| failed(cause, &path))?;
        Ok(Validator { name: name(index), key, link_key, power: 1 })
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The chain that was made.
    pub(super) const fn chain_id(&self) -> ChainId {
        self.chain_id
    }

    /// The genesis file.
    pub(super) fn genesis(&self) -> PathBuf {
        self.path.join("genesis.toml")
    }

    /// The folder of one node.
    pub(super) fn node(&self, index: u16) -> PathBuf {
        self.path.join(name(index))
    }

    /// The data folder of one node.
    pub(super) fn data_dir(&self, index: u16) -> PathBuf {
        self.node(index).join("data")
    }

    /// The data key of one node.
    pub(super) fn data_key(&self, index: u16) -> PathBuf {
        self.node(index).join(DATA_KEY_FILE)
    }

    /// Where receipts go, if they are written.
    pub(super) fn receipts(&self) -> Option<&Path> {
        self.receipts.as_deref()
    }

    /// Arguments of the process that replays a node's log.
    pub(super) fn ledger_verify_arguments(&self, index: u16) -> Vec<String> {
        let data = self.data_dir(index).display().to_string();
        let genesis = self.genesis().display().to_string();
        let key = self.data_key(index).display().to_string();
        let words = [
            "ledger",
            "verify",
            &data,
            "--data-key",
            &key,
            "--genesis",
            &genesis,
            "--level",
            "replay",
            "--json",
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Arguments of the process that holds a node's audit log against its vote log.
    pub(super) fn audit_verify_arguments(&self, index: u16) -> Result<Vec<String>, CliError> {
        let path = self.node(index).join(AUDIT_KEY_FILE);
        let sealed_by = keys_file::open(&path).and_then(|key| key.public_key().copied());
        let sealed_by = sealed_by.map_err(|error| CliError::key(&error, &path))?.to_string();
        let data = self.data_dir(index).display().to_string();
        let key = self.data_key(index).display().to_string();
        let words = ["audit", "verify", &data, "--data-key", &key, "--key", &sealed_by, "--json"];
        Ok(words.map(str::to_owned).to_vec())
    }

    /// Arguments of the process that verifies all receipts with nothing but the genesis.
    pub(super) fn receipt_verify_arguments(
        &self,
        receipts: &Path,
        count: u64,
        strength: Strength,
    ) -> Vec<String> {
        let (genesis, receipts) =
            (self.genesis().display().to_string(), receipts.display().to_string());
        let strength = match strength {
            Strength::Committed => "committed",
            Strength::Certified => "certified",
        };
        let count = count.to_string();
        let words = [
            "receipt",
            "verify",
            "--genesis",
            &genesis,
            "--distinct",
            &count,
            "--strength",
            strength,
            "--json",
            &receipts,
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Ends the use of the folder: a temporary one goes unless it is to be kept.
    pub(super) fn leave(self, keep: bool, output: Output) {
        let Some(temporary) = self.temporary else { return };
        if keep {
            let path = temporary.keep();
            output.note(format!("the network's files are kept in {}", path.display()));
        } else if let Err(cause) = temporary.close() {
            output.note(format!("{} could not be removed: {cause}", self.path.display()));
        }
    }
}

/// Name of a node, of its validator and of its folder.
pub(super) fn name(index: u16) -> String {
    format!("node-{index}")
}

pub(super) fn failed(cause: io::Error, path: &Path) -> CliError {
    CliError::file(cause, path, "check the folder and its disk")
}

/// Cores a node must have for itself before it is given some: fewer do not hold its tiles apart.
const CORES_COUNT_MIN: usize = 4;

/// Bytes of memory that a node plans with alone, and more for each peer: what the default bounds of
/// `[peer]` add up to and some room.
const MEMORY_BYTES: (u64, u64) = (2_147_483_648, 268_435_456);

/// One node's configuration. The system picks the ports for clients and the admin plane, and the
/// node tells them; peers must know theirs beforehand. Several nodes share the cores out among them
/// where there are enough, else none of them claims any for itself.
fn configuration(index: u16, key: &str, peers: &[SocketAddr], cores_count: usize) -> String {
    let mut text = format!(
        "# Written by `hufu localnet run`.\n\
         [node]\nname = \"{}\"\ndata_dir = \"data\"\ngenesis = \"../genesis.toml\"\n\
         key = \"{key}\"\n\
         [client]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n",
        name(index)
    );
    let written = write_peers(&mut text, index, peers, cores_count);
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    text
}

fn write_peers(
    text: &mut String,
    index: u16,
    peers: &[SocketAddr],
    cores_count: usize,
) -> std::fmt::Result {
    let [_, _, ..] = peers else { return Ok(()) };
    let (own, share) = (usize::from(index), cores_count / peers.len());
    let (alone, each) = MEMORY_BYTES;
    let others = (0_u16..).zip(peers).filter(|(place, _)| *place != index);
    let memory = alone + each * others.clone().map(|_| 1).sum::<u64>();
    writeln!(text, "[limits]\nmemory_bytes = {memory}\n[placement]")?;
    if share >= CORES_COUNT_MIN {
        writeln!(text, "cores = \"{}-{}\"", own * share, (own + 1) * share - 1)?;
    } else {
        writeln!(text, "cores = \"none\"\nmerge = \"always\"")?;
    }
    writeln!(text, "[peer]\nkey_file = \"link.pem\"")?;
    for (_, address) in (0_u16..).zip(peers).filter(|(place, _)| *place == index) {
        writeln!(text, "listen = \"{address}\"")?;
    }
    writeln!(text, "[peer.addresses]")?;
    for (place, address) in others {
        writeln!(text, "{} = \"{address}\"", name(place))?;
    }
    Ok(())
}

fn genesis_of(load: &Load, validators: Vec<Validator>) -> Result<Genesis, hufu_types::DecodeError> {
    let validators = ValidatorSet::new(validators)?;
    let parameters = Parameters {
        certified_lag_heights: 1,
        block_interval_millis: BLOCK_INTERVAL_MILLIS,
        state_buckets_log2: STATE_BUCKETS_LOG2,
    };
    let operator = vec![load.operator()];
    let time_millis = clock::wall().as_millis();
    let name = "localnet".to_owned();
    Genesis::new(name, time_millis, parameters, validators, operator.clone(), operator)
}

/// A folder named by the operator must be new or empty: a chain is never mixed with another.
fn prepare(path: &Path) -> Result<PathBuf, CliError> {
    let failed = |cause| CliError::file(cause, path, "name a folder this user may write");
    fs::create_dir_all(path).map_err(failed)?;
    if fs::read_dir(path).map_err(failed)?.next().is_some() {
        let remedy = "name a new or empty folder: a local network never joins an older one";
        return Err(CliError::file("the folder is not empty", path, remedy));
    }
    std::path::absolute(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeConfig;

    fn peers(count: u16) -> Vec<SocketAddr> {
        (0..count).map(|index| SocketAddr::from(([127, 0, 0, 1], 20_000 + index))).collect()
    }

    fn parse(text: &str) -> NodeConfig {
        NodeConfig::parse(text, Path::new("hufu.toml"), Path::new("/tmp")).unwrap()
    }

    #[test]
    fn a_node_alone_has_no_peers() {
        let config = parse(&configuration(0, KEY_FILE, &peers(1), 64));
        assert_eq!((config.node.name.as_str(), config.peer), ("node-0", None));
    }

    #[test]
    fn every_node_knows_all_others_and_they_share_the_cores() {
        for (count, cores) in [(2, 2), (4, 16), (4, 15), (16, 2)] {
            let peers = peers(count);
            let mut taken = Vec::new();
            for index in 0..count {
                let config = parse(&configuration(index, KEY_FILE, &peers, cores));
                let peer = config.peer.unwrap();
                assert_eq!(peer.listen, peers[usize::from(index)]);
                assert_eq!(peer.addresses.len(), peers.len() - 1);
                for (place, address) in (0..).zip(&peers).filter(|(place, _)| *place != index) {
                    assert_eq!(peer.addresses[&name(place)], *address);
                }
                match config.placement.cores {
                    crate::config::Cores::List(cores) => taken.extend(cores.cores().to_vec()),
                    other => assert_eq!(other, crate::config::Cores::None),
                }
            }
            let expected: Vec<usize> =
                if cores >= 4 * usize::from(count) { (0..cores).collect() } else { Vec::new() };
            assert_eq!(taken, expected, "{count} nodes on {cores} cores");
        }
    }
}
