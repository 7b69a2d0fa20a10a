//! Executed blocks to the clients who subscribed.
//!
//! New blocks are in memory. One that is not is asked of the query tile once, whoever wants it, and
//! given to all of them.

use std::collections::VecDeque;

use hufu_network::codes::ErrorCode;
use hufu_network::message::event::{Cursor, Event, EventContent};
use hufu_network::session::{Push, SubscriptionState};
use hufu_types::codec::{index, length_u32};

use super::{Connection, IngressTile};
use crate::block_window::BlockWindow;
use crate::messages::{Asker, Executed, Query, Question};

/// Blocks asked of the query tile at once, count: each may be large.
const ASKED_MAX: usize = 2;

/// Blocks one connection is fed in one turn, count.
const BLOCKS_PER_TURN_MAX: usize = 4;

/// Blocks that are not new.
#[derive(Debug)]
pub(super) struct History {
    held: BlockWindow,
    /// Heights to ask for, each once.
    wanted: VecDeque<u64>,
    asked: Vec<u64>,
}

impl History {
    pub(super) fn new() -> Self {
        // What was asked for together may come together, and is held until it was fed once.
        Self { held: BlockWindow::new(ASKED_MAX), wanted: VecDeque::new(), asked: Vec::new() }
    }

    fn want(&mut self, height: u64) {
        if !self.wanted.contains(&height) && !self.asked.contains(&height) {
            self.wanted.push_back(height);
        }
    }

    fn arrived(&mut self, height: u64) {
        self.asked.retain(|asked| *asked != height);
    }
}

impl IngressTile {
    /// Feeds the subscriptions of a connection.
    pub(super) fn feed(&mut self, connection: &mut Connection) {
        connection.wanted.clear();
        let states: Vec<_> = connection.session.subscriptions().collect();
        let mut left = BLOCKS_PER_TURN_MAX;
        for mut state in states {
            while state.next.height <= self.height && !connection.session.is_full() {
                let height = state.next.height;
                let block = self.recent.find(height).or_else(|| self.history.held.find(height));
                let Some(block) = block else {
                    connection.wanted.push(height);
                    self.history.want(height);
                    break;
                };
                if left == 0 {
                    connection.is_dirty = true;
                    return;
                }
                left -= 1;
                if !connection.feed_block(&state, block) {
                    break;
                }
                state.next = Cursor::start_of(height + 1);
            }
        }
    }

    /// Asks for what is wanted and still wanted by somebody.
    pub(super) fn ask_for_history(&mut self) {
        while self.history.asked.len() < ASKED_MAX
            && let Some(height) = self.history.wanted.pop_front()
        {
            let mut connections = self.connections.iter().flatten();
            let Some(asker) = connections.find(|one| one.wanted.contains(&height)) else {
                continue;
            };
            let asker = Asker { connection: asker.token, request: 0 };
            self.history.asked.push(height);
            self.to_query.1.push_back(Question { asker, query: Query::History { height } });
        }
    }

    /// A block that was asked for.
    pub(super) fn take_history(&mut self, block: Executed) {
        let height = block.block.height();
        self.history.arrived(height);
        self.history.held.push(block);
        for connection in self.waiting_for(height) {
            connection.is_dirty = true;
        }
    }

    /// A block that was asked for and is not held any more.
    pub(super) fn end_history(&mut self, height: u64) {
        self.history.arrived(height);
        for connection in self.waiting_for(height) {
            let states: Vec<_> = connection.session.subscriptions().collect();
            for state in states.iter().filter(|state| state.next.height == height) {
                connection.session.end_subscription(state.subscription, ErrorCode::CursorGone);
            }
            connection.is_dirty = true;
        }
    }

    fn waiting_for(&mut self, height: u64) -> impl Iterator<Item = &mut Connection> {
        let waiting = self.connections.iter_mut().flatten();
        waiting.filter(move |one| one.wanted.contains(&height))
    }
}

impl Connection {
    /// Pushes the events of a block from the cursor on; `false` if the subscription cannot take all
    /// of them now.
    fn feed_block(&mut self, state: &SubscriptionState, executed: &Executed) -> bool {
        let SubscriptionState { subscription, next, filter, .. } = *state;
        let height = executed.block.height();
        let mut place = 0_u32;
        for batch in &executed.batches {
            for position in 0..batch.entries().len() {
                let cursor = Cursor { height, index: place };
                place += 1;
                if cursor < next {
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
        let end = Cursor::start_of(height + 1);
        if !filter.wants_blocks() {
            self.session.skip_to(subscription, end);
            return true;
        }
        let content = EventContent::Block(*executed.block.header());
        let cursor = Cursor { height, index: place };
        match self.session.push_event(subscription, &Event { cursor, content }) {
            Push::Taken => true,
            // The cursor was set behind the block's last event.
            Push::Stale => {
                self.session.skip_to(subscription, end);
                true
            }
            Push::Full | Push::NoCredit => false,
        }
    }
}
