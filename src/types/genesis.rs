//! The genesis: what all nodes of a chain agree on before its first block.
//!
//! Its canonical bytes hash to the chain id, so a node with another genesis is on another chain.

use std::collections::BTreeSet;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Address, Digest, PublicKey, Sm3, is_curve_point};

use crate::codec::{DecodeError, Reader, check_range, check_reserved, index, length_u32, put};
use crate::domain::{DomainPrefix, Kind};
use crate::ids::ChainId;
use crate::limits::{
    CERTIFIED_LAG_HEIGHTS_MAX, GENESIS_GRANTEES_COUNT_MAX, GENESIS_TIME_MILLIS_MAX, NAME_SIZE_MAX,
    STATE_BUCKETS_LOG2_MAX, STATE_BUCKETS_LOG2_MIN, VALIDATORS_COUNT_MAX, VOTING_POWER_TOTAL_MAX,
};
use crate::transaction::SUITE_SM2_SM3;

/// A name of at most 32 bytes of `a-z 0-9 -`, zero-padded in encodings.
pub type Name = String;

/// What a chain chooses once, inside the limits of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Heights between a block and the header that carries its roots ("d"), 1..=8.
    pub certified_lag_heights: u32,
    /// Least milliseconds between the times of two blocks while there is work, 1..=60,000.
    pub block_interval_millis: u32,
    /// Logarithm of the number of buckets of the state root, 4..=24.
    pub state_buckets_log2: u8,
}

/// One validator: who it is and how much its vote weighs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validator {
    /// For people.
    pub name: Name,
    /// Verifies its votes and proposals; its address follows from it.
    pub key: PublicKey,
    /// Proves who it is to the other validators, and nothing else: whoever takes it can speak in
    /// its name on a link, but neither vote nor propose.
    pub link_key: PublicKey,
    /// Voting power, at least 1.
    pub power: u64,
}

impl Validator {
    /// The validator's address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.key.address()
    }
}

/// The validators of a height, by ascending address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorSet {
    validators: Vec<(Address, Validator)>,
    power_total: u64,
}

impl ValidatorSet {
    /// A set of distinct validators.
    ///
    /// # Errors
    /// If it is empty, too large, holds a name or a key twice (a vote key that is also a link key
    /// included) or a key that is no point of the curve, or its power is out of range.
    pub fn new(validators: Vec<Validator>) -> Result<Self, DecodeError> {
        check_range(
            "validators count",
            length_u32(&validators).into(),
            1,
            VALIDATORS_COUNT_MAX.into(),
        )?;
        let mut power_total: u64 = 0;
        for validator in &validators {
            check_range("voting power", validator.power, 1, VOTING_POWER_TOTAL_MAX)?;
            power_total += validator.power;
            check_range("total voting power", power_total, 1, VOTING_POWER_TOTAL_MAX)?;
            for (key, field) in
                [(&validator.key, VOTE_KEY_FIELD), (&validator.link_key, LINK_KEY_FIELD)]
            {
                if !is_curve_point(key) {
                    return Err(DecodeError::OffCurve { field });
                }
            }
        }
        check_distinct(&validators)?;
        let mut validators: Vec<(Address, Validator)> =
            validators.into_iter().map(|validator| (validator.address(), validator)).collect();
        validators.sort_by_key(|(address, _)| *address);
        if !validators.is_sorted_by(|(first, _), (second, _)| first < second) {
            return Err(DecodeError::Repeated { field: "validator's address" });
        }
        Ok(Self { validators, power_total })
    }

    /// The validator with this address.
    #[must_use]
    pub fn get(&self, address: &Address) -> Option<&Validator> {
        let place = self.validators.binary_search_by_key(address, |(address, _)| *address).ok()?;
        self.validators.get(place).map(|(_, validator)| validator)
    }

    /// All validators by ascending address.
    pub fn iter(&self) -> impl Iterator<Item = (&Address, &Validator)> {
        self.validators.iter().map(|(address, validator)| (address, validator))
    }

    /// How many validators there are, at least 1.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.validators.len()
    }

    /// Power of all validators together.
    #[must_use]
    pub const fn power_total(&self) -> u64 {
        self.power_total
    }

    /// Whether `power` is more than two thirds of the whole.
    #[must_use]
    pub const fn is_quorum(&self, power: u64) -> bool {
        power.saturating_mul(3) > self.power_total.saturating_mul(2)
    }

    /// The digest headers carry.
    #[must_use]
    pub fn digest(&self, chain_id: ChainId) -> Digest {
        let mut bytes = Vec::new();
        put(&mut bytes, &DomainPrefix::new(Kind::ValidatorSet, chain_id));
        for (_, validator) in &self.validators {
            put(&mut bytes, &ValidatorRow::from(validator));
        }
        Sm3::of(&[&bytes])
    }
}

const VOTE_KEY_FIELD: &str = "validator's vote key";
const LINK_KEY_FIELD: &str = "validator's link key";

/// No name and no key serves twice, whatever it serves for: an operator names peers by name, and a
/// key that signs both votes and links would make one theft two.
fn check_distinct(validators: &[Validator]) -> Result<(), DecodeError> {
    let mut names = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for Validator { name, key, link_key, .. } in validators {
        if !names.insert(name) {
            return Err(DecodeError::Repeated { field: "validator's name" });
        }
        for (key, field) in [(key, VOTE_KEY_FIELD), (link_key, LINK_KEY_FIELD)] {
            if !keys.insert(key) {
                return Err(DecodeError::Repeated { field });
            }
        }
    }
    assert!(keys.len() == 2 * names.len(), "every validator has two keys of its own");
    Ok(())
}

/// Everything a chain begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// For people; part of the chain id.
    pub chain_name: Name,
    /// Unix time in milliseconds, up to the end of the year 9999; the first block's is greater.
    pub time_millis: u64,
    /// The chain's choices.
    pub parameters: Parameters,
    /// The validators of the first height.
    pub validators: ValidatorSet,
    /// Who may open accounts, ascending.
    pub account_openers: Vec<Address>,
    /// Who may create assets, ascending.
    pub asset_issuers: Vec<Address>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct GenesisHeader {
    prefix: DomainPrefix,
    chain_name: [u8; NAME_SIZE_MAX],
    time_millis: U64,
    certified_lag_heights: U32,
    block_interval_millis: U32,
    state_buckets_log2: u8,
    suite: u8,
    reserved: [u8; 2],
    validators_count: U32,
    account_openers_count: U32,
    asset_issuers_count: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ValidatorRow {
    name: [u8; NAME_SIZE_MAX],
    key: PublicKey,
    link_key: PublicKey,
    power: U64,
}

impl From<&Validator> for ValidatorRow {
    fn from(validator: &Validator) -> Self {
        Self {
            name: pad_name(&validator.name),
            key: validator.key,
            link_key: validator.link_key,
            power: U64::new(validator.power),
        }
    }
}

impl Genesis {
    /// Checks the parts and joins them; lists of addresses may come in any order.
    ///
    /// # Errors
    /// The first part that is out of range, by field.
    pub fn new(
        chain_name: Name,
        time_millis: u64,
        parameters: Parameters,
        validators: ValidatorSet,
        account_openers: Vec<Address>,
        asset_issuers: Vec<Address>,
    ) -> Result<Self, DecodeError> {
        check_name("chain name", &chain_name)?;
        check_range("genesis time millis", time_millis, 0, GENESIS_TIME_MILLIS_MAX)?;
        for (_, validator) in validators.iter() {
            check_name("validator name", &validator.name)?;
        }
        let lag = parameters.certified_lag_heights;
        check_range("certified lag heights", lag.into(), 1, CERTIFIED_LAG_HEIGHTS_MAX.into())?;
        check_range("block interval millis", parameters.block_interval_millis.into(), 1, 60_000)?;
        let (min, max) = (STATE_BUCKETS_LOG2_MIN.into(), STATE_BUCKETS_LOG2_MAX.into());
        check_range("state buckets log2", parameters.state_buckets_log2.into(), min, max)?;
        let account_openers = check_grantees("account openers", account_openers)?;
        let asset_issuers = check_grantees("asset issuers", asset_issuers)?;
        Ok(Self { chain_name, time_millis, parameters, validators, account_openers, asset_issuers })
    }

    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let header = GenesisHeader {
            prefix: DomainPrefix::new(Kind::Genesis, ChainId::ZERO),
            chain_name: pad_name(&self.chain_name),
            time_millis: U64::new(self.time_millis),
            certified_lag_heights: U32::new(self.parameters.certified_lag_heights),
            block_interval_millis: U32::new(self.parameters.block_interval_millis),
            state_buckets_log2: self.parameters.state_buckets_log2,
            suite: SUITE_SM2_SM3,
            reserved: [0; 2],
            validators_count: U32::new(length_u32(&self.validators.validators)),
            account_openers_count: U32::new(length_u32(&self.account_openers)),
            asset_issuers_count: U32::new(length_u32(&self.asset_issuers)),
        };
        put(&mut out, &header);
        for (_, validator) in self.validators.iter() {
            put(&mut out, &ValidatorRow::from(validator));
        }
        put(&mut out, self.account_openers.as_slice());
        put(&mut out, self.asset_issuers.as_slice());
        out
    }

    /// Reads exactly one canonical genesis.
    ///
    /// # Errors
    /// What is not canonical, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: GenesisHeader = *reader.fixed()?;
        header.prefix.expect(Kind::Genesis)?;
        check_reserved("genesis", &header.reserved)?;
        check_reserved("genesis chain id", header.prefix.chain_id.as_bytes())?;
        check_range("suite", header.suite.into(), SUITE_SM2_SM3.into(), SUITE_SM2_SM3.into())?;
        let count = header.validators_count.get();
        check_range("validators count", count.into(), 1, VALIDATORS_COUNT_MAX.into())?;
        let rows: &[ValidatorRow] = reader.slice(index(count))?;
        let mut validators = Vec::with_capacity(rows.len());
        for row in rows {
            let name = unpad_name("validator name", &row.name)?;
            let ValidatorRow { key, link_key, power, .. } = *row;
            validators.push(Validator { name, key, link_key, power: power.get() });
        }
        let openers =
            read_grantees(&mut reader, "account openers", header.account_openers_count.get())?;
        let issuers =
            read_grantees(&mut reader, "asset issuers", header.asset_issuers_count.get())?;
        reader.finish()?;
        let parameters = Parameters {
            certified_lag_heights: header.certified_lag_heights.get(),
            block_interval_millis: header.block_interval_millis.get(),
            state_buckets_log2: header.state_buckets_log2,
        };
        let chain_name = unpad_name("chain name", &header.chain_name)?;
        let validators = ValidatorSet::new(validators)?;
        let time = header.time_millis.get();
        let genesis = Self::new(chain_name, time, parameters, validators, openers, issuers)?;
        // Lists have one order; a genesis in another order is another encoding of the same thing.
        if genesis.to_bytes() != bytes {
            return Err(DecodeError::NotCanonical { field: "order of the genesis's lists" });
        }
        Ok(genesis)
    }

    /// The chain this genesis begins.
    #[must_use]
    pub fn chain_id(&self) -> ChainId {
        ChainId(Sm3::of(&[&self.to_bytes()]))
    }
}

fn read_grantees(
    reader: &mut Reader<'_>,
    field: &'static str,
    count: u32,
) -> Result<Vec<Address>, DecodeError> {
    check_range(field, count.into(), 1, GENESIS_GRANTEES_COUNT_MAX.into())?;
    Ok(reader.slice::<Address>(index(count))?.to_vec())
}

fn check_grantees(
    field: &'static str,
    mut grantees: Vec<Address>,
) -> Result<Vec<Address>, DecodeError> {
    check_range(field, length_u32(&grantees).into(), 1, GENESIS_GRANTEES_COUNT_MAX.into())?;
    grantees.sort_unstable();
    if grantees.is_sorted_by(|first, second| first < second) {
        Ok(grantees)
    } else {
        Err(DecodeError::NotCanonical { field })
    }
}

fn check_name(field: &'static str, name: &str) -> Result<(), DecodeError> {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if !name.is_empty() && name.len() <= NAME_SIZE_MAX && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(DecodeError::NotCanonical { field })
    }
}

/// A checked name with zero bytes behind it.
fn pad_name(name: &str) -> [u8; NAME_SIZE_MAX] {
    let mut padded = [0; NAME_SIZE_MAX];
    for (place, byte) in padded.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    padded
}

fn unpad_name(field: &'static str, padded: &[u8; NAME_SIZE_MAX]) -> Result<Name, DecodeError> {
    let length = padded.iter().position(|&byte| byte == 0).unwrap_or(NAME_SIZE_MAX);
    let (text, padding) = padded.split_at(length);
    check_reserved(field, padding)?;
    let name = core::str::from_utf8(text).map_err(|_| DecodeError::NotCanonical { field })?;
    check_name(field, name)?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use hufu_crypto::{Signer, SoftwareSigner};

    use super::*;

    fn key(seed: u8) -> PublicKey {
        *SoftwareSigner::from_bytes(&[seed; 32]).unwrap().public_key()
    }

    fn validator(name: &str, key: PublicKey, link_key: PublicKey) -> Validator {
        Validator { name: name.into(), key, link_key, power: 1 }
    }

    fn genesis(time_millis: u64) -> Result<Genesis, DecodeError> {
        let parameters = Parameters {
            certified_lag_heights: 1,
            block_interval_millis: 100,
            state_buckets_log2: 4,
        };
        let set = ValidatorSet::new(vec![validator("one", key(7), key(8))]).unwrap();
        let operator = vec![key(7).address()];
        Genesis::new("test".into(), time_millis, parameters, set, operator.clone(), operator)
    }

    #[test]
    fn no_chain_begins_with_a_validator_that_cannot_sign() {
        let good = genesis(1).unwrap();
        assert_eq!(Genesis::parse(&good.to_bytes()), Ok(good.clone()));
        let off = PublicKey([1; 64]);
        for (place, field) in ["validator's vote key", "validator's link key"].iter().enumerate() {
            let refused = DecodeError::OffCurve { field };
            let mut keys = [key(7), key(8)];
            keys[place] = off;
            assert_eq!(ValidatorSet::new(vec![validator("one", keys[0], keys[1])]), Err(refused));
            let mut bytes = good.to_bytes();
            let at = size_of::<GenesisHeader>() + NAME_SIZE_MAX + place * PublicKey::SIZE;
            bytes[at..at + PublicKey::SIZE].copy_from_slice(&off.0);
            assert_eq!(Genesis::parse(&bytes), Err(refused));
        }
    }

    #[test]
    fn no_key_and_no_name_serves_twice() {
        let set = |validators: &[(&str, u8, u8)]| {
            let make =
                |(name, vote, link): &(&str, u8, u8)| validator(name, key(*vote), key(*link));
            ValidatorSet::new(validators.iter().map(make).collect()).map(|set| set.count())
        };
        let repeated = |field| Err(DecodeError::Repeated { field });
        assert_eq!(set(&[("one", 1, 2), ("two", 3, 4)]), Ok(2));
        assert_eq!(set(&[("one", 1, 1)]), repeated("validator's link key"));
        assert_eq!(set(&[("one", 1, 2), ("two", 1, 4)]), repeated("validator's vote key"));
        assert_eq!(set(&[("one", 1, 2), ("two", 3, 2)]), repeated("validator's link key"));
        assert_eq!(set(&[("one", 1, 2), ("two", 3, 1)]), repeated("validator's link key"));
        assert_eq!(set(&[("one", 1, 2), ("two", 2, 4)]), repeated("validator's vote key"));
        assert_eq!(set(&[("one", 1, 2), ("one", 3, 4)]), repeated("validator's name"));
    }

    #[test]
    fn the_set_s_digest_covers_every_link_key() {
        let chain_id = ChainId(Digest([5; 32]));
        let digest = |link| {
            let set = vec![validator("one", key(1), key(2)), validator("two", key(3), key(link))];
            ValidatorSet::new(set).unwrap().digest(chain_id)
        };
        assert_eq!(digest(4), digest(4));
        assert_ne!(digest(4), digest(5));
    }

    #[test]
    fn no_chain_begins_so_late_that_no_block_can_follow() {
        let last = genesis(GENESIS_TIME_MILLIS_MAX).unwrap();
        assert!(genesis(GENESIS_TIME_MILLIS_MAX + 1).is_err());
        let mut bytes = last.to_bytes();
        let time = size_of::<DomainPrefix>() + NAME_SIZE_MAX;
        bytes[time..time + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let field = "genesis time millis";
        let (found, max) = (u64::MAX, GENESIS_TIME_MILLIS_MAX);
        assert_eq!(Genesis::parse(&bytes), Err(DecodeError::Range { field, found, min: 0, max }));
    }
}
