//! The state: every entry is in the row of its place with the hash of its value, every row entry is
//! in the state, rows and forks hash to the applied root and none is left over, the expiry index is
//! canonical, assets add up. Nonces are entries that only the expiry index spells out.
//!
//! Entries come in the order of the store, rows in that of key hashes. They are joined in passes,
//! each over a range of key hashes small enough to be sorted in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use hufu_ledger::bucket::{Content, RowEntry, bucket_of};
use hufu_ledger::changes::row_entries;
use hufu_ledger::expiry::chunk_nonces;
use hufu_ledger::{
    AuditError, Expired, ExpiryKey, Nonce, Place, StateKey, StateTree, StateValue, TreeCheck, audit,
};
use hufu_storage::state_store::{Entry, Family, StateStore};
use hufu_types::Digest;

use super::report::FAULTS_LISTED_MAX;
use super::{Check, Part, State};

/// Entries sorted in memory at a time; about 130 bytes each.
const PASS_COUNT: u64 = 1 << 20;
/// Entries hashed together.
const CHUNK_COUNT: usize = 4_096;

type StorageResult<T> = Result<T, hufu_storage::Error>;

/// Checks the whole state.
pub(super) fn verify(check: &mut Check<'_>, state: &State) {
    check.progress("state store", 0, 0);
    match state.store.verify(FAULTS_LISTED_MAX) {
        Ok(faults) => {
            for fault in faults {
                check.report.fault(Part::State, "reading", fault.reason);
            }
        }
        Err(error) => check.store_fault(&error),
    }
    for verified in [root(check, state), join(check, &state.store), add_up(check, &state.store)] {
        if let Err(error) = verified {
            check.store_fault(&error);
        }
    }
    if let Err(error) = expiry(check, state) {
        check.store_fault(&error);
    }
}

/// All entries of the state: the stored values, then the nonces as the expiry index has them.
/// Chunks that cannot be read are left out here; [`expiry`] reports them.
fn entries(store: &StateStore) -> StorageResult<impl Iterator<Item = StorageResult<Entry>> + '_> {
    let accounts = store.iterate(Family::Accounts, &[])?;
    let nonces = store.iterate(Family::Nonces, &[])?.flat_map(|entry| match entry {
        Ok((key, value)) => nonce_entries(&key, &value).into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error)],
    });
    Ok(accounts.chain(nonces))
}

fn nonce_entries(key: &[u8], chunk: &[u8]) -> Vec<Entry> {
    let nonces = ExpiryKey::parse(key).and_then(|key| chunk_nonces(&key, chunk));
    let entry = |(key, nonce): (StateKey, Nonce)| {
        let value = StateValue::Nonce(nonce).to_bytes();
        (key.to_bytes().as_slice().into(), value.as_slice().into())
    };
    nonces.unwrap_or_default().into_iter().map(entry).collect()
}

/// Every record of the bucket tree is what the fork above it says, and the buckets hash to the root
/// that the applied mark names.
fn root(check: &mut Check<'_>, state: &State) -> StorageResult<()> {
    let (chain_id, log2) = (check.genesis.chain_id(), check.genesis.parameters.state_buckets_log2);
    let hasher = Arc::clone(&check.provider.hasher);
    let mut records = TreeCheck::new(chain_id, log2, &*hasher);
    for entry in state.store.iterate(Family::Buckets, &[])? {
        let (key, record) = entry?;
        match Place::parse(&key, log2) {
            Ok(place) => records.add(place, &record),
            Err(cause) => check.report.fault(Part::State, "buckets", cause),
        }
        for cause in records.faults() {
            check.report.fault(Part::State, "buckets", cause);
        }
    }
    let (tree, counts, faults) = records.finish();
    for cause in faults {
        check.report.fault(Part::State, "buckets", cause);
    }
    check.report.counts.bucket_rows = counts.rows;
    check.report.counts.bucket_forks = counts.forks;
    let empty = || StateTree::new(chain_id, log2, &*hasher).root();
    let stated = state.mark.map_or_else(empty, |mark| mark.state_root);
    if tree.root() != stated {
        let what =
            format!("records hash to state root {}, the applied mark says {stated}", tree.root());
        check.report.fault(Part::State, "buckets", what);
    }
    Ok(())
}

/// Matches every entry with its row entry and the other way round.
fn join(check: &mut Check<'_>, store: &StateStore) -> StorageResult<()> {
    let mut count: u64 = 0;
    for entry in entries(store)? {
        entry?;
        count += 1;
    }
    check.report.counts.state_entries = count;
    let passes = count.div_ceil(PASS_COUNT).max(1).next_power_of_two();
    // A pass takes whole buckets; a genesis has at least sixteen.
    let passes_log2 = u8::try_from(passes.trailing_zeros()).unwrap_or(u8::MAX);
    let passes_log2 = passes_log2.min(check.genesis.parameters.state_buckets_log2);
    for pass in 0..1_u32 << passes_log2 {
        let hashed = hashed(check, store, passes_log2, pass)?;
        match_rows(check, store, &hashed, passes_log2, pass)?;
        check.progress("state entries", u64::from(pass) + 1, 1 << passes_log2);
        if check.is_interrupted {
            return Ok(());
        }
    }
    Ok(())
}

/// The entries whose key hashes belong to a pass, ascending by key hash. What is no entry at all is
/// reported in the first pass.
fn hashed(
    check: &mut Check<'_>,
    store: &StateStore,
    passes_log2: u8,
    pass: u32,
) -> StorageResult<Vec<(RowEntry, StateKey)>> {
    let chain_id = check.genesis.chain_id();
    let mut found = Vec::new();
    let mut chunk: Vec<(StateKey, Vec<u8>)> = Vec::with_capacity(CHUNK_COUNT);
    let mut all = entries(store)?;
    loop {
        let next = all.next().transpose()?;
        let is_last = next.is_none();
        if let Some((key, value)) = next {
            match StateKey::parse(&key) {
                Ok(key) => {
                    if pass == 0
                        && let Err(cause) = StateValue::parse(&key, &value)
                    {
                        check.report.fault(Part::State, format!("entry {key}"), cause);
                    }
                    chunk.push((key, value));
                }
                Err(cause) if pass == 0 => {
                    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                    check.report.fault(Part::State, format!("entry key 0x{key}"), cause);
                }
                Err(_) => {}
            }
        }
        if chunk.len() == CHUNK_COUNT || is_last {
            let rows = row_entries(chain_id, &chunk, &*check.provider.hasher);
            let keyed = rows.into_iter().zip(chunk.iter().map(|(key, _)| *key));
            found.extend(keyed.filter(|(row, _)| bucket_of_pass(&row.key, passes_log2) == pass));
            chunk.clear();
        }
        if is_last {
            break;
        }
    }
    found.sort_unstable_by_key(|(row, _)| row.key.0);
    Ok(found)
}

/// The pass of a key hash: its top bits.
fn bucket_of_pass(key: &Digest, passes_log2: u8) -> u32 {
    if passes_log2 == 0 { 0 } else { bucket_of(key, passes_log2) }
}

/// Walks the rows of a pass beside its entries.
fn match_rows(
    check: &mut Check<'_>,
    store: &StateStore,
    hashed: &[(RowEntry, StateKey)],
    passes_log2: u8,
    pass: u32,
) -> StorageResult<()> {
    let log2 = check.genesis.parameters.state_buckets_log2;
    let shift = log2.saturating_sub(passes_log2);
    let mut rest = hashed;
    for entry in store.iterate(Family::Buckets, &(pass << shift).to_be_bytes())? {
        let (key, record) = entry?;
        // What is no place or no record has been reported, and so has what it lacks.
        let Ok(place) = Place::parse(&key, log2) else { continue };
        if place.bucket() >> shift != pass {
            break;
        }
        let Ok(Content::Row(row)) = Content::parse(&place, &record) else { continue };
        let before = rest.partition_point(|(entry, _)| place.order(&entry.key).is_lt());
        let (rowless, behind) = rest.split_at(before);
        report_rowless(check, rowless);
        let own = behind.partition_point(|(entry, _)| place.contains(&entry.key));
        let (own, behind) = behind.split_at(own);
        match_row(check, place, row, own);
        rest = behind;
    }
    report_rowless(check, rest);
    Ok(())
}

fn report_rowless(check: &mut Check<'_>, entries: &[(RowEntry, StateKey)]) {
    for (_, key) in entries {
        check.report.fault(Part::State, format!("entry {key}"), "is in no row of the bucket tree");
    }
}

/// One row and the entries of its place, both ascending by key hash.
fn match_row(
    check: &mut Check<'_>,
    place: Place,
    row: &[RowEntry],
    entries: &[(RowEntry, StateKey)],
) {
    let (mut row, mut entries) = (row.iter().peekable(), entries.iter().peekable());
    loop {
        match (row.peek(), entries.peek()) {
            (None, None) => return,
            (Some(stated), Some((found, key))) if stated.key == found.key => {
                if stated.value != found.value {
                    let what = format!(
                        "value hashes to {}, the row of {place} says {}",
                        found.value, stated.value
                    );
                    check.report.fault(Part::State, format!("entry {key}"), what);
                }
                row.next();
                entries.next();
            }
            (Some(stated), found) if found.is_none_or(|(found, _)| stated.key.0 < found.key.0) => {
                let what =
                    format!("names an entry that is not in the state, key hash {}", stated.key);
                check.report.fault(Part::State, format!("row of {place}"), what);
                row.next();
            }
            (_, found) => {
                if let Some(entry) = found {
                    report_rowless(check, core::slice::from_ref(*entry));
                }
                entries.next();
            }
        }
    }
}

/// Sums over the whole state: holdings, supplies, counts.
fn add_up(check: &mut Check<'_>, store: &StateStore) -> StorageResult<()> {
    check.progress("audit", 0, 0);
    let mut failed = None;
    let entries = store.iterate(Family::Accounts, &[])?.map_while(|entry| match entry {
        Ok(entry) => Some(entry),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let totals = audit(entries);
    if let Some(error) = failed {
        return Err(error);
    }
    match totals {
        Ok(totals) => {
            check.report.counts.accounts =
                totals.accounts_open_count + totals.accounts_closed_count;
            check.report.counts.assets = u64::try_from(totals.assets.len()).unwrap_or(u64::MAX);
        }
        // Values that do not parse have been reported by their keys.
        Err(AuditError::Corrupt(_)) => {}
        Err(error) => check.report.fault(Part::State, "audit", error),
    }
    Ok(())
}

/// Every chunk of the expiry index is canonical and in its place; that each of its nonces is in its
/// row and each nonce of a row in the index is found by [`join`].
fn expiry(check: &mut Check<'_>, state: &State) -> StorageResult<()> {
    let mut indexed: u64 = 0;
    let mut heights: BTreeSet<u64> = BTreeSet::new();
    for entry in state.store.iterate(Family::Nonces, &[])? {
        let (key, _) = entry?;
        match ExpiryKey::parse(&key) {
            Ok(key) => drop(heights.insert(key.valid_until())),
            Err(cause) => check.report.fault(Part::State, "expiry index", cause),
        }
    }
    for valid_until in heights {
        let place = format!("expiry index of height {valid_until}");
        if valid_until < state.height() {
            check.report.fault(Part::State, &place, "should have left the state");
        }
        if let Some(expired) = read_expired(check, &state.store, valid_until, &place)? {
            indexed += u64::try_from(expired.count()).unwrap_or(u64::MAX);
        }
    }
    check.report.counts.expiring_nonces = indexed;
    Ok(())
}

/// The chunks of one height, read together.
fn read_expired(
    check: &mut Check<'_>,
    store: &StateStore,
    valid_until: u64,
    place: &str,
) -> StorageResult<Option<Expired>> {
    let Some(height) = valid_until.checked_add(1) else {
        check.report.fault(Part::State, place, "is no height");
        return Ok(None);
    };
    let prefix = ExpiryKey::prefix(valid_until);
    let chunks = store.scan_prefix(Family::Nonces, &prefix)?.collect::<StorageResult<Vec<_>>>()?;
    let pairs = chunks.iter().map(|(key, value)| (&**key, &**value));
    match Expired::read(height, pairs) {
        Ok(expired) => Ok(Some(expired)),
        Err(cause) => {
            check.report.fault(Part::State, place, cause);
            Ok(None)
        }
    }
}
