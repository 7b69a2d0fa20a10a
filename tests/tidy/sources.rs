//! Rules for source files: unsafe code, rules without I/O, size, unfinished work, names.

use crate::floors::{CRATES, members};
use crate::lexer::{block_length, code_only, line_of, lines_with, places_of, shipped_code};
use crate::repository::{Finding, Repository, TextFile};

/// Crates in which `unsafe` may stand, in the modules of [`UNSAFE_MODULES`].
const UNSAFE_CRATES: &[&str] = &["kernels", "src/runtime", "hsm", "hsm/softtoken"];

/// Every module with `unsafe`, and what it cannot do without.
const UNSAFE_MODULES: &[(&str, &str)] = &[
    ("bench/baselines/openssl.rs", "calls of the system's libcrypto"),
    ("hsm/agent/memory.rs", "memory shared with the agent's process"),
    ("hsm/agent/os.rs", "futexes, descriptors over sockets, pidfd"),
    ("hsm/benches/pool.rs", "the bare loop of C calls that the pool is measured against"),
    ("hsm/pin/memory.rs", "memory that is not swapped, dumped or inherited"),
    ("hsm/pkcs11/functions.rs", "calls of the C interface"),
    ("hsm/pkcs11/functions/crypt.rs", "calls of the C interface"),
    ("hsm/pkcs11/functions/keys.rs", "calls of the C interface"),
    ("hsm/pkcs11/functions/objects.rs", "calls of the C interface"),
    ("hsm/pkcs11/functions/sessions.rs", "calls of the C interface"),
    ("hsm/pkcs11/functions/slots.rs", "calls of the C interface"),
    ("hsm/pkcs11/linker.rs", "loading a library and reading its list of functions"),
    ("hsm/softtoken/entry.rs", "the module behind a pointer that survives a fork"),
    ("hsm/softtoken/entry/crypto.rs", "the C interface of PKCS#11"),
    ("hsm/softtoken/entry/general.rs", "the C interface of PKCS#11"),
    ("hsm/softtoken/entry/keys.rs", "the C interface of PKCS#11"),
    ("hsm/softtoken/entry/lists.rs", "the C interface of PKCS#11 and its exported names"),
    ("hsm/softtoken/entry/memory.rs", "reads and writes of a client's memory"),
    ("hsm/softtoken/entry/objects.rs", "the C interface of PKCS#11"),
    ("hsm/softtoken/entry/sessions.rs", "the C interface of PKCS#11"),
    ("hsm/softtoken/entry/slots.rs", "the C interface of PKCS#11"),
    ("hsm/softtoken/entry/tests.rs", "calls of the C interface as a client makes them"),
    ("hsm/softtoken/entry/tests/border.rs", "calls of the C interface as no client makes them"),
    ("hsm/softtoken/entry/tests/stress.rs", "calls of the C interface from many threads"),
    ("hsm/softtoken/entry/unsupported.rs", "the C interface of PKCS#11"),
    ("hsm/softtoken/faults/clock.rs", "clock and sleep of the system"),
    ("hsm/softtoken/faults/page.rs", "a page of memory that processes share"),
    ("hsm/agent/sandbox/privileges.rs", "limits, users and capabilities"),
    ("hsm/agent/sandbox/syscalls/tests.rs", "what a library tries upon other processes"),
    ("kernels/sm2.rs", "the gate to vector instructions the CPU was asked for"),
    ("kernels/sm2/avx512/field.rs", "loads and stores of vectors"),
    ("kernels/sm2/avx512/point.rs", "loads of table entries"),
    ("kernels/sm2/avx512/sign.rs", "loads of table rows"),
    ("kernels/sm2/avx512/table.rs", "stores of table entries"),
    ("kernels/sm2/known.rs", "the gate to vector instructions the CPU was asked for"),
    ("kernels/sm2/lanes.rs", "the gate to vector instructions the CPU was asked for"),
    ("kernels/sm3.rs", "the gate to vector instructions the CPU was asked for"),
    ("kernels/sm3/avx2.rs", "loads and stores of vectors"),
    ("kernels/sm3/avx512.rs", "loads and stores of vectors"),
    ("kernels/sm4.rs", "the gate to vector instructions the CPU was asked for"),
    ("kernels/sm4/avx2.rs", "loads and stores of vectors"),
    ("kernels/sm4/avx512.rs", "loads and stores of vectors"),
    ("kernels/sm4/gcm.rs", "the gate to vector instructions the CPU was asked for"),
    ("kernels/sm4/ghash.rs", "the gate to vector instructions the CPU was asked for"),
    ("kernels/sm4/ghash/avx2.rs", "loads and stores of vectors"),
    ("kernels/sm4/ghash/avx512.rs", "loads and stores of vectors"),
    ("src/runtime/file/buffer.rs", "aligned memory for O_DIRECT"),
    ("src/runtime/file/direct.rs", "system calls of files that std has not"),
    ("src/runtime/file/uring.rs", "submission of buffers the kernel writes from"),
    ("src/runtime/file/tests.rs", "tests of the above"),
    ("src/runtime/net/buffer.rs", "provided buffer rings"),
    ("src/runtime/net/epoll.rs", "epoll system calls"),
    ("src/runtime/net/memory.rs", "mapped memory shared with the kernel"),
    ("src/runtime/net/pool.rs", "provided buffer rings"),
    ("src/runtime/net/socket.rs", "socket system calls"),
    ("src/runtime/net/tests.rs", "tests of the above"),
    ("src/runtime/net/uring.rs", "submission of socket operations"),
    ("src/runtime/net/uring/ring.rs", "submission of socket operations"),
    ("src/runtime/sys.rs", "eventfd, ppoll, affinity and the like"),
];

/// The one file in which the consensus engine's coroutine is polled by hand.
const COROUTINE_FILE: &str = "src/consensus/engine/coroutine.rs";

/// The one shell among the floors of rules: a library that others load, with a store of its own. It
/// stands so low because of what it may use.
const SHELL_BELOW_RULES: &str = "hsm/softtoken";

/// What rules may not name, and the reason.
const RULES_MAY_NOT_NAME: &[(&str, &str)] = &[
    ("std::thread", "a rule has no thread"),
    ("std::net", "a rule has no socket"),
    ("std::fs", "a rule has no file"),
    ("std::env", "a rule has no environment"),
    ("std::process", "a rule has no process"),
    ("std::io", "a rule does no I/O"),
    ("Instant", "time is an input of a rule"),
    ("SystemTime", "time is an input of a rule"),
    ("Mutex", "a rule has no lock"),
    ("RwLock", "a rule has no lock"),
    ("Condvar", "a rule has no lock"),
    ("thread_local!", "state of a rule is an argument"),
    ("static mut", "state of a rule is an argument"),
    ("RandomState", "the order of a hash map must not differ from run to run"),
    ("getrandom", "randomness is an input of a rule"),
    ("rand::", "randomness is an input of a rule"),
    ("entropy", "randomness is an input of a rule"),
];

const ASYNC_WORDS: &[&str] = &["async", ".await", "Future", "Waker"];

/// Longest file, and longest file of tests or data tables, in lines.
const FILE_LINES_MAX: usize = 800;
const FILE_LINES_MAX_TESTS: usize = 1_500;

/// Files whose length is tables of data.
const DATA_FILES: &[&str] = &[];

/// Longest line in columns.
const LINE_COLUMNS_MAX: usize = 100;

/// Words that say that something is not finished.
const UNFINISHED: &[&str] = &[
    "todo!",
    "unimplemented!",
    "TODO",
    "FIXME",
    "XXX",
    "HACK",
    "placeholder",
    "Placeholder",
    "simplified",
    "for now",
];

/// Names that say nothing of what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util",
    "utils",
    "common",
    "misc",
    "miscellaneous",
    "helper",
    "helpers",
    "manager",
    "managers",
    "stuff",
];

/// Hosts of package registries, their mirrors and container registries.
const REGISTRY_HOSTS: &[&str] = &[
    "crates.io",
    "docs.rs",
    "lib.rs/",
    "pypi.org",
    "pythonhosted.org",
    "npmjs.org",
    "npmjs.com",
    "rubygems.org",
    "proxy.golang.org",
    "repo.maven.apache.org",
    "docker.io",
    "ghcr.io",
    "quay.io",
    "gcr.io",
    "deb.debian.org",
    "galaxy.ansible.com",
    "rsproxy",
    "mirrors.ustc.edu.cn",
    "mirrors.tuna.tsinghua.edu.cn",
    "mirrors.aliyun.com",
];

/// Generated lock files name the registry of every package; they are not written by hand.
const LOCK_FILES: [&str; 2] = ["Cargo.lock", "bench/baselines/Cargo.lock"];

/// The crate a file belongs to, by its folder: the longest that matches.
fn folder_of(file: &TextFile) -> Option<&'static str> {
    let inside =
        |folder: &&str| file.path.strip_prefix(*folder).is_some_and(|rest| rest.starts_with('/'));
    CRATES.iter().map(|rule| rule.folder).filter(inside).max_by_key(|folder| folder.len())
}

fn floor_of(file: &TextFile) -> Option<u8> {
    let folder = folder_of(file)?;
    CRATES.iter().find(|rule| rule.folder == folder).map(|rule| rule.floor)
}

/// Crates forbid unsafe code, but for those that cannot do without.
pub(crate) fn unsafe_is_forbidden(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for member in members(repository) {
        let rule = member.rule;
        if UNSAFE_CRATES.contains(&rule.folder) {
            continue;
        }
        for root in member.roots() {
            let Some(file) = repository.file(&format!("{}/{root}", rule.folder)) else { continue };
            if !code_only(&file.text).contains("#![forbid(unsafe_code)]") {
                findings.push(Finding::new(&file.path, 1, "write `#![forbid(unsafe_code)]`"));
            }
        }
    }
    findings
}

/// `unsafe` stands in listed modules only, and the list names no module that has none.
pub(crate) fn unsafe_is_listed(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        let lines = lines_with(&code_only(&file.text), "unsafe");
        let listed = UNSAFE_MODULES.iter().any(|(path, _)| *path == file.path);
        let Some(&line) = lines.first() else {
            if listed {
                let what = "has no `unsafe`: take it off UNSAFE_MODULES in tests/tidy/sources.rs";
                findings.push(Finding::new(&file.path, 1, what));
            }
            continue;
        };
        let home = folder_of(file).is_some_and(|folder| UNSAFE_CRATES.contains(&folder));
        let is_tool = ["tests/", "bench/baselines/"].iter().any(|it| file.path.starts_with(it));
        if !home && !is_tool {
            let what = "`unsafe` outside kernels, runtime and hsm: ask `runtime` for it";
            findings.push(Finding::new(&file.path, line, what));
        } else if !listed {
            let what =
                "`unsafe` in a module that UNSAFE_MODULES of tests/tidy/sources.rs does not list";
            findings.push(Finding::new(&file.path, line, what));
        }
    }
    findings
}

/// No listed module is missing from the tree.
pub(crate) fn unsafe_list_is_true(repository: &Repository) -> Vec<Finding> {
    let missing = UNSAFE_MODULES.iter().filter(|(path, _)| !repository.exists(path));
    let what = "not in the tree: take it off UNSAFE_MODULES in tests/tidy/sources.rs";
    missing.map(|(path, _)| Finding::new(path, 1, what)).collect()
}

/// Meaning and rules (floors 2 to 4) do no I/O and know no time, lock, thread or randomness.
pub(crate) fn rules_do_no_io(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files().filter(|file| !file.is_test()) {
        let is_shell = folder_of(file) == Some(SHELL_BELOW_RULES);
        if !matches!(floor_of(file), Some(20..=40)) || is_shell {
            continue;
        }
        let code = shipped_code(&file.text);
        for (word, why) in RULES_MAY_NOT_NAME {
            for line in lines_with(&code, word) {
                findings.push(Finding::new(&file.path, line, format!("`{word}`: {why}")));
            }
        }
        if file.path == COROUTINE_FILE {
            continue;
        }
        for word in ASYNC_WORDS {
            for line in lines_with(&code, word) {
                let what = format!("`{word}`: only {COROUTINE_FILE} polls a coroutine");
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
    findings
}

/// Entropy of the operating system is read in one file.
pub(crate) fn entropy_has_one_home(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let elsewhere = |file: &&TextFile| !file.is_test() && file.path != "src/crypto/entropy.rs";
    for file in repository.rust_files().filter(elsewhere) {
        let code = shipped_code(&file.text);
        for word in ["getrandom", "OsRng", "SysRng", "ThreadRng"] {
            for line in lines_with(&code, word) {
                let what = format!("`{word}`: call hufu_crypto::entropy instead");
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
    findings
}

/// Files fit a reader's head.
pub(crate) fn files_are_short(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        let long = file.is_test() || DATA_FILES.contains(&file.path.as_str());
        let max = if long { FILE_LINES_MAX_TESTS } else { FILE_LINES_MAX };
        let count = file.text.lines().count();
        if count > max {
            let what = format!("{count} lines, {max} allowed: split it by what it is about");
            findings.push(Finding::new(&file.path, max + 1, what));
        }
    }
    findings
}

/// Lines fit beside another window. A string or an address is not broken, as rustfmt leaves it.
pub(crate) fn lines_are_short(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        for (index, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            let literal = line.contains('"') || line.contains("://");
            if columns > LINE_COLUMNS_MAX && !literal && !inside_string(&file.text, index) {
                let what = format!("{columns} columns, {LINE_COLUMNS_MAX} allowed: break the line");
                findings.push(Finding::new(&file.path, index + 1, what));
            }
        }
    }
    findings
}

/// Whether the line with this index lies wholly inside a string that began before it.
fn inside_string(text: &str, index: usize) -> bool {
    let code = code_only(text);
    let comment = text.lines().nth(index).is_some_and(|line| line.trim_start().starts_with("//"));
    !comment && code.lines().nth(index).is_some_and(|line| line.trim().is_empty())
}

/// Nothing in the tree says that it is not finished.
pub(crate) fn nothing_is_unfinished(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    let looked_at = |file: &&TextFile| {
        let endings = [".rs", ".toml", ".sh", ".yml", ".yaml", ".md", "Makefile", ".py"];
        let ours = endings.iter().any(|ending| file.path.ends_with(ending));
        (ours || file.path.starts_with(".ci/")) && !file.is_tidy()
    };
    for file in repository.files().filter(looked_at) {
        for word in UNFINISHED {
            for line in lines_with(&file.text, word) {
                let what = format!("`{word}`: finish it, or say what is and is not done");
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
    findings
}

/// An ignored test names its owner and the day until which it may be ignored.
pub(crate) fn ignored_tests_have_owners(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files().filter(|file| !file.is_tidy()) {
        let code = code_only(&file.text);
        for at in places_of(&code, "#[ignore") {
            let attribute = &file.text[at..at + block_length(&code[at + 1..]) + 1];
            if !(attribute.contains("until 20") && attribute.contains("owner ")) {
                let what =
                    "write `#[ignore = \"until YYYY-MM-DD, owner NAME: reason\"]`, or mend it";
                findings.push(Finding::new(&file.path, line_of(&file.text, at), what));
            }
        }
    }
    findings
}

/// A lint is set aside only with a reason.
pub(crate) fn allowed_lints_have_reasons(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        let code = code_only(&file.text);
        for word in ["allow(", "expect("] {
            for at in places_of(&code, word) {
                let before = code[..at].trim_end();
                let attribute = ["#[", "#![", ","].iter().any(|start| before.ends_with(start))
                    && in_attribute(&code[..at]);
                let open = at + word.len() - 1;
                let inside = &code[open..open + block_length(&code[open..])];
                if attribute && !inside.contains("reason =") {
                    let what = format!("`{word}…)` without `reason = \"…\"`");
                    findings.push(Finding::new(&file.path, line_of(&code, at), what));
                }
            }
        }
    }
    findings
}

/// Whether the code ends inside an attribute that is still open.
fn in_attribute(code: &str) -> bool {
    let Some(start) = code.rfind("#[").max(code.rfind("#![")) else { return false };
    let open = start + code[start..].find('[').unwrap_or(0);
    open + block_length(&code[open..]) >= code.len() && !code[open..].contains(']')
}

/// A flaky test is a bug: nothing runs a test again until it passes.
pub(crate) fn nothing_retries_tests(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.files().filter(|file| !file.is_tidy()) {
        let words: &[&str] = match file.name() {
            "nextest.toml" => &["retries"],
            name if name.ends_with(".rs") => &["#[retry", "#[flaky", "flaky_test", "test_retry"],
            "Makefile" | "run" => &["--retries"],
            _ => &[],
        };
        for word in words {
            for line in lines_with(&file.text, word) {
                let what = format!("`{word}`: mend the test instead of running it again");
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
    findings
}

/// No file depends on one registry: where packages come from is the builder's configuration.
pub(crate) fn no_registry_is_named(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository
        .files()
        .filter(|file| !file.is_tidy() && !LOCK_FILES.contains(&file.path.as_str()))
    {
        for host in REGISTRY_HOSTS {
            for line in lines_with(&file.text, host) {
                let what =
                    format!("names the registry host `{host}`: leave it to the host's set-up");
                findings.push(Finding::new(&file.path, line, what));
            }
        }
    }
    findings
}

/// A name says what is inside.
pub(crate) fn names_say_something(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.files() {
        let words = file.path.split(['/', '.', '_', '-']);
        for word in words.filter(|word| EMPTY_NAMES.contains(word)) {
            let what = format!("`{word}` says nothing: name the file after what is in it");
            findings.push(Finding::new(&file.path, 1, what));
        }
    }
    findings
}

/// Every module begins by saying what it is for; the tests of a module are introduced by their
/// names.
pub(crate) fn modules_are_introduced(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in repository.rust_files() {
        if file.is_test() && !file.path.starts_with("tests/") {
            continue;
        }
        let mut lines = file.text.lines().map(str::trim).filter(|line| !line.is_empty());
        let first = lines.find(|line| line.starts_with("//!") || !line.starts_with("#![allow"));
        let introduced = |line: &str| line.starts_with("//!") || line.starts_with("#![doc");
        if !first.is_some_and(introduced) {
            let what = "begin with `//!`: what the module is for, who owns it, what it never does";
            findings.push(Finding::new(&file.path, 1, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&Repository) -> Vec<Finding>;

    /// The rule finds something on exactly these lines of the one bad file, and nothing in the good
    /// one.
    fn finds(rule: Rule, bad: (&str, &str), lines: &[usize], good: (&str, &str)) {
        let findings = rule(&Repository::of(&[bad]));
        let found: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
        assert_eq!(found, lines, "{findings:?}");
        assert_eq!(rule(&Repository::of(&[good])), [], "good example");
    }

    #[test]
    fn unsafe_code_is_found() {
        let manifest = ("src/node/Cargo.toml", "[[bin]]\npath = \"cli.rs\"\n");
        let forbids = ("src/node/lib.rs", "//! x\n#![forbid(unsafe_code)]\n");
        let bad = [manifest, forbids, ("src/node/cli.rs", "//! `#![forbid(unsafe_code)]`\n")];
        assert_eq!(unsafe_is_forbidden(&Repository::of(&bad)).len(), 1);
        assert_eq!(unsafe_is_forbidden(&Repository::of(&bad[..2])), []);
        let bad = ("src/ledger/state.rs", "fn a() {}\nfn b() { unsafe { c() } }\n");
        finds(unsafe_is_listed, bad, &[2], ("src/ledger/state.rs", "// unsafe\n\"unsafe\";\n"));
        let listed = (UNSAFE_MODULES[0].0, "fn a() { unsafe { b() } }");
        finds(unsafe_is_listed, ("src/runtime/new.rs", "unsafe fn a() {}"), &[1], listed);
        finds(unsafe_is_listed, (UNSAFE_MODULES[0].0, "fn a() {}"), &[1], listed);
        let missing = unsafe_list_is_true(&Repository::of(&[listed]));
        assert_eq!(missing.len(), UNSAFE_MODULES.len() - 1);
    }

    #[test]
    fn io_in_rules_is_found() {
        let bad = "use std::fs;\nfn a(at: std::time::Instant) {}\nasync fn b() {}\nuse x::Mutex;\n";
        let good =
            "// std::fs\n#[cfg(test)]\nmod tests { use std::fs; }\n/// An Instant.\nfn c() {}\n";
        finds(rules_do_no_io, ("src/ledger/a.rs", bad), &[1, 2, 4, 3], ("src/ledger/a.rs", good));
        finds(rules_do_no_io, ("src/types/a.rs", "rand::x()"), &[1], ("src/node/a.rs", bad));
        let coroutine = ("src/consensus/engine/coroutine.rs", "async fn a() { b().await }");
        finds(rules_do_no_io, ("src/consensus/b.rs", "async fn a() {}"), &[1], coroutine);
        let good = ("src/crypto/entropy.rs", "getrandom::fill(x);");
        finds(entropy_has_one_home, ("src/crypto/a.rs", "\ngetrandom::fill(x);"), &[2], good);
    }

    #[test]
    fn long_files_and_lines_are_found() {
        let text = "a;\n".repeat(801);
        finds(files_are_short, ("src/a.rs", &text), &[801], ("tests/a.rs", &text));
        let text = "a;\n".repeat(1_501);
        finds(files_are_short, ("src/x/tests.rs", &text), &[1_501], ("src/a.txt", &text));
        let line = format!("fn a() {{}}\n// {}\n", "é".repeat(98));
        let good = format!("// {}\nlet a = \"{}\";\n", "é".repeat(97), "b".repeat(200));
        finds(lines_are_short, ("src/a.rs", &line), &[2], ("src/a.rs", &good));
    }

    #[test]
    fn unfinished_work_is_found() {
        let bad = "fn a() { todo!() }\n// FIXME\n/// Kept simple for now.\n";
        let good = "// Nothing is left undone before nowadays.\n";
        let findings = nothing_is_unfinished(&Repository::of(&[("src/a.rs", bad)]));
        assert_eq!(findings.len(), 3, "{findings:?}");
        finds(nothing_is_unfinished, (".ci/run", "# HACK"), &[1], ("src/a.rs", good));
        finds(
            ignored_tests_have_owners,
            ("src/a.rs", "\n#[ignore]\nfn a() {}\n#[ignore = \"slow\"]\nfn b() {}"),
            &[2, 4],
            ("src/a.rs", "#[ignore = \"until 2026-12-24, owner lead: kernel bug\"]\nfn a() {}"),
        );
    }

    #[test]
    fn lints_set_aside_without_reason_are_found() {
        let bad = "#[allow(dead_code)]\nfn a() {}\n#![cfg_attr(test, allow(x))]\n#[expect(y)]\n";
        let good = "#[allow(dead_code, reason = \"a\")]\nfn a() { b.expect(\"c\"); d.allow(e); }\n";
        finds(allowed_lints_have_reasons, ("src/a.rs", bad), &[1, 3, 4], ("src/a.rs", good));
        let good = ("src/a.rs", "/// Retries the connection.\nfn retry() {}");
        finds(nothing_retries_tests, ("src/a.rs", "#[retry(3)]\nfn a() {}"), &[1], good);
        finds(nothing_retries_tests, ("x/nextest.toml", "\nretries = 2"), &[2], good);
    }

    #[test]
    fn registries_and_empty_names_are_found() {
        let good = ("src/a.md", "see the registry your host is set up for");
        finds(no_registry_is_named, ("src/a.md", "\nhttps://crates.io/x"), &[2], good);
        finds(
            names_say_something,
            ("src/node/string_utils.rs", ""),
            &[1],
            ("src/node/topology.rs", ""),
        );
        finds(names_say_something, ("src/common/a.rs", ""), &[1], ("src/commonwealth/a.rs", ""));
    }

    #[test]
    fn modules_without_introduction_are_found() {
        let good = ("src/a.rs", "#![doc = include_str!(\"README.md\")]\nfn a() {}");
        finds(modules_are_introduced, ("src/a.rs", "use b;\n//! late\n"), &[1], good);
        finds(modules_are_introduced, ("src/a.rs", ""), &[1], ("src/a.rs", "\n//! For x.\n"));
    }
}
