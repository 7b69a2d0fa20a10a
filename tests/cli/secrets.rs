//! Planted secrets: PINs, a vote key in a card, a software key and a data key of known bytes. A
//! node signs with them, its agent and its card fail in every way there is a command for, it is
//! killed with core files allowed; then every place that outlives them, or that another process can
//! see, is searched for each secret in every form it may have been written in.
//!
//! Run by root, everything runs as a user without rights, who is the one that must not see.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Child;

use hufu_crypto::{PublicKey, Signer, SoftwareSigner};
use hufu_hsm::pin::PinSource;
use hufu_hsm::pkcs11::{Attribute, Library, TokenInfo, User, codes};
use hufu_node::ready::Ready;
use hufu_node::{card_key, keys_file};
use hufu_runtime::clock::monotonic;

use super::super::{json, new_key};
use super::*;

const USER_PIN: &[u8] = b"planted-user-pin-27182818284590";
const SO_PIN: &[u8] = b"planted-officer-pin-1618033988";
const WRONG_PIN: &[u8] = b"planted-wrong-pin-31415926535";
const VOTE_KEY: &[u8; 32] = b"planted-vote-key-in-the-card-001";
const OPERATOR_KEY: &[u8; 32] = b"planted-operator-key-in-pem-file";
const AUDIT_KEY: &[u8; 32] = b"planted-audit-key-sealing-events";

/// Files that hold a secret because they are its place; each is of mode 0600.
const HOMES: &[&str] =
    &["user.pin", "officer.pin", "wrong.pin", "operator.pem", "audit.pem", "data.key"];

/// What was there before and holds no secret of ours: the programs.
const PROGRAMS: &[&str] = &["hufu", "libcard.so"];

const PLANT: &str = "HUFU_TEST_PLANT";

const CONFIGURATION: &str = "[node]\nname = \"node-0\"\ndata_dir = \"data\"\n\
    genesis = \"genesis.toml\"\nkey = \"vote.key\"\n[client]\nlisten = \"127.0.0.1:0\"\n\
    [admin]\nlisten = \"127.0.0.1:0\"\n[placement]\ncores = \"none\"\n";

/// What one secret looks like in text and memory.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let text = |separator: &str, shown: &dyn Fn(&u8) -> String| {
        secret.iter().map(shown).collect::<Vec<_>>().join(separator).into_bytes()
    };
    let mut backwards = secret.to_vec();
    backwards.reverse();
    let wide = secret.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut forms = vec![
        secret.to_vec(),
        backwards,
        wide,
        text("", &|byte| format!("{byte:02x}")),
        text("", &|byte| format!("{byte:02X}")),
        text(":", &|byte| format!("{byte:02x}")),
        text(", ", &|byte| byte.to_string()),
        text(",", &|byte| byte.to_string()),
        text(" ", &|byte| byte.to_string()),
        text(", ", &|byte| format!("0x{byte:02x}")),
        decimal(secret).into_bytes(),
    ];
    for alphabet in [*b"+/", *b"-_"] {
        // It may begin at any of three places of a group of four letters.
        forms.extend((0..3).map(|skipped| base64(&secret[skipped..], alphabet)));
    }
    forms
}

/// The secret as one large number, in decimal.
fn decimal(bytes: &[u8]) -> String {
    let mut digits = vec![0_u8];
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) * 256;
            *digit = u8::try_from(carry % 10).unwrap();
            carry /= 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).unwrap());
            carry /= 10;
        }
    }
    digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
}

/// Whole groups only, so that what follows the secret does not show in it.
fn base64(bytes: &[u8], last: [u8; 2]) -> Vec<u8> {
    let letter = |value: u32| match u8::try_from(value & 63).unwrap() {
        value @ 0..=25 => b'A' + value,
        value @ 26..=51 => b'a' + value - 26,
        value @ 52..=61 => b'0' + value - 52,
        value => last[usize::from(value - 62)],
    };
    let group = |three: &[u8]| {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        [18, 12, 6, 0].map(|shift| letter(bits >> shift))
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

/// Every form of every secret, found in one pass by its first bytes.
struct Search {
    wanted: HashMap<[u8; 4], Vec<(&'static str, Vec<u8>)>>,
    /// By the first two bytes: whether any form begins so.
    begins: Vec<bool>,
}

impl Search {
    fn new(secrets: &[(&'static str, Vec<u8>)]) -> Self {
        let (mut wanted, mut begins) = (HashMap::<_, Vec<_>>::new(), vec![false; 1 << 16]);
        for (name, secret) in secrets {
            for form in forms(secret) {
                let first: [u8; 4] = form[..4].try_into().unwrap();
                begins[usize::from(u16::from_le_bytes([first[0], first[1]]))] = true;
                wanted.entry(first).or_default().push((*name, form));
            }
        }
        Self { wanted, begins }
    }

    /// Where which secret begins.
    fn find(&self, bytes: &[u8]) -> Vec<(&'static str, usize)> {
        let mut found = Vec::new();
        for (place, four) in bytes.windows(4).enumerate() {
            if !self.begins[usize::from(u16::from_le_bytes([four[0], four[1]]))] {
                continue;
            }
            let forms = self.wanted.get(four).into_iter().flatten();
            let here = forms.filter(|(_, form)| bytes[place..].starts_with(form));
            found.extend(here.map(|(name, _)| (*name, place)));
        }
        found
    }

    fn assert_absent(&self, place: &str, bytes: &[u8]) {
        let found = self.find(bytes);
        assert!(found.is_empty(), "{place}: {found:?}");
    }

    /// All files of a folder but the secrets' own; how many there were.
    fn assert_absent_below(&self, folder: &Path) -> usize {
        let mut count = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                count += self.assert_absent_below(&path);
            } else if !HOMES.contains(&name.as_str()) && !PROGRAMS.contains(&name.as_str()) {
                assert!(!name.starts_with("core"), "a core file: {}", path.display());
                self.assert_absent(&path.display().to_string(), &fs::read(&path).unwrap());
                count += 1;
            }
        }
        count
    }
}

/// A mapping of a process, and the flags the kernel has for it.
struct Mapping {
    start: u64,
    end: u64,
    may_write: bool,
    flags: String,
}

fn mappings(process: u32) -> Vec<Mapping> {
    let smaps = fs::File::open(format!("/proc/{process}/smaps")).unwrap();
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in BufReader::new(smaps).lines() {
        let line = line.unwrap();
        if let Some(flags) = line.strip_prefix("VmFlags: ") {
            mappings.last_mut().unwrap().flags = format!(" {flags} ");
        } else if let Some((range, rest)) = line.split_once(' ')
            && let Some((start, end)) = range.split_once('-')
            && let (Ok(start), Ok(end)) =
                (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        {
            let may_write = rest.starts_with("rw");
            mappings.push(Mapping { start, end, may_write, flags: String::new() });
        }
    }
    mappings
}

/// Which secrets lie in the memory of a process, with the flags of the mapping they lie in.
fn in_memory(process: u32, search: &Search) -> Vec<(&'static str, u64, String)> {
    const PIECE: usize = 1 << 24;
    let memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found = Vec::new();
    let mut piece = vec![0; PIECE];
    for mapping in mappings(process).iter().filter(|mapping| mapping.may_write) {
        let mut at = mapping.start;
        while at < mapping.end {
            let size = usize::try_from(mapping.end - at).unwrap_or(PIECE).min(PIECE);
            let Ok(()) = memory.read_exact_at(&mut piece[..size], at) else { break };
            let here = search.find(&piece[..size]).into_iter();
            found
                .extend(here.map(|(name, place)| (name, at + place as u64, mapping.flags.clone())));
            at += size as u64;
        }
    }
    found
}

/// The desk with everything planted, and who works at it.
struct Planted {
    desk: Desk,
    is_root: bool,
    search: Search,
    /// All that commands said.
    said: String,
}

impl Planted {
    fn new() -> Self {
        let mut desk = Desk::new("native", "");
        let is_root = fs::metadata(desk.folder.path()).unwrap().uid() == 0;
        // Where both were built, others may not look.
        let (program, module) = (desk.path("hufu"), desk.path("libcard.so"));
        fs::copy(env!("CARGO_BIN_EXE_hufu"), &program).unwrap();
        fs::copy(&desk.module, &module).unwrap();
        desk.module = module;
        desk.write_card(SANDBOX);
        for (name, pin) in
            [("user.pin", USER_PIN), ("officer.pin", SO_PIN), ("wrong.pin", WRONG_PIN)]
        {
            desk.write(name, str::from_utf8(pin).unwrap());
        }
        let operator = SoftwareSigner::from_bytes(OPERATOR_KEY).unwrap();
        keys_file::store(&desk.path("operator.pem"), &operator).unwrap();
        let audit = SoftwareSigner::from_bytes(AUDIT_KEY).unwrap();
        keys_file::store(&desk.path("audit.pem"), &audit).unwrap();
        json(desk.folder.path(), &["keys", "new-data", "--out", "data.key", "--json"]);
        let data = fs::read(desk.path("data.key")).unwrap()[64..96].to_vec();
        let search = Search::new(&[
            ("the user's PIN", USER_PIN.to_vec()),
            ("the officer's PIN", SO_PIN.to_vec()),
            ("a wrong PIN", WRONG_PIN.to_vec()),
            ("the vote key", VOTE_KEY.to_vec()),
            ("the operator's key", OPERATOR_KEY.to_vec()),
            ("the audit key", AUDIT_KEY.to_vec()),
            ("the data key", data),
        ]);
        let mut planted = Self { desk, is_root, search, said: String::new() };
        planted.begin_chain(operator.public_key());
        if is_root {
            give_away(planted.desk.folder.path());
        }
        planted
    }

    /// A token with the vote key, and a chain of one validator that has it.
    fn begin_chain(&mut self, operator: &PublicKey) {
        self.desk.json(&self.desk.init("hufu", &[]));
        // The library reads its configuration from the environment, which only a new process has.
        let helper = ["--exact", "hsm::secrets::plants_the_vote_key", "--nocapture"];
        let status = Command::new(std::env::current_exe().unwrap())
            .args(helper)
            .env(PLANT, self.desk.folder.path())
            .env("HUFU_SOFTTOKEN_CONF", self.desk.path("softtoken.toml"))
            .status();
        assert!(status.unwrap().success(), "the vote key cannot be planted");
        let vote = SoftwareSigner::from_bytes(VOTE_KEY).unwrap();
        let vote = vote.public_key();
        let key = card_key::text(Path::new("card.toml"), "pkcs11:object=vote", vote);
        self.desk.write("vote.key", &key);
        let (link, _) = new_key(self.desk.folder.path(), "link.pem");
        let (validator, operator) = (format!("node-0:{vote}:{link}:1"), operator.address());
        let operator = operator.to_string();
        let chain = ["genesis", "new", "--out", "genesis.toml", "--chain-name", "planted"];
        let names = ["--validator", &validator, "--opener", &operator, "--issuer", &operator];
        json(self.desk.folder.path(), &[&chain[..], &names, &["--json"]].concat());
        fs::write(self.desk.path("hufu.toml"), CONFIGURATION).unwrap();
    }

    /// A command of the user without rights, with core files of any size allowed.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ulimit -c unlimited; exec \"$0\" \"$@\"", program]);
        command.current_dir(self.desk.folder.path()).stdin(Stdio::null());
        command.env("HUFU_SOFTTOKEN_CONF", self.desk.path("softtoken.toml"));
        if self.is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Puts each of two files in the place of the other.
    fn swap(&self, one: &str, other: &str) {
        let between = self.desk.path("between");
        fs::rename(self.desk.path(one), &between).unwrap();
        fs::rename(self.desk.path(other), self.desk.path(one)).unwrap();
        fs::rename(between, self.desk.path(other)).unwrap();
    }

    /// Runs a command of hufu's; its exit code.
    fn hufu(&mut self, arguments: &[&str]) -> i32 {
        let output = self.command("./hufu").args(arguments).output().unwrap();
        self.said += &(stdout(&output) + &stderr(&output));
        code(&output)
    }

    fn start_node(&self) -> Child {
        let log = fs::File::options().create(true).append(true).open(self.desk.path("node.log"));
        let log = log.unwrap();
        let mut command = self.command("./hufu");
        command.args(["--parent", &std::process::id().to_string(), "node", "run"]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    fn ready(&self, node: &mut Child) -> Ready {
        let mut found = None;
        wait_until("the node", || {
            assert!(node.try_wait().unwrap().is_none(), "it ended: {}", self.log());
            found = Ready::read(&self.desk.path("data")).ok().flatten();
            found = found.filter(|ready| ready.pid == node.id());
            found.is_some()
        });
        found.unwrap()
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.desk.path("node.log")).unwrap()).into_owned()
    }

    /// Opens an account, which the node signs a block for.
    fn transact(&mut self, node: Ready) {
        let address = SoftwareSigner::generate().unwrap().public_key().address().to_string();
        let words = ["tx", "open", "--key", "operator.pem", "--address", &address];
        let at = node.client.to_string();
        assert_eq!(self.hufu(&[&words[..], &["--node", &at]].concat()), 0, "{}", self.said);
    }

    /// What other processes may see of one that runs.
    fn look_at(&self, process: u32) {
        let read = |name: &str| fs::read(format!("/proc/{process}/{name}"));
        for name in ["cmdline", "comm", "environ", "status", "limits"] {
            match read(name) {
                Ok(bytes) => self.search.assert_absent(name, &bytes),
                Err(error) => {
                    assert!(!self.is_root, "{name}: {error}");
                    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{name}");
                }
            }
        }
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let sizes: Vec<&str> = cores.split_whitespace().skip(4).take(2).collect();
        assert_eq!(sizes, ["0", "0"], "{cores}");
        if !self.is_root {
            return;
        }
        // What the kernel gives to root of another user's process may not be dumped.
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}")), "{status}");
        assert_eq!(fs::metadata(format!("/proc/{process}/mem")).unwrap().uid(), 0);
        for name in ["mem", "environ", "maps"] {
            let path = format!("/proc/{process}/{name}");
            let output = self.command("head").args(["-c", "1", &path]).output().unwrap();
            assert!(!output.status.success() && stderr(&output).contains("denied"), "{name}");
        }
        let number = process.to_string();
        // Where there is no such program the shell says so, and that is no core file either.
        let output = self.command("gcore").args(["-o", "core-of-gcore", &number]).output().unwrap();
        assert_ne!(code(&output), 0, "gcore: {}", stdout(&output));
    }
}

/// Not a test of its own: makes the vote key of known bytes in the token of a folder.
#[test]
fn plants_the_vote_key() {
    let Some(folder) = std::env::var_os(PLANT).map(PathBuf::from) else { return };
    let signer = SoftwareSigner::from_bytes(VOTE_KEY).unwrap();
    let library = Library::load(&folder.join("libcard.so")).unwrap();
    let session = library.open_session(0, true).unwrap();
    assert!(library.token_info(0).is_ok_and(|TokenInfo { label, .. }| label == "hufu"));
    session.login(User::User, &PinSource::File(folder.join("user.pin")).read().unwrap()).unwrap();
    // The native codes of the soft token's own table.
    let key_type = codes::CKK_VENDOR_DEFINED + 0x4846_0001;
    let common = |class: u64| {
        vec![
            Attribute::number(codes::CKA_CLASS, class),
            Attribute::number(codes::CKA_KEY_TYPE, key_type),
            Attribute::bool(codes::CKA_TOKEN, true),
            Attribute::text(codes::CKA_LABEL, "vote"),
            Attribute::bytes(codes::CKA_EC_PARAMS, &CURVE),
        ]
    };
    let mut private = common(codes::CKO_PRIVATE_KEY);
    private.push(Attribute::bytes(codes::CKA_VALUE, VOTE_KEY));
    private.push(Attribute::bool(codes::CKA_SIGN, true));
    private.push(Attribute::bool(codes::CKA_SENSITIVE, true));
    private.push(Attribute::bool(codes::CKA_EXTRACTABLE, false));
    session.create_object(&private).unwrap();
    let point = [&[4, 65, 4][..], signer.public_key().as_bytes()].concat();
    let mut public = common(codes::CKO_PUBLIC_KEY);
    public.push(Attribute::bytes(codes::CKA_EC_POINT, &point));
    public.push(Attribute::bool(codes::CKA_VERIFY, true));
    session.create_object(&public).unwrap();
}

/// OBJECT IDENTIFIER 1.2.156.10197.1.301 in DER.
const CURVE: [u8; 10] = [0x06, 0x08, 0x2a, 0x81, 0x1c, 0xcf, 0x55, 0x01, 0x82, 0x2d];

/// The agent of a node, by its parent.
fn agent_of(node: u32) -> Option<u32> {
    fs::read_dir("/proc").unwrap().find_map(|entry| {
        let process: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let is_child = status.contains(&format!("PPid:\t{node}\n"));
        (is_child && !status.contains("State:\tZ")).then_some(process)
    })
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = monotonic().after(Duration::from_secs(60));
    while !is_so() {
        assert!(monotonic() < deadline, "{what} did not come");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -s {name} {process}");
}

#[test]
fn every_form_of_a_secret_is_found() {
    let search = Search::new(&[("it", USER_PIN.to_vec())]);
    for form in forms(USER_PIN) {
        let around = [&b"some text before "[..], &form, b" and after"].concat();
        let found = search.find(&around);
        assert!(found.contains(&("it", 17)), "{}", String::from_utf8_lossy(&form));
    }
    for skipped in 0..3 {
        let inside = base64(&[&vec![b'x'; skipped][..], USER_PIN, b"yyy"].concat(), *b"+/");
        assert!(!search.find(&inside).is_empty(), "{skipped}");
    }
    assert_eq!(decimal(&[1, 0, 2]), "65538");
}

#[test]
fn planted_secrets_are_nowhere() {
    let mut planted = Planted::new();
    let faults = Faults::open(&planted.desk.path("store"), 0).unwrap();
    let mut node = planted.start_node();
    let ready = planted.ready(&mut node);
    planted.transact(ready);

    // The card fails as cards do, and the node signs again.
    faults.set(Fault::Removed { millis: 300 });
    planted.transact(ready);
    faults.set(Fault::SessionLost { one_in: 3 });
    planted.transact(ready);
    faults.clear();
    let mut agent = agent_of(node.id()).unwrap();
    for name in ["ABRT", "ILL"] {
        signal(agent, name);
        let before = agent;
        wait_until("the next agent", || {
            let next = agent_of(node.id()).filter(|next| *next != before);
            agent = next.unwrap_or(before);
            next.is_some()
        });
        planted.transact(ready);
    }
    for process in [node.id(), agent] {
        planted.look_at(process);
    }
    if planted.is_root {
        memory_holds_what_it_must(&planted, node.id(), agent);
    }
    commands_tell_nothing(&mut planted);

    // A card that gives garbage ends the node, and it may not dump its core either.
    faults.set(Fault::Garbage { kind: Garbage::FlippedBit, one_in: 1 });
    let at = ready.client.to_string();
    let words = ["tx", "open", "--key", "operator.pem", "--node", &at, "--timeout-seconds", "2"];
    let other = SoftwareSigner::generate().unwrap().public_key().address().to_string();
    planted.hufu(&[&words[..], &["--address", &other]].concat());
    faults.clear();
    if node.try_wait().unwrap().is_none() {
        signal(node.id(), "ABRT");
    }
    assert!(!node.wait().unwrap().success());
    refused_pin_tells_nothing(&mut planted);
    let files_count = planted.search.assert_absent_below(planted.desk.folder.path());
    assert!(files_count > 10, "{files_count} files: the search went the wrong way");
    planted.search.assert_absent("what commands said", planted.said.as_bytes());
}

/// The node knows neither PIN nor vote key. Its agent has the PIN in a page that is neither swapped
/// nor dumped, and nowhere else.
fn memory_holds_what_it_must(planted: &Planted, node: u32, agent: u32) {
    let found = in_memory(node, &planted.search);
    // What seals its audit log it signs with itself.
    let others = found.iter().filter(|(name, ..)| *name != "the audit key").count();
    assert_eq!(others, 0, "in the node: {found:x?}");
    let found = in_memory(agent, &planted.search);
    let mut pins_count = 0;
    for (name, at, flags) in &found {
        if *name == "the user's PIN" {
            let is_kept = flags.contains(" lo ") && flags.contains(" dd ");
            assert!(is_kept, "the PIN lies at {at:x}, flags{flags}");
            pins_count += 1;
        } else {
            // A card in software has its keys in its memory; a real one has not.
            assert_eq!(*name, "the vote key", "in the agent at {at:x}");
        }
    }
    assert_eq!(pins_count, 1, "copies of the PIN: {found:x?}");
}

/// Every command that takes a PIN, in order and at fault.
fn commands_tell_nothing(planted: &mut Planted) {
    let module = "./libcard.so";
    let status = ["hsm", "status", "--card", "card.toml", "--key", "pkcs11:object=vote"];
    assert_eq!(planted.hufu(&status), 0, "{}", planted.said);
    let json = [&status[..], &["--json"]].concat();
    assert_eq!(planted.hufu(&json), 0);
    let probe = ["hsm", "probe", "--module", module, "--pin-file", "user.pin"];
    assert_eq!(planted.hufu(&probe), 0, "{}", planted.said);
    let wrong = ["hsm", "probe", "--module", module, "--pin-file", "wrong.pin"];
    assert_eq!(planted.hufu(&wrong), 78, "{}", planted.said);
    assert!(planted.said.contains("ONE attempt is left"), "{}", planted.said);
    assert_eq!(planted.hufu(&status), 0, "the right PIN sets the count back");
    // To another PIN and back.
    for _ in 0..2 {
        let set = ["hsm", "set-pin", "--card", "card.toml", "--new-pin-file", "wrong.pin"];
        assert_eq!(planted.hufu(&set), 0, "{}", planted.said);
        planted.swap("user.pin", "wrong.pin");
    }
    let keygen = ["hsm", "keygen", "--card", "card.toml", "--key", "pkcs11:object=b"];
    assert_eq!(planted.hufu(&[&keygen[..], &["--usage", "wrap"]].concat()), 0);
}

/// A node whose PIN is wrong ends with 78 and one attempt spent.
fn refused_pin_tells_nothing(planted: &mut Planted) {
    planted.swap("user.pin", "wrong.pin");
    let mut node = planted.start_node();
    let mut ended = None;
    wait_until("the end of a node with a wrong PIN", || {
        ended = node.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(78), "{}", planted.log());
    assert!(planted.log().contains("ONE attempt is left"), "{}", planted.log());
    planted.swap("user.pin", "wrong.pin");
    let status = ["hsm", "status", "--card", "card.toml"];
    assert_eq!(planted.hufu(&status), 0, "one attempt was spent, not all: {}", planted.said);
}
