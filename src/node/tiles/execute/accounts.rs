//! Questions about accounts, answered between two blocks from the newest state.
//!
//! ```text
//! question --> account, holdings, mandates of height h [--> state proofs --+
//!                                                                          |-> answer
//!              header that carries the state root of h, certificate -------+]
//! ```
//! The header is there already while the chain rests and its last blocks have changed no account.
//! Otherwise the proofs, which are of this state alone, wait for the block of height h+d, not
//! longer than [`CERTIFY_WAIT`] and not more than [`WAITING_BYTES_MAX`].

use std::collections::VecDeque;
use std::time::Duration;

use hufu_ledger::{AccountEntries, AccountQuery, StateKey};
use hufu_network::limits::{ACCOUNT_HOLDINGS_COUNT_MAX, ACCOUNT_MANDATES_COUNT_MAX};
use hufu_network::message::answer::AccountInfo;
use hufu_network::message::request::QueryAccount;
use hufu_runtime::clock::Nanos;
use hufu_storage::state_store::{Entry, Family};
use hufu_types::codec::index;
use hufu_types::{Address, BlockHeader, CommitCertificate, Digest};

use crate::account_view::AccountView;
use crate::executor::{ExecuteError, Executor};
use crate::messages::{Answer, AnswerBody, Asker, ExecutedBlock};

/// Time that a proof waits for its header: many block intervals, and shorter than a client's.
pub const CERTIFY_WAIT: Duration = Duration::from_secs(5);

/// Proofs that wait for their header, count and bytes together.
pub(super) const WAITING_COUNT_MAX: usize = 256;
pub(super) const WAITING_BYTES_MAX: usize = 2 << 20;

/// An answer whose header is still to come.
struct Waiting {
    link: usize,
    asker: Asker,
    info: Box<AccountInfo>,
    entries: AccountEntries,
    root: Digest,
    until: Nanos,
}

impl Waiting {
    fn bytes(&self) -> usize {
        let lists = size_of_val(self.info.holdings.as_slice());
        lists + size_of_val(self.info.mandates.as_slice()) + self.entries.size()
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Accounts {
    /// Header of the last block executed, with its certificate.
    tip: Option<(BlockHeader, CommitCertificate)>,
    /// By ascending height, and so by ascending time.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
}

impl Accounts {
    /// Nobody waits; the chain stands at `last`.
    pub(super) fn new(last: Option<&ExecutedBlock>) -> Self {
        let tip = last.map(|last| (*last.block.header(), last.certificate.clone()));
        Self { tip, ..Self::default() }
    }

    /// Takes a block that was just executed, and ends the waits for its header.
    pub(super) fn executed(
        &mut self,
        block: &ExecutedBlock,
        answers: &mut VecDeque<(usize, Answer)>,
    ) {
        let (header, certificate) = (*block.block.header(), block.certificate.clone());
        let certified = header.executed_height.get();
        while let Some(one) = self.take_first(|one| one.info.height <= certified) {
            assert_eq!(one.info.height, certified, "every height is certified in its turn");
            assert_eq!(one.root, header.state_root, "execution compared the roots");
            let Waiting { link, asker, mut info, entries, .. } = one;
            info.proof = entries.certify(&header, &certificate);
            answers.push_back((link, Answer { asker, body: AnswerBody::Account(info) }));
        }
        self.tip = Some((header, certificate));
    }

    /// Ends the waits that have taken too long; says whether there were any.
    pub(super) fn end_overdue(
        &mut self,
        now: Nanos,
        answers: &mut VecDeque<(usize, Answer)>,
    ) -> bool {
        let mut has_worked = false;
        while let Some(Waiting { link, asker, .. }) = self.take_first(|one| one.until <= now) {
            answers.push_back((link, Answer { asker, body: AnswerBody::Uncertified }));
            has_worked = true;
        }
        has_worked
    }

    /// When the oldest wait has taken too long.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.waiting.front().map(|one| one.until)
    }

    fn take_first(&mut self, is_due: impl FnOnce(&Waiting) -> bool) -> Option<Waiting> {
        let first = self.waiting.pop_front_if(|one| is_due(one))?;
        self.waiting_bytes -= first.bytes();
        Some(first)
    }

    /// The answer to a question; `None` when it waits for a header.
    ///
    /// # Errors
    /// A store that fails or is damaged.
    pub(super) fn answer(
        &mut self,
        executor: &mut Executor,
        query: &QueryAccount,
        from: (usize, Asker),
        now: Nanos,
    ) -> Result<Option<AnswerBody>, ExecuteError> {
        let Some(read) = Read::new(executor, query.address)? else {
            return Ok(Some(AnswerBody::TooLarge));
        };
        let mut info = Box::new(read.info(executor.height())?);
        if !query.with_proof {
            return Ok(Some(AnswerBody::Account(info)));
        }
        if let Some((header, certificate)) = &self.tip
            && let Some(entries) = read.prove_certified(executor, header)?
        {
            let Some(entries) = entries else { return Ok(Some(AnswerBody::TooLarge)) };
            info.height = header.executed_height.get();
            info.proof = entries.certify(header, certificate);
            return Ok(Some(AnswerBody::Account(info)));
        }
        if self.waiting.len() >= WAITING_COUNT_MAX {
            return Ok(Some(AnswerBody::Overloaded));
        }
        let root = executor.last_roots().state_root;
        let Some(entries) = read.prove(executor)? else { return Ok(Some(AnswerBody::TooLarge)) };
        let ((link, asker), until) = (from, now.after(CERTIFY_WAIT));
        let one = Waiting { link, asker, info, entries, root, until };
        if self.waiting_bytes + one.bytes() > WAITING_BYTES_MAX {
            return Ok(Some(AnswerBody::Overloaded));
        }
        self.waiting_bytes += one.bytes();
        self.waiting.push_back(one);
        Ok(None)
    }
}

/// The rows of an account.
struct Read {
    address: Address,
    account: Option<Vec<u8>>,
    holdings: Vec<Entry>,
    mandates: Vec<Entry>,
}

impl Read {
    /// Reads them; `None` if there are more than an answer holds.
    fn new(executor: &Executor, address: Address) -> Result<Option<Self>, ExecuteError> {
        let store = executor.store();
        let key = StateKey::Account(address).to_bytes();
        let Some(account) = store.get(Family::Accounts, key.as_slice())? else {
            let (holdings, mandates) = (Vec::new(), Vec::new());
            return Ok(Some(Self { address, account: None, holdings, mandates }));
        };
        let rows = |prefix: &[u8], max: u32| -> Result<Vec<Entry>, ExecuteError> {
            let rows = store.scan_prefix(Family::Accounts, prefix)?.take(index(max) + 1);
            let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
            // The store has an order of its own; an answer is ascending.
            rows.sort_unstable_by(|left, right| left.0.cmp(&right.0));
            Ok(rows)
        };
        let holdings = rows(&StateKey::holdings_prefix(&address), ACCOUNT_HOLDINGS_COUNT_MAX)?;
        let mandates = rows(&StateKey::mandates_prefix(&address), ACCOUNT_MANDATES_COUNT_MAX)?;
        let is_too_large = holdings.len() > index(ACCOUNT_HOLDINGS_COUNT_MAX)
            || mandates.len() > index(ACCOUNT_MANDATES_COUNT_MAX);
        let read = Self { address, account: Some(account), holdings, mandates };
        Ok(Some(read).filter(|_| !is_too_large))
    }

    fn info(&self, height: u64) -> Result<AccountInfo, ExecuteError> {
        let found = self.account.as_ref().map(|account| {
            let holdings = self.holdings.iter().map(|(key, value)| (key, value));
            let mandates = self.mandates.iter().map(|(key, value)| (key, value));
            AccountQuery::read(self.address, account, holdings, mandates)
        });
        let AccountView { state, holdings, mandates } =
            AccountView::new(found.transpose()?.as_ref());
        let (address, proof) = (self.address, Vec::new());
        Ok(AccountInfo { height, address, state, holdings, mandates, proof })
    }

    /// As [`Read::prove`], against the root that the last header carries: the newest root is the
    /// same, or no account has changed since then. `None`: neither is so.
    fn prove_certified(
        &self,
        executor: &mut Executor,
        last: &BlockHeader,
    ) -> Result<Option<Option<AccountEntries>>, ExecuteError> {
        if executor.last_roots().state_root == last.state_root {
            return self.prove(executor).map(Some);
        }
        executor.at_certified(|executor| self.prove(executor))
    }

    /// Every row with its state proof; `None` if that is more than an answer holds.
    fn prove(&self, executor: &Executor) -> Result<Option<AccountEntries>, ExecuteError> {
        let mut entries = AccountEntries::new(self.address);
        let key = StateKey::Account(self.address);
        let mut has_room = entries.push(&key, self.account.as_deref(), &executor.prove(&key)?);
        for (key, value) in self.holdings.iter().chain(&self.mandates) {
            let key = StateKey::parse(key)?;
            has_room = has_room && entries.push(&key, Some(value), &executor.prove(&key)?);
            if !has_room {
                return Ok(None);
            }
        }
        Ok(Some(entries).filter(|_| has_room))
    }
}
