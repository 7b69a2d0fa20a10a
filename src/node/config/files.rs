//! What a configuration says about files on this host: checked, never changed.

use std::path::Path;

use super::{Fault, NodeConfig};
use crate::keys_file;

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
    if !identity.genesis.as_os_str().is_empty()
        && let Err(cause) = std::fs::File::open(&identity.genesis)
    {
        let rule = format!("cannot be read: {cause}");
        let remedy = "copy the chain's genesis file there";
        faults.push(named("node.genesis", &identity.genesis, &rule, remedy));
    }
    if identity.data_dir.exists() && !identity.data_dir.is_dir() {
        let remedy = "name a folder, or a path where one can be made";
        faults.push(named("node.data_dir", &identity.data_dir, "is not a folder", remedy));
    }
    faults
}

fn named(key: &str, path: &Path, rule: &str, remedy: &str) -> Fault {
    Fault::new(key, &format!("\"{}\"", path.display()), rule, remedy)
}
