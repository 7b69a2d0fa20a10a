//! Answers of the execute and the query tile to the requests they belong to.

use hufu_network::codes::ErrorCode;
use hufu_network::session::Push;

use super::{Connection, ITEMS_PER_TURN_MAX, IngressTile, find};
use crate::messages::{Answer, AnswerBody};

impl IngressTile {
    pub(super) fn take_answers(&mut self) -> bool {
        let mut has_worked = false;
        for link in 0..self.answers.len() {
            for _ in 0..ITEMS_PER_TURN_MAX {
                let Some(answer) = self.answers[link].pop() else { break };
                has_worked = true;
                match answer.body {
                    AnswerBody::History(block) => self.take_history(block),
                    AnswerBody::NoHistory(height) => self.end_history(height),
                    _ => self.take_answer(answer),
                }
            }
        }
        has_worked
    }

    fn take_answer(&mut self, answer: Answer) {
        if let Some(connection) = find(&mut self.connections, answer.asker.connection) {
            connection.is_dirty = true;
            // A client that does not read waits for itself, never for others.
            if let Err(answer) = connection.keep_if_full(answer) {
                connection.answer(answer);
            }
        }
    }
}

impl Connection {
    /// Hands an answer to the session, which had room for it when it was looked at last.
    pub(super) fn answer(&mut self, answer: Answer) {
        let request = answer.asker.request;
        let session = &mut self.session;
        let refuse = |session: &mut hufu_network::ServerSession, code, text| {
            session.answer_error(request, code, text);
            Push::Taken
        };
        let pushed = match answer.body {
            AnswerBody::Account(info) => session.answer_account(request, *info),
            AnswerBody::Block(info) => session.answer_block(request, *info),
            AnswerBody::Transaction(info) => session.answer_transaction(request, *info),
            AnswerBody::Receipt { strength, receipt, proof } => {
                session.answer_wait(request, strength, &receipt, &proof);
                Push::Taken
            }
            AnswerBody::NotCertified(wait) => {
                session.wait_for_certificate(request, &wait.id);
                Push::Taken
            }
            AnswerBody::NotIncluded { wait, height } => {
                session.wait_for_inclusion(request, &wait.id, height);
                Push::Taken
            }
            AnswerBody::NotFound => {
                let text = "there is no such thing on this chain";
                refuse(session, ErrorCode::NotFound, text)
            }
            AnswerBody::TooLarge => {
                let text = "there is more of it than one answer holds";
                refuse(session, ErrorCode::AnswerTooLarge, text)
            }
            AnswerBody::Uncertified => {
                let text = "no header carries the state root of this height yet";
                refuse(session, ErrorCode::NotCertified, text)
            }
            AnswerBody::Overloaded => {
                let text = "too many wait for the next header already";
                refuse(session, ErrorCode::Overloaded, text)
            }
            AnswerBody::History(_)
            | AnswerBody::NoHistory(_)
            | AnswerBody::Decided(_)
            | AnswerBody::Bodies { .. } => {
                unreachable!("subscriptions are fed by the tile, and peers by theirs")
            }
        };
        self.overloaded_if_full(request, pushed);
        self.is_dirty = true;
    }
}
