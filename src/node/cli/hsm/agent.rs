//! `hufu hsm agent`: the process in which a vendor's library runs, away from the node.
//!
//! ```text
//! node's socket --> card.toml --> sandbox --> library, PIN, sessions --> serve until told to stop
//! ```
//!
//! The order is the point: nothing is opened before the node's socket, and no foreign code runs
//! before the sandbox. What goes wrong is told to the node, which does not start it again where
//! that cannot help: a wrong PIN is tried once.

use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hufu_hsm::agent::{Endpoint, WORKERS_COUNT_MAX, sandbox};
use hufu_hsm::card::{Card, deadline_in};
use hufu_hsm::config::CardConfig;
use hufu_hsm::{Error, Keystore};

use super::super::CliError;
use super::CardFile;
use super::error::{fault, refused_file};
use crate::kernels;

/// How long the card may take to open its sessions.
const OPEN_TIME: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(
    after_help = "A node starts it with a socket as its standard input, and ends with it. It \
    loads the vendor's library in a sandbox: what the library may read, write and reach is said \
    by the table [sandbox] of the card's file. Exit code 78 where starting it again cannot help: \
    a fault in the card's file, a PIN that was refused, another card than before."
)]
pub(in crate::cli) struct Agent {
    #[command(flatten)]
    card: CardFile,
}

pub(super) fn run(agent: &Agent) -> Result<(), CliError> {
    if !is_started_by_a_node() {
        return Err(CliError::usage(
            "standard input is no socket: agents are started by a node, not by people",
            "use `hufu hsm status` or `hufu hsm probe`; a node starts its agents itself",
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
    let opened = config
        .agent_sandbox()
        .and_then(|sandbox| sandbox::enter(&sandbox, Some(endpoint.node())))
        .and_then(|report| Ok((open(&config, &endpoint)?, report.lines())));
    let (card, notes) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tell(endpoint, &error);
            return Err(fault(&error, place));
        }
    };
    let workers_count = card.status().open_count.clamp(1, WORKERS_COUNT_MAX);
    let card: Arc<dyn Keystore> = Arc::new(card);
    endpoint.serve(&card, workers_count, notes).map(drop).map_err(|error| fault(&error, place))?;
    Ok(())
}

/// The card with all its sessions open, logged in.
fn open(config: &CardConfig, endpoint: &Endpoint) -> Result<Card, Error> {
    let card = Card::open(config, kernels::provider().verifier)?;
    endpoint.logs_in()?;
    let count = usize::try_from(config.sessions_max).unwrap_or(1);
    card.warm_up(count, deadline_in(OPEN_TIME))?;
    Ok(card)
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
