//! `hufu hsm agent`: the process in which a vendor's library runs, away from the node.
//!
//! ```text
//! node's socket --> card.toml --> sandbox --> library, PIN, sessions --> serve until told to stop
//! --listen: own socket --> card.toml --> sandbox --> library --> serve one node, then the next
//! ```
//!
//! The order is the point: nothing is opened before the socket, and no foreign code runs before the
//! sandbox. What goes wrong is told to the node, which does not start the agent again where that
//! cannot help: a wrong PIN is tried once. An agent that listens says it by its exit code, which a
//! service manager must heed.

use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hufu_hsm::agent::{Endpoint, Listener, ServeEnd, WORKERS_COUNT_MAX, sandbox};
use hufu_hsm::card::{Card, deadline_in};
use hufu_hsm::config::CardConfig;
use hufu_hsm::{Error, ErrorClass, Keystore};

use super::super::CliError;
use super::CardFile;
use super::error::{fault, refused_file};
use crate::{kernels, log};

/// How long the card may take to open its sessions.
const OPEN_TIME: Duration = Duration::from_secs(30);

/// Anybody may knock at the socket; who may come in is asked of the kernel.
const SOCKET_MODE: u32 = 0o666;

#[derive(Debug, Args)]
#[command(
    after_help = "A node starts it with a socket as its standard input, and ends with it. With \
    --listen somebody else runs it (systemd), as a user of its own, and nodes of one user connect, \
    one after the other: their card.toml says mode = \"connect\", socket and socket_user. It loads \
    the vendor's library in a sandbox: what the library may read, write and reach is said by the \
    table [sandbox] of the card's file. Exit code 78 where starting it again cannot help: a fault \
    in the card's file, a PIN that was refused, another card than before; a service manager must \
    not start it again then (RestartPreventExitStatus=78)."
)]
pub(in crate::cli) struct Agent {
    #[command(flatten)]
    card: CardFile,
    /// Listen at this socket instead of serving the node that started this process.
    #[arg(long, value_name = "SOCKET", requires = "node_user")]
    listen: Option<PathBuf>,
    /// The user as whom nodes run that may connect, by number; others are turned away.
    #[arg(long, value_name = "UID", requires = "listen")]
    node_user: Option<u32>,
}

pub(super) fn run(agent: &Agent) -> Result<(), CliError> {
    if let (Some(socket), Some(user)) = (&agent.listen, agent.node_user) {
        return listen(agent, socket, user);
    }
    if !is_started_by_a_node() {
        return Err(CliError::usage(
            "standard input is no socket: agents are started by a node, not by people",
            "use `hufu hsm status` or `hufu hsm probe`; a node starts its agents itself, or \
             connects to one that has --listen",
        ));
    }
    let by_hand = "a node starts its agents itself; look into its log";
    let endpoint = Endpoint::inherited()
        .map_err(|error| CliError::failed(error, "standard input", by_hand))?;
    let place = agent.card.path.display();
    let config = match CardConfig::load(&agent.card.path) {
        Ok(config) => config,
        Err(error) => {
            let reason = error.to_string();
            tell(endpoint, &Error::Refused { what: "the card's file", reason });
            return Err(refused_file(&error));
        }
    };
    let (card, notes) = match opened(&config, Some(&endpoint)) {
        Ok(opened) => opened,
        Err(error) => {
            tell(endpoint, &error);
            return Err(fault(&error, place));
        }
    };
    let workers_count = workers_count(&card);
    let card: Arc<dyn Keystore> = Arc::new(card);
    endpoint.serve(&card, workers_count, notes).map(drop).map_err(|error| fault(&error, place))?;
    Ok(())
}

/// Serves nodes of one user, one after the other, until this process is ended.
fn listen(agent: &Agent, path: &Path, user: u32) -> Result<(), CliError> {
    let config = CardConfig::load(&agent.card.path).map_err(|error| refused_file(&error))?;
    let place = agent.card.path.display();
    let socket = path.display();
    let at_socket = |error: &dyn std::fmt::Display| {
        let remedy = "its folder must exist, and belong to the user of the agent";
        CliError::failed(error, &socket, remedy)
    };
    let listener = Listener::bind(path).map_err(|error| at_socket(&error))?;
    let permissions = Permissions::from_mode(SOCKET_MODE);
    std::fs::set_permissions(path, permissions).map_err(|error| at_socket(&error))?;
    let (card, notes) = opened(&config, None).map_err(|error| match error {
        // Nobody has tried the PIN: whoever runs this may start it again until the card is there.
        Error::TokenMissing { .. } => CliError::failed(error, &place, "insert the card"),
        error => fault(&error, &place),
    })?;
    let workers_count = workers_count(&card);
    let card: Arc<dyn Keystore> = Arc::new(card);
    for note in &notes {
        log::info("sandbox", &[("step", note)]);
    }
    log::info("listening", &[("card", &config.name), ("socket", &socket.to_string())]);
    loop {
        let endpoint = listener.accept(user).map_err(|error| at_socket(&error))?;
        let node: &str = &endpoint.node().to_string();
        log::info("a node has connected", &[("process", node)]);
        match endpoint.serve(&card, workers_count, notes.clone()) {
            Ok(ServeEnd::Stopped) => log::info("the node has let go", &[("process", node)]),
            Ok(ServeEnd::NodeGone) => log::warn("the node is gone", &[("process", node)]),
            // The node was told that the card is away, and comes again.
            Err(error) if error.class() != ErrorClass::Permanent && is_of_card(&error) => {
                log::warn("the card is away", &[("reason", &error.to_string())]);
            }
            // A worker that hangs in the library would hang for the next node too.
            Err(error) => return Err(fault(&error, &place)),
        }
    }
}

/// Whether the card has answered like this, and not this process.
const fn is_of_card(error: &Error) -> bool {
    !matches!(error, Error::Agent { .. } | Error::AgentProtocol { .. })
}

/// The card with all its sessions, opened inside the sandbox, and what the sandbox took away.
fn opened(config: &CardConfig, endpoint: Option<&Endpoint>) -> Result<(Card, Vec<String>), Error> {
    let report = sandbox::enter(&config.agent_sandbox()?, endpoint.map(Endpoint::node))?;
    Ok((open(config, endpoint)?, report.lines()))
}

/// The card with all its sessions open, logged in.
fn open(config: &CardConfig, endpoint: Option<&Endpoint>) -> Result<Card, Error> {
    let card = Card::open(config, kernels::provider().verifier)?;
    if let Some(endpoint) = endpoint {
        endpoint.logs_in()?;
    }
    let count = usize::try_from(config.sessions_max).unwrap_or(1);
    card.warm_up(count, deadline_in(OPEN_TIME))?;
    Ok(card)
}

fn workers_count(card: &Card) -> usize {
    card.status().open_count.clamp(1, WORKERS_COUNT_MAX)
}

/// Tells the node why there is nothing to serve.
fn tell(endpoint: Endpoint, error: &Error) {
    // A node that is gone needs no answer; the exit code says it too.
    drop(endpoint.refuse(error));
}

/// Looked at by name, so that no descriptor is made before the node's is taken.
fn is_started_by_a_node() -> bool {
    std::fs::metadata("/proc/self/fd/0").is_ok_and(|facts| facts.file_type().is_socket())
}
