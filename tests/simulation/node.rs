//! One simulated node: the shipped rules, and in place of the tiles a shell that carries out their
//! effects in order.
//!
//! ```text
//! wire, tasks, clients -> Node -> Replica, Dissemination, Mempool, Ledger, BlockLog, VoteLog
//!                              -> Outside: frames to peers, tasks for later, replies to clients
//! ```
//!
//! It keeps the tiles' contract: a batch is durable before its rule hears so, votes are durable
//! before they are answered for, a decided block is durable before it is executed, and a client
//! hears of a receipt only then. What a crash ends is in [`Life`]; what survives it is the disk.

mod effects;
mod life;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hufu_consensus::header::Parent;
use hufu_consensus::replica::{Input, Time};
use hufu_consensus::{LogTicket, SignIntent, SignTicket};
use hufu_types::{
    Address, Batch, BatchDigest, OrderedBatches, Receipt, RefusalCode, Transaction, TxId,
    verify_transactions,
};

use crate::logs::Disk;
use crate::material::Material;
use crate::oracles::{Failure, Oracles};
use crate::random::Random;
use crate::wire::Wire;
pub(crate) use life::Life;

/// Milliseconds since 1970 when every run begins.
const EPOCH_MILLIS: u64 = 2_000_000;

/// Why a node stops where it is.
#[derive(Debug)]
pub(crate) enum Halt {
    /// Its disk stopped, as was ordered: a crash.
    Died,
    /// A rule is broken: the run has failed.
    Failed(Failure),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a node does later.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    Wake,
    SyncVotes,
    Sign { ticket: SignTicket, intent: SignIntent },
    Flush,
    Judge(Batch),
    Execute,
}

impl Task {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Wake => "wake",
            Self::SyncVotes => "sync-votes",
            Self::Sign { .. } => "sign",
            Self::Flush => "flush",
            Self::Judge(_) => "judge",
            Self::Execute => "execute",
        }
    }
}

/// What a client is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Receipt(Receipt),
    Expired(TxId),
}

/// Everything beyond one node that it reaches while it works.
pub(crate) struct Outside<'a> {
    pub(crate) now: u64,
    pub(crate) material: &'a Material,
    pub(crate) oracles: &'a mut Oracles,
    /// The delays of this node's disk, signer and verifiers.
    pub(crate) random: &'a mut Random,
    pub(crate) sends: Vec<(usize, Wire)>,
    pub(crate) later: Vec<(u64, Task)>,
    pub(crate) replies: Vec<Reply>,
    /// For the trace: rules that peers broke, rounds that began.
    pub(crate) notes: Vec<String>,
}

/// See the module.
pub(crate) struct Node {
    pub(crate) place: usize,
    pub(crate) disk: Disk,
    pub(crate) life: Option<Life>,
    /// Number of the life; tasks of earlier ones come to nothing.
    pub(crate) lives: u64,
    /// Whether it may break rules; nobody asks its oracles then.
    pub(crate) is_byzantine: bool,
    clock_ahead_millis: u64,
    /// It is to die when it signs next.
    pub(crate) dies_at_sign: bool,
    /// Until when its card signs nothing.
    pub(crate) card_back_at: u64,
    /// Since when it has a log at all, in Unix milliseconds, where it lost the one before; on disk.
    pub(super) probation: Option<u64>,
}

impl Node {
    pub(crate) fn new(
        material: &Material,
        place: usize,
        is_byzantine: bool,
        clock_ahead_millis: u64,
    ) -> Self {
        let disk = Disk::new(material);
        let probation = Some(EPOCH_MILLIS + clock_ahead_millis);
        Self {
            place,
            disk,
            life: None,
            lives: 0,
            is_byzantine,
            clock_ahead_millis,
            dies_at_sign: false,
            card_back_at: 0,
            probation,
        }
    }

    fn time(&self, now: u64) -> Time {
        let wall_millis = EPOCH_MILLIS + self.clock_ahead_millis + now / 1_000_000;
        Time { nanos: now, wall_millis }
    }

    /// The last height executed; 0 while it is down.
    pub(crate) fn height(&self) -> u64 {
        self.life.as_ref().map_or(0, |life| life.ledger.height())
    }

    /// Begins a life: recovers from the disk and sets out.
    pub(crate) fn start(&mut self, outside: &mut Outside<'_>) -> Result<(), Halt> {
        assert!(self.life.is_none(), "it is down");
        self.lives += 1;
        self.life = Some(Life::recover(self, outside)?);
        self.settle(outside)
    }

    /// Its disk is destroyed and replaced by an empty one.
    pub(crate) fn wipe(&mut self, material: &Material, now: u64) {
        assert!(self.life.is_none(), "it is down");
        self.disk = Disk::new(material);
        self.probation = Some(self.time(now).wall_millis);
    }

    /// Ends the life. What it had in memory is gone.
    pub(crate) fn stop(&mut self) {
        self.life = None;
    }

    /// The link to a peer is open, or has ended.
    pub(crate) fn link(
        &mut self,
        outside: &mut Outside<'_>,
        peer: usize,
        is_up: bool,
    ) -> Result<(), Halt> {
        let address = outside.material.address(peer);
        let Some(life) = &mut self.life else { return Ok(()) };
        if is_up {
            life.up.insert(peer);
            life.inbox.push_back(Input::PeerUp(address));
            life.dissemination.peer_up(outside.now, address);
            outside.sends.extend(life.announced.map(|height| (peer, Wire::Tip { height })));
        } else {
            life.up.remove(&peer);
            life.inbox.push_back(Input::PeerDown(address));
            life.dissemination.peer_down(outside.now, address);
        }
        self.settle(outside)
    }

    /// A frame came over the link of a peer.
    pub(crate) fn receive(
        &mut self,
        outside: &mut Outside<'_>,
        sender: usize,
        wire: Wire,
    ) -> Result<(), Halt> {
        let from = outside.material.address(sender);
        let Some(life) = &mut self.life else { return Ok(()) };
        match wire {
            Wire::Message(message) => life.inbox.push_back(Input::Message { from, message }),
            Wire::Block { round, block } => {
                life.inbox.push_back(Input::Block { from, round, block });
            }
            Wire::Tip { height } => life.inbox.push_back(Input::Tip { from, height }),
            Wire::Height { block, certificate } => {
                life.inbox.push_back(Input::Height { from, block, certificate });
            }
            Wire::AskHeights { from: first, count } => {
                life.serve_heights(outside, sender, first, count);
            }
            Wire::AskBodies { height } => life.serve_bodies(outside, sender, height),
            Wire::Batch(bytes) => {
                let parsed = Batch::parse(bytes, &*outside.material.provider.hasher);
                let chain = outside.material.chain_id;
                match parsed.ok().filter(|batch| batch.header().prefix.chain_id == chain) {
                    Some(batch) => life.dissemination.received(from, batch),
                    None => life.dissemination.malformed(from),
                }
            }
            Wire::Wanted(digests) => life.dissemination.wanted(from, &digests),
            Wire::Absent(digests) => life.dissemination.absent(outside.now, from, &digests),
            Wire::Held(digests) => life.dissemination.held(from, &digests),
            Wire::NoBodies { height } => life.dissemination.no_bodies(outside.now, from, height),
        }
        self.settle(outside)
    }

    /// A client submits a transaction, or asks what became of it.
    pub(crate) fn submit(
        &mut self,
        outside: &mut Outside<'_>,
        transaction: &Transaction,
    ) -> Result<(), Halt> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let id = transaction.view().id();
        if let Some(receipt) = life.receipts.get(&id).copied() {
            self.acknowledge(outside, receipt)?;
            return Ok(());
        }
        let material = outside.material;
        let verdicts =
            verify_transactions(&material.provider, material.chain_id, vec![transaction.clone()]);
        for verified in verdicts.iter().flatten() {
            match life.pool.admit(verified, outside.now) {
                Ok(()) | Err(RefusalCode::Duplicate) => {
                    life.waiters.insert(id);
                }
                Err(RefusalCode::Expired) => outside.replies.push(Reply::Expired(id)),
                Err(_) => {}
            }
        }
        self.settle(outside)
    }

    /// Something that was to be done later is due.
    pub(crate) fn run(&mut self, outside: &mut Outside<'_>, task: Task) -> Result<(), Halt> {
        match task {
            Task::Wake => {
                let Some(life) = &mut self.life else { return Ok(()) };
                if life.wake_at != Some(outside.now) {
                    // An earlier alarm has taken its place.
                    return Ok(());
                }
                life.wake_at = None;
                life.inbox.push_back(Input::Tick);
                life.dissemination.tick(outside.now);
            }
            Task::SyncVotes => self.sync_votes()?,
            Task::Sign { ticket, intent } if outside.now < self.card_back_at => {
                let delay = self.card_back_at - outside.now;
                outside.later.push((delay, Task::Sign { ticket, intent }));
            }
            Task::Sign { ticket, intent } => {
                if core::mem::take(&mut self.dies_at_sign) {
                    return Err(Halt::Died);
                }
                let signature = outside.material.sign(self.place, intent.bytes());
                let Some(life) = &mut self.life else { return Ok(()) };
                life.inbox.push_back(match signature {
                    Some(signature) => Input::Signed { ticket, signature },
                    None => Input::SignFailed(ticket),
                });
            }
            Task::Flush => self.flush(outside)?,
            Task::Judge(batch) => {
                let is_valid = crate::oracles::is_valid(outside.material, &batch);
                let Some(life) = &mut self.life else { return Ok(()) };
                life.dissemination.judged(batch.digest(), is_valid);
            }
            Task::Execute => self.execute(outside)?,
        }
        self.settle(outside)
    }

    /// Lets the rules work until nothing is left to do now, and sets the next alarm.
    fn settle(&mut self, outside: &mut Outside<'_>) -> Result<(), Halt> {
        let time = self.time(outside.now);
        loop {
            let Some(life) = &mut self.life else { return Ok(()) };
            if let Some(input) = life.inbox.pop_front() {
                let mut effects = Vec::new();
                let stepped = life.replica.step(time, input, &mut effects);
                for effect in effects {
                    self.act(outside, effect)?;
                }
                if let Err(error) = stepped {
                    return Err(self.stopped(&error.to_string()));
                }
                continue;
            }
            let effects: Vec<_> = life.dissemination.effects().collect();
            if !effects.is_empty() {
                for effect in effects {
                    self.spread(outside, effect)?;
                }
                continue;
            }
            if !life.propose(outside.now) {
                break;
            }
        }
        self.set_alarm(outside);
        Ok(())
    }

    /// A node that stops for good: nothing in a run may lead an honest one there.
    fn stopped(&self, why: &str) -> Halt {
        if self.is_byzantine {
            return Halt::Died;
        }
        let text = format!("node {} stops: {why}", self.place);
        Halt::Failed(Failure::new("no honest stop", text))
    }

    fn set_alarm(&mut self, outside: &mut Outside<'_>) {
        let now = outside.now;
        let Some(life) = &mut self.life else { return };
        let wanted = life.wanted.filter(|wanted| wanted.allow_empty);
        let patience = wanted.map(|wanted| wanted.patience).filter(|at| *at > now);
        let times = [
            patience,
            life.replica.deadline(now),
            life.dissemination.deadline(),
            life.pool.deadline(),
        ];
        let Some(next) = times.into_iter().flatten().min() else { return };
        // Never at once again: what is due now was done, or waits for something else.
        let next = next.max(now + 100_000);
        if life.wake_at.is_none_or(|at| next < at || at <= now) {
            life.wake_at = Some(next);
            outside.later.push((next - now, Task::Wake));
        }
    }

    fn acknowledge(&mut self, outside: &mut Outside<'_>, receipt: Receipt) -> Result<(), Halt> {
        let Some(life) = &mut self.life else { return Ok(()) };
        if self.is_byzantine {
            return Ok(());
        }
        if life.durable_height < receipt.height.get() {
            let (place, height) = (self.place, receipt.height);
            let text = format!("node {place} acknowledges height {height} before it is durable");
            return Err(Failure::new("durable before acknowledged", text).into());
        }
        outside.oracles.acknowledges(&receipt);
        outside.replies.push(Reply::Receipt(receipt));
        Ok(())
    }
}

/// What recovery makes of the chain in the block log.
struct Chained {
    tip: hufu_consensus::replica::Tip,
    ordered: OrderedBatches,
}

impl Chained {
    fn new(time_millis: u64) -> Self {
        Self {
            tip: hufu_consensus::replica::Tip::genesis(time_millis),
            ordered: OrderedBatches::new(1),
        }
    }

    fn add(&mut self, header: &hufu_types::BlockHeader, batches: &[BatchDigest]) {
        let height = header.height.get();
        let has_receipts = header.transactions_count.get() > 0;
        self.tip = hufu_consensus::replica::Tip {
            block: Parent::of(header),
            last_receipts_height: if has_receipts { height } else { self.tip.last_receipts_height },
            present: Some(header.present.get()),
            present_before: self.tip.present,
        };
        self.ordered.insert(height, batches);
    }
}

/// The vote-log records that are appended and not known to be durable.
type Unsynced = VecDeque<(LogTicket, Vec<u8>)>;

/// Addresses, receipts and waiting clients by transaction.
type Receipts = BTreeMap<TxId, Receipt>;
type Waiters = BTreeSet<TxId>;
type Peers = BTreeSet<usize>;

/// The place of a validator; every address that a rule names is one.
fn place_of(material: &Material, address: &Address) -> Result<usize, Halt> {
    let unknown = || Failure::new("shell", format!("{address} is no validator"));
    material.place(address).ok_or_else(|| unknown().into())
}
