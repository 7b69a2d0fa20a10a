//! What audit records of this binary say: every action and every fact, in one place.
//!
//! ```text
//! actor       action               subject            facts
//! node        node.started         name of the node   version, chain, addresses of its keys, ...
//! node        node.stopped         name of the node   height
//! node        key.opened           address            purpose, custody, card, token, serial, key
//! node        data_key.opened      ids                custody
//! sign        key.used             address            from where to where, how often, chain
//! sign        card.away|back       address            why; for how long
//! sign        key.refused          address            why the node stopped
//! user N      card.acknowledged, token.initialised, pin.changed, key.generated,
//!             key.exported, key.imported, data_key.generated      at the command line
//! ```
//!
//! Keys are named by their addresses, users by their numbers, files by their names without the
//! folders, which may be named after people. An error's text has no secret: none of its types
//! carries one.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hufu_consensus::guard::{Position, SignStep};
use hufu_crypto::{Address, Digest};
use hufu_hsm::Error as CardError;
use hufu_storage::audit_log::{Event, Outcome};

/// Who started and stopped it, and opened its keys.
pub const NODE: &str = "node";
/// The sign tile.
pub const SIGN: &str = "sign";
/// A node starts: what follows is one run, and its signatures one chain.
pub const NODE_STARTED: &str = "node.started";
/// A node stopped in order.
pub const NODE_STOPPED: &str = "node.stopped";
/// A key was opened, or was to be.
pub const KEY_OPENED: &str = "key.opened";
/// The data keys were read, or were to be.
pub const DATA_KEY_OPENED: &str = "data_key.opened";
/// The vote key signed.
pub const KEY_USED: &str = "key.used";
/// The card gives no signature and is asked again.
pub const CARD_AWAY: &str = "card.away";
/// The card signs again.
pub const CARD_BACK: &str = "card.back";
/// There is no signature and will be none: the node stops.
pub const KEY_REFUSED: &str = "key.refused";

/// What a node says of itself when it starts; addresses in full, nothing that is secret.
#[derive(Clone, Debug)]
pub struct Started<'a> {
    /// `node.name`.
    pub name: &'a str,
    /// Identifier of the chain.
    pub chain: String,
    /// Of the vote key.
    pub vote_key: Address,
    /// Of the key that seals.
    pub audit_key: Address,
    /// Of the link key, if there are links.
    pub link_key: Option<Address>,
    /// The instructions that it computes with.
    pub kernels: &'a str,
}

/// A node starts.
#[must_use]
pub fn started(started: &Started<'_>) -> Event<'static> {
    let event = Event::new(NODE, NODE_STARTED, started.name.to_owned())
        .with("version", env!("CARGO_PKG_VERSION"))
        .with("data_format", u64::from(hufu_storage::data_dir::DATA_FORMAT_VERSION))
        .with("chain", started.chain.clone())
        .with("vote_key", started.vote_key.to_string())
        .with("audit_key", started.audit_key.to_string())
        .with("kernels", started.kernels.to_owned());
    match started.link_key {
        Some(link_key) => event.with("link_key", link_key.to_string()),
        None => event,
    }
}

/// A node stops in order.
#[must_use]
pub fn stopped(name: &str, height: u64) -> Event<'static> {
    Event::new(NODE, NODE_STOPPED, name.to_owned()).with("height", height)
}

/// A key was opened for something, and these are the facts of its custody.
#[must_use]
pub fn key_opened(
    address: Address,
    purpose: &'static str,
    facts: Vec<(&'static str, String)>,
) -> Event<'static> {
    let event = Event::new(NODE, KEY_OPENED, address.to_string()).with("purpose", purpose);
    facts.into_iter().fold(event, |event, (name, fact)| event.with(name, fact))
}

/// A key could not be opened.
#[must_use]
pub fn key_not_opened(
    address: Address,
    purpose: &'static str,
    outcome: Outcome,
    reason: String,
) -> Event<'static> {
    Event::new(NODE, KEY_OPENED, address.to_string())
        .outcome(outcome)
        .with("purpose", purpose)
        .with("reason", reason)
}

/// The data keys with these ids were read, from where they are kept.
#[must_use]
pub fn data_keys_opened(ids: String, custody: &'static str) -> Event<'static> {
    Event::new(NODE, DATA_KEY_OPENED, ids).with("custody", custody)
}

/// The data keys could not be read.
#[must_use]
pub fn data_keys_not_opened(reason: String) -> Event<'static> {
    Event::new(NODE, DATA_KEY_OPENED, "none").outcome(Outcome::Failed).with("reason", reason)
}

/// What the vote key signed since the record before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Where it signed first.
    pub first: Position,
    /// Where it signed last.
    pub last: Position,
    /// Proposals, prevotes and precommits, count.
    pub counts: [u64; 3],
    /// The chain over all that was signed since the node started.
    pub chain: Digest,
}

/// The names of the counts, in their order.
const COUNTS: [&str; 3] = ["proposals", "prevotes", "precommits"];

/// The three numbers of a position.
const FIRST: [&str; 3] = ["first_height", "first_round", "first_step"];
const LAST: [&str; 3] = ["last_height", "last_round", "last_step"];

/// The steps by their places.
const STEPS: [(SignStep, &str); 3] = [
    (SignStep::Propose, "proposal"),
    (SignStep::Prevote, "prevote"),
    (SignStep::Precommit, "precommit"),
];

/// Which of the counts a step is counted in.
#[must_use]
pub const fn place_of(step: SignStep) -> usize {
    match step {
        SignStep::Propose => 0,
        SignStep::Prevote => 1,
        SignStep::Precommit => 2,
    }
}

/// The vote key signed.
#[must_use]
pub fn used(key: Address, used: &Used) -> Event<'static> {
    let mut event = Event::new(SIGN, KEY_USED, key.to_string());
    for (names, position) in [(FIRST, used.first), (LAST, used.last)] {
        let [height, round, step] = names;
        let word = STEPS[place_of(position.step)].1;
        event = event
            .with(height, position.height)
            .with(round, u64::from(position.round))
            .with(step, word);
    }
    for (name, count) in COUNTS.into_iter().zip(used.counts) {
        event = event.with(name, count);
    }
    event.with("chain", used.chain.to_string())
}

/// Reads a record of [`used`] back; `None` where it is not one.
#[must_use]
pub fn parse_used(record: &hufu_storage::audit_log::Record) -> Option<Used> {
    let position = |names: [&str; 3]| {
        let [height, round, step] = names;
        let word = record.text(step)?;
        let (step, _) = STEPS.into_iter().find(|(_, known)| *known == word)?;
        let round = u32::try_from(record.number(round)?).ok()?;
        Some(Position { height: record.number(height)?, round, step })
    };
    let mut counts = [0; 3];
    for (count, name) in counts.iter_mut().zip(COUNTS) {
        *count = record.number(name)?;
    }
    let chain = Digest::from_hex(record.text("chain")?)?;
    Some(Used { first: position(FIRST)?, last: position(LAST)?, counts, chain })
}

/// The card gives no signature; it is asked again.
#[must_use]
pub fn card_away(key: Address, reason: String) -> Event<'static> {
    Event::new(SIGN, CARD_AWAY, key.to_string()).outcome(Outcome::Failed).with("reason", reason)
}

/// The card signs again.
#[must_use]
pub fn card_back(key: Address, away_millis: u64) -> Event<'static> {
    Event::new(SIGN, CARD_BACK, key.to_string()).with("away_millis", away_millis)
}

/// There is no signature, and none before the node starts anew.
#[must_use]
pub fn key_refused(key: Address, outcome: Outcome, reason: String) -> Event<'static> {
    Event::new(SIGN, KEY_REFUSED, key.to_string()).outcome(outcome).with("reason", reason)
}

/// What an error of a card means for an audit: somebody or something was not let in, or it did not
/// work.
#[must_use]
pub const fn outcome_of(error: &CardError) -> Outcome {
    match error {
        CardError::PinRefused { .. }
        | CardError::CardChanged { .. }
        | CardError::KeyUnsuitable { .. }
        | CardError::ProfileMismatch { .. }
        | CardError::ProbeFailed { .. }
        | CardError::SignatureWrong
        | CardError::Refused { .. } => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

/// The user of this process, by number.
#[must_use]
pub fn user() -> String {
    let facts = std::fs::metadata("/proc/self");
    facts.map_or_else(|_| "user unknown".to_owned(), |facts| format!("user {}", facts.uid()))
}

/// An error's text without the folders of the files it names.
#[must_use]
pub fn reason(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let is_end = |character: char| character.is_whitespace() || "\"'(),;:".contains(character);
    let words = text.split_inclusive(is_end);
    let short = words.map(|word| {
        let end = word.trim_end_matches(is_end).len();
        let (name, behind) = word.split_at(end);
        let last = name.strip_prefix('/').and_then(|path| path.rsplit('/').next());
        let name = last.filter(|last| !last.is_empty()).unwrap_or(name);
        [name, behind].concat()
    });
    short.collect()
}

/// A file without its folders.
#[must_use]
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
