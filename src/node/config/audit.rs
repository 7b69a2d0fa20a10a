//! `[audit]`: the audit log of the node.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;

/// `[audit]`: who did what to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Folder of the log; `audit` in the data folder if there is none.
    pub folder: Option<PathBuf>,
    /// The private key that seals.
    pub key_file: PathBuf,
    /// How often the log is told what the vote key signed.
    pub signatures_interval: Duration,
    /// How long a record waits for its seal.
    pub seal_interval: Duration,
}

impl AuditConfig {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let millis =
            |reader: &mut Reader<'_>, name| Duration::from_millis(reader.integer("audit", name));
        Self {
            folder: reader.path_or_auto("audit", "folder"),
            key_file: reader.path("audit", "key_file"),
            signatures_interval: millis(reader, "signatures_interval_millis"),
            seal_interval: millis(reader, "seal_interval_millis"),
        }
    }
}
