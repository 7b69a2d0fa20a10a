//! Nodes as child processes: started, watched, stopped, and never left behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use hufu_runtime::clock;
use hufu_runtime::process;
use hufu_runtime::process::Signals;

use super::folder::{Folder, name};
use super::interrupted;
use crate::cli::CliError;
use crate::output::Output;
use crate::ready::Ready;

/// How long one look at signals lasts before the children are looked at again.
const LOOK: Duration = Duration::from_millis(20);

/// Lines of a node's log that are shown when something failed.
const LOG_LINES_SHOWN: usize = 20;

/// What ended a wait before its time.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Someone pressed Ctrl-C or asked this process to stop.
    Interrupted,
    /// The node's process has ended by itself.
    Exited(ExitStatus),
    /// It took too long.
    Overdue(Duration),
    /// The host failed.
    Host(io::Error),
    /// This binary is no longer where it was.
    Lost,
}

/// One node's process.
pub(super) struct NodeProcess {
    name: String,
    child: Child,
    data_dir: PathBuf,
    log: PathBuf,
    /// Whether it was killed on purpose.
    is_down: bool,
}

impl NodeProcess {
    /// Starts a node of the folder. Call it from the main thread: the kernel ends the child with
    /// the thread that started it.
    fn start(folder: &Folder, index: u16) -> Result<Self, CliError> {
        let node = folder.node(index);
        let (data_dir, log) = (folder.data_dir(index), node.join("log"));
        let failed = |cause| CliError::file(cause, &log, "check the folder and its disk");
        if data_dir.is_dir() {
            Ready::withdraw(&data_dir).map_err(failed)?;
        }
        let sink = File::options().create(true).append(true).open(&log).map_err(failed)?;
        let both = sink.try_clone().map_err(failed)?;
        let config = node.join("hufu.toml").display().to_string();
        let mut command = own_command(&["node", "run", "--config", &config])?;
        let child = command.stdin(Stdio::null()).stdout(sink).stderr(both).spawn();
        Ok(Self { name: name(index), child: child.map_err(failed)?, data_dir, log, is_down: false })
    }

    /// Where the node can be reached, once it says that it takes transactions.
    fn ready(&self) -> Result<Option<Ready>, Stopped> {
        let ready = Ready::read(&self.data_dir).map_err(Stopped::Host)?;
        Ok(ready.filter(|ready| ready.pid == self.child.id()))
    }

    /// The error a wait ended with; shows the end of the node's log when the node is to blame.
    fn explain(&self, stopped: Stopped) -> CliError {
        let remedy = || {
            let lines = last_lines(&self.log, LOG_LINES_SHOWN);
            if lines.is_empty() {
                format!("run `hufu node run` by hand; {} is empty", self.log.display())
            } else {
                format!("read the end of its log:\n    {}", lines.join("\n    "))
            }
        };
        let place = format!("{} (process {})", self.name, self.child.id());
        match stopped {
            Stopped::Interrupted => CliError::Interrupted,
            Stopped::Exited(status) => {
                CliError::failed(format!("the node has ended: {status}"), place, remedy())
            }
            Stopped::Overdue(patience) => {
                CliError::failed(format!("no progress for {patience:?}"), place, remedy())
            }
            Stopped::Host(cause) => CliError::failed(cause, place, remedy()),
            Stopped::Lost => CliError::failed("hufu itself is gone", place, remedy()),
        }
    }

    /// Shows the end of the node's log.
    fn show_log(&self, output: Output) {
        output.note(format!("the last lines of {}:", self.log.display()));
        for line in last_lines(&self.log, LOG_LINES_SHOWN) {
            output.note(format!("    {line}"));
        }
    }

    fn must_run(&mut self) -> Result<(), Stopped> {
        if self.is_down {
            return Ok(());
        }
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Stopped::Exited(status)),
            Err(cause) => Err(Stopped::Host(cause)),
        }
    }

    fn kill(&mut self) {
        end(&mut self.child);
    }
}

/// All nodes of a network. One that ends by itself ends every wait, and is named.
pub(super) struct Nodes(Vec<NodeProcess>);

impl Nodes {
    /// Starts every node of the folder. Call it from the main thread, as [`NodeProcess::start`].
    pub(super) fn start(folder: &Folder, count: u16) -> Result<Self, CliError> {
        (0..count)
            .map(|index| NodeProcess::start(folder, index))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Waits until all nodes say that they take transactions.
    pub(super) fn wait_ready(
        &mut self,
        signals: &Signals,
        patience: Duration,
    ) -> Result<Vec<Ready>, CliError> {
        let deadline = clock::monotonic().after(patience);
        let mut ready = vec![None; self.0.len()];
        loop {
            for (node, ready) in self.0.iter().zip(&mut ready).filter(|(_, ready)| ready.is_none())
            {
                *ready = node.ready().map_err(|stopped| node.explain(stopped))?;
            }
            if let Some(ready) = ready.iter().copied().collect() {
                return Ok(ready);
            }
            self.look(signals)?;
            if clock::monotonic() >= deadline
                && let Some((node, _)) = self.0.iter().zip(&ready).find(|(_, at)| at.is_none())
            {
                return Err(node.explain(Stopped::Overdue(patience)));
            }
        }
    }

    /// Repeats a step until it brings something, while all nodes run and nobody interrupts.
    pub(super) fn watch<T>(
        &mut self,
        signals: &Signals,
        mut step: impl FnMut(&mut Self) -> Result<Option<T>, CliError>,
    ) -> Result<T, CliError> {
        loop {
            if let Some(brought) = step(self)? {
                return Ok(brought);
            }
            self.look(signals)?;
        }
    }

    /// Ends a node as `kill -9` does; that it is gone is no fault until it is started again.
    pub(super) fn kill(&mut self, index: u16) {
        if let Some(node) = self.0.get_mut(usize::from(index)) {
            node.kill();
            node.is_down = true;
        }
    }

    /// Kills the agent of a node's card as `kill -9` does.
    pub(super) fn kill_agent(&self, index: u16) -> Result<(), CliError> {
        let Some(node) = self.0.get(usize::from(index)) else { return Ok(()) };
        let killed = process::kill_children_of(node.child.id());
        match killed {
            Ok(0) => {
                let what = "it has no agent";
                Err(CliError::failed(what, &node.name, "give --cards"))
            }
            Ok(_) => Ok(()),
            Err(cause) => Err(node.explain(Stopped::Host(cause))),
        }
    }

    /// Starts a killed node again. Call it from the main thread, as [`NodeProcess::start`].
    pub(super) fn restart(&mut self, folder: &Folder, index: u16) -> Result<(), CliError> {
        if let Some(node) = self.0.get_mut(usize::from(index)) {
            *node = NodeProcess::start(folder, index)?;
        }
        Ok(())
    }

    /// Where a node can be reached, once it says that it takes transactions.
    pub(super) fn ready(&self, index: u16) -> Result<Option<Ready>, CliError> {
        let Some(node) = self.0.get(usize::from(index)) else { return Ok(None) };
        node.ready().map_err(|stopped| node.explain(stopped))
    }

    /// Asks all nodes to stop, and waits for their ends; kills those that take too long.
    pub(super) fn stop(
        &mut self,
        signals: &Signals,
        patience: Duration,
    ) -> Result<Vec<ExitStatus>, CliError> {
        self.must_run()?;
        for node in &mut self.0 {
            let asked = process::ask_to_stop(&mut node.child);
            asked.map_err(|cause| node.explain(Stopped::Host(cause)))?;
        }
        let deadline = clock::monotonic().after(patience);
        let mut ends = vec![None; self.0.len()];
        loop {
            for (node, end) in self.0.iter_mut().zip(&mut ends).filter(|(_, end)| end.is_none()) {
                let looked = node.child.try_wait();
                *end = looked.map_err(|cause| node.explain(Stopped::Host(cause)))?;
            }
            if let Some(ends) = ends.iter().copied().collect() {
                return Ok(ends);
            }
            if clock::monotonic() >= deadline
                && let Some((node, _)) = self.0.iter_mut().zip(&ends).find(|(_, end)| end.is_none())
            {
                node.kill();
                return Err(node.explain(Stopped::Overdue(patience)));
            }
            interrupted(signals, LOOK).map_err(|stopped| self.explain(stopped))?;
        }
    }

    /// Shows the ends of all nodes' logs.
    pub(super) fn show_logs(&self, output: Output) {
        for node in &self.0 {
            node.show_log(output);
        }
    }

    /// One look at every child and at signals.
    fn look(&mut self, signals: &Signals) -> Result<(), CliError> {
        self.must_run()?;
        interrupted(signals, LOOK).map_err(|stopped| self.explain(stopped))
    }

    fn must_run(&mut self) -> Result<(), CliError> {
        for node in &mut self.0 {
            node.must_run().map_err(|stopped| node.explain(stopped))?;
        }
        Ok(())
    }

    /// What no node is to blame for is told in the name of the first.
    fn explain(&self, stopped: Stopped) -> CliError {
        self.0.first().map_or(CliError::Interrupted, |node| node.explain(stopped))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a thread has sent, if it has; an error if it ended without.
pub(super) fn received<T>(messages: &Receiver<T>) -> Result<Option<T>, CliError> {
    match messages.try_recv() {
        Ok(message) => Ok(Some(message)),
        Err(TryRecvError::Empty) => Ok(None),
        Err(TryRecvError::Disconnected) => {
            let remedy = "report this, with the logs of the nodes";
            Err(CliError::failed("it ended without a result", "the load", remedy))
        }
    }
}

/// Runs this binary with other arguments until it ends, its result going to a file and what it
/// writes meanwhile into `scratch`.
pub(super) fn run_own(
    arguments: &[String],
    result: &Path,
    scratch: &Path,
    signals: &Signals,
) -> Result<ExitStatus, Stopped> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let sink = File::create(result).map_err(Stopped::Host)?;
    let both = sink.try_clone().map_err(Stopped::Host)?;
    let mut command = own_command(&words).map_err(|_| Stopped::Lost)?;
    command.env("TMPDIR", scratch);
    let mut child =
        command.stdin(Stdio::null()).stdout(sink).stderr(both).spawn().map_err(Stopped::Host)?;
    loop {
        if let Some(status) = child.try_wait().map_err(Stopped::Host)? {
            return Ok(status);
        }
        if let Err(stopped) = interrupted(signals, LOOK) {
            ask_to_end(&mut child, signals);
            return Err(stopped);
        }
    }
}

/// How long a child may take to clear up after itself; a second interrupt shortens it.
const CLEARING_PATIENCE: Duration = Duration::from_secs(10);

/// Ends a child that removes what it made when it is asked to stop.
fn ask_to_end(child: &mut Child, signals: &Signals) {
    let deadline = clock::monotonic().after(CLEARING_PATIENCE);
    if process::ask_to_stop(child).is_ok() {
        while matches!(child.try_wait(), Ok(None))
            && clock::monotonic() < deadline
            && interrupted(signals, LOOK).is_ok()
        {}
    }
    end(child);
}

/// This binary, which ends when this process does.
fn own_command(arguments: &[&str]) -> Result<Command, CliError> {
    let binary = std::env::current_exe().map_err(|cause| {
        CliError::failed(cause, "this process", "run hufu from a path that still exists")
    })?;
    let mut command = Command::new(binary);
    command.arg("--parent").arg(std::process::id().to_string()).args(arguments);
    Ok(command)
}

fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        // A child that cannot be killed has ended, and waiting for it takes it off the table.
        drop(child.kill());
        drop(child.wait());
    }
}

fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<String> = text.lines().rev().take(count).map(str::to_owned).collect();
    lines.reverse();
    lines
}
