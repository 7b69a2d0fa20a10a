#![doc = include_str!("README.md")]

pub mod backend;
pub mod sm2;
pub mod sm3;

pub use backend::Backend;
