//! What the table of keys says, for machines: the JSON Schema and the effective values.

use std::path::Path;

use serde_json::{Map, Value, json};
use toml::de::DeValue;

use super::document::{Document, as_unsigned};
use super::reader::{DEFAULT_TOML, lookup};
use super::table::{KEYS, KeySpec, Kind, OPTIONAL_KEYS, OPTIONAL_SECTIONS, sections};
use super::{Faults, NodeConfig};

/// The JSON Schema of `hufu.toml`, from the table that drives parsing.
#[must_use]
pub fn schema() -> Value {
    let (defaults, _) = Document::parse(DEFAULT_TOML);
    let mut properties = Map::new();
    let mut required_sections = Vec::new();
    for section in sections() {
        let mut keys = Map::new();
        let mut required = Vec::new();
        for spec in KEYS.iter().filter(|spec| spec.section == section) {
            let default = lookup(&defaults, spec.section, spec.name);
            if default.is_none() && !OPTIONAL_KEYS.contains(&(spec.section, spec.name)) {
                required.push(spec.name);
            }
            keys.insert(spec.name.to_owned(), describe(spec, default.map(|entry| entry.value)));
        }
        if !required.is_empty() && !OPTIONAL_SECTIONS.contains(&section) {
            required_sections.push(section);
        }
        let table = json!({
            "type": "object",
            "additionalProperties": false,
            "required": required,
            "properties": keys,
        });
        properties.insert(section.to_owned(), table);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hufu.toml",
        "type": "object",
        "additionalProperties": false,
        "required": required_sections,
        "properties": properties,
    })
}

/// The values a node would run with: section, key, value, and whether the file says so. A section
/// that may be left out and is has none.
///
/// # Errors
/// Every fault of the text.
pub fn effective(text: &str, path: &Path) -> Result<Vec<(&'static KeySpec, Value, bool)>, Faults> {
    NodeConfig::parse(text, path, Path::new(""))?;
    let (file, _) = Document::parse(text);
    Ok(values(&file))
}

fn values(file: &Document<'_>) -> Vec<(&'static KeySpec, Value, bool)> {
    let (defaults, _) = Document::parse(DEFAULT_TOML);
    let is_used = |spec: &&KeySpec| {
        !OPTIONAL_SECTIONS.contains(&spec.section)
            || file.entry(file.root(), spec.section).is_some()
    };
    let effective = KEYS.iter().filter(is_used).filter_map(|spec| {
        let stated = lookup(file, spec.section, spec.name);
        let entry = stated.or_else(|| lookup(&defaults, spec.section, spec.name))?;
        Some((spec, to_json(entry.value), stated.is_some()))
    });
    effective.collect()
}

fn describe(spec: &KeySpec, default: Option<&DeValue<'_>>) -> Value {
    let mut described = match spec.kind {
        Kind::Integer { min, max, step } => {
            let mut described = json!({ "type": "integer", "minimum": min, "maximum": max });
            if step != 1 {
                described["multipleOf"] = step.into();
            }
            described
        }
        Kind::Choice(words) => json!({ "type": "string", "enum": words }),
        Kind::Path => json!({ "type": "string", "minLength": 1 }),
        Kind::Credential => json!({ "type": "string", "pattern": "^[^./][^/]*$" }),
        Kind::Name => json!({ "type": "string", "pattern": "^[a-z0-9-]{1,32}$" }),
        Kind::Loopback | Kind::LoopbackKnown => {
            json!({ "type": "string", "x-rule": spec.kind.rule() })
        }
        Kind::Addresses => json!({
            "type": "object",
            "propertyNames": { "pattern": "^[a-z0-9-]{1,32}$" },
            "additionalProperties": { "type": "string", "x-rule": Kind::LoopbackKnown.rule() },
        }),
        Kind::Cores => json!({
            "oneOf": [
                { "type": "string", "pattern": "^(auto|none|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)$" },
                {
                    "type": "array",
                    "minItems": 1,
                    "items": { "type": "integer", "minimum": 0, "maximum": 1023 },
                },
            ],
        }),
    };
    described["description"] = meaning(spec).into();
    if let Some(default) = default {
        described["default"] = to_json(default);
    }
    described
}

/// The comment above a key in `default.toml`.
pub(super) fn meaning(spec: &KeySpec) -> String {
    let heading = format!("[{}]", spec.section);
    let (stated, shown) = (format!("{} = ", spec.name), format!("# {} = ", spec.name));
    let mut comment = Vec::new();
    for line in DEFAULT_TOML.lines().skip_while(|line| **line != heading).skip(1) {
        if line.starts_with(&stated) || line.starts_with(&shown) {
            break;
        }
        // A commented-out key ends the comment above it as a key does.
        let is_key = KEYS.iter().any(|other| line.starts_with(&format!("# {} = ", other.name)));
        match line.strip_prefix("# ") {
            Some(text) if !is_key => comment.push(text),
            _ => comment.clear(),
        }
    }
    comment.join(" ")
}

fn to_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(_) => {
            as_unsigned(value).and_then(|number| u64::try_from(number).ok()).into()
        }
        DeValue::Boolean(truth) => Value::from(*truth),
        DeValue::Array(elements) => elements.iter().map(|one| to_json(one.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), to_json(value.get_ref())))
            .collect(),
        DeValue::Float(_) | DeValue::Datetime(_) => Value::Null,
    }
}
