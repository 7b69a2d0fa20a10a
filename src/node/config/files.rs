//! What a configuration says about files on this host: checked, never changed.

use std::path::Path;

use super::{Fault, NodeConfig};
use crate::{genesis_file, keys_file};

/// All faults of the files a configuration names. A path that was itself faulty is empty and
/// skipped.
pub(super) fn check(config: &NodeConfig) -> Vec<Fault> {
    let identity = &config.node;
    let mut faults = Vec::new();
    if !identity.key.as_os_str().is_empty()
        && let Err(fault) = keys_file::check_file(&identity.key)
    {
        let remedy = fault.remedy();
        faults.push(named("node.key", &identity.key, &fault.to_string(), remedy));
    }
    if !identity.genesis.as_os_str().is_empty() {
        faults.extend(genesis(&identity.genesis));
    }
    if identity.data_dir.exists() && !identity.data_dir.is_dir() {
        let remedy = "name a folder, or a path where one can be made";
        faults.push(named("node.data_dir", &identity.data_dir, "is not a folder", remedy));
    }
    faults
}

/// All faults of the genesis, as faults of the key that names it.
fn genesis(path: &Path) -> Vec<Fault> {
    let named = |rule: &str, remedy: &str| named("node.genesis", path, rule, remedy);
    match std::fs::File::open(path) {
        Err(cause) => {
            let remedy = "copy the chain's genesis file there";
            vec![named(&format!("cannot be read: {cause}"), remedy)]
        }
        Ok(_) => match genesis_file::load(path) {
            Ok(_) => Vec::new(),
            Err(found) => {
                let faults = found.faults.into_iter();
                faults.map(|fault| named(&fault.place_and_rule(), &fault.remedy)).collect()
            }
        },
    }
}

fn named(key: &str, path: &Path, rule: &str, remedy: &str) -> Fault {
    Fault::new(key, &format!("\"{}\"", path.display()), rule, remedy)
}
