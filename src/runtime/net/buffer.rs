//! The two byte buffers of a connection.

use super::memory::Memory;

/// Received bytes, contiguous, in plain memory that only this process touches.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReceiveBuffer {
    pub(super) fn new(capacity: usize) -> Self {
        // Zeroed memory of this size comes from the kernel untouched, so it is not resident yet.
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) const fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) const fn room(&self) -> usize {
        self.bytes.len() - self.len()
    }

    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "{count} bytes consumed of {}", self.len());
        self.start += count;
        if self.start == self.end {
            self.clear();
        }
    }

    pub(super) const fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// The free part behind the unread bytes, at least `count` bytes long. Moves the unread bytes
    /// to the front when the end is too near.
    pub(super) fn spare(&mut self, count: usize) -> &mut [u8] {
        assert!(count <= self.room(), "{count} bytes wanted of {}", self.room());
        if self.bytes.len() - self.end < count {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Counts `count` bytes written into [`spare`](Self::spare) as received.
    pub(super) fn filled(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "{count} bytes behind the end");
        self.end += count;
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.spare(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }
}

/// Bytes to send: a ring inside the table's send memory. The kernel may be reading its pending part
/// at any time, so new bytes go only into the free part.
#[derive(Debug)]
pub(super) struct SendBuffer {
    base: usize,
    capacity: usize,
    start: usize,
    pending: usize,
}

impl SendBuffer {
    /// A ring over `capacity` bytes of the send memory from `base` on.
    pub(super) const fn new(base: usize, capacity: usize) -> Self {
        Self { base, capacity, start: 0, pending: 0 }
    }

    pub(super) const fn pending(&self) -> usize {
        self.pending
    }

    pub(super) const fn room(&self) -> usize {
        self.capacity - self.pending
    }

    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Empties the ring. The caller knows that the kernel reads none of it.
    pub(super) const fn clear(&mut self) {
        self.start = 0;
        self.pending = 0;
    }

    /// Copies in as many bytes as fit and says how many.
    pub(super) fn append(&mut self, memory: &Memory, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let end = self.start + self.pending;
        let end = if end >= self.capacity { end - self.capacity } else { end };
        let first = count.min(self.capacity - end);
        let (head, tail) = bytes[..count].split_at(first);
        // SAFETY: the part from `end` on is free: it belongs to this connection's ring alone, and
        // the kernel was only ever given pending parts.
        unsafe { memory.copy_in(self.base + end, head) };
        // SAFETY: the same holds for the part at the beginning, which is free since the pending
        // bytes and `count` together fit the ring.
        unsafe { memory.copy_in(self.base, tail) };
        self.pending += count;
        count
    }

    /// Offset and length in the send memory of the first contiguous pending part.
    pub(super) fn front(&self) -> (usize, usize) {
        (self.base + self.start, self.pending.min(self.capacity - self.start))
    }

    /// Drops the first `count` pending bytes, which the kernel has taken.
    pub(super) fn advance(&mut self, count: usize) {
        assert!(count <= self.pending, "{count} bytes sent of {}", self.pending);
        self.start += count;
        if self.start >= self.capacity {
            self.start -= self.capacity;
        }
        self.pending -= count;
        if self.pending == 0 {
            self.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Both buffers behave like a bounded queue of bytes.
        #[test]
        fn buffers_are_bounded_queues(
            capacity in 1_usize..40,
            steps in prop::collection::vec((any::<bool>(), 0_usize..50), 1..80),
        ) {
            let memory = Memory::new(100).unwrap();
            let mut send = SendBuffer::new(13, capacity);
            let mut receive = ReceiveBuffer::new(capacity);
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut next = 0_u8;
            for (is_append, size) in steps {
                if is_append {
                    let mut byte = || {
                        next = next.wrapping_add(1);
                        next
                    };
                    let bytes: Vec<u8> = (0..size).map(|_| byte()).collect();
                    let taken = send.append(&memory, &bytes);
                    prop_assert_eq!(taken, size.min(capacity - model.len()));
                    receive.append(&bytes[..taken]);
                    model.extend(&bytes[..taken]);
                } else {
                    let (offset, len) = send.front();
                    let count = size.min(len);
                    // SAFETY: no kernel is involved in this test.
                    let front = unsafe { memory.slice(offset, len) };
                    prop_assert!(model.iter().zip(front).all(|(a, b)| a == b));
                    send.advance(count);
                    receive.consume(count);
                    model.drain(..count);
                }
                prop_assert_eq!(send.pending(), model.len());
                prop_assert_eq!(send.room(), capacity - model.len());
                prop_assert_eq!(receive.len(), model.len());
                prop_assert_eq!(receive.unread(), model.make_contiguous());
            }
        }
    }
}
