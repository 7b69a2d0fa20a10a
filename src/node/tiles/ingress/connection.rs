//! One client connection of an ingress tile: its session, and what waits here on its behalf.

use std::collections::VecDeque;

use hufu_network::codes::ErrorCode;
use hufu_network::limits::{FRAME_BODY_SIZE_MAX, SUBMIT_TRANSACTIONS_COUNT_MAX};
use hufu_network::session::{Push, ServerSession, SessionConfig, SessionCounters};
use hufu_runtime::clock::Nanos;
use hufu_runtime::net::ConnToken;
use hufu_types::codec::index;

use super::receipts::Receipts;
use super::submissions::Held;
use crate::messages::{Answer, AnswerBody, Submitted};
use crate::metrics::Metrics;

/// Bytes of answers kept for a connection whose send buffer is full. Further questions are then
/// answered as overloaded; receipts are always kept, for waits are few and receipts small.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Bytes that a connection takes: its session's outgoing buffer, one frame undecoded and one
/// decoded, one answer on top of a full buffer, the answers kept and the receipts of its waits.
pub(super) fn memory_bytes_max(session: &SessionConfig) -> usize {
    let decoded = index(SUBMIT_TRANSACTIONS_COUNT_MAX) * size_of::<Submitted>();
    let frames = 4 * index(FRAME_BODY_SIZE_MAX);
    index(session.outgoing_bytes_max) + frames + decoded + KEPT_BYTES_MAX
}

/// See the module.
pub(super) struct Connection {
    /// Its name in the reactor.
    pub(super) token: ConnToken,
    /// Its conversation.
    pub(super) session: ServerSession,
    /// When a whole frame last came from the client; at first, when it was accepted.
    pub(super) heard_at: Nanos,
    /// Since when the client takes nothing of what there is for it.
    pub(super) stuck_since: Option<Nanos>,
    /// When it is cut off, once its conversation is over.
    pub(super) closing_until: Option<Nanos>,
    /// Transactions taken out of the session for which verification has no room yet.
    pub(super) held: Held,
    /// Heights at which subscriptions go on and that are not in memory.
    pub(super) wanted: Vec<u64>,
    /// Whether it waits for something that happened since it was served last.
    pub(super) is_dirty: bool,
    /// Whether the client has said all it will.
    pub(super) is_input_over: bool,
    /// Whether bytes wait that the session had no room for.
    pub(super) has_more_input: bool,
    pub(super) receipts: Receipts,
    kept: VecDeque<Answer>,
    kept_bytes: usize,
    published: SessionCounters,
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub(super) fn new(token: ConnToken, session: ServerSession, now: Nanos) -> Self {
        Self {
            token,
            session,
            heard_at: now,
            stuck_since: None,
            closing_until: None,
            held: Held::default(),
            wanted: Vec::new(),
            is_dirty: true,
            is_input_over: false,
            has_more_input: false,
            receipts: Receipts::default(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            published: SessionCounters::default(),
        }
    }

    /// Whether nothing more is to come for the client, so that it may be let go: its conversation
    /// is over, or it has said all and has all its answers.
    #[must_use]
    pub(super) fn is_over(&self) -> bool {
        let has_all = self.is_input_over
            && !self.has_more_input
            && !self.is_dirty
            && self.held.is_empty()
            && self.kept.is_empty()
            && self.session.is_settled();
        (self.session.is_closing() || has_all) && !self.session.has_output()
    }

    /// Keeps an answer for which the session has no room, in the order of answers; gives it back if
    /// it is to be handed to the session now.
    ///
    /// # Errors
    /// The answer: there is room for it, or too much is kept and the session refuses it.
    pub(super) fn keep_if_full(&mut self, answer: Answer) -> Result<(), Answer> {
        if self.session.is_closing() {
            self.kept.clear();
            self.kept_bytes = 0;
            return Err(answer);
        }
        let bytes = answer.body.memory_bytes();
        let is_receipt = matches!(answer.body, AnswerBody::Receipt { .. });
        let has_room = self.kept.is_empty() && !self.session.is_full();
        let is_over = self.kept_bytes.saturating_add(bytes) > KEPT_BYTES_MAX && !is_receipt;
        if has_room || is_over {
            return Err(answer);
        }
        self.kept_bytes += bytes;
        self.kept.push_back(answer);
        Ok(())
    }

    /// The oldest answer kept, if the session has room for it.
    pub(super) fn next_kept(&mut self) -> Option<Answer> {
        if self.session.is_full() {
            return None;
        }
        let answer = self.kept.pop_front()?;
        self.kept_bytes -= answer.body.memory_bytes();
        Some(answer)
    }

    /// Tells a request that there is no room for its answer, if the session says so.
    pub(super) fn overloaded_if_full(&mut self, request: u64, pushed: Push) {
        if pushed == Push::Full {
            let text = "no room for the answer";
            self.session.answer_error(request, ErrorCode::Overloaded, text);
        }
    }

    /// Adds what the session has counted since the last time to the node's metrics.
    pub(super) fn publish(&mut self, metrics: &Metrics) {
        let now = self.session.counters().clone();
        let before = std::mem::replace(&mut self.published, now.clone());
        metrics.ingress_bytes_in.add(now.bytes_received - before.bytes_received);
        metrics.ingress_bytes_out.add(now.bytes_sent - before.bytes_sent);
        metrics.ingress_frames.add(now.frames_received - before.frames_received);
        metrics.ingress_transactions.add(now.transactions_received - before.transactions_received);
        metrics.ingress_pauses.add(now.pauses - before.pauses);
        metrics.queries_answered.add(now.answers_sent - before.answers_sent);
        for ((code, count), (_, earlier)) in now.refusals().zip(before.refusals()) {
            metrics.count_refused(code, count - earlier);
        }
        for ((code, count), (_, earlier)) in now.errors().zip(before.errors()) {
            metrics.count_errors(code, count - earlier);
            if code.is_fault() {
                metrics.ingress_connections_faulted.add(count - earlier);
            }
        }
    }
}
