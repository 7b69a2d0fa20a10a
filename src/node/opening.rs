//! What a node opens before it looks at its data: the data folder, the audit log, its cards and its
//! keys, each key under the eyes of the audit log.
//!
//! ```text
//! key files -> data folder (locked) -> audit log -> data keys -> link key -> vote key -> sealed
//!                                                      `- cards: one agent for each ------'
//! ```
//!
//! What keeps a key from being opened is on record before the node ends.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use hufu_crypto::{Address, Provider, Signer};
use hufu_hsm::custody::Custody;
use hufu_hsm::pin::Pin;
use hufu_storage::data_dir::{DataDir, Identity};
use hufu_storage::keyring::Keyring;
use hufu_types::Genesis;

use crate::audit::events::{self, Started};
use crate::audit::{self, NodeAudit};
use crate::card_key::CardPlace;
use crate::cards::{Cards, StopCheck};
use crate::config::NodeConfig;
use crate::data_key;
use crate::encrypted_key;
use crate::host_check;
use crate::kernels;
use crate::keys_file::{self, KeyFileError, NodeKey};
use crate::log;
use crate::opened_key::OpenedKey;
use crate::run::RunError;
use crate::signing_desk::SigningDesk;

/// See the module.
pub(crate) struct Opened {
    /// Who the node is.
    pub(crate) address: Address,
    pub(crate) folder: DataDir,
    pub(crate) audit: NodeAudit,
    /// The cards that the node keeps.
    pub(crate) cards: Cards,
    pub(crate) desk: SigningDesk,
    /// Signs for links, where there are any.
    pub(crate) link_signer: Option<Box<dyn Signer>>,
    /// What the data folder is encrypted with; nothing where it is stored in clear.
    pub(crate) data_keys: Option<Keyring>,
}

/// Opens everything; see the module. Cards are waited for until `is_stopped` says otherwise.
///
/// # Errors
/// What cannot be opened.
pub(crate) fn open(
    config: &NodeConfig,
    genesis: &Genesis,
    provider: &Provider,
    is_stopped: StopCheck,
) -> Result<Opened, RunError> {
    let files = KeyFiles::read(config)?;
    let address = files.vote.public_key().map_err(|fault| key_fault("node.key", &fault))?.address();
    let broken = host_check::broken_configuration(config, genesis);
    if !broken.is_empty() {
        let lines: Vec<String> = broken.iter().map(ToString::to_string).collect();
        return Err(RunError::Configuration(lines.join("\n")));
    }
    let identity = Identity { chain: genesis.chain_id().0, node: address };
    let folder = DataDir::open(&config.node.data_dir, &identity)?;
    let passphrase = files.passphrase(config)?;
    let KeyFiles { vote, link, audit } = files;
    let signer = |named: &str, key: NodeKey| {
        let signer = signer_of(key, passphrase.as_ref(), provider);
        signer.map_err(|fault| key_fault(named, &fault))
    };
    let mut audit = begin_audit(config, genesis, address, signer("audit.key_file", audit)?)?;
    let cards = Cards::new().map_err(|error| RunError::Card(error.into()))?;
    let mut cards = cards.until(is_stopped);
    let data_keys = load_data_keys(config, provider, &mut cards, &mut audit)?;
    let link_signer = link.map(|key| signer("peer.key_file", key)).transpose()?;
    if let Some(signer) = &link_signer {
        let facts = vec![("custody", Custody::Software.name().to_owned())];
        audit.record(&events::key_opened(signer.public_key().address(), "link", facts))?;
    }
    let desk = match vote {
        NodeKey::Card(key) => {
            key.check_votes().map_err(|fault| key_fault("node.key", &fault))?;
            SigningDesk::card(&mut cards, &key)
        }
        key => Ok(SigningDesk::software(signer("node.key", key)?)),
    };
    let desk = audit_desk(address, desk, &mut audit)?;
    cards.let_go();
    audit.seal()?;
    Ok(Opened { address, folder, audit, cards, desk, link_signer, data_keys })
}

/// What the node's key files hold.
struct KeyFiles {
    vote: NodeKey,
    link: Option<NodeKey>,
    audit: NodeKey,
}

impl KeyFiles {
    /// Reads them, and says once which keys whoever reads the disk could sign with.
    fn read(config: &NodeConfig) -> Result<Self, RunError> {
        let open = |named: &str, path: &Path| {
            keys_file::open(path).map_err(|fault| key_fault(named, &fault))
        };
        let peer = config.peer.as_ref();
        let files = Self {
            vote: open("node.key", &config.node.key)?,
            link: peer.map(|peer| open("peer.key_file", &peer.key_file)).transpose()?,
            audit: open("audit.key_file", &config.audit.key_file)?,
        };
        let clear = files.named().filter(|(_, key)| matches!(key, NodeKey::Software(_)));
        let names: Vec<&str> = clear.map(|(named, _)| named).collect();
        if !names.is_empty() {
            let reason =
                "`hufu keys encrypt` puts them under a passphrase, a card keeps them better";
            let keys: &str = &names.join(", ");
            log::warn("private keys are stored in clear", &[("keys", keys), ("reason", reason)]);
        }
        Ok(files)
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &NodeKey)> {
        let link = self.link.iter().map(|key| ("peer.key_file", key));
        [("node.key", &self.vote), ("audit.key_file", &self.audit)].into_iter().chain(link)
    }

    /// The passphrase of those that lie under one. Read once: a descriptor gives it once only.
    fn passphrase(&self, config: &NodeConfig) -> Result<Option<Pin>, RunError> {
        let is_needed = self.named().any(|(_, key)| matches!(key, NodeKey::Encrypted(_)));
        let source = config.node.passphrase.as_ref().filter(|_| is_needed);
        let passphrase = source.map(encrypted_key::passphrase).transpose();
        passphrase.map_err(|fault| key_fault("node.passphrase", &fault))
    }
}

/// The audit log, which begins this run by saying what runs here.
fn begin_audit(
    config: &NodeConfig,
    genesis: &Genesis,
    address: Address,
    signer: Box<dyn Signer>,
) -> Result<NodeAudit, RunError> {
    let mut audit = NodeAudit::open(&audit::folder_of(config), address, signer)?;
    let link_key = config.peer.as_ref().and(genesis.validators.get(&address));
    let started = Started {
        name: &config.node.name,
        chain: genesis.chain_id().to_string(),
        vote_key: address,
        audit_key: audit.key().address(),
        link_key: link_key.map(|own| own.link_key.address()),
        kernels: kernels::backend().name(),
    };
    audit.record(&events::started(&started))?;
    audit.sync()?;
    Ok(audit)
}

/// The desk that signs votes and proposals; that there is none is on record before the node ends.
fn audit_desk(
    address: Address,
    desk: Result<SigningDesk, crate::signing_desk::DeskError>,
    audit: &mut NodeAudit,
) -> Result<SigningDesk, RunError> {
    let opened = audit.opening(desk, |desk| match desk {
        Ok(desk) => {
            let first = desk.facts().into_iter().next();
            events::key_opened(address, "vote", first.unwrap_or_default())
        }
        Err(error) => {
            events::key_not_opened(address, "vote", error.outcome(), events::reason(error))
        }
    });
    let desk = opened?.map_err(RunError::Card)?;
    for facts in desk.facts().into_iter().skip(1) {
        audit.record(&events::key_opened(address, "vote", facts))?;
    }
    Ok(desk)
}

/// The keys that the data folder is encrypted with; none where it is stored in clear.
fn load_data_keys(
    config: &NodeConfig,
    provider: &Provider,
    cards: &mut Cards,
    audit: &mut NodeAudit,
) -> Result<Option<Keyring>, RunError> {
    let Some(path) = config.storage.key_file() else {
        let reason = "storage.encryption is \"none\"";
        log::warn("the data folder is not encrypted", &[("reason", reason)]);
        return Ok(None);
    };
    let cards = RefCell::new(cards);
    let open = |place: &CardPlace| OpenedKey::among(&mut cards.borrow_mut(), place);
    let keys = audit.opening(data_key::load_by(path, provider, &open), |keys| match keys {
        Ok(keys) => {
            let wrapped = data_key::describe(path).is_ok_and(|file| file.wrapped_by.is_some());
            let custody = if wrapped { Custody::HsmOnly } else { Custody::Software };
            events::data_keys_opened(keys.ids(), custody.name())
        }
        Err(fault) => events::data_keys_not_opened(events::reason(fault)),
    });
    let keys = keys?.map_err(|cause| {
        let (path, cause) = (path.display().to_string(), Box::new(cause));
        RunError::DataKey { path, cause }
    })?;
    Ok(Some(keys))
}

/// The signer of a key in software, the seeds of its nonces from the provider.
fn signer_of(
    key: NodeKey,
    passphrase: Option<&Pin>,
    provider: &Provider,
) -> Result<Box<dyn Signer>, KeyFileError> {
    let signer = match (key, passphrase) {
        (NodeKey::Encrypted(key), Some(passphrase)) => key.open(passphrase)?,
        (key, _) => key.unlock(None)?,
    };
    Ok(Box::new(signer.seeded_by(Arc::clone(&provider.entropy))))
}

fn key_fault(named: &str, fault: &KeyFileError) -> RunError {
    RunError::Configuration(format!("{named}: {fault}; {}", fault.remedy()))
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Digest, Entropy};

    use super::*;

    /// A source that has nothing.
    struct Empty;

    impl Entropy for Empty {
        fn fill(&self, _: &mut [u8]) -> Result<(), hufu_crypto::Error> {
            Err(hufu_crypto::Error::Entropy { cause: "empty".to_owned() })
        }
    }

    #[test]
    fn signers_take_their_seeds_from_the_provider() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vote.pem");
        keys_file::create(&path).unwrap();
        let good = kernels::provider();
        let empty = Provider { entropy: Arc::new(Empty), ..good.clone() };
        let key = || keys_file::open(&path).unwrap();
        let sign = |provider| signer_of(key(), None, provider).unwrap().sign(&Digest([3; 32]));
        assert!(sign(&good).is_ok());
        assert!(matches!(sign(&empty), Err(hufu_crypto::Error::Entropy { .. })));
    }
}
