//! Portable kernels against OpenSSL and libsm, on the inputs of `hufu-soak`.
//!
//! OpenSSL judges every case; libsm, which is slower, the edges and some of the rest, but no key
//! with a coordinate of p or more: it takes x + p for x, where all others refuse it. Both refuse a
//! sum at infinity. efficient-sm2 lacks checks and sm-crypto does not know the range of r and s:
//! neither is asked.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hufu_kernels::Backend;
use hufu_kernels::sm2::{self as kernel, PrivateKey, SignItem, Verdict};
use hufu_kernels::sm4::Key as Sm4Key;
use hufu_soak::cases::PRIME;
use hufu_soak::ciphers::Input;
use hufu_soak::{Case, Cases, Counts, Disagreement, Numbers, Record, digests, signatures};
use libsm::sm3::hash::Sm3Hash;

use crate::libraries::{Libsm, der};
use crate::openssl::{self, Curve, Mode, Sm4};

const CASES: usize = 64;
const SIGNATURES: usize = 8;
const INPUTS: usize = 12;

/// Rounds until the time is over or two disagree.
pub fn run(state: &Path, minutes: Option<u64>) -> ExitCode {
    match compare(state, minutes) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("hufu-baselines: {}: {error}", state.display());
            ExitCode::from(2)
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a tool apart, without the runtime")]
fn compare(state: &Path, minutes: Option<u64>) -> std::io::Result<bool> {
    let mut record = Record::open(state)?;
    println!("{}; round {} on", openssl::version(), record.round);
    let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let (start, mut saved) = (Instant::now(), Instant::now());
    loop {
        let mut counts = record.counts.clone();
        if let Err(found) = round(record.round, &mut counts) {
            let path = record.report(&found)?;
            println!("DISAGREEMENT in round {}: {found}see {}", record.round, path.display());
            record.save()?;
            return Ok(false);
        }
        (record.counts, record.round) = (counts, record.round + 1);
        let ends = limit.is_some_and(|limit| start.elapsed() >= limit);
        if ends || saved.elapsed() >= Duration::from_secs(10) {
            record.save()?;
            saved = Instant::now();
        }
        if ends {
            let sums = ["openssl", "libsm"].map(|whom| record.counts.sum(whom));
            println!(
                "{} rounds without a disagreement: {} comparisons with OpenSSL, {} with libsm\n{}",
                record.round, sums[0], sums[1], record.counts
            );
            return Ok(true);
        }
    }
}

fn round(number: u64, counts: &mut Counts) -> Result<(), Disagreement> {
    // Other cases than those that RustCrypto judges.
    let mut numbers = Numbers::of_round(number ^ 1 << 63);
    verify(&mut numbers, counts)?;
    sign(&mut numbers, counts)?;
    hash(&mut numbers, counts)?;
    encrypt(&mut numbers, counts)
}

fn verify(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    let cases: Vec<Case> = Cases::new(Numbers::of_round(numbers.next())).take(CASES).collect();
    for (case, verdict) in cases.iter().zip(signatures::portable(&cases)) {
        let by_openssl = openssl::Key::public(&case.key)
            .map(|key| key.verify(&case.digest, &der(&case.signature)));
        agree(case, verdict, by_openssl, "OpenSSL")?;
        counts.add("sm2 verify/openssl", 1);
        if case.kind == "sum" || case.kind == "signed" && !numbers.once_in(4) {
            continue;
        }
        // It takes coordinates modulo p, where a key has one encoding.
        if case.key.as_chunks::<32>().0.iter().any(|coordinate| *coordinate >= PRIME) {
            continue;
        }
        let by_libsm = Libsm::new(&case.key).map(|key| key.verify(&case.digest, &case.signature));
        if let Err(found) = agree(case, verdict, by_libsm, "libsm") {
            if !meets_equal_points(case) {
                return Err(found);
            }
            counts.add("sm2 verify/libsm adds equal points wrongly", 1);
            continue;
        }
        counts.add("sm2 verify/libsm", 1);
    }
    Ok(())
}

/// Whether libsm adds a point to itself on the way to this verdict: it tells equal points by their
/// projective coordinates, takes them for different ones where those differ, and finds the point at
/// infinity. That happens where [s]G = [t]P, and in the last step of [t]P where t is twice a digit
/// of its windows of five bits, either way.
fn meets_equal_points(case: &Case) -> bool {
    let [r, s] = [0, 32].map(|at| {
        let half = case.signature[at..at + 32].try_into().unwrap_or([0; 32]);
        hufu_soak::cases::reduced(&half)
    });
    let (t, s) = (hufu_soak::cases::bytes(&(r + s)), hufu_soak::cases::bytes(&s));
    let is_small =
        |number: &[u8; 32]| number[..31].iter().all(|byte| *byte == 0) && number[31] < 32;
    let opposite = hufu_soak::cases::bytes(&-(r + hufu_soak::cases::reduced(&s)));
    let [of_base, of_key] = [
        kernel::multiply_base(Backend::PORTABLE, &s),
        kernel::multiply(Backend::PORTABLE, &t, &case.key),
    ];
    is_small(&t) || is_small(&opposite) || of_base == of_key
}

/// `other` is none where the key was refused.
fn agree(
    case: &Case,
    verdict: Verdict,
    other: Option<bool>,
    whom: &str,
) -> Result<(), Disagreement> {
    let other = match other {
        None => Verdict::KeyInvalid,
        Some(true) => Verdict::Valid,
        Some(false) => Verdict::SignatureInvalid,
    };
    if other == verdict {
        return Ok(());
    }
    let what = format!("{}: portable {verdict:?}, {whom} {other:?}", case.kind);
    Err(Disagreement::new(what, &case.parts()))
}

/// Signatures by the widest back end, judged by OpenSSL; and multiples of points.
fn sign(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    let scalar =
        |numbers: &mut Numbers| hufu_soak::cases::bytes(&hufu_soak::cases::scalar(numbers));
    let d = scalar(numbers);
    let Some(key) = PrivateKey::new(Backend::best(), &d) else { return Ok(()) };
    let inputs: Vec<([u8; 32], [u8; 32])> =
        (0..SIGNATURES).map(|_| (hufu_soak::cases::digest(numbers), scalar(numbers))).collect();
    let items: Vec<SignItem<'_>> =
        inputs.iter().map(|(digest, nonce)| SignItem { key: &key, digest, nonce }).collect();
    let mut made = vec![None; items.len()];
    kernel::sign_many(Backend::best(), &items, &mut made);
    let public = openssl::Key::public(key.public_key());
    for ((digest, nonce), signature) in inputs.iter().zip(&made) {
        let Some(signature) = signature else { continue };
        let is_good = public.as_ref().is_some_and(|key| key.verify(digest, &der(signature)));
        if !is_good {
            let input: [(&str, &[u8]); 3] = [("d", &d), ("digest", digest), ("nonce", nonce)];
            let what = "a signature that OpenSSL refuses".to_owned();
            return Err(Disagreement::new(what, &input));
        }
    }
    counts.add("sm2 sign/openssl", made.iter().flatten().count());
    let k = scalar(numbers);
    let other = Curve::new().and_then(|curve| curve.multiply(&k, key.public_key()));
    if kernel::multiply(Backend::best(), &k, key.public_key()) != other {
        let what = "[k][d]G is not that of OpenSSL".to_owned();
        return Err(Disagreement::new(what, &[("k", &k), ("d", &d)]));
    }
    counts.add("sm2 multiples/openssl", 1);
    Ok(())
}

fn hash(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    let messages = digests::messages(numbers);
    let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let mut digests = vec![[0; 32]; slices.len()];
    hufu_kernels::sm3::digest_many(Backend::best(), &slices, &mut digests);
    for (message, digest) in slices.iter().zip(&digests) {
        if openssl::sm3(message) != *digest {
            let what = "SM3 is not that of OpenSSL".to_owned();
            return Err(Disagreement::new(what, &[("message", message)]));
        }
    }
    counts.add("sm3/openssl", messages.len());
    for (message, digest) in slices.iter().zip(&digests).step_by(8) {
        if Sm3Hash::new(message).get_hash() != *digest {
            let what = "SM3 is not that of libsm".to_owned();
            return Err(Disagreement::new(what, &[("message", message)]));
        }
    }
    counts.add("sm3/libsm", messages.len().div_ceil(8));
    Ok(())
}

fn encrypt(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    for _ in 0..INPUTS {
        let input = Input::new(numbers);
        let key = Sm4Key::new(Backend::best(), &input.key);
        let mut blocks = input.data.as_chunks::<16>().0.to_vec();
        for (mode, encrypts) in
            [(Mode::Ecb, true), (Mode::Ecb, false), (Mode::Cbc, true), (Mode::Cbc, false)]
        {
            let mut theirs = blocks.as_flattened().to_vec();
            Sm4::new(mode, &input.key, &input.vector, encrypts).run(&mut theirs);
            let mut chain = input.vector;
            match (mode, encrypts) {
                (Mode::Ecb, true) => key.encrypt_blocks(&mut blocks),
                (Mode::Ecb, false) => key.decrypt_blocks(&mut blocks),
                (_, true) => key.cbc_encrypt(&mut chain, &mut blocks),
                (_, false) => key.cbc_decrypt(&mut chain, &mut blocks),
            }
            same(&input, blocks.as_flattened(), &theirs, &format!("{mode:?} {encrypts}"))?;
            counts.add("sm4/openssl", 1);
        }
        let (mut ours, mut theirs) = (input.data.clone(), input.data.clone());
        key.ctr(&input.vector, &mut ours);
        Sm4::new(Mode::Ctr, &input.key, &input.vector, true).run(&mut theirs);
        same(&input, &ours, &theirs, "Ctr")?;
        counts.add("sm4/openssl", 1);
    }
    Ok(())
}

fn same(input: &Input, ours: &[u8], theirs: &[u8], mode: &str) -> Result<(), Disagreement> {
    if ours == theirs {
        return Ok(());
    }
    let parts: [(&str, &[u8]); 3] =
        [("key", &input.key), ("vector", &input.vector), ("data", &input.data)];
    Err(Disagreement::new(format!("SM4 {mode} is not that of OpenSSL"), &parts))
}
