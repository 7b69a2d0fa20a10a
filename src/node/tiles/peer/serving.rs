//! Decided heights and their bodies for peers that are behind.
//!
//! A peer's requests wait on its connection, and one height after the other is asked of the query
//! tile, only while the connection has room: a peer that catches up costs no more memory than one
//! that keeps up, and another peer's requests are answered in between.

use std::sync::Arc;

use hufu_network::peer::BulkKind;
use hufu_types::{Batch, Block, CommitCertificate};

use super::{Connection, ITEMS_PER_TURN_MAX, PeerTile};
use crate::messages::{Answer, AnswerBody, Asker, Query, Question};
use crate::metrics::PeerDrop;

/// Requests of one peer that wait, count.
const WANTED_MAX: usize = 256;

/// What a peer wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Blocks and certificates.
    Heights {
        /// The first height not sent yet.
        next: u64,
        /// How many from there on, at least one.
        count: u32,
    },
    /// All batches of a height.
    Bodies(u64),
}

impl Wanted {
    /// What is still wanted after one height was sent.
    const fn rest(self) -> Option<Self> {
        match self {
            Self::Heights { next, count } if count > 1 => {
                Some(Self::Heights { next: next + 1, count: count - 1 })
            }
            _ => None,
        }
    }
}

impl PeerTile {
    pub(super) fn want(&mut self, connection: &mut Connection, wanted: Wanted) {
        if connection.wanted.contains(&wanted) {
            return;
        }
        if connection.wanted.len() < WANTED_MAX {
            connection.wanted.push_back(wanted);
        } else {
            self.metrics.count_peer_dropped(PeerDrop::RequestsTooMany, 1);
        }
    }

    /// Asks for the next height that the peer wants, once it has room for the largest.
    pub(super) fn ask_for_heights(&mut self, connection: &mut Connection) -> bool {
        connection.has_question = false;
        let Some(wanted) = connection.wanted.front().copied() else { return false };
        if connection.is_asking
            || connection.link.bulk_bytes() > self.config.link.bulk_bytes_max / 2
        {
            return false;
        }
        let asker = Asker { connection: connection.token, request: 0 };
        let query = match wanted {
            Wanted::Heights { next: height, .. } => Query::Decided { height },
            Wanted::Bodies(height) => Query::Bodies { height },
        };
        connection.is_asking = self.to_query.try_push(Question { asker, query }).is_ok();
        connection.has_question = !connection.is_asking;
        connection.is_asking
    }

    pub(super) fn take_answers(&mut self) -> bool {
        let mut has_worked = false;
        for _ in 0..ITEMS_PER_TURN_MAX {
            let Some(answer) = self.answers.pop() else { break };
            has_worked = true;
            self.take_answer(answer);
        }
        has_worked
    }

    fn take_answer(&mut self, Answer { asker, body }: Answer) {
        let Some(connection) = self.connection(asker.connection) else { return };
        connection.is_asking = false;
        connection.is_dirty = true;
        let Some(wanted) = connection.wanted.pop_front() else { return };
        let refused = match (wanted, body) {
            (Wanted::Heights { next, .. }, AnswerBody::Decided(decided)) => {
                let (block, certificate) = *decided;
                assert_eq!(block.height(), next, "one question is open at a time");
                let bytes = encode_height(&block, &certificate);
                u32::from(!connection.link.send_bulk(BulkKind::Height, bytes))
            }
            (Wanted::Bodies(wanted), AnswerBody::Bodies { height, batches }) => {
                assert_eq!(height, wanted, "one question is open at a time");
                send_bodies(connection, &batches)
            }
            (Wanted::Bodies(height), _) => return connection.link.lack_bodies(height),
            // Whoever wanted more heights knows from the tip how many there are.
            (Wanted::Heights { .. }, _) => return,
        };
        if let Some(rest) = wanted.rest() {
            connection.wanted.push_front(rest);
        }
        self.metrics.peer_heights_served.add(1);
        self.metrics.count_peer_dropped(PeerDrop::OutboxFull, hufu_types::codec::index(refused));
    }
}

/// Sends the batches; says how many found no room.
fn send_bodies(connection: &mut Connection, batches: &[Batch]) -> u32 {
    let mut refused = 0;
    for batch in batches {
        let bytes = Arc::clone(batch.bytes());
        refused += u32::from(!connection.link.send_bulk(BulkKind::Batch, bytes));
    }
    refused
}

fn encode_height(block: &Block, certificate: &CommitCertificate) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    block.write(&mut bytes);
    certificate.write(&mut bytes);
    bytes.into()
}
