//! Which keys an operation may touch, in one order that planning and execution share.
//!
//! Planning interns the keys in this order; execution takes them back in the same order and asserts
//! each, so a rule that touches a key it did not declare is stopped in the first test that runs it.
//!
//! ```text
//! operation          keys in order (w = may be written)
//! every transaction  nonce w, then its operations
//! open, close        account w
//! create asset       asset w
//! issue              asset w, account(sender), account w, holding w
//! redeem             asset w, account w, holding w, mandate, agent
//! transfer, settle   per leg: asset, from w, to w, holding(from) w, holding(to) w, mandate;
//!                    then agent
//! grant mandate      asset, account(sender) w, mandate w
//! revoke mandate     account(sender) w, mandate w
//! freeze, unfreeze   asset, account(sender), account w, holding w
//! notarise           none
//!
//! mandate            the debited account's mandate for the sender w, none if they are one
//! agent              account(sender) if there is such a mandate
//! ```
//! Accounts are written because they count their holdings and their mandates. No operation declares
//! more keys than its `keys_count`, by which form checks bound a transaction and a batch.

use hufu_types::{Address, AssetCode, Leg, Operation};

use crate::key::StateKey;

/// Whether a declared key may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only looked at.
    Read,
    /// Perhaps changed.
    Write,
}

/// Hands every key that `operation` of `sender` may touch to `visit`, in the order above.
pub(crate) fn declare(
    sender: Address,
    operation: &Operation<'_>,
    visit: &mut impl FnMut(StateKey, Access),
) {
    match *operation {
        Operation::OpenAccount(body) | Operation::CloseAccount(body) => {
            visit(StateKey::Account(body.address), Access::Write);
        }
        Operation::CreateAsset(body) => visit(StateKey::Asset(body.asset), Access::Write),
        Operation::IssueAsset(body) => {
            visit(StateKey::Asset(body.asset), Access::Write);
            visit(StateKey::Account(sender), Access::Read);
            holding(body.account, body.asset, visit);
        }
        Operation::RedeemAsset(body) => {
            visit(StateKey::Asset(body.asset), Access::Write);
            holding(body.account, body.asset, visit);
            mandate(sender, body.account, body.asset, visit);
            agent(sender, body.account != sender, visit);
        }
        Operation::Transfer(leg) => declare_legs(sender, core::slice::from_ref(leg), visit),
        Operation::Settle(legs) => declare_legs(sender, legs, visit),
        Operation::GrantMandate(body) => {
            let key = StateKey::Mandate { owner: sender, agent: body.agent, asset: body.asset };
            visit(StateKey::Asset(body.asset), Access::Read);
            visit(StateKey::Account(sender), Access::Write);
            visit(key, Access::Write);
        }
        Operation::RevokeMandate(body) => {
            let key = StateKey::Mandate { owner: sender, agent: body.agent, asset: body.asset };
            visit(StateKey::Account(sender), Access::Write);
            visit(key, Access::Write);
        }
        Operation::Notarise { .. } => {}
        Operation::FreezeHolding(body) | Operation::UnfreezeHolding(body) => {
            visit(StateKey::Asset(body.asset), Access::Read);
            visit(StateKey::Account(sender), Access::Read);
            holding(body.account, body.asset, visit);
        }
    }
}

fn declare_legs(sender: Address, legs: &[Leg], visit: &mut impl FnMut(StateKey, Access)) {
    legs.iter().for_each(|leg| declare_leg(sender, leg, visit));
    agent(sender, needs_mandate(sender, legs), visit);
}

/// Whether one of the legs debits somebody else than the sender.
pub(crate) fn needs_mandate(sender: Address, legs: &[Leg]) -> bool {
    legs.iter().any(|leg| leg.from != sender)
}

fn agent(sender: Address, is_agent: bool, visit: &mut impl FnMut(StateKey, Access)) {
    if is_agent {
        visit(StateKey::Account(sender), Access::Read);
    }
}

fn declare_leg(sender: Address, leg: &Leg, visit: &mut impl FnMut(StateKey, Access)) {
    visit(StateKey::Asset(leg.asset), Access::Read);
    visit(StateKey::Account(leg.from), Access::Write);
    visit(StateKey::Account(leg.to), Access::Write);
    visit(StateKey::Holding(leg.from, leg.asset), Access::Write);
    visit(StateKey::Holding(leg.to, leg.asset), Access::Write);
    mandate(sender, leg.from, leg.asset, visit);
}

fn holding(account: Address, asset: AssetCode, visit: &mut impl FnMut(StateKey, Access)) {
    visit(StateKey::Account(account), Access::Write);
    visit(StateKey::Holding(account, asset), Access::Write);
}

fn mandate(
    sender: Address,
    owner: Address,
    asset: AssetCode,
    visit: &mut impl FnMut(StateKey, Access),
) {
    if owner != sender {
        visit(StateKey::Mandate { owner, agent: sender, asset }, Access::Write);
    }
}

/// Hands every address that `operation` names to `visit`, for the filters of event streams.
pub(crate) fn touched(operation: &Operation<'_>, visit: &mut impl FnMut(Address)) {
    match *operation {
        Operation::OpenAccount(body) | Operation::CloseAccount(body) => visit(body.address),
        Operation::CreateAsset(body) => visit(body.authority),
        Operation::IssueAsset(body) | Operation::RedeemAsset(body) => visit(body.account),
        Operation::Transfer(leg) => [leg.from, leg.to].into_iter().for_each(visit),
        Operation::Settle(legs) => {
            legs.iter().flat_map(|leg| [leg.from, leg.to]).for_each(visit);
        }
        Operation::GrantMandate(body) => visit(body.agent),
        Operation::RevokeMandate(body) => visit(body.agent),
        Operation::Notarise { .. } => {}
        Operation::FreezeHolding(body) | Operation::UnfreezeHolding(body) => visit(body.account),
    }
}
