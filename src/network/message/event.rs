//! Events as a stream from a cursor: subscriptions, credit, and the events themselves.
//!
//! A cursor names a place in the one order of all events of a chain. Events of block h stand at (h,
//! 0) to (h, n): its n transactions, then the block itself. Whoever resumes at the `next` of the
//! last frame it has seen misses nothing and sees nothing twice.

use hufu_types::codec::{DecodeError, Reader, check_range, check_reserved, index, put};
use hufu_types::{Address, BlockHeader, Kind, Operation, Receipt, TransactionView};
use zerocopy::little_endian::{U16, U32, U64};

use super::{layout, range};
use crate::codes::ErrorCode;
use crate::limits::{CREDITS_MAX, EVENT_BODY_SIZE_MAX};

/// A place in the order of all events of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// Height of the block.
    pub height: u64,
    /// Place among the events of the block, from 0.
    pub index: u32,
}

layout!(
    struct CursorBody {
        height: U64,
        index: U32,
        reserved: [u8; 4],
    }
);

impl Cursor {
    /// The place right behind the event at this one, in the same block.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { height: self.height, index: self.index.saturating_add(1) }
    }

    /// The first place of the block at `height`.
    #[must_use]
    pub const fn start_of(height: u64) -> Self {
        Self { height, index: 0 }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::from_body(reader.fixed()?)
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        put(out, &self.body());
    }

    fn from_body(body: &CursorBody) -> Result<Self, DecodeError> {
        check_reserved("cursor", &body.reserved)?;
        Ok(Self { height: body.height.get(), index: body.index.get() })
    }

    const fn body(self) -> CursorBody {
        let (height, index) = (U64::new(self.height), U32::new(self.index));
        CursorBody { height, index, reserved: [0; 4] }
    }
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscribeStart {
    /// With the next block that is executed.
    Now,
    /// At a cursor.
    At(Cursor),
}

/// Which events a subscription wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All transactions and all blocks.
    All,
    /// Transactions that this account sent or that name it; no blocks.
    Account(Address),
}

impl Filter {
    /// Whether the transaction's event is wanted. `sender` is the sender's address, which whoever
    /// calls has at hand.
    #[must_use]
    pub fn wants_transaction(&self, sender: Address, transaction: &TransactionView<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Account(account) => {
                sender == *account
                    || transaction.operations().any(|operation| names(&operation, account))
            }
        }
    }

    /// Whether the events of blocks are wanted.
    #[must_use]
    pub const fn wants_blocks(&self) -> bool {
        matches!(self, Self::All)
    }
}

fn names(operation: &Operation<'_>, account: &Address) -> bool {
    match operation {
        Operation::OpenAccount(body) | Operation::CloseAccount(body) => body.address == *account,
        Operation::CreateAsset(body) => body.authority == *account,
        Operation::IssueAsset(body) | Operation::RedeemAsset(body) => body.account == *account,
        Operation::Transfer(leg) => leg.from == *account || leg.to == *account,
        Operation::Settle(legs) => {
            legs.iter().any(|leg| leg.from == *account || leg.to == *account)
        }
        Operation::GrantMandate(body) => body.agent == *account,
        Operation::RevokeMandate(body) => body.agent == *account,
        Operation::Notarise { .. } => false,
        Operation::FreezeHolding(body) | Operation::UnfreezeHolding(body) => {
            body.account == *account
        }
    }
}

layout!(
    struct SubscribeBody {
        start: u8,
        filter: u8,
        reserved: [u8; 2],
        credits: U32,
        cursor: CursorBody,
        account: Address,
        reserved_account: [u8; 4],
    }
);

/// Asks for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Where to begin.
    pub start: SubscribeStart,
    /// Which events.
    pub filter: Filter,
    /// Events that may be sent before more credit is granted.
    pub credits: u32,
}

impl Subscribe {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &SubscribeBody = reader.fixed()?;
        check_reserved("subscription", &body.reserved)?;
        check_reserved("subscription account", &body.reserved_account)?;
        check_range("subscription credits", body.credits.get().into(), 0, CREDITS_MAX.into())?;
        let cursor = Cursor::from_body(&body.cursor)?;
        let start = match body.start {
            0 if cursor == Cursor::default() => SubscribeStart::Now,
            0 => return Err(DecodeError::NotCanonical { field: "subscription from now" }),
            1 => SubscribeStart::At(cursor),
            other => return Err(range("subscription start", other, 0, 1)),
        };
        let filter = match body.filter {
            0 if body.account == Address::ZERO => Filter::All,
            0 => return Err(DecodeError::NotCanonical { field: "subscription to all" }),
            1 => Filter::Account(body.account),
            other => return Err(range("subscription filter", other, 0, 1)),
        };
        Ok(Self { start, filter, credits: body.credits.get() })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (start, cursor) = match self.start {
            SubscribeStart::Now => (0, Cursor::default()),
            SubscribeStart::At(cursor) => (1, cursor),
        };
        let (filter, account) = match self.filter {
            Filter::All => (0, Address::ZERO),
            Filter::Account(account) => (1, account),
        };
        let body = SubscribeBody {
            start,
            filter,
            reserved: [0; 2],
            credits: U32::new(self.credits),
            cursor: cursor.body(),
            account,
            reserved_account: [0; 4],
        };
        put(out, &body);
    }
}

layout!(
    struct CreditBody {
        subscription: U64,
        events: U32,
        reserved: [u8; 4],
    }
);

/// Grants credit for more events. Has no answer unless it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credit {
    /// Request id of the subscription.
    pub subscription: u64,
    /// How many more events may be sent, at least 1.
    pub events: u32,
}

impl Credit {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &CreditBody = reader.fixed()?;
        check_reserved("credit", &body.reserved)?;
        check_range("credit events", body.events.get().into(), 1, CREDITS_MAX.into())?;
        Ok(Self { subscription: body.subscription.get(), events: body.events.get() })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (subscription, events) = (U64::new(self.subscription), U32::new(self.events));
        put(out, &CreditBody { subscription, events, reserved: [0; 4] });
    }
}

/// Ends a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Request id of the subscription.
    pub subscription: u64,
}

impl Unsubscribe {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { subscription: reader.fixed::<U64>()?.get() })
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        put(out, &U64::new(self.subscription));
    }
}

layout!(
    struct SubscriptionEndBody {
        code: U16,
        reserved: [u8; 6],
        next: CursorBody,
    }
);

/// Says that a subscription has ended and where another may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionEnd {
    /// Why; `None` when the client asked for it.
    pub reason: Option<ErrorCode>,
    /// Where another subscription goes on without loss or duplicate.
    pub next: Cursor,
}

impl SubscriptionEnd {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let body: &SubscriptionEndBody = reader.fixed()?;
        check_reserved("end of subscription", &body.reserved)?;
        let reason = match body.code.get() {
            0 => None,
            number => Some(super::answer::read_code(number)?),
        };
        Ok(Self { reason, next: Cursor::from_body(&body.next)? })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let code = U16::new(self.reason.map_or(0, ErrorCode::number));
        put(out, &SubscriptionEndBody { code, reserved: [0; 6], next: self.next.body() });
    }
}

layout!(
    struct EventHeader {
        cursor: CursorBody,
        kind: U16,
        reserved: [u8; 2],
        body_size: U32,
    }
);

layout!(
    struct TransactionEventBody {
        sender: Address,
        receipt: Receipt,
    }
);

/// Something that happened on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place in the order of all events.
    pub cursor: Cursor,
    /// What happened.
    pub content: EventContent,
}

/// What happened.
#[allow(clippy::large_enum_variant, reason = "events live on the stack of whoever reads one")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventContent {
    /// A transaction was executed.
    Transaction {
        /// Who sent it.
        sender: Address,
        /// What became of it.
        receipt: Receipt,
    },
    /// A block was executed; the last event of its height.
    Block(BlockHeader),
}

impl EventContent {
    const fn kind(&self) -> u16 {
        match self {
            Self::Transaction { .. } => 1,
            Self::Block(_) => 2,
        }
    }

    fn read(kind: u16, body: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match kind {
            1 => {
                let body: &TransactionEventBody = body.fixed()?;
                body.receipt.check()?;
                Ok(Self::Transaction { sender: body.sender, receipt: body.receipt })
            }
            2 => {
                let header: &BlockHeader = body.fixed()?;
                header.prefix.expect(Kind::BlockHeader)?;
                Ok(Self::Block(*header))
            }
            _ => {
                let found = kind.into();
                Err(DecodeError::Range { field: "event kind", found, min: 1, max: 2 })
            }
        }
    }
}

impl Event {
    /// Bytes of the largest event.
    pub(crate) const SIZE_MAX: usize = size_of::<EventHeader>() + size_of::<BlockHeader>();

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header: &EventHeader = reader.fixed()?;
        check_reserved("event", &header.reserved)?;
        let size = header.body_size.get();
        check_range("event body size", size.into(), 1, EVENT_BODY_SIZE_MAX.into())?;
        let mut body = Reader::new(reader.bytes(index(size))?);
        let content = EventContent::read(header.kind.get(), &mut body)?;
        body.finish()?;
        let cursor = Cursor::from_body(&header.cursor)?;
        let height = match &content {
            EventContent::Transaction { receipt, .. } => receipt.height.get(),
            EventContent::Block(header) => header.height.get(),
        };
        if height != cursor.height {
            let (stated, actual) = (cursor.height, height);
            return Err(DecodeError::Mismatch { field: "height of an event", stated, actual });
        }
        Ok(Self { cursor, content })
    }

    /// Appends the event to the body of an events frame.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let body_size = match &self.content {
            EventContent::Transaction { .. } => const { fixed_size::<TransactionEventBody>() },
            EventContent::Block(_) => const { fixed_size::<BlockHeader>() },
        };
        let header = EventHeader {
            cursor: self.cursor.body(),
            kind: U16::new(self.content.kind()),
            reserved: [0; 2],
            body_size: U32::new(body_size),
        };
        put(out, &header);
        match &self.content {
            EventContent::Transaction { sender, receipt } => {
                put(out, &TransactionEventBody { sender: *sender, receipt: *receipt });
            }
            EventContent::Block(header) => put(out, header),
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the assertion keeps the size below 2^10")]
const fn fixed_size<T>() -> u32 {
    assert!(size_of::<T>() <= EVENT_BODY_SIZE_MAX as usize, "an event fits its limit");
    size_of::<T>() as u32
}

layout!(
    /// Fixed first part of the body of an events frame.
    pub(crate) struct EventsHeader {
        next: CursorBody,
        credits: U32,
    }
);

impl EventsHeader {
    pub(crate) const fn new(next: Cursor, credits: u32) -> Self {
        Self { next: next.body(), credits: U32::new(credits) }
    }
}

/// The body of an events frame, checked and read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsView<'a> {
    bytes: &'a [u8],
    next: Cursor,
    credits: u32,
}

impl<'a> EventsView<'a> {
    /// Reads exactly one body; its cursors must ascend and stay below `next`.
    ///
    /// # Errors
    /// What is not canonical.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header: &EventsHeader = reader.fixed()?;
        let next = Cursor::from_body(&header.next)?;
        check_range("credits left", header.credits.get().into(), 0, CREDITS_MAX.into())?;
        let mut last = None;
        while reader.remaining() > 0 {
            let cursor = Event::read(&mut reader)?.cursor;
            if last >= Some(cursor) || cursor >= next {
                return Err(DecodeError::NotCanonical { field: "order of events" });
            }
            last = Some(cursor);
        }
        Ok(Self { bytes, next, credits: header.credits.get() })
    }

    /// The whole body.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where to resume after this frame; grows also where the filter let nothing through.
    #[must_use]
    pub const fn next(&self) -> Cursor {
        self.next
    }

    /// Events that the server may still send before more credit is granted.
    #[must_use]
    pub const fn credits(&self) -> u32 {
        self.credits
    }

    /// The events in order.
    pub fn events(&self) -> impl Iterator<Item = Event> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        // `parse` has read them all, so none is lost to an error here.
        let is_good = reader.fixed::<EventsHeader>().is_ok();
        core::iter::from_fn(move || if is_good { Event::read(&mut reader).ok() } else { None })
    }
}
