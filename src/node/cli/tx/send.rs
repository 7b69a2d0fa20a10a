//! Sending signed transactions and waiting for what becomes of them.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hufu_crypto::SoftwareSigner;
use hufu_network::{Client, TransactionResult, WaitFor};
use hufu_types::limits::TX_VALIDITY_HEIGHTS_MAX;
use hufu_types::{ChainId, Receipt, RefusalCode, Strength, Transaction, TransactionView, TxId};
use serde_json::{Value, json};

use super::super::CliError;
use super::super::passphrase::PassphraseArguments;
use super::super::remote::Remote;
use super::operation::OwnedOperation;
use super::{NewFile, Stamp, description, load_key, read_text, sign, unsigned, write_new};
use crate::output::Output;

/// Where a signed transaction goes and what is waited for.
#[derive(Debug, Args)]
pub(crate) struct Delivery {
    #[command(flatten)]
    remote: Remote,
    /// Write the signed transaction to this file instead of sending it; with --genesis and
    /// --valid-until no node is needed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["wait", "proof"])]
    out: Option<PathBuf>,
    #[command(flatten)]
    answer: Answer,
}

/// What is waited for.
#[derive(Debug, Args)]
pub(crate) struct Answer {
    /// What to wait for.
    #[arg(long, value_enum, default_value = "committed")]
    wait: WaitArgument,
    /// Write the receipt with its proof to this file, for `hufu receipt verify`.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WaitArgument {
    /// Until the node has taken it.
    Nothing,
    /// Until it is ordered, durable and executed.
    Committed,
    /// Until its result is proven by a later header.
    Certified,
}

impl From<WaitArgument> for WaitFor {
    fn from(argument: WaitArgument) -> Self {
        match argument {
            WaitArgument::Nothing => Self::Nothing,
            WaitArgument::Committed => Self::Committed,
            WaitArgument::Certified => Self::Certified,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// A signed transaction (`hufu tx sign`, `--out`), or a description in TOML or JSON.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Key file of the sender; for descriptions.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArguments,
    #[command(flatten)]
    stamp: Stamp,
    #[command(flatten)]
    delivery: Delivery,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// The transaction's id.
    #[arg(value_parser = parse_id)]
    id: TxId,
    #[command(flatten)]
    remote: Remote,
    /// Give up once this height is executed without the transaction.
    #[arg(long)]
    until_height: Option<u64>,
    #[command(flatten)]
    answer: Answer,
}

impl Send {
    pub(super) fn run(self, output: Output) -> Result<(), CliError> {
        let bytes = std::fs::read(&self.file)
            .map_err(|cause| CliError::file(cause, &self.file, "name a transaction file"))?;
        // A transaction begins with its kind, which no text does.
        if bytes.starts_with(&[1, 0]) {
            let transaction = Transaction::parse(bytes.into_boxed_slice()).map_err(|error| {
                let remedy = "sign unsigned bytes with `hufu tx sign` first";
                CliError::file(format!("not a signed transaction: {error}"), &self.file, remedy)
            })?;
            return self.delivery.send(&transaction, output);
        }
        let Some(key) = &self.key else {
            let remedy = "give --key, the sender's key file";
            return Err(CliError::usage("a description is signed before it is sent", remedy));
        };
        let signer = load_key(key, &self.passphrase)?;
        let sender = hufu_crypto::Signer::public_key(&signer).address();
        let read = description::parse(&read_text(&self.file)?, &self.file, sender)?;
        let stamp = Stamp {
            nonce: self.stamp.nonce.or(read.nonce),
            valid_until: self.stamp.valid_until.or(read.valid_until),
        };
        self.delivery.deliver(&signer, stamp, &read.operations, output)
    }
}

impl Wait {
    pub(super) fn run(self, output: Output) -> Result<(), CliError> {
        let Some(strength) = WaitFor::from(self.answer.wait).strength() else {
            return Err(CliError::usage("waiting for nothing", "wait for committed or certified"));
        };
        let proof = self.answer.proof_file()?;
        let mut client = self.remote.connect()?;
        let latest = client.welcome().height.saturating_add(TX_VALIDITY_HEIGHTS_MAX);
        let until = self.until_height.unwrap_or(latest);
        let result = client
            .wait(self.id, strength, proof.is_some(), until)
            .map_err(|error| self.remote.failed(&error))?;
        conclude(self.id, result, proof, output)
    }
}

impl Delivery {
    /// Makes a transaction of these operations, signs it, and sends or writes it.
    pub(super) fn deliver(
        &self,
        signer: &SoftwareSigner,
        stamp: Stamp,
        operations: &[OwnedOperation],
        output: Output,
    ) -> Result<(), CliError> {
        let genesis = self.remote.read_genesis()?;
        let offline = match (&self.out, &genesis, stamp.valid_until) {
            (Some(_), Some(genesis), Some(height)) => Some((genesis.chain_id(), height)),
            _ => None,
        };
        let (mut client, chain_id, valid_until) = match offline {
            Some((chain_id, height)) => (None, chain_id, height),
            None => {
                let client = self.remote.connect()?;
                let welcome = *client.welcome();
                (Some(client), welcome.chain_id, stamp.valid_until(welcome.height))
            }
        };
        let transaction = make(signer, chain_id, stamp.nonce()?, valid_until, operations)?;
        match (&self.out, &mut client) {
            (Some(path), _) => written(path, &transaction, output),
            (None, Some(client)) => self.send_on(client, &transaction, output),
            (None, None) => self.send(&transaction, output),
        }
    }

    fn send(&self, transaction: &Transaction, output: Output) -> Result<(), CliError> {
        self.send_on(&mut self.remote.connect()?, transaction, output)
    }

    fn send_on(
        &self,
        client: &mut Client,
        transaction: &Transaction,
        output: Output,
    ) -> Result<(), CliError> {
        let id = transaction_id(transaction);
        let wait = WaitFor::from(self.answer.wait);
        if self.answer.proof.is_some() && wait == WaitFor::Nothing {
            let remedy = "wait for committed or certified";
            return Err(CliError::usage("a proof comes with a receipt only", remedy));
        }
        let proof = self.answer.proof_file()?;
        let results = client.submit(std::slice::from_ref(transaction), wait, proof.is_some());
        let mut results = results.map_err(|error| {
            let CliError::Failed { what, place, .. } = self.remote.failed(&error) else {
                return self.remote.failed(&error);
            };
            let remedy = format!("see what became of it with `hufu tx wait {id}`");
            CliError::failed(what, format!("{place}, transaction {id}"), remedy)
        })?;
        let result = results.pop().unwrap_or(TransactionResult::Refused(RefusalCode::Stopping));
        conclude(id, result, proof, output)
    }
}

impl Answer {
    /// The file for the proof. Made before anything is sent: a transaction whose receipt has no
    /// place to go must not be paid for.
    fn proof_file(&self) -> Result<Option<NewFile>, CliError> {
        self.proof.as_deref().map(NewFile::create).transpose()
    }
}

/// Prints the last word on a transaction; anything but success is an error.
fn conclude(
    id: TxId,
    result: TransactionResult,
    file: Option<NewFile>,
    output: Output,
) -> Result<(), CliError> {
    let place = format!("transaction {id}");
    match result {
        TransactionResult::Taken => {
            let value = json!({ "transaction": id.to_string(), "result": "taken" });
            output.result(&value, format!("transaction {id}\ntaken"));
            Ok(())
        }
        TransactionResult::Refused(code) => {
            Err(CliError::failed(format!("refused: {code}"), place, refusal_remedy(code)))
        }
        TransactionResult::Receipt { receipt, strength, proof } => {
            // The receipt is printed whatever becomes of the file.
            let kept = file.map_or(Ok(()), |file| file.write(&proof));
            print_receipt(&receipt, strength, output).and(kept)
        }
    }
}

/// Prints a receipt; a transaction that failed is an error.
pub(crate) fn print_receipt(
    receipt: &Receipt,
    strength: Strength,
    output: Output,
) -> Result<(), CliError> {
    let value = receipt_json(receipt, strength);
    let word = strength_text(strength);
    let (height, index) = (receipt.height.get(), receipt.index.get());
    let id = receipt.id;
    let outcome = receipt.outcome().map_err(|error| {
        CliError::failed(error, format!("receipt of {id}"), "use the hufu of the node's version")
    })?;
    let text = match outcome {
        Ok(()) => "done".to_owned(),
        Err(failure) => match failure.operation {
            Some(operation) => format!("FAILED in operation {operation}: {}", failure.code),
            None => format!("FAILED: {}", failure.code),
        },
    };
    output.result(
        &value,
        format!("transaction {id}\n{word} at height {height}, place {index}: {text}"),
    );
    if outcome.is_ok() { Ok(()) } else { Err(CliError::Reported) }
}

/// A receipt as a JSON object.
pub(crate) fn receipt_json(receipt: &Receipt, strength: Strength) -> Value {
    let (code, operation) = match receipt.outcome() {
        Ok(Ok(())) => ("ok", None),
        Ok(Err(failure)) => (failure.code.text(), failure.operation),
        Err(_) => ("unknown", None),
    };
    json!({
        "transaction": receipt.id.to_string(),
        "digest": receipt.digest.to_string(),
        "strength": strength_text(strength),
        "height": receipt.height.get(),
        "index": receipt.index.get(),
        "result": code,
        "failed_operation": operation,
    })
}

pub(crate) const fn strength_text(strength: Strength) -> &'static str {
    match strength {
        Strength::Committed => "committed",
        Strength::Certified => "certified",
    }
}

const fn refusal_remedy(code: RefusalCode) -> &'static str {
    match code {
        RefusalCode::Malformed => "build it anew with `hufu tx`",
        RefusalCode::Oversized => "divide its operations into several transactions",
        RefusalCode::WrongChain => "build it with the genesis of the node's chain",
        RefusalCode::SuiteUnknown => "use the suite SM2 with SM3",
        RefusalCode::Expired => "build it anew with a later --valid-until",
        RefusalCode::ValidityTooLong => "build it anew with a --valid-until at most 600 ahead",
        RefusalCode::Duplicate => "it was sent before: see `hufu tx wait`, or take another --nonce",
        RefusalCode::KeyInvalid | RefusalCode::SignatureInvalid => "sign it with the sender's key",
        RefusalCode::Overloaded => "try again later",
        RefusalCode::Stopping => "send it to another node",
    }
}

fn make(
    signer: &SoftwareSigner,
    chain_id: ChainId,
    nonce: u64,
    valid_until: u64,
    operations: &[OwnedOperation],
) -> Result<Transaction, CliError> {
    let sender = *hufu_crypto::Signer::public_key(signer);
    let unsigned = unsigned(chain_id, sender, nonce, valid_until, operations);
    sign(unsigned, signer).map_err(|error| CliError::usage(error, "mend the operation's values"))
}

fn written(path: &Path, transaction: &Transaction, output: Output) -> Result<(), CliError> {
    write_new(path, transaction.bytes())?;
    let id = transaction_id(transaction);
    let value = json!({ "transaction": id.to_string(), "file": path.display().to_string() });
    output.result(&value, format!("transaction {id}\nsigned, written to {}", path.display()));
    Ok(())
}

pub(super) fn transaction_id(transaction: &Transaction) -> TxId {
    // A transaction has parsed before; its id is the digest of its unsigned bytes.
    TransactionView::parse(transaction.bytes()).map_or(TxId::ZERO, |view| view.id())
}

pub(crate) fn parse_id(text: &str) -> Result<TxId, String> {
    TxId::from_hex(text).ok_or_else(|| "a transaction id is 64 hexadecimal digits".to_owned())
}
