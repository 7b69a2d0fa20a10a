//! `hufu hsm status`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use hufu_crypto::PublicKey;
use hufu_hsm::card::{Card, deadline_in};
use hufu_hsm::config::CardConfig;
use hufu_hsm::pkcs11::{TokenInfo, codes};
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{CardIdentity, Error, Keystore, Profile, Usage};
use serde_json::{Value, json};

use super::super::CliError;
use super::CardFile;
use super::card::{Token, check_token, identity_text, load, public_key_text, with_public_key};
use super::error::{fault, remedy};
use super::live;
use crate::kernels;
use crate::output::Output;

/// How long the card may take for everything.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
#[command(
    after_help = "It logs in once and opens the sessions that a node would open; keys that are \
    asked for are found, judged and tried. What a running node sees of its card is in the node's \
    log and metrics, which --admin shows: without it this is another user of the card, and takes \
    sessions while it runs. Exit \
    code 0 if nothing is wrong, 78 if what was set up is. The vendor's library runs in this \
    process."
)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    card: CardFile,
    /// A key that should be there: pkcs11:object=LABEL. May be given several times.
    #[arg(long, value_name = "URI", value_parser = super::key)]
    key: Vec<KeyUri>,
    /// Show what the running node with this admin address sees of the card instead; the card is
    /// left alone.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "key")]
    admin: Option<SocketAddr>,
}

/// What was found out.
struct Report {
    config: CardConfig,
    identity: CardIdentity,
    info: TokenInfo,
    profile: Option<Profile>,
    sessions_count: usize,
    keys: Vec<FoundKey>,
    problems: Vec<Error>,
}

/// A key that was asked for.
struct FoundKey {
    name: String,
    usages: Vec<Usage>,
    public: Option<PublicKey>,
}

pub(super) fn run(status: &Status, output: Output) -> Result<(), CliError> {
    let config = load(&status.card.path)?;
    if let Some(admin) = status.admin {
        return live::show(&config.name, admin, output);
    }
    let place = status.card.path.display();
    let told = |error: &Error| fault(error, &place);
    let token = Token::find(&config.module, config.token.clone()).map_err(|error| told(&error))?;
    status.key.iter().try_for_each(|key| check_token(key, &token.identity))?;
    let info = token.library.token_info(token.slot).map_err(|error| told(&error))?;
    let mut report = Report {
        config,
        identity: token.identity.clone(),
        info,
        profile: None,
        sessions_count: 0,
        keys: Vec::new(),
        problems: Vec::new(),
    };
    if let Err(error) = report.examine(&status.key) {
        report.problems.push(error);
    }
    output.result(&report.to_json(), report.text());
    report.problems.first().map_or(Ok(()), |first| Err(told(first)))
}

impl Report {
    /// Everything that wants the PIN; the first error ends it but for those of single keys.
    fn examine(&mut self, keys: &[KeyUri]) -> Result<(), Error> {
        let card = Card::open(&self.config, kernels::provider().verifier)?;
        self.profile = Some(card.profile().clone());
        let count = usize::try_from(self.config.sessions_max).unwrap_or(1);
        card.warm_up(count, deadline_in(PATIENCE))?;
        self.sessions_count = card.status().open_count;
        for uri in keys {
            let key = find(&card, uri, &mut self.problems);
            self.keys.push(key);
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        let keys: Vec<Value> = self.keys.iter().map(FoundKey::to_json).collect();
        let problem = |error: &Error| json!({ "what": error.to_string(), "do": remedy(error) });
        json!({
            "card": self.config.name,
            "module": self.config.module.display().to_string(),
            "identity": serde_json::to_value(&self.identity).unwrap_or_default(),
            "profile": self.profile.as_ref().map(|profile| json!({
                "name": profile.name,
                "tested_on_hardware": profile.tested_on_hardware,
            })),
            "sessions": { "open": self.sessions_count, "max": self.config.sessions_max,
                "token_max": self.info.sessions_max },
            "warnings": self.warnings(),
            "keys": keys,
            "problems": self.problems.iter().map(problem).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("card       = {:?}, {}", self.config.name, self.config.module.display()),
            identity_text(&self.identity),
        ];
        if let Some(profile) = &self.profile {
            let tested = if profile.tested_on_hardware { "" } else { ", untested on hardware" };
            lines.push(format!("profile    = {}: {}{tested}", profile.name, profile.title));
        }
        let told = self.info.sessions_max;
        let told = told.map_or_else(String::new, |most| format!(", {most} by the token"));
        let (open, most) = (self.sessions_count, self.config.sessions_max);
        lines.push(format!("sessions   = {open} open, {most} at most by the file{told}"));
        lines.extend(self.keys.iter().map(FoundKey::text));
        lines.extend(self.warnings().into_iter().map(|warning| format!("warning    : {warning}")));
        for error in &self.problems {
            lines.push(format!("wrong      : {error}\n        do : {}", remedy(error)));
        }
        lines.join("\n")
    }

    /// What the token's flags say that an operator should know.
    fn warnings(&self) -> Vec<&'static str> {
        let flags = [
            (codes::CKF_USER_PIN_COUNT_LOW, "the user's PIN was wrong since the last login"),
            (codes::CKF_USER_PIN_FINAL_TRY, "ONE attempt at the user's PIN is left"),
            (codes::CKF_USER_PIN_LOCKED, "the user's PIN is LOCKED"),
            (codes::CKF_USER_PIN_TO_BE_CHANGED, "the user's PIN is to be changed"),
            (codes::CKF_SO_PIN_COUNT_LOW, "the security officer's PIN was wrong"),
            (codes::CKF_SO_PIN_FINAL_TRY, "ONE attempt at the security officer's PIN is left"),
            (codes::CKF_SO_PIN_LOCKED, "the security officer's PIN is LOCKED"),
            (codes::CKF_ERROR_STATE, "the token failed a test of its own"),
        ];
        let set = flags.into_iter().filter(|(flag, _)| self.info.flags & flag != 0);
        let mut warnings: Vec<&str> = set.map(|(_, warning)| warning).collect();
        let wants = u64::from(self.config.sessions_max);
        if self.info.sessions_max.is_some_and(|most| most < wants) {
            warnings.push("the token allows fewer sessions than the file asks for");
        }
        warnings
    }
}

/// Tries the key for each use; what kept it from all of them is a problem.
fn find(card: &Card, uri: &KeyUri, problems: &mut Vec<Error>) -> FoundKey {
    let mut found = FoundKey { name: uri.key.to_string(), usages: Vec::new(), public: None };
    let mut refusals = Vec::new();
    for usage in [Usage::Sign, Usage::Decrypt, Usage::Wrap] {
        match card.open_key(&uri.key, usage, deadline_in(PATIENCE)) {
            Ok(handle) => {
                found.usages.push(usage);
                found.public = found.public.or_else(|| card.public_key(handle).ok());
            }
            Err(error) => refusals.push(error),
        }
    }
    if found.usages.is_empty() {
        // That it is missing as one kind says least.
        refusals.sort_by_key(|error| matches!(error, Error::KeyMissing { .. }));
        problems.extend(refusals.into_iter().next());
    }
    found
}

impl FoundKey {
    fn uses(&self) -> Vec<&'static str> {
        let name = |usage: &Usage| match usage {
            Usage::Sign => "sign",
            Usage::Decrypt => "decrypt",
            Usage::Wrap => "wrap",
        };
        self.usages.iter().map(name).collect()
    }

    fn to_json(&self) -> Value {
        let value = json!({ "key": self.name, "usages": self.uses() });
        with_public_key(value, self.public.as_ref())
    }

    fn text(&self) -> String {
        let uses =
            if self.usages.is_empty() { "NOT USABLE".to_owned() } else { self.uses().join(", ") };
        let mut text = format!("key        = {}: {uses}", self.name);
        if let Some(public) = &self.public {
            text.push('\n');
            text.push_str(&public_key_text(public));
        }
        text
    }
}
