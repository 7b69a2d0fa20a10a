//! The phases before the load: accounts and assets, positions and cash, mandates.
//!
//! ```text
//! Open (operator) -> all committed -> Issue (operator) -> all committed
//!   -> Grant (each broker) -> all committed -> load
//! ```
//!
//! A phase needs what the one before did, so each waits for all receipts of the last.

use zerocopy::little_endian::{U64, U128};

use hufu_types::operation::{AccountBody, CreateAssetBody, GrantMandateBody, SupplyBody};
use hufu_types::{AssetCode, ChainId, Operation, TransactionBuilder};

use crate::Error;
use crate::cast::{Actor, Cast};
use crate::replay::{Holdings, sum};
use crate::sign::SignedChunk;

/// Decimals of the shares.
pub const SHARES_DECIMALS: u8 = 0;

/// Decimals of the cash: the file's prices are dollars x 10,000.
pub const CASH_DECIMALS: u8 = 4;

/// Operations of one set-up transaction: 512 issues are 29 KiB, far below the limit of a
/// transaction.
const OPERATIONS_COUNT_MAX: usize = 512;

/// Set-up nonces begin here, out of the way of any workload's.
const NONCE_BASE: u64 = 1 << 63;

/// The share that is traded.
#[must_use]
pub fn shares() -> AssetCode {
    asset(b"AAPL")
}

/// The money it is paid in.
#[must_use]
pub fn cash() -> AssetCode {
    asset(b"USD")
}

fn asset(text: &[u8]) -> AssetCode {
    let mut code = [0; 16];
    for (place, byte) in code.iter_mut().zip(text) {
        *place = *byte;
    }
    AssetCode(code)
}

/// One phase of the set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The brokers' accounts and the two assets. The clearing house only acts as an agent and needs
    /// no account.
    Open,
    /// Positions and cash to every broker.
    Issue,
    /// Every broker lets the clearing house debit both assets.
    Grant,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 3] = [Self::Open, Self::Issue, Self::Grant];

    /// The phase in words, for progress and errors.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Open => "opening accounts",
            Self::Issue => "issuing positions",
            Self::Grant => "granting mandates",
        }
    }
}

/// Signs all transactions of a phase. `issued` is what each broker gets.
///
/// # Errors
/// [`Error::Crypto`] when a signature could not be made.
pub fn sign_phase(
    phase: Phase,
    cast: &Cast,
    issued: &[Holdings],
    chain_id: ChainId,
    valid_until: u64,
    chunk: &mut SignedChunk,
) -> Result<(), Error> {
    assert!(issued.len() == cast.brokers().len(), "one row of holdings for each broker");
    chunk.clear();
    let first = NONCE_BASE + (phase as u64) * (1 << 32);
    let mut nonces = first..;
    let mut begin = |actor: &Actor| {
        let nonce = nonces.next().unwrap_or(u64::MAX);
        TransactionBuilder::new(chain_id, *actor.public_key(), nonce, valid_until)
    };
    match phase {
        Phase::Open => {
            let operator = cast.operator();
            chunk.push(create_assets(begin(operator), operator, issued), operator)?;
            for brokers in cast.brokers().chunks(OPERATIONS_COUNT_MAX) {
                let opened = brokers.iter().fold(begin(operator), |builder, broker| {
                    builder.operation(Operation::OpenAccount(&AccountBody {
                        address: *broker.address(),
                    }))
                });
                chunk.push(opened, operator)?;
            }
        }
        Phase::Issue => {
            let rows: Vec<_> = cast.brokers().iter().zip(issued).collect();
            for rows in rows.chunks(OPERATIONS_COUNT_MAX / 2) {
                let built = rows.iter().fold(begin(cast.operator()), issue);
                chunk.push(built, cast.operator())?;
            }
        }
        Phase::Grant => {
            let agent = cast.clearing_house();
            for (broker, issued) in cast.brokers().iter().zip(issued) {
                chunk.push(grant(begin(broker), agent, issued), broker)?;
            }
        }
    }
    Ok(())
}

fn create_assets(
    builder: TransactionBuilder,
    operator: &Actor,
    issued: &[Holdings],
) -> TransactionBuilder {
    let (caps, authority) = (sum(issued), *operator.address());
    builder
        .operation(Operation::CreateAsset(&CreateAssetBody::new(
            shares(),
            authority,
            SHARES_DECIMALS,
            caps.shares,
        )))
        .operation(Operation::CreateAsset(&CreateAssetBody::new(
            cash(),
            authority,
            CASH_DECIMALS,
            caps.cash,
        )))
}

fn issue(
    builder: TransactionBuilder,
    (broker, issued): &(&Actor, &Holdings),
) -> TransactionBuilder {
    let body =
        |asset, amount| SupplyBody { asset, account: *broker.address(), amount: U128::new(amount) };
    builder
        .operation(Operation::IssueAsset(&body(shares(), issued.shares)))
        .operation(Operation::IssueAsset(&body(cash(), issued.cash)))
}

/// The mandates cover exactly what the broker was issued, which is all it will give away in the
/// run.
fn grant(builder: TransactionBuilder, agent: &Actor, issued: &Holdings) -> TransactionBuilder {
    let body = |asset, limit| GrantMandateBody {
        agent: *agent.address(),
        asset,
        limit: U128::new(limit),
        expires_at: U64::new(u64::MAX),
    };
    builder
        .operation(Operation::GrantMandate(&body(shares(), issued.shares)))
        .operation(Operation::GrantMandate(&body(cash(), issued.cash)))
}

#[cfg(test)]
mod tests {
    use hufu_types::TransactionView;

    use super::*;

    fn sign(phase: Phase, accounts: u16) -> SignedChunk {
        let cast = Cast::derive(&[1; 32], accounts).unwrap();
        let issued = vec![Holdings { shares: 5, cash: 7 }; usize::from(accounts)];
        let mut chunk = SignedChunk::new();
        sign_phase(phase, &cast, &issued, ChainId::ZERO, 600, &mut chunk).unwrap();
        chunk
    }

    fn operations_count(chunk: &SignedChunk) -> usize {
        chunk
            .iter()
            .map(|signed| {
                let view = TransactionView::parse(signed.bytes).unwrap();
                assert_eq!(view.id(), signed.id);
                usize::from(view.operations_count())
            })
            .sum()
    }

    #[test]
    fn phases_do_their_part_for_every_broker_in_canonical_transactions() {
        for (accounts, count, issues) in [(2_u16, 2, 1), (64, 2, 1), (600, 3, 3)] {
            let brokers = usize::from(accounts);
            let open = sign(Phase::Open, accounts);
            assert_eq!((open.count(), operations_count(&open)), (count, brokers + 2));
            let issue = sign(Phase::Issue, accounts);
            assert_eq!((issue.count(), operations_count(&issue)), (issues, 2 * brokers));
            let grant = sign(Phase::Grant, accounts);
            assert_eq!((grant.count(), operations_count(&grant)), (brokers, 2 * brokers));
        }
    }

    #[test]
    fn no_two_set_up_transactions_share_an_id() {
        let mut ids: Vec<_> = Phase::ALL
            .iter()
            .flat_map(|phase| sign(*phase, 64).iter().map(|signed| signed.id).collect::<Vec<_>>())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn asset_codes_are_canonical() {
        assert_eq!(AssetCode::new("AAPL"), Some(shares()));
        assert_eq!(AssetCode::new("USD"), Some(cash()));
    }
}
