//! Vote keys of a local network in soft tokens, one for each validator, each in the manner of
//! another vendor, and its data key wrapped by the same token: what an exchange does with real
//! cards, in small.
//!
//! ```text
//! node-I/softtoken.toml, token/   the token, and where it keeps its keys
//! node-I/so.pin, card.pin         its PINs, of mode 0600
//! node-I/card.toml                the card, for the node's agent
//! node-I/vote.key                 which key of which card is the vote key
//! node-I/data.key                 the data key, wrapped, and by which key of which card
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
use crate::card_key::{self, CardPlace};
use crate::cli::CliError;
use crate::data_key::{self, DATA_KEY_FILE};
use crate::keys_file;
use crate::opened_key::OpenedKey;

/// Key file of a vote key in a card.
pub const KEY_FILE: &str = "vote.key";

/// Whom the tokens imitate, one after the other.
const VENDORS: [&str; 8] =
    ["sansec", "tass", "westone", "luna", "native", "koal", "ep11", "wosign"];

/// The vendor whose keys have numbers and no names.
const COUNTING_VENDOR: &str = "westone";

/// The keys of a token: name, and the number in `CKA_ID` where keys are counted.
const VOTE_KEY: (&str, u8) = ("vote", 1);
const DATA_KEY: (&str, u8) = ("data", 2);

/// The file of a card.
const CARD_FILE: &str = "card.toml";

/// Digits of a PIN.
const PIN_DIGITS: usize = 16;

/// Makes a token for the node of this number in its folder, with a vote key and a key that wraps
/// data keys; the vote key's public key.
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
    let vendor = vendor_of(index);
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
    let generate = |kind: &str, (label, number): (&str, u8)| {
        let id = format!("{number:02x}000000");
        let fixed = ["generate", "--kind", kind, "--pin-file", &pin];
        run(&tool, &configured, &[&fixed[..], &["--label", label, "--id", &id]].concat())
    };
    generate("sm4-encrypt", DATA_KEY)?;
    let public = public_key(&generate("sm2-sign", VOTE_KEY)?)
        .ok_or_else(|| CliError::failed("no public key", tool.display(), "report this"))?;
    let card = node.join(CARD_FILE);
    let text = format!(
        "# Written by `hufu localnet run`.\nname = \"card-{index}\"\nmodule = {module:?}\n\
         token_label = \"hufu\"\npin_file = \"card.pin\"\n[sandbox]\n\
         environment = {{ HUFU_SOFTTOKEN_CONF = {config:?} }}\nreadable = [{config:?}]\n\
         writable = [{store:?}]\n"
    );
    fs::write(&card, text).map_err(|cause| failed(cause, &card))?;
    let key = node.join(KEY_FILE);
    let text = card_key::text(Path::new(CARD_FILE), &uri(vendor, VOTE_KEY), &public);
    keys_file::write_new(&key, text.as_bytes()).map_err(|error| CliError::key(&error, &key))?;
    Ok(public)
}

/// Whom the token of the node of this number imitates.
fn vendor_of(index: u16) -> &'static str {
    VENDORS[usize::from(index) % VENDORS.len()]
}

/// How a card in the manner of this vendor finds a key.
fn uri(vendor: &str, (label, number): (&str, u8)) -> String {
    if vendor == COUNTING_VENDOR {
        format!("pkcs11:x-index={number}")
    } else {
        format!("pkcs11:object={label}")
    }
}

/// Makes the data key of the node of this number, wrapped by the card in its folder.
pub(super) fn wrap_data_key(node: &Path, index: u16) -> Result<(), CliError> {
    let (path, uri) = (node.join(DATA_KEY_FILE), uri(vendor_of(index), DATA_KEY));
    let key = uri.parse().map_err(|cause| CliError::failed(cause, &uri, "report this"))?;
    let by = CardPlace { card: PathBuf::from(CARD_FILE), key };
    let made = data_key::create_wrapped(&path, &by, &OpenedKey::alone);
    made.map(drop).map_err(|error| CliError::data_key(&error, &path))
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
