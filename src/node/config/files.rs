//! What a configuration says about files on this host: checked, never changed.

use std::path::Path;

use hufu_crypto::PublicKey;
use hufu_hsm::pin::PinSource;
use hufu_types::Genesis;
use hufu_types::genesis::Validator;

use super::reader::lookup;
use super::{Document, Fault, NodeConfig, PeerConfig, nearest};
use crate::keys_file::{self, KeyFileError, NodeKey};
use crate::{data_key, genesis_file};

/// All faults of the files a configuration names, and of what only the genesis can tell. A path
/// that was itself faulty is empty and skipped. `text` is the configuration's, for lines.
pub(super) fn check(config: &NodeConfig, text: &str) -> Vec<Fault> {
    let identity = &config.node;
    let mut faults = Vec::new();
    let passphrase = identity.passphrase.as_ref();
    let key = public_key("node.key", &identity.key, passphrase, &mut faults);
    if let Ok(NodeKey::Card(in_card)) = keys_file::open(&identity.key)
        && let Err(fault) = in_card.check_votes()
    {
        faults.push(named("node.key", &identity.key, &fault.to_string(), fault.remedy()));
    }
    let link_key = config
        .peer
        .as_ref()
        .and_then(|peer| public_key("peer.key_file", &peer.key_file, passphrase, &mut faults));
    let audit_key = public_key("audit.key_file", &config.audit.key_file, passphrase, &mut faults);
    if audit_key.is_some() && (audit_key == key || audit_key == link_key) {
        let rule = "is the node's vote key or link key, which sign nothing else";
        let remedy = "make a key of its own for the audit log: `hufu keys new`";
        faults.push(named("audit.key_file", &config.audit.key_file, rule, remedy));
    }
    if let Some(folder) =
        config.audit.folder.as_ref().filter(|path| path.exists() && !path.is_dir())
    {
        let remedy = "name a folder, or a path where one can be made";
        faults.push(named("audit.folder", folder, "is not a folder", remedy));
    }
    if let Some(path) = config.storage.key_file().filter(|path| !path.as_os_str().is_empty())
        && let Err(fault) = data_key::describe(path)
    {
        faults.push(named("storage.key_file", path, &fault.to_string(), fault.remedy()));
    }
    if !identity.genesis.as_os_str().is_empty() {
        match genesis(&identity.genesis) {
            Ok(genesis) => {
                faults.extend(peers(config, &genesis, key, link_key, text));
            }
            Err(found) => faults.extend(found),
        }
    }
    if identity.data_dir.exists() && !identity.data_dir.is_dir() {
        let remedy = "name a folder, or a path where one can be made";
        faults.push(named("node.data_dir", &identity.data_dir, "is not a folder", remedy));
    }
    faults
}

/// The public key of a key file; without one there is a fault, unless the path is itself at fault.
/// A key under a passphrase must have one that is named; it is not read here.
fn public_key(
    key: &str,
    path: &Path,
    passphrase: Option<&PinSource>,
    faults: &mut Vec<Fault>,
) -> Option<PublicKey> {
    if path.as_os_str().is_empty() {
        return None;
    }
    let opened = keys_file::open(path).and_then(|opened| {
        let is_locked = matches!(opened, NodeKey::Encrypted(_)) && passphrase.is_none();
        if is_locked { Err(KeyFileError::Encrypted) } else { opened.public_key().copied() }
    });
    match opened {
        Ok(key) => Some(key),
        Err(fault) => {
            faults.push(named(key, path, &fault.to_string(), fault.remedy()));
            None
        }
    }
}

/// What the genesis says of `[peer]`. A node whose vote key the genesis does not know has no peers
/// to speak of; that it is no validator is said by the rules of the host.
fn peers(
    config: &NodeConfig,
    genesis: &Genesis,
    key: Option<PublicKey>,
    link_key: Option<PublicKey>,
    text: &str,
) -> Vec<Fault> {
    let own = key.and_then(|key| genesis.validators.get(&key.address()));
    let Some(own) = own else { return Vec::new() };
    let count = genesis.validators.count();
    let Some(peer) = &config.peer else {
        if count == 1 {
            return Vec::new();
        }
        let rule = format!("is missing, there are {count} in the genesis");
        let remedy = "add section [peer] with key_file and the addresses of the other validators";
        return vec![Fault::new("peer", "", &rule, remedy)];
    };
    let mut faults = Vec::new();
    if let Some(found) = link_key.filter(|found| *found != own.link_key) {
        let rule = format!("holds {found}, the genesis has another link key for {}", own.name);
        let remedy = "name the file with the link key that was put into the genesis";
        faults.push(named("peer.key_file", &peer.key_file, &rule, remedy));
    }
    faults.extend(addresses(peer, genesis, own, text));
    faults
}

/// Everybody else has an address, and nobody else.
fn addresses(peer: &PeerConfig, genesis: &Genesis, own: &Validator, text: &str) -> Vec<Fault> {
    let (document, _) = Document::parse(text);
    let table = lookup(&document, "peer", "addresses");
    let line = |name: &str| {
        let table = table.and_then(|entry| entry.value.as_table())?;
        document.entry(table, name).map(|entry| entry.line)
    };
    let others = || {
        let all = genesis.validators.iter().map(|(_, validator)| validator.name.as_str());
        all.filter(|name| *name != own.name)
    };
    let mut faults = Vec::new();
    for (name, address) in &peer.addresses {
        let (rule, remedy) = if *name == own.name {
            ("is this node itself".to_owned(), "remove the line".to_owned())
        } else if others().all(|other| other != name) {
            let remedy = match nearest(name, others()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the others are: {}", others().collect::<Vec<_>>().join(", ")),
            };
            (format!("is no validator of {}", genesis.chain_name), remedy)
        } else {
            continue;
        };
        let (key, value) = (format!("peer.addresses.{name}"), format!("\"{address}\""));
        faults.push(Fault::new(&key, &value, &rule, &remedy).at(line(name)));
    }
    if table.is_none() {
        return faults;
    }
    // What stands there and is faulty is not in the map, and has its fault already.
    for name in others().filter(|name| !peer.addresses.contains_key(*name) && line(name).is_none())
    {
        let (key, remedy) =
            (format!("peer.addresses.{name}"), format!("add `{name} = \"IP:PORT\"`"));
        let rule = format!("is missing, {name} is a validator of {}", genesis.chain_name);
        let fault = Fault::new(&key, "", &rule, &remedy);
        faults.push(fault.at(table.map(|entry| entry.line)));
    }
    faults
}

/// The genesis, or all its faults as faults of the key that names it.
fn genesis(path: &Path) -> Result<Genesis, Vec<Fault>> {
    let named = |rule: &str, remedy: &str| named("node.genesis", path, rule, remedy);
    match std::fs::File::open(path) {
        Err(cause) => {
            let remedy = "copy the chain's genesis file there";
            Err(vec![named(&format!("cannot be read: {cause}"), remedy)])
        }
        Ok(_) => genesis_file::load(path).map_err(|found| {
            let faults = found.faults.into_iter();
            faults.map(|fault| named(&fault.place_and_rule(), &fault.remedy)).collect()
        }),
    }
}

fn named(key: &str, path: &Path, rule: &str, remedy: &str) -> Fault {
    Fault::new(key, &format!("\"{}\"", path.display()), rule, remedy)
}
