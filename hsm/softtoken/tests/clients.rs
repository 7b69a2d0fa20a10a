//! Clients written by others use the module: pkcs11-tool, p11tool, OpenSSL's engine, the crate
//! `cryptoki`. What is not installed is skipped with a message; `.ci/deps test` installs it.

#![allow(clippy::unwrap_used, reason = "what a test's helper cannot do fails the test")]
#![allow(clippy::print_stderr, reason = "who runs the tests is told what was skipped")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hufu_crypto::{
    Digest, IDENTITY_DEFAULT, PublicKey, Signature, Sm3, Verdict, VerifyItem, identity_digest,
    message_digest, software_provider,
};
use hufu_softtoken::{Admin, Config, ENVIRONMENT, KeyKind};

const SO_PIN: &str = "12345678";
const PIN: &str = "1234";

/// The module as clients load it: cargo puts it beside this test.
fn module() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let module = test.parent().unwrap().join("libhufu_softtoken.so");
    assert!(module.exists(), "{} is built with this test", module.display());
    module
}

/// A store and its configuration file.
struct Card(tempfile::TempDir);

impl Card {
    fn blank() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        let text = format!("store = {store:?}\npin_rounds = 1000\nmessages = true\n");
        std::fs::write(folder.path().join("softtoken.toml"), text).unwrap();
        Self(folder)
    }

    fn initialised() -> Self {
        let card = Self::blank();
        card.admin().init(0, "demo", SO_PIN.as_bytes(), PIN.as_bytes()).unwrap();
        card
    }

    fn config(&self) -> PathBuf {
        self.path("softtoken.toml")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn admin(&self) -> Admin {
        Admin::open(Config::read(&self.config()).unwrap()).unwrap()
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        text(&path)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env(ENVIRONMENT, self.config()).env("LC_ALL", "C").current_dir(self.0.path());
        command
    }

    /// Runs pkcs11-tool, with the user logged in.
    fn pkcs11_tool(&self, arguments: &[&str]) -> Output {
        let mut command = self.command("pkcs11-tool");
        command.arg("--module").arg(module()).args(["--login", "--pin", PIN]).args(arguments);
        command.output().unwrap()
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// What a client printed, if all went well.
fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

/// Whether the program can be run; else says that the test is skipped.
fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: {program} is not installed (.ci/deps test installs it)");
    }
    there
}

/// Some clients look functions up by their names instead of asking for the list.
#[test]
fn functions_are_exported_by_name() {
    let bytes = std::fs::read(module()).unwrap();
    for name in ["C_GetFunctionList", "C_GetInterface", "C_Initialize", "C_Login", "C_Sign"] {
        let entry = [b"\0", name.as_bytes(), b"\0"].concat();
        assert!(bytes.windows(entry.len()).any(|part| part == entry), "{name}");
    }
}

#[test]
fn pkcs11_tool_begins_a_token_and_uses_it() {
    if !is_there("pkcs11-tool") {
        return;
    }
    let card = Card::blank();
    let bare = |arguments: &[&str]| {
        let mut command = card.command("pkcs11-tool");
        command.arg("--module").arg(module()).args(arguments).output().unwrap()
    };
    done(&bare(&["--init-token", "--slot", "0", "--label", "demo", "--so-pin", SO_PIN]));
    let so = ["--init-pin", "--login", "--login-type", "so", "--so-pin", SO_PIN, "--pin", PIN];
    done(&bare(&so));
    let slots = done(&bare(&["--list-slots"]));
    assert!(slots.contains("demo") && slots.contains("PIN initialized"), "{slots}");
    let wrong = bare(&["--login", "--pin", "0000", "--list-objects"]);
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("CKR_PIN_INCORRECT"), "{said}");
    let said = done(&card.pkcs11_tool(&["--test"]));
    assert!(said.contains("No errors"), "{said}");
    let pair = ["--keypairgen", "--key-type", "EC:prime256v1", "--label", "k", "--id", "01"];
    done(&card.pkcs11_tool(&pair));
    done(&card.pkcs11_tool(&["--keygen", "--key-type", "AES:32", "--label", "a", "--id", "02"]));
    let data = card.file("data", b"something to sign");
    let (signature, key) = (text(&card.path("signature")), text(&card.path("key")));
    let sign = ["--sign", "--mechanism", "ECDSA-SHA256", "--id", "01", "-i", &data];
    let format = ["-o", &signature, "--signature-format", "openssl"];
    done(&card.pkcs11_tool(&[&sign[..], &format].concat()));
    let read = ["--read-object", "--type", "pubkey", "--id", "01", "-o", &key];
    done(&card.pkcs11_tool(&read));
    if is_there("openssl") {
        let verify = ["dgst", "-sha256", "-keyform", "DER", "-verify", &key, "-signature"];
        let mut command = card.command("openssl");
        let said = done(&command.args(verify).arg(&signature).arg(&data).output().unwrap());
        assert!(said.contains("Verified OK"), "{said}");
    }
    let (sealed, opened) = (text(&card.path("sealed")), text(&card.path("opened")));
    let cipher = ["--mechanism", "AES-CBC-PAD", "--id", "02", "--iv", &"00".repeat(16)];
    let to = ["--encrypt", "-i", &data, "-o", &sealed];
    let back = ["--decrypt", "-i", &sealed, "-o", &opened];
    done(&card.pkcs11_tool(&[&to[..], &cipher].concat()));
    done(&card.pkcs11_tool(&[&back[..], &cipher].concat()));
    assert_eq!(std::fs::read(&opened).unwrap(), b"something to sign");
    let objects = done(&card.pkcs11_tool(&["--list-objects"]));
    assert!(objects.contains("sensitive, always sensitive, never extractable"), "{objects}");
    let delete = ["--delete-object", "--type", "privkey", "--id", "01"];
    done(&card.pkcs11_tool(&delete));
    assert!(!done(&card.pkcs11_tool(&["--list-objects"])).contains("Private Key"));
}

/// A program with another group than its caller's would read and write files for him.
#[test]
fn privileged_programs_take_no_file_from_their_caller() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let program = Path::new("/usr/bin/pkcs11-tool");
    if !program.exists() {
        eprintln!("skipped: pkcs11-tool is not installed (.ci/deps test installs it)");
        return;
    }
    let card = Card::initialised();
    let copy = card.path("privileged");
    std::fs::copy(program, &copy).unwrap();
    let other = std::fs::metadata(&copy).unwrap().gid() + 1;
    if std::os::unix::fs::chown(&copy, None, Some(other)).is_err() {
        eprintln!("skipped: only root gives a file to another group");
        return;
    }
    let list = || {
        let mut command = card.command(&text(&copy));
        command.arg("--module").arg(module()).arg("--list-slots").output().unwrap()
    };
    assert!(done(&list()).contains("demo"));
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o2755)).unwrap();
    let refused = list();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("more rights"), "{said}");
}

#[test]
fn pkcs11_tool_brings_objects_in_and_wraps_keys() {
    if !is_there("pkcs11-tool") || !is_there("openssl") {
        return;
    }
    let card = Card::initialised();
    let run = |arguments: &[&str]| done(&card.pkcs11_tool(arguments));
    let openssl = |arguments: &[&str]| {
        done(&card.command("openssl").args(arguments).output().unwrap());
    };
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let files = ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=x"];
    openssl(&[&["req", "-x509"], &curve[..], &files].concat());
    openssl(&["x509", "-in", "cert.pem", "-outform", "der", "-out", "cert.der"]);
    openssl(&["pkey", "-in", "key.pem", "-outform", "der", "-out", "key.der"]);
    openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "der", "-out", "pub.der"]);
    let data = card.file("data", b"something");
    for (kind, file) in [("cert", "cert.der"), ("privkey", "key.der"), ("pubkey", "pub.der")] {
        let usage: &[&str] = if kind == "cert" { &[] } else { &["--usage-sign"] };
        run(&[&["--write-object", file, "--type", kind, "--id", "02"], usage].concat());
    }
    run(&["--write-object", &data, "--type", "data", "--label", "d"]);
    assert!(run(&["--read-object", "--type", "data", "--label", "d"]).contains("something"));
    run(&["--read-object", "--type", "cert", "--id", "02", "-o", "again.der"]);
    let file = |name: &str| std::fs::read(card.path(name)).unwrap();
    assert_eq!(file("cert.der"), file("again.der"));
    // Digests shorter and longer than the order of the curve.
    for digest in ["sha1", "sha256", "sha384", "sha512"] {
        let mechanism = format!("ECDSA-{}", digest.to_uppercase());
        let sign = ["--sign", "-m", &mechanism, "--id", "02", "-i", &data, "-o", "signature"];
        run(&[&sign[..], &["--signature-format", "openssl"]].concat());
        let digest = format!("-{digest}");
        let verify = ["-verify", "pub.der", "-keyform", "DER", "-signature", "signature", &data];
        openssl(&[&["dgst", &digest], &verify[..]].concat());
    }
    run(&["--keygen", "--key-type", "AES:32", "--id", "10", "--usage-wrap", "--sensitive"]);
    let inner = ["--keygen", "--key-type", "AES:16", "--id", "11", "--extractable"];
    run(&inner);
    let iv = ["--iv", &"00".repeat(16)];
    for (mechanism, has_vector) in
        [("AES-KEY-WRAP", false), ("AES-ECB", false), ("AES-CBC", true), ("AES-CBC-PAD", true)]
    {
        let vector: &[&str] = if has_vector { &iv } else { &[] };
        let with = [&["-m", mechanism, "--id", "10"], vector].concat();
        run(&[&["--wrap", "--application-id", "11", "-o", "wrapped"], &with[..]].concat());
        let id = format!("12{:02x}", mechanism.len());
        let template = ["--key-type", "AES:", "--sensitive", "--application-id", &id];
        run(&[&["--unwrap", "-i", "wrapped"], &template[..], &with].concat());
        let cipher = [&["-m", "AES-CBC-PAD"], &iv[..]].concat();
        let [first, second] = [("11", "a"), (id.as_str(), "b")].map(|(id, to)| {
            run(&[&["--encrypt", "--id", id, "-i", &data, "-o", to], &cipher[..]].concat());
            file(to)
        });
        assert_eq!(first, second, "{mechanism}");
    }
    let changed = ["--change-pin", "--new-pin", "98765"];
    run(&changed);
    let refused = card.pkcs11_tool(&["--list-objects"]);
    assert!(!refused.status.success(), "the old PIN still opens the token");
}

#[test]
fn pkcs11_tool_signs_with_sm2_by_our_own_codes() {
    if !is_there("pkcs11-tool") {
        return;
    }
    let card = Card::initialised();
    let kind = KeyKind::Sm2Sign;
    let point = card.admin().generate(0, PIN.as_bytes(), kind, "v0", &[1]).unwrap().unwrap();
    let key = PublicKey(point);
    let signature = text(&card.path("signature"));
    let message = b"a message";
    let cases = [
        ("0xC8460012", vec![7; 32], Digest([7; 32])),
        (
            "0xC8460013",
            message.to_vec(),
            message_digest(&identity_digest(IDENTITY_DEFAULT, &key), message),
        ),
    ];
    for (mechanism, data, digest) in cases {
        let data = card.file("data", &data);
        let sign = ["--sign", "--mechanism", mechanism, "--id", "01", "-i", &data, "-o"];
        done(&card.pkcs11_tool(&[&sign[..], &[&signature]].concat()));
        let made = std::fs::read(&signature).unwrap();
        let made = Signature(made.try_into().unwrap());
        let item = VerifyItem { key: &key, digest, signature: &made };
        assert_eq!(software_provider().verifier.verify(item), Verdict::Valid, "{mechanism}");
    }
    let data = card.file("data", message);
    let hash = ["--hash", "--mechanism", "0xC8460021", "-i", &data, "-o", &signature];
    done(&card.pkcs11_tool(&hash));
    assert_eq!(std::fs::read(&signature).unwrap(), Sm3::of(&[message]).0);
}

#[test]
fn p11tool_lists_and_generates() {
    if !is_there("p11tool") {
        return;
    }
    let card = Card::initialised();
    let run = |arguments: &[&str]| {
        let mut command = card.command("p11tool");
        command.env("GNUTLS_PIN", PIN).arg("--provider").arg(module()).args(arguments);
        done(&command.output().unwrap())
    };
    let tokens = run(&["--list-tokens"]);
    assert!(tokens.contains("Label: demo") && tokens.contains("manufacturer=hufu"), "{tokens}");
    let url = "pkcs11:token=demo";
    let curve = ["--generate-privkey=ECDSA", "--curve=secp256r1", "--label", "made"];
    let made = run(&[&["--login"], &curve[..], &[url]].concat());
    assert!(made.contains("BEGIN PUBLIC KEY"), "{made}");
    let all = run(&["--login", "--list-all", url]);
    assert!(all.contains("object=made;type=private"), "{all}");
    assert!(!run(&["--list-all", url]).contains("type=private"), "private before login");
    assert!(run(&["--list-mechanisms", url]).contains("CKM_ECDSA"));
    let said = run(&["--login", "--test-sign", "pkcs11:token=demo;object=made;type=private"]);
    assert!(said.contains("ok"), "{said}");
    if !is_there("openssl") {
        return;
    }
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let files = ["-keyout", "key.pem", "-out", "cert.pem", "-subj", "/CN=x"];
    let mut openssl = card.command("openssl");
    done(&openssl.args(["req", "-x509"]).args(curve).args(files).output().unwrap());
    let certificate = ["--load-certificate", "cert.pem", "--label", "in", "--id", "20"];
    run(&[&["--login", "--write"], &certificate[..], &[url]].concat());
    let key = ["--load-privkey", "key.pem", "--label", "key", "--id", "21"];
    run(&[&["--login", "--write"], &key[..], &[url]].concat());
    let found = "pkcs11:token=demo;object=in;type=cert";
    run(&["--login", "--set-id", "30", found]);
    assert!(run(&["--login", "--info", found]).contains("ID: 30"));
    assert!(run(&["--login", "--export", found]).contains("BEGIN CERTIFICATE"));
    // Only the security officer makes a certificate trusted.
    let trusted = ["--load-certificate", "cert.pem", "--mark-trusted", "--label", "ca", url];
    let mut command = card.command("p11tool");
    command.env("GNUTLS_SO_PIN", SO_PIN).arg("--provider").arg(module());
    done(&command.args(["--so-login", "--write"]).args(trusted).output().unwrap());
    assert!(run(&["--list-all-trusted", url]).contains("CKA_TRUSTED"));
    run(&["--batch", "--login", "--delete", found]);
    assert!(!run(&["--login", "--list-all", url]).contains("object=in"));
}

#[test]
fn openssls_engine_signs() {
    let engine = "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so";
    if !is_there("openssl") || !is_there("pkcs11-tool") {
        return;
    }
    if !Path::new(engine).exists() {
        eprintln!("skipped: {engine} is not installed (.ci/deps test installs it)");
        return;
    }
    let card = Card::initialised();
    let pair = ["--keypairgen", "--key-type", "EC:prime256v1", "--label", "k", "--id", "01"];
    done(&card.pkcs11_tool(&pair));
    let settings = format!(
        "openssl_conf = start\n[start]\nengines = engines\n[engines]\npkcs11 = ours\n[ours]\n\
         engine_id = pkcs11\ndynamic_path = {engine}\nMODULE_PATH = {}\ninit = 0\n\
         [req]\ndistinguished_name = nobody\n[nobody]\n",
        module().display()
    );
    let settings = card.file("openssl.cnf", settings.as_bytes());
    let data = card.file("data", b"something to sign");
    let (signature, key) = (text(&card.path("signature")), text(&card.path("key")));
    let run = |arguments: &[&str]| {
        let mut command = card.command("openssl");
        done(&command.env("OPENSSL_CONF", &settings).args(arguments).output().unwrap())
    };
    let private = format!("pkcs11:token=demo;object=k;type=private;pin-value={PIN}");
    let public = format!("pkcs11:token=demo;object=k;type=public;pin-value={PIN}");
    let sign = ["dgst", "-engine", "pkcs11", "-keyform", "engine", "-sha256", "-sign"];
    run(&[&sign[..], &[&private, "-out", &signature, &data]].concat());
    let read = ["pkey", "-engine", "pkcs11", "-inform", "engine", "-pubin", "-in"];
    run(&[&read[..], &[&public, "-pubout", "-out", &key]].concat());
    let verify = ["dgst", "-sha256", "-verify", &key, "-signature", &signature, &data];
    let said = done(&card.command("openssl").args(verify).output().unwrap());
    assert!(said.contains("Verified OK"), "{said}");
    let new = ["req", "-new", "-x509", "-subj", "/CN=x", "-engine", "pkcs11", "-out", "self.pem"];
    run(&[&new[..], &["-keyform", "engine", "-key", &private]].concat());
    let verify = ["verify", "-CAfile", "self.pem", "self.pem"];
    done(&card.command("openssl").args(verify).output().unwrap());
}

/// The crate loads the module into this process, whose environment must name the configuration:
/// the test runs itself once more with it.
#[test]
fn the_crate_cryptoki_uses_it() {
    const INNER: &str = "HUFU_SOFTTOKEN_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        return use_with_cryptoki();
    }
    let card = Card::blank();
    let mut command = card.command(&text(&std::env::current_exe().unwrap()));
    let only = ["--exact", "the_crate_cryptoki_uses_it", "--nocapture"];
    let said = done(&command.env(INNER, "1").args(only).output().unwrap());
    assert!(said.contains("1 passed"), "{said}");
}

fn use_with_cryptoki() {
    use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
    use cryptoki::mechanism::Mechanism;
    use cryptoki::mechanism::aead::GcmParams;
    use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
    use cryptoki::session::UserType;
    use cryptoki::types::AuthPin;

    let pin = |text: &str| AuthPin::new(text.to_owned().into_boxed_str());
    let pkcs11 = Pkcs11::new(module()).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = pkcs11.get_slots_with_token().unwrap()[0];
    pkcs11.init_token(slot, &pin(SO_PIN), "crate").unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&pin(SO_PIN))).unwrap();
    session.init_pin(&pin(PIN)).unwrap();
    session.logout().unwrap();
    session.login(UserType::User, Some(&pin(PIN))).unwrap();
    // OBJECT IDENTIFIER 1.2.840.10045.3.1.7.
    let curve = vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    let public = [Attribute::Token(true), Attribute::Verify(true), Attribute::EcParams(curve)];
    let private = [Attribute::Token(true), Attribute::Sign(true)];
    let (public, private) =
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
    let signature = session.sign(&Mechanism::EcdsaSha256, private, b"data").unwrap();
    session.verify(&Mechanism::EcdsaSha256, public, b"data", &signature).unwrap();
    assert!(session.verify(&Mechanism::EcdsaSha256, public, b"date", &signature).is_err());
    let secret = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(vec![7; 16]),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    let secret = session.create_object(&secret).unwrap();
    assert!(session.get_attributes(secret, &[AttributeType::Value]).unwrap().is_empty());
    let mut nonce = [1; 12];
    let gcm = GcmParams::new(&mut nonce, b"bound", 128.into()).unwrap();
    let mechanism = Mechanism::AesGcm(gcm);
    let sealed = session.encrypt(&mechanism, secret, b"text").unwrap();
    assert_eq!(session.decrypt(&mechanism, secret, &sealed).unwrap(), b"text");
    let found = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap();
    assert_eq!(found, [private]);
    assert_ne!(session.generate_random_vec(16).unwrap(), [0; 16]);
    let digest = session.digest(&Mechanism::Sha256, b"abc").unwrap();
    assert_eq!(digest[..4], [0xba, 0x78, 0x16, 0xbf]);
    carry_and_change_keys(&session);
    drop(session);
    pkcs11.finalize().unwrap();
}

/// Keys out and in again, in parts, copied, changed, removed.
fn carry_and_change_keys(session: &cryptoki::session::Session) {
    use cryptoki::mechanism::Mechanism;
    use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};

    let wraps = [Attribute::Wrap(true), Attribute::Unwrap(true), Attribute::ValueLen(32.into())];
    let outer = session.generate_key(&Mechanism::AesKeyGen, &wraps).unwrap();
    let leaves = [
        Attribute::Extractable(true),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(16.into()),
    ];
    let inner = session.generate_key(&Mechanism::AesKeyGen, &leaves).unwrap();
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, outer, inner).unwrap();
    let comes = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Decrypt(true),
    ];
    let again = session.unwrap_key(&Mechanism::AesKeyWrap, outer, &wrapped, &comes).unwrap();
    let vector = [5; 16];
    session.encrypt_init(&Mechanism::AesCbcPad(vector), inner).unwrap();
    let mut sealed = session.encrypt_update(&[6; 20]).unwrap();
    sealed.extend(session.encrypt_update(&[6; 20]).unwrap());
    sealed.extend(session.encrypt_final().unwrap());
    let opened = session.decrypt(&Mechanism::AesCbcPad(vector), again, &sealed).unwrap();
    assert_eq!(opened, [6; 40]);
    let named = [Attribute::Label(b"copy".to_vec())];
    let copy = session.copy_object(inner, &named).unwrap();
    assert_eq!(session.find_objects(&named).unwrap(), [copy]);
    session.update_attributes(copy, &[Attribute::Extractable(false)]).unwrap();
    assert!(session.update_attributes(copy, &[Attribute::Extractable(true)]).is_err());
    assert!(session.wrap_key(&Mechanism::AesKeyWrap, outer, copy).is_err());
    session.destroy_object(copy).unwrap();
    assert!(session.get_attributes(copy, &[AttributeType::Label]).is_err());
}

/// Processes that write to one store at once lose nothing of each other's.
#[test]
fn processes_share_a_store() {
    let card = Card::initialised();
    let pin = card.file("user", b"1234\n");
    let generate = |number: usize| {
        let id = format!("{number:02x}");
        let arguments = ["generate", "--label", "shared", "--id", &id, "--pin-file", &pin];
        let mut command = card.command(env!("CARGO_BIN_EXE_hufu-softtoken"));
        command.args(arguments).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let processes: Vec<_> = (0..8).map(generate).collect();
    for process in processes {
        done(&process.wait_with_output().unwrap());
    }
    let objects = std::fs::read_dir(card.path("store/slot-00/objects")).unwrap();
    let ending = |name: &str| {
        let names = objects.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|found| found.ends_with(name)).count()
    };
    assert_eq!(ending(".closed"), 8);
    // Eight right PINs, one after the other, leave no wrong attempt behind.
    assert!(card.admin().generate(0, PIN.as_bytes(), KeyKind::Sm2Sign, "last", &[9]).is_ok());
}

/// Processes that try PINs at once get as many attempts as one alone.
#[test]
fn attempts_at_once_are_counted_one_by_one() {
    let card = Card::initialised();
    let (pin, wrong) = (card.file("user", b"1234\n"), card.file("wrong", b"0000\n"));
    let attempt = |pin: &str| {
        let mut command = card.command(env!("CARGO_BIN_EXE_hufu-softtoken"));
        command.args(["generate", "--label", "x", "--pin-file", pin]);
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let processes: Vec<_> = (0..14).map(|_| attempt(&wrong)).collect();
    let said: Vec<_> = processes
        .into_iter()
        .map(|process| process.wait_with_output().unwrap().stderr)
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .collect();
    let count = |what: &str| said.iter().filter(|line| line.contains(what)).count();
    // Ten are allowed; the tenth locks.
    assert_eq!((count("wrong PIN"), count("locked")), (9, 5), "{said:?}");
    let refused = attempt(&pin).wait_with_output().unwrap();
    assert!(!refused.status.success(), "the PIN is locked");
}

/// A process that is killed in the middle of a write leaves a store that opens, with nothing half
/// written in it.
#[test]
fn killed_processes_leave_a_whole_store() {
    let card = Card::initialised();
    let pin = card.file("user", b"1234\n");
    let objects = card.path("store/slot-00/objects");
    let written = |ending: &str| {
        let names = std::fs::read_dir(&objects).unwrap().flatten();
        names.filter(|entry| text(&entry.path()).ends_with(ending)).count()
    };
    let mut killed_count = 0;
    for number in 0..20 {
        let id = format!("{number:02x}");
        let arguments = ["generate", "--label", "k", "--id", &id, "--pin-file", &pin];
        let mut command = card.command(env!("CARGO_BIN_EXE_hufu-softtoken"));
        let mut process =
            command.args(arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
        let before = written("");
        while process.try_wait().unwrap().is_none() {
            if written("") != before {
                // It is writing, or has just written.
                killed_count += usize::from(process.kill().is_ok());
                break;
            }
        }
        process.wait().unwrap();
    }
    assert!(killed_count > 0, "none was killed while it wrote");
    card.admin().generate(0, PIN.as_bytes(), KeyKind::Sm2Sign, "last", &[99]).unwrap();
    assert_eq!(written(".new"), 0);
    assert!(written(".closed") > 0);
}

/// The tool: PINs come from files, and what is wrong is said in words.
#[test]
fn the_tool_begins_a_token_makes_keys_and_commands_faults() {
    let card = Card::blank();
    let (so_pin, pin) = (card.file("so", b"12345678\n"), card.file("user", b"1234\n"));
    let wrong = card.file("wrong", b"0000\n");
    let run = |arguments: &[&str]| {
        card.command(env!("CARGO_BIN_EXE_hufu-softtoken")).args(arguments).output().unwrap()
    };
    let init = ["init", "--label", "demo", "--so-pin-file", &so_pin, "--pin-file", &pin];
    done(&run(&init));
    let generate = ["generate", "--label", "v0", "--id", "01", "--pin-file"];
    let made = done(&run(&[&generate[..], &[&pin]].concat()));
    assert_eq!(made.trim().len(), 128, "{made}");
    let refused = run(&[&generate[..], &[&wrong]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("wrong PIN"), "{said}");
    done(&run(&["fault", "removed", "--millis", "60000"]));
    let refused = run(&[&generate[..], &[&pin]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("commanded away"), "{said}");
    done(&run(&["fault", "clear"]));
    done(&run(&[&generate[..], &[&pin]].concat()));
    assert!(!run(&["--slot", "7", "fault", "clear"]).status.success());
}
