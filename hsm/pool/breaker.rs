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
    open_until: Nanos,
    is_trial_under_way: bool,
}

impl Breaker {
    pub(super) const fn new(failures_max: u32, rest: Duration) -> Self {
        Self {
            failures_max,
            rest,
            failures_count: 0,
            last: String::new(),
            open_until: Nanos::ZERO,
            is_trial_under_way: false,
        }
    }

    /// Lets a call through, or says that the card rests.
    pub(super) fn admit(&mut self, now: impl FnOnce() -> Nanos) -> Result<(), Error> {
        if !self.is_open() {
            return Ok(());
        }
        if now() < self.open_until || self.is_trial_under_way {
            let last = self.last.clone();
            return Err(Error::CircuitOpen { failures_count: self.failures_count, last });
        }
        self.is_trial_under_way = true;
        Ok(())
    }

    /// Takes note that an admitted call was answered.
    pub(super) fn answered(&mut self) {
        self.failures_count = 0;
        self.is_trial_under_way = false;
    }

    /// Takes note of how an admitted call ended that was not a success.
    pub(super) fn ended(&mut self, health: Health, now: Nanos, error: &Error) {
        match health {
            Health::Answered => self.failures_count = 0,
            Health::Failed => {
                self.failures_count = self.failures_count.saturating_add(1);
                self.last = error.to_string();
                self.open_until = now.after(self.rest);
            }
            Health::Unknown => {}
        }
        // Calls admitted before the circuit opened may end during the trial; that the next trial
        // then comes early does no harm.
        self.is_trial_under_way = false;
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
        assert!(breaker.admit(|| at(11)).is_err(), "one trial at a time");
        breaker.ended(Health::Failed, at(12), &Error::HandleUnknown(77));
        assert!(breaker.admit(|| at(21)).unwrap_err().to_string().contains("77"));
        breaker.admit(|| at(22)).unwrap();
        breaker.ended(Health::Unknown, at(23), &failed);
        breaker.admit(|| at(23)).unwrap();
        breaker.answered();
        breaker.admit(|| at(24)).unwrap();
        breaker.admit(|| at(24)).unwrap();
    }
}
