//! What went wrong with a card, as exit code and remedy.

use std::fmt;

use hufu_hsm::config::ConfigError;
use hufu_hsm::error::TriesLeft;
use hufu_hsm::{Error, ErrorClass};

use super::super::CliError;

/// The error of a card at a place: its file, its library. What the operator set up is at fault
/// (78), or the command failed (1).
pub(in crate::cli) fn fault(error: &Error, place: impl fmt::Display) -> CliError {
    let (is_configuration, remedy) = cause(error);
    if is_configuration {
        CliError::misconfigured(error, place, remedy)
    } else {
        CliError::failed(error, place, remedy)
    }
}

/// A card's file that is refused, all faults at once.
pub(super) fn refused_file(error: &ConfigError) -> CliError {
    CliError::misconfigured(
        error.faults.join("; "),
        error.path.display(),
        "correct the file; `hufu hsm probe` says what is behind a library",
    )
}

/// What an operator does about an error.
pub(super) fn remedy(error: &Error) -> String {
    cause(error).1
}

/// Whether what was set up is at fault, and what to do.
fn cause(error: &Error) -> (bool, String) {
    let (is_configuration, text) = match error {
        Error::LibraryLoad { .. } => (
            true,
            "check the path; install the library for this machine, and what it needs (`ldd` \
             lists it)",
        ),
        Error::LibraryUnusable { .. } => {
            (true, "name the vendor's PKCS#11 library, which has C_GetFunctionList")
        }
        Error::PinRefused { tries_left: TriesLeft::None, .. } => {
            (true, "the token is locked: its security officer sets a new PIN")
        }
        Error::PinRefused { .. } => {
            (true, "put the right PIN there before anything tries again: each attempt counts")
        }
        Error::PinUnanswered { .. } => (
            true,
            "see with `hufu hsm status` what the library does with the PIN, and how many attempts \
             are left, before a node tries it again",
        ),
        Error::PinUnreadable { .. } => {
            (true, "give the PIN in a file of mode 0600 that belongs to this user")
        }
        Error::TokenMissing { .. } => {
            (true, "insert the card, or name one that is found; `hufu hsm probe` lists them")
        }
        Error::CardChanged { .. } => (
            true,
            "if the change was meant: `hufu hsm acknowledge`; else find out who changed the card",
        ),
        Error::IdentityFile { .. } => (
            true,
            "check the file and its folder; `hufu hsm acknowledge --yes` writes it anew from the \
             card that is there",
        ),
        Error::ProfileMismatch { .. } => {
            (true, "take the profile of this vendor, or draft one: `hufu hsm probe --draft FILE`")
        }
        Error::ProfileInvalid { .. } => (true, "correct the profile: the message says where"),
        Error::ProbeFailed { .. } => (
            true,
            "the card does not do what its profile says: draft one with `hufu hsm probe --draft \
             FILE`, or ask the vendor",
        ),
        Error::KeyMissing { .. } => (false, "check the name, or make the key: `hufu hsm keygen`"),
        Error::KeyAmbiguous { .. } => (false, "name it by id, or delete what is not used"),
        Error::KeyUnsuitable { .. } => {
            (false, "make a key of its own for this use: `hufu hsm keygen`")
        }
        Error::SignatureWrong | Error::AnswerMalformed { .. } => {
            (false, "take the card out of service and have it examined")
        }
        Error::Deadline { .. } | Error::QueueFull { .. } => {
            (false, "the card is slow or busy: try again, or raise deadline_millis of its file")
        }
        Error::Call { class, .. } => (false, by_class(*class)),
        _ => (false, by_class(error.class())),
    };
    (is_configuration, text.to_owned())
}

const fn by_class(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Session | ErrorClass::Login => "try again: the card ended the session",
        ErrorClass::TokenLost => "look whether the card is there and its driver runs",
        ErrorClass::Throttled => "the card has no room now: end other users of it, or wait",
        ErrorClass::Permanent => "look this return value up in the vendor's manual",
    }
}
