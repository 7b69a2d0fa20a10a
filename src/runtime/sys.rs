//! The few system calls that `std` does not offer, each behind a safe function.
//!
//! Everything here either takes no pointer or takes one to a value that lives on the caller's
//! stack for the length of the call. Sockets and the two reactor back ends have their own calls in
//! `net`.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

/// Turns the usual "-1 and errno" answer into a result.
pub(crate) fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Makes a non-blocking event counter.
pub(crate) fn eventfd() -> io::Result<File> {
    // SAFETY: the call takes no pointer.
    let answer = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    let fd = check(answer)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Bytes of a huge page of this processor family.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Zeroed memory of the kernel's, page-aligned, that never moves; given back when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    size: usize,
    is_leaked: bool,
}

// SAFETY: the mapping belongs to this value alone. It hands out no reference, only its address.
unsafe impl Send for Mapping {}
// SAFETY: as above: nothing can be changed or read through a shared reference.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps at least one byte; pages become resident when first touched.
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        let size = size.max(1);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { base, size, is_leaked: false })
    }

    /// Maps at least `size` bytes in whole huge pages where the kernel has them to give: a device
    /// then gets a long buffer in one piece instead of one for each small page.
    pub(crate) fn new_huge(size: usize) -> io::Result<Self> {
        let too_long = || io::Error::from(io::ErrorKind::OutOfMemory);
        let wanted = size.checked_next_multiple_of(HUGE_PAGE_BYTES).ok_or_else(too_long)?;
        let mut mapping = Self::new(wanted.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_long)?)?;
        let start = mapping.base.addr().get();
        let head = start.next_multiple_of(HUGE_PAGE_BYTES) - start;
        assert!(head < HUGE_PAGE_BYTES && head + wanted <= mapping.size);
        let tail = mapping.size - head - wanted;
        let old = mapping.base;
        // SAFETY: `head` is less than the size of the mapping.
        mapping.base = unsafe { old.add(head) };
        mapping.size = wanted;
        if head > 0 {
            // SAFETY: whole pages of the mapping made above that no pointer was handed out to.
            check(unsafe { libc::munmap(old.as_ptr().cast(), head) })?;
        }
        if tail > 0 {
            // SAFETY: the address is inside the mapping made above, right behind what is kept.
            let behind = unsafe { mapping.base.add(wanted) };
            // SAFETY: as for the head.
            check(unsafe { libc::munmap(behind.as_ptr().cast(), tail) })?;
        }
        // It is a wish: where the kernel has no huge pages, small ones do.
        // SAFETY: the range is the mapping that is left; the advice changes no byte of it.
        let _advised =
            unsafe { libc::madvise(mapping.base.as_ptr().cast(), wanted, libc::MADV_HUGEPAGE) };
        Ok(mapping)
    }

    /// Address of the first byte; valid for [`Mapping::size`] bytes while this value lives.
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// Keeps the mapping for ever, because the kernel may still use it.
    pub(crate) const fn leak(&mut self) {
        self.is_leaked = true;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.is_leaked {
            return;
        }
        // SAFETY: the mapping was made by `new` with this size, and its owner has made sure that
        // nobody uses it any more.
        let answer = unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
        assert_eq!(answer, 0, "unmapping {} bytes failed", self.size);
    }
}

/// Waits until a descriptor is ready or the timeout is over; `None` waits for ever. Returns the
/// number of ready descriptors, 0 after a timeout or a signal.
pub(crate) fn ppoll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<usize> {
    let count = libc::nfds_t::try_from(fds.len()).map_err(io::Error::other)?;
    let limit = timeout.map(timespec);
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `fds` is a valid slice of `count` entries, `limit` is null or points to a value on
    // this stack, and a null signal mask means "leave it".
    let answer = unsafe { libc::ppoll(fds.as_mut_ptr(), count, limit, std::ptr::null()) };
    match check(answer) {
        Ok(ready) => usize::try_from(ready).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(i32::try_from(duration.subsec_nanos()).unwrap_or(0)),
    }
}

/// The most cores the mask of `sched_setaffinity` holds.
pub(crate) const CORES_MAX: usize = 1024;

/// Restricts the calling thread to `cores`.
pub(crate) fn set_affinity(cores: &[usize]) -> io::Result<()> {
    let mut set = empty_cpu_set();
    for core in cores {
        if *core >= CORES_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: the index was just checked against the size of the set.
        unsafe { libc::CPU_SET(*core, &mut set) };
    }
    let size = std::mem::size_of::<libc::cpu_set_t>();
    // SAFETY: `set` is valid for `size` bytes, and thread 0 means the calling thread.
    check(unsafe { libc::sched_setaffinity(0, size, &raw const set) }).map(drop)
}

/// The cores the calling thread may run on, ascending.
pub(crate) fn affinity() -> io::Result<Vec<usize>> {
    let mut set = empty_cpu_set();
    let size = std::mem::size_of::<libc::cpu_set_t>();
    // SAFETY: `set` is valid for `size` bytes, and thread 0 means the calling thread.
    check(unsafe { libc::sched_getaffinity(0, size, &raw mut set) })?;
    // SAFETY: every index is below the size of the set.
    Ok((0..CORES_MAX).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) }).collect())
}

fn empty_cpu_set() -> libc::cpu_set_t {
    // SAFETY: the set is a plain array of words, for which all zeroes is the empty set.
    unsafe { MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init() }
}

/// CPU time used, in nanoseconds, as `clock` counts it.
pub(crate) fn cpu_nanos(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer on this stack.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    let seconds = u64::try_from(time.tv_sec).map_err(io::Error::other)?;
    let nanos = u64::try_from(time.tv_nsec).map_err(io::Error::other)?;
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Asks the kernel to send `signal` to this process when its parent ends.
pub(crate) fn set_parent_death_signal(signal: libc::c_int) -> io::Result<()> {
    let signal = libc::c_ulong::try_from(signal).map_err(io::Error::other)?;
    // SAFETY: this option takes one number and no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) }).map(drop)
}

/// Sends `SIGTERM` to another process.
pub(crate) fn terminate(process: u32) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: the call takes no pointer.
    check(unsafe { libc::kill(process, libc::SIGTERM) }).map(drop)
}

/// A descriptor that stands for another process, whatever becomes of its number.
pub(crate) fn open_process(process: u32) -> io::Result<OwnedFd> {
    let flags: libc::c_uint = 0;
    // SAFETY: the call takes two numbers and no pointer.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, process, flags) };
    let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
    let descriptor = check(descriptor)?;
    // SAFETY: the kernel has just made this descriptor for this caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sends `SIGKILL` to the process that a descriptor stands for; one that has ended is no fault.
pub(crate) fn kill_process(process: &OwnedFd) -> io::Result<()> {
    let (information, flags) = (std::ptr::null::<libc::siginfo_t>(), 0 as libc::c_uint);
    let number = process.as_raw_fd();
    // SAFETY: a null pointer stands for no further information (pidfd_send_signal(2)).
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, number, libc::SIGKILL, information, flags)
    };
    match libc::c_int::try_from(sent).map_err(io::Error::other).and_then(check) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result.map(drop),
    }
}

/// Forbids core dumps and reading of the memory by other processes of the same user.
pub(crate) fn set_not_dumpable() -> io::Result<()> {
    let no: libc::c_ulong = 0;
    // SAFETY: this option takes one number and no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, no) })?;
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid value on this stack for the length of the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) }).map(drop)
}

/// Whether the process may be dumped and how large a core file may grow.
pub(crate) fn dump_limits() -> io::Result<(bool, u64)> {
    // SAFETY: this option takes no argument.
    let dumpable = check(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) })?;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer on this stack.
    check(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) })?;
    Ok((dumpable != 0, limit.rlim_max))
}

/// Blocks `signals` in the calling thread (and the threads it starts later) and gives a
/// non-blocking descriptor from which they are read instead.
pub(crate) fn signalfd(signals: &[libc::c_int]) -> io::Result<File> {
    let set = change_mask(libc::SIG_BLOCK, signals)?;
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: the set is valid, and -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, set.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Lets a signal that was blocked do in the calling thread what it does by default.
pub(crate) fn unblock(signal: libc::c_int) -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, &[signal]).map(drop)
}

/// Changes the calling thread's signal mask and gives the set it was changed by.
fn change_mask(
    how: libc::c_int,
    signals: &[libc::c_int],
) -> io::Result<MaybeUninit<libc::sigset_t>> {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the call fills the set it is given.
    check(unsafe { libc::sigemptyset(set.as_mut_ptr()) })?;
    for signal in signals {
        // SAFETY: the set was made valid by `sigemptyset`.
        check(unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) })?;
    }
    let old = std::ptr::null_mut();
    // SAFETY: the set is valid, and a null pointer means that the old mask is not wanted.
    let errno = unsafe { libc::pthread_sigmask(how, set.as_ptr(), old) };
    if errno == 0 { Ok(set) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Sends `signal` to the calling thread alone, so that a test meets no other thread's mask.
#[cfg(test)]
pub(crate) fn raise(signal: libc::c_int) {
    // SAFETY: the call takes nothing and cannot fail.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: the call takes no pointer, and the calling thread exists.
    let errno = unsafe { libc::pthread_kill(this, signal) };
    assert_eq!(errno, 0);
}

/// An entry that waits until `fd` is readable.
pub(crate) fn readable(fd: &impl AsRawFd) -> libc::pollfd {
    poll_entry(fd.as_raw_fd())
}

fn poll_entry(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}
