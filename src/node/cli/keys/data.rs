//! `hufu keys new-data|show-data|rewrap-data|rotate-data`.

use std::path::{Path, PathBuf};

use clap::Args;
use hufu_hsm::uri::KeyUri;
use hufu_storage::keyring::show_id;
use serde_json::json;

use super::super::audit::AuditTo;
use super::super::{CliError, hsm};
use crate::audit::events::file_name;
use crate::card_key::CardPlace;
use crate::data_key::replace::{self, Keeping};
use crate::data_key::{self, DataKeyError};
use crate::opened_key::OpenedKey;
use crate::output::Output;

/// The key of a card that wraps.
#[derive(Debug, Args)]
struct Wrapper {
    /// Wrap it by a key of the card that this file describes, which then must be there whenever the
    /// data is opened.
    #[arg(long, value_name = "FILE", requires = "key")]
    card: Option<PathBuf>,
    /// The wrapping key (`hufu hsm keygen --usage wrap`): pkcs11:object=LABEL, pkcs11:id=%01, or
    /// pkcs11:x-index=N.
    #[arg(long, value_name = "URI", requires = "card", value_parser = hsm::key)]
    key: Option<KeyUri>,
}

impl Wrapper {
    /// The place as it is written into the file: a path that holds wherever a node is started.
    fn place(&self) -> Result<Option<CardPlace>, CliError> {
        let (Some(card), Some(key)) = (&self.card, &self.key) else { return Ok(None) };
        let card = std::path::absolute(card)
            .map_err(|cause| CliError::file(cause, card, "name the card's file"))?;
        Ok(Some(CardPlace { card, key: key.clone() }))
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Everything a node stores is encrypted with its data key (storage.key_file). \
    Each node has its own, made before its first start. In clear, whoever has the data folder and \
    this file can read everything; wrapped by a card, whoever has these and the card with its \
    PIN. Nobody can without: keep a copy of the file, and not where copies of the folder are. The \
    card's library runs in an agent, as in a node; a wrapped key is read back and opened before \
    this says that it is made."
)]
pub(in crate::cli) struct NewData {
    /// The file to make.
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    wrapper: Wrapper,
    #[command(flatten)]
    audit: AuditTo,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowData {
    /// The data key file.
    file: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The keys stay the same, so the data folder does too: only how the file keeps \
    them changes. The old file is in place until the new one is durable and has proven that it \
    opens the same keys; keys that lay in clear are then overwritten. Copies of the old file \
    still open the data folder: destroy them. A node reads the file when it starts."
)]
pub(in crate::cli) struct RewrapData {
    /// The data key file.
    file: PathBuf,
    #[command(flatten)]
    wrapper: Wrapper,
    /// Keep the keys in clear, where a card wraps them now.
    #[arg(long, conflicts_with = "card", required_unless_present = "card")]
    clear: bool,
    /// Where the file of the card that wraps them now lies, if it was moved.
    #[arg(long, value_name = "FILE")]
    from_card: Option<PathBuf>,
    #[command(flatten)]
    audit: AuditTo,
}

#[derive(Debug, Args)]
#[command(
    after_help = "From its next start on the node encrypts what is new with the fresh key; what \
    is old stays under the old ones, which stay in the file. They are kept as they are now: in \
    clear, or wrapped by the same key of the same card."
)]
pub(in crate::cli) struct RotateData {
    /// The data key file.
    file: PathBuf,
    #[command(flatten)]
    audit: AuditTo,
}

pub(super) fn new(new: &NewData, output: Output) -> Result<(), CliError> {
    let path = &new.out;
    let by = new.wrapper.place()?;
    let make = || match &by {
        None => data_key::create(path).map_err(|error| CliError::key(&error, path)),
        Some(by) => data_key::create_wrapped(path, by, &OpenedKey::alone)
            .map_err(|error| CliError::data_key(&error, path)),
    };
    new.audit.record("data_key.generated", file_name(path), make, |id| id_facts(*id))?;
    show_file(path, output)
}

fn id_facts(id: u64) -> Vec<(&'static str, String)> {
    vec![("id", show_id(id))]
}

pub(super) fn show(show: &ShowData, output: Output) -> Result<(), CliError> {
    show_file(&show.file, output)
}

pub(super) fn rewrap(rewrap: &RewrapData, output: Output) -> Result<(), CliError> {
    let path = &rewrap.file;
    let keeping = rewrap.wrapper.place()?.map_or(Keeping::Clear, Keeping::Wrapped);
    // The place in the file may be relative to its folder; what is given here is not.
    let moved = rewrap.from_card.as_deref().map(std::path::absolute).transpose();
    let moved = moved.map_err(|cause| CliError::failed(cause, "--from-card", "name its file"))?;
    let work = || {
        let done = replace::rewrap(path, &keeping, moved.as_deref(), &OpenedKey::alone);
        done.map_err(|error| CliError::data_key(&error, path))
    };
    rewrap.audit.record("data_key.rewrapped", file_name(path), work, |_| Vec::new())?;
    show_file(path, output)
}

pub(super) fn rotate(rotate: &RotateData, output: Output) -> Result<(), CliError> {
    let path = &rotate.file;
    let work = || {
        let made = replace::rotate(path, &OpenedKey::alone);
        made.map_err(|error: DataKeyError| CliError::data_key(&error, path))
    };
    rotate.audit.record("data_key.rotated", file_name(path), work, |_| Vec::new())?;
    show_file(path, output)
}

/// The ids and what wraps them; no card is asked.
fn show_file(path: &Path, output: Output) -> Result<(), CliError> {
    let described = data_key::describe(path).map_err(|error| CliError::key(&error, path))?;
    let ids: Vec<String> = described.ids.iter().map(|id| show_id(*id)).collect();
    let by = described.wrapped_by.as_ref();
    let value = json!({
        "file": path.display().to_string(),
        "data_key": described.shown_ids(),
        "data_keys": ids,
        "wrapped_by": by.map(|by| json!({
            "card": by.card.display().to_string(), "key": by.key.to_string(),
        })),
    });
    let by = by.map_or_else(|| "in clear".to_owned(), ToString::to_string);
    let text = format!("data_key   = \"{}\"\nwrapped_by = {by}", described.shown_ids());
    output.result(&value, text);
    Ok(())
}
