//! Bytes in, messages out to the other tiles.

use std::sync::Arc;

use hufu_consensus::Message;
use hufu_network::peer::{BulkKind, LinkEvent, PeerCode};
use hufu_runtime::clock::Nanos;
use hufu_types::codec::{Reader, check_range};
use hufu_types::limits::ROUNDS_COUNT_MAX;
use hufu_types::{Block, CommitCertificate, DecodeError, Hasher};
use zerocopy::little_endian::U32;

use super::serving::Wanted;
use super::{Connection, PeerTile};
use crate::log::{self, Field};
use crate::messages::{FromPeer, PeerBatch, PeerBatches};
use crate::metrics::PeerDrop;

/// Events and portions of bytes taken from one connection in one turn, so that none starves the
/// others.
const STEPS_PER_TURN_MAX: usize = 128;

/// Requests of one peer that wait for the mempool, count. It answers at once or not at all, and a
/// peer that hears nothing asks another.
const REQUESTS_WAITING_MAX: usize = 64;

impl PeerTile {
    /// Moves bytes into the link and messages out of it, until a message finds no room.
    pub(super) fn take_input(&mut self, connection: &mut Connection, now: Nanos) -> bool {
        let mut has_worked = false;
        for _ in 0..STEPS_PER_TURN_MAX {
            if connection.held.is_some() || !self.to_consensus.is_clear() {
                connection.link.is_not_listening(now.as_nanos());
                connection.is_dirty = true;
                return has_worked;
            }
            if let Some(event) = connection.link.next_event(now.as_nanos()) {
                self.take_event(connection, event, now);
                has_worked = true;
                continue;
            }
            let bytes = self.reactor.received(connection.token);
            let taken = connection.link.receive(bytes, now.as_nanos());
            self.reactor.consume(connection.token, taken);
            if taken == 0 {
                if connection.is_input_over && !connection.link.has_closed() {
                    let text = "the connection ended without a farewell";
                    connection.link.close(PeerCode::ChannelFailed, text);
                }
                return has_worked;
            }
            has_worked = true;
        }
        connection.is_dirty = true;
        has_worked
    }

    fn take_event(&mut self, connection: &mut Connection, event: LinkEvent, now: Nanos) {
        let from = connection.from();
        match event {
            LinkEvent::Sign(digest) => match self.signer.sign(&digest, now) {
                Ok(signature) => connection.link.prove(&signature, now.as_nanos()),
                Err(error) => {
                    let fields: [Field<&dyn std::fmt::Display>; 1] = [("reason", &error)];
                    log::error("the link key does not sign", &fields);
                    connection.link.close(PeerCode::ChannelFailed, "no proof could be made");
                }
            },
            LinkEvent::Opened(peer) => self.opened(connection, peer, now),
            LinkEvent::Consensus(bytes) => match Message::parse(&bytes) {
                Ok(message) => self.for_consensus(connection, FromPeer::Message { from, message }),
                Err(fault) => malformed(connection, &fault),
            },
            LinkEvent::Block(bytes) => match parse_block(&bytes, &*self.provider.hasher) {
                Ok((round, block)) => {
                    self.for_consensus(connection, FromPeer::Block { from, round, block });
                }
                Err(fault) => malformed(connection, &fault),
            },
            LinkEvent::Tip { height, block } => {
                self.for_consensus(connection, FromPeer::Tip { from, height, block });
            }
            LinkEvent::BatchesWanted(digests) => {
                self.for_mempool(connection, PeerBatches::Wanted { from, digests });
            }
            LinkEvent::BatchesAbsent(digests) => {
                self.for_mempool(connection, PeerBatches::Absent { from, digests });
            }
            LinkEvent::BatchesHeld(digests) => {
                self.for_mempool(connection, PeerBatches::Held { from, digests });
            }
            LinkEvent::BodiesAbsent(height) => {
                self.for_mempool(connection, PeerBatches::NoBodies { from, height });
            }
            LinkEvent::HeightsWanted { from, count } => {
                self.want(connection, Wanted::Heights { next: from, count });
            }
            LinkEvent::BodiesWanted(height) => self.want(connection, Wanted::Bodies(height)),
            LinkEvent::Bulk(BulkKind::Batch, bytes) => self.take_batch(connection, bytes),
            LinkEvent::Bulk(BulkKind::Height, bytes) => {
                match parse_height(&bytes, &*self.provider.hasher) {
                    Ok((block, certificate)) => {
                        let height = FromPeer::Height { from, block, certificate };
                        self.for_consensus(connection, height);
                    }
                    Err(fault) => malformed(connection, &fault),
                }
            }
            LinkEvent::Closed(code, text) => self.ended(connection, code, &text, now),
        }
    }

    fn for_consensus(&mut self, connection: &mut Connection, message: FromPeer) {
        assert!(connection.held.is_none(), "nothing is read behind what waits");
        connection.held = self.to_consensus.offer(message).err();
    }

    fn for_mempool(&mut self, connection: &mut Connection, request: PeerBatches) {
        if connection.requests.len() < REQUESTS_WAITING_MAX {
            connection.requests.push_back(request);
        } else {
            self.metrics.count_peer_dropped(PeerDrop::MempoolFull, 1);
        }
    }

    fn take_batch(&mut self, connection: &mut Connection, bytes: Arc<[u8]>) {
        self.metrics.peer_batches.add(1);
        // Those before may have left since the last turn; order among batches means nothing, but
        // the oldest has waited longest.
        self.pass_batches(connection);
        let held = connection.batches_bytes.saturating_add(bytes.len());
        if held > self.config.held_bytes_max {
            self.metrics.count_peer_dropped(PeerDrop::VerifyFull, 1);
            return;
        }
        connection.batches_bytes = held;
        let from = connection.from();
        connection.batches.push_back(PeerBatch { from, bytes });
    }

    /// Passes on what waits of a connection, as far as there is room.
    pub(super) fn pass_on(&mut self, connection: &mut Connection) -> bool {
        let mut has_worked = false;
        if let Some(message) = connection.held.take() {
            connection.held = self.to_consensus.offer(message).err();
            has_worked |= connection.held.is_none();
        }
        while let Some(request) = connection.requests.pop_front() {
            if let Err(request) = self.to_mempool.offer(request) {
                connection.requests.push_front(request);
                break;
            }
            has_worked = true;
        }
        self.pass_batches(connection) || has_worked
    }

    /// Gives batches to the verify tiles in turn.
    fn pass_batches(&mut self, connection: &mut Connection) -> bool {
        let count = self.to_verify.len();
        let mut has_worked = false;
        while let Some(batch) = connection.batches.pop_front() {
            let size = batch.bytes.len();
            let mut left = Some(batch);
            for step in 0..count {
                let place = (self.next_verify + step) % count;
                if let (Some(batch), Some(link)) = (left.take(), self.to_verify.get_mut(place)) {
                    left = link.try_push(batch).err();
                }
                if left.is_none() {
                    self.next_verify = (place + 1) % count;
                    break;
                }
            }
            if let Some(batch) = left {
                connection.batches.push_front(batch);
                break;
            }
            connection.batches_bytes -= size;
            has_worked = true;
        }
        has_worked
    }
}

fn malformed(connection: &mut Connection, fault: &DecodeError) {
    connection.link.close(PeerCode::Malformed, &fault.to_string());
}

/// A proposed block on the wire: its round, then its bytes.
fn parse_block(bytes: &[u8], hasher: &dyn Hasher) -> Result<(u32, Block), DecodeError> {
    let mut reader = Reader::new(bytes);
    let round = reader.fixed::<U32>()?.get();
    check_range("round of a proposed block", round.into(), 0, ROUNDS_COUNT_MAX.into())?;
    let block = Block::read(&mut reader, hasher)?;
    reader.finish().map(|()| (round, block))
}

/// A decided height on the wire: the block, then its certificate.
fn parse_height(
    bytes: &[u8],
    hasher: &dyn Hasher,
) -> Result<(Block, CommitCertificate), DecodeError> {
    let mut reader = Reader::new(bytes);
    let block = Block::read(&mut reader, hasher)?;
    let certificate = CommitCertificate::read(&mut reader)?;
    reader.finish().map(|()| (block, certificate))
}
