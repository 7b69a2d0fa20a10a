//! `hufu hsm keygen`.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use hufu_crypto::PublicKey;
use hufu_hsm::card::{FoundKey, KeyClass, KeyName, keys};
use hufu_hsm::pkcs11::{Session, codes};
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{Error, KeyReference, Profile, Rv, Usage, probe};
use serde_json::json;

use super::super::CliError;
use super::super::audit::AuditTo;
use super::CardFile;
use super::card::{KnownCard, card_facts, check_token, public_key_text, with_public_key};
use crate::keys_file::{self, KeyFileError};
use crate::output::Output;
use crate::{card_key, kernels};

#[derive(Debug, Args)]
#[command(
    after_help = "The key is made on the card by the card's profile, and what the card made of \
    it is checked: on the card, sensitive, private, as able to leave as its class says. A pair \
    is then tried. A name that exists is refused. The class cannot be changed later. The \
    vendor's library runs in this process."
)]
pub(in crate::cli) struct Keygen {
    #[command(flatten)]
    card: CardFile,
    /// The key's name: pkcs11:object=LABEL, pkcs11:id=%01, or pkcs11:x-index=N.
    #[arg(long, value_name = "URI", value_parser = super::key)]
    key: KeyUri,
    /// What it is for; a key has one use.
    #[arg(long)]
    usage: KeyUsage,
    /// How it may leave the card.
    #[arg(long, default_value = "single-card")]
    class: Class,
    /// Key file to make for the pair: it says which key of which card it is, holds no secret, and
    /// stands where a key file stands (node.key).
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    audit: AuditTo,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KeyUsage {
    /// An SM2 pair that signs: votes, transactions.
    Sign,
    /// An SM2 pair that decrypts.
    Decrypt,
    /// An SM4 key that wraps data keys.
    Wrap,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Class {
    /// Never, and without any backup: a lost card is a new key.
    SingleCard,
    /// Only wrapped, in shares: `hufu hsm export-shares`.
    Cloned,
}

impl From<KeyUsage> for Usage {
    fn from(usage: KeyUsage) -> Self {
        match usage {
            KeyUsage::Sign => Self::Sign,
            KeyUsage::Decrypt => Self::Decrypt,
            KeyUsage::Wrap => Self::Wrap,
        }
    }
}

impl From<Class> for KeyClass {
    fn from(class: Class) -> Self {
        match class {
            Class::SingleCard => Self::SingleCard,
            Class::Cloned => Self::Cloned,
        }
    }
}

pub(super) fn run(keygen: &Keygen, output: Output) -> Result<(), CliError> {
    if let Some(out) = keygen.out.as_ref().filter(|out| out.exists()) {
        let error = KeyFileError::Exists { path: out.clone() };
        return Err(CliError::key(&error, out));
    }
    let card = KnownCard::open(&keygen.card.path)?;
    let reference = &keygen.key.key;
    check_token(&keygen.key, &card.token.identity)?;
    let profile = &card.profile;
    let name = keys::name_of(profile, reference).map_err(|error| card.fault(&error))?;
    let facts = |key: &FoundKey| {
        let word = |value: Option<PossibleValue>| value.map(|it| it.get_name().to_owned());
        let mut facts = card_facts(&card.token.identity);
        facts.push(("class", word(keygen.class.to_possible_value()).unwrap_or_default()));
        facts.push(("usage", word(keygen.usage.to_possible_value()).unwrap_or_default()));
        facts.extend(key.public.map(|public| ("address", public.address().to_string())));
        facts
    };
    let made = || make_and_try(keygen, &card, &name);
    let key = keygen.audit.record("key.generated", keygen.key.to_string(), made, facts)?;
    if let (Some(out), Some(public)) = (&keygen.out, &key.public) {
        write_key_file(out, &keygen.card.path, &keygen.key, public)?;
    }
    let value = json!({ "key": reference.to_string(), "card": card.config.name });
    let text = match &key.public {
        Some(public) => public_key_text(public),
        None => format!("the key with {reference} wraps; it has no public key"),
    };
    output.result(&with_public_key(value, key.public.as_ref()), text);
    Ok(())
}

/// Makes the key and tries it.
fn make_and_try(
    keygen: &Keygen,
    card: &KnownCard,
    (label, id): &(String, Vec<u8>),
) -> Result<FoundKey, CliError> {
    let (reference, profile) = (&keygen.key.key, &card.profile);
    let (session, pin) = card.log_in()?;
    refuse_existing(&session, profile, reference, card)?;
    let (class, usage) = (KeyClass::from(keygen.class), Usage::from(keygen.usage));
    let made = || -> Result<FoundKey, Error> {
        let name = KeyName { label, id, is_kept: true };
        let key = make(&session, profile, &name, usage, class)?;
        // Found again by its name, as the node will find it.
        let found = keys::find(&session, profile, reference, usage)?;
        match usage {
            Usage::Sign => {
                let verifier = kernels::provider().verifier;
                probe::prove(&session, profile, &found, Some(&pin), &*verifier)?;
            }
            Usage::Decrypt => {
                probe::prove_decrypt(&session, profile, &found, Some(&pin))?;
            }
            Usage::Wrap => {}
        }
        Ok(FoundKey { public: found.public, ..key })
    };
    made().map_err(|error| card.fault(&error))
}

/// Writes the key file that says which key of which card it is.
pub(super) fn write_key_file(
    out: &Path,
    card: &Path,
    key: &KeyUri,
    public: &PublicKey,
) -> Result<(), CliError> {
    let file = std::path::absolute(card);
    let file = file.map_err(|cause| CliError::failed(cause, "--card", "name its file"))?;
    let text = card_key::text(&file, &key.to_string(), public);
    keys_file::write_new(out, text.as_bytes()).map_err(|error| CliError::key(&error, out))
}

/// Makes the key by the first mechanism of the profile that this card knows.
pub(super) fn make(
    session: &Session,
    profile: &Profile,
    name: &KeyName<'_>,
    usage: Usage,
    class: KeyClass,
) -> Result<FoundKey, Error> {
    if usage == Usage::Wrap {
        return keys::generate_wrapping_key(session, profile, name, class);
    }
    let mut unknown = None;
    for code in &profile.sm2.generate {
        match keys::generate_pair(session, profile, *code, name, usage, class) {
            Err(Error::Call { rv: Rv(codes::CKR_MECHANISM_INVALID), .. }) => unknown = Some(*code),
            other => return other,
        }
    }
    let reason = match unknown {
        Some(code) => format!("the card does not know mechanism {code:#x}"),
        None => "it names no mechanism".to_owned(),
    };
    let step = "making a pair".to_owned();
    Err(Error::ProbeFailed { profile: profile.name.clone(), step, reason })
}

/// A key of this name, of whatever kind, is never joined by another.
pub(super) fn refuse_existing(
    session: &Session,
    profile: &Profile,
    reference: &KeyReference,
    card: &KnownCard,
) -> Result<(), CliError> {
    for usage in [Usage::Sign, Usage::Wrap] {
        match keys::find(session, profile, reference, usage) {
            Err(Error::KeyMissing { .. }) => {}
            Ok(_) | Err(Error::KeyUnsuitable { .. } | Error::KeyAmbiguous { .. }) => {
                return Err(CliError::failed(
                    format!("a key with {reference} exists already"),
                    format!("card {:?}", card.config.name),
                    "choose another name; a key is never made over another one",
                ));
            }
            Err(error) => return Err(card.fault(&error)),
        }
    }
    Ok(())
}
