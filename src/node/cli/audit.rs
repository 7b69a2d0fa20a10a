//! `hufu audit verify|show`, and `--audit DIR` of the commands that leave a record.
//!
//! ```text
//! hufu audit verify DIR            chain, seals; of a data folder also the vote log
//! hufu audit show DIR              the records, verified on the way
//! hufu hsm|keys ... --audit DIR    opens the log, does it, records what came of it
//! ```
//!
//! A command that is to leave a record does nothing if the log cannot be written.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hufu_crypto::{PublicKey, Signer, is_curve_point};
use hufu_runtime::clock;
use hufu_storage::audit_log::{
    AuditError, AuditLog, Detail, Event, Outcome, Owner, Record, Seals, Verified, verify,
};
use hufu_storage::data_dir::DataDir;
use serde_json::{Value, json};

use super::CliError;
use super::crypto::load_public_key;
use crate::audit::compare::{Compared, Comparison, Votes};
use crate::audit::events;
use crate::log::Timestamp;
use crate::output::Output;
use crate::recovery::StorageOptions;
use crate::{data_key, kernels, keys_file};

/// Faults that are listed, count; the others are only counted.
const LISTED_MAX: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Verify an audit log: the chain, every seal, and for a data folder that its records of
    /// signatures agree with the vote log.
    #[command(
        after_help = "Exit code 1 and the first broken line if anything is wrong. The log may \
        be that of a running node; a data folder may not. Without --key a seal proves that the \
        chain is whole up to it, not whose it is: the keys that sealed are printed, compare them \
        with the node's (`hufu keys show audit.pem` there). Keep the last record's digest that is \
        printed: a log from which an end was cut off shows only to who knows a later record."
    )]
    Verify(Verify),
    /// Print the records of an audit log, verified on the way.
    Show(Show),
}

/// Which audit log, and who must have sealed it.
#[derive(Debug, Args)]
struct Chosen {
    /// The folder of the log (audit.folder), or the node's data folder (node.data_dir).
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The public key that must have sealed, as a PEM file or in hexadecimal digits as `hufu keys
    /// show` prints it; more than once where the node changed it.
    #[arg(long, value_name = "FILE|HEX")]
    key: Vec<PathBuf>,
    /// Begin with the file of this number, where older ones were moved away.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    first_file: u32,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    log: Chosen,
    /// The node's data folder (node.data_dir) with the vote log, where DIR is not that.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The node's data key (storage.key_file), with which its vote log is encrypted.
    #[arg(long, value_name = "FILE")]
    data_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    log: Chosen,
    /// Only records of this time on (UTC): 2026-11-23, 2026-11-23T08:30.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<String>,
    /// Only records whose action begins like this: key., card.away.
    #[arg(long, value_name = "ACTION", default_value = "")]
    action: String,
}

/// The beginning of a time as records are shown with it: such texts are ordered as times are.
fn time(text: &str) -> Result<String, String> {
    let form = b"dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |(byte, form): (u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        other => byte == *other,
    };
    let is_good = text.len() >= 4 && text.len() <= form.len() && text.bytes().zip(form).all(fits);
    is_good
        .then(|| text.to_owned())
        .ok_or_else(|| "write 2026-11-23T08:30:00Z, or less of it".into())
}

pub(super) fn run(verb: &Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::Verify(verify) => run_verify(verify, output),
        Verb::Show(show) => run_show(show, output),
    }
}

impl Chosen {
    /// The log's folder; whether the one given is a data folder.
    fn place(&self) -> (PathBuf, bool) {
        let own = DataDir::audit_in(&self.folder);
        if own.is_dir() { (own, true) } else { (self.folder.clone(), false) }
    }

    fn verify(&self, visit: impl FnMut(&Record)) -> Result<Verified, CliError> {
        let read = |key: &PathBuf| {
            let digits = key.to_str().and_then(PublicKey::from_hex);
            digits.filter(is_curve_point).map_or_else(|| load_public_key(key), Ok)
        };
        let keys = self.key.iter().map(read);
        let keys = keys.collect::<Result<Vec<PublicKey>, CliError>>()?;
        let (folder, _) = self.place();
        let provider = kernels::provider();
        let seals = Seals { provider: &provider, keys: &keys };
        let found = verify(&folder, self.first_file, seals, visit);
        let found = found.map_err(|error| refused(&error, &folder))?;
        if found.owner.is_none() {
            let remedy = "name the folder of an audit log, or a node's data folder";
            return Err(CliError::file("there is no audit log", &folder, remedy));
        }
        Ok(found)
    }
}

fn refused(error: &AuditError, folder: &Path) -> CliError {
    let remedy = match error {
        AuditError::Broken { .. } => {
            "keep the folder as it is, and find out who or what changed the log"
        }
        AuditError::FileMissing { .. } => {
            "put the file back, or begin behind it: --first-file NUMBER"
        }
        AuditError::Locked { .. } => "name another folder: a log has one writer",
        AuditError::OtherOwner { .. } => "name the log of this owner, or an empty folder",
        AuditError::File(_) | AuditError::DiskFull { .. } | AuditError::Stopped { .. } => {
            "check the folder and its disk"
        }
        AuditError::Seal(_) => "name a private key as `hufu keys new` makes it",
        AuditError::Oversized { .. } => "report this",
    };
    CliError::file(error, folder, remedy)
}

fn run_verify(verify: &Verify, output: Output) -> Result<(), CliError> {
    let (folder, is_data) = verify.log.place();
    let own = is_data.then_some(&verify.log.folder);
    let (found, compared) = if let Some(data) = verify.data_dir.as_ref().or(own) {
        // Held until the logs have been read: a node that ran meanwhile would have gone on.
        let held = DataDir::hold(data);
        let held = held.map_err(|error| {
            let remedy = "stop the node, or name the log alone: its folder audit/";
            CliError::file(error, data, remedy)
        })?;
        let mut comparison = Comparison::new(votes(data, verify.data_key.as_deref())?);
        let found = verify.log.verify(|record| comparison.record(record))?;
        drop(held);
        (found, Some(comparison.finish()))
    } else {
        if verify.data_key.is_some() {
            let remedy = "name the node's data folder with --data-dir, or leave --data-key out";
            return Err(CliError::usage("there is no vote log to compare with", remedy));
        }
        (verify.log.verify(|_| {})?, None)
    };
    let text = text_of(&found, compared.as_ref(), !verify.log.key.is_empty());
    output.result(&value_of(&folder, &found, compared.as_ref()), text);
    let agrees = compared.is_none_or(|compared| compared.disagreements.is_empty());
    if agrees { Ok(()) } else { Err(CliError::Reported) }
}

/// What the node with this data folder signed, by its vote log.
fn votes(folder: &Path, data_key: Option<&Path>) -> Result<Votes, CliError> {
    let provider = kernels::provider();
    let keys = data_key.map(|path| {
        data_key::load(path, &provider).map_err(|error| CliError::data_key(&error, path))
    });
    let keys = keys.transpose()?;
    let failed = |error: &dyn std::fmt::Display| {
        let remedy = "give the node's data key with --data-key FILE, or verify the log alone: name \
                      its folder audit/";
        CliError::file(error, folder, remedy)
    };
    let identity = DataDir::identity_of(folder).map_err(|error| failed(&error))?;
    let chain = hufu_types::ChainId(identity.chain);
    let options = StorageOptions::new(folder, chain, &provider).with_keys(keys);
    options.check_keys().map_err(|error| failed(&error))?;
    Votes::read(&options.vote_log, &*provider.hasher).map_err(|error| failed(&error))
}

fn value_of(folder: &Path, found: &Verified, compared: Option<&Compared>) -> Value {
    let keys = found
        .seal_keys
        .iter()
        .map(|key| json!({ "public_key": key.to_string(), "address": key.address().to_string() }));
    let mut value = json!({
        "folder": folder.display().to_string(),
        "owner": found.owner,
        "first_record": found.first_record,
        "last_record": found.records_count,
        "last_digest": found.last.to_string(),
        "files": found.files_count,
        "seals": found.seals_count,
        "unsealed": found.unsealed_count,
        "sealed_by": keys.collect::<Vec<Value>>(),
        "torn_bytes": found.torn_bytes,
    });
    if let (Some(fields), Some(compared)) = (value.as_object_mut(), compared) {
        let listed = compared.disagreements.iter().take(LISTED_MAX).map(ToString::to_string);
        let votes = json!({
            "records": compared.records_count,
            "signatures": compared.signatures_count,
            "records_of_older_heights": compared.older_count,
            "intents_without_record": compared.untold_count,
            "disagreements": listed.collect::<Vec<String>>(),
            "disagreements_count": compared.disagreements.len(),
        });
        fields.insert("vote_log".to_owned(), votes);
    }
    value
}

fn text_of(found: &Verified, compared: Option<&Compared>, has_keys: bool) -> String {
    let owner = found.owner.as_deref().unwrap_or_default();
    let mut lines = vec![
        format!(
            "ok      chain     records {} to {} of {owner}",
            found.first_record, found.records_count
        ),
        format!(
            "{}      seals     {} seals, {} records behind the last",
            if found.seals_count > 0 { "ok" } else { "--" },
            found.seals_count,
            found.unsealed_count
        ),
    ];
    for key in &found.seal_keys {
        let known = if has_keys { "as given with --key" } else { "compare it with the node's" };
        lines.push(format!("        sealed by {} ({known})", key.address()));
    }
    if found.torn_bytes > 0 {
        let bytes = found.torn_bytes;
        lines.push(format!(
            "note    end       {bytes} bytes that nothing vouches for, as a crash leaves them"
        ));
    }
    if let Some(compared) = compared {
        let word = if compared.disagreements.is_empty() { "ok    " } else { "broken" };
        lines.push(format!(
            "{word}  vote log  {} signatures of {} records; {} records about older heights; {} \
             intents without a record, at the end of a run",
            compared.signatures_count,
            compared.records_count,
            compared.older_count,
            compared.untold_count
        ));
        let shown = compared.disagreements.iter().take(LISTED_MAX);
        lines.extend(shown.map(|found| format!("        {found}")));
        if let Some(more @ 1..) = compared.disagreements.len().checked_sub(LISTED_MAX) {
            lines.push(format!("        and {more} more"));
        }
    }
    lines.push(format!("last    {}", found.last));
    lines.join("\n")
}

fn run_show(show: &Show, output: Output) -> Result<(), CliError> {
    show.log.verify(|record| {
        let time = Timestamp(clock::UnixNanos::from_nanos(record.unix_nanos)).to_string();
        let is_old = show.since.as_ref().is_some_and(|since| time < *since);
        if !is_old && record.action.starts_with(&show.action) {
            output.result(&record_value(record, &time), record_text(record, &time));
        }
    })?;
    Ok(())
}

const fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed",
    }
}

fn record_value(record: &Record, time: &str) -> Value {
    let details = record.details.iter().map(|(name, detail)| {
        let value = match detail {
            Detail::Number(number) => Value::from(*number),
            Detail::Flag(flag) => Value::from(*flag),
            Detail::Text(text) => Value::from(text.as_ref()),
        };
        (name.clone(), value)
    });
    json!({
        "sequence": record.sequence,
        "time": time,
        "actor": record.actor,
        "action": record.action,
        "subject": record.subject,
        "outcome": outcome(record.outcome),
        "details": details.collect::<serde_json::Map<String, Value>>(),
    })
}

fn record_text(record: &Record, time: &str) -> String {
    use std::fmt::Write as _;
    let mut line = format!(
        "{:>8} {time} {} {} {} {}",
        record.sequence,
        record.actor.escape_debug(),
        record.action.escape_debug(),
        record.subject.escape_debug(),
        outcome(record.outcome),
    );
    for (name, detail) in &record.details {
        let name = name.escape_debug();
        let written = match detail {
            Detail::Number(number) => write!(line, " {name}={number}"),
            Detail::Flag(flag) => write!(line, " {name}={flag}"),
            Detail::Text(text) => write!(line, " {name}=\"{}\"", text.escape_debug()),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
    line
}

/// Where a command leaves a record of what it did.
#[derive(Clone, Debug, Args)]
pub(super) struct AuditTo {
    /// Leave a record of this in the audit log in this folder, begun if there is none; not that of
    /// a node that runs.
    #[arg(long = "audit", value_name = "DIR")]
    audit_folder: Option<PathBuf>,
    /// Private key (PEM) that seals the record.
    #[arg(long, value_name = "FILE", requires = "audit_folder")]
    audit_key: Option<PathBuf>,
}

impl AuditTo {
    /// Does what `work` does, if it can be recorded, and records what came of it; `facts` says
    /// more of a result.
    pub(super) fn record<T>(
        &self,
        action: &'static str,
        subject: String,
        work: impl FnOnce() -> Result<T, CliError>,
        facts: impl FnOnce(&T) -> Vec<(&'static str, String)>,
    ) -> Result<T, CliError> {
        let Some(folder) = &self.audit_folder else { return work() };
        let told = |error: &AuditError| refused(error, folder);
        let signer = self
            .audit_key
            .as_ref()
            .map(|path| keys_file::load(path).map_err(|error| CliError::key(&error, path)));
        let signer = signer.transpose()?;
        let opened = AuditLog::open(folder, Owner::Anyone("command line"), clock::wall());
        let mut log = opened.map_err(|error| told(&error))?;
        let done = work();
        let user = events::user();
        let mut event = Event::new(&user, action, subject);
        match &done {
            Ok(result) => {
                for (name, fact) in facts(result) {
                    event = event.with(name, fact);
                }
            }
            Err(error) => {
                let reason = events::reason(&error.what());
                event = event.outcome(Outcome::Failed).with("reason", reason);
            }
        }
        let mut write = || -> Result<(), AuditError> {
            log.append(clock::wall(), &event)?;
            match &signer {
                Some(signer) => log.seal(clock::wall(), signer as &dyn Signer),
                None => log.sync(),
            }
        };
        let written = write().map_err(|error| told(&error));
        match (done, written) {
            (Ok(result), Ok(())) => Ok(result),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood_as_far_as_they_are_written() {
        for good in ["2026", "2026-11-23", "2026-11-23T08:30", "2026-11-23T08:30:00.000Z"] {
            assert_eq!(time(good).as_deref(), Ok(good));
        }
        for bad in ["", "202", "yesterday", "2026/11/23", "2026-11-23 08:30", "1763886600"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
