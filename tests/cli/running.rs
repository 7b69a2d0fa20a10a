//! Commands beside a node that runs, and what a signal leaves behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::software_provider;
use hufu_node::data_key;
use hufu_node::kernels;
use hufu_node::metrics::Metrics;
use hufu_node::ready::Ready;
use hufu_node::recovery::{self, RecoverError, StorageOptions};
use hufu_node::verify_ledger::{self, Level, VerifyError};
use hufu_runtime::clock::monotonic;
use hufu_runtime::process;
use serde_json::Value;

use super::{code, folder, hufu, json, new_chain, new_key, stderr, stdout};

#[path = "memory.rs"]
pub(super) mod memory;

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const CONFIGURATION: &str = "[node]\nname = \"node-0\"\ndata_dir = \"data\"\n\
    genesis = \"genesis.toml\"\nkey = \"vote.pem\"\n[client]\nlisten = \"127.0.0.1:0\"\n\
    [admin]\nlisten = \"127.0.0.1:0\"\n[placement]\ncores = \"none\"\n";

/// A node of a new chain; it ends with the test.
struct Node {
    folder: tempfile::TempDir,
    operator: String,
    child: Child,
    ready: Ready,
}

impl Node {
    fn start() -> Self {
        Self::start_with(&[], Stdio::null())
    }

    /// A node with something in its environment, and a place for its log.
    fn start_with(environment: &[(&str, &str)], log: Stdio) -> Self {
        let folder = folder();
        let (_, operator) = new_chain(folder.path());
        fs::write(folder.path().join("hufu.toml"), CONFIGURATION).unwrap();
        let (child, ready) = start_node(folder.path(), environment, log);
        Self { folder, operator, child, ready }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A command that talks to this node.
    fn ask<'a>(&self, words: &[&'a str]) -> (Vec<&'a str>, String) {
        (words.to_vec(), self.ready.client.to_string())
    }

    fn run(&self, words: &[&str]) -> std::process::Output {
        let (mut words, address) = self.ask(words);
        words.extend(["--node", &address]);
        hufu(self.path(), &words)
    }

    fn json(&self, words: &[&str]) -> Value {
        let (mut words, address) = self.ask(words);
        words.extend(["--node", &address, "--json"]);
        json(self.path(), &words)
    }

    /// Opens an account of a new key and returns the receipt.
    fn open(&self, name: &str) -> Value {
        let (_, address) = new_key(self.path(), name);
        self.json(&["tx", "open", "--key", "vote.pem", "--address", &address])
    }

    fn stop(mut self) -> tempfile::TempDir {
        process::ask_to_stop(&mut self.child).unwrap();
        assert!(self.child.wait().unwrap().success());
        std::mem::replace(&mut self.folder, folder())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Starts the node of `hufu.toml` in this folder and waits until it is ready.
pub(super) fn start_node(
    folder: &Path,
    environment: &[(&str, &str)],
    log: Stdio,
) -> (Child, Ready) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(folder).stdin(Stdio::null()).stderr(log);
    command.envs(environment.iter().copied());
    command.args(["--parent", &std::process::id().to_string(), "node", "run"]);
    let mut child = command.spawn().unwrap();
    let mut ready = None;
    wait_until("the node", || {
        assert!(child.try_wait().unwrap().is_none(), "the node ended before it was ready");
        ready = Ready::read(&folder.join("data")).unwrap();
        ready.is_some()
    });
    (child, ready.unwrap())
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = monotonic().after(PATIENCE);
    while !ready() {
        assert!(monotonic() < deadline, "{what} did not come within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn wait_end(mut child: Child) -> ExitStatus {
    let mut status = None;
    wait_until("the end of the process", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

#[test]
fn nothing_is_sent_whose_proof_has_no_place_to_go() {
    let node = Node::start();
    let open = |proof: &str, more: &[&str]| {
        let words = ["tx", "open", "--key", "vote.pem", "--address", &node.operator];
        let words: Vec<&str> =
            words.into_iter().chain(["--proof", proof]).chain(more.iter().copied()).collect();
        node.run(&words)
    };
    fs::write(node.path().join("taken"), "precious").unwrap();
    let refused = open("taken", &[]);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("taken"), "{}", stderr(&refused));
    assert_eq!(fs::read(node.path().join("taken")).unwrap(), b"precious");
    let account = node.json(&["query", "account", &node.operator]);
    assert_eq!((&account["state"], &account["height"]), (&"unknown".into(), &0.into()));
    // What has no receipt leaves no file.
    let expired = open("none", &["--valid-until", "0"]);
    assert_eq!(code(&expired), 1, "{}", stderr(&expired));
    assert!(!node.path().join("none").exists());
    let done = open("proof", &["--wait", "certified"]);
    assert_eq!(code(&done), 0, "{}", stderr(&done));
    let arguments = ["--genesis", "genesis.toml", "--strength", "certified", "proof", "--json"];
    let verified = json(node.path(), &[&["receipt", "verify"][..], &arguments].concat());
    assert_eq!(verified["certified"], 1);
}

#[test]
fn an_answer_says_what_of_it_is_proven() {
    let node = Node::start();
    let opened = node.open("other.pem");
    let id = opened["transaction"].as_str().unwrap();
    let believed = node.json(&["query", "tx", id]);
    assert_eq!(believed["proven"], "nothing, give --genesis");
    let proven = node.json(&["query", "tx", id, "--genesis", "genesis.toml"]);
    assert_eq!(proven["proven"], proven["strength"]);
    let block = node.json(&["query", "block", "1", "--genesis", "genesis.toml"]);
    assert_eq!((&block["height"], &block["certificate"]), (&1.into(), &"verified".into()));
}

#[test]
fn an_account_is_proven_offline_and_no_changed_byte_is() {
    let node = Node::start();
    let send = |words: &[&str]| {
        let key = ["tx", words[0], "--key", "vote.pem", "--wait", "certified"];
        node.json(&[&key, &words[1..]].concat());
    };
    let (_, other) = new_key(node.path(), "other.pem");
    send(&["open", "--address", &node.operator]);
    send(&["create-asset", "--asset", "GOLD", "--decimals", "2", "--supply-cap", "1000"]);
    send(&["issue", "--asset", "GOLD", "--account", &node.operator, "--amount", "900"]);
    let limit = ["--limit", "7", "--expires-at", "500"];
    send(&[&["grant", "--agent", &other, "--asset", "GOLD"][..], &limit].concat());

    let believed = node.json(&["query", "account", &node.operator]);
    assert_eq!(believed["proven_by"], Value::Null);
    let ask = ["query", "account", &node.operator, "--genesis", "genesis.toml"];
    let asked = node.json(&[&ask[..], &["--proof", "account.bin"]].concat());
    assert_eq!(asked["proven_by"].as_u64(), asked["height"].as_u64().map(|height| height + 1));
    assert_eq!(asked["holdings"], believed["holdings"]);
    assert_eq!(asked["mandates"], believed["mandates"]);
    assert_eq!((asked["holdings"].as_array().unwrap().len(), &asked["state"]), (1, &"open".into()));
    let absent = node.json(&["query", "account", &other, "--genesis", "genesis.toml"]);
    assert_eq!((&absent["state"], absent["proven_by"].is_u64()), (&"unknown".into(), true));

    let folder = node.stop();
    let verify = |genesis: &str, file: &str| {
        hufu(folder.path(), &["account", "verify", "--genesis", genesis, file, "--json"])
    };
    let verified = verify("genesis.toml", "account.bin");
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    assert_eq!(serde_json::from_slice::<Value>(&verified.stdout).unwrap(), asked);
    let good = fs::read(folder.path().join("account.bin")).unwrap();
    let last = good.len() - 1;
    // Chain, address, state root in the header, certificate, and entries with values and proofs.
    for at in [5, 40, 200, 320, 400, 470, 500, good.len() / 2, last - 40, last] {
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(folder.path().join("changed.bin"), changed).unwrap();
        let refused = verify("genesis.toml", "changed.bin");
        assert_eq!(code(&refused), 1, "byte {at} is not proven");
        assert!(stderr(&refused).contains("NOT PROVEN"), "{}", stderr(&refused));
        assert!(stdout(&refused).is_empty(), "nothing is shown that is not proven");
    }
    for (what, bytes) in [("cut", &good[..last]), ("empty", &[])] {
        fs::write(folder.path().join("changed.bin"), bytes).unwrap();
        assert_eq!(code(&verify("genesis.toml", "changed.bin")), 1, "{what}");
    }
    let text = fs::read_to_string(folder.path().join("genesis.toml")).unwrap();
    fs::write(folder.path().join("other.toml"), text.replace("\"test\"", "\"other\"")).unwrap();
    let foreign = verify("other.toml", "account.bin");
    assert!(stderr(&foreign).contains("of chain"), "{}", stderr(&foreign));
    assert_eq!(code(&verify("none.toml", "account.bin")), 78);
    assert_eq!(code(&verify("genesis.toml", "none.bin")), 1);
}

#[test]
fn events_end_with_their_reader_whether_or_not_more_of_them_come() {
    let node = Node::start();
    node.open("first.pem");
    let address = node.ready.client.to_string();
    for with_more in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.args(["events", "--from", "1", "--node", &address]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        assert!(lines.read_line(&mut String::new()).unwrap() > 0);
        drop(lines);
        if with_more {
            node.open("second.pem");
        }
        assert_eq!(wait_end(child).code(), Some(0));
    }
}

#[test]
fn a_recovery_that_is_interrupted_goes_on_at_the_next_start() {
    let node = Node::start();
    node.open("other.pem");
    let genesis = hufu_node::genesis_file::load(&node.path().join("genesis.toml")).unwrap();
    let folder = node.stop();
    let (data, provider) = (folder.path().join("data"), software_provider());
    let keys = data_key::load(&folder.path().join("data.key"), &provider).unwrap();
    let options = || {
        let options = StorageOptions::new(&data, genesis.chain_id(), &provider);
        options.with_keys(Some(keys.clone()))
    };
    // Without the state everything is executed again.
    fs::remove_dir_all(&options().store.folder).unwrap();
    let recover = |go_on: &mut dyn FnMut(u64) -> bool| {
        let metrics = Arc::new(Metrics::default());
        recovery::recover(&genesis, &provider, &metrics, options(), go_on)
    };
    let mut asked = 0;
    let stopped = recover(&mut |_| {
        asked += 1;
        false
    });
    assert!(matches!(stopped, Err(RecoverError::Interrupted { height: 0 })));
    assert_eq!(asked, 1, "it stops at once");
    let recovered = recover(&mut |_| true).unwrap();
    assert!(recovered.replayed > 0 && recovered.tip.block.height == recovered.replayed);
}

#[test]
fn a_verification_that_is_interrupted_leaves_nothing() {
    let node = Node::start();
    node.open("other.pem");
    let folder = node.stop();
    let data = folder.path().join("data");
    let key = folder.path().join("data.key");
    let keys = data_key::load(&key, &software_provider()).ok();
    let stopped =
        verify_ledger::verify(&data, Level::Replay, None, keys, &mut |what, _, _| what != "blocks");
    assert!(matches!(stopped, Err(VerifyError::Interrupted)));

    let scratch = folder.path().join("tmp");
    fs::create_dir(&scratch).unwrap();
    let is_used = || fs::read_dir(&scratch).unwrap().next().is_some();
    let mut was_seen = false;
    for _ in 0..20 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.args(["ledger", "verify"]).arg(&data).env("TMPDIR", &scratch);
        command.arg("--data-key").arg(&key);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("the replay", || {
            was_seen = is_used();
            was_seen || child.try_wait().unwrap().is_some()
        });
        if was_seen {
            let process = child.id().to_string();
            assert!(Command::new("kill").args(["-INT", &process]).status().unwrap().success());
        }
        let status = wait_end(child);
        assert!(matches!(status.code(), Some(0 | 130)), "{status}");
        assert!(!is_used(), "the replay's state was left behind");
        if was_seen {
            return;
        }
    }
    panic!("the replay's state was never seen");
}

#[test]
fn the_errors_of_a_node_are_lines_of_its_log_format() {
    let node = Node::start();
    let output = hufu(node.path(), &["node", "run", "--json"]);
    assert_eq!(code(&output), 1, "the folder is in use: {}", stderr(&output));
    assert!(!stderr(&output).is_empty());
    for line in stderr(&output).lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn what_a_check_refuses_does_not_start() {
    let folder = folder();
    let (public_key, address) = new_chain(folder.path());
    let run = |more: &str, expected: &str| {
        fs::write(folder.path().join("hufu.toml"), format!("{CONFIGURATION}{more}")).unwrap();
        let checked = hufu(folder.path(), &["node", "check", "--json"]);
        let started = hufu(folder.path(), &["node", "run"]);
        assert_eq!(code(&started), 78, "{}", stderr(&started));
        assert!(stderr(&started).contains(expected), "{}", stderr(&started));
        assert_ne!(code(&checked), 0, "{expected}");
    };
    fs::write(folder.path().join("genesis.old"), "").unwrap();
    fs::rename(folder.path().join("genesis.toml"), folder.path().join("genesis.old")).unwrap();
    let [link, second, second_link] =
        ["first.link", "second.pem", "second.link"].map(|name| new_key(folder.path(), name).0);
    let validators =
        [format!("node-0:{public_key}:{link}:1"), format!("node-1:{second}:{second_link}:1")];
    let genesis = |time: &[&str]| {
        let fixed = ["genesis", "new", "--out", "genesis.toml", "--chain-name", "test"];
        let named = ["--opener", &address, "--issuer", &address];
        let both = ["--validator", &validators[0], "--validator", &validators[1]];
        hufu(folder.path(), &[&fixed[..], &named, &both, time].concat())
    };
    let future = genesis(&["--time-millis", "4102444800000"]);
    assert_eq!(code(&future), 2);
    assert!(stderr(&future).contains("ahead of this host's clock"), "{}", stderr(&future));
    assert_eq!(code(&genesis(&[])), 0);
    run("", "2 in the genesis");
    fs::rename(folder.path().join("genesis.old"), folder.path().join("genesis.toml")).unwrap();
    run("[mempol]\n", "did you mean [mempool]?");
    let text = CONFIGURATION.replace("\"none\"", "[1023]");
    fs::write(folder.path().join("hufu.toml"), text).unwrap();
    let started = hufu(folder.path(), &["node", "run"]);
    assert_eq!(code(&started), 78, "{}", stderr(&started));
    assert!(stderr(&started).contains("core 1023 is not available"), "{}", stderr(&started));
}

/// Whatever computes, the chain is the same: each back end runs a node, and its log says which.
#[test]
fn a_node_runs_on_the_back_end_that_is_asked_for_and_says_so() {
    for backend in kernels::available() {
        let place = folder();
        let log = place.path().join("log");
        let environment = [(kernels::VARIABLE, backend.name())];
        let node = Node::start_with(&environment, fs::File::create(&log).unwrap().into());
        // Signed, verified, executed and proven on this back end.
        node.open("other.pem");
        node.stop();
        let text = fs::read_to_string(&log).unwrap();
        let line = text.lines().find(|line| line.contains("passed their self-test")).unwrap();
        let named = format!("backend={} chosen_by=HUFU_KERNELS", backend.name());
        assert!(line.contains(&named), "{line}");
        let ready = text.lines().position(|line| line.contains(" ready ")).unwrap();
        let tested = text.lines().position(|other| other == line).unwrap();
        assert!(tested < ready, "tested before it is ready");
    }
}
