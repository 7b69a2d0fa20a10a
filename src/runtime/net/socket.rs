//! Socket calls that `std` does not offer: buffer sizes, backlog and a connect that does not wait.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Config;
use crate::sys::check;

/// Makes a listening socket. `std` sets `SO_REUSEADDR` before it binds.
pub(super) fn listen(addr: SocketAddr, config: &Config) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(addr)?;
    // Accepted sockets inherit the sizes, and only sizes set before the handshake bound the window.
    set_buffer_sizes(&listener, config)?;
    // SAFETY: the call takes no pointer; a second `listen` only changes the length of the queue.
    check(unsafe { libc::listen(listener.as_raw_fd(), i32::from(config.listen_backlog)) })?;
    Ok(listener)
}

/// Sets what every connection has.
pub(super) fn prepare(stream: &TcpStream, config: &Config) -> io::Result<()> {
    if let Some(size) = config.socket_unsent_bytes {
        set_size(stream, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, size)?;
    }
    stream.set_nodelay(true)
}

/// Begins to connect a non-blocking socket. The second value is a refusal that came at once.
///
/// # Errors
/// When no socket can be made.
pub(super) fn connect(
    addr: SocketAddr,
    config: &Config,
) -> io::Result<(TcpStream, Option<io::Error>)> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the call takes no pointer.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
    set_buffer_sizes(&stream, config)?;
    prepare(&stream, config)?;
    let answer = match addr {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET.try_into().unwrap_or_default(),
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            connect_raw(&stream, &raw)
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6.try_into().unwrap_or_default(),
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            connect_raw(&stream, &raw)
        }
    };
    // After a signal the connect goes on in the background, as after EINPROGRESS.
    let goes_on = |error: &io::Error| {
        error.raw_os_error() == Some(libc::EINPROGRESS)
            || error.kind() == io::ErrorKind::Interrupted
    };
    Ok((stream, answer.err().filter(|error| !goes_on(error))))
}

fn connect_raw<A>(stream: &TcpStream, addr: &A) -> io::Result<()> {
    let size = libc::socklen_t::try_from(std::mem::size_of::<A>()).map_err(io::Error::other)?;
    let addr = std::ptr::from_ref(addr).cast();
    // SAFETY: `addr` points to a socket address of `size` bytes that outlives the call.
    check(unsafe { libc::connect(stream.as_raw_fd(), addr, size) }).map(drop)
}

fn set_buffer_sizes(socket: &impl AsRawFd, config: &Config) -> io::Result<()> {
    let sizes = [
        (libc::SO_RCVBUF, config.socket_receive_bytes),
        (libc::SO_SNDBUF, config.socket_send_bytes),
    ];
    for (option, size) in sizes {
        let Some(size) = size else { continue };
        set_size(socket, libc::SOL_SOCKET, option, size)?;
    }
    Ok(())
}

fn set_size(
    socket: &impl AsRawFd,
    level: libc::c_int,
    option: libc::c_int,
    size: u32,
) -> io::Result<()> {
    let value = libc::c_int::try_from(size).map_err(io::Error::other)?;
    let length =
        libc::socklen_t::try_from(std::mem::size_of::<libc::c_int>()).map_err(io::Error::other)?;
    let (fd, value) = (socket.as_raw_fd(), (&raw const value).cast());
    // SAFETY: `value` points to an integer of `length` bytes that outlives the call.
    check(unsafe { libc::setsockopt(fd, level, option, value, length) }).map(drop)
}
