//! A whole run against nodes that are up: set-up, load, and the final check.
//!
//! ```text
//! set_up -> load (feed: sign, hand to the generator) -> holdings
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hufu_network::{Client, ClientConfig, TransactionResult, WaitFor};
use hufu_runtime::clock::monotonic;
use hufu_types::Transaction;
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;

use crate::Error;
use crate::cast::Cast;
use crate::feed::Feed;
use crate::generator::{Generator, Pace, SendOptions, connect};
use crate::receipts::ReceiptFile;
use crate::replay::Holdings;
use crate::report::{Latency, RunResult, Tip};
use crate::setup::{Phase, cash, shares, sign_phase};
use crate::sign::SignedChunk;
use crate::workload::Workload;

/// Pause between two looks at where the nodes are.
const SETTLE_PAUSE: Duration = Duration::from_millis(20);

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening accounts, issuing, granting: phases done of phases.
    SettingUp,
    /// Signing a chunk: tasks done of the chunk.
    Signing,
    /// Sending: tasks done of the run.
    Sending,
    /// Waiting until all nodes are at one height: nodes there of nodes.
    Settling,
    /// Asking for the final holdings: brokers done of brokers.
    Checking,
}

impl Stage {
    /// The stage in a word or two, for a progress bar.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::SettingUp => "setting up",
            Self::Signing => "signing",
            Self::Sending => "sending",
            Self::Settling => "settling",
            Self::Checking => "checking holdings",
        }
    }
}

/// Hears how far a run is; called often and from any thread.
pub trait Observer: Sync {
    /// `done` of `total` of this stage.
    fn progress(&self, stage: Stage, done: u64, total: u64);
}

/// An observer who does not listen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&self, _stage: Stage, _done: u64, _total: u64) {}
}

/// A node whose usage is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its admin plane.
    pub admin: SocketAddr,
    /// Its process, if it is on this machine, for CPU time by thread.
    pub pid: Option<u32>,
}

/// How a run is done.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Nodes and connections.
    pub send: SendOptions,
    /// How fast.
    pub pace: Pace,
    /// The genesis's least time between two blocks; says how long a signature lasts.
    pub block_interval: Duration,
    /// The nodes whose usage is measured, in the order of `send.nodes`; none for no usage.
    pub observed: Vec<Observed>,
    /// File for all receipts with their proofs; makes the run wait for certified ones if
    /// `send.strength` says so.
    pub receipts: Option<PathBuf>,
}

/// A run against nodes that are up.
pub struct Run<'a> {
    cast: &'a Cast,
    options: &'a RunOptions,
    observer: &'a dyn Observer,
}

impl<'a> Run<'a> {
    /// How long the nodes may take to come to one height when the load is over.
    const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

    /// Prepares a run; nothing is sent yet.
    #[must_use]
    pub fn new(cast: &'a Cast, options: &'a RunOptions, observer: &'a dyn Observer) -> Self {
        Self { cast, options, observer }
    }

    /// Opens accounts, creates and issues the assets and grants the mandates; returns how many
    /// transactions that took when all of them are committed.
    ///
    /// # Errors
    /// [`Error::SetUp`] if any of it does not succeed, and everything that talking to the node can
    /// bring.
    pub fn set_up(&self, issued: &[Holdings]) -> Result<u64, Error> {
        let mut client = self.client()?;
        let mut transactions_count = 0;
        let mut chunk = SignedChunk::new();
        let phases_count = count(Phase::ALL.len());
        for (number, phase) in (0..).zip(Phase::ALL) {
            self.observer.progress(Stage::SettingUp, number, phases_count);
            let valid_until = client.status()?.height + TX_VALIDITY_HEIGHTS_MAX;
            let chain_id = self.options.send.chain_id;
            sign_phase(phase, self.cast, issued, chain_id, valid_until, &mut chunk)?;
            let parsed = chunk.iter().map(|signed| Transaction::parse(signed.bytes.into()));
            let transactions = parsed.collect::<Result<Vec<_>, _>>()?;
            transactions_count += count(transactions.len());
            let results = client.submit(&transactions, WaitFor::Committed, false)?;
            for (number, result) in (1..).zip(&results) {
                if let Some(reason) = failure(result) {
                    return Err(Error::SetUp { phase, number, reason });
                }
            }
        }
        self.observer.progress(Stage::SettingUp, phases_count, phases_count);
        Ok(transactions_count)
    }

    /// Signs and sends the whole workload and returns when every task has its last word.
    ///
    /// # Errors
    /// What keeps the load from being sent; what the chain makes of it is in the result.
    pub fn load(&self, workload: &mut dyn Workload) -> Result<RunResult, Error> {
        let receipts = self.options.receipts.as_deref().map(ReceiptFile::create).transpose()?;
        let height_first = self.client()?.status()?.height;
        let generator = Generator::new(&self.options.send, receipts.as_ref(), height_first)?;
        let mut feed = Feed::new(self.cast, self.options, self.observer, workload);
        generator.run(|generator| feed.run(generator))?;
        let mut result = feed.finish();
        let height_seen = generator.height();
        result.answers = generator.take_answers();
        let (counts, latency) = generator.finish()?;
        result.counts.add(&counts);
        result.latency = Latency::of(&latency);
        result.height_first = height_first;
        result.tips = self.tips(height_seen)?;
        result.height_last = result.tips.iter().map(|tip| tip.height).max().unwrap_or(0);
        result.receipts_written = receipts.map(ReceiptFile::finish).transpose()?;
        Ok(result)
    }

    /// Where each node is when all have come to one height, at least `height_seen`, or at the end
    /// of [`Self::SETTLE_PATIENCE`]: an answer of one node says nothing of how far others are.
    fn tips(&self, height_seen: u64) -> Result<Vec<Tip>, Error> {
        // Nodes may have been away since the beginning; a fresh connection outlives no restart.
        let clients = self.options.send.nodes.iter().map(|node| self.client_of(*node));
        let mut clients = clients.collect::<Result<Vec<_>, _>>()?;
        let deadline = monotonic().after(Self::SETTLE_PATIENCE);
        let nodes_count = count(clients.len());
        loop {
            let mut tips = Vec::with_capacity(clients.len());
            for client in &mut clients {
                tips.push(Tip::of(&client.status()?));
            }
            let highest = tips.iter().map(|tip| tip.height).max().unwrap_or(0).max(height_seen);
            let there = count(tips.iter().filter(|tip| tip.height == highest).count());
            self.observer.progress(Stage::Settling, there, nodes_count);
            if there == nodes_count || monotonic() >= deadline {
                return Ok(tips);
            }
            std::thread::park_timeout(SETTLE_PAUSE);
        }
    }

    /// What every broker holds now, as the first node says.
    ///
    /// # Errors
    /// Everything that talking to the node can bring.
    pub fn holdings(&self) -> Result<Vec<Holdings>, Error> {
        let mut client = self.client()?;
        let brokers = self.cast.brokers();
        let mut all = Vec::with_capacity(brokers.len());
        for broker in brokers {
            self.observer.progress(Stage::Checking, count(all.len()), count(brokers.len()));
            let account = client.account(*broker.address(), false)?;
            let balance = |asset| {
                let found = account.holdings.iter().find(|holding| holding.asset == asset);
                found.map_or(0, |holding| holding.balance.get())
            };
            all.push(Holdings { shares: balance(shares()), cash: balance(cash()) });
        }
        self.observer.progress(Stage::Checking, count(all.len()), count(brokers.len()));
        Ok(all)
    }

    fn client(&self) -> Result<Client, Error> {
        self.client_of(*self.options.send.nodes.first().ok_or(Error::Nodes)?)
    }

    fn client_of(&self, node: SocketAddr) -> Result<Client, Error> {
        let chain_id = Some(self.options.send.chain_id);
        let config = ClientConfig { chain_id, ..ClientConfig::default() };
        connect(node, &config, self.options.send.reconnect_wait)
    }
}

/// Why a set-up transaction did not succeed.
fn failure(result: &TransactionResult) -> Option<String> {
    match result {
        TransactionResult::Taken => Some("taken, but without receipt".to_owned()),
        TransactionResult::Refused(code) => Some(format!("refused: {code}")),
        TransactionResult::Receipt { receipt, .. } => match receipt.outcome() {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(match failure.operation {
                Some(operation) => format!("failed: {} in operation {operation}", failure.code),
                None => format!("failed: {}", failure.code),
            }),
            Err(error) => Some(error.to_string()),
        },
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod fake_node;
#[cfg(test)]
mod tests;
