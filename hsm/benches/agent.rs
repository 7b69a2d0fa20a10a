//! What the agent costs: the same call directly and through an agent's process, with a card of
//! known cost, in the caller's microseconds.
//!
//! `cargo bench -p hufu-hsm --bench agent`. Caller and agent are on a core each; one call is under
//! way at a time. `random` is the bare way there and back; `sign` adds the second verification in
//! software, which is also measured alone.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot be made ends the program")]
#![allow(clippy::print_stdout, reason = "the result is what it prints")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{
    Backend, Digest, PublicKey, Signature, Signer, SoftwareSigner, Verdict, VerifyItem,
    software_provider_with,
};
use hufu_hsm::agent::{Agent, AgentConfig, AgentSource, Endpoint};
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

/// The most that the agent may add at the median, spinning and parked, in nanoseconds.
const GATES: [(&str, u64); 2] = [("spinning", 15_000), ("parked", 60_000)];

fn main() -> ExitCode {
    if std::env::var(ROLE).is_ok() {
        return agent();
    }
    // Cargo hands its own words to a bench; they mean nothing here.
    let is_within = GATES.map(|(mode, gate)| measure(mode, gate));
    if is_within == [true; 2] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn measure(mode: &str, gate: u64) -> bool {
    pin(0);
    let program = std::env::current_exe().unwrap();
    let environment = vec![(ROLE.into(), "1".into())];
    let source = AgentSource::Start { program, arguments: Vec::new(), environment };
    let mut config = AgentConfig::new("bench", source);
    let spin = if mode == "parked" { Duration::ZERO } else { Duration::from_millis(5) };
    (config.spin, config.worker_spin) = (spin, spin);
    let (agent, _submitter) = Agent::start(config).unwrap();
    let client = agent.client();
    client.wait_ready(Nanos::MAX).unwrap();
    let key = client.open_key(&KeyReference::Index(1), Usage::Sign, Nanos::MAX).unwrap();
    let card = SigningCard("bench", Card::new());

    let digest = card.1.digest;
    let mut bytes = [0; 32];
    let mut signature = [Signature([0; 64])];
    let bare = quantiles(|| card.random(&mut bytes, Nanos::MAX).unwrap());
    let far = quantiles(|| client.random(&mut bytes, Nanos::MAX).unwrap());
    let here = quantiles(|| {
        card.sign_sm2(key, &[digest], &mut signature, Nanos::MAX).unwrap();
    });
    let there = quantiles(|| {
        client.sign_sm2(key, &[digest], &mut signature, Nanos::MAX).unwrap();
    });
    let provider = software_provider_with(Backend::best(), 0);
    let item = VerifyItem { key: &card.1.public, digest, signature: &signature[0] };
    let verified = quantiles(|| {
        assert_eq!(provider.verifier.verify(item), Verdict::Valid);
    });
    let added = far[0].saturating_sub(bare[0]);
    let micros = |nanos: u64| format!("{}.{:01}", nanos / 1_000, nanos % 1_000 / 100);
    println!("agent::call/mode={mode} calls={CALLS_COUNT} (us: p50 p99 p99.9)");
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
    println!(
        "  added at p50: {} us, at most {} us; with the second verification {} us",
        micros(added),
        micros(gate),
        micros(with_verification),
    );
    agent.stop().unwrap();
    added <= gate
}

/// p50, p99 and p99.9 in nanoseconds.
fn quantiles(mut call: impl FnMut()) -> [u64; 3] {
    let mut times: Vec<u64> = (0..CALLS_COUNT)
        .map(|_| {
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
