//! Power that goes in the middle of a change, for tests: from then on nothing that this thread does
//! reaches the disk or another process.

use std::cell::Cell;
use std::io;

thread_local! {
    static STEPS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    static IS_OUT: Cell<bool> = const { Cell::new(false) };
}

/// The power goes after so many steps of this thread.
pub(crate) fn fails_after(steps: u32) {
    STEPS_LEFT.set(Some(steps));
}

/// The power is there again; whether anything went without it.
pub(crate) fn comes_back() -> bool {
    STEPS_LEFT.set(None);
    IS_OUT.take()
}

/// Whether it is gone.
pub(crate) fn is_out() -> bool {
    IS_OUT.get()
}

/// What every step asks first.
pub(super) fn step() -> io::Result<()> {
    match STEPS_LEFT.get() {
        Some(0) => {
            IS_OUT.set(true);
            return Err(io::Error::other("the power is out"));
        }
        left => STEPS_LEFT.set(left.map(|left| left - 1)),
    }
    Ok(())
}
