//! `hufu keys new|show|encrypt|decrypt`: private keys in files.

use std::path::{Path, PathBuf};

use clap::Args;
use hufu_crypto::{PublicKey, Signer as _};
use hufu_hsm::pin::PinSource;
use serde_json::json;

use super::super::CliError;
use super::super::passphrase::PassphraseArguments;
use crate::encrypted_key;
use crate::keys_file::{self, KeyFileError};
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "A validator has two keys: its vote key (node.key), which signs votes and \
    proposals, and its link key (peer.key_file), which proves to the other validators who speaks. \
    Run this once for each. This is the software custody, for development and where policy allows \
    it. With --encrypt the key lies under the passphrase (PKCS#8: PBES2, PBKDF2 with HMAC-SM3, \
    SM4-CBC), else in clear in a file that only its owner may read. Production keys live on HSM \
    cards. An existing file is never overwritten: a vote key that is gone cannot be made again.")]
pub(in crate::cli) struct New {
    /// The file to make (PKCS#8 PEM).
    #[arg(long)]
    out: PathBuf,
    /// Put the key under a passphrase, which must be named too.
    #[arg(long)]
    encrypt: bool,
    #[command(flatten)]
    passphrase: PassphraseArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// The key file.
    file: PathBuf,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The key stays the same. The old file is in place until the new one is durable \
    and has proven that it opens; a key that lay in clear is then overwritten. Copies of the old \
    file still open without the passphrase, or with the old one: destroy them. A file of another \
    program gets its public key beside the private one."
)]
pub(in crate::cli) struct Encrypt {
    /// The key file, which is replaced.
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    /// File with the passphrase that the key is under now, to change it.
    #[arg(long, value_name = "FILE")]
    old_passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Whoever can read the file can use the key then.")]
pub(in crate::cli) struct Decrypt {
    /// The key file, which is replaced.
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArguments,
}

pub(super) fn new(new: &New, output: Output) -> Result<(), CliError> {
    let made = match (new.encrypt, new.passphrase.source()) {
        (false, None) => keys_file::create(&new.out),
        (true, Some(source)) => encrypted_key::passphrase(&source)
            .and_then(|passphrase| keys_file::create_encrypted(&new.out, &passphrase)),
        (true, None) => return Err(nameless()),
        (false, Some(_)) => {
            let what = "a passphrase, and a key that is not to be encrypted";
            return Err(CliError::usage(what, "add --encrypt, or leave the passphrase out"));
        }
    };
    show_key(made.map(|signer| *signer.public_key()), &new.out, output)
}

pub(super) fn show(show: &Show, output: Output) -> Result<(), CliError> {
    let found = keys_file::open(&show.file);
    show_key(found.and_then(|key| key.public_key().copied()), &show.file, output)
}

pub(super) fn encrypt(encrypt: &Encrypt, output: Output) -> Result<(), CliError> {
    let source = encrypt.passphrase.source().ok_or_else(nameless)?;
    let old = encrypt.old_passphrase_file.clone().map(PinSource::File);
    let encrypted = encrypted_key::passphrase(&source).and_then(|passphrase| {
        keys_file::reencrypt(&encrypt.file, old.as_ref(), Some(&passphrase))
    });
    show_key(encrypted, &encrypt.file, output)
}

pub(super) fn decrypt(decrypt: &Decrypt, output: Output) -> Result<(), CliError> {
    let source = decrypt.passphrase.source().ok_or_else(nameless)?;
    show_key(keys_file::reencrypt(&decrypt.file, Some(&source), None), &decrypt.file, output)
}

fn nameless() -> CliError {
    CliError::usage("no passphrase is named", "add --passphrase-file FILE")
}

fn show_key(
    key: Result<PublicKey, KeyFileError>,
    file: &Path,
    output: Output,
) -> Result<(), CliError> {
    let key = key.map_err(|error| CliError::key(&error, file))?;
    let address = key.address();
    let value = json!({
        "file": file.display().to_string(),
        "public_key": key.to_string(),
        "address": address.to_string(),
    });
    output.result(&value, format!("public_key = \"{key}\"\naddress    = \"{address}\""));
    Ok(())
}
