//! Every interleaving of a small model of the ring's waking, step by step as `NodeEnd::request` and
//! `AgentEnd::next` take them.
//!
//! A step is one access to a shared word; the fences make that the order that counts. The property:
//! while a call waits in the ring, no worker sleeps for good. Workers may stay in the library as
//! long as they like, so it is not enough that somebody will come by. The rules that the module's
//! reasoning names can be left out one at a time, and then the model must find a state that breaks
//! it: so it is known to look at them.

use std::collections::HashSet;

const WORKERS: usize = 3;
const CALLERS: usize = 2;
const CALLS_EACH: u8 = 2;

/// What a rule being left out is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeftOut {
    Nothing,
    /// A worker looks at the tail before it announces its sleep, and not after.
    LastLook,
    /// Who takes a call and sees more does not wake another.
    PassingOn,
    /// Who stops spinning goes to sleep upon the tail of then, without another look at the ring.
    LookAfterSpinning,
    /// Who stops spinning leaves the word up that says so.
    SpinTakenDown,
    /// A caller wakes before it pushes.
    PushBeforeWake,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Worker {
    Pop,
    /// Nothing up to this tail: spin or sleep.
    Empty(u8),
    Spin,
    SpinOver,
    /// Announced.
    Announced(u8),
    /// Looked: nothing came.
    Looked(u8),
    Asleep,
    Awake,
    /// Has taken a call and seen more: looks for sleepers, then wakes one.
    SeenMore,
    Waking,
    /// In the library.
    Serving,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Idle,
    /// Has pushed: looks whether somebody spins, then whether somebody sleeps, then wakes.
    Pushed,
    NobodySpins,
    Waking,
    /// Only where the order is wrong.
    PushesLast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    head: u8,
    tail: u8,
    sleepers: u8,
    spinning: bool,
    workers: [Worker; WORKERS],
    callers: [(Caller, u8); CALLERS],
}

impl State {
    const START: Self = Self {
        head: 0,
        tail: 0,
        sleepers: 0,
        spinning: false,
        workers: [Worker::Pop; WORKERS],
        callers: [(Caller::Idle, CALLS_EACH); CALLERS],
    };

    fn with_worker(mut self, index: usize, worker: Worker) -> Self {
        self.workers[index] = worker;
        self
    }

    fn with_caller(mut self, index: usize, caller: Caller) -> Self {
        self.callers[index].0 = caller;
        self
    }

    /// All states after a wake-up of one sleeper, whichever the kernel takes.
    fn woken(self, next: &mut Vec<Self>) {
        let asleep = (0..WORKERS).filter(|index| self.workers[*index] == Worker::Asleep);
        let before = next.len();
        next.extend(asleep.map(|index| self.with_worker(index, Worker::Awake)));
        if next.len() == before {
            next.push(self);
        }
    }

    fn worker_steps(self, index: usize, left_out: LeftOut, next: &mut Vec<Self>) {
        let to = |worker| self.with_worker(index, worker);
        match self.workers[index] {
            Worker::Pop if self.head == self.tail => next.push(to(Worker::Empty(self.tail))),
            Worker::Pop => {
                let is_more = self.tail - self.head > 1 && left_out != LeftOut::PassingOn;
                let mut taken = to(if is_more { Worker::SeenMore } else { Worker::Serving });
                taken.head += 1;
                next.push(taken);
            }
            Worker::Empty(seen) => {
                if !self.spinning {
                    let mut spins = to(Worker::Spin);
                    spins.spinning = true;
                    next.push(spins);
                }
                if left_out == LeftOut::LastLook {
                    if self.tail == seen {
                        next.push(to(Worker::Looked(seen)));
                    } else {
                        next.push(to(Worker::Pop));
                    }
                    return;
                }
                let mut announced = to(Worker::Announced(seen));
                announced.sleepers += 1;
                next.push(announced);
            }
            // The time may be over at any look.
            Worker::Spin => next.push(to(Worker::SpinOver)),
            Worker::SpinOver => {
                let mut over = to(Worker::Pop);
                if left_out == LeftOut::LookAfterSpinning {
                    over = to(Worker::Announced(self.tail));
                    over.sleepers += 1;
                }
                over.spinning = left_out == LeftOut::SpinTakenDown;
                next.push(over);
            }
            Worker::Announced(seen) if self.tail == seen => next.push(to(Worker::Looked(seen))),
            Worker::Announced(_) => next.push(to(Worker::Awake)),
            // The kernel compares once more, unless the model is asked what that is worth.
            Worker::Looked(seen) => {
                let mut asleep = to(Worker::Asleep);
                if left_out == LeftOut::LastLook {
                    asleep.sleepers += 1;
                    next.push(asleep);
                } else if self.tail == seen {
                    next.push(asleep);
                } else {
                    next.push(to(Worker::Awake));
                }
            }
            Worker::Asleep => {}
            Worker::Awake => {
                let mut popping = to(Worker::Pop);
                popping.sleepers -= 1;
                next.push(popping);
            }
            Worker::SeenMore if self.sleepers > 0 => next.push(to(Worker::Waking)),
            Worker::SeenMore => next.push(to(Worker::Serving)),
            Worker::Waking => to(Worker::Serving).woken(next),
            Worker::Serving => next.push(to(Worker::Pop)),
        }
    }

    fn caller_steps(self, index: usize, left_out: LeftOut, next: &mut Vec<Self>) {
        let (caller, left) = self.callers[index];
        let pushes_last = left_out == LeftOut::PushBeforeWake;
        let after = if pushes_last { Caller::PushesLast } else { Caller::Idle };
        let over = |state: Self| state.with_caller(index, after);
        match caller {
            Caller::Idle if left == 0 => {}
            Caller::Idle => {
                let mut pushed = self.with_caller(index, Caller::Pushed);
                pushed.tail += u8::from(!pushes_last);
                pushed.callers[index].1 -= 1;
                next.push(pushed);
            }
            Caller::Pushed if self.spinning => next.push(over(self)),
            Caller::Pushed => next.push(self.with_caller(index, Caller::NobodySpins)),
            Caller::NobodySpins if self.sleepers == 0 => next.push(over(self)),
            Caller::NobodySpins => next.push(self.with_caller(index, Caller::Waking)),
            Caller::Waking => over(self).woken(next),
            Caller::PushesLast => {
                let mut pushed = self.with_caller(index, Caller::Idle);
                pushed.tail += 1;
                next.push(pushed);
            }
        }
    }

    /// Whether a call waits and a worker sleeps, and nothing will change that but workers that
    /// come back from the library.
    fn is_stuck(&self, left_out: LeftOut) -> bool {
        let mut next = Vec::new();
        for index in 0..WORKERS {
            if self.workers[index] != Worker::Serving {
                self.worker_steps(index, left_out, &mut next);
            }
        }
        (0..CALLERS).for_each(|index| self.caller_steps(index, left_out, &mut next));
        next.is_empty() && self.head < self.tail && self.workers.contains(&Worker::Asleep)
    }
}

/// Looks at every state that can be reached: how many, and one that is stuck.
fn explore(left_out: LeftOut) -> (usize, Option<State>) {
    let mut seen = HashSet::from([State::START]);
    let mut open = vec![State::START];
    while let Some(state) = open.pop() {
        if state.is_stuck(left_out) {
            return (seen.len(), Some(state));
        }
        let mut next = Vec::new();
        (0..WORKERS).for_each(|index| state.worker_steps(index, left_out, &mut next));
        (0..CALLERS).for_each(|index| state.caller_steps(index, left_out, &mut next));
        open.extend(next.into_iter().filter(|state| seen.insert(*state)));
    }
    (seen.len(), None)
}

#[test]
fn no_worker_sleeps_while_a_call_waits() {
    let (states_count, stuck) = explore(LeftOut::Nothing);
    assert_eq!(stuck, None);
    assert!(states_count > 10_000, "{states_count} states are not all");
}

#[test]
fn each_rule_is_needed() {
    for left_out in [
        LeftOut::LastLook,
        LeftOut::PassingOn,
        LeftOut::LookAfterSpinning,
        LeftOut::SpinTakenDown,
        LeftOut::PushBeforeWake,
    ] {
        assert!(explore(left_out).1.is_some(), "{left_out:?} is not missed");
    }
}
