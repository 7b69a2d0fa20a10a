//! What waits to leave a link: control first, then one part of bulk at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::codes::{BulkKind, PeerKind};
use super::parts::Sending;
use crate::channel::{Channel, ChannelState};
use crate::frame;

/// Sent bytes are cut off the front only when they are this many.
const COMPACT_BYTES: usize = 256 * 1_024;

#[derive(Debug)]
pub(super) struct Outbox {
    control_bytes_max: usize,
    bulk_bytes_max: usize,
    /// Frames that leave before any bulk.
    control: Vec<u8>,
    bulk: VecDeque<Sending>,
    bulk_bytes: usize,
    /// Bytes for the socket; those before `start` are sent.
    wire: Vec<u8>,
    start: usize,
}

impl Outbox {
    pub(super) const fn new(control_bytes_max: usize, bulk_bytes_max: usize) -> Self {
        Self {
            control_bytes_max,
            bulk_bytes_max,
            control: Vec::new(),
            bulk: VecDeque::new(),
            bulk_bytes: 0,
            wire: Vec::new(),
            start: 0,
        }
    }

    /// Adds a frame; `false` if too many bytes wait already.
    pub(super) fn control(&mut self, kind: PeerKind, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.control.len() >= self.control_bytes_max {
            return false;
        }
        frame::write(&mut self.control, kind, 0, write);
        true
    }

    /// Adds a bulk message, shared with whoever else sends it; `false` if too many bytes wait.
    pub(super) fn bulk(&mut self, kind: BulkKind, bytes: Arc<[u8]>) -> bool {
        if self.bulk_bytes >= self.bulk_bytes_max {
            return false;
        }
        self.bulk_bytes += bytes.len();
        self.bulk.push_back(Sending::new(kind, bytes));
        true
    }

    pub(super) const fn bulk_bytes(&self) -> usize {
        self.bulk_bytes
    }

    /// Forgets all bulk: the link ends, and only its last words still matter.
    pub(super) fn drop_bulk(&mut self) {
        self.bulk.clear();
        self.bulk_bytes = 0;
    }

    /// Turns control frames, or else one part of bulk, into bytes for the socket, once it has taken
    /// those before: what it does not take waits as frames, whose number is bounded.
    pub(super) fn fill(&mut self, channel: &mut dyn Channel) {
        channel.pending(&mut self.wire);
        if channel.state() != ChannelState::Open || !self.unsent().is_empty() {
            return;
        }
        if self.control.is_empty() {
            self.next_part();
        }
        self.encode(channel);
    }

    fn encode(&mut self, channel: &mut dyn Channel) {
        if !self.control.is_empty() && channel.send(&self.control, &mut self.wire).is_ok() {
            self.control.clear();
        }
    }

    fn next_part(&mut self) {
        let Some(sending) = self.bulk.front_mut() else { return };
        let mut is_last = false;
        frame::write(&mut self.control, PeerKind::Part, 0, |out| is_last = sending.write_part(out));
        if is_last && let Some(sent) = self.bulk.pop_front() {
            self.bulk_bytes -= sent.bytes.len();
        }
    }

    pub(super) fn farewell(&mut self, channel: &mut dyn Channel) {
        self.drop_bulk();
        channel.pending(&mut self.wire);
        self.encode(channel);
        channel.close(&mut self.wire);
    }

    pub(super) fn unsent(&self) -> &[u8] {
        self.wire.get(self.start..).unwrap_or_default()
    }

    pub(super) fn sent(&mut self, count: usize) {
        assert!(count <= self.unsent().len(), "no more is sent than was there");
        self.start += count;
        if self.start == self.wire.len() {
            self.wire.clear();
            self.start = 0;
        } else if self.start >= COMPACT_BYTES {
            self.wire.drain(..self.start);
            self.start = 0;
        }
    }
}
