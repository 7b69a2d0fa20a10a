#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod context;
pub mod durable;
pub mod engine;
pub mod guard;
pub mod header;
pub mod message;
pub mod replica;
pub mod validators;
pub mod vote_log;

pub use durable::{Durable, LogTicket, SignTicket};
pub use engine::{Config, Decision, Effect, Engine, Error, Input, Refusal};
pub use guard::{Guard, SignIntent};
pub use message::{Message, VoteBundle};
pub use validators::Validators;
pub use vote_log::{BlockVerdict, Evidence, Record, RecoveredLog};
