//! What the pool counts: plain atomics, read by whoever publishes them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, ErrorClass, Rv};

/// What a session is lent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A signature.
    Sign,
    /// A decryption with a private key.
    Decrypt,
    /// A key wrapped or unwrapped, data encrypted with a secret key.
    Cipher,
    /// Random bytes.
    Random,
    /// A key looked for, read or made.
    Key,
    /// Anything else.
    Other,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sign, Self::Decrypt, Self::Cipher, Self::Random, Self::Key, Self::Other];

    /// The label of a metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sign => "sign",
            Self::Decrypt => "decrypt",
            Self::Cipher => "cipher",
            Self::Random => "random",
            Self::Key => "key",
            Self::Other => "other",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Sign => 0,
            Self::Decrypt => 1,
            Self::Cipher => 2,
            Self::Random => 3,
            Self::Key => 4,
            Self::Other => 5,
        }
    }
}

/// Buckets of a [`Histogram`]: bucket `i` counts what took less than `2^i` microseconds, the last
/// one also all that took longer.
pub const BUCKETS_COUNT: usize = 26;

/// Return values that are told apart; more are counted together.
const RETURN_VALUES_MAX: usize = super::report::RETURN_VALUES_MAX;

/// How long something took, from the wish for a session to its return.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_COUNT],
    nanos_total: AtomicU64,
}

impl Histogram {
    fn record(&self, nanos: u64) {
        let bits = u64::BITS - (nanos / 1_000).leading_zeros();
        let index = usize::try_from(bits).unwrap_or(usize::MAX).min(BUCKETS_COUNT - 1);
        if let Some(bucket) = self.buckets.get(index) {
            add(bucket, 1);
        }
        add(&self.nanos_total, nanos);
    }

    /// How many were in each bucket, not cumulated.
    #[must_use]
    pub fn buckets(&self) -> [u64; BUCKETS_COUNT] {
        std::array::from_fn(|index| self.buckets.get(index).map_or(0, read))
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(read).sum()
    }

    /// Nanoseconds of all together.
    #[must_use]
    pub fn nanos_total(&self) -> u64 {
        read(&self.nanos_total)
    }
}

/// Counters of one pool: totals since it was made, but for those that say "now".
#[derive(Debug, Default)]
pub struct Metrics {
    waiting: AtomicU64,
    in_use: AtomicU64,
    opened: AtomicU64,
    sessions_lost: AtomicU64,
    tokens_lost: AtomicU64,
    connected: AtomicU64,
    logins: AtomicU64,
    retried: AtomicU64,
    queue_refused: AtomicU64,
    circuit_refused: AtomicU64,
    latency: [Histogram; Operation::ALL.len()],
    by_class: [AtomicU64; ErrorClass::ALL.len()],
    by_rv: ReturnValues,
}

#[derive(Debug)]
struct ReturnValues {
    entries: [(AtomicU64, AtomicU64); RETURN_VALUES_MAX],
    others: AtomicU64,
}

impl Default for ReturnValues {
    fn default() -> Self {
        Self { entries: std::array::from_fn(|_| Default::default()), others: AtomicU64::default() }
    }
}

impl ReturnValues {
    /// An entry is free while its value is 0, which is `CKR_OK` and never counted.
    fn count(&self, rv: Rv) {
        let relaxed = Ordering::Relaxed;
        for (value, count) in &self.entries {
            let seen = value.load(relaxed);
            let is_ours = seen == rv.0
                || seen == 0
                    && value
                        .compare_exchange(0, rv.0, relaxed, relaxed)
                        .map_or_else(|now| now == rv.0, |_| true);
            if is_ours {
                return add(count, 1);
            }
        }
        add(&self.others, 1);
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

fn set(gauge: &AtomicU64, count: usize) {
    gauge.store(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

impl Metrics {
    /// Calls that wait for a session now.
    #[must_use]
    pub fn waiting_count(&self) -> u64 {
        read(&self.waiting)
    }

    /// Sessions that are lent now.
    #[must_use]
    pub fn in_use_count(&self) -> u64 {
        read(&self.in_use)
    }

    /// Sessions opened.
    #[must_use]
    pub fn opened_total(&self) -> u64 {
        read(&self.opened)
    }

    /// Sessions closed because of an error of their own.
    #[must_use]
    pub fn sessions_lost_total(&self) -> u64 {
        read(&self.sessions_lost)
    }

    /// How often the token was lost.
    #[must_use]
    pub fn tokens_lost_total(&self) -> u64 {
        read(&self.tokens_lost)
    }

    /// How often the token was reached: once, and once more after each loss.
    #[must_use]
    pub fn connected_total(&self) -> u64 {
        read(&self.connected)
    }

    /// Logins that the token took.
    #[must_use]
    pub fn logins_total(&self) -> u64 {
        read(&self.logins)
    }

    /// Operations that were begun again after an error.
    #[must_use]
    pub fn retried_total(&self) -> u64 {
        read(&self.retried)
    }

    /// Calls turned away because too many were waiting.
    #[must_use]
    pub fn queue_refused_total(&self) -> u64 {
        read(&self.queue_refused)
    }

    /// Calls turned away because the card rested.
    #[must_use]
    pub fn circuit_refused_total(&self) -> u64 {
        read(&self.circuit_refused)
    }

    /// How long calls of one kind took, those that failed included.
    #[must_use]
    pub const fn latency(&self, operation: Operation) -> &Histogram {
        &self.latency[operation.index()]
    }

    /// Errors of a class, those that a retry healed included.
    #[must_use]
    pub fn errors_total(&self, class: ErrorClass) -> u64 {
        let index = ErrorClass::ALL.iter().position(|one| *one == class);
        index.and_then(|index| self.by_class.get(index)).map_or(0, read)
    }

    /// Errors by what the library returned; the second part counts those beyond what is told apart.
    #[must_use]
    pub fn errors_by_rv(&self) -> (Vec<(Rv, u64)>, u64) {
        let entries = self.by_rv.entries.iter();
        let told = entries.map(|(rv, count)| (Rv(read(rv)), read(count)));
        (told.filter(|(rv, _)| *rv != Rv::OK).collect(), read(&self.by_rv.others))
    }

    pub(super) fn lent(&self, count: usize) {
        set(&self.in_use, count);
    }

    pub(super) fn waits(&self, count: usize) {
        set(&self.waiting, count);
    }

    pub(super) fn opened(&self) {
        add(&self.opened, 1);
    }

    pub(super) fn session_lost(&self) {
        add(&self.sessions_lost, 1);
    }

    pub(super) fn token_lost(&self) {
        add(&self.tokens_lost, 1);
    }

    pub(super) fn connected(&self) {
        add(&self.connected, 1);
    }

    pub(super) fn logged_in(&self) {
        add(&self.logins, 1);
    }

    pub(super) fn retried(&self) {
        add(&self.retried, 1);
    }

    pub(super) fn queue_refused(&self) {
        add(&self.queue_refused, 1);
    }

    pub(super) fn circuit_refused(&self) {
        add(&self.circuit_refused, 1);
    }

    pub(super) fn took(&self, operation: Operation, nanos: u64) {
        self.latency(operation).record(nanos);
    }

    pub(super) fn failed(&self, error: &Error) {
        let class = error.class();
        let index = ErrorClass::ALL.iter().position(|one| *one == class);
        if let Some(counter) = index.and_then(|index| self.by_class.get(index)) {
            add(counter, 1);
        }
        if let Error::Call { rv, .. } | Error::PinRefused { rv, .. } = error {
            self.by_rv.count(*rv);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_powers_of_two_of_microseconds() {
        let histogram = Histogram::default();
        for nanos in [0, 999, 1_000, 1_999, 2_000, 3_999, 4_000, u64::MAX] {
            histogram.record(nanos);
        }
        let buckets = histogram.buckets();
        assert_eq!(buckets[..4], [2, 2, 2, 1]);
        assert_eq!((buckets[BUCKETS_COUNT - 1], histogram.count()), (1, 8));
    }

    #[test]
    fn return_values_are_told_apart_up_to_a_bound() {
        let metrics = Metrics::default();
        for rv in (1..=70).chain([3, 3]) {
            metrics.failed(&Error::Call {
                function: "C_Sign",
                rv: Rv(rv),
                class: ErrorClass::Session,
            });
        }
        let (told, others) = metrics.errors_by_rv();
        assert_eq!((told.len(), others), (RETURN_VALUES_MAX, 6));
        assert_eq!(told[2], (Rv(3), 3));
        assert_eq!(metrics.errors_total(ErrorClass::Session), 72);
    }

    #[test]
    fn each_operation_has_a_place_of_its_own() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation.index(), index);
        }
    }
}
