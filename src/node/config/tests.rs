//! Faults of configurations: all at once, each with its line, rule and remedy.

use std::collections::BTreeSet;

use hufu_crypto::Signer as _;
use hufu_storage::state_store::{StateStore, StateStoreOptions};

use super::reader::lookup;
use super::*;

const IDENTITY: &str = "[node]\nname = \"node-0\"\ndata_dir = \"data\"\n\
                        genesis = \"genesis.toml\"\nkey = \"vote.pem\"\n";

/// Beside [`IDENTITY`]: the keys of `[peer]` that have no default.
const PEER: &str = "[peer]\nkey_file = \"link.pem\"\n\
                    addresses = { node-1 = \"127.0.0.1:7013\" }\n";

fn has_default(spec: &KeySpec) -> bool {
    spec.section != "node" && !matches!(spec.path().as_str(), "peer.key_file" | "peer.addresses")
}

fn parse(text: &str) -> Result<NodeConfig, Faults> {
    NodeConfig::parse(text, Path::new("hufu.toml"), Path::new("/etc/hufu"))
}

fn faults(text: &str) -> Vec<Fault> {
    parse(text).unwrap_err().faults
}

/// The identity section and one more key.
fn with(spec: &KeySpec, value: &str) -> String {
    if spec.section == "node" {
        let mut lines: Vec<String> = IDENTITY.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with(&format!("{} =", spec.name)));
        lines.push(format!("{} = {value}", spec.name));
        return lines.join("\n");
    }
    if spec.section == "peer" {
        let mut lines: Vec<&str> = PEER.lines().collect();
        lines.retain(|line| !line.starts_with(&format!("{} =", spec.name)));
        let mut text = format!("{IDENTITY}{}\n{} = {value}\n", lines.join("\n"), spec.name);
        match spec.name {
            "idle_timeout_millis" => text.push_str("ping_interval_millis = 10\n"),
            "ping_interval_millis" => text.push_str("idle_timeout_millis = 3600000\n"),
            "back_off_min_millis" => text.push_str("back_off_max_millis = 3600000\n"),
            "back_off_max_millis" => text.push_str("back_off_min_millis = 1\n"),
            _ => {}
        }
        text.push_str("[limits]\nmemory_bytes = 17592186044416\n");
        return text;
    }
    // A value at the edge of its range may not fit the planned memory or the timeouts' maximum.
    let mut text = format!("{IDENTITY}\n[{}]\n{} = {value}\n", spec.section, spec.name);
    match (spec.section, spec.name) {
        ("limits", _) => text.push_str(
            "[client]\nconnections_max = 1\n[mempool]\nbytes_max = 4194304\n\
             [state]\ncache_bytes = 2097152\nwrite_buffer_bytes = 1048576\n",
        ),
        ("consensus", "timeout_max_millis") => text.push_str(
            "timeout_propose_millis = 1\ntimeout_prevote_millis = 1\n\
             timeout_precommit_millis = 1\n",
        ),
        ("consensus", _) => text.push_str("timeout_max_millis = 3600000\n"),
        _ => text.push_str("[limits]\nmemory_bytes = 17592186044416\n"),
    }
    text
}

#[test]
fn identity_is_enough_and_paths_are_relative_to_the_file() {
    let config = parse(IDENTITY).unwrap();
    assert_eq!(config.node.name, "node-0");
    assert_eq!(config.node.data_dir, Path::new("/etc/hufu/data"));
    assert_eq!(config.client.listen.port(), 7001);
    assert_eq!(config.verify.batch_deadline, Duration::from_micros(500));
    assert_eq!(config.placement.cores, Cores::Auto);
    assert_eq!(config.log.backend, LogBackend::Auto);
    assert_eq!(config.audit.folder, None);
    let elsewhere = parse(&format!("{IDENTITY}[audit]\nfolder = \"/audit\"\n")).unwrap();
    assert_eq!(elsewhere.audit.folder.as_deref(), Some(Path::new("/audit")));
    let absolute = IDENTITY.replace("\"data\"", "\"/var/lib/hufu\"");
    assert_eq!(parse(&absolute).unwrap().node.data_dir, Path::new("/var/lib/hufu"));
}

#[test]
fn default_toml_and_the_table_name_the_same_keys() {
    let (defaults, faults) = Document::parse(DEFAULT_TOML);
    assert_eq!(faults, Vec::new());
    for spec in KEYS {
        assert!(!schema::meaning(spec).is_empty(), "{} has no comment", spec.path());
        let has_default = lookup(&defaults, spec.section, spec.name).is_some();
        assert_eq!(has_default, self::has_default(spec), "{}", spec.path());
    }
    for (section, _) in defaults.keys(defaults.root()) {
        let entry = defaults.entry(defaults.root(), section).unwrap();
        for (name, _) in defaults.keys(entry.value.as_table().unwrap()) {
            assert!(table::find(section, name).is_some(), "{section}.{name} is in no table");
        }
    }
    let parsed = parse(
        &DEFAULT_TOML
            .replace("# name =", "name =")
            .replace("# data_dir =", "data_dir =")
            .replace("# genesis =", "genesis =")
            .replace("# key =", "key =")
            .replace("# key_file =", "key_file =")
            .replace("# addresses =", "addresses ="),
    );
    assert!(parsed.is_ok(), "{parsed:?}");
}

#[test]
fn every_key_of_the_table_is_read_once() {
    let text = format!("{IDENTITY}{PEER}");
    let mut reader = Reader::new(&text, Path::new(""));
    let _config = NodeConfig::read(&mut reader);
    let read: Vec<String> = reader.finish().1.iter().map(|spec| spec.path()).collect();
    let distinct: BTreeSet<&String> = read.iter().collect();
    let all: BTreeSet<String> = KEYS.iter().map(KeySpec::path).collect();
    assert_eq!(distinct.len(), read.len());
    assert_eq!(distinct.into_iter().cloned().collect::<BTreeSet<_>>(), all);
}

#[test]
fn every_range_is_checked_at_both_ends() {
    for spec in KEYS {
        let (good, bad): (Vec<String>, Vec<String>) = match spec.kind {
            Kind::Integer { min, max, step } => {
                let mut bad = vec![(max + step).to_string(), "-1".to_owned(), "1.5".to_owned()];
                bad.push("\"1\"".to_owned());
                if min >= step {
                    bad.push((min - step).to_string());
                }
                if step > 1 {
                    bad.push((min + 1).to_string());
                }
                (vec![min.to_string(), max.to_string()], bad)
            }
            Kind::Choice(words) => {
                let good = words.iter().map(|word| format!("\"{word}\"")).collect();
                (good, vec!["\"other\"".to_owned(), "1".to_owned(), "true".to_owned()])
            }
            Kind::Path => (vec!["\"a\"".to_owned()], vec!["\"\"".to_owned(), "1".to_owned()]),
            Kind::Name => (
                vec!["\"a\"".to_owned(), format!("\"{}\"", "a".repeat(32))],
                vec!["\"\"".to_owned(), "\"A\"".to_owned(), format!("\"{}\"", "a".repeat(33))],
            ),
            Kind::Credential => (
                vec!["\"a.b\"".to_owned()],
                ["\"\"", "\".\"", "\"a/b\"", "1"].map(str::to_owned).to_vec(),
            ),
            Kind::Loopback => (
                vec!["\"127.0.0.1:0\"".to_owned(), "\"[::1]:9\"".to_owned()],
                ["\"0.0.0.0:1\"", "\"10.0.0.1:1\"", "\"127.0.0.1\"", "\"localhost:1\"", "7001"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            Kind::LoopbackKnown => (
                vec!["\"127.0.0.1:9\"".to_owned(), "\"[::1]:9\"".to_owned()],
                ["\"0.0.0.0:1\"", "\"10.0.0.1:1\"", "\"127.0.0.1:0\"", "\"localhost:1\"", "7001"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            Kind::Addresses => (
                vec!["{}".to_owned(), "{ one = \"127.0.0.1:9\", two = \"[::1]:9\" }".to_owned()],
                ["\"127.0.0.1:9\"", "[]", "1"].map(str::to_owned).to_vec(),
            ),
            Kind::Cores => (
                ["\"auto\"", "\"none\"", "\"0,2-3\"", "[0, 3]"].map(str::to_owned).to_vec(),
                ["\"\"", "[]", "[-1]", "[1024]", "\"3-1\"", "[\"x\"]", "4"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
        };
        for value in good {
            let parsed = parse(&with(spec, &value));
            assert!(parsed.is_ok(), "{} = {value}: {parsed:?}", spec.path());
        }
        for value in bad {
            let found = faults(&with(spec, &value));
            assert_eq!(found.len(), 1, "{} = {value}: {found:?}", spec.path());
            assert_eq!(found[0].key, spec.path());
            assert_eq!(found[0].rule, spec.kind.rule());
            assert!(found[0].line.is_some() && !found[0].remedy.is_empty());
        }
    }
}

#[test]
fn all_faults_come_at_once_in_the_order_of_their_lines() {
    let text = "[node]\nname = \"Bad Name\"\ndata_dir = \"d\"\n[mempol]\nx = 1\n\
                [mempool]\nbyte_max = 5\ntransactions_max = 0\n[log]\nreactor = \"uring\"\n\
                backend = \"urng\"\n";
    let found = faults(text);
    let shown: Vec<(&str, Option<usize>)> =
        found.iter().map(|fault| (fault.key.as_str(), fault.line)).collect();
    assert_eq!(
        shown,
        [
            ("node.name", Some(2)),
            ("mempol", Some(4)),
            ("mempool.byte_max", Some(7)),
            ("mempool.transactions_max", Some(8)),
            ("log.reactor", Some(10)),
            ("log.backend", Some(11)),
            ("node.genesis", None),
            ("node.key", None),
        ]
    );
    assert_eq!(found[1].remedy, "did you mean [mempool]?");
    assert_eq!(found[2].remedy, "did you mean `bytes_max`?");
    assert_eq!(found[2].value, "5");
    assert_eq!(found[4].remedy, "it belongs to section [client]");
    assert_eq!(found[5].remedy, "did you mean \"uring\"?");
}

#[test]
fn a_syntax_error_does_not_hide_the_rest() {
    let text = format!("{IDENTITY}[log]\ndepth = = 3\n[verify]\nbatch_max = 0\n");
    let found = faults(&text);
    assert_eq!(found[0].line, Some(7), "{found:?}");
    assert!(found[0].rule.starts_with("not valid TOML"), "{found:?}");
    assert!(found.iter().any(|fault| fault.key == "verify.batch_max"), "{found:?}");
    assert!(found.iter().all(|fault| !fault.rule.contains("missing")), "{found:?}");
}

#[test]
fn sections_and_values_are_not_confused() {
    let found = faults(&format!("log = 3\n{IDENTITY}"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].key.as_str(), found[0].line), ("log", Some(1)));
}

#[test]
fn relations_between_keys_are_checked() {
    let found = faults(&format!(
        "{IDENTITY}[client]\nlisten = \"127.0.0.1:7002\"\nconnections_max = 65536\n\
         [consensus]\ntimeout_prevote_millis = 20000\n"
    ));
    let keys: Vec<&str> = found.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["consensus.timeout_prevote_millis", "admin.listen", "limits.memory_bytes",]);
}

/// What passes here is given to constructors that take a fault for our own mistake.
#[test]
fn what_a_range_allows_can_be_built() {
    for spec in KEYS {
        let Kind::Integer { min, max, .. } = spec.kind else { continue };
        for value in [min, max] {
            let config = parse(&with(spec, &value.to_string())).unwrap();
            let faults = (config.mempool.pool().fault(), config.client.session().fault());
            assert_eq!(faults, (None, None), "{} = {value}", spec.path());
        }
    }
    for pending in [524_288, 524_289] {
        let pool = parse(&format!("{IDENTITY}[mempool]\ntransactions_max = {pending}\n"));
        assert_eq!(pool.unwrap().mempool.pool().fault(), None, "{pending} pending");
    }
}

#[test]
fn the_smallest_caches_that_are_allowed_open_a_store() {
    let min = |name| match table::find("state", name).map(|spec| spec.kind) {
        Some(Kind::Integer { min, .. }) => min,
        other => panic!("{name} is {other:?}"),
    };
    let (cache, buffer) = (min("cache_bytes"), min("write_buffer_bytes"));
    let text = format!("{IDENTITY}[state]\ncache_bytes = {cache}\nwrite_buffer_bytes = {buffer}\n");
    let config = parse(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = StateStoreOptions::new(folder.path());
    options.cache_bytes = config.state.cache_half_bytes();
    options.write_buffer_bytes = usize::try_from(config.state.write_buffer_bytes).unwrap();
    assert!(StateStore::open(&options).is_ok());
}

#[test]
fn the_memory_of_the_mempool_is_planned_for() {
    let found = faults(&format!("{IDENTITY}[mempool]\ntransactions_max = 16777216\n"));
    let keys: Vec<&str> = found.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["limits.memory_bytes"]);
    assert!(found[0].remedy.contains("mempool.transactions_max"), "{found:?}");
}

#[test]
fn a_relation_is_hidden_by_faults_of_its_own_keys_only() {
    let text = format!(
        "{IDENTITY}[nope]\n[consensus]\ntimeout_propose_millis = 20000\n[log]\ndepth = 9\n\
         [limits]\nmemory_bytes = 536870912\n"
    );
    let found = faults(&text);
    let keys: Vec<&str> = found.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["nope", "consensus.timeout_propose_millis", "log.depth"]);
    // What the misspelt key meant is not known, so the sum is not either.
    let found = faults(&format!(
        "{IDENTITY}[client]\nconnection_max = 4\n[limits]\nmemory_bytes = 536870912\n"
    ));
    let keys: Vec<&str> = found.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["client.connection_max"]);
}

#[test]
fn the_genesis_shows_its_faults_with_those_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hufu.toml");
    std::fs::write(&path, format!("{IDENTITY}[log]\ndepth = 9\n")).unwrap();
    crate::keys_file::create(&folder.path().join("vote.pem")).unwrap();
    crate::data_key::create(&folder.path().join("data.key")).unwrap();
    crate::keys_file::create(&folder.path().join("audit.pem")).unwrap();
    std::fs::write(folder.path().join("genesis.toml"), "chain_name = 5\n").unwrap();
    let found = NodeConfig::load(&path).unwrap_err().faults;
    assert_eq!(found[0].key, "log.depth");
    assert!(found.iter().any(|fault| fault.rule.contains("chain_name = 5")), "{found:?}");
    assert!(found[1..].iter().all(|fault| fault.key == "node.genesis"), "{found:?}");
}

#[test]
fn the_address_rule_says_why() {
    let found = faults(&format!("{IDENTITY}[client]\nlisten = \"0.0.0.0:7001\"\n"));
    assert!(found[0].rule.contains("not encrypted"), "{found:?}");
    assert_eq!(found[0].value, "\"0.0.0.0:7001\"");
}

#[test]
fn nothing_stands_in_for_a_vote_key() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("hufu.toml"), IDENTITY).unwrap();
    crate::keys_file::create(&path("audit.pem")).unwrap();
    crate::data_key::create(&path("data.key")).unwrap();
    std::fs::write(path("genesis.toml"), crate::genesis_file::example()).unwrap();
    let key = |number: u8| {
        let signer = hufu_crypto::SoftwareSigner::from_bytes(&[number; 32]).unwrap();
        *signer.public_key()
    };
    let text = crate::card_key::text(Path::new("card.toml"), "pkcs11:object=vote", &key(7));
    let preferred = format!(
        "{text}custody = \"hsm-preferred\"\nstand_in = \"standby.key\"\n\
         stand_in_public_key = \"{}\"\n",
        key(8)
    );
    for (text, is_refused) in [(text, false), (preferred, true)] {
        std::fs::write(path("vote.pem"), text).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path("vote.pem"), private).unwrap();
        let found = match NodeConfig::load(&path("hufu.toml")) {
            Ok(_) => Vec::new(),
            Err(refused) => refused.faults,
        };
        let told: Vec<&str> = found.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(told, if is_refused { vec!["node.key"] } else { vec![] });
        assert!(found.iter().all(|fault| fault.rule.contains("vote key")), "{found:?}");
    }
}

#[test]
fn files_are_checked_together_with_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hufu.toml");
    let text = format!("{IDENTITY}[log]\ndepth = 9\n");
    std::fs::write(&path, text).unwrap();
    let keys =
        |faults: Faults| faults.faults.into_iter().map(|fault| fault.key).collect::<Vec<String>>();
    let found = keys(NodeConfig::load(&path).unwrap_err());
    assert_eq!(
        found,
        ["log.depth", "node.key", "audit.key_file", "storage.key_file", "node.genesis"]
    );
    std::fs::write(&path, format!("{IDENTITY}[storage]\nencryption = \"none\"\n")).unwrap();
    let found = keys(NodeConfig::load(&path).unwrap_err());
    assert_eq!(
        found,
        ["node.key", "audit.key_file", "node.genesis"],
        "what is not encrypted needs no key"
    );
    std::fs::write(&path, format!("{IDENTITY}[log]\ndepth = 9\n")).unwrap();

    crate::keys_file::create(&folder.path().join("vote.pem")).unwrap();
    crate::data_key::create(&folder.path().join("data.key")).unwrap();
    crate::keys_file::create(&folder.path().join("audit.pem")).unwrap();
    std::fs::write(folder.path().join("genesis.toml"), crate::genesis_file::example()).unwrap();
    std::fs::write(folder.path().join("data"), "").unwrap();
    let found = keys(NodeConfig::load(&path).unwrap_err());
    assert_eq!(found, ["log.depth", "node.data_dir"]);

    std::fs::remove_file(folder.path().join("data")).unwrap();
    std::fs::write(&path, IDENTITY).unwrap();
    assert!(NodeConfig::load(&path).is_ok());
    let missing = NodeConfig::load(&folder.path().join("none.toml")).unwrap_err();
    assert!(missing.to_string().contains("cannot be read"), "{missing}");
}

#[test]
fn the_passphrase_is_named_once_and_only_where_a_key_wants_it() {
    let with = |more: &str| format!("{IDENTITY}{more}\n");
    assert_eq!(parse(IDENTITY).unwrap().node.passphrase, None);
    let cases = [
        ("passphrase_file = \"p\"", PinSource::File("/etc/hufu/p".into())),
        ("passphrase_credential = \"p\"", PinSource::Credential("p".to_owned())),
        ("passphrase_descriptor = 3", PinSource::Descriptor(3)),
    ];
    for (line, source) in &cases {
        assert_eq!(parse(&with(line)).unwrap().node.passphrase.as_ref(), Some(source));
    }
    for (first, second) in [(0, 1), (0, 2), (1, 2)] {
        let found = faults(&with(&[cases[first].0, cases[second].0].join("\n")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].rule.contains("names the passphrase too"), "{found:?}");
        assert_eq!(found[0].line, Some(7));
    }

    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("hufu.toml"), IDENTITY).unwrap();
    let pin = hufu_hsm::pin::Pin::from_reader(&b"word"[..], "test").unwrap();
    crate::keys_file::create_encrypted(&path("vote.pem"), &pin).unwrap();
    crate::keys_file::create(&path("audit.pem")).unwrap();
    crate::data_key::create(&path("data.key")).unwrap();
    std::fs::write(path("genesis.toml"), crate::genesis_file::example()).unwrap();
    let found = NodeConfig::load(&path("hufu.toml")).unwrap_err().faults;
    assert_eq!((found.len(), found[0].key.as_str()), (1, "node.key"), "{found:?}");
    assert!(found[0].remedy.contains("node.passphrase_file"), "{found:?}");
    std::fs::write(path("hufu.toml"), with(cases[0].0)).unwrap();
    assert!(NodeConfig::load(&path("hufu.toml")).is_ok(), "it is read at the start, not here");
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema();
    for spec in KEYS {
        let key = &schema["properties"][spec.section]["properties"][spec.name];
        assert!(key["description"].is_string(), "{}", spec.path());
        assert_eq!(key["default"].is_null(), !has_default(spec), "{}", spec.path());
    }
    assert_eq!(schema["required"], serde_json::json!(["node"]), "a chain of one has no peers");
    let peer = &schema["properties"]["peer"];
    assert_eq!(peer["required"], serde_json::json!(["key_file", "addresses"]));
    let name = &schema["properties"]["node"]["properties"]["name"]["description"];
    assert_eq!(
        name,
        "Name of this node in logs and metrics: 1 to 32 characters of a-z, 0-9 and \"-\"."
    );
}

#[test]
fn effective_values_say_where_they_come_from() {
    let text = format!("{IDENTITY}[log]\ndepth = 2\n");
    let values = effective(&text, Path::new("hufu.toml")).unwrap();
    let optional_count = table::OPTIONAL_KEYS.len();
    let without_peer = KEYS.iter().filter(|spec| spec.section != "peer").count();
    assert_eq!(values.len(), without_peer - optional_count);
    let with_peer = effective(&format!("{text}{PEER}"), Path::new("hufu.toml")).unwrap();
    assert_eq!(with_peer.len(), KEYS.len() - optional_count);
    let found = with_peer.iter().find(|(spec, ..)| spec.path() == "peer.addresses").unwrap();
    assert_eq!(found.1, serde_json::json!({ "node-1": "127.0.0.1:7013" }));
    let depth = values.iter().find(|(spec, ..)| spec.path() == "log.depth").unwrap();
    assert_eq!((&depth.1, depth.2), (&serde_json::json!(2), true));
    let cache = values.iter().find(|(spec, ..)| spec.path() == "state.cache_bytes").unwrap();
    assert!(!cache.2);
}

#[test]
fn a_chain_of_one_needs_no_peers_and_others_name_them() {
    assert_eq!(parse(IDENTITY).unwrap().peer, None);
    let config = parse(&format!("{IDENTITY}{PEER}")).unwrap();
    let peer = config.peer.unwrap();
    assert_eq!(peer.listen.port(), 7003);
    assert_eq!(peer.key_file, Path::new("/etc/hufu/link.pem"));
    assert_eq!(peer.addresses["node-1"], SocketAddr::from(([127, 0, 0, 1], 7013)));
    assert_eq!(peer.link, hufu_network::peer::LinkConfig::default());
    assert_eq!(peer.dissemination, hufu_mempool::dissemination::DisseminationConfig::default());
    let (min, max) = (Duration::from_millis(100), Duration::from_secs(5));
    assert_eq!((peer.back_off_min, peer.back_off_max), (min, max));
    let keys: Vec<String> =
        faults(&format!("{IDENTITY}[peer]\n")).into_iter().map(|fault| fault.key).collect();
    assert_eq!(keys, ["peer.key_file", "peer.addresses"]);
}

#[test]
fn every_address_of_a_peer_has_its_own_fault() {
    let found = faults(&format!(
        "{IDENTITY}[peer]\nkey_file = \"link.pem\"\n[peer.addresses]\n\
         a = \"10.0.0.1:7\"\nb = \"127.0.0.1:7\"\nC = \"127.0.0.1:8\"\nd = \"127.0.0.1:7\"\n\
         e = 7\nf = \"127.0.0.1:0\"\n"
    ));
    let shown: Vec<(&str, Option<usize>)> =
        found.iter().map(|fault| (fault.key.as_str(), fault.line)).collect();
    let keys = ["a", "C", "d", "e", "f"].map(|name| format!("peer.addresses.{name}"));
    let lines = [9, 11, 12, 13, 14].map(Some);
    assert_eq!(shown, keys.iter().map(String::as_str).zip(lines).collect::<Vec<_>>());
    assert!(found[0].rule.contains("not encrypted"), "{found:?}");
    assert_eq!(found[2].rule, "is also the address of b");
    assert!(found.iter().all(|fault| !fault.value.is_empty() && !fault.remedy.is_empty()));
}

#[test]
fn relations_between_keys_of_peers_are_checked() {
    let text = |more: &str| format!("{IDENTITY}{PEER}{more}");
    for (more, keys) in [
        ("listen = \"127.0.0.1:7001\"", vec!["peer.listen"]),
        ("listen = \"127.0.0.1:7002\"", vec!["peer.listen"]),
        ("listen = \"127.0.0.1:7013\"", vec!["peer.listen"]),
        ("ping_interval_millis = 2501", vec!["peer.idle_timeout_millis"]),
        ("back_off_min_millis = 5001", vec!["peer.back_off_min_millis"]),
        ("back_off_max_millis = 99", vec!["peer.back_off_min_millis"]),
        ("bulk_bytes_max = 8589934592", vec!["limits.memory_bytes"]),
        ("held_bytes_max = 8589934592", vec!["limits.memory_bytes"]),
        ("origin_bytes_max = 8589934592", vec!["limits.memory_bytes"]),
        ("proposer_bytes_max = 8589934592", vec!["limits.memory_bytes"]),
        ("heights_kept = 600", vec!["limits.memory_bytes"]),
        ("ping_interval_millis = 2500", vec![]),
        ("back_off_min_millis = 5000", vec![]),
    ] {
        let found = parse(&text(more)).map_or_else(|faults| faults.faults, |_| Vec::new());
        let found: Vec<&str> = found.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(found, keys, "{more}");
    }
}

#[test]
fn the_default_memory_has_room_for_three_peers() {
    let alone = parse(IDENTITY).unwrap().memory_planned_bytes();
    let peers = "[peer]\nkey_file = \"link.pem\"\naddresses = { b = \"127.0.0.1:2\", \
                 c = \"127.0.0.1:3\", d = \"127.0.0.1:4\" }\n";
    let four = parse(&format!("{IDENTITY}{peers}")).unwrap().memory_planned_bytes();
    let mebibytes = (four - alone) >> 20;
    assert_eq!(mebibytes, 3 * (2 * 4 + 64 + 32 + 72 + 64 + 3) + 8 * 32, "of {} MiB", four >> 20);
}

/// A folder with the files of validator `node-0` of a chain of so many.
fn chain(count: u8) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut text = crate::genesis_file::example();
    let end = text.find("\n[[validators]]").unwrap();
    text.truncate(end);
    for index in 0..count {
        let key = |name: &str| {
            let path = folder.path().join(format!("{name}-{index}.pem"));
            *crate::keys_file::create(&path).unwrap().public_key()
        };
        let (vote, link) = (key("vote"), key("link"));
        text.push_str(&format!(
            "\n[[validators]]\nname = \"node-{index}\"\nvote_key = \"{vote}\"\n\
             link_key = \"{link}\"\npower = 1\n"
        ));
    }
    crate::data_key::create(&folder.path().join("data.key")).unwrap();
    crate::keys_file::create(&folder.path().join("audit.pem")).unwrap();
    std::fs::write(folder.path().join("genesis.toml"), text).unwrap();
    folder
}

/// The faults of `node-0` of a chain of so many, with this `[peer]`: key and line.
fn faults_of_node_0(count: u8, peer: &str) -> Vec<(String, Option<usize>)> {
    let folder = chain(count);
    let path = folder.path().join("hufu.toml");
    let identity = IDENTITY.replace("vote.pem", "vote-0.pem");
    std::fs::write(&path, format!("{identity}{peer}")).unwrap();
    let faults = NodeConfig::load(&path).map_or_else(|faults| faults.faults, |_| Vec::new());
    assert!(faults.iter().all(|fault| !fault.rule.is_empty() && !fault.remedy.is_empty()));
    faults.into_iter().map(|fault| (fault.key, fault.line)).collect()
}

#[test]
fn the_genesis_says_who_the_peers_are() {
    let peer = |addresses: &str| {
        format!("[peer]\nkey_file = \"link-0.pem\"\n[peer.addresses]\n{addresses}")
    };
    let all = "node-1 = \"127.0.0.1:1\"\nnode-2 = \"127.0.0.1:2\"\n";
    let fault = |key: &str, line| vec![(key.to_owned(), line)];
    assert_eq!(faults_of_node_0(1, ""), []);
    assert_eq!(faults_of_node_0(1, &peer("")), []);
    assert_eq!(faults_of_node_0(3, &peer(all)), []);
    assert_eq!(faults_of_node_0(3, ""), fault("peer", None));
    let missing = peer("node-1 = \"127.0.0.1:1\"\n");
    assert_eq!(faults_of_node_0(3, &missing), fault("peer.addresses.node-2", Some(8)));
    let unknown = peer(&format!("{all}node-3 = \"127.0.0.1:3\"\n"));
    assert_eq!(faults_of_node_0(3, &unknown), fault("peer.addresses.node-3", Some(11)));
    let own = peer(&format!("node-0 = \"127.0.0.1:3\"\n{all}"));
    assert_eq!(faults_of_node_0(3, &own), fault("peer.addresses.node-0", Some(9)));
    // A faulty line is not a missing one too.
    let faulty = peer(&all.replace("127.0.0.1:2", "127.0.0.1:0"));
    assert_eq!(faults_of_node_0(3, &faulty), fault("peer.addresses.node-2", Some(10)));
}

#[test]
fn the_link_key_is_the_one_of_the_genesis() {
    let peer = |file: &str| format!("[peer]\nkey_file = \"{file}\"\naddresses = {{}}\n");
    let wrong = vec![("peer.key_file".to_owned(), None)];
    assert_eq!(faults_of_node_0(1, &peer("link-0.pem")), []);
    for file in ["vote-0.pem", "genesis.toml", "none.pem"] {
        assert_eq!(faults_of_node_0(1, &peer(file)), wrong, "{file}");
    }
}
