//! Faults of configurations: all at once, each with its line, rule and remedy.

use std::collections::BTreeSet;

use hufu_storage::state_store::{StateStore, StateStoreOptions};

use super::reader::lookup;
use super::*;

const IDENTITY: &str = "[node]\nname = \"node-0\"\ndata_dir = \"data\"\n\
                        genesis = \"genesis.toml\"\nkey = \"vote.pem\"\n";

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
        assert_eq!(has_default, spec.section != "node", "{}", spec.path());
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
            .replace("# key =", "key ="),
    );
    assert!(parsed.is_ok(), "{parsed:?}");
}

#[test]
fn every_key_of_the_table_is_read_once() {
    let mut reader = Reader::new(IDENTITY, Path::new(""));
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
            Kind::Loopback => (
                vec!["\"127.0.0.1:0\"".to_owned(), "\"[::1]:9\"".to_owned()],
                ["\"0.0.0.0:1\"", "\"10.0.0.1:1\"", "\"127.0.0.1\"", "\"localhost:1\"", "7001"]
                    .map(str::to_owned)
                    .to_vec(),
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
fn files_are_checked_together_with_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hufu.toml");
    let text = format!("{IDENTITY}[log]\ndepth = 9\n");
    std::fs::write(&path, text).unwrap();
    let keys =
        |faults: Faults| faults.faults.into_iter().map(|fault| fault.key).collect::<Vec<String>>();
    let found = keys(NodeConfig::load(&path).unwrap_err());
    assert_eq!(found, ["log.depth", "node.key", "node.genesis"]);

    crate::keys_file::create(&folder.path().join("vote.pem")).unwrap();
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
fn the_schema_describes_every_key() {
    let schema = schema();
    for spec in KEYS {
        let key = &schema["properties"][spec.section]["properties"][spec.name];
        assert!(key["description"].is_string(), "{}", spec.path());
        assert_eq!(key["default"].is_null(), spec.section == "node", "{}", spec.path());
    }
    assert_eq!(schema["required"], serde_json::json!(["node"]));
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
    assert_eq!(values.len(), KEYS.len());
    let depth = values.iter().find(|(spec, ..)| spec.path() == "log.depth").unwrap();
    assert_eq!((&depth.1, depth.2), (&serde_json::json!(2), true));
    let cache = values.iter().find(|(spec, ..)| spec.path() == "state.cache_bytes").unwrap();
    assert!(!cache.2);
}
