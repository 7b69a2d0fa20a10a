//! Four validators as four processes, and what must hold whatever happened to them.
//!
//! ```text
//! Chain::of(4) -> node-0 .. node-3 <- loaders, one each -> Record
//!                     | a fault, then its end
//!                     v
//! all at one height and state -> Checker over each (nothing lost, nothing twice, no fork)
//!   -> stop -> block logs equal, ledger verify of each, all votes of all logs together
//! ```

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use hufu_network::message::answer::StatusInfo;
use serde_json::Value;

use crate::chain::Chain;
use crate::checks::{Checker, verify_ledger};
use crate::load::{Loader, Record};
use crate::logs;
use crate::node::{TestNode, wait_until};
use crate::wire::{Metrics, ask_admin, try_ask_admin};

/// Validators, count: the fewest that bear a fault.
pub(crate) const COUNT: usize = 4;

/// Transactions in flight at each node: enough for full heights, few enough for two cores.
pub(crate) const FEW: usize = 32;

/// Milliseconds of rest after which no height follows: ten block intervals.
const REST_MILLIS: u64 = 500;

/// How long a node is waited for that shall say how it stands when its test has failed.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(2);

/// First port that is tried for links, above services with names.
const PORT_MIN: u16 = 10_000;

/// Links need ports that are known beforehand; they lie below those that the system picks from.
const PORTS_COUNT: u16 = 20_000;

/// Where the next cluster of this process looks for ports.
static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

/// A chain of four with its processes, and what clients were promised.
pub(crate) struct Four {
    // Before the chain, in whose folder they lie.
    pub(crate) nodes: Vec<TestNode>,
    pub(crate) chain: Arc<Chain>,
    pub(crate) record: Arc<Record>,
    pub(crate) peers: Vec<SocketAddr>,
    /// Vote logs of disks that are lost to their nodes: what they signed is known from here.
    pub(crate) witnesses: Vec<PathBuf>,
}

impl Four {
    /// A chain that keeps each node's data in the node's folder; nothing runs yet.
    pub(crate) fn new(name: &str) -> Self {
        Self::on(name, |chain, index| node_folder(chain, index).join("data"))
    }

    /// A chain whose data lies where `place` says.
    pub(crate) fn on(name: &str, place: impl Fn(&Chain, usize) -> PathBuf) -> Self {
        Self::of(Chain::of(name, COUNT), place)
    }

    /// The nodes of a chain whose data lies where `place` says.
    pub(crate) fn of(chain: Chain, place: impl Fn(&Chain, usize) -> PathBuf) -> Self {
        let chain = Arc::new(chain);
        let peers = free_ports(COUNT);
        let make = |index| {
            let (folder, data) = (node_folder(&chain, index), place(&chain, index));
            let others = (0..COUNT).filter(|other| *other != index);
            let others: Vec<_> =
                others.map(|other| (format!("node-{other}"), peers[other])).collect();
            let own = (format!("node-{index}"), peers[index]);
            let config = configure(&folder, &data, &own, &others);
            TestNode::new(config, data, &folder)
        };
        let nodes = (0..COUNT).map(make).collect();
        Self { nodes, chain, record: Arc::default(), peers, witnesses: Vec::new() }
    }

    /// Starts all and opens the market, and lets none go before all of them vote: who comes late to
    /// the first height is on probation for some seconds, and a fault elsewhere would then be one
    /// more than four can bear.
    pub(crate) fn open(mut self) -> Self {
        self.start(&[0, 1, 2, 3]);
        self.chain.open_market(&mut self.chain.connect(&self.nodes[0]));
        if !self.do_all_vote() {
            // Probation ends with a block that is young enough, which needs a load.
            let loaders = self.load(&[0]);
            wait_until("votes of all", || self.do_all_vote());
            loaders.into_iter().for_each(Loader::finish);
        }
        self
    }

    fn do_all_vote(&self) -> bool {
        (0..COUNT).all(|index| self.signed(index) > 0)
    }

    /// How many signatures a node has made since it was started.
    pub(crate) fn signed(&self, index: usize) -> u64 {
        self.metrics(index).get("hufu_sign_signatures_made_total")
    }

    /// Starts these and waits until all of them take transactions.
    pub(crate) fn start(&mut self, which: &[usize]) {
        for index in which {
            self.nodes[*index].start();
        }
        for index in which {
            let came_up = self.nodes[*index].wait_ready();
            assert!(came_up, "NOT DURABLE: node-{index} does not start");
        }
    }

    /// Ends these as `kill -9` does.
    pub(crate) fn kill(&mut self, which: &[usize]) {
        for index in which {
            self.nodes[*index].kill();
        }
    }

    /// A load at each of these.
    pub(crate) fn load(&self, which: &[usize]) -> Vec<Loader> {
        let start =
            |index: &usize| Loader::start(&self.chain, &self.nodes[*index], &self.record, FEW);
        which.iter().map(start).collect()
    }

    /// Why the height at work of a node is not decided.
    pub(crate) fn explain(&self, index: usize) -> Value {
        serde_json::from_str(&ask_admin(&self.nodes[index], "/consensus")).unwrap()
    }

    /// The last height that a node has decided.
    pub(crate) fn tip(&self, index: usize) -> u64 {
        // Until the first height is at work there is nothing to explain.
        self.explain(index)["tip"].as_u64().unwrap_or(0)
    }

    pub(crate) fn metrics(&self, index: usize) -> Metrics {
        Metrics::of(&self.nodes[index])
    }

    /// Waits until a node has decided so many heights more.
    pub(crate) fn wait_heights(&self, index: usize, more: u64) {
        let wanted = self.tip(index) + more;
        wait_until("more heights", || self.tip(index) >= wanted);
    }

    fn status(&self, index: usize) -> StatusInfo {
        self.chain.connect(&self.nodes[index]).status().unwrap()
    }

    /// Waits until all rest at one height with one block and one state, and returns the height.
    pub(crate) fn wait_level(&self) -> u64 {
        let mut height = 0;
        wait_until("one height on all nodes", || {
            let is_resting = |index| {
                let explained = self.explain(index);
                let millis = explained["stage_millis"].as_u64().unwrap_or(0);
                explained["stage"] == "resting" && millis >= REST_MILLIS
            };
            if !(0..COUNT).all(is_resting) {
                return false;
            }
            let all: Vec<StatusInfo> = (0..COUNT).map(|index| self.status(index)).collect();
            let tip = |status: &StatusInfo| (status.height, status.block, status.state_root);
            height = all[0].height;
            all.iter().all(|one| tip(one) == tip(&all[0]) && one.pending_transactions == 0)
        });
        height
    }

    /// What every node answers and what every disk holds is one chain with all that was promised.
    /// No load runs any more.
    pub(crate) fn finish(mut self) {
        let height = self.wait_level();
        // One checker for all: a block that differs from that of an earlier node is a fork.
        let mut checker = Checker::default();
        for node in &self.nodes {
            checker.check(&self.chain, node, &self.record, true);
        }
        for node in &mut self.nodes {
            node.stop();
        }
        let folders: Vec<&Path> = self.nodes.iter().map(TestNode::data).collect();
        let chains = folders.iter().map(|data| logs::blocks(&self.chain, data));
        let chains: Vec<Vec<_>> = chains.collect();
        let longest = chains.iter().max_by_key(|blocks| blocks.len()).unwrap();
        for (index, blocks) in chains.iter().enumerate() {
            assert!(blocks.len() as u64 >= height, "NOT DURABLE: the log of node-{index} is short");
            let same = &longest[..blocks.len()];
            assert_eq!(blocks, same, "FORK: the log of node-{index} holds another chain");
        }
        for data in &folders {
            verify_ledger(&self.chain, data);
        }
        let witnesses = self.witnesses.iter().map(PathBuf::as_path);
        let all: Vec<&Path> = folders.iter().copied().chain(witnesses).collect();
        let votes = logs::audit_votes(&self.chain, &all);
        let (receipts, compared) = (self.record.count(), checker.compared);
        println!("{height} heights, {receipts} receipts, {compared} comparisons, {votes} votes");
    }
}

/// A test that fails says why every node is where it is, so that a stall explains itself.
impl Drop for Four {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for path in ["/consensus", "/metrics"] {
            for (index, node) in self.nodes.iter().enumerate() {
                let said = node.admin_address_if_ready().map_or_else(
                    || "is not up".to_owned(),
                    |admin| match try_ask_admin(admin, path, LAST_WORDS_PATIENCE) {
                        Ok(answer) => essence(&answer),
                        Err(error) => error.to_string(),
                    },
                );
                eprintln!("--- node-{index} {path}: {said}");
            }
        }
    }
}

/// The body of an answer, without what never happened and without the times of tiles.
fn essence(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").map_or(answer, |(_, body)| body);
    let is_dull = |line: &&str| {
        line.starts_with('#') || line.starts_with("hufu_tile_") || line.ends_with(" 0")
    };
    body.lines().filter(|line| !is_dull(line)).collect::<Vec<&str>>().join("\n")
}

/// The folder of a node's keys, configuration and log.
pub(crate) fn node_folder(chain: &Chain, index: usize) -> PathBuf {
    chain.path().join(format!("node-{index}"))
}

/// Writes the configuration of one node into its folder; small bounds, because many nodes run here.
pub(crate) fn configure(
    folder: &Path,
    data: &Path,
    (name, listen): &(String, SocketAddr),
    others: &[(String, SocketAddr)],
) -> PathBuf {
    let lines = others.iter().map(|(other, address)| format!("{other} = \"{address}\"\n"));
    let (addresses, data) = (lines.collect::<String>(), data.display());
    let text = format!(
        "[node]\nname = \"{name}\"\ndata_dir = \"{data}\"\ngenesis = \"../genesis.toml\"\n\
         key = \"vote.pem\"\n[client]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [placement]\ncores = \"none\"\nmerge = \"always\"\n\
         [mempool]\ntransactions_max = 20000\nbytes_max = 8388608\n\
         [log]\nsegment_bytes = 16777216\n[state]\ncache_bytes = 8388608\n\
         write_buffer_bytes = 4194304\n\
         [peer]\nlisten = \"{listen}\"\nkey_file = \"link.pem\"\nbulk_bytes_max = 16777216\n\
         held_bytes_max = 8388608\norigin_bytes_max = 33554432\nback_off_max_millis = 1000\n\
         [peer.addresses]\n{addresses}"
    );
    let path = folder.join("hufu.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Distinct ports on 127.0.0.1 that nobody listens at.
pub(crate) fn free_ports(count: usize) -> Vec<SocketAddr> {
    let process = u16::try_from(std::process::id() % u32::from(PORTS_COUNT)).unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        let place = process.wrapping_mul(37) ^ NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_MIN + place % PORTS_COUNT));
        if !found.contains(&address) && TcpListener::bind(address).is_ok() {
            found.push(address);
        }
    }
    found
}
