//! `hufu localnet run` with real processes: a small market, interrupts, a parent that is killed.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

const EVENTS_COUNT: usize = 600;

/// LOBSTER messages: a submission, a cancellation, a deletion, executions both visible and hidden.
fn market(folder: &Path) -> String {
    let mut text = String::new();
    for row in 0..EVENTS_COUNT {
        let (kind, order) = match row % 6 {
            4 => (4, 1_000 + row / 2),
            5 => (5, 0),
            other => (1 + other % 3, 1_000 + row / 2),
        };
        let (size, price) = (1 + row % 90, 5_850_000 + 100 * (row % 37));
        let direction = if row % 2 == 0 { 1 } else { -1 };
        let nanos = row * 1_000_000;
        writeln!(text, "34200.{nanos:09},{kind},{order},{size},{price},{direction}").unwrap();
    }
    let path = folder.join("market.csv");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn hufu(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hufu"));
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    // Temporary folders go where the test can see that none is left.
    command.env("TMPDIR", folder);
    command
}

fn leftovers(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("hufu-localnet-"))
        .collect()
}

fn is_running(process: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    // A zombie has ended; nobody has asked for its exit code yet.
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// A network that loads slowly, with the process numbers of its nodes, once they are ready.
struct Slow {
    child: Child,
    nodes: Vec<u32>,
    errors: BufReader<std::process::ChildStderr>,
}

impl Slow {
    fn start(folder: &Path, nodes_count: usize) -> Self {
        let (replay, count) = (market(folder), nodes_count.to_string());
        let fixed = ["localnet", "run", "--hours", "100", "--rate", "50"];
        let arguments = [&fixed[..], &["--replay", &replay, "--nodes", &count]].concat();
        let mut child =
            hufu(folder, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let (mut text, mut nodes) = (String::new(), Vec::new());
        while nodes.len() < nodes_count {
            let mut line = String::new();
            assert!(errors.read_line(&mut line).unwrap() > 0, "ended before it was ready: {text}");
            text.push_str(&line);
            if line.contains("serves") {
                let number = line.split("process ").nth(1).unwrap().split(')').next().unwrap();
                nodes.push(number.parse().unwrap());
            }
        }
        assert!(nodes.iter().all(|node| is_running(*node)));
        Self { child, nodes, errors }
    }

    fn signal(&self, signal: &str) {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn end(mut self) -> (ExitStatus, Vec<u32>, String) {
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), self.nodes, rest)
    }
}

/// Settles the small market with so many nodes; every check of the command holds.
fn settle(nodes_count: usize, more: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let replay = market(folder.path());
    let count = nodes_count.to_string();
    let arguments = [
        "localnet",
        "run",
        "--nodes",
        &count,
        "--replay",
        &replay,
        "--accounts",
        "8",
        "--seed",
        "7",
        "--strength",
        "certified",
        "--json",
    ];
    let arguments = [&arguments, more].concat();
    let output = hufu(folder.path(), &arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{errors}\n{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["passed"], true, "{text}");
    assert_eq!(result["load"]["counts"]["committed"], EVENTS_COUNT, "{text}");
    let checks = result["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 8 + 2 * nodes_count, "the logs of each node have their own: {text}");
    assert!(checks.iter().all(|check| check["holds"] == true), "{text}");
    assert_eq!(leftovers(folder.path()), Vec::<String>::new());
    result
}

#[test]
fn a_small_market_is_settled_checked_and_leaves_nothing() {
    settle(1, &[]);
}

#[test]
fn four_nodes_whose_vote_keys_live_in_cards_of_four_vendors_settle_it_too() {
    settle(4, &["--cards"]);
}

#[test]
fn cards_that_fail_need_cards_four_nodes_and_a_load_that_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let run = |more: &[&str]| {
        let fixed = ["localnet", "run", "--events", "40", "--accounts", "8", "--no-receipts"];
        let output = hufu(folder.path(), &[&fixed[..], more].concat()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, errors) = run(&["--kill-agent-after", "1"]);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("--cards"), "{errors}");
    let (code, errors) = run(&["--cards", "--remove-card-after", "1", "--nodes", "3"]);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("needs four nodes"), "{errors}");
    let (code, errors) = run(&["--cards", "--remove-card-after", "600"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("the load was over before its card failed"), "{errors}");
    assert_eq!(leftovers(folder.path()), Vec::<String>::new());
}

#[test]
fn four_nodes_settle_a_small_market_as_one() {
    let result = settle(4, &[]);
    for what in ["tips", "usages"] {
        assert_eq!(result["load"][what].as_array().unwrap().len(), 4, "{result}");
    }
    assert_eq!(result["node_memory_peaks_bytes"].as_array().unwrap().len(), 4);
}

#[test]
fn a_node_that_is_lost_on_purpose_comes_back_and_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let fixed = ["localnet", "run", "--events", "1200", "--rate", "100", "--accounts", "8"];
    let outage = ["--kill-after", "2", "--restart-after", "2", "--wipe", "--no-receipts", "--json"];
    let output = hufu(folder.path(), &[&fixed[..], &outage].concat()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{errors}\n{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    let outage = &result["outage"];
    assert_eq!((&outage["node"], &outage["wiped"]), (&"node-3".into(), &true.into()), "{outage}");
    let catch_up = &outage["catch_up"];
    let count = |what: &str| catch_up[what].as_u64().unwrap();
    assert!(count("heights") > 0 && count("heights_from_peers") > 0, "{outage}");
    assert!(catch_up["level_seconds"].as_f64() >= catch_up["ready_seconds"].as_f64(), "{outage}");
    assert_eq!(leftovers(folder.path()), Vec::<String>::new());
}

#[test]
fn a_node_that_ends_early_is_named_and_the_others_end_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Slow::start(folder.path(), 2);
    let victim = slow.nodes[1].to_string();
    assert!(Command::new("kill").args(["-KILL", &victim]).status().unwrap().success());
    let (status, nodes, errors) = slow.end();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains(&format!("node-1 (process {victim})")), "{errors}");
    assert!(errors.contains("the node has ended"), "{errors}");
    assert!(errors.contains("recovered height=0"), "the end of its log is shown: {errors}");
    assert!(nodes.iter().all(|node| !is_running(*node)), "{nodes:?} were left running");
    assert_eq!(leftovers(folder.path()), Vec::<String>::new());
}

#[test]
fn an_interrupt_leaves_nothing_running_and_nothing_behind() {
    for (signal, what) in [("-INT", "Ctrl-C"), ("-TERM", "SIGTERM")] {
        let folder = tempfile::tempdir().unwrap();
        let slow = Slow::start(folder.path(), 2);
        slow.signal(signal);
        let (status, nodes, errors) = slow.end();
        assert_eq!(status.code(), Some(130), "{what}: {errors}");
        assert!(nodes.iter().all(|node| !is_running(*node)), "{what}: {nodes:?} left running");
        assert_eq!(leftovers(folder.path()), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_node_does_not_outlive_a_killed_parent() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Slow::start(folder.path(), 2);
    slow.signal("-KILL");
    let (status, nodes, _) = slow.end();
    assert!(!status.success());
    // The kernel kills a node when its parent ends; `tail` returns when the process is gone.
    for node in nodes {
        let watched = format!("--pid={node}");
        let watch = ["60", "tail", &watched, "-f", "/dev/null"];
        assert!(Command::new("timeout").args(watch).status().unwrap().success());
        assert!(!is_running(node), "node {node} was left running");
    }
}
