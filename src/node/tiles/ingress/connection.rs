//! One client connection of an ingress tile: its session, the receipts on their way to it, its
//! subscriptions.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use hufu_crypto::Hasher;
use hufu_network::message::event::{Cursor, Event, EventContent, Filter};
use hufu_network::session::{Delivery, Push, ServerSession, SessionCounters};
use hufu_runtime::clock::Nanos;
use hufu_runtime::net::ConnToken;
use hufu_types::Strength;
use hufu_types::codec::{index, length_u32};

use crate::messages::{Answer, AnswerBody, Executed};
use crate::metrics::Metrics;
use crate::proofs::ProofSource;

/// Blocks whose receipts one connection may leave undelivered, count; a client that does not read
/// is disconnected.
pub(super) const DELIVERIES_MAX: usize = 256;

/// Bytes of answers kept for a connection whose send buffer is full. Further questions are then
/// answered as overloaded; receipts are always kept, for waits are few and receipts small.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// A block whose receipts are handed out at one strength; shared by all connections.
#[derive(Debug)]
pub(super) struct BlockDelivery {
    strength: Strength,
    executed: Executed,
    certifier: Option<Executed>,
    source: OnceLock<ProofSource>,
}

impl BlockDelivery {
    /// The committed receipts of a block.
    #[must_use]
    pub(super) fn committed(executed: Executed) -> Arc<Self> {
        let source = OnceLock::new();
        Arc::new(Self { strength: Strength::Committed, executed, certifier: None, source })
    }

    /// The receipts of a block, certified by a later one.
    #[must_use]
    pub(super) fn certified(executed: Executed, certifier: Executed) -> Arc<Self> {
        let source = OnceLock::new();
        Arc::new(Self {
            strength: Strength::Certified,
            executed,
            certifier: Some(certifier),
            source,
        })
    }

    fn prove(&self, place: u32, hasher: &dyn Hasher) -> Vec<u8> {
        let source =
            self.source.get_or_init(|| ProofSource::new(Arc::clone(&self.executed), hasher));
        let proof = source.prove(place, self.certifier.as_deref());
        proof.map(|proof| proof.to_bytes()).unwrap_or_default()
    }
}

struct Pending {
    delivery: Arc<BlockDelivery>,
    next: u32,
}

/// See the module.
pub(super) struct Connection {
    /// Its name in the reactor.
    pub(super) token: ConnToken,
    /// Its conversation.
    pub(super) session: ServerSession,
    /// When it was accepted.
    pub(super) accepted_at: Nanos,
    /// A block of history was asked for on behalf of a subscription.
    pub(super) is_history_asked: bool,
    /// A block of history that arrived.
    pub(super) history: Option<Executed>,
    /// Whether it waits for something that happened since it was served last.
    pub(super) is_dirty: bool,
    /// Whether it was left alone because transactions are pushed back.
    pub(super) is_blocked: bool,
    /// Whether the client has said all it will.
    pub(super) is_input_over: bool,
    pending: VecDeque<Pending>,
    kept: VecDeque<Answer>,
    kept_bytes: usize,
    published: SessionCounters,
}

/// What a connection's subscriptions want next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// Nothing, or nothing that is there yet.
    Fed,
    /// A block that is not in memory.
    Wants(u64),
}

impl Connection {
    /// A connection that was just accepted.
    #[must_use]
    pub(super) fn new(token: ConnToken, session: ServerSession, now: Nanos) -> Self {
        Self {
            token,
            session,
            accepted_at: now,
            is_history_asked: false,
            history: None,
            is_dirty: true,
            is_blocked: false,
            is_input_over: false,
            pending: VecDeque::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            published: SessionCounters::default(),
        }
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
        let has_room = self.kept.is_empty() && !self.session.is_full();
        if has_room || matches!(answer.body, AnswerBody::History(_)) {
            return Err(answer);
        }
        let bytes = answer.body.memory_bytes();
        let is_receipt = matches!(answer.body, AnswerBody::Receipt { .. });
        if self.kept_bytes.saturating_add(bytes) > KEPT_BYTES_MAX && !is_receipt {
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

    /// Lines a block up for delivery; `false` if the client has left too many unread.
    pub(super) fn enqueue(&mut self, delivery: &Arc<BlockDelivery>) -> bool {
        if self.session.waiters_count() == 0 && self.pending.is_empty() {
            if delivery.strength == Strength::Committed {
                self.session.advance(delivery.executed.block.height());
            }
            return true;
        }
        self.pending.push_back(Pending { delivery: Arc::clone(delivery), next: 0 });
        self.is_dirty = true;
        self.pending.len() <= DELIVERIES_MAX
    }

    /// Hands out receipts until all are, or the session is full.
    pub(super) fn deliver(&mut self, hasher: &dyn Hasher) {
        while let Some(Pending { delivery, next }) = self.pending.front_mut() {
            let receipts = &delivery.executed.receipts;
            while let Some(receipt) = receipts.get(index(*next)) {
                let place = *next;
                let mut proof = || delivery.prove(place, hasher);
                if self.session.deliver(delivery.strength, receipt, &mut proof) == Delivery::Full {
                    return;
                }
                *next += 1;
            }
            if delivery.strength == Strength::Committed {
                self.session.advance(delivery.executed.block.height());
            }
            self.pending.pop_front();
        }
    }

    /// Feeds the subscriptions from the blocks in memory, up to `height`.
    pub(super) fn feed(&mut self, recent: &VecDeque<Executed>, height: u64) -> Feed {
        let states: Vec<_> = self.session.subscriptions().collect();
        for mut state in states {
            while state.next.height <= height && !self.session.is_full() {
                let wanted = state.next.height.max(1);
                let held = recent.iter().chain(&self.history);
                let block =
                    held.into_iter().find(|executed| executed.block.height() == wanted).cloned();
                let Some(block) = block else { return Feed::Wants(wanted) };
                if !self.feed_block(state.subscription, state.next, state.filter, &block) {
                    break;
                }
                state.next = Cursor::start_of(wanted + 1);
            }
        }
        Feed::Fed
    }

    /// Pushes the events of a block from the cursor on; `false` if the subscription cannot take all
    /// of them now.
    fn feed_block(
        &mut self,
        subscription: u64,
        from: Cursor,
        filter: Filter,
        executed: &Executed,
    ) -> bool {
        let height = executed.block.height();
        let mut place = 0_u32;
        for batch in &executed.batches {
            for position in 0..batch.entries().len() {
                let cursor = Cursor { height, index: place };
                place += 1;
                if cursor < from {
                    continue;
                }
                let Some(transaction) = batch.transaction(position) else { continue };
                let Some(receipt) = executed.receipts.get(index(cursor.index)) else { continue };
                let sender = transaction.sender();
                if !filter.wants_transaction(sender, &transaction) {
                    self.session.skip_to(subscription, cursor.next());
                    continue;
                }
                let content = EventContent::Transaction { sender, receipt: *receipt };
                if self.session.push_event(subscription, &Event { cursor, content }) != Push::Taken
                {
                    return false;
                }
            }
        }
        assert_eq!(place, length_u32(&executed.receipts), "one receipt for each transaction");
        if !filter.wants_blocks() {
            self.session.skip_to(subscription, Cursor::start_of(height + 1));
            return true;
        }
        let content = EventContent::Block(*executed.block.header());
        let cursor = Cursor { height, index: place };
        self.session.push_event(subscription, &Event { cursor, content }) == Push::Taken
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
        for ((code, count), (_, earlier)) in now.refusals().zip(before.refusals()) {
            metrics.count_refused(code, count - earlier);
        }
        for ((code, count), (_, earlier)) in now.errors().zip(before.errors()) {
            metrics.count_errors(code, count - earlier);
        }
        let faults = |counters: &SessionCounters| -> u64 {
            counters.errors().filter(|(code, _)| code.closes()).map(|(_, count)| count).sum()
        };
        metrics.ingress_connections_faulted.add(faults(&now) - faults(&before));
    }
}
