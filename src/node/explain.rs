//! Why a height is slow: what the consensus tile last said it waits for, for people.
//!
//! ```text
//! consensus --housekeeping--> Explanation --GET /consensus--> hufu consensus explain
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use hufu_consensus::replica::{Missing, Status};
use hufu_types::{Address, Genesis};
use serde_json::{Value, json};

/// See the module; shared by the consensus tile, which writes, and the admin plane, which reads.
#[derive(Debug, Default)]
pub struct Explanation {
    names: BTreeMap<Address, String>,
    status: Mutex<Option<Status>>,
}

impl Explanation {
    /// Nothing said yet on a chain of these validators.
    #[must_use]
    pub fn of(genesis: &Genesis) -> Self {
        let validators = genesis.validators.iter();
        let names = validators.map(|(address, validator)| (*address, validator.name.clone()));
        Self { names: names.collect(), status: Mutex::default() }
    }

    /// Takes note of where the height at work stands.
    pub fn publish(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    /// What was said last; nothing before the node takes part in consensus.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(status) = status else { return Value::Null };
        let who = |address: &Address| {
            let name = self.names.get(address);
            json!({ "validator": name, "address": address.to_string() })
        };
        let missing = |(address, what): &(Address, Missing)| {
            let mut value = who(address);
            value["what"] = word(*what).into();
            value
        };
        let peer = |(address, tip): &(Address, u64)| {
            let mut value = who(address);
            value["tip"] = (*tip).into();
            value
        };
        json!({
            "tip": status.tip,
            "height": status.tip + 1,
            "stage": status.stage,
            "stage_millis": millis(status.stage_nanos),
            "round": status.round,
            "round_millis": millis(status.round_nanos),
            "proposer": status.proposer.as_ref().map(who),
            "missing": status.missing.iter().map(missing).collect::<Vec<Value>>(),
            "signer_late_millis": status.signer_late_nanos.map(millis),
            "absent": status.absent.iter().map(who).collect::<Vec<Value>>(),
            "peers": status.peers.iter().map(peer).collect::<Vec<Value>>(),
        })
    }
}

const fn word(missing: Missing) -> &'static str {
    match missing {
        Missing::Proposal => "proposal",
        Missing::Batches => "batches",
        Missing::Prevote => "prevote",
        Missing::Precommit => "precommit",
    }
}

const fn millis(nanos: u64) -> u64 {
    nanos / 1_000_000
}

/// An explanation as lines for people; `value` is what [`Explanation::to_json`] made.
#[must_use]
pub fn to_text(value: &Value) -> String {
    let Some(height) = value["height"].as_u64() else {
        return "the node takes no part in consensus yet: it is starting or stopping".to_owned();
    };
    let name = |one: &Value| {
        let name = one["validator"].as_str().or_else(|| one["address"].as_str());
        name.unwrap_or("nobody").to_owned()
    };
    let names = |list: &Value| {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(name).collect::<Vec<String>>().join(", ")
    };
    let stage = value["stage"].as_str().unwrap_or_default();
    let since = |key: &str| format!("{} ms", value[key].as_u64().unwrap_or_default());
    let mut lines = vec![format!("height   {height}, {stage} since {}", since("stage_millis"))];
    if stage == "deciding" {
        let (round, proposer) = (&value["round"], name(&value["proposer"]));
        let millis = since("round_millis");
        lines.push(format!("round    {round} since {millis}, proposed by {proposer}"));
        for what in ["proposal", "batches", "prevote", "precommit"] {
            let missing = value["missing"].as_array().map(Vec::as_slice).unwrap_or_default();
            let of: Vec<Value> =
                missing.iter().filter(|one| one["what"] == what).cloned().collect();
            if !of.is_empty() {
                lines.push(format!("missing  {what} of {}", names(&Value::Array(of))));
            }
        }
    }
    if let Some(millis) = value["signer_late_millis"].as_u64() {
        lines.push(format!("signer   no answer since {millis} ms: this validator does not vote"));
    }
    if value["absent"].as_array().is_some_and(|absent| !absent.is_empty()) {
        lines.push(format!("absent   {} (not asked to propose)", names(&value["absent"])));
    }
    for peer in value["peers"].as_array().map(Vec::as_slice).unwrap_or_default() {
        lines.push(format!("peer     {} at height {}", name(peer), peer["tip"]));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_height_names_who_is_missing() {
        let explanation = Explanation::default();
        assert_eq!(explanation.to_json(), Value::Null);
        assert!(to_text(&explanation.to_json()).contains("no part"));
        let [one, two] = [Address([1; 20]), Address([2; 20])];
        explanation.publish(Status {
            tip: 41,
            stage: "deciding",
            stage_nanos: 1_500_000_000,
            round: 2,
            round_nanos: 700_000_000,
            proposer: Some(one),
            missing: vec![(two, Missing::Prevote)],
            signer_late_nanos: Some(2_100_000_000),
            absent: vec![two],
            peers: vec![(one, 41)],
        });
        let text = to_text(&explanation.to_json());
        assert!(text.contains("height   42, deciding since 1500 ms"), "{text}");
        assert!(text.contains("round    2 since 700 ms"), "{text}");
        assert!(text.contains(&format!("missing  prevote of {two}")), "{text}");
        assert!(text.contains("signer   no answer since 2100 ms"), "{text}");
        assert!(text.contains(&format!("peer     {one} at height 41")), "{text}");
    }
}
