#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

mod byzantine;
mod clients;
mod faults;
mod hunt;
mod ledger;
mod logs;
mod material;
mod network;
mod node;
mod oracles;
mod random;
mod run;
mod trace;
mod wire;

pub use faults::Profile;
pub use hunt::{Summary, hunt};
pub use material::{Material, MaterialError};
pub use oracles::Failure;
pub use run::{Report, run_seed};
pub use trace::Trace;
