//! The command line: `hufu NOUN VERB`, by noun as design.md 6 names them.
//!
//! ```text
//! arguments --clap--> Cli --> one file per noun --> Output, exit code
//! ```
//!
//! Exit codes: 0 fine, 1 the check or command failed, 2 usage, 78 configuration. Every command
//! prints JSON with `--json`; errors go to standard error and say what, where and what to do.

mod account;
mod audit;
mod config;
mod consensus;
mod crypto;
mod custodian;
mod error;
mod events;
mod genesis;
mod hsm;
mod keys;
mod ledger;
mod localnet;
mod node;
mod passphrase;
mod query;
mod receipt;
mod remote;
mod tx;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use error::CliError;

use crate::kernels;
use crate::output::Output;

/// Exit code of a check or command that failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a command that was interrupted, as shells report SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Exit code of a command line that makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of a faulty configuration; supervisors do not restart after it (sysexits `EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;

#[derive(Debug, Parser)]
#[command(
    name = "hufu",
    version,
    about = "A financial-grade consortium-ledger node: SM2, SM3, BFT, receipts that verify offline",
    after_help = "Exit codes: 0 fine, 1 the check or command failed, 2 usage, 78 configuration.\n\
        HUFU_KERNELS=portable|avx2|avx512 forces the instructions that SM2, SM3 and SM4 run on; without it \
        the fastest of this CPU are taken."
)]
struct Cli {
    /// Print results and errors as JSON, one value a line.
    #[arg(long, global = true)]
    json: bool,
    /// Process that this one must not outlive.
    #[arg(long, global = true, hide = true, value_name = "PROCESS")]
    parent: Option<u32>,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Verify accounts offline, from the genesis alone.
    #[command(subcommand)]
    Account(account::Verb),
    /// Verify and show audit logs: what keys did, and who did what to them.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Check, show and describe node configurations.
    #[command(subcommand)]
    Config(config::Verb),
    /// Make and show the genesis of a chain.
    #[command(subcommand)]
    Genesis(genesis::Verb),
    /// Make and show keys held in files (the software custody; production keys live on cards:
    /// `hufu hsm`).
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Run one node, or check that it could run here.
    #[command(subcommand)]
    Node(node::Verb),
    /// Run a whole chain on this machine, load it and check what became of it.
    #[command(subcommand)]
    Localnet(localnet::Verb),
    /// Build, sign and send transactions, and wait for their receipts.
    #[command(subcommand)]
    Tx(tx::Verb),
    /// Ask a node for its status, an account, a block or a transaction.
    #[command(subcommand)]
    Query(query::Verb),
    /// Print the chain's events as they come, one a line.
    Events(events::Events),
    /// Say what a running node's consensus waits for.
    #[command(subcommand)]
    Consensus(consensus::Verb),
    /// Sign, verify, encrypt and hash with SM2, SM3 and SM4; test and measure the kernels here.
    #[command(subcommand)]
    Crypto(Box<crypto::Verb>),
    /// Look at cards (PKCS#11), make keys on them, measure them; the agent that serves one to a
    /// node.
    #[command(subcommand, after_help = hsm::CARD_FILE)]
    Hsm(Box<hsm::Verb>),
    /// Check the data folder of a stopped node.
    #[command(subcommand)]
    Ledger(ledger::Verb),
    /// Verify receipts offline, from the genesis alone.
    #[command(subcommand)]
    Receipt(receipt::Verb),
}

/// Makes every panic end the process at once: half a node must not go on voting.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return explain(&without_uri(error)),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return explain(&without_uri(error)),
    };
    let output = Output::new(cli.json);
    match follow(cli.parent).and_then(|()| run(cli.noun, output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error.to_json(), &error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Ties this process's life to that of the one that started it.
fn follow(parent: Option<u32>) -> Result<(), CliError> {
    let Some(parent) = parent else { return Ok(()) };
    hufu_runtime::process::die_with_parent(parent).map_err(|cause| {
        CliError::failed(cause, format!("process {parent}"), "leave --parent to hufu itself")
    })
}

fn run(noun: Noun, output: Output) -> Result<(), CliError> {
    choose_kernels(&noun)?;
    forbid_core_dumps(&noun)?;
    match noun {
        Noun::Account(verb) => account::run(&verb, output),
        Noun::Audit(verb) => audit::run(&verb, output),
        Noun::Config(verb) => config::run(verb, output),
        Noun::Genesis(verb) => genesis::run(verb, output),
        Noun::Keys(verb) => keys::run(&verb, output),
        Noun::Consensus(verb) => consensus::run(&verb, output),
        Noun::Crypto(verb) => crypto::run(*verb, output),
        Noun::Hsm(verb) => hsm::run(*verb, output),
        Noun::Ledger(verb) => ledger::run(&verb, output),
        Noun::Node(verb) => node::run(&verb, output),
        Noun::Localnet(verb) => localnet::run(verb, output),
        Noun::Tx(verb) => tx::run(verb, output),
        Noun::Query(verb) => query::run(verb, output),
        Noun::Events(events) => events::run(&events, output),
        Noun::Receipt(verb) => receipt::run(&verb, output),
    }
}

/// Fixes the back end of the kernels before anything computes: for a node its name is a part of the
/// configuration, for everything else of the command line.
fn choose_kernels(noun: &Noun) -> Result<(), CliError> {
    let refused = match kernels::choose() {
        Ok(_) => return Ok(()),
        Err(refused) => refused,
    };
    let remedy = refused.remedy();
    if matches!(noun, Noun::Node(_)) {
        return Err(CliError::misconfigured(refused, "the environment", remedy));
    }
    Err(CliError::usage(refused, remedy))
}

/// A command that holds a private key leaves none of it in a core dump, whatever ends it; a node
/// sees to that itself.
fn forbid_core_dumps(noun: &Noun) -> Result<(), CliError> {
    if !matches!(noun, Noun::Crypto(_) | Noun::Hsm(_) | Noun::Keys(_) | Noun::Tx(_)) {
        return Ok(());
    }
    hufu_runtime::process::forbid_core_dumps().map_err(|cause| {
        CliError::failed(cause, "core dumps", "run it where a process may forbid its own")
    })
}

/// The name of a key that is refused is not repeated: somebody may have put a PIN into it.
fn without_uri(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    let value = ContextKind::InvalidValue;
    if let Some(ContextValue::String(text)) = error.get(value)
        && hufu_hsm::uri::is_uri(text)
    {
        error.insert(value, ContextValue::String("pkcs11:...".to_owned()));
    }
    error
}

/// Prints help, version or a usage error where clap wants it; an error as JSON where that is asked
/// for, even if the rest of the command line makes no sense.
fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A reader that is gone wants no help.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().skip(1).take_while(|word| word != "--").any(|word| word == "--json") {
        let error = usage(error);
        Output::new(true).error(&error.to_json(), &error);
    } else {
        drop(error.print());
    }
    ExitCode::from(EXIT_USAGE)
}

/// What clap says in many lines for people, as what is wrong and what to do.
fn usage(error: &clap::Error) -> CliError {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let remedy = "see `hufu --help`, or that of the command";
    if error.kind() == DisplayHelpOnMissingArgumentOrSubcommand {
        return CliError::usage("the command is not complete", remedy);
    }
    let text = error.to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = what.trim_start_matches("error: ").split_whitespace().collect();
    CliError::usage(words.join(" "), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_understood_anywhere() {
        let before = Cli::try_parse_from(["hufu", "--json", "config", "schema"]).unwrap();
        let behind = Cli::try_parse_from(["hufu", "config", "schema", "--json"]).unwrap();
        assert!(before.json && behind.json);
    }
}
