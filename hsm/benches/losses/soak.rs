//! Many signatures by several threads while sessions are lost and the card is away for a while:
//! which were made, whether each is right, and how soon the card serves again after it is back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hufu_crypto::{OwnKey, Signature, Sm3};
use hufu_hsm::card::deadline_in;
use hufu_hsm::{Error, KeyHandle, Keystore};
use hufu_runtime::clock::monotonic;
use hufu_softtoken::{Fault, Faults};

/// How long one signature may wait for the card to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked of a card.
pub(crate) struct Soak<'a> {
    pub(crate) card: &'a dyn Keystore,
    pub(crate) key: KeyHandle,
    /// Of its token.
    pub(crate) faults: &'a Faults,
    pub(crate) threads_count: usize,
    pub(crate) signatures_count: u64,
    /// One in so many signatures finds its session gone.
    pub(crate) lost_one_in: u64,
    /// How long the card is away, once, when half of the signatures are made.
    pub(crate) away: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Signatures that verify in software, count.
    pub(crate) right_count: u64,
    /// Signatures that do not, count.
    pub(crate) wrong_count: u64,
    /// Calls that gave none, count.
    pub(crate) failed_count: u64,
    /// The last of their errors.
    pub(crate) last_error: Option<Error>,
    /// From the card being back to the first signature of the last thread.
    pub(crate) recovery: Duration,
    /// Latency of each call, sorted.
    pub(crate) nanos: Vec<u64>,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.right_count += other.right_count;
        self.wrong_count += other.wrong_count;
        self.failed_count += other.failed_count;
        self.last_error = other.last_error.or(self.last_error.take());
        self.recovery = self.recovery.max(other.recovery);
        self.nanos.extend(other.nanos);
    }
}

/// What the threads share.
struct Course {
    next: AtomicU64,
    /// When the card is back, on the monotonic clock; 0 while it was not taken away yet.
    back_at: AtomicU64,
}

pub(crate) fn soak(soak: &Soak<'_>) -> Result<Report, Error> {
    let own = OwnKey::new(soak.card.public_key(soak.key)?);
    soak.faults.set(Fault::SessionLost { one_in: soak.lost_one_in });
    let course = Course { next: AtomicU64::new(0), back_at: AtomicU64::new(0) };
    let mut report = Report::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..soak.threads_count)
            .map(|_| scope.spawn(|| one_thread(soak, &own, &course)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(part) => report.add(part),
                Err(_) => report.failed_count += 1,
            }
        }
    });
    soak.faults.clear();
    report.nanos.sort_unstable();
    Ok(report)
}

fn one_thread(soak: &Soak<'_>, own: &OwnKey, course: &Course) -> Report {
    let mut report = Report::default();
    let mut has_recovered = false;
    loop {
        let number = course.next.fetch_add(1, Ordering::Relaxed);
        if number >= soak.signatures_count {
            return report;
        }
        if number == soak.signatures_count / 2 {
            let millis = u64::try_from(soak.away.as_millis()).unwrap_or(u64::MAX);
            soak.faults.set(Fault::Removed { millis });
            let back_at = monotonic().after(soak.away).as_nanos();
            course.back_at.store(back_at, Ordering::Relaxed);
        }
        let digest = Sm3::of(&[b"soak", &number.to_le_bytes()]);
        let mut signature = [Signature([0; 64])];
        let started = monotonic().as_nanos();
        let signed = soak.card.sign_sm2(soak.key, &[digest], &mut signature, deadline_in(PATIENCE));
        let ended = monotonic().as_nanos();
        report.nanos.push(ended.saturating_sub(started));
        match signed {
            Ok(()) if own.check_many(&[digest], &signature).is_ok() => report.right_count += 1,
            Ok(()) => report.wrong_count += 1,
            Err(error) => {
                report.failed_count += 1;
                report.last_error = Some(error);
            }
        }
        let back_at = course.back_at.load(Ordering::Relaxed);
        if !has_recovered && back_at != 0 && ended >= back_at {
            has_recovered = true;
            report.recovery = Duration::from_nanos(ended - back_at);
        }
    }
}
