use std::io::BufRead;
use std::process::{Command, Stdio};

use super::*;

#[test]
fn signals_are_read_from_the_descriptor() {
    // A thread of its own, so that the changed mask stays out of the other tests.
    let got = std::thread::scope(|scope| {
        let run = || {
            let signals = Signals::block().unwrap();
            assert_eq!(signals.next().unwrap(), None);
            sys::raise(libc::SIGTERM);
            let first = signals.wait(Some(Duration::from_secs(10))).unwrap();
            sys::raise(libc::SIGHUP);
            let second = signals.wait(Some(Duration::from_secs(10))).unwrap();
            sys::raise(libc::SIGINT);
            [first, second, signals.wait(Some(Duration::from_secs(10))).unwrap()]
        };
        scope.spawn(run).join().unwrap()
    });
    let expected = [Signal::Terminate, Signal::HangUp, Signal::Interrupt];
    assert_eq!(got, expected.map(Some));
}

#[test]
fn cpu_time_grows_with_work() {
    // The process first: what this thread uses between the two readings then counts for both.
    let (process, thread) = (process_cpu_nanos().unwrap(), thread_cpu_nanos().unwrap());
    let mut sum = 0_u64;
    while thread_cpu_nanos().unwrap() < thread + 1_000_000 {
        sum = std::hint::black_box(sum.wrapping_add(1));
    }
    assert!(process_cpu_nanos().unwrap() >= process + 1_000_000);
}

#[test]
fn resident_memory_is_plausible() {
    let memory = resident_memory().unwrap();
    assert!(memory.bytes > 100 << 10);
    assert!(memory.peak_bytes >= memory.bytes);
    assert!(resident_memory_of(std::process::id()).unwrap().bytes > 100 << 10);
    let text = "Name:\tx\nVmHWM:\t     20 kB\nVmRSS:\t     10 kB\n";
    let expected = ResidentMemory { bytes: 10 << 10, peak_bytes: 20 << 10 };
    assert_eq!(resident_memory_from(text).unwrap(), expected);
    for wrong in ["", "VmRSS:\t10 kB\n", "VmRSS:\tx kB\nVmHWM:\t1 kB\n", "VmRSS:\t1\nVmHWM:\t1\n"] {
        assert!(resident_memory_from(wrong).is_err(), "{wrong:?} was accepted");
    }
}

#[test]
fn a_lock_is_exclusive_until_it_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = lock_file(&path).unwrap();
    assert!(matches!(lock_file(&path), Err(LockError::Held { .. })));
    assert!(matches!(lock_existing(&path), Err(LockError::Held { .. })));
    drop(lock);
    drop(lock_file(&path).unwrap());
    assert!(lock_existing(&path).unwrap().is_some());
    assert!(lock_existing(&path.with_extension("none")).unwrap().is_none());
    let missing = dir.path().join("missing/lock");
    assert!(matches!(lock_file(&missing), Err(LockError::Host { .. })));
}

/// Runs one ignored-by-name helper of this test binary in a process of its own.
fn helper(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env("HUFU_RUNTIME_HELPER", name);
    command
}

fn is_helper(name: &str) -> bool {
    std::env::var("HUFU_RUNTIME_HELPER").is_ok_and(|helper| helper == name)
}

/// As a helper: forbids dumps and says so by its exit code. As a test: starts the helper, since the
/// limit cannot be lifted again.
#[test]
fn core_dumps_can_be_forbidden() {
    let name = "process::tests::core_dumps_can_be_forbidden";
    if is_helper(name) {
        forbid_core_dumps().unwrap();
        assert!(!may_dump_core().unwrap());
        return;
    }
    let output = helper(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Three generations: the test starts a parent, which starts a child that waits for ever on the
/// test's pipe. Killing the parent must end the child, which closes the pipe.
#[test]
fn a_child_dies_with_its_parent() {
    let name = "process::tests::a_child_dies_with_its_parent";
    if is_helper(name) {
        if let Ok(parent) = std::env::var("HUFU_RUNTIME_PARENT") {
            die_with_parent(parent.parse().unwrap()).unwrap();
            let wrong = die_with_parent(u32::MAX).unwrap_err();
            assert_eq!(wrong.kind(), io::ErrorKind::NotFound);
            println!("child is ready");
        } else {
            let me = std::process::id().to_string();
            let mut child = helper(name);
            let mut child = child.env("HUFU_RUNTIME_PARENT", me).spawn().unwrap();
            child.wait().unwrap();
        }
        let mut parker = crate::wake::Parker::new().unwrap();
        parker.wait_until(None, || false).unwrap();
    }
    let mut parent = helper(name).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = io::BufReader::new(parent.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("child is ready")));
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The pipe ends only when the child, its last writer, is gone.
    assert_eq!(lines.filter(|line| line.as_ref().is_ok_and(|l| l.contains("panicked"))).count(), 0);
}

#[test]
fn a_reader_that_goes_away_is_noticed_without_writing() {
    let (reader, writer) = std::io::pipe().unwrap();
    assert!(has_reader(&writer).unwrap());
    drop(reader);
    assert!(!has_reader(&writer).unwrap());
    assert!(has_reader(&File::open("/dev/null").unwrap()).unwrap());
}

#[test]
fn the_children_of_another_process_are_killed_and_no_others() {
    let mut parent = Command::new("sh")
        .args(["-c", "sleep 600 & echo ready; wait $!; echo $?"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(parent.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    assert_eq!(kill_children_of(parent.id()).unwrap(), 1);
    // 128 and the number of SIGKILL: the shell was left alone and saw its child end.
    assert_eq!(lines.next().unwrap().unwrap(), "137");
    assert!(parent.wait().unwrap().success());
    assert_eq!(kill_children_of(u32::MAX).unwrap(), 0, "nobody's parent");
}
