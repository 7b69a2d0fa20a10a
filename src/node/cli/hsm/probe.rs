//! `hufu hsm probe`.
//!
//! ```text
//! library --> tokens, mechanisms, the profile that fits           without a PIN: only looked at
//! and a PIN --> the profile proven on the card, or a draft of one  signatures verified in software
//! ```

mod looks;
mod trial;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::{Library, Session, Unload, User};
use hufu_hsm::pool::TokenSelector;
use hufu_hsm::probe::draft;
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{Error, Profile};
use serde_json::{Value, json};

use self::looks::Slot;
use super::super::CliError;
use super::card::{Token, check_token, pin_of};
use super::error::fault;
use crate::kernels;
use crate::output::Output;

#[derive(Debug, Args)]
#[command(
    after_help = "Without --pin-file it only looks. With it, it logs in once and proves the \
    profile: on the key of --key, or on keys that it makes for the session and that are gone \
    afterwards. A card that no profile fits, or with --draft, is tried code by code and a \
    profile is drafted, which holds only what was proven; read it before you use it \
    (profile_file in the card's file).\n\
    The vendor's library runs in this process, without a sandbox: a library that you do not \
    trust yet is better probed by a user, or on a machine, that has nothing to lose."
)]
pub(in crate::cli) struct Probe {
    /// The PKCS#11 library.
    #[arg(long, value_name = "LIB")]
    module: PathBuf,
    /// The token in this slot.
    #[arg(long, group = "which")]
    slot: Option<u64>,
    /// The token with this label.
    #[arg(long, group = "which", value_name = "LABEL")]
    token: Option<String>,
    /// The token with this serial number.
    #[arg(long, group = "which")]
    serial: Option<String>,
    /// File with the user's PIN, to try the card and not only look.
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// The profile to prove, of those that are compiled in.
    #[arg(long, group = "by", value_name = "NAME")]
    profile: Option<String>,
    /// The profile to prove, in a file.
    #[arg(long, group = "by", value_name = "FILE")]
    profile_file: Option<PathBuf>,
    /// A signing key to prove the profile on: pkcs11:object=LABEL.
    #[arg(long, value_name = "URI", value_parser = super::key, requires = "pin_file",
        conflicts_with = "draft")]
    key: Option<KeyUri>,
    /// Draft a profile and write it to this new file.
    #[arg(long, value_name = "FILE", requires = "pin_file", conflicts_with = "by")]
    draft: Option<PathBuf>,
}

pub(super) fn run(probe: &Probe, output: Output) -> Result<(), CliError> {
    let place = probe.module.display();
    let told = |error: Error| fault(&error, &place);
    if let Some(path) = probe.draft.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
        return Err(CliError::file("exists already", path, "choose another name for the draft"));
    }
    let pin = probe.pin_file.as_deref().map(pin_of).transpose()?;
    let wanted = probe.profiles().map_err(told)?;
    // Kept while tokens are looked at, so that it is loaded once.
    let library = Library::load_with(&probe.module, Unload::KeepMapped).map_err(told)?;
    let info = library.info().map_err(told)?;
    let chosen = match probe.selector() {
        Some(selector) => Some(Token::find(&probe.module, selector).map_err(told)?.slot),
        None => None,
    };
    let mut slots = Vec::new();
    for number in library.slots().map_err(told)? {
        if chosen.is_none_or(|chosen| chosen == number) {
            slots.push(Slot::look(&library, number, &wanted));
        }
    }
    let (mut value, mut lines) = looks::of_library(&info, &slots);
    if slots.is_empty() {
        let found = "no token at all".to_owned();
        return Err(told(Error::TokenMissing { wanted: "any slot".to_owned(), found }));
    }
    if let Some(pin) = &pin {
        let [slot] = slots.as_slice() else {
            return Err(CliError::usage(
                format!("{} tokens are there, and a PIN is for one", slots.len()),
                "name the token with --slot, --token or --serial",
            ));
        };
        let selector = TokenSelector::Slot(slot.number);
        let token = Token::find(&probe.module, selector).map_err(told)?;
        probe.key.iter().try_for_each(|key| check_token(key, &token.identity))?;
        let (field, found, text) = probe.try_card(&token, &wanted, pin).map_err(told)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert(field.to_owned(), found);
        }
        if let (Some(path), Some(profile)) = (&probe.draft, value["draft"]["profile"].as_str()) {
            write_new(path, profile)?;
            lines.push(format!("the draft is in {}", path.display()));
        }
        lines.push(text);
    }
    output.result(&value, lines.join("\n"));
    Ok(())
}

impl Probe {
    fn selector(&self) -> Option<TokenSelector> {
        let label = || self.token.clone().map(TokenSelector::Label);
        let serial = || self.serial.clone().map(TokenSelector::Serial);
        self.slot.map(TokenSelector::Slot).or_else(label).or_else(serial)
    }

    /// The profiles that may be used: the one that is named, or all that are compiled in.
    fn profiles(&self) -> Result<Vec<Profile>, Error> {
        if let Some(path) = &self.profile_file {
            let name = path.display().to_string();
            let invalid = |reason: String| Error::ProfileInvalid { name: name.clone(), reason };
            let text = std::fs::read_to_string(path).map_err(|cause| invalid(cause.to_string()))?;
            return Ok(vec![Profile::parse(&name, &text)?]);
        }
        let mut profiles = Profile::shipped()?;
        if let Some(wanted) = &self.profile {
            let names: Vec<String> = profiles.iter().map(|one| one.name.clone()).collect();
            profiles.retain(|profile| profile.name == *wanted);
            if profiles.is_empty() {
                let reason = format!("there is none of this name; there are {}", names.join(", "));
                return Err(Error::ProfileMismatch { profile: wanted.clone(), reason });
            }
        }
        Ok(profiles)
    }

    /// Logs in and proves the profile that fits, or drafts one: name of the field, value and text.
    fn try_card(
        &self,
        token: &Token,
        profiles: &[Profile],
        pin: &Pin,
    ) -> Result<(&'static str, Value, String), Error> {
        let is_named = self.profile.is_some() || self.profile_file.is_some();
        let fitting = Profile::choose_or_fit(profiles, &token.identity);
        let profile = match fitting {
            Ok(profile) if self.draft.is_none() => profile,
            Err(error) if is_named || self.key.is_some() => return Err(error),
            _ => {
                let session = logged_in(token, None, pin)?;
                return draft_of(token, &session, profiles, pin);
            }
        };
        let session = logged_in(token, Some(&profile), pin)?;
        let proven = trial::prove(&session, &profile, self.key.as_ref(), pin)?;
        let mut text = format!("profile {} is proven on this card:\n", profile.name);
        text.push_str(&proven.lines().join("\n"));
        Ok(("proven", proven.to_json(), text))
    }
}

/// One attempt with the PIN.
fn logged_in(token: &Token, profile: Option<&Profile>, pin: &Pin) -> Result<Session, Error> {
    let session = token.session(profile)?;
    session.login(User::User, pin)?;
    Ok(session)
}

fn draft_of(
    token: &Token,
    session: &Session,
    known: &[Profile],
    pin: &Pin,
) -> Result<(&'static str, Value, String), Error> {
    let verifier = kernels::provider().verifier;
    let drafted = draft(&token.library, session, Some(pin), &token.identity, known, &*verifier)?;
    let profile = drafted.profile.to_toml()?;
    let remarks = drafted.remarks.iter().map(|remark| format!("# {remark}\n"));
    let text: String = remarks.chain(std::iter::once(profile.clone())).collect();
    let value = json!({ "profile": profile, "remarks": drafted.remarks });
    Ok(("draft", value, text))
}

/// Writes a file that was not there before.
fn write_new(path: &Path, text: &str) -> Result<(), CliError> {
    let written = std::fs::File::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|cause| CliError::file(cause, path, "choose another place for the draft"))
}
