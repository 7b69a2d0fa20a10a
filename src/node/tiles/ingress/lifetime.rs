//! How connections come and go: accepted, silent, stuck, in the way of others, ended.
//!
//! | what a client does | what becomes of it |
//! |---|---|
//! | no hello for [`HELLO_WAIT`] | `idle_timeout` |
//! | asks nothing and waits for nothing for [`IDLE_WAIT`] | `idle_timeout` |
//! | takes nothing of what there is for it for [`STUCK_WAIT`] | `slow_consumer` |
//! | comes when all places are taken | gets the longest silent one's, or `connections_full` |
//! | does not take its last words for [`CLOSE_WAIT`] | is cut off |

use std::sync::Arc;
use std::time::Duration;

use hufu_network::channel::PlainChannel;
use hufu_network::codes::ErrorCode;
use hufu_network::session::ServerSession;
use hufu_runtime::clock::Nanos;
use hufu_runtime::net::ConnToken;
use hufu_types::codec::index;

use super::{Connection, IngressTile};

/// Connections that a reactor has room for beyond those that are served, count: they are told why
/// they have to go.
pub const SPARE_CONNECTIONS: u32 = 8;

/// Time a client has for its hello.
const HELLO_WAIT: Duration = Duration::from_secs(5);

/// Time a client may ask nothing while it waits for nothing.
const IDLE_WAIT: Duration = Duration::from_secs(300);

/// Time a client may leave a full buffer untouched.
const STUCK_WAIT: Duration = Duration::from_secs(60);

/// Time a client has to take its last words.
const CLOSE_WAIT: Duration = Duration::from_secs(3);

/// Time that clients have to get their last receipts when the node stops.
pub(super) const DRAIN_WAIT: Duration = Duration::from_secs(5);

/// Silence after which a client that waits for nothing may lose its place to another.
const EVICT_WAIT: Duration = Duration::from_secs(1);

/// The same for one that waits for blocks or events.
const EVICT_EXPECTANT_WAIT: Duration = Duration::from_secs(60);

impl IngressTile {
    pub(super) fn accept(&mut self, token: ConnToken, now: Nanos) {
        let place = index(token.slot());
        if self.connections.len() <= place {
            self.connections.resize_with(place + 1, || None);
        }
        let (chain_id, node) = (self.config.chain_id, self.config.node);
        let channel = Box::new(PlainChannel::new());
        let session = ServerSession::new(self.config.session, chain_id, node, channel);
        let mut connection = Connection::new(token, session, now);
        if self.make_place(now) {
            self.metrics.ingress_connections_accepted.add(1);
        } else {
            let text = "all places are taken by clients that use them";
            connection.session.close(ErrorCode::ConnectionsFull, text);
            self.metrics.ingress_connections_refused.add(1);
        }
        self.connections[place] = Some(connection);
    }

    /// Whether there is a place for one more, if need be that of the client that was silent
    /// longest.
    fn make_place(&mut self, now: Nanos) -> bool {
        let serving = self.connections.iter().flatten().filter(|one| !one.session.is_closing());
        if serving.count() < index(self.config.connections_max) {
            return true;
        }
        let serving = self.connections.iter_mut().flatten();
        let candidates = serving.filter(|one| one.may_be_evicted(now));
        let silent = candidates
            .max_by_key(|one| (!one.session.is_expectant(), now.duration_since(one.heard_at)));
        let Some(silent) = silent else { return false };
        let text = "another client needs the place of one that asks nothing";
        silent.session.close(ErrorCode::IdleTimeout, text);
        silent.is_dirty = true;
        true
    }

    pub(super) fn forget(&mut self, token: ConnToken) {
        let metrics = Arc::clone(&self.metrics);
        if let Some(connection) = self.connection(token) {
            connection.publish(&metrics);
            self.connections[index(token.slot())] = None;
        }
    }

    /// Looks after every connection at housekeeping.
    pub(super) fn watch(&mut self, now: Nanos) {
        for connection in self.connections.iter_mut().flatten() {
            connection.session.housekeeping();
            connection.watch(now);
            connection.publish(&self.metrics);
            connection.is_dirty |= connection.session.has_output();
            if connection.closing_until.is_some_and(|until| now >= until) {
                self.reactor.abort(connection.token);
            }
        }
    }

    /// Lets clients go once they have their last words, or their time is over.
    pub(super) fn drain(&mut self, now: Nanos) -> bool {
        let Some(until) = self.drain_until else { return false };
        let in_flight =
            self.connections.iter().flatten().any(|one| one.session.transactions_in_flight() > 0);
        if in_flight && now < until {
            return false;
        }
        for connection in self.connections.iter_mut().flatten() {
            connection.session.close(ErrorCode::Stopping, "the node is stopping");
            connection.is_dirty = true;
        }
        self.drain_until = None;
        true
    }
}

impl Connection {
    fn may_be_evicted(&self, now: Nanos) -> bool {
        let is_expectant = self.session.is_expectant() || self.session.has_output();
        let wait = if is_expectant { EVICT_EXPECTANT_WAIT } else { EVICT_WAIT };
        !self.session.is_closing()
            && self.session.transactions_in_flight() == 0
            && now.duration_since(self.heard_at) >= wait
    }

    fn watch(&mut self, now: Nanos) {
        if !self.session.is_closing() {
            self.end_if_due(now);
        }
        if self.session.is_closing() {
            self.closing_until.get_or_insert(now.after(CLOSE_WAIT));
        }
    }

    fn end_if_due(&mut self, now: Nanos) {
        let has_passed = |since: Nanos, wait: Duration| now.duration_since(since) >= wait;
        if !self.session.is_greeted() && has_passed(self.heard_at, HELLO_WAIT) {
            self.session.close(ErrorCode::IdleTimeout, "no hello came");
        } else if self.stuck_since.is_some_and(|since| has_passed(since, STUCK_WAIT)) {
            self.session.close(ErrorCode::SlowConsumer, "answers were left unread");
        } else if !self.session.is_expectant()
            && !self.session.has_output()
            && has_passed(self.heard_at, IDLE_WAIT)
        {
            self.session.close(ErrorCode::IdleTimeout, "nothing was asked for too long");
        }
    }
}
