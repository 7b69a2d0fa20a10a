//! Proof that something is on disk: tickets of the vote log, and values that wear them.
//!
//! ```text
//! engine: append(record) -> LogTicket -> persist-vote tile: write, fdatasync
//!         -> VoteLogDurable(LogTicket) -> Durable<T>
//! ```
//!
//! Only this crate makes a [`Durable`], and only from a ticket that a
//! [`crate::engine::Input::VoteLogDurable`] has covered or from a record read back from the log, so
//! a signer that takes nothing else cannot sign ahead of the disk.

/// Number of a record in this run's order of appends, from 1. Records become durable in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogTicket(pub u64);

/// Number of a request for a signature in this run, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SignTicket(pub u64);

/// Something whose record in the vote log is durable on this validator.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Durable<T> {
    value: T,
}

impl<T> Durable<T> {
    /// The value, if the record behind `appended` lies within what is durable.
    pub(crate) fn witness(value: T, appended: LogTicket, log: &LogCursor) -> Option<Self> {
        let is_durable = appended <= log.durable || hufu_types::planted!("signed_before_durable");
        is_durable.then_some(Self { value })
    }

    /// What is durable.
    pub const fn get(&self) -> &T {
        &self.value
    }
}

/// How far the vote log was appended, and how far it is durable.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogCursor {
    appended: LogTicket,
    durable: LogTicket,
}

impl LogCursor {
    /// The ticket of one more record.
    pub(crate) fn append(&mut self) -> LogTicket {
        self.appended = LogTicket(self.appended.0 + 1);
        assert!(self.appended > self.durable, "a record is durable only after it was appended");
        self.appended
    }

    /// The last record appended.
    pub(crate) const fn appended(&self) -> LogTicket {
        self.appended
    }

    /// The last record durable.
    pub(crate) const fn durable(&self) -> LogTicket {
        self.durable
    }

    /// Takes note that all records up to `ticket` are durable; `false` if no such record was
    /// appended.
    #[must_use]
    pub(crate) fn advance(&mut self, ticket: LogTicket) -> bool {
        if ticket > self.appended {
            return false;
        }
        self.durable = self.durable.max(ticket);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_durable_ticket_makes_a_durable_value() {
        let mut log = LogCursor::default();
        let (first, second) = (log.append(), log.append());
        assert!(Durable::witness((), first, &log).is_none());
        assert!(log.advance(first));
        assert!(Durable::witness((), first, &log).is_some());
        assert!(Durable::witness((), second, &log).is_none());
        assert!(!log.advance(LogTicket(3)), "never appended");
        assert!(log.advance(first), "an older ticket changes nothing");
        assert_eq!(log.durable(), first);
    }
}
