//! `hufu hsm add-card`.

use std::path::{Path, PathBuf};

use clap::Args;
use hufu_hsm::card::keys;
use hufu_hsm::uri::KeyUri;
use hufu_hsm::{Error, Usage, probe};
use serde_json::json;

use super::super::CliError;
use super::CardFile;
use super::card::{KnownCard, check_token, public_key_text, with_public_key};
use crate::card_key;
use crate::kernels;
use crate::keys_file::{self, NodeKey};
use crate::output::Output;
use crate::replace_file::{self, Old};

#[derive(Debug, Args)]
#[command(
    after_help = "The card must hold the very key of the key file: it is found, its public key is \
    compared, and it signs once. Then the key file names it, and a node signs with whichever of \
    the cards answers. How a key of class cloned gets into a second card is the vendor's backup, \
    or `hufu hsm keygen --class cloned` and its export. The vendor's library runs in this process."
)]
pub(in crate::cli) struct AddCard {
    #[command(flatten)]
    card: CardFile,
    /// The key's name in this card: pkcs11:object=LABEL, pkcs11:id=%01, or pkcs11:x-index=N.
    #[arg(long, value_name = "URI", value_parser = super::key)]
    key: KeyUri,
    /// Key file of a key in a card (`hufu hsm keygen --out`), which is to name this card too.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
}

pub(super) fn run(add: &AddCard, output: Output) -> Result<(), CliError> {
    let path = &add.key_file;
    let faulty = |error| CliError::key(&error, path);
    let NodeKey::Card(known) = keys_file::open(path).map_err(faulty)? else {
        return Err(CliError::usage(
            format!("{} holds the key itself", path.display()),
            "name a key file that `hufu hsm keygen --out` made",
        ));
    };
    // It holds no secret, as it has just been read.
    let text = keys_file::read_private(path).map_err(faulty)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let file = std::path::absolute(&add.card.path);
    let file = file.map_err(|cause| CliError::failed(cause, "--card", "name its file"))?;
    let text = text + &card_key::copy_text(&file, &add.key.to_string());
    // What the file would become is looked at before anybody logs in.
    card_key::parse(&text, path).map_err(faulty)?;
    let card = KnownCard::open(&add.card.path)?;
    check_token(&add.key, &card.token.identity)?;
    let (session, pin) = card.log_in()?;
    let proven = || -> Result<(), Error> {
        let found = keys::find(&session, &card.profile, &add.key.key, Usage::Sign)?;
        if found.public != Some(known.public) {
            let after = found.public.map_or_else(|| "none".to_owned(), |key| key.to_string());
            let before = known.public.to_string();
            return Err(Error::CardChanged { field: "the public key", before, after });
        }
        let verifier = kernels::provider().verifier;
        probe::prove(&session, &card.profile, &found, Some(&pin), &*verifier).map(drop)
    };
    proven().map_err(|error| match error {
        Error::CardChanged { before, after, .. } => CliError::failed(
            format!("card {:?} holds {after} by this name, not {before}", card.config.name),
            add.card.path.display(),
            "name the card and the key that were made as a copy of the first",
        ),
        error => card.fault(&error),
    })?;
    let read = |fresh: &Path| keys_file::open(fresh).map(drop);
    replace_file::replace(path, text.as_bytes(), Old::Dropped, read).map_err(faulty)?;
    let count = known.places().len() + 1;
    let value = json!({ "card": card.config.name, "cards": count });
    let text = format!(
        "card {:?} holds the same key; {} names {count} cards now\n{}",
        card.config.name,
        path.display(),
        public_key_text(&known.public)
    );
    output.result(&with_public_key(value, Some(&known.public)), text);
    Ok(())
}
