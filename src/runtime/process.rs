//! The process as the host sees it: signals, parents, CPU time, memory, locks and core dumps.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use crate::sys;

/// A signal that asks something of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `SIGINT`: Ctrl-C.
    Interrupt,
    /// `SIGTERM`: the service manager stops the process.
    Terminate,
    /// `SIGHUP`: the terminal is gone, or a reload is asked for.
    HangUp,
}

impl Signal {
    const ALL: [Self; 3] = [Self::Interrupt, Self::Terminate, Self::HangUp];

    const fn number(self) -> libc::c_int {
        match self {
            Self::Interrupt => libc::SIGINT,
            Self::Terminate => libc::SIGTERM,
            Self::HangUp => libc::SIGHUP,
        }
    }
}

/// Signals as a descriptor: readable (see [`AsFd`]) when one has come.
#[derive(Debug)]
pub struct Signals {
    source: File,
}

impl Signals {
    /// Blocks `SIGINT`, `SIGTERM` and `SIGHUP` for this thread and all it starts later, and reads
    /// them here instead. Call it in `main` before any thread is started: a thread with another
    /// mask would still be killed by them. Children started later inherit the mask and must call
    /// this too, or restore the mask.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn block() -> io::Result<Self> {
        let numbers = Signal::ALL.map(Signal::number);
        Ok(Self { source: sys::signalfd(&numbers)? })
    }

    /// The next signal that has come, if one has. Never waits.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let mut record = [0; std::mem::size_of::<libc::signalfd_siginfo>()];
        match (&self.source).read(&mut record) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        // The record begins with the signal's number.
        let number = record.first_chunk().map(|number| u32::from_ne_bytes(*number));
        let is_it = |signal: &Signal| number == u32::try_from(signal.number()).ok();
        Ok(Signal::ALL.into_iter().find(is_it))
    }

    /// Waits for a signal or until the timeout is over; `None` waits for ever.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Option<Signal>> {
        sys::ppoll(&mut [sys::readable(&self.source)], timeout)?;
        self.next()
    }
}

impl Signals {
    /// Lets the next signal of this kind end the process at once, as it does where nobody asks for
    /// anything else: the way out of a stop that takes too long. To be called on a thread that
    /// lives on.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn release(&self, signal: Signal) -> io::Result<()> {
        sys::unblock(signal.number())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

/// Makes the kernel kill this process when its parent ends, so that no child outlives a `localnet`.
/// To be called by the child at its own start, with the number that the parent handed over
/// (`std::process::id()` there).
///
/// The kernel watches the **thread** that started the child: start children from a thread that
/// lives as long as they should.
///
/// # Errors
/// `NotFound` when the parent had already ended, which the kernel would not report any more.
pub fn die_with_parent(parent: u32) -> io::Result<()> {
    sys::set_parent_death_signal(libc::SIGKILL)?;
    // From here on the death is reported; one before shows in a changed parent.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::NotFound, format!("parent process {parent} has ended")))
    }
}

/// Asks a child to stop in its own time (`SIGTERM`). A child that has ended and was not waited for
/// keeps its number, so the signal cannot reach another process.
///
/// # Errors
/// When the host refuses, or the child was waited for.
pub fn ask_to_stop(child: &mut Child) -> io::Result<()> {
    match child.try_wait()? {
        None => sys::terminate(child.id()),
        Some(status) => Err(io::Error::new(io::ErrorKind::NotFound, format!("ended: {status}"))),
    }
}

/// Kills all children of another process that this user may kill (`SIGKILL`), and says how many: a
/// fault made on purpose, in a process that this one started. A child that ends meanwhile is held
/// by its number through a descriptor, so that the signal cannot reach another process.
///
/// # Errors
/// When the host does not tell of children, or refuses.
pub fn kill_children_of(parent: u32) -> io::Result<usize> {
    let mut count = 0;
    for process in children_of(parent)? {
        let Ok(descriptor) = sys::open_process(process) else { continue };
        // Only now is it certain that the number is still the child's.
        if children_of(parent)?.contains(&process) {
            sys::kill_process(&descriptor)?;
            count += 1;
        }
    }
    Ok(count)
}

/// The numbers of the processes whose parent this is.
fn children_of(parent: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the listing and the reading. Its name, which may hold anything,
        // ends with the last bracket; state and parent follow (proc_pid_stat(5)).
        let status = fs::read(format!("/proc/{process}/stat")).unwrap_or_default();
        let rest = status.rsplit(|byte| *byte == b')').next().unwrap_or_default();
        let field = rest.split(u8::is_ascii_whitespace).nth(2).unwrap_or_default();
        if field == parent.to_string().as_bytes() {
            children.push(process);
        }
    }
    Ok(children)
}

/// Whether anybody is left to read what is written to `output`: not so for a pipe or socket whose
/// other side is closed. Never waits.
///
/// # Errors
/// When the descriptor cannot be asked.
pub fn has_reader(output: &impl AsRawFd) -> io::Result<bool> {
    let mut entries = [sys::readable(output)];
    sys::ppoll(&mut entries, Some(Duration::ZERO))?;
    Ok(entries.iter().all(|entry| entry.revents & (libc::POLLERR | libc::POLLHUP) == 0))
}

/// CPU time that the calling thread has used, in nanoseconds.
///
/// # Errors
/// When the host has no such clock.
pub fn thread_cpu_nanos() -> io::Result<u64> {
    sys::cpu_nanos(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time that all threads of the process have used, in nanoseconds.
///
/// # Errors
/// When the host has no such clock.
pub fn process_cpu_nanos() -> io::Result<u64> {
    sys::cpu_nanos(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Memory of the process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResidentMemory {
    /// Resident now.
    pub bytes: u64,
    /// The most that was ever resident.
    pub peak_bytes: u64,
}

/// Reads the resident memory of this process.
///
/// # Errors
/// When `/proc` is missing or says something else than expected.
pub fn resident_memory() -> io::Result<ResidentMemory> {
    resident_memory_from(&fs::read_to_string("/proc/self/status")?)
}

/// Reads the resident memory of another process, for the load generator.
///
/// # Errors
/// When there is no such process.
pub fn resident_memory_of(process: u32) -> io::Result<ResidentMemory> {
    resident_memory_from(&fs::read_to_string(format!("/proc/{process}/status"))?)
}

fn resident_memory_from(status: &str) -> io::Result<ResidentMemory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
        kibibytes.checked_mul(1_024)
    };
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "no VmRSS and VmHWM in status");
    let bytes = field("VmRSS:").ok_or_else(missing)?;
    Ok(ResidentMemory { bytes, peak_bytes: field("VmHWM:").ok_or_else(missing)? })
}

/// Why a lock file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is locked by another process", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
    },
    /// The file could not be opened or locked.
    #[error("{}: {error}", path.display())]
    Host {
        /// The lock file.
        path: PathBuf,
        /// What the host answered.
        error: io::Error,
    },
}

/// An exclusive lock; given up when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Takes an exclusive lock on a file, which is made if it is missing. Never waits.
///
/// # Errors
/// When another process (or another lock of this one) holds it, or the file cannot be opened.
pub fn lock_file(path: &Path) -> Result<FileLock, LockError> {
    let host = |error| LockError::Host { path: path.to_owned(), error };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    lock(path, options.open(path).map_err(host)?)
}

/// As [`lock_file`], but changes nothing on the disk: `None` where there is no such file.
///
/// # Errors
/// As [`lock_file`].
pub fn lock_existing(path: &Path) -> Result<Option<FileLock>, LockError> {
    match File::open(path) {
        Ok(file) => lock(path, file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LockError::Host { path: path.to_owned(), error }),
    }
}

fn lock(path: &Path, file: File) -> Result<FileLock, LockError> {
    match file.try_lock() {
        Ok(()) => Ok(FileLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(LockError::Held { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(LockError::Host { path: path.to_owned(), error }),
    }
}

/// Forbids core dumps, and reading of this process's memory by others of the same user: keys must
/// not reach a disk. To be called before a key is read.
///
/// # Errors
/// When the host refuses.
pub fn forbid_core_dumps() -> io::Result<()> {
    sys::set_not_dumpable()
}

/// Whether this process may leave a core dump.
///
/// # Errors
/// When the host does not tell.
pub fn may_dump_core() -> io::Result<bool> {
    let (is_dumpable, core_bytes_max) = sys::dump_limits()?;
    Ok(is_dumpable && core_bytes_max > 0)
}

#[cfg(test)]
mod tests;
