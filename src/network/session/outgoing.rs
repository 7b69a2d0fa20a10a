//! The outgoing buffer of a session: coalesces statuses, receipts and events into frames, then
//! frames into channel bytes.

use hufu_types::codec::put;
use hufu_types::{Receipt, Strength};
use zerocopy::IntoBytes;

use crate::channel::{Channel, ChannelState};
use crate::frame::{self, FrameHeader, FrameKind};
use crate::limits::{FRAME_BODY_SIZE_MAX, FRAME_HEADER_SIZE};
use crate::message::ServerMessage;
use crate::message::event::{Cursor, Event, EventsHeader};
use crate::message::submit::{RECEIPT_ENTRY_SIZE, ReceiptEntry, StatusEntry};

/// Memory that an idle session keeps.
const KEPT_BYTES: usize = 64 * 1_024;

/// Bytes sent that are cut off the front only when they are this many, so that small writes do not
/// move large rests.
const COMPACT_BYTES: usize = 256 * 1_024;

pub(super) struct Outgoing {
    bytes_max: usize,
    statuses: Vec<u8>,
    receipts: Vec<u8>,
    events: Vec<u8>,
    stream: Option<Stream>,
    plain: Vec<u8>,
    wire: Vec<u8>,
    start: usize,
}

/// Whose events the open events frame holds.
#[derive(Clone, Copy)]
struct Stream {
    subscription: u64,
    next: Cursor,
    credits: u32,
}

impl Outgoing {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            statuses: Vec::new(),
            receipts: Vec::new(),
            events: Vec::new(),
            stream: None,
            plain: Vec::new(),
            wire: Vec::new(),
            start: 0,
        }
    }

    pub(super) fn queued(&self) -> usize {
        let open = self.statuses.len() + self.receipts.len() + self.events.len();
        open + self.plain.len() + self.wire.len() - self.start
    }

    pub(super) fn is_full(&self) -> bool {
        self.queued() >= self.bytes_max
    }

    pub(super) fn message(&mut self, request: u64, message: &ServerMessage<'_>) {
        message.encode(request, &mut self.plain);
    }

    pub(super) fn status(&mut self, entry: StatusEntry) {
        if !has_room(&self.statuses, size_of::<StatusEntry>()) {
            self.flush_statuses();
        }
        open(&mut self.statuses, FrameKind::Statuses, 0);
        put(&mut self.statuses, &entry);
    }

    pub(super) fn receipt(
        &mut self,
        request: u64,
        position: u32,
        strength: Strength,
        receipt: &Receipt,
        proof: &[u8],
    ) {
        if !has_room(&self.receipts, RECEIPT_ENTRY_SIZE + proof.len()) {
            self.flush_receipts();
        }
        open(&mut self.receipts, FrameKind::Receipts, 0);
        ReceiptEntry { request, position, strength, receipt, proof }.write(&mut self.receipts);
    }

    /// Adds an event, or only progress, to the stream of a subscription.
    pub(super) fn event(
        &mut self,
        subscription: u64,
        next: Cursor,
        credits: u32,
        event: Option<&Event>,
    ) {
        let is_other = self.stream.is_some_and(|stream| stream.subscription != subscription);
        if is_other || !has_room(&self.events, Event::SIZE_MAX) {
            self.flush_events();
        }
        if self.events.is_empty() {
            open(&mut self.events, FrameKind::Events, subscription);
            put(&mut self.events, &EventsHeader::new(next, credits));
        }
        self.stream = Some(Stream { subscription, next, credits });
        if let Some(event) = event {
            event.write(&mut self.events);
        }
    }

    fn flush_statuses(&mut self) {
        close(&mut self.statuses, FrameKind::Statuses, &mut self.plain);
    }

    fn flush_receipts(&mut self) {
        // A receipt never overtakes the status of its transaction.
        self.flush_statuses();
        close(&mut self.receipts, FrameKind::Receipts, &mut self.plain);
    }

    pub(super) fn flush_events(&mut self) {
        if let Some(Stream { next, credits, .. }) = self.stream.take() {
            let end = FRAME_HEADER_SIZE + size_of::<EventsHeader>();
            if let Some(field) = self.events.get_mut(FRAME_HEADER_SIZE..end) {
                field.copy_from_slice(EventsHeader::new(next, credits).as_bytes());
            }
            close(&mut self.events, FrameKind::Events, &mut self.plain);
        }
    }

    /// Turns everything queued into bytes for the socket, if the channel is open.
    pub(super) fn flush(&mut self, channel: &mut dyn Channel) {
        self.flush_receipts();
        self.flush_events();
        if self.plain.is_empty() || channel.state() != ChannelState::Open {
            return;
        }
        // An open channel takes everything; one that fails says so when it next receives, and
        // closes the session.
        if channel.send(&self.plain, &mut self.wire).is_ok() {
            self.plain.clear();
        }
    }

    pub(super) fn channel_speaks(&mut self, channel: &mut dyn Channel) {
        channel.pending(&mut self.wire);
    }

    /// The last words; what could not be sent by now never will be.
    pub(super) fn farewell(&mut self, channel: &mut dyn Channel) {
        channel.close(&mut self.wire);
        self.plain = Vec::new();
    }

    pub(super) fn wire(&self) -> &[u8] {
        self.wire.get(self.start..).unwrap_or_default()
    }

    pub(super) fn sent(&mut self, count: usize) {
        assert!(count <= self.wire.len() - self.start, "no more is sent than was there");
        self.start += count;
        if self.start == self.wire.len() {
            self.wire.clear();
            self.start = 0;
        } else if self.start >= COMPACT_BYTES {
            self.wire.drain(..self.start);
            self.start = 0;
        }
    }

    pub(super) fn shrink(&mut self) {
        let buffers = [
            &mut self.statuses,
            &mut self.receipts,
            &mut self.events,
            &mut self.plain,
            &mut self.wire,
        ];
        for buffer in buffers {
            if buffer.is_empty() {
                buffer.shrink_to(KEPT_BYTES);
            }
        }
    }
}

fn has_room(frame: &[u8], more: usize) -> bool {
    frame.len() + more <= FRAME_HEADER_SIZE + hufu_types::codec::index(FRAME_BODY_SIZE_MAX)
}

fn open(frame: &mut Vec<u8>, kind: FrameKind, request: u64) {
    if frame.is_empty() {
        put(frame, &FrameHeader::new(kind, request, 0));
    }
}

fn close(frame: &mut Vec<u8>, kind: FrameKind, out: &mut Vec<u8>) {
    if frame.is_empty() {
        return;
    }
    frame::finish(frame, 0, kind);
    out.append(frame);
}
