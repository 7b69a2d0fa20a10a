//! What a verification found: faults with place and remedy, and how much was looked at.

use std::fmt;

use serde_json::{Value, json};

use super::Level;

/// Faults that are listed; all are counted.
pub const FAULTS_LISTED_MAX: usize = 100;

/// What to do about a fault, by the part of the folder that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Identity file or copy of the genesis.
    Identity,
    /// The block log.
    BlockLog,
    /// The vote log.
    VoteLog,
    /// The state store.
    State,
}

impl Part {
    /// What an operator does about a fault in it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Identity => {
                "restore the file from a backup of this folder; look at the disk before it is used again"
            }
            Self::BlockLog => {
                "do not start a node on this folder; restore it from a backup or from another validator, and look at the disk"
            }
            Self::VoteLog => {
                "do not vote with this key from this folder: restore `votes` from a copy not older than the last vote, or give the validator a new key"
            }
            Self::State => {
                "stop the node, move the folder `state` aside and start the node: it builds the state again from the block log"
            }
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::BlockLog => "block log",
            Self::VoteLog => "vote log",
            Self::State => "state store",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The part of the folder.
    pub part: Part,
    /// Where in it: segment and offset, family and key, or height.
    pub place: String,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, place, what) = (self.part.name(), &self.place, &self.what);
        write!(formatter, "{part}, {place}: {what}\n  do: {}", self.part.remedy())
    }
}

impl Fault {
    fn to_json(&self) -> Value {
        json!({
            "part": self.part.name(),
            "where": self.place,
            "what": self.what,
            "remedy": self.part.remedy(),
        })
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segments of the block log.
    pub segments: u64,
    /// Groups of the block log.
    pub groups: u64,
    /// Bytes of the block log's groups, padding included.
    pub bytes: u64,
    /// Records of the block log.
    pub records: u64,
    /// Blocks whose headers were followed.
    pub blocks: u64,
    /// Batches read.
    pub batches: u64,
    /// Transactions in blocks.
    pub transactions: u64,
    /// Transaction signatures verified.
    pub signatures: u64,
    /// Commit certificates verified.
    pub certificates: u64,
    /// Blocks executed again.
    pub replayed: u64,
    /// Bytes of the vote log's groups, padding included.
    pub vote_bytes: u64,
    /// Records of the vote log.
    pub vote_records: u64,
    /// Sign intents among them.
    pub sign_intents: u64,
    /// Entries of the state that were matched with their bucket rows.
    pub state_entries: u64,
    /// Bucket rows.
    pub bucket_rows: u64,
    /// Forks above them, in buckets with more entries than a row takes.
    pub bucket_forks: u64,
    /// Nonces in the expiry index.
    pub expiring_nonces: u64,
    /// Receipts matched with their blocks.
    pub receipts: u64,
    /// Accounts, closed ones included.
    pub accounts: u64,
    /// Assets whose holdings sum up to their supply.
    pub assets: u64,
}

impl Counts {
    fn named(&self) -> [(&'static str, u64); 20] {
        [
            ("segments", self.segments),
            ("groups", self.groups),
            ("bytes", self.bytes),
            ("records", self.records),
            ("blocks", self.blocks),
            ("batches", self.batches),
            ("transactions", self.transactions),
            ("signatures", self.signatures),
            ("certificates", self.certificates),
            ("replayed", self.replayed),
            ("vote_bytes", self.vote_bytes),
            ("vote_records", self.vote_records),
            ("sign_intents", self.sign_intents),
            ("state_entries", self.state_entries),
            ("bucket_rows", self.bucket_rows),
            ("bucket_forks", self.bucket_forks),
            ("expiring_nonces", self.expiring_nonces),
            ("receipts", self.receipts),
            ("accounts", self.accounts),
            ("assets", self.assets),
        ]
    }
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How deep it looked.
    pub level: Level,
    /// The chain, in hexadecimal.
    pub chain_id: String,
    /// Height of the last block in the log.
    pub height: u64,
    /// Height of the state in the store; the log may be ahead of it.
    pub applied_height: u64,
    /// Root of that state, in hexadecimal; empty where there is none.
    pub state_root: String,
    /// How much was looked at.
    pub counts: Counts,
    /// The first faults, at most [`FAULTS_LISTED_MAX`].
    pub faults: Vec<Fault>,
    /// All faults.
    pub faults_count: u64,
    /// What is no fault but worth knowing, such as a torn tail.
    pub notices: Vec<String>,
}

impl Report {
    pub(super) fn new(level: Level, chain_id: String) -> Self {
        Self {
            level,
            chain_id,
            height: 0,
            applied_height: 0,
            state_root: String::new(),
            counts: Counts::default(),
            faults: Vec::new(),
            faults_count: 0,
            notices: Vec::new(),
        }
    }

    /// True when nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.faults_count == 0
    }

    /// Takes a fault in; one that two checks meet is counted once while it is listed.
    pub(super) fn fault(&mut self, part: Part, place: impl fmt::Display, what: impl fmt::Display) {
        let fault = Fault { part, place: place.to_string(), what: what.to_string() };
        if self.faults.contains(&fault) {
            return;
        }
        self.faults_count += 1;
        if self.faults.len() < FAULTS_LISTED_MAX {
            self.faults.push(fault);
        }
        assert!(self.faults.len() <= FAULTS_LISTED_MAX, "the list is bounded");
    }

    /// The report as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let checked: serde_json::Map<String, Value> = self
            .counts
            .named()
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count.into()))
            .collect();
        json!({
            "level": self.level.name(),
            "clean": self.is_clean(),
            "chain_id": self.chain_id,
            "height": self.height,
            "applied_height": self.applied_height,
            "state_root": self.state_root,
            "checked": checked,
            "faults_count": self.faults_count,
            "faults": self.faults.iter().map(Fault::to_json).collect::<Vec<_>>(),
            "notices": self.notices,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "chain {}, height {}, level {}",
            self.chain_id,
            self.height,
            self.level.name()
        )?;
        for (name, count) in self.counts.named().into_iter().filter(|(_, count)| *count > 0) {
            writeln!(formatter, "checked  {:<16} {count:>14}", name.replace('_', " "))?;
        }
        for notice in &self.notices {
            writeln!(formatter, "note     {notice}")?;
        }
        for fault in &self.faults {
            writeln!(formatter, "FAULT    {fault}")?;
        }
        match self.faults_count {
            0 => write!(formatter, "clean: no fault found"),
            count => write!(formatter, "{count} faults, {} listed", self.faults.len()),
        }
    }
}
