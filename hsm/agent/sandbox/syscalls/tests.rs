//! The filters alone, in a thread that enters them (a filter holds for a thread and those that it
//! starts), so that nothing is refused by landlock in their place.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::agent::sandbox::privileges;

fn result(answer: impl TryInto<i64>) -> io::Result<()> {
    match answer.try_into() {
        Ok(0..) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Everything that a process may do to another one of its user, by name.
#[allow(clippy::multiple_unsafe_ops_per_block, reason = "one call each, told apart by its name")]
fn upon(process: libc::pid_t) -> Vec<(&'static str, io::Result<()>)> {
    let id = libc::id_t::try_from(process).unwrap();
    let limit = libc::rlimit { rlim_cur: 1_000_000, rlim_max: 1_000_000 };
    let null = std::ptr::null_mut::<libc::rlimit>();
    // SAFETY: all zeroes is a valid set of cores.
    let mut cores: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is on this stack.
    unsafe { libc::CPU_SET(0, &mut cores) };
    let (cores, size) = (&raw const cores, size_of::<libc::cpu_set_t>());
    let socket = UnixDatagram::unbound().unwrap();
    let fd = socket.as_raw_fd();
    // SAFETY: numbers, and places on this stack that live through the calls.
    unsafe {
        vec![
            ("kill", result(libc::kill(process, 0))),
            ("sigqueue", result(libc::syscall(libc::SYS_tgkill, process, process, 0))),
            ("tkill", result(libc::syscall(libc::SYS_tkill, process, 0))),
            ("prlimit", result(libc::prlimit(process, libc::RLIMIT_CPU, &raw const limit, null))),
            ("priority", result(libc::setpriority(libc::PRIO_PROCESS, id, 5))),
            ("ioprio", result(libc::syscall(libc::SYS_ioprio_set, 1, process, 0x4007))),
            ("affinity", result(libc::sched_setaffinity(process, size, cores))),
            ("owner", result(libc::fcntl(fd, libc::F_SETOWN, process))),
        ]
    }
}

fn fork() -> io::Result<()> {
    // SAFETY: the child, should there be one, ends at once.
    match unsafe { libc::fork() } {
        // SAFETY: as above.
        0 => unsafe { libc::_exit(0) },
        child => result(child).inspect(|()| {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        }),
    }
}

/// A process that lives until its input ends.
fn other() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn in_sandbox<T: Send>(config: &SandboxConfig, tried: impl FnOnce() -> T + Send) -> T {
    let boxed = || {
        privileges::forbid_new_privileges().unwrap();
        let outcomes = restrict(config);
        let is_missing = |(_, outcome): &(&str, Outcome)| matches!(outcome, Outcome::Missing(_));
        assert!(!outcomes.iter().any(is_missing), "{outcomes:?}");
        tried()
    };
    std::thread::scope(|scope| scope.spawn(boxed).join().unwrap())
}

fn is_refused(tried: &io::Result<()>) -> bool {
    tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

#[test]
fn nothing_is_done_to_a_process_of_the_same_user() {
    let mut other = other();
    let process = libc::pid_t::try_from(other.id()).unwrap();
    for (what, tried) in upon(process) {
        tried.unwrap_or_else(|error| panic!("{what} is tried in vain without a sandbox: {error}"));
    }
    for (what, tried) in in_sandbox(&SandboxConfig::default(), || upon(process)) {
        assert!(is_refused(&tried), "{what}: {tried:?}");
    }
    drop(other.stdin.take());
    assert!(other.wait().unwrap().success(), "it is none the worse");
}

#[test]
fn what_a_library_does_to_itself_is_left_to_it() {
    in_sandbox(&SandboxConfig::default(), || {
        let own = libc::pid_t::try_from(std::process::id()).unwrap();
        for (what, tried) in upon(0) {
            let is_left = ["affinity", "priority", "ioprio"].contains(&what);
            assert!(!is_left || tried.is_ok(), "{what}: {tried:?}");
        }
        // SAFETY: the call takes numbers.
        result(unsafe { libc::kill(own, 0) }).unwrap();
        let thread = std::thread::scope(|scope| scope.spawn(|| 7).join().unwrap());
        assert_eq!(thread, 7, "threads are started");
        assert!(UnixDatagram::unbound().is_ok(), "a daemon of the vendor's is reached");
    });
}

#[test]
fn no_second_process_outlives_the_agent_unless_programs_may_be_started() {
    fork().unwrap();
    assert!(is_refused(&in_sandbox(&SandboxConfig::default(), fork)));
    let config = SandboxConfig { may_execute: true, ..SandboxConfig::default() };
    in_sandbox(&config, fork).unwrap();
}

#[test]
fn a_card_on_the_bus_leaves_no_way_into_the_network() {
    let datagram = || UdpSocket::bind("127.0.0.1:0").map(drop);
    let multipath = || {
        // SAFETY: the call takes numbers; the descriptor ends with the test.
        result(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) })
    };
    assert!(is_refused(&in_sandbox(&SandboxConfig::default(), datagram)));
    assert!(is_refused(&in_sandbox(&SandboxConfig::default(), multipath)));
    let config = SandboxConfig { tcp_ports: Some(vec![8_008]), ..SandboxConfig::default() };
    in_sandbox(&config, datagram).unwrap();
    assert!(is_refused(&in_sandbox(&config, multipath)), "landlock does not see its ports");
}
