//! The ring with both ends in one process: threads instead of processes, the same memory.

use std::collections::HashSet;
use std::sync::Arc;

use super::*;
use crate::agent::protocol::Op;

/// Both ends over one memory.
pub(crate) fn pair(slots_count: u32, spin: Duration) -> (Arc<NodeEnd>, Arc<AgentEnd>) {
    let node = NodeEnd::create(slots_count).unwrap();
    let descriptor = node.descriptor().try_clone_to_owned().unwrap();
    let agent = AgentEnd::adopt(descriptor, slots_count, spin).unwrap();
    (Arc::new(node), Arc::new(agent))
}

fn header(deadline: u64) -> RequestHeader {
    RequestHeader {
        request: 0.into(),
        deadline: deadline.into(),
        op: Op::Sign.number().into(),
        is_polled: 0.into(),
        key: 0.into(),
        body_size: 0.into(),
        reserved: 0.into(),
    }
}

fn soon() -> u64 {
    os::host_nanos() + 60_000_000_000
}

/// A caller that spins so long, and learns with all others of the test.
fn habit(spin: Duration) -> Habit<'static> {
    static PACE: std::sync::LazyLock<Pace> = std::sync::LazyLock::new(Pace::default);
    Habit { op: Op::Sign, pace: &PACE, spin }
}

/// Longer than any test may take.
const LONG: Duration = Duration::from_secs(600);

const SHORT: Duration = Duration::from_millis(20);

#[test]
fn a_call_goes_there_and_back() {
    let (node, agent) = pair(4, Duration::ZERO);
    let mut body: Body = [0; BODY_BYTES_MAX];
    assert!(agent.next(Duration::ZERO, &mut body).unwrap().is_none());
    for size in [0, 1, 3, 4, 5, 32, BODY_BYTES_MAX] {
        let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let place = node.take(0).unwrap();
        node.request(&place, header(soon()), &sent);
        assert_eq!(node.look(&place), None);
        let job = agent.next(SHORT, &mut body).unwrap().unwrap();
        assert_eq!((job.body_size, &body[..size]), (size, &sent[..]));
        let back: Vec<u8> = sent.iter().map(|byte| !byte).collect();
        agent.answer(&job, AnswerHeader::DONE, &back);
        assert_eq!(node.wait(&place, soon(), &habit(Duration::ZERO)), Waited::Answered);
        let mut answer: Body = [0; BODY_BYTES_MAX];
        let found = node.answer(&place, Op::Sign.number(), &mut answer).unwrap();
        assert_eq!(super::size(found.body_size.get()), size);
        assert_eq!(&answer[..size], &back[..]);
        node.release(place, size == 32);
        assert_eq!(node.open_count(), 0);
    }
}

#[test]
fn slots_are_bounded_reserved_and_come_back_after_late_answers() {
    let (node, agent) = pair(4, Duration::ZERO);
    let mut body: Body = [0; BODY_BYTES_MAX];
    let first = node.take(2).unwrap();
    let second = node.take(2).unwrap();
    assert!(node.take(2).is_none(), "two are reserved");
    let third = node.take(0).unwrap();
    let fourth = node.take(0).unwrap();
    assert!(node.take(0).is_none());
    let now = os::host_nanos();
    node.request(&first, header(now + 1), b"x");
    assert_eq!(node.wait(&first, now + 1, &habit(SHORT)), Waited::Late);
    assert!(node.overdue_nanos(os::host_nanos()) > 0);
    node.abandon(first);
    assert!(node.take(0).is_none(), "the answer may still come");
    let job = agent.next(SHORT, &mut body).unwrap().unwrap();
    // An agent that writes anything else there keeps the slot and is late all the same.
    let (words, state) = agent.exposed(&job);
    words[state].store(99, Ordering::Release);
    assert!(node.overdue_nanos(os::host_nanos()) > 0 && node.take(0).is_none());
    agent.answer(&job, AnswerHeader::DONE, b"late");
    assert_eq!(node.overdue_nanos(os::host_nanos()), 0);
    let again = node.take(0).unwrap();
    for place in [second, third, fourth, again] {
        node.release(place, true);
    }
    assert_eq!(node.open_count(), 0);
}

#[test]
fn the_end_fails_whoever_waits() {
    let (node, _agent) = pair(4, Duration::ZERO);
    let place = node.take(0).unwrap();
    node.request(&place, header(soon()), b"x");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| node.wait(&place, soon(), &habit(Duration::ZERO)));
        node.end("killed");
        assert_eq!(waiter.join().unwrap(), Waited::Ended);
    });
    assert_eq!((node.ended(), node.condemned()), (Some("killed"), None));
}

#[test]
fn nonsense_of_the_node_is_refused() {
    let garble = |at: fn(&Layout) -> usize, value: u32| {
        let (node, agent) = pair(4, Duration::ZERO);
        let place = node.take(0).unwrap();
        node.request(&place, header(soon()), b"x");
        node.memory().words()[at(&agent.layout)].store(value, Ordering::Release);
        let mut body: Body = [0; BODY_BYTES_MAX];
        agent.next(Duration::ZERO, &mut body).err().map(|Nonsense(what)| what)
    };
    let slot: fn(&Layout) -> usize = |layout| layout.slot(0);
    for (at, value, field) in [
        ((|_| TAIL) as fn(&Layout) -> usize, 6, "tail"),
        (|_| TAIL, u32::MAX, "tail"),
        (|layout| layout.entry(0), 4, "slot number"),
        (|layout| layout.entry(0), u32::MAX, "slot number"),
        (slot, 0, "state"),
        (slot, ANSWERED, "state"),
        (|layout| layout.slot(0) + REQUEST + 6, 0xffff, "size"),
        (|layout| layout.slot(0) + REQUEST + 7, 1, "reserved"),
    ] {
        let found = garble(at, value);
        assert!(found.as_ref().is_some_and(|what| what.contains(field)), "{field}: {found:?}");
    }
    assert_eq!(garble(slot, REQUESTED), None);
}

#[test]
fn nonsense_of_the_agent_is_refused() {
    let garble = |at: usize, value: u32| {
        let (node, agent) = pair(4, Duration::ZERO);
        let place = node.take(0).unwrap();
        node.request(&place, header(soon()), b"x");
        let mut body: Body = [0; BODY_BYTES_MAX];
        let job = agent.next(Duration::ZERO, &mut body).unwrap().unwrap();
        agent.answer(&job, AnswerHeader::DONE, b"y");
        let at = agent.layout.slot(0) + at;
        node.memory().words()[at].store(value, Ordering::Release);
        if node.look(&place) != Some(Waited::Answered) {
            return node.condemned().map(str::to_owned);
        }
        node.answer(&place, Op::Sign.number(), &mut body).err().map(|Nonsense(what)| what)
    };
    for (at, value, field) in [
        (STATE, 0, "state"),
        (STATE, 77, "state"),
        (STATE, FAILED, "state"),
        (ANSWER, 0, "request"),
        (ANSWER + 1, 1, "request"),
        (ANSWER + 2, 7, "operation"),
        (ANSWER + 2, 0x0002_0003, "status"),
        (ANSWER + 3, 0x1_0000, "size"),
        (ANSWER + 3, u32::MAX, "size"),
        (ANSWER + 4, 1, "reserved"),
        (ANSWER + 7, 1, "reserved"),
    ] {
        let found = garble(at, value);
        assert!(found.as_ref().is_some_and(|what| what.contains(field)), "{field}: {found:?}");
    }
    assert_eq!(garble(STATE, ANSWERED), None);
}

/// Callers and workers in every mixture of spinning and sleeping; each answer must be the one to
/// its own request, none lost, none twice.
fn storm(callers_count: u32, workers_count: u32, spin: Duration, calls_count: u32) {
    let (node, agent) = pair(8, spin);
    let seen = Mutex::new(HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..workers_count {
            scope.spawn(|| {
                let mut body: Body = [0; BODY_BYTES_MAX];
                loop {
                    // A worker that is not woken makes its caller late, and the test fail.
                    let Some(job) = agent.next(LONG, &mut body).unwrap() else { continue };
                    if job.body_size == 0 {
                        break;
                    }
                    let sent = &body[..job.body_size];
                    assert!(locked(&seen).insert(sent[..8].to_vec()), "a call served twice");
                    let back: Vec<u8> = sent.iter().map(|byte| byte ^ 0x5a).collect();
                    agent.answer(&job, AnswerHeader::DONE, &back);
                }
            });
        }
        let callers: Vec<_> = (0..callers_count)
            .map(|caller| {
                let node = &node;
                scope.spawn(move || {
                    let mut answer: Body = [0; BODY_BYTES_MAX];
                    for call in 0..calls_count {
                        let mut sent = vec![0xee; 8 + super::size(call % 90)];
                        sent[..4].copy_from_slice(&caller.to_le_bytes());
                        sent[4..8].copy_from_slice(&call.to_le_bytes());
                        let place = loop {
                            match node.take(0) {
                                Some(place) => break place,
                                None => std::thread::yield_now(),
                            }
                        };
                        node.request(&place, header(soon()), &sent);
                        assert_eq!(node.wait(&place, soon(), &habit(spin)), Waited::Answered);
                        let head = node.answer(&place, Op::Sign.number(), &mut answer).unwrap();
                        let count = super::size(head.body_size.get());
                        assert_eq!(count, sent.len());
                        assert!(answer.iter().zip(&sent).all(|(got, sent)| *got == sent ^ 0x5a));
                        node.release(place, false);
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        for _ in 0..workers_count {
            let place = node.take(0).unwrap();
            node.request(&place, header(soon()), &[]);
        }
    });
    assert_eq!(locked(&seen).len(), super::size(callers_count * calls_count));
    assert_eq!((node.open_count(), node.condemned()), (super::size(workers_count), None));
}

#[test]
fn no_call_is_lost_or_served_twice() {
    let micros = Duration::from_micros;
    for (callers, workers, spin) in [
        (1, 1, Duration::ZERO),
        (1, 4, micros(5)),
        (4, 1, micros(5)),
        (4, 4, Duration::ZERO),
        (4, 4, micros(5)),
        (12, 3, micros(50)),
        (12, 3, Duration::ZERO),
    ] {
        storm(callers, workers, spin, 4_000);
    }
}
