//! Vote keys of a local network in soft tokens, one for each validator, each in the manner of
//! another vendor: what an exchange does with real cards, in small.
//!
//! ```text
//! node-I/softtoken.toml, token/   the token, and where it keeps its keys
//! node-I/so.pin, card.pin         its PINs, of mode 0600
//! node-I/card.toml                the card, for the node's agent
//! node-I/vote.key                 which key of which card is the vote key
//! ```
//!
//! The module and its tool are those that were built beside this binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hufu_crypto::{PublicKey, entropy};
use zeroize::Zeroizing;

use super::folder::failed;
use crate::card_key;
use crate::cli::CliError;
use crate::keys_file;

/// Key file of a vote key in a card.
pub const KEY_FILE: &str = "vote.key";

/// Whom the tokens imitate, one after the other, and how each names its keys.
const VENDORS: [(&str, &str); 8] = [
    ("sansec", "pkcs11:object=vote"),
    ("tass", "pkcs11:object=vote"),
    ("westone", "pkcs11:x-index=1"),
    ("luna", "pkcs11:object=vote"),
    ("native", "pkcs11:object=vote"),
    ("koal", "pkcs11:object=vote"),
    ("ep11", "pkcs11:object=vote"),
    ("wosign", "pkcs11:object=vote"),
];

/// `CKA_ID` of the vote key, which is also its number where keys are counted.
const KEY_ID: &str = "01000000";

/// Digits of a PIN.
const PIN_DIGITS: usize = 16;

/// Makes a token with a vote key for the node of this number in its folder; the public key.
pub(super) fn make(node: &Path, index: u16) -> Result<PublicKey, CliError> {
    let own = std::env::current_exe();
    let own = own.map_err(|cause| CliError::failed(cause, "this binary", "check /proc"))?;
    make_with(&own, node, index)
}

/// As [`make`], with the module and the tool that lie beside `binary`.
///
/// # Errors
/// What is not there, or what the tool refuses.
pub fn make_with(binary: &Path, node: &Path, index: u16) -> Result<PublicKey, CliError> {
    let (vendor, uri) = VENDORS[usize::from(index) % VENDORS.len()];
    let module = beside(binary, "libhufu_softtoken.so")?;
    let tool = beside(binary, "hufu-softtoken")?;
    let config = node.join("softtoken.toml");
    let store = node.join("token");
    let text = format!("store = {store:?}\nimitation = \"{vendor}\"\nmessages = true\n");
    fs::write(&config, text).map_err(|cause| failed(cause, &config))?;
    let (so_pin, pin) = (pin_file(node, "so.pin")?, pin_file(node, "card.pin")?);
    let path = |path: &Path| path.display().to_string();
    let (so_pin, pin, configured) = (path(&so_pin), path(&pin), path(&config));
    let init = ["init", "--label", "hufu", "--so-pin-file", &so_pin, "--pin-file", &pin];
    run(&tool, &configured, &init)?;
    let generate = ["generate", "--label", "vote", "--id", KEY_ID, "--pin-file", &pin];
    let point = run(&tool, &configured, &generate)?;
    let public = public_key(&point)
        .ok_or_else(|| CliError::failed("no public key", tool.display(), "report this"))?;
    let card = node.join("card.toml");
    let text = format!(
        "# Written by `hufu localnet run`.\nname = \"card-{index}\"\nmodule = {module:?}\n\
         token_label = \"hufu\"\npin_file = \"card.pin\"\n[sandbox]\n\
         environment = {{ HUFU_SOFTTOKEN_CONF = {config:?} }}\nreadable = [{config:?}]\n\
         writable = [{store:?}]\n"
    );
    fs::write(&card, text).map_err(|cause| failed(cause, &card))?;
    let key = node.join(KEY_FILE);
    let text = card_key::text(Path::new("card.toml"), uri, &public);
    keys_file::write_new(&key, text.as_bytes()).map_err(|error| CliError::key(&error, &key))?;
    Ok(public)
}

/// Takes the device of a node's soft token away for so long.
pub(super) fn remove(node: &Path, span: Duration) -> Result<(), CliError> {
    let own = std::env::current_exe();
    let own = own.map_err(|cause| CliError::failed(cause, "this binary", "check /proc"))?;
    let tool = beside(&own, "hufu-softtoken")?;
    let (config, millis) = (node.join("softtoken.toml"), span.as_millis().to_string());
    let arguments = ["fault", "removed", "--millis", &millis];
    run(&tool, &config.display().to_string(), &arguments).map(drop)
}

/// A file that was built with the binary.
fn beside(binary: &Path, name: &str) -> Result<PathBuf, CliError> {
    let path = binary.with_file_name(name);
    if !path.exists() {
        let remedy = "build the whole workspace (`make build`), or leave --cards out";
        return Err(CliError::file("it is not there", &path, remedy));
    }
    Ok(path)
}

/// A file with a fresh PIN.
fn pin_file(node: &Path, name: &str) -> Result<PathBuf, CliError> {
    let path = node.join(name);
    let mut pin = Zeroizing::new([0; PIN_DIGITS]);
    entropy::fill(&mut *pin).map_err(|cause| CliError::failed(cause, "a PIN", "try again"))?;
    pin.iter_mut().for_each(|digit| *digit = b'0' + *digit % 10);
    keys_file::write_new(&path, &*pin).map_err(|error| CliError::key(&error, &path))?;
    Ok(path)
}

/// Runs the tool; what it prints.
fn run(tool: &Path, config: &str, arguments: &[&str]) -> Result<String, CliError> {
    let refused = |cause: String| CliError::failed(cause, tool.display(), "report this");
    let output = Command::new(tool)
        .args(["--config", config])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| refused(cause.to_string()))?;
    if !output.status.success() {
        return Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    String::from_utf8(output.stdout).map_err(|cause| refused(cause.to_string()))
}

/// The public key in what the tool prints: x || y, with or without what stands before them.
fn public_key(point: &str) -> Option<PublicKey> {
    let point = point.trim();
    PublicKey::from_hex(point.get(point.len().checked_sub(128)?..)?)
}
