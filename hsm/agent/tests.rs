//! Node and agent in real processes: the test binary starts itself as the agent.

mod card;
mod expected;
mod rogue;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hufu_crypto::{
    Backend, Digest, Drbg, Signature, Verdict, VerifyItem, encryption, entropy, software_provider,
};
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::wake::Parker;

use super::protocol::Message;
use super::*;
use crate::error::{Error, ErrorClass, TriesLeft};
use crate::keystore::{KeyHandle, KeyReference, Keystore, Usage, WRAPPED_BYTES_MAX};
use card::SoftCard;

const MODE: &str = "HUFU_TEST_AGENT";
const ROLE: &str = "HUFU_TEST_NODE";

/// Against hangs only: nothing here waits for a time.
const PATIENCE: Duration = Duration::from_secs(60);

fn patience() -> Nanos {
    clock::monotonic().after(PATIENCE)
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = patience();
    let mut parker = Parker::new().unwrap();
    while !is_so() {
        assert!(clock::monotonic() < end, "never: {what}");
        parker
            .wait_until(Some(clock::monotonic().after(Duration::from_millis(1))), || false)
            .unwrap();
    }
}

fn arguments(entry: &str) -> Vec<OsString> {
    let entry = format!("agent::tests::{entry}");
    ["--exact", &entry, "--nocapture", "--test-threads=1", "-q"].map(OsString::from).to_vec()
}

/// An agent in one of the modes of [`as_agent`], with little patience.
fn config(mode: &str) -> AgentConfig {
    let program = std::env::current_exe().unwrap();
    let arguments = arguments("as_agent");
    let environment = vec![(MODE.into(), mode.into())];
    let source = AgentSource::Start { program, arguments, environment };
    let mut config = AgentConfig::new("test", source);
    config.grace = Duration::from_millis(300);
    config.restart_wait_min = Duration::from_millis(5);
    config.restart_wait_max = Duration::from_millis(20);
    config
}

fn start(mode: &str) -> (Agent, Submitter) {
    start_with(config(mode))
}

fn start_with(config: AgentConfig) -> (Agent, Submitter) {
    let (agent, submitter) = Agent::start(config).unwrap();
    agent.client().wait_ready(patience()).unwrap();
    (agent, submitter)
}

fn label(label: &str) -> KeyReference {
    KeyReference::Label(label.to_owned())
}

fn digest(text: &str, number: u32) -> Digest {
    let mut digest = Digest::ZERO;
    digest.0[..text.len()].copy_from_slice(text.as_bytes());
    digest.0[28..].copy_from_slice(&number.to_le_bytes());
    digest
}

fn sign(client: &AgentClient, key: KeyHandle, digest: &Digest) -> Result<Signature, Error> {
    let mut signature = [Signature([0; 64])];
    client.sign_sm2(key, &[*digest], &mut signature, patience()).map(|()| signature[0])
}

fn open(client: &AgentClient) -> KeyHandle {
    client.open_key(&label("sign-1"), Usage::Sign, patience()).unwrap()
}

/// Signs until an agent is in service again.
fn sign_again(client: &AgentClient, key: KeyHandle) {
    client.wait_ready(patience()).unwrap();
    let digest = digest("again", 1);
    let signature = sign(client, key, &digest).unwrap();
    verifies(client, key, &digest, &signature);
}

fn verifies(client: &AgentClient, key: KeyHandle, digest: &Digest, signature: &Signature) {
    let public = client.public_key(key).unwrap();
    let item = VerifyItem { key: &public, digest: *digest, signature };
    assert_eq!(software_provider().verifier.verify(item), Verdict::Valid);
}

/// Not a test of its own: what the agent's process runs.
#[test]
fn as_agent() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let ended = run_agent(&mode);
    std::process::exit(i32::from(ended.is_err()));
}

fn run_agent(mode: &str) -> Result<(), Error> {
    if let Some(path) = mode.strip_prefix("listen:") {
        let listener = Listener::bind(Path::new(path))?;
        let card: Arc<dyn Keystore> = Arc::new(SoftCard::new(""));
        loop {
            let _end: ServeEnd = listener.accept(os::user())?.serve(&card, 3, Vec::new())?;
        }
    }
    let endpoint = Endpoint::inherited()?;
    assert_eq!(endpoint.node(), std::os::unix::process::parent_id());
    match mode.split_once(':').unwrap_or((mode, "")) {
        ("soft", card) => {
            endpoint.logs_in()?;
            let card: Arc<dyn Keystore> = Arc::new(SoftCard::new(card));
            endpoint.serve(&card, 3, vec!["not boxed in".to_owned()]).map(drop)
        }
        ("pin", _) => {
            endpoint.refuse(&Error::PinRefused { rv: crate::Rv(0xa0), tries_left: TriesLeft::One })
        }
        ("absent", _) => endpoint
            .refuse(&Error::TokenMissing { wanted: "serial 1".into(), found: "nothing".into() }),
        ("lost", marker) => {
            // Away the second and the third time.
            let starts_count = std::fs::read(marker).map_or(0, |bytes| bytes.len());
            std::fs::write(marker, vec![0; starts_count + 1]).unwrap();
            if (1..=2).contains(&starts_count) {
                let (wanted, found) = ("serial 1".into(), "nothing".into());
                return endpoint.refuse(&Error::TokenMissing { wanted, found });
            }
            let card: Arc<dyn Keystore> = Arc::new(SoftCard::new(""));
            endpoint.serve(&card, 3, Vec::new()).map(drop)
        }
        ("throttled", _) => endpoint.refuse(&Error::QueueFull { waiting_count: 1 }),
        ("crash", _) => std::process::abort(),
        ("loud", _) => {
            eprintln!("2026-01-01T00:00:00Z ERROR a line that no node wrote");
            endpoint.serve(&(Arc::new(SoftCard::new("")) as Arc<dyn Keystore>), 1, Vec::new())?;
            Ok(())
        }
        ("login", how) => log_in(&endpoint, how),
        ("rogue", how) => rogue::run(&endpoint, how),
        _ => panic!("mode {mode}"),
    }
}

/// An agent that ends while it tries the PIN, at once or after it has served once.
fn log_in(endpoint: &Endpoint, how: &str) -> Result<(), Error> {
    endpoint.logs_in()?;
    let (how, marker) = how.split_once('@').unwrap_or((how, ""));
    match how {
        "hangs" => loop {
            Parker::new().unwrap().wait_until(None, || false).unwrap();
        },
        "closes" => os::shut(endpoint.socket.as_fd()),
        "twice" => endpoint.logs_in()?,
        "later" if !Path::new(marker).exists() => {
            std::fs::write(marker, b"x").unwrap();
            let identity = SoftCard::new("").identity(Nanos::MAX)?;
            let hello = Message::Hello { workers_count: 1, identity, notes: Vec::new() };
            os::send(endpoint.socket.as_fd(), &hello.to_bytes(), &[]).unwrap();
        }
        _ => {}
    }
    std::process::abort()
}

#[test]
fn an_agent_that_ends_while_it_tries_a_pin_is_not_followed_by_another_attempt() {
    for (how, words) in [
        ("dies", "signal: 6"),
        ("hangs", "not ready"),
        ("closes", "signal: 6"),
        ("twice", "out of turn"),
    ] {
        let mut config = config(&format!("login:{how}"));
        config.start_time = Duration::from_millis(700);
        let (agent, _submitter) = Agent::start(config).unwrap();
        let client = agent.client().clone();
        let error = client.wait_ready(patience()).unwrap_err();
        assert!(
            matches!(&error, Error::PinUnanswered { reason } if reason.contains(words)),
            "{error}"
        );
        assert_eq!(error.class(), ErrorClass::Permanent);
        let mut parker = Parker::new().unwrap();
        let later = clock::monotonic().after(Duration::from_millis(300));
        parker.wait_until(Some(later), || client.status().starts_count > 1).unwrap();
        let status = client.status();
        assert_eq!((status.state, status.starts_count), (AgentState::Refused, 1), "{how}");
        agent.stop().unwrap();
        assert_eq!(client.status().state, AgentState::Stopped);
    }
    // A PIN that worked once is right, whatever ends the agents that come later.
    let folder = tempfile::tempdir().unwrap();
    let mode = format!("login:later@{}", folder.path().join("once").display());
    let (agent, _submitter) = Agent::start(config(&mode)).unwrap();
    until("several starts", || agent.client().status().starts_count >= 4);
    agent.stop().unwrap();
}

#[test]
fn the_kernel_ends_an_agent_before_its_node_where_memory_is_short() {
    let (agent, _submitter) = start("soft");
    let points = |process: String| -> i32 {
        let text = std::fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    let process = agent.client().status().process.unwrap().to_string();
    assert_eq!(points(process), (points("self".to_owned()) + 500).min(1_000));
    agent.stop().unwrap();
}

#[test]
fn an_agent_has_no_hold_of_its_node_s_log() {
    let output = node("loud").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the node's own line") && !said.contains("no node wrote"), "{said}");
}

fn node_with_a_loud_agent() {
    eprintln!("the node's own line");
    let (agent, _submitter) = start("loud");
    open(agent.client());
    agent.stop().unwrap();
}

#[test]
fn every_call_goes_through() {
    let (agent, _submitter) = start("soft");
    let client = agent.client();
    let direct = SoftCard::new("");
    assert_eq!(client.identity(patience()).unwrap(), direct.identity(patience()).unwrap());
    let status = client.status();
    assert_eq!((status.state, status.workers_count), (AgentState::Serving, 3));
    assert_eq!((status.starts_count, status.notes), (1, vec!["not boxed in".to_owned()]));

    let key = open(client);
    assert_eq!(open(client), key, "the same key has one handle");
    let digests: Vec<Digest> = (0..64).map(|number| digest("many", number)).collect();
    for count in [1, 2, 63, 64] {
        let mut signatures = vec![Signature([0; 64]); count];
        client.sign_sm2(key, &digests[..count], &mut signatures, patience()).unwrap();
        for (digest, signature) in digests.iter().zip(&signatures) {
            verifies(client, key, digest, signature);
        }
    }
    client.sign_sm2(key, &[], &mut [], patience()).unwrap();

    let pair = client.open_key(&KeyReference::Index(7), Usage::Decrypt, patience()).unwrap();
    let public = client.public_key(pair).unwrap();
    for size in [1, 4_000, 4_096] {
        let text = vec![0xa7; size];
        let sealed = encrypted(&public, &text);
        let mut found = vec![0; size];
        let count = client.sm2_decrypt(pair, &sealed, &mut found, patience()).unwrap();
        assert!(count == size && found == text, "{size} bytes");
    }
    let wrapping = client.open_key(&KeyReference::Id(vec![9]), Usage::Wrap, patience()).unwrap();
    assert!(matches!(client.public_key(wrapping), Err(Error::KeyUnsuitable { .. })));
    let (mut wrapped, mut secret) = ([0; WRAPPED_BYTES_MAX], [0; 32]);
    let size = client.wrap(wrapping, &[0x5c; 32], &mut wrapped, patience()).unwrap();
    client.unwrap(wrapping, &wrapped[..size], &mut secret, patience()).unwrap();
    assert_eq!(secret, [0x5c; 32]);
    let mut random = [0; 4_096];
    client.random(&mut random, patience()).unwrap();
    assert!(random.iter().any(|byte| *byte != 0));
    client.random(&mut [], patience()).unwrap();
    agent.stop().unwrap();
}

fn encrypted(public: &hufu_crypto::PublicKey, text: &[u8]) -> Vec<u8> {
    let mut generator = Drbg::new(entropy::system(), "test").unwrap();
    let sealed = encryption::encrypt(Backend::best(), &mut generator, public, text).unwrap();
    sealed.to_bytes()
}

#[test]
fn errors_of_the_card_come_over_whole() {
    let (agent, _submitter) = start("soft");
    let client = agent.client();
    let missing = client.open_key(&label("nobody's"), Usage::Sign, patience()).unwrap_err();
    assert_eq!(missing.to_string(), Error::KeyMissing { key: label("nobody's") }.to_string());
    let unknown = sign(client, KeyHandle(77), &Digest::ZERO).unwrap_err();
    assert!(matches!(unknown, Error::HandleUnknown(77)), "{unknown}");
    let key = open(client);
    let error = sign(client, key, &digest("RV", 0xe0)).unwrap_err();
    let Error::Call { function: "C_Sign", rv, class } = error else { panic!("{error}") };
    assert_eq!((rv.0, class), (0xe0, ErrorClass::TokenLost));
    let wrapping = client.open_key(&KeyReference::Id(vec![9]), Usage::Wrap, patience()).unwrap();
    let refused = client.unwrap(wrapping, &[1; 64], &mut [0; 32], patience()).unwrap_err();
    assert!(matches!(refused, Error::Refused { what: "wrapped secret", .. }), "{refused}");
    let late = client.sign_sm2(key, &[Digest::ZERO], &mut [Signature([0; 64])], Nanos::ZERO);
    assert!(matches!(late, Err(Error::Deadline { .. })));
    assert_eq!(client.status().kills_count, 0, "an error is no reason to end an agent");
    agent.stop().unwrap();
}

#[test]
fn a_hundred_thousand_signatures_from_many_threads() {
    const THREADS: u32 = 5;
    const CALLS: u32 = 320;
    let (agent, mut submitter) = start("soft");
    let client = agent.client();
    let keys = [open(client), client.open_key(&label("sign-2"), Usage::Sign, patience()).unwrap()];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for call in 0..CALLS {
                    let key = keys[usize::try_from((call + thread) % 2).unwrap()];
                    let count = if call == 0 { 1 } else { 64 };
                    let digests: Vec<Digest> =
                        (0..count).map(|i| digest("bulk", thread << 24 | call << 8 | i)).collect();
                    let mut signatures = vec![Signature([0; 64]); digests.len()];
                    client.sign_sm2(key, &digests, &mut signatures, patience()).unwrap();
                    // `sign_sm2` has verified each; that they belong to the digests is the point.
                    verifies(client, key, &digests[0], &signatures[0]);
                }
            });
        }
        scope.spawn(move || sign_by_tickets(&mut submitter, keys[0], 2_000));
    });
    let status = client.status();
    assert_eq!((status.starts_count, status.kills_count, status.open_calls_count), (1, 0, 0));
    agent.stop().unwrap();
}

/// Signs by tickets as the tile does, sleeping on the wakers alone.
fn sign_by_tickets(submitter: &mut Submitter, key: KeyHandle, count: u64) {
    let (mut sent, mut seen) = (0, vec![false; usize::try_from(count).unwrap()]);
    let mut parker = Parker::new().unwrap();
    let end = patience();
    while seen.iter().any(|seen| !seen) {
        while sent < count {
            let number = u32::try_from(sent).unwrap();
            match submitter.submit(sent, key, &digest("ticket", number), patience()) {
                Ok(()) => sent += 1,
                Err(Full) => break,
            }
        }
        let got = submitter.poll(|ticket, signature| {
            signature.unwrap();
            let place = &mut seen[usize::try_from(ticket).unwrap()];
            assert!(!*place, "ticket {ticket} twice");
            *place = true;
        });
        assert!(clock::monotonic() < end, "tickets without an answer");
        if got == 0 {
            // Nothing but the agent's byte ends this sleep.
            parker.park(Some(end), |fds| submitter.poll_fds(fds)).unwrap();
        }
    }
    assert_eq!(submitter.open_count(), 0);
}

#[test]
fn an_agent_that_dies_fails_its_calls_and_comes_back() {
    let (agent, mut submitter) = start("soft");
    let client = agent.client();
    let key = open(client);
    let public = client.public_key(key).unwrap();
    let process = client.status().process.unwrap();
    std::thread::scope(|scope| {
        // Three workers: two are kept busy, the third dies in the library.
        let slow = scope.spawn(move || sign(client, key, &digest("HANG", 1)));
        until("it is in the library", || client.status().open_calls_count == 1);
        submitter.submit(1, key, &digest("HANG", 9), patience()).unwrap();
        let died = sign(client, key, &digest("DIE!", 0));
        for outcome in [slow.join().unwrap(), died] {
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::Agent { .. }), "{error}");
            assert_eq!(error.class(), ErrorClass::TokenLost);
        }
    });
    let mut outcome = None;
    until("the ticket's fate", || {
        submitter.poll(|_, signature| outcome = Some(signature));
        outcome.is_some()
    });
    assert!(matches!(outcome, Some(Err(Error::Agent { .. }))));
    sign_again(client, key);
    sign_by_tickets(&mut submitter, key, 10);
    let status = client.status();
    assert_ne!(status.process, Some(process));
    assert_eq!((status.starts_count, status.kills_count), (2, 0));
    assert!(status.last_failure.unwrap().contains("signal: 6"), "the abort is told");
    assert_eq!(client.public_key(key).unwrap(), public);
    agent.stop().unwrap();
}

#[test]
fn an_agent_that_hangs_is_killed_and_others_are_not_touched() {
    let (agent, _submitter) = start("soft");
    let (other, _other_submitter) = start("soft");
    let (client, beside) = (agent.client(), other.client());
    let (key, other_key) = (open(client), open(beside));
    let mut signature = [Signature([0; 64])];
    let deadline = clock::monotonic().after(Duration::from_millis(50));
    let late = client.sign_sm2(key, &[digest("HANG", 0)], &mut signature, deadline);
    assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
    // Until it is killed, the workers that do not hang serve on.
    sign(client, key, &digest("beside", 0)).unwrap();
    until("it is killed", || client.status().kills_count == 1);
    assert!(clock::monotonic() >= deadline.after(Duration::from_millis(300)), "grace was given");
    sign_again(client, key);
    assert!(client.status().last_failure.unwrap().contains("hangs"));
    sign_again(beside, other_key);
    assert_eq!((beside.status().starts_count, beside.status().kills_count), (1, 0));
    agent.stop().unwrap();
    other.stop().unwrap();
}

#[test]
fn a_stopped_process_is_noticed_by_its_heartbeat() {
    let mut config = config("soft");
    config.silence_time = Duration::from_millis(500);
    let (agent, _submitter) = start_with(config);
    let client = agent.client();
    let key = open(client);
    let process = client.status().process.unwrap().to_string();
    assert!(Command::new("kill").args(["-STOP", &process]).status().unwrap().success());
    until("it is killed", || client.status().kills_count == 1);
    sign_again(client, key);
    assert!(client.status().last_failure.unwrap().contains("silent"));
    agent.stop().unwrap();
}

#[test]
fn another_card_after_a_restart_is_refused() {
    for (mode, field) in
        [("soft:serial-changes", "token serial"), ("soft:key-changes", "public key")]
    {
        let folder = tempfile::tempdir().unwrap();
        let mode = format!("{mode}@{}", folder.path().join("once").display());
        let (agent, _submitter) = start(&mode);
        let client = agent.client();
        let key = open(client);
        sign(client, key, &digest("DIE!", 0)).unwrap_err();
        until("it is refused", || client.status().is_refused());
        let changed = sign(client, key, &digest("after", 0)).unwrap_err();
        let Error::CardChanged { field: found, .. } = &changed else { panic!("{changed}") };
        assert_eq!(*found, field);
        assert!(matches!(client.wait_ready(patience()), Err(Error::CardChanged { .. })));
        assert_eq!(client.status().starts_count, 2);
        agent.stop().unwrap();
    }
}

#[test]
fn a_key_that_is_gone_fails_only_its_users() {
    let folder = tempfile::tempdir().unwrap();
    let mode = format!("soft:key-goes@{}", folder.path().join("once").display());
    let (agent, _submitter) = start(&mode);
    let client = agent.client();
    let other = client.open_key(&label("sign-2"), Usage::Sign, patience()).unwrap();
    let key = open(client);
    sign(client, key, &digest("DIE!", 0)).unwrap_err();
    sign_again(client, other);
    assert!(matches!(sign(client, key, &Digest::ZERO), Err(Error::KeyMissing { .. })));
    agent.stop().unwrap();
}

#[test]
fn a_refused_pin_is_tried_once() {
    let (agent, _submitter) = Agent::start(config("pin")).unwrap();
    let client = agent.client();
    let error = client.wait_ready(patience()).unwrap_err();
    assert!(matches!(error, Error::PinRefused { tries_left: TriesLeft::One, .. }), "{error}");
    let error = client.open_key(&label("sign-1"), Usage::Sign, patience()).unwrap_err();
    assert!(matches!(error, Error::PinRefused { .. }), "{error}");
    let mut parker = Parker::new().unwrap();
    // Many times the longest wait for a restart.
    let later = clock::monotonic().after(Duration::from_millis(300));
    parker.wait_until(Some(later), || client.status().starts_count > 1).unwrap();
    let status = client.status();
    assert_eq!((status.state, status.starts_count, status.process), (AgentState::Refused, 1, None));
    agent.stop().unwrap();
}

#[test]
fn agents_that_never_serve_are_started_again_with_growing_waits() {
    for mode in ["throttled", "crash"] {
        let (agent, mut submitter) = Agent::start(config(mode)).unwrap();
        let client = agent.client();
        until("several starts", || client.status().starts_count >= 5);
        assert!(client.wait_ready(Nanos::ZERO).is_err());
        submitter.submit(5, KeyHandle(0), &Digest::ZERO, patience()).unwrap();
        let mut outcomes = Vec::new();
        assert_eq!(submitter.poll(|ticket, outcome| outcomes.push((ticket, outcome.is_err()))), 1);
        assert_eq!(outcomes, [(5, true)]);
        agent.stop().unwrap();
    }
    let mut nowhere = config("soft");
    let program = "/nonexistent/hufu".into();
    nowhere.source = AgentSource::Start { program, arguments: Vec::new(), environment: Vec::new() };
    let (agent, _submitter) = Agent::start(nowhere).unwrap();
    let told = || agent.client().wait_ready(Nanos::ZERO).unwrap_err().to_string();
    until("it is told", || told().contains("cannot be started"));
    agent.stop().unwrap();
}

#[test]
fn a_stop_answers_what_was_asked() {
    let (agent, _submitter) = start("soft");
    let client = agent.client().clone();
    let key = open(&client);
    let process = client.status().process.unwrap();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| sign(&client, key, &digest("SLOW", 1)));
        until("it is in the library", || client.status().open_calls_count == 1);
        agent.stop().unwrap();
        slow.join().unwrap().unwrap();
    });
    assert!(is_over(process));
    assert_eq!(client.status().state, AgentState::Stopped);
    assert!(matches!(sign(&client, key, &Digest::ZERO), Err(Error::Agent { .. })));
}

#[test]
fn an_agent_that_others_run_is_reached_by_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let run = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments("as_agent")).env(MODE, format!("listen:{}", path.display()));
        command.spawn().unwrap()
    };
    let reach = |user| {
        let mut config = config("");
        config.source = AgentSource::Connect { path: path.clone(), user };
        Agent::start(config).unwrap()
    };
    let mut first = run();
    let (agent, mut submitter) = reach(os::user());
    let client = agent.client();
    client.wait_ready(patience()).unwrap();
    let key = open(client);
    sign_by_tickets(&mut submitter, key, 10);
    assert_eq!(client.status().process, Some(first.id()));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| sign(client, key, &digest("HANG", 1)));
        until("it is in the library", || client.status().open_calls_count == 1);
        first.kill().unwrap();
        let error = slow.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Agent { .. }), "{error}");
    });
    first.wait().unwrap();
    // Its socket's file is left behind, and taken over.
    let mut second = run();
    sign_again(client, key);
    let (stranger, _submitter) = reach(os::user() + 1);
    let told = || stranger.client().wait_ready(Nanos::ZERO).unwrap_err().to_string();
    until("it is told", || told().contains("is of user"));
    stranger.stop().unwrap();
    agent.stop().unwrap();
    // A node that comes later finds the same agent with its card still open.
    let (agent, _submitter) = reach(os::user());
    let client = agent.client();
    client.wait_ready(patience()).unwrap();
    sign(client, open(client), &digest("later", 0)).unwrap();
    assert_eq!(client.status().process, Some(second.id()));
    agent.stop().unwrap();
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn a_request_that_is_too_old_never_reaches_the_library() {
    let mut config = config("soft");
    config.grace = Duration::from_secs(30);
    let (agent, _submitter) = start_with(config);
    let client = agent.client();
    let key = open(client);
    std::thread::scope(|scope| {
        let busy: Vec<_> =
            (0..3).map(|n| scope.spawn(move || sign(client, key, &digest("SLOW", n)))).collect();
        until("all workers are busy", || client.status().open_calls_count == 3);
        let soon = clock::monotonic().after(Duration::from_millis(20));
        let late = client.sign_sm2(key, &[digest("DIE!", 0)], &mut [Signature([0; 64])], soon);
        assert!(matches!(late, Err(Error::Deadline { .. })), "{late:?}");
        assert!(busy.into_iter().all(|busy| busy.join().unwrap().is_ok()));
    });
    for number in 0..10 {
        sign(client, key, &digest("after", number)).unwrap();
    }
    assert_eq!(client.status().starts_count, 1, "the library would have died of it");
    agent.stop().unwrap();
}

#[test]
fn callers_and_the_tile_have_slots_of_their_own() {
    let mut config = config("soft");
    (config.slots_count, config.reserved_count) = (4, 2);
    let (agent, mut submitter) = start_with(config);
    let client = agent.client();
    let key = open(client);
    std::thread::scope(|scope| {
        let busy: Vec<_> =
            (0..2).map(|n| scope.spawn(move || sign(client, key, &digest("SLOW", n)))).collect();
        until("both are under way", || client.status().open_calls_count == 2);
        let full = sign(client, key, &Digest::ZERO).unwrap_err();
        assert!(matches!(full, Error::QueueFull { waiting_count: 2 }), "{full}");
        for ticket in 0..2 {
            submitter.submit(ticket, key, &digest("tile", 0), patience()).unwrap();
        }
        assert_eq!(submitter.submit(2, key, &Digest::ZERO, patience()), Err(Full));
        assert!(busy.into_iter().all(|busy| busy.join().unwrap().is_ok()));
    });
    let mut count = 0;
    until("the tickets", || {
        count += submitter.poll(|_, signature| assert!(signature.is_ok()));
        count == 2
    });
    agent.stop().unwrap();
    let mut wrong = self::config("soft");
    wrong.reserved_count = wrong.slots_count;
    assert!(Agent::start(wrong).is_err());
}

/// Whether a process is gone, or waits only for its parent to notice.
fn is_over(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"));
    stat.map_or(true, |stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

/// Not a test of its own: a node in a process of its own.
#[test]
fn as_node() {
    match std::env::var(ROLE).as_deref() {
        Ok("leaks") => node_that_restarts(),
        Ok("orphans") => node_that_is_killed(),
        Ok("loud") => node_with_a_loud_agent(),
        _ => {}
    }
}

fn node(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments("as_node")).env(ROLE, role);
    command
}

#[test]
fn a_hundred_restarts_leak_nothing() {
    let output = node("leaks").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn node_that_restarts() {
    let entries = |path: &str| std::fs::read_dir(path).unwrap().count();
    let mappings = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().filter(|line| line.contains("memfd")).count()
    };
    let (agent, mut submitter) = start("soft");
    let client = agent.client();
    let key = open(client);
    let mut before = None;
    for round in 0..100_u64 {
        sign_again(client, key);
        // The tile lets go of the agent before with its next poll.
        assert_eq!(submitter.poll(|_, _| ()), 0);
        let now = (entries("/proc/self/fd"), entries("/proc/self/task"), mappings());
        assert_eq!(*before.get_or_insert(now), now, "in round {round}");
        assert_eq!(mappings(), 1);
        submitter.submit(round, key, &digest("DIE!", 0), patience()).unwrap();
        until("the ticket fails", || submitter.poll(|_, outcome| drop(outcome.unwrap_err())) == 1);
        until("its end is noticed", || {
            client.status().process.is_none() || client.status().starts_count > round + 1
        });
    }
    let held = client.clone();
    agent.stop().unwrap();
    drop(submitter);
    // The last restart may have been overtaken by the stop.
    assert!((100..=101).contains(&held.status().starts_count));
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    for task in tasks {
        let children = task.unwrap().path().join("children");
        assert_eq!(std::fs::read_to_string(children).unwrap_or_default(), "");
    }
}

#[test]
fn an_agent_dies_with_its_node() {
    use std::io::{BufRead, BufReader};
    let mut node = node("orphans").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    let told = lines.find_map(|line| line.unwrap().strip_prefix("agent ").map(str::to_owned));
    let agent: u32 = told.unwrap().parse().unwrap();
    assert!(!is_over(agent));
    node.kill().unwrap();
    node.wait().unwrap();
    until("the agent is gone", || is_over(agent));
}

fn node_that_is_killed() {
    let (agent, _submitter) = start("soft");
    let client = agent.client();
    let key = open(client);
    println!("\nagent {}", client.status().process.unwrap());
    drop(sign(client, key, &digest("HANG", 0)));
    panic!("the agent ended before its node");
}
