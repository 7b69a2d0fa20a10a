//! A cloned key goes from one card to another by the hands of its custodians, and signs from a key
//! file.

use super::*;

const KEY: &str = "pkcs11:object=vote";

/// The program, without `hsm` in front.
fn hufu(desk: &Desk, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(desk.folder.path()).args(arguments);
    command.env("HUFU_SOFTTOKEN_CONF", desk.path("softtoken.toml"));
    command.stdin(Stdio::null()).output().unwrap()
}

/// A card with a cloned key, and two custodians with keys and one with a passphrase.
fn desk_with_custodians() -> Desk {
    let desk = Desk::prepared("native", "");
    let made = ["keygen", "--card", "card.toml", "--key", KEY, "--usage", "sign"];
    desk.json(&[&made[..], &["--class", "cloned", "--out", "vote.key"]].concat());
    for name in ["a", "b"] {
        let (key, public) = (format!("{name}.key"), format!("{name}.pub"));
        let made = hufu(&desk, &["crypto", "sm2-keygen", "--out", &key, "--public-out", &public]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
    }
    desk.write("c.pass", "correct horse battery staple");
    desk
}

/// Two of three shares are needed.
fn export<'a>(key: &'a str, out: &'a str) -> Vec<&'a str> {
    let what = ["export-shares", "--card", "card.toml", "--key", key, "--usage", "sign"];
    let terms = ["--so-pin-file", "officer.pin", "--needed", "2", "--out", out];
    let whose = ["--custodian", "a.pub", "--custodian", "b.pub", "--passphrase-file", "c.pass"];
    [&what[..], &terms, &whose].concat()
}

fn import<'a>(shares: &[[&'a str; 2]]) -> Vec<&'a str> {
    let what = ["import-shares", "--card", "card.toml", "--key", KEY, "--out", "new.key"];
    let shares =
        shares.iter().flat_map(|[share, opener]| ["--share", share, "--opens-with", opener]);
    what.into_iter().chain(["--wrapped", "shares/wrapped-key.toml"]).chain(shares).collect()
}

#[test]
fn a_cloned_key_goes_to_another_card_by_the_hands_of_its_custodians() {
    let desk = desk_with_custodians();
    let exported = desk.json(&export(KEY, "shares"));
    assert_eq!((&exported["needed"], &exported["count"]), (&2.into(), &3.into()));
    let mode = |name: &str| fs::metadata(desk.path(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("shares"), 0o700);
    for name in ["wrapped-key.toml", "share-1.toml", "share-2.toml", "share-3.toml"] {
        assert_eq!(mode(&format!("shares/{name}")), 0o600, "{name}");
    }
    let (exit, said) = desk.refused(&export(KEY, "shares"));
    assert!(exit == 1 && said.contains("exists already"), "{said}");

    let all = [["shares/share-1.toml", "a.key"], ["shares/share-3.toml", "c.pass"]];
    let (exit, said) = desk.refused(&import(&all));
    assert!(exit == 1 && said.contains("exists already"), "{said}");

    // Another card: nothing is left of what was on the token.
    desk.json(&desk.init("other", &["--yes"]));
    let (exit, said) = desk.refused(&import(&all));
    assert!(exit == 78 && said.contains("acknowledge"), "it is another card: {said}");
    desk.json(&["acknowledge", "--card", "card.toml", "--yes"]);
    let found = desk.json(&import(&all));
    assert_eq!(found["public_key"], exported["public_key"]);

    // It signs from its new key file, and what it signed verifies.
    desk.write("message", "three hundred to account 7");
    let signed = hufu(&desk, &["crypto", "sm2-sign", "--key", "new.key", "message", "--json"]);
    assert_eq!(code(&signed), 0, "{}", stderr(&signed));
    let signed: Value = serde_json::from_str(&stdout(&signed)).unwrap();
    assert_eq!(signed["public_key"], exported["public_key"]);
    let sealed =
        hufu(&desk, &["crypto", "sm2-decrypt", "--key", "new.key", "--out", "x", "message"]);
    assert!(stderr(&sealed).contains("in a card"), "only what a card does: {}", stderr(&sealed));
}

#[test]
fn shares_that_are_too_few_foreign_changed_or_the_same_are_refused_by_name() {
    let desk = desk_with_custodians();
    desk.json(&export(KEY, "shares"));
    desk.json(&export(KEY, "again"));
    desk.json(&desk.init("hufu", &["--yes"]));
    desk.json(&["acknowledge", "--card", "card.toml", "--yes"]);
    let (one, two) = (["shares/share-1.toml", "a.key"], ["shares/share-2.toml", "b.key"]);
    let changed = fs::read_to_string(desk.path("shares/share-1.toml")).unwrap();
    desk.write("changed.toml", &changed.replace("needed = 2", "needed = 3"));
    desk.write("wrong.pass", "correct horse battery stable");
    for (shares, reason) in [
        (vec![one], "1 shares, 2 are needed"),
        (vec![one, one], "share 1 is there twice"),
        (vec![["again/share-1.toml", "a.key"], two], "share 1 is of export"),
        (vec![["shares/share-1.toml", "b.key"], two], "another custodian's key"),
        (vec![["changed.toml", "a.key"], two], "share 1 does not open"),
        (vec![one, ["shares/share-3.toml", "wrong.pass"]], "passphrase is another one"),
    ] {
        let (exit, said) = desk.refused(&import(&shares));
        assert!(exit == 1 && said.contains(reason), "{reason}: {said}");
        assert!(!said.contains("horse"), "{said}");
    }
    let wrapped = fs::read_to_string(desk.path("shares/wrapped-key.toml")).unwrap();
    let changed = wrapped.replace("profile = \"hufu-softtoken\"", "profile = \"sansec\"");
    assert_ne!(changed, wrapped);
    desk.write("shares/wrapped-key.toml", &changed);
    let (exit, said) = desk.refused(&import(&[one, two]));
    assert!(exit == 1 && said.contains("was changed"), "{said}");
    // A share without what opens it is no command.
    let (exit, _) = desk.refused(&import(&[one, two])[..15]);
    assert_eq!(exit, 2);

    let single = ["keygen", "--card", "card.toml", "--key", "pkcs11:object=stays"];
    desk.json(&[&single[..], &["--usage", "sign"]].concat());
    let (exit, said) = desk.refused(&export("pkcs11:object=stays", "none"));
    assert!(exit == 1 && said.contains("made single-card"), "{said}");
    assert!(!desk.path("none").exists());
    let few = export("pkcs11:object=stays", "none");
    let few: Vec<&str> = few.iter().map(|word| if *word == "2" { "1" } else { word }).collect();
    let (exit, said) = desk.refused(&few);
    assert!(exit == 1 && said.contains("at least 2"), "{said}");
}
