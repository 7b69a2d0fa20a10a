//! What makes a token slow, absent or wrong on command, and the page of memory in which commands
//! stand.
//!
//! ```text
//! tool, test --Faults::set--> slot-00/control (mapped by all) --read at each call--> Slot
//! ```
//!
//! A module that nobody commands pays a few loads of memory a call. The page also carries the
//! generation of the token's content, by which a process sees that another one changed it.

mod clock;
mod page;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use clock::sleep_micros;
use page::Page;

use crate::store::CONTROL;

/// The words of the page. New ones are added at the end: an old process may have it mapped.
#[derive(Clone, Copy)]
enum Word {
    Magic,
    Generation,
    LatencyMicros,
    Hang,
    RemovedUntilMicros,
    RemovalsCount,
    SessionLostOneIn,
    ThrottledOneIn,
    OutOfSessions,
    GarbageKind,
    GarbageOneIn,
    CallsCount,
    SlotEventsCount,
    IdleMillis,
}

const MAGIC: u64 = u64::from_le_bytes(*b"HUFUCTL1");

/// Longest that a device can be told to stay away: a stale command of an earlier boot, whose clock
/// began at zero, ends with it.
const REMOVED_MILLIS_MAX: u64 = 3_600_000;

/// Between two looks at the page while something is waited for.
const WAIT_MICROS: u64 = 1_000;

/// What a wrong answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// DER with a negative integer, whatever form was asked for.
    WrongDer,
    /// One bit is flipped.
    FlippedBit,
    /// The last byte is missing.
    Short,
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Each operation with a key takes so much longer.
    Latency {
        /// Microseconds; 0 ends it.
        micros: u64,
    },
    /// Every call waits until this is taken back.
    Hang(bool),
    /// The device is away for so long, then back with nobody logged in and no session open.
    Removed {
        /// Milliseconds, one hour at most; 0 brings it back.
        millis: u64,
    },
    /// One in so many operations finds its session gone.
    SessionLost {
        /// 0 ends it.
        one_in: u64,
    },
    /// A session that was idle for so long is gone.
    Idle {
        /// Milliseconds; 0 ends it.
        millis: u64,
    },
    /// One in so many operations is refused as too much.
    Throttled {
        /// 0 ends it.
        one_in: u64,
    },
    /// No session can be opened.
    OutOfSessions(bool),
    /// One in so many signatures is wrong.
    Garbage {
        /// How.
        kind: Garbage,
        /// 0 ends it.
        one_in: u64,
    },
}

/// The control page of one token.
#[derive(Debug)]
pub struct Faults {
    page: Page,
}

impl Faults {
    /// The page of a slot's token in this store, whose folder is there.
    ///
    /// # Errors
    /// If it cannot be made, opened or mapped.
    pub fn open(store: &Path, slot: u32) -> io::Result<Self> {
        Self::of_folder(&store.join(format!("slot-{slot:02}")))
    }

    pub(crate) fn of_folder(folder: &Path) -> io::Result<Self> {
        let faults = Self { page: Page::open(&folder.join(CONTROL))? };
        let magic = faults.word(Word::Magic);
        match magic.compare_exchange(0, MAGIC, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(MAGIC) => Ok(faults),
            Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "no control page of ours")),
        }
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        self.page.word(word as usize)
    }

    fn load(&self, word: Word) -> u64 {
        self.word(word).load(Ordering::Acquire)
    }

    fn store(&self, word: Word, value: u64) {
        self.word(word).store(value, Ordering::Release);
    }

    /// Commands a fault, or takes it back.
    pub fn set(&self, fault: Fault) {
        match fault {
            Fault::Latency { micros } => self.store(Word::LatencyMicros, micros),
            Fault::Hang(on) => self.store(Word::Hang, u64::from(on)),
            Fault::Removed { millis } => {
                let micros = millis.min(REMOVED_MILLIS_MAX) * 1_000;
                let until = if millis > 0 { clock::now_micros() + micros } else { 0 };
                // Away first, then counted: a session opened in between would outlive the removal.
                self.store(Word::RemovedUntilMicros, until);
                self.word(Word::RemovalsCount).fetch_add(u64::from(millis > 0), Ordering::AcqRel);
                self.word(Word::SlotEventsCount).fetch_add(1, Ordering::AcqRel);
            }
            Fault::SessionLost { one_in } => self.store(Word::SessionLostOneIn, one_in),
            Fault::Idle { millis } => self.store(Word::IdleMillis, millis),
            Fault::Throttled { one_in } => self.store(Word::ThrottledOneIn, one_in),
            Fault::OutOfSessions(on) => self.store(Word::OutOfSessions, u64::from(on)),
            Fault::Garbage { kind, one_in } => {
                self.store(Word::GarbageKind, kind as u64);
                self.store(Word::GarbageOneIn, one_in);
            }
        }
    }

    /// Takes back all commands.
    pub fn clear(&self) {
        let kind = Garbage::WrongDer;
        for fault in [
            Fault::Latency { micros: 0 },
            Fault::Hang(false),
            Fault::Removed { millis: 0 },
            Fault::SessionLost { one_in: 0 },
            Fault::Idle { millis: 0 },
            Fault::Throttled { one_in: 0 },
            Fault::OutOfSessions(false),
            Fault::Garbage { kind, one_in: 0 },
        ] {
            self.set(fault);
        }
    }

    /// Operations that faults could strike, since the page was made; for tests and the tool.
    #[must_use]
    pub fn calls_count(&self) -> u64 {
        self.load(Word::CallsCount)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.load(Word::Generation)
    }

    /// Tells other processes that the content changes; gives the new generation.
    pub(crate) fn content_changed(&self) -> u64 {
        #[cfg(test)]
        if crate::store::power::is_out() {
            return self.generation();
        }
        self.word(Word::Generation).fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Removals commanded so far: who has seen fewer has lost its sessions.
    pub(crate) fn removals_count(&self) -> u64 {
        self.load(Word::RemovalsCount)
    }

    /// Changes of a token's presence so far.
    pub(crate) fn events_count(&self) -> u64 {
        let away = u64::from(self.is_removed());
        self.load(Word::SlotEventsCount).saturating_mul(2).saturating_sub(away)
    }

    pub(crate) fn is_removed(&self) -> bool {
        let until = self.load(Word::RemovedUntilMicros);
        // The clock is asked only where somebody commanded it.
        if until == 0 {
            return false;
        }
        let now = clock::now_micros();
        until > now && until - now <= REMOVED_MILLIS_MAX * 1_000
    }

    /// Whether a session was idle for too long, and that it is not now. `used` holds microseconds.
    pub(crate) fn outlives(&self, used: &AtomicU64) -> bool {
        let limit = self.load(Word::IdleMillis);
        if limit == 0 {
            return false;
        }
        let now = clock::now_micros();
        let before = used.swap(now, Ordering::AcqRel);
        before != 0 && now.saturating_sub(before) > limit.saturating_mul(1_000)
    }

    pub(crate) fn is_out_of_sessions(&self) -> bool {
        self.load(Word::OutOfSessions) != 0
    }

    /// Returns when the token does not hang.
    pub(crate) fn wait_while_hanging(&self) {
        while self.load(Word::Hang) != 0 {
            sleep_micros(WAIT_MICROS);
        }
    }

    pub(crate) fn latency_micros(&self) -> u64 {
        self.load(Word::LatencyMicros)
    }

    /// The number of this operation among all, by which one in so many is struck.
    pub(crate) fn count_call(&self) -> u64 {
        self.word(Word::CallsCount).fetch_add(1, Ordering::AcqRel) + 1
    }

    fn strikes(&self, word: Word, call: u64) -> bool {
        let one_in = self.load(word);
        one_in != 0 && call.is_multiple_of(one_in)
    }

    pub(crate) fn loses_session(&self, call: u64) -> bool {
        self.strikes(Word::SessionLostOneIn, call)
    }

    pub(crate) fn throttles(&self, call: u64) -> bool {
        self.strikes(Word::ThrottledOneIn, call)
    }

    /// Spoils the signature of an operation if its turn has come.
    pub(crate) fn spoil(&self, call: u64, signature: &mut Vec<u8>) {
        if !self.strikes(Word::GarbageOneIn, call) {
            return;
        }
        let kind = self.load(Word::GarbageKind);
        if kind == Garbage::WrongDer as u64 {
            // INTEGER of 32 bytes with its sign bit set, twice, in a SEQUENCE: negative numbers.
            *signature =
                [&[0x30, 0x44, 0x02, 0x20][..], &[0xff; 32], &[0x02, 0x20], &[0x81; 32]].concat();
        } else if kind == Garbage::FlippedBit as u64 {
            if let Some(byte) = signature.last_mut() {
                *byte ^= 1;
            }
        } else {
            signature.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_openings_see_one_page() {
        let folder = tempfile::tempdir().unwrap();
        let one = Faults::of_folder(folder.path()).unwrap();
        let other = Faults::of_folder(folder.path()).unwrap();
        assert_eq!((one.generation(), one.content_changed(), other.generation()), (0, 1, 1));
        one.set(Fault::Removed { millis: 60_000 });
        assert!(other.is_removed() && other.removals_count() == 1);
        let events = other.events_count();
        one.set(Fault::Removed { millis: 0 });
        assert!(!other.is_removed());
        assert!(other.events_count() > events);
        one.set(Fault::SessionLost { one_in: 3 });
        let struck: Vec<bool> = (1..=6).map(|call| other.loses_session(call)).collect();
        assert_eq!(struck, [false, false, true, false, false, true]);
        one.clear();
        assert!((1..=6).all(|call| !other.loses_session(call)));
    }

    #[test]
    fn a_foreign_page_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONTROL), [7; 4096]).unwrap();
        assert!(Faults::of_folder(folder.path()).is_err());
    }

    #[test]
    fn signatures_are_spoiled_as_commanded() {
        let folder = tempfile::tempdir().unwrap();
        let faults = Faults::of_folder(folder.path()).unwrap();
        for (kind, size) in
            [(Garbage::WrongDer, 70), (Garbage::FlippedBit, 64), (Garbage::Short, 63)]
        {
            faults.set(Fault::Garbage { kind, one_in: 1 });
            let mut signature = vec![5; 64];
            faults.spoil(faults.count_call(), &mut signature);
            assert_eq!(signature.len(), size);
            assert_ne!(signature, [5; 64]);
        }
    }
}
