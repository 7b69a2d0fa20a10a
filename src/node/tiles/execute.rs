//! The execute tile: ledger state, state root, receipts.
//!
//! ```text
//! persist-log --DurableBlock--> execute --ExecutedRoots--> consensus (for the header of h+d)
//!                                       \-ExecutedBlock--> ingress (receipts, events), query
//! ingress --Question--> execute --Answer--> ingress        (accounts, between two blocks)
//! ```
//!
//! It owns the state: what it holds in memory is a bounded cache and the inner nodes of the state
//! tree. Blocks come in order and are on disk here. A root that differs from the one in a header
//! stops the node. Questions are in `accounts`.

use std::collections::VecDeque;
use std::sync::Arc;

use hufu_ledger::plan::GroupsOutcome;
use hufu_ledger::{Corrupt, Loaded, Plan};
use hufu_runtime::clock::Nanos;
use hufu_runtime::link::{Consumer, Producer};
use hufu_runtime::tile::{Fatal, Progress, Tile};

use crate::executor::{Executor, GroupRunner};
use crate::messages::{Answer, DurableBlock, Executed, ExecutedRoots, Query, Question};

mod accounts;
#[cfg(test)]
mod tests;

use accounts::Accounts;
pub use accounts::CERTIFY_WAIT;

/// Questions of one link answered between two blocks at most, so that queries never starve
/// execution. A proof, which reads and hashes as much as many of them, is the last.
const QUESTIONS_PER_POLL_MAX: usize = 16;

/// Bytes that the tile takes beside the executor's: answers that wait for their header.
#[must_use]
pub fn memory_bytes() -> u64 {
    u64::try_from(accounts::WAITING_BYTES_MAX).unwrap_or(u64::MAX)
}

/// A portion of a block for a worker.
#[derive(Debug)]
pub struct Portion {
    plan: Arc<Plan>,
    loaded: Arc<Loaded>,
    groups: Vec<u32>,
}

/// What a worker gave back.
pub type PortionOutcome = Result<GroupsOutcome, Corrupt>;

/// Both ends that lead to one worker.
#[derive(Debug)]
pub struct WorkerLink {
    /// Work for it.
    pub portions: Producer<Portion>,
    /// Its results.
    pub outcomes: Consumer<PortionOutcome>,
}

/// Spreads the groups of a block over the workers and the execute tile itself.
#[derive(Debug)]
pub struct Workers {
    links: Vec<WorkerLink>,
}

impl GroupRunner for Workers {
    fn run(
        &mut self,
        plan: &Arc<Plan>,
        loaded: &Arc<Loaded>,
    ) -> Result<Vec<GroupsOutcome>, Corrupt> {
        let mut portions = plan.portions(self.links.len() + 1).into_iter();
        let own = portions.next().unwrap_or_default();
        let mut given = 0;
        let mut inline = own;
        for (link, groups) in self.links.iter_mut().zip(portions) {
            let portion = Portion { plan: Arc::clone(plan), loaded: Arc::clone(loaded), groups };
            match link.portions.try_push(portion) {
                Ok(()) => given += 1,
                // The link holds one portion and a worker has given back its last one before;
                // still, nothing is lost.
                Err(portion) => inline.extend(portion.groups),
            }
        }
        let mut outcomes = vec![plan.execute(loaded, &inline)?];
        for link in self.links.iter_mut().take(given) {
            outcomes.push(wait_for(&mut link.outcomes)?);
        }
        Ok(outcomes)
    }
}

/// Spins until the worker answers: it runs on a core of its own, and a block waits for it.
fn wait_for(outcomes: &mut Consumer<PortionOutcome>) -> PortionOutcome {
    loop {
        if let Some(outcome) = outcomes.pop() {
            return outcome;
        }
        assert!(!outcomes.is_finished(), "a worker ends only after the execute tile");
        std::hint::spin_loop();
    }
}

/// A worker of the execute tile; it owns nothing.
#[derive(Debug)]
pub struct WorkerTile {
    name: String,
    portions: Consumer<Portion>,
    outcomes: Producer<PortionOutcome>,
    held: Option<PortionOutcome>,
    is_stopping: bool,
}

impl WorkerTile {
    /// The worker with this index.
    #[must_use]
    pub fn new(
        index: usize,
        portions: Consumer<Portion>,
        outcomes: Producer<PortionOutcome>,
    ) -> Self {
        Self {
            name: format!("execute-worker-{index}"),
            portions,
            outcomes,
            held: None,
            is_stopping: false,
        }
    }
}

impl Tile for WorkerTile {
    fn name(&self) -> &str {
        &self.name
    }

    fn poll(&mut self, _now: Nanos) -> Result<Progress, Fatal> {
        if let Some(outcome) = self.held.take()
            && let Err(back) = self.outcomes.try_push(outcome)
        {
            self.held = Some(back);
            return Ok(Progress::PushedBack);
        }
        let Some(portion) = self.portions.pop() else {
            let is_finished = self.is_stopping && self.portions.is_finished();
            return Ok(if is_finished { Progress::Done } else { Progress::Idle });
        };
        let outcome = portion.plan.execute(&portion.loaded, &portion.groups);
        self.held = self.outcomes.try_push(outcome).err();
        Ok(Progress::Busy)
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

/// The links of the execute tile.
#[derive(Debug)]
pub struct ExecuteLinks {
    /// Blocks to execute.
    pub blocks: Consumer<DurableBlock>,
    /// Questions about accounts, from each ingress tile.
    pub questions: Vec<Consumer<Question>>,
    /// Roots for the headers to come.
    pub to_consensus: Producer<ExecutedRoots>,
    /// Results, to each ingress tile and to the query tile.
    pub results: Vec<Producer<Executed>>,
    /// Answers to each ingress tile, in the order of `questions`.
    pub answers: Vec<Producer<Answer>>,
    /// To the workers; none on small machines.
    pub workers: Vec<WorkerLink>,
}

/// See the module.
pub struct ExecuteTile {
    executor: Executor,
    runner: Workers,
    blocks: Consumer<DurableBlock>,
    questions: Vec<Consumer<Question>>,
    to_consensus: Producer<ExecutedRoots>,
    results: Vec<Producer<Executed>>,
    answers: Vec<Producer<Answer>>,
    held_roots: Option<ExecutedRoots>,
    /// Results not taken yet, by link.
    held_results: VecDeque<(usize, Executed)>,
    held_answers: VecDeque<(usize, Answer)>,
    accounts: Accounts,
    is_stopping: bool,
}

impl ExecuteTile {
    /// A tile on a recovered state, whose last block is `last`.
    #[must_use]
    pub fn new(executor: Executor, last: Option<&Executed>, links: ExecuteLinks) -> Self {
        assert_eq!(links.questions.len(), links.answers.len(), "whoever asks is answered");
        Self {
            executor,
            runner: Workers { links: links.workers },
            blocks: links.blocks,
            questions: links.questions,
            to_consensus: links.to_consensus,
            results: links.results,
            answers: links.answers,
            held_roots: None,
            held_results: VecDeque::new(),
            held_answers: VecDeque::new(),
            accounts: Accounts::new(last.map(AsRef::as_ref)),
            is_stopping: false,
        }
    }

    /// Passes results on; `false` while a link downstream is full.
    fn deliver(&mut self) -> bool {
        if let Some(roots) = self.held_roots.take() {
            self.held_roots = self.to_consensus.try_push(roots).err();
        }
        deliver(&mut self.held_results, &mut self.results);
        deliver(&mut self.held_answers, &mut self.answers);
        self.held_roots.is_none() && self.held_results.is_empty() && self.held_answers.is_empty()
    }

    fn execute(&mut self) -> Result<bool, Fatal> {
        let Some(durable) = self.blocks.pop() else { return Ok(false) };
        let executed: Executed = Arc::new(self.executor.execute(durable, &mut self.runner)?);
        self.held_roots = Some(executed.roots);
        self.accounts.executed(&executed, &mut self.held_answers);
        self.held_results.extend((0..self.results.len()).map(|link| (link, Arc::clone(&executed))));
        Ok(true)
    }

    fn answer(&mut self, now: Nanos) -> Result<bool, Fatal> {
        let mut has_answered = self.accounts.end_overdue(now, &mut self.held_answers);
        for link in 0..self.questions.len() {
            for _ in 0..QUESTIONS_PER_POLL_MAX {
                let Some(question) = self.questions[link].pop() else { break };
                let Query::Account(query) = question.query else {
                    unreachable!("ingress sends everything else to the query tile")
                };
                let asker = question.asker;
                let body = self.accounts.answer(&mut self.executor, &query, (link, asker), now)?;
                let answer = body.map(|body| (link, Answer { asker, body }));
                self.held_answers.extend(answer);
                has_answered = true;
                if query.with_proof {
                    break;
                }
            }
        }
        Ok(has_answered)
    }

    fn is_finished(&self) -> bool {
        self.is_stopping
            && self.blocks.is_finished()
            && self.questions.iter().all(Consumer::is_finished)
    }
}

/// Pushes held items to their links until one is full.
fn deliver<T>(held: &mut VecDeque<(usize, T)>, links: &mut [Producer<T>]) {
    while let Some((link, item)) = held.pop_front() {
        let Some(producer) = links.get_mut(link) else { continue };
        if let Err(back) = producer.try_push(item) {
            held.push_front((link, back));
            return;
        }
    }
}

impl Tile for ExecuteTile {
    fn name(&self) -> &'static str {
        "execute"
    }

    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        if !self.deliver() {
            return Ok(Progress::PushedBack);
        }
        let has_executed = self.execute()?;
        let has_answered = self.answer(now)?;
        self.deliver();
        if has_executed || has_answered {
            return Ok(Progress::Busy);
        }
        if self.is_finished() {
            self.executor.store().flush()?;
            return Ok(Progress::Done);
        }
        Ok(Progress::Idle)
    }

    fn deadline(&self) -> Option<Nanos> {
        self.accounts.deadline()
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }
}
