//! Frames: a fixed header of 16 bytes and a body whose size is bounded before it is waited for.
//! Clients and peers speak frames of this one shape, each with kinds of their own.
//!
//! ```text
//! offset  size  field
//!      0     4  body size in bytes
//!      4     2  kind
//!      6     1  frame version (1)
//!      7     1  flags, zero
//!      8     8  request id
//! ```
//! All integers are little-endian; a peer's frames have request id 0. Holds no state.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::codes::ErrorCode;
use crate::limits::{FRAME_BODY_SIZE_MAX, FRAME_HEADER_SIZE};
use hufu_types::codec::{index, length_u32};

/// The one version of the frame header.
pub const FRAME_VERSION: u8 = 1;

/// Fixed first part of every frame.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct FrameHeader {
    body_size: U32,
    kind: U16,
    version: u8,
    flags: u8,
    request: U64,
}

const _: () = assert!(
    size_of::<FrameHeader>() == FRAME_HEADER_SIZE,
    "the layout above is what clients implement"
);

impl FrameHeader {
    /// The header of a frame with a body of `body_size` bytes.
    #[must_use]
    pub fn new(kind: impl Kind, request: u64, body_size: u32) -> Self {
        Self {
            body_size: U32::new(body_size),
            kind: U16::new(kind.wire_number()),
            version: FRAME_VERSION,
            flags: 0,
            request: U64::new(request),
        }
    }
}

/// The kinds of frames of one protocol.
pub trait Kind: Copy + PartialEq + core::fmt::Debug {
    /// The kind with this number on the wire.
    fn of_wire(number: u16) -> Option<Self>;

    /// The number on the wire.
    fn wire_number(self) -> u16;

    /// Smallest and largest body, bytes.
    fn body_limits(self) -> (u32, u32);
}

impl Kind for FrameKind {
    fn of_wire(number: u16) -> Option<Self> {
        Self::from_number(number)
    }

    fn wire_number(self) -> u16 {
        self.number()
    }

    fn body_limits(self) -> (u32, u32) {
        self.body_range()
    }
}

hufu_types::codes!(
    /// What a frame is. From 0x8000 on the server sends it, below the client does.
    FrameKind {
        /// First frame of a client.
        Hello = 1, "hello";
        /// Transactions to be taken.
        Submit = 2, "submit";
        /// Wait for the receipt of a transaction.
        Wait = 3, "wait";
        /// State of the node.
        QueryStatus = 4, "query_status";
        /// An account.
        QueryAccount = 5, "query_account";
        /// A block.
        QueryBlock = 6, "query_block";
        /// A transaction with its receipt.
        QueryTransaction = 7, "query_transaction";
        /// Events from a cursor on.
        Subscribe = 8, "subscribe";
        /// More events wanted.
        Credit = 9, "credit";
        /// No more events wanted.
        Unsubscribe = 10, "unsubscribe";
        /// Are you there?
        Ping = 11, "ping";
        /// Answer to a hello.
        Welcome = 0x8001, "welcome";
        /// Transactions taken or refused.
        Statuses = 0x8002, "statuses";
        /// Receipts.
        Receipts = 0x8003, "receipts";
        /// Answer to a status query.
        Status = 0x8004, "status";
        /// Answer to an account query.
        Account = 0x8005, "account";
        /// Answer to a block query.
        Block = 0x8006, "block";
        /// Answer to a transaction query.
        Transaction = 0x8007, "transaction";
        /// Answer to a subscription: where it begins.
        Subscribed = 0x8008, "subscribed";
        /// Events of a subscription.
        Events = 0x8009, "events";
        /// A subscription has ended.
        SubscriptionEnded = 0x800A, "subscription_ended";
        /// Yes.
        Pong = 0x800B, "pong";
        /// Something was wrong.
        Error = 0x80FF, "error";
    }
);

impl FrameKind {
    /// Smallest and largest body of this kind, in bytes.
    #[must_use]
    pub const fn body_range(self) -> (u32, u32) {
        match self {
            Self::Hello => (48, 48),
            Self::Submit => (8, FRAME_BODY_SIZE_MAX),
            Self::Wait => (48, 48),
            Self::QueryStatus => (0, 0),
            Self::QueryAccount => (24, 24),
            Self::QueryBlock => (16, 16),
            Self::QueryTransaction => (40, 40),
            Self::Subscribe => (48, 48),
            Self::Credit => (16, 16),
            Self::Unsubscribe => (8, 8),
            Self::Ping => (0, 0),
            Self::Welcome => (88, 88),
            Self::Statuses => (16, FRAME_BODY_SIZE_MAX),
            Self::Receipts => (136, FRAME_BODY_SIZE_MAX),
            Self::Status => (128, 192),
            Self::Account => (44, FRAME_BODY_SIZE_MAX),
            Self::Block => (32, FRAME_BODY_SIZE_MAX),
            Self::Transaction => (136, FRAME_BODY_SIZE_MAX),
            Self::Subscribed => (16, 16),
            Self::Events => (20, FRAME_BODY_SIZE_MAX),
            Self::SubscriptionEnded => (24, 24),
            Self::Pong => (0, 0),
            Self::Error => (4, 4 + crate::limits::ERROR_TEXT_SIZE_MAX as u32),
        }
    }
}

impl FrameKind {
    /// Whether clients send this kind.
    #[must_use]
    pub const fn is_of_client(self) -> bool {
        self.number() < 0x8000
    }
}

/// One whole frame, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a, K = FrameKind> {
    /// What it is.
    pub kind: K,
    /// Request it belongs to; 0 where it belongs to none or to many.
    pub request: u64,
    /// The body.
    pub body: &'a [u8],
}

impl<K> Frame<'_, K> {
    /// Bytes of the whole frame.
    #[must_use]
    pub const fn size(&self) -> usize {
        FRAME_HEADER_SIZE + self.body.len()
    }
}

/// Why bytes are no frame. After it nothing that follows on the connection can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The version is not one this build reads.
    #[error("frame version is {found}, this build reads {FRAME_VERSION}")]
    VersionUnknown {
        /// The version read.
        found: u8,
        /// The frame's request.
        request: u64,
    },
    /// A flag is set that has no meaning.
    #[error("frame flags are {found:#04x}, all are reserved")]
    FlagsUnknown {
        /// The flags read.
        found: u8,
        /// The frame's request.
        request: u64,
    },
    /// The kind is not one of this direction.
    #[error("frame kind is {found:#06x}, which the other side does not send")]
    KindUnknown {
        /// The kind read.
        found: u16,
        /// The frame's request.
        request: u64,
    },
    /// The body is larger than frames of its kind may be.
    #[error("frame body is {found} bytes, at most {max} are allowed")]
    Oversized {
        /// The size read.
        found: u32,
        /// The largest size of this kind.
        max: u32,
        /// The frame's request.
        request: u64,
    },
    /// The body is smaller than frames of its kind can be.
    #[error("frame body is {found} bytes, at least {min} are needed")]
    Undersized {
        /// The size read.
        found: u32,
        /// The smallest size of this kind.
        min: u32,
        /// The frame's request.
        request: u64,
    },
}

impl FrameError {
    /// The code and request of the error frame that answers.
    #[must_use]
    pub const fn code(&self) -> (ErrorCode, u64) {
        match *self {
            Self::VersionUnknown { request, .. } => (ErrorCode::FrameVersionUnknown, request),
            Self::KindUnknown { request, .. } => (ErrorCode::UnknownKind, request),
            Self::Oversized { request, .. } => (ErrorCode::Oversized, request),
            Self::FlagsUnknown { request, .. } | Self::Undersized { request, .. } => {
                (ErrorCode::Malformed, request)
            }
        }
    }
}

/// Which side's frames are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Frames that clients send.
    FromClient,
    /// Frames that servers send.
    FromServer,
}

/// The first frame of `bytes`, or `None` while it is not complete. The header is judged as soon as
/// it is there, so that no memory is spent on a body that will be refused.
///
/// # Errors
/// Why this is no frame.
pub fn split(bytes: &[u8], direction: Direction) -> Result<Option<Frame<'_>>, FrameError> {
    split_where(bytes, |kind: &FrameKind| {
        kind.is_of_client() == (direction == Direction::FromClient)
    })
}

/// The first frame of `bytes` in a protocol with kinds of its own, of which only those that
/// `is_expected` are taken.
///
/// # Errors
/// Why this is no frame.
pub fn split_where<K: Kind>(
    bytes: &[u8],
    is_expected: impl FnOnce(&K) -> bool,
) -> Result<Option<Frame<'_, K>>, FrameError> {
    let Ok((header, rest)) = FrameHeader::ref_from_prefix(bytes) else { return Ok(None) };
    let kind = judge(header, is_expected)?;
    let body = rest.get(..index(header.body_size.get()));
    Ok(body.map(|body| Frame { kind, request: header.request.get(), body }))
}

fn judge<K: Kind>(
    header: &FrameHeader,
    is_expected: impl FnOnce(&K) -> bool,
) -> Result<K, FrameError> {
    let request = header.request.get();
    if header.version != FRAME_VERSION {
        return Err(FrameError::VersionUnknown { found: header.version, request });
    }
    if header.flags != 0 {
        return Err(FrameError::FlagsUnknown { found: header.flags, request });
    }
    let found = header.kind.get();
    let kind = K::of_wire(found).filter(is_expected);
    let kind = kind.ok_or(FrameError::KindUnknown { found, request })?;
    let (min, max) = kind.body_limits();
    let found = header.body_size.get();
    if found > max {
        return Err(FrameError::Oversized { found, max, request });
    }
    if found < min {
        return Err(FrameError::Undersized { found, min, request });
    }
    Ok(kind)
}

/// Appends a frame whose body `write` appends.
///
/// # Panics
/// If the body is larger than its kind allows: the writer did not keep its limits.
pub fn write(out: &mut Vec<u8>, kind: impl Kind, request: u64, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(FrameHeader::new(kind, request, 0).as_bytes());
    write(out);
    finish(out, start, kind);
}

/// Fills in the size of the frame that begins at `start` and ends with `out`.
///
/// # Panics
/// If the body's size is not in the range of its kind: the writer did not keep its limits.
pub(crate) fn finish(out: &mut [u8], start: usize, kind: impl Kind) {
    let body = out.get(start + FRAME_HEADER_SIZE..).map_or(0, length_u32);
    let (min, max) = kind.body_limits();
    assert!((min..=max).contains(&body), "the writer keeps the limits of its frame kind");
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&body.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_bytes_are_the_documented_ones() {
        let header = FrameHeader::new(FrameKind::Submit, 0x0102_0304_0506_0708, 0x000a_0b0c);
        let golden = [0x0c, 0x0b, 0x0a, 0, 2, 0, 1, 0, 8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(header.as_bytes(), golden);
    }

    #[test]
    fn a_header_is_judged_before_its_body_is_there() {
        let judge = |change: &dyn Fn(&mut [u8; 16])| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(FrameHeader::new(FrameKind::Ping, 7, 0).as_bytes());
            change(&mut bytes);
            let found = split(&bytes, Direction::FromClient);
            found.map(|frame| frame.is_some()).map_err(|fault| fault.code())
        };
        assert_eq!(judge(&|_| ()), Ok(true));
        let refused = [
            (judge(&|bytes| bytes[0] = 1), ErrorCode::Oversized),
            (judge(&|bytes| bytes[4] = 0), ErrorCode::UnknownKind),
            (judge(&|bytes| bytes[5] = 0x80), ErrorCode::UnknownKind),
            (judge(&|bytes| bytes[6] = 2), ErrorCode::FrameVersionUnknown),
            (judge(&|bytes| bytes[7] = 1), ErrorCode::Malformed),
            (judge(&|bytes| bytes[4] = 1), ErrorCode::Malformed),
        ];
        for (found, code) in refused {
            assert_eq!(found, Err((code, 7)));
        }
    }

    #[test]
    fn an_incomplete_frame_is_waited_for() {
        let mut bytes = Vec::new();
        write(&mut bytes, FrameKind::Unsubscribe, 3, |out| out.extend_from_slice(&[1; 8]));
        for end in 0..bytes.len() {
            assert_eq!(split(&bytes[..end], Direction::FromClient), Ok(None));
        }
        let frame = split(&bytes, Direction::FromClient).unwrap().unwrap();
        assert_eq!((frame.kind, frame.request), (FrameKind::Unsubscribe, 3));
        assert_eq!((frame.body, frame.size()), (&[1; 8][..], bytes.len()));
    }

    #[test]
    fn kinds_read_back_and_have_a_range() {
        for kind in FrameKind::ALL {
            assert_eq!(FrameKind::from_number(kind.number()), Some(*kind));
            let (min, max) = kind.body_range();
            assert!(min <= max && max <= FRAME_BODY_SIZE_MAX);
        }
    }
}
