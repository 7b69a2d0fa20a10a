//! `hufu-baselines`: the kernels beside the libraries of others, in speed and in verdicts.
//!
//! A workspace of its own that CI does not build: it links the system's OpenSSL.

mod libraries;
mod openssl;
mod outside;
mod rows;
mod table;

use std::process::ExitCode;

const USAGE: &str = "\
hufu-baselines bench [--rounds N] [--only PART] [--json]
    the speed table: every back end and every library that offers a row, N (7) interleaved rounds
hufu-baselines soak [--state FILE] [--minutes N]
    compares portable with OpenSSL and libsm, round after round, as hufu-soak does with RustCrypto
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Some((command, options)) = words.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let value = |name: &str| {
        let place = options.iter().position(|word| *word == name)?;
        options.get(place + 1).copied()
    };
    let number = |name: &str| value(name).and_then(|text| text.parse().ok());
    match *command {
        "bench" => {
            let rounds = number("--rounds").unwrap_or(7);
            table::print(value("--only").unwrap_or(""), rounds, options.contains(&"--json"));
            ExitCode::SUCCESS
        }
        "soak" => {
            let state = value("--state").unwrap_or("hufu-soak-outside.state");
            outside::run(state.as_ref(), number("--minutes").map(|minutes| minutes as u64))
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
