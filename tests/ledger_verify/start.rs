//! What a node makes of a folder that is not as it left it: a start that would sign twice, or
//! forget what it acknowledged, is refused, and nothing on the disk is changed before that.

use hufu_node::recovery::RecoverError;
use hufu_storage::Error;
use hufu_storage::block_log::RecoveryReport;
use hufu_storage::vote_log::VoteLog;

use super::*;

/// What a start finds: the height it goes on from and how the two logs ended, or why there is none.
fn start(folder: &Folder) -> Result<(u64, RecoveryReport, RecoveryReport), RecoverError> {
    let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let (genesis, provider) = (genesis(&signer), software_provider());
    let options = small(&folder.path(), &genesis, &provider);
    let metrics = Arc::new(Metrics::default());
    let recovered = recover(&genesis, &provider, &metrics, options, &mut |_| true)?;
    Ok((recovered.tip.block.height, recovered.report, recovered.vote_report))
}

fn remove(folder: &Folder, name: &str) {
    fs::remove_dir_all(folder.path().join(name)).unwrap();
}

/// The newest segment of a log, and where its last group begins.
fn last_group(folder: &Folder, log: &str, magic: &[u8]) -> (PathBuf, u64) {
    let all = contents(&folder.path().join(log));
    let is_segment = |path: &Path| path.extension().is_some_and(|name| name == "log");
    let (path, bytes) = all.into_iter().rfind(|(path, _)| is_segment(path)).unwrap();
    let last = bytes.chunks(4_096).rposition(|block| block.starts_with(magic)).unwrap();
    (path, u64::try_from(last * 4_096).unwrap())
}

#[test]
fn a_node_whose_votes_are_lost_does_not_start() {
    for killed in [false, true] {
        let whole = Folder::new(Crooked { killed, ..Crooked::default() });
        assert_eq!(start(&whole.copy()).unwrap().0, HEIGHTS);
        for also in [None, Some("state")] {
            let folder = whole.copy();
            remove(&folder, "votes");
            also.iter().for_each(|name| remove(&folder, name));
            let before = contents(&folder.path().join("log"));
            for _attempt in 0..2 {
                let refused = start(&folder).unwrap_err();
                assert!(matches!(refused, RecoverError::VotesMissing { .. }), "{refused}");
            }
            assert_eq!(contents(&folder.path().join("log")), before);
        }
        // A folder that is there and empty, as a failed mount leaves it, is no vote log either.
        let folder = whole.copy();
        remove(&folder, "votes");
        fs::create_dir(folder.path().join("votes")).unwrap();
        let refused = start(&folder).unwrap_err();
        assert!(matches!(refused, RecoverError::VotesMissing { .. }), "{refused}");
    }
}

#[test]
fn a_node_killed_before_its_first_block_starts_again_and_needs_its_votes() {
    let folder = Folder { temporary: tempfile::tempdir().unwrap(), is_plain: false };
    let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let (genesis, provider) = (genesis(&signer), software_provider());
    // Killed between the two logs: the vote log comes first, so that this is no lost vote log.
    let options = small(&folder.path(), &genesis, &provider);
    drop(VoteLog::open(&options.vote_log).unwrap());
    assert_eq!(start(&folder).unwrap().0, 0);
    assert_eq!(start(&folder).unwrap().0, 0);
    remove(&folder, "votes");
    let refused = start(&folder).unwrap_err();
    assert!(matches!(refused, RecoverError::VotesMissing { .. }), "{refused}");
}

#[test]
fn a_seal_vouches_for_the_end_of_the_block_log() {
    let folder = Folder::new(Crooked { killed: true, ..Crooked::default() });
    // Without the state nothing but the vote log knows that the last block was durable.
    remove(&folder, "state");
    let (path, group) = last_group(&folder, "log", b"HUFUBLKG");
    let refused = with_flipped(&path, group + 300, 2, || {
        let before = contents(&folder.path().join("log"));
        let refused = start(&folder).unwrap_err();
        assert_eq!(contents(&folder.path().join("log")), before, "evidence is not zeroed");
        let report = folder.verify(Level::Hashes);
        assert!(report.faults.iter().any(|fault| fault.part == Part::BlockLog), "{report}");
        refused
    });
    let RecoverError::Storage(Error::Corrupted { offset, .. }) = refused else {
        panic!("{refused}");
    };
    assert_eq!(offset, group);
    assert_eq!(start(&folder).unwrap().0, HEIGHTS, "nothing was cut off");
}

#[test]
fn the_applied_mark_vouches_for_its_block_wherever_a_replay_begins() {
    let crooked = Crooked { killed: true, unsealed: true, stray_batch: true, ..Crooked::default() };
    let folder = Folder::new(crooked);
    let (path, group) = last_group(&folder, "log", b"HUFUBLKG");
    let refused = with_flipped(&path, group + 300, 2, || {
        let before = contents(&folder.path().join("log"));
        let refused = start(&folder).unwrap_err();
        assert_eq!(contents(&folder.path().join("log")), before, "evidence is not zeroed");
        refused
    });
    let is_damage = matches!(refused, RecoverError::Storage(Error::Corrupted { .. }));
    assert!(is_damage, "{refused}");
    let (height, report, _) = start(&folder).unwrap();
    assert_eq!((height, report.torn), (HEIGHTS, None));
}

#[test]
fn a_height_sealed_beyond_the_block_log_is_refused() {
    let folder = Folder::new(Crooked::default());
    let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let options = small(&folder.path(), &genesis(&signer), &software_provider());
    let (mut votes, recovery, _) = VoteLog::open(&options.vote_log).unwrap();
    let last = recovery.seal.unwrap();
    assert_eq!(last.height, HEIGHTS);
    votes.seal(Seal { height: HEIGHTS + 1, ..last }).unwrap();
    votes.close().unwrap();
    let refused = start(&folder).unwrap_err();
    let is_ahead = matches!(
        refused,
        RecoverError::SealedAhead { sealed, tip } if sealed == HEIGHTS + 1 && tip == HEIGHTS
    );
    assert!(is_ahead, "{refused}");
}

#[test]
fn a_vote_log_whose_tail_was_cut_says_so() {
    let folder = Folder::new(Crooked { killed: true, ..Crooked::default() });
    let (path, group) = last_group(&folder, "votes", b"HUFUVOTG");
    let (height, report, vote_report) =
        with_flipped(&path, group + 300, 2, || start(&folder.copy()).unwrap());
    assert_eq!((height, report.torn), (HEIGHTS, None));
    assert_eq!(vote_report.torn.unwrap().offset, group);
    assert!(start(&folder).unwrap().2.torn.is_none());
}
