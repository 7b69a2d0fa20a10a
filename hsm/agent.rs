//! A vendor's library in a process of its own, behind the same seam.
//!
//! ```text
//! node                                                     agent, one process for each library
//! AgentClient (threads)  --.                            .-- worker --+
//!                           +--> ring in shared memory --+-- worker --+--> Keystore --> library
//! Submitter (sign tile)  --'                            '-- worker --+
//! Supervisor  <------- socket: hello, stop; end; heartbeat -------> main thread
//! ```
//!
//! A crash or a hang of foreign code ends the agent and nothing else. The node trusts the agent as
//! far as a socket: see `ring` for what is checked and `shared` for what is verified again.
//!
//! - [`AgentConfig`]: what is run, and the limits. [`Agent`] or [`supervise`] start it.
//! - [`AgentClient`] is the [`crate::Keystore`]; [`Submitter`] is for the tile that must not wait.
//! - [`Endpoint`] is the agent's side, [`sandbox`] what it gives up before it loads the library.

mod client;
mod config;
pub(crate) mod errors;
mod memory;
mod os;
mod pace;
mod peer;
mod protocol;
mod ring;
pub mod sandbox;
mod server;
mod shared;
mod status;
mod submitter;
mod supervisor;

pub use client::AgentClient;
pub use config::{AgentConfig, AgentSource, SPIN_SHORT};
pub use server::{Endpoint, Listener, ServeEnd, WORKERS_COUNT_MAX};
pub(crate) use shared::Event;
pub use shared::KEYS_COUNT_MAX;
pub use status::{AgentState, AgentStatus};
pub use submitter::{Full, Submitter};
pub use supervisor::{Agent, Supervisor, supervise};

#[cfg(test)]
mod tests;
