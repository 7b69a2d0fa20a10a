//! Configurations and data folders that a node must not run with.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hufu_node::{data_key, genesis_file};
use hufu_storage::data_dir::BLOCKS;
use hufu_types::{Digest, Operation, TransactionBuilder};

use crate::chain::{Chain, VALIDITY_HEIGHTS, asset, commit, person};
use crate::checks::{Checker, verify_ledger};
use crate::load::{HEAVY, Loader, Record};
use crate::node::{TestNode, hufu};
use crate::wire::Random;

/// Exit code of faults that no restart mends (design.md 6).
const EXIT_CONFIGURATION: i32 = 78;

/// Places of the block log that are damaged, one at a time.
const DAMAGES_COUNT: u64 = 12;

#[test]
fn a_node_names_every_fault_of_its_configuration() {
    let chain = Chain::new("config");
    let faults = "[mempol]\n[log]\ndepht = 2\nbackend = \"fast\"\n[client]\nlisten = \"0.0.0.0:1\"";
    let mut node = chain.node_in(&chain.path().join("data"), faults);
    let (status, said) = node.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");
    for fault in ["mempol", "log.depht", "log.backend", "client.listen"] {
        assert!(said.contains(fault), "{fault} is not named:\n{said}");
    }
    let mut node = chain.node();
    fs::remove_file(chain.path().join("vote.pem")).unwrap();
    let (status, said) = node.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");
    assert!(said.contains("vote.pem"), "{said}");
}

#[test]
fn a_folder_of_another_chain_or_version_is_refused() {
    let chain = Chain::new("first");
    let mut node = chain.node();
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    node.stop();

    let mut other = chain.genesis.clone();
    other.chain_name = "second".to_owned();
    fs::write(chain.path().join("genesis.toml"), genesis_file::write(&other)).unwrap();
    let (status, said) = node.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");
    assert!(said.contains("belongs to chain"), "{said}");
    fs::write(chain.path().join("genesis.toml"), genesis_file::write(&chain.genesis)).unwrap();

    let identity = node.data().join("identity");
    let good = fs::read(&identity).unwrap();
    let mut bytes = good.clone();
    bytes[8] += 1;
    let (checked, _) = bytes.split_at(bytes.len() - 4);
    let checksum = crc32c::crc32c(checked).to_le_bytes();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&checksum);
    fs::write(&identity, &bytes).unwrap();
    let (status, said) = node.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");
    assert!(said.contains("format version"), "{said}");

    fs::write(&identity, &good).unwrap();
    node.start_ready();
    assert!(chain.connect(&node).status().unwrap().height > 0, "the refusals changed nothing");
    node.stop();
}

#[test]
fn one_folder_has_one_node() {
    let chain = Chain::new("lock");
    let mut node = chain.node();
    node.start_ready();
    let config = chain.configure("second.toml", node.data(), "");
    let logs = tempfile::tempdir().unwrap();
    let mut second = TestNode::new(config, node.data().to_owned(), logs.path());
    let (status, said) = second.start_in_vain();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("locked by another process"), "{said}");
    chain.open_market(&mut chain.connect(&node));
    node.stop();
}

/// The segments of a block log, in order.
fn segments(data: &Path) -> Vec<PathBuf> {
    let folder = data.join(BLOCKS);
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// How far a segment has been written: the rest was only made ready.
fn written_bytes(segment: &Path) -> u64 {
    let bytes = fs::read(segment).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |place| place as u64 + 1)
}

fn flip(file: &File, offset: u64, bit: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset).unwrap();
}

#[test]
fn damage_in_the_middle_of_the_log_is_named_and_never_served() {
    let mut random = Random::from_environment();
    let chain = Arc::new(Chain::new("damage"));
    let mut node = chain.node_in(&chain.path().join("data"), "[log]\nsegment_bytes = 16777216");
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    let (record, mut checker) = (Arc::new(Record::default()), Checker::default());
    let loader = Loader::start(&chain, &node, &record, HEAVY);
    record.wait_for_more(4_000);
    loader.finish();
    node.stop();
    verify_ledger(&chain, node.data());

    let path = segments(node.data()).remove(0);
    let middle = written_bytes(&path) * 9 / 10;
    let file = File::options().read(true).write(true).open(&path).unwrap();
    for _ in 0..DAMAGES_COUNT {
        let (offset, bit) = (random.below(middle), random.below(8));
        flip(&file, offset, bit);
        let (status, said) = node.start_in_vain();
        let place = format!("bit {bit} of byte {offset}");
        assert!(!status.success(), "{place}");
        assert!(said.contains("segment") && said.contains("offset"), "{place}:\n{said}");
        let named = said.split("offset ").nth(1).unwrap();
        let digits: String = named.chars().take_while(char::is_ascii_digit).collect();
        let named: u64 = digits.parse().unwrap();
        assert!(named <= offset, "{place}, and the node names offset {named}");
        let mut command = hufu();
        command.args(["ledger", "verify"]).arg(node.data());
        command.arg("--data-key").arg(chain.data_key(node.data()));
        command.arg("--genesis").arg(chain.path().join("genesis.toml"));
        let output = command.args(["--level", "hashes"]).output().unwrap();
        let shown = [output.stdout, output.stderr].concat();
        let shown = String::from_utf8_lossy(&shown);
        assert_eq!(output.status.code(), Some(1), "{place}:\n{shown}");
        assert!(shown.contains(&format!("offset {named}")), "{place}:\n{said}\n{shown}");
        flip(&file, offset, bit);
    }
    node.start_ready();
    checker.check(&chain, &node, &record, true);
    node.stop();
}

/// What clients send is nowhere in the folder as they sent it; without its key the folder is of no
/// use, and nothing is lost by trying.
#[test]
fn a_data_folder_shows_nothing_and_opens_with_its_key_alone() {
    let chain = Chain::new("secret");
    let mut node = chain.node();
    node.start_ready();
    chain.open_market(&mut chain.connect(&node));
    let memo = b"what two parties agreed upon, word for word";
    let person = person(1);
    let mut client = chain.connect(&node);
    let valid_until = client.status().unwrap().height + VALIDITY_HEIGHTS;
    let builder = TransactionBuilder::new(chain.id(), person.key(), 1, valid_until);
    let notarise = Operation::Notarise { digest: &Digest([0x5a; 32]), memo };
    let receipt = commit(&mut client, &person.sign(builder.operation(notarise)));
    assert_eq!(receipt.outcome().unwrap(), Ok(()));
    drop(client);
    node.stop();
    let asset = asset();
    let words: [&[u8]; 4] = [memo, asset.0.as_slice(), &person.address.0, &person.key().0];
    let found = |folder: &Path| -> Vec<(PathBuf, usize)> {
        let mut found = Vec::new();
        for path in files(folder) {
            let bytes = fs::read(&path).unwrap();
            let seen = |word: &&[u8]| bytes.windows(word.len()).any(|window| window == *word);
            found.extend(words.iter().position(seen).map(|word| (path, word)));
        }
        found
    };
    assert_eq!(found(node.data()), []);
    verify_ledger(&chain, node.data());

    let key = chain.data_key(node.data());
    let kept = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let (status, said) = node.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");
    assert!(said.contains("storage.key_file"), "{said}");
    data_key::create(&key).unwrap();
    let (status, said) = node.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");
    assert!(said.contains("is encrypted with data key"), "{said}");
    let output = hufu().args(["ledger", "verify"]).arg(node.data()).output().unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && shown.contains("--data-key"), "{shown}");
    let config = chain.configure("plain.toml", node.data(), "[storage]\nencryption = \"none\"");
    let logs = tempfile::tempdir().unwrap();
    let mut plain = TestNode::new(config, node.data().to_owned(), logs.path());
    let (status, said) = plain.start_in_vain();
    assert_eq!(status.code(), Some(EXIT_CONFIGURATION), "{said}");
    assert!(said.contains("no data key is given"), "{said}");

    fs::write(&key, kept).unwrap();
    node.start_ready();
    assert!(chain.connect(&node).status().unwrap().height > 0, "the refusals changed nothing");
    node.stop();

    // The search finds what is there: the same in clear.
    let config = chain.configure(
        "clear.toml",
        &chain.path().join("clear"),
        "[storage]\nencryption = \"none\"",
    );
    let mut plain = TestNode::new(config, chain.path().join("clear"), logs.path());
    plain.start_ready();
    chain.open_market(&mut chain.connect(&plain));
    plain.stop();
    let seen: BTreeSet<usize> = found(plain.data()).into_iter().map(|(_, word)| word).collect();
    assert!(!seen.is_empty(), "an asset and an account are there in clear");
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
