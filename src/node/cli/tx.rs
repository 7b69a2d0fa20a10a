//! `hufu tx`: build, sign, send and wait for transactions.
//!
//! ```text
//! flags, description -> operations -> unsigned bytes -> signed bytes -> node -> receipt
//!        tx transfer …                    tx build          tx sign       tx send   tx wait
//! ```
//!
//! The steps can be taken on different machines, so that a key never leaves its own.

pub(crate) mod description;
mod flags;
pub(crate) mod operation;
mod send;
mod show;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hufu_crypto::{Signer, SoftwareSigner, entropy};
use hufu_types::codec::DecodeError;
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::{ChainId, PublicKey, Transaction, TransactionBuilder};
use serde_json::json;

use super::CliError;
use super::passphrase::PassphraseArguments;
use crate::keys_file;
use crate::output::Output;
use operation::OwnedOperation;
use send::Delivery;
pub(super) use send::{parse_id, receipt_json, strength_text};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Open an account (the genesis names who may).
    Open(Make<flags::Account>),
    /// Close an account that holds nothing.
    Close(Make<flags::Account>),
    /// Create an asset (the genesis names who may).
    CreateAsset(Make<flags::CreateAsset>),
    /// Put an amount of an asset into circulation, as its authority.
    Issue(Make<flags::Supply>),
    /// Take an amount of an asset out of circulation.
    Redeem(Make<flags::Supply>),
    /// Move an amount from one account to another.
    Transfer(Make<flags::Transfer>),
    /// Settle several legs at once or not at all (delivery versus payment).
    Settle(Make<flags::Settle>),
    /// Let an agent debit your holding of one asset up to a limit.
    Grant(Make<flags::Grant>),
    /// Take a mandate back.
    Revoke(Make<flags::Revoke>),
    /// Put a digest on record, of a document or as given.
    Notarise(Make<flags::Notarise>),
    /// Freeze a holding, as the asset's authority.
    Freeze(Make<flags::Holding>),
    /// Unfreeze a holding, as the asset's authority.
    Unfreeze(Make<flags::Holding>),
    /// Send a signed transaction, or build, sign and send a description in TOML or JSON.
    Send(send::Send),
    /// Wait for the receipt of a transaction, whoever sent it.
    Wait(send::Wait),
    /// Build the unsigned bytes of a description, for signing on another machine.
    Build(Build),
    /// Sign unsigned bytes; shows what is signed. Needs no node.
    Sign(Sign),
    /// Show what is in a transaction file, signed or not.
    Show {
        /// The file.
        file: PathBuf,
    },
}

/// Options of the commands that make one transaction of one operation.
#[derive(Debug, Args)]
pub(super) struct Make<T: Args> {
    #[command(flatten)]
    operation: T,
    #[command(flatten)]
    signing: Signing,
    #[command(flatten)]
    delivery: Delivery,
}

/// Who signs, and what makes the transaction unique.
#[derive(Debug, Args)]
pub(super) struct Signing {
    /// Key file of the sender.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    #[command(flatten)]
    pub passphrase: PassphraseArguments,
    #[command(flatten)]
    pub stamp: Stamp,
}

/// What makes a transaction unique, and how long it may be included.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Stamp {
    /// Number that makes the transaction unique for its sender; drawn at random if left out.
    #[arg(long)]
    pub nonce: Option<u64>,
    /// Last height at which it may be included; half the longest allowed time if left out.
    #[arg(long)]
    pub valid_until: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct Build {
    /// The description, TOML or JSON.
    #[arg(long, value_name = "FILE")]
    description: PathBuf,
    /// Public key of the sender, as `hufu keys show` prints it.
    #[arg(long, value_parser = flags::parse_public_key)]
    sender: PublicKey,
    /// The chain's genesis.
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    #[command(flatten)]
    stamp: Stamp,
    /// The file to make.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// Unsigned bytes, made by `hufu tx build`.
    file: PathBuf,
    /// Key file of the sender.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    /// The file to make.
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::Open(make) => make.run(output, |flags, _| Ok(flags.open())),
        Verb::Close(make) => make.run(output, |flags, _| Ok(flags.close())),
        Verb::CreateAsset(make) => make.run(output, |flags, own| Ok(flags.operation(own))),
        Verb::Issue(make) => make.run(output, |flags, own| Ok(flags.issue(own))),
        Verb::Redeem(make) => make.run(output, |flags, own| Ok(flags.redeem(own))),
        Verb::Transfer(make) => make.run(output, |flags, own| Ok(flags.operation(own))),
        Verb::Settle(make) => make.run(output, |flags, _| Ok(flags.operation())),
        Verb::Grant(make) => make.run(output, |flags, _| Ok(flags.operation())),
        Verb::Revoke(make) => make.run(output, |flags, _| Ok(flags.operation())),
        Verb::Notarise(make) => make.run(output, |flags, _| flags.operation()),
        Verb::Freeze(make) => make.run(output, |flags, _| Ok(flags.freeze())),
        Verb::Unfreeze(make) => make.run(output, |flags, _| Ok(flags.unfreeze())),
        Verb::Send(send) => send.run(output),
        Verb::Wait(wait) => wait.run(output),
        Verb::Build(build) => build.run(output),
        Verb::Sign(sign) => sign.run(output),
        Verb::Show { file } => show::run(&file, output),
    }
}

impl<T: Args> Make<T> {
    fn run(
        self,
        output: Output,
        build: impl FnOnce(T, hufu_types::Address) -> Result<OwnedOperation, CliError>,
    ) -> Result<(), CliError> {
        let signer = load_key(&self.signing.key, &self.signing.passphrase)?;
        let operation = build(self.operation, signer.public_key().address())?;
        self.delivery.deliver(&signer, self.signing.stamp, &[operation], output)
    }
}

impl Build {
    fn run(&self, output: Output) -> Result<(), CliError> {
        let genesis = crate::genesis_file::load(&self.genesis)?;
        let text = read_text(&self.description)?;
        let read = description::parse(&text, &self.description, self.sender.address())?;
        let stamp = Stamp {
            nonce: self.stamp.nonce.or(read.nonce),
            valid_until: self.stamp.valid_until.or(read.valid_until),
        };
        let Some(valid_until) = stamp.valid_until else {
            let remedy = "give --valid-until, or `valid_until` in the description";
            return Err(CliError::usage("no node tells the height here", remedy));
        };
        let nonce = stamp.nonce()?;
        let chain_id = genesis.chain_id();
        let bytes = unsigned(chain_id, self.sender, nonce, valid_until, &read.operations);
        write_new(&self.out, &bytes)?;
        let value = json!({
            "file": self.out.display().to_string(),
            "sender": self.sender.address().to_string(),
            "nonce": nonce,
            "valid_until": valid_until,
        });
        output.result(&value, format!("unsigned transaction written to {}", self.out.display()));
        Ok(())
    }
}

impl Sign {
    fn run(&self, output: Output) -> Result<(), CliError> {
        let signer = load_key(&self.key, &self.passphrase)?;
        let unsigned = std::fs::read(&self.file)
            .map_err(|cause| CliError::file(cause, &self.file, "name the unsigned bytes"))?;
        let transaction = sign(unsigned, &signer).map_err(|error| {
            CliError::file(error, &self.file, "name a file made by `hufu tx build`")
        })?;
        if transaction.header().sender != *signer.public_key() {
            let what = "the transaction names another sender than this key";
            return Err(CliError::file(what, &self.file, "use the sender's key"));
        }
        write_new(&self.out, transaction.bytes())?;
        show::print(&transaction, output);
        Ok(())
    }
}

impl Stamp {
    fn nonce(self) -> Result<u64, CliError> {
        if let Some(nonce) = self.nonce {
            return Ok(nonce);
        }
        let mut bytes = [0; 8];
        let remedy = "give --nonce";
        entropy::fill(&mut bytes)
            .map_err(|error| CliError::failed(error, "operating system", remedy))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The last valid height: as told, or half the longest allowed time from `height`.
    fn valid_until(self, height: u64) -> u64 {
        self.valid_until.unwrap_or_else(|| height.saturating_add(TX_VALIDITY_HEIGHTS_MAX / 2))
    }
}

fn unsigned(
    chain_id: ChainId,
    sender: PublicKey,
    nonce: u64,
    valid_until: u64,
    operations: &[OwnedOperation],
) -> Vec<u8> {
    let builder = TransactionBuilder::new(chain_id, sender, nonce, valid_until);
    let add = |builder: TransactionBuilder, one: &OwnedOperation| builder.operation(one.view());
    operations.iter().fold(builder, add).unsigned()
}

/// Signs unsigned bytes with the signer's key; refuses what is not canonical before it signs.
fn sign(unsigned: Vec<u8>, signer: &SoftwareSigner) -> Result<Transaction, SignError> {
    let blank = hufu_types::Signature([0; 64]);
    TransactionBuilder::join(unsigned.clone(), &blank)?;
    let digest = TransactionBuilder::signing_digest(&unsigned, signer.public_key());
    Ok(TransactionBuilder::join(unsigned, &signer.sign(&digest)?)?)
}

/// Why a transaction was not signed.
#[derive(Debug, thiserror::Error)]
enum SignError {
    /// The bytes are no unsigned transaction.
    #[error("not an unsigned transaction: {0}")]
    Decode(#[from] DecodeError),
    /// The key could not sign.
    #[error(transparent)]
    Crypto(#[from] hufu_crypto::Error),
}

fn load_key(path: &Path, passphrase: &PassphraseArguments) -> Result<SoftwareSigner, CliError> {
    let key = keys_file::open(path).and_then(|key| key.unlock(passphrase.source().as_ref()));
    key.map_err(|error| CliError::key(&error, path))
}

fn read_text(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path)
        .map_err(|cause| CliError::file(cause, path, "name a description in TOML or JSON"))
}

/// Writes a file that must not be there yet.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    NewFile::create(path)?.write(bytes)
}

/// A file that was not there, made before what it is for, so that nothing irrevocable is done whose
/// result could not be kept. Without content it goes again.
#[derive(Debug)]
pub(super) struct NewFile {
    path: PathBuf,
    file: std::fs::File,
    is_written: bool,
}

impl NewFile {
    /// Makes the file.
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        let remedy = "choose a name that is not taken, in a folder this user may write";
        let file = std::fs::File::create_new(path);
        let file = file.map_err(|cause| CliError::file(cause, path, remedy))?;
        Ok(Self { path: path.to_owned(), file, is_written: false })
    }

    /// Fills the file.
    pub(super) fn write(mut self, bytes: &[u8]) -> Result<(), CliError> {
        use std::io::Write;
        let remedy = "check the disk";
        let written = self.file.write_all(bytes);
        written.map_err(|cause| CliError::file(cause, &self.path, remedy))?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_written {
            // What cannot be removed is an empty file under a name that its user chose.
            drop(std::fs::remove_file(&self.path));
        }
    }
}
