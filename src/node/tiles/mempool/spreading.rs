//! Between the rule that spreads batches and everybody it concerns: peers, the verify tiles, the
//! block log and consensus.

use hufu_mempool::dissemination::Effect;
use hufu_runtime::clock::Nanos;
use hufu_types::{Address, Batch, BatchDigest, BlockDigest, DecodeError};

use super::MempoolTile;
use crate::messages::{MempoolAnswer, PeerBatches, SealedBatch, SendBatches};

impl MempoolTile {
    /// Takes in what peers say and ask for, while there is room for what it leads to.
    pub(super) fn take_peers(&mut self, now: Nanos) -> bool {
        let now = now.as_nanos();
        let mut has_worked = false;
        while !self.is_held()
            && let Some(peers) = &mut self.links.peers
            && let Some(said) = peers.incoming.pop()
        {
            has_worked = true;
            match said {
                PeerBatches::Up(peer) => self.dissemination.peer_up(now, peer),
                PeerBatches::Down(peer) => self.dissemination.peer_down(now, peer),
                PeerBatches::Wanted { from, digests } => self.dissemination.wanted(from, &digests),
                PeerBatches::Absent { from, digests } => {
                    self.dissemination.absent(now, from, &digests);
                }
                PeerBatches::Held { from, digests } => self.dissemination.held(from, &digests),
                PeerBatches::NoBodies { from, height } => {
                    self.dissemination.no_bodies(now, from, height);
                }
            }
            self.act();
        }
        has_worked
    }

    pub(super) fn take_parsed(&mut self, from: Address, batch: Result<Batch, DecodeError>) {
        self.metrics.mempool_batches_received.add(1);
        match batch {
            Ok(batch) => self.dissemination.received(from, batch),
            Err(_) => self.dissemination.malformed(from),
        }
        self.act();
    }

    pub(super) fn take_judged(&mut self, digest: BatchDigest, is_valid: bool) {
        if let Some(is_valid) = self.judging.judged(digest, is_valid) {
            self.metrics.mempool_batches_judged.add(1);
            self.dissemination.judged(digest, is_valid);
            self.act();
        }
    }

    /// A block was decided: other validators' transactions are duplicates from here on as well.
    pub(super) fn take_decided(&mut self, height: u64, batches: &[BatchDigest]) {
        let others = batches.iter().filter(|digest| !self.pool.holds(digest));
        let others: Vec<Batch> =
            others.filter_map(|digest| self.dissemination.get(digest).cloned()).collect();
        self.pool.decided(batches, height);
        self.dissemination.ordered(height, batches);
        for batch in others {
            for position in 0..batch.entries().len() {
                if let Some(view) = batch.transaction(position) {
                    self.pool.remember(view.header());
                }
            }
        }
        self.act();
    }

    /// Passes on what the rule wants done.
    pub(super) fn act(&mut self) {
        let effects: Vec<Effect> = self.dissemination.effects().collect();
        for effect in effects {
            match effect {
                Effect::Send { peer, batch } => self.send(SendBatches::Batch { to: peer, batch }),
                Effect::Ask { peer, digests } => self.send(SendBatches::Ask { to: peer, digests }),
                Effect::AskBodies { peer, height } => {
                    self.send(SendBatches::AskBodies { to: peer, height });
                }
                Effect::Hold { peer, digests } => {
                    self.send(SendBatches::Hold { to: peer, digests });
                }
                Effect::Lack { peer, digests } => {
                    self.send(SendBatches::Lack { to: peer, digests });
                }
                Effect::Judge(batch) => self.judging.begin(&batch),
                Effect::Store(batch) => self.stores.push_back(SealedBatch { batch }),
                Effect::Available(block) => {
                    let batches = self.bodies(&block);
                    self.answers.push_back(MempoolAnswer::Available { block, batches });
                }
                Effect::Durable(block) => {
                    let batches = self.bodies(&block);
                    self.answers.push_back(MempoolAnswer::Durable { block, batches });
                }
                Effect::Invalid(block) => self.answers.push_back(MempoolAnswer::Invalid { block }),
                Effect::Blame(_, blame) => self.metrics.count_blamed(blame),
            }
        }
    }

    fn send(&mut self, message: SendBatches) {
        assert!(self.links.peers.is_some(), "without peers nobody is up");
        self.sends.push_back(message);
    }

    fn bodies(&self, block: &BlockDigest) -> Vec<Batch> {
        let bodies = self.dissemination.bodies(block);
        assert!(bodies.is_some(), "an available block has its batches");
        bodies.unwrap_or_default()
    }
}
