//! The data key: without the right one nothing is said of a folder but that, and with it a node
//! that stores in clear and one that does not hold the same chain.

use super::*;

fn refused(folder: &Folder, keys: Option<Keyring>) -> VerifyError {
    let path = folder.path();
    verify(&path, Level::Hashes, None, keys, &mut |_, _, _| true).unwrap_err()
}

#[test]
fn a_folder_is_verified_with_its_own_key_alone() {
    let folder = Folder::new(Crooked::default());
    let before = contents(&folder.path());
    let error = refused(&folder, None);
    let missing = matches!(error, VerifyError::Storage(hufu_storage::Error::KeyMissing { .. }));
    assert!(missing && error.remedy().contains("--data-key"), "{error}");
    let other = Keyring::new(DataKey::new(&[8; 32]), Vec::new(), &software_provider());
    let error = refused(&folder, Some(other));
    let unknown = matches!(error, VerifyError::Storage(hufu_storage::Error::KeyUnknown { .. }));
    assert!(unknown && error.remedy().contains("--data-key"), "{error}");
    let plain = Folder::new(Crooked { plain: true, ..Crooked::default() });
    let error = refused(&plain, keys(false));
    let in_clear = matches!(error, VerifyError::Storage(hufu_storage::Error::NotEncrypted { .. }));
    assert!(in_clear && error.remedy().contains("without --data-key"), "{error}");
    assert_clean(&plain.verify(Level::Replay));
    assert!(before == contents(&folder.path()), "a refusal changes nothing");
    // The first segment of each log is what is looked at first; what is wrong with it is a fault.
    for log in ["log", "votes"] {
        let segment = folder.path().join(log).join("0000000000.log");
        let report = with_flipped(&segment, 20, 1, || folder.verify(Level::Hashes));
        assert!(!report.is_clean(), "{log}");
    }
}

/// State roots are those of what is stored, not of how.
#[test]
fn a_chain_is_the_same_in_clear_and_encrypted() {
    let roots = [false, true].map(|plain| {
        let folder = Folder::new(Crooked { plain, ..Crooked::default() });
        let report = folder.verify(Level::Replay);
        assert_clean(&report);
        report.state_root
    });
    assert_eq!(roots[0], roots[1]);
}

/// The canary of the chain: its memos, the asset and the addresses of accounts.
#[test]
fn nothing_of_the_chain_is_in_the_folder_in_clear() {
    let asset = AssetCode::new("BOND").unwrap();
    let words: [&[u8]; 3] = [&[6; 64], &asset.0, &[3; 20]];
    for plain in [false, true] {
        let folder = Folder::new(Crooked { plain, ..Crooked::default() });
        let seen = words.map(|word| {
            contents(&folder.path()).iter().any(|(path, bytes)| {
                let is_padding = bytes.len() > 1 << 26;
                assert!(!is_padding, "{} is too large to be searched", path.display());
                bytes.windows(word.len()).any(|window| window == word)
            })
        });
        assert_eq!(seen, [plain; 3]);
    }
}

#[test]
fn a_start_with_another_key_is_refused_and_changes_nothing() {
    let folder = Folder::new(Crooked::default());
    let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
    let (genesis, provider) = (genesis(&signer), software_provider());
    let before = contents(&folder.path().join("log"));
    let other = Keyring::new(DataKey::new(&[8; 32]), Vec::new(), &provider);
    for keys in [Some(other), None] {
        let options = small(&folder.path(), &genesis, &provider).with_keys(keys);
        let metrics = Arc::new(Metrics::default());
        let refused = recover(&genesis, &provider, &metrics, options, &mut |_| true);
        let refused = refused.map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("is encrypted with data key"), "{refused}");
    }
    assert!(before == contents(&folder.path().join("log")));
    assert_eq!(recovery_of(&folder.path()), Ok(()));
}
