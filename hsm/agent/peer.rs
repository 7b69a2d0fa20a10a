//! The agent's process as the supervisor holds it: a child, or somebody else's behind a socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::config::AgentSource;
use super::os;

/// Who is at the other end.
#[derive(Debug)]
pub(crate) enum Peer {
    /// Started here: it can be killed, and its end is reported by the kernel.
    Child {
        child: Child,
        /// Readable when the child has ended.
        ended: OwnedFd,
    },
    /// Run by others, systemd before all: it ends for us when the connection does.
    Connection { process: u32 },
}

impl Peer {
    /// Starts or reaches the agent. `welcome` is sent before it can look.
    pub(crate) fn reach(
        source: &AgentSource,
        welcome: impl FnOnce(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<(Self, OwnedFd)> {
        match source {
            AgentSource::Start { program, arguments, environment } => {
                let (socket, their_socket) = os::socket_pair()?;
                welcome(&socket)?;
                let mut command = Command::new(program);
                command.args(arguments).env_clear();
                command.envs(environment.iter().map(|(name, value)| (name, value)));
                // Who holds the node's log could cut it off, write lines in the node's name, or
                // make the node wait for it; and what a library prints there may be its PIN.
                command.stdin(Stdio::from(their_socket)).stdout(Stdio::null());
                command.stderr(Stdio::null());
                // Ctrl-C is for the node, which lets its agents finish.
                command.process_group(0);
                let mut child = command.spawn()?;
                // The command holds their end; what is left open here would hide their end.
                drop(command);
                offer_to_the_kernel(child.id());
                let ended = os::watch(&child).inspect_err(|_| {
                    // A host without process descriptors cannot run agents; leave nothing behind.
                    drop(child.kill());
                    drop(child.wait());
                })?;
                Ok((Self::Child { child, ended }, socket))
            }
            AgentSource::Connect { path, user } => Self::connect(path, *user, welcome),
        }
    }

    fn connect(
        path: &Path,
        user: u32,
        welcome: impl FnOnce(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<(Self, OwnedFd)> {
        let socket = os::connect(path)?;
        let (process, found) = os::peer(socket.as_fd())?;
        if found != user {
            let what = format!("{} is of user {found}, not {user}", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        welcome(&socket)?;
        Ok((Self::Connection { process }, socket))
    }

    pub(crate) fn process(&self) -> u32 {
        match self {
            Self::Child { child, .. } => child.id(),
            Self::Connection { process } => *process,
        }
    }

    /// What becomes readable at its end, besides its socket.
    pub(crate) const fn ended(&self) -> Option<&OwnedFd> {
        match self {
            Self::Child { ended, .. } => Some(ended),
            Self::Connection { .. } => None,
        }
    }

    /// How it ended, if it has. A child is waited for by this. `is_closed` says whether the
    /// connection is gone, `is_given_up` whether we have no more use for it.
    pub(crate) fn end(&mut self, is_closed: bool, is_given_up: bool) -> io::Result<Option<String>> {
        match self {
            Self::Child { child, .. } => {
                let status = child.try_wait()?;
                Ok(status.map(|status| format!("the process ended: {status}")))
            }
            Self::Connection { .. } if is_closed => Ok(Some("the connection closed".to_owned())),
            Self::Connection { .. } => Ok(is_given_up.then(|| "given up".to_owned())),
        }
    }

    /// Ends a child at once. Nobody else's process is touched: the number of one that was reached
    /// over a socket may be anybody's by now, and a closed connection ends an agent too.
    pub(crate) fn kill(&mut self) {
        if let Self::Child { child, .. } = self {
            // It may have ended by itself just now, which is what is wanted.
            drop(child.kill());
        }
    }
}

/// Points of `oom_score_adj` that an agent has more than its node.
const MORE_EXPENDABLE: i32 = 500;

/// Where the host runs out of memory, a library that takes all of it goes before the node does. To
/// be said while the process is new: later it lets nobody of its user near. A host that refuses is
/// no reason to do without the card.
fn offer_to_the_kernel(process: u32) {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj");
    let own = own.ok().and_then(|text| text.trim().parse::<i32>().ok()).unwrap_or(0);
    let points = own.saturating_add(MORE_EXPENDABLE).min(1_000);
    drop(std::fs::write(format!("/proc/{process}/oom_score_adj"), points.to_string()));
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Self::Child { child, .. } = self {
            // Killed it ends without us; its number is given back when this process ends.
            drop(child.kill());
            drop(child.try_wait());
        }
    }
}
