//! `--audit DIR` of the commands that change something, and `hufu audit` over what they left.

use std::path::PathBuf;

use hufu_runtime::process::lock_file;

use super::*;

/// What every file of a folder holds.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

impl Desk {
    fn hufu(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(self.folder.path()).args(arguments);
        command.env("HUFU_SOFTTOKEN_CONF", self.path("softtoken.toml"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn shown(&self) -> Vec<Value> {
        let output = self.hufu(&["audit", "show", "log", "--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn commands_leave_a_record_of_what_they_did_and_no_secret() {
    let desk = Desk::new("native", "");
    let made = desk.hufu(&["keys", "new", "--out", "audit.pem", "--json"]);
    let sealed_by: Value = serde_json::from_str(&stdout(&made)).unwrap();
    let sealed_by = sealed_by["public_key"].as_str().unwrap().to_owned();
    let audit = ["--audit", "log", "--audit-key", "audit.pem"];
    desk.json(&desk.init("hufu", &audit));
    let keygen =
        ["keygen", "--card", "card.toml", "--key", "pkcs11:object=vote", "--usage", "sign"];
    let made = desk.json(&[&keygen[..], &audit].concat());
    let (exit, _) = desk.refused(&[&keygen[..], &audit].concat());
    assert_eq!(exit, 1);
    desk.write("new.pin", "24681357");
    let set = ["set-pin", "--card", "card.toml", "--new-pin-file", "new.pin"];
    desk.json(&[&set[..], &audit].concat());
    // The file still has the old one.
    let (exit, _) = desk.refused(&[&set[..], &audit].concat());
    assert_eq!(exit, 78);
    desk.write("user.pin", "24681357");
    desk.json(&desk.init("another", &["--yes"]));
    let acknowledge = ["acknowledge", "--card", "card.toml", "--yes"];
    desk.json(&[&acknowledge[..], &audit].concat());
    for words in [["keys", "new", "--out", "other.pem"], ["keys", "new-data", "--out", "data.key"]]
    {
        let output = desk.hufu(&[&words[..], &audit].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }

    let records = desk.shown();
    let of_people: Vec<(&str, &str)> = records
        .iter()
        .filter(|record| record["actor"] != "audit")
        .map(|record| (record["action"].as_str().unwrap(), record["outcome"].as_str().unwrap()))
        .collect();
    let expected = [
        ("token.initialised", "done"),
        ("key.generated", "done"),
        ("key.generated", "failed"),
        ("pin.changed", "done"),
        ("pin.changed", "failed"),
        ("card.acknowledged", "done"),
        ("key.generated", "done"),
        ("data_key.generated", "done"),
    ];
    assert_eq!(of_people, expected);
    let key = records.iter().find(|record| record["action"] == "key.generated").unwrap();
    assert_eq!(key["details"]["address"], made["address"]);
    assert_eq!(key["subject"], "pkcs11:object=vote");
    assert!(key["actor"].as_str().unwrap().starts_with("user "), "{key}");
    let wrong = records.iter().rfind(|record| record["action"] == "pin.changed").unwrap();
    assert!(wrong["details"]["reason"].as_str().unwrap().contains("refused the PIN"), "{wrong}");

    let verify = |key: &str| desk.hufu(&["audit", "verify", "log", "--key", key, "--json"]);
    let found: Value = serde_json::from_str(&stdout(&verify(&sealed_by))).unwrap();
    assert_eq!((&found["seals"], &found["unsealed"]), (&8.into(), &0.into()), "{found}");
    let other = made["public_key"].as_str().unwrap();
    let refused = verify(other);
    assert!(code(&refused) == 1 && stderr(&refused).contains("none of the node's"), "{refused:?}");

    // What was planted: PINs, private keys in every form, the folders of the files.
    let mut secrets: Vec<Vec<u8>> =
        [PIN, OFFICER_PIN, "24681357"].map(|pin| pin.as_bytes().to_vec()).to_vec();
    for name in ["audit.pem", "other.pem"] {
        let text = fs::read_to_string(desk.path(name)).unwrap();
        secrets.extend(text.lines().filter(|line| !line.starts_with("---")).map(Into::into));
        let signer = hufu_crypto::SoftwareSigner::from_pkcs8_pem(&text).unwrap();
        let _same_key: &hufu_crypto::PublicKey = hufu_crypto::Signer::public_key(&signer);
    }
    secrets.push(fs::read(desk.path("data.key")).unwrap()[64..96].to_vec());
    secrets.push(desk.folder.path().as_os_str().as_encoded_bytes().to_vec());
    for (path, bytes) in contents(&desk.path("log")) {
        for secret in &secrets {
            let is_there = bytes.windows(secret.len()).any(|window| window == &secret[..]);
            assert!(!is_there, "{}: {secret:?}", path.display());
        }
    }
}

#[test]
fn what_cannot_be_recorded_is_not_done() {
    let desk = Desk::prepared("native", "");
    let keygen =
        ["keygen", "--card", "card.toml", "--key", "pkcs11:object=vote", "--usage", "sign"];
    let audited = [&keygen[..], &["--audit", "log"]].concat();
    let make = ["keys", "new", "--out", "first.pem", "--audit", "log"];
    assert_eq!(code(&desk.hufu(&make)), 0);
    let held = lock_file(&desk.path("log/lock")).unwrap();
    let (exit, said) = desk.refused(&audited);
    assert!(exit == 1 && said.contains("being written by another process"), "{said}");
    drop(held);
    let file = desk.path("log/audit-00000001.jsonl");
    let good = fs::read(&file).unwrap();
    let mut bad = good.clone();
    let place = good.windows(5).position(|window| window == b"first").unwrap();
    bad[place] ^= 1;
    // One more record, so that the damage is no torn end.
    let behind = fs::read(&file).unwrap();
    assert_eq!(behind, good);
    assert_eq!(code(&desk.hufu(&["keys", "new", "--out", "second.pem", "--audit", "log"])), 0);
    let mut long = fs::read(&file).unwrap();
    long[place] ^= 1;
    fs::write(&file, &long).unwrap();
    let (exit, said) = desk.refused(&audited);
    assert!(exit == 1 && said.contains("line 2") && said.contains("digest differs"), "{said}");
    let found = desk.hufu(&["audit", "verify", "log"]);
    assert!(code(&found) == 1 && stderr(&found).contains("jsonl, line 2"), "{found:?}");
    let shown = desk.hufu(&["audit", "show", "log"]);
    assert!(code(&shown) == 1 && stdout(&shown).lines().count() == 1, "{shown:?}");
    let asked = [&STATUS[..], &["--key", "pkcs11:object=vote"]].concat();
    assert!(desk.refused(&asked).1.contains("no key with label"), "no key was made");
    let nothing = desk.hufu(&["audit", "verify", "token"]);
    assert_eq!(code(&nothing), 1, "{nothing:?}");
}
