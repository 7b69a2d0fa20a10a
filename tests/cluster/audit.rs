//! The audit log of real nodes: what a chain signs is on record, through stops and crashes.

use std::fs;
use std::path::{Path, PathBuf};

use hufu_crypto::Signer as _;
use hufu_node::keys_file;
use serde_json::Value;

use crate::chain::{Chain, VALIDITY_HEIGHTS, commit, person};
use crate::node::{TestNode, hufu};

/// What `hufu audit verify` says of the node's data folder: exit code, result, errors.
fn verify(chain: &Chain, node: &TestNode) -> (Option<i32>, Value, String) {
    let key = keys_file::load(&chain.path().join("audit.pem")).unwrap().public_key().to_string();
    let output = hufu()
        .args(["audit", "verify", "--json", "--key", &key, "--data-key"])
        .arg(chain.data_key(node.data()))
        .arg(node.data())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
}

/// One run of a node, in which a transaction is committed.
fn run(chain: &Chain, node: &mut TestNode, nonce: u64) {
    node.start_ready();
    let mut client = chain.connect(node);
    if nonce == 0 {
        chain.open_market(&mut client);
    }
    let until = client.status().unwrap().height + VALIDITY_HEIGHTS;
    let payment = chain.payment([&person(1), &person(2)], nonce, until);
    assert_eq!(commit(&mut client, &payment).outcome().unwrap(), Ok(()));
}

fn log_file(data: &Path) -> PathBuf {
    data.join("audit").join("audit-00000001.jsonl")
}

#[test]
fn signatures_are_on_record_through_stops_and_crashes_and_every_change_shows() {
    let chain = Chain::new("audited");
    let mut node = chain.node();
    run(&chain, &mut node, 0);
    let (exit, _, said) = verify(&chain, &node);
    assert!(exit == Some(1) && said.contains("stop the node"), "{said}");
    // The chain alone may be looked at while it grows.
    let live = hufu().args(["audit", "verify"]).arg(node.data().join("audit")).output().unwrap();
    assert!(live.status.success(), "{live:?}");
    node.stop();
    let (exit, found, said) = verify(&chain, &node);
    assert_eq!(exit, Some(0), "{found} {said}");
    let votes = &found["vote_log"];
    assert!(votes["signatures"].as_u64().unwrap() >= 6, "{found}");
    assert_eq!((&votes["disagreements_count"], &found["unsealed"]), (&0.into(), &0.into()));
    assert_eq!(votes["intents_without_record"], 0, "a node that stops in order tells all: {found}");

    run(&chain, &mut node, 1);
    node.kill();
    let (exit, found, said) = verify(&chain, &node);
    assert_eq!(exit, Some(0), "{found} {said}");
    run(&chain, &mut node, 2);
    node.stop();
    let (exit, found, said) = verify(&chain, &node);
    assert_eq!(exit, Some(0), "{found} {said}");
    assert_eq!((&found["torn_bytes"], &found["unsealed"]), (&0.into(), &0.into()));

    let file = log_file(node.data());
    let good = fs::read_to_string(&file).unwrap();
    let count = |action: &str| good.matches(&format!("\"action\":\"{action}\"")).count();
    assert_eq!((count("node.started"), count("node.stopped")), (3, 2));
    assert_eq!((count("key.opened"), count("data_key.opened")), (3, 3));
    for name in ["vote.pem", "link.pem", "audit.pem"] {
        let text = fs::read_to_string(chain.path().join(name)).unwrap();
        for line in text.lines().filter(|line| !line.starts_with("---")) {
            assert!(!good.contains(line), "a line of {name}");
        }
    }
    // A number of signatures that somebody makes smaller.
    let place = good.find("\"prevotes\":").unwrap() + "\"prevotes\":".len();
    let mut changed = good.clone().into_bytes();
    changed[place] = if changed[place] == b'1' { b'2' } else { b'1' };
    fs::write(&file, changed).unwrap();
    let (exit, _, said) = verify(&chain, &node);
    assert!(exit == Some(1) && said.contains("digest differs"), "{said}");
    let (status, said) = node.start_in_vain();
    assert!(!status.success() && said.contains("audit log"), "{said}");
    fs::write(&file, &good).unwrap();
    // A vote log that is not the one that was audited: the node forgot what it signed.
    let votes = node.data().join("votes");
    let kept = chain.path().join("votes.kept");
    fs::rename(&votes, &kept).unwrap();
    fs::create_dir(&votes).unwrap();
    let (exit, found, _) = verify(&chain, &node);
    assert_eq!(exit, Some(1), "{found}");
    fs::remove_dir(&votes).unwrap();
    fs::rename(&kept, &votes).unwrap();
    let (exit, ..) = verify(&chain, &node);
    assert_eq!(exit, Some(0));
}

#[test]
fn the_vote_key_seals_nothing_and_a_log_of_another_node_is_left_alone() {
    let chain = Chain::new("audited");
    let more = "[audit]\nkey_file = \"vote.pem\"";
    let mut node = chain.node_in(&chain.path().join("data"), more);
    let (status, said) = node.start_in_vain();
    assert!(status.code() == Some(78) && said.contains("audit.key_file"), "{said}");
    let elsewhere = chain.path().join("elsewhere");
    let more = format!("[audit]\nfolder = \"{}\"", elsewhere.display());
    let mut node = chain.node_in(&chain.path().join("data"), &more);
    node.start_ready();
    node.stop();
    assert!(elsewhere.join("audit-00000001.jsonl").exists() && !node.data().join("audit").exists());
    let verify = |more: &[&Path]| {
        let mut command = hufu();
        command.args(["audit", "verify"]).arg(&elsewhere);
        command.arg("--data-key").arg(chain.data_key(node.data())).args(more);
        command.output().unwrap()
    };
    let refused = verify(&[]);
    assert_eq!(refused.status.code(), Some(2), "a key for nothing: {refused:?}");
    let found = verify(&[Path::new("--data-dir"), node.data()]);
    let text = String::from_utf8_lossy(&found.stdout);
    assert!(found.status.success() && text.contains("vote log"), "{found:?}");

    let other = Chain::new("other");
    let mut node = other.node_in(&other.path().join("data"), &more);
    let (status, said) = node.start_in_vain();
    assert!(status.code() == Some(78) && said.contains("was begun for"), "{said}");
}
