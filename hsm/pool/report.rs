//! All that a card's pool counts, as one value that passes between processes.

use super::{BUCKETS_COUNT, Metrics, Operation, PoolStatus};
use crate::{ErrorClass, Rv};

/// Return values of one report at most, count.
pub(crate) const RETURN_VALUES_MAX: usize = 64;

/// How long operations of one kind took; see [`super::Histogram`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// How many were in each bucket, not cumulated.
    pub buckets: [u64; BUCKETS_COUNT],
    /// Nanoseconds of all together.
    pub nanos_total: u64,
}

/// A reading of one card: totals since its library was loaded by this process or its agent, but for
/// those that say "now".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardReport {
    /// Sessions that are open now.
    pub sessions_open: u64,
    /// Sessions that are lent now.
    pub sessions_lent: u64,
    /// Calls that wait for a session now.
    pub calls_waiting: u64,
    /// Whether the card rests after failures (the circuit is open).
    pub is_resting: bool,
    /// Whether it serves no more until somebody acts.
    pub is_stopped: bool,
    /// Sessions opened.
    pub sessions_opened_total: u64,
    /// Sessions closed because of an error of their own.
    pub sessions_lost_total: u64,
    /// How often the token was lost.
    pub tokens_lost_total: u64,
    /// How often the library was loaded and the token reached.
    pub connected_total: u64,
    /// Logins that the token took.
    pub logins_total: u64,
    /// Operations begun again after an error.
    pub retried_total: u64,
    /// Calls turned away because too many waited.
    pub queue_refused_total: u64,
    /// Calls turned away because the card rested.
    pub circuit_refused_total: u64,
    /// Signatures that were not encoded as they should be.
    pub oddities_total: u64,
    /// By operation, in the order of [`Operation::ALL`].
    pub latency: [Latency; Operation::ALL.len()],
    /// Errors by class, in the order of [`ErrorClass::ALL`]; those that a retry healed included.
    pub errors: [u64; ErrorClass::ALL.len()],
    /// Errors by what the library returned.
    pub return_values: Vec<(Rv, u64)>,
    /// Those beyond the values that are told apart.
    pub return_values_others: u64,
}

/// Numbers of a report without its return values.
const NUMBERS_COUNT: usize =
    14 + Operation::ALL.len() * (BUCKETS_COUNT + 1) + ErrorClass::ALL.len() + 1;

/// Numbers of the longest report.
pub(crate) const NUMBERS_COUNT_MAX: usize = NUMBERS_COUNT + 2 * RETURN_VALUES_MAX;

impl CardReport {
    pub(crate) fn new(status: &PoolStatus, metrics: &Metrics, oddities_total: u64) -> Self {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (mut return_values, return_values_others) = metrics.errors_by_rv();
        return_values.truncate(RETURN_VALUES_MAX);
        Self {
            sessions_open: count(status.open_count),
            sessions_lent: count(status.in_use_count),
            calls_waiting: count(status.waiting_count),
            is_resting: status.is_resting,
            is_stopped: status.stopped.is_some(),
            sessions_opened_total: metrics.opened_total(),
            sessions_lost_total: metrics.sessions_lost_total(),
            tokens_lost_total: metrics.tokens_lost_total(),
            connected_total: metrics.connected_total(),
            logins_total: metrics.logins_total(),
            retried_total: metrics.retried_total(),
            queue_refused_total: metrics.queue_refused_total(),
            circuit_refused_total: metrics.circuit_refused_total(),
            oddities_total,
            latency: Operation::ALL.map(|operation| {
                let histogram = metrics.latency(operation);
                Latency { buckets: histogram.buckets(), nanos_total: histogram.nanos_total() }
            }),
            errors: ErrorClass::ALL.map(|class| metrics.errors_total(class)),
            return_values,
            return_values_others,
        }
    }

    /// All numbers in a fixed order, [`NUMBERS_COUNT_MAX`] at most.
    pub(crate) fn to_numbers(&self) -> Vec<u64> {
        let mut numbers = vec![
            self.sessions_open,
            self.sessions_lent,
            self.calls_waiting,
            self.is_resting.into(),
            self.is_stopped.into(),
            self.sessions_opened_total,
            self.sessions_lost_total,
            self.tokens_lost_total,
            self.connected_total,
            self.logins_total,
            self.retried_total,
            self.queue_refused_total,
            self.circuit_refused_total,
            self.oddities_total,
        ];
        for latency in &self.latency {
            numbers.extend_from_slice(&latency.buckets);
            numbers.push(latency.nanos_total);
        }
        numbers.extend_from_slice(&self.errors);
        numbers.push(self.return_values_others);
        assert_eq!(numbers.len(), NUMBERS_COUNT, "every number has its place");
        let told = self.return_values.iter().take(RETURN_VALUES_MAX);
        numbers.extend(told.flat_map(|(rv, count)| [rv.0, *count]));
        numbers
    }

    /// What [`CardReport::to_numbers`] made; nothing if it could not have made these.
    pub(crate) fn from_numbers(numbers: &[u64]) -> Option<Self> {
        let (fixed, pairs) = numbers.split_at_checked(NUMBERS_COUNT)?;
        let (pairs, rest) = pairs.as_chunks::<2>();
        if !rest.is_empty() || pairs.len() > RETURN_VALUES_MAX {
            return None;
        }
        let mut fixed = fixed.iter().copied();
        let mut next = || fixed.next();
        let flag = |number| (number <= 1).then_some(number == 1);
        let mut report = Self {
            sessions_open: next()?,
            sessions_lent: next()?,
            calls_waiting: next()?,
            is_resting: flag(next()?)?,
            is_stopped: flag(next()?)?,
            sessions_opened_total: next()?,
            sessions_lost_total: next()?,
            tokens_lost_total: next()?,
            connected_total: next()?,
            logins_total: next()?,
            retried_total: next()?,
            queue_refused_total: next()?,
            circuit_refused_total: next()?,
            oddities_total: next()?,
            latency: [Latency { buckets: [0; BUCKETS_COUNT], nanos_total: 0 };
                Operation::ALL.len()],
            errors: [0; ErrorClass::ALL.len()],
            return_values: pairs.iter().map(|[rv, count]| (Rv(*rv), *count)).collect(),
            return_values_others: 0,
        };
        for latency in &mut report.latency {
            for bucket in &mut latency.buckets {
                *bucket = next()?;
            }
            latency.nanos_total = next()?;
        }
        for count in &mut report.errors {
            *count = next()?;
        }
        report.return_values_others = next()?;
        Some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn every_number_comes_back_and_nothing_else_is_a_report() {
        let metrics = Metrics::default();
        for rv in [0x32, 0xb3, 0x8000_0001] {
            metrics.failed(&Error::Call { function: "C_Sign", rv: Rv(rv), class: Rv(rv).class() });
        }
        for (place, operation) in Operation::ALL.into_iter().enumerate() {
            metrics.took(operation, 1_000 << place);
        }
        metrics.opened();
        metrics.logged_in();
        let status = PoolStatus {
            generation: Some(1),
            open_count: 4,
            in_use_count: 3,
            waiting_count: 2,
            is_resting: true,
            stopped: None,
        };
        let report = CardReport::new(&status, &metrics, 7);
        assert_eq!((report.sessions_open, report.errors[2]), (4, 1), "{report:?}");
        assert_eq!(report.return_values.len(), 3);
        let numbers = report.to_numbers();
        assert_eq!(CardReport::from_numbers(&numbers), Some(report));
        for size in 0..numbers.len() {
            let cut = CardReport::from_numbers(&numbers[..size]);
            // A report with fewer return values is one too.
            let pairs = size.checked_sub(NUMBERS_COUNT);
            assert_eq!(cut.is_some(), pairs.is_some_and(|rest| rest.is_multiple_of(2)));
        }
        assert!(CardReport::from_numbers(&vec![0; NUMBERS_COUNT_MAX]).is_some());
        assert!(CardReport::from_numbers(&vec![0; NUMBERS_COUNT_MAX + 2]).is_none());
        let mut wrong = numbers;
        wrong[3] = 2;
        assert_eq!(CardReport::from_numbers(&wrong), None);
    }

    /// Different values everywhere show that no two numbers are swapped.
    #[test]
    fn every_number_has_a_place_of_its_own() {
        let mut numbers: Vec<u64> = (100..).take(NUMBERS_COUNT + 4).collect();
        (numbers[3], numbers[4]) = (1, 0);
        let report = CardReport::from_numbers(&numbers).unwrap();
        assert_eq!(report.to_numbers(), numbers);
        assert_eq!((report.sessions_open, report.oddities_total), (100, 113));
    }
}
