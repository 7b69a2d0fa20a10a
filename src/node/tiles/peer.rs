//! The peer tile: links to the other validators, votes before bulk.
//!
//! ```text
//! socket <-> reactor <-> PeerLink --FromPeer--> consensus --ToPeer------> here
//!                           |  \---PeerBatches--> mempool --SendBatches--> here
//!                           |\-----PeerBatch----> verify[i]
//!                            \-----Question-----> query ----Answer-------> here
//! ```
//!
//! It owns the sockets and links of all peers, one link for each pair: the validator with the
//! smaller address dials, and a newer link of a peer takes the place of the older one. It parses
//! what consensus is given and looks at no signature but the link's own proof; it decides nothing.
//!
//! | file | what |
//! |---|---|
//! | `lifetime` | links are dialled and accepted, open, end |
//! | `incoming` | bytes in, messages out to the other tiles |
//! | `outgoing` | what consensus and the mempool send |
//! | `serving` | decided heights and their bodies for peers that are behind |
//!
//! # What waits, and what is dropped
//! A message for consensus that finds its link full waits, and its connection alone is not read any
//! further, so that TCP tells that peer. Received batches wait in a queue of each connection, and
//! control frames pass them by. What does not fit is dropped and counted; so is bulk for a peer
//! that takes less than there is, and anything for a peer without a link. All of it is asked for
//! again by the rules of consensus and mempool.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{Provider, Signer};
use hufu_network::peer::{LinkConfig, LinkIdentity, LinkSetup, PeerKeys};
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::net::{self, ConnToken, Event, ListenerToken, Reactor};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_runtime::wake::PollSet;
use hufu_types::codec::index;
use hufu_types::limits::BATCH_SIZE_MAX;
use hufu_types::{Address, BlockDigest, ChainId};

use crate::messages::{Answer, FromPeer, PeerBatch, PeerBatches, Question, SendBatches, ToPeer};
use crate::metrics::Metrics;
use crate::seeded_signer::SeededSigner;

mod connection;
mod incoming;
mod lifetime;
mod outgoing;
mod outlet;
mod serving;
#[cfg(test)]
mod tests;

use connection::Connection;
use lifetime::{Complaints, Dial, Impostors};
use outlet::Outlet;

/// Items taken from one link in one turn, count.
const ITEMS_PER_TURN_MAX: usize = 1_024;

/// Time that the links have for their last words when the node stops.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// Bytes a connection may hold unread: some whole frames of the largest kind.
const RECEIVE_BYTES: usize = 256 << 10;

/// Bytes a connection may hold unsent: one part of bulk and some votes, since what is in here is
/// not overtaken by a vote any more.
const SEND_BYTES: usize = 96 << 10;

/// The same for what the kernel has taken and not sent.
const UNSENT_BYTES: u32 = 64 << 10;

/// Bytes of one of the buffers that the kernel fills, and how many there are for all connections.
const POOL_BUFFER_BYTES: u32 = 16 << 10;
const POOL_BUFFERS: u16 = 256;

/// The links of the peer tile.
#[derive(Debug)]
pub struct PeerLinks {
    /// What consensus sends.
    pub from_consensus: Consumer<ToPeer>,
    /// Messages and decided heights for consensus.
    pub to_consensus: Producer<FromPeer>,
    /// What the mempool sends.
    pub from_mempool: Consumer<SendBatches>,
    /// Requests for batches, for the mempool.
    pub to_mempool: Producer<PeerBatches>,
    /// Received batches to each verify tile, in turn.
    pub to_verify: Vec<Producer<PeerBatch>>,
    /// Questions for decided heights that peers want.
    pub to_query: Producer<Question>,
    /// Their answers.
    pub answers: Consumer<Answer>,
}

/// What the peer tile is told about the node it belongs to.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The chain.
    pub chain_id: ChainId,
    /// This validator.
    pub address: Address,
    /// The link keys of all validators.
    pub keys: Arc<PeerKeys>,
    /// Where the others listen; only those with larger addresses are dialled.
    pub sockets: BTreeMap<Address, SocketAddr>,
    /// Bounds and times of each link.
    pub link: LinkConfig,
    /// Time before the second try to reach a peer; it doubles with each further one.
    pub backoff_min: Duration,
    /// Longest time before another try.
    pub backoff_max: Duration,
    /// Bytes of received batches that wait for verification, for each link.
    pub held_bytes_max: usize,
    /// Accepted connections that have proven nothing yet, count; one more makes the oldest go.
    pub unproven_max: usize,
    /// The same from one address, those whose proof was wrong of late included; one more is
    /// refused.
    pub unproven_per_source_max: usize,
    /// Fresh entropy: spreads the times at which nodes dial again.
    pub seed: u64,
}

impl PeerConfig {
    /// A validator without peers' sockets, with the usual bounds: back-off 100 ms to 5 s, 32 MiB of
    /// batches a link, 64 unproven connections, 16 from one address.
    #[must_use]
    pub fn new(chain_id: ChainId, address: Address, keys: Arc<PeerKeys>, seed: u64) -> Self {
        Self {
            chain_id,
            address,
            keys,
            sockets: BTreeMap::new(),
            link: LinkConfig::default(),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            held_bytes_max: 32 << 20,
            unproven_max: 64,
            unproven_per_source_max: 16,
            seed,
        }
    }

    /// Bounds of the reactor that the tile needs: a link and its successor for each peer, the
    /// unproven, and as many that are on their way out.
    #[must_use]
    pub fn reactor(&self) -> net::Config {
        let connections = 2 * (self.keys.len() + self.unproven_max);
        net::Config {
            connections_max: u32::try_from(connections).unwrap_or(net::CONNECTIONS_MAX),
            receive_bytes: RECEIVE_BYTES,
            send_bytes: SEND_BYTES,
            pool_buffers: POOL_BUFFERS,
            pool_buffer_bytes: POOL_BUFFER_BYTES,
            socket_unsent_bytes: Some(UNSENT_BYTES),
            ..net::Config::default()
        }
    }

    /// Bytes that the tile takes beside its reactor: for each peer what waits both ways, a batch on
    /// top of each bound, and one on its way in.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let link = &self.link;
        let batches = 3 * index(BATCH_SIZE_MAX);
        let peer = 2 * link.control_bytes_max + link.bulk_bytes_max + self.held_bytes_max + batches;
        let widen = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        widen(self.keys.len()).saturating_mul(widen(peer))
    }
}

/// See the module.
pub struct PeerTile {
    config: PeerConfig,
    setup: LinkSetup,
    provider: Provider,
    signer: SeededSigner,
    metrics: Arc<Metrics>,
    reactor: Reactor,
    listener: ListenerToken,
    from_consensus: Consumer<ToPeer>,
    from_mempool: Consumer<SendBatches>,
    answers: Consumer<Answer>,
    to_consensus: Outlet<FromPeer>,
    to_mempool: Outlet<PeerBatches>,
    to_verify: Vec<Producer<PeerBatch>>,
    /// The verify tile that is offered the next batch first.
    next_verify: usize,
    to_query: Producer<Question>,
    connections: Vec<Option<Connection>>,
    /// The place whose connection is served first in the next turn.
    first_place: usize,
    /// The open link of each peer.
    open: BTreeMap<Address, ConnToken>,
    dials: Vec<Dial>,
    tip: Option<(u64, BlockDigest)>,
    complaints: Complaints,
    impostors: Impostors,
    random: u64,
    events: Vec<Event>,
    /// Connections the reactor has refused so far, as far as they are in the metrics.
    refused_published: u64,
    stops_at: Option<Nanos>,
    is_stopping: bool,
}

impl PeerTile {
    /// A tile that accepts its smaller peers at `listener` and dials the larger ones. `signer`
    /// holds the link key of this validator; it signs one digest for each link.
    ///
    /// # Panics
    /// If the bounds make no sense, or the signer's key is not this validator's link key: the
    /// caller has checked both.
    #[must_use]
    pub fn new(
        config: PeerConfig,
        provider: Provider,
        signer: Box<dyn Signer>,
        metrics: Arc<Metrics>,
        reactor: Reactor,
        listener: ListenerToken,
        links: PeerLinks,
    ) -> Self {
        assert!(!links.to_verify.is_empty(), "somebody verifies batches");
        assert!(config.held_bytes_max >= index(BATCH_SIZE_MAX), "one batch may wait");
        assert!(config.unproven_max > 0 && config.unproven_per_source_max > 0, "peers may come");
        assert!(
            Duration::ZERO < config.backoff_min && config.backoff_min <= config.backoff_max,
            "a peer that is away is not dialled without pause"
        );
        let key = *signer.public_key();
        assert_eq!(config.keys.get(&config.address), Some(&key), "the link key of this validator");
        let identity = LinkIdentity { chain_id: config.chain_id, address: config.address, key };
        let setup = LinkSetup {
            config: config.link,
            identity,
            peers: Arc::clone(&config.keys),
            verifier: Arc::clone(&provider.verifier),
        };
        let dials = Dial::all(&config);
        Self {
            setup,
            provider,
            signer: SeededSigner::new(signer),
            metrics,
            reactor,
            listener,
            from_consensus: links.from_consensus,
            from_mempool: links.from_mempool,
            answers: links.answers,
            to_consensus: Outlet::new(links.to_consensus),
            to_mempool: Outlet::new(links.to_mempool),
            to_verify: links.to_verify,
            next_verify: 0,
            to_query: links.to_query,
            connections: Vec::new(),
            first_place: 0,
            open: BTreeMap::new(),
            dials,
            tip: None,
            complaints: Complaints::default(),
            impostors: Impostors::default(),
            random: config.seed,
            config,
            events: Vec::new(),
            refused_published: 0,
            stops_at: None,
            is_stopping: false,
        }
    }

    fn connection(&mut self, token: ConnToken) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(index(token.slot()))?.as_mut()?;
        (connection.token == token).then_some(connection)
    }

    /// The connection with the open link of a peer.
    fn link_of(&mut self, peer: Address) -> Option<&mut Connection> {
        let token = *self.open.get(&peer)?;
        self.connection(token)
    }

    fn take_events(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let mut events = std::mem::take(&mut self.events);
        self.reactor.poll(now, &mut events)?;
        let has_worked = !events.is_empty();
        for event in events.drain(..) {
            match event {
                Event::Accepted { conn, peer_addr, .. } => self.accept(conn, peer_addr, now)?,
                Event::Received { conn, .. }
                | Event::Writable { conn, .. }
                | Event::Connected { conn } => {
                    if let Some(connection) = self.connection(conn) {
                        connection.is_dirty = true;
                    }
                }
                Event::EndOfInput { conn } => {
                    if let Some(connection) = self.connection(conn) {
                        connection.is_input_over = true;
                        connection.is_dirty = true;
                    }
                }
                Event::Closed { conn, reason } => self.forget(conn, reason, now),
            }
        }
        self.events = events;
        Ok(has_worked)
    }

    /// Serves every connection that something happened to or that waits for something, from a
    /// place that moves on.
    fn serve(&mut self, now: Nanos) -> bool {
        let (count, first) = (self.connections.len(), self.first_place);
        let mut has_worked = false;
        for place in (0..count).map(|step| (first + step) % count) {
            let due =
                |one: &mut Connection| one.is_dirty || one.deadline().is_some_and(|at| at <= now);
            let Some(mut connection) = self.connections[place].take_if(due) else { continue };
            has_worked |= self.serve_one(&mut connection, now);
            self.connections[place] = Some(connection);
        }
        self.first_place = if first + 1 < count { first + 1 } else { 0 };
        has_worked
    }

    fn serve_one(&mut self, connection: &mut Connection, now: Nanos) -> bool {
        connection.is_dirty = false;
        // Both look at each other's room: what waits leaves before more comes in.
        let mut has_worked = self.pass_on(connection);
        has_worked |= self.take_input(connection, now);
        has_worked |= self.pass_on(connection);
        has_worked |= self.ask_for_heights(connection);
        connection.link.tick(now.as_nanos());
        has_worked |= self.take_closing_event(connection, now);
        has_worked |= self.transmit(connection);
        self.let_go_if_over(connection, now);
        connection.is_dirty |= connection.waits_for_room();
        has_worked
    }

    /// Ends all links once nobody has anything to send any more, or the time for it is over.
    fn stop_due(&mut self, now: Nanos) -> bool {
        let Some(stops_at) = self.stops_at.filter(|_| !self.is_stopping) else { return false };
        let is_input_over = self.from_consensus.is_finished() && self.from_mempool.is_finished();
        if now < stops_at && !is_input_over {
            return false;
        }
        self.is_stopping = true;
        self.end_all(now);
        true
    }

    /// Whether news of peers waits for room, so that there may be no more of it.
    fn has_news(&self) -> bool {
        !self.to_consensus.is_clear() || !self.to_mempool.is_clear()
    }
}

impl Tile for PeerTile {
    fn name(&self) -> &'static str {
        "peer"
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let mut has_worked = self.take_events(now)?;
        has_worked |= self.to_consensus.flush() | self.to_mempool.flush();
        has_worked |= self.take_commands();
        has_worked |= self.take_answers();
        has_worked |= self.dial_due(now)?;
        has_worked |= self.stop_due(now);
        has_worked |= self.serve(now);
        if has_worked {
            // What was put into send buffers leaves now, not after the next wake-up.
            self.take_events(now)?;
            return Ok(Progress::Busy);
        }
        if self.is_stopping && self.reactor.connections_count() == 0 {
            return Ok(Progress::Done);
        }
        let waits = self.connections.iter().flatten().any(Connection::waits_for_room);
        Ok(if waits || self.has_news() { Progress::PushedBack } else { Progress::Idle })
    }

    fn deadline(&self) -> Option<Nanos> {
        let connections = self.connections.iter().flatten().filter_map(Connection::deadline);
        let dials = self.dials.iter().filter_map(Dial::deadline);
        let dials = dials.filter(|_| self.stops_at.is_none() && !self.has_news());
        let stop = self.stops_at.filter(|_| !self.is_stopping);
        connections.chain(dials).chain(stop).chain(self.reactor.deadline()).min()
    }

    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        fds.readable(&self.reactor);
    }

    fn housekeeping(&mut self, _now: Nanos) {
        for connection in self.connections.iter_mut().flatten() {
            connection.publish(&self.metrics);
        }
        let refused = self.reactor.stats().refused_over_max;
        self.metrics.peer_connections_refused.add(refused - self.refused_published);
        self.refused_published = refused;
        let open = self.connections.iter().flatten().filter(|one| one.is_up);
        let slowest = open.filter_map(|one| one.link.round_trip_nanos()).max();
        self.metrics.peer_round_trip_nanos.set(slowest.unwrap_or(0));
    }

    fn stop(&mut self) {
        self.reactor.stop_listening(self.listener);
        self.stops_at = Some(hufu_runtime::clock::monotonic().after(DRAIN_WAIT));
    }
}
