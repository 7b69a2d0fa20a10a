//! `hufu account verify`: proves an account from the genesis alone, without any node.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hufu_ledger::{AccountProof, ProvenAccount};
use hufu_network::message::answer::{AccountInfo, AccountState};
use hufu_types::limits::ACCOUNT_PROOF_SIZE_MAX;
use hufu_types::{Address, Genesis};
use serde_json::{Value, json};

use super::CliError;
use crate::account_view::AccountView;
use crate::genesis_file;
use crate::kernels;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Verify an account with its proof, offline: certificate, state root, every holding and every
    /// mandate, and that none is left out.
    #[command(after_help = "An ACCOUNT file is what `hufu query account --proof` writes. \
        Exit code 1 if it does not verify.")]
    Verify {
        /// The chain's genesis: the only thing that is trusted.
        #[arg(long)]
        genesis: PathBuf,
        /// The file of an account with its proof.
        account: PathBuf,
    },
}

pub(super) fn run(verb: &Verb, output: Output) -> Result<(), CliError> {
    let Verb::Verify { genesis, account } = verb;
    let genesis = genesis_file::load(genesis)?;
    let bytes = read(account)?;
    let proven = prove(&bytes, &genesis).map_err(|reason| {
        let remedy = "ask another node, or name the genesis of the account's chain";
        CliError::failed(format!("NOT PROVEN: {reason}"), account.display().to_string(), remedy)
    })?;
    proven.print(output);
    Ok(())
}

/// The file's bytes; more than any proof has are not read.
fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let remedy = "name a file that `hufu query account --proof` has made";
    let mut bytes = Vec::new();
    let limit = u64::from(ACCOUNT_PROOF_SIZE_MAX) + 1;
    let file = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    file.map_err(|cause| CliError::file(cause, path, remedy))?;
    Ok(bytes)
}

/// Proves an account from the genesis.
pub(super) fn prove(bytes: &[u8], genesis: &Genesis) -> Result<Shown, String> {
    let proof = AccountProof::parse(bytes);
    let proof = proof.map_err(|error| format!("account proof is not canonical: {error}"))?;
    let proven = proof.verify(genesis, &*kernels::provider().verifier);
    let ProvenAccount { height, address, account } = proven.map_err(|error| error.to_string())?;
    let view = AccountView::new(account.as_ref());
    Ok(Shown { height, address, view, proven_by: Some(proof.header.height.get()) })
}

/// An account as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    height: u64,
    address: Address,
    view: AccountView,
    /// Height of the header that proves it.
    proven_by: Option<u64>,
}

impl Shown {
    /// What a node says.
    pub(super) fn told(info: &AccountInfo) -> Self {
        let (state, holdings) = (info.state, info.holdings.clone());
        let view = AccountView { state, holdings, mandates: info.mandates.clone() };
        Self { height: info.height, address: info.address, view, proven_by: None }
    }

    /// Whether both show the same account at the same height.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.height, self.address, &self.view) == (other.height, other.address, &other.view)
    }

    /// Prints it.
    pub(super) fn print(&self, output: Output) {
        output.result(&self.to_json(), self.to_text());
    }

    fn proven_text(&self) -> String {
        self.proven_by.map_or_else(
            || "nothing, it is the node's word".to_owned(),
            |header| format!("all of it, by the header of height {header}"),
        )
    }

    fn to_json(&self) -> Value {
        let holdings = self.view.holdings.iter().map(|holding| {
            json!({
                "asset": holding.asset.to_string(),
                "balance": holding.balance.get().to_string(),
                "frozen": holding.is_frozen(),
            })
        });
        let mandates = self.view.mandates.iter().map(|mandate| {
            json!({
                "agent": mandate.agent.to_string(),
                "asset": mandate.asset.to_string(),
                "remaining": mandate.remaining.get().to_string(),
                "expires_at": mandate.expires_at.get(),
            })
        });
        json!({
            "address": self.address.to_string(),
            "height": self.height,
            "state": state_text(self.view.state),
            "holdings": holdings.collect::<Vec<Value>>(),
            "mandates": mandates.collect::<Vec<Value>>(),
            "proven": self.proven_text(),
            "proven_by": self.proven_by,
        })
    }

    fn to_text(&self) -> String {
        let state = state_text(self.view.state);
        let mut text = format!("account {} is {state} at height {}", self.address, self.height);
        for holding in &self.view.holdings {
            let frozen = if holding.is_frozen() { " (frozen)" } else { "" };
            text.push_str(&format!("\n  {:16} {}{frozen}", holding.asset, holding.balance.get()));
        }
        for mandate in &self.view.mandates {
            let (left, until) = (mandate.remaining.get(), mandate.expires_at.get());
            let (agent, asset) = (mandate.agent, mandate.asset);
            text.push_str(&format!("\n  mandate of {agent}: {left} {asset} until height {until}"));
        }
        text.push_str(&format!("\n  proven: {}", self.proven_text()));
        text
    }
}

const fn state_text(state: AccountState) -> &'static str {
    match state {
        AccountState::Unknown => "unknown",
        AccountState::Open => "open",
        AccountState::Closed => "closed",
    }
}
