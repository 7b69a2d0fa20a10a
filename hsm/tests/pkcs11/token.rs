//! SoftHSM2 in a process of its own, with one token.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::codes as ck;
use hufu_hsm::pkcs11::{Attribute, Library, Mechanism, Session, User};

/// Where Debian and others put the library.
const PLACES: &[&str] = &[
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// Set in the process in which a test's body runs: its name.
const CHILD_VARIABLE: &str = "HUFU_HSM_TEST";

pub(crate) const LABEL: &str = "hufu test";
pub(crate) const OFFICER_PIN: &[u8] = b"87654321";
pub(crate) const USER_PIN: &[u8] = b"12345678";

pub(crate) fn softhsm() -> Option<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Runs `body` in a process of its own with an empty SoftHSM2; `test` is the test's whole name.
pub(crate) fn with_softhsm(test: &str, body: impl FnOnce(&Path)) {
    let Some(library) = softhsm() else {
        eprintln!("skipped: SoftHSM2 is not installed (Debian: softhsm2)");
        return;
    };
    in_own_process(test, |_folder| body(&library));
}

/// Runs `body` in a process of its own with a temporary folder, in which an empty SoftHSM2 is
/// configured.
pub(crate) fn in_own_process(test: &str, body: impl FnOnce(&Path)) {
    if std::env::var(CHILD_VARIABLE).as_deref() == Ok(test) {
        let configuration = PathBuf::from(std::env::var_os("SOFTHSM2_CONF").unwrap());
        return body(configuration.parent().unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = folder.path().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&configuration, text).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_VARIABLE, test)
        .env("SOFTHSM2_CONF", &configuration)
        .env("CREDENTIALS_DIRECTORY", folder.path())
        .output()
        .unwrap();
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}: {}{}", output.status, text[0], text[1]);
    assert!(text[0].contains("1 passed"), "no test is called {test}: {}", text[0]);
}

pub(crate) fn pin(bytes: &[u8]) -> Pin {
    Pin::from_reader(bytes, "test").unwrap()
}

/// The slot of our token. SoftHSM2 numbers slots anew when it is loaded.
pub(crate) fn slot(library: &Library) -> u64 {
    slot_of(library, LABEL)
}

fn slot_of(library: &Library, label: &str) -> u64 {
    let is_ours = |slot: &u64| library.token_info(*slot).unwrap().label == label;
    library.slots().unwrap().into_iter().find(is_ours).unwrap()
}

/// Initialises the free slot's token and its user's PIN; the slot it is in then.
pub(crate) fn initialise(library: &Arc<Library>) -> u64 {
    initialise_as(library, LABEL)
}

/// SoftHSM2 always has one free slot, the last.
pub(crate) fn initialise_as(library: &Arc<Library>, label: &str) -> u64 {
    let free = *library.slots().unwrap().last().unwrap();
    library.init_token(free, &pin(OFFICER_PIN), label).unwrap();
    let slot = slot_of(library, label);
    let session = library.open_session(slot, true).unwrap();
    session.login(User::SecurityOfficer, &pin(OFFICER_PIN)).unwrap();
    session.init_pin(&pin(USER_PIN)).unwrap();
    session.logout().unwrap();
    slot
}

/// A session of the user's on a fresh token.
pub(crate) fn user_session(path: &Path) -> Session {
    let library = Library::load(path).unwrap();
    let slot = initialise(&library);
    let session = library.open_session(slot, true).unwrap();
    session.login(User::User, &pin(USER_PIN)).unwrap();
    session
}

pub(crate) const ECDSA: Mechanism<'static> = Mechanism::bare(ck::CKM_ECDSA);

/// DER of the OID of P-256.
pub(crate) const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// A P-256 pair that stays in the token: the public and the private key.
pub(crate) fn generate_pair(session: &Session, label: &str) -> (u64, u64) {
    let public = [
        Attribute::bool(ck::CKA_TOKEN, true),
        Attribute::bool(ck::CKA_VERIFY, true),
        Attribute::bytes(ck::CKA_EC_PARAMS, P256),
        Attribute::text(ck::CKA_LABEL, label),
    ];
    let private = [
        Attribute::bool(ck::CKA_TOKEN, true),
        Attribute::bool(ck::CKA_PRIVATE, true),
        Attribute::bool(ck::CKA_SIGN, true),
        Attribute::bool(ck::CKA_SENSITIVE, true),
        Attribute::bool(ck::CKA_EXTRACTABLE, false),
        Attribute::text(ck::CKA_LABEL, label),
    ];
    let mechanism = Mechanism::bare(ck::CKM_EC_KEY_PAIR_GEN);
    session.generate_key_pair(&mechanism, &public, &private).unwrap()
}

/// The private key of this label.
pub(crate) fn private_key(session: &Session, label: &str) -> Option<u64> {
    let template = [
        Attribute::number(ck::CKA_CLASS, ck::CKO_PRIVATE_KEY),
        Attribute::text(ck::CKA_LABEL, label),
    ];
    session.find(&template, 1).unwrap().first().copied()
}
