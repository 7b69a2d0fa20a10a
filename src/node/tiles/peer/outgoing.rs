//! What consensus and the mempool send.

use std::sync::Arc;

use hufu_consensus::Message;
use hufu_network::peer::BulkKind;
use hufu_types::codec::put;
use hufu_types::{Address, Block};
use zerocopy::little_endian::U32;

use super::{Connection, ITEMS_PER_TURN_MAX, PeerTile};
use crate::messages::{SendBatches, ToPeer};
use crate::metrics::PeerDrop;

impl PeerTile {
    pub(super) fn take_commands(&mut self) -> bool {
        let mut has_worked = false;
        for _ in 0..ITEMS_PER_TURN_MAX {
            let Some(command) = self.from_consensus.pop() else { break };
            has_worked = true;
            self.obey(command);
        }
        for _ in 0..ITEMS_PER_TURN_MAX {
            let Some(command) = self.from_mempool.pop() else { break };
            has_worked = true;
            self.obey_mempool(command);
        }
        has_worked
    }

    fn obey(&mut self, command: ToPeer) {
        match command {
            ToPeer::Publish(message) => {
                let bytes = encode(&message);
                self.send_all(|one| one.link.send_consensus(&bytes));
            }
            ToPeer::Send { to, message } => {
                self.send_one(to, |one| one.link.send_consensus(&encode(&message)));
            }
            ToPeer::Block { to, round, block } => {
                let bytes = encode_block(round, &block);
                match to {
                    Some(to) => self.send_one(to, |one| one.link.send_block(&bytes)),
                    None => self.send_all(|one| one.link.send_block(&bytes)),
                }
            }
            ToPeer::Tip { height, block } => {
                self.tip = Some((height, block));
                self.send_all(|one| one.link.send_tip(height, block));
            }
            ToPeer::AskHeights { to, from, count } => {
                self.send_one(to, |one| one.link.want_heights(from, count));
            }
        }
    }

    fn obey_mempool(&mut self, command: SendBatches) {
        match command {
            SendBatches::Batch { to, batch } => {
                let mut is_taken = true;
                let bytes = batch.bytes();
                self.send_one(to, |one| {
                    is_taken = one.link.send_bulk(BulkKind::Batch, Arc::clone(bytes));
                });
                if !is_taken {
                    self.metrics.count_peer_dropped(PeerDrop::OutboxFull, 1);
                }
            }
            SendBatches::Ask { to, digests } => {
                self.send_one(to, |one| one.link.want_batches(&digests));
            }
            SendBatches::Hold { to: Some(to), digests } => {
                self.send_one(to, |one| one.link.hold_batches(&digests));
            }
            SendBatches::Hold { to: None, digests } => {
                self.send_all(|one| one.link.hold_batches(&digests));
            }
            SendBatches::Lack { to, digests } => {
                self.send_one(to, |one| one.link.lack_batches(&digests));
            }
            SendBatches::AskBodies { to, height } => {
                self.send_one(to, |one| one.link.want_bodies(height));
            }
        }
    }

    fn send_one(&mut self, peer: Address, send: impl FnOnce(&mut Connection)) {
        match self.link_of(peer) {
            Some(connection) => {
                connection.is_dirty = true;
                send(connection);
            }
            None => self.metrics.count_peer_dropped(PeerDrop::NoLink, 1),
        }
    }

    fn send_all(&mut self, send: impl Fn(&mut Connection)) {
        for connection in self.connections.iter_mut().flatten().filter(|one| one.is_up) {
            connection.is_dirty = true;
            send(connection);
        }
    }

    /// Moves bytes from the link to the socket.
    pub(super) fn transmit(&mut self, connection: &mut Connection) -> bool {
        let mut has_worked = false;
        loop {
            let out = connection.link.transmit();
            if out.is_empty() {
                return has_worked;
            }
            match self.reactor.send(connection.token, out) {
                // The reactor says when there is room again, or that the connection is over.
                Ok(0) | Err(_) => return has_worked,
                Ok(count) => connection.link.sent(count),
            }
            has_worked = true;
        }
    }
}

fn encode(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    message.write(&mut bytes);
    bytes
}

fn encode_block(round: u32, block: &Block) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2_048);
    put(&mut bytes, &U32::new(round));
    block.write(&mut bytes);
    bytes
}
