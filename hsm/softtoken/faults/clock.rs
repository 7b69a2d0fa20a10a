//! Time and waiting for the faults. This crate stands below `runtime` and is loaded into other
//! people's processes, so it asks the system itself.

use libc::{CLOCK_MONOTONIC, EINTR, clock_gettime, clock_nanosleep, timespec};

/// Microseconds on the clock that all processes of this machine share; it never goes back.
pub(super) fn now_micros() -> u64 {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec of ours to write to.
    let failed = unsafe { clock_gettime(CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(failed, 0, "the monotonic clock is always there");
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000) + u64::try_from(now.tv_nsec / 1_000).unwrap_or(0)
}

/// Sleeps; signals do not shorten it.
pub(crate) fn sleep_micros(micros: u64) {
    let Ok(seconds) = (micros / 1_000_000).try_into() else { return };
    let Ok(nanos) = (micros % 1_000_000 * 1_000).try_into() else { return };
    let mut left = timespec { tv_sec: seconds, tv_nsec: nanos };
    loop {
        let asked = left;
        // SAFETY: both are timespecs of ours; `asked` is read and `left` is written.
        let failed =
            unsafe { clock_nanosleep(CLOCK_MONOTONIC, 0, &raw const asked, &raw mut left) };
        if failed != EINTR {
            return;
        }
    }
}
