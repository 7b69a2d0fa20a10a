//! Shows what a transaction asks for, before someone signs or sends it.

use std::path::Path;

use hufu_crypto::{Verdict, VerifyItem};
use hufu_types::{Signature, Transaction, TransactionBuilder, TransactionView};
use serde_json::{Value, json};

use super::super::CliError;
use super::operation;
use crate::kernels;
use crate::output::Output;

/// Shows a file of a transaction, signed or not.
pub(super) fn run(file: &Path, output: Output) -> Result<(), CliError> {
    let remedy = "name a file made by `hufu tx`";
    let bytes = std::fs::read(file).map_err(|cause| CliError::file(cause, file, remedy))?;
    let signed = Transaction::parse(bytes.clone().into_boxed_slice());
    let transaction = match signed {
        Ok(transaction) => transaction,
        // Unsigned bytes become a transaction with any signature; it is shown as unsigned.
        Err(error) => TransactionBuilder::join(bytes, &UNSIGNED)
            .map_err(|_| CliError::file(format!("no transaction: {error}"), file, remedy))?,
    };
    print(&transaction, output);
    Ok(())
}

/// Stands for a signature that was not made; no signature is zero (GB/T 32918.2-2016 6.1 step A5).
const UNSIGNED: Signature = Signature([0; 64]);

/// Prints a transaction.
pub(super) fn print(transaction: &Transaction, output: Output) {
    let Ok(view) = TransactionView::parse(transaction.bytes()) else { return };
    let header = view.header();
    let operations: Vec<Value> = view.operations().map(|one| operation::to_json(&one)).collect();
    let signature = signature_state(transaction);
    let value = json!({
        "transaction": view.id().to_string(),
        "chain_id": header.prefix.chain_id.to_string(),
        "sender": view.sender().to_string(),
        "public_key": header.sender.to_string(),
        "nonce": header.nonce.get(),
        "valid_until": header.valid_until.get(),
        "signature": signature,
        "operations": operations,
    });
    let mut text = format!(
        "transaction {}\nchain       {}\nsender      {}\nnonce       {}\nvalid until {}\nsignature   {signature}",
        view.id(),
        header.prefix.chain_id,
        view.sender(),
        header.nonce.get(),
        header.valid_until.get(),
    );
    for (index, operation) in operations.iter().enumerate() {
        text.push_str(&format!("\noperation {index} {operation}"));
    }
    output.result(&value, text);
}

fn signature_state(transaction: &Transaction) -> &'static str {
    if *transaction.signature() == UNSIGNED {
        return "none";
    }
    let key = &transaction.header().sender;
    let digest = TransactionBuilder::signing_digest(transaction.unsigned_bytes(), key);
    let item = VerifyItem { key, digest, signature: transaction.signature() };
    match kernels::provider().verifier.verify(item) {
        Verdict::Valid => "valid",
        Verdict::KeyInvalid => "INVALID KEY",
        Verdict::SignatureInvalid => "INVALID",
    }
}
