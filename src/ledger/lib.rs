#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod account;
pub mod audit;
pub mod bucket;
pub mod changes;
pub mod check;
pub mod corrupt;
mod declare;
mod execute;
pub mod expiry;
pub mod key;
pub mod lookup;
pub mod outcome;
pub mod plan;
pub mod proof;
pub mod query;
pub mod root;
pub mod update;
pub mod value;

#[cfg(test)]
mod tests;

pub use account::{AccountEntries, AccountProof, AccountProofError, ProvenAccount};
pub use audit::{AssetTotals, AuditError, Totals, audit};
pub use bucket::Place;
pub use changes::StateChanges;
pub use check::{TreeCheck, TreeCounts};
pub use corrupt::Corrupt;
pub use expiry::{Expired, ExpiryChanges, ExpiryKey};
pub use key::{KeyBytes, StateKey};
pub use lookup::Lookup;
pub use outcome::{BlockOutcome, Touched, Write};
pub use plan::{Context, GroupsOutcome, Loaded, Plan, Rights};
pub use proof::{Prover, StateProof, StateProofError};
pub use query::{AccountQuery, MandateQuery};
pub use root::{Applied, StateTree};
pub use update::StateUpdate;
pub use value::{Account, Asset, Holding, Mandate, Nonce, StateValue, ValueBytes};
