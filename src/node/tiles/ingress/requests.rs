//! Bytes into sessions, requests out of them, and the answers that need no other tile.

use std::collections::VecDeque;

use hufu_network::codes::ErrorCode;
use hufu_network::limits::CURSOR_AHEAD_HEIGHTS_MAX;
use hufu_network::message::answer::{NodeState, StatusInfo};
use hufu_network::message::event::{Cursor, SubscribeStart};
use hufu_network::session::{Request, SubmitRequest};
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::link::Producer;
use hufu_types::codec::length_u32;
use hufu_types::verification::check_header;

use super::{Connection, IngressTile};
use crate::messages::{Asker, Query, Question, Source, Submitted};

/// Requests taken from one connection in one turn, so that none starves the others.
const REQUESTS_PER_TURN_MAX: usize = 8;

impl IngressTile {
    /// Moves bytes into the session and requests out of it. `room` is how many transactions this
    /// turn still takes; without room, and while earlier ones are held, submit frames stay unread.
    pub(super) fn take_input(&mut self, connection: &mut Connection, now: Nanos, room: &mut usize) {
        for _ in 0..REQUESTS_PER_TURN_MAX {
            let bytes = self.reactor.received(connection.token);
            let offered = bytes.len();
            let taken = connection.session.receive(bytes);
            self.reactor.consume(connection.token, taken);
            connection.has_more_input = taken < offered;
            let is_held_back = !connection.held.is_empty() || self.is_stopping;
            connection.session.hold_submits(is_held_back || *room == 0);
            let frames = connection.session.counters().frames_received;
            let request = connection.session.next_request(self.height);
            if connection.session.counters().frames_received > frames {
                connection.heard_at = now;
            }
            let Some(request) = request else {
                // Bytes that did not fit are offered again once the session has handed out what it
                // holds, and what only this turn had no room for in the next one.
                let is_paused_by_turn = connection.session.is_paused() && *room == 0;
                connection.is_dirty |= taken > 0 && taken < offered;
                connection.is_dirty |= is_paused_by_turn && !is_held_back;
                return;
            };
            self.take_request(connection, request, room);
        }
        connection.is_dirty = true;
    }

    fn take_request(&mut self, connection: &mut Connection, request: Request, room: &mut usize) {
        let asker = |request| Asker { connection: connection.token, request };
        match request {
            Request::Submit(submit) => self.take_submit(connection, submit, room),
            Request::Wait { request, wait } => {
                let question = Question { asker: asker(request), query: Query::Wait(wait) };
                self.to_query.1.push_back(question);
            }
            Request::Status { request } => {
                let pushed = connection.session.answer_status(request, self.status());
                connection.overloaded_if_full(request, pushed);
            }
            Request::Account { request, query } => {
                let question = Question { asker: asker(request), query: Query::Account(query) };
                self.to_execute.1.push_back(question);
            }
            Request::Block { request, query } => {
                let question = Question { asker: asker(request), query: Query::Block(query) };
                self.to_query.1.push_back(question);
            }
            Request::Transaction { request, query } => {
                let question = Question { asker: asker(request), query: Query::Transaction(query) };
                self.to_query.1.push_back(question);
            }
            Request::Subscribe { subscription, start, .. } => {
                self.subscribe(connection, subscription, start);
            }
        }
    }

    fn take_submit(
        &mut self,
        connection: &mut Connection,
        submit: SubmitRequest,
        room: &mut usize,
    ) {
        *room = room.saturating_sub(submit.submissions.len());
        for submission in submit.submissions {
            let transaction = submission.transaction;
            if let Some(code) = check_header(&transaction, self.config.chain_id) {
                connection.session.refused(&submission.ticket, code);
                continue;
            }
            let source = Source {
                ingress: self.config.index,
                connection: connection.token,
                ticket: submission.ticket,
                size: length_u32(transaction.bytes()),
            };
            self.submissions.hold(connection, Submitted { transaction, source });
        }
    }

    fn subscribe(&self, connection: &mut Connection, subscription: u64, start: SubscribeStart) {
        let begin = match start {
            SubscribeStart::Now => Cursor::start_of(self.height + 1),
            SubscribeStart::At(cursor) => cursor.max(Cursor::start_of(1)),
        };
        if begin.height > self.height.saturating_add(CURSOR_AHEAD_HEIGHTS_MAX) {
            connection.session.end_subscription(subscription, ErrorCode::CursorAhead);
            return;
        }
        connection.session.subscribed(subscription, begin);
        connection.is_dirty = true;
    }

    fn status(&self) -> StatusInfo {
        let uptime = clock::monotonic().duration_since(self.started);
        StatusInfo {
            height: self.height,
            certified_height: self.height.saturating_sub(self.config.lag),
            oldest_height: 1.min(self.height),
            time_millis: self.time_millis,
            uptime_seconds: uptime.as_secs(),
            pending_bytes: self.metrics.mempool_bytes.get(),
            pending_transactions: u32::try_from(self.metrics.mempool_transactions.get())
                .unwrap_or(u32::MAX),
            peers_count: u32::try_from(self.metrics.peer_links.get()).unwrap_or(u32::MAX),
            state: if self.is_stopping { NodeState::Stopping } else { NodeState::Running },
            block: self.config.block,
            state_root: self.config.state_root,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Passes questions on; `false` while one has no room.
    pub(super) fn pass_questions(&mut self) -> bool {
        self.ask_for_history();
        let has_room = pass(&mut self.to_execute);
        pass(&mut self.to_query) && has_room
    }
}

fn pass((link, waiting): &mut (Producer<Question>, VecDeque<Question>)) -> bool {
    while let Some(question) = waiting.pop_front() {
        if let Err(back) = link.try_push(question) {
            waiting.push_front(back);
            return false;
        }
    }
    true
}
