#![doc = include_str!("README.md")]

mod admin;
mod answer;
mod attributes;
mod config;
mod entry;
mod faults;
pub mod imitations;
mod keys;
mod mechanisms;
mod module;
mod object;
mod session;
mod slot;
mod store;

pub use admin::{Admin, AdminError, KeyKind};
pub use config::{Config, ConfigError, ENVIRONMENT};
pub use faults::{Fault, Faults, Garbage};
pub use module::OpenError;
pub use store::StoreError;
