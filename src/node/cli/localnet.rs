//! `hufu localnet run`: a chain on this machine, loaded, checked and stopped.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use hufu_crypto::entropy;
use hufu_load::Pace;

use super::CliError;
use super::receipt::StrengthArgument;
use crate::localnet::{
    CardFaults, NODES_COUNT, NODES_COUNT_MAX, Options, Outage, Restart, run as run_network,
};
use crate::output::Output;

/// The fewest nodes of which one may be lost.
const OUTAGE_NODES_COUNT_MIN: u16 = 4;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a chain on this machine, replay a trading hour on it, check everything and stop.
    #[command(after_help = "Fails (exit code 1) unless every event is committed exactly once, \
        totals are conserved and equal to an independent model, all nodes hold the same block and \
        state root at every height, each has verified each transaction once, stays healthy and \
        stops gracefully, `hufu ledger verify --level replay` finds nothing in any of their \
        folders, and a separate process given only the genesis verifies every receipt. A \
        broker's transactions all go to one node, those of the clearing house to all in turn. Nodes are separate processes on 127.0.0.1 \
        and never outlive this command. Files in a temporary folder are removed, unless --keep is \
        given or a check has failed.")]
    Run(Run),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Nodes, count: separate processes, each a validator.
    #[arg(long, default_value_t = NODES_COUNT, value_parser =
        clap::value_parser!(u16).range(1..=i64::from(NODES_COUNT_MAX)))]
    nodes: u16,
    /// LOBSTER messages to replay (.csv or .csv.gz); a seeded synthetic hour of the same shape if
    /// left out.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Events of the synthetic hour, count; as many as the real hour has if left out.
    #[arg(long, conflicts_with = "replay", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
    /// How often the hour is repeated.
    #[arg(long, default_value_t = 1)]
    hours: u32,
    /// Transactions a second, "max", or the recorded times so many times as fast: "1x", "60x".
    #[arg(long, default_value = "max", value_parser = parse_pace)]
    rate: Pace,
    /// Brokers, count.
    #[arg(long, default_value_t = 64)]
    accounts: u16,
    /// New or empty folder for keys, genesis, data and logs; a temporary one if left out.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Keep the temporary folder.
    #[arg(long)]
    keep: bool,
    /// What broker keys and synthetic events follow from; drawn at random if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// File for all receipts with their proofs; in the network's folder if left out.
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,
    /// Neither ask for proofs nor verify them: measures the chain without their making.
    #[arg(long, conflicts_with = "receipts")]
    no_receipts: bool,
    /// Which receipts are waited for and verified: certified ones prove their results too.
    #[arg(long, value_enum, default_value = "certified")]
    strength: StrengthArgument,
    /// Afterwards, with the nodes gone, measure how fast all cores verify signatures and nothing
    /// else, and say which part of that the chain reached: of an N-th with N nodes, since each
    /// verifies everything.
    #[arg(long)]
    raw_rate: bool,
    /// Keep each validator's vote key in a soft token of its own, each in the manner of another
    /// vendor, behind an agent, and let it wrap the data key: as with real cards. The module is the
    /// one built beside this binary.
    #[arg(long)]
    cards: bool,
    /// Kill the agent of the third node's card so many seconds after the load began, and measure
    /// how that validator comes back.
    #[arg(long, value_name = "SECONDS", requires = "cards")]
    kill_agent_after: Option<u64>,
    /// Take the device of the second node's card away so many seconds after the load began, and
    /// measure how that validator comes back.
    #[arg(long, value_name = "SECONDS", requires = "cards")]
    remove_card_after: Option<u64>,
    /// For how long the device is away.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "remove_card_after",
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    remove_card_for: u64,
    /// Connections of the load, count; each node has at least one.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// Kill the last of at least four nodes (kill -9) so many seconds after the load began, start
    /// it again, and measure what that does to the others and how fast the node catches up. The
    /// load goes to the other nodes. The rate must be a fixed one.
    #[arg(long, value_name = "SECONDS")]
    kill_after: Option<u64>,
    /// When the killed node is started again: so many seconds later, or "end" for when the load is
    /// over.
    #[arg(long, value_name = "SECONDS|end", default_value = "20", value_parser = parse_restart,
        requires = "kill_after")]
    restart_after: Restart,
    /// The killed node loses its data too.
    #[arg(long, requires = "kill_after")]
    wipe: bool,
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    let Verb::Run(run) = verb;
    let seed = match run.seed {
        Some(seed) => seed,
        None => draw()?,
    };
    let outage = run.kill_after.map(|seconds| Outage {
        kill_after: Duration::from_secs(seconds),
        restart: run.restart_after,
        wipe: run.wipe,
    });
    if outage.is_some() && (run.nodes < OUTAGE_NODES_COUNT_MIN || run.rate == Pace::Max) {
        let fault = "an outage needs four nodes, of which three go on, and a fixed rate";
        return Err(CliError::usage(fault, "give --nodes 4 and --rate, or leave --kill-after out"));
    }
    let removed = Duration::from_secs(run.remove_card_for);
    let card_faults = CardFaults {
        kill_agent_after: run.kill_agent_after.map(Duration::from_secs),
        remove_after: run.remove_card_after.map(|after| (Duration::from_secs(after), removed)),
    };
    let is_faulty = card_faults != CardFaults::default();
    if is_faulty && (run.nodes < OUTAGE_NODES_COUNT_MIN || outage.is_some()) {
        let fault = "a card that fails needs four nodes, and no other outage beside it";
        let remedy = "give --nodes 4, and leave --kill-after out";
        return Err(CliError::usage(fault, remedy));
    }
    let options = Options {
        nodes_count: run.nodes,
        replay: run.replay,
        events_count: run.events,
        hours_count: run.hours,
        pace: run.rate,
        accounts_count: run.accounts,
        folder: run.dir,
        keep: run.keep,
        seed,
        receipts: run.receipts,
        with_receipts: !run.no_receipts,
        strength: run.strength.into(),
        connections_count: run.connections,
        with_raw_rate: run.raw_rate,
        with_cards: run.cards,
        card_faults,
        outage,
    };
    run_network(&options, output)
}

fn draw() -> Result<u64, CliError> {
    let mut bytes = [0; 8];
    entropy::fill(&mut bytes)
        .map_err(|error| CliError::failed(error, "operating system", "give --seed"))?;
    Ok(u64::from_le_bytes(bytes))
}

fn parse_pace(text: &str) -> Result<Pace, String> {
    if text == "max" {
        return Ok(Pace::Max);
    }
    let (number, pace): (&str, fn(u64) -> Pace) = match text.strip_suffix('x') {
        Some(times) => (times, Pace::Recorded),
        None => (text, Pace::PerSecond),
    };
    let rate = number.parse().ok().filter(|rate| *rate > 0);
    rate.map(pace).ok_or_else(|| "a rate is \"max\", a whole number, or one with x".to_owned())
}

fn parse_restart(text: &str) -> Result<Restart, String> {
    if text == "end" {
        return Ok(Restart::AtEnd);
    }
    let seconds = text.parse().map(|seconds| Restart::After(Duration::from_secs(seconds)));
    seconds.map_err(|_| "a restart is \"end\" or a whole number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_after_seconds_or_at_the_end() {
        assert_eq!(parse_restart("end"), Ok(Restart::AtEnd));
        assert_eq!(parse_restart("20"), Ok(Restart::After(Duration::from_secs(20))));
        for bad in ["", "-1", "1.5", "soon"] {
            assert!(parse_restart(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paces_are_max_or_a_rate() {
        assert_eq!(parse_pace("max"), Ok(Pace::Max));
        assert_eq!(parse_pace("500"), Ok(Pace::PerSecond(500)));
        assert_eq!(parse_pace("60x"), Ok(Pace::Recorded(60)));
        for bad in ["", "0", "-1", "fast", "1.5", "x", "0x", "x60", "1.5x"] {
            assert!(parse_pace(bad).is_err(), "{bad}");
        }
    }
}
