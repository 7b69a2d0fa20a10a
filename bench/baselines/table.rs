//! Measures the rows and prints them.
//!
//! Everyone in a row takes turns, round after round, so that a machine with other work to do is the
//! same for all; the median of the rounds counts. Cycles are time multiplied by a frequency that a
//! chain of dependent additions shows before each row: this machine has no counters to read.

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::openssl;
use crate::rows::{Contender, Row, all};

/// Time of one turn.
const TURN: Duration = Duration::from_millis(30);

/// Steps of the chain that shows the frequency: each is an exclusive or and an addition that wait
/// for each other, a cycle each.
const CHAIN_STEPS: u32 = 20_000_000;
const CYCLES_PER_STEP: f64 = 2.0;

/// The one everybody is held against.
const YARDSTICK: &str = "RustCrypto";

#[allow(clippy::disallowed_methods, reason = "a tool apart, without the runtime")]
fn timed(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    call();
    start.elapsed().as_secs_f64()
}

/// Cycles a second.
fn frequency() -> f64 {
    let (mut value, mask, step) = black_box((1_u64, 0x55_u64, 3_u64));
    let seconds = timed(|| {
        for _ in 0..CHAIN_STEPS {
            value = (value ^ mask).wrapping_add(step);
        }
        black_box(value);
    });
    f64::from(CHAIN_STEPS) * CYCLES_PER_STEP / seconds
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn output(program: &str, arguments: &[&str]) -> String {
    let run = Command::new(program).args(arguments).output();
    let text = run.map(|run| String::from_utf8_lossy(&run.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// The machine, the commit and the others.
fn fingerprint() -> Value {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
        value.unwrap_or("unknown").to_owned()
    };
    let folder = env!("CARGO_MANIFEST_DIR");
    let is_changed = output("git", &["-C", folder, "status", "--porcelain"]) != "unknown";
    json!({
        "processor": field("model name"),
        "family": field("cpu family"),
        "model": field("model\t"),
        "cores": std::thread::available_parallelism().map_or(1, |cores| cores.get()),
        "system": output("uname", &["-sr"]),
        "commit": output("git", &["-C", folder, "rev-parse", "HEAD"]),
        "is_changed": is_changed,
        "openssl": openssl::version(),
        "rustc": output("rustc", &["--version"]),
    })
}

/// One contender's figures.
struct Figure {
    contender: Contender,
    calls: u32,
    /// Seconds of an item, one a round.
    seconds: Vec<f64>,
}

impl Figure {
    fn new(mut contender: Contender) -> Self {
        let mut calls = 1;
        loop {
            let seconds = timed(|| (0..calls).for_each(|_| (contender.call)()));
            if seconds >= TURN.as_secs_f64() || calls > 1 << 24 {
                return Self { contender, calls, seconds: Vec::new() };
            }
            calls *= 2;
        }
    }

    fn turn(&mut self) {
        let (calls, call) = (self.calls, &mut self.contender.call);
        let seconds = timed(|| (0..calls).for_each(|_| call()));
        self.seconds.push(seconds / f64::from(calls) / self.contender.items as f64);
    }
}

/// Measures all rows whose name contains `part`, and prints a table or JSON.
pub fn print(part: &str, rounds: usize, is_json: bool) {
    let machine = fingerprint();
    let mut found = Vec::new();
    if !is_json {
        println!("{machine:#}\n{rounds} rounds, medians; ratio to {YARDSTICK} in the same rounds");
    }
    for row in all(part) {
        let Row { name, bytes, floor, aim, contenders } = row;
        let mut figures: Vec<Figure> = contenders.into_iter().map(Figure::new).collect();
        let mut hertz = Vec::new();
        for _ in 0..rounds {
            hertz.push(frequency());
            figures.iter_mut().for_each(Figure::turn);
        }
        let hertz = median(&hertz);
        let base = figures.iter().find(|figure| figure.contender.name == YARDSTICK);
        let base = base.map(|figure| figure.seconds.clone()).unwrap_or_default();
        if !is_json {
            let aim =
                aim.map_or(String::new(), |(_, must, aim)| format!("must {must}x aim {aim}x"));
            println!("\n{name:44} {:.2} GHz  {aim}", hertz / 1e9);
        }
        for figure in &figures {
            let seconds = median(&figure.seconds);
            let ratios: Vec<f64> =
                figure.seconds.iter().zip(&base).map(|(own, base)| base / own).collect();
            let (ratio, cycles) = (median(&ratios), seconds * hertz);
            let is_lanes = figure.contender.name == "hufu avx512";
            let floor = floor.filter(|_| is_lanes);
            found.push(json!({
                "row": name,
                "contender": figure.contender.name,
                "items_per_second": 1.0 / seconds,
                "bytes_per_second": (bytes > 0).then(|| bytes as f64 / seconds),
                "ratio": ratio,
                "cycles_per_item": cycles,
                "floor_cycles": floor,
                "must": aim.filter(|_| is_lanes).map(|(_, must, _)| must),
                "gigahertz": hertz / 1e9,
            }));
            if is_json {
                continue;
            }
            let mut line = format!("  {:16}", figure.contender.name);
            if bytes > 0 {
                let megabytes = bytes as f64 / seconds / 1e6;
                let each = cycles / bytes as f64;
                line.push_str(&format!("{megabytes:>12.0} MB/s {ratio:>8.2}x {each:>10.2} c/B"));
                if let Some(floor) = floor {
                    let gap = cycles / floor;
                    line.push_str(&format!("  floor {:.2}, {gap:.2} times", floor / bytes as f64));
                }
            } else {
                line.push_str(&format!(
                    "{:>12.0} /s   {ratio:>8.2}x {cycles:>10.0} c  ",
                    1.0 / seconds
                ));
                if let Some(floor) = floor {
                    line.push_str(&format!("  floor {floor:.0}, {:.2} times", cycles / floor));
                }
            }
            println!("{line}");
        }
    }
    if is_json {
        println!("{:#}", json!({ "machine": machine, "rounds": rounds, "figures": found }));
    }
}
