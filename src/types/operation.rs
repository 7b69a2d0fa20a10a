//! Operations: what a transaction asks the ledger to do.
//!
//! Each is a four-byte header (kind, size of the body) and a body of a fixed layout; settlements
//! and notarisations end in a counted tail. All operations of one transaction happen or none does.

use zerocopy::little_endian::{U16, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use hufu_crypto::{Address, Digest};

use crate::asset::AssetCode;
use crate::codec::{DecodeError, Reader, check_range, check_reserved, length_u32, put};
use crate::limits::{
    ASSET_DECIMALS_MAX, NOTARISATION_MEMO_SIZE_MAX, SETTLEMENT_LEGS_COUNT_MAX, TX_KEYS_COUNT_MAX,
    TX_OPERATIONS_COUNT_MAX,
};

/// State keys of one leg: asset, two accounts, two holdings, mandate.
const LEG_KEYS_COUNT: u32 = 6;

/// The account of a sender who acts for another: it must not be closed.
const ACTOR_KEYS_COUNT: u32 = 1;

/// What every transaction names beside its operations' keys.
pub(crate) const NONCE_KEYS_COUNT: u32 = 1;

const _: () = assert!(
    NONCE_KEYS_COUNT + TX_OPERATIONS_COUNT_MAX as u32 * (LEG_KEYS_COUNT + ACTOR_KEYS_COUNT)
        <= TX_KEYS_COUNT_MAX,
    "a transaction with the most operations must be possible when they are transfers"
);
const _: () = assert!(
    NONCE_KEYS_COUNT + SETTLEMENT_LEGS_COUNT_MAX as u32 * LEG_KEYS_COUNT + ACTOR_KEYS_COUNT
        <= TX_KEYS_COUNT_MAX,
    "the largest settlement must be possible"
);

/// Names one kind of operation on the wire; numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum OperationKind {
    /// See [`Operation::OpenAccount`].
    OpenAccount = 1,
    /// See [`Operation::CloseAccount`].
    CloseAccount = 2,
    /// See [`Operation::CreateAsset`].
    CreateAsset = 3,
    /// See [`Operation::IssueAsset`].
    IssueAsset = 4,
    /// See [`Operation::RedeemAsset`].
    RedeemAsset = 5,
    /// See [`Operation::Transfer`].
    Transfer = 6,
    /// See [`Operation::Settle`].
    Settle = 7,
    /// See [`Operation::GrantMandate`].
    GrantMandate = 8,
    /// See [`Operation::RevokeMandate`].
    RevokeMandate = 9,
    /// See [`Operation::Notarise`].
    Notarise = 10,
    /// See [`Operation::FreezeHolding`].
    FreezeHolding = 11,
    /// See [`Operation::UnfreezeHolding`].
    UnfreezeHolding = 12,
}

macro_rules! body {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $visibility:vis $field:ident: $kind:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
            Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* $visibility $field: $kind,)*
        }
    };
}

body!(
    /// First four bytes of every operation.
    OperationHeader { kind: U16, size: U16, }
);

body!(
    /// Opens or closes the account of `address`. Openers are named by the genesis; closing is also
    /// the owner's right.
    AccountBody {
        /// The account.
        pub address: Address,
    }
);

body!(
    /// Brings an asset into being; the sender must be one of the genesis's issuers.
    CreateAssetBody {
        /// Name of the new asset.
        pub asset: AssetCode,
        /// Who may issue, freeze and unfreeze.
        pub authority: Address,
        /// Decimal places of one unit, 0..=18; amounts are in the smallest part.
        pub decimals: u8,
        reserved: [u8; 3],
        /// Most that may ever be in circulation at once, in the smallest part.
        pub supply_cap: U128,
    }
);

body!(
    /// Moves an amount between one account and the asset's circulation: issue to it, redeem from
    /// it.
    SupplyBody {
        /// The asset.
        pub asset: AssetCode,
        /// Issue: who receives. Redeem: whose holding shrinks.
        pub account: Address,
        /// In the smallest part of the asset, at least 1.
        pub amount: U128,
    }
);

body!(
    /// One movement of one asset from one account to another; a transfer is one of them, a
    /// settlement several.
    Leg {
        /// The asset.
        pub asset: AssetCode,
        /// Whose holding shrinks: the sender, or someone whose mandate the sender has.
        pub from: Address,
        /// Whose holding grows; not `from`.
        pub to: Address,
        /// In the smallest part of the asset, at least 1.
        pub amount: U128,
    }
);

body!(
    /// Begins the body of a settlement; the legs follow.
    SettleHeader { legs_count: U16, reserved: [u8; 2] }
);

body!(
    /// The sender lets `agent` debit the sender's holding of one asset; replaces an earlier mandate
    /// for the same three.
    GrantMandateBody {
        /// Who may debit.
        pub agent: Address,
        /// Which asset.
        pub asset: AssetCode,
        /// Total that may be debited before the mandate is used up, in the smallest part.
        pub limit: U128,
        /// Last height at which the mandate may be used.
        pub expires_at: U64,
    }
);

body!(
    /// The sender takes the mandate for this agent and asset back.
    RevokeMandateBody {
        /// Who may no longer debit.
        pub agent: Address,
        /// Which asset.
        pub asset: AssetCode,
    }
);

body!(
    /// Begins the body of a notarisation; the memo follows.
    NotariseHeader { digest: Digest, memo_size: U16, reserved: [u8; 2] }
);

body!(
    /// The asset's authority bars or frees one holding; a frozen holding cannot be debited, credits
    /// still reach it.
    HoldingBody {
        /// The asset; the sender must be its authority.
        pub asset: AssetCode,
        /// Whose holding.
        pub account: Address,
    }
);

impl CreateAssetBody {
    /// A body with its reserved bytes zero.
    #[must_use]
    pub const fn new(asset: AssetCode, authority: Address, decimals: u8, supply_cap: u128) -> Self {
        Self { asset, authority, decimals, reserved: [0; 3], supply_cap: U128::new(supply_cap) }
    }
}

/// One operation, read in place. The sender of the transaction is the actor of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// An opener named by the genesis opens an account.
    OpenAccount(&'a AccountBody),
    /// An opener or the owner closes an account that holds nothing; its address is not opened
    /// again.
    CloseAccount(&'a AccountBody),
    /// An issuer named by the genesis creates an asset.
    CreateAsset(&'a CreateAssetBody),
    /// The asset's authority puts an amount into circulation.
    IssueAsset(&'a SupplyBody),
    /// The holder, or an agent with a mandate, takes an amount out of circulation.
    RedeemAsset(&'a SupplyBody),
    /// One debit and one credit.
    Transfer(&'a Leg),
    /// Several legs that settle simultaneously or not at all: delivery versus payment.
    Settle(&'a [Leg]),
    /// The sender grants a mandate.
    GrantMandate(&'a GrantMandateBody),
    /// The sender revokes a mandate.
    RevokeMandate(&'a RevokeMandateBody),
    /// Puts a digest and a memo on record.
    Notarise {
        /// SM3 of what is put on record.
        digest: &'a Digest,
        /// Up to 256 bytes, of any content.
        memo: &'a [u8],
    },
    /// The asset's authority freezes a holding.
    FreezeHolding(&'a HoldingBody),
    /// The asset's authority unfreezes a holding.
    UnfreezeHolding(&'a HoldingBody),
}

impl<'a> Operation<'a> {
    /// Reads the next operation and checks everything that needs no state.
    ///
    /// # Errors
    /// What is not canonical, by field.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let header: &OperationHeader = reader.fixed()?;
        let stated = header.size.get();
        let mut body = Reader::new(reader.bytes(usize::from(stated))?);
        let operation = Self::read_body(header.kind.get(), &mut body)?;
        body.finish()?;
        Ok(operation)
    }

    fn read_body(kind: u16, body: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::OpenAccount(body.fixed()?),
            2 => Self::CloseAccount(body.fixed()?),
            3 => Self::CreateAsset(checked_create(body.fixed()?)?),
            4 => Self::IssueAsset(checked_supply(body.fixed()?)?),
            5 => Self::RedeemAsset(checked_supply(body.fixed()?)?),
            6 => Self::Transfer(checked_leg(body.fixed()?)?),
            7 => {
                let header: &SettleHeader = body.fixed()?;
                check_reserved("settlement", &header.reserved)?;
                let count = header.legs_count.get();
                check_range("settlement legs", count.into(), 1, SETTLEMENT_LEGS_COUNT_MAX.into())?;
                let legs: &[Leg] = body.slice(usize::from(count))?;
                legs.iter().try_for_each(|leg| checked_leg(leg).map(|_| ()))?;
                Self::Settle(legs)
            }
            8 => Self::GrantMandate(checked_grant(body.fixed()?)?),
            9 => Self::RevokeMandate(checked_revoke(body.fixed()?)?),
            10 => {
                let header: &NotariseHeader = body.fixed()?;
                check_reserved("notarisation", &header.reserved)?;
                let size = header.memo_size.get();
                check_range(
                    "notarisation memo size",
                    size.into(),
                    0,
                    NOTARISATION_MEMO_SIZE_MAX.into(),
                )?;
                Self::Notarise { digest: &header.digest, memo: body.bytes(usize::from(size))? }
            }
            11 => Self::FreezeHolding(checked_holding(body.fixed()?)?),
            12 => Self::UnfreezeHolding(checked_holding(body.fixed()?)?),
            _ => {
                return Err(DecodeError::Range {
                    field: "operation kind",
                    found: kind.into(),
                    min: 1,
                    max: 12,
                });
            }
        })
    }

    /// Which kind of operation this is.
    #[must_use]
    pub const fn kind(&self) -> OperationKind {
        match self {
            Self::OpenAccount(_) => OperationKind::OpenAccount,
            Self::CloseAccount(_) => OperationKind::CloseAccount,
            Self::CreateAsset(_) => OperationKind::CreateAsset,
            Self::IssueAsset(_) => OperationKind::IssueAsset,
            Self::RedeemAsset(_) => OperationKind::RedeemAsset,
            Self::Transfer(_) => OperationKind::Transfer,
            Self::Settle(_) => OperationKind::Settle,
            Self::GrantMandate(_) => OperationKind::GrantMandate,
            Self::RevokeMandate(_) => OperationKind::RevokeMandate,
            Self::Notarise { .. } => OperationKind::Notarise,
            Self::FreezeHolding(_) => OperationKind::FreezeHolding,
            Self::UnfreezeHolding(_) => OperationKind::UnfreezeHolding,
        }
    }

    /// How many state keys the operation may touch, each mention counted: the most that its kind
    /// and its size allow, whoever sends it. Which keys they are is the ledger's to say.
    #[must_use]
    pub fn keys_count(&self) -> u32 {
        match self {
            Self::OpenAccount(_) | Self::CloseAccount(_) | Self::CreateAsset(_) => 1,
            // Asset, account, holding.
            Self::IssueAsset(_) | Self::FreezeHolding(_) | Self::UnfreezeHolding(_) => {
                3 + ACTOR_KEYS_COUNT
            }
            // Asset, account, holding, mandate.
            Self::RedeemAsset(_) => 4 + ACTOR_KEYS_COUNT,
            Self::Transfer(_) => LEG_KEYS_COUNT + ACTOR_KEYS_COUNT,
            Self::Settle(legs) => length_u32(legs) * LEG_KEYS_COUNT + ACTOR_KEYS_COUNT,
            // Asset, account, mandate.
            Self::GrantMandate(_) => 3,
            // Account, mandate.
            Self::RevokeMandate(_) => 2,
            Self::Notarise { .. } => 0,
        }
    }

    /// Appends the encoding. The result is canonical only if the values are; [`Operation::read`] is
    /// the judge.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        put(out, &OperationHeader { kind: U16::new(self.kind() as u16), size: U16::ZERO });
        let body = out.len();
        match *self {
            Self::OpenAccount(value) | Self::CloseAccount(value) => put(out, value),
            Self::CreateAsset(value) => put(out, value),
            Self::IssueAsset(value) | Self::RedeemAsset(value) => put(out, value),
            Self::Transfer(value) => put(out, value),
            Self::Settle(legs) => {
                put(
                    out,
                    &SettleHeader { legs_count: U16::new(saturate(legs.len())), reserved: [0; 2] },
                );
                put(out, legs);
            }
            Self::GrantMandate(value) => put(out, value),
            Self::RevokeMandate(value) => put(out, value),
            Self::Notarise { digest, memo } => {
                let memo_size = U16::new(saturate(memo.len()));
                put(out, &NotariseHeader { digest: *digest, memo_size, reserved: [0; 2] });
                put(out, memo);
            }
            Self::FreezeHolding(value) | Self::UnfreezeHolding(value) => put(out, value),
        }
        let size = saturate(out.len() - body).to_le_bytes();
        if let Some(field) = out.get_mut(start + 2..start + 4) {
            field.copy_from_slice(&size);
        }
    }
}

/// A length for a 16-bit field; one too large becomes the largest, which every reader refuses as
/// out of range.
fn saturate(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn check_asset(asset: &AssetCode) -> Result<(), DecodeError> {
    if asset.is_canonical() {
        Ok(())
    } else {
        Err(DecodeError::NotCanonical { field: "asset code" })
    }
}

fn check_amount(amount: U128) -> Result<(), DecodeError> {
    if amount.get() > 0 {
        Ok(())
    } else {
        Err(DecodeError::Range { field: "amount", found: 0, min: 1, max: u64::MAX })
    }
}

fn checked_create(body: &CreateAssetBody) -> Result<&CreateAssetBody, DecodeError> {
    check_asset(&body.asset)?;
    check_reserved("asset", &body.reserved)?;
    check_range("asset decimals", body.decimals.into(), 0, ASSET_DECIMALS_MAX.into())?;
    check_amount(body.supply_cap)?;
    Ok(body)
}

fn checked_supply(body: &SupplyBody) -> Result<&SupplyBody, DecodeError> {
    check_asset(&body.asset)?;
    check_amount(body.amount)?;
    Ok(body)
}

fn checked_leg(leg: &Leg) -> Result<&Leg, DecodeError> {
    check_asset(&leg.asset)?;
    check_amount(leg.amount)?;
    if leg.from == leg.to {
        return Err(DecodeError::NotCanonical { field: "leg from an account to itself" });
    }
    Ok(leg)
}

fn checked_grant(body: &GrantMandateBody) -> Result<&GrantMandateBody, DecodeError> {
    check_asset(&body.asset)?;
    check_amount(body.limit)?;
    Ok(body)
}

fn checked_revoke(body: &RevokeMandateBody) -> Result<&RevokeMandateBody, DecodeError> {
    check_asset(&body.asset)?;
    Ok(body)
}

fn checked_holding(body: &HoldingBody) -> Result<&HoldingBody, DecodeError> {
    check_asset(&body.asset)?;
    Ok(body)
}
