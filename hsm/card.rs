//! One token with its profile: what the layers above ask of a card.

pub mod keys;
pub mod operations;

pub use keys::{FoundKey, KeyClass, KeyName};
