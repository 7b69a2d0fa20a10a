//! The command line: exit codes, faults, files, JSON, and what must never happen.
//!
//! It runs the binary as an operator would: here without a node, in `cli/running.rs` beside one, in
//! `cli/crypto.rs` with files and keys only, in `cli/encrypted_keys.rs` with keys under a
//! passphrase, in `cli/hsm.rs` and `cli/data_keys.rs` with cards.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

#[path = "cli/crypto.rs"]
mod crypto;
#[path = "cli/encrypted_keys.rs"]
mod encrypted_keys;
#[path = "cli/hsm.rs"]
mod hsm;
#[path = "cli/running.rs"]
mod running;

fn hufu(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs a command that must succeed and parses what it prints.
fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = hufu(folder, arguments);
    assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Makes a key and returns its public key and address.
fn new_key(folder: &Path, name: &str) -> (String, String) {
    let key = json(folder, &["keys", "new", "--out", name, "--json"]);
    let text = |field: &str| key[field].as_str().unwrap().to_owned();
    (text("public_key"), text("address"))
}

/// Makes a key and a genesis with that key for everything.
fn new_chain(folder: &Path) -> (String, String) {
    let (public_key, address) = new_key(folder, "vote.pem");
    let (link_key, _) = new_key(folder, "link.pem");
    new_key(folder, "audit.pem");
    json(folder, &["keys", "new-data", "--out", "data.key", "--json"]);
    let validator = format!("node-0:{public_key}:{link_key}:1");
    let arguments = [
        "genesis",
        "new",
        "--out",
        "genesis.toml",
        "--chain-name",
        "test",
        "--validator",
        &validator,
        "--opener",
        &address,
        "--issuer",
        &address,
        "--json",
    ];
    json(folder, &arguments);
    (public_key, address)
}

#[test]
fn help_and_version_are_there_and_nonsense_is_usage() {
    let folder = folder();
    let version = hufu(folder.path(), &["--version"]);
    assert_eq!(code(&version), 0);
    assert!(stdout(&version).starts_with("hufu 0."), "{}", stdout(&version));
    for noun in [
        "node", "account", "ledger", "config", "genesis", "keys", "tx", "query", "receipt",
        "events", "localnet", "crypto", "hsm",
    ] {
        let help = hufu(folder.path(), &[noun, "--help"]);
        assert_eq!(code(&help), 0, "{noun}");
        assert!(stdout(&help).contains("--json"), "{noun}: {}", stdout(&help));
    }
    for arguments in
        [&["nonsense"] as &[&str], &[], &["keys", "new"], &["tx", "transfer", "--amount", "0"]]
    {
        assert_eq!(code(&hufu(folder.path(), arguments)), 2, "{arguments:?}");
        let output = hufu(folder.path(), &[arguments, &["--json"]].concat());
        assert_eq!(code(&output), 2, "{arguments:?}");
        let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
        for part in ["what", "remedy"] {
            assert!(!error["error"][part].as_str().unwrap().is_empty(), "{arguments:?}: {error}");
        }
    }
    let misspelt = hufu(folder.path(), &["config", "chek", "--json"]);
    let error: Value = serde_json::from_str(&stderr(&misspelt)).unwrap();
    assert!(error["error"]["what"].as_str().unwrap().contains("'chek'"), "{error}");
}

#[test]
fn keys_are_private_and_never_overwritten() {
    let folder = folder();
    let (public_key, address) = new_key(folder.path(), "vote.pem");
    let mode = fs::metadata(folder.path().join("vote.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let shown = json(folder.path(), &["keys", "show", "vote.pem", "--json"]);
    assert_eq!(shown["public_key"], public_key.as_str());
    assert_eq!(shown["address"], address.as_str());

    let before = fs::read(folder.path().join("vote.pem")).unwrap();
    let again = hufu(folder.path(), &["keys", "new", "--out", "vote.pem"]);
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains("never overwritten"), "{}", stderr(&again));
    assert_eq!(fs::read(folder.path().join("vote.pem")).unwrap(), before);

    let secret = String::from_utf8(before).unwrap();
    let body: String = secret.lines().filter(|line| !line.starts_with('-')).collect();
    for output in [again, hufu(folder.path(), &["keys", "show", "vote.pem"])] {
        assert!(!stdout(&output).contains(&body[..32]) && !stderr(&output).contains(&body[..32]));
    }

    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(folder.path().join("vote.pem"), open).unwrap();
    let exposed = hufu(folder.path(), &["keys", "show", "vote.pem"]);
    assert_eq!(code(&exposed), 1);
    assert!(stderr(&exposed).contains("chmod 600"), "{}", stderr(&exposed));
}

#[test]
fn a_data_key_is_private_shows_its_id_alone_and_is_never_overwritten() {
    let folder = folder();
    let made = json(folder.path(), &["keys", "new-data", "--out", "data.key", "--json"]);
    let path = folder.path().join("data.key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let shown = json(folder.path(), &["keys", "show-data", "data.key", "--json"]);
    assert_eq!(made["data_key"], shown["data_key"]);
    assert_eq!(shown["data_key"].as_str().unwrap().len(), 16);
    let before = fs::read(&path).unwrap();
    let again = hufu(folder.path(), &["keys", "new-data", "--out", "data.key"]);
    assert_eq!(code(&again), 1);
    assert_eq!(fs::read(&path).unwrap(), before);
    let mut bytes = before.clone();
    bytes[70] ^= 1;
    fs::write(&path, bytes).unwrap();
    let damaged = hufu(folder.path(), &["keys", "show-data", "data.key"]);
    assert_eq!(code(&damaged), 1);
    assert!(stderr(&damaged).contains("damaged"), "{}", stderr(&damaged));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = hufu(folder.path(), &["keys", "show-data", "data.key"]);
    assert!(stderr(&exposed).contains("chmod 600"), "{}", stderr(&exposed));
}

#[test]
fn a_configuration_shows_all_its_faults_and_exits_with_78() {
    let folder = folder();
    new_chain(folder.path());
    let good = "[node]\nname = \"node-0\"\ndata_dir = \"data\"\ngenesis = \"genesis.toml\"\n\
                key = \"vote.pem\"\n";
    fs::write(folder.path().join("hufu.toml"), good).unwrap();
    let checked = hufu(folder.path(), &["config", "check", "hufu.toml"]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));

    let bad = format!(
        "{good}[client]\nlisten = \"0.0.0.0:7001\"\n[mempol]\n[log]\ndepht = 2\nbackend = \"fast\"\n"
    );
    fs::write(folder.path().join("hufu.toml"), bad).unwrap();
    let output = hufu(folder.path(), &["config", "check", "hufu.toml", "--json"]);
    assert_eq!(code(&output), 78);
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    let faults = error["error"]["faults"].as_array().unwrap();
    let keys: Vec<&str> = faults.iter().map(|fault| fault["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["client.listen", "mempol", "log.depht", "log.backend"]);
    for fault in faults {
        for part in ["rule", "remedy"] {
            assert!(!fault[part].as_str().unwrap().is_empty(), "{fault}");
        }
        assert!(fault["line"].is_u64(), "{fault}");
    }
    let text = hufu(folder.path(), &["config", "check", "hufu.toml"]);
    assert!(stderr(&text).contains("did you mean `depth`?"), "{}", stderr(&text));
    assert_eq!(code(&hufu(folder.path(), &["config", "check", "none.toml"])), 78);
}

#[test]
fn the_defaults_that_are_shown_are_a_configuration() {
    let folder = folder();
    new_chain(folder.path());
    let shown = stdout(&hufu(folder.path(), &["config", "show"]));
    let text = shown
        .replace("# name =", "name =")
        .replace("# data_dir = \"/var/lib/hufu\"", "data_dir = \"data\"")
        .replace("# genesis =", "genesis =")
        .replace("# key =", "key =")
        .replace("# key_file =", "key_file =")
        .replace("# addresses = ", "addresses = {} # ");
    fs::write(folder.path().join("hufu.toml"), text).unwrap();
    let checked = hufu(folder.path(), &["config", "check", "hufu.toml"]);
    assert_eq!(code(&checked), 0, "{}", stderr(&checked));
    let values = json(folder.path(), &["config", "show", "hufu.toml", "--json"]);
    assert_eq!(values["log"]["depth"]["value"], 1);
    let schema = json(folder.path(), &["config", "schema", "--json"]);
    assert_eq!(schema["properties"]["log"]["properties"]["depth"]["maximum"], 4);
}

#[test]
fn a_genesis_has_one_chain_id_and_shows_all_its_faults() {
    let folder = folder();
    new_chain(folder.path());
    let first = json(folder.path(), &["genesis", "show", "genesis.toml", "--json"]);
    let again = json(folder.path(), &["genesis", "show", "genesis.toml", "--json"]);
    assert_eq!(first["chain_id"], again["chain_id"]);
    assert_eq!(first["chain_id"].as_str().unwrap().len(), 64);
    let text = fs::read_to_string(folder.path().join("genesis.toml")).unwrap();
    let bad = text.replace("power = 1", "power = 0").replace("chain_name", "chainname");
    fs::write(folder.path().join("bad.toml"), bad).unwrap();
    let output = hufu(folder.path(), &["genesis", "show", "bad.toml", "--json"]);
    assert_eq!(code(&output), 78);
    let error: Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert_eq!(error["error"]["faults"].as_array().unwrap().len(), 3, "{error}");
}

#[test]
fn a_transaction_is_built_signed_and_shown_without_a_node() {
    let folder = folder();
    let (public_key, address) = new_chain(folder.path());
    let (_, other) = new_key(folder.path(), "other.pem");
    let description = format!(
        "nonce = 5\nvalid_until = 100\n[[operations]]\nkind = \"transfer\"\nasset = \"USD\"\n\
         to = \"{other}\"\namount = \"7\"\n"
    );
    fs::write(folder.path().join("tx.toml"), description).unwrap();
    let build = [
        "tx",
        "build",
        "--description",
        "tx.toml",
        "--sender",
        &public_key,
        "--genesis",
        "genesis.toml",
        "--out",
        "tx.unsigned",
        "--json",
    ];
    json(folder.path(), &build);
    let unsigned = json(folder.path(), &["tx", "show", "tx.unsigned", "--json"]);
    assert_eq!(unsigned["signature"], "none");

    let foreign = ["tx", "sign", "tx.unsigned", "--key", "other.pem", "--out", "tx.foreign"];
    let refused = hufu(folder.path(), &foreign);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("another sender"), "{}", stderr(&refused));
    assert!(!folder.path().join("tx.foreign").exists());

    let sign = ["tx", "sign", "tx.unsigned", "--key", "vote.pem", "--out", "tx.signed", "--json"];
    let signed = json(folder.path(), &sign);
    assert_eq!(signed["signature"], "valid");
    assert_eq!(signed["sender"], address.as_str());
    assert_eq!(signed["operations"][0]["from"], address.as_str());

    // The same by flags and without a node gives the same transaction, byte for byte but for the
    // signature, which is another one every time.
    let flags = [
        "tx",
        "transfer",
        "--key",
        "vote.pem",
        "--asset",
        "USD",
        "--to",
        &other,
        "--amount",
        "7",
        "--nonce",
        "5",
        "--valid-until",
        "100",
        "--genesis",
        "genesis.toml",
        "--out",
        "tx.flags",
        "--json",
    ];
    assert_eq!(json(folder.path(), &flags)["transaction"], signed["transaction"]);
    let by_flags = json(folder.path(), &["tx", "show", "tx.flags", "--json"]);
    assert_eq!(by_flags["signature"], "valid");
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let (one, other) = (read("tx.flags"), read("tx.signed"));
    let (unsigned, signature) = one.split_at(one.len() - 64);
    assert_eq!(other[..unsigned.len()], *unsigned);
    assert_ne!(other[unsigned.len()..], *signature);

    let mut bytes = read("tx.signed");
    bytes[130] ^= 1;
    fs::write(folder.path().join("tx.broken"), bytes).unwrap();
    let broken = hufu(folder.path(), &["tx", "show", "tx.broken"]);
    assert!(code(&broken) == 1 || stdout(&broken).contains("INVALID"), "{}", stdout(&broken));
}

#[test]
fn a_node_that_is_not_there_is_named() {
    let folder = folder();
    // A socket that is bound and does not listen refuses connections, and nobody else can have it.
    let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = bound.local_addr().unwrap().to_string();
    drop(bound);
    let output = hufu(folder.path(), &["query", "status", "--node", &address]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains(&address), "{}", stderr(&output));
    assert!(stderr(&output).contains("do: "), "{}", stderr(&output));
    let outside = hufu(folder.path(), &["query", "status", "--node", "192.0.2.1:7001"]);
    assert_eq!(code(&outside), 1);
    assert!(stderr(&outside).contains("loopback"), "{}", stderr(&outside));
}

#[test]
fn receipts_that_are_none_are_refused() {
    let folder = folder();
    new_chain(folder.path());
    let verify = ["receipt", "verify", "--genesis", "genesis.toml", "junk", "--json"];
    fs::write(folder.path().join("junk"), [0x55; 300]).unwrap();
    let output = hufu(folder.path(), &verify);
    assert_eq!(code(&output), 1);
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["failed"], 1);
    // Two records, the second cut short: an error that names the file.
    let mut records = vec![3, 0, 0, 0, 1, 2, 3];
    records.extend([9, 0, 0, 0, 1]);
    fs::write(folder.path().join("junk"), records).unwrap();
    let output = hufu(folder.path(), &verify);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("junk"), "{}", stderr(&output));
    // A whole record that is no receipt is counted as one that failed.
    fs::write(folder.path().join("junk"), [3, 0, 0, 0, 1, 2, 3]).unwrap();
    let output = hufu(folder.path(), &verify);
    assert_eq!(code(&output), 1);
    let result: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["failed"], 1);
}

#[test]
fn a_reader_that_goes_away_changes_nothing() {
    let folder = folder();
    let mut child = Command::new(env!("CARGO_BIN_EXE_hufu"))
        .current_dir(folder.path())
        .args(["config", "schema"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_local_network_has_one_to_sixteen_nodes() {
    let folder = folder();
    for count in ["0", "17", "many"] {
        let output = hufu(folder.path(), &["localnet", "run", "--nodes", count]);
        assert_eq!(code(&output), 2, "{count}");
        assert!(stderr(&output).contains("--nodes"), "{}", stderr(&output));
    }
}

#[test]
fn a_local_network_loses_a_node_only_where_the_others_go_on() {
    let folder = folder();
    let lone: [&[&str]; 3] = [
        &["--kill-after", "5", "--rate", "100", "--nodes", "3"],
        &["--kill-after", "5", "--rate", "max"],
        &["--wipe"],
    ];
    for options in lone {
        let output = hufu(folder.path(), &[&["localnet", "run"], options].concat());
        assert_eq!(code(&output), 2, "{options:?}");
        let text = stderr(&output);
        assert!(text.contains("--kill-after"), "{text}");
    }
}

#[test]
fn a_local_network_never_joins_an_older_folder() {
    let folder = folder();
    fs::write(folder.path().join("something"), "").unwrap();
    let output = hufu(folder.path(), &["localnet", "run", "--dir", "."]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("not empty"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
