//! One node as a process that the tests start, stop, kill and start again.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use hufu_node::ready::Ready;
use hufu_runtime::clock::monotonic;
use hufu_runtime::process;
use hufu_runtime::wake::Parker;

/// Nothing takes this long; who waits longer waits for something that does not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition of another process is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Lines of a log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// A node: its configuration, and its process while it runs.
pub(crate) struct TestNode {
    config: PathBuf,
    data: PathBuf,
    log: PathBuf,
    group: Option<u32>,
    child: Option<Child>,
    ready: Option<Ready>,
}

impl TestNode {
    pub(crate) fn new(config: PathBuf, data: PathBuf, logs: &Path) -> Self {
        let log = logs.join("node.log");
        Self { config, data, log, group: None, child: None, ready: None }
    }

    /// Runs the process with this group from now on, so that its packets can be told from others'.
    pub(crate) fn set_group(&mut self, group: u32) {
        self.group = Some(group);
    }

    /// Starts the process. The kernel ends it with the thread that calls this, so that no node
    /// outlives its test.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "the node runs already");
        let sink = File::options().create(true).append(true).open(&self.log).unwrap();
        let both = sink.try_clone().unwrap();
        let mut command = hufu();
        command.args(["--parent", &std::process::id().to_string()]);
        command.args(["node", "run", "--config"]).arg(&self.config);
        command.stdin(Stdio::null()).stdout(sink).stderr(both);
        if let Some(group) = self.group {
            command.gid(group);
        }
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts the process and waits until it takes transactions.
    pub(crate) fn start_ready(&mut self) -> &mut Self {
        self.start();
        let came_up = self.wait_ready();
        assert!(came_up, "the node ended before it was ready");
        self
    }

    /// Waits for the ready file of this process; `false` if the process ends instead.
    pub(crate) fn wait_ready(&mut self) -> bool {
        let process = self.id();
        let data = self.data.clone();
        let child = self.child.as_mut().unwrap();
        let mut has_ended = false;
        let mut found = None;
        wait_until("the ready file", || {
            has_ended = child.try_wait().unwrap().is_some();
            found = Ready::read(&data).ok().flatten().filter(|ready| ready.pid == process);
            has_ended || found.is_some()
        });
        self.ready = found.filter(|_| !has_ended);
        self.ready.is_some()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn client_address(&self) -> SocketAddr {
        self.ready.expect("the node is ready").client
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.ready.expect("the node is ready").admin
    }

    /// Where it is asked how it stands, if it is up.
    pub(crate) fn admin_address_if_ready(&self) -> Option<SocketAddr> {
        self.ready.map(|ready| ready.admin)
    }

    /// Asks the node to stop.
    pub(crate) fn ask_to_stop(&mut self) {
        process::ask_to_stop(self.child.as_mut().unwrap()).unwrap();
    }

    /// Asks the node to stop and waits for its end.
    pub(crate) fn stop(&mut self) {
        self.ask_to_stop();
        let status = self.wait_end();
        assert!(status.success(), "the node ended with {status}");
    }

    /// Ends the process as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.ready = None;
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            child.wait().unwrap();
        }
    }

    /// Sends the process a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().unwrap();
        assert!(sent.success(), "kill -s {name} {process}: {sent}");
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let mut status = None;
        wait_until("the end of the node", || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        self.child = None;
        self.ready = None;
        status.unwrap()
    }

    /// Starts the process, which must end by itself, and returns how and what it said.
    pub(crate) fn start_in_vain(&mut self) -> (ExitStatus, String) {
        let before = self.log().len();
        self.start();
        assert!(!self.wait_ready(), "the node has started all the same");
        let status = self.wait_end();
        (status, self.log().split_off(before))
    }

    /// Everything the node has written to its log.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into()).unwrap_or_default()
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("--- {}:\n{}", self.log.display(), lines[shown..].join("\n"));
        }
        self.kill();
    }
}

/// The binary under test: `HUFU_BINARY`, or the one built beside the tests.
pub(crate) fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("HUFU_BINARY") {
        return named.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("hufu");
    let command = "cargo build --release --workspace --all-targets";
    assert!(path.is_file(), "{} is not there; `{command}` makes it", path.display());
    path
}

pub(crate) fn hufu() -> Command {
    Command::new(binary())
}

/// Waits until `ready` says yes, looking every few milliseconds.
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = monotonic().after(PATIENCE);
    while !ready() {
        assert!(monotonic() < deadline, "{what} did not come within {PATIENCE:?}");
        pause(LOOK);
    }
}

/// Lets time pass, where the moment itself is what a test varies.
pub(crate) fn pause(time: Duration) {
    let mut parker = Parker::new().unwrap();
    parker.wait_until(Some(monotonic().after(time)), || false).unwrap();
}
