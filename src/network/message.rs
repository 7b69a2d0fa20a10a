//! The bodies of frames: what each message means, and its one encoding.
//!
//! ```text
//! Frame --decode--> ClientMessage (server side) / ServerMessage (client side) --encode--> Frame
//! ```
//! Views borrow from the frame; small answers are owned. Decoding is strict: reserved bytes are
//! zero, lengths are exact, lists that have an order are in it. `PROTOCOL.md` is the same as text.

pub mod answer;
pub mod event;
pub mod request;
pub mod submit;
#[cfg(test)]
mod tests;

use hufu_types::Strength;
use hufu_types::codec::{DecodeError, Reader, check_range};

use crate::frame::{self, Frame, FrameKind};
use answer::{AccountInfo, BlockInfo, ErrorInfo, StatusInfo, TransactionInfo, Welcome};
use event::{Credit, Cursor, EventsView, Subscribe, SubscriptionEnd, Unsubscribe};
use request::{Hello, QueryAccount, QueryBlock, QueryTransaction, Wait};
use submit::{ReceiptsView, StatusEntry, SubmitView, check_statuses};

/// Declares a fixed layout with the traits that reading in place needs.
macro_rules! layout {
    ($(#[$doc:meta])* $visibility:vis struct $name:ident {
        $($(#[$field_doc:meta])* $field_visibility:vis $field:ident: $kind:ty),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(
            Clone,
            Copy,
            Debug,
            PartialEq,
            Eq,
            zerocopy::FromBytes,
            zerocopy::IntoBytes,
            zerocopy::KnownLayout,
            zerocopy::Immutable,
            zerocopy::Unaligned,
        )]
        #[repr(C)]
        $visibility struct $name {
            $($(#[$field_doc])* $field_visibility $field: $kind,)*
        }
    };
}
pub(crate) use layout;

/// What a client waits for after its transaction was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum WaitFor {
    /// Nothing: the status is the last word.
    Nothing = 0,
    /// The receipt once the transaction is ordered, durable and executed here.
    Committed = 1,
    /// The receipt once its result is proven by a later header.
    Certified = 2,
}

impl WaitFor {
    /// The strength of the receipt that ends the wait.
    #[must_use]
    pub const fn strength(self) -> Option<Strength> {
        match self {
            Self::Nothing => None,
            Self::Committed => Some(Strength::Committed),
            Self::Certified => Some(Strength::Certified),
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Nothing),
            1 => Some(Self::Committed),
            2 => Some(Self::Certified),
            _ => None,
        }
    }
}

fn read_strength(number: u8) -> Result<Strength, DecodeError> {
    match number {
        1 => Ok(Strength::Committed),
        2 => Ok(Strength::Certified),
        _ => Err(range("strength", number, 1, 2)),
    }
}

fn read_flag(field: &'static str, number: u8) -> Result<bool, DecodeError> {
    check_range(field, number.into(), 0, 1)?;
    Ok(number == 1)
}

fn range(field: &'static str, found: u8, min: u64, max: u64) -> DecodeError {
    DecodeError::Range { field, found: found.into(), min, max }
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Opens the conversation.
    Hello(Hello),
    /// Hands in transactions.
    Submit(SubmitView<'a>),
    /// Waits for a receipt.
    Wait(Wait),
    /// Asks for the node's state.
    QueryStatus,
    /// Asks for an account.
    QueryAccount(QueryAccount),
    /// Asks for a block.
    QueryBlock(QueryBlock),
    /// Asks for a transaction.
    QueryTransaction(QueryTransaction),
    /// Asks for events.
    Subscribe(Subscribe),
    /// Grants credit to a subscription.
    Credit(Credit),
    /// Ends a subscription.
    Unsubscribe(Unsubscribe),
    /// Asks for a sign of life.
    Ping,
}

impl<'a> ClientMessage<'a> {
    /// Reads the body of a frame that [`frame::split`] has accepted from a client.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame.body);
        let message = match frame.kind {
            FrameKind::Hello => Self::Hello(Hello::read(&mut reader)?),
            FrameKind::Submit => return SubmitView::parse(frame.body).map(Self::Submit),
            FrameKind::Wait => Self::Wait(Wait::read(&mut reader)?),
            FrameKind::QueryStatus => Self::QueryStatus,
            FrameKind::QueryAccount => Self::QueryAccount(QueryAccount::read(&mut reader)?),
            FrameKind::QueryBlock => Self::QueryBlock(QueryBlock::read(&mut reader)?),
            FrameKind::QueryTransaction => {
                Self::QueryTransaction(QueryTransaction::read(&mut reader)?)
            }
            FrameKind::Subscribe => Self::Subscribe(Subscribe::read(&mut reader)?),
            FrameKind::Credit => Self::Credit(Credit::read(&mut reader)?),
            FrameKind::Unsubscribe => Self::Unsubscribe(Unsubscribe::read(&mut reader)?),
            FrameKind::Ping => Self::Ping,
            other => return Err(wrong_kind(other, FrameKind::Hello)),
        };
        reader.finish()?;
        Ok(message)
    }

    /// The kind of frame that carries the message.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::Submit(_) => FrameKind::Submit,
            Self::Wait(_) => FrameKind::Wait,
            Self::QueryStatus => FrameKind::QueryStatus,
            Self::QueryAccount(_) => FrameKind::QueryAccount,
            Self::QueryBlock(_) => FrameKind::QueryBlock,
            Self::QueryTransaction(_) => FrameKind::QueryTransaction,
            Self::Subscribe(_) => FrameKind::Subscribe,
            Self::Credit(_) => FrameKind::Credit,
            Self::Unsubscribe(_) => FrameKind::Unsubscribe,
            Self::Ping => FrameKind::Ping,
        }
    }

    /// Appends the whole frame.
    pub fn encode(&self, request: u64, out: &mut Vec<u8>) {
        frame::write(out, self.kind(), request, |out| match self {
            Self::Hello(body) => body.write(out),
            Self::Submit(view) => out.extend_from_slice(view.bytes()),
            Self::Wait(body) => body.write(out),
            Self::QueryAccount(body) => body.write(out),
            Self::QueryBlock(body) => body.write(out),
            Self::QueryTransaction(body) => body.write(out),
            Self::Subscribe(body) => body.write(out),
            Self::Credit(body) => body.write(out),
            Self::Unsubscribe(body) => body.write(out),
            Self::QueryStatus | Self::Ping => {}
        });
    }
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// Answers the hello.
    Welcome(Welcome),
    /// Transactions taken or refused.
    Statuses(&'a [StatusEntry]),
    /// Receipts.
    Receipts(ReceiptsView<'a>),
    /// The node's state.
    Status(StatusInfo),
    /// An account.
    Account(AccountInfo),
    /// A block.
    Block(BlockInfo),
    /// A transaction with its receipt.
    Transaction(TransactionInfo),
    /// Where a subscription begins.
    Subscribed(Cursor),
    /// Events.
    Events(EventsView<'a>),
    /// A subscription has ended.
    SubscriptionEnded(SubscriptionEnd),
    /// A sign of life.
    Pong,
    /// Something was wrong.
    Error(ErrorInfo),
}

impl<'a> ServerMessage<'a> {
    /// Reads the body of a frame that [`frame::split`] has accepted from a server.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame.body);
        let message = match frame.kind {
            FrameKind::Welcome => Self::Welcome(Welcome::read(&mut reader)?),
            FrameKind::Statuses => return check_statuses(frame.body).map(Self::Statuses),
            FrameKind::Receipts => return ReceiptsView::parse(frame.body).map(Self::Receipts),
            FrameKind::Status => Self::Status(StatusInfo::read(&mut reader)?),
            FrameKind::Account => Self::Account(AccountInfo::read(&mut reader)?),
            FrameKind::Block => Self::Block(BlockInfo::read(&mut reader)?),
            FrameKind::Transaction => Self::Transaction(TransactionInfo::read(&mut reader)?),
            FrameKind::Subscribed => Self::Subscribed(Cursor::read(&mut reader)?),
            FrameKind::Events => return EventsView::parse(frame.body).map(Self::Events),
            FrameKind::SubscriptionEnded => {
                Self::SubscriptionEnded(SubscriptionEnd::read(&mut reader)?)
            }
            FrameKind::Pong => Self::Pong,
            FrameKind::Error => Self::Error(ErrorInfo::read(&mut reader)?),
            other => return Err(wrong_kind(other, FrameKind::Welcome)),
        };
        reader.finish()?;
        Ok(message)
    }

    /// The kind of frame that carries the message.
    #[must_use]
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Welcome(_) => FrameKind::Welcome,
            Self::Statuses(_) => FrameKind::Statuses,
            Self::Receipts(_) => FrameKind::Receipts,
            Self::Status(_) => FrameKind::Status,
            Self::Account(_) => FrameKind::Account,
            Self::Block(_) => FrameKind::Block,
            Self::Transaction(_) => FrameKind::Transaction,
            Self::Subscribed(_) => FrameKind::Subscribed,
            Self::Events(_) => FrameKind::Events,
            Self::SubscriptionEnded(_) => FrameKind::SubscriptionEnded,
            Self::Pong => FrameKind::Pong,
            Self::Error(_) => FrameKind::Error,
        }
    }

    /// Appends the whole frame.
    pub fn encode(&self, request: u64, out: &mut Vec<u8>) {
        frame::write(out, self.kind(), request, |out| match self {
            Self::Welcome(body) => body.write(out),
            Self::Statuses(entries) => hufu_types::codec::put(out, *entries),
            Self::Receipts(view) => out.extend_from_slice(view.bytes()),
            Self::Status(body) => body.write(out),
            Self::Account(body) => body.write(out),
            Self::Block(body) => body.write(out),
            Self::Transaction(body) => body.write(out),
            Self::Subscribed(body) => body.write(out),
            Self::Events(view) => out.extend_from_slice(view.bytes()),
            Self::SubscriptionEnded(body) => body.write(out),
            Self::Pong => {}
            Self::Error(body) => body.write(out),
        });
    }
}

const fn wrong_kind(found: FrameKind, expected: FrameKind) -> DecodeError {
    DecodeError::Kind { found: found.number(), expected: expected.number() }
}
