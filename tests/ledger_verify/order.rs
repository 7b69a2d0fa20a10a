//! What a block ordered: the same transactions again, the same batch again, or a batch too late.

use super::*;

#[test]
fn a_copy_does_not_hide_the_first_receipt() {
    let late = Crooked { late_copy: true, ..Crooked::default() };
    copies_fail(late, 2, FailureCode::Expired);
    // Only the rows of the state tree know these nonces.
    let early = Crooked { early_copy: true, ..Crooked::default() };
    copies_fail(early, HEIGHTS - 1, FailureCode::NonceUsed);
}

#[test]
fn batches_that_a_block_may_not_order_are_found() {
    let passed = Crooked { late_copy: true, passed_batch: true, ..Crooked::default() };
    let repeated = Crooked { repeated_batch: true, ..Crooked::default() };
    for (crooked, words) in [
        (passed, "is valid up to height 5, the block's is 9"),
        (repeated, "was ordered at height 8"),
    ] {
        let report = Folder::new(crooked).verify(Level::Hashes);
        assert_eq!(report.faults_count, 1, "{report}");
        assert_found(&report, Part::BlockLog, words);
    }
}

/// What recovery gives back: what may be ordered, and what may not be ordered again.
#[test]
fn recovery_knows_what_may_be_ordered() {
    let folder = Folder::new(Crooked { expired_batch: true, ..Crooked::default() });
    assert_clean(&folder.verify(Level::Replay));
    let maker = Maker::open(&folder.path(), Crooked::default());
    assert_eq!(maker.recovered.batches.len(), 0, "its time is over");
    assert_eq!(maker.recovered.unordered.oldest(), None, "and no replay begins with it");
    let ordered = &maker.recovered.ordered;
    let height = 2 * (usize::try_from(HEIGHTS).unwrap() - 1);
    assert_eq!((ordered.next_height(), ordered.count()), (HEIGHTS + 1, height));
    drop(maker);
    let folder = Folder::new(Crooked { stray_batch: true, ..Crooked::default() });
    let maker = Maker::open(&folder.path(), Crooked::default());
    assert_eq!(maker.recovered.batches.len(), 1);
    let stray = maker.recovered.batches[0].digest();
    assert!(!maker.recovered.ordered.contains(&stray));
}

/// The last block orders transactions of height `copied` again: each fails, and is found where it
/// was first.
fn copies_fail(crooked: Crooked, copied: u64, expected: FailureCode) {
    let folder = Folder::new(crooked);
    assert_clean(&folder.verify(Level::Replay));
    let maker = Maker::open(&folder.path(), Crooked::default());
    let store = maker.recovered.executor.store();
    let receipts = store.get(Family::Receipts, &HEIGHTS.to_be_bytes()).unwrap().unwrap();
    let receipts = parse_receipts(&receipts).unwrap();
    for (place, number) in (0..6).enumerate() {
        let id = maker.transaction(copied, number).view().id();
        let late = receipts.iter().find(|receipt| receipt.id == id).unwrap();
        let code = late.outcome().unwrap().unwrap_err().code;
        assert_eq!(code, expected);
        let row = store.get(Family::Transactions, id.as_bytes()).unwrap().unwrap();
        let first = (copied, u32::try_from(place).unwrap());
        assert_eq!(parse_transaction_row(&row), Ok(first));
    }
}
