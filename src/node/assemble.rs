//! Assembles a node: makes every tile of [`crate::topology`], joins them by its links, and hands
//! them to their threads.

use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hufu_consensus::LogTicket;
use hufu_consensus::engine::{self, Timeouts};
use hufu_consensus::replica::{self, CatchUpConfig, Replica, Start};
use hufu_crypto::{Provider, Signer, entropy};
use hufu_mempool::{Dissemination, Mempool};
use hufu_network::peer::PeerKeys;
use hufu_runtime::link::{Consumer, LinkStats, Producer};
use hufu_runtime::net::{self, Reactor};
use hufu_runtime::thread::Group;
use hufu_storage::block_log::BlockLog;
use hufu_storage::vote_log::VoteLog;
use hufu_types::codec::index;
use hufu_types::{Address, Batch, BatchDigest, BlockDigest, Genesis, TxDigest};

use crate::audit::{NodeAudit, SignAudit};
use crate::config::{NodeConfig, ReactorChoice};
use crate::executor::Executor;
use crate::explain::Explanation;
use crate::history::History;
use crate::log;
use crate::messages::{
    Answer, DurableBlock, Executed, ExecutedRoots, FromVerify, JudgeChunk, MempoolAnswer,
    MempoolRequest, PeerBatch, Question, SealedBatch, SignRequest, Signed, Status, Submitted,
    VoteLogCommand,
};
use crate::metrics::Metrics;
use crate::recovery::Recovered;
use crate::signing_desk::SigningDesk;
use crate::tiles::audit::{AuditSource, AuditTile};
use crate::tiles::consensus::{ConsensusLinks, ConsensusTile, PeerEnds};
use crate::tiles::execute::{ExecuteLinks, ExecuteTile, WorkerLink, WorkerTile};
use crate::tiles::ingress::{IngressConfig, IngressLinks, IngressTile, SPARE_CONNECTIONS};
use crate::tiles::mempool::{MempoolLinks, MempoolPeers, MempoolTile, next_sequence};
use crate::tiles::peer::{PeerConfig, PeerLinks, PeerTile};
use crate::tiles::persist_log::{PersistLogLinks, PersistLogTile, UnorderedBatches};
use crate::tiles::persist_vote::PersistVoteTile;
use crate::tiles::query::{QueryLinks, QueryTile};
use crate::tiles::sign::SignTile;
use crate::tiles::verify::{VerifyConfig, VerifyLinks, VerifyTile};
use crate::topology::{self, Links, Threads, rank};

/// Everything a node is made of before its tiles exist.
pub struct Parts<'a> {
    /// What its operator told it.
    pub config: &'a NodeConfig,
    /// Its chain.
    pub genesis: &'a Genesis,
    /// Itself.
    pub address: Address,
    /// Signs its votes.
    pub desk: SigningDesk,
    /// Keeps what was done with its keys.
    pub audit: NodeAudit,
    /// Proves who it is to its peers; nothing where it has none.
    pub link_signer: Option<Box<dyn Signer>>,
    /// Verifies and hashes.
    pub provider: Provider,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Hears what consensus waits for.
    pub explanation: Arc<Explanation>,
    /// Since when this node must not vote yet; see [`hufu_storage::data_dir::DataDir::probation`].
    pub probation: Option<u64>,
    /// What recovery left.
    pub recovered: Recovered,
}

/// What the rest of the node needs of the assembled tiles.
#[derive(Debug)]
pub struct Assembled {
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where peers connect, if there may be any.
    pub peer: Option<SocketAddr>,
    /// Counters of all links.
    pub links: Vec<LinkStats>,
}

/// Link ends that lead to and from the ingress tiles, by ingress tile.
struct IngressEnds {
    to_verify: Vec<Vec<Producer<Submitted>>>,
    statuses: Vec<Vec<Consumer<Status>>>,
    executed: Vec<Consumer<Executed>>,
    to_execute: Vec<Producer<Question>>,
    to_query: Vec<Producer<Question>>,
    answers: Vec<Vec<Consumer<Answer>>>,
}

impl IngressEnds {
    fn new(ingress_count: usize) -> Self {
        fn lists<T>(count: usize) -> Vec<Vec<T>> {
            (0..count).map(|_| Vec::new()).collect()
        }
        Self {
            to_verify: lists(ingress_count),
            statuses: lists(ingress_count),
            executed: Vec::new(),
            to_execute: Vec::new(),
            to_query: Vec::new(),
            answers: lists(ingress_count),
        }
    }
}

/// Link ends of the tiles there is one of each.
struct Core {
    to_log: Producer<SealedBatch>,
    durable: Consumer<BatchDigest>,
    requests: Consumer<MempoolRequest>,
    to_consensus: Producer<MempoolAnswer>,
    consensus: ConsensusLinks,
    sign: (Consumer<SignRequest>, Producer<Signed>),
    vote: (Consumer<VoteLogCommand>, Producer<LogTicket>),
    log: PersistLogLinks,
    durable_blocks: Consumer<DurableBlock>,
    roots: Producer<ExecutedRoots>,
}

impl Core {
    fn join(group: &Group, links: &mut Links, threads: &Threads) -> Self {
        let Threads { mempool, consensus, sign, execute, persist_log, persist_vote, .. } = *threads;
        let (to_log, batches) =
            links.join(group, topology::MEMPOOL_LOG, None, mempool, persist_log);
        let (to_mempool, durable) =
            links.join(group, topology::LOG_MEMPOOL, None, persist_log, mempool);
        let (asks, requests) =
            links.join(group, topology::CONSENSUS_MEMPOOL, None, consensus, mempool);
        let (to_consensus, from_mempool) =
            links.join(group, topology::MEMPOOL_CONSENSUS, None, mempool, consensus);
        let (to_vote_log, commands) =
            links.join(group, topology::CONSENSUS_VOTE, None, consensus, persist_vote);
        let (tickets, vote_log) =
            links.join(group, topology::VOTE_CONSENSUS, None, persist_vote, consensus);
        let (to_sign, requested) =
            links.join(group, topology::CONSENSUS_SIGN, None, consensus, sign);
        let (signatures, signed) =
            links.join(group, topology::SIGN_CONSENSUS, None, sign, consensus);
        let (decided, blocks) =
            links.join(group, topology::CONSENSUS_LOG, None, consensus, persist_log);
        let (heights, durable_heights) =
            links.join(group, topology::LOG_CONSENSUS, None, persist_log, consensus);
        let (to_execute, durable_blocks) =
            links.join(group, topology::LOG_EXECUTE, None, persist_log, execute);
        let (roots, executed) =
            links.join(group, topology::EXECUTE_CONSENSUS, None, execute, consensus);
        Self {
            to_log,
            durable,
            requests,
            to_consensus,
            consensus: ConsensusLinks {
                from_mempool,
                to_mempool: asks,
                to_vote_log,
                vote_log,
                to_sign,
                signed,
                to_log: decided,
                durable_heights,
                executed,
                peers: None,
            },
            sign: (requested, signatures),
            vote: (commands, tickets),
            log: PersistLogLinks { batches, blocks, to_mempool, to_consensus: heights, to_execute },
            durable_blocks,
            roots,
        }
    }
}

/// Link ends that lead to and from the peer tile.
struct PeerJoints {
    consensus: Option<PeerEnds>,
    mempool: Option<MempoolPeers>,
    /// One for each verify tile, the last first.
    verify: Vec<Consumer<PeerBatch>>,
    questions: Consumer<Question>,
    answers: Producer<Answer>,
    tile: PeerLinks,
}

impl PeerJoints {
    fn join(group: &Group, links: &mut Links, threads: &Threads) -> Self {
        let Threads { peer, mempool, consensus, query, .. } = *threads;
        let (to, from_consensus) =
            links.join(group, topology::CONSENSUS_PEER, None, consensus, peer);
        let (to_consensus, from) =
            links.join(group, topology::PEER_CONSENSUS, None, peer, consensus);
        let (outgoing, from_mempool) =
            links.join(group, topology::MEMPOOL_PEER, None, mempool, peer);
        let (to_mempool, incoming) = links.join(group, topology::PEER_MEMPOOL, None, peer, mempool);
        let (to_query, questions) = links.join(group, topology::PEER_QUERY, None, peer, query);
        let (answers, answered) = links.join(group, topology::QUERY_PEER, None, query, peer);
        let mut verify = Vec::new();
        let to_verify =
            links.fan_out_one(group, topology::PEER_VERIFY, peer, &threads.verify, &mut verify);
        verify.reverse();
        Self {
            consensus: Some(PeerEnds { from, to }),
            mempool: Some(MempoolPeers { incoming, outgoing }),
            verify,
            questions,
            answers,
            tile: PeerLinks {
                from_consensus,
                to_consensus,
                from_mempool,
                to_mempool,
                to_verify,
                to_query,
                answers: answered,
            },
        }
    }
}

/// Makes the tiles of a node and gives them to the threads of `group`.
///
/// # Errors
/// What the host refuses: an address, a thread, memory or entropy.
pub fn assemble(group: &mut Group, parts: Parts<'_>) -> io::Result<Assembled> {
    let Parts { config, genesis, address, desk, audit, link_signer, .. } = parts;
    let Parts { provider, metrics, explanation, probation, recovered, .. } = parts;
    let has_peers = genesis.validators.count() > 1;
    let threads = Threads::plan(group, &config.placement, has_peers)?;
    let mut links = Links::new();
    let mut ends = IngressEnds::new(threads.ingress.len());
    let lag = genesis.parameters.certified_lag_heights.into();
    let shared = Shared { config, genesis, address, provider, metrics, lag };
    let metrics = || Arc::clone(&shared.metrics);
    let (roots, tip_block) = (recovered.executor.last_roots(), recovered.executor.block());
    let store = Arc::clone(recovered.executor.store());
    let mut history = History::new(store, recovered.log.reader(), shared.provider.clone());
    let uncertified = history.last(roots.height, lag).map_err(io::Error::other)?;
    let time_millis = if roots.height > 0 { recovered.tip.block.time_millis } else { 0 };
    let mut core = Core::join(group, &mut links, &threads);
    let mut peers = has_peers.then(|| PeerJoints::join(group, &mut links, &threads));

    let (from_verify, to_verify, to_judge) =
        shared.add_verify_tiles(group, &mut links, &threads, &mut ends, &mut peers)?;
    let spec = topology::MEMPOOL_INGRESS;
    let mempool_links = MempoolLinks {
        from_verify,
        to_verify,
        to_judge,
        to_ingress: links.fan_out(
            group,
            spec,
            threads.mempool,
            &threads.ingress,
            &mut ends.statuses,
        ),
        to_log: core.to_log,
        durable: core.durable,
        requests: core.requests,
        to_consensus: core.to_consensus,
        peers: peers.as_mut().and_then(|peers| peers.mempool.take()),
    };
    let pool = shared.mempool(&recovered, &mut history)?;
    let dissemination = shared.dissemination(&recovered);
    let tile = MempoolTile::new(pool, dissemination, metrics(), mempool_links);
    group.add(threads.mempool, rank::MEMPOOL, Box::new(tile));

    core.consensus.peers = peers.as_mut().and_then(|peers| peers.consensus.take());
    let start = Start {
        validators: genesis.validators.clone(),
        tip: recovered.tip,
        roots: recovered.executor.recent_roots().to_vec(),
        ordered: recovered.ordered,
        log: recovered.votes,
        probation,
    };
    shared.add_consensus(group, &threads, start, explanation, core.consensus);
    shared.add_sign(group, &mut links, &threads, (desk, audit, core.sign));
    let votes = (recovered.vote_log, core.vote);
    shared.add_logs(group, &threads, votes, (recovered.log, recovered.unordered, core.log));

    let mut query = shared.add_execute(
        group,
        &mut links,
        &threads,
        &mut ends,
        (recovered.executor, uncertified.last(), core.durable_blocks, core.roots),
    );
    let peer = peers.zip(link_signer);
    let peer = peer.map(|peer| shared.add_peer(group, &threads, &mut query, peer)).transpose()?;
    let tile = QueryTile::new(history, shared.provider.clone(), lag, roots.height, query);
    group.add(threads.query, rank::LAST, Box::new(tile));
    metrics().chain_height.set(roots.height);
    metrics().chain_time_millis.set(time_millis);
    let start = ChainStart { roots, time_millis, block: tip_block, uncertified };
    let client = shared.add_ingress(group, &threads, ends, &start)?;
    Ok(Assembled { client, peer, links: links.into_stats() })
}

/// Where the chain stands when the tiles are made.
struct ChainStart {
    roots: ExecutedRoots,
    time_millis: u64,
    block: BlockDigest,
    uncertified: Vec<Executed>,
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

/// The mempool's ends of the links between it and a verify tile.
type MempoolEnds = (Consumer<FromVerify>, Producer<TxDigest>, Producer<JudgeChunk>);

/// The same of all verify tiles.
type AllMempoolEnds =
    (Vec<Consumer<FromVerify>>, Vec<Producer<TxDigest>>, Vec<Producer<JudgeChunk>>);

/// What signs, what keeps that, and the ends of the tile that does.
type Signing = (SigningDesk, NodeAudit, (Consumer<SignRequest>, Producer<Signed>));

/// The vote log and the ends of its tile.
type Votes = (VoteLog, (Consumer<VoteLogCommand>, Producer<LogTicket>));

impl Shared<'_> {
    /// Adds the tiles of both logs; each vouches for the other's tail.
    fn add_logs(
        &self,
        group: &mut Group,
        threads: &Threads,
        (vote_log, (commands, durable)): Votes,
        (log, unordered, links): (BlockLog, UnorderedBatches, PersistLogLinks),
    ) {
        let metrics = || Arc::clone(&self.metrics);
        let data_dir = self.config.node.data_dir.clone();
        let mark = log.durable_mark();
        let tile = PersistVoteTile::new(vote_log, mark, data_dir, metrics(), commands, durable);
        group.add(threads.persist_vote, rank::DURABLE, Box::new(tile));
        let tile = PersistLogTile::new(log, unordered, metrics(), links);
        group.add(threads.persist_log, rank::DURABLE, Box::new(tile));
    }

    /// Adds the tile that signs and the one that keeps what it did.
    fn add_sign(
        &self,
        group: &mut Group,
        links: &mut Links,
        threads: &Threads,
        (desk, audit, (requests, signatures)): Signing,
    ) {
        let (events, incoming) =
            links.join(group, topology::SIGN_AUDIT, None, threads.sign, threads.query);
        let (config, recorded) = (&self.config.audit, Arc::default());
        let metrics = || Arc::clone(&self.metrics);
        let source = AuditSource { incoming, recorded: Arc::clone(&recorded) };
        let name = self.config.node.name.clone();
        let tile = AuditTile::new(audit, name, config.seal_interval, vec![source], metrics());
        group.add(threads.query, rank::LAST, Box::new(tile));
        let interval = config.signatures_interval;
        let audit = SignAudit::new(self.address, interval, metrics(), events, recorded);
        let tile = SignTile::new(desk, audit, metrics(), requests, signatures);
        group.add(threads.sign, rank::DURABLE, Box::new(tile));
    }

    /// Adds all verify tiles; returns the mempool's ends, in their order.
    fn add_verify_tiles(
        &self,
        group: &mut Group,
        links: &mut Links,
        threads: &Threads,
        ends: &mut IngressEnds,
        peers: &mut Option<PeerJoints>,
    ) -> io::Result<AllMempoolEnds> {
        let mut all: AllMempoolEnds = Default::default();
        for number in 0..threads.verify.len() {
            let (verdicts, admissions, chunks) =
                self.add_verify(group, links, threads, ends, (number, peers))?;
            all.0.push(verdicts);
            all.1.push(admissions);
            all.2.push(chunks);
        }
        Ok(all)
    }

    /// Adds the verify tile with this number; returns the mempool's ends of the links between them.
    fn add_verify(
        &self,
        group: &mut Group,
        links: &mut Links,
        threads: &Threads,
        ends: &mut IngressEnds,
        (number, peers): (usize, &mut Option<PeerJoints>),
    ) -> io::Result<MempoolEnds> {
        let (thread, mempool, number_of) = (threads.verify[number], threads.mempool, Some(number));
        let mut incoming = Vec::new();
        for (ingress, &from) in threads.ingress.iter().enumerate() {
            let (producer, consumer) =
                links.join(group, topology::INGRESS_VERIFY, number_of, from, thread);
            ends.to_verify[ingress].push(producer);
            incoming.push(consumer);
        }
        let (to_mempool, from_verify) =
            links.join(group, topology::VERIFY_MEMPOOL, number_of, thread, mempool);
        let (to_verify, admitted) =
            links.join(group, topology::MEMPOOL_VERIFY, number_of, mempool, thread);
        let (to_judge, chunks) =
            links.join(group, topology::MEMPOOL_JUDGE, number_of, mempool, thread);
        let statuses = &mut ends.statuses;
        let to_ingress =
            links.fan_out(group, topology::VERIFY_INGRESS, thread, &threads.ingress, statuses);
        let verify = &self.config.verify;
        let config = VerifyConfig {
            batch_max: index(verify.batch_max),
            batch_deadline: verify.batch_deadline,
            remembered_max: verify.remembered_digests(threads.verify.len()),
            seed: seed()?,
        };
        let from_peers = peers.as_mut().and_then(|peers| peers.verify.pop());
        let verify_links =
            VerifyLinks { incoming, admitted, chunks, from_peers, to_mempool, to_ingress };
        let (chain_id, provider) = (self.genesis.chain_id(), self.provider.clone());
        let metrics = Arc::clone(&self.metrics);
        let tile = VerifyTile::new(number, config, chain_id, provider, metrics, verify_links);
        group.add(thread, rank::VERIFY, Box::new(tile));
        Ok((from_verify, to_verify, to_judge))
    }

    /// Adds the execute tile and its workers; returns the links of the query tile, which hears of
    /// its results.
    fn add_execute(
        &self,
        group: &mut Group,
        links: &mut Links,
        threads: &Threads,
        ends: &mut IngressEnds,
        (executor, last, blocks, to_consensus): (
            Executor,
            Option<&Executed>,
            Consumer<DurableBlock>,
            Producer<ExecutedRoots>,
        ),
    ) -> QueryLinks {
        let (execute, query, ingress) = (threads.execute, threads.query, &threads.ingress);
        let mut results = links.fan_out_one(
            group,
            topology::EXECUTE_INGRESS,
            execute,
            ingress,
            &mut ends.executed,
        );
        let (to_query, executed) = links.join(group, topology::EXECUTE_QUERY, None, execute, query);
        results.push(to_query);
        let questions =
            links.fan_in(group, topology::INGRESS_EXECUTE, ingress, execute, &mut ends.to_execute);
        let answers =
            links.fan_out(group, topology::EXECUTE_ANSWER, execute, ingress, &mut ends.answers);
        let workers = self.add_workers(group, links, threads);
        let execute_links =
            ExecuteLinks { blocks, questions, to_consensus, results, answers, workers };
        let tile = ExecuteTile::new(executor, last, execute_links);
        group.add(execute, rank::EXECUTE, Box::new(tile));
        let questions =
            links.fan_in(group, topology::INGRESS_QUERY, ingress, query, &mut ends.to_query);
        let answers =
            links.fan_out(group, topology::QUERY_ANSWER, query, ingress, &mut ends.answers);
        QueryLinks { executed, questions, answers }
    }

    fn mempool(&self, recovered: &Recovered, history: &mut History) -> io::Result<Mempool> {
        let config = self.config.mempool.pool();
        let height = recovered.tip.block.height;
        let mut pool = Mempool::new(
            config,
            self.genesis.chain_id(),
            self.address,
            Arc::clone(&self.provider.hasher),
            height + 1,
            next_sequence(height, &recovered.batches, self.address),
            seed()?,
        );
        // A transaction of the chain is refused as a duplicate after a restart as before it. What
        // is pending comes last, so that it is remembered longest.
        history
            .included(height, config.remembered_transactions_max, &mut |header| {
                pool.remember(header);
            })
            .map_err(io::Error::other)?;
        let is_own = |batch: &&Batch| batch.header().origin == self.address;
        let own = recovered.batches.iter().filter(is_own);
        restore(&mut pool, own.filter(|batch| !recovered.ordered.contains(&batch.digest())));
        Ok(pool)
    }

    /// What is durable of all validators' batches, and what may be done with it.
    fn dissemination(&self, recovered: &Recovered) -> Dissemination {
        let validators = self.genesis.validators.iter();
        let validators = validators.map(|(address, validator)| (*address, validator.power));
        let ordered = recovered.ordered.clone();
        let config = self.config.peer.as_ref().map(|peer| peer.dissemination).unwrap_or_default();
        let mut dissemination = Dissemination::new(config, self.address, validators, ordered);
        for batch in &recovered.batches {
            dissemination.restored(batch.clone());
        }
        dissemination
    }

    fn replica_config(&self) -> replica::Config {
        let parameters = &self.genesis.parameters;
        replica::Config {
            engine: engine::Config {
                chain_id: self.genesis.chain_id(),
                address: self.address,
                timeouts: self.timeouts(),
                provider: self.provider.clone(),
            },
            certified_lag_heights: parameters.certified_lag_heights,
            interval_nanos: u64::from(parameters.block_interval_millis) * 1_000_000,
            catch_up: CatchUpConfig::default(),
        }
    }

    fn add_consensus(
        &self,
        group: &mut Group,
        threads: &Threads,
        start: Start,
        explanation: Arc<Explanation>,
        links: ConsensusLinks,
    ) {
        let replica = Replica::new(self.replica_config(), start);
        let tile = ConsensusTile::new(replica, Arc::clone(&self.metrics), explanation, links);
        group.add(threads.consensus, rank::CONSENSUS, Box::new(tile));
    }

    /// Adds the peer tile, which asks the query tile for what its peers ask; says where it listens.
    fn add_peer(
        &self,
        group: &mut Group,
        threads: &Threads,
        query: &mut QueryLinks,
        (joints, signer): (PeerJoints, Box<dyn Signer>),
    ) -> io::Result<SocketAddr> {
        let PeerJoints { questions, answers, tile: links, .. } = joints;
        query.questions.push(questions);
        query.answers.push(answers);
        let Some(own) = &self.config.peer else {
            return Err(io::Error::other("the genesis has more validators: [peer] is needed"));
        };
        let validators = || self.genesis.validators.iter();
        let keys: PeerKeys =
            validators().map(|(address, validator)| (*address, validator.link_key)).collect();
        let sockets = validators().filter_map(|(address, validator)| {
            own.addresses.get(&validator.name).map(|socket| (*address, *socket))
        });
        let mut config =
            PeerConfig::new(self.genesis.chain_id(), self.address, Arc::new(keys), seed()?);
        config.sockets = sockets.collect();
        config.link = own.link;
        config.backoff_min = own.back_off_min;
        config.backoff_max = own.back_off_max;
        config.held_bytes_max = own.held_bytes_max;
        let bounds = net::Config { backend: self.backend(), ..config.reactor() };
        let mut reactor = Reactor::new(bounds).map_err(io::Error::other)?;
        let listener = reactor.listen(own.listen).map_err(|cause| {
            io::Error::new(cause.kind(), format!("peer.listen {}: {cause}", own.listen))
        })?;
        let address = reactor.local_addr(listener)?;
        let (provider, metrics) = (self.provider.clone(), Arc::clone(&self.metrics));
        let tile = PeerTile::new(config, provider, signer, metrics, reactor, listener, links);
        group.add(threads.peer, rank::PEER, Box::new(tile));
        Ok(address)
    }

    const fn backend(&self) -> net::Backend {
        match self.config.client.reactor {
            ReactorChoice::Auto => net::Backend::Auto,
            ReactorChoice::Uring => net::Backend::Uring,
            ReactorChoice::Epoll => net::Backend::Epoll,
        }
    }

    fn timeouts(&self) -> Timeouts {
        let nanos =
            |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
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

    fn add_workers(
        &self,
        group: &mut Group,
        links: &mut Links,
        threads: &Threads,
    ) -> Vec<WorkerLink> {
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
        Reactor::new(net::Config {
            backend: self.backend(),
            connections_max: client
                .connections_max
                .saturating_add(SPARE_CONNECTIONS)
                .min(net::CONNECTIONS_MAX),
            receive_bytes: index(client.receive_buffer_bytes),
            send_bytes: index(client.send_buffer_bytes),
            ..net::Config::default()
        })
    }

    /// One listener for each ingress tile; all but the first share the first one's port.
    fn add_ingress(
        &self,
        group: &mut Group,
        threads: &Threads,
        ends: IngressEnds,
        start: &ChainStart,
    ) -> io::Result<SocketAddr> {
        let mut address = self.config.client.listen;
        let session = self.config.client.session();
        let spread = RandomState::new();
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
            let links =
                IngressLinks { to_verify, statuses, executed, to_execute, to_query, answers };
            let mut reactor = self.reactor().map_err(io::Error::other)?;
            let listener = reactor.listen(address).map_err(|cause| {
                io::Error::new(cause.kind(), format!("client.listen {address}: {cause}"))
            })?;
            address = reactor.local_addr(listener)?;
            let config = IngressConfig {
                index: u16::try_from(number).unwrap_or(u16::MAX),
                connections_max: self.config.client.connections_max,
                session,
                spread: spread.clone(),
                chain_id: self.genesis.chain_id(),
                node: self.address,
                lag: self.lag,
                height: start.roots.height,
                time_millis: start.time_millis,
                block: start.block,
                state_root: start.roots.state_root,
                uncertified: start.uncertified.clone(),
            };
            let metrics = Arc::clone(&self.metrics);
            let tile =
                IngressTile::new(config, self.provider.clone(), metrics, reactor, listener, links);
            group.add(threads.ingress[number], rank::INGRESS, Box::new(tile));
        }
        Ok(address)
    }
}

/// Takes back what is durable and not ordered.
///
/// A validator that lost its disk gives out its first numbers again, and peers may have brought
/// batches of its former life back: what the pool cannot tell apart is only not counted as pending;
/// it is spread and ordered like anybody's.
fn restore<'a>(pool: &mut Mempool, batches: impl Iterator<Item = &'a Batch>) {
    for batch in batches {
        if !pool.restore(batch) {
            let (number, digest) =
                (batch.header().sequence.to_string(), batch.digest().to_string());
            let fields = [("number", &number), ("batch", &digest)];
            log::warn("own batch of a former life", &fields);
        }
    }
}

/// A number that nobody else knows.
fn seed() -> io::Result<u64> {
    let mut seed = [0; 8];
    entropy::fill(&mut seed).map_err(io::Error::other)?;
    Ok(u64::from_le_bytes(seed))
}
