//! Time: the only caller of the operating system's clocks.
//!
//! Two clocks that must not be mixed have two types. [`Nanos`] is monotonic and serves deadlines,
//! latencies and counters; it means nothing outside this process. [`UnixNanos`] is the wall clock
//! and serves header times and certificates; it may jump, so nothing waits on it.
//!
//! Rules without I/O (floors 3 and 4) never call this module: their shells read the clock once per
//! batch and hand the reading in.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A reading of the monotonic clock: nanoseconds since this process first asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(u64);

impl Nanos {
    /// The moment the process first read the clock.
    pub const ZERO: Self = Self(0);
    /// A moment that never comes.
    pub const MAX: Self = Self(u64::MAX);

    /// A reading from a count of nanoseconds, for simulated clocks and tests.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The count of nanoseconds.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The moment `wait` later; [`Nanos::MAX`] where the sum does not fit.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(saturating_nanos(wait)))
    }

    /// Nanoseconds from `earlier` to here; 0 when `earlier` is in fact later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The same as [`Nanos::since`], as a duration.
    #[must_use]
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.since(earlier))
    }
}

/// A reading of the wall clock: nanoseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(u64);

impl UnixNanos {
    /// A reading from a count of nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The count of nanoseconds; it lasts until the year 2554.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The count of whole milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
}

/// Reads the monotonic clock.
#[must_use]
pub fn monotonic() -> Nanos {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let now = instant();
    let origin = *ORIGIN.get_or_init(|| now);
    // A thread that lost the race to set the origin may hold a reading just before it.
    Nanos(saturating_nanos(now.saturating_duration_since(origin)))
}

/// Reads the wall clock. A clock set before 1970 reads as 0: the reader's bounds refuse it.
#[must_use]
pub fn wall() -> UnixNanos {
    #[allow(clippy::disallowed_methods, reason = "this module is the home of the wall clock")]
    let now = SystemTime::now();
    UnixNanos(now.duration_since(UNIX_EPOCH).map_or(0, saturating_nanos))
}

fn instant() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "this module is the home of the monotonic clock")]
    Instant::now()
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_never_goes_back() {
        let mut last = monotonic();
        for _ in 0..10_000 {
            let now = monotonic();
            assert!(now >= last);
            last = now;
        }
    }

    #[test]
    fn differences_saturate() {
        let (early, late) = (Nanos::from_nanos(5), Nanos::from_nanos(9));
        assert_eq!(late.since(early), 4);
        assert_eq!(early.since(late), 0);
        assert_eq!(Nanos::MAX.after(Duration::from_secs(1)), Nanos::MAX);
        assert_eq!(early.after(Duration::from_nanos(4)), late);
        assert_eq!(late.duration_since(early), Duration::from_nanos(4));
    }

    #[test]
    fn wall_clock_is_in_this_century() {
        let year_2020 = UnixNanos::from_nanos(1_577_836_800_000_000_000);
        assert!(wall() > year_2020);
        assert_eq!(year_2020.as_millis(), 1_577_836_800_000);
    }
}
