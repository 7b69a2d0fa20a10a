//! `hufu config check|show|schema`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::CliError;
use crate::config::{DEFAULT_TOML, Faults, NodeConfig, effective, schema};
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check a configuration and the files it names; reports every fault at once.
    Check {
        /// The configuration, usually hufu.toml.
        file: PathBuf,
    },
    /// Show the values a node would run with; without a file, the commented defaults.
    Show {
        /// The configuration, usually hufu.toml.
        file: Option<PathBuf>,
    },
    /// Print the JSON Schema of hufu.toml.
    Schema,
}

pub(super) fn run(verb: Verb, output: Output) -> Result<(), CliError> {
    match verb {
        Verb::Check { file } => check(&file, output),
        Verb::Show { file: Some(file) } => show(&file, output),
        Verb::Show { file: None } => {
            if output.is_json() {
                output.print(schema());
            } else {
                output.print(DEFAULT_TOML.trim_end());
            }
            Ok(())
        }
        Verb::Schema => {
            output.result(&schema(), format!("{:#}", schema()));
            Ok(())
        }
    }
}

fn check(file: &Path, output: Output) -> Result<(), CliError> {
    let config = NodeConfig::load(file)?;
    crate::genesis_file::load(&config.node.genesis)?;
    let result = json!({ "file": file.display().to_string(), "faults": [] });
    output.result(&result, format!("{}: no faults", file.display()));
    Ok(())
}

/// A value as `hufu.toml` writes it.
fn toml(value: &Value) -> String {
    match value {
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let lines: Vec<String> =
                table.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            format!("{{ {} }}", lines.join(", "))
        }
        other => other.to_string(),
    }
}

fn show(file: &Path, output: Output) -> Result<(), CliError> {
    let text = std::fs::read_to_string(file).map_err(|cause| Faults::unreadable(file, &cause))?;
    let values = effective(&text, file)?;
    if output.is_json() {
        let mut sections = Map::new();
        for (spec, value, stated) in values {
            let section = sections.entry(spec.section).or_insert_with(|| Map::new().into());
            section[spec.name] = json!({ "value": value, "from_file": stated });
        }
        output.print(Value::from(sections));
        return Ok(());
    }
    let mut last = "";
    for (spec, value, stated) in values {
        if spec.section != last {
            let gap = if last.is_empty() { "" } else { "\n" };
            output.print(format!("{gap}[{}]", spec.section));
            last = spec.section;
        }
        let source = if stated { "" } else { "  # default" };
        output.print(format!("{} = {}{source}", spec.name, toml(&value)));
    }
    Ok(())
}
