//! State values: fixed little-endian layouts, one for each kind of key.
//!
//! ```text
//! account  24: status u8 (1 open, 2 closed), reserved 1, mandates count u16, holdings count u32,
//!              opened at u64, closed at u64
//! asset    64: authority 20, decimals u8, reserved 3, created at u64, supply cap u128, supply u128
//! holding  24: balance u128, frozen u8 (0, 1), reserved 7
//! mandate  32: limit left u128, expires at u64, granted at u64
//! nonce    16: valid until u64, used at u64
//! ```
//!
//! Heights throughout. Decoding is strict and also refuses what the rules never leave behind: a
//! holding that is empty and not frozen, a used-up mandate, a closed account with holdings, an
//! account with more mandates than it may grant, more supply than the cap, a nonce used after its
//! last height.

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_types::Address;
use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved};
use hufu_types::limits::{ACCOUNT_MANDATES_COUNT_MAX, ASSET_DECIMALS_MAX};

use crate::corrupt::Corrupt;
use crate::key::StateKey;

/// Bytes of the longest value, that of an asset.
pub const VALUE_SIZE_MAX: usize = 64;

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Height at which it was opened.
    pub opened_at: u64,
    /// Height at which it was closed, never to be opened again; `None` while open.
    pub closed_at: Option<u64>,
    /// Holdings in the state: those with a balance, and frozen ones without.
    pub holdings_count: u32,
    /// Mandates it granted that are in the state: neither revoked nor used up. Those of a closed
    /// account still count, until their owner revokes them.
    pub mandates_count: u16,
}

/// An asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Who may issue, freeze and unfreeze.
    pub authority: Address,
    /// Decimal places of one unit.
    pub decimals: u8,
    /// Height at which it was created.
    pub created_at: u64,
    /// Most that may be in circulation, in the smallest part.
    pub supply_cap: u128,
    /// In circulation: the sum of all holdings, in the smallest part.
    pub supply: u128,
}

/// What an account holds of an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// In the smallest part of the asset.
    pub balance: u128,
    /// Whether the asset's authority has barred debits.
    pub frozen: bool,
}

/// What an owner lets an agent debit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mandate {
    /// What may still be debited, in the smallest part; at least 1.
    pub limit: u128,
    /// Last height at which it may be used.
    pub expires_at: u64,
    /// Height at which it was granted.
    pub granted_at: u64,
}

/// A nonce in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// Last height at which its transaction could be included; the entry goes at the next one.
    pub valid_until: u64,
    /// Height of the block that used it; the expiry index is ordered by it.
    pub used_at: u64,
}

impl Nonce {
    /// A nonce that a row holds: used, at heights that only the expiry index knows. It stands in
    /// for the value during execution, which asks no more than whether there is one, and is never
    /// stored or hashed.
    pub(crate) const USED: Self = Self { valid_until: 0, used_at: 0 };
}

/// The value of an entry of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateValue {
    /// Of [`StateKey::Account`].
    Account(Account),
    /// Of [`StateKey::Asset`].
    Asset(Asset),
    /// Of [`StateKey::Holding`].
    Holding(Holding),
    /// Of [`StateKey::Mandate`].
    Mandate(Mandate),
    /// Of [`StateKey::Nonce`].
    Nonce(Nonce),
}

const OPEN: u8 = 1;
const CLOSED: u8 = 2;

macro_rules! layout {
    ($name:ident { $($field:ident: $kind:ty),* $(,)? } of $size:literal) => {
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        struct $name {
            $($field: $kind,)*
        }
        const _: () = assert!(size_of::<$name>() == $size, "the table above is what clients read");
        const _: () = assert!($size <= VALUE_SIZE_MAX, "a value is held in place");
    };
}

layout!(AccountLayout {
    status: u8, reserved: u8, mandates_count: U16, holdings_count: U32, opened_at: U64,
    closed_at: U64
} of 24);
layout!(AssetLayout {
    authority: Address, decimals: u8, reserved: [u8; 3], created_at: U64,
    supply_cap: U128, supply: U128
} of 64);
layout!(HoldingLayout { balance: U128, frozen: u8, reserved: [u8; 7] } of 24);
layout!(MandateLayout { limit: U128, expires_at: U64, granted_at: U64 } of 32);
layout!(NonceLayout { valid_until: U64, used_at: U64 } of 16);

/// The canonical bytes of a value, held in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueBytes {
    bytes: [u8; VALUE_SIZE_MAX],
    size: usize,
}

impl ValueBytes {
    fn of<T: IntoBytes + Immutable>(layout: &T) -> Self {
        let (mut bytes, size) = ([0; VALUE_SIZE_MAX], size_of::<T>());
        bytes[..size].copy_from_slice(layout.as_bytes());
        Self { bytes, size }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

impl AsRef<[u8]> for ValueBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl StateValue {
    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> ValueBytes {
        match self {
            Self::Account(account) => ValueBytes::of(&AccountLayout {
                status: if account.closed_at.is_some() { CLOSED } else { OPEN },
                reserved: 0,
                mandates_count: U16::new(account.mandates_count),
                holdings_count: U32::new(account.holdings_count),
                opened_at: U64::new(account.opened_at),
                closed_at: U64::new(account.closed_at.unwrap_or(0)),
            }),
            Self::Asset(asset) => ValueBytes::of(&AssetLayout {
                authority: asset.authority,
                decimals: asset.decimals,
                reserved: [0; 3],
                created_at: U64::new(asset.created_at),
                supply_cap: U128::new(asset.supply_cap),
                supply: U128::new(asset.supply),
            }),
            Self::Holding(holding) => ValueBytes::of(&HoldingLayout {
                balance: U128::new(holding.balance),
                frozen: u8::from(holding.frozen),
                reserved: [0; 7],
            }),
            Self::Mandate(mandate) => ValueBytes::of(&MandateLayout {
                limit: U128::new(mandate.limit),
                expires_at: U64::new(mandate.expires_at),
                granted_at: U64::new(mandate.granted_at),
            }),
            Self::Nonce(nonce) => ValueBytes::of(&NonceLayout {
                valid_until: U64::new(nonce.valid_until),
                used_at: U64::new(nonce.used_at),
            }),
        }
    }

    /// Reads exactly the value stored under `key`.
    ///
    /// # Errors
    /// [`Corrupt::Value`] for anything that the ledger does not write there.
    pub fn parse(key: &StateKey, bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new(bytes);
        let value = match key {
            StateKey::Account(_) => read_account(&mut reader).map(Self::Account),
            StateKey::Asset(_) => read_asset(&mut reader).map(Self::Asset),
            StateKey::Holding(..) => read_holding(&mut reader).map(Self::Holding),
            StateKey::Mandate { .. } => read_mandate(&mut reader).map(Self::Mandate),
            StateKey::Nonce { .. } => read_nonce(&mut reader).map(Self::Nonce),
        };
        value
            .and_then(|value| reader.finish().map(|()| value))
            .map_err(|cause| Corrupt::Value { key: *key, cause })
    }

    /// Whether this is a value for `key`.
    #[must_use]
    pub const fn belongs_to(&self, key: &StateKey) -> bool {
        matches!(
            (self, key),
            (Self::Account(_), StateKey::Account(_))
                | (Self::Asset(_), StateKey::Asset(_))
                | (Self::Holding(_), StateKey::Holding(..))
                | (Self::Mandate(_), StateKey::Mandate { .. })
                | (Self::Nonce(_), StateKey::Nonce { .. })
        )
    }
}

fn read_account(reader: &mut Reader<'_>) -> Result<Account, DecodeError> {
    let layout: &AccountLayout = reader.fixed()?;
    check_reserved("account", &[layout.reserved])?;
    check_range("account status", layout.status.into(), OPEN.into(), CLOSED.into())?;
    let (opened_at, closed_at) = (layout.opened_at.get(), layout.closed_at.get());
    let holdings_count = layout.holdings_count.get();
    let mandates_count = layout.mandates_count.get();
    let mandates_max = ACCOUNT_MANDATES_COUNT_MAX.into();
    check_range("mandates of an account", mandates_count.into(), 0, mandates_max)?;
    if layout.status == OPEN {
        check_range("closing height of an open account", closed_at, 0, 0)?;
        return Ok(Account { opened_at, closed_at: None, holdings_count, mandates_count });
    }
    check_range("closing height of a closed account", closed_at, opened_at, u64::MAX)?;
    check_range("holdings of a closed account", holdings_count.into(), 0, 0)?;
    Ok(Account { opened_at, closed_at: Some(closed_at), holdings_count, mandates_count })
}

fn read_asset(reader: &mut Reader<'_>) -> Result<Asset, DecodeError> {
    let layout: &AssetLayout = reader.fixed()?;
    check_reserved("asset", &layout.reserved)?;
    check_range("asset decimals", layout.decimals.into(), 0, ASSET_DECIMALS_MAX.into())?;
    let asset = Asset {
        authority: layout.authority,
        decimals: layout.decimals,
        created_at: layout.created_at.get(),
        supply_cap: layout.supply_cap.get(),
        supply: layout.supply.get(),
    };
    if asset.supply_cap == 0 || asset.supply > asset.supply_cap {
        return Err(DecodeError::NotCanonical { field: "supply of an asset" });
    }
    Ok(asset)
}

fn read_holding(reader: &mut Reader<'_>) -> Result<Holding, DecodeError> {
    let layout: &HoldingLayout = reader.fixed()?;
    check_reserved("holding", &layout.reserved)?;
    check_range("frozen flag of a holding", layout.frozen.into(), 0, 1)?;
    let holding = Holding { balance: layout.balance.get(), frozen: layout.frozen == 1 };
    if holding.balance == 0 && !holding.frozen {
        return Err(DecodeError::NotCanonical { field: "empty holding" });
    }
    Ok(holding)
}

fn read_mandate(reader: &mut Reader<'_>) -> Result<Mandate, DecodeError> {
    let layout: &MandateLayout = reader.fixed()?;
    let mandate = Mandate {
        limit: layout.limit.get(),
        expires_at: layout.expires_at.get(),
        granted_at: layout.granted_at.get(),
    };
    if mandate.limit == 0 || mandate.expires_at < mandate.granted_at {
        return Err(DecodeError::NotCanonical { field: "mandate" });
    }
    Ok(mandate)
}

fn read_nonce(reader: &mut Reader<'_>) -> Result<Nonce, DecodeError> {
    let layout: &NonceLayout = reader.fixed()?;
    let nonce = Nonce { valid_until: layout.valid_until.get(), used_at: layout.used_at.get() };
    check_range("height at which a nonce was used", nonce.used_at, 1, nonce.valid_until)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hufu_types::AssetCode;

    fn samples() -> Vec<(StateKey, StateValue)> {
        let (address, asset) = (Address([7; 20]), AssetCode::new("USD").unwrap());
        let open =
            Account { opened_at: 3, closed_at: None, holdings_count: 2, mandates_count: 4_096 };
        let closed =
            Account { opened_at: 3, closed_at: Some(9), holdings_count: 0, mandates_count: 1 };
        let account = StateKey::Account(address);
        let holding = StateKey::Holding(address, asset);
        let mandate = StateKey::Mandate { owner: address, agent: Address([8; 20]), asset };
        let coin = Asset {
            authority: address,
            decimals: 18,
            created_at: 5,
            supply_cap: u128::MAX,
            supply: 1 << 100,
        };
        let granted = Mandate { limit: 5, expires_at: 700, granted_at: 100 };
        let nonce = StateKey::Nonce { sender: address, nonce: 1 };
        vec![
            (account, StateValue::Account(open)),
            (account, StateValue::Account(closed)),
            (StateKey::Asset(asset), StateValue::Asset(coin)),
            (holding, StateValue::Holding(Holding { balance: u128::MAX, frozen: false })),
            (holding, StateValue::Holding(Holding { balance: 0, frozen: true })),
            (mandate, StateValue::Mandate(granted)),
            (nonce, StateValue::Nonce(Nonce { valid_until: 605, used_at: 5 })),
        ]
    }

    #[test]
    fn values_have_one_encoding_and_the_documented_size() {
        let sizes = [24, 24, 64, 24, 24, 32, 16];
        for ((key, value), size) in samples().into_iter().zip(sizes) {
            let bytes = value.to_bytes();
            assert_eq!(bytes.as_slice().len(), size);
            assert!(value.belongs_to(&key));
            assert_eq!(StateValue::parse(&key, bytes.as_slice()), Ok(value));
            assert!(StateValue::parse(&key, &bytes.as_slice()[1..]).is_err());
            assert!(StateValue::parse(&key, &[bytes.as_slice(), &[0]].concat()).is_err());
        }
    }

    /// Golden bytes: a change here changes every state root of every chain.
    #[test]
    fn layout_is_the_documented_one() {
        let holding = Holding { balance: 0x0102, frozen: true };
        let mut expected = vec![2, 1];
        expected.extend([0; 14]);
        expected.push(1);
        expected.extend([0; 7]);
        assert_eq!(StateValue::Holding(holding).to_bytes().as_slice(), expected);
        let account =
            Account { opened_at: 3, closed_at: Some(9), holdings_count: 0, mandates_count: 0x0102 };
        let expected = [2, 0, 2, 1, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(StateValue::Account(account).to_bytes().as_slice(), expected);
    }

    #[test]
    fn every_byte_that_is_not_free_is_checked() {
        let reserved: [&[usize]; 7] = [
            &[0, 1, 3, 16],
            &[0, 1, 3, 4],
            &[20, 21, 22, 23],
            &[16, 17, 23],
            &[16, 17, 23],
            &[],
            &[9, 15],
        ];
        for ((key, value), places) in samples().into_iter().zip(reserved) {
            for &place in places {
                let mut bytes = value.to_bytes().as_slice().to_vec();
                bytes[place] = 0x55;
                let error = StateValue::parse(&key, &bytes);
                assert!(matches!(error, Err(Corrupt::Value { .. })), "{key} byte {place}");
            }
        }
        let (key, _) = samples()[3];
        assert!(StateValue::parse(&key, &[0; 24]).is_err(), "an empty holding is not stored");
        let (key, _) = samples()[5];
        assert!(StateValue::parse(&key, &[0; 32]).is_err(), "a used-up mandate is not stored");
    }
}
