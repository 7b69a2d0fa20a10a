use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicU64;

use super::*;
use crate::clock::{self, Nanos};
use crate::link::{Consumer, Producer, link};
use crate::tile::Progress;
use crate::wake::PollSet;

/// Remembers failures instead of aborting.
fn recorder() -> (FatalHandler, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    (Arc::new(move |failure| sink.lock().unwrap().push(failure.to_string())), seen)
}

/// Sends `count` numbers downstream, then idles until stopped.
struct Source {
    next: u64,
    count: u64,
    out: Producer<u64>,
    is_stopping: bool,
    order: Arc<Mutex<Vec<&'static str>>>,
}

impl Tile for Source {
    fn name(&self) -> &str {
        "source"
    }
    fn poll(&mut self, _: Nanos) -> Result<Progress, Fatal> {
        let mut items = self.next..self.count;
        let pushed = self.out.push_batch(&mut items);
        self.next = items.start;
        if pushed > 0 {
            return Ok(Progress::Busy);
        }
        if self.next < self.count {
            return Ok(Progress::PushedBack);
        }
        if self.is_stopping {
            self.order.lock().unwrap().push("source done");
            return Ok(Progress::Done);
        }
        Ok(Progress::Idle)
    }
    fn stop(&mut self) {
        self.order.lock().unwrap().push("source stop");
        self.is_stopping = true;
    }
}

/// Adds one to each number and passes it on.
struct Stage {
    input: Consumer<u64>,
    out: Producer<u64>,
    is_stopping: bool,
    order: Arc<Mutex<Vec<&'static str>>>,
}

impl Tile for Stage {
    fn name(&self) -> &str {
        "stage"
    }
    fn poll(&mut self, _: Nanos) -> Result<Progress, Fatal> {
        let room = self.out.free();
        if room == 0 && !self.input.is_empty() {
            return Ok(Progress::PushedBack);
        }
        let out = &mut self.out;
        let moved = self.input.drain(room, |item| out.try_push(item + 1).unwrap());
        if moved > 0 {
            return Ok(Progress::Busy);
        }
        if self.is_stopping && self.input.is_finished() {
            self.order.lock().unwrap().push("stage done");
            return Ok(Progress::Done);
        }
        Ok(Progress::Idle)
    }
    fn stop(&mut self) {
        self.order.lock().unwrap().push("stage stop");
        self.is_stopping = true;
    }
}

/// Sums up, and counts what it has seen in a place that the test reads.
struct Sink {
    input: Consumer<u64>,
    sum: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
    watcher: Waker,
    is_stopping: bool,
    order: Arc<Mutex<Vec<&'static str>>>,
}

impl Tile for Sink {
    fn name(&self) -> &str {
        "sink"
    }
    fn poll(&mut self, _: Nanos) -> Result<Progress, Fatal> {
        let (sum, seen) = (&self.sum, &self.seen);
        let taken = self.input.drain(8, |item| {
            sum.fetch_add(item, Ordering::Relaxed);
            seen.fetch_add(1, Ordering::Release);
        });
        if taken > 0 {
            self.watcher.wake();
            return Ok(Progress::Busy);
        }
        if self.is_stopping && self.input.is_finished() {
            self.order.lock().unwrap().push("sink done");
            return Ok(Progress::Done);
        }
        Ok(Progress::Idle)
    }
    fn stop(&mut self) {
        self.order.lock().unwrap().push("sink stop");
        self.is_stopping = true;
    }
}

/// Runs source -> stage -> sink with the tiles on the given threads and checks sum and stop order.
fn pipeline(threads: [usize; 3], spin: Duration, depth: usize, count: u64) {
    let (fatal, failures) = recorder();
    let mut group = Group::new(fatal);
    let ids: Vec<ThreadId> = (0..=*threads.iter().max().unwrap())
        .map(|index| {
            let mut config = ThreadConfig::new(&format!("t{index}"));
            config.spin = spin;
            group.thread(config).unwrap()
        })
        .collect();
    let wakers = threads.map(|thread| group.waker(ids[thread]));
    let (first_out, first_in) = link("first", depth);
    let (second_out, second_in) = link("second", depth);
    first_out.bind(&wakers[0]);
    first_in.bind(&wakers[1]);
    second_out.bind(&wakers[1]);
    second_in.bind(&wakers[2]);
    let stats = [first_out.stats(), second_out.stats()];
    let order = Arc::new(Mutex::new(Vec::new()));
    let (sum, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut parker = Parker::new().unwrap();
    let sink = Sink {
        input: second_in,
        sum: Arc::clone(&sum),
        seen: Arc::clone(&seen),
        watcher: parker.waker(),
        is_stopping: false,
        order: Arc::clone(&order),
    };
    let (is_stopping, order_of_stage) = (false, Arc::clone(&order));
    let stage = Stage { input: first_in, out: second_out, is_stopping, order: order_of_stage };
    let source = Source { next: 0, count, out: first_out, is_stopping, order: Arc::clone(&order) };
    // Added against the stop order, which only the ranks decide.
    group.add(ids[threads[2]], 30, Box::new(sink));
    group.add(ids[threads[0]], 10, Box::new(source));
    group.add(ids[threads[1]], 20, Box::new(stage));
    let running = group.start().unwrap();
    let is_all = || seen.load(Ordering::Acquire) == count;
    assert!(parker.wait_until(None, is_all).unwrap());
    running.request_stop();
    let tiles = running.stats().to_vec();
    running.join().unwrap();
    assert_eq!(sum.load(Ordering::Relaxed), count * (count - 1) / 2 + count);
    let expected =
        ["source stop", "source done", "stage stop", "stage done", "sink stop", "sink done"];
    assert_eq!(*order.lock().unwrap(), expected);
    assert!(failures.lock().unwrap().is_empty());
    assert!(stats.iter().all(|link| link.pushed() == count && link.popped() == count));
    for tile in &tiles {
        assert!(tile.polls() > 0 && tile.busy_nanos() > 0, "{tile:?} never worked");
        assert_eq!(tile.heartbeat(), tile.polls());
    }
}

#[test]
fn tiles_on_threads_of_their_own() {
    pipeline([0, 1, 2], Duration::ZERO, 4, 50_000);
    pipeline([0, 1, 2], Duration::from_micros(50), 16, 50_000);
}

#[test]
fn tiles_merged_on_fewer_threads() {
    pipeline([0, 0, 0], Duration::ZERO, 3, 50_000);
    pipeline([0, 1, 0], Duration::ZERO, 1, 20_000);
    pipeline([1, 0, 0], Duration::from_micros(20), 2, 20_000);
}

/// A tile for single cases: what each call does is given by closures.
struct Scripted<P> {
    poll: P,
    deadline: Option<Nanos>,
    is_stopping: bool,
}

impl<P: FnMut(Nanos, &mut Option<Nanos>) -> Result<Progress, Fatal> + Send> Tile for Scripted<P> {
    fn name(&self) -> &str {
        "scripted"
    }
    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let progress = (self.poll)(now, &mut self.deadline)?;
        if self.is_stopping { Ok(Progress::Done) } else { Ok(progress) }
    }
    fn deadline(&self) -> Option<Nanos> {
        self.deadline
    }
    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

fn run_one(
    poll: impl FnMut(Nanos, &mut Option<Nanos>) -> Result<Progress, Fatal> + Send + 'static,
) -> (Result<(), Failure>, Vec<String>) {
    let (fatal, failures) = recorder();
    let mut group = Group::new(fatal);
    let mut config = ThreadConfig::new("one");
    config.housekeeping = Duration::from_secs(3_600);
    let thread = group.thread(config).unwrap();
    group.add(thread, 0, Box::new(Scripted { poll, deadline: None, is_stopping: false }));
    let ended = group.start().unwrap().join();
    let failures = failures.lock().unwrap().clone();
    (ended, failures)
}

#[test]
fn an_error_reaches_the_handler() {
    let (ended, failures) = run_one(|_, _| Err(Fatal::from(io::Error::other("disk is gone"))));
    assert_eq!(failures, ["thread one, tile scripted: disk is gone"]);
    assert!(matches!(ended.unwrap_err().cause, Cause::Fatal(_)));
}

#[test]
fn a_panic_reaches_the_handler() {
    let (ended, failures) = run_one(|_, _| panic!("index {} is wrong", 7));
    assert_eq!(failures, ["thread one, tile scripted: panic: index 7 is wrong"]);
    assert!(matches!(ended.unwrap_err().cause, Cause::Panic(_)));
}

#[test]
fn a_deadline_wakes_a_parked_thread() {
    let mut deadline_seen = None;
    let (ended, _) = run_one(move |now, deadline| {
        let due = *deadline_seen.get_or_insert(now.after(Duration::from_millis(20)));
        *deadline = Some(due);
        // Housekeeping is an hour away, so only the deadline can end the sleep.
        Ok(if now >= due { Progress::Done } else { Progress::Idle })
    });
    ended.unwrap();
}

#[test]
fn a_failing_thread_lets_the_others_stop() {
    let (fatal, failures) = recorder();
    let mut group = Group::new(fatal);
    let good = group.thread(ThreadConfig::new("good")).unwrap();
    let bad = group.thread(ThreadConfig::new("bad")).unwrap();
    let idle = |_: Nanos, _: &mut Option<Nanos>| Ok(Progress::Idle);
    let fail = |_: Nanos, _: &mut Option<Nanos>| Err(Fatal::message("broken"));
    group.add(bad, 0, Box::new(Scripted { poll: fail, deadline: None, is_stopping: false }));
    group.add(good, 1, Box::new(Scripted { poll: idle, deadline: None, is_stopping: false }));
    let running = group.start().unwrap();
    running.stopper().request_stop();
    assert_eq!(running.join().unwrap_err().thread, "bad");
    assert_eq!(*failures.lock().unwrap(), ["thread bad, tile scripted: broken"]);
}

struct Unstartable;

impl Tile for Unstartable {
    fn name(&self) -> &str {
        "unstartable"
    }
    fn start(&mut self) -> Result<(), Fatal> {
        Err(Fatal::message("no device"))
    }
    fn poll(&mut self, _: Nanos) -> Result<Progress, Fatal> {
        unreachable!("a tile that did not start is polled")
    }
    fn stop(&mut self) {}
}

#[test]
fn a_tile_that_does_not_start_fails_the_start_without_the_handler() {
    let (fatal, failures) = recorder();
    let mut group = Group::new(fatal);
    let good = group.thread(ThreadConfig::new("good")).unwrap();
    let bad = group.thread(ThreadConfig::new("bad")).unwrap();
    let idle = |_: Nanos, _: &mut Option<Nanos>| Ok(Progress::Idle);
    group.add(good, 0, Box::new(Scripted { poll: idle, deadline: None, is_stopping: false }));
    group.add(bad, 1, Box::new(Unstartable));
    let failure = group.start().unwrap_err();
    assert_eq!(failure.to_string(), "thread bad, tile unstartable: no device");
    assert!(failures.lock().unwrap().is_empty());
}

#[test]
fn a_core_that_is_not_there_fails_the_start() {
    let (fatal, _) = recorder();
    let mut group = Group::new(fatal);
    let mut config = ThreadConfig::new("pinned");
    config.cores = CoreSet::new(&[1_023]);
    let thread = group.thread(config).unwrap();
    group.add(thread, 0, Box::new(Unstartable));
    assert!(matches!(group.start().unwrap_err().cause, Cause::Host(_)));
}

/// Runs until it is asked to stop.
struct Patient {
    is_stopping: bool,
}

impl Tile for Patient {
    fn name(&self) -> &str {
        "patient"
    }
    fn poll(&mut self, _: Nanos) -> Result<Progress, Fatal> {
        Ok(if self.is_stopping { Progress::Done } else { Progress::Idle })
    }
    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a start that hangs must not hang its test")]
fn a_thread_the_host_refuses_fails_the_start_and_stops_the_others() {
    for refused in 0..3 {
        let (fatal, seen) = recorder();
        let mut group = Group::new(fatal);
        for rank in 0..3 {
            let thread = group.thread(ThreadConfig::new(&format!("thread {rank}"))).unwrap();
            // The refused thread has tiles of the first rank, for which all others wait.
            group.add(thread, 0, Box::new(Patient { is_stopping: false }));
            group.add(thread, rank, Box::new(Patient { is_stopping: false }));
        }
        let (done, is_done) = mpsc::channel();
        let work = move || {
            let mut count = 0;
            let started = group.start_with(&mut |name, work| {
                count += 1;
                if count == refused + 1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                spawn(name, work)
            });
            done.send(started.map(drop)).unwrap();
        };
        let starter = std::thread::Builder::new().spawn(work).unwrap();
        let started = is_done.recv_timeout(Duration::from_secs(20));
        let failure = started.expect("the start hangs").unwrap_err();
        starter.join().unwrap();
        assert_eq!(failure.thread, format!("thread {refused}"));
        assert!(matches!(failure.cause, Cause::Host(_)), "{failure}");
        assert!(seen.lock().unwrap().is_empty(), "a start that fails is its caller's to handle");
    }
}

/// Echoes over the reactor; the thread sleeps in `ppoll` on the reactor's descriptor.
struct Echo {
    reactor: crate::net::Reactor,
    events: Vec<crate::net::Event>,
    is_stopping: bool,
}

impl Tile for Echo {
    fn name(&self) -> &str {
        "echo"
    }
    fn poll(&mut self, now: Nanos) -> Result<Progress, Fatal> {
        let count = self.reactor.poll(now, &mut self.events)?;
        for event in self.events.drain(..) {
            if let crate::net::Event::Received { conn, .. } = event {
                let bytes = self.reactor.received(conn).to_vec();
                assert_eq!(self.reactor.send(conn, &bytes)?, bytes.len());
                self.reactor.consume(conn, bytes.len());
            }
        }
        if self.is_stopping {
            return Ok(Progress::Done);
        }
        Ok(if count > 0 { Progress::Busy } else { Progress::Idle })
    }
    fn deadline(&self) -> Option<Nanos> {
        self.reactor.deadline()
    }
    fn poll_fds<'a>(&'a self, fds: &mut PollSet<'_, 'a>) {
        fds.readable(&self.reactor);
    }
    fn stop(&mut self) {
        self.is_stopping = true;
    }
}

/// The descriptor of each back end must end a sleep; with `DEFER_TASKRUN` the ring has no
/// completion yet at that moment, only pending work.
#[test]
fn a_reactor_wakes_its_parked_thread() {
    for backend in [crate::net::Backend::Uring, crate::net::Backend::Epoll] {
        let config = crate::net::Config { backend, ..Default::default() };
        let Ok(mut reactor) = crate::net::Reactor::new(config) else {
            println!("skipped: {backend:?} is not permitted here");
            continue;
        };
        let listener = reactor.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let addr = reactor.local_addr(listener).unwrap();
        let (fatal, failures) = recorder();
        let mut group = Group::new(fatal);
        let mut config = ThreadConfig::new("echo");
        // Only the descriptor can wake the thread before the test would time out.
        config.housekeeping = Duration::from_secs(3_600);
        let thread = group.thread(config).unwrap();
        group.add(thread, 0, Box::new(Echo { reactor, events: Vec::new(), is_stopping: false }));
        let running = group.start().unwrap();
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        client.set_nodelay(true).unwrap();
        let before = clock::monotonic();
        for round in 0..200_u8 {
            io::Write::write_all(&mut client, &[round; 32]).unwrap();
            let mut back = [0; 32];
            io::Read::read_exact(&mut client, &mut back).unwrap();
            assert_eq!(back, [round; 32]);
        }
        let each = clock::monotonic().since(before) / 200;
        println!("{backend:?}: {each} ns a round trip to a parked thread");
        running.request_stop();
        running.join().unwrap();
        assert!(failures.lock().unwrap().is_empty());
    }
}
