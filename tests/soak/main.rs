//! `hufu-soak`: compares the kernels with each other and with RustCrypto without end, and times
//! what works on secrets.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use hufu_runtime::clock::monotonic;
use hufu_soak::{Numbers, Record, round, timing};

const USAGE: &str = "\
hufu-soak compare [--state FILE] [--minutes N]
    compares every back end with portable, and portable with RustCrypto, round after round; goes on
    where FILE (hufu-soak.state) says the last run stopped, and keeps the counts there. Ends after N
    minutes, or never. A disagreement is written beside FILE with all of its input: exit code 1
hufu-soak timing [--measurements N]
    tests N times (100000) whether the time of an operation depends on its secret: exit code 1 if
    one does, or if the planted leak is not found out
";

/// Time between two looks at the file of the counts.
const SAVED_EVERY: Duration = Duration::from_secs(10);

enum Command {
    Compare { state: PathBuf, minutes: Option<u64> },
    Timing { measurements: usize },
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Command> {
    let mut command = match words.next()?.as_str() {
        "compare" => Command::Compare { state: "hufu-soak.state".into(), minutes: None },
        "timing" => Command::Timing { measurements: 100_000 },
        _ => return None,
    };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match (&mut command, word.as_str()) {
            (Command::Compare { state, .. }, "--state") => *state = value.into(),
            (Command::Compare { minutes, .. }, "--minutes") => *minutes = Some(value.parse().ok()?),
            (Command::Timing { measurements }, "--measurements") => {
                *measurements = value.parse().ok()?;
            }
            _ => return None,
        }
    }
    Some(command)
}

fn main() -> ExitCode {
    let done = match parse(std::env::args().skip(1)) {
        None => {
            drop(std::io::stderr().write_all(USAGE.as_bytes()));
            return ExitCode::from(2);
        }
        Some(Command::Compare { state, minutes }) => compare(&state, minutes),
        Some(Command::Timing { measurements }) => Ok(time(measurements)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            line(&format!("hufu-soak: {error}"));
            ExitCode::from(2)
        }
    }
}

/// What cannot be printed, because the reader has gone, changes nothing.
fn line(text: &str) {
    drop(writeln!(std::io::stdout(), "{text}"));
}

fn compare(state: &Path, minutes: Option<u64>) -> std::io::Result<bool> {
    let mut record = Record::open(state)?;
    line(&format!("round {} on, counts in {}", record.round, state.display()));
    let start = monotonic();
    let mut saved = start;
    loop {
        // The counts of a round are added when all of it agreed.
        let mut counts = record.counts.clone();
        if let Err(found) = round(record.round, &mut counts) {
            let path = record.report(&found)?;
            line(&format!("DISAGREEMENT in round {}: {found}see {}", record.round, path.display()));
            record.save()?;
            return Ok(false);
        }
        (record.counts, record.round) = (counts, record.round + 1);
        let now = monotonic();
        let ends = minutes
            .is_some_and(|minutes| now.duration_since(start) >= Duration::from_secs(60 * minutes));
        if ends || now.duration_since(saved) >= SAVED_EVERY {
            record.save()?;
            saved = now;
        }
        if ends {
            let sums = ["portable", "rustcrypto"].map(|whom| record.counts.sum(whom));
            line(&format!(
                "{} rounds without a disagreement: {} comparisons with portable, {} with \
                 RustCrypto\n{}",
                record.round, sums[0], sums[1], record.counts
            ));
            return Ok(true);
        }
    }
}

fn time(measurements: usize) -> bool {
    let mut numbers = Numbers::of_round(monotonic().as_nanos());
    let mut is_sound = true;
    let mut planted = timing::leaking();
    let found = timing::judge(&mut planted, measurements, &mut numbers);
    let is_found = found.last().is_some_and(timing::Finding::is_leak);
    let verdict = if is_found { "found out" } else { "NOT FOUND OUT: nothing was measured" };
    for finding in &found {
        line(&format!("{:52} {finding}  {verdict}", planted.name));
    }
    is_sound &= is_found;
    for mut subject in timing::subjects() {
        let found = timing::judge(&mut subject, measurements, &mut numbers);
        let is_leak = found.iter().all(timing::Finding::is_leak);
        for finding in &found {
            let verdict = match (is_leak, finding.is_leak()) {
                (true, _) => "LEAKS",
                (false, true) => "looked at again",
                (false, false) => "nothing seen",
            };
            line(&format!("{:52} {finding}  {verdict}", subject.name));
        }
        is_sound &= !is_leak;
    }
    is_sound
}
