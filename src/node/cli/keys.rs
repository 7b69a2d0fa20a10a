//! `hufu keys new|show|new-data|show-data`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use hufu_crypto::{PublicKey, Signer as _};
use hufu_storage::keyring::show_id;
use serde_json::json;

use super::CliError;
use super::audit::AuditTo;
use crate::audit::events::file_name;
use crate::data_key;
use crate::kernels;
use crate::keys_file::{self, KeyFileError};
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a fresh SM2 key in a new file of mode 0600; prints its public key and address.
    #[command(
        after_help = "A validator has three keys: its vote key (node.key), which signs votes and \
        proposals, its link key (peer.key_file), which proves to the other validators who \
        speaks, and its audit key (audit.key_file), which seals the audit log. Run this once for each. This is the software custody, for development and where policy allows \
        it: the key lies unencrypted in a file that only its owner may read. Production keys live \
        on HSM cards. An existing file is never overwritten: a vote key that is gone cannot be \
        made again."
    )]
    New {
        /// The file to make (PKCS#8 PEM).
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        audit: AuditTo,
    },
    /// Show the public key and address of a key file; never the private key.
    Show {
        /// The key file.
        file: PathBuf,
    },
    /// Make a fresh data key in a new file of mode 0600; prints its id.
    #[command(after_help = "Everything a node stores is encrypted with its data key \
        (storage.key_file). Each node has its own, made before its first start. Whoever has the \
        data folder and this file can read everything, and nobody can without it: keep a copy, \
        and not where copies of the folder are.")]
    NewData {
        /// The file to make.
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        audit: AuditTo,
    },
    /// Show the ids of the data keys in a file, the current one first; never a key.
    ShowData {
        /// The data key file.
        file: PathBuf,
    },
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::New { out, audit } => {
            let make = || {
                let made = keys_file::create(&out).map(|signer| *signer.public_key());
                made.map_err(|error| CliError::key(&error, &out))
            };
            let facts = |key: &PublicKey| vec![("address", key.address().to_string())];
            let key = audit.record("key.generated", file_name(&out), make, facts)?;
            print(&key, &out, output);
            Ok(())
        }
        Verb::Show { file } => {
            let found = keys_file::open(&file);
            show_key(found.map(|key| *key.public_key()), &file, output)
        }
        Verb::NewData { out, audit } => {
            let make = || data_key::create(&out).map_err(|error| CliError::key(&error, &out));
            let facts = |id: &u64| vec![("id", show_id(*id))];
            let id = audit.record("data_key.generated", file_name(&out), make, facts)?;
            show_data(Ok(show_id(id)), &out, output)
        }
        Verb::ShowData { file } => {
            let keys = data_key::load(&file, &kernels::provider());
            show_data(keys.map(|keys| keys.ids()), &file, output)
        }
    }
}

fn show_key(
    key: Result<PublicKey, KeyFileError>,
    file: &Path,
    output: Output,
) -> Result<(), CliError> {
    let key = key.map_err(|error| CliError::key(&error, file))?;
    print(&key, file, output);
    Ok(())
}

fn show_data(
    ids: Result<String, KeyFileError>,
    file: &Path,
    output: Output,
) -> Result<(), CliError> {
    let ids = ids.map_err(|error| CliError::key(&error, file))?;
    let value = json!({ "file": file.display().to_string(), "data_key": ids });
    output.result(&value, format!("data_key = \"{ids}\""));
    Ok(())
}

fn print(key: &PublicKey, file: &Path, output: Output) {
    let address = key.address();
    let value = json!({
        "file": file.display().to_string(),
        "public_key": key.to_string(),
        "address": address.to_string(),
    });
    output.result(&value, format!("public_key = \"{key}\"\naddress    = \"{address}\""));
}
