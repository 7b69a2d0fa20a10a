//! Whether the time of an operation tells anything about a secret: dudect's test (Reparaz, Balasch,
//! Verbauwhede 2017), for every operation on secrets and every back end.
//!
//! An operation runs on a fixed secret or on a random one, the class drawn before each run; both
//! are laid into the same memory by the same code. Welch's t of the two classes' times says how
//! sure it is that their means differ. Slow runs are interrupts and the like and say nothing, so t
//! is taken of all times and of those below six percentiles, and the largest counts. Below
//! [`THRESHOLD`] nothing is seen in so many runs. Above it the operation is measured again,
//! [`AGAIN`] times as long: the t of a leak grows with the root of the runs, that of an accident
//! does not stay.
//!
//! [`leaking`] is a comparison that ends at the first difference. A run that does not find it out
//! has measured nothing.

use std::fmt;
use std::hint::black_box;

use hufu_crypto::encryption::{Ciphertext, encrypt};
use hufu_crypto::{Digest, Drbg, Hmac, Signer as _, SoftwareSigner, entropy};
use hufu_kernels::Backend;
use hufu_kernels::sm2 as kernel;
use hufu_kernels::sm2::{PrivateKey, SignItem};
use hufu_kernels::sm4::{Key, gcm};
use hufu_runtime::clock::monotonic;

use crate::cases::{bytes, reduced};
use crate::{Numbers, backends};

/// A larger |t| is taken for a difference.
pub const THRESHOLD: f64 = 4.5;

/// Times the runs of the second look.
const AGAIN: usize = 4;

/// Per mille of the times that are looked at.
const CROPS: [usize; 7] = [1_000, 990, 950, 900, 750, 500, 250];

/// Runs by which the percentiles are set.
const FIRST_RUNS: usize = 2_000;

/// Signatures of a batch.
const BATCH: usize = 64;

/// An operation on a secret.
pub struct Subject {
    /// What it is, and on which back end.
    pub name: String,
    operation: Box<dyn Operation>,
    /// Runs that are timed as one.
    repeats: usize,
    /// Of the most runs, the part that this one gets: slow ones fewer.
    share: usize,
}

trait Operation {
    /// Lays a secret of a class into place.
    fn prepare(&mut self, is_random: bool, numbers: &mut Numbers);
    fn run(&mut self);
}

/// An operation by its state and two functions.
struct Plain<S> {
    state: S,
    prepare: fn(&mut S, bool, &mut Numbers),
    run: fn(&mut S),
}

impl<S> Operation for Plain<S> {
    fn prepare(&mut self, is_random: bool, numbers: &mut Numbers) {
        (self.prepare)(&mut self.state, is_random, numbers);
    }

    fn run(&mut self) {
        (self.run)(&mut self.state);
    }
}

fn subject<S: 'static>(
    name: String,
    (repeats, share): (usize, usize),
    state: S,
    prepare: fn(&mut S, bool, &mut Numbers),
    run: fn(&mut S),
) -> Subject {
    Subject { name, operation: Box::new(Plain { state, prepare, run }), repeats, share }
}

/// What was found about a subject.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// The t that is furthest from 0.
    pub t: f64,
    /// Runs, both classes.
    pub runs: usize,
    /// Mean time of all runs, in nanoseconds.
    pub nanos: f64,
}

impl Finding {
    /// Whether the classes differ.
    #[must_use]
    pub fn is_leak(&self) -> bool {
        self.t.abs() >= THRESHOLD
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { t, runs, nanos } = self;
        write!(formatter, "t {t:>8.2}  N {runs:>9}  mean {nanos:>10.0} ns")
    }
}

/// Mean and variance of what was added (Welford).
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
    }

    /// The square of the standard error of the mean.
    fn error(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// Welch's t of two classes; 0 where there is too little to tell.
fn welch([one, other]: &[Moments; 2]) -> f64 {
    let error = one.error() + other.error();
    if one.count < 100.0 || other.count < 100.0 || error <= 0.0 {
        return 0.0;
    }
    (one.mean - other.mean) / error.sqrt()
}

/// Times one operation `runs` times.
fn measure(subject: &mut Subject, runs: usize, numbers: &mut Numbers) -> Finding {
    let mut time = |numbers: &mut Numbers| {
        let is_random = numbers.next() >> 63 == 1;
        subject.operation.prepare(is_random, numbers);
        let start = monotonic();
        for _ in 0..subject.repeats {
            subject.operation.run();
        }
        (is_random, monotonic().since(start))
    };
    let mut first: Vec<u64> = (0..FIRST_RUNS).map(|_| time(numbers).1).collect();
    first.sort_unstable();
    let limits = CROPS.map(|crop| match crop {
        1_000 => u64::MAX,
        crop => first[FIRST_RUNS * crop / 1_000],
    });
    let mut classes = [[Moments::default(); 2]; CROPS.len()];
    for _ in 0..runs {
        let (is_random, nanos) = time(numbers);
        for (classes, limit) in classes.iter_mut().zip(limits) {
            if nanos <= limit {
                classes[usize::from(is_random)].add(nanos as f64);
            }
        }
    }
    let furthest = |one: f64, other: f64| if one.abs() > other.abs() { one } else { other };
    let t = classes.iter().map(welch).fold(0.0, furthest);
    let [one, other] = &classes[0];
    let nanos = f64::midpoint(one.mean, other.mean) / subject.repeats as f64;
    Finding { t, runs, nanos }
}

/// Times a subject, and once more if the classes seem to differ.
pub fn judge(subject: &mut Subject, runs: usize, numbers: &mut Numbers) -> Vec<Finding> {
    let runs = (runs / subject.share).max(FIRST_RUNS);
    let mut found = vec![measure(subject, runs, numbers)];
    if found[0].is_leak() {
        found.push(measure(subject, AGAIN * runs, numbers));
    }
    found
}

/// A comparison that ends at the first difference: what the test must find out.
#[must_use]
pub fn leaking() -> Subject {
    let wanted = [0x5a; 32];
    subject(
        "planted leak: a comparison that ends early".to_owned(),
        (16, 1),
        (wanted, wanted),
        |(wanted, given), is_random, numbers| {
            *given = choose(is_random, numbers.array(), *wanted);
        },
        |(wanted, given)| {
            for (left, right) in wanted.iter().zip(&*given) {
                if black_box(left) != black_box(right) {
                    break;
                }
            }
        },
    )
}

/// Everything that works on secrets.
#[must_use]
pub fn subjects() -> Vec<Subject> {
    let mut all = Vec::new();
    for backend in backends() {
        // AVX2 has no SM2 of its own.
        if backend.name() != "avx2" {
            signing(backend, &mut all);
        }
        symmetric(backend, &mut all);
    }
    alone(&mut all);
    all
}

const FIXED: [u8; 32] = *b"\x39\x45\x20\x8f\x7b\x21\x44\xb1\x3f\x36\xe3\x8a\xc6\xd3\x9f\x95\
    \x88\x93\x93\x69\x28\x60\xb5\x1a\x42\xfb\x81\xef\x4d\xf7\xc5\xb8";

/// One of two, with no branch and the same stores for both classes: what is timed next would feel
/// what the predictor and the store buffer remember of a choice.
#[inline(never)]
fn choose<const SIZE: usize>(is_random: bool, random: [u8; SIZE], fixed: [u8; SIZE]) -> [u8; SIZE] {
    let mask = black_box(u8::from(is_random)).wrapping_neg();
    core::array::from_fn(|place| fixed[place] ^ (mask & (fixed[place] ^ random[place])))
}

/// A scalar of a class, drawn in the same way for both.
fn secret(is_random: bool, numbers: &mut Numbers) -> [u8; 32] {
    choose(is_random, bytes(&reduced(&numbers.array())), FIXED)
}

/// A key of SM4 of a class.
fn key_of(is_random: bool, numbers: &mut Numbers) -> [u8; 16] {
    choose(is_random, numbers.array(), *FIXED.first_chunk().unwrap())
}

/// The first place, or any below `end`.
fn place_of(is_random: bool, end: usize, numbers: &mut Numbers) -> usize {
    numbers.below(end) * black_box(usize::from(is_random))
}

struct Signing {
    backend: Backend,
    key: PrivateKey,
    digest: [u8; 32],
    nonces: [[u8; 32]; BATCH],
    count: usize,
}

impl Signing {
    fn new(backend: Backend, count: usize) -> Self {
        let key = PrivateKey::new(backend, &FIXED).unwrap();
        Self { backend, key, digest: [7; 32], nonces: [FIXED; BATCH], count }
    }

    fn run(&mut self) {
        let item = |nonce| SignItem { key: &self.key, digest: &self.digest, nonce };
        let items = self.nonces.each_ref().map(item);
        let mut signatures = [None; BATCH];
        kernel::sign_many(self.backend, &items[..self.count], &mut signatures[..self.count]);
        black_box(&signatures);
    }
}

fn signing(backend: Backend, all: &mut Vec<Subject>) {
    let name = backend.name();
    for (count, share) in [(1, 1), (BATCH, 8)] {
        all.push(subject(
            format!("{name} sm2 sign {count}, nonce"),
            (1, share),
            Signing::new(backend, count),
            |state, is_random, numbers| {
                for nonce in &mut state.nonces[..state.count] {
                    *nonce = secret(is_random, numbers);
                }
            },
            Signing::run,
        ));
        all.push(subject(
            format!("{name} sm2 sign {count}, key"),
            (1, share),
            Signing::new(backend, count),
            |state, is_random, numbers| {
                let d = secret(is_random, numbers);
                state.key = PrivateKey::new(state.backend, &d).unwrap();
                let mut numbers = numbers.clone();
                state.nonces = core::array::from_fn(|_| secret(true, &mut numbers));
            },
            Signing::run,
        ));
    }
}

/// What all back ends do in one way.
fn alone(all: &mut Vec<Subject>) {
    let backend = Backend::best();
    let point = kernel::multiply_base(backend, &FIXED).unwrap();
    all.push(subject(
        "sm2 multiply, scalar".to_owned(),
        (1, 1),
        (backend, point, FIXED),
        |(_, _, scalar), is_random, numbers| *scalar = secret(is_random, numbers),
        |(backend, point, scalar)| {
            black_box(kernel::multiply(*backend, scalar, point));
        },
    ));
    all.push(subject(
        "sm2 multiply_base, scalar".to_owned(),
        (1, 1),
        (backend, FIXED),
        |(_, scalar), is_random, numbers| *scalar = secret(is_random, numbers),
        |(backend, scalar)| {
            black_box(kernel::multiply_base(*backend, scalar));
        },
    ));
    all.push(subject(
        "sm2 PrivateKey::new".to_owned(),
        (1, 1),
        (backend, FIXED),
        |(_, d), is_random, numbers| *d = secret(is_random, numbers),
        |(backend, d)| drop(black_box(PrivateKey::new(*backend, d))),
    ));
    let mut generator = Drbg::new(entropy::system(), "hufu soak").unwrap();
    let reader = SoftwareSigner::from_bytes(&FIXED).unwrap();
    let ciphertext = encrypt(backend, &mut generator, reader.public_key(), &[7; 64]).unwrap();
    // Not for either class's key: both are refused, after the same work.
    let state: (Backend, Ciphertext, SoftwareSigner) =
        (backend, ciphertext, SoftwareSigner::from_bytes(&[9; 32]).unwrap());
    all.push(subject(
        "sm2 decrypt, key".to_owned(),
        (1, 1),
        state,
        |(_, _, key), is_random, numbers| {
            let mut d = secret(is_random, numbers);
            d[31] ^= 1;
            *key = SoftwareSigner::from_bytes(&d).unwrap();
        },
        |(backend, ciphertext, key)| drop(black_box(key.decrypt(*backend, ciphertext))),
    ));
    let mut mac = Hmac::new(&FIXED);
    mac.update(b"message");
    let right = mac.clone().finish();
    all.push(subject(
        "hmac verify, place of the difference".to_owned(),
        (4, 1),
        (mac, right, right),
        |(_, right, given), is_random, numbers| {
            *given = changed(right, place_of(is_random, 32, numbers));
        },
        |(mac, _, given)| {
            black_box(mac.clone().verify(given));
        },
    ));
}

fn changed(digest: &Digest, place: usize) -> Digest {
    let mut changed = *digest;
    changed.0[place] ^= 0x10;
    changed
}

fn symmetric(backend: Backend, all: &mut Vec<Subject>) {
    let name = backend.name();
    let prepare: fn(&mut (Backend, [u8; 16]), bool, &mut Numbers) =
        |(_, key), is_random, numbers| *key = key_of(is_random, numbers);
    let key = key_of(false, &mut Numbers::of_round(0));
    all.push(subject(
        format!("{name} sm4 key and eight blocks, key"),
        (4, 1),
        (backend, key),
        prepare,
        |(backend, key)| {
            let mut blocks = [[3; 16]; 8];
            Key::new(*backend, key).encrypt_blocks(&mut blocks);
            black_box(&blocks);
        },
    ));
    all.push(subject(
        format!("{name} sm4-gcm seal 256, key"),
        (1, 1),
        (backend, key),
        prepare,
        |(backend, key)| {
            let mut data = [3; 256];
            black_box(gcm::Key::new(*backend, key).seal(&[1; 12], b"header", &mut data)).unwrap();
        },
    ));
    let opener = gcm::Key::new(backend, &key);
    let mut data = [3; 16];
    let tag = opener.seal(&[1; 12], b"", &mut data).unwrap();
    all.push(subject(
        format!("{name} sm4-gcm open, place of the tag's difference"),
        (4, 1),
        (opener, tag, tag),
        |(_, right, given), is_random, numbers| {
            *given = *right;
            given[place_of(is_random, 16, numbers)] ^= 0x10;
        },
        |(key, _, given)| {
            let mut data = [5; 16];
            black_box(key.open(&[1; 12], b"", &mut data, given)).unwrap_err();
        },
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        for value in values {
            moments.add(*value);
        }
        moments
    }

    #[test]
    fn welch_tells_means_apart() {
        let values: Vec<f64> = (0..1_000).map(|number| f64::from(number % 10)).collect();
        let shifted: Vec<f64> = values.iter().map(|value| value + 1.0).collect();
        let same = [moments(&values), moments(&values)];
        assert!(welch(&same).abs() < 1e-9);
        // Both variances are 8.25 (n / (n - 1)) over 1,000 values.
        let t = welch(&[moments(&shifted), moments(&values)]);
        let error: f64 = 2.0 * 8.25 / 999.0;
        assert!((t - 1.0 / error.sqrt()).abs() < 1e-6, "{t}");
        assert!(welch(&[moments(&values[..50]), moments(&shifted)]).abs() < 1e-9, "too few");
    }

    #[test]
    fn every_subject_runs_in_both_classes() {
        let mut numbers = Numbers::of_round(3);
        for mut subject in subjects().into_iter().chain([leaking()]) {
            for is_random in [false, true] {
                subject.operation.prepare(is_random, &mut numbers);
                subject.operation.run();
            }
        }
    }
}
