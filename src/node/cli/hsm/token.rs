//! `hufu hsm init-token|set-pin`.

use std::path::PathBuf;

use clap::Args;
use hufu_hsm::Error;
use hufu_hsm::pin::Pin;
use hufu_hsm::pkcs11::{TokenInfo, User, codes};
use hufu_hsm::pool::TokenSelector;
use serde_json::json;

use super::super::CliError;
use super::super::audit::AuditTo;
use super::CardFile;
use super::card::{KnownCard, Token, card_facts, pin_of};
use super::error::fault;
use crate::audit::events::file_name;
use crate::output::Output;

/// Bytes of a token's label (PKCS#11 3.1 `C_InitToken`).
const LABEL_BYTES_MAX: usize = 32;

#[derive(Debug, Args)]
#[command(after_help = "Every key and certificate on the token is destroyed. A token that is \
    initialised already wants --yes and its present security officer's PIN. PINs come from files \
    of mode 0600. The vendor's library runs in this process.")]
pub(in crate::cli) struct InitToken {
    /// The vendor's PKCS#11 library.
    #[arg(long, value_name = "LIB")]
    module: PathBuf,
    /// The slot with the token.
    #[arg(long)]
    slot: u64,
    /// What the token is to be called, 1 to 32 bytes.
    #[arg(long, value_parser = label)]
    label: String,
    /// File with the security officer's PIN.
    #[arg(long, value_name = "FILE")]
    so_pin_file: PathBuf,
    /// File with the user's PIN, which is set.
    #[arg(long, value_name = "FILE")]
    pin_file: PathBuf,
    /// Destroy what an initialised token holds.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    audit: AuditTo,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The present PIN is read from where the card's file says, and tried once. Put \
    the new one there afterwards: until then whoever uses the file tries the old one, and each \
    attempt counts. The vendor's library runs in this process."
)]
pub(in crate::cli) struct SetPin {
    #[command(flatten)]
    card: CardFile,
    /// File with the new PIN.
    #[arg(long, value_name = "FILE")]
    new_pin_file: PathBuf,
    #[command(flatten)]
    audit: AuditTo,
}

fn label(text: &str) -> Result<String, String> {
    match text.len() {
        1..=LABEL_BYTES_MAX if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        size => Err(format!("{size} bytes; 1 to {LABEL_BYTES_MAX}, without control characters")),
    }
}

pub(super) fn init(init: &InitToken, output: Output) -> Result<(), CliError> {
    let place = format!("slot {} of {}", init.slot, init.module.display());
    let told = |error: Error| fault(&error, &place);
    let (so_pin, pin) = (pin_of(&init.so_pin_file)?, pin_of(&init.pin_file)?);
    let wanted = TokenSelector::Slot(init.slot);
    let token = Token::find(&init.module, wanted).map_err(told)?;
    let info = token.library.token_info(token.slot).map_err(told)?;
    if info.flags & codes::CKF_TOKEN_INITIALIZED != 0 && !init.yes {
        return Err(CliError::failed(
            format!(
                "the token is initialised already: {:?}, serial {:?}; all its keys would be lost",
                info.label, info.serial
            ),
            place,
            "take another slot, or --yes to destroy what is on it",
        ));
    }
    let (slot, info) = init.audit.record(
        "token.initialised",
        init.label.clone(),
        || initialise(init, &token, (&so_pin, &pin)).map_err(told),
        |(slot, info)| vec![("slot", slot.to_string()), ("serial", info.serial.clone())],
    )?;
    let value = json!({ "slot": slot, "label": info.label, "serial": info.serial });
    let text = format!("slot   = {slot}\nlabel  = {:?}\nserial = {:?}", info.label, info.serial);
    output.result(&value, text);
    Ok(())
}

/// Initialises the token and sets its user's PIN; where it is then, and what it says of itself.
fn initialise(
    init: &InitToken,
    token: &Token,
    (so_pin, pin): (&Pin, &Pin),
) -> Result<(u64, TokenInfo), Error> {
    token.library.init_token(token.slot, so_pin, &init.label)?;
    // Some libraries give an initialised token another slot.
    let mut slot = token.slot;
    if token.library.token_info(slot).map_or(true, |info| info.label != init.label) {
        let label = TokenSelector::Label(init.label.clone());
        slot = Token::find(&init.module, label)?.slot;
    }
    let session = token.library.open_session(slot, true)?;
    session.login(User::SecurityOfficer, so_pin)?;
    session.init_pin(pin)?;
    session.logout()?;
    Ok((slot, token.library.token_info(slot)?))
}

pub(super) fn set_pin(set: &SetPin, output: Output) -> Result<(), CliError> {
    let new = pin_of(&set.new_pin_file)?;
    let change = || {
        let card = KnownCard::open(&set.card.path)?;
        let old = card.config.pin.read().map_err(|error| card.fault(&error))?;
        let session = card.token.session(Some(&card.profile));
        let changed = session.and_then(|session| session.set_pin(&old, &new));
        changed.map_err(|error| card.fault(&error))?;
        Ok(card)
    };
    let facts = |card: &KnownCard| card_facts(&card.token.identity);
    let card = set.audit.record("pin.changed", file_name(&set.card.path), change, facts)?;
    let (label, source) = (&card.token.identity.token_label, &card.config.pin);
    let value = json!({ "label": label, "pin_from": source.to_string() });
    let text = format!("the PIN of {label:?} is changed; put the new one into {source} now");
    output.result(&value, text);
    Ok(())
}
