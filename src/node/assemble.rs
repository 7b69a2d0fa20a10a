//! Assembles a node: makes every tile of [`crate::topology`], joins them by its links, and hands them to their threads.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hufu_consensus::engine::Timeouts;
use hufu_crypto::{Provider, Signer, entropy};
use hufu_mempool::{Mempool, MempoolConfig};
use hufu_network::SessionConfig;
use hufu_runtime::link::{Consumer, LinkStats, Producer};
use hufu_runtime::net::{self, Reactor};
use hufu_runtime::thread::Group;
use hufu_types::codec::index;
use hufu_types::{Address, Genesis};

use crate::config::{NodeConfig, ReactorChoice};
use crate::history::History;
use crate::messages::{Answer, Checked, Executed, Question, Status, Submitted};
use crate::metrics::Metrics;
use crate::recovery::Recovered;
use crate::tiles::consensus::{ConsensusLinks, ConsensusStart, ConsensusTile};
use crate::tiles::execute::{ExecuteLinks, ExecuteTile, WorkerLink, WorkerTile};
use crate::tiles::ingress::{IngressConfig, IngressLinks, IngressTile};
use crate::tiles::mempool::{MempoolLinks, MempoolTile, next_sequence};
use crate::tiles::persist_log::{PersistLogLinks, PersistLogTile};
use crate::tiles::persist_vote::PersistVoteTile;
use crate::tiles::query::{QueryLinks, QueryTile};
use crate::tiles::sign::SignTile;
use crate::tiles::verify::{VerifyConfig, VerifyLinks, VerifyTile};
use crate::topology::{self, Links, Threads, rank};

/// Verified digests one verify tile remembers, count: the transactions of some seconds.
const REMEMBERED_DIGESTS_MAX: usize = 65_536;

/// Transactions the mempool remembers for its duplicate check, count; about 200 bytes each.
const REMEMBERED_TRANSACTIONS_MAX: u32 = 524_288;

/// Everything a node is made of before its tiles exist.
pub struct Parts<'a> {
    /// What its operator told it.
    pub config: &'a NodeConfig,
    /// Its chain.
    pub genesis: &'a Genesis,
    /// Itself.
    pub address: Address,
    /// Signs its votes.
    pub signer: Box<dyn Signer>,
    /// Verifies and hashes.
    pub provider: Provider,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What recovery left.
    pub recovered: Recovered,
}

/// What the rest of the node needs of the assembled tiles.
#[derive(Debug)]
pub struct Assembled {
    /// Where clients connect.
    pub client: SocketAddr,
    /// Counters of all links.
    pub links: Vec<LinkStats>,
}

/// Link ends that lead to and from the ingress tiles, by ingress tile.
#[derive(Default)]
struct IngressEnds {
    to_verify: Vec<Vec<Producer<Submitted>>>,
    statuses: Vec<Vec<Consumer<Status>>>,
    executed: Vec<Consumer<Executed>>,
    to_execute: Vec<Producer<Question>>,
    to_query: Vec<Producer<Question>>,
    answers: Vec<Vec<Consumer<Answer>>>,
}

/// Makes the tiles of a node and gives them to the threads of `group`.
///
/// # Errors
/// What the host refuses: an address, a thread, memory or entropy.
pub fn assemble(group: &mut Group, parts: Parts<'_>) -> io::Result<Assembled> {
    let threads = Threads::plan(group, &parts.config.placement)?;
    let mut links = Links::new();
    let ingress_count = threads.ingress.len();
    let mut ends = IngressEnds::default();
    ends.to_verify.resize_with(ingress_count, Vec::new);
    ends.statuses.resize_with(ingress_count, Vec::new);
    ends.answers.resize_with(ingress_count, Vec::new);
    let recovered = parts.recovered;
    let shared = Shared {
        config: parts.config,
        genesis: parts.genesis,
        address: parts.address,
        provider: parts.provider,
        metrics: parts.metrics,
        lag: parts.genesis.parameters.certified_lag_heights.into(),
    };
    let roots = recovered.executor.last_roots();
    let tip_block = recovered.executor.block();
    let recent_roots = recovered.executor.recent_roots().to_vec();
    let history =
        History::new(Arc::clone(recovered.executor.store()), recovered.log.reader(), shared.provider.clone());

    let checked = shared.add_verify(group, &mut links, &threads, &mut ends);

    let (to_log, sealed) = links.join(group, topology::MEMPOOL_LOG, None, threads.mempool, threads.persist_log);
    let (log_durable, durable) =
        links.join(group, topology::LOG_MEMPOOL, None, threads.persist_log, threads.mempool);
    let (to_mempool, requests) =
        links.join(group, topology::CONSENSUS_MEMPOOL, None, threads.consensus, threads.mempool);
    let (to_consensus, candidates) =
        links.join(group, topology::MEMPOOL_CONSENSUS, None, threads.mempool, threads.consensus);
    let to_ingress = links.fan_out(group, topology::MEMPOOL_INGRESS, threads.mempool, &threads.ingress, &mut ends.statuses);
    let mempool_links = MempoolLinks { checked, to_ingress, to_log, durable, requests, to_consensus };
    let pool = shared.mempool(&recovered)?;
    let tile = MempoolTile::new(pool, recovered.batches.clone(), Arc::clone(&shared.metrics), mempool_links);
    group.add(threads.mempool, rank::MEMPOOL, Box::new(tile));

    let (to_vote_log, commands) =
        links.join(group, topology::CONSENSUS_VOTE, None, threads.consensus, threads.persist_vote);
    let (vote_durable, vote_log) =
        links.join(group, topology::VOTE_CONSENSUS, None, threads.persist_vote, threads.consensus);
    let (to_sign, to_be_signed) =
        links.join(group, topology::CONSENSUS_SIGN, None, threads.consensus, threads.sign);
    let (sign_out, signed) = links.join(group, topology::SIGN_CONSENSUS, None, threads.sign, threads.consensus);
    let (blocks_out, blocks) =
        links.join(group, topology::CONSENSUS_LOG, None, threads.consensus, threads.persist_log);
    let (heights_out, durable_heights) =
        links.join(group, topology::LOG_CONSENSUS, None, threads.persist_log, threads.consensus);
    let (roots_out, executed) =
        links.join(group, topology::EXECUTE_CONSENSUS, None, threads.execute, threads.consensus);
    let (to_execute, durable_blocks) =
        links.join(group, topology::LOG_EXECUTE, None, threads.persist_log, threads.execute);

    let consensus_links = ConsensusLinks {
        candidates,
        to_mempool,
        to_vote_log,
        vote_log,
        to_sign,
        signed,
        to_log: blocks_out,
        durable_heights,
        executed,
    };
    let start = ConsensusStart {
        address: shared.address,
        timeouts: shared.timeouts(),
        log: recovered.votes,
        tip: recovered.tip,
        roots: recent_roots,
        batches: recovered.batches,
    };
    let metrics = || Arc::clone(&shared.metrics);
    let tile =
        ConsensusTile::new(shared.genesis, shared.provider.clone(), metrics(), start, consensus_links);
    group.add(threads.consensus, rank::CONSENSUS, Box::new(tile));
    let tile = SignTile::new(parts.signer, metrics(), to_be_signed, sign_out);
    group.add(threads.sign, rank::DURABLE, Box::new(tile));
    let tile = PersistVoteTile::new(recovered.vote_log, metrics(), commands, vote_durable);
    group.add(threads.persist_vote, rank::DURABLE, Box::new(tile));
    let log_links = PersistLogLinks {
        batches: sealed,
        blocks,
        to_mempool: log_durable,
        to_consensus: heights_out,
        to_execute,
    };
    let tile = PersistLogTile::new(recovered.log, recovered.unordered, metrics(), log_links);
    group.add(threads.persist_log, rank::DURABLE, Box::new(tile));

    let mut results =
        links.fan_out_one(group, topology::EXECUTE_INGRESS, threads.execute, &threads.ingress, &mut ends.executed);
    let (query_results, query_executed) =
        links.join(group, topology::EXECUTE_QUERY, None, threads.execute, threads.query);
    results.push(query_results);
    let questions =
        links.fan_in(group, topology::INGRESS_EXECUTE, &threads.ingress, threads.execute, &mut ends.to_execute);
    let answers = links.fan_out(group, topology::EXECUTE_ANSWER, threads.execute, &threads.ingress, &mut ends.answers);
    let workers = shared.add_workers(group, &mut links, &threads);
    let execute_links = ExecuteLinks {
        blocks: durable_blocks,
        questions,
        to_consensus: roots_out,
        results,
        answers,
        workers,
    };
    group.add(threads.execute, rank::EXECUTE, Box::new(ExecuteTile::new(recovered.executor, execute_links)));

    let questions =
        links.fan_in(group, topology::INGRESS_QUERY, &threads.ingress, threads.query, &mut ends.to_query);
    let answers = links.fan_out(group, topology::QUERY_ANSWER, threads.query, &threads.ingress, &mut ends.answers);
    let query_links = QueryLinks { executed: query_executed, questions, answers };
    let tile =
        QueryTile::new(history, shared.provider.clone(), shared.lag, roots.height, metrics(), query_links);
    group.add(threads.query, rank::LAST, Box::new(tile));

    let client = shared.add_ingress(group, &threads, ends, roots, tip_block)?;
    Ok(Assembled { client, links: links.into_stats() })
}

/// What several tiles are made from.
struct Shared<'a> {
    config: &'a NodeConfig,
    genesis: &'a Genesis,
    address: Address,
    provider: Provider,
    metrics: Arc<Metrics>,
    lag: u64,
}

impl Shared<'_> {
    fn add_verify(
        &self,
        group: &mut Group,
        links: &mut Links,
        threads: &Threads,
        ends: &mut IngressEnds,
    ) -> Vec<Consumer<Checked>> {
        let verify = &self.config.verify;
        let config = VerifyConfig {
            batch_max: index(verify.batch_max),
            batch_deadline: verify.batch_deadline,
            remembered_max: REMEMBERED_DIGESTS_MAX,
        };
        let mut checked = Vec::new();
        for (number, &thread) in threads.verify.iter().enumerate() {
            let mut incoming = Vec::new();
            for (ingress, &from) in threads.ingress.iter().enumerate() {
                let (producer, consumer) =
                    links.join(group, topology::INGRESS_VERIFY, Some(number), from, thread);
                ends.to_verify[ingress].push(producer);
                incoming.push(consumer);
            }
            let (to_mempool, consumer) =
                links.join(group, topology::VERIFY_MEMPOOL, Some(number), thread, threads.mempool);
            checked.push(consumer);
            let to_ingress =
                links.fan_out(group, topology::VERIFY_INGRESS, thread, &threads.ingress, &mut ends.statuses);
            let verify_links = VerifyLinks { incoming, to_mempool, to_ingress };
            let (chain_id, provider) = (self.genesis.chain_id(), self.provider.clone());
            let metrics = Arc::clone(&self.metrics);
            let tile = VerifyTile::new(number, config, chain_id, provider, metrics, verify_links);
            group.add(thread, rank::VERIFY, Box::new(tile));
        }
        checked
    }

    fn mempool(&self, recovered: &Recovered) -> io::Result<Mempool> {
        let mut seed = [0; 8];
        entropy::fill(&mut seed).map_err(io::Error::other)?;
        let config = MempoolConfig {
            pending_transactions_max: self.config.mempool.transactions_max,
            pending_bytes_max: self.config.mempool.bytes_max,
            remembered_transactions_max: REMEMBERED_TRANSACTIONS_MAX,
            batch_wait_nanos: u64::try_from(self.config.mempool.batch_deadline.as_nanos()).unwrap_or(u64::MAX),
            ..MempoolConfig::default()
        };
        let (height, sequence) =
            (recovered.tip.height, next_sequence(recovered.tip.height, &recovered.batches));
        let mut pool = Mempool::new(
            config,
            self.genesis.chain_id(),
            self.address,
            Arc::clone(&self.provider.hasher),
            height + 1,
            sequence,
            u64::from_le_bytes(seed),
        );
        for batch in &recovered.batches {
            let is_restored = pool.restore(batch);
            assert!(is_restored, "what the mempool held before fits it again");
        }
        Ok(pool)
    }

    fn timeouts(&self) -> Timeouts {
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let consensus = &self.config.consensus;
        Timeouts {
            propose_nanos: nanos(consensus.timeout_propose),
            prevote_nanos: nanos(consensus.timeout_prevote),
            precommit_nanos: nanos(consensus.timeout_precommit),
            round_step_nanos: nanos(consensus.timeout_delta),
            cap_nanos: nanos(consensus.timeout_max),
            ..Timeouts::default()
        }
    }

    fn add_workers(&self, group: &mut Group, links: &mut Links, threads: &Threads) -> Vec<WorkerLink> {
        let mut workers = Vec::new();
        for (number, &thread) in threads.workers.iter().enumerate() {
            let (portions, work) =
                links.join(group, topology::EXECUTE_WORKER, Some(number), threads.execute, thread);
            let (done, outcomes) =
                links.join(group, topology::WORKER_EXECUTE, Some(number), thread, threads.execute);
            workers.push(WorkerLink { portions, outcomes });
            group.add(thread, rank::LAST, Box::new(WorkerTile::new(number, work, done)));
        }
        workers
    }

    fn reactor(&self) -> Result<Reactor, net::Error> {
        let client = &self.config.client;
        let backend = match client.reactor {
            ReactorChoice::Auto => net::Backend::Auto,
            ReactorChoice::Uring => net::Backend::Uring,
            ReactorChoice::Epoll => net::Backend::Epoll,
        };
        Reactor::new(net::Config {
            backend,
            connections_max: client.connections_max,
            receive_bytes: index(client.receive_buffer_bytes),
            send_bytes: index(client.send_buffer_bytes),
            ..net::Config::default()
        })
    }

    /// What one connection may do; its outgoing buffer grows with what may be in flight.
    fn session(&self) -> io::Result<SessionConfig> {
        let mut session = SessionConfig {
            transactions_in_flight_max: self.config.client.in_flight_transactions_max,
            ..SessionConfig::default()
        };
        if let Some(("outgoing_bytes_max", min)) = session.fault() {
            session.outgoing_bytes_max = u32::try_from(min).unwrap_or(u32::MAX);
        }
        match session.fault() {
            None => Ok(session),
            Some((key, min)) => {
                let text = format!("client session: {key} must be at least {min}");
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
        }
    }

    /// One listener for each ingress tile; all but the first share the first one's port.
    fn add_ingress(
        &self,
        group: &mut Group,
        threads: &Threads,
        ends: IngressEnds,
        roots: crate::messages::ExecutedRoots,
        block: hufu_types::BlockDigest,
    ) -> io::Result<SocketAddr> {
        let mut address = self.config.client.listen;
        let session = self.session()?;
        let joined = ends
            .to_verify
            .into_iter()
            .zip(ends.statuses)
            .zip(ends.executed)
            .zip(ends.to_execute)
            .zip(ends.to_query)
            .zip(ends.answers);
        for (number, (((((to_verify, statuses), executed), to_execute), to_query), answers)) in
            joined.enumerate()
        {
            let links = IngressLinks { to_verify, statuses, executed, to_execute, to_query, answers };
            let mut reactor = self.reactor().map_err(io::Error::other)?;
            let listener = reactor.listen(address).map_err(|cause| {
                io::Error::new(cause.kind(), format!("client.listen {address}: {cause}"))
            })?;
            address = reactor.local_addr(listener)?;
            let config = IngressConfig {
                index: u16::try_from(number).unwrap_or(u16::MAX),
                session,
                chain_id: self.genesis.chain_id(),
                node: self.address,
                lag: self.lag,
                height: roots.height,
                block,
                state_root: roots.state_root,
            };
            let metrics = Arc::clone(&self.metrics);
            let tile =
                IngressTile::new(config, self.provider.clone(), metrics, reactor, listener, links);
            group.add(threads.ingress[number], rank::INGRESS, Box::new(tile));
        }
        Ok(address)
    }
}
