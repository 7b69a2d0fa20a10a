//! Floors and edges: which crate may use which, and which packages from outside the rule crates may
//! name.
//!
//! The table is that of the agreed design ("The tree"); a change to it is a change of the
//! architecture and is approved by editing this file.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::repository::{Finding, Repository, TextFile};

/// One crate of the workspace, in the order of the members.
pub(crate) struct CrateRule {
    /// Its folder from the root.
    pub(crate) folder: &'static str,
    /// Its floor; arrows only go down. Tens, so that a tool between two floors has a place.
    pub(crate) floor: u8,
    /// Crates of the workspace it may use; [`ALL_BELOW`] for those that wire everything.
    pub(crate) may_use: &'static [&'static str],
    /// For the crates that hold meaning or rules: every package from outside they may name.
    pub(crate) outside: Option<&'static [&'static str]>,
}

const ALL_BELOW: &[&str] = &["*"];

const fn open(folder: &'static str, floor: u8, may_use: &'static [&'static str]) -> CrateRule {
    CrateRule { folder, floor, may_use, outside: None }
}

const fn closed(
    folder: &'static str,
    floor: u8,
    may_use: &'static [&'static str],
    outside: &'static [&'static str],
) -> CrateRule {
    CrateRule { folder, floor, may_use, outside: Some(outside) }
}

/// All crates there are or will be. The load generator drives a node from outside, over the client
/// protocol: it stands above the network and below the binary that starts it.
pub(crate) const CRATES: &[CrateRule] = &[
    closed("kernels", 0, &[], &[]),
    open("src/crypto", 10, &["hufu-kernels"]),
    open("src/runtime", 10, &[]),
    closed("src/types", 20, &["hufu-crypto"], &["thiserror", "zerocopy"]),
    open("hsm/softtoken", 25, &["hufu-crypto"]),
    closed("src/identity", 30, &["hufu-types", "hufu-crypto"], &["thiserror", "zerocopy"]),
    closed(
        "src/ledger",
        40,
        &["hufu-types", "hufu-crypto", "hufu-identity"],
        &["thiserror", "zerocopy"],
    ),
    closed("src/mempool", 40, &["hufu-types"], &["thiserror"]),
    closed(
        "src/consensus",
        40,
        &["hufu-types", "hufu-crypto"],
        &["thiserror", "zerocopy", "arc-malachitebft-core-*"],
    ),
    open("src/storage", 50, &["hufu-types", "hufu-crypto", "hufu-runtime"]),
    open("src/network", 50, &["hufu-types", "hufu-crypto", "hufu-runtime", "hufu-identity"]),
    open("hsm", 50, &["hufu-types", "hufu-crypto", "hufu-runtime"]),
    open("bench/load", 55, &["hufu-types", "hufu-crypto", "hufu-runtime", "hufu-network"]),
    open("src/node", 60, ALL_BELOW),
    open("bench", 70, ALL_BELOW),
    open("tests/soak", 72, ALL_BELOW),
    open("tests/simulation", 75, ALL_BELOW),
    open("tests", 80, ALL_BELOW),
];

/// Manifests that belong to no member: measured baselines and fuzz targets are workspaces of their
/// own.
const MANIFESTS_APART: &[&str] = &["bench/baselines/", "tests/fuzz/"];

/// Packages with one home each, so that what they do is done in one place.
const HOMES: &[(&str, &[&str], &str)] = &[
    ("cryptoki-sys", &["hsm", "hsm/softtoken"], "cards are reached through `hsm` only"),
    ("io-uring", &["src/runtime"], "raw I/O lives in `runtime` only"),
    ("rtrb", &["src/runtime"], "links between tiles are made by `runtime` only"),
    ("rocksdb", &["src/storage"], "the state store is reached through `storage` only"),
    ("sm2", &["src/crypto"], "signatures are reached through `crypto` only"),
    ("sm3", &["src/crypto"], "digests are reached through `crypto` only"),
    ("getrandom", &["src/crypto"], "entropy is read in src/crypto/entropy.rs only"),
    ("rand", &[], "randomness comes from src/crypto/entropy.rs or from a seed of the test"),
    ("tokio", &["src/node"], "tokio serves the control plane of the node only"),
    ("axum", &["src/node"], "the admin API is the node's"),
];

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// A crate of the table that has a manifest, with that manifest.
pub(crate) struct Member<'a> {
    pub(crate) rule: &'static CrateRule,
    pub(crate) manifest: &'a TextFile,
    pub(crate) table: Table,
}

impl Member<'_> {
    /// The root files of what is shipped: the library and the binaries, from the crate's folder.
    pub(crate) fn roots(&self) -> Vec<String> {
        let bins = self.table.get("bin").and_then(Value::as_array).into_iter().flatten();
        let paths = bins.filter_map(|bin| bin.get("path")).filter_map(Value::as_str);
        let roots: BTreeSet<&str> = ["lib.rs", "main.rs"].into_iter().chain(paths).collect();
        roots.into_iter().map(str::to_owned).collect()
    }
}

/// One dependency with the section it stands in.
struct Dependency<'a> {
    section: &'a str,
    name: &'a str,
    value: &'a Value,
}

/// The crates that exist, in the order of the table.
pub(crate) fn members(repository: &Repository) -> Vec<Member<'_>> {
    let member = |rule: &'static CrateRule| {
        let manifest = repository.file(&format!("{}/Cargo.toml", rule.folder))?;
        let table = manifest.text.parse().ok()?;
        Some(Member { rule, manifest, table })
    };
    CRATES.iter().filter_map(member).collect()
}

fn package_name(table: &Table) -> Option<&str> {
    table.get("package")?.as_table()?.get("name")?.as_str()
}

/// Dependencies of all sections, those for one target included.
fn dependencies(table: &Table) -> Vec<Dependency<'_>> {
    let targets = table.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for table in std::iter::once(table).chain(targets) {
        for section in SECTIONS {
            let entries = table.get(section).and_then(Value::as_table);
            for (name, value) in entries.into_iter().flatten() {
                found.push(Dependency { section, name, value });
            }
        }
    }
    found
}

/// The line on which a key or a string first stands; 1 if it does not.
fn line_with(file: &TextFile, wanted: &str) -> usize {
    let line = file.text.lines().position(|line| line.trim_start().starts_with(wanted));
    let line = line.or_else(|| file.text.lines().position(|line| line.contains(wanted)));
    line.map_or(1, |index| index + 1)
}

fn root_manifest(repository: &Repository) -> Option<(&TextFile, Table)> {
    let manifest = repository.file("Cargo.toml")?;
    Some((manifest, manifest.text.parse().ok()?))
}

/// Every manifest parses, is a crate of the table, and is a member; members stand in floor order.
pub(crate) fn members_in_floor_order(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.files().filter(|file| file.name() == "Cargo.toml") {
        if let Err(cause) = file.text.parse::<Table>() {
            findings.push(Finding::new(&file.path, 1, format!("not TOML: {}", cause.message())));
        }
        let apart = MANIFESTS_APART.iter().any(|folder| file.path.starts_with(folder));
        let known = CRATES.iter().any(|rule| rule.folder == file.folder());
        if !apart && !known && !file.folder().is_empty() {
            let what = "crate without a floor: add it to CRATES in tests/tidy/floors.rs";
            findings.push(Finding::new(&file.path, 1, what));
        }
    }
    let Some((root, table)) = root_manifest(repository) else {
        findings.push(Finding::new("Cargo.toml", 1, "missing: the workspace needs it"));
        return findings;
    };
    let listed = table.get("workspace").and_then(|workspace| workspace.get("members"));
    let listed: Vec<&str> =
        listed.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let place = |name: &str| CRATES.iter().position(|rule| rule.folder == name);
    for pair in listed.windows(2) {
        let (Some(first), Some(second)) = (place(pair[0]), place(pair[1])) else { continue };
        if CRATES[first].floor > CRATES[second].floor {
            let what =
                format!("move `{}` above `{}`: members are in floor order", pair[1], pair[0]);
            findings.push(Finding::new(
                "Cargo.toml",
                line_with(root, &format!("\"{}\"", pair[1])),
                what,
            ));
        }
    }
    for member in members(repository) {
        if !listed.contains(&member.rule.folder) {
            let what = format!("add `{}` to the members of the workspace", member.rule.folder);
            findings.push(Finding::new("Cargo.toml", line_with(root, "members"), what));
        }
    }
    findings
}

/// Arrows between crates of the workspace only go down, along the edges of the table.
///
/// What only tests use may be any crate of a lower floor: it is not shipped.
pub(crate) fn edges_only_go_down(repository: &Repository) -> Vec<Finding> {
    let members = members(repository);
    let floor_of = |package: &str| {
        let named = |member: &&Member<'_>| package_name(&member.table) == Some(package);
        members.iter().find(named).map(|member| member.rule.floor)
    };
    let mut findings = Vec::new();
    for member in &members {
        for dependency in dependencies(&member.table) {
            if !dependency.name.starts_with("hufu-") {
                continue;
            }
            let line = line_with(member.manifest, dependency.name);
            let (name, folder) = (dependency.name, member.rule.folder);
            let mut found =
                |what: String| findings.push(Finding::new(&member.manifest.path, line, what));
            let Some(floor) = floor_of(name) else {
                found(format!("`{name}` is no crate of this workspace"));
                continue;
            };
            if floor >= member.rule.floor {
                found(format!(
                    "`{folder}` may not use `{name}`: arrows between floors only go down"
                ));
            }
            let shipped = dependency.section != "dev-dependencies";
            let all = member.rule.may_use == ALL_BELOW;
            if shipped && !all && !member.rule.may_use.contains(&name) {
                let allowed = member.rule.may_use.join(", ");
                found(format!("`{folder}` may use [{allowed}] only, not `{name}`"));
            }
        }
    }
    findings
}

/// The crates of meaning and rules name no package but those of their list.
pub(crate) fn rule_crates_use_listed_packages(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members(repository) {
        let Some(allowed) = member.rule.outside else { continue };
        let matches = |name: &str, pattern: &str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        for dependency in dependencies(&member.table) {
            let name = dependency.name;
            let ours = name.starts_with("hufu-") || dependency.section == "dev-dependencies";
            if ours || allowed.iter().any(|pattern| matches(name, pattern)) {
                continue;
            }
            let line = line_with(member.manifest, name);
            let what = format!(
                "`{name}` is not allowed in `{}`; it may use: {}",
                member.rule.folder,
                allowed.join(", ")
            );
            findings.push(Finding::new(&member.manifest.path, line, what));
        }
    }
    findings
}

/// Packages that do I/O, randomness or signatures are used by their one home only.
pub(crate) fn packages_stay_at_home(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members(repository) {
        for dependency in dependencies(&member.table) {
            let Some((_, homes, why)) = HOMES.iter().find(|(name, ..)| *name == dependency.name)
            else {
                continue;
            };
            let tools = member.rule.floor > 60 || dependency.section == "dev-dependencies";
            if !tools && !homes.contains(&member.rule.folder) {
                let line = line_with(member.manifest, dependency.name);
                let what = format!("`{}` in `{}`: {why}", dependency.name, member.rule.folder);
                findings.push(Finding::new(&member.manifest.path, line, what));
            }
        }
    }
    findings
}

/// Versions stand in the root manifest alone; every crate inherits version, licence and lints.
pub(crate) fn manifests_inherit(repository: &Repository) -> Vec<Finding> {
    let inherits = |value: Option<&Value>| {
        value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
    };
    let mut findings = Vec::new();
    for member in members(repository) {
        let path = &member.manifest.path;
        for dependency in dependencies(&member.table) {
            if !inherits(Some(dependency.value)) {
                let line = line_with(member.manifest, dependency.name);
                let what = format!("write `{}.workspace = true`", dependency.name);
                findings.push(Finding::new(path, line, what));
            }
        }
        if !inherits(member.table.get("lints")) {
            findings.push(Finding::new(path, 1, "write `[lints]` with `workspace = true`"));
        }
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            let package = member.table.get("package");
            if !inherits(package.and_then(|package| package.get(key))) {
                let what = format!("write `{key}.workspace = true` under `[package]`");
                findings.push(Finding::new(path, 1, what));
            }
        }
    }
    findings
}

/// The consensus engine is pinned to the exact version that was read, and there is one profile.
pub(crate) fn root_manifest_is_sound(repository: &Repository) -> Vec<Finding> {
    let Some((root, table)) = root_manifest(repository) else { return Vec::new() };
    let mut findings = Vec::new();
    let workspace = table.get("workspace");
    let entries = workspace.and_then(|table| table.get("dependencies")).and_then(Value::as_table);
    for (name, value) in entries.into_iter().flatten() {
        let version = value.as_str().or_else(|| value.get("version").and_then(Value::as_str));
        if name.starts_with("arc-malachitebft-")
            && !version.is_some_and(|text| text.starts_with('='))
        {
            let what = format!("pin `{name}` exactly (\"=x.y.z\"): upstream is unaudited");
            findings.push(Finding::new("Cargo.toml", line_with(root, name), what));
        }
    }
    for name in table.get("profile").and_then(Value::as_table).into_iter().flat_map(Table::keys) {
        if name != "release" {
            let line = line_with(root, &format!("[profile.{name}"));
            let what = format!("remove profile `{name}`: a second profile builds RocksDB twice");
            findings.push(Finding::new("Cargo.toml", line, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: &str = "version.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
        [lints]\nworkspace = true\n";

    fn manifest(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n{PACKAGE}{rest}")
    }

    fn with(folder: &str, name: &str, rest: &str) -> Repository {
        let root = format!("[workspace]\nmembers = [\"src/crypto\", \"{folder}\"]\n");
        let crypto = manifest("hufu-crypto", "");
        let path = format!("{folder}/Cargo.toml");
        let files = [
            ("Cargo.toml", root.as_str()),
            ("src/crypto/Cargo.toml", crypto.as_str()),
            (path.as_str(), &manifest(name, rest)),
        ];
        Repository::of(&files)
    }

    fn whats(findings: &[Finding]) -> String {
        findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_table_itself_is_in_floor_order() {
        assert!(CRATES.is_sorted_by_key(|rule| rule.floor));
    }

    #[test]
    fn members_out_of_order_unknown_or_unlisted_are_found() {
        let crypto = manifest("hufu-crypto", "");
        let repository = Repository::of(&[
            ("Cargo.toml", "[workspace]\nmembers = [\n\"src/types\",\n\"src/crypto\",\n]\n"),
            ("src/crypto/Cargo.toml", &crypto),
            ("src/ledger/Cargo.toml", &manifest("hufu-ledger", "")),
            ("src/surprise/Cargo.toml", &manifest("hufu-surprise", "")),
            ("src/types/Cargo.toml", "not toml"),
        ]);
        let findings = members_in_floor_order(&repository);
        let text = whats(&findings);
        assert!(text.contains("move `src/crypto` above `src/types`"), "{text}");
        assert!(text.contains("crate without a floor"), "{text}");
        assert!(text.contains("add `src/ledger`"), "{text}");
        assert!(text.contains("not TOML"), "{text}");
        let moved = findings.iter().find(|finding| finding.what.starts_with("move")).unwrap();
        assert_eq!(moved.line, 4);
    }

    #[test]
    fn an_arrow_up_sideways_or_off_the_table_is_found() {
        let good =
            with("src/types", "hufu-types", "[dependencies]\nhufu-crypto.workspace = true\n");
        assert_eq!(edges_only_go_down(&good), []);
        let sideways =
            with("src/runtime", "hufu-runtime", "[dependencies]\nhufu-crypto.workspace = true");
        let text = whats(&edges_only_go_down(&sideways));
        assert!(text.contains("only go down") && text.contains("may use [] only"), "{text}");
        let unlisted =
            with("src/mempool", "hufu-mempool", "[dependencies]\nhufu-crypto.workspace = true");
        assert!(whats(&edges_only_go_down(&unlisted)).contains("may use [hufu-types] only"));
        let for_tests = "[dev-dependencies]\nhufu-crypto.workspace = true";
        assert_eq!(edges_only_go_down(&with("src/mempool", "hufu-mempool", for_tests)), []);
        let by_target = "[target.'cfg(unix)'.dependencies]\nhufu-nothing.workspace = true";
        let text = whats(&edges_only_go_down(&with("src/types", "hufu-types", by_target)));
        assert!(text.contains("no crate of this workspace"), "{text}");
    }

    #[test]
    fn packages_off_the_list_are_found() {
        let rest = "[dependencies]\nthiserror.workspace = true\ntokio.workspace = true\n\
            arc-malachitebft-core-types.workspace = true\n";
        let repository = with("src/consensus", "hufu-consensus", rest);
        let text = whats(&rule_crates_use_listed_packages(&repository));
        assert!(text.starts_with("`tokio` is not allowed in `src/consensus`"), "{text}");
        assert_eq!(text.lines().count(), 1);
        let text = whats(&packages_stay_at_home(&repository));
        assert!(text.contains("control plane"), "{text}");
        let runtime =
            with("src/runtime", "hufu-runtime", "[dependencies]\nio-uring.workspace = true");
        assert_eq!(packages_stay_at_home(&runtime), []);
    }

    #[test]
    fn versions_outside_the_root_and_missing_lints_are_found() {
        let repository = with("src/types", "hufu-types", "[dependencies]\nthiserror = \"2\"\n");
        assert!(whats(&manifests_inherit(&repository)).contains("`thiserror.workspace = true`"));
        let bare =
            Repository::of(&[("src/types/Cargo.toml", "[package]\nname = \"hufu-types\"\n")]);
        assert_eq!(manifests_inherit(&bare).len(), 6);
    }

    #[test]
    fn loose_pins_and_second_profiles_are_found() {
        let text = "[workspace.dependencies]\narc-malachitebft-core-types = \"0.8\"\n\
            arc-malachitebft-core-driver = { version = \"=0.8.2\" }\n\
            [profile.release]\nopt-level = 3\n[profile.bench]\nopt-level = 3\n";
        let findings = root_manifest_is_sound(&Repository::of(&[("Cargo.toml", text)]));
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2, 6]);
    }
}
