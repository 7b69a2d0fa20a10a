//! `hufu node run|check`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::CliError;
use crate::config::NodeConfig;
use crate::host_check::{self, Verdict};
use crate::output::Output;
use crate::{genesis_file, log, run as node};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run a node until it is told to stop (SIGTERM or Ctrl-C).
    #[command(after_help = "Exit code 78 means that the configuration is at fault; a service \
        manager must not start the node again then.")]
    Run(Named),
    /// Check configuration and host before a start: one line a rule. Needs no privilege, changes
    /// nothing.
    Check(Named),
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The node's configuration.
    #[arg(long, value_name = "FILE", default_value = "hufu.toml")]
    config: PathBuf,
}

pub(super) fn run(verb: &Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::Run(named) => run_node(&named.config, output),
        Verb::Check(named) => check(&named.config, output),
    }
}

fn run_node(path: &Path, output: Output) -> Result<(), CliError> {
    let config = NodeConfig::load(path)?;
    // Log lines and the error that may follow them are of one kind.
    let format = if output.is_json() { log::Format::Json } else { config.logging.format };
    log::init(config.logging.level, format);
    node::run(&config).map_err(|error| {
        let place = format!("node {} of {}", config.node.name, path.display());
        if error.is_configuration() {
            CliError::misconfigured(error, place, "run `hufu node check`, mend what it names")
        } else {
            CliError::failed(error, place, "mend what is named above, then start the node again")
        }
    })
}

fn check(path: &Path, output: Output) -> Result<(), CliError> {
    let config = NodeConfig::load(path)?;
    let genesis = genesis_file::load(&config.node.genesis)?;
    let findings = host_check::check(&config, &genesis);
    let broken = findings.iter().filter(|finding| finding.verdict == Verdict::Broken).count();
    let value = json!({
        "chain_id": genesis.chain_id().to_string(),
        "findings": findings.iter().map(host_check::Finding::to_json).collect::<Vec<Value>>(),
        "broken": broken,
    });
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    output.result(&value, format!("ok      configuration  no faults\n{}", lines.join("\n")));
    if broken == 0 { Ok(()) } else { Err(CliError::Reported) }
}
