//! SM2 on every back end against portable, and portable against RustCrypto's `sm2`, which shares no
//! line with it.

use hufu_kernels::Backend;
use hufu_kernels::sm2 as kernel;
use hufu_kernels::sm2::{Item, KeyTable, PrivateKey, SignItem, Verdict};
use sm2::dsa::signature::hazmat::PrehashVerifier as _;
use sm2::dsa::{Signature, VerifyingKey};
use sm2::elliptic_curve::point::{AffineCoordinates as _, DecompressPoint as _};
use sm2::elliptic_curve::sec1::ToSec1Point as _;
use sm2::elliptic_curve::{Group as _, PrimeField as _};
use sm2::{AffinePoint, ProjectivePoint, Scalar};

use crate::cases::{bytes, digest, reduced, scalar};
use crate::{Case, Cases, Counts, Disagreement, Numbers, backends};

/// Cases of a round.
const CASES: usize = 256;

/// One of so many cases is judged by RustCrypto.
const RUSTCRYPTO_STEP: usize = 3;

/// Signatures of a round.
const SIGNATURES: usize = 130;

/// Multiples of points of a round, and points by their x that RustCrypto finds too.
const MULTIPLES: usize = 12;

/// Points by their x of a round at most.
const POINTS: usize = 60;

/// Verdicts on cases in groups of unequal sizes, with the tables that are given.
fn judge(
    backend: Backend,
    cases: &[&Case],
    tables: &[Option<&KeyTable>],
    numbers: &mut Numbers,
) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::KeyInvalid; cases.len()];
    let mut start = 0;
    while start < cases.len() {
        let end = cases.len().min(start + 1 + numbers.below(40));
        let items: Vec<Item<'_>> = (start..end)
            .map(|place| {
                let Case { key, digest, signature, .. } = cases[place];
                Item { key, digest, signature, table: tables[place] }
            })
            .collect();
        kernel::verify_many(backend, &items, &mut verdicts[start..end]);
        start = end;
    }
    verdicts
}

/// What the portable code says of each case without a table.
#[must_use]
pub fn portable(cases: &[Case]) -> Vec<Verdict> {
    let refs: Vec<&Case> = cases.iter().collect();
    let none = vec![None; cases.len()];
    judge(Backend::PORTABLE, &refs, &none, &mut Numbers::of_round(0))
}

/// Portable verdicts against what cases were made to be.
///
/// # Errors
/// The first case that is judged otherwise.
pub fn against_expectation(cases: &[Case], counts: &mut Counts) -> Result<(), Disagreement> {
    for (case, verdict) in cases.iter().zip(portable(cases)) {
        if case.expected.is_some_and(|expected| expected != (verdict == Verdict::Valid)) {
            let what = format!("{}: made to be {:?}, is {verdict:?}", case.kind, case.expected);
            return Err(Disagreement::new(what, &case.parts()));
        }
    }
    counts.add("sm2 verify/construction", cases.len());
    Ok(())
}

/// Verification: every back end, with tables of keys and without, in any order and company.
///
/// # Errors
/// The first disagreement.
pub fn verify(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    let cases: Vec<Case> = Cases::new(Numbers::of_round(numbers.next())).take(CASES).collect();
    against_expectation(&cases, counts)?;
    let expected = portable(&cases);
    // It takes longer than all others together.
    let skipped = numbers.below(RUSTCRYPTO_STEP);
    for (case, verdict) in cases.iter().zip(&expected).skip(skipped).step_by(RUSTCRYPTO_STEP) {
        against_rustcrypto(case, *verdict)?;
        counts.add("sm2 verify/rustcrypto", 1);
    }
    for backend in backends() {
        // AVX2 has no SM2 of its own: a few cases show that it takes the portable code.
        let own = backend.name() != "avx2";
        let taken = if own { cases.len() } else { 8 };
        let tables = tables(backend, &cases[..taken]);
        for has_tables in [0, 1, 2] {
            if !own && has_tables != 1 || backend == Backend::PORTABLE && has_tables == 0 {
                continue;
            }
            let mut order: Vec<usize> = (0..taken).collect();
            numbers.shuffle(&mut order);
            let shuffled: Vec<&Case> = order.iter().map(|place| &cases[*place]).collect();
            let chosen: Vec<Option<&KeyTable>> = shuffled
                .iter()
                .map(|case| {
                    let table = tables.iter().find(|table| table.is_of(backend, &case.key));
                    table.filter(|_| has_tables == 2 || has_tables == 1 && numbers.once_in(2))
                })
                .map(|table| table.map(AsRef::as_ref))
                .collect();
            let verdicts = judge(backend, &shuffled, &chosen, numbers);
            for ((place, verdict), table) in order.iter().zip(verdicts).zip(&chosen) {
                let (case, expected) = (&cases[*place], expected[*place]);
                if verdict != expected {
                    let with = if table.is_some() { "with" } else { "without" };
                    let (name, kind) = (backend.name(), case.kind);
                    let what =
                        format!("{kind}: {name} {with} a table {verdict:?}, portable {expected:?}");
                    return Err(Disagreement::new(what, &case.parts()));
                }
            }
            let name = if backend == Backend::PORTABLE { "its tables" } else { "portable" };
            counts.add(&format!("sm2 verify/{name}"), taken);
        }
    }
    Ok(())
}

/// A table for each key of the cases that is one.
fn tables(backend: Backend, cases: &[Case]) -> Vec<Box<KeyTable>> {
    let mut keys: Vec<&[u8; 64]> = cases.iter().map(|case| &case.key).collect();
    keys.sort_unstable();
    // Tables are for keys that come again, which is what most of the pool's do.
    let mut repeated: Vec<&[u8; 64]> =
        keys.windows(4).filter(|keys| keys[0] == keys[3]).map(|keys| keys[0]).collect();
    repeated.dedup();
    let mut tables: Vec<Box<KeyTable>> =
        repeated.iter().map(|_| Box::new(KeyTable::empty())).collect();
    let mut places: Vec<&mut KeyTable> = tables.iter_mut().map(AsMut::as_mut).collect();
    kernel::tables_many(backend, &repeated, &mut places);
    tables
}

/// What RustCrypto says of a case.
#[must_use]
pub fn rustcrypto(case: &Case) -> Verdict {
    let sec1 = [&[4], case.key.as_slice()].concat();
    let Ok(key) = VerifyingKey::from_sec1_bytes("1234567812345678", &sec1) else {
        return Verdict::KeyInvalid;
    };
    let signature = Signature::from_slice(&case.signature);
    let is_valid =
        signature.is_ok_and(|signature| key.verify_prehash(&case.digest, &signature).is_ok());
    if is_valid { Verdict::Valid } else { Verdict::SignatureInvalid }
}

fn against_rustcrypto(case: &Case, verdict: Verdict) -> Result<(), Disagreement> {
    let other = rustcrypto(case);
    if other == verdict {
        return Ok(());
    }
    let what = format!("{}: portable {verdict:?}, RustCrypto {other:?}", case.kind);
    Err(Disagreement::new(what, &case.parts()))
}

/// s = (1 + d)^-1 (k - r d) and r = e + x of [k]G, by RustCrypto; nothing where k cannot be used.
fn other_signature(d: &[u8; 32], e: &[u8; 32], k: &[u8; 32]) -> Option<[u8; 64]> {
    let [d, k] = [d, k].map(|bytes| Option::<Scalar>::from(Scalar::from_repr((*bytes).into())));
    let (d, k) = (d?, k.filter(|k| !bool::from(k.is_zero()))?);
    let x: [u8; 32] = (ProjectivePoint::generator() * k).to_affine().x().into();
    let r = reduced(e) + reduced(&x);
    let s = (Scalar::ONE + d).invert().unwrap() * (k - r * d);
    let is_none = r.is_zero() | (r + k).is_zero() | s.is_zero();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&bytes(&r));
    signature[32..].copy_from_slice(&bytes(&s));
    (!bool::from(is_none)).then_some(signature)
}

/// Signing: the same key, digest and nonce make the same signature everywhere.
///
/// # Errors
/// The first disagreement.
pub fn sign(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    let secrets: Vec<[u8; 32]> = (0..8).map(|_| private(numbers)).collect();
    let made: Vec<(usize, [u8; 32], [u8; 32])> = (0..SIGNATURES)
        .map(|_| (numbers.below(secrets.len()), digest(numbers), nonce(numbers)))
        .collect();
    let mut expected = vec![None; made.len()];
    for (place, backend) in backends().into_iter().enumerate() {
        let keys: Vec<PrivateKey> =
            secrets.iter().map(|secret| PrivateKey::new(backend, secret).unwrap()).collect();
        let items: Vec<SignItem<'_>> = made
            .iter()
            .map(|(key, digest, nonce)| SignItem { key: &keys[*key], digest, nonce })
            .collect();
        let mut signatures = vec![None; items.len()];
        let mut start = 0;
        while start < items.len() {
            let end = items.len().min(start + 1 + numbers.below(80));
            kernel::sign_many(backend, &items[start..end], &mut signatures[start..end]);
            start = end;
        }
        let with = if place == 0 {
            // Some of what portable makes, by another library.
            for ((key, digest, nonce), expected) in made.iter().zip(&mut expected).step_by(8) {
                *expected = other_signature(&secrets[*key], digest, nonce);
            }
            "rustcrypto"
        } else {
            "portable"
        };
        let step = if place == 0 { 8 } else { 1 };
        for (((key, digest, nonce), expected), signature) in
            made.iter().zip(&expected).zip(&signatures).step_by(step)
        {
            if expected != signature {
                let what = format!("signature by {}, not that of {with}", backend.name());
                let input: [(&str, &[u8]); 3] =
                    [("d", &secrets[*key]), ("digest", digest), ("nonce", nonce)];
                return Err(Disagreement::new(what, &input));
            }
        }
        // AVX2 has no SM2 of its own.
        if backend.name() != "avx2" {
            counts.add(&format!("sm2 sign/{with}"), made.len().div_ceil(step));
        }
        if place == 0 {
            expected = signatures;
        }
    }
    Ok(())
}

/// A private key: 1..=n-2.
fn private(numbers: &mut Numbers) -> [u8; 32] {
    let d = scalar(numbers);
    if d == -Scalar::ONE { bytes(&Scalar::ONE) } else { bytes(&d) }
}

/// A nonce, sometimes one that cannot be used, or one that lanes do not tell apart.
fn nonce(numbers: &mut Numbers) -> [u8; 32] {
    match numbers.below(16) {
        0 => [0; 32],
        1 => crate::cases::ORDER,
        2 => [0xff; 32],
        // 2 (n mod 2^(6 i)) and its opposite: where sums of digits of six bits meet themselves.
        3 => {
            let bits = 6 * (1 + numbers.below(42));
            let mut low = crate::cases::ORDER;
            for (place, byte) in low.iter_mut().rev().enumerate() {
                let kept = bits.saturating_sub(8 * place).min(8);
                *byte &= ((1_u16 << kept) - 1) as u8;
            }
            let k = reduced(&low) + reduced(&low);
            bytes(&if numbers.once_in(2) { -k } else { k })
        }
        _ => bytes(&scalar(numbers)),
    }
}

/// Multiples against RustCrypto, in code that all back ends share; and points by their x.
///
/// # Errors
/// The first disagreement.
pub fn multiply(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    for _ in 0..MULTIPLES {
        let (k, d) = (scalar(numbers), scalar(numbers));
        let backend = *numbers.one_of(&backends());
        let generator = ProjectivePoint::generator();
        let wanted = [generator * d, generator * d * k].map(|point| {
            let point = point.to_affine().to_sec1_point(false);
            <[u8; 64]>::try_from(&point.as_bytes()[1..]).unwrap()
        });
        let base = kernel::multiply_base(backend, &bytes(&d));
        let found = base.and_then(|base| kernel::multiply(backend, &bytes(&k), &base));
        if [base, found] != wanted.map(Some) {
            let what = format!("[k][d]G by {}, not that of RustCrypto", backend.name());
            return Err(Disagreement::new(what, &[("k", &bytes(&k)), ("d", &bytes(&d))]));
        }
    }
    counts.add("sm2 multiples/rustcrypto", 2 * MULTIPLES);
    decompress(numbers, counts)
}

/// Points by their x, many at once on every back end.
fn decompress(numbers: &mut Numbers, counts: &mut Counts) -> Result<(), Disagreement> {
    let made: Vec<([u8; 32], bool)> = (0..1 + numbers.below(POINTS))
        .map(|_| {
            let x = if numbers.once_in(2) { numbers.edged() } else { numbers.array() };
            (x, numbers.once_in(2))
        })
        .collect();
    let items: Vec<(&[u8; 32], bool)> = made.iter().map(|(x, is_odd)| (x, *is_odd)).collect();
    let mut expected = vec![None; items.len()];
    kernel::decompress_many(Backend::PORTABLE, &items, &mut expected);
    for ((x, is_odd), found) in items.iter().zip(&expected).take(MULTIPLES) {
        let other = AffinePoint::decompress(&(**x).into(), sm2_choice(*is_odd));
        let other = Option::<AffinePoint>::from(other).map(|point| {
            let point = point.to_sec1_point(false);
            <[u8; 64]>::try_from(&point.as_bytes()[1..]).unwrap()
        });
        if *found != other {
            let what = format!("point with this x, odd {is_odd}, is not that of RustCrypto");
            return Err(Disagreement::new(what, &[("x", *x)]));
        }
    }
    counts.add("sm2 points by x/rustcrypto", items.len().min(MULTIPLES));
    for backend in backends().into_iter().skip(1) {
        let mut points = vec![None; items.len()];
        kernel::decompress_many(backend, &items, &mut points);
        for ((x, is_odd), (point, expected)) in items.iter().zip(points.iter().zip(&expected)) {
            if point != expected {
                let name = backend.name();
                let what = format!("point with this x, odd {is_odd}, by {name}, not portable");
                return Err(Disagreement::new(what, &[("x", *x)]));
            }
        }
        // AVX2 has no SM2 of its own.
        if backend.name() != "avx2" {
            counts.add("sm2 points by x/portable", items.len());
        }
    }
    Ok(())
}

fn sm2_choice(is_odd: bool) -> sm2::elliptic_curve::subtle::Choice {
    u8::from(is_odd).into()
}
