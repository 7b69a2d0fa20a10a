//! `hufu-simulation`: hunts for seeds that break a rule, and replays them.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::num::NonZero;
use std::ops::Range;
use std::process::ExitCode;

use hufu_simulation::{Material, Report, Trace, hunt, run_seed};

const USAGE: &str = "\
hufu-simulation run --seeds A..B [--nodes 4] [--jobs N] [--first]
    runs the seeds; prints those that break a rule; exit code 1 if there is one. --first: stop there
hufu-simulation replay SEED [--trace] [--nodes 4]
    runs one seed; with --trace prints every event and its virtual time
";

#[derive(Debug, PartialEq, Eq)]
enum Command {
    Run { seeds: Range<u64>, nodes: usize, jobs: usize, stops_early: bool },
    Replay { seed: u64, nodes: usize, has_trace: bool },
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(command) = parse(&arguments) else {
        print(&mut std::io::stderr(), USAGE);
        return ExitCode::from(2);
    };
    if let Ok(bug) = std::env::var("HUFU_PLANTED_BUG")
        && !hufu_types::planted::choose(&bug)
    {
        print(&mut std::io::stderr(), "this build has no planted bug to choose\n");
        return ExitCode::from(2);
    }
    // A panic is a finding and is reported as one.
    std::panic::set_hook(Box::new(|_| {}));
    let result = match command {
        Command::Run { seeds, nodes, jobs, stops_early } => run(seeds, nodes, jobs, stops_early),
        Command::Replay { seed, nodes, has_trace } => replay(seed, nodes, has_trace),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print(&mut std::io::stderr(), &format!("{error}\n"));
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: &[String]) -> Option<Command> {
    let mut words = arguments.iter().map(String::as_str);
    let name = words.next()?;
    let (mut nodes, mut jobs) = (4, std::thread::available_parallelism().map_or(1, NonZero::get));
    let (mut seeds, mut seed, mut has_trace, mut stops_early) = (None, None, false, false);
    while let Some(word) = words.next() {
        match word {
            "--nodes" => nodes = words.next()?.parse().ok()?,
            "--jobs" => jobs = words.next()?.parse().ok()?,
            "--trace" => has_trace = true,
            "--first" => stops_early = true,
            "--seeds" => {
                let (first, end) = words.next()?.split_once("..")?;
                seeds = Some(first.parse().ok()?..end.parse().ok()?);
            }
            number => seed = Some(number.parse().ok()?),
        }
    }
    match name {
        "run" => Some(Command::Run { seeds: seeds?, nodes, jobs, stops_early }),
        "replay" => Some(Command::Replay { seed: seed?, nodes, has_trace }),
        _ => None,
    }
}

/// What cannot be printed, because the reader has gone, changes nothing.
fn print(target: &mut dyn std::io::Write, text: &str) {
    drop(target.write_all(text.as_bytes()));
}

fn line(text: &str) {
    print(&mut std::io::stdout(), &format!("{text}\n"));
}

fn run(
    seeds: Range<u64>,
    nodes: usize,
    jobs: usize,
    stops_early: bool,
) -> Result<bool, Box<dyn std::error::Error>> {
    let summary = hunt(seeds, (nodes, jobs), stops_early, |report| {
        if report.failure.is_some() {
            line(&describe(report));
        }
    })?;
    let speed = summary.speed_percent();
    let millis = summary.real_nanos / 1_000_000;
    line(&format!(
        "{} seeds, {} failed; {} heights, {} receipts, {} events; {} s virtual in {}.{:03} s of one \
         thread: {}.{:02} times real time, {} ms a seed",
        summary.seeds,
        summary.failures.len(),
        summary.heights,
        summary.receipts,
        summary.events,
        summary.virtual_nanos / 1_000_000_000,
        millis / 1_000,
        millis % 1_000,
        speed / 100,
        speed % 100,
        millis / summary.seeds.max(1),
    ));
    Ok(summary.failures.is_empty())
}

fn replay(seed: u64, nodes: usize, has_trace: bool) -> Result<bool, Box<dyn std::error::Error>> {
    let material = Material::new(nodes)?;
    let trace = if has_trace { Trace::printing(line) } else { Trace::silent() };
    let report = run_seed(&material, seed, trace);
    line(&describe(&report));
    drop(std::io::stdout().flush());
    Ok(report.failure.is_none())
}

fn describe(report: &Report) -> String {
    let verdict = report.failure.as_ref().map_or("passed".to_owned(), ToString::to_string);
    let (done, all) = report.transactions;
    format!(
        "seed {}: {verdict} [{} ms, height {}, {done} of {all} receipts, {} events, trace {}]",
        report.seed,
        report.nanos / 1_000_000,
        report.height,
        report.events,
        report.hash,
    )
}
