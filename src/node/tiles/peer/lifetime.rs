//! How links come and go.
//!
//! | what happens | what becomes of it |
//! |---|---|
//! | a peer with a larger address has no link | it is dialled, with growing pauses |
//! | somebody connects | he has the handshake's time to prove who he is |
//! | too many unproven connections of one address | the newest is cut off |
//! | too many unproven connections | the oldest is cut off |
//! | a proof is wrong | its connection counts as an unproven one for the handshake's time |
//! | a peer that has a link opens another | the older one ends as `replaced` |
//! | a link ends, for whatever reason | counted by code; consensus and mempool hear of it once |

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use hufu_crypto::entropy;
use hufu_network::channel::PlainChannel;
use hufu_network::peer::{LinkEvent, PeerCode, PeerLink};
use hufu_runtime::clock::Nanos;
use hufu_runtime::net::{CloseReason, ConnToken};
use hufu_runtime::tile::Fatal;
use hufu_types::Address;
use hufu_types::codec::index;

use super::connection::Origin;
use super::{Connection, PeerConfig, PeerTile};
use crate::log::{self, Field};
use crate::messages::{FromPeer, PeerBatches};
use crate::metrics::PeerDrop;

/// Time a peer has to take its last words.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Time between two log lines about connections that came to nothing: anybody can make those.
const COMPLAINT_WAIT: Duration = Duration::from_secs(1);

/// Wrong proofs that are remembered, count; the oldest are forgotten first.
const IMPOSTORS_MAX: usize = 1_024;

/// A peer that this validator dials.
#[derive(Debug)]
pub(super) struct Dial {
    peer: Address,
    socket: SocketAddr,
    /// The connection there is or is being made.
    connection: Option<ConnToken>,
    /// Times it was dialled since a link was open.
    tries: u32,
    /// When to dial, unless there is a connection.
    at: Nanos,
}

impl Dial {
    /// One for each peer with a larger address.
    pub(super) fn all(config: &PeerConfig) -> Vec<Self> {
        let larger = config.sockets.iter().filter(|(peer, _)| **peer > config.address);
        let begin = |(peer, socket): (&Address, &SocketAddr)| Self {
            peer: *peer,
            socket: *socket,
            connection: None,
            tries: 0,
            at: Nanos::ZERO,
        };
        larger.map(begin).collect()
    }

    /// When to dial.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.connection.is_none().then_some(self.at)
    }
}

/// Lets a log line about what strangers can bring about pass now and then.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    next_at: Option<Nanos>,
    unsaid: u64,
}

impl Complaints {
    /// How many were kept back since the last line, if there may be one now.
    fn may_say(&mut self, now: Nanos) -> Option<u64> {
        if self.next_at.is_some_and(|at| now < at) {
            self.unsaid += 1;
            return None;
        }
        self.next_at = Some(now.after(COMPLAINT_WAIT));
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Addresses from which wrong proofs came of late, each with when that is forgotten.
#[derive(Debug, Default)]
pub(super) struct Impostors(VecDeque<(Nanos, Origin)>);

impl Impostors {
    fn add(&mut self, origin: Origin, until: Nanos) {
        if self.0.len() >= IMPOSTORS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((until, origin));
    }

    fn count(&mut self, origin: Origin, now: Nanos) -> usize {
        while self.0.pop_front_if(|(until, _)| *until <= now).is_some() {}
        self.0.iter().filter(|(_, one)| *one == origin).count()
    }
}

impl PeerTile {
    /// Dials those whose time has come.
    pub(super) fn dial_due(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let mut has_worked = false;
        if self.stops_at.is_some() || self.has_news() {
            return Ok(false);
        }
        for place in 0..self.dials.len() {
            let Some(dial) = self.dials.get(place) else { continue };
            if dial.deadline().is_none_or(|at| now < at) {
                continue;
            }
            has_worked = true;
            let (peer, socket) = (dial.peer, dial.socket);
            self.metrics.peer_dials.add(1);
            match self.reactor.connect(socket) {
                Ok(conn) => {
                    let (channel, nonce) = (Box::new(PlainChannel::new()), nonce()?);
                    let link = PeerLink::dial(&self.setup, peer, nonce, channel, now.as_nanos());
                    self.keep(Connection::new(conn, link, Origin::Dialled(place), now));
                    if let Some(dial) = self.dials.get_mut(place) {
                        dial.connection = Some(conn);
                    }
                }
                Err(error) => {
                    self.dial_failed(peer, &error.to_string(), now);
                    self.dial_later(place, now);
                }
            }
        }
        Ok(has_worked)
    }

    fn dial_failed(&mut self, peer: Address, reason: &str, now: Nanos) {
        self.metrics.peer_dials_failed.add(1);
        if let Some(unsaid) = self.complaints.may_say(now) {
            let fields: [Field<&dyn std::fmt::Display>; 3] =
                [("peer", &peer), ("reason", &reason), ("lines_left_out", &unsaid)];
            log::warn("peer not reached", &fields);
        }
    }

    /// Sets the time of the next try: the pause doubles, and half of it is chance, so that nodes
    /// that lost each other together do not all come back together.
    fn dial_later(&mut self, place: usize, now: Nanos) {
        let random = self.next_random();
        let (min, max) = (self.config.backoff_min, self.config.backoff_max);
        let Some(dial) = self.dials.get_mut(place) else { return };
        let pause = min.saturating_mul(1 << dial.tries.min(20)).min(max);
        dial.tries = dial.tries.saturating_add(1);
        dial.connection = None;
        let half = u64::try_from(pause.as_nanos() / 2).unwrap_or(u64::MAX);
        let wait = half.saturating_add(random % half.saturating_add(1));
        dial.at = now.after(Duration::from_nanos(wait));
    }

    /// A step of splitmix64: spreads times, guards nothing.
    const fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Somebody has connected.
    pub(super) fn accept(
        &mut self,
        conn: ConnToken,
        from: SocketAddr,
        now: Nanos,
    ) -> Result<(), Fatal> {
        self.metrics.peer_connections_accepted.add(1);
        let source = Origin::Accepted(from.ip());
        let impostors = self.impostors.count(source, now);
        let strangers = || self.connections.iter().flatten().filter(|one| one.is_stranger());
        let of_source = strangers().filter(|one| one.origin == source && !one.has_ended);
        let of_source = of_source.count() + impostors;
        let is_closed = self.stops_at.is_some() || self.has_news();
        if is_closed || of_source >= self.config.unproven_per_source_max {
            self.metrics.peer_connections_refused.add(1);
            self.reactor.abort(conn);
            return Ok(());
        }
        if strangers().count() >= self.config.unproven_max {
            // The oldest has had most of its time, and a peer that is in a hurry comes again.
            let oldest = strangers().min_by_key(|one| one.began_at).map(|one| one.token);
            if let Some(oldest) = oldest {
                self.metrics.peer_connections_refused.add(1);
                self.end(oldest, PeerCode::HandshakeTimeout, "its place is needed", now);
                self.reactor.abort(oldest);
            }
        }
        let (channel, nonce) = (Box::new(PlainChannel::new()), nonce()?);
        let link = PeerLink::accept(&self.setup, nonce, channel, now.as_nanos());
        self.keep(Connection::new(conn, link, source, now));
        Ok(())
    }

    fn keep(&mut self, connection: Connection) {
        let place = index(connection.token.slot());
        if self.connections.len() <= place {
            self.connections.resize_with(place + 1, || None);
        }
        assert!(self.connections[place].is_none(), "the reactor gives a place to one connection");
        self.connections[place] = Some(connection);
    }

    /// Both ends have proven who they are.
    pub(super) fn opened(&mut self, connection: &mut Connection, peer: Address, now: Nanos) {
        if let Some(older) = self.open.insert(peer, connection.token) {
            self.tell_down(peer);
            self.end(older, PeerCode::Replaced, "a newer link of this peer is open", now);
        }
        connection.is_up = true;
        connection.is_proven = true;
        if let Origin::Dialled(place) = connection.origin
            && let Some(dial) = self.dials.get_mut(place)
        {
            dial.tries = 0;
        }
        self.metrics.peer_links.set_count(self.open.len());
        self.to_consensus.tell(FromPeer::Up(peer));
        self.to_mempool.tell(PeerBatches::Up(peer));
        if let Some((height, block)) = self.tip {
            connection.link.send_tip(height, block);
        }
        log::info("peer up", &[("peer", peer)]);
    }

    fn tell_down(&mut self, peer: Address) {
        self.to_consensus.tell(FromPeer::Down(peer));
        self.to_mempool.tell(PeerBatches::Down(peer));
    }

    /// A link has ended, and what is left to send is its farewell.
    pub(super) fn ended(
        &mut self,
        connection: &mut Connection,
        code: PeerCode,
        text: &str,
        now: Nanos,
    ) {
        connection.has_ended = true;
        connection.closing_until = Some(now.after(CLOSE_WAIT));
        connection.is_dirty = true;
        self.metrics.count_link_ended(code);
        if code == PeerCode::ProofInvalid && connection.is_stranger() {
            let wait = Duration::from_nanos(self.config.link.handshake_nanos);
            self.impostors.add(connection.origin, now.after(wait));
        }
        let waiting = connection.drop_waiting();
        self.metrics.count_peer_dropped(PeerDrop::LinkEnded, waiting);
        let name = connection.link.peer();
        let name = name.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        let fields: [Field<&dyn std::fmt::Display>; 3] =
            [("peer", &name), ("code", &code), ("reason", &text)];
        let peer = connection.from();
        if std::mem::take(&mut connection.is_up) {
            if self.open.get(&peer) == Some(&connection.token) {
                self.open.remove(&peer);
                self.metrics.peer_links.set_count(self.open.len());
                self.tell_down(peer);
            }
            log::info("peer down", &fields);
        } else if let Some(unsaid) = self.complaints.may_say(now) {
            let source: &dyn std::fmt::Display = match &connection.origin {
                Origin::Accepted(source) => source,
                Origin::Dialled(_) => &"dialled",
            };
            let [peer, code, reason] = fields;
            let source = ("source", source);
            let unsaid: Field<&dyn std::fmt::Display> = ("lines_left_out", &unsaid);
            log::warn("peer link refused", &[peer, code, reason, source, unsaid]);
        }
    }

    /// Ends the link of a connection that is not being served at this moment.
    fn end(&mut self, token: ConnToken, code: PeerCode, text: &str, now: Nanos) {
        let place = index(token.slot());
        let same = |one: &mut Connection| one.token == token;
        let Some(mut connection) = self.connections.get_mut(place).and_then(|c| c.take_if(same))
        else {
            return;
        };
        connection.link.close(code, text);
        self.take_closing_event(&mut connection, now);
        self.connections[place] = Some(connection);
    }

    /// Ends all links, because the node stops.
    pub(super) fn end_all(&mut self, now: Nanos) {
        let tokens: Vec<_> = self.connections.iter().flatten().map(|one| one.token).collect();
        for token in tokens {
            self.end(token, PeerCode::Stopping, "the node is stopping", now);
        }
    }

    /// Hears of the end of a link that this end has closed. Whatever came before it in the same
    /// queue is of a link that is over.
    pub(super) fn take_closing_event(&mut self, connection: &mut Connection, now: Nanos) -> bool {
        if connection.has_ended || !connection.link.has_closed() {
            return false;
        }
        while let Some(event) = connection.link.next_event(now.as_nanos()) {
            if let LinkEvent::Closed(code, text) = event {
                self.ended(connection, code, &text, now);
            }
        }
        true
    }

    /// Closes the socket of a link that has ended, once its farewell has left or its time is over.
    pub(super) fn let_go_if_over(&mut self, connection: &mut Connection, now: Nanos) {
        if !connection.has_ended {
            return;
        }
        if connection.link.transmit().is_empty() {
            connection.closing_until = None;
            self.reactor.close(now, connection.token);
        } else if connection.closing_until.is_some_and(|until| now >= until) {
            connection.closing_until = None;
            self.reactor.abort(connection.token);
        }
    }

    /// The socket is gone.
    pub(super) fn forget(&mut self, token: ConnToken, reason: CloseReason, now: Nanos) {
        let place = index(token.slot());
        let same = |one: &mut Connection| one.token == token;
        let Some(mut connection) = self.connections.get_mut(place).and_then(|c| c.take_if(same))
        else {
            return;
        };
        // The farewell may be among the last bytes.
        while !connection.has_ended && self.take_input(&mut connection, now) {}
        if !connection.has_ended {
            let text = format!("the connection ended: {reason:?}");
            if let (CloseReason::ConnectFailed(_), Some(peer)) = (reason, connection.link.peer()) {
                self.dial_failed(peer, &text, now);
            } else {
                connection.link.close(PeerCode::ChannelFailed, &text);
                self.take_closing_event(&mut connection, now);
            }
        }
        connection.publish(&self.metrics);
        if let Origin::Dialled(place) = connection.origin {
            self.dial_later(place, now);
        }
    }
}

fn nonce() -> Result<[u8; 32], Fatal> {
    let mut nonce = [0; 32];
    entropy::fill(&mut nonce)?;
    Ok(nonce)
}
