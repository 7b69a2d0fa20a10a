//! `hufu consensus explain`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use hufu_load::usage;
use serde_json::Value;

use super::CliError;
use crate::explain;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Say why the height at work is not decided: who, which step, since when.
    Explain(Named),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// Address of the node's admin side.
    #[arg(long, default_value = "127.0.0.1:7002", value_name = "ADDRESS:PORT")]
    admin: SocketAddr,
}

pub(super) fn run(verb: &Verb, output: Output) -> Result<(), CliError> {
    let Verb::Explain(Named { admin }) = verb;
    let failed = |what: String| {
        let remedy = "check that the node runs and that --admin is its admin address";
        CliError::failed(what, format!("node {admin}"), remedy)
    };
    let body = usage::fetch(*admin, "/consensus").map_err(|cause| failed(cause.to_string()))?;
    let value: Value = serde_json::from_str(&body)
        .map_err(|cause| failed(format!("the answer is no explanation: {cause}")))?;
    output.result(&value, explain::to_text(&value));
    Ok(())
}
