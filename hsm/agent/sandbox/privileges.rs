//! The environment, limits, user and capabilities of the process.

use std::ffi::OsString;
use std::io;

use super::Outcome;

/// The number behind the last capability that any kernel has.
const CAPABILITIES_END: u8 = 64;

/// Third version of the structure of `capset`: two words for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    process: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// Removes all variables but these; how many went.
pub(super) fn clean_environment(kept: &[OsString]) -> usize {
    let names = std::env::vars_os().map(|(name, _)| name);
    let names: Vec<OsString> = names.filter(|name| !kept.contains(name)).collect();
    for name in &names {
        // SAFETY: the process has one thread (`enter` asked), so that nobody reads the environment
        // meanwhile.
        unsafe { std::env::remove_var(name) };
    }
    names.len()
}

/// What is made from here on is the owner's alone.
pub(super) fn restrict_file_modes() {
    // SAFETY: the call takes a number and cannot fail.
    let _before: libc::mode_t = unsafe { libc::umask(0o077) };
}

/// Keeps PIN and session keys out of the swap, where the host lets a process lock all it has: with
/// a limit, later allocations of the library would fail.
pub(super) fn lock_memory() -> Outcome {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `all` is a valid value on this stack for the length of the call.
    let raised = check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) });
    if raised.is_err() {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place for the answer on this stack.
        let answer = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
        if answer != 0 || limit.rlim_cur != libc::RLIM_INFINITY {
            return Outcome::Missing(format!("RLIMIT_MEMLOCK is {} bytes", limit.rlim_cur));
        }
    }
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: the call takes a number.
    match check(unsafe { libc::mlockall(flags) }) {
        Ok(_) => Outcome::Applied(String::new()),
        Err(error) => Outcome::Missing(error.to_string()),
    }
}

fn control(option: libc::c_int, value: libc::c_ulong) -> io::Result<libc::c_int> {
    let none: libc::c_ulong = 0;
    // SAFETY: the options used here take numbers and no pointer.
    check(unsafe { libc::prctl(option, value, none, none, none) })
}

/// No program started later can have a capability that is not kept.
pub(super) fn drop_bounding_set(kept: &[u8]) -> Outcome {
    let mut dropped_count = 0;
    for number in (0..CAPABILITIES_END).filter(|number| !kept.contains(number)) {
        // The kernel says which numbers it knows.
        if control(libc::PR_CAPBSET_READ, number.into()).ok() != Some(1) {
            continue;
        }
        if let Err(error) = control(libc::PR_CAPBSET_DROP, number.into()) {
            return Outcome::Missing(format!("not privileged to: {error}"));
        }
        dropped_count += 1;
    }
    Outcome::Applied(format!("{dropped_count} dropped"))
}

/// Becomes another user for good, without the groups of the old one.
pub(super) fn become_user(user: u32, group: u32) -> io::Result<()> {
    // SAFETY: an empty list needs no pointer.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: the call takes numbers.
    check(unsafe { libc::setresgid(group, group, group) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(user, user, user) })?;
    Ok(())
}

/// Drops all capabilities but those kept, of which none can come that is not there.
pub(super) fn drop_capabilities(kept: &[u8]) -> io::Result<()> {
    const PR_CAP_AMBIENT_CLEAR_ALL: libc::c_ulong = 4;
    control(libc::PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)?;
    let header = CapabilityHeader { version: CAPABILITY_VERSION, process: 0 };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: the header and both words live on this stack; the kernel fills the words.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw const header, words.as_mut_ptr()) };
    check(libc::c_int::try_from(got).unwrap_or(-1))?;
    for (word, start) in words.iter_mut().zip([0_u8, 32]) {
        let bit = |number: &u8| {
            number.checked_sub(start).and_then(|shift| 1_u32.checked_shl(shift.into())).unwrap_or(0)
        };
        let mask = kept.iter().map(bit).fold(0, |mask, bit| mask | bit);
        word.permitted &= mask;
        word.effective = word.permitted;
        word.inheritable = 0;
    }
    // SAFETY: the header and both words live on this stack; the kernel only reads them.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    check(libc::c_int::try_from(set).unwrap_or(-1)).map(drop)
}

/// No `exec` gives this process or its children more than they have.
pub(super) fn forbid_new_privileges() -> io::Result<()> {
    control(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}
