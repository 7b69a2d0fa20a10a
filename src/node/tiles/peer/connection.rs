//! One connection to a peer, or to somebody who has yet to prove that he is one, and what waits
//! here on its behalf.

use std::collections::VecDeque;
use std::net::IpAddr;

use hufu_network::peer::{LinkCounters, PeerLink};
use hufu_runtime::clock::Nanos;
use hufu_runtime::net::ConnToken;
use hufu_types::Address;

use super::serving::Wanted;
use crate::messages::{FromPeer, PeerBatch, PeerBatches};
use crate::metrics::Metrics;

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From this address.
    Accepted(IpAddr),
    /// By this entry of the table of dials.
    Dialled(usize),
}

/// See the module.
pub(super) struct Connection {
    /// Its name in the reactor.
    pub(super) token: ConnToken,
    pub(super) link: PeerLink,
    pub(super) origin: Origin,
    pub(super) began_at: Nanos,
    /// Whether the other tiles were told that it is there, and not yet that it is gone.
    pub(super) is_up: bool,
    /// Whether it has ever been open.
    pub(super) is_proven: bool,
    /// Whether the link has ended, so that only its farewell still leaves.
    pub(super) has_ended: bool,
    /// When it is cut off, once its link has ended.
    pub(super) closing_until: Option<Nanos>,
    /// Whether the other end has said all it will.
    pub(super) is_input_over: bool,
    /// Whether something happened to it since it was served last, or it waits for room.
    pub(super) is_dirty: bool,
    /// A message that consensus has no room for; nothing behind it is read.
    pub(super) held: Option<FromPeer>,
    /// Batches that verification has no room for.
    pub(super) batches: VecDeque<PeerBatch>,
    pub(super) batches_bytes: usize,
    /// Requests that the mempool has no room for.
    pub(super) requests: VecDeque<PeerBatches>,
    /// Heights that the peer wants.
    pub(super) wanted: VecDeque<Wanted>,
    /// Whether the first of them was asked of the query tile.
    pub(super) is_asking: bool,
    /// A question that the query tile has no room for is to be asked again.
    pub(super) has_question: bool,
    published: LinkCounters,
}

impl Connection {
    pub(super) fn new(token: ConnToken, link: PeerLink, origin: Origin, now: Nanos) -> Self {
        Self {
            token,
            link,
            origin,
            began_at: now,
            is_up: false,
            is_proven: false,
            has_ended: false,
            closing_until: None,
            is_input_over: false,
            is_dirty: true,
            held: None,
            batches: VecDeque::new(),
            batches_bytes: 0,
            requests: VecDeque::new(),
            wanted: VecDeque::new(),
            is_asking: false,
            has_question: false,
            published: LinkCounters::default(),
        }
    }

    /// Who is there; proven, for only an open link gives messages.
    pub(super) fn from(&self) -> Address {
        self.link.peer().unwrap_or(Address::ZERO)
    }

    /// Whether it was accepted and nobody knows yet from whom.
    pub(super) const fn is_stranger(&self) -> bool {
        matches!(self.origin, Origin::Accepted(_)) && !self.is_proven
    }

    /// Whether something of it waits for another tile.
    pub(super) fn waits_for_room(&self) -> bool {
        self.held.is_some()
            || !self.batches.is_empty()
            || !self.requests.is_empty()
            || self.has_question
    }

    /// When it wants to be served though nothing happens.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.link.deadline().map(Nanos::from_nanos).into_iter().chain(self.closing_until).min()
    }

    /// Forgets what waits here; says how much.
    pub(super) fn drop_waiting(&mut self) -> usize {
        let count = usize::from(self.held.is_some())
            + self.batches.len()
            + self.requests.len()
            + self.wanted.len();
        self.held = None;
        self.batches.clear();
        self.batches_bytes = 0;
        self.requests.clear();
        self.wanted.clear();
        self.has_question = false;
        count
    }

    /// Adds what the link has counted since the last time to the node's metrics.
    pub(super) fn publish(&mut self, metrics: &Metrics) {
        let now = self.link.counters();
        let before = std::mem::replace(&mut self.published, now);
        metrics.peer_bytes_in.add(now.bytes_received - before.bytes_received);
        metrics.peer_bytes_out.add(now.bytes_sent - before.bytes_sent);
        metrics.peer_frames.add(now.frames_received - before.frames_received);
    }
}
