//! The signer: how long its answer takes, and whether this validator goes on without it.
//!
//! ```text
//! Sign --> asked --patience--> late --the height is decided elsewhere--> given up --Signed--> idle
//!            '----------------------------- Signed --------------------------------------> idle
//! ```
//! The engine asks for one signature at a time and stands still until it is there. A card that is
//! away must cost this validator its votes and no more: once the signer is late, messages that the
//! engine has no room for are dropped instead of holding up the links of peers, and a height that
//! peers have decided is taken over from them. The engine gives that height up and begins none
//! before the signer has answered; what it answers to a height that was given up is of no use and
//! not told to anybody. The guard remembers what was admitted, as it does over a restart.

use crate::durable::SignTicket;

/// How long a signature may take before this validator goes on without it, nanoseconds: many times
/// what a card takes, and short enough to follow a chain before what its clients sent expires.
pub(super) const SIGNER_PATIENCE_NANOS: u64 = 250_000_000;

/// What the signer was asked for and has not answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: SignTicket,
    since: u64,
    is_late: bool,
    is_given_up: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Signer {
    asked: Option<Asked>,
}

impl Signer {
    /// It is asked for a signature.
    pub(super) fn asked(&mut self, now: u64, ticket: SignTicket) {
        assert!(self.asked.is_none(), "one signature at a time");
        self.asked = Some(Asked { ticket, since: now, is_late: false, is_given_up: false });
    }

    /// It has answered; `true` if nobody waits for this answer any more.
    pub(super) fn answered(&mut self, ticket: SignTicket) -> bool {
        self.asked.take_if(|asked| asked.ticket == ticket).is_some_and(|asked| asked.is_given_up)
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: u64) {
        if let Some(asked) = &mut self.asked {
            asked.is_late |= now >= asked.since.saturating_add(SIGNER_PATIENCE_NANOS);
        }
    }

    /// The height for which it was asked is decided without this validator's vote.
    pub(super) fn give_up(&mut self) {
        assert!(self.is_late(), "only a signer that is late is given up");
        if let Some(asked) = &mut self.asked {
            asked.is_given_up = true;
        }
    }

    /// Whether an answer is outstanding.
    pub(super) const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether an answer is outstanding for longer than it may be.
    pub(super) fn is_late(&self) -> bool {
        self.asked.is_some_and(|asked| asked.is_late)
    }

    /// Whether the answer that is outstanding is of no use any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.asked.is_some_and(|asked| asked.is_given_up)
    }

    /// For how long an answer is outstanding, nanoseconds, once that is too long.
    pub(super) fn late_nanos(&self, now: u64) -> Option<u64> {
        let late = self.asked.filter(|asked| asked.is_late);
        late.map(|asked| now.saturating_sub(asked.since))
    }

    /// When [`Signer::tick`] has something to say.
    pub(super) fn deadline(&self) -> Option<u64> {
        let asked = self.asked.filter(|asked| !asked.is_late);
        asked.map(|asked| asked.since.saturating_add(SIGNER_PATIENCE_NANOS))
    }
}
