//! Commands that talk to a node: which one, which chain, and what its errors mean for a person.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hufu_network::{Client, ClientConfig, ClientError, ErrorCode};
use hufu_types::{ChainId, Genesis};

use super::CliError;
use crate::genesis_file;

/// Which node to talk to.
#[derive(Clone, Debug, Args)]
pub(super) struct Remote {
    /// Address of the node's client side.
    #[arg(long, default_value = "127.0.0.1:7001", value_name = "ADDRESS:PORT")]
    pub node: SocketAddr,
    /// The chain's genesis; a node of another chain is refused.
    #[arg(long, value_name = "FILE")]
    pub genesis: Option<PathBuf>,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout_seconds: u64,
}

impl Remote {
    /// The genesis, if one was named.
    pub(super) fn read_genesis(&self) -> Result<Option<Genesis>, CliError> {
        self.genesis.as_deref().map(genesis_file::load).transpose().map_err(CliError::Config)
    }

    /// Connects and says hello.
    pub(super) fn connect(&self) -> Result<Client, CliError> {
        let chain_id: Option<ChainId> = self.read_genesis()?.map(|genesis| genesis.chain_id());
        let call_timeout = Duration::from_secs(self.timeout_seconds);
        let config = ClientConfig { chain_id, call_timeout, ..ClientConfig::default() };
        Client::connect(self.node, &config).map_err(|error| self.failed(&error))
    }

    /// An error of a conversation with this node.
    pub(super) fn failed(&self, error: &ClientError) -> CliError {
        CliError::failed(error, format!("node {}", self.node), remedy(error))
    }
}

fn remedy(error: &ClientError) -> &'static str {
    match error {
        ClientError::Connect { .. } => "check that the node runs and that --node is its address",
        ClientError::NotLoopback { .. } => {
            "run hufu on the node's host, until client channels are encrypted"
        }
        ClientError::Refused { code, .. } => match code {
            ErrorCode::WrongChain => "name the genesis of the node's chain, or another node",
            ErrorCode::VersionUnsupported => "use the hufu of the node's version",
            ErrorCode::NotFound => "check the name; a transaction is there once it is committed",
            ErrorCode::CursorAhead => "begin at a height that the node has reached",
            ErrorCode::CursorGone => "begin at the oldest height that `hufu query status` shows",
            ErrorCode::AnswerTooLarge => "ask for less; this is more than one answer holds",
            ErrorCode::NotCertified => {
                "ask again after the next block, or leave out --proof and --genesis"
            }
            ErrorCode::Overloaded | ErrorCode::TooManyInFlight | ErrorCode::ConnectionsFull => {
                "try again later"
            }
            ErrorCode::Stopping => "use another node, or start this one again",
            _ => "report this; the client and the node disagree about the protocol",
        },
        ClientError::Timeout { .. } => "try again with a larger --timeout-seconds",
        ClientError::Closed | ClientError::Io(_) => "look at the node's log, then try again",
        ClientError::Limit { .. } => "ask for less at once",
        ClientError::Channel(_)
        | ClientError::Frame(_)
        | ClientError::Decode(_)
        | ClientError::Unexpected { .. } => "check that --node is the client side of a hufu node",
    }
}
