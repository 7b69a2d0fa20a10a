//! Operations from command-line flags.

use std::path::PathBuf;

use clap::Args;
use hufu_crypto::Sm3;
use hufu_types::limits::ASSET_DECIMALS_MAX;
use hufu_types::operation::{
    AccountBody, CreateAssetBody, GrantMandateBody, HoldingBody, Leg, RevokeMandateBody, SupplyBody,
};
use hufu_types::{Address, AssetCode, Digest, PublicKey};

use super::super::CliError;
use super::super::genesis::parse_address;
use super::operation::{OwnedOperation, leg};

#[derive(Debug, Args)]
pub(crate) struct Account {
    /// The account.
    #[arg(long, value_parser = parse_address)]
    address: Address,
}

impl Account {
    pub(super) fn open(self) -> OwnedOperation {
        OwnedOperation::OpenAccount(AccountBody { address: self.address })
    }

    pub(super) fn close(self) -> OwnedOperation {
        OwnedOperation::CloseAccount(AccountBody { address: self.address })
    }
}

#[derive(Debug, Args)]
pub(crate) struct CreateAsset {
    /// Code of the new asset: 1 to 16 characters of A-Z, 0-9, "." and "-".
    #[arg(long, value_parser = parse_asset)]
    asset: AssetCode,
    /// Decimal places of one unit.
    #[arg(long, value_parser = clap::value_parser!(u8).range(..=i64::from(ASSET_DECIMALS_MAX)))]
    decimals: u8,
    /// Most that may be in circulation at once, in the smallest part.
    #[arg(long, value_parser = parse_amount)]
    supply_cap: u128,
    /// Who may issue, freeze and unfreeze; the sender if left out.
    #[arg(long, value_parser = parse_address)]
    authority: Option<Address>,
}

impl CreateAsset {
    pub(super) fn operation(self, own: Address) -> OwnedOperation {
        let authority = self.authority.unwrap_or(own);
        let body = CreateAssetBody::new(self.asset, authority, self.decimals, self.supply_cap);
        OwnedOperation::CreateAsset(body)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Supply {
    /// The asset.
    #[arg(long, value_parser = parse_asset)]
    asset: AssetCode,
    /// In the asset's smallest part.
    #[arg(long, value_parser = parse_amount)]
    amount: u128,
    /// Whose holding grows or shrinks; the sender's if left out.
    #[arg(long, value_parser = parse_address)]
    account: Option<Address>,
}

impl Supply {
    pub(super) fn issue(self, own: Address) -> OwnedOperation {
        OwnedOperation::IssueAsset(self.body(own))
    }

    pub(super) fn redeem(self, own: Address) -> OwnedOperation {
        OwnedOperation::RedeemAsset(self.body(own))
    }

    fn body(self, own: Address) -> SupplyBody {
        let account = self.account.unwrap_or(own);
        SupplyBody { asset: self.asset, account, amount: self.amount.into() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Transfer {
    /// The asset.
    #[arg(long, value_parser = parse_asset)]
    asset: AssetCode,
    /// In the asset's smallest part.
    #[arg(long, value_parser = parse_amount)]
    amount: u128,
    /// Who receives.
    #[arg(long, value_parser = parse_address)]
    to: Address,
    /// Who pays: the sender if left out, else someone whose mandate the sender has.
    #[arg(long, value_parser = parse_address)]
    from: Option<Address>,
}

impl Transfer {
    pub(super) fn operation(self, own: Address) -> OwnedOperation {
        let from = self.from.unwrap_or(own);
        OwnedOperation::Transfer(leg(self.asset, from, self.to, self.amount))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Settle {
    /// One movement as ASSET:FROM:TO:AMOUNT; once for each.
    #[arg(long = "leg", required = true, value_parser = parse_leg)]
    legs: Vec<Leg>,
}

impl Settle {
    pub(super) fn operation(self) -> OwnedOperation {
        OwnedOperation::Settle(self.legs)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// Who may debit.
    #[arg(long, value_parser = parse_address)]
    agent: Address,
    /// Which asset.
    #[arg(long, value_parser = parse_asset)]
    asset: AssetCode,
    /// Total that may be debited, in the asset's smallest part.
    #[arg(long, value_parser = parse_amount)]
    limit: u128,
    /// Last height at which the mandate may be used.
    #[arg(long)]
    expires_at: u64,
}

impl Grant {
    pub(super) fn operation(self) -> OwnedOperation {
        OwnedOperation::GrantMandate(GrantMandateBody {
            agent: self.agent,
            asset: self.asset,
            limit: self.limit.into(),
            expires_at: self.expires_at.into(),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Who may no longer debit.
    #[arg(long, value_parser = parse_address)]
    agent: Address,
    /// Which asset.
    #[arg(long, value_parser = parse_asset)]
    asset: AssetCode,
}

impl Revoke {
    pub(super) fn operation(self) -> OwnedOperation {
        OwnedOperation::RevokeMandate(RevokeMandateBody { agent: self.agent, asset: self.asset })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Notarise {
    /// SM3 digest to put on record.
    #[arg(
        long,
        value_parser = parse_digest,
        required_unless_present = "document",
        conflicts_with = "document"
    )]
    digest: Option<Digest>,
    /// Document whose SM3 digest to put on record; the document itself stays here.
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Up to 256 bytes that everyone can read.
    #[arg(long, default_value = "")]
    memo: String,
}

impl Notarise {
    pub(super) fn operation(self) -> Result<OwnedOperation, CliError> {
        let digest = match (self.digest, &self.document) {
            (Some(digest), _) => digest,
            (None, Some(path)) => digest_of(path)
                .map_err(|cause| CliError::file(cause, path, "name a file that can be read"))?,
            (None, None) => {
                return Err(CliError::usage("nothing to notarise", "give --digest or --document"));
            }
        };
        Ok(OwnedOperation::Notarise { digest, memo: self.memo.into_bytes() })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Holding {
    /// The asset; the sender must be its authority.
    #[arg(long, value_parser = parse_asset)]
    asset: AssetCode,
    /// Whose holding.
    #[arg(long, value_parser = parse_address)]
    account: Address,
}

impl Holding {
    pub(super) fn freeze(self) -> OwnedOperation {
        OwnedOperation::FreezeHolding(self.body())
    }

    pub(super) fn unfreeze(self) -> OwnedOperation {
        OwnedOperation::UnfreezeHolding(self.body())
    }

    const fn body(self) -> HoldingBody {
        HoldingBody { asset: self.asset, account: self.account }
    }
}

fn digest_of(path: &PathBuf) -> std::io::Result<Digest> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sm3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

fn parse_asset(text: &str) -> Result<AssetCode, String> {
    AssetCode::new(text)
        .ok_or_else(|| "an asset is 1 to 16 characters of A-Z, 0-9, \".\" and \"-\"".to_owned())
}

fn parse_amount(text: &str) -> Result<u128, String> {
    let wrong = || "an amount is a whole number of at least 1 below 2^128".to_owned();
    text.parse().ok().filter(|amount| *amount > 0).ok_or_else(wrong)
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    Digest::from_hex(text).ok_or_else(|| "a digest is 64 hexadecimal digits".to_owned())
}

pub(super) fn parse_public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_hex(text).ok_or_else(|| "a public key is 128 hexadecimal digits".to_owned())
}

fn parse_leg(text: &str) -> Result<Leg, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [asset, from, to, amount] = parts.as_slice() else {
        return Err("a leg is ASSET:FROM:TO:AMOUNT".to_owned());
    };
    let (from, to) = (parse_address(from)?, parse_address(to)?);
    if from == to {
        return Err("a leg joins two different accounts".to_owned());
    }
    Ok(leg(parse_asset(asset)?, from, to, parse_amount(amount)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legs_are_read_strictly() {
        let (a, b) = (Address([1; 20]), Address([2; 20]));
        let good = parse_leg(&format!("USD:{a}:{b}:5")).unwrap();
        assert_eq!((good.from, good.to, good.amount.get()), (a, b, 5));
        for bad in [
            String::new(),
            format!("USD:{a}:{b}"),
            format!("USD:{a}:{b}:5:6"),
            format!("USD:{a}:{a}:5"),
            format!("usd:{a}:{b}:5"),
            format!("USD:{a}:{b}:0"),
            format!("USD:{a}:{b}:-1"),
        ] {
            assert!(parse_leg(&bad).is_err(), "{bad}");
        }
    }
}
