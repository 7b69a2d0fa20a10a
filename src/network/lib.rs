#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod channel;
pub mod client;
pub mod codes;
pub mod frame;
pub mod limits;
pub mod message;
pub mod peer;
#[cfg(test)]
mod samples;
pub mod session;

pub use channel::{Channel, ChannelError, ChannelState, PlainChannel};
pub use client::{
    Client, ClientConfig, ClientError, ClientReceiver, ClientSender, Incoming, TransactionResult,
};
pub use codes::ErrorCode;
pub use frame::{FrameError, FrameHeader, FrameKind};
pub use message::event::{Cursor, Event, EventContent, Filter, SubscribeStart};
pub use message::{ClientMessage, ServerMessage, WaitFor};
pub use peer::{LinkConfig, LinkEvent, LinkIdentity, LinkSetup, PeerCode, PeerLink};
pub use session::{
    Delivery, Push, Request, ServerSession, SessionConfig, SessionCounters, Submission,
    SubmitRequest, Ticket,
};
