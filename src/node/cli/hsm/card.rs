//! A card that a command works on by itself, without a pool: one library, one slot, one session.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hufu_crypto::PublicKey;
use hufu_hsm::card::identity;
use hufu_hsm::config::CardConfig;
use hufu_hsm::pin::{Pin, PinSource};
use hufu_hsm::pkcs11::{CallStyle, Library, Session, Unload, User};
use hufu_hsm::pool::{TokenOptions, TokenSelector, TokenSource};
use hufu_hsm::profile::LengthQuery;
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{CardIdentity, Error, Profile};
use serde_json::{Value, json};

use super::super::CliError;
use super::error::{fault, refused_file};

/// A token that was found; nobody has logged in.
pub(super) struct Token {
    pub(super) library: Arc<Library>,
    pub(super) slot: u64,
    pub(super) identity: CardIdentity,
}

impl Token {
    /// Finds the one token that fits.
    pub(super) fn find(module: &Path, wanted: TokenSelector) -> Result<Self, Error> {
        let options = TokenOptions {
            library: module.to_owned(),
            token: wanted,
            is_read_write: true,
            call_style: CallStyle::OneCall,
            // A process that ends takes no code out of its memory.
            unload: Unload::KeepMapped,
            sessions_max: None,
        };
        let (library, slot, identity) = TokenSource::new(options, None).find()?;
        Ok(Self { library, slot, identity })
    }

    /// A session that may write, called as the profile says; nobody is logged in.
    pub(super) fn session(&self, profile: Option<&Profile>) -> Result<Session, Error> {
        let session = self.library.open_session(self.slot, true)?;
        if profile.is_some_and(|it| it.quirks.length_query == LengthQuery::Always) {
            session.set_call_style(CallStyle::LengthFirst);
        }
        Ok(session)
    }
}

/// Reads a card's file, and gives this process the environment that the library would have in an
/// agent.
pub(in crate::cli) fn load(path: &Path) -> Result<CardConfig, CliError> {
    let config = CardConfig::load(path).map_err(|error| refused_file(&error))?;
    take_environment(&config, path)?;
    Ok(config)
}

/// Set once a command has begun anew with the environment of a card.
const BEGUN_ANEW: &str = "HUFU_CARD_ENVIRONMENT";

/// A vendor's library finds its own files through variables, which the card's file names. They
/// cannot be set safely in a process that runs, so this one begins anew with them: nothing was done
/// yet.
fn take_environment(config: &CardConfig, path: &Path) -> Result<(), CliError> {
    let is_set = |(name, value): (&String, &String)| {
        std::env::var_os(name).is_some_and(|found| found.as_os_str() == value.as_str())
    };
    if config.environment.iter().all(is_set) {
        return Ok(());
    }
    if std::env::var_os(BEGUN_ANEW).is_some() {
        let fault = "another card of this command wants other values of the same variables";
        return Err(CliError::usage(fault, "use one command for each card"));
    }
    let begun = std::env::current_exe().map(|program| {
        Command::new(program)
            .args(std::env::args_os().skip(1))
            .envs(&config.environment)
            .env(BEGUN_ANEW, "1")
            .exec()
    });
    let cause = begun.unwrap_or_else(|cause| cause);
    Err(CliError::failed(cause, path.display(), "run hufu from a path that still exists"))
}

/// A card by its file: the token, which must be the one from before, and its profile.
pub(super) struct KnownCard {
    pub(super) config: CardConfig,
    pub(super) token: Token,
    pub(super) profile: Profile,
    path: PathBuf,
}

impl KnownCard {
    pub(super) fn open(path: &Path) -> Result<Self, CliError> {
        let config = load(path)?;
        let found = || -> Result<(Token, Profile), Error> {
            let token = Token::find(&config.module, config.token.clone())?;
            // Another card than before gets no PIN.
            identity::known_or_first(&config.identity_file, &token.identity)?;
            let profile = Profile::choose_or_fit(&config.profiles()?, &token.identity)?;
            Ok((token, profile))
        };
        let (token, profile) = found().map_err(|error| fault(&error, path.display()))?;
        Ok(Self { config, token, profile, path: path.to_owned() })
    }

    /// A session in which the user is logged in, and the PIN.
    pub(super) fn log_in(&self) -> Result<(Session, Pin), CliError> {
        let opened = || -> Result<(Session, Pin), Error> {
            let pin = self.config.pin.read()?;
            let session = self.token.session(Some(&self.profile))?;
            session.login(User::User, &pin)?;
            Ok((session, pin))
        };
        opened().map_err(|error| self.fault(&error))
    }

    pub(super) fn fault(&self, error: &Error) -> CliError {
        fault(error, self.path.display())
    }
}

/// A key's URI may say on which token it is; that must be the card's.
pub(in crate::cli) fn check_token(key: &KeyUri, card: &CardIdentity) -> Result<(), CliError> {
    let label = &card.token_label;
    match &key.token {
        Some(wanted) if wanted != label => Err(CliError::usage(
            format!("{} is to be on token {wanted:?}, and the card's is {label:?}", key.key),
            "name the card of that token, or leave the token out of the key's name",
        )),
        _ => Ok(()),
    }
}

/// A PIN of the command line: the name of its file.
pub(super) fn pin_of(file: &Path) -> Result<Pin, CliError> {
    let source = PinSource::File(file.to_owned());
    source.read().map_err(|error| fault(&error, file.display()))
}

/// Who a card is, for people.
pub(super) fn identity_text(card: &CardIdentity) -> String {
    let version = |(major, minor): (u8, u8)| format!("{major}.{minor}");
    format!(
        "token      = {:?}, serial {:?}\nmade by    = {:?}, model {:?}, hardware {}, firmware {}\n\
         library    = {:?}, version {}",
        card.token_label,
        card.token_serial,
        card.token_manufacturer,
        card.token_model,
        version(card.hardware_version),
        version(card.firmware_version),
        card.library_manufacturer,
        version(card.library_version),
    )
}

/// Who a card is, for the audit.
pub(super) fn card_facts(card: &CardIdentity) -> Vec<(&'static str, String)> {
    let version = |(major, minor): (u8, u8)| format!("{major}.{minor}");
    vec![
        ("token", card.token_label.clone()),
        ("serial", card.token_serial.clone()),
        ("model", card.token_model.clone()),
        ("firmware", version(card.firmware_version)),
        ("library", version(card.library_version)),
    ]
}

/// A public key as `hufu keys show` prints it.
pub(super) fn public_key_text(key: &PublicKey) -> String {
    format!("public_key = \"{key}\"\naddress    = \"{}\"", key.address())
}

/// The same as JSON, with more fields.
pub(super) fn with_public_key(mut value: Value, key: Option<&PublicKey>) -> Value {
    if let (Some(fields), Some(key)) = (value.as_object_mut(), key) {
        fields.insert("public_key".to_owned(), json!(key.to_string()));
        fields.insert("address".to_owned(), json!(key.address().to_string()));
    }
    value
}
