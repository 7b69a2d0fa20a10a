//! The query tile: answers what needs the disk, on a thread of its own.
//!
//! ```text
//! ingress --Question--> query (recent blocks in memory, else store and log) --Answer--> ingress
//! execute --ExecutedBlock--> query
//! ```
//!
//! It owns a reader of the log and the last blocks executed; it changes nothing. A slow disk delays
//! queries only.

use hufu_crypto::Provider;
use hufu_network::limits::BLOCK_IDS_COUNT_MAX;
use hufu_network::message::answer::{BlockInfo, TransactionInfo};
use hufu_network::message::request::{QueryBlock, QueryTransaction, Wait};
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};
use hufu_types::codec::{index, length_u32};
use hufu_types::{Strength, TxId};

use crate::block_window::BlockWindow;
use crate::history::History;
use crate::messages::{Answer, AnswerBody, Executed, Query, Question};
use crate::proofs::ProofSource;
use crate::recovery::RecoverError;

/// The links of the query tile.
#[derive(Debug)]
pub struct QueryLinks {
    /// Blocks as they are executed.
    pub executed: Consumer<Executed>,
    /// Questions from each ingress tile.
    pub questions: Vec<Consumer<Question>>,
    /// Answers to each ingress tile, in the same order.
    pub answers: Vec<Producer<Answer>>,
}

/// See the module.
pub struct QueryTile {
    history: History,
    provider: Provider,
    lag: u64,
    height: u64,
    recent: BlockWindow,
    links: QueryLinks,
    held: Option<(usize, Answer)>,
    is_stopping: bool,
}

impl QueryTile {
    /// A tile on a recovered chain whose last executed height is `height`.
    #[must_use]
    pub fn new(
        history: History,
        provider: Provider,
        lag: u64,
        height: u64,
        links: QueryLinks,
    ) -> Self {
        assert_eq!(links.questions.len(), links.answers.len(), "whoever asks is answered");
        Self {
            history,
            provider,
            lag,
            height,
            recent: BlockWindow::new(1),
            links,
            held: None,
            is_stopping: false,
        }
    }

    fn take_executed(&mut self) -> bool {
        let mut has_worked = false;
        while let Some(executed) = self.links.executed.pop() {
            self.height = executed.block.height();
            self.recent.push(executed);
            has_worked = true;
        }
        has_worked
    }

    fn block(&mut self, height: u64) -> Result<Option<Executed>, RecoverError> {
        match self.recent.get(height) {
            Some(executed) => Ok(Some(executed)),
            None => self.history.block(height),
        }
    }

    fn answer(&mut self, query: Query) -> Result<AnswerBody, RecoverError> {
        match query {
            Query::Account(_) => unreachable!("ingress sends accounts to the execute tile"),
            Query::Block(query) => self.answer_block(&query),
            Query::Transaction(query) => self.answer_transaction(&query),
            Query::Wait(wait) => self.answer_wait(wait),
            Query::History { height } => {
                Ok(self.block(height)?.map_or(AnswerBody::NoHistory(height), AnswerBody::History))
            }
            Query::Decided { height } => {
                let decided = match self.recent.get(height) {
                    Some(recent) => Some((recent.block.clone(), recent.certificate.clone())),
                    None => self.history.decided(height)?,
                };
                let answer = decided.map(|decided| AnswerBody::Decided(Box::new(decided)));
                Ok(answer.unwrap_or(AnswerBody::NoHistory(height)))
            }
            Query::Bodies { height } => {
                let batches = match self.recent.get(height) {
                    Some(recent) => Some(recent.batches.clone()),
                    None => self.history.bodies(height)?,
                };
                let answer = batches.map(|batches| AnswerBody::Bodies { height, batches });
                Ok(answer.unwrap_or(AnswerBody::NoHistory(height)))
            }
        }
    }

    fn answer_block(&mut self, query: &QueryBlock) -> Result<AnswerBody, RecoverError> {
        let height = query.height.unwrap_or(self.height);
        let Some(executed) = self.block(height)? else { return Ok(AnswerBody::NotFound) };
        let (mut block, mut certificate) = (Vec::new(), Vec::new());
        executed.block.write(&mut block);
        executed.certificate.write(&mut certificate);
        let ids_total = length_u32(&executed.receipts);
        let ids_from = query.ids_from.min(ids_total);
        let page = executed.receipts.iter().skip(index(ids_from));
        let ids: Vec<TxId> =
            page.take(index(BLOCK_IDS_COUNT_MAX)).map(|receipt| receipt.id).collect();
        Ok(AnswerBody::Block(Box::new(BlockInfo {
            height: self.height,
            block,
            certificate,
            ids_total,
            ids_from,
            ids,
        })))
    }

    /// The block a transaction is in, its place there, and the block that certifies it if there is
    /// one.
    fn locate(
        &mut self,
        id: &TxId,
    ) -> Result<Option<(Executed, u32, Option<Executed>)>, RecoverError> {
        let Some((height, place)) = self.history.find(id)? else { return Ok(None) };
        let Some(executed) = self.block(height)? else { return Ok(None) };
        let certifier = self.block(height + self.lag)?;
        Ok(Some((executed, place, certifier)))
    }

    fn answer_transaction(&mut self, query: &QueryTransaction) -> Result<AnswerBody, RecoverError> {
        let Some((executed, place, certifier)) = self.locate(&query.id)? else {
            return Ok(AnswerBody::NotFound);
        };
        let strength = if certifier.is_some() { Strength::Certified } else { Strength::Committed };
        let receipt = executed.receipts.get(index(place)).copied();
        let Some(receipt) = receipt else { return Ok(AnswerBody::NotFound) };
        let transaction = transaction_bytes(&executed, place).unwrap_or_default();
        let proof = if query.with_proof {
            self.prove(executed, place, certifier.as_ref())
        } else {
            Vec::new()
        };
        Ok(AnswerBody::Transaction(Box::new(TransactionInfo {
            height: self.height,
            strength,
            receipt,
            transaction,
            proof,
        })))
    }

    fn answer_wait(&mut self, wait: Wait) -> Result<AnswerBody, RecoverError> {
        // The store holds every block that was handed out, and so at least this height.
        let height = self.height;
        let Some((executed, place, certifier)) = self.locate(&wait.id)? else {
            return Ok(AnswerBody::NotIncluded { wait, height });
        };
        if wait.strength == Strength::Certified && certifier.is_none() {
            return Ok(AnswerBody::NotCertified(wait));
        }
        let certifier = certifier.filter(|_| wait.strength == Strength::Certified);
        let receipt = executed.receipts.get(index(place)).copied();
        let Some(receipt) = receipt else {
            return Ok(AnswerBody::NotIncluded { wait, height });
        };
        let proof = if wait.with_proof {
            self.prove(executed, place, certifier.as_ref())
        } else {
            Vec::new()
        };
        Ok(AnswerBody::Receipt { strength: wait.strength, receipt: Box::new(receipt), proof })
    }

    fn prove(&self, executed: Executed, place: u32, certifier: Option<&Executed>) -> Vec<u8> {
        let source = ProofSource::new(executed, &*self.provider.hasher);
        let proof = source.prove(place, certifier.map(|certifier| &**certifier));
        proof.map(|proof| proof.to_bytes()).unwrap_or_default()
    }

    fn deliver(&mut self) -> bool {
        let Some((link, answer)) = self.held.take() else { return true };
        let Some(producer) = self.links.answers.get_mut(link) else { return true };
        self.held = producer.try_push(answer).err().map(|answer| (link, answer));
        self.held.is_none()
    }
}

/// The bytes of the transaction at `place` of a block.
fn transaction_bytes(executed: &Executed, place: u32) -> Option<Vec<u8>> {
    let mut place = index(place);
    for batch in &executed.batches {
        if place < batch.entries().len() {
            return Some(batch.transaction(place)?.bytes().to_vec());
        }
        place -= batch.entries().len();
    }
    None
}

impl Tile for QueryTile {
    fn name(&self) -> &'static str {
        "query"
    }

    fn poll(&mut self, _now: Nanos) -> Result<Progress, Fatal> {
        let mut has_worked = self.take_executed();
        if !self.deliver() {
            return Ok(Progress::PushedBack);
        }
        for link in 0..self.links.questions.len() {
            let Some(question) = self.links.questions[link].pop() else { continue };
            let body = self.answer(question.query)?;
            self.held = Some((link, Answer { asker: question.asker, body }));
            if !self.deliver() {
                return Ok(Progress::PushedBack);
            }
            has_worked = true;
        }
        if has_worked {
            return Ok(Progress::Busy);
        }
        let is_finished = self.is_stopping
            && self.links.executed.is_finished()
            && self.links.questions.iter().all(Consumer::is_finished);
        Ok(if is_finished { Progress::Done } else { Progress::Idle })
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}
