//! What the rules want done, carried out in order.

use std::sync::Arc;

use hufu_consensus::replica::{Decided, Effect, Input, Note};
use hufu_consensus::{Message, Record, SignIntent};
use hufu_mempool::dissemination::Effect as Spread;
use hufu_storage::vote_log::Seal;
use hufu_types::{Batch, BlockDigest};

use super::life::{Waiting, Wanted, effective, fate, roots_input};
use super::{Halt, Node, Outside, Task, place_of};
use crate::logs::{RECORD_BATCH, RECORD_BLOCK, append_block, append_vote, block_record};
use crate::oracles::{Failure, own_precommits};
use crate::wire::Wire;

const MICROSECOND: u64 = 1_000;

/// How long the mempool tile waits for batches that are on their way.
const COMING_PATIENCE_NANOS: u64 = 30_000_000;

impl Node {
    /// Carries out an effect of the replica.
    pub(super) fn act(&mut self, outside: &mut Outside<'_>, effect: Effect) -> Result<(), Halt> {
        match effect {
            Effect::AppendVoteLog { ticket, record } => {
                let Some(life) = &mut self.life else { return Ok(()) };
                append_vote(&mut life.votes, &record)
                    .map_err(|error| fate(self.place, self.disk.judge(&error)))?;
                life.unsynced.push_back((ticket, record));
            }
            Effect::SyncVoteLog(_) => self.want_sync(outside),
            Effect::SealVoteLog(height) => self.seal(height)?,
            Effect::EndProbation => self.probation = None,
            Effect::Sign { ticket, intent } => {
                let intent = *intent.get();
                self.check_sign(outside, &intent)?;
                let delay = outside.random.between(50, 600) * MICROSECOND;
                outside.later.push((delay, Task::Sign { ticket, intent }));
            }
            Effect::Publish(message) => {
                self.check_publish(outside, &message)?;
                self.tell_all(outside, &Wire::Message(message));
            }
            Effect::Send { to, message } => {
                self.check_publish(outside, &message)?;
                let to = place_of(outside.material, &to)?;
                outside.sends.push((to, Wire::Message(message)));
            }
            Effect::SendBlock { to, round, block } => {
                if let Some(life) = &mut self.life {
                    life.bodies.insert(block.digest(), block.batches().to_vec());
                }
                let wire = Wire::Block { round, block };
                match to {
                    Some(to) => outside.sends.push((place_of(outside.material, &to)?, wire)),
                    None => self.tell_all(outside, &wire),
                }
            }
            Effect::AnnounceTip { height, .. } => {
                if let Some(life) = &mut self.life {
                    life.announced = Some(height);
                }
                self.tell_all(outside, &Wire::Tip { height });
            }
            Effect::AskHeights { to, from, count } => {
                let to = place_of(outside.material, &to)?;
                outside.sends.push((to, Wire::AskHeights { from, count }));
            }
            Effect::Write(decided) => self.write(outside, *decided)?,
            Effect::Note(note) => note_text(&mut outside.notes, &note),
            other => self.ask_mempool(outside, other),
        }
        Ok(())
    }

    /// What the mempool tile is asked.
    fn ask_mempool(&mut self, outside: &mut Outside<'_>, effect: Effect) {
        let own = outside.material.address(self.place);
        let Some(life) = &mut self.life else { return };
        match effect {
            Effect::Propose { height, allow_empty, .. } => {
                let patience = outside.now + COMING_PATIENCE_NANOS;
                life.wanted = Some(Wanted { height, allow_empty, patience });
            }
            Effect::Need { height, block, batches, proposer } => {
                life.bodies.insert(block, batches.clone());
                let _is_waited_for: bool =
                    life.dissemination.need(outside.now, height, block, &batches, proposer);
            }
            Effect::NeedDecided { height, block, batches, holder } => {
                life.bodies.insert(block, batches.clone());
                life.dissemination.need_decided(outside.now, height, block, &batches, holder);
            }
            Effect::Ordered { height, batches } => life.ordered(own, height, &batches),
            _ => {}
        }
    }

    /// Carries out an effect of dissemination.
    pub(super) fn spread(&mut self, outside: &mut Outside<'_>, effect: Spread) -> Result<(), Halt> {
        let material = outside.material;
        let Some(life) = &mut self.life else { return Ok(()) };
        match effect {
            Spread::Send { peer, batch } => {
                let wire = Wire::Batch(Arc::clone(batch.bytes()));
                outside.sends.push((place_of(material, &peer)?, wire));
            }
            Spread::Ask { peer, digests } => {
                outside.sends.push((place_of(material, &peer)?, Wire::Wanted(digests)));
            }
            Spread::AskBodies { peer, height } => {
                outside.sends.push((place_of(material, &peer)?, Wire::AskBodies { height }));
            }
            Spread::Hold { peer: Some(peer), digests } => {
                outside.sends.push((place_of(material, &peer)?, Wire::Held(digests)));
            }
            Spread::Hold { peer: None, digests } => {
                self.tell_all(outside, &Wire::Held(digests));
            }
            Spread::Lack { peer, digests } => {
                outside.sends.push((place_of(material, &peer)?, Wire::Absent(digests)));
            }
            Spread::Judge(batch) => {
                let delay = outside.random.between(100, 2_000) * MICROSECOND;
                outside.later.push((delay, Task::Judge(batch)));
            }
            Spread::Store(batch) => self.store(outside, &batch)?,
            Spread::Available(block) => {
                let batches = life.dissemination.bodies(&block).unwrap_or_default();
                life.inbox.push_back(Input::Available { block, batches });
            }
            Spread::Durable(block) => {
                let batches = life.dissemination.bodies(&block).unwrap_or_default();
                life.inbox.push_back(Input::Durable { block, batches });
            }
            Spread::Invalid(block) => life.inbox.push_back(Input::Invalid { block }),
            Spread::Blame(peer, blame) => {
                let peer = place_of(material, &peer)?;
                outside.notes.push(format!("blames node {peer}: {blame:?}"));
                self.check_blame(outside, peer, blame)?;
            }
        }
        Ok(())
    }

    fn check_blame(
        &self,
        outside: &Outside<'_>,
        peer: usize,
        blame: hufu_mempool::Blame,
    ) -> Result<(), Halt> {
        let is_honest = !self.is_byzantine && outside.oracles.byzantine != Some(peer);
        if is_honest && blame.is_proof() {
            let text = format!("node {} proves {blame:?} of honest node {peer}", self.place);
            return Err(Failure::new("no honest blame", text).into());
        }
        Ok(())
    }

    fn tell_all(&self, outside: &mut Outside<'_>, wire: &Wire) {
        let Some(life) = &self.life else { return };
        outside.sends.extend(life.up.iter().map(|peer| (*peer, wire.clone())));
    }

    // --- the vote log ----------------------------------------------------------------------------

    fn want_sync(&mut self, outside: &mut Outside<'_>) {
        let Some(life) = &mut self.life else { return };
        if !life.is_syncing {
            life.is_syncing = true;
            let delay = disk_nanos(outside, 1_500);
            outside.later.push((delay, Task::SyncVotes));
        }
    }

    pub(super) fn sync_votes(&mut self) -> Result<(), Halt> {
        let Some(life) = &mut self.life else { return Ok(()) };
        life.is_syncing = false;
        let synced = life.votes.sync().and_then(|_durable| life.votes.prepare());
        synced.map_err(|error| fate(self.place, self.disk.judge(&error)))?;
        if let Some((last, _)) = life.unsynced.back() {
            life.inbox.push_back(Input::VoteLogDurable(*last));
        }
        life.unsynced.clear();
        Ok(())
    }

    fn seal(&mut self, height: u64) -> Result<(), Halt> {
        let Some(life) = &mut self.life else { return Ok(()) };
        assert!(life.sealed < height, "heights are sealed once");
        let seal = Seal { height, log_sequence: life.blocks.durable().get() };
        life.votes.seal(seal).map_err(|error| fate(self.place, self.disk.judge(&error)))?;
        life.sealed = height;
        // A seal syncs all that came before it.
        if let Some((last, _)) = life.unsynced.back() {
            life.inbox.push_back(Input::VoteLogDurable(*last));
        }
        life.unsynced.clear();
        Ok(())
    }

    /// Nothing is signed before its intent is durable, and never two things at one position.
    fn check_sign(&self, outside: &mut Outside<'_>, intent: &SignIntent) -> Result<(), Halt> {
        let Some(life) = self.life.as_ref().filter(|_| !self.is_byzantine) else { return Ok(()) };
        let record = Record::SignIntent(*intent).to_bytes();
        if life.unsynced.iter().any(|(_, bytes)| *bytes == record) {
            let text = format!("node {} signs at {} too early", self.place, intent.position());
            return Err(Failure::new("durable before signed", text).into());
        }
        Ok(outside.oracles.signs(self.place, intent)?)
    }

    /// Nothing is told before the intent to sign it is durable, and no precommit before its block's
    /// batches are.
    fn check_publish(&self, outside: &Outside<'_>, message: &Message) -> Result<(), Halt> {
        let Some(life) = self.life.as_ref().filter(|_| !self.is_byzantine) else { return Ok(()) };
        let record = match message {
            Message::Vote(signed) => Some(SignIntent::Vote(signed.vote)),
            Message::Proposal(signed) => Some(SignIntent::Proposal(signed.proposal)),
            Message::Votes(_) => None,
        };
        let bytes = record.map(|intent| Record::SignIntent(intent).to_bytes());
        let is_early = |bytes: &Vec<u8>| life.unsynced.iter().any(|(_, other)| other == bytes);
        if bytes.as_ref().is_some_and(is_early) {
            let text = format!("node {} tells a message that is not durable", self.place);
            return Err(Failure::new("durable before told", text).into());
        }
        let own = outside.material.address(self.place);
        for (height, block) in own_precommits(message, own) {
            if height > life.durable_height && !self.has_bodies(&block) {
                let text =
                    format!("node {} precommits height {height} without its batches", self.place);
                return Err(Failure::new("batches before precommit", text).into());
            }
        }
        Ok(())
    }

    fn has_bodies(&self, block: &BlockDigest) -> bool {
        let Some(life) = &self.life else { return false };
        let bodies = life.bodies.get(block).into_iter().flatten();
        bodies.into_iter().all(|digest| life.durable_batches.contains(digest))
    }

    // --- the block log ---------------------------------------------------------------------------

    fn store(&mut self, outside: &mut Outside<'_>, batch: &Batch) -> Result<(), Halt> {
        self.append(outside, RECORD_BATCH, batch.bytes(), Waiting::Batch(batch.digest()))
    }

    fn write(&mut self, outside: &mut Outside<'_>, decided: Decided) -> Result<(), Halt> {
        if !self.is_byzantine {
            outside.oracles.decided(self.place, &decided.block)?;
        }
        let payload = block_record(&decided.block, &decided.certificate);
        self.append(outside, RECORD_BLOCK, &payload, Waiting::Block(Box::new(decided)))
    }

    fn append(
        &mut self,
        outside: &mut Outside<'_>,
        kind: u16,
        payload: &[u8],
        waiting: Waiting,
    ) -> Result<(), Halt> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let placed = append_block(&mut life.blocks, kind, payload)
            .map_err(|error| fate(self.place, self.disk.judge(&error)))?;
        life.waiting.push_back((placed, waiting));
        if hufu_types::planted!("acknowledged_before_durable") {
            return self.flushed(outside, true);
        }
        self.want_flush(outside);
        Ok(())
    }

    fn want_flush(&mut self, outside: &mut Outside<'_>) {
        let Some(life) = &mut self.life else { return };
        if !life.is_flushing {
            life.is_flushing = true;
            let delay = disk_nanos(outside, 4_000);
            outside.later.push((delay, Task::Flush));
        }
    }

    pub(super) fn flush(&mut self, outside: &mut Outside<'_>) -> Result<(), Halt> {
        let Some(life) = &mut self.life else { return Ok(()) };
        life.is_flushing = false;
        let flushed = life.blocks.flush().and_then(|_durable| life.blocks.prepare());
        flushed.map_err(|error| fate(self.place, self.disk.judge(&error)))?;
        self.flushed(outside, false)
    }

    /// Tells what is durable; `is_early` is the planted bug that does not ask the log.
    fn flushed(&mut self, outside: &mut Outside<'_>, is_early: bool) -> Result<(), Halt> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let durable = life.blocks.durable();
        while let Some((_, waiting)) =
            life.waiting.pop_front_if(|(at, _)| is_early || durable.covers(at))
        {
            match waiting {
                Waiting::Batch(digest) => {
                    life.durable_batches.insert(digest);
                    life.dissemination.durable(digest);
                }
                Waiting::Block(decided) => {
                    let height = decided.block.height();
                    if !is_early {
                        life.durable_height = height;
                    }
                    life.inbox.push_back(Input::HeightDurable(height));
                    life.to_execute.push_back(*decided);
                    let delay = outside.random.between(50, 3_000) * MICROSECOND;
                    outside.later.push((delay, Task::Execute));
                }
            }
        }
        Ok(())
    }

    // --- execution -------------------------------------------------------------------------------

    pub(super) fn execute(&mut self, outside: &mut Outside<'_>) -> Result<(), Halt> {
        let (material, place) = (outside.material, self.place);
        let Some(life) = &mut self.life else { return Ok(()) };
        let Some(decided) = life.to_execute.pop_front() else { return Ok(()) };
        let Decided { block, certificate, batches, .. } = decided;
        let (outcome, roots) = life.ledger.execute(material, &batches).map_err(|error| {
            Halt::from(Failure::new("execution", format!("node {place}: {error}")))
        })?;
        if !self.is_byzantine {
            let pair = (&block, batches.as_slice());
            outside.oracles.executed(material, place, pair, &outcome.receipts, roots)?;
        }
        let told: Vec<_> = effective(&outcome.receipts).collect();
        life.receipts.extend(told.iter().copied());
        life.chain.push(super::life::Executed { block, certificate, batches });
        life.inbox.push_back(roots_input(roots));
        let waiting = told.into_iter().filter(|(id, _)| life.waiters.remove(id));
        for (_, receipt) in waiting.collect::<Vec<_>>() {
            self.acknowledge(outside, receipt)?;
        }
        Ok(())
    }
}

fn note_text(notes: &mut Vec<String>, note: &Note) {
    notes.push(format!("{note:?}"));
}

/// How long a sync takes: up to `micros` microseconds, and now and then as long as a busy disk.
fn disk_nanos(outside: &mut Outside<'_>, micros: u64) -> u64 {
    let is_busy = outside.random.chance(40);
    let micros = if is_busy {
        outside.random.between(5_000, 60_000)
    } else {
        outside.random.between(30, micros)
    };
    micros * MICROSECOND
}
