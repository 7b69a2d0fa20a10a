//! The standard's example, nonces that must be refused, and the ends of every range.

use super::super::field::sub_limbs;
use super::super::verify::N;
use super::super::{
    Item, Verdict, add_points, decompress_many, multiply, multiply_base, scalar_multiply_add,
    sign_many, verify_many,
};
use super::*;
use crate::numbers::Numbers;

/// GB/T 32918.5-2017 A.2.
const SECRET: &str = "3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8";
const PUBLIC: &str = "09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020\
                      ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13";
const DIGEST: &str = "f0b43e94ba45accaace692ed534382eb17e6ab5a19ce7b31f4486fdfc0d28640";
const NONCE: &str = "59276e27d506861a16680f3ad9c02dccef3cc1fa3cdbe4ce6d54b80deac1bc21";
const SIGNATURE: &str = "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3\
                         b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa";

fn hex<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    core::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
}

fn number(value: u64) -> [u8; 32] {
    super::super::field::bytes(&[value, 0, 0, 0])
}

/// n - value.
fn below_n(value: u64) -> [u8; 32] {
    super::super::field::bytes(&sub_limbs(&N, &[value, 0, 0, 0]).0)
}

/// -a mod n.
fn negative(a: &[u8; 32]) -> [u8; 32] {
    scalar_multiply_add(&below_n(1), a, &[0; 32]).unwrap()
}

fn sum(a: &[u8; 32], b: &[u8; 32]) -> [u8; 32] {
    scalar_multiply_add(&number(1), a, b).unwrap()
}

fn key(d: &[u8; 32]) -> PrivateKey {
    PrivateKey::new(Backend::PORTABLE, d).unwrap()
}

/// Every back end this CPU has.
fn backends() -> impl Iterator<Item = Backend> {
    [Some(Backend::PORTABLE), Backend::avx2(), Backend::avx512()].into_iter().flatten()
}

/// What all back ends make of the item, alone and in every lane among good ones; they must agree.
fn sign(key: &PrivateKey, digest: &[u8; 32], nonce: &[u8; 32]) -> Option<[u8; 64]> {
    let item = SignItem { key, digest, nonce };
    let mut signature = [None];
    sign_many(Backend::PORTABLE, &[item], &mut signature);
    let [expected] = signature;
    let (good, digest, nonce) = (self::key(&hex(SECRET)), hex(DIGEST), hex(NONCE));
    let good = SignItem { key: &good, digest: &digest, nonce: &nonce };
    for backend in backends() {
        // Each number of lanes that is worked on apart.
        for (size, lane) in
            [3, 9, 20, 64].into_iter().flat_map(|size| (0..size).map(move |lane| (size, lane)))
        {
            let mut items = vec![good; size];
            items[lane] = item;
            let mut signatures = vec![None; size];
            sign_many(backend, &items, &mut signatures);
            for (place, signature) in signatures.into_iter().enumerate() {
                let expected = if place == lane { expected } else { Some(hex(SIGNATURE)) };
                assert_eq!(signature, expected, "{} {place}: {lane} of {size}", backend.name());
            }
        }
    }
    expected
}

#[test]
fn the_example_of_the_standard_comes_out() {
    let key = key(&hex(SECRET));
    assert_eq!(*key.public_key(), hex(PUBLIC));
    assert_eq!(sign(&key, &hex(DIGEST), &hex(NONCE)), Some(hex(SIGNATURE)));
}

#[test]
fn private_keys_are_in_their_range() {
    for bad in [number(0), below_n(1), below_n(0), [0xff; 32]] {
        assert!(PrivateKey::new(Backend::PORTABLE, &bad).is_none(), "{bad:x?}");
    }
    for good in [number(1), number(2), below_n(2), below_n(3)] {
        let key = key(&good);
        let signature = sign(&key, &hex(DIGEST), &hex(NONCE)).unwrap();
        let digest = hex(DIGEST);
        let item =
            Item { key: key.public_key(), digest: &digest, signature: &signature, table: None };
        let mut verdicts = [Verdict::KeyInvalid];
        verify_many(Backend::PORTABLE, &[item], &mut verdicts);
        assert_eq!(verdicts, [Verdict::Valid]);
    }
}

#[test]
fn nonces_out_of_range_are_refused() {
    let key = key(&hex(SECRET));
    for bad in [number(0), below_n(0), [0xff; 32]] {
        assert_eq!(sign(&key, &hex(DIGEST), &bad), None, "{bad:x?}");
    }
    for good in [number(1), below_n(1)] {
        assert!(sign(&key, &hex(DIGEST), &good).is_some(), "{good:x?}");
    }
}

/// With four digits of six bits in a low part and all others in a high part, the two are equal for
/// k = n - 2 * (n mod 2^24), which the opposite of this nonce is; only the portable code tells that
/// apart.
#[test]
fn a_nonce_for_which_the_last_sum_is_a_double_is_signed() {
    let key = key(&hex(SECRET));
    for nonce in [number(2 * 0x00d5_4123), below_n(2 * 0x00d5_4123)] {
        let signature = sign(&key, &hex(DIGEST), &nonce).unwrap();
        assert_eq!(signature[..32], sum(&hex(DIGEST), &x_of(&nonce)));
    }
}

/// x of [k]G, for a k whose x is below n.
fn x_of(nonce: &[u8; 32]) -> [u8; 32] {
    multiply_base(Backend::PORTABLE, nonce).unwrap()[..32].try_into().unwrap()
}

/// The digest for which the nonce gives this r.
fn digest_for(r: &[u8; 32], nonce: &[u8; 32]) -> [u8; 32] {
    sum(r, &negative(&x_of(nonce)))
}

#[test]
fn an_r_of_zero_is_refused() {
    let (key, nonce) = (key(&hex(SECRET)), hex(NONCE));
    assert_eq!(sign(&key, &digest_for(&number(0), &nonce), &nonce), None);
    for r in [number(1), below_n(1)] {
        let signature = sign(&key, &digest_for(&r, &nonce), &nonce).unwrap();
        assert_eq!(signature[..32], r);
    }
}

#[test]
fn an_r_that_is_the_negative_nonce_is_refused() {
    let (key, nonce) = (key(&hex(SECRET)), hex(NONCE));
    let r = negative(&nonce);
    assert_eq!(sign(&key, &digest_for(&r, &nonce), &nonce), None);
    assert!(sign(&key, &digest_for(&sum(&r, &number(1)), &nonce), &nonce).is_some());
}

/// s = 0 when k = r * d.
#[test]
fn an_s_of_zero_is_refused() {
    let (key, r) = (key(&hex(SECRET)), hex::<32>(DIGEST));
    let nonce = scalar_multiply_add(&r, &hex(SECRET), &[0; 32]).unwrap();
    assert_eq!(sign(&key, &digest_for(&r, &nonce), &nonce), None);
    assert!(sign(&key, &digest_for(&sum(&r, &number(1)), &nonce), &nonce).is_some());
}

/// Scalars whose digits are at their ends, and those for which the last addition meets equal points
/// (`multiply.rs` says which).
fn edges() -> Vec<[u8; 32]> {
    let mut edges: Vec<[u8; 32]> = (1..=140).flat_map(|k| [number(k), below_n(k)]).collect();
    for bit in 1..256 {
        let mut power = [0; 4];
        power[bit / 64] = 1 << (bit % 64);
        let (ones, _) = sub_limbs(&power, &[1, 0, 0, 0]);
        let (complement, _) = sub_limbs(&N, &power);
        for limbs in [power, ones, complement] {
            if sub_limbs(&limbs, &N).1 {
                edges.push(super::super::field::bytes(&limbs));
            }
        }
    }
    edges
}

/// [k]G from the table of G and as a multiple of any point, whose exceptional k differ, and one
/// more G by an addition that tells all cases apart.
#[test]
fn multiples_of_edges_agree_with_additions() {
    let one = multiply_base(Backend::PORTABLE, &number(1)).unwrap();
    let mut scalars = edges();
    let mut numbers = Numbers(4);
    scalars.extend((0..200).map(|_| {
        let bytes: [u8; 32] = numbers.bytes(32).try_into().unwrap();
        Scalar::reduce(&bytes).to_bytes()
    }));
    for scalar in scalars {
        let base = multiply_base(Backend::PORTABLE, &scalar).unwrap();
        assert_eq!(multiply(Backend::PORTABLE, &scalar, &one), Some(base), "{scalar:x?}");
        if let Some(next) = multiply_base(Backend::PORTABLE, &sum(&scalar, &number(1))) {
            assert_eq!(add_points(&base, &one), Some(next), "{scalar:x?}");
        } else {
            assert_eq!(scalar, below_n(1), "only -G + G is nothing");
            assert_eq!(add_points(&base, &one), None);
        }
    }
}

#[test]
fn what_is_no_scalar_or_no_point_has_no_multiple() {
    let point = hex(PUBLIC);
    for bad in [number(0), below_n(0), [0xff; 32]] {
        assert_eq!(multiply(Backend::PORTABLE, &bad, &point), None);
        assert_eq!(multiply_base(Backend::PORTABLE, &bad), None);
    }
    let mut off = point;
    off[63] ^= 1;
    for bad in [off, [0; 64], [0xff; 64]] {
        assert_eq!(multiply(Backend::PORTABLE, &number(3), &bad), None);
        assert_eq!(add_points(&bad, &point), None);
        assert_eq!(add_points(&point, &bad), None);
    }
    let sum = scalar_multiply_add(&number(2), &number(3), &below_n(1));
    assert_eq!(sum, Some(number(5)));
    for place in 0..3 {
        let mut numbers = [number(1); 3];
        numbers[place] = below_n(0);
        assert_eq!(scalar_multiply_add(&numbers[0], &numbers[1], &numbers[2]), None);
    }
}

#[test]
fn points_are_found_by_their_x() {
    let mut xs = Vec::new();
    let mut expected = Vec::new();
    for k in 1..40 {
        let point = multiply_base(Backend::PORTABLE, &number(k)).unwrap();
        let opposite = multiply_base(Backend::PORTABLE, &below_n(k)).unwrap();
        let x: [u8; 32] = point[..32].try_into().unwrap();
        let is_odd = point[63] & 1 == 1;
        xs.extend([(x, is_odd), (x, !is_odd)]);
        expected.extend([Some(point), Some(opposite)]);
    }
    // x = p + 1 is no coordinate though 1 is one; 2^256 - 1 neither.
    let beyond = hex("fffffffeffffffffffffffffffffffffffffffff000000010000000000000000");
    xs.extend([(beyond, false), ([0xff; 32], true)]);
    expected.extend([None, None]);
    for backend in backends() {
        let items: Vec<(&[u8; 32], bool)> = xs.iter().map(|(x, is_odd)| (x, *is_odd)).collect();
        let mut points = vec![None; items.len()];
        decompress_many(backend, &items, &mut points);
        assert_eq!(points, expected);
    }
    // Half of all x have no point, beside those that have one in the lanes too; a found one is on
    // the curve and has the x.
    let numbers: Vec<[u8; 32]> = (0..100).map(number).collect();
    let items: Vec<(&[u8; 32], bool)> = numbers.iter().map(|x| (x, true)).collect();
    let mut none_count = 0;
    for backend in backends() {
        let mut points = vec![None; items.len()];
        decompress_many(backend, &items, &mut points);
        for (point, x) in points.iter().zip(&numbers) {
            let Some(point) = point else { continue };
            assert!(super::super::is_on_curve(point), "{}", backend.name());
            assert_eq!((&point[..32], point[63] & 1), (&x[..], 1));
        }
        none_count = points.iter().filter(|point| point.is_none()).count();
    }
    assert!((25..75).contains(&none_count), "{none_count} of 100");
}

/// a * b mod n by doubling and adding.
fn product(a: &Scalar, b: &Scalar) -> Scalar {
    let mut sum = Scalar::ZERO;
    for bit in (0..256).rev() {
        sum = sum.add(&sum);
        if b.limbs()[bit / 64] >> (bit % 64) & 1 == 1 {
            sum = sum.add(a);
        }
    }
    sum
}

#[test]
fn scalars_agree_with_long_arithmetic() {
    let mut numbers = Numbers(2);
    let edges = [number(0), number(1), number(u64::MAX), below_n(1), below_n(2), below_n(0)];
    let mut scalars: Vec<Scalar> = edges.iter().map(Scalar::reduce).collect();
    for _ in 0..60 {
        let limbs = core::array::from_fn(|_| match numbers.next() % 4 {
            0 => 0,
            1 => u64::MAX,
            _ => numbers.next(),
        });
        scalars.push(Scalar::reduce_limbs(limbs));
    }
    for a in &scalars {
        assert!(sub_limbs(a.limbs(), &N).1, "reduced");
        assert_eq!(a.add(&a.negate()).limbs(), &[0; 4]);
        for b in &scalars {
            assert_eq!(a.mul(b).limbs(), product(a, b).limbs());
            assert_eq!(a.add(b).sub(b).limbs(), a.limbs());
        }
        let form = a.to_montgomery();
        let one = form.invert_montgomery().montgomery(a);
        let expected = if a.is_zero() == 1 { Scalar::ZERO } else { Scalar::ONE };
        assert_eq!(one.limbs(), expected.limbs());
    }
}
