//! The ring of provided buffers: memory that the kernel picks from when a multishot receive has
//! bytes to deliver.
//!
//! A buffer is either in the ring (the kernel may write to it), or out (its bytes are ours until it
//! is given back). The entries and the data are two mappings that live as long as this value; the
//! driver drops it only when no receive is under way and the ring is closed.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use super::memory::Memory;

/// The one buffer group of a reactor's ring.
pub(super) const GROUP: u16 = 0;

#[derive(Debug)]
pub(super) struct Pool {
    entries: Memory,
    data: Memory,
    count: u16,
    buffer_bytes: usize,
    tail: u16,
    /// How many buffers the kernel may pick from.
    available: u16,
    /// Per buffer: whether it is out.
    is_out: Box<[bool]>,
}

impl Pool {
    /// Takes the memory; `count` is a power of two, at most 32,768.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "{count} buffers are not a power of two");
        let buffer_bytes = usize::try_from(buffer_bytes).map_err(io::Error::other)?;
        let places = usize::from(count);
        let entries = Memory::new(places * std::mem::size_of::<BufRingEntry>())?;
        let data = Memory::new(places * buffer_bytes)?;
        let is_out = vec![true; places].into_boxed_slice();
        let mut pool = Self { entries, data, count, buffer_bytes, tail: 0, available: 0, is_out };
        for buffer in 0..count {
            pool.give_back(buffer);
        }
        Ok(pool)
    }

    /// Makes the ring known to the kernel.
    pub(super) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.entries.pointer(0, 0).addr();
        let address = u64::try_from(address).map_err(io::Error::other)?;
        // SAFETY: the mapping is page-aligned, holds `count` entries and, as the module says,
        // outlives the ring.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, 0) }
    }

    /// Keeps the memory for ever, because the kernel may still use it.
    pub(super) const fn leak(&mut self) {
        self.entries.leak();
        self.data.leak();
    }

    pub(super) const fn available(&self) -> u16 {
        self.available
    }

    /// Notes that the kernel has put `len` bytes into `buffer` and taken it out of the ring.
    pub(super) fn taken(&mut self, buffer: u16, len: usize) {
        let place = usize::from(buffer);
        assert!(buffer < self.count, "the kernel took buffer {buffer} of {}", self.count);
        assert!(!self.is_out[place], "the kernel took buffer {buffer} twice");
        assert!(len <= self.buffer_bytes, "the kernel wrote {len} bytes to buffer {buffer}");
        self.is_out[place] = true;
        self.available -= 1;
    }

    /// The first `len` bytes of a buffer that is out.
    pub(super) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        let place = usize::from(buffer);
        assert!(self.is_out[place], "buffer {buffer} is in the ring");
        assert!(len <= self.buffer_bytes, "{len} bytes wanted of buffer {buffer}");
        // SAFETY: the buffer is out of the ring, so the kernel writes to it no more, and giving it
        // back needs exclusive access to the pool, which ends this slice.
        unsafe { self.data.slice(place * self.buffer_bytes, len) }
    }

    /// Puts a buffer back into the ring.
    pub(super) fn give_back(&mut self, buffer: u16) {
        let place = usize::from(buffer);
        assert!(self.is_out[place], "buffer {buffer} was given back twice");
        self.is_out[place] = false;
        self.available += 1;
        let size = std::mem::size_of::<BufRingEntry>();
        let position = usize::from(self.tail & (self.count - 1)) * size;
        let address = self.data.pointer(place * self.buffer_bytes, self.buffer_bytes).addr();
        let entry = self.entries.pointer(position, size).cast::<BufRingEntry>();
        // SAFETY: the entry lies inside the mapping at a multiple of its size, every bit pattern is
        // a valid entry, and the kernel reads entries only before the tail, which is still behind.
        let entry = unsafe { &mut *entry };
        entry.set_addr(u64::try_from(address).unwrap_or_default());
        entry.set_len(u32::try_from(self.buffer_bytes).unwrap_or_default());
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.publish_tail();
    }

    fn publish_tail(&self) {
        let first = self.entries.pointer(0, std::mem::size_of::<BufRingEntry>());
        // SAFETY: the pointer is the address of the first entry of the ring.
        let tail = unsafe { BufRingEntry::tail(first.cast()) };
        // SAFETY: the tail is an aligned 16-bit place inside the mapping that both this process and
        // the kernel access atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // The kernel loads the tail with acquire, so it sees the entry written before.
        tail.store(self.tail, Ordering::Release);
    }
}
