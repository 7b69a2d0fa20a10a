//! What the agent costs: the same call directly and through an agent's process, with a card of
//! known cost, in the caller's microseconds.
//!
//! `cargo bench -p hufu-hsm --bench agent`. Caller and agent are on a core each; one call is under
//! way at a time. `random` is the bare way there and back; `sign` adds the second verification in
//! software, which is also measured alone.
//!
//! - `spinning`: both sides spin as long as it takes.
//! - `frequent`: one call after the other, and both sides spin [`SPIN_SHORT`] at most.
//! - `parked`: the same with a millisecond between calls, so that both cores have gone to sleep.
//! - `asleep`: the same, and nobody spins at all: what two wake-ups cost, for comparison.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]
#![allow(clippy::print_stdout, reason = "the result is what it prints")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{
    Backend, Digest, PublicKey, Signature, Signer, SoftwareSigner, Verdict, VerifyItem,
    software_provider_with,
};
use hufu_hsm::agent::{Agent, AgentConfig, AgentSource, Endpoint, SPIN_SHORT};
use hufu_hsm::{Error, KeyReference, Keystore, Usage};
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::placement::{CoreSet, pin_current_thread};

#[path = "../tests/double/signing.rs"]
mod signing;

use signing::{SigningCard, SignsOnly};

const ROLE: &str = "HUFU_BENCH_AGENT";

/// What the card takes for a call.
const CARD_TIME: Duration = Duration::from_micros(30);

const CALLS_COUNT: usize = 20_000;

/// Calls that have a pause before them.
const CALLS_APART_COUNT: usize = 2_000;

const PAUSE: Duration = Duration::from_millis(1);

/// How both sides wait, and the most that the agent may add at the median, in nanoseconds.
struct Mode {
    name: &'static str,
    spin: Duration,
    pause: Duration,
    gate: Option<u64>,
}

const MODES: [Mode; 4] = [
    Mode {
        name: "spinning",
        spin: Duration::from_millis(5),
        pause: Duration::ZERO,
        gate: Some(15_000),
    },
    Mode { name: "frequent", spin: SPIN_SHORT, pause: Duration::ZERO, gate: Some(60_000) },
    Mode { name: "parked", spin: SPIN_SHORT, pause: PAUSE, gate: Some(60_000) },
    Mode { name: "asleep", spin: Duration::ZERO, pause: PAUSE, gate: None },
];

fn main() -> ExitCode {
    if std::env::var(ROLE).is_ok() {
        return agent();
    }
    // Cargo hands its own words to a bench; they mean nothing here.
    let is_within = MODES.iter().map(measure).fold(true, |all, one| all & one);
    if is_within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agent() -> ExitCode {
    let endpoint = Endpoint::inherited().unwrap();
    pin(1);
    let card: Arc<dyn Keystore> = Arc::new(SigningCard("bench", Card::new()));
    endpoint.serve(&card, 2, Vec::new()).unwrap();
    ExitCode::SUCCESS
}

/// On a host with one core it stays where it is.
fn pin(core: usize) {
    drop(pin_current_thread(&CoreSet::new(&[core])));
}

fn measure(mode: &Mode) -> bool {
    pin(0);
    let program = std::env::current_exe().unwrap();
    let environment = vec![(ROLE.into(), "1".into())];
    let source = AgentSource::Start { program, arguments: Vec::new(), environment };
    let mut config = AgentConfig::new("bench", source);
    (config.spin, config.worker_spin) = (mode.spin, mode.spin);
    let (agent, _submitter) = Agent::start(config).unwrap();
    let client = agent.client();
    client.wait_ready(Nanos::MAX).unwrap();
    let key = client.open_key(&KeyReference::Index(1), Usage::Sign, Nanos::MAX).unwrap();
    let card = SigningCard("bench", Card::new());

    let digest = card.1.digest;
    let mut bytes = [0; 32];
    let mut signature = [Signature([0; 64])];
    let bare = quantiles(mode.pause, || card.random(&mut bytes, Nanos::MAX).unwrap());
    let far = quantiles(mode.pause, || client.random(&mut bytes, Nanos::MAX).unwrap());
    let here = quantiles(mode.pause, || {
        card.sign_sm2(key, &[digest], &mut signature, Nanos::MAX).unwrap();
    });
    let there = quantiles(mode.pause, || {
        client.sign_sm2(key, &[digest], &mut signature, Nanos::MAX).unwrap();
    });
    let provider = software_provider_with(Backend::best(), 0);
    let item = VerifyItem { key: &card.1.public, digest, signature: &signature[0] };
    let verified = quantiles(mode.pause, || {
        assert_eq!(provider.verifier.verify(item), Verdict::Valid);
    });
    let added = far[0].saturating_sub(bare[0]);
    let micros = |nanos: u64| format!("{}.{:01}", nanos / 1_000, nanos % 1_000 / 100);
    let count = calls_count(mode.pause);
    println!("agent::call/mode={} calls={count} (us: p50 p99 p99.9)", mode.name);
    for (name, row) in [
        ("random, direct", bare),
        ("random, agent", far),
        ("sign, direct", here),
        ("sign, agent", there),
        ("verification alone, no table", verified),
    ] {
        println!("  {name:<30} {:>8} {:>8} {:>8}", micros(row[0]), micros(row[1]), micros(row[2]));
    }
    let with_verification = there[0].saturating_sub(here[0]);
    let gate = mode.gate.map_or_else(String::new, |gate| format!(", at most {} us", micros(gate)));
    println!(
        "  added at p50: {} us{gate}; with the second verification {} us",
        micros(added),
        micros(with_verification),
    );
    agent.stop().unwrap();
    mode.gate.is_none_or(|gate| added <= gate)
}

const fn calls_count(pause: Duration) -> usize {
    if pause.is_zero() { CALLS_COUNT } else { CALLS_APART_COUNT }
}

/// p50, p99 and p99.9 in nanoseconds.
fn quantiles(pause: Duration, mut call: impl FnMut()) -> [u64; 3] {
    let mut times: Vec<u64> = (0..calls_count(pause))
        .map(|_| {
            if !pause.is_zero() {
                std::thread::park_timeout(pause);
            }
            let before = clock::monotonic();
            call();
            clock::monotonic().since(before)
        })
        .collect();
    times.sort_unstable();
    [500, 990, 999].map(|share| times[times.len() * share / 1_000])
}

/// Takes its time and gives a signature made beforehand.
struct Card {
    public: PublicKey,
    digest: Digest,
    signature: Signature,
}

impl Card {
    fn new() -> Self {
        let signer = SoftwareSigner::from_bytes(&[7; 32]).unwrap();
        let digest = Digest([5; 32]);
        let signature = signer.sign(&digest).unwrap();
        Self { public: *signer.public_key(), digest, signature }
    }

    fn work(&self) {
        let end = clock::monotonic().after(CARD_TIME);
        while clock::monotonic() < end {
            std::hint::spin_loop();
        }
    }
}

impl SignsOnly for Card {
    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, _digests: &[Digest], signatures: &mut [Signature]) {
        self.work();
        signatures.fill(self.signature);
    }

    fn fill(&self, bytes: &mut [u8]) -> Result<(), Error> {
        self.work();
        bytes.fill(1);
        Ok(())
    }
}
