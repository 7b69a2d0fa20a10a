//! `hufu-timing`: whether what handles secrets takes a time that depends on them.
//!
//! ```text
//! one secret, always the same --\
//!                                >-- in random order, each timed --> Welch's t of the two means
//! a fresh secret every time ----/
//! ```
//! The test of Reparaz, Balasch and Verbauwhede ("dude, is my code constant time?"): if the time
//! does not depend on the secret, the two means differ by noise alone, and |t| stays small however
//! long one measures. It can show a leak and never that there is none; the emitted code has been read
//! for that (`kernels/README.md`). A control, verification with its table lookups and branches on
//! public numbers, must be caught: a test that cannot fail says nothing.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::io::Write as _;
use std::process::ExitCode;

use hufu_kernels::sm4::{self, gcm};
use hufu_kernels::{Backend, sm2 as kernel};
use hufu_load::random::Random;
use hufu_runtime::clock::monotonic;

const USAGE: &str = "\
hufu-timing [SAMPLES]
    times every function of a secret SAMPLES times (20000); exit code 1 if one depends on it
";

/// Measurements of one function, count, unless the command line says otherwise.
const SAMPLES_COUNT: usize = 20_000;

/// |t| from which on the means differ: by chance in one of 10^5 runs if the times were normal.
const T_MAX: f64 = 4.5;

/// A finding is one that comes back in every one of so many runs, count: a neighbour on the machine
/// does not know which sample is whose for so long, a leak does.
const RUNS_COUNT: usize = 3;

/// Part of the samples that is kept, of 100: the slowest are interrupts.
const KEPT_PERCENT: usize = 90;

/// A function of a secret of 32 bytes.
type Function<'a> = Box<dyn FnMut(&[u8; 32]) + 'a>;

/// What is timed.
struct Subject<'a> {
    name: String,
    run: Function<'a>,
    /// Whether it must be caught.
    is_control: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let count = match (arguments.next().map(|word| word.parse()), arguments.next()) {
        (None, None) => SAMPLES_COUNT,
        (Some(Ok(count)), None) if count >= 100 => count,
        _ => {
            print(USAGE);
            return ExitCode::from(2);
        }
    };
    let key = kernel::PrivateKey::new(Backend::PORTABLE, &[7; 32]);
    let Some(key) = key else { return ExitCode::from(2) };
    let mut is_good = true;
    for mut subject in subjects(&key) {
        let mut t = 0.0;
        for _ in 0..RUNS_COUNT {
            t = measure(&mut subject, count);
            if t.abs() < T_MAX {
                break;
            }
        }
        let is_caught = t.abs() >= T_MAX;
        is_good &= is_caught == subject.is_control;
        let verdict = match (is_caught, subject.is_control) {
            (false, false) => "no dependence seen",
            (true, false) => "DEPENDS ON THE SECRET",
            (true, true) => "caught, as it must be",
            (false, true) => "NOT CAUGHT: this test sees nothing",
        };
        print(&format!("{:44} t = {t:8.2}  {verdict}\n", subject.name));
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(text: &str) {
    // There is nobody to tell that nobody reads.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

fn subjects<'a>(key: &'a kernel::PrivateKey) -> Vec<Subject<'a>> {
    let mut subjects = Vec::new();
    let point = *key.public_key();
    let mut push = |name: String, run: Function<'a>| {
        subjects.push(Subject { name, run, is_control: false });
    };
    for backend in [Backend::PORTABLE, Backend::best()] {
        let name = backend.name();
        for count in [1, 8, 16, 32, 64] {
            let mut signatures = vec![None; count];
            push(
                format!("kernels::sm2::sign_many/{name} count={count}"),
                Box::new(move |nonce| {
                    let item = kernel::SignItem { key, digest: &[9; 32], nonce };
                    kernel::sign_many(backend, &[item; 64][..count], &mut signatures);
                    black_box(&signatures);
                }),
            );
        }
        push(
            format!("kernels::sm2::PrivateKey::new/{name}"),
            Box::new(move |d| drop(black_box(kernel::PrivateKey::new(backend, d)))),
        );
        push(
            format!("kernels::sm2::multiply_base/{name}"),
            Box::new(move |scalar| {
                black_box(kernel::multiply_base(backend, scalar));
            }),
        );
        push(
            format!("kernels::sm2::multiply/{name}"),
            Box::new(move |scalar| {
                black_box(kernel::multiply(backend, scalar, &point));
            }),
        );
    }
    push(
        "kernels::sm2::scalar_multiply_add".to_owned(),
        Box::new(|scalar| {
            black_box(kernel::scalar_multiply_add(scalar, scalar, scalar));
        }),
    );
    symmetric(&mut subjects);
    subjects.push(control(point));
    subjects
}

/// SM4 in its modes and HMAC: keys, and data that a wrong padding would give away.
fn symmetric(subjects: &mut Vec<Subject<'_>>) {
    let mut push = |name: String, run: Function<'static>| {
        subjects.push(Subject { name, run, is_control: false });
    };
    let backends = [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()];
    for backend in backends.into_iter().flatten() {
        let name = backend.name();
        push(
            format!("kernels::sm4::gcm seal/{name}"),
            Box::new(move |secret| {
                let mut data = [0x5a; 1_100];
                let sealed = gcm::Key::new(backend, &first_half(secret));
                black_box(&sealed.seal(&[3; 12], &[9; 20], &mut data));
            }),
        );
        push(
            format!("kernels::sm4 blocks, one alone and twenty/{name}"),
            Box::new(move |secret| {
                let key = sm4::Key::new(backend, &first_half(secret));
                let mut blocks = [first_half(secret); 20];
                key.encrypt_blocks(&mut blocks[..1]);
                key.decrypt_blocks(&mut blocks);
                black_box(&blocks);
            }),
        );
        let key = gcm::Key::new(backend, &[5; 16]);
        push(
            format!("kernels::sm4::gcm open with a wrong tag/{name}"),
            Box::new(move |secret| {
                let mut data = [0x5a; 64];
                black_box(&key.open(&[3; 12], &[], &mut data, &first_half(secret)));
            }),
        );
    }
    push(
        "crypto::hmac".to_owned(),
        Box::new(|key| {
            black_box(hufu_crypto::hmac(key, &[b"message"]));
        }),
    );
}

fn first_half(secret: &[u8; 32]) -> [u8; 16] {
    core::array::from_fn(|place| secret[place])
}

/// Verification, whose time depends on s: variable time, for public numbers.
fn control<'a>(point: [u8; 64]) -> Subject<'a> {
    let run = move |s: &[u8; 32]| {
        let mut signature = [5; 64];
        signature[32..].copy_from_slice(s);
        let item =
            kernel::Item { key: &point, digest: &[9; 32], signature: &signature, table: None };
        let mut verdicts = [kernel::Verdict::KeyInvalid];
        kernel::verify_many(Backend::PORTABLE, &[item], &mut verdicts);
        black_box(verdicts);
    };
    let name = "control: kernels::sm2::verify_many/portable".to_owned();
    Subject { name, run: Box::new(run), is_control: true }
}

/// Welch's t of the times with one secret and with fresh ones.
fn measure(subject: &mut Subject<'_>, count: usize) -> f64 {
    let mut random = Random::new(monotonic().as_nanos());
    let mut same = [0; 32];
    same[31] = 3;
    let secrets: Vec<([u8; 32], bool)> = (0..count)
        .map(|_| {
            let mut fresh = [0; 32];
            for word in fresh.as_chunks_mut().0 {
                *word = random.draw().to_le_bytes();
            }
            // Below n.
            fresh[0] &= 0x7f;
            let is_fresh = random.draw() & 1 == 1;
            (if is_fresh { fresh } else { same }, is_fresh)
        })
        .collect();
    let mut times: Vec<(u64, bool)> = Vec::with_capacity(count);
    for (secret, is_fresh) in &secrets {
        // The same place for every secret.
        let secret = black_box(*secret);
        let start = monotonic();
        (subject.run)(&secret);
        times.push((monotonic().as_nanos() - start.as_nanos(), *is_fresh));
    }
    times.sort_unstable();
    // All that are as slow as the last one stay: to cut between equal times would cut one class more
    // than the other, whichever stands first, and show a difference where there is none.
    if let Some(&(slowest, _)) = times.get(count * KEPT_PERCENT / 100) {
        times.retain(|&(time, _)| time <= slowest);
    }
    welch(&times)
}

#[allow(clippy::cast_precision_loss, reason = "nanoseconds of one call and counts of samples")]
fn welch(times: &[(u64, bool)]) -> f64 {
    let part = |is_fresh: bool| {
        let kept = || times.iter().filter(move |time| time.1 == is_fresh).map(|time| time.0 as f64);
        let count = kept().count() as f64;
        let mean = kept().sum::<f64>() / count;
        let variance = kept().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let ((same, same_error), (fresh, fresh_error)) = (part(false), part(true));
    (same - fresh) / (same_error + fresh_error).sqrt()
}
