//! Errors as bytes, so that the node learns what the agent's card said: class, return value and
//! every field of the message.
//!
//! Fixed texts of an error ([`Error::Call`]'s function and its like) are `&'static str`. Those that
//! come over the memory are looked up in a table of their own, which grows up to a limit: a text
//! that an agent of ours writes comes from its program, and there are few of them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::protocol::{Malformed, Reader, TEXT_BYTES_MAX, Writer, read_key, write_key};
use crate::error::{Error, ErrorClass, Rv, TriesLeft};

/// Bytes of a fixed text at most.
const FIXED_BYTES_MAX: usize = 96;

/// Different fixed texts of all agents of a process at most, count. 24 KiB in the worst case.
const FIXED_COUNT_MAX: usize = 256;

/// What a fixed text becomes when the table is full, which no agent of ours makes it.
const FIXED_UNKNOWN: &str = "something the agent names";

const TRIES: [TriesLeft; 4] =
    [TriesLeft::Unknown, TriesLeft::Fewer, TriesLeft::One, TriesLeft::None];

/// The error as bytes. Texts are cut to what a message holds.
pub(crate) fn to_bytes(error: &Error) -> Vec<u8> {
    let mut to = Writer::default();
    match error {
        Error::LibraryLoad { path, cause } => two(&mut to, 1, &shown(path), cause),
        Error::LibraryUnusable { path, reason } => two(&mut to, 2, &shown(path), reason),
        Error::Call { function, rv, class } => {
            named(&mut to, 3, function);
            to.u64(rv.0);
            to.byte(place_of(&ErrorClass::ALL, class));
        }
        Error::PinRefused { rv, tries_left } => {
            to.byte(4);
            to.u64(rv.0);
            to.byte(place_of(&TRIES, tries_left));
        }
        Error::PinUnreadable { source_name, reason } => two(&mut to, 5, source_name, reason),
        Error::TokenMissing { wanted, found } => two(&mut to, 6, wanted, found),
        Error::CardChanged { field, before, after } => {
            named(&mut to, 7, field);
            to.text(before, TEXT_BYTES_MAX);
            to.text(after, TEXT_BYTES_MAX);
        }
        Error::ProfileMismatch { profile, reason } => two(&mut to, 8, profile, reason),
        Error::ProfileInvalid { name, reason } => two(&mut to, 9, name, reason),
        Error::ProbeFailed { profile, step, reason } => {
            two(&mut to, 10, profile, step);
            to.text(reason, TEXT_BYTES_MAX);
        }
        Error::KeyMissing { key } => {
            to.byte(11);
            write_key(&mut to, key);
        }
        Error::KeyAmbiguous { key, count } => {
            to.byte(12);
            write_key(&mut to, key);
            to.u64(count_of(*count));
        }
        Error::KeyUnsuitable { key, reason } => {
            to.byte(13);
            write_key(&mut to, key);
            to.text(reason, TEXT_BYTES_MAX);
        }
        Error::HandleUnknown(handle) => {
            to.byte(14);
            to.u32(*handle);
        }
        Error::AnswerMalformed { what, reason } => {
            named(&mut to, 15, what);
            to.text(reason, TEXT_BYTES_MAX);
        }
        Error::SignatureWrong => to.byte(16),
        Error::Refused { what, reason } => {
            named(&mut to, 17, what);
            to.text(reason, TEXT_BYTES_MAX);
        }
        Error::Deadline { stage } => named(&mut to, 18, stage),
        Error::QueueFull { waiting_count } => {
            to.byte(19);
            to.u64(count_of(*waiting_count));
        }
        Error::CircuitOpen { failures_count, last } => {
            to.byte(20);
            to.u32(*failures_count);
            to.text(last, TEXT_BYTES_MAX);
        }
        Error::Agent { reason } => one(&mut to, 21, reason),
        Error::AgentProtocol { reason } => one(&mut to, 22, reason),
        Error::IdentityFile { path, reason } => two(&mut to, 23, &shown(path), reason),
        Error::PinUnanswered { reason } => one(&mut to, 24, reason),
    }
    to.0
}

/// The error that [`to_bytes`] wrote.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Error, Malformed> {
    let mut from = Reader(bytes);
    let tag = from.byte()?;
    let error = match tag {
        1 | 2 | 23 => with_path(tag, &mut from)?,
        3 => Error::Call {
            function: fixed(&mut from)?,
            rv: Rv(from.u64()?),
            class: at(&ErrorClass::ALL, from.byte()?)?,
        },
        4 => Error::PinRefused { rv: Rv(from.u64()?), tries_left: at(&TRIES, from.byte()?)? },
        5 => Error::PinUnreadable { source_name: text(&mut from)?, reason: text(&mut from)? },
        6 => Error::TokenMissing { wanted: text(&mut from)?, found: text(&mut from)? },
        7 => Error::CardChanged {
            field: fixed(&mut from)?,
            before: text(&mut from)?,
            after: text(&mut from)?,
        },
        8 => Error::ProfileMismatch { profile: text(&mut from)?, reason: text(&mut from)? },
        9 => Error::ProfileInvalid { name: text(&mut from)?, reason: text(&mut from)? },
        10 => Error::ProbeFailed {
            profile: text(&mut from)?,
            step: text(&mut from)?,
            reason: text(&mut from)?,
        },
        11 => Error::KeyMissing { key: read_key(&mut from)? },
        12 => Error::KeyAmbiguous { key: read_key(&mut from)?, count: count(&mut from)? },
        13 => Error::KeyUnsuitable { key: read_key(&mut from)?, reason: text(&mut from)? },
        14 => Error::HandleUnknown(from.u32()?),
        15 => Error::AnswerMalformed { what: fixed(&mut from)?, reason: text(&mut from)? },
        16 => Error::SignatureWrong,
        17 => Error::Refused { what: fixed(&mut from)?, reason: text(&mut from)? },
        18 => Error::Deadline { stage: fixed(&mut from)? },
        19 => Error::QueueFull { waiting_count: count(&mut from)? },
        20 => Error::CircuitOpen { failures_count: from.u32()?, last: text(&mut from)? },
        21 => Error::Agent { reason: text(&mut from)? },
        22 => Error::AgentProtocol { reason: text(&mut from)? },
        24 => Error::PinUnanswered { reason: text(&mut from)? },
        _ => return Err(Malformed("an unknown error")),
    };
    from.end()?;
    Ok(error)
}

fn with_path(tag: u8, from: &mut Reader<'_>) -> Result<Error, Malformed> {
    // As the text that it was sent as: a path is shown as it is, and must not forge a line.
    let path = PathBuf::from(text(from)?);
    let reason = text(from)?;
    Ok(match tag {
        1 => Error::LibraryLoad { path, cause: reason },
        2 => Error::LibraryUnusable { path, reason },
        _ => Error::IdentityFile { path, reason },
    })
}

/// The same error once more, for several callers that it concerns.
pub(crate) fn again(error: &Error) -> Error {
    from_bytes(&to_bytes(error)).unwrap_or_else(|_| Error::Agent { reason: error.to_string() })
}

fn shown(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

fn one(to: &mut Writer, tag: u8, first: &str) {
    to.byte(tag);
    to.text(first, TEXT_BYTES_MAX);
}

/// A tag and a fixed text.
fn named(to: &mut Writer, tag: u8, name: &str) {
    to.byte(tag);
    to.text(name, FIXED_BYTES_MAX);
}

fn two(to: &mut Writer, tag: u8, first: &str, second: &str) {
    one(to, tag, first);
    to.text(second, TEXT_BYTES_MAX);
}

fn text(from: &mut Reader<'_>) -> Result<String, Malformed> {
    from.text(TEXT_BYTES_MAX)
}

fn count_of(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn count(from: &mut Reader<'_>) -> Result<usize, Malformed> {
    usize::try_from(from.u64()?).map_err(|_| Malformed("a count that is too large"))
}

fn place_of<T: PartialEq>(all: &[T], one: &T) -> u8 {
    let place = all.iter().position(|other| other == one);
    place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

fn at<T: Copy>(all: &[T], place: u8) -> Result<T, Malformed> {
    all.get(usize::from(place)).copied().ok_or(Malformed("an unknown number in an error"))
}

fn fixed(from: &mut Reader<'_>) -> Result<&'static str, Malformed> {
    static KNOWN: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    Ok(fixed_in(&KNOWN, from.text(FIXED_BYTES_MAX)?))
}

fn fixed_in(known: &Mutex<Vec<&'static str>>, text: String) -> &'static str {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.iter().find(|other| **other == text) {
        return found;
    }
    if known.len() >= FIXED_COUNT_MAX {
        return FIXED_UNKNOWN;
    }
    let text: &'static str = Box::leak(text.into_boxed_str());
    known.push(text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keystore::KeyReference;

    /// One error of each kind, with the edges of its fields.
    pub(crate) fn examples() -> Vec<Error> {
        let path = PathBuf::from("/usr/lib/libcard.so");
        let label = || KeyReference::Label("验证者 \"1\"".to_owned());
        let some = || "because".to_owned();
        vec![
            Error::LibraryLoad { path: path.clone(), cause: some() },
            Error::LibraryUnusable { path, reason: some() },
            Error::Call { function: "C_Sign", rv: Rv(u64::MAX), class: ErrorClass::Throttled },
            Error::PinRefused { rv: Rv(0xa0), tries_left: TriesLeft::One },
            Error::PinUnreadable { source_name: some(), reason: String::new() },
            Error::TokenMissing { wanted: some(), found: some() },
            Error::CardChanged { field: "serial", before: some(), after: some() },
            Error::ProfileMismatch { profile: some(), reason: some() },
            Error::ProfileInvalid { name: some(), reason: some() },
            Error::ProbeFailed { profile: some(), step: some(), reason: some() },
            Error::KeyMissing { key: label() },
            Error::KeyAmbiguous { key: KeyReference::Id(vec![0, 255]), count: 2 },
            Error::KeyUnsuitable { key: KeyReference::Index(u32::MAX), reason: some() },
            Error::HandleUnknown(7),
            Error::AnswerMalformed { what: "signature", reason: some() },
            Error::SignatureWrong,
            Error::Refused { what: "ciphertext", reason: some() },
            Error::Deadline { stage: "inside the library" },
            Error::QueueFull { waiting_count: 9 },
            Error::CircuitOpen { failures_count: 3, last: some() },
            Error::Agent { reason: some() },
            Error::AgentProtocol { reason: some() },
            Error::IdentityFile { path: "/etc/hufu/card-0.identity".into(), reason: some() },
            Error::PinUnanswered { reason: some() },
        ]
    }

    #[test]
    fn every_error_survives_with_class_and_fields() {
        for (index, error) in examples().iter().enumerate() {
            let bytes = to_bytes(error);
            assert_eq!(usize::from(bytes[0]), index + 1, "an example for each kind, in order");
            let back = from_bytes(&bytes).unwrap();
            assert_eq!(format!("{back:?}"), format!("{error:?}"));
            assert_eq!(back.class(), error.class());
        }
    }

    #[test]
    fn every_cut_and_every_longer_one_is_refused() {
        for error in examples() {
            let mut bytes = to_bytes(&error);
            for end in 0..bytes.len() {
                assert!(from_bytes(&bytes[..end]).is_err(), "{error:?} cut to {end}");
            }
            bytes.push(0);
            assert!(from_bytes(&bytes).is_err(), "{error:?} with a byte more");
        }
        for wrong in [&[0][..], &[24], &[25], &[255], &[4, 0, 0, 0, 0, 0, 0, 0, 0, 4]] {
            assert!(from_bytes(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn texts_are_cut_and_shown_on_one_line() {
        let long = "é".repeat(4_000);
        let bytes = to_bytes(&Error::CardChanged {
            field: "serial",
            before: long.clone(),
            after: "a\nERROR forged line\x1b[2J".to_owned(),
        });
        let Ok(Error::CardChanged { before, after, .. }) = from_bytes(&bytes) else { panic!() };
        assert!(long.starts_with(&before) && before.len() == TEXT_BYTES_MAX);
        assert_eq!(after, "a?ERROR forged line?[2J");
        assert!(bytes.len() <= super::super::protocol::BODY_BYTES_MAX);
    }

    #[test]
    fn no_text_of_an_agent_forges_a_line_or_changes_a_terminal() {
        for forged in ["/lib/a\nERROR forged", "/lib/\x1b[2J", "/lib/\0"] {
            for tag in [1, 2, 23] {
                let mut to = Writer::default();
                to.byte(tag);
                to.bytes(forged.as_bytes(), TEXT_BYTES_MAX);
                to.text("because", TEXT_BYTES_MAX);
                assert!(from_bytes(&to.0).is_err(), "{tag}: {forged:?}");
            }
        }
    }

    #[test]
    fn the_table_of_fixed_texts_does_not_grow_for_ever() {
        let known = Mutex::new(Vec::new());
        let text = |number: usize| fixed_in(&known, format!("stage {number}"));
        for number in 0..FIXED_COUNT_MAX {
            assert_eq!(text(number), format!("stage {number}"));
        }
        assert_eq!(text(FIXED_COUNT_MAX), FIXED_UNKNOWN);
        assert_eq!(text(0), "stage 0");
        assert_eq!(known.lock().unwrap().len(), FIXED_COUNT_MAX);
    }
}
