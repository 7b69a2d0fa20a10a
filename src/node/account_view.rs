//! An account of the ledger as the client protocol shows it: by the node that answers and by the
//! client that proves the answer.

use hufu_ledger::AccountQuery;
use hufu_network::message::answer::{AccountState, Holding, Mandate};

/// What is shown of an account beside its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountView {
    /// Whether it is there.
    pub state: AccountState,
    /// What it holds, by ascending asset.
    pub holdings: Vec<Holding>,
    /// What it has granted, by ascending agent and asset.
    pub mandates: Vec<Mandate>,
}

impl AccountView {
    /// The view of what the state holds; `None`: no account was ever opened.
    #[must_use]
    pub fn new(found: Option<&AccountQuery>) -> Self {
        let Some(found) = found else {
            let (holdings, mandates) = (Vec::new(), Vec::new());
            return Self { state: AccountState::Unknown, holdings, mandates };
        };
        let is_closed = found.account.closed_at.is_some();
        let holdings = found.holdings.iter();
        let holdings =
            holdings.map(|(asset, one)| Holding::new(*asset, one.balance, one.frozen)).collect();
        let mandates = found.mandates.iter().map(|one| {
            Mandate::new(one.agent, one.asset, one.mandate.limit, one.mandate.expires_at)
        });
        Self {
            state: if is_closed { AccountState::Closed } else { AccountState::Open },
            holdings,
            mandates: mandates.collect(),
        }
    }
}
