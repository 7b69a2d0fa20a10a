//! Rules for READMEs: every crate has one, and what they name exists.

use crate::floors::members;
use crate::repository::{Finding, Repository, TextFile};

/// Every crate has a README, which its documentation includes or a `//!` stands for.
pub(crate) fn crates_have_readmes(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members(repository) {
        let folder = member.rule.folder;
        if !repository.exists(&format!("{folder}/README.md")) {
            findings.push(Finding::new(&format!("{folder}/README.md"), 1, "missing: write it"));
        }
        let root = format!("{folder}/lib.rs");
        let included = repository.file(&root).is_some_and(|file| {
            let lines = ["//!", "#![doc = include_str!(\"README.md\")]"];
            lines.iter().any(|line| file.text.trim_start().starts_with(line))
        });
        if !included && repository.exists(&root) {
            let what = "begin with `#![doc = include_str!(\"README.md\")]` or `//!`";
            findings.push(Finding::new(&root, 1, what));
        }
    }
    findings
}

/// Every path a README names in backticks exists.
pub(crate) fn named_paths_exist(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.files().filter(|file| file.name().ends_with(".md")) {
        for (line, span) in spans(&file.text) {
            if looks_like_path(span) && !resolves(repository, file, span) {
                let what = format!("`{span}` does not exist: the README has drifted from the tree");
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
    findings
}

/// Every `make` target a README names is in the Makefile.
pub(crate) fn named_targets_exist(repository: &Repository) -> Vec<Finding> {
    let makefile = repository.file("Makefile").map_or("", |file| file.text.as_str());
    let mut findings = Vec::new();
    for file in repository.files().filter(|file| file.name().ends_with(".md")) {
        let commands = file.text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        for (line, text) in commands.chain(spans(&file.text)) {
            let Some(target) = text.strip_prefix("make ").and_then(|rest| rest.split(' ').next())
            else {
                continue;
            };
            let defined = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
            let word = target.bytes().all(|byte| byte.is_ascii_lowercase());
            // A sentence may begin a line with the verb; only a line or span of one command counts.
            let command = text.split(' ').count() == 2 || text.contains('=') || text.contains('#');
            if word && command && !defined {
                let what = format!("`make {target}`: the Makefile has no such target");
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
    findings
}

/// The texts in single backticks outside fenced blocks, with their lines.
fn spans(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().flat_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let inside = if fenced { "" } else { line };
        inside.split('`').skip(1).step_by(2).map(move |span| (index + 1, span))
    })
}

/// Whether a span reads as a path inside the repository.
fn looks_like_path(span: &str) -> bool {
    let strange = |character: char| {
        !(character.is_ascii_alphanumeric() || matches!(character, '/' | '.' | '_' | '-'))
    };
    if span.contains(strange) || span.starts_with(['/', '-']) || span.starts_with("../shared") {
        return false;
    }
    let source = span.ends_with(".rs") || span.ends_with(".md");
    source || (span.contains('/') && span.chars().any(|character| character.is_ascii_lowercase()))
}

/// Whether the path exists, seen from the README's folder, the root, or `src/`.
fn resolves(repository: &Repository, file: &TextFile, span: &str) -> bool {
    let from = |folder: &str| {
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for part in span.split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." | "" => {}
                name => parts.push(name),
            }
        }
        parts.join("/")
    };
    let places = [from(file.folder()), from(""), from("src")];
    if places.iter().any(|path| repository.exists(path)) {
        return true;
    }
    // A pair of words such as read/write, or a folder a node makes at run time, begins with no name
    // of ours.
    let first = span.split('/').next().unwrap_or(span);
    let ours = [file.folder(), "", "src"].iter().any(|folder| {
        let path = if folder.is_empty() { first.to_owned() } else { format!("{folder}/{first}") };
        repository.exists(&path)
    });
    !ours && !span.ends_with(".rs") && !span.ends_with(".md")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(findings: &[Finding]) -> Vec<usize> {
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn crates_without_readme_or_documentation_are_found() {
        let manifest = ("src/types/Cargo.toml", "[package]\nname = \"hufu-types\"\n");
        let bad = Repository::of(&[manifest, ("src/types/lib.rs", "pub mod a;\n")]);
        assert_eq!(crates_have_readmes(&bad).len(), 2);
        let include = ("src/types/lib.rs", "#![doc = include_str!(\"README.md\")]\n");
        let good = Repository::of(&[manifest, include, ("src/types/README.md", "# x\n")]);
        assert_eq!(crates_have_readmes(&good), []);
    }

    #[test]
    fn paths_that_drifted_are_found() {
        let text = "`a.rs` and `src/gone/`\n`src/types/a.rs` `read/write` `cargo test` `types/`\n\
            ```\n`nothing.rs`\n```\n`../node/b.rs` `b.md` `/metrics` `../shared/x.md` `u32`\n";
        let files = [("src/types/README.md", text), ("src/types/a.rs", ""), ("src/node/b.rs", "")];
        let findings = named_paths_exist(&Repository::of(&files));
        assert_eq!(lines(&findings), [1, 6], "{findings:?}");
    }

    #[test]
    fn targets_that_drifted_are_found() {
        let text = "```\nmake demo\nmake dmeo\n```\n`make tset`\nmake it so that all is well\n";
        let files = [("README.md", text), ("Makefile", "demo: build\n\techo\ntest:\n")];
        assert_eq!(lines(&named_targets_exist(&Repository::of(&files))), [3, 5]);
    }
}
