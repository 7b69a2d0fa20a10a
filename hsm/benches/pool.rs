//! What the pool costs: signatures through it beside a bare loop of `C_SignInit` and `C_Sign`.
//!
//! ```text
//! main --process of its own for each token--> rounds: bare, pooled, bare, ... -> median of ratios
//! ```
//!
//! Both loops run on one thread, on the same key of the same token, in turns of the same run, so
//! that their ratio means something on a shared machine. Verification in software is part of
//! neither. Two threads at once are shown as a multiple of one. SoftHSM2 signs with ECDSA P-256;
//! the soft token, where `HUFU_SOFTTOKEN` names its library, with SM2 in the codes of one vendor.
//! `--gate` fails above 5 %.

#![allow(clippy::print_stdout, reason = "a benchmark tells its figures")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use cryptoki_sys as ck;
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::{Attribute, CallStyle, Library, Mechanism, Unload, User};
use hufu_hsm::pool::{
    CardPool, KeyObjects, Operation, Pool, PoolOptions, TokenOptions, TokenSelector, TokenSource,
};
use hufu_hsm::{KeyHandle, KeyReference};
use hufu_runtime::clock::monotonic;

/// Most the pool may add to a signature, in thousandths.
const GATE_PERMILLE: u64 = 50;

const ROUNDS: usize = 41;

/// One turn of one loop.
const TURN: Duration = Duration::from_millis(20);

const PIN: &[u8] = b"12345678";
const LABEL: &str = "bench";

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A token and how it signs.
struct Case {
    name: &'static str,
    /// Where its library may be.
    modules: Vec<PathBuf>,
    /// The variable that names its configuration.
    variable: &'static str,
    configuration: fn(&Path) -> String,
    generate: u64,
    sign: u64,
    curve: &'static [u8],
}

fn cases() -> [Case; 2] {
    let softhsm = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
    ];
    [
        Case {
            name: "token=softhsm2 mechanism=ecdsa_p256",
            modules: softhsm.iter().map(PathBuf::from).collect(),
            variable: "SOFTHSM2_CONF",
            configuration: |store| format!("directories.tokendir = {}\n", store.display()),
            generate: ck::CKM_EC_KEY_PAIR_GEN,
            sign: ck::CKM_ECDSA,
            curve: &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        },
        Case {
            name: "token=softtoken mechanism=sm2",
            modules: std::env::var_os("HUFU_SOFTTOKEN").map(PathBuf::from).into_iter().collect(),
            variable: "HUFU_SOFTTOKEN_CONF",
            configuration: |store| {
                format!(
                    "store = {:?}\nimitation = \"sansec\"\npin_rounds = 1000\n",
                    store.display().to_string()
                )
            },
            generate: 0x8000_8001,
            sign: 0x8000_8105,
            curve: &[0x06, 0x08, 0x2a, 0x81, 0x1c, 0xcf, 0x55, 0x01, 0x82, 0x2d],
        },
    ]
}

fn main() -> Outcome<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let is_gate = arguments.iter().any(|argument| argument == "--gate");
    if let Some(index) = arguments.iter().position(|argument| argument == "--case") {
        let name = arguments.get(index + 1).ok_or("--case wants a name")?;
        let case = cases().into_iter().find(|case| case.name == *name).ok_or("no such case")?;
        let module = case.modules.iter().find(|path| path.exists()).ok_or("no library")?;
        let added = measure(&case, module)?;
        let is_good = !is_gate || added <= GATE_PERMILLE;
        return Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let titles = ["bare ns", "pooled ns", "added", "two at once"];
    print!("{:<40} {:>12} {:>12}", "hsm::pool_sign/", titles[0], titles[1]);
    println!(" {:>8} {:>12}", titles[2], titles[3]);
    let mut is_good = true;
    for case in cases() {
        if !case.modules.iter().any(|path| path.exists()) {
            println!("{:<40} skipped: its library is not there", case.name);
            continue;
        }
        is_good &= run(&case, is_gate)?;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one case in a process that knows the token's configuration from its start.
fn run(case: &Case, is_gate: bool) -> Outcome<bool> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("tokens");
    std::fs::create_dir(&store)?;
    let configuration = folder.path().join("token.conf");
    std::fs::write(&configuration, (case.configuration)(&store))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--case", case.name]).env(case.variable, configuration);
    if is_gate {
        command.arg("--gate");
    }
    Ok(command.status()?.success())
}

fn measure(case: &Case, module: &Path) -> Outcome<u64> {
    let pin = || Pin::from_reader(PIN, "benchmark");
    make_key(case, module)?;
    let token = TokenOptions {
        library: module.to_owned(),
        token: TokenSelector::Label(LABEL.to_owned()),
        is_read_write: false,
        call_style: CallStyle::OneCall,
        unload: Unload::Unmap,
        sessions_max: None,
    };
    let pool = Pool::new(TokenSource::new(token, Some(pin()?)), PoolOptions::default());
    pool.warm_up(1, monotonic().after(Duration::from_secs(10)))?;
    let bare = Bare::open(module, case.sign)?;
    let (mut bare_nanos, mut pooled_nanos, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let one = turn(|| bare.sign())?;
        let other = turn(|| pooled(&pool, case.sign))?;
        added.push(other.saturating_sub(one) * 1_000 / one.max(1));
        bare_nanos.push(one);
        pooled_nanos.push(other);
    }
    let (bare_nanos, pooled_nanos) = (median(&mut bare_nanos), median(&mut pooled_nanos));
    let added = median(&mut added);
    let percent = format!("{}.{} %", added / 10, added % 10);
    let scale = two_at_once(&pool, case.sign)?;
    let scale = format!("{}.{:02} x", scale / 100, scale % 100);
    println!("{:<40} {bare_nanos:>12} {pooled_nanos:>12} {percent:>8} {scale:>12}", case.name);
    Ok(added)
}

/// Signatures of two threads in the time of those of one, in hundredths; it says something where
/// two cores are free.
fn two_at_once(pool: &CardPool, sign: u64) -> Outcome<u64> {
    let one_turn = || turn(|| pooled(pool, sign)).map_err(|error| error.to_string());
    let mut scales = Vec::new();
    for _ in 0..ROUNDS / 2 {
        let alone = one_turn()?;
        let together = std::thread::scope(|scope| {
            let other = scope.spawn(one_turn);
            Ok::<_, String>([one_turn()?, other.join().map_err(|_| "a thread panicked")??])
        })?;
        scales.push(together.iter().map(|nanos| alone * 100 / nanos).sum());
    }
    Ok(median(&mut scales))
}

/// Initialises the first token and makes a pair in it.
fn make_key(case: &Case, module: &Path) -> Outcome<()> {
    let pin = Pin::from_reader(PIN, "benchmark")?;
    let library = Library::load(module)?;
    let free = *library.slots()?.first().ok_or("no slot")?;
    library.init_token(free, &pin, LABEL)?;
    let slot = slot(&library)?;
    let session = library.open_session(slot, true)?;
    session.login(User::SecurityOfficer, &pin)?;
    session.init_pin(&pin)?;
    session.logout()?;
    session.login(User::User, &pin)?;
    let public = [
        Attribute::bool(ck::CKA_TOKEN, true),
        Attribute::bool(ck::CKA_VERIFY, true),
        Attribute::bytes(ck::CKA_EC_PARAMS, case.curve),
        Attribute::text(ck::CKA_LABEL, LABEL),
    ];
    let private = [
        Attribute::bool(ck::CKA_TOKEN, true),
        Attribute::bool(ck::CKA_PRIVATE, true),
        Attribute::bool(ck::CKA_SIGN, true),
        Attribute::bool(ck::CKA_SENSITIVE, true),
        Attribute::text(ck::CKA_LABEL, LABEL),
    ];
    session.generate_key_pair(&Mechanism::bare(case.generate), &public, &private)?;
    Ok(())
}

fn slot(library: &Library) -> Outcome<u64> {
    let slots = library.slots()?;
    let is_ours = |slot: &&u64| library.token_info(**slot).is_ok_and(|token| token.label == LABEL);
    Ok(*slots.iter().find(is_ours).ok_or("the token is gone")?)
}

/// Nanoseconds of one signature, by a turn of them.
fn turn(mut sign: impl FnMut() -> Outcome<()>) -> Outcome<u64> {
    let started = monotonic();
    let mut count = 0;
    loop {
        for _ in 0..16 {
            sign()?;
        }
        count += 16;
        let nanos = monotonic().since(started);
        if u128::from(nanos) >= TURN.as_nanos() {
            return Ok(nanos / count);
        }
    }
}

fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// One signature as the node asks for it: a session, the key's handle, the call.
fn pooled(pool: &CardPool, sign: u64) -> Outcome<()> {
    let deadline = monotonic().after(Duration::from_secs(10));
    let mechanism = Mechanism::bare(sign);
    pool.with_session_for(Operation::Sign, deadline, |session, handles| {
        let key = handles.get_or_find(KeyHandle(0), || {
            let found = session.find(&private_key(), 2)?;
            let missing = || hufu_hsm::Error::KeyMissing { key: KeyReference::Label(LABEL.into()) };
            let key = *found.first().ok_or_else(missing)?;
            Ok(KeyObjects { key, public: None })
        })?;
        session.sign(&mechanism, key.key, &[7; 32], &mut [0; 64]).map(|_size| ())
    })?;
    Ok(())
}

fn private_key() -> [Attribute; 2] {
    [Attribute::number(ck::CKA_CLASS, ck::CKO_PRIVATE_KEY), Attribute::text(ck::CKA_LABEL, LABEL)]
}

/// The loop that a program without this layer would write.
struct Bare {
    library: ck::Pkcs11,
    session: ck::CK_SESSION_HANDLE,
    key: ck::CK_OBJECT_HANDLE,
    mechanism: u64,
}

impl Bare {
    /// The pool has initialised the library and logged in, which holds for the whole process.
    fn open(module: &Path, mechanism: u64) -> Outcome<Self> {
        let ours = Library::load(module)?;
        let slot = slot(&ours)?;
        let session = ours.open_session(slot, false)?;
        let key = *session.find(&private_key(), 1)?.first().ok_or("the key is gone")?;
        // SAFETY: the library is loaded and in order already; this takes its functions once more.
        let library = unsafe { ck::Pkcs11::new(module) }?;
        let mut session = ck::CK_INVALID_HANDLE;
        let flags = ck::CKF_SERIAL_SESSION;
        let nothing = std::ptr::null_mut();
        // SAFETY: the place for the answer is on this stack; no callback is given.
        let rv = unsafe { library.C_OpenSession(slot, flags, nothing, None, &raw mut session) };
        if rv != ck::CKR_OK {
            return Err(format!("C_OpenSession gave {rv:#x}").into());
        }
        Ok(Self { library, session, key, mechanism })
    }

    fn sign(&self) -> Outcome<()> {
        let mut mechanism = ck::CK_MECHANISM {
            mechanism: self.mechanism,
            pParameter: std::ptr::null_mut(),
            ulParameterLen: 0,
        };
        // SAFETY: the mechanism is on this stack and has no parameter.
        let rv = unsafe { self.library.C_SignInit(self.session, &raw mut mechanism, self.key) };
        if rv != ck::CKR_OK {
            return Err(format!("C_SignInit gave {rv:#x}").into());
        }
        let (mut digest, mut signature, mut size) = ([7; 32], [0; 64], 64);
        let (data, place) = (digest.as_mut_ptr(), signature.as_mut_ptr());
        // SAFETY: digest, signature and the place for the length are on this stack.
        let rv = unsafe { self.library.C_Sign(self.session, data, 32, place, &raw mut size) };
        if rv == ck::CKR_OK { Ok(()) } else { Err(format!("C_Sign gave {rv:#x}").into()) }
    }
}
