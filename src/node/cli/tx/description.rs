//! Transactions described in TOML or JSON: all faults at once, then owned operations.
//!
//! ```toml
//! nonce = 7               # optional; drawn at random if left out
//! valid_until = 1200      # optional; chosen from the node's height if left out
//! [[operations]]
//! kind = "transfer"
//! asset = "USD"
//! to = "0x…"              # `from` is the signer if left out
//! amount = "100"          # in the smallest part; a string, or a whole number
//! ```

use std::path::Path;

use hufu_types::limits::{
    ASSET_DECIMALS_MAX, NOTARISATION_MEMO_SIZE_MAX, SETTLEMENT_LEGS_COUNT_MAX,
    TX_OPERATIONS_COUNT_MAX,
};
use hufu_types::operation::{
    AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, Leg, RevokeMandateBody, SupplyBody,
};
use hufu_types::{Address, AssetCode, Digest};
use serde_json::{Map, Value};

use super::operation::{OwnedOperation, leg};
use crate::config::{Fault, Faults, nearest};

/// What a description asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub nonce: Option<u64>,
    pub valid_until: Option<u64>,
    pub operations: Vec<OwnedOperation>,
}

const KINDS: &[&str] = &[
    "open_account",
    "close_account",
    "create_asset",
    "issue",
    "redeem",
    "transfer",
    "settle",
    "grant_mandate",
    "revoke_mandate",
    "notarise",
    "freeze",
    "unfreeze",
];

/// Reads a description by `sender`; `path` decides nothing and is for messages.
pub(crate) fn parse(text: &str, path: &Path, sender: Address) -> Result<Description, Faults> {
    let mut faults = Vec::new();
    let description = match parse_value(text) {
        Ok(value) => describe(&value, sender, &mut faults),
        Err(rule) => {
            let remedy = "write TOML, or a JSON object that begins with `{`";
            faults.push(Fault::new("", "", &rule, remedy));
            None
        }
    };
    match description {
        Some(description) if faults.is_empty() => Ok(description),
        _ => Err(Faults { file: path.to_owned(), faults }),
    }
}

fn parse_value(text: &str) -> Result<Value, String> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))
    } else {
        let table: Result<toml::Table, _> = text.parse();
        let table = table.map_err(|error| format!("not valid TOML: {}", error.message()))?;
        serde_json::to_value(table).map_err(|error| error.to_string())
    }
}

fn describe(value: &Value, sender: Address, faults: &mut Vec<Fault>) -> Option<Description> {
    let mut top = Fields::new(value, String::new(), faults)?;
    let nonce = top.optional("nonce", Fields::integer);
    let valid_until = top.optional("valid_until", Fields::integer);
    let list = top.list("operations", TX_OPERATIONS_COUNT_MAX.into());
    top.finish();
    let mut operations = Vec::new();
    for (index, value) in list?.iter().enumerate() {
        let path = format!("operations[{index}].");
        operations.push(operation(Fields::new(value, path, faults)?, sender));
    }
    let operations = operations.into_iter().collect::<Option<Vec<_>>>()?;
    Some(Description { nonce, valid_until, operations })
}

fn operation(mut fields: Fields<'_, '_>, sender: Address) -> Option<OwnedOperation> {
    let kind = fields.kind()?;
    let operation = match kind {
        "open_account" => account(&mut fields).map(OwnedOperation::OpenAccount),
        "close_account" => account(&mut fields).map(OwnedOperation::CloseAccount),
        "create_asset" => create_asset(&mut fields, sender).map(OwnedOperation::CreateAsset),
        "issue" => supply(&mut fields, sender).map(OwnedOperation::IssueAsset),
        "redeem" => supply(&mut fields, sender).map(OwnedOperation::RedeemAsset),
        "transfer" => read_leg(&mut fields, sender).map(OwnedOperation::Transfer),
        "settle" => settle(&mut fields, sender).map(OwnedOperation::Settle),
        "grant_mandate" => grant(&mut fields).map(OwnedOperation::GrantMandate),
        "revoke_mandate" => revoke(&mut fields).map(OwnedOperation::RevokeMandate),
        "notarise" => notarise(&mut fields),
        "freeze" => holding(&mut fields).map(OwnedOperation::FreezeHolding),
        _ => holding(&mut fields).map(OwnedOperation::UnfreezeHolding),
    };
    fields.finish();
    operation
}

fn account(fields: &mut Fields<'_, '_>) -> Option<AccountBody> {
    fields.address("address").map(|address| AccountBody { address })
}

fn create_asset(fields: &mut Fields<'_, '_>, sender: Address) -> Option<CreateAssetBody> {
    let asset = fields.asset("asset");
    let authority = fields.optional("authority", Fields::address);
    let decimals = fields.integer_below("decimals", ASSET_DECIMALS_MAX.into());
    let cap = fields.amount("supply_cap");
    let decimals = u8::try_from(decimals?).ok()?;
    Some(CreateAssetBody::new(asset?, authority.unwrap_or(sender), decimals, cap?))
}

fn supply(fields: &mut Fields<'_, '_>, sender: Address) -> Option<SupplyBody> {
    let asset = fields.asset("asset");
    let account = fields.optional("account", Fields::address).unwrap_or(sender);
    let amount = fields.amount("amount");
    Some(SupplyBody { asset: asset?, account, amount: amount?.into() })
}

fn read_leg(fields: &mut Fields<'_, '_>, sender: Address) -> Option<Leg> {
    let asset = fields.asset("asset");
    let from = fields.optional("from", Fields::address).unwrap_or(sender);
    let to = fields.address("to");
    let amount = fields.amount("amount");
    if to == Some(from) {
        fields.fault("to", "", "is also `from`", "name two different accounts");
    }
    Some(leg(asset?, from, to?, amount?))
}

fn settle(fields: &mut Fields<'_, '_>, sender: Address) -> Option<Vec<Leg>> {
    let list = fields.list("legs", SETTLEMENT_LEGS_COUNT_MAX.into())?;
    let mut legs = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let path = format!("{}legs[{index}].", fields.path);
        let mut leg = Fields::new(value, path, fields.faults)?;
        legs.push(read_leg(&mut leg, sender));
        leg.finish();
    }
    legs.into_iter().collect()
}

fn grant(fields: &mut Fields<'_, '_>) -> Option<GrantMandateBody> {
    let agent = fields.address("agent");
    let asset = fields.asset("asset");
    let limit = fields.amount("limit");
    let expires_at = fields.integer("expires_at");
    Some(GrantMandateBody {
        agent: agent?,
        asset: asset?,
        limit: limit?.into(),
        expires_at: expires_at?.into(),
    })
}

fn revoke(fields: &mut Fields<'_, '_>) -> Option<RevokeMandateBody> {
    let agent = fields.address("agent");
    let asset = fields.asset("asset");
    Some(RevokeMandateBody { agent: agent?, asset: asset? })
}

fn holding(fields: &mut Fields<'_, '_>) -> Option<HoldingBody> {
    let asset = fields.asset("asset");
    let account = fields.address("account");
    Some(HoldingBody { asset: asset?, account: account? })
}

fn notarise(fields: &mut Fields<'_, '_>) -> Option<OwnedOperation> {
    let rule = "must be the 64 hexadecimal digits of an SM3 digest";
    let digest = fields.text("digest", rule, Digest::from_hex);
    let rule = format!("must be text of at most {NOTARISATION_MEMO_SIZE_MAX} bytes");
    let fits = |text: &str| {
        (text.len() <= usize::from(NOTARISATION_MEMO_SIZE_MAX)).then(|| text.as_bytes().to_vec())
    };
    let memo = fields.optional("memo", |fields, name| fields.text(name, &rule, fits));
    Some(OwnedOperation::Notarise { digest: digest?, memo: memo.unwrap_or_default() })
}

/// One object of a description; remembers which of its keys were read.
struct Fields<'v, 'f> {
    object: &'v Map<String, Value>,
    path: String,
    known: Vec<&'static str>,
    faults: &'f mut Vec<Fault>,
}

impl<'v, 'f> Fields<'v, 'f> {
    fn new(value: &'v Value, path: String, faults: &'f mut Vec<Fault>) -> Option<Self> {
        let Some(object) = value.as_object() else {
            let key = path.trim_end_matches('.');
            let remedy = "write its keys and values";
            faults.push(Fault::new(key, &value.to_string(), "must be a table", remedy));
            return None;
        };
        Some(Self { object, path, known: Vec::new(), faults })
    }

    fn kind(&mut self) -> Option<&'static str> {
        let found = self.get("kind")?;
        let word = found.as_str().unwrap_or_default();
        let kind = KINDS.iter().copied().find(|kind| *kind == word);
        if kind.is_none() {
            let remedy = match nearest(word, KINDS.iter().copied()) {
                Some(meant) => format!("did you mean \"{meant}\"?"),
                None => format!("kinds are: {}", KINDS.join(", ")),
            };
            self.fault("kind", &found.to_string(), "is no kind of operation", &remedy);
        }
        kind
    }

    fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&mut Self, &'static str) -> Option<T>,
    ) -> Option<T> {
        self.known.push(name);
        if self.object.contains_key(name) { read(self, name) } else { None }
    }

    fn address(&mut self, name: &'static str) -> Option<Address> {
        self.text(name, "must be 0x and 40 hexadecimal digits", Address::from_hex)
    }

    fn asset(&mut self, name: &'static str) -> Option<AssetCode> {
        self.text(name, "must be 1 to 16 characters of A-Z, 0-9, \".\" and \"-\"", AssetCode::new)
    }

    fn amount(&mut self, name: &'static str) -> Option<u128> {
        let found = self.get(name)?;
        let digits = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        let amount = digits.parse().ok().filter(|amount| *amount > 0);
        if amount.is_none() {
            let rule = "must be a whole number of at least 1 below 2^128";
            self.fault(name, &found.to_string(), rule, "give it in the asset's smallest part");
        }
        amount
    }

    fn integer(&mut self, name: &'static str) -> Option<u64> {
        self.integer_below(name, u64::MAX)
    }

    fn integer_below(&mut self, name: &'static str, max: u64) -> Option<u64> {
        let found = self.get(name)?;
        let number = found.as_u64().filter(|number| *number <= max);
        if number.is_none() {
            let rule = format!("must be an integer of 0..={max}");
            self.fault(name, &found.to_string(), &rule, "choose a value in the range");
        }
        number
    }

    fn text<T>(
        &mut self,
        name: &'static str,
        rule: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let found = self.get(name)?;
        let value = found.as_str().and_then(read);
        if value.is_none() {
            self.fault(name, &found.to_string(), rule, "mend the value");
        }
        value
    }

    fn list(&mut self, name: &'static str, count_max: usize) -> Option<&'v [Value]> {
        let found = self.get(name)?;
        let list = found.as_array().filter(|list| (1..=count_max).contains(&list.len()));
        if list.is_none() {
            let rule = format!("must be a list of 1 to {count_max} tables");
            let remedy = format!("write `[[{name}]]` above each");
            self.fault(name, "", &rule, &remedy);
        }
        list.map(Vec::as_slice)
    }

    fn get(&mut self, name: &'static str) -> Option<&'v Value> {
        self.known.push(name);
        let found = self.object.get(name);
        if found.is_none() {
            self.fault(name, "", "is missing", &format!("add `{name}`"));
        }
        found
    }

    fn fault(&mut self, name: &str, value: &str, rule: &str, remedy: &str) {
        self.faults.push(Fault::new(&format!("{}{name}", self.path), value, rule, remedy));
    }

    fn finish(mut self) {
        let object = self.object;
        let known = std::mem::take(&mut self.known);
        for key in object.keys().filter(|key| !known.contains(&key.as_str())) {
            let remedy = match nearest(key, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("keys here are: {}", known.join(", ")),
            };
            let value = object.get(key).map(ToString::to_string).unwrap_or_default();
            self.fault(key, &value, "is no key", &remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::operation::to_json;
    use super::*;

    const SENDER: Address = Address([7; 20]);

    fn faults(text: &str) -> Vec<(String, String)> {
        let faults = parse(text, Path::new("tx.toml"), SENDER).unwrap_err().faults;
        faults.into_iter().map(|fault| (fault.key, fault.remedy)).collect()
    }

    fn every_kind() -> Value {
        let (a, b, digest) = (Address([1; 20]), Address([2; 20]), Digest([3; 32]));
        serde_json::json!({ "operations": [
            { "kind": "open_account", "address": a.to_string() },
            { "kind": "close_account", "address": a.to_string() },
            { "kind": "create_asset", "asset": "USD", "authority": b.to_string(), "decimals": 4,
              "supply_cap": u128::MAX.to_string() },
            { "kind": "issue", "asset": "USD", "account": a.to_string(), "amount": "5" },
            { "kind": "redeem", "asset": "USD", "account": a.to_string(), "amount": "5" },
            { "kind": "transfer", "asset": "USD", "from": a.to_string(), "to": b.to_string(),
              "amount": "18446744073709551616" },
            { "kind": "settle", "legs": [
                { "asset": "AAPL", "from": a.to_string(), "to": b.to_string(), "amount": "1" },
                { "asset": "USD", "from": b.to_string(), "to": a.to_string(), "amount": "2" },
            ] },
            { "kind": "grant_mandate", "agent": b.to_string(), "asset": "USD", "limit": "9",
              "expires_at": 77 },
            { "kind": "revoke_mandate", "agent": b.to_string(), "asset": "USD" },
            { "kind": "notarise", "digest": digest.to_string(), "memo": "note" },
            { "kind": "freeze", "asset": "USD", "account": a.to_string() },
            { "kind": "unfreeze", "asset": "USD", "account": a.to_string() },
        ] })
    }

    #[test]
    fn every_kind_reads_and_shows_the_same() {
        let value = every_kind();
        let path = Path::new("tx.json");
        let read = parse(&value.to_string(), path, SENDER).unwrap();
        let kinds: Vec<&str> = value["operations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|operation| operation["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, KINDS, "the example names every kind");
        let shown: Vec<Value> =
            read.operations.iter().map(|operation| to_json(&operation.view())).collect();
        assert_eq!(Value::from(shown), value["operations"]);
        let toml = toml::to_string(&value).unwrap();
        assert_eq!(parse(&toml, path, SENDER).unwrap(), read);
    }

    #[test]
    fn the_signer_is_the_debtor_unless_said_otherwise() {
        let to = Address([2; 20]);
        let text = format!(
            "nonce = 3\n[[operations]]\nkind = \"transfer\"\nasset = \"USD\"\nto = \"{to}\"\namount = 4\n"
        );
        let read = parse(&text, Path::new("tx.toml"), SENDER).unwrap();
        let usd = AssetCode::new("USD").unwrap();
        assert_eq!(read.operations, [OwnedOperation::Transfer(leg(usd, SENDER, to, 4))]);
        assert_eq!((read.nonce, read.valid_until), (Some(3), None));
    }

    #[test]
    fn all_faults_come_at_once() {
        let text = "nonce = -1\n[[operations]]\nkind = \"transfr\"\n[[operations]]\n\
                    kind = \"transfer\"\nasset = \"usd\"\nto = \"0x12\"\namount = 0\nmemoo = 1\n\
                    [[operations]]\nkind = \"notarise\"\ndigest = \"00\"\n";
        let faults = faults(text);
        let keys: Vec<&str> = faults.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "nonce",
                "operations[0].kind",
                "operations[1].asset",
                "operations[1].to",
                "operations[1].amount",
                "operations[1].memoo",
                "operations[2].digest",
            ]
        );
        assert_eq!(faults[1].1, "did you mean \"transfer\"?");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "operations = 3", "operations = []", "{", "{\"operations\": [1]}", "=="] {
            assert!(!faults(text).is_empty(), "{text}");
        }
    }
}
