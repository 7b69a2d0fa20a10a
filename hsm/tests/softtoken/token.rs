//! The soft token in a process of its own, as the card of one vendor.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hufu_crypto::software_provider;
use hufu_hsm::card::{Card, KeyClass, KeyName, keys};
use hufu_hsm::config::CardConfig;
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::{Library, Session, User};
use hufu_hsm::profile::KeyNaming;
use hufu_hsm::{Error, KeyReference, Profile, Usage};
use hufu_softtoken::Faults;

/// Set in the process in which a test's body runs: test and imitation.
const CHILD_VARIABLE: &str = "HUFU_HSM_TEST";

pub(crate) const IMITATIONS: [&str; 8] =
    ["native", "sansec", "tass", "koal", "westone", "ep11", "luna", "wosign"];
pub(crate) const PIN: &[u8] = b"12345678";
pub(crate) const OFFICER_PIN: &[u8] = b"87654321";
const LABEL: &str = "hufu test";

/// A token that was initialised, and the folder it is in.
pub(crate) struct Token {
    pub(crate) folder: PathBuf,
    pub(crate) module: PathBuf,
    pub(crate) imitation: String,
}

/// The library that was built as this test's dependency.
fn module() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.set_file_name("libhufu_softtoken.so");
    assert!(path.exists(), "{} is built with this test", path.display());
    path
}

/// Runs `body` in one process for each imitation, with a token that has nothing on it yet; `test`
/// is the test's whole name.
pub(crate) fn with_each(test: &str, imitations: &[&str], body: impl Fn(&Token)) {
    if let Ok(child) = std::env::var(CHILD_VARIABLE) {
        let (name, imitation) = child.split_once('/').unwrap();
        assert_eq!(name, test);
        let configuration = PathBuf::from(std::env::var_os("HUFU_SOFTTOKEN_CONF").unwrap());
        let folder = configuration.parent().unwrap().to_owned();
        let token = Token { folder, module: module(), imitation: imitation.to_owned() };
        token.initialise();
        return body(&token);
    }
    for imitation in imitations {
        let folder = tempfile::tempdir().unwrap();
        let configuration = folder.path().join("softtoken.toml");
        let store = folder.path().join("store");
        let text = format!(
            "store = {store:?}\nimitation = \"{imitation}\"\npin_rounds = 1000\nmessages = true\n"
        );
        std::fs::write(&configuration, text).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD_VARIABLE, format!("{test}/{imitation}"))
            .env("HUFU_SOFTTOKEN_CONF", &configuration)
            .output()
            .unwrap();
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{imitation}: {}{}", text[0], text[1]);
        assert!(text[0].contains("1 passed"), "no test is called {test}: {}", text[0]);
    }
}

impl Token {
    /// Begins it anew: what it held is gone.
    pub(crate) fn initialise(&self) {
        let library = Library::load(&self.module).unwrap();
        let slot = library.slots().unwrap()[0];
        let pin = |bytes: &[u8]| Pin::from_reader(bytes, "test").unwrap();
        library.init_token(slot, &pin(OFFICER_PIN), LABEL).unwrap();
        let session = library.open_session(slot, true).unwrap();
        session.login(User::SecurityOfficer, &pin(OFFICER_PIN)).unwrap();
        session.init_pin(&pin(PIN)).unwrap();
        session.logout().unwrap();
    }

    /// A session in which the user is logged in and may write.
    pub(crate) fn session(&self) -> (Arc<Library>, Session) {
        let library = Library::load(&self.module).unwrap();
        let session = library.open_session(library.slots().unwrap()[0], true).unwrap();
        session.login(User::User, &Pin::from_reader(PIN, "test").unwrap()).unwrap();
        (library, session)
    }

    /// The profile that ships for the imitated vendor.
    pub(crate) fn profile(&self) -> Profile {
        let name = if self.imitation == "native" { "hufu-softtoken" } else { &self.imitation };
        let mut shipped = Profile::shipped().unwrap().into_iter();
        shipped.find(|profile| profile.name == name).unwrap()
    }

    /// Makes a signing pair "vote", a decrypting pair "open" and a wrapping key "data".
    pub(crate) fn make_keys(&self) {
        let (_library, session) = self.session();
        let profile = self.profile();
        for (label, usage) in [("vote", Usage::Sign), ("open", Usage::Decrypt)] {
            let id = number_of(label).to_le_bytes();
            let name = KeyName { label, id: &id, is_kept: true };
            let made = profile.sm2.generate.first().map(|code| {
                let class = KeyClass::SingleCard;
                keys::generate_pair(&session, &profile, *code, &name, usage, class)
            });
            made.unwrap().unwrap();
        }
        let id = number_of("data").to_le_bytes();
        let name = KeyName { label: "data", id: &id, is_kept: true };
        keys::generate_wrapping_key(&session, &profile, &name, KeyClass::SingleCard).unwrap();
    }

    /// How this vendor's keys are named.
    pub(crate) fn key(&self, label: &str) -> KeyReference {
        match self.profile().quirks.key_naming {
            KeyNaming::Attributes => KeyReference::Label(label.to_owned()),
            _ => KeyReference::Index(number_of(label)),
        }
    }

    /// The card's file, with more lines.
    pub(crate) fn config(&self, more: &str) -> CardConfig {
        use std::os::unix::fs::PermissionsExt;
        let pin = self.folder.join("card.pin");
        std::fs::write(&pin, PIN).unwrap();
        std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "name = \"card-0\"\nmodule = {:?}\ntoken_label = {LABEL:?}\npin_file = \"card.pin\"\n\
             {more}\n",
            self.module
        );
        CardConfig::parse(&text, &self.folder.join("card.toml")).unwrap()
    }

    pub(crate) fn card(&self, more: &str) -> Result<Card, Error> {
        Card::open(&self.config(more), software_provider().verifier)
    }

    pub(crate) fn faults(&self) -> Faults {
        Faults::open(&self.folder.join("store"), 0).unwrap()
    }
}

/// The number of the key with this label, where a vendor's keys have numbers.
pub(crate) fn number_of(label: &str) -> u32 {
    match label {
        "vote" => 1,
        "open" => 2,
        "data" => 3,
        _ => 9,
    }
}

/// Far enough away to catch hangs only.
pub(crate) fn soon() -> hufu_runtime::clock::Nanos {
    hufu_hsm::card::deadline_in(std::time::Duration::from_secs(60))
}

pub(crate) fn path_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}
