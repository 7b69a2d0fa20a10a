//! What the kernels do with private scalars, against RustCrypto's `sm2`, which shares no line with
//! them; on every back end.

use hufu_kernels::sm2::{self as kernel, PrivateKey, SignItem};

use super::*;

fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

fn point(key: &[u8; 64]) -> ProjectivePoint {
    let odd = Choice::from(key[63] & 1);
    let x: [u8; 32] = key[..32].try_into().unwrap();
    AffinePoint::decompress(&x.into(), odd).unwrap().into()
}

/// Edges of scalars, and what looks random.
fn scalars() -> Vec<[u8; 32]> {
    let mut all = Vec::new();
    for small in 1..=80_u64 {
        all.extend([Scalar::from(small), -Scalar::from(small)]);
    }
    let two = Scalar::from(2_u64);
    let mut power = Scalar::ONE;
    for _ in 0..255 {
        power *= two;
        all.extend([power, power - Scalar::ONE, -power, Scalar::ONE - power]);
    }
    // Runs of ones and zeros of every length that divides 256.
    for run in [1, 2, 4, 5, 6, 7, 8, 16, 32, 64] {
        let mut bits = [0_u8; 32];
        for bit in (0..255).filter(|bit| bit / run % 2 == 0) {
            bits[31 - bit / 8] |= 1 << (bit % 8);
        }
        all.extend([scalar(&bits), -scalar(&bits)]);
    }
    let mut random = Sm3::of(&[b"scalars"]);
    for _ in 0..64 {
        random = Sm3::of(&[&random.0]);
        random.0[0] &= 0x7f;
        all.push(scalar(&random.0));
    }
    all.retain(|scalar| !bool::from(scalar.is_zero()));
    all.into_iter().map(bytes).collect()
}

#[test]
fn multiples_are_those_of_another_library() {
    let other = point(&EXAMPLE_KEY.0);
    for scalar_bytes in scalars() {
        let scalar = scalar(&scalar_bytes);
        let of_base = key_of(ProjectivePoint::generator() * scalar);
        let of_other = key_of(other * scalar);
        for backend in backends() {
            let base = kernel::multiply_base(backend, &scalar_bytes);
            assert_eq!(base, Some(of_base.0), "{}", Digest(scalar_bytes));
            let multiple = kernel::multiply(backend, &scalar_bytes, &EXAMPLE_KEY.0);
            assert_eq!(multiple, Some(of_other.0), "{}", Digest(scalar_bytes));
        }
        let product = kernel::scalar_multiply_add(&scalar_bytes, &EXAMPLE_SECRET, &scalar_bytes);
        assert_eq!(product, Some(bytes(scalar * super::scalar(&EXAMPLE_SECRET) + scalar)));
    }
}

/// s = (1 + d)^-1 (k - r d) and r = e + x of [k]G, by another library.
fn oracle(d: &[u8; 32], digest: &[u8; 32], nonce: &[u8; 32]) -> Option<[u8; 64]> {
    let reduce = |bytes: &[u8; 32]| {
        // 2^256 is less than 2n.
        Option::<Scalar>::from(Scalar::from_repr((*bytes).into())).unwrap_or_else(|| {
            let mut less = *bytes;
            let mut borrow = 0;
            for (byte, order) in less.iter_mut().zip(ORDER).rev() {
                let (first, under) = byte.overflowing_sub(order);
                let (second, again) = first.overflowing_sub(borrow);
                (*byte, borrow) = (second, u8::from(under | again));
            }
            scalar(&less)
        })
    };
    let (d, k) = (scalar(d), scalar(nonce));
    let x: [u8; 32] = (ProjectivePoint::generator() * k).to_affine().x().into();
    let r = reduce(digest) + reduce(&x);
    let s = (Scalar::ONE + d).invert().unwrap() * (k - r * d);
    let is_none = r.is_zero() | (r + k).is_zero() | s.is_zero();
    (!bool::from(is_none)).then(|| joined(bytes(r), bytes(s)).0)
}

#[test]
fn signatures_are_those_of_another_library() {
    let mut secrets = scalars();
    secrets.retain(|secret| *secret != minus_one(ORDER));
    let nonces = scalars();
    for backend in backends() {
        let keys: Vec<PrivateKey> =
            secrets.iter().map(|secret| PrivateKey::new(backend, secret).unwrap()).collect();
        let made: Vec<(usize, [u8; 32], usize)> = (0..300_usize)
            .map(|number| {
                let digest = match number % 5 {
                    0 => [0xff; 32],
                    1 => ORDER,
                    _ => Sm3::of(&[&number.to_le_bytes()]).0,
                };
                (number * 7 % keys.len(), digest, number * 11 % nonces.len())
            })
            .collect();
        let items = made.iter().map(|(key, digest, nonce)| SignItem {
            key: &keys[*key],
            digest,
            nonce: &nonces[*nonce],
        });
        let items: Vec<SignItem<'_>> = items.collect();
        for size in [1, 2, 7, 8, 9, 16, 17, 64, 65, 300] {
            let mut signatures = vec![None; size];
            kernel::sign_many(backend, &items[..size], &mut signatures);
            for ((key, digest, nonce), signature) in made.iter().zip(&signatures) {
                let expected = oracle(&secrets[*key], digest, &nonces[*nonce]);
                assert_eq!(*signature, expected, "{}", backend.name());
            }
        }
    }
}

#[test]
fn many_are_signed_at_once_and_each_is_good() {
    let secrets = [[7; 32], [8; 32], [9; 32]];
    let digests: Vec<Digest> = (0..150_u8).map(|number| Sm3::of(&[&[number]])).collect();
    for backend in backends() {
        let signers =
            secrets.map(|secret| SoftwareSigner::from_bytes(&secret).unwrap().on(backend));
        let items: Vec<(&SoftwareSigner, Digest)> =
            digests.iter().enumerate().map(|(at, digest)| (&signers[at % 3], *digest)).collect();
        let mut signatures = vec![Signature([0; 64]); items.len()];
        SoftwareSigner::sign_many_unverified(&items, &mut signatures).unwrap();
        for ((signer, digest), signature) in items.iter().zip(&signatures) {
            assert_eq!(judge(signer.public_key(), *digest, signature), Verdict::Valid);
        }
        signers[0].sign_many(&digests, &mut signatures).unwrap();
        for (digest, signature) in digests.iter().zip(&signatures) {
            assert_eq!(judge(signers[0].public_key(), *digest, signature), Verdict::Valid);
        }
        signers[0].sign_many(&[], &mut []).unwrap();
    }
}

#[test]
fn points_are_found_by_their_x_as_another_library_finds_them() {
    let xs: Vec<Digest> = (0..100_u8).map(|number| Sm3::of(&[&[number]])).collect();
    let items: Vec<(&[u8; 32], bool)> =
        xs.iter().enumerate().map(|(at, x)| (&x.0, at % 2 == 1)).collect();
    for backend in backends() {
        let mut points = vec![None; items.len()];
        kernel::decompress_many(backend, &items, &mut points);
        for ((x, is_odd), point) in items.iter().zip(points) {
            let odd = Choice::from(u8::from(*is_odd));
            let expected = AffinePoint::decompress(&(**x).into(), odd);
            let expected =
                Option::<AffinePoint>::from(expected).map(|point| key_of(point.into()).0);
            assert_eq!(point, expected);
        }
    }
}
