//! What the pool costs: signatures through it beside a bare loop of `C_SignInit` and `C_Sign`.
//!
//! ```text
//! main --process for each token--> turns: bare, pooled, bare, ... -> the best tenth of each
//! ```
//!
//! Both loops run on one thread, on the same key of the same token, in turns of the same run, and
//! are compared by the processor time they take, so that the ratio means something on a shared
//! machine. Verification in software is part of neither. Two threads at once are shown as a
//! multiple of one, by the wall clock: that needs two idle cores. SoftHSM2 signs with ECDSA P-256;
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
use hufu_runtime::process::thread_cpu_nanos;

/// Most the pool may add to a signature, in thousandths.
const GATE_PERMILLE: u64 = 50;

const ROUNDS: usize = 301;

/// One turn of one loop: short, so that other work of the host leaves some of them alone.
const TURN: Duration = Duration::from_millis(4);

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
    let (mut bare_nanos, mut pooled_nanos) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare_nanos.push(turn(work, || bare.sign())?);
        pooled_nanos.push(turn(work, || pooled(&pool, case.sign))?);
    }
    let (bare_nanos, pooled_nanos) = (best(&mut bare_nanos), best(&mut pooled_nanos));
    let added = pooled_nanos.saturating_sub(bare_nanos) * 1_000 / bare_nanos.max(1);
    let percent = format!("{}.{} %", added / 10, added % 10);
    let scale = two_at_once(&pool, case.sign)?;
    let scale = format!("{}.{:02} x", scale / 100, scale % 100);
    println!("{:<40} {bare_nanos:>12} {pooled_nanos:>12} {percent:>8} {scale:>12}", case.name);
    Ok(added)
}

/// Signatures of two threads in the time of those of one, in hundredths; it says something where
/// two cores are free.
fn two_at_once(pool: &CardPool, sign: u64) -> Outcome<u64> {
    let one_turn = || turn(wall, || pooled(pool, sign)).map_err(|error| error.to_string());
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS / 3 {
        alone.push(one_turn()?);
        let [one, other] = std::thread::scope(|scope| {
            let other = scope.spawn(one_turn);
            Ok::<_, String>([one_turn()?, other.join().map_err(|_| "a thread panicked")??])
        })?;
        together.push(one.midpoint(other));
    }
    Ok(200 * best(&mut alone) / best(&mut together).max(1))
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

/// Nanoseconds of one signature on `clock`, by a turn of them.
fn turn(clock: fn() -> Outcome<u64>, mut sign: impl FnMut() -> Outcome<()>) -> Outcome<u64> {
    let (started, wall) = (clock()?, monotonic());
    let mut count = 0;
    loop {
        for _ in 0..16 {
            sign()?;
        }
        count += 16;
        if monotonic().duration_since(wall) >= TURN {
            return Ok((clock()? - started) / count);
        }
    }
}

/// What this thread worked: what else runs on the host does not count.
fn work() -> Outcome<u64> {
    Ok(thread_cpu_nanos()?)
}

fn wall() -> Outcome<u64> {
    Ok(monotonic().as_nanos())
}

/// What the best tenth of the turns took at most. Other work of the host only ever slows one down.
fn best(nanos: &mut [u64]) -> u64 {
    nanos.sort_unstable();
    nanos.get(nanos.len() / 10).copied().unwrap_or(0)
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
    list: ck::CK_FUNCTION_LIST,
    session: ck::CK_SESSION_HANDLE,
    key: ck::CK_OBJECT_HANDLE,
    mechanism: u64,
    /// Keeps the functions mapped.
    _library: ck::Pkcs11,
}

/// What a function returned, as a result.
fn ok(function: &str, rv: ck::CK_RV) -> Outcome<()> {
    if rv == ck::CKR_OK { Ok(()) } else { Err(format!("{function} gave {rv:#x}").into()) }
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
        let mut list = std::ptr::null_mut();
        // SAFETY: the place for the answer is on this stack.
        ok("C_GetFunctionList", unsafe { library.C_GetFunctionList(&raw mut list) })?;
        // SAFETY: the library was loaded through the same function, which checked what it gives.
        let list = unsafe { list.read() };
        let mut session = ck::CK_INVALID_HANDLE;
        let open = list.C_OpenSession.ok_or("no C_OpenSession")?;
        let nothing = std::ptr::null_mut();
        // SAFETY: the place for the answer is on this stack; no callback is given.
        let rv = unsafe { open(slot, ck::CKF_SERIAL_SESSION, nothing, None, &raw mut session) };
        ok("C_OpenSession", rv)?;
        Ok(Self { list, session, key, mechanism, _library: library })
    }

    fn sign(&self) -> Outcome<()> {
        let (Some(start), Some(sign)) = (self.list.C_SignInit, self.list.C_Sign) else {
            return Err("no C_Sign".into());
        };
        let mut mechanism = ck::CK_MECHANISM {
            mechanism: self.mechanism,
            pParameter: std::ptr::null_mut(),
            ulParameterLen: 0,
        };
        // SAFETY: the mechanism is on this stack and has no parameter.
        ok("C_SignInit", unsafe { start(self.session, &raw mut mechanism, self.key) })?;
        let (mut digest, mut signature, mut size) = ([7; 32], [0; 64], 64);
        let (data, place) = (digest.as_mut_ptr(), signature.as_mut_ptr());
        // SAFETY: digest, signature and the place for the length are on this stack.
        ok("C_Sign", unsafe { sign(self.session, data, 32, place, &raw mut size) })
    }
}
