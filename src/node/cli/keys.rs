//! `hufu keys new|show`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use hufu_crypto::{PublicKey, Signer};
use serde_json::json;

use super::CliError;
use crate::keys_file;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a fresh SM2 key in a new file of mode 0600; prints its public key and address.
    #[command(
        after_help = "A validator has two keys: its vote key (node.key), which signs votes and \
        proposals, and its link key (peer.key_file), which proves to the other validators who \
        speaks. Run this once for each. This is the software custody, for development and where policy allows \
        it: the key lies unencrypted in a file that only its owner may read. Production keys live \
        on HSM cards. An existing file is never overwritten: a vote key that is gone cannot be \
        made again."
    )]
    New {
        /// The file to make (PKCS#8 PEM).
        #[arg(long)]
        out: PathBuf,
    },
    /// Show the public key and address of a key file; never the private key.
    Show {
        /// The key file.
        file: PathBuf,
    },
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    let (signer, file) = match verb {
        Verb::New { out } => (keys_file::create(&out), out),
        Verb::Show { file } => (keys_file::load(&file), file),
    };
    let signer = signer.map_err(|error| CliError::key(&error, &file))?;
    print(signer.public_key(), &file, output);
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
