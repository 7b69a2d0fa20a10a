//! What is left of a card's signatures when things go wrong: 100,000 of them, of which one in a
//! hundred finds its session gone, while the card is taken away once.
//!
//! `cargo bench -p hufu-hsm --bench losses`; `-- --gate` fails if one was lost or wrong, or if the
//! card took 2 s to serve again after it was back; `-- --signatures N` makes it shorter. The card
//! is the soft token, or what `HUFU_SOFTTOKEN` names; every signature is verified in software by
//! the caller, and once more by the layer itself.

#![allow(clippy::print_stdout, reason = "a benchmark tells its figures")]

#[path = "losses/soak.rs"]
mod soak;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use hufu_crypto::software_provider;
use hufu_hsm::card::{Card, KeyClass, KeyName, deadline_in, keys};
use hufu_hsm::config::CardConfig;
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::{Library, User};
use hufu_hsm::{KeyReference, Keystore as _, Profile, Usage};
use hufu_runtime::clock::monotonic;
use hufu_softtoken::Faults;
use soak::{Soak, soak};

/// Set in the process that has the token's configuration from its start.
const FOLDER: &str = "HUFU_BENCH_LOSSES";

const SIGNATURES_COUNT: u64 = 100_000;
const THREADS_COUNT: usize = 4;
const LOST_ONE_IN: u64 = 100;
const AWAY: Duration = Duration::from_secs(3);

/// How long the card may take to serve again after it is back.
const RECOVERY_MAX: Duration = Duration::from_secs(2);

const PIN: &[u8] = b"12345678";
const LABEL: &str = "bench";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let is_gate = arguments.iter().any(|argument| argument == "--gate");
    let count = match arguments.iter().position(|argument| argument == "--signatures") {
        Some(index) => arguments.get(index + 1).ok_or("--signatures wants a number")?.parse()?,
        None => SIGNATURES_COUNT,
    };
    let module = module()?;
    if let Some(folder) = std::env::var_os(FOLDER) {
        let is_good = measure(Path::new(&folder), &module, count)?;
        return Ok(if is_good || !is_gate { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let folder = tempfile::tempdir()?;
    let configuration = folder.path().join("softtoken.toml");
    let store = folder.path().join("store");
    std::fs::write(&configuration, format!("store = {store:?}\npin_rounds = 1000\n"))?;
    let status = Command::new(std::env::current_exe()?)
        .args(arguments.iter().skip(1))
        .env(FOLDER, folder.path())
        .env("HUFU_SOFTTOKEN_CONF", configuration)
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The soft token that was built with this bench.
fn module() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("HUFU_SOFTTOKEN") {
        return Ok(path.into());
    }
    let mut path = std::env::current_exe()?;
    path.set_file_name("libhufu_softtoken.so");
    Ok(path)
}

fn measure(folder: &Path, module: &Path, count: u64) -> Outcome<bool> {
    make_key(module)?;
    let card = Card::open(&config(folder, module)?, software_provider().verifier)?;
    let until = deadline_in(Duration::from_secs(60));
    let key = card.open_key(&KeyReference::Label(LABEL.to_owned()), Usage::Sign, until)?;
    let faults = Faults::open(&folder.join("store"), 0)?;
    let order = Soak {
        card: &card,
        key,
        faults: &faults,
        threads_count: THREADS_COUNT,
        signatures_count: count,
        lost_one_in: LOST_ONE_IN,
        away: AWAY,
    };
    let started = monotonic();
    let report = soak(&order)?;
    let took = monotonic().duration_since(started);
    let metrics = card.metrics();
    let quantile = |permille: usize| {
        let place = report.nanos.len().saturating_sub(1) * permille / 1_000;
        report.nanos.get(place).copied().unwrap_or(0) / 1_000
    };
    println!("hsm::losses/signatures={count} threads={THREADS_COUNT} away={AWAY:?}");
    println!(
        "  right {}, wrong {}, lost {}; sessions lost {}, cards lost {}; took {took:?}",
        report.right_count,
        report.wrong_count,
        report.failed_count,
        metrics.sessions_lost_total(),
        metrics.tokens_lost_total(),
    );
    println!(
        "  recovery {:?}, at most {RECOVERY_MAX:?}; us: p50 {} p99 {} p99.9 {}",
        report.recovery,
        quantile(500),
        quantile(990),
        quantile(999)
    );
    if let Some(error) = &report.last_error {
        println!("  last error: {error}");
    }
    // What was to go wrong must have gone wrong.
    let has_lost = metrics.sessions_lost_total() >= count / LOST_ONE_IN / 2;
    let is_whole = report.right_count == count && report.wrong_count == 0;
    let is_soon = report.recovery < RECOVERY_MAX && metrics.tokens_lost_total() > 0;
    Ok(has_lost && is_whole && is_soon)
}

fn make_key(module: &Path) -> Outcome<()> {
    let pin = Pin::from_reader(PIN, "benchmark")?;
    let library = Library::load(module)?;
    let slot = *library.slots()?.first().ok_or("no slot")?;
    library.init_token(slot, &pin, LABEL)?;
    let session = library.open_session(slot, true)?;
    session.login(User::SecurityOfficer, &pin)?;
    session.init_pin(&pin)?;
    session.logout()?;
    session.login(User::User, &pin)?;
    let profile = profile()?;
    let generate = *profile.sm2.generate.first().ok_or("no mechanism")?;
    let name = KeyName { label: LABEL, id: LABEL.as_bytes(), is_kept: true };
    let class = KeyClass::SingleCard;
    keys::generate_pair(&session, &profile, generate, &name, Usage::Sign, class)?;
    Ok(())
}

fn profile() -> Outcome<Profile> {
    let shipped = Profile::shipped()?;
    let ours = shipped.into_iter().find(|profile| profile.name == "hufu-softtoken");
    Ok(ours.ok_or("the soft token's profile is not shipped")?)
}

fn config(folder: &Path, module: &Path) -> Outcome<CardConfig> {
    use std::os::unix::fs::PermissionsExt as _;
    let pin = folder.join("card.pin");
    std::fs::write(&pin, PIN)?;
    std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o600))?;
    let text = format!(
        "name = \"bench\"\nmodule = {module:?}\ntoken_label = {LABEL:?}\npin_file = \"card.pin\"\n\
         sessions_max = {THREADS_COUNT}\ndeadline_millis = 60000\nfailures_max = 1000\n"
    );
    Ok(CardConfig::parse(&text, &folder.join("card.toml"))?)
}
