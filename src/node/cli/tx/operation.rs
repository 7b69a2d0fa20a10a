//! Operations that own their parts, from flags or descriptions to the wire and back to JSON.

use hufu_types::operation::{
    AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, Leg, RevokeMandateBody, SupplyBody,
};
use hufu_types::{Address, AssetCode, Digest, Operation};
use serde_json::{Value, json};

/// One operation with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnedOperation {
    OpenAccount(AccountBody),
    CloseAccount(AccountBody),
    CreateAsset(CreateAssetBody),
    IssueAsset(SupplyBody),
    RedeemAsset(SupplyBody),
    Transfer(Leg),
    Settle(Vec<Leg>),
    GrantMandate(GrantMandateBody),
    RevokeMandate(RevokeMandateBody),
    Notarise { digest: Digest, memo: Vec<u8> },
    FreezeHolding(HoldingBody),
    UnfreezeHolding(HoldingBody),
}

impl OwnedOperation {
    /// The operation as a transaction's builder takes it.
    pub(crate) fn view(&self) -> Operation<'_> {
        match self {
            Self::OpenAccount(body) => Operation::OpenAccount(body),
            Self::CloseAccount(body) => Operation::CloseAccount(body),
            Self::CreateAsset(body) => Operation::CreateAsset(body),
            Self::IssueAsset(body) => Operation::IssueAsset(body),
            Self::RedeemAsset(body) => Operation::RedeemAsset(body),
            Self::Transfer(leg) => Operation::Transfer(leg),
            Self::Settle(legs) => Operation::Settle(legs),
            Self::GrantMandate(body) => Operation::GrantMandate(body),
            Self::RevokeMandate(body) => Operation::RevokeMandate(body),
            Self::Notarise { digest, memo } => Operation::Notarise { digest, memo },
            Self::FreezeHolding(body) => Operation::FreezeHolding(body),
            Self::UnfreezeHolding(body) => Operation::UnfreezeHolding(body),
        }
    }
}

/// A leg from its parts.
pub(crate) fn leg(asset: AssetCode, from: Address, to: Address, amount: u128) -> Leg {
    Leg { asset, from, to, amount: amount.into() }
}

/// An operation as a description would have it. Amounts are strings: JSON numbers lose digits.
pub(crate) fn to_json(operation: &Operation<'_>) -> Value {
    match operation {
        Operation::OpenAccount(body) => {
            json!({ "kind": "open_account", "address": body.address.to_string() })
        }
        Operation::CloseAccount(body) => {
            json!({ "kind": "close_account", "address": body.address.to_string() })
        }
        Operation::CreateAsset(body) => json!({
            "kind": "create_asset",
            "asset": body.asset.to_string(),
            "authority": body.authority.to_string(),
            "decimals": body.decimals,
            "supply_cap": body.supply_cap.get().to_string(),
        }),
        Operation::IssueAsset(body) => supply("issue", body),
        Operation::RedeemAsset(body) => supply("redeem", body),
        Operation::Transfer(leg) => {
            let mut value = leg_json(leg);
            value["kind"] = "transfer".into();
            value
        }
        Operation::Settle(legs) => {
            let legs: Vec<Value> = legs.iter().map(leg_json).collect();
            json!({ "kind": "settle", "legs": legs })
        }
        Operation::GrantMandate(body) => json!({
            "kind": "grant_mandate",
            "agent": body.agent.to_string(),
            "asset": body.asset.to_string(),
            "limit": body.limit.get().to_string(),
            "expires_at": body.expires_at.get(),
        }),
        Operation::RevokeMandate(body) => json!({
            "kind": "revoke_mandate",
            "agent": body.agent.to_string(),
            "asset": body.asset.to_string(),
        }),
        Operation::Notarise { digest, memo } => json!({
            "kind": "notarise",
            "digest": digest.to_string(),
            "memo": String::from_utf8_lossy(memo),
        }),
        Operation::FreezeHolding(body) => holding("freeze", body),
        Operation::UnfreezeHolding(body) => holding("unfreeze", body),
    }
}

fn supply(kind: &str, body: &SupplyBody) -> Value {
    json!({
        "kind": kind,
        "asset": body.asset.to_string(),
        "account": body.account.to_string(),
        "amount": body.amount.get().to_string(),
    })
}

fn leg_json(leg: &Leg) -> Value {
    json!({
        "asset": leg.asset.to_string(),
        "from": leg.from.to_string(),
        "to": leg.to.to_string(),
        "amount": leg.amount.get().to_string(),
    })
}

fn holding(kind: &str, body: &HoldingBody) -> Value {
    json!({
        "kind": kind,
        "asset": body.asset.to_string(),
        "account": body.account.to_string(),
    })
}
