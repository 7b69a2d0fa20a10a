//! Signing ahead of sending, on all cores, into memory that is used again.
//!
//! ```text
//! [Task] --pieces, one core each--> unsigned bytes -> digests -> SM2 signatures -> SignedChunk
//!                                                     in lanes   in lanes        '-> generator
//! ```
//!
//! A transaction is valid for at most 600 heights, so the caller signs only what the chain takes
//! within them: one chunk, just before it is sent. Signing takes some microseconds a transaction,
//! on cores that may be the measured node's too: who wants the highest rate signs while nothing is
//! sent.

use std::borrow::Borrow;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use zerocopy::little_endian::U128;

use hufu_crypto::{Digest, Hasher, Sm3, SoftwareSigner, software_provider_on};
use hufu_types::{ChainId, Leg, Operation, Signature, TransactionBuilder, TxId};

use crate::Error;
use crate::cast::{Actor, Cast};
use crate::lobster::Event;
use crate::setup::{cash, shares};
use crate::workload::{Action, Task, Trade};

/// Tasks of one piece of work: about a millisecond of signing, so progress is smooth and cores end
/// together, and enough to fill all lanes.
const PIECE_TASKS_COUNT: usize = 256;

/// Bytes to begin a piece's buffer with for each task; a settlement has 408.
const TASK_SIZE: usize = 448;

/// A transaction ready to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// All its bytes.
    pub bytes: &'a [u8],
    /// Its id.
    pub id: TxId,
}

#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    entries: Vec<(usize, TxId)>,
}

impl Piece {
    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
    }

    fn push(&mut self, unsigned: &[u8], id: TxId, signature: &Signature) {
        assert!(self.entries.len() < PIECE_TASKS_COUNT, "a piece that is full is left");
        self.bytes.extend_from_slice(unsigned);
        self.bytes.extend_from_slice(signature.as_bytes());
        self.entries.push((self.bytes.len(), id));
    }

    /// Signs the transactions of some actors side by side. A message is ZA || unsigned bytes: its
    /// digest is signed, that of what follows ZA is the id.
    fn sign(&mut self, hasher: &dyn Hasher, messages: &[(&Actor, Vec<u8>)]) -> Result<(), Error> {
        let unsigned = |at: usize| &messages[at].1[size_of::<Digest>()..];
        let mut digests = vec![Digest::ZERO; messages.len()];
        let hashed: Vec<&[u8]> = messages.iter().map(|(_, message)| message.as_slice()).collect();
        hasher.digest_many(&hashed, &mut digests);
        let items = messages.iter().zip(&digests);
        let items: Vec<_> =
            items.map(|((actor, _), digest)| (actor.signing().0, *digest)).collect();
        let mut signatures = vec![Signature([0; Signature::SIZE]); messages.len()];
        SoftwareSigner::sign_many_unverified(&items, &mut signatures)?;
        let hashed: Vec<&[u8]> = (0..messages.len()).map(unsigned).collect();
        hasher.digest_many(&hashed, &mut digests);
        for ((unsigned, id), signature) in hashed.iter().zip(digests).zip(&signatures) {
            self.push(unsigned, TxId(id), signature);
        }
        Ok(())
    }

    fn get(&self, place: usize) -> Option<Signed<'_>> {
        let (end, id) = *self.entries.get(place)?;
        let before = place.checked_sub(1).and_then(|place| self.entries.get(place));
        let start = before.map_or(0, |(end, _)| *end);
        Some(Signed { bytes: self.bytes.get(start..end)?, id })
    }
}

/// Signed transactions in the order of their tasks. Keeps its memory when it is cleared.
#[derive(Debug, Default)]
pub struct SignedChunk {
    pieces: Vec<Piece>,
    count: usize,
}

impl SignedChunk {
    /// An empty chunk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Transactions in the chunk.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Forgets the transactions, keeps the memory.
    pub fn clear(&mut self) {
        self.pieces.iter_mut().for_each(Piece::clear);
        self.count = 0;
    }

    /// The transaction at `index`, from 0.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Signed<'_>> {
        if index >= self.count {
            return None;
        }
        self.pieces.get(index / PIECE_TASKS_COUNT)?.get(index % PIECE_TASKS_COUNT)
    }

    /// All transactions in order.
    pub fn iter(&self) -> impl Iterator<Item = Signed<'_>> {
        (0..self.count).filter_map(|index| self.get(index))
    }

    /// Signs one more transaction at the end.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the signature could not be made.
    pub fn push(&mut self, builder: TransactionBuilder, actor: &Actor) -> Result<(), Error> {
        let unsigned = builder.unsigned();
        let signature = actor.sign(&unsigned)?;
        let place = self.count / PIECE_TASKS_COUNT;
        self.take_pieces(place + 1, PIECE_TASKS_COUNT);
        self.pieces[place].push(&unsigned, TxId(Sm3::of(&[&unsigned])), &signature);
        self.count += 1;
        Ok(())
    }

    /// Replaces the content by `tasks`, signed on all cores. `progress` hears from any of them how
    /// many are done.
    ///
    /// # Errors
    /// [`Error::Crypto`] when a signature could not be made; the chunk is then empty.
    pub fn sign<T: Borrow<Task> + Sync>(
        &mut self,
        cast: &Cast,
        chain_id: ChainId,
        valid_until: u64,
        tasks: &[T],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Error> {
        self.clear();
        let count = tasks.len().div_ceil(PIECE_TASKS_COUNT);
        self.take_pieces(count, tasks.len());
        let done = AtomicU64::new(0);
        let hasher = software_provider_on(cast.backend()).hasher;
        let pieces = self.pieces.par_iter_mut().zip(tasks.par_chunks(PIECE_TASKS_COUNT));
        let signed = pieces.try_for_each(|(piece, tasks)| {
            let message = |task: &Task| {
                let actor = cast.actor(task.role);
                let mut message = actor.signing().1.0.to_vec();
                message.extend(unsigned_bytes(task, cast, chain_id, valid_until));
                (actor, message)
            };
            let messages: Vec<_> = tasks.iter().map(|task| message(task.borrow())).collect();
            piece.sign(&*hasher, &messages)?;
            let part = u64::try_from(tasks.len()).unwrap_or(0);
            progress(done.fetch_add(part, Ordering::Relaxed) + part);
            Ok::<_, Error>(())
        });
        if signed.is_ok() {
            self.count = tasks.len();
        } else {
            self.clear();
        }
        signed
    }

    fn take_pieces(&mut self, count: usize, tasks_count: usize) {
        if self.pieces.len() < count {
            let tasks_count = tasks_count.min(PIECE_TASKS_COUNT);
            self.pieces.resize_with(count, || Piece {
                bytes: Vec::with_capacity(tasks_count * TASK_SIZE),
                entries: Vec::with_capacity(tasks_count),
            });
        }
    }
}

/// The bytes of a task's transaction that its actor signs.
#[must_use]
pub fn unsigned_bytes(task: &Task, cast: &Cast, chain_id: ChainId, valid_until: u64) -> Vec<u8> {
    let sender = *cast.actor(task.role).public_key();
    let builder = TransactionBuilder::new(chain_id, sender, task.nonce, valid_until);
    match task.action {
        Action::Notarise { event, row } => {
            let (digest, memo) = (event_digest(&event, row), event_memo(&event, row));
            builder.operation(Operation::Notarise { digest: &digest, memo: memo.as_bytes() })
        }
        Action::Settle(trade) => builder.operation(Operation::Settle(&legs(&trade, cast))),
    }
    .unsigned()
}

/// What a notarisation puts on record: SM3 of the event's canonical line and its row, as 8
/// little-endian bytes.
#[must_use]
pub fn event_digest(event: &Event, row: u64) -> hufu_types::Digest {
    Sm3::of(&[event.to_string().as_bytes(), &row.to_le_bytes()])
}

fn event_memo(event: &Event, row: u64) -> String {
    let mut memo = String::with_capacity(64);
    // Writing to a string cannot fail.
    let written = write!(memo, "AAPL {} {} row {row}", event.kind.text(), event.order);
    assert!(written.is_ok(), "a string takes what is written to it");
    memo
}

fn legs(trade: &Trade, cast: &Cast) -> [Leg; 2] {
    let broker = |index: u16| *cast.actor(crate::workload::Role::Broker(index)).address();
    let (seller, buyer) = (broker(trade.seller), broker(trade.buyer));
    let shares = Leg { asset: shares(), from: seller, to: buyer, amount: U128::new(trade.shares) };
    let cash = Leg { asset: cash(), from: buyer, to: seller, amount: U128::new(trade.cash) };
    [shares, cash]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hufu_crypto::Backend;
    use hufu_types::{RefusalCode, Transaction, TransactionView, verify_transactions};

    use super::*;
    use crate::replay::Replay;
    use crate::synthetic::SyntheticHour;

    fn tasks(count: u64) -> Vec<Task> {
        let events: Arc<[Event]> = SyntheticHour::new(3, count).collect::<Vec<_>>().into();
        Replay::new(events, 4, 1, 0).unwrap().collect()
    }

    #[test]
    fn signed_transactions_verify_and_say_what_their_tasks_say() {
        let cast = Cast::derive(&[8; 32], 4).unwrap();
        let tasks = tasks(600);
        let mut chunk = SignedChunk::new();
        let most = AtomicU64::new(0);
        let progress = |done: u64| {
            most.fetch_max(done, Ordering::Relaxed);
        };
        chunk.sign(&cast, ChainId::ZERO, 77, &tasks, &progress).unwrap();
        assert_eq!((chunk.count(), most.into_inner()), (600, 600));
        assert_eq!(chunk.get(600), None);
        for (signed, task) in chunk.iter().zip(&tasks) {
            let view = TransactionView::parse(signed.bytes).unwrap();
            assert_eq!(view.id(), signed.id);
            assert_eq!(view.header().nonce.get(), task.nonce);
            assert_eq!(view.header().valid_until.get(), 77);
            assert_eq!(view.sender(), *cast.actor(task.role).address());
            let operation = view.operations().next().unwrap();
            match (task.action, operation) {
                (Action::Notarise { event, row }, Operation::Notarise { digest, memo }) => {
                    assert_eq!(*digest, event_digest(&event, row));
                    assert!(memo.len() < 64);
                }
                (Action::Settle(trade), Operation::Settle(legs)) => {
                    assert_eq!(legs, self::legs(&trade, &cast));
                    assert_eq!((legs[0].from, legs[0].to), (legs[1].to, legs[1].from));
                }
                other => panic!("{other:?}"),
            }
        }
        let provider = hufu_crypto::software_provider();
        let parsed = chunk
            .iter()
            .take(40)
            .map(|signed| Transaction::parse(signed.bytes.into()).unwrap())
            .collect();
        let verdicts: Vec<Option<RefusalCode>> =
            verify_transactions(&provider, ChainId::ZERO, parsed)
                .into_iter()
                .map(|verdict| verdict.err().map(|(code, _)| code))
                .collect();
        assert_eq!(verdicts, vec![None; 40]);
    }

    #[test]
    fn every_back_end_signs_the_same() {
        let cast = || Cast::derive(&[8; 32], 4).unwrap();
        let tasks = tasks(300);
        let mut best = SignedChunk::new();
        best.sign(&cast(), ChainId::ZERO, 1, &tasks, &|_| ()).unwrap();
        for backend in [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()] {
            let Some(backend) = backend else { continue };
            let mut chunk = SignedChunk::new();
            chunk.sign(&cast().on(backend), ChainId::ZERO, 1, &tasks, &|_| ()).unwrap();
            assert!(chunk.iter().eq(best.iter()), "{}", backend.name());
        }
    }

    #[test]
    fn a_chunk_is_used_again() {
        let cast = Cast::derive(&[8; 32], 4).unwrap();
        let tasks = tasks(300);
        let mut chunk = SignedChunk::new();
        chunk.sign(&cast, ChainId::ZERO, 1, &tasks, &|_| ()).unwrap();
        let first: Vec<TxId> = chunk.iter().map(|signed| signed.id).collect();
        chunk.sign(&cast, ChainId::ZERO, 2, &tasks[..10], &|_| ()).unwrap();
        assert_eq!(chunk.count(), 10);
        assert!(chunk.iter().all(|signed| !first.contains(&signed.id)), "another last height");
        chunk.sign(&cast, ChainId::ZERO, 1, &tasks, &|_| ()).unwrap();
        assert!(chunk.iter().map(|signed| signed.id).eq(first), "the same tasks sign the same");
    }

    #[test]
    fn a_row_has_a_digest_of_its_own() {
        let event = crate::lobster::parse_line(b"34200,1,2,3,4,1", 1).unwrap();
        assert_ne!(event_digest(&event, 1), event_digest(&event, 2));
        let expected = Sm3::of(&[b"34200,1,2,3,4,1\x01\0\0\0\0\0\0\0"]);
        assert_eq!(event_digest(&event, 1), expected);
    }
}
