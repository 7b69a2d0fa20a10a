//! `hufu hsm acknowledge`.

use clap::Args;
use hufu_hsm::CardIdentity;
use hufu_hsm::card::identity;
use serde_json::{Value, json};

use super::super::CliError;
use super::super::audit::AuditTo;
use super::CardFile;
use super::card::{Token, card_facts, identity_text, load};
use super::error::fault;
use crate::output::Output;

#[derive(Debug, Args)]
#[command(
    after_help = "A node refuses a card whose serial, model, label, firmware or library is not \
    what it was. This shows what changed and, with --yes, writes down that this is the card from \
    now on. Nobody logs in. Keys are checked by the node in any case: a validator's vote key \
    must be the one of the genesis. The vendor's library runs in this process."
)]
pub(in crate::cli) struct Acknowledge {
    #[command(flatten)]
    card: CardFile,
    /// Write it down.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    audit: AuditTo,
}

pub(super) fn run(acknowledge: &Acknowledge, output: Output) -> Result<(), CliError> {
    let place = acknowledge.card.path.display();
    let config = load(&acknowledge.card.path)?;
    let token = Token::find(&config.module, config.token.clone());
    let found = token.map_err(|error| fault(&error, &place))?.identity;
    let file = &config.identity_file;
    let changes = match identity::known(file) {
        Ok(Some(before)) => changes(&before, &found),
        Ok(None) => vec!["no card was written down".to_owned()],
        Err(error) => vec![error.to_string()],
    };
    let is_written = acknowledge.yes && !changes.is_empty();
    if is_written {
        let write = || identity::acknowledge(file, &found).map_err(|error| fault(&error, &place));
        let facts = |_: &()| [card_facts(&found), vec![("changes", changes.join("; "))]].concat();
        acknowledge.audit.record("card.acknowledged", config.name.clone(), write, facts)?;
    }
    let value = json!({
        "card": config.name,
        "identity_file": file.display().to_string(),
        "identity": serde_json::to_value(&found).unwrap_or_default(),
        "changes": changes,
        "written": is_written,
    });
    let mut lines = vec![identity_text(&found)];
    lines.extend(changes.iter().map(|change| format!("changed    : {change}")));
    lines.push(match (is_written, changes.is_empty()) {
        (true, _) => format!("written to {}", file.display()),
        (false, true) => "nothing changed".to_owned(),
        (false, false) => "nothing is written".to_owned(),
    });
    output.result(&value, lines.join("\n"));
    if is_written || changes.is_empty() {
        return Ok(());
    }
    Err(CliError::failed(
        format!("the card is not the one of before: {}", changes.join("; ")),
        file.display(),
        "if all of this was meant: the same command with --yes",
    ))
}

/// A line for each field that is not what it was.
fn changes(before: &CardIdentity, after: &CardIdentity) -> Vec<String> {
    let fields = |card| match serde_json::to_value(card) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let changed = before.iter().filter(|(name, value)| after.get(*name) != Some(value));
    let line = |(name, value): (&String, &Value)| {
        let now = after.get(name).unwrap_or(&Value::Null);
        format!("{} was {value}, is {now}", name.replace('_', " "))
    };
    changed.map(line).collect()
}
