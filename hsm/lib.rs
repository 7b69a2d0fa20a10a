#![doc = include_str!("README.md")]

pub mod agent;
pub mod card;
pub mod cloned;
pub mod config;
pub mod custody;
pub mod error;
pub mod forms;
pub mod group;
pub mod in_process;
pub mod keystore;
pub mod pin;
pub mod pkcs11;
pub mod pool;
pub mod probe;
pub mod profile;
pub mod uri;

pub use error::{Error, ErrorClass, Rv};
pub use keystore::{CardIdentity, KeyHandle, KeyReference, Keystore, Usage};
pub use profile::Profile;
