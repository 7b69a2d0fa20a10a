use std::path::PathBuf;

use hufu_crypto::{Signer as _, SoftwareSigner};
use hufu_storage::block_log::BlockLog;
use hufu_storage::data_dir::Identity;
use hufu_types::genesis::{Parameters, Validator, ValidatorSet};

use super::*;
use crate::config::Encryption;

/// A folder with a key, and the configuration and genesis of its node with so many validators.
fn node(folder: &Path, validators_count: u8, time_millis: u64) -> (NodeConfig, Genesis) {
    let key = folder.join("vote.pem");
    let own = *keys_file::create(&key).unwrap().public_key();
    data_key::create(&folder.join(data_key::DATA_KEY_FILE)).unwrap();
    keys_file::create(&folder.join("audit.pem")).unwrap();
    let public = |seed: u8| *SoftwareSigner::from_bytes(&[seed; 32]).unwrap().public_key();
    let others = (1..validators_count).map(public);
    let validators = (0..).zip(std::iter::once(own).chain(others));
    let validators = validators.map(|(index, key)| Validator {
        name: format!("node-{index}"),
        key,
        link_key: public(100 + index),
        power: 1,
    });
    let parameters =
        Parameters { certified_lag_heights: 1, block_interval_millis: 50, state_buckets_log2: 4 };
    let (validators, people) =
        (ValidatorSet::new(validators.collect()).unwrap(), vec![own.address()]);
    let genesis = Genesis::new(
        "test".to_owned(),
        time_millis,
        parameters,
        validators,
        people.clone(),
        people,
    );
    let text = "[node]\nname = \"node-0\"\ndata_dir = \"data\"\ngenesis = \"genesis.toml\"\n\
                key = \"vote.pem\"\n";
    let config = NodeConfig::parse(text, &PathBuf::from("hufu.toml"), folder).unwrap();
    (config, genesis.unwrap())
}

fn broken(config: &NodeConfig, genesis: &Genesis) -> Vec<&'static str> {
    broken_configuration(config, genesis).into_iter().map(|finding| finding.rule).collect()
}

#[test]
fn a_start_and_the_check_judge_a_configuration_alike() {
    let folder = tempfile::tempdir().unwrap();
    let (mut config, genesis) = node(folder.path(), 1, 1_700_000_000_000);
    assert_eq!(broken(&config, &genesis), Vec::<&str>::new());
    config.placement.cores = Cores::List("1023".parse().unwrap());
    assert_eq!(broken(&config, &genesis), ["cores"]);
    let checked = check(&config, &genesis);
    let found = checked.iter().find(|finding| finding.rule == "cores").unwrap();
    assert_eq!(found.verdict, Verdict::Broken);

    let other = tempfile::tempdir().unwrap();
    let (_, foreign) = node(other.path(), 2, 1_700_000_000_000);
    assert_eq!(broken(&config, &foreign), ["identity", "validators", "cores"]);
}

#[test]
fn a_genesis_of_the_future_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (config, genesis) = node(folder.path(), 1, 4_102_444_800_000);
    assert_eq!(broken(&config, &genesis), ["genesis time"]);
    let now = clock::wall().as_millis();
    assert_eq!(ahead_of_clock(now), None, "clocks of two hosts differ a little");
    assert!(ahead_of_clock(now + 3_600_000).is_some_and(|seconds| seconds > 3_000));
}

#[test]
fn the_data_folder_of_another_node_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (config, genesis) = node(folder.path(), 1, 1_700_000_000_000);
    assert_eq!(data_folder(&config, &genesis).verdict, Verdict::Kept);
    let identity = Identity { chain: genesis.chain_id().0, node: Address([7; 20]) };
    drop(DataDir::open(&config.node.data_dir, &identity).unwrap());
    let finding = data_folder(&config, &genesis);
    assert_eq!(finding.verdict, Verdict::Broken);
    assert!(finding.found.contains("belongs to node"), "{finding}");
}

#[test]
fn a_data_key_that_is_missing_exposed_or_another_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut config, genesis) = node(folder.path(), 1, 1_700_000_000_000);
    let key = folder.path().join(data_key::DATA_KEY_FILE);
    let finding = data_key_rule(&config, &genesis);
    assert_eq!(finding.verdict, Verdict::Kept, "{finding}");
    let provider = kernels::provider();
    let keys = data_key::load(&key, &provider).unwrap();
    let options = StorageOptions::new(&config.node.data_dir, genesis.chain_id(), &provider);
    let (log, _) = BlockLog::open(options.with_keys(Some(keys)).log).unwrap();
    log.close().unwrap();
    assert_eq!(data_key_rule(&config, &genesis).verdict, Verdict::Kept);
    std::fs::remove_file(&key).unwrap();
    assert_eq!(broken(&config, &genesis), ["data key"]);
    data_key::create(&key).unwrap();
    let finding = data_key_rule(&config, &genesis);
    assert!(finding.found.contains("is encrypted with data key"), "{finding}");
    config.storage.encryption = Encryption::None;
    let finding = data_key_rule(&config, &genesis);
    assert!(finding.found.contains("no data key is given"), "{finding}");
    config.node.data_dir = folder.path().join("new");
    assert_eq!(data_key_rule(&config, &genesis).verdict, Verdict::Noted);
}
