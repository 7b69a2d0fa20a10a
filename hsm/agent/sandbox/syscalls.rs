//! System calls that no PKCS#11 library has a use for, refused by seccomp.
//!
//! It is a list of what is refused, not of what is allowed: nobody knows what a vendor's library
//! calls, and one that dies of a call that was forgotten is no protection. What changes the host
//! or looks into other processes gives `EPERM`; starting a program ends whoever tries. `clone3`
//! says that it does not exist, because its flags lie in memory where a filter cannot look: the C
//! library then takes `clone`, whose flags it can.
//!
//! An agent usually runs as the node's own user, so the kernel lets it signal the node, lower its
//! limits until it dies, and move its threads off their cores. Landlock stops the signals on new
//! kernels and none of the rest: those calls may name nobody but the caller. A second process would
//! outlive the agent that is killed, with its PIN and its sessions, so none can be made.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{Outcome, SandboxConfig};

/// Refused with `EPERM`.
const REFUSED: &[i64] = &[
    // Looking into other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_process_mrelease,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_pidfd_send_signal,
    // Names a thread of any process, and no C library of ours uses it.
    libc::SYS_tkill,
    // Mounts and names.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_fanotify_init,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_personality,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The kernel's keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The host's time and name.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Flags of `clone` that make namespaces.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Calls that name a process by their first argument; 0 is the caller.
const BY_PROCESS: &[i64] = &[
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
];

/// Calls that name a kind and then one of it, and the kind that is a single process.
const BY_KIND: &[(i64, u64)] = &[(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)];

/// Commands that have signals sent to whom they name, by number of the argument that says so.
const OWNERS: &[(i64, &[u64])] = &[
    // F_SETOWN and F_SETOWN_EX.
    (libc::SYS_fcntl, &[8, 15]),
    // FIOSETOWN and SIOCSPGRP.
    (libc::SYS_ioctl, &[0x8901, 0x8902]),
];

/// Kinds of sockets that a card on the bus has a use for: a daemon of the vendor's, news of
/// devices, the kernel's cryptography.
const LOCAL_FAMILIES: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_NETLINK, libc::AF_ALG];

/// Ways to speak TCP that landlock's rules for ports do not see.
const IPPROTO_MPTCP: u64 = 262;
const AF_SMC: u64 = 43;

/// Applies all filters to this thread and those it starts; how each went.
pub(super) fn restrict(config: &SandboxConfig) -> Vec<(&'static str, Outcome)> {
    let mut outcomes = Vec::new();
    let mut apply = |name, program: Result<BpfProgram, seccompiler::Error>| {
        let applied = program.and_then(|program| apply_filter(&program));
        let outcome = match applied {
            Ok(()) => Outcome::Applied(String::new()),
            Err(error) => Outcome::Missing(error.to_string()),
        };
        outcomes.push((name, outcome));
    };
    #[cfg(target_arch = "x86_64")]
    apply("system calls of other numberings", Ok(other_numbers()));
    apply("system calls that change the host", refused());
    apply("system calls upon other processes", upon_others(std::process::id(), config.may_execute));
    if let Some(ports) = &config.tcp_ports {
        apply("sockets", sockets(!ports.is_empty()));
    }
    let unknown = SeccompAction::Errno(errno(libc::ENOSYS));
    apply("clone3 unknown", whole(&[libc::SYS_clone3], unknown));
    if !config.may_execute {
        apply("processes", processes());
        let execute = [libc::SYS_execve, libc::SYS_execveat];
        apply("programs", whole(&execute, SeccompAction::KillProcess));
    }
    outcomes
}

type Rules = std::collections::BTreeMap<i64, Vec<SeccompRule>>;

/// A condition on one argument, of which the kernel looks at 32 bits.
fn word(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// A rule that holds where one argument is none of these.
fn none_of(argument: u8, values: &[u64]) -> Result<SeccompRule, seccompiler::BackendError> {
    let differs = |value: &u64| word(argument, SeccompCmpOp::Ne, *value);
    SeccompRule::new(values.iter().map(differs).collect::<Result<_, _>>()?)
}

/// A rule that holds where one argument is this.
fn is(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![word(argument, SeccompCmpOp::Eq, value)?])
}

fn eperm(
    rules: Result<Rules, seccompiler::BackendError>,
) -> Result<BpfProgram, seccompiler::Error> {
    let action = SeccompAction::Errno(errno(libc::EPERM));
    let rules = rules.map_err(seccompiler::Error::Backend)?;
    compile(SeccompFilter::new(rules, SeccompAction::Allow, action, arch()?))
}

/// Signals, limits and places on the cores of anybody but this process. Programs that the library
/// may start have numbers of their own, so that their signals are left to landlock.
fn upon_others(own: u32, may_execute: bool) -> Result<BpfProgram, seccompiler::Error> {
    let own = u64::from(own);
    let signals =
        [libc::SYS_kill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];
    let rules = || {
        let mut rules = Rules::new();
        for call in BY_PROCESS.iter().filter(|call| !(may_execute && signals.contains(call))) {
            // To signal 0 is to signal the whole group.
            let selves: &[u64] = if signals.contains(call) { &[own] } else { &[0, own] };
            rules.insert(*call, vec![none_of(0, selves)?]);
        }
        for (call, kind) in BY_KIND {
            rules.insert(*call, vec![none_of(0, &[*kind])?, none_of(1, &[0, own])?]);
        }
        for (call, commands) in OWNERS {
            let commands = commands.iter().map(|command| is(1, *command));
            rules.insert(*call, commands.collect::<Result<_, _>>()?);
        }
        Ok(rules)
    };
    eperm(rules())
}

/// Sockets of the network where the card is not in it, and those that would pass landlock by.
fn sockets(has_network: bool) -> Result<BpfProgram, seccompiler::Error> {
    let rules = || {
        let rules = if has_network {
            vec![is(0, AF_SMC)?, is(2, IPPROTO_MPTCP)?]
        } else {
            let local: Vec<u64> =
                LOCAL_FAMILIES.iter().filter_map(|family| u64::try_from(*family).ok()).collect();
            vec![none_of(0, &local)?]
        };
        Ok(Rules::from([(libc::SYS_socket, rules)]))
    };
    eperm(rules())
}

/// New processes; threads are none.
fn processes() -> Result<BpfProgram, seccompiler::Error> {
    let rules = || {
        let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or(0);
        let is_none = word(0, SeccompCmpOp::MaskedEq(thread), 0)?;
        let mut rules = Rules::from([(libc::SYS_clone, vec![SeccompRule::new(vec![is_none])?])]);
        #[cfg(target_arch = "x86_64")]
        rules.extend([(libc::SYS_fork, Vec::new()), (libc::SYS_vfork, Vec::new())]);
        Ok(rules)
    };
    eperm(rules())
}

fn errno(number: libc::c_int) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

fn arch() -> Result<TargetArch, seccompiler::Error> {
    std::env::consts::ARCH.try_into().map_err(seccompiler::Error::Backend)
}

/// The calls with whatever arguments.
fn whole(calls: &[i64], action: SeccompAction) -> Result<BpfProgram, seccompiler::Error> {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    compile(SeccompFilter::new(rules, SeccompAction::Allow, action, arch()?))
}

fn compile(
    filter: Result<SeccompFilter, seccompiler::BackendError>,
) -> Result<BpfProgram, seccompiler::Error> {
    let program = filter.and_then(BpfProgram::try_from);
    program.map_err(seccompiler::Error::Backend)
}

fn refused() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|flag| {
        let flag = u64::try_from(*flag).unwrap_or(0);
        let is_set = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_set, flag)?;
        SeccompRule::new(vec![condition])
    });
    let namespaces = namespaces.collect::<Result<Vec<_>, _>>();
    eperm(namespaces.map(|namespaces| {
        rules.insert(libc::SYS_clone, namespaces);
        rules
    }))
}

/// Ends whoever uses the numbers of the x32 interface, by which every list of numbers could be
/// passed by. (Calls of the 32-bit interface are of another architecture, which ends them too.)
#[cfg(target_arch = "x86_64")]
fn other_numbers() -> BpfProgram {
    use seccompiler::sock_filter;
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        // The number is the first word of what a filter sees.
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_IF_AT_LEAST, 0, 1, X32_BIT),
        step(RETURN, 0, 0, SeccompAction::KillProcess.into()),
        step(RETURN, 0, 0, SeccompAction::Allow.into()),
    ]
}

#[cfg(test)]
mod tests;
