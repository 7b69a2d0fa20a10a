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

/// A network that loads slowly, with its node's process number, once the node is ready.
struct Slow {
    child: Child,
    node: u32,
    errors: BufReader<std::process::ChildStderr>,
}

impl Slow {
    fn start(folder: &Path) -> Self {
        let replay = market(folder);
        let arguments = ["localnet", "run", "--replay", &replay, "--hours", "100", "--rate", "50"];
        let mut child =
            hufu(folder, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serves") {
            line.clear();
            assert!(errors.read_line(&mut line).unwrap() > 0, "ended before its node was ready");
        }
        let number = line.split("process ").nth(1).unwrap().split(')').next().unwrap();
        let node = number.parse().unwrap();
        assert!(is_running(node));
        Self { child, node, errors }
    }

    fn signal(&self, signal: &str) {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    fn end(mut self) -> (ExitStatus, u32, String) {
        let mut rest = String::new();
        self.errors.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap(), self.node, rest)
    }
}

#[test]
fn a_small_market_is_settled_checked_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let replay = market(folder.path());
    let arguments = [
        "localnet",
        "run",
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
    let output = hufu(folder.path(), &arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{errors}\n{text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(result["passed"], true, "{text}");
    assert_eq!(result["load"]["counts"]["committed"], EVENTS_COUNT, "{text}");
    let checks = result["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 9, "{text}");
    assert!(checks.iter().all(|check| check["holds"] == true), "{text}");
    assert_eq!(leftovers(folder.path()), Vec::<String>::new());
}

#[test]
fn an_interrupt_leaves_nothing_running_and_nothing_behind() {
    for (signal, what) in [("-INT", "Ctrl-C"), ("-TERM", "SIGTERM")] {
        let folder = tempfile::tempdir().unwrap();
        let slow = Slow::start(folder.path());
        slow.signal(signal);
        let (status, node, errors) = slow.end();
        assert_eq!(status.code(), Some(130), "{what}: {errors}");
        assert!(!is_running(node), "{what}: node {node} was left running");
        assert_eq!(leftovers(folder.path()), Vec::<String>::new(), "{what}");
    }
}

#[test]
fn a_node_does_not_outlive_a_killed_parent() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Slow::start(folder.path());
    slow.signal("-KILL");
    let (status, node, _) = slow.end();
    assert!(!status.success());
    // The kernel kills the node when its parent ends; `tail` returns when the process is gone.
    let watched = format!("--pid={node}");
    let watch = ["60", "tail", &watched, "-f", "/dev/null"];
    assert!(Command::new("timeout").args(watch).status().unwrap().success());
    assert!(!is_running(node), "node {node} was left running");
}
