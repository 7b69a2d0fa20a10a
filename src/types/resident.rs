//! Memory that is taken when it is made, not when it is first used.
//!
//! An operating system gives pages to a process as it first writes to them. A table that is only
//! reserved would so make a node grow for hours, and the host might then have no page left to give;
//! what a node owns is taken at its start (design.md 5).

/// Bytes that one page has at least, on every host.
const PAGE_BYTES: usize = 4_096;

/// `count` values, each `filler`, in memory whose every page was written to.
#[must_use]
pub fn filled<T: Copy>(filler: T, count: usize) -> Vec<T> {
    let mut memory = vec![filler; count];
    touch(&mut memory);
    memory
}

/// Writes to every page of `memory`, without a change.
///
/// Zeroes that were just made are not enough: an allocator has them from the operating system
/// without a page behind them, and the compiler knows it.
pub fn touch<T: Copy>(memory: &mut [T]) {
    let step = (PAGE_BYTES / size_of::<T>().max(1)).max(1);
    let touch_one = |value: Option<&mut T>| {
        if let Some(value) = value {
            *value = core::hint::black_box(*value);
        }
    };
    for piece in memory.chunks_mut(step) {
        touch_one(piece.first_mut());
    }
    // The end of the last piece may lie in a page of its own.
    touch_one(memory.last_mut());
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// How many of the pages that `memory` covers the operating system has given to this process.
    fn resident<T>(memory: &[T]) -> (usize, usize) {
        let bytes = size_of_val(memory);
        let (first, last) = (memory.as_ptr().addr(), memory.as_ptr().addr() + bytes - 1);
        let pages = last / PAGE_BYTES - first / PAGE_BYTES + 1;
        let mut entries = vec![0; pages * 8];
        let map = std::fs::File::open("/proc/self/pagemap").unwrap();
        map.read_exact_at(&mut entries, (first / PAGE_BYTES * 8) as u64).unwrap();
        // Bit 63 of an entry: the page is present.
        let present = entries.as_chunks::<8>().0.iter().filter(|entry| entry[7] & 0x80 != 0);
        (present.count(), pages)
    }

    #[test]
    fn what_is_filled_is_resident_and_what_is_only_reserved_is_not() {
        let (present, pages) = resident(&filled(0_u32, 4 << 20));
        assert_eq!((present, pages >= 4_096), (pages, true));
        let (present, pages) = resident(&filled((0_u64, [0_u8; 45]), 100_001));
        assert_eq!(present, pages);
        let (present, pages) = resident(&filled([7_u8; 9_000], 300));
        assert!(present >= 300 && pages > 600, "a value longer than a page has its first one");
        // Otherwise this test would say nothing.
        let zeroes = vec![0_u32; 4 << 20];
        let (present, pages) = resident(&zeroes);
        assert!(present < pages / 2, "{present} of {pages}");
    }

    #[test]
    fn nothing_changes() {
        let mut memory: Vec<u16> = (0..10_000).collect();
        touch(&mut memory);
        assert!(memory.iter().copied().eq(0..10_000));
        touch::<u64>(&mut []);
        assert_eq!(filled((), 3).len(), 3);
    }
}
