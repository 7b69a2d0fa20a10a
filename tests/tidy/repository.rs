//! The repository as text: which files belong to it, and what a rule found in them.
//!
//! Rules are functions from a [`Repository`] to findings, so that each can also be shown a small
//! bad repository made in memory and must find what is wrong with it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One file as text, by its path from the root with `/` between the parts.
#[derive(Clone, Debug)]
pub(crate) struct TextFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl TextFile {
    /// Last part of the path.
    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Path of the folder; empty for a file of the root.
    pub(crate) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the file holds tests only: those may be longer and may use what rules may not.
    pub(crate) fn is_test(&self) -> bool {
        let in_folder = self.path.starts_with("tests/") || self.path.contains("/tests/");
        let name = self.name();
        in_folder || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// Whether this is a file of these rules, which must name what it forbids.
    pub(crate) fn is_tidy(&self) -> bool {
        self.path == "tests/tidy.rs" || self.path.starts_with("tests/tidy/")
    }
}

/// One breach of a rule, where it is and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

/// All files the rules look at, and the names of all that exist.
pub(crate) struct Repository {
    files: Vec<TextFile>,
    paths: BTreeSet<String>,
}

impl Repository {
    /// The repository these tests were compiled in.
    pub(crate) fn here() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf();
        let paths = listed_by_git(&root).unwrap_or_else(|| walked(&root));
        assert!(paths.len() > 10, "the list of files is too short to be this repository's");
        let read = |path: &String| {
            let text = String::from_utf8(std::fs::read(root.join(path)).ok()?).ok()?;
            Some(TextFile { path: path.clone(), text })
        };
        Self { files: paths.iter().filter_map(read).collect(), paths }
    }

    /// A repository in memory, for the tests of the rules.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| TextFile {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        let paths = files.iter().map(|(path, _)| (*path).to_owned()).collect();
        Self { files: files.iter().map(file).collect(), paths }
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &TextFile> {
        self.files.iter()
    }

    pub(crate) fn rust_files(&self) -> impl Iterator<Item = &TextFile> {
        self.files().filter(|file| file.is_rust())
    }

    pub(crate) fn file(&self, path: &str) -> Option<&TextFile> {
        self.files().find(|file| file.path == path)
    }

    /// Whether a file or a folder of this name is in the repository.
    pub(crate) fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        self.paths.contains(path) || self.paths.iter().any(|file| file.starts_with(&inside))
    }
}

/// Fails with every finding and how to mend it.
pub(crate) fn report(rule: &str, findings: &[Finding]) {
    let mut text = String::new();
    for finding in findings {
        let Finding { path, line, what } = finding;
        writeln!(text, "  {path}:{line}: {what}").unwrap();
    }
    assert!(findings.is_empty(), "{rule}: {} findings\n{text}", findings.len());
}

/// Tracked files and those not yet tracked that no ignore rule covers.
fn listed_by_git(root: &Path) -> Option<BTreeSet<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let listing = output.status.success().then_some(output.stdout)?;
    let names = listing.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    Some(names.filter(|name| root.join(name).is_file()).collect())
}

/// Every file below the root, for a copy without git.
fn walked(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let skipped = matches!(name.as_str(), ".git" | "target" | "out");
            if path.is_dir() && !skipped {
                folders.push(path);
            } else if path.is_file() {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn walking_and_git_find_the_same_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let walked = walked(root);
    assert!(walked.contains("Cargo.toml") && walked.contains("tests/tidy.rs"));
    if let Some(listed) = listed_by_git(root) {
        let missed: Vec<_> = listed.difference(&walked).collect();
        assert!(missed.is_empty(), "the walk misses {missed:?}");
    }
}
