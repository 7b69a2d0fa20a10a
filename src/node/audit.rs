//! The audit of this node: what its keys did, and who did what to them, in the audit log.
//!
//! ```text
//! run (start, keys opened) --NodeAudit--> audit log        before there are tiles
//! sign tile --SignAudit--Event--> audit tile --NodeAudit--> audit log
//! hufu hsm|keys ... --audit DIR ---------------------------> an audit log of its own
//! hufu audit verify: chain, seals, and the signatures against the vote log   (compare)
//! ```
//!
//! A record names keys by their addresses and never holds a secret, nor whom a payment was of; all
//! records are made in [`events`], so that one file shows what they hold. A node that cannot write
//! its audit log stops. Its seals are made with a key of its own: the vote key signs what the guard
//! admits and nothing else (`src/decisions/0013-audit-log.md`).

pub mod compare;
pub mod events;
mod signatures;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use hufu_crypto::{Address, PublicKey, Signer};
use hufu_runtime::clock;
use hufu_storage::audit_log::{AuditError, AuditLog, Event, Owner};
use hufu_storage::data_dir::DataDir;

pub use signatures::{SignAudit, signed_digest};

use crate::config::NodeConfig;
use crate::log;

/// The node's audit log and the key that seals it.
pub struct NodeAudit {
    log: AuditLog,
    signer: Box<dyn Signer>,
    seals_count: u64,
}

impl NodeAudit {
    /// Opens the audit log of the node with this address, which holds its data folder, or begins
    /// it.
    ///
    /// # Errors
    /// If it cannot be written or is damaged.
    pub fn open(
        folder: &Path,
        address: Address,
        signer: Box<dyn Signer>,
    ) -> Result<Self, AuditError> {
        let owner = address.to_string();
        let log = AuditLog::open(folder, Owner::Only(&owner), clock::wall())?;
        if log.torn_bytes() > 0 {
            let bytes: &str = &log.torn_bytes().to_string();
            // A crash leaves such a tail behind, and so does a disk that lost what it had
            // acknowledged: only an operator can tell.
            log::error("tail of the audit log cut off", &[("bytes", bytes)]);
        }
        Ok(Self { log, signer, seals_count: 0 })
    }

    /// Appends a record, which is durable after [`NodeAudit::sync`] or [`NodeAudit::seal`].
    ///
    /// # Errors
    /// Each is fatal.
    pub fn record(&mut self, event: &Event<'_>) -> Result<(), AuditError> {
        self.log.append(clock::wall(), event).map(|_sequence| ())
    }

    /// Makes everything recorded durable.
    ///
    /// # Errors
    /// Each is fatal.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        self.log.sync()
    }

    /// Seals everything recorded, durably.
    ///
    /// # Errors
    /// Each is fatal.
    pub fn seal(&mut self) -> Result<(), AuditError> {
        // Seals are minutes apart or seconds: a fresh seed for each keeps GM/T 0105-2021's limits.
        self.signer.reseed().map_err(AuditError::Seal)?;
        self.log.seal(clock::wall(), &*self.signer)?;
        self.seals_count += 1;
        Ok(())
    }

    /// Who seals.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        self.signer.public_key()
    }

    /// Seals made since it was opened, count.
    #[must_use]
    pub const fn seals_count(&self) -> u64 {
        self.seals_count
    }

    /// The log itself, for its numbers.
    #[must_use]
    pub const fn log(&self) -> &AuditLog {
        &self.log
    }

    /// Records what came of opening a key, at once where it was refused: the process ends then.
    ///
    /// # Errors
    /// Each is fatal.
    pub fn opening<T, E: std::fmt::Display>(
        &mut self,
        opened: Result<T, E>,
        event: impl FnOnce(Result<&T, &E>) -> Event<'static>,
    ) -> Result<Result<T, E>, AuditError> {
        self.record(&event(opened.as_ref()))?;
        if opened.is_err() {
            self.seal()?;
        }
        Ok(opened)
    }
}

/// Where the audit log of a node is.
#[must_use]
pub fn folder_of(config: &NodeConfig) -> PathBuf {
    let own = || DataDir::audit_in(&config.node.data_dir);
    config.audit.folder.clone().unwrap_or_else(own)
}
