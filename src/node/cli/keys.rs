//! `hufu keys ...`: key files and data key files; what is in cards is `hufu hsm`'s.

mod data;
mod private;

use clap::Subcommand;

use super::CliError;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a fresh SM2 key in a new file of mode 0600; prints its public key and address.
    New(private::New),
    /// Show the public key and address of a key file; never the private key.
    Show(private::Show),
    /// Put the key of a file under a passphrase, or under another one.
    Encrypt(private::Encrypt),
    /// Take the key of a file out from under its passphrase.
    Decrypt(private::Decrypt),
    /// Make a fresh data key in a new file of mode 0600; prints its id.
    NewData(data::NewData),
    /// Show the ids of the data keys in a file, the current one first, and what wraps them; never a
    /// key, and without their card.
    ShowData(data::ShowData),
    /// Wrap the data keys of a file by a card, by another one, or no more.
    RewrapData(data::RewrapData),
    /// Put a fresh data key in front of those of a file.
    RotateData(data::RotateData),
}

pub(super) fn run(verb: &Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::New(new) => private::new(new, output),
        Verb::Show(show) => private::show(show, output),
        Verb::Encrypt(encrypt) => private::encrypt(encrypt, output),
        Verb::Decrypt(decrypt) => private::decrypt(decrypt, output),
        Verb::NewData(new) => data::new(new, output),
        Verb::ShowData(show) => data::show(show, output),
        Verb::RewrapData(rewrap) => data::rewrap(rewrap, output),
        Verb::RotateData(rotate) => data::rotate(rotate, output),
    }
}
