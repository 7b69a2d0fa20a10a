#![doc = include_str!("README.md")]

pub mod backend;
#[cfg(test)]
mod numbers;
pub mod secret;
pub mod sm2;
pub mod sm3;
pub mod sm4;

pub use backend::Backend;
