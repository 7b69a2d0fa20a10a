//! What a session has seen and done, by reason; read and added up by the tile at housekeeping.

use hufu_types::RefusalCode;

use crate::codes::ErrorCode;

/// Counters of one session, from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Bytes taken from the socket.
    pub bytes_received: u64,
    /// Bytes the socket took.
    pub bytes_sent: u64,
    /// Whole frames read.
    pub frames_received: u64,
    /// Transactions in submit frames.
    pub transactions_received: u64,
    /// Transactions admitted.
    pub transactions_accepted: u64,
    /// Receipts handed to the client.
    pub receipts_sent: u64,
    /// Queries answered.
    pub answers_sent: u64,
    /// Events handed to the client.
    pub events_sent: u64,
    /// Times a frame had to wait because too much was in flight or the client did not read.
    pub pauses: u64,
    refusals: [u64; RefusalCode::ALL.len()],
    errors: [u64; ErrorCode::ALL.len()],
}

impl SessionCounters {
    pub(super) fn count_refusal(&mut self, code: RefusalCode) {
        let place = RefusalCode::ALL.iter().position(|other| *other == code);
        if let Some(counter) = place.and_then(|place| self.refusals.get_mut(place)) {
            *counter += 1;
        }
    }

    pub(super) fn count_error(&mut self, code: ErrorCode) {
        if let Some(counter) = self.errors.get_mut(code.place()) {
            *counter += 1;
        }
    }

    /// Transactions refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (RefusalCode, u64)> + '_ {
        RefusalCode::ALL.iter().copied().zip(self.refusals)
    }

    /// Error frames sent, by reason.
    pub fn errors(&self) -> impl Iterator<Item = (ErrorCode, u64)> + '_ {
        ErrorCode::ALL.iter().copied().zip(self.errors)
    }
}
