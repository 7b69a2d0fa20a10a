#![doc = include_str!("README.md")]

pub mod agent;
pub mod error;
pub mod keystore;

pub use error::{Error, ErrorClass, Rv};
pub use keystore::{CardIdentity, KeyHandle, KeyReference, Keystore, Usage};
