//! `hufu query status|account|block|tx`: answers of one node, each with the height it was given at.
//!
//! With a genesis an account, a block and a transaction are proven, and the node need not be
//! believed; every answer says what of it is proven.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use hufu_network::Client;
use hufu_network::message::answer::{AccountInfo, BlockInfo, TransactionInfo};
use hufu_types::certificate::CommitCertificate;
use hufu_types::transaction::tx_digest;
use hufu_types::{Address, Block, Genesis, ReceiptProof, Strength, TransactionView, TxId};
use serde_json::{Value, json};

use super::CliError;
use super::account::{self, Shown};
use super::genesis::parse_address;
use super::remote::Remote;
use super::tx::operation;
use super::tx::{NewFile, parse_id, receipt_json, strength_text};
use crate::kernels;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What the node is doing: height, state root, pending transactions.
    Status {
        #[command(flatten)]
        remote: Remote,
    },
    /// What an account holds and which mandates it has granted; all of it is proven with --genesis,
    /// at the height whose state a later header certifies.
    Account {
        /// The account.
        #[arg(value_parser = parse_address)]
        address: Address,
        #[command(flatten)]
        remote: Remote,
        /// Write the account with its proof to this file, for `hufu account verify`.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
    },
    /// A block with its certificate and transaction ids; the certificate is verified with
    /// --genesis.
    Block {
        /// Its height; the latest if left out.
        height: Option<u64>,
        #[command(flatten)]
        remote: Remote,
        /// Place of the first transaction id to show.
        #[arg(long, default_value_t = 0)]
        ids_from: u32,
    },
    /// An included transaction and its receipt; both are proven with --genesis.
    Tx {
        /// The transaction's id.
        #[arg(value_parser = parse_id)]
        id: TxId,
        #[command(flatten)]
        remote: Remote,
        /// Write the receipt with its proof to this file, for `hufu receipt verify`.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
    },
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::Status { remote } => status(&remote, output),
        Verb::Account { address, remote, proof } => {
            let (file, genesis) = (proof_file(proof.as_deref())?, remote.read_genesis()?);
            let with_proof = file.is_some() || genesis.is_some();
            let answer = remote.connect()?.account(address, with_proof);
            let info = answer.map_err(|error| remote.failed(&error))?;
            expect_asked(info.address == address, "account", &remote)?;
            let shown = shown(&info, genesis.as_ref()).map_err(|what| {
                let place = format!("account {address}, node {}", remote.node);
                CliError::failed(what, place, "ask another node, and look at this one")
            })?;
            shown.print(output);
            file.map_or(Ok(()), |file| file.write(&info.proof))
        }
        Verb::Block { height, remote, ids_from } => {
            let mut client = remote.connect()?;
            let height = height.filter(|height| *height > 0);
            let answer = client.block(height, ids_from);
            let info = answer.map_err(|error| remote.failed(&error))?;
            block(&info, height, &client, &remote, output)
        }
        Verb::Tx { id, remote, proof } => {
            let (file, genesis) = (proof_file(proof.as_deref())?, remote.read_genesis()?);
            let with_proof = file.is_some() || genesis.is_some();
            let answer = remote.connect()?.transaction(id, with_proof);
            let info = answer.map_err(|error| remote.failed(&error))?;
            let proven = judge(&info, id, genesis.as_ref()).map_err(|what| {
                let place = format!("transaction {id}, node {}", remote.node);
                CliError::failed(what, place, "ask another node, and look at this one")
            })?;
            transaction(&info, proven, output);
            file.map_or(Ok(()), |file| file.write(&info.proof))
        }
    }
}

/// The file for a proof, made before the node is asked.
fn proof_file(path: Option<&Path>) -> Result<Option<NewFile>, CliError> {
    path.map(NewFile::create).transpose()
}

/// A node answers what it was asked, or it is not to be believed in anything.
fn expect_asked(is_asked: bool, what: &str, remote: &Remote) -> Result<(), CliError> {
    if is_asked {
        return Ok(());
    }
    let what = format!("the answer is about another {what} than was asked for");
    let place = format!("node {}", remote.node);
    Err(CliError::failed(what, place, "ask another node, and look at this one"))
}

fn status(remote: &Remote, output: Output) -> Result<(), CliError> {
    let mut client = remote.connect()?;
    let info = client.status().map_err(|error| remote.failed(&error))?;
    let welcome = client.welcome();
    let value = json!({
        "state": info.state.text(),
        "chain_id": welcome.chain_id.to_string(),
        "node": welcome.node.to_string(),
        "version": info.version,
        "height": info.height,
        "certified_height": info.certified_height,
        "oldest_height": info.oldest_height,
        "block": info.block.to_string(),
        "state_root": info.state_root.to_string(),
        "time_millis": info.time_millis,
        "uptime_seconds": info.uptime_seconds,
        "pending_transactions": info.pending_transactions,
        "pending_bytes": info.pending_bytes,
        "peers": info.peers_count,
    });
    output.result(&value, lines(&value));
    Ok(())
}

fn block(
    info: &BlockInfo,
    asked: Option<u64>,
    client: &Client,
    remote: &Remote,
    output: Output,
) -> Result<(), CliError> {
    let provider = kernels::provider();
    let odd = |error: hufu_types::DecodeError| {
        let place = format!("node {}", remote.node);
        CliError::failed(format!("answer is not canonical: {error}"), place, "ask another node")
    };
    let block = info.parse_block(&*provider.hasher).map_err(odd)?;
    let certificate = info.parse_certificate().map_err(odd)?;
    expect_asked(asked.is_none_or(|height| height == block.height()), "block", remote)?;
    let certified = match remote.read_genesis()? {
        None => "not checked, give --genesis",
        Some(genesis) => {
            let chain_id = client.welcome().chain_id;
            let verdict = certificate.verify(chain_id, &genesis.validators, &*provider.verifier);
            let is_of_it = certificate.block == block.header().digest()
                && certificate.height == block.height();
            if verdict.is_ok() && is_of_it { "verified" } else { "DOES NOT VERIFY" }
        }
    };
    let value = block_json(info, &block, &certificate, certified);
    output.result(&value, lines(&value));
    if certified == "DOES NOT VERIFY" { Err(CliError::Reported) } else { Ok(()) }
}

fn block_json(
    info: &BlockInfo,
    block: &Block,
    certificate: &CommitCertificate,
    certified: &str,
) -> Value {
    let header = block.header();
    json!({
        "height": header.height.get(),
        "answered_at": info.height,
        "block": header.digest().to_string(),
        "parent": header.parent.to_string(),
        "proposer": header.proposer.to_string(),
        "time_millis": header.time_millis.get(),
        "transactions_root": header.transactions_root.to_string(),
        "executed_height": header.executed_height.get(),
        "state_root": header.state_root.to_string(),
        "receipts_root": header.receipts_root.to_string(),
        "batches": block.batches().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "round": certificate.round,
        "signatures": certificate.signatures.len(),
        "certificate": certified,
        "transactions": info.ids_total,
        "ids_from": info.ids_from,
        "ids": info.ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What an answer about an account says; with a genesis, after that is proven.
fn shown(info: &AccountInfo, genesis: Option<&Genesis>) -> Result<Shown, String> {
    let told = Shown::told(info);
    let Some(genesis) = genesis else { return Ok(told) };
    if info.proof.is_empty() {
        return Err("the node gives no proof".to_owned());
    }
    let proven = account::prove(&info.proof, genesis)?;
    if proven.is_same(&told) {
        Ok(proven)
    } else {
        Err("the account shown is not the one that the proof proves".to_owned())
    }
}

/// Whether an answer is about the transaction asked for and, with a genesis, what of it is proven.
fn judge(
    info: &TransactionInfo,
    asked: TxId,
    genesis: Option<&Genesis>,
) -> Result<Option<Strength>, String> {
    let view = TransactionView::parse(&info.transaction);
    let view = view.map_err(|error| format!("the transaction is not canonical: {error}"))?;
    if info.receipt.id != asked || view.id() != asked {
        return Err("the answer is about another transaction than was asked for".to_owned());
    }
    let Some(genesis) = genesis else { return Ok(None) };
    if info.proof.is_empty() {
        return Err("the node gives no proof".to_owned());
    }
    let proof = ReceiptProof::parse(&info.proof).map_err(|error| error.to_string())?;
    if proof.receipt != info.receipt {
        return Err("the receipt shown is not the one that the proof proves".to_owned());
    }
    if proof.receipt.digest != tx_digest(genesis.chain_id(), &asked, view.signature()) {
        return Err("the transaction shown is not the one that the proof proves".to_owned());
    }
    let proven = proof.verify(genesis, &*kernels::provider().verifier);
    let proven = proven.map_err(|error| error.to_string())?;
    if proven < info.strength {
        return Err("the node calls the receipt certified, its proof does not".to_owned());
    }
    Ok(Some(proven))
}

fn transaction(info: &TransactionInfo, proven: Option<Strength>, output: Output) {
    let mut value = receipt_json(&info.receipt, info.strength);
    value["answered_at"] = info.height.into();
    value["proven"] = proven.map_or("nothing, give --genesis", strength_text).into();
    if let Ok(view) = TransactionView::parse(&info.transaction) {
        value["sender"] = view.sender().to_string().into();
        value["nonce"] = view.header().nonce.get().into();
        value["valid_until"] = view.header().valid_until.get().into();
        value["operations"] = view.operations().map(|one| operation::to_json(&one)).collect();
    }
    output.result(&value, lines(&value));
}

/// An object as lines `key value`, for people.
fn lines(value: &Value) -> String {
    let empty = serde_json::Map::new();
    let object = value.as_object().unwrap_or(&empty);
    let width = object.keys().map(String::len).max().unwrap_or(0);
    let mut text = Vec::new();
    for (key, value) in object {
        match value {
            Value::String(word) => text.push(format!("{key:width$}  {word}")),
            Value::Array(items) => {
                text.push(format!("{key:width$}  {}", items.len()));
                text.extend(items.iter().map(|item| match item {
                    Value::String(word) => format!("  {word}"),
                    other => format!("  {other}"),
                }));
            }
            Value::Null => {}
            other => text.push(format!("{key:width$}  {other}")),
        }
    }
    text.join("\n")
}

#[cfg(test)]
mod tests;
