//! `hufu query status|account|block|tx`: answers of one node, each with the height it was given at.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use hufu_crypto::software_provider;
use hufu_network::Client;
use hufu_network::message::answer::{AccountInfo, AccountState, BlockInfo, TransactionInfo};
use hufu_types::certificate::CommitCertificate;
use hufu_types::{Address, Block, ReceiptProof, TransactionView, TxId};
use serde_json::{Value, json};

use super::CliError;
use super::genesis::parse_address;
use super::remote::Remote;
use super::tx::operation;
use super::tx::{parse_id, receipt_json, strength_text};
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// What the node is doing: height, state root, pending transactions.
    Status {
        #[command(flatten)]
        remote: Remote,
    },
    /// What an account holds and which mandates it has granted.
    Account {
        /// The account.
        #[arg(value_parser = parse_address)]
        address: Address,
        #[command(flatten)]
        remote: Remote,
        /// Write the proof against the state root to this file.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
    },
    /// A block with its certificate and transaction ids.
    Block {
        /// Its height; the latest if left out.
        height: Option<u64>,
        #[command(flatten)]
        remote: Remote,
        /// Place of the first transaction id to show.
        #[arg(long, default_value_t = 0)]
        ids_from: u32,
    },
    /// An included transaction and its receipt.
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
            let answer = remote.connect()?.account(address, proof.is_some());
            let info = answer.map_err(|error| remote.failed(&error))?;
            write_proof(proof.as_deref(), &info.proof)?;
            output.result(&account_json(&info), account_text(&info));
            Ok(())
        }
        Verb::Block { height, remote, ids_from } => {
            let mut client = remote.connect()?;
            let answer = client.block(height.filter(|height| *height > 0), ids_from);
            let info = answer.map_err(|error| remote.failed(&error))?;
            block(&info, &client, &remote, output)
        }
        Verb::Tx { id, remote, proof } => {
            let answer = remote.connect()?.transaction(id, proof.is_some());
            let info = answer.map_err(|error| remote.failed(&error))?;
            write_proof(proof.as_deref(), &info.proof)?;
            transaction(&info, &remote, output)
        }
    }
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

fn account_json(info: &AccountInfo) -> Value {
    let holdings = info.holdings.iter().map(|holding| {
        json!({
            "asset": holding.asset.to_string(),
            "balance": holding.balance.get().to_string(),
            "frozen": holding.is_frozen(),
        })
    });
    let mandates = info.mandates.iter().map(|mandate| {
        json!({
            "agent": mandate.agent.to_string(),
            "asset": mandate.asset.to_string(),
            "remaining": mandate.remaining.get().to_string(),
            "expires_at": mandate.expires_at.get(),
        })
    });
    json!({
        "address": info.address.to_string(),
        "height": info.height,
        "state": account_state(info.state),
        "holdings": holdings.collect::<Vec<Value>>(),
        "mandates": mandates.collect::<Vec<Value>>(),
    })
}

const fn account_state(state: AccountState) -> &'static str {
    match state {
        AccountState::Unknown => "unknown",
        AccountState::Open => "open",
        AccountState::Closed => "closed",
    }
}

fn account_text(info: &AccountInfo) -> String {
    let state = account_state(info.state);
    let mut text = format!("account {} is {state} at height {}", info.address, info.height);
    for holding in &info.holdings {
        let frozen = if holding.is_frozen() { " (frozen)" } else { "" };
        text.push_str(&format!("\n  {:16} {}{frozen}", holding.asset, holding.balance.get()));
    }
    for mandate in &info.mandates {
        let (left, until) = (mandate.remaining.get(), mandate.expires_at.get());
        let (agent, asset) = (mandate.agent, mandate.asset);
        text.push_str(&format!("\n  mandate of {agent}: {left} {asset} until height {until}"));
    }
    text
}

fn block(
    info: &BlockInfo,
    client: &Client,
    remote: &Remote,
    output: Output,
) -> Result<(), CliError> {
    let provider = software_provider();
    let odd = |error: hufu_types::DecodeError| {
        let place = format!("node {}", remote.node);
        CliError::failed(format!("answer is not canonical: {error}"), place, "ask another node")
    };
    let block = info.parse_block(&*provider.hasher).map_err(odd)?;
    let certificate = info.parse_certificate().map_err(odd)?;
    let certified = match remote.read_genesis()? {
        None => "not checked, give --genesis",
        Some(genesis) => {
            let chain_id = client.welcome().chain_id;
            let verdict = certificate.verify(chain_id, &genesis.validators, &*provider.verifier);
            if verdict.is_ok() && certificate.block == block.header().digest() {
                "verified"
            } else {
                "DOES NOT VERIFY"
            }
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

fn transaction(info: &TransactionInfo, remote: &Remote, output: Output) -> Result<(), CliError> {
    let mut value = receipt_json(&info.receipt, info.strength);
    value["answered_at"] = info.height.into();
    if let Ok(view) = TransactionView::parse(&info.transaction) {
        value["sender"] = view.sender().to_string().into();
        value["nonce"] = view.header().nonce.get().into();
        value["valid_until"] = view.header().valid_until.get().into();
        value["operations"] = view.operations().map(|one| operation::to_json(&one)).collect();
    }
    // With a genesis the node need not be believed.
    if let (Some(genesis), false) = (remote.read_genesis()?, info.proof.is_empty()) {
        let verdict = ReceiptProof::parse(&info.proof)
            .map_err(|error| error.to_string())
            .and_then(|proof| {
                let verdict = proof.verify(&genesis, &*software_provider().verifier);
                verdict.map_err(|error| error.to_string())
            })
            .map_err(|error| {
                let place = format!("transaction {}", info.receipt.id);
                CliError::failed(error, place, "ask another node, and look at this one")
            })?;
        value["proven"] = strength_text(verdict).into();
    }
    output.result(&value, lines(&value));
    Ok(())
}

fn write_proof(path: Option<&Path>, proof: &[u8]) -> Result<(), CliError> {
    path.map_or(Ok(()), |path| super::tx::write_new(path, proof))
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
