//! What the bytes between node and agent mean.
//!
//! Everything has one fixed layout, little-endian, and is read strictly: an unknown number, a
//! length that does not fit, a byte too many is an error. Neither side believes the other.
//!
//! ```text
//! slot:    request header + body  ->  answer header + body      (`ring`)
//! socket:  node: welcome (+ memory, waker), stop     agent: logs in, hello | refusal
//! ```

use hufu_crypto::{Digest, PublicKey, Signature};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::keystore::{
    BULK_BYTES_MAX, CardIdentity, KeyReference, SIGN_MANY_MAX, Usage, WRAPPED_BYTES_MAX,
};
use crate::pool::CardReport;
use crate::pool::report::NUMBERS_COUNT_MAX;

/// Version of everything in this module. Both sides are one binary, so none is translated; an agent
/// that others run must be started anew with the node's, and is refused until it is.
pub(crate) const VERSION: u16 = 2;

/// First bytes of every message on the socket.
const MAGIC: [u8; 4] = *b"HFAG";

/// Bytes of a body at most: the largest is a ciphertext of [`BULK_BYTES_MAX`] with its head.
pub(crate) const BODY_BYTES_MAX: usize = BULK_BYTES_MAX + 128;

/// Bytes of a message on the socket at most.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16_384;

/// Bytes of a text in a message at most; longer ones are cut by whoever writes.
pub(crate) const TEXT_BYTES_MAX: usize = 1_024;

/// Bytes of a ciphertext of [`crate::Keystore::sm2_decrypt`] at most: C1 and C3 before the text.
pub(crate) const CIPHERTEXT_BYTES_MAX: usize = BULK_BYTES_MAX + 97;

/// Lines of a sandbox report at most, count, and bytes of each.
const NOTES_COUNT_MAX: usize = 64;
const NOTE_BYTES_MAX: usize = 160;

const _: () = assert!(SIGN_MANY_MAX * Signature::SIZE <= BODY_BYTES_MAX);
const _: () = assert!(SIGN_MANY_MAX * 32 <= BODY_BYTES_MAX);
const _: () = assert!(CIPHERTEXT_BYTES_MAX + 4 <= BODY_BYTES_MAX);
const _: () = assert!(8 + 8 * NUMBERS_COUNT_MAX <= MESSAGE_BYTES_MAX, "a report fits");
const _: () = assert!(TEXT_BYTES_MAX + 8 <= BODY_BYTES_MAX, "a key's name fits");
const _: () = assert!(NOTES_COUNT_MAX * (NOTE_BYTES_MAX + 2) + 4 * 1_024 <= MESSAGE_BYTES_MAX);

/// Before the body of a request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RequestHeader {
    /// Set by the ring; the answer repeats it.
    pub(crate) request: U64,
    /// On the host's monotonic clock, nanoseconds.
    pub(crate) deadline: U64,
    /// An [`Op`].
    pub(crate) op: U16,
    /// 1 where a tile polls for the answer and must be woken.
    pub(crate) is_polled: U16,
    /// The agent's own number of the key; 0 where the call needs none.
    pub(crate) key: U32,
    /// Set by the ring.
    pub(crate) body_size: U32,
    /// Zero.
    pub(crate) reserved: U32,
}

/// Before the body of an answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct AnswerHeader {
    /// Which request this answers.
    pub(crate) request: U64,
    /// Its operation.
    pub(crate) op: U16,
    /// [`AnswerHeader::DONE`] or [`AnswerHeader::FAILED`].
    pub(crate) status: U16,
    /// Bytes of the body.
    pub(crate) body_size: U32,
    /// Zero.
    pub(crate) reserved: [u8; 16],
}

impl AnswerHeader {
    /// The body is what was asked for.
    pub(crate) const DONE: u16 = 0;
    /// The body is an error.
    pub(crate) const FAILED: u16 = 1;
    /// The largest of these.
    pub(crate) const STATUS_MAX: u16 = Self::FAILED;
}

/// The calls of [`crate::Keystore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Identity,
    OpenKey,
    Sign,
    Decrypt,
    Wrap,
    Unwrap,
    Random,
}

impl Op {
    pub(crate) const ALL: [Self; 7] = [
        Self::Identity,
        Self::OpenKey,
        Self::Sign,
        Self::Decrypt,
        Self::Wrap,
        Self::Unwrap,
        Self::Random,
    ];

    pub(crate) const fn number(self) -> u16 {
        match self {
            Self::Identity => 1,
            Self::OpenKey => 2,
            Self::Sign => 3,
            Self::Decrypt => 4,
            Self::Wrap => 5,
            Self::Unwrap => 6,
            Self::Random => 7,
        }
    }

    pub(crate) fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.number() == number)
    }

    /// Whether something passes that nobody else may read.
    pub(crate) const fn is_secret(self) -> bool {
        matches!(self, Self::Decrypt | Self::Wrap | Self::Unwrap | Self::Random)
    }
}

/// Bytes that are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Collects the fields of a message.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn byte(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes with their length, cut to `max`.
    pub(crate) fn bytes(&mut self, bytes: &[u8], max: usize) {
        let bytes = &bytes[..bytes.len().min(max)];
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        self.0.extend_from_slice(bytes);
    }

    /// A text with its length, cut to `max` bytes; what would not show as one line is replaced.
    pub(crate) fn text(&mut self, text: &str, max: usize) {
        let mut shown = String::with_capacity(text.len().min(max));
        for letter in text.chars() {
            let letter = if letter.is_control() { '?' } else { letter };
            if shown.len() + letter.len_utf8() > max {
                break;
            }
            shown.push(letter);
        }
        self.bytes(shown.as_bytes(), max);
    }
}

/// Takes a message apart.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], Malformed> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Malformed("too short"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, max: usize) -> Result<&'a [u8], Malformed> {
        let size = usize::from(self.u16()?);
        if size > max {
            return Err(Malformed("a part that is too long"));
        }
        let (first, rest) = self.0.split_at_checked(size).ok_or(Malformed("too short"))?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn text(&mut self, max: usize) -> Result<String, Malformed> {
        let text = str::from_utf8(self.bytes(max)?).map_err(|_| Malformed("a text not UTF-8"))?;
        if text.chars().any(char::is_control) {
            return Err(Malformed("a text with control characters"));
        }
        Ok(text.to_owned())
    }

    pub(crate) const fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("bytes behind the end")) }
    }
}

fn usage_number(usage: Usage) -> u8 {
    match usage {
        Usage::Sign => 1,
        Usage::Decrypt => 2,
        Usage::Wrap => 3,
    }
}

pub(crate) fn write_key(writer: &mut Writer, key: &KeyReference) {
    match key {
        KeyReference::Label(label) => {
            writer.byte(1);
            writer.bytes(label.as_bytes(), TEXT_BYTES_MAX);
        }
        KeyReference::Id(id) => {
            writer.byte(2);
            writer.bytes(id, TEXT_BYTES_MAX);
        }
        KeyReference::Index(index) => {
            writer.byte(3);
            writer.u32(*index);
        }
    }
}

pub(crate) fn read_key(reader: &mut Reader<'_>) -> Result<KeyReference, Malformed> {
    match reader.byte()? {
        1 => {
            let label = str::from_utf8(reader.bytes(TEXT_BYTES_MAX)?);
            let label = label.map_err(|_| Malformed("a label not UTF-8"))?;
            Ok(KeyReference::Label(label.to_owned()))
        }
        2 => Ok(KeyReference::Id(reader.bytes(TEXT_BYTES_MAX)?.to_vec())),
        3 => Ok(KeyReference::Index(reader.u32()?)),
        _ => Err(Malformed("an unknown kind of key reference")),
    }
}

/// Whether a reference fits into a message whole.
pub(crate) fn key_fits(key: &KeyReference) -> bool {
    match key {
        KeyReference::Label(label) => label.len() <= TEXT_BYTES_MAX,
        KeyReference::Id(id) => id.len() <= TEXT_BYTES_MAX,
        KeyReference::Index(_) => true,
    }
}

pub(crate) fn open_request(key: &KeyReference, usage: Usage) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.byte(usage_number(usage));
    write_key(&mut writer, key);
    writer.0
}

pub(crate) fn read_open_request(body: &[u8]) -> Result<(KeyReference, Usage), Malformed> {
    let mut reader = Reader(body);
    let number = reader.byte()?;
    let usage = [Usage::Sign, Usage::Decrypt, Usage::Wrap]
        .into_iter()
        .find(|usage| usage_number(*usage) == number)
        .ok_or(Malformed("an unknown usage"))?;
    let key = read_key(&mut reader)?;
    reader.end()?;
    Ok((key, usage))
}

/// The agent's own number of a key, and its public key if it has one.
pub(crate) fn opened(handle: u32, public: Option<&PublicKey>) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u32(handle);
    match public {
        None => writer.byte(0),
        Some(key) => {
            writer.byte(1);
            writer.0.extend_from_slice(key.as_bytes());
        }
    }
    writer.0
}

pub(crate) fn read_opened(body: &[u8]) -> Result<(u32, Option<PublicKey>), Malformed> {
    let mut reader = Reader(body);
    let handle = reader.u32()?;
    let public = match reader.byte()? {
        0 => None,
        1 => Some(PublicKey(reader.array()?)),
        _ => return Err(Malformed("neither a public key nor none")),
    };
    reader.end()?;
    Ok((handle, public))
}

/// Digests of a signing request.
pub(crate) fn read_digests(body: &[u8]) -> Result<&[Digest], Malformed> {
    let digests = <[Digest]>::ref_from_bytes(body).map_err(|_| Malformed("no whole digests"))?;
    match digests.len() {
        1..=SIGN_MANY_MAX => Ok(digests),
        _ => Err(Malformed("no digest, or too many")),
    }
}

/// Room for the plaintext, then the ciphertext.
pub(crate) fn decrypt_request(room: usize, ciphertext: &[u8]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.u32(u32::try_from(room.min(BULK_BYTES_MAX)).unwrap_or(0));
    writer.0.extend_from_slice(ciphertext);
    writer.0
}

pub(crate) fn read_decrypt_request(body: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let mut reader = Reader(body);
    let room = reader.u32()?;
    if reader.0.len() > CIPHERTEXT_BYTES_MAX {
        return Err(Malformed("a ciphertext that is too long"));
    }
    match usize::try_from(room) {
        Ok(room) if room <= BULK_BYTES_MAX => Ok((room, reader.0)),
        _ => Err(Malformed("room for too much plaintext")),
    }
}

pub(crate) fn read_wrapped(body: &[u8]) -> Result<&[u8], Malformed> {
    if body.len() <= WRAPPED_BYTES_MAX { Ok(body) } else { Err(Malformed("too long")) }
}

/// How many random bytes are wanted.
pub(crate) fn read_count(body: &[u8]) -> Result<usize, Malformed> {
    let mut reader = Reader(body);
    let count = reader.u32()?;
    reader.end()?;
    match usize::try_from(count) {
        Ok(count) if count <= BULK_BYTES_MAX => Ok(count),
        _ => Err(Malformed("too many random bytes")),
    }
}

pub(crate) fn write_identity(writer: &mut Writer, identity: &CardIdentity) {
    for text in [
        &identity.library_manufacturer,
        &identity.token_label,
        &identity.token_manufacturer,
        &identity.token_model,
        &identity.token_serial,
    ] {
        writer.text(text, 256);
    }
    for (major, minor) in
        [identity.library_version, identity.firmware_version, identity.hardware_version]
    {
        writer.byte(major);
        writer.byte(minor);
    }
}

pub(crate) fn read_identity(reader: &mut Reader<'_>) -> Result<CardIdentity, Malformed> {
    let mut text = || reader.text(256);
    let library_manufacturer = text()?;
    let token_label = text()?;
    let token_manufacturer = text()?;
    let token_model = text()?;
    let token_serial = text()?;
    let mut version = || Ok::<_, Malformed>((reader.byte()?, reader.byte()?));
    Ok(CardIdentity {
        library_manufacturer,
        library_version: version()?,
        token_label,
        token_manufacturer,
        token_model,
        token_serial,
        firmware_version: version()?,
        hardware_version: version()?,
    })
}

/// What passes over the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Node to agent, first of all, with the memory and the end of the waking socket.
    Welcome {
        slots_count: u32,
        /// How long a worker spins before it sleeps.
        spin_nanos: u64,
    },
    /// Node to agent: answer what was asked, and end.
    Stop,
    /// Agent to node: from here on the PIN may be tried, so that an agent that ends before it says
    /// more may have used up an attempt.
    LogsIn,
    /// Agent to node: the card is open, calls may come.
    Hello {
        workers_count: u32,
        identity: CardIdentity,
        /// The report of the sandbox, a line each.
        notes: Vec<String>,
    },
    /// Agent to node: there is no card to serve; an error of `errors`. The agent ends.
    Refusal(Vec<u8>),
    /// Agent to node, about once a second: what the card counts.
    Report(Box<CardReport>),
}

impl Message {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer(MAGIC.to_vec());
        writer.u16(VERSION);
        match self {
            Self::Welcome { slots_count, spin_nanos } => {
                writer.u16(1);
                writer.u32(*slots_count);
                writer.u64(*spin_nanos);
            }
            Self::Stop => writer.u16(2),
            Self::Hello { workers_count, identity, notes } => {
                writer.u16(3);
                writer.u32(*workers_count);
                write_identity(&mut writer, identity);
                let count = notes.len().min(NOTES_COUNT_MAX);
                writer.byte(u8::try_from(count).unwrap_or(0));
                notes.iter().take(count).for_each(|note| writer.text(note, NOTE_BYTES_MAX));
            }
            Self::Refusal(error) => {
                writer.u16(4);
                writer.bytes(error, BODY_BYTES_MAX);
            }
            Self::LogsIn => writer.u16(5),
            Self::Report(report) => {
                writer.u16(6);
                report.to_numbers().into_iter().for_each(|number| writer.u64(number));
            }
        }
        assert!(writer.0.len() <= MESSAGE_BYTES_MAX, "a message of {} bytes", writer.0.len());
        writer.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        if reader.array()? != MAGIC {
            return Err(Malformed("no message of an agent"));
        }
        if reader.u16()? != VERSION {
            return Err(Malformed("of another version"));
        }
        let message = match reader.u16()? {
            1 => Self::Welcome { slots_count: reader.u32()?, spin_nanos: reader.u64()? },
            2 => Self::Stop,
            3 => {
                let workers_count = reader.u32()?;
                let identity = read_identity(&mut reader)?;
                let count = usize::from(reader.byte()?);
                if count > NOTES_COUNT_MAX {
                    return Err(Malformed("too many notes"));
                }
                let notes = (0..count).map(|_| reader.text(NOTE_BYTES_MAX));
                let notes = notes.collect::<Result<Vec<_>, _>>()?;
                Self::Hello { workers_count, identity, notes }
            }
            4 => Self::Refusal(reader.bytes(BODY_BYTES_MAX)?.to_vec()),
            5 => Self::LogsIn,
            6 => {
                let (numbers, rest) = reader.0.as_chunks();
                let numbers: Vec<u64> =
                    numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
                let report = CardReport::from_numbers(&numbers).filter(|_| rest.is_empty());
                reader = Reader(&[]);
                Self::Report(Box::new(report.ok_or(Malformed("no report"))?))
            }
            _ => return Err(Malformed("of an unknown kind")),
        };
        reader.end()?;
        Ok(message)
    }
}
