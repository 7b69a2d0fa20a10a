//! Data keys that a card wraps: made, used by a node, kept in another way, and refused.

use hufu_crypto::Sm3;
use hufu_runtime::process;

use super::super::running::memory::find;
use super::super::running::{CONFIGURATION, start_node};
use super::super::{hufu, json, new_chain, new_key};
use super::*;

const KEY: &str = "pkcs11:object=data";

/// A token with a wrapping key, and the chain of one node whose data key is wrapped by it.
fn chain() -> Desk {
    let desk = Desk::prepared("native", SANDBOX);
    desk.keygen(KEY, "wrap");
    new_chain(desk.folder.path());
    fs::remove_file(desk.path("data.key")).unwrap();
    desk.write("hufu.toml", CONFIGURATION);
    let made = desk.keys(&["new-data", "--out", "data.key", "--card", "card.toml", "--key", KEY]);
    assert_eq!(made["wrapped_by"]["key"], KEY, "{made}");
    assert_eq!(fs::metadata(desk.path("data.key")).unwrap().mode() & 0o7777, 0o600);
    desk
}

impl Desk {
    fn keys(&self, arguments: &[&str]) -> Value {
        json(self.folder.path(), &[&["keys"], arguments, &["--json"]].concat())
    }

    /// A run of the node in which it opens an account for a new key.
    fn settle(&self, name: &str) {
        self.settle_without(name, None);
    }

    /// The same, and a data key that must not lie in the memory of the node.
    fn settle_without(&self, name: &str, secret: Option<[u8; 32]>) {
        let folder = self.folder.path();
        let (mut child, ready) = start_node(folder, &[], Stdio::null());
        let (_, address) = new_key(folder, name);
        let open = ["tx", "open", "--key", "vote.pem", "--address", &address, "--json"];
        json(folder, &[&open[..], &["--node", &ready.client.to_string()]].concat());
        let found = secret.and_then(|secret| find(child.id(), &[secret]));
        process::ask_to_stop(&mut child).unwrap();
        // Nobody but root looks into a process that forbids core dumps.
        assert!(found.iter().flatten().all(Vec::is_empty), "the data key lies at {found:x?}");
        assert!(child.wait().unwrap().success());
    }

    /// A run of the node that must be refused for good: what it says.
    fn refused_node(&self) -> String {
        let output = hufu(self.folder.path(), &["node", "run"]);
        let said = stdout(&output) + &stderr(&output);
        assert_eq!(code(&output), 78, "{said}");
        for secret in [PIN, OFFICER_PIN, "00000000"] {
            assert!(!said.contains(secret), "{said}");
        }
        said
    }

    fn verify(&self) -> Output {
        hufu(self.folder.path(), &["ledger", "verify", "data", "--data-key", "data.key"])
    }

    /// Changes one byte of the wrapped key, with or without a check that fits.
    fn flip(&self, is_checked: bool) {
        let mut bytes = fs::read(self.path("data.key")).unwrap();
        let end = bytes.len() - 32;
        bytes[end - 50] ^= 1;
        if is_checked {
            let check = Sm3::of(&[&bytes[..end]]);
            bytes[end..].copy_from_slice(&check.0);
        }
        self.write_bytes("data.key", &bytes);
    }

    fn write_bytes(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }
}

#[test]
fn a_node_opens_its_data_key_by_its_card_and_by_nothing_else() {
    let desk = chain();
    desk.settle("second.pem");
    let verified = desk.verify();
    assert_eq!(code(&verified), 0, "{}{}", stdout(&verified), stderr(&verified));
    desk.settle("third.pem");
    let checked = hufu(desk.folder.path(), &["node", "check"]);
    let said = stdout(&checked);
    assert!(said.contains("wrapped by pkcs11:object=data of card"), "{said}");

    let good = fs::read(desk.path("data.key")).unwrap();
    desk.flip(false);
    assert!(desk.refused_node().contains("it is damaged"));
    desk.write_bytes("data.key", &good);
    desk.flip(true);
    let said = desk.refused_node();
    assert!(said.contains("was not wrapped by") && said.contains("was changed"), "{said}");
    let refused = desk.verify();
    assert_eq!(code(&refused), 1, "{}", stderr(&refused));
    desk.write_bytes("data.key", &good);

    // The token would lock at the second wrong attempt.
    desk.write("user.pin", "00000000");
    let said = desk.refused_node();
    assert!(said.contains("refused the PIN") && said.contains("ONE attempt is left"), "{said}");
    desk.write("user.pin", PIN);
    desk.settle("fourth.pem");

    desk.json(&desk.init("another", &["--yes"]));
    let said = desk.refused_node();
    assert!(said.contains("the card changed"), "{said}");
    desk.json(&["acknowledge", "--card", "card.toml", "--yes"]);
    let said = desk.refused_node();
    assert!(said.contains("no key with label \"data\""), "{said}");
    desk.keygen(KEY, "wrap");
    let said = desk.refused_node();
    assert!(said.contains("was not wrapped by"), "{said}");
    fs::remove_file(desk.path("card.toml")).unwrap();
    assert!(desk.refused_node().contains("card.toml"));
}

#[test]
fn a_data_key_goes_from_card_to_card_and_gets_a_younger_one_in_front() {
    let desk = Desk::prepared("native", SANDBOX);
    desk.keygen(KEY, "wrap");
    desk.keygen("pkcs11:object=other", "wrap");
    new_chain(desk.folder.path());
    desk.write("hufu.toml", CONFIGURATION);
    desk.settle("second.pem");
    let first = desk.keys(&["show-data", "data.key"])["data_key"].clone();

    let to = |key: &'static str| ["rewrap-data", "data.key", "--card", "card.toml", "--key", key];
    let file = fs::read(desk.path("data.key")).unwrap();
    desk.keys(&to(KEY));
    desk.settle_without("third.pem", Some(file[64..96].try_into().unwrap()));
    let other = desk.keys(&to("pkcs11:object=other"));
    assert_eq!(other["wrapped_by"]["key"], "pkcs11:object=other", "{other}");
    let rotated = desk.keys(&["rotate-data", "data.key"]);
    let ids = rotated["data_keys"].as_array().unwrap();
    assert_eq!((ids.len(), &ids[1]), (2, &first), "{rotated}");
    desk.settle("fourth.pem");
    desk.settle("fifth.pem");
    let verified = desk.verify();
    assert_eq!(code(&verified), 0, "{}{}", stdout(&verified), stderr(&verified));

    // The card is away: nothing is changed.
    fs::rename(desk.path("card.toml"), desk.path("moved.toml")).unwrap();
    let before = fs::read(desk.path("data.key")).unwrap();
    let refused = hufu(desk.folder.path(), &["keys", "rewrap-data", "data.key", "--clear"]);
    assert_eq!(code(&refused), 78, "{}", stderr(&refused));
    assert_eq!(fs::read(desk.path("data.key")).unwrap(), before);
    let clear = ["rewrap-data", "data.key", "--clear", "--from-card", "moved.toml"];
    let clear = desk.keys(&clear);
    assert!(clear["wrapped_by"].is_null(), "{clear}");
    desk.settle("sixth.pem");

    let usage = hufu(desk.folder.path(), &["keys", "rewrap-data", "data.key"]);
    assert_eq!(code(&usage), 2, "{}", stderr(&usage));
    let wrong = ["keys", "new-data", "--out", "new.key", "--card", "moved.toml"];
    assert_eq!(code(&hufu(desk.folder.path(), &wrong)), 2, "a card without a key");
    let wrong = [&wrong[..], &["--key", "pkcs11:object=nobody"]].concat();
    let refused = hufu(desk.folder.path(), &wrong);
    assert_eq!(code(&refused), 78, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("no key with label"), "{}", stderr(&refused));
    assert!(!desk.path("new.key").exists());
}
