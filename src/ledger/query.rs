//! Answers about accounts, from stored bytes.
//!
//! ```text
//! get   StateKey::Account(a)            ─┐
//! scan  StateKey::holdings_prefix(a)    ─┼─> AccountQuery::read
//! scan  StateKey::mandates_prefix(a)    ─┘
//! ```

use hufu_types::{Address, AssetCode};

use crate::corrupt::Corrupt;
use crate::key::StateKey;
use crate::value::{Account, Holding, Mandate, StateValue};

/// One mandate that an account granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MandateQuery {
    /// Who may debit.
    pub agent: Address,
    /// Which asset.
    pub asset: AssetCode,
    /// What is left of it.
    pub mandate: Mandate,
}

/// An account with what it holds and what it granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountQuery {
    /// Its address.
    pub address: Address,
    /// The account.
    pub account: Account,
    /// Its holdings, ascending by asset.
    pub holdings: Vec<(AssetCode, Holding)>,
    /// Its mandates, ascending by agent and asset.
    pub mandates: Vec<MandateQuery>,
}

impl AccountQuery {
    /// Reads an account from its stored value and the entries found under its two prefixes; the
    /// caller has bounded how many of them it scans.
    ///
    /// # Errors
    /// [`Corrupt`] if an entry is not canonical.
    pub fn read<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        address: Address,
        account: &[u8],
        holdings: impl IntoIterator<Item = (K, V)>,
        mandates: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, Corrupt> {
        let key = StateKey::Account(address);
        let StateValue::Account(account) = StateValue::parse(&key, account)? else {
            unreachable!("the value of an account's key is an account")
        };
        let mut query = Self { address, account, holdings: Vec::new(), mandates: Vec::new() };
        for (key, value) in holdings.into_iter().chain(mandates) {
            let key = StateKey::parse(key.as_ref())?;
            match (key, StateValue::parse(&key, value.as_ref())?) {
                (StateKey::Holding(owner, asset), StateValue::Holding(holding)) => {
                    assert_eq!(owner, address, "found under the account's prefix");
                    query.holdings.push((asset, holding));
                }
                (StateKey::Mandate { owner, agent, asset }, StateValue::Mandate(mandate)) => {
                    assert_eq!(owner, address, "found under the owner's prefix");
                    query.mandates.push(MandateQuery { agent, asset, mandate });
                }
                _ => unreachable!("{key} lies under neither prefix"),
            }
        }
        Ok(query)
    }
}
