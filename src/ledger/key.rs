//! State keys: what the ledger knows things by, and their canonical bytes.
//!
//! ```text
//! kind  key                                          bytes
//!  1    account: address 20                             21
//!  2    asset:   code 16                                17
//!  3    holding: account 20, asset 16                   37
//!  4    mandate: owner 20, agent 20, asset 16           57
//!  5    nonce:   sender 20, nonce u64 big-endian        29
//! ```
//!
//! The first byte is the kind. Byte order equals the order of [`StateKey`], so that a scan by
//! prefix finds the holdings of one account and the mandates of one owner, and sorted keys are
//! sorted database keys.

use core::fmt;

use zerocopy::IntoBytes;
use zerocopy::big_endian;

use hufu_types::codec::{DecodeError, Reader};
use hufu_types::{Address, AssetCode};

use crate::corrupt::Corrupt;

/// Bytes of the longest key, that of a mandate.
pub const KEY_SIZE_MAX: usize = 57;

/// Bytes of a prefix that names one account or one owner: kind and address.
pub const PREFIX_SIZE: usize = 21;

/// Names one entry of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StateKey {
    /// An account.
    Account(Address),
    /// An asset.
    Asset(AssetCode),
    /// What an account holds of an asset.
    Holding(Address, AssetCode),
    /// What `owner` lets `agent` debit.
    Mandate {
        /// Whose holding may be debited.
        owner: Address,
        /// Who may debit it.
        agent: Address,
        /// Of which asset.
        asset: AssetCode,
    },
    /// A nonce used inside the validity window.
    Nonce {
        /// Who used it.
        sender: Address,
        /// The nonce.
        nonce: u64,
    },
}

/// The canonical bytes of a key, held in place.
#[derive(Clone, Copy)]
pub struct KeyBytes {
    bytes: [u8; KEY_SIZE_MAX],
    size: usize,
}

impl KeyBytes {
    fn new(kind: u8) -> Self {
        let mut bytes = [0; KEY_SIZE_MAX];
        bytes[0] = kind;
        Self { bytes, size: 1 }
    }

    fn join(mut self, part: &[u8]) -> Self {
        let end = self.size + part.len();
        assert!(end <= KEY_SIZE_MAX, "KEY_SIZE_MAX is the size of the longest key");
        self.bytes[self.size..end].copy_from_slice(part);
        self.size = end;
        self
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

impl AsRef<[u8]> for KeyBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

const ACCOUNT: u8 = 1;
const ASSET: u8 = 2;
const HOLDING: u8 = 3;
const MANDATE: u8 = 4;
const NONCE: u8 = 5;

impl StateKey {
    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> KeyBytes {
        match self {
            Self::Account(address) => KeyBytes::new(ACCOUNT).join(&address.0),
            Self::Asset(asset) => KeyBytes::new(ASSET).join(&asset.0),
            Self::Holding(address, asset) => KeyBytes::new(HOLDING).join(&address.0).join(&asset.0),
            Self::Mandate { owner, agent, asset } => {
                KeyBytes::new(MANDATE).join(&owner.0).join(&agent.0).join(&asset.0)
            }
            Self::Nonce { sender, nonce } => {
                let nonce = big_endian::U64::new(*nonce);
                KeyBytes::new(NONCE).join(&sender.0).join(nonce.as_bytes())
            }
        }
    }

    /// Reads exactly one key.
    ///
    /// # Errors
    /// [`Corrupt::Key`] for anything that [`StateKey::to_bytes`] does not write.
    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        Self::decode(bytes).map_err(|cause| Corrupt::Key { cause })
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = *reader.fixed::<u8>()?;
        let key = match kind {
            ACCOUNT => Self::Account(*reader.fixed()?),
            ASSET => Self::Asset(read_asset(&mut reader)?),
            HOLDING => Self::Holding(*reader.fixed()?, read_asset(&mut reader)?),
            MANDATE => Self::Mandate {
                owner: *reader.fixed()?,
                agent: *reader.fixed()?,
                asset: read_asset(&mut reader)?,
            },
            NONCE => Self::Nonce {
                sender: *reader.fixed()?,
                nonce: reader.fixed::<big_endian::U64>()?.get(),
            },
            _ => {
                let (field, found) = ("state key kind", kind.into());
                return Err(DecodeError::Range { field, found, min: 1, max: NONCE.into() });
            }
        };
        reader.finish()?;
        Ok(key)
    }

    /// What the keys of all holdings of `account` begin with, and no other key does.
    #[must_use]
    pub fn holdings_prefix(account: &Address) -> [u8; PREFIX_SIZE] {
        prefix(HOLDING, account)
    }

    /// What the keys of all mandates that `owner` granted begin with, and no other key does.
    #[must_use]
    pub fn mandates_prefix(owner: &Address) -> [u8; PREFIX_SIZE] {
        prefix(MANDATE, owner)
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(address) => write!(formatter, "account {address}"),
            Self::Asset(asset) => write!(formatter, "asset {asset}"),
            Self::Holding(address, asset) => write!(formatter, "holding {address} {asset}"),
            Self::Mandate { owner, agent, asset } => {
                write!(formatter, "mandate {owner} {agent} {asset}")
            }
            Self::Nonce { sender, nonce } => write!(formatter, "nonce {sender} {nonce}"),
        }
    }
}

fn prefix(kind: u8, address: &Address) -> [u8; PREFIX_SIZE] {
    let mut bytes = [kind; PREFIX_SIZE];
    bytes[1..].copy_from_slice(&address.0);
    bytes
}

fn read_asset(reader: &mut Reader<'_>) -> Result<AssetCode, DecodeError> {
    let asset: AssetCode = *reader.fixed()?;
    if asset.is_canonical() {
        Ok(asset)
    } else {
        Err(DecodeError::NotCanonical { field: "asset code of a state key" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn samples() -> Vec<StateKey> {
        let mut keys = Vec::new();
        let assets = ["A", "B2", "USD"].map(|text| AssetCode::new(text).unwrap());
        for byte in [0_u8, 1, 0x7f, 0xff] {
            let address = Address([byte; 20]);
            keys.push(StateKey::Account(address));
            for asset in assets {
                keys.push(StateKey::Asset(asset));
                keys.push(StateKey::Holding(address, asset));
                for agent in [Address::ZERO, Address([0xff; 20])] {
                    keys.push(StateKey::Mandate { owner: address, agent, asset });
                }
            }
            for nonce in [0, 1, 255, 256, u64::MAX] {
                keys.push(StateKey::Nonce { sender: address, nonce });
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    #[test]
    fn keys_have_one_encoding_in_their_own_order() {
        let keys = samples();
        let bytes: Vec<Vec<u8>> =
            keys.iter().map(|key| key.to_bytes().as_slice().to_vec()).collect();
        assert!(bytes.is_sorted_by(|first, second| first < second), "byte order is key order");
        for (key, bytes) in keys.iter().zip(&bytes) {
            assert_eq!(StateKey::parse(bytes), Ok(*key));
            assert!(StateKey::parse(&bytes[..bytes.len() - 1]).is_err(), "{key} cut short");
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(StateKey::parse(&longer).is_err(), "{key} with a byte behind it");
        }
        for kind in [0, NONCE + 1, 255] {
            assert!(StateKey::parse(&[&[kind], [b'A'; 20].as_slice()].concat()).is_err());
        }
        assert!(StateKey::parse(&[&[ASSET], [b'a'; 16].as_slice()].concat()).is_err());
    }

    #[test]
    fn prefixes_find_exactly_their_keys() {
        for key in samples() {
            let bytes = key.to_bytes();
            for byte in [0_u8, 0x7f, 0xff] {
                let address = Address([byte; 20]);
                let held = matches!(key, StateKey::Holding(account, _) if account == address);
                assert_eq!(
                    bytes.as_slice().starts_with(&StateKey::holdings_prefix(&address)),
                    held
                );
                let owned = matches!(key, StateKey::Mandate { owner, .. } if owner == address);
                assert_eq!(
                    bytes.as_slice().starts_with(&StateKey::mandates_prefix(&address)),
                    owned
                );
            }
        }
    }
}
