//! System calls that no PKCS#11 library has a use for, refused by seccomp.
//!
//! It is a list of what is refused, not of what is allowed: nobody knows what a vendor's library
//! calls, and one that dies of a call that was forgotten is no protection. What changes the host
//! or looks into other processes gives `EPERM`; starting a program ends whoever tries. `clone3`
//! says that it does not exist, because its flags lie in memory where a filter cannot look: the C
//! library then takes `clone`, whose flags it can.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::Outcome;

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

/// Applies all filters to this thread and those it starts; how each went.
pub(super) fn restrict(may_execute: bool) -> Vec<(&'static str, Outcome)> {
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
    let unknown = SeccompAction::Errno(errno(libc::ENOSYS));
    apply("clone3 unknown", whole(&[libc::SYS_clone3], unknown));
    if !may_execute {
        let execute = [libc::SYS_execve, libc::SYS_execveat];
        apply("programs", whole(&execute, SeccompAction::KillProcess));
    }
    outcomes
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
    let mut rules: std::collections::BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|flag| {
        let flag = u64::try_from(*flag).unwrap_or(0);
        let is_set = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_set, flag)?;
        SeccompRule::new(vec![condition])
    });
    let namespaces = namespaces.collect::<Result<Vec<_>, _>>();
    rules.insert(libc::SYS_clone, namespaces.map_err(seccompiler::Error::Backend)?);
    let action = SeccompAction::Errno(errno(libc::EPERM));
    compile(SeccompFilter::new(rules, SeccompAction::Allow, action, arch()?))
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
