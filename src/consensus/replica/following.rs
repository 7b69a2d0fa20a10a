//! Following: heights that peers have decided are verified, fetched and taken over.
//!
//! ```text
//! Height -> certificates verified together -> NeedDecided -> durable bodies -> Write, Write, ...
//!                                                                 HeightDurable, Executed behind
//! ```
//! Several heights are under way to the disk and to execution at once; the bounds are the
//! replica's.

use super::{
    Effect, Error, Note, Replica, Stage, Time, UNEXECUTED_BYTES_MAX, UNEXECUTED_HEIGHTS_COUNT_MAX,
    WRITING_HEIGHTS_COUNT_MAX,
};
use crate::engine;

impl Replica {
    /// Takes over what peers have decided, and asks them for more.
    pub(super) fn follow_peers(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<(), Error> {
        let set = self.chain.validators().set();
        let verifier = &*self.config.engine.provider.verifier;
        self.catch_up.verify(time.nanos, self.chain.chain_id(), set, verifier, out);
        for (from, block) in self.catch_up.need(self.chain.height()) {
            let (height, batches) = (block.height(), block.batches().to_vec());
            self.proposals.need(height, &block);
            if !batches.is_empty() {
                let (block, holder) = (block.digest(), from);
                out.push(Effect::NeedDecided { height, block, batches, holder });
            }
        }
        while self.apply(time, out)? {}
        self.catch_up.ask(time.nanos, self.chain.height(), out);
        Ok(())
    }

    /// Applies the next height if it came from a peer, whole; whether it did.
    fn apply(&mut self, time: Time, out: &mut Vec<Effect>) -> Result<bool, Error> {
        let next = self.chain.next_height();
        if self.writing.len() >= WRITING_HEIGHTS_COUNT_MAX
            || self.unexecuted.len() >= UNEXECUTED_HEIGHTS_COUNT_MAX
            || self.unexecuted.iter().sum::<u64>() >= UNEXECUTED_BYTES_MAX
        {
            return Ok(false);
        }
        let Some(item) = self.catch_up.verified(next) else { return Ok(false) };
        if !self.proposals.is_durable(&item.block.digest()) {
            return Ok(false);
        }
        let (block, certificate) = (item.block.clone(), item.certificate.clone());
        if self.stage == Stage::Deciding && self.signer.is_late() {
            self.give_up();
        } else if self.stage == Stage::Deciding {
            // The engine ends the height itself, once: what it has signed there is on record.
            let is_first = self.catch_up.hand_over(next);
            if is_first {
                self.drive(time, engine::Input::Synced { certificate, block }, out)?;
            }
            return Ok(is_first && self.stage != Stage::Deciding);
        }
        out.push(Effect::Note(Note::CaughtUp { height: next }));
        self.write(time, block, certificate, Vec::new(), out)?;
        Ok(true)
    }

    /// The height at work is decided without this validator, whose signer does not answer: the
    /// engine, which stands still, begins anew at a later height.
    fn give_up(&mut self) {
        self.signer.give_up();
        self.engine.give_up();
        self.timers.clear();
        self.refused.clear();
    }
}
