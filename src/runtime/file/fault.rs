//! Faults on purpose: what tests arm so that the k-th write, sync or allocation goes wrong.

use std::sync::{Mutex, PoisonError};

/// The kind of operation a fault waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOperation {
    /// A write to a file, through the ring or directly.
    Write,
    /// An fdatasync or fsync of a file.
    Sync,
    /// The reservation of room for a file.
    Allocate,
}

/// What happens instead of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done and the operation fails with this `errno`.
    Error(i32),
    /// The first bytes of a write reach the file, then it fails with `EIO`.
    Torn {
        /// Bytes that reach the file, rounded down to whole blocks.
        bytes: usize,
    },
}

#[derive(Debug)]
struct Armed {
    operation: FaultOperation,
    remaining: u32,
    fault: Fault,
}

/// The faults that are armed; shared by all files opened through one file system.
#[derive(Debug, Default)]
pub struct FaultPlan {
    armed: Mutex<Vec<Armed>>,
}

impl FaultPlan {
    /// Arms `fault` for the operation after `skip` more of its kind. It fires once.
    pub fn arm(&self, operation: FaultOperation, skip: u32, fault: Fault) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.push(Armed { operation, remaining: skip, fault });
    }

    /// Takes back what has not fired.
    pub fn disarm(&self) {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Counts one operation and returns the fault that falls on it.
    pub(super) fn strike(&self, operation: FaultOperation) -> Option<Fault> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = None;
        for (index, entry) in armed.iter_mut().enumerate() {
            if entry.operation != operation {
                continue;
            }
            if entry.remaining == 0 {
                due = due.or(Some(index));
            } else {
                entry.remaining -= 1;
            }
        }
        due.map(|index| armed.swap_remove(index).fault)
    }
}
