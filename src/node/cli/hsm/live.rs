//! What a running node sees of its card: the card's lines of the node's metrics.

use std::net::SocketAddr;

use hufu_load::usage;
use serde_json::{Map, Value, json};

use super::super::CliError;
use crate::output::Output;

/// One number of the card.
#[derive(Debug, PartialEq, Eq)]
struct Sample<'a> {
    name: &'a str,
    /// Besides the card's name.
    labels: Vec<(&'a str, &'a str)>,
    value: &'a str,
}

/// Shows the card of this name as the node at `admin` sees it.
pub(super) fn show(card: &str, admin: SocketAddr, output: Output) -> Result<(), CliError> {
    let text = usage::fetch(admin, "/metrics").map_err(|error| {
        let remedy = "check that the node runs and that --admin is its admin.listen";
        CliError::failed(error, admin, remedy)
    })?;
    let samples = samples(&text, card);
    if samples.is_empty() {
        return Err(CliError::failed(
            format!("the node uses no card that is called {card:?}"),
            admin,
            "name the card's file that a key file of this node names",
        ));
    }
    let value = json!({
        "card": card,
        "node": admin.to_string(),
        "metrics": samples.iter().map(Sample::to_json).collect::<Vec<_>>(),
    });
    let shown = samples.iter().filter_map(Sample::text);
    let lines: Vec<String> =
        std::iter::once(format!("card       = {card:?}, as the node at {admin} sees it"))
            .chain(shown)
            .collect();
    output.result(&value, lines.join("\n"));
    Ok(())
}

/// The numbers that have the card's label.
fn samples<'a>(text: &'a str, card: &str) -> Vec<Sample<'a>> {
    let sample = |line: &'a str| {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        let mut labels: Vec<(&str, &str)> = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key, value.trim_matches('"')))
            .collect();
        let place = labels.iter().position(|label| *label == ("card", card))?;
        labels.remove(place);
        Some(Sample { name, labels, value })
    };
    text.lines().filter_map(sample).collect()
}

impl Sample<'_> {
    fn to_json(&self) -> Value {
        let labels: Map<String, Value> =
            self.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let value: Value =
            self.value.parse::<u64>().map_or_else(|_| json!(self.value), Value::from);
        json!({ "name": self.name, "labels": labels, "value": value })
    }

    /// A line for people, who want neither buckets nor what has never happened.
    fn text(&self) -> Option<String> {
        let is_quiet = self.value == "0" && !self.labels.is_empty();
        if is_quiet || self.labels.iter().any(|(key, _)| *key == "le") {
            return None;
        }
        let name = self.name.trim_start_matches("hufu_").trim_start_matches("card_");
        let labels: Vec<&str> = self.labels.iter().map(|(_, value)| *value).collect();
        Some(match labels.as_slice() {
            [] => format!("  {name} = {}", self.value),
            labels => format!("  {name} ({}) = {}", labels.join(", "), self.value),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_card_s_own_numbers_are_shown() {
        let text = "# TYPE hufu_card_sessions gauge\nhufu_card_sessions{card=\"a\"} 4\n\
                    hufu_card_sessions{card=\"b\"} 5\nhufu_chain_height 7\n\
                    hufu_card_errors_met_total{card=\"a\",class=\"login\"} 0\n\
                    hufu_card_errors_met_total{card=\"a\",class=\"session\"} 2\n\
                    hufu_a_bucket{card=\"a\",operation=\"sign\",le=\"1000\"} 3\n";
        let found = samples(text, "a");
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], Sample { name: "hufu_card_sessions", labels: vec![], value: "4" });
        assert_eq!(found[2].to_json()["labels"]["class"], "session");
        assert_eq!(found[2].to_json()["value"], 2);
        let shown: Vec<String> = found.iter().filter_map(Sample::text).collect();
        assert_eq!(shown, ["  sessions = 4", "  errors_met_total (session) = 2"]);
        assert!(samples(text, "c").is_empty());
    }
}
