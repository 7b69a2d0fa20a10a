//! `hufu hsm`, as an operator types it, against the soft token as the card of several vendors.

use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hufu_crypto::{Digest, Signature};
use hufu_hsm::agent::{Agent, AgentConfig, AgentSource, AgentState};
use hufu_hsm::card::deadline_in;
use hufu_hsm::config::CardConfig;
use hufu_hsm::{Error, KeyReference, Keystore, Usage};
use hufu_softtoken::{Fault, Faults, Garbage};
use serde_json::Value;

use super::{code, folder, stderr, stdout};

mod audit;
#[path = "cards.rs"]
mod cards;
#[path = "data_keys.rs"]
mod data_keys;
#[path = "secrets.rs"]
mod secrets;
#[path = "hsm/shares.rs"]
mod shares;

const PIN: &str = "12345678";
const OFFICER_PIN: &str = "87654321";

/// A folder with a soft token that nobody has initialised, PINs, and `card.toml`.
struct Desk {
    folder: tempfile::TempDir,
    module: PathBuf,
}

impl Desk {
    fn new(imitation: &str, more: &str) -> Self {
        let mut module = std::env::current_exe().unwrap();
        module.set_file_name("libhufu_softtoken.so");
        assert!(module.exists(), "{} is built with this test", module.display());
        let desk = Self { folder: folder(), module };
        let store = desk.path("store");
        let text = format!(
            "store = {store:?}\nimitation = \"{imitation}\"\npin_rounds = 1000\npin_tries_max = 2\n"
        );
        desk.write("softtoken.toml", &text);
        desk.write("user.pin", PIN);
        desk.write("officer.pin", OFFICER_PIN);
        desk.write_card(more);
        desk
    }

    /// One whose token is initialised.
    fn prepared(imitation: &str, more: &str) -> Self {
        let desk = Self::new(imitation, more);
        desk.json(&desk.init("hufu", &[]));
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write_card(&self, more: &str) {
        let text = format!(
            "name = \"card-0\"\nmodule = {:?}\nslot = 0\npin_file = \"user.pin\"\n{more}\n",
            self.module
        );
        let text = text.replace("FOLDER", &self.folder.path().display().to_string());
        self.write("card.toml", &text);
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(self.folder.path()).arg("hsm").args(arguments);
        command.env("HUFU_SOFTTOKEN_CONF", self.path("softtoken.toml"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code(&output), 0, "{arguments:?}: {}", stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    /// Runs what must fail: its exit code and all it says, none of which is a PIN.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let said = stdout(&output) + &stderr(&output);
        for secret in [PIN, OFFICER_PIN, "00000000"] {
            assert!(!said.contains(secret), "{arguments:?}: {said}");
        }
        assert!(stderr(&output).contains("do: "), "{arguments:?}: {said}");
        (code(&output), said)
    }

    fn init<'a>(&'a self, label: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let module = self.module.to_str().unwrap();
        let fixed = ["init-token", "--module", module, "--slot", "0", "--label", label];
        let pins = ["--so-pin-file", "officer.pin", "--pin-file", "user.pin"];
        [&fixed[..], &pins, more].concat()
    }

    fn probe(&self, more: &[&str]) -> Value {
        self.json(&self.probe_arguments(more))
    }

    fn probe_arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["probe", "--module", self.module.to_str().unwrap()], more].concat()
    }

    fn keygen(&self, key: &str, usage: &str) -> Value {
        self.json(&["keygen", "--card", "card.toml", "--key", key, "--usage", usage])
    }
}

const STATUS: [&str; 3] = ["status", "--card", "card.toml"];

#[test]
fn a_card_is_prepared_filled_looked_at_and_measured() {
    let desk = Desk::new("native", "");
    let looked = desk.probe(&[]);
    let flags = |value: &Value| value["slots"][0]["token"]["flags"].to_string();
    assert!(!flags(&looked).contains("\"initialized\""), "{looked}");
    let made = desk.json(&desk.init("hufu", &[]));
    assert_eq!((&made["slot"], &made["label"]), (&0.into(), &"hufu".into()));

    let vote = desk.keygen("pkcs11:object=vote", "sign");
    assert_eq!(vote["public_key"].as_str().unwrap().len(), 128, "{vote}");
    assert!(vote["address"].is_string());
    desk.keygen("pkcs11:object=open", "decrypt");
    // A key file for a key in a card says who it is as any other does.
    let out = ["keygen", "--card", "card.toml", "--key", "pkcs11:object=own", "--usage", "sign"];
    let out = [&out[..], &["--out", "own.key"]].concat();
    let own = desk.json(&out);
    let (code, said) = desk.refused(&out);
    assert!(code == 78 || code == 1, "{said}");
    assert!(said.contains("own.key exists already"), "{said}");
    let mut shown = Command::new(env!("CARGO_BIN_EXE_hufu"));
    let shown = shown.args(["keys", "show", "--json"]).arg(desk.path("own.key")).output().unwrap();
    let shown: Value = serde_json::from_str(&stdout(&shown)).unwrap();
    assert_eq!(shown["public_key"], own["public_key"]);
    let data = desk.keygen("pkcs11:object=data", "wrap");
    assert!(data["public_key"].is_null(), "{data}");
    for usage in ["sign", "decrypt", "wrap"] {
        for key in ["pkcs11:object=vote", "pkcs11:object=data"] {
            let again = ["keygen", "--card", "card.toml", "--key", key, "--usage", usage];
            let (code, said) = desk.refused(&again);
            assert!(code == 1 && said.contains("exists already"), "{said}");
        }
    }

    let keys = ["vote", "open", "data"].map(|name| format!("pkcs11:object={name}"));
    let asked: Vec<&str> = keys.iter().flat_map(|key| ["--key", key]).collect();
    let status = desk.json(&[&STATUS, &asked[..]].concat());
    assert_eq!(status["profile"]["name"], "hufu-softtoken");
    assert_eq!(status["identity"]["token_label"], "hufu");
    assert_eq!(status["sessions"]["open"], 4);
    let usages: Vec<String> =
        (0..3).map(|index| status["keys"][index]["usages"].to_string()).collect();
    assert_eq!(usages, ["[\"sign\"]", "[\"decrypt\"]", "[\"wrap\"]"]);
    assert_eq!(status["keys"][0]["public_key"], vote["public_key"]);
    let (exit, said) = desk.refused(&[&STATUS[..], &["--key", "pkcs11:object=nobody"]].concat());
    assert!(exit == 1 && said.contains("no key with label \"nobody\""), "{said}");

    let bench = ["bench", "--card", "card.toml", "--key", "pkcs11:object=vote"];
    let figures = desk.json(&[&bench[..], &["--threads", "2", "--seconds", "1"]].concat());
    for (index, threads) in [(0, 1), (1, 2)] {
        let figure = &figures["figures"][index];
        assert_eq!(figure["threads"], threads);
        assert!(figure["signatures"].as_u64().unwrap() > 10, "{figure}");
        let micros = |name: &str| figure[name].as_f64().unwrap();
        assert!(micros("p50_micros") > 0.0, "{figure}");
        assert!(micros("p50_micros") <= micros("p999_micros"), "{figure}");
    }
    let wrong = ["bench", "--card", "card.toml", "--key", "pkcs11:object=data"];
    assert_eq!(desk.refused(&wrong).0, 1);
    let text = stdout(&desk.run(&[&bench[..], &["--threads", "1", "--seconds", "1"]].concat()));
    assert!(text.contains("p99.9"), "{text}");
}

#[test]
fn a_library_finds_what_the_cards_file_puts_into_its_environment() {
    let desk = Desk::prepared("native", "");
    let status = |variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(desk.folder.path()).arg("hsm").args(STATUS);
        command.env_remove("HUFU_SOFTTOKEN_CONF");
        command.envs(variable.map(|value| ("HUFU_SOFTTOKEN_CONF", value)));
        command.stdin(Stdio::null()).output().unwrap()
    };
    let alone = status(None);
    assert_eq!(code(&alone), 1, "the soft token has no configuration: {}", stdout(&alone));
    desk.write_card("[sandbox]\nenvironment = { HUFU_SOFTTOKEN_CONF = \"FOLDER/softtoken.toml\" }");
    for variable in [None, Some("/nowhere")] {
        let output = status(variable);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("\"hufu\""), "{}", stdout(&output));
    }
}

#[test]
fn a_token_loses_its_keys_only_by_command_and_its_pin_is_changed() {
    let desk = Desk::prepared("native", "");
    desk.keygen("pkcs11:object=vote", "sign");
    let (exit, said) = desk.refused(&desk.init("other", &[]));
    assert!(exit == 1 && said.contains("initialised already") && said.contains("--yes"), "{said}");
    let asked = [&STATUS[..], &["--key", "pkcs11:object=vote"]].concat();
    desk.json(&asked);

    desk.write("new.pin", "24681357");
    let set = ["set-pin", "--card", "card.toml", "--new-pin-file", "new.pin"];
    let said = desk.json(&set);
    assert!(said["pin_from"].as_str().unwrap().contains("user.pin"), "{said}");
    // Only one attempt each: the token would lock at the second.
    let (exit, said) = desk.refused(&STATUS);
    assert!(exit == 78 && said.contains("ONE attempt is left"), "{said}");
    desk.write("user.pin", "24681357");
    desk.json(&asked);

    let (exit, said) = desk.refused(&desk.probe_arguments(&["--pin-file", "officer.pin"]));
    assert!(exit == 78 && said.contains("ONE attempt is left"), "{said}");
    let warnings = || desk.json(&STATUS)["warnings"].to_string();
    assert!(warnings().contains("ONE attempt"), "somebody tried a wrong one");
    assert_eq!(warnings(), "[]", "the right PIN sets the count back");

    desk.write("wrong.pin", "00000000");
    let mut wrong = desk.init("other", &["--yes"]);
    let place = wrong.iter().position(|word| *word == "officer.pin").unwrap();
    wrong[place] = "wrong.pin";
    assert_eq!(desk.refused(&wrong).0, 78);
    desk.json(&desk.init("other", &["--yes"]));
    fs::remove_file(desk.path("card-0.identity")).unwrap();
    let (exit, said) = desk.refused(&asked);
    assert!(exit == 1 && said.contains("no key with label"), "{said}");
}

#[test]
fn a_draft_is_a_profile_that_serves_the_card() {
    for (imitation, key) in [("sansec", "pkcs11:object=vote"), ("westone", "pkcs11:x-index=1")] {
        let desk = Desk::prepared(imitation, "");
        let looked = desk.probe(&[]);
        assert_eq!(looked["slots"][0]["profile"], imitation, "{looked}");
        let named = |value: &Value| value["name"].as_str() == Some("SM2 signature of e");
        let mechanisms = looked["slots"][0]["mechanisms"].as_array().unwrap();
        let signing = mechanisms.iter().find(|mechanism| named(mechanism)).unwrap();
        assert!(signing["flags"].to_string().contains("\"sign\""), "{signing}");

        let proven = desk.probe(&["--pin-file", "user.pin"]);
        assert_eq!(proven["proven"]["profile"], imitation, "{proven}");
        let draft = ["--pin-file", "user.pin", "--draft", "drafted.toml"];
        let drafted = desk.probe(&draft);
        let text = fs::read_to_string(desk.path("drafted.toml")).unwrap();
        assert_eq!(drafted["draft"]["profile"], text.as_str());
        let signs = proven["proven"]["sign"].as_str().unwrap();
        assert!(text.contains(&format!("mechanism = {signs}\n")), "{text}");
        let (exit, said) = desk.refused(&desk.probe_arguments(&draft));
        assert!(exit == 1 && said.contains("exists already"), "{said}");

        desk.write_card("profile_file = \"drafted.toml\"");
        let made = desk.keygen(key, "sign");
        desk.write_card("");
        let status = desk.json(&[&STATUS[..], &["--key", key]].concat());
        assert_eq!(status["profile"]["name"], imitation);
        assert_eq!(status["keys"][0]["public_key"], made["public_key"], "{status}");
        let on_key = desk.probe(&["--pin-file", "user.pin", "--key", key]);
        assert_eq!(on_key["proven"]["sign"], proven["proven"]["sign"], "{on_key}");
    }
}

#[test]
fn another_card_is_refused_until_it_is_acknowledged() {
    let desk = Desk::prepared("native", "");
    desk.json(&STATUS);
    let acknowledge = ["acknowledge", "--card", "card.toml"];
    let unchanged = desk.json(&acknowledge);
    assert_eq!(
        (&unchanged["written"], unchanged["changes"].to_string().as_str()),
        (&false.into(), "[]")
    );

    desk.json(&desk.init("another", &["--yes"]));
    let before = fs::read(desk.path("card-0.identity")).unwrap();
    for arguments in [
        &STATUS[..],
        &["keygen", "--card", "card.toml", "--key", "pkcs11:object=vote", "--usage", "sign"],
        &["set-pin", "--card", "card.toml", "--new-pin-file", "user.pin"],
    ] {
        let (exit, said) = desk.refused(arguments);
        assert!(exit == 78 && said.contains("the card changed"), "{said}");
        assert!(said.contains("hufu hsm acknowledge"), "{said}");
    }
    let (exit, said) = desk.refused(&acknowledge);
    assert!(exit == 1 && said.contains("token label was \"hufu\", is \"another\""), "{said}");
    assert_eq!(fs::read(desk.path("card-0.identity")).unwrap(), before, "nothing is written");
    let written = desk.json(&[&acknowledge[..], &["--yes"]].concat());
    assert_eq!(written["written"], true);
    desk.json(&STATUS);

    fs::write(desk.path("card-0.identity"), "damaged").unwrap();
    assert_eq!(desk.refused(&STATUS).0, 78);
    desk.json(&[&acknowledge[..], &["--yes"]].concat());
    desk.json(&STATUS);
}

#[test]
fn libraries_that_cannot_be_used_are_told_apart() {
    let desk = Desk::new("native", "");
    let mut other = fs::read(&desk.module).unwrap();
    // ELF header: e_machine.
    other[18] = if other[18] == 183 { 62 } else { 183 };
    fs::write(desk.path("other.so"), other).unwrap();
    desk.write("text.so", "this is no library\n");
    // As a copy that was broken off leaves it; the linker would die of it.
    fs::copy(&desk.module, desk.path("cut.so")).unwrap();
    fs::File::options().write(true).open(desk.path("cut.so")).unwrap().set_len(5_000).unwrap();
    // What nobody writes to keeps whoever opens it waiting.
    assert!(Command::new("mkfifo").arg(desk.path("pipe.so")).status().unwrap().success());
    let libm = "/lib/x86_64-linux-gnu/libm.so.6";
    let mut cases = vec![
        ("missing.so", "No such file"),
        ("text.so", "no ELF file"),
        ("other.so", "it is made for"),
        ("cut.so", "cut short"),
        ("pipe.so", "no regular file"),
    ];
    if Path::new(libm).exists() {
        cases.push((libm, "no symbol C_GetFunctionList"));
    }
    for (module, reason) in cases {
        let (exit, said) = desk.refused(&["probe", "--module", module]);
        assert!(exit == 78 && said.contains(reason) && said.contains(module), "{module}: {said}");
    }
}

#[test]
fn what_does_not_fit_the_card_is_refused_by_name() {
    let desk = Desk::prepared("westone", "");
    let with_pin = ["--pin-file", "user.pin"];
    let probe = |more: &[&str]| desk.refused(&desk.probe_arguments(&[&with_pin, more].concat()));
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hsm/profiles/westone.toml");
    let profile = fs::read_to_string(shipped).unwrap();
    // The first code that makes pairs is one that this card has not.
    let start = profile.find("generate = [").unwrap();
    let end = start + profile[start..].find(']').unwrap();
    let unknown = format!("{}generate = [0x80007777{}", &profile[..start], &profile[end..]);
    desk.write("unknown.toml", &unknown);
    desk.write("broken.toml", "name = 1\n");
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--slot", "7"], 78, "no token fits slot 7; found: slot 0"),
        (&["--token", "nobody"], 78, "no token fits label \"nobody\""),
        (&["--profile", "luna"], 78, "profile \"luna\" does not fit this card"),
        (&["--profile", "nobody"], 78, "there is none of this name"),
        (&["--profile-file", "unknown.toml"], 78, "does not know mechanism 0x80007777"),
        (&["--profile-file", "broken.toml"], 78, "broken.toml"),
        (&["--key", "pkcs11:x-index=9"], 1, "no key with index 9"),
        (&["--key", "pkcs11:object=vote"], 1, "by index"),
    ];
    for (more, wanted, reason) in cases {
        let (exit, said) = probe(more);
        assert!(exit == wanted && said.contains(reason), "{more:?}: {exit} {said}");
    }
    desk.write_card("profile = \"luna\"");
    assert_eq!(desk.refused(&STATUS).0, 78);
    desk.write_card("sessions_max = 0\nprofile = \"a\"\nprofile_file = \"b\"");
    let (exit, said) = desk.refused(&STATUS);
    assert!(exit == 78 && said.contains("sessions_max") && said.contains("profile_file"), "{said}");
    desk.write_card("pin = \"00000000\"");
    let (exit, said) = desk.refused(&STATUS);
    assert!(exit == 78 && said.contains("unknown field `pin`"), "{said}");

    desk.write_card("");
    fs::set_permissions(desk.path("user.pin"), fs::Permissions::from_mode(0o644)).unwrap();
    let (exit, said) = desk.refused(&STATUS);
    assert!(exit == 78 && said.contains("others may read it"), "{said}");
    desk.write("user.pin", PIN);
    // A store that was cut short.
    let header = fs::read_dir(desk.path("store")).unwrap().next().unwrap().unwrap().path();
    let header = header.join("token");
    let size = fs::metadata(&header).unwrap().len();
    fs::OpenOptions::new().write(true).open(&header).unwrap().set_len(size / 2).unwrap();
    let (exit, said) = desk.refused(&STATUS);
    assert!([1, 78].contains(&exit), "{exit} {said}");
}

#[test]
fn command_lines_that_make_no_sense_are_usage_and_pins_are_no_arguments() {
    let desk = Desk::new("native", "");
    let module = desk.module.to_str().unwrap();
    let status = |key| [&STATUS[..], &["--key", key]].concat();
    let prepared = Desk::prepared("native", "");
    for verb in [&STATUS[..], &["bench", "--card", "card.toml"]] {
        let elsewhere = [verb, &["--key", "pkcs11:token=other;object=vote"]].concat();
        let (exit, said) = prepared.refused(&elsewhere);
        assert!(exit == 2 && said.contains("on token \"other\""), "{said}");
    }
    let cases: [Vec<&str>; 9] = [
        vec!["status"],
        vec!["probe"],
        vec!["probe", "--module", module, "--slot", "0", "--token", "a"],
        vec!["probe", "--module", module, "--draft", "drafted.toml"],
        vec!["probe", "--module", module, "--pin", "00000000"],
        status("vote"),
        status("pkcs11:object=vote?pin-value=00000000"),
        vec!["keygen", "--card", "card.toml", "--key", "pkcs11:object=a", "--usage", "both"],
        desk.init("a label that has more than the 32 bytes of PKCS#11", &[]),
    ];
    for arguments in cases {
        let output = desk.run(&arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(!stderr(&output).contains("00000000"), "{}", stderr(&output));
    }
    for verb in [
        "probe",
        "init-token",
        "set-pin",
        "keygen",
        "add-card",
        "status",
        "acknowledge",
        "bench",
        "agent",
    ] {
        let help = stdout(&desk.run(&[verb, "--help"]));
        assert!(!help.contains("--pin ") && help.contains("vendor's"), "{verb}: {help}");
    }
    let (exit, said) = desk.refused(&["agent", "--card", "card.toml"]);
    assert!(exit == 2 && said.contains("by a node, not by people"), "{said}");
    // A socket alone makes no node.
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    let mut agent = Command::new(env!("CARGO_BIN_EXE_hufu"));
    agent.args(["hsm", "agent", "--card", "card.toml"]).stdin(OwnedFd::from(theirs));
    let output = agent.current_dir(desk.folder.path()).output().unwrap();
    assert!(code(&output) == 1 && stderr(&output).contains("do: "), "{}", stderr(&output));
}

/// The file that the help shows is one.
#[test]
fn the_help_describes_a_cards_file() {
    let desk = Desk::new("native", "");
    let help = stdout(&desk.run(&["--help"]));
    let start = help.find("name = \"card-0\"").unwrap();
    let text: Vec<&str> = help[start..].lines().map(str::trim).collect();
    let text = text.join("\n") + "\ngroup = 998\n";
    let config = hufu_hsm::config::CardConfig::parse(&text, &desk.path("card.toml"));
    assert_eq!(config.unwrap().sandbox.tcp_ports, Some(vec![8008]));
}

#[test]
fn a_card_that_fails_is_told_with_what_to_do() {
    let desk = Desk::prepared("native", "");
    desk.keygen("pkcs11:object=vote", "sign");
    let faults = Faults::open(&desk.path("store"), 0).unwrap();
    let with_key = [&STATUS[..], &["--key", "pkcs11:object=vote"]].concat();
    let bench = ["bench", "--card", "card.toml", "--key", "pkcs11:object=vote", "--seconds", "1"];
    let probe = desk.probe_arguments(&["--pin-file", "user.pin"]);
    let garbage = Fault::Garbage { kind: Garbage::FlippedBit, one_in: 1 };
    let cases: [(Fault, &[&str], i32, &str); 5] = [
        (Fault::Removed { millis: 600_000 }, &STATUS, 78, "no token fits slot 0"),
        (Fault::Removed { millis: 600_000 }, &probe, 78, "no token at all"),
        (Fault::OutOfSessions(true), &probe, 1, "CKR_SESSION_COUNT"),
        (garbage, &bench, 78, "verifies in no way"),
        (garbage, &with_key, 78, "hufu hsm probe"),
    ];
    for (fault, arguments, wanted, reason) in cases {
        faults.set(fault);
        let (exit, said) = desk.refused(arguments);
        faults.clear();
        assert!(exit == wanted && said.contains(reason), "{fault:?}: {exit} {said}");
    }
    desk.json(&with_key);
}

#[test]
fn a_command_ends_with_its_user_and_not_with_its_reader() {
    let desk = Desk::prepared("native", "");
    desk.keygen("pkcs11:object=vote", "sign");
    let start = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
        command.current_dir(desk.folder.path()).arg("hsm").args(arguments);
        command.env("HUFU_SOFTTOKEN_CONF", desk.path("softtoken.toml")).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    // Nobody reads what it prints: it earns its exit code all the same.
    let mut unread = start(&STATUS);
    drop(unread.stdout.take());
    assert_eq!(unread.wait().unwrap().code(), Some(0));
    // A library that hangs leaves Ctrl-C as the way out, and the card as it was.
    let faults = Faults::open(&desk.path("store"), 0).unwrap();
    faults.set(Fault::Hang(true));
    for arguments in [
        &STATUS[..],
        &desk.probe_arguments(&["--pin-file", "user.pin"]),
        &["keygen", "--card", "card.toml", "--key", "pkcs11:object=b", "--usage", "sign"],
    ] {
        let mut hanging = start(arguments);
        let maps = format!("/proc/{}/maps", hanging.id());
        // Who is not root may not look, and interrupts it wherever it is.
        let is_loaded =
            || fs::read_to_string(&maps).map_or(true, |maps| maps.contains("softtoken"));
        while !is_loaded() {
            assert!(hanging.try_wait().unwrap().is_none(), "{arguments:?} did not wait");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        let process = hanging.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &process]).status().unwrap().success());
        let status = hanging.wait().unwrap();
        assert_eq!((status.signal(), status.code()), (Some(2), None), "{arguments:?}");
    }
    faults.clear();
    desk.json(&[&STATUS[..], &["--key", "pkcs11:object=vote"]].concat());
}

/// The agent as a node starts it, by the card's file or, where that is at fault, without it.
fn agent_config(desk: &Desk) -> AgentConfig {
    let (card, program) = (desk.path("card.toml"), PathBuf::from(env!("CARGO_BIN_EXE_hufu")));
    match CardConfig::load(&card) {
        Ok(config) => config.agent(program, &card),
        Err(_) => {
            let arguments = ["hsm", "agent", "--card"].map(OsString::from);
            let arguments = arguments.into_iter().chain([card.into_os_string()]).collect();
            let environment = Vec::new();
            AgentConfig::new("card-0", AgentSource::Start { program, arguments, environment })
        }
    }
}

const SANDBOX: &str = "[sandbox]\n\
                       environment = { HUFU_SOFTTOKEN_CONF = \"FOLDER/softtoken.toml\" }\n\
                       readable = [\"softtoken.toml\"]\nwritable = [\"store\"]\n";

#[test]
fn an_agent_serves_the_card_from_its_sandbox() {
    let desk = Desk::prepared("westone", SANDBOX);
    let made = desk.keygen("pkcs11:x-index=1", "sign");
    let soon = || deadline_in(Duration::from_secs(60));
    for is_first in [true, false] {
        if is_first {
            fs::remove_file(desk.path("card-0.identity")).unwrap();
        }
        let (agent, _submitter) = Agent::start(agent_config(&desk)).unwrap();
        let client = agent.client();
        client.wait_ready(soon()).unwrap();
        let key = client.open_key(&KeyReference::Index(1), Usage::Sign, soon()).unwrap();
        assert_eq!(client.public_key(key).unwrap().to_string(), made["public_key"]);
        let mut signatures = [Signature([0; 64]); 3];
        client.sign_sm2(key, &[Digest([7; 32]); 3], &mut signatures, soon()).unwrap();
        let status = client.status();
        assert_eq!(status.workers_count, 4, "one for each session");
        let notes = status.notes.join("\n");
        assert!(notes.contains("no new privileges: applied"), "{notes}");
        assert!(desk.path("card-0.identity").exists(), "the first card is written down");
        agent.stop().unwrap();
    }
}

/// Nobody, who owns nothing of the host.
const NOBODY: u32 = 65_534;

fn give_away(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give_away(&entry.unwrap().path()));
    }
}

/// What `user` of the table is for; only root can start such an agent.
#[test]
fn an_agent_of_roots_becomes_the_user_of_its_table() {
    let mut desk = Desk::new("native", "");
    if fs::metadata(desk.folder.path()).unwrap().uid() != 0 {
        return;
    }
    // Where the library was built, nobody may look.
    let module = desk.path("libcard.so");
    fs::copy(&desk.module, &module).unwrap();
    desk.module = module;
    desk.write_card(&format!("{SANDBOX}user = {NOBODY}\ngroup = {NOBODY}\n"));
    desk.json(&desk.init("hufu", &[]));
    desk.keygen("pkcs11:object=vote", "sign");
    give_away(desk.folder.path());
    let soon = || deadline_in(Duration::from_secs(60));
    let (agent, _submitter) = Agent::start(agent_config(&desk)).unwrap();
    let client = agent.client();
    client.wait_ready(soon()).unwrap();
    let status = client.status();
    let notes = status.notes.join("\n");
    assert!(notes.contains(&format!("user: applied ({NOBODY}:{NOBODY})")), "{notes}");
    let owner = fs::read_to_string(format!("/proc/{}/status", status.process.unwrap())).unwrap();
    assert!(owner.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")), "{owner}");
    let vote = KeyReference::Label("vote".to_owned());
    client.open_key(&vote, Usage::Sign, soon()).unwrap();
    agent.stop().unwrap();
}

#[test]
fn an_agent_tells_the_node_why_there_is_nothing_to_serve() {
    let refusal = |desk: &Desk| {
        let (agent, _submitter) = Agent::start(agent_config(desk)).unwrap();
        let client = agent.client();
        let error = client.wait_ready(deadline_in(Duration::from_secs(60))).unwrap_err();
        let status = client.status();
        assert_eq!((status.state, status.starts_count), (AgentState::Refused, 1), "{error}");
        agent.stop().unwrap();
        error
    };
    let desk = Desk::prepared("native", SANDBOX);
    desk.write("user.pin", "00000000");
    let error = refusal(&desk);
    assert!(matches!(error, Error::PinRefused { .. }), "{error}");
    desk.write("user.pin", PIN);
    desk.json(&STATUS);
    desk.write_card("sessions_max = 0");
    let error = refusal(&desk).to_string();
    assert!(error.contains("card.toml") && error.contains("sessions_max"), "{error}");
    desk.write_card(&format!("profile = \"luna\"\n{SANDBOX}"));
    let error = refusal(&desk);
    assert!(matches!(error, Error::ProfileMismatch { .. }), "{error}");
    fs::remove_file(desk.path("card.toml")).unwrap();
    assert!(refusal(&desk).to_string().contains("card.toml"));
}
