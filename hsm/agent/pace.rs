//! When to wake up for an answer: a little before it is there, so that waking costs no time.
//!
//! ```text
//! request --------- asleep ---------|-- spins, `spin` at most --| asleep until the agent wakes it
//!                                 aim                       answer, most of the time
//! ```
//!
//! A core that sleeps takes tens of microseconds to run again, as long as a fast card takes for a
//! signature. So a caller sleeps with an alarm, which runs while the card works. The aim is learnt
//! from how the last calls of the same kind ended, whatever the reason was: the card's own time, a
//! core that wakes slowly, an alarm that is late. It is a guess about time alone; a wrong one costs
//! a call what sleeping without an alarm would have cost, and `spin` of processor time at most.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::protocol::Op;

/// Longer than this nobody is woken for: what waking costs is nothing beside it.
const AIM_MAX: u64 = 5_000_000;

/// How a wait for an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// The answer was there before the alarm, or when it rang: too late an aim.
    Asleep,
    /// It came while the caller spun, after so many nanoseconds of that.
    Awake(u64),
    /// It came after that: too early an aim, or a call that took longer than others.
    After,
}

/// What was learnt, by operation: nanoseconds from a request to the moment to be awake.
#[derive(Debug, Default)]
pub(crate) struct Pace([AtomicU64; Op::ALL.len()]);

impl Pace {
    /// How long a caller may sleep before it spins for `spin` at most; nothing if that is no sleep
    /// worth while. `None` if it should not spin: the answer is far, or comes at any time.
    pub(crate) fn sleep(&self, op: Op, spin: Duration) -> Option<Duration> {
        let aim = self.aim(op).load(Ordering::Relaxed);
        let spin = u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX);
        (aim < AIM_MAX).then(|| Duration::from_nanos(aim.saturating_sub(spin / 2)))
    }

    /// Learns from a call that took `elapsed` nanoseconds, in which `spin` was the most.
    pub(crate) fn learn(&self, op: Op, met: Met, spin: Duration, elapsed: u64) {
        let aim = self.aim(op);
        let middle = u64::try_from(spin.as_nanos()).unwrap_or(u64::MAX) / 2;
        // Callers at once may lose one another's lesson: it is a guess.
        let before = aim.load(Ordering::Relaxed);
        let after = match met {
            // By how much is not known, so step by step.
            Met::Asleep => before.min(elapsed) / 8 * 7,
            // In the middle of the spin is where it should come; alarms that are late are in this.
            Met::Awake(spun) => {
                (before + spun.min(elapsed) / 4).saturating_sub(middle.min(elapsed) / 4)
            }
            // Some calls take long; that alone must not move the aim away from the others.
            Met::After => before + (elapsed.saturating_sub(before) / 8).min(before / 8 + 1_000),
        };
        aim.store(after.min(AIM_MAX), Ordering::Relaxed);
    }

    fn aim(&self, op: Op) -> &AtomicU64 {
        let place = Op::ALL.iter().position(|other| *other == op).unwrap_or(0);
        &self.0[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIN: u64 = 20_000;

    /// Calls of a card that answers after `times`, in turn, to a caller whose alarm rings `late`.
    /// Gives the share of the last half that was met awake, in percent.
    fn met_awake(pace: &Pace, times: &[u64], late: u64) -> usize {
        let count = 400;
        let met = (0..count).map(|number| {
            let time = times[number % times.len()];
            let sleep = pace.sleep(Op::Sign, Duration::from_nanos(SPIN));
            let sleep = sleep.map_or(u64::MAX / 2, |sleep| sleep.as_nanos().try_into().unwrap());
            let awake = if sleep == 0 { 0 } else { sleep + late };
            let (met, elapsed) = if time <= awake {
                (Met::Asleep, time + 30_000)
            } else if time <= awake + SPIN {
                (Met::Awake(time - awake), time)
            } else {
                (Met::After, time + 30_000)
            };
            pace.learn(Op::Sign, met, Duration::from_nanos(SPIN), elapsed);
            usize::from(matches!(met, Met::Awake(_)))
        });
        met.skip(count / 2).sum::<usize>() * 100 / (count / 2)
    }

    #[test]
    fn a_steady_card_is_met_awake_however_long_it_takes_and_late_the_alarm_is() {
        for time in [5_000, 30_000, 60_000, 300_000, 2_000_000] {
            for late in [0, 10_000, 50_000] {
                let share = met_awake(&Pace::default(), &[time], late);
                // Where the alarm is later than the whole call, it is spun for from the start or
                // slept through.
                let wanted = if late + SPIN / 2 < time { 95 } else { 0 };
                assert!(share >= wanted, "{time} ns, alarm {late} ns late: {share} %");
            }
        }
    }

    #[test]
    fn a_call_that_takes_long_now_and_then_spoils_little() {
        let mut times = [100_000; 20];
        times[7] = 3_000_000;
        assert!(met_awake(&Pace::default(), &times, 10_000) >= 60);
    }

    #[test]
    fn a_card_that_became_slower_or_faster_is_met_again() {
        let pace = Pace::default();
        for time in [50_000, 900_000, 40_000] {
            assert!(met_awake(&pace, &[time], 5_000) >= 60, "{time}");
        }
    }

    #[test]
    fn nobody_is_woken_for_what_is_far() {
        let pace = Pace::default();
        for _ in 0..2_000 {
            pace.learn(Op::Unwrap, Met::After, Duration::from_micros(20), 1_000_000_000);
        }
        assert_eq!(pace.sleep(Op::Unwrap, Duration::from_micros(20)), None);
        assert!(pace.sleep(Op::Sign, Duration::from_micros(20)).is_some(), "each for itself");
        pace.learn(Op::Unwrap, Met::Asleep, Duration::from_micros(20), 100_000);
        assert!(pace.sleep(Op::Unwrap, Duration::from_micros(20)).is_some(), "and not for ever");
    }
}
