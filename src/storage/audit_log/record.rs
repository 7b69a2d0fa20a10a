//! One record: its one encoding, and reading it back.

use std::borrow::Cow;
use std::fmt::Write as _;

use hufu_crypto::{Digest, Sm3};
use hufu_runtime::clock::UnixNanos;
use serde::Deserialize;

/// Separates these digests from all others.
const DOMAIN: &[u8] = b"hufu audit record 1\n";

/// What ends the bytes that the digest is over.
const DIGEST_FIELD: &str = ",\"digest\":\"";

/// Characters of a text at most; what is longer is cut and marked, since it may come from outside.
const TEXT_CHARACTERS_MAX: usize = 512;

/// What became of what was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not allowed.
    Refused,
    /// It was allowed and did not work.
    Failed,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A fact that belongs to a record.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Detail<'a> {
    /// A whole number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// Text.
    Text(Cow<'a, str>),
}

impl From<u64> for Detail<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Detail<'_> {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl<'a> From<&'a str> for Detail<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Detail<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

/// What a record is to say.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// Who did it: a tile, an operator, an agent.
    pub actor: &'a str,
    /// What was done, `noun.verb`.
    pub action: &'a str,
    /// To what.
    pub subject: Cow<'a, str>,
    /// What became of it.
    pub outcome: Outcome,
    /// Names are unique; they are written in the order they were added in.
    pub details: Vec<(&'a str, Detail<'a>)>,
}

impl<'a> Event<'a> {
    /// Something that was done.
    #[must_use]
    pub fn new(actor: &'a str, action: &'a str, subject: impl Into<Cow<'a, str>>) -> Self {
        let (subject, outcome) = (subject.into(), Outcome::Done);
        Self { actor, action, subject, outcome, details: Vec::new() }
    }

    /// With another outcome.
    #[must_use]
    pub const fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// With one more fact. A name that is there already is given the new value.
    #[must_use]
    pub fn with(mut self, name: &'a str, detail: impl Into<Detail<'a>>) -> Self {
        self.details.retain(|(other, _)| *other != name);
        self.details.push((name, detail.into()));
        self
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counts from 1.
    pub sequence: u64,
    /// The node's wall clock.
    pub unix_nanos: u64,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub subject: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Facts, in their order.
    #[serde(deserialize_with = "ordered")]
    pub details: Vec<(String, Detail<'static>)>,
    /// The last record that was known to be on the disk when this one was written.
    pub durable: u64,
    /// Digest of the record before, in hexadecimal.
    previous: String,
    /// Digest of this one.
    digest: String,
}

impl Record {
    /// A detail by its name.
    #[must_use]
    pub fn detail(&self, name: &str) -> Option<&Detail<'static>> {
        self.details.iter().find(|(other, _)| other == name).map(|(_, detail)| detail)
    }

    /// A detail that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.detail(name)? {
            Detail::Number(number) => Some(*number),
            Detail::Text(_) | Detail::Flag(_) => None,
        }
    }

    /// A detail that is a text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.detail(name)? {
            Detail::Text(text) => Some(text),
            Detail::Number(_) | Detail::Flag(_) => None,
        }
    }
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Longer than a record may be.
    #[error("the line is longer than any record")]
    TooLong,
    /// It ends before its end, and more follows.
    #[error("the line is cut off")]
    CutOff,
    /// It is no record.
    #[error("the line is no audit record")]
    Form,
    /// It says what a record says, in other bytes.
    #[error("the record is spelt as no record is written")]
    Spelling,
    /// Its number does not follow.
    #[error("record {found} where {expected} belongs: some are missing, twice or out of order")]
    Sequence {
        /// Its number.
        found: u64,
        /// The number after the one before.
        expected: u64,
    },
    /// It does not continue the one before.
    #[error("the record does not continue the one before it")]
    Previous,
    /// Its bytes are not those it was written with.
    #[error("the record was changed: its digest differs")]
    Digest,
    /// Its file is another one's.
    #[error("the file belongs to another owner than the one before it")]
    Owner,
    /// The seal is not of the audit key, or not over this chain.
    #[error("the seal is not valid: {0}")]
    Seal(&'static str),
}

/// The line of a record, with its end, and its digest.
pub(super) fn encode(
    sequence: u64,
    now: UnixNanos,
    event: &Event<'_>,
    durable: u64,
    previous: &Digest,
) -> (String, Digest) {
    let mut line = String::with_capacity(512);
    // Writing to a string cannot fail.
    write!(line, "{{\"sequence\":{sequence},\"unix_nanos\":{}", now.as_nanos()).unwrap_or_default();
    for (name, text) in
        [("actor", event.actor), ("action", event.action), ("subject", &*event.subject)]
    {
        write!(line, ",\"{name}\":").unwrap_or_default();
        write_text(&mut line, text);
    }
    write!(line, ",\"outcome\":\"{}\",\"details\":{{", event.outcome.name()).unwrap_or_default();
    for (place, (name, detail)) in event.details.iter().enumerate() {
        if place > 0 {
            line.push(',');
        }
        write_text(&mut line, name);
        line.push(':');
        match detail {
            Detail::Number(number) => write!(line, "{number}").unwrap_or_default(),
            Detail::Flag(flag) => write!(line, "{flag}").unwrap_or_default(),
            Detail::Text(text) => write_text(&mut line, text),
        }
    }
    write!(line, "}},\"durable\":{durable},\"previous\":\"{}\"", super::hex(&previous.0))
        .unwrap_or_default();
    let digest = Sm3::of(&[DOMAIN, line.as_bytes()]);
    line.push_str(DIGEST_FIELD);
    line.push_str(&super::hex(&digest.0));
    line.push_str("\"}\n");
    (line, digest)
}

/// JSON's string, with everything escaped that could end a line or confuse a terminal.
fn write_text(line: &mut String, text: &str) {
    line.push('"');
    for (place, character) in text.chars().enumerate() {
        if place == TEXT_CHARACTERS_MAX {
            line.push('…');
            break;
        }
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            control if control.is_control() => {
                write!(line, "\\u{:04x}", u32::from(control)).unwrap_or_default();
            }
            other => line.push(other),
        }
    }
    line.push('"');
}

/// A record with the digest that belongs to its bytes, wherever it stands; the digest too.
pub(super) fn parse(line: &[u8]) -> Result<(Record, Digest), RecordFault> {
    let text = core::str::from_utf8(line).map_err(|_| RecordFault::Form)?;
    if !text.ends_with('\n') {
        return Err(RecordFault::CutOff);
    }
    let record: Record = serde_json::from_str(text).map_err(|_| RecordFault::Form)?;
    let signed = text.rfind(DIGEST_FIELD).and_then(|at| text.get(..at)).ok_or(RecordFault::Form)?;
    let digest = Sm3::of(&[DOMAIN, signed.as_bytes()]);
    if record.digest != super::hex(&digest.0) {
        return Err(RecordFault::Digest);
    }
    Ok((record, digest))
}

/// What a record says of the one before it: its number and digest.
pub(super) fn before(record: &Record) -> Option<(u64, Digest)> {
    Some((record.sequence.checked_sub(1)?, Digest::from_hex(&record.previous)?))
}

/// Reads the record that follows `sequence` and `previous`; its digest too.
pub(super) fn decode(
    line: &[u8],
    sequence: u64,
    previous: &Digest,
) -> Result<(Record, Digest), RecordFault> {
    let (record, digest) = parse(line)?;
    let expected = sequence + 1;
    if record.sequence != expected {
        return Err(RecordFault::Sequence { found: record.sequence, expected });
    }
    if record.previous != super::hex(&previous.0) {
        return Err(RecordFault::Previous);
    }
    if record.durable > sequence {
        return Err(RecordFault::Form);
    }
    let details = record.details.iter().map(|(name, detail)| (name.as_str(), detail.clone()));
    let event = Event {
        actor: &record.actor,
        action: &record.action,
        subject: Cow::Borrowed(&record.subject),
        outcome: record.outcome,
        details: details.collect(),
    };
    let now = UnixNanos::from_nanos(record.unix_nanos);
    if encode(record.sequence, now, &event, record.durable, previous).0.as_bytes() != line {
        return Err(RecordFault::Spelling);
    }
    Ok((record, digest))
}

/// The members of an object in their order; a name that comes twice is refused.
fn ordered<'de, D>(deserializer: D) -> Result<Vec<(String, Detail<'static>)>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    struct Members;

    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, Detail<'static>)>;

        fn expecting(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            formatter.write_str("an object of details")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut members: Self::Value = Vec::new();
            while let Some((name, detail)) = map.next_entry::<String, Detail<'static>>()? {
                if members.iter().any(|(other, _)| *other == name) {
                    return Err(serde::de::Error::custom("a name comes twice"));
                }
                members.push((name, detail));
            }
            Ok(members)
        }
    }

    deserializer.deserialize_map(Members)
}
