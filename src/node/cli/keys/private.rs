//! `hufu keys new|show|encrypt|decrypt`: private keys in files.

use std::path::{Path, PathBuf};

use clap::Args;
use hufu_crypto::{PublicKey, Signer as _};
use hufu_hsm::pin::PinSource;
use serde_json::json;

use super::super::CliError;
use super::super::audit::AuditTo;
use super::super::passphrase::PassphraseArguments;
use crate::audit::events::file_name;
use crate::encrypted_key;
use crate::keys_file::{self, KeyFileError};
use crate::output::Output;

#[derive(Debug, Args)]
#[command(
    after_help = "A validator has three keys: its vote key (node.key), which signs votes and \
    proposals, its link key (peer.key_file), which proves to the other validators who speaks, and \
    its audit key (audit.key_file), which seals the audit log. Run this once for each. This is the software custody, for development and where policy allows \
    it. With --encrypt the key lies under the passphrase (PKCS#8: PBES2, PBKDF2 with HMAC-SM3, \
    SM4-CBC), else in clear in a file that only its owner may read. Production keys live on HSM \
    cards. An existing file is never overwritten: a vote key that is gone cannot be made again."
)]
pub(in crate::cli) struct New {
    /// The file to make (PKCS#8 PEM).
    #[arg(long)]
    out: PathBuf,
    /// Put the key under a passphrase, which must be named too.
    #[arg(long)]
    encrypt: bool,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    #[command(flatten)]
    audit: AuditTo,
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
    #[command(flatten)]
    audit: AuditTo,
}

#[derive(Debug, Args)]
#[command(after_help = "Whoever can read the file can use the key then.")]
pub(in crate::cli) struct Decrypt {
    /// The key file, which is replaced.
    file: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    #[command(flatten)]
    audit: AuditTo,
}

pub(super) fn new(new: &New, output: Output) -> Result<(), CliError> {
    let source = new.passphrase.source();
    match (new.encrypt, &source) {
        (true, None) => return Err(nameless()),
        (false, Some(_)) => {
            let what = "a passphrase, and a key that is not to be encrypted";
            return Err(CliError::usage(what, "add --encrypt, or leave the passphrase out"));
        }
        (false, None) | (true, Some(_)) => {}
    }
    let make = || match &source {
        None => keys_file::create(&new.out),
        Some(source) => encrypted_key::passphrase(source)
            .and_then(|passphrase| keys_file::create_encrypted(&new.out, &passphrase)),
    };
    let make = || make().map(|signer| *signer.public_key());
    change(&new.audit, "key.generated", &new.out, make, output)
}

/// Does something to a key file, which is on record where that is wanted, and shows its key.
fn change(
    audit: &AuditTo,
    action: &'static str,
    file: &Path,
    work: impl FnOnce() -> Result<PublicKey, KeyFileError>,
    output: Output,
) -> Result<(), CliError> {
    let work = || work().map_err(|error| CliError::key(&error, file));
    let facts = |key: &PublicKey| vec![("address", key.address().to_string())];
    let key = audit.record(action, file_name(file), work, facts)?;
    show_key(Ok(key), file, output)
}

pub(super) fn show(show: &Show, output: Output) -> Result<(), CliError> {
    let found = keys_file::open(&show.file);
    show_key(found.and_then(|key| key.public_key().copied()), &show.file, output)
}

pub(super) fn encrypt(encrypt: &Encrypt, output: Output) -> Result<(), CliError> {
    let source = encrypt.passphrase.source().ok_or_else(nameless)?;
    let old = encrypt.old_passphrase_file.clone().map(PinSource::File);
    let work = || {
        let passphrase = encrypted_key::passphrase(&source)?;
        keys_file::reencrypt(&encrypt.file, old.as_ref(), Some(&passphrase))
    };
    change(&encrypt.audit, "key.encrypted", &encrypt.file, work, output)
}

pub(super) fn decrypt(decrypt: &Decrypt, output: Output) -> Result<(), CliError> {
    let source = decrypt.passphrase.source().ok_or_else(nameless)?;
    let work = || keys_file::reencrypt(&decrypt.file, Some(&source), None);
    change(&decrypt.audit, "key.decrypted", &decrypt.file, work, output)
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
