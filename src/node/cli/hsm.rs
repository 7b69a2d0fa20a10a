//! `hufu hsm ...`: cards at the command line, a thin shell over `hufu-hsm`.
//!
//! ```text
//! a library and a slot --> probe, init-token          what is there; a profile for it
//! card.toml            --> set-pin, keygen, add-card, status, acknowledge, bench, export-,
//!                          import-shares
//! a node               --> agent                      the process in which its library runs
//! ```
//!
//! PINs come from files, credentials and descriptors, never from the command line, which every user
//! of the machine can see. A PIN that a token refused was tried once. All commands load the
//! vendor's library into this process; only `agent` does so inside a sandbox.

mod acknowledge;
mod add_card;
mod agent;
mod bench;
mod card;
mod error;
mod keygen;
mod live;
mod probe;
mod shares;
mod status;
mod token;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hufu_hsm::uri::KeyUri;

pub(super) use card::{check_token, load as load_card};
pub(super) use error::fault;

use super::CliError;
use crate::output::Output;

/// What a card's file says, for people who have to write one.
pub(super) const CARD_FILE: &str = "\
card.toml says which card and how it is used; paths are relative to its folder:
  name = \"card-0\"                    # for logs and metrics
  module = \"/usr/lib/libvendor.so\"   # the vendor's PKCS#11 library
  token_label = \"hufu\"               # or token_serial = \"...\", or slot = 0
  pin_file = \"card-0.pin\"            # mode 0600; or pin_credential, pin_descriptor, pin_pad
  profile = \"matching\"               # or a name, or profile_file = \"my.toml\"
  mode = \"agent\"                     # a process of the node's; or \"connect\", with socket and
                                     # socket_user, to `hufu hsm agent --listen`; or \"in-process\"
  sessions_max = 4
  deadline_millis = 2000
  [sandbox]                          # what the library needs beside its card, in a node's agent
  environment = { VENDOR_CONFIG = \"/etc/vendor.conf\" }
  readable = [\"/etc/vendor.conf\"]
  writable = [\"/var/lib/vendor\"]
  devices = [\"/dev/vendor0\"]
  tcp_ports = [8008]                 # of a card in the network
  user = 998                         # to become where the node is root; with group";

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Look what is behind a library: tokens, mechanisms, the profile that fits; or draft one.
    Probe(probe::Probe),
    /// Initialise a token and set its PINs; whatever it held is lost.
    InitToken(token::InitToken),
    /// Change the user's PIN of a card.
    SetPin(token::SetPin),
    /// Make a key on a card; prints its public key and address.
    Keygen(keygen::Keygen),
    /// Name another card that holds the same key in a key file: either signs when one is away.
    AddCard(add_card::AddCard),
    /// Take a copy of a cloned key out of a card: wrapped, and what unwraps it in shares.
    ExportShares(shares::ExportShares),
    /// Bring a copy of a key into a card, with as many shares as it needs.
    ImportShares(shares::ImportShares),
    /// Say which card is there, how it does, what is wrong with it and what to do.
    Status(status::Status),
    /// Accept that a card is another one than before, or has another firmware or library.
    Acknowledge(acknowledge::Acknowledge),
    /// Measure how fast a card signs, by threads; every signature is verified in software.
    Bench(bench::Bench),
    /// Serve a card to the node that started this process, or with --listen to one that connects.
    Agent(agent::Agent),
}

/// The card's file, which all commands but the first two take.
#[derive(Debug, Args)]
struct CardFile {
    /// The card's file (`card.toml`): library, token, where its PIN comes from.
    #[arg(long = "card", value_name = "FILE")]
    path: PathBuf,
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::Probe(probe) => probe::run(&probe, output),
        Verb::InitToken(init) => token::init(&init, output),
        Verb::SetPin(set) => token::set_pin(&set, output),
        Verb::Keygen(keygen) => keygen::run(&keygen, output),
        Verb::AddCard(add) => add_card::run(&add, output),
        Verb::ExportShares(export) => shares::export(&export, output),
        Verb::ImportShares(import) => shares::import(&import, output),
        Verb::Status(status) => status::run(&status, output),
        Verb::Acknowledge(acknowledge) => acknowledge::run(&acknowledge, output),
        Verb::Bench(bench) => bench::run(&bench, output),
        Verb::Agent(agent) => agent::run(&agent),
    }
}

/// A key of the command line. The error shows no value, since somebody may have put a PIN there.
pub(super) fn key(text: &str) -> Result<KeyUri, String> {
    let said = |error: hufu_hsm::uri::UriError| format!("{error}; write pkcs11:object=LABEL");
    text.parse().map_err(said)
}
