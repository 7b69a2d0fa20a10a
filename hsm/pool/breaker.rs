//! The circuit breaker: a card that fails again and again is given a rest.
//!
//! ```text
//! closed --N failures in a row--> open --rest is over--> one trial --answered--> closed
//!                                   ^-------- failed --------'
//! ```

use std::time::Duration;

use hufu_runtime::clock::Nanos;

use crate::Error;

/// What the end of a call says of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered, be it with a refusal.
    Answered,
    /// It did not, or not as a card in order does.
    Failed,
    /// Nothing: the call did not get as far as the card.
    Unknown,
}

pub(super) struct Breaker {
    failures_max: u32,
    rest: Duration,
    failures_count: u32,
    /// What failed last, for the error of those who are turned away.
    last: String,
    /// No call is let through before, once the circuit is open.
    next_trial: Nanos,
}

impl Breaker {
    pub(super) const fn new(failures_max: u32, rest: Duration) -> Self {
        Self { failures_max, rest, failures_count: 0, last: String::new(), next_trial: Nanos::ZERO }
    }

    /// Lets a call through, or says that the card rests.
    pub(super) fn admit(&mut self, now: impl FnOnce() -> Nanos) -> Result<(), Error> {
        if !self.is_open() {
            return Ok(());
        }
        let now = now();
        if now < self.next_trial {
            let last = self.last.clone();
            return Err(Error::CircuitOpen { failures_count: self.failures_count, last });
        }
        // One trial for each rest, even if this one never comes to an end.
        self.next_trial = now.after(self.rest);
        Ok(())
    }

    /// Takes note that an admitted call was answered.
    pub(super) fn answered(&mut self) {
        self.failures_count = 0;
    }

    /// Takes note of how an admitted call ended that was not a success.
    pub(super) fn ended(&mut self, health: Health, now: Nanos, error: &Error) {
        match health {
            Health::Answered => self.failures_count = 0,
            Health::Failed => {
                self.failures_count = self.failures_count.saturating_add(1);
                self.last = error.to_string();
                self.next_trial = now.after(self.rest);
            }
            Health::Unknown => {}
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.failures_count >= self.failures_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Nanos {
        Nanos::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_trial_through_after_the_rest() {
        let mut breaker = Breaker::new(3, Duration::from_millis(10));
        let failed = Error::HandleUnknown(1);
        let fail = |breaker: &mut Breaker, now| {
            breaker.admit(|| now).unwrap();
            breaker.ended(Health::Failed, now, &failed);
        };
        fail(&mut breaker, at(0));
        fail(&mut breaker, at(0));
        breaker.ended(Health::Answered, at(0), &failed);
        fail(&mut breaker, at(1));
        fail(&mut breaker, at(1));
        assert!(!breaker.is_open(), "an answer in between starts the count anew");
        fail(&mut breaker, at(1));
        let refused = breaker.admit(|| at(10)).unwrap_err();
        assert!(matches!(refused, Error::CircuitOpen { failures_count: 3, .. }), "{refused}");
        breaker.admit(|| at(11)).unwrap();
        assert!(breaker.admit(|| at(20)).is_err(), "one trial for each rest");
        breaker.ended(Health::Failed, at(12), &Error::HandleUnknown(77));
        assert!(breaker.admit(|| at(21)).unwrap_err().to_string().contains("77"));
        breaker.admit(|| at(22)).unwrap();
        breaker.ended(Health::Unknown, at(23), &failed);
        assert!(breaker.admit(|| at(31)).is_err());
        breaker.admit(|| at(32)).unwrap();
        breaker.answered();
        breaker.admit(|| at(33)).unwrap();
        breaker.admit(|| at(33)).unwrap();
    }
}
