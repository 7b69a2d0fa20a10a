//! The audit of a whole state: what `hufu ledger verify` adds up.
//!
//! ```text
//! all state entries, kind by kind --audit--> Totals, or the first contradiction
//! ```
//! Holdings of each asset sum up to its supply, accounts count their holdings and mandates, nothing
//! refers to what is not there. Entries of one kind come in any order, as an encrypted store has
//! them, and each key once, which the store sees to. Memory: 64 bytes an account and a little for
//! each asset; nonces, holdings and mandates pass through.

use std::collections::BTreeMap;

use hufu_types::{Address, AssetCode};

use crate::corrupt::Corrupt;
use crate::key::StateKey;
use crate::value::{Account, Holding, StateValue};

/// Sums over one asset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssetTotals {
    /// In circulation, as the asset says.
    pub supply: u128,
    /// Most that may be.
    pub supply_cap: u128,
    /// Sum of all balances; equal to `supply` once the audit has passed.
    pub held: u128,
    /// Holdings of it, frozen empty ones included.
    pub holdings_count: u64,
    /// Frozen holdings.
    pub frozen_count: u64,
}

/// Sums over a whole state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Open accounts.
    pub accounts_open_count: u64,
    /// Closed accounts.
    pub accounts_closed_count: u64,
    /// Each asset's sums.
    pub assets: BTreeMap<AssetCode, AssetTotals>,
    /// Mandates.
    pub mandates_count: u64,
    /// Nonces of the validity window.
    pub nonces_count: u64,
}

/// Why a state contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// An entry is not canonical.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The kinds of the entries do not ascend, or an account or an asset comes twice.
    #[error("{key} is out of order")]
    OrderWrong {
        /// The entry that came too late, or again.
        key: StateKey,
    },
    /// A holding or a mandate is of an account or an asset that does not exist, or of a closed
    /// account.
    #[error("{key} belongs to nothing that is there")]
    Orphaned {
        /// The entry.
        key: StateKey,
    },
    /// An account counts its holdings wrongly.
    #[error("account {account} counts {stated} holdings, it has {found}")]
    HoldingsMiscounted {
        /// The account.
        account: Address,
        /// What it says.
        stated: u32,
        /// What was found.
        found: u32,
    },
    /// An account counts its mandates wrongly.
    #[error("account {account} counts {stated} mandates, it has granted {found}")]
    MandatesMiscounted {
        /// The account.
        account: Address,
        /// What it says.
        stated: u16,
        /// What was found.
        found: u32,
    },
    /// The holdings of an asset do not sum up to its supply.
    #[error("supply of {asset} is {supply}, its holdings sum up to {held}")]
    NotConserved {
        /// The asset.
        asset: AssetCode,
        /// What the asset says.
        supply: u128,
        /// What was found, up to the largest amount.
        held: u128,
    },
}

/// Adds up a whole state, whose entries come kind by kind: accounts, assets, holdings, mandates,
/// nonces.
///
/// # Errors
/// The first contradiction.
pub fn audit<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    entries: impl IntoIterator<Item = (K, V)>,
) -> Result<Totals, AuditError> {
    let mut audit = Audit::default();
    let mut kind = 0;
    for (key, value) in entries {
        let before = core::mem::replace(&mut kind, key.as_ref().first().copied().unwrap_or(0));
        let key = StateKey::parse(key.as_ref())?;
        if before > kind {
            return Err(AuditError::OrderWrong { key });
        }
        if before != kind {
            audit.sort_accounts()?;
        }
        audit.add(key, StateValue::parse(&key, value.as_ref())?)?;
    }
    audit.finish()
}

/// An account with what was found of it.
struct Counted {
    address: Address,
    account: Account,
    holdings: u32,
    mandates: u32,
}

const _: () = assert!(size_of::<Counted>() == 64, "the memory of an audit is documented");

#[derive(Default)]
struct Audit {
    totals: Totals,
    /// All accounts, ascending once the entries of another kind come.
    accounts: Vec<Counted>,
}

impl Audit {
    /// Makes the accounts so far ready to be looked up; there is none twice.
    fn sort_accounts(&mut self) -> Result<(), AuditError> {
        self.accounts.sort_unstable_by_key(|counted| counted.address);
        let twice = self.accounts.windows(2).find(|pair| pair[0].address == pair[1].address);
        let twice = twice.and_then(<[Counted]>::first).map(|counted| counted.address);
        match twice {
            Some(address) => Err(AuditError::OrderWrong { key: StateKey::Account(address) }),
            None => Ok(()),
        }
    }

    fn add(&mut self, key: StateKey, value: StateValue) -> Result<(), AuditError> {
        assert!(value.belongs_to(&key), "values are parsed by their keys");
        match (key, value) {
            (StateKey::Account(address), StateValue::Account(account)) => {
                let open = account.closed_at.is_none();
                self.totals.accounts_open_count += u64::from(open);
                self.totals.accounts_closed_count += u64::from(!open);
                self.accounts.push(Counted { address, account, holdings: 0, mandates: 0 });
            }
            (StateKey::Asset(code), StateValue::Asset(asset)) => {
                let (supply, supply_cap) = (asset.supply, asset.supply_cap);
                assert!(supply <= supply_cap, "values are parsed strictly");
                let totals = AssetTotals { supply, supply_cap, ..AssetTotals::default() };
                if self.totals.assets.insert(code, totals).is_some() {
                    return Err(AuditError::OrderWrong { key });
                }
            }
            (StateKey::Holding(owner, asset), StateValue::Holding(holding)) => {
                self.hold(key, owner, asset, holding)?;
            }
            (StateKey::Mandate { owner, asset, .. }, _) => {
                let known = self.totals.assets.contains_key(&asset);
                let owner = self.account(&owner).filter(|_| known);
                owner.ok_or(AuditError::Orphaned { key })?.mandates += 1;
                self.totals.mandates_count += 1;
            }
            _ => self.totals.nonces_count += 1,
        }
        Ok(())
    }

    fn hold(
        &mut self,
        key: StateKey,
        owner: Address,
        asset: AssetCode,
        holding: Holding,
    ) -> Result<(), AuditError> {
        let owner = self.account(&owner).filter(|owner| owner.account.closed_at.is_none());
        owner.ok_or(AuditError::Orphaned { key })?.holdings += 1;
        let totals = self.totals.assets.get_mut(&asset).ok_or(AuditError::Orphaned { key })?;
        let held = totals.held.checked_add(holding.balance);
        let supply = totals.supply;
        totals.held = held.ok_or(AuditError::NotConserved { asset, supply, held: u128::MAX })?;
        totals.holdings_count += 1;
        totals.frozen_count += u64::from(holding.frozen);
        Ok(())
    }

    fn account(&mut self, address: &Address) -> Option<&mut Counted> {
        let place = self.accounts.binary_search_by_key(address, |counted| counted.address).ok()?;
        self.accounts.get_mut(place)
    }

    fn finish(mut self) -> Result<Totals, AuditError> {
        self.sort_accounts()?;
        for Counted { address: account, account: value, holdings, mandates } in self.accounts {
            let (stated, found) = (value.holdings_count, holdings);
            if stated != found {
                return Err(AuditError::HoldingsMiscounted { account, stated, found });
            }
            let (stated, found) = (value.mandates_count, mandates);
            if u32::from(stated) != found {
                return Err(AuditError::MandatesMiscounted { account, stated, found });
            }
        }
        for (&asset, totals) in &self.totals.assets {
            let (supply, held) = (totals.supply, totals.held);
            if supply != held {
                return Err(AuditError::NotConserved { asset, supply, held });
            }
        }
        Ok(self.totals)
    }
}
