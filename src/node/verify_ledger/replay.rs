//! Executes the whole chain again, from the genesis, into a fresh store in a temporary folder, and
//! compares it with what the node's own store says at every height.

use std::sync::Arc;

use hufu_storage::state_store::{Family, StateStore, StateStoreOptions};
use hufu_types::Receipt;
use tempfile::TempDir;
use zerocopy::IntoBytes;

use super::chain::BlockAtHand;
use super::{Check, Part, State, VerifyError};
use crate::executor::{ExecuteError, Executor, Inline};
use crate::messages::ExecutedBlock;
use crate::metrics::Metrics;
use crate::state_keys::BlockRow;

/// Bytes of decoded values kept in memory.
const CACHE_BYTES: usize = 64 << 20;

/// Families that are equal byte for byte after the same blocks. The applied mark of the family
/// metadata is not among them: where a replay must begin depends on when the node looked.
const COMPARED: [Family; 7] = [
    Family::Accounts,
    Family::Nonces,
    Family::Buckets,
    Family::Blocks,
    Family::Transactions,
    Family::Receipts,
    Family::Configuration,
];

/// See the module.
pub(super) struct Replay {
    executor: Executor,
    is_stopped: bool,
    /// Removed with everything in it when the replay ends.
    _scratch: TempDir,
}

impl Replay {
    pub(super) fn new(check: &Check<'_>, state: Option<&State>) -> Result<Self, VerifyError> {
        let host =
            |cause| VerifyError::Host { what: "temporary folder (TMPDIR)".to_owned(), cause };
        let scratch = tempfile::Builder::new().prefix("hufu-replay-").tempdir().map_err(host)?;
        let mut options = StateStoreOptions::new(scratch.path().join("state"));
        // What is encrypted on one disk must not be in clear on another; and both stores have their
        // entries in the same order, though the node may have got a younger data key since.
        options.keys = check.options.store.keys.clone();
        options.names_key = state.and_then(|state| state.store.names_key());
        let store = Arc::new(StateStore::open(&options)?);
        let executor = Executor::open(
            check.genesis,
            check.provider.clone(),
            store,
            CACHE_BYTES,
            Arc::new(Metrics::default()),
        );
        match executor {
            Ok(executor) => Ok(Self { executor, is_stopped: false, _scratch: scratch }),
            Err(ExecuteError::Store(error)) => Err(error.into()),
            Err(error) => unreachable!("an empty store holds nothing that is damaged: {error}"),
        }
    }

    /// Executes the next block; what differs is a fault, and a header that differs ends the replay.
    pub(super) fn block(
        &mut self,
        check: &mut Check<'_>,
        state: Option<&State>,
        at_hand: BlockAtHand,
    ) {
        if self.is_stopped {
            return;
        }
        let place = at_hand.place;
        match self.executor.execute(at_hand.durable, &mut Inline) {
            Ok(executed) => {
                check.report.counts.replayed += 1;
                if let Some(state) = state {
                    self.compare(check, state, &executed);
                }
            }
            Err(error) => {
                self.is_stopped = true;
                check.report.fault(Part::BlockLog, place, format!("replay: {error}"));
            }
        }
    }

    fn compare(&self, check: &mut Check<'_>, state: &State, executed: &ExecutedBlock) {
        let height = executed.roots.height;
        if height > state.height() {
            return;
        }
        let key = height.to_be_bytes();
        let stored = state.store.get(Family::Blocks, &key).ok().flatten();
        let stored = stored.and_then(|row| BlockRow::parse(height, &row).ok());
        if let Some(row) = stored.filter(|row| row.roots != executed.roots) {
            let what = format!(
                "replay: state root {} and receipts root {}, the store says {} and {}",
                executed.roots.state_root,
                executed.roots.receipts_root,
                row.roots.state_root,
                row.roots.receipts_root
            );
            check.report.fault(Part::State, format!("blocks key height {height}"), what);
        }
        let receipts = state.store.get(Family::Receipts, &key).ok().flatten();
        let own = executed.receipts.iter().flat_map(Receipt::as_bytes);
        if receipts.is_some_and(|stored| !stored.iter().eq(own)) {
            let what = "replay: receipts differ from the stored ones";
            check.report.fault(Part::State, format!("receipts key height {height}"), what);
        }
        if height == state.height() {
            for family in COMPARED {
                compare_family(check, &state.store, self.executor.store(), family);
            }
        }
    }
}

/// Compares a whole family entry by entry; both stores have the same order.
fn compare_family(check: &mut Check<'_>, stored: &StateStore, fresh: &StateStore, family: Family) {
    let order = |key: &[u8]| fresh.order(family, key);
    let (stored, fresh) = match (stored.iterate(family, &[]), fresh.iterate(family, &[])) {
        (Ok(stored), Ok(fresh)) => (stored, fresh),
        (Err(error), _) | (_, Err(error)) => return check.store_fault(&error),
    };
    // An entry that cannot be read is reported by itself and then counts as missing.
    let mut stored = stored.flatten().peekable();
    let mut fresh = fresh.flatten().peekable();
    loop {
        let (key, what) = match (stored.peek(), fresh.peek()) {
            (None, None) => return,
            (Some(left), Some(right)) if left == right => {
                stored.next();
                fresh.next();
                continue;
            }
            (Some((left, _)), Some((right, _))) if left == right => {
                fresh.next();
                (stored.next(), "replay: value differs")
            }
            (Some((left, _)), Some((right, _))) if order(left) < order(right) => {
                (stored.next(), "replay: is not in the state of this chain")
            }
            (Some(_), None) => (stored.next(), "replay: is not in the state of this chain"),
            (_, Some(_)) => (fresh.next(), "replay: is missing"),
        };
        let Some((key, _)) = key else { continue };
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        check.report.fault(Part::State, format!("{} key 0x{key}", family.name()), what);
    }
}
