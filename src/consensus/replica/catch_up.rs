//! Catch-up: which decided heights are asked of whom, and what of them is here.
//!
//! ```text
//! Tip (peer is ahead) -> AskHeights (ranges from several peers) -> Height -> certificate verified
//!                     -> NeedDecided (bodies, a few heights ahead) -> Durable -> applied in order
//! ```
//! A peer that promises heights and does not send them, or sends what proves nothing, is left alone
//! for a while; another is asked. Pure: time is an argument.

use std::collections::BTreeMap;

use hufu_crypto::Verifier;
use hufu_types::{Address, Block, CertificateError, ChainId, CommitCertificate, ValidatorSet};

use super::seam::{Blame, Effect, Note};

/// Heights of one question, count.
const RANGE_HEIGHTS_COUNT: u64 = 16;

/// Heights above the tip that are asked for, count: four ranges.
const WINDOW_HEIGHTS_COUNT: u64 = 64;

/// Heights above the tip whose bodies are fetched, count. Bounds memory: a block's bodies are at
/// most 32 MiB, and usually a hundredth of it.
const BODIES_HEIGHTS_COUNT: u64 = 8;

/// Heights whose certificates are verified without waiting for more, count: those of one question.
const VERIFIED_COUNT: usize = 16;

/// Failures after which a peer's time alone grows no more, count.
const FAILURES_COUNT_MAX: u32 = 6;

/// How long catch-up waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpConfig {
    /// Nanoseconds for which a peer may be one height ahead before it is asked: votes are usually
    /// faster.
    pub grace_nanos: u64,
    /// Nanoseconds without a height that was asked for, after which another peer is asked.
    pub answer_nanos: u64,
    /// Nanoseconds for which a peer that did not answer, or wrongly, is not asked again; twice as
    /// long each time, up to 64 times.
    pub cool_nanos: u64,
    /// Nanoseconds for which a question keeps this validator from working on the next height
    /// itself.
    pub trust_nanos: u64,
}

impl Default for CatchUpConfig {
    /// 50 ms, 2 s, 5 s, 300 ms.
    fn default() -> Self {
        Self {
            grace_nanos: 50_000_000,
            answer_nanos: 2_000_000_000,
            cool_nanos: 5_000_000_000,
            trust_nanos: 300_000_000,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Its last durable height, once it has said so.
    tip: u64,
    is_known: bool,
    /// Since when it is ahead of us.
    ahead_since: u64,
    /// Until when it is not believed.
    cool_until: u64,
    /// How often in a row it was not worth asking.
    failures: u32,
    asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    from: u64,
    count: u64,
    /// When it was asked, or answered last.
    since: u64,
}

impl Asked {
    const fn contains(&self, height: u64) -> bool {
        height >= self.from && height - self.from < self.count
    }
}

/// A decided height that came from a peer.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) from: Address,
    pub(super) block: Block,
    pub(super) certificate: CommitCertificate,
    /// When it came.
    since: u64,
    is_verified: bool,
    is_needed: bool,
    is_handed_over: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct CatchUp {
    config: CatchUpConfig,
    peers: BTreeMap<Address, Peer>,
    items: BTreeMap<u64, Item>,
}

impl CatchUp {
    pub(super) const fn new(config: CatchUpConfig) -> Self {
        Self { config, peers: BTreeMap::new(), items: BTreeMap::new() }
    }

    /// A link is open; its tip comes later.
    pub(super) fn up(&mut self, peer: Address) {
        self.peers.insert(peer, Peer::default());
    }

    /// A link has ended; what it was asked for is asked of another.
    pub(super) fn down(&mut self, peer: &Address) {
        self.peers.remove(peer);
    }

    pub(super) fn tip(&mut self, now: u64, from: Address, height: u64, own: u64) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.tip <= own && height > own {
            peer.ahead_since = now;
        }
        // A peer that lost its disk may be lower than it was.
        peer.tip = height;
        peer.is_known = true;
    }

    /// The highest tip that is believed.
    pub(super) fn best(&self, now: u64) -> u64 {
        let believed = self.peers.values().filter(|peer| peer.cool_until <= now);
        believed.map(|peer| peer.tip).max().unwrap_or(0)
    }

    /// Peers whose links are open and who have said where they are, and their tips.
    pub(super) fn tips(&self) -> impl Iterator<Item = (Address, u64)> + '_ {
        let known = self.peers.iter().filter(|(_, peer)| peer.is_known);
        known.map(|(address, peer)| (*address, peer.tip))
    }

    /// The tip rose to `own`: what is below is not needed.
    pub(super) fn advanced(&mut self, now: u64, own: u64) {
        self.items = self.items.split_off(&(own + 1));
        for peer in self.peers.values_mut() {
            // One that is just one height ahead gets its time anew: votes may do.
            peer.ahead_since = now;
            if peer.asked.is_some_and(|asked| asked.from + asked.count <= own + 1) {
                peer.asked = None;
            }
        }
    }

    /// Takes in a height; a blame if it was not asked of this peer.
    pub(super) fn received(
        &mut self,
        now: u64,
        from: Address,
        block: Block,
        certificate: CommitCertificate,
    ) -> Result<(), Blame> {
        let height = block.height();
        let Some(peer) = self.peers.get_mut(&from) else { return Err(Blame::HeightUnasked) };
        let Some(asked) = peer.asked.as_mut().filter(|asked| asked.contains(height)) else {
            return Err(Blame::HeightUnasked);
        };
        asked.since = now;
        if height + 1 == asked.from + asked.count {
            peer.asked = None;
        }
        let item = Item {
            from,
            block,
            certificate,
            since: now,
            is_verified: false,
            is_needed: false,
            is_handed_over: false,
        };
        self.items.entry(height).or_insert(item);
        Ok(())
    }

    /// Verifies certificates, all in one go: those of the moment before, so that heights that come
    /// together are verified together, or any once there are as many as a question asks for. Peers
    /// that sent bad ones are blamed and left alone.
    pub(super) fn verify(
        &mut self,
        now: u64,
        chain_id: ChainId,
        set: &ValidatorSet,
        verifier: &dyn Verifier,
        out: &mut Vec<Effect>,
    ) {
        let waiting = || self.items.iter().filter(|(_, item)| !item.is_verified);
        let is_due = waiting().any(|(_, item)| item.since < now);
        if !is_due && waiting().nth(VERIFIED_COUNT - 1).is_none() {
            return;
        }
        let items: Vec<(u64, &Item)> = waiting().map(|(height, item)| (*height, item)).collect();
        let certificates: Vec<&CommitCertificate> =
            items.iter().map(|(_, item)| &item.certificate).collect();
        let verdicts = CommitCertificate::verify_many(&certificates, chain_id, set, verifier);
        let is_good = |(_, item): &(u64, &Item), verdict: Result<(), CertificateError>| {
            item.certificate.height == item.block.height()
                && item.certificate.block == item.block.digest()
                && (verdict.is_ok() || hufu_types::planted!("certificates_unverified"))
        };
        let judged: Vec<(u64, bool)> = items
            .iter()
            .zip(verdicts)
            .map(|(item, verdict)| (item.0, is_good(item, verdict)))
            .collect();
        for (height, is_good) in judged {
            if is_good {
                if let Some(item) = self.items.get_mut(&height) {
                    item.is_verified = true;
                    let peer = self.peers.get_mut(&item.from);
                    peer.into_iter().for_each(|peer| peer.failures = 0);
                }
            } else if let Some(item) = self.items.remove(&height) {
                self.cool(now, item.from, Blame::HeightInvalid, out);
            }
        }
    }

    fn cool(&mut self, now: u64, from: Address, blame: Blame, out: &mut Vec<Effect>) {
        if let Some(peer) = self.peers.get_mut(&from) {
            let times = 1_u64 << peer.failures.min(FAILURES_COUNT_MAX);
            peer.failures = peer.failures.saturating_add(1);
            peer.cool_until = now.saturating_add(self.config.cool_nanos.saturating_mul(times));
            peer.asked = None;
        }
        out.push(Effect::Note(Note::Blame(from, blame)));
    }

    /// Verified blocks whose bodies are to be fetched now, and who has them; each comes once.
    pub(super) fn need(&mut self, own: u64) -> Vec<(Address, Block)> {
        let near = self.items.range_mut(own + 1..=own + BODIES_HEIGHTS_COUNT);
        let new = near.map(|(_, item)| item).filter(|item| item.is_verified && !item.is_needed);
        new.map(|item| {
            item.is_needed = true;
            (item.from, item.block.clone())
        })
        .collect()
    }

    /// Whether the height at work may be handed to the engine; `true` once.
    pub(super) fn hand_over(&mut self, height: u64) -> bool {
        let item = self.items.get_mut(&height);
        item.is_some_and(|item| !core::mem::replace(&mut item.is_handed_over, true))
    }

    /// The verified item at `height`, if it is here.
    pub(super) fn verified(&self, height: u64) -> Option<&Item> {
        self.items.get(&height).filter(|item| item.is_verified)
    }

    /// Asks for what is missing; gives up on peers that do not answer.
    pub(super) fn ask(&mut self, now: u64, own: u64, out: &mut Vec<Effect>) {
        let late: Vec<Address> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.asked.is_some_and(|asked| self.is_late(&asked, now)))
            .map(|(address, _)| *address)
            .collect();
        for address in late {
            self.cool(now, address, Blame::HeightMissing, out);
        }
        let best = self.best(now);
        let end = best.min(own + WINDOW_HEIGHTS_COUNT);
        let mut height = own + 1;
        while height <= end {
            if let Some(next) = self.covered(height) {
                height = next;
                continue;
            }
            let last = (height..=end)
                .take_while(|height| self.covered(*height).is_none())
                .take(usize::try_from(RANGE_HEIGHTS_COUNT).unwrap_or(1))
                .last()
                .unwrap_or(height);
            let Some(peer) = self.free_peer(now, height, own) else { return };
            let last = last.min(self.peers.get(&peer).map_or(height, |peer| peer.tip));
            let count = last - height + 1;
            if let Some(entry) = self.peers.get_mut(&peer) {
                entry.asked = Some(Asked { from: height, count, since: now });
            }
            let count = u32::try_from(count).unwrap_or(1);
            out.push(Effect::AskHeights { to: peer, from: height, count });
            height = last + 1;
        }
    }

    /// If `height` is here or asked for, a height above it from which to look on.
    fn covered(&self, height: u64) -> Option<u64> {
        if self.items.contains_key(&height) {
            return Some(height + 1);
        }
        let mut asked = self.peers.values().filter_map(|peer| peer.asked);
        asked.find(|asked| asked.contains(height)).map(|_| height + 1)
    }

    fn free_peer(&self, now: u64, height: u64, own: u64) -> Option<Address> {
        let grace = self.config.grace_nanos;
        let can = |peer: &Peer| {
            let is_far = peer.tip > own + 1;
            let is_due = is_far || now >= peer.ahead_since.saturating_add(grace);
            peer.asked.is_none() && peer.cool_until <= now && peer.tip >= height && is_due
        };
        // Whoever is farthest ahead first; among equals the smallest address.
        let free = self.peers.iter().filter(|(_, peer)| can(peer));
        free.max_by_key(|(address, peer)| (peer.tip, core::cmp::Reverse(**address)))
            .map(|(address, _)| *address)
    }

    const fn is_late(&self, asked: &Asked, now: u64) -> bool {
        asked.since.saturating_add(self.config.answer_nanos) <= now
    }

    /// Whether the next heights are about to come from peers, so that working on them here would be
    /// in vain. A peer that promises what it does not send keeps nobody for longer than
    /// [`CatchUpConfig::trust_nanos`].
    pub(super) fn is_coming(&self, now: u64) -> bool {
        let trust = self.config.trust_nanos;
        let mut asked = self.peers.values().filter_map(|peer| peer.asked);
        !self.items.is_empty() || asked.any(|asked| asked.since.saturating_add(trust) > now)
    }

    /// The next time after `now` at which [`CatchUp::ask`] may have something to do, or
    /// [`CatchUp::is_coming`] another answer.
    pub(super) fn deadline(&self, now: u64, own: u64) -> Option<u64> {
        let CatchUpConfig { grace_nanos, answer_nanos, trust_nanos, .. } = self.config;
        let of = |peer: &Peer| match peer.asked {
            Some(Asked { since, .. }) => {
                [since.saturating_add(answer_nanos), since.saturating_add(trust_nanos)]
            }
            None if peer.tip > own => {
                [peer.cool_until, peer.ahead_since.saturating_add(grace_nanos)]
            }
            None => [0, 0],
        };
        let waits = self.peers.values().flat_map(of).filter(|time| *time > now).min();
        let unverified = self.items.values().filter(|item| !item.is_verified);
        let verify = unverified.map(|item| item.since.saturating_add(1)).min();
        waits.into_iter().chain(verify).min()
    }
}
