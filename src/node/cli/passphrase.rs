//! The passphrase of a key file at the command line: where it is, never itself.

use std::path::PathBuf;

use clap::Args;
use hufu_hsm::pin::PinSource;

/// Where a passphrase is.
#[derive(Debug, Args)]
pub(super) struct PassphraseArguments {
    /// File with the passphrase of an encrypted key: this user's, mode 0600; a newline at its end
    /// is not part of it.
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_descriptor")]
    passphrase_file: Option<PathBuf>,
    /// Descriptor to read the passphrase from, to its end.
    #[arg(long, value_name = "NUMBER")]
    passphrase_descriptor: Option<i32>,
}

impl PassphraseArguments {
    /// The source, if one is named.
    pub(super) fn source(&self) -> Option<PinSource> {
        let file = self.passphrase_file.clone().map(PinSource::File);
        file.or_else(|| self.passphrase_descriptor.map(PinSource::Descriptor))
    }
}
