#![doc = include_str!("README.md")]

pub mod error;
pub mod keystore;
pub mod pin;
pub mod pkcs11;
pub mod pool;

pub use error::{Error, ErrorClass, Rv};
pub use keystore::{CardIdentity, KeyHandle, KeyReference, Keystore, Usage};
