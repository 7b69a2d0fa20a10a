//! One node that breaks rules: it runs what the others run, and lies about it on the wire.
//!
//! ```text
//! what an honest node would send -> Byzantine -> what is sent: left out, changed, or two things
//! ```
//! It has its own vote key and no other, so it can sign whatever it likes in its own name.

use std::collections::BTreeMap;
use std::sync::Arc;

use hufu_consensus::Message;
use hufu_types::{
    Batch, BatchDigest, Block, BlockDigest, BlockHeader, Digest, Proposal, SignedProposal,
    SignedVote, Vote, VoteStep,
};
use zerocopy::IntoBytes as _;
use zerocopy::little_endian::{U32, U64};

use crate::material::Material;
use crate::node::Life;
use crate::random::Random;
use crate::wire::Wire;

/// How it misbehaves: each in so many of a thousand occasions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vices {
    /// Says two things where it may say one: votes and proposals.
    equivocates: u64,
    /// Leaves frames out.
    withholds: u64,
    /// Proposes headers with other roots.
    wrong_roots: u64,
    /// Orders a batch again, one that has passed, or one whose transactions were executed.
    wrong_batches: u64,
    /// Pushes and orders batches with a bad signature.
    bad_signatures: u64,
    /// Serves decided heights that nobody decided, and says that it is ahead.
    forges_heights: u64,
}

impl Vices {
    /// One or more vices.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut vices = Self::default();
        for _ in 0..random.between(1, 3) {
            let permille = random.between(100, 900);
            match random.below(6) {
                0 => vices.equivocates = permille,
                1 => vices.withholds = permille / 2,
                2 => vices.wrong_roots = permille,
                3 => vices.wrong_batches = permille,
                4 => vices.bad_signatures = permille,
                _ => vices.forges_heights = permille,
            }
        }
        vices
    }
}

/// See the module.
pub(crate) struct Byzantine {
    pub(crate) place: usize,
    vices: Vices,
    random: Random,
    /// The false block it has told of in place of its own, and to whom.
    lies: BTreeMap<BlockDigest, (Block, Vec<usize>)>,
    /// The batch that it made last.
    made: Option<Batch>,
    sequence: u64,
}

impl Byzantine {
    pub(crate) const fn new(place: usize, vices: Vices, random: Random) -> Self {
        Self { place, vices, random, lies: BTreeMap::new(), made: None, sequence: 1 << 60 }
    }

    /// What goes out in place of `sends`. A frame to each peer comes in turn.
    pub(crate) fn twist(
        &mut self,
        material: &Material,
        life: Option<&Life>,
        sends: Vec<(usize, Wire)>,
    ) -> Vec<(usize, Wire)> {
        let mut out = Vec::new();
        for (to, wire) in sends {
            if self.random.chance(self.vices.withholds) {
                continue;
            }
            self.twist_one(material, life, to, wire, &mut out);
        }
        out
    }

    fn twist_one(
        &mut self,
        material: &Material,
        life: Option<&Life>,
        to: usize,
        wire: Wire,
        out: &mut Vec<(usize, Wire)>,
    ) {
        match wire {
            Wire::Block { round, block } => self.block(material, life, to, (round, block), out),
            Wire::Message(Message::Proposal(signed)) => {
                self.proposal(material, to, signed, out);
            }
            Wire::Message(Message::Vote(signed)) => self.vote(material, to, signed, out),
            Wire::Tip { height } if self.random.chance(self.vices.forges_heights) => {
                let height = height + self.random.between(1, 4);
                out.push((to, Wire::Tip { height }));
            }
            Wire::Height { block, certificate }
                if self.random.chance(self.vices.forges_heights) =>
            {
                let mut certificate = certificate;
                let forged = later(&block, material);
                certificate.block = forged.digest();
                out.push((to, Wire::Height { block: forged, certificate }));
            }
            other => out.push((to, other)),
        }
    }

    /// Its own block goes out, or a false one in its place, to some or to all.
    fn block(
        &mut self,
        material: &Material,
        life: Option<&Life>,
        to: usize,
        (round, block): (u32, Block),
        out: &mut Vec<(usize, Wire)>,
    ) {
        let digest = block.digest();
        if block.header().proposer == material.address(self.place)
            && !self.lies.contains_key(&digest)
        {
            let lie = self.lie(material, life, &block);
            let nodes = material.nodes();
            let all = self.random.chance(600);
            let told = (0..nodes).filter(|_| all || self.random.chance(500)).collect();
            let lie = lie.map_or((block.clone(), Vec::new()), |lie| (lie, told));
            self.lies.insert(digest, lie);
        }
        let block = match self.lies.get(&digest) {
            Some((lie, told)) if told.contains(&to) => {
                self.push_bodies(to, lie, out);
                lie.clone()
            }
            _ => block,
        };
        out.push((to, Wire::Block { round, block }));
    }

    fn push_bodies(&self, to: usize, lie: &Block, out: &mut Vec<(usize, Wire)>) {
        let is_in = |batch: &&Batch| lie.batches().contains(&batch.digest());
        if let Some(batch) = self.made.as_ref().filter(is_in) {
            out.push((to, Wire::Batch(Arc::clone(batch.bytes()))));
        }
    }

    /// A false block in place of this one, if it has the mood for one.
    fn lie(&mut self, material: &Material, life: Option<&Life>, block: &Block) -> Option<Block> {
        if self.random.chance(self.vices.wrong_roots) {
            let mut header = *block.header();
            header.state_root = Digest([9; 32]);
            return rebuild(material, header, block.batches().to_vec());
        }
        if self.random.chance(self.vices.wrong_batches) {
            return self.wrong_batch(material, life, block);
        }
        if self.random.chance(self.vices.bad_signatures) {
            let lives = |batch: &&Batch| batch.header().last_height.get() > block.height();
            let old = life?.old_batches().find(lives)?;
            let batch = self.copy(material, old, true)?;
            let lie = with_batch(material, block, &batch);
            self.made = Some(batch);
            return lie;
        }
        self.random.chance(self.vices.equivocates).then(|| later(block, material))
    }

    /// The block with a batch more: one that was ordered before, one that has passed, or one whose
    /// transactions have all been executed.
    fn wrong_batch(
        &mut self,
        material: &Material,
        life: Option<&Life>,
        block: &Block,
    ) -> Option<Block> {
        let height = block.height();
        let old: Vec<&Batch> = life?.old_batches().collect();
        let is_passed = |batch: &&&Batch| batch.header().last_height.get() < height;
        let passed = old.iter().find(is_passed).copied();
        let lively = old.iter().find(|batch| !is_passed(batch)).copied();
        match (self.random.below(3), passed, lively) {
            (0, _, Some(old)) => with_batch(material, block, old),
            (1, Some(old), _) | (_, _, Some(old)) => {
                let batch = self.copy(material, old, false)?;
                let lie = with_batch(material, block, &batch);
                self.made = Some(batch);
                lie
            }
            _ => None,
        }
    }

    /// A copy of an old batch, as one of its own; a spoilt one has a signature that is not valid.
    fn copy(&mut self, material: &Material, old: &Batch, is_spoilt: bool) -> Option<Batch> {
        let mut header = *old.header();
        self.sequence += 1;
        header.sequence = U64::new(self.sequence);
        header.origin = material.address(self.place);
        let mut bytes = old.bytes().to_vec();
        bytes.get_mut(..header.as_bytes().len())?.copy_from_slice(header.as_bytes());
        if is_spoilt {
            // The last bytes of a batch are the last transaction's signature.
            *bytes.last_mut()? ^= 1;
        }
        Batch::parse(bytes.into(), &*material.provider.hasher).ok()
    }

    fn proposal(
        &mut self,
        material: &Material,
        to: usize,
        signed: SignedProposal,
        out: &mut Vec<(usize, Wire)>,
    ) {
        let proposal = signed.proposal;
        let lie = self.lies.get(&proposal.block).filter(|(_, told)| told.contains(&to));
        let Some((lie, _)) = lie.filter(|_| proposal.validator == material.address(self.place))
        else {
            return out.push((to, Wire::Message(Message::Proposal(signed))));
        };
        let (height, round) = (proposal.height.get(), proposal.round.get());
        let lock = proposal.proof_of_lock_round();
        let own = proposal.validator;
        let chain = material.chain_id;
        let proposal = Proposal::new(chain, height, round, lie.digest(), lock, own);
        if let Some(signature) = material.sign(self.place, proposal.as_bytes()) {
            let signed = SignedProposal { proposal, signature };
            out.push((to, Wire::Message(Message::Proposal(signed))));
        }
        // It votes for what it told.
        for step in [VoteStep::Prevote, VoteStep::Precommit] {
            let vote = Vote::new(chain, step, height, round, Some(lie.digest()), own);
            self.tell_vote(material, to, vote, out);
        }
    }

    fn vote(
        &mut self,
        material: &Material,
        to: usize,
        signed: SignedVote,
        out: &mut Vec<(usize, Wire)>,
    ) {
        out.push((to, Wire::Message(Message::Vote(signed))));
        let vote = signed.vote;
        if vote.validator != material.address(self.place)
            || !self.random.chance(self.vices.equivocates)
        {
            return;
        }
        let lie = vote.block().and_then(|block| self.lies.get(&block)).map(|(lie, _)| lie.digest());
        let other = if lie == vote.block() { None } else { lie };
        let (height, round) = (vote.height.get(), vote.round.get());
        let vote = Vote::new(material.chain_id, vote.step(), height, round, other, vote.validator);
        self.tell_vote(material, to, vote, out);
    }

    fn tell_vote(&self, material: &Material, to: usize, vote: Vote, out: &mut Vec<(usize, Wire)>) {
        if let Some(signature) = material.sign(self.place, vote.as_bytes()) {
            out.push((to, Wire::Message(Message::Vote(SignedVote { vote, signature }))));
        }
    }
}

/// The same block a millisecond later: another digest.
fn later(block: &Block, material: &Material) -> Block {
    let mut header = *block.header();
    header.time_millis = U64::new(header.time_millis.get() + 1);
    rebuild(material, header, block.batches().to_vec()).unwrap_or_else(|| block.clone())
}

/// The block with one batch more.
fn with_batch(material: &Material, block: &Block, batch: &Batch) -> Option<Block> {
    if block.batches().contains(&batch.digest()) {
        return None;
    }
    let mut batches = block.batches().to_vec();
    batches.push(batch.digest());
    let mut header = *block.header();
    let count = header.transactions_count.get() + batch.header().transactions_count.get();
    header.transactions_count = U32::new(count);
    rebuild(material, header, batches)
}

fn rebuild(
    material: &Material,
    mut header: BlockHeader,
    batches: Vec<BatchDigest>,
) -> Option<Block> {
    let hasher = &*material.provider.hasher;
    header.batches_count = U32::new(u32::try_from(batches.len()).ok()?);
    header.transactions_root = Block::transactions_root(&batches, hasher);
    Block::new(header, batches, hasher).ok()
}
