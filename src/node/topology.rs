//! The topology: which tiles exist, which link joins which, and where each runs. The only place
//! that says so.
//!
//! ```text
//! ingress[i] -> verify[j] -> mempool -> persist-log -> execute -> ingress[i]
//!                   \-> ingress[i]   |-> consensus <-> persist-vote, sign -> audit
//!                                    \-> verify[j] (what was admitted)
//! ```
//!
//! Links are bounded; a full one pushes back to its producer and in the end to the client's socket.
//! On a machine with a core for each tile every tile has its own pinned thread; with fewer cores
//! the service tiles share one thread, each verifying core has a verify tile, and nobody spins.

use std::io;
use std::time::Duration;

use hufu_runtime::link::{self, Consumer, LinkStats, Producer};
use hufu_runtime::placement::{self, CoreSet};
use hufu_runtime::thread::{Group, ThreadConfig, ThreadId};

use crate::config::{Cores, MergeChoice, Placement};

/// One kind of link: between which tiles, how deep, and why so deep.
#[derive(Clone, Copy, Debug)]
pub struct LinkSpec {
    /// Name in metrics, with the indexes of its ends added where there are several.
    pub name: &'static str,
    /// Most items it holds.
    pub depth: usize,
    /// Why that depth.
    pub reason: &'static str,
}

macro_rules! links {
    ($($constant:ident: $name:literal, $depth:literal, $reason:literal;)*) => {
        $(
            #[doc = $reason]
            pub const $constant: LinkSpec =
                LinkSpec { name: $name, depth: $depth, reason: $reason };
        )*

        /// All kinds of links.
        pub const LINKS: &[LinkSpec] = &[$($constant),*];
    };
}

links! {
    INGRESS_VERIFY: "ingress-verify", 1024, "Four full batches, so that a verify tile never waits for ingress.";
    VERIFY_MEMPOOL: "verify-mempool", 2048, "Two rounds of verdicts of a SIMD verifier.";
    MEMPOOL_VERIFY: "mempool-verify", 2048, "Admissions of two rounds of verdicts; what finds no room is only not recognised early.";
    MEMPOOL_JUDGE: "mempool-judge", 8, "Parts of peers' batches, 256 signatures each; the rest waits in the mempool and goes to whichever tile has room.";
    VERIFY_INGRESS: "verify-ingress", 1024, "As many refusals as transactions may be under way.";
    MEMPOOL_INGRESS: "mempool-ingress", 4096, "Admissions come in bursts of a verify batch for each verify tile.";
    MEMPOOL_LOG: "mempool-log", 64, "One block's worth of batches, one mebibyte each.";
    LOG_MEMPOOL: "log-mempool", 64, "As many as there may be batches on their way.";
    MEMPOOL_CONSENSUS: "mempool-consensus", 64, "Candidates for one question, and how far each proposed or decided block is.";
    CONSENSUS_MEMPOOL: "consensus-mempool", 64, "A question, the needs of some rounds and a decision for each height, some heights deep.";
    CONSENSUS_VOTE: "consensus-vote", 1024, "Records of one height of 128 validators, several rounds.";
    VOTE_CONSENSUS: "vote-consensus", 64, "One answer for each sync.";
    CONSENSUS_SIGN: "consensus-sign", 4, "The engine waits for one signature at a time.";
    SIGN_CONSENSUS: "sign-consensus", 4, "The engine waits for one signature at a time.";
    CONSENSUS_LOG: "consensus-log", 16, "The heights under way to the disk in catch-up; else one.";
    LOG_CONSENSUS: "log-consensus", 16, "As many as are under way to the disk.";
    LOG_EXECUTE: "log-execute", 16, "Execution is at most d heights behind, and sixteen in catch-up.";
    EXECUTE_CONSENSUS: "execute-consensus", 16, "One item for each height.";
    EXECUTE_INGRESS: "execute-ingress", 16, "Blocks whose receipts wait to be handed out.";
    EXECUTE_QUERY: "execute-query", 16, "Blocks that queries learn of.";
    INGRESS_EXECUTE: "ingress-execute", 256, "Questions about accounts; answered between two blocks.";
    EXECUTE_ANSWER: "execute-answer", 256, "As many answers as questions.";
    INGRESS_QUERY: "ingress-query", 256, "Questions that read the disk.";
    QUERY_ANSWER: "query-answer", 256, "As many answers as questions.";
    CONSENSUS_PEER: "consensus-peer", 1024, "What one validator says in a height of many rounds; kept until the link has room.";
    PEER_CONSENSUS: "peer-consensus", 1024, "Votes of both steps of 128 validators and some rounds; more waits in the sockets.";
    MEMPOOL_PEER: "mempool-peer", 256, "A batch to each of 128 peers, and as many answers.";
    PEER_MEMPOOL: "peer-mempool", 256, "A question from each of 128 peers, and as many comings and goings.";
    PEER_VERIFY: "peer-verify", 64, "Batches of peers; more waits in the peer tile, counted in bytes.";
    PEER_QUERY: "peer-query", 64, "Decided heights that peers ask for, some ranges deep.";
    QUERY_PEER: "query-peer", 64, "As many answers as questions.";
    SIGN_AUDIT: "sign-audit", 64, "One tally a second and what a card's absence brings; a minute of a disk that hangs.";
    EXECUTE_WORKER: "execute-worker", 1, "A block gives each worker one portion.";
    WORKER_EXECUTE: "worker-execute", 1, "A block gives each worker one portion.";
}

/// Who stops when: a tile stops when all of lower rank are done, so everything taken in is
/// finished.
pub mod rank {
    /// Sources: they drain their clients first.
    pub const INGRESS: u16 = 0;
    /// Verifies what ingress left.
    pub const VERIFY: u16 = 1;
    /// Seals what was verified.
    pub const MEMPOOL: u16 = 2;
    /// Finishes the height under way.
    pub const CONSENSUS: u16 = 3;
    /// Served consensus to its end.
    pub const DURABLE: u16 = 4;
    /// Executes what became durable.
    pub const EXECUTE: u16 = 5;
    /// Tells peers the last of it; asks queries, so it stops before them.
    pub const PEER: u16 = 5;
    /// Served execution to its end.
    pub const LAST: u16 = 6;
}

/// The threads of a node, planned.
#[derive(Debug)]
pub struct Threads {
    /// One for each ingress tile.
    pub ingress: Vec<ThreadId>,
    /// One for each verify tile.
    pub verify: Vec<ThreadId>,
    /// The mempool's.
    pub mempool: ThreadId,
    /// Consensus's.
    pub consensus: ThreadId,
    /// The signer's.
    pub sign: ThreadId,
    /// The peers'; nothing runs there for them where there are none.
    pub peer: ThreadId,
    /// Execution's.
    pub execute: ThreadId,
    /// One for each worker of execution.
    pub workers: Vec<ThreadId>,
    /// The block log's; never shared, since it waits for the disk.
    pub persist_log: ThreadId,
    /// The vote log's; never shared, since it waits for the disk.
    pub persist_vote: ThreadId,
    /// Queries' and the audit log's; both wait for the disk, and nobody who must not shares it.
    pub query: ThreadId,
    /// Whether the service tiles share a thread.
    pub is_merged: bool,
}

/// Service tiles that want a core each before anything is left for verification.
const SERVICE_CORES: usize = 6;

/// Verifying cores that keep one worker of execution busy: a signature takes about ten times as
/// long to verify as its transaction to execute, and the execute tile takes a part itself.
const VERIFY_CORES_PER_WORKER: usize = 8;

impl Threads {
    /// Plans the threads on the cores that `placement` allows.
    ///
    /// # Errors
    /// When the cores cannot be asked for, or no thread can be planned.
    pub fn plan(group: &mut Group, placement: &Placement, has_peers: bool) -> io::Result<Self> {
        let (cores, is_pinned) = match &placement.cores {
            Cores::Auto => (placement::available_cores()?, true),
            Cores::None => (placement::available_cores()?, false),
            Cores::List(cores) => (cores.clone(), true),
        };
        let count = cores.cores().len().max(1);
        let ingress_count = usize::try_from(placement.ingress_count).unwrap_or(1);
        let service_count = SERVICE_CORES + ingress_count + usize::from(has_peers);
        let is_merged = match placement.merge {
            MergeChoice::Always => true,
            MergeChoice::Never => false,
            MergeChoice::Auto => count <= service_count,
        };
        let spin = if is_merged { Duration::ZERO } else { placement.spin };
        let mut planner = Planner { group, cores: cores.cores(), next: 0, is_pinned, spin };
        if is_merged {
            planner.merged(placement, count)
        } else {
            planner.separate(placement, count, has_peers)
        }
    }
}

/// Gives out cores one after the other.
struct Planner<'a> {
    group: &'a mut Group,
    cores: &'a [usize],
    next: usize,
    is_pinned: bool,
    spin: Duration,
}

impl Planner<'_> {
    /// Service tiles on one thread that the kernel places; a verify tile on each core.
    fn merged(&mut self, placement: &Placement, cores_count: usize) -> io::Result<Threads> {
        let service = self.free("service")?;
        let ingress_count = usize::try_from(placement.ingress_count).unwrap_or(1);
        let verify_count = chosen(placement.verify_count, cores_count);
        Ok(Threads {
            ingress: vec![service; ingress_count],
            verify: self.pinned_each("verify", verify_count)?,
            mempool: service,
            consensus: service,
            sign: service,
            peer: service,
            execute: service,
            // Without cores to spare, another thread executes nothing sooner.
            workers: self.pinned_each("worker", index_of(placement.execute_workers))?,
            persist_log: self.free("persist-log")?,
            persist_vote: self.free("persist-vote")?,
            query: self.free("query")?,
            is_merged: true,
        })
    }

    /// A core for each service tile; the rest verifies.
    fn separate(
        &mut self,
        placement: &Placement,
        cores_count: usize,
        has_peers: bool,
    ) -> io::Result<Threads> {
        let ingress_count = usize::try_from(placement.ingress_count).unwrap_or(1);
        let service_count = SERVICE_CORES + ingress_count + usize::from(has_peers);
        let spare = cores_count.saturating_sub(service_count);
        let workers_count = chosen(placement.execute_workers, spare / VERIFY_CORES_PER_WORKER);
        let left = spare.saturating_sub(workers_count).max(1);
        let mempool = self.pinned("mempool")?;
        let peer = if has_peers { self.pinned("peer")? } else { mempool };
        Ok(Threads {
            ingress: self.pinned_each("ingress", ingress_count)?,
            mempool,
            consensus: self.pinned("consensus")?,
            sign: self.pinned("sign")?,
            peer,
            execute: self.pinned("execute")?,
            workers: self.pinned_each("worker", workers_count)?,
            persist_log: self.pinned("persist-log")?,
            persist_vote: self.pinned("persist-vote")?,
            verify: self.pinned_each("verify", chosen(placement.verify_count, left))?,
            query: self.free("query")?,
            is_merged: false,
        })
    }

    fn free(&mut self, name: &str) -> io::Result<ThreadId> {
        self.group.thread(ThreadConfig::new(name))
    }

    fn pinned(&mut self, name: &str) -> io::Result<ThreadId> {
        let mut config = ThreadConfig::new(name);
        config.spin = self.spin;
        if self.is_pinned && !self.cores.is_empty() {
            config.cores = CoreSet::new(&[self.cores[self.next % self.cores.len()]]);
            self.next += 1;
        }
        self.group.thread(config)
    }

    fn pinned_each(&mut self, name: &str, count: usize) -> io::Result<Vec<ThreadId>> {
        (0..count).map(|number| self.pinned(&format!("{name}-{number}"))).collect()
    }
}

fn index_of(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The operator's number, or `default` where he left the choice to us.
fn chosen(count: u32, default: usize) -> usize {
    if count == 0 { default } else { index_of(count) }
}

/// Makes links, binds both ends to the threads of their tiles, and keeps their counters.
#[derive(Debug, Default)]
pub struct Links {
    stats: Vec<LinkStats>,
}

impl Links {
    /// No links yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A link as the table has it, from a tile on one thread to a tile on another.
    pub fn join<T>(
        &mut self,
        group: &Group,
        spec: LinkSpec,
        index: Option<usize>,
        from: ThreadId,
        to: ThreadId,
    ) -> (Producer<T>, Consumer<T>) {
        let name =
            index.map_or_else(|| spec.name.to_owned(), |index| format!("{}-{index}", spec.name));
        let name = self.unique(name);
        let (producer, consumer) = link::link(&name, spec.depth);
        producer.bind(&group.waker(from));
        consumer.bind(&group.waker(to));
        self.stats.push(producer.stats());
        (producer, consumer)
    }

    /// A link from one tile to each of several; the receiving ends are added to theirs.
    pub fn fan_out<T>(
        &mut self,
        group: &Group,
        spec: LinkSpec,
        from: ThreadId,
        to: &[ThreadId],
        ends: &mut [Vec<Consumer<T>>],
    ) -> Vec<Producer<T>> {
        assert_eq!(to.len(), ends.len(), "each tile gets its end");
        let mut producers = Vec::new();
        for (number, (&to, ends)) in to.iter().zip(ends).enumerate() {
            let (producer, consumer) = self.join(group, spec, Some(number), from, to);
            ends.push(consumer);
            producers.push(producer);
        }
        producers
    }

    /// As [`Links::fan_out`], for tiles that have one such link.
    pub fn fan_out_one<T>(
        &mut self,
        group: &Group,
        spec: LinkSpec,
        from: ThreadId,
        to: &[ThreadId],
        ends: &mut Vec<Consumer<T>>,
    ) -> Vec<Producer<T>> {
        let mut lists: Vec<Vec<Consumer<T>>> = to.iter().map(|_| Vec::new()).collect();
        let producers = self.fan_out(group, spec, from, to, &mut lists);
        ends.extend(lists.into_iter().flatten());
        producers
    }

    /// A link from each of several tiles to one; the sending ends are added to `ends`.
    pub fn fan_in<T>(
        &mut self,
        group: &Group,
        spec: LinkSpec,
        from: &[ThreadId],
        to: ThreadId,
        ends: &mut Vec<Producer<T>>,
    ) -> Vec<Consumer<T>> {
        let mut consumers = Vec::new();
        for (number, &from) in from.iter().enumerate() {
            let (producer, consumer) = self.join(group, spec, Some(number), from, to);
            ends.push(producer);
            consumers.push(consumer);
        }
        consumers
    }

    /// Counters of all links made.
    #[must_use]
    pub fn into_stats(self) -> Vec<LinkStats> {
        self.stats
    }

    /// Two verify tiles have a link each to the first ingress tile: metrics want names of their
    /// own.
    fn unique(&self, name: String) -> String {
        let same = self
            .stats
            .iter()
            .filter(|link| link.name() == name || link.name().starts_with(&format!("{name}.")))
            .count();
        if same == 0 { name } else { format!("{name}.{same}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execution_has_workers_where_there_are_cores_for_them() {
        let counts = |cores: usize, execute_workers| {
            let last = (cores - 1).to_string();
            let placement = Placement {
                cores: Cores::List(format!("0-{last}").parse().unwrap()),
                ingress_count: 1,
                verify_count: 0,
                execute_workers,
                merge: MergeChoice::Auto,
                spin: Duration::ZERO,
            };
            let mut group = Group::new(hufu_runtime::thread::abort_process());
            let threads = Threads::plan(&mut group, &placement, false).unwrap();
            (threads.is_merged, threads.workers.len(), threads.verify.len())
        };
        assert_eq!(counts(2, 0), (true, 0, 2));
        assert_eq!(counts(8, 0), (false, 0, 1));
        assert_eq!(counts(16, 0), (false, 1, 8));
        assert_eq!(counts(32, 0), (false, 3, 22));
        assert_eq!(counts(16, 3), (false, 3, 6), "the operator's number stands");
    }

    #[test]
    fn every_link_has_a_name_a_depth_and_a_reason() {
        let mut names: Vec<&str> = LINKS.iter().map(|link| link.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LINKS.len(), "names are unique");
        assert!(LINKS.iter().all(|link| link.depth > 0 && link.reason.len() > 20));
    }
}
