//! The sandbox around a real agent, in processes with one thread: this binary starts itself as the
//! node with a secret in its environment, and that starts it as the agent.
//!
//! It has a `main` of its own, because a test harness has threads, and the sandbox refuses them.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is its own harness")]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hufu_crypto::{Digest, PublicKey, Signature, Signer, SoftwareSigner};
use hufu_hsm::agent::sandbox::{SandboxConfig, enter};
use hufu_hsm::agent::{Agent, AgentClient, AgentConfig, AgentSource, Endpoint};
use hufu_hsm::{Error, KeyHandle, KeyReference, Keystore, Usage};
use hufu_runtime::clock::{self, Nanos};
use hufu_runtime::wake::Parker;

#[path = "double/signing.rs"]
mod signing;

use signing::{SigningCard, SignsOnly};

const ROLE: &str = "HUFU_TEST_ROLE";
const FOLDER: &str = "HUFU_TEST_FOLDER";
const PORT: &str = "HUFU_TEST_PORT";
const SECRET: &str = "HUFU_TEST_PIN";

/// What must be nowhere: planted in the node's environment and in the agent's memory.
const PLANTED: &str = "pin-31415926-planted";

/// Nobody, where the test runs as root.
const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Err(_) => run_as_node_with_a_secret(),
        Ok("node") => node(),
        Ok(role) => agent(role),
    }
}

fn run_as_node_with_a_secret() -> ExitCode {
    let mut node = Command::new(std::env::current_exe().unwrap());
    let status = node.env(ROLE, "node").env(SECRET, PLANTED).status().unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn patience() -> Nanos {
    clock::monotonic().after(Duration::from_secs(60))
}

fn is_root() -> bool {
    status_field("Uid:").split_whitespace().next() == Some("0")
}

fn status_field(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

fn node() -> ExitCode {
    serves_in_its_sandbox();
    println!("test serves_in_its_sandbox ... ok");
    leaves_no_core_file();
    println!("test leaves_no_core_file ... ok");
    refuses_whom_no_node_started();
    println!("test refuses_whom_no_node_started ... ok");
    ExitCode::SUCCESS
}

/// An agent started through a shell that would let it dump its core into `folder`.
fn config(role: &str, folder: &Path, port: u16) -> AgentConfig {
    let exe = std::env::current_exe().unwrap();
    let script = "ulimit -c unlimited; cd \"$1\" && exec \"$0\"";
    let arguments = [Path::new("-c"), Path::new(script), &exe, folder];
    let arguments = arguments.map(|part| part.as_os_str().to_owned()).to_vec();
    let set = |name: &str, value: &str| (name.into(), value.into());
    let environment = vec![
        set(ROLE, role),
        set(FOLDER, folder.to_str().unwrap()),
        set(PORT, &port.to_string()),
        set("TZ", "UTC"),
        set("LD_PRELOAD", ""),
    ];
    let program = PathBuf::from("/bin/sh");
    AgentConfig::new("test", AgentSource::Start { program, arguments, environment })
}

fn open(client: &AgentClient) -> KeyHandle {
    client.wait_ready(patience()).unwrap();
    client.open_key(&KeyReference::Index(1), Usage::Sign, patience()).unwrap()
}

fn serves_in_its_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    // The agent becomes nobody, who must get as far as the folder's files by their own modes.
    for (name, mode) in [("", 0o777), ("kept", 0o777)] {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(folder.path().join("unnamed"), b"others may read this").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (agent, _submitter) = Agent::start(config("boxed", folder.path(), port)).unwrap();
    let client = agent.client();
    let key = open(client);
    let mut signature = [Signature([0; 64])];
    client.sign_sm2(key, &[Digest([5; 32])], &mut signature, patience()).unwrap();

    let status = client.status();
    let notes = status.notes.join("\n");
    println!("{notes}");
    assert!(!notes.contains("ALLOWED"), "a probe got through:\n{notes}");
    for probe in PROBES {
        assert!(notes.contains(&format!("probe {probe}: ")), "{probe} was not tried:\n{notes}");
    }
    let process = status.process.unwrap();
    let environment = fs::read(format!("/proc/{process}/environ"));
    for (what, bytes) in
        [("environ", environment), ("cmdline", fs::read(format!("/proc/{process}/cmdline")))]
    {
        match bytes {
            Ok(bytes) => assert!(!holds(&bytes, PLANTED.as_bytes()), "planted in {what}"),
            // Not even the same user may look: it is not dumpable.
            Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
        }
    }
    let ours = fs::read("/proc/self/environ").unwrap();
    assert!(holds(&ours, PLANTED.as_bytes()), "it was there to be found");
    let written = folder.path().join("kept/made");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(written).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    agent.stop().unwrap();
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn leaves_no_core_file() {
    let cores = |role: &str| {
        let folder = tempfile::tempdir().unwrap();
        let (agent, _submitter) = Agent::start(config(role, folder.path(), 1)).unwrap();
        let client = agent.client();
        let key = open(client);
        // It dies with the planted secret in its memory.
        let died =
            client.sign_sm2(key, &[Digest([0xdd; 32])], &mut [Signature([0; 64])], patience());
        assert!(matches!(died, Err(Error::Agent { .. })), "{died:?}");
        let end = patience();
        while client.status().starts_count < 2 {
            assert!(clock::monotonic() < end, "it was not started again");
            let step = clock::monotonic().after(Duration::from_millis(2));
            Parker::new().unwrap().wait_until(Some(step), || false).unwrap();
        }
        agent.stop().unwrap();
        let files = fs::read_dir(folder.path()).unwrap();
        let named = |file: io::Result<fs::DirEntry>| file.unwrap().file_name();
        files.map(named).filter(|name| name.to_string_lossy().starts_with("core")).count()
    };
    assert_eq!(cores("dies"), 0);
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.trim() == "core" {
        assert_eq!(cores("dies-unboxed"), 1, "without the sandbox there is one to be found");
    }
}

fn refuses_whom_no_node_started() {
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent.env(ROLE, "dies").stdin(std::process::Stdio::null());
    let output = agent.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("started by a node"), "{told}");
}

fn agent(role: &str) -> ExitCode {
    match serve(role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(role: &str) -> Result<(), Error> {
    let endpoint = Endpoint::inherited()?;
    let folder = PathBuf::from(std::env::var(FOLDER).unwrap_or_default());
    let port = std::env::var(PORT).unwrap_or_default().parse().unwrap_or(0);
    let config = SandboxConfig {
        user: (is_root() && role == "boxed").then_some((NOBODY, NOBODY)),
        writable: vec![folder.join("kept")],
        ..SandboxConfig::default()
    };
    let mut notes = Vec::new();
    if role != "dies-unboxed" {
        notes = enter(&config, Some(endpoint.node()))?.lines();
    }
    if role == "boxed" {
        notes.extend(probe(&endpoint, &folder, port));
    }
    let card = Card {
        signer: Mutex::new(SoftwareSigner::from_bytes(&[7; 32]).unwrap()),
        pin: Mutex::new(PLANTED.to_owned()),
    };
    let card: Arc<dyn Keystore> = Arc::new(SigningCard("boxed", card));
    endpoint.serve(&card, 2, notes).map(drop)
}

const PROBES: &[&str] = &[
    "unnamed file",
    "new file",
    "kept file",
    "node's environment",
    "node's memory",
    "port",
    "program",
    "chroot",
    "environment",
    "state",
];

/// Tries what a library must not be able to do.
fn probe(endpoint: &Endpoint, folder: &Path, port: u16) -> Vec<String> {
    let node = endpoint.node();
    let denied = |what: &str, tried: io::Result<()>| match tried {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            format!("probe {what}: refused")
        }
        other => format!("probe {what}: ALLOWED {other:?}"),
    };
    let read = |path: PathBuf| File::open(path).and_then(|mut file| file.read(&mut [0]).map(drop));
    let mut found = vec![
        denied("unnamed file", read(folder.join("unnamed"))),
        denied("new file", File::create(folder.join("new")).map(drop)),
        denied("node's environment", read(format!("/proc/{node}/environ").into())),
        denied("node's memory", read(format!("/proc/{node}/mem").into())),
        denied("port", TcpStream::connect(("127.0.0.1", port)).map(drop)),
        denied("chroot", std::os::unix::fs::chroot("/")),
    ];
    found.push(match fs::write(folder.join("kept/made"), b"x") {
        Ok(()) => "probe kept file: written".to_owned(),
        Err(error) => format!("probe kept file: REFUSED, so ALLOWED nothing: {error}"),
    });
    // A program is another process, so that only that one is ended.
    found.push(match Command::new("/bin/true").status() {
        Ok(status) if status.signal() == Some(31) => "probe program: ended by SIGSYS".to_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            "probe program: refused".to_owned()
        }
        other => format!("probe program: ALLOWED {other:?}"),
    });
    let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
    found.push(match names.as_slice() {
        [name] if name == "TZ" => "probe environment: clean".to_owned(),
        other => format!("probe environment: ALLOWED {other:?}"),
    });
    let state = ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"].map(status_field).join(" ");
    let flags = ["NoNewPrivs:", "Seccomp:", "Threads:"].map(status_field).join(" ");
    let nothing = state.chars().all(|letter| letter == '0' || letter == ' ');
    let is_so = nothing && flags == "1 2 1" && !is_root();
    found.push(format!("probe state: {} {flags}", if is_so { "right" } else { "ALLOWED" }));
    found
}

/// Signs, and dies on one digest.
struct Card {
    signer: Mutex<SoftwareSigner>,
    pin: Mutex<String>,
}

impl SignsOnly for Card {
    fn public(&self) -> PublicKey {
        *self.signer.lock().unwrap().public_key()
    }

    fn sign(&self, digests: &[Digest], signatures: &mut [Signature]) {
        if digests[0].0[0] == 0xdd {
            assert_eq!(self.pin.lock().unwrap().len(), PLANTED.len());
            std::process::abort();
        }
        self.signer.lock().unwrap().sign_many(digests, signatures).unwrap();
    }
}
