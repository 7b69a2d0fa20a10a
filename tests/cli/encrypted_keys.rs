//! Keys under a passphrase, as an operator makes, uses and changes them.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use hufu_runtime::process;

use super::running::memory::{find, private_bytes};
use super::running::{CONFIGURATION, start_node};
use super::{code, folder, hufu, json, new_chain, new_key, stderr, stdout};

/// Of 32 bytes, which is what is looked for in memory.
const PASSPHRASE: &str = "two halves of a tiger, 32 bytes.";

fn secret(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// All that a command said, in which no passphrase is.
fn said(output: &Output) -> String {
    let said = stdout(output) + &stderr(output);
    assert!(!said.contains(PASSPHRASE) && !said.contains("another one"), "{said}");
    said
}

#[test]
fn a_key_is_made_shown_changed_and_taken_out_again() {
    let folder = folder();
    let at = folder.path();
    secret(at, "one", &format!("{PASSPHRASE}\n"));
    secret(at, "two", "another one");
    let new = ["keys", "new", "--out", "own.pem", "--encrypt", "--passphrase-file", "one"];
    let new = [&new[..], &["--json"]].concat();
    let made = json(at, &new);
    let text = fs::read_to_string(at.join("own.pem")).unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{text}");
    let shown = json(at, &["keys", "show", "own.pem", "--json"]);
    assert_eq!(shown["public_key"], made["public_key"], "without the passphrase");
    let again = hufu(at, &new);
    assert_eq!(code(&again), 1, "{}", said(&again));

    let encrypt = |more: &[&str]| hufu(at, &[&["keys", "encrypt", "own.pem"], more].concat());
    let refused = encrypt(&["--passphrase-file", "two"]);
    let text = said(&refused);
    assert!(code(&refused) == 1 && text.contains("no passphrase is given"), "{text}");
    let refused = encrypt(&["--passphrase-file", "two", "--old-passphrase-file", "two"]);
    let text = said(&refused);
    assert!(code(&refused) == 78 && text.contains("does not open the key file"), "{text}");
    let changed = encrypt(&["--passphrase-file", "two", "--old-passphrase-file", "one"]);
    assert_eq!(code(&changed), 0, "{}", said(&changed));

    // Signing, by a passphrase from a descriptor.
    fs::write(at.join("text"), "text").unwrap();
    let sign = ["crypto", "sm2-sign", "--key", "own.pem", "text"];
    let refused = hufu(at, &sign);
    let text = said(&refused);
    assert!(code(&refused) == 1 && text.contains("--passphrase-file"), "{text}");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut &ours, b"another one").unwrap();
    drop(ours);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(at).args(sign).args(["--passphrase-descriptor", "0"]);
    let signed = command.stdin(Stdio::from(OwnedFd::from(theirs))).output().unwrap();
    assert_eq!(code(&signed), 0, "{}", said(&signed));

    let exposed = fs::Permissions::from_mode(0o644);
    fs::set_permissions(at.join("two"), exposed).unwrap();
    let decrypt = ["keys", "decrypt", "own.pem", "--passphrase-file", "two"];
    let refused = hufu(at, &decrypt);
    let text = said(&refused);
    assert!(code(&refused) == 78 && text.contains("others may read it"), "{text}");
    secret(at, "two", "another one");
    assert_eq!(code(&hufu(at, &decrypt)), 0);
    let text = fs::read_to_string(at.join("own.pem")).unwrap();
    assert!(text.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    for usage in [
        &["keys", "encrypt", "own.pem"][..],
        &["keys", "new", "--out", "a.pem", "--encrypt"],
        &["keys", "new", "--out", "a.pem", "--passphrase-file", "one"],
    ] {
        let refused = hufu(at, usage);
        assert_eq!(code(&refused), 2, "{usage:?}: {}", said(&refused));
    }
}

#[test]
fn a_node_starts_with_the_passphrase_of_its_keys_and_not_with_another() {
    let folder = folder();
    let at = folder.path();
    let (_, operator) = new_chain(at);
    secret(at, "passphrase", PASSPHRASE);
    fs::write(at.join("hufu.toml"), CONFIGURATION).unwrap();
    let run = || hufu(at, &["node", "run"]);
    let private = private_bytes(&at.join("vote.pem"));
    for file in ["vote.pem", "audit.pem"] {
        json(at, &["keys", "encrypt", file, "--passphrase-file", "passphrase", "--json"]);
    }
    let refused = run();
    let text = said(&refused);
    assert!(code(&refused) == 78 && text.contains("node.passphrase_file"), "{text}");
    let key = "key = \"vote.pem\"\n";
    let configured =
        |name: &str| CONFIGURATION.replace(key, &format!("{key}passphrase_file = \"{name}\"\n"));
    fs::write(at.join("hufu.toml"), configured("passphrase")).unwrap();
    let checked = hufu(at, &["node", "check"]);
    assert!(said(&checked).contains("opens node.key"), "{}", said(&checked));

    let log = fs::File::create(at.join("log")).unwrap();
    let (mut child, ready) = start_node(at, &[], log.into());
    let word: [u8; 32] = PASSPHRASE.as_bytes().try_into().unwrap();
    // Nobody but root looks into a process that forbids core dumps.
    if let Some(found) = find(child.id(), &[private, word]) {
        assert_eq!(found[0].len(), 1, "the vote key lies at {:x?}", found[0]);
        assert_eq!(found[1].len(), 0, "the passphrase lies at {:x?}", found[1]);
    }
    let address = ready.client.to_string();
    let (_, other) = new_key(at, "second.pem");
    let open = ["tx", "open", "--key", "vote.pem", "--address", &other, "--node", &address];
    let refused = hufu(at, &open);
    assert!(code(&refused) == 1 && said(&refused).contains("is encrypted"), "{}", said(&refused));
    json(at, &[&open[..], &["--passphrase-file", "passphrase", "--json"]].concat());
    process::ask_to_stop(&mut child).unwrap();
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(at.join("log")).unwrap();
    assert!(!log.contains("stored in clear") && !log.contains(PASSPHRASE), "{log}");
    assert!(!operator.is_empty());

    secret(at, "wrong", "another one");
    for (name, reason) in [
        ("wrong", "audit.key_file: the passphrase does not open the key file"),
        ("none", "node.passphrase: passphrase cannot be read from file"),
    ] {
        fs::write(at.join("hufu.toml"), configured(name)).unwrap();
        let refused = run();
        let text = said(&refused);
        assert!(code(&refused) == 78 && text.contains(reason), "{text}");
        let checked = hufu(at, &["node", "check"]);
        assert_ne!(code(&checked), 0, "{}", said(&checked));
    }

    // In clear it is said once.
    fs::write(at.join("hufu.toml"), configured("passphrase")).unwrap();
    json(at, &["keys", "decrypt", "vote.pem", "--passphrase-file", "passphrase", "--json"]);
    let log = fs::File::create(at.join("log")).unwrap();
    let (mut child, _) = start_node(at, &[], log.into());
    process::ask_to_stop(&mut child).unwrap();
    assert!(child.wait().unwrap().success());
    let log = fs::read_to_string(at.join("log")).unwrap();
    assert_eq!(log.matches("private keys are stored in clear").count(), 1, "{log}");
}
