//! The system calls of the agent's two ends that `std` does not offer, each behind a safe function.
//!
//! Nothing here takes a pointer that outlives the call. Descriptors that are shared with the agent
//! are never trusted to be non-blocking: a process that holds the same open file may clear the
//! flag, so every call that must not wait says so itself (`MSG_DONTWAIT`).

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use hufu_runtime::clock::{self, Nanos};

/// Most descriptors of one message, count.
pub(crate) const DESCRIPTORS_MAX: usize = 2;

/// Bytes for the control part of a message with [`DESCRIPTORS_MAX`] descriptors, in whole words.
const CONTROL_WORDS: usize = 8;

/// Turns the usual "-1 and errno" answer into a result.
fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The same for calls that answer with a count.
fn check_count(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// Takes over a descriptor that the kernel has just made.
fn owned(answer: libc::c_int) -> io::Result<OwnedFd> {
    let fd = check(answer)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a word of a system call's argument list wants to hold.
fn word(value: impl TryInto<libc::c_long>) -> libc::c_long {
    value.try_into().unwrap_or(-1)
}

/// `CLOCK_MONOTONIC` in nanoseconds: one clock for all processes of a host, unlike [`Nanos`], which
/// counts from the start of a process.
pub(crate) fn host_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer on this stack.
    let answer = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(answer, 0, "every Linux has this clock");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// How far the host's clock is ahead of this process's count; both are the same clock, so that one
/// reading does for the whole life.
fn ahead_nanos() -> u64 {
    static AHEAD: OnceLock<u64> = OnceLock::new();
    *AHEAD.get_or_init(|| host_nanos().saturating_sub(clock::monotonic().as_nanos()))
}

/// A moment of this process on the clock that all processes share.
pub(crate) fn to_host(at: Nanos) -> u64 {
    at.as_nanos().saturating_add(ahead_nanos())
}

/// The reverse of [`to_host`]; what lies before the start of this process is its first moment.
pub(crate) fn from_host(nanos: u64) -> Nanos {
    Nanos::from_nanos(nanos.saturating_sub(ahead_nanos()))
}

/// Sleeps while `word` holds `expected`, for `limit` at most. Spurious returns are allowed.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, limit: Duration) {
    let limit = libc::timespec {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(i32::try_from(limit.subsec_nanos()).unwrap_or(0)),
    };
    // SAFETY: the word is borrowed for the length of the call, `limit` lives on this stack, and
    // the call changes neither. It is not private: the other process waits on the same page.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const limit,
            std::ptr::null::<u32>(),
            0,
        );
    }
}

/// Has the alarms of this thread ring when they are due, and not when it suits the kernel within 50
/// microseconds. Once is enough; a thread that cannot have it wakes later and is none the worse.
pub(crate) fn wake_on_time() {
    thread_local! {
        static IS_SET: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    if !IS_SET.replace(true) {
        // SAFETY: the call takes numbers and no pointer.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64) };
    }
}

/// Wakes up to `count` sleepers on `word`, of any process.
pub(crate) fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: the kernel takes the address as a name and touches nothing behind it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
}

/// An event counter of this process alone, non-blocking.
pub(crate) fn event() -> io::Result<File> {
    // SAFETY: the call takes no pointer.
    let fd = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    Ok(File::from(fd))
}

/// A descriptor that becomes readable when the child has ended. The child must not have been
/// waited for, so that its number is still its own.
pub(crate) fn watch(child: &std::process::Child) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, word(child.id()), word(0)) };
    owned(libc::c_int::try_from(fd).unwrap_or(-1))
}

/// Two ends of a connection that keeps the borders of messages; both are closed on exec.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` is a valid place for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    let [first, second] = ends;
    Ok((owned(first)?, owned(second)?))
}

/// The address of a Unix socket in the file system, and its length.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: an address is numbers, for which all zeroes is valid.
    let mut address = unsafe { MaybeUninit::<libc::sockaddr_un>::zeroed().assume_init() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or(0);
    let bytes = path.as_os_str().as_bytes();
    // The last byte stays zero.
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= address.sun_path.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no path for a socket"));
    }
    for (place, byte) in address.sun_path.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    Ok((address, libc::socklen_t::try_from(size_of::<libc::sockaddr_un>()).unwrap_or(0)))
}

/// A new socket of the kind that [`socket_pair`] makes.
fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes numbers.
    owned(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })
}

/// Listens at a path that is not there yet, with the modes that the umask leaves.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let (address, size) = address(path)?;
    let socket = socket()?;
    let fd = socket.as_raw_fd();
    // SAFETY: `address` is valid for `size` bytes and lives through the call.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), size) })?;
    // SAFETY: the call takes numbers.
    check(unsafe { libc::listen(fd, 4) })?;
    Ok(socket)
}

/// The next connection of a listening socket; an error where there is none.
pub(crate) fn accept(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (fd, none) = (socket.as_raw_fd(), std::ptr::null_mut());
    // SAFETY: null pointers mean that the other's address is not wanted.
    owned(unsafe { libc::accept4(fd, none, std::ptr::null_mut(), libc::SOCK_CLOEXEC) })
}

/// Connects to a listening socket. Never waits: a listener that is overrun is an error.
pub(crate) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let (address, size) = address(path)?;
    let socket = socket()?;
    let fd = socket.as_raw_fd();
    // SAFETY: `address` is valid for `size` bytes and lives through the call.
    check(unsafe { libc::connect(fd, (&raw const address).cast(), size) })?;
    Ok(socket)
}

/// A message header over `bytes` and `control`.
fn header(part: &mut libc::iovec, control: &mut [u64; CONTROL_WORDS], size: usize) -> libc::msghdr {
    // SAFETY: a message header is numbers and pointers, for which all zeroes is "nothing".
    let mut header = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    header.msg_iov = part;
    header.msg_iovlen = 1;
    if size > 0 {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size;
    }
    header
}

/// Bytes that a control part with so many descriptors takes: its own and with padding.
fn control_sizes(count: usize) -> (usize, usize) {
    let bytes = u32::try_from(count * size_of::<RawFd>()).unwrap_or(u32::MAX);
    // SAFETY: both compute with numbers only.
    let own = unsafe { libc::CMSG_LEN(bytes) };
    // SAFETY: as above.
    let padded = unsafe { libc::CMSG_SPACE(bytes) };
    (usize::try_from(own).unwrap_or(usize::MAX), usize::try_from(padded).unwrap_or(usize::MAX))
}

/// Sends one message with descriptors beside it. Never waits; a full socket is an error.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(fds.len() <= DESCRIPTORS_MAX, "{} descriptors in one message", fds.len());
    let (own, padded) = control_sizes(fds.len());
    assert!(padded <= CONTROL_WORDS * 8, "the control part fits");
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let size = if fds.is_empty() { 0 } else { padded };
    let message = header(&mut part, &mut control, size);
    if !fds.is_empty() {
        // SAFETY: `message` is valid and its control part is larger than one header.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        assert!(!first.is_null(), "the control part has room for a header");
        let head = libc::cmsghdr {
            cmsg_len: own,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        };
        // SAFETY: `first` points into `control`, which is aligned to 8 and long enough.
        unsafe { first.write(head) };
        // SAFETY: as above; the data begin behind the header.
        let data = unsafe { libc::CMSG_DATA(first) };
        for (index, fd) in fds.iter().enumerate() {
            // SAFETY: `padded` bytes were set aside for this many descriptors.
            let place = unsafe { data.cast::<RawFd>().add(index) };
            // SAFETY: as above; the place need not be aligned.
            unsafe { place.write_unaligned(fd.as_raw_fd()) };
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header points to `bytes` and `control`, which live through the call; the kernel
    // only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    match check_count(sent)? {
        count if count == bytes.len() => Ok(()),
        count => Err(io::Error::other(format!("{count} of {} bytes sent", bytes.len()))),
    }
}

/// Receives one message, with the descriptors beside it. Never waits: `WouldBlock` where there is
/// none, `Ok(0)` where the other end is closed. A message that does not fit is an error.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let (_, padded) = control_sizes(DESCRIPTORS_MAX);
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut message = header(&mut part, &mut control, padded);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the header points to `bytes` and `control`, which live through the call and have the
    // lengths it says.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let count = check_count(got)?;
    // SAFETY: the kernel has filled the control part and its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: the kernel wrote a whole header here, aligned as it aligns them.
        let head = unsafe { next.read() };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: the data begin behind the header.
            let data = unsafe { libc::CMSG_DATA(next) };
            let (empty, _) = control_sizes(0);
            for index in 0..head.cmsg_len.saturating_sub(empty) / size_of::<RawFd>() {
                // SAFETY: the kernel's length covers this many descriptors.
                let place = unsafe { data.cast::<RawFd>().add(index) };
                // SAFETY: as above; the place need not be aligned.
                fds.push(owned(unsafe { place.read_unaligned() })?);
            }
        }
        // SAFETY: `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message too long to be one"));
    }
    Ok(count)
}

/// Lets nobody send descriptors to this end (Linux 6.16), where the kernel can do that; says so.
///
/// A descriptor that comes beside a message and is not wanted is closed by who receives the
/// message, and some take their time to be closed: a connection that lingers, a file of another
/// host. That thread may be the node's.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> bool {
    // `SO_PASSRIGHTS` of Linux's asm-generic/socket.h, which the C library does not name yet.
    const PASS_RIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    let size = libc::socklen_t::try_from(size_of_val(&no)).unwrap_or(0);
    // SAFETY: `no` is valid for `size` bytes and lives through the call.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            PASS_RIGHTS,
            (&raw const no).cast(),
            size,
        )
    };
    answer == 0
}

/// Takes one message that wakes a thread out of a socket, without waiting: its size, 0 where the
/// other end is closed, an error where there is none.
pub(crate) fn drain(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes = [0_u8; 64];
    let size = bytes.len();
    // SAFETY: `bytes` is valid for `size` bytes.
    let got = unsafe {
        libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), size, libc::MSG_DONTWAIT)
    };
    check_count(got)
}

/// Who is at the other end of a Unix socket, as the kernel knows it: process and user.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).unwrap_or(0);
    // SAFETY: `who` is valid for `size` bytes, and both live on this stack.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut who).cast(),
            &raw mut size,
        )
    })?;
    Ok((u32::try_from(who.pid).map_err(io::Error::other)?, who.uid))
}

/// The user this process acts as.
pub(crate) fn user() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Closes all descriptors above the standard ones: what somebody up the line of parents left open
/// across `exec` is no business of foreign code. To be called before this process opens any.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: the call takes three numbers; nothing in this process owns a descriptor in the range.
    check(unsafe { libc::close_range(3, libc::c_uint::MAX, 0) }).map(drop)
}

/// Takes the socket that the parent left as standard input, and puts `/dev/null` in its place, so
/// that a library that reads its standard input finds nothing.
pub(crate) fn take_standard_input() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let nothing = File::open("/dev/null")?;
    // SAFETY: both numbers are open descriptors of this process, and 0 belongs to nobody: `std`
    // holds the number, not the file behind it.
    check(unsafe { libc::dup2(nothing.as_raw_fd(), libc::STDIN_FILENO) })?;
    Ok(socket)
}

/// Waits until a descriptor is readable or the time is over; says whether it is.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `entry` is one valid entry on this stack.
    match check(unsafe { libc::poll(&raw mut entry, 1, limit) }) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends one byte that wakes whoever polls the other end, without waiting.
pub(crate) fn send_byte(socket: BorrowedFd<'_>) -> io::Result<()> {
    send(socket, &[1], &[])
}

/// Closes both directions of a socket that others still hold.
#[cfg(test)]
pub(crate) fn shut(socket: BorrowedFd<'_>) {
    // SAFETY: the call takes two numbers and no pointer.
    let answer = unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
    assert_eq!(answer, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_come_only_to_who_takes_them() {
        let (node, agent) = socket_pair().unwrap();
        let (mut bytes, mut fds) = ([0; 8], Vec::new());
        let mut passed = |from: &OwnedFd, to: &OwnedFd| {
            send(from.as_fd(), b"x", &[from.as_fd()])?;
            fds.clear();
            receive(to.as_fd(), &mut bytes, &mut fds).map(|_| fds.len())
        };
        assert_eq!(passed(&agent, &node).unwrap(), 1);
        if !refuse_descriptors(node.as_fd()) {
            eprintln!("the kernel is older than 6.16 and cannot refuse them");
            return;
        }
        assert!(passed(&agent, &node).is_err(), "the agent's never reach the node");
        assert_eq!(passed(&node, &agent).unwrap(), 1, "the node's reach the agent");
        send(agent.as_fd(), b"y", &[]).unwrap();
        assert_eq!(drain(node.as_fd()).unwrap(), 1);
    }
}
